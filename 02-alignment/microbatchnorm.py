"""Batch normalisation takes off what all examples share, and a deep plain network learns faster.

A network of eight layers, each a matrix and a ReLU, is hard to train. A likely reason can be
measured before training starts: from layer to layer the vectors (a layer's outputs) of different
inputs turn towards one common direction, and little is left by which the last layer could tell
them apart. Batch normalisation looks at each unit of a layer, over the examples of the batch. It
subtracts the unit's mean and divides by its standard deviation. The mean, which all examples
share, is gone; what differs is left.

The run trains such a network on handwritten digits, for three epochs, at several learning rates:
without normalisation, with batch norm, with each of its two halves alone (only subtract the mean,
only divide), with layer norm, and as a plain network whose initial weights were normalised once.
Each of these is called an arm. Look at three things: how alike the digits are behind each layer
(their mean cosine), and which half keeps them apart; which arms learn, and at which rates; and the
price: under batch norm the same digit gets different answers in different batches.

N is the number of examples in the batch, D the number of units in the layer.

In the code    In the paper        Meaning                                           Shape
x              x                   a layer's output before ReLU, one row per example [N][D]
mean           mu_B                a unit's mean over the batch                      one per unit
variance       sigma_B^2           ... and its variance                              one per unit
normed         x-hat               (x - mean) / sqrt(variance + eps); code: [D][N]   [N][D]
gamma, beta    gamma, beta         learned scale and shift of each unit              [1][D]
running_...    E[x], Var[x]        moving averages of mean and variance              D
momentum       (no symbol)         weight of the newest batch in them, as in PyTorch one number

What is left out: convolutions (there the mean is over images and places, one for each channel);
networks with residual connections, in which layer norm does much better than here (RESIDUAL = True
tries them); training with small batches; and batch renormalisation, which was made for those.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microbatchnorm.json under that key.

Read first: microautograd.

Papers: Ioffe & Szegedy, "Batch Normalization", 2015, arXiv:1502.03167. Santurkar et al., "How Does
Batch Normalization Help Optimization?", 2018, arXiv:1805.11604. Bjorck et al., "Understanding
Batch Normalization", 2018, arXiv:1806.02375. Daneshmand et al., "Batch Normalization Provably
Avoids Rank Collapse for Randomly Initialised Deep Networks", 2020, arXiv:2003.01652. Ba et al.,
"Layer Normalization", 2016, arXiv:1607.06450. Wu & He, "Group Normalization", 2018,
arXiv:1803.08494. Ioffe, "Batch Renormalization", 2017, arXiv:1702.03275. Cho & Saul, "Kernel
Methods for Deep Learning", 2009.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from collections.abc import Callable, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_TRAIN = 1437  # the first 80% of the file; the rest is mostly by other writers
WIDTH = 16  # units of a layer
NUM_LAYERS = 8  # layers with ReLU, before the last one
RESIDUAL = False  # True: from layer 2 on, what a layer computes is added to its input
BATCH_SIZE = 32  # images per step
EPOCHS = 3  # THE RUN says what four times as many change
RATES = (0.1, 0.3, 1.0)  # learning rates: each arm is judged at its best
NUM_STARTS = 10  # untrained networks over which the cosines are averaged
NUM_COMPARED = 64  # images whose directions are compared
COMPANY = 30  # images in a batch of one class: the test has 33 or more of each

# === BATCH NORMALISATION ===

# For each unit (column of x), over the N examples of the batch:
#
#     mean     = 1/N sum x_n                      normed_n = (x_n - mean) / sqrt(variance + eps)
#     variance = 1/N sum (x_n - mean)^2           out_n    = gamma normed_n + beta
#
# Take a unit with the values 1, 3, 3, 5 in a batch of four. The mean is 3, the variance 2, so they
# become -1.41, 0, 0, 1.41. In a batch 3, 5, 5, 7 the same value 3 would become -1.41: a unit's
# output depends on its company, the rest of the batch. That is the method's gain and its price.
# (The company changes at random during training. The paper found that this noise also
# regularises; this run does not measure it.)
#
# After training, a digit must get one answer, whatever comes with it. So during training a running
# average of the means and variances is kept, which training itself does not use; after training it
# takes their place. In PyTorch, model.train() and model.eval() switch between the two modes, and
# forgetting eval() is a well-known mistake. The run shows what it costs. PyTorch's momentum 0.1 is
# the weight of the newest batch; in Keras, momentum 0.99 is the weight of the old average.
#
# gamma and beta start at 1 and 0, and let a unit have another mean and spread. (So the outputs are
# not N(0, 1): their shape is whatever it was, and gamma and beta move it.) A bias in front of batch
# norm would be dead weight, since subtracting the mean removes it: use Linear(..., bias=False).
# gamma = sqrt(variance) and beta = mean would undo it, but for one batch only.

Row = list[float]
Matrix = list[Row]


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Row,
    running_var: Row,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each column of x [N][D] over the batch, then apply gamma [1][D] and beta [1][D].

    In training the running statistics (lists of D) are updated; otherwise they are what is used.
    eps prevents a division by zero where a unit has no variance.

    >>> x = Tensor([[1.0], [3.0], [3.0], [5.0]])
    >>> out = batch_norm(x, Tensor([[1.0]]), Tensor([[0.0]]), [0.0], [1.0], training=True)
    >>> [round(value, 2) for (value,) in out.data]
    [-1.41, 0.0, 0.0, 1.41]
    """
    columns = transpose(x.data)
    if training:
        means, variances = batch_statistics(columns)
        update_running(running_mean, running_var, means, variances, len(x.data), momentum)
    else:
        means, variances = running_mean, running_var
    scales = [(variance + eps) ** -0.5 for variance in variances]
    normed = [  # [D][N]
        [(value - mean) * scale for value in column]
        for column, mean, scale in zip(columns, means, scales)
    ]
    gains, shifts = gamma.data[0], beta.data[0]
    out = [[g * n + b for n in column] for column, g, b in zip(normed, gains, shifts)]

    # Each x_n acts on its own output and, through mean and variance, on all others. Let d be the
    # gradient of a column of out. From d(mean)/d(x_n) = 1/N and d(variance)/d(x_n) =
    # 2 (x_n - mean) / N follows
    #   d_x_n = gamma / sqrt(variance + eps) (d_n - mean(d) - normed_n mean(d normed))
    # Batch norm sets the column's mean and size anew. So pushing all x_n up, or all away from the
    # mean, would be in vain, and the two subtracted terms remove just these two directions from the
    # gradient (but for eps). With d = (1, 0, 0, 0) in the example and gamma = 1: mean(d) = 0.25,
    # mean(d normed) = -0.354, and d_x = (0.25, -0.25, -0.25, 0.25) / 1.41: its sum is 0, and so is
    # its inner product with normed. Running statistics are constants: then only the factor remains.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_columns = transpose(d_out)
        d_gamma = [dot(d, n) for d, n in zip(d_columns, normed)]
        d_beta = [sum(d) for d in d_columns]
        d_x = []
        for d, n, g, scale, total, along in zip(d_columns, normed, gains, scales, d_beta, d_gamma):
            factor = g * scale
            shift, slope = (total / len(d), along / len(d)) if training else (0.0, 0.0)
            d_x.append([factor * (d_n - shift - n_n * slope) for d_n, n_n in zip(d, n)])
        return transpose(d_x), [d_gamma], [d_beta]

    return Tensor(transpose(out), (x, gamma, beta), pass_back)


