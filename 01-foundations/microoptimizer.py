"""An optimiser rescales the gradient, and which one wins depends on how the problem is stretched.

A gradient says, for each weight of a model (each number that is trained), which way the loss falls
and how steeply. It does not say how far to go. Plain gradient descent (SGD) uses one step size for
all weights. That is slow when the loss is steep in some directions and flat in others: the steep
ones set the largest step that is safe, and the flat ones then hardly move. Better optimisers first
rescale the gradient. A rescaling is called a preconditioner. RMSProp and Adam have one factor for
each weight. Muon makes the update about equally large in all directions of a weight matrix.
Newton's method has a full matrix, and needs one step where the loss is quadratic.

All three experiments are small real problems whose best possible loss is known exactly. So we can
print the gap: how much of the avoidable loss is left. A comparison at one shared learning rate
compares nothing. So every optimiser gets its own range of rates, once constant and once falling.
Adam is two ideas in one. Compare neither (SGD), momentum alone, factors alone (RMSProp) and both:
1. a table of letters, where some pairs of letters are rare: there the factors are what is needed;
2. a linear map between pixels, and the same map after the pixels were rotated. This changes
   nothing but the axes. The factors alone are then worth nothing, and Adam falls behind momentum;
3. small random batches, where noise decides: momentum does not help, a falling rate does.

In the code    In the papers    Meaning                                             Shape
w              theta, W         the weights                                         [rows][columns]
grad, g        g, G             gradient of the loss                                as w
lr, rate       eta, alpha       learning rate, or step size                         a number
mean           m                running mean of the gradient                        as w
square         v                running mean of the squared gradient                as w
curvature      H                second derivatives (Hessian) for one row of w       [31][31]
gap            f(w) - f*        loss minus best loss (tables: share of the first)    a number

Left out: weight decay (AdamW shrinks w apart from Adam's update; in the gradient it would be
divided by the factors too), gradient clipping, a warm-up of the learning rate, and hidden layers.
These problems are convex: no minimum is a poor one. They show how optimisers handle scale and
noise, not how they find their way among the minima of a deep network.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and is kept in results/microoptimizer.json under that key.

Read first: microautograd.
Papers: Polyak, "Some methods of speeding up the convergence of iteration methods", 1964
(momentum). Hinton, "Neural Networks for Machine Learning", lecture 6, 2012 (RMSProp). Kingma & Ba,
"Adam: A Method for Stochastic Optimization", 2014, arXiv:1412.6980. Loshchilov & Hutter,
"Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101 (AdamW). Jordan et al., "Muon: An
optimizer for hidden layers in neural networks", 2024, https://kellerjordan.github.io/posts/muon.
Bernstein & Newhouse, "Old Optimizer, New Norm: An Anthology", 2024, arXiv:2409.20325. Kunstner et
al., "Heavy-Tailed Class Imbalance and Why Adam Outperforms Gradient Descent on Language Models",
2024, arXiv:2402.19449. Choi et al., "On Empirical Comparisons of Optimizers for Deep Learning",
2019, arXiv:1910.05446.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
NUM_STEPS = 100  # full-batch steps on the letters and on the pixels
NUM_BATCHES = 400  # steps of the third experiment
BATCH_SIZE = 64  # pairs of letters in each of them
MOMENTUM = 0.9  # the usual value for SGD; Muon's is 0.95
NEWTON_SCHULZ_STEPS = 5  # as in Jordan's post
SHOWN_IMAGE = 8  # the digit that is drawn, an arbitrary one
PRIOR_COUNT = 0.3  # added to each count of the sampled pairs: no probability may be 0
SCHEDULES = ("constant", "falling")  # of the learning rate; falling: in a line to 0

# Learning rates to try, constant and falling, about a factor of 2 apart. The best must not be the
# first or the last of its row: then a better one might lie outside. The run checks this.
RATES = {
    "letters": {
        "SGD": ((35.0, 70.0, 140.0, 280.0), (280.0, 560.0, 1120.0)),
        "momentum": ((40.0, 80.0, 160.0), (40.0, 80.0, 160.0)),
        "RMSProp": ((0.06, 0.12, 0.25), (0.5, 1.0, 2.0, 4.0)),
        "Adam": ((0.12, 0.25, 0.5), (0.12, 0.25, 0.5, 1.0)),
        "Muon": ((0.3, 0.6, 1.2), (0.8, 1.6, 3.2)),
    },
    "pixels": {
        "SGD": ((2.0, 4.0, 8.0), (4.0, 8.0, 16.0)),
        "momentum": ((4.0, 8.0, 16.0), (4.0, 8.0, 16.0)),
        "RMSProp": ((0.0015, 0.003, 0.006, 0.012, 0.025), (0.03, 0.06, 0.12, 0.25, 0.5, 1.0)),
        "Adam": ((0.06, 0.12, 0.25), (0.06, 0.12, 0.25, 0.5)),
        "Muon": ((0.03, 0.06, 0.12), (0.3, 0.6, 1.2)),
    },
    "batches": {
        "SGD": ((4.0, 8.0, 16.0), (16.0, 32.0, 64.0, 128.0)),
        "momentum": ((0.4, 0.8, 1.6), (1.6, 3.2, 6.4)),
        "RMSProp": ((0.015, 0.03, 0.06), (0.03, 0.06, 0.12)),
        "Adam": ((0.015, 0.03, 0.06), (0.03, 0.06, 0.12)),
    },
}

# === ONE STEP SIZE FOR ALL: SGD AND MOMENTUM ===

# Take a loss with two weights, 50 x^2 + 0.5 y^2. The curvature is 100 along x and 1 along y, and
# the gradient is (100 x, y). A step multiplies x by 1 - 100 lr, so above lr = 2/100 x grows: the
# largest safe rate is 2 / (largest curvature). At lr = 0.01 x is solved in one step, but y is
# multiplied by 0.99 and needs about 460 steps for a factor of 100. The ratio of largest to smallest
# curvature, here 100, is the condition number. It decides how long SGD takes.
#
# Momentum adds up past gradients. Along y they agree, and the steps grow up to tenfold; along x
# they alternate and cancel. What it provably does, on quadratic losses, is this: if well tuned, it
# needs a number of steps that grows with the root of the condition number, where SGD's grows with
# the condition number itself. (That it leads out of poor minima is often said, not shown here.)
# A rate of lr with momentum 0.9 moves as far, in the long run, as 10 lr without. With noise the
# best rate is then about ten times smaller, as in the third table. Without noise, a constant rate
# is limited by what is safe: 2 (1 + momentum) / (largest curvature), 1.9 times SGD's. To compare
# both at one shared rate, as is often done, is unfair either way. PyTorch: torch.optim.SGD.


class SGD:
    """Stochastic gradient descent: v <- momentum v + g, then x <- x - lr v."""

    def __init__(self, parameters: list[Tensor], momentum: float = 0.0) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.velocity: list[list[list[float]] | None] = [None] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step of size lr along the gradients, and clear them."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            velocity = self.velocity[index]
            if velocity is None or self.momentum == 0.0:
                velocity = parameter.grad
            else:
                velocity = [
                    [self.momentum * v + g for v, g in zip(v_row, g_row)]
                    for v_row, g_row in zip(velocity, parameter.grad)
                ]
            self.velocity[index] = velocity
            parameter.data = [
                [x - lr * v for x, v in zip(x_row, v_row)]
                for x_row, v_row in zip(parameter.data, velocity)
            ]
            parameter.grad = None


# === ONE FACTOR FOR EACH WEIGHT: RMSPROP AND ADAM ===

# Adam divides each weight's gradient by the recent size of that weight's gradients. In the
# example both x and y then move by about lr in the first step, whatever their curvature: the
# first update is lr times the sign of the gradient. In each step the running means keep beta1 of
# `mean` and beta2 of `square`. Two details:
# - both running means start at 0. Without the correction 1 - beta^t the first update would be
#   (1 - 0.9) / sqrt(1 - 0.999) = 3.2 times too long;
# - eps stands outside of the root, as in the paper and in torch.optim.Adam. It only matters for
#   gradients near 1e-8 or below.
# The mean of the gradient is momentum under another name. With beta1 = 0 it is the last gradient
# alone: factors without momentum. This is RMSProp, here with Adam's bias correction.
#
# The price is memory: two more numbers for each weight. And the factors belong to the axes.
# If the steep and the flat direction lie diagonally, x and y both have a share in each, both have
# gradients of similar size, and there is nothing for a factor per weight to correct. Nor do the
# factors say how large lr must be: that Adam needs no tuning is a common belief, and wrong.
# The usual choice for language models is AdamW with betas 0.9 and 0.95, weight decay 0.1 and
# gradients clipped to length 1.


class Adam:
    """Adam: a step for each parameter, scaled by its own gradient's recent size.

    Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv:1412.6980, algorithm 1.
    Two running means per number, of the gradient and of its square, start at zero; dividing by
    1 - beta^t makes up for that start (bias correction).
    """

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = parameters
        self.betas = betas
        self.eps = eps
        zeros = [[[0.0] * len(p.data[0])] * len(p.data) for p in parameters]
        self.means = list(zeros)
        self.squares = list(zeros)
        self.num_steps = [0] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        beta1, beta2 = self.betas
        for index, parameter in enumerate(self.parameters):
            grad = parameter.grad
            if grad is None:
                continue
            self.num_steps[index] += 1
            mean = self.means[index] = [
                [beta1 * m + (1.0 - beta1) * g for m, g in zip(m_row, g_row)]
                for m_row, g_row in zip(self.means[index], grad)
            ]
            square = self.squares[index] = [
                [beta2 * s + (1.0 - beta2) * g * g for s, g in zip(s_row, g_row)]
                for s_row, g_row in zip(self.squares[index], grad)
            ]
            rate = lr / (1.0 - beta1 ** self.num_steps[index])
            scale = (1.0 - beta2 ** self.num_steps[index]) ** -0.5
            parameter.data = [
                [
                    x - rate * m / (scale * math.sqrt(s) + self.eps)
                    for x, m, s in zip(x_row, m_row, s_row)
                ]
                for x_row, m_row, s_row in zip(parameter.data, mean, square)
            ]
            parameter.grad = None


# === ONE LENGTH FOR ALL DIRECTIONS OF A MATRIX: MUON ===

# Every matrix is a sum of patterns: G = s_1 u_1 v_1^T + s_2 u_2 v_2^T + ..., with orthogonal
# directions u and v and strengths s (the singular value decomposition). Muon sets the strengths to
# about 1 and keeps the directions. No axis is special here: if the inputs are rotated, every v
# rotates along, and so does the update. It is the matrix form of taking a sign: among all steps
# whose strengths are at most 1, this one lowers the loss most, to first order (steepest descent in
# the spectral norm).
#
# An exact decomposition is slow on GPUs. But the polynomial p(s) = 3.4445 s - 4.7750 s^3 +
# 2.0315 s^5, applied five times, takes every s from 0.01 to 1 to between 0.68 and 1.14, and on a
# matrix it needs only products: X X^T X has the strengths s^3 and the same directions.
# For example 0.01 -> 0.034 -> 0.118 -> 0.400 -> 1.09 -> 0.70. Smaller strengths grow at most
# 3.4445^5 = 485 times, so tiny ones stay small.
# This costs 15 matrix products a step, and one running mean for each weight, where Adam keeps two.
# In practice (torch.optim.Muon) it is given to hidden layers only; embeddings and the output layer
# stay with AdamW. The language models Moonlight (arXiv:2502.16982) and Kimi K2 (arXiv:2507.20534)
# were trained so. A careful benchmark (arXiv:2509.02046) puts such optimisers at 1.4 times the
# speed of a tuned AdamW for models of 0.1 billion weights, and at 1.1 times for 1.2 billion.


def newton_schulz(matrix: list[list[float]], num_steps: int) -> list[list[float]]:
    """Set singular values to about 1 (tiny ones stay smaller): [N][M] -> [N][M], near U V^T.

    >>> [[round(x, 2) for x in row] for row in newton_schulz([[5.0, 0.0], [0.0, 0.5]], 5)]
    [[0.7, 0.0], [0.0, 0.71]]
    """
    if len(matrix) > len(matrix[0]):  # the products are smaller if the matrix is wide
        return transpose(newton_schulz(transpose(matrix), num_steps))
    # No singular value is larger than the root of the sum of squares, so now all are at most 1.
    length = math.sqrt(sum([dot(row, row) for row in matrix])) + 1e-12
    x = [[value / length for value in row] for row in matrix]
    for _ in range(num_steps):
        a = [[dot(row, other) for other in x] for row in x]  # X X^T
        a_squared = [[dot(row, other) for other in a] for row in a]  # a is symmetric
        b = combined(-4.7750, a, 2.0315, a_squared)
        x = combined(3.4445, x, 1.0, matmul(b, x))
    return x


class Muon:
    """Momentum, then every direction of the matrix to about the same length.

    As torch.optim.Muon without weight decay: with Nesterov's momentum, where the newest gradient
    counts once more than in the running mean, and with longer steps if a matrix is tall (for
    [32][31], 1.6% longer). No bias correction: a common factor would be scaled away.
    """

    def __init__(self, parameters: list[Tensor], momentum: float = 0.95) -> None:
        self.parameters = parameters
        self.momentum = momentum
        # The rows are one and the same list. That is safe, since no row is changed in place.
        self.means = [[[0.0] * len(p.data[0])] * len(p.data) for p in parameters]

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        keep = self.momentum
        for index, parameter in enumerate(self.parameters):
            grad = parameter.grad
            if grad is None:
                continue
            mean = self.means[index] = combined(keep, self.means[index], 1.0 - keep, grad)
            update = newton_schulz(combined(keep, mean, 1.0 - keep, grad), NEWTON_SCHULZ_STEPS)
            length = lr * math.sqrt(max(1.0, len(grad) / len(grad[0])))
            parameter.data = combined(1.0, parameter.data, -length, update)
            parameter.grad = None


# === TUNING FAIRLY ===

# Every optimiser is tried with constant rates and with rates that fall in a line to 0. Where only
# one number is printed, it is the best of all. A schedule for one optimiser and none for another
# would decide the comparison. Muon's updates do not shrink near the minimum, so at a constant rate
# it circles around it. SGD's do, but SGD gains too: a falling rate may start above the largest
# safe one. Momentum and Adam do best at a constant rate, on the problems without noise.
# Momentum and betas are not tuned, but the usual ones. Choi et al. show that tuning these as well
# can change the order again. Language models are trained with a falling rate: linear to 0
# (arXiv:2502.15938), or constant with a short fall at the end (WSD, arXiv:2404.06395).


def make_optimizer(name: str, parameter: Tensor) -> SGD | Adam | Muon:
    """The optimiser of this name, for one matrix."""
    if name == "Muon":
        return Muon([parameter])
    if name in ("SGD", "momentum"):
        return SGD([parameter], momentum=MOMENTUM if name == "momentum" else 0.0)
    return Adam([parameter], betas=(0.9 if name == "Adam" else 0.0, 0.999))


def linear_decay(step: int, num_steps: int) -> float:
    """The factor on the learning rate: from 1 at step 0 to nearly 0 at the last, in a line."""
    return 1.0 - step / num_steps


def train(
    name: str, rate: float, schedule: str, shape: tuple[int, int], gradients: Sequence[Callable]
) -> list[list[float]]:
    """Start from w = 0 and take one step for each function in the list -> w [rows][columns].

    Each function in `gradients` takes w and returns the gradient, of the same shape.
    """
    rows, columns = shape
    parameter = Tensor([[0.0] * columns for _ in range(rows)])
    optimizer = make_optimizer(name, parameter)
    for step, gradient in enumerate(gradients):
        parameter.grad = gradient(parameter.data)
        falls = schedule == "falling"
        optimizer.step(rate * (linear_decay(step, len(gradients)) if falls else 1.0))
    return parameter.data


class Best(NamedTuple):
    """The best of several learning rates, with one schedule."""

    gap: float  # share of the first gap that is left
    rate: float
    schedule: str
    on_edge: bool  # the first or last rate of its row won
    w: list[list[float]]  # [rows][columns]


def best_rates(
    name: str,
    rates: Sequence[Sequence[float]],
    problem: Letters | Pixels,
    gradients: Sequence[Callable],
) -> list[Best]:
    """For each schedule, the run with the smallest gap at its end: [constant, falling].

    The gap is always the problem's, wherever the gradients come from.
    """
    rows, columns = problem.shape
    first_gap = problem.gap([[0.0] * columns for _ in range(rows)])
    bests = []
    for schedule, row in zip(SCHEDULES, rates):
        tried = []
        for rate in row:
            w = train(name, rate, schedule, problem.shape, gradients)
            left = problem.gap(w) / first_gap
            # A run that diverged may end in "not a number", which is not below infinity.
            left = left if left < math.inf else math.inf
            tried.append(Best(left, rate, schedule, rate in (row[0], row[-1]), w))
        bests.append(min(tried, key=lambda one: one.gap))
    return bests


def better(bests: Sequence[Best]) -> Best:
    """The run whose schedule leaves the smaller gap."""
    return min(bests, key=lambda one: one.gap)


# === PROBLEM 1: RARE PAIRS OF LETTERS ===

# A table w [27][27] holds scores: softmax(w[c]) are the probabilities of what follows letter c.
# The loss is the mean cross-entropy over all pairs of letters in the names, with each of the 729
# possible pairs added once, so that none has probability 0. The minimum is known: the shares q[c]
# that were counted. The distance of row c from it is the Kullback-Leibler divergence
# KL(q[c] || softmax(w[c])). The gap is their mean, weighted by the letters' frequencies.
#
#     gradient of row c                = frequency[c] (softmax(w[c]) - q[c])
#     curvature of row c, at minimum   = frequency[c] (diag(q[c]) - q[c] q[c]^T)
# Without the last term the curvature of a weight is frequency[c] q[c][d]: how frequent its pair
# is. So the problem is stretched nearly along its axes, in two ways. Whole rows are flat, since
# their first letter is rare; and within a row the rare followers are flat. In a language model
# the embedding has rare rows, and the output layer has rare columns.
#
# The control removes the first way only: each row's gradient is divided by 27 frequency[c], as if
# all letters were equally frequent. The gap that it is judged by stays the same. SGD gains little
# by it, so most of its trouble lies within the rows. With one factor for each row, in place of
# one for each weight, RMSProp's gap would be only 4.3 [results: factor_per_row.factors_on_letters]
# times smaller than SGD's. And with constant rates for everybody its factors would gain only
# about 6 [results: never_decays.factors_on_letters] times.
# Why Muon stays behind here is not tested: it has 27 strengths to set right, for 729 curvatures.
# Nor is it tested why momentum on top of the factors does harm here (Adam's gap is the larger one).


class Letters:
    """The next letter from the letter before, learned from all pairs at once."""

    def __init__(self, frequency: list[float], q: list[list[float]]) -> None:
        self.frequency = frequency  # [27], sums to 1
        self.q = q  # [27][27], each row sums to 1
        self.shape = (len(q), len(q))

    def divergences(self, w: list[list[float]]) -> list[float]:
        """KL(q[c] || softmax(w[c])) for each letter c: w [27][27] -> [27], in nats."""
        result = []
        for shares, scores in zip(self.q, w):
            log_total = log_sum_exp(scores)
            result.append(sum([p * (log(p) - s + log_total) for p, s in zip(shares, scores)]))
        return result

    def gap(self, w: list[list[float]]) -> float:
        """Loss minus smallest loss, in nats (natural logarithms): w [27][27] -> a number."""
        return dot(self.frequency, self.divergences(w))

    def gradient(self, w: list[list[float]]) -> list[list[float]]:
        """The loss's gradient at w, by the formula above: w [27][27] -> [27][27]."""
        return [
            [f * (p - share) for p, share in zip(softmax_row(scores), shares)]
            for f, scores, shares in zip(self.frequency, w, self.q)
        ]


