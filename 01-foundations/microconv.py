"""A convolution and a maximum recognise a digit anywhere after seeing it in one place only.

A convolution lays a small filter on every place of an image and writes down how well it matches
there. When a digit moves on empty paper, these matches move along and do not change. Keep only
the best match of each filter, and the result does not change at all, wherever the digit stands.

The run takes handwritten digits of 8 x 8 pixels and puts them in the middle of a canvas of
12 x 12. Three networks learn from this one position, from the same number of images: an MLP, and
two convolutional networks. These differ in the size of the tiles over which they take the
maximum, 4 x 4 places or the whole image, and so in the size of their last layer. A fourth
network, again an MLP, gets as many images, but moved to random positions (data augmentation).
Then all four are tested at all 25 positions, on digits that are mostly by other writers. Look at
three things: which of convolution and maximum makes the output follow the digit, and which makes
it stay; the four charts of the accuracy by position; and how well a network can read from 16
numbers per image, none of which tells where on the canvas anything was.

In the code    In the papers    Meaning                                          Shape
image          x                pixels, row after row, 0 = paper, 1 = ink        [size*size]
weight         w, K             one filter per row                               [F][k*k]
patch                           the pixels under the filter at one place         [k*k]
response       y, (x * K)       how well one filter matches one patch            one number
map            feature map      one filter's responses at all places             [side*side]
tile           pooling window   the side of the square that a maximum is over    one number
offset         T                how far down and right the digit stands          (dy, dx)

The shapes are of N images, F filters of k x k weights, and maps with
side = size + 2 * padding - k + 1 places on a side. T moves the digit by the offset. Equivariant
means: the input moves and the output moves along. Invariant means: the input moves and the
output stays.

What is left out: networks of several layers; clutter (a second thing on the paper adds maxima of
its own); rotation and scaling, to which this network is not invariant; and a validation set (no
digits were set aside to choose the learning rates).

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microconv.json under that key.

Read first: microautograd.

Papers: Fukushima, "Neocognitron", 1980. LeCun et al., "Gradient-Based Learning Applied to
Document Recognition", 1998. Krizhevsky et al., "ImageNet Classification with Deep Convolutional
Neural Networks", 2012. Lin et al., "Network In Network", 2013, arXiv:1312.4400 (global average
pooling). He et al., "Deep Residual Learning", 2015, arXiv:1512.03385. Azulay & Weiss, "Why do
deep convolutional networks generalize so poorly to small image transformations?", 2018,
arXiv:1805.12177. Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019,
arXiv:1904.11486. Liu et al., "A ConvNet for the 2020s", 2022, arXiv:2201.03545.
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
from functools import lru_cache
from math import exp, isqrt, log
from operator import add, mul, sub
from pathlib import Path

# === CONSTANTS ===

SEED = 42
NUM_TRAIN = 1437  # the first 80% of the file; the other 360 are mostly by other writers
TEST_EVERY = 4  # every fourth of these 360 is also tested away from the centre
DIGIT = 8  # pixels on a side of a digit
CANVAS = 12  # pixels on a side of the canvas: a digit has 5 x 5 positions on it
CENTRE = (2, 2)  # the offset of all digits in training
KERNEL_SIZE = 5  # pixels on a side of a filter: enough for a bend or the end of a stroke
PADDING = 4  # rings of zeros around the canvas: KERNEL_SIZE - 1, see THE CONVOLUTION
NUM_FILTERS = 16
TILE = 4  # places on a side of a tile, in the network that keeps tiles apart
NUM_HIDDEN = 32  # units of the MLP
EPOCHS = 3  # for a short run; OTHER RUNS shows what four times as many change
BATCH_SIZE = 5  # images per step
CNN_LEARNING_RATE = 0.02  # tried: 0.01, 0.015, 0.02, 0.03
MLP_LEARNING_RATE = 0.01  # tried, for both MLPs: 0.003, 0.005, 0.01, 0.02, 0.03

# === THE DIGITS, AND A NETWORK THAT LEARNS PIXELS ===

# A digit is laid on an empty canvas at an offset. Only the offset changes in the test: the digit
# itself, pixel for pixel, does not. Labels repeat about every 130 rows of the file, presumably
# writer by writer, and the split leaves 22 rows of one block in training and 108 in the test. If
# so, 70% of the test digits are in a new hand.
#
# Tensor, linear, relu, cross_entropy, Adam: as in PyTorch, but on lists of rows (see appendix).


def paste(digit: Sequence[float], dy: int, dx: int, canvas: int) -> list[float]:
    """A digit [8*8] on an empty canvas, dy rows down and dx columns right -> [canvas*canvas]."""
    image = [0.0] * (canvas * canvas)
    for row in range(DIGIT):
        start = (row + dy) * canvas + dx
        image[start : start + DIGIT] = digit[row * DIGIT : (row + 1) * DIGIT]
    return image


def random_matrix(rows: int, columns: int, gain: float, rng: random.Random) -> Tensor:
    """[rows][columns] of random numbers with variance gain / columns.

    Then the dot product of a row and an input x has a mean square of about gain * mean(x^2).
    ReLU cuts the half below zero, hence gain 2 right before it (He et al., 2015,
    arXiv:1502.01852) and 1 at the output. For the filters 2 is a habit: a maximum comes next.
    """
    spread = (gain / columns) ** 0.5
    return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])


class MLP:
    """The rival: 32 units, each with a weight of its own for each of the 144 pixels.

    A stroke that moves by one pixel meets other weights. What was learned about it at the old
    place is of little use at the new one. And a pixel that is paper in every training image, such
    as all in the outer two rings, gives its weights no gradient: they stay as they were drawn.
    """

    def __init__(self, rng: random.Random) -> None:
        self.hidden = random_matrix(NUM_HIDDEN, CANVAS * CANVAS, 2.0, rng)
        self.hidden_bias = Tensor([[0.0] * NUM_HIDDEN])
        self.head = random_matrix(10, NUM_HIDDEN, 1.0, rng)
        self.head_bias = Tensor([[0.0] * 10])

    def parameters(self) -> list[Tensor]:
        """Everything that training may change."""
        return [self.hidden, self.hidden_bias, self.head, self.head_bias]

    def forward(self, images: list[list[float]]) -> Tensor:
        """Images [N][144] -> logits [N][10]: a score for each digit."""
        x = Tensor(images, requires_grad=False)
        hidden = relu(linear(x, self.hidden, self.hidden_bias))
        return linear(hidden, self.head, self.head_bias)


# === THE CONVOLUTION ===

# The response of a filter K of k x k weights at the place (y, x), with padding p:
#
#     out[y][x] = bias + sum over u, v in 0..k-1 of  K[u][v] * in[y + u - p][x + v - p]
#
# Pixels outside of the canvas count as zero. Each response is one dot product: the filter with
# the patch of pixels under it. Writing the patches down as rows is called im2col. It makes the
# convolution an ordinary linear layer: linear(Tensor(patches), weight, bias) holds, in column f,
# the map of filter f.
#
#     image      filter     patches, padding 0                  responses
#     0 1 0       1 0       (0 1 0 1)  (1 0 1 1)                1   2
#     0 1 1       0 1       (0 1 0 0)  (1 1 0 0)                0   1
#     0 0 0                  top left: 1*0 + 0*1 + 0*0 + 1*1 = 1
#
# An image of several channels (colours, or the maps of the layer below) adds one more sum: over
# c, of K[c][u][v] * in[c][y + u - p][x + v - p].
#
# Mathematicians call this cross-correlation. Their convolution turns the filter by 180 degrees
# first. For filters that are learned it makes no difference: PyTorch and TensorFlow leave it out.
#
# Two assumptions about images are built in. Locality: a response sees k x k neighbouring pixels.
# Weight sharing: the same filter serves every place. 16 filters of 5 x 5 are 400 weights,
# whatever the size of the canvas. Locality without sharing would need 25 weights for each of the
# 256 places of each map, and the MLP needs 144 for a single unit.


@lru_cache
def patch_pixels(size: int, kernel: int, padding: int) -> list[list[int]]:
    """For each place of the map, row after row: which pixels of the image [size*size] form its
    patch. Pixels outside of the image have the number size*size.
    """
    places = range(-padding, size + padding - kernel + 1)
    if not places:
        raise ValueError(f"a filter of {kernel} x {kernel} does not fit {size} x {size} pixels")
    return [
        [
            row * size + column if 0 <= row < size and 0 <= column < size else size * size
            for row in range(top, top + kernel)
            for column in range(left, left + kernel)
        ]
        for top in places
        for left in places
    ]


def im2col(image: Sequence[float], places: Sequence[Sequence[int]]) -> list[tuple[float, ...]]:
    """The patch at each place: image [size*size], places from patch_pixels -> [places][k*k]."""
    padded = [*image, 0.0]  # the last entry is what a pixel outside of the image reads
    return [tuple([padded[i] for i in pixels]) for pixels in places]


def conv2d_map(
    image: Sequence[float], weights: Sequence[float], bias: float, padding: int
) -> list[float]:
    """One filter's map: image [size*size], weights [k*k] -> [side*side], side = size + 2p - k + 1.

    The example above:
    >>> conv2d_map([0, 1, 0, 0, 1, 1, 0, 0, 0], [1, 0, 0, 1], 0, padding=0)
    [1, 2, 0, 1]
    """
    size, kernel = isqrt(len(image)), isqrt(len(weights))
    patches = im2col(image, patch_pixels(size, kernel, padding))
    return [dot(patch, weights) + bias for patch in patches]


# Why does the map move along when the image moves? The response at a place depends on the patch
# there and on nothing else. Move the image to the right, and the patch of (y, x) is now the patch
# of (y, x + 1): the same numbers go into the same sum, which gives the same result to the last
# bit, one place further right. This is equivariance, f(T x) = T f(x) for a layer f, and it is
# exact, as long as nothing is lost at the border. Padding by k - 1 ("full", in PyTorch padding=4)
# makes a place for every patch that touches the canvas, so no patch is lost. The usual padding by
# (k - 1) / 2 ("same") leaves out patches at the border: with PADDING = 2, moving a digit changes
# a logit of the invariant network below by up to 4.5 [results: narrow_padding.logit_change]. For
# comparison, the end of the run prints how much the MLP's logits change.

# === THE MAXIMUM ===

# A map that moves along is not yet an answer that stays. What comes next decides:
#
# - The maximum over the whole map (global max pooling) keeps one number of each filter: how well
#   it matched at its best place. Moving the digit moves the patches to other places, but they
#   are still the same set of patches (the one without ink is always among them), and the maximum
#   of a set does not ask where. This is invariance, f(T x) = f(x), again to the last bit.
# - The maximum over tiles keeps one number for each tile and filter, and the linear layer behind
#   it has a weight for each (the tiles are "flattened"). A digit that moves into other tiles
#   meets other weights there, as in the MLP. It is this layer that sees the position: one more
#   maximum, over all tiles, would undo it.
#
# Tiles keep one value of t x t places, and so does a convolution with stride t, which reads only
# every t-th place. When the digit moves by a multiple of t, what is kept moves along. After any
# other move, other values are kept: aliasing (Zhang, 2019). The table printed first shows it.
#
# Three common beliefs. "Convolutional networks are translation invariant" is half a truth
# (Azulay & Weiss, 2018): whether they are depends on pooling, strides, borders and the layer at
# the end. "Pooling makes a network convolutional": no, shared weights do. "Filters become edge
# detectors": many do in the first layer of large networks for photographs (Krizhevsky et al.,
# 2012); for ours, see the five that the run prints.


def conv2d_max(
    images: list[list[float]], weight: Tensor, bias: Tensor, padding: int, tile: int | None
) -> Tensor:
    """Convolve, then take the maximum over each tile x tile places; None: over the whole map.

    images [N][size*size], weight [F][k*k], bias [1][F] -> [N][F*tiles], filter after filter.
    Places that are left over where tiles do not fill the side are not read.
    """
    size, kernel = isqrt(len(images[0])), isqrt(len(weight.data[0]))
    tiles = tiled(patch_pixels(size, kernel, padding), tile)
    out: list[list[float]] = []
    winners: list[list[tuple]] = []  # the patch behind each maximum: [N][F*tiles][k*k]
    for image in images:
        # Of equal patches, such as those without ink, one is enough: their responses are equal, and
        # a maximum does not care how often. This saves more than half of the dot products.
        patches = [list(dict.fromkeys(im2col(image, places))) for places in tiles]
        out_row, winner_row = [], []
        for weights, b in zip(weight.data, bias.data[0]):
            for tile_patches in patches:
                responses = [dot(patch, weights) for patch in tile_patches]
                best = max(responses)
                out_row.append(best + b)
                winner_row.append(tile_patches[responses.index(best)])
        out.append(out_row)
        winners.append(winner_row)

    # A small change of the filter w changes the maximum only through the patch that won. So on
    # the way back this is a linear layer whose input is the winner, one for each image and tile:
    #   out = w . winner + b       d_w = sum d_out * winner       d_b = sum d_out
    # In the example above the maximum is 2 and the winner (1 0 1 1): with d_out = 1 this patch is
    # the gradient, and a step against it makes the filter match it less. The other places need no
    # work, so the way back is nearly free. Of equal responses the first wins (as in PyTorch's
    # max_pool2d). Images are data and want no gradient; a second layer would have to add
    # d_out * w to the gradient of the winner's pixels.
    def pass_back(d_out: list[list[float]]) -> tuple:
        d_weight, d_bias = [], []
        for index in range(len(weight.data)):
            columns = range(index * len(tiles), (index + 1) * len(tiles))  # of this filter
            slopes = [d_row[c] for d_row in d_out for c in columns]  # [N*tiles]
            its_winners = [row[c] for row in winners for c in columns]  # [N*tiles][k*k]
            d_weight.append([dot(slopes, pixels) for pixels in zip(*its_winners)])
            d_bias.append(sum(slopes))
        return d_weight, [d_bias]

    return Tensor(out, (weight, bias), pass_back)


def tiled(places: Sequence, tile: int | None) -> list[list]:
    """Cut a square of places, row after row, into tiles of tile x tile; None: one tile of all.

    places [side*side] -> [tiles][tile*tile]; what is left over at the end of a side is dropped.

    >>> tiled("abcdefghijklmnop", 2)[:2]
    [['a', 'b', 'e', 'f'], ['c', 'd', 'g', 'h']]
    """
    side = isqrt(len(places))
    step = side if tile is None else tile
    if not 1 <= step <= side:
        raise ValueError(f"a tile of {step} x {step} does not fit {side} x {side} places")
    return [
        [places[(top + i) * side + left + j] for i in range(step) for j in range(step)]
        for top in range(0, side - step + 1, step)
        for left in range(0, side - step + 1, step)
    ]


class ConvNet:
    """Convolution, maximum, ReLU, linear. Our two differ in tile, hence in the size of head."""

    def __init__(self, tile: int | None, rng: random.Random) -> None:
        self.tile = tile
        side = CANVAS + 2 * PADDING - KERNEL_SIZE + 1
        num_tiles = 1 if tile is None else (side // tile) ** 2
        self.filters = random_matrix(NUM_FILTERS, KERNEL_SIZE * KERNEL_SIZE, 2.0, rng)
        self.filter_bias = Tensor([[0.0] * NUM_FILTERS])
        self.head = random_matrix(10, NUM_FILTERS * num_tiles, 1.0, rng)
        self.head_bias = Tensor([[0.0] * 10])

    def parameters(self) -> list[Tensor]:
        """Everything that training may change."""
        return [self.filters, self.filter_bias, self.head, self.head_bias]

    def features(self, images: list[list[float]]) -> Tensor:
        """The maxima: images [N][size*size] -> [N][16*tiles]."""
        # Usually ReLU stands before the maximum. It preserves order, so both orders give the same;
        # this one applies it to far fewer numbers. With the bias it is a threshold: a best match
        # below -bias counts as none. (Over the whole map it cuts nothing at first: the patch
        # without ink responds with the bias, and that is 0.)
        return relu(conv2d_max(images, self.filters, self.filter_bias, PADDING, self.tile))

    def forward(self, images: list[list[float]]) -> Tensor:
        """Images [N][size*size] -> logits [N][10]: a score for each digit."""
        return linear(self.features(images), self.head, self.head_bias)


# In PyTorch the invariant one is torch.nn.functional.conv2d(x, weight, bias, padding=4), then
# torch.amax(maps, dim=(2, 3)) (where equal maxima share the gradient), relu and linear. im2col's
# patches hold every pixel 25 times, so cuDNN gathers them while it multiplies (implicit GEMM) or,
# for 3 x 3, saves multiplications by Winograd's algorithm; channels last in memory is often best.
#
# Today's networks (ResNet, ConvNeXt) stack dozens of layers. A layer of k x k adds k - 1 pixels,
# times all strides before it, to the side of what a response sees, its receptive field. Two
# layers of 3 x 3 see 5 x 5 pixels, with 18 weights instead of 25 for each pair of channels, and a
# ReLU between. ConvNeXt's 7 x 7 filters read one channel each (depthwise). Vision transformers
# begin with one convolution whose stride is its size. Since Lin et al. (2013) many end in a global
# *average*. On one size of canvas it is invariant but for rounding: a sum does not ask where
# either. On the way there they shrink the maps by strides or tiles, and so lose exactness.

# === TRAINING ===

# The same for all networks, except for the learning rate and for the order of the digits, which
# each draws anew. What matters is where the digits stand.


def train(
    model: MLP | ConvNet,
    digits: Sequence[Sequence[float]],
    labels: Sequence[int],
    learning_rate: float,
    everywhere: bool,
    rng: random.Random,
) -> None:
    """Learn from the digits, all in the centre or (everywhere) each at a new random offset."""
    optimizer = Adam(model.parameters())
    steps_per_epoch = len(digits) // BATCH_SIZE
    num_steps = EPOCHS * steps_per_epoch
    queue: list[int] = []
    losses: list[float] = []
    for step in range(1, num_steps + 1):
        if len(queue) < BATCH_SIZE:
            queue = rng.sample(range(len(digits)), len(digits))  # the next epoch, shuffled
        batch, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]
        images = []
        for i in batch:
            offset = rng.choice(all_offsets()) if everywhere else CENTRE
            images.append(paste(digits[i], *offset, CANVAS))

        loss = cross_entropy(model.forward(images), [labels[i] for i in batch])
        loss.backward()
        # The rate falls to zero, so that the last few batches do not throw the weights about.
        optimizer.step(learning_rate * (1.0 - (step - 1) / num_steps))

        losses.append(loss.item())
        if step % steps_per_epoch == 0:
            print(f"step {step:4d}/{num_steps} | loss {sum(losses) / len(losses):.4f}", flush=True)
            losses.clear()


# === MOVING THE DIGIT ===

# Three measurements: how exactly the output follows a moving digit, before any training; what
# moving does to the accuracy; and what it does to the numbers behind the accuracy.


def all_offsets() -> list[tuple[int, int]]:
    """The 25 offsets (dy, dx) at which a digit fits on the canvas."""
    return [(dy, dx) for dy in range(CANVAS - DIGIT + 1) for dx in range(CANVAS - DIGIT + 1)]


def following_error(
    digit: Sequence[float], weights: Sequence[float], tile: int | None, shift: int
) -> float:
    """Shift a digit [8*8] right by shift pixels, and its old output by 0, 1, ... whole places:
    the largest error of the best fit, as a fraction of the largest entry. weights [k*k].
    """
    # A canvas of 16 has room for 4 pixels; its map of 20 x 20 divides into tiles of 2 and of 4.
    filters, no_bias = Tensor([list(weights)]), Tensor([[0.0]])
    images = [paste(digit, 4, 4 + right, 16) for right in (0, shift)]
    maxima = conv2d_max(images, filters, no_bias, PADDING, tile).data
    before, after = map(rows_of, maxima)
    errors = []
    side = len(before)
    for places in range(min(side, shift + 1)):
        # What comes in from the left is the response to empty paper: zero, as there is no bias.
        moved = [([0.0] * places + row)[:side] for row in before]
        errors.append(largest_difference(moved, after))
    return min(errors) / largest_difference(before, [[0.0] * side] * side)


def logits_by_offset(
    model: MLP | ConvNet, digits: Sequence[Sequence[float]]
) -> dict[tuple[int, int], list[list[float]]]:
    """The logits [N][10] of the same N digits at each of the 25 offsets."""
    return {
        offset: model.forward([paste(digit, *offset, CANVAS) for digit in digits]).data
        for offset in all_offsets()
    }


def accuracy(logits: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """The share of rows [N][10] whose largest entry is at the label."""
    hits = [row.index(max(row)) == label for row, label in zip(logits, labels)]
    return sum(hits) / len(hits)


def largest_difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> float:
    """The largest difference between entries of two matrices."""
    return max(abs(x - y) for row_a, row_b in zip(a, b) for x, y in zip(row_a, row_b))


def measure(
    model: MLP | ConvNet, digits: Sequence[Sequence[float]], labels: Sequence[int]
) -> tuple[dict[str, float], dict[tuple[int, int], float]]:
    """The model's row of the table, and the chart of its accuracy by offset."""
    centred = model.forward([paste(digit, *CENTRE, CANVAS) for digit in digits]).data
    logits = logits_by_offset(model, digits[::TEST_EVERY])
    chart = {offset: accuracy(z, labels[::TEST_EVERY]) for offset, z in logits.items()}
    others = [share for offset, share in chart.items() if offset != CENTRE]
    elsewhere = sum(others) / len(others)
    row = {
        "parameters": sum(len(p.data) * len(p.data[0]) for p in model.parameters()),
        "centre_all": accuracy(centred, labels),
        "centre": chart[CENTRE],
        "elsewhere": elsewhere,
        "lost": chart[CENTRE] - elsewhere,
        "logit_change": max([largest_difference(z, logits[CENTRE]) for z in logits.values()]),
    }
    return row, chart


