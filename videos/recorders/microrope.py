"""What the film of microrope shows: one pair of a query and a key, and all pairs as dials.

The query and the key are those of two letters of the first held-out window, in the trained model.
The pair is the one that makes 1.6 turns in training: it is turned visibly by one letter. Losses are
the means over all held-out windows, in blocks of 16 letters as in the script's picture.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

PAIR, FIRST, SECOND = 1, 3, 7  # the pair that is shown, the key's place and the query's
BLOCK = 16
SHOWN = ("as trained", "YaRN")
SHORT = ("raw", "pi", "yarn")  # as the headline calls them


def record(script: ModuleType) -> dict:
    """Train the RoPE model as main() does, and read the same held-out windows."""
    rng = random.Random(script.SEED)
    symbols = script.to_symbols(script.load_book())
    cut_at = round(len(symbols) * (1.0 - script.HELD_OUT))
    training, held_out = symbols[:cut_at], symbols[cut_at:]
    windows = [
        script.draw_window(held_out, script.LONG_LENGTH, rng) for _ in range(script.NUM_WINDOWS)
    ]
    schemes = script.ways_to_rotate()
    rope = schemes["as trained"]
    model = script.LanguageModel(0, random.Random(script.SEED))
    script.train(
        model,
        rope,
        training,
        script.TRAINED_LENGTH,
        script.BATCH_SIZE,
        script.NUM_STEPS,
        script.LEARNING_RATE,
        random.Random(f"training {script.SEED}"),
    )

    seen: dict = {}
    attend = script.rotary_attention

    def watched(q: object, k: object, *rest: object) -> object:
        seen["q"], seen["k"] = q.data, k.data
        return attend(q, k, *rest)

    script.rotary_attention = watched
    script.predict(model, windows[:1], rope)
    script.rotary_attention = attend
    half = len(rope.frequencies)
    columns = (PAIR, PAIR + half)
    one = script.Rope([rope.frequencies[PAIR]])

    def turned(row: list[float], place: int) -> list[float]:
        pair = script.Tensor([[row[column] for column in columns]])
        return script.rotate(pair, [place], one).data[0]

    query, key = seen["q"][SECOND], seen["k"][FIRST]
    meetings = []
    for shift in (0, script.SHIFT):
        q, k = turned(query, SECOND + shift), turned(key, FIRST + shift)
        products = [a * b for a, b in zip(q, k)]
        meetings.append(
            {
                "places": [SECOND + shift, FIRST + shift],
                "q": q,
                "k": k,
                "products": products,
                "sum": sum(products),
            }
        )

    def blocks(name: str) -> list[float]:
        losses = script.losses_by_place(model, windows, schemes[name])
        return [script.mean(losses[i : i + BLOCK]) for i in range(0, script.LONG_LENGTH, BLOCK)]

    cut = blocks(script.CUT)
    run = recorded("microrope")["seeds"]["42"]["headline"]
    return {
        "letters": [script.LETTERS[symbol] for symbol in windows[0][: SECOND + 1]],
        "trained": script.TRAINED_LENGTH,
        "long": script.LONG_LENGTH,
        "shift": script.SHIFT,
        "scale": script.SCALE,
        "block": BLOCK,
        "num_windows": script.NUM_WINDOWS,
        "pair": PAIR,
        "raw": {"q": turned(query, 0), "k": turned(key, 0)},
        "meetings": meetings,
        "frequencies": {name: schemes[name].frequencies for name in SHOWN},
        "extra": {name: [a - b for a, b in zip(blocks(name), cut)] for name in SHOWN},
        "costs": {"cut_cost": 0.0, **{f"{key}_cost": run[f"{key}_cost"] for key in SHORT}},
        "undone": {key: 1 - run[f"{key}_cost"] / run["raw_cost"] for key in ("pi", "yarn")},
        "error": run["shift_error"],
    }
