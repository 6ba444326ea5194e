"""In causal models, old keys and values never change, so caching saves work and changes no logit.

A language model writes one symbol at a time. Every new symbol attends to all symbols before it,
so it needs their keys and values. The plain way runs the whole text through the network again for
each new symbol. But in a causal model no row reads to its right: a new symbol cannot change
anything that was computed for the old ones. So their keys and values are stored (the KV cache),
and only the new symbol passes through the network. The arithmetic is the same, done once: here
even the last bit agrees. (On a GPU, passes of different shapes may use kernels that add up in a
different order, so there the last bits can differ.) What remains is a memory problem.

The run trains a small two-layer model on a stream of names and generates with it. Look at four
things. First, the control: if attention looks in both directions, old keys do change, but only
from the second layer on, and the cache gives wrong logits. Second, the multiply-adds, counted
inside the dot product: how they grow with the length, with a cache and without. Third, what a pass
reads from memory: a batch shares the weights, but every sequence has a cache of its own. Fourth,
how large the cache of a real model gets.

In the code    In papers     Meaning                                            Shape
E, L, V, N     d_model, ...  entries of a row, layers, symbols; rows in a pass  16, 2, 27; N varies
symbol         token         a letter, or the boundary between two names        0 to 26
x              h             residual stream, one row for each symbol read      [N][16]
q, k, v        Q, K, V       query, key, value; q and k are already rotated     [N][16]
t              t, s          how many symbols a row reads, itself included      1 to 64
span           mask          which rows a row may read: from first up to stop   (first, stop)
cache          past K, V     keys and values of all symbols read so far         [layers][t][16]
piece          chunk         new symbols of one sequence, read in one pass      list of ids
multiply-add   MAC           one multiplication inside a dot product = 2 FLOP   a count
prefill        prompt phase  a pass over many new symbols at once
decode         generation    a pass over one new symbol per sequence

What is left out: where the cache lies in memory when many users share it (micropaged), how it is
made smaller (fewer key heads and latents: microattention; fewer bits: Liu et al., "KIVI", 2024,
arXiv:2402.02750), what rotary positions do beyond the trained length (microrope), and the
derivation of the engine (microautograd).

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed (seed_3: the seed), and stands in results/microkv.json under that key.

Read first: microgpt.

Papers: Vaswani et al., "Attention Is All You Need", 2017, arXiv:1706.03762. Su et al.,
"RoFormer", 2021, arXiv:2104.09864 (RoPE). Pope et al., "Efficiently Scaling Transformer
Inference", 2022, arXiv:2211.05102. Williams et al., "Roofline", 2009. Agrawal et al., "SARATHI",
2023, arXiv:2308.16369 (chunked prefill). Zhong et al., "DistServe", 2024, arXiv:2401.09670.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from math import cos, exp, log, sin
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_LAYERS = 2  # with one layer the control cannot fail, see WHY OLD ROWS NEVER CHANGE
WIDTH = 16  # entries of a row of the residual stream
NUM_HEADS = 2
CONTEXT = 64  # symbols of a training window, and of a generated text
ROPE_BASE = 10000.0  # Llama 2's; Llama 3 uses 500,000
NUM_STEPS = 210
LEARNING_RATE = 0.02  # before warm-up and linear decay; 0.012 and 0.03 did worse
WARM_UP_STEPS = 10
NUM_TEST_WINDOWS = 40  # of held-out names, for the nll (mean -log probability)
TEMPERATURE = 0.8
PROMPT = 16  # symbols read before a cache is tested; also how many are taken back
CHUNK = 5  # symbols per pass in chunked prefill; need not divide CONTEXT
BATCH = 8  # sequences decoded together
GROWTH_LENGTHS = (16, 64, 256, 1024)  # where the cost of one more symbol is counted

# === THE TEXT: A STREAM OF NAMES ===

# Names are written one after the other with the boundary 0 between them: .emma.olivia.ava. A
# window of the stream holds about nine names. Single names would be too short to show how costs
# grow.


def windows(names: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    """Endless windows of CONTEXT + 1 symbols; each starts at a boundary; names are drawn anew."""
    while True:
        window = [0]
        while len(window) <= CONTEXT:
            window += encode(rng.choice(names))[1:]
        yield window[: CONTEXT + 1]


# === THE MODEL ===

# A small Llama: RMSNorm before each part and before the head, rotary positions, no biases. (But
# its norms have no gains, and its MLP is a plain ReLU instead of SwiGLU: a cache does not care.)
# Two things are new after microgpt: a second layer, and that a symbol's position is a rotation
# of its query and key (RoPE), chosen so that the dot product of a query and a key depends only on
# the distance between them. A key is rotated once, by its own position, before it is stored. It
# need not be rotated again, as long as new symbols go on counting where the cache ends.


def rope(x: Tensor, positions: Sequence[int]) -> Tensor:
    """Rotate each head's column pairs (j, j + d/2) of x [N][E] by position * ROPE_BASE^(-2j/d).

    This is Llama's x * cos + rotate_half(x) * sin. The inverse of a rotation is the rotation by
    the opposite angle, and that is what the gradient needs.
    """
    half = len(x.data[0]) // NUM_HEADS // 2
    columns = range(len(x.data[0]))
    in_first_half = [j // half % 2 == 0 for j in columns]
    partner = [j + half if first else j - half for j, first in zip(columns, in_first_half)]
    speeds = [ROPE_BASE ** (-(j % half) / half) for j in columns]
    signs = [-1.0 if first else 1.0 for first in in_first_half]
    cosines = [[cos(p * w) for w in speeds] for p in positions]
    sines = [[sign * sin(p * w) for sign, w in zip(signs, speeds)] for p in positions]

    def rotate(rows: list[list[float]], direction: float) -> list[list[float]]:
        return [
            [a * c + direction * row[j] * s for a, j, c, s in zip(row, partner, c_row, s_row)]
            for row, c_row, s_row in zip(rows, cosines, sines)
        ]

    return Tensor(rotate(x.data, 1.0), (x,), lambda d_out: (rotate(d_out, -1.0),))


class Transformer:
    """NUM_LAYERS blocks of attention and MLP. Training and every kind of generation share them."""

    def __init__(self, rng: random.Random) -> None:
        def matrix(rows: int, columns: int) -> Tensor:
            return Tensor([[rng.gauss(0.0, 0.08) for _ in range(columns)] for _ in range(rows)])

        self.token_embedding = matrix(len(ALPHABET), WIDTH)
        self.layers: list[dict[str, Tensor]] = []
        for _ in range(NUM_LAYERS):
            square = ("query", "key", "value", "attention_out")
            layer = {name: matrix(WIDTH, WIDTH) for name in square}
            layer["mlp_in"], layer["mlp_out"] = matrix(4 * WIDTH, WIDTH), matrix(WIDTH, 4 * WIDTH)
            self.layers.append(layer)
        self.head = matrix(len(ALPHABET), WIDTH)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        in_layers = [weight for layer in self.layers for weight in layer.values()]
        return [self.token_embedding, *in_layers, self.head]

    def blocks(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N symbols and their positions -> x [N][E].

        attend(layer, q, k, v) is the only step in which rows meet. Everything else works on each
        row alone, so a row never needs its neighbours, only the keys and values they left behind.
        """
        x = embedding(self.token_embedding, ids)
        for index, layer in enumerate(self.layers):
            normed = rms_norm(x)
            q, k, v = [linear(normed, layer[name]) for name in ("query", "key", "value")]
            found = attend(index, rope(q, positions), rope(k, positions), v)
            x = x + linear(found, layer["attention_out"])
            hidden = relu(linear(rms_norm(x), layer["mlp_in"]))
            x = x + linear(hidden, layer["mlp_out"])
        return x

    def logits(self, x: Tensor) -> Tensor:
        """x [N][E] -> a score for each next symbol [N][27]."""
        return linear(rms_norm(x), self.head)


