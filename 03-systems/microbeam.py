"""The most probable name is a bad name, so decoding must choose what it wants from the model.

A language model gives a probability to every next symbol, and so to every whole text. Decoding
turns these probabilities into one text. That is a choice of its own, made after training, and the
same model writes very different texts under different choices. What do we want from the
distribution? There are three answers.

Its mode: the one text with the highest probability. Greedy decoding and beam search look for it;
best-first search finds it for certain. A tamer version of it: temperature, top-k, top-p and min-p
move probability from unlikely symbols to likely ones, and then a symbol is drawn. Or the
distribution itself, but cheaper: speculative decoding lets a small draft model guess a few
symbols, has the large model check them all in one call, and still draws from the large model's
distribution exactly.

The run trains a small GPT, the target, and a smaller one, the draft, on names. Look at three
things: what happens to the names as the search for the mode gets better; how many real names each
filter gives, and how much variety that costs; and how many symbols one call of the target yields,
while a test of the drawn names finds no change, unless the draft is used wrongly.

What pure Python can show is counted calls, and counted numbers loaded from memory. It cannot show
the time that speculative decoding saves on a GPU: here a call costs by its rows, and time is lost.

In the code    In the papers   Meaning                                               Shape
text           x_1..x_t        symbols so far; 0 starts and ends a name, 1-26 = a-z  t
p              p(x | x_<t)     the target's probabilities of the next symbol         [27]
q              q(x | x_<t)     the draft's probabilities of the next symbol          [27]
k              gamma, K        symbols that the draft guesses before a check         number
kept           n               how many of these guesses the target accepts          number
residual       p'              what is drawn from after a rejection                  [27]
alpha          beta, alpha     chance that a guess is kept: at a place, or the mean  number

The letters are Leviathan et al.'s; Chen et al. write q for the target and p for the draft.

Left out: scores divided by length (beam search's patch for modes that are too short), sampling
several texts together, drafts that share the target's layers (EAGLE, MTP), and trees of guesses.

A number marked [results: key] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microbeam.json under that key.

Read first: microgpt.

Papers: Stahlberg & Byrne, "On NMT Search Errors and Model Errors: Cat Got Your Tongue?", 2019,
arXiv:1908.10090. Meister et al., "If Beam Search is the Answer, What was the Question?", 2020,
arXiv:2010.02650. Holtzman et al., "The Curious Case of Neural Text Degeneration", 2019,
arXiv:1904.09751 (top-p). Nguyen et al., "Turning Up the Heat: Min-p Sampling", 2024,
arXiv:2407.01082. Leviathan et al., "Fast Inference from Transformers via Speculative Decoding",
2022, arXiv:2211.17192. Chen et al., "Accelerating Large Language Model Decoding with Speculative
Sampling", 2023, arXiv:2302.01318. Li et al., "EAGLE-3", 2025, arXiv:2503.01840.
"""

from __future__ import annotations

import hashlib
import heapq
import http.client
import math
import os
import random
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_HELD_OUT = 1000  # names that are never trained on
CONTEXT = 16  # symbols: the start mark and the 15 letters of the longest name
TARGET_SIZE = (16, 4)  # entries of a vector, heads
DRAFT_SIZE = (8, 2)  # a third of the target's numbers
TARGET_STEPS = 450  # training steps of BATCH_SIZE names
DRAFT_STEPS = 250
BATCH_SIZE = 4  # no name is seen twice: the model cannot learn names by heart
LEARNING_RATE = 0.01  # at its highest, after 10 steps; it falls to 0 in a straight line

BEAM_WIDTHS = (1, 2, 5, 10, 20)  # width 1 is greedy decoding
SHOWN_PROMPTS = ("", "a", "e", "j", "m", "s")  # in the table; all 26 letters are counted

NUM_SAMPLES = 500  # names drawn with each recipe
# Each recipe: (filter or temperature, its number), from left to right; () is the model as it is.
RECIPES = (
    (),
    (("temperature", 0.3),),
    (("temperature", 0.4),),
    (("temperature", 0.5),),
    (("temperature", 0.7),),
    (("temperature", 1.5),),
    (("top_k", 5),),
    (("top_p", 0.5),),
    (("top_p", 0.9),),
    (("min_p", 0.1),),
    (("temperature", 1.5), ("top_p", 0.9)),
    (("temperature", 1.5), ("min_p", 0.1)),
)
FILTERED_TEXT = "mar"  # what may follow it is shown before and after each filter

GUESSES = 4  # k, symbols that the draft guesses before each call of the target
GUESSES_COMPARED = (1, 2, 4, 6)  # k in the table of costs
NUM_TESTED = 700  # names for each chi-square test
NUM_COST = 200  # names for each other k in the table of costs
NUM_CONTEXTS = 2000  # held-out contexts, or a few more, for the exact test of a step

# === A DISTRIBUTION OVER TEXTS ===

# The two models are microgpt's; their code and training stand in the appendix. A model gives the
# probability of one next symbol. The chain rule turns this into a distribution over whole names:
#
#     p("ava.") = p(a | start) p(v | a) p(a | av) p(. | ava)        the end mark is a symbol too
#
# Without the end mark, names of different length cannot be compared. A name is finished when it
# ends with the mark 0, or when the context has no room for another symbol.

Row = list[float]  # probabilities of the 27 symbols
Text = tuple[int, ...]  # symbols, the start mark first


def is_finished(text: Sequence[int]) -> bool:
    """True if nothing can follow."""
    return len(text) > CONTEXT or (len(text) > 1 and text[-1] == 0)


