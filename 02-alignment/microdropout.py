"""Dropout keeps a network from learning wrong labels by heart, and so, mostly, does a lower rate.

A network with far more weights than examples can learn any labels by heart, right or wrong (Zhang
et al., 2016). On new images it is then sure of itself where it should not be. Dropout makes
learning by heart harder: in every step, and for every example anew, it sets each hidden unit to
zero with probability p, here one half. The network must answer with whichever units are left.

The run trains on 200 handwritten digits, a fifth of which were given a random label, and tests on
360 digits of other writers. It trains in three ways, called arms: with dropout; without it and at
the same learning rate; without it and at the rate that suits a plain network best. ("Plain" means
without dropout, and "rate" always means the learning rate.) All three meet the same three training
sets, with the same first weights and the same batches, so their losses can be subtracted set by
set. Look at four things: how much of dropout's gain is left when the rival may choose its rate, or
stop in time; how many of the wrong labels each network has learned; how often it is right when
hidden units are taken from it after training; and whether the mean of many masked answers is a
better answer than that of the whole network.

In the code   In the papers   Meaning                                                  Shape
p             1 - p (2014)    probability to drop a unit, as in PyTorch                a number
mask          r, m            0 where a unit is dropped, 1 / (1 - p) where it is kept  [N][64]
hidden        y, h            outputs of the hidden units                              [N][64]
logits        z               scores; softmax makes a row of them probabilities        [N][10]
loss                          mean of -log(probability of the label), in nats          a number
(N is the number of images. Srivastava et al., 2014, write p for the probability to keep a unit.)

What is left out: dropout in convolutions (whole channels), in attention and on whole residual
branches (DropPath); other remedies for wrong labels; ensembles of networks; images shifted and
turned as further examples.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed (seed_1 has SEED = 1), and stands in results/microdropout.json under that key.

Read first: microautograd.

Papers: Hinton et al., "Improving neural networks by preventing co-adaptation of feature
detectors", 2012, arXiv:1207.0580. Srivastava et al., "Dropout: A Simple Way to Prevent Neural
Networks from Overfitting", 2014, JMLR 15. Wager et al., "Dropout Training as Adaptive
Regularization", 2013, arXiv:1307.1493. Baldi & Sadowski, "Understanding Dropout", 2013, NeurIPS.
Gal & Ghahramani, "Dropout as a Bayesian Approximation", 2015, arXiv:1506.02142. Zhang et al.,
"Understanding deep learning requires rethinking generalization", 2016, arXiv:1611.03530.
Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2017, arXiv:1711.05101.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import random
import statistics
import time
import urllib.request
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
NUM_SETS = 3  # training sets, each met by every kind of training
NUM_ROWS = 200  # digits in a training set
WRONG = 0.2  # share of them that get a random label
NUM_HIDDEN = 64  # units of the hidden layer
BATCH_SIZE = 20  # digits per step
NUM_EPOCHS = 30  # passes through a training set
BETAS = (0.9, 0.99)  # of AdamW
CHECK_EVERY = 3  # epochs between two looks at the validation digits, for early stopping

# Learning rate (constant), p of dropout, weight decay. The rate of "own rate" is the best of a
# grid, on the validation digits and with training sets drawn anew (other seeds). For dropout
# several settings of such a grid do about as well as each other; this one has the customary p. (The
# grids are not part of this run.)
ARMS = {
    "same rate": (0.006, 0.0, 0.0),  # as dropout, but without it
    "own rate": (0.003, 0.0, 0.0),
    "dropout": (0.006, 0.5, 0.0),
}
SHARES_CUT = (0.0, 0.25, 0.5, 0.75)  # of the hidden units, after training
NUM_MASKS = 30  # masked answers that are averaged

# === DIGITS, SOME OF THEM WITH WRONG LABELS ===

# The rows of the data stand in the order of their writers. Training sets are drawn from the first
# 1,100 rows (the pool). Every third of the next 337 rows is for validation, and the last 360 rows
# are for the test. So test losses are on other people's handwriting; validation losses mostly are,
# as one writer may stand on both sides of a cut. Labels are wrong in training only.

Matrix = list[list[float]]


class Examples(NamedTuple):
    """Images with the labels that the network is told, and the digits that they show."""

    images: Matrix  # [N][64]
    labels: list[int]  # N
    digits: list[int]  # N; the same as labels, except where a label is wrong


def draw_training_set(pool: Examples, rng: random.Random) -> Examples:
    """NUM_ROWS digits of the pool, a share WRONG of which gets a random label. One random label in
    ten happens to be right.
    """
    rows = rng.sample(range(len(pool.images)), NUM_ROWS)
    digits = [pool.digits[i] for i in rows]
    num_random = round(WRONG * NUM_ROWS)
    labels = [rng.randrange(10) for _ in range(num_random)] + digits[num_random:]
    return Examples([pool.images[i] for i in rows], labels, digits)


# How low should the *training* loss go? A perfect reader recognises every digit, and knows how many
# labels are random but not which. This reader gives the digit in the image a probability of
# 0.8 + 0.2 / 10 and each other one 0.2 / 10. On labels not seen before, nobody can expect a lower
# loss. So a network whose training loss is clearly lower has learned labels by heart. (On the test,
# where all labels are right, the same answers cost only -log(0.82) = 0.198.)


def honest_loss(wrong: float) -> float:
    """The expected training loss of a perfect reader, when a share of the labels is random.

    0.82 * 0.198 + 9 * 0.02 * 3.912 for one label in five:
    >>> round(honest_loss(0.2), 3), honest_loss(0.0)
    (0.867, 0.0)
    """
    right, other = 1.0 - wrong + wrong / 10.0, wrong / 10.0
    return sum([-q * log(q) for q in (right, *[other] * 9) if q > 0.0])


# === DROPOUT: A NEW MASK FOR EVERY EXAMPLE ===

# With p = 0.5, hidden outputs (1, 3) become (2, 6), (2, 0), (0, 6) or (0, 0), each with probability
# 1/4. Kept outputs are divided by 1 - p, so that the mean over the masks is (1, 3) again: the next
# layer receives, on average, what it will receive when nothing is dropped. So after training there
# is nothing to do but to leave dropout off. (The papers of 2012 and 2014 do not scale in training,
# but multiply weights by 1 - p at test time. Libraries scale in training, as here:
# torch.nn.Dropout(p), which model.train() switches on and model.eval() off. If model.eval() is
# forgotten, the networks trained with dropout lose to the plain ones at their own rate, by
# 0.233 [results: left_on.tuned_difference] nats. torch.no_grad() does not switch dropout off, and
# torch.nn.functional.dropout(x, p) is on unless it is called with training=False.)
#
# The masks must be fresh. If the first one drawn served for the whole run, about half of the units
# would never be trained, and the whole network, which uses them too, would lose to the plain one at
# its own rate by 0.293 [results: one_mask.tuned_difference] nats.
#
# For the gradient the mask is a constant. On the way back the gradient is multiplied by the same
# mask, so it has to be kept until then: one bit of information for each number that passes. (On a
# GPU, PyTorch keeps one byte.)


def dropout(x: Tensor, p: float, rng: random.Random) -> Tensor:
    """Set each entry of x [N][M] to zero with probability p, and divide the rest by 1 - p.

    The division keeps every entry's expectation. Call it in training only.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p = {p} is not a probability below 1")
    keep = 1.0 / (1.0 - p)
    mask = [[keep if rng.random() >= p else 0.0 for _ in row] for row in x.data]
    return x * Tensor(mask, requires_grad=False)


