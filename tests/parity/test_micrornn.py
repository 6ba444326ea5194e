"""micrornn against PyTorch: the same weights and sequences give the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("micrornn")
NAMES = ("w_x", "w_h", "bias", "w_out", "bias_out")
LENGTH = 24


def tensor(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def both(kind: str, seed: int):
    """A net of ours with random biases, and torch's cell and read-out with the same weights."""
    rng = random.Random(seed)
    if kind == "gru":
        net, theirs = script.GRU(6, 1.0, rng), torch.nn.GRU
    else:
        net, theirs = script.RNN(6, 0.0, rng), torch.nn.RNN
    net.bias.data = [[b + rng.gauss(0.0, 0.5) for b in net.bias.data[0]]]
    net.bias_out.data = [[rng.gauss(0.0, 0.5) for _ in range(4)]]
    cell = theirs(len(script.SYMBOLS), 6, batch_first=True).double()
    head = torch.nn.Linear(6, 4).double()
    with torch.no_grad():
        cell.weight_ih_l0.copy_(tensor(net.w_x.data).T)
        cell.weight_hh_l0.copy_(tensor(net.w_h.data))
        cell.bias_ih_l0.zero_()
        cell.bias_hh_l0.copy_(tensor(net.bias.data[0]))
        head.weight.copy_(tensor(net.w_out.data))
        head.bias.copy_(tensor(net.bias_out.data[0]))
    return net, cell, head


def pairs(cell, head):
    """torch's parameters in the order and shape of ours."""
    return {
        "w_x": (cell.weight_ih_l0, lambda p: p.T),
        "w_h": (cell.weight_hh_l0, lambda p: p),
        "bias": (cell.bias_hh_l0, lambda p: p[None]),
        "w_out": (head.weight, lambda p: p),
        "bias_out": (head.bias, lambda p: p[None]),
    }


def torch_forward(cell, head, sequences):
    one_hot = F.one_hot(torch.tensor(sequences), len(script.SYMBOLS)).double()
    states, _ = cell(one_hot)
    return head(states[:, -1]), states


@pytest.mark.parametrize("kind", ["rnn", "gru"])
@pytest.mark.parametrize("seed", [0, 1])
def test_states_loss_and_every_gradient(kind, seed):
    net, cell, head = both(kind, seed)
    sequences, answers = script.latch_batch(5, LENGTH, random.Random(seed))
    logits, states = script.read(net, sequences)
    expected_logits, expected_states = torch_forward(cell, head, sequences)
    expected_states.retain_grad()
    for t, h in enumerate(states):
        close(h.data, expected_states[:, t])
    close(logits.data, expected_logits)
    script.cross_entropy(logits, answers).backward()
    F.cross_entropy(expected_logits, torch.tensor(answers)).backward()
    for name, (parameter, turned) in pairs(cell, head).items():
        close(getattr(net, name).grad, turned(parameter.grad))
    # Only the last state is read out: its gradient is what torch leaves there.
    close(states[-1].grad, expected_states.grad[:, -1])


@pytest.mark.parametrize("kind", ["rnn", "leaky", "gru"])
def test_the_gradient_profile(kind):
    """The norm of dL/dh at every distance, by autograd through a loop of plain formulas."""
    rng = random.Random(3)
    net = {
        "rnn": lambda: script.RNN(6, 0.0, rng),
        "leaky": lambda: script.RNN(6, 0.9, rng),
        "gru": lambda: script.GRU(6, 3.0, rng),
    }[kind]()
    sequences, answers = script.latch_batch(4, LENGTH, rng)
    w_x, w_h, bias, w_out, bias_out = [tensor(getattr(net, name).data) for name in NAMES]
    h = torch.zeros(4, 6, dtype=torch.float64, requires_grad=True)
    states = []
    for ids in zip(*sequences):
        x, a = w_x[list(ids)], h @ w_h.T + bias
        if kind == "gru":
            r, z = torch.sigmoid(x[:, :12] + a[:, :12]).split(6, dim=1)
            h = (1 - z) * torch.tanh(x[:, 12:] + r * a[:, 12:]) + z * h
        else:
            h = net.keep * h + (1 - net.keep) * torch.tanh(x + a)
        h.retain_grad()
        states.append(h)
    F.cross_entropy(h @ w_out.T + bias_out, torch.tensor(answers)).backward()
    lengths = [state.grad.norm().item() for state in reversed(states)]
    expected = [length / lengths[0] for length in lengths[: script.DISTANCE + 1]]
    assert script.gradient_profile(net, sequences, answers) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", ["rnn", "gru"])
def test_ten_steps_of_training(kind):
    net, cell, head = both(kind, 2)
    parameters = [parameter for parameter, _ in pairs(cell, head).values()]
    ours = script.Adam(net.parameters())
    theirs = torch.optim.Adam(parameters, lr=0.02)
    rng = random.Random(4)
    for _ in range(10):
        sequences, answers = script.latch_batch(4, LENGTH, rng)
        loss = script.cross_entropy(script.read(net, sequences)[0], answers)
        loss.backward()
        script.clip_grad_norm_(net.parameters(), 0.5)
        ours.step(0.02)
        theirs.zero_grad()
        expected = F.cross_entropy(torch_forward(cell, head, sequences)[0], torch.tensor(answers))
        expected.backward()
        # By hand: torch's own clip_grad_norm_ adds 1e-6 to the length.
        length = torch.cat([p.grad.flatten() for p in parameters]).norm().item()
        for parameter in parameters:
            parameter.grad *= min(1.0, 0.5 / length)
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for name, (parameter, turned) in pairs(cell, head).items():
        close(getattr(net, name).data, turned(parameter.detach()))


def test_clipping():
    rng = random.Random(0)
    net = script.GRU(6, 0.0, rng)
    sequences, answers = script.latch_batch(4, LENGTH, rng)
    script.cross_entropy(script.read(net, sequences)[0], answers).backward()
    copies = [torch.zeros_like(tensor(p.data), requires_grad=True) for p in net.parameters()]
    for copy, parameter in zip(copies, net.parameters()):
        copy.grad = tensor(parameter.grad)
    norm = script.clip_grad_norm_(net.parameters(), 0.01)
    expected = torch.nn.utils.clip_grad_norm_(copies, 0.01).item()
    assert norm == pytest.approx(expected, rel=1e-12)
    for copy, parameter in zip(copies, net.parameters()):
        close(parameter.grad, copy.grad * (expected + 1e-6) / expected)


def test_a_reset_gate_that_does_nothing_is_noticed(monkeypatch):
    """The run would pass its bars without the reset gate."""
    right = script.gru_row

    def without_reset(x, a, h):
        return right([1e3] * len(h) + x[len(h) :], a, h)

    monkeypatch.setattr(script, "gru_row", without_reset)
    net, cell, head = both("gru", 0)
    sequences, _ = script.latch_batch(3, LENGTH, random.Random(0))
    with pytest.raises(AssertionError):
        close(script.read(net, sequences)[0].data, torch_forward(cell, head, sequences)[0])


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = tensor(rows)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())
