"""Rotating queries and keys makes attention depend on distance alone, yet new distances break it.

Attention compares a query with keys and knows nothing of their places in the text. RoPE (rotary
position embedding) cuts each query and each key into pairs of numbers, reads a pair as an arrow
in the plane, and turns it by an angle that is proportional to its position. The dot product of two
arrows depends on the angle between them. So the positions m of a query and n of a key enter their
score through the distance m - n alone: exactly, not by training.

That does not make the model work at distances that it never met. Each pair turns at a frequency of
its own. The fast pairs go all round the circle within a short training text, so every angle is
familiar. Slower ones cover an arc only, and in a longer text they leave it. YaRN changes the
frequencies after training: slow pairs are slowed down further, which keeps them on their arc, and
fast ones are left as they are, since they tell neighbours apart.

The run trains two small GPTs on windows of 32 letters of Shakespeare, one with learned absolute
positions and one with RoPE. Then the second reads held-out windows of 128 letters, with the same
weights but other frequencies (only the last test trains a little further). Look at four things: how
exact "distance alone" is; what happens beyond letter 32; how many of the pairs should be left as
they are; and whether all this is better than the simplest remedy, the cut: every letter reads the
last 32 only, itself included.

The measure is the loss: the mean of -log(probability that the model gave to the letter that really
followed), in nats. "Far" is its mean over letters 64 to 127 of a window.

In the code       In the papers   Meaning                                              Shape
frequencies       theta_j         angle by which pair j turns from one letter to the   [D/2]
                                  next, in radians: BASE ** (-2 j / D)
HEAD_DIM          d, |D|          columns of a query or key: 16, so 8 pairs            D
positions         m, n            places of N letters in the text, counted from 0      [N]
rotate(q, ...)    R_m q           every row of q, turned according to its position     [N][D]
SCALE             s               wanted length / trained length: 128 / 32 = 4         a number
TRAINED_LENGTH    L               letters in a training window: 32                     a number
attention_factor  sqrt(1/t)       YaRN multiplies queries and keys by it               a number

Left out: several layers and heads (each head of each layer is rotated in the same way); a larger
BASE from the start, the remedy at training time (Llama 3: 500,000); frequencies that change with
the length of the text (dynamic NTK); LongRoPE and Llama 3.1's rule, which are relatives of YaRN.

A number marked [results: ...] was recorded, most of them in a run with one thing changed (seed_42
is the run as it stands, seed_1 to seed_3 change the seed). It is in results/microrope.json under
that key.

Read first: microgpt.

Papers: Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021,
arXiv:2104.09864. Press et al., "Train Short, Test Long: Attention with Linear Biases Enables Input
Length Extrapolation", 2021, arXiv:2108.12409 (ALiBi). Chen et al., "Extending Context Window of
Large Language Models via Positional Interpolation", 2023, arXiv:2306.15595. Peng et al., "YaRN:
Efficient Context Window Extension of Large Language Models", 2023, arXiv:2309.00071 (it also
describes NTK-aware scaling, first posted by bloc97 in 2023). Liu et al., "Scaling Laws of
RoPE-based Extrapolation", 2023, arXiv:2310.05209. Xiao et al., "Efficient Streaming Language
Models with Attention Sinks", 2023, arXiv:2309.17453.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from math import cos, exp, log, pi, sin
from operator import add, mul, sub
from pathlib import Path
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
TRAINED_LENGTH = 32  # letters in a training window
LONG_LENGTH = 128  # letters in a test window
SCALE = LONG_LENGTH / TRAINED_LENGTH  # s: how much longer the texts are than those of training
WIDTH = 16  # entries of a vector, and of the one head's queries and keys
HEAD_DIM = WIDTH  # one head
BASE = 10000.0  # RoFormer's, and nearly everybody's until 2023
MANY_TURNS = 32.0  # YaRN's beta: pairs with at least so many turns in training are left
FEW_TURNS = 1.0  # YaRN's alpha: those with fewer are stretched in full
NUM_STEPS = 200
BATCH_SIZE = 2  # windows per step
LEARNING_RATE = 0.02  # for RoPE: at its highest; it falls to 0 in a straight line
LEARNED_RATE = 0.02  # for learned positions: no better with half or twice as much
TUNING_STEPS = 15  # each on one long window
TUNING_RATE = 0.003  # low: little is to be learned, and much could be forgotten
NUM_WINDOWS = 24  # held-out windows of LONG_LENGTH letters
NUM_SAMPLES = 6  # texts of LONG_LENGTH letters, written by each scheme
SHIFT = 1000  # positions by which a whole text is moved as a test
HELD_OUT = 0.1  # the last tenth of the book
CUT = f"cut: last {TRAINED_LENGTH} only"  # the name of the fair rival in tables

# === THE TEXT ===

# Four plays, reduced to 27 symbols: lower-case letters, and a space for everything else. So
# a model learns in seconds what letters and words look like. The test is on the last tenth.

LETTERS = " abcdefghijklmnopqrstuvwxyz"  # symbol i is LETTERS[i]


def to_symbols(text: str) -> list[int]:
    """Text as symbols, all letters in lower case and every gap one space.

    >>> to_symbols("Who's there?")
    [23, 8, 15, 0, 19, 0, 20, 8, 5, 18, 5]
    """
    kept = "".join([letter if letter in LETTERS else " " for letter in text.lower()])
    return [LETTERS.index(letter) for letter in " ".join(kept.split())]


def draw_window(symbols: Sequence[int], length: int, rng: random.Random) -> list[int]:
    """A random piece of the text: length symbols to read, and one more, the last one's target."""
    start = rng.randrange(len(symbols) - length)
    return list(symbols[start : start + length + 1])


