"""In one pass, a network that reads both sides of a hidden letter beats one that reads the left.

BERT learns by filling blanks: letters of a text are hidden, and the network guesses each of them
from those that are still visible, on both sides. A GPT guesses every letter from those before it.
This run asks what the right side is worth. It trains the same small network twice, from the same
first numbers, on the same names with the same letters hidden: once it may read both sides of a
blank, once only the left.

Look at three things. First the table: what the right side is worth to the network, and to a table
of counts, where poor training cannot be the cause. Then the price: a model that reads only the
left can still use the right side. It puts each of the 26 letters into the blank and asks how
likely the rest of the name becomes. So the right side is not beyond its reach, but it costs many
passes where the other needs one. Last the picture: how the guess changes when the left side stays
and the right side varies.

The measure is the mean of -log(probability given to the hidden letter), in nats: 0 for a letter
that was certain. Knowing nothing costs ln 26 = 3.26.

In the code    In the papers    Meaning                                                Shape
text           -                a name with blanks: "ma_k"; "_" is BERT's [MASK]
ids            x                its symbols: 0 = start or end, 1-26 = a-z, 27 = blank  N
blanks         M                which of the rows are blanks: only these are guessed   B
rows           h                one vector for each symbol                             [N][16]
hidden         h                one vector for each blank                              [B][16]
q              Q                what a blank looks for                                 [B][16]
k, v           K, V             what a row offers for comparison, and what it says     [N][16]
bias           b                added to a score, by head and distance (key - query)   [4][31]
spans          mask             which rows of k and v each blank may read              B pairs

What is left out: fine-tuning, for which BERT is known best (the trained weights, all of them,
become the start for a task with few labels); next-sentence prediction, a second objective that
RoBERTa dropped; more than one block, and with it what newer encoders build in: rotary positions
and gated MLPs (ModernBERT), content and position compared apart (DeBERTa). Engine, optimiser and
the gradient of attention stand at the end of the file.

A number marked [results: ...] is from the record, results/microbert.json in the repository, under
that key: seed_42 is this run, the other keys are runs with one thing changed.

Read first: microgpt.

Papers: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", 2018,
arXiv:1810.04805. Liu et al., "RoBERTa", 2019, arXiv:1907.11692. Raffel et al., "Exploring the
Limits of Transfer Learning" (T5), 2019, arXiv:1910.10683. Clark et al., "ELECTRA", 2020,
arXiv:2003.10555. Wettig et al., "Should You Mask 15% in Masked Language Modeling?", 2022,
arXiv:2202.08005. Salazar et al., "Masked Language Model Scoring", 2019, arXiv:1910.14659. Wang &
Cho, "BERT has a Mouth, and It Must Speak", 2019, arXiv:1902.04094. Nie et al., "Large Language
Diffusion Models", 2025, arXiv:2502.09992. He et al., "DeBERTa", 2020, arXiv:2006.03654. Warner
et al., "Smarter, Better, Faster, Longer" (ModernBERT), 2024, arXiv:2412.13663. Witten & Bell,
"The Zero-Frequency Problem", 1991.
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
NUM_SCORED = 40  # of these: names in which every candidate is scored (slow)
HIDE_RATE = 0.5  # chance of a letter to be hidden in training; see TRAINING
WIDTH = 16  # entries of a vector
MLP_WIDTH = 32
MAX_DISTANCE = 15  # rows, from the first letter of a name of 15 letters to its end mark
# Each of the 4 heads begins on one neighbour: e^5 = 148 times the weight of any other row, if the
# keys fit equally well. The left-only network gets the same start. Its heads for the right side
# have no neighbour to read and begin close to a mean over the left. This costs it little: nothing
# in this run, which ends at 2.469 [results: seed_42.left] and with heads (-1, -1, -2, -2) at 2.471
# [results: left_start.left], and at most some hundredths of a nat from the other recorded seeds.
HEAD_START = 5.0
DISTANCES = (-1, 1, -2, 2)
# What the tables read: letters before the blank and after it, from vague to exact.
COUNT_WINDOWS = {
    "count_0": [(0, 0)],
    "count_1": [(0, 0), (1, 0)],
    "count_left": [(0, 0), (1, 0), (2, 0)],
    "count_both": [(0, 0), (0, 1), (1, 0), (1, 1)],
}
NUM_STEPS = 500
BATCH_SIZE = 16  # names per step
# The peak rate; it falls in a straight line towards 0. The two-sided network ends at 2.254
# [results: seed_42.both], with half of this rate at 2.278 [results: half_rate.both], with twice
# at 2.267 [results: double_rate.both].
LEARNING_RATE = 0.02
WARM_UP_STEPS = 10  # Adam's first steps rest on few gradients and are as long as any other
EXAMPLES = ("ma_", "ma_k", "ma_y", "ma_ia", "ma_ine")  # one left side, several right sides

# === BLANKS ===

# A question is a text with blanks and the letters that were there. Why hide letters at all? A
# GPT guesses letter i + 1 in row i and never looks ahead. A network that reads both sides would
# find that letter in its input and learn to copy it. So the letter is taken out of the input and
# the network is asked for it. With M the set of blanks of a name and x_i its letter in row i,
#
#     loss = - mean over i in M of log p(x_i | all x_j with j not in M)
#
# where the network that reads only the left is given those x_j with j < i. To hide a letter from
# its own row only would do in our one block. In a network of two its neighbours would read it in
# the first block and hand it back in the second. Nor is BERT two networks, one for each direction,
# trained apart and joined at the end: that was ELMo. Here one head may weigh left against right.

LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Symbol i is SYMBOLS[i]. The dot marks start and end; the side that it stands on tells which.
SYMBOLS = "." + LETTERS + "_"


def hide_letters(name: str, rate: float, rng: random.Random) -> tuple[str, list[int]]:
    """Hide each letter with probability rate, at least one: the text, and the letters that were
    hidden, as numbers 0-25.

    >>> hide_letters("marie", 0.5, random.Random(0))
    ('ma__e', [17, 8])
    """
    places = [place for place in range(len(name)) if rng.random() < rate]
    text = list(name)
    for place in places or [rng.randrange(len(name))]:
        text[place] = "_"
    targets = [LETTERS.index(old) for old, new in zip(name, text) if new == "_"]
    return "".join(text), targets


# === THE ENCODER: FROM A TEXT WITH BLANKS TO LOGITS ===

# Up to the end of FILLING A BLANK the whole method can be read without a break. Whether a network
# reads both sides or only the left is decided by each blank's span, the rows that it may read:
#
#     row          0  1  2  3  4  5
#     "ma_k"       .  m  a  _  k  .       the blank is row 3
#     both sides   .  m  a  _  k  .       span (0, 6)
#     left only    .  m  a  _  #  #       span (0, 4): # is not read
#
# So the right side is two things: the later letters, and where the name ends. (A blank may read
# itself and other blanks. They say "blank" and do not give their letter away.)


def pack_texts(
    texts: Sequence[str], sees_right: bool
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """Lay texts end to end, without padding, so that one matrix product serves them all (encoders
    in production do so too, as "unpadding" or "varlen").

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
# head and distance (far distances share one). Ours does nearly the same: names are short, so each
# distance has its own. "The letter before" is then the same thing at every place, and a head can
# start on it. With BERT's positions the two-sided network ends at 2.390 [results: positions.both],
# with our bias and no head start at 2.371 [results: no_head_start.both].


