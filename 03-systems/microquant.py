"""Rounding weights to 8 bits is free; at 2 bits, scales and the repair of each error decide.

A trained network is stored in fewer bits by rounding: each weight becomes a small whole number,
its level, and a few scales say how large one level is. Nothing is trained again. Two choices are
left. Where do the scales live: one for a whole matrix, or one for each of its rows? And how is each
weight rounded? The obvious answer is "to the nearest level". GPTQ does better on the same grid and
with the same number of stored bytes: when a weight has been rounded, the weights after it in its
row are moved so that the *output* of the row changes as little as possible. This works because the
inputs of a layer are correlated: what one weight does wrong, its neighbours can partly undo.

The run trains a small GPT on names and stores its seven weight matrices in 8, 4, 3 and 2 bits, with
three kinds of scales, rounded to the nearest level and by GPTQ. Look at four things: what 8 bits
cost; how much of the damage at 2 bits is due to the scale, and how much GPTQ repairs; whether the
repair is still there when the calibration inputs are shuffled, so that they are no longer
correlated; and how near GPTQ comes to the best rounding on its grid, found by exact search.

The measure is the rise: by how much the loss on held-out names (mean of -log(probability of the
symbol that really followed), in nats) is higher than with float weights. The float model is the
limit: rise 0. The layer error looks closer: the squared error of a layer's outputs, divided by the
squared outputs. (A smaller layer error need not mean a smaller rise: see the end of the run.)

In the code   In the paper    Meaning                                                Shape
weight        W               one weight matrix, a row for each output               [out][in]
levels        -               whole numbers from -2^(bits-1) to 2^(bits-1) - 1       [out][in]
scales        -               the weights that are used are Q = scale * level        [out]
inputs        X transposed    what the layer reads, one row for each symbol          [N][in]
H             H               2/N X X^T plus damping (the paper has no 1/N)          [in][in]
U             H^-1 in alg. 1  upper triangle with U^T U = inverse of H               [in][in]
error         E               (weight - scale * level) / U[j][j], to be passed on    1 number

Left out: activations in 8 bits (SmoothQuant) and rotations that spread outliers (QuaRot); scales
for groups of weights inside a row (MXFP4 and NVFP4 have one for every 32 and every 16); zero
points; training with rounding in the loop. microqlora shows levels that are not evenly spaced
(NF4), blocks, and how to train over a quantised model.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed (seed_1: the seed), and stands in results/microquant.json under that key.

Read first: microgpt.

Papers: Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers", 2022, arXiv:2210.17323. Hassibi & Stork, "Second Order Derivatives for Network
Pruning: Optimal Brain Surgeon", 1992. Frantar & Alistarh, "Optimal Brain Compression", 2022,
arXiv:2208.11580. Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization",
2020, arXiv:2004.10568. Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest
Plane Algorithm", 2025, arXiv:2507.18553. Lin et al., "AWQ: Activation-aware Weight Quantization
for LLM Compression and Acceleration", 2023, arXiv:2306.00978.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import struct
import time
import urllib.request
from collections.abc import Callable, Sequence
from copy import copy
from math import exp, inf, log, sqrt
from operator import add, mul, sub
from pathlib import Path
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
WIDTH = 16  # entries of a vector: also the length of most weight rows
CONTEXT = 16  # symbols: the start mark and the 15 letters of the longest name
NUM_HEADS = 4
NUM_HELD_OUT = 1000  # names that no model is trained on
NUM_TEST = 400  # of these are measured; each of the 26 stored models needs one pass
NUM_STEPS = 400
BATCH_SIZE = 6  # names per step
LEARNING_RATE = 0.01  # at the start; it falls linearly to almost 0
BITS = (8, 4, 3, 2)  # bits of a level; the report needs 8, 3 and 2
SCHEMES = ("tensor", "channel", "clipped")  # where the scales live: explained below
NUM_CALIBRATION = 64  # training names whose inputs GPTQ looks at
FEWER_NAMES = (1, 8)  # a control: GPTQ with hardly anything to look at
DAMPING = 0.01  # added to H's diagonal, as a share of its mean; the paper's value
CLIPS = tuple([i / 40 for i in range(12, 41)])  # scales to try, as shares of the full one
SHOWN = ("value", 0)  # the matrix and the row that are shown step by step

# === A GRID AND ITS SCALE ===

# With b bits a weight becomes one of 2^b levels, the whole numbers from -2^(b-1) to 2^(b-1) - 1.
# A scale turns the level back into a weight: weight ~ scale * level. The scale must be large enough
# for the largest weight that uses it. The usual choice lets that weight be the largest level:
#
#     scale = max |weight| / (2^(b-1) - 1)        level = round(weight / scale)
#
#     3 bits, row (0.6, -0.2, 0.09): scale 0.6 / 3 = 0.2, levels (3, -1, 0), used (0.6, -0.2, 0)
#
# This is symmetric quantisation: level 0 is the weight 0. With this scale the nearest level is
# never the lowest one, -2^(b-1), so at 2 bits only -1, 0 and 1 are used. (Asymmetric quantisation
# stores a zero point beside each scale and uses all levels.) The levels are evenly spaced. One
# sometimes reads that the grid is finer near zero, where most weights are: that is NF4, not this.
# One bit more divides the distance of two levels, which is the scale, by a little over 2 (from 2
# bits to 3 even by 3), and the mean squared error, about scale^2 / 12, by the square of that.
#
# If one scale serves the whole matrix ("per tensor"), its largest weight makes the steps coarse for
# every row. A scale for each row ("per channel": a row makes one output channel) costs 16 bits per
# row. Most rows here have 16 weights, so that is one more bit for each of them; in rows of 4,096 it
# would be 0.004 bits. So the table of results gives the bytes that are really stored.
#
# The third choice costs as many bytes as the second: a *smaller* scale for each row. All steps
# become finer, and the few weights beyond the last level are clipped to it. "clipped" tries 29
# scales for each row and keeps the one with the smallest squared error of the weights. (AWQ's code
# also searches for its clipping, by the error of the outputs.) It is GPTQ's rival: a repair is only
# worth its trouble if a better scale does not do the same.


def choose_scales(weight: list[list[float]], bits: int, scheme: str) -> list[float]:
    """weight [out][in] -> one scale for each row [out], already rounded to 16 bits.

    >>> choose_scales([[0.5, 0.25], [4.0, 1.0]], 2, "channel")
    [0.5, 4.0]
    >>> choose_scales([[0.5, 0.25], [4.0, 1.0]], 2, "tensor")
    [4.0, 4.0]
    """
    largest = [max(map(abs, row)) for row in weight]
    if scheme == "tensor":
        largest = [max(largest)] * len(weight)
    top = 2 ** (bits - 1) - 1
    scales = [value / top for value in largest]
    if scheme == "clipped":
        scales = [clipped_scale(row, scale, bits) for row, scale in zip(weight, scales)]
    # Rounded here and not later: the levels must be chosen for the scale that will be stored. A row
    # of zeros would have the scale 0, by which nothing can be divided.
    return [to_float16(scale) or 1.0 for scale in scales]


def clipped_scale(row: list[float], full: float, bits: int) -> float:
    """The scale, among shares of the full one, with the smallest squared error of the weights."""

    def squared_error(share: float) -> float:
        scale = to_float16(share * full) or 1.0
        return sum([(w - scale * nearest_level(w, scale, bits)) ** 2 for w in row])

    return full * min(CLIPS, key=squared_error)


def nearest_level(value: float, scale: float, bits: int) -> int:
    """The level whose weight is nearest. Ties go to the even level, in Python as in PyTorch.

    >>> [nearest_level(value, 0.2, 3) for value in (0.6, -0.2, 0.09, 9.0, -9.0)]
    [3, -1, 0, 3, -4]
    """
    half = 2 ** (bits - 1)
    return min(max(round(value / scale), -half), half - 1)


def round_to_nearest(
    weight: list[list[float]], scales: list[float], bits: int, H: list[list[float]]
) -> list[list[int]]:
    """weight [out][in] -> levels [out][in], each weight by itself. It does not look at H."""
    return [[nearest_level(w, scale, bits) for w in row] for row, scale in zip(weight, scales)]


# === GPTQ: THE REST OF THE ROW REPAIRS THE ERROR ===

# The error of a rounded weight is often taken to be |w - q|. But nobody reads weights; the next
# layer reads the outputs w . x. What counts is the squared error of a row's output over the inputs
# x that occur. With d = w - q, where q is the row that will be used:
#
#     2/N sum_n (d . x_n)^2  =  d H d^T        with H = 2/N sum_n x_n^T x_n  =  2/N X X^T
#
# (H is the second derivative of the mean of (d . x_n)^2. Its factors 2 and 1/N change no decision.)
# If inputs i and j mostly share their sign, H[i][j] is large, and an error in w_i can be undone by
# an opposite one in w_j. Say that the weights are (0.4, 0.4) and the scale is 1:
#
#     H = (1.0  0.9)    nearest: q = (0, 0)     d = (0.4, 0.4)     d H d^T = 0.608
#         (0.9  1.0)    GPTQ: w_1 becomes 0, so d_1 = 0.4. Then d H d^T = 0.16 + 0.72 d_2 + d_2^2
#                       is smallest at d_2 = -0.36: w_2 should be 0.76. Its nearest level is 1.
#                       q = (0, 1)              d = (0.4, -0.6)    d H d^T = 0.088
#
# The second weight is not rounded to its own nearest level, and the output is better (Nagel et al.,
# 2020). In general: round w_j and keep it. Where must the weights after it move so that d H d^T is
# smallest? Optimal Brain Surgeon (1992) has the answer. It needs H_F^-1, the inverse of H's
# part for the weights that are still free (w_j and those after it), which changes with every j:
#
#     w_k <- w_k - (w_j - q_j) / [H_F^-1]_jj * [H_F^-1]_jk       for all k after j
#
# GPTQ's observation: all of this stands in one triangle, the U with U^T U = H^-1 that Cholesky's
# method gives. Its row j is row j of H_F^-1, divided by the root of [H_F^-1]_jj. So the paper's
# algorithm 1 overwrites H^-1 with U. Beside it ours, row by row instead of all rows at once:
#
#     H^-1 <- Cholesky(H^-1)^T                     U = transpose(cholesky(inverse(H)))
#     Q_:j <- quant(W_:j)                          level = nearest_level(rest[j], scale, bits)
#     E_:j <- (W_:j - Q_:j) / [H^-1]_jj            error = (rest[j] - scale * level) / U[j][j]
#     W_:,j: <- W_:,j: - E_:j H^-1_j,j:            rest[k] -= error * U[j][k]   for all k after j
#
# At the end d H d^T is exactly the sum of all error^2. If H were diagonal, U would be so too,
# nothing would be passed on, and GPTQ would be rounding to nearest, to the last bit.


def hessian(inputs: list[list[float]]) -> list[list[float]]:
    """inputs [N][in] -> H = 2/N X X^T plus damping [in][in].

    With few names H is singular: some combinations of inputs never occur. The damping makes it
    invertible, and keeps GPTQ from making huge weights that cancel on these inputs only.
    """
    columns = transpose(inputs)
    H = [[2.0 * dot(a, b) / len(inputs) for b in columns] for a in columns]
    damping = DAMPING * sum([H[i][i] for i in range(len(H))]) / len(H)
    for i in range(len(H)):
        H[i][i] += damping or 1.0  # 1: all inputs are zero
    return H


def gptq(
    weight: list[list[float]], scales: list[float], bits: int, H: list[list[float]]
) -> list[list[int]]:
    """weight [out][in] -> levels [out][in]; Frantar et al., 2022, algorithm 1.

    >>> gptq([[0.4, 0.4]], [1.0], 2, [[1.0, 0.9], [0.9, 1.0]])
    [[0, 1]]
    """
    U = transpose(cholesky(inverse(H)))
    return [gptq_row(row, scale, bits, U)[0] for row, scale in zip(weight, scales)]


def gptq_row(
    row: list[float], scale: float, bits: int, U: list[list[float]]
) -> tuple[list[int], list[float], list[float]]:
    """One row [in] -> its levels, each weight as it was when its turn came, and the errors."""
    rest = list(row)
    levels, errors = [], []
    for j in range(len(row)):
        level = nearest_level(rest[j], scale, bits)
        error = (rest[j] - scale * level) / U[j][j]
        rest[j + 1 :] = [w - error * u for w, u in zip(rest[j + 1 :], U[j][j + 1 :])]
        levels.append(level)
        errors.append(error)
    return levels, rest, errors


# GPTQ never goes back: it takes the nearest level, although another one can be better later. Which
# levels are the best? At 2 bits a row of 16 has 4^16 = 4.3 billion choices. But d H d^T is a
# sum of squares that only grows, so a search can turn back wherever it reaches the best row so far.
# Its first full row is GPTQ's (but for ties), and few choices are left after it. (This is known as
# sphere decoding; its first descent, GPTQ, is Babai's nearest-plane algorithm: Chen et al., 2025.)
# The rows of 64 weights, those of mlp_out, are out of its reach: there GPTQ stands in.


def best_row(
    rest: list[float],
    scale: float,
    bits: int,
    U: list[list[float]],
    loss: float = 0.0,
    chosen: tuple[int, ...] = (),
    best: tuple[float, tuple[int, ...]] = (inf, ()),
) -> tuple[float, tuple[int, ...]]:
    """The row's smallest possible d H d^T, and its levels: depth first, the nearest level first."""
    if not rest:
        return loss, chosen
    j, half = len(chosen), 2 ** (bits - 1)
    for level in sorted(range(-half, half), key=lambda level: abs(rest[0] - scale * level)):
        error = (rest[0] - scale * level) / U[j][j]
        if loss + error * error >= best[0]:
            break  # the levels that follow are farther away
        repaired = [w - error * u for w, u in zip(rest[1:], U[j][j + 1 :])]
        best = best_row(repaired, scale, bits, U, loss + error * error, (*chosen, level), best)
    return best


