"""microquant: what its run must reach, which changes must break it, and its properties."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # 8 bits are free: a rise that no one would notice.
    "abs(row_8) <= 0.002",
    # Where the scale lives decides at 2 bits ...
    "tensor_2 >= 1.7 * row_2",
    # ... and so does how large it is.
    "clipped_2 <= 0.8 * row_2",
    # The repair: the same grid, the same bytes.
    "gptq_2 <= 0.8 * row_2",
    # How near it comes to the best rounding of each row, in the layer error.
    "gap_closed >= 0.5",
)

script = load_script("microquant")


def no_repair(row, scale, bits, U):
    """GPTQ that rounds but passes nothing on."""
    levels = [script.nearest_level(w, scale, bits) for w in row]
    errors = [(w - scale * level) / U[j][j] for j, (w, level) in enumerate(zip(row, levels))]
    return levels, list(row), errors


def uncorrelated_hessian(inputs):
    """H of inputs whose columns were shuffled, each by itself."""
    rng = random.Random(0)
    columns = [rng.sample(column, len(column)) for column in zip(*inputs)]
    return script.hessian(script.transpose(columns))


def scales_of_columns(weight, bits, scheme):
    """Scales from the wrong axis: row number o gets the scale of column o, not its own."""
    if scheme != "channel":
        return script.choose_scales(weight, bits, scheme)
    columns = script.choose_scales(script.transpose(weight), bits, "channel")
    return [columns[o % len(columns)] for o in range(len(weight))]


def gptq_in_act_order(weight, scales, bits, H):
    """The weights with the largest H[j][j] first."""
    order = sorted(range(len(H)), key=lambda j: -H[j][j])
    turned = [[row[j] for j in order] for row in weight]
    levels = script.gptq(turned, scales, bits, [[H[i][j] for j in order] for i in order])
    place = {j: i for i, j in enumerate(order)}
    return [[row[place[j]] for j in range(len(H))] for row in levels]


gptq_in_act_order.__name__ = "gptq"  # the script enters results under the name of the method

VARIANTS = {
    "no_repair": {"gptq_row": no_repair},
    "uncorrelated": {"hessian": uncorrelated_hessian},
    "wrong_axis": {"choose_scales": scales_of_columns},
    "act_order": {"gptq": gptq_in_act_order},
}

TWINS = {
    "no_repair": BARS[4],
    "uncorrelated": BARS[3],
    "wrong_axis": BARS[1],
}

# A high learning rate, so that few steps make a model that 2 bits hurt.
SMALL = {
    "NUM_STEPS": 60,
    "LEARNING_RATE": 0.04,
    "NUM_TEST": 20,
    "NUM_CALIBRATION": 12,
    "FEWER_NAMES": (),
    "BITS": (8, 3, 2),
}


def test_scales_that_are_too_small_are_noticed_at_8_bits():
    def halved(weight, bits, scheme):
        return [scale / 2 for scale in script.choose_scales(weight, bits, scheme)]

    twin("microquant", BARS[0], {"choose_scales": halved}, SMALL)


def test_a_scale_that_is_not_searched_gains_nothing():
    twin("microquant", BARS[2], {"CLIPS": (1.0,)}, SMALL)


# === GRID AND SCALES ===

WEIGHTS = st.integers(1, 5).flatmap(
    lambda width: st.lists(
        st.lists(st.floats(-3.0, 3.0, width=32), min_size=width, max_size=width),
        min_size=1,
        max_size=4,
    )
)
FEW_BITS = st.sampled_from([2, 3, 4, 8])


@given(WEIGHTS, FEW_BITS)
def test_with_a_full_scale_no_weight_moves_by_more_than_half_a_step(weight, bits):
    for scheme in ("tensor", "channel"):
        scales = script.choose_scales(weight, bits, scheme)
        levels = script.round_to_nearest(weight, scales, bits, [])
        for row, scale, level_row in zip(weight, scales, levels):
            top = 2 ** (bits - 1) - 1
            slack = top * scale * 2**-10 + 2e-7 * top  # the scale itself is rounded to 16 bits
            for w, level in zip(row, level_row):
                if max(map(abs, row)) > 1e-4:
                    assert abs(w - scale * level) <= scale / 2 + slack


@given(WEIGHTS, FEW_BITS)
def test_rounding_what_was_rounded_changes_nothing(weight, bits):
    scales = script.choose_scales(weight, bits, "channel")
    levels = script.round_to_nearest(weight, scales, bits, [])
    used = script.store(levels, scales, bits, "channel").weight()
    assert script.round_to_nearest(used, scales, bits, []) == levels


@given(WEIGHTS, FEW_BITS)
def test_a_clipped_scale_never_makes_the_squared_error_larger(weight, bits):
    def squared_error(scheme):
        scales = script.choose_scales(weight, bits, scheme)
        used = script.store(
            script.round_to_nearest(weight, scales, bits, []), scales, bits, "channel"
        ).weight()
        return sum((a - b) ** 2 for rows in zip(weight, used) for a, b in zip(*rows))

    assert squared_error("clipped") <= squared_error("channel") * (1 + 1e-12)


@pytest.mark.parametrize("scheme", script.SCHEMES)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rows_of_zeros_constant_rows_and_single_columns(scheme, bits):
    for weight in ([[0.0] * 4, [0.0] * 4], [[0.25] * 4, [-0.25] * 4], [[0.5]], [[0.0]]):
        scales = script.choose_scales(weight, bits, scheme)
        H = script.hessian([[1.0] * len(weight[0])])
        for method in (script.round_to_nearest, script.gptq, script.best_rounding):
            used = script.store(method(weight, scales, bits, H), scales, bits, scheme).weight()
            assert [len(row) for row in used] == [len(row) for row in weight]
            if scheme != "clipped" and method is script.round_to_nearest:
                assert used == [pytest.approx(row, rel=1e-3) for row in weight]


def test_the_schemes_differ_in_what_sets_the_scale():
    weight = [[1.0, 0.1, 0.1], [0.01, 0.02, 0.04]]
    per_tensor, per_row, clipped = [
        script.choose_scales(weight, 2, scheme) for scheme in script.SCHEMES
    ]
    assert per_tensor == [1.0, 1.0]
    assert per_row == [1.0, script.to_float16(0.04)]
    assert clipped[1] < per_row[1]


def test_ties_go_to_the_even_level_and_far_weights_are_clipped():
    assert [script.nearest_level(x, 1.0, 4) for x in (0.5, 1.5, 2.5, -0.5)] == [0, 2, 2, 0]
    assert [script.nearest_level(x, 1.0, 4) for x in (99.0, -99.0)] == [7, -8]


# === GPTQ ===


def random_problem(seed, width, names=12, rows=3):
    """A weight matrix and the H of correlated inputs."""
    rng = random.Random(seed)
    mix = [[rng.gauss(0.0, 1.0) for _ in range(width)] for _ in range(3)]
    inputs = [
        [script.dot(source, column) + 0.3 * rng.gauss(0.0, 1.0) for column in zip(*mix)]
        for source in [[rng.gauss(0.0, 1.0) for _ in range(3)] for _ in range(names)]
    ]
    weight = [[rng.gauss(0.0, 0.3) for _ in range(width)] for _ in range(rows)]
    return weight, script.hessian(inputs)


def quadratic(row, scale, levels, H):
    """d H d^T."""
    d = [w - scale * level for w, level in zip(row, levels)]
    return sum(a * b * H[i][j] for i, a in enumerate(d) for j, b in enumerate(d))


@given(WEIGHTS, FEW_BITS, st.sampled_from(script.SCHEMES))
def test_without_correlation_gptq_is_rounding_to_nearest_exactly(weight, bits, scheme):
    width = len(weight[0])
    H = [[float(i == j) * (1 + i) for j in range(width)] for i in range(width)]
    scales = script.choose_scales(weight, bits, scheme)
    plain = script.round_to_nearest(weight, scales, bits, H)
    assert script.gptq(weight, scales, bits, H) == plain
    if bits < 8:
        best = script.best_rounding(weight, scales, bits, H)
        for part in zip(weight, scales, plain, best):
            losses = [quadratic(*part[:2], levels, H) for levels in part[2:]]
            assert losses[0] == pytest.approx(losses[1], rel=1e-9, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), FEW_BITS)
def test_the_squared_errors_add_up_to_the_loss_of_the_row(seed, width, bits):
    weight, H = random_problem(seed, width)
    U = script.transpose(script.cholesky(script.inverse(H)))
    for row, scale in zip(weight, script.choose_scales(weight, bits, "channel")):
        levels, _, errors = script.gptq_row(row, scale, bits, U)
        loss = quadratic(row, scale, levels, H)
        assert sum(e * e for e in errors) == pytest.approx(loss, rel=1e-8, abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_each_weight_is_rounded_at_its_least_squares_optimum(seed, width):
    """Given the levels chosen so far, the rest of the row minimises d H d^T in closed form."""
    weight, H = random_problem(seed, width, rows=1)
    (row,), (scale,) = weight, script.choose_scales(weight, 2, "channel")
    U = script.transpose(script.cholesky(script.inverse(H)))
    levels, repaired, _ = script.gptq_row(row, scale, 2, U)
    for j in range(1, width):
        d = [w - scale * level for w, level in zip(row[:j], levels[:j])]
        rest_H = script.inverse([line[j:] for line in H[j:]])
        pull = [script.dot(line[:j], d) for line in H[j:]]
        optimum = row[j] + script.dot(rest_H[0], pull)
        assert repaired[j] == pytest.approx(optimum, rel=1e-7, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_the_search_finds_what_trying_everything_finds(seed, width):
    weight, H = random_problem(seed, width, rows=1)
    (row,), (scale,) = weight, script.choose_scales(weight, 2, "clipped")
    U = script.transpose(script.cholesky(script.inverse(H)))
    loss, levels = script.best_row(row, scale, 2, U)
    everything = [
        quadratic(row, scale, choice, H) for choice in itertools.product(range(-2, 2), repeat=width)
    ]
    assert loss == pytest.approx(min(everything), rel=1e-8, abs=1e-12)
    assert quadratic(row, scale, levels, H) == pytest.approx(loss, rel=1e-8, abs=1e-12)
    gptq_levels = script.gptq_row(row, scale, 2, U)[0]
    assert loss <= quadratic(row, scale, gptq_levels, H) * (1 + 1e-9) + 1e-12


def test_gptq_beats_rounding_to_nearest_on_correlated_inputs_and_broken_twins_do_not():
    def total(method):
        loss = 0.0
        for seed in range(20):
            weight, H = random_problem(seed, 12)
            scales = script.choose_scales(weight, 3, "channel")
            levels = method(weight, scales, 3, H)
            loss += sum(quadratic(*part, H) for part in zip(weight, scales, levels))
        return loss

    broken = load_script("microquant")
    broken.gptq_row = no_repair
    assert total(script.gptq) < 0.6 * total(script.round_to_nearest)
    assert total(script.best_rounding) < total(script.gptq)
    assert total(broken.gptq) == total(script.round_to_nearest)


def test_the_example_of_the_comment():
    H = [[1.0, 0.9], [0.9, 1.0]]
    U = script.transpose(script.cholesky(script.inverse(H)))
    levels, repaired, errors = script.gptq_row([0.4, 0.4], 1.0, 2, U)
    assert levels == [0, 1]
    assert repaired[1] == pytest.approx(0.76)
    assert quadratic([0.4, 0.4], 1.0, [0, 0], H) == pytest.approx(0.608)
    assert sum(e * e for e in errors) == pytest.approx(0.088)


def test_long_rows_are_left_to_gptq():
    weight, H = random_problem(1, 20, names=40)
    scales = script.choose_scales(weight, 2, "channel")
    ours = script.best_rounding(weight, scales, 2, H)
    assert ours == script.gptq(weight, scales, 2, H)


def test_a_matrix_that_is_not_positive_definite_is_refused():
    with pytest.raises(ValueError, match="more damping"):
        script.cholesky([[1.0, 2.0], [2.0, 1.0]])


def test_damping_makes_any_inputs_usable():
    for inputs in ([[0.0, 0.0, 0.0]], [[1.0, 1.0, 1.0]], [[1.0, 0.0, -1.0]] * 3):
        assert len(script.cholesky(script.hessian(inputs))) == 3


# === STORING ===


@given(st.integers(1, 8), st.data())
def test_packing_loses_nothing_and_leaves_no_gaps(bits, data):
    half = 2 ** (bits - 1)
    levels = data.draw(st.lists(st.integers(-half, half - 1), max_size=30))
    packed = script.pack_levels(levels, bits)
    assert len(packed) == -(-bits * len(levels) // 8)
    assert script.unpack_levels(packed, bits, len(levels)) == levels


def test_stored_bytes_are_what_levels_and_scales_take():
    rng = random.Random(0)
    weight = [[rng.gauss(0.0, 1.0) for _ in range(16)] for _ in range(27)]
    H = script.hessian([[rng.gauss(0.0, 1.0) for _ in range(16)] for _ in range(40)])
    for bits in (2, 3, 4, 8):
        for scheme, num_scales in (("tensor", 1), ("channel", 27), ("clipped", 27)):
            scales = script.choose_scales(weight, bits, scheme)
            for method in (script.round_to_nearest, script.gptq):
                levels = method(weight, scales, bits, H)
                stored = script.store(levels, scales, bits, scheme)
                assert stored.num_bytes() == 27 * 16 * bits // 8 + 2 * num_scales
                expected = [[s * level for level in row] for row, s in zip(levels, scales)]
                assert stored.weight() == expected
                assert struct.unpack("<e", stored.scales[:2])[0] == scales[0]


# === THE MODEL ===

NAMES = ["ava", "elizabeth", "zoe", "christopher", "jo", "maximilian"]


def new_model(seed=0, scale=4.0):
    """A GPT with weights large enough that every layer matters."""
    model = script.GPT(27, 16, 16, random.Random(seed))
    for parameter in model.parameters():
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    return model


def test_the_inputs_of_every_layer_are_found():
    model = new_model()
    inputs = script.layer_inputs(model, NAMES)
    assert set(inputs) == set(script.LAYERS)
    rows = sum(len(name) + 1 for name in NAMES)
    for name, found in inputs.items():
        assert len(found) == rows
        assert len(found[0]) == len(getattr(model, name).data[0])
    head = script.Tensor(inputs["head"])
    assert script.linear(head, model.head).data == script.predict(model, NAMES)[0].data
    assert min(map(min, inputs["mlp_out"])) == 0.0  # after the ReLU


def test_a_model_in_8_bits_is_nearly_the_same_and_the_original_is_left_alone():
    model = new_model()
    before = [parameter.data for parameter in model.parameters()]
    quantized, stored = script.quantize_model(model, 8, "channel", script.gptq, NAMES)
    assert [parameter.data for parameter in model.parameters()] == before
    assert quantized.token_embedding is model.token_embedding
    assert set(stored) == set(script.LAYERS)
    before, after = [script.predict(one, NAMES)[0].data for one in (model, quantized)]
    difference = max(abs(a - b) for rows in zip(before, after) for a, b in zip(*rows))
    assert 0.0 < difference < 0.02 * max(max(map(abs, row)) for row in before)
    for name in script.LAYERS:
        assert getattr(quantized, name).data == stored[name].weight()


def test_shuffling_keeps_each_input_s_values():
    model, seen = new_model(), []

    def spy(weight, scales, bits, H):
        seen.append([H[i][i] for i in range(len(H))])
        return script.round_to_nearest(weight, scales, bits, H)

    script.quantize_model(model, 8, "channel", spy, NAMES)
    script.quantize_model(model, 8, "channel", spy, NAMES, random.Random(1))
    for plain, shuffled in zip(seen[:7], seen[7:]):
        assert shuffled == pytest.approx(plain, rel=1e-9)


def test_losses_by_name_add_up_to_the_cross_entropy():
    model = new_model()
    losses = script.name_losses(model, NAMES)
    mean = sum(loss for loss, _ in losses) / sum(size for _, size in losses)
    assert mean == pytest.approx(script.cross_entropy(*script.predict(model, NAMES)).item())


def test_the_float_model_has_no_rise_and_no_layer_error():
    model = new_model()
    evaluator = script.Evaluator(model, NAMES, NAMES[:2])

    class Exact:
        """Stands for a matrix that was stored without any loss."""

        def __init__(self, rows):
            self.rows = rows

        def num_bytes(self):
            return 1

        def weight(self):
            return self.rows

    exact = {name: Exact(getattr(model, name).data) for name in script.LAYERS}
    assert evaluator.measure(model, exact) == (7, 0.0, 0.0, 0.0)
