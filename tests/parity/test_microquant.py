"""microquant against PyTorch and NumPy: the same weights give the same levels."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microquant")
NAMES = ["ava", "elizabeth", "zoe", "christopher", "jo", "maximilian", "q", "abcdefghijklmno"]


def problem(seed: int, rows: int = 9, width: int = 16):
    """A weight matrix and correlated inputs, as plain lists."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(60, 5)) @ rng.normal(size=(5, width)) + 0.2 * rng.normal(
        size=(60, width)
    )
    return (0.3 * rng.normal(size=(rows, width))).tolist(), inputs.tolist()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_levels_are_those_of_fake_quantize(bits, seed):
    """torch's fake_quantize works in 32 bits, so the weights are such numbers too."""
    w = torch.tensor(problem(seed)[0], dtype=torch.float32)
    weight, half = w.double().tolist(), 2 ** (bits - 1)
    for scheme in script.SCHEMES:
        scales = script.choose_scales(weight, bits, scheme)
        ours = torch.tensor(script.round_to_nearest(weight, scales, bits, []))
        s = torch.tensor(scales, dtype=torch.float32)
        if scheme == "tensor":
            used = torch.fake_quantize_per_tensor_affine(w, scales[0], 0, -half, half - 1)
        else:
            zeros = torch.zeros(len(scales), dtype=torch.int32)
            used = torch.fake_quantize_per_channel_affine(w, s, zeros, 0, -half, half - 1)
        assert torch.equal(ours, torch.round(used / s[:, None]).long())


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_levels_at_8_bits_are_those_of_torch_quantize_per_channel():
    w = torch.tensor(problem(5)[0], dtype=torch.float32)
    scales = script.choose_scales(w.double().tolist(), 8, "channel")
    ours = script.round_to_nearest(w.double().tolist(), scales, 8, [])
    theirs = torch.quantize_per_channel(
        w, torch.tensor(scales), torch.zeros(len(scales)), 0, torch.qint8
    )
    assert theirs.int_repr().tolist() == ours


def reference_gptq(weight, scales, bits, H):
    """Algorithm 1 of the paper, all rows at once, column by column, with torch's factorisations."""
    w = torch.tensor(weight, dtype=torch.float64)
    s = torch.tensor(scales, dtype=torch.float64)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(torch.tensor(H, dtype=torch.float64)))
    Hinv = torch.linalg.cholesky(inverse, upper=True)
    half = 2 ** (bits - 1)
    levels = torch.zeros_like(w)
    losses = torch.zeros_like(w)
    for i in range(w.shape[1]):
        levels[:, i] = torch.clamp(torch.round(w[:, i] / s), -half, half - 1)
        err = (w[:, i] - levels[:, i] * s) / Hinv[i, i]
        losses[:, i] = err**2
        w[:, i:] -= err[:, None] * Hinv[i, i:][None, :]
    return levels.long(), losses


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("scheme", ["tensor", "channel", "clipped"])
@pytest.mark.parametrize(("seed", "width"), [(0, 16), (1, 16), (2, 64)])
def test_gptq_is_the_paper_s_algorithm(bits, scheme, seed, width):
    weight, inputs = problem(seed, width=width)
    H, scales = script.hessian(inputs), script.choose_scales(weight, bits, scheme)
    levels, losses = reference_gptq(weight, scales, bits, H)
    assert script.gptq(weight, scales, bits, H) == levels.tolist()
    U = script.transpose(script.cholesky(script.inverse(H)))
    errors = [script.gptq_row(row, s, bits, U)[2] for row, s in zip(weight, scales)]
    ours = torch.tensor(errors, dtype=torch.float64) ** 2
    assert torch.allclose(ours, losses, rtol=1e-7, atol=1e-9 * losses.max().item())
    # d H d^T with numpy, against the sum of the squared errors
    d = np.array(weight) - np.array(scales)[:, None] * levels.numpy()
    direct = np.einsum("ri,ij,rj->r", d, np.array(H), d)
    assert np.allclose(ours.sum(1).numpy(), direct, rtol=1e-9, atol=0.0)


