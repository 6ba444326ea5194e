"""Block tables fit twice the requests of reserved regions into one memory, and change no symbol.

A server that writes many texts at once keeps the keys and values of all of them in memory (the KV
cache of microkv). Nobody knows in advance how long a text will be. The plain way reserves one
region for each text, large enough for the longest. Most of it is never used, and no one else may
use it. Paged attention divides the memory into small blocks. A text gets a block when it needs
one, anywhere in memory, and a table says which blocks are its own, in order. Operating systems
manage memory in this way. It does not make attention faster. It makes room for more texts at the
same time, so that each pass of the network, which must read all weights, serves more of them.

The run trains a small model and lets it answer the same queue of requests with every kind of
memory. Look at the pictures of the memory at one moment, and at the number of steps until all
requests are answered, beside two limits: what regions could do at best if all lengths were known,
and what no memory manager can beat. Then requests share blocks: a common beginning is stored once,
and samples that continue one prompt copy a block only when they write to it. Every text is
compared with the one that the same request writes alone.

What pure Python can show is steps, slots, and numbers read, all counted. It cannot show the gain in
time: Python computes the rows of a pass one after the other, so a pass takes longer, the more texts
it serves. On a GPU it takes nearly the same time, as long as reading the weights is what costs.

In the code    In papers            Meaning
symbol         token                a letter, or the boundary between two names: 0 to 26
slot           slot                 room for one symbol's keys and values, in all layers
block          KV block, page       BLOCK_SIZE neighbouring slots
block table    block table          the blocks of one sequence, in the order of its symbols
count          reference count      in how many tables a block stands
step           iteration            one pass of the network over all running requests
held           --                   slots of running requests: others may share, not take them
live           --                   held slots with a symbol's keys and values; the rest is empty
read           prefill, decode      compute symbols' keys and values, and the logits that follow
number read    --                   an entry of a weight, key or value, fetched from memory

What is left out: swapping to the CPU's memory, cutting long prompts into chunks (chunked prefill),
requests that arrive while others run, sending a request to the server that has its beginning
(KV-aware routing), and the kernel that makes this fast on a GPU.

A number marked [results: ...] is not from this run: it was recorded from a run with one thing
changed, and stands in results/micropaged.json under that key.

Read first: microkv.

Papers: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
PagedAttention", 2023, arXiv:2309.06180 (vLLM). Yu et al., "Orca", OSDI 2022 (a scheduler that
works step by step). Zheng et al., "SGLang", 2023, arXiv:2312.07104 (RadixAttention). Prabhu et
al., "vAttention", 2024, arXiv:2405.04437 (leaves the tables to the GPU's virtual memory). Su et
al., "RoFormer", 2021, arXiv:2104.09864 (RoPE).
"""

from __future__ import annotations

import hashlib
import http.client
import math
import os
import random
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import ceil, cos, exp, log, sin
from operator import add, mul, sub
from pathlib import Path
from typing import NamedTuple

# === CONSTANTS ===

SEED = 42
NUM_REQUESTS = 64  # all wait in a queue when the server starts
PROMPT_LENGTHS = (4, 16)  # symbols, drawn evenly
MEAN_EXTRA_NAMES = 2.8  # a request wants one name, and an exponentially drawn number more
MAX_LENGTH = 64  # symbols of a request at most, its prompt included
NUM_SLOTS = 256  # symbols that the memory can hold
BLOCK_SIZE = 4  # slots; vLLM's default is 16, for texts of thousands of symbols
SPARE = 0.05  # share of blocks that an admission leaves free: see THE SCHEDULER
TEMPERATURE = 0.8
PICTURE_STEP = 20  # when the memory is drawn
SLOT_COUNTS = (128, 256, 512)  # sizes of memory to be compared
BLOCK_SIZES = (1, 4, 16, 64)  # to be compared; 64 = MAX_LENGTH
SHARED_PREFIX = 32  # symbols with which all prompts begin in PREFIX SHARING
PREFIX_SLOTS = 384  # memory there
NUM_SAMPLES = 4  # texts that continue one prompt in COPY-ON-WRITE
SAMPLE_PROMPTS = (10, 12)  # symbols; the second one fills its last block

# The model is microkv's, with rotary positions (RoPE) and a ReLU MLP, trained for fewer steps.
NUM_LAYERS = 2
WIDTH = 16  # entries of a row of the residual stream
NUM_HEADS = 2
CONTEXT = 96  # symbols of a training window: MAX_LENGTH + SHARED_PREFIX
ROPE_BASE = 10000.0
NUM_STEPS = 70
LEARNING_RATE = 0.02  # at its highest; falls to 0
WARM_UP_STEPS = 10

# === REQUESTS OF UNKNOWN LENGTH ===

# A user sends the beginning of a stream of names, such as ".mia.no", and asks for some more names.
# The model decides how many symbols they take: a request ends at its last boundary. Every request
# draws with random numbers of its own, so its text must not depend on who else is being served.


class Order(NamedTuple):
    """What a user asks for."""

    number: int
    prompt: list[int]
    num_names: int
    max_length: int


