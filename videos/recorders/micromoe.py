"""What the film of micromoe shows: who answers which fact, while dense and sparse layers learn.

Four of the script's arms are trained, and asked for every fact at some steps. An answer is a
letter: A to H for experts 0 to 7, small if it is wrong. One fact's way through the router and its
expert is kept in numbers. Accuracies are those of the recorded run.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

STEPS = (0, 8, 16, 32, 50, 75, 100, 135, 170, 210, 250, 300, 350, 400)
FACT = 0
DENSE_RATE = 0.08  # the best of the script's three: the recorded accuracy says so


def record(script: ModuleType) -> dict:
    """Train the arms, and look at them along the way."""
    values = script.draw_facts(random.Random(script.SEED))
    experts, hidden = script.NUM_EXPERTS, script.EXPERT_HIDDEN
    dense = script.Model(1, script.DENSE_HIDDEN, [0] * len(values))
    fair = script.Model(experts, hidden, None)
    skewed, balanced = [script.Model(experts, hidden, None, script.SKEW) for _ in range(2)]
    arms = {
        "dense": watch(script, dense, values, DENSE_RATE, ""),
        "router": watch(script, fair, values, script.EXPERT_RATE, ""),
        "skewed": watch(script, skewed, values, script.EXPERT_RATE, ""),
        "balanced": watch(script, balanced, values, script.EXPERT_RATE, "loss"),
    }
    run = recorded("micromoe")
    headline = run["seeds"]["42"]["headline"]
    wide = run["variants"]["wide_dense"]
    wide_hidden = int(wide["changes"]["DENSE_HIDDEN"])
    for name, looks in arms.items():
        assert abs(looks[-1]["accuracy"] - headline[f"{name}_accuracy"]) < 1e-9
    width = script.WIDTH
    return {
        "num_facts": len(values),
        "num_values": script.NUM_VALUES,
        "num_relations": script.NUM_RELATIONS,
        "values": values,
        "num_experts": experts,
        "hidden": {"dense": script.DENSE_HIDDEN, "expert": hidden},
        "multiply_adds": {
            "dense": 2 * width * script.DENSE_HIDDEN,
            "experts": 2 * width * hidden + width * experts,
        },
        "weights": {
            "dense": 2 * width * script.DENSE_HIDDEN,
            "experts": experts * 2 * width * hidden + width * experts,
        },
        "one": one_fact(script, fair),
        "wide": {
            "accuracy": wide["headline"]["dense_accuracy"],
            "times": 2 * width * wide_hidden / (2 * width * script.DENSE_HIDDEN),
        },
        "arms": arms,
        "accuracy": headline,
    }


def look_at(script: ModuleType, model: object, values: list[int], step: int) -> dict:
    """Every fact's expert and whether it was right; the accuracy; the busiest expert's load."""
    found = script.measure(model, values)
    letters = [
        chr(ord("A" if right else "a") + expert)
        for expert, right in zip(found.experts, found.right)
    ]
    return {
        "step": step,
        "answers": "".join(letters),
        "accuracy": found.accuracy,
        "load": found.load,
    }


def watch(
    script: ModuleType, model: object, values: list[int], rate: float, balancing: str
) -> list[dict]:
    """Train a model as the script does, and look at it at some steps."""
    looks = [look_at(script, model, values, 0)]
    inner = script.Adam

    class Watched(inner):
        """Adam, and a look at some steps."""

        count = 0

        def step(self, lr: float) -> None:
            super().step(lr)
            Watched.count += 1
            if Watched.count in STEPS:
                looks.append(look_at(script, model, values, Watched.count))

    script.Adam = Watched
    script.train(model, values, rate, balancing)
    script.Adam = inner
    return looks


def one_fact(script: ModuleType, model: object) -> dict:
    """One fact's way: probabilities, expert, its output, and that times the gate."""
    kept: dict = {}
    inner = script.combine

    def combine(outputs: list, groups: list, probs: object) -> object:
        expert = next(e for e, rows in enumerate(groups) if rows)
        result = inner(outputs, groups, probs)
        kept.update(
            probs=probs.data[0],
            expert=expert,
            output=outputs[expert].data[0],
            gated=result.data[0],
        )
        return result

    script.combine = combine
    logits = model.forward([FACT]).logits.data[0]
    script.combine = inner
    subject, relation = divmod(FACT, script.NUM_RELATIONS)
    return {"subject": subject, "relation": relation, "said": script.argmax(logits), **kept}
