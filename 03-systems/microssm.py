"""A small recurrent state learns to count and to reset if its input decides what it keeps.

A state space model reads a sequence symbol by symbol and carries a fixed number of floats along,
its state. At every symbol each number of the state is multiplied by a share that is kept, and
something is added to it. In older models (S4) these shares are the same at every step. In Mamba
they are computed from the symbol: one symbol may pass without a trace, another may be added, a
third may erase everything before it. This is called selection, and this run tests what it is for.

The task is a counter: symbols arrive, "tick" adds one, "reset" sets the count to zero, most
symbols mean nothing. Three networks of one layer are trained on it: a selective state space layer,
the same layer with selection taken away, and attention. All train on sequences of 32 symbols and
are tested on sequences of up to 256. Look at three things: which of them can still count at 256;
what share of its state the trained layer keeps at each symbol; and then the price, in a second task
where every fact that was read must be recalled exactly. There attention wins. A hybrid, one
selective layer and then one of attention, recalls nearly as well; that it can also count was
recorded in a run of its own.

Then the trained layer is used in two ways: symbol by symbol with a state of constant size, and all
symbols at once with a parallel scan, which gives the same states (to rounding) in log2(T) rounds.

In the code    In the papers   Meaning                                                  Shape
u              x_t             what the layer may write, one row per symbol             [T][D]
delta          Delta_t         step size: how much this symbol counts, > 0              [T][D]
A              A               decay rates, always negative                             [N][D]
B, C           B_t, C_t        where to write in the state, and where to read           [T][N]
h              h_t             the state: N numbers for each of D channels              [N][D]
kept           exp(Delta A)    share of the state that survives a symbol, 0 to 1        [N][D]
firsts         -               for each row: the row at which its sequence begins       [T]

T is the number of rows, one per symbol; E below is the number of entries in a row between layers.

Mamba writes A and h as [D][N], and x for our u; we call x what enters the layer, as in microgpt.

What is left out: what else is in Mamba's block (a short convolution and a SiLU before the scan, a
SiLU gate after it, a term D x_t past it, twice as many channels as E); the MLP behind attention;
many blocks; A as one number per head, and the matrix form built on it (Mamba-2); language.

A number marked [results: ...] was recorded, most of them in a run with one thing changed and one
seed (seed_42 is the run as it stands). It is in results/microssm.json under that key.

Read first: micrornn, microgpt.

Papers: Gu, Goel & Re, "Efficiently Modeling Long Sequences with Structured State Spaces", 2021,
arXiv:2111.00396 (S4). Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State
Spaces", 2023, arXiv:2312.00752. Dao & Gu, "Transformers are SSMs", 2024, arXiv:2405.21060
(Mamba-2). Arora et al., "Zoology: Measuring and Improving Recall in Efficient Language Models",
2023, arXiv:2312.04927. Jelassi et al., "Repeat After Me: Transformers are Better than State Space
Models at Copying", 2024, arXiv:2402.01032. Lieber et al., "Jamba", 2024, arXiv:2403.19887. Press,
Smith & Lewis, "Train Short, Test Long", 2021, arXiv:2108.12409 (ALiBi). Hillis & Steele, "Data
Parallel Algorithms", 1986.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import exp, log
from operator import add, mul, sub
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
# The counter: how often each symbol comes. Resets are rare, so a count must be held for long.
SYMBOLS = ".+R"  # idle, tick, reset
FREQUENCIES = (0.74, 0.20, 0.06)
HIGHEST = 4  # the count stops here: five classes, 0 to 4
LENGTH = 32  # symbols in a training sequence
TEST_SYMBOLS = 2560  # for each test length, cut into whole sequences
TEST_LENGTHS = (LENGTH, 3 * LENGTH, 8 * LENGTH)

# Recall: facts "key = value", then questions.
NUM_KEYS = 16
NUM_VALUES = 8
NUM_QUESTIONS = 4
MOST_FACTS = 12  # a training sequence holds 2 to 12 facts
TEST_FACTS = (2, 4, 8, MOST_FACTS)
NUM_RECALL_TESTS = 100  # sequences for each number of facts, four questions in each

WIDTH = 16  # E: entries of a row between the layers
CHANNELS = 16  # D
STATES = 4  # N: numbers of the state for each channel
# Attention: one head for each slope. On the counter one head looks at the near past, one further
# back. Facts have no order, so recall needs no bias for distance; one head is enough there.
ALIBI_SLOPES = (0.5, 0.125)
NO_BIAS = (0.0,)
NUM_LAYERS = 1  # layers of each network, except the hybrid: it has one of each kind
BATCH_SIZE = 4  # sequences per step
COUNTER_STEPS = 200
RECALL_STEPS = 200
# At the first step; it falls to 0 in a straight line. For the rivals several others were tried, on
# other seeds, and none was clearly better.
LEARNING_RATE = 0.02
COUNTER_KINDS = ("selective", "LTI", "attention")  # add "hybrid", if you have the time

STREAM = 2000  # symbols that the trained network reads one by one
SCAN_LENGTHS = (32, 64, 128, 256)  # for the growth of work and depth
ODD_LENGTH = 100  # the parallel scan must also be right where T is no power of two

# === THE TASK: COUNT, AND RESET ===

# At every symbol the network must say how many ticks came since the last reset (4 means "4 or
# more"). Symbols before the first reset are not scored: there the answer is not defined. The
# answer is certain, so the best possible accuracy is 1. The rival that knows nothing always names
# the commonest count.


class Batch(NamedTuple):
    """Sequences laid end to end, one row per symbol."""

    bags: list[list[int]]  # which embeddings are added up for each row
    firsts: list[int]  # for each row: the row at which its sequence begins
    scored: list[int]  # the rows that have an answer
    answers: list[int]  # for each scored row


def counts_of(symbols: str) -> list[int | None]:
    """The right answer at every symbol; None before the first reset.

    >>> counts_of("+R.++R+")
    [None, 0, 0, 1, 2, 0, 1]
    """
    count, answers = None, []
    for symbol in symbols:
        if symbol == "R":
            count = 0
        elif symbol == "+" and count is not None:
            count = min(count + 1, HIGHEST)
        answers.append(count)
    return answers


def counter_batch(count: int, length: int, rng: random.Random) -> Batch:
    """Draw `count` sequences of `length` symbols."""
    texts = ["".join(rng.choices(SYMBOLS, FREQUENCIES, k=length)) for _ in range(count)]
    answers = [answer for text in texts for answer in counts_of(text)]
    return Batch(
        bags=[[SYMBOLS.index(symbol)] for text in texts for symbol in text],
        firsts=[n * length for n in range(count) for _ in range(length)],
        scored=[row for row, answer in enumerate(answers) if answer is not None],
        answers=[answer for answer in answers if answer is not None],
    )


# === THE SELECTIVE STATE SPACE LAYER ===

# A state space model begins as a differential equation, h' = A h + B u, with the output y = C h.
# Here, as in Mamba, A is diagonal and negative: every number of the state fades at its own rate.
# To feed it symbols it is solved for a stretch of time delta during which u stays as it is:
#
#     h_t = exp(delta A) h_(t-1) + delta B u_t          y_t = C h_t
#
# The decay is exact (zero-order hold), so it lies between 0 and 1 for any delta > 0. The simpler
# Euler step, 1 + delta A, would be -2 for delta A = -3, and a state would swing and grow. What is
# written does take the Euler form, delta B u, as in Mamba's code: no power of it is ever taken.
#
# Now delta is the gate. As delta goes to 0 nothing is written and all is kept: the symbol is
# ignored. For a large delta exp(delta A) is almost 0: the old state is erased and the new part
# takes its place. (With A = -1 and delta = softplus(z) the share kept is 1 - sigmoid(z), as in a
# gated RNN: theorem 1 of Mamba.) In a linear time-invariant model (LTI) delta, B and C are learned
# constants; in a selective one they are computed from u at every symbol. That is all.
#
# The counter needs one channel with one number, and can be set by hand, with A = -1. (The trained
# layer need not count in the same way: the run shows what one of its numbers does.)
#
#     symbol   delta     u       exp(-delta)   the state
#     idle     0         0       1             stays
#     tick     0.001     1000    0.999         loses 0.1%, then gains delta u = 1
#     reset    50        0       2e-22         is erased


def scan_step(
    h: list[list[float]],
    u: list[float],
    delta: list[float],
    A: list[list[float]],
    B: list[float],
    C: list[float],
) -> tuple[list[list[float]], list[float], list[list[float]]]:
    """Read one symbol: h [N][D], u and delta [D], A [N][D], B and C [N] -> h, y [D], kept [N][D].

    Tick, tick, reset, tick by the table above:
    >>> h = [[0.0]]
    >>> for u, delta in ((1000.0, 0.001), (1000.0, 0.001), (0.0, 50.0), (1000.0, 0.001)):
    ...     h, y, kept = scan_step(h, [u], [delta], [[-1.0]], [1.0], [1.0])
    ...     print(round(y[0], 3))
    1.0
    1.999
    0.0
    1.0
    """
    kept = [list(map(exp, map(mul, delta, rates))) for rates in A]
    written = list(map(mul, delta, u))
    h = [
        [k * old + b * w for k, old, w in zip(k_row, h_row, written)]
        for k_row, h_row, b in zip(kept, h, B)
    ]
    y = [dot(C, column) for column in zip(*h)]
    return h, y, kept


# selective_scan is scan_step for all rows, as one operation with a gradient, which the first
# appendix derives. embedding_bag adds up rows of a table, linear(x, w) is x times w transposed,
# rms_norm gives rows a root mean square of 1, elementwise takes a function and then its slope.


class StateSpaceLayer:
    """x + scan(x): the selective scan of Mamba's block, between two linear maps.

    Gu & Dao, arXiv:2312.00752, algorithm 2 (S6) if selective, else algorithm 1 (S4).
    """

    def __init__(self, selective: bool, rng: random.Random) -> None:
        self.selective = selective
        self.w_u = random_matrix(CHANNELS, WIDTH, rng)
        self.w_B = random_matrix(STATES, CHANNELS, rng)
        self.w_C = random_matrix(STATES, CHANNELS, rng)
        # delta has D numbers, but passes through a single one (dt_rank = 1): the layer decides
        # how important a symbol is, and each channel how it takes that.
        self.w_importance = random_matrix(1, CHANNELS, rng)
        self.w_delta = random_matrix(CHANNELS, 1, rng)
        # At first the bias alone makes delta 0.001 to 0.1, by channel: much of the state survives
        # many symbols, and gradients reach far back. softplus is inverted to get there.
        sizes = [exp(rng.uniform(log(0.001), log(0.1))) for _ in range(CHANNELS)]
        self.delta_bias = Tensor([[size + log(-math.expm1(-size)) for size in sizes]])
        # A = -exp(A_log) can never turn positive. At first it is -1, -2, ..., -N, as in Mamba.
        self.A_log = Tensor([[log(n + 1)] * CHANNELS for n in range(STATES)])
        self.w_out = random_matrix(WIDTH, CHANNELS, rng)

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        """x [T][E] -> u, delta, A, B, C for the scan."""
        u = linear(rms_norm(x), self.w_u)
        # What chooses? With selection the symbol itself. Without it a row of ones, so the same
        # matrices give the same delta, B and C at every step: an LTI model of the same size.
        ones = Tensor([[1.0] * CHANNELS] * len(u.data), requires_grad=False)
        chooser = u if self.selective else ones
        importance = linear(chooser, self.w_importance)
        raw = linear(importance, self.w_delta, self.delta_bias)
        delta = elementwise(raw, softplus, lambda z, _: sigmoid_of(z))
        B, C = linear(chooser, self.w_B), linear(chooser, self.w_C)
        A = elementwise(self.A_log, lambda a: -exp(a), lambda _, rate: rate)
        return u, delta, A, B, C

    def forward(self, x: Tensor, firsts: Sequence[int]) -> Tensor:
        """All rows: x [T][E] -> [T][E]. A sequence begins with a state of zeros."""
        return x + linear(selective_scan(*self.project(x), firsts), self.w_out)

    def step(self, x: Tensor, h: list[list[float]]) -> tuple[Tensor, list[list[float]]]:
        """The next row alone: x [1][E] and the state -> [1][E] and the new state."""
        u, delta, A, B, C = self.project(x)
        h, y, _ = scan_step(h, u.data[0], delta.data[0], A.data, B.data[0], C.data[0])
        return x + linear(Tensor([y]), self.w_out), h


# Why can the LTI layer not reset? With constant decay its state is h_t = sum_s exp(delta A)^(t-s)
# delta B u_s: what a tick is worth now depends on its age alone. Whether a reset stood in between
# changes nothing about it. Such a sum is a convolution, which FFTs compute fast, and this is how
# S4 trains. With selection it no longer is one: the decays differ from step to step. "SSMs are
# just convolutions" is true of S4 and false of Mamba, which needs a scan.


class AttentionLayer:
    """x + attention(x), as in microgpt, with a bias for distance instead of learned places.

    Learned places would end at the training length. ALiBi takes slope * distance off each score,
    with a slope of its own for every head, and was made to work beyond the training length.
    """

    def __init__(self, slopes: Sequence[float], rng: random.Random) -> None:
        self.slopes = slopes  # one per head; zero: the head does not know the order
        weights = [random_matrix(WIDTH, WIDTH, rng) for _ in range(4)]
        self.query, self.key, self.value, self.out = weights

    def forward(self, x: Tensor, firsts: Sequence[int]) -> Tensor:
        """All rows: x [T][E] -> [T][E]. A row reads its own sequence, up to itself."""
        normed = rms_norm(x)
        q, k, v = [linear(normed, weight) for weight in (self.query, self.key, self.value)]
        # -slope (i - j) = slope j - slope i, and the softmax over j does not see what depends on i
        # alone. So the bias is one more column for each head: slope j in k, and in q the root of
        # the number of columns, by which attention divides each score.
        num_heads = len(self.slopes)
        undo = math.sqrt(WIDTH // num_heads + 1)
        places = [row - first for row, first in enumerate(firsts)]
        q = widen(q, [[undo] * num_heads for _ in places])
        k = widen(k, [[slope * place for slope in self.slopes] for place in places])
        spans = [(first, row + 1) for row, first in enumerate(firsts)]
        return x + linear(scaled_dot_product_attention(q, k, v, num_heads, spans), self.out)


class Network:
    """Embeddings, layers, and a linear map to the classes.

    There is no norm before the head: it would take away the output's size, which can be the count.
    """

    def __init__(self, num_ids: int, layers: list, num_classes: int, rng: random.Random) -> None:
        self.table = Tensor([[rng.gauss(0.0, 1.0) for _ in range(WIDTH)] for _ in range(num_ids)])
        self.layers = layers
        self.head = random_matrix(num_classes, WIDTH, rng)

    def parameters(self) -> list[Tensor]:
        """Everything that training may change."""
        inside = [vars(layer).values() for layer in self.layers]
        matrices = [value for values in inside for value in values if isinstance(value, Tensor)]
        return [self.table, *matrices, self.head]

    def forward(self, batch: Batch) -> Tensor:
        """A batch -> logits [scored rows][classes]."""
        x = embedding_bag(self.table, batch.bags)
        for layer in self.layers:
            x = layer.forward(x, batch.firsts)
        return linear(embedding(x, batch.scored), self.head)


# === TRAINING ===

# All networks get the same kind of batches, optimiser and rate. Is one layer too little for the
# rivals? In one run with two layers each, attention gains: 0.902 [results: two_layers.attention]
# at 256 symbols. The selective layers reach 0.907 [results: two_layers.selective], less than one
# of them here, so the two are close: "attention cannot count" would be too much to say. The LTI
# layers, at 0.739 [results: two_layers.lti], do not gain.


def train(network: Network, draw: Callable[[], Batch], num_steps: int, title: str) -> None:
    """Train on fresh batches from draw(), so that no sequence can be learned by heart."""
    size = sum(len(p.data) * len(p.data[0]) for p in network.parameters())
    print(f"\nTraining {title}: {size:,} numbers")
    start = time.perf_counter()
    # beta2 = 0.99: squares are averaged over about 100 steps, since there are only 200.
    optimizer = Adam(network.parameters(), betas=(0.9, 0.99))
    recent: list[tuple[float, float]] = []
    for step in range(1, num_steps + 1):
        batch = draw()
        logits = network.forward(batch)
        loss = cross_entropy(logits, batch.answers)
        loss.backward()
        optimizer.step(LEARNING_RATE * (1.0 - (step - 1) / num_steps))
        recent.append((loss.item(), share_right(logits, batch.answers)))
        if step % max(1, num_steps // 4) == 0:
            mean_loss, right = [sum(values) / len(recent) for values in zip(*recent)]
            line = f"step {step:4d}/{num_steps} | loss {mean_loss:.3f} | accuracy {right:.2f}"
            print(line, flush=True)
            recent.clear()
    print(f"time  {time.perf_counter() - start:.1f} s")


def share_right(logits: Tensor, answers: Sequence[int]) -> float:
    """How often the largest logit of a row is that of the answer."""
    guesses = [row.index(max(row)) for row in logits.data]
    return sum(guess == answer for guess, answer in zip(guesses, answers)) / len(answers)


# === THE PRICE: EXACT RECALL ===

# The other side. A sequence holds facts, each in one row (the sum of a key's and a value's
# embedding), then four questions, rows with one of these keys and a question mark for the value.
# Attention keeps all rows, in a memory that grows with them, and a question finds its key there.
# The state space layer must have written everything into its N x D numbers before it knows what
# will be asked. A gate that erases is no help: nothing may be forgotten.
#
# Is it the size of the state, or the training? A state set by hand tells: B and C are a vector for
# the key, u is 1 / delta in channel `value` and 0 elsewhere, and delta is tiny, so that nothing
# fades. Then y = C h adds up, for each value, how well its keys agree with the one that is asked
# for. With N = 16 each key has a direction of its own and recall is perfect. With N = 4, as in the
# trained layer, sixteen keys must share four dimensions (as corners of a hypercube, one choice of
# many), and what was read disturbs what is asked. But the trained layer guesses even with 2 facts,
# where N = 4 is enough: so this run shows a limit of training first, of the size only by hand.


def recall_batch(count: int, num_facts: int | None, rng: random.Random) -> Batch:
    """Draw `count` sequences of num_facts facts (None: 2 to MOST_FACTS) with different keys, then
    NUM_QUESTIONS questions. Embeddings: keys first, then values, and the question mark last.
    """
    num_facts = num_facts or rng.randint(2, MOST_FACTS)
    batch = Batch([], [], [], [])
    for _ in range(count):
        first = len(batch.bags)
        keys = rng.sample(range(NUM_KEYS), num_facts)
        values = [rng.randrange(NUM_VALUES) for _ in keys]
        asked = rng.choices(range(num_facts), k=NUM_QUESTIONS)
        batch.bags.extend([key, NUM_KEYS + value] for key, value in zip(keys, values))
        batch.scored.extend(range(len(batch.bags), len(batch.bags) + NUM_QUESTIONS))
        batch.bags.extend([keys[i], NUM_KEYS + NUM_VALUES] for i in asked)
        batch.answers.extend(values[i] for i in asked)
        batch.firsts.extend([first] * (num_facts + NUM_QUESTIONS))
    return batch


# === INFERENCE, SYMBOL BY SYMBOL ===

# A trained network reads a stream. Each step costs the same and the memory stays as it is: the
# N x D numbers of the state, whatever the length of the past. Attention's cache of keys and values
# grows by two rows for every symbol. (Training is not free: all states are kept, or computed twice;
# see the first appendix.) In production mamba_ssm.Mamba(d_model, d_state, d_conv, expand) is the
# block; its InferenceParams hold this state and the last few rows for the convolution.


def read_stream(network: Network, batch: Batch) -> list[list[float]]:
    """The logits of all scored rows of one sequence, read row by row: nothing is kept but h."""
    states = [[[0.0] * CHANNELS for _ in range(STATES)] for _ in network.layers]
    scored, logits = set(batch.scored), []
    for row, bag in enumerate(batch.bags):
        x = embedding_bag(network.table, [bag])
        for i, layer in enumerate(network.layers):
            x, states[i] = layer.step(x, states[i])
        if row in scored:
            logits.append(linear(x, network.head).data[0])
    return logits


# === ALL SYMBOLS AT ONCE: THE PARALLEL SCAN ===

# h_t = k_t h_(t-1) + w_t looks sequential: T steps, each waiting for the one before. But two steps
# in a row are one step of the same form: k2 (k1 h + w1) + w2 = (k1 k2) h + (k2 w1 + w2). So steps
# can be combined, and since it does not matter which neighbours are combined first (the operation
# is associative), many can be combined at the same time. Mamba's CUDA kernel uses such a scan.


def combine(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Two steps (k, w) as one: h -> k h + w.

    >>> combine((0.5, 3.0), (2.0, 1.0))  # 2 (0.5 h + 3) + 1
    (1.0, 7.0)
    """
    return first[0] * second[0], second[0] * first[1] + second[1]


