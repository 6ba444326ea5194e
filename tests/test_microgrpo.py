"""microgrpo: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import itertools
import random
from math import exp, log

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # On each seed's own reference and samples. The standard error of an accuracy over 400 answers
    # is at most 0.025.
    "accuracy_group - accuracy_batch >= 0.12",
    # With groups of 8 and whole numbers every mean is exact, so this is no matter of rounding.
    "weight_difference == 0.0",
)

script = load_script("microgrpo")


def mean_of_the_batch(rewards, group_size):
    """The group's mean replaced by the mean of all rewards."""
    return script.group_advantages(rewards, len(rewards))


VARIANTS = {
    "batch_mean": {"group_advantages": mean_of_the_batch},
    # The rival must not lose by its learning rate.
    "half_rate": {"LEARNING_RATE": 0.0035},
    "double_rate": {"LEARNING_RATE": 0.014},
}

TWINS = {"batch_mean": "accuracy_group - accuracy_batch >= 0.12"}

SMALL = {"PRETRAIN_STEPS": 10, "STEPS": 2, "NUM_SAMPLES": 2}


def test_a_baseline_that_the_graders_can_move_is_noticed():
    twin("microgrpo", BARS[1], {"group_advantages": mean_of_the_batch}, SMALL)


# === THE TASK ===


def answer(prompt, name):
    return [27 + prompt, *script.encode(name)[1:]]


@pytest.mark.parametrize(
    ("name", "obeyed"),
    [
        ("anna", [1, 0, 1, 0]),
        ("jo", [1, 0, 1, 0]),
        ("kelly", [1, 0, 0, 0]),
        ("robert", [0, 1, 0, 0]),
        ("jonathan", [0, 1, 0, 1]),
        ("", [0, 0, 0, 0]),
    ],
)
def test_the_check(name, obeyed):
    assert [script.check(answer(i, name)) for i in range(4)] == obeyed


def test_what_is_no_finished_name_is_wrong():
    for prompt in (27, 28, 29, 30):
        assert script.check([prompt, *[1] * 16]) == 0.0  # no end
        assert script.check([prompt, 1, 28, 1, 0]) == 0.0  # an instruction within the name
        assert script.check([prompt, 5]) == 0.0


def test_names_to_pretrain_on():
    rng = random.Random(0)
    texts = [script.with_instruction("anna", rng) for _ in range(4000)]
    assert all(text[1:] == script.encode("anna")[1:] for text in texts)
    right = sum(map(script.check, texts)) / len(texts)
    assert right == pytest.approx(0.6 + 0.4 * 0.5, abs=0.03)


# === ADVANTAGES ===

WHOLE = st.lists(st.integers(-3, 3).map(float), min_size=8, max_size=8)


