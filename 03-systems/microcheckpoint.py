"""Activations that are recomputed instead of stored give the same gradients in far less memory.

To compute gradients, backward needs numbers that forward has computed: the inputs of the matrix
products, the places where a ReLU was zero. So forward stores them, layer after layer, and this
store is often the largest part of the memory when a deep network is trained. Activation
checkpointing (also called gradient checkpointing) throws most of it away. It keeps the activations
at a few places only, called states, and when backward arrives at a part that was not stored, it
runs forward once more from the nearest state before it.

The run measures one training step of residual networks with 4 to 256 blocks under several
policies: store everything, keep the input of every block, of every segment of sqrt(L) blocks, or
halve the network again and again. Then it trains a network twice, with and without checkpoints.
Look at four things: which activations are alive at which moment; how the peak memory grows with
depth; what each policy pays in extra forwards, beside the least that is possible; and whether any
gradient or loss differs, even in the last bit.

In the code      In the papers     Meaning                                              Shape
x                state x_i         activations between two blocks                       [B][16]
graph            tape              all that forward stores in one block for backward    5 x [B][16]
depth            L, n, l           number of blocks                                     a number
segment length   k                 blocks between two kept states                       a number
slots            s, c, snapshots   states that may be kept at the same time             a number
extra forwards   t(l, s)           block forwards beyond the L of an ordinary step      a number

Left out: selective checkpointing (recompute only what is large and cheap, such as the softmax of
attention; Korthikanti et al., and FlashAttention does it inside its kernel); moving activations
from the GPU to the CPU's memory instead of throwing them away (offloading); choosing what to keep
in a network that is not a chain (Jain et al. solve it as an integer program).

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microcheckpoint.json under that key.

Read first: microautograd.

Papers: Griewank & Walther, "Algorithm 799: Revolve", 2000, ACM Transactions on Mathematical
Software 26(1). Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016,
arXiv:1604.06174. Jain et al., "Checkmate: Breaking the Memory Wall with Optimal Tensor
Rematerialization", 2020, arXiv:1910.02653. Korthikanti et al., "Reducing Activation Recomputation
in Large Transformer Models", 2022, arXiv:2205.05198.
"""

from __future__ import annotations

import gc
import gzip
import hashlib
import http.client
import math
import os
import random
import time
import tracemalloc
import urllib.request
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from math import exp, log
from operator import add, eq, mul, sub
from pathlib import Path
from statistics import linear_regression

# === CONSTANTS ===

SEED = 42
WIDTH = 16  # columns of the state, and of the hidden layer of a block
BATCH_SIZE = 8  # images per step where memory is measured
DEPTHS = (4, 16, 64, 256)  # blocks, where memory is measured
TABLE_DEPTH = 64  # blocks, where policies are compared: one of DEPTHS, not the first
SEGMENT_LENGTHS = (1, 2, 4, 8, 16, 32)  # tried at that depth
BUDGET = 250  # KB for activations: how deep a network can be trained?
SLOTS = (3, 6, 16)  # states that revolve() may keep
DEEPEST = 127  # blocks, where the search for it ends
MAP_DEPTH = 12  # blocks in the picture
DROPOUT = 0.2  # share of hidden entries set to zero, in the demonstration of it only

NUM_TRAIN = 1437  # images to learn from; the rest, mostly by other writers, is held out
TRAIN_DEPTH = 12  # blocks of the network that is trained
TRAIN_BATCH = 16  # images per step of training
NUM_STEPS = 200
LEARNING_RATE = 0.02  # before warm-up, and before the fall in a straight line towards 0
WARM_UP_STEPS = 10  # Adam's means know few batches at first: the rate starts low

# === A DEEP NETWORK ===

# A chain of equal residual blocks, as in ResNets and transformers, is what checkpointing is made
# for. Between two blocks there is one matrix, the state. Inside a block there is more, and the
# engine (like every framework) stores it in the graph, until backward has used it:
#
#     normed = rms_norm(x)        stored: the gradient of w_in is made of it
#     before = linear(normed, w_in)
#     hidden = relu(before)       stored: the gradient of w_out, and where the ReLU was zero
#     update = linear(hidden, w_out)
#     out    = x + update         the next block's input (PyTorch's rms_norm stores it)
#
# Gradients need two of these five matrices, or three in PyTorch. Our engine holds all five, since
# each node holds its data. PyTorch does not, but a transformer's block has more parts: it stores
# at least 17 times the size of a state (Korthikanti et al., section 4.1: in half precision 34 bytes
# for each entry of the state, which itself takes 2; the softmax of attention comes on top).


