"""A GPT that has read 1,000 names guesses the letters of new ones better than a table of counts.

A language model reads a text up to some point and says how likely each symbol is to come next.
Counting does this too: after "j" look up how often "a" came, how often "o", and so on. Longer
contexts make better guesses, but most of them were never met before: the table starves. A GPT
stores no contexts. It turns every symbol into a vector, lets attention gather the vectors that
came before, and computes its guess from them. Its 4,192 numbers are shared by all contexts: the
vector of e is the same wherever e stands, and if training moves the vectors of e and i together,
then all that is learned about what follows e helps after i too.

The run takes 1,000 names for training and holds back 1,000 others for the test. It counts tables,
trains the GPT on the same 1,000 names, and lets all of them predict the names that were held
back. Then the GPT invents names. Look at three things: which model is best on names it knows and
which on new ones; at which places in a name the GPT gains and where it loses; how the temperature
changes the names that it invents, and how many of them are copies.

The measure is the negative log-likelihood, nll: the mean of -log(probability that the model gave
to the symbol that really followed), in nats (natural logarithm; divide by ln 2 = 0.69 for bits).
exp(nll) is the perplexity: a model with perplexity 10 is as unsure as if it chose evenly among 10
symbols.

In the code    In the papers    Meaning                                               Shape
ids            u, tokens        symbols that were read: 0 = start or end, 1-26 = a-z  N
x              h_l              residual stream, one row for each symbol read         [N][16]
q, k, v        Q, K, V          what a row looks for, what it offers, what it says    [N][16]
NUM_HEADS      h                attention runs this many times side by side           4
WIDTH / HEADS  d_k              columns of q and k that one head works on             4
logits         z                scores; softmax makes a row of them probabilities     [N][27]
spans          mask             which rows of k and v each row may read               N pairs

What is left out: what today's models do otherwise (byte-pair tokens instead of letters; rotary
positions, RoPE; gated MLPs, SwiGLU; several query heads that share one key and value head, GQA,
which makes the cache smaller; norms with gains; many blocks and a norm after the last), and the
derivation of the engine, which is microautograd's subject. Engine and optimiser stand at the end
of the file, complete, and can be taken on trust at first.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microgpt.json under that key.

Read first: microautograd.

Papers: Shannon, "Prediction and Entropy of Printed English", 1951. Kneser & Ney, "Improved
Backing-off for M-gram Language Modeling", 1995. Bengio et al., "A Neural
Probabilistic Language Model", 2003. Vaswani et al., "Attention Is All You Need", 2017,
arXiv:1706.03762. Radford et al., "Improving Language Understanding by Generative Pre-Training",
2018 (GPT), and "Language Models are Unsupervised Multitask Learners", 2019 (GPT-2). Zhang &
Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467. Kingma & Ba, "Adam",
2015, arXiv:1412.6980. Model and sizes are those of Karpathy's microgpt, 2026.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_TRAIN = 1000  # names to learn from
NUM_HELD_OUT = 1000  # names for the test
CONTEXT = 16  # symbols: the start mark and the 15 letters of the longest name
LOOK_BACK = 16  # symbols that a row may read, itself included
WIDTH = 16  # entries of a vector
NUM_HEADS = 4
NUM_STEPS = 600
BATCH_SIZE = 8  # names per step
LEARNING_RATE = 0.01  # at its highest; it falls to 0 in a straight line
WARM_UP_STEPS = 12  # Adam's means know one or two batches at first: the rate starts low
TABLE_ORDERS = (2, 3, 5, 7)  # predict from the last 1, 2, 4, 6 symbols
TABLE_DISCOUNT = 0.9  # the best for the held-out names: the tables may cheat
TEMPERATURES = (0.5, 0.8, 1.0)
NUM_SAMPLES = 500  # invented names per temperature

# === THE TEXT, AND THE TABLE TO BEAT ===

# A name is written as whole numbers, with the mark 0 before and after it. The mark in front gives
# the first letter a context, the one behind makes "the name ends here" a symbol like any other.
# ln 27 = 3.30 nats is what it costs to know nothing: 27 symbols, all equally likely.

ALPHABET = ".abcdefghijklmnopqrstuvwxyz"  # symbol i is ALPHABET[i]; the dot marks start and end


def encode(name: str) -> list[int]:
    """A name as symbols, with the boundary before and after it.

    >>> encode("ava")
    [0, 1, 22, 1, 0]
    """
    return [0, *[ALPHABET.index(letter) for letter in name], 0]


# The rival. A table with short contexts is vague. One with long contexts knows its own names by
# heart, but a new name often has a context that it never met: there are 27^4 = 531,441 contexts of
# four symbols, and 1,000 names hold some 7,000. So it mixes all lengths up to its order: each
# context gives a part of its vote to the context that is one symbol shorter, and the shortest to
# "all alike". The run shows where this gain ends: beyond four symbols it is nothing.
#
# Is the race fair? The tables' discount was chosen on the held-out names. The GPT's sizes and its
# initial spread are those of Karpathy's microgpt. Its learning rate could be another: with half of
# it the nll on new names is 2.315 [results: half_rate.nll], with twice as much 2.282
# [results: double_rate.nll].


class CountTable:
    """Predict the next symbol from counts of what followed the last few symbols.

    Interpolated Kneser-Ney smoothing with one discount: Kneser & Ney, "Improved Backing-off for
    M-gram Language Modeling", 1995; Chen & Goodman, "An Empirical Study of Smoothing Techniques
    for Language Modeling", 1998.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], order: int, discount: float) -> None:
        self.order = order  # 2: a bigram, which knows the last symbol only
        self.discount = discount
        self.counts: defaultdict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
        for sequence in sequences:
            for i in range(1, len(sequence)):
                longest = min(order - 1, i)
                for length in range(longest, -1, -1):
                    followers = self.counts[tuple(sequence[i - length : i])]
                    followers[sequence[i]] += 1
                    # A shorter context hears of a symbol only when it is new to the longer one. So
                    # its count says in how many *different* longer contexts the symbol came. A
                    # letter that came fifty times, but always after the same letter, is not a
                    # likely guess after another. This is Kneser and Ney's idea.
                    if followers[sequence[i]] > 1:
                        break

    def probabilities(self, history: Sequence[int]) -> list[float]:
        """The next symbol's distribution after a history that starts with the boundary."""
        result = [1.0 / len(ALPHABET)] * len(ALPHABET)
        for length in range(min(self.order, len(history) + 1)):
            followers = self.counts.get(tuple(history[len(history) - length :]))
            if followers is None:
                break
            # Every count gives up the discount; what is saved goes to the shorter context.
            total = sum(followers.values())
            saved = self.discount * len(followers) / total
            result = [saved * shorter for shorter in result]
            for symbol, count in followers.items():
                result[symbol] += (count - self.discount) / total
        return result

    def num_counts(self) -> int:
        """How many numbers the table stores."""
        return sum(map(len, self.counts.values()))