class CachedReader:
    """A trained model that reads a text piece by piece, and can forget the end of it again.

    The keys and values of the symbols that it has read are kept (the KV cache). One call reads any
    number of new symbols: so on a GPU checking several guesses is nearly as cheap as writing one.
    """

    def __init__(self, model: GPT, num_heads: int) -> None:
        self.model, self.num_heads = model, num_heads
        self.keys: list[list[float]] = []
        self.values: list[list[float]] = []

    def read(self, text: Sequence[int]) -> list[Row]:
        """Read what is new in the text, in one call -> one row of probabilities per new symbol."""
        first = len(self.keys)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.keys += k.data
            self.values += v.data
            spans = [(0, place + 1) for place in range(first, len(text))]
            past = [Tensor(rows, requires_grad=False) for rows in (self.keys, self.values)]
            return scaled_dot_product_attention(q, *past, self.num_heads, spans)

        logits = self.model.forward(text[first:], range(first, len(text)), attend)
        return [softmax_row(row) for row in logits.data]

    def truncate(self, length: int) -> None:
        """Forget all but the first symbols. (vLLM counts back, and overwrites the rest later.)"""
        del self.keys[length:], self.values[length:]


class Chain:
    """The probabilities of the next symbol after any text, computed once and then remembered.

    Search and sampling ask for the same contexts again and again. Each is computed from the keys
    and values of the context that is one symbol shorter.
    """

    def __init__(self, reader: CachedReader) -> None:
        self.reader = CachedReader(reader.model, reader.num_heads)
        self.known: dict[Text, tuple[Row, list[float], list[float]]] = {}

    def next(self, text: Text) -> Row:
        """Probabilities [27] of the symbol after the text."""
        if text not in self.known:
            if len(text) > 1:
                self.next(text[:-1])
            past = [self.known[text[:n]] for n in range(1, len(text))]
            self.reader.keys = [key for _, key, _ in past]
            self.reader.values = [value for _, _, value in past]
            row = self.reader.read(text)[0]
            self.known[text] = (row, self.reader.keys[-1], self.reader.values[-1])
        return self.known[text][0]


# === ITS MODE: GREEDY, BEAM, AND BEST-FIRST SEARCH ===

# Greedy decoding takes the likeliest symbol each time. This need not lead to the likeliest text:
#
#     p(a) = 0.6    p(x | a) = 0.5, p(y | a) = 0.5        ax 0.30, ay 0.30     greedy goes here
#     p(b) = 0.4    p(x | b) = 0.9, p(y | b) = 0.1        bx 0.36, by 0.04     the mode is bx
#
# Beam search keeps the `width` best unfinished texts instead of one. In the example width 2 finds
# bx. In general a wider beam may miss the mode too. It may even end with a worse text than greedy
# decoding, if texts that begin better and end worse push the greedy text out of the beam.
#
# Best-first search cannot miss it. Texts wait in a queue, the most probable first. Take the first
# one. If it is unfinished, put all 27 of its continuations in. If it is finished, it is the mode:
# nothing else in the queue is more probable, and a continuation only loses, since it multiplies by
# a number of at most 1. (This is Dijkstra's search: A* with no estimate of what remains.)
# Here it reads about as many contexts as a beam of 20; for long texts they can grow exponentially.


def beam_search(chain: Chain, prompt: Text, width: int) -> tuple[Text, float, int]:
    """The best finished text that a beam finds, its log p given the prompt, contexts read."""
    live, finished, contexts = [(0.0, prompt)], [], 0
    while live:
        candidates = []
        for score, text in live:
            contexts += 1
            for symbol, p in enumerate(chain.next(text)):
                candidates.append((score + log(p), (*text, symbol)))
        candidates.sort(reverse=True)
        # A text that ends is set aside only if it is among the best `width`, as in transformers.
        finished += [entry for entry in candidates[:width] if is_finished(entry[1])]
        live = [entry for entry in candidates if not is_finished(entry[1])][:width]
        # Log p only falls: if the best finished text beats all live ones, none will overtake it.
        if finished and (not live or max(finished)[0] >= live[0][0]):
            break
    score, text = max(finished)
    return text, score, contexts


def best_first_search(chain: Chain, prompt: Text) -> tuple[Text, float, int]:
    """The most probable finished text (the MAP, maximum a posteriori), log p, contexts read."""
    queue, contexts = [(0.0, prompt)], 0  # a heap of (-log p, text): the smallest comes out first
    while True:
        cost, text = heapq.heappop(queue)
        if text != prompt and is_finished(text):
            return text, -cost, contexts
        contexts += 1
        for symbol, p in enumerate(chain.next(text)):
            heapq.heappush(queue, (cost - log(p), (*text, symbol)))


# Why is the mode a bad name? A short name has few factors below 1. A name of six letters has seven,
# and each letter had good alternatives. Long names hold nearly all the probability together, but it
# is shared among so many that none of them has much. Or has the model only learned too little? That
# is a part of it: with four times as many training steps the modes have
# 47% [results: long_target.map_length_ratio] of a name's length and not
# 17% [results: seed_42.map_length_ratio]. But half a name is still missing. In translation the mode
# was often the empty sentence (Stahlberg & Byrne): beam search does well there *because* it misses
# the mode. Dividing log p by the length is the usual patch (length_penalty in transformers).

# === A TAMER DISTRIBUTION: TEMPERATURE AND FILTERS ===

