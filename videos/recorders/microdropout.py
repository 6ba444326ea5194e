"""What the film of microdropout shows: the first training set, met in three ways, epoch by epoch.

The three trainings are those of main(). The averages over all sets are those of the recorded run,
read from the table that it printed.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import ROOT, recorded

NUM_SHOWN = 15  # digits of the training set, a fifth of them with wrong labels
NUM_MASKS = 3


def averages(script: ModuleType) -> dict:
    """The rows of the recorded run's tables, for each arm: all losses, and accuracies."""
    recorded("microdropout")  # refuses a stale record
    lines = (ROOT / "results" / "microdropout.txt").read_text(encoding="utf-8").split("\n")
    result = {}
    for arm in script.ARMS:
        rows = [line[len(arm) :].split() for line in lines if line.startswith(arm + " ")]
        losses = next(row for row in rows if len(row) == 5 and row[4].endswith("%"))
        cut = next(row for row in rows if "50%:" in row)[: len(script.SHARES_CUT)]
        result[arm] = {
            "loss": float(losses[1]),
            "learned": round(float(losses[4][:-1]) / 100.0, 2),
            "cut": [float(value) for value in cut],
        }
    return result


def record(script: ModuleType) -> dict:
    """Train in three ways on set 1, and keep what each network answers after every epoch."""
    rng = random.Random(script.SEED)
    images, digits = script.load_digits()
    pool, validation = [
        script.Examples(images[part], digits[part], digits[part])
        for part in (slice(1100), slice(1100, 1437, 3))
    ]
    training = script.draw_training_set(pool, rng)
    seeds = [rng.randrange(2**32) for _ in range(3)]
    script.CHECK_EVERY = 1
    original = script.evaluate
    answers: dict[str, list] = {}
    last: dict[str, object] = {}
    for arm in script.ARMS:
        models = [script.new_network(random.Random(seeds[0]))]

        def evaluate(model: object, examples: object, models: list = models) -> tuple:
            models.append(model.copy())
            return original(model, examples)

        script.evaluate = evaluate
        script.train(arm, training, validation, seeds[:2])
        answers[arm] = [
            [script.softmax_row(row) for row in model.forward(training.images).data]
            for model in models
        ]
        last[arm] = models[-1]
    script.evaluate = original

    pairs = list(zip(training.labels, training.digits))
    wrong = [i for i, (label, digit) in enumerate(pairs) if label != digit]

    def said(arm: str, epoch: int, i: int) -> int:
        row = answers[arm][epoch][i]
        return row.index(max(row))

    chosen = [
        i
        for i in wrong
        if said("same rate", -1, i) == pairs[i][0] and said("dropout", -1, i) == pairs[i][1]
    ]
    which = chosen[0]
    # Right ones are shown if the network with dropout is sure of them: they are easy to read.
    sure = [answers["dropout"][-1][i][digit] > 0.8 for i, (_, digit) in enumerate(pairs)]
    right = [i for i, (label, digit) in enumerate(pairs) if label == digit and sure[i]][::-1]
    num_wrong = round(script.WRONG * NUM_SHOWN)
    shown = right[: NUM_SHOWN - num_wrong]
    for place, i in zip((6, 3, 13), chosen):
        shown.insert(place, i)

    # Masks on one image: what is left of the hidden outputs, and what the network answers.
    model, p = last["dropout"], script.ARMS["dropout"][1]
    hidden = model.hidden([training.images[which]])
    ones = script.Tensor([[1.0] * script.NUM_HIDDEN], requires_grad=False)
    masks = []
    for seed in range(NUM_MASKS):
        mask = script.dropout(ones, p, random.Random(seed)).data[0]
        kept = script.dropout(hidden, p, random.Random(seed))
        probabilities = script.softmax_row(model.logits(kept).data[0])
        masks.append({"mask": mask, "kept": kept.data[0], "answer": probabilities})
    return {
        "num_rows": len(pairs),
        "num_epochs": script.NUM_EPOCHS,
        "examples": [
            {
                "pixels": [round(v, 2) for v in training.images[i]],
                "label": pairs[i][0],
                "digit": pairs[i][1],
            }
            for i in shown
        ],
        "which": shown.index(which),
        "p": p,
        "hidden": hidden.data[0],
        "whole": script.softmax_row(model.logits(hidden).data[0]),
        "masks": masks,
        "duel": {
            arm: [[round(x, 4) for x in epoch[which]] for epoch in answers[arm]]
            for arm in ("same rate", "dropout")
        },
        "learned": {
            arm: [
                [int(said(arm, epoch, i) == pairs[i][0]) for i in wrong]
                for epoch in range(len(answers[arm]))
            ]
            for arm in script.ARMS
        },
        "rates": {arm: values[0] for arm, values in script.ARMS.items()},
        "shares_cut": list(script.SHARES_CUT),
        "num_sets": script.NUM_SETS,
        "averages": averages(script),
    }