def scan_sequential(steps: Sequence[tuple[float, float]]) -> tuple[list[float], int, int]:
    """One after the other -> the states [T], the number of combinations, and of rounds."""
    total, states = steps[0], [steps[0][1]]
    for step in steps[1:]:
        total = combine(total, step)
        states.append(total[1])
    return states, len(steps) - 1, len(steps) - 1


def scan_parallel(steps: Sequence[tuple[float, float]]) -> tuple[list[float], int, int]:
    """Hillis & Steele: the same results, where all combinations of a round can run at once.

    After the first round an entry covers up to 2 steps, after the second 4, then 8, ... so
    log2(T) rounds are enough, rounded up.

    >>> scan_parallel([(0.5, 1.0)] * 4)
    ([1.0, 1.5, 1.75, 1.875], 5, 2)
    """
    entries, reach, work, rounds = list(steps), 1, 0, 0
    while reach < len(entries):
        # A new list, since every combination of a round reads the entries of the round before.
        combined = [combine(left, right) for left, right in zip(entries, entries[reach:])]
        entries = entries[:reach] + combined
        work += len(combined)
        rounds += 1
        reach *= 2
    return [state for _, state in entries], work, rounds


# Sequential is the least work; Hillis and Steele's scan does about log2(T) - 1 times as much, in
# few rounds. (Blelloch's needs about twice the least work in 2 log2(T) rounds.) Python combines one
# by one, so this run can only count both; on idle parallel hardware the rounds take the time.
# Unrolled, y_t = sum_s C_t (kept_(s+1) ... kept_t) B_s (delta_s u_s): attention without a softmax,
# C as query, B as key, decays as mask. Mamba-2 does this inside chunks, as matrix products.


