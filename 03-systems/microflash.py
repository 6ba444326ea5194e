"""FlashAttention computes exact attention and exact gradients without storing the N x N weights.

In ordinary causal attention every row compares its query with its own key and the keys of all rows
before it. This makes a matrix of N x N scores and one of N x N weights (half of each is masked),
and the weights are kept for the backward pass. On a GPU a long text's matrices do not fit into the
small fast memory beside the arithmetic units. So they are written to the large slow memory and read
back several times, and the units wait for them.

FlashAttention cuts the matrix into tiles, small enough for the fast memory (here they are square),
and uses up each tile at once. The softmax of a row needs all of its scores, though, and a tile
holds only some of them. The way out is a summary of the scores seen so far, which can be merged
with the summary of further scores. The backward pass computes the weights again, tile by tile,
instead of loading them.

The run checks that outputs and gradients agree with ordinary attention, trains the same model once
with each, and lets the trained model answer questions. Then it counts every number, or word, that
moves between the two memories. Look at three things: how the words moved depend on the size of the
tiles, and how far they are from the least possible; how traffic and memory grow with N; and which
of the two is still quadratic.

What pure Python can show is counted words and measured memory. It cannot show the gain in time.
Here the time goes to the interpreter and not to moving words, and flash attention, which does more
arithmetic, is the slower of the two. On a GPU it is several times faster (MEASURING cites times).

In the code      In the papers   Meaning                                            Shape
q, k, v          Q, K, V         queries, keys, values of one attention head        [N][d]
scores           S               q_i . k_j / sqrt(d)                                [N][N]
weights          P               softmax of each row of scores                      [N][N]
out              O               weights times values                               [N][d]
Summary          (m, l, o)       largest score, total, weighted sum of values       1, 1, [d]
lse              L               log-sum-exp of each row of scores, m + log l       [N]
delta            D               dot product of each row of d_out and of out        [N]
block            B_r = B_c       rows and columns of a tile                         a number
d_x              dX              gradient of the loss with respect to x             as x

Left out: attention that is not causal, tiles that are not square, dropout, several heads (each is
a problem of its own), and what a GPU kernel does to keep its units busy: FlashAttention-3 overlaps
loads, products and exponentials, and offers 8-bit floats.

A number marked [results: key] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microflash.json under that key.

Read first: microgpt.

Papers: Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018, arXiv:1805.02867.
Rabe & Staats, "Self-attention Does Not Need O(n^2) Memory", 2021, arXiv:2112.05682. Dao et al.,
"FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness", 2022,
arXiv:2205.14135. Dao, "FlashAttention-2", 2023, arXiv:2307.08691, whose loop order we follow.
Shah et al., "FlashAttention-3", 2024, arXiv:2407.08608.
"""

from __future__ import annotations

import math
import random
import time
import tracemalloc
from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import exp, log
from operator import add, mul, sub

# === CONSTANTS ===

SEED = 42
FAST_WORDS = 4096  # numbers that the fast memory can hold
HEAD_DIM = 8  # d, columns of q, k and v in the measurements
BLOCKS = (1, 8, 16, 32, 64)  # rows of a tile, to be compared
BLOCK = 16  # rows of a tile everywhere else: small, so that there are many tiles
COMPARE_LENGTH = 256  # N where tile sizes are compared
LENGTHS = (64, 128, 256, 512)  # N where growth is measured
CHECK_LENGTH = 100  # N of the exactness check: six tiles and a rest of 4 rows

WIDTH = 16  # entries of a vector in the model that is trained
NUM_STEPS = 320  # one phone book each
LEARNING_RATE = 0.02  # at the first step; it falls to 0 in a straight line
NUM_TEST = 20  # new phone books, 26 questions each
NUM_PARTS = 4  # into which the cache is cut for answering

# === ONLINE SOFTMAX: SUMMARISE AND MERGE ===

# The output of one query is a weighted mean of values: out = sum_j exp(s_j) v_j / sum_j exp(s_j).
# exp overflows above 709 in Python's floats (above 88 in float32, above 11 in float16), so the
# largest score is subtracted first; it cancels in the fraction. But which score is the largest is
# known only at the end. A summary of some scores therefore says from which score it is measured:
#
#     m = max_j s_j        l = sum_j exp(s_j - m)        o = sum_j exp(s_j - m) v_j
#
# An example: the scores 1, 3, 2 have the values 10, 20, 30, and 2 arrives after 1 and 3.
#
#     scores 1, 3    m = 3    l = exp(-2) + exp(0) = 1.135        o = 10 exp(-2) + 20 exp(0) = 21.35
#     score  2       m = 2    l = exp(0) = 1                      o = 30 exp(0) = 30
#     together       m = 3    l = 1.135 + exp(2 - 3) 1 = 1.503    o = 21.35 + exp(2 - 3) 30 = 32.39
#
# The second summary is measured from 2, the first from 3: so the second is rescaled by exp(2 - 3)
# first. o / l = 32.39 / 1.503 = 21.55 is the output from all three at once. merge gives the same in
# any order, up to rounding: parts may come one by one (tiles) or at the same time (decoding).
#
# Two passes, the first for the maximum alone, would avoid the rescaling but load every key and
# compute every score twice. Rescaling costs two exp and some 2 d multiplications per merge; without
# it the share of right answers of the reader trained below is 13% [results: no_rescaling.recall].

