"""microppo against PyTorch: the same names and weights give the same losses and gradients."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microppo")
TEXTS = [script.encode(name) for name in ("ava", "elina", "jo")] + [[0, *range(1, 17)]]
KEYS = tuple(vars(script.GPT(2, 2, 4, random.Random(0))))


def both_models(seed: int, scale: float):
    """A GPT and the same matrices as torch tensors."""
    model = script.GPT(27, script.CONTEXT, script.WIDTH, random.Random(seed))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    weights = {
        key: torch.tensor(getattr(model, key).data, dtype=torch.float64, requires_grad=True)
        for key in KEYS
    }
    return model, weights


def torch_actor_critic(weights, value_head, text):
    """log-probabilities and values of one text's symbols, with torch.nn.functional alone."""
    ids, targets = torch.tensor(text[:-1]), torch.tensor(text[1:])
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
    log_probs = F.log_softmax(F.linear(x, weights["head"]), dim=-1)
    return log_probs.gather(1, targets[:, None])[:, 0], F.linear(x, value_head)[:, 0]


def torch_ppo_loss(log_probs, old, advantages, clip):
    """As CleanRL and TRL write it."""
    ratio = torch.exp(log_probs - old)
    unclipped = -advantages * ratio
    clipped = -advantages * torch.clamp(ratio, 1.0 - clip, 1.0 + clip)
    return torch.max(unclipped, clipped).mean()


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())


@pytest.mark.parametrize("clip", [0.1, 0.2, 0.5])
def test_the_clipped_loss(clip):
    rng = random.Random(0)
    old = [rng.uniform(-6.0, -0.5) for _ in range(64)]
    new = [min(value + rng.gauss(0.0, 0.4), -0.01) for value in old]
    advantages = [rng.gauss(0.0, 1.0) for _ in old]
    theirs = torch.tensor([new], dtype=torch.float64, requires_grad=True)
    expected = torch_ppo_loss(
        theirs, *[torch.tensor([row], dtype=torch.float64) for row in (old, advantages)], clip
    )
    expected.backward()
    ours = script.Tensor([new])
    loss, share = script.ppo_loss(ours, old, advantages, clip)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    close(ours.grad, theirs.grad)
    assert share == (theirs.grad == 0.0).double().mean().item() > 0.0


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 3.0), (2, 5.0)])
def test_the_gradient_of_every_matrix(seed, scale):
    """Actor and critic on one trunk, the whole loss of a step, names of several lengths."""
    model, weights = both_models(seed, scale)
    rng = random.Random(seed)
    head = [[rng.gauss(0.0, 0.5) for _ in range(script.WIDTH)]]
    count = sum(len(text) - 1 for text in TEXTS)
    advantages, returns = [[rng.gauss(0.0, 1.0) for _ in range(count)] for _ in range(2)]

    value_head = script.Tensor(head)
    log_probs, values = script.actor_and_critic(model, value_head, TEXTS)
    old = [value - rng.gauss(0.0, 0.3) for value in log_probs.data[0]]
    policy_loss, _ = script.ppo_loss(log_probs, old, advantages, script.CLIP)
    loss = policy_loss + script.mse_loss(values, [[r] for r in returns]) * script.VALUE_WEIGHT
    loss.backward()

    torch_head = torch.tensor(head, dtype=torch.float64, requires_grad=True)
    parts = [torch_actor_critic(weights, torch_head, text) for text in TEXTS]
    their_log_probs, their_values = [torch.cat(column) for column in zip(*parts)]
    old, advantages, returns = [
        torch.tensor(row, dtype=torch.float64) for row in (old, advantages, returns)
    ]
    expected = torch_ppo_loss(their_log_probs, old, advantages, script.CLIP)
    expected = expected + script.VALUE_WEIGHT * F.mse_loss(their_values, returns)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    close(value_head.grad, torch_head.grad)
    for key in KEYS:
        close(getattr(model, key).grad, weights[key].grad)


def test_the_critic_does_not_push_if_its_weight_is_forgotten():
    """A common slip is noticed: the critic's loss left out of the sum."""
    model, weights = both_models(1, 3.0)
    value_head = script.Tensor([[0.3] * script.WIDTH])
    log_probs, _ = script.actor_and_critic(model, value_head, TEXTS)
    script.ppo_loss(log_probs, log_probs.data[0], [1.0] * len(log_probs.data[0]), 0.2)[0].backward()
    assert value_head.grad is None


def test_the_judge_takes_the_steps_of_torch_adam():
    """Every weight after the fit, the zero point moved likewise."""
    rng = random.Random(4)
    texts = [
        script.encode("".join(rng.choices("abcdefmnrz", k=rng.randint(1, 9)))) for _ in range(64)
    ]
    pairs = list(zip(texts[::2], texts[1::2]))
    judge = script.fit_judge(pairs)

    won, lost = [
        torch.tensor([script.shares(text) for text in side], dtype=torch.float64)
        for side in zip(*pairs)
    ]
    weight = torch.zeros(27, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weight], betas=script.BETAS, eps=1e-8)
    for step in range(script.JUDGE_STEPS):
        first = step * script.BATCH_SIZE % len(won)
        batch = slice(first, first + script.BATCH_SIZE)
        optimizer.param_groups[0]["lr"] = script.JUDGE_RATE * (1.0 - step / script.JUDGE_STEPS)
        optimizer.zero_grad()
        (-F.logsigmoid(won[batch] @ weight - lost[batch] @ weight)).mean().backward()
        optimizer.step()
    weight = weight.detach()
    middle = (torch.cat([won, lost]) @ weight).mean()
    assert judge == pytest.approx((weight - middle).tolist(), rel=1e-6, abs=1e-6)