class Request:
    """An order, and how far the server has come with it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.symbols = list(order.prompt)  # the prompt, and what has been written
        self.num_read = 0  # how many of them have their keys and values in memory
        self.rng = random.Random(SEED * 10_000 + order.number)
        self.logits: list[list[float]] = []  # each row from which a symbol was drawn

    def draw(self, logits: list[float]) -> None:
        """Write the next symbol; all symbols before it have been read."""
        self.num_read = len(self.symbols)
        probabilities = softmax_row([z / TEMPERATURE for z in logits])
        self.symbols += self.rng.choices(range(len(logits)), probabilities)
        self.logits.append(logits)

    def is_finished(self) -> bool:
        """Are all names written, or is the text as long as it may be?"""
        num_written = self.symbols[len(self.order.prompt) :].count(0)
        return num_written == self.order.num_names or len(self.symbols) == self.order.max_length


# In microkv every text has a cache of its own, which grows. Python's lists hide the problem: they
# move when they grow. A server allocates one array for all keys and values when it starts, and
# moving gigabytes in it while everyone waits costs too much. write_alone, in the appendix, still
# writes a request in microkv's way: every server below must write the same, symbol for symbol.
#
# Three kinds of waste, for regions of 8 slots in a memory of 20 (. free, - reserved and empty):
#
#     aaaaa---bb------....        a and b hold 7 symbols; c needs 8 slots, and finds only 4
#
#   reserved               the slots that a will still fill: empty today, and closed to others
#   internal fragmentation the slots that a will never fill, because its text ends before
#   external fragmentation free slots in pieces that are too small: the last 4. Where regions of
#                          different sizes come and go, such holes appear everywhere
#
# With blocks, only a sequence's last block can have empty slots, BLOCK_SIZE - 1 at most. And as all
# blocks have the same size, any free block fits: there is no external fragmentation.

# === BLOCKS AND TABLES ===

# From here to the end of THE SCHEDULER stands all that a server with paged attention does. Sharing
# comes later, but its one idea is here: the pool counts in how many tables a block stands, and the
# block is free only when no table has it. If instead the first owner who leaves frees a block, it
# is given away while others still read it. No error is raised, but of the requests that share a
# beginning only 27% [results: free_ignores_counts.identical] then write the right text.
#
# How large should a block be? About half of a text's last block is empty on average, so small
# blocks waste less. They also share more of a common beginning, since only full blocks are found.
# Large blocks make short tables, and a kernel reads longer runs of neighbouring rows.

Lists = Sequence[Sequence]  # a list for each sequence, or a matrix


class Arena:
    """The memory: in every layer one key and one value for each slot."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.keys: list[list] = [[None] * num_slots for _ in range(NUM_LAYERS)]
        self.values: list[list] = [[None] * num_slots for _ in range(NUM_LAYERS)]


class BlockPool:
    """Which blocks are free, and in how many tables each of the others stands."""

    def __init__(self, num_slots: int, block_size: int) -> None:
        self.arena, self.block_size = Arena(num_slots), block_size
        self.counts = [0] * (num_slots // block_size)
        self.free = dict.fromkeys(range(len(self.counts)))  # a queue: dicts keep their order
        self.names: dict[int, str] = {}  # block -> name of its content, and
        self.blocks: dict[str, int] = {}  # name -> block: see PREFIX SHARING

    def allocate(self) -> int:
        """Take the block that has been free for the longest time."""
        if not self.free:
            raise MemoryError("no block is free")
        block = next(iter(self.free))
        self.share(block)
        self.blocks.pop(self.names.pop(block, ""), None)  # its old content is lost
        return block

    def share(self, block: int) -> None:
        """One more table has this block."""
        self.free.pop(block, None)
        self.counts[block] += 1

    def release(self, block: int) -> None:
        """One table less has this block."""
        if self.counts[block] == 0:
            raise ValueError(f"block {block} is free already")
        self.counts[block] -= 1
        if self.counts[block] == 0:
            self.free[block] = None  # at the end of the queue


class BlockTable:
    """The blocks of one sequence. Symbol i is in slot blocks[i // B] * B + i % B.

    With B = 4 and blocks = [7, 2, 5], symbol 9 is in block 5, the third, at place 1: slot 21.
    """

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.blocks: list[int] = []
        self.length = 0  # symbols

    def slots(self) -> list[int]:
        """All slots of its blocks, in the order of the symbols."""
        size = self.pool.block_size
        return [slot for b in self.blocks for slot in range(b * size, (b + 1) * size)]

    def append(self) -> None:
        """Make room for one more symbol."""
        if self.length % self.pool.block_size == 0:  # no block yet, or the last one is full
            self.blocks.append(self.pool.allocate())
        elif self.pool.counts[self.blocks[-1]] > 1:  # others have it too
            copy_on_write(self)
        self.length += 1

    def release(self) -> None:
        """Give all blocks back, the last one first, so that beginnings stay longest in memory."""
        for block in reversed(self.blocks):
            self.pool.release(block)


# Attention looks slots up in the table and otherwise computes what it always computes, in the same
# order: the logits are equal to the last bit. (On a GPU the last digits can differ, as the order of
# a kernel's sums may depend on how many requests are in the pass.) Paging does not make attention
# faster: it adds a look-up for each block. Here the rows found are collected in a list first. On a
# GPU this would be a copy, so the kernel follows the table inside its loop over keys. vLLM's own
# kernels, FlashInfer, and FlashAttention do so (flash_attn_with_kvcache(..., block_table=)).
#
# Where the likeness to an operating system ends: no page fault brings a missing block from a disk.
# All blocks of a running sequence are in memory, and the scheduler has made sure of it beforehand.


def paged_attention(q: Lists, slots: Sequence[int], layer: int, arena: Arena) -> Tensor:
    """Queries of a sequence's last len(q) symbols, over all its symbols -> [len(q)][WIDTH]."""
    keys = Tensor([arena.keys[layer][slot] for slot in slots])
    values = Tensor([arena.values[layer][slot] for slot in slots])
    spans = [(0, i + 1) for i in range(len(slots) - len(q), len(slots))]
    return scaled_dot_product_attention(Tensor(q), keys, values, NUM_HEADS, spans)


def read(model: Transformer, arena: Arena, pieces: Lists, slot_lists: Lists) -> Lists:
    """One pass: read the next piece of each sequence -> the logits after each piece.

    slot_lists has the slots of each sequence's symbols; those of the piece are the last ones.
    """
    ids = [symbol for piece in pieces for symbol in piece]
    stops = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces))]
    positions, new_slots = [], []
    for piece, slots in zip(pieces, slot_lists):
        positions += range(len(slots) - len(piece), len(slots))
        new_slots += slots[len(slots) - len(piece) :]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # All are stored before anyone looks: a sequence may share a block of this very pass.
        for slot, key, value in zip(new_slots, k.data, v.data):
            arena.keys[layer][slot], arena.values[layer][slot] = key, value
        found = []
        for piece, stop, slots in zip(pieces, stops, slot_lists):
            found += paged_attention(q.data[stop - len(piece) : stop], slots, layer, arena).data
        return Tensor(found, requires_grad=False)

    x = model.blocks(ids, positions, attend)
    return model.logits(Tensor([x.data[stop - 1] for stop in stops])).data