# === THE CACHE ===

# A cache belongs to one sequence. It holds, for every layer, one key and one value for each symbol
# read so far. Queries are not stored: a query is used once, by its own row, in its own pass.
#
# In production this is transformers' DynamicCache, which joins old and new keys in every step, or
# StaticCache, which reserves the memory for the longest text at once, so that shapes stay fixed
# and torch.compile can be used. vLLM stores keys and values in blocks (micropaged).


class KVCache:
    """The keys and values of one sequence: two rows of WIDTH numbers per symbol and layer."""

    def __init__(self) -> None:
        self.keys: list[list[list[float]]] = [[] for _ in range(NUM_LAYERS)]
        self.values: list[list[list[float]]] = [[] for _ in range(NUM_LAYERS)]

    def __len__(self) -> int:
        """How many symbols have been read."""
        return len(self.keys[-1])  # the last layer is the last to be filled

    def append(self, layer: int, k: list[list[float]], v: list[list[float]]) -> None:
        """Store what new symbols leave behind in one layer."""
        self.keys[layer] += k
        self.values[layer] += v

    def truncate(self, length: int) -> None:
        """Forget all symbols but the first so many."""
        for rows in (*self.keys, *self.values):
            del rows[length:]

    def floats(self) -> int:
        """How many numbers are stored."""
        return sum(map(len, [row for rows in (*self.keys, *self.values) for row in rows]))


def next_positions(past: int, count: int) -> Sequence[int]:
    """Where new symbols stand if so many came before them: counting goes on."""
    return range(past, past + count)


# One function serves every way of reading. The first argument is a list of pieces, one for each
# sequence. Prefill is one long piece, decode a piece of one symbol, a batch several pieces.