# === THE MODEL: FROM SYMBOLS TO LOGITS ===

# From here to the end of SAMPLING the whole of a GPT can be read without a break. A name of n
# letters is n + 1 predictions, and all of them are made at once: one row for each symbol read,
# and the row's target is the symbol that follows. Frameworks fill up short names to the length of
# the longest and mask the filling; here eight names are packed end to end, some 57 rows, so that
# no row is computed in vain. What keeps a row from seeing its own target, and other names, is its
# span of rows that it may read:
#
#     pack([[0, 1, 22, 1, 0], [0, 13, ...]])     the same as a mask
#     row  reads  target  span    position       columns 0 1 2 3 4
#      0   .      a       (0, 1)  0                      1 x x x x
#      1   a      v       (0, 2)  1                      1 1 x x x
#      2   v      a       (0, 3)  2                      1 1 1 x x
#      3   a      .       (0, 4)  3                      1 1 1 1 x
#      4   .      m       (4, 5)  0                      x x x x 1
#
# Where a mask has an x, frameworks add -infinity to the score *before* the softmax. To set the
# weight to zero *after* the softmax would leak: the future's scores would still stand in the sum
# that the weights are divided by.


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


# Attention is a soft look-up. Every row sends out a query and compares it with the keys of the
# rows in its span; the better a key fits, the more of that row's value it takes. Why divide by
# sqrt(d)? A dot product of d independent terms with standard deviation 1 has sqrt(d). In a wide
# head, undivided, the softmax would put nearly all weight on one row, where its slope is almost
# zero. (With d = 4 and small weights at the start it hardly matters here.) Why several heads? One
# head makes one weighted mean; four heads can fetch from four places at once, each in its own
# quarter of the columns, for the same number of multiplications. In production:
# torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), whose fused kernels
# (FlashAttention) never write the N x N weights to memory.


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


