"""micropaged against PyTorch, and its prefix cache against vLLM's rules, written down directly."""

from __future__ import annotations

import random
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from support import load_script

script = load_script("micropaged")


def close(rows, expected: torch.Tensor, tolerance: float = 1e-12) -> None:
    ours = torch.tensor(rows, dtype=torch.float64)
    assert ours.shape == expected.shape
    difference = (ours - expected).abs().max().item()
    assert difference <= tolerance * max(1.0, expected.abs().max().item())


def heads(x: torch.Tensor) -> torch.Tensor:
    return x.view(len(x), script.NUM_HEADS, -1).transpose(0, 1)


@pytest.mark.parametrize(("length", "new"), [(1, 1), (9, 1), (9, 9), (13, 5), (32, 1)])
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_paged_attention_is_sdpa_over_the_gathered_keys_and_values(length, new, block_size):
    rng = random.Random(length * 100 + block_size)
    pool = script.BlockPool(96, block_size)
    for rows in (*pool.arena.keys, *pool.arena.values):
        rows[:] = [[rng.gauss(0.0, 1.0) for _ in range(script.WIDTH)] for _ in rows]
    table = script.BlockTable(pool)
    table.blocks = rng.sample(range(96 // block_size), -(-length // block_size))
    slots = table.slots()[:length]
    q = [[rng.gauss(0.0, 1.0) for _ in range(script.WIDTH)] for _ in range(new)]

    # vLLM's layout: [block][slot in the block][column], read through the table.
    places = torch.arange(length)
    blocks = torch.tensor(table.blocks)[places // block_size]
    memory = [
        torch.tensor(rows[1], dtype=torch.float64).view(-1, block_size, script.WIDTH)
        for rows in (pool.arena.keys, pool.arena.values)
    ]
    k, v = [part[blocks, places % block_size] for part in memory]
    mask = places[None, :] <= torch.arange(length - new, length)[:, None]
    expected = F.scaled_dot_product_attention(
        heads(torch.tensor(q, dtype=torch.float64)), heads(k), heads(v), attn_mask=mask
    )
    found = script.paged_attention(q, slots, 1, pool.arena).data
    close(found, expected.transpose(0, 1).reshape(new, -1))


def torch_logits(model, symbols) -> torch.Tensor:
    """The whole text through the same network, written with torch alone -> the last logits."""

    def weight(matrix):
        return torch.tensor(matrix.data, dtype=torch.float64)

    count, width = len(symbols), script.WIDTH
    half = width // script.NUM_HEADS // 2
    speeds = script.ROPE_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
    turns = torch.polar(
        torch.ones(count, half, dtype=torch.float64),
        torch.arange(count, dtype=torch.float64)[:, None] * speeds,
    )

    def rotated(x):
        first, second = heads(x).split(half, dim=-1)
        z = torch.complex(first.contiguous(), second.contiguous()) * turns
        return torch.cat([z.real, z.imag], dim=-1)

    def norm(x):
        return F.rms_norm(x, (width,), eps=1e-5)

    x = weight(model.token_embedding)[torch.tensor(symbols)]
    for layer in model.layers:
        h = norm(x)
        q, k, v = [F.linear(h, weight(layer[key])) for key in ("query", "key", "value")]
        found = F.scaled_dot_product_attention(rotated(q), rotated(k), heads(v), is_causal=True)
        found = found.transpose(0, 1).reshape(count, -1)
        x = x + F.linear(found, weight(layer["attention_out"]))
        hidden = F.relu(F.linear(norm(x), weight(layer["mlp_in"])))
        x = x + F.linear(hidden, weight(layer["mlp_out"]))
    return F.linear(norm(x[-1:]), weight(model.head))[0]


@pytest.mark.parametrize("share", [False, True])
def test_every_logit_of_a_served_queue_is_that_of_torch_without_any_cache(share):
    model = script.Transformer(random.Random(0))
    for parameter in model.parameters():
        parameter.data = [[4.0 * x for x in row] for row in parameter.data]
        parameter.requires_grad = False
    orders = [script.Order(n, [0, 1, 2, 3, 4 + n % 3, n], 99, 20) for n in range(6)]
    service = script.serve(model, orders, script.PagedMemory(64, 4, share))
    assert service.preempted
    for request in service.requests:
        first = len(request.order.prompt)
        for i, row in enumerate(request.logits):
            close(row, torch_logits(model, request.symbols[: first + i]), 1e-10)


class RulesOfVllm:
    """vLLM's block pool and prefix cache as its documentation describes them: a queue of free
    blocks, reference counts, hashes of full blocks that include their predecessor's, at least one
    token to compute, and blocks freed in reverse order. It hashes no text: a key is the tuple of
    all tokens up to the block's end, which is what the chain of hashes stands for.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.queue = OrderedDict.fromkeys(range(num_blocks))
        self.references = dict.fromkeys(range(num_blocks), 0)
        self.key_of: dict[int, tuple] = {}
        self.cached: dict[tuple, int] = {}

    def hits(self, tokens) -> list[int]:
        found = []
        for stop in range(self.block_size, len(tokens), self.block_size):
            if tuple(tokens[:stop]) not in self.cached:
                break
            found.append(self.cached[tuple(tokens[:stop])])
        return found

    def allocate(self, tokens, table: list[int]) -> bool:
        """Slots for all tokens; a new table begins with what is cached."""
        found = [] if table else self.hits(tokens)
        num_new = -(-len(tokens) // self.block_size) - len(table) - len(found)
        evictable = [block for block in found if self.references[block] == 0]
        if num_new + len(evictable) > len(self.queue):
            return False
        for block in found:
            self.queue.pop(block, None)
            self.references[block] += 1
            table.append(block)
        for _ in range(num_new):
            block, _ = self.queue.popitem(last=False)
            if block in self.key_of:
                del self.cached[self.key_of.pop(block)]
            self.references[block] = 1
            table.append(block)
        for i, block in enumerate(table[: len(tokens) // self.block_size]):
            key = tuple(tokens[: (i + 1) * self.block_size])
            if block not in self.key_of and key not in self.cached:
                self.key_of[block], self.cached[key] = key, block
        return True

    def free(self, table: list[int]) -> None:
        for block in reversed(table):
            self.references[block] -= 1
            if self.references[block] == 0:
                self.queue[block] = None


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("block_size", [1, 3, 4])
def test_prefix_cache_allocation_and_eviction_follow_vllms_rules(seed, block_size):
    rng = random.Random(seed)
    ours = script.PagedMemory(60, block_size, share_prefixes=True)
    theirs = RulesOfVllm(60 // block_size, block_size)
    tables: dict = {}
    num_hits = num_refused = 0
    for number in range(400):
        if not tables or rng.random() < 0.3:
            # Few different symbols, so that beginnings are often equal.
            prompt = [rng.randrange(2) for _ in range(rng.randint(1, 14))]
            request, table = script.Request(script.Order(number, prompt, 1, 99)), []
        else:
            request = rng.choice(list(tables))
            table = tables[request]
            if rng.random() < 0.35:
                theirs.free(tables.pop(request))
                ours.release(request)
                continue
            request.symbols.append(rng.randrange(2))
        is_new = request not in tables
        room = ours.make_room(request)
        assert room == theirs.allocate(request.symbols, table)
        if room:
            tables[request] = table
            assert ours.tables[request].blocks == table
            if is_new:
                assert request.num_read % block_size == 0 <= request.num_read
                assert request.num_read < len(request.symbols)
                num_hits += request.num_read > 0
        elif not is_new:
            request.symbols.pop()
        num_refused += not room
        assert list(ours.pool.free) == list(theirs.queue)
        assert ours.pool.counts == list(theirs.references.values())
        assert len(ours.pool.blocks) == len(theirs.cached)
    assert num_hits >= 5 and num_refused >= 5, "the test has not met what it is about"