def batch_statistics(columns: Matrix) -> tuple[Row, Row]:
    """Mean and variance of each column: [D][N] -> D, D."""
    count = len(columns[0])
    if count < 2:
        raise ValueError("one example has no variance: batch norm trains on two or more")
    means = [sum(column) / count for column in columns]
    centred = [[value - mean for value in column] for column, mean in zip(columns, means)]
    variances = [dot(column, column) / count for column in centred]
    return means, variances


def update_running(
    running_mean: Row, running_var: Row, means: Row, variances: Row, count: int, momentum: float
) -> None:
    """Move the running statistics (changed in place) a little way to those of the batch.

    As in the paper and in PyTorch the variance is the unbiased one here, times N / (N - 1): a
    batch's own mean lies nearer to its values than the true mean does. In training, x is divided
    by the root of the biased one.
    """
    unbiased = [variance * count / (count - 1) for variance in variances]
    running_mean[:] = [r + momentum * (m - r) for r, m in zip(running_mean, means)]
    running_var[:] = [r + momentum * (v - r) for r, v in zip(running_var, unbiased)]


# Multiply a unit's weights by 2. Its x doubles, and so do mean and standard deviation, hence the
# output stays the same (but for eps). So the loss does not depend on the length of these weights.
# It follows that the gradient is at right angles to them, and half as large for weights of twice
# the length. A step at a right angle always makes the weights longer. So a rate that is too high
# makes them grow until the steps are small beside them. In the run, see which arms learn at the
# rate 1.0: "scale only" shares this property, and it is not enough there.
#
# The paper explains batch norm by "internal covariate shift": later layers need not follow the
# changing distributions of earlier ones. Santurkar et al. added shifting random noise behind each
# batch norm, and the networks trained almost as well. The next sections test another explanation.
#
# In production: torch.nn.BatchNorm1d; BatchNorm2d for images; SyncBatchNorm, which computes the
# statistics over the batches of all GPUs. Each keeps its input, [N][D], for the backward pass.