class PagedMemory:
    """An arena in blocks, and the table of each request."""

    def __init__(self, num_slots: int, block_size: int, share_prefixes: bool = False) -> None:
        self.pool = BlockPool(num_slots, block_size)
        self.arena = self.pool.arena
        self.share_prefixes = share_prefixes
        self.tables: dict[Request, BlockTable] = {}

    def make_room(self, request: Request, keep_spare: bool = False) -> bool:
        """Get room for all its symbols; if there is too little, do nothing and return False.

        A request without a table may find the beginning of its symbols in memory.
        """
        symbols, size = request.symbols, self.pool.block_size
        table = self.tables.get(request) or BlockTable(self.pool)
        is_new = request not in self.tables
        found = find_prefix(self.pool, symbols) if self.share_prefixes and is_new else []
        num_new = ceil(len(symbols) / size) - len(table.blocks) - len(found)
        # Blocks that are found may be free. Then they leave the queue as well.
        num_leaving = len([block for block in found if self.pool.counts[block] == 0])
        num_spare = int(SPARE * len(self.pool.counts)) if keep_spare else 0
        if num_new + num_leaving + num_spare > len(self.pool.free):
            return False
        if found:
            begin_with(table, found, len(found) * size)
            request.num_read = table.length
        while table.length < len(symbols):
            table.append()
        if self.share_prefixes:
            publish(table, symbols)
        self.tables[request] = table
        return True

    def held(self, request: Request) -> Sequence[int]:
        """All slots of its blocks; the first of them are those of its symbols."""
        return self.tables[request].slots()

    def release(self, request: Request) -> None:
        """The request has left."""
        self.tables.pop(request).release()


# === THE SCHEDULER ===

# The unit of time is a step: one pass of the network, in which every running request writes one
# symbol, and new requests have their whole prompt read. Requests come and go at every step
# (continuous batching, Orca). Static batching, where a batch starts and ends together, waits for
# its longest text. Every step reads all weights once, whether for four requests or for twenty. So
# fewer steps take less time, as long as the GPU waits for its memory (microkv), and we count steps.
# To count them all alike is an idealisation: a step with long prompts takes longer, and keys and
# values, equally many in all memories, must be read too. So all numbers read fall less than steps.
#
# What if a running request needs a block and none is free? Nothing was reserved, so this will
# happen. The request that came last is preempted: its blocks are released, and it goes back to the
# front of the queue. It does not lose what it wrote. When it is admitted again, its prompt and all
# that it has written are read in one pass (recomputation), and it goes on with the next symbol.
# (If it lost its text but had used up its random numbers, only 39%
# [results: drop_generated.identical] of the texts would be right in the worst run.)
# The alternative, swapping, copies the blocks to the CPU's memory and back. Kwon et al. found both
# about equally fast with blocks of 16 to 64 slots; today's vLLM reads again. Why the last one? Then
# the first of all is never preempted, and always finishes. So no request waits for ever.
#
# SPARE: if a new request got the very last block, it would soon be preempted. So admission, but not
# growth, leaves some blocks free (the watermark: 1% in vLLM's first scheduler), unless nobody runs.
# In vLLM many preemptions mean: lower max_num_seqs, or raise gpu_memory_utilization.


def preempt(victim: Request, waiting: deque[Request], memory: PagedMemory) -> None:
    """Take a running request's memory. What it has written stays: it will be read again."""
    memory.release(victim)
    victim.num_read = 0
    waiting.appendleft(victim)


def serve(model: Transformer, orders: Sequence[Order], memory: Memory) -> Log:
    """Answer all orders, first come, first served."""
    waiting = deque([Request(order) for order in orders])
    running: list[Request] = []  # in the order of arrival
    service = Log(list(waiting), memory.arena.num_slots)
    while waiting or running:
        num_preempted = len(service.preempted)
        for request in list(running):
            # A victim has left `running`, perhaps the request itself: then it needs no room.
            while request in running and not memory.make_room(request):
                service.preempted.append(running.pop())
                preempt(service.preempted[-1], waiting, memory)
        # Whoever has just been preempted must not come back in the same step.
        may_admit = len(service.preempted) == num_preempted
        while may_admit and waiting and memory.make_room(waiting[0], keep_spare=bool(running)):
            running.append(waiting.popleft())
        if not running:
            raise MemoryError("the memory is too small for a single request")

        service.record_step(running, memory)
        slot_lists = [memory.held(request)[: len(request.symbols)] for request in running]
        pieces = [request.symbols[request.num_read :] for request in running]
        for request, logits in zip(running, read(model, memory.arena, pieces, slot_lists)):
            request.draw(logits)
        for request in [request for request in running if request.is_finished()]:
            memory.release(request)
            running.remove(request)
    return service


# === THE BASELINES AND TWO LIMITS ===

# A fair baseline differs in its memory alone: the same queue, the same scheduler, the same pass,
# and here even the same attention. A request waits until its region is free, and is never refused.
#
#   reserve the most    MAX_LENGTH slots each: what servers did before vLLM. Kwon et al. found 20%
#                       of the slots live (oracle: 38%, vLLM: 96%)
#   oracle              exactly the slots that the request will fill, which nobody can know: no
#                       internal fragmentation is left, but slots reserved for later, and holes
#   limit for regions   the oracle without holes, all slots reserved until the end
#   limit               a memory that is always full of symbols that are needed. Nothing can do with
#                       fewer steps, if requests share nothing and write one symbol per step
#
# The limits are sums. A prompt of 10 symbols that is continued by 3 needs 10, 11 and 12 slots in
# its three steps, 33 in all (its last symbol is never read). An exact region takes 3 * 12 = 36.
# Such numbers are added up over all requests and divided by the number of slots. (And no limit is
# below the steps of the longest text.) A real queue ends: then nobody is left to fill the memory.


