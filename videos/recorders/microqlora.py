"""What the film of microqlora shows: a block of weights in 4 and in 2 bits, and one adapter.

The base is trained as main() does, its weights are stored in few bits, and adapters are trained
over the 4-bit ones. All losses are those of the recorded run.
"""

from __future__ import annotations

import random
from types import ModuleType

from tracing import recorded

LAYER = "query"  # its first block is looked at, and its adapter


def record(script: ModuleType) -> dict:
    """Train the base and one set of adapters; no loss is measured here."""
    rng = random.Random(script.SEED)
    names = script.split_names(script.load_names(), rng)
    base = script.new_transformer(rng)
    script.train(base, names["base"], script.BASE_STEPS, script.BASE_RATE, rng)
    script.freeze(base)
    weight = base.layers[LAYER].weight.data
    block = sum(weight, [])[: script.BLOCK_SIZE]
    codes = {}
    for bits in (4, 2):
        levels = script.normal_float_levels(bits)
        found, scales = script.quantize_blockwise(block, levels)
        codes[str(bits)] = {"levels": levels, "codes": found}
    scale = scales[0]
    scaled = [w / scale for w in block]
    # One weight that is neither small nor the largest, and not quite on a level. Its numbers must
    # agree when they are multiplied as the film writes them.
    four = codes["4"]
    errors = [abs(s - four["levels"][c]) for s, c in zip(scaled, four["codes"])]

    def agrees(i: int) -> bool:
        level, largest = four["levels"][four["codes"][i]], round(scale, 3)
        product = round(round(level, 3) * largest, 3) == round(level * scale, 3)
        return product and round(round(block[i], 3) / largest, 3) == round(scaled[i], 3)

    candidates = [i for i, s in enumerate(scaled) if 0.2 < s < 0.7 and agrees(i)]
    which = max(candidates, key=lambda i: errors[i])
    level = four["levels"][four["codes"][which]]

    model = script.quantize_model(base, script.normal_float_levels(4))
    adapted = script.trained_over(model, names["target"][: script.NUM_ADAPT], script.LORA_RATE)
    adapter = adapted.layers[LAYER]
    run = recorded("microqlora")["seeds"]["42"]
    table, headline = run["table"], run["headline"]
    broken, repaired, merged = [
        headline[key] for key in ("rise_nf2", "repaired_rise_nf2", "merged_rise_nf2")
    ]
    return {
        "scaled": scaled,
        "one": {
            "which": which,
            "weight": block[which],
            "scale": scale,
            "scaled": scaled[which],
            "level": level,
            "used": level * scale,
        },
        "codes": codes,
        "decoded": model.layers[LAYER].weight.data,
        "lora_A": adapter.lora_A.data,
        "lora_B": adapter.lora_B.data,
        "num_frozen": len(script.flat_weights(model)),
        "num_trained": script.num_trained(adapted),
        "num_names": script.NUM_ADAPT,
        "bits_per_weight": table["base in NF4"]["bits_per_weight"],
        "rise": {
            "nf4": headline["rise_nf4"],
            "nf2": broken,
            "repaired": repaired,
            "merged": merged,
            "undone": 1.0 - repaired / broken,
            "lost_again": (merged - repaired) / (broken - repaired),
        },
        "target": [
            {"before": table[before]["target"], "after": table[after]["target"]}
            for before, after in (
                ("base", "LoRA"),
                ("base in NF4", "QLoRA, NF4"),
                ("base in NF2", "QLoRA, NF2"),
            )
        ],
    }
