"""What the film of microcheckpoint shows: one number forgotten and computed again, and the peaks.

The number belongs to one step of twelve blocks with one image. The maps of what is in memory, the
peaks and the forwards are made by the functions that main() calls.
"""

from __future__ import annotations

import random
from functools import partial
from types import ModuleType

from tracing import recorded

WATCHED = 5  # the block whose number is followed: the second of the second segment


def one_number(script: ModuleType, images: list, labels: list) -> dict:
    """One entry inside a block, before and after it was forgotten, and the gradient made of it."""
    seen: list[list[float]] = []
    arriving: list[list[float]] = []

    class Heard(script.Block):
        """A block that writes down its inside, and the gradient that arrives at its output."""

        def hidden(self, x: object) -> object:
            result = super().hidden(x)
            seen.append(result.data[0])
            return result

        def forward(self, x: object) -> object:
            out = super().forward(x)

            def pass_back(d_out: list[list[float]]) -> tuple:
                arriving.append(d_out[0])
                return (d_out,)

            return script.Tensor(out.data, (out,), pass_back)

    network = script.Network(script.MAP_DEPTH, random.Random(script.SEED))
    network.blocks[WATCHED] = Heard(network.blocks[WATCHED].weights)
    logits = network.forward(images[:1], script.segments)
    script.cross_entropy(logits, labels[:1]).backward()
    (first, again), (d_out,) = seen, arriving
    _, column, row = max(
        [(abs(h * d), i, j) for i, h in enumerate(first) for j, d in enumerate(d_out)]
    )
    gradient = network.blocks[WATCHED].weights[1].grad[row][column]
    if gradient != first[column] * d_out[row] or first != again:
        raise SystemExit("microcheckpoint: the gradient is not the product")
    return {
        "block": WATCHED + 1,
        "first": first[column],
        "again": again[column],
        "arriving": d_out[row],
        "gradient": gradient,
    }


def record(script: ModuleType) -> dict:
    """Follow one number, film three policies, measure all."""
    images, labels = script.load_digits()
    batch = images[: script.BATCH_SIZE], labels[: script.BATCH_SIZE]
    growth = {
        name: [script.measure(depth, policy, batch) for depth in script.DEPTHS]
        for name, policy in script.GROWTH_POLICIES.items()
    }
    pairs = script.gradient_pairs(growth)
    at = script.DEPTHS.index(script.TABLE_DEPTH)
    table = script.TABLE_DEPTH
    every, stored = growth["every block"], growth["store all"]
    step = script.DEPTHS[at] - script.DEPTHS[at - 1]
    graph = (stored[at][0] - stored[at - 1][0]) / step
    state = (every[at][0] - every[at - 1][0]) / step
    lengths = [
        {"length": k, "peak": script.measure(table, partial(script.segments, length=k), batch)[0]}
        for k in script.SEGMENT_LENGTHS
    ]
    slots = script.SLOTS[1]
    least, _ = script.least_extra(table, slots)
    exponents = {
        name: script.exponent(script.DEPTHS[1:], [peak for peak, _, _ in rows[1:]])
        for name, rows in growth.items()
    }
    run = recorded("microcheckpoint")["seeds"]["42"]["headline"]
    return {
        "run": {key: run[key] for key in ("saving", "extra", "different")},
        "image": [images[0][row : row + 8] for row in range(0, 64, 8)],
        "number": one_number(script, images, labels),
        "maps": {
            name: script.film_of(policy, script.MAP_DEPTH, batch)
            for name, policy in script.GROWTH_POLICIES.items()
            if name != "every block"
        },
        "graph_states": graph / state,
        "best_length": (table * state / graph) ** 0.5,
        "lengths": lengths,
        "table_depth": table,
        "batch": script.BATCH_SIZE,
        "policies": [
            {"name": name, "peak": rows[at][0], "forwards": rows[at][1]}
            for name, rows in growth.items()
        ],
        "least": {"slots": slots, "forwards": table + least},
        "depths": list(script.DEPTHS),
        "peaks": {name: [peak for peak, _, _ in rows] for name, rows in growth.items()},
        "four_times": {name: 4.0**power for name, power in exponents.items()},
        "compared": len(pairs),
        "differ": sum([a != b for a, b in pairs]),
    }
