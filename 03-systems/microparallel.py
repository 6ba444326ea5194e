"""Four processes that share nothing but pipes train one network, in five ways, to equal weights.

A network that is too slow to train on one device, or too large for it, is spread over several.
There are three things that can be cut. Data parallelism cuts the batch: every process, called a
rank, has the whole network and some of the examples. Tensor parallelism cuts the weight matrices:
every rank has a part of each layer and sees all the examples. Pipeline parallelism cuts the stack
of layers: every rank has some of the layers, and the examples pass from rank to rank. What a rank
lacks must be sent to it, so each cut has its own price in messages.

Four ranks train the same small network on the same batches of handwritten digits in five ways:
data parallel without and with ZeRO, tensor parallel, and a pipeline with two schedules. One process
does the same alone. Look at three things: how far the final weights lie apart (the last digits of a
sum of floats depend on the order of its terms, so equal means equal up to rounding); how many bytes
a rank sends for one step, and what these grow with; and when the ranks of a pipeline work and when
they wait.

In the code    In the papers  Meaning                                                 Here
num_ranks      N, p           number of processes                                     4
rank           rank, stage    the number of one of them                               0 to 3
weights        theta          all weight matrices of the network
P              Psi            how many numbers these are                              18,752
w1, w2         A, B           x + w2 relu(w1 x) is a block                            64x32, 32x64
batch, [B]     mini-batch     the examples of one step; a step changes the weights    32 images
m              micro-batch    the number of one part of the batch in a pipeline       0 to 7
NUM_MICRO      M, m           micro-batches for each batch                            8 of 4 images
all-reduce                    every rank gives a vector, every rank gets their sum
f, g           f, g           the two all-reduces of a tensor parallel block

(A weight is [out][in] here, as in PyTorch's nn.Linear; the Megatron paper has it the other way
round, so its "columns of A" are rows of w1 here. Its B is w2; our [B] is the number of examples.)

Left out: speed (a few processes on one machine's cores prove nothing; bytes and the clock of a
schedule can be counted exactly); sending while computing; ZeRO's stages 2 and 3; mixtures of
the three cuts; sequence, context and expert parallelism; pipelines that shrink the bubble
(interleaved, zero bubble).

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/microparallel.json under that key.

Read first: microautograd.

Papers: Patarasuk & Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations",
2009. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model
Parallelism", 2019, arXiv:1909.08053. Huang et al., "GPipe", 2019, arXiv:1811.06965. Harlap et al.,
"PipeDream", 2018, arXiv:1806.03377, and Narayanan et al., "Efficient Large-Scale Language Model
Training on GPU Clusters Using Megatron-LM", 2021, arXiv:2104.04473 (1F1B). Rajbhandari et al.,
"ZeRO", 2020, arXiv:1910.02054. Zhao et al., "PyTorch FSDP", 2023, arXiv:2304.11277. Lamport,
"Time, Clocks, and the Ordering of Events in a Distributed System", 1978.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import math
import multiprocessing
import os
import random
import signal
import sys
import time
import traceback
import urllib.request
from array import array
from collections import deque
from collections.abc import Callable, Generator, Sequence
from math import exp, log
from operator import add, mul, sub
from pathlib import Path
from typing import Any

# === CONSTANTS ===

SEED = 42
NUM_RANKS = 4  # processes
WIDTH = 32  # entries of the vector that flows from block to block
HIDDEN = 64  # entries inside a block
NUM_BLOCKS = 4
NUM_TRAIN = 1437  # digits; the other 360 are held out
BATCH_SIZE = 32  # digits per step, whatever the number of ranks
NUM_STEPS = 40
LEARNING_RATE = 0.05  # at the first step; it falls in a straight line towards 0
MOMENTUM = 0.9
NUM_MICRO = 8  # micro-batches that follow each other through a pipeline
FORWARD_TIME = 1  # units of the logical clock for one micro-batch on one rank
BACKWARD_TIME = 2  # two matrix products where forward has one
ITEM_SIZE = 8  # bytes of a float
PIPE_ROOM = 4096  # bytes that a pipe is trusted to hold while nobody reads

# === THE NETWORK, AND ONE PROCESS TO COMPARE WITH ===

# A matrix 64 -> 32 reads the pixels, four residual blocks follow, and a matrix 32 -> 10 gives the
# logits. What is trained is a list of matrices: [stem, w1, w2, w1, w2, ..., head].

Matrix = list[list[float]]
Batch = tuple[Matrix, list[int]]  # images [B][64] and labels B


def new_weights(rng: random.Random) -> list[Matrix]:
    """All matrices of the network, each [out][in], at random."""

    def matrix(rows: int, columns: int, variance: float) -> Matrix:
        spread = math.sqrt(variance / columns)
        return [[rng.gauss(0.0, spread) for _ in range(columns)] for _ in range(rows)]

    # Variance 2/in keeps a ReLU layer's scale (He et al., 2015). The block's way out starts small,
    # since there are no norms: each block multiplies the mean square of x by about 1.25, not by 3.
    weights = [matrix(WIDTH, 64, 1.0)]
    for _ in range(NUM_BLOCKS):
        weights += [matrix(HIDDEN, WIDTH, 2.0), matrix(WIDTH, HIDDEN, 0.25)]
    return [*weights, matrix(10, WIDTH, 1.0)]


def mlp(x: Tensor, w1: Tensor, w2: Tensor) -> Tensor:
    """What a block adds to its input: x [B][32], w1 [64][32], w2 [32][64] -> [B][32]."""
    return linear(relu(linear(x, w1)), w2)


def run_layers(x: Tensor, layers: list[Tensor], first: bool = True, last: bool = True) -> Tensor:
    """Images (or what the rank before has made of them) to logits (or what the next one needs).

    first, last: whether the layers begin with the stem and end with the head.
    """
    if first:
        x = linear(x, layers[0])
    blocks = layers[int(first) : len(layers) - int(last)]
    for w1, w2 in zip(blocks[::2], blocks[1::2]):
        x = x + mlp(x, w1, w2)
    return linear(x, layers[-1]) if last else x


def backward_of(layers: list[Tensor], images: Matrix, labels: list[int], part: float) -> float:
    """Forward and backward. These examples are `part` of the batch, so with their mean loss this
    gives the layers the gradient of part * loss and returns part * loss.
    """
    logits = run_layers(Tensor(images, requires_grad=False), layers)
    loss = cross_entropy(logits, labels)
    loss.backward([[part]])
    return loss.item() * part


def learning_rate(step: int, num_steps: int) -> float:
    """The rate of step 0, 1, ...: a straight line that would reach 0 after the last step."""
    return LEARNING_RATE * (1.0 - step / num_steps)


def train_alone(weights: list[Matrix], batches: list[Batch]) -> dict[str, Any]:
    """One process, no messages: the result that all others must reach."""
    layers = list(map(Tensor, weights))
    optimiser, losses = SGD(layers, MOMENTUM), []
    for step, (images, labels) in enumerate(batches):
        losses.append(backward_of(layers, images, labels, 1.0))
        optimiser.step(learning_rate(step, len(batches)))
        if (step + 1) % 10 == 0:
            print(f"step {step + 1:4}/{len(batches)} | loss {losses[-1]:.4f}", flush=True)
    return summary(losses, layers, optimiser)


# === THE WIRES ===

# The ranks form a ring. Each has two connections, to the rank on its left and to the rank on its
# right, and sees nothing else of the others: no shared memory, no threads. (A pipeline uses the
# same wires, all but the one from the last rank to the first.)
#
# A rank's program is a generator. Where it needs a message, it yields the connection and is
# resumed when the message is there. So the same programs run in two ways: each in a process of its
# own (in production: one process per GPU), or all in one process, by turns, where processes are
# not to be had, as in a browser. Both are in the appendix on starting and stopping the ranks.


class Wire:
    """A rank's two connections, and notes for the report: bytes sent, a logical clock and what a
    pipeline did when.
    """

    def __init__(self, rank: int, num_ranks: int, left: Any, right: Any) -> None:
        self.rank, self.num_ranks = rank, num_ranks
        self.ends = {"left": left, "right": right}
        self.bytes_sent = self.clock = self.most_held = 0
        self.timeline: list[tuple[str, int, float]] = []

    def send(self, side: str, numbers: list[float]) -> None:
        """Send numbers to the neighbour on this side. The clock's time travels in front of them;
        it is our measuring instrument and not counted, nor is what the pipe itself adds.
        """
        self.bytes_sent += ITEM_SIZE * len(numbers)
        self.ends[side].send_bytes(array("d", [self.clock, *numbers]).tobytes())

    def receive(self, side: str) -> Generator:
        """Wait for the neighbour's next message and return its numbers. A message cannot arrive
        before it was sent, so the clock moves on to the sender's time if that is later (Lamport).
        """
        yield self.ends[side]
        message = array("d", self.ends[side].recv_bytes())
        self.clock = max(self.clock, message[0])
        return message[1:].tolist()

    def exchange(self, numbers: list[float]) -> Generator:
        """Send to the right and receive from the left.

        A pipe holds only so many bytes; when it is full, send waits until somebody reads. If all
        ranks sent first, all could wait for ever. So odd ranks read first. (This works for odd N
        too; NCCL sends and receives at once.)
        """
        if self.rank % 2 == 0:
            self.send("right", numbers)
            return (yield from self.receive("left"))
        arrived = yield from self.receive("left")
        self.send("right", numbers)
        return arrived


def share(length: int, part: int, num_parts: int) -> slice:
    """Which items of a list of this length belong to part 0, 1, ..., num_parts - 1.

    >>> [share(10, part, 4) for part in range(4)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 7, None), slice(7, 10, None)]
    """
    return slice(length * part // num_parts, length * (part + 1) // num_parts)


# === ALL-REDUCE IN A RING ===

# How do N ranks add up N vectors, so that each has the sum? Every vector is cut into N chunks. In
# each hop every rank sends one chunk to the right, so all wires are in use. A chunk travels around
# the ring, and each rank adds its own numbers to it: after N - 1 hops all chunks are complete, each
# on a different rank (reduce-scatter). In N - 1 more hops the complete chunks travel around, until
# every rank has all (all-gather). The run begins with an example. A rank sends 2 (N - 1) chunks
# of P / N numbers:
#
#     2 (N - 1) / N x P numbers       here 2 x 3/4 x 18,752 numbers x 8 bytes = 225,024 bytes
#
# This is less than 2 P, however many ranks there are. In no all-reduce in which the ranks do the
# adding can the rank that sends most send less (Patarasuk & Yuan). The price is 2 (N - 1) hops, one
# after the other. For short vectors trees are faster: NCCL, the library behind torch.distributed on
# GPUs, chooses by size and topology.


def ring_hops(wire: Wire, chunks: list[list[float]], first: int, add_up: bool) -> Generator:
    """N - 1 hops, in place: send chunk `first`, then always the chunk that has just arrived."""
    for hop in range(wire.num_ranks - 1):
        outgoing = (first - hop) % wire.num_ranks
        incoming = (outgoing - 1) % wire.num_ranks
        arrived = yield from wire.exchange(chunks[outgoing])
        chunks[incoming] = list(map(add, chunks[incoming], arrived)) if add_up else arrived


def reduce_scatter(wire: Wire, vector: list[float]) -> Generator:
    """Everybody's vectors [P] -> this rank's chunk of their sum [P / N]."""
    chunks = [vector[share(len(vector), c, wire.num_ranks)] for c in range(wire.num_ranks)]
    yield from ring_hops(wire, chunks, wire.rank - 1, add_up=True)
    return chunks[wire.rank]


def all_gather(wire: Wire, chunk: list[float]) -> Generator:
    """Everybody's chunks -> all of them in order [P]."""
    chunks = [chunk] * wire.num_ranks
    yield from ring_hops(wire, chunks, wire.rank, add_up=False)
    return [number for chunk in chunks for number in chunk]


