"""microgpt against PyTorch: the same weights and names give the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microgpt")
NAMES = ["ava", "elizabeth", "zoe", "christopher", "jo", "maximilian", "q", "abcdefghijklmno"]
KEYS = tuple(vars(script.GPT(2, 2, 4, random.Random(0))))


def both_models(seed: int, scale: float = 1.0):
    """A GPT and the same matrices as torch tensors."""
    model = script.GPT(27, script.CONTEXT, script.WIDTH, random.Random(seed))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    weights = {
        key: torch.tensor(getattr(model, key).data, dtype=torch.float64, requires_grad=True)
        for key in KEYS
    }
    return model, weights


def torch_logits(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    """One name through the same network, written with torch.nn.functional alone."""
    ids = torch.tensor(script.encode(name)[:-1])
    width = weights["query"].shape[1]

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(ids), script.NUM_HEADS, -1).transpose(0, 1)

    x = F.embedding(ids, weights["token_embedding"])
    x = F.rms_norm(x + weights["position_embedding"][: len(ids)], (width,), eps=1e-5)
    h = F.rms_norm(x, (width,), eps=1e-5)
    q, k, v = [heads(F.linear(h, weights[key])) for key in ("query", "key", "value")]
    found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + F.linear(found.transpose(0, 1).reshape(len(ids), -1), weights["attention_out"])
    h = F.rms_norm(x, (width,), eps=1e-5)
    x = x + F.linear(F.relu(F.linear(h, weights["mlp_in"])), weights["mlp_out"])
    return F.linear(x, weights["head"])


def torch_loss(weights: dict[str, torch.Tensor], names: list[str]) -> torch.Tensor:
    logits = torch.cat([torch_logits(weights, name) for name in names])
    targets = torch.tensor([symbol for name in names for symbol in script.encode(name)[1:]])
    return F.cross_entropy(logits, targets)


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 3.0), (2, 8.0)])
def test_logits_loss_and_every_gradient(seed, scale):
    model, weights = both_models(seed, scale)
    logits, targets = script.predict(model, NAMES)
    expected = torch.cat([torch_logits(weights, name) for name in NAMES])
    close(logits.data, expected)
    loss, expected_loss = script.cross_entropy(logits, targets), torch_loss(weights, NAMES)
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    loss.backward()
    expected_loss.backward()
    for key in KEYS:
        close(getattr(model, key).grad, weights[key].grad)


def test_twenty_steps_of_adam():
    model, weights = both_models(0)
    ours = script.Adam(model.parameters(), betas=(0.9, 0.95))
    theirs = torch.optim.Adam(weights.values(), lr=0.01, betas=(0.9, 0.95))
    for _ in range(20):
        loss = script.cross_entropy(*script.predict(model, NAMES))
        loss.backward()
        ours.step(0.01)
        theirs.zero_grad()
        expected = torch_loss(weights, NAMES)
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for key in KEYS:
        close(getattr(model, key).data, weights[key].detach())


@pytest.mark.parametrize("change", ["scale", "average"])
def test_what_the_held_out_loss_does_not_notice_is_noticed_here(change, monkeypatch):
    """Without 1/sqrt(d), or with a plain average, the run would still pass its bars."""
    broken = load_script("microgpt")
    right = broken.attention_head

    def unscaled(q, k, v, spans):
        return right([[x * len(row) ** 0.5 for x in row] for row in q], k, v, spans)

    def average(q, k, v, spans):
        return right([[0.0] * len(row) for row in q], k, v, spans)

    monkeypatch.setattr(broken, "attention_head", unscaled if change == "scale" else average)
    model, weights = both_models(1, 3.0)
    with pytest.raises(AssertionError):
        close(
            broken.predict(model, NAMES)[0].data,
            torch.cat([torch_logits(weights, name) for name in NAMES]),
        )


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())
