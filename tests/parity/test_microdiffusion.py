"""microdiffusion against PyTorch, diffusers and scikit-learn: the same inputs, the same numbers."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from scipy.spatial.distance import cdist, pdist
from sklearn.mixture import GaussianMixture
from support import load_script

script = load_script("microdiffusion")
NUM_GUESSES = (5, 10, 40)


def close(ours, expected, tolerance: float = 1e-9) -> None:
    """Assert that every entry agrees to the tolerance times the largest."""
    ours = torch.as_tensor(ours, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= tolerance * max(1e-3, expected.abs().max())


# === THE NETWORK ===


def batch(seed: int):
    rng = random.Random(seed)
    clean, noise = script.ring_of_gaussians(16, rng), script.normal_noise(16, rng)
    levels = script.draw_levels(16, rng)
    return script.mix(clean, noise, levels), levels, script.subtract(noise, clean)


def torch_forward(weights: list[torch.Tensor], points, levels) -> torch.Tensor:
    x, t = torch.tensor(points, dtype=torch.float64), torch.tensor(levels, dtype=torch.float64)
    angles = [f * x for f in script.FREQUENCIES]
    angles += [f * t[:, None] for f in script.LEVEL_FREQUENCIES]
    angles = torch.cat(angles, 1)
    x = torch.cat([x, angles.sin(), angles.cos()], 1)
    x = F.silu(F.linear(x, weights[0], weights[1][0]))
    x = F.silu(F.linear(x, weights[2], weights[3][0]))
    return F.linear(x, weights[4], weights[5][0])


def both_networks(seed: int):
    layers = script.new_network(random.Random(seed))
    parameters = [p for layer in layers for p in layer]
    weights = [torch.tensor(p.data, dtype=torch.float64, requires_grad=True) for p in parameters]
    return layers, parameters, weights


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_guesses_loss_and_every_gradient(seed):
    layers, parameters, weights = both_networks(seed)
    points, levels, velocity = batch(seed)
    guess, expected = script.forward(layers, points, levels), torch_forward(weights, points, levels)
    close(guess.data, expected.detach(), 1e-12)
    loss = script.mse_loss(guess, velocity)
    expected_loss = F.mse_loss(expected, torch.tensor(velocity, dtype=torch.float64))
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-12)
    loss.backward()
    expected_loss.backward()
    for parameter, weight in zip(parameters, weights):
        close(parameter.grad, weight.grad, 1e-12)


def test_twenty_training_steps():
    layers, parameters, weights = both_networks(0)
    ours = script.Adam(parameters, script.ADAM_BETAS)
    theirs = torch.optim.Adam(weights, lr=script.LEARNING_RATE, betas=script.ADAM_BETAS)
    for step in range(20):
        points, levels, velocity = batch(step)
        loss = script.mse_loss(script.forward(layers, points, levels), velocity)
        loss.backward()
        ours.step(script.LEARNING_RATE)
        theirs.zero_grad()
        target = torch.tensor(velocity, dtype=torch.float64)
        expected = F.mse_loss(torch_forward(weights, points, levels), target)
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for parameter, weight in zip(parameters, weights):
        close(parameter.data, weight.detach())


# === THE SAMPLERS OF diffusers, ASKED FOR THE SAME GUESSES ===


def in_double(scheduler):
    """diffusers computes its alpha_bars in float32; give it the same in float64."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.betas, scheduler.alphas = betas, 1.0 - betas
    scheduler.alphas_cumprod = torch.cumprod(1.0 - betas, 0)
    one = torch.tensor(1.0, dtype=torch.float64)
    if hasattr(scheduler, "final_alpha_cumprod"):
        scheduler.final_alpha_cumprod = one
    scheduler.one = one
    return scheduler


def ddpm_path(scheduler, num_guesses: int, noise: torch.Tensor) -> torch.Tensor:
    """Draw with a scheduler of DDPM's kind and our best guess, turned into a guess of the noise."""
    scheduler.set_timesteps(num_guesses)
    alpha_bars = scheduler.alphas_cumprod
    alpha_bar = alpha_bars[scheduler.timesteps[0]]
    points = noise * (1.0 - alpha_bar).sqrt()  # as in draw_points: the share of the noise alone
    for k in scheduler.timesteps:
        signal, spread = alpha_bars[k].sqrt(), (1.0 - alpha_bars[k]).sqrt()
        ours, t = points / (signal + spread), (spread / (signal + spread)).item()
        velocity = script.best_guess(ours.tolist(), [t] * len(points))
        _, guessed_noise = script.split_guess(ours.tolist(), velocity, t)
        guessed_noise = torch.tensor(guessed_noise, dtype=torch.float64)
        points = scheduler.step(guessed_noise, k, points).prev_sample
    return points


@pytest.mark.parametrize("num_guesses", NUM_GUESSES)
def test_ddim(num_guesses):
    noise = script.normal_noise(20, random.Random(0))
    scheduler = in_double(DDIMScheduler(clip_sample=False, timestep_spacing="trailing"))
    levels = script.ddpm_levels(num_guesses)
    ours = script.draw_points(script.best_guess, levels, noise, None)[-1]
    close(ours, ddpm_path(scheduler, num_guesses, torch.tensor(noise, dtype=torch.float64)), 1e-8)


