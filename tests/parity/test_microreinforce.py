"""microreinforce against Gymnasium, PyTorch and numpy."""

from __future__ import annotations

import random

import gymnasium
import numpy as np
import pytest
import torch
from support import load_script

script = load_script("microreinforce")
KEYS = tuple(vars(script.Policy(random.Random(0))))


@pytest.fixture(scope="module")
def world():
    made = gymnasium.make("CartPole-v1")
    made.reset(seed=0)
    yield made
    made.close()


def test_the_cart_moves_as_gymnasiums(world):
    rng = random.Random(0)
    inner = world.unwrapped
    falls = 0
    for _ in range(1000):
        # Around all limits: 2.4 m and 0.2095 rad.
        state = tuple([rng.uniform(-limit, limit) for limit in (2.5, 3.0, 0.22, 3.0)])
        for action in (0, 1):
            world.reset()
            inner.state = np.array(state, dtype=np.float64)
            # What step() returns is rounded to float32; the state itself is not.
            _, reward, terminated, truncated, _ = world.step(action)
            ours, fallen = script.cartpole_step(state, action)
            assert ours == pytest.approx(tuple(map(float, inner.state)), rel=1e-12, abs=1e-12)
            assert (fallen, reward, truncated) == (terminated, 1.0, False)
            falls += fallen
    assert 100 < falls < 1900


def steady(state):
    """A rule made by hand: push to where the pole is falling. It lasts for the whole time."""
    position, velocity, angle, turning = state
    return int(0.1 * position + 0.3 * velocity + 5.0 * angle + turning > 0.0)


@pytest.mark.parametrize("first", [(0.01, -0.02, 0.03, 0.04), (-0.05, 0.05, -0.05, 0.05)])
def test_a_whole_episode_up_to_the_time_limit(world, first):
    world.reset()
    world.unwrapped.state = np.array(first, dtype=np.float64)
    state, done, steps = first, False, 0
    while not done:
        action = steady(state)
        _, _, terminated, truncated, _ = world.step(action)
        state, fallen = script.cartpole_step(state, action)
        steps += 1
        assert state == pytest.approx(tuple(map(float, world.unwrapped.state)), abs=1e-12)
        # A pole is unstable: a difference in the last digit would double every 9 steps.
        world.unwrapped.state = np.array(state, dtype=np.float64)
        assert fallen == terminated
        done = terminated or truncated
    assert truncated and steps == script.MAX_STEPS


def torch_log_probs(weights, episodes):
    states = torch.tensor(
        [[x, v, 5.0 * angle, turning] for e in episodes for x, v, angle, turning in e.states],
        dtype=torch.float64,
    )
    hidden = torch.tanh(
        torch.nn.functional.linear(states, weights["weight_in"], weights["bias_in"][0])
    )
    logits = torch.nn.functional.linear(hidden, weights["weight_out"], weights["bias_out"][0])
    actions = torch.tensor([action for e in episodes for action in e.actions])
    return torch.distributions.Categorical(logits=logits).log_prob(actions)


def torch_weights(policy):
    return {
        key: torch.tensor(getattr(policy, key).data, dtype=torch.float64, requires_grad=True)
        for key in KEYS
    }


@pytest.mark.parametrize("arm", script.ARMS)
def test_loss_gradient_and_adams_steps(arm):
    """Five updates, each on fresh episodes: loss, gradients and weights agree to 1e-9."""
    rng = random.Random(0)
    policy = script.Policy(rng)
    policy.weight_out.data = [[10.0 * x for x in row] for row in policy.weight_out.data]
    weights = torch_weights(policy)
    ours = script.Adam(policy.parameters(), script.BETAS)
    theirs = torch.optim.Adam(weights.values(), lr=0.03, betas=script.BETAS)
    for _ in range(5):
        episodes = script.play(policy, 8, rng)
        factors = script.step_weights(episodes, *script.ARMS[arm])
        loss = script.policy_gradient_loss(policy, episodes, factors) * (1.0 / len(factors))
        log_probs = torch_log_probs(weights, episodes)
        expected = -(log_probs * torch.tensor(factors, dtype=torch.float64)).mean()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
        loss.backward()
        theirs.zero_grad()
        expected.backward()
        for key in KEYS:
            close(getattr(policy, key).grad, weights[key].grad)
        ours.step(0.03)
        theirs.step()
        for key in KEYS:
            close(getattr(policy, key).data, weights[key].detach())


def test_the_weights_are_what_torch_makes_of_them():
    lengths = (3, 9, 5)
    episodes = [script.Episode([], [], [1.0] * n) for n in lengths]
    to_go = torch.cat(
        [torch.ones(n, dtype=torch.float64).flip(0).cumsum(0).flip(0) for n in lengths]
    )
    centered = to_go - to_go.mean()
    ours = script.step_weights(episodes, *script.ARMS["reward-to-go - mean"])
    # Centered, the root mean square is the standard deviation.
    assert ours == pytest.approx((centered / to_go.std(correction=0)).tolist(), abs=1e-12)


def test_noise_signal_and_the_best_constant():
    policy = script.Policy(random.Random(0))
    episodes = script.play(policy, 30, random.Random(1))
    returns = [script.total_return(episode.rewards) for episode in episodes]
    rows = script.episode_gradients(policy, episodes, returns)
    score = script.episode_gradients(policy, episodes, [[1.0] * len(row) for row in returns])
    a, s = np.array(rows), np.array(score)
    noise = a.var(axis=0, ddof=1).sum()
    assert script.covariance(rows, rows) == pytest.approx(noise, rel=1e-9)
    signal = (a.mean(axis=0) ** 2).sum() - noise / len(a)
    assert script.squared_mean(rows) == pytest.approx(signal, rel=1e-9)
    # The best constant is the slope of the least-squares line through all (score, gradient).
    x, y = (s - s.mean(axis=0)).ravel(), (a - a.mean(axis=0)).ravel()
    slope = np.linalg.lstsq(x[:, None], y, rcond=None)[0][0]
    ours = script.covariance(rows, score) / script.covariance(score, score)
    assert ours == pytest.approx(slope, rel=1e-9)


def test_gradients_of_single_episodes_are_torchs():
    policy = script.Policy(random.Random(2))
    weights = torch_weights(policy)
    episodes = script.play(policy, 5, random.Random(3))
    weights_of = [script.reward_to_go(episode.rewards) for episode in episodes]
    rows = script.episode_gradients(policy, episodes, weights_of)
    for episode, given, row in zip(episodes, weights_of, rows):
        to_go = torch.tensor(given, dtype=torch.float64)
        value = (torch_log_probs(weights, [episode]) * to_go).sum()
        parts = torch.autograd.grad(value, list(weights.values()))
        close([row], torch.cat([part.flatten() for part in parts])[None, :])


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())