def main() -> dict[str, object]:
    """Train four networks, move the test digits about, and see which network still reads them."""
    rng = random.Random(SEED)
    digits, labels = load_digits()
    held_out, held_out_labels = digits[NUM_TRAIN:], labels[NUM_TRAIN:]
    report_data(digits)
    following = report_following(held_out[0], rng)

    networks = {  # model, learning rate, everywhere
        "mlp": (MLP(rng), MLP_LEARNING_RATE, False),
        "augmented": (MLP(rng), MLP_LEARNING_RATE, True),
        "tiled": (ConvNet(TILE, rng), CNN_LEARNING_RATE, False),
        "global": (ConvNet(None, rng), CNN_LEARNING_RATE, False),
    }
    rows, charts = {}, {}
    for name, (model, learning_rate, everywhere) in networks.items():
        print(f"\nTraining: {title(name)}")
        start = time.perf_counter()
        train(model, digits[:NUM_TRAIN], labels[:NUM_TRAIN], learning_rate, everywhere, rng)
        print(f"time  training took {time.perf_counter() - start:.1f} s")
        rows[name], charts[name] = measure(model, held_out, held_out_labels)
    report_accuracy(rows, len(held_out), len(held_out[::TEST_EVERY]))
    report_charts(charts)

    report_matches(networks["global"][0], held_out[12], held_out_labels[12])
    headline = {
        "global_centre": rows["global"]["centre_all"],
        "tiled_centre": rows["tiled"]["centre_all"],
        "tiled_lost": rows["tiled"]["lost"],
        "mlp_lost": rows["mlp"]["lost"],
        "augmented_shifted": rows["augmented"]["elsewhere"],
        "logit_change": rows["global"]["logit_change"],
    }
    report_conclusion(headline, rows)
    return {**headline, "details": {"rows": rows, "charts": charts, "following": following}}