Matrix = list[list[float]]
Summary = tuple[float, float, list[float]]  # m, l, o
Saved = tuple[Matrix, list[float]]  # out and lse: what flash saves for backward


def summarise(scores: Sequence[float], values: Sequence[Sequence[float]]) -> Summary:
    """Scores [n] of one query, their values [n][d] -> (m, l, o), as largest, total and weighted.

    >>> largest, total, weighted = summarise([1, 3, 2], [[10], [20], [30]])
    >>> largest, round(total, 3), round(weighted[0] / total, 2)
    (3, 1.503, 21.55)
    """
    largest = max(scores)
    exponentials = [exp(score - largest) for score in scores]
    return largest, sum(exponentials), [dot(exponentials, column) for column in zip(*values)]


def merge(a: Summary, b: Summary) -> Summary:
    """The summary of all scores, from the summaries of two groups of them.

    >>> largest, total, weighted = merge(summarise([1, 3], [[10], [20]]), summarise([2], [[30]]))
    >>> largest, round(total, 3), round(weighted[0] / total, 2)
    (3, 1.503, 21.55)
    """
    largest = max(a[0], b[0])
    # One of the factors is exp(0) = 1 and the other at most 1: nothing can overflow.
    factor_a, factor_b = exp(a[0] - largest), exp(b[0] - largest)
    weighted = [x * factor_a + y * factor_b for x, y in zip(a[2], b[2])]
    return largest, a[1] * factor_a + b[1] * factor_b, weighted


# === TWO MEMORIES, AND ORDINARY ATTENTION ===

# A matrix lives in slow memory. It is loaded to be computed with; a result that must last is
# stored. (An A100 has 40 GB of slow memory at 1.5 TB/s; each of its 108 units has 192 KB of fast
# memory, all together at 19 TB/s.) A word is one number. The class counts words, and refuses if a
# function declares that it holds too many. It must trust the function: Python cannot stop it from
# keeping more than it declares. What is really kept, tracemalloc measures at the end.


class TwoMemories:
    """Counts the words that are moved between slow and fast memory."""

    def __init__(self, capacity: float = math.inf) -> None:
        self.capacity = capacity  # words of fast memory
        self.moved = 0  # words loaded and stored so far
        self.most_held = 0  # the most words in fast memory at one time

    def load(self, *arrays: Sequence) -> None:
        self.moved += count_words(arrays)

    store = load  # a word costs the same in both directions

    def hold(self, *arrays: Sequence) -> None:
        """Say what is in fast memory now."""
        words = count_words(arrays)
        if words > self.capacity:
            raise MemoryError(f"{words:,} words in a fast memory of {self.capacity:,}")
        self.most_held = max(self.most_held, words)


# Ordinary attention is a sequence of library calls, each of which loads its inputs and stores its
# output. We count in its favour: inside a call fast memory is unlimited, each input is loaded once,
# and only the triangle up to the diagonal exists (row i has i + 1 scores). A library that fills the
# square and then masks it moves about twice as much.


def ordinary_forward(q: Matrix, k: Matrix, v: Matrix, memory: TwoMemories) -> tuple[Matrix, Matrix]:
    """Causal attention of one head -> out [N][d], and the weights (row i has i + 1 of them)."""
    scale = len(q[0]) ** -0.5
    memory.load(q, k)
    scores = [[dot(query, key) * scale for key in k[: i + 1]] for i, query in enumerate(q)]
    memory.store(scores)

    memory.load(scores)
    weights = [softmax_row(row) for row in scores]
    memory.store(weights)

    memory.load(weights, v)
    out = triangle_times(weights, v)
    memory.store(out)
    return out, weights


# === FLASH FORWARD ===

# A tile of queries stays in fast memory while the tiles of keys and values pass by, and every query
# merges what it meets into its summary. With N = 96 and 32 rows per tile there are nine tiles of
# scores, of three kinds:
#
#     queries   keys 0-31   keys 32-63   keys 64-95
#      0-31     diagonal    skipped      skipped       full: every query reads every key
#     32-63     full        diagonal     skipped       diagonal: query i reads keys up to i
#     64-95     full        full         diagonal      skipped: not loaded, not computed
#
# In a diagonal tile the scores of later keys become -infinity, and exp makes them 0. A row may read
# the first key of each tile that is computed, so it has a finite score there: -infinity minus
# -infinity, which is not a number, cannot occur. o is divided by l only at the end, once per row
# (FlashAttention-2; the first version divided after every tile). The backward pass gets no weights
# but out and one number per row, the log-sum-exp lse = m + log l: a weight is exp(score - lse) =
# exp(score - m) / l. (tiles and take, in the appendix, cut rows.)


def tile_scores(q_tile: Matrix, k_tile: Matrix, rows: range, columns: range) -> Matrix:
    """q . k / sqrt(d) for the queries of these rows and the keys of these columns."""
    scale = len(q_tile[0]) ** -0.5
    scores = [[dot(query, key) * scale for key in k_tile] for query in q_tile]
    for row, row_scores in zip(rows, scores):
        for column in range(max(row + 1, columns.start), columns.stop):  # the row's future
            row_scores[column - columns.start] = -math.inf
    return scores


