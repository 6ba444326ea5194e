"""microparallel: what its run must reach, what must break it, and the properties behind it.

A changed function is not known to the processes that a script starts, which import the script
anew. So every variant here runs its ranks by turns in one process; the numbers are the same.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT, check_gradients, load_script, script_path, twin

SEEDS = (42, 1, 2)

BARS = (
    # Rounding alone: the largest gap over the seeds is below 1e-15.
    "weight_gap <= 1e-11",
    "replicas_differ == 0",
    "bytes_off == 0",
    "bubble_off <= 1e-12",
    "held_ratio == 2",
    # What is compared is a network that has learned: guessing would give 0.1.
    "accuracy >= 0.7",
)


def no_processes(num_ranks):
    """A computer on which processes are not to be had."""
    raise OSError("switched off")


def ring_of(hops_left_out):
    """microparallel's ring_hops with so many hops left out."""
    original = load_script("microparallel")

    def ring_hops(wire, chunks, first, add_up):
        for hop in range(wire.num_ranks - 1 - hops_left_out):
            outgoing = (first - hop) % wire.num_ranks
            arrived = yield from wire.exchange(chunks[outgoing])
            incoming = (outgoing - 1) % wire.num_ranks
            chunks[incoming] = (
                original.add_matrices([chunks[incoming]], [arrived])[0] if add_up else arrived
            )

    return ring_hops


def backward_without_f(wire, layers, batch):
    """Tensor parallel as it would be if f did nothing: no sum in backward."""
    s = sys.modules[type(wire).__module__]
    images, labels = batch
    x = s.linear(s.Tensor(images, requires_grad=False), layers[0])
    graphs, rows = [], x.data
    for w1, w2 in zip(layers[1:-1:2], layers[2:-1:2]):
        leaf = s.Tensor(rows)
        partial = s.mlp(leaf, w1, w2)
        graphs.append((leaf, partial))
        total = yield from s.all_reduce(wire, s.flatten([partial.data]))
        rows = s.add_matrices(rows, s.rows_of(total, s.WIDTH))
    leaf = s.Tensor(rows)
    loss = s.cross_entropy(s.linear(leaf, layers[-1]), labels)
    loss.backward()
    d_x = leaf.grad
    for leaf, partial in reversed(graphs):
        partial.backward(d_x)
        d_x = s.add_matrices(d_x, leaf.grad)
    x.backward(d_x)
    return loss.item() / wire.num_ranks


def sum_instead_of_mean(wire, layers, batch):
    """Data parallel that adds up the ranks' mean gradients and does not weight them."""
    s = sys.modules[type(wire).__module__]
    images, labels = batch
    mine = s.share(len(labels), wire.rank, wire.num_ranks)
    return s.backward_of(layers, images[mine], labels[mine], 1.0)


def one_at_a_time(stage, num_stages, num_micro):
    """A schedule without a pipeline: each micro-batch goes forward and backward alone."""
    return [(action, m) for m in range(num_micro) for action in "FB"]


BY_TURNS = {"start_processes": no_processes}
VARIANTS = {
    "by_turns": BY_TURNS,
    "no_backward_sum": {**BY_TURNS, "tensor_parallel": backward_without_f},
    "tiny_rate": {**BY_TURNS, "LEARNING_RATE": 0.0005},
}

TWINS = {
    "no_backward_sum": "weight_gap <= 1e-11",
    "tiny_rate": "accuracy >= 0.7",
}

SMALL = {**BY_TURNS, "NUM_STEPS": 2, "NUM_TRAIN": 1750, "WIDTH": 8, "HIDDEN": 8, "BATCH_SIZE": 16}

script = load_script("microparallel")


# === BROKEN TWINS ===


def test_a_hop_left_out_is_noticed():
    twin("microparallel", "replicas_differ == 0", {"ring_hops": ring_of(1)}, SMALL)


