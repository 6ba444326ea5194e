"""What the film of microattention shows: what a fact leaves in the cache, and what is recalled.

The example is the first question of a test text: the first text in which that question reaches
back further than the window, MHA names all six attributes rightly and MQA does not. The averages
over all test texts carry the claim.
"""

from __future__ import annotations

import random
from types import ModuleType

LAYOUTS = ("MHA", "GQA", "MQA", "MLA", "window")
LONG = 256  # tokens in the cache when the multiply-adds are counted


def record(script: ModuleType) -> dict:
    """Train five layouts on the facts as main() does, and ask."""
    seed = script.SEED
    tests = [script.new_text(random.Random(seed + n)) for n in range(1, script.NUM_TEST_TEXTS + 1)]
    models = {name: script.train_on_facts(name) for name in LAYOUTS}
    by_distance = {name: script.recall_by_distance(m, tests) for name, m in models.items()}
    count = script.NUM_ATTRIBUTES

    def first_answers(name: str, test: tuple) -> list[int]:
        logits, _ = script.answer(models[name], [test])
        return [row.index(max(row)) for row in logits.data[:count]]

    for test in tests:
        bags, answers, distances = test
        says = {name: first_answers(name, test) for name in LAYOUTS}
        known = says["MHA"] == answers[0] and says["MQA"] != answers[0]
        if distances[0] >= script.WINDOW - 2 and known:
            break
    fact = script.NUM_FACTS - distances[0]

    # MHA's first question, head by head: the head that looks at the right fact most of all.
    model = models["MHA"]
    layer, size = model.layer, model.layer.head_dim
    asked = script.NUM_FACTS
    x = model.vectors(bags[: asked + 1])
    positions = model.positions(asked + 1)
    keys, values = [part.data for part in layer.keep(x, positions)]
    query = layer.queries(x, positions).data[asked]
    heads = []
    for head in range(layer.num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = [script.dot(query[part], row[part]) * size**-0.5 for row in keys]
        heads.append({"part": part, "scores": scores, "weights": script.softmax_row(scores)})
    best = max(range(len(heads)), key=lambda h: heads[h]["weights"][fact])
    part = heads[best]["part"]
    products = [a * b for a, b in zip(query[part], keys[fact][part])]

    def letters(numbers: list[int]) -> str:
        return "".join(["abc"[n] for n in numbers])

    first_value = script.NUM_KEYS + 1
    facts = [
        {
            "key": bag[0],
            "attributes": letters([(row - first_value) % script.NUM_VALUES for row in bag[1:]]),
        }
        for bag in bags[: script.NUM_FACTS]
    ]
    return {
        "facts": facts,
        "num_questions": script.NUM_QUESTIONS,
        "num_attributes": count,
        "asked": fact,
        "right": letters(answers[0]),
        "says": {name: letters(said) for name, said in says.items()},
        "rows": [a + b for a, b in zip(keys, values)][: script.NUM_FACTS],
        "head": best + 1,
        "q": query[part],
        "k": keys[fact][part],
        "products": products,
        "sum": sum(products),
        "score": heads[best]["scores"][fact],
        "weights": heads[best]["weights"],
        "pictures": {name: script.row_picture(m.layer) for name, m in models.items()},
        "floats": {name: script.cost_of_one_token(m, 1)[0] for name, m in models.items()},
        "recall": {
            name: script.mean(sum(shares.values(), [])) for name, shares in by_distance.items()
        },
        "window": script.WINDOW,
        "by_distance": [
            {"distance": distance, "recall": script.mean(shares)}
            for distance, shares in sorted(by_distance["window"].items())
        ],
        "limit": script.perfect_look_up(script.MQA_VALUE_FLOATS, random.Random(seed)),
        "guess": 1 / script.NUM_VALUES,
        "long": LONG,
        "multiply_adds": {
            name: script.cost_of_one_token(models[name], LONG)[1] for name in ("MHA", "MLA")
        },
    }
