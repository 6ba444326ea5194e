"""A network that has only learned to remove noise can draw new points, starting from pure noise.

Mix a real point with noise. The more noise, the less of the point is left, until nothing is. A
network is shown such mixtures and learns to guess what was mixed. That is plain regression, with
no opponent as in a GAN. To draw a new point, start from pure noise, let the network guess, go a
small part of the way to its guess, and let it guess again from there.

The data is a ring of eight small clusters, the one of microgan. Its density is known, so the best
possible guess can be computed: no other has a lower squared error. It takes the network's place, in
the same samplers and the same table. What goes wrong even then cannot be the network's fault. One
network serves three samplers: DDPM's, DDIM's, and the plain Euler steps that are usual with flow
matching. Look at three things: how many guesses each sampler needs; how much hangs on the size of
its last step; and when it is the sampler that fails, and when the network. ("Guess" is our word for
what the literature calls the network's prediction.)

In the code       In the papers     Meaning                                          Shape
clean             x_0               real points                                      [N][2]
noise             eps               standard normal numbers                          [N][2]
t, levels         t                 share of noise in a mixture: 0 clean, 1 noise    a number, N
noisy, points     x_t               (1 - t) clean + t noise                          [N][2]
velocity          v, u_t            noise - clean                                    [N][2]
guessed_...                         what the network (or the best guess) answers     [N][2]
alpha_bar         alpha-bar_t       square of the clean point's weight in DDPM       a number
(Rectified flow and SD3 have the noise at t = 1, as here; Lipman et al. have it at t = 0. DDPM
counts its levels from 1 to 1,000 and weighs the two parts otherwise: THREE SAMPLERS translates.)

What is left out: images with their U-Nets, transformers and latent spaces; guidance by a class or a
text; samplers of higher order (Heun, DPM-Solver++); and distillation to a few steps (consistency
models, DMD2, MeanFlow). Every batch is freshly drawn from the density. With a finite training set
the best guess, in many steps, would only lead back to points of that set. Real networks miss it a
little, and so draw new ones.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microdiffusion.json under that key.

Read first: microautograd.

Papers: Sohl-Dickstein et al., "Deep Unsupervised Learning using Nonequilibrium Thermodynamics",
2015, arXiv:1503.03585. Ho et al., "Denoising Diffusion Probabilistic Models", 2020,
arXiv:2006.11239 (DDPM). J. Song et al., "Denoising Diffusion Implicit Models", 2020,
arXiv:2010.02502 (DDIM). Y. Song et al., "Score-Based Generative Modeling through Stochastic
Differential Equations", 2020, arXiv:2011.13456. Lipman et al., "Flow Matching for Generative
Modeling", 2022, arXiv:2210.02747. Liu et al., "Flow Straight and Fast", 2022, arXiv:2209.03003
(rectified flow). Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023,
arXiv:2305.08891. Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image
Synthesis", 2024, arXiv:2403.03206 (Stable Diffusion 3).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from math import exp
from operator import add, mul, sub

# === CONSTANTS ===

SEED = 42
NUM_MODES = 8  # clusters on the circle of radius 1
SIGMA = 0.05  # standard deviation of a cluster; two neighbours are 0.77 apart

WIDTH = 32  # units in each of the two hidden layers: small, to keep the run short
FREQUENCIES = (2.0, 4.0, 8.0)  # of the waves sin(f x) through which the network sees x and y
LEVEL_FREQUENCIES = (1.0, 2.0, 4.0, 8.0)  # ... and t
NUM_STEPS = 1000
BATCH_SIZE = 64  # points per step
LEARNING_RATE = 0.02  # at first; it falls to 0 in a straight line
ADAM_BETAS = (0.9, 0.99)  # DDPM has betas of its own, further below

NUM_GUESSES = (5, 10, 20, 40)  # how often a sampler may ask: its cost
FEW = 10  # the number of guesses behind the headline numbers
FINE = 20  # ... and behind the pictures
NUM_POINTS = 500  # points that are drawn to score a sampler
NUM_TEST = 4000  # mixtures that are held out to measure the loss

# === THE DATA, AND THE NOISE ===

# Nothing in the method is special to two dimensions, but here one can see what comes out.

Matrix = list[list[float]]


def mode_centers() -> list[tuple[float, float]]:
    """The centers of the clusters (the modes of the density), evenly spaced on the circle."""
    angles = [2.0 * math.pi * k / NUM_MODES for k in range(NUM_MODES)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def ring_of_gaussians(num_points: int, rng: random.Random) -> Matrix:
    """Draw fresh real points [N][2]: choose a center, add Gaussian noise."""
    centers = rng.choices(mode_centers(), k=num_points)
    return [[rng.gauss(x, SIGMA), rng.gauss(y, SIGMA)] for x, y in centers]


def normal_noise(num_points: int, rng: random.Random) -> Matrix:
    """Standard normal numbers [N][2]."""
    return [[rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)] for _ in range(num_points)]


# Why mix in noise at all? In practice one cannot draw from the data's density: there are only
# examples. (Here we could, and pretend that we cannot.) Noise can be drawn. The mixtures join the
# two in small steps: the density at one level is almost the density at the next. The way up is one
# line, and gives as many training examples as we like. The way down has to be learned.


def mix(clean: Matrix, noise: Matrix, levels: Sequence[float]) -> Matrix:
    """(1 - t) clean + t noise, each row with its own level t: [N][2], [N][2], N -> [N][2].

    A quarter of the way from the point (1, 0) to the noise (-1, 2):
    >>> mix([[1.0, 0.0]], [[-1.0, 2.0]], [0.25])
    [[0.5, 0.5]]
    """
    return [
        [(1.0 - t) * c + t * n for c, n in zip(clean_row, noise_row)]
        for clean_row, noise_row, t in zip(clean, noise, levels)
    ]


# The network is given the mixture and t, and guesses the velocity, noise - clean. From this one
# guess follow two others. Since
# noisy = clean + t * velocity = noise - (1 - t) * velocity,
#
#     guessed_clean = noisy - t * velocity         guessed_noise = noisy + (1 - t) * velocity
#
# In the example: velocity (-2, 2), and (0.5, 0.5) - 0.25 * (-2, 2) = (1, 0), the clean point again.
# DDPM's network guesses the noise instead; its loss is |eps - eps_theta(x_t, t)|^2. Each guess can
# be turned into the other, and the squared error in the noise is (1 - t)^2 times the one in the
# velocity. So at one and the same t near 1 that loss cares little. (Against that, DDPM draws such t
# more often.) At t = 1 itself a guess of the noise says nothing about the clean point, which is
# (noisy - t * noise) / (1 - t). The velocity says something at every level: so we train on it.


def split_guess(points: Matrix, velocity: Matrix, t: float) -> tuple[Matrix, Matrix]:
    """Points and guessed velocities [N][2] at level t -> (guessed_clean, guessed_noise), [N][2]."""
    pairs = list(zip(points, velocity))
    guessed_clean = [[x - t * v for x, v in zip(*rows)] for rows in pairs]
    guessed_noise = [[x + (1.0 - t) * v for x, v in zip(*rows)] for rows in pairs]
    return guessed_clean, guessed_noise


# === THE NETWORK AND ITS TRAINING ===

# A multilayer perceptron, 22 -> 32 -> 32 -> 2. Such networks are slow to learn fine detail, and the
# clusters are fine. So besides x and y it is given sines and cosines of them (Fourier features:
# Tancik et al., 2020, arXiv:2006.10739), and t in the same way. Without the waves of x and y, flow
# brings only 46% [results: no_waves.network_flow_few] of the points near a cluster (10 guesses).

Layers = list[tuple["Tensor", "Tensor"]]  # (weight, bias) of each


def new_network(rng: random.Random) -> Layers:
    """Random layers: a weight [out][in], laid out as in torch.nn.Linear, and a bias [1][out]."""
    num_features = len(features([0.0, 0.0], 0.0))
    layers = []
    for num_in, num_out in [(num_features, WIDTH), (WIDTH, WIDTH), (WIDTH, 2)]:
        # So a linear map keeps its input's size. SiLU about halves it: no harm with two of them.
        deviation = num_in**-0.5
        weight = [[rng.gauss(0.0, deviation) for _ in range(num_in)] for _ in range(num_out)]
        layers.append((Tensor(weight), Tensor([[0.0] * num_out])))
    return layers


def features(point: Sequence[float], t: float) -> list[float]:
    """What the network is shown of a point and its level."""
    x, y = point
    angles = [f * value for f in FREQUENCIES for value in (x, y)]
    angles += [f * t for f in LEVEL_FREQUENCIES]
    return [x, y, *map(math.sin, angles), *map(math.cos, angles)]


def forward(layers: Layers, points: Matrix, levels: Sequence[float]) -> Tensor:
    """Points [N][2] and their N levels -> guessed velocities [N][2]."""
    rows = [features(point, t) for point, t in zip(points, levels)]
    x = Tensor(rows, requires_grad=False)
    for weight, bias in layers[:-1]:
        x = silu(linear(x, weight, bias))
    return linear(x, *layers[-1])


def train(layers: Layers, rng: random.Random) -> None:
    """Teach the network to guess velocities.

    Training does not walk through the levels, as is often believed. Each point is mixed once, at
    one random level, and guessed once. Only drawing takes many steps. (Large models also keep a
    moving average of their weights, and draw with that.)
    """
    optimizer = Adam([p for layer in layers for p in layer], ADAM_BETAS)
    recent: list[tuple[float, float]] = []
    for step in range(1, NUM_STEPS + 1):
        clean, noise = ring_of_gaussians(BATCH_SIZE, rng), normal_noise(BATCH_SIZE, rng)
        levels = draw_levels(BATCH_SIZE, rng)
        noisy = mix(clean, noise, levels)
        velocity = subtract(noise, clean)

        loss = mse_loss(forward(layers, noisy, levels), velocity)
        loss.backward()
        optimizer.step(LEARNING_RATE * (1.0 - (step - 1) / NUM_STEPS))

        # What the best possible guess would have lost on this batch; computed further below.
        best = mse_loss(Tensor(best_guess(noisy, levels)), velocity)
        recent.append((loss.item(), best.item()))
        if step % 100 == 0:
            ours, floor = [sum(column) / len(recent) for column in zip(*recent)]
            print(
                f"step {step:4d}/{NUM_STEPS} | loss {ours:.3f} | best possible {floor:.3f}",
                flush=True,
            )
            recent.clear()


def draw_levels(count: int, rng: random.Random) -> list[float]:
    """Random levels between 0 and 1, one in each of `count` equal parts. So every batch has its
    share of easy and of hard mixtures, and the loss jumps about less. (That is no part of the
    method. SD3 draws more of them near the middle: the sigmoid of a normal number, logit-normal.)
    """
    return [(i + rng.random()) / count for i in range(count)]


def subtract(a: Matrix, b: Matrix) -> Matrix:
    """a - b, entry by entry."""
    return [[x - y for x, y in zip(*rows)] for rows in zip(a, b)]


# === DRAWING: MANY SMALL STEPS ===

# Why not take the guessed clean point and be done? At t = 1 the best guess is the mean of all data,
# (0, 0), where there is no data: a guess is an average of all that is possible. But it is good
# enough for a small step down, to a level s below t. Split the point into guessed clean point and
# guessed noise, and mix these two again with less noise. From the new place, guess anew.
#
#     next = (1 - s) guessed_clean + s guessed_noise                     (DDIM and flow matching)
#
# Put in the two guesses, and this is point + (s - t) * velocity: a step of Euler's method for the
# differential equation d(point)/dt = velocity. The examples at one place had different velocities;
# here every point takes their mean. Why is that right? How a density changes depends only on how
# much crosses each place, and so on the mean velocity there (the continuity equation). So with the
# best guess, as steps get smaller, the drawn points come to be distributed as the mixtures of each
# level are. A long step follows the tangent of its path, and misses where the path bends.
#
# DDPM draws fresh noise in each step. It thinks of the mixture at t as the one at s, shrunk, plus
# fresh noise. So the noise at t is in part that of s and in part new, and their correlation is
#
#     keep = (s / (1 - s)) / (t / (1 - t))       ratio of noise to signal at s, divided by that at t
#
# Given the noise at t, the noise at s is then normal, with mean keep * noise and variance
# 1 - keep^2. (For a known clean point this is the paper's q(x_s | x_t, x_0).) Draw from that:
#
#     noise at s = keep * guessed_noise + sqrt(1 - keep^2) * fresh noise                    (DDPM)
#
# From t = 0.5 to s = 0.4, keep = 0.67 and the weight of the fresh noise is 0.75. The true noise
# would keep its variance of 1. The guess is a mean, and smaller: so here, too, steps must be short.


def denoise_step(
    points: Matrix, velocity: Matrix, t: float, s: float, rng: random.Random | None
) -> Matrix:
    """From level t down to level s: points [N][2] -> [N][2]. With an rng, the noise is renewed
    (that needs t > 0 and s < 1).

    >>> denoise_step([[0.5, 0.5]], [[-2.0, 2.0]], 0.25, 0.0, None)
    [[1.0, 0.0]]
    """
    guessed_clean, noise = split_guess(points, velocity, t)
    if rng is not None:
        keep = (s / (1.0 - s)) * ((1.0 - t) / t)
        renew = math.sqrt(1.0 - keep * keep)
        fresh = normal_noise(len(points), rng)
        noise = [[keep * n + renew * f for n, f in zip(*rows)] for rows in zip(noise, fresh)]
    return mix(guessed_clean, noise, [s] * len(points))


Guess = Callable[[Matrix, Sequence[float]], Matrix]  # points, levels -> velocities


def draw_points(
    guess: Guess, levels: Sequence[float], noise: Matrix, rng: random.Random | None
) -> list[Matrix]:
    """Start from noise [N][2] and go down all levels -> the points [N][2] at each of them.

    A step costs one run of the network on all points. (The pictures need the path; the result
    needs only its end.)
    """
    # (At DDPM's first level, 0.994, a bit of the clean point is left: its mean, 0, stands for it.)
    points = [[levels[0] * x for x in row] for row in noise]
    path = [points]
    for t, s in zip(levels, levels[1:]):
        velocity = guess(points, [t] * len(points))
        points = denoise_step(points, velocity, t, s, rng)
        path.append(points)
    return path


# === THREE SAMPLERS: WHICH LEVELS TO VISIT ===

# At which levels should the network be asked? Flow matching takes equal steps in t. DDPM has 1,000
# levels of its own, and other weights. One level up is
#
#     x <- sqrt(1 - beta) * x + sqrt(beta) * fresh noise           beta rises from 0.0001 to 0.02
#
# Sums of independent normal numbers are normal, and their variances add up. So a point at level k
# is sqrt(alpha_bar) * clean + sqrt(1 - alpha_bar) * noise, where alpha_bar is the product of (1 -
# beta) up to k. Two levels with betas 0.19 and 0.51, for example: alpha_bar = 0.81 * 0.49 = 0.3969,
# which makes 0.630 * clean + 0.777 * noise. Divided by the sum of these weights, 1.407, it is a
# mixture of ours with t = 0.777 / 1.407 = 0.552, and with the same noise in it. So one network
# serves all samplers, and DDPM and flow matching are one method with different levels, weights and
# targets. DDPM's step down from one level to the next reads, in its paper (z is fresh noise),
#
#     x <- (x - beta / sqrt(1 - alpha_bar) * guessed_noise) / sqrt(1 - beta) + sigma * z
#
# With each level's sum of weights divided out of its points, this is denoise_step (for the smaller
# of the paper's two sigmas). To make fewer guesses, take every 25th level, or every 200th. The
# betas belong to 1,000 levels. Spread over 100, they let alpha_bar end at 0.36: drawing starts from
# pure noise, where training never went beyond 0.6 * clean + 0.8 * noise. (Lin et al., 2023.)


def even_levels(num_guesses: int) -> list[float]:
    """From 1 down to 0 in equal steps: num_guesses + 1 levels.

    >>> even_levels(4)
    [1.0, 0.75, 0.5, 0.25, 0.0]
    """
    return [1.0 - i / num_guesses for i in range(num_guesses + 1)]


def ddpm_levels(num_guesses: int) -> list[float]:
    """DDPM's levels as shares of noise, evenly chosen from its 1,000: num_guesses + 1 of them."""
    alpha_bars = [1.0]  # 0 levels up
    for k in range(1000):
        beta = 1e-4 + (0.02 - 1e-4) * k / 999
        alpha_bars.append(alpha_bars[-1] * (1.0 - beta))
    levels = []
    for i in range(num_guesses, -1, -1):
        alpha_bar = alpha_bars[round(1000 * i / num_guesses)]
        signal, noise = math.sqrt(alpha_bar), math.sqrt(1.0 - alpha_bar)
        levels.append(noise / (signal + noise))
    return levels