# === PROBLEM 2: TURNED AXES ===

# Predict the bottom half of a digit from its top half, with one linear map w [32][31] for all
# 1,797 images. Of the 32 upper pixels one is always blank. The mean image is taken off first.
# The loss is half the squared error, a quadratic function of w:
#     gap(w) = 1/2 sum of d^T curvature d, d running over the rows of w - best;
#     curvature = X^T X / N, the same for all 32 rows of w
#     gradient(w) = (w - best) curvature
# Pixels at the margin are nearly always blank, those in the middle are not: the curvature differs
# widely from axis to axis, and a factor for each axis can repair much of that. Now multiply all
# inputs by a rotation. The same images can be predicted just as well, and the curvature has the
# same eigenvalues. But each new axis is a mixture of all pixels. For SGD, momentum and Muon
# nothing changes but rounding errors: their path is the old one, rotated. Muon's polynomial
# magnifies these errors, and its updates do not shrink so that they could die out: its gap moves by
# some percent. Adam and RMSProp divide by the size of gradients and not by curvatures, but here
# the two go together: where a pixel varies much, both are large.


class Pixels:
    """The lower half of a digit from the upper: least squares, inputs [N][31], targets [N][32]."""

    def __init__(self, inputs: list[list[float]], targets: list[list[float]]) -> None:
        columns = transpose(inputs)
        count = len(inputs)
        self.curvature = [[dot(a, b) / count for b in columns] for a in columns]  # [31][31]
        products = [[dot(a, b) / count for b in transpose(targets)] for a in columns]  # [31][32]
        # At w = 0 the gradient is -products^T. Newton's step is minus the gradient, times the
        # inverse of the curvature. On a quadratic loss it ends at the minimum, wherever it starts.
        self.best = transpose(solve(self.curvature, products))  # [32][31]
        self.shape = (len(self.best), len(columns))

    def gradient(self, w: list[list[float]]) -> list[list[float]]:
        """The loss's gradient at w, by the formula above: w [32][31] -> [32][31]."""
        error = [list(map(sub, row, best)) for row, best in zip(w, self.best)]
        return [[dot(row, column) for column in self.curvature] for row in error]

    def gap(self, w: list[list[float]]) -> float:
        """Loss minus smallest loss: w [32][31] -> a number."""
        error = [list(map(sub, row, best)) for row, best in zip(w, self.best)]
        return 0.5 * sum(map(dot, error, self.gradient(w)))