@pytest.mark.parametrize(
    "broken",
    [
        {"share_of_gradient": sum_instead_of_mean},
        {"tensor_parallel": backward_without_f},
        {"ring_hops": ring_of(1)},
    ],
    ids=["sum_not_mean", "no_f", "no_last_hop"],
)
def test_wrong_gradients_are_noticed(broken):
    twin("microparallel", "weight_gap <= 1e-11", broken, SMALL)


def test_messages_that_are_not_needed_are_noticed():
    broken = {"all_reduce": script.all_reduce_naively}
    twin("microparallel", "bytes_off == 0", broken, SMALL)
    twin("microparallel", "bytes_off == 0", {"tensor_parallel": backward_without_f}, SMALL)


def test_a_schedule_without_overlap_is_noticed():
    twin("microparallel", "bubble_off <= 1e-12", {"schedule_1f1b": one_at_a_time}, SMALL)
    twin("microparallel", "held_ratio == 2", {"schedule_1f1b": script.schedule_gpipe}, SMALL)


# === THE RING ===


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(0, 13), st.integers(0, 999))
def test_all_reduce_is_the_sum_on_every_rank(n, length, seed):
    rng = random.Random(seed)
    vectors = [[rng.gauss(0, 1) for _ in range(length)] for _ in range(n)]

    def program(wire):
        total = yield from script.all_reduce(wire, vectors[wire.rank])
        return total, wire.bytes_sent

    results = script.run_in_turns(program, n)
    assert len({tuple(total) for total, _ in results}) == 1, "the ranks differ"
    expected = [math.fsum(column) for column in zip(*vectors)]
    assert results[0][0] == pytest.approx(expected, rel=1e-12, abs=1e-12)
    # All ranks together send 2 (N - 1) P numbers, also where the chunks are unequal.
    assert sum([sent for _, sent in results]) == 2 * (n - 1) * length * 8


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(0, 13), st.integers(0, 999))
def test_the_two_halves(n, length, seed):
    rng = random.Random(seed)
    vectors = [[rng.gauss(0, 1) for _ in range(length)] for _ in range(n)]

    def scatter(wire):
        return (yield from script.reduce_scatter(wire, vectors[wire.rank]))

    def gather(wire):
        mine = script.share(length, wire.rank, n)
        return (yield from script.all_gather(wire, vectors[0][mine]))

    expected = [math.fsum(column) for column in zip(*vectors)]
    for rank, chunk in enumerate(script.run_in_turns(scatter, n)):
        assert chunk == pytest.approx(expected[script.share(length, rank, n)], abs=1e-12)
    assert script.run_in_turns(gather, n) == [vectors[0]] * n


@given(st.integers(0, 40), st.integers(1, 9))
def test_shares_cover_everything_once_and_evenly(length, parts):
    pieces = [list(range(length))[script.share(length, part, parts)] for part in range(parts)]
    assert list(itertools.chain(*pieces)) == list(range(length))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_ranks_that_all_wait_are_noticed():
    def program(wire):
        return (yield from wire.receive("left"))

    with pytest.raises(RuntimeError, match=r"ranks \[0, 1, 2\] wait for messages"):
        script.run_in_turns(program, 3)


def test_a_time_stamp_moves_the_clock_forward_only():
    def program(wire):
        wire.clock = 5 if wire.rank == 0 else 1
        arrived = yield from wire.exchange([float(wire.rank)])
        return arrived, wire.clock, wire.bytes_sent

    assert script.run_in_turns(program, 2) == [([1.0], 5, 8), ([0.0], 5, 8)]


# === SCHEDULES ===