# The Tensor operations that GPT is made of (embedding, linear, relu, rms_norm) stand in the
# appendix with PyTorch's names and meanings; linear(x, w) is x times w transposed. There too is
# scaled_dot_product_attention: attention_head for each block of columns, and its gradient.


class GPT:
    """A transformer with one block. What it knows is in nine matrices, which start out random.

    Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019, but with
    RMSNorm for LayerNorm, ReLU for GELU, no biases, and a head of its own (GPT-2 uses the token
    embedding once more).
    """

    def __init__(self, num_symbols: int, context: int, width: int, rng: random.Random) -> None:
        def matrix(rows: int, columns: int) -> Tensor:
            return Tensor([[rng.gauss(0.0, 0.08) for _ in range(columns)] for _ in range(rows)])

        self.token_embedding = matrix(num_symbols, width)  # one row for each symbol
        self.position_embedding = matrix(context, width)  # one row for each place
        self.query = matrix(width, width)
        self.key = matrix(width, width)
        self.value = matrix(width, width)
        self.attention_out = matrix(width, width)
        self.mlp_in = matrix(4 * width, width)
        self.mlp_out = matrix(width, 4 * width)
        self.head = matrix(num_symbols, width)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return list(vars(self).values())

    def forward(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N symbols and their places -> logits [N][num_symbols]: a score for each next symbol.

        attend(q, k, v) lets each row read itself and rows of its past; which ones is decided there,
        so causality is too. It is the only step in which rows meet.
        """
        # A symbol's vector says what it is, a place's vector where it stands. Their sum starts
        # out small (entries of 0.08 * sqrt(2) = 0.11). Normed, every row has a root mean square of
        # 1, so what attention and the MLP add later has the same relative size for every symbol.
        x = embedding(self.token_embedding, ids) + embedding(self.position_embedding, positions)
        x = rms_norm(x)

        # x is the residual stream. Attention and the MLP each read a normed copy of it and *add*
        # what they found, so on the way back the sum hands every gradient on unweakened. The norm
        # stands before each part (pre-norm), off that path. The first Transformer put it after the
        # sum, on the path, and was hard to train without warm-up (Xiong et al., arXiv:2002.04745).
        normed = rms_norm(x)
        q, k, v = [linear(normed, weight) for weight in (self.query, self.key, self.value)]
        x = x + linear(attend(q, k, v), self.attention_out)

        # The MLP works on each row alone: what attention has gathered is combined here.
        normed = rms_norm(x)
        x = x + linear(relu(linear(normed, self.mlp_in)), self.mlp_out)

        # GPT-2 and its heirs norm once more before the head, since a stream to which dozens of
        # blocks have added has grown. After one block the head can learn the size it gets.
        return linear(x, self.head)


# === TRAINING ===

# Training makes what followed less surprising: a batch of names in, the loss out, and every
# number of the model moved a little in the direction in which the loss falls.


def predict(model: GPT, names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read names, all at once -> logits [N][27] for the N symbols that follow, and these symbols.

    Nothing is generated here: every row is given the true letters before its target (teacher
    forcing). This is why a GPT can train on all places of a text at the same time.
    """
    ids, positions, spans, targets = pack([encode(name) for name in names], LOOK_BACK)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.forward(ids, positions, attend), targets


def train(model: GPT, names: Sequence[str], rng: random.Random) -> None:
    """Change the model's matrices, step by step, so that the names become more likely."""
    optimizer = Adam(model.parameters(), betas=(0.9, 0.95))
    queue: list[str] = []
    recent_losses: list[float] = []
    for step in range(1, NUM_STEPS + 1):
        if len(queue) < BATCH_SIZE:
            queue = rng.sample(names, len(names))  # the next pass through all names, shuffled
        batch, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]

        # The loss: how surprised was the model? backward: which way should each of its numbers
        # move? step: move it.
        logits, targets = predict(model, batch)
        loss = cross_entropy(logits, targets)
        loss.backward()
        warm_up = min(1.0, step / WARM_UP_STEPS)
        optimizer.step(LEARNING_RATE * warm_up * (1.0 - (step - 1) / NUM_STEPS))

        recent_losses.append(loss.item())
        if step % 30 == 0:
            mean = sum(recent_losses) / len(recent_losses)
            print(f"step {step:4d}/{NUM_STEPS} | loss {mean:.4f}", flush=True)
            recent_losses.clear()


