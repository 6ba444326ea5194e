"""A GAN is a game of two networks; here a penalty on one lets the other cover nearly all the data.

A generator turns random noise into points. A discriminator is shown real points and generated
ones, and learns to tell them apart. The generator never sees a real point. All that it gets is
the discriminator's gradient: the direction in which each of its own points would look more real.
When the generated points are distributed like the real ones, nobody can tell them apart, and both
networks should come to rest. But do they get there? A network that is trained alone goes downhill
on one loss. Here each network's step changes the loss of the other, and they may chase each other
for ever.

The data is a ring of eight small clusters. Two GANs are trained from the same weights, on the
same real points and the same noise: one with the plain losses, and one with a penalty on the slope
of the discriminator at real points (called R1). Then the two exchange their rules: the penalty is
taken away from the one that had it and given to the other. Look at three things: how many clusters
each covers before and after the exchange; how many points lie close to a cluster, by which one
might take the plain GAN for the better one; and, at the end, a GAN of two numbers, so small that
one can compute in advance by which factor each step changes the distance to the solution.

In the code          In the papers    Meaning                                             Shape
noise                z                the generator's input, standard normal numbers      [N][4]
generator            G                the network that turns noise into points            -> [N][2]
discriminator        D                points -> logits; sigmoid(logit): p(real)           [N][1]
real_logits          D(x)             the discriminator's output for real points          [N][1]
fake_logits          D(G(z))          ... and for generated ones                          [N][1]
gradient             grad_x D(x)      how the logit changes as a point moves              [N][2]
gamma                gamma            weight of the penalty                               a number
theta, psi           theta, psi       the two players of the game with two numbers        numbers
(In the paper of 2014, D is the probability; here, as in most later papers, it is the logit.)

What is left out: images and convolutions, conditioning on a class, the many other losses
(Wasserstein, hinge, relativistic), and the derivation of the engine, which is microautograd's
subject.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microgan.json under that key.

Read first: microautograd.

Papers: Goodfellow et al., "Generative Adversarial Networks", 2014, arXiv:1406.2661. Mescheder,
Geiger & Nowozin, "Which Training Methods for GANs do actually Converge?", 2018, arXiv:1801.04406
(R1, and the game with two numbers, the Dirac-GAN). Roth et al., "Stabilizing Training of
Generative Adversarial Networks through Regularization", 2017, arXiv:1705.09367 (such penalties as
noise). Metz et al., "Unrolled Generative Adversarial Networks", 2017, arXiv:1611.02163 (the
ring). Gulrajani et al., "Improved Training of Wasserstein GANs", 2017, arXiv:1704.00028. Karras
et al., "Analyzing and Improving the Image Quality of StyleGAN", 2020, arXiv:1912.04958. Huang et
al., "The GAN is dead; long live the GAN!", 2024, arXiv:2501.05441 (R3GAN). Sauer et al., 2023,
arXiv:2311.17042 (adversarial distillation). Lin et al., 2025, arXiv:2501.08316 (an approximated
R1). Szekely & Rizzo, "Energy statistics", 2013 (the energy distance).
"""

from __future__ import annotations

import cmath
import math
import random
import time
from collections.abc import Callable, Sequence
from math import exp
from operator import add, mul, sub
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
NUM_RUNS = 3  # each run: two GANs, equal but for the penalty
NUM_MODES = 8  # clusters on the circle of radius 1
SIGMA = 0.05  # standard deviation of a cluster; two neighbours are 0.77 apart

NOISE_SIZE = 4  # numbers of noise that become one point
WIDTH = 16  # units in each of the two hidden layers
NEGATIVE_SLOPE = 0.2  # of leaky ReLU: no unit is ever without gradient
BATCH_SIZE = 16  # real points, and generated points, per step: some two for each cluster
NUM_STEPS = 800  # until the two GANs exchange their rules
NUM_MORE_STEPS = 600  # after that
LEARNING_RATE = 0.02  # never lowered: a rate that falls to 0 stops any motion and hides it
BETAS = (0.0, 0.99)  # no momentum: old gradients were for another opponent
GAMMA = 0.1  # weight of the penalty
GAMMAS = {"plain": (0.0, GAMMA), "penalty": (GAMMA, 0.0)}  # before and after the exchange
AVERAGE_DECAY = 0.98  # points are drawn with generator weights averaged over some 50 steps

NUM_POINTS = 500  # points that are drawn to score a generator
CHECK_EVERY = 50  # steps
WINDOW = 4  # checks that are averaged: a single one is rather random
REPORT_EVERY = 400  # steps

# The game with two numbers.
TWO_NUMBER_RATE = 0.1  # step size h of plain gradient descent
TWO_NUMBER_GAMMA = 0.3
TWO_NUMBER_LARGE_GAMMA = 5.0  # too much of a good thing
TWO_NUMBER_START = 0.01  # where the generator starts; the data is at 0
TWO_NUMBER_STEPS = 600

# === THE DATA, AND TWO SCORES ===

# In two dimensions one can see and measure what a GAN makes. (Images are usually compared through
# the features of some other network: FID.) The ring is hard because its clusters are separate. A
# generator that draws only some of them (mode collapse) can fool the discriminator for a while.
# And a generator is a continuous map of one connected cloud of noise. It can thin out the way
# from one cluster to the next, but never cut it: with some probability its points lie between.


