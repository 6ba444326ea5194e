"""common/language_model.py: the table's probabilities, and how sequences are packed.

The GPT itself is tested with its script (tests/test_microgpt.py) and against PyTorch beside it.
"""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.data import load_names
from common.engine import scaled_dot_product_attention
from common.language_model import ALPHABET, GPT, CountTable, encode, pack

NAMES = load_names()
SEQUENCES = st.lists(
    st.lists(st.integers(1, 26), max_size=6).map(lambda letters: [0, *letters, 0]), max_size=5
)
TABLES = {
    (order, discount): CountTable(list(map(encode, NAMES[::40])), order, discount)
    for order in (1, 2, 3, 4)
    for discount in (0.1, 0.75, 1.0)
}
each_table = pytest.mark.parametrize(("order", "discount"), TABLES)


# === TEXT ===


@given(st.text(alphabet=ALPHABET[1:]))
def test_encode(name):
    symbols = encode(name)
    assert symbols[0] == symbols[-1] == 0
    assert "".join([ALPHABET[symbol] for symbol in symbols[1:-1]]) == name
    assert all([1 <= symbol <= 26 for symbol in symbols[1:-1]])


@pytest.mark.parametrize("name", ["Ava", "a b", "zoé", "a-b"])
def test_encode_refuses_other_letters(name):
    with pytest.raises(ValueError):
        encode(name)


@given(SEQUENCES, st.integers(1, 8))
def test_pack(sequences, look_back):
    ids, positions, spans, targets = pack(sequences, look_back)
    row = 0
    for sequence in sequences:
        start = row
        for place in range(len(sequence) - 1):
            assert (ids[row], targets[row]) == (sequence[place], sequence[place + 1])
            assert positions[row] == place
            first, stop = spans[row]
            # Its own sequence, up to itself, and no more than look_back rows.
            assert (first, stop) == (start + max(0, place + 1 - look_back), row + 1)
            assert 1 <= stop - first <= look_back
            row += 1
    assert [len(x) for x in (ids, positions, spans, targets)] == [row] * 4


@given(SEQUENCES)
def test_a_pack_is_its_sequences_one_after_the_other(sequences):
    ids, positions, spans, targets = pack(sequences)
    single = [pack([sequence]) for sequence in sequences]
    assert ids == [x for part in single for x in part[0]]
    assert positions == [x for part in single for x in part[1]]
    assert targets == [x for part in single for x in part[3]]
    widths = [stop - first for first, stop in spans]
    assert widths == [stop - first for part in single for first, stop in part[2]]
    assert ids == [x for sequence in sequences for x in sequence[:-1]]


# === THE TABLE ===


@each_table
def test_probabilities_sum_to_one_after_any_history(order, discount):
    table, rng = TABLES[order, discount], random.Random(order)
    unseen = 0
    for trial in range(200):
        if trial % 2:
            name = encode(rng.choice(NAMES))
            history = name[: rng.randint(1, len(name) - 1)]
        else:
            history = [0, *[rng.randint(1, 26) for _ in range(rng.randint(0, 6))]]
        unseen += order > 1 and tuple(history[1 - order :]) not in table.counts
        before, num_contexts = list(history), len(table.counts)
        found = table.probabilities(history)
        assert math.fsum(found) == pytest.approx(1.0, abs=1e-12)
        assert len(found) == len(ALPHABET) and min(found) > 0.0
        assert (history, len(table.counts)) == (before, num_contexts)  # a question adds nothing
    assert unseen >= 20 or order <= 2  # both kinds of context were asked for


