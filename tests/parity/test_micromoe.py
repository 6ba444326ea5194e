"""micromoe against PyTorch and transformers: routing, gates, balancing loss, and all gradients."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

script = load_script("micromoe")
FACTS = [0, 575, 24, 25, 300, 7, 131, 131, 99, 410]
TARGETS = [fact % script.NUM_VALUES for fact in FACTS]


def torch_tensor(tensor: script.Tensor) -> torch.Tensor:
    return torch.tensor(tensor.data, dtype=torch.float64, requires_grad=True)


def torch_losses(model: script.Model, weights: list[torch.Tensor]):
    """The forward pass with dense masks: every expert reads every row, and a mask picks."""
    count = len(model.up)
    subjects, relations, head = weights[:3]
    up, down = weights[3 : 3 + count], weights[3 + count : 3 + 2 * count]
    places = torch.tensor(FACTS)
    u = torch.cat(
        [subjects[places // script.NUM_RELATIONS], relations[places % script.NUM_RELATIONS]], dim=1
    )
    x = F.rms_norm(u, (script.WIDTH,), eps=1e-5)
    if model.table is None:
        router, bias = weights[-2:]
        probs = F.softmax(x @ router.T + bias, dim=1)
        chosen = (probs + torch.tensor(model.balance_bias, dtype=torch.float64)).argmax(dim=1)
        mask = F.one_hot(chosen, count).double()
        gates = mask * probs
        balance = count * (mask.mean(dim=0) * probs.mean(dim=0)).sum()
    else:
        gates = F.one_hot(torch.tensor([model.table[fact] for fact in FACTS]), count).double()
        balance = torch.zeros((), dtype=torch.float64)
    y = sum(gates[:, e, None] * (F.relu(x @ up[e].T) @ down[e].T) for e in range(count))
    logits = (u + y) @ head.T
    return logits, F.cross_entropy(logits, torch.tensor(TARGETS)), balance


@pytest.mark.parametrize("case", ["router", "skewed", "shifted", "table", "dense"])
def test_outputs_and_all_gradients(case):
    table = {"table": [i * 7 % 4 for i in range(576)], "dense": [0] * 576}.get(case)
    count = 1 if case == "dense" else 4
    model = script.Model(count, 5, table, skew=1.0 if case == "skewed" else 0.0)
    if case == "shifted":
        model.balance_bias = [-0.2, 0.3, 0.1, 0.0]
    weights = [torch_tensor(parameter) for parameter in model.parameters()]
    logits, probs, groups = model.forward(FACTS)
    loss = script.cross_entropy(logits, TARGETS)
    if probs is not None:
        loss = loss + script.load_balancing_loss(probs, groups) * 0.7
    their_logits, their_loss, balance = torch_losses(model, weights)
    their_loss = their_loss + 0.7 * balance
    assert logits.data == [pytest.approx(row, rel=1e-11) for row in their_logits.tolist()]
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-12)
    loss.backward()
    their_loss.backward()
    for ours, theirs in zip(model.parameters(), weights):
        if ours.grad is None:  # an expert without rows
            assert theirs.grad is None or not theirs.grad.any()
            continue
        for row, their_row in zip(ours.grad, theirs.grad.tolist()):
            assert row == pytest.approx(their_row, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("num_experts", [2, 8])
def test_the_balancing_loss_of_transformers(num_experts):
    """load_balancing_loss_func, top-1 and one layer; it computes in float32."""
    rng = random.Random(num_experts)
    rows = [[rng.gauss(0.0, 1.0) for _ in range(num_experts)] for _ in range(30)]
    logits = script.Tensor(rows)
    probs = script.softmax(logits)
    groups = script.dispatch([script.argmax(row) for row in probs.data], num_experts)
    loss = script.load_balancing_loss(probs, groups)
    theirs_in = torch.tensor(rows, requires_grad=True)
    theirs = load_balancing_loss_func((theirs_in,), num_experts, top_k=1)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    loss.backward()
    theirs.backward()
    for row, their_row in zip(logits.grad, theirs_in.grad.tolist()):
        assert row == pytest.approx(their_row, rel=1e-4, abs=1e-7)


def test_one_step_of_training_moves_as_in_torch():
    """Adam with the script's betas on the router's model, from the same start."""
    model = script.Model(4, 5, None)
    weights = [torch_tensor(parameter) for parameter in model.parameters()]
    ours = script.Adam(model.parameters(), script.BETAS)
    theirs = torch.optim.Adam(weights, lr=0.01, betas=script.BETAS)
    for _ in range(3):
        script.cross_entropy(model.forward(FACTS).logits, TARGETS).backward()
        ours.step(0.01)
        theirs.zero_grad()
        torch_losses(model, weights)[1].backward()
        theirs.step()
    for parameter, weight in zip(model.parameters(), weights):
        for row, their_row in zip(parameter.data, weight.tolist()):
            assert row == pytest.approx(their_row, rel=1e-7, abs=1e-9)
