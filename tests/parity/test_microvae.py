"""microvae against PyTorch and scikit-learn: the same weights, images and noise, equal numbers."""

from __future__ import annotations

import math
import random

import pytest
import torch
import torch.nn.functional as F
from sklearn.naive_bayes import BernoulliNB
from support import load_script
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

script = load_script("microvae")
KEYS = tuple(vars(script.Autoencoder(random.Random(0))))
IMAGES = script.load_images()[0][:20]


def both_models(seed: int):
    """A model with all weights away from zero, and the same matrices as torch tensors."""
    rng = random.Random(seed)
    model = script.Autoencoder(rng)
    for parameter in model.parameters():
        parameter.data = [[x + rng.gauss(0.0, 0.1) for x in row] for row in parameter.data]
    weights = {key: tensor(getattr(model, key).data).requires_grad_() for key in KEYS}
    return model, weights


def tensor(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def torch_encode(weights, x):
    hidden = torch.tanh(F.linear(x, weights["encoder_in"], weights["encoder_in_bias"]))
    mean = F.linear(hidden, weights["to_mean"], weights["to_mean_bias"])
    return mean, F.linear(hidden, weights["to_log_variance"], weights["to_log_variance_bias"])


def torch_decode(weights, z):
    hidden = torch.tanh(F.linear(z, weights["decoder_in"], weights["decoder_in_bias"]))
    return F.linear(hidden, weights["decoder_out"], weights["decoder_out_bias"])


def torch_terms(weights, images, noise):
    """Reconstruction and KL of the negative ELBO, written with torch's own distributions."""
    x = tensor(images)
    mean, log_variance = torch_encode(weights, x)
    sigma = torch.exp(0.5 * log_variance)
    logits = torch_decode(weights, mean + sigma * tensor(noise))
    reconstruction = F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / len(images)
    prior = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return reconstruction, kl_divergence(Normal(mean, sigma), prior).sum() / len(images)


def terms(model, images, noise):
    mean, log_variance = model.encode(images)
    z = script.reparameterize(mean, log_variance, noise)
    return script.reconstruction_loss(model.decode(z), images), script.gaussian_kl(
        mean, log_variance
    )


def new_noise(seed: int, rows: int) -> list[list[float]]:
    rng = random.Random(seed)
    return [[rng.gauss(0.0, 1.0) for _ in range(2)] for _ in range(rows)]


@pytest.mark.parametrize("seed", range(3))
def test_the_negative_elbo_and_every_gradient(seed):
    model, weights = both_models(seed)
    noise = new_noise(seed, len(IMAGES))
    ours, theirs = terms(model, IMAGES, noise), torch_terms(weights, IMAGES, noise)
    for mine, other in zip(ours, theirs):
        assert mine.item() == pytest.approx(other.item(), rel=1e-12)
    (ours[0] + ours[1] * 0.7).backward()
    (theirs[0] + theirs[1] * 0.7).backward()
    for key in KEYS:
        close(getattr(model, key).grad, weights[key].grad)


def test_thirty_steps_of_training(monkeypatch, capsys):
    """train() itself against the same loop in torch, with warm-up, KL weight and falling rate."""
    module = load_script("microvae")
    monkeypatch.setattr(module, "NUM_STEPS", 30)
    batches, noises = [], []
    encode, reparameterize = module.Autoencoder.encode, module.reparameterize
    monkeypatch.setattr(
        module.Autoencoder, "encode", lambda self, x: (batches.append(x), encode(self, x))[1]
    )
    monkeypatch.setattr(
        module, "reparameterize", lambda m, v, e: (noises.append(e), reparameterize(m, v, e))[1]
    )
    rng = random.Random(5)
    model = module.Autoencoder(rng)
    weights = {key: tensor(getattr(model, key).data).requires_grad_() for key in KEYS}
    module.train(model, module.load_images()[0], True, rng)

    optimizer = torch.optim.Adam(weights.values())
    for step in range(30):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1.0 - step / 30)
        reconstruction, kl = torch_terms(weights, batches[step], noises[step])
        optimizer.zero_grad()
        (reconstruction + min(1.0, (step + 1) / 15) * kl).backward()
        optimizer.step()
    for key in KEYS:
        close(getattr(model, key).data, weights[key].detach())


def test_importance_weights(monkeypatch):
    module = load_script("microvae")
    model, weights = both_models(1)
    image = IMAGES[3]
    ours = module.importance_log_weights(model, image, random.Random(8))
    noise = tensor(new_noise(8, module.NUM_DRAWS))  # the same generator in the same order
    with torch.no_grad():
        mean, log_variance = torch_encode(weights, tensor([image]))
        q = Independent(Normal(mean[0], torch.exp(0.5 * log_variance[0])), 1)
        z = mean + torch.exp(0.5 * log_variance) * noise
        prior = Independent(Normal(torch.zeros(2).double(), torch.ones(2).double()), 1)
        likelihood = Independent(Bernoulli(logits=torch_decode(weights, z)), 1)
        theirs = likelihood.log_prob(tensor(image)) + prior.log_prob(z) - q.log_prob(z)
    close([ours], theirs[None])
    for k in (1, 5, 50):
        expected = (torch.logsumexp(theirs.view(-1, k), 1) - math.log(k)).mean().item()
        assert script.importance_weighted_bound(ours, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "prior", [script.STANDARD, ([0.5, -1.0], [[1.2, 0.0], [-0.4, 0.7]])], ids=["standard", "other"]
)
def test_exact_likelihoods(prior):
    """On the same grid to the last digits; on a finer and wider one to 0.001."""
    model, weights = both_models(2)
    ours = script.exact_log_likelihoods(model, IMAGES, prior, 0.2)
    close([ours], torch_exact(weights, prior, 0.2, 5.0)[None])
    finer = torch_exact(weights, prior, 0.1, 6.0)
    assert max(abs(a - b) for a, b in zip(ours, finer.tolist())) < 1e-3


def torch_exact(weights, prior, step, reach):
    """log p(x) on a grid in the plane of the codes' own coordinates."""
    centre, factor = map(tensor, prior)
    count = round(reach / step)
    axis = torch.arange(-count, count + 1, dtype=torch.float64) * step
    u = torch.cartesian_prod(axis, axis)
    z = u @ factor.T + centre
    density = torch.distributions.MultivariateNormal(centre, scale_tril=factor)
    log_area = 2.0 * math.log(step) + factor.logdet()
    with torch.no_grad():
        likelihood = Bernoulli(logits=torch_decode(weights, z)[:, None])
        joint = likelihood.log_prob(tensor(IMAGES)).sum(-1) + density.log_prob(z)[:, None]
        return torch.logsumexp(joint + log_area, 0)


def test_the_fitted_gaussian():
    rng = random.Random(0)
    codes = [[rng.gauss(1.0, 2.0), rng.gauss(-1.0, 0.5)] for _ in range(100)]
    centre, factor = script.fit_gaussian(codes)
    covariance = torch.cov(tensor(codes).T, correction=0)
    close([centre], tensor(codes).mean(0)[None])
    close(factor, torch.linalg.cholesky(covariance))


def test_independent_pixels_are_naive_bayes_with_one_class():
    training, held_out = script.load_images()
    naive = BernoulliNB(alpha=1.0).fit(training, [0] * len(training))
    expected = -naive.predict_joint_log_proba(held_out).mean()
    assert script.independent_pixels_nll(training, held_out) == pytest.approx(expected, rel=1e-9)


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = tensor(rows)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())
