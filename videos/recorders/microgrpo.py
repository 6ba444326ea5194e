"""What the film of microgrpo shows: one step's answers and two trainings whose graders differ.

The reference is pretrained, and two policies are trained from it as main() does, with the same
random numbers: one with the group's mean, one with the batch's. The first step's answers are the
same for both. The shares of right answers at the end are those of the recorded run.
"""

from __future__ import annotations

import math
import random
from types import ModuleType

from tracing import recorded

SHOWN = 2  # the prompt whose group is looked at closely: "4 letters or less"


def record(script: ModuleType) -> dict:
    """Pretrain, train twice, and keep what the first step computed."""
    rng = random.Random(script.SEED)
    names = [name for name in script.load_names() if len(name) < script.CONTEXT - 1]
    reference = script.pretrain(names, rng)
    seed = rng.getrandbits(32)
    size, num_prompts = script.GROUP_SIZE, len(script.PROMPTS)
    seen: list[dict] = []
    texts: list[list] = []
    original, write = script.group_advantages, script.write_answers

    def advantages(rewards: list[float], group_size: int) -> list[float]:
        result = original(rewards, group_size)
        seen.append({"rewards": rewards, "advantages": result})
        return result

    def answers(*args: object) -> list[list[int]]:
        texts.append(write(*args))
        return texts[-1]

    script.group_advantages, script.write_answers = advantages, answers
    first, shares, silent = {}, {}, []
    for name, group_size in (("group", size), ("batch", size * num_prompts)):
        seen.clear()
        _, history = script.train(reference, script.OFFSETS, group_size, random.Random(seed))
        first[name] = seen[0]
        shares[name] = [share for share, _ in history]
        if name == "group":
            for step in seen:
                parts = [step["rewards"][i : i + size] for i in range(0, size * num_prompts, size)]
                silent.append([int(min(part) == max(part)) for part in parts])
            assert [sum(row) for row in silent] == [count for _, count in history]
    script.group_advantages, script.write_answers = original, write
    assert texts[0] == texts[script.STEPS]

    checks = [script.check(text) for text in texts[0]]
    wrong_way = {}
    for name, step in first.items():
        pairs = list(zip(checks, step["advantages"]))
        wrong_way[name] = [
            sum([c == 0.0 and a > 0.0 for c, a in pairs]),
            sum([c == 1.0 and a < 0.0 for c, a in pairs]),
        ]
    rewards = first["batch"]["rewards"]
    means = [script.mean(rewards[i : i + size]) for i in range(0, len(rewards), size)]
    part = slice(SHOWN * size, (SHOWN + 1) * size)
    plain = checks[part]
    center = script.mean(plain)
    spread = math.sqrt(sum([(r - center) ** 2 for r in plain]) / (size - 1))
    run = recorded("microgrpo")["seeds"]["42"]["headline"]
    return {
        "prompts": script.PROMPTS,
        "offsets": script.OFFSETS,
        "size": size,
        "names": [script.to_name(text) for text in texts[0]],
        "checks": checks,
        "rewards": rewards,
        "means": means,
        "mean": script.mean(rewards),
        "group": {
            "which": SHOWN,
            "mean": center,
            "spread": spread,
            "above": [r - center for r in plain],
            "advantages": original(plain, size),
            "advantages_shifted": first["group"]["advantages"][part],
        },
        "wrong_way": wrong_way,
        "shares": shares,
        "silent": silent,
        "accuracy": {key[9:]: run[key] for key in run if key.startswith("accuracy_")},
        "silent_share": run["silent_share"],
        "weight_difference": run["weight_difference"],
    }