class ContiguousMemory:
    """An arena in regions: each request gets one piece, the first hole that is large enough."""

    def __init__(self, num_slots: int, size_of: Callable[[Order], int]) -> None:
        self.arena, self.size_of = Arena(num_slots), size_of
        self.regions: dict[Request, range] = {}

    def make_room(self, request: Request, keep_spare: bool = False) -> bool:
        """Reserve a region once. It never grows, so nothing needs to stay free."""
        if request in self.regions:
            return True
        size = self.size_of(request.order)
        taken = {slot for region in self.regions.values() for slot in region}
        for start in range(self.arena.num_slots - size + 1):
            if taken.isdisjoint(range(start, start + size)):
                self.regions[request] = range(start, start + size)
                return True
        return False

    def held(self, request: Request) -> Sequence[int]:
        """Its whole region."""
        return self.regions[request]

    def release(self, request: Request) -> None:
        """The request has left."""
        del self.regions[request]


# === PREFIX SHARING ===

# Many prompts begin alike: with the same instructions, or with the conversation so far. In a causal
# model the keys and values of a beginning do not depend on what follows (microkv). So they can be
# stored once. A block is found by its content. Its name is a hash of its symbols and of the name of
# the block before it, so equal names mean equal texts from the first symbol on:
#
#     name_i = hash(name_(i-1), symbols of block i)
#
# Without the chain, "anna" at the start of a text and "anna" in its middle would be one block, and
# that is wrong: keys depend on the position, and in layer 2 on everything before. Nobody should be
# able to find a collision of the hash (SHA-256): one user could get another's text as context.
#
# Three rules, all of them vLLM's. Only full blocks have names, because they will not change. At
# least the last symbol is always read again: the next symbol's logits come from its pass. And a
# free block keeps its name and content until it is allocated again, so a beginning can be found
# even after everyone who used it has gone. (So a preempted request may find its own blocks again.)
# vLLM does this by default (automatic prefix caching). SGLang keeps the texts in a tree instead of
# hashes (RadixAttention). To profit, put what varies (a date, a user's name) late in a prompt.


def block_names(symbols: Sequence[int], block_size: int) -> list[str]:
    """The names of all full blocks of a text."""
    names, name = [], ""
    for start in range(0, len(symbols) - block_size + 1, block_size):
        content = f"{name} {symbols[start : start + block_size]}"
        name = hashlib.sha256(content.encode()).hexdigest()
        names.append(name)
    return names


def find_prefix(pool: BlockPool, symbols: Sequence[int]) -> list[int]:
    """The blocks in memory with the beginning of a text, but never all of its symbols."""
    found = []
    for name in block_names(symbols[:-1], pool.block_size):
        if name not in pool.blocks:
            break
        found.append(pool.blocks[name])
    return found


def begin_with(table: BlockTable, blocks: Sequence[int], length: int) -> None:
    """Give an empty table blocks that have, or get in this pass, its first symbols: no copy."""
    for block in blocks:
        table.pool.share(block)
    table.blocks, table.length = list(blocks), length


def publish(table: BlockTable, symbols: Sequence[int]) -> None:
    """Give the full blocks their names; if a name is taken, the block stays unnamed."""
    for block, name in zip(table.blocks, block_names(symbols, table.pool.block_size)):
        if name not in table.pool.blocks and block not in table.pool.names:
            table.pool.blocks[name], table.pool.names[block] = block, name


# === COPY-ON-WRITE ===

# Several samples that continue one prompt (n=4 in an API) share its blocks too, and here even the
# last block, which may not be full. All samples want to write their first symbol into it. Whoever
# shares the block copies it first, and writes into the copy. The last one finds that nobody else
# has the block any more, and writes into the original: n samples, n - 1 copies. If the prompt fills
# its last block, the next symbol goes to a new block anyway, and nothing is copied. (vLLM's first
# version did this. Today its samples share full blocks only, as all do in serve: no copies.)
#
# Without the copy all samples write into the same slots, and logits are off by up to 2.7
# [results: no_copy.logit_error]. Yet 75% [results: no_copy.identical] of the texts come out right:
# one as it overwrites the others, the rest by luck. So compare logits, and not only text.


def copy_on_write(table: BlockTable) -> None:
    """Replace the last block, which others have too, by a copy."""
    old, new = table.blocks[-1], table.pool.allocate()
    size, arena = table.pool.block_size, table.pool.arena
    for rows in (*arena.keys, *arena.values):
        rows[new * size : (new + 1) * size] = rows[old * size : (old + 1) * size]
    table.blocks[-1] = new
    table.pool.release(old)


# === THE RUNS ===

# The same queue is served from different memories, then from memories of other sizes, and with
# blocks of other sizes. Each run starts anew and computes all of its texts with the model.