# === ROTARY POSITIONS ===

# Pair j of a query at position m is turned by the angle m * theta_j. With a pair as one complex
# number z = x + iy, turning is a multiplication by exp(i m theta). The pair's share of the dot
# product is the real part of z_q times the conjugate of z_k:
#
#     Re[ z_q e^(i m theta) * conj(z_k e^(i n theta)) ] = Re[ z_q conj(z_k) e^(i (m - n) theta) ]
#
# and only the distance m - n is left. RoFormer writes the same with matrices:
# (R_m q) . (R_n k) = q . R_(n-m) k. In numbers: q = k = (1, 0) and theta = 0.5. At positions 5
# and 3 the arrows stand at 2.5 and 1.5 radians, at positions 105 and 103 at 52.5 and 51.5; the
# dot product is cos(1) = 0.54 both times.
#
# One frequency would not do. A fast pair tells one letter from the next but comes round after a few
# letters; a slow pair hardly moves between neighbours but tells near from far. So the frequencies
# form a geometric series, like the hands of a clock: here from 1 radian per letter to 0.0003.


class Rope(NamedTuple):
    """How to rotate queries and keys, and how far a row may look back."""

    frequencies: list[float]  # radians per position, one for each pair
    attention_factor: float = 1.0  # only YaRN has another one
    look_back: int = 10**9  # rows that a row reads at most, itself included