def all_reduce(wire: Wire, vector: list[float]) -> Generator:
    """Everybody's vectors [P] -> their sum [P]. Each chunk was summed once and then copied, so all
    ranks hold the same bits.
    """
    chunk = yield from reduce_scatter(wire, vector)
    return (yield from all_gather(wire, chunk))


# === DATA PARALLEL ===

# Every rank has all the weights and computes the gradient for its share of the batch. The batch's
# loss is a mean over 32 examples, a rank's a mean over its 8. So each rank's gradient is weighted
# by its share, 8/32, and then summed. (PyTorch's DistributedDataParallel divides the sum by N,
# which is the same as long as all ranks have equally many examples. It also sends the gradients of
# the last layers while backward still works on the first.) After the sum all ranks hold the same
# gradient and take the same step: their weights stay equal and are never sent again.
#
# The momentum is then kept N times over, for nothing. ZeRO's first stage stops between the two
# halves of the all-reduce. A rank has the sum of one chunk; it keeps momentum for this chunk alone
# and updates this chunk alone; then all-gather distributes weights instead of gradients. The bytes
# are the same. (With Adam and 16-bit weights and gradients, the optimiser's state, with its 32-bit
# copy of the weights, is 12 of 16 bytes per weight.) Stage 2 keeps only a chunk of the gradient as
# well, for the same bytes. Stage 3, known as FSDP, keeps only a chunk of the weights too and must
# gather them for forward and again for backward: 1.5 times the bytes.
#
# Data parallelism is often taken for a larger batch at no cost. Here the batch stays at 32. If each
# rank got 32 examples, the batch would be 128: a different training, with other weights at its end.