@given(st.lists(WHOLE, min_size=1, max_size=4), st.integers(-5, 5))
def test_a_constant_added_to_a_group_changes_nothing_at_all(groups, constant):
    rewards = [r for group in groups for r in group]
    moved = [r + constant * (1 + i // 8) for i, r in enumerate(rewards)]
    assert script.group_advantages(moved, 8) == script.group_advantages(rewards, 8)


@given(st.lists(st.floats(-10.0, 10.0), min_size=2, max_size=9))
def test_a_group_sums_to_zero(rewards):
    assert sum(script.group_advantages(rewards, len(rewards))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("scale", [2.0, 100.0])
def test_the_unit_of_a_grader_hardly_matters(scale):
    """Hardly: because of the small number in the denominator."""
    rewards = [1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0]
    scaled = script.group_advantages([scale * r for r in rewards], 8)
    assert scaled == pytest.approx(script.group_advantages(rewards, 8), rel=1e-3)


def test_the_standard_deviation_is_that_of_a_sample():
    """Divided by G - 1, as torch.std does: 0.5 here."""
    expected = [1.5, -0.5, -0.5, -0.5]
    assert script.group_advantages([1.0, 0.0, 0.0, 0.0], 4) == pytest.approx(expected, rel=1e-3)


@given(st.floats(-3.0, 3.0).map(lambda x: round(x * 8) / 8), st.sampled_from([2, 4, 8]))
def test_a_group_that_agrees_teaches_nothing(reward, size):
    assert script.group_advantages([reward] * size, size) == [0.0] * size


@given(st.lists(st.floats(-5.0, 5.0), min_size=2, max_size=8))
def test_without_the_answer_itself_only_the_factor_differs(rewards):
    """Leave one out (RLOO): G / (G - 1) times (reward - mean)."""
    count = len(rewards)
    for i, reward in enumerate(rewards):
        others = rewards[:i] + rewards[i + 1 :]
        left_out = reward - sum(others) / len(others)
        within = count / (count - 1) * (reward - script.mean(rewards))
        assert within == pytest.approx(left_out, abs=1e-9)


def expected_gradient(rewards, logits, size, baseline):
    """E[mean over the group of (r - baseline) grad log pi], by enumerating all groups."""
    probs = script.softmax_row(logits)
    total = [0.0] * len(probs)
    for group in itertools.product(range(len(probs)), repeat=size):
        weight = 1.0
        for y in group:
            weight *= probs[y]
        b = baseline([rewards[y] for y in group])
        for y in group:
            for j, p in enumerate(probs):
                total[j] += weight * (rewards[y] - b) * ((j == y) - p) / size
    return total


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_groups_mean_shrinks_the_gradient_and_does_not_turn_it(size):
    rewards, logits = [1.0, 0.0, 3.0], [0.3, -0.5, 0.9]
    exact = expected_gradient(rewards, logits, 1, lambda group: 0.0)
    constant = expected_gradient(rewards, logits, size, lambda group: 1.7)
    within = expected_gradient(rewards, logits, size, script.mean)
    assert constant == pytest.approx(exact, abs=1e-10)
    assert within == pytest.approx([(size - 1) / size * g for g in exact], abs=1e-10)


# === THE LOSS ===


def slopes_of(now, old, reference, advantages):
    log_probs = script.Tensor([now])
    loss = script.grpo_loss(log_probs, old, reference, advantages)
    loss.backward()
    return loss.item(), log_probs.grad[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gradients_are_those_of_central_differences(seed):
    rng = random.Random(seed)
    now, old, reference = [[rng.uniform(-3.0, -1.0) for _ in range(12)] for _ in range(3)]
    advantages = [rng.gauss(0.0, 1.0) for _ in now]

    def loss(log_probs):
        return script.grpo_loss(log_probs, old, reference, advantages)

    check_gradients(loss, [now], tensor=script.Tensor)


@given(st.lists(st.tuples(st.floats(-20.0, 0.0), st.floats(-3.0, 3.0)), min_size=1, max_size=6))
def test_in_the_first_epoch_it_is_the_plain_policy_gradient(rows):
    now, advantages = map(list, zip(*rows))
    loss, slopes = slopes_of(now, now, now, advantages)
    assert loss == pytest.approx(-script.mean(advantages), abs=1e-12)
    assert slopes == pytest.approx([-a / len(now) for a in advantages], abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.5, 1.0, -1.2, 0.0),  # too far in the wanted direction
        (0.5, -1.0, 0.8, 0.0),
        (0.5, 1.0, -0.5, -0.5),  # too far in the wrong one
        (1.5, -1.0, 1.5, 1.5),
        (1.1, 1.0, -1.1, -1.1),
    ],
)
def test_the_clip(ratio, advantage, loss, slope):
    value, (found,) = slopes_of([log(ratio) - 2.0], [-2.0], [log(ratio) - 2.0], [advantage])
    assert value == pytest.approx(loss) and found == pytest.approx(slope, abs=1e-15)


@given(st.floats(-10.0, 0.0), st.floats(-10.0, 0.0))
def test_the_kl_term_is_never_negative(now, reference):
    assert slopes_of([now], [now], [reference], [0.0])[0] >= 0.0
    assert slopes_of([now], [now], [now], [0.0])[0] == 0.0


def test_the_kl_terms_value_and_gradient_in_expectation():
    """Its value is KL(pi, pi_ref); its gradient, as the text says, is that of KL(pi_ref, pi)."""
    logits, reference = [0.2, -0.7, 1.1], [0.5, 0.2, 0.3]
    probs = script.softmax_row(logits)
    value, gradient = 0.0, [0.0] * 3
    for y, p in enumerate(probs):
        loss, (slope,) = slopes_of([log(p)], [log(p)], [log(reference[y])], [0.0])
        value += p * loss / script.KL_WEIGHT
        for j, q in enumerate(probs):
            gradient[j] += p * slope / script.KL_WEIGHT * ((j == y) - q)
    assert value == pytest.approx(sum(p * log(p / r) for p, r in zip(probs, reference)), abs=1e-12)
    # KL(pi_ref, pi) is a cross-entropy and a constant: its gradient is pi - pi_ref.
    assert gradient == pytest.approx([p - r for p, r in zip(probs, reference)], abs=1e-12)


# === TRAINING ===


def new_model(seed=0):
    """A GPT that writes short texts in which every symbol occurs."""
    return script.copy_of(script.GPT(31, script.CONTEXT, script.WIDTH, random.Random(seed)), False)


def test_training_leaves_the_reference_alone(monkeypatch, capsys):
    small = load_script("microgrpo")
    monkeypatch.setattr(small, "STEPS", 6)
    reference = small.copy_of(new_model(), requires_grad=False)
    before = [parameter.data for parameter in reference.parameters()]
    policy, history = small.train(reference, small.OFFSETS, 8, random.Random(0))
    assert all(p.data is rows for p, rows in zip(reference.parameters(), before))
    assert not any(p.requires_grad for p in [*reference.parameters(), *policy.parameters()])
    assert len(history) == 6 and all(0.0 <= share <= 1.0 for share, _ in history)
    assert all(0 <= agreeing <= 4 for _, agreeing in history)
    assert capsys.readouterr().out.startswith("step    6/6 | right answers ")


def test_answers_stand_prompt_by_prompt():
    texts = script.write_answers(new_model(), 3, random.Random(0))
    assert [text[0] for text in texts] == [27] * 3 + [28] * 3 + [29] * 3 + [30] * 3


def test_the_largest_difference():
    a, b = new_model(), new_model()
    assert script.largest_difference(a, b) == 0.0
    b.head.data = [list(row) for row in b.head.data]
    b.head.data[3][2] -= 0.25
    assert script.largest_difference(a, b) == pytest.approx(0.25)


def test_learning_from_the_check_alone():
    """Four letters, one symbol each: the right one of every prompt becomes frequent."""
    logits = [script.Tensor([[0.0] * 4]) for _ in range(4)]
    rng = random.Random(0)
    for _ in range(60):
        answers = [rng.choices(range(4), script.softmax_row(row.data[0]), k=8) for row in logits]
        rewards = [
            float(y == i) + script.OFFSETS[i] for i, group in enumerate(answers) for y in group
        ]
        advantages = script.group_advantages(rewards, 8)
        for i, (row, group) in enumerate(zip(logits, answers)):
            for y, advantage in zip(group, advantages[8 * i : 8 * i + 8]):
                log_probs = script.log_prob(row, [y])
                now = log_probs.data[0]
                script.grpo_loss(log_probs, now, now, [advantage]).backward()
            row.data = [[x - 0.1 * g for x, g in zip(row.data[0], row.grad[0])]]
            row.grad = None
    assert all(exp(script.log_prob(row, [i]).item()) > 0.9 for i, row in enumerate(logits))
