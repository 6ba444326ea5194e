"""What the film of microkv shows: a text written twice, what moves in the old rows, and the counts.

The model is trained as main() trains it. The text, the control and the wrong caches are main()'s;
the old rows are looked at one by one.
"""

from __future__ import annotations

import random
from itertools import accumulate
from types import ModuleType

from tracing import recorded


def record(script: ModuleType) -> dict:
    """Train, write with and without a cache, and compare."""
    rng = random.Random(script.SEED)
    names = script.load_names()
    rng.shuffle(names)
    model = script.Transformer(rng)
    script.train(model, names[:-1000], rng)
    stream = script.windows(names[-1000:], rng)
    tests = [next(stream) for _ in range(script.NUM_TEST_WINDOWS)]
    text = tests[0][: script.CONTEXT]

    # The same text twice; what each step costs is counted in sum and known on paper one by one.
    written, counts = [], []
    for use_cache in (False, True):
        with script.counted(model) as tally:
            made = script.generate(
                model, script.CONTEXT, random.Random(script.SEED), use_cache=use_cache
            )
        written.append(made)
        counts.append(tally.multiply_adds)
    per_step = [
        [script.multiply_adds(0, t, 1) for t in range(1, script.CONTEXT + 1)],
        [script.multiply_adds(t, 1, 1) for t in range(script.CONTEXT)],
    ]
    if [sum(costs) for costs in per_step] != counts or written[0][0] != written[1][0]:
        raise SystemExit("microkv: counts or texts differ")

    # The control, symbol by symbol: how far the newest one's arrival moves what the others left.
    symbols = text[: script.PROMPT + 1]
    moves: dict = {}
    for name, causal in (("causal", True), ("both", False)):
        before, after = script.KVCache(), script.KVCache()
        script.read(model, [symbols[:-1]], [before], causal)
        script.read(model, [symbols], [after], causal)
        moves[name] = [
            [
                script.largest_difference([b_key, b_value], [a_key, a_value])
                for b_key, b_value, a_key, a_value in zip(
                    before.keys[layer], before.values[layer], after.keys[layer], after.values[layer]
                )
            ]
            for layer in range(script.NUM_LAYERS)
        ]
        moves[f"{name}_keys"] = [before.keys[-1], after.keys[-1]]
    # One number as an example: of the keys, the one that moves most if attention looks both ways.
    keys = moves.pop("both_keys"), moves.pop("causal_keys")
    gaps = [
        (abs(a - b), i, j)
        for i, rows in enumerate(zip(*keys[0]))
        for j, (a, b) in enumerate(zip(*rows))
    ]
    _, row, entry = max(gaps)
    example = {
        "symbol": script.ALPHABET[symbols[row]],
        "row": row,
        "both": [rows[row][entry] for rows in keys[0]],
        "causal": [rows[row][entry] for rows in keys[1]],
    }

    checks = script.check_caches(model, text)
    growth = script.growth(model, [symbol for window in tests for symbol in window])
    batch = [window[: script.CONTEXT] for window in tests[: script.BATCH]]
    ways = list(script.read_four_ways(model, batch).values())
    reads = []
    for costs, logits in ways[2:]:
        total = script.CONTEXT * len(logits)
        reads.append({key: costs[key] / total for key in ("weights", "cached", "multiply_adds")})
    per_number = [script.intensity(costs) for costs, _ in ways[2:]]
    layers, heads, width, context, parameters = script.REAL_MODELS["Llama-3.1-70B"]
    run = recorded("microkv")["seeds"]["42"]["headline"]
    return {
        "run": {key: run[key] for key in ("work_ratio", "logit_error")},
        "text": "".join([script.ALPHABET[s] for s in written[1][0]]),
        "computed": [made[2] for made in written],
        "so_far": [list(accumulate(costs)) for costs in per_step],
        "totals": counts,
        "symbols": [script.ALPHABET[s] for s in symbols],
        "moves": moves,
        "example": example,
        "checks": [
            {"name": name, "error": error, "same": same} for name, (error, same) in checks.items()
        ],
        "growth": [
            {"t": t, "without": a, "with": b, "ratio": a / b, "floats": floats}
            for t, a, b, floats in growth
        ],
        "batch": script.BATCH,
        "reads": reads,
        "per_number": [*per_number, per_number[1] / per_number[0]],
        "llama": {
            "name": "Llama-3.1-70B",
            "context": context,
            "cache_gib": script.kv_bytes(layers, heads, width, context) / 2**30,
            "weights_gib": 2 * parameters / 2**30,
        },
    }
