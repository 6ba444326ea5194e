"""Stored in 4 bits, a frozen model carries trained adapters as well as it does in full precision.

LoRA freezes a model and trains small adapters beside its weights (microlora). Most memory is then
taken by numbers that never change: the frozen weights. QLoRA stores these in 4 bits each. For
every product they are turned back into ordinary numbers, which are thrown away afterwards. The
adapters, and all arithmetic, keep full precision: here Python's 64-bit floats.

The same small GPT as in microlora, the "base", learns names that end in a vowel or y. Then its
weights are stored in 4, 3 and 2 bits. Look at four things: how much each code raises the loss
before anything is adapted; how well adapters over 4-bit weights learn names of a new kind; what
2 bits break, and how much of it adapters repair when they are trained *through* the 2-bit weights;
and what is left of the repair when base and adapters are merged into 2-bit matrices.

The measure is the loss: the mean of -log(probability that the model gave to the symbol that
really followed), in nats, on names that were held out. The "rise" is how much higher it is than
the loss of the base in full precision. A rise of 0 means that a repair is complete.

In the code   In the paper    Meaning                                            Shape
levels        q_i             the values from -1 to 1 that a code can name       2^bits
codes         W^NF4           for each weight, the number of its nearest level   out * in
scales        c_2, absmax     the largest |weight| of each block of 64           1 per block
lora_A        L_1 transposed  reads r numbers off the layer's input              [r][in]
lora_B        L_2 transposed  writes them into the layer's output                [out][r]
weight        doubleDequant   the frozen weight, recomputed from codes, scales   [out][in]

Left out: paged optimisers, the paper's third part, which move Adam's numbers to the computer's
main memory when the GPU runs short. Methods that look at the layer's inputs before they round
(GPTQ, AWQ; microquant). And size: this model has 4,192 numbers. In 4 bits it saves nothing worth
having; it shows what the method does to the losses.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microqlora.json under that key.

Read first: microlora.

Papers: Dettmers et al., "QLoRA: Efficient Finetuning of Quantized LLMs", 2023, arXiv:2305.14314.
Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021, arXiv:2106.09685. Dettmers
et al., "8-bit Optimizers via Block-wise Quantization", 2021, arXiv:2110.02861. Yoshida, "NF4 Isn't
Information Theoretically Optimal (and that's Good)", 2023, arXiv:2306.06965. Li et al., "LoftQ:
LoRA-Fine-Tuning-Aware Quantization for Large Language Models", 2023, arXiv:2310.08659.
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from array import array
from bisect import bisect
from collections.abc import Callable, Sequence
from copy import copy
from math import exp, log, sqrt
from operator import add, mul, sub
from pathlib import Path
from statistics import NormalDist
from typing import Any

# === CONSTANTS ===

SEED = 42
CONTEXT = 16  # symbols: the start mark and the 15 letters of the longest name
WIDTH = 16  # entries of a vector
NUM_HEADS = 2
NUM_HELD_OUT = 1000  # names that no model is trained on
BASE_ENDINGS = "aeiouy"  # names that end in one of these are the base kind

# Training: all of this as in microlora, so that the numbers can be compared.
BASE_STEPS = 300
BASE_RATE = 0.02  # learning rates are those of the first step; they fall to 0 in a line
BATCH_SIZE = 8  # names per step
BETAS = (0.9, 0.95)  # Adam's
NUM_ADAPT = 64  # names of the target kind to adapt to
ADAPT_STEPS = 40
RANK = 2  # of the adapters
LORA_RATE = 0.03  # for LoRA in full precision the best of a grid, on other names

BLOCK_SIZE = 64  # weights that share a scale; bitsandbytes' default
NUM_REPAIR = 320  # names of the base kind, to repair with: 40 steps of 8
REPAIR_RATE = 0.02

# === A CODE FOR WEIGHTS: LEVELS, BLOCKS, SCALES ===

# With 4 bits a weight can be one of 16 values. Which 16? First, the weights are cut into blocks of
# 64, and each block is divided by its largest absolute value, its scale. So all weights lie from -1
# to 1, and the same 16 levels from -1 to 1 serve all blocks. A code is the number of a level. One
# huge weight makes the steps coarse for its whole block, but for no other: so the blocks are small.
# They are not smaller still because each block must store its scale.
#
# Where should the levels lie? Evenly spaced ("int4": -7/7, -6/7 ... 7/7) is the simple answer. But
# trained weights are often roughly normal: many are small, few are large. NormalFloat (NF4) puts
# the levels at quantiles of the normal distribution, which cut it into parts of about equal
# probability: levels lie close together where there are many weights. It has 7 levels below zero
# and 8 above, and zero itself, so that a weight of 0 stays 0.
#
# An example with NF2, whose levels are -1, 0, 0.338 and 1, and one block of four weights:
#
#     weights          0.50   -0.20    0.10    0.00         scale 0.50
#     weight / scale   1.00   -0.40    0.20    0.00
#     nearest level    1       0       0.338   0            codes 3, 1, 2, 1
#     level * scale    0.50    0.00    0.169   0.00         what the layer will use
#
# The quantiles must be divided by the largest of them (1.85), as the weights are by theirs. If not,
# the outermost levels lie far beyond 1, where there are no weights, and their codes are wasted.
#
# NF4 is often called "information-theoretically optimal", which means that each level is used
# equally often. For normal numbers with a standard deviation of 1/1.85 that would nearly hold. But
# divided by the largest of its block, a weight is no longer normal, and how it is distributed
# depends on the size of the block (Yoshida, 2023). The run prints how often the rarest and the
# commonest level are used.


def normal_float_levels(bits: int) -> list[float]:
    """NormalFloat's 2^bits levels, from -1 to 1, with a zero (Dettmers et al., 2023, appendix E).

    >>> [round(level, 3) for level in normal_float_levels(2)]
    [-1.0, 0.0, 0.338, 1.0]
    """
    # The quantile of probability 1 is infinite, so the last level is taken at this probability,
    # about half a level's share below 1: 1 - (1/32 + 1/30) / 2. The paper defines 4 bits only; for
    # fewer bits we keep the number.
    last = 0.9677083
    half = 2 ** (bits - 1)  # positive levels; there is one negative level fewer

    def quantiles(count: int) -> list[float]:
        steps = [0.5 + (last - 0.5) * i / count for i in range(1, count + 1)]
        values = [NormalDist().inv_cdf(probability) for probability in steps]
        return [value / values[-1] for value in values]  # the largest level must be 1

    return [-value for value in reversed(quantiles(half - 1))] + [0.0] + quantiles(half)


def integer_levels(bits: int) -> list[float]:
    """Even steps from -1 to 1 with a zero: 2^bits - 1 levels, so one code stays unused.

    >>> integer_levels(2)
    [-1.0, 0.0, 1.0]
    """
    top = 2 ** (bits - 1) - 1
    return [i / top for i in range(-top, top + 1)]


def quantize_blockwise(
    weights: Sequence[float], levels: Sequence[float]
) -> tuple[list[int], array[float]]:
    """weights -> a code for each, and a scale for each block of BLOCK_SIZE.

    >>> codes, scales = quantize_blockwise([0.5, -0.2, 0.1, 0.0], [-1.0, 0.0, 0.338, 1.0])
    >>> codes, list(scales)
    ([3, 1, 2, 1], [0.5])
    """
    boundaries = [(low + high) / 2 for low, high in zip(levels, levels[1:])]
    codes: list[int] = []
    scales = array("f")  # 32 bits each
    for start in range(0, len(weights), BLOCK_SIZE):
        block = weights[start : start + BLOCK_SIZE]
        scales.append(max([abs(weight) for weight in block]))
        scale = scales[-1] or 1.0  # a block of zeros
        codes += [bisect(boundaries, weight / scale) for weight in block]
    return codes, scales


def dequantize_blockwise(
    codes: Sequence[int], scales: Sequence[float], levels: Sequence[float]
) -> list[float]:
    """The weights that codes and scales stand for, level * scale: we call them decoded. They are
    not the original weights: what rounding took is gone.
    """
    return [levels[code] * scales[i // BLOCK_SIZE] for i, code in enumerate(codes)]


# === A FROZEN LAYER IN FEW BITS ===

# The paper's formula for a layer (its eq. 5), and ours, in which every matrix is transposed:
#
#     Y = X doubleDequant(c_1, c_2, W^NF4) + X L_1 L_2
#     y = linear(x, weight)                + linear(linear(x, lora_A), lora_B)
#
# "Training in 4 bits" is a misnomer. 4 bits are how the frozen weights are *stored*. To *compute*,
# they are turned into ordinary numbers (bfloat16 in production, Python's floats here), and the
# matrix product is an ordinary one.
#
# On the way back, the gradient passes *through* the frozen weight, because there are adapters in
# the layers below: d_x = d_y W. If it is stopped there, adapters over NF4 end
# 0.29 [results: no_way_through.qlora_gap_nf4] nats above those over full precision. But it never
# goes *into* the weight: there is no d_W, and a small step would not move a weight from one of the
# 16 values to the next. Nor is rounding ever differentiated: codes are constants. (To train weights
# that will be rounded is another method, quantisation-aware training.)


class QuantizedLinear:
    """A frozen layer whose weight [out][in] is stored as codes and scales.

    bitsandbytes' Linear4bit, but for any number of bits up to 8. Its weights are decoded for the
    forward pass and once more for the backward pass, so that no layer's decoded weights have to
    be kept in between: this costs time and saves memory.
    """

    def __init__(self, weight: list[list[float]], levels: Sequence[float]) -> None:
        self.num_out, self.num_in = len(weight), len(weight[0])
        self.levels = levels
        codes, self.scales = quantize_blockwise(sum(weight, []), levels)
        self.packed = pack_codes(codes, self.bits)

    @property
    def bits(self) -> int:
        """How many bits a code takes: 4 for 15 or 16 levels."""
        return (len(self.levels) - 1).bit_length()

    def codes(self) -> list[int]:
        """One for each weight, row by row."""
        return unpack_codes(self.packed, self.bits, self.num_out * self.num_in)

    @property
    def weight(self) -> Tensor:
        """The weight that the layer uses, decoded anew each time."""
        flat = dequantize_blockwise(self.codes(), self.scales, self.levels)
        rows = [flat[i : i + self.num_in] for i in range(0, len(flat), self.num_in)]
        return Tensor(rows, requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        y = matmul(x.data, transpose(self.weight.data))

        def pass_back(d_y: list[list[float]]) -> tuple:
            return (matmul(d_y, self.weight.data),)  # d_x; d_W is never computed

        return Tensor(y, (x,), pass_back)

    def parameters(self) -> list[Tensor]:
        """None: there is nothing to train."""
        return []


def quantize_model(model: Transformer, levels: Sequence[float]) -> Transformer:
    """Store the seven weight matrices in few bits. The two embeddings stay as they are, which is
    usual: they are looked up, not multiplied. In production the head, too, usually keeps 16 bits;
    here it is quantised with the rest.
    """
    layers = {
        name: QuantizedLinear(layer.weight.data, levels) for name, layer in model.layers.items()
    }
    return Transformer(model.token_embedding, model.position_embedding, layers)


# === ADAPTERS OVER IT ===

# This is microlora's adapter, letter for letter. It asks the layer under it for a product and for
# the shape of its weight, and does not care how the weight is stored. In production:
#
#     config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
#         bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
#     model = AutoModelForCausalLM.from_pretrained(name, quantization_config=config)
#     model = get_peft_model(prepare_model_for_kbit_training(model),
#         LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
#
# Like the paper, we put adapters at every linear layer, not at query and value only (and at the
# head, which "all-linear" leaves out). QLoRA needs less memory than LoRA, but it is not faster:
# decoding is extra work.


class LoRALinear:
    """A frozen layer with weight W [out][in], and beside it an adapter of low rank r.

        y = W x + scaling * B A x          Hu et al., 2021, eq. 3, where scaling is alpha / r

    lora_A [r][in] reads r numbers off x, lora_B [out][r] writes them into y. B starts at zero.
    """

    def __init__(self, base: Any, rank: int, rng: random.Random, scaling: float = 1.0) -> None:
        num_out, num_in = len(base.weight.data), len(base.weight.data[0])
        spread = num_in**-0.5
        self.base = base
        self.lora_A = Tensor([[rng.gauss(0.0, spread) for _ in range(num_in)] for _ in range(rank)])
        self.lora_B = Tensor([[0.0] * rank for _ in range(num_out)])
        self.scaling = scaling

    def __call__(self, x: Tensor) -> Tensor:
        return self.base(x) + linear(linear(x, self.lora_A), self.lora_B) * self.scaling

    def parameters(self) -> list[Tensor]:
        return [*self.base.parameters(), self.lora_A, self.lora_B]

    def update(self) -> list[list[float]]:
        """scaling * B A as one matrix [out][in]: what the adapter adds to W."""
        product = matmul(self.lora_B.data, self.lora_A.data)
        return [[self.scaling * value for value in row] for row in product]


def add_adapters(
    base: Transformer, targets: Sequence[str], rank: int, rng: random.Random
) -> Transformer:
    """The same matrices, not copies of them, with adapters at the layers named in targets."""
    layers = {
        name: LoRALinear(layer, rank, rng) if name in targets else layer
        for name, layer in base.layers.items()
    }
    return Transformer(base.token_embedding, base.position_embedding, layers)


# What is served after training? Either codes and adapter apart, as they were trained, or W + B A as
# one matrix in 16 bits, where W is the decoded weight that B A was trained over. Both compute what
# was trained, up to rounding in 16 bits. For one matrix in few bits, the sum must be quantised once
# more, and a change of less than half the gap between two levels can vanish:
#
#     NF2, scale 0.50:  a weight decodes to 0.169, the adapter adds 0.06, the sum is 0.229.
#                       The nearest of -0.5, 0, 0.169 and 0.5 is 0.169: what it added is gone.
#
# In production, peft's merge_and_unload() over a base in 4 bits does this second quantising.


def merge(adapted: Transformer) -> Transformer:
    """Each layer's decoded weight plus its adapter's B A, as one matrix in full precision."""
    layers = {
        name: Linear(
            Tensor(add_matrices(layer.base.weight.data, layer.update()), requires_grad=False)
        )
        for name, layer in adapted.layers.items()
    }
    return Transformer(adapted.token_embedding, adapted.position_embedding, layers)


# === THE SCALES NEED MEMORY TOO ===

# A scale of 32 bits for 64 codes of 4 bits is 0.5 bits per weight, an eighth on top. Double
# quantisation quantises the scales as well: to 8 bits, in blocks of 256 scales. They are all
# positive, so their mean is subtracted first, or half of the codes would never be used. This makes
# 4 + 8/64 + 32/(64 * 256) = 4.127 bits. (The paper rounds scales to an 8-bit float, we to evenly
# spaced steps.) It saves 0.37 bits of 4.5; in a model of 65 billion weights that is 3 GB. With 16
# bits per weight the model would take 130 GB, with 4.127 it takes 34. The run shows how this
# changes the base's loss; adapters are trained over scales of 32 bits.


def double_quantize(scales: Sequence[float]) -> tuple[array[int], float, float]:
    """One block of scales -> a whole number from -127 to 127 for each, their mean, and the step.

    >>> codes, mean, step = double_quantize([1.0, 2.0, 3.0])
    >>> list(codes), mean, [round(mean + step * code, 9) for code in codes]
    ([-127, 0, 127], 2.0, [1.0, 2.0, 3.0])
    """
    mean = sum(scales) / len(scales)
    step = max([abs(scale - mean) for scale in scales]) / 127 or 1.0  # 1: all scales are alike
    return array("b", [round((scale - mean) / step) for scale in scales]), mean, step


def double_quantize_model(model: Transformer) -> tuple[Transformer, float]:
    """The quantised model with scales of 8 bits, and how many bits it stores per weight. All its
    scales together are one block: there are only 55. Mean and step are counted as 32 bits each;
    shared by so few weights, they lift the count above 4.127.
    """
    scales = [scale for layer in model.layers.values() for scale in layer.scales]
    codes, mean, step = double_quantize(scales)
    layers, done = {}, 0
    for name, layer in model.layers.items():
        layers[name] = copy(layer)  # it shares the codes
        own = codes[done : done + len(layer.scales)]
        layers[name].scales = [mean + step * code for code in own]
        done += len(own)
    stored = [*[len(layer.packed) for layer in model.layers.values()], len(codes), 4, 4]  # bytes
    bits = 8 * sum(stored) / len(flat_weights(model))
    return Transformer(model.token_embedding, model.position_embedding, layers), bits


# === THE EXPERIMENT ===

# Adapters over a quantised base do two things with the same few numbers: they learn the new kind of
# name, and they make up for what rounding has broken. To see the second alone, other adapters are
# trained on names of the *base* kind, on which the base was trained already. As a control, the run
# trains such adapters over full precision too. If they gained as well, the repair could be mere
# further training. (Of these 320 names the base has met about one in six.)
#
# And for the first: adapters trained over full precision are moved onto the quantised base, which
# they have never met. The difference between these and QLoRA's adapters, which met it in training,
# is what training *through* the quantised weights is good for.
#
# One run could deceive. QLoRA's loss over NF4 minus LoRA's is -0.005
# [results: seed_1.qlora_gap_nf4], 0.003 [results: seed_2.qlora_gap_nf4] and 0.005
# [results: seed_3.qlora_gap_nf4] on other seeds, and -0.003 [results: rate_02.qlora_gap_nf4] with
# the learning rate 0.02. The sign changes: a gap of this size says only that the two are alike.
# Nor is the loss "none" on the target kind a measure of a code: it can fall when weights are
# rounded, since the base never learned that kind.
#
# Is the repair only a copy of what rounding took away? The copy of rank 2 with the smallest squared
# error needs no training: it is the SVD of W minus its decoded self, cut to 2 terms (microlora
# explains this). It leaves a rise of 0.149 [results: svd_repair.repaired_rise_nf2], far more than
# training does: it makes the error of the weights small, training the loss itself. (LoftQ finds
# codes and such a copy together, and trains on from there.) With rank 8, training leaves
# 0.054 [results: rank_8.repaired_rise_nf2]; merged into 2 bits, that becomes
# 0.198 [results: rank_8.merged_rise_nf2], more than without any repair.


def train(
    model: Transformer,
    names: Sequence[str],
    num_steps: int,
    lr: float,
    rng: random.Random,
    report_every: int = 0,
) -> None:
    """Change what is not frozen, so that the names become more likely. lr falls to 0 in a line."""
    optimizer = Adam(trainable_parameters(model), BETAS)
    queue: list[str] = []
    recent: list[float] = []
    for step in range(1, num_steps + 1):
        if len(queue) < BATCH_SIZE:
            queue = rng.sample(names, len(names))  # the next pass through all names, shuffled
        batch, queue = queue[:BATCH_SIZE], queue[BATCH_SIZE:]

        loss = cross_entropy(*predict(model, batch))
        loss.backward()
        optimizer.step(lr * (1.0 - (step - 1) / num_steps))

        recent.append(loss.item())
        if report_every and step % report_every == 0:
            print(f"step {step:4d}/{num_steps} | loss {sum(recent) / len(recent):.4f}", flush=True)
            recent.clear()


def trained_over(base: Transformer, names: Sequence[str], lr: float) -> Transformer:
    """Adapters at all seven layers of the frozen base. Every base sees the same batches."""
    adapted = add_adapters(base, tuple(base.layers), RANK, random.Random(SEED))
    train(adapted, names, ADAPT_STEPS, lr, random.Random(SEED))
    return adapted


def moved_to(base: Transformer, adapted: Transformer) -> Transformer:
    """The trained adapters over another base."""
    layers = {}
    for name, layer in adapted.layers.items():
        layers[name] = copy(layer)  # it shares lora_A and lora_B
        layers[name].base = base.layers[name]
    return Transformer(base.token_embedding, base.position_embedding, layers)


def judge_codes(
    base: Transformer, names: dict[str, list[str]]
) -> tuple[dict[str, Transformer], dict[str, dict[str, float]]]:
    """Store the base in every code -> the models, the base first, and a row of numbers for each.
    Bits per weight and error are those of the seven matrices: embeddings are not counted.
    """
    models, rows = {"full precision": base, "int4": quantize_model(base, integer_levels(4))}, {}
    for bits in (4, 3, 2):
        models[f"NF{bits}"] = quantize_model(base, normal_float_levels(bits))
    bits_of = {title: bits_per_weight(model) for title, model in models.items()}
    title = "NF4, 8-bit scales"
    models[title], bits_of[title] = double_quantize_model(models["NF4"])
    for title in sorted(models, key=lambda title: -bits_of[title]):
        rows[title] = {
            "bits_per_weight": bits_of[title],
            "rmse": root_mean_square_error(models[title], base),
            "base_kind": mean_loss(models[title], names["held-out base"]),
        }
        report_code(title, rows)
    return models, rows


def adapt_over(
    base: Transformer, lora: Transformer | None, names: dict[str, list[str]]
) -> tuple[dict[str, float], Transformer]:
    """Train adapters for the new kind, and others for repair, over one base -> held-out losses, and
    the model for the new kind. lora: the model whose adapters are moved to this base; None if this
    base is the one in full precision.
    """
    adapted = trained_over(base, names["target"][:NUM_ADAPT], LORA_RATE)
    repaired = trained_over(base, names["base"][:NUM_REPAIR], REPAIR_RATE)
    losses = {
        "untouched": mean_loss(base, names["held-out target"]),
        "adapted": mean_loss(adapted, names["held-out target"]),
        "adapted, base kind": mean_loss(adapted, names["held-out base"]),
        "repaired": mean_loss(repaired, names["held-out base"]),
    }
    if lora is not None:
        merged = quantize_model(merge(repaired), base.layers["head"].levels)
        losses["moved"] = mean_loss(moved_to(base, lora), names["held-out target"])
        losses["merged"] = mean_loss(merged, names["held-out base"])
    return losses, adapted


def main() -> dict[str, object]:
    """Train a base, store it in few bits, adapt it, repair it, merge and quantise again."""
    rng = random.Random(SEED)
    names = split_names(load_names(), rng)
    base = new_transformer(rng)
    report_data(names, base)
    start = time.perf_counter()
    train(base, names["base"], BASE_STEPS, BASE_RATE, rng, report_every=50)
    freeze(base)
    print(f"time  training the base took {time.perf_counter() - start:.1f} s")

    report_levels(base)
    models, codes = judge_codes(base, names)
    lora, losses, table = None, {}, {}
    for title in ("full precision", "NF4", "NF2"):
        losses[title], adapted = adapt_over(models[title], lora, names)
        lora = lora or adapted  # the first: trained over full precision
        enter_shared_table(table, title, codes[title], losses[title], adapted)
        report_adapters(title, losses, codes, adapted)
    full, nf4, nf2 = losses.values()
    headline = {
        "rise_nf4": rise("NF4", codes),
        "rise_nf2": rise("NF2", codes),
        "qlora_gap_nf4": nf4["adapted"] - full["adapted"],
        "gain_of_training_through_nf2": nf2["moved"] - nf2["adapted"],
        "repaired_rise_nf2": nf2["repaired"] - codes["full precision"]["base_kind"],
        "merged_rise_nf2": nf2["merged"] - codes["full precision"]["base_kind"],
    }
    report_conclusion(headline, codes)
    return {**headline, "details": {"table": table, "codes": codes, "losses": losses}}


# === APPENDIX: REPORT AND HELPERS ===


def pack_codes(codes: Sequence[int], bits: int) -> bytes:
    """Codes side by side without gaps: two of 4 bits in each byte.

    >>> pack_codes([1, 15, 7], 4).hex()
    'f107'
    """
    whole = 0
    for code in reversed(codes):
        whole = whole << bits | code
    return whole.to_bytes((bits * len(codes) + 7) // 8, "little")


def unpack_codes(packed: bytes, bits: int, count: int) -> list[int]:
    """The inverse of pack_codes.

    >>> unpack_codes(bytes.fromhex("f107"), 4, 3)
    [1, 15, 7]
    """
    whole = int.from_bytes(packed, "little")
    return [whole >> shift & (1 << bits) - 1 for shift in range(0, bits * count, bits)]


def flat_weights(model: Transformer) -> list[float]:
    """The weights of all layers, decoded, in one list."""
    return [w for layer in model.layers.values() for row in layer.weight.data for w in row]


def bits_per_weight(model: Transformer) -> float:
    """Counted from what the layers store; 64 for Python's floats (in practice 16 bits are kept)."""
    layers = list(model.layers.values())
    if isinstance(layers[0], Linear):
        return 64
    stored = [len(layer.packed) + layer.scales.itemsize * len(layer.scales) for layer in layers]
    return 8 * sum(stored) / len(flat_weights(model))