def flash_forward(q: Matrix, k: Matrix, v: Matrix, block: int, memory: TwoMemories) -> Saved:
    """Causal attention of one head, tile by tile -> out [N][d], lse [N].

    Dao, "FlashAttention-2", 2023, algorithm 1.
    """
    out, lse = [], []
    for rows in tiles(len(q), block):
        q_tile = take(q, rows)
        memory.load(q_tile)
        summaries = [(-math.inf, 0.0, [0.0] * len(v[0])) for _ in rows]  # of no scores at all
        for columns in tiles(len(k), block):
            if columns.start >= rows.stop:
                break  # skipped, and so is every tile after it
            k_tile, v_tile = take(k, columns), take(v, columns)
            memory.load(k_tile, v_tile)
            scores = tile_scores(q_tile, k_tile, rows, columns)
            memory.hold(q_tile, k_tile, v_tile, scores, *zip(*summaries))
            parts = [summarise(row_scores, v_tile) for row_scores in scores]
            summaries = list(map(merge, summaries, parts))
        out_tile = [[x / total for x in weighted] for _, total, weighted in summaries]
        lse_tile = [largest + log(total) for largest, total, _ in summaries]
        memory.store(out_tile, lse_tile)
        out += out_tile
        lse += lse_tile
    return out, lse


# === BACKWARD, BOTH WAYS ===

# Write S for the scores, P for the weights, dX for the loss's gradient at X, and c for 1 / sqrt(d).
#
#     S = c Q K^T      P = softmax of each row of S      O = P V
#     dV = P^T dO      dP = dO V^T      dS = below       dQ = c dS K      dK = c dS^T Q
#
# In a row of softmax every weight depends on every score: dP_ik / dS_ij = P_ik ([k = j] - P_ij),
# where [k = j] is 1 if k is j and else 0. Summed over all ways from S_ij to the loss:
#
#     dS_ij = sum_k dP_ik P_ik ([k = j] - P_ij) = P_ij (dP_ij - D_i)    with D_i = sum_k P_ik dP_ik
#
# An example: P = (0.5, 0.3, 0.2) and dP = (1, 2, 4). Then D = 0.5 + 0.6 + 0.8 = 1.9, and
# dS = (0.5 * -0.9, 0.3 * 0.1, 0.2 * 2.1) = (-0.45, 0.03, 0.42). It sums to 0, as it must: the same
# number added to all scores changes no weight.
#
# D is what tiles seem to forbid: a sum over the whole row, and the row's first tile needs it
# already. Without a trick it takes another sweep over all tiles. But
#
#     sum_k P_ik dP_ik = sum_k P_ik (dO_i . V_k) = dO_i . (sum_k P_ik V_k) = dO_i . O_i
#
# and these two rows are known before the sweep begins. So D is N short dot products. With D left
# out, the reader trained below answers 15% [results: delta_zero.recall] of its questions right.


def softmax_backward(weights: list[float], d_weights: list[float], delta: float) -> list[float]:
    """dS for one row, or a part of it, from P, dP and the row's D.

    >>> [round(d, 2) for d in softmax_backward([0.5, 0.3, 0.2], [1, 2, 4], 1.9)]
    [-0.45, 0.03, 0.42]
    """
    return [weight * (d - delta) for weight, d in zip(weights, d_weights)]


def ordinary_backward(
    q: Matrix, k: Matrix, v: Matrix, weights: Matrix, d_out: Matrix, memory: TwoMemories
) -> tuple[Matrix, Matrix, Matrix]:
    """The gradients (d_q, d_k, d_v), with the weights loaded from slow memory."""
    scale = len(q[0]) ** -0.5
    memory.load(weights, d_out)
    d_v = transposed_triangle_times(weights, d_out)
    memory.store(d_v)

    memory.load(d_out, v)
    d_weights = [[dot(d, value) for value in v[: i + 1]] for i, d in enumerate(d_out)]
    memory.store(d_weights)

    # Whole rows are at hand here, so D is summed as its definition says: P_i . dP_i.
    memory.load(weights, d_weights)
    d_scores = [softmax_backward(p, d, dot(p, d)) for p, d in zip(weights, d_weights)]
    memory.store(d_scores)

    memory.load(d_scores, k)
    d_q = scaled(triangle_times(d_scores, k), scale)
    memory.store(d_q)

    memory.load(d_scores, q)
    d_k = scaled(transposed_triangle_times(d_scores, q), scale)
    memory.store(d_k)
    return d_q, d_k, d_v


# In the flash backward a tile of keys stays and the tiles of queries pass by, so that dK and dV can
# grow in fast memory. dQ cannot: each of its rows receives a part from every tile of keys, so it is
# loaded, added to and stored again each time. (On a GPU many units do this at once, by atomic
# additions in no fixed order: the last bits of dQ may then differ from run to run.)
#
# It computes the scores a second time: 5 products of matrices instead of 4, after 2 in the forward.
# Flash attention saves words, not arithmetic. (Scores count as held once: weights overwrite them.)


