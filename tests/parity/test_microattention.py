"""microattention against PyTorch's attention and the layers of transformers: the same numbers."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script
from transformers import DeepseekV3Config, LlamaConfig, MistralConfig
from transformers.masking_utils import create_sliding_window_causal_mask
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention
from transformers.models.llama.modeling_llama import LlamaAttention
from transformers.models.mistral.modeling_mistral import MistralAttention

script = load_script("microattention")
T = 14


def tensor(data):
    return torch.tensor(data, dtype=torch.float64)


def new_rows(seed: int, count: int = T, columns: int = 16):
    rng = random.Random(seed)
    return [[rng.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(count)]


def cosines_and_sines(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What transformers' rotary embedding hands to a layer: [1][T][size] each."""
    rates = script.ROPE_BASE ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(T, dtype=torch.float64)[:, None] * rates
    angles = torch.cat([angles, angles], dim=-1)[None]
    return angles.cos(), angles.sin()


def causal_mask(window: int = 10**9) -> torch.Tensor:
    """0 where a row may read, -inf elsewhere: [1][1][T][T]."""
    i, j = torch.arange(T)[:, None], torch.arange(T)[None]
    may = (j <= i) & (j > i - window)
    return torch.zeros(T, T, dtype=torch.float64).masked_fill(~may, float("-inf"))[None, None]


def run(layer, x):
    """Our layer's output and the gradients of x and of every matrix, from fixed d_out."""
    spans = [(max(0, i + 1 - (layer.window or T)), i + 1) for i in range(T)]
    inputs = script.Tensor(x)
    out = layer.attend(inputs, list(range(T)), layer.keep(inputs, list(range(T))), spans)
    result = out.data
    out.backward(new_rows(99))
    return result, inputs.grad


def close(ours, expected: torch.Tensor, tolerance: float = 1e-10) -> None:
    """Assert that every entry agrees, relative to the largest and to 1."""
    ours = tensor(ours)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item())


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 5])
def test_grouped_attention_equals_torch_with_enable_gqa(num_kv_heads, window):
    q, k, v = new_rows(1), new_rows(2, T, num_kv_heads * 4), new_rows(3, T, num_kv_heads * 4)
    ours = [script.Tensor(x) for x in (q, k, v)]
    times = 4 // num_kv_heads
    keys, values = [script.repeat_heads(x, num_kv_heads, times) for x in ours[1:]]
    spans = [(max(0, i + 1 - (window or T)), i + 1) for i in range(T)]
    out = script.scaled_dot_product_attention(ours[0], keys, values, 4, spans)

    theirs = [tensor(x).requires_grad_() for x in (q, k, v)]
    heads = [x.view(1, T, -1, 4).transpose(1, 2) for x in theirs]
    if window is None:
        expected = F.scaled_dot_product_attention(*heads, is_causal=True, enable_gqa=True)
    else:
        mask = causal_mask(window)
        expected = F.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)
    expected = expected.transpose(1, 2).reshape(T, -1)
    close(out.data, expected.detach(), 1e-12)
    out.backward(new_rows(4))
    expected.backward(tensor(new_rows(4)))
    for mine, other in zip(ours, theirs):
        close(mine.grad, other.grad, 1e-12)


def grouped_reference(kind, config_kind, layer, **more):
    """A layer of transformers with our matrices."""
    config = config_kind(
        hidden_size=16,
        num_attention_heads=layer.num_heads,
        num_key_value_heads=layer.num_kv_heads,
        head_dim=layer.head_dim,
        attention_bias=False,
        attn_implementation="sdpa",  # "eager" takes its softmax in float32
        **more,
    )
    theirs = kind(config, layer_idx=0).double().eval()
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "out"}
    with torch.no_grad():
        for name, part in parts.items():
            getattr(theirs, name).weight.copy_(tensor(getattr(layer, part).data))
    return theirs, parts


def compare(layer, theirs, parts, size, mask):
    """Outputs, and the gradients of the input and of every matrix."""
    x = new_rows(5)
    inputs = tensor(x)[None].requires_grad_()
    expected = theirs(inputs, cosines_and_sines(size), mask)[0]
    result, d_x = run(layer, x)
    close(result, expected[0].detach())
    expected[0].backward(tensor(new_rows(99)))
    close(d_x, inputs.grad[0])
    for name, part in parts.items():
        if part is not None:
            close(getattr(layer, part).grad, getattr(theirs, name).weight.grad)


@pytest.mark.parametrize("layout", ["MHA", "GQA", "MQA", "MQA, 8 queries", "one wide head"])
def test_llama_attention(layout):
    layer = script.new_layer(layout, random.Random(6))
    theirs, parts = grouped_reference(LlamaAttention, LlamaConfig, layer)
    compare(layer, theirs, parts, layer.head_dim, causal_mask())