def kneser_ney(sequences, order, discount, history):
    """The formula, from the sets of what was met, by recursion from the longest context."""
    grams = {
        length: Counter(
            tuple(sequence[i - length : i + 1])
            for sequence in sequences
            for i in range(max(1, length), len(sequence))
        )
        for length in range(order)
    }

    def count(context, symbol):
        """How often: of the longest context, or of one that begins its sequence (nothing longer
        can be met there); of a shorter one, in how many longer contexts.
        """
        length = len(context)
        if length == order - 1 or context[:1] == (0,):
            return grams[length][(*context, symbol)]
        return len([g for g in grams[length + 1] if g[1:] == (*context, symbol)])

    def probability(context, symbol):
        counts = [count(context, other) for other in range(len(ALPHABET))]
        shorter = probability(context[1:], symbol) if context else 1.0 / len(ALPHABET)
        total = sum(counts)
        if not total:
            return shorter
        kinds = sum([c > 0 for c in counts])
        return (max(counts[symbol] - discount, 0.0) + discount * kinds * shorter) / total

    context = tuple(history[max(0, len(history) - order + 1) :])
    return [probability(context, symbol) for symbol in range(len(ALPHABET))]


@given(SEQUENCES, st.integers(1, 4), st.floats(0.05, 1.0), st.integers(0, 10**6))
def test_the_table_is_kneser_neys_formula(sequences, order, discount, seed):
    rng = random.Random(seed)
    table = CountTable(sequences, order, discount)
    letters = sorted({symbol for sequence in sequences for symbol in sequence} - {0}) or [1]
    for _ in range(3):
        history = [0, *rng.choices(letters, k=rng.randint(0, 5))]
        expected = kneser_ney(sequences, order, discount, history)
        assert table.probabilities(history) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_table_of_nothing_knows_nothing():
    table = CountTable([], 3, 0.75)
    assert table.probabilities([0, 1, 2]) == [1.0 / 27] * 27
    assert table.num_counts() == 0


def test_a_table_of_one_name():
    table = CountTable([encode("ab")], 2, 0.5)
    # Contexts: boundary -> a, a -> b, b -> end; and of all: a, b, end, once each.
    assert table.num_counts() == 6
    assert len(table.counts) == 4
    for history, symbol in ([0], 1), ([0, 1], 2), ([0, 1, 2], 0):
        found = table.probabilities(history)
        alone = (1 - 0.5) / 3 + 0.5 * 3 / 3 * (1 / 27)
        assert found[symbol] == pytest.approx(0.5 + 0.5 * alone, rel=1e-12)


def test_a_letter_that_only_follows_one_other_is_no_likely_guess_elsewhere():
    """Kneser and Ney's idea: b came often but always after a, c came after many letters."""
    table = CountTable([[0, 1, 2, 0]] * 50 + [[0, other, 3, 0] for other in range(4, 20)], 2, 0.75)
    unseen = table.probabilities([0, 25])
    assert unseen[3] > 5 * unseen[2]
    assert table.probabilities([0, 1])[2] > 0.9


@each_table
def test_order_one_ignores_the_history_and_more_order_fits_better(order, discount):
    table, sample = TABLES[order, discount], list(map(encode, NAMES[::400]))

    def nats(table):
        return sum(
            -math.log(table.probabilities(name[:i])[name[i]])
            for name in sample
            for i in range(1, len(name))
        )

    if order == 1:
        assert table.probabilities([0]) == table.probabilities([0, 5, 9])
    else:
        assert nats(table) < nats(TABLES[order - 1, discount])  # names that it has counted


# === THE MODEL ===


def test_the_model_has_nine_matrices_of_the_stated_shapes():
    model = GPT(27, 16, 8, random.Random(0))
    shapes = [(len(p.data), len(p.data[0])) for p in model.parameters()]
    assert shapes == [(27, 8), (16, 8), *[(8, 8)] * 4, (32, 8), (8, 32), (27, 8)]
    again = GPT(27, 16, 8, random.Random(0))
    assert [p.data for p in model.parameters()] == [p.data for p in again.parameters()]
    ids, positions, spans, _ = pack([encode("ava"), encode("zoe")])
    logits = model.forward(
        ids, positions, lambda q, k, v: scaled_dot_product_attention(q, k, v, 2, spans)
    )
    assert (len(logits.data), len(logits.data[0])) == (8, 27)
    logits.backward([[1.0] * 27] * 8)
    assert all([p.grad is not None for p in model.parameters()])
