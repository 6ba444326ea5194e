"""What the film of microoptimizer shows: a valley of two weights, and three real problems.

The valley is the script's example, 50 x^2 + 0.5 y^2, once along the axes and once turned. As in
the script, every optimiser starts from 0 and gets the best of several rates, anew for each valley
(constant ones: a rate that falls may leave the picture first). The gaps of the real problems are
found as main() finds them, with all of its rates.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

from tracing import recorded

CURVATURES = (1.0, 100.0)  # along the valley, and across it
GOAL = (6.0, 1.0)  # how far the minimum is from the start, along and across
TURN = math.pi / 6
VALLEY_STEPS = 20
VALLEY_RATES = [base * 2.0**k for k in range(-10, 4) for base in (1.0, 1.25, 1.5, 1.75)]
SHOWN = ("SGD", "RMSProp")


def valley(script: ModuleType, angle: float) -> dict:
    """The path of each shown optimiser in the valley, whose axes are turned by an angle."""
    c, s = math.cos(angle), math.sin(angle)
    turn = [[c, -s], [s, c]]  # columns: the direction along, the direction across
    goal = [turn[i][0] * GOAL[0] + turn[i][1] * GOAL[1] for i in range(2)]

    def slopes(w: list[list[float]]) -> list[list[float]]:
        error = [w[0][i] - goal[i] for i in range(2)]
        parts = [CURVATURES[k] * sum(error[i] * turn[i][k] for i in range(2)) for k in range(2)]
        return [[sum(turn[i][k] * parts[k] for k in range(2)) for i in range(2)]]

    def loss(w: list[float]) -> float:
        error = [w[i] - goal[i] for i in range(2)]
        return 0.5 * sum(
            CURVATURES[k] * sum(error[i] * turn[i][k] for i in range(2)) ** 2 for k in range(2)
        )

    result = {"goal": goal, "first_gradient": slopes([[0.0, 0.0]])[0]}
    for name in SHOWN:
        best = None
        for rate in VALLEY_RATES:
            path: list[list[float]] = []

            def gradient(w: list[list[float]], path: list = path) -> list[list[float]]:
                path.append(list(w[0]))
                return slopes(w)

            end = script.train(name, rate, "constant", (1, 2), [gradient] * VALLEY_STEPS)
            left = loss(end[0]) / loss([0.0, 0.0])
            if left < math.inf and (best is None or left < best["left"]):
                best = {"path": [*path, end[0]], "left": left, "rate": rate}
        result[name] = best
    return result


def record(script: ModuleType) -> dict:
    """The valley, and the gap that each optimiser leaves on each problem."""
    letters, _ = script.letter_problem(script.load_names())
    images = script.load_digits()[0]
    inputs, targets = script.halves(images)
    rotation = script.random_rotation(len(inputs[0]), random.Random(script.SEED))
    problems = {
        "letters": letters,
        "pixels": script.Pixels(inputs, targets),
        "rotated": script.Pixels(script.matmul(inputs, rotation), targets),
    }
    gaps: dict[str, dict[str, float]] = {}
    for key, problem in problems.items():
        gaps[key] = {}
        for name, rates in script.RATES["letters" if key == "letters" else "pixels"].items():
            steps = [problem.gradient] * script.NUM_STEPS
            gaps[key][name] = script.better(script.best_rates(name, rates, problem, steps)).gap
    means = [sum(column) / len(column) for column in script.transpose(images)]
    shown = inputs[script.SHOWN_IMAGE]
    best = problems["pixels"].best
    lower = [m + script.dot(row, shown) for m, row in zip(means[32:], best)]
    run = recorded("microoptimizer")["seeds"]["42"]["headline"]
    ratios = {
        key: {name: found["SGD"] / gap for name, gap in found.items()}
        for key, found in gaps.items()
    }
    return {
        "valleys": [valley(script, 0.0), valley(script, TURN)],
        "curvatures": CURVATURES,
        "turn": TURN,
        "valley_steps": VALLEY_STEPS,
        "image": images[script.SHOWN_IMAGE],
        "completed": images[script.SHOWN_IMAGE][:32] + lower,
        "num_images": len(images),
        "num_weights": len(best) * len(best[0]),
        "num_steps": script.NUM_STEPS,
        "gaps": gaps,
        "ratios": ratios,
        "schedule_gain": run["schedule_gain"],
    }
