"""What the film of microgan shows: the first run's two GANs, before and after they exchange rules.

They are trained as play_run() does, and looked at every EVERY steps: the first points of those that
the script scores, the number of modes that all 500 cover, and the discriminator's p(real) on a
grid. The averages over all runs are those of the recorded run.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

from tracing import recorded

EVERY = 100  # steps
NUM_SHOWN = 90  # points, of the script's 500
REACH, CELLS = 1.5, 15  # the grid of p(real)
PUSH_AT = 100  # the step at which one push is shown, in the GAN with the penalty
TURNS = 260  # of the game with two numbers


def record(script: ModuleType) -> dict:
    """Train one pair, and play the game with two numbers."""
    step_size = 2.0 * REACH / CELLS
    axis = [-REACH + step_size * (i + 0.5) for i in range(CELLS)]
    places = [[x, y] for y in reversed(axis) for x in axis]
    push: dict = {}

    def look(gan: object, step: int) -> dict:
        points = gan.sample(script.NUM_POINTS, random.Random(script.SEED + step))
        logits = script.forward(script.frozen(gan.discriminator), script.constant(places)).data
        return {
            "points": [[round(x, 2) for x in point] for point in points[:NUM_SHOWN]],
            "modes": script.mode_coverage(points)[0],
            "percent": [round(100.0 * script.sigmoid_of(row[0])) for row in logits],
        }

    def one_push(gan: object) -> dict:
        """Generated points of the moment, and where the discriminator's slope sends them."""
        points = gan.sample(12, random.Random(script.SEED), averaged=False)
        slopes: list = []
        layers = script.frozen(gan.discriminator)
        logits = script.forward(layers, script.constant(points), slopes).data
        gradient = script.input_gradient(layers, slopes).data
        steepest = max(range(len(points)), key=lambda i: math.hypot(*gradient[i]))
        moved = [x + 0.15 * g for x, g in zip(points[steepest], gradient[steepest])]
        after = script.forward(layers, script.constant([moved])).data[0][0]
        return {
            "points": points,
            "gradients": gradient,
            "p": [script.sigmoid_of(row[0]) for row in logits],
            "which": steepest,
            "length": 0.15,
            "p_after": script.sigmoid_of(after),
            "percent": look(gan, PUSH_AT)["percent"],
        }

    sides = {}
    for name, gammas in script.GAMMAS.items():
        gan = script.GAN(random.Random(100 * script.SEED + 1))
        looks = [look(gan, 0)]
        for gamma, num_steps in zip(gammas, (script.NUM_STEPS, script.NUM_MORE_STEPS)):
            for step in range(1, num_steps + 1):
                gan.step(gamma)
                if step % EVERY == 0:
                    looks.append(look(gan, step))
                if name == "penalty" and gamma > 0.0 and step == PUSH_AT:
                    push = one_push(gan)
        sides[name] = looks
    rate, gamma = script.TWO_NUMBER_RATE, script.TWO_NUMBER_GAMMA
    games = {
        name: [
            [round(100.0 * x, 2) for x in place]  # the start is 0.01 away; here it is 1
            for place in script.two_number_game(rate, strength, True)[: TURNS + 1]
        ]
        for name, strength in (("plain", 0.0), ("penalty", gamma))
    }
    run = recorded("microgan")["seeds"]["42"]["headline"]
    return {
        "num_modes": script.NUM_MODES,
        "num_runs": script.NUM_RUNS,
        "centers": script.mode_centers(),
        "near": 4.0 * script.SIGMA,
        "real": [
            [round(x, 2) for x in point]
            for point in script.ring_of_gaussians(NUM_SHOWN, random.Random(script.SEED))
        ],
        "reach": REACH,
        "every": EVERY,
        "exchange": script.NUM_STEPS,
        "end": script.NUM_STEPS + script.NUM_MORE_STEPS,
        "push": push,
        "sides": sides,
        "games": games,
        "modes": {key: run[f"modes_{key}"] for key in ("with", "without", "added", "removed")},
    }
