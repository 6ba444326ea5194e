"""What the film of microdiffusion shows: a whole run, and one point on its way.

The run is main()'s. Of its 500 drawn points the film shows the first ones whose noise lies within
REACH (like the script's own pictures, it leaves away what is further out); the shares are those of
all 500. The example point is the first of them that the network leads to a cluster and whose way
bends.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

REACH = 1.8  # noise further out than this is not shown
NUM_SHOWN = 130
TRAINING_T = 0.7  # the level of the mixture that is shown


def record(script: ModuleType) -> dict:
    """Run main(), keep its network, and follow a few of its points."""
    kept: list = []
    frozen = script.frozen

    def keep(layers: list) -> list:
        kept.append(frozen(layers))
        return kept[-1]

    script.frozen = keep
    run = script.main()
    details = run["details"]
    network = kept[0]

    def guess(points: list, levels: list) -> list:
        return script.forward(network, points, levels).data

    few, many = script.FEW, script.NUM_GUESSES[-1]
    paths = details["paths"]
    start = paths["best guess", "flow", few][0]
    inside = [i for i, (x, y) in enumerate(start) if max(abs(x), abs(y)) <= REACH][:NUM_SHOWN]
    flights = {}
    for sampler, levels in (
        ("flow", script.even_levels),
        ("DDIM", script.ddpm_levels),
        ("moved", script.moved_levels),
    ):
        path = paths["best guess", sampler, few]
        flights[sampler] = {
            "levels": levels(few),
            "points": [[short(places[i]) for i in inside] for places in path],
            "near": [int(script.mode_coverage([path[-1][i]])[1]) for i in inside],
        }

    # One point on its way by flow, with the network's guess at each stop.
    levels = script.even_levels(few)
    own = paths["network", "flow", few]
    centers = script.mode_centers()
    example = None
    for i in inside:
        stops = [places[i] for places in own]
        guessed = []
        for point, t in zip(stops, levels[:-1]):
            velocity = guess([point], [t])
            guessed.append(script.split_guess([point], velocity, t)[0][0])
        tight = min([math.dist(stops[-1], c) for c in centers]) < 1.5 * script.SIGMA
        turn = math.dist(stops[5], [(a + b) / 2.0 for a, b in zip(stops[0], stops[-1])])
        away = 1.2 < math.hypot(*stops[0]) and abs(stops[0][1]) < 1.0 and turn > 0.12
        if tight and away:
            example = {"stops": stops, "guesses": guessed}
            break
    assert example is not None

    # One mixture as in training.
    rng = random.Random(script.SEED + 2)
    real = script.ring_of_gaussians(NUM_SHOWN, rng)
    for clean in script.ring_of_gaussians(500, rng):
        (noise,) = script.normal_noise(1, rng)
        noisy = script.mix([clean], [noise], [TRAINING_T])[0]
        velocity = guess([noisy], [TRAINING_T])
        guessed = script.split_guess([noisy], velocity, TRAINING_T)[0][0]
        fits = -1.7 < noise[0] < 0.0 and abs(noise[1]) < 1.2 and clean[0] > 0.5
        if fits and math.dist(noisy, guessed) > 0.6 and math.dist(guessed, clean) > 0.2:
            break
    shares = details["shares"]
    return {
        "few": few,
        "many": many,
        "sigma": script.SIGMA,
        "num_modes": script.NUM_MODES,
        "num_points": script.NUM_POINTS,
        "centers": centers,
        "real": [short(point) for point in real],
        "mixture": {
            "t": TRAINING_T,
            "rest": 1.0 - TRAINING_T,
            "clean": clean,
            "noise": noise,
            "noisy": noisy,
            "guessed": guessed,
        },
        "example": example,
        "flights": flights,
        "shares": {
            name: {
                "best": shares["best guess", sampler, n],
                "network": shares["network", sampler, n],
            }
            for name, sampler, n in (
                ("flow", "flow", few),
                ("DDIM", "DDIM", few),
                ("moved", "moved", few),
                ("flow_many", "flow", many),
            )
        },
    }


def short(point: list[float]) -> list[float]:
    """Two decimals: more than a dot on the screen can show."""
    return [round(x, 2) for x in point]
