"""microdpo: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import itertools
import random
from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # The thesis, on each seed's own reference, comparisons and samples (800 names a policy: the
    # standard error of a mean reward is about 0.07).
    "reward_dpo - reward_sft >= 0.4",
    "reward_dpo - reward_winners >= 0.15",
    # It is bought at a fair price: one point of reward for each nat of distance, at least.
    "reward_dpo - reward_ref >= kl_dpo",
    # Imitation cannot pass what it imitates.
    "reward_sft <= reward_winners",
)

script = load_script("microdpo")


def without_reference(winners, losers, ref_winners, ref_losers, beta):
    """DPO's loss on log-probabilities instead of log-ratios."""
    zeros = [0.0] * len(ref_winners)
    return script.dpo_loss(winners, losers, zeros, zeros, beta)


def plain_difference(winners, losers, ref_winners, ref_losers, beta):
    """-margin for a loss: nothing ends a pair's pull."""
    count = len(ref_winners)
    rows = zip(winners.data[0], losers.data[0], ref_winners, ref_losers)
    loss = -sum(beta * ((w - rw) - (lo - rl)) for w, lo, rw, rl in rows) / count

    def pass_back(d_out):
        d = beta / count * d_out[0][0]
        return [[-d] * count], [[d] * count]

    return script.Tensor([[loss]], (winners, losers), pass_back)


def swapped(reference, num_pairs, rng):
    """The losers are taken for winners."""
    return [pair[::-1] for pair in script.draw_comparisons(reference, num_pairs, rng)]


def nobody_wins_more_often(rewards):
    """A limit of imitation that forgets the comparisons: the reference itself."""
    return sum(rewards) / len(rewards), 0.0


VARIANTS = {
    "no_reference": {"dpo_loss": without_reference},
    "no_sigmoid": {"dpo_loss": plain_difference},
    "swapped": {"draw_comparisons": swapped},
    "long_sft": {"SFT_STEPS": 320},
    "double_rate": {"LEARNING_RATE": 0.008},
}

TWINS = {
    "swapped": "reward_dpo - reward_sft >= 0.4",
    "no_reference": "reward_dpo - reward_winners >= 0.15",
    "no_sigmoid": "reward_dpo - reward_ref >= kl_dpo",
}

SMALL = {
    "PRETRAIN_STEPS": 50,
    "NUM_PAIRS": 48,
    "NUM_HELD_OUT": 8,
    "DPO_STEPS": 10,
    "SFT_STEPS": 40,
    "NUM_SAMPLES": 200,
}


def test_the_rows_for_the_table_of_the_tier():
    table = {"reference": (5.0, 0.0), "DPO, beta 0.5": (6.0, 0.5), "exact optimum, beta 1": (7, 1)}
    rows = script.table_rows(table, [0.0, 10.0])
    assert list(rows) == list(table)
    assert all(
        set(row) == {"given", "sampled", "reward", "kl", "frontier"} for row in rows.values()
    )
    assert [row["given"] for row in rows.values()] == ["-", "512 pairs", "the gold reward itself"]
    assert rows["DPO, beta 0.5"]["frontier"] == script.frontier_reward([0.0, 10.0], 0.5)


def test_a_limit_that_forgets_who_won_is_noticed():
    twin("microdpo", BARS[3], {"imitation_limit": nobody_wins_more_often}, SMALL)


# === THE LOSS ===

LOG_PROBS = st.floats(-60.0, 0.0)
FOUR = st.lists(st.tuples(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS), min_size=1, max_size=5)


def loss_of(rows, beta):
    """dpo_loss of rows (winner, loser, ref_winner, ref_loser) and its gradients."""
    winners, losers, ref_winners, ref_losers = map(list, zip(*rows))
    policy = script.Tensor([winners]), script.Tensor([losers])
    loss = script.dpo_loss(*policy, ref_winners, ref_losers, beta)
    loss.backward()
    return loss.item(), policy[0].grad[0], policy[1].grad[0]


