"""What the film of microlora shows: full fine-tuning's update of one matrix, and LoRA's own.

A base is trained and adapted in full and with LoRA, as main() does. Of the query matrix come the
full update, its terms and the sums of the first of them, and LoRA's two thin matrices during
training. The losses are those of the recorded run; on the way, those of the held-out names.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

LAYER = "query"
STEPS = (0, 1, 2, 4, 7, 11, 16, 23, 31, 40)  # where LoRA is looked at
NUM_SAMPLES = 15  # invented names to choose from


def record(script: ModuleType) -> dict:
    """Train a base, then adapt it in full and with adapters at every layer."""
    rng = random.Random(script.SEED)
    names = script.split_names(script.load_names(), rng)
    base = script.new_transformer(rng)
    script.train(base, names["base"], script.BASE_STEPS, script.BASE_RATE, rng)
    script.freeze(base)
    adapt = names["target"][: script.NUM_ADAPT]
    full = script.fine_tune(base, adapt, script.FULL_RATE)
    probe = names["held-out target"][:50]
    before = script.predict(base, probe)[0]
    lora, snapshots = watch_lora(script, base, adapt, names["held-out target"])
    seed = recorded("microlora")["seeds"]["42"]
    assert abs(snapshots[-1]["loss"] - seed["headline"]["lora_loss"]) < 1e-9
    for snapshot in snapshots:
        snapshot["recovered"] = script.recovered(snapshot["loss"], seed["table"])
    update = script.difference(full.layers[LAYER].weight, base.layers[LAYER].weight)
    terms = script.svd(update)
    samples = {"base": script.invent(base), "lora": script.invent(lora)}
    return {
        "base_names": names["base"][:4],
        "target_names": adapt[:4],
        "num_base": len(names["base"]),
        "num_adapt": len(adapt),
        "num_all": script.count(base.parameters()),
        "num_lora": script.count(script.trainable_parameters(lora)),
        "num_matrices": len(base.layers),
        "weight": base.layers[LAYER].weight.data,
        "sizes": {
            "matrix": script.count([base.layers[LAYER].weight]),
            "adapter": script.count([lora.layers[LAYER].lora_A, lora.layers[LAYER].lora_B]),
        },
        "update": update,
        "sigmas": [sigma for sigma, _, _ in terms],
        "terms": [
            {"column": [sigma * value for value in u], "row": v} for sigma, u, v in terms[:2]
        ],
        "cuts": {str(rank): script.truncate(update, rank) for rank in (1, 2)},
        "snapshots": snapshots,
        "losses": {title: row["target"] for title, row in seed["table"].items()},
        "recovered": {
            title: script.recovered(row["target"], seed["table"])
            for title, row in seed["table"].items()
        },
        "gaps": [
            run["headline"]["forgetting_gap"] for run in recorded("microlora")["seeds"].values()
        ],
        "endings": {
            who: script.share_of_target_kind(invented) for who, invented in samples.items()
        },
        "num_samples": script.NUM_SAMPLES,
        "samples": {who: invented[:NUM_SAMPLES] for who, invented in samples.items()},
        "unplugged": script.largest_difference(script.predict(base, probe)[0], before),
    }


def watch_lora(
    script: ModuleType, base: object, adapt: list[str], held_out: list[str]
) -> tuple[object, list[dict]]:
    """Fine-tune with LoRA, and look at one adapter and the held-out loss at some steps."""
    snapshots: list[dict] = []
    inner_train, inner_adam = script.train, script.Adam
    model: list = []

    def look(step: int) -> None:
        adapter = model[0].layers[LAYER]
        snapshots.append(
            {
                "step": step,
                "A": [row[:] for row in adapter.lora_A.data],
                "B": [row[:] for row in adapter.lora_B.data],
                "product": adapter.update(),
                "loss": script.mean_loss(model[0], held_out),
            }
        )

    class Watched(inner_adam):
        """Adam, and a look at some steps."""

        count = 0

        def step(self, lr: float) -> None:
            super().step(lr)
            Watched.count += 1
            if Watched.count in STEPS:
                look(Watched.count)

    def train(adapted: object, *rest: object, **options: object) -> None:
        model.append(adapted)
        look(0)
        script.Adam = Watched
        inner_train(adapted, *rest, **options)
        script.Adam = inner_adam

    script.train = train
    layers = tuple(base.layers)
    lora = script.fine_tune_lora(base, adapt, layers, script.RANK, script.LORA_RATE)
    script.train = inner_train
    return lora, snapshots