# === OTHER RUNS ===

# What one change does to the run. First the size of the tiles. "Lost" is the accuracy in the
# centre minus the mean accuracy at the other positions, on the same digits.
#
#     max over            lost
#     2 x 2 places        0.78 [results: tile_2.tiled_lost]
#     4 x 4 places        this run prints it
#     8 x 8 places        0.39 [results: tile_8.tiled_lost]
#     the whole map       nothing
#
# "Pooling makes a network tolerant of shifts" is true by degrees. A maximum stays as it is while
# its winner stays in the tile and no better match comes in. With 2 x 2 places more is lost than by
# the MLP of that run, 0.69 [results: tile_2.mlp_lost]: maps that follow the digit are of little
# help to a last layer with a weight for each tile.
#
# Would any filters do, since the maximum makes them invariant anyway? No: with filters left as
# they were drawn, and only the last layer trained, the accuracy in the centre is
# 0.56 [results: frozen_filters.global_centre].
#
# Is the MLP that sees all positions only short of time? Largely: after four times the training it
# reaches 0.79 [results: long_training.augmented_shifted] away from the centre.
#
# Must one know where on the canvas a stroke is to read a digit? The run may suggest it, since
# tiles are ahead in the centre, with another seed too: 0.95 [results: seed_1.tiled_centre] against
# 0.92 [results: seed_1.global_centre]. But after four times the training they are not:
# 0.95 [results: long_training.tiled_centre] against 0.96 [results: long_training.global_centre],
# where one digit counts 0.003. So 16 maxima seem to learn more slowly, not to tell less. And they
# tell something of the arrangement: a filter sees 25 of a digit's 64 pixels at once.