# === THE NETWORK AND ITS TRAINING ===

# 64 pixels, eight layers of 16 units, 10 scores. Before a ReLU the weights have variance 2 / inputs
# (He et al., 2015, arXiv:1502.01852). ReLU sets about half of the numbers to zero, and the 2 makes
# up for that: at the start the size of the signal is about the same behind each layer. So when the
# plain network learns badly, it is not because its numbers vanished from layer to layer. Batch norm
# stands in front of ReLU, as in the paper. Below: the names of the six arms.

NONE, BATCH, LAYER = "no norm", "batch norm", "layer norm"
CENTRE, SCALE, FOLDED = "mean only", "scale only", "normed start"


def random_matrix(rows: int, columns: int, gain: float, rng: random.Random) -> Tensor:
    """[rows][columns] of random numbers with variance gain / columns."""
    spread = (gain / columns) ** 0.5
    return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])


class Layer:
    """A linear map, then one of the norms (or none), then ReLU."""

    def __init__(self, num_in: int, num_out: int, norm: str, rng: random.Random) -> None:
        self.norm = norm
        self.weight = random_matrix(num_out, num_in, 2.0, rng)
        self.gamma = Tensor([[1.0] * num_out])
        self.beta = Tensor([[0.0] * num_out])  # without a norm it is the ordinary bias
        self.running_mean = [0.0] * num_out
        self.running_var = [1.0] * num_out

    def forward(self, x: Tensor, training: bool, momentum: float) -> Tensor:
        """[N][num_in] -> [N][num_out]"""
        if self.norm == NONE:
            return relu(linear(x, self.weight, self.beta))
        x = linear(x, self.weight)
        if self.norm == LAYER:
            return relu(layer_norm(x, self.gamma, self.beta))
        running = (self.running_mean, self.running_var)
        if self.norm == BATCH:
            return relu(batch_norm(x, self.gamma, self.beta, *running, training, momentum))
        centre = self.norm == CENTRE
        return relu(half_norm(x, self.gamma, self.beta, *running, training, momentum, centre))


class Network:
    """NUM_LAYERS layers and a linear head. The same seed gives the same weights with every norm."""

    def __init__(self, norm: str, rng: random.Random) -> None:
        sizes = [64] + [WIDTH] * NUM_LAYERS
        self.layers = [
            Layer(num_in, num_out, norm, rng) for num_in, num_out in zip(sizes, sizes[1:])
        ]
        self.head = random_matrix(10, WIDTH, 1.0, rng)
        self.head_bias = Tensor([[0.0] * 10])

    def parameters(self) -> list[Tensor]:
        """Everything that training may change."""
        inner = [p for layer in self.layers for p in (layer.weight, layer.gamma, layer.beta)]
        return [*inner, self.head, self.head_bias]

    def hidden(self, images: Matrix, training: bool, momentum: float = 0.1) -> list[Tensor]:
        """Images [N][64] -> what comes out of each layer: [NUM_LAYERS][N][16]."""
        x = Tensor(images, requires_grad=False)
        outputs = []
        for layer in self.layers:
            out = layer.forward(x, training, momentum)
            x = x + out if RESIDUAL and outputs else out
            outputs.append(x)
        return outputs

    def forward(self, images: Matrix, training: bool, momentum: float = 0.1) -> Tensor:
        """Images [N][64] -> logits [N][10]: a score for each digit."""
        return linear(self.hidden(images, training, momentum)[-1], self.head, self.head_bias)