# === PROBLEM 3: NOISE ===

# The letters again, but each step sees only 64 pairs, drawn at random from those above. Their
# gradient is right on average and wrong each time, and at the minimum it does not vanish: with a
# constant rate every optimiser keeps jumping about at a distance that grows with the rate. A small
# rate comes close but is slow. A falling rate is fast first and exact later; in the middle of the
# run it still jumps. Over other draws the smallest gain is 1.35 [results: seed_1.schedule_gain],
# for example. (Muon is left out only because 400 steps of it are slow in pure Python.)
# A yardstick, not a bound: whoever counts the same 400 x 64 pairs, with a little added to each
# count, and takes the shares as probabilities, has the gap that is printed below the table.


def batch_gradient(pairs: Sequence[tuple[int, int]]) -> Callable:
    """A function from w [27][27] to the gradient of the mean cross-entropy over these pairs."""
    counts = count_pairs(pairs)

    def gradient(w: list[list[float]]) -> list[list[float]]:
        """w [27][27] -> [27][27]; zeros in the rows of letters that no pair starts with."""
        result = []
        for scores, followers in zip(w, counts):
            total = sum(followers)
            if total == 0.0:
                result.append([0.0] * len(scores))
                continue
            p = softmax_row(scores)
            result.append([(total * x - n) / len(pairs) for x, n in zip(p, followers)])
        return result

    return gradient