def mode_centers() -> list[tuple[float, float]]:
    """The centers of the clusters (the modes of the density), evenly spaced on the circle."""
    angles = [2.0 * math.pi * k / NUM_MODES for k in range(NUM_MODES)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def ring_of_gaussians(num_points: int, rng: random.Random) -> list[list[float]]:
    """Draw fresh real points [N][2]: choose a center, add Gaussian noise."""
    centers = rng.choices(mode_centers(), k=num_points)
    return [[rng.gauss(x, SIGMA), rng.gauss(y, SIGMA)] for x, y in centers]


def mode_coverage(points: Sequence[Sequence[float]]) -> tuple[int, float]:
    """How many modes the points [N][2] cover, and which share of them lies near a mode.

    Near is within 4 SIGMA of a center. A mode is covered if it has at least a quarter of its
    fair share N / NUM_MODES: enough to be there, even if the shares are uneven.

    >>> mode_coverage([[1.0, 0.0], [0.0, 1.1], [0.5, 0.5]])
    (2, 0.6666666666666666)
    """
    centers = mode_centers()
    counts = [0] * NUM_MODES
    for point in points:
        distances = [math.dist(point, center) for center in centers]
        nearest = min(distances)
        if nearest <= 4.0 * SIGMA:
            counts[distances.index(nearest)] += 1
    enough = 0.25 * len(points) / NUM_MODES
    return sum(count >= enough for count in counts), sum(counts) / len(points)


def energy_distance(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two samples [N][2] and [M][2].

    It is 0 if both come from one distribution, and larger otherwise: points of different samples
    are then further apart, on average, than points of the same sample. A point is not compared
    with itself; this makes the estimate unbiased, and slightly negative at times.

    Two points at 0 against two at 3: 2 * 3 - 0 - 0.
    >>> energy_distance([[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [3.0, 0.0]])
    6.0
    """

    def mean_within(points: Sequence[Sequence[float]]) -> float:
        total = sum([math.dist(p, q) for i, p in enumerate(points) for q in points[:i]])
        return total / (len(points) * (len(points) - 1) / 2)

    across = sum([math.dist(p, q) for p in a for q in b]) / (len(a) * len(b))
    return 2.0 * across - mean_within(a) - mean_within(b)


# === THE GAME: TWO NETWORKS, TWO LOSSES ===

# Both players are small multilayer perceptrons: 386 numbers in the generator, 337 in the
# discriminator. A layer is a weight [out][in] and a bias [1][out], as in torch.nn.Linear.

Layers = list[tuple["Tensor", "Tensor"]]


def mlp(sizes: Sequence[int], rng: random.Random) -> Layers:
    """Random layers from sizes[0] to sizes[-1]. The spread sqrt(2 / in) keeps the size of the
    signal through (leaky) ReLU layers: He initialisation.
    """
    layers = []
    for num_in, num_out in zip(sizes, sizes[1:]):
        spread = math.sqrt(2.0 / num_in)
        weight = [[rng.gauss(0.0, spread) for _ in range(num_in)] for _ in range(num_out)]
        layers.append((Tensor(weight), Tensor([[0.0] * num_out])))
    return layers


def forward(layers: Layers, x: Tensor, slopes: list[Tensor] | None = None) -> Tensor:
    """x [N][in] -> [N][out]. If a list is given, the slopes of the hidden units [N][WIDTH], one
    matrix for each hidden layer, are appended to it: 1 where the input was above zero.
    """
    for weight, bias in layers[:-1]:
        x = linear(x, weight, bias)
        if slopes is not None:
            slopes.append(
                constant([[1.0 if v > 0.0 else NEGATIVE_SLOPE for v in row] for row in x.data])
            )
        x = leaky_relu(x, NEGATIVE_SLOPE)
    weight, bias = layers[-1]
    return linear(x, weight, bias)


# The discriminator is a classifier: 1 for real, 0 for generated. At a place with real density p
# and generated density q its expected loss is -p log s - q log(1 - s), where s = sigmoid(logit).
# The derivative -p / s + q / (1 - s) is zero at s = p / (p + q): the best discriminator. Put that
# in, and write m = (p + q) / 2, so that s = p / (2 m). The loss over the whole plane is then
#
#     2 ln 2 - (mean over real x of log(p / m) + mean over generated x of log(q / m))
#
# The bracket is twice the Jensen-Shannon divergence, which is 0 for p = q and positive otherwise.
# So a *perfect* discriminator has its largest loss, 2 ln 2 = 1.386, where p = q, with s = 1/2
# everywhere: that is the solution. This says where the game ends, not that there is a way to it. If
# p and q do not overlap at all, the bracket is stuck at 2 ln 2, and the perfect discriminator is
# flat and gives no direction: GANs live from discriminators that are not perfect. An expected loss
# far below 1.386 proves that p and q differ, since no discriminator can go below the perfect one.
# A loss near it proves nothing: a discriminator that has learned nothing says 1/2 everywhere too.


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """mean(-log s(real)) + mean(-log(1 - s(fake))), from logits [N][1] and [M][1] -> [1][1].

    Computed from logits, as torch's binary_cross_entropy_with_logits does: -log sigmoid(z) is
    log(1 + exp(-z)), while a sigmoid that was rounded to 0 has no logarithm.
    """
    ones, zeros = [[1.0]] * len(real_logits.data), [[0.0]] * len(fake_logits.data)
    real_part = binary_cross_entropy_with_logits(real_logits, ones)
    fake_part = binary_cross_entropy_with_logits(fake_logits, zeros)
    return real_part + fake_part


def generator_loss(fake_logits: Tensor) -> Tensor:
    """mean(-log s(fake)): the non-saturating loss, from logits [N][1] -> [1][1].

    The game as first written (minimax) has the generator raise the discriminator's own loss, that
    is, minimise log(1 - s). Take a bad fake with s = 0.01. The slope by its logit is -s = -0.01:
    where the generator most needs to learn, it hears almost nothing. The slope of -log s is
    -(1 - s) = -0.99. Both have the same sign, so each point is pushed the same way, with another
    weight. (The sums above belong to the minimax loss; the solution is the same for both.)
    """
    return binary_cross_entropy_with_logits(fake_logits, [[1.0]] * len(fake_logits.data))


# The penalty makes slopes of the discriminator at real points expensive:
#
#     R1 = gamma / 2 * mean over real x of |grad_x D(x)|^2                (Mescheder et al., eq. 9)
#
# Why there? Suppose that the generated points have just reached the data. The discriminator still
# slopes the way that led them there, so it pushes them on, past the data; it learns of this only
# in later steps, and then pushes them back. With the penalty it becomes flatter where the data is.
# At the solution the discriminator is flat anyway, so the penalty is zero there and does not move
# the solution. (The penalty of WGAN-GP asks for slope 1, at places between real and generated
# points: there the discriminator stays steep even at the solution.)
#
# In use: StyleGAN2 computes R1 in every 16th step only, since the second derivative is expensive;
# Lin et al. replace it by the difference of the logits at a point and at the point with some noise.
# R3GAN (Huang et al.) has a relativistic loss, R1, and the same penalty at generated points, R2.
# GANs are not dead: a discriminator's loss stands beside the main one in image autoencoders and
# speech vocoders, and where a diffusion model of many steps is distilled into one of few.


def input_gradient(layers: Layers, slopes: Sequence[Tensor]) -> Tensor:
    """grad_x D(x) for each of N points -> [N][2], as an expression that has gradients itself.

    The penalty depends on a gradient, and training needs the gradient of the penalty: a second
    derivative. So the chain rule from the logit back to the point is written here as a forward
    computation, which the engine can differentiate like any other. With weights W1, W2, W3 and
    the slopes of the hidden units s1, s2 (for each point a row; @ is the matrix product):

        g2 = (1 @ W3) * s2  [N][16]       g1 = (g2 @ W2) * s1  [N][16]       grad_x D = g1 @ W1

    The slopes are constants, since leaky ReLU is straight on both sides of zero. In PyTorch:
    torch.autograd.grad(logits.sum(), x, create_graph=True)[0], which records the backward pass as
    a graph, too.
    """
    gradient = constant([[1.0] for _ in slopes[0].data])  # d(logit) / d(logit)
    gradient = mm(gradient, layers[-1][0])
    for (weight, _), slope in zip(reversed(layers[:-1]), reversed(slopes)):
        gradient = mm(gradient * slope, weight)
    return gradient


def r1_penalty(gradient: Tensor, gamma: float) -> Tensor:
    """gamma / 2 * mean over rows of |row|^2, from gradients [N][2] -> [1][1].

    A slope of (3, 4) has length 5: 0.1 / 2 * 25.
    >>> round(r1_penalty(Tensor([[3.0, 4.0]]), 0.1).item(), 12)
    1.25
    """
    num_rows, num_columns = len(gradient.data), len(gradient.data[0])
    mean_of_squares = mse_loss(gradient, [[0.0] * num_columns] * num_rows)  # over all entries
    return mean_of_squares * (gamma / 2.0 * num_columns)


# === TRAINING ===

# The players take turns: one step of the discriminator, one of the generator. In each step only
# one of them may change; to that one, its opponent is a fixed function, and frozen() says so to the
# engine. In the discriminator's step the generated points are then constants, without a graph. In
# the generator's step the gradient must pass *through* the discriminator, whose weights want none.
# (PyTorch: .detach() for the points, requires_grad_(False) for the discriminator.)


class GAN:
    """Two networks, their optimisers, and the running average of the generator."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng  # draws weights, real points and noise
        self.generator = mlp([NOISE_SIZE, WIDTH, WIDTH, 2], rng)
        self.discriminator = mlp([2, WIDTH, WIDTH, 1], rng)
        self.average = frozen(self.generator)
        self.discriminator_optimizer, self.generator_optimizer = [
            Adam([p for layer in layers for p in layer], BETAS)
            for layers in (self.discriminator, self.generator)
        ]

    def step(self, gamma: float) -> float:
        """One turn of each player -> the discriminator's loss without the penalty."""
        loss = self.discriminator_step(gamma)
        self.generator_step()
        return loss

    def discriminator_step(self, gamma: float) -> float:
        """Learn to tell fresh real points from fresh generated ones."""
        real = constant(ring_of_gaussians(BATCH_SIZE, self.rng))
        fake = forward(frozen(self.generator), normal_noise(BATCH_SIZE, self.rng))
        slopes: list[Tensor] = []
        real_logits = forward(self.discriminator, real, slopes)
        fake_logits = forward(self.discriminator, fake)
        loss = discriminator_loss(real_logits, fake_logits)
        if gamma > 0.0:
            penalty = r1_penalty(input_gradient(self.discriminator, slopes), gamma)
            (loss + penalty).backward()
        else:
            loss.backward()
        self.discriminator_optimizer.step(LEARNING_RATE)
        return loss.item()

    def generator_step(self) -> None:
        """Move generated points to where the discriminator takes them for real."""
        fake = forward(self.generator, normal_noise(BATCH_SIZE, self.rng))
        # The gradient flows through the discriminator's layers back into the points, and from
        # there into the generator. This is the generator's only news of the data.
        generator_loss(forward(frozen(self.discriminator), fake)).backward()
        self.generator_optimizer.step(LEARNING_RATE)
        ema_update(self.average, self.generator, AVERAGE_DECAY)

    def sample(
        self, num_points: int, rng: random.Random, averaged: bool = True
    ) -> list[list[float]]:
        """Draw points [N][2]: noise in, points out, no discriminator.

        Weights that circle around a solution are near it on average, if the average covers whole
        turns. StyleGAN and its successors draw with averaged weights too. The run also prints what
        the weights of the moment cover.
        """
        layers = self.average if averaged else self.generator
        return forward(layers, normal_noise(num_points, rng)).data


def normal_noise(num_rows: int, rng: random.Random) -> Tensor:
    """Standard normal numbers [N][NOISE_SIZE]."""
    return constant([[rng.gauss(0.0, 1.0) for _ in range(NOISE_SIZE)] for _ in range(num_rows)])


def constant(data: list[list[float]]) -> Tensor:
    """A matrix that no gradient is wanted for."""
    return Tensor(data, requires_grad=False)


def frozen(layers: Layers) -> Layers:
    """The same numbers as constants."""
    return [(constant(weight.data), constant(bias.data)) for weight, bias in layers]


def ema_update(average: Layers, layers: Layers, decay: float) -> None:
    """average <- decay * average + (1 - decay) * layers (exponential moving average)."""
    pairs = [pair for old, new in zip(average, layers) for pair in zip(old, new)]
    for old, new in pairs:
        old.data = [
            [decay * a + (1.0 - decay) * b for a, b in zip(*rows)]
            for rows in zip(old.data, new.data)
        ]


# === THE SAME GAME WITH TWO NUMBERS ===

# Why should two good learners not come to rest? Make the game so small that it can be computed.
# All data is the number 0. The generator is one number theta: it always draws theta. The
# discriminator is D(x) = psi * x. The losses are the functions above, unchanged. The solution
# is theta = 0 (the data) and psi = 0 (nothing to tell apart). Its slope by x is psi, so
# R1 = gamma / 2 * psi^2. The gradients, with sigmoid = 1/2 near the solution, and one step of
# gradient descent with step size h:
#
#     d(discriminator loss)/d(psi) = sigmoid(psi theta) theta + gamma psi = theta / 2 + gamma psi
#     d(generator loss)/d(theta)   = -sigmoid(-psi theta) psi             = -psi / 2
#
#     psi <- psi - h (theta / 2 + gamma psi)              theta <- theta + h psi / 2
#
# Without gamma (theta, psi) moves along (psi, -theta) / 2, at right angles to where it stands:
# around the solution. If both move at once, every step is straight where the circle is curved and
# ends outside of it: the distance grows by sqrt(1 + h^2 / 4) per step. A smaller h makes this
# slower, but never turns it around. If they take turns, the factor is 1: they go around for ever,
# on an ellipse. The penalty adds a pull of psi towards zero. As long as the players still circle
# (gamma < 1 - h / 4) the factor in turns is sqrt(1 - h gamma), below 1. With a much larger gamma
# psi hardly moves any more, and theta, which only psi can move, creeps home slowly. (In this game
# R1 is weight decay of psi; in a network it is not.)
#
# So this game shows why a plain GAN need not come to rest. It does not show that this is why a
# plain GAN loses clusters: that the penalty helps there, too, is for the experiment to say.


def two_number_game(rate: float, gamma: float, take_turns: bool) -> list[tuple[float, float]]:
    """Play with h = rate -> the path [(theta, psi), ...], TWO_NUMBER_STEPS + 1 places."""
    theta, psi = TWO_NUMBER_START, 0.0
    path = [(theta, psi)]
    for _ in range(TWO_NUMBER_STEPS):
        theta_tensor, psi_tensor = Tensor([[theta]]), Tensor([[psi]])
        real_logit, fake_logit = [linear(constant([[x]]), psi_tensor) for x in (0.0, theta)]
        loss = discriminator_loss(real_logit, fake_logit) + r1_penalty(psi_tensor, gamma)
        loss.backward()
        new_psi = psi - rate * psi_tensor.grad[0][0]
        opponent = constant([[new_psi if take_turns else psi]])
        generator_loss(linear(theta_tensor, opponent)).backward()
        theta, psi = theta - rate * theta_tensor.grad[0][0], new_psi
        path.append((theta, psi))
    return path


def linear_step(rate: float, gamma: float, take_turns: bool) -> list[list[float]]:
    """One step near the solution as a matrix M [2][2]: the new (psi, theta) is M (psi, theta).

    >>> linear_step(0.1, 0.3, False)
    [[0.97, -0.05], [0.05, 1.0]]
    """
    psi_row = [1.0 - rate * gamma, -rate / 2.0]
    if not take_turns:
        return [psi_row, [rate / 2.0, 1.0]]
    # In turns, theta's step reads the psi that has just been computed.
    return [psi_row, [rate / 2.0 * psi_row[0], 1.0 + rate / 2.0 * psi_row[1]]]


def factor_per_step(matrix: list[list[float]]) -> float:
    """By how much M stretches or shrinks in the long run: its largest eigenvalue, in size.

    With h = 0.1 and gamma = 0.3, in turns, the root below is imaginary (the players circle), and
    the two eigenvalues are conjugate complex numbers. The size of both is then the square root of
    their product, the determinant 1 - h gamma = 0.97.
    >>> round(factor_per_step(linear_step(0.1, 0.3, True)), 5), round(math.sqrt(0.97), 5)
    (0.98489, 0.98489)
    """
    (a, b), (c, d) = matrix
    trace, determinant = a + d, a * d - b * c
    root = cmath.sqrt(trace * trace - 4.0 * determinant)
    return max(abs(trace + root), abs(trace - root)) / 2.0


def predicted_path(matrix: list[list[float]]) -> list[tuple[float, float]]:
    """Apply M again and again -> [(theta, psi), ...], from the same start as the game."""
    psi, theta = 0.0, TWO_NUMBER_START
    path = [(theta, psi)]
    for _ in range(TWO_NUMBER_STEPS):
        psi, theta = [dot(row, [psi, theta]) for row in matrix]
        path.append((theta, psi))
    return path


# === THE EXPERIMENT ===

# In each run two GANs start from one seed: equal weights, equal points and noise in every step.
# One is trained with the penalty and one without. Then they exchange their rules and go on, with
# weights, averages and Adam's memory as they are. If the penalty were no more than help at the
# start, taking it away would do no harm. If the plain game had spoiled its networks for good, the
# penalty could not mend them.
#
# Could something else explain the difference? Two other trainings, modes as a mean of three runs:
#
#     half the learning rate, plain           6.00 [results: low_rate.modes_without]
#     half the learning rate, with penalty    7.50 [results: low_rate.modes_with]
#     minimax generator loss, plain           1.08 [results: minimax.modes_without]
#     minimax generator loss, with penalty    7.58 [results: minimax.modes_with]
#
# So smaller steps help the plain game, but less than the penalty; and with them the penalty, once
# it has led there, is no longer needed: taken away, 7.92 [results: low_rate.modes_removed] modes
# remain. The generator's loss matters a great deal without the penalty and hardly with it.


class Score(NamedTuple):
    """What a training has led to."""

    history: list[int]  # modes covered, every CHECK_EVERY steps
    modes: float  # the mean of the last WINDOW checks
    modes_of_the_moment: float  # the same without averaged weights
    d_loss: float  # the discriminator's loss, without the penalty, mean of the training
    share_near: float  # of the points at the end, near some mode
    distance: float  # energy distance of the points at the end to held-out real points
    points: list[list[float]]


def train(gan: GAN, gamma: float, num_steps: int, title: str) -> tuple[list[int], list[int], float]:
    """Let both players take num_steps turns -> modes covered every CHECK_EVERY steps, with averaged
    weights and with those of the moment, and the discriminator's mean loss.
    """
    history: list[int] = []
    momentary: list[int] = []
    losses: list[float] = []
    for step in range(1, num_steps + 1):
        losses.append(gan.step(gamma))
        if step % CHECK_EVERY == 0:
            for modes, averaged in ((history, True), (momentary, False)):
                points = gan.sample(NUM_POINTS, random.Random(SEED + step), averaged)
                modes.append(mode_coverage(points)[0])
        if step % REPORT_EVERY == 0 or step == num_steps:
            recent = losses[(step - 1) // REPORT_EVERY * REPORT_EVERY :]
            loss, modes_now = sum(recent) / len(recent), history[-1] if history else 0
            print(f"step {step:4d}/{num_steps} | {title} D loss {loss:.3f} | modes {modes_now}")
    return history, momentary, sum(losses) / len(losses)


def play_run(number: int, held_out: list[list[float]]) -> dict[str, Score]:
    """Train two equal GANs, exchange their rules, train on -> the scores of all four trainings."""
    rngs = [random.Random(100 * SEED + number) for _ in GAMMAS]
    gans = [GAN(rng) for rng in rngs]
    scores = {}
    for phase, num_steps in enumerate((NUM_STEPS, NUM_MORE_STEPS)):
        for gan, (name, gammas) in zip(gans, GAMMAS.items()):
            arm = name if phase == 0 else EXCHANGED[name]
            title = f"run {number} | {arm:<7}"
            history, momentary, d_loss = train(gan, gammas[phase], num_steps, title)
            points = gan.sample(NUM_POINTS, random.Random(SEED))
            share_near = mode_coverage(points)[1]
            distance = energy_distance(points, held_out)
            late = [sum(modes[-WINDOW:]) / WINDOW for modes in (history, momentary)]
            scores[arm] = Score(history, *late, d_loss, share_near, distance, points)
    return scores


def main() -> dict[str, object]:
    """Train the pairs, exchange their rules, and play the game with two numbers."""
    rng = random.Random(SEED)
    held_out = ring_of_gaussians(NUM_POINTS, rng)
    # What the energy distance is worth: its size for points that are as real as the held-out ones.
    floor = [energy_distance(ring_of_gaussians(NUM_POINTS, rng), held_out) for _ in range(4)]
    blob = matched_gaussian(held_out, rng)  # may even look at the held-out points
    print(f"The data: {NUM_MODES} clusters of width {SIGMA} on a circle of radius 1.")
    print(f"{NUM_RUNS} runs, each with two GANs of equal start: one plain, one with the penalty.")
    print(f"After {NUM_STEPS} steps they exchange rules: penalty added here, removed there.\n")

    start = time.perf_counter()
    runs = [play_run(number, held_out) for number in range(1, NUM_RUNS + 1)]
    print(f"time  training took {time.perf_counter() - start:.1f} s")
    distances = report_scores(runs, floor, blob, held_out)
    report_histories(runs)
    report_pictures(held_out, blob, runs[0])

    two_number_error = report_two_numbers()

    modes = {arm: sum(run[arm].modes for run in runs) / NUM_RUNS for arm in ARMS}
    headline = {
        "modes_with": modes["penalty"],
        "modes_without": modes["plain"],
        "modes_added": modes["added"],
        "modes_removed": modes["removed"],
        "distance_ratio": distances["plain"] / distances["penalty"],
        "two_number_error": two_number_error,
    }
    report_conclusion(headline, distances, runs)
    details = {"modes": modes, "distances": distances, "floor": floor, "runs": runs}
    return {**headline, "details": details}


# === APPENDIX: REPORT AND HELPERS ===

ARMS = {
    "plain": "plain",
    "penalty": "with penalty",
    "added": "plain, penalty added",
    "removed": "penalty, then removed",
}
EXCHANGED = {"plain": "added", "penalty": "removed"}


def matched_gaussian(points: list[list[float]], rng: random.Random) -> list[list[float]]:
    """As many points from one Gaussian with the mean and spread of the given ones: what a model
    reaches that knows where the data is and how wide, and nothing else.
    """
    columns = transpose(points)
    means = [sum(column) / len(column) for column in columns]
    squares = [dot(column, column) / len(column) for column in columns]
    spreads = [math.sqrt(square - mean * mean) for mean, square in zip(means, squares)]
    return [[rng.gauss(m, s) for m, s in zip(means, spreads)] for _ in points]


def report_scores(
    runs: list[dict[str, Score]],
    floor: list[float],
    blob: list[list[float]],
    held_out: list[list[float]],
) -> dict[str, float]:
    """One line per kind of points -> the energy distance of each (floor: the largest)."""
    print(
        f"\nModes covered: mean of the last {WINDOW} checks. The other columns: mean of the runs."
    )
    heads = "".join([f"{f'run {number}':>6}" for number in range(1, len(runs) + 1)])
    print(f"{'':<22}{heads}  not averaged  near a mode  distance")

    def show(title: str, modes: list[float], now: float, share_near: float, dist: float) -> None:
        numbers = "".join([f"{value:6.2f}" for value in modes])
        print(f"{title:<22}{numbers}{now:>14.2f}{share_near:>13.0%}{dist:>10.3f}")

    modes, share_near = mode_coverage(held_out)
    distances = {"floor": max(map(abs, floor)), "blob": energy_distance(blob, held_out)}
    show("real points", [modes] * len(runs), modes, share_near, distances["floor"])
    modes, share_near = mode_coverage(blob)
    show("one Gaussian", [modes] * len(runs), modes, share_near, distances["blob"])
    for arm, title in ARMS.items():
        scores = [run[arm] for run in runs]
        now = sum([score.modes_of_the_moment for score in scores]) / len(runs)
        share_near = sum([score.share_near for score in scores]) / len(runs)
        distances[arm] = sum([score.distance for score in scores]) / len(runs)
        show(title, [score.modes for score in scores], now, share_near, distances[arm])
    return distances


def report_histories(runs: list[dict[str, Score]]) -> None:
    """Modes over time, one digit for each check."""
    print(f"\nModes every {CHECK_EVERY} steps, with the exchange of rules in the middle")
    for number, run in enumerate(runs, 1):
        for before, after in EXCHANGED.items():
            digits = ["".join(map(str, run[arm].history)) for arm in (before, after)]
            print(f"run {number}   {before:>7}  {digits[0]}  {digits[1]}  {after}")


def report_pictures(
    held_out: list[list[float]], blob: list[list[float]], run: dict[str, Score]
) -> None:
    """The real points, the one Gaussian and the four generators of a run, three to a row."""
    clouds = {"real points": held_out, ARMS["plain"]: run["plain"].points}
    clouds |= {ARMS["penalty"]: run["penalty"].points, "one Gaussian": blob}
    clouds |= {ARMS[arm]: run[arm].points for arm in ("added", "removed")}
    pictures = [(title, cloud(points, 1.4, 24, 12)) for title, points in clouds.items()]
    print("\nRun 1: the darker, the more points")
    print_side_by_side(pictures[:3])
    print_side_by_side(pictures[3:])


def print_side_by_side(pictures: Sequence[tuple[str, list[str]]]) -> None:
    """(title, lines) each, all lines 24 wide."""
    titles, lines = zip(*pictures)
    for row in (titles, *zip(*lines)):
        print("   ".join([f"{text:<24}" for text in row]).rstrip())


def report_two_numbers() -> float:
    """Play all games with two numbers, show them -> the largest relative error of a prediction."""
    games = [
        ("both at once", TWO_NUMBER_RATE, 0.0, False),
        ("both at once, half the h", TWO_NUMBER_RATE / 2.0, 0.0, False),
        ("in turns", TWO_NUMBER_RATE, 0.0, True),
        ("in turns, with penalty", TWO_NUMBER_RATE, TWO_NUMBER_GAMMA, True),
        ("in turns, large penalty", TWO_NUMBER_RATE, TWO_NUMBER_LARGE_GAMMA, True),
    ]
    print("\nThe game with two numbers: how far from the solution? (start: 1)")
    print(f"{'':<25}factor per step   after {TWO_NUMBER_STEPS} steps: predicted   measured")
    worst, pictures = 0.0, []
    for title, *settings in games:
        matrix, path = linear_step(*settings), two_number_game(*settings)
        ends = [math.hypot(*places[-1]) for places in (predicted_path(matrix), path)]
        predicted, measured = [end / TWO_NUMBER_START for end in ends]
        worst = max(worst, abs(measured / predicted - 1.0))
        print(f"{title:<25}{factor_per_step(matrix):15.5f}{predicted:29.5f}{measured:11.5f}")
        pictures.append((title, cloud(path, 2.2 * TWO_NUMBER_START, 24, 12)))
    print("\ntheta to the right, psi upwards, the solution in the middle")
    print_side_by_side([pictures[0], *pictures[2:4]])
    return worst


def report_conclusion(
    headline: dict[str, float], distances: dict[str, float], runs: list[dict[str, Score]]
) -> None:
    """Say in words what the run has shown."""
    with_it, without = headline["modes_with"], headline["modes_without"]
    gaps = [run["penalty"].modes - run["plain"].modes for run in runs]
    print(
        f"\nModes covered of {NUM_MODES}: {with_it:.1f} with the penalty, {without:.1f} without it."
    )
    if min(gaps) > 0.0:
        print(f"With the penalty it was more in every run, by at least {min(gaps):.1f}.")
    else:
        print("With the penalty it was not more in every run.")
    losses = [sum([run[arm].d_loss for run in runs]) / len(runs) for arm in ("penalty", "plain")]
    print(
        f"The discriminator's mean loss was {losses[0]:.2f} with, {losses[1]:.2f} without: the loss"
    )
    print("alone does not say which generator is the better one.")
    if distances["plain"] > distances["blob"]:
        print("By energy distance the plain GAN is further from the data than one Gaussian:")
        print("sharp points near some clusters do not make up for the ones that are missing.")
    added, removed = headline["modes_added"], headline["modes_removed"]
    if added > without:
        print(f"Added later, the penalty leads from {without:.1f} to {added:.1f} modes.")
    word = "falls to" if removed < with_it else "stays at"
    print(f"Taken away, the number {word} {removed:.1f} at the end.")
    error = headline["two_number_error"]
    print(f"The last distances of the games with two numbers were predicted to {error:.2%}.")


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


def check_is_row(tensor: Tensor, width: int) -> None:
    """Raise ValueError unless the tensor is [1][width], as a bias must be."""
    shape = (len(tensor.data), len(tensor.data[0]))
    if shape != (1, width):
        raise ValueError(f"shapes differ: {shape} and {(1, width)}")


def raise_graph_is_gone(d_out: list[list[float]]) -> None:
    """Stand where a graph has been taken apart by backward()."""
    raise RuntimeError("backward() has already taken this graph apart: run the forward again")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N][in] times the transpose of weight [out][in], plus bias [1][out] -> [N][out].

    Row n of the result holds the dot products of row n of x with every row of weight.
    """
    if len(x.data[0]) != len(weight.data[0]):
        raise ValueError(f"x has {len(x.data[0])} columns, weight {len(weight.data[0])}")
    out = [[dot(row, w) for w in weight.data] for row in x.data]
    if bias is not None:
        check_is_row(bias, len(weight.data))
        out = [list(map(add, row, bias.data[0])) for row in out]

    # y[n][o] = sum_i x[n][i] w[o][i]. So dy/dx = w and dy/dw = x, and with all paths added up
    #   d_x[n][i] = sum_o d_out[n][o] w[o][i]       d_x      = d_out @ weight
    #   d_w[o][i] = sum_n d_out[n][o] x[n][i]       d_weight = transpose(d_out) @ x
    def pass_back(d_out: list[list[float]]) -> tuple:
        columns = transpose(d_out)
        d_x = matmul(d_out, weight.data) if x.requires_grad else None
        d_weight = matmul(columns, x.data) if weight.requires_grad else None
        if bias is None:
            return d_x, d_weight
        return d_x, d_weight, [[sum(column) for column in columns]]

    return Tensor(out, (x, weight) if bias is None else (x, weight, bias), pass_back)


def mm(a: Tensor, b: Tensor) -> Tensor:
    """Matrix product: a [N][K] times b [K][M] -> [N][M]."""
    if len(a.data[0]) != len(b.data):
        raise ValueError(f"a has {len(a.data[0])} columns, b {len(b.data)} rows")

    # y[n][m] = sum_k a[n][k] b[k][m], so d_a = d_out @ transpose(b), d_b = transpose(a) @ d_out.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_a = [[dot(d_row, row) for row in b.data] for d_row in d_out] if a.requires_grad else None
        d_b = matmul(transpose(a.data), d_out) if b.requires_grad else None
        return d_a, d_b

    return Tensor(matmul(a.data, b.data), (a, b), pass_back)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x above zero, negative_slope x elsewhere, entry by entry."""
    return elementwise(
        x,
        lambda value: value if value > 0.0 else negative_slope * value,
        lambda value, _: 1.0 if value > 0.0 else negative_slope,
    )


def elementwise(x: Tensor, function: Callable[[float], float], slope: Callable) -> Tensor:
    """function of every entry of x [N][M]; slope(input, output) is its derivative."""
    data = [list(map(function, row)) for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        return (
            [
                list(map(mul, d_row, map(slope, x_row, y_row)))
                for d_row, x_row, y_row in zip(d_out, x.data, data)
            ],
        )

    return Tensor(data, (x,), pass_back)


def sigmoid_of(value: float) -> float:
    """1 / (1 + exp(-value)), written so that exp never sees a large positive number.

    >>> sigmoid_of(0.0), sigmoid_of(-800.0), sigmoid_of(800.0)
    (0.5, 0.0, 1.0)
    """
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


def softplus(value: float) -> float:
    """log(1 + exp(value)) of one number, written so that exp never sees a large positive one.

    >>> round(softplus(0.0), 6), softplus(-800.0), softplus(800.0)
    (0.693147, 0.0, 800.0)
    """
    return max(value, 0.0) + math.log1p(exp(-abs(value)))


def binary_cross_entropy_with_logits(logits: Tensor, targets: list[list[float]]) -> Tensor:
    """Mean over all entries of -(t log s + (1 - t) log(1 - s)) with s = sigmoid(logit): logits
    [N][M], plain targets [N][M] between 0 and 1 -> [1][1], in nats.

    -log s = softplus(-z) and -log(1 - s) = softplus(z) = softplus(-z) + z, hence
    softplus(z) - t z: no logarithm of a number that was rounded to zero.
    """
    if len(logits.data) != len(targets) or len(logits.data[0]) != len(targets[0]):
        raise ValueError(
            f"logits are {len(logits.data)} x {len(logits.data[0])}, "
            f"targets {len(targets)} x {len(targets[0])}"
        )
    count = len(targets) * len(targets[0])
    pairs = [(z, goal) for row, goals in zip(logits.data, targets) for z, goal in zip(row, goals)]
    loss = sum([softplus(z) - goal * z for z, goal in pairs]) / count

    # The slope of softplus is the sigmoid, so d_z = (s - t) / count.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        return (
            [
                [factor * (sigmoid_of(z) - goal) for z, goal in zip(row, goals)]
                for row, goals in zip(logits.data, targets)
            ],
        )

    return Tensor([[loss]], (logits,), pass_back)


def mse_loss(x: Tensor, target: list[list[float]]) -> Tensor:
    """Mean of (x - target)^2 over all entries: x [N][M], plain target [N][M] -> [1][1]."""
    if len(x.data) != len(target) or len(x.data[0]) != len(target[0]):
        raise ValueError(
            f"x is {len(x.data)} x {len(x.data[0])}, target {len(target)} x {len(target[0])}"
        )
    errors = [list(map(sub, row, goal)) for row, goal in zip(x.data, target)]
    count = len(errors) * len(errors[0])
    loss = sum([dot(row, row) for row in errors]) / count

    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = 2.0 * d_out[0][0] / count
        return ([[factor * error for error in row] for row in errors],)

    return Tensor([[loss]], (x,), pass_back)


# === APPENDIX: OPTIMISER (common/optim.py; microoptimizer.py explains it) ===


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


# === APPENDIX: PICTURES (common/pictures.py) ===

SHADES = " .:-=+*#%@"  # from empty to full


def cloud(
    points: Sequence[Sequence[float]], reach: float, columns: int = 32, lines: int = 16
) -> list[str]:
    """Points (x, y) from -reach to reach in both directions, as lines of characters: the darker,
    the more points lie there. Points further out are left away.

    >>> cloud([(-1.0, 1.0), (0.9, -0.9)], reach=1.0, columns=4, lines=2)
    ['@   ', '   @']
    """
    counts = [[0] * columns for _ in range(lines)]
    for x, y in points:
        if max(abs(x), abs(y)) <= reach:
            column = int((x + reach) / (2.0 * reach) * columns)
            line = int((reach - y) / (2.0 * reach) * lines)
            counts[min(line, lines - 1)][min(column, columns - 1)] += 1
    fullest = max(map(max, counts)) or 1
    top = len(SHADES) - 1
    # Square roots lift thin places, and whatever is not empty shows at least a dot.
    levels = [[1 + (n / fullest) ** 0.5 * (top - 1) if n else 0 for n in row] for row in counts]
    return ["".join([SHADES[round(level)] for level in row]) for row in levels]


if __name__ == "__main__":
    main()