def main() -> dict[str, object]:
    """Train, serve the same queue from different memories, and share what can be shared."""
    rng = random.Random(SEED)
    names = load_names()
    rng.shuffle(names)
    model = Transformer(rng)
    train(model, names[:-1000], rng)

    orders = new_orders(names[-1000:], [], MAX_LENGTH, rng)
    alone = [write_alone(model, order) for order in orders]
    by_size = {n: serve_each(model, orders, kinds) for n, kinds in memories(alone).items()}
    blocks = {size: PagedMemory(NUM_SLOTS, size) for size in BLOCK_SIZES}
    by_block = serve_each(model, orders, blocks)
    report_memories(model, by_size, by_block, alone)

    prefix = next(windows(names[-1000:], rng))[:SHARED_PREFIX]
    long_orders = new_orders(names[-1000:], prefix, MAX_LENGTH + SHARED_PREFIX, rng)
    long_alone = [write_alone(model, order) for order in long_orders]
    both = {share: PagedMemory(PREFIX_SLOTS, BLOCK_SIZE, share) for share in (False, True)}
    shared = serve_each(model, long_orders, both)
    report_prefix(shared, long_alone)
    copies, checks = report_samples(model, prefix)

    for services in (*by_size.values(), by_block):
        checks += [compare(service.requests, alone) for service in services.values()]
    checks += [compare(service.requests, long_alone) for service in shared.values()]
    most, oracle, paged = by_size[NUM_SLOTS].values()
    headline = {
        "identical": min([same for same, _ in checks]),
        "logit_error": max([error for _, error in checks]),
        "speedup": most.steps / paged.steps,
        "oracle_speedup": oracle.steps / paged.steps,
        "prefix_speedup": shared[False].steps / shared[True].steps,
        "copies": copies[0],
    }
    report_conclusion(headline, len(checks), by_size[NUM_SLOTS], by_block, alone)
    return {**headline, "details": {"copies": copies, "preempted": len(paged.preempted)}}


# === APPENDIX: EXPERIMENTS AND REPORT ===

Memory = PagedMemory | ContiguousMemory
MARKS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def memories(alone: Sequence[Request]) -> dict[int, dict[str, Memory]]:
    """For each size the three kinds of memory, empty."""

    def exactly(order: Order) -> int:
        return len(alone[order.number].symbols) - 1  # the last symbol is never read

    return {
        num_slots: {
            "reserve the most": ContiguousMemory(num_slots, lambda order: order.max_length),
            "oracle": ContiguousMemory(num_slots, exactly),
            "paged": PagedMemory(num_slots, BLOCK_SIZE),
        }
        for num_slots in sorted({NUM_SLOTS, *SLOT_COUNTS})
    }


def serve_each(model: Transformer, orders: Sequence[Order], memories: dict) -> dict:
    """Serve the same orders from each of these memories."""
    return {kind: serve(model, orders, memory) for kind, memory in memories.items()}


def fewest_steps(
    alone: Sequence[Request], num_slots: int, reserved: bool = False, shared: int = 0
) -> int:
    """The limit for any memory; or for exact regions; or if the first symbols are stored once."""
    total = 0
    for request in alone:
        prompt, final = len(request.order.prompt) - shared, len(request.symbols) - 1 - shared
        total += (final - prompt + 1) * final if reserved else sum(range(prompt, final + 1))
    longest = max([len(request.logits) for request in alone])
    return max(longest, ceil(total / (num_slots - shared)))


def new_orders(
    names: Sequence[str], prefix: Sequence[int], max_length: int, rng: random.Random
) -> list[Order]:
    """NUM_REQUESTS orders: the prefix, then the beginning of a stream of held-out names."""
    orders, stream = [], windows(names, rng)
    for number in range(NUM_REQUESTS):
        prompt = [*prefix, *next(stream)[: rng.randint(*PROMPT_LENGTHS)]]
        num_names = 1 + round(rng.expovariate(1.0 / MEAN_EXTRA_NAMES))
        orders.append(Order(number, prompt, num_names, max_length))
    return orders


def write_alone(model: Transformer, order: Order) -> Request:
    """The finished request, from a cache that nobody else uses: what every server must write."""
    request = Request(order)
    keys: list[list[list[float]]] = [[] for _ in range(NUM_LAYERS)]
    values: list[list[list[float]]] = [[] for _ in range(NUM_LAYERS)]

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[layer] += k.data
        values[layer] += v.data
        spans = [(0, i + 1) for i in range(request.num_read, len(request.symbols))]
        return scaled_dot_product_attention(
            q, Tensor(keys[layer]), Tensor(values[layer]), NUM_HEADS, spans
        )

    while not request.is_finished():
        positions = range(request.num_read, len(request.symbols))
        x = model.blocks(request.symbols[request.num_read :], positions, attend)
        request.draw(model.logits(Tensor(x.data[-1:])).data[0])
    return request


def write_samples(model: Transformer, orders: Sequence[Order]) -> tuple[list[Request], list]:
    """Orders with one prompt: read it once, and write all -> the requests, and the tables (lists
    of blocks) before and after the first symbol was given its slot.
    """
    memory = PagedMemory(NUM_SLOTS, BLOCK_SIZE)
    requests = [Request(order) for order in orders]
    memory.make_room(requests[0])
    tables = [memory.tables[requests[0]]]
    prompt = requests[0].symbols
    logits = read(model, memory.arena, [prompt], [tables[0].slots()[: len(prompt)]])[0]
    for _ in requests[1:]:
        tables.append(BlockTable(memory.pool))
        begin_with(tables[-1], tables[0].blocks, tables[0].length)
    for request in requests:
        request.draw(logits)  # from one row, but each with its own random numbers
    seen = [[list(table.blocks) for table in tables]]
    pairs = list(zip(requests, tables))
    while pairs := [(request, table) for request, table in pairs if not request.is_finished()]:
        for _, table in pairs:
            table.append()
        seen.append([list(table.blocks) for table in tables])
        slot_lists = [table.slots()[: table.length] for _, table in pairs]
        pieces = [request.symbols[-1:] for request, _ in pairs]
        for (request, table), row in zip(pairs, read(model, memory.arena, pieces, slot_lists)):
            request.draw(row)
            if request.is_finished():
                table.release()
    return requests, seen[:2]