def best_rounding(
    weight: list[list[float]], scales: list[float], bits: int, H: list[list[float]]
) -> list[list[int]]:
    """weight [out][in] -> the levels [out][in] with the smallest d H d^T; long rows as in GPTQ."""
    if len(H) > WIDTH:
        return gptq(weight, scales, bits, H)
    U = transpose(cholesky(inverse(H)))
    return [list(best_row(row, scale, bits, U)[1]) for row, scale in zip(weight, scales)]


# === STORING A MODEL ===

# What is stored are bytes: levels packed without gaps (at 4 bits two in a byte) and scales of 16
# bits each. The models below are decoded from these bytes, so nothing else can help them. This
# saves memory and the time to read it, not arithmetic: a product needs ordinary numbers again. To
# write one token, all weights must be read once, and for one user at a time that reading takes a
# GPU longer than the arithmetic. So with weights in 4 bits instead of 16 it can write up to nearly
# four times as fast. Python cannot show that speed; it can count the bytes. (Weights in "int4" do
# not mean that anything is computed in 4 bits. For that the activations need few bits too.)


class Stored(NamedTuple):
    """A weight matrix [out][in] in few bits."""

    bits: int
    num_out: int
    num_in: int
    levels: bytes
    scales: bytes

    def num_bytes(self) -> int:
        """All that is needed to get the matrix back, but for its shape and the bits."""
        return len(self.levels) + len(self.scales)

    def weight(self) -> list[list[float]]:
        """The matrix that the model will use: scale * level [out][in]."""
        levels = unpack_levels(self.levels, self.bits, self.num_out * self.num_in)
        scales = struct.unpack(f"<{len(self.scales) // 2}e", self.scales)
        if len(scales) == 1:  # per tensor
            scales *= self.num_out
        rows = [levels[i : i + self.num_in] for i in range(0, len(levels), self.num_in)]
        return [[scale * level for level in row] for row, scale in zip(rows, scales)]


