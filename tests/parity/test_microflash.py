"""microflash against PyTorch: the same queries, keys and values give the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microflash")


def both(length: int, seed: int = 0, stretch: float = 1.0):
    """q, k, v, d_out as lists, and as torch tensors [1][1][N][d] that want gradients."""
    problem = script.new_problem(length, random.Random(seed))
    problem[0] = script.scaled(problem[0], stretch)
    tensors = [torch.tensor(x, dtype=torch.float64)[None, None] for x in problem]
    for tensor in tensors[:3]:
        tensor.requires_grad_()
    return problem, tensors


def close(rows, expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-12 of the largest (or of 1)."""
    ours = torch.tensor(rows, dtype=torch.float64)
    expected = expected.detach().reshape(ours.shape)
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-12 * max(1.0, expected.abs().max().item())


CASES = [(n, block) for n in (1, 7, 8, 9, 37, 64) for block in (8, 16)]


@pytest.mark.parametrize("stretch", [1.0, 20.0])
@pytest.mark.parametrize(("length", "block"), CASES)
def test_outputs_and_gradients(length, block, stretch):
    problem, (q, k, v, d_out) = both(length, length, stretch)
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    out.backward(d_out)
    memory = script.TwoMemories()
    for run in (script.run_ordinary, lambda p, m: script.run_flash(p, m, block)):
        results, _ = run(problem, memory)
        for rows, expected in zip(results, (out, q.grad, k.grad, v.grad)):
            close(rows, expected)


@pytest.mark.parametrize(("length", "block"), CASES)
def test_lse(length, block):
    problem, (q, k, _, _) = both(length, length)
    _, lse = script.flash_forward(*problem[:3], block, script.TwoMemories())
    scores = (q @ k.transpose(-1, -2) * script.HEAD_DIM**-0.5)[0, 0]
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    close(lse, torch.logsumexp(scores.masked_fill(future, -torch.inf), dim=-1))


@pytest.mark.parametrize("num_parts", [1, 3, 4])
def test_decoding_in_parts(num_parts):
    (q, k, v, _), tensors = both(26)
    out = F.scaled_dot_product_attention(tensors[0][:, :, -1:], *tensors[1:3])
    close([script.decode_attention(q[-1], k, v, num_parts)], out)


def torch_reader(reader, letters, digits, weights):
    """The reader's forward pass, written with torch.nn.functional alone."""
    x = F.embedding(torch.tensor(letters), weights["letter_embedding"])
    x = x + F.embedding(torch.tensor(digits), weights["digit_embedding"])
    x = F.rms_norm(x, (script.WIDTH,), eps=1e-5)
    q, k, v = [F.linear(x, weights[name])[None] for name in ("query", "key", "value")]
    found = F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]
    return F.linear(x + F.linear(found, weights["attention_out"]), weights["to_logits"])


def test_ten_steps_of_training_with_flash_attention():
    reader = script.Reader(random.Random(0))
    weights = {
        name: torch.tensor(parameter.data, dtype=torch.float64, requires_grad=True)
        for name, parameter in vars(reader).items()
    }
    ours = script.Adam(reader.parameters(), betas=(0.9, 0.99))
    theirs = torch.optim.Adam(weights.values(), lr=0.02, betas=(0.9, 0.99))
    rng = random.Random(1)
    for _ in range(10):
        letters, digits, answers = script.new_book(rng)
        logits = reader.forward(
            letters, digits, lambda q, k, v: script.flash_attention(q, k, v, script.TwoMemories())
        )
        loss = script.cross_entropy(script.rows_from(logits, 26), answers)
        loss.backward()
        expected = F.cross_entropy(
            torch_reader(reader, letters, digits, weights)[26:], torch.tensor(answers)
        )
        theirs.zero_grad()
        expected.backward()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        ours.step(0.02)
        theirs.step()


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("merge", lambda a, b: (max(a[0], b[0]), a[1] + b[1], list(map(sum, zip(a[2], b[2]))))),
        ("row_deltas", lambda out, d_out: [0.0] * len(out)),
        ("num_rows_masked", None),
    ],
)
def test_a_broken_flash_is_noticed_here_too(name, broken, monkeypatch):
    module = load_script("microflash")
    if broken is None:
        right = script.tile_scores
        name, broken = (
            "tile_scores",
            lambda q, k, rows, cols: right(q, k, [10**9] * len(rows), cols),
        )
    monkeypatch.setattr(module, name, broken)
    problem, (q, k, v, d_out) = both(37)
    F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(d_out)
    results, _ = module.run_flash(problem, module.TwoMemories(), 8)
    with pytest.raises(AssertionError):
        for rows, tensor in zip(results[1:], (q, k, v)):
            close(rows, tensor.grad)