# The other way is to draw. Drawing from p itself gives every symbol its due, the unlikely ones
# too, and one of them is enough to spoil a name. So production systems sharpen p or cut off its
# tail, and draw from what is left. Which symbols stay?
#
#     temperature T   all: p^(1/T), normalised again; the same as softmax(logits / T)
#     top-k           the k likeliest, whether the model is sure or not
#     top-p           the fewest likeliest that together have at least the mass given
#     min-p           those with at least a given share of the likeliest symbol's probability
#
# An example: p = (0.5, 0.3, 0.15, 0.05). top-k 3 keeps three. top-p 0.7 keeps two, since 0.5 is not
# enough and 0.5 + 0.3 is: the symbol that crosses the line stays. min-p 0.2 keeps three, those of
# at least 0.2 * 0.5 = 0.1. top-k does not notice whether the model is sure; the other two do.
#
# top-p needs probabilities that sum to 1. Hand it p^(1/T) as it is, and it cuts at a wrong mass.
# Order matters too: a high temperature flattens p, so that top-p and min-p let more in after it. In
# transformers: generate(do_sample=True, temperature=, top_k=, top_p=, min_p=), the temperature
# first, and top_k is 50 if nobody sets it. llama.cpp applies the temperature last. T = 0 stands for
# greedy decoding. Even this can vary on a GPU: how its sums are rounded may depend on the batch.


def normalised(row: Row) -> Row:
    """Divide by the sum, so that the result sums to 1."""
    total = sum(row)
    return [value / total for value in row]


def temperature(p: Row, t: float) -> Row:
    """p^(1/t), normalised. The largest is divided out first, so that not all underflow to 0."""
    largest = max(p)
    return normalised([(value / largest) ** (1.0 / t) for value in p])


def top_k(p: Row, k: int) -> Row:
    """Keep the k most probable symbols (and what is equal to the last of them)."""
    threshold = sorted(p)[-min(k, len(p))]
    return normalised([value if value >= threshold else 0.0 for value in p])


def top_p(p: Row, mass: float) -> Row:
    """Keep the most probable symbols until they have the mass, the one that reaches it included.

    >>> top_p([0.5, 0.3, 0.15, 0.05], 0.7)
    [0.625, 0.37499999999999994, 0.0, 0.0]
    """
    kept, total = [0.0] * len(p), 0.0
    for symbol in sorted(range(len(p)), key=lambda symbol: -p[symbol]):
        if total >= mass:
            break
        kept[symbol] = p[symbol]
        total += p[symbol]
    return normalised(kept)


def min_p(p: Row, share: float) -> Row:
    """Keep what has at least this share of the most probable symbol's probability."""
    threshold = share * max(p)
    return normalised([value if value >= threshold else 0.0 for value in p])


FILTERS = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}


def apply_recipe(p: Row, recipe: Sequence[tuple[str, float]]) -> Row:
    """Filter after filter, each on probabilities that sum to 1."""
    for name, number in recipe:
        p = FILTERS[name](p, number)
    return p


def draw(p: Row, rng: random.Random) -> int:
    """One symbol, each with its probability."""
    return rng.choices(range(len(p)), p)[0]


def draw_text(
    chain: Chain, recipe: Sequence[tuple[str, float]], rng: random.Random
) -> tuple[Text, float]:
    """One name, symbol by symbol, and -log of the probability with which it is drawn, in nats."""
    text: Text = (0,)
    nats = 0.0
    while not is_finished(text):
        row = apply_recipe(chain.next(text), recipe)
        text = (*text, draw(row, rng))
        nats -= log(row[text[-1]])
    return text, nats


# How do we measure variety? The mean of -log(probability of the drawn name) estimates the entropy
# of the names: 5 nats is the variety of exp(5) = 148 equally likely names. (Counting the different
# names among 500 tells little: most recipes come out near 100%.) Now each filter can be compared
# with its simplest rival: does it give more real names than the temperature that has as many nats?
# Here none does (two are too close to tell). A likely reason: filters are meant to cut off a long
# tail of nonsense. A vocabulary of 100,000 tokens has one; an alphabet of 27 symbols has not.

# === THE DISTRIBUTION ITSELF, CHEAPER: SPECULATIVE DECODING ===

# Drawing a name costs one call of the target per symbol, one after the other. On a GPU each call
# loads all the model's numbers to use them for a single row, and this loading is what takes the
# time. To read five known symbols in one call takes hardly longer. But the symbols to come are not
# known. So a draft, small and fast, guesses k of them, and the target reads the last known symbol
# and all k in one call. This gives p at the place of each guess, where it decides what to keep:
#
#     the draft drew x from q. Keep it with probability min(1, p(x) / q(x)). If it is rejected, drop
#     the guesses after it as well, and draw from the residual: max(0, p - q), normalised. If all k
#     are kept, the call has given one more p, after the last guess: draw a bonus symbol from it.
#
# Proof that a step (a guess, its test, and the redraw) gives x with probability p(x), for every q:
#
#     x is drawn and kept:      q(x) min(1, p(x) / q(x)) = min(p(x), q(x))
#     something is rejected:    R = 1 - sum_y min(p(y), q(y))
#                                 = sum_y (p(y) - min(p(y), q(y))) = sum_y max(0, p(y) - q(y))
#     rejected, redrawn as x:   R * max(0, p(x) - q(x)) / R = max(0, p(x) - q(x))
#     together:                 min(p(x), q(x)) + max(0, p(x) - q(x)) = p(x)
#
# An example with three symbols:
#
#                        a      b      c
#     p                  0.5    0.3    0.2
#     q                  0.3    0.6    0.1     drawn from this
#     kept               0.3    0.3    0.1     min(p, q), sum 0.7: so R = 0.3
#     residual           2/3    0      1/3     (0.2, 0, 0.1), normalised
#     redrawn            0.2    0      0.1     R times the residual
#     kept + redrawn     0.5    0.3    0.2     = p
#
# This holds at every place, whatever happened before it. So every symbol has its probability given
# the symbols before it, and by the chain rule every name has its own. (What was guessed after a
# rejected symbol must go: it continues a text that does not exist.)
#
# The draft decides only the cost: a guess is kept with the chance alpha = sum_y min(p(y), q(y)). An
# untrained draft still gives 1.8 [results: untrained_draft.symbols_per_call] symbols per call, and
# the test below finds nothing wrong: 0.8 [results: untrained_draft.chi_square_per_df].
# "Speculative decoding is an approximation" is a common mistake.
#
# The proof needs one thing: the q of the test must be what x was drawn *from*. A tempting bug: the
# draft takes its likeliest symbol, b, since it looks like the best guess, but the test still uses
# q(b) = 0.6. Then b is kept with probability 0.3 / 0.6 = 0.5, and the step gives (1/3, 1/2, 1/6)
# instead of p. A greedy draft is allowed if the test uses what the guess was drawn from:
# probability 1 for b. Then b is kept with probability p(b) = 0.3.
#
# In production: generate(assistant_model=...) in transformers, speculative_config in vLLM. The
# draft need not be a network: prompt lookup copies its guesses from earlier text. To draw from a
# filtered p, filter p before the test, and q too, or fewer guesses are kept. The draft costs memory
# for its weights and a KV cache of its own. It pays for small batches. With many requests at a time
# the GPU's arithmetic is busy, and then every rejected guess costs time.