# === APPENDIX: REPORT AND HELPERS ===


def title(name: str) -> str:
    """How a network is called in the output."""
    return {
        "mlp": "MLP",
        "augmented": "MLP, digits at random positions",
        "tiled": f"convolution, max over {TILE} x {TILE} tiles",
        "global": "convolution, max over the map",
    }[name]


def rows_of(square: Sequence[float]) -> list[list[float]]:
    """A square matrix that was written as one row, as rows again.

    >>> rows_of([1, 2, 3, 4])
    [[1, 2], [3, 4]]
    """
    side = isqrt(len(square))
    return [list(square[i : i + side]) for i in range(0, side * side, side)]


def report_data(digits: Sequence[Sequence[float]]) -> None:
    """The facts before anything is learned."""
    start = f"{len(digits):,} handwritten digits of {DIGIT} x {DIGIT} pixels"
    print(f"{start}: {NUM_TRAIN:,} to learn from, and")
    num_test = len(digits) - NUM_TRAIN
    print(f"  {num_test}, mostly by other writers, for the test. A guess is right in 10% of cases.")
    print("A digit in the centre of the canvas, as in training, and in a corner:")
    pictures = []
    for offset in (CENTRE, (0, CANVAS - DIGIT)):
        picture = shade(rows_of(paste(digits[NUM_TRAIN], *offset, CANVAS)))
        pictures.append([f"|{line}|" for line in picture])
    for left, right in zip(*pictures):
        print(f"  {left}    {right}")