def row_deltas(out: Matrix, d_out: Matrix) -> list[float]:
    """D of every row: dO_i . O_i."""
    return list(map(dot, d_out, out))


def flash_backward(
    q: Matrix, k: Matrix, v: Matrix, saved: Saved, d_out: Matrix, block: int, memory: TwoMemories
) -> tuple[Matrix, Matrix, Matrix]:
    """The gradients (d_q, d_k, d_v), tile by tile. Dao, "FlashAttention-2", 2023, algorithm 2."""
    out, lse = saved
    scale = len(q[0]) ** -0.5
    memory.load(out, d_out)
    delta = row_deltas(out, d_out)
    d_q, d_k, d_v = [[0.0] * len(q[0])] * len(q), [], []
    memory.store(delta, d_q)
    for columns in tiles(len(k), block):
        k_tile, v_tile = take(k, columns), take(v, columns)
        memory.load(k_tile, v_tile)
        d_k_tile, d_v_tile = scaled(k_tile, 0.0), scaled(v_tile, 0.0)
        for rows in tiles(len(q), block):
            if rows.stop <= columns.start:
                continue  # skipped: these queries come before these keys
            loaded = [take(x, rows) for x in (q, d_out, lse, delta, d_q)]
            memory.load(*loaded)
            q_tile, d_out_tile, lse_tile, delta_tile, d_q_tile = loaded

            scores = tile_scores(q_tile, k_tile, rows, columns)
            weights = [[exp(s - total) for s in row] for row, total in zip(scores, lse_tile)]
            d_weights = [[dot(d, value) for value in v_tile] for d in d_out_tile]
            d_scores = list(map(softmax_backward, weights, d_weights, delta_tile))
            memory.hold(k_tile, v_tile, d_k_tile, d_v_tile, *loaded, weights, d_scores)

            d_v_tile = add_matrices(d_v_tile, matmul(transpose(weights), d_out_tile))
            d_k_tile = add_matrices(d_k_tile, scaled(matmul(transpose(d_scores), q_tile), scale))
            d_q_tile = add_matrices(d_q_tile, scaled(matmul(d_scores, k_tile), scale))
            d_q[rows.start : rows.stop] = d_q_tile
            memory.store(d_q_tile)
        memory.store(d_k_tile, d_v_tile)
        d_k += d_k_tile
        d_v += d_v_tile
    return d_q, d_k, d_v


# === TRAINING, BOTH WAYS ===

# The same model is trained twice, from the same start and on the same data, once with each
# attention. The task is a phone book: 26 letters in random order, each with a digit, and then 26
# questions: which digit did this letter have? Every step draws a new book, so the answer can be had
# only from the rows above. Guessing is right 1 time in 10. The model (in the appendix) is as small
# as it can be: one attention head, no MLP, and no positions, since the order of entries is random.
# Its 52 rows would fit into fast memory whole: this shows that flash attention is exact, and not
# what it saves. Learning alone would prove little: the reader also learns without a mask in the
# diagonal tiles, and then answers 100% [results: no_mask.recall]. So we compare all the losses.
#
# In production: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True). It takes
# a fused kernel if one applies, and otherwise silently computes the ordinary way. On a GPU the
# flash kernel needs float16 or bfloat16 and no mask but the causal one; nn.MultiheadAttention must
# also be told need_weights=False. Under sdpa_kernel(SDPBackend.FLASH_ATTENTION), from
# torch.nn.attention, there is an error instead of a silent substitute. For a mask of your own,
# FlexAttention compiles a fused kernel.


def ordinary_attention(q: Tensor, k: Tensor, v: Tensor, memory: TwoMemories) -> Tensor:
    """The engine's operation: [N][d] each -> [N][d]. All weights live until backward."""
    out, weights = ordinary_forward(q.data, k.data, v.data, memory)

    def pass_back(d_out: Matrix) -> tuple:
        return ordinary_backward(q.data, k.data, v.data, weights, d_out, memory)

    return Tensor(out, (q, k, v), pass_back)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, memory: TwoMemories) -> Tensor:
    """The same operation. Besides its inputs, only out and lse live until backward."""
    saved = flash_forward(q.data, k.data, v.data, BLOCK, memory)

    def pass_back(d_out: Matrix) -> tuple:
        return flash_backward(q.data, k.data, v.data, saved, d_out, BLOCK, memory)

    return Tensor(saved[0], (q, k, v), pass_back)


def train(rng: random.Random) -> tuple[Reader, float]:
    """Train two readers on the same books, one with each attention -> the reader with flash
    attention, and the largest difference between the two losses at any step.
    """
    readers = [Reader(random.Random(SEED)), Reader(random.Random(SEED))]
    attentions = (ordinary_attention, flash_attention)
    memories = (TwoMemories(), TwoMemories(FAST_WORDS))
    optimizers = [Adam(reader.parameters(), betas=(0.9, 0.99)) for reader in readers]
    largest_gap = 0.0
    for step in range(1, NUM_STEPS + 1):
        letters, digits, answers = new_book(rng)
        losses = []
        for reader, attention, memory, optimizer in zip(readers, attentions, memories, optimizers):
            logits = reader.forward(letters, digits, partial(attention, memory=memory))
            loss = cross_entropy(rows_from(logits, 26), answers)  # of the questions only
            loss.backward()
            optimizer.step(LEARNING_RATE * (1.0 - (step - 1) / NUM_STEPS))
            losses.append(loss.item())
        largest_gap = max(largest_gap, abs(losses[0] - losses[1]))
        if step % 40 == 0:
            both = f"ordinary {losses[0]:.6f} | flash {losses[1]:.6f}"
            print(f"step {step:4d}/{NUM_STEPS} | {both}", flush=True)
    return readers[1], largest_gap