Draft = tuple[Callable[[Row], Row], Callable[[Row], Row]]  # drawn from, tested with
Readers = tuple[CachedReader, CachedReader]  # target and draft


def unchanged(q: Row) -> Row:
    """q itself."""
    return q


def likeliest(q: Row) -> Row:
    """Probability 1 for the likeliest symbol."""
    best = q.index(max(q))
    return [float(symbol == best) for symbol in range(len(q))]


DRAFTS: dict[str, Draft] = {
    "drawn from q": (unchanged, unchanged),
    "greedy": (likeliest, likeliest),
    "greedy, tested with q": (likeliest, unchanged),  # the bug
}


def keep_probability(p: Row, q: Row, symbol: int) -> float:
    """The chance to keep a symbol that was drawn from q."""
    return min(1.0, p[symbol] / q[symbol])


def residual(p: Row, q: Row) -> Row:
    """What to draw from after a rejection: where p is larger than q.

    >>> [round(value, 3) for value in residual([0.5, 0.3, 0.2], [0.3, 0.6, 0.1])]
    [0.667, 0.0, 0.333]
    """
    rest = [max(0.0, a - b) for a, b in zip(p, q)]
    return normalised(rest) if any(rest) else p  # p = q: nothing is ever rejected


def speculative_step(
    p_rows: Sequence[Row], q_rows: Sequence[Row], guesses: Sequence[int], rng: random.Random
) -> tuple[int, list[int]]:
    """Check guesses against the target -> how many are kept, and all the symbols that are gained.

    p_rows has one row more than there are guesses, for the bonus symbol; but not if the last guess
    ends the name. Leviathan et al., 2022, algorithm 1.
    """
    for i, symbol in enumerate(guesses):
        if rng.random() >= keep_probability(p_rows[i], q_rows[i], symbol):
            return i, [*guesses[:i], draw(residual(p_rows[i], q_rows[i]), rng)]
    bonus = [draw(p, rng) for p in p_rows[len(guesses) :]]
    return len(guesses), [*guesses, *bonus]


def speculative_decode(
    readers: Readers, draft: Draft, k: int, rng: random.Random, trace: list | None = None
) -> tuple[Text, Counter]:
    """Draw one name -> its text, and counts. trace receives (guesses, kept, gained) per call."""
    if k < 1:
        raise ValueError("the draft must guess at least one symbol")
    (target, draft_reader), (drawn_from, tested_with) = readers, draft
    text, counts = [0], Counter()
    target.truncate(0)
    draft_reader.truncate(0)
    while not is_finished(text):
        guessed, q_rows = list(text), []
        while len(q_rows) < k and not is_finished(guessed):
            q = draft_reader.read(guessed)[-1]
            guessed.append(draw(drawn_from(q), rng))
            q_rows.append(tested_with(q))
        guesses = guessed[len(text) :]

        # One call of the target checks all guesses. Nothing follows an end mark: it is not read.
        p_rows = target.read(guessed[:-1] if is_finished(guessed) else guessed)
        kept, gained = speculative_step(p_rows, q_rows, guesses, rng)
        text += gained

        # Neither cache may hold what was not kept. The last symbol has not been read yet.
        target.truncate(len(text) - 1)
        draft_reader.truncate(len(text) - 1)
        counts.update(calls=1, rows=len(p_rows), kept=kept, symbols=len(gained))
        counts.update(tested=min(kept + 1, len(guesses)), guessed=len(guesses))
        if trace is not None:
            trace.append((guesses, kept, gained))
    return tuple(text), counts


# === CHECKING IT, AND WHAT IT COSTS ===

# "The text still looks fine" is no test. Two tests follow. The first computes what one step gives,
# from the functions above and without chance, and compares it with p on contexts from held-out
# names. The second counts the first two symbols of the names that were really drawn, and compares
# with the exact probabilities from the chain rule. chi-square is the sum of
# (count - expected)^2 / expected. Divided by its degrees of freedom (df) it is near 1 if the names
# come from the expected distribution, and grows with the number of names if they do not.
#
# Drawing alone would not do. Suppose that after a rejection we draw from p and not from the
# residual. Then a step is off by up to 0.17 [results: no_residual.step_error], but the names pass,
# with a chi-square per degree of freedom of 1.2 [results: no_residual.chi_square_per_df].