def test_mistral_attention_with_its_own_window_mask():
    """The mask is built by transformers from the window's size, not by us."""
    layer = script.new_layer("window", random.Random(7))
    theirs, parts = grouped_reference(
        MistralAttention, MistralConfig, layer, sliding_window=script.WINDOW
    )
    mask = create_sliding_window_causal_mask(
        config=theirs.config,
        inputs_embeds=tensor(new_rows(5))[None],
        attention_mask=None,
        cache=None,
        position_ids=torch.arange(T)[None],
    )
    compare(layer, theirs, parts, 4, mask)
    assert torch.equal(mask, causal_mask(script.WINDOW) == 0)


def deepseek(layer):
    """DeepseekV3Attention with the matrices of our MLA layer."""
    h, d, c, r = layer.num_heads, layer.head_dim, layer.latent_dim, layer.rope_dim
    config = DeepseekV3Config(
        hidden_size=16,
        num_attention_heads=h,
        num_key_value_heads=h,
        q_lora_rank=None,
        kv_lora_rank=c,
        qk_nope_head_dim=d,
        qk_rope_head_dim=r,
        v_head_dim=d,
        rope_interleave=False,
        attention_bias=False,
        attn_implementation="sdpa",  # "eager" takes its softmax in float32,
    )
    theirs = DeepseekV3Attention(config, layer_idx=0).double().eval()
    # Their RMSNorm computes in float32, whatever it is given; PyTorch's own does not.
    theirs.kv_a_layernorm = torch.nn.RMSNorm(c, eps=1e-5, dtype=torch.float64)
    plain, rotated = tensor(layer.query.data), tensor(layer.rope_query.data)
    q = torch.cat([plain.view(h, d, 16), rotated.view(h, r, 16)], 1).reshape(-1, 16)
    up_key, up_value = [tensor(m.data).view(h, d, c) for m in (layer.up_key, layer.up_value)]
    with torch.no_grad():
        theirs.q_proj.weight.copy_(q)
        down = torch.cat([tensor(layer.down.data), tensor(layer.rope_key.data)])
        theirs.kv_a_proj_with_mqa.weight.copy_(down)
        theirs.kv_b_proj.weight.copy_(torch.cat([up_key, up_value], 1).reshape(-1, c))
        theirs.o_proj.weight.copy_(tensor(layer.out.data))
    return theirs


def test_deepseek_v3_attention():
    layer = script.new_layer("MLA", random.Random(8))
    theirs = deepseek(layer)
    compare(layer, theirs, {"o_proj": "out"}, layer.rope_dim, causal_mask())
    h, d, c, r = 4, 4, 12, 4
    d_q = theirs.q_proj.weight.grad.view(h, d + r, 16)
    close(layer.query.grad, d_q[:, :d].reshape(-1, 16))
    close(layer.rope_query.grad, d_q[:, d:].reshape(-1, 16))
    d_down = theirs.kv_a_proj_with_mqa.weight.grad
    close(layer.down.grad, d_down[:c])
    close(layer.rope_key.grad, d_down[c:])
    d_up = theirs.kv_b_proj.weight.grad.view(h, 2 * d, c)
    close(layer.up_key.grad, d_up[:, :d].reshape(-1, c))
    close(layer.up_value.grad, d_up[:, d:].reshape(-1, c))


@pytest.mark.parametrize("way", ["decode_absorbed", "decode_expanded"])
def test_both_ways_to_decode_equal_deepseek_v3_attention(way):
    layer = script.new_layer("MLA", random.Random(9))
    x = new_rows(10)
    expected = deepseek(layer)(tensor(x)[None], cosines_and_sines(4), causal_mask())[0][0]
    cache, result = [], []
    for position, row in enumerate(x):
        one = script.Tensor([row])
        latents, rope_keys = layer.keep(one, [position])
        cache.append(latents.data[0] + rope_keys.data[0])
        query = layer.queries(one, [position]).data[0]
        found = getattr(script, way)(layer, query, cache, script.Counter())
        result += script.linear(script.Tensor([found]), layer.out).data
    close(result, expected.detach())


@pytest.mark.parametrize("change", ["group", "scale"])
def test_a_wrong_group_or_scale_is_noticed(change, monkeypatch):
    broken = load_script("microattention")
    if change == "group":
        right = broken.repeat_heads

        def wrong(x, num_heads, times):  # 0 1 0 1 instead of 0 0 1 1
            return right(x, 1, times) if num_heads > 1 else right(x, num_heads, times)

        monkeypatch.setattr(broken, "repeat_heads", wrong)
        layer = broken.new_layer("GQA", random.Random(6))
        theirs, _ = grouped_reference(LlamaAttention, LlamaConfig, layer)
        size = 4
    else:
        layer = broken.new_layer("MLA", random.Random(8))
        theirs, size = deepseek(layer), 4
        layer.query.data = [[x * 2**0.5 for x in row] for row in layer.query.data]
    expected = theirs(tensor(new_rows(5))[None], cosines_and_sines(size), causal_mask())[0]
    inputs = broken.Tensor(new_rows(5))
    spans = [(0, i + 1) for i in range(T)]
    kept = layer.keep(inputs, list(range(T)))
    out = layer.attend(inputs, list(range(T)), kept, spans)
    with pytest.raises(AssertionError):
        close(out.data, expected[0].detach())
