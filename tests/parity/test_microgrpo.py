"""microgrpo against PyTorch and TRL: equal log-probabilities give equal losses and gradients."""

from __future__ import annotations

import random
from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
from support import load_script

script = load_script("microgrpo")
COUNT = 24


def numbers(seed: int, spread: float) -> list[torch.Tensor]:
    """Log-probabilities of policy, writer and reference, and advantages, for COUNT symbols."""
    rng = random.Random(seed)
    writer = [rng.uniform(-4.0, -0.1) for _ in range(COUNT)]
    policy, reference = [[x + rng.gauss(0.0, spread) for x in writer] for _ in range(2)]
    advantages = script.group_advantages([float(rng.random() < 0.4) for _ in range(COUNT)], 8)
    return [
        torch.tensor(row, dtype=torch.float64) for row in (policy, writer, reference, advantages)
    ]


def compare(expected: torch.Tensor, policy: torch.Tensor, *rest: torch.Tensor) -> None:
    """Our loss and gradient against those of torch, to 1e-9."""
    expected.backward()
    ours = script.Tensor([policy.detach().tolist()])
    loss = script.grpo_loss(ours, *[row.tolist() for row in rest])
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert ours.grad[0] == pytest.approx(policy.grad.tolist(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("seed", "spread"), [(0, 0.05), (1, 0.3), (2, 1.0)])
def test_the_papers_formula(seed, spread):
    policy, writer, reference, advantages = numbers(seed, spread)
    policy.requires_grad_()
    ratio = torch.exp(policy - writer)
    clipped = ratio.clamp(1.0 - script.CLIP, 1.0 + script.CLIP)
    gain = torch.min(ratio * advantages, clipped * advantages)
    difference = reference - policy
    kl = torch.exp(difference) - difference - 1.0
    expected = (script.KL_WEIGHT * kl - gain).mean()
    compare(expected, policy, writer, reference, advantages)


def trl_loss(policy, writer, reference, advantages) -> torch.Tensor:
    """The loss of TRL's own GRPOTrainer, called on a stand-in for the trainer whose model answers
    with the given log-probabilities. One long answer, with an advantage for each symbol.
    """
    trl = pytest.importorskip("trl")
    row = policy[None]
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            gather=lambda x: x, reduce=lambda x, reduction: x, num_processes=1
        ),
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
        _get_per_token_logps_and_entropies=lambda *_, **__: (row, torch.zeros_like(row), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=script.KL_WEIGHT,
        loss_type="dapo",
        epsilon_low=script.CLIP,
        epsilon_high=script.CLIP,
        use_vllm=False,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        use_adaptive_entropy=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    ones = torch.ones(1, COUNT, dtype=torch.long)
    inputs = {
        "prompt_ids": ones[:, :1],
        "prompt_mask": ones[:, :1],
        "completion_ids": ones,
        "completion_mask": ones,
        "advantages": advantages[None],
        "old_per_token_logps": writer[None],
        "ref_per_token_logps": reference[None],
        "num_items_in_batch": torch.tensor(COUNT),
    }
    return trl.GRPOTrainer._compute_loss(trainer, None, inputs)


@pytest.mark.parametrize(("seed", "spread"), [(3, 0.1), (4, 0.5)])
def test_the_loss_of_trl(seed, spread):
    policy, *rest = numbers(seed, spread)
    policy.requires_grad_()
    compare(trl_loss(policy, *rest), policy, *rest)


def test_a_ratio_without_the_clip_is_noticed(monkeypatch):
    policy, *rest = numbers(5, 1.0)
    policy.requires_grad_()
    monkeypatch.setattr(script, "CLIP", 0.2)
    expected = trl_loss(policy, *rest)
    monkeypatch.setattr(script, "CLIP", 1e9)
    with pytest.raises(AssertionError):
        compare(expected, policy, *rest)


def test_the_advantages_are_those_of_torch():
    rng = random.Random(0)
    rewards = torch.tensor([rng.gauss(0.0, 2.0) for _ in range(32)], dtype=torch.float64)
    groups = rewards.view(4, 8)
    spread = groups.std(dim=1, keepdim=True) + 1e-4
    expected = ((groups - groups.mean(dim=1, keepdim=True)) / spread).flatten().tolist()
    assert script.group_advantages(rewards.tolist(), 8) == pytest.approx(expected, rel=1e-9)