def distance_attention_head(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    bias: list[float],
    blanks: Sequence[int],
    spans: Sequence[tuple[int, int]],
) -> tuple[list[list[float]], list[list[float]]]:
    """One head: q [B][d] of the blanks, k and v [N][d] of all rows, bias [31] -> output [B][d],
    and for each blank the weights of the rows that it reads.

    Blank b stands in row i_b and reads rows j of its span; bias has a number for each distance:
        w_bj = softmax over these j of (q_b . k_j / sqrt(d) + bias[j - i_b])
        output_b = sum_j w_bj v_j

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
        w_row = softmax_row(scores)
        weights.append(w_row)
        output.append([dot(w_row, column[first:stop]) for column in value_columns])
    return output, weights


# distance_attention, in the appendix, runs this for four groups of columns (the heads), so that a
# blank can fetch from four places, and holds the gradient. In PyTorch this step would be
# scaled_dot_product_attention(q, k, v, attn_mask=bias), with the bias written out for each pair of
# rows and -infinity where a row must not be read.


class Encoder:
    """A transformer encoder of one block: 3,036 numbers, whether it sees the right side or not.

    Unlike BERT, and like many newer networks, it has no biases in its linear layers. The norms have
    no gains, ReLU stands for GELU, and the output matrix is not tied to the embeddings.
    """

    def __init__(self, sees_right: bool, rng: random.Random) -> None:
        def matrix(rows: int, columns: int, spread: float) -> Tensor:
            return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])

        self.sees_right = sees_right
        self.token_embedding = matrix(len(SYMBOLS), WIDTH, 0.1)  # normed before use
        usual = WIDTH**-0.5  # from entries of size 1 a linear layer then makes size 1
        self.query = matrix(WIDTH, WIDTH, usual)
        self.key = matrix(WIDTH, WIDTH, usual)
        self.value = matrix(WIDTH, WIDTH, usual)
        # One row for each head: HEAD_START at its neighbour, 0 at all other distances. So "read
        # the neighbours" is given and need not be found. Without this the networks end at 2.371
        # [results: no_head_start.both] (both sides) and 2.521 [results: no_head_start.left] (left
        # only): the right side helps then too, by less.
        bias = [[0.0] * (2 * MAX_DISTANCE + 1) for _ in DISTANCES]
        for row, neighbour in zip(bias, DISTANCES):
            row[neighbour + MAX_DISTANCE] = HEAD_START
        self.distance_bias = Tensor(bias)
        # What attention and the MLP add is zero at first: training starts from the plainest
        # network, in which all blanks get the same logits, and adds to it.
        self.attention_out = matrix(WIDTH, WIDTH, 0.0)
        self.mlp_in = matrix(MLP_WIDTH, WIDTH, usual)
        self.mlp_out = matrix(WIDTH, MLP_WIDTH, 0.0)
        self.output = matrix(len(LETTERS), WIDTH, usual)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return [value for value in vars(self).values() if isinstance(value, Tensor)]

    def forward(
        self, ids: Sequence[int], blanks: Sequence[int], spans: Sequence[tuple[int, int]]
    ) -> Tensor:
        """N symbols, B of them blanks -> logits [B][26]: a score for each letter in each blank."""
        # A row holds its symbol and nothing else: positions enter only through the bias. All
        # blanks start as the same vector, and what tells them apart is what they read.
        rows = rms_norm(embedding(self.token_embedding, ids))
        k, v = linear(rows, self.key), linear(rows, self.value)

        # Every row offers a key and a value, but only the blanks go on, since only they are asked.
        # (In a deeper network this holds for the last block. In those before it every row must
        # read, because the next block reads that row.)
        hidden = embedding(rows, blanks)  # picks the blanks' rows: [B][16]
        q = linear(hidden, self.query)
        found = distance_attention(q, k, v, self.distance_bias, blanks, spans)
        hidden = hidden + linear(found, self.attention_out)

        # The MLP reads a normed copy and adds what it found (pre-norm), as in a GPT and in
        # ModernBERT. BERT norms after each sum, which needs a slower warm-up.
        normed = rms_norm(hidden)
        hidden = hidden + linear(relu(linear(normed, self.mlp_in)), self.mlp_out)
        return linear(rms_norm(hidden), self.output)


def predict(encoder: Encoder, texts: Sequence[str]) -> Tensor:
    """Read texts, all at once -> logits [B][26], a row for each blank, in the order of reading."""
    return encoder.forward(*pack_texts(texts, encoder.sees_right))


# === TRAINING ===

# Half of the letters are hidden, a fresh choice each time that a name comes up. The rate is a
# trade: every hidden letter is a target to learn from, and one letter less to read. A GPT need not
# choose: it reads every letter and learns from every letter in one pass. (ELECTRA learns from
# every token too: it tells swapped tokens from real ones.) BERT hides 15% of its tokens, which
# became a habit; ModernBERT 30%, and Wettig et al. found 40% better for large networks. Here 15% is
# no clear gain where one letter is hidden, 2.238 [results: hide_15.both] with both sides and 2.459
# [results: hide_15.left] with the left, and we also ask about names that are half hidden.
#
# Is the left network a fair GPT? It is not: it learns from blanked texts, so that only the side
# differs. What if both learn from every letter of a name, each hidden alone in a copy of its own
# (for the left one these are the questions of a GPT)? Then the same steps, at about four times the
# work, bring them to 2.087 [results: each_alone.both] and 2.369 [results: each_alone.left]: both
# are better, and the gap is wider. But neither has then met a text with two blanks, and where half
# of a name is hidden, the gap is -0.027 [results: each_alone.half_hidden_gain]. Both also stop
# early, after two passes through the names; three times the steps bring them to 2.172
# [results: longer.both] and 2.415 [results: longer.left].
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
        targets = [target for _, hidden in questions for target in hidden]
        loss = cross_entropy(predict(encoder, texts), targets)  # the mean over all blanks
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
# ("An encoder cannot generate" is too strong. Start from blanks and redraw one place at a time,
# many times over: Wang & Cho. Masked diffusion models write long texts from blanks: Nie et al.)


def fill(encoder: Encoder, texts: Sequence[str]) -> list[list[float]]:
    """The distribution over 26 letters for each blank: [B][26]."""
    return [softmax_row(row) for row in predict(encoder, texts).data]


# It is often said that a model which reads from left to right cannot use the right side. It can,
# by Bayes' rule, if it may try every candidate c for the blank:
#
#     p(c | left, right) = p(c | left) p(right | left, c) / sum over c' of the same for c'
#     p(right | left, c) = the product of p(letter | all letters before it) over the later letters
#
# "ma_k" with two candidates: r has p(r | ma) = 0.20 and then p(k | mar) = 0.05, product 0.0100;
# n has p(n | ma) = 0.25 and then p(k | man) = 0.004, product 0.0010. Seen from the left n was
# likelier; the k makes it r, with 0.0100 / 0.0110 = 0.91. Every factor is a guess of a letter from
# the letters before it, and any model that reads only the left can be asked for it.
#
# A GPT guesses all letters of a candidate in one pass: 26 passes for a blank. Our network answers
# only in blanks, so each later letter of a candidate needs a copy of the text with this letter
# hidden. With two blanks there are 26 x 26 candidates, with ten 26^10. The encoder fills ten in one
# pass, though each by itself: it does not say which letters go together. Nor does it give the
# probability of a name: multiplied, its guesses of each letter from all others are only a
# "pseudo-likelihood" (Salazar et al.).

Filler = Callable[[Sequence[str]], list[list[float]]]  # texts -> a distribution for each blank


def fill_by_candidates(filler: Filler, text: str) -> list[float]:
    """The distribution over 26 letters for the one blank of a text, by a filler that reads only
    the left. It uses the later letters, but not where the name ends: no left filler was trained to
    guess the end. A GPT is, and would have one more factor.
    """
    if text.count("_") != 1:
        raise ValueError(f"{text!r} does not have one blank")
    place = text.index("_")
    # Each question stops at its blank: what stands further right would not be read.
    texts = [text[: place + 1]]
    asked: list[tuple[int, int]] = []  # for each further text: the candidate, the hidden letter
    for candidate in range(len(LETTERS)):
        filled = text.replace("_", LETTERS[candidate])
        for later in range(place + 1, len(text)):
            texts.append(filled[:later] + "_")
            asked.append((candidate, LETTERS.index(text[later])))

    from_left, *after = filler(texts)
    scores = [log(p) for p in from_left]  # log p(c | left)
    for (candidate, target), guess in zip(asked, after):
        scores[candidate] += log(guess[target])  # + log p(a later letter | all before it)
    return softmax_row(scores)


# === COUNTING: THE REFERENCE ===

# Counting needs no training: how often did each letter stand between this one and that one?
# Two tables are to be compared, one of the two places before the blank, and one of the place
# before and the place after (beyond a name's ends stand dots). Both read two places, so mainly the
# side differs. Such a table is hard to beat here, since names are local: much of what a letter
# depends on stands next to it, and 4,000 names fill a table of pairs. A network's gain lies
# elsewhere. Its weights can start another task, and it can read far where that matters.


class NeighbourTable:
    """Guess a hidden letter from counts of what stood between the same neighbours.

    windows: (letters before, letters after), from the vaguest to the most exact. Each window's
    counts are mixed with the guess so far, which gets as many votes as different letters were
    met there: where many were met, another is likely (Witten & Bell, 1991, method C).
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

        Between m and y stood an a once and an e three times: 4 votes, and 2 for the vaguer
        guess, here 1/26 for each letter.
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
# is hidden alone; in the hard test about half of its letters are hidden at once. The fillers that
# read both sides also see where the name ends.

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
        targets = [target for _, hidden in chunk for target in hidden]
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
    sample_nats = compare_on_sample(fillers, scored)
    report_examples(fillers)
    headline = {
        "both": results["both"][0],
        "left": results["left"][0],
        "count_both": results["count_both"][0],
        "count_left": results["count_left"][0],
        "half_hidden_gain": results["left"][2] - results["both"][2],
        "candidates_gain": sample_nats["left"] - sample_nats["left_candidates"],
    }
    report_conclusion(headline, sample_nats)
    return {**headline, "details": {"results": results, "sample_nats": sample_nats}}


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
SAMPLED = ("count_left", "count_both", "count_left_candidates", "left", "both", "left_candidates")


