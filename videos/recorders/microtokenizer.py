"""What the film of microtokenizer shows: one line of an unseen play, cut by more and more merges.

The pairs are counted by the script's slow trainer, whose counters are kept. What the models cost
is measured for bytes and for 2,000 merges; the best vocabulary's gain is the recorded run's.
"""

from __future__ import annotations

from collections import Counter
from types import ModuleType

from tracing import recorded

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000)  # numbers of merges of the line
NUM_ROUNDS = 2  # of counting that are shown
NUM_TOP = 4  # pairs that are shown of each round


def record(script: ModuleType) -> dict:
    """Learn merges, cut one line by them, and measure bytes, tokens, and bytes as far."""
    training, held_out = script.load_plays()
    chunk_counts = script.Counter(script.split_chunks(training))
    rounds: list[Counter] = []

    class Kept(Counter):
        """A counter that is kept when it is made."""

        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            rounds.append(self)

    script.Counter = Kept
    script.train_by_recounting(chunk_counts, NUM_ROUNDS)
    script.Counter = Counter
    merges = script.train(chunk_counts, script.NUM_MERGES)
    encoders = {n: script.BytePairEncoder(list(merges)[:n]) for n in STEPS}
    pieces = encoders[script.NUM_MERGES].pieces

    def top(counts: Counter) -> list:
        return sorted(counts, key=lambda pair: (-counts[pair], pair))[:NUM_TOP]

    pairs = list(dict.fromkeys([pair for counts in rounds for pair in top(counts)]))
    pairs.sort(key=lambda pair: rounds[0][pair] == 0)  # what is new comes last
    line = script.LINE.encode()
    assert line in held_out
    steps = []
    for n, encoder in encoders.items():
        lengths = [len(encoder.pieces[i]) for i in encoder.encode(line)]
        steps.append({"merges": n, "lengths": lengths, "seen": script.bytes_seen(lengths, 1)})

    byte_bits = script.bits_by_context(encoders[0], training, held_out, script.BYTES_BACK)
    measured = {
        n: script.measure(encoders[n], training, held_out, byte_bits)
        for n in (0, script.NUM_MERGES)
    }
    tokens = measured[script.NUM_MERGES]
    run = recorded("microtokenizer")["seeds"]["42"]["headline"]
    assert abs(run["same_reach"] - tokens["same_reach"]) < 1e-9
    byte, token, same = measured[0]["bits"][1], tokens["bits"][1], tokens["same_reach"]
    return {
        "line": script.LINE,
        "training_bytes": len(training),
        "pairs": [[pieces[a].decode(), pieces[b].decode()] for a, b in pairs],
        "counts": [[counts[pair] for pair in pairs] for counts in rounds],
        "steps": steps,
        "at_most": script.BYTES_BACK,
        "seen": {"bytes": measured[0]["seen"], "tokens": tokens["seen"]},
        "bits": {"byte": byte, "token": token, "same_reach": same},
        "share": script.share_of_gain(byte, token, same),
        "best": {
            "bytes": min(measured[0]["bits"]),
            "tokens": min(measured[0]["bits"]) - run["best_gain"],
        },
        "bytes_per_token": tokens["bytes_per_token"],
    }