def share_of_gradient(wire: Wire, layers: list[Tensor], batch: Batch) -> float:
    """This rank's part of the batch's loss, its gradient in the layers. No messages yet."""
    images, labels = batch
    mine = share(len(labels), wire.rank, wire.num_ranks)
    return backward_of(layers, images[mine], labels[mine], len(labels[mine]) / len(labels))


def data_parallel(wire: Wire, layers: list[Tensor], batch: Batch) -> Generator:
    """The batch's gradient on every rank."""
    loss = share_of_gradient(wire, layers, batch)
    set_gradient(layers, (yield from all_reduce(wire, take_gradient(layers))))
    return loss


def train(
    wire: Wire, weights: list[Matrix], batches: list[Batch], cut: Callable, way: Callable, *more
) -> Generator:
    """A rank's training, for every way but ZeRO: cut(weights, rank, num_ranks) is what
    the rank holds; way(wire, layers, batch) gives these layers the gradient of the batch's loss
    and returns the rank's part of the loss.
    """
    layers = list(map(Tensor, cut(weights, wire.rank, wire.num_ranks)))
    optimiser, losses = SGD(layers, MOMENTUM), []
    for step, batch in enumerate(batches):
        losses.append((yield from way(wire, layers, batch, *more)))
        optimiser.step(learning_rate(step, len(batches)))
    return summary(losses, layers, optimiser, wire)


def train_zero(wire: Wire, weights: list[Matrix], batches: list[Batch]) -> Generator:
    """Data parallel, but each rank keeps the momentum of its own chunk only."""
    layers = list(map(Tensor, weights))
    vector = flatten(weights)
    chunk = Tensor([vector[share(len(vector), wire.rank, wire.num_ranks)]])
    optimiser, losses = SGD([chunk], MOMENTUM), []
    for step, batch in enumerate(batches):
        losses.append(share_of_gradient(wire, layers, batch))
        chunk.grad = [(yield from reduce_scatter(wire, take_gradient(layers)))]
        optimiser.step(learning_rate(step, len(batches)))
        set_weights(layers, (yield from all_gather(wire, chunk.data[0])))
    return summary(losses, layers, optimiser, wire)


# === TENSOR PARALLEL ===

# Every rank computes a share of each block's hidden units, for all examples. It needs the rows of
# w1 that make these units and the columns of w2 that read them:
#
#     w2 relu(w1 x)  =  sum over ranks r of   w2[:, r] relu(w1[r, :] x)
#
# ReLU acts on each unit alone, so between w1 and w2 no rank needs anything from another. That is
# why Megatron cuts the two matrices in opposite directions: one sum after w2 is enough. It is
# called g. In backward a rank knows the gradient at the block's input only as far as it passed
# through its own units, so there is a second sum, called f. Without f nothing crashes, and the
# network still learns: its accuracy is 0.72 [results: no_backward_sum.accuracy] instead of
# 0.84 [results: seed_42.accuracy]. (That is with the first rank's stem: without f the ranks' copies
# drift apart.) The mistake shows when weights are compared. (In the paper f and g are operators: f
# does nothing in forward and sums in backward, g the other way round.)
#
# Where ranks exchange, the engine's graph ends: each block's graph starts from a new leaf (a tensor
# without parents), and we carry the gradient from one graph to the next. Stem and head are small,
# so every rank computes them whole (Megatron cuts them too). The numbers that go into them, forward
# and backward, are the same bits on all ranks, so the ranks' copies stay equal.
#
# The traffic grows with the batch, and every block waits for two all-reduces, of 2 (N - 1) hops
# each. So tensor parallelism usually stays within one machine, on its fastest wires (NVLink). In
# PyTorch it is parallelize_module with ColwiseParallel for w1 and RowwiseParallel for w2.


def cut_blocks(weights: list[Matrix], rank: int, num_ranks: int) -> list[Matrix]:
    """One rank's weights: rows of every w1, columns of every w2, stem and head whole."""
    units = share(HIDDEN, rank, num_ranks)
    blocks = weights[1:-1]
    cut = [w[units] if i % 2 == 0 else [row[units] for row in w] for i, w in enumerate(blocks)]
    return [weights[0], *cut, weights[-1]]


def tensor_parallel_forward(wire: Wire, layers: list[Tensor], images: Matrix) -> Generator:
    """Images -> logits [B][10], and what backward needs: the stem's output, each block's leaf and
    partial sum, the head's leaf.
    """
    stem = linear(Tensor(images, requires_grad=False), layers[0])
    x, blocks = stem.data, []
    for w1, w2 in zip(layers[1:-1:2], layers[2:-1:2]):
        leaf = Tensor(x)
        partial = mlp(leaf, w1, w2)
        blocks.append((leaf, partial))
        total = yield from all_reduce(wire, flatten([partial.data]))  # g, forward
        x = add_matrices(x, rows_of(total, WIDTH))
    leaf = Tensor(x)
    return linear(leaf, layers[-1]), (stem, blocks, leaf)


def tensor_parallel(wire: Wire, layers: list[Tensor], batch: Batch) -> Generator:
    """The batch's gradient in this rank's share of the layers."""
    images, labels = batch
    logits, (stem, blocks, leaf) = yield from tensor_parallel_forward(wire, layers, images)
    loss = cross_entropy(logits, labels)
    loss.backward()
    d_x = leaf.grad
    for leaf, partial in reversed(blocks):
        partial.backward(d_x)
        total = yield from all_reduce(wire, flatten([leaf.grad]))  # f, backward
        d_x = add_matrices(d_x, rows_of(total, WIDTH))
    stem.backward(d_x)
    return loss.item() / wire.num_ranks  # all ranks know the whole loss: report a part of it