def train(
    network: Network, images: Matrix, labels: Sequence[int], rate: float, rng: random.Random
) -> None:
    """Plain SGD. Images that do not fill a batch are left out of the epoch, here 29 (PyTorch:
    drop_last=True): the statistics of a small rest would be rough, and one image alone has none.
    """
    optimizer = SGD(network.parameters())
    order = list(range(len(images)))
    for _ in range(EPOCHS):
        rng.shuffle(order)
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            logits = network.forward([images[i] for i in batch], training=True)
            loss = cross_entropy(logits, [labels[i] for i in batch])
            if not math.isfinite(loss.item()):
                return  # the rate was far too high, and numbers have left float's range
            loss.backward()
            optimizer.step(rate)


def accuracy(logits: Matrix, labels: Sequence[int]) -> float:
    """The share of rows whose highest score is at the label."""
    hits = [row.index(max(row)) == label for row, label in zip(logits, labels)]
    return sum(hits) / len(hits)


# === WHY EXAMPLES BECOME ALIKE ===

# The cosine of two vectors is 1 if they point the same way and 0 if they are at right angles. ReLU
# leaves no number below zero, so all vectors behind it lie in one corner of the space and have
# something in common. A random matrix keeps that (it roughly keeps cosines), and the next ReLU
# adds to it. For very wide random layers the new cosine depends on the old one alone:
#
#     new = (sqrt(1 - old^2) + old (pi - arccos(old))) / pi                (Cho & Saul, 2009)
#
# From 0 it leads to 0.32, from there to 0.49, then 0.60, 0.68, ..., always upwards to 1. But if
# each layer first subtracts the mean over the batch, the vectors in front of ReLU sum to zero: some
# cosines are above 0, some below, and on average they are about 0. So each layer starts anew, and
# the cosine behind it stays near 1/pi = 0.32 (a little above: the map is convex, so cosines above
# 0 gain more than those below 0 lose). What the plain network loses is not the size of the signal,
# but the differences between the examples.
#
# In fewer layers there is less to lose: with two of them, batch norm reaches
# 0.88 [results: shallow.batch_best] and no norm 0.77 [results: shallow.none_best].


def next_cosine(cosine: float) -> float:
    """Two inputs' cosine behind a very wide random layer with ReLU, from their cosine before it.

    >>> [round(next_cosine(c), 2) for c in (0.0, 0.32, 1.0)]
    [0.32, 0.49, 1.0]
    """
    cosine = min(1.0, max(-1.0, cosine))
    return (math.sqrt(1.0 - cosine**2) + cosine * (math.pi - math.acos(cosine))) / math.pi


def unit_vectors(rows: Matrix) -> Matrix:
    """Each row [D] scaled to length 1; rows of zeros, which have no direction, are left out."""
    lengths = [math.sqrt(dot(row, row)) for row in rows]
    return [[v / length for v in row] for row, length in zip(rows, lengths) if length > 0.0]


def mean_cosine(rows: Matrix) -> float:
    """The mean cosine over all pairs of different rows of [N][D].

    The sum of the N unit vectors has the squared length N + N (N - 1) times this mean.
    >>> mean_cosine([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])
    0.3333333333333333
    """
    units = unit_vectors(rows)
    total = [sum(column) for column in zip(*units)]
    count = len(units)
    return (dot(total, total) - count) / (count * (count - 1))


def wide_limit(images: Matrix) -> list[float]:
    """The mean cosine behind each layer if layers without norm were infinitely wide."""
    units = unit_vectors(images)
    pairs = [dot(a, b) for i, a in enumerate(units) for b in units[:i]]
    limits = []
    for _ in range(NUM_LAYERS):
        pairs = [next_cosine(cosine) for cosine in pairs]
        limits.append(sum(pairs) / len(pairs))
    return limits


def cosines_by_layer(norm: str, images: Matrix, rng: random.Random) -> list[float]:
    """The mean cosine behind each layer, over several untrained networks; images are one batch."""
    totals = [0.0] * NUM_LAYERS
    for _ in range(NUM_STARTS):
        outputs = Network(norm, rng).hidden(images, training=True)
        totals = [total + mean_cosine(out.data) for total, out in zip(totals, outputs)]
    return [total / NUM_STARTS for total in totals]


# === WHICH PART DOES IT? FOUR RIVALS ===