# === THE EXPERIMENT ===

# Both tasks, the gate, then inference. Which part must be chosen by the symbol? With B and C
# chosen but delta fixed the accuracy at 256 symbols is 0.747 [results: fixed_delta.selective],
# with nothing chosen 0.754 [results: seed_42.lti]: without the gate the rest is no help. The hybrid
# is trained on recall only, to save time. In a run that trains it on the counter too, the lower of
# its two accuracies (at 256 symbols, with 12 facts) is 0.990 [results: hybrid_counts.hybrid].
# Such stacks are in use: Jamba has one attention layer for seven of Mamba's.


def make_layers(kind: str, slopes: Sequence[float], rng: random.Random) -> list:
    """The layers of a network: "selective", "LTI", "attention", or one of each: "hybrid"."""
    if kind == "hybrid":
        # Attention needs no bias for distance here: the scan before it can tell it the order.
        return [StateSpaceLayer(True, rng), AttentionLayer(NO_BIAS, rng)]
    if kind == "attention":
        return [AttentionLayer(slopes, rng) for _ in range(NUM_LAYERS)]
    return [StateSpaceLayer(kind == "selective", rng) for _ in range(NUM_LAYERS)]


def run_counter(rng: random.Random) -> tuple[dict[str, Network], dict[str, list[float]]]:
    """Train all kinds of network on the counter -> networks, accuracies by TEST_LENGTHS."""
    tests = [counter_batch(TEST_SYMBOLS // length, length, rng) for length in TEST_LENGTHS]
    most = [max(map(test.answers.count, range(HIGHEST + 1))) for test in tests]
    shares = [count / len(test.answers) for count, test in zip(most, tests)]
    networks, accuracies = {}, {"commonest count": shares}
    for kind in COUNTER_KINDS:
        network = Network(len(SYMBOLS), make_layers(kind, ALIBI_SLOPES, rng), HIGHEST + 1, rng)
        draw = partial(counter_batch, BATCH_SIZE, LENGTH, rng)
        train(network, draw, COUNTER_STEPS, f"{kind} on the counter")
        networks[kind] = network
        accuracies[kind] = [share_right(network.forward(t), t.answers) for t in tests]
    accuracies["set by hand"] = [counter_by_hand(test) for test in tests]
    return networks, accuracies


def run_recall(rng: random.Random) -> dict[str, list[float]]:
    """Train on recall, and set a state by hand -> accuracies by TEST_FACTS."""
    tests = [recall_batch(NUM_RECALL_TESTS, num_facts, rng) for num_facts in TEST_FACTS]
    accuracies = {"guessing": [1.0 / NUM_VALUES] * len(tests)}
    for kind in ("selective", "attention", "hybrid"):
        layers = make_layers(kind, NO_BIAS, rng)
        network = Network(NUM_KEYS + NUM_VALUES + 1, layers, NUM_VALUES, rng)
        draw = partial(recall_batch, BATCH_SIZE, None, rng)
        train(network, draw, RECALL_STEPS, f"{kind} on recall")
        accuracies[kind] = [share_right(network.forward(t), t.answers) for t in tests]
    corners = [[1.0 - 2.0 * (key >> bit & 1) for bit in range(4)] for key in range(NUM_KEYS)]
    own = [[float(key == n) for n in range(NUM_KEYS)] for key in range(NUM_KEYS)]
    for directions in (corners, own):
        title = f"by hand, N = {len(directions[0])}"
        accuracies[title] = [recall_by_hand(test, directions) for test in tests]
    return accuracies


def main() -> dict[str, object]:
    """Train on both tasks, look at the gate, then use the trained layer in two ways."""
    rng = random.Random(SEED)
    report_task(rng)
    networks, counter = run_counter(rng)
    report_accuracies("The counter, by length", "symbols", TEST_LENGTHS, counter)
    text = "R" + "".join(rng.choices(SYMBOLS, FREQUENCIES, k=59))
    gates = {kind: report_gate(kind, networks[kind], text) for kind in ("selective", "LTI")}
    recall = run_recall(rng)
    report_accuracies("Recall, by the number of facts", "facts", TEST_FACTS, recall)

    selective = networks["selective"]
    stream = counter_batch(1, STREAM, rng)
    whole, stepped = selective.forward(stream).data, read_stream(selective, stream)
    step_error = largest_difference(whole, stepped)
    report_stream(stream, stepped, step_error)
    scan_error = report_growth(*measure_scans(selective, rng))
    headline = {
        "selective": counter["selective"][-1],
        "lti": counter["LTI"][-1],
        "attention": counter["attention"][-1],
        "recall_gap": recall["attention"][-1] - recall["selective"][-1],
        "hybrid": min(recall["hybrid"][-1], counter.get("hybrid", [1.0])[-1]),
        "error": max(step_error, scan_error),
    }
    report_conclusion(headline, counter, recall)
    return {**headline, "details": {"counter": counter, "recall": recall, "gates": gates}}


# === APPENDIX: THE SCAN AS ONE OPERATION, AND ITS GRADIENT ===

# Write g_t for dL/dh_t. In h_t = kept_t h_(t-1) + (delta_t u_t) B_t and y_t = C_t h_t
# the state affects the loss through y_t and through the next state, so
#
#     g_t = C_t dy_t + kept_(t+1) g_(t+1)              itself a scan, from right to left
#     dC_t = sum_d h_t dy_t                            dB_t = sum_d g_t delta_t u_t
#     d(delta_t u_t) = sum_n g_t B_t                   hence du_t, and a part of ddelta_t
#     d(delta_t A) = g_t h_(t-1) kept_t                since the slope of exp is exp; hence dA and
#                                                      the other part of ddelta_t
#
# All states must be kept for this. Mamba's CUDA kernel (selective_scan_fn in mamba_ssm) does not
# write them to main memory: it computes them again on the way back, in the chip's fast memory.


def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, firsts: Sequence[int]
) -> Tensor:
    """u, delta [T][D], A [N][D], B, C [T][N] -> y [T][D]; h starts at zero in every sequence."""
    zeros = [[0.0] * len(u.data[0]) for _ in A.data]
    y, before, after, kept = [], [], [], []
    h = zeros
    rows = zip(u.data, delta.data, B.data, C.data)
    for t, (u_row, delta_row, b_row, c_row) in enumerate(rows):
        before.append(zeros if firsts[t] == t else h)
        h, y_row, kept_rows = scan_step(before[-1], u_row, delta_row, A.data, b_row, c_row)
        y.append(y_row)
        after.append(h)
        kept.append(kept_rows)

    def pass_back(d_y: list[list[float]]) -> tuple:
        d_u, d_delta, d_B, d_C = [], [], [], []
        d_A = from_right = zeros
        for t in range(len(d_y) - 1, -1, -1):
            u_row, delta_row, d_row = u.data[t], delta.data[t], d_y[t]
            g = [
                [c * d + right for d, right in zip(d_row, right_row)]
                for c, right_row in zip(C.data[t], from_right)
            ]
            written = list(map(mul, delta_row, u_row))
            d_C.append([dot(h_row, d_row) for h_row in after[t]])
            d_B.append([dot(g_row, written) for g_row in g])
            d_written = [dot(B.data[t], column) for column in zip(*g)]
            to_left = [list(map(mul, *rows)) for rows in zip(g, kept[t])]
            d_exponent = [list(map(mul, *rows)) for rows in zip(to_left, before[t])]
            d_A = [
                [total + d * size for total, d, size in zip(total_row, d_exp, delta_row)]
                for total_row, d_exp in zip(d_A, d_exponent)
            ]
            by_decay = [dot(*columns) for columns in zip(zip(*d_exponent), zip(*A.data))]
            d_delta.append([d * x + rest for d, x, rest in zip(d_written, u_row, by_decay)])
            d_u.append(list(map(mul, d_written, delta_row)))
            from_right = zeros if firsts[t] == t else to_left
        return d_u[::-1], d_delta[::-1], d_A, d_B[::-1], d_C[::-1]

    return Tensor(y, (u, delta, A, B, C), pass_back)


# === APPENDIX: REPORT AND HELPERS ===


def random_matrix(rows: int, columns: int, rng: random.Random) -> Tensor:
    """[rows][columns] with standard deviation 1 / sqrt(columns): products keep their size."""
    spread = columns**-0.5
    return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])


