"""microflash: what its run must reach, which changes must break it, and its properties."""

from __future__ import annotations

import math
import random
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # Exact: outputs, three gradients, and logits from a cache in parts.
    "error <= 1e-12",
    # The two trainings are the same at every step.
    "loss_gap <= 1e-9",
    # The model that was trained with flash attention has learned its task; guessing: 0.1.
    "recall >= 0.9",
    # Counted, the same on every seed: 5.05 times fewer words with the best tiles.
    "traffic_ratio >= 4.5",
    # Still near to quadratic, and memory no more than linear.
    "1.6 <= traffic_exponent <= 2.0",
    "memory_exponent <= 1.2",
)

script = load_script("microflash")


def merge_without_rescaling(a, b):
    """Sums that are measured from different scores are added as they are."""
    return max(a[0], b[0]), a[1] + b[1], [x + y for x, y in zip(a[2], b[2])]


def no_deltas(out, d_out):
    """D = 0: the part of the softmax's derivative that couples the scores is missing."""
    return [0.0] * len(out)


def scores_of_the_future(q_tile, k_tile, rows, columns):
    """Nothing in a diagonal tile is masked."""
    return script.tile_scores(q_tile, k_tile, range(10**9, 10**9 + len(rows)), columns)


def equal_scores(q_tile, k_tile, rows, columns):
    """Every query reads its whole past alike."""
    return script.tile_scores(script.scaled(q_tile, 0.0), k_tile, rows, columns)


VARIANTS = {
    "no_rescaling": {"merge": merge_without_rescaling},
    "delta_zero": {"row_deltas": no_deltas},
    "no_mask": {"tile_scores": scores_of_the_future},
    "equal_scores": {"tile_scores": equal_scores},
}

TWINS = {
    "no_rescaling": BARS[0],
    "no_mask": BARS[0],
    "delta_zero": BARS[1],
    "equal_scores": BARS[2],
}

SMALL = {"NUM_STEPS": 1, "NUM_TEST": 1, "LENGTHS": (64, 128, 256), "COMPARE_LENGTH": 256}


def test_tiles_of_one_row_save_no_words():
    twin("microflash", BARS[3], {"BLOCKS": (1,)}, {**SMALL, "LENGTHS": (16, 32)})


def test_attention_within_each_tile_would_be_linear():
    """A method that reads no other tile than its own moves N words, and is not attention."""

    def forward(q, k, v, block, memory):
        parts = [
            script.flash_forward(*[script.take(x, rows) for x in (q, k, v)], block, memory)
            for rows in script.tiles(len(q), block)
        ]
        return [row for out, _ in parts for row in out], [x for _, lse in parts for x in lse]

    def backward(q, k, v, saved, d_out, block, memory):
        parts = []
        for rows in script.tiles(len(q), block):
            q_t, k_t, v_t, out, lse, d = [script.take(x, rows) for x in (q, k, v, *saved, d_out)]
            parts.append(script.flash_backward(q_t, k_t, v_t, (out, lse), d, block, memory))
        return tuple([sum(rows, []) for rows in zip(*parts)])

    twin("microflash", BARS[4], {"flash_forward": forward, "flash_backward": backward}, SMALL)


def test_keeping_the_weights_would_cost_quadratic_memory():
    def run(problem, memory, block=16):
        return sys.modules["microflash"].run_ordinary(problem, memory)

    twin("microflash", BARS[5], {"run_flash": run}, {**SMALL, "FAST_WORDS": math.inf})


# === SUMMARIES ===

SCORES = st.lists(st.floats(-50.0, 50.0), min_size=1, max_size=6)


def summary_of(scores, seed):
    rng = random.Random(seed)
    return script.summarise(scores, [[rng.gauss(0.0, 1.0) for _ in range(3)] for _ in scores])