def report_data(
    names: Sequence[str], training: Sequence[str], num_blanks: int, half_hidden: Sequence[Question]
) -> None:
    """The facts before anything is learned."""
    print(f"{len(names):,} names: {NUM_TRAIN:,} to learn from, {NUM_HELD_OUT:,} held out")
    print(f"  for example {', '.join(training[:8])}")
    print(f"Test 1: each of their {num_blanks:,} letters hidden alone")
    print(f"Test 2: about half of them hidden: {', '.join([t for t, _ in half_hidden[:4]])}")
    print(f"Knowing nothing, a letter costs ln {len(LETTERS)} = {log(len(LETTERS)):.2f} nats.")


def report_results(results: dict[str, tuple[float, float, float]]) -> None:
    """One line per filler: nats and share right with one letter hidden, nats with half hidden."""
    print("\n                               one letter hidden        half hidden")
    print("                              nats    first guess right        nats")
    for key, (nats, right, half) in results.items():
        print(f"{TITLES[key]:<27}{nats:>7.3f}{right:>15.1%}{half:>19.3f}")
    if results["left"][0] > results["count_1"][0]:
        print("The left-only encoder is still behind the counts of one letter before.")


def compare_on_sample(
    fillers: dict[str, Filler], questions: Sequence[Question]
) -> dict[str, float]:
    """Measure, time and print the fillers of SAMPLED on the same questions; returns the nats."""
    print(f"\nThe right side by trying all 26 letters, on {len(questions)} blanks of test 1")
    print("                              nats    first guess right")
    sample_nats, seconds = {}, {}
    for key in SAMPLED:
        start = time.perf_counter()
        sample_nats[key], right = measure(fillers[key], questions)
        seconds[key] = (time.perf_counter() - start) / len(questions)
        print(f"{TITLES[key]:<28}{sample_nats[key]:>6.3f}{right:>15.1%}", flush=True)
    later = [len(text) - 1 - text.index("_") for text, _ in questions]
    texts = 1 + len(LETTERS) * sum(later) / len(later)
    print(f"26 tries read {texts:.0f} texts a blank on average, where one pass reads one. They do")
    print("not see where the name ends; both sides do.")
    one_pass, tries = 1000.0 * seconds["both"], 1000.0 * seconds["left_candidates"]
    print(f"time  one pass {one_pass:.2f} ms a blank (64 texts at a time), 26 tries {tries:.1f} ms")
    return sample_nats


