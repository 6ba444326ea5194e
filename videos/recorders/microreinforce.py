"""What the film of microreinforce shows: a first batch, its gradients, and eight trainings.

Everything is played by the script's functions, from the networks and the seeds of main(). The
first batch is the one from which all trainings of the first network start. The gradients that are
drawn are those of fresh episodes of this untrained network; noise and signal are measured as in
main(), on more of them. The two last episodes are those that the script prints as its film.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

from tracing import recorded

SHOWN = ("total return", "total return - mean")
NUM_GRADIENTS = 200  # episodes whose gradients are drawn
POINTS = 60  # of a training's curve
EVERY = 5  # steps between two pictures of the last episodes


def record(script: ModuleType) -> dict:
    """Train with two of the weights as main() does, and look at the gradients before."""
    rng = random.Random(script.SEED)
    seeds = [rng.randrange(2**32) for _ in range(script.NUM_RUNS)]

    # As main() goes on: the noise is measured, then the untrained network is played.
    first_rng = random.Random(seeds[0])
    untrained, half_trained = script.Policy(first_rng), script.Policy(rng)
    script.train(half_trained, "total return - mean", script.HALF_STEPS, rng)
    noise = script.measure_noise(untrained, script.NUM_SAMPLES, rng)
    script.measure_noise(half_trained, script.NUM_HALF_SAMPLES, rng)
    floor = script.mean_return(script.play(untrained, script.NUM_SAMPLES // 4, rng))

    batch = script.play(untrained, script.BATCH_EPISODES, first_rng)
    mean = script.mean_of_all([script.total_return(e.rewards) for e in batch])[0]
    probabilities = [
        script.softmax_row(untrained.forward([e.states[0]]).data[0])[e.actions[0]] for e in batch
    ]

    # One matrix of gradients for each weight, then two directions in which all are seen.
    episodes, others = [script.play(untrained, NUM_GRADIENTS, rng) for _ in range(2)]
    gradients = {}
    for name, (credit, baseline) in script.ARMS.items():
        expected = baseline([credit(e.rewards) for e in others])
        rows = [[w - b for w, b in zip(credit(e.rewards), expected)] for e in episodes]
        gradients[name] = script.episode_gradients(untrained, episodes, rows)
    along = script.column_means(gradients["reward-to-go - step's mean"])
    length = math.sqrt(script.dot(along, along))
    along = [x / length for x in along]
    rest = [
        [x - script.dot(row, along) * a for x, a in zip(row, along)]
        for row in gradients["total return"]
    ]
    across = rest[0]  # the direction across in which they differ most, by power iteration
    for _ in range(30):
        shares = [script.dot(row, across) for row in rest]
        across = [script.dot(shares, column) for column in zip(*rest)]
        size = math.sqrt(script.dot(across, across))
        across = [x / size for x in across]
    clouds = {
        name: [
            [round(script.dot(g, along), 1), round(script.dot(g, across), 1)]
            for g in gradients[name]
        ]
        for name in ("total return", "total return - mean", "reward-to-go - step's mean")
    }

    curves: dict[str, list] = {}
    ends: dict[str, list[float]] = {}
    policies: dict[str, list] = {}
    for arm in SHOWN:
        curves[arm], ends[arm], policies[arm] = [], [], []
        for seed in seeds:
            run_rng = random.Random(seed)
            policy = script.Policy(run_rng)
            history = script.train(policy, arm, script.TRAINING_STEPS, run_rng)
            ends[arm].append(script.mean_return(script.play(policy, script.NUM_TEST, run_rng)))
            policies[arm].append(policy)
            curves[arm].append(thinned(history, script.TRAINING_STEPS))
    films = {}
    for arm in SHOWN:
        worst = policies[arm][ends[arm].index(min(ends[arm]))]
        films[arm] = episode(script, script.play(worst, 1, random.Random(script.SEED))[0])
    run = recorded("microreinforce")["seeds"]["42"]["headline"]
    for arm, key in zip(SHOWN, ("return_total", "return_total_mean")):
        assert abs(sum(ends[arm]) / len(ends[arm]) - run[key]) < 1e-9
    shortest = min(batch, key=lambda e: len(e.rewards))
    return {
        "max_steps": script.MAX_STEPS,
        "max_position": script.MAX_POSITION,
        "max_degrees": math.degrees(script.MAX_ANGLE),
        "training_steps": script.TRAINING_STEPS,
        "first_fall": episode(script, shortest, 1),
        "batch": [
            {"push": e.actions[0], "probability": p, "return": len(e.rewards)}
            for e, p in zip(batch, probabilities)
        ],
        "batch_mean": mean,
        "clouds": clouds,
        "untrained": floor,
        "noise": {name: noise[name] for name in clouds},
        "noise_ratio": run["noise_ratio"],
        "curves": curves,
        "ends": ends,
        "films": films,
        "results": {key: run[key] for key in run if key.startswith("return")},
    }


def thinned(history: list, total: int) -> list:
    """[steps so far, mean return of the batch] averaged over POINTS equal parts of a training."""
    parts: list[list[float]] = [[] for _ in range(POINTS)]
    for steps, value in history:
        parts[min(int(POINTS * steps / total), POINTS - 1)].append(value)
    return [
        [round((i + 0.5) * total / POINTS), round(sum(part) / len(part), 1)]
        for i, part in enumerate(parts)
        if part
    ]


def episode(script: ModuleType, played: object, every: int = EVERY) -> dict:
    """Where the cart and its pole are (m, degrees), every so many steps and at the end."""
    last, fallen = script.cartpole_step(played.states[-1], played.actions[-1])
    states = [*played.states[::every], last]
    return {
        "every": every,
        "steps": len(played.rewards),
        "fallen": fallen,
        "states": [[round(s[0], 3), round(math.degrees(s[2]), 1)] for s in states],
        "pushes": [*played.actions[::every], played.actions[-1]],
    }