def report_following(digit: Sequence[float], rng: random.Random) -> dict[str, list[float]]:
    """Print and return how well outputs follow a digit that moves, with filters as drawn."""
    filters = [[rng.gauss(0.0, 1.0) for _ in range(KERNEL_SIZE**2)] for _ in range(4)]
    print("\nBefore any training, with random filters: the digit moves right, and the output")
    print("for its old position by as many whole places as fits best. The largest error:")
    print("digit moved by          1 pixel   2 pixels   3 pixels   4 pixels")
    names = ("the map itself", "max over 2 x 2", "max over 4 x 4", "max over the map")
    errors = {}
    for name, tile in zip(names, (1, 2, 4, None)):
        errors[name] = [
            max([following_error(digit, weights, tile, shift) for weights in filters])
            for shift in (1, 2, 3, 4)
        ]
        cells = [f"{error:.0%}" if error else "0" for error in errors[name]]
        print(f"{name:<20}" + "".join([f"{cell:>11}" for cell in cells]))
    return errors


def report_accuracy(rows: dict[str, dict[str, float]], num_all: int, num_moved: int) -> None:
    """One line per network."""
    others = len(all_offsets()) - 1
    print(f"\nAccuracy on {num_all} test digits in the centre, and on {num_moved} of them also at")
    print(
        f"the {others} other positions (mean). Lost: in points (one digit: {100 / num_moved:.1f})."
    )
    print("A network that ignores the position loses nothing.")
    print(f"{'':<33}{'para-':>8}{num_all:>10}{f'{num_moved} of them':>24}")
    print(f"{'network':<33}{'meters':>8}{'centre':>10}{'centre':>9}{'elsewhere':>11}{'lost':>7}")
    for name, row in rows.items():
        print(
            f"{title(name):<33}{row['parameters']:>8,}{row['centre_all']:>10.1%}"
            f"{row['centre']:>9.1%}{row['elsewhere']:>11.1%}{round(100 * row['lost']):>7}"
        )