class MLP:
    """64 pixels -> NUM_HIDDEN units with ReLU -> dropout -> 10 logits."""

    def __init__(self, matrices: Sequence[Matrix]) -> None:
        self.w1, self.b1, self.w2, self.b2 = map(Tensor, matrices)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        return [self.w1, self.b1, self.w2, self.b2]

    def copy(self) -> MLP:
        """The network of this moment. (Training replaces matrices and never writes into them.)"""
        return MLP([parameter.data for parameter in self.parameters()])

    def hidden(self, images: Matrix) -> Tensor:
        """Images [N][64] -> outputs of the hidden units [N][NUM_HIDDEN]."""
        return relu(linear(Tensor(images, requires_grad=False), self.w1, self.b1))

    def logits(self, hidden: Tensor) -> Tensor:
        """[N][NUM_HIDDEN] -> [N][10]. Logits are never dropped: one that is set to 0 would say
        nothing about its class. (Pixels are not dropped here either; the papers of 2012 and 2014
        drop inputs too, with a smaller p.)
        """
        return linear(hidden, self.w2, self.b2)

    def forward(self, images: Matrix, p: float = 0.0, masks: random.Random | None = None) -> Tensor:
        """Images [N][64] -> logits [N][10]. masks: the random generator to draw masks from; None
        means that nothing is dropped.
        """
        hidden = self.hidden(images)
        # Before or after ReLU makes no difference: for c >= 0, relu(c * x) = c * relu(x).
        if masks is not None and p > 0.0:
            hidden = dropout(hidden, p, masks)
        return self.logits(hidden)


