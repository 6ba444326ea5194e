"""microrope against transformers and PyTorch: the same numbers from the same inputs."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb as interleaved_rotation
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as half_split_rotation

script = load_script("microrope")


def matrix(rows: int, columns: int, rng: random.Random) -> list[list[float]]:
    return [[rng.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(rows)]


def tensor(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(rows: list[list[float]], expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    ours = tensor(rows)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item())


def angles_of(positions, frequencies) -> torch.Tensor:
    return tensor([[position * f for f in frequencies] for position in positions])


@pytest.mark.parametrize("head_dim", [2, 8, 16, 64])
@pytest.mark.parametrize("factor", [1.0, 1.1386])
def test_half_split_rotation_is_llamas(head_dim, factor):
    rng = random.Random(head_dim)
    positions = [0, 1, 2, 17, 127, 4095]
    q, k = [matrix(len(positions), head_dim, rng) for _ in range(2)]
    rope = script.Rope(script.rope_frequencies(head_dim, script.BASE), factor)
    angles = angles_of(positions, rope.frequencies)
    both = torch.cat([angles, angles], dim=-1)[None]
    cosines, sines = both.cos() * factor, both.sin() * factor  # as LlamaRotaryEmbedding does
    expected = half_split_rotation(tensor(q)[None, None], tensor(k)[None, None], cosines, sines)
    for rows, theirs in zip((q, k), expected):
        close(script.rotate(script.Tensor(rows), positions, rope).data, theirs[0, 0])


@pytest.mark.parametrize("head_dim", [4, 16, 64])
def test_interleaved_rotation_is_the_same_with_columns_in_another_order(head_dim):
    rng = random.Random(head_dim)
    positions = [0, 3, 31, 128]
    x = matrix(len(positions), head_dim, rng)
    rope = script.Rope(script.rope_frequencies(head_dim, script.BASE))
    angles = angles_of(positions, rope.frequencies)
    theirs = interleaved_rotation(tensor(x)[None, :, None], angles.sin()[None], angles.cos()[None])
    # Column 2j goes to j, and 2j + 1 to j + D/2.
    order = [*range(0, head_dim, 2), *range(1, head_dim, 2)]
    ours = script.rotate(script.Tensor([[row[c] for c in order] for row in x]), positions, rope)
    close(ours.data, theirs[0, :, 0][:, order])


def test_the_gradient_of_the_rotation():
    rng = random.Random(5)
    positions = [2, 40, 900]
    x, d_out = matrix(3, 16, rng), matrix(3, 16, rng)
    rope = script.Rope(script.rope_frequencies(16, script.BASE), 1.2)
    ours, theirs = script.Tensor(x), tensor(x).requires_grad_()
    script.rotate(ours, positions, rope).backward(d_out)
    angles = angles_of(positions, rope.frequencies)
    both = torch.cat([angles, angles], dim=-1)[None]
    out, _ = half_split_rotation(theirs[None, None], theirs[None, None], both.cos(), both.sin())
    (1.2 * out[0, 0]).backward(tensor(d_out))
    close(ours.grad, theirs.grad)


# === THE SCALINGS ===


def config(rope_type: str, head_dim: int, base: float, length: int, scale: float) -> LlamaConfig:
    """A Llama of this head size, in the form that this version of transformers reads."""
    parameters = {
        "rope_type": rope_type,
        "rope_theta": base,
        "factor": scale,
        "original_max_position_embeddings": length,
    }
    made = LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        head_dim=head_dim,
        max_position_embeddings=length,
    )
    made.rope_parameters = parameters
    return made


CASES = [(16, 10000.0, 32, 4.0), (64, 10000.0, 2048, 8.0), (128, 500000.0, 8192, 4.0)]


@pytest.mark.parametrize(("head_dim", "base", "length", "scale"), CASES)
def test_the_scaled_frequencies_are_those_of_transformers(head_dim, base, length, scale):
    ours = {
        "linear": script.linear_scaling(head_dim, base, scale),
        "yarn": script.yarn_scaling(head_dim, base, scale, length),
    }
    for name, rope in ours.items():
        made = config(name, head_dim, base, length, scale)
        theirs, factor = ROPE_INIT_FUNCTIONS[name](made, torch.device("cpu"))
        # transformers computes in float32
        assert theirs.tolist() == pytest.approx(rope.frequencies, rel=3e-6), name
        assert factor == pytest.approx(rope.attention_factor, rel=1e-9), name


@pytest.mark.parametrize(("head_dim", "base", "length", "scale"), CASES)
def test_ntk_is_dynamic_ntk_at_the_length_where_its_ratio_is_the_scale(
    head_dim, base, length, scale
):
    """Dynamic NTK raises the base by (factor * n / length - (factor - 1)) ** (D / (D - 2)); with
    factor 1 and n = scale * length that is the fixed NTK-aware scaling.
    """
    made = config("dynamic", head_dim, base, length, 1.0)
    long = round(scale * length)
    theirs, factor = ROPE_INIT_FUNCTIONS["dynamic"](made, torch.device("cpu"), seq_len=long)
    rope = script.ntk_scaling(head_dim, base, scale)
    assert theirs.tolist() == pytest.approx(rope.frequencies, rel=3e-6)
    assert factor == rope.attention_factor == 1.0


# === THE MODEL ===

KEYS = tuple(vars(script.LanguageModel(1, random.Random(0))))


def both_models(num_places: int, scale: float):
    """A model and the same matrices as torch tensors."""
    model = script.LanguageModel(num_places, random.Random(7))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    weights = {
        key: tensor(getattr(model, key).data).requires_grad_()
        for key in KEYS
        if getattr(model, key) is not None
    }
    return model, weights


def torch_logits(weights, window, rope) -> torch.Tensor:
    """One window through the same network, written with torch.nn.functional alone."""
    ids = torch.tensor(window[:-1])
    count, width = len(ids), weights["query"].shape[1]
    x = F.embedding(ids, weights["letter_embedding"])
    if rope is None:
        x = x + weights["place_embedding"][:count]
    x = F.rms_norm(x, (width,), eps=1e-5)
    h = F.rms_norm(x, (width,), eps=1e-5)
    q, k, v = [F.linear(h, weights[key])[None, None] for key in ("query", "key", "value")]
    if rope is not None:
        angles = angles_of(range(count), rope.frequencies)
        both = torch.cat([angles, angles], dim=-1)[None]
        factor = rope.attention_factor
        q, k = half_split_rotation(q, k, factor * both.cos(), factor * both.sin())
    distance = torch.arange(count)[:, None] - torch.arange(count)[None]
    mask = (distance >= 0) & (distance < (rope.look_back if rope else 10**9))
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0, 0]
    x = x + F.linear(found, weights["attention_out"])
    h = F.rms_norm(x, (width,), eps=1e-5)
    x = x + F.linear(F.relu(F.linear(h, weights["mlp_in"])), weights["mlp_out"])
    return F.linear(x, weights["head"])


ROPES = {
    "learned": None,
    "as trained": script.Rope(script.rope_frequencies(16, 10000.0)),
    "yarn": script.yarn_scaling(16, 10000.0, 4.0, 32),
    "cut": script.Rope(script.rope_frequencies(16, 10000.0), look_back=5),
}


@pytest.mark.parametrize("name", ROPES)
def test_logits_loss_and_every_gradient(name):
    rng, rope = random.Random(3), ROPES[name]
    model, weights = both_models(32 if rope is None else 0, scale=4.0)
    windows = [[rng.randrange(27) for _ in range(length)] for length in (33, 12, 2)]
    logits, targets = script.predict(model, windows, rope)
    expected = torch.cat([torch_logits(weights, window, rope) for window in windows])
    close(logits.data, expected, 1e-11)
    loss = script.cross_entropy(logits, targets)
    expected_loss = F.cross_entropy(expected, torch.tensor(targets))
    assert loss.item() == pytest.approx(expected_loss.item(), rel=1e-11)
    loss.backward()
    expected_loss.backward()
    for key, weight in weights.items():
        close(getattr(model, key).grad, weight.grad, 1e-10)
