"""What the film of microconv shows: one filter meets a digit at two places; 25 places, 4 networks.

main() runs as it is. From the network that it hands to report_matches, and the digit, come one
filter, its map at some offsets, and its best match.
"""

from __future__ import annotations

from types import ModuleType

PATH = ((2, 2), (2, 3), (1, 3), (1, 4), (0, 4))  # the digit goes from the centre to a corner


def record(script: ModuleType) -> dict:
    """Run main(), and look at the filter that spoke most for the shown digit."""
    kept: dict = {}

    def keep(model: object, digit: list[float], truth: int) -> None:
        kept.update(model=model, digit=digit, truth=truth)

    script.report_matches = keep
    result = script.main()
    model, digit = kept["model"], kept["digit"]
    centred = script.paste(digit, *script.CENTRE, script.CANVAS)
    logits = model.forward([centred]).data[0]
    label = logits.index(max(logits))
    features = model.features([centred]).data[0]
    votes = [w * f for w, f in zip(model.head.data[label], features)]
    index = votes.index(max(votes))
    weights, bias = model.filters.data[index], model.filter_bias.data[0][index]
    places = script.patch_pixels(script.CANVAS, script.KERNEL_SIZE, script.PADDING)
    looks = []
    for offset in PATH:
        image = script.paste(digit, *offset, script.CANVAS)
        responses = script.conv2d_map(image, weights, bias, script.PADDING)
        looks.append(
            {
                "offset": offset,
                "image": image,
                "map": script.rows_of([float(f"{r:.3g}") for r in responses]),
                "best": max(responses),
                "place": script.best_place(image, model, index),
                "features": model.features([image]).data[0],
                "read_as": max(range(10), key=model.forward([image]).data[0].__getitem__),
            }
        )
    patch = script.im2col(centred, places)[looks[0]["place"]]
    products = [p * w for p, w in zip(patch, weights)]
    details = result["details"]
    return {
        "truth": kept["truth"],
        "num_train": script.NUM_TRAIN,
        "num_filters": script.NUM_FILTERS,
        "kernel": script.KERNEL_SIZE,
        "tile": script.TILE,
        "num_moved": len(range(0, 360, script.TEST_EVERY)),
        "num_offsets": len(script.all_offsets()),
        "digits": {str(n): example(script, n) for n in range(10)},
        "filter": weights,
        "bias": bias,
        "patch": patch,
        "products": products,
        "sum": sum(products) + bias,
        "looks": looks,
        "charts": {
            name: script.rows_of(list(chart.values())) for name, chart in details["charts"].items()
        },
        "rows": details["rows"],
    }


def example(script: ModuleType, label: int) -> list[float]:
    """The first training digit of a class."""
    digits, labels = script.load_digits()
    return digits[labels.index(label)]