def new_network(rng: random.Random) -> MLP:
    """Random weights. ReLU takes away about half of the mean square, hence the 2 in w1 (He et al.,
    2015, arXiv:1502.01852). No ReLU follows w2.
    """

    def matrix(rows: int, columns: int, spread: float) -> Matrix:
        return [[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)]

    w1 = matrix(NUM_HIDDEN, 64, (2.0 / 64) ** 0.5)
    w2 = matrix(10, NUM_HIDDEN, NUM_HIDDEN**-0.5)
    return MLP([w1, [[0.0] * NUM_HIDDEN], w2, [[0.0] * 10]])


# === TRAINING, THE SAME FOR ALL BUT ONE THING ===

# Masks have a random generator of their own. If they drew from the one that shuffles the examples,
# switching dropout on would change all batches too, and the comparison would be of two things at
# once.
#
# Why should a lower rate, or an earlier end, do much of what dropout does? Right labels agree with
# each other, so one step helps with many of them. Each wrong label has to be learned for itself,
# and that takes longer. (Arpit et al., 2017, arXiv:1706.05394, find that networks learn what is
# common before they learn by heart.) A lower rate and fewer epochs both end the training before
# much of that has happened. Nor does dropout train faster. In the validation losses printed for
# set 1 it stands at 1.489 after three epochs, where the plain network at the same rate has 1.171.


class Trained(NamedTuple):
    """What a training leaves behind."""

    last: MLP  # after the last epoch
    stopped: MLP  # when the validation loss was lowest (early stopping)
    curve: list[float]  # validation loss, every CHECK_EVERY epochs


def train(arm: str, training: Examples, validation: Examples, seeds: Sequence[int]) -> Trained:
    """Train a fresh network in the way that ARMS says. seeds: one for first weights and order, one
    for masks.
    """
    rate, p, weight_decay = ARMS[arm]
    rng, masks = map(random.Random, seeds)
    model = new_network(rng)
    # Decoupled weight decay: each step multiplies every parameter by 1 - rate * weight_decay. In
    # ARMS the decay is 0, which makes AdamW the same as Adam; one check below changes it.
    optimizer = AdamW(model.parameters(), BETAS, weight_decay=weight_decay)
    stopped, curve = model, []
    for epoch in range(1, NUM_EPOCHS + 1):
        order = rng.sample(range(NUM_ROWS), NUM_ROWS)
        for first in range(0, NUM_ROWS, BATCH_SIZE):
            batch = order[first : first + BATCH_SIZE]
            images = [training.images[i] for i in batch]
            labels = [training.labels[i] for i in batch]

            # A fresh mask for each image of the batch. Where it is zero no gradient comes back, so
            # a dropped unit is not told to fit this image's label.
            loss = cross_entropy(model.forward(images, p, masks), labels)
            loss.backward()
            optimizer.step(rate)

        if epoch % CHECK_EVERY == 0 or epoch == NUM_EPOCHS:
            curve.append(evaluate(model, validation)[0])
            if curve[-1] == min(curve):
                stopped = model.copy()
    return Trained(model, stopped, curve)