# Batch norm does several things at once, so each explanation needs a network of its own.
#
#   - mean only, scale only: half of batch norm each (half_norm, in the appendix). The cosines say
#     that the mean does nearly all. The table of accuracies shows how far training agrees.
#   - layer norm: mean and variance over the 16 units of one example, instead of one unit over the
#     examples. Examples are not compared, so nothing keeps them apart. Transformers use it (or
#     RMSNorm, which subtracts no mean), but with residual connections, x + layer(x). With these,
#     the eight layers reach 0.85 [results: residual.layer_best] with layer norm,
#     0.89 [results: residual.batch_best] with batch norm, 0.40 [results: residual.none_best]
#     without a norm. There batch norm's cosine behind layer 8 is only
#     0.16 [results: residual.cosine_gap] below that of no norm. So the cosine does not tell of
#     every network whether it will learn.
#   - normed start: is batch norm just a good initialisation? Let a network with batch norm see 256
#     training images, write their statistics into its weights and biases (fold, below), and train
#     what has become a plain network. It starts from nearly the same function as batch norm, so
#     with digits about as far apart. If it does not learn as well, a good start is not enough.


def fold(network: Network) -> Network:
    """A network without norm that computes what this one, with batch norm, does in eval mode.

    gamma (W x - mean) / sqrt(variance + eps) + beta is a linear map of x and a bias: with
    s = gamma / sqrt(variance + eps), the weights are s W and the bias is beta - s mean. So batch
    norm is free at inference (torch.nn.utils.fusion.fuse_linear_bn_eval, fuse_conv_bn_eval).
    """
    plain = Network(NONE, random.Random(0))
    for new, old in zip(plain.layers, network.layers):
        scales = [
            g * (variance + 1e-5) ** -0.5 for g, variance in zip(old.gamma.data[0], old.running_var)
        ]
        new.weight = Tensor([[s * w for w in row] for s, row in zip(scales, old.weight.data)])
        shifts = zip(old.beta.data[0], scales, old.running_mean)
        new.beta = Tensor([[b - s * mean for b, s, mean in shifts]])
    plain.head, plain.head_bias = Tensor(network.head.data), Tensor(network.head_bias.data)
    return plain


def new_network(norm: str, images: Matrix, rng: random.Random) -> Network:
    """An untrained network; the normed start takes its statistics from the first 256 images."""
    if norm != FOLDED:
        return Network(norm, rng)
    network = Network(BATCH, rng)
    # momentum 1: the running statistics become those of this one batch.
    network.forward(images[:256], training=True, momentum=1.0)
    return fold(network)


# === THE PRICE: A PREDICTION DEPENDS ON ITS COMPANY ===

# What if the statistics of the test batch are used, as when eval() was forgotten? (momentum=0.0
# makes sure that the running ones stay as they are.) Large mixed batches may hide the mistake.
# A batch of two leaves of each value only whether it is the larger or the smaller one: normed is
# 1 or -1. In a batch of one class, what its images share is subtracted: just what tells the class.
#
# Training on small batches suffers too (Wu & He). Then group norm or layer norm help, which look at
# one example only, or SyncBatchNorm. In fine-tuning on small batches, batch norm is often left in
# eval mode ("frozen"). The company also leaks information between examples; in contrastive learning
# a network can cheat with it (MoCo, arXiv:1911.05722, shuffles examples between GPUs against that).


def accuracy_in_batches(
    network: Network, images: Matrix, labels: Sequence[int], batches: Sequence[Sequence[int]]
) -> float:
    """The accuracy if each batch (a list of row numbers) is normalised by its own statistics."""
    logits: Matrix = []
    for batch in batches:
        rows = [images[i] for i in batch]
        logits += network.forward(rows, training=True, momentum=0.0).data
    return accuracy(logits, [labels[i] for batch in batches for i in batch])


def batches_of_one_class(labels: Sequence[int]) -> list[list[int]]:
    """For each digit, the row numbers of its first COMPANY images."""
    return [[i for i, label in enumerate(labels) if label == d][:COMPANY] for d in range(10)]


def measure_price(
    network: Network, images: Matrix, labels: Sequence[int]
) -> tuple[dict[int, float], float]:
    """The accuracies in mixed batches of several sizes, and in batches of one class."""
    order = list(range(len(images)))
    random.shuffle(order)
    by_size = {}
    for size in (COMPANY, 8, 4, 2):
        batches = [order[i : i + size] for i in range(0, len(order) - size + 1, size)]
        by_size[size] = accuracy_in_batches(network, images, labels, batches)
    one_class = batches_of_one_class(labels)
    return by_size, accuracy_in_batches(network, images, labels, one_class)


def in_company(network: Network, digit: Row, company: Matrix) -> Row:
    """The probabilities [10] of a digit when a batch of other images is normalised with it."""
    logits = network.forward([digit, *company], training=True, momentum=0.0)
    return softmax_row(logits.data[0])