def store(levels: list[list[int]], scales: list[float], bits: int, scheme: str) -> Stored:
    """Pack levels and scales; of the scales of one tensor, which are all alike, only one."""
    kept = scales[:1] if scheme == "tensor" else scales
    packed = pack_levels([level for row in levels for level in row], bits)
    return Stored(bits, len(levels), len(levels[0]), packed, struct.pack(f"<{len(kept)}e", *kept))


# GPTQ must see the inputs of each layer, and they depend on the layers before. So the matrices are
# quantised in the order in which the model uses them, and each one sees the inputs that it will
# really get, from layers that are quantised already. (It keeps its outputs for *these* inputs; it
# does not undo the errors of the layers before.) Embeddings stay in float: they are looked up, not
# multiplied. (The head often stays in float too. Here it is quantised with the rest.)
#
# In production: GPTQModel or llm-compressor, usually with 4 bits, a scale for every 128 weights and
# at least 128 texts for calibration. They process all rows together and columns in blocks, to keep
# the GPU busy: the same arithmetic in another order.

STAGES = (("query", "key", "value"), ("attention_out",), ("mlp_in",), ("mlp_out",), ("head",))
LAYERS = sum(STAGES, ())


def quantize_model(
    model: GPT,
    bits: int,
    scheme: str,
    method: Callable = round_to_nearest,
    calibration: Sequence[str] = (),
    shuffle: random.Random | None = None,
) -> tuple[GPT, dict[str, Stored]]:
    """The model with its seven matrices decoded from what was stored, and what was stored.

    shuffle: a control. It reorders every input column by itself, so that each input has the values
    that it had, but they no longer go together.
    """
    quantized, stored = copy(model), {}
    for stage in STAGES:
        inputs = layer_inputs(quantized, calibration) if calibration else {}
        for name in stage:
            weight = getattr(model, name).data
            rows = inputs.get(name, [])
            if shuffle:
                rows = transpose([shuffle.sample(column, len(column)) for column in zip(*rows)])
            H = hessian(rows) if rows else []
            scales = choose_scales(weight, bits, scheme)
            stored[name] = store(method(weight, scales, bits, H), scales, bits, scheme)
        for name in stage:
            setattr(quantized, name, Tensor(stored[name].weight()))
    return quantized, stored


