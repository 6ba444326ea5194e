"""microoptimizer against PyTorch and numpy: the same gradients give the same steps."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from support import load_script

script = load_script("microoptimizer")


def gradients(rows, columns, count, seed=0):
    rng = random.Random(seed)
    return [
        [[rng.gauss(0.0, 1.0) * 10.0 ** (j - 1) for j in range(columns)] for _ in range(rows)]
        for _ in range(count)
    ]


def close(ours, theirs, tolerance):
    ours = torch.tensor(ours, dtype=torch.float64)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("name", ["SGD", "momentum", "RMSProp", "Adam"])
def test_fifty_steps(name):
    ours = script.Tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -0.1]])
    theirs = torch.tensor(ours.data, dtype=torch.float64, requires_grad=True)
    optimizer = script.make_optimizer(name, ours)
    if name in ("RMSProp", "Adam"):
        betas = (0.9 if name == "Adam" else 0.0, 0.999)
        reference = torch.optim.Adam([theirs], lr=0.1, betas=betas)
    else:
        reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.9 if name == "momentum" else 0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(reference, lambda t: script.linear_decay(t, 50))
    for step, grad in enumerate(gradients(2, 3, 50)):
        ours.grad, theirs.grad = grad, torch.tensor(grad, dtype=torch.float64)
        optimizer.step(0.1 * script.linear_decay(step, 50))
        reference.step()
        schedule.step()
        close(ours.data, theirs.detach(), 1e-12)


def test_rmsprop_is_torch_s_with_bias_correction():
    """torch's RMSProp starts its mean at 0 without a correction: a larger rate in each step."""
    ours = script.Tensor([[0.5, -1.0, 2.0], [0.0, 1.0, -0.1]])
    theirs = torch.tensor(ours.data, dtype=torch.float64, requires_grad=True)
    optimizer = script.make_optimizer("RMSProp", ours)
    reference = torch.optim.RMSprop([theirs], lr=0.1, alpha=0.999, eps=0.0)
    for step, grad in enumerate(gradients(2, 3, 20, seed=2), 1):
        ours.grad, theirs.grad = grad, torch.tensor(grad, dtype=torch.float64)
        optimizer.step(0.1)
        reference.param_groups[0]["lr"] = 0.1 * (1 - 0.999**step) ** 0.5
        reference.step()
        close(ours.data, theirs.detach(), 1e-6)  # ours adds eps


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (5, 5)])
def test_newton_schulz_is_its_polynomial_on_the_singular_values(shape):
    g = np.array(gradients(*shape, 1, seed=3)[0])
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    close(script.newton_schulz(g.tolist(), 5), torch.tensor(u * s @ vt), 1e-9)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_muon(shape):
    """torch runs Newton-Schulz in bfloat16, so it agrees roughly, and its float64 twin exactly."""
    ours = script.Tensor([[0.0] * shape[1] for _ in range(shape[0])])
    roughly = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    exactly = torch.zeros(shape, dtype=torch.float64)
    buffer = torch.zeros(shape, dtype=torch.float64)
    optimizer = script.make_optimizer("Muon", ours)
    reference = torch.optim.Muon([roughly], lr=0.1, weight_decay=0.0, momentum=0.95, nesterov=True)
    for grad in gradients(*shape, 5, seed=1):
        ours.grad = [[g * 10.0 ** (1 - j) for j, g in enumerate(row)] for row in grad]
        g = torch.tensor(ours.grad, dtype=torch.float64)
        roughly.grad = g.clone()
        optimizer.step(0.1)
        reference.step()
        buffer.lerp_(g, 0.05)
        x = g.lerp(buffer, 0.95)
        x = x / x.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        exactly -= 0.1 * max(1.0, shape[0] / shape[1]) ** 0.5 * x
        close(ours.data, exactly, 1e-9)
        close(ours.data, roughly.detach(), 0.03)


def test_the_best_map_and_the_condition_number():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 6)) * [5, 2, 1, 1, 0.5, 0.1], rng.normal(size=(50, 3))
    problem = script.Pixels(x.tolist(), y.tolist())
    close(problem.best, torch.tensor(np.linalg.lstsq(x, y, rcond=None)[0].T), 1e-9)
    expected = np.linalg.cond(x.T @ x)
    assert script.condition_number(problem.curvature) == pytest.approx(expected, rel=1e-9)
    w = rng.normal(size=(3, 6))
    loss = lambda m: 0.5 * ((y - x @ m.T) ** 2).sum() / 50  # noqa: E731
    gap = loss(w) - loss(np.array(problem.best))
    assert problem.gap(w.tolist()) == pytest.approx(gap, rel=1e-9)


def test_the_letters_gap_is_cross_entropy_over_its_minimum():
    letters, pairs = script.letter_problem(["ava", "zoe", "maria", "elizabeth"])
    w = torch.randn(27, 27, dtype=torch.float64, requires_grad=True)
    frequency, q = [torch.tensor(x, dtype=torch.float64) for x in (letters.frequency, letters.q)]
    each = torch.nn.functional.cross_entropy(w, q, reduction="none")
    loss = (frequency * each).sum()
    loss.backward()
    smallest = -(frequency[:, None] * q * q.log()).sum()
    gap = letters.gap(w.detach().tolist())
    assert gap == pytest.approx((loss - smallest).item(), rel=1e-9)
    close(letters.gradient(w.detach().tolist()), w.grad, 1e-9)
    w.grad = None
    first, second = [torch.tensor(x) for x in zip(*pairs)]
    torch.nn.functional.cross_entropy(w[first], second).backward()
    close(script.batch_gradient(pairs)(w.detach().tolist()), w.grad, 1e-9)
