"""microkv against PyTorch and transformers: the same weights, the same cache, the same sizes."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from support import load_script
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

script = load_script("microkv")
TEXT = [0, *range(1, 27), 0, 5, 13, 13, 1, 0, 15, 12, 9, 22, 9, 1, 0]


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def new_model(seed: int = 0, scale: float = 4.0):
    model = script.Transformer(random.Random(seed))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
        parameter.requires_grad = False
    return model


class Rotary(torch.nn.Module):
    """transformers' own computes angles in float32, which is not exact enough to compare with."""

    def forward(self, x, position_ids):
        half = script.WIDTH // script.NUM_HEADS // 2
        speeds = script.ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = (position_ids[..., None].double() * speeds).repeat(1, 1, 2)
        return angles.cos(), angles.sin()


def llama_with(model) -> LlamaForCausalLM:
    """transformers' Llama with our weights: its attention, its masks, its cache. Its norms compute
    in float32, so torch's take their place; its MLP is gated, so a plain one takes its place.
    """
    config = LlamaConfig(
        vocab_size=27,
        hidden_size=script.WIDTH,
        intermediate_size=4 * script.WIDTH,
        num_hidden_layers=script.NUM_LAYERS,
        num_attention_heads=script.NUM_HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )
    llama = LlamaForCausalLM(config).double().eval()

    def layer_of(matrix):
        weight = torch.tensor(matrix.data)
        layer = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        layer.weight = torch.nn.Parameter(weight)
        return layer

    def norm():
        return torch.nn.RMSNorm(script.WIDTH, eps=1e-5, elementwise_affine=False)

    llama.model.embed_tokens.weight = torch.nn.Parameter(torch.tensor(model.token_embedding.data))
    llama.model.rotary_emb = Rotary()
    llama.model.norm = norm()
    llama.lm_head = layer_of(model.head)
    for theirs, ours in zip(llama.model.layers, model.layers, strict=True):
        theirs.input_layernorm, theirs.post_attention_layernorm = norm(), norm()
        theirs.self_attn.q_proj = layer_of(ours["query"])
        theirs.self_attn.k_proj = layer_of(ours["key"])
        theirs.self_attn.v_proj = layer_of(ours["value"])
        theirs.self_attn.o_proj = layer_of(ours["attention_out"])
        theirs.mlp = torch.nn.Sequential(
            layer_of(ours["mlp_in"]), torch.nn.ReLU(), layer_of(ours["mlp_out"])
        )
    return llama


def close(rows, expected: torch.Tensor) -> None:
    """Assert that every entry agrees to 1e-10 of the largest."""
    ours = torch.tensor(rows)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= 1e-10 * max(1.0, expected.abs().max().item())


def same_cache(ours, theirs: DynamicCache) -> None:
    """Assert that keys and values of all layers agree; theirs are [1][H][t][d]."""
    for layer, entry in enumerate(theirs.layers):
        for rows, tensor in ((ours.keys, entry.keys), (ours.values, entry.values)):
            close(rows[layer], tensor[0].transpose(0, 1).flatten(1))


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[1] * 12, [12], [5, 5, 2], [7, 1, 1, 3]])
def test_logits_keys_and_values_are_those_of_llama_with_a_dynamic_cache(pieces):
    model = new_model()
    llama = llama_with(model)
    ours, theirs = script.KVCache(), DynamicCache(config=llama.config)
    start = 0
    for count in pieces:
        piece = TEXT[start : start + count]
        start += count
        logits = model.logits(script.read(model, [piece], [ours])).data
        expected = llama(torch.tensor([piece]), cache=theirs, use_cache=True).logits[0]
        close(logits, expected)
        assert len(ours) == theirs.get_seq_length() == start
    same_cache(ours, theirs)
    close(
        model.logits(script.read(model, [TEXT[:start]], [script.KVCache()])).data,
        llama(torch.tensor([TEXT[:start]]), use_cache=False).logits[0],
    )


@torch.no_grad()
def test_a_rollback_is_crop():
    model = new_model(1)
    llama = llama_with(model)
    ours, theirs = script.KVCache(), DynamicCache(config=llama.config)
    script.read(model, [TEXT[:20]], [ours])
    llama(torch.tensor([TEXT[:20]]), cache=theirs)
    ours.truncate(15)
    theirs.crop(-5)
    same_cache(ours, theirs)
    other = [26, 3, 3]
    close(
        model.logits(script.read(model, [other], [ours])).data,
        llama(torch.tensor([other]), cache=theirs).logits[0],
    )