def step_distribution(p: Row, drawn: Row, tested: Row) -> Row:
    """The exact distribution of one symbol: drawn from one row, tested with another."""
    kept = [d * keep_probability(p, tested, x) if d > 0.0 else 0.0 for x, d in enumerate(drawn)]
    rejected = 1.0 - sum(kept)
    return [a + rejected * b for a, b in zip(kept, residual(p, tested))]


def step_error(p: Row, drawn: Row, tested: Row) -> float:
    """The total variation between what a step gives and p: 0 if equal, 1 if nothing in common."""
    return sum([abs(a - b) for a, b in zip(step_distribution(p, drawn, tested), p)]) / 2.0


# The cost. If every guess is kept with the same chance alpha, one call gives on average
# 1 + alpha + ... + alpha^k = (1 - alpha^(k+1)) / (1 - alpha) symbols: the i-th guess counts only if
# it and all before it are kept, and one symbol always comes from the target. This is Leviathan's
# formula, for a text without end. But a held-out name has 6.2 letters and an end mark, and what a
# call could give after it is lost. So we also compute it for names of the lengths that were drawn.


def symbols_per_call(alpha: float, k: int, lengths: Sequence[int]) -> float:
    """Expected symbols per call for texts of these numbers of symbols, at a constant alpha."""
    calls = [0.0]  # calls[n]: expected calls for n more symbols
    for n in range(1, max(lengths) + 1):
        chances = [alpha**kept * (1.0 - alpha) for kept in range(k)] + [alpha**k]
        left = [calls[max(0, n - kept - 1)] for kept in range(k + 1)]
        calls.append(1.0 + dot(chances, left))
    return sum(lengths) / sum([calls[n] for n in lengths])


def main() -> dict[str, object]:
    """Train target and draft; look for the mode; draw from tamer distributions; draw cheaper."""
    rng = random.Random(SEED)
    names = load_names()
    rng.shuffle(names)
    held_out, training, real = names[-NUM_HELD_OUT:], names[:-NUM_HELD_OUT], set(names)
    print(f"{len(names):,} names, {NUM_HELD_OUT:,} of them held out")
    print(f"\nTraining target and draft; knowing nothing costs ln 27 = {log(27):.2f} nats")
    target = train(TARGET_SIZE, TARGET_STEPS, training, rng)
    draft_reader = train(DRAFT_SIZE, DRAFT_STEPS, training, rng)
    readers = (target, draft_reader)
    p_rows, q_rows, typical = read_held_out(readers, held_out)
    chain = Chain(target)

    searches = search_all(chain)
    mean_letters = sum(map(len, held_out)) / len(held_out)
    hits, map_letters = report_searches(searches, typical, mean_letters)

    report_filters(chain)
    drawn = {r: [draw_text(chain, r, rng) for _ in range(NUM_SAMPLES)] for r in RECIPES}
    shares, gains = report_recipes(drawn, real)

    report_trace(readers, rng)
    errors = {
        title: [step_error(p, drawn_from(q), tested_with(q)) for p, q in zip(p_rows, q_rows)]
        for title, (drawn_from, tested_with) in DRAFTS.items()
    }
    runs = {title: speculate(readers, draft, GUESSES, rng) for title, draft in DRAFTS.items()}
    tests = {title: chi_square(chain, texts) for title, (texts, _) in runs.items()}
    plain = [plain_decode(target, rng) for _ in range(NUM_TESTED)]
    report_exactness(errors, runs, tests, chi_square(chain, plain))
    overlap = sum([sum(map(min, p, q)) for p, q in zip(p_rows, q_rows)]) / len(p_rows)
    costs = report_costs(readers, runs["drawn from q"], overlap, rng)
    headline = {
        "map_length_ratio": map_letters / mean_letters,
        "hits_gained": hits[f"beam {BEAM_WIDTHS[-1]}"] - hits[f"beam {BEAM_WIDTHS[0]}"],
        "real_gained": max(shares.values()) - shares[()],
        "step_error": max(errors["drawn from q"]),
        "chi_square_per_df": tests["drawn from q"][0],
        "symbols_per_call": costs[GUESSES]["per_call"],
    }
    report_conclusion(headline, hits, shares, gains, tests["greedy, tested with q"][0])
    return {**headline, "details": {"searches": searches, "shares": shares, "costs": costs}}


# === APPENDIX: REPORT AND HELPERS ===


def train(
    size: tuple[int, int], num_steps: int, names: Sequence[str], rng: random.Random
) -> CachedReader:
    """Train a GPT of this (width, heads) on the names, in order."""
    width, num_heads = size
    model = GPT(len(ALPHABET), CONTEXT, width, rng)
    optimizer = Adam(model.parameters(), betas=(0.9, 0.95))
    recent_losses = []
    for step in range(1, num_steps + 1):
        batch = names[(step - 1) * BATCH_SIZE : step * BATCH_SIZE]
        logits, targets = predict(model, num_heads, batch)
        loss = cross_entropy(logits, targets)
        loss.backward()
        optimizer.step(LEARNING_RATE * min(1.0, step / 10) * (1.0 - (step - 1) / num_steps))
        recent_losses.append(loss.item())
        if step % 50 == 0:
            mean = sum(recent_losses[-50:]) / 50
            print(f"step {step:4d}/{num_steps} | loss {mean:.4f}", flush=True)
    for parameter in model.parameters():
        parameter.requires_grad = False  # from here on it is only read
    return CachedReader(model, num_heads)


