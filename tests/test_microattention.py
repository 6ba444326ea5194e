"""microattention: what its run must reach, which changes must break it, and its properties."""

from __future__ import annotations

import random
import sys
import types
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # The thesis, within a seed. In PyTorch, five seeds: half 0.91 or more, quarter 0.79 or less.
    "half_cache - quarter_cache >= 0.05",
    "full_cache >= 0.9",
    "window_cliff >= 0.15",
    "names_spread <= 0.08",
    "decode_error <= 1e-9",
)

VARIANTS = {
    # Three attributes fit into MQA's four value floats: nothing is lost.
    "easy_facts": {"NUM_ATTRIBUTES": 3},
    "with_positions": {"FACTS_HAVE_POSITIONS": True},
    "three_times_longer": {"FACT_STEPS": 900},
    # What the names would show: a layout that reads only its own letter.
    "blind_names": {"WINDOW": 1, "NAME_LAYOUTS": ("MHA", "window")},
}

TWINS = {
    "easy_facts": BARS[0],
    "with_positions": BARS[1],
    "blind_names": BARS[3],
}

script = load_script("microattention")
LAYOUTS = script.LAYOUTS

SMALL = {
    "FACT_STEPS": 2,
    "NAME_STEPS": 2,
    "CODE_STEPS": 2,
    "NUM_TEST_TEXTS": 4,
    "NUM_TEST_NAMES": 10,
    "LENGTHS": (4, 8),
}


def test_a_cache_that_never_forgets_is_noticed():
    """The window's ring without its length: decoding reads what the mask does not show."""
    twin("microattention", BARS[4], {"deque": lambda maxlen: deque()}, SMALL)


def test_a_window_that_nothing_enforces_has_no_cliff():
    """One attribute is learned in fewer steps, so that both runs are short."""

    def new_layer(layout, rng):
        names = vars(sys.modules["microattention"])  # the module that twin() has changed
        layer = types.FunctionType(script.new_layer.__code__, names)(layout, rng)
        layer.window = None
        return layer

    sizes = {"NUM_ATTRIBUTES": 1, "FACT_STEPS": 150, "NUM_TEST_TEXTS": 20}
    twin("microattention", BARS[2], {"new_layer": new_layer}, {**SMALL, **sizes})


# === OPERATIONS ===


def rows(seed, count, columns, scale=1.0):
    rng = random.Random(seed)
    return [[rng.gauss(0.0, scale) for _ in range(columns)] for _ in range(count)]


def test_gradients_of_the_operations():
    positions = [0, 3, 7]
    check_gradients(lambda x: script.rotate(x, 2, positions), rows(0, 3, 8), tensor=script.Tensor)
    check_gradients(lambda x: script.repeat_heads(x, 2, 3), rows(1, 3, 8), tensor=script.Tensor)
    check_gradients(
        lambda a, b: script.join_heads_of(a, b, 2),
        rows(2, 3, 8),
        rows(3, 3, 4),
        tensor=script.Tensor,
    )


def test_heads_are_repeated_side_by_side_and_gradients_are_summed():
    x = script.Tensor([[1.0, 2.0, 3.0, 4.0]])
    out = script.repeat_heads(x, 2, 2)
    assert out.data == [[1.0, 2.0, 1.0, 2.0, 3.0, 4.0, 3.0, 4.0]]
    out.backward([[1.0] * 8])
    assert x.grad == [[2.0, 2.0, 2.0, 2.0]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_a_rotated_product_depends_on_the_distance_alone(i, j, shift):
    q, k = rows(4, 1, 4), rows(5, 1, 4)

    def product(at_q, at_k):
        a = script.rotate(script.Tensor(q), 1, [at_q]).data[0]
        b = script.rotate(script.Tensor(k), 1, [at_k]).data[0]
        return sum(x * y for x, y in zip(a, b))

    assert product(i, j) == pytest.approx(product(i + shift, j + shift), abs=1e-12)


def test_rotating_odd_heads_is_refused():
    with pytest.raises(ValueError, match="heads of pairs"):
        script.rotate(script.Tensor([[1.0, 2.0, 3.0]]), 1, [1])


# === LAYERS ===


def layer_output(layer, x, positions=None, window=None):
    count = len(x)
    positions = positions or list(range(count))
    window = window or layer.window or count
    spans = [(max(0, i + 1 - window), i + 1) for i in range(count)]
    tensor = script.Tensor(x)
    return layer.attend(tensor, positions, layer.keep(tensor, positions), spans)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_every_layout(layout):
    layer = script.new_layer(layout, random.Random(1))
    names = [key for key, part in vars(layer).items() if isinstance(part, script.Tensor)]
    matrices = [getattr(layer, name).data for name in names]

    def output(x, *weights):
        for name, weight in zip(names, weights):
            setattr(layer, name, weight)
        positions, spans = [0, 1, 2], [(0, 1), (0, 2), (1, 3)]
        return layer.attend(x, positions, layer.keep(x, positions), spans)

    check_gradients(output, rows(6, 3, script.WIDTH), *matrices, tensor=script.Tensor)


def test_heads_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="cannot share"):
        script.GroupedAttention(4, 3, 4, random.Random(0))


