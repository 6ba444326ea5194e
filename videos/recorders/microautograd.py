"""What the film of microautograd shows: a graph of two operations, sixty doublings, one batch.

The batch, and the weights before any training, are those of the run. The gradients of all nine
matrices are taken from one backward pass; the two engines are compared as the script does.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

NUDGE = 0.001  # how much a is moved, to see that its slope is right
DOUBLINGS = 60  # as the script prints
SHOWN_LABEL = 2  # which digit of the batch stands for all: the first with this label


def record(script: ModuleType) -> dict:
    """Two small graphs, then the gradients of the network's first batch."""
    toy = {"a": script.Value(2.0), "b": script.Value(3.0)}
    toy["e"] = toy["a"] * toy["b"]
    toy["d"] = toy["e"] + toy["a"]
    toy["d"].backward()
    moved = script.Value(toy["a"].data + NUDGE)

    chain = [script.Value(1.0)]
    for _ in range(DOUBLINGS):
        chain.append(chain[-1] + chain[-1])
    chain[-1].backward()

    rng = random.Random(script.SEED)
    images, labels = script.load_digits()
    parameters = script.new_parameters(rng)
    batch = next(script.batches_of(images, labels, range(script.BATCH_SIZE)))
    results = []

    def kept(operation: object) -> object:
        def run(*args: object) -> object:
            results.append(operation(*args))
            return results[-1]

        return run

    script.linear, script.relu = kept(script.linear), kept(script.relu)
    loss = script.matrix_loss(parameters, *batch)
    num_matrix_nodes = script.count_nodes(loss)
    loss.backward()
    numbers = script.as_values(parameters)
    number_loss = script.number_loss(numbers, *batch)
    num_number_nodes = script.count_nodes(number_loss)
    names = ("weight_1", "bias_1", "weight_2", "bias_2", "sums", "hidden", "scores")
    matrices = dict(zip(names, (*parameters, *results)))
    total = sum([len(p.data) * len(p.data[0]) for p in parameters])
    run = recorded("microautograd")["seeds"]["42"]["headline"]
    return {
        "toy": {name: [v.data, v.grad] for name, v in toy.items()},
        "slopes": [*toy["e"].local_grads, *toy["d"].local_grads],  # a to e, b to e, e to d, a to d
        "nudge": NUDGE,
        "moved": (moved * toy["b"] + moved).data - toy["d"].data,
        "doublings": DOUBLINGS,
        "chain": [int(v.grad) for v in chain],
        "chain_nodes": script.count_nodes(chain[-1]),
        "image": images[labels.index(SHOWN_LABEL)],
        "batch": batch[0],
        "matrices": {
            name: {"data": two_digits(m.data), "grad": two_digits(m.grad)}
            for name, m in matrices.items()
        },
        "sizes": {name: len(m.data) * len(m.data[0]) for name, m in list(matrices.items())[:4]},
        "loss": loss.item(),
        "num_images": len(batch[0]),
        "num_numbers": total,
        "num_tries": 2 * total,
        "nodes": [num_number_nodes, num_matrix_nodes],
        "largest_difference": run["lockstep_max_diff"],
        "test_accuracy": run["test_accuracy"],
    }


def two_digits(rows: list[list[float]]) -> list[list[float]]:
    """Enough for a shade of colour."""
    return [[float(f"{x:.2g}") for x in row] for row in rows]