def main() -> dict[str, object]:
    """Train each optimiser on each problem, at its own best rate."""
    rng = random.Random(SEED)
    start = time.perf_counter()
    bests: dict[tuple[str, str], list[Best]] = {}  # (problem, optimiser) -> [constant, falling]

    # Problem 1, and its control in which all rows are equally steep. The yardstick is one: letters.
    letters, pairs = letter_problem(load_names())
    equal_rows = Letters([1.0 / len(letters.q)] * len(letters.q), letters.q)
    report_letters_head(letters)
    for name, rates in RATES["letters"].items():
        bests["letters", name] = best_rates(name, rates, letters, [letters.gradient] * NUM_STEPS)
        if name != "Muon":  # it has no control, since it is slow
            steps = [equal_rows.gradient] * NUM_STEPS
            bests["equal rows", name] = best_rates(name, rates, letters, steps)
        report_row(name, [better(bests[key, name]) for key in LETTERS if (key, name) in bests])
    report_divergences(letters, bests)

    # Problem 2, on the pixels and in a random basis.
    images = load_digits()[0]
    inputs, targets = halves(images)
    rotation = random_rotation(len(inputs[0]), rng)
    pixels, rotated = Pixels(inputs, targets), Pixels(matmul(inputs, rotation), targets)
    report_pixels_head(pixels, rotated)
    for name, rates in RATES["pixels"].items():
        for key, problem in (("pixels", pixels), ("rotated", rotated)):
            bests[key, name] = best_rates(name, rates, problem, [problem.gradient] * NUM_STEPS)
        report_row(name, [better(bests["pixels", name]), better(bests["rotated", name])])
    report_completion(images, inputs, pixels.best, better(bests["pixels", "SGD"]).w)

    # Problem 3: the same batches for everyone.
    batches = [rng.choices(pairs, k=BATCH_SIZE) for _ in range(NUM_BATCHES)]
    steps = [batch_gradient(batch) for batch in batches]
    counting = counting_gap(letters, [pair for batch in batches for pair in batch])
    report_batches_head()
    for name, rates in RATES["batches"].items():
        bests["batches", name] = best_rates(name, rates, letters, steps)
        report_row(name, bests["batches", name])
    print(f"counting the same pairs: {counting:.4f}")
    print(f"time  {time.perf_counter() - start:.1f} s")

    return conclude(bests, counting)