@given(st.integers(1, 7), st.integers(1, 12), st.sampled_from(["gpipe", "1f1b"]))
def test_schedules_are_complete_and_can_run(num_stages, num_micro, name):
    schedule = getattr(script, f"schedule_{name}")
    plans = [schedule(stage, num_stages, num_micro) for stage in range(num_stages)]
    for stage, plan in enumerate(plans):
        assert sorted(plan) == [(a, m) for a in "BF" for m in range(num_micro)]
        held = most = 0
        for action, m in plan:
            assert action == "B" or ("B", m) not in plan[: plan.index(("F", m))]
            held += 1 if action == "F" else -1
            most = max(most, held)
        limit = num_micro if name == "gpipe" else min(num_stages - stage, num_micro)
        assert most == limit
    # Played with times 1 and 2: nobody waits for ever, and the bubble is (K - 1) / (M + K - 1).
    done, clocks, places = {}, [0] * num_stages, [0] * num_stages
    while any([place < 2 * num_micro for place in places]):
        moved = False
        for stage, plan in enumerate(plans):
            if places[stage] == 2 * num_micro:
                continue
            action, m = plan[places[stage]]
            source = ("F", m, stage - 1) if action == "F" else ("B", m, stage + 1)
            if 0 <= source[2] < num_stages and source not in done:
                continue
            start = max(clocks[stage], done.get(source, 0))
            clocks[stage] = done[action, m, stage] = start + (1 if action == "F" else 2)
            places[stage] += 1
            moved = True
        assert moved, "a deadlock"
    assert max(clocks) == 3 * (num_micro + num_stages - 1)


# === THE WAYS ===


def small_problem(seed, rows, n_steps=3):
    rng = random.Random(seed)
    images = [[rng.random() for _ in range(64)] for _ in range(rows)]
    labels = [rng.randrange(10) for _ in range(rows)]
    return script.new_weights(rng), [(images, labels)] * n_steps


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("way", list(script.ways()))
def test_every_way_reaches_the_weights_of_one_process(way, n, capsys):
    """Also where nothing divides: 13 rows, 64 hidden units, 4 blocks and 8 micro-batches."""
    weights, batches = small_problem(n, 13)
    alone = script.train_alone(weights, batches)["weights"]
    program, more, join = script.ways()[way]
    results = script.run_in_turns(program, n, weights, batches, *more)
    joined = join([result["weights"] for result in results])
    assert script.largest_difference(joined, alone) < 1e-13
    assert script.largest_difference(joined, weights) > 1e-3


def test_a_tensor_parallel_gradient_is_that_of_the_whole_network():
    weights, [(images, labels)] = small_problem(0, 5, 1)

    def program(wire):
        layers = [script.Tensor(w) for w in script.cut_blocks(weights, wire.rank, 4)]
        yield from script.tensor_parallel(wire, layers, (images, labels))
        return [layer.grad for layer in layers]

    parts = script.run_in_turns(program, 4)
    whole = [script.Tensor(w) for w in weights]
    script.backward_of(whole, images, labels, 1.0)
    assert parts[0][0] == parts[3][0] and parts[0][-1] == parts[3][-1]
    expected = [layer.grad for layer in whole]
    assert script.largest_difference(script.join_blocks(parts), expected) < 1e-15


def test_the_block_has_the_gradient_of_its_formula():
    rng = random.Random(0)

    def matrix(rows, columns):
        return [[rng.gauss(0, 1) for _ in range(columns)] for _ in range(rows)]

    check_gradients(script.mlp, matrix(3, 4), matrix(6, 4), matrix(4, 6), tensor=script.Tensor)


def test_cut_and_join_are_inverse():
    weights = script.new_weights(random.Random(1))
    for cut, join in (
        (script.cut_blocks, script.join_blocks),
        (script.cut_stack, script.join_stack),
        (script.cut_nothing, script.join_replicas),
    ):
        for n in (1, 2, 3, 4, 5):
            assert join([cut(weights, rank, n) for rank in range(n)]) == weights


def test_fewer_examples_than_micro_batches_are_refused():
    weights, batches = small_problem(0, 7, 1)
    program, more, _ = script.ways()["pipeline, GPipe"]
    with pytest.raises(ValueError, match="7 examples do not make 8 micro-batches"):
        script.run_in_turns(program, 4, weights, batches, *more)


def test_a_micro_batch_that_could_block_a_pipe_is_refused():
    weights, batches = small_problem(0, 200, 1)
    program, more, _ = script.ways()["pipeline, 1F1B"]
    with pytest.raises(ValueError, match="does not fit in a pipe"):
        script.run_in_turns(program, 4, weights, batches, *more)


