"""What the film of microssm shows: one number of the state, while a text is read.

First the counter set by hand, one number; then, of the trained layers, the numbers of the state
that the script shows, over the same text. Both tasks are run as main() does.
"""

from __future__ import annotations

import random
from types import ModuleType

BY_HAND = "++R+"  # the example in scan_step's docstring
KINDS = ("selective", "LTI")


def record(script: ModuleType) -> dict:
    """Run both tasks with main()'s random numbers, and look at the gate."""
    rng = random.Random(script.SEED)
    script.report_task(rng)
    networks, counter = script.run_counter(rng)
    symbols = rng.choices(script.SYMBOLS, script.FREQUENCIES, k=59)
    text = "R" + "".join(symbols)
    recall = script.run_recall(rng)

    # As in the script's table: tick (delta 0.001, u 1000), reset (delta 50, u 0).
    table = {"+": (1000.0, 0.001), "R": (0.0, 50.0)}
    h, hand = [[0.0]], []
    for symbol in BY_HAND:
        u, delta = table[symbol]
        before = h[0][0]
        h, _, kept = script.scan_step(h, [u], [delta], [[-1.0]], [1.0], [1.0])
        hand.append(
            {
                "symbol": symbol,
                "delta": delta,
                "before": before,
                "kept": kept[0][0],
                "written": delta * u,
                "after": h[0][0],
            }
        )

    ids = [script.SYMBOLS.index(symbol) for symbol in text]
    idle, reset = text.index("."), text.index("R")
    gates = {}
    for kind in KINDS:
        network = networks[kind]
        numbers = script.steps_of(network.layers[0], script.embedding(network.table, ids))
        most = max(numbers, key=lambda steps: steps[idle][0] - steps[reset][0])
        rows = list(range(len(ids)))
        batch = script.Batch([[i] for i in ids], [0] * len(ids), rows, [])
        logits = network.forward(batch).data
        gates[kind] = {
            "kept": [kept for kept, _ in most],
            "state": script.scan_sequential(most)[0],
            "says": [row.index(max(row)) for row in logits],
        }
    return {
        "text": text,
        "count": script.counts_of(text),
        "highest": script.HIGHEST,
        "hand": hand,
        "gates": gates,
        "numbers": script.STATES * script.CHANNELS,
        "lengths": list(script.TEST_LENGTHS),
        "counter": {kind: counter[kind] for kind in ("selective", "LTI", "attention")},
        "num_facts": script.TEST_FACTS[-1],
        "recall": {kind: recall[kind][-1] for kind in ("selective", "attention", "hybrid")},
        "guess": recall["guessing"][-1],
    }