# What attention is worth here surprised us. Each line is a whole training of its own, on the same
# names. (With other names, on other seeds, the run below gives 2.310 [results: seed_1.nll],
# 2.301 [results: seed_2.nll] and 2.291 [results: seed_3.nll].)
#
#     what a row reads                                     nll on new names
#     all symbols so far, weighed alike (no queries)       2.342 [results: plain_average.nll]
#     itself alone, and its place (LOOK_BACK = 1)          2.316 [results: look_back_1.nll]
#     all symbols so far, weighed by attention             2.286 [results: seed_42.nll]
#     the last two, weighed by attention (LOOK_BACK = 2)   2.257 [results: look_back_2.nll]
#
# An even mean over the whole past is worse than no past at all: it blurs the letter that matters
# most. Learned weights repair this and more. But a window of two, set by hand, is better still. It
# is not that the longer past was learned by heart: the window is better on its own names as well,
# 2.194 [results: look_back_2.train_nll] against 2.216 [results: seed_42.train_nll]. So in 600
# steps attention has not learned to make use of it. "Attention is for long range" is true of what
# it can do, not of what a small one does.

# === SAMPLING ===

# To write, the model predicts a symbol, one is drawn, and it is fed back in. The rows of the
# symbols before do not change when a new one arrives, since no row reads to its right. So their
# keys and values are kept (the KV cache), and only the new symbol passes through the network.
# The cache does not make the model causal, as one sometimes reads; the spans do. It is the same
# arithmetic, remembered, and costs two rows of WIDTH numbers for each symbol and block.


def next_logits(
    model: GPT, symbol: int, position: int, cache: tuple[list[list[float]], list[list[float]]]
) -> list[float]:
    """Read one more symbol -> logits [27] for the next. The cache (rows of keys, rows of values)
    holds what was read before, and grows by one row of each.
    """
    keys, values = cache

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.extend(k.data)
        values.extend(v.data)
        span = (max(0, len(keys) - LOOK_BACK), len(keys))
        past_k, past_v = [Tensor(rows, requires_grad=False) for rows in cache]
        return scaled_dot_product_attention(q, past_k, past_v, NUM_HEADS, [span])

    return model.forward([symbol], [position], attend).data[0]


def generate(model: GPT, temperature: float, rng: random.Random) -> str:
    """Invent a name, of at most CONTEXT letters. Dividing the logits by a temperature below 1
    widens their differences: likely letters become likelier still, and near 0 the likeliest is
    always taken. At 1 the model speaks as it has learned to; above 1 it speaks more at random.
    """
    name, symbol, cache = "", 0, ([], [])
    for position in range(CONTEXT):
        logits = next_logits(model, symbol, position, cache)
        probabilities = softmax_row([z / temperature for z in logits])
        symbol = rng.choices(range(len(ALPHABET)), probabilities)[0]
        if symbol == 0:
            break
        name += ALPHABET[symbol]
    return name


# === MEASURING ===

# One number for each prediction: -log of the probability that the model gave to what came. Both
# kinds of model are asked in the same way, name by name.


def table_nats(table: CountTable, name: str) -> list[float]:
    """What each symbol of the name, end mark included, cost the table: [letters + 1] nats."""
    symbols = encode(name)
    return [-log(table.probabilities(symbols[:i])[symbols[i]]) for i in range(1, len(symbols))]


def gpt_nats(model: GPT, name: str) -> list[float]:
    """The same for the GPT: [letters + 1] nats."""
    logits, targets = predict(model, [name])
    return [-value for value in log_prob(logits, targets).data[0]]


def mean_nats(nats_by_name: Sequence[Sequence[float]]) -> float:
    """The mean over all symbols of all names, long names counting for more: the nll."""
    return sum(map(sum, nats_by_name)) / sum(map(len, nats_by_name))


def share_of_unmet_contexts(table: CountTable, names: Sequence[str]) -> float:
    """How often the longest context that the table could use was never met in training."""
    length = table.order - 1
    contexts = [
        tuple(symbols[max(0, i - length) : i])
        for symbols in map(encode, names)
        for i in range(1, len(symbols))
    ]
    return sum(context not in table.counts for context in contexts) / len(contexts)