def predict_tensor_parallel(wire: Wire, weights: list[Matrix], images: Matrix) -> Generator:
    """Inference, each rank with its share of the weights: images [B][64] -> logits [B][10]."""
    cut = cut_blocks(weights, wire.rank, wire.num_ranks)
    layers = [Tensor(w, requires_grad=False) for w in cut]
    logits, _ = yield from tensor_parallel_forward(wire, layers, images)
    return logits.data


# === PIPELINE PARALLEL ===

# Every rank has one block (the first also the stem, the last also the head) and sends its output to
# the next. With whole batches all ranks but one would be idle. So the batch is cut into M
# micro-batches that follow each other. Let a turn be a rank's work on one micro-batch. Our logical
# clock assumes that it takes all ranks equally long and that messages take no time. The last of N
# ranks still waits N - 1 turns for the first micro-batch to arrive, and in backward the first rank
# waits as long for the first gradient. A rank works in M of M + N - 1 turns:
#
#     bubble = (N - 1) / (M + N - 1)      the share of the time in which a rank waits: here 3/11
#
# (Narayanan et al. divide by the time without waiting: (N - 1) / M.)
#
# GPipe runs all forwards, then all backwards, and must hold what backward needs of M micro-batches
# (or less of each, if it computes the rest again, as in the paper). 1F1B (one forward, one
# backward) starts backward as soon as it can, and rank r holds N - r at most. It is often said to
# shrink the bubble. It does not: it shrinks the memory. Both change the weights only after the last
# micro-batch, so both compute the gradient of the whole batch. (PipeDream, where 1F1B comes from,
# never lets the pipeline run empty; the price is gradients of older weights.)
#
# A rank sends activations to the right and gradients to the left, batch x 32 numbers each: far less
# than in the other cuts here. So pipelines run across the slower wires between machines, and so
# does data parallelism, which sends once per step. In PyTorch a pipeline is
# torch.distributed.pipelining.Schedule1F1B.

Action = tuple[str, int]  # ("F", m): forward of micro-batch m; ("B", m): its backward


def schedule_gpipe(stage: int, num_stages: int, num_micro: int) -> list[Action]:
    """All forwards, then all backwards."""
    return [("F", m) for m in range(num_micro)] + [("B", m) for m in range(num_micro)]


def schedule_1f1b(stage: int, num_stages: int, num_micro: int) -> list[Action]:
    """As many forwards as there are stages from here on, then by turns, backward first.

    >>> schedule_1f1b(2, 4, 3)
    [('F', 0), ('F', 1), ('B', 0), ('F', 2), ('B', 1), ('B', 2)]
    """
    warm_up = min(num_stages - stage, num_micro)
    actions = [("F", m) for m in range(warm_up)]
    for m in range(num_micro):
        actions += [("B", m), ("F", m + warm_up)] if m + warm_up < num_micro else [("B", m)]
    return actions


def cut_stack(weights: list[Matrix], rank: int, num_ranks: int) -> list[Matrix]:
    """One rank's weights: a share of the blocks; the first has the stem too, the last the head."""
    mine = share(NUM_BLOCKS, rank, num_ranks)
    blocks = weights[1 + 2 * mine.start : 1 + 2 * mine.stop]
    return weights[: rank == 0] + blocks + (weights[-1:] if rank == num_ranks - 1 else [])


def pipeline(wire: Wire, layers: list[Tensor], batch: Batch, schedule: Callable) -> Generator:
    """The batch's gradient in this rank's layers: every action of its schedule, in order."""
    images, labels = batch
    # In 1F1B two neighbours may send to each other at the same moment. Neither reads before its
    # message is in the pipe, so there must be room for it (torch posts both transfers together).
    if len(labels) < NUM_MICRO:
        raise ValueError(f"{len(labels)} examples do not make {NUM_MICRO} micro-batches")
    if math.ceil(len(labels) / NUM_MICRO) * WIDTH * ITEM_SIZE > PIPE_ROOM:
        raise ValueError("a micro-batch does not fit in a pipe: use more micro-batches")
    first, last = wire.rank == 0, wire.rank == wire.num_ranks - 1
    held: dict[int, tuple[Tensor, Tensor]] = {}  # micro-batches that wait for their backward
    loss, wire.clock, wire.timeline = 0.0, 0, []
    for action, m in schedule(wire.rank, wire.num_ranks, NUM_MICRO):
        rows = share(len(labels), m, NUM_MICRO)
        part = len(labels[rows]) / len(labels)
        if action == "F":
            x = images[rows] if first else rows_of((yield from wire.receive("left")), WIDTH)
            note_time(wire, action, m, FORWARD_TIME)
            x = Tensor(x, requires_grad=not first)
            out = run_layers(x, layers, first, last)
            if last:
                out = cross_entropy(out, labels[rows])
                loss += out.item() * part
            else:
                wire.send("right", flatten([out.data]))
            held[m] = x, out
            wire.most_held = max(wire.most_held, len(held))
        else:
            # The last rank starts from the loss: a mean over the micro-batch, weighted by its part.
            d_out = [[part]] if last else rows_of((yield from wire.receive("right")), WIDTH)
            note_time(wire, action, m, BACKWARD_TIME)
            x, out = held.pop(m)
            out.backward(d_out)
            if not first:
                wire.send("left", flatten([x.grad]))
    return loss


# === ALL WAYS, ONE AFTER THE OTHER ===

# All ways start from the same weights and see the same batches. (Here every rank is sent all of
# them; in production a rank loads only its part of a checkpoint and only the examples it needs.)
# The final weights are put together from the ranks and compared with those of one process, number
# by number. What the formulas predict is printed beside what was counted.


def predicted_bytes(num_weights: int, batch_size: int) -> dict[str, float]:
    """What the busiest rank sends for one step, by the formulas (N = NUM_RANKS)."""
    ring = 2 * (NUM_RANKS - 1) / NUM_RANKS * ITEM_SIZE  # bytes for each number of an all-reduce
    activations = batch_size * WIDTH
    boundaries = min(2, NUM_RANKS - 1)  # of a stage in the middle: a gradient left, x to the right
    return {
        "data parallel": ring * num_weights,
        "data parallel, ZeRO": ring * num_weights,
        "tensor parallel": ring * activations * 2 * NUM_BLOCKS,
        "pipeline, GPipe": boundaries * activations * ITEM_SIZE,
        "pipeline, 1F1B": boundaries * activations * ITEM_SIZE,
    }


