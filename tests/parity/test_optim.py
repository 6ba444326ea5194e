"""common/optim.py against torch.optim: 40 steps from the same numbers, with the same gradients."""

from __future__ import annotations

import random

import pytest
import torch
from engine_cases import matrix

from common.engine import Tensor, embedding, linear, mse_loss, tanh
from common.optim import SGD, Adam, AdamW, SparseAdam, clip_grad_norm_

STEPS = 40
SHAPES = ((4, 3), (1, 5), (5, 1), (1, 1))


def float64(data, requires_grad=False):
    return torch.tensor(data, dtype=torch.float64, requires_grad=requires_grad)


def assert_close(ours, theirs, tolerance=1e-9):
    ours, theirs = float64(ours), theirs.detach()
    assert ours.shape == theirs.shape
    scale = max(1e-3, theirs.abs().max().item())
    assert (ours - theirs).abs().max().item() <= tolerance * scale


PAIRS = {
    "SGD": (SGD, torch.optim.SGD, {}),
    "SGD-momentum": (SGD, torch.optim.SGD, {"momentum": 0.9}),
    "Adam": (Adam, torch.optim.Adam, {}),
    "Adam-betas": (Adam, torch.optim.Adam, {"betas": (0.5, 0.95), "eps": 1e-3}),
    "AdamW": (AdamW, torch.optim.AdamW, {}),
    "AdamW-decay": (AdamW, torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.3}),
}


def rate(step):
    return 0.05 * (1.0 - step / (2 * STEPS))


@pytest.mark.parametrize(("ours", "theirs", "settings"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_given_gradients(ours, theirs, settings, scale):
    """Any gradients, at any scale; some are missing in some steps."""
    rng = random.Random(0)
    data = [matrix(rng, *shape) for shape in SHAPES]
    mine = [Tensor(rows) for rows in data]
    other = [float64(rows, requires_grad=True) for rows in data]
    optimiser, reference = ours(mine, **settings), theirs(other, lr=1.0, **settings)
    for step in range(STEPS):
        for tensor, parameter in zip(mine, other):
            parameter.grad = None
            if rng.random() < 0.8:
                rows, columns = parameter.shape
                tensor.grad = [
                    [scale * rng.gauss(0, 1) for _ in range(columns)] for _ in range(rows)
                ]
                parameter.grad = float64(tensor.grad)
        for group in reference.param_groups:
            group["lr"] = rate(step)
        optimiser.step(rate(step))
        reference.step()
        for tensor, parameter in zip(mine, other):
            assert_close(tensor.data, parameter)


@pytest.mark.parametrize(("ours", "theirs", "settings"), PAIRS.values(), ids=PAIRS)
def test_training_a_network(ours, theirs, settings):
    """Each makes its own gradients, so a difference would grow from step to step."""
    rng = random.Random(1)
    inputs, goals = matrix(rng, 6, 3), matrix(rng, 6, 2)
    data = [matrix(rng, 4, 3), matrix(rng, 1, 4), matrix(rng, 2, 4)]
    mine = [Tensor(rows) for rows in data]
    other = [float64(rows, requires_grad=True) for rows in data]
    optimiser, reference = ours(mine, **settings), theirs(other, lr=0.02, **settings)
    for _ in range(STEPS):
        hidden = tanh(linear(Tensor(inputs, requires_grad=False), mine[0], mine[1]))
        loss = mse_loss(linear(hidden, mine[2]), goals)
        loss.backward()
        optimiser.step(0.02)
        reference.zero_grad()
        w1, b1, w2 = other
        expected = ((float64(inputs) @ w1.T + b1).tanh() @ w2.T - float64(goals)).square().mean()
        expected.backward()
        reference.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for tensor, parameter in zip(mine, other):
        assert_close(tensor.data, parameter)


@pytest.mark.parametrize("seed", range(3))
def test_sparse_adam(seed):
    """A table of which each step uses a few rows. PyTorch's SparseAdam adds eps before the bias
    correction and ours, like Adam, after it: with a tiny eps that is no difference.
    """
    rng = random.Random(seed)
    data = matrix(rng, 9, 3)
    table, parameter = Tensor(data), float64(data, requires_grad=True)
    optimiser = SparseAdam([table], eps=1e-16)
    reference = torch.optim.SparseAdam([parameter], lr=1.0, eps=1e-16)
    for step in range(STEPS):
        ids = [rng.randrange(9) for _ in range(rng.randint(1, 5))]
        goals = matrix(rng, len(ids), 3)
        mse_loss(embedding(table, ids), goals).backward()
        used = {i for i, row in enumerate(table.grad) if any(row)}
        assert used == set(ids)  # the two mean the same only where no used row has gradient zero
        picked = torch.nn.functional.embedding(torch.tensor(ids), parameter, sparse=True)
        parameter.grad = None
        torch.nn.functional.mse_loss(picked, float64(goals)).backward()
        assert parameter.grad.is_sparse
        for group in reference.param_groups:
            group["lr"] = rate(step)
        optimiser.step(rate(step))
        reference.step()
        assert_close(table.data, parameter)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_norm", [0.1, 1.0, 100.0])
def test_clip_grad_norm_(seed, max_norm):
    """PyTorch divides by the length plus 1e-6, so its gradients are shorter by that share."""
    rng = random.Random(seed)
    mine = [Tensor(matrix(rng, *shape)) for shape in SHAPES]
    other = [float64(tensor.data, requires_grad=True) for tensor in mine]
    for tensor, parameter in zip(mine[1:], other[1:]):  # the first one has no gradient
        tensor.grad = matrix(rng, *parameter.shape)
        parameter.grad = float64(tensor.grad)
    norm = clip_grad_norm_(mine, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(other, max_norm).item()
    assert norm == pytest.approx(expected, rel=1e-12)
    correction = (norm + 1e-6) / norm if norm > max_norm else 1.0
    assert mine[0].grad is None and other[0].grad is None
    for tensor, parameter in zip(mine[1:], other[1:]):
        assert_close(tensor.grad, parameter.grad * correction)