def real_at_temperature(curve: Sequence[tuple[float, float]], nats: float) -> float:
    """The share of real names that some temperature reaches at this entropy: a straight line
    between the two nearest of the temperatures' (nats, share).

    >>> round(real_at_temperature([(4.0, 0.6), (8.0, 0.4)], 5.0), 3)
    0.55
    """
    curve = sorted(curve)
    for (left, high), (right, low) in zip(curve, curve[1:]):
        if nats <= right or right == curve[-1][0]:
            return high + (low - high) * (nats - left) / (right - left)
    return curve[0][1]


def chi_square(chain: Chain, texts: Sequence[Text]) -> tuple[float, int]:
    """Of the first two symbols of the texts: chi-square / degrees of freedom, and the latter."""
    expected = {}
    for first, p in enumerate(chain.next((0,))):
        if first == 0:
            expected[(0, 0)] = p * len(texts)  # the empty name has one symbol only
            continue
        for second, p_second in enumerate(chain.next((0, first))):
            expected[(0, first, second)] = p * p_second * len(texts)
    counts = Counter(text[:3] for text in texts)
    # Cells that expect fewer than 5 names are counted together.
    large = [cell for cell, number in expected.items() if number >= 5.0]
    pairs = [(counts[cell], expected[cell]) for cell in large]
    rest = sum([number for number in expected.values() if number < 5.0])
    pairs.append((len(texts) - sum([count for count, _ in pairs]), rest))
    total = sum([(count - number) ** 2 / number for count, number in pairs])
    df = max(1, len(pairs) - 1)
    return total / df, df


def plain_decode(target: CachedReader, rng: random.Random) -> Text:
    """Draw one name in the ordinary way: one call of the target for each symbol."""
    text = [0]
    target.truncate(0)
    while not is_finished(text):
        text.append(draw(target.read(text)[0], rng))
    return tuple(text)


def speculate(
    readers: Readers, draft: Draft, k: int, rng: random.Random, count: int | None = None
) -> tuple[list[Text], Counter]:
    """Many names (NUM_TESTED) by speculative decoding, and the counts added up."""
    texts, counts = [], Counter()
    for _ in range(NUM_TESTED if count is None else count):
        text, more = speculative_decode(readers, draft, k, rng)
        texts.append(text)
        counts += more
    return texts, counts


def search_all(chain: Chain) -> dict[str, dict[str, tuple[Text, float, int]]]:
    """The result of every search for the empty prompt and each first letter."""
    results = {}
    for letter in ("", *ALPHABET[1:]):
        prompt = tuple(encode(letter)[:-1])
        results[letter] = {f"beam {w}": beam_search(chain, prompt, w) for w in BEAM_WIDTHS}
        results[letter]["best-first"] = best_first_search(chain, prompt)
    return results


def decode(text: Text) -> str:
    """Symbols as letters, without the marks.

    >>> decode((0, 1, 22, 1, 0))
    'ava'
    """
    return "".join([ALPHABET[symbol] for symbol in text if symbol != 0])


def show(text: Sequence[int]) -> str:
    """A finished name with its end mark as a dot.

    >>> show((0, 1, 22, 1, 0)), show((0, 0))
    ('ava.', '.')
    """
    return "".join([ALPHABET[symbol] for symbol in text[1:]])