def layer_inputs(model: GPT, names: Sequence[str]) -> dict[str, list[list[float]]]:
    """What each of the seven layers reads when the model reads these names: [N][in] each.

    The graph that the engine keeps for backward() has it: the parents of linear(x, weight) are x
    and weight. In PyTorch one would call register_forward_pre_hook on each layer.
    """
    layer_of = {getattr(model, name): name for name in LAYERS}
    found: dict[str, list[list[float]]] = {}
    waiting = [predict(model, names)[0]]
    while waiting:
        parents = waiting.pop().parents
        if len(parents) == 2 and parents[1] in layer_of:
            found[layer_of[parents[1]]] = parents[0].data
        waiting.extend(parents)
    return found


# === MEASURING ===

# Every model is tested on the same names, so the rise can be measured far more precisely than the
# loss itself: most of what makes a name hard is the same for both models and cancels.


def name_losses(model: GPT, names: Sequence[str]) -> list[tuple[float, int]]:
    """For each name: the loss of all its symbols together, in nats, and how many they are."""
    result = []
    for start in range(0, len(names), 100):
        batch = names[start : start + 100]
        values = iter(log_prob(*predict(model, batch)).data[0])
        for name in batch:
            size = len(name) + 1  # the end mark is predicted too
            result.append((-sum([next(values) for _ in range(size)]), size))
    return result


class Measured(NamedTuple):
    """What one stored model costs and what it has lost."""

    num_bytes: int
    rise: float
    standard_error: float  # of the rise, over the test names
    layer_error: float  # mean over the layers, on the float model's inputs from test names


class Evaluator:
    """The float model, and all that is needed to compare stored models with it."""

    def __init__(self, model: GPT, test: Sequence[str], calibration: Sequence[str]) -> None:
        self.model, self.test, self.calibration = model, test, calibration
        self.float_losses = name_losses(model, test)
        self.num_symbols = sum([size for _, size in self.float_losses])
        self.loss = sum([loss for loss, _ in self.float_losses]) / self.num_symbols
        self.test_H = {k: hessian(rows) for k, rows in layer_inputs(model, test[:100]).items()}

    def measure(self, quantized: GPT, stored: dict[str, Stored]) -> Measured:
        """Compare one stored model with the float model."""
        losses = name_losses(quantized, self.test)
        rises = [after - before for (after, _), (before, _) in zip(losses, self.float_losses)]
        rise = sum(rises) / self.num_symbols
        # A name's own rise, less what its length would give it: the spread between names.
        left = [r - rise * size for r, (_, size) in zip(rises, losses)]
        num_bytes = sum([matrix.num_bytes() for matrix in stored.values()])
        errors = [
            layer_error(getattr(self.model, k).data, stored[k].weight(), self.test_H[k])
            for k in LAYERS
        ]
        spread = sqrt(sum([r * r for r in left])) / self.num_symbols
        return Measured(num_bytes, rise, spread, sum(errors) / len(errors))