def report_charts(charts: dict[str, dict[tuple[int, int], float]]) -> None:
    """The accuracy at each of the 25 offsets, for each network."""
    print("\nThe same by position, in percent. The middle entry of a square is the position")
    print("of the digits in training (of the second MLP, one of them).")
    heads = ("MLP", "MLP, everywhere", "max over tiles", "max over the map")
    print("".join([f" {head:<19}" for head in heads]).rstrip())
    squares = [rows_of(list(chart.values())) for chart in charts.values()]
    for lines in zip(*squares):
        cells = ["".join([f"{round(100 * share):>3}" for share in line]) for line in lines]
        print("".join([f"{cell:<20}" for cell in cells]).rstrip())


def report_matches(model: ConvNet, digit: Sequence[float], truth: int) -> None:
    """Where on a digit, at two positions, the filters matched that decided the prediction."""
    images = [paste(digit, *offset, CANVAS) for offset in (CENTRE, (4, 0))]
    features, logits = model.features(images).data[0], model.forward(images).data[0]
    label = logits.index(max(logits))
    votes = [weight * feature for weight, feature in zip(model.head.data[label], features)]
    chosen = sorted(range(NUM_FILTERS), key=lambda index: -votes[index])[:5]
    print(f"\nA test digit {truth}, read as {label}, in the centre and moved. Letters: the")
    print(f"middle of the best match of each of the five filters that spoke most for {label}.")
    print("Vote: this maximum times its weight. In a filter, = is about zero and blank is")
    print("most negative; in a patch, blank is paper.")
    best = [[best_place(image, model, index) for index in chosen] for image in images]
    boards = [board(image, places) for image, places in zip(images, best)]
    for left, right in zip(*boards):
        if left.strip() or right.strip():
            print(f"  {left}      {right}".rstrip())
    all_patches = im2col(images[0], patch_pixels(CANVAS, KERNEL_SIZE, PADDING))
    patches = [all_patches[place] for place in best[0]]
    filters = [model.filters.data[index] for index in chosen]
    cells = [f"{letter} {votes[index]:<+11.1f}" for letter, index in zip("ABCDE", chosen)]
    print("vote     " + "".join(cells).rstrip())
    for name, squares in (("filter", filters), ("patch", patches)):
        reaches = [max(map(abs, square)) for square in squares]
        lows = [-reach if name == "filter" else 0.0 for reach in reaches]
        pictures = [shade(rows_of(q), low, reach) for q, low, reach in zip(squares, lows, reaches)]
        for index, line in enumerate(zip(*pictures)):
            print(f"{name if index == 2 else '':<9}" + "   ".join(line).rstrip())