class Log:
    """What happened while a queue was served."""

    def __init__(self, requests: list[Request], num_slots: int) -> None:
        self.requests, self.num_slots = requests, num_slots
        self.steps = 0
        self.preempted: list[Request] = []  # one entry for each time
        self.running = 0  # requests, added up over the steps, and so are the next two
        self.live = 0  # slots
        self.held = 0  # slots
        self.symbols_read = 0
        self.largest_waste = 0  # slots that a sequence held beyond its symbols
        self.picture = ""  # one character for each slot
        self.start = self.end = time.perf_counter()

    def record_step(self, running: Sequence[Request], memory: Memory) -> None:
        """Count what is in memory. A slot that several requests share counts once."""
        held = [memory.held(request) for request in running]
        slot_lists = [slots[: len(r.symbols)] for r, slots in zip(running, held)]
        self.steps += 1
        self.running += len(running)
        self.live += len(set().union(*slot_lists))
        self.held += len(set().union(*held))
        self.symbols_read += sum([len(r.symbols) - r.num_read for r in running])
        waste = [len(all_slots) - len(slots) for all_slots, slots in zip(held, slot_lists)]
        self.largest_waste = max(self.largest_waste, *waste)
        if self.steps == PICTURE_STEP:
            marks = [MARKS[request.order.number % len(MARKS)] for request in running]
            self.picture = draw_memory(self.num_slots, marks, held, slot_lists)
        self.end = time.perf_counter()


def draw_memory(num_slots: int, marks: Sequence[str], held: Lists, slot_lists: Lists) -> str:
    """One character per slot: a request's mark, # if shared, - if held but empty, . if free.

    >>> draw_memory(8, "ab", [[0, 1, 2, 3], [0, 1, 6, 7]], [[0, 1, 2], [0, 1, 6]])
    '##a-..b-'
    """
    picture = ["."] * num_slots
    for mark, all_slots, slots in zip(marks, held, slot_lists):
        for slot in all_slots[len(slots) :]:
            picture[slot] = "-"
        for slot in slots:
            picture[slot] = mark if picture[slot] in ".-" else "#"
    return "".join(picture)


def print_memory(title: str, picture: str) -> None:
    """A title, and 64 slots in a line."""
    print(title)
    for start in range(0, len(picture), 64):
        print(f"  {picture[start : start + 64]}")