@pytest.mark.parametrize("beta", [0.1, 0.5, 2.0])
def test_the_gradients_are_those_of_central_differences(beta):
    rng = random.Random(1)
    winners, losers, refs_w, refs_l = [[rng.uniform(-20, -5) for _ in range(5)] for _ in range(4)]

    def loss(policy_winners, policy_losers):
        return script.dpo_loss(policy_winners, policy_losers, refs_w, refs_l, beta)

    check_gradients(loss, [winners], [losers], tensor=script.Tensor)


@given(FOUR, st.floats(0.05, 5.0))
def test_where_policy_and_reference_agree_the_loss_is_ln_2(rows, beta):
    value, d_winners, d_losers = loss_of([(w, lo, w, lo) for w, lo, _, _ in rows], beta)
    assert value == pytest.approx(log(2.0), rel=1e-12)
    assert d_winners == pytest.approx([-0.5 * beta / len(rows)] * len(rows), rel=1e-12)
    assert d_losers == pytest.approx([0.5 * beta / len(rows)] * len(rows), rel=1e-12)


@given(st.tuples(LOG_PROBS, LOG_PROBS, LOG_PROBS, LOG_PROBS), st.floats(0.05, 5.0))
def test_the_other_outcome_costs_the_margin_more(row, beta):
    winner, loser, ref_winner, ref_loser = row
    margin = beta * ((winner - ref_winner) - (loser - ref_loser))
    value = loss_of([row], beta)[0]
    other = loss_of([(loser, winner, ref_loser, ref_winner)], beta)[0]
    assert value - other == pytest.approx(-margin, rel=1e-9, abs=1e-9)


@given(FOUR, st.floats(-50.0, 50.0))
def test_a_constant_such_as_beta_log_z_cancels(rows, constant):
    moved = [(w + constant, lo + constant, rw, rl) for w, lo, rw, rl in rows]
    assert loss_of(moved, 0.5)[0] == pytest.approx(loss_of(rows, 0.5)[0], rel=1e-9, abs=1e-9)


def test_huge_margins_stay_finite():
    right, d_winner, d_loser = loss_of([(0.0, -800.0, -800.0, 0.0)], 1.0)
    assert (right, d_winner, d_loser) == (0.0, [-0.0], [0.0])
    wrong, d_winner, d_loser = loss_of([(-800.0, 0.0, 0.0, -800.0)], 1.0)
    assert (wrong, d_winner, d_loser) == (1600.0, [-1.0], [1.0])


def test_on_expected_labels_dpo_finds_the_exact_optimum():
    """Three texts, a free probability for each: every pair with the weight that it would have."""
    reference, rewards, beta = [0.5, 0.3, 0.2], [0.0, 1.0, 0.4], 0.7
    ref_logs = list(map(log, reference))
    pairs = list(itertools.permutations(range(3), 2))
    weights = [
        reference[a] * reference[b] * script.sigmoid_of(rewards[a] - rewards[b]) for a, b in pairs
    ]
    logits = script.Tensor([ref_logs])
    for _ in range(400):
        for (a, b), weight in zip(pairs, weights):
            winner, loser = [script.log_prob(logits, [text]) for text in (a, b)]
            loss = script.dpo_loss(winner, loser, [ref_logs[a]], [ref_logs[b]], beta)
            (loss * weight).backward()
        logits.data = [[x - 20.0 * g for x, g in zip(logits.data[0], logits.grad[0])]]
        logits.grad = None
    tilted = [p * exp(r / beta) for p, r in zip(reference, rewards)]
    expected = [value / sum(tilted) for value in tilted]
    assert script.softmax_row(logits.data[0]) == pytest.approx(expected, abs=1e-6)


# === THE MODEL'S PROBABILITIES ===


def new_model(context=None, seed=0, scale=4.0):
    """A GPT with weights large enough that every part matters."""
    model = script.GPT(27, context or script.CONTEXT, script.WIDTH, random.Random(seed))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    return model


MODEL = new_model()
TEXTS = st.lists(
    st.text(alphabet=script.ALPHABET[1:], max_size=15).map(script.encode), min_size=1, max_size=5
)