def predict(model: GPT, num_heads: int, names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read names, all at once -> logits [N][27] for the N symbols that follow, and these symbols.
    (microgpt explains it.)
    """
    ids, positions, spans, targets = pack([encode(name) for name in names])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, num_heads, spans)

    return model.forward(ids, positions, attend), targets


def num_numbers(reader: CachedReader) -> int:
    """The numbers of a model."""
    return sum([len(p.data) * len(p.data[0]) for p in reader.model.parameters()])


def read_held_out(readers: Readers, names: Sequence[str]) -> tuple[list[Row], list[Row], float]:
    """p and q on at least NUM_CONTEXTS held-out contexts, each [27], and the names' mean log p."""
    few, total = [], 0
    for name in names:
        if total < NUM_CONTEXTS:
            few.append(name)
            total += len(name) + 1
    rows, nll = [], []
    for reader in readers:
        logits, targets = predict(reader.model, reader.num_heads, few)
        nll.append(cross_entropy(logits, targets).item())
        rows.append([softmax_row(row) for row in logits.data])
    print("\n            numbers   nats per symbol of held-out names")
    for title, reader, value in zip(("target", "draft"), readers, nll):
        print(f"{title:<8}{num_numbers(reader):>11,}{value:>20.3f}")
    return rows[0], rows[1], -nll[0] * total / len(few)


def report_searches(
    searches: dict[str, dict], typical: float, mean_letters: float
) -> tuple[dict[str, int], float]:
    """The texts found for some prompts -> for how many letters each method found the mode, and the
    mean number of letters of the modes.
    """
    methods = list(searches[""])
    shown = [methods[0], *methods[-3:]]
    titles = {method: "greedy" if method == "beam 1" else method for method in methods}
    print("\n1. THE MODE. The most probable name that begins with ...")
    print("begins  " + "".join([f"{titles[method]:<13}" for method in shown]) + "log p of the mode")
    for letter in SHOWN_PROMPTS:
        cells = [f"{show(searches[letter][method][0]):<13}" for method in shown]
        log_p = searches[letter]["best-first"][1]
        print(f"{letter or '(any)':<8}{''.join(cells)}{log_p:17.2f}")
    letters = [letter for letter in searches if letter]
    print(f"Over all {len(letters)} letters:")
    print("method        found the mode   short of its log p   contexts read   letters")
    hits = {}
    for method in methods:
        found = [searches[letter][method] for letter in letters]
        best = [searches[letter]["best-first"] for letter in letters]
        hits[method] = sum([a[0] == b[0] for a, b in zip(found, best)])
        short = sum([b[1] - a[1] for a, b in zip(found, best)]) / len(letters)
        contexts = sum([c for _, _, c in found]) / len(letters)
        length = sum([len(decode(text)) for text, _, _ in found]) / len(letters)
        row = f"{hits[method]:>14}{short:>21.3f}{contexts:>16.1f}{length:>10.1f}"
        print(f"{titles[method]:<14}{row}")
    text, log_p, _ = searches[""]["best-first"]
    mode = f'"{decode(text)}"' if decode(text) else "the empty name"
    print(f"The mode of all names is {mode}, with probability {exp(log_p):.2%}. Held-out names")
    print(f"have {mean_letters:.1f} letters, and their log p is {typical:.1f} on average.")
    return hits, length  # of the last method, best-first search


def report_filters(chain: Chain) -> None:
    """What each filter leaves of one distribution, in percent."""
    p = chain.next(tuple(encode(FILTERED_TEXT)[:-1]))
    top = sorted(range(len(p)), key=lambda symbol: -p[symbol])[:10]
    print(f'\n2. A TAMER DISTRIBUTION. What may follow "{FILTERED_TEXT}", in percent')
    print(" " * 19 + "".join([f"{ALPHABET[symbol]:>5}" for symbol in top]) + "   others")
    seen = set()
    for recipe in RECIPES:
        names = tuple(name for name, _ in recipe)
        if names in seen:
            continue  # one recipe of each kind is enough
        seen.add(names)
        row = apply_recipe(p, recipe)
        cells = "".join([f"{100 * row[s]:5.0f}" if row[s] else "    -" for s in top])
        others = 1.0 - sum([row[symbol] for symbol in top])
        print(f"{recipe_title(recipe):<19}{cells}{100 * others:9.0f}")


def recipe_title(recipe: Sequence[tuple[str, float]]) -> str:
    """A recipe in a few characters.

    >>> recipe_title((("temperature", 1.5), ("min_p", 0.1)))
    'T 1.5, min-p 0.1'
    """
    words = {"temperature": "T", "top_k": "top-k", "top_p": "top-p", "min_p": "min-p"}
    return ", ".join([f"{words[name]} {number}" for name, number in recipe]) or "p itself"


def report_recipes(
    drawn: dict[tuple, list[tuple[Text, float]]], real: set[str]
) -> tuple[dict[tuple, float], dict[tuple, float]]:
    """Table and picture -> by recipe: the share of real names, and how much more this is than a
    temperature gives at equal entropy (for recipes with a filter).
    """
    shares, nats = {}, {}
    for recipe, pairs in drawn.items():
        shares[recipe] = sum([decode(text) in real for text, _ in pairs]) / len(pairs)
        nats[recipe] = sum([value for _, value in pairs]) / len(pairs)
    heated = [r for r in drawn if all([name == "temperature" for name, _ in r])]
    curve = [(nats[r], shares[r]) for r in heated]
    gains = {r: shares[r] - real_at_temperature(curve, nats[r]) for r in drawn if r not in heated}
    print(f"\n{NUM_SAMPLES} names per recipe: real ones, different ones, nats of entropy, and real")
    print("names in points above the temperature of equal nats (uncertain by 3 to 4)")
    print("   recipe             real   diff.   nats   above   examples")
    for mark, (recipe, pairs) in zip(MARKS, drawn.items()):
        words = [decode(text) or "(empty)" for text, _ in pairs]
        examples = " ".join(words[:4])[:32].rsplit(" ", 1)[0]
        above = f"{100 * gains[recipe]:+8.0f}" if recipe in gains else " " * 8
        row = f"{shares[recipe]:>6.0%}{len(set(words)) / len(words):>8.0%}{nats[recipe]:>7.1f}"
        print(f"{mark}  {recipe_title(recipe):<17}{row}{above}   {examples}")
    print("\nReal names (up) against entropy in nats (right); temperatures in capitals")
    marks = [m.upper() if r in heated else m for m, r in zip(MARKS, drawn)]
    scatter(list(nats.values()), list(shares.values()), marks)
    return shares, gains


MARKS = "abcdefghijklmnopqrstuvwxyz"  # one for each recipe


def scatter(xs: Sequence[float], ys: Sequence[float], marks: Sequence[str]) -> None:
    """Print marks at points (x, y), both axes from 0 to their largest value."""
    width, height = 64, 12
    right, top = max(xs) or 1.0, max(ys) or 1.0
    grid = [[" "] * (width + 1) for _ in range(height + 1)]
    for x, y, mark in zip(xs, ys, marks):
        grid[height - round(y / top * height)][round(x / right * width)] = mark
    for i, line in enumerate(grid):
        label = f"{top * (height - i) / height:5.0%}" if i % 6 == 0 else " " * 5
        print(f"{label} |{''.join(line)}".rstrip())
    print(f"      +{'-' * (width + 1)}\n       0{right:>{width}.1f}")


def report_trace(readers: Readers, rng: random.Random) -> None:
    """One name, call by call."""
    trace: list = []
    while len(trace) < 3:  # a name that takes at least three calls
        trace.clear()
        text, _ = speculative_decode(readers, DRAFTS["drawn from q"], GUESSES, rng, trace)
    print(f"\n3. THE DISTRIBUTION ITSELF, CHEAPER. The name {show(text)} in {len(trace)} calls")
    print("of the target")
    for number, (guesses, kept, gained) in enumerate(trace, 1):
        last = "the end mark is kept"
        if kept < len(guesses):
            last = f"{ALPHABET[gained[-1]]} from the residual"
        elif len(gained) > kept:
            last = f"{ALPHABET[gained[-1]]} as the bonus"
        words = [
            " ".join([ALPHABET[symbol] for symbol in part]) for part in (guesses, gained[:kept])
        ]
        print(f"call {number}   guesses  {words[0]:<10} kept  {words[1]:<10} then  {last}")


def report_exactness(
    errors: dict[str, list[float]],
    runs: dict[str, tuple[list[Text], Counter]],
    tests: dict[str, tuple[float, int]],
    plain_test: tuple[float, int],
) -> None:
    """Is it p? One line per draft: the exact distance of a step, and the test of drawn names."""
    count = len(errors["greedy"])
    df = plain_test[1]
    print("\nIs it still p? Total variation between one step and p on held-out contexts")
    print(
        f"({count:,}), and chi-square/df of the first two symbols of {NUM_TESTED} names (df {df})"
    )
    print("draft                     mean     largest    kept    chi-square/df")
    print(f"{'none: plain drawing':<49}{plain_test[0]:>18.2f}")
    for title, distances in errors.items():
        counts = runs[title][1]
        mean = sum(distances) / len(distances)
        kept = counts["kept"] / counts["tested"]
        row = f"{mean:>8.1g}{max(distances):>12.1g}{kept:>8.0%}{tests[title][0]:>17.2f}"
        print(f"{title:<22}{row}")


def report_costs(
    readers: Readers, run: tuple[list[Text], Counter], overlap: float, rng: random.Random
) -> dict[int, dict[str, float]]:
    """Table over k: what is kept, symbols per call (measured and by formula), rows and loads. run:
    the names and counts for k = GUESSES.
    """
    size, small = map(num_numbers, readers)
    print(f"\nCost by k. A call of the target loads {size:,} numbers, one of the draft {small:,}.")
    print("           symbols per target call               per symbol written")
    print("k   kept   drawn   formula   and with ends   target rows   numbers loaded")
    print(f"0          {1:>5.2f}{1:>10.2f}{1:>16.2f}{1:>14.2f}{size:>17,}")
    costs = {}
    for k in GUESSES_COMPARED:
        draft = DRAFTS["drawn from q"]
        texts, counts = run if k == GUESSES else speculate(readers, draft, k, rng, NUM_COST)
        alpha = counts["kept"] / counts["tested"]
        loads = counts["calls"] * size + counts["guessed"] * small
        costs[k] = {
            "kept": alpha,
            "per_call": counts["symbols"] / counts["calls"],
            "formula": sum([alpha**i for i in range(k + 1)]),
            "with_ends": symbols_per_call(alpha, k, [len(text) - 1 for text in texts]),
            "rows": counts["rows"] / counts["symbols"],
            "loads": loads / counts["symbols"],
        }
        kept, per_call, formula, with_ends, rows, loads = costs[k].values()
        left = f"{k}{kept:>7.0%}{per_call:>8.2f}{formula:>10.2f}{with_ends:>16.2f}"
        print(f"{left}{rows:>14.2f}{loads:>17,.0f}")
    print(f"On the held-out contexts sum min(p, q) is {overlap:.0%} on average.")
    times = [time.perf_counter()]
    for draw_one in (
        lambda: plain_decode(readers[0], rng),
        lambda: speculative_decode(readers, DRAFTS["drawn from q"], GUESSES, rng),
    ):
        for _ in range(NUM_COST):
            draw_one()
        times.append(time.perf_counter())
    plain, speculative = [after - before for before, after in zip(times, times[1:])]
    print(f"time  {NUM_COST} names: plain {plain:.2f} s, with k = {GUESSES} {speculative:.2f} s")
    return costs


def report_conclusion(
    headline: dict[str, float],
    hits: dict[str, int],
    shares: dict[tuple, float],
    gains: dict[tuple, float],
    bug: float,
) -> None:
    """What the run has shown, in words."""
    ratio = headline["map_length_ratio"]
    verdict = "a bad name" if ratio < 0.7 else "no shorter than a name should be"
    print(f"\nThe most probable name is {verdict}: over the 26 first letters, the modes")
    print(f"have {ratio:.0%} of a real name's length.")
    few, many = [hits[f"beam {width}"] for width in (BEAM_WIDTHS[0], BEAM_WIDTHS[-1])]
    first = "Greedy decoding" if BEAM_WIDTHS[0] == 1 else f"A beam of {BEAM_WIDTHS[0]}"
    print(f"{first} finds {few} of them, a beam of {BEAM_WIDTHS[-1]} finds {many}.")
    if many > few and ratio < 0.7:
        print("The better the search, the worse the names.")
    best = max(shares, key=shares.get)
    own = f"{shares[()]:.0%} from the model as it is"
    print(f"Real names: {own}, {shares[best]:.0%} with {recipe_title(best)}.")
    mean = 100 * sum(gains.values()) / max(1, len(gains))
    than = "as many as" if abs(mean) < 2 else "more than" if mean > 0 else "fewer than"
    print(f"At equal variety the {len(gains)} recipes with a filter give {than} a temperature:")
    print(f"{mean:+.1f} points on average.")
    is_exact = headline["step_error"] < 1e-9 and headline["chi_square_per_df"] < 1.6
    verdict = "leaves the distribution as it is" if is_exact else "CHANGES the distribution"
    print(f"Speculative decoding {verdict}, and gives {headline['symbols_per_call']:.1f} symbols")
    print(f"per call of the target. Tested with the wrong q: chi-square/df {bug:,.0f}.")


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
