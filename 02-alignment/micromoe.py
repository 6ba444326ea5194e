"""A mixture of experts remembers more than a dense network with the same compute per input.

In an ordinary (dense) layer every weight works on every input, so more weights cost more compute.
A mixture-of-experts layer (MoE) cuts this tie. It holds several small networks, the experts, and
a router that picks one of them for each input. The others are not run. Weights and compute per
input come apart: eight experts hold eight times the weights of one, at the compute of one expert
plus the router.

What are more weights good for? For memory, first of all. So this script measures memory alone: 576
facts, "subject s, relation r -> value v", where each value is random. Nothing can be inferred from
other facts, so there is no test set, and the accuracy on the training data is the quantity of
interest. A dense layer and eight experts with a router take the same number of multiply-adds per
fact. Look at three things: how much more the experts remember; how the facts are divided among
them, and whether a learned router divides them better than a random table does; and what happens
if the router prefers one expert at the start, with and without load balancing.

Term         Meaning
expert       one of N small feed-forward networks with weights of their own
router       a linear layer and a softmax: x -> probs, a probability for each expert
top-1        only the expert with the largest probability is run
gate         this probability; the output of the expert is multiplied by it
row          one input of the layer: here one fact, in a language model one token
load         the share of the rows that an expert receives, times N: 1 if all receive the same
arm          one of the kinds of layer and training that are compared

What is left out: top-k with k > 1, capacity limits, experts on several devices, shared experts, and
tasks that are not about memory. (Jelassi et al., 2024, find that more experts at the same compute
keep improving memory, while the gain in reasoning levels off.)

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, such as the seed, and stands in results/micromoe.json under that key.

Read first: microautograd.

Papers: Shazeer et al., "Outrageously Large Neural Networks", 2017, arXiv:1701.06538. Fedus et al.,
"Switch Transformers", 2021, arXiv:2101.03961. Roller et al., "Hash Layers For Large Sparse
Models", 2021, arXiv:2106.04426. Jiang et al., "Mixtral of Experts", 2024, arXiv:2401.04088. Wang et
al., "Auxiliary-Loss-Free Load Balancing", 2024, arXiv:2408.15664. Jelassi et al., "Mixture of
Parrots", 2024, arXiv:2410.19034.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
NUM_SUBJECTS = 24  # mere numbers, without a meaning; so are relations and values
NUM_RELATIONS = 24  # 24 x 24 = 576 facts
NUM_VALUES = 16  # a guess is right once in 16 times
WIDTH = 16  # entries of a vector: 8 for the subject, 8 for the relation

NUM_EXPERTS = 8  # one of them answers each fact
EXPERT_HIDDEN = 8  # hidden units of each expert
DENSE_HIDDEN = 12  # as many multiply-adds as one expert and the router

NUM_STEPS = 400  # of each training: 50 passes over the facts
BATCH_SIZE = 72  # facts per step: 8 steps see each fact once
BETAS = (0.9, 0.99)  # Adam's: how slowly its two running means forget
# Initial learning rates; each falls linearly towards 0. The dense network, as the baseline, gets
# the best of three. All arms with experts share one rate.
DENSE_RATES = (0.04, 0.08, 0.12)
EXPERT_RATE = 0.06

SKEW = 4.0  # head start, in logits, of expert 0 in the arms with a skewed start
AUX_WEIGHT = 0.1  # of the load-balancing loss (Switch: 0.01, in a much longer training)
BIAS_STEP = 0.01  # per training step, for balancing without a loss; see update_bias()

# === THE FACTS ===

# Fact number i is about subject i // 24 and relation i % 24. The network sees the two as learned
# vectors, side by side. Each vector is shared by 24 facts: with nothing but these vectors and the
# output head (a linear layer), a logit would be one term for the subject plus one for the relation.
# What depends on the pair must be remembered by the layer between them. (A vector for each pair
# would solve the task without that layer.)


def draw_facts(rng: random.Random) -> list[int]:
    """A random value for each fact."""
    return [rng.randrange(NUM_VALUES) for _ in range(NUM_SUBJECTS * NUM_RELATIONS)]


def side_by_side(a: Tensor, b: Tensor) -> Tensor:
    """[N][A] and [N][B] -> [N][A + B] (torch.cat with dim=1)."""
    width = len(a.data[0])
    data = [row_a + row_b for row_a, row_b in zip(a.data, b.data)]

    def pass_back(d_out: list[list[float]]) -> tuple:
        return [row[:width] for row in d_out], [row[width:] for row in d_out]

    return Tensor(data, (a, b), pass_back)


# === THE MIXTURE OF EXPERTS ===

# The layer replaces the feed-forward network of a transformer block, x -> W_down relu(W_up x). Here
# too there is a norm before it and a residual connection around it. With N experts E_i, each such a
# network, and the router's probabilities p (Fedus et al., 2021, eq. 1 and 2, who have no b):
#
#     x = rms_norm(u)   p = softmax(R x + b)   i = argmax_j p_j   y = p_i E_i(x)   result u + y
#
# An expert costs 2 * 16 * 8 = 256 multiply-adds per row and the router 16 * 8 = 128, together 384:
# as many as a dense layer with 12 hidden units. At this size the router costs half as much as the
# expert, and a comparison that forgets it is unfair to the dense layer. In a large model, where an
# expert has thousands of hidden units, the router is negligible. (A dense layer with 64 hidden
# units has as many weights as the eight experts. It takes 2,048 / 384 = 5.3 times the
# multiply-adds, and remembers 0.998 [results: wide_dense.dense_accuracy] of the facts. So experts
# save compute, not weights.)
#
# Why is the output multiplied by p_i? The choice i is a whole number: it has no gradient. The gate
# has one, and the router learns from the task only through it: d loss / d p_i is the dot product of
# E_i(x) and the gradient of the loss with respect to y. If more of this output would lower the
# loss, p_i is pushed up, and through the softmax all other probabilities are pushed down, although
# the other experts were not tried. If less would, it is the other way round.
# Mixtral takes two experts and divides their gates by their sum. With one expert that would make
# every gate 1, and the router would receive no gradient from the task.


def argmax(row: Sequence[float]) -> int:
    """The place of the largest number; of the first, if several are largest."""
    return max(range(len(row)), key=row.__getitem__)


def dispatch(chosen: Sequence[int], num_experts: int) -> list[list[int]]:
    """The rows of each expert, from the expert of each row.

    >>> dispatch([1, 0, 1], 2)
    [[1], [0, 2]]
    """
    groups: list[list[int]] = [[] for _ in range(num_experts)]
    for row, expert in enumerate(chosen):
        groups[expert].append(row)
    return groups


def combine(
    outputs: Sequence[Tensor | None], groups: Sequence[Sequence[int]], probs: Tensor | None
) -> Tensor:
    """Put the experts' outputs back in the order of the rows, each times its gate -> [rows][D].

    outputs[e] [len(groups[e])][D], None if expert e has no rows; probs [rows][N], or None for
    gates of 1.

    Row 0 went to expert 1, with a gate of 0.75. The expert's output is (8, 4), so row 0 of the
    result is (6, 3). If the gradient of the loss there is (1, -1), the expert receives 0.75 times
    this, and the gate receives 8 * 1 + 4 * -1 = 4: the loss would fall if the gate were smaller.
    >>> output, probs = Tensor([[8.0, 4.0]]), Tensor([[0.25, 0.75]])
    >>> out = combine([None, output], [[], [0]], probs)
    >>> out.backward([[1.0, -1.0]])
    >>> out.data, output.grad, probs.grad
    ([[6.0, 3.0]], [[0.75, -0.75]], [[0.0, 4.0]])
    """
    used = [(e, y) for e, y in enumerate(outputs) if y is not None]
    parents = (*[y for _, y in used], *([] if probs is None else [probs]))
    num_rows = sum(map(len, groups))

    def gate(row: int, expert: int) -> float:
        return 1.0 if probs is None else probs.data[row][expert]

    out: list[list[float]] = [[]] * num_rows
    for e, y in used:
        for row, values in zip(groups[e], y.data):
            g = gate(row, e)
            out[row] = [g * value for value in values]

    def pass_back(d_out: list[list[float]]) -> tuple:
        d_outputs = []
        d_probs = [[0.0] * len(groups) for _ in range(num_rows)]
        for e, y in used:
            gates = [gate(row, e) for row in groups[e]]
            d_outputs.append([[g * d for d in d_out[row]] for g, row in zip(gates, groups[e])])
            for row, values in zip(groups[e], y.data):
                d_probs[row][e] = dot(d_out[row], values)
        return (*d_outputs, d_probs) if probs is not None else tuple(d_outputs)

    return Tensor(out, parents, pass_back)


class Routed(NamedTuple):
    """What a forward pass gives."""

    logits: Tensor  # [rows][16]: one for each value
    probs: Tensor | None  # [rows][N]: the router's; None without a router
    groups: list[list[int]]  # the rows of each expert


class Model:
    """Subject and relation -> value, with experts in between.

    table [576]: the expert for each fact, fixed from the start, with gates of 1; None: a router
    learns to choose. The dense network is the special case of one expert that answers everything.
    """

    def __init__(
        self, num_experts: int, hidden: int, table: Sequence[int] | None, skew: float = 0.0
    ) -> None:
        rng = random.Random(SEED + 1)  # embeddings and head start equal in all arms

        def matrix(rows: int, columns: int, std: float) -> Tensor:
            return Tensor([[rng.gauss(0.0, std) for _ in range(columns)] for _ in range(rows)])

        # Standard deviations of 1 / sqrt(inputs) keep the size of vectors from layer to layer; only
        # relu() takes away about half of the mean square.
        self.subjects = matrix(NUM_SUBJECTS, WIDTH // 2, 1.0)
        self.relations = matrix(NUM_RELATIONS, WIDTH // 2, 1.0)
        self.head = matrix(NUM_VALUES, WIDTH, WIDTH**-0.5)
        self.up = [matrix(hidden, WIDTH, WIDTH**-0.5) for _ in range(num_experts)]
        self.down = [matrix(WIDTH, hidden, hidden**-0.5) for _ in range(num_experts)]
        self.router = matrix(num_experts, WIDTH, WIDTH**-0.5)
        self.router_bias = Tensor([[skew] + [0.0] * (num_experts - 1)])
        self.balance_bias = [0.0] * num_experts  # for balancing without a loss, see below
        self.table = table

    def parameters(self) -> list[Tensor]:
        """All that is trained."""
        router = [self.router, self.router_bias] if self.table is None else []
        return [self.subjects, self.relations, self.head, *self.up, *self.down, *router]

    def forward(self, facts: Sequence[int]) -> Routed:
        """Answer some facts, given by their numbers."""
        u = side_by_side(
            embedding(self.subjects, [fact // NUM_RELATIONS for fact in facts]),
            embedding(self.relations, [fact % NUM_RELATIONS for fact in facts]),
        )
        x = rms_norm(u)
        if self.table is None:
            probs = softmax(linear(x, self.router, self.router_bias))
            chosen = [argmax(list(map(add, row, self.balance_bias))) for row in probs.data]
        else:
            probs = None
            chosen = [self.table[fact] for fact in facts]
        groups = dispatch(chosen, len(self.up))
        outputs = [
            # embedding() picks the expert's rows out of x. An expert without rows is not run.
            linear(relu(linear(embedding(x, rows), up)), down) if rows else None
            for rows, up, down in zip(groups, self.up, self.down)
        ]
        return Routed(linear(u + combine(outputs, groups, probs), self.head), probs, groups)


# In production the layer is the same, but the loop over experts becomes one grouped matrix product
# (torch.nn.functional.grouped_mm, MegaBlocks), and with experts on several devices dispatch and
# combine are all-to-all communication. All experts must be in memory, although few of them work on
# a given token: Mixtral 8x7B has 47 billion weights (not 8 * 7 = 56, since the attention layers
# exist once), and 13 billion of them work on a token. With experts on several devices, all wait for
# the busiest. So some models limit the rows that an expert accepts (its capacity); in a Switch
# Transformer rows beyond it skip the layer, and the residual connection alone carries them on.
# Others have more and smaller experts, several per token, and shared ones that work on every token.

# === LOAD BALANCING ===

# An expert learns from the rows that it receives, and a row goes to the expert with the largest
# probability. So an expert that is ahead receives more, learns more, and can stay ahead, while the
# others lie idle. The usual remedy is a second loss (Fedus et al., 2021, eq. 4 to 6). In a batch,
# let f_i be the share of the rows that expert i receives, and P_i the mean of its probability:
#
#     balancing loss = N * sum_i f_i P_i        loss = task loss + AUX_WEIGHT * balancing loss
#
# It is 1 if all loads are equal, and N if one expert receives all rows with probability 1. The
# f_i come from counts, which have no gradient. They serve as weights: the more rows an expert has
# received, the more strongly its probabilities are pushed down. The gradient flows through P alone,
# and this path must not be cut: a balancing loss that is computed from plain numbers (in torch,
# from detached probabilities) can be printed, but trains nothing. With such a loss the skewed
# router ends at 0.722 [results: no_aux_gradient.balanced_accuracy], exactly as without balancing.
#
# It is often said that a router collapses to a few experts unless it is balanced. The arm with a
# fair start shows that this is not certain. So the arms on balancing start with a preference: 4 is
# added to the logit of expert 0. The other logits start with a standard deviation of about 1, so
# expert 0 begins with nearly all of the rows. The balancing loss takes load off the busiest expert
# on every recorded seed. How much memory this brings back differs: on seed 2 it is only from
# 0.885 [results: seed_2.skewed_accuracy] to 0.901 [results: seed_2.balanced_accuracy].


def load_balancing_loss(probs: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
    """N * sum_i f_i P_i: probs [rows][N], the rows of each expert -> [1][1].

    Both rows prefer expert 0: f = (1, 0), P = (0.75, 0.25), so the loss is 2 * 0.75 = 1.5.
    >>> probs = Tensor([[0.9, 0.1], [0.6, 0.4]])
    >>> loss = load_balancing_loss(probs, [[0, 1], []])
    >>> loss.backward()
    >>> loss.item(), probs.grad
    (1.5, [[1.0, 0.0], [1.0, 0.0]])
    """
    num_rows = len(probs.data)
    shares = [len(rows) / num_rows for rows in groups]
    means = [sum(column) / num_rows for column in zip(*probs.data)]
    loss = len(groups) * dot(shares, means)

    # P_i is a mean over rows, so each row receives N f_i / rows.
    def pass_back(d_out: list[list[float]]) -> tuple:
        slopes = [d_out[0][0] * len(groups) * share / num_rows for share in shares]
        return ([slopes] * num_rows,)

    return Tensor([[loss]], (probs,), pass_back)


# The loss can work against the task: it moves the router even where the task has a good reason to
# send more rows to one expert. Wang et al., 2024, balance without it (DeepSeek-V3 balances mainly
# in this way). Each expert has a number, its bias, that is added to its probability when experts
# are compared, and only there: the gate stays the probability. After each step the bias rises a
# little for experts with too few rows, and falls for those with too many. It has no gradient, and
# stays in use after training. (It is not the b in R x + b, which is trained by gradients.)


def update_bias(bias: Sequence[float], groups: Sequence[Sequence[int]]) -> list[float]:
    """The biases for the next step: up by BIAS_STEP for small loads, down for large ones.

    >>> update_bias([0.0, 0.0, 0.0], [[0, 1, 2], [3], [4, 5]])
    [-0.01, 0.01, 0.0]
    """
    even = sum(map(len, groups)) / len(groups)
    signs = [(len(rows) < even) - (len(rows) > even) for rows in groups]
    return [value + BIAS_STEP * sign for value, sign in zip(bias, signs)]


# === TRAINING AND MEASURING ===

# The arms differ in the layer, its start and its balancing; the dense arms also in the learning
# rate. Embeddings and head start with the same numbers. All arms see the same batches, and each
# fact once in 8 steps: if batches were drawn with replacement, some facts would be seen less often
# by chance.


def train(model: Model, values: Sequence[int], rate: float, balancing: str = "") -> None:
    """Learn the facts. balancing: "" (none), "loss" or "bias".

    The lines printed on the way are about a single batch: its task loss, and its rows per expert.
    """
    rng = random.Random(SEED + 2)
    optimizer = Adam(model.parameters(), BETAS)
    order: list[int] = []
    for step in range(1, NUM_STEPS + 1):
        if len(order) < BATCH_SIZE:
            order = rng.sample(range(len(values)), len(values))
        batch, order = order[:BATCH_SIZE], order[BATCH_SIZE:]
        logits, probs, groups = model.forward(batch)
        task_loss = cross_entropy(logits, [values[fact] for fact in batch])
        loss = task_loss
        if balancing == "loss":
            loss = task_loss + load_balancing_loss(probs, groups) * AUX_WEIGHT
        loss.backward()
        optimizer.step(rate * (1.0 - (step - 1) / NUM_STEPS))
        if balancing == "bias":
            model.balance_bias = update_bias(model.balance_bias, groups)
        if step % (NUM_STEPS // 4) == 0:
            line = f"step {step:4d}/{NUM_STEPS} | loss {task_loss.item():.4f}"
            if probs is not None:
                line += " | rows per expert" + "".join([f"{len(g):4d}" for g in groups])
            print(line, flush=True)


class Measured(NamedTuple):
    """What a trained model knows, and who answers what."""

    accuracy: float  # share of the facts that it answers rightly
    bits: float  # 576 * (log2 16 - cross-entropy in bits): 2,304 if certain of all
    load: float  # of the busiest expert
    mi: tuple[float, float]  # nats the expert tells about subject, relation; see below
    experts: list[int]  # the expert of each fact
    right: list[bool]


def measure(model: Model, values: Sequence[int]) -> Measured:
    """Ask the model for every fact."""
    facts = range(len(values))
    logits, _, groups = model.forward(facts)
    right = [argmax(row) == value for row, value in zip(logits.data, values)]
    nats = log(NUM_VALUES) - cross_entropy(logits, values).item()
    experts = [0] * len(values)
    for expert, rows in enumerate(groups):
        for row in rows:
            experts[row] = expert
    return Measured(
        accuracy=sum(right) / len(values),
        bits=len(values) * nats / log(2.0),
        load=max(map(len, groups)) * len(groups) / len(values),
        mi=(
            mutual_information(experts, [fact // NUM_RELATIONS for fact in facts]),
            mutual_information(experts, [fact % NUM_RELATIONS for fact in facts]),
        ),
        experts=experts,
        right=right,
    )


# Does an expert become a specialist for some subjects? Mutual information answers: how many nats
# does the expert's number tell about the subject? 0 means nothing, and ln 8 = 2.08 is the most that
# eight experts can tell. A random table also gets a little more than 0, by chance: with 8 experts,
# 24 subjects and 576 facts, about 7 * 23 / (2 * 576) = 0.14 nats are expected.


def mutual_information(a: Sequence[int], b: Sequence[int]) -> float:
    """sum p(a, b) log(p(a, b) / (p(a) p(b))) over the pairs (a[i], b[i]), in nats.

    >>> mutual_information([0, 0, 1, 1], [5, 6, 5, 6])
    0.0
    >>> round(mutual_information([0, 0, 1, 1], [5, 5, 6, 6]), 3)
    0.693
    """
    pairs = list(zip(a, b))
    total = 0.0
    for x, y in sorted(set(pairs)):
        joint = pairs.count((x, y))
        total += joint * log(joint * len(pairs) / (a.count(x) * b.count(y)))
    return total / len(pairs)


def random_table(num_facts: int, rng: random.Random) -> list[int]:
    """Facts -> experts, in equal numbers and at random. It stands for a hash of the fact.

    (Roller et al., 2021, hash the token. Without a router the layer costs 256 multiply-adds
    instead of 384.)
    """
    table = [fact % NUM_EXPERTS for fact in range(num_facts)]
    rng.shuffle(table)
    return table


# Why can a random table do better than a router that has learned? The router reads x, and facts
# with the same subject have half of their vector in common. So it tends to send them to the same
# expert (look at the mutual information, and at the stripes in the picture). This expert must then
# tell the most similar inputs apart. Is this the reason, or the uneven load, or the router's own
# training with its gates below 1? A control: a table that is as even as the random one, but gives
# all facts about a subject to one expert. It comes to 0.873 [results: by_subject.table_accuracy].
# So grouping what is similar can by itself cost as much as the router loses. The control groups
# more strictly than the router does, so it does not rule out that the other two matter as well.
# This is about facts without structure. In language, similar tokens have something in common that
# an expert can learn once, and most large models use a learned router.


def main() -> dict[str, object]:
    """Teach the facts to each kind of layer, and compare what they remember."""
    rng = random.Random(SEED)
    start = time.perf_counter()
    values = draw_facts(rng)
    report_facts(values)

    dense: dict[float, Measured] = {}
    for rate in DENSE_RATES:
        print(f"\nDense, {DENSE_HIDDEN} hidden units, learning rate {rate:g}")
        model = Model(1, DENSE_HIDDEN, [0] * len(values))
        train(model, values, rate)
        dense[rate] = measure(model, values)
    best_rate = max(dense, key=lambda rate: dense[rate].accuracy)

    results = {"dense": dense[best_rate]}
    table = random_table(len(values), rng)
    for title, fixed, skew, balancing in (
        ("experts, random table", table, 0.0, ""),
        ("experts, router", None, 0.0, ""),
        ("skewed, not balanced", None, SKEW, ""),
        ("skewed, balancing loss", None, SKEW, "loss"),
        ("skewed, balancing bias", None, SKEW, "bias"),
    ):
        print(f"\n{title[0].upper()}{title[1:]}")
        model = Model(NUM_EXPERTS, EXPERT_HIDDEN, fixed, skew)
        train(model, values, EXPERT_RATE, balancing)
        results[title] = measure(model, values)
    print(f"time  all of this took {time.perf_counter() - start:.1f} s")

    report_table(results, dense)
    report_grids(results)
    _, random_experts, router, skewed, balanced, _ = results.values()
    headline = {
        "dense_accuracy": dense[best_rate].accuracy,
        "table_accuracy": random_experts.accuracy,
        "router_accuracy": router.accuracy,
        "skewed_accuracy": skewed.accuracy,
        "balanced_accuracy": balanced.accuracy,
        "load_gap": skewed.load - balanced.load,  # what the balancing loss takes off the busiest
    }
    report_conclusion(headline, results)
    kept = ("accuracy", "bits", "load", "mi")
    details = {
        title: {key: getattr(result, key) for key in kept} for title, result in results.items()
    }
    by_rate = {str(rate): result.accuracy for rate, result in dense.items()}
    return {**headline, "details": {"arms": details, "dense_by_rate": by_rate}}


# === APPENDIX: REPORT AND HELPERS ===


def report_facts(values: Sequence[int]) -> None:
    """The task and its costs."""
    print(f"{len(values)} facts to remember, such as")
    for fact in (0, 1, NUM_RELATIONS):
        subject, relation = divmod(fact, NUM_RELATIONS)
        print(f"  subject {subject}, relation {relation} -> value {values[fact]}")
    dense, expert = [2 * WIDTH * hidden for hidden in (DENSE_HIDDEN, EXPERT_HIDDEN)]
    router = WIDTH * NUM_EXPERTS
    print("\nThe layer in the middle                weights   multiply-adds per fact")
    print(f"dense, {DENSE_HIDDEN} hidden units            {dense:12,d}{dense:12,d}")
    total, active = NUM_EXPERTS * expert + router, expert + router
    print(f"{NUM_EXPERTS} experts and a router          {total:12,d}{active:12,d}")
    print(f"{NUM_EXPERTS} experts and a table           {NUM_EXPERTS * expert:12,d}{expert:12,d}")


def report_table(results: dict[str, Measured], dense: dict[float, Measured]) -> None:
    """One line per arm."""
    everything = len(results["dense"].right) * math.log2(NUM_VALUES)
    rates = ", ".join([f"{result.accuracy:.3f} at {rate:g}" for rate, result in dense.items()])
    print(f"\nDense, by learning rate: {rates}.")
    print("The best one counts.")
    print("\nWhat is remembered; load of the busiest expert; mutual information in nats")
    print(f"{'':24}correct   bits   load   expert;subject   expert;relation")
    print(f"{'a guess':24}{1.0 / NUM_VALUES:7.3f}{0:7d}")
    for title, result in results.items():
        line = f"{title:24}{result.accuracy:7.3f}{result.bits:7.0f}"
        if title != "dense":
            line += f"{result.load:7.2f}{result.mi[0]:12.2f}{result.mi[1]:18.2f}"
        print(line)
    print(f"{'all that there is':24}{1.0:7.3f}{everything:7.0f}")


def report_grids(results: dict[str, Measured]) -> None:
    """Who answers which fact, three arms side by side."""
    shown = ("experts, random table", "experts, router", "skewed, not balanced")
    print("\nWhich expert answers (line: subject, column: relation); a dot: answered wrongly")
    print("".join([f"{title:{NUM_RELATIONS + 3}}" for title in shown]).rstrip())
    for first in range(0, NUM_SUBJECTS * NUM_RELATIONS, NUM_RELATIONS):
        parts = []
        for title in shown:
            result = results[title]
            marks = [str(e) if ok else "." for e, ok in zip(result.experts, result.right)]
            parts.append("".join(marks[first : first + NUM_RELATIONS]))
        print("   ".join(parts))


def report_conclusion(numbers: dict[str, float], results: dict[str, Measured]) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    dense, table, router, skewed, balanced = list(numbers.values())[:5]
    verb = "remember more than" if router > dense + 0.05 else "remember no more than"
    print(f"\nAt the same multiply-adds, eight experts {verb} a dense layer:")
    print(f"{router:.3f} of the facts against {dense:.3f}.")
    if table > router + 0.01:
        print(f"A random table, which knows nothing, divides the facts better still: {table:.3f}.")
    else:
        print(f"A random table divides the facts no better than the router: {table:.3f}.")
    load, even_load = [results[f"skewed, {how}"].load for how in ("not balanced", "balancing loss")]
    biased = results["skewed, balancing bias"]
    print(f"With a head start for one expert, the busiest takes {load:.1f} times its share, and")
    print(
        f"{skewed:.3f} are remembered. With the balancing loss it takes {even_load:.1f} times its"
    )
    verb = "more" if balanced > skewed + 0.02 else "hardly more" if balanced > skewed else "no more"
    print(f"share, and {verb} is remembered: {balanced:.3f} ({biased.accuracy:.3f} with the bias).")


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


def softmax(x: Tensor) -> Tensor:
    """softmax of every row of x [N][M]."""
    data = [softmax_row(row) for row in x.data]

    # y_i = exp(x_i) / total, so dy_i/dx_j = y_i ((i == j) - y_j), and
    # d_x_j = sum_i d_i dy_i/dx_j = y_j (d_j - sum_i d_i y_i).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for y, d_row in zip(data, d_out):
            mean = dot(y, d_row)
            d_x.append([p * (d - mean) for p, d in zip(y, d_row)])
        return (d_x,)

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


if __name__ == "__main__":
    main()