def test_the_probabilities_of_all_texts_sum_to_one():
    """Of at most two letters: a text that is as long as it may be has no end mark."""
    model = script.copy_of(new_model(context=2), requires_grad=False)
    letters = range(1, 27)
    texts = [[0, 0], *[[0, a, 0] for a in letters], *[[0, a, b] for a in letters for b in letters]]
    logs = script.sequence_log_probs(model, texts).data[0]
    assert sum(map(exp, logs)) == pytest.approx(1.0, abs=1e-12)


@settings(deadline=None, max_examples=20)
@given(TEXTS)
def test_texts_side_by_side_are_texts_one_by_one(texts):
    together = script.sequence_log_probs(MODEL, texts).data[0]
    alone = [script.sequence_log_probs(MODEL, [text]).item() for text in texts]
    assert together == pytest.approx(alone, rel=1e-12)


def test_the_gradient_of_whole_texts():
    texts = [[0, 0], script.encode("ava"), [0, *range(1, 17)]]

    def log_probs(weight):
        model = script.copy_of(MODEL, requires_grad=False)
        model.query = weight
        return script.sequence_log_probs(model, texts)

    check_gradients(log_probs, script.Tensor(MODEL.query.data), tensor=script.Tensor)


def test_training_a_copy_leaves_the_reference_alone(capsys):
    reference = script.copy_of(MODEL, requires_grad=False)
    before = [parameter.data for parameter in reference.parameters()]
    rng = random.Random(0)
    pairs = script.with_reference(reference, script.draw_comparisons(reference, 8, rng))

    def step_of(policy, batch):
        return script.dpo_step(policy, batch, 0.5)

    policy, history = script.fine_tune(reference, pairs, 20, step_of)
    assert all(p.data is rows for p, rows in zip(reference.parameters(), before))
    assert not any(p.requires_grad for p in [*reference.parameters(), *policy.parameters()])
    assert all(p.data != rows for p, rows in zip(policy.parameters(), before))
    # One batch, twenty times: the winners are left above the losers.
    assert history[0][0] > history[1][0] and history[1][1] > history[1][2]
    assert capsys.readouterr().out.startswith("step   20/20 | loss ")


def test_the_first_loss_is_ln_2():
    reference = script.copy_of(MODEL, requires_grad=False)
    comparisons = script.draw_comparisons(reference, 8, random.Random(0))
    batch = script.with_reference(reference, comparisons)
    loss, log_ratios = script.dpo_step(script.copy_of(reference, True), batch, 0.5)
    assert loss.item() == log(2.0) and log_ratios == [0.0, 0.0]


# === THE PERSON ===

NAMES = st.text(alphabet=script.ALPHABET[1:], max_size=16)


@given(NAMES)
def test_a_reward_lies_between_minus_ten_and_ten(name):
    assert -10.0 <= script.gold_reward(name) <= 10.0


@pytest.mark.parametrize(
    ("name", "reward"),
    [("", 0.0), ("a", 10.0), ("k", 0.0), ("aa", 0.0), ("aaaaaaaa", -7.5), ("ririri", 10 / 3)],
)
def test_what_the_person_likes(name, reward):
    assert script.gold_reward(name) == pytest.approx(reward)


def test_the_person_errs_as_bradley_and_terry_say(monkeypatch):
    broken = load_script("microdpo")
    better, worse = script.encode("emilia"), script.encode("emilka")
    gap = script.gold_reward("emilia") - script.gold_reward("emilka")
    count = 4000
    monkeypatch.setattr(broken, "sample", lambda *_: [worse, better] * count)
    pairs = broken.draw_comparisons(MODEL, count, random.Random(0))
    share = sum(winner == better for winner, _ in pairs) / count
    assert all(sorted(pair) == sorted([better, worse]) for pair in pairs)
    assert share == pytest.approx(1.0 / (1.0 + exp(-gap)), abs=0.02)


# === WHAT IS POSSIBLE ===