def read(
    model: Transformer,
    pieces: Sequence[Sequence[int]],
    caches: Sequence[KVCache],
    causal: bool = True,
    place: Callable[[int, int], Sequence[int]] = next_positions,
) -> Tensor:
    """Read the next piece of each sequence in one pass -> x, one row per new symbol, in order.

    The caches hold what was read before, and each grows by its piece. causal=False lets a row
    also read the symbols of its piece that follow it: the control. place gives positions.
    """
    ids = [symbol for piece in pieces for symbol in piece]
    pasts = [len(cache) for cache in caches]
    positions = [p for piece, past in zip(pieces, pasts) for p in place(past, len(piece))]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values, spans, row = [], [], [], 0
        for piece, past, cache in zip(pieces, pasts, caches):
            count, first = len(piece), len(keys)
            cache.append(layer, k.data[row : row + count], v.data[row : row + count])
            keys += cache.keys[layer]
            values += cache.values[layer]
            # The new symbol i reads everything from before the piece, and the piece up to itself.
            seen = [past + i + 1 if causal else past + count for i in range(count)]
            spans += [(first, first + t) for t in seen]
            row += count
        k_all, v_all = [Tensor(rows, requires_grad=False) for rows in (keys, values)]
        return scaled_dot_product_attention(q, k_all, v_all, NUM_HEADS, spans)

    return model.blocks(ids, positions, attend)


# === TRAINING ===

# In training there is nothing to store: the text is known, all rows are computed in one pass, and
# each key is needed in that pass only. "A KV cache speeds up training" is wrong.