def is_close(a, b):
    return a[0] == b[0] and [a[1], *a[2]] == pytest.approx([b[1], *b[2]], rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(SCORES, SCORES, SCORES)
def test_merge_is_commutative_and_associative(first, second, third):
    a, b, c = [summary_of(scores, i) for i, scores in enumerate((first, second, third))]
    assert is_close(script.merge(a, b), script.merge(b, a))
    assert is_close(script.merge(script.merge(a, b), c), script.merge(a, script.merge(b, c)))


@given(SCORES)
def test_merging_nothing_changes_nothing(scores):
    summary = summary_of(scores, 0)
    nothing = (-math.inf, 0.0, [0.0] * 3)
    assert script.merge(nothing, summary) == summary == script.merge(summary, nothing)


def test_a_merge_without_rescaling_is_noticed():
    a, b = summary_of([1.0, 3.0], 0), summary_of([2.0], 1)
    assert not is_close(merge_without_rescaling(a, b), script.merge(a, b))


# === EXACTNESS ===


def both_ways(length, block, seed=0, stretch=1.0, module=script):
    """out, d_q, d_k, d_v by ordinary and by flash attention; the queries may be stretched."""
    q, k, v, d_out = script.new_problem(length, random.Random(seed))
    problem = [script.scaled(q, stretch), k, v, d_out]
    ordinary, _ = script.run_ordinary(problem, script.TwoMemories())
    flash, _ = module.run_flash(problem, script.TwoMemories(), block)
    return ordinary, flash


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 21), st.integers(1, 24), st.integers(0, 5))
def test_outputs_and_gradients_for_every_length_and_tile(length, block, seed):
    for a, b in zip(*both_ways(length, block, seed)):
        assert len(a) == len(b) == length
        assert script.largest_difference(a, b) <= 1e-12


@pytest.mark.parametrize("stretch", [0.0, 30.0, 1e4])
def test_scores_of_any_size_stay_finite_and_exact(stretch):
    for a, b in zip(*both_ways(37, 8, 3, stretch)):
        largest = max([1.0, *[abs(x) for row in a for x in row]])
        assert all(math.isfinite(x) for row in b for x in row)
        # A score of 1e4 is itself rounded to 1e-12: so then is what exp makes of it.
        assert script.largest_difference(a, b) <= 1e-11 * largest


@pytest.mark.parametrize(
    ("name", "broken", "wrong"),
    [
        ("merge", merge_without_rescaling, [True, True, True, True]),
        ("row_deltas", no_deltas, [False, True, True, False]),
        ("tile_scores", scores_of_the_future, [True, True, True, True]),
        ("tile_scores", equal_scores, [True, True, True, True]),
    ],
)
def test_which_results_a_broken_twin_spoils(name, broken, wrong, monkeypatch):
    module = load_script("microflash")
    monkeypatch.setattr(module, name, broken)
    ordinary, flash = both_ways(37, 8, module=module)
    errors = list(map(script.largest_difference, ordinary, flash))
    assert [error > 1e-3 for error in errors] == wrong
    assert all(error <= 1e-12 for error, bad in zip(errors, wrong) if not bad)


@pytest.mark.parametrize("attention", [script.ordinary_attention, script.flash_attention])
def test_gradients_by_central_differences(attention, monkeypatch):
    monkeypatch.setattr(script, "BLOCK", 4)
    inputs = script.new_problem(7, random.Random(1))[:3]
    check_gradients(
        lambda q, k, v: attention(q, k, v, script.TwoMemories()), *inputs, tensor=script.Tensor
    )


def test_rows_from_passes_its_gradient_to_the_right_rows():
    check_gradients(lambda x: script.rows_from(x, 2), [[1.0, 2.0]] * 4, tensor=script.Tensor)


@pytest.mark.parametrize("block", [1, 3, 8, 64])
def test_a_later_row_never_changes_an_earlier_output(block):
    q, k, v, _ = script.new_problem(20, random.Random(0))
    before, _ = script.flash_forward(q, k, v, block, script.TwoMemories())
    for x in (q, k, v):
        x[13] = [value + 1.0 for value in x[13]]
    after, _ = script.flash_forward(q, k, v, block, script.TwoMemories())
    assert before[:13] == after[:13] and before[13:] != after[13:]


