"""What the film of microbatchnorm shows: one unit, two fans of directions, and one digit's company.

One batch of 32 digits goes through an untrained plain network and one with batch norm, with the
same weights. Each digit's vector is known by its angle from the direction that they share (their
mean direction). The averages are those of the script's cosines and of the recorded run.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from types import ModuleType

from tracing import recorded

NUM_SHOWN = 6  # pictures of a digit's company


def record(script: ModuleType) -> dict:
    """Directions before training; two arms at three rates; one digit in four batches."""
    random.seed(script.SEED)
    images, labels = script.load_digits()
    images = [[pixel - 0.3 for pixel in image] for image in images]
    train, test = images[: script.NUM_TRAIN], images[script.NUM_TRAIN :]
    train_labels, test_labels = labels[: script.NUM_TRAIN], labels[script.NUM_TRAIN :]
    compared = random.sample(train, script.NUM_COMPARED)
    cosines = {
        norm: script.cosines_by_layer(norm, compared, random.Random(script.SEED))[-1]
        for norm in (script.NONE, script.LAYER, script.SCALE, script.CENTRE, script.BATCH)
    }
    rates, best = train_two_arms(script, (train, train_labels, test, test_labels))
    run = recorded("microbatchnorm")
    headline = run["seeds"]["42"]["headline"]
    assert abs(max(rates[script.BATCH]) - headline["batch_best"]) < 1e-9
    assert abs(cosines[script.NONE] - cosines[script.BATCH] - headline["cosine_gap"]) < 1e-9
    variant = run["variants"]["twelve_epochs"]
    later = {key: variant["headline"][key] for key in ("none_best", "batch_best")}
    return {
        "num_layers": script.NUM_LAYERS,
        "width": script.WIDTH,
        "epochs": script.EPOCHS,
        "num_train": script.NUM_TRAIN,
        "num_starts": script.NUM_STARTS,
        "unit": one_unit(script, train),
        "fans": {norm: fan(script, norm, compared) for norm in (script.NONE, script.BATCH)},
        "cosines": cosines,
        "rates": list(script.RATES),
        "by_rate": rates,
        "company": company(script, best, test, test_labels),
        "best": {key: headline[key] for key in ("none_best", "mean_best", "batch_best")},
        "one_class": headline["one_class"],
        "later": {"epochs": int(variant["changes"]["EPOCHS"]), **later},
    }


def ink(image: Sequence[float]) -> list[float]:
    """The pixels as they were, from 0 to 1."""
    return [round(pixel + 0.3, 4) for pixel in image]


def one_unit(script: ModuleType, images: list) -> dict:
    """A unit of the last plain layer over ten digits, and what batch_norm makes of it.

    Of the 16 units it is the one whose mean, in standard deviations, is the largest.
    """
    batch = images[:10]
    network = script.Network(script.NONE, random.Random(script.SEED))
    before = network.hidden(batch, training=True)[-2]
    x = script.linear(before, network.layers[-1].weight)
    columns = script.transpose(x.data)
    means, variances = script.batch_statistics(columns)
    spreads = [variance**0.5 for variance in variances]
    unit = max(range(len(means)), key=lambda i: means[i] / spreads[i])
    column = script.Tensor([[value] for value in columns[unit]])
    one, zero = script.Tensor([[1.0]]), script.Tensor([[0.0]])
    out = script.batch_norm(column, one, zero, [0.0], [1.0], training=True)
    return {
        "images": [ink(image) for image in batch],
        "x": columns[unit],
        "mean": means[unit],
        "spread": spreads[unit],
        "centred": [value - means[unit] for value in columns[unit]],
        "out": [row[0] for row in out.data],
    }


def fan(script: ModuleType, norm: str, compared: list) -> dict:
    """The angle of each digit's vector from their mean direction, behind every layer."""
    batch = compared[: script.BATCH_SIZE]
    network = script.Network(norm, random.Random(script.SEED))
    stages = [batch, *[out.data for out in network.hidden(batch, training=True)]]
    angles, cosines = [], []
    for rows in stages:
        units = script.unit_vectors(rows)
        assert len(units) == len(batch)
        total = [sum(column) for column in zip(*units)]
        (middle,) = script.unit_vectors([total])
        angles.append([math.acos(script.dot(unit, middle)) for unit in units])
        cosines.append(script.mean_cosine(rows))
    return {"angles": angles, "cosines": cosines}


def train_two_arms(script: ModuleType, data: tuple) -> tuple[dict, object]:
    """Accuracy without norm and with batch norm at every rate; the best network with batch norm."""
    train, train_labels, test, test_labels = data
    results: dict[str, list[float]] = {}
    best: tuple = (-1.0, None)
    for norm in (script.NONE, script.BATCH):
        results[norm] = []
        for rate in script.RATES:
            network = script.new_network(norm, train, random.Random(script.SEED))
            script.train(network, train, train_labels, rate, random.Random(script.SEED + 1))
            logits = network.forward(test, training=False).data
            score = script.accuracy(logits, test_labels)
            results[norm].append(score)
            if norm == script.BATCH and score > best[0]:
                best = (score, network)
    return results, best[1]


def company(script: ModuleType, network: object, images: list, labels: list) -> dict:
    """The digit that report_company shows, and what it is taken for in each batch."""
    calls: list[tuple] = []
    inner = script.in_company

    def watched(network: object, digit: list, others: list) -> list[float]:
        result = inner(network, digit, others)
        calls.append((digit, others, result))
        return result

    script.in_company = watched
    script.report_company(network, images, labels)
    digit = calls[-1][0]
    alone = script.softmax_row(network.forward([digit], training=False).data[0])
    label = labels[images.index(digit)]
    batches = []
    for _, others, probabilities in calls[-3:]:
        found = [labels[images.index(image)] for image in others]
        batches.append(
            {
                "size": len(others),
                "labels": found,
                "images": [ink(image) for image in others[:NUM_SHOWN]],
                "taken_for": probabilities.index(max(probabilities)),
                "probability": probabilities[label],
            }
        )
    return {
        "digit": ink(digit),
        "label": label,
        "alone_for": alone.index(max(alone)),
        "alone": alone[label],
        "batches": batches,
    }
