"""What the film of microppo shows: the judge, and PPO with and without a price on distance.

main() itself is run, so every history is that of the recorded run. The clip is shown at work on
one letter: in the second free iteration, the first letter that went better than expected and whose
ratio passes the clip between the second and the third use of the names. The judge is shown at work
on the same name.
"""

from __future__ import annotations

from types import ModuleType

from tracing import recorded

WATCHED = 1  # the free iteration (from 0) in which the clip is looked at


def record(script: ModuleType) -> dict:
    """Run main(), and note the ratios of one iteration."""
    seen: list[dict] = []
    judges: list = []
    pairs: list = []
    original, free = script.ppo_loss, script.ppo

    def watched(log_probs: object, old: list, advantages: list, clip: float) -> tuple:
        loss, share = original(log_probs, old, advantages, clip)
        ratios = [script.exp(a - b) for a, b in zip(log_probs.data[0], old)]
        seen.append({"ratios": ratios, "advantages": list(advantages), "share": share})
        return loss, share

    batches: list = []
    write = script.write_names

    def writing(*args: object) -> object:
        batches.append(write(*args))
        return batches[-1]

    def training(reference: object, judge: list, beta: float, *rest: object) -> tuple:
        judges.append(list(judge))
        del seen[:], batches[:]
        result = free(reference, judge, beta, *rest)
        pairs.append((beta, list(seen), list(batches)))
        return result

    script.ppo_loss, script.write_names, script.ppo = watched, writing, training
    headline = script.main()
    judge = judges[0]

    beta, passes, written = pairs[-1]
    assert beta == script.FREE_BETA
    start = WATCHED * script.NUM_EPOCHS
    window, batch = passes[start : start + script.NUM_EPOCHS], written[WATCHED]
    symbols = [(text, place) for text in batch.texts for place in range(1, len(text))]
    limit = 1.0 + script.CLIP
    index = next(
        i
        for i, a in enumerate(window[0]["advantages"])
        if a > 0.5
        and window[1]["ratios"][i] < limit < window[2]["ratios"][i]
        and symbols[i][0][symbols[i][1]] != 0
    )
    text, place = symbols[index]
    details = headline["details"]
    results = list(details["results"].values())
    run = recorded("microppo")["seeds"]["42"]
    assert abs(run["headline"]["reward_free"] - headline["reward_free"]) < 1e-9

    def history(result: dict) -> list[dict]:
        return [
            {key: step[key] for key in ("score", "reward", "kl")}
            | {"name": step["name"], "name_score": script.score(script.encode(step["name"]), judge)}
            | {"name_reward": script.gold_reward(step["name"])}
            for step in result["history"]
        ]

    letters = sorted(range(len(judge)), key=lambda i: -judge[i])
    shown = script.encode(script.to_name(text))
    return {
        "soft": script.SOFT_LETTERS,
        "num_pairs": script.NUM_PAIRS,
        "beta": script.BETA,
        "clip": script.CLIP,
        "judge": [[script.ALPHABET[i], judge[i]] for i in letters],
        "example": {
            "symbols": [script.ALPHABET[i] for i in shown[1:]],
            "weights": [judge[i] for i in shown[1:]],
            "score": script.score(shown, judge),
            "reward": script.gold_reward(script.to_name(text)),
        },
        "tied": history(results[1]),
        "free": history(results[2]),
        "gate": {
            "name": script.to_name(text),
            "place": place,
            "letter": script.ALPHABET[text[place]],
            "advantage": window[0]["advantages"][index],
            "ratios": [one["ratios"][index] for one in window],
        },
        "letters": {
            "up": [a > 0.0 for a in window[0]["advantages"]],
            "ratios": [[round(r, 3) for r in one["ratios"]] for one in window],
        },
        "num_names": script.NUM_NAMES,
        "results": run["headline"],
        "score_reinforce": results[0]["score"],
        "kl": {
            "tied": run["table"][f"PPO, beta {script.BETA:g}"]["kl"],
            "free": run["table"][f"PPO, beta {script.FREE_BETA:g}"]["kl"],
        },
    }
