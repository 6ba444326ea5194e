"""What the film of microgpt shows: the GPT reads one held-out name while it learns.

The name is the first held-out one of five letters whose first four symbols the training names
never had in a row, and whose next letter the trained GPT takes for the likeliest: an example of
what the averages say. The averages are those of the recorded run.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

HEAD = 0  # the head whose score is computed number by number
SNAPSHOTS = (0, 10, 20, 30, 45, 60, 90, 120, 180, 240, 300, 400, 500, 600)


def record(script: ModuleType) -> dict:
    """Train as main() does, and look at one context along the way."""
    rng = random.Random(script.SEED)
    names = script.load_names()
    rng.shuffle(names)
    training, held_out = names[: script.NUM_TRAIN], names[-script.NUM_HELD_OUT :]
    sequences = [script.encode(name) for name in training]
    tables = {n: script.CountTable(sequences, n, script.TABLE_DISCOUNT) for n in (2, 5)}
    model = script.GPT(len(script.ALPHABET), script.CONTEXT, script.WIDTH, rng)
    kept: dict[int, list] = {}

    class Watched(script.Adam):
        """Adam, and a copy of all weights at some steps."""

        steps = 0

        def step(self, lr: float) -> None:
            super().step(lr)
            Watched.steps += 1
            if Watched.steps in SNAPSHOTS:
                kept[Watched.steps] = [[row[:] for row in p.data] for p in model.parameters()]

    kept[0] = [[row[:] for row in p.data] for p in model.parameters()]
    script.Adam = Watched
    script.train(model, training, rng)

    def use(step: int) -> None:
        for parameter, rows in zip(model.parameters(), kept[step]):
            parameter.data = rows

    def look(symbols: list[int]) -> dict:
        """One forward pass over the symbols: what the last row computes."""
        seen: dict = {}

        def attend(q: object, k: object, v: object) -> object:
            spans = [(0, i + 1) for i in range(len(symbols))]
            heads = [script.split_heads(x.data, script.NUM_HEADS) for x in (q, k, v)]
            both = [script.attention_head(*parts, spans) for parts in zip(*heads)]
            seen["q"], seen["k"] = heads[0][HEAD][-1], heads[1][HEAD]
            seen["weights"] = [weights[-1] for _, weights in both]
            return script.scaled_dot_product_attention(q, k, v, script.NUM_HEADS, spans)

        positions = list(range(len(symbols)))
        logits = model.forward(symbols, positions, attend).data[-1]
        seen["probabilities"] = script.softmax_row(logits)
        last = symbols[-1]
        seen["token"] = model.token_embedding.data[last]
        seen["position"] = model.position_embedding.data[positions[-1]]
        return seen

    use(SNAPSHOTS[-1])
    for name in held_out:
        symbols = script.encode(name)
        context, target = symbols[1:5], symbols[5]
        if len(name) != 5 or tuple(context) in tables[5].counts or target == 0:
            continue
        probabilities = look(symbols[:5])["probabilities"]
        if max(probabilities) == probabilities[target]:
            break
    history = symbols[:5]
    final = look(history)
    products = [a * b for a, b in zip(final["q"], final["k"][1])]
    snapshots = []
    for step in SNAPSHOTS:
        use(step)
        snapshots.append({"step": step, "probabilities": look(history)["probabilities"]})
    run = recorded("microgpt")["seeds"]["42"]["headline"]
    sizes = [len(p.data) * len(p.data[0]) for p in model.parameters()]
    return {
        "alphabet": script.ALPHABET,
        "history": [script.ALPHABET[s] for s in history],
        "target": script.ALPHABET[target],
        "num_numbers": sum(sizes),
        "num_counts": tables[5].num_counts(),
        "num_train": script.NUM_TRAIN,
        "token": final["token"],
        "position": final["position"],
        "q": final["q"],
        "k": final["k"],
        "products": products,
        "sum": sum(products),
        "score": sum(products) * len(products) ** -0.5,
        "weights": final["weights"],
        "snapshots": snapshots,
        "met": [len(h) for h in [tables[5].counts.get(tuple(context), {})]][0],
        "table": tables[5].probabilities(history),
        "nll": {key: run[key] for key in ("bigram_nll", "table_nll", "nll", "train_nll")},
    }