def moved_levels(num_guesses: int) -> list[float]:
    """DDPM's levels, but the second from the top is moved down to where flow's last step begins."""
    first, _, *others = ddpm_levels(num_guesses)
    return sorted([first, *others, 1.0 / num_guesses], reverse=True)


# DDPM and DDIM differ in the fresh noise only, DDIM and "moved" in one level. In diffusers they are
# DDPMScheduler and DDIMScheduler, with timestep_spacing="trailing" and clip_sample=False (these are
# not the defaults), and FlowMatchEulerDiscreteScheduler.
SAMPLERS = {
    "DDPM": (ddpm_levels, True),  # True: the noise is renewed in every step
    "DDIM": (ddpm_levels, False),
    "moved": (moved_levels, False),
    "flow": (even_levels, False),
}

# === THE BEST POSSIBLE GUESS ===

# The loss cannot fall to 0. Many clean points, with different noise, give one and the same mixture.
# The squared error is least for the mean of all velocities that are possible there, and how much
# these differ from their mean remains: the floor. Where the density is known, so is the mean.
# Bayes' rule first says how likely it is that the mixture came from cluster k. Mixtures from there
# are Gaussian, with mean (1 - t) * center_k and variance ((1 - t) * SIGMA)^2 + t^2. Since all
# clusters are equally frequent and equally wide,
#
#     weight_k = softmax over k of (-|noisy - (1 - t) * center_k|^2 / (2 * variance))


