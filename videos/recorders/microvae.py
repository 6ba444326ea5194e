"""What the film of microvae shows: one held-out digit, its codes, and the bounds of all of them.

The VAE is trained as main() does (with the same seed, but without the plain autoencoder). Of
the held-out digits whose own gap between the ELBO and the exact value is close to the mean gap, the
film shows the one that the decoder draws best: an example of the averages. The averages are this
training's, and must be the recorded run's.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

from tracing import recorded

REACH = 2.0  # the part of the plane of codes that is shown
ZOOM, CELLS = 1.15, 46  # the part around the digit's own codes, and its map
TICKS = (-1.6, -0.8, 0.0, 0.8, 1.6)  # where the decoder's pictures are shown
CLOSE = 0.05  # nats: how far the example's gap may be from the mean one


def record(script: ModuleType) -> dict:
    """Train the VAE, and measure the held-out digits as main() does."""
    training, held_out = script.load_images()
    rng = random.Random(script.SEED)
    model = script.Autoencoder(rng)
    script.train(model, training, True, rng)

    rng = random.Random(script.SEED)
    log_weights = [script.importance_log_weights(model, image, rng) for image in held_out]
    by_image = {
        k: [script.importance_weighted_bound(row, k) for row in log_weights] for k in script.GROUPS
    }
    exact = script.exact_log_likelihoods(model, held_out, script.STANDARD, script.GRID_STEP)
    bounds = {str(k): script.mean_of(values) for k, values in by_image.items()}
    truth = script.mean_of(exact)
    run = recorded("microvae")["seeds"]["42"]["headline"]
    assert abs(truth + run["nll"]) < 1e-9
    assert abs(truth - bounds["1"] - run["elbo_gap"]) < 1e-9

    gaps = [value - bound for value, bound in zip(exact, by_image[1])]
    means, log_variances = [part.data for part in model.encode(held_out)]
    typical = [i for i, gap in enumerate(gaps) if abs(gap - run["elbo_gap"]) < CLOSE]
    drawn = model.decode(script.Tensor(means, requires_grad=False)).data
    which = max(typical, key=lambda i: script.log_likelihood(held_out[i], drawn[i]))
    image, mean, log_variance = held_out[which], means[which], log_variances[which]

    # p(x|z) p(z) around the proposal, as a share of its largest value: the posterior's shape.
    step = 2.0 * ZOOM / CELLS
    axis = [-ZOOM + step * (i + 0.5) for i in range(CELLS)]

    def joint_around(middle: list[float]) -> tuple[list[float], list[list[float]]]:
        codes = [[middle[0] + x, middle[1] + y] for y in reversed(axis) for x in axis]
        rows = model.decode(script.to_codes(codes, script.STANDARD)).data
        return [
            script.log_likelihood(image, row) - script.dot(code, code) / 2.0
            for row, code in zip(rows, codes)
        ], codes

    joint, codes = joint_around(mean)
    likeliest = codes[joint.index(max(joint))]
    middle = [(a + b) / 2.0 for a, b in zip(mean, likeliest)]
    joint, _ = joint_around(middle)
    top = max(joint)

    # A few draws from the proposal, as importance_log_weights() makes them.
    rng = random.Random(script.SEED)
    draws = []
    for _ in range(5):
        noise = [rng.gauss(0.0, 1.0), rng.gauss(0.0, 1.0)]
        z = [m + math.exp(v / 2.0) * e for m, v, e in zip(mean, log_variance, noise)]
        row = model.decode(script.to_codes([z], script.STANDARD)).data[0]
        parts = {
            "log_likelihood": script.log_likelihood(image, row),
            "log_prior": -script.dot(z, z) / 2.0 - math.log(2.0 * math.pi),
            "log_proposal": -script.dot(noise, noise) / 2.0
            - sum(log_variance) / 2.0
            - math.log(2.0 * math.pi),
        }
        weight = parts["log_likelihood"] + parts["log_prior"] - parts["log_proposal"]
        draws.append({"z": z, "log_weight": weight, **parts})

    def pixels(code: list[float]) -> list[int]:
        logits = model.decode(script.to_codes([code], script.STANDARD)).data[0]
        return [round(100.0 * script.sigmoid_of(value)) for value in logits]

    _, labels = script.load_digits()
    return {
        "num_train": len(training),
        "num_held_out": len(held_out),
        "image": [int(pixel) for pixel in image],
        "label": int(labels[script.NUM_TRAIN + which]),
        "reach": REACH,
        "zoom": ZOOM,
        "middle": middle,
        "posterior": [round(100.0 * math.exp(value - top)) for value in joint],
        "mean": mean,
        "sigma": [math.exp(v / 2.0) for v in log_variance],
        "draws": draws,
        "own": {"elbo": by_image[1][which], "exact": exact[which]},
        "ticks": TICKS,
        "pictures": [[pixels([x, y]) for x in TICKS] for y in reversed(TICKS)],
        "bounds": bounds,
        "exact": truth,
        "gaps": {k: truth - value for k, value in bounds.items()},
        "grid": round(2.0 * script.GRID_REACH / script.GRID_STEP) + 1,
    }