# === THE RUN ===

# Every arm starts from the same random weights (the normed start rescales them) and sees the same
# batches; only the norm and the rate differ. Each is judged at the best of its rates, by the test
# digits: this flatters all a little. How much is luck? With seed 1 no norm reaches
# 0.37 [results: seed_1.none_best] and layer norm 0.56 [results: seed_1.layer_best], with seed 3
# layer norm 0.38 [results: seed_3.layer_best]. So one run cannot rank those two.
# Are the rates too high for the plain network? With 0.01 and 0.03 its best is
# 0.28 [results: low_rates.none_best], and that of layer norm 0.45 [results: low_rates.layer_best].
# How much of the gap is only speed? Most of it: after 12 epochs at the rate 0.1 no norm reaches
# 0.82 [results: twelve_epochs.none_best], and batch norm 0.90 [results: twelve_epochs.batch_best].


def train_arms(data: tuple) -> tuple[dict[str, list[float]], Network]:
    """Train each arm at each rate -> accuracies by arm, and the best network with batch norm."""
    images, labels, test_images, test_labels = data
    results: dict[str, list[float]] = {}
    best_network, best = None, -1.0
    for norm in (NONE, FOLDED, LAYER, SCALE, CENTRE, BATCH):
        results[norm] = []
        for rate in RATES:
            rng = random.Random(SEED)
            network = new_network(norm, images, rng)
            train(network, images, labels, rate, random.Random(SEED + 1))
            score = accuracy(network.forward(test_images, training=False).data, test_labels)
            results[norm].append(score)
            if norm == BATCH and score > best:
                best_network, best = network, score
        report_arm(norm, results[norm])
    return results, best_network


def main() -> dict[str, float]:
    """Compare the directions, train the arms, show the price; returns the headline numbers."""
    start = time.perf_counter()
    random.seed(SEED)
    images, labels = load_digits()
    # Minus 0.3, about the mean ink: so the pixels have both signs.
    images = [[pixel - 0.3 for pixel in image] for image in images]
    data = (images[:NUM_TRAIN], labels[:NUM_TRAIN], images[NUM_TRAIN:], labels[NUM_TRAIN:])
    report_data(data)

    compared = random.sample(data[0], NUM_COMPARED)
    limits = wide_limit(compared)
    cosines = {
        norm: cosines_by_layer(norm, compared, random.Random(SEED))
        for norm in (NONE, LAYER, SCALE, CENTRE, BATCH)
    }
    report_cosines(mean_cosine(compared), limits, cosines)

    report_arms_head()
    results, network = train_arms(data)

    test_images, test_labels = data[2:]
    by_size, one_class = measure_price(network, test_images, test_labels)
    report_price(max(results[BATCH]), by_size, one_class)
    report_company(network, test_images, test_labels)
    logits = network.forward(test_images, training=False).data
    folded = fold(network).forward(test_images, training=False).data
    gap = max([abs(a - b) for rows in zip(logits, folded) for a, b in zip(*rows)])
    print(f"Folded into the weights, batch norm is gone; largest change of a logit {gap:.0e}")

    headline = {
        "none_best": max(results[NONE]),
        "layer_best": max(results[LAYER]),
        "mean_best": max(results[CENTRE]),
        "batch_best": max(results[BATCH]),
        "cosine_gap": cosines[NONE][-1] - cosines[BATCH][-1],
        "one_class": one_class,
    }
    report_conclusion(headline, results, cosines)
    print(f"time {time.perf_counter() - start:.1f} s")
    details = {"results": results, "cosines": cosines, "limits": limits, "by_size": by_size}
    return {**headline, "details": {**details, "fold_gap": gap}}


# === APPENDIX: REPORT AND HELPERS ===