REWARDS = st.lists(st.sampled_from([-5.0, 0.0, 2.5, 4.0, 7.5, 10.0]), min_size=2, max_size=12)


@given(REWARDS, st.floats(0.3, 8.0), st.randoms(use_true_random=False))
def test_no_distribution_has_a_better_objective(rewards, beta, rng):
    reward, kl, effective = script.optimal_policy(rewards, beta)
    count = len(rewards)
    assert kl >= -1e-9 and 1.0 - 1e-9 <= effective <= count + 1e-9
    other = script.softmax_row([rng.uniform(-4.0, 4.0) for _ in rewards])
    other_reward = sum(q * r for q, r in zip(other, rewards))
    other_kl = sum(q * log(q * count) for q in other)
    assert other_reward - beta * other_kl <= reward - beta * kl + 1e-9


@given(REWARDS, st.floats(0.3, 8.0), st.floats(-20.0, 20.0))
def test_only_differences_of_rewards_matter(rewards, beta, constant):
    moved = [reward + constant for reward in rewards]
    for function in (lambda r: script.optimal_policy(r, beta), script.imitation_limit):
        reward, kl = function(rewards)[:2]
        assert function(moved)[:2] == pytest.approx((reward + constant, kl), abs=1e-7)


@given(st.floats(0.4, 8.0))
def test_the_frontier_leads_through_the_optima(beta):
    rewards = [0.0, 2.5, 2.5, 4.0, 7.5, 10.0]
    reward, kl, _ = script.optimal_policy(rewards, beta)
    assert script.frontier_reward(rewards, kl) == pytest.approx(reward, abs=1e-5)
    assert script.frontier_reward(rewards, 0.0) == pytest.approx(sum(rewards) / 6, abs=0.05)


@given(REWARDS)
def test_the_limit_of_imitation_is_the_mean_over_all_pairs(rewards):
    count = len(rewards)
    ratios = [2.0 * sum(script.sigmoid_of(a - b) for b in rewards) / count for a in rewards]
    reward, kl = script.imitation_limit(rewards)
    assert sum(ratios) == pytest.approx(count)
    assert max(ratios) <= 2.0 and -1e-12 <= kl <= log(2.0)
    assert reward == pytest.approx(sum(x * r for x, r in zip(ratios, rewards)) / count, abs=1e-9)
    assert kl == pytest.approx(sum(x * log(x) for x in ratios) / count, abs=1e-9)
    assert reward <= script.frontier_reward(rewards, kl) + 1e-6


def test_the_optimum_on_pairs():
    """Its log-ratios are those of the tilted distribution; equals count one half."""
    names, beta = ["lena", "nela", "jack"], 1.5
    lena, nela, jack = texts = [script.encode(name) for name in names]
    rewards = [script.gold_reward(name) for name in names]
    reward, kl, _ = script.optimal_policy(rewards, beta)
    tilted = script.softmax_row([r / beta for r in rewards])
    ratios = {tuple(text): log(3.0 * p) for text, p in zip(texts, tilted)}
    pairs = script.Pairs([lena, lena, jack], [nela, jack, lena], [], [])
    seen = script.optimum_on(pairs, reward, kl, beta)
    assert seen["accuracy"] == 0.5
    for key, side in (("winner_ratio", pairs.winners), ("loser_ratio", pairs.losers)):
        assert seen[key] == pytest.approx(sum(ratios[tuple(text)] for text in side) / 3.0)


def test_the_picture_holds_policies_far_out(capsys):
    """Such as those of the broken twins."""
    titles = ("a", "b", "c", "d", "e", "f")
    values = ((5.0, 0.0), (6.0, 0.1), (-8.0, 7.0), (4.0, -0.01), (9.0, 1.0), (9.5, 1.2))
    script.report_plane(dict(zip(titles, values)), [0.0, 5.0, 10.0], 2.5)
    out = capsys.readouterr().out
    assert all(f"{mark} {title}" in out for mark, title in zip("RWSdDO", titles))
    assert max(map(len, out.splitlines())) <= 80
