"""microconv against PyTorch and SciPy: the same weights and images give the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from scipy.signal import convolve2d, correlate2d
from support import load_script

script = load_script("microconv")


def matrix(rng: random.Random, rows: int, columns: int) -> list[list[float]]:
    return [[rng.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(rows)]


def as_torch(rows: list[list[float]], *shape: int) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).reshape(shape).requires_grad_()


def close(rows: list[list[float]], expected: torch.Tensor, relative: float = 1e-12) -> None:
    ours = torch.tensor(rows, dtype=torch.float64)
    difference = (ours - expected.detach().reshape(ours.shape)).abs().max().item()
    assert difference <= relative * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("padding", [0, 2, 4])
def test_a_map_is_torch_s_conv2d_and_scipy_s_correlation(kernel, padding):
    rng = random.Random(kernel + padding)
    (image,), (weights,) = matrix(rng, 1, 64), matrix(rng, 1, kernel * kernel)
    ours = script.conv2d_map(image, weights, 0.0, padding)
    x, w = as_torch([image], 1, 1, 8, 8), as_torch([weights], 1, 1, kernel, kernel)
    close([ours], F.conv2d(x, w, padding=padding))

    padded = F.pad(x.detach()[0, 0], [padding] * 4).numpy()
    plain = w.detach()[0, 0].numpy()
    close([ours], torch.tensor(correlate2d(padded, plain, mode="valid")))
    # What mathematicians call a convolution needs the filter turned by 180 degrees.
    turned = plain[::-1, ::-1]
    close([ours], torch.tensor(convolve2d(padded, turned, mode="valid")))
    if kernel > 1:
        with pytest.raises(AssertionError):
            close([ours], torch.tensor(convolve2d(padded, plain, mode="valid")))


def torch_maxima(x, w, b, padding, tile):
    maps = F.conv2d(x, w, b, padding=padding)
    return F.max_pool2d(maps, tile or maps.shape[-1])


@pytest.mark.parametrize("tile", [1, 2, 3, None])
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("padding", [0, 2, 4])
def test_maxima_and_gradients(tile, kernel, padding):
    rng = random.Random(kernel + padding)
    images, weights, bias = matrix(rng, 2, 64), matrix(rng, 3, kernel**2), matrix(rng, 1, 3)
    weight, bias_row = script.Tensor(weights), script.Tensor(bias)
    ours = script.conv2d_max(images, weight, bias_row, padding, tile)
    x, w, b = (
        as_torch(images, 2, 1, 8, 8),
        as_torch(weights, 3, 1, kernel, kernel),
        as_torch(bias, 3),
    )
    theirs = torch_maxima(x, w, b, padding, tile)
    close(ours.data, theirs)
    slopes = matrix(rng, len(ours.data), len(ours.data[0]))
    ours.backward(slopes)
    theirs.backward(torch.tensor(slopes, dtype=torch.float64).reshape(theirs.shape))
    close(weight.grad, w.grad)
    close(bias_row.grad, b.grad)


def test_ties_are_resolved_as_torch_s_max_pool2d_does():
    image = [0.0, 1.0, 0.5, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0]
    weight = script.Tensor([[1.0, 0.0, 0.0, 0.0]])
    script.conv2d_max([image], weight, script.Tensor([[0.0]]), 0, None).backward([[1.0]])
    w = as_torch([[1.0, 0.0, 0.0, 0.0]], 1, 1, 2, 2)
    torch_maxima(as_torch([image], 1, 1, 3, 3), w, None, 0, 2).sum().backward()
    close(weight.grad, w.grad)


def torch_network(net, tile: int | None):
    """The network's weights in torch, and its forward with ReLU in the usual place."""
    names = ("filters", "filter_bias", "head", "head_bias")
    p = {name: as_torch(getattr(net, name).data, *shape(net, name)) for name in names}

    def forward(images: list[list[float]]) -> torch.Tensor:
        x = torch.tensor(images, dtype=torch.float64).reshape(len(images), 1, 12, 12)
        maps = F.relu(F.conv2d(x, p["filters"], p["filter_bias"], padding=4))
        maxima = torch.amax(maps, dim=(2, 3)) if tile is None else F.max_pool2d(maps, tile)
        return F.linear(maxima.flatten(1), p["head"], p["head_bias"])

    return p, forward


def shape(net, name: str) -> tuple[int, ...]:
    rows = getattr(net, name).data
    if name == "filters":
        return (len(rows), 1, script.KERNEL_SIZE, script.KERNEL_SIZE)
    return (len(rows), len(rows[0])) if name == "head" else (len(rows[0]),)


@pytest.mark.parametrize("tile", [2, 4, None])
def test_twenty_steps_of_the_whole_network(tile):
    """Real digits: logits, then losses of 20 steps of Adam, then the weights."""
    digits, labels = script.load_digits()
    net = script.ConvNet(tile, random.Random(4))
    weights, forward = torch_network(net, tile)
    ours = script.Adam(net.parameters())
    theirs = torch.optim.Adam(weights.values(), lr=0.02)
    for step in range(20):
        batch = range(5 * step, 5 * step + 5)
        images = [script.paste(digits[i], *script.CENTRE, 12) for i in batch]
        targets = [labels[i] for i in batch]
        logits = net.forward(images)
        close(logits.data, forward(images), 1e-9)
        loss = script.cross_entropy(logits, targets)
        loss.backward()
        ours.step(0.02)
        theirs.zero_grad()
        expected = F.cross_entropy(forward(images), torch.tensor(targets))
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, weight in weights.items():
        close(getattr(net, name).data, weight, 1e-9)


def test_the_mlp():
    rng = random.Random(6)
    net, images = script.MLP(rng), matrix(rng, 3, 144)
    hidden, hidden_bias, head, head_bias = [
        torch.tensor(p.data, dtype=torch.float64) for p in net.parameters()
    ]
    x = torch.tensor(images, dtype=torch.float64)
    close(net.forward(images).data, F.relu(x @ hidden.T + hidden_bias) @ head.T + head_bias)
