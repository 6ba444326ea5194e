"""What the film of microbeam shows: every search for the mode, and one drawing at a temperature.

The target is trained as in main(). The draft is built but not trained, which leaves the random
numbers where main() has them when it draws its names.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

from tracing import recorded

SHOWN = ("a", "e", "j", "m", "s")  # the script's first letters, without the empty prompt
TREE = "m"  # its search is shown as a tree
SHARP = (("temperature", 0.3),)


def record(script: ModuleType) -> dict:
    """Search from all letters, follow one search, and draw from two recipes."""
    rng = random.Random(script.SEED)
    names = script.load_names()
    rng.shuffle(names)
    held_out, training = names[-script.NUM_HELD_OUT :], names[: -script.NUM_HELD_OUT]
    target = script.train(script.TARGET_SIZE, script.TARGET_STEPS, training, rng)
    script.train(script.DRAFT_SIZE, 0, training, rng)
    chain = script.Chain(target)

    class Watched:
        """A chain that remembers which contexts a search reads, in order."""

        def __init__(self) -> None:
            self.read: list[str] = []

        def next(self, text: tuple) -> list[float]:
            self.read.append(script.show(text))
            return chain.next(text)

    searches = script.search_all(chain)
    methods = list(searches[""])
    letters = [letter for letter in searches if letter]
    mean_letters = sum(map(len, held_out)) / len(held_out)

    def summary(method: str) -> dict:
        found = [searches[letter][method] for letter in letters]
        best = [searches[letter]["best-first"] for letter in letters]
        return {
            "method": method,
            "letters": sum([len(script.decode(text)) for text, _, _ in found]) / len(letters),
            "hits": sum([a[0] == b[0] for a, b in zip(found, best)]),
            "contexts": sum([count for _, _, count in found]) / len(letters),
            "shown": [
                {"name": script.show(text), "p": math.exp(log_p)}
                for text, log_p, _ in [searches[letter][method] for letter in SHOWN]
            ],
        }

    prompt = tuple(script.encode(TREE)[:-1])
    trees = {}
    for method, search in (
        ("greedy", lambda spy: script.beam_search(spy, prompt, 1)),
        ("beam 5", lambda spy: script.beam_search(spy, prompt, 5)),
        ("best-first", lambda spy: script.best_first_search(spy, prompt)),
    ):
        spy = Watched()
        text, log_p, _ = search(spy)
        trees[method] = {"read": spy.read, "name": script.show(text), "p": math.exp(log_p)}

    greedy, log_greedy, _ = searches[""]["beam 1"]
    mode, log_mode, _ = searches[""]["best-first"]
    rows = [chain.next(greedy[:i]) for i in range(1, len(greedy))]
    drawn = {
        recipe: [script.draw_text(chain, recipe, rng) for _ in range(script.NUM_SAMPLES)]
        for recipe in ((), SHARP)
    }
    assert script.RECIPES[:2] == ((), SHARP)  # in this order main() draws

    def sample(recipe: tuple) -> dict:
        words = [script.decode(text) for text, _ in drawn[recipe]]
        return {
            "real": sum([word in known for word in words]) / len(words),
            "different": len(set(words)) / len(words),
            "names": [{"name": word, "real": word in known} for word in words[:10]],
        }

    known = set(names)
    text = tuple(script.encode(script.FILTERED_TEXT)[:-1])
    p = chain.next(text)
    run = recorded("microbeam")["seeds"]["42"]["headline"]
    samples = [sample(()), sample(SHARP)]
    assert abs(samples[1]["real"] - samples[0]["real"] - run["real_gained"]) < 1e-9
    means = [summary(method) for method in methods]
    assert means[-1]["hits"] - means[0]["hits"] >= run["hits_gained"]
    assert abs(means[-1]["letters"] / mean_letters - run["map_length_ratio"]) < 1e-9
    return {
        "alphabet": script.ALPHABET,
        "num_letters": len(letters),
        "held_out_letters": mean_letters,
        "ratio": run["map_length_ratio"],
        "greedy": {
            "name": script.show(greedy),
            "factors": [row[symbol] for row, symbol in zip(rows, greedy[1:])],
            "p": math.exp(log_greedy),
            "rows": rows,
        },
        "mode": {"name": script.show(mode), "p": math.exp(log_mode)},
        "trees": trees,
        "searches": means,
        "mar": {
            "text": script.FILTERED_TEXT,
            "t": SHARP[0][1],
            "p": p,
            "sharp": script.apply_recipe(p, SHARP),
        },
        "samples": samples,
        "num_samples": script.NUM_SAMPLES,
    }
