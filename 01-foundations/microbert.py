"""Reading both sides of a hidden letter, a network guesses it better than from the left alone.

BERT learns by filling blanks: letters of a text are hidden, and the network guesses each of them
from those that are still visible, on both sides. A GPT guesses every letter from those before it.
This run asks what the right side is worth. It trains the same small network twice on the same
names with the same letters hidden: once it may read both sides of a blank, once only the left.

Look at three things. First the table: what the right side is worth to the network, and to plain
counting, which has no training to blame. Then the price: a model that reads only the left can
still use the right side. It puts each of the 26 letters into the blank and asks how likely the
rest of the name becomes. So the right side is not beyond its reach; it costs 26 candidates where
the other needs one pass. Last the picture: how several right sides move the guess after one left
side.

The measure is the mean of -log(probability given to the hidden letter), in nats: 0 for a letter
that was certain. Knowing nothing costs ln 26 = 3.26.

In the code    In the papers    Meaning                                                Shape
text           -                a name with blanks: "ma_k"; "_" is BERT's [MASK]
ids            x                its symbols: 0 = start or end, 1-26 = a-z, 27 = blank  N
blanks         M                which of the rows are blanks: only these are guessed   B
x              h                one vector for each row; from attention on, each blank [N or B][16]
q              Q                what a blank looks for                                 [B][16]
k, v           K, V             what a row offers for comparison, and what it says     [N][16]
bias           b                added to a score, by head and distance (key - query)   [4][33]
spans          mask             which rows of k and v each blank may read              B pairs

What is left out: fine-tuning, for which BERT is known best (the trained weights as a start for a
task with few labels); next-sentence prediction, a second objective that its heirs dropped; more
than one block. Engine, optimiser and the gradient of the bias stand at the end of the file.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microbert.json under that key.

Papers: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018,
arXiv:1810.04805. Liu et al., "RoBERTa", 2019, arXiv:1907.11692. Raffel et al., "Exploring the
Limits of Transfer Learning" (T5), 2019, arXiv:1910.10683. Wettig et al., "Should You Mask 15%
in Masked Language Modeling?", 2022, arXiv:2202.08005. Wang & Cho, "BERT has a Mouth, and It
Must Speak", 2019, arXiv:1902.04094. Warner et al., "Smarter, Better, Faster, Longer"
(ModernBERT), 2024, arXiv:2412.13663. Witten & Bell, "The Zero-Frequency Problem", 1991.
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
from functools import partial
from math import exp, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_TRAIN = 4000  # names to learn from
NUM_HELD_OUT = 1000  # names for the test
NUM_SCORED = 80  # of these: names in which every candidate is scored (slow)
HIDE_RATE = 0.5  # share of letters hidden in training; the reason stands there
WIDTH = 16  # entries of a vector
MLP_WIDTH = 32
MAX_DISTANCE = 16  # rows, from start mark to end mark of a name of 15 letters
# Each of the 4 heads begins on one neighbour, with e^5 = 148 times the weight of any other: one
# or two steps away, on both sides or twice on the only side that there is.
HEAD_START = 5.0
DISTANCES_BOTH = (-1, 1, -2, 2)
DISTANCES_LEFT = (-1, -1, -2, -2)
# What the tables read: letters before the blank and after it, from vague to exact.
COUNT_WINDOWS = {
    "count_0": [(0, 0)],
    "count_1": [(0, 0), (1, 0)],
    "count_left": [(0, 0), (1, 0), (2, 0)],
    "count_both": [(0, 0), (0, 1), (1, 0), (1, 1)],
}
NUM_STEPS = 500
BATCH_SIZE = 16  # names per step
# At its highest; it falls to 0 in a straight line. Half of it is worse for both networks:
# 2.278 [results: half_rate.both] and 2.477 [results: half_rate.left] (left only).
LEARNING_RATE = 0.02
WARM_UP_STEPS = 10  # Adam's first steps are rough and yet of full length
# One left side, several right sides.
EXAMPLES = ("el_", "el_a", "el_ie", "el_th", "el_n")

# === BLANKS ===

# A question is a text with blanks and the letters that were there. Why hide letters at all? A
# GPT guesses letter i + 1 in row i and never looks ahead. A network that reads both sides would
# find that letter in its input and learn to copy it. So the letter is taken out of the input and
# the network is asked for it. With M the set of blanks of a text x,
#
#     loss = - mean over i in M of log p(x_i | all x_j with j not in M)
#
# where the network that reads only the left is given those x_j with j < i. To hide a letter from
# its own row only would not do: in a network of two blocks its neighbours would read it in the
# first block and hand it back in the second.

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SYMBOLS = "." + LETTERS + "_"  # symbol i is SYMBOLS[i]; the dot marks start and end


def hide_letters(name: str, rate: float, rng: random.Random) -> tuple[str, list[int]]:
    """Hide each letter with probability rate, at least one: the text, and what was hidden as
    class numbers 0-25.

    >>> hide_letters("marie", 0.5, random.Random(0))
    ('ma__e', [17, 8])
    """
    hidden = [place for place in range(len(name)) if rng.random() < rate]
    hidden = hidden or [rng.randrange(len(name))]
    text = "".join(["_" if place in hidden else letter for place, letter in enumerate(name)])
    return text, [LETTERS.index(name[place]) for place in hidden]


# === THE ENCODER: FROM A TEXT WITH BLANKS TO LOGITS ===

# From here to the end of FILLING A BLANK the whole method can be read without a break. Whether a
# network reads both sides or only the left is decided by the spans, and by nothing else:
#
#     row          0  1  2  3  4  5
#     "ma_k"       .  m  a  _  k  .       the blank is row 3
#     both sides   .  m  a  _  k  .       span (0, 6)
#     left only    .  m  a  _  x  x       span (0, 4): x is what a mask would cross out
#
# (A blank may read itself and other blanks. They say "blank" and do not give their letter away.)


def pack_texts(
    texts: Sequence[str], sees_right: bool
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Lay texts end to end, so that one matrix product serves them all.

    Returns the symbols of all rows, the rows that are blanks, and for each blank the span
    (first, stop) of rows that it may read.

    >>> pack_texts(["ma_k"], sees_right=True)
    ([0, 13, 1, 27, 11, 0], [3], [(0, 6)])
    """
    ids: list[int] = []
    blanks: list[int] = []
    spans: list[tuple[int, int]] = []
    for text in texts:
        start = len(ids)
        ids += [SYMBOLS.index(symbol) for symbol in f".{text}."]
        for row in range(start, len(ids)):
            if SYMBOLS[ids[row]] == "_":
                blanks.append(row)
                spans.append((start, len(ids) if sees_right else row + 1))
    return ids, blanks, spans


