"""micropaged: what its run must reach, which changes must break it, and its properties."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # Exact: in the worst run too, every text is the one that the request writes alone.
    "identical == 1.0",
    "logit_error <= 1e-12",
    "speedup >= 1.6",
    "oracle_speedup >= 1.2",
    "prefix_speedup >= 1.4",
    "copies == 3",
)

script = load_script("micropaged")


class PoolWithoutCounts(script.BlockPool):
    """A released block is free, whoever else has it."""

    def release(self, block):
        self.counts[block] = 0
        self.free[block] = None


def forget_what_was_written(victim, waiting, memory):
    """Preemption that starts the text again: its random numbers are gone."""
    del victim.symbols[len(victim.order.prompt) :]
    script.preempt(victim, waiting, memory)


VARIANTS = {
    "free_ignores_counts": {"BlockPool": PoolWithoutCounts},
    "drop_generated": {"preempt": forget_what_was_written},
    "no_copy": {"copy_on_write": lambda table: None},
    "one_block": {"BLOCK_SIZE": 64},
}

TWINS = {
    "free_ignores_counts": BARS[0],
    "drop_generated": BARS[1],
    "one_block": BARS[2],
    "no_copy": BARS[5],
}


def leave_random(model, names, rng):
    """Instead of training: weights that are large enough for every part to matter."""
    for parameter in model.parameters():
        parameter.data = [[4.0 * x for x in row] for row in parameter.data]
        parameter.requires_grad = False


# An untrained model rarely writes the boundary: one name is a long text.
SMALL = {
    "train": leave_random,
    "NUM_REQUESTS": 20,
    "MEAN_EXTRA_NAMES": 0.01,
    "SLOT_COUNTS": (),
    "BLOCK_SIZES": (4,),
}


def test_regions_of_the_exact_size_are_beaten_by_blocks_only_if_these_are_small():
    twin("micropaged", BARS[3], {"BLOCK_SIZE": 64}, SMALL)


def test_a_beginning_that_is_not_found_saves_nothing():
    twin("micropaged", BARS[4], {"find_prefix": lambda pool, symbols: []}, SMALL)


# === POOL AND TABLES ===


def check_counts(pool, tables):
    """Each block is free, or counted once for every table that has it."""
    entries = Counter([block for table in tables for block in table.blocks])
    assert pool.counts == [entries[block] for block in range(len(pool.counts))]
    assert set(pool.free) == {block for block, count in enumerate(pool.counts) if count == 0}
    assert {block: name for name, block in pool.blocks.items()} == pool.names


def content(table):
    return [table.pool.arena.keys[0][slot] for slot in table.slots()[: table.length]]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(0, 10**6))
def test_random_operations_keep_counts_and_contents(block_size, seed):
    """New tables, forks, writes and releases; a table must hold what was written to it."""
    rng = random.Random(seed)
    pool = script.BlockPool(60, block_size)
    written: dict = {}  # table -> its symbols
    for stamp in range(250):
        action = rng.choice(("new", "fork", "release", *["append"] * 7))
        tables = list(written)
        if action == "new":
            written[script.BlockTable(pool)] = []
        elif not tables:
            continue
        elif action == "fork":
            table = rng.choice(tables)
            copy = script.BlockTable(pool)
            script.begin_with(copy, table.blocks, table.length)
            written[copy] = list(written[table])
        elif action == "release":
            table = rng.choice(tables)
            del written[table]
            table.release()
        elif pool.free:
            table = rng.choice(tables)
            table.append()
            pool.arena.keys[0][table.slots()[table.length - 1]] = stamp
            written[table].append(stamp)
            assert pool.counts[table.blocks[-1]] == 1, "a block that was written is shared"
        check_counts(pool, written)
        for table, symbols in written.items():
            assert content(table) == symbols
            assert 0 <= len(table.slots()) - table.length < block_size
    for table in written:
        table.release()
    assert len(pool.free) == len(pool.counts)


def test_releasing_twice_raises():
    pool = script.BlockPool(8, 4)
    table = script.BlockTable(pool)
    table.append()
    table.release()
    with pytest.raises(ValueError, match="block 0 is free already"):
        table.release()
    assert list(pool.free) == [1, 0]


def test_an_empty_pool_raises_and_make_room_leaves_everything_as_it_was():
    memory = script.PagedMemory(8, 4, share_prefixes=True)
    first, second = [new_request(i, [0, 1, 2, 3, 4]) for i in range(2)]
    assert memory.make_room(first)
    before = list(memory.pool.counts), dict(memory.pool.blocks)
    first.symbols += [5, 6, 7, 8]
    assert not memory.make_room(first)
    assert not memory.make_room(second)  # finds one block, needs another one
    assert (memory.pool.counts, memory.pool.blocks) == before
    with pytest.raises(MemoryError):
        memory.pool.allocate()


def test_the_worked_example_of_a_table():
    table = script.BlockTable(script.BlockPool(40, 4))
    table.blocks = [7, 2, 5]
    assert table.slots()[9] == 21


# === SERVING ===


def new_request(number, prompt, num_names=1, max_length=30):
    return script.Request(script.Order(number, prompt, num_names, max_length))


def new_model(seed=0):
    model = script.Transformer(random.Random(seed))
    leave_random(model, [], random.Random(0))
    return model


MODEL = new_model()


class Watch(script.Log):
    """Also remembers who ran in each step."""

    def __init__(self, requests, num_slots):
        super().__init__(requests, num_slots)
        self.ran = []

    def record_step(self, running, memory):
        super().record_step(running, memory)
        self.ran.append([request.order.number for request in running])
        if isinstance(memory, script.PagedMemory):
            check_counts(memory.pool, memory.tables.values())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from((1, 2, 3, 4, 8)), st.booleans())
def test_every_queue_is_served_in_full_and_writes_what_each_request_writes_alone(seed, size, share):
    rng = random.Random(seed)
    common = [rng.randrange(27) for _ in range(rng.randint(0, 6))]
    orders = []
    for number in range(8):
        prompt = [*common, *[rng.randrange(27) for _ in range(rng.randint(1, 5))]]
        orders.append(script.Order(number, prompt, 1, len(prompt) + rng.randint(1, 9)))
    alone = [script.write_alone(MODEL, order) for order in orders]
    memory = script.PagedMemory(rng.choice((24, 32, 48)), size, share)
    original, script.Log = script.Log, Watch
    try:
        service = script.serve(MODEL, orders, memory)
    finally:
        script.Log = original
    assert script.compare(service.requests, alone) == (1.0, 0.0)
    assert all([request.is_finished() for request in service.requests])
    assert len(memory.pool.free) == len(memory.pool.counts)
    assert service.largest_waste < size
    # Nobody overtakes: requests start in order, and whoever is first in line is never preempted.
    starts = [min(step for step, ran in enumerate(service.ran) if n in ran) for n in range(8)]
    assert starts == sorted(starts)
    for step, ran in enumerate(service.ran):
        assert ran == sorted(ran)
        unfinished = {n for later in service.ran[step:] for n in later}
        assert ran[0] == min(unfinished)
    if not share:
        assert service.steps >= script.fewest_steps(alone, memory.arena.num_slots)


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6), st.integers(30, 70))
def test_regions_hold_back_exactly_what_they_say_and_do_not_overlap(seed, num_slots):
    rng = random.Random(seed)
    orders = [
        script.Order(n, [rng.randrange(27) for _ in range(rng.randint(1, 6))], 1, 16)
        for n in range(8)
    ]
    alone = [script.write_alone(MODEL, order) for order in orders]

    def exactly(order):
        return len(alone[order.number].symbols) - 1

    steps = []
    for size_of in (exactly, lambda order: 16):
        service = script.serve(MODEL, orders, script.ContiguousMemory(num_slots, size_of))
        assert script.compare(service.requests, alone) == (1.0, 0.0)
        assert service.preempted == []
        assert service.symbols_read == script.symbols_needed(alone)
        steps.append(service.steps)
    assert steps[0] >= script.fewest_steps(alone, num_slots, reserved=True)
    assert steps[0] >= script.fewest_steps(alone, num_slots)


def test_blocks_as_large_as_a_request_are_regions():
    orders = [script.Order(n, [n, 1, 2], 1, 16) for n in range(6)]
    blocks = script.serve(MODEL, orders, script.PagedMemory(48, 16))
    regions = script.serve(MODEL, orders, script.ContiguousMemory(48, lambda order: 16))
    assert (blocks.steps, blocks.live, blocks.held) == (regions.steps, regions.live, regions.held)


def test_the_last_one_may_have_to_preempt_itself():
    orders = [script.Order(n, [1, 2, 3], 99, 9) for n in range(2)]
    memory = script.PagedMemory(12, 4)
    service = script.serve(MODEL, orders, memory)
    assert {request.order.number for request in service.preempted} == {1}
    assert script.compare(
        service.requests, [script.write_alone(MODEL, order) for order in orders]
    ) == (1.0, 0.0)


def test_a_request_that_can_never_fit_raises():
    for memory in (script.PagedMemory(8, 4), script.ContiguousMemory(8, lambda order: 20)):
        with pytest.raises(MemoryError, match="too small for a single request"):
            script.serve(MODEL, [script.Order(0, [1] * 4, 99, 20)], memory)


def test_the_limit_of_the_worked_example():
    request = new_request(0, [1] * 10)
    for _ in range(3):
        request.draw([0.0] * 27)
    assert script.fewest_steps([request] * 10, 100) == 4  # 330 / 100
    assert script.fewest_steps([request] * 10, 100, reserved=True) == 4  # 360 / 100
    assert script.fewest_steps([request], 1000) == 3  # no faster than one symbol per step
    assert script.fewest_steps([request] * 10, 18, shared=8) == 9  # (2 + 3 + 4) * 10 / 10 = 9


# === SHARING ===


def test_names_depend_on_everything_before_and_only_full_blocks_have_one():
    names = script.block_names([1, 2, 3, 4, 1, 2, 3, 4, 9], 4)
    assert len(names) == 2 and names[0] != names[1]
    assert script.block_names([1, 2, 3, 4], 4) == names[:1]
    assert script.block_names([1, 2, 3], 4) == []
    assert script.block_names([12, 3], 2) != script.block_names([1, 23], 2)


def test_a_beginning_is_found_after_its_request_has_left_and_lost_when_its_block_is_needed():
    memory = script.PagedMemory(16, 4, share_prefixes=True)
    first = new_request(0, [1, 2, 3, 4, 5, 6, 7, 8])
    assert memory.make_room(first) and memory.tables[first].blocks == [0, 1]
    memory.release(first)
    assert list(memory.pool.free) == [2, 3, 1, 0]  # the tail of the text goes first
    assert script.find_prefix(memory.pool, first.symbols) == [0]  # one symbol at least is read
    assert script.find_prefix(memory.pool, [*first.symbols, 9]) == [0, 1]
    assert script.find_prefix(memory.pool, [9, *first.symbols]) == []
    other = new_request(1, [20] * 12)
    assert memory.make_room(other) and memory.tables[other].blocks == [2, 3, 1]
    assert script.find_prefix(memory.pool, [*first.symbols, 9]) == [0]


def test_a_preempted_request_finds_its_own_blocks_again():
    memory = script.PagedMemory(32, 4, share_prefixes=True)
    request = new_request(0, list(range(10)))
    assert memory.make_room(request)
    request.num_read = 10
    script.preempt(request, script.deque(), memory)
    assert request.num_read == 0 and memory.make_room(request)
    assert request.num_read == 8


@pytest.mark.parametrize(("length", "expected"), [(1, 3), (10, 3), (11, 3), (12, 0)])
def test_samples_copy_a_block_only_if_it_is_not_full(length, expected):
    orders = [script.Order(n, list(range(1, length + 1)), 2, 30) for n in range(4)]
    samples, (before, after) = script.write_samples(MODEL, orders)
    assert sum([a != b[: len(a)] for a, b in zip(before, after)]) == expected
    alone = [script.write_alone(MODEL, order) for order in orders]
    assert script.compare(samples, alone) == (1.0, 0.0)
    assert len({tuple(sample.symbols) for sample in samples}) > 1


def test_samples_that_write_into_one_block_are_noticed(monkeypatch):
    broken = load_script("micropaged")
    monkeypatch.setattr(broken, "copy_on_write", lambda table: None)
    orders = [broken.Order(n, list(range(1, 11)), 2, 30) for n in range(4)]
    samples, _ = broken.write_samples(MODEL, orders)
    alone = [broken.write_alone(MODEL, order) for order in orders]
    assert broken.compare(samples, alone)[1] > 1e-6


def test_training_lowers_the_loss(monkeypatch, capsys):
    small = load_script("micropaged")
    monkeypatch.setattr(small, "NUM_STEPS", 20)
    monkeypatch.setattr(small, "CONTEXT", 24)
    model = small.Transformer(random.Random(0))
    small.train(model, ["ava", "eva", "iva", "ada"], random.Random(0))
    lines = capsys.readouterr().out.splitlines()
    losses = [float(line.split()[-1]) for line in lines]
    assert lines[0].startswith("step   10/20 | loss ") and losses[1] < losses[0] - 0.5
    assert not any([parameter.requires_grad for parameter in model.parameters()])
