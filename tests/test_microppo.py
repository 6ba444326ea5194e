"""microppo: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import inspect
import itertools
import random
from math import exp, log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # Tied to the reference, the learned judge is good enough (400 names a policy: the standard
    # error of a mean reward is about 0.1).
    "reward_ppo - reward_ref >= 0.7",
    "reward_reinforce - reward_ref >= 0.7",
    # Free, the score goes up and the reward goes down.
    "score_free - score_ppo >= 1.0",
    "reward_free - reward_ref <= -4.0",
)

script = load_script("microppo")


def the_person_herself(text, judge):
    """A judge that cannot be fooled."""
    return script.gold_reward(script.to_name(text))


def upside_down(comparisons):
    """A judge that takes losers for winners."""
    return script.fit_judge([pair[::-1] for pair in comparisons])


FAST = {"LEARNING_RATE": 0.02, "ITERATIONS": 10, "FREE_ITERATIONS": 1}

VARIANTS = {
    "tied": {"FREE_BETA": script.BETA},
    "true_judge": {"score": the_person_herself},
    "fast": FAST,
    "fast_unclipped": {**FAST, "CLIP": 1e9},
}

TWINS = {
    "tied": "score_free - score_ppo >= 1.0",
    "true_judge": "reward_free - reward_ref <= -4.0",
    "fast_unclipped": "reward_ppo - reward_ref >= 0.7",
}

SMALL = {
    "PRETRAIN_STEPS": 30,
    "NUM_PAIRS": 256,
    "NUM_HELD_OUT": 8,
    "ITERATIONS": 12,
    "FREE_ITERATIONS": 1,
    "NUM_EPOCHS": 1,
    "NUM_SAMPLES": 150,
}


def test_a_judge_fitted_upside_down_is_noticed():
    twin("microppo", BARS[1], {"fit_judge": upside_down}, SMALL)


@pytest.mark.parametrize(
    "name",
    "predict pretrain copy_of sequence_log_probs gold_reward to_name draw_comparisons "
    "optimal_policy frontier_reward mean".split(),
)
def test_what_microdpo_has_too_is_the_same_to_the_letter(name):
    ours, theirs = [getattr(load_script(s), name) for s in ("microppo", "microdpo")]
    assert inspect.getsource(ours) == inspect.getsource(theirs)


@pytest.mark.parametrize(
    "name",
    "SEED CONTEXT WIDTH NUM_HEADS BATCH_SIZE BETAS PRETRAIN_STEPS PRETRAIN_RATE SOFT_LETTERS "
    "NUM_PAIRS NUM_HELD_OUT".split(),
)
def test_the_comparisons_are_those_of_microdpo(name):
    assert getattr(script, name) == getattr(load_script("microdpo"), name)


# === THE JUDGE ===

NAMES = st.text(alphabet=script.ALPHABET[1:], min_size=1, max_size=15)
WEIGHTS = st.lists(st.floats(-5.0, 5.0), min_size=27, max_size=27)


@given(NAMES, WEIGHTS)
def test_a_score_is_the_weights_times_the_shares(name, weights):
    text = script.encode(name)
    shares = script.shares(text)
    assert sum(shares) == pytest.approx(1.0)
    expected = sum(w * s for w, s in zip(weights, shares))
    assert script.score(text, weights) == pytest.approx(expected, abs=1e-9)
    assert script.score(text, weights) <= max(weights) + 1e-9


@given(st.permutations("marina"), WEIGHTS)
def test_the_judge_is_blind_to_order(letters, weights):
    score = script.score(script.encode("".join(letters)), weights)
    assert score == pytest.approx(script.score(script.encode("marina"), weights), abs=1e-9)


def test_the_judge_learns_which_letter_wins():
    rng = random.Random(0)
    pairs = []
    for _ in range(64):
        name = "".join(rng.choices("bcd", k=5))
        pairs.append((script.encode(name + "a"), script.encode(name + "k")))
    judge = script.fit_judge(pairs)
    letter = dict(zip(script.ALPHABET, judge))
    assert letter["a"] > max(letter[x] for x in "bcd.") + 1.0
    assert letter["k"] < min(letter[x] for x in "bcd.") - 1.0
    scores = [script.score(text, judge) for pair in pairs for text in pair]
    assert sum(scores) / len(scores) == pytest.approx(0.0, abs=1e-9)


# === REWARDS AND ADVANTAGES ===


@given(st.lists(NAMES, min_size=1, max_size=4), st.floats(0.0, 2.0), st.randoms())
def test_the_rewards_of_a_name_sum_to_the_objective(names, beta, rng):
    texts = [script.encode(name) for name in names]
    count = sum(len(text) - 1 for text in texts)
    own, ref = [[-rng.uniform(0.1, 8.0) for _ in range(count)] for _ in range(2)]
    scores = [rng.uniform(-3.0, 3.0) for _ in texts]
    rewards = script.compute_rewards(script.Batch(texts, scores, own, ref), beta)
    first = 0
    for text, score, row in zip(texts, scores, rewards):
        last = first + len(text) - 1
        distance = sum(own[first:last]) - sum(ref[first:last])
        assert len(row) == last - first
        assert sum(row) == pytest.approx(score - beta * distance, abs=1e-9)
        first = last


def test_a_name_without_end_is_paid_with_its_last_letter():
    text = [0, *[13] * 16]
    batch = script.Batch([text], [2.0], [-1.0] * 16, [-1.0] * 16)
    assert script.compute_rewards(batch, 0.5) == [[0.0] * 15 + [2.0]]


STEPS = st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=8)


@given(STEPS, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_an_advantage_is_the_sum_of_discounted_errors(steps, gamma, lam):
    rewards, values = map(list, zip(*steps))
    advantages, returns = script.gae(rewards, values, gamma, lam)
    ahead = [*values[1:], 0.0]
    deltas = [r + gamma * n - v for r, n, v in zip(rewards, ahead, values)]
    for t, advantage in enumerate(advantages):
        expected = sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
        assert advantage == pytest.approx(expected, abs=1e-9)
        assert returns[t] == pytest.approx(expected + values[t], abs=1e-9)


@given(STEPS)
def test_the_two_ends_of_lambda(steps):
    rewards, values = map(list, zip(*steps))
    patient, returns = script.gae(rewards, values, 1.0, 1.0)
    hasty, _ = script.gae(rewards, values, 1.0, 0.0)
    for t in range(len(steps)):
        assert returns[t] == pytest.approx(sum(rewards[t:]), abs=1e-9)
        assert patient[t] == pytest.approx(sum(rewards[t:]) - values[t], abs=1e-9)
        ahead = values[t + 1] if t + 1 < len(values) else 0.0
        assert hasty[t] == pytest.approx(rewards[t] + ahead - values[t], abs=1e-9)


@given(st.lists(st.floats(-9.0, 9.0), min_size=1, max_size=8))
def test_whitened_values(values):
    white = script.whiten(values)
    assert sum(white) == pytest.approx(0.0, abs=1e-5)
    spread = sum(x * x for x in white) / len(white)
    assert spread <= 1.0 + 1e-9
    if max(values) - min(values) > 1e-3:
        assert spread == pytest.approx(1.0, abs=1e-3)


# === THE LOSS ===


def test_the_gradient_is_that_of_central_differences():
    rng = random.Random(3)
    old = [rng.uniform(-4.0, -1.0) for _ in range(12)]
    # Away from the ends of the clip, where there is no derivative.
    moves = [-0.5, -0.1, 0.05, 0.5] * 3
    advantages = [1.0] * 4 + [-1.5] * 4 + [0.3, -0.3] * 2

    def loss(log_probs):
        return script.ppo_loss(log_probs, old, advantages, 0.2)[0]

    check_gradients(loss, [[o + m for o, m in zip(old, moves)]], tensor=script.Tensor)


@pytest.mark.parametrize(
    ("advantage", "move", "held"),
    [(1.0, 0.3, True), (1.0, -0.3, False), (-1.0, -0.3, True), (-1.0, 0.3, False)],
)
def test_the_clip_takes_away_two_gradients_of_four(advantage, move, held):
    log_probs = script.Tensor([[-1.0 + move]])
    loss, share = script.ppo_loss(log_probs, [-1.0], [advantage], 0.2)
    loss.backward()
    assert log_probs.grad == [[pytest.approx(0.0 if held else -advantage * exp(move))]]
    assert share == float(held)


@given(st.lists(st.tuples(st.floats(-9.0, 0.0), st.floats(-3.0, 3.0)), min_size=1, max_size=6))
def test_the_first_time_it_is_reinforce(symbols):
    old, advantages = map(list, zip(*symbols))
    log_probs = script.Tensor([old])
    loss, share = script.ppo_loss(log_probs, old, advantages, 0.2)
    loss.backward()
    assert share == 0.0
    assert log_probs.grad[0] == pytest.approx([-a / len(old) for a in advantages])


@given(st.floats(0.3, 2.0), st.floats(-2.0, 2.0))
def test_the_clipped_objective_is_never_the_larger_one(ratio, advantage):
    log_probs = script.Tensor([[log(ratio) - 1.0]])
    clipped = script.ppo_loss(log_probs, [-1.0], [advantage], 0.2)[0].item()
    free = script.ppo_loss(log_probs, [-1.0], [advantage], 1e9)[0].item()
    assert clipped >= free - 1e-12


# === THE MODELS ===


def new_model(seed=0, scale=4.0):
    """A GPT with weights large enough that every part matters."""
    model = script.GPT(27, script.CONTEXT, script.WIDTH, random.Random(seed))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    return script.copy_of(model, requires_grad=False)


MODEL = new_model()
VALUE_HEAD = script.Tensor([[random.Random(1).gauss(0.0, 1.0) for _ in range(script.WIDTH)]])
JUDGE = [random.Random(2).gauss(0.0, 1.0) for _ in range(27)]


def test_the_actor_is_the_policy():
    texts = [script.encode("ava"), script.encode("elina")]
    log_probs, values = script.actor_and_critic(MODEL, VALUE_HEAD, texts)
    expected = script.log_prob(*script.predict(MODEL, texts)).data[0]
    assert log_probs.data[0] == pytest.approx(expected, rel=1e-12)
    assert len(values.data) == len(expected)


@settings(deadline=None, max_examples=20)
@given(NAMES, st.integers(0, 14), st.sampled_from(script.ALPHABET[1:]))
def test_the_critic_does_not_see_the_symbol_that_it_judges(name, place, letter):
    place %= len(name)
    other = name[:place] + letter + name[place + 1 :]
    values = [
        script.actor_and_critic(MODEL, VALUE_HEAD, [script.encode(n)])[1].data
        for n in (name, other)
    ]
    assert values[0][: place + 1] == values[1][: place + 1]


def test_policy_head_and_value_head_both_learn():
    policy = script.copy_of(MODEL, requires_grad=True)
    value_head = script.Tensor([[0.1] * script.WIDTH])
    log_probs, values = script.actor_and_critic(policy, value_head, [script.encode("ava")])
    loss = script.ppo_loss(log_probs, log_probs.data[0], [1.0, -1.0, 0.5, 2.0], 0.2)[0]
    (loss + script.mse_loss(values, [[1.0]] * 4)).backward()
    assert value_head.grad is not None
    assert all(parameter.grad is not None for parameter in policy.parameters())


@pytest.mark.parametrize("train", [script.ppo, script.reinforce])
def test_training_leaves_the_reference_alone(train, capsys):
    before = [parameter.data for parameter in MODEL.parameters()]
    policy, history = train(MODEL, JUDGE, 0.5, 4, 0.004, random.Random(0))
    assert all(p.data is rows for p, rows in zip(MODEL.parameters(), before))
    assert all(p.data != rows for p, rows in zip(policy.parameters(), before))
    assert len(history) == 4
    assert history[0]["kl"] == 0.0 != history[1]["kl"]
    assert capsys.readouterr().out.startswith("step   4/4 | score ")


def test_ppo_with_one_epoch_never_clips(capsys, monkeypatch):
    broken = load_script("microppo")
    monkeypatch.setattr(broken, "NUM_EPOCHS", 1)
    _, history = broken.ppo(broken.copy_of(MODEL, False), JUDGE, 0.5, 2, 0.004, random.Random(0))
    assert [entry["held_back"] for entry in history] == [0.0, 0.0]


# === WHAT IS POSSIBLE ===


@given(st.permutations([0.0, 1.0, 2.5, 3.0, 7.0, 8.0]), st.integers(1, 6))
def test_best_of_n_is_the_mean_over_all_draws(scores, n):
    rewards = [6.0, -3.0, 2.0, 9.5, 0.0, 1.0]
    draws = list(itertools.combinations(range(6), n))
    best = [rewards[max(draw, key=lambda i: scores[i])] for draw in draws]
    assert script.best_of_n(scores, rewards, n) == pytest.approx(sum(best) / len(best))


@given(st.lists(st.floats(-3.0, 3.0), min_size=2, max_size=6), st.randoms())
def test_no_policy_passes_the_exact_optimum(scores, rng):
    best = script.optimal_policy(scores, script.BETA)
    other = script.softmax_row([rng.uniform(-3.0, 3.0) for _ in scores])
    score = sum(q * s for q, s in zip(other, scores))
    kl = sum(q * log(q * len(scores)) for q in other)
    ours, theirs = [script.objective((s, 0.0, d)) for s, d in (best[:2], (score, kl))]
    assert theirs <= ours + 1e-9


# === THE REPORT ===

TITLES = (
    "reference",
    "best of 4",
    "REINFORCE, beta 0.5",
    "PPO, beta 0.5",
    "PPO, beta 0",
    "exact optimum, beta 0.5",
)


def test_the_rows_for_the_table_of_the_tier():
    table = {title: (0.1 * i, 6.0 + i, 0.2 * i) for i, title in enumerate(TITLES)}
    rows = script.table_rows(table, [0.0, 10.0])
    assert list(rows) == list(TITLES[:5])
    assert all(
        set(row) == {"given", "sampled", "reward", "kl", "frontier"} for row in rows.values()
    )
    assert [row["sampled"] for row in rows.values()] == [0, 0, 320, 320, 384]
    assert rows["PPO, beta 0.5"]["frontier"] == script.frontier_reward(
        [0.0, 10.0], 0.6000000000000001
    )


@pytest.mark.parametrize("reward", [-10.0, 0.0, 10.0])
def test_the_picture_holds_every_reward(reward, capsys):
    entry = {"score": 3.0, "reward": reward, "kl": 88.88, "name": "m" * 16}
    script.report_parting([entry] * 5, [entry] * 24)
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if "mmm" in line]
    assert max(map(len, out.splitlines())) <= 80
    assert len(rows) == 8 and all("o" in row for row in rows)


def test_the_conclusion_says_what_happened(capsys):
    table = {title: (0.1 * i, 6.0, 0.1 * i) for i, title in enumerate(TITLES)}
    keys = "reward_ref reward_reinforce reward_ppo score_ppo reward_free score_free".split()
    history = {"history": [{"reward": 7.5}] * 5}
    script.report_conclusion(dict(zip(keys, (6.0, 7.0, 7.0, 0.7, -5.0, 3.0))), table, history)
    fooled = capsys.readouterr().out
    assert "reward fell to -5.00" in fooled and "as high as 7.50" in fooled
    script.report_conclusion(dict(zip(keys, (6.0, 7.0, 5.0, 0.7, 9.0, 3.0))), table, history)
    honest = capsys.readouterr().out
    assert "did not rise" in honest and "fell" not in honest
    assert max(map(len, (fooled + honest).splitlines())) <= 80
