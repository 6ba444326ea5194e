"""What the film of microquant shows: one row of weights in fewer and fewer bits, and its repair.

The row is the one that the script prints. Everything is computed as in main(); of the 26 stored
models only those that the film names are measured.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

NUM_POINTS = 160  # calibration inputs in the cloud of points
STORED = {  # the film's name: bits, where the scales live, by GPTQ or not
    "row_8": (8, "channel", False),
    "row_4": (4, "channel", False),
    "matrix_2": (2, "tensor", False),
    "row_2": (2, "channel", False),
    "clipped_2": (2, "clipped", False),
    "gptq_2": (2, "channel", True),
    "both_2": (2, "clipped", True),
    "matrix_3_gptq": (3, "tensor", True),
}


def record(script: ModuleType) -> dict:
    """Train one model, store it in some ways, and follow one row."""
    rng = random.Random(script.SEED)
    names = script.load_names()
    rng.shuffle(names)
    training, held_out = names[: -script.NUM_HELD_OUT], names[-script.NUM_HELD_OUT :]
    model = script.GPT(len(script.ALPHABET), script.CONTEXT, script.WIDTH, rng)
    script.train(model, training, rng)
    calibration = training[: script.NUM_CALIBRATION]
    evaluator = script.Evaluator(model, held_out[: script.NUM_TEST], calibration)

    def written(one: object) -> list[str]:
        texts = script.sample(
            one, [0] * 5, script.NUM_HEADS, script.CONTEXT, random.Random(script.SEED)
        )
        return ["".join([script.ALPHABET[i] for i in text if i]) for text in texts]

    stored = {}
    for key, (bits, scheme, repair) in STORED.items():
        how = (script.gptq, calibration) if repair else ()
        quantized, matrices = script.quantize_model(model, bits, scheme, *how)
        measured = evaluator.measure(quantized, matrices)
        stored[key] = {
            "rise": measured.rise,
            "bytes": measured.num_bytes,
            "names": written(quantized)[1:4],
        }
    # The control, and the inputs of the shown matrix as the control shuffles them.
    seen: list[list[list[float]]] = []
    real_hessian = script.hessian
    script.hessian = lambda rows: seen.append(rows) or real_hessian(rows)
    shuffle = random.Random(script.SEED)
    quantized, matrices = script.quantize_model(
        model, 2, "channel", script.gptq, calibration, shuffle
    )
    script.hessian = real_hessian
    name, index = script.SHOWN
    shuffled_inputs = seen[script.LAYERS.index(name)]
    shuffled = evaluator.measure(quantized, matrices).rise

    weight = getattr(model, name).data
    row = weight[index]
    inputs = script.layer_inputs(model, calibration)[name]
    H = script.hessian(inputs)
    scales = {
        f"{scheme}_{bits}": script.choose_scales(weight, bits, scheme)[index]
        for bits, scheme in ((8, "channel"), (4, "channel"), (2, "tensor"), (2, "channel"))
    }
    nearest = {
        key: [script.nearest_level(w, scale, int(key[-1])) for w in row]
        for key, scale in scales.items()
    }
    scale = scales["channel_2"]
    U = script.transpose(script.cholesky(script.inverse(H)))
    levels, repaired, errors = script.gptq_row(row, scale, 2, U)
    best = list(script.best_row(row, scale, 2, U)[1])
    # The row after each step; it must agree with what gptq_row saw when each weight's turn came.
    states = [row]
    for j, error in enumerate(errors):
        now = states[-1]
        states.append([w - error * U[j][k] if k > j else w for k, w in enumerate(now)])
    assert all([abs(states[j][j] - w) < 1e-12 for j, w in enumerate(repaired)])

    def output_error(choice: list[int]) -> float:
        d = [w - scale * level for w, level in zip(row, choice)]
        return script.dot(d, [script.dot(d, h) for h in H])

    running = [sum([e * e for e in errors[:j]]) for j in range(len(row) + 1)]
    assert abs(running[-1] - output_error(levels)) < 1e-9

    # The repair that is shown: between the two neighbours whose inputs go together most.
    def cosine(j: int, k: int) -> float:
        return H[j][k] / (H[j][j] * H[k][k]) ** 0.5

    source = max(range(len(row) - 1), key=lambda j: cosine(j, j + 1))
    target = source + 1
    before, after = states[source][target], states[source + 1][target]
    every = max(1, len(inputs) // NUM_POINTS)
    nearest_2 = nearest["channel_2"]
    run = recorded("microquant")["seeds"]["42"]["headline"]
    assert abs(run["gptq_2"] - stored["gptq_2"]["rise"]) < 1e-6
    return {
        "num_weights": script.num_weights(model),
        "float_bytes": 4 * script.num_weights(model),
        "float_loss": evaluator.loss,
        "float_names": written(model)[1:4],
        "row": row,
        "scales": scales,
        "nearest": nearest,
        "states": states,
        "levels": levels,
        "running": running,
        "num_levels": {str(bits): 2**bits for bits in (8, 4, 2)},
        "output_error": {
            "nearest": output_error(nearest_2),
            "gptq": output_error(levels),
            "best": output_error(best),
        },
        "repair": {
            "source": source,
            "cosine": cosine(source, target),
            "wanted": repaired[source] / scale,
            "missing": repaired[source] / scale - levels[source],
            "before": before / scale,
            "push": (after - before) / scale,
            "after": after / scale,
            "points": [[x[source], x[target]] for x in inputs[::every]],
            "shuffled_points": [[x[source], x[target]] for x in shuffled_inputs[::every]],
        },
        "stored": stored,
        "shuffled": shuffled,
    }