def layer_error(weight: list[list[float]], used: list[list[float]], H: list[list[float]]) -> float:
    """Squared error of the outputs by squared outputs: d H d^T / w H w^T, both with H's damping."""

    def squared(rows: list[list[float]]) -> float:
        return sum([dot(row, [dot(row, h) for h in H]) for row in rows])

    difference = [[a - b for a, b in zip(*rows)] for rows in zip(weight, used)]
    return squared(difference) / squared(weight)


# === THE EXPERIMENT ===

# One model is trained and then stored in every way; nothing is trained after that. Two controls at
# 2 bits: calibration on 1 or 8 names shows how much GPTQ must see (8 nearly suffice). Shuffled
# inputs show what its gain rests on: each input keeps its values, but they do not go together.
# (Its mean stays too, so H is not diagonal. The layer error still falls a little, the loss not.)
#
# One model could deceive. On seeds 1, 2 and 3, with 2 bits and one scale per row, the rise is
# 0.169 [results: seed_1.row_2], 0.090 [results: seed_2.row_2] and 0.116 [results: seed_3.row_2] to
# nearest; 0.049 [results: seed_1.clipped_2], 0.048 [results: seed_2.clipped_2] and
# 0.065 [results: seed_3.clipped_2] if the scale is clipped; 0.056 [results: seed_1.gptq_2],
# 0.057 [results: seed_2.gptq_2] and 0.060 [results: seed_3.gptq_2] with GPTQ. So at 2 bits either
# saves a lot. Clipping saves a little more on seeds 1 and 2 (and 42, below), GPTQ on seed 3.
#
# GPTQ takes the weights of a row in the order in which they stand. If those with the largest
# H[j][j] come first, while many weights are left to repair them ("act order"), it closes
# 88% [results: act_order.gap_closed] of the gap from nearest to best rounding, instead of 68%.


def compare_with_best(evaluator: Evaluator) -> dict[str, dict[str, float]]:
    """At 2 bits, one scale per row: the layer error of each method on the float model's inputs
    from the calibration names: all have the same H. Only layers with short rows can be searched.
    """
    errors: dict[str, dict[str, float]] = {}
    for name, rows in layer_inputs(evaluator.model, evaluator.calibration).items():
        weight, H = getattr(evaluator.model, name).data, hessian(rows)
        if len(H) > WIDTH:
            continue
        scales = choose_scales(weight, 2, "channel")
        errors[name] = {}
        for method in (round_to_nearest, gptq, best_rounding):
            used = store(method(weight, scales, 2, H), scales, 2, "channel").weight()
            errors[name][method.__name__] = layer_error(weight, used, H)
    return errors


def run_controls(
    evaluator: Evaluator, training: Sequence[str], known: dict[str, Measured]
) -> dict[str, Measured]:
    """2 bits, one scale per row: calibration names taken away, correlation taken away, and the
    best rounding.
    """
    calibration, model = evaluator.calibration, evaluator.model

    def measure(*how: object) -> Measured:
        return evaluator.measure(*quantize_model(model, 2, "channel", *how))

    controls = {"nearest": known["nearest"]}
    for count in FEWER_NAMES:
        title = f"GPTQ, {count} name{'s' if count > 1 else ''}"
        controls[title] = measure(gptq, training[:count])
    controls["GPTQ, inputs shuffled"] = measure(gptq, calibration, random.Random(SEED))
    controls[f"GPTQ, {len(calibration)} names"] = known["gptq"]
    controls["best rounding"] = measure(best_rounding, calibration)
    return controls


def main() -> dict[str, object]:
    """Train one model, store it in many ways, and measure what each has lost."""
    rng = random.Random(SEED)
    names = load_names()
    rng.shuffle(names)
    training, held_out = names[:-NUM_HELD_OUT], names[-NUM_HELD_OUT:]
    model = GPT(len(ALPHABET), CONTEXT, WIDTH, rng)
    report_data(model, training)
    start = time.perf_counter()
    train(model, training, rng)
    print(f"time  training took {time.perf_counter() - start:.1f} s")

    evaluator = Evaluator(model, held_out[:NUM_TEST], training[:NUM_CALIBRATION])
    report_grids(model)
    report_row(model, evaluator.calibration)
    report_head(evaluator)
    models: dict[tuple[int, str, str], GPT] = {}
    results: dict[tuple[int, str, str], Measured] = {}
    for bits in BITS:
        for scheme in SCHEMES:
            if (bits, scheme) == (8, "clipped"):
                continue  # at 8 bits there is nothing left to gain
            for method in (round_to_nearest, gptq):
                calibration = evaluator.calibration if method is gptq else ()
                quantized, stored = quantize_model(model, bits, scheme, method, calibration)
                key = (bits, scheme, "gptq" if method is gptq else "nearest")
                models[key], results[key] = quantized, evaluator.measure(quantized, stored)
            report_result(bits, scheme, results, num_weights(model))
    report_growth(results)

    known = {method: results[2, "channel", method] for method in ("nearest", "gptq")}
    controls = run_controls(evaluator, training, known)
    report_controls(controls)
    errors = compare_with_best(evaluator)
    headline = {
        "row_8": results[8, "channel", "nearest"].rise,
        "tensor_2": results[2, "tensor", "nearest"].rise,
        "row_2": known["nearest"].rise,
        "clipped_2": results[2, "clipped", "nearest"].rise,
        "gptq_2": known["gptq"].rise,
        "gap_closed": report_gap(errors),
    }
    report_samples(model, models)
    report_conclusion(headline, results, controls)
    details = {"results": results, "controls": controls, "errors": errors, "loss": evaluator.loss}
    return {**headline, "details": details}