def report_examples(fillers: dict[str, Filler]) -> None:
    """The guesses for one left side and several right sides, as strips of 26 letters."""
    print("\nOne left side, several right sides: @ marks the likeliest of each line")
    print(f"{'':<20}{LETTERS}  best three")
    for key, title in (
        ("left", "left only"),
        ("both", "both sides"),
        ("left_candidates", "26 tries"),
    ):
        texts = EXAMPLES[:1] if key == "left" else EXAMPLES  # the left alone: all lines the same
        for text, guess in zip(texts, fillers[key](texts)):
            best = sorted(zip(guess, LETTERS), reverse=True)[:3]
            words = " ".join([f"{letter} {p:.2f}" for p, letter in best])
            print(f"{title:<12}{text:<8}{sparkline(guess)}  {words}")


def report_conclusion(numbers: dict[str, float], sample_nats: dict[str, float]) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    gain = numbers["left"] - numbers["both"]
    table_gain = numbers["count_left"] - numbers["count_both"]
    print(f"\nIn one pass, the right side is worth {gain:.2f} nats to the encoder. A table gains")
    print(f"{table_gain:.2f} when it trades the second letter before the blank for the one after.")
    passing_gain = sample_nats["left"] - sample_nats["both"]
    tries_gain = numbers["candidates_gain"]
    print(f"On the sample, reading both sides brings {passing_gain:.2f} nats, trying 26 letters")
    if tries_gain > 0.0:
        print(f"{tries_gain:.2f}: what reads only the left can use the right side too, at a price.")
    else:
        print(f"{tries_gain:.2f}: the tries are of no use here.")
    difference = numbers["both"] - numbers["count_both"]
    if difference > 0.0:
        print(f"A table of one letter on each side is {difference:.2f} nats better than the")
        print("encoder, which reads all letters: names are local, and its training is short.")
    else:
        print(f"The encoder is {-difference:.2f} nats better than counts of one on each side.")
    best = min(sample_nats, key=lambda key: sample_nats[key])
    print(f"The best on the sample: {TITLES[best]} ({sample_nats[best]:.2f} nats).")
    if best == "count_left_candidates":
        print("By Bayes' rule it uses two letters on each side of the blank, but counts only")
        print("three letters in a row: no table of four neighbours has to be filled.")