# === APPENDIX: REPORT AND HELPERS ===

LETTERS = ("letters", "equal rows")  # problem 1 and its control
ALPHABET = ".abcdefghijklmnopqrstuvwxyz"  # symbol i is ALPHABET[i]; the dot marks start and end


def letter_problem(names: Sequence[str]) -> tuple[Letters, list[tuple[int, int]]]:
    """Count all pairs of neighbours -> the problem, and the pairs themselves.

    Each possible pair is added once, so that the best table has finite scores.
    """
    pairs = [(first, second) for first in range(27) for second in range(27)]
    for name in names:
        symbols = [0, *[ALPHABET.index(letter) for letter in name], 0]
        pairs += zip(symbols, symbols[1:])
    counts = count_pairs(pairs)
    totals = list(map(sum, counts))
    frequency = [total / sum(totals) for total in totals]
    shares = [[n / total for n in row] for row, total in zip(counts, totals)]
    return Letters(frequency, shares), pairs


def count_pairs(pairs: Sequence[tuple[int, int]]) -> list[list[float]]:
    """How often each letter (column) follows each (row): [27][27]."""
    counts = [[0.0] * len(ALPHABET) for _ in ALPHABET]
    for first, second in pairs:
        counts[first][second] += 1.0
    return counts


def counting_gap(letters: Letters, pairs: Sequence[tuple[int, int]]) -> float:
    """The gap of the table that is counted from these pairs, as a share of the first gap."""
    table = [[log(n + PRIOR_COUNT) for n in row] for row in count_pairs(pairs)]
    zeros = [[0.0] * len(row) for row in table]
    return letters.gap(table) / letters.gap(zeros)


def halves(images: list[list[float]]) -> tuple[list[list[float]], list[list[float]]]:
    """Images [N][64] -> upper halves [N][31], lower halves [N][32], less their means.

    A pixel that is the same in all images predicts nothing, and is left out of the inputs.
    """
    columns = transpose(images)
    means = [sum(column) / len(column) for column in columns]
    centred = [[x - mean for x in column] for column, mean in zip(columns, means)]
    upper = [centred[i] for i in range(32) if max(columns[i]) > min(columns[i])]
    return transpose(upper), transpose(centred[32:])


def combined(
    alpha: float, a: list[list[float]], beta: float, b: list[list[float]]
) -> list[list[float]]:
    """alpha a + beta b, entry by entry: [N][M] and [N][M] -> [N][M]."""
    return [[alpha * x + beta * y for x, y in zip(row_a, row_b)] for row_a, row_b in zip(a, b)]


