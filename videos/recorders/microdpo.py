"""What the film of microdpo shows: pairs, their log-ratios in training, and reward against KL.

The training is that of main(), with the same seed. The pair that is followed is the first of the
training pairs in which winner and loser differ by at least 3 points and which the finished policy
orders rightly. What the finished policies are worth is taken from the recorded run.
"""

from __future__ import annotations

import random
from functools import partial
from types import ModuleType

from tracing import recorded

SNAPSHOTS = (0, 5, 10, 20, 30, 40, 50, 60, 70, 80)  # steps of DPO
FRONTIER_KLS = [i / 40 for i in range(57)]


def record(script: ModuleType) -> dict:
    """Train as main() does, and look at the pairs along the way."""
    rng = random.Random(script.SEED)
    reference = script.pretrain(script.load_names(), rng)
    comparisons = script.draw_comparisons(reference, script.NUM_PAIRS + script.NUM_HELD_OUT, rng)
    pairs = script.with_reference(reference, comparisons[: script.NUM_PAIRS])
    held_out = script.with_reference(reference, comparisons[script.NUM_PAIRS :])
    rewards = [script.gold_reward(script.to_name(text)) for pair in comparisons for text in pair]

    def train(num_steps: int, loss_of: object) -> dict:
        kept: list = []

        def watched(policy: object, batch: object) -> tuple:
            kept.append(script.copy_of(policy, requires_grad=False))
            return loss_of(policy, batch)

        policy, _ = script.fine_tune(reference, pairs, num_steps, watched)
        return dict(enumerate([*kept, policy]))

    policies = train(script.DPO_STEPS, partial(script.dpo_step, beta=script.BETA))

    def ratios(policy: object, side: list, ref: list) -> list[float]:
        now = script.sequence_log_probs(policy, side).data[0]
        return [a - b for a, b in zip(now, ref)]

    last = policies[script.DPO_STEPS]
    for index, (winner, loser) in enumerate(zip(pairs.winners, pairs.losers)):
        names = [script.to_name(text) for text in (winner, loser)]
        gap = script.gold_reward(names[0]) - script.gold_reward(names[1])
        ends = [
            ratios(last, [text], [ref[index]])[0]
            for text, ref in zip((winner, loser), (pairs.ref_winners, pairs.ref_losers))
        ]
        if gap >= 3.0 and ends[1] < ends[0]:
            break
    single = []
    cloud = []
    for step in SNAPSHOTS:
        policy = policies[step]
        logs = script.sequence_log_probs(policy, [winner, loser]).data[0]
        own = [logs[0] - pairs.ref_winners[index], logs[1] - pairs.ref_losers[index]]
        margin = script.BETA * (own[0] - own[1])
        single.append(
            {"step": step, "logs": logs, "ratios": own, "margin": margin,
             "pull": script.sigmoid_of(-margin)}
        )  # fmt: skip
        sides = [
            ratios(policy, held_out.winners, held_out.ref_winners),
            ratios(policy, held_out.losers, held_out.ref_losers),
        ]
        cloud.append(
            {
                "step": step,
                "dots": [[round(r, 2) for r in side] for side in sides],
                "means": [script.mean(side) for side in sides],
            }
        )
    starts = [0] * 6
    texts = [
        script.sample(model, starts, script.NUM_HEADS, script.CONTEXT, random.Random(script.SEED))
        for model in (reference, last)
    ]
    names_of = [[script.to_name(text) for text in side] for side in texts]
    table = recorded("microdpo")["seeds"]["42"]["table"]
    table = {key: row for key, row in table.items() if key != f"DPO, beta {script.HIGH_BETA:g}"}
    base, dpo = table["reference"], table[f"DPO, beta {script.BETA:g}"]
    return {
        "soft": script.SOFT_LETTERS,
        "beta": script.BETA,
        "num_pairs": script.NUM_PAIRS,
        "num_held_out": script.NUM_HELD_OUT,
        "num_steps": script.DPO_STEPS,
        "examples": [
            [[name, script.gold_reward(name)] for name in map(script.to_name, pair)]
            for pair in comparisons[:4]
        ],
        "pair": [[name, script.gold_reward(name)] for name in names],
        "single": single,
        "cloud": cloud,
        "frontier": [(kl, script.frontier_reward(rewards, kl)) for kl in FRONTIER_KLS],
        "table": table,
        "share": (dpo["reward"] - base["reward"]) / (dpo["frontier"] - base["reward"]),
        "names": [[[n, script.gold_reward(n)] for n in side] for side in names_of],
    }