@torch.no_grad()
def test_greedy_text_is_that_of_transformers_generate():
    model = new_model(2)
    llama = llama_with(model)
    expected = llama.generate(
        torch.tensor([[0]]),
        attention_mask=torch.ones(1, 1, dtype=torch.long),
        max_new_tokens=30,
        min_new_tokens=30,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    symbols, cache = [0], script.KVCache()
    for _ in range(30):
        row = model.logits(script.read(model, [symbols[-1:]], [cache])).data[0]
        symbols.append(row.index(max(row)))
    assert symbols == expected[0].tolist()


@torch.no_grad()
def test_a_batch_of_decodes_is_torch_attention_over_each_cache():
    """One layer's attention of a batched decode step, with torch's SDPA over each cache."""
    rng = random.Random(3)

    def rows(count):
        return [[rng.gauss(0, 1) for _ in range(script.WIDTH)] for _ in range(count)]

    lengths = (1, 9, 4)
    queries, keys, values, spans, expected = [], [], [], [], []
    for length in lengths:
        q, k, v = rows(1), rows(length), rows(length)
        spans.append((len(keys), len(keys) + length))
        queries, keys, values = queries + q, keys + k, values + v
        heads = [
            torch.tensor(x).view(len(x), script.NUM_HEADS, -1).transpose(0, 1) for x in (q, k, v)
        ]
        expected.append(F.scaled_dot_product_attention(*heads).transpose(0, 1).flatten(1))
    tensors = [script.Tensor(x) for x in (queries, keys, values)]
    found = script.scaled_dot_product_attention(*tensors, script.NUM_HEADS, spans)
    close(found.data, torch.cat(expected))


def test_the_rotation_is_that_of_transformers():
    rng = random.Random(4)
    positions = [0, 1, 7, 63, 500]
    x = [[rng.gauss(0, 1) for _ in range(script.WIDTH)] for _ in positions]
    cos, sin = Rotary()(None, torch.tensor([positions]))
    heads = torch.tensor(x).view(1, len(x), script.NUM_HEADS, -1).transpose(1, 2)
    expected, _ = apply_rotary_pos_emb(heads, heads, cos, sin)
    found = script.rope(script.Tensor(x), positions).data
    close(found, expected[0].transpose(0, 1).flatten(1))


@torch.no_grad()
@pytest.mark.parametrize("place", ["start_again", "one_behind"])
def test_a_wrong_position_is_noticed_here_too(place):
    model = new_model()
    llama = llama_with(model)
    cache = script.KVCache()
    wrong = getattr(script, place)
    script.read(model, [TEXT[:6]], [cache], place=wrong)
    row = model.logits(script.read(model, [TEXT[6:7]], [cache], place=wrong)).data
    with pytest.raises(AssertionError):
        close(row, llama(torch.tensor([TEXT[:7]])).logits[0, -1:])


def test_a_decode_step_counts_the_products_that_torch_counts():
    """torch's FLOP counter knows the matrix products; norms are not among them."""
    from torch.utils.flop_counter import FlopCounterMode

    model = new_model()
    llama = llama_with(model)
    llama.set_attn_implementation("eager")
    for past, new in ((0, 1), (0, 9), (8, 1)):
        cache = DynamicCache(config=llama.config)
        with torch.no_grad():
            if past:
                llama(torch.tensor([TEXT[:past]]), cache=cache)
            with FlopCounterMode(display=False) as counter:
                llama(torch.tensor([TEXT[past : past + new]]), cache=cache)
        norms = (2 * script.NUM_LAYERS + 1) * script.WIDTH * new
        ours = script.multiply_adds(past, new, new) - norms
        # torch multiplies the masked half of a square of scores too.
        masked = 2 * script.NUM_LAYERS * script.WIDTH * new * (new - 1) // 2
        assert counter.get_total_flops() == 2 * (ours + masked)


def bytes_in(cache: DynamicCache) -> int:
    return sum(x.nbytes for layer in cache.layers for x in (layer.keys, layer.values))


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_kv_bytes_is_what_a_dynamic_cache_holds(kv_heads):
    torch.set_default_dtype(torch.float32)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=32,
        intermediate_size=16,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
    )
    cache = DynamicCache(config=config)
    LlamaForCausalLM(config).bfloat16()(torch.tensor([[1, 2, 3, 4, 5, 6, 7]]), cache=cache)
    assert bytes_in(cache) == script.kv_bytes(3, kv_heads, 8, 7)


def llama_shape(config) -> tuple[int, int, int]:
    head_dim = config.hidden_size // config.num_attention_heads
    return config.num_hidden_layers, config.num_key_value_heads, head_dim


def parameters_of(kind, config) -> int:
    torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        return sum(p.numel() for p in kind(config).parameters())


def test_the_table_of_real_models():
    """GPT2Config() and LlamaConfig() default to GPT-2 small and, but for the context, Llama-2-7B;
    the 70B's values are those of its config.json.
    """
    gpt2 = GPT2Config()
    shape = (gpt2.n_layer, gpt2.n_head, gpt2.n_embd // gpt2.n_head, gpt2.n_positions)
    row = script.REAL_MODELS["GPT-2 small"]
    assert row == (*shape, parameters_of(GPT2LMHeadModel, gpt2))

    small = LlamaConfig(max_position_embeddings=4096)
    row = script.REAL_MODELS["Llama-2-7B"]
    assert row == (*llama_shape(small), 4096, parameters_of(LlamaForCausalLM, small))

    large = LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
        max_position_embeddings=131072,
    )
    row = script.REAL_MODELS["Llama-3.1-70B"]
    assert row == (*llama_shape(large), 131072, parameters_of(LlamaForCausalLM, large))
    assert script.kv_bytes(*row[:4]) == 40 * 2**30