def solve(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """X with a X = b, by Gaussian elimination: a [N][N], b [N][M] -> [N][M].

    >>> solve([[0.0, 2.0], [4.0, 0.0]], [[6.0], [8.0]])
    [[2.0], [3.0]]
    """
    rows = [[*row_a, *row_b] for row_a, row_b in zip(a, b)]
    for i in range(len(rows)):
        pivot = max(range(i, len(rows)), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(len(rows)):
            if k != i:
                factor = rows[k][i]
                rows[k] = [x - factor * y for x, y in zip(rows[k], rows[i])]
    return [row[len(a) :] for row in rows]


def random_rotation(size: int, rng: random.Random) -> list[list[float]]:
    """An orthogonal matrix [size][size]: random rows, each made orthogonal to those before it.

    It may also mirror, which changes nothing here.
    This is done twice for each row, since the first pass leaves rounding errors behind.
    """
    rows: list[list[float]] = []
    for _ in range(size):
        row = [rng.gauss(0.0, 1.0) for _ in range(size)]
        for other in [*rows, *rows]:
            along = dot(row, other)
            row = [x - along * y for x, y in zip(row, other)]
        length = math.sqrt(dot(row, row))
        rows.append([x / length for x in row])
    return rows


def condition_number(a: list[list[float]]) -> float:
    """Largest over smallest eigenvalue of a symmetric positive matrix, by power iteration on it
    and on its inverse.
    """
    identity = [[float(i == j) for j in range(len(a))] for i in range(len(a))]
    result = 1.0
    for matrix in (a, solve(a, identity)):
        # An uneven start, so that it has a part along every eigenvector.
        vector = [1.0 + 0.1 * i for i in range(len(a))]
        for _ in range(400):
            image = [dot(row, vector) for row in matrix]
            largest = math.sqrt(dot(image, image))
            vector = [x / largest for x in image]
        result *= largest
    return result


def scaled_by_diagonal(a: list[list[float]]) -> list[list[float]]:
    """The curvature after each axis is scaled so that its own is 1: a_ij / sqrt(a_ii a_jj)."""
    roots = [math.sqrt(a[i][i]) for i in range(len(a))]
    return [[x / (r * s) for x, s in zip(row, roots)] for row, r in zip(a, roots)]


def report_row(name: str, bests: Sequence[Best]) -> None:
    """One optimiser: the gap that is left, the rate that won and its schedule, for each column."""
    cells = [f"{best.gap:12.7f}{best.rate:8.4g} {best.schedule:<8}" for best in bests]
    print(f"{name:<12}{'  '.join(cells)}".rstrip(), flush=True)


def report_head(left: str, right: str) -> None:
    """The two lines above a table."""
    columns = f"{'gap left':>12}{'best lr':>8} {'schedule':<8}"
    print(f"{'':<12}{left:^29}  {right:^29}".rstrip())
    print(f"{'optimiser':<12}{columns}  {columns}")


def report_letters_head(letters: Letters) -> None:
    """The facts about problem 1."""
    zeros = [[0.0] * len(ALPHABET) for _ in ALPHABET]
    gap = letters.gap(zeros)
    print(f"1. Letter table, {NUM_STEPS} steps on all pairs at once")
    print(f"Know nothing: ln {len(ALPHABET)} = {log(len(ALPHABET)):.4f} nats;", end=" ")
    print(f"the best table: {log(len(ALPHABET)) - gap:.4f}. The gap: {gap:.4f}")
    head = f"{max(letters.frequency):.4f} to {min(letters.frequency):.4f}"
    print(f"Frequencies of the letters: {head};", end=" ")
    cells = [f * share for f, row in zip(letters.frequency, letters.q) for share in row]
    print(f"of the pairs: {max(cells):.4f} to {min(cells):.7f}\n")
    report_head("real frequencies", "rows made equally steep")


def report_divergences(letters: Letters, bests: dict[tuple[str, str], list[Best]]) -> None:
    """What is left to learn for letters from frequent to rare, as bars."""
    sgd, rmsprop = [
        letters.divergences(better(bests["letters", name]).w) for name in ("SGD", "RMSProp")
    ]
    print("\nWhat is left for single letters, in nats (# = 0.001, at most 40)")
    print("letter   frequency      SGD  RMSProp")
    order = sorted(range(len(ALPHABET)), key=lambda c: -letters.frequency[c])
    for c in [*order[:3], *order[10:13], *order[-4:]]:
        bar = "#" * min(40, round(sgd[c] / 0.001))
        left = max(0.0, rmsprop[c])  # rounding can leave it just below 0
        line = f"{ALPHABET[c]:<9}{letters.frequency[c]:9.4f}{sgd[c]:9.4f}{left:9.4f}  {bar}"
        print(line.rstrip())


def report_pixels_head(pixels: Pixels, rotated: Pixels) -> None:
    """The facts about problem 2."""
    print(f"\n2. The lower half of a digit from the upper half, {NUM_STEPS} steps on all images")
    print("Condition number of the curvature      pixels     rotated")
    for label, change in (
        ("as it is", lambda a: a),
        ("each axis scaled to curvature 1", scaled_by_diagonal),
    ):
        numbers = [condition_number(change(p.curvature)) for p in (pixels, rotated)]
        print(f"  {label:<30}{numbers[0]:>13,.0f}{numbers[1]:>12,.0f}")
    print()
    report_head("pixels", "rotated")
    zeros = [[0.0] * len(pixels.best[0]) for _ in pixels.best]
    one_step = []
    for problem in (pixels, rotated):
        step = transpose(solve(problem.curvature, transpose(problem.gradient(zeros))))
        w = [[-x for x in row] for row in step]
        # Rounding can leave a gap that is minus nothing.
        left = abs(problem.gap(w)) / problem.gap(zeros)
        one_step.append(Best(left, 1.0, "", False, w))
    report_row("Newton, once", one_step)


def report_completion(
    images: list[list[float]], inputs: list[list[float]], *maps: list[list[float]]
) -> None:
    """Draw one digit, and next to it its upper half with the lower half that each map adds.

    The digit is one of those that were fitted. images [N][64], inputs [N][31], each map [32][31].
    """
    means = [sum(column) / len(column) for column in transpose(images)]
    panels = [images[SHOWN_IMAGE]]
    for w in maps:
        lower = [mean + dot(row, inputs[SHOWN_IMAGE]) for mean, row in zip(means[32:], w)]
        panels.append(images[SHOWN_IMAGE][:32] + lower)
    print(f"\n{'a digit':<20}{'best map':<20}{'map of SGD'}")
    drawn = [shade([panel[i : i + 8] for i in range(0, 64, 8)]) for panel in panels]
    for lines in zip(*drawn):
        print("    ".join(lines).rstrip())


def report_batches_head() -> None:
    """The facts about problem 3."""
    print(f"\n3. Letter table again, {NUM_BATCHES} steps on {BATCH_SIZE} random pairs each")
    report_head("constant rate", "linear to 0")


def conclude(bests: dict[tuple[str, str], list[Best]], counting: float) -> dict[str, object]:
    """Print the conclusion, and make what main() returns."""
    gaps = {key: better(pair).gap for key, pair in bests.items()}
    edges = [
        f"{name} on {key}, {best.schedule} rate"
        for (key, name), pair in bests.items()
        for best in pair
        if best.on_edge
    ]
    noisy = [bests["batches", name] for name in RATES["batches"]]
    rivals = [gaps["rotated", name] for name in RATES["pixels"] if name != "Muon"]
    headline = {
        "factors_on_letters": gaps["letters", "SGD"] / gaps["letters", "RMSProp"],
        "factors_on_pixels": gaps["pixels", "SGD"] / gaps["pixels", "RMSProp"],
        "factors_rotated": gaps["rotated", "SGD"] / gaps["rotated", "RMSProp"],
        "muon_advantage": min(rivals) / gaps["rotated", "Muon"],
        "schedule_gain": min([constant.gap / falling.gap for constant, falling in noisy]),
        "rates_on_edge": len(edges),
    }
    report_ratios(gaps)
    report_conclusion(headline, gaps, counting)
    print("No best rate was the first or last of its row." if not edges else "Too narrow RATES:")
    for edge in edges:
        print(f"   {edge}")
    details = {
        f"{key}: {name}, {best.schedule}": best.gap
        for (key, name), pair in bests.items()
        for best in pair
    }
    return {**headline, "details": {**details, "counting": counting}}


def report_ratios(gaps: dict[tuple[str, str], float]) -> None:
    """How many times smaller than SGD's each gap is, on each problem."""
    others = {"momentum": "alone", "RMSProp": "factors", "Adam": "both", "Muon": ""}
    print("\nGap of SGD / gap of the others, each with its better schedule")
    print(f"{'':<14}" + "".join([f"{name:>12}" for name in others]))
    print(f"{'':<14}" + "".join([f"{what:>12}" for what in others.values()]).rstrip())
    for key in (*LETTERS, "pixels", "rotated", "batches"):
        found = [gaps[key, name] for name in others if (key, name) in gaps]
        cells = [f"{gaps[key, 'SGD'] / gap:>12.3g}" for gap in found]
        print(f"{key:<14}" + "".join(cells))


def report_conclusion(
    headline: dict[str, float], gaps: dict[tuple[str, str], float], counting: float
) -> None:
    """Say in words what the run has shown, whatever it has shown."""

    def ratio(key: str, one: str, other: str) -> float:
        return gaps[key, one] / gaps[key, other]

    rows = gaps["letters", "SGD"] / gaps["equal rows", "SGD"]
    print(f"\n1. Factors alone make SGD's gap {headline['factors_on_letters']:.0f} times smaller,")
    print(f"   momentum alone {ratio('letters', 'SGD', 'momentum'):.0f} times,", end=" ")
    print(f"both {ratio('letters', 'SGD', 'Adam'):.0f} times. Rows made equally")
    print(f"   steep make it {rows:.1f} times smaller:", end=" ")
    print(
        "the rest lies within the rows." if rows < headline["factors_on_letters"] else "all of it."
    )
    print(f"2. On pixels factors alone make it {headline['factors_on_pixels']:.1f} times", end=" ")
    print(f"smaller, rotated {headline['factors_rotated']:.2f} times.")
    penalty = gaps["rotated", "Adam"] / gaps["pixels", "Adam"]
    print(f"   Adam's gap is {penalty:.1f} times larger after the rotation,", end=" ")
    print(f"momentum's {gaps['rotated', 'momentum'] / gaps['pixels', 'momentum']:.3f} times,")
    print(f"   Muon's {gaps['rotated', 'Muon'] / gaps['pixels', 'Muon']:.2f} times.", end=" ")
    place = "is the best" if headline["muon_advantage"] > 1 else "is not the best"
    print(f"Muon {place} there: next best / Muon = {headline['muon_advantage']:.1f}.")
    gain = headline["schedule_gain"]
    verb = "helps every optimiser" if gain > 1.05 else "does not help every optimiser"
    print(f"3. A falling rate {verb}:", end=" ")
    print(f"the least gain is {gain:.2f} times.")
    best = min([gap for (key, _), gap in gaps.items() if key == "batches"])
    print(f"   SGD / momentum = {ratio('batches', 'SGD', 'momentum'):.2f},", end=" ")
    print(f"RMSProp / Adam = {ratio('batches', 'RMSProp', 'Adam'):.2f}:", end=" ")
    print("what momentum adds.")
    print(f"   The best is {best / counting:.2f} times the gap of counting the same pairs.")


# === APPENDIX: ENGINE (common/engine.py; microautograd.py derives it) ===

# The inner product, the engine's one primitive: dot([1, 2], [3, 4]) = 1*3 + 2*4 = 11.
# From Python 3.12 on the standard library has it (math.sumprod); before, sum(map(mul, a, b))
# also loops in C. Beware: where lengths differ, sumprod raises but map stops at the shorter one.
dot = getattr(math, "sumprod", None) or (lambda a, b: sum(map(mul, a, b)))


def transpose(a: list[list[float]]) -> list[list[float]]:
    """[N][M] -> [M][N].

    >>> transpose([[1, 2, 3], [4, 5, 6]])
    [[1, 4], [2, 5], [3, 6]]
    """
    return list(map(list, zip(*a)))


def matmul(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][K] times [K][M] -> [N][M]: entry (i, j) is the dot product of row i and column j.

    >>> matmul([[1, 2]], [[3, 4], [5, 6]])
    [[13, 16]]
    """
    columns = list(zip(*b))
    return [[dot(row, column) for column in columns] for row in a]


def softmax_row(scores: list[float]) -> list[float]:
    """Turn scores into positive weights that sum to 1: exp(s_i) / sum_j exp(s_j).

    The largest score is taken off first. It cancels in the fraction, and exp cannot overflow.

    >>> softmax_row([1000.0, 1000.0])
    [0.5, 0.5]
    """
    largest = max(scores)
    exponentials = [exp(score - largest) for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def log_sum_exp(scores: list[float]) -> float:
    """log(sum_j exp(s_j)), with the largest score taken out of the sum so that exp stays finite.

    >>> round(log_sum_exp([1000.0, 1000.0]) - 1000.0, 6)
    0.693147
    """
    largest = max(scores)
    return largest + log(sum([exp(score - largest) for score in scores]))


class Tensor:
    """A matrix that remembers how it was made, so that gradients can flow back through it.

    data       [N][M]: list of rows of floats
    grad       None until backward() reaches this tensor, then [N][M]: d(root) / d(data)
    parents    the tensors that it was computed from; empty for a leaf
    pass_back  takes this tensor's gradient and returns one gradient per parent (None: not
               wanted). It gets the gradient as an argument and never refers to its own tensor:
               so there is no reference cycle, and a graph is freed the moment it is dropped.
    """

    __slots__ = ("data", "grad", "parents", "pass_back", "requires_grad")

    def __init__(
        self,
        data: list[list[float]],
        parents: tuple[Tensor, ...] = (),
        pass_back: Callable | None = None,
        requires_grad: bool = True,
    ) -> None:
        self.data = data
        self.grad: list[list[float]] | None = None
        # A result needs a gradient if one of its parents does; otherwise it keeps no graph.
        self.requires_grad = any(p.requires_grad for p in parents) if parents else requires_grad
        self.parents = parents if self.requires_grad else ()
        self.pass_back = pass_back if self.requires_grad else None

    def item(self) -> float:
        """The one number of a [1][1] tensor, such as a loss."""
        ((value,),) = self.data
        return value

    def __add__(self, other: Tensor) -> Tensor:
        """[N][M] + [N][M]. Both parents receive the result's gradient as it is."""
        check_same_shape(self, other)
        data = [list(map(add, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d_out: (d_out, d_out))

    def __sub__(self, other: Tensor) -> Tensor:
        """[N][M] - [N][M]."""
        check_same_shape(self, other)
        data = [list(map(sub, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d: (d, [[-x for x in row] for row in d]))

    def __mul__(self, other: Tensor | float) -> Tensor:
        """Entry by entry: [N][M] * [N][M], or every entry times one constant number."""
        if not isinstance(other, Tensor):
            data = [[value * other for value in row] for row in self.data]
            return Tensor(
                data, (self,), lambda d_out: ([[d * other for d in row] for row in d_out],)
            )
        check_same_shape(self, other)
        a, b = self.data, other.data

        def times(x: list[list[float]], y: list[list[float]]) -> list[list[float]]:
            return [list(map(mul, row_x, row_y)) for row_x, row_y in zip(x, y)]

        # d(a * b) = b da + a db: each factor's gradient is the other factor times d_out.
        return Tensor(times(a, b), (self, other), lambda d: (times(d, b), times(d, a)))

    def backward(self, grad: list[list[float]] | None = None) -> None:
        """Add d(self)/d(tensor) to .grad of every tensor that self was made from.

        grad [N][M] is the gradient to start from; a [1][1] loss starts from 1. The graph is
        taken apart on the way, so that memory falls while gradients flow: a second backward()
        through it raises RuntimeError.
        """
        if grad is None:
            if len(self.data) != 1 or len(self.data[0]) != 1:
                raise ValueError("backward() without a gradient starts from a [1][1] tensor only")
            grad = [[1.0]]
        check_same_shape(self, Tensor(grad))
        # Topological order: every tensor stands after all of its parents. The list is built with
        # an explicit stack, since a long chain would overflow Python's call stack. A tensor goes
        # on the stack twice: on the first visit it is put back below its parents, and on the
        # second they are all in the list, so it follows them.
        order: list[Tensor] = []
        visited: set[Tensor] = set()
        stack = [(self, False)]
        while stack:
            tensor, parents_are_listed = stack.pop()
            if parents_are_listed:
                order.append(tensor)
            elif tensor not in visited:
                visited.add(tensor)
                stack.append((tensor, True))
                stack.extend([(p, False) for p in tensor.parents if p.requires_grad])
        visited.clear()
        self.grad = grad if self.grad is None else add_matrices(self.grad, grad)
        # Backwards through that order a tensor comes after everything made from it: its gradient
        # is complete, all uses added up, before it is passed on to its parents.
        while order:
            tensor = order.pop()
            if tensor.pass_back is None:
                continue
            for parent, part in zip(tensor.parents, tensor.pass_back(tensor.grad)):
                if part is not None and parent.requires_grad:
                    parent.grad = part if parent.grad is None else add_matrices(parent.grad, part)
            tensor.parents, tensor.pass_back = (), raise_graph_is_gone


def add_matrices(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][M] + [N][M] as a new matrix: a gradient may be shared, so it is never changed in place.

    >>> add_matrices([[1.0, 2.0]], [[10.0, 20.0]])
    [[11.0, 22.0]]
    """
    return [list(map(add, row_a, row_b)) for row_a, row_b in zip(a, b)]


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless both are [N][M]. Nothing is ever stretched to fit."""
    shapes = [(len(tensor.data), len(tensor.data[0])) for tensor in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"shapes differ: {shapes[0]} and {shapes[1]}")


def raise_graph_is_gone(d_out: list[list[float]]) -> None:
    """Stand where a graph has been taken apart by backward()."""
    raise RuntimeError("backward() has already taken this graph apart: run the forward again")


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
NAMES_SHA256 = "bd02dfd33179e23ec2dd093cbd4de619834f75d660ef1ae04d3127e7a0110053"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


def load_data(filename: str, sha256: str) -> bytes:
    """Return the data file's bytes; end the program with one clear sentence if they are not to be
    had or not the right ones (their sha256 differs).
    """
    here = Path(__file__).resolve().parent
    for path in (here.parent / "data" / filename, here / filename):
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise SystemExit(f"{path} is damaged (wrong sha256): restore it, or delete it.")
            return content
    partial = here / f"{filename}.{os.getpid()}.part"
    try:
        with urllib.request.urlopen(DATA_URL + filename, timeout=20) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OSError("the download is damaged (wrong sha256)")
        partial.write_bytes(content)
        partial.replace(here / filename)
    except (OSError, http.client.HTTPException) as problem:
        where = f"from {DATA_URL} and put it beside the script"
        raise SystemExit(f"No {filename}: {problem}. Get it {where}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return content


def load_names() -> list[str]:
    """29,693 different first names, a to z only, in alphabetical order.

    The file has 32,257 lines, since names given to girls and to boys stand in it twice. They must
    become one before anything is held out, or names from training would return in the test.
    """
    return sorted(set(load_data("names.txt", NAMES_SHA256).decode("ascii").split()))


def load_digits() -> tuple[list[list[float]], list[int]]:
    """1,797 handwritten digits: images [1797][64] of values 0 to 1 (8 x 8 pixels), and labels.

    A pixel counts the ink in a 4 x 4 block of the scan, 0 to 16. The rows stand in the order of
    their writers, so a test on the last rows is mostly a test on new handwriting (one writer may
    stand on both sides of the cut).
    """
    text = gzip.decompress(load_data("digits.csv.gz", DIGITS_SHA256)).decode("ascii")
    rows = [list(map(int, line.split(","))) for line in text.split()]
    return [[ink / 16.0 for ink in row[:64]] for row in rows], [row[64] for row in rows]


# === APPENDIX: PICTURES (common/pictures.py) ===

SHADES = " .:-=+*#%@"  # from empty to full


def shade(rows: Sequence[Sequence[float]], low: float = 0.0, high: float = 1.0) -> list[str]:
    """A matrix [H][W] as H lines of 2 W characters: low is blank, high is @.

    >>> shade([[0.0, 0.5, 1.0]])
    ['  ==@@']
    """
    top = len(SHADES) - 1
    lines = []
    for row in rows:
        levels = [(value - low) / (high - low) * top for value in row]
        lines.append("".join([2 * SHADES[min(max(int(level), 0), top)] for level in levels]))
    return lines


if __name__ == "__main__":
    main()