def root_mean_square_error(model: Transformer, base: Transformer) -> float:
    """How far the quantised model's weights lie from the base's."""
    pairs = list(zip(flat_weights(model), flat_weights(base)))
    return sqrt(sum([(a - b) ** 2 for a, b in pairs]) / len(pairs))


def num_trained(model: Transformer) -> int:
    """How many numbers training changes."""
    return sum([len(p.data) * len(p.data[0]) for p in trainable_parameters(model)])


def rise(title: str, codes: dict[str, dict[str, float]]) -> float:
    """By how much a code raises the base's loss on the base kind."""
    return codes[title]["base_kind"] - codes["full precision"]["base_kind"]


def enter_shared_table(
    table: dict[str, dict[str, float]],
    title: str,
    code: dict[str, float],
    losses: dict[str, float],
    adapted: Transformer,
) -> None:
    """Add two rows of the table that the README shows for microlora and microqlora together."""
    bits = code["bits_per_weight"]
    full = title == "full precision"
    table["base" if full else f"base in {title}"] = {
        "trainable": 0,
        "bits_per_weight": bits,
        "target": losses["untouched"],
        "base_kind": code["base_kind"],
    }
    table["LoRA" if full else f"QLoRA, {title}"] = {
        "trainable": num_trained(adapted),
        "bits_per_weight": bits,
        "target": losses["adapted"],
        "base_kind": losses["adapted, base kind"],
    }