class Block:
    """x + w_out relu(w_in rms_norm(x)): [B][16] -> [B][16].

    tracked(weight) is the weight itself, except inside no_grad(): see below.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = weights  # w_in, w_out
        self.num_forwards = 0

    def hidden(self, x: Tensor) -> Tensor:
        """The inside of the block, as wide as the state."""
        return relu(linear(rms_norm(x), tracked(self.weights[0])))

    def forward(self, x: Tensor) -> Tensor:
        """One block further."""
        self.num_forwards += 1
        return x + linear(self.hidden(x), tracked(self.weights[1]))


class GradMode:
    """Whether forward builds a graph, as torch.is_grad_enabled() says."""

    enabled = True


@contextmanager
def no_grad() -> Iterator[None]:
    """Inside `with no_grad():` blocks whose input is a constant (needs no gradient) compute their
    output and store nothing. (torch.no_grad does not ask about the input.)
    """
    before, GradMode.enabled = GradMode.enabled, False
    try:
        yield
    finally:
        GradMode.enabled = before


def tracked(weight: Tensor) -> Tensor:
    """The weight; inside no_grad() the same numbers as a constant, from which no graph grows."""
    return weight if GradMode.enabled else Tensor(weight.data, requires_grad=False)


# === CHECKPOINT: FORGET, AND COMPUTE AGAIN ===

# One function does it all. In the outer graph, checkpoint(function, x, blocks) is a single node
# with one parent, x. Its forward runs `function` without a graph, so that nothing of its inside
# stays in memory. When the node's gradient arrives, `function` runs again from x, now with a graph,
# and an inner backward() carries the gradient through it. Weights are leaves of that inner graph:
# it adds to their .grad what the outer backward() would have added, in the same order. So sums
# round in the same way, even if two blocks share a weight.
#
# The inner backward() starts from d_out, not from a loss, and what it leaves at x is handed on. If
# that is forgotten, nothing crashes, but only the last segment and the head learn: the network
# that is trained below then reads 77.5% [results: no_input_gradient.accuracy] of the held-out
# digits, instead of 88.9% [results: seed_42.accuracy].
#
# PyTorch: torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False). The older reentrant
# form works as ours does, with a backward inside the backward; the newer one intercepts what
# autograd would store (saved-tensor hooks). JAX: jax.checkpoint, also called jax.remat.


def checkpoint(
    function: Callable, x: Tensor, blocks: Sequence, rng: random.Random | None = None
) -> Tensor:
    """function(x, blocks), whose inside is not stored but computed again in backward: x [B][16] ->
    [B][16]. rng: the random numbers that blocks draw from, if they do.
    """
    rng_state = rng.getstate() if rng else None
    with no_grad():
        out = function(Tensor(x.data, requires_grad=False), blocks).data
    if not GradMode.enabled:  # inside another checkpoint, whose forward is being forgotten
        return Tensor(out, requires_grad=False)
    # If x were a constant, so would be our result, and no weight inside would get a gradient.
    # (PyTorch's reentrant form only warns of this.) So it becomes a leaf.
    source = x if x.requires_grad else Tensor(x.data)

    def pass_back(d_out: list[list[float]]) -> tuple:
        leaf = Tensor(source.data)  # x again, but cut off from what came before
        if rng:  # this forward must draw the same numbers as the first one
            later = rng.getstate()
            rng.setstate(rng_state)
        out_again = function(leaf, blocks)
        if rng:
            rng.setstate(later)
        out_again.backward(d_out)
        return (leaf.grad,)

    return Tensor(out, (source,), pass_back)


# === POLICIES: WHAT TO KEEP ===

# Memory is counted in states. One state costs 1, the graph of one block costs g. Here g is between
# 4 and 5: a graph has five matrices, but relu's output shares its float objects with its input, and
# a kept state needs a node besides its matrix. Storing all L blocks costs g L.
#
# Segments. Cut the L blocks into segments of k and checkpoint each. Then L/k inputs are kept, and
# backward holds the graph of one segment at a time:
#
#     memory(k) = L/k + g k       smallest where d/dk = -L/k^2 + g = 0:  k = sqrt(L/g)
#
# An example with L = 64 and g = 5, against 320 states when all is stored:
#
#     k = 1   64 +   5 =  69      "a checkpoint at every layer" saves less than one might think:
#     k = 4   16 +  20 =  36      the inputs alone grow like L
#     k = 8    8 +  40 =  48      k = sqrt(L), the textbook's choice, is right for g = 1
#
# For any g the best k grows like sqrt(L), and so does the memory: 2 sqrt(g L) at the optimum. The
# price is one extra forward for each block, whatever k is. A transformer's block has a g of 17 and
# more (see above), and for 32 blocks sqrt(L/g) is then 1.4: a checkpoint at every block, which is
# what one usually sees there, is close to the best.
#
# What does the extra forward cost? Backward takes about twice the arithmetic of forward (each
# product of matrices has a gradient for its input and one for its weight). So a step of 1 + 2 parts
# becomes one of 1 + 1 + 2: a third more, and not twice as much, as one sometimes reads.


def store_all(x: Tensor, blocks: Sequence) -> Tensor:
    """No checkpoint: every graph is kept until backward."""
    for block in blocks:
        x = block.forward(x)
    return x


def segments(x: Tensor, blocks: Sequence, length: int | None = None) -> Tensor:
    """Keep the input of every segment of `length` blocks, by default about sqrt(L) (Chen et al.).

    torch.utils.checkpoint.checkpoint_sequential does this (it asks for the number of segments, not
    for their length), but runs the last segment with its graph at once, since backward needs it
    first: L - k extra forwards instead of L.
    """
    length = length or math.isqrt(len(blocks) - 1) + 1
    for first in range(0, len(blocks), length):
        x = checkpoint(store_all, x, blocks[first : first + length])
    return x


# Halves. A forgotten segment need not be stored when it is computed again: it can be checkpointed
# in turn. bisect() checkpoints the first half and halves the second, down to one block. On the way
# it keeps one state for each halving: log2(L) states and one graph. When backward has done the
# second half, the first is computed again, with the same scheme. To get past the first half costs
# L/2 forwards that store nothing, and each half then pays for itself. The extra forwards are
#
#     t(L) = L/2 + 2 t(L/2), t(1) = 0      so      t(L) = L log2(L) / 2
#
# for L = 64: 192 extra forwards, 3 for each block.


def bisect(x: Tensor, blocks: Sequence) -> Tensor:
    """Checkpoint the first half, go on with the second."""
    if len(blocks) == 1:
        return blocks[0].forward(x)
    half = len(blocks) // 2
    x = checkpoint(bisect, x, blocks[:half])
    return bisect(x, blocks[half:])


# The limit. Is the middle the best place to cut? With one graph at a time and at most s states
# kept (s slots), cut l blocks after the first k. To get past these costs k forwards. The rest then
# has one slot less. When it is done, its slots are free again, and the first part has all of them:
#
#     t(l, s) = min over k of  k + t(l - k, s - 1) + t(k, s)       t(1, s) = 0
#
# The minimum has a closed form (Griewank & Walther, 2000): t = r l - C(s + r, s + 1), where r is
# the smallest number with C(s + r, s) >= l. With s slots and at most r extra forwards of each block
# one reaches a depth of C(s + r, s), a binomial coefficient. For 64 blocks and six slots, which is
# what bisect uses: C(8, 6) = 28 is too small, C(9, 6) = 84 is enough, so r = 3, and
# t = 3 * 64 - C(9, 7) = 156, against bisect's 192.
#
# Fewer slots need not mean less memory here. A recomputation inside a recomputation is a backward
# inside a backward, and each of these calls holds a few states of its own, which slots do not
# count. With three slots the calls nest up to six deep, and the run measures a higher peak.


@cache
def least_extra(depth: int, slots: int) -> tuple[float, int]:
    """t(l, s), and the k of the best cut.

    >>> least_extra(64, 6)[0], least_extra(4, 1)[0], least_extra(1, 0)[0]
    (156, 6, 0)
    """
    if depth == 1:
        return 0, 0
    if slots == 0:
        return math.inf, 0
    cuts = range(1, depth)
    costs = [k + least_extra(depth - k, slots - 1)[0] + least_extra(k, slots)[0] for k in cuts]
    return min(zip(costs, cuts))


def revolve(x: Tensor, blocks: Sequence, slots: int) -> Tensor:
    """bisect, with the best cuts in place of halves (named after Griewank & Walther's program)."""
    if len(blocks) == 1:
        return blocks[0].forward(x)
    _, cut = least_extra(len(blocks), slots)
    x = checkpoint(partial(revolve, slots=slots), x, blocks[:cut])
    return revolve(x, blocks[cut:], slots - 1)


# What the run compares.
GROWTH_POLICIES = {
    "store all": store_all,
    "every block": partial(segments, length=1),
    "sqrt(L)": segments,
    "bisect": bisect,
}
BUDGET_POLICIES = {name: GROWTH_POLICIES[name] for name in ("store all", "every block", "sqrt(L)")}
TRAIN_POLICIES = {"all activations stored": store_all, "segments of sqrt(L)": segments}

# === MEASURING ONE STEP ===

# Peaks are measured, not computed: tracemalloc, from the standard library, follows every
# allocation that Python makes. (PyTorch: torch.cuda.max_memory_allocated.) Weights and gradients
# are not counted (nor would an optimiser's means be), since no checkpoint makes them smaller: they
# are made first, and what counts is how far the memory then rises above that level.
#
# A part of each peak does not grow with depth: the head, for example, and the gradients that are on
# their way. So the exponents that are fitted to the peaks come out below those of the formulas, 1
# and 1/2. (Bisect's log2(L) is no power of L; its small exponent says only that growth is slow.)


class Network:
    """64 pixels -> state -> blocks -> 10 logits."""

    def __init__(self, depth: int, rng: random.Random) -> None:
        def matrix(rows: int, columns: int, spread: float) -> Tensor:
            return Tensor([[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)])

        self.stem = matrix(WIDTH, 64, 64**-0.5)
        # Every block adds to the state. With 1/sqrt(L) in the last matrix of each, as in GPT-2, the
        # sum of L updates is not larger in a deeper network.
        self.blocks = [
            Block(
                (matrix(WIDTH, WIDTH, WIDTH**-0.5), matrix(WIDTH, WIDTH, (WIDTH * depth) ** -0.5))
            )
            for _ in range(depth)
        ]
        self.head = matrix(10, WIDTH, WIDTH**-0.5)

    def parameters(self) -> list[Tensor]:
        """All matrices that training may change."""
        return [self.stem, *[w for block in self.blocks for w in block.weights], self.head]

    def forward(self, images: list[list[float]], policy: Callable) -> Tensor:
        """Images [B][64] -> logits [B][10]. The policy decides what is stored."""
        x = linear(Tensor(images, requires_grad=False), tracked(self.stem))
        return linear(rms_norm(policy(x, self.blocks)), tracked(self.head))


def measure(depth: int, policy: Callable, batch: tuple) -> tuple[float, int, list]:
    """One step -> (peak memory for activations in KB, block forwards, gradients)."""
    images, labels = batch
    # Python keeps freed objects for later use, where tracemalloc does not see them. A collection
    # gives them back, so the result does not depend on what ran before. While we measure, the
    # collector is off: the graph has no reference cycles, and is freed without it.
    gc.collect()
    gc.disable()
    tracemalloc.start()  # it slows Python down: never leave it on while training
    network = Network(depth, random.Random(SEED))
    # The stem is frozen here: in a shallow network its gradient, 16 x 64, would make the peak.
    network.stem.requires_grad = False
    parameters = [p for p in network.parameters() if p.requires_grad]
    for p in parameters:
        # Each zero is an object of its own. [0.0] * n would hold one object n times: less memory
        # than the gradients that replace it, which would then be counted as activations.
        p.grad = [[0.0 * value for value in row] for row in p.data]
    tracemalloc.reset_peak()
    level, _ = tracemalloc.get_traced_memory()
    cross_entropy(network.forward(images, policy), labels).backward()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gc.enable()
    num_forwards = sum([block.num_forwards for block in network.blocks])
    return (peak - level) / 1024, num_forwards, [p.grad for p in parameters]


def gradient_pairs(growth: dict[str, list]) -> list[tuple]:
    """Every gradient of every policy in the table of growth, beside the one that "store all" gave
    at the same depth.
    """
    pairs = []
    for name, rows in growth.items():
        if name != "store all":
            for (_, _, gradients), (_, _, reference) in zip(rows, growth["store all"]):
                pairs += zip(gradients, reference)
    return pairs


def exponent(depths: Sequence[int], peaks: Sequence[float]) -> float:
    """The p for which the peaks grow like depth^p: the slope of log(peak) over log(depth).

    >>> round(exponent([1, 4, 16], [5.0, 10.0, 20.0]), 6)
    0.5
    """
    return linear_regression(list(map(log, depths)), list(map(log, peaks))).slope


def deepest(policy: Callable, batch: tuple) -> int:
    """The depth of the deepest network whose step stays within the budget, up to DEEPEST. The
    search halves a range, which is right because a deeper network does not take less.
    """
    fits, too_deep = 0, DEEPEST + 1
    while too_deep - fits > 1:
        middle = (fits + too_deep) // 2
        if measure(middle, policy, batch)[0] <= BUDGET:
            fits = middle
        else:
            too_deep = middle
    return fits


# === DROPOUT: WHAT MUST NOT HAPPEN TWICE ===

# The second forward must be the same as the first. A block with dropout draws a mask. If it draws
# anew in the recomputation, it gets another mask, and the gradient belongs to a network that never
# made the prediction. Nothing crashes. So checkpoint() puts the generator back to where it stood
# (preserve_rng_state=True, the default in PyTorch). Batch norm is a hazard of the same kind: its
# running mean would be updated twice.


class DropoutBlock(Block):
    """A block that sets a share of its hidden entries to zero, at random."""

    def __init__(self, weights: Sequence[Tensor], rng: random.Random) -> None:
        super().__init__(weights)
        self.rng = rng

    def hidden(self, x: Tensor) -> Tensor:
        """The inside of the block, with dropout."""
        return dropout(super().hidden(x), DROPOUT, self.rng)


def dropout_gradients(policy: Callable, batch: tuple) -> list:
    """One step of a small network with dropout -> the gradients of its blocks' weights."""
    images, labels = batch
    network = Network(4, random.Random(SEED))
    rng = random.Random(SEED)
    network.blocks = [DropoutBlock(block.weights, rng) for block in network.blocks]
    cross_entropy(network.forward(images, policy), labels).backward()
    return [weight.grad for block in network.blocks for weight in block.weights]


# === TRAINING AND USING THE NETWORK ===

# Now a network is trained to read digits, twice from the same start. One training stores all, the
# other keeps the input of every segment. If every gradient is the same, so are all losses, and in
# the end all weights. Using a trained network takes no checkpoints: without backward
# nothing needs to be kept, so under no_grad() each state is dropped as soon as the next is there.


def train(policy: Callable, images: list, labels: list) -> tuple[Network, list[float]]:
    """Train a network from the seed's start -> the network, and the loss of every step."""
    rng = random.Random(SEED)
    network = Network(TRAIN_DEPTH, rng)
    optimizer = Adam(network.parameters(), betas=(0.9, 0.99))
    losses: list[float] = []
    for step in range(1, NUM_STEPS + 1):
        batch = rng.sample(range(NUM_TRAIN), TRAIN_BATCH)
        logits = network.forward([images[i] for i in batch], policy)
        loss = cross_entropy(logits, [labels[i] for i in batch])
        loss.backward()
        warm_up = min(1.0, step / WARM_UP_STEPS)
        optimizer.step(LEARNING_RATE * warm_up * (1.0 - (step - 1) / NUM_STEPS))
        losses.append(loss.item())
        if step % 50 == 0:
            print(f"step {step:4d}/{NUM_STEPS} | loss {sum(losses[-50:]) / 50:.4f}", flush=True)
    return network, losses


def classify(network: Network, images: list) -> list[int]:
    """The digit with the largest logit, for each image."""
    with no_grad():
        logits = network.forward(images, store_all).data
    return [row.index(max(row)) for row in logits]


def main() -> dict[str, object]:
    """Watch, measure, compare with the limits, train twice, and read digits."""
    random.seed(SEED)
    images, labels = load_digits()
    batch = images[:BATCH_SIZE], labels[:BATCH_SIZE]
    report_pictures(batch)
    growth = {
        name: [measure(depth, policy, batch) for depth in DEPTHS]
        for name, policy in GROWTH_POLICIES.items()
    }
    exponents = report_growth(growth)
    report_segments(growth, batch)
    report_limit(growth, batch)
    depths = {name: deepest(policy, batch) for name, policy in BUDGET_POLICIES.items()}
    report_budget(depths, growth["bisect"][-1][0])

    stored = dropout_gradients(store_all, batch)
    same_mask = dropout_gradients(lambda x, b: checkpoint(store_all, x, b, b[0].rng), batch)
    new_mask = dropout_gradients(lambda x, b: checkpoint(store_all, x, b), batch)
    report_dropout(stored, same_mask, new_mask)

    trained, seconds = [], []
    for name, policy in TRAIN_POLICIES.items():
        print(f"\nTraining {TRAIN_DEPTH} blocks on {NUM_TRAIN:,} digits: {name}")
        start = time.process_time()
        trained.append(train(policy, images, labels))
        seconds.append(time.process_time() - start)
    (plain, plain_losses), (network, losses) = trained
    report_time(seconds)
    answers, truth = classify(network, images[NUM_TRAIN:]), labels[NUM_TRAIN:]
    accuracy = sum(map(eq, answers, truth)) / len(truth)
    report_digits(images[NUM_TRAIN:], truth, answers, accuracy)

    pairs = gradient_pairs(growth) + [*zip(same_mask, stored), *zip(losses, plain_losses)]
    pairs += [(p.data, q.data) for p, q in zip(network.parameters(), plain.parameters())]
    at = DEPTHS.index(TABLE_DEPTH)
    peak, num_forwards, _ = growth["sqrt(L)"][at]
    headline = {
        "different": sum(a != b for a, b in pairs),
        "saving": growth["store all"][at][0] / peak,
        "sqrt_exponent": exponents["sqrt(L)"],
        "bisect_exponent": exponents["bisect"],
        "extra": (num_forwards - TABLE_DEPTH) / TABLE_DEPTH,
        "accuracy": accuracy,
    }
    report_conclusion(headline, len(pairs), exponents)
    peaks = {name: [peak for peak, _, _ in rows] for name, rows in growth.items()}
    return {**headline, "details": {"peaks": peaks, "depths": depths}}


# === APPENDIX: REPORT AND HELPERS ===


class Rows(list):
    """A matrix whose end can be noticed (a plain list cannot be referred to weakly)."""


class WatchedBlock(Block):
    """A block that notices which of its activations are alive, at each of its steps."""

    def __init__(self, weights: Sequence[Tensor], index: int, alive: list, film: list) -> None:
        super().__init__(weights)
        self.index = index
        self.alive = alive  # per block: how many of its hidden matrices, and of its outputs
        self.film = film  # a column of marks for each step

    def hidden(self, x: Tensor) -> Tensor:
        """As it is, under watch."""
        return self.watch(super().hidden(x), 0)

    def forward(self, x: Tensor) -> Tensor:
        """As it is, with one column for the film, and one more when its backward begins."""
        out = self.watch(super().forward(x), 1)
        self.take_column()

        def pass_back(d_out: list[list[float]]) -> tuple:
            self.take_column()
            return (d_out,)

        return Tensor(out.data, (out,), pass_back)

    def watch(self, tensor: Tensor, kind: int) -> Tensor:
        """Count the tensor's matrix as alive until Python frees it."""
        tensor.data = Rows(tensor.data)
        self.alive[self.index][kind] += 1
        weakref.finalize(tensor.data, self.gone, kind)
        return tensor

    def gone(self, kind: int) -> None:
        """One matrix less."""
        self.alive[self.index][kind] -= 1

    def take_column(self) -> None:
        """Note what is alive in each block now."""
        self.film.append(["#" if graph else "o" if out else " " for graph, out in self.alive])


def film_of(policy: Callable, depth: int, batch: tuple) -> list[str]:
    """One step of a network -> one line for each block, one column for each step of a block."""
    images, labels = batch
    network = Network(depth, random.Random(SEED))
    alive, film = [[0, 0] for _ in range(depth)], []
    blocks = network.blocks
    network.blocks = [WatchedBlock(b.weights, i, alive, film) for i, b in enumerate(blocks)]
    cross_entropy(network.forward(images, policy), labels).backward()
    return ["".join(row) for row in zip(*film)]


def report_pictures(batch: tuple) -> None:
    """Which activations are alive, from the first forward to the last backward."""
    films = {name: film_of(policy, MAP_DEPTH, batch) for name, policy in GROWTH_POLICIES.items()}
    print(f"What is in memory during one step of {MAP_DEPTH} blocks? One line for each block, one")
    print("column for each forward or backward of a block. # its graph, o only its output")
    for left, right in (("store all", "bisect"), ("every block", "sqrt(L)")):
        width = max(len(films[left][0]), len(left)) + 4
        print(f"\n{left:<{width}}{right}")
        for row in zip(films[left], films[right]):
            print(f"{row[0]:<{width}}{row[1]}".rstrip())


def report_growth(growth: dict[str, list]) -> dict[str, float]:
    """Peaks and forwards against depth -> the fitted exponents."""
    print(f"\nPeak of memory for the activations of {BATCH_SIZE} images, in KB, and block forwards")
    print("beyond those of an ordinary step")
    print("blocks" + "".join([f"{name:>18}" for name in growth]))
    for i, depth in enumerate(DEPTHS):
        cells = [f"{row[i][0]:9,.0f}  +{row[i][1] - depth:6,d}" for row in growth.values()]
        print(f"{depth:6d}" + "".join(cells))
    exponents = {
        name: exponent(DEPTHS[1:], [peak for peak, _, _ in row[1:]]) for name, row in growth.items()
    }
    fits = "".join([f"{f'L^{power:.2f}':>9}         " for power in exponents.values()])
    print(f"peak ~{fits}".rstrip())
    return exponents


def report_segments(growth: dict[str, list], batch: tuple) -> None:
    """Measured peaks for several segment lengths, beside the formula."""
    every, all_stored = growth["every block"], growth["store all"]
    j = DEPTHS.index(TABLE_DEPTH)
    step = DEPTHS[j] - DEPTHS[j - 1]
    graph = (all_stored[j][0] - all_stored[j - 1][0]) / step
    state = (every[j][0] - every[j - 1][0]) / step
    rest = every[j][0] - TABLE_DEPTH * state - graph
    best = (TABLE_DEPTH * state / graph) ** 0.5
    print(
        f"\nOne more block takes {graph:.1f} KB if its graph is stored, and {state:.1f} KB if its"
    )
    print(
        f"input is: g = {graph / state:.1f}. So the best segment length for {TABLE_DEPTH} blocks is"
    )
    print(f"sqrt(L/g) = {best:.1f}.")
    print("segment length " + "".join([f"{k:8d}" for k in SEGMENT_LENGTHS]))
    peaks = [measure(TABLE_DEPTH, partial(segments, length=k), batch)[0] for k in SEGMENT_LENGTHS]
    print("KB, measured   " + "".join([f"{peak:8,.0f}" for peak in peaks]))
    formula = [rest + TABLE_DEPTH / k * state + k * graph for k in SEGMENT_LENGTHS]
    print("KB, by formula " + "".join([f"{peak:8,.0f}" for peak in formula]))


def report_limit(growth: dict[str, list], batch: tuple) -> None:
    """Extra forwards of the policies that hold one graph at a time, beside the least possible."""
    at = DEPTHS.index(TABLE_DEPTH)
    rows = [("every block", TABLE_DEPTH, growth["every block"][at])]
    rows.append(("bisect", math.ceil(math.log2(TABLE_DEPTH)), growth["bisect"][at]))
    for slots in SLOTS:
        least_extra(TABLE_DEPTH, slots)  # its table should not count as activations
        row = measure(TABLE_DEPTH, partial(revolve, slots=slots), batch)
        rows.append((f"best cuts, {slots:2d} slots", slots, row))
    print(
        f"\n{TABLE_DEPTH} blocks, one graph at a time: extra forwards, and the least possible with"
    )
    print("as many slots for states")
    print("policy                slots   extra   least   peak KB")
    for name, slots, (peak, num_forwards, _) in rows:
        extra, least = num_forwards - TABLE_DEPTH, least_extra(TABLE_DEPTH, slots)[0]
        print(f"{name:<20}{slots:7d}{extra:8d}{least:8d}{peak:10,.0f}")


def report_budget(depths: dict[str, int], bisect_peak: float) -> None:
    """How deep a network each policy can train."""
    print(f"\nThe deepest network whose activations fit into {BUDGET} KB")
    for name, depth in depths.items():
        more = " (the search ended here)" if depth == DEEPEST else ""
        print(f"  {name:<12}{depth:5d} blocks{more}")
    if bisect_peak <= BUDGET:
        print(f"  bisect       more than {DEPTHS[-1]}: see the table above")


def report_dropout(stored: list, same_mask: list, new_mask: list) -> None:
    """How far the gradients are off, as a share of their length."""

    def flat(gradients: list) -> list[float]:
        return [value for matrix in gradients for row in matrix for value in row]

    print("\nWith dropout: how far the gradient is from the one without checkpoints,")
    print("divided by its length")
    for name, gradients in (("the same mask", same_mask), ("another mask", new_mask)):
        distance = math.dist(flat(gradients), flat(stored)) / math.hypot(*flat(stored))
        print(f"  recomputed with {name:<18}{distance:.3f}")


def report_time(seconds: Sequence[float]) -> None:
    """Both trainings' time."""
    print(
        f"time  {seconds[0]:.1f} s and {seconds[1]:.1f} s of the processor: "
        f"{seconds[1] / seconds[0]:.2f} times as long"
    )


def report_digits(images: list, labels: list, answers: list, accuracy: float) -> None:
    """The accuracy, three digits that were held out, and one that was misread."""
    print(f"\nTrained with checkpoints, the network reads {accuracy:.1%} of {len(labels)} digits")
    print("that were held out (guessing: 10%). Three of them, and one that it misread:")
    wrong = [i for i, answer in enumerate(answers) if answer != labels[i]][:1]
    shown = [i for i in range(len(labels)) if i not in wrong][:3] + wrong
    pictures = [shade([images[i][row : row + 8] for row in range(0, 64, 8)]) for i in shown]
    for lines in zip(*pictures):
        print("   ".join(lines).rstrip())
    captions = [f"reads {answers[i]}" + f", is {labels[i]}" * (i in wrong) for i in shown]
    print("   ".join([f"{caption:<16}" for caption in captions]).rstrip())


def report_conclusion(numbers: dict[str, float], count: int, exponents: dict[str, float]) -> None:
    """Say in words what the run has shown."""
    different = numbers["different"]
    print(f"\nCompared with storing all, of {count:,} gradients, losses and trained matrices")
    print(f"{different:,} differ." if different else "none differs, not even in the last bit.")
    saving, extra = numbers["saving"], numbers["extra"]
    print(f"At {TABLE_DEPTH} blocks, segments of sqrt(L) take {saving:.1f} times less memory,")
    print(f"for {extra:.2f} extra forwards of each block.")
    growth = [4.0**power for power in exponents.values()]
    print(f"Four times the depth takes {growth[0]:.1f} times the memory if all is stored,")
    print(f"{growth[2]:.1f} times with segments of sqrt(L), {growth[3]:.1f} times with bisect.")
    if growth[1] > growth[2]:
        print(f"A checkpoint at every block saves less in deep networks: {growth[1]:.1f} times.")


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


def dropout(x: Tensor, p: float, rng: random.Random) -> Tensor:
    """Set each entry of x [N][M] to zero with probability p, and divide the rest by 1 - p.

    The division keeps every entry's expectation. Call it in training only.
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"p = {p} is not a probability below 1")
    keep = 1.0 / (1.0 - p)
    mask = [[keep if rng.random() >= p else 0.0 for _ in row] for row in x.data]
    return x * Tensor(mask, requires_grad=False)


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