# Attention is a soft look-up (microgpt.py takes it apart): a blank's query is compared with the
# keys of the rows in its span, and the better a key fits, the more of that row's value is taken.
# But a blank must also know *where* a letter stands: "ka_" and "ak_" are different questions.
# BERT adds a learned vector for each place to each symbol's vector, and queries must then learn
# which places are next to their own. T5 adds a learned number to each score instead, one for each
# head and distance, so that "the letter before" is the same thing at every place. We do as T5,
# which also lets us start each head on a neighbour (below). With BERT's positions and no bias the
# encoder that reads both sides ends the same training at 2.390 [results: positions.both] nats.


def distance_attention_head(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    bias: list[float],
    blanks: Sequence[int],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[list[float]], list[list[float]]]:
    """One head: q [B][d] of the blanks, k and v [N][d] of all rows -> output [B][d], weights.

    The blank in row i reads rows j of its span; bias holds one number for each distance j - i:
        weights = softmax(q_i . k_j / sqrt(d) + bias[j - i] for these j)
        output_i = sum_j weights_j v_j

    Nothing in the keys tells the two rows apart, but the bias of distance +1 is log 3:
    >>> bias = [0.0] * (MAX_DISTANCE + 1) + [log(3.0)] + [0.0] * (MAX_DISTANCE - 1)
    >>> output, weights = distance_attention_head(
    ...     [[1.0]], [[0.0], [0.0]], [[10.0], [50.0]], bias, [0], [(0, 2)])
    >>> [round(w, 2) for w in weights[0]], round(output[0][0], 1)
    ([0.25, 0.75], 40.0)
    """
    scale = len(q[0]) ** -0.5
    value_columns = list(zip(*v))
    output, weights = [], []
    for query, blank, (first, stop) in zip(q, blanks, spans):
        # Distance 0, the blank itself, is entry MAX_DISTANCE of bias.
        bias_here = bias[first - blank + MAX_DISTANCE : stop - blank + MAX_DISTANCE]
        scores = [dot(query, key) * scale + b for key, b in zip(k[first:stop], bias_here)]
        weights.append(softmax_row(scores))
        output.append([dot(weights[-1], column[first:stop]) for column in value_columns])
    return output, weights