def main() -> dict[str, Any]:
    """Train alone and in five ways, compare, and return the headline numbers."""
    rng = random.Random(SEED)
    images, labels = load_digits()
    weights = new_weights(rng)
    batches = draw_batches(images[:NUM_TRAIN], labels[:NUM_TRAIN], rng)
    held_out = images[NUM_TRAIN:], labels[NUM_TRAIN:]
    show_ring()
    show_facts(weights)
    alone = train_alone(weights, batches)
    formulas = predicted_bytes(len(flatten(weights)), BATCH_SIZE)
    results, joined, seconds = {}, {}, []
    with Ranks(NUM_RANKS) as ranks:
        show_head(ranks, weights, alone)
        for name, (program, more, join) in ways().items():
            start = time.perf_counter()
            results[name] = ranks.run(program, weights, batches, *more)
            seconds.append(time.perf_counter() - start)
            joined[name] = join([result["weights"] for result in results[name]])
            gap = largest_difference(joined[name], alone["weights"])
            show_way(name, results[name], gap, formulas[name])
        logits = ranks.run(predict_tensor_parallel, joined["tensor parallel"], held_out[0])[0]
    show_memory(alone, results, seconds)
    show_timelines(results)
    growth = show_growth(weights, batches[0])
    show_inference(logits, held_out, alone["weights"])
    numbers = headline(alone, results, joined, formulas)
    numbers["accuracy"] = accuracy(logits, held_out[1])
    show_conclusions(numbers, results, growth, joined)
    return {**numbers, "details": {"growth": growth}}


# === APPENDIX: REPORT AND HELPERS ===


def ways() -> dict[str, tuple[Callable, tuple, Callable]]:
    """name -> (program, what it takes besides weights and batches, how to join the weights)"""
    return {
        "data parallel": (train, (cut_nothing, data_parallel), join_replicas),
        "data parallel, ZeRO": (train_zero, (), join_replicas),
        "tensor parallel": (train, (cut_blocks, tensor_parallel), join_blocks),
        "pipeline, GPipe": (train, (cut_stack, pipeline, schedule_gpipe), join_stack),
        "pipeline, 1F1B": (train, (cut_stack, pipeline, schedule_1f1b), join_stack),
    }


def draw_batches(images: Matrix, labels: list[int], rng: random.Random) -> list[Batch]:
    """NUM_STEPS batches; every digit is drawn once before any is drawn again."""
    order: list[int] = []
    while len(order) < NUM_STEPS * BATCH_SIZE:
        order += rng.sample(range(len(images)), len(images))
    picks = [order[i * BATCH_SIZE : (i + 1) * BATCH_SIZE] for i in range(NUM_STEPS)]
    return [([images[i] for i in pick], [labels[i] for i in pick]) for pick in picks]


def flatten(matrices: Sequence[Matrix]) -> list[float]:
    """All numbers of some matrices as one vector.

    >>> flatten([[[1, 2], [3, 4]], [[5]]])
    [1, 2, 3, 4, 5]
    """
    return [number for matrix in matrices for row in matrix for number in row]


def rows_of(numbers: list[float], width: int) -> Matrix:
    """A vector cut into rows.

    >>> rows_of([1, 2, 3, 4], 2)
    [[1, 2], [3, 4]]
    """
    return [numbers[i : i + width] for i in range(0, len(numbers), width)]


def split_like(layers: list[Tensor], vector: list[float]) -> list[Matrix]:
    """flatten's inverse: matrices of the layers' shapes."""
    matrices, start = [], 0
    for layer in layers:
        width = len(layer.data[0])
        stop = start + len(layer.data) * width
        matrices.append(rows_of(vector[start:stop], width))
        start = stop
    return matrices


def take_gradient(layers: list[Tensor]) -> list[float]:
    """The layers' gradients as one vector; the layers are left without."""
    vector = flatten([layer.grad for layer in layers])
    for layer in layers:
        layer.grad = None
    return vector


def set_gradient(layers: list[Tensor], vector: list[float]) -> None:
    """Give a vector to the layers as their gradients."""
    for layer, matrix in zip(layers, split_like(layers, vector)):
        layer.grad = matrix


def set_weights(layers: list[Tensor], vector: list[float]) -> None:
    """Give a vector to the layers as their weights."""
    for layer, matrix in zip(layers, split_like(layers, vector)):
        layer.data = matrix


def note_time(wire: Wire, action: str, m: int, duration: int) -> None:
    """Write down when an action begins on the logical clock, and let the clock go on."""
    wire.timeline.append((action, m, wire.clock))
    wire.clock += duration


def summary(
    losses: list[float], layers: list[Tensor], optimiser: SGD, wire: Wire | None = None
) -> dict[str, Any]:
    """What a rank reports at the end of its training."""
    momentum = [rows for rows in optimiser.velocity if rows is not None]
    result = {
        "losses": losses,
        "weights": [layer.data for layer in layers],
        "numbers": (len(flatten([layer.data for layer in layers])), len(flatten(momentum))),
    }
    if wire is not None:
        result["bytes"] = wire.bytes_sent / len(losses)
        result["timeline"], result["most_held"] = wire.timeline, wire.most_held
    return result


def cut_nothing(weights: list[Matrix], rank: int, num_ranks: int) -> list[Matrix]:
    """A rank's weights in data parallelism: all."""
    return weights


def join_replicas(parts: list[list[Matrix]]) -> list[Matrix]:
    """The whole network from ranks that hold all of it: the first rank's."""
    return parts[0]


def join_blocks(parts: list[list[Matrix]]) -> list[Matrix]:
    """The whole network from cut_blocks' shares."""
    joined = [parts[0][0]]
    for i in range(1, len(parts[0]) - 1):
        matrices = [part[i] for part in parts]
        rows_first = i % 2 == 1  # w1: rows below each other; w2: columns beside each other
        joined.append(sum(matrices, []) if rows_first else [sum(r, []) for r in zip(*matrices)])
    return [*joined, parts[0][-1]]


