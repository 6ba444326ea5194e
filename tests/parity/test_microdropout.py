"""microdropout against PyTorch, scikit-learn and SciPy: the same inputs, the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy, sem, ttest_rel
from sklearn.metrics import accuracy_score, log_loss
from support import load_script

script = load_script("microdropout")


def close(ours, expected, tolerance: float = 1e-9) -> None:
    """Assert that every entry agrees to the tolerance times the largest."""
    ours = torch.as_tensor(ours, dtype=torch.float64)
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert ours.shape == expected.shape
    assert (ours - expected).abs().max() <= tolerance * max(1e-3, expected.abs().max())


class Replay:
    """Gives the mask of a torch tensor: random() is 0 where a number was dropped."""

    def __init__(self, kept: torch.Tensor) -> None:
        self.kept = iter(kept.flatten().tolist())

    def random(self) -> float:
        return 0.999 if next(self.kept) else 0.0


def numbers(seed: int, rows: int, columns: int):
    rng = random.Random(seed)
    return [[rng.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(rows)]


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_with_torchs_own_mask(p):
    torch.manual_seed(0)
    rows, d_out = numbers(0, 20, 64), numbers(1, 20, 64)
    theirs = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    expected = F.dropout(theirs, p, training=True)
    ours = script.Tensor(rows)
    out = script.dropout(ours, p, Replay(expected != 0.0))
    close(out.data, expected.detach(), 1e-12)
    out.backward(d_out)
    expected.backward(torch.tensor(d_out, dtype=torch.float64))
    close(ours.grad, theirs.grad, 1e-12)


class Masked(torch.nn.Module):
    """Dropout with masks drawn as the script draws them, from the same kind of generator."""

    def __init__(self, p: float, seed: int) -> None:
        super().__init__()
        self.p, self.masks = p, random.Random(seed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0:
            return x
        kept = [[self.masks.random() >= self.p for _ in row] for row in x]
        return x * torch.tensor(kept, dtype=x.dtype) / (1.0 - self.p)


def both_networks(p: float, seed: int):
    model = script.new_network(random.Random(seed))
    theirs = torch.nn.Sequential(
        torch.nn.Linear(64, script.NUM_HIDDEN),
        torch.nn.ReLU(),
        Masked(p, seed + 1),
        torch.nn.Linear(script.NUM_HIDDEN, 10),
    ).double()
    with torch.no_grad():
        for parameter, matrix in zip(theirs.parameters(), model.parameters()):
            values = torch.tensor(matrix.data, dtype=torch.float64)
            parameter.copy_(values.reshape(parameter.shape))
    return model, theirs


@pytest.mark.parametrize("settings", [*script.ARMS.values(), (0.003, 0.3, 0.2)])
def test_fifty_steps_of_each_kind_of_training(settings):
    rate, p, weight_decay = settings
    model, theirs = both_networks(p, 0)
    masks = random.Random(1)
    ours = script.AdamW(model.parameters(), script.BETAS, weight_decay=weight_decay)
    optimizer = torch.optim.AdamW(
        theirs.parameters(), lr=rate, betas=script.BETAS, weight_decay=weight_decay
    )
    rng = random.Random(2)
    for _ in range(50):
        images = [[rng.random() for _ in range(64)] for _ in range(10)]
        labels = [rng.randrange(10) for _ in range(10)]
        loss = script.cross_entropy(model.forward(images, p, masks), labels)
        loss.backward()
        logits = theirs(torch.tensor(images, dtype=torch.float64))
        expected = F.cross_entropy(logits, torch.tensor(labels))
        optimizer.zero_grad()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        ours.step(rate)
        optimizer.step()
    for matrix, parameter in zip(model.parameters(), theirs.parameters()):
        close(matrix.data, parameter.detach().reshape(len(matrix.data), -1))
    theirs.eval()
    close(model.forward(images).data, theirs(torch.tensor(images, dtype=torch.float64)).detach())


def test_the_script_trains_as_torch_does():
    """train() itself, on a few digits: the validation losses of every epoch that is looked at."""
    small = load_script("microdropout")
    small.NUM_ROWS, small.NUM_EPOCHS, small.BATCH_SIZE = 30, 9, 10
    rng = random.Random(5)
    images = [[rng.random() for _ in range(64)] for _ in range(40)]
    labels = [rng.randrange(10) for _ in range(40)]
    training = small.Examples(images[:30], labels[:30], labels[:30])
    validation = small.Examples(images[30:], labels[30:], labels[30:])
    curve = small.train("dropout", training, validation, (7, 8)).curve

    rate, p, weight_decay = small.ARMS["dropout"]
    _, theirs = both_networks(p, 7)  # masks from seed 8
    order_rng = random.Random(7)
    small.new_network(order_rng)
    optimizer = torch.optim.AdamW(
        theirs.parameters(), lr=rate, betas=small.BETAS, weight_decay=weight_decay
    )
    x, y = torch.tensor(images, dtype=torch.float64), torch.tensor(labels)
    expected = []
    for epoch in range(1, 10):
        theirs.train()
        order = order_rng.sample(range(30), 30)
        for batch in (order[:10], order[10:20], order[20:]):
            optimizer.zero_grad()
            F.cross_entropy(theirs(x[batch]), y[batch]).backward()
            optimizer.step()
        if epoch % small.CHECK_EVERY == 0:
            theirs.eval()
            expected.append(F.cross_entropy(theirs(x[30:]), y[30:]).item())
    assert curve == pytest.approx(expected, rel=1e-9)


def test_scores():
    logits = numbers(3, 50, 10)
    labels = [random.Random(i).randrange(10) for i in range(50)]
    loss, accuracy = script.score(logits, labels)
    answers = torch.tensor(logits, dtype=torch.float64).softmax(1).numpy()
    assert loss == pytest.approx(log_loss(labels, answers, labels=range(10)), rel=1e-9)
    assert accuracy == accuracy_score(labels, answers.argmax(1))


def test_means_of_passes():
    passes = [numbers(seed, 6, 10) for seed in range(8)]
    answers = torch.tensor(passes, dtype=torch.float64).log_softmax(2)
    geometric = answers.mean(0).log_softmax(1)
    arithmetic = answers.exp().mean(0).log()
    for ours, expected in (
        (script.geometric_mean(passes), geometric),
        (script.arithmetic_mean(passes), arithmetic),
    ):
        close(torch.tensor(ours, dtype=torch.float64).log_softmax(1), expected)


def test_the_paired_difference_is_that_of_a_paired_t_test():
    a, b = [0.71, 0.66, 0.70, 0.81], [0.74, 0.72, 0.71, 0.80]
    mean, error = script.paired_difference(a, b)
    assert error == pytest.approx(sem([x - y for x, y in zip(a, b)]), rel=1e-9)
    assert mean / error == pytest.approx(ttest_rel(a, b).statistic, rel=1e-9)


@pytest.mark.parametrize("wrong", [0.0, 0.2, 0.7])
def test_the_perfect_readers_loss_is_an_entropy(wrong):
    q = [1.0 - wrong + wrong / 10.0] + [wrong / 10.0] * 9
    assert script.honest_loss(wrong) == pytest.approx(entropy(q), rel=1e-12)