# distance_attention, in the appendix, runs this for four blocks of columns (the heads), so that a
# blank can fetch from four places, and holds the gradient. linear, rms_norm and the other Tensor
# operations stand there too, with PyTorch's names and meanings. In PyTorch this step would be
# scaled_dot_product_attention(q, k, v, attn_mask=bias): the bias is written out as a matrix of
# N x N for each head, with -infinity where a row must not be read. flex_attention takes the rule
# as a function and writes no matrix.


class Encoder:
    """A transformer encoder of one block: 3,044 numbers, whether it sees the right side or not."""

    def __init__(self, sees_right: bool, rng: random.Random) -> None:
        def matrix(rows: int, columns: int, spread: float) -> Tensor:
            return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])

        self.sees_right = sees_right
        self.token_embedding = matrix(len(SYMBOLS), WIDTH, 0.1)  # normed before use
        usual = WIDTH**-0.5  # from entries of size 1 a linear layer then makes size 1
        self.query = matrix(WIDTH, WIDTH, usual)
        self.key = matrix(WIDTH, WIDTH, usual)
        self.value = matrix(WIDTH, WIDTH, usual)
        # Each head begins on one neighbour, which it need not find first. Without this start
        # the networks end at 2.371 [results: no_head_start.both] (both sides) and
        # 2.521 [results: no_head_start.left] (left only).
        distances = DISTANCES_BOTH if sees_right else DISTANCES_LEFT
        reach = range(-MAX_DISTANCE, MAX_DISTANCE + 1)
        self.distance_bias = Tensor([[HEAD_START * (r == d) for r in reach] for d in distances])
        # What attention and the MLP add to x is zero at first: a blank starts as its own vector
        # alone. (BERT starts all matrices with a spread of 0.02, nearly so.)
        self.attention_out = matrix(WIDTH, WIDTH, 0.0)
        self.mlp_in = matrix(MLP_WIDTH, WIDTH, usual)
        self.mlp_out = matrix(WIDTH, MLP_WIDTH, 0.0)
        self.head = matrix(len(LETTERS), WIDTH, usual)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def forward(
        self, ids: Sequence[int], blanks: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> Tensor:
        """N symbols, B of them blanks -> logits [B][26]: a score for each letter in each blank."""
        # A row holds its symbol and nothing else: places are the bias's business. All blanks so
        # start as the same vector, and what tells them apart is what they read.
        x = rms_norm(embedding(self.token_embedding, ids))
        k, v = linear(x, self.key), linear(x, self.value)

        # Every row offers a key and a value, but only the blanks go on, since no loss hangs on the
        # others. (In a deeper network this holds for the last block. In those before it every
        # row must read, because the next block reads that row.)
        x = embedding(x, blanks)
        found = distance_attention(linear(x, self.query), k, v, self.distance_bias, blanks, spans)
        x = x + linear(found, self.attention_out)

        # Each part reads a normed copy of x and adds what it found (pre-norm), as in a GPT. BERT
        # norms after each sum, which needs a slower warm-up; ModernBERT norms before, as here.
        h = rms_norm(x)
        x = x + linear(relu(linear(h, self.mlp_in)), self.mlp_out)
        return linear(rms_norm(x), self.head)


def predict(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Read texts, all at once -> logits [B][26], a row for each blank, in the order of reading."""
    return encoder.forward(*pack_texts(texts, encoder.sees_right))


# === TRAINING ===

# Half of the letters are hidden, others each time that a name comes up. The rate is a trade: every
# hidden letter is a target to learn from, and one letter less to read. BERT hides 15% of its
# tokens, ModernBERT 30%, and Wettig et al. found 40% better than 15% for large networks. Here 15%
# is better when one letter is hidden, at 2.238 [results: hide_15.both] (both sides) and
# 2.444 [results: hide_15.left] (left only), and worse when half of the name is. The gap between
# the two networks is there at either rate.
#
# BERT leaves a tenth of the chosen tokens as they are and swaps another tenth for random ones
# (the 80/10/10 rule), because its weights will be used on texts without any blank. Ours are only
# ever asked about blanks. In production, transformers.DataCollatorForLanguageModeling hides the
# tokens and BertForMaskedLM guesses them.


def train(encoder: Encoder, names: Sequence[str], rng: random.Random) -> None:
    """Change the encoder's matrices, step by step, so that the hidden letters become likelier."""
    optimizer = Adam(encoder.parameters(), betas=(0.9, 0.95))
    queue: list[str] = []
    recent_losses: list[float] = []
    for step in range(1, NUM_STEPS + 1):
        if len(queue) < BATCH_SIZE:
            queue = rng.sample(names, len(names))  # the next pass through all names, shuffled
        batch, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]

        questions = [hide_letters(name, HIDE_RATE, rng) for name in batch]
        texts = [text for text, _ in questions]
        targets = [letter for _, hidden in questions for letter in hidden]
        loss = cross_entropy(predict(encoder, texts), targets)
        loss.backward()
        warm_up = min(1.0, step / WARM_UP_STEPS)
        optimizer.step(LEARNING_RATE * warm_up * (1.0 - (step - 1) / NUM_STEPS))

        recent_losses.append(loss.item())
        if step % 100 == 0:
            mean = sum(recent_losses) / len(recent_losses)
            print(f"step {step:4d}/{NUM_STEPS} | loss {mean:.4f}", flush=True)
            recent_losses.clear()


# === FILLING A BLANK ===

# In one pass: the softmax of the logits is the answer, for all blanks of all texts at once.
# (A text of blanks, filled one after another, is a way to write: Wang & Cho, 2019. "An encoder
# cannot generate" is too strong, and masked diffusion models write long texts like this.)


def fill(encoder: Encoder, texts: Sequence[str]) -> list[list[float]]:
    """The distribution over 26 letters for each blank: [B][26]."""
    return [softmax_row(row) for row in predict(encoder, texts).data]


# It is often said that a model which reads from left to right cannot use the right side. It can,
# by Bayes' rule, if it may try every candidate c for the blank:
#
#     p(c | left, right) = p(c | left) p(right | left, c) / the same, summed over all candidates
#
# "ma_k" with two candidates: r has p(r | ma) = 0.20 and then p(k | mar) = 0.05, product 0.0100;
# n has p(n | ma) = 0.25 and then p(k | man) = 0.004, product 0.0010. Seen from the left n was
# likelier; the k makes it r, with 0.0100 / 0.0110 = 0.91. Both factors are guesses of a letter
# from the letters before it, and any model that reads only the left can be asked for them.
#
# A GPT scores all letters of a candidate in one pass: 26 passes for a blank. Ours must hide each
# later letter in a copy of its own, and pays more. And with two blanks there are 26 x 26
# candidates, with ten 26^10. The encoder fills ten in one pass, though each by itself: it does
# not say which letters go together.

Filler = Callable[[Sequence[str]], list[list[float]]]  # texts -> a distribution for each blank


def fill_by_candidates(filler: Filler, text: str) -> list[float]:
    """The distribution over 26 letters for the one blank of a text, by a filler that reads only
    the left. (That the name ends after its last letter is not used: nobody was trained on it.)
    """
    if text.count("_") != 1:
        raise ValueError(f"{text!r} does not have one blank")
    place = text.index("_")
    # Each question stops at its blank: what stands further right would not be read.
    texts = [text[: place + 1]]
    asked: list[tuple[int, int]] = []  # for each further text: the candidate, the letter hidden
    for candidate, letter in enumerate(LETTERS):
        filled = text.replace("_", letter)
        for later in range(place + 1, len(text)):
            texts.append(filled[:later] + "_")
            asked.append((candidate, LETTERS.index(text[later])))

    from_left, *after = filler(texts)
    scores = [log(p) for p in from_left]  # log p(c | left)
    for (candidate, letter), guess in zip(asked, after):
        scores[candidate] += log(guess[letter])  # + log p(a later letter | all before it)
    return softmax_row(scores)


# === COUNTING: THE REFERENCE ===

# Counting needs no training: how often did each letter stand between this one and that one?
# Two tables are to be compared, one of the two letters before the blank, and one of the letter
# before and the letter after. Both read two letters, so only the side differs. The second is hard
# to beat on names: three times the steps bring the encoders to 2.172 [results: longer.both] and
# 2.402 [results: longer.left] (left only), and the table is still ahead.


class NeighbourTable:
    """Guess a hidden letter from counts of what stood between the same neighbours.

    windows: (letters before, letters after), from the vaguest to the most exact. Each window's
    counts are mixed with the guess so far, which gets as many votes as the window has met
    different letters: where much was new, expect news (Witten & Bell, 1991, method C).
    """

    def __init__(self, names: Sequence[str], windows: Sequence[tuple[int, int]]) -> None:
        self.windows = windows
        self.counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
        for name in names:
            for place, letter in enumerate(name):
                for context in self.contexts(name, place):
                    self.counts[context][letter] += 1

    def contexts(self, text: str, place: int) -> list[tuple[str, str]]:
        """What each window shows around a place; beyond the ends stand dots."""
        padded, centre = f"..{text}..", place + 2
        return [
            (padded[centre - before : centre], padded[centre + 1 : centre + 1 + after])
            for before, after in self.windows
        ]

    def probabilities(self, text: str, place: int) -> list[float]:
        """The 26 letters' distribution at a blank.

        Between m and y stood an a once and an e three times: 4 votes, and 2 for "all alike".
        >>> table = NeighbourTable(["may", "mey", "mey", "mey"], [(1, 1)])
        >>> guess = table.probabilities("m_y", 1)
        >>> [round(guess[LETTERS.index(letter)], 3) for letter in "aef"]
        [0.179, 0.513, 0.013]
        """
        guess = [1.0 / len(LETTERS)] * len(LETTERS)
        for context in self.contexts(text, place):
            met = self.counts.get(context)
            if met is None:  # a rare context, or one with a blank in it: keep the vaguer guess
                continue
            votes = sum(met.values()) + len(met)
            guess = [
                (met[letter] + len(met) * vaguer) / votes for letter, vaguer in zip(LETTERS, guess)
            ]
        return guess


def fill_by_counting(table: NeighbourTable, texts: Sequence[str]) -> list[list[float]]:
    """The table's distribution for each blank: [B][26]."""
    return [
        table.probabilities(text, place)
        for text in texts
        for place, symbol in enumerate(text)
        if symbol == "_"
    ]


# === MEASURING ===

# Tables and networks are asked the same questions. In the easy test each letter of a held-out name
# is hidden alone; in the hard test half of its letters are hidden at once.

Question = tuple[str, Sequence[int]]  # a text with blanks, and the letters that were hidden


def hide_each_alone(name: str) -> list[tuple[str, list[int]]]:
    """One question for each letter of a name.

    >>> hide_each_alone("ava")
    [('_va', [0]), ('a_a', [21]), ('av_', [0])]
    """
    return [
        (name[:place] + "_" + name[place + 1 :], [LETTERS.index(letter)])
        for place, letter in enumerate(name)
    ]


def measure(filler: Filler, questions: Sequence[Question]) -> tuple[float, float]:
    """Mean nats per blank, and the share of blanks whose likeliest letter was the right one."""
    nats: list[float] = []
    hits = 0
    for start in range(0, len(questions), 64):  # 64 texts make one matrix
        chunk = questions[start : start + 64]
        targets = [letter for _, hidden in chunk for letter in hidden]
        for guess, target in zip(filler([text for text, _ in chunk]), targets, strict=True):
            nats.append(-log(guess[target]))
            hits += guess.index(max(guess)) == target
    return sum(nats) / len(nats), hits / len(nats)


def by_candidates(filler: Filler) -> Filler:
    """The filler that tries all candidates, made of one that reads only the left."""
    return lambda texts: [fill_by_candidates(filler, text) for text in texts]


def main() -> dict[str, object]:
    """Count, train two networks that differ in what they may read, and test all on new names."""
    rng = random.Random(SEED)
    names = load_names()
    rng.shuffle(names)
    training, held_out = names[:NUM_TRAIN], names[-NUM_HELD_OUT:]
    one_hidden = [question for name in held_out for question in hide_each_alone(name)]
    half_hidden = [hide_letters(name, 0.5, rng) for name in held_out]
    report_data(names, training, len(one_hidden), half_hidden)

    fillers = {}
    for key, windows in COUNT_WINDOWS.items():
        fillers[key] = partial(fill_by_counting, NeighbourTable(training, windows))
    encoders = {}
    for key, sees_right in (("left", False), ("both", True)):
        # The same first numbers, the same names in the same order, the same letters hidden.
        print(f"\nTraining the encoder that reads {'both sides' if sees_right else 'the left'}")
        encoders[key] = Encoder(sees_right, random.Random(SEED))
        start = time.perf_counter()
        train(encoders[key], training, random.Random(SEED))
        print(f"time  training took {time.perf_counter() - start:.1f} s")
        fillers[key] = partial(fill, encoders[key])
    results = {}
    for key, filler in fillers.items():
        results[key] = (*measure(filler, one_hidden), measure(filler, half_hidden)[0])
    report_results(results)

    for key in ("count_left", "left"):
        fillers[f"{key}_candidates"] = by_candidates(fillers[key])
    scored = [question for name in held_out[:NUM_SCORED] for question in hide_each_alone(name)]
    price = report_price(fillers, scored)
    report_examples(fillers)
    headline = {
        "both": results["both"][0],
        "left": results["left"][0],
        "count_both": results["count_both"][0],
        "count_left": results["count_left"][0],
        "half_hidden_gain": results["left"][2] - results["both"][2],
        "candidates_gain": price["left"] - price["left_candidates"],
    }
    report_conclusion(headline, price)
    return {**headline, "details": {"results": results, "price": price}}


# === APPENDIX: REPORT AND HELPERS ===

TITLES = {
    "count_0": "counts, no neighbour",
    "count_1": "counts, the letter before",
    "count_left": "counts, two letters before",
    "count_both": "counts, one on each side",
    "count_left_candidates": "counts, two before, 26 tries",
    "left": "encoder, left only",
    "both": "encoder, both sides",
    "left_candidates": "encoder, left only, 26 tries",
}
# The fillers of the second table: those that read the left, both sides, and the left 26 times.
PRICED = ("count_left", "count_both", "count_left_candidates", "left", "both", "left_candidates")


def report_data(
    names: Sequence[str], training: Sequence[str], num_blanks: int, half_hidden: Sequence[Question]
) -> None:
    """The facts before anything is learned."""
    print(f"{len(names):,} names: {NUM_TRAIN:,} to learn from, {NUM_HELD_OUT:,} held out")
    print(f"  for example {', '.join(training[:8])}")
    print(f"Test 1: each of their {num_blanks:,} letters hidden alone")
    print(f"Test 2: half of their letters hidden: {', '.join([t for t, _ in half_hidden[:4]])}")
    print(f"Knowing nothing, a letter costs ln {len(LETTERS)} = {log(len(LETTERS)):.2f} nats.")


def report_results(results: dict[str, tuple[float, float, float]]) -> None:
    """One line per filler: nats and share right with one letter hidden, nats with half hidden."""
    print("\n                               one letter hidden        half hidden")
    print("                              nats    first guess right        nats")
    for key, (nats, right, half) in results.items():
        print(f"{TITLES[key]:<27}{nats:>7.3f}{right:>15.1%}{half:>19.3f}")


def report_price(fillers: dict[str, Filler], questions: Sequence[Question]) -> dict[str, float]:
    """One line per filler, on the same questions; returns the nats."""
    print(
        f"\nThe right side by trying all 26 letters, on {len(questions)} of the blanks (one hidden)"
    )
    print("                              nats    first guess right")
    price, seconds = {}, {}
    for key in PRICED:
        start = time.perf_counter()
        price[key], right = measure(fillers[key], questions)
        seconds[key] = (time.perf_counter() - start) / len(questions)
        print(f"{TITLES[key]:<28}{price[key]:>6.3f}{right:>15.1%}", flush=True)
    one_pass, tries = 1000.0 * seconds["both"], 1000.0 * seconds["left_candidates"]
    print(f"time  the encoder takes {one_pass:.2f} ms a blank, with 26 tries {tries:.1f} ms")
    return price


def report_examples(fillers: dict[str, Filler]) -> None:
    """The guesses for one left side and several right sides, as strips of 26 letters."""
    print("\nOne left side, several right sides: dark is likely; then the best three")
    print(f"{'':<20}{LETTERS}")
    for key, title in (
        ("left", "left only"),
        ("both", "both sides"),
        ("left_candidates", "26 tries"),
    ):
        for text, guess in zip(EXAMPLES, fillers[key](EXAMPLES)):
            best = sorted(zip(guess, LETTERS), reverse=True)[:3]
            words = " ".join([f"{letter} {p:.2f}" for p, letter in best])
            print(f"{title:<12}{text:<8}{sparkline(guess)}  {words}")


def report_conclusion(numbers: dict[str, float], price: dict[str, float]) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    gain = numbers["left"] - numbers["both"]
    table_gain = numbers["count_left"] - numbers["count_both"]
    print(
        f"\nThe right side is worth {gain:.2f} nats to the encoder. A table gains {table_gain:.2f}"
    )
    print("when it trades the second letter before the blank for the first one after it.")
    passing_gain = price["left"] - price["both"]
    tries_gain = numbers["candidates_gain"]
    if tries_gain > 0.5 * passing_gain > 0:
        print(f"Trying 26 letters brings the left-only encoder {tries_gain:.2f} nats. Reading both")
        print(f"sides brings {passing_gain:.2f} on the same blanks: the right side was never out")
        print("of its reach, only costly.")
    difference = numbers["both"] - numbers["count_both"]
    if difference > 0:
        print("On names, counting is hard to beat: a table of one letter on each side is")
        print(f"{difference:.2f} nats better than the encoder, which reads all letters.")
    best = min(price, key=lambda key: price[key])
    print(f"The best on these blanks: {TITLES[best]} ({price[best]:.2f} nats).")


# === APPENDIX: ATTENTION WITH DISTANCES, AND ITS GRADIENT ===


def distance_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    blanks: Sequence[int],
    spans: Sequence[tuple[int, int]],
) -> Tensor:
    """Attention in H heads, each on its own columns and with its own row of bias [H][33]:
    q [B][H*d] of the blanks, k and v [N][H*d] of all rows -> [B][H*d].
    """
    if any(
        [max(i - first, stop - 1 - i) > MAX_DISTANCE for i, (first, stop) in zip(blanks, spans)]
    ):
        raise ValueError(f"a span reaches further than {MAX_DISTANCE} rows from its blank")
    num_heads = len(bias.data)
    q_heads, k_heads, v_heads = [split_heads(t.data, num_heads) for t in (q, k, v)]
    heads = [
        distance_attention_head(q_h, k_h, v_h, bias_h, blanks, spans)
        for q_h, k_h, v_h, bias_h in zip(q_heads, k_heads, v_heads, bias.data)
    ]

    # The bias changes the weights. Once these are given, the gradients of q, k and v are those of
    # plain attention.
    def pass_back(d_out: list[list[float]]) -> tuple:
        readers: list[list[int]] = [[] for _ in k.data]  # readers[j]: which blanks read row j
        for i, (first, stop) in enumerate(spans):
            for j in range(first, stop):
                readers[j].append(i)
        gradients, d_bias = [], []
        for q_h, k_h, v_h, (_, weights), d_h in zip(
            q_heads, k_heads, v_heads, heads, split_heads(d_out, num_heads)
        ):
            gradients.append(attention_head_backward(q_h, k_h, v_h, spans, readers, weights, d_h))
            d_bias.append(distance_bias_gradient(v_h, blanks, spans, weights, d_h))
        return (*map(join_heads, zip(*gradients)), d_bias)

    return Tensor(join_heads([output for output, _ in heads]), (q, k, v, bias), pass_back)


