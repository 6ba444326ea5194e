"""From long sequences a gated net learns to hold a letter; a plain one does not, though it can.

A recurrent net reads a text symbol by symbol. It carries a list of numbers along, its state, and
applies one rule again and again: old state and new symbol in, new state out. Whatever it is to
remember must survive every step in between. The run gives three nets of equal size the same task:
a letter is written near the start, about 20 symbols of noise follow, then comes a question mark,
and the net must say which letter it was. The nets differ in how a new state is made:

    RNN      the new state replaces the old one
    leaky    the new state is 0.9 of the old one and 0.1 of what the RNN would have computed
    GRU      at every step, each number of the state has its own share that is kept: its gate

To learn the task, training must find out how the state 20 steps ago affects the answer. For this
backpropagation carries the gradient back from state to state, and each step multiplies it by a
matrix. Look at three things in the output. First, how much of the gradient is left 20 steps back,
before any training: this can be estimated from the update rule. Second, what the nets learn, and
what it is worth at lengths they were not trained on. Third, the control: another RNN of the same
size begins with short sequences, which grow from 8 symbols to 24 (a curriculum). If it succeeds
where the first one fails, the failure was not one of size.

In the code    In the papers       Meaning                                             Shape
h              h_t                 state after symbol t, one row per sequence          [B][H]
x              W x_t               the new symbol's part: a row of a table             [B][H]
a              U h_(t-1) + b       the old state's part                                [B][H]
n              h~_t or n_t         candidate: the state that would replace the old     [B][H]
keep, z        z_t, update gate    share of the old state that stays, 0 to 1           [B][H]
r              r_t, reset gate     share of a that the candidate sees, 0 to 1          [B][H]
w_x            W, transposed       what a symbol adds, one row per symbol              [9][H]
w_h            U                   what the old state adds                             [H][H]
length         T                   symbols in a sequence, the question mark included

For a GRU x, a and w_x have 3 H columns (for r, for z, for n), and w_h has 3 H rows. The name
"update gate" misleads: z = 1 means no update. PyTorch calls W weight_ih and U weight_hh.

What is left out: the LSTM, which has one more gate and a second state; stacked layers; natural
text (names of six letters need no long memory); and the nets without tanh between their states,
which a scan computes in parallel (minGRU, arXiv:2410.01201; Mamba, arXiv:2312.00752; microssm).
The engine stands at the end of the file and is microautograd's subject.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/micrornn.json under that key.

Read first: microautograd.

Papers: Elman, "Finding Structure in Time", 1990. Bengio, Simard & Frasconi, "Learning Long-Term
Dependencies with Gradient Descent is Difficult", 1994. Hochreiter & Schmidhuber, "Long Short-Term
Memory", 1997. Gers, Schmidhuber & Cummins, "Learning to Forget", 2000. Bengio et al., "Curriculum
Learning", 2009. Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural
networks", 2013, arXiv:1211.5063. Cho et al., "Learning Phrase Representations using RNN
Encoder-Decoder", 2014, arXiv:1406.1078 (the GRU). Chung et al., "Empirical Evaluation of Gated
Recurrent Neural Networks on Sequence Modeling", 2014, arXiv:1412.3555. Jozefowicz, Zaremba &
Sutskever, "An Empirical Exploration of Recurrent Network Architectures", 2015. Le, Jaitly & Hinton,
"A Simple Way to Initialize Recurrent Networks of Rectified Linear Units", 2015, arXiv:1504.00941
(another way to begin with a state that is kept: U starts as the identity).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub

# === CONSTANTS ===

SEED = 42
LENGTH = 24  # symbols in a sequence: the letter must be held for 18 to 22 steps
TEST_LENGTHS = (8, LENGTH, 2 * LENGTH, 4 * LENGTH)  # less time to remember, and more
NUM_TEST = 200  # sequences per length: the standard error at 0.25 is 0.03

# Widths that give nets of nearly equal size: a GRU has three W and U where an RNN has one of each.
RNN_WIDTH = 23
GRU_WIDTH = 12
LEAK_KEEP = 0.9  # share of its state that the leaky net keeps
UPDATE_BIAS = 3.0  # a GRU's update gate starts around sigmoid(3) = 0.95
# Standard deviation of w_x at the start, as in torch.nn.Embedding. torch.nn.RNN itself draws W with
# 0.12 (evenly up to 1/sqrt(23)); smaller inputs help the RNN, see "What else was tried".
INPUT_SPREAD = 1.0

BATCH_SIZE = 16  # sequences per step
NUM_STEPS = 200  # for the nets that train at LENGTH from the start
# The stages of the control: (length, steps).
CURRICULUM = ((8, 200), (12, 100), (16, 100), (20, 100), (24, 100))
# Learning rates at the first step; they fall to 0 in a straight line. Each was chosen for its net
# on other seeds. For the RNN without a curriculum none that was tried does better than another.
RNN_RATE = 0.008
LEAKY_RATE = 0.03
GRU_RATE = 0.03
MAX_NORM = 1.0  # a gradient with a larger norm is scaled down to this one

DISTANCE = 20  # how many steps back the gradient is followed; less than LENGTH
NUM_PROFILE = 64  # sequences on which the gradient is measured

# === THE TASK ===

# A latch is a memory that holds a value until another is written. A capital letter stands first,
# another follows within five steps, so that the distance stays long; the rest is noise, and the
# question only marks the end. The answer is the *second* capital: the net must store a letter,
# replace it by another, and hold that one. With a single capital, it need never replace anything.
# Guessing is right in 1 case of 4, and so is "always the first capital", which says nothing about
# the second. The answer is certain, so the best possible accuracy is 1.

SYMBOLS = "ABCDwxyz?"  # four letters to store, four that mean nothing, and the question
NUM_LETTERS = 4


def latch_batch(count: int, length: int, rng: random.Random) -> tuple[list[list[int]], list[int]]:
    """Draw `count` sequences of `length` symbol numbers, and the letter that each asks for.

    For example "AxCwyzx?" of length 8, with answer 2 (C).
    """
    question = len(SYMBOLS) - 1
    sequences, answers = [], []
    for _ in range(count):
        sequence = [rng.randrange(NUM_LETTERS, question) for _ in range(length)]
        sequence[0] = rng.randrange(NUM_LETTERS)
        answer = rng.randrange(NUM_LETTERS)
        sequence[rng.randint(1, 5)] = answer
        sequence[-1] = question
        sequences.append(sequence)
        answers.append(answer)
    return sequences, answers


# === THREE WAYS TO UPDATE A STATE ===

# From here to the end of TRAINING the whole algorithm can be read without a break. All three rules
# compute a candidate n from the symbol and the old state, and mix the two:
#
#     new state = keep * old state + (1 - keep) * n
#
#     RNN      keep = 0      n = tanh(W x_t + U h + b)
#     leaky    keep = 0.9    n = tanh(W x_t + U h + b)
#     GRU      keep = z      n = tanh(W x_t + r (U h + b)), and z and r are computed like n, each
#                            with its own W, U and b, and with sigmoid in place of tanh
#
# tanh holds the candidate between -1 and 1. Without it a U that stretches some vector, applied
# again and again, could let a state grow without end. sigmoid gives a share between 0 and 1. The
# reset gate r lets the candidate ignore the old state; where z is near 0 too, a unit starts anew.


def leaky_row(x: list[float], a: list[float], h: list[float], keep: float) -> list[float]:
    """One step of an RNN (keep = 0) or leaky RNN: lists of H numbers -> the new state.

    The candidate is tanh(0.2 + 0.3) = 0.462. The RNN takes it; the leaky net stays near 1.
    >>> [round(leaky_row([0.2], [0.3], [1.0], keep)[0], 3) for keep in (0.0, 0.9)]
    [0.462, 0.946]
    """
    n = [math.tanh(x_i + a_i) for x_i, a_i in zip(x, a)]
    return [keep * h_i + (1.0 - keep) * n_i for h_i, n_i in zip(h, n)]


def gru_row(
    x: list[float], a: list[float], h: list[float]
) -> tuple[list[float], list[float], list[float], list[float]]:
    """One step of a GRU: x and a of 3 H numbers, h of H -> new state, r, z and n, H numbers each.

    r = sigmoid(x_r + a_r)    z = sigmoid(x_z + a_z)    n = tanh(x_n + r a_n)
    h' = z h + (1 - z) n
    This is torch.nn.GRU. In Cho et al. (eqs. 5-8) r multiplies h before the matrix U; here it
    multiplies a_n after it, so that one product U h serves r, z and n. Chung et al. exchange z
    and 1 - z.

    With z = sigmoid(3) = 0.953 the old state 1 hardly changes; with z = sigmoid(-3) = 0.047 the
    candidate tanh(0.2 + 0.5 * 0.6) = 0.462 takes its place.
    >>> [round(gru_row([0.0, z, 0.2], [0.0, 0.0, 0.6], [1.0])[0][0], 3) for z in (3.0, -3.0)]
    [0.974, 0.488]
    """
    width = len(h)
    r = [sigmoid_of(x_i + a_i) for x_i, a_i in zip(x[:width], a[:width])]
    z = [sigmoid_of(x_i + a_i) for x_i, a_i in zip(x[width : 2 * width], a[width : 2 * width])]
    n = [math.tanh(x_i + r_i * a_i) for x_i, r_i, a_i in zip(x[2 * width :], r, a[2 * width :])]
    new_h = [z_i * h_i + (1.0 - z_i) * n_i for z_i, h_i, n_i in zip(z, h, n)]
    return new_h, r, z, n


# leaky_cell and gru_cell apply these to every row of a Tensor; their gradients are derived in the
# appendix. embedding picks rows of a table, linear(x, w, b) is x times w transposed, plus b.
# In production: torch.nn.RNN and torch.nn.GRU. Since W x_t does not depend on the state, they
# compute it for all steps in one product before the loop; cuDNN fuses the rest of a step.


class RecurrentNet:
    """What all nets have: W for the symbols, U for the old state, a linear map to the logits.

    w_x [9][blocks H], w_h [blocks H][H], bias [1][blocks H], w_out [4][H], bias_out [1][4].
    """

    def __init__(self, width: int, blocks: int, rng: random.Random) -> None:
        self.width = width
        # x_t is a one-hot vector, so W x_t is a column of W. The table holds these columns as
        # its rows, and no product is needed.
        self.w_x = random_matrix(len(SYMBOLS), blocks * width, INPUT_SPREAD, rng)
        # An orthogonal U turns a vector and leaves its norm as it is, which favours the RNN.
        # torch.nn.RNN draws U evenly between -1/sqrt(H) and 1/sqrt(H): such a U shrinks a vector's
        # norm to 1/sqrt(3) = 0.58 (root mean square) at every step.
        self.w_h = Tensor([row for _ in range(blocks) for row in orthogonal(width, rng)])
        self.bias = Tensor([[0.0] * (blocks * width)])
        self.w_out = random_matrix(NUM_LETTERS, width, width**-0.5, rng)
        self.bias_out = Tensor([[0.0] * NUM_LETTERS])

    def parameters(self) -> list[Tensor]:
        """Everything that training may change."""
        return [self.w_x, self.w_h, self.bias, self.w_out, self.bias_out]

    def zero_grad(self) -> None:
        """Drop the gradients of a measurement, which training would otherwise add to its own."""
        for parameter in self.parameters():
            parameter.grad = None


class RNN(RecurrentNet):
    """keep = 0: the plain recurrent net (Elman, 1990). Between 0 and 1: a leaky one."""

    def __init__(self, width: int, keep: float, rng: random.Random) -> None:
        super().__init__(width, 1, rng)
        self.keep = keep

    def next_state(self, ids: Sequence[int], h: Tensor) -> Tensor:
        """Read one more symbol in each of B sequences: ids B, state [B][H] -> state [B][H]."""
        x = embedding(self.w_x, ids)
        a = linear(h, self.w_h, self.bias)
        return leaky_cell(x, a, h, self.keep)


class GRU(RecurrentNet):
    """Gated recurrent unit: three blocks of columns, for the gates r and z and the candidate n."""

    def __init__(self, width: int, update_bias: float, rng: random.Random) -> None:
        super().__init__(width, 3, rng)
        # The bias of z decides how much is kept before training. Near 0, where frameworks begin
        # (Keras with 0, PyTorch with small random numbers), z is about a half, and on this path
        # 0.5^20 = 0.000001 of the gradient would be left. For the LSTM's forget gate Gers et al.
        # (2000) and Jozefowicz et al. (2015) advise such a bias too: start with a gate that keeps.
        self.bias = Tensor([[0.0] * width + [update_bias] * width + [0.0] * width])

    def next_state(self, ids: Sequence[int], h: Tensor) -> Tensor:
        """As in RNN."""
        x = embedding(self.w_x, ids)
        a = linear(h, self.w_h, self.bias)
        return gru_cell(x, a, h)


def read(net: RecurrentNet, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, list[Tensor]]:
    """Read B sequences of T symbols -> logits [B][4] from the last state, and all T states.

    Written out, the loop is a network of T layers that share their weights. Backpropagation
    treats it like any other network; this is all that "backpropagation through time" means. Its
    price is memory: all T states are kept until backward() is done.
    """
    h = Tensor([[0.0] * net.width for _ in sequences], requires_grad=False)
    states = []
    for ids in zip(*sequences):  # the t-th symbol of every sequence
        h = net.next_state(ids, h)
        states.append(h)
    return linear(h, net.w_out, net.bias_out), states


# === TRAINING ===

# The loss is cross-entropy at the last step only; a guess costs ln 4 = 1.386 nats. Every batch is
# drawn fresh, so no sequence can be learned by heart.


def train(
    net: RecurrentNet, stages: Sequence[tuple[int, int]], learning_rate: float, rng: random.Random
) -> None:
    """Train on (length, number of steps) for each stage in turn; the rate falls to 0 linearly."""
    optimizer = Adam(net.parameters())
    num_steps = sum(count for _, count in stages)
    lengths = [length for length, count in stages for _ in range(count)]
    recent: list[tuple[float, float]] = []
    for step, length in enumerate(lengths, 1):
        sequences, answers = latch_batch(BATCH_SIZE, length, rng)
        logits, _ = read(net, sequences)
        loss = cross_entropy(logits, answers)
        loss.backward()
        # A product of many matrices can also explode. Clipping limits the weight of one such
        # batch in Adam's means. Against a gradient that has vanished it does nothing.
        clip_grad_norm_(net.parameters(), MAX_NORM)
        optimizer.step(learning_rate * (1.0 - (step - 1) / num_steps))

        recent.append((loss.item(), share_right(logits, answers)))
        if step % 50 == 0:
            mean_loss, mean_right = [sum(values) / len(recent) for values in zip(*recent)]
            print(
                f"step {step:4d}/{num_steps} | length {length:2d} | loss {mean_loss:.3f} "
                f"| accuracy {mean_right:.2f}",
                flush=True,
            )
            recent.clear()


def share_right(logits: Tensor, answers: Sequence[int]) -> float:
    """How often the largest logit of a row is that of the answer."""
    guesses = [row.index(max(row)) for row in logits.data]
    return sum(guess == answer for guess, answer in zip(guesses, answers)) / len(answers)


# === HOW FAR BACK THE GRADIENT REACHES ===

# Let g_t = dL/dh_t. The chain rule gives g_(t-1) = J^T g_t with J = dh_t/dh_(t-1): going back 20
# steps multiplies 20 such matrices. The update rules say what they are:
#
#     RNN      J = diag(1 - h^2) U                     1 - h^2 is the slope of tanh, at most 1
#     leaky    J = 0.9 I + 0.1 diag(1 - n^2) U
#     GRU      J = diag(z) + what passes through the candidate and the gates
#
# This allows three estimates before any training. RNN: U is orthogonal and changes no norm, so only
# the slopes do. If all units stood at h = 0.6, the slope would be 1 - 0.36 = 0.64, and 0.64^20 =
# 0.00013; the run takes the root mean square of the slopes that it finds, as for a g in random
# directions. Leaky: U can take at most 0.1 of the norm away from the 0.9, so *at least* 0.8^20 =
# 0.012 is left. GRU: were z = sigmoid(3) = 0.953 everywhere, 0.953^20 = 0.38 would be left; this is
# rough, since symbol and state move z, and the other paths are left out. (After training more than
# 1 can be left: some small change of the state 20 steps back then moves the loss more than any
# equally small change of the last state.) Read forwards, the same product says how much of a small
# change arrives at the last state: where the gradient fades, the untrained net also forgets.
#
# Why is a small gradient harmful, when Adam rescales it to steps of the usual size? All steps share
# U and b, whose gradient is the *sum* over the steps (Pascanu et al., 2013, section 2). In it the
# part from 20 steps back is tiny beside the part from the last few, whose inputs are only noise.
# But the capitals' rows of w_x are read near the start only. No near part drowns theirs, and
# Adam moves them at least as far as the rows of the noise. What they lack is a direction: in the
# RNN one batch's gradient says next to nothing about another's; in the leaky net and the GRU the
# batches mostly agree. Adam restores a gradient's size, not its direction. A likely reason: what
# arrives has passed 20 matrices, which in the RNN differ with the noise of each sequence, while
# 0.9 I is the same in all, and diag(z) nearly so.
#
# An orthogonal U cures none of this, nor does clipping. And the loss of such a net may fall all the
# same, where near symbols help; here none does, and it stays near ln 4.


def gradient_profile(
    net: RecurrentNet, sequences: Sequence[Sequence[int]], answers: Sequence[int]
) -> list[float]:
    """The norm of dL/dh for the state k steps before the last, k = 0 to DISTANCE, relative to the
    last state's. Every state is held here, so backward() leaves its gradient in .grad.
    """
    logits, states = read(net, sequences)
    cross_entropy(logits, answers).backward()
    net.zero_grad()
    norms = [math.sqrt(sum([dot(row, row) for row in h.grad])) for h in reversed(states)]
    return [norm / norms[0] for norm in norms[: DISTANCE + 1]]


def agreement(
    net: RecurrentNet, sequences: Sequence[Sequence[int]], answers: Sequence[int]
) -> float:
    """Mean cosine between the gradients of two batches, for the capitals' rows of w_x: 1 if all
    point the same way, about 0 if one says nothing about another.
    """
    directions: list[list[float]] = []
    for start in range(0, len(sequences), BATCH_SIZE):
        batch = slice(start, start + BATCH_SIZE)
        cross_entropy(read(net, sequences[batch])[0], answers[batch]).backward()
        gradient = [value for row in net.w_x.grad[:NUM_LETTERS] for value in row]
        norm = math.sqrt(dot(gradient, gradient))
        directions.append([value / norm for value in gradient])
        net.zero_grad()
    cosines = [dot(d, other) for i, d in enumerate(directions) for other in directions[:i]]
    return sum(cosines) / len(cosines)


def slope_product(net: RecurrentNet, sequences: Sequence[Sequence[int]]) -> float:
    """The estimate for the plain RNN: the root mean square of tanh's slope, multiplied over the
    last DISTANCE steps.
    """
    product = 1.0
    for h in read(net, sequences)[1][-DISTANCE:]:
        squares = [(1.0 - value * value) ** 2 for row in h.data for value in row]
        product *= math.sqrt(sum(squares) / len(squares))
    return product


# === WHAT IS REMEMBERED ===

# The trained nets are tested at lengths that they were not trained on. A net that stores, replaces
# and then holds without loss would be right at all of them. One that has learned to read a letter
# from what has become of it after about 20 steps fails at other distances. The GRU's gates are
# graded, not switches: a unit that kept 0.94 at every step would have 0.94^72 = 0.01 of its state
# left after the 72 steps that length 96 adds. (Only the RNN with the curriculum has met length 8.)


def accuracies(
    net: RecurrentNet, tests: dict[int, tuple[list[list[int]], list[int]]]
) -> dict[int, float]:
    """The share of right answers for every test length."""
    return {
        length: share_right(read(net, sequences)[0], answers)
        for length, (sequences, answers) in tests.items()
    }


def update_gates(net: GRU, sequence: Sequence[int]) -> list[list[float]]:
    """The update gate z of every unit at every step: [T][H]."""
    h = Tensor([[0.0] * net.width])
    gates = []
    for symbol in sequence:
        x, a = net.w_x.data[symbol], linear(h, net.w_h, net.bias).data[0]
        new_h, _, z, _ = gru_row(x, a, h.data[0])
        gates.append(z)
        h = Tensor([new_h])
    return gates


# What else was tried. Each line is a whole run of its own with one thing changed; the number is
# the accuracy at length 24, or at 48 where it says so.
#
#     RNN, 370 steps (about the curriculum's symbols)     0.34 [results: longer.rnn]
#     RNN, RNN_RATE = 0.002                               0.26 [results: low_rate.rnn]
#     RNN, RNN_RATE = 0.03                                0.26 [results: high_rate.rnn]
#     RNN, INPUT_SPREAD = 0.3                             0.55 [results: small_inputs.rnn]
#     GRU, UPDATE_BIAS = 0                                0.79 [results: gru_bias_0.gru]
#     GRU, update gate that reads nothing: z = 0.95       0.45 [results: blind_gates.gru]
#     leaky, 370 steps, at 48                             0.10 [results: longer.leaky_long]
#     leaky, no letter to replace, at 48                  0.80 [results: no_first_letter.leaky_long]
#
# Small inputs keep the RNN's units in the steep middle of tanh. The GRU's lead in gradient shrinks
# from thousands to 14 [results: small_inputs.gradient_ratio], and the RNN learns a part of the
# task. A GRU with bias 0 leads by 26 [results: gru_bias_0.gradient_ratio] only, and has not
# finished in 200 steps: that there are gates does not keep a gradient alive, that they begin by
# keeping does. But to keep is not enough. The leaky net holds a single letter fairly well. What it
# lacks is a way to replace one when the next comes, as does a gate that does not read its input.
#
# One thing may surprise you: after its curriculum an RNN can be right at length 96 although its
# gradient fades. Bengio, Simard & Frasconi (1994) show how these belong together: in a memory that
# is safe against noise small changes of the state die out, and a gradient measures what small
# changes do. Fading before training hides the letter; afterwards it can be the price of a latch.


def main() -> dict[str, object]:
    """Follow the gradient, train four nets, ask them at four lengths, look at the gates."""
    rng = random.Random(SEED)
    tests = {length: latch_batch(NUM_TEST, length, rng) for length in TEST_LENGTHS}
    probe = latch_batch(NUM_PROFILE, LENGTH, rng)
    report_task(*probe)

    full_length = ((LENGTH, NUM_STEPS),)
    plans = {
        "RNN": (RNN(RNN_WIDTH, 0.0, rng), full_length, RNN_RATE),
        "leaky": (RNN(RNN_WIDTH, LEAK_KEEP, rng), full_length, LEAKY_RATE),
        "GRU": (GRU(GRU_WIDTH, UPDATE_BIAS, rng), full_length, GRU_RATE),
        "RNN, curriculum": (RNN(RNN_WIDTH, 0.0, rng), CURRICULUM, RNN_RATE),
    }
    nets = {name: net for name, (net, _, _) in plans.items()}
    before = {name: gradient_profile(nets[name], *probe) for name in ("RNN", "leaky", "GRU")}
    estimates = {
        "RNN": f"about {slope_product(nets['RNN'], probe[0]):.2g}",
        "leaky": f">= {max(0.0, 2.0 * LEAK_KEEP - 1.0) ** DISTANCE:.2g}",
        "GRU": f"about {sigmoid_of(UPDATE_BIAS) ** DISTANCE:.2g}",
    }
    report_profiles("before training", before, estimates)
    agreed = {name: agreement(nets[name], *probe) for name in before}
    report_agreement(agreed)

    for name, (net, stages, rate) in plans.items():
        size = sum(len(p.data) * len(p.data[0]) for p in net.parameters())
        print(f"\nTraining {name}: {size} numbers, learning rate {rate}")
        start = time.perf_counter()
        train(net, stages, rate, rng)
        print(f"time  {time.perf_counter() - start:.1f} s")

    scores = {name: accuracies(net, tests) for name, net in nets.items()}
    report_scores(scores)
    after = {name: gradient_profile(net, *probe) for name, net in nets.items()}
    report_profiles("after training", after, {})
    report_gates(nets["GRU"], probe[0])
    headline = {
        "rnn": scores["RNN"][LENGTH],
        "curriculum": scores["RNN, curriculum"][LENGTH],
        "gru": scores["GRU"][LENGTH],
        "leaky_long": scores["leaky"][2 * LENGTH],
        "gru_long": scores["GRU"][2 * LENGTH],
        "gradient_ratio": before["GRU"][DISTANCE] / before["RNN"][DISTANCE],
    }
    report_conclusion(headline, scores, after["RNN, curriculum"][DISTANCE])
    details = {"scores": scores, "before": before, "after": after, "agreement": agreed}
    return {**headline, "details": details}


# === APPENDIX: REPORT AND HELPERS ===


def report_task(sequences: Sequence[Sequence[int]], answers: Sequence[int]) -> None:
    """Three examples, and what guessing gives."""
    print("Which capital letter came last?")
    for sequence, answer in list(zip(sequences, answers))[:3]:
        print(f"  {''.join(SYMBOLS[i] for i in sequence)} -> {SYMBOLS[answer]}")
    print(f"Guessing: accuracy {1 / NUM_LETTERS}, loss ln {NUM_LETTERS} = {math.log(4):.3f}")


def report_profiles(when: str, profiles: dict[str, list[float]], estimates: dict[str, str]) -> None:
    """Draw each gradient profile as a line of shades, one shade for each power of ten."""
    print(f"\nThe gradient {when}, from the last state (left) backwards")
    print("One shade lighter is ten times weaker; @ is as at the last state, or stronger.")
    heading = f"{'':<18}{'0':<{DISTANCE}}{DISTANCE} steps back   left of it"
    print(heading + ("   expected" if estimates else ""))
    for name, profile in profiles.items():
        decades = [min(0, max(-9, round(math.log10(max(value, 1e-9))))) for value in profile]
        line = "".join(SHADES[9 + decade] for decade in decades)
        text = f"{name:<18}{line:<{DISTANCE + 15}}{profile[DISTANCE]:>11.2g}"
        print(text + (f"   {estimates[name]}" if name in estimates else ""))


def report_agreement(agreed: dict[str, float]) -> None:
    """The mean cosine of every net."""
    print("\nDo batches agree on how the capitals' rows of w_x should change? Mean cosine")
    print("of two gradients: " + ", ".join(f"{name} {value:.2f}" for name, value in agreed.items()))


def report_scores(scores: dict[str, dict[int, float]]) -> None:
    """One line per net: accuracy at every test length."""
    print(f"\nAccuracy on {NUM_TEST} new sequences, by their length")
    print(f"{'':<18}" + "".join(f"{length:>8}" for length in TEST_LENGTHS))
    print(f"{'guessing':<18}" + f"{1 / NUM_LETTERS:>8.3f}" * len(TEST_LENGTHS))
    for name, by_length in scores.items():
        print(f"{name:<18}" + "".join(f"{by_length[length]:>8.3f}" for length in TEST_LENGTHS))
    print(f"{'best possible':<18}" + f"{1:>8.3f}" * len(TEST_LENGTHS))


def report_gates(net: GRU, sequences: Sequence[Sequence[int]]) -> None:
    """Show the units whose update gate falls most when the second capital comes."""
    at_letter, at_noise = [], []
    for sequence in sequences:
        for z, symbol in list(zip(update_gates(net, sequence), sequence))[1:-1]:
            (at_letter if symbol < NUM_LETTERS else at_noise).append(z)
    letter_means = [sum(column) / len(at_letter) for column in zip(*at_letter)]
    noise_means = [sum(column) / len(at_noise) for column in zip(*at_noise)]
    units = range(net.width)
    chosen = sorted(units, key=lambda unit: letter_means[unit] - noise_means[unit])[:3]
    print("\nUpdate gates of the GRU: what a unit keeps of its state, in tenths")
    print(f"  {'reads':<10}{''.join(SYMBOLS[symbol] for symbol in sequences[0])}", end="")
    print("   mean at: capital   noise")
    gates = update_gates(net, sequences[0])
    for unit in chosen:
        digits = "".join(str(min(9, int(10.0 * z[unit]))) for z in gates)
        print(f"  unit {unit:<5}{digits}", end="")
        print(f"               {letter_means[unit]:.2f}    {noise_means[unit]:.2f}")


def report_conclusion(
    numbers: dict[str, float], scores: dict[str, dict[int, float]], left: float
) -> None:
    """Say in words what the run has shown, whatever it has shown; left: the share of the gradient
    that the RNN with a curriculum hands back DISTANCE steps after its training.
    """
    rnn, gru, curriculum = numbers["rnn"], numbers["gru"], numbers["curriculum"]
    guess, longest = 1 / NUM_LETTERS, max(TEST_LENGTHS)
    times = f"{numbers['gradient_ratio']:,.0f}"
    print(f"\nLength {LENGTH}: the RNN is right in {rnn:.1%} of cases (guessing {guess:.1%}),")
    print(f"the GRU in {gru:.1%}. Before training, {times} times more of the GRU's")
    print(f"gradient than of the RNN's was left {DISTANCE} steps back.")
    if curriculum > rnn + 0.2:
        print(f"With a curriculum, an RNN of the same size reaches {curriculum:.1%}: it has")
        print("room for the memory, and does not learn it from far away.")
        last, gru_last = scores["RNN, curriculum"][longest], scores["GRU"][longest]
        if last > gru_last + 0.05:
            print(f"At length {longest} it is even right more often than the GRU ({last:.1%} to")
            print(f"{gru_last:.1%}), which was trained at one length only.")
        if left < 0.1:
            print(f"It remembers although its own gradient still fades ({left:.2g} is left).")
    else:
        print(f"A curriculum does not help the RNN ({curriculum:.1%}).")
    leaky, leaky_long = scores["leaky"][LENGTH], numbers["leaky_long"]
    print(f"From length {LENGTH} to {2 * LENGTH} the leaky net goes from {leaky:.1%} to", end=" ")
    print(f"{leaky_long:.1%}. The GRU\nhas {numbers['gru_long']:.1%} there.")
    if leaky_long < guess - 0.1:
        print("The leaky net is then wrong more often than a guesser. So it has not forgotten")
        print("the letter, but reads it as another one.")
    elif leaky > leaky_long + 0.2:
        print("What the leaky net has learned does not carry over to a longer distance.")


def random_matrix(rows: int, columns: int, spread: float, rng: random.Random) -> Tensor:
    """Independent normal numbers with standard deviation `spread`: [rows][columns]."""
    return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])


def orthogonal(size: int, rng: random.Random) -> list[list[float]]:
    """A random matrix Q with Q Q^T = I, by Gram-Schmidt: from each random row the parts along the
    rows before it are taken off (twice, since the first time leaves rounding errors).
    """
    rows: list[list[float]] = []
    for _ in range(size):
        row = [rng.gauss(0.0, 1.0) for _ in range(size)]
        for other in rows + rows:
            along = dot(row, other)
            row = [value - along * o for value, o in zip(row, other)]
        norm = math.sqrt(dot(row, row))
        rows.append([value / norm for value in row])
    return rows


# === APPENDIX: GRADIENTS OF THE CELLS ===


def leaky_cell(x: Tensor, a: Tensor, h: Tensor, keep: float) -> Tensor:
    """leaky_row for every row: x, a, h [B][H] -> new state [B][H]."""
    new_h = [leaky_row(*rows, keep) for rows in zip(x.data, a.data, h.data)]

    # h' = keep h + (1 - keep) n with n = tanh(x + a), hence
    #   d_h = keep d       d_x = d_a = (1 - keep) (1 - n^2) d
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_sum = []
        for d_row, x_row, a_row in zip(d_out, x.data, a.data):
            n = [math.tanh(x_i + a_i) for x_i, a_i in zip(x_row, a_row)]
            d_sum.append([(1.0 - keep) * (1.0 - n_i * n_i) * d for n_i, d in zip(n, d_row)])
        d_h = [[keep * d for d in row] for row in d_out] if keep else None
        return d_sum, d_sum, d_h

    return Tensor(new_h, (x, a, h), pass_back)


def gru_cell(x: Tensor, a: Tensor, h: Tensor) -> Tensor:
    """gru_row for every row: x and a [B][3H], h [B][H] -> new state [B][H]."""
    rows = [gru_row(*rows) for rows in zip(x.data, a.data, h.data)]
    width = len(h.data[0])

    # With s = sigmoid(u): ds/du = s (1 - s). With n = tanh(u): dn/du = 1 - n^2. So
    #   h' = z h + (1 - z) n      d_h = z d       d_z = (h - n) d      d_n = (1 - z) d
    #   n = tanh(x_n + r a_n)     d_x_n = (1 - n^2) d_n     d_a_n = r d_x_n     d_r = a_n d_x_n
    #   z = sigmoid(x_z + a_z)    d_x_z = d_a_z = z (1 - z) d_z                 likewise for r
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x, d_a, d_h = [], [], []
        for d, a_row, h_row, (_, r, z, n) in zip(d_out, a.data, h.data, rows):
            d_x_n = [(1.0 - n_i * n_i) * (1.0 - z_i) * g for n_i, z_i, g in zip(n, z, d)]
            d_a_n = [r_i * g for r_i, g in zip(r, d_x_n)]
            d_r = [a_i * g for a_i, g in zip(a_row[2 * width :], d_x_n)]
            d_x_r = [r_i * (1.0 - r_i) * g for r_i, g in zip(r, d_r)]
            d_z = [(h_i - n_i) * g for h_i, n_i, g in zip(h_row, n, d)]
            d_x_z = [z_i * (1.0 - z_i) * g for z_i, g in zip(z, d_z)]
            d_x.append(d_x_r + d_x_z + d_x_n)
            d_a.append(d_x_r + d_x_z + d_a_n)
            d_h.append([z_i * g for z_i, g in zip(z, d)])
        return d_x, d_a, d_h

    return Tensor([new_h for new_h, *_ in rows], (x, a, h), pass_back)


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


def sigmoid_of(value: float) -> float:
    """1 / (1 + exp(-value)), written so that exp never sees a large positive number.

    >>> sigmoid_of(0.0), sigmoid_of(-800.0), sigmoid_of(800.0)
    (0.5, 0.0, 1.0)
    """
    if value >= 0.0:
        return 1.0 / (1.0 + exp(-value))
    small = exp(value)
    return small / (1.0 + small)


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


def clip_grad_norm_(parameters: list[Tensor], max_norm: float) -> float:
    """Scale all gradients down together if their joint length exceeds max_norm; return the length
    that they had.
    """
    rows = [row for p in parameters if p.grad is not None for row in p.grad]
    norm = math.sqrt(sum([g * g for row in rows for g in row]))
    if norm > max_norm:
        factor = max_norm / norm
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = [[g * factor for g in row] for row in parameter.grad]
    return norm


# === APPENDIX: PICTURES (common/pictures.py) ===

SHADES = " .:-=+*#%@"  # from empty to full


if __name__ == "__main__":
    main()