def widen(x: Tensor, extra: list[list[float]]) -> Tensor:
    """Put one constant behind each head's columns: x [T][H*d], extra [T][H] -> [T][H*(d+1)].

    >>> widen(Tensor([[1.0, 2.0, 3.0, 4.0]]), [[8.0, 9.0]]).data
    [[1.0, 2.0, 8.0, 3.0, 4.0, 9.0]]
    """
    heads = len(extra[0])
    columns = [[[value] for value in column] for column in zip(*extra)]
    parts = [part for pair in zip(split_heads(x.data, heads), columns) for part in pair]

    def pass_back(d_out: list[list[float]]) -> tuple:
        return (join_heads([[row[:-1] for row in head] for head in split_heads(d_out, heads)]),)

    return Tensor(join_heads(parts), (x,), pass_back)


def counter_by_hand(batch: Batch) -> float:
    """Accuracy of the one-number state from the table in THE SELECTIVE STATE SPACE LAYER."""
    table = {".": (0.0, 0.0), "+": (1000.0, 0.001), "R": (0.0, 50.0)}
    rows = [table[SYMBOLS[bag[0]]] for bag in batch.bags]
    u, delta = [Tensor([[row[i]] for row in rows], requires_grad=False) for i in (0, 1)]
    ones = Tensor([[1.0]] * len(rows), requires_grad=False)
    y = selective_scan(u, delta, Tensor([[-1.0]], requires_grad=False), ones, ones, batch.firsts)
    guesses = [min(round(y.data[row][0]), HIGHEST) for row in batch.scored]
    return sum(map(int.__eq__, guesses, batch.answers)) / len(guesses)