def half_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    running_mean: Row,
    running_var: Row,
    training: bool,
    momentum: float,
    centre: bool,
) -> Tensor:
    """Half of batch_norm: only subtract the mean (centre), or only divide by the deviation."""
    columns = transpose(x.data)
    means, variances = running_mean, running_var
    if training:
        means, variances = batch_statistics(columns)
        update_running(running_mean, running_var, means, variances, len(x.data), momentum)
    scales = [1.0 if centre else (variance + 1e-5) ** -0.5 for variance in variances]
    shifts = [mean if centre else 0.0 for mean in means]
    halves = [
        [(v - shift) * scale for v in column]
        for column, shift, scale in zip(columns, shifts, scales)
    ]
    gains = gamma.data[0]
    out = [[g * h + b for h in half] for half, g, b in zip(halves, gains, beta.data[0])]

    # As in batch_norm, with one of the two subtracted terms each (mean only: the first; scale only:
    # the second, with mean(d halves) instead of mean(d normed)).
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_columns = transpose(d_out)
        d_gamma = [dot(d, half) for d, half in zip(d_columns, halves)]
        d_beta = [sum(d) for d in d_columns]
        d_x = []
        for i, d in enumerate(d_columns):
            shift = d_beta[i] / len(d) if training and centre else 0.0
            slope = d_gamma[i] / len(d) * scales[i] if training and not centre else 0.0
            factor = gains[i] * scales[i]
            d_x.append(
                [factor * (e - shift - (v - means[i]) * slope) for e, v in zip(d, columns[i])]
            )
        return transpose(d_x), [d_gamma], [d_beta]

    return Tensor(transpose(out), (x, gamma, beta), pass_back)


def report_data(data: tuple) -> None:
    """The facts before anything is learned."""
    weights = 64 * WIDTH + (NUM_LAYERS - 1) * WIDTH * WIDTH + WIDTH * 10
    print(f"{len(data[0]):,} digits to learn from; {len(data[2])} for the test, mostly by others")
    print(f"A network of {NUM_LAYERS} layers of {WIDTH} units: {weights:,} weights")


def report_cosines(
    at_input: float, limits: Sequence[float], cosines: dict[str, list[float]]
) -> None:
    """The mean cosine behind some layers, in numbers and as a bar for the last."""
    shown = sorted({1, 2, 4, NUM_LAYERS} & set(range(1, NUM_LAYERS + 1)))
    print(f"\nHow alike are different digits? Mean cosine, untrained; of the pixels {at_input:.2f}")
    print(f"{'behind layer':<15}{''.join([f'{layer:>6}' for layer in shown])}")
    rows = {**cosines, "no norm, wide": list(limits)}
    for norm, values in rows.items():
        numbers = "".join([f"{values[layer - 1]:6.2f}" for layer in shown])
        print(f"{norm:<15}{numbers}   {'#' * round(40 * values[-1])}".rstrip())
    print("The last row is computed, for layers of infinite width. Vectors with nothing in")
    print(f"common have 1/pi = {1 / math.pi:.2f} behind a ReLU.")


def report_arms_head() -> None:
    """The head of the table of accuracies."""
    print(f"\nAccuracy on the test digits after {EPOCHS} epochs (guessing: 0.10)")
    print(f"learning rate  {''.join([f'{rate:>6}' for rate in RATES])}   best")


def report_arm(norm: str, scores: Sequence[float]) -> None:
    """One row: an arm at every rate, and a bar for the best."""
    numbers = "".join([f"{score:6.2f}" for score in scores])
    print(f"{norm:<15}{numbers}   {'#' * round(40 * max(scores))}", flush=True)


def report_price(running: float, by_size: dict[int, float], one_class: float) -> None:
    """Accuracies of one trained network with different statistics."""
    print("\nThe same network with batch norm, trained, only the statistics differ:")
    print(f"{'running statistics':<38}{running:.2f}")
    for size, score in by_size.items():
        print(f"{f'its own batch, {size} test digits':<38}{score:.2f}")
    print(f"{f'its own batch, {COMPANY} of one class':<38}{one_class:.2f}")


def report_company(network: Network, images: Matrix, labels: Sequence[int]) -> None:
    """One test digit that is recognised, drawn, and what it is taken for in three companies."""
    alone = network.forward(images, training=False).data
    hits = [i for i, row in enumerate(alone) if row.index(max(row)) == labels[i]]
    rows: list[tuple[str, list[float]]] = []
    for place in hits[:50]:  # the first digit that one of the companies changes, if there is one
        digit, label = images[place], labels[place]
        others = [i for i in range(len(images)) if i != place]
        wrong = (label + 1) % 10
        companies = {
            "of all classes": others,
            f"other {label}s": [i for i in others if labels[i] == label],
            f"{wrong}s": [i for i in others if labels[i] == wrong],
        }
        rows = [("alone, running statistics", softmax_row(alone[place]))]
        for name, rows_of in companies.items():
            company = [images[i] for i in rows_of[: COMPANY - 1]]
            rows.append((f"with {len(company)} {name}", in_company(network, digit, company)))
        if any([p.index(max(p)) != label for _, p in rows]):
            break
    if not rows:
        return
    lines = ["", f"{'':<28}taken for   probability of {label}", *[""] * 6]
    for number, (company, p) in enumerate(rows):
        lines[number + 2] = f"{company:<28}{p.index(max(p)):>9}{p[label]:>19.0%}"
    print("\nOne digit, four batches:")
    for left, right in zip(shade([digit[i : i + 8] for i in range(0, 64, 8)], -0.3, 0.7), lines):
        print(f"  {left}   {right}".rstrip())