def distance_bias_gradient(
    v: list[list[float]],
    blanks: Sequence[int],
    spans: Sequence[tuple[int, int]],
    weights: list[list[float]],
    d_output: list[list[float]],
) -> list[float]:
    """The gradient of one head's bias: every score of distance r is a sum with bias[r] in it, so
    bias[r] receives the gradients of all scores of its distance.

    output_i = sum_j w_ij v_j      d_w_ij = d_output_i . v_j
    w_i = softmax(s_i)             d_s_ij = w_ij (d_w_ij - sum_m w_im d_w_im)
    s_ij = ... + bias[j - i]       d_bias[r] = sum of d_s_ij over all i, j with j - i = r
    """
    d_bias = [0.0] * (2 * MAX_DISTANCE + 1)
    for row, d_row, blank, (first, stop) in zip(weights, d_output, blanks, spans):
        d_weights = [dot(d_row, value) for value in v[first:stop]]
        mean = dot(row, d_weights)
        for place, (w, d) in enumerate(zip(row, d_weights), first - blank + MAX_DISTANCE):
            d_bias[place] += w * (d - mean)
    return d_bias


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


# === APPENDIX: PICTURES (common/pictures.py) ===

SHADES = " .:-=+*#%@"  # from empty to full


def sparkline(values: Sequence[float]) -> str:
    """One character for each value, from the smallest (blank) to the largest (@).

    >>> sparkline([0, 1, 2, 9])
    ' .:@'
    """
    low, high = min(values), max(values)
    top = len(SHADES) - 1
    return "".join([SHADES[int((v - low) / ((high - low) or 1.0) * top)] for v in values])


if __name__ == "__main__":
    main()