def rope_frequencies(head_dim: int, base: float) -> list[float]:
    """theta_j = base ** (-2 j / head_dim), one for each of the head_dim / 2 pairs.

    >>> [round(frequency, 4) for frequency in rope_frequencies(8, 10000.0)]
    [1.0, 0.1, 0.01, 0.001]
    """
    if head_dim % 2:
        raise ValueError(f"{head_dim} columns do not form pairs")
    return [base ** (-2.0 * j / head_dim) for j in range(head_dim // 2)]


def rotate(x: Tensor, positions: Sequence[int], rope: Rope) -> Tensor:
    """Turn pair j of every row of x [N][D] by position * frequencies[j] -> [N][D]:
    (a, b) becomes (a cos - b sin, b cos + a sin), times rope.attention_factor.

    Columns j and j + D/2 are a pair (half-split: Llama and most others in Hugging Face's library).
    RoFormer, GPT-J and Meta's own Llama code pair columns 2j and 2j + 1 (interleaved). Both are
    the same model with its query and key columns in another order, but a checkpoint trained with
    one and run with the other gives nonsense.
    >>> turned = rotate(Tensor([[1.0, 0.0], [1.0, 0.0]]), [5, 3], Rope([0.5]))
    >>> round(dot(*turned.data), 4) == round(cos(1.0), 4)
    True
    """
    half = len(rope.frequencies)
    if len(x.data[0]) != 2 * half or len(x.data) != len(positions):
        raise ValueError(f"{half} pairs and {len(positions)} positions do not fit x")

    def turn(rows: list[list[float]], direction: float) -> list[list[float]]:
        turned = []
        for row, position in zip(rows, positions):
            angles = [direction * position * frequency for frequency in rope.frequencies]
            cosines = [rope.attention_factor * cos(angle) for angle in angles]
            sines = [rope.attention_factor * sin(angle) for angle in angles]
            pairs = list(zip(row[:half], row[half:], cosines, sines))
            turned.append([a * c - b * s for a, b, c, s in pairs])
            turned[-1] += [b * c + a * s for a, b, c, s in pairs]
        return turned

    # d_x = transpose(R) d_out, and a rotation's transpose is the rotation back: minus the angle
    # (the attention_factor stays).
    return Tensor(turn(x.data, 1.0), (x,), lambda d_out: (turn(d_out, -1.0),))


# Libraries compute the cosines and sines once for all layers (Hugging Face: LlamaRotaryEmbedding,
# before apply_rotary_pos_emb rotates) or keep them in a table, two numbers for each pair and
# position; some kernels rotate while they load q and k. There is nothing to learn, and 2 D
# multiplications a row are little beside the D * D of the projection before.


def rotary_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    positions: Sequence[int],
    spans: Sequence[tuple[int, int]],
    rope: Rope,
) -> Tensor:
    """Attention among N rows at these positions -> [N][D]. Row i reads the rows of spans[i].

    Values are not rotated: they are what is handed on, and a mean of values turned by their
    absolute positions would bring the absolute position back in.
    """
    q = rotate(q, positions, rope)
    k = rotate(k, positions, rope)
    return scaled_dot_product_attention(q, k, v, 1, spans)


# === THE MODEL ===

# A GPT with one block, as in microgpt, which explains its parts; the MLP is half as wide here, to
# save time. With learned positions a vector for the place is added to the vector of the letter.
# RoPE adds nothing and acts inside attention. In a deep model it does so in every layer, while an
# added vector must survive all layers to be of use in the last one.


class LanguageModel:
    """A transformer with one block and one head. num_places: how many positions have a learned
    vector of their own; with 0 places positions come in through attention alone.
    """

    def __init__(self, num_places: int, rng: random.Random) -> None:
        def matrix(rows: int, columns: int) -> Tensor:
            return Tensor([[rng.gauss(0.0, 0.08) for _ in range(columns)] for _ in range(rows)])

        self.letter_embedding = matrix(len(LETTERS), WIDTH)
        self.query = matrix(HEAD_DIM, WIDTH)
        self.key = matrix(HEAD_DIM, WIDTH)
        self.value = matrix(HEAD_DIM, WIDTH)
        self.attention_out = matrix(WIDTH, HEAD_DIM)
        self.mlp_in = matrix(2 * WIDTH, WIDTH)
        self.mlp_out = matrix(WIDTH, 2 * WIDTH)
        self.head = matrix(len(LETTERS), WIDTH)
        # Drawn last: so all other matrices start out alike in both models.
        self.place_embedding = matrix(num_places, WIDTH) if num_places else None

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return [matrix for matrix in vars(self).values() if matrix is not None]

    def forward(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N letters and their places -> logits [N][27]. attend(q, k, v) is where rows meet."""
        x = embedding(self.letter_embedding, ids)
        if self.place_embedding is not None:
            x = x + embedding(self.place_embedding, positions)
        x = rms_norm(x)
        normed = rms_norm(x)
        q, k, v = [linear(normed, weight) for weight in (self.query, self.key, self.value)]
        x = x + linear(attend(q, k, v), self.attention_out)
        x = x + linear(relu(linear(rms_norm(x), self.mlp_in)), self.mlp_out)
        return linear(x, self.head)


def predict(
    model: LanguageModel, windows: Sequence[Sequence[int]], rope: Rope | None, shift: int = 0
) -> tuple[Tensor, list[int]]:
    """Read windows side by side -> logits [N][27] and the N letters that really followed.

    A row reads itself and what came before it in its window. rope is None for learned positions.
    shift is added to all positions.
    """
    ids, places, spans, targets = pack(windows, rope.look_back if rope else 10**9)
    positions = [place + shift for place in places]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if rope is None:
            return scaled_dot_product_attention(q, k, v, 1, spans)
        return rotary_attention(q, k, v, positions, spans, rope)

    return model.forward(ids, positions, attend), targets


def train(
    model: LanguageModel,
    rope: Rope | None,
    symbols: Sequence[int],
    length: int,
    batch_size: int,
    num_steps: int,
    learning_rate: float,
    rng: random.Random,
) -> None:
    """Train on batches of random windows of the text, each of length letters."""
    # The running means are shorter than usual (0.9, 0.999), since there are few steps.
    optimizer = Adam(model.parameters(), betas=(0.85, 0.99))
    recent: list[float] = []
    for step in range(1, num_steps + 1):
        windows = [draw_window(symbols, length, rng) for _ in range(batch_size)]
        loss = cross_entropy(*predict(model, windows, rope))
        loss.backward()
        optimizer.step(learning_rate * (1.0 - (step - 1) / num_steps))
        recent.append(loss.item())
        if step % 40 == 0 or step == num_steps:
            print(f"step {step:4d}/{num_steps} | loss {sum(recent) / len(recent):.4f}", flush=True)
            recent.clear()


# Is the race between the two fair? Half and twice the learning rate are no better for learned
# positions. But the training is short: each place's vector is met in 400 windows, and what it has
# learned there is of no use at other places. The model with learned positions ends behind a table
# of letter pairs. RoPE's gain over it, in nats, is 0.141 [results: seed_42.rope_gain]; with three
# times the steps it shrinks to 0.086 [results: longer.rope_gain]. And with no positions at all
# (every frequency 0) the model is still ahead of the one with learned positions, by 0.028
# [results: no_positions.rope_gain]: most of RoPE's gain is its own.

# === LONGER TEXTS: OTHER FREQUENCIES ===

# In 32 letters pair j makes 32 theta_j / (2 pi) turns. The first two pairs come full circle, the
# others see a part of it, and in 128 letters those in the middle leave their part. The slowest
# hardly move even then: for them all letters stand at nearly the same place. (Liu et al. call the
# number of columns whose pairs come full circle the critical dimension.) One often reads the
# reverse, that fast pairs "wrap around" and confuse distances. They wrap around in training too.
#
# All remedies divide frequencies, which is the same as dividing positions, pair by pair:
#
#     as trained   theta_j                  new angles in the middle pairs
#     PI           theta_j / s              hardly a new angle, but neighbours s times as close
#     NTK-aware    base' = base s^(D/(D-2)) theta_0 stays, the last is divided by s, those between
#                                           by something between: the middle ones by too little
#     YaRN         by turns in training     pairs with many turns stay, those with less than one
#                                           are divided by s, and between there is a mixture
#
# leave_first tests the idea itself, without any formula: leave the first 0, 1, 2, ... pairs, divide
# all others by s. In this run pair 2 (0.5 turns) makes the difference: the loss is 2.300 if it is
# divided and 2.486 if it is left. A rival explanation, that 128 letters simply spread the attention
# too thin, does not hold: for reading so many a model trained without positions pays only
# 0.002 [results: no_positions.raw_cost]. The wrong way round, with fast pairs divided and slow
# ones left, YaRN's loss is higher than the cut's by 0.258 [results: stretch_the_fast.yarn_cost], no
# better than with the frequencies as trained, 0.254 [results: seed_42.raw_cost]. That cost varies:
# other seeds have 0.114 [results: seed_2.raw_cost] to 0.341 [results: seed_1.raw_cost]. After three
# times the steps it is 0.448 [results: longer.raw_cost]: more training of this kind does not help.


def linear_scaling(head_dim: int, base: float, scale: float) -> Rope:
    """Position interpolation (PI): all pairs turn s times slower, so distance 50 looks like 12.5,
    between two that are known (only the last, up to 127 / 4 = 31.75, lie just beyond the known 31).
    Chen et al., arXiv:2306.15595.
    """
    return Rope([frequency / scale for frequency in rope_frequencies(head_dim, base)])


def ntk_scaling(head_dim: int, base: float, scale: float) -> Rope:
    """NTK-aware scaling: a larger base. The exponent is chosen so that pair 0 keeps its frequency
    and that of the last pair, j = D/2 - 1, is divided by s:
    base'^(-2j/D) = base^(-2j/D) s^(-2j/(D-2)), and 2j/(D-2) runs from 0 to 1.
    """
    return Rope(rope_frequencies(head_dim, base * scale ** (head_dim / (head_dim - 2))))


def yarn_scaling(head_dim: int, base: float, scale: float, trained_length: int) -> Rope:
    """YaRN: leave the pairs that made many turns in training, stretch those that made few.

    Peng et al., arXiv:2309.00071. With r turns in training, the paper's frequency is
    (1 - gamma) theta / s + gamma theta with gamma = (r - alpha) / (beta - alpha), kept between 0
    and 1. Libraries (Hugging Face, vLLM), and we, let 1 - gamma (here: stretched) run straight in
    the pair's number j instead, from the j of beta turns, rounded down, to that of alpha, rounded
    up. Here these are 0 and 2: pair 0 stays, pair 1 is half stretched, from pair 2 on all are.
    With the paper's gamma even pair 0 would have 1 - gamma = 1 - (5.1 - 1) / 31 = 0.87: beta = 32
    was chosen for Llama, whose fast pairs make hundreds of turns.
    """

    def pair_that_makes(turns: float) -> float:
        # trained_length * base ** (-2 j / head_dim) = 2 pi turns, solved for j.
        return head_dim * log(trained_length / (2.0 * pi * turns)) / (2.0 * log(base))

    first = max(math.floor(pair_that_makes(MANY_TURNS)), 0)
    last = min(math.ceil(pair_that_makes(FEW_TURNS)), head_dim - 1)
    frequencies = []
    for j, frequency in enumerate(rope_frequencies(head_dim, base)):
        stretched = min(max((j - first) / max(last - first, 0.001), 0.0), 1.0)
        frequencies.append((1.0 - stretched) * frequency + stretched * frequency / scale)
    # More keys make the softmax flatter. This factor is on queries and on keys, so it is squared in
    # the score, and sharpens the softmax again: the paper's 1/t. It was fitted to Llama.
    return Rope(frequencies, 0.1 * log(scale) + 1.0)


def ways_to_rotate() -> dict[str, Rope]:
    """All that is compared on long texts, by its name in the tables."""
    frequencies = rope_frequencies(HEAD_DIM, BASE)
    return {
        CUT: Rope(frequencies, look_back=TRAINED_LENGTH),
        "as trained": Rope(frequencies),
        "PI": linear_scaling(HEAD_DIM, BASE, SCALE),
        "NTK-aware": ntk_scaling(HEAD_DIM, BASE, SCALE),
        "YaRN": yarn_scaling(HEAD_DIM, BASE, SCALE, TRAINED_LENGTH),
    }


def leave_first(count: int, head_dim: int, base: float, scale: float) -> Rope:
    """The bare idea, for a test of it: leave the fastest pairs and stretch all others fully."""
    frequencies = rope_frequencies(head_dim, base)
    return Rope([f if j < count else f / scale for j, f in enumerate(frequencies)])


# === MEASURING ===

# All schemes read the same windows with the same weights. The fair rival is the cut. With RoPE it
# is a sliding window over the cache: keys need no other rotation when it moves on. (With learned
# positions all 32 rows would have to be computed again for each new letter.) In one layer the cut
# shows the model no distance that was not in training, so a scheme can beat it only where letters
# further back help. It costs less, too, and its cost grows with the length, not with its square.
# ALiBi, which takes slope * distance off every score, also works at any length: its loss is above
# that of its own cut by 0.000 [results: alibi.raw_cost]. With the slope of 1/2 used there that is
# no wonder: 32 letters back, a weight is multiplied by e^-16. It is a cut with a soft edge.
#
# Why then does anybody scale? Because the cut can never answer a question about what has left the
# window; with many layers something is handed on from window to window, but not reliably. Large
# models also break under the bare cut unless their first tokens stay visible (attention sinks, Xiao
# et al.). In practice YaRN is a line in the model's configuration (rope_type "yarn", factor 4.0,
# original_max_position_embeddings 32768, say), often after a short training with it. The factor
# then holds for short texts as well, and they pay for it: see letters 0 to 31 in the table.


def losses_by_place(
    model: LanguageModel, windows: Sequence[Sequence[int]], rope: Rope | None
) -> list[float]:
    """The mean loss at each place of the windows, [length] nats."""
    rows = []
    for window in windows:
        logits, targets = predict(model, [window], rope)
        rows.append([-value for value in log_prob(logits, targets).data[0]])
    return [mean(column) for column in zip(*rows)]


def short_loss(model: LanguageModel, windows: Sequence[Sequence[int]], rope: Rope | None) -> float:
    """The loss in pieces of the trained length: every window is cut up, each piece starts anew."""
    starts = range(0, LONG_LENGTH, TRAINED_LENGTH)
    pieces = [window[i : i + TRAINED_LENGTH + 1] for window in windows for i in starts]
    return mean(losses_by_place(model, pieces, rope))


def next_logits(
    model: LanguageModel, ids: Sequence[int], cache: tuple[list, list], rope: Rope
) -> list[float]:
    """Read more letters -> logits [27] for the next one. The cache holds the keys and values of
    all letters so far. Keys enter it after their rotation, which is final: only distances matter,
    so nothing is rotated again when the cut moves on. (Frequencies that change while the text
    grows, as in dynamic NTK, spoil this: keys in the cache were turned at other ones.) Under the
    cut the rows before the last 32 could be dropped; here they stay, unread, to keep places simple.
    """
    keys, values = cache
    positions = range(len(keys), len(keys) + len(ids))
    spans = [(max(0, place + 1 - rope.look_back), place + 1) for place in positions]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys.extend(rotate(k, positions, rope).data)
        values.extend(v.data)
        past_k, past_v = [Tensor(rows, requires_grad=False) for rows in cache]
        return scaled_dot_product_attention(rotate(q, positions, rope), past_k, past_v, 1, spans)

    return model.forward(ids, positions, attend).data[-1]


def generate(
    model: LanguageModel, start: Sequence[int], count: int, rope: Rope, rng: random.Random
) -> str:
    """Continue the text by count letters."""
    cache: tuple[list, list] = ([], [])
    text, unread = "", list(start)
    for _ in range(count):
        probabilities = softmax_row(next_logits(model, unread, cache, rope))
        unread = rng.choices(range(len(LETTERS)), probabilities)
        text += LETTERS[unread[0]]
    return text


def far(losses: Sequence[float]) -> float:
    """The mean loss from letter 64 on: twice the trained length or more stands before each."""
    return mean(losses[2 * TRAINED_LENGTH :])


def shift_error(model: LanguageModel, windows: Sequence[Sequence[int]], rope: Rope) -> float:
    """Move all letters by SHIFT positions: the largest change of a logit."""
    here, _ = predict(model, windows, rope)
    there, _ = predict(model, windows, rope, shift=SHIFT)
    pairs = [(a, b) for rows in zip(here.data, there.data) for a, b in zip(*rows)]
    return max([abs(a - b) for a, b in pairs])


def train_both(symbols: Sequence[int], rope: Rope) -> tuple[LanguageModel, LanguageModel]:
    """Two models that start alike and meet the same windows: learned positions, and RoPE."""
    models = (
        LanguageModel(TRAINED_LENGTH, random.Random(SEED)),
        LanguageModel(0, random.Random(SEED)),
    )
    names, rates = ("learned positions", "RoPE"), (LEARNED_RATE, LEARNING_RATE)
    for model, name, rate, how in zip(models, names, rates, (None, rope)):
        print(f"\nTraining with {name}, {TRAINED_LENGTH} letters at a time")
        rng = random.Random(f"training {SEED}")
        train(model, how, symbols, TRAINED_LENGTH, BATCH_SIZE, NUM_STEPS, rate, rng)
    return models


def tune(model: LanguageModel, rope: Rope, symbols: Sequence[int]) -> LanguageModel:
    """A copy of the model, trained a little further on long windows with these frequencies. They
    must stay when the copy is used: its weights have been fitted to them.
    """
    copy = LanguageModel(0, random.Random(SEED))
    for ours, theirs in zip(copy.parameters(), model.parameters()):
        ours.data = theirs.data  # shared until the first step, which makes new rows
    rng = random.Random(f"tuning {SEED}")
    train(copy, rope, symbols, LONG_LENGTH, 1, TUNING_STEPS, TUNING_RATE, rng)
    return copy


def main() -> dict[str, object]:
    """Train with and without RoPE, read longer texts in several ways, and write some."""
    start = time.perf_counter()
    rng = random.Random(SEED)
    symbols = to_symbols(load_book())
    cut_at = round(len(symbols) * (1.0 - HELD_OUT))
    training, held_out = symbols[:cut_at], symbols[cut_at:]
    windows = [draw_window(held_out, LONG_LENGTH, rng) for _ in range(NUM_WINDOWS)]
    report_data(training, held_out)

    schemes = ways_to_rotate()
    learned, model = train_both(training, schemes["as trained"])
    print(f"time  training both took {time.perf_counter() - start:.1f} s")
    short = short_loss(learned, windows, None), short_loss(model, windows, schemes["as trained"])
    error = shift_error(model, windows[:4], schemes["as trained"])
    report_short(bigram_loss(training, windows), *short, error)

    report_dials(schemes)
    losses = {name: losses_by_place(model, windows, rope) for name, rope in schemes.items()}
    by_count = {0: far(losses["PI"]), HEAD_DIM // 2: far(losses["as trained"])}
    for count in (1, 2, 3, 4):
        rope = leave_first(count, HEAD_DIM, BASE, SCALE)
        by_count[count] = far(losses_by_place(model, windows, rope))
    report_counts(by_count)

    print(f"\nTraining on, with windows of {LONG_LENGTH} letters: as trained, then with YaRN")
    for name in ("as trained", "YaRN"):
        tuned = tune(model, schemes[name], training)
        losses[f"{name}, tuned"] = losses_by_place(tuned, windows, schemes[name])
    report_longer(losses)
    report_work()
    words = report_samples(model, windows[0], schemes, symbols)

    costs = {name: far(values) - far(losses[CUT]) for name, values in losses.items()}
    headline = {
        "shift_error": error,
        "rope_gain": short[0] - short[1],
        "raw_cost": costs["as trained"],
        "pi_cost": costs["PI"],
        "yarn_cost": costs["YaRN"],
        "tuned_cost": costs["YaRN, tuned"],
    }
    report_conclusion(headline, losses, by_count, words)
    details = {"short": short, "losses": losses, "by_count": by_count, "words": words}
    return {**headline, "details": details}


# === APPENDIX: REPORT AND HELPERS ===


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean."""
    return sum(values) / len(values)


def bigram_loss(training: Sequence[int], windows: Sequence[Sequence[int]]) -> float:
    """The loss of a table that knows how often each letter followed each other one (plus 0.5, so
    that no pair is impossible).
    """
    counts = [[0.5] * len(LETTERS) for _ in LETTERS]
    for letter, following in zip(training, training[1:]):
        counts[letter][following] += 1.0
    totals = [sum(row) for row in counts]
    pairs = [pair for window in windows for pair in zip(window, window[1:])]
    return mean([log(totals[a] / counts[a][b]) for a, b in pairs])


def report_data(training: Sequence[int], held_out: Sequence[int]) -> None:
    """The facts before anything is learned."""
    print(f"Shakespeare: {len(training):,} letters to learn from, {len(held_out):,} held out")
    print(f"Knowing nothing, a letter costs ln {len(LETTERS)} = {log(len(LETTERS)):.2f} nats.")


def report_short(bigram: float, learned: float, rotary: float, error: float) -> None:
    """Both models at the length that they were trained for."""
    print(f"\nLoss in pieces of {TRAINED_LENGTH} held-out letters")
    print(f"  table of letter pairs (bigram)       {bigram:.3f}")
    print(
        f"  GPT, learned absolute positions      {learned:.3f}   position {TRAINED_LENGTH} has none"
    )
    print(f"  GPT, RoPE                            {rotary:.3f}   any position can be read")
    print(f"All letters moved on by {SHIFT} positions: no logit changes by more than {error:.0e}")


def dial(trained: float, now: float) -> list[str]:
    """A clock face of 5 lines with 16 marks, the angle 0 at the top and a turn clockwise: # was
    met at the trained frequency and length, o is new in a long text at the frequency of now.
    """

    def reached(frequency: float, length: int) -> set[int]:
        # Up to the length itself, though the largest distance is one less: a quarter of 128 then
        # falls on 32.
        turns = [distance * frequency / (2.0 * pi) for distance in range(length + 1)]
        return {round(16 * part) % 16 for part in turns}

    met, new = reached(trained, TRAINED_LENGTH), reached(now, LONG_LENGTH)
    rows = [[" "] * 7 for _ in range(5)]
    for place in range(16):
        angle = 2.0 * pi * place / 16
        mark = "#" if place in met else "o" if place in new else "."
        rows[round(2.0 - 2.0 * cos(angle))][round(3.0 + 3.0 * sin(angle))] = mark
    return ["".join(row) for row in rows]


def report_dials(schemes: dict[str, Rope]) -> None:
    """Clock faces of all pairs, as trained and with YaRN."""
    before = schemes["as trained"].frequencies
    print("\nThe pairs as clock faces, 0 at the top. #: angle between two letters of a")
    print(f"training window, o: new in {LONG_LENGTH} letters. Turns: in {TRAINED_LENGTH} letters.")
    for name in ("as trained", "YaRN"):
        faces = [dial(*both) for both in zip(before, schemes[name].frequencies)]
        for number, parts in enumerate(zip(*faces)):
            label = name.split()[-1] if number == 2 else ""
            print(f"{label:<9}{'  '.join(parts)}".rstrip())
    print("turns    " + "  ".join([f"{turns_in_training(f):^7.3f}" for f in before]).rstrip())


def turns_in_training(frequency: float) -> float:
    """How many times round the circle in a training window."""
    return TRAINED_LENGTH * frequency / (2.0 * pi)


def report_counts(by_count: dict[int, float]) -> None:
    """How many of the fastest pairs to leave as they are: a bar for each answer."""
    print(f"\nLeave the fastest pairs, divide all others by {SCALE:g}: loss far out")
    print("left   loss    slowest pair left made")
    trained = rope_frequencies(HEAD_DIM, BASE)
    for count in sorted(by_count):
        loss = by_count[count]
        bar = "#" * round((loss - min(by_count.values())) / 0.01)
        turns = f"{turns_in_training(trained[count - 1]):.3f} turns" if count else ""
        title = {0: "(PI)", len(trained): "(as trained)"}.get(count, "")
        print(f"{count:4d}{loss:8.3f}   {turns:<12}{bar} {title}".rstrip())


def report_longer(losses: dict[str, list[float]]) -> None:
    """A line for each way to read long windows: its loss against the distance from the start."""
    blocks = {
        name: [mean(values[i : i + 16]) for i in range(0, LONG_LENGTH, 16)]
        for name, values in losses.items()
    }
    low, high = min(map(min, blocks.values())), max(map(max, blocks.values()))
    print(
        f"\nLoss in {NUM_WINDOWS} held-out windows of {LONG_LENGTH} letters. Far - cut: from letter"
    )
    print("64 on, less the loss of the cut. Picture: along the window, dark = high loss.")
    print("letters              0-31   32-63   64-95  96-127  far - cut")
    for name, values in losses.items():
        bands = [mean(values[i : i + 32]) for i in range(0, LONG_LENGTH, 32)]
        numbers = "".join([f"{loss:8.3f}" for loss in bands])
        cost = far(values) - far(losses[CUT])
        picture = shade([blocks[name]], low, high)[0]
        print(f"{name:<17}{numbers}{cost:+11.3f} {picture}".rstrip())


def report_work() -> None:
    """How the number of scores grows with the length of the text, counted from the spans."""
    lengths = (64, 128, 256)
    print("\nScores to compute, and rows of keys and values to keep")
    print(f"{'letters':<17}" + "".join([f"{n:8d}" for n in lengths]) + "   growth     rows at 256")
    for name, look_back in ((CUT, TRAINED_LENGTH), ("all so far", 10**9)):
        counts = []
        for length in lengths:
            _, _, spans, _ = pack([[0] * (length + 1)], look_back)
            counts.append(sum([stop - first for first, stop in spans]))
        power = math.log2(counts[-1] / counts[-2])
        numbers = "".join([f"{count:8,}" for count in counts])
        rows = min(lengths[-1], look_back)
        print(f"{name:<17}{numbers}   length^{power:.2f}{rows:14d}")


def report_samples(
    model: LanguageModel, window: Sequence[int], schemes: dict[str, Rope], book: Sequence[int]
) -> dict[str, float]:
    """Let the model continue a text of the trained length far beyond it, NUM_SAMPLES times with
    each scheme -> the mean number of letters in a word beyond letter 64, by scheme.
    """
    start, skipped = window[:TRAINED_LENGTH], TRAINED_LENGTH
    print(f"\nContinued from letter {TRAINED_LENGTH} on, with the same random numbers:")
    print(f"  [{''.join([LETTERS[symbol] for symbol in start])}]")
    lengths = {"the book": mean_word("".join([LETTERS[symbol] for symbol in book]))}
    for name in (CUT, "as trained", "YaRN"):
        rng = random.Random(SEED)
        texts = [
            generate(model, start, LONG_LENGTH, schemes[name], rng) for _ in range(NUM_SAMPLES)
        ]
        print(f"{name}\n  {texts[0][:64]}\n  {texts[0][64:]}")
        lengths[name] = mean_word(" ".join([text[skipped:] for text in texts]))
    print(f"Letters per word from letter 64 on, in {NUM_SAMPLES} such texts each:")
    print("  " + " | ".join([f"{name} {length:.1f}" for name, length in lengths.items()]))
    return lengths


def mean_word(text: str) -> float:
    """The mean number of letters in a word.

    >>> mean_word("to be or nothing")
    3.25
    """
    return mean([len(word) for word in text.split()])


def report_conclusion(
    numbers: dict[str, float],
    losses: dict[str, list[float]],
    by_count: dict[int, float],
    words: dict[str, float],
) -> None:
    """Say in words what the run has shown."""
    raw, pi_cost, yarn = [numbers[key] for key in ("raw_cost", "pi_cost", "yarn_cost")]
    tuned, limit = numbers["tuned_cost"], losses[CUT]
    print()
    if numbers["shift_error"] <= 1e-9:
        print("Distance alone counts: moving the whole text changes nothing but rounding.")
    if raw > 0.03:
        print(f"Yet far out the model as trained is worse than the cut, by {raw:.3f} nats.")
    if words["as trained"] > 1.3 * words[CUT]:
        lengths = f"{words['as trained']:.1f} letters (book {words['the book']:.1f})"
        print(f"It forgets to end its words: {lengths}; with YaRN {words['YaRN']:.1f}.")
    best = min(by_count, key=lambda count: by_count[count])
    trained = rope_frequencies(HEAD_DIM, BASE)
    full = sum([turns_in_training(frequency) >= 1.0 for frequency in trained])
    if best == full:
        print(f"Best is to leave {full} pairs: those that came full circle in training.")
    else:
        print(f"{full} pairs came full circle in training; best here is to leave {best}.")
    if yarn < min(raw, pi_cost):
        shares = f"{1 - yarn / raw:.0%} of the harm, PI {1 - pi_cost / raw:.0%}"
        print(f"YaRN, without training, undoes {shares}.")
    near, beyond = [
        mean(losses["NTK-aware"][i:j]) - mean(limit[i:j])
        for i, j in ((TRAINED_LENGTH, 2 * TRAINED_LENGTH), (2 * TRAINED_LENGTH, LONG_LENGTH))
    ]
    if near < 0.25 * beyond:
        print(f"NTK-aware holds to twice the length ({near:+.3f}) but not beyond ({beyond:+.3f}).")
    if yarn > 0.0:
        print(f"The cut is better still, by {yarn:.3f}, and cheaper: what stands further back than")
        print(
            f"{TRAINED_LENGTH} letters is of no help to this model. Scaling pays only where it is."
        )
    if tuned < yarn:
        print(f"{TUNING_STEPS} steps of training bring YaRN from {yarn:+.3f} to {tuned:+.3f}.")


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
BOOK_SHA256 = "e034d4e9fb4434365d9d04ea7870aa0d1c3e0d9a08ace78ab550ffb9769d37ef"


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


def load_book() -> str:
    """Four plays of Shakespeare as one text: Hamlet, Macbeth, Romeo and Juliet, A Midsummer
    Night's Dream.
    """
    return load_data("shakespeare.txt", BOOK_SHA256).decode("utf-8")


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