# === PROCESSES ===

DRIVER = """
import os, sys, time
sys.path.insert(0, {folder!r})
import microparallel as script

def good(wire, numbers):
    total = yield from script.all_reduce(wire, [x * (wire.rank + 1) for x in numbers])
    return wire.rank, os.getpid(), total

def bad(wire):
    if wire.rank == 2:
        raise ZeroDivisionError("on purpose")
    yield from script.all_reduce(wire, [1.0] * 100)

def dies(wire):
    if wire.rank == 1:
        os._exit(3)
    yield from script.all_reduce(wire, [1.0] * 100)

def waits(wire):
    while True:
        time.sleep(0.05)
        yield from wire.exchange([0.0])

if __name__ == "__main__":
    with script.Ranks(4) as ranks:
        assert len(ranks.processes) == 4, ranks.kind
        print(ranks.kind, flush=True)
        {body}
"""


def drive(tmp_path, body):
    """A program that uses the script's processes, in a process group of its own."""
    path = tmp_path / "driver.py"
    folder = str(script_path("microparallel").parent)
    path.write_text(textwrap.dedent(DRIVER).format(folder=folder, body=body), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-B", "-W", "error", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        cwd=ROOT,
    )


def assert_no_orphans(process):
    """Nobody is left in the process group (the interpreter's own tracker may need a moment)."""
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("a process was left behind")


needs_groups = pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX process groups")


@needs_groups
def test_real_processes_give_the_same_as_turns(tmp_path):
    # 20,000 numbers: chunks of 40 kB, and odd numbers of them in the pipes at the same time.
    process = drive(
        tmp_path,
        "numbers = [0.1 * i for i in range(60000)]\n"
        "        there = ranks.run(good, numbers)\n"
        "        again = ranks.run(good, numbers)\n"
        "        assert there == again and len({pid for _, pid, _ in there}) == 4\n"
        "        here = script.run_in_turns(good, 4, numbers)\n"
        "        assert [total for _, _, total in there] == [total for _, _, total in here]\n"
        "        print('same')",
    )
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "") and out.endswith("same\n")
    assert_no_orphans(process)


@needs_groups
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("ranks.run(bad)", "rank 2 failed: Traceback"),
        ("ranks.run(dies)", "rank 1 failed: its process has ended"),
    ],
)
def test_a_failing_rank_ends_everything_with_a_clear_error(tmp_path, body, said):
    process = drive(tmp_path, body)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and said in err
    assert ("on purpose" in err) == ("bad" in body)
    assert_no_orphans(process)


@needs_groups
def test_an_interruption_leaves_no_process(tmp_path):
    process = drive(tmp_path, "ranks.run(waits)")
    assert process.stdout.readline() == "4 processes\n"
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert err.count("KeyboardInterrupt") == 1 and err.count("Traceback") == 1, err
    assert_no_orphans(process)


def test_without_processes_the_ranks_take_turns(monkeypatch):
    by_turns = load_script("microparallel")
    monkeypatch.setattr(by_turns, "start_processes", no_processes)
    with by_turns.Ranks(3) as ranks:
        assert ranks.kind == "in one process, by turns (switched off)"
        results = ranks.run(by_turns.reduce_multiple, by_turns.all_reduce, [1.0, 2.0])
    assert results == [pytest.approx([0.6, 1.2])] * 3


def test_naive_sums_differ_between_ranks_in_their_last_bits():
    rng = random.Random(0)
    vector = [rng.gauss(0, 1) for _ in range(100)]
    run = functools.partial(script.run_in_turns, script.reduce_multiple, 4)
    naive, ring = run(script.all_reduce_naively, vector), run(script.all_reduce, vector)
    assert len(set(map(tuple, naive))) > 1 and len(set(map(tuple, ring))) == 1
    for total in naive:
        assert total == pytest.approx(ring[0], rel=1e-12, abs=1e-12)