def evaluate(model: MLP, examples: Examples) -> tuple[float, float]:
    """(loss, accuracy) of the whole network: nothing is dropped."""
    return score(model.forward(examples.images).data, examples.labels)


def score(logits: Matrix, labels: Sequence[int]) -> tuple[float, float]:
    """(mean loss, share of rows in which the label has the largest logit): [N][10], N."""
    loss = cross_entropy(Tensor(logits), labels).item()
    hits = sum([row.index(max(row)) == label for row, label in zip(logits, labels)])
    return loss, hits / len(labels)


# === WHAT THE WHOLE NETWORK'S ANSWER IS ===

# Dropping units at random from 64 makes 2^64 smaller networks that share their weights. It is often
# said that the whole network answers with their mean. With which mean? The logits are linear in the
# masked outputs, plus a bias, and the mean of the mask is 1. So the mean *logits* over all masks
# are exactly the logits of the whole network. For probabilities this is the geometric mean, scaled
# to sum to 1 (Baldi & Sadowski, 2013):
#
#     (product over masks m of softmax(z_m)[c])^(1 / number of masks)
#         = exp(mean over m of (z_m[c] - log_sum_exp(z_m)))   is proportional to   exp(mean z_m[c])
#
# since log_sum_exp(z_m) is the same for all classes c. (With p = 0.5 all masks are equally likely;
# otherwise each counts by its probability. With more than one hidden layer, the whole network only
# approximates this mean.) The usual, arithmetic mean of the probabilities is another answer, known
# as Monte Carlo dropout. The spread of the masked answers is offered as a measure of uncertainty
# (Gal & Ghahramani, 2015); this run does not test that.
#
# Take hidden outputs (1, 3) again, and class A against class B, with the logits h1 + h2 for A and 0
# for B. The four masks give A the logits 0, 2, 6, 8 and the probabilities 0.50, 0.88, 1.00, 1.00.
# Their mean is 0.84; the whole network has the logit 4, and says 0.98. (A test goes through all 256
# masks of a network with 8 units. The run draws 30 masks, so its geometric mean is only near the
# whole network's answer.)
#
# In this example the arithmetic mean is less sure, and being less sure raises the loss of a right
# answer. In this run too the arithmetic mean has the higher loss; when no training label is wrong,
# it has it still, by 0.031 [results: right_labels.monte_carlo_gap] nats.


def masked_passes(model: MLP, images: Matrix, p: float, count: int, rng: random.Random) -> list:
    """The logits [N][10] of `count` passes, each with fresh masks. The masks come after the hidden
    layer, so that it need not be computed again.
    """
    hidden = Tensor(model.hidden(images).data, requires_grad=False)
    return [model.logits(dropout(hidden, p, rng)).data for _ in range(count)]


def geometric_mean(passes: Sequence[Matrix]) -> Matrix:
    """The mean of the passes' logits. Its softmax is the geometric mean of their answers, scaled to
    sum to 1.
    """
    return [[sum(zs) / len(passes) for zs in zip(*rows)] for rows in zip(*passes)]


def arithmetic_mean(passes: Sequence[Matrix]) -> Matrix:
    """The log of the mean of the passes' probabilities. (These serve as logits: their softmax is
    that mean.)

    >>> passes = [[[z, 0.0]] for z in (0.0, 2.0, 6.0, 8.0)]
    >>> [round(softmax_row(mean(passes)[0])[0], 2) for mean in (geometric_mean, arithmetic_mean)]
    [0.98, 0.84]
    """
    log_answers = [[log_softmax_row(row) for row in logits] for logits in passes]
    count = log(len(passes))
    return [[log_sum_exp(list(qs)) - count for qs in zip(*rows)] for rows in zip(*log_answers)]


def log_softmax_row(row: Sequence[float]) -> list[float]:
    """The log probabilities that belong to a row of logits."""
    total = log_sum_exp(list(row))
    return [z - total for z in row]