def recall_by_hand(batch: Batch, directions: Sequence[Sequence[float]]) -> float:
    """Accuracy of the scan with weights set by hand; directions[key] [N] is where a key is kept."""
    tiny = 1e-6
    u, delta = [], []
    for _, symbol in batch.bags:
        is_fact = symbol < NUM_KEYS + NUM_VALUES
        value = symbol - NUM_KEYS
        u.append([1.0 / tiny if is_fact and i == value else 0.0 for i in range(NUM_VALUES)])
        delta.append([tiny if is_fact else 0.0] * NUM_VALUES)
    places = [list(directions[key]) for key, _ in batch.bags]
    rates = [[-1.0] * NUM_VALUES for _ in directions[0]]
    inputs = [Tensor(rows, requires_grad=False) for rows in (u, delta, rates, places, places)]
    y = selective_scan(*inputs, batch.firsts)
    return share_right(embedding(y, batch.scored), batch.answers)


def steps_of(layer: StateSpaceLayer, x: Tensor) -> list[list[tuple[float, float]]]:
    """What a layer does to each number of its state, as steps (k, w): [N * D][T]."""
    u, delta, A, B, _ = [tensor.data for tensor in layer.project(x)]
    return [
        [
            (exp(delta_row[d] * A[n][d]), delta_row[d] * u_row[d] * b_row[n])
            for u_row, delta_row, b_row in zip(u, delta, B)
        ]
        for n in range(STATES)
        for d in range(CHANNELS)
    ]