def compare(requests: Sequence[Request], alone: Sequence[Request]) -> tuple[float, float]:
    """The share of requests with the text that they write alone, and the largest difference
    between logits of the same step.
    """
    same, worst = 0, 0.0
    for request, single in zip(requests, alone):
        same += request.symbols == single.symbols
        for ours, theirs in zip(request.logits, single.logits):
            worst = max(worst, *[abs(a - b) for a, b in zip(ours, theirs)])
    return same / len(requests), worst


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The slope of log(cost) against log(size), by least squares: 2 means quadratic.

    >>> round(exponent([10, 20, 40], [5, 20, 80]), 6)
    2.0
    """
    x, y = [log(size) for size in sizes], [log(cost) for cost in costs]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    rise = sum([(a - mean_x) * (b - mean_y) for a, b in zip(x, y)])
    return rise / sum([(a - mean_x) ** 2 for a in x])


def as_text(symbols: Sequence[int]) -> str:
    """Symbols as letters."""
    return "".join([ALPHABET[symbol] for symbol in symbols])


def symbols_needed(alone: Sequence[Request]) -> int:
    """How many symbols are read if each is read once."""
    return sum([len(request.symbols) - 1 for request in alone])


def report_memories(
    model: Transformer,
    by_size: dict[int, dict[str, Log]],
    by_block: dict[int, Log],
    alone: Sequence[Request],
) -> None:
    """Everything about requests that share nothing."""
    here = by_size[NUM_SLOTS]
    report_orders(alone)
    print(
        f"\n{NUM_SLOTS} slots in step {PICTURE_STEP}; a mark: a symbol of this request, -: held but"
    )
    print("empty, .: free")
    for kind, service in here.items():
        print_memory(kind, service.picture)
    report_steps(here, alone)
    report_numbers_read(model, here, alone)
    report_victim(here["paged"], alone)
    report_sizes(by_size, alone)
    report_blocks(by_block, here["reserve the most"])


def report_orders(alone: Sequence[Request]) -> None:
    """The queue."""
    written = sorted([len(request.logits) for request in alone])
    mean = sum(written) / len(written)
    print(
        f"\n{len(alone)} requests. They will write {written[0]} to {written[-1]} symbols, ", end=""
    )
    print(f"{mean:.1f} on average:")
    for request in alone[:3]:
        prompt = request.order.prompt
        texts = as_text(prompt), as_text(request.symbols[len(prompt) :])
        print(f"  {texts[0]:<17}continues  {texts[1][:48]}")


def report_steps(services: dict[str, Log], alone: Sequence[Request]) -> None:
    """The main table."""
    print("\n                           requests   mean share of slots              symbols")
    print("memory              steps   at once   live  empty   free  preempted  read again")
    for kind, service in services.items():
        total = service.num_slots * service.steps
        live, held = service.live / total, service.held / total
        print(
            f"{kind:<19}{service.steps:6d}{service.running / service.steps:10.1f}{live:7.0%}"
            f"{held - live:7.0%}{1.0 - held:7.0%}{len(service.preempted):11d}"
            f"{service.symbols_read - symbols_needed(alone):12d}"
        )
    for kind, limit in (
        ("limit for regions", fewest_steps(alone, NUM_SLOTS, reserved=True)),
        ("limit", fewest_steps(alone, NUM_SLOTS)),
    ):
        at_once = sum([len(request.logits) for request in alone]) / limit
        print(f"{kind:<19}{limit:6d}{at_once:10.1f}" + ("   100%" if kind == "limit" else ""))


def report_numbers_read(
    model: Transformer, services: dict[str, Log], alone: Sequence[Request]
) -> None:
    """The memory traffic, counted as in microkv: a pass reads each number that it needs once."""
    num_weights = sum([len(p.data) * len(p.data[0]) for p in model.parameters()[1:]])
    written = sum([len(request.logits) for request in alone])
    print("\nNumbers read from memory per symbol written, if a step reads each once")
    print("memory            weights   keys, values     sum")
    sums = []
    for kind, service in services.items():
        weights = service.steps * num_weights / written
        cached = service.live * 2 * NUM_LAYERS * WIDTH / written
        sums.append(weights + cached)
        print(f"{kind:<18}{weights:7,.0f}{cached:15,.0f}{sums[-1]:8,.0f}")
    seconds = [f"{service.end - service.start:.1f}" for service in services.values()]
    first, *_, last = sums
    print(f"Keys and values are the same in all, so the sum falls {first / last:.1f} times.")
    print(f"time  {', '.join(seconds)} s: here a step takes longer, the more requests run")


def report_victim(paged: Log, alone: Sequence[Request]) -> None:
    """The text of the request that was preempted most often."""
    if not paged.preempted:
        return
    victim = max(paged.preempted, key=paged.preempted.count)
    number, prompt = victim.order.number, len(victim.order.prompt)
    times = paged.preempted.count(victim)
    print(f"\nRequest {MARKS[number % len(MARKS)]} was preempted {times} times, and wrote")
    for kind, request in (("paged", victim), ("alone", alone[number])):
        print(f"  {kind}  {as_text(request.symbols[:prompt])} {as_text(request.symbols[prompt:])}")


def report_sizes(by_size: dict[int, dict[str, Log]], alone: Sequence[Request]) -> None:
    """Steps against the size of the memory."""
    print("\nSteps against the size of the memory")
    print(" slots   reserve the most   oracle   paged   limit   most/paged   paged/limit")
    rows = []
    for num_slots, services in by_size.items():
        steps = [service.steps for service in services.values()]
        rows.append([*steps, fewest_steps(alone, num_slots)])
        print(
            f"{num_slots:6d}{steps[0]:19d}{steps[1]:9d}{steps[2]:8d}{rows[-1][3]:8d}"
            f"{steps[0] / steps[2]:13.2f}{steps[2] / rows[-1][3]:14.2f}"
        )
    if len(rows) > 1:
        slopes = [exponent(list(by_size), steps) for steps in zip(*rows)]
        print(f"slots^{slopes[0]:19.2f}{slopes[1]:9.2f}{slopes[2]:8.2f}{slopes[3]:8.2f}")


def report_blocks(by_block: dict[int, Log], most: Log) -> None:
    """Steps and waste against the size of a block."""
    print(f"\nThe size of a block, {NUM_SLOTS} slots")
    print("         empty slots per request   blocks per")
    print("block       mean   most   bound       request   steps   preempted")
    for size, service in by_block.items():
        empty = (service.held - service.live) / service.running
        blocks = service.held / size / service.running
        print(
            f"{size:5d}{empty:11.1f}{service.largest_waste:7d}{size - 1:8d}{blocks:14.1f}"
            f"{service.steps:8d}{len(service.preempted):12d}"
        )
    print(f"reserve the most{most.steps:37d}")


def report_prefix(shared: dict[bool, Log], alone: Sequence[Request]) -> None:
    """What sharing the beginning saves."""
    print(f"\nAll prompts begin with the same {SHARED_PREFIX} symbols; {PREFIX_SLOTS} slots")
    print("beginning                   steps   at once   symbols read   preempted")
    for share, service in shared.items():
        print(
            f"{'stored once' if share else 'stored by each request':<28}{service.steps:5d}"
            f"{service.running / service.steps:10.1f}{service.symbols_read:15,d}"
            f"{len(service.preempted):12d}"
        )
    print(f"{'limit if nothing is shared':<28}{fewest_steps(alone, PREFIX_SLOTS):5d}")
    limit = fewest_steps(alone, PREFIX_SLOTS, shared=SHARED_PREFIX)
    print(f"{'limit if only this is shared':<28}{limit:5d}")
    print_memory(f"stored once, step {PICTURE_STEP}; #: in several tables", shared[True].picture)


def report_samples(
    model: Transformer, prefix: Sequence[int]
) -> tuple[list[int], list[tuple[float, float]]]:
    """Samples of one prompt -> for each length of the prompt, how many blocks were copied; and how
    the texts compare with those that are written alone.
    """
    copies, checks = [], []
    for length in SAMPLE_PROMPTS:
        prompt, text = prefix[:length], as_text(prefix[:length])
        orders = [Order(number, prompt, 2, MAX_LENGTH) for number in range(NUM_SAMPLES)]
        samples, (before, after) = write_samples(model, orders)
        checks.append(compare(samples, [write_alone(model, order) for order in orders]))
        print(f"\n{NUM_SAMPLES} samples of {text}, {length} symbols, blocks of {BLOCK_SIZE}")
        print("  table before   first write               continues")
        copies.append(0)
        for request, old, new in zip(samples, before, after):
            copied = old != new[: len(old)]
            copies[-1] += copied
            what = "copies" if copied else "new block" if len(new) > len(old) else "in place"
            written = as_text(request.symbols[length:])[:36]
            print(f"  {str(old):<13}  {str(new):<14} {what:<10} {written}")
    return copies, checks


def report_conclusion(
    headline: dict[str, float],
    num_runs: int,
    here: dict[str, Log],
    by_block: dict[int, Log],
    alone: Sequence[Request],
) -> None:
    """What the numbers say, in words."""
    print()
    if headline["identical"] == 1.0:
        error = headline["logit_error"]
        exact = "bit for bit" if error == 0.0 else f"to {error:.0e}"
        print(f"In all {num_runs} runs every request wrote the text that it writes alone; the")
        print(f"logits agree {exact}.")
    else:
        print(
            f"In the worst of {num_runs} runs {headline['identical']:.1%} of the texts are right."
        )
    most, oracle = headline["speedup"], headline["oracle_speedup"]
    if min(most, oracle) > 1.0:
        print(
            f"In the same {NUM_SLOTS} slots, blocks need {most:.1f} times fewer steps than regions"
        )
        print(f"for the longest text, {oracle:.1f} times fewer than regions of the exact size.")
    else:
        print(f"Blocks of {BLOCK_SIZE} slots save nothing: regions for the longest text take")
        print(f"{most:.2f} times, regions of the exact size {oracle:.2f} times their steps.")
    steps, regions = here["paged"].steps, fewest_steps(alone, NUM_SLOTS, reserved=True)
    if steps < regions:
        print(f"Even exact regions without holes would need {regions} steps; blocks take {steps}.")
    above = steps / fewest_steps(alone, NUM_SLOTS)
    print(f"Blocks need {above:.2f} times the steps of a memory that is always full.")
    size, largest = max(by_block.items())
    if largest.steps == here["reserve the most"].steps:
        print(f"With blocks of {size} slots the server takes exactly the steps of reserving the")
        print("most: the gain comes from small blocks and from nothing else in it.")
    prefix = headline["prefix_speedup"]
    if prefix > 1.0:
        print(f"A common beginning that is stored once saves another factor of {prefix:.1f}.")
    print(f"{NUM_SAMPLES} samples of one prompt copied {headline['copies']} blocks.")


# === APPENDIX: MODEL AND TRAINING (as in microkv.py, which explains them) ===


def windows(names: Sequence[str], rng: random.Random) -> Iterator[list[int]]:
    """Endless windows of CONTEXT + 1 symbols; each starts at a boundary with fresh names."""
    while True:
        window = [0]
        while len(window) <= CONTEXT:
            window += encode(rng.choice(names))[1:]
        yield window[: CONTEXT + 1]


def rope(x: Tensor, positions: Sequence[int]) -> Tensor:
    """Rotate each head's column pairs (j, j + d/2) of x [N][E] by position * ROPE_BASE^(-2j/d).

    This is Llama's x * cos + rotate_half(x) * sin. The inverse of a rotation is the rotation by
    the opposite angle, and that is what the gradient needs.
    """
    half = len(x.data[0]) // NUM_HEADS // 2
    columns = range(len(x.data[0]))
    in_first_half = [j // half % 2 == 0 for j in columns]
    partner = [j + half if first else j - half for j, first in zip(columns, in_first_half)]
    speeds = [ROPE_BASE ** (-(j % half) / half) for j in columns]
    signs = [-1.0 if first else 1.0 for first in in_first_half]
    cosines = [[cos(p * w) for w in speeds] for p in positions]
    sines = [[sign * sin(p * w) for sign, w in zip(signs, speeds)] for p in positions]

    def rotate(rows: list[list[float]], direction: float) -> list[list[float]]:
        return [
            [a * c + direction * row[j] * s for a, j, c, s in zip(row, partner, c_row, s_row)]
            for row, c_row, s_row in zip(rows, cosines, sines)
        ]

    return Tensor(rotate(x.data, 1.0), (x,), lambda d_out: (rotate(d_out, -1.0),))


class Transformer:
    """NUM_LAYERS blocks of attention and MLP. Training and every kind of generation share them."""

    def __init__(self, rng: random.Random) -> None:
        def matrix(rows: int, columns: int) -> Tensor:
            return Tensor([[rng.gauss(0.0, 0.08) for _ in range(columns)] for _ in range(rows)])

        self.token_embedding = matrix(len(ALPHABET), WIDTH)
        self.layers: list[dict[str, Tensor]] = []
        for _ in range(NUM_LAYERS):
            square = ("query", "key", "value", "attention_out")
            layer = {name: matrix(WIDTH, WIDTH) for name in square}
            layer["mlp_in"], layer["mlp_out"] = matrix(4 * WIDTH, WIDTH), matrix(WIDTH, 4 * WIDTH)
            self.layers.append(layer)
        self.head = matrix(len(ALPHABET), WIDTH)

    def parameters(self) -> list[Tensor]:
        """Every matrix that training may change."""
        in_layers = [weight for layer in self.layers for weight in layer.values()]
        return [self.token_embedding, *in_layers, self.head]

    def blocks(self, ids: Sequence[int], positions: Sequence[int], attend: Callable) -> Tensor:
        """N symbols and their positions -> x [N][E].

        attend(layer, q, k, v) is the only step in which rows meet. Everything else works on each
        row alone, so a row never needs its neighbours, only the keys and values they left behind.
        """
        x = embedding(self.token_embedding, ids)
        for index, layer in enumerate(self.layers):
            normed = rms_norm(x)
            q, k, v = [linear(normed, layer[name]) for name in ("query", "key", "value")]
            found = attend(index, rope(q, positions), rope(k, positions), v)
            x = x + linear(found, layer["attention_out"])
            hidden = relu(linear(rms_norm(x), layer["mlp_in"]))
            x = x + linear(hidden, layer["mlp_out"])
        return x

    def logits(self, x: Tensor) -> Tensor:
        """x [N][E] -> a score for each next symbol [N][27]."""
        return linear(rms_norm(x), self.head)


def predict(model: Transformer, window: Sequence[int]) -> tuple[Tensor, Sequence[int]]:
    """A window of N + 1 symbols -> logits [N][27], and the N symbols that follow."""
    ids, positions, spans, targets = pack([window])

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return scaled_dot_product_attention(q, k, v, NUM_HEADS, spans)

    return model.logits(model.blocks(ids, positions, attend)), targets


def train(model: Transformer, names: Sequence[str], rng: random.Random) -> None:
    """Fit the model to the stream. Afterwards its matrices keep no graph: it only generates."""
    optimizer = Adam(model.parameters(), betas=(0.9, 0.95))
    recent_losses: list[float] = []
    for step, window in zip(range(1, NUM_STEPS + 1), windows(names, rng)):
        loss = cross_entropy(*predict(model, window))
        loss.backward()
        warm_up = min(1.0, step / WARM_UP_STEPS)
        optimizer.step(LEARNING_RATE * warm_up * (1.0 - (step - 1) / NUM_STEPS))
        recent_losses.append(loss.item())
        if step % 10 == 0:
            mean = sum(recent_losses) / len(recent_losses)
            print(f"step {step:4d}/{NUM_STEPS} | loss {mean:.4f}", flush=True)
            recent_losses.clear()
    for parameter in model.parameters():
        parameter.requires_grad = False


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