def mode_weights(
    point: Sequence[float], t: float, centers: Sequence[Sequence[float]], spread: float
) -> list[float]:
    """How likely each center is to be the origin of this mixture: numbers that sum to 1.

    Half noise, at a place on the way to center 0: its origin is still anybody's guess.
    >>> [round(w, 2) for w in mode_weights([0.4, 0.0], 0.5, mode_centers(), SIGMA)]
    [0.24, 0.19, 0.11, 0.06, 0.05, 0.06, 0.11, 0.19]
    """
    variance = ((1.0 - t) * spread) ** 2 + t * t
    x, y = point
    squares = [(x - (1.0 - t) * cx) ** 2 + (y - (1.0 - t) * cy) ** 2 for cx, cy in centers]
    return softmax_row([-square / (2.0 * variance) for square in squares])


def mean_velocity(
    point: Sequence[float], t: float, centers: Sequence[Sequence[float]], spread: float
) -> list[float]:
    """The mean of noise - clean over all that may have been mixed to this point -> [2]."""
    weights = mode_weights(point, t, centers, spread)
    variance = ((1.0 - t) * spread) ** 2 + t * t
    velocity = []
    for x, column in zip(point, zip(*centers)):
        # For one cluster: the mixture's offset from the shrunk center is partly the clean point's
        # place in the cluster and partly noise, and is split in proportion to their variances. That
        # is linear in the center; so over all clusters, put in the mean center.
        center = dot(weights, column)
        off = (x - (1.0 - t) * center) / variance
        guessed_clean = center + (1.0 - t) * spread * spread * off
        guessed_noise = t * off
        velocity.append(guessed_noise - guessed_clean)
    return velocity