@pytest.mark.parametrize("block", [1, 5, 16, 100])
def test_lse_is_the_log_sum_exp_of_each_row_of_scores(block):
    q, k, v, _ = script.new_problem(23, random.Random(0))
    _, lse = script.flash_forward(q, k, v, block, script.TwoMemories())
    for i, (query, found) in enumerate(zip(q, lse)):
        scores = [sum(a * b for a, b in zip(query, key)) / 8**0.5 for key in k[: i + 1]]
        assert found == pytest.approx(script.log_sum_exp(scores), abs=1e-12)


def test_one_row_reads_itself():
    (out, *_), (flash_out, *_) = both_ways(1, 16)
    value = script.new_problem(1, random.Random(0))[2]
    assert out == value and flash_out == value


@pytest.mark.parametrize("num_parts", [1, 2, 3, 7, 50])
def test_a_cache_in_parts_gives_the_last_row_of_attention(num_parts):
    q, k, v, _ = script.new_problem(29, random.Random(4))
    expected, _ = script.ordinary_forward(q, k, v, script.TwoMemories())
    found = script.decode_attention(q[-1], k, v, num_parts)
    assert found == pytest.approx(expected[-1], abs=1e-13)


# === COUNTS ===


@pytest.mark.parametrize(("length", "block"), [(64, 8), (64, 16), (64, 64), (37, 8), (5, 16)])
def test_words_equal_the_closed_forms(length, block):
    problem, d = script.new_problem(length, random.Random(0)), script.HEAD_DIM
    triangle, matrix = length * (length + 1) // 2, length * d
    memory = script.TwoMemories()
    _, forward = script.run_ordinary(problem, memory)
    assert forward == 4 * triangle + 4 * matrix
    assert memory.moved - forward == 7 * triangle + 8 * matrix

    memory = script.TwoMemories()
    _, forward = script.run_flash(problem, memory, block)
    sizes = [len(rows) for rows in script.tiles(length, block)]
    pairs = [(sizes[i], sizes[j]) for i in range(len(sizes)) for j in range(i + 1)]
    loaded_keys = sum(keys * 2 * d for _, keys in pairs)
    assert forward == 2 * matrix + length + loaded_keys
    passed_queries = sum(queries * (4 * d + 2) for queries, _ in pairs)
    assert memory.moved - forward == 7 * matrix + length + passed_queries
    assert length < block or memory.most_held == 7 * block * d + 2 * block + 2 * block**2


def test_what_is_held_does_not_grow_with_the_length_and_must_fit():
    held = []
    for length in (32, 64, 96):
        memory = script.TwoMemories(1440)
        script.run_flash(script.new_problem(length, random.Random(0)), memory, 16)
        held.append(memory.most_held)
    assert held == [1440] * 3
    with pytest.raises(MemoryError, match=r"1,440 words in a fast memory of 1,439"):
        script.run_flash(script.new_problem(32, random.Random(0)), script.TwoMemories(1439), 16)


def test_a_skipped_tile_is_never_loaded():
    """Doubling the keys that nobody may read yet costs the first queries nothing."""
    q, k, v, _ = script.new_problem(64, random.Random(0))
    short, long = script.TwoMemories(), script.TwoMemories()
    script.flash_forward(q[:32], k[:32], v[:32], 8, short)
    script.flash_forward(q[:32], k, v, 8, long)
    assert short.moved == long.moved


def test_one_step_of_both_trainings(monkeypatch, capsys):
    small = load_script("microflash")
    monkeypatch.setattr(small, "NUM_STEPS", 40)
    reader, gap = small.train(random.Random(0))
    assert gap <= 1e-12
    assert capsys.readouterr().out.startswith("step   40/40 | ordinary 2.")
    start = small.Reader(random.Random(42))
    assert all(a.data != b.data for a, b in zip(reader.parameters(), start.parameters()))


def test_a_book_asks_for_each_letter_once():
    letters, digits, answers = script.new_book(random.Random(0))
    assert sorted(letters[:26]) == sorted(letters[26:]) == list(range(26))
    book = dict(zip(letters, digits[:26]))
    assert [book[letter] for letter in letters[26:]] == answers
    assert digits[26:] == [script.UNKNOWN] * 26