def cache_error(model: GPT, names: Sequence[str]) -> float:
    """Read names packed into one matrix, and again symbol by symbol with a cache: the largest
    difference between a logit of the one way and of the other.
    """
    logits, _ = predict(model, names)
    packed_rows = iter(logits.data)
    worst = 0.0
    for name in names:
        cache: tuple[list, list] = ([], [])
        for position, symbol in enumerate(encode(name)[:-1]):
            cached_row = next_logits(model, symbol, position, cache)
            worst = max(worst, *[abs(a - b) for a, b in zip(cached_row, next(packed_rows))])
    return worst


def main() -> dict[str, object]:
    """Count, train, test on names that nobody has seen, and invent some."""
    rng = random.Random(SEED)
    all_names = load_names()
    rng.shuffle(all_names)
    training, held_out = all_names[:NUM_TRAIN], all_names[-NUM_HELD_OUT:]
    sequences = [encode(name) for name in training]
    tables = {order: CountTable(sequences, order, TABLE_DISCOUNT) for order in TABLE_ORDERS}
    report_data(all_names, training)

    model = GPT(len(ALPHABET), CONTEXT, WIDTH, rng)
    num_numbers = sum(len(p.data) * len(p.data[0]) for p in model.parameters())
    print(f"\nTraining a GPT of {num_numbers:,} numbers")
    start = time.perf_counter()
    train(model, training, rng)
    print(f"time  training took {time.perf_counter() - start:.1f} s")

    know_nothing = log(len(ALPHABET))
    gpt_new = [gpt_nats(model, name) for name in held_out]
    gpt = (mean_nats([gpt_nats(model, name) for name in training]), mean_nats(gpt_new))
    table_new = {n: [table_nats(table, name) for name in held_out] for n, table in tables.items()}
    nll = {
        n: (mean_nats([table_nats(table, name) for name in training]), mean_nats(table_new[n]))
        for n, table in tables.items()
    }
    best = min(TABLE_ORDERS, key=lambda order: nll[order][1])
    rows = [("know nothing", 0, 0.0, (know_nothing, know_nothing))]
    for n, table in tables.items():
        title = "bigram: the last symbol" if n == 2 else f"table: the last {n - 1}"
        unmet = share_of_unmet_contexts(table, held_out)
        rows.append((title, table.num_counts(), unmet, nll[n]))
    report_models([*rows, ("GPT: all symbols so far", num_numbers, None, gpt)])
    by_place = report_places(table_new[best], gpt_new, all_names)
    samples = {t: [generate(model, t, rng) for _ in range(NUM_SAMPLES)] for t in TEMPERATURES}
    shares = report_samples(samples, set(training), set(all_names))
    headline = {
        "nll": gpt[1],
        "table_nll": nll[best][1],
        "bigram_nll": nll[2][1],
        "train_nll": gpt[0],
        "cache_error": cache_error(model, held_out[:50]),
    }
    report_conclusion(headline, nll[best][0])
    return {**headline, "details": {"by_place": by_place, "samples": samples, "shares": shares}}


# === APPENDIX: REPORT AND HELPERS ===


def report_data(all_names: Sequence[str], training: Sequence[str]) -> None:
    """The facts before anything is learned."""
    print(f"{len(all_names):,} names: {NUM_TRAIN:,} to learn from, {NUM_HELD_OUT:,} held out")
    print(f"  for example {', '.join(training[:8])}")
    print(f"Knowing nothing, a symbol costs ln {len(ALPHABET)} = {log(len(ALPHABET)):.2f} nats.")


def report_models(rows: Sequence[tuple[str, int, float | None, tuple[float, float]]]) -> None:
    """One line per model: (name, numbers stored, share of new places whose longest context was
    never met, nll on (training, held-out) names).
    """
    print("\nNats per symbol, and perplexity = exp(nats on new names). Unmet: how often a")
    print("table never met the longest context that it could use in a new name.")
    print("model                     numbers   unmet   own names   new names   perplexity")
    for name, size, unmet, (own, new) in rows:
        share = "" if unmet is None else f"{unmet:.0%}"
        print(f"{name:<24}{size:>9,}{share:>8}{own:>12.3f}{new:>12.3f}{exp(new):>13.1f}")