@pytest.mark.parametrize("change", ["no_repair", "lower"])
def test_a_broken_gptq_differs_from_the_reference(change, monkeypatch):
    broken = load_script("microquant")
    if change == "no_repair":
        monkeypatch.setattr(broken, "gptq", broken.round_to_nearest)
    else:  # the factor of H in place of that of its inverse
        monkeypatch.setattr(broken, "inverse", lambda H: H)
    weight, inputs = problem(3)
    H, scales = broken.hessian(inputs), broken.choose_scales(weight, 3, "channel")
    expected, _ = reference_gptq(weight, scales, 3, H)
    assert broken.gptq(weight, scales, 3, H) != expected.tolist()


@pytest.mark.parametrize("width", [1, 2, 16, 64])
def test_hessian_cholesky_and_inverse(width):
    _, inputs = problem(width, width=width)
    X = np.array(inputs)
    expected = 2.0 * X.T @ X / len(X)
    expected += 0.01 * np.mean(np.diag(expected)) * np.eye(width)
    H = np.array(script.hessian(inputs))
    assert np.allclose(H, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    L = np.array(script.cholesky(H.tolist()))
    assert np.allclose(L, np.linalg.cholesky(H), rtol=1e-9, atol=1e-11 * np.abs(L).max())
    ours, theirs = np.array(script.inverse(H.tolist())), np.linalg.inv(H)
    assert np.abs(ours - theirs).max() <= 1e-9 * np.abs(theirs).max()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 8])
def test_packing_against_numpy(bits):
    rng = np.random.default_rng(bits)
    levels = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size=37)
    codes = (levels + 2 ** (bits - 1)).astype(np.uint8)[:, None]
    all_bits = np.unpackbits(codes, axis=1, bitorder="little")[:, :bits].reshape(-1)
    packed = np.packbits(all_bits, bitorder="little").tobytes()
    assert script.pack_levels(levels.tolist(), bits) == packed
    assert script.unpack_levels(packed, bits, 37) == levels.tolist()


def test_scales_of_16_bits_are_numpy_s():
    rng = random.Random(0)
    values = [rng.gauss(0.0, 10.0 ** rng.randint(-6, 3)) for _ in range(500)]
    assert [script.to_float16(v) for v in values] == np.float16(values).astype(float).tolist()


def torch_inputs(model, name: str) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One name through the same network in torch, keeping what each linear layer reads."""
    weights = {k: torch.tensor(v.data, dtype=torch.float64) for k, v in vars(model).items()}
    seen: dict[str, torch.Tensor] = {}

    def layer(key: str, x: torch.Tensor) -> torch.Tensor:
        seen[key] = x
        return F.linear(x, weights[key])

    ids = torch.tensor(script.encode(name)[:-1])

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(ids), script.NUM_HEADS, -1).transpose(0, 1)

    x = F.embedding(ids, weights["token_embedding"]) + weights["position_embedding"][: len(ids)]
    x = F.rms_norm(x, (16,), eps=1e-5)
    h = F.rms_norm(x, (16,), eps=1e-5)
    q, k, v = [heads(layer(key, h)) for key in ("query", "key", "value")]
    found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    x = x + layer("attention_out", found.transpose(0, 1).reshape(len(ids), -1))
    h = F.relu(layer("mlp_in", F.rms_norm(x, (16,), eps=1e-5)))
    x = x + layer("mlp_out", h)
    return seen, layer("head", x)


def test_layer_inputs_and_losses():
    model = script.GPT(27, 16, 16, random.Random(0))
    for parameter in model.parameters():
        parameter.data = [[5.0 * x for x in row] for row in parameter.data]
    runs = [torch_inputs(model, name) for name in NAMES]
    ours = script.layer_inputs(model, NAMES)
    for key in script.LAYERS:
        expected = torch.cat([seen[key] for seen, _ in runs])
        difference = (torch.tensor(ours[key], dtype=torch.float64) - expected).abs().max()
        assert difference <= 1e-9 * expected.abs().max()
    for (loss, size), name, (_, logits) in zip(script.name_losses(model, NAMES), NAMES, runs):
        targets = torch.tensor(script.encode(name)[1:])
        expected = F.cross_entropy(logits, targets, reduction="sum").item()
        assert (loss, size) == (pytest.approx(expected, rel=1e-9), len(targets))