# === DECODING: THE SAME MERGE ===

# A trained model answers row by row: one query reads the keys and values of all rows so far, which
# are kept (the KV cache). With one query there are no tiles of queries to share out among the
# GPU's hundred units: one would walk through the whole cache while the others wait. So the cache is
# cut into parts, each part is summarised by a unit of its own, and the summaries are merged. This
# is split-K, or Flash-Decoding: the same merge as between tiles, in another order.


def decode_attention(query: list[float], k: Matrix, v: Matrix, num_parts: int) -> list[float]:
    """One query [d] over a cache k, v [n][d] in several parts -> its output [d]."""
    scale = len(query) ** -0.5
    summaries = []
    for part in tiles(len(k), math.ceil(len(k) / num_parts)):
        scores = [dot(query, key) * scale for key in take(k, part)]
        summaries.append(summarise(scores, take(v, part)))
    _, total, weighted = reduce(merge, summaries)
    return [x / total for x in weighted]


def answer(reader: Reader, letters: Sequence[int], digits: Sequence[int]) -> Matrix:
    """Read the 26 entries at once with flash_forward (prefill), then the questions one by one with
    decode_attention -> logits [26][10].
    """
    keys, values = [], []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.extend(k.data)
        values.extend(v.data)
        if len(q.data) > 1:
            memory = TwoMemories(FAST_WORDS)
            return Tensor(flash_forward(q.data, k.data, v.data, BLOCK, memory)[0])
        return Tensor([decode_attention(q.data[0], keys, values, NUM_PARTS)])

    reader.forward(letters[:26], digits[:26], attend)
    return [reader.forward([letter], [UNKNOWN], attend).data[0] for letter in letters[26:]]


def test_reader(reader: Reader, rng: random.Random) -> tuple[float, float]:
    """Ask about new books -> the share of right answers, and the largest difference between a logit
    from decoding and the same logit from ordinary attention over the whole book.
    """
    num_right, worst = 0, 0.0
    attend = partial(ordinary_attention, memory=TwoMemories())
    for _ in range(NUM_TEST):
        letters, digits, answers = new_book(rng)
        logits = answer(reader, letters, digits)
        whole = reader.forward(letters, digits, attend).data[26:]
        worst = max(worst, largest_difference(logits, whole))
        num_right += sum([row.index(max(row)) == digit for row, digit in zip(logits, answers)])
    return num_right / (NUM_TEST * 26), worst


# === MEASURING ===

# What no method can avoid is to load each input once and to store each result once: forward, q, k
# and v are loaded and out is stored, 4 N d words; backward, q, k, v and d_out are loaded and three
# gradients stored, 7 N d words. This floor can be reached if all of these fit into fast memory. If
# the N x N matrices do too, ordinary attention can reach it as well, and nothing is gained.
#
# How many words do tiles of B rows move? Forward, each of the N / B tiles of queries loads the keys
# and values up to its diagonal: N / 2 rows of 2 d words on average, N^2 d / B in all. Ordinary
# attention moves a triangle of N^2 / 2 words four times: 2 B / d times as much, for large N. Dao et
# al. use tiles of M / (4 d) keys for a fast memory of M words, which makes order N^2 d^2 / M; they
# prove that no exact method can be of a lower order for every M. On an A100 (N = 1,024, d = 64,
# forward and backward) they count 4.4 GB instead of 40.3, though 75 GFLOP instead of 67, and
# measure 7.3 ms instead of 41.7.


def run_ordinary(problem: Sequence[Matrix], memory: TwoMemories) -> tuple[list[Matrix], int]:
    """Forward and backward -> [out, d_q, d_k, d_v], and the words moved by the forward alone."""
    q, k, v, d_out = problem
    out, weights = ordinary_forward(q, k, v, memory)
    moved_forward = memory.moved
    return [out, *ordinary_backward(q, k, v, weights, d_out, memory)], moved_forward


def run_flash(
    problem: Sequence[Matrix], memory: TwoMemories, block: int = BLOCK
) -> tuple[list[Matrix], int]:
    """The same with flash attention."""
    q, k, v, d_out = problem
    saved = flash_forward(q, k, v, block, memory)
    moved_forward = memory.moved
    return [saved[0], *flash_backward(q, k, v, saved, d_out, block, memory)], moved_forward


def measure(run: Callable, problem: Sequence[Matrix]) -> tuple[int, float]:
    """Words moved by forward and backward, and the most megabytes that Python held meanwhile."""
    memory = TwoMemories()
    tracemalloc.start()
    run(problem, memory)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return memory.moved, peak / 1e6