def join_stack(parts: list[list[Matrix]]) -> list[Matrix]:
    """The whole network from cut_stack's shares."""
    return sum(parts, [])


def largest_difference(a: list[Matrix], b: list[Matrix]) -> float:
    """The largest distance between two numbers at the same place."""
    return max(map(abs, map(sub, flatten(a), flatten(b))))


def accuracy(logits: Matrix, labels: list[int]) -> float:
    """The share of rows whose largest logit is the label's."""
    hits = [row.index(max(row)) == label for row, label in zip(logits, labels)]
    return sum(hits) / len(hits)


def headline(
    alone: dict[str, Any],
    results: dict[str, list[dict[str, Any]]],
    joined: dict[str, list[Matrix]],
    formulas: dict[str, float],
) -> dict[str, Any]:
    """The headline numbers, all but the accuracy."""
    replicated = [results["data parallel"], results["data parallel, ZeRO"]]
    differ = [r["weights"] != ranks[0]["weights"] for ranks in replicated for r in ranks]
    pipelines = [results["pipeline, GPipe"], results["pipeline, 1F1B"]]
    most_held = [max([rank["most_held"] for rank in ranks]) for ranks in pipelines]
    return {
        "weight_gap": max([largest_difference(alone["weights"], w) for w in joined.values()]),
        "replicas_differ": sum(differ),
        "bytes_off": max([abs(busiest(results[name]) - formulas[name]) for name in results]),
        "bubble_off": max([abs(bubble(ranks) - predicted_bubble()) for ranks in pipelines]),
        "held_ratio": most_held[0] / most_held[1],
    }


def busiest(ranks: list[dict[str, Any]]) -> float:
    """The bytes that the rank which sends most sends for one step."""
    return max([rank["bytes"] for rank in ranks])


def predicted_bubble() -> float:
    """(N - 1) / (M + N - 1)"""
    return (NUM_RANKS - 1) / (NUM_MICRO + NUM_RANKS - 1)


def bubble(ranks: list[dict[str, Any]]) -> float:
    """The share of the time in which ranks wait (mean), from the clocks of a step that was run."""
    durations = {"F": FORWARD_TIME, "B": BACKWARD_TIME}
    busy = [durations[action] for rank in ranks for action, _, _ in rank["timeline"]]
    ends = [start + durations[action] for rank in ranks for action, _, start in rank["timeline"]]
    return 1.0 - sum(busy) / (len(ranks) * max(ends))


def show_ring() -> None:
    """All-reduce in slow motion: what each rank sends in each hop, and what it has at the end."""
    n = NUM_RANKS

    def watched(wire: Wire) -> Generator:
        """The all-reduce of one rank -> what it sends in each hop, and its sums, as text."""
        # Rank r gives 10^r times (1, 2, 3, 4): a sum's digits tell which ranks are in it.
        chunks = [[10.0**wire.rank * (c + 1)] for c in range(n)]
        states = []
        for first, add_up in ((wire.rank - 1, True), (wire.rank, False)):
            for hop, end in enumerate(ring_hops(wire, chunks, first, add_up)):
                outgoing = (first - hop) % n
                states.append(f"chunk {outgoing}: {chunks[outgoing][0]:.0f}")
                yield end
        return [*states, " ".join([f"{chunk[0]:.0f}" for chunk in chunks])]

    columns = run_in_turns(watched, n)
    print(f"All-reduce in a ring of {n}. At first rank 0 has 1 2 3 4, rank 1 10 20 30 40, ...")
    print("hop  " + "".join([f"rank {rank} sends".ljust(18) for rank in range(n)]).rstrip())
    for hop in range(len(columns[0]) - 1):
        cells = "".join([column[hop].ljust(18) for column in columns])
        if hop == n - 1:
            print("Each chunk is now complete on one rank. The complete chunks go around:")
        print(f"{hop + 1:3}  {cells}".rstrip())
    ends = {column[-1] for column in columns}
    print(f"{'Every rank has' if len(ends) == 1 else 'Ranks differ; one has'} {min(ends)}.")


def show_facts(weights: list[Matrix]) -> None:
    """The sizes, before the training of the one process."""
    count = len(flatten(weights))
    print(f"\n{count:,} weights, {NUM_STEPS} steps of {BATCH_SIZE} digits, one process alone")
    print(f"(at the loss, knowing nothing gives ln 10 = {log(10):.2f})")


def show_head(ranks: Ranks, weights: list[Matrix], alone: dict[str, Any]) -> None:
    """How the ranks run, and the head of the table of ways."""
    moved = largest_difference(weights, alone["weights"])
    print(f"The weights have moved by up to {moved:.2f}.")
    print(
        f"\nThe same with {NUM_RANKS} ranks. Gap: the largest distance of a final weight from that"
    )
    print("of the process alone. Bytes: what the rank that sends most sends for a step.")
    print(f"time  the ranks are {ranks.kind}")
    print("                     loss at  loss at             bytes     bytes by")
    print("                      step 1      end      gap    counted   formula", flush=True)


def show_way(name: str, ranks: list[dict[str, Any]], gap: float, formula: float) -> None:
    """One row of the table of ways."""
    losses = [sum(parts) for parts in zip(*[rank["losses"] for rank in ranks])]
    row = f"{name:20}  {losses[0]:.4f}   {losses[-1]:.4f}   {gap:.0e}  {busiest(ranks):9,.0f}"
    print(f"{row} {formula:9,.0f}", flush=True)


def show_memory(
    alone: dict[str, Any], results: dict[str, list[dict[str, Any]]], seconds: list[float]
) -> None:
    """What each rank keeps."""
    print(f"time  {', '.join([f'{value:.1f}' for value in seconds])} s for these five")
    print("\nNumbers kept by the rank that keeps most")
    print("                      weights  gradients   momentum   micro-batches held")
    for name, ranks in {"one process": [alone], **results}.items():
        count, momentum = max([rank["numbers"] for rank in ranks])
        held = max([rank.get("most_held", 0) for rank in ranks])
        row = f"{name:20} {count:8,}   {count:8,}   {momentum:8,}"
        print(row + (f"{held:21}" if held else ""))


