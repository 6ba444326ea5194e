"""microbert against PyTorch and transformers: the same weights and texts give the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("microbert")
TEXTS = ["m_r_a", "_", "________", "el_zabeth", "abcdefghijklmn_", "_bcdefghijklm_o", "jo_", "z__a"]
KEYS = tuple(key for key in vars(script.Encoder(True, random.Random(0))) if key != "sees_right")


def both_models(sees_right: bool, seed: int, scale: float = 1.0):
    """An encoder without zero matrices, and the same matrices as torch tensors."""
    rng = random.Random(seed)
    encoder = script.Encoder(sees_right, rng)
    for parameter in encoder.parameters():
        parameter.data = [[scale * (x + rng.gauss(0, 0.3)) for x in row] for row in parameter.data]
    weights = {
        key: torch.tensor(getattr(encoder, key).data, dtype=torch.float64, requires_grad=True)
        for key in KEYS
    }
    return encoder, weights


def torch_logits(weights: dict[str, torch.Tensor], text: str, sees_right: bool) -> torch.Tensor:
    """One text through the same network with torch.nn.functional alone: every row goes all the
    way, the bias is spread out to a mask, and the blanks are picked at the end.
    """
    ids = torch.tensor([script.SYMBOLS.index(symbol) for symbol in f".{text}."])
    length, width = len(ids), weights["query"].shape[1]
    num_heads = len(weights["distance_bias"])

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(length, num_heads, -1).transpose(0, 1)

    places = torch.arange(length)
    distances = places[None, :] - places[:, None]
    # From start mark to end mark a long name is one row further, but neither is a blank.
    reach = script.MAX_DISTANCE
    mask = weights["distance_bias"][:, distances.clamp(-reach, reach) + reach]
    if not sees_right:
        mask = mask.masked_fill(distances > 0, float("-inf"))
    x = F.rms_norm(F.embedding(ids, weights["token_embedding"]), (width,), eps=1e-5)
    q, k, v = [heads(F.linear(x, weights[key])) for key in ("query", "key", "value")]
    found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    x = x + F.linear(found.transpose(0, 1).reshape(length, -1), weights["attention_out"])
    h = F.rms_norm(x, (width,), eps=1e-5)
    x = x + F.linear(F.relu(F.linear(h, weights["mlp_in"])), weights["mlp_out"])
    x = F.linear(F.rms_norm(x, (width,), eps=1e-5), weights["output"])
    return x[ids == script.SYMBOLS.index("_")]


def torch_loss(weights, texts, targets, sees_right):
    logits = torch.cat([torch_logits(weights, text, sees_right) for text in texts])
    return F.cross_entropy(logits, torch.tensor(targets))


@pytest.mark.parametrize("sees_right", [True, False])
@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 3.0)])
def test_logits_loss_and_every_gradient(sees_right, seed, scale):
    encoder, weights = both_models(sees_right, seed, scale)
    logits = script.predict(encoder, TEXTS)
    close(logits.data, torch.cat([torch_logits(weights, t, sees_right) for t in TEXTS]))
    targets = [i % 26 for i in range(len(logits.data))]
    loss, expected = (
        script.cross_entropy(logits, targets),
        torch_loss(weights, TEXTS, targets, sees_right),
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    loss.backward()
    expected.backward()
    for key in KEYS:
        close(getattr(encoder, key).grad, weights[key].grad)


def test_twenty_steps_of_adam():
    encoder, weights = both_models(True, 2)
    ours = script.Adam(encoder.parameters(), betas=(0.9, 0.95))
    theirs = torch.optim.Adam(weights.values(), lr=0.02, betas=(0.9, 0.95))
    targets = [i % 26 for i in range(sum(text.count("_") for text in TEXTS))]
    for _ in range(20):
        loss = script.cross_entropy(script.predict(encoder, TEXTS), targets)
        loss.backward()
        ours.step(0.02)
        theirs.zero_grad()
        expected = torch_loss(weights, TEXTS, targets, True)
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    for key in KEYS:
        close(getattr(encoder, key).data, weights[key].detach())


def attention_inputs(length: int, width: int, num_heads: int, seed: int):
    rng = random.Random(seed)
    q, k, v = [[[rng.gauss(0, 1) for _ in range(width)] for _ in range(length)] for _ in range(3)]
    reach = 2 * script.MAX_DISTANCE + 1
    bias = [[rng.gauss(0, 1) for _ in range(reach)] for _ in range(num_heads)]
    spans = [(0, length)] * length
    return [script.Tensor(rows) for rows in (q, k, v, bias)], spans


def test_without_bias_it_is_the_attention_of_bert():
    from transformers import BertConfig
    from transformers.models.bert.modeling_bert import BertSelfAttention

    length, width, num_heads = 9, 16, 4
    (x, *_), spans = attention_inputs(length, width, num_heads, 0)
    config = BertConfig(hidden_size=width, num_attention_heads=num_heads)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs = BertSelfAttention(config).double().eval()
    for layer in (theirs.query, theirs.key, theirs.value):
        torch.nn.init.normal_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    expected = theirs(torch.tensor([x.data], dtype=torch.float64))[0][0]
    projected = [
        script.linear(x, script.Tensor(layer.weight.tolist()))
        for layer in (theirs.query, theirs.key, theirs.value)
    ]
    no_bias = script.Tensor([[0.0] * (2 * script.MAX_DISTANCE + 1)] * num_heads)
    ours = script.distance_attention(*projected, no_bias, range(length), spans)
    close(ours.data, expected.detach())


def test_with_bias_it_is_the_attention_of_t5():
    """T5 keeps one number for each head and distance too, exactly up to 7 rows away. It does not
    divide by sqrt(d), so its queries are multiplied by that much less here.
    """
    from transformers import T5Config
    from transformers.models.t5.modeling_t5 import T5Attention

    length, width, num_heads = 7, 16, 4
    (x, _, _, bias), spans = attention_inputs(length, width, num_heads, 1)
    config = T5Config(d_model=width, d_kv=width // num_heads, num_heads=num_heads)
    config.dropout_rate = 0.0
    torch.manual_seed(1)
    theirs = T5Attention(config, has_relative_attention_bias=True).double().eval()
    for layer in (theirs.q, theirs.k, theirs.v):
        torch.nn.init.normal_(layer.weight, std=0.5)
    torch.nn.init.eye_(theirs.o.weight)
    with torch.no_grad():
        for distance in range(1 - length, length):
            # T5's buckets: 0-7 for rows at or before the query, 16 + 1..7 for rows after it.
            bucket = -distance if distance <= 0 else 16 + distance
            column = [row[distance + script.MAX_DISTANCE] for row in bias.data]
            theirs.relative_attention_bias.weight[bucket] = torch.tensor(
                column, dtype=torch.float64
            )
        expected = theirs(
            torch.tensor([x.data], dtype=torch.float64), cache_position=torch.arange(length)
        )[0][0]
    q, k, v = [
        script.linear(x, script.Tensor(layer.weight.tolist()))
        for layer in (theirs.q, theirs.k, theirs.v)
    ]
    q = q * (width // num_heads) ** 0.5
    ours = script.distance_attention(q, k, v, bias, range(length), spans)
    close(ours.data, expected)


def test_a_bias_with_the_wrong_sign_of_distance_is_noticed(monkeypatch):
    encoder, weights = both_models(True, 3)
    encoder.distance_bias.data = [row[::-1] for row in encoder.distance_bias.data]
    with pytest.raises(AssertionError):
        close(
            script.predict(encoder, TEXTS).data,
            torch.cat([torch_logits(weights, text, True) for text in TEXTS]),
        )


def close(rows: list[list[float]], expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-9 of the largest."""
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-9 * max(1e-3, expected.abs().max().item())