def report_data(names: dict[str, list[str]], base: Transformer) -> None:
    """The facts before anything is learned."""
    pool, adapt_names = names["base"], names["target"][:NUM_ADAPT]
    weights = len(flat_weights(base))
    print(f"{NUM_HELD_OUT:,} names are held out, of both kinds; of the rest are for training:")
    print(f"  base kind    {len(pool):6,}  end in one of {BASE_ENDINGS}: {', '.join(pool[:4])}")
    print(f"  target kind  {len(adapt_names):6,}  end in another: {', '.join(adapt_names[:4])}")
    print(f"Knowing nothing, a symbol costs ln {len(ALPHABET)} = {log(len(ALPHABET)):.2f} nats.")
    print(f"\nTraining the base on the base kind; {weights:,} of its weights will be quantised")


def report_levels(base: Transformer) -> None:
    """A histogram of the weights, each divided by its block's scale, and the levels below it."""
    scaled = []
    for layer in base.layers.values():
        weights = sum(layer.weight.data, [])
        _, scales = quantize_blockwise(weights, integer_levels(4))
        scaled += [w / (scales[i // BLOCK_SIZE] or 1.0) for i, w in enumerate(weights)]

    def column(value: float) -> int:
        return min(max(round(30 + 30 * value), 0), 60)

    counts = [0] * 61
    for value in scaled:
        counts[column(value)] += 1
    print(f"\n{len(scaled):,} weights, each divided by the largest of its block of {BLOCK_SIZE}")
    for height in range(8, 0, -1):
        line = "".join(["#" if 8 * n >= (height - 0.5) * max(counts) else " " for n in counts])
        print(f"{'':14}{line}".rstrip())
    print(f"{'':14}-1{'0':>29}{'+1':>31}")
    for title, levels in (
        ("NF4", normal_float_levels(4)),
        ("int4", integer_levels(4)),
        ("NF2", normal_float_levels(2)),
    ):
        marks = ["."] * 61
        for level in levels:
            marks[column(level)] = "|"
        print(f"levels of {title:4}{''.join(marks)}")
    for title, levels in (("NF4", normal_float_levels(4)), ("int4", integer_levels(4))):
        boundaries = [(low + high) / 2 for low, high in zip(levels, levels[1:])]
        used = [bisect(boundaries, value) for value in scaled]
        shares = [used.count(code) / len(used) for code in range(len(levels))]
        line = f"{title}: its rarest level is used by {min(shares):.1%} of the weights"
        print(f"{line}, its commonest by {max(shares):.1%}")


def report_code(title: str, codes: dict[str, dict[str, float]]) -> None:
    """One line of the table of codes, and before the first one the head."""
    row = codes[title]
    if len(codes) == 1:
        print("\nThe base in each code, before anything is adapted")
        print("                      bits per    error of the    loss on the")
        print("                      weight      weights, RMS    base kind    rise")
    line = f"{title:20} {row['bits_per_weight']:6.2f}          {row['rmse']:.4f}"
    line += f"          {row['base_kind']:.3f}      {rise(title, codes):+.4f}"
    print(line, flush=True)


def report_adapters(
    title: str,
    losses: dict[str, dict[str, float]],
    codes: dict[str, dict[str, float]],
    adapted: Transformer,
) -> None:
    """One line of the table of adapters, and before the first one the head."""
    row, best = losses[title], codes["full precision"]["base_kind"]
    if len(losses) == 1:
        print(f"\nAdapters of rank {RANK}, {num_trained(adapted)} numbers in full precision")
        print("none: no adapters. moved: trained over full precision, then put on this base.")
        print("trained here: over this base. repaired: trained over it on the base kind.")
        print("merged: those of the repair merged into the base, and quantised again.")
        print("                 loss on target kind            rise on base kind")
        print("over             none    moved   trained here   none    repaired  merged")
    moved = f"{row['moved']:.3f}" if "moved" in row else "     "
    merged = f"{row['merged'] - best:+.3f}" if "merged" in row else ""
    line = f"{title:14}   {row['untouched']:.3f}   {moved}   {row['adapted']:.3f}          "
    line += f"{rise(title, codes):+.3f}  {row['repaired'] - best:+.3f}    {merged}"
    print(line.rstrip(), flush=True)


def report_conclusion(headline: dict[str, float], codes: dict[str, dict[str, float]]) -> None:
    """The rise at 2 bits as bars, and what was shown, in words from the numbers."""
    broken, repaired = headline["rise_nf2"], headline["repaired_rise_nf2"]
    merged = headline["merged_rise_nf2"]
    print("\nThe rise at 2 bits")
    tallest = max(broken, repaired, merged, 1e-9)
    for title, value in (("as quantised", broken), ("repaired", repaired), ("merged", merged)):
        print(f"{title:14}{value:+.3f}  {'#' * round(54 * max(value, 0.0) / tallest)}".rstrip())

    bits = codes["NF4"]["bits_per_weight"]
    gap = headline["qlora_gap_nf4"]
    print(f"\nNF4 keeps a weight in {bits:.2f} bits, its scale included. The loss", end=" ")
    print(f"rises\nby {headline['rise_nf4']:.3f}.", end=" ")
    print(f"Adapters over it end {abs(gap):.3f} nats {'above' if gap > 0 else 'below'}", end=" ")
    print("those over full precision.")
    if broken <= 0.0:
        print("At 2 bits nothing is lost, so there is nothing to repair.")
        return
    won = 1.0 - repaired / broken
    gain = headline["gain_of_training_through_nf2"]
    print(f"At 2 bits it rises by {broken:.3f}. Adapters trained over this base end", end=" ")
    print(f"{abs(gain):.3f} nats\n{'below' if gain > 0 else 'above'} those moved onto it.", end=" ")
    print(f"Trained to repair it, they undo {won:.0%} of the rise.")
    if merged >= broken:
        print("Merged into 2 bits, all of this is lost again.")
    elif merged > repaired:
        share = (merged - repaired) / (broken - repaired) if repaired < broken else 1.0
        print(f"Merged into 2 bits, {share:.0%} of this is lost again.")
    else:
        print("Merging them into 2 bits loses nothing.")


# === APPENDIX: THE MODEL AND THE TASK (as in microlora.py, which explains them) ===


class Linear:
    """x [N][in] -> x times the transpose of weight [out][in]: torch.nn.Linear without a bias."""

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def __call__(self, x: Tensor) -> Tensor:
        return linear(x, self.weight)

    def parameters(self) -> list[Tensor]:
        return [self.weight]


class Transformer:
    """microgpt's GPT with one block, in which the seven matrix products are layers with names.

    A layer is called with x [N][in] and returns [N][out]; .parameters() lists its matrices. So
    one kind of layer can take another's place, and forward() does not notice.
    """

    def __init__(
        self, token_embedding: Tensor, position_embedding: Tensor, layers: dict[str, Any]
    ) -> None:
        self.token_embedding = token_embedding  # [27][16]
        self.position_embedding = position_embedding  # [16][16]
        self.layers = layers

    def parameters(self) -> list[Tensor]:
        """Every matrix, frozen or not."""
        inner = [p for layer in self.layers.values() for p in layer.parameters()]
        return [self.token_embedding, self.position_embedding, *inner]

    def forward(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N symbols and their places -> logits [N][27]: a score for each next symbol."""
        layers = self.layers
        x = embedding(self.token_embedding, ids) + embedding(self.position_embedding, positions)
        x = rms_norm(x)
        normed = rms_norm(x)
        q, k, v = layers["query"](normed), layers["key"](normed), layers["value"](normed)
        x = x + layers["attention_out"](attend(q, k, v))
        x = x + layers["mlp_out"](relu(layers["mlp_in"](rms_norm(x))))
        return layers["head"](x)


def new_transformer(rng: random.Random) -> Transformer:
    """A model that knows nothing: random matrices with small entries, nine in all."""

    def matrix(num_out: int, num_in: int) -> Tensor:
        return Tensor([[rng.gauss(0.0, 0.08) for _ in range(num_in)] for _ in range(num_out)])

    shapes = {
        "query": (WIDTH, WIDTH),
        "key": (WIDTH, WIDTH),
        "value": (WIDTH, WIDTH),
        "attention_out": (WIDTH, WIDTH),
        "mlp_in": (4 * WIDTH, WIDTH),
        "mlp_out": (WIDTH, 4 * WIDTH),
        "head": (len(ALPHABET), WIDTH),
    }
    embeddings = matrix(len(ALPHABET), WIDTH), matrix(CONTEXT, WIDTH)
    return Transformer(*embeddings, {name: Linear(matrix(*shapes[name])) for name in shapes})


def freeze(model: Transformer) -> None:
    """From now on no gradient is computed for the model's matrices, and no step changes them."""
    for parameter in model.parameters():
        parameter.requires_grad = False


def trainable_parameters(model: Transformer) -> list[Tensor]:
    """The matrices that are not frozen: the only ones that the optimiser is given."""
    return [p for p in model.parameters() if p.requires_grad]


def predict(model: Transformer, names: Sequence[str]) -> tuple[Tensor, list[int]]:
    """Read names, all at once -> logits [N][27], and the N symbols that really came next."""
    ids, positions, spans, targets = pack([encode(name) for name in names])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.forward(ids, positions, attend), targets


def mean_loss(model: Transformer, names: Sequence[str]) -> float:
    """Cross-entropy in nats per symbol, over all symbols of all names."""
    return cross_entropy(*predict(model, names)).item()


def split_names(all_names: Sequence[str], rng: random.Random) -> dict[str, list[str]]:
    """Shuffle, hold names out, then sort both parts into kinds by their last letter.

    Held-out names come first, so that no model ever meets one of them, whatever its kind.
    """
    names = list(all_names)
    rng.shuffle(names)
    training, held_out = names[:-NUM_HELD_OUT], names[-NUM_HELD_OUT:]
    return {
        "base": [name for name in training if name[-1] in BASE_ENDINGS],
        "target": [name for name in training if name[-1] not in BASE_ENDINGS],
        "held-out base": [name for name in held_out if name[-1] in BASE_ENDINGS],
        "held-out target": [name for name in held_out if name[-1] not in BASE_ENDINGS],
    }


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
