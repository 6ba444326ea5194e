"""microbatchnorm against PyTorch: the same numbers from batch_norm, layer_norm and the network."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microbatchnorm")


def normal(rows, columns, seed, mean=0.5, spread=2.0):
    rng = random.Random(seed)
    return [[rng.gauss(mean, spread) for _ in range(columns)] for _ in range(rows)]


def as_torch(rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def close(ours, theirs, tolerance=1e-12):
    """Assert that every entry agrees, relative to the largest."""
    ours = torch.tensor(ours, dtype=torch.float64)
    assert ours.shape == theirs.shape
    scale = max(1.0, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("count", "width"), [(2, 1), (5, 3), (32, 16)])
def test_batch_norm_its_statistics_and_gradients(training, count, width):
    rows, gains, shifts = normal(count, width, 0), normal(1, width, 1), normal(1, width, 2)
    d_out = normal(count, width, 3)
    running_mean, running_var = normal(1, width, 4)[0], [1.0 + 0.1 * i for i in range(width)]
    mean, variance = [torch.tensor(v, dtype=torch.float64) for v in (running_mean, running_var)]
    ours = [script.Tensor(rows), script.Tensor(gains), script.Tensor(shifts)]
    theirs = [as_torch(rows), as_torch(gains), as_torch(shifts)]
    out = script.batch_norm(*ours, running_mean, running_var, training, momentum=0.3)
    expected = F.batch_norm(
        theirs[0], mean, variance, theirs[1][0], theirs[2][0], training, momentum=0.3
    )
    close(out.data, expected)
    close(running_mean, mean)
    close(running_var, variance)
    out.backward(d_out)
    expected.backward(torch.tensor(d_out, dtype=torch.float64))
    # With two examples the gradient is almost all cancelled.
    for a, b in zip(ours, theirs):
        close(a.grad, b.grad, 1e-11)


def test_layer_norm_and_gradients():
    rows, gains, shifts = normal(6, 5, 0), normal(1, 5, 1), normal(1, 5, 2)
    d_out = normal(6, 5, 3)
    ours = [script.Tensor(rows), script.Tensor(gains), script.Tensor(shifts)]
    theirs = [as_torch(rows), as_torch(gains), as_torch(shifts)]
    out = script.layer_norm(*ours)
    expected = F.layer_norm(theirs[0], (5,), theirs[1][0], theirs[2][0])
    close(out.data, expected)
    out.backward(d_out)
    expected.backward(torch.tensor(d_out, dtype=torch.float64))
    for a, b in zip(ours, theirs):
        close(a.grad, b.grad)


@pytest.mark.parametrize("centre", [True, False])
def test_the_halves_against_autograd(centre):
    rows, gains, shifts = normal(6, 4, 0), normal(1, 4, 1), normal(1, 4, 2)
    ours = [script.Tensor(rows), script.Tensor(gains), script.Tensor(shifts)]
    x, gamma, beta = as_torch(rows), as_torch(gains), as_torch(shifts)
    out = script.half_norm(*ours, [0.0] * 4, [1.0] * 4, True, 0.1, centre)
    half = x - x.mean(0) if centre else x / (x.var(0, unbiased=False) + 1e-5).sqrt()
    expected = gamma * half + beta
    close(out.data, expected)
    d_out = normal(6, 4, 3)
    out.backward(d_out)
    expected.backward(torch.tensor(d_out, dtype=torch.float64))
    for a, b in zip(ours, (x, gamma, beta)):
        close(a.grad, b.grad)


def torch_network(network):
    """The same network with batch norm from torch.nn."""
    parts = []
    for layer in network.layers:
        num_out, num_in = len(layer.weight.data), len(layer.weight.data[0])
        linear = torch.nn.Linear(num_in, num_out, bias=False)
        linear.weight.data = torch.tensor(layer.weight.data, dtype=torch.float64)
        norm = torch.nn.BatchNorm1d(num_out, dtype=torch.float64)
        parts += [linear, norm, torch.nn.ReLU()]
    head = torch.nn.Linear(script.WIDTH, 10)
    head.weight.data = torch.tensor(network.head.data, dtype=torch.float64)
    head.bias.data = torch.tensor(network.head_bias.data[0], dtype=torch.float64)
    return torch.nn.Sequential(*parts, head)


def test_ten_steps_of_sgd_then_eval_mode_and_folding():
    network = script.Network(script.BATCH, random.Random(0))
    model = torch_network(network)
    ours = script.SGD(network.parameters())
    theirs = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for step in range(10):
        images = normal(16, 64, step, 0.0, 0.4)
        labels = [random.Random(step + i).randrange(10) for i in range(16)]
        loss = script.cross_entropy(network.forward(images, training=True), labels)
        loss.backward()
        ours.step(0.1)
        theirs.zero_grad()
        expected = F.cross_entropy(
            model(torch.tensor(images, dtype=torch.float64)), torch.tensor(labels)
        )
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    model.eval()
    images = normal(20, 64, 99, 0.0, 0.4)
    found = model(torch.tensor(images, dtype=torch.float64))
    close(network.forward(images, training=False).data, found, 1e-9)

    # Folding, against the library's own.
    folded = script.fold(network)
    for index, layer in enumerate(folded.layers):
        fused = torch.nn.utils.fusion.fuse_linear_bn_eval(model[3 * index], model[3 * index + 1])
        close(layer.weight.data, fused.weight, 1e-9)
        close(layer.beta.data[0], fused.bias, 1e-9)


def test_a_biased_running_variance_is_noticed():
    rows = normal(4, 2, 0)
    variance = [1.0, 1.0]
    theirs = torch.ones(2, dtype=torch.float64)
    x = torch.tensor(rows, dtype=torch.float64)
    F.batch_norm(x, torch.zeros(2, dtype=torch.float64), theirs, training=True)
    biased = [0.9 + 0.1 * v.item() for v in x.var(0, unbiased=False)]
    script.update_running(
        [0.0, 0.0], variance, *script.batch_statistics(script.transpose(rows)), 4, 0.1
    )
    close(variance, theirs)
    with pytest.raises(AssertionError):
        close(biased, theirs)
