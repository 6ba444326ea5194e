"""microdpo against PyTorch and TRL: the same log-probabilities give the same loss and gradients."""

from __future__ import annotations

import random
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microdpo")
WINNERS = [script.encode(name) for name in ("ava", "elina", "", "jo", "maximilian")]
LOSERS = [[0, *range(1, 17)], *[script.encode(n) for n in ("zack", "q", "bob", "abcdefghijklmno")]]
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


def torch_log_prob(weights: dict[str, torch.Tensor], text: list[int]) -> torch.Tensor:
    """log p of one whole text, written with torch.nn.functional alone."""
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
    return log_probs.gather(1, targets[:, None]).sum()


def torch_log_probs(weights, texts) -> torch.Tensor:
    return torch.stack([torch_log_prob(weights, text) for text in texts])


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())


@pytest.mark.parametrize(("seed", "scale", "beta"), [(0, 1.0, 0.5), (1, 3.0, 2.0), (2, 6.0, 0.1)])
def test_the_loss_and_the_gradient_of_every_matrix(seed, scale, beta):
    policy, weights = both_models(seed, scale)
    reference, ref_weights = both_models(seed + 10, scale)
    batch = script.with_reference(script.copy_of(reference, False), list(zip(WINNERS, LOSERS)))
    loss, log_ratios = script.dpo_step(policy, batch, beta)
    loss.backward()

    ratios = [
        torch_log_probs(weights, texts) - torch_log_probs(ref_weights, texts).detach()
        for texts in (WINNERS, LOSERS)
    ]
    expected = -F.logsigmoid(beta * (ratios[0] - ratios[1])).mean()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert log_ratios == pytest.approx([r.mean().item() for r in ratios], rel=1e-9)
    for key in KEYS:
        close(getattr(policy, key).grad, weights[key].grad)


def test_a_mean_over_symbols_instead_of_the_sum_is_noticed(monkeypatch):
    """A common slip: the log-probability of a text divided by its length."""
    broken = load_script("microdpo")
    right = broken.sequence_log_probs

    def mean_log_probs(model, texts):
        result = right(model, texts)
        result.data = [[x / (len(text) - 1) for x, text in zip(result.data[0], texts)]]
        return result

    monkeypatch.setattr(broken, "sequence_log_probs", mean_log_probs)
    policy, weights = both_models(1, 3.0)
    wrong = broken.sequence_log_probs(policy, WINNERS).data
    with pytest.raises(AssertionError):
        close(wrong, torch_log_probs(weights, WINNERS)[None].detach())


# === TRL ===


def trl_loss(log_probs: torch.Tensor, reference: torch.Tensor, beta: float) -> torch.Tensor:
    """The loss of TRL's own DPOTrainer for n winners and n losers: log-probabilities [2n] each.

    Its _compute_loss is called as it is, on a stand-in for the trainer whose model answers with
    the given numbers: every text has one symbol after its start.
    """
    trl = pytest.importorskip("trl")
    count = len(log_probs)
    column = torch.zeros(count, 1)
    outputs = SimpleNamespace(
        log_probs=log_probs[:, None], entropy=column, mean_logits=column, is_top1=column.bool()
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(
            device="cpu", gather=lambda x: x, gather_for_metrics=lambda x: x
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid"],
        loss_weights=[1.0],
        use_weighting=False,
        label_smoothing=0.0,
        beta=beta,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.ones(count, 2, dtype=torch.long),
        "attention_mask": torch.ones(count, 2, dtype=torch.long),
        "completion_mask": torch.tensor([[0, 1]] * count),
        "ref_chosen_logps": reference[: count // 2],
        "ref_rejected_logps": reference[count // 2 :],
    }
    return trl.DPOTrainer._compute_loss(trainer, lambda **_: outputs, inputs, False)


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_loss_of_trl(beta):
    rng = random.Random(0)
    policy, reference = [
        torch.tensor([rng.uniform(-40.0, -5.0) for _ in range(16)], dtype=torch.float64)
        for _ in range(2)
    ]
    policy.requires_grad_()
    expected = trl_loss(policy, reference, beta)
    expected.backward()
    winners, losers = [script.Tensor([part.tolist()]) for part in policy.detach().chunk(2)]
    loss = script.dpo_loss(winners, losers, *[part.tolist() for part in reference.chunk(2)], beta)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    close([winners.grad[0] + losers.grad[0]], policy.grad[None])