def best_guess(points: Matrix, levels: Sequence[float]) -> Matrix:
    """What a perfect network would answer: [N][2], N -> velocities [N][2]."""
    centers = mode_centers()
    return [mean_velocity(point, t, centers, SIGMA) for point, t in zip(points, levels)]


def linear_guess(points: Matrix, levels: Sequence[float]) -> Matrix:
    """The best answer of somebody who takes the ring for one Gaussian of the same mean and spread
    (it is linear in the point): the guess to beat.
    """
    spread = math.sqrt(0.5 + SIGMA * SIGMA)  # a circle of radius 1 has variance 1/2 along x
    return [mean_velocity(point, t, [(0.0, 0.0)], spread) for point, t in zip(points, levels)]


# Guessing the noise is guessing the score, the slope of the log density of the mixtures: the best
# guessed_noise is -t * grad log p_t(noisy) (Tweedie's formula; a test checks it). So the network of
# a "score-based model" learns the same thing, up to a factor.

# === MEASURING ===

# The measures are those of microgan. The table below will show that with few guesses DDIM does far
# worse than flow, and that moving one of its levels down repairs most of it. Why? DDIM's last step
# is long: from t = 0.25 straight to the guessed clean point. Where two clusters are still possible,
# the best guess lies between them. Three checks, each a run of its own, with 10 guesses:
#
#   - Is it only that a level at the top is missing? Move it down to 0.4 instead, and the best guess
#     brings 58% [results: moved_to_middle.best_moved_few] of the points near, no more than before.
#   - Is flow good for another reason? Let it, too, end with a step from 0.25 (0.2 becomes 0.25, and
#     0.1 goes up to 0.95), and it falls to 60% [results: long_last_step.best_flow_few].
#   - Was the network trained in flow's favour? Train it at DDPM's levels, and the network brings
#     59% [results: ddpm_trained.network_ddim_few] there by DDIM, still fewer than the
#     78% [results: ddpm_trained.network_flow_few] by flow.
#
# Which levels are good depends on the data. An image of a million pixels can be recognised through
# far more noise than a single point. So Stable Diffusion 3 shifts its levels towards t = 1, and
# further for larger images (`shift` in diffusers).


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

    Its expected value is 0 if both come from one distribution, and larger otherwise: points of
    different samples are then further apart, on average, than points of the same sample. A point
    is not compared with itself: so the estimate has no bias, and is slightly negative at times.

    Two points at 0 against two at 3: 2 * 3 - 0 - 0.
    >>> energy_distance([[0.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [3.0, 0.0]])
    6.0
    """

    def mean_within(points: Sequence[Sequence[float]]) -> float:
        total = sum([math.dist(p, q) for i, p in enumerate(points) for q in points[:i]])
        return total / (len(points) * (len(points) - 1) / 2)

    across = sum([math.dist(p, q) for p in a for q in b]) / (len(a) * len(b))
    return 2.0 * across - mean_within(a) - mean_within(b)


def held_out_losses(guesses: dict[str, Guess], rng: random.Random) -> dict[str, float]:
    """The mean squared error of each guess, all on the same NUM_TEST fresh mixtures."""
    clean, noise = ring_of_gaussians(NUM_TEST, rng), normal_noise(NUM_TEST, rng)
    levels = draw_levels(NUM_TEST, rng)
    noisy, velocity = mix(clean, noise, levels), subtract(noise, clean)
    return {
        name: mse_loss(Tensor(guess(noisy, levels)), velocity).item()
        for name, guess in guesses.items()
    }


def near_after_jump(t: float, rng: random.Random) -> float:
    """The share of 500 true mixtures of level t that the best guess brings near in one step."""
    noisy = mix(ring_of_gaussians(500, rng), normal_noise(500, rng), [t] * 500)
    return mode_coverage(denoise_step(noisy, best_guess(noisy, [t] * 500), t, 0.0, None))[1]


def draw_with_all(guesses: dict[str, Guess], noise: Matrix) -> dict[tuple, list[Matrix]]:
    """All paths from one noise [N][2] (and, where it is renewed, with the same fresh noise)."""
    return {
        (name, sampler, n): draw_points(
            guess, levels(n), noise, random.Random(SEED + 1) if renews else None
        )
        for name, guess in guesses.items()
        for sampler, (levels, renews) in SAMPLERS.items()
        for n in NUM_GUESSES
    }


def main() -> dict[str, object]:
    """Train one network, and let the samplers use it and the best guess."""
    rng = random.Random(SEED)
    network = new_network(rng)
    num_numbers = sum(len(p.data) * len(p.data[0]) for layer in network for p in layer)
    print(f"The data: {NUM_MODES} clusters of width {SIGMA} on a circle of radius 1.")
    print(f"A network of {num_numbers:,} parameters learns to guess noise - clean.\n")
    start = time.perf_counter()
    train(network, rng)
    print(f"time  training took {time.perf_counter() - start:.1f} s")

    constants = frozen(network)
    guesses: dict[str, Guess] = {
        "linear guess": linear_guess,
        "network": lambda points, levels: forward(constants, points, levels).data,
        "best guess": best_guess,
    }
    losses = held_out_losses(guesses, rng)
    learnable = losses["linear guess"] - losses["best guess"]
    learned = (losses["linear guess"] - losses["network"]) / learnable
    report_losses(losses, learned)

    noise, real = normal_noise(NUM_POINTS, rng), ring_of_gaussians(NUM_POINTS, rng)
    start = time.perf_counter()
    paths = draw_with_all({name: guesses[name] for name in ("network", "best guess")}, noise)
    print(f"time  drawing took {time.perf_counter() - start:.1f} s")
    shares = {key: mode_coverage(path[-1])[1] for key, path in paths.items()}
    report_shares(shares)
    jumps = report_levels(rng)
    ends = {
        name: draw_points(guess, even_levels(FINE), noise, None)[-1]
        for name, guess in guesses.items()
    }
    report_pictures(paths["network", "flow", FINE], ends)
    distances = report_scores(ends, real, rng)
    headline = {
        "best_flow_few": shares["best guess", "flow", FEW],
        "best_moved_few": shares["best guess", "moved", FEW],
        "best_ddim_few": shares["best guess", "DDIM", FEW],
        "network_flow_few": shares["network", "flow", FEW],
        "network_ddim_few": shares["network", "DDIM", FEW],
        "learned": learned,
    }
    report_conclusion(shares, losses, distances)
    details = {"losses": losses, "shares": shares, "distances": distances, "jumps": jumps}
    return {**headline, "details": details | {"paths": paths}}


# === APPENDIX: REPORT AND HELPERS ===


def frozen(layers: Layers) -> Layers:
    """The same numbers as constants: what is computed with them keeps no graph (torch.no_grad)."""
    return [tuple(Tensor(p.data, requires_grad=False) for p in layer) for layer in layers]


def report_losses(losses: dict[str, float], learned: float) -> None:
    """The loss of the network between the guess to beat and the floor."""
    print(f"\nLoss on {NUM_TEST:,} fresh mixtures")
    notes = {
        "linear guess": "the ring taken for one Gaussian",
        "network": f"{learned:.0%} of the way from the line above to the line below",
        "best guess": "computed from the density: the floor",
    }
    for name, loss in losses.items():
        print(f"{name:<14}{loss:.3f}   {notes[name]}")


def report_shares(shares: dict[tuple[str, str, int], float]) -> None:
    """One line for each number of guesses, one column for each kind of guess and sampler."""
    names = list(dict.fromkeys([name for name, _, _ in shares]))
    width = 7 * len(SAMPLERS)
    luck = 2.0 * math.sqrt(2.0 * 0.25 / NUM_POINTS)  # two standard errors of a difference, at most
    print(f"\nHow many of {NUM_POINTS} drawn points lie near a cluster?")
    print("         " + "   ".join([f"{name:>{width}}" for name in names]))
    print("guesses  " + "   ".join(["".join([f"{s:>7}" for s in SAMPLERS])] * len(names)))
    for n in NUM_GUESSES:
        cells = ["".join([f"{shares[name, s, n]:7.0%}" for s in SAMPLERS]) for name in names]
        print(f"{n:7d}  " + "   ".join(cells))
    print("moved: DDIM with its second level moved down, to where flow takes its last step")
    print(f"(Differences up to {luck:.0%} can be luck; less, where columns share all their noise.)")


def report_levels(rng: random.Random) -> list[float]:
    """A ruler of the levels at which the samplers guess, and where a jump to 0 leads from each."""
    columns = 61
    print(f"\nAt which levels are the {FEW} guesses made? From noise (t = 1) to clean (t = 0)")
    marks = [f"{t:.1f}" for t in even_levels(5)]
    print(f"{'t':<12}" + "".join([f"{mark:<12}" for mark in marks]).rstrip())
    rulers = {"flow": even_levels, "DDPM, DDIM": ddpm_levels, "moved": moved_levels}
    for title, levels in rulers.items():
        places = [round((1.0 - t) * (columns - 1)) for t in levels(FEW)[:-1]]
        ruler = "".join(["|" if i in places else " " for i in range(columns)])
        print(f"{title:<12}{ruler}".rstrip())
    jumps = [near_after_jump(t, rng) for t in even_levels(columns - 1)]
    top = len(SHADES) - 1
    print(f"{'jump':<12}" + "".join([SHADES[int(share * top + 0.5)] for share in jumps]))
    print("jump: from a perfect point at t straight to the best guess, how many land near")
    print("a cluster: none (blank) to all (@). Each sampler's last step is such a jump:")
    for title, levels in rulers.items():
        last = levels(FEW)[-2]
        print(f"{title:<12}from t = {last:.2f}: {near_after_jump(last, rng):.0%}")
    return jumps


def report_pictures(path: list[Matrix], ends: dict[str, Matrix]) -> None:
    """The network's points at three levels on the way, and where all three guesses lead."""
    levels = even_levels(FINE)
    steps = [0, FINE // 2, FINE * 3 // 4]
    print(f"\nFrom noise to points: flow, {FINE} guesses; the darker, the more points")
    way = [(f"network, t = {levels[i]:.2f}", cloud(path[i], 1.4, 24, 12)) for i in steps]
    print_side_by_side(way)
    print_side_by_side([(f"{name}, t = 0", cloud(end, 1.4, 24, 12)) for name, end in ends.items()])


def print_side_by_side(pictures: Sequence[tuple[str, list[str]]]) -> None:
    """(title, lines) each, all lines 24 wide."""
    titles, lines = zip(*pictures)
    for row in (titles, *zip(*lines)):
        print("   ".join([f"{text:<24}" for text in row]).rstrip())


def report_scores(ends: dict[str, Matrix], real: Matrix, rng: random.Random) -> dict[str, float]:
    """Measures of the points in the pictures -> the energy distance of each to real points."""
    samples = [real, *[ring_of_gaussians(NUM_POINTS, rng) for _ in range(4)]]
    # What the energy distance is worth: its size between samples that are all real.
    pairs = [energy_distance(a, b) for i, a in enumerate(samples) for b in samples[:i]]
    distances = {"real": max(map(abs, pairs))}
    print(f"\n{'The same points':<22}modes   near   energy distance to real points")
    modes, near = mode_coverage(samples[1])
    print(f"{'fresh real points':<22}{modes:5d}{near:7.0%}   up to {distances['real']:.4f} by luck")
    for name, points in ends.items():
        modes, near = mode_coverage(points)
        distances[name] = energy_distance(points, real)
        print(f"{name:<22}{modes:5d}{near:7.0%}{distances[name]:15.4f}")
    return distances


def report_conclusion(
    shares: dict[tuple[str, str, int], float],
    losses: dict[str, float],
    distances: dict[str, float],
) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    best = {sampler: shares["best guess", sampler, FEW] for sampler in SAMPLERS}
    ours = {sampler: shares["network", sampler, FEW] for sampler in SAMPLERS}
    print(
        f"\nWith the best guess, asked {FEW} times, {best['flow']:.0%} of flow's points end near a"
    )
    print(f"cluster and {best['DDIM']:.0%} of DDIM's. Nothing is learned there: it is the sampler.")
    by_step, by_noise = best["moved"] - best["DDIM"], abs(best["DDPM"] - best["DDIM"])
    if by_step > (best["flow"] - best["DDIM"]) / 2.0 > 0.0:
        print(
            f"It is mostly the last step. One level moved, to make it short: {best['moved']:.0%}."
        )
    if by_step > 3.0 * by_noise:
        print(f"Fresh noise matters less: {by_noise:.0%} between DDPM and DDIM.")
    print(f"The network reaches {ours['flow']:.0%} by flow and {ours['DDIM']:.0%} by DDIM.")
    if ours["DDIM"] > best["DDIM"]:
        print("In DDIM it comes out ahead of the best guess: the least squared error is not")
        print("what serves a long step best, since a mean can fall between the clusters.")
    if best["DDIM"] - ours["DDIM"] < (best["flow"] - ours["flow"]) / 2.0:
        print(f"So at {FEW} guesses a better network would help flow, and not DDIM.")
    last, before = NUM_GUESSES[-1], NUM_GUESSES[-2]
    many, limit = shares["network", "flow", last], shares["best guess", "flow", last]
    print(
        f"With {last} guesses by flow the network reaches {many:.0%}, the best guess {limit:.0%}."
    )
    few = shares["network", "flow", before]
    if limit - many > many - few:
        print(f"With {before} it had reached {few:.0%}: what is missing was not learned.")
        gap = losses["network"] - losses["best guess"]
        print(f"(The network's loss is still {gap:.3f} above the floor.)")
    if abs(distances["network"]) <= distances["real"] < distances["linear guess"]:
        print(f"The energy distance of {NUM_POINTS} points does not see what is missing.")


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


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), entry by entry. With s = sigmoid(x) its slope is s + x s (1 - s)."""

    def slope(value: float, _: float) -> float:
        s = sigmoid_of(value)
        return s + value * s * (1.0 - s)

    return elementwise(x, lambda value: value * sigmoid_of(value), slope)


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