@pytest.mark.parametrize("num_guesses", NUM_GUESSES)
def test_ddpm(num_guesses, monkeypatch):
    noise = script.normal_noise(20, random.Random(0))
    rng = random.Random(7)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor",
        lambda *_, **__: torch.tensor(script.normal_noise(20, rng), dtype=torch.float64),
    )
    scheduler = in_double(
        DDPMScheduler(clip_sample=False, timestep_spacing="trailing", variance_type="fixed_small")
    )
    levels = script.ddpm_levels(num_guesses)
    ours = script.draw_points(script.best_guess, levels, noise, random.Random(7))[-1]
    close(ours, ddpm_path(scheduler, num_guesses, torch.tensor(noise, dtype=torch.float64)), 1e-8)


@pytest.mark.parametrize("num_guesses", NUM_GUESSES)
def test_flow(num_guesses):
    noise = script.normal_noise(20, random.Random(0))
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_guesses, num_guesses))
    scheduler.sigmas = torch.tensor(script.even_levels(num_guesses), dtype=torch.float64)
    points = torch.tensor(noise, dtype=torch.float64)
    path = script.draw_points(script.best_guess, script.even_levels(num_guesses), noise, None)
    assert len(scheduler.timesteps) == num_guesses
    for place, k in enumerate(scheduler.timesteps):
        t = scheduler.sigmas[place].item()
        velocity = torch.tensor(script.best_guess(points.tolist(), [t] * 20), dtype=torch.float64)
        points = scheduler.step(velocity, k, points).prev_sample.double()
        close(path[place + 1], points, 1e-5)  # the scheduler rounds to float32 in between


def test_ddpms_step_as_its_paper_writes_it():
    """Between neighbouring levels, with the sigma of the posterior: Ho et al., algorithm 2."""
    levels = script.ddpm_levels(1000)
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    alpha_bars = torch.cumprod(1.0 - betas, 0)
    rng = random.Random(1)
    for k in (2, 10, 300, 1000):
        alpha_bar, before, beta = alpha_bars[k - 1], alpha_bars[k - 2], betas[k - 1]
        x, noise, z = [torch.tensor(script.normal_noise(5, rng)).double() for _ in range(3)]
        sigma = ((1.0 - before) / (1.0 - alpha_bar) * beta).sqrt()
        mean = (x - beta / (1.0 - alpha_bar).sqrt() * noise) / (1.0 - beta).sqrt()
        expected = mean + sigma * z

        t, s = levels[1000 - k], levels[1000 - k + 1]
        weights = [(a.sqrt() + (1.0 - a).sqrt()).item() for a in (alpha_bar, before)]
        ours = x / weights[0]
        velocity = ((noise - ours) / (1.0 - t)).tolist()
        numbers = iter(z.flatten().tolist())

        class Given:
            def gauss(self, mean, spread, numbers=numbers):
                return mean + spread * next(numbers)

        stepped = script.denoise_step(ours.tolist(), velocity, t, s, Given())
        close([[v * weights[1] for v in row] for row in stepped], expected, 1e-9)


def test_adding_noise():
    scheduler = in_double(DDPMScheduler())
    levels = script.ddpm_levels(10)
    rng = random.Random(2)
    clean, noise = script.ring_of_gaussians(8, rng), script.normal_noise(8, rng)
    for i, k in enumerate(range(999, 0, -100)):
        expected = scheduler.add_noise(
            torch.tensor(clean, dtype=torch.float64),
            torch.tensor(noise, dtype=torch.float64),
            torch.tensor([k] * 8),
        )
        alpha_bar = scheduler.alphas_cumprod[k]
        total = (alpha_bar.sqrt() + (1.0 - alpha_bar).sqrt()).item()
        ours = script.mix(clean, noise, [levels[i]] * 8)
        close([[v * total for v in row] for row in ours], expected)


# === THE BEST GUESS AND THE MEASURES ===


@pytest.mark.parametrize("t", [0.05, 0.3, 0.6, 1.0])
def test_best_guess_by_autograd_of_the_log_density(t):
    rng = random.Random(3)
    rows = script.mix(script.ring_of_gaussians(30, rng), script.normal_noise(30, rng), [t] * 30)
    points = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    centers = torch.tensor(script.mode_centers(), dtype=torch.float64)
    spread = math.sqrt(((1.0 - t) * script.SIGMA) ** 2 + t * t)
    parts = torch.distributions.Independent(
        torch.distributions.Normal((1.0 - t) * centers, torch.full_like(centers, spread)), 1
    )
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(8, dtype=torch.float64)), parts
    )
    mixture.log_prob(points).sum().backward()
    _, noise = script.split_guess(rows, script.best_guess(rows, [t] * 30), t)
    close(noise, -t * points.grad)


def test_weights_of_the_modes():
    t, rng = 0.4, random.Random(4)
    points = script.normal_noise(20, rng)
    variance = ((1.0 - t) * script.SIGMA) ** 2 + t * t
    mixture = GaussianMixture(8, covariance_type="spherical")
    mixture.means_ = (1.0 - t) * np.array(script.mode_centers())
    mixture.weights_ = np.full(8, 1.0 / 8.0)
    mixture.covariances_ = np.full(8, variance)
    mixture.precisions_cholesky_ = 1.0 / np.sqrt(mixture.covariances_)
    ours = [script.mode_weights(p, t, script.mode_centers(), script.SIGMA) for p in points]
    close(ours, mixture.predict_proba(np.array(points)))


def test_energy_distance():
    rng = random.Random(5)
    a, b = script.ring_of_gaussians(30, rng), script.normal_noise(20, rng)
    expected = 2.0 * cdist(a, b).mean() - pdist(a).mean() - pdist(b).mean()
    assert script.energy_distance(a, b) == pytest.approx(expected, rel=1e-12)