def predict(model: Transformer, window: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
    """A window of N + 1 symbols -> logits [N][27], and the N symbols that follow."""
    ids, positions, spans, targets = pack([window])

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.logits(model.blocks(ids, positions, attend)), targets


def train(model: Transformer, names: Sequence[str], rng: random.Random) -> None:
    """Fit the model to the stream. Afterwards nothing records a graph: it only generates."""
    optimizer = Adam(model.parameters(), betas=(0.9, 0.95))
    recent_losses: list[float] = []
    for step, window in zip(range(1, NUM_STEPS + 1), windows(names, rng)):
        loss = cross_entropy(*predict(model, window))
        loss.backward()
        warm_up = min(1.0, step / WARM_UP_STEPS)
        optimizer.step(LEARNING_RATE * warm_up * (1.0 - (step - 1) / NUM_STEPS))
        recent_losses.append(loss.item())
        if step % 15 == 0:
            mean = sum(recent_losses) / len(recent_losses)
            print(f"step {step:4d}/{NUM_STEPS} | loss {mean:.4f}", flush=True)
            recent_losses.clear()
    for parameter in model.parameters():
        parameter.requires_grad = False


# === WHY OLD ROWS NEVER CHANGE ===

# Follow one old symbol j while a new symbol n > j arrives.
#
#   layer 1   k_j and v_j are made from the embedding of symbol j alone. They cannot change in any
#             model, causal or not.
#   layer 2   k_j and v_j are made from x_j, which now holds values that row j gathered in layer 1.
#             causal:           row j read rows 0..j. Row n is not among them: no change.
#             both directions:  row j read rows 0..n. Row n is among them: k_j and v_j change.
#   layer 3   the same argument again, with x_j from layer 2; and so on.
#
# So in a causal model the stored rows stay right in every layer. If attention looks in both
# directions (BERT), they are wrong from the second layer on, and this cache cannot be used. A model
# of a single layer would hide this: its error is 0.0 [results: one_layer.both_directions_error].
# The control below uses the same trained weights; only the spans differ.


def change_of_old_rows(model: Transformer, symbols: Sequence[int], causal: bool) -> list[float]:
    """For each layer: how far the last symbol's arrival moves the keys and values before it."""
    before, after = KVCache(), KVCache()
    read(model, [symbols[:-1]], [before], causal)
    read(model, [symbols], [after], causal)
    old = [k + v for k, v in zip(before.keys, before.values)]
    new = [k[:-1] + v[:-1] for k, v in zip(after.keys, after.values)]
    return [largest_difference(rows, later) for rows, later in zip(old, new)]


def recompute(model: Transformer, symbols: Sequence[int], causal: bool = True) -> list[list[float]]:
    """The logits after symbol 1, 2, ..., N, each from a pass over all symbols up to there."""
    last_rows = []
    for stop in range(1, len(symbols) + 1):
        x = read(model, [symbols[:stop]], [KVCache()], causal)
        last_rows.append(x.data[-1])
    return model.logits(Tensor(last_rows)).data


def decode(
    model: Transformer,
    symbols: Sequence[int],
    causal: bool = True,
    place: Callable[[int, int], Sequence[int]] = next_positions,
) -> list[list[float]]:
    """The same logits with a cache: PROMPT symbols in one pass, then one symbol per pass."""
    cache = KVCache()
    rows = read(model, [symbols[:PROMPT]], [cache], causal, place).data
    for symbol in symbols[PROMPT:]:
        rows = rows + read(model, [[symbol]], [cache], causal, place).data
    return model.logits(Tensor(rows)).data


# Besides the control, two mistakes that are easily made. In both a new symbol gets the wrong
# position, so its query and key are rotated by the wrong angle. (If *all* positions were shifted
# alike, nothing would change, because only distances count. But the stored keys keep their angles.)
# No mistake raises an error. To read the table: a logit that is off by 0.1 changes the odds of its
# symbol against any other by a factor of e^0.1 = 1.1; off by 2, by a factor of 7. The last column
# says how often the likeliest symbol is still the right one. A test that only compares generated
# text may not notice a small error. How large it is depends on the trained weights: with attention
# in both directions 0.026 [results: seed_3.both_directions_error] on one seed, and 0.83
# [results: seed_1.both_directions_error] on another.


def start_again(past: int, count: int) -> Sequence[int]:
    """The forgotten offset: every piece counts from 0."""
    return range(count)


def one_behind(past: int, count: int) -> Sequence[int]:
    """Off by one after the prompt: each new symbol is placed where the one before it stands."""
    return range(max(past - 1, 0), max(past - 1, 0) + count)


def check_caches(model: Transformer, symbols: Sequence[int]) -> dict[str, tuple[float, float]]:
    """A right cache and three wrong ones against recomputation, on what follows the prompt ->
    for each the largest difference of a logit, and how often the likeliest symbol is the same.
    """
    right, both_ways = recompute(model, symbols), recompute(model, symbols, causal=False)
    pairs = {
        "causal": (right, decode(model, symbols)),
        "both directions": (both_ways, decode(model, symbols, causal=False)),
        "positions restart": (right, decode(model, symbols, place=start_again)),
        "position off by one": (right, decode(model, symbols, place=one_behind)),
    }
    return {
        name: compare(wanted[PROMPT:], found[PROMPT:]) for name, (wanted, found) in pairs.items()
    }


# === COUNTING ===

# Time in Python says little about time on a GPU, but a multiply-add is a multiply-add. The engine
# has one primitive, dot, so counting there misses no product with a matrix and none in attention.
# (The rotations, softmax and additions are no dot products. They are left out of all counts.)


def multiply_adds(past: int, new: int, num_logits: int) -> int:
    """The same on paper: `new` symbols pass after `past` others, and num_logits reach the head.

    The first symbol of a text, in a model with L = 2 layers, E = 16 and V = 27 symbols:
        matrices    12 L E^2 = 6,144        (q, k, v, out: 4 E^2 per layer; MLP: 8 E^2)
        attention   2 L E t  =    64        with t = 1: t scores and t values, E each
        norms       2 L E    =    64        the sums of squares
        logits      V E + E  =   448        with the norm before the head
    >>> multiply_adds(0, 1, 1)
    6720
    """
    rows_read = sum(range(past + 1, past + new + 1))  # t, added up over the new symbols
    per_row = NUM_LAYERS * (12 * WIDTH * WIDTH + 2 * WIDTH)
    per_logits = WIDTH * len(ALPHABET) + WIDTH
    return new * per_row + 2 * NUM_LAYERS * WIDTH * rows_read + num_logits * per_logits


# === GENERATION, WITHOUT AND WITH A CACHE ===

# The two ways differ in one line: without a cache, every step starts from an empty one. Both draw
# with the same random numbers. As long as attention is cheap beside the matrices, symbol t costs t
# times as much without a cache, and a text of T symbols about T/2 times as much. (A cleverer way
# without a cache could compute only the newest row in the last layer. With two layers this saves
# less than half of the work, with 80 layers almost nothing.)


def generate(
    model: Transformer, count: int, rng: random.Random, use_cache: bool
) -> tuple[list[int], list[list[float]], list[int]]:
    """Write `count` symbols after a boundary -> the text, the logits of each step, and how many
    symbols passed through the network in each step.
    """
    symbols, all_logits, num_computed = [0], [], []
    cache = KVCache()
    for _ in range(count):
        if not use_cache:
            cache = KVCache()
        new = symbols[len(cache) :]  # what has not been read: the last symbol, or all of them
        x = read(model, [new], [cache])
        # Only the last row predicts something new, so only it goes through the head.
        logits = model.logits(Tensor(x.data[-1:])).data[0]
        probabilities = softmax_row([z / TEMPERATURE for z in logits])
        symbols += rng.choices(range(len(logits)), probabilities)
        all_logits.append(logits)
        num_computed.append(len(new))
    return symbols, all_logits, num_computed


# "The cache makes attention linear" is half true. The new query still meets all t keys: the cost
# of symbol t grows like t, and that of a whole text like t^2. Without a cache they grow like t^2
# and t^3. These are the exponents for long texts. As long as t is well below 6 E, the matrices cost
# more than attention (12 L E^2 against 2 L E t), and the exponents of symbol t are nearer to 0 with
# a cache and 1 without. Here 6 E is 96 symbols; for Llama-2-7B, with E = 4096, about 25,000.


# === WHAT A PASS READS FROM MEMORY ===

# A processor must fetch a number before it can multiply with it. An H100 (SXM) does 989e12 FLOP
# (dense bf16) in the time in which it fetches 3.35e12 bytes. That makes 295 multiply-adds for each
# two-byte number. With fewer, it waits for its memory (the roofline model: Williams et al., 2009).
#
#   prefill   one pass reads each weight once and uses it for every symbol of the prompt
#   decode    one pass reads each weight for one symbol: about 1 multiply-add per number
#   batch     one pass reads each weight for one symbol of every sequence. But each sequence has a
#             cache of its own, so the batch does nothing for that part
#
# If only weights were read, a batch of 295 would keep an H100 busy. But caches are read too, and
# they fill the memory: beside the 13.5 GB of Llama-2-7B's weights, 80 GB hold about 30 caches of
# 4,096 symbols (2.1 GB each).
#
# A long prompt in one pass keeps all other users waiting. So servers cut it into chunks and fill
# each pass with one chunk and everybody's decode steps (chunked prefill, on by default in vLLM).
# Some run prefill and decode on different machines, since they need different things (DistServe).


def read_in_passes(
    model: Transformer, texts: Sequence[Sequence[int]], per_pass: int
) -> tuple[dict[str, int], list[list[list[float]]]]:
    """Read texts of equal length side by side, per_pass symbols of each at a time -> the costs,
    and for each text the logits after each of its symbols. Reading is counted as if a pass read
    each number that it needs once.
    """
    caches = [KVCache() for _ in texts]
    logits: list[list[list[float]]] = [[] for _ in texts]
    costs = dict.fromkeys(("passes", "multiply_adds", "on_paper", "weights", "cached"), 0)
    for start in range(0, len(texts[0]), per_pass):
        pieces = [text[start : start + per_pass] for text in texts]
        with counted(model) as tally:
            rows = model.logits(read(model, pieces, caches)).data
        count = len(pieces[0])
        for i in range(len(texts)):
            logits[i] += rows[i * count : (i + 1) * count]
        costs["passes"] += 1
        costs["multiply_adds"] += tally.multiply_adds
        costs["on_paper"] += len(texts) * multiply_adds(start, count, count)
        costs["weights"] += tally.weights_read
        costs["cached"] += sum([cache.floats() for cache in caches])
    return costs, logits


# === ROLLBACK AND PREFIX REUSE ===

# What never changes also stays right when later rows are thrown away. So a draft can be taken back
# (speculative decoding: microbeam), and the next turn of a chat reads only its own symbols. Servers
# keep caches of long shared beginnings (vLLM: automatic prefix caching; hosted models: prompt
# caching). Only a beginning can be shared: from layer 2 on, each row holds all that came before it.


def reuse(model: Transformer, text: Sequence[int], kept: int) -> tuple[float, int, int]:
    """Read a text, forget all but the first symbols, and read the rest again -> the largest
    difference of a logit, and the multiply-adds of the rest and of the whole.
    """
    cache = KVCache()
    with counted(model) as whole:
        first_time = model.logits(read(model, [text], [cache])).data
    cache.truncate(kept)
    with counted(model) as rest:
        second_time = model.logits(read(model, [text[kept:]], [cache])).data
    error = largest_difference(first_time[kept:], second_time)
    return error, rest.multiply_adds, whole.multiply_adds


# === MEMORY ===

# What remains is a memory problem. For every symbol, each layer keeps a key and a value:
#
#     bytes = 2 * layers * key heads * head width * symbols * bytes per number
#
# Llama-3.1-70B: 2 * 80 * 8 * 128 * 2 bytes = 327,680 = 320 KiB per symbol, so 40 GiB for its full
# context of 131,072. Its 64 query heads share 8 key heads (grouped-query attention). With 64 key
# heads it would be 320 GiB, for a single user. The weights are 131 GiB, for all users together.


def kv_bytes(
    num_layers: int, num_kv_heads: int, head_dim: int, num_tokens: int, bytes_per_number: int = 2
) -> int:
    """The size of a cache.

    >>> kv_bytes(80, 8, 128, 1)
    327680
    """
    return 2 * num_layers * num_kv_heads * head_dim * num_tokens * bytes_per_number


def main() -> dict[str, object]:
    """Train, show why the cache is allowed, count what it saves and what it costs."""
    rng = random.Random(SEED)
    names = load_names()
    rng.shuffle(names)
    model = Transformer(rng)
    report_setting(names, model)
    start = time.perf_counter()
    train(model, names[:-1000], rng)
    print(f"time  training took {time.perf_counter() - start:.1f} s")
    stream = windows(names[-1000:], rng)
    tests = [next(stream) for _ in range(NUM_TEST_WINDOWS)]
    nll = sum([cross_entropy(*predict(model, w)).item() for w in tests]) / NUM_TEST_WINDOWS
    print(f"On new names {nll:.3f} nats per symbol (knowing nothing: {log(len(ALPHABET)):.3f})")

    text = tests[0][:CONTEXT]
    changes = [change_of_old_rows(model, text[: PROMPT + 1], causal) for causal in (True, False)]
    checks = check_caches(model, text)
    report_causality(changes, checks)
    generation_error, work_ratio, count_errors = report_generation(model)
    rows = growth(model, [symbol for window in tests for symbol in window])
    count_errors += report_growth(rows)

    batch = [window[:CONTEXT] for window in tests[:BATCH]]
    alone = [model.logits(read(model, [other], [KVCache()])).data for other in batch[1:]]
    ways = read_four_ways(model, batch)
    ways_error, way_count_errors = report_ways(ways, [recompute(model, text), *alone])
    reused = reuse(model, text, kept=CONTEXT - PROMPT)
    report_memory(reused, *measured_bytes(model, text))

    headline = {
        "logit_error": max(checks["causal"][0], generation_error, ways_error, reused[0]),
        "work_ratio": work_ratio,
        "count_error": max(count_errors + way_count_errors),
        "both_directions_error": checks["both directions"][0],
        "position_error": min(checks["positions restart"][0], checks["position off by one"][0]),
        "nll": nll,
    }
    report_conclusion(headline, checks, ways)
    return {**headline, "details": {"changes": changes, "checks": checks, "growth": rows}}


# === APPENDIX: REPORT AND HELPERS ===


class Tally:
    """What one pass did: multiply-adds, and how many different weights took part in them."""

    multiply_adds = 0
    weights_read = 0


@contextmanager
def counted(model: Transformer) -> Iterator[Tally]:
    """Within the block, count inside dot. The embedding is a look-up and has no products."""
    global dot
    plain_dot, tally, rows_used = dot, Tally(), set()
    row_lengths = {id(row): len(row) for w in model.parameters()[1:] for row in w.data}

    def counting_dot(a: Sequence[float], b: Sequence[float]) -> float:
        tally.multiply_adds += len(a)
        if id(b) in row_lengths:
            rows_used.add(id(b))
        return plain_dot(a, b)

    dot = counting_dot
    try:
        yield tally
    finally:
        dot = plain_dot
        tally.weights_read = sum([row_lengths[row] for row in rows_used])


def growth(model: Transformer, symbols: Sequence[int]) -> list[tuple[int, int, int, int]]:
    """For each length t: (t, multiply-adds of symbol t without a cache, with one, its floats).

    Some t exceed the trained length. The text would be poor there, but counts do not depend on it.
    """
    rows = []
    for t in GROWTH_LENGTHS:
        cache = KVCache()
        with counted(model) as without:
            x = read(model, [symbols[:t]], [cache])
            model.logits(Tensor(x.data[-1:]))
        cache.truncate(t - 1)
        with counted(model) as cached:
            model.logits(read(model, [symbols[t - 1 : t]], [cache]))
        rows.append((t, without.multiply_adds, cached.multiply_adds, cache.floats()))
    return rows


def largest_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest difference between entries of two matrices of one shape."""
    if list(map(len, a)) != list(map(len, b)):
        raise ValueError(f"the matrices have {len(a)} and {len(b)} rows, or rows of other lengths")
    return max([abs(x - y) for rows in zip(a, b) for x, y in zip(*rows)])


def compare(wanted: Sequence[list[float]], found: Sequence[list[float]]) -> tuple[float, float]:
    """Two lists of logits -> (largest difference, share of rows with the same likeliest symbol)."""
    same = [a.index(max(a)) == b.index(max(b)) for a, b in zip(wanted, found)]
    return largest_difference(wanted, found), sum(same) / len(same)


def measured_bytes(model: Transformer, symbols: Sequence[int]) -> tuple[int, int]:
    """What a cache takes in this process, by tracemalloc -> (bytes, numbers in it)."""
    cache = KVCache()
    tracemalloc.start()
    read(model, [symbols], [cache])
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size, cache.floats()


def report_setting(names: Sequence[str], model: Transformer) -> None:
    """The facts before anything is learned."""
    num_numbers = sum([len(p.data) * len(p.data[0]) for p in model.parameters()])
    print(f"{len(names):,} names as a stream, 1,000 of them held out")
    print(f"{NUM_LAYERS} layers, {num_numbers:,} numbers, windows of {CONTEXT} symbols")


def report_causality(
    changes: Sequence[Sequence[float]], checks: dict[str, tuple[float, float]]
) -> None:
    """Do old rows change, and what follows from it for the logits?"""
    print("\nA new symbol arrives. How far do the keys and values of the old ones move?")
    print("attention         " + "".join([f"   layer {i + 1}" for i in range(NUM_LAYERS)]))
    for name, row in zip(("causal", "both directions"), changes):
        print(f"{name:<18}" + "".join([f"{change:10.4f}" for change in row]))
    print(f"\nDecoding with a cache, after a prompt of {PROMPT}, against recomputing everything")
    print("cache                   largest logit error   same likeliest symbol")
    for name, (error, same) in checks.items():
        print(f"{name:<24}{error:>19.1e}{same:>24.0%}")


def report_generation(model: Transformer) -> tuple[float, float, list[int]]:
    """Generate twice -> the largest difference of a logit, how many times fewer multiply-adds the
    cache needs, and how far the counts are from those on paper.
    """
    texts, logits, computed, counts, seconds = {}, {}, {}, {}, {}
    for use_cache in (False, True):
        start = time.perf_counter()
        generate(model, CONTEXT, random.Random(SEED), use_cache)
        seconds[use_cache] = time.perf_counter() - start
        with counted(model) as tally:
            made = generate(model, CONTEXT, random.Random(SEED), use_cache)
        texts[use_cache], logits[use_cache], computed[use_cache] = made
        counts[use_cache] = tally.multiply_adds
    print(f"\nGenerating {CONTEXT} symbols: # passes through the network, - is in the cache")
    print(f"  {'text so far':<12}{'without a cache':<18}with a cache")
    for i in range(8):
        shown = "".join([ALPHABET[symbol] for symbol in texts[True][: i + 1]])
        bars = ["-" * (i + 1 - rows[i]) + "#" * rows[i] for rows in computed.values()]
        print(f"  {shown:<12}{bars[0]:<18}{bars[1]}")
    ratio = counts[False] / counts[True]
    for use_cache, symbols in texts.items():
        written = "".join([ALPHABET[symbol] for symbol in symbols])
        print(f"{'with   ' if use_cache else 'without'}  {written}")
    print(f"multiply-adds: {counts[False]:,} and {counts[True]:,}, {ratio:.1f} times fewer")
    print(f"time  {seconds[False]:.2f} s without, {seconds[True]:.2f} s with")
    on_paper = {
        False: sum([multiply_adds(0, t, 1) for t in range(1, CONTEXT + 1)]),
        True: sum([multiply_adds(t, 1, 1) for t in range(CONTEXT)]),
    }
    errors = [abs(counts[key] - on_paper[key]) for key in counts]
    return largest_difference(logits[False], logits[True]), ratio, errors


def report_growth(rows: Sequence[tuple[int, int, int, int]]) -> list[int]:
    """The cost of symbol t, with its exponent between neighbouring lengths -> how far counts and
    sizes are from those on paper.
    """
    print("\nMultiply-adds for symbol t, and the exponent since the length above")
    print("     t       without  exponent      with  exponent     ratio   cache floats")
    errors: list[int] = []
    for i, (t, without, cached, floats) in enumerate(rows):
        exponents = ["", ""]
        if i > 0:
            above = rows[i - 1]
            pairs = ((without, above[1]), (cached, above[2]))
            exponents = [f"{log(new / old) / log(t / above[0]):.2f}" for new, old in pairs]
        print(
            f"{t:6,d}{without:14,d}{exponents[0]:>10}{cached:10,d}{exponents[1]:>10}"
            f"{without / cached:10.1f}{floats:15,d}"
        )
        errors += [abs(without - multiply_adds(0, t, 1)), abs(cached - multiply_adds(t - 1, 1, 1))]
        errors.append(abs(floats - 2 * NUM_LAYERS * WIDTH * t))
    return errors


def read_four_ways(
    model: Transformer, texts: Sequence[Sequence[int]]
) -> dict[str, tuple[dict[str, int], list[list[list[float]]]]]:
    """The first text prefilled, prefilled in chunks and decoded; then all texts decoded at once."""
    return {
        "prefill in one pass": read_in_passes(model, texts[:1], CONTEXT),
        f"prefill, chunks of {CHUNK}": read_in_passes(model, texts[:1], CHUNK),
        "decode": read_in_passes(model, texts[:1], 1),
        f"decode, batch of {BATCH}": read_in_passes(model, texts, 1),
    }


def intensity(costs: dict[str, int]) -> float:
    """Multiply-adds for each number that is read, from the weights or from a cache."""
    return costs["multiply_adds"] / (costs["weights"] + costs["cached"])


def report_ways(
    ways: dict[str, tuple[dict[str, int], list]], right: Sequence[list[list[float]]]
) -> tuple[float, list[int]]:
    """One line for each way to read -> the largest difference of a logit from recomputing, and
    how far the counts are from those on paper.
    """
    print(f"\nReading the same {CONTEXT} symbols in four ways; all but passes and error per symbol")
    print("                              multiply-  weights  cached  multiply-adds    logit")
    print("way                    passes      adds     read    read  per number read  error")
    worst = 0.0
    for name, (costs, logits) in ways.items():
        error = max([largest_difference(a, b) for a, b in zip(right, logits)])
        worst = max(worst, error)
        symbols = CONTEXT * len(logits)
        each = [round(costs[key] / symbols) for key in ("multiply_adds", "weights", "cached")]
        print(
            f"{name:<23}{costs['passes']:6d}{each[0]:10,d}{each[1]:9,d}{each[2]:8,d}"
            f"{intensity(costs):17.1f}{error:7.0e}"
        )
    # With ever more sequences the weights read per symbol go to zero, and the caches remain.
    endless = costs["multiply_adds"] / costs["cached"]
    print(f"{'limit: endless batch':<29}{each[0]:10,d}{0:9d}{each[2]:8,d}{endless:17.1f}")
    return worst, [abs(c["multiply_adds"] - c["on_paper"]) for c, _ in ways.values()]


# From each model's config.json: num_hidden_layers, num_key_value_heads, head width, context; then
# the number of parameters.
REAL_MODELS = {
    "GPT-2 small": (12, 12, 64, 1024, 124_439_808),
    "Llama-2-7B": (32, 32, 128, 4096, 6_738_415_616),
    "Llama-3.1-70B": (80, 8, 128, 131_072, 70_553_706_496),
    "  with 64 key heads": (80, 64, 128, 131_072, 0),
}


def report_memory(reused: tuple[float, int, int], size: int, floats: int) -> None:
    """Prefix reuse in one line, and how large caches are."""
    error, rest, whole = reused
    print(f"\nTaking back {PROMPT} symbols and reading them again: {rest:,} multiply-adds, not")
    print(f"{whole:,}; largest logit error {error:.0e}")
    print("\nCaches of real models, 2 bytes per number")
    print("model                KiB per symbol   context   GiB of cache   GiB of weights")
    for name, (layers, heads, width, context, parameters) in REAL_MODELS.items():
        kib = kv_bytes(layers, heads, width, 1) / 2**10
        gib = kv_bytes(layers, heads, width, context) / 2**30
        weights = f"{2 * parameters / 2**30:.1f}" if parameters else ""
        print(f"{name:<21}{kib:14,.0f}{context:10,d}{gib:15.2f}{weights:>17}".rstrip())
    print(
        f"In this process a number in the cache takes {size / floats:.0f} bytes: a Python float has"
    )
    print("24, the reference to it 8, and the lists come on top.")


def report_conclusion(
    headline: dict[str, float], checks: dict[str, tuple[float, float]], ways: dict[str, tuple]
) -> None:
    """What the numbers say, in words."""
    error, ratio = headline["logit_error"], headline["work_ratio"]
    print()
    if error <= 1e-10 and headline["count_error"] == 0:
        exact = "bit for bit" if error == 0.0 else f"to {error:.0e}"
        print(f"The cache gives the logits of recomputing {exact} with {ratio:.0f} times fewer")
        print("multiply-adds, and every count is the one on paper.")
    else:
        print(f"The cache is wrong: logits differ by {error:.0e}, counts by ", end="")
        print(f"{headline['count_error']:,}.")
    if headline["both_directions_error"] > 1e-6:
        same = checks["both directions"][1]
        print("With attention in both directions the cache is wrong, because old rows change.")
        if same >= 0.9:
            print(f"Still {same:.0%} of the likeliest symbols are right: to test a cache, compare")
            print("logits and not text.")
    single, batch = [intensity(costs) for costs, _ in list(ways.values())[2:]]
    if batch > single:
        print(f"A batch of {BATCH} reads {BATCH} times fewer weights per symbol. But multiply-adds")
        print(
            f"per number read rise only {batch / single:.1f} times: sequences do not share caches."
        )


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


def pack(
    sequences: Sequence[Sequence[int]], look_back: int = 10**9
) -> tuple[list[int], list[int], list[tuple[int, int]], list[int]]:
    """Lay sequences end to end, so that one matrix product serves them all.

    Returns four lists, one entry per prediction: the symbol read, its place in its sequence, the
    span (first, stop) of rows that its row may read, and the target: the symbol that comes next.

    >>> pack([[0, 1, 2, 0], [0, 5, 0]])  # doctest: +NORMALIZE_WHITESPACE
    ([0, 1, 2, 0, 5], [0, 1, 2, 0, 1],
     [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5)], [1, 2, 0, 5, 0])
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[tuple[int, int]] = []
    targets: list[int] = []
    for sequence in sequences:
        start, length = len(ids), len(sequence) - 1
        ids += sequence[:-1]
        targets += sequence[1:]
        positions += range(length)
        # A row reads its own sequence only, up to itself: its target stands one further on.
        spans += [
            (max(start, row + 1 - look_back), row + 1) for row in range(start, start + length)
        ]
    return ids, positions, spans, targets


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
