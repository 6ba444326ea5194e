"""A model can recall no more of a token than fits into the numbers that the token left behind.

In a GPT, attention is the only place where a token reads the tokens before it. To be read later,
each token leaves some numbers behind: a key, by which it is found, and a value, which is what it
then hands over. While a model writes text, these numbers stay in memory, in the KV cache. Each new
token has to read them all, and for long texts they can outgrow the model's weights. So models are
designed to leave less. This script trains five layouts, and two more as controls.

    MHA   multi-head attention: every query head has a key and a value head of its own
    GQA   grouped-query attention: groups of query heads share one key and one value head
    MQA   multi-query attention: all query heads share one key and one value head
    MLA   multi-head latent attention: one short vector, the latent, from which all keys and
          values are computed; beside it a small key that carries the position
    window    MHA that keeps the last 8 tokens and forgets the rest

The task: read 8 facts, then answer questions about them. A fact has a key and six attributes with
three possible values each (not to be mixed up with attention's). Recall is the share of attributes
answered correctly, 1/3 by guessing. Look at four things: where recall falls when the cache shrinks,
and whether more parameters or query heads make up for it; at which distance the window goes blind;
how little of this shows on real names; and what MLA's small cache costs in multiplications.

In the code      In the papers      Meaning                                 Here (controls differ)
num_heads        n_h, H             query heads                                     4
num_kv_heads     n_kv, G            key heads, and as many value heads              4, 2 or 1
head_dim         d_h, d_k           entries of one query, key or value              4
latent           c_t^KV             MLA: what keys and values are computed from     [N][12]
rope_key         k_t^R              MLA: the key that knows its position            [N][4]
down             W^DKV              makes the latent from a token's vector          [12][16]
up_key, up_value W^UK, W^UV         make keys and values from the latent            [16][12]
spans            mask               which rows each row may read                    N pairs
bag                                 the table rows whose sum is a token's vector    a list

Left out: MLA's low-rank queries (they save memory in training), attention sinks, quantised caches,
paged memory (micropaged), states that do not grow (microssm), and time: the tables count instead.

A number marked [results: ...] is not from this run: it was recorded from a run with one or two
constants changed, and stands in results/microattention.json under that key.

Read first: microgpt.

Papers: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762 (MHA). Shazeer, "Fast
Transformer Decoding: One Write-Head is All You Need", 2019, arXiv:1911.02150 (MQA). Ainslie et
al., "GQA", 2023, arXiv:2305.13245. DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434 (MLA), and
"DeepSeek-V3 Technical Report", 2024, arXiv:2412.19437. Beltagy et al., "Longformer", 2020,
arXiv:2004.05150 (windows). Su et al., "RoFormer", 2021, arXiv:2104.09864 (RoPE).
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import urllib.request
from collections import deque
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
WIDTH = 16  # entries of a token's vector
WINDOW = 8  # tokens that the window layout can read, the token itself included
ROPE_BASE = 100.0  # the slowest pair of entries turns by 1/10 radian per position

# The layouts to train, in the order of the tables.
LAYOUTS = ("MHA", "GQA", "MQA", "MLA", "window", "MQA, 8 queries", "one wide head")
NUM_KEYS = 10  # that a fact can have
NUM_FACTS = 8  # in one text, with different keys
NUM_QUESTIONS = 8  # after the facts, each about a different fact
NUM_ATTRIBUTES = 6  # of every fact
NUM_VALUES = 3  # that an attribute can have
FACTS_HAVE_POSITIONS = False  # the order of the facts means nothing, so RoPE is off for them
FACT_STEPS = 300
FACT_BATCH = 3  # texts per step
WARM_UP_STEPS = 30  # Adam's means know few batches at first: the rate starts low
FACT_RATE = 0.03  # before it is scaled, as all rates here; it falls linearly to almost 0
NUM_TEST_TEXTS = 60

NAME_LAYOUTS = ("MHA", "MQA", "MLA")  # to compare on real names
NAME_HIDDEN = 32  # hidden units of the MLP; on the facts there is none
NAME_STEPS = 150
NAME_BATCH = 4  # names per step
NAME_RATE = 0.02
NUM_HELD_OUT = 1000  # names that are never trained on
NUM_TEST_NAMES = 200  # of these, to measure on

MQA_VALUE_FLOATS = 4  # through which a perfect look-up has to pass; see the first appendix
CODE_STEPS = 600
CODE_RATE = 0.05
LENGTHS = (16, 64, 256)  # tokens in the cache when the cost of one more is counted

# === THE TASK: RECALL A FACT ===

# A text is 8 facts and then 8 questions. A fact is one token: the sum of the vectors of its key
# and of its six attributes. A question is the sum of the key's vector and a question mark, and the
# model must name all six attributes. Tokens meet in one attention layer only, so an answer can only
# come out of what the fact left in the cache.
#
# How many floats must a fact leave? All six attributes have to pass through attention's value v,
# and from v to the logits everything is linear. Suppose that attention reads exactly the right
# fact. Allow two of the three possibilities for each attribute, and write b_i = +1 or -1 for the
# one that the fact has. Let s_i be the difference of their two logits. Then s = M v + constant, and
# answer i is right if s_i has the sign of b_i. If v has fewer than six floats, M has a rank below
# six, so there is a vector u, not zero, with u M = 0, and the sum u_1 s_1 + ... + u_6 s_6 is the
# same for all facts with this key. But for b = sign(u) right answers would make it positive, and
# for b = -sign(u) negative. So with fewer than six value floats some fact is answered wrongly.
#
# MQA's value has four. How much can four carry? The first appendix trains such a code without
# attention. With three attributes instead of six, four floats are enough: the better layout of 8
# floats then recalls 1.000 [results: easy_facts.quarter_cache].

# The table's rows: keys, then the question mark, then the values of attribute 0, 1, ...
QUESTION = NUM_KEYS


def new_text(rng: random.Random) -> tuple[list[list[int]], list[list[int]], list[int]]:
    """One text: its tokens, each as a bag of rows of the table; for each question the six right
    values; and how many tokens back the fact stands.
    """
    first_value = NUM_KEYS + 1
    keys = rng.sample(range(NUM_KEYS), NUM_FACTS)
    facts = [[rng.randrange(NUM_VALUES) for _ in range(NUM_ATTRIBUTES)] for _ in keys]
    bags = [
        [key, *[first_value + a * NUM_VALUES + value for a, value in enumerate(values)]]
        for key, values in zip(keys, facts)
    ]
    asked = rng.sample(range(NUM_FACTS), NUM_QUESTIONS)
    bags += [[keys[place], QUESTION] for place in asked]
    distances = [NUM_FACTS + n - place for n, place in enumerate(asked)]
    return bags, [facts[place] for place in asked], distances


# === WHAT A TOKEN LEAVES: MHA, GQA, MQA AND THE WINDOW ===

# A layer has two sides. keep() computes what tokens leave behind: this is the cache, and here the
# layouts differ. attend() computes the queries and reads. With num_kv_heads = num_heads it is MHA,
# with 1 it is MQA, between them GQA. Query head h reads key and value head h // (H / G):
#
#     num_kv_heads = 2     query heads  0 1 2 3     one token leaves   k0 k1 v0 v1
#                          read         0 0 1 1                        2 * 2 heads * 4 = 16 floats
#
# In general one token leaves 2 G d floats in each layer: MHA 2 H d, MQA 2 d.
#
# MQA is not attention with a single head: four queries still look for four different things, and
# each has its own attention weights. Only what they look through is shared. In production:
# torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True); fused
# kernels read a shared head once for its whole group, where we repeat it. Llama 3 and the
# dense Qwen3 models use GQA with 8 key and value heads. Windows mostly alternate with full layers:
# Gemma 3 from 4B on has five layers of W = 1,024 tokens for each full one. (L layers of W reach
# back L (W - 1) tokens, but only by passing things on.) The types Kept, Spans, Row and Rows in the
# signatures are lists and pairs, see APPENDIX: REPORT AND HELPERS.


class GroupedAttention:
    """num_heads query heads over num_kv_heads key and value heads; window: the last tokens only.

    Ainslie et al., "GQA", 2023, arXiv:2305.13245. No biases. The matrices start with standard
    deviation columns^-0.5, so that a normed input gives queries, keys and values of size about 1.
    """

    window: int | None = None  # None: every token stays readable

    def __init__(
        self, num_heads: int, num_kv_heads: int, head_dim: int, rng: random.Random
    ) -> None:
        if num_heads % num_kv_heads:
            raise ValueError(f"{num_heads} query heads cannot share {num_kv_heads} heads evenly")
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, head_dim
        self.query = matrix(num_heads * head_dim, WIDTH, rng)
        self.key = matrix(num_kv_heads * head_dim, WIDTH, rng)
        self.value = matrix(num_kv_heads * head_dim, WIDTH, rng)
        self.out = matrix(WIDTH, num_heads * head_dim, rng)

    def keep(self, x: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x [N][16] -> what each token leaves: keys [N][G*d], values [N][G*d]."""
        # RoPE turns queries and keys by angles that grow with the position. Of the two
        # positions only the distance then enters the product of a query with a key. A key can be
        # turned before it is stored, once and for all.
        keys = rotate(linear(x, self.key), self.num_kv_heads, positions)
        return keys, linear(x, self.value)

    def queries(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """x [N][16] -> [N][H*d]."""
        return rotate(linear(x, self.query), self.num_heads, positions)

    def attend(self, x: Tensor, positions: Sequence[int], kept: Kept, spans: Spans) -> Tensor:
        """N tokens x [N][16] read what M tokens have left, each within its span -> [N][16]."""
        times = self.num_heads // self.num_kv_heads
        keys, values = [repeat_heads(part, self.num_kv_heads, times) for part in kept]
        q = self.queries(x, positions)
        found = scaled_dot_product_attention(q, keys, values, self.num_heads, spans)
        return linear(found, self.out)


# === A LATENT INSTEAD OF KEYS AND VALUES: MLA ===

# GQA makes the cache smaller by giving up heads. MLA keeps a key and a value for every head, but
# does not store them. It stores what they are computed from:
#
#     DeepSeek-V2, eq. 9 to 19                         here
#     c_t = RMSNorm(W^DKV h_t)                         latent = rms_norm(linear(x, down))
#     k_t,h = [W^UK_h c_t ; RoPE(W^KR h_t)]            join_heads_of(up_key latent, rope_key)
#     v_t,h = W^UV_h c_t                               linear(latent, up_value)
#     cached: c_t and RoPE(W^KR h_t)                   12 + 4 floats instead of 32
#
# The norm (in the paper's text, not in its equations) keeps the latent at one size, whatever the
# down-projection does. The scores are scaled by (4 + 4)^-0.5, since a whole key has 4 + 4 entries.
# Why is the position in entries of its own? See DECODING: what makes MLA cheap is to move W^UK from
# the keys to the query, and a rotation between the two, different for every token, could not be
# moved along. So the latent has no position, and a small extra key, shared by all heads, carries
# it. (On the facts, where RoPE is off, it is just four more entries of the key.) DeepSeek-V3 and
# Kimi K2 use MLA.


class LatentAttention:
    """MLA: a latent and one rotated key per token, from which every head gets its key and value.

    DeepSeek-AI, "DeepSeek-V2", 2024, arXiv:2405.04434, section 2.1.
    """

    window = None

    def __init__(
        self, num_heads: int, head_dim: int, latent_dim: int, rope_dim: int, rng: random.Random
    ) -> None:
        self.num_heads, self.head_dim = num_heads, head_dim
        self.latent_dim, self.rope_dim = latent_dim, rope_dim
        self.query = matrix(num_heads * head_dim, WIDTH, rng)
        self.rope_query = matrix(num_heads * rope_dim, WIDTH, rng)
        self.down = matrix(latent_dim, WIDTH, rng)
        self.rope_key = matrix(rope_dim, WIDTH, rng)
        self.up_key = matrix(num_heads * head_dim, latent_dim, rng)
        self.up_value = matrix(num_heads * head_dim, latent_dim, rng)
        self.out = matrix(WIDTH, num_heads * head_dim, rng)

    def keep(self, x: Tensor, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        """x [N][16] -> what each token leaves: latents [N][12], rotated keys [N][4]."""
        return rms_norm(linear(x, self.down)), rotate(linear(x, self.rope_key), 1, positions)

    def queries(self, x: Tensor, positions: Sequence[int]) -> Tensor:
        """x [N][16] -> [N][H*(d + 4)]: for every head the plain part, then the rotated part."""
        rotated = rotate(linear(x, self.rope_query), self.num_heads, positions)
        return join_heads_of(linear(x, self.query), rotated, self.num_heads)

    def attend(self, x: Tensor, positions: Sequence[int], kept: Kept, spans: Spans) -> Tensor:
        """The same as above. In training all keys and values are computed (expanded) at once."""
        latents, rope_keys = kept
        rope_keys = repeat_heads(rope_keys, 1, self.num_heads)
        keys = join_heads_of(linear(latents, self.up_key), rope_keys, self.num_heads)
        values = linear(latents, self.up_value)
        q = self.queries(x, positions)
        found = scaled_dot_product_attention(q, keys, values, self.num_heads, spans)
        return linear(found, self.out)


# The last two layouts are there to test other explanations. If MQA fails because it has too few
# parameters or query heads, eight query heads must help: with MQA's cache they make more parameters
# than MHA has. If recall needs several key heads, one wide head must fail: it has fewer parameters
# than MQA, but GQA's cache. Or is 300 steps too short? With 900 the worst layout of 16 floats
# reaches 1.000 [results: three_times_longer.half_cache], the better one of 8 floats
# 0.829 [results: three_times_longer.quarter_cache], about what the code without attention can do.
#
# Inside of its window, recall is not yet near 1 after 300 steps; after 900 the drop at the edge is
# 0.667 [results: three_times_longer.window_cliff], all that lies between 1.0 and guessing.
#
# The number of floats is not all, though: they must be of use to the task. In these texts the
# order means nothing. If the facts are given positions all the same, RoPE turns the keys, and with
# the same steps MHA reaches only 0.734 [results: with_positions.full_cache].


def new_layer(layout: str, rng: random.Random) -> GroupedAttention | LatentAttention:
    """A layer that knows nothing, by the name of its layout."""
    if layout == "MLA":
        return LatentAttention(num_heads=4, head_dim=4, latent_dim=12, rope_dim=4, rng=rng)
    num_heads, num_kv_heads, head_dim = {
        "MHA": (4, 4, 4),
        "GQA": (4, 2, 4),
        "MQA": (4, 1, 4),
        "window": (4, 4, 4),
        "MQA, 8 queries": (8, 1, 4),
        "one wide head": (1, 1, 8),
    }[layout]
    layer = GroupedAttention(num_heads, num_kv_heads, head_dim, rng)
    layer.window = WINDOW if layout == "window" else None
    return layer


# === THE MODEL AND ITS TRAINING ===

# Around the layer there is as little as possible: a table of vectors, the layer with its residual,
# and a matrix for the logits; for names, an MLP as well. Every token leaves something behind, but
# only those whose logits are wanted need a query: these are the rows called `asking`.


class Model:
    """Token vectors, one attention layer, an MLP if hidden > 0, and logits."""

    def __init__(
        self, layout: str, table_rows: int, num_logits: int, hidden: int, rng: random.Random
    ) -> None:
        # Larger than the rest, so that Adam's steps of fixed size turn these vectors more slowly.
        self.table = matrix(table_rows, WIDTH, rng, 0.5)
        self.layer = new_layer(layout, rng)
        self.mlp = [matrix(hidden, WIDTH, rng), matrix(WIDTH, hidden, rng)] if hidden else []
        self.head = matrix(num_logits, WIDTH, rng)
        self.has_positions = bool(hidden) or FACTS_HAVE_POSITIONS

    def vectors(self, bags: Sequence[Sequence[int]]) -> Tensor:
        """N bags of table rows -> [N][16], normed: a token's vector is the sum of its bag."""
        return rms_norm(embedding_bag(self.table, bags))

    def positions(self, count: int) -> list[int]:
        """0, 1, 2, ...; or all 0, where the order means nothing: RoPE then turns nothing."""
        return list(range(count)) if self.has_positions else [0] * count

    def logits(self, x: Tensor, found: Tensor) -> Tensor:
        """Residual stream x and what attention found, both [N][16] -> [N][num_logits]."""
        x = x + found
        if self.mlp:
            x = x + linear(relu(linear(rms_norm(x), self.mlp[0])), self.mlp[1])
        return linear(x, self.head)

    def forward(self, texts: Sequence[Sequence[Sequence[int]]], first_asking: int = 0) -> Tensor:
        """Texts, each a list of bags -> the logits of their tokens from first_asking on."""
        bags, positions, asking, spans = [], [], [], []
        window = self.layer.window or 10**9
        for text in texts:
            start = len(bags)
            bags += text
            positions += self.positions(len(text))
            for row in range(start + first_asking, len(bags)):
                asking.append(row)
                # Causal: a row reads up to itself. A window of W is the row itself and the W - 1
                # before it, as for Mistral in transformers. (Some libraries let W + 1 be read.)
                spans.append((max(start, row + 1 - window), row + 1))
        x = self.vectors(bags)
        kept = self.layer.keep(x, positions)
        x_asking = embedding(x, asking)
        found = self.layer.attend(x_asking, [positions[row] for row in asking], kept, spans)
        return self.logits(x_asking, found)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        inner = [part for part in vars(self.layer).values() if isinstance(part, Tensor)]
        return [self.table, *inner, *self.mlp, self.head]


def answer(model: Model, texts: Sequence[tuple]) -> tuple[Tensor, list[int]]:
    """Read texts of facts -> logits [texts * 8 * 6][3] of every attribute asked, right values."""
    logits = model.forward([bags for bags, _, _ in texts], NUM_FACTS)
    targets = [value for _, answers, _ in texts for values in answers for value in values]
    return reshape(logits, NUM_VALUES), targets


def train(model: Model, next_batch: Callable, num_steps: int, rate: float) -> None:
    """Change the model's matrices step by step; next_batch() returns logits and right answers."""
    optimizer = Adam(model.parameters(), betas=(0.9, 0.99))
    losses: list[float] = []
    for step in range(1, num_steps + 1):
        loss = cross_entropy(*next_batch())
        loss.backward()
        warm_up = min(1.0, step / WARM_UP_STEPS)
        optimizer.step(rate * warm_up * (1.0 - (step - 1) / num_steps))
        losses.append(loss.item())
        report_step(step, num_steps, losses)


def train_on_facts(layout: str) -> Model:
    """A fresh model that has practised; every layout gets the same texts in the same order."""
    rng, num_logits = random.Random(SEED), NUM_ATTRIBUTES * NUM_VALUES
    model = Model(layout, NUM_KEYS + 1 + num_logits, num_logits, 0, random.Random(SEED))

    def next_batch() -> tuple[Tensor, list[int]]:
        return answer(model, [new_text(rng) for _ in range(FACT_BATCH)])

    train(model, next_batch, FACT_STEPS, FACT_RATE)
    return model


# === DECODING WITH A LIVE CACHE ===

# A model writes one token at a time. The new token leaves its row in the cache, then its queries
# read all rows. Nothing else of the past is needed. A window's cache is a ring: when a ninth token
# comes, the oldest goes (deque(maxlen=8)). counter.dot is dot, and counts its multiply-adds.


def read_cache(query: Row, keys: Rows, values: Rows, scale: float, counter: Counter) -> list[float]:
    """One query of one head: p = softmax of all q . k_j * scale, then the sum of p_j v_j."""
    weights = softmax_row([counter.dot(query, key) * scale for key in keys])
    return [counter.dot(weights, column) for column in zip(*values)]


def decode_grouped(layer: GroupedAttention, query: Row, cache: Rows, counter: Counter) -> Row:
    """What the heads find, [H*d]. A row of the cache is k_0 ... k_G-1 v_0 ... v_G-1."""
    size, found = layer.head_dim, []
    for head in range(layer.num_heads):
        group = head // (layer.num_heads // layer.num_kv_heads)
        k, v = group * size, (layer.num_kv_heads + group) * size
        keys = [row[k : k + size] for row in cache]
        values = [row[v : v + size] for row in cache]
        q = query[head * size : (head + 1) * size]
        found += read_cache(q, keys, values, size**-0.5, counter)
    return found


# MLA has two ways to decode. The plain one computes the keys and values of all cached tokens again
# in every step. The other one uses that W^UK is the same matrix for all of them:
#
#     q . (W^UK c) = (W^UK^T q) . c          sum_j p_j (W^UV c_j) = W^UV (sum_j p_j c_j)
#
# For example W^UK = ((3, 1), (0, 2)), c = (1, 1), q = (1, 2): W^UK c = (4, 2), and q . (4, 2) = 8;
# W^UK^T q = (3, 5), and (3, 5) . c = 8. So the query is multiplied by W^UK once, and then meets
# the latents themselves: W^UK has been absorbed into the query. What remains is MQA with one wide
# key head, the row as it lies in the cache, whose first 12 entries are the value too. vLLM and
# SGLang decode in this way, with kernels such as DeepSeek's FlashMLA, and expand for the prompt,
# where one expansion serves many queries.


def decode_expanded(layer: LatentAttention, query: Row, cache: Rows, counter: Counter) -> Row:
    """What the heads find, [H*d], with every key and value computed from its latent."""
    size, found = layer.head_dim + layer.rope_dim, []
    for head in range(layer.num_heads):
        rows = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        keys, values = [], []
        for row in cache:
            latent, rope_key = row[: layer.latent_dim], row[layer.latent_dim :]
            keys.append([counter.dot(latent, w) for w in layer.up_key.data[rows]] + rope_key)
            values.append([counter.dot(latent, w) for w in layer.up_value.data[rows]])
        q = query[head * size : (head + 1) * size]
        found += read_cache(q, keys, values, size**-0.5, counter)
    return found


def decode_absorbed(layer: LatentAttention, query: Row, cache: Rows, counter: Counter) -> Row:
    """The same numbers, read off the latents. The scale is that of the expanded keys."""
    size, found = layer.head_dim + layer.rope_dim, []
    latents = [row[: layer.latent_dim] for row in cache]
    for head in range(layer.num_heads):
        rows = slice(head * layer.head_dim, (head + 1) * layer.head_dim)
        q = query[head * size : (head + 1) * size]
        plain, rotated = q[: layer.head_dim], q[layer.head_dim :]
        absorbed = [counter.dot(plain, column) for column in zip(*layer.up_key.data[rows])]
        mixed = read_cache(absorbed + rotated, cache, latents, size**-0.5, counter)
        found += [counter.dot(mixed, w) for w in layer.up_value.data[rows]]
    return found


def decode(
    model: Model, bag: Sequence[int], position: int, cache: deque, counter: Counter, way=None
) -> list[float]:
    """Read one more token -> its logits; the cache grows by the row that the token leaves.

    way is the function that reads the cache; by default the layout's usual one.
    """
    x = model.vectors([bag])
    first, second = model.layer.keep(x, [position])
    cache.append(first.data[0] + second.data[0])
    way = way or ways_to_decode(model.layer)[0]
    query = model.layer.queries(x, [position]).data[0]
    found = Tensor([way(model.layer, query, cache, counter)])
    return model.logits(x, linear(found, model.layer.out)).data[0]


# === WHAT IS MEASURED ===

# Two things: that decoding from the cache gives what the full forward pass gives, and what one
# more token costs when the cache is already long. The floats are counted in the live cache, and the
# multiply-adds as they are done, since Python's own clock hides how slow memory is.
#
# "MQA and GQA save computation" is a common mistake. In attention they multiply exactly as often as
# MHA; see the table. They save reading. A GPU can do hundreds of multiply-adds in the time in
# which it loads one float from memory. When one token is decoded, MHA does one multiply-add per
# cached float, so it waits for memory. (Larger batches do not help, as they do with weights: every
# text has a cache of its own.) MLA goes further: per cached token of one layer, DeepSeek-V3
# does 128 (576 + 512) = 139,264 multiply-adds, where MHA with its heads would do
# 128 (192 + 128) = 40,960. But it loads 576 floats instead of 40,960, 71 times fewer.
# That is 242 multiply-adds per float: about as many as a GPU can do while it loads one.


def decoding_error(model: Model, text: Sequence[Sequence[int]]) -> float:
    """The largest difference between a logit of the full forward pass and one of decoding with a
    live cache, in every way in which the layout can decode.
    """
    full = model.forward([text]).data
    worst = 0.0
    for way in ways_to_decode(model.layer):
        cache = deque(maxlen=model.layer.window)
        for bag, position, row in zip(text, model.positions(len(text)), full):
            cached = decode(model, bag, position, cache, Counter(), way)
            worst = max(worst, *[abs(a - b) for a, b in zip(cached, row)])
    return worst


def cost_of_one_token(model: Model, length: int, way=None) -> tuple[int, int]:
    """(floats in the cache, multiply-adds in attention) when a text's last token is decoded."""
    cache = deque(maxlen=model.layer.window)
    for n in range(length):
        counter = Counter()  # only the last token's work remains in it
        is_last = n == length - 1
        decode(model, [n % NUM_KEYS], n, cache, counter, way if is_last else leave_only)
    return sum(map(len, cache)), counter.multiply_adds


def main() -> dict[str, object]:
    """Train every layout on the facts and some on names, decode with each, and count."""
    tests = [new_text(random.Random(SEED + n)) for n in range(1, NUM_TEST_TEXTS + 1)]
    report_task(tests[0])
    models, by_distance = {}, {}
    for layout in LAYOUTS:
        print(f"\nTraining on facts: {layout}")
        models[layout] = train_on_facts(layout)
        by_distance[layout] = recall_by_distance(models[layout], tests)
    recall = {layout: mean(sum(shares.values(), [])) for layout, shares in by_distance.items()}
    floats = {layout: cost_of_one_token(model, 1)[0] for layout, model in models.items()}
    limit = perfect_look_up(MQA_VALUE_FLOATS, random.Random(SEED))
    report_recall(models, floats, recall, limit)
    inside, outside = report_distances(by_distance["window"])
    nll, errors = compare_on_names()
    errors += [decoding_error(model, bags) for model in models.values() for bags, _, _ in tests[:3]]
    report_costs(models)
    headline = {
        "full_cache": recall["MHA"],
        "half_cache": min([recall[name] for name in LAYOUTS if floats[name] == floats["GQA"]]),
        "quarter_cache": max([recall[name] for name in LAYOUTS if floats[name] == floats["MQA"]]),
        "window_cliff": inside - outside,
        "names_spread": max(nll.values()) - min(nll.values()),
        "decode_error": max(errors),
    }
    report_conclusion(headline, models, recall, limit)
    return {**headline, "details": {"recall": recall, "floats": floats, "limit": limit, "nll": nll}}


# === APPENDIX: THE LIMIT WITH A PERFECT LOOK-UP ===

# What could a value of four floats hand over at best? Here attention is left out: the code of the
# right fact is simply given to the read-out, and code and read-out are trained together. It is the
# best code that this short training has found, not a proven maximum: after 900 steps the better
# layout of 8 floats is a little above it. What is proven (see THE TASK) is that 1.0 takes six
# floats. And six are enough: one for each attribute, at three different heights.


def perfect_look_up(num_floats: int, rng: random.Random) -> float:
    """Recall of facts that pass through num_floats linear numbers and nothing else."""
    size = NUM_ATTRIBUTES * NUM_VALUES
    code, read_out = matrix(size, num_floats, rng), matrix(size, num_floats, rng)
    bias = Tensor([[0.0] * size])
    optimizer = Adam([code, read_out, bias], betas=(0.9, 0.99))

    def read_facts(count: int) -> tuple[Tensor, list[int]]:
        attributes = range(0, size, NUM_VALUES)
        bags = [[a + rng.randrange(NUM_VALUES) for a in attributes] for _ in range(count)]
        logits = linear(embedding_bag(code, bags), read_out, bias)
        return reshape(logits, NUM_VALUES), [row % NUM_VALUES for bag in bags for row in bag]

    for step in range(CODE_STEPS):
        cross_entropy(*read_facts(24)).backward()
        optimizer.step(CODE_RATE * (1.0 - step / CODE_STEPS))
    return mean(which_are_right(*read_facts(1000)))


# === APPENDIX: NAMES ===

# The same model on real text, now with an MLP and with RoPE. Row i reads the letters up to i. Can
# this test see a poor layout at all? One that reads only the last letter is worse than MHA by
# 0.124 [results: blind_names.names_spread] nats, so it can. But most of what the earlier letters
# are worth, MQA and MLA gain too.


def predict(model: Model, names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read names -> logits [N][27] for the N symbols that follow, and these symbols."""
    sequences = [encode(name) for name in names]
    logits = model.forward([[[i] for i in sequence[:-1]] for sequence in sequences])
    return logits, [symbol for sequence in sequences for symbol in sequence[1:]]


def train_on_names(layout: str, names: Sequence[str]) -> Model:
    """A fresh model that has learned to guess the next letter; the same batches for each."""
    model = Model(layout, len(ALPHABET), len(ALPHABET), NAME_HIDDEN, random.Random(SEED))
    batches = iter([names[i : i + NAME_BATCH] for i in range(0, len(names), NAME_BATCH)])
    train(model, lambda: predict(model, next(batches)), NAME_STEPS, NAME_RATE)
    return model


def generate(model: Model, rng: random.Random) -> str:
    """Invent a name of at most 16 letters, with the model's own live cache."""
    name, symbol, cache = "", 0, deque(maxlen=model.layer.window)
    for position in range(16):
        logits = decode(model, [symbol], position, cache, Counter())
        symbol = rng.choices(range(len(ALPHABET)), softmax_row(logits))[0]
        if symbol == 0:
            break
        name += ALPHABET[symbol]
    return name


def compare_on_names() -> tuple[dict[str, float], list[float]]:
    """Train some layouts on names -> held-out nll of each, and the errors of cached decoding."""
    names = load_names()
    print(f"\nOn names. Knowing nothing, a letter costs ln 27 = {log(27):.2f} nats (nll).")
    random.Random(SEED).shuffle(names)
    training, test = names[:-NUM_HELD_OUT], names[-NUM_TEST_NAMES:]
    nll, errors = {}, []
    for layout in NAME_LAYOUTS:
        print(f"Training on names: {layout}")
        model = train_on_names(layout, training)
        nll[layout] = cross_entropy(*predict(model, test)).item()
        invented = [generate(model, random.Random(SEED + n)) for n in range(5)]
        print(f"held-out nll {nll[layout]:.3f}; it writes {', '.join(invented)}")
        errors += [decoding_error(model, [[i] for i in encode(name)[:-1]]) for name in test[:5]]
    return nll, errors


# === APPENDIX: REPORT AND HELPERS ===


# The types in the signatures.
Row = Sequence[float]
Rows = Sequence[Row]
Kept = tuple  # of two Tensors, [M][...] each: what M tokens leave in the cache
Spans = Sequence[tuple[int, int]]


class Counter:
    """dot() that counts its multiply-adds."""

    def __init__(self) -> None:
        self.multiply_adds = 0

    def dot(self, a: Row, b: Row) -> float:
        self.multiply_adds += len(a)
        return dot(a, b)


def matrix(rows: int, columns: int, rng: random.Random, spread: float | None = None) -> Tensor:
    """Gaussian entries. With standard deviation columns^-0.5 outputs are as large as inputs."""
    spread = spread or columns**-0.5
    return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])


def num_numbers(model: Model) -> int:
    """How many numbers training may change."""
    return sum([len(p.data) * len(p.data[0]) for p in model.parameters()])


def mean(numbers: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(numbers) / len(numbers)


def report_task(text: tuple) -> None:
    """The facts before anything is learned."""
    bags, _, distances = text
    attributes = "".join(["abc"[(row - NUM_KEYS - 1) % NUM_VALUES] for row in bags[0][1:]])
    key = bags[NUM_FACTS][0]
    print(
        f"A text is {NUM_FACTS} facts and {NUM_QUESTIONS} questions. Its first fact, for example:"
    )
    print(f"  key {bags[0][0]}, attributes {attributes}")
    print(f"Its first question: which attributes has key {key}? (That fact stands at")
    print(f"distance {distances[0]}; the token just before has 1.)")
    print(f"A guess is right in {1 / NUM_VALUES:.0%} of all cases.")


def report_step(step: int, num_steps: int, losses: list[float]) -> None:
    """Twice a training, print the mean loss since the last report and forget it."""
    if step % max(1, num_steps // 2) == 0:
        print(f"step {step:4d}/{num_steps} | loss {mean(losses):.4f}", flush=True)
        losses.clear()


def which_are_right(logits: Tensor, targets: Sequence[int]) -> list[bool]:
    """For every row: is the target's logit the largest?"""
    return [row.index(max(row)) == target for row, target in zip(logits.data, targets)]


def recall_by_distance(model: Model, texts: Sequence[tuple]) -> dict[int, list[float]]:
    """distance -> for every question asked over it, the share of the six attributes recalled."""
    right = which_are_right(*answer(model, texts))
    result: dict[int, list[float]] = {}
    for n, distance in enumerate([d for _, _, distances in texts for d in distances]):
        share = mean(right[n * NUM_ATTRIBUTES : (n + 1) * NUM_ATTRIBUTES])
        result.setdefault(distance, []).append(share)
    return result


def ways_to_decode(layer: GroupedAttention | LatentAttention) -> list[Callable]:
    """The functions that can read this layer's cache, the usual one first."""
    is_latent = isinstance(layer, LatentAttention)
    return [decode_absorbed, decode_expanded] if is_latent else [decode_grouped]


def leave_only(layer: object, query: Row, cache: Rows, counter: Counter) -> Row:
    """A way to decode that reads nothing: to fill a cache."""
    return [0.0] * len(layer.out.data[0])


def row_picture(layer: GroupedAttention | LatentAttention) -> str:
    """One row of the cache, a letter for each float."""
    if isinstance(layer, LatentAttention):
        return "c" * layer.latent_dim + "r" * layer.rope_dim
    return "".join(
        [
            letter * layer.head_dim if head % 2 else letter.upper() * layer.head_dim
            for letter in "kv"
            for head in range(layer.num_kv_heads)
        ]
    )


def report_recall(
    models: dict[str, Model], floats: dict[str, int], recall: dict[str, float], limit: float
) -> None:
    """One line per layout: what a token leaves, parameters, recall."""
    print("\nWhat one token leaves in the cache: k keys, v values (a new head where the case")
    print(
        f"changes), c latent, r rotated key; the window keeps {WINDOW} such rows, the others all."
    )
    print("Recall: share of the attributes that are named rightly in new texts.")
    print("layout          one token in the cache            floats  parameters  recall")
    for name, model in models.items():
        size = num_numbers(model)
        picture = row_picture(model.layer)
        print(f"{name:<16}{picture:<34}{floats[name]:>6}{size:>12,}{recall[name]:>8.3f}")
    title = f"limit: {MQA_VALUE_FLOATS} value floats, look-up perfect"
    print(f"{title:<68}{limit:>8.3f}")
    print(f"{'guessing':<68}{1 / NUM_VALUES:>8.3f}")


def report_distances(by_distance: dict[int, list[float]]) -> tuple[float, float]:
    """Bars of the window layout's recall by distance -> mean inside of the window, outside."""
    print(f"\nThe window of {WINDOW} tokens: recall by the distance of question and fact")
    for distance, shares in sorted(by_distance.items()):
        bar = "#" * round(40 * mean(shares))
        print(f"{distance:4d}  {mean(shares):.2f}  {bar}")
    near = [share for d, shares in by_distance.items() for share in shares if d < WINDOW]
    far = [share for d, shares in by_distance.items() for share in shares if d >= WINDOW]
    return mean(near or [1 / NUM_VALUES]), mean(far or [1 / NUM_VALUES])


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The least-squares slope of log(cost) over log(size): cost grows like size^slope.

    >>> round(exponent([1, 10, 100], [7, 700, 70000]), 6)
    2.0
    """
    x, y = [log(size) for size in sizes], [log(cost) for cost in costs]
    mean_x, mean_y = mean(x), mean(y)
    slope = sum([(a - mean_x) * (b - mean_y) for a, b in zip(x, y)])
    return slope / sum([(a - mean_x) ** 2 for a in x])


def report_costs(models: dict[str, Model]) -> None:
    """How the cache and the work for one more token grow, and what real models keep."""
    print("\nOne more token when the cache holds ...: floats kept, and multiply-adds in")
    print("attention; both as counted. Growth: the exponent of the length t.")
    print(f"{'':<14}{'floats kept':>15}{'growth':>14}{'multiply-adds':>21}{'per float':>11}")
    print(f"{'tokens':<12}" + "".join([f"{n:>6,}" for n in LENGTHS]) + f"{LENGTHS[-1]:>27,}")
    ways = [(name, models[name], None) for name in LAYOUTS[:5]]
    ways.insert(4, ("  expanded", models["MLA"], decode_expanded))
    for name, model, way in ways:
        costs = [cost_of_one_token(model, n, way) for n in LENGTHS]
        kept, work = [list(column) for column in zip(*costs)]
        cells = "".join([f"{n:>6,}" for n in kept])
        growth = f"t^{exponent(LENGTHS, kept):.2f}"
        print(f"{name:<12}{cells}{growth:>10}{work[-1]:>19,}{work[-1] / kept[-1]:>11.1f}")
    print("\nReal models, bytes per token of text at 2 bytes per float")
    for name, blocks, size in (
        ("Llama 2 7B, MHA", 32, 2 * 32 * 128),
        ("Llama 3 70B, GQA with 8 of 64 heads", 80, 2 * 8 * 128),
        ("DeepSeek-V3, MLA", 61, 512 + 64),
        ("DeepSeek-V3, if it were MHA", 61, 128 * (192 + 128)),
    ):
        print(f"{name:<36}{blocks} blocks * {size:>6,} floats {2 * blocks * size:>11,} bytes")


def report_conclusion(
    numbers: dict[str, float], models: dict[str, Model], recall: dict[str, float], limit: float
) -> None:
    """Say in words what the run has shown."""
    full, half, quarter = [numbers[f"{part}_cache"] for part in ("full", "half", "quarter")]
    print(f"\nDecoding from the cache changes no logit by more than {numbers['decode_error']:.0e}.")
    print("Recall by floats per token:")
    print(f"  32, MHA                          {full:.3f}")
    print(f"  16, the worst of three layouts   {half:.3f}")
    print(f"   8, the better of two layouts    {quarter:.3f}   limit found: {limit:.3f}")
    if full - half < half - quarter:
        print("Half of the cache costs little here, a quarter costs much.")
    many, wide = "MQA, 8 queries", "one wide head"
    sizes = [num_numbers(models[name]) for name in (many, wide)]
    if recall[many] < recall[wide] and sizes[0] > sizes[1]:
        print("Neither parameters nor query heads make up for it:")
        print(f"  {sizes[0]:,} parameters, 8 query heads,  8 floats   {recall[many]:.3f}")
        print(f"  {sizes[1]:,} parameters, 1 query head,  16 floats   {recall[wide]:.3f}")
    if numbers["window_cliff"] > 0.1:
        print(f"The window loses {numbers['window_cliff']:.2f} of recall at its edge.")
    print(f"On names the compared layouts differ by {numbers['names_spread']:.3f} nats.")
    if numbers["names_spread"] < 0.1 < half - quarter:
        print("That test does not show what a small cache has lost: it has to be loaded first.")


# The three operations of this script on Tensors. Each moves or turns columns, so its gradient moves
# or turns them back.


def rotate(x: Tensor, num_heads: int, positions: Sequence[int]) -> Tensor:
    """RoPE: in every head, turn the pair (entry j, entry j + d/2) by the angle position * rate_j:
    x [N][H*d] -> [N][H*d], with rate_j = base^(-2j/d).

    Su et al., "RoFormer", 2021, arXiv:2104.09864, in the arrangement of Llama (rotate_half).
    """
    size, rest = divmod(len(x.data[0]), num_heads)
    if rest or size % 2:
        raise ValueError(f"{len(x.data[0])} columns are not {num_heads} heads of pairs")
    if not any(positions):
        return x  # every angle is 0
    half = size // 2
    rates = [ROPE_BASE ** (-j / half) for j in range(half)]

    def turned(rows: list[list[float]], sign: int) -> list[list[float]]:
        """rows [N][heads * size], each pair turned by sign times its angle -> the same shape."""
        result = []
        for row, position in zip(rows, positions):
            cosines = [math.cos(position * rate) for rate in rates]
            sines = [sign * math.sin(position * rate) for rate in rates]
            out: list[float] = []
            for head in range(0, len(row), size):
                a, b = row[head : head + half], row[head + half : head + size]
                out += map(sub, map(mul, a, cosines), map(mul, b, sines))
                out += map(add, map(mul, b, cosines), map(mul, a, sines))
            result.append(out)
        return result

    # A rotation's transpose turns by the opposite angle.
    return Tensor(turned(x.data, 1), (x,), lambda d_out: (turned(d_out, -1),))


def repeat_heads(x: Tensor, num_heads: int, times: int) -> Tensor:
    """Every head's columns `times` times, side by side: [N][G*d] -> [N][G*times*d].

    This is repeat_kv in transformers, and torch.repeat_interleave over heads.
    """
    if times == 1:
        return x
    size = len(x.data[0]) // num_heads
    starts = range(0, num_heads * size, size)

    # A head that was read `times` times receives the sum of as many gradients.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for row in d_out:
            parts = [row[i : i + size] for i in range(0, len(row), size)]
            groups = [parts[i : i + times] for i in range(0, len(parts), times)]
            d_x.append([sum(column) for group in groups for column in zip(*group)])
        return (d_x,)

    data = [sum([row[i : i + size] * times for i in starts], []) for row in x.data]
    return Tensor(data, (x,), pass_back)


def join_heads_of(a: Tensor, b: Tensor, num_heads: int) -> Tensor:
    """Head by head the columns of a, then those of b: [N][H*d], [N][H*e] -> [N][H*(d+e)]."""
    size_a, size_b = len(a.data[0]) // num_heads, len(b.data[0]) // num_heads
    size = size_a + size_b
    heads = zip(split_heads(a.data, num_heads), split_heads(b.data, num_heads))
    data = join_heads([list(map(add, head_a, head_b)) for head_a, head_b in heads])

    def pass_back(d_out: list[list[float]]) -> tuple:
        starts = range(0, num_heads * size, size)
        d_a = [sum([row[i : i + size_a] for i in starts], []) for row in d_out]
        d_b = [sum([row[i + size_a : i + size] for i in starts], []) for row in d_out]
        return d_a, d_b

    return Tensor(data, (a, b), pass_back)


# === APPENDIX: ENGINE (common/engine.py; microautograd.py derives it) ===

# The inner product, the engine's one primitive: dot([1, 2], [3, 4]) = 1*3 + 2*4 = 11.
# From Python 3.12 on the standard library has it (math.sumprod); before, sum(map(mul, a, b))
# also loops in C. Beware: where lengths differ, sumprod raises but map stops at the shorter one.
dot = getattr(math, "sumprod", None) or (lambda a, b: sum(map(mul, a, b)))


def transpose(a: list[list[float]]) -> list[list[float]]:
    """[N][M] -> [M][N].

    >>> transpose([[1, 2, 3], [4, 5, 6]])
    [[1, 4], [2, 5], [3, 6]]
    """
    return list(map(list, zip(*a)))


def matmul(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][K] times [K][M] -> [N][M]: entry (i, j) is the dot product of row i and column j.

    >>> matmul([[1, 2]], [[3, 4], [5, 6]])
    [[13, 16]]
    """
    columns = list(zip(*b))
    return [[dot(row, column) for column in columns] for row in a]


def softmax_row(scores: list[float]) -> list[float]:
    """Turn scores into positive weights that sum to 1: exp(s_i) / sum_j exp(s_j).

    The largest score is taken off first. It cancels in the fraction, and exp cannot overflow.

    >>> softmax_row([1000.0, 1000.0])
    [0.5, 0.5]
    """
    largest = max(scores)
    exponentials = [exp(score - largest) for score in scores]
    total = sum(exponentials)
    return [value / total for value in exponentials]


def log_sum_exp(scores: list[float]) -> float:
    """log(sum_j exp(s_j)), with the largest score taken out of the sum so that exp stays finite.

    >>> round(log_sum_exp([1000.0, 1000.0]) - 1000.0, 6)
    0.693147
    """
    largest = max(scores)
    return largest + log(sum([exp(score - largest) for score in scores]))


class Tensor:
    """A matrix that remembers how it was made, so that gradients can flow back through it.

    data       [N][M]: list of rows of floats
    grad       None until backward() reaches this tensor, then [N][M]: d(root) / d(data)
    parents    the tensors that it was computed from; empty for a leaf
    pass_back  takes this tensor's gradient and returns one gradient per parent (None: not
               wanted). It gets the gradient as an argument and never refers to its own tensor:
               so there is no reference cycle, and a graph is freed the moment it is dropped.
    """

    __slots__ = ("data", "grad", "parents", "pass_back", "requires_grad")

    def __init__(
        self,
        data: list[list[float]],
        parents: tuple[Tensor, ...] = (),
        pass_back: Callable | None = None,
        requires_grad: bool = True,
    ) -> None:
        self.data = data
        self.grad: list[list[float]] | None = None
        # A result needs a gradient if one of its parents does; otherwise it keeps no graph.
        self.requires_grad = any(p.requires_grad for p in parents) if parents else requires_grad
        self.parents = parents if self.requires_grad else ()
        self.pass_back = pass_back if self.requires_grad else None

    def item(self) -> float:
        """The one number of a [1][1] tensor, such as a loss."""
        ((value,),) = self.data
        return value

    def __add__(self, other: Tensor) -> Tensor:
        """[N][M] + [N][M]. Both parents receive the result's gradient as it is."""
        check_same_shape(self, other)
        data = [list(map(add, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d_out: (d_out, d_out))

    def __sub__(self, other: Tensor) -> Tensor:
        """[N][M] - [N][M]."""
        check_same_shape(self, other)
        data = [list(map(sub, a, b)) for a, b in zip(self.data, other.data)]
        return Tensor(data, (self, other), lambda d: (d, [[-x for x in row] for row in d]))

    def __mul__(self, other: Tensor | float) -> Tensor:
        """Entry by entry: [N][M] * [N][M], or every entry times one constant number."""
        if not isinstance(other, Tensor):
            data = [[value * other for value in row] for row in self.data]
            return Tensor(
                data, (self,), lambda d_out: ([[d * other for d in row] for row in d_out],)
            )
        check_same_shape(self, other)
        a, b = self.data, other.data

        def times(x: list[list[float]], y: list[list[float]]) -> list[list[float]]:
            return [list(map(mul, row_x, row_y)) for row_x, row_y in zip(x, y)]

        # d(a * b) = b da + a db: each factor's gradient is the other factor times d_out.
        return Tensor(times(a, b), (self, other), lambda d: (times(d, b), times(d, a)))

    def backward(self, grad: list[list[float]] | None = None) -> None:
        """Add d(self)/d(tensor) to .grad of every tensor that self was made from.

        grad [N][M] is the gradient to start from; a [1][1] loss starts from 1. The graph is
        taken apart on the way, so that memory falls while gradients flow: a second backward()
        through it raises RuntimeError.
        """
        if grad is None:
            if len(self.data) != 1 or len(self.data[0]) != 1:
                raise ValueError("backward() without a gradient starts from a [1][1] tensor only")
            grad = [[1.0]]
        check_same_shape(self, Tensor(grad))
        # Topological order: every tensor stands after all of its parents. The list is built with
        # an explicit stack, since a long chain would overflow Python's call stack. A tensor goes
        # on the stack twice: on the first visit it is put back below its parents, and on the
        # second they are all in the list, so it follows them.
        order: list[Tensor] = []
        visited: set[Tensor] = set()
        stack = [(self, False)]
        while stack:
            tensor, parents_are_listed = stack.pop()
            if parents_are_listed:
                order.append(tensor)
            elif tensor not in visited:
                visited.add(tensor)
                stack.append((tensor, True))
                stack.extend([(p, False) for p in tensor.parents if p.requires_grad])
        visited.clear()
        self.grad = grad if self.grad is None else add_matrices(self.grad, grad)
        # Backwards through that order a tensor comes after everything made from it: its gradient
        # is complete, all uses added up, before it is passed on to its parents.
        while order:
            tensor = order.pop()
            if tensor.pass_back is None:
                continue
            for parent, part in zip(tensor.parents, tensor.pass_back(tensor.grad)):
                if part is not None and parent.requires_grad:
                    parent.grad = part if parent.grad is None else add_matrices(parent.grad, part)
            tensor.parents, tensor.pass_back = (), raise_graph_is_gone


def add_matrices(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    """[N][M] + [N][M] as a new matrix: a gradient may be shared, so it is never changed in place.

    >>> add_matrices([[1.0, 2.0]], [[10.0, 20.0]])
    [[11.0, 22.0]]
    """
    return [list(map(add, row_a, row_b)) for row_a, row_b in zip(a, b)]


def check_same_shape(a: Tensor, b: Tensor) -> None:
    """Raise ValueError unless both are [N][M]. Nothing is ever stretched to fit."""
    shapes = [(len(tensor.data), len(tensor.data[0])) for tensor in (a, b)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"shapes differ: {shapes[0]} and {shapes[1]}")


def check_is_row(tensor: Tensor, width: int) -> None:
    """Raise ValueError unless the tensor is [1][width], as a bias must be."""
    shape = (len(tensor.data), len(tensor.data[0]))
    if shape != (1, width):
        raise ValueError(f"shapes differ: {shape} and {(1, width)}")


def raise_graph_is_gone(d_out: list[list[float]]) -> None:
    """Stand where a graph has been taken apart by backward()."""
    raise RuntimeError("backward() has already taken this graph apart: run the forward again")


def embedding(weight: Tensor, ids: Sequence[int]) -> Tensor:
    """Pick rows: weight [V][D], ids N whole numbers -> [N][D].

    A row that was picked several times receives the sum of its gradients.
    """
    if not all(0 <= i < len(weight.data) for i in ids):
        raise ValueError(f"an id is not one of the rows 0..{len(weight.data) - 1}")

    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight = [[0.0] * len(weight.data[0])] * len(weight.data)
        for i, d_row in zip(ids, d_out):
            d_weight[i] = list(map(add, d_weight[i], d_row))
        return (d_weight,)

    return Tensor([weight.data[i] for i in ids], (weight,), pass_back)


def embedding_bag(weight: Tensor, bags: Sequence[Sequence[int]]) -> Tensor:
    """Add up rows: weight [V][D], N bags of row numbers -> [N][D]; an empty bag gives zeros."""
    if not all(0 <= i < len(weight.data) for bag in bags for i in bag):
        raise ValueError(f"a bag holds what is not one of the rows 0..{len(weight.data) - 1}")
    zeros = [0.0] * len(weight.data[0])
    out = [list(map(sum, zip(zeros, *[weight.data[i] for i in bag]))) for bag in bags]

    # Every row of a bag receives the bag's gradient. Rows that no bag holds all share one list of
    # zeros, so that a large table costs little; SparseAdam passes them over.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight = [zeros] * len(weight.data)
        for bag, d_row in zip(bags, d_out):
            for i in bag:
                d_weight[i] = list(map(add, d_weight[i], d_row))
        return (d_weight,)

    return Tensor(out, (weight,), pass_back)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [N][in] times the transpose of weight [out][in], plus bias [1][out] -> [N][out].

    Row n of the result holds the dot products of row n of x with every row of weight.
    """
    if len(x.data[0]) != len(weight.data[0]):
        raise ValueError(f"x has {len(x.data[0])} columns, weight {len(weight.data[0])}")
    out = [[dot(row, w) for w in weight.data] for row in x.data]
    if bias is not None:
        check_is_row(bias, len(weight.data))
        out = [list(map(add, row, bias.data[0])) for row in out]

    # y[n][o] = sum_i x[n][i] w[o][i]. So dy/dx = w and dy/dw = x, and with all paths added up
    #   d_x[n][i] = sum_o d_out[n][o] w[o][i]       d_x      = d_out @ weight
    #   d_w[o][i] = sum_n d_out[n][o] x[n][i]       d_weight = transpose(d_out) @ x
    def pass_back(d_out: list[list[float]]) -> tuple:
        columns = transpose(d_out)
        d_x = matmul(d_out, weight.data) if x.requires_grad else None
        d_weight = matmul(columns, x.data) if weight.requires_grad else None
        if bias is None:
            return d_x, d_weight
        return d_x, d_weight, [[sum(column) for column in columns]]

    return Tensor(out, (x, weight) if bias is None else (x, weight, bias), pass_back)


def reshape(x: Tensor, columns: int) -> Tensor:
    """The same numbers in the same order, in rows of another length: x [N][M] -> [N*M/C][C]."""
    width = len(x.data[0])
    if columns < 1 or len(x.data) * width % columns:
        raise ValueError(f"{len(x.data)} x {width} numbers do not fill rows of {columns}")

    def cut(rows: list[list[float]], length: int) -> list[list[float]]:
        numbers = [value for row in rows for value in row]
        return [numbers[i : i + length] for i in range(0, len(numbers), length)]

    return Tensor(cut(x.data, columns), (x,), lambda d_out: (cut(d_out, width),))


def relu(x: Tensor) -> Tensor:
    """max(0, x), entry by entry. The slope is 1 above zero and 0 elsewhere, at zero too."""
    data = [[value if value > 0.0 else 0.0 for value in row] for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # An output above zero had an input above zero.
        return ([[d if y > 0.0 else 0.0 for d, y in zip(*rows)] for rows in zip(d_out, data)],)

    return Tensor(data, (x,), pass_back)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Scale every row of x [N][D] to a root mean square of 1; weight [1][D] multiplies after.

    Zhang & Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467, eq. 4.
    """
    width = len(x.data[0])
    if weight is not None:
        check_is_row(weight, width)
    scales = [(dot(row, row) / width + eps) ** -0.5 for row in x.data]
    normed = [[value * scale for value in row] for row, scale in zip(x.data, scales)]
    gains = weight.data[0] if weight is not None else None
    out = normed if gains is None else [list(map(mul, row, gains)) for row in normed]

    # n_i = x_i s with s = (mean(x^2) + eps)^(-1/2), hence ds/dx_j = -s^3 x_j / D and
    # d_x_j = s d_j - s^3 x_j / D sum_i d_i x_i = s (d_j - n_j mean(d n)).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_normed = d_out if gains is None else [list(map(mul, row, gains)) for row in d_out]
        d_x = []
        for d_row, n_row, scale in zip(d_normed, normed, scales):
            mean = dot(d_row, n_row) / width
            d_x.append([(d - n * mean) * scale for d, n in zip(d_row, n_row)])
        if gains is None:
            return (d_x,)
        columns = zip(transpose(d_out), transpose(normed))
        return d_x, [[dot(d_column, n_column) for d_column, n_column in columns]]

    return Tensor(out, (x,) if weight is None else (x, weight), pass_back)


def attention_head(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[list[float]], list[list[float]]]:
    """One head: q [N][d], k [M][d], v [M][e] -> output [N][e], and the weights of each row.

    Row i reads rows first..stop-1 of k and v, with (first, stop) = spans[i]:
        weights = softmax(q_i . k_j / sqrt(d) for these j)      output_i = sum_j weights_j v_j
    Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762, eq. 1.

    A query that fits the first of two keys: scores 1/sqrt(2) and 0, weights 0.67 and 0.33, so
    the output lies a third of the way from the first value to the second.
    >>> output, weights = attention_head([[1, 0]], [[1, 0], [0, 1]], [[10], [40]], [(0, 2)])
    >>> [round(w, 3) for w in weights[0]], round(output[0][0], 1)
    ([0.67, 0.33], 19.9)
    """
    scale = len(q[0]) ** -0.5
    value_columns = list(zip(*v))
    output, weights = [], []
    for query, (first, stop) in zip(q, spans):
        scores = [dot(query, key) * scale for key in k[first:stop]]
        weights.append(softmax_row(scores))
        output.append([dot(weights[-1], column[first:stop]) for column in value_columns])
    return output, weights


def scaled_dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, num_heads: int, spans: Sequence[tuple[int, int]]
) -> Tensor:
    """Attention in num_heads heads, each on its own columns: q [N][H*d], k [M][H*d], v [M][H*e]
    -> [N][H*e]. Row i reads rows first..stop-1 of k and v, with (first, stop) = spans[i].
    """
    if len(q.data[0]) != len(k.data[0]) or len(k.data) != len(v.data):
        shapes = [(len(x.data), len(x.data[0])) for x in (q, k, v)]
        raise ValueError(f"q, k and v do not fit together: {shapes}")
    if len(spans) != len(q.data):
        raise ValueError(f"{len(q.data)} queries but {len(spans)} spans")
    if any(not 0 <= first < stop <= len(k.data) for first, stop in spans):
        raise ValueError(f"a span is empty or reaches outside of the {len(k.data)} keys")
    q_heads, k_heads, v_heads = [split_heads(t.data, num_heads) for t in (q, k, v)]
    heads = [attention_head(*head, spans) for head in zip(q_heads, k_heads, v_heads)]

    def pass_back(d_out: list[list[float]]) -> tuple:
        # readers[j]: which rows read row j
        readers: list[list[int]] = [[] for _ in k.data]
        for i, (first, stop) in enumerate(spans):
            for j in range(first, stop):
                readers[j].append(i)
        gradients = [
            attention_head_backward(q_h, k_h, v_h, spans, readers, weights, d_h)
            for q_h, k_h, v_h, (_, weights), d_h in zip(
                q_heads, k_heads, v_heads, heads, split_heads(d_out, num_heads)
            )
        ]
        return tuple(map(join_heads, zip(*gradients)))

    return Tensor(join_heads([output for output, _ in heads]), (q, k, v), pass_back)


def attention_head_backward(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    spans: Sequence[tuple[int, int]],
    readers: list[list[int]],
    weights: list[list[float]],
    d_output: list[list[float]],
) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """The gradients (d_q, d_k, d_v) of one attention_head, from d_output [N][e].

    output_i = sum_j w_ij v_j         d_v_j  = sum_i w_ij d_output_i     d_w_ij = d_output_i . v_j
    w_i = softmax(s_i)                d_s_ij = w_ij (d_w_ij - sum_m w_im d_w_im)
    s_ij = q_i . k_j / sqrt(d)        d_q_i  = sum_j d_s_ij k_j / sqrt(d)      d_k_j alike
    """
    scale = len(q[0]) ** -0.5
    key_columns = list(zip(*k))
    d_q, d_scores = [], []
    for row, d_row, (first, stop) in zip(weights, d_output, spans):
        d_weights = [dot(d_row, value) for value in v[first:stop]]
        mean = dot(row, d_weights)
        d_scores.append([w * (d - mean) * scale for w, d in zip(row, d_weights)])
        d_q.append([dot(d_scores[-1], column[first:stop]) for column in key_columns])
    d_k, d_v = [], []
    for j, rows in enumerate(readers):
        places = [(i, j - spans[i][0]) for i in rows]
        d_score_column = [d_scores[i][place] for i, place in places]
        weight_column = [weights[i][place] for i, place in places]
        # A row that nobody reads has no columns to run over: its gradient is zero.
        q_columns = zip(*[q[i] for i in rows]) if rows else [()] * len(q[0])
        d_columns = zip(*[d_output[i] for i in rows]) if rows else [()] * len(v[0])
        d_k.append([float(dot(d_score_column, column)) for column in q_columns])
        d_v.append([float(dot(weight_column, column)) for column in d_columns])
    return d_q, d_k, d_v


def split_heads(x: list[list[float]], num_heads: int) -> list[list[list[float]]]:
    """[N][H*d] -> H matrices [N][d], each a block of neighbouring columns.

    >>> split_heads([[1, 2, 3, 4]], 2)
    [[[1, 2]], [[3, 4]]]
    """
    width, rest = divmod(len(x[0]), num_heads)
    if rest:
        raise ValueError(f"{len(x[0])} columns do not split into {num_heads} heads")
    return [[row[h * width : (h + 1) * width] for row in x] for h in range(num_heads)]


def join_heads(heads: Sequence[list[list[float]]]) -> list[list[float]]:
    """H matrices [N][d] -> [N][H*d], side by side: the inverse of split_heads.

    >>> join_heads([[[1, 2]], [[3, 4]]])
    [[1, 2, 3, 4]]
    """
    return [sum(rows, []) for rows in zip(*heads)]


def cross_entropy(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """Mean over rows of -log softmax(logits)[target]: logits [N][C], targets N -> [1][1], in nats.

    Softmax and logarithm are one operation: -log softmax(z)[t] = log_sum_exp(z) - z[t], which
    never takes the logarithm of a number that was rounded to zero.
    """
    check_targets(logits, targets)
    totals = [log_sum_exp(row) for row in logits.data]
    count = len(targets)
    loss = sum([total - row[t] for total, row, t in zip(totals, logits.data, targets)]) / count

    # d(log_sum_exp(z))/dz_c = exp(z_c) / sum_j exp(z_j) = p_c, hence d_z = (p - onehot) / N: each
    # logit is pushed by the probability that it got, and the target's by that minus 1.
    def pass_back(d_out: list[list[float]]) -> tuple:
        factor = d_out[0][0] / count
        d_logits = []
        for row, total, target in zip(logits.data, totals, targets):
            d_row = [factor * exp(z - total) for z in row]
            d_row[target] -= factor
            d_logits.append(d_row)
        return (d_logits,)

    return Tensor([[loss]], (logits,), pass_back)


def check_targets(logits: Tensor, targets: Sequence[int]) -> None:
    """Raise ValueError unless there is one class number for every row of logits [N][C]."""
    if len(targets) != len(logits.data):
        raise ValueError(f"{len(logits.data)} rows of logits but {len(targets)} targets")
    if not all(0 <= target < len(logits.data[0]) for target in targets):
        raise ValueError(f"a target is not one of the classes 0..{len(logits.data[0]) - 1}")


# === APPENDIX: OPTIMISER (common/optim.py; microoptimizer.py explains it) ===


class Adam:
    """Adam: a step for each parameter, scaled by its own gradient's recent size.

    Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015, arXiv:1412.6980, algorithm 1.
    Two running means per number, of the gradient and of its square, start at zero; dividing by
    1 - beta^t makes up for that start (bias correction).
    """

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        self.parameters = parameters
        self.betas = betas
        self.eps = eps
        zeros = [[[0.0] * len(p.data[0])] * len(p.data) for p in parameters]
        self.means = list(zeros)
        self.squares = list(zeros)
        self.num_steps = [0] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        beta1, beta2 = self.betas
        for index, parameter in enumerate(self.parameters):
            grad = parameter.grad
            if grad is None:
                continue
            self.num_steps[index] += 1
            mean = self.means[index] = [
                [beta1 * m + (1.0 - beta1) * g for m, g in zip(m_row, g_row)]
                for m_row, g_row in zip(self.means[index], grad)
            ]
            square = self.squares[index] = [
                [beta2 * s + (1.0 - beta2) * g * g for s, g in zip(s_row, g_row)]
                for s_row, g_row in zip(self.squares[index], grad)
            ]
            rate = lr / (1.0 - beta1 ** self.num_steps[index])
            scale = (1.0 - beta2 ** self.num_steps[index]) ** -0.5
            parameter.data = [
                [
                    x - rate * m / (scale * math.sqrt(s) + self.eps)
                    for x, m, s in zip(x_row, m_row, s_row)
                ]
                for x_row, m_row, s_row in zip(parameter.data, mean, square)
            ]
            parameter.grad = None


# === APPENDIX: LANGUAGE MODEL (common/language_model.py; microgpt.py explains it) ===

ALPHABET = ".abcdefghijklmnopqrstuvwxyz"  # symbol i is ALPHABET[i]; the dot marks start and end


def encode(name: str) -> list[int]:
    """A name as symbols, with the boundary before and after it.

    >>> encode("ava")
    [0, 1, 22, 1, 0]
    """
    return [0, *[ALPHABET.index(letter) for letter in name], 0]


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
NAMES_SHA256 = "bd02dfd33179e23ec2dd093cbd4de619834f75d660ef1ae04d3127e7a0110053"


def load_data(filename: str, sha256: str) -> bytes:
    """Return the data file's bytes; end the program with one clear sentence if they are not to be
    had or not the right ones (their sha256 differs).
    """
    here = Path(__file__).resolve().parent
    for path in (here.parent / "data" / filename, here / filename):
        if path.exists():
            content = path.read_bytes()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise SystemExit(f"{path} is damaged (wrong sha256): restore it, or delete it.")
            return content
    partial = here / f"{filename}.{os.getpid()}.part"
    try:
        with urllib.request.urlopen(DATA_URL + filename, timeout=20) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != sha256:
            raise OSError("the download is damaged (wrong sha256)")
        partial.write_bytes(content)
        partial.replace(here / filename)
    except (OSError, http.client.HTTPException) as problem:
        where = f"from {DATA_URL} and put it beside the script"
        raise SystemExit(f"No {filename}: {problem}. Get it {where}.") from None
    finally:
        partial.unlink(missing_ok=True)
    return content


def load_names() -> list[str]:
    """29,693 different first names, a to z only, in alphabetical order.

    The file has 32,257 lines, since names given to girls and to boys stand in it twice. They must
    become one before anything is held out, or names from training would return in the test.
    """
    return sorted(set(load_data("names.txt", NAMES_SHA256).decode("ascii").split()))


if __name__ == "__main__":
    main()