# What does all this do to the weights? For a linear model whose inputs are dropped, with squared
# error, it can be computed. The mean loss over all masks is the loss without dropout plus
#
#     p / (1 - p) * sum over inputs i of w_i^2 x_i^2
#
# which is an L2 penalty on w, strong where an input is often large, and none where it is always 0
# (Wager et al., 2013). For the network here, which learns its hidden outputs, this is only a guide.
# For w = (1, 1) and x = (1, 3), p = 0.5, target 4: the four masks predict 0, 2, 6 and 8, with
# squared errors 16, 4, 4 and 16. Their mean is 10, and 1 * (1 + 9) = 10.

# === MEASURING ===

# A difference between two kinds of training is taken set by set. Which 200 digits a set holds, and
# which of them are mislabelled, moves all losses of the set up and down together; in the
# differences, much of this cancels. Losses are compared rather than accuracies, because a loss also
# counts how sure a wrong answer is. (0.022 in accuracy, as between "dropout" and "own rate", is
# about 8 of 360 digits.)
#
# Three sets are still few. They come from one pool, so they share some digits, and all are tested
# on the same 360 digits: the standard error says nothing about other test digits. Seeds 1, 2 and 3
# draw three other sets each. There, dropout's test loss minus that of the plain network is, on
# average,
#
#   at the same rate                                 against the plain network's own rate
#   -0.15 [results: seed_1.shared_rate_difference]   -0.043 [results: seed_1.tuned_difference]
#   -0.11 [results: seed_2.shared_rate_difference]   +0.003 [results: seed_2.tuned_difference]
#   -0.13 [results: seed_3.shared_rate_difference]   -0.032 [results: seed_3.tuned_difference]
#
# So the gain at the same rate is found on all seeds; what is left of it against the plain network's
# own rate is not. If the plain network at the same rate is stopped in time, the differences are
# -0.004 [results: seed_1.stopped_difference], +0.01 [results: seed_2.stopped_difference] and
# -0.012 [results: seed_3.stopped_difference]: this too undoes most of the gain. (Dropout itself is
# not stopped in these differences. The table has the losses of all arms when stopped.) Two more
# checks, each a run of its own:
#
#   - All labels are right; the rates stay. (The sets are drawn anew, but for the images of set 1.)
#     Dropout's loss minus the plain network's is then
#     -0.02 [results: right_labels.shared_rate_difference] at the same rate, and
#     +0.009 [results: right_labels.tuned_difference] against its own rate. Most of the gain
#     belongs to the wrong labels. "Dropout always helps" is not what these numbers show.
#   - On the sets of this run, the plain network at its own rate gets a weight decay of 0.2.
#     Dropout's loss is still lower: -0.049 [results: weight_decay.tuned_difference]. So this decay
#     hardly changes the loss; it takes 0.003 * 0.2 = 0.06% off every weight in each of 300 steps.
#
# A luxury: the validation digits, on which rates and stopping points are chosen, have right labels
# only. Labels of your own that are wrong in training are likely to be wrong in validation too.
#
# In practice: BERT and the first GPT were trained with p = 0.1. Many language models since are
# trained without dropout: they see most of their text only once, and have little occasion to learn
# it by heart. Fine-tuning on few examples is where a p such as 0.1 is still common.


