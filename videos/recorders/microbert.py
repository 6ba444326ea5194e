"""What the film of microbert shows: one left side with several right sides, read in two ways.

Both networks are trained as main() trains them. The averages are those of the recorded run; the
two of one pass on main()'s sample are measured again, which takes a moment.
"""

from __future__ import annotations

import random
from functools import partial
from types import ModuleType

from tracing import recorded

HEAD = 1  # the head that began on the letter after the blank
CANDIDATES = "rl"  # whose tries are shown number by number


def record(script: ModuleType) -> dict:
    """Train both networks; look at the script's examples, and at one head."""
    rng = random.Random(script.SEED)
    names = script.load_names()
    rng.shuffle(names)
    training, held_out = names[: script.NUM_TRAIN], names[-script.NUM_HELD_OUT :]
    encoders, fillers = {}, {}
    for key, sees_right in (("left", False), ("both", True)):
        encoders[key] = script.Encoder(sees_right, random.Random(script.SEED))
        script.train(encoders[key], training, random.Random(script.SEED))
        fillers[key] = partial(script.fill, encoders[key])

    heads: list[dict] = []
    attend = script.distance_attention_head

    def watched(q, k, v, bias, blanks, spans) -> tuple:
        output, weights = attend(q, k, v, bias, blanks, spans)
        (first, stop), blank = spans[0], blanks[0]
        heads.append(
            {
                "fits": [script.dot(q[0], key) * len(q[0]) ** -0.5 for key in k[first:stop]],
                "distances": [bias[j - blank + script.MAX_DISTANCE] for j in range(first, stop)],
                "weights": weights[0],
            }
        )
        return output, weights

    text = script.EXAMPLES[-1]
    script.distance_attention_head = watched
    beams = {}
    for key in ("left", "both"):
        heads.clear()
        fillers[key]([text])
        assert len(heads) == len(script.DISTANCES)
        beams[key] = [head["weights"] for head in heads]
    script.distance_attention_head = attend

    place = text.index("_")
    tries = {}
    for candidate in CANDIDATES:
        filled = text.replace("_", candidate)
        asked = range(place, len(text))
        guesses = fillers["left"]([filled[:i] + "_" for i in asked])
        factors = [guess[script.LETTERS.index(filled[i])] for i, guess in zip(asked, guesses)]
        product = 1.0
        for factor in factors:
            product *= factor
        tries[candidate] = {"factors": factors, "product": product}

    sample = [q for name in held_out[: script.NUM_SCORED] for q in script.hide_each_alone(name)]
    later = [len(asked) - 1 - asked.index("_") for asked, _ in sample]
    run = recorded("microbert")["seeds"]["42"]["headline"]
    left, both = [script.measure(fillers[key], sample)[0] for key in ("left", "both")]
    return {
        "letters": list(script.LETTERS),
        "num_train": script.NUM_TRAIN,
        "texts": script.EXAMPLES,
        "left": fillers["left"](script.EXAMPLES[:1])[0],
        "both": fillers["both"](script.EXAMPLES),
        "tried": script.fill_by_candidates(fillers["left"], text),
        "head": heads[HEAD],
        "beams": beams,
        "tries": tries,
        "texts_read": 1 + len(script.LETTERS) * sum(later) / len(later),
        "num_sample": len(sample),
        "num_blanks": sum(map(len, held_out)),
        "sample": {"left": left, "tries": left - run["candidates_gain"], "both": both},
        "nats": {key: run[key] for key in ("left", "both", "count_left", "count_both")},
        "gain": run["left"] - run["both"],
        "table_lead": run["both"] - run["count_both"],
    }