def main() -> dict[str, object]:
    """Check that both ways agree, train with both, answer questions, and count."""
    rng = random.Random(SEED)
    problem = new_problem(CHECK_LENGTH, rng)
    report_walk(problem)
    expected, _ = run_ordinary(problem, TwoMemories())
    found, _ = run_flash(problem, TwoMemories(FAST_WORDS))
    errors = list(map(largest_difference, found, expected))
    report_errors(errors)

    start = time.perf_counter()
    reader, loss_gap = train(rng)
    print(f"time  training both took {time.perf_counter() - start:.1f} s")
    recall, decode_error = test_reader(reader, rng)
    report_answers(reader, rng, recall, decode_error)

    problem = new_problem(COMPARE_LENGTH, rng)
    traffic = report_traffic(problem)
    report_seconds(problem)
    problems = [new_problem(length, rng) for length in LENGTHS]
    growth: dict[str, Sequence[float]] = {}
    for name, run in (("ordinary", run_ordinary), ("flash", run_flash)):
        growth[name], growth[f"{name}_mb"] = zip(*[measure(run, problem) for problem in problems])
    exponents = {name: exponent(LENGTHS, costs) for name, costs in growth.items()}
    report_growth(growth, exponents)
    headline = {
        "error": max(*errors, decode_error),
        "loss_gap": loss_gap,
        "recall": recall,
        "traffic_ratio": traffic["ordinary"] / traffic["best"],
        "traffic_exponent": exponents["flash"],
        "memory_exponent": exponents["flash_mb"],
    }
    report_conclusion(headline, exponents, traffic)
    details = {"errors": errors, "decode_error": decode_error, "traffic": traffic}
    return {**headline, "details": {**details, "growth": growth, "exponents": exponents}}


# === APPENDIX: REPORT AND HELPERS ===


def new_problem(length: int, rng: random.Random) -> list[Matrix]:
    """Random q, k, v and d_out, each [length][HEAD_DIM]."""
    return [
        [[rng.gauss(0.0, 1.0) for _ in range(HEAD_DIM)] for _ in range(length)] for _ in range(4)
    ]


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log(cost) against log(size), by least squares: 2 means quadratic.

    >>> round(exponent([10, 20, 40], [5, 20, 80]), 6)
    2.0
    """
    x, y = [log(size) for size in sizes], [log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum([(a - mean_x) * (b - mean_y) for a, b in zip(x, y)])
    return rise / sum([(a - mean_x) ** 2 for a in x])


def count_words(array: Sequence) -> int:
    """How many numbers are in a list of numbers, or in a list of such lists.

    >>> count_words([[1.0, 2.0], [3.0]])
    3
    """
    if not array or isinstance(array[0], (int, float)):
        return len(array)
    return sum(map(count_words, array))


def tiles(length: int, block: int) -> list[range]:
    """Cut rows 0..length-1 into blocks.

    >>> tiles(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(i, min(i + block, length)) for i in range(0, length, block)]


def take(x: list, rows: range) -> list:
    """The entries of x that these rows name.

    >>> take([10, 20, 30, 40], range(1, 3))
    [20, 30]
    """
    return x[rows.start : rows.stop]


def triangle_times(triangle: Matrix, x: Matrix) -> Matrix:
    """A lower triangle [N][N], whose row i has i + 1 entries, times x [N][d] -> [N][d].

    >>> triangle_times([[2.0], [3.0, 4.0]], [[1.0], [10.0]])
    [[2.0], [43.0]]
    """
    columns = transpose(x)
    return [[dot(row, column[: len(row)]) for column in columns] for row in triangle]


def transposed_triangle_times(triangle: Matrix, x: Matrix) -> Matrix:
    """The transpose of a lower triangle [N][N] times x [N][d] -> [N][d].

    >>> transposed_triangle_times([[2.0], [3.0, 4.0]], [[1.0], [10.0]])
    [[32.0], [40.0]]
    """
    columns = transpose(x)
    result = []
    for j in range(len(triangle)):
        entries = [row[j] for row in triangle[j:]]
        result.append([dot(entries, column[j:]) for column in columns])
    return result


def scaled(matrix: Matrix, factor: float) -> Matrix:
    """Every entry times one number."""
    return [[value * factor for value in row] for row in matrix]


def rows_from(x: Tensor, first: int) -> Tensor:
    """The rows of x [N][M] from the first wanted one on; the others get no gradient."""
    blank = [[0.0] * len(x.data[0])] * first
    return Tensor(x.data[first:], (x,), lambda d_out: (blank + d_out,))


def largest_difference(a: Matrix, b: Matrix) -> float:
    """max |a - b| over two matrices of the same shape."""
    return max([abs(x - y) for row_a, row_b in zip(a, b) for x, y in zip(row_a, row_b)])