def paired_difference(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """The mean of a - b, pair by pair, and its standard error.

    >>> paired_difference([1.0, 2.0, 6.0], [2.0, 3.0, 7.0])
    (-1.0, 0.0)
    """
    differences = list(map(sub, a, b))
    return statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5


def wrong_labels_learned(model: MLP, training: Examples) -> float:
    """The share of the wrong labels that the network gives as its answer. (A random label that
    happens to be right does not count as wrong.)
    """
    answers = [row.index(max(row)) for row in model.forward(training.images).data]
    told = list(zip(answers, training.labels, training.digits))
    learned = [answer == label for answer, label, digit in told if label != digit]
    return sum(learned) / len(learned) if learned else 0.0


def accuracy_without_units(
    model: MLP, examples: Examples, share: float, rng: random.Random
) -> float:
    """Accuracy when each hidden unit is missing with probability `share`, for each image anew; the
    others are scaled up, as in training.

    Hinton et al., 2012, want to prevent co-adaptation: units that are of use only together with
    certain others. A network of such units should suffer when some are missing. But dropout has
    trained its network for just this, with p = 0.5. So the result fits their explanation, and does
    not prove it.
    """
    (logits,) = masked_passes(model, examples.images, share, 1, rng)
    return score(logits, examples.labels)[1]


def measure(arm: str, run: Trained, training: Examples, held_out: Examples, seed: int) -> dict:
    """All numbers of one training; the same masks for every arm."""
    rng = random.Random(seed)
    loss, accuracy = evaluate(run.last, held_out)
    numbers = {
        "training loss": evaluate(run.last, training)[0],
        "loss": loss,
        "accuracy": accuracy,
        "stopped": evaluate(run.stopped, held_out)[0],
        "learned": wrong_labels_learned(run.last, training),
        "cut": [accuracy_without_units(run.last, held_out, s, rng) for s in SHARES_CUT],
    }
    if arm == "dropout":
        p = ARMS[arm][1]
        passes = masked_passes(run.last, held_out.images, p, NUM_MASKS, rng)
        numbers["one mask"] = score(passes[0], held_out.labels)[0]
        numbers["geometric"] = score(geometric_mean(passes), held_out.labels)[0]
        numbers["arithmetic"] = score(arithmetic_mean(passes), held_out.labels)[0]
    return numbers


def main() -> dict[str, object]:
    """Train in three ways on the same sets, compare, and take the networks apart."""
    rng = random.Random(SEED)
    images, digits = load_digits()
    pool, validation, held_out = [
        Examples(images[part], digits[part], digits[part])
        for part in (slice(1100), slice(1100, 1437, 3), slice(1437, None))
    ]
    report_data(validation, held_out)
    results: dict[str, list[dict]] = {arm: [] for arm in ARMS}
    runs: list[dict[str, Trained]] = []
    sets: list[Examples] = []
    start = time.perf_counter()
    for index in range(NUM_SETS):
        training, seeds = draw_training_set(pool, rng), [rng.randrange(2**32) for _ in range(3)]
        sets.append(training)
        runs.append({})
        for arm in ARMS:
            run = runs[-1][arm] = train(arm, training, validation, seeds[:2])
            results[arm].append(measure(arm, run, training, held_out, seeds[2]))
            loss = results[arm][-1]["loss"]
            print(f"set {index + 1}/{NUM_SETS} | {arm:<9} | test loss {loss:.3f}", flush=True)
    print(f"time  {len(ARMS) * NUM_SETS} trainings took {time.perf_counter() - start:.1f} s")

    def mean(arm: str, key: str) -> float:
        return statistics.mean([numbers[key] for numbers in results[arm]])

    half = SHARES_CUT.index(0.5)
    dropped, plain = [[row["cut"][half] for row in results[a]] for a in ("dropout", "own rate")]
    differences = report_losses(results)
    report_units(results)
    report_means({key: mean("dropout", key) for key in MEANS})
    report_pictures(sets[0], runs[0])
    headline = {
        "shared_rate_difference": differences["same rate"][0],
        "tuned_difference": differences["own rate"][0],
        "stopped_difference": differences["same rate, stopped"][0],
        "half_units_gain": paired_difference(dropped, plain)[0],
        "geometric_gap": mean("dropout", "geometric") - mean("dropout", "loss"),
        "monte_carlo_gap": mean("dropout", "arithmetic") - mean("dropout", "loss"),
    }
    report_conclusion(headline, differences, {arm: mean(arm, "learned") for arm in ARMS})
    return {**headline, "details": {"results": results, "differences": differences}}


# === APPENDIX: REPORT AND HELPERS ===

MEANS = {
    "loss": "nothing dropped: the whole network, one pass",
    "geometric": f"geometric mean of {NUM_MASKS} masked passes",
    "arithmetic": "arithmetic mean of the same passes (Monte Carlo dropout)",
    "one mask": "one masked pass",
}


def report_data(validation: Examples, held_out: Examples) -> None:
    """The sizes, and two numbers to hold losses against."""
    numbers = 64 * NUM_HIDDEN + NUM_HIDDEN + 10 * NUM_HIDDEN + 10
    print(f"{NUM_SETS} training sets of {NUM_ROWS} digits, {WRONG:.0%} of them with random labels;")
    print(f"{len(validation.labels)} digits for validation, {len(held_out.labels)} for the test,")
    print(f"all by other writers. A network of {numbers:,} numbers: 64 - {NUM_HIDDEN} - 10.")
    print(f"To know nothing costs ln 10 = {log(10):.3f} nats.\n")


def report_losses(results: dict[str, list[dict]]) -> dict:
    """The table of arms, and dropout's paired differences to its rivals:
    name -> (mean, standard error, one for each set).
    """
    print(f"\n{'Mean of the sets':<18}training    test              early   wrong labels")
    print(f"{'':<18}    loss    loss  accuracy  stopped   learned")
    for arm, rows in results.items():
        keys = ("training loss", "loss", "accuracy", "stopped", "learned")
        means = [statistics.mean([row[key] for row in rows]) for key in keys]
        train_loss, loss, accuracy, stopped, learned = means
        print(f"{arm:<18}{train_loss:8.3f}{loss:8.3f}{accuracy:10.3f}{stopped:9.3f}{learned:10.0%}")
    print(f"perfect reader    {honest_loss(WRONG):8.3f}   (expected; less is learned by heart)")
    print("\nTest loss of dropout minus that of")
    ours = [row["loss"] for row in results["dropout"]]
    rivals = {
        "same rate": [row["loss"] for row in results["same rate"]],
        "own rate": [row["loss"] for row in results["own rate"]],
        "same rate, stopped": [row["stopped"] for row in results["same rate"]],
    }
    differences = {}
    for name, losses in rivals.items():
        mean, error = paired_difference(ours, losses)
        each = list(map(sub, ours, losses))
        differences[name] = (mean, error, each)
        cells = "".join([f"{difference:+8.3f}" for difference in each])
        print(f"{name:<20}{cells}   mean {mean:+.3f}, standard error {error:.3f}")
    return differences


def report_units(results: dict[str, list[dict]]) -> None:
    """Accuracy against the share of hidden units that are missing, with bars for one half."""
    half = SHARES_CUT.index(0.5)
    print(
        f"\n{'Accuracy without':<16}" + "".join([f"{share:7.0%}" for share in SHARES_CUT]), end=""
    )
    print("  of the hidden units")
    for arm, rows in results.items():
        means = [statistics.mean(column) for column in zip(*[row["cut"] for row in rows])]
        cells = "".join([f"{accuracy:7.3f}" for accuracy in means])
        print(f"{arm:<16}{cells}  50%: {'#' * round(28 * means[half])}")


def report_means(losses: dict[str, float]) -> None:
    """Four ways to get an answer from the networks trained with dropout."""
    print("\nTest loss of the networks trained with dropout, by the way they answer")
    for key, loss in losses.items():
        print(f"{loss:.3f}  {MEANS[key]}")


def report_pictures(training: Examples, runs: dict[str, Trained]) -> None:
    """The validation losses as they went, and digits of set 1 with wrong labels that the plain
    network of the same rate has learned and the one with dropout has not.
    """
    print("\nValidation loss on set 1; the lowest of each line is marked")
    checks = [e for e in range(1, NUM_EPOCHS + 1) if e % CHECK_EVERY == 0 or e == NUM_EPOCHS]
    print(f"{'epoch':<10}" + "".join([f"{epoch:>6} " for epoch in checks]).rstrip())
    for arm, run in runs.items():
        cells = [f"{loss:6.3f}{'*' if loss == min(run.curve) else ' '}" for loss in run.curve]
        print(f"{arm:<10}{''.join(cells)}".rstrip())
    answers = {
        arm: [softmax_row(row) for row in runs[arm].last.forward(training.images).data]
        for arm in ("same rate", "dropout")
    }
    chosen = []
    for i, (label, digit) in enumerate(zip(training.labels, training.digits)):
        plain, dropped = [rows[i].index(max(rows[i])) for rows in answers.values()]
        if label != digit and plain == label and dropped == digit:
            chosen.append(i)
    print("\nWrong labels of set 1 that were learned without dropout (same rate), while with")
    print(f"dropout the digit is read: {len(chosen)}{'; the first of them' if chosen else ''}")
    columns = []
    for i in chosen[:3]:
        pixels = training.images[i]
        lines = shade([pixels[r : r + 8] for r in range(0, 64, 8)])
        lines.append(f"a {training.digits[i]}, label {training.labels[i]}")
        for arm, rows in answers.items():
            best = max(rows[i])
            lines.append(f"{arm}: {rows[i].index(best)} ({best:.0%})")
        columns.append(lines)
    for row in zip(*columns):
        print("   ".join([f"{text:<20}" for text in row]).rstrip())


def report_conclusion(
    headline: dict[str, float], differences: dict, learned: dict[str, float]
) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    shares = ", ".join([f"{share:.0%} ({arm})" for arm, share in learned.items()])
    print(f"\nWrong labels learned: {shares}.")
    titles = {
        "same rate": "a plain network at the same rate",
        "same rate, stopped": "the same one, stopped in time",
        "own rate": "a plain network at its own rate",
    }
    print("Dropout's test loss beside that of")
    for name, title in titles.items():
        mean, _, each = differences[name]
        word = "lower" if mean < 0.0 else "higher"
        wins = sum([difference < 0.0 for difference in each])
        print(f"  {title}: {abs(mean):.3f} {word} (lower on {wins} of {NUM_SETS} sets)")
    if headline["shared_rate_difference"] < 2.0 * min(headline["tuned_difference"], 0.0):
        print("So more than half of what dropout gains at one rate is a matter of the rate.")
    if headline["half_units_gain"] > 0.0:
        print("With half of its hidden units missing, the network trained with dropout has an")
        print(
            f"accuracy that is {headline['half_units_gain']:.3f} higher than that of the plain one."
        )
    if headline["monte_carlo_gap"] > 0.0 and abs(headline["geometric_gap"]) < 0.02:
        print("The whole network in one pass answers as the geometric mean of masked passes,")
        print(f"and better than their arithmetic mean, by {headline['monte_carlo_gap']:.3f} nats.")


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


class AdamW(Adam):
    """Adam with decoupled weight decay: each step also shrinks every parameter by lr * decay.

    Loshchilov & Hutter, "Decoupled Weight Decay Regularization", 2019, arXiv:1711.05101,
    algorithm 2. The decay does not pass through Adam's scaling, so it acts on all numbers alike.
    """

    def __init__(
        self,
        parameters: list[Tensor],
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, betas, eps)
        self.weight_decay = weight_decay

    def step(self, lr: float) -> None:
        """Take one step with learning rate lr, and clear the gradients."""
        shrink = 1.0 - lr * self.weight_decay
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.data = [[x * shrink for x in row] for row in parameter.data]
        super().step(lr)


# === APPENDIX: DATA (common/data.py) ===

# Where a script finds its data when it was copied out of the repository.
DATA_URL = "https://raw.githubusercontent.com/Mathews-Tom/no-magic/main/data/"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"


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


def load_digits() -> tuple[list[list[float]], list[int]]:
    """1,797 handwritten digits: images [1797][64] of values 0 to 1 (8 x 8 pixels), and labels.

    A pixel counts the ink in a 4 x 4 block of the scan, 0 to 16. The rows stand in the order of
    their writers, so a test on the last rows is mostly a test on new handwriting (one writer may
    stand on both sides of the cut).
    """
    text = gzip.decompress(load_data("digits.csv.gz", DIGITS_SHA256)).decode("ascii")
    rows = [list(map(int, line.split(","))) for line in text.split()]
    return [[ink / 16.0 for ink in row[:64]] for row in rows], [row[64] for row in rows]


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