def largest_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest difference between two entries at the same place."""
    return max(abs(x - y) for row_a, row_b in zip(a, b) for x, y in zip(row_a, row_b))


def report_task(rng: random.Random) -> None:
    """What is to be learned, in one example."""
    text = "".join(rng.choices(SYMBOLS, FREQUENCIES, k=LENGTH))
    print("Count the ticks (+) since the last reset (R). A dot means nothing.")
    print(f"reads   {text}")
    print(f"count   {count_line(text)}")


def count_line(text: str) -> str:
    """The right answers, one character each; a blank before the first reset."""
    return "".join([" " if count is None else str(count) for count in counts_of(text)])


def report_accuracies(
    title: str, unit: str, sizes: Sequence[int], accuracies: dict[str, list[float]]
) -> None:
    """One line per model, one column per size."""
    print(f"\n{title}: share of right answers")
    print(f"{unit:<20}" + "".join([f"{size:>8}" for size in sizes]))
    for name, values in accuracies.items():
        print(f"{name:<20}" + "".join([f"{value:8.3f}" for value in values]))


def report_gate(kind: str, network: Network, text: str) -> dict[str, tuple[float, float]]:
    """Show a trained state at work -> (share kept, amount added) for each symbol, by the number of
    the state whose share kept falls most from an idle symbol to a reset.
    """
    ids = [SYMBOLS.index(symbol) for symbol in text]
    numbers = steps_of(network.layers[0], embedding(network.table, ids))
    idle, reset = text.index("."), text.index("R")
    most = max(numbers, key=lambda steps: steps[idle][0] - steps[reset][0])
    states = scan_sequential(most)[0]
    batch = Batch([[i] for i in ids], [0] * len(ids), list(range(len(ids))), [])
    says = [str(row.index(max(row))) for row in network.forward(batch).data]
    if most[idle][0] - most[reset][0] > 1e-9:
        print(f"\nInside the trained {kind} layer: of the {len(numbers)} numbers of its state, h")
        print("is the one whose share kept falls most from a dot to a reset.")
    else:
        print(f"\nInside the trained {kind} layer: the share kept is the same at every symbol;")
        print(f"h is the first of the {len(numbers)} numbers of its state.")
    print(f"reads     {text}")
    print(f"count     {count_line(text)}")
    print(f"says      {''.join(says)}")
    print(f"kept      {''.join([str(min(int(k * 10), 9)) for k, _ in most])}  tenths")
    print(f"size      {sparkline([abs(state) for state in states])}  of h")
    gate = {symbol: most[text.index(symbol)] for symbol in SYMBOLS}
    for name, symbol in (("dot", "."), ("tick", "+"), ("reset", "R")):
        k, w = gate[symbol]
        print(f"{name:<10}h becomes {k:.3f} h {'-' if w < 0 else '+'} {abs(w):.2g}")
    report_mechanism(gate)
    return gate


def report_mechanism(gate: dict[str, tuple[float, float]]) -> None:
    """Say how the number that was shown counts, if it does so in one of two plain ways."""
    kept = {symbol: k for symbol, (k, _) in gate.items()}
    added = {symbol: abs(w) for symbol, (_, w) in gate.items()}
    if kept["R"] < 0.1 and kept["."] > 0.9:
        print("h is erased by a reset and held through dots.", end=" ")
        if kept["+"] > 0.9 and added["+"] > 2.0 * added["R"]:
            print("Each tick adds to it.")
        elif kept["+"] < 0.8 and added["R"] > 2.0 * added["+"]:
            print("It does not add up ticks:\na reset writes a value, and each tick shrinks it.")
        else:
            print("Ticks change it,\nbut it is no plain sum of them.")


def report_stream(batch: Batch, logits: list[list[float]], error: float) -> None:
    """Reading one by one: accuracy, and memory at several places of the stream."""
    right = share_right(Tensor(logits), batch.answers)
    print(f"\nReading a stream of {STREAM:,} symbols one by one: {right:.3f} right")
    print(f"largest difference from reading all at once: {error:.1e}")
    print("floats kept per layer after           16 symbols      256     4096")
    print(f"  state space: the state, N x D {STATES * CHANNELS:16,}{STATES * CHANNELS:9,}", end="")
    print(f"{STATES * CHANNELS:9,}")
    cache = "".join([f"{2 * WIDTH * n:{w},}" for n, w in ((16, 16), (256, 9), (4096, 9))])
    print(f"  attention: keys and values    {cache}")


def measure_scans(network: Network, rng: random.Random) -> tuple[dict[int, tuple[int, ...]], float]:
    """Both scans over the trained layer -> by length: work and rounds of the sequential scan, of
    the parallel one, and attention's scores; and the largest difference between their states.
    """
    growth, worst = {}, 0.0
    for length in (ODD_LENGTH, *SCAN_LENGTHS):
        batch = counter_batch(1, length, rng)
        every = steps_of(network.layers[0], embedding_bag(network.table, batch.bags))
        for steps in every:
            states, *sequential = scan_sequential(steps)
            others, *parallel = scan_parallel(steps)
            worst = max(worst, largest_difference([states], [others]))
        scores = sum(row + 1 - first for row, first in enumerate(batch.firsts))
        growth[length] = (*sequential, *parallel, scores)
    return growth, worst


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log(cost) against log(size), by least squares: cost grows as size^slope.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    x, y = [log(size) for size in sizes], [log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    slopes = [(a - mean_x) * (b - mean_y) for a, b in zip(x, y)]
    return sum(slopes) / sum((a - mean_x) ** 2 for a in x)


def report_growth(growth: dict[int, tuple[int, ...]], error: float) -> float:
    """Work and rounds by length, and how they grow; returns the error that it prints."""
    print("\nFor one number of the state: combinations (work), and rounds, which must wait")
    print("for one another. Beside it the scores of one attention head.")
    print("               sequential         parallel       attention")
    print("length       work  rounds      work  rounds         scores")
    for length in SCAN_LENGTHS:
        a, b, c, d, e = growth[length]
        print(f"{length:6d}{a:11,}{b:8,}{c:10,}{d:8,}{e:15,}")
    columns = zip(*[growth[length] for length in SCAN_LENGTHS])
    a, b, c, d, e = [f"T^{exponent(SCAN_LENGTHS, column):.2f}" for column in columns]
    print(f"grows {a:>11}{b:>8}{c:>10}{d:>8}{e:>15}")
    print(f"largest difference between the two scans, T = {ODD_LENGTH} too: {error:.1e}")
    return error


def report_conclusion(
    headline: dict[str, float],
    counter: dict[str, list[float]],
    recall: dict[str, list[float]],
) -> None:
    """In words, and only what the numbers say."""
    selective, rival = headline["selective"], max(headline["lti"], headline["attention"])
    print(
        f"\nAt {TEST_LENGTHS[-1]} symbols the selective layer is right in {selective:.1%} of cases,"
    )
    print(f"without selection in {headline['lti']:.1%}, attention in {headline['attention']:.1%}.")
    if selective > rival + 0.05:
        print("In the same number of steps only the layer that chooses what it keeps has")
        print("learned to count and reset.")
    else:
        print("With these constants selection is no clear gain.")
    names = ("selective", "by hand, N = 4", "by hand, N = 16", "attention", "hybrid")
    learned, small, large, attention, hybrid = [recall[name][-1] for name in names]
    print(f"Of {MOST_FACTS} facts it recalls {learned:.0%}, attention {attention:.0%}.", end=" ")
    if learned < small - 0.1 and small < large - 0.1:
        print("Filled by hand,")
        print(
            f"a state with N = 4 recalls {small:.0%}, with N = 16 {large:.0%}: training fails here,"
        )
        print("and the size of the state matters.")
    else:
        print()
    if hybrid > learned + 0.1:
        print(f"With one attention layer behind it, it recalls {hybrid:.0%}.")
    if "hybrid" in counter and headline["hybrid"] > max(rival, learned):
        print("So one layer of each, stacked, does both tasks.")


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


def elementwise(x: Tensor, function: Callable[[float], float], slope: Callable) -> Tensor:
    """function of every entry of x [N][M]; slope(input, output) is its derivative."""
    data = [list(map(function, row)) for row in x.data]

    def pass_back(d_out: list[list[float]]) -> tuple:
        return (
            [
                list(map(mul, d_row, map(slope, x_row, y_row)))
                for d_row, x_row, y_row in zip(d_out, x.data, data)
            ],
        )

    return Tensor(data, (x,), pass_back)


def sigmoid_of(value: float) -> float:
    """1 / (1 + exp(-value)), written so that exp never sees a large positive number.

    >>> sigmoid_of(0.0), sigmoid_of(-800.0), sigmoid_of(800.0)
    (0.5, 0.0, 1.0)
    """
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


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


def softplus(value: float) -> float:
    """log(1 + exp(value)) of one number, written so that exp never sees a large positive one.

    >>> round(softplus(0.0), 6), softplus(-800.0), softplus(800.0)
    (0.693147, 0.0, 800.0)
    """
    return max(value, 0.0) + math.log1p(exp(-abs(value)))


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