def best_place(image: list[float], model: ConvNet, index: int) -> int:
    """The place of a filter's maximum in its map of the image [size*size]."""
    weights, bias = model.filters.data[index], model.filter_bias.data[0][index]
    responses = conv2d_map(image, weights, bias, PADDING)
    return responses.index(max(responses))


def board(image: list[float], places: Sequence[int]) -> list[str]:
    """The image in shades, with a ring of paper, and letters at places of the map."""
    # Place (y, x) of the map belongs to the patch whose middle is pixel (y - ring, x - ring).
    ring = PADDING - KERNEL_SIZE // 2
    side = CANVAS + 2 * ring
    empty = [" " * 2 * side] * ring
    picture = [" " * 2 * ring + line + " " * 2 * ring for line in shade(rows_of(image))]
    lines = [list(line) for line in [*empty, *picture, *empty]]
    for letter, place in zip("ABCDE", places):
        lines[place // side][2 * (place % side)] = letter
    return ["".join(line) for line in lines]


def report_conclusion(numbers: dict[str, float], rows: dict[str, dict[str, float]]) -> None:
    """Say in words what the run has shown, whatever it has shown."""
    changes = [rows[name]["logit_change"] for name in ("mlp", "tiled", "global")]
    print("\nHow much a logit changes at most when a digit moves: with the MLP by")
    print("{:.1f}, with tiles by {:.1f}, with the maximum over the map by {:g}.".format(*changes))
    if numbers["logit_change"] == 0.0:
        print("The last has learned from one position, and answers alike at all of them.")
    tiled_lost, mlp_lost = [f"{100 * numbers[key]:.0f}" for key in ("tiled_lost", "mlp_lost")]
    print(f"With tiles, the convolution loses {tiled_lost} points of accuracy, the MLP {mlp_lost}.")
    if numbers["augmented_shifted"] < numbers["global_centre"]:
        reached = f"{numbers['augmented_shifted']:.0%} away from the centre"
        print(f"The MLP trained at random positions reaches {reached}.")
    gain = numbers["tiled_centre"] - numbers["global_centre"]
    if gain > 0.0:
        print(f"In the centre, tiles are ahead by {100 * gain:.0f} points after {EPOCHS} epochs.")
    print(f"The maximum over the map keeps {NUM_FILTERS} numbers of an image, and none tells where")
    read = f"{numbers['global_centre']:.0%} of the digits"
    print(f"on the canvas it is from. They are enough to read {read}.")


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