def report_walk(problem: list[Matrix]) -> None:
    """Follow the last query through its tiles of keys."""
    q, k, v, _ = problem
    scores = [dot(q[-1], key) * HEAD_DIM**-0.5 for key in k]
    print(f"The last of {len(q)} queries merges its scores, {BLOCK} at a time")
    print("   keys   largest here   largest so far   old sum times   sum so far")
    summary: Summary = (-math.inf, 0.0, [0.0] * HEAD_DIM)
    for columns in tiles(len(k), BLOCK):
        part = summarise(scores[columns.start : columns.stop], v[columns.start : columns.stop])
        old_m, summary = summary[0], merge(summary, part)
        name = f"{columns.start}-{columns.stop - 1}"
        factor = exp(old_m - summary[0])
        print(f"{name:>7}{part[0]:>15.3f}{summary[0]:>17.3f}{factor:>16.4f}{summary[1]:>13.4f}")
    lse, direct = summary[0] + log(summary[1]), log_sum_exp(scores)
    print(f"log-sum-exp: {lse:.12f} by merging, {direct:.12f} from all at once")


def report_errors(errors: Sequence[float]) -> None:
    """The largest difference between flash and ordinary attention, by result."""
    print("\nLargest difference from ordinary attention, tiles of", BLOCK, "rows")
    names = ("out", "d_q", "d_k", "d_v")
    print("  " + "   ".join([f"{name} {error:.0e}" for name, error in zip(names, errors)]))
    print(f"\nTraining a reader of phone books twice, chance is ln 10 = {log(10):.2f} nats")


def report_answers(reader: Reader, rng: random.Random, recall: float, decode_error: float) -> None:
    """Show one new book, where the reader looks for its answers, and how many are right."""
    letters, digits, answers = new_book(rng)
    guesses = [row.index(max(row)) for row in answer(reader, letters, digits)]
    weights: Matrix = []

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, lse = flash_forward(q.data, k.data, v.data, BLOCK, TwoMemories())
        every = range(len(letters))
        for row, total in zip(tile_scores(q.data, k.data, every, every), lse):
            weights.append([exp(score - total) for score in row])
        return Tensor(out)

    reader.forward(letters, digits, attend)
    print("\nA new phone book, and the weights exp(score - lse) of some questions (@ is 1)")
    print(f"letters   {' '.join([LETTERS[i] for i in letters[:26]])}")
    print(f"digits    {' '.join(map(str, digits[:26]))}")
    for n in range(8):
        where = shade([weights[26 + n][:26]])[0]
        verdict = "right" if guesses[n] == answers[n] else "wrong"
        print(f"   {LETTERS[letters[26 + n]]}?     {where}  {guesses[n]} {verdict}")
    print(f"Right in {NUM_TEST} new books: {recall:.1%} of {NUM_TEST * 26} (guessing: 10%)")
    print(f"Logits from a cache in {NUM_PARTS} parts differ by {decode_error:.0e} at most.")


