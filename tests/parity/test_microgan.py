"""microgan against PyTorch: the same weights and points give the same numbers."""

from __future__ import annotations

import random

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microgan")
GAMMA = 0.7


def as_torch(rows, requires_grad=False):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=requires_grad)


def torch_layers(layers):
    return [tuple(as_torch(p.data, True) for p in layer) for layer in layers]


def torch_forward(layers, x):
    for weight, bias in layers[:-1]:
        x = F.leaky_relu(F.linear(x, weight, bias[0]), script.NEGATIVE_SLOPE)
    weight, bias = layers[-1]
    return F.linear(x, weight, bias[0])


def torch_r1(layers, points):
    """R1 by double backward."""
    x = points.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(torch_forward(layers, x).sum(), x, create_graph=True)
    return gradient, gradient.pow(2).sum(1).mean() * (GAMMA / 2.0)


def torch_discriminator_loss(real_logits, fake_logits):
    bce = F.binary_cross_entropy_with_logits
    real_part = bce(real_logits, torch.ones_like(real_logits))
    return real_part + bce(fake_logits, torch.zeros_like(fake_logits))


def torch_generator_loss(fake_logits):
    return F.binary_cross_entropy_with_logits(fake_logits, torch.ones_like(fake_logits))


def close(rows, expected, tolerance=1e-9):
    ours = as_torch(rows)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= tolerance * max(1e-3, expected.abs().max().item())


def new_discriminator(seed):
    rng = random.Random(seed)
    layers = script.mlp([2, 16, 16, 1], rng)
    for _, bias in layers:
        bias.data = [[rng.gauss(0.0, 0.5) for _ in row] for row in bias.data]
    return layers, script.ring_of_gaussians(16, rng)


def test_losses_and_their_gradients():
    rng = random.Random(0)
    numbers = [[rng.gauss(0.0, 20.0)] for _ in range(16)]
    pairs = [
        (script.discriminator_loss, torch_discriminator_loss, 2),
        (script.generator_loss, torch_generator_loss, 1),
    ]
    for ours, theirs, count in pairs:
        logits = [script.Tensor(numbers), script.Tensor(numbers[::-1])][:count]
        expected = [as_torch(x.data, True) for x in logits]
        loss, expected_loss = ours(*logits), theirs(*expected)
        assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
        loss.backward()
        expected_loss.backward()
        for x, y in zip(logits, expected):
            close(x.grad, y.grad, 1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_r1_and_its_gradient_against_double_backward(seed):
    layers, points = new_discriminator(seed)
    theirs = torch_layers(layers)
    slopes = []
    script.forward(layers, script.constant(points), slopes)
    gradient = script.input_gradient(layers, slopes)
    penalty = script.r1_penalty(gradient, GAMMA)
    expected_gradient, expected = torch_r1(theirs, as_torch(points))
    close(gradient.data, expected_gradient.detach(), 1e-10)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-10)
    penalty.backward()
    expected.backward()
    for (weight, _), (their_weight, _) in zip(layers, theirs):
        close(weight.grad, their_weight.grad, 1e-10)


@pytest.mark.parametrize("gamma", [0.0, GAMMA])
def test_five_turns_of_both_players(gamma):
    gan = script.GAN(random.Random(3))
    generator, discriminator = map(torch_layers, (gan.generator, gan.discriminator))
    average = [tuple(p.detach().clone() for p in layer) for layer in generator]
    twin_rng = random.Random()
    twin_rng.setstate(gan.rng.getstate())
    optimizers = [
        torch.optim.Adam([p for pair in layers for p in pair], script.LEARNING_RATE, script.BETAS)
        for layers in (discriminator, generator)
    ]
    for _ in range(5):
        loss = gan.step(gamma)

        real = as_torch(script.ring_of_gaussians(script.BATCH_SIZE, twin_rng))
        noise = as_torch(script.normal_noise(script.BATCH_SIZE, twin_rng).data)
        fake = torch_forward(generator, noise).detach()
        expected = torch_discriminator_loss(
            torch_forward(discriminator, real), torch_forward(discriminator, fake)
        )
        optimizers[0].zero_grad()
        (expected + (torch_r1(discriminator, real)[1] if gamma else 0.0)).backward()
        optimizers[0].step()

        noise = as_torch(script.normal_noise(script.BATCH_SIZE, twin_rng).data)
        optimizers[1].zero_grad()
        torch_generator_loss(
            torch_forward(discriminator, torch_forward(generator, noise))
        ).backward()
        optimizers[1].step()
        average = [
            tuple(
                script.AVERAGE_DECAY * old + (1.0 - script.AVERAGE_DECAY) * new.detach()
                for old, new in zip(*pairs)
            )
            for pairs in zip(average, generator)
        ]
        assert loss == pytest.approx(expected.item(), rel=1e-9)
    both = [(gan.generator, generator), (gan.discriminator, discriminator), (gan.average, average)]
    for ours, theirs in both:
        for layer, their_layer in zip(ours, theirs):
            for p, q in zip(layer, their_layer):
                close(p.data, q.detach())


def test_energy_distance_against_numpy_and_scipy():
    rng = random.Random(0)
    a, b = script.ring_of_gaussians(40, rng), script.ring_of_gaussians(60, rng)
    x, y = np.array(a), np.array(b)

    def distances(u, v):
        return np.linalg.norm(u[:, None] - v[None], axis=2)

    within = [distances(u, u).sum() / (len(u) * (len(u) - 1)) for u in (x, y)]
    expected = 2.0 * distances(x, y).mean() - sum(within)
    assert script.energy_distance(a, b) == pytest.approx(expected, rel=1e-10)

    # In one dimension scipy has it, as the square root of the biased form, halved.
    flat = [[[p, 0.0] for p, _ in points] for points in (a, b)]
    biased = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    bias = sum(distances(u[:, :1], u[:, :1]).sum() / (len(u) ** 2 * (len(u) - 1)) for u in (x, y))
    assert script.energy_distance(*flat) == pytest.approx(biased - bias, rel=1e-9)


def test_eigenvalues_against_numpy():
    for settings in [(0.1, 0.0, False), (0.1, 0.3, True), (0.2, 3.0, True), (0.1, 5.0, False)]:
        matrix = script.linear_step(*settings)
        expected = np.abs(np.linalg.eigvals(np.array(matrix))).max()
        assert script.factor_per_step(matrix) == pytest.approx(expected, rel=1e-10)
