"""microreinforce: what its run must reach, what must break it, and the properties behind it."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from math import exp

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # One subtraction decides it.
    "return_total_mean - return_total >= 80",
    "return_to_go_step - return_total >= 80",
    # The noise at one fixed policy: by how much the total return is worse than the best weight.
    "noise_ratio >= 5",
    # ... and once episodes are long: a mean for each step against one mean for all steps.
    "half_share <= 0.95",
)

original = load_script("microreinforce")
total_return, reward_to_go = original.total_return, original.reward_to_go


def rewards_so_far(rewards):
    """The wrong way round: for each step the sum of its own reward and all earlier ones."""
    return list(itertools.accumulate(rewards))


def unscaled_weights(episodes, credit, baseline):
    """The weights as they are, as large as the returns."""
    rows = [credit(episode.rewards) for episode in episodes]
    expected = baseline(rows)
    return [weight - b for row in rows for weight, b in zip(row, expected)]


def wrong_arms():
    """Where the script has reward-to-go, the rewards so far."""
    changed = {reward_to_go: rewards_so_far}
    return {
        name: (changed.get(credit, credit), baseline)
        for name, (credit, baseline) in original.ARMS.items()
    }


VARIANTS = {
    "low_rate": {"LEARNING_RATE": 0.01},
    "high_rate": {"LEARNING_RATE": 0.1},
    "unscaled": {"step_weights": unscaled_weights},
    "wrong_way": {"ARMS": wrong_arms()},
    # The mean of one episode's return is this return: every weight is 0.
    "one_episode": {"BATCH_EPISODES": 1},
}

TWINS = {
    "one_episode": "return_total_mean - return_total >= 80",
    "wrong_way": "return_to_go_step - return_total >= 80",
}

SMALL = {
    "TRAINING_STEPS": 500,
    "NUM_RUNS": 1,
    "NUM_SAMPLES": 150,
    "NUM_HALF_SAMPLES": 40,
    "NUM_TEST": 2,
}

script = load_script("microreinforce")
REWARDS = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)
STATES = st.tuples(
    st.floats(-2.4, 2.4), st.floats(-3.0, 3.0), st.floats(-0.21, 0.21), st.floats(-3.0, 3.0)
)


def episodes_of(policy, count, seed=0):
    return script.play(policy, count, random.Random(seed))


# === THE TASK ===


@settings(deadline=None)
@given(STATES, st.sampled_from([0, 1]))
def test_left_and_right_are_mirror_images(state, action):
    mirrored = tuple([-value for value in state])
    there, fallen = script.cartpole_step(state, action)
    back, also_fallen = script.cartpole_step(mirrored, 1 - action)
    assert back == pytest.approx([-value for value in there], abs=1e-12)
    assert fallen == also_fallen


def test_a_push_to_the_right_moves_the_cart_right_and_the_pole_left():
    (position, velocity, angle, turning), fallen = script.cartpole_step((0.0, 0.0, 0.0, 0.0), 1)
    assert position == angle == 0.0  # Euler: places follow the speeds of the step before
    assert velocity > 0.0 > turning
    assert not fallen


@pytest.mark.parametrize(
    ("state", "fallen"),
    [
        ((2.39, 0.0, 0.0, 0.0), False),
        ((2.41, 0.0, 0.0, 0.0), True),
        ((-2.41, 0.0, 0.0, 0.0), True),
        ((0.0, 0.0, math.radians(11.9), 0.0), False),
        ((0.0, 0.0, math.radians(12.1), 0.0), True),
        ((0.0, 0.0, math.radians(-12.1), 0.0), True),
    ],
)
def test_where_an_episode_ends(state, fallen):
    assert script.cartpole_step(state, 1)[1] is fallen


def test_an_episode_is_what_its_actions_make_of_its_first_state(monkeypatch):
    monkeypatch.setattr(script, "MAX_STEPS", 25)
    episodes = episodes_of(script.Policy(random.Random(1)), 12)
    assert len(episodes) == 12
    lengths = {len(episode.rewards) for episode in episodes}
    assert 25 in lengths and min(lengths) < 25  # some are cut, some fall
    for states, actions, rewards in episodes:
        assert len(states) == len(actions) == len(rewards)
        assert set(rewards) == {1.0} and set(actions) <= {0, 1}
        assert all([abs(value) <= 0.05 for value in states[0]])
        steps = [script.cartpole_step(*pair) for pair in zip(states, actions)]
        assert [state for state, _ in steps[:-1]] == states[1:]
        assert not any([fallen for _, fallen in steps[:-1]])
        assert steps[-1][1] or len(rewards) == 25


def test_actions_are_drawn_with_the_networks_probabilities():
    policy = script.Policy(random.Random(0))
    policy.weight_out.data = [[0.0] * script.HIDDEN] * 2
    policy.bias_out.data = [[0.0, math.log(3.0)]]  # right with probability 3/4
    actions = [a for episode in episodes_of(policy, 200) for a in episode.actions]
    assert sum(actions) / len(actions) == pytest.approx(0.75, abs=0.04)


def test_who_always_pushes_right_holds_the_pole_for_some_nine_steps():
    policy = script.Policy(random.Random(0))
    policy.bias_out.data = [[-1e3, 1e3]]
    assert 8.5 <= script.mean_return(episodes_of(policy, 50)) <= 10.5


def test_the_same_seed_plays_the_same_episodes():
    policy = script.Policy(random.Random(3))
    assert episodes_of(policy, 5, 1) == episodes_of(policy, 5, 1)
    assert episodes_of(policy, 5, 1) != episodes_of(policy, 5, 2)


# === THE WEIGHTS ===


@given(REWARDS)
def test_total_return_is_past_and_reward_to_go(rewards):
    past = [0.0, *rewards_so_far(rewards)[:-1]]
    to_go = script.reward_to_go(rewards)
    assert [a + b for a, b in zip(past, to_go)] == script.total_return(rewards)
    assert to_go[-1] == rewards[-1]


def test_reward_to_go_of_ones_counts_down():
    assert script.reward_to_go([1.0] * 5) == [5.0, 4.0, 3.0, 2.0, 1.0]


def pretend(lengths):
    """Episodes of these lengths in which nothing is known but the rewards."""
    return [script.Episode([], [], [1.0] * length) for length in lengths]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.sampled_from(list(script.ARMS)))
def test_weights_have_a_root_mean_square_of_one(lengths, arm):
    weights = script.step_weights(pretend(lengths), *script.ARMS[arm])
    assert len(weights) == sum(lengths)
    square = sum([weight * weight for weight in weights]) / len(weights)
    assert square == pytest.approx(1.0) or not any(weights)
    if arm == "total return":
        assert min(weights) > 0.0  # whatever was done is made more likely
    else:
        assert sum(weights) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(1, 40), st.integers(1, 8))
def test_equal_episodes_teach_nothing_unless_one_mean_serves_all_steps(length, count):
    batch = pretend([length] * count)
    for name in ("total return - mean", "reward-to-go - step's mean"):
        assert not any(script.step_weights(batch, *script.ARMS[name]))
    weights = script.step_weights(batch, *script.ARMS["reward-to-go - mean"])
    assert any(weights) == (length > 1)


@given(st.lists(REWARDS, min_size=1, max_size=6))
def test_the_baselines_are_means(rows):
    every = [value for row in rows for value in row]
    assert script.no_baseline(rows) == [0.0] * script.MAX_STEPS
    assert script.mean_of_all(rows)[0] == pytest.approx(statistics.mean(every), abs=1e-12)
    by_step = script.mean_of_each_step(rows)
    assert len(by_step) == script.MAX_STEPS
    longest = max(map(len, rows))
    for step in range(longest):
        reached = [row[step] for row in rows if len(row) > step]
        assert by_step[step] == pytest.approx(statistics.mean(reached), abs=1e-12)
    assert not any(by_step[longest:])


def test_batches_that_all_reach_the_limit_teach_nothing_by_their_total_return():
    policy = script.Policy(random.Random(0))
    weights = script.step_weights(pretend([7, 7, 7]), *script.ARMS["total return - mean"])
    assert weights == [0.0] * 21
    states = [(0.0, 0.0, 0.01 * k, 0.0) for k in range(21)]
    episodes = [script.Episode(states, [0, 1, 1] * 7, [1.0] * 21)]
    script.policy_gradient_loss(policy, episodes, weights).backward()
    before = [p.data for p in policy.parameters()]
    script.Adam(policy.parameters()).step(0.03)
    assert [p.data for p in policy.parameters()] == before  # and no division by zero


def test_the_worked_example():
    gradients = {"return": (10 * -0.5, 12 * 0.5), "return - 11": (-1 * -0.5, 1 * 0.5)}
    means = {name: statistics.mean(pair) for name, pair in gradients.items()}
    assert means == {"return": 0.5, "return - 11": 0.5}
    assert statistics.pvariance(gradients["return"]) == 30.25
    assert statistics.pvariance(gradients["return - 11"]) == 0.0


# === THE GRADIENT ===


class TablePolicy:
    """A policy for two states, with a pair of logits for each: forward() looks them up."""

    def __init__(self, logits):
        self.logits = script.Tensor(logits)

    def parameters(self):
        return [self.logits]

    def forward(self, states):
        # The logits are [state][action], linear wants [action][state]: so there are two of one row.
        one_hot = script.Tensor(
            [[float(s == k) for k in (0, 1)] for s in states], requires_grad=False
        )
        return script.linear(one_hot, self.logits)


THETA = [[0.3, -0.7], [-0.2, 0.9]]  # [action][state]
REWARD = {(0, 0): 1.0, (0, 1): -2.0, (1, 0): 0.5, (1, 1): 3.0}  # (state, action)
GO_TO_1 = {(0, 0): 0.2, (0, 1): 0.7, (1, 0): 0.9, (1, 1): 0.4}  # probability of state 1 next


def all_episodes(theta, length=3):
    """Every episode of the small world that is possible, and how likely it is."""
    for start in (0, 1):
        for choices in itertools.product((0, 1), repeat=2 * length):
            actions, nexts = choices[:length], choices[length:]
            states = [start, *nexts[:-1]]
            if nexts[-1] == 1:
                continue  # the state after the last action makes no difference
            probability = 0.5
            for t, (state, action) in enumerate(zip(states, actions)):
                logits = [theta[0][state], theta[1][state]]
                probability *= exp(logits[action]) / sum(map(exp, logits))
                if t < length - 1:
                    to_1 = GO_TO_1[state, action]
                    probability *= to_1 if nexts[t] == 1 else 1.0 - to_1
            rewards = [REWARD[pair] for pair in zip(states, actions)]
            yield script.Episode(states, list(actions), rewards), probability


def expected_return(theta):
    return sum([p * sum(episode.rewards) for episode, p in all_episodes(theta)])


def exact_gradient(width=1e-5):
    """The slope of the expected return in each of the four logits."""
    slopes = []
    for i, j in itertools.product((0, 1), repeat=2):
        ends = []
        for sign in (1, -1):
            moved = [list(row) for row in THETA]
            moved[i][j] += sign * width
            ends.append(expected_return(moved))
        slopes.append((ends[0] - ends[1]) / (2 * width))
    return slopes


def expected_gradient(weigh):
    """The mean of the estimator over all episodes: weigh(episode) gives its weights."""
    policy, total = TablePolicy(THETA), [0.0] * 4
    for episode, probability in all_episodes(THETA):
        script.policy_gradient_loss(policy, [episode], weigh(episode)).backward()
        flat = [value for row in policy.logits.grad for value in row]
        total = [t - probability * value for t, value in zip(total, flat)]
        policy.logits.grad = None
    return total


def minus(credit, baseline):
    """credit(rewards) minus baseline(t, state, action)."""

    def weigh(episode):
        steps = zip(itertools.count(), episode.states, episode.actions)
        return [w - baseline(*step) for w, step in zip(credit(episode.rewards), steps)]

    return weigh


RIGHT_WEIGHTS = {
    "total": minus(total_return, lambda t, s, a: 0.0),
    "total - constant": minus(total_return, lambda t, s, a: 2.5),
    "to go": minus(reward_to_go, lambda t, s, a: 0.0),
    "to go - constant": minus(reward_to_go, lambda t, s, a: 1.7),
    "to go - b(t)": minus(reward_to_go, lambda t, s, a: 4.0 - t),
    "to go - b(state)": minus(reward_to_go, lambda t, s, a: 3.0 * s - 1.0),
}
WRONG_WEIGHTS = {
    "a baseline that sees the action": minus(reward_to_go, lambda t, s, a: 1.0 * a),
    "rewards so far": minus(rewards_so_far, lambda t, s, a: 0.0),
    "no weight": lambda episode: [1.0] * len(episode.rewards),
}


def test_the_small_worlds_episodes_are_all():
    assert sum([p for _, p in all_episodes(THETA)]) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", RIGHT_WEIGHTS)
def test_every_weight_has_the_gradient_of_the_return_as_its_expectation(name):
    assert expected_gradient(RIGHT_WEIGHTS[name]) == pytest.approx(exact_gradient(), abs=1e-9)


def test_all_weights_have_one_expectation_to_the_last_digits():
    first, *others = [expected_gradient(weigh) for weigh in RIGHT_WEIGHTS.values()]
    for other in others:
        assert other == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_what_sees_the_action_or_the_wrong_rewards_has_another_expectation(name):
    difference = [a - b for a, b in zip(expected_gradient(WRONG_WEIGHTS[name]), exact_gradient())]
    assert max(map(abs, difference)) > 0.05


def test_the_score_has_expectation_zero():
    assert expected_gradient(WRONG_WEIGHTS["no weight"]) == pytest.approx([0.0] * 4, abs=1e-12)


def test_the_loss_has_the_gradient_of_central_differences():
    policy = script.Policy(random.Random(0))
    (episode, *_) = episodes_of(policy, 1)
    weights = [random.Random(1).uniform(-2.0, 2.0) for _ in episode.rewards]
    keys = list(vars(policy))

    def loss(*parameters):
        other = script.Policy(random.Random(0))
        vars(other).update(zip(keys, parameters))
        return script.policy_gradient_loss(other, [episode], weights)

    check_gradients(loss, *[p.data for p in policy.parameters()], tensor=script.Tensor)


def test_the_gradient_of_a_batch_is_the_sum_of_its_episodes():
    policy = script.Policy(random.Random(0))
    episodes = episodes_of(policy, 6)
    to_go = [reward_to_go(episode.rewards) for episode in episodes]
    rows = script.episode_gradients(policy, episodes, to_go)
    assert all([p.grad is None for p in policy.parameters()])
    weights = [w for row in to_go for w in row]
    script.policy_gradient_loss(policy, episodes, weights).backward()
    whole = [-value for p in policy.parameters() for row in p.grad for value in row]
    assert [sum(column) for column in zip(*rows)] == pytest.approx(whole, abs=1e-9)


def test_a_baseline_takes_away_so_many_scores():
    policy = script.Policy(random.Random(0))
    episodes = episodes_of(policy, 4)
    to_go = [reward_to_go(episode.rewards) for episode in episodes]
    plain = script.episode_gradients(policy, episodes, to_go)
    score = script.episode_gradients(policy, episodes, [[1.0] * len(row) for row in to_go])
    direct = script.episode_gradients(policy, episodes, [[w - 7.0 for w in row] for row in to_go])
    for ours, expected in zip(script.subtract(plain, score, 7.0), direct):
        assert ours == pytest.approx(expected, abs=1e-9)


# === MEASURING ===

VECTORS = st.lists(
    st.lists(st.integers(-9, 9).map(float), min_size=3, max_size=3), min_size=3, max_size=8
)


@given(VECTORS)
def test_noise_is_the_sum_of_the_variances(rows):
    expected = sum([statistics.variance(column) for column in zip(*rows)])
    assert script.covariance(rows, rows) == pytest.approx(expected, abs=1e-9)


@given(VECTORS)
def test_the_signal_is_the_mean_product_of_two_different_samples(rows):
    """So its expectation is the true mean times itself: noise adds nothing."""
    pairs = list(itertools.permutations(rows, 2))
    products = [sum([x * y for x, y in zip(*pair)]) for pair in pairs]
    assert script.squared_mean(rows) == pytest.approx(statistics.mean(products), abs=1e-9)


@given(VECTORS, st.floats(-5.0, 5.0))
def test_no_constant_is_better_than_the_best(rows, other):
    scores = [[x + 0.3 * k for k, x in enumerate(row[::-1])] for row in rows]
    scores[0] = [x + 20.0 for x in scores[0]]
    best = script.covariance(rows, scores) / script.covariance(scores, scores)
    least, more = [script.subtract(rows, scores, b) for b in (best, best + other)]
    assert script.covariance(least, least) <= script.covariance(more, more) + 1e-6


def test_the_mean_is_less_noisy_than_nothing_and_the_best_constant_than_the_mean():
    noise = script.measure_noise(script.Policy(random.Random(5)), 300, random.Random(6))
    for name in ("total return", "reward-to-go"):
        plain, mean, best = [noise[name + end][0] for end in ("", " - mean", " - best constant")]
        assert plain > 1.3 * mean and mean >= best
    signal = noise["reward-to-go - mean"][1]
    for part in (script.PAST, script.MEAN):
        variance, left = noise[part]
        assert variance > 1000.0 and abs(left) < 0.2 * signal


def test_the_wrong_half_of_the_rewards_holds_the_signal(monkeypatch):
    broken = load_script("microreinforce")
    monkeypatch.setattr(broken, "reward_to_go", rewards_so_far)
    noise = broken.measure_noise(broken.Policy(random.Random(5)), 300, random.Random(6))
    # Now it is the true rewards-to-go that are called the past, and they hold the signal.
    assert noise[broken.PAST][1] > 0.5 * noise["total return"][1]
    assert noise["reward-to-go - mean"][1] < 0.2 * noise["total return"][1]


def test_without_any_baseline_or_causality_the_noise_stays():
    broken = {"reward_to_go": total_return, "mean_of_each_step": script.no_baseline}
    few = {**SMALL, "HALF_STEPS": 100, "NUM_HALF_SAMPLES": 4}
    twin("microreinforce", "noise_ratio >= 5", broken, few)


def test_one_mean_for_all_steps_is_not_a_mean_for_each():
    # With a low time limit most episodes of the half-trained policy are equally long.
    few = {**SMALL, "NUM_SAMPLES": 8, "MAX_STEPS": 60}
    broken = {"mean_of_each_step": script.mean_of_all}
    twin("microreinforce", "half_share <= 0.95", broken, few)


# === TRAINING ===


def trained(module, num_steps=6000):
    """Steps that the pole is held (before, after) a training, and its history."""
    rng = random.Random(0)
    policy = module.Policy(rng)
    before = module.mean_return(module.play(policy, 20, rng))
    history = module.train(policy, "reward-to-go - step's mean", num_steps, rng)
    return before, module.mean_return(module.play(policy, 20, rng)), history


def test_training_holds_the_pole_longer():
    before, after, history = trained(script)
    assert after > 3.0 * before
    assert history[-1][0] >= 6000 > history[-2][0]


def wrong_sign(policy, episodes, weights):
    """Actions that were good become less likely."""
    return original.policy_gradient_loss(policy, episodes, [-weight for weight in weights])


@pytest.mark.parametrize("change", [{"policy_gradient_loss": wrong_sign}, VARIANTS["wrong_way"]])
def test_the_wrong_sign_or_the_wrong_half_unlearns(change, monkeypatch):
    broken = load_script("microreinforce")
    for name, value in change.items():
        monkeypatch.setattr(broken, name, value)
    before, after, _ = trained(broken, 3000)
    assert after < 1.5 * before


# === PICTURES ===


@given(STATES)
def test_a_frame_is_always_of_one_width(state):
    frame = script.draw_frame(state)
    assert len(frame) == 29
    assert frame.count("[") == frame.count("]") == 1