def show_timelines(results: dict[str, list[dict[str, Any]]]) -> None:
    """Who worked when, as the logical clocks of the last step have it."""
    print("\nThe last step of the pipelines on the logical clock, a character per unit:")
    print("0 1 2 ... forward of a micro-batch, aa bb cc ... its backward, dots: waiting")
    for name in ("pipeline, GPipe", "pipeline, 1F1B"):
        lines = []
        for rank in results[name]:
            line = ""
            for action, m, start in rank["timeline"]:
                line = line.ljust(int(start), ".")
                symbol, duration = str(m % 10), FORWARD_TIME
                if action == "B":
                    symbol, duration = "abcdefghij"[m % 10], BACKWARD_TIME
                line += symbol * duration
            lines.append(line)
        for index, line in enumerate(lines):
            title = name if index == 0 else ""
            print(f"{title:16} rank {index}  {line.ljust(max(map(len, lines)), '.')}")
        waiting = f"{bubble(results[name]):.4f} of the time"
        print(f"{'':17}waiting {waiting}; by the formula {predicted_bubble():.4f}")


def all_reduce_naively(wire: Wire, vector: list[float]) -> Generator:
    """What the ring is measured against: every rank's whole vector goes to every rank."""
    total = arrived = vector
    for _ in range(wire.num_ranks - 1):
        arrived = yield from wire.exchange(arrived)
        total = list(map(add, total, arrived))
    return total


def counted(wire: Wire, program: Callable, *arguments: Any) -> Generator:
    """A program's result, and the bytes that this rank sent for it."""
    result = yield from program(wire, *arguments)
    return result, wire.bytes_sent