def test_shared_heads_equal_mha_with_copied_heads():
    """GQA and MQA are MHA whose key and value heads are equal within a group, to the last bit."""
    x = rows(7, 5, script.WIDTH)
    for num_kv_heads in (1, 2, 4):
        shared = script.GroupedAttention(4, num_kv_heads, 4, random.Random(2))
        full = script.GroupedAttention(4, 4, 4, random.Random(3))
        full.query, full.out = shared.query, shared.out
        for part in ("key", "value"):
            heads = [
                getattr(shared, part).data[g * 4 : g * 4 + 4]
                for g in range(num_kv_heads)
                for _ in range(4 // num_kv_heads)
            ]
            setattr(full, part, script.Tensor(sum(heads, [])))
        assert layer_output(shared, x).data == layer_output(full, x).data


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_future_and_what_left_the_window_change_nothing(layout):
    layer = script.new_layer(layout, random.Random(4))
    x = rows(8, 12, script.WIDTH)
    before = layer_output(layer, x).data
    for changed in range(12):
        y = [list(row) for row in x]
        y[changed] = rows(9, 1, script.WIDTH)[0]
        after = layer_output(layer, y).data
        reach = 12 if layer.window is None else changed + layer.window
        for i in range(12):
            assert (after[i] == before[i]) == (i < changed or i >= reach), (layout, changed, i)


# === THE CACHE ===


@pytest.mark.parametrize(
    ("layout", "floats"),
    [("MHA", 32), ("GQA", 16), ("MQA", 8), ("MLA", 16), ("one wide head", 16)],
)
def test_the_live_cache_holds_so_many_floats(layout, floats):
    model = script.Model(layout, 40, 6, 0, random.Random(0))
    for length in (1, 5, 20):
        assert script.cost_of_one_token(model, length)[0] == floats * length
    assert len(script.row_picture(model.layer)) == floats


def test_the_window_s_cache_stops_growing():
    model = script.Model("window", 40, 6, 0, random.Random(0))
    sizes = [script.cost_of_one_token(model, length)[0] for length in (1, 7, 8, 9, 30)]
    assert sizes == [32, 224, 256, 256, 256]


def test_multiply_adds_are_those_of_the_formulas():
    t, h, d, c, r = 20, 4, 4, 12, 4
    for layout in ("MHA", "GQA", "MQA"):
        model = script.Model(layout, 40, 6, 0, random.Random(0))
        assert script.cost_of_one_token(model, t)[1] == 2 * h * d * t
    model = script.Model("MLA", 40, 6, 0, random.Random(0))
    absorbed = script.cost_of_one_token(model, t)[1]
    assert absorbed == h * ((c + r) + c) * t + 2 * h * d * c
    expanded = script.cost_of_one_token(model, t, script.decode_expanded)[1]
    assert expanded == t * h * (2 * d * c + (d + r) + d)


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(LAYOUTS), st.integers(1, 20), st.integers(0, 10**6))
def test_decoding_equals_the_full_pass(layout, length, seed):
    rng = random.Random(seed)
    model = script.Model(layout, 27, 27, 8, rng)
    text = [[rng.randrange(27)] for _ in range(length)]
    assert script.decoding_error(model, text) <= 1e-12


def test_absorbing_with_the_wrong_scale_is_noticed(monkeypatch):
    broken = load_script("microattention")
    right = broken.read_cache
    monkeypatch.setattr(
        broken,
        "read_cache",
        lambda q, k, v, scale, counter: right(q, k, v, len(q) ** -0.5, counter),
    )
    model = broken.Model("MLA", 27, 27, 8, random.Random(0))
    assert broken.decoding_error(model, [[n] for n in range(8)]) > 1e-6


def test_a_cache_with_unrotated_keys_is_noticed(monkeypatch):
    broken = load_script("microattention")
    model = broken.Model("MHA", 27, 27, 8, random.Random(0))
    right = broken.GroupedAttention.keep

    def keep(self, x, positions):
        return right(self, x, [0] if len(positions) == 1 else positions)

    monkeypatch.setattr(broken.GroupedAttention, "keep", keep)
    assert broken.decoding_error(model, [[n] for n in range(8)]) > 1e-6


# === THE TASK ===


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_a_text_can_be_answered_from_its_facts(seed):
    bags, answers, distances = script.new_text(random.Random(seed))
    assert len(bags) == script.NUM_FACTS + script.NUM_QUESTIONS
    for n, (values, distance) in enumerate(zip(answers, distances)):
        row = script.NUM_FACTS + n
        fact = bags[row - distance]
        assert fact[0] == bags[row][0] < script.NUM_KEYS
        assert bags[row][1] == script.QUESTION
        first = script.NUM_KEYS + 1
        assert [r - first - 3 * a for a, r in enumerate(fact[1:])] == values
        assert max(fact) < first + script.NUM_ATTRIBUTES * script.NUM_VALUES


def test_packing_texts_changes_no_logit():
    texts = [script.new_text(random.Random(seed)) for seed in range(3)]
    for layout in ("MHA", "MLA", "window"):
        model = script.Model(layout, 29, 18, 0, random.Random(0))
        packed = script.answer(model, texts)[0].data
        single = [row for text in texts for row in script.answer(model, [text])[0].data]
        assert packed == single


def test_four_linear_floats_do_not_carry_six_attributes_and_six_do():
    four = script.perfect_look_up(4, random.Random(0))
    six = script.perfect_look_up(6, random.Random(0))
    assert four < 0.9 < six


def test_a_name_is_invented_from_the_alphabet():
    model = script.Model("MLA", 27, 27, 8, random.Random(0))
    name = script.generate(model, random.Random(0))
    assert len(name) <= 16 and set(name) <= set(script.ALPHABET[1:])


def test_the_exponent_of_a_power_law():
    assert script.exponent([2, 4, 8], [12, 48, 192]) == pytest.approx(2.0)


def test_a_ring_forgets_the_oldest():
    assert list(deque([1, 2, 3], maxlen=2)) == [2, 3]
