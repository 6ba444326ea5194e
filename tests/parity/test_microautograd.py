"""microautograd against PyTorch: both engines, and fifty steps of training."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microautograd")
IMAGES, LABELS = script.load_digits()
BATCHES = list(
    script.batches_of(IMAGES[: script.NUM_TRAIN], LABELS[: script.NUM_TRAIN], range(50 * 16))
)


def float64(data, requires_grad=False):
    return torch.tensor(data, dtype=torch.float64, requires_grad=requires_grad)


def torch_loss(weights, images, labels):
    w1, b1, w2, b2 = weights
    hidden = F.relu(F.linear(float64(images), w1, b1[0]))
    return F.cross_entropy(F.linear(hidden, w2, b2[0]), torch.tensor(labels))


def both(seed):
    parameters = script.new_parameters(random.Random(seed))
    # Biases start at 0, where a gradient that uses their value in the wrong way would not show.
    rng = random.Random(seed + 1)
    for parameter in parameters:
        parameter.data = [[x + 0.1 * rng.gauss(0, 1) for x in row] for row in parameter.data]
    return parameters, [float64(p.data, requires_grad=True) for p in parameters]


def largest_difference(rows, expected):
    ours = float64(rows)
    assert ours.shape == expected.shape
    return (ours - expected).abs().max().item()


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradients_of_both_engines(seed):
    parameters, weights = both(seed)
    batch = BATCHES[seed]
    expected = torch_loss(weights, *batch)
    expected.backward()

    loss = script.matrix_loss(parameters, *batch)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    for parameter, weight in zip(parameters, weights):
        assert largest_difference(parameter.grad, weight.grad) <= 1e-12

    numbers = script.as_values(parameters)
    number = script.number_loss(numbers, *batch)
    number.backward()
    assert number.data == pytest.approx(expected.item(), rel=1e-12)
    for matrix, weight in zip(numbers, weights):
        grads = [[value.grad for value in row] for row in matrix]
        assert largest_difference(grads, weight.grad) <= 1e-12


def test_the_losses_of_fifty_steps_of_adam():
    parameters, weights = both(0)
    ours = script.Adam(parameters)
    theirs = torch.optim.Adam(weights, lr=1.0)
    for step, batch in enumerate(BATCHES):
        rate = script.LEARNING_RATE * (1.0 - step / 1350)
        loss = script.matrix_loss(parameters, *batch)
        loss.backward()
        ours.step(rate)
        theirs.zero_grad()
        expected = torch_loss(weights, *batch)
        expected.backward()
        theirs.param_groups[0]["lr"] = rate
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for parameter, weight in zip(parameters, weights):
        assert largest_difference(parameter.data, weight.detach()) <= 1e-9


def test_steps_of_plain_gradient_descent():
    parameters, weights = both(1)
    steps, difference = script.train_in_lock_step(parameters, BATCHES[:3])
    assert difference <= 1e-12
    optimizer = torch.optim.SGD(weights, lr=script.LOCK_RATE)
    for batch, (number, matrix, _) in zip(BATCHES, steps):
        optimizer.zero_grad()
        expected = torch_loss(weights, *batch)
        expected.backward()
        optimizer.step()
        assert number == pytest.approx(expected.item(), rel=1e-12)
        assert matrix == pytest.approx(expected.item(), rel=1e-12)
    for parameter, weight in zip(parameters, weights):
        assert largest_difference(parameter.data, weight.detach()) <= 1e-12


def test_the_class_of_every_test_image():
    parameters, weights = both(2)
    images, labels = IMAGES[script.NUM_TRAIN :], LABELS[script.NUM_TRAIN :]
    w1, b1, w2, b2 = weights
    expected = F.linear(F.relu(F.linear(float64(images), w1, b1[0])), w2, b2[0]).detach()
    ours = script.matrix_logits(parameters, images)
    assert largest_difference(ours.data, expected) <= 1e-12
    right = (expected.argmax(1) == torch.tensor(labels)).double().mean().item()
    assert script.accuracy(parameters, images, labels) == pytest.approx(right, abs=1e-12)


def one_step(rng, a, x, b, y):
    """The same random operation with Values a, b and with torch scalars x, y."""
    constant = rng.uniform(-1.5, 1.5)
    choices = [
        lambda: (a + b, x + y),
        lambda: (a * constant, x * constant),
        lambda: (a.relu(), x.relu()),
    ]
    if abs(a.data * b.data) < 100:
        choices.append(lambda: (a * b, x * y))
    if a.data < 3:
        choices.append(lambda: (a.exp(), x.exp()))
    if a.data > 0.01:
        choices.append(lambda: (a.log(), x.log()))
    return rng.choice(choices)()


@pytest.mark.parametrize("seed", range(200))
def test_random_expressions_of_numbers(seed):
    """Values and the gradients of all nodes, leaves and results alike."""
    rng = random.Random(seed)
    start = [*[rng.uniform(-2.0, 2.0) for _ in range(4)], 0.0]  # relu is asked at 0, too
    pairs = [(script.Value(x), float64(x, requires_grad=True)) for x in start]
    for _ in range(rng.randint(1, 40)):
        pairs.append(one_step(rng, *rng.choice(pairs), *rng.choice(pairs[-6:])))
    for _, other in pairs[len(start) :]:
        other.retain_grad()
    root, expected = pairs[0]
    for node, other in pairs[-5:]:
        root, expected = root + node, expected + other
    assert root.data == pytest.approx(expected.item(), rel=1e-12, abs=1e-12)
    root.backward()
    expected.backward()
    for node, other in pairs:
        grad = 0.0 if other.grad is None else other.grad.item()
        assert node.grad == pytest.approx(grad, rel=1e-9, abs=1e-12)