def report_places(
    table_rows: Sequence[Sequence[float]],
    gpt_rows: Sequence[Sequence[float]],
    all_names: Sequence[str],
) -> list[tuple[int, float, float]]:
    """Mean nats at each place in the held-out names -> [(names, table, GPT)]; prints bars."""
    firsts = Counter(name[0] for name in all_names)
    limit = -sum(c / len(all_names) * log(c / len(all_names)) for c in firsts.values())
    print("\nWhere in a new name the GPT gains on the best table (# gains, - loses 0.02 nats)")
    print("place   names   table     GPT")
    result = []
    for place in range(9):
        table_here = [row[place] for row in table_rows if len(row) > place]
        gpt_here = [row[place] for row in gpt_rows if len(row) > place]
        count = len(table_here)
        old, new = sum(table_here) / count, sum(gpt_here) / count
        bar = ("#" if new < old else "-") * round(abs(old - new) / 0.02)
        print(f"{place + 1:5d}{count:8d}{old:8.2f}{new:8.2f}   {bar}".rstrip())
        result.append((count, old, new))
    print(f"At place 1 nothing is known yet: who knew the first letters of all {len(all_names):,}")
    print(f"names could not do better than {limit:.2f}.")
    return result


def report_samples(
    samples: dict[float, list[str]], training: set[str], all_names: set[str]
) -> dict[float, tuple[float, float, float]]:
    """Print invented names -> by temperature: shares that are different, copied, real and new."""
    print("\nInvented names: = copied from training, + a real name that it never saw")
    shares = {}
    for temperature, names in samples.items():
        marks = ["=" if n in training else "+" if n in all_names else " " for n in names]
        shares[temperature] = tuple(
            count / len(names) for count in (len(set(names)), marks.count("="), marks.count("+"))
        )
        for first in (0, 5):
            label = f"T = {temperature}" if first == 0 else ""
            shown = [f"{n + mark:<14}" for n, mark in zip(names, marks)][first : first + 5]
            print(f"{label:<9}{''.join(shown)}".rstrip())
    print("temperature   different   copied   real and new")
    for temperature, (different, copied, real) in shares.items():
        print(f"{temperature:<14}{different:>9.1%}{copied:>9.1%}{real:>15.1%}")
    return shares


def report_conclusion(numbers: dict[str, float], table_train_nll: float) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    error = numbers["cache_error"]
    print(f"\nLargest change that packing and the cache make to a logit: {error:.0e}")
    if error == 0.0:
        print("None: the same dot products are taken. (On a GPU they would differ by rounding.)")
    margin = numbers["table_nll"] - numbers["nll"]
    verdict = "better than" if margin > 0 else "not better than"
    print(
        f"\nOn new names the GPT is {verdict} the best table ({numbers['nll']:.3f} against "
        f"{numbers['table_nll']:.3f} nats)."
    )
    if margin > 0 and table_train_nll < numbers["train_nll"]:
        print(
            f"On its own names the table looks far better ({table_train_nll:.3f} against "
            f"{numbers['train_nll']:.3f}): a"
        )
        print("low training loss can be memory, and only new names tell memory from knowledge.")


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


def log_prob(logits: Tensor, targets: Sequence[int]) -> Tensor:
    """log softmax(logits)[target] of every row: logits [N][C], targets N -> [1][N], in nats."""
    check_targets(logits, targets)
    totals = [log_sum_exp(row) for row in logits.data]
    data = [[row[t] - total for total, row, t in zip(totals, logits.data, targets)]]

    # The same derivative as in cross_entropy, with the opposite sign: d_z = d (onehot - p).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_logits = []
        for row, total, target, d in zip(logits.data, totals, targets, d_out[0]):
            d_row = [-d * exp(z - total) for z in row]
            d_row[target] += d
            d_logits.append(d_row)
        return (d_logits,)

    return Tensor(data, (logits,), pass_back)


def check_targets(logits: Tensor, targets: Sequence[int]) -> None:
    """Raise ValueError unless there is one class number for every row of logits [N][C]."""
    if len(targets) != len(logits.data):
        raise ValueError(f"{len(logits.data)} rows of logits but {len(targets)} targets")
    if not all(0 <= target < len(logits.data[0]) for target in targets):
        raise ValueError(f"a target is not one of the classes 0..{len(logits.data[0]) - 1}")


# === APPENDIX: OPTIMISER (common/optim.py) ===


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