def reduce_multiple(wire: Wire, reduce: Callable, vector: list[float]) -> Generator:
    """All-reduce of vectors that differ between the ranks."""
    return (yield from reduce(wire, [x * 0.1 * (wire.rank + 1) for x in vector]))


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost against log size: cost grows as size to this power."""
    x, y = [log(size) for size in sizes], [log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    return sum([(a - mean_x) * (b - mean_y) for a, b in zip(x, y)]) / sum(
        [(a - mean_x) ** 2 for a in x]
    )


def show_growth(weights: list[Matrix], batch: Batch) -> dict[str, Any]:
    """Bytes against the number of ranks and against the batch's size, counted in runs by turns."""
    vector, counts = flatten(weights), (2, 3, 4, 5, 16)
    print(
        f"\nBytes sent by a rank in one all-reduce of {len(vector):,} numbers (exponent: 5 to 16)"
    )
    print("ranks            " + "".join([f"{n:10}" for n in counts]) + "  exponent")
    versions = {}
    for name, reduce in (("ring", all_reduce), ("everything to all", all_reduce_naively)):
        runs = [run_in_turns(counted, n, reduce_multiple, reduce, vector) for n in counts]
        sent = [max([count for _, count in run]) for run in runs]
        versions[name] = len({tuple(total) for total, _ in runs[2]})
        power = exponent(counts[3:], sent[3:])
        print(f"{name:17}" + "".join([f"{count:10,}" for count in sent]) + f"{power:10.2f}")
    print(f"The ring's stay below 2 x {len(vector):,} x 8 = {2 * 8 * len(vector):,}.")

    sizes, powers = (BATCH_SIZE // 2, BATCH_SIZE, BATCH_SIZE * 2), {}
    print(f"\nBytes sent by the busiest of {NUM_RANKS} ranks for a step")
    print("examples         " + "".join([f"{size:10}" for size in sizes]) + "  exponent")
    doubled = (batch[0] * 2, batch[1] * 2)
    for name in ("data parallel", "tensor parallel", "pipeline, 1F1B"):
        program, more, _ = ways()[name]
        sent = []
        for size in sizes:
            part = [(doubled[0][:size], doubled[1][:size])]
            sent.append(busiest(run_in_turns(program, NUM_RANKS, weights, part, *more)))
        powers[name] = exponent(sizes, sent)
        print(
            f"{name:17}" + "".join([f"{count:10,.0f}" for count in sent]) + f"{powers[name]:10.2f}"
        )
    return {"versions": versions, "powers": powers}


def show_inference(logits: Matrix, held_out: Batch, weights: list[Matrix]) -> None:
    """The held-out digits, computed by all ranks together and by one process."""
    layers = [Tensor(w, requires_grad=False) for w in weights]
    whole = run_layers(Tensor(held_out[0], requires_grad=False), layers).data
    gap = largest_difference([logits], [whole])
    hits, count = accuracy(logits, held_out[1]), len(logits)
    print(f"\n{count} held-out digits, tensor parallel: accuracy {hits:.3f} (guessing 0.1).")
    print(f"The logits differ by up to {gap:.0e} from those of the process that trained alone.")


def show_conclusions(
    numbers: dict[str, Any],
    results: dict[str, list[dict[str, Any]]],
    growth: dict[str, Any],
    joined: dict[str, list[Matrix]],
) -> None:
    """What was shown, computed from the numbers."""
    gap = numbers["weight_gap"]
    sent = {name: busiest(ranks) for name, ranks in results.items()}
    data, tensor = sent["data parallel"], sent["tensor parallel"]
    end = "end at the same weights" if gap < 1e-9 else "do NOT end at the same weights"
    print(f"\nAll five ways {end}: the largest gap is {gap:.0e}.")
    if numbers["replicas_differ"]:
        print(f"{numbers['replicas_differ']} replicas differ from the first: all-reduce is broken.")
    else:
        versions = growth["versions"]["everything to all"]
        print("Replicas agree in every bit, because the ring forms each sum once. If every rank")
        print(
            f"adds up all vectors itself, in its own order, 4 ranks get {versions} different sums."
        )
    if joined["data parallel"] == joined["data parallel, ZeRO"]:
        momentum = max([rank["numbers"][1] for rank in results["data parallel, ZeRO"]])
        part = momentum / len(flatten(joined["data parallel"]))
        more = sent["data parallel, ZeRO"] / data
        print(
            f"ZeRO ends at the same bits as data parallel. It keeps {part:.2f} of the momentum on a"
        )
        print(f"rank and sends {more:.2f} times as many bytes.")
    if tensor > 0.0 and abs(growth["powers"]["data parallel"]) < 0.01:
        crossing = BATCH_SIZE * data / tensor
        print("Data parallel's bytes do not depend on the batch, tensor parallel's do: they are")
        print(f"equal at {crossing:.0f} examples per step; here a step has {BATCH_SIZE}.")
    if numbers["bubble_off"] < 1e-9:
        gpipe, f1b1 = joined["pipeline, GPipe"], joined["pipeline, 1F1B"]
        bits = "the same bits" if gpipe == f1b1 else "other bits"
        print(f"1F1B waits as long as GPipe and ends at {bits}. In GPipe the fullest rank")
        print(f"holds {numbers['held_ratio']:.1f} times as many micro-batches.")


# === APPENDIX: STARTING AND STOPPING THE RANKS ===

PATIENCE = 120.0  # seconds that a rank waits for one message
DIED = "its process has ended"
LOST = "its neighbour has ended"  # so it cannot be the cause


class Mailbox:
    """One end of a connection inside a process, with the methods of multiprocessing's."""

    def __init__(self, incoming: deque[bytes], outgoing: deque[bytes]) -> None:
        self.incoming, self.outgoing = incoming, outgoing

    def send_bytes(self, message: bytes) -> None:
        self.outgoing.append(message)

    def recv_bytes(self) -> bytes:
        return self.incoming.popleft()

    def poll(self) -> bool:
        """Whether a message is there."""
        return bool(self.incoming)


def run_in_turns(program: Callable, num_ranks: int, *arguments: Any) -> list[Any]:
    """The programs of all ranks in this process: each runs until it waits for a message."""
    rights, lefts = [], []  # connection c: the right end of rank c, the left end of rank c + 1
    for _ in range(num_ranks):
        there, back = deque(), deque()
        rights.append(Mailbox(back, there))
        lefts.append(Mailbox(there, back))
    wires = [Wire(rank, num_ranks, lefts[rank - 1], rights[rank]) for rank in range(num_ranks)]
    running = {wire.rank: program(wire, *arguments) for wire in wires}
    waits_for: dict[int, Mailbox] = {}
    results: list[Any] = [None] * num_ranks
    while running:
        ready = [r for r in running if r not in waits_for or waits_for[r].poll()]
        if not ready:
            raise RuntimeError(f"ranks {sorted(running)} wait for messages that nobody will send")
        for rank in ready:
            try:
                waits_for[rank] = next(running[rank])
            except StopIteration as end:
                results[rank] = end.value
                del running[rank]
    return results


def run_to_its_end(program: Generator) -> Any:
    """One rank's program in a process of its own: where it waits, the process waits."""
    try:
        while True:
            if not next(program).poll(PATIENCE):
                raise RuntimeError(f"no message for {PATIENCE:.0f} s")
    except StopIteration as end:
        return end.value


def serve(rank: int, num_ranks: int, commands: Any, left: Any, right: Any) -> None:
    """The life of a rank's process: do what the first process says until it hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the first process, which ends us
    try:
        commands.send(("ready", None))
        while True:
            program, arguments = commands.recv()
            try:
                wire = Wire(rank, num_ranks, left, right)
                reply = (run_to_its_end(program(wire, *arguments)), None)
            except (EOFError, BrokenPipeError, ConnectionResetError):
                reply = (None, LOST)
            except Exception:
                reply = (None, traceback.format_exc())
            commands.send(reply)
            if reply[1] is not None:
                return  # so that the neighbours' connections close, and nobody waits for us
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def start_processes(num_ranks: int) -> tuple[list[Any], list[Any]]:
    """Start a process for each rank and connect them; returns the processes and, for each, the
    connection by which it gets its commands.

    "spawn" starts each with a fresh Python, as on Windows and macOS: nothing is shared by
    accident. Raises OSError or ImportError where processes are not to be had.
    """
    if sys.platform in ("emscripten", "wasi"):
        raise OSError("a browser has no processes")
    context = multiprocessing.get_context("spawn")
    rings = [context.Pipe() for _ in range(num_ranks)]  # ring c: (right end of c, left of c + 1)
    lines = [context.Pipe() for _ in range(num_ranks)]
    processes = []
    # A process that starts with Ctrl-C ignored goes on ignoring it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for rank in range(num_ranks):
            ends = (lines[rank][1], rings[rank - 1][1], rings[rank][0])
            process = context.Process(target=serve, args=(rank, num_ranks, *ends), daemon=True)
            process.start()
            processes.append(process)
        # Our copies of their ends must go, or no rank would notice that its neighbour is gone.
        for connection in [end for ring in rings for end in ring] + [line[1] for line in lines]:
            connection.close()
        for rank, (line, _) in enumerate(lines):
            try:
                line.recv()
            except EOFError:
                raise OSError(f"process {rank} ended at its start") from None
    except BaseException:
        stop_processes(processes, [], at_once=True)
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    return processes, [line for line, _ in lines]


def stop_processes(processes: list[Any], lines: list[Any], at_once: bool) -> None:
    """Hang up, and end what has not ended by itself."""
    for line in lines:
        line.close()
    for process in processes:
        if not at_once:
            process.join(5.0)
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join()


class Ranks:
    """Processes that wait for programs; where there are none, the same programs by turns."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self.processes: list[Any] = []
        self.lines: list[Any] = []
        self.kind = f"{num_ranks} processes"

    def __enter__(self) -> Ranks:
        try:
            self.processes, self.lines = start_processes(self.num_ranks)
        except (OSError, ImportError, RuntimeError) as problem:
            reason = str(problem) or type(problem).__name__
            self.kind = f"in one process, by turns ({reason[:40]})"
        return self

    def __exit__(self, kind: type | None, problem: BaseException | None, trace: Any) -> None:
        stop_processes(self.processes, self.lines, at_once=kind is not None)

    def run(self, program: Callable, *arguments: Any) -> list[Any]:
        """Run program(wire, *arguments) on every rank; returns what each rank returned.

        RuntimeError tells which rank failed and how.
        """
        if not self.processes:
            return run_in_turns(program, self.num_ranks, *arguments)
        replies: list[tuple[Any, str | None]] = []
        for line in self.lines:
            with contextlib.suppress(OSError):  # the process has ended: recv will tell
                line.send((program, arguments))
        for line in self.lines:
            try:
                replies.append(line.recv())
            except (EOFError, OSError):
                replies.append((None, DIED))
        failed = [(rank, text) for rank, (_, text) in enumerate(replies) if text is not None]
        causes = [failure for failure in failed if failure[1] != LOST]
        for rank, text in sorted(causes or failed, key=lambda failure: failure[1] == DIED):
            raise RuntimeError(f"rank {rank} failed: {text}")
        return [result for result, _ in replies]


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


if __name__ == "__main__":
    main()
