"""What the film of microparallel shows: the ring's hops, and one step of every way.

All ranks run in one process, by turns, as the script does where processes are not to be had: their
messages, bytes and clocks are the same. The gap between the weights is the recorded run's.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded


def record(script: ModuleType) -> dict:
    """The example of show_ring hop by hop; then each way trains for one step."""
    n = script.NUM_RANKS

    def watched(wire: object) -> object:
        chunks = [[10.0**wire.rank * (c + 1)] for c in range(n)]
        start, hops = [chunk[0] for chunk in chunks], []
        for first, add_up in ((wire.rank - 1, True), (wire.rank, False)):
            for hop, end in enumerate(script.ring_hops(wire, chunks, first, add_up)):
                outgoing = (first - hop) % n
                hops.append({"chunk": outgoing, "value": chunks[outgoing][0]})
                yield end
        return {"start": start, "hops": hops, "end": [chunk[0] for chunk in chunks]}

    ring = script.run_in_turns(watched, n)

    rng = random.Random(script.SEED)
    images, labels = script.load_digits()
    weights = script.new_weights(rng)
    train = images[: script.NUM_TRAIN], labels[: script.NUM_TRAIN]
    batch = script.draw_batches(*train, rng)[0]
    bytes_sent, timelines, held = {}, {}, {}
    for name, (program, more, _) in script.ways().items():
        ranks = script.run_in_turns(program, n, weights, [batch], *more)
        bytes_sent[name] = script.busiest(ranks)
        if ranks[0]["timeline"]:
            timelines[name.split()[-1]] = [rank["timeline"] for rank in ranks]
            held[name.split()[-1]] = max([rank["most_held"] for rank in ranks])
            waiting = script.bubble(ranks)
    run = recorded("microparallel")["seeds"]["42"]["headline"]
    return {
        "ring": ring,
        "num_weights": len(script.flatten(weights)),
        "batch": len(batch[1]),
        "digits": [batch[0][i] for i in range(0, len(batch[1]), len(batch[1]) // n)],
        "num_micro": script.NUM_MICRO,
        "durations": {"F": script.FORWARD_TIME, "B": script.BACKWARD_TIME},
        "steps": script.NUM_STEPS,
        "bytes": bytes_sent,
        "timelines": timelines,
        "held": held,
        "waiting": waiting,
        "gap": run["weight_gap"],
    }