def report_conclusion(
    numbers: dict[str, float], results: dict[str, list[float]], cosines: dict[str, list[float]]
) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    best = {norm: max(scores) for norm, scores in results.items()}
    gain = best[BATCH] - best[NONE]
    verdict = "Batch norm learns faster" if gain > 0.05 else "Batch norm does not learn faster"
    print(f"\n{verdict}: {best[BATCH]:.2f} against {best[NONE]:.2f}, each at its best rate.")
    apart = [norm for norm in (LAYER, SCALE, CENTRE, BATCH) if cosines[norm][-1] < 0.5]
    if cosines[NONE][-1] >= 0.5 and apart:
        print(f"Untrained, these keep digits apart (cosine below 0.5): {', '.join(apart)}.")
    if gain > 0.05:
        print("Of its gain over no norm, each rival brings, at its own best rate (in one run;")
        print("the comments say how far seeds differ):")
        for norm in (CENTRE, FOLDED, SCALE, LAYER):
            print(f"  {norm:<13}{(best[norm] - best[NONE]) / gain:5.0%}")
    high = [norm for norm, scores in results.items() if scores[-1] >= 0.6]
    print(f"At the rate {RATES[-1]} these reach 0.60 or more: {', '.join(high) or 'none'}.")
    if numbers["one_class"] < best[BATCH] - 0.1:
        print(f"The price: in batches of one class its accuracy is {numbers['one_class']:.2f}.")


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


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Shift and scale every row of x [N][D] to mean 0 and variance 1, then times weight [1][D]
    plus bias [1][D].

    Ba, Kiros & Hinton, "Layer Normalization", 2016, arXiv:1607.06450, eq. 4.
    """
    width = len(x.data[0])
    check_is_row(weight, width)
    check_is_row(bias, width)
    means = [sum(row) / width for row in x.data]
    centred = [[value - mean for value in row] for row, mean in zip(x.data, means)]
    scales = [(dot(row, row) / width + eps) ** -0.5 for row in centred]
    normed = [[value * scale for value in row] for row, scale in zip(centred, scales)]
    gains, shifts = weight.data[0], bias.data[0]
    out = [[n * g + b for n, g, b in zip(row, gains, shifts)] for row in normed]

    # As in rms_norm for the scale; that the mean is taken off takes the mean off the gradient:
    # d_x = s (d - mean(d) - n mean(d n)), with d the gradient of the normed row.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_x = []
        for d_row, n_row, scale in zip(d_out, normed, scales):
            d_normed = list(map(mul, d_row, gains))
            shift, slope = sum(d_normed) / width, dot(d_normed, n_row) / width
            d_x.append([(d - shift - n * slope) * scale for d, n in zip(d_normed, n_row)])
        d_columns = transpose(d_out)
        d_weight = [[dot(d, n) for d, n in zip(d_columns, transpose(normed))]]
        return d_x, d_weight, [[sum(column) for column in d_columns]]

    return Tensor(out, (x, weight, bias), pass_back)


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


class SGD:
    """Stochastic gradient descent: v <- momentum v + g, then x <- x - lr v."""

    def __init__(self, parameters: list[Tensor], momentum: float = 0.0) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.velocity: list[list[list[float]] | None] = [None] * len(parameters)

    def step(self, lr: float) -> None:
        """Take one step of size lr along the gradients, and clear them."""
        for index, parameter in enumerate(self.parameters):
            if parameter.grad is None:
                continue
            velocity = self.velocity[index]
            if velocity is None or self.momentum == 0.0:
                velocity = parameter.grad
            else:
                velocity = [
                    [self.momentum * v + g for v, g in zip(v_row, g_row)]
                    for v_row, g_row in zip(velocity, parameter.grad)
                ]
            self.velocity[index] = velocity
            parameter.data = [
                [x - lr * v for x, v in zip(x_row, v_row)]
                for x_row, v_row in zip(parameter.data, velocity)
            ]
            parameter.grad = None


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