# === APPENDIX: REPORT AND HELPERS ===


def to_float16(value: float) -> float:
    """The nearest float of 16 bits (half precision).

    >>> to_float16(0.1)
    0.0999755859375
    """
    return struct.unpack("<e", struct.pack("<e", value))[0]


def pack_levels(levels: Sequence[int], bits: int) -> bytes:
    """Levels side by side without gaps, the lowest level as 0: at 4 bits two in each byte.

    >>> pack_levels([-8, 7, 0], 4).hex()
    'f008'
    """
    whole = 0
    for level in reversed(levels):
        whole = whole << bits | level + (1 << bits - 1)
    return whole.to_bytes((bits * len(levels) + 7) // 8, "little")


def unpack_levels(packed: bytes, bits: int, count: int) -> list[int]:
    """The inverse of pack_levels.

    >>> unpack_levels(bytes.fromhex("f008"), 4, 3)
    [-8, 7, 0]
    """
    whole, mask, half = int.from_bytes(packed, "little"), (1 << bits) - 1, 1 << bits - 1
    return [(whole >> shift & mask) - half for shift in range(0, bits * count, bits)]


def cholesky(a: list[list[float]]) -> list[list[float]]:
    """Symmetric positive definite a [n][n] -> lower triangle L with L L^T = a.

    >>> cholesky([[4.0, 2.0], [2.0, 5.0]])
    [[2.0, 0.0], [1.0, 2.0]]
    """
    L = [[0.0] * len(a) for _ in a]
    for i in range(len(a)):
        for j in range(i + 1):
            left = a[i][j] - dot(L[i][:j], L[j][:j])
            if i == j and left <= 0.0:
                raise ValueError("the matrix is not positive definite: more damping is needed")
            L[i][j] = sqrt(left) if i == j else left / L[j][j]
    return L


def inverse(a: list[list[float]]) -> list[list[float]]:
    """The inverse of a symmetric positive definite matrix: a = L L^T, so it is L^-T L^-1.

    >>> inverse([[4.0, 0.0], [0.0, 0.25]])
    [[0.25, 0.0], [0.0, 4.0]]
    """
    L = cholesky(a)
    columns = []  # of the inverse of L, by forward substitution
    for j in range(len(a)):
        column = [0.0] * len(a)
        for i in range(j, len(a)):
            column[i] = ((i == j) - dot(L[i][j:i], column[j:i])) / L[i][i]
        columns.append(column)
    return [[dot(p, q) for q in columns] for p in columns]


def fitted_exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """k in y ~ x^k: the slope of the best straight line through the logarithms.

    >>> round(fitted_exponent([1, 2, 4], [3, 12, 48]), 9)
    2.0
    """
    logs = [(log(x), log(y)) for x, y in zip(xs, ys)]
    mean_x, mean_y = [sum(column) / len(logs) for column in zip(*logs)]
    return sum([(x - mean_x) * (y - mean_y) for x, y in logs]) / sum(
        [(x - mean_x) ** 2 for x, _ in logs]
    )


def num_weights(model: GPT) -> int:
    """How many weights are quantised."""
    return sum([len(matrix.data) * len(matrix.data[0]) for matrix in map(vars(model).get, LAYERS)])


def report_data(model: GPT, training: Sequence[str]) -> None:
    """The facts before anything is learned."""
    print(f"{len(training):,} names to train on, {NUM_HELD_OUT:,} held out, {NUM_TEST} measured")
    print(f"Knowing nothing, a symbol costs ln {len(ALPHABET)} = {log(len(ALPHABET)):.2f} nats.")
    print(f"\nTraining a GPT; {num_weights(model):,} of its weights will be quantised")


TITLES = {"tensor": "one per matrix", "channel": "one per row", "clipped": "per row, clipped"}


def report_grids(model: GPT) -> None:
    """The weights of one row on a line, and below them the levels that they can have at 2 bits."""
    name, index = SHOWN
    weight = getattr(model, name).data
    reach = max([abs(w) for row in weight for w in row])

    def line(values: Sequence[float], mark: str) -> str:
        marks = ["."] * 61
        for value in values:
            if abs(value) <= reach * 1.001:
                marks[round(30 + 30 * value / reach)] = mark
        return "".join(marks)

    print(f"\nRow {index} of the matrix '{name}', and the levels that it can have at 2 bits")
    print(f"{'its weights':<18}{line(weight[index], 'o')}")
    for scheme in SCHEMES:
        scale = choose_scales(weight, 2, scheme)[index]
        print(f"{TITLES[scheme]:<18}{line([scale * q for q in (-2, -1, 0, 1)], '|')}")


def report_row(model: GPT, calibration: Sequence[str]) -> None:
    """The same row at 2 bits, weight by weight, rounded to nearest and by GPTQ."""
    name, index = SHOWN
    weight = getattr(model, name).data
    row, scale = weight[index], choose_scales(weight, 2, "channel")[index]
    H = hessian(layer_inputs(model, calibration)[name])
    U = transpose(cholesky(inverse(H)))
    levels, repaired, errors = gptq_row(row, scale, 2, U)
    nearest = [nearest_level(w, scale, 2) for w in row]
    _, best = best_row(row, scale, 2, U)
    print(f"\nThat row at 2 bits with one scale ({scale:.3f}), in units of the scale. GPTQ rounds")
    print("a weight as repaired so far; * marks a level that is not the weight's nearest.")
    print("weight   nearest   repaired   GPTQ      error^2   sum so far   best")
    total = 0.0
    for j in range(len(row)):
        total += errors[j] ** 2
        mark = "*" if levels[j] != nearest[j] else " "
        print(
            f"{row[j] / scale:6.2f}{nearest[j]:8d}{repaired[j] / scale:12.2f}{levels[j]:8d} {mark}"
            f"{errors[j] ** 2:11.4f}{total:11.4f}{best[j]:9d}"
        )
    losses = []
    for choice in (nearest, levels, best):
        d = [w - scale * level for w, level in zip(row, choice)]
        losses.append(dot(d, [dot(d, h) for h in H]))
    print("d H d^T: nearest {:.4f}, GPTQ {:.4f}, best possible {:.4f}".format(*losses))


def report_head(evaluator: Evaluator) -> None:
    """The head of the table of results."""
    count = num_weights(evaluator.model)
    print(f"\nThe loss with float weights is {evaluator.loss:.4f}. The {count:,} weights take")
    print(f"{4 * count:,} bytes in 32 bits each, {2 * count:,} in 16. Stored in fewer:")
    print("                         bytes   bits per    rise of the loss      layer error")
    print("bits  scales            stored     weight    nearest     GPTQ    nearest    GPTQ")


def report_result(
    bits: int, scheme: str, results: dict[tuple[int, str, str], Measured], count: int
) -> None:
    """One line of the table of results."""
    nearest, repaired = [results[bits, scheme, method] for method in ("nearest", "gptq")]
    print(
        f"{bits:<6}{TITLES[scheme]:<18}{nearest.num_bytes:>6,}"
        f"{8 * nearest.num_bytes / count:>11.2f}{nearest.rise:>+11.4f}{repaired.rise:>+9.4f}"
        f"{nearest.layer_error:>11.4f}{repaired.layer_error:>8.4f}",
        flush=True,
    )


def report_growth(results: dict[tuple[int, str, str], Measured]) -> None:
    """How precise the rises are, and how the layer error grows with the size of a step."""
    spreads = {b: [m.standard_error for key, m in results.items() if key[0] == b] for b in BITS}
    worst = ", ".join([f"{max(values):.4f}" for values in spreads.values()])
    print(f"Standard errors are at most {worst} ({', '.join(map(str, BITS))} bits)")
    steps = [1.0 / (2 ** (bits - 1) - 1) for bits in BITS]
    exponents = [
        fitted_exponent(steps, [results[bits, "channel", method].layer_error for bits in BITS])
        for method in ("nearest", "gptq")
    ]
    print("One scale per row: the layer error grows as (distance of two levels)^k, with")
    print("k = {:.2f} to nearest and {:.2f} with GPTQ; rounding predicts 2".format(*exponents))


def report_controls(controls: dict[str, Measured]) -> None:
    """At 2 bits, one scale per row: the same number of bytes, rounded in different ways."""
    print(f"\n2 bits, one scale per row: {controls['nearest'].num_bytes:,} bytes in every line")
    print("rounding                layer error     rise")
    widest = max([measured.rise for measured in controls.values()] + [1e-9])
    for title, measured in controls.items():
        bar = "#" * round(34 * max(measured.rise, 0.0) / widest)
        line = f"{title:<24}{measured.layer_error:>11.4f}{measured.rise:>+9.4f}  {bar}"
        print(line.rstrip())


def report_gap(errors: dict[str, dict[str, float]]) -> float:
    """GPTQ between rounding to nearest and the best rounding -> the share of the gap it closes."""
    nearest, repaired, best = [sum(column) for column in zip(*map(dict.values, errors.values()))]
    closed = (nearest - repaired) / (nearest - best)
    print(f"Layer error on the calibration inputs, sum of {len(errors)} layers with short rows:")
    print(f"nearest {nearest:.3f}, GPTQ {repaired:.3f}, best {best:.3f}: ", end="")
    print(f"GPTQ closes {closed:.0%} of the gap.")
    return closed


def report_samples(model: GPT, models: dict[tuple[int, str, str], GPT]) -> None:
    """Names from some of the models, drawn with the same random numbers."""
    print("\nNames, drawn with the same random numbers")
    shown = {"float weights": model}
    for bits, scheme, method in (
        (4, "channel", "gptq"),
        (2, "tensor", "nearest"),
        (2, "channel", "nearest"),
        (2, "channel", "gptq"),
        (2, "clipped", "gptq"),
    ):
        if (bits, scheme, method) in models:
            word = "GPTQ" if method == "gptq" else method
            shown[f"{bits} bits, {TITLES[scheme]}, {word}"] = models[bits, scheme, method]
    for title, one in shown.items():
        texts = sample(one, [0] * 5, NUM_HEADS, CONTEXT, random.Random(SEED))
        words = ["".join([ALPHABET[i] for i in text if i]) for text in texts]
        print(f"{title:<32}{' '.join(words)}"[:80])


def report_conclusion(
    headline: dict[str, float],
    results: dict[tuple[int, str, str], Measured],
    controls: dict[str, Measured],
) -> None:
    """Say in words what the run has shown."""
    eight, tensor, row, clipped, repaired, _ = headline.values()
    both, shuffled = results[2, "clipped", "gptq"], controls["GPTQ, inputs shuffled"].rise
    noise = 3.0 * both.standard_error
    print(f"\n8 bits {'are free' if abs(eight) < 0.002 else 'are not free'}: {eight:+.4f} nats.")
    print(f"2 bits, to nearest: one scale per matrix {tensor:+.3f}, one per row {row:+.3f},")
    print(f"clipped {clipped:+.3f}. GPTQ, one per row: {repaired:+.3f}, clipped {both.rise:+.3f}.")
    if repaired < row - noise:
        if shuffled > row - noise:
            print("On shuffled inputs GPTQ gains nothing, so it lives on their correlation.")
        else:
            print("On shuffled inputs GPTQ gains something too, so correlation is not all.")
    else:
        print("GPTQ gains no more than the precision of this test.")
    rival = "as much as" if abs(clipped - repaired) <= noise else "less than"
    rival = "more than" if clipped < repaired - noise else rival
    print(f"Its rival: a clipped scale alone gains {rival} GPTQ with the full scale.")
    if both.rise < clipped - noise:
        print("The two together gain more than either.")
    else:
        print("Together they gain no more in the loss that this test could tell, although the")
        old, new = results[2, "clipped", "nearest"].layer_error, both.layer_error
        print(f"layer error {'falls' if new < old else 'rises'} from {old:.3f} to {new:.3f}.")
    one, least = results[3, "tensor", "gptq"], results[2, "tensor", "gptq"].num_bytes
    print(f"Bytes: 2 bits, clipped, GPTQ take {both.num_bytes:,} for {both.rise:+.3f};", end=" ")
    print("3 bits with one scale per\nmatrix and GPTQ take", end=" ")
    print(
        f"{one.num_bytes:,} for {one.rise:+.3f}. Scales per row cost {both.num_bytes - least} bytes"
    )
    print(
        f"more than one per matrix: a row has only {WIDTH} or {4 * WIDTH} weights. In rows of 4,096"
    )
    print("weights they would cost almost nothing.")


# === APPENDIX: TRAINING (as in microgpt.py, which explains it) ===


def predict(model: GPT, names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read names, all at once -> logits [N][27] for the N symbols that follow, and the symbols."""
    ids, positions, spans, targets = pack([encode(name) for name in names])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.forward(ids, positions, attend), targets


def train(model: GPT, names: Sequence[str], rng: random.Random) -> None:
    """Change the model's matrices, step by step, so that the names become more likely."""
    optimizer = Adam(model.parameters(), betas=(0.9, 0.95))
    recent: list[float] = []
    for step in range(1, NUM_STEPS + 1):
        loss = cross_entropy(*predict(model, rng.sample(names, BATCH_SIZE)))
        loss.backward()
        optimizer.step(LEARNING_RATE * (1.0 - (step - 1) / NUM_STEPS))
        recent.append(loss.item())
        if step % 80 == 0:
            print(f"step {step:4d}/{NUM_STEPS} | loss {sum(recent) / len(recent):.4f}", flush=True)
            recent.clear()


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


def sample(
    model: GPT, starts: Sequence[int], num_heads: int, context: int, rng: random.Random
) -> list[list[int]]:
    """Continue each start symbol until the model ends the text with 0, or context + 1 symbols are
    there: one list of symbols per start, both ends included. Nothing is cut off or sharpened.

    All unfinished texts read their last symbol in one forward pass. The keys and values of what
    they have read before are kept; they lie one text after the other, so a text is a span.
    """
    texts = [[start] for start in starts]
    keys: list[list[list[float]]] = [[] for _ in starts]
    values: list[list[list[float]]] = [[] for _ in starts]
    active = list(range(len(starts)))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        for i, key, value in zip(active, k.data, v.data):
            keys[i].append(key)
            values[i].append(value)
        all_keys, all_values = [
            [row for i in active for row in cache[i]] for cache in (keys, values)
        ]
        length = len(all_keys) // len(active)
        spans = [(n * length, (n + 1) * length) for n in range(len(active))]
        return scaled_dot_product_attention(
            q, Tensor(all_keys), Tensor(all_values), num_heads, spans
        )

    for position in range(context):
        if active:
            last = [texts[i][-1] for i in active]
            logits = model.forward(last, [position] * len(active), attend).data
            for i, row in zip(active, logits):
                texts[i].append(rng.choices(range(len(row)), softmax_row(row))[0])
            active = [i for i in active if texts[i][-1] != 0]
    return texts


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