# === APPENDIX: ATTENTION WITH DISTANCES, AND ITS GRADIENT ===


def distance_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    blanks: Sequence[int],
    spans: Sequence[tuple[int, int]],
) -> Tensor:
    """Attention in H heads, each on its own columns and with its own row of bias [H][31]:
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

    def pass_back(d_out: list[list[float]]) -> tuple:
        readers: list[list[int]] = [[] for _ in k.data]  # readers[j]: which blanks read row j
        for b, (first, stop) in enumerate(spans):
            for j in range(first, stop):
                readers[j].append(b)
        gradients = []
        for q_h, k_h, v_h, (_, weights), d_h in zip(
            q_heads, k_heads, v_heads, heads, split_heads(d_out, num_heads)
        ):
            gradients.append(
                distance_attention_head_backward(
                    q_h, k_h, v_h, blanks, spans, readers, weights, d_h
                )
            )
        d_q, d_k, d_v, d_bias = zip(*gradients)
        return join_heads(d_q), join_heads(d_k), join_heads(d_v), list(d_bias)

    return Tensor(join_heads([output for output, _ in heads]), (q, k, v, bias), pass_back)


def distance_attention_head_backward(
    q: list[list[float]],
    k: list[list[float]],
    v: list[list[float]],
    blanks: Sequence[int],
    spans: Sequence[tuple[int, int]],
    readers: list[list[int]],
    weights: list[list[float]],
    d_output: list[list[float]],
) -> tuple[list[list[float]], list[list[float]], list[list[float]], list[float]]:
    """The gradients (d_q [B][d], d_k and d_v [N][d], d_bias [31]) of one head, from d_output
    [B][d]. Blank b stands in row i_b; readers[j] lists the blanks that read row j.

    output_b = sum_j w_bj v_j                      d_w_bj = d_output_b . v_j
                                                   d_v_j = sum_b w_bj d_output_b
    w_b = softmax(s_b)                             d_s_bj = w_bj (d_w_bj - sum_m w_bm d_w_bm)
    s_bj = q_b . k_j / sqrt(d) + bias[j - i_b]     d_q_b = sum_j d_s_bj k_j / sqrt(d), d_k_j alike
                                                   d_bias[r] = sum of d_s_bj with j - i_b = r
    """
    scale = len(q[0]) ** -0.5
    key_columns = list(zip(*k))
    d_q, d_scaled = [], []
    d_bias = [0.0] * (2 * MAX_DISTANCE + 1)
    for w_row, d_row, blank, (first, stop) in zip(weights, d_output, blanks, spans):
        d_weights = [dot(d_row, value) for value in v[first:stop]]
        mean = dot(w_row, d_weights)
        d_scores = [w * (d - mean) for w, d in zip(w_row, d_weights)]
        for entry, d in enumerate(d_scores, first - blank + MAX_DISTANCE):
            d_bias[entry] += d
        d_scaled.append([d * scale for d in d_scores])
        d_q.append([dot(d_scaled[-1], column[first:stop]) for column in key_columns])
    d_k, d_v = [], []
    for j, readers_j in enumerate(readers):
        # A row that no blank reads has no columns to run over: its gradient is zero.
        if not readers_j:
            d_k.append([0.0] * len(q[0]))
            d_v.append([0.0] * len(v[0]))
            continue
        places = [j - spans[b][0] for b in readers_j]
        d_score_column = [d_scaled[b][place] for b, place in zip(readers_j, places)]
        weight_column = [weights[b][place] for b, place in zip(readers_j, places)]
        q_columns = zip(*[q[b] for b in readers_j])
        d_columns = zip(*[d_output[b] for b in readers_j])
        d_k.append([dot(d_score_column, column) for column in q_columns])
        d_v.append([dot(weight_column, column) for column in d_columns])
    return d_q, d_k, d_v, d_bias


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