def report_traffic(problem: Sequence[Matrix]) -> dict[str, int]:
    """Print the words moved by ordinary attention, by flash attention with each tile size, and the
    floor -> words forward and backward together: ordinary, smallest tiles, best tiles, floor.
    """
    length = len(problem[0])
    print(f"\nWords moved, N = {length}, d = {HEAD_DIM}, fast memory of {FAST_WORDS:,} words")
    print("                    held   forward   backward      total  # = one floor")
    floor = 4 * length * HEAD_DIM  # forward; with the backward 11 / 4 of it

    def show(title: str, held: str, forward: int, total: int) -> int:
        words = f"{forward:>10,}{total - forward:>11,}{total:>11,}"
        bar = "#" * round(total / (floor * 11 // 4))
        print(f"{title:<16}{held:>8}{words}  {bar if len(bar) <= 20 else bar[:20] + '>'}")
        return total

    memory = TwoMemories()
    _, forward = run_ordinary(problem, memory)
    ordinary = show("ordinary", "", forward, memory.moved)
    flash = []
    for block in BLOCKS:
        memory = TwoMemories(FAST_WORDS)
        try:
            _, forward = run_flash(problem, memory, block)
        except MemoryError as refusal:
            print(f"flash, {block:>2} rows   refused: {refusal}")
            continue
        title = f"flash, {block:>2} row{'s' if block > 1 else ''}"
        flash.append(show(title, f"{memory.most_held:,}", forward, memory.moved))
    least = show("floor", "", floor, floor * 11 // 4)
    return {"ordinary": ordinary, "smallest": flash[0], "best": min(flash), "floor": least}


def report_seconds(problem: Sequence[Matrix]) -> None:
    """How long both ways take here, where the time goes to the interpreter and not to memory."""
    seconds = []
    for run in (run_ordinary, run_flash):
        start = time.perf_counter()
        run(problem, TwoMemories())
        seconds.append(time.perf_counter() - start)
    print(f"time  N = {len(problem[0])}: ordinary {seconds[0]:.2f} s, flash {seconds[1]:.2f} s")


def report_growth(growth: dict[str, Sequence[float]], exponents: dict[str, float]) -> None:
    """Words and megabytes against N, and the exponents."""
    print(f"\nGrowth with N, forward and backward, tiles of {BLOCK} rows")
    print("            words moved                  measured memory, MB")
    print("     N    ordinary     flash   ratio    ordinary     flash   ratio")
    for length, a, a_mb, b, b_mb in zip(LENGTHS, *growth.values()):
        words = f"{a:>12,}{b:>10,}{a / b:>8.1f}"
        print(f"{length:>6}{words}{a_mb:>12.1f}{b_mb:>10.1f}{a_mb / b_mb:>8.0f}")
    a, a_mb, b, b_mb = exponents.values()
    print(f"  N to the{a:>8.2f}{b:>10.2f}{a_mb:>20.1f}{b_mb:>10.1f}")
    words, megabytes = [growth[name][-1] / growth[name][-2] for name in ("flash", "flash_mb")]
    quadratic = (LENGTHS[-1] / LENGTHS[-2]) ** 2
    print(
        f"From N = {LENGTHS[-2]} to {LENGTHS[-1]} flash moves {words:.2f} times as many words and"
    )
    print(f"holds {megabytes:.1f} times as much. Quadratic growth would be {quadratic:.0f} times.")


def report_conclusion(
    headline: dict[str, float], exponents: dict[str, float], traffic: dict[str, int]
) -> None:
    """What was shown, in words that follow the numbers."""
    print()
    if headline["error"] <= 1e-12 and headline["loss_gap"] <= 1e-9:
        print(f"Flash attention is exact: all differences are rounding, {headline['error']:.0e} at")
        print(f"most, and {headline['loss_gap']:.0e} between the losses over {NUM_STEPS} steps.")
    else:
        print(f"NOT exact: outputs or gradients differ by {headline['error']:.0e}, the losses of")
        print(f"the two trainings by up to {headline['loss_gap']:.0e}.")
    print(f"The reader trained with it answers {headline['recall']:.1%} of the questions right.")
    saved, above = headline["traffic_ratio"], traffic["best"] / traffic["floor"]
    print(f"With the best tiles it moves {saved:.1f} times fewer words than ordinary attention,")
    print(f"and still {above:.1f} times the floor.")
    if traffic["smallest"] > traffic["ordinary"]:
        more = traffic["smallest"] / traffic["ordinary"]
        print(f"Never storing the N x N matrices is not enough: tiles of {BLOCKS[0]} row move")
        print(f"{more:.1f} times more than ordinary attention. Large tiles are what saves words.")
    words, megabytes = exponents["flash"], exponents["flash_mb"]
    print(f"Its memory grows like N^{megabytes:.1f}, the words that it moves like N^{words:.2f}.")
    if words >= 1.6 and megabytes <= 1.2:
        print("Only the memory is linear in N: the words are fewer, but close to quadratic.")


# === APPENDIX: THE TASK AND THE MODEL ===

LETTERS = "abcdefghijklmnopqrstuvwxyz"
UNKNOWN = 10  # stands in a question where an entry has its digit


def new_book(rng: random.Random) -> tuple[list[int], list[int], list[int]]:
    """26 entries and 26 questions -> letters [52], digits [52], and the 26 answers."""
    digits = [rng.randrange(10) for _ in LETTERS]  # digits[i] belongs to letter i
    entries = rng.sample(range(26), 26)
    questions = rng.sample(range(26), 26)
    letters = entries + questions
    return letters, [digits[i] for i in entries] + [UNKNOWN] * 26, [digits[i] for i in questions]


class Reader:
    """One causal attention head between two embeddings and a layer of logits."""

    def __init__(self, rng: random.Random) -> None:
        def matrix(rows: int, spread: float) -> Tensor:
            return Tensor([[rng.gauss(0.0, spread) for _ in range(WIDTH)] for _ in range(rows)])

        self.letter_embedding = matrix(26, 0.5)
        self.digit_embedding = matrix(11, 0.5)
        # With standard deviation WIDTH^-0.5 a layer's outputs are as large as its inputs.
        self.query = matrix(WIDTH, WIDTH**-0.5)
        self.key = matrix(WIDTH, WIDTH**-0.5)
        self.value = matrix(WIDTH, WIDTH**-0.5)
        self.attention_out = matrix(WIDTH, WIDTH**-0.5)
        self.to_logits = matrix(10, WIDTH**-0.5)

    def parameters(self) -> list[Tensor]:
        return list(vars(self).values())

    def forward(self, letters: Sequence[int], digits: Sequence[int], attend: Callable) -> Tensor:
        """N rows, each a letter and its digit (or UNKNOWN) -> logits [N][10] for the digit."""
        x = embedding(self.letter_embedding, letters) + embedding(self.digit_embedding, digits)
        x = rms_norm(x)
        q, k, v = [linear(x, weight) for weight in (self.query, self.key, self.value)]
        x = x + linear(attend(q, k, v), self.attention_out)
        return linear(x, self.to_logits)


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


# === APPENDIX: PICTURES (common/pictures.py) ===

SHADES = " .:-=+*#%@"  # from empty to full


def shade(rows: Sequence[Sequence[float]], low: float = 0.0, high: float = 1.0) -> list[str]:
    """A matrix [H][W] as H lines of 2 W characters: low is blank, high is @.

    >>> shade([[0.0, 0.5, 1.0]])
    ['  ==@@']
    """
    top = len(SHADES) - 1
    lines = []
    for row in rows:
        levels = [(value - low) / (high - low) * top for value in row]
        lines.append("".join([2 * SHADES[min(max(int(level), 0), top)] for level in levels]))
    return lines


if __name__ == "__main__":
    main()
