"""common/optim.py: what each optimiser promises, whatever the gradients are."""

from __future__ import annotations

import ast
import math
import random

import pytest
from engine_cases import matrix
from hypothesis import given
from hypothesis import strategies as st
from support import COMMON

from common import optim
from common.engine import Tensor, embedding, mse_loss
from common.optim import SGD, Adam, AdamW, SparseAdam, clip_grad_norm_

OPTIMISERS = {
    "SGD": SGD,
    "SGD-momentum": lambda parameters: SGD(parameters, momentum=0.9),
    "Adam": Adam,
    "AdamW": AdamW,
    "SparseAdam": SparseAdam,
}
each_optimiser = pytest.mark.parametrize("make", OPTIMISERS.values(), ids=OPTIMISERS)
SEED, SCALE = st.integers(0, 10**6), st.floats(-12, 12).map(lambda e: 10.0**e)


def flat(rows):
    return [x for row in rows for x in row]


def new_parameter(seed, rows=3, columns=2):
    return Tensor(matrix(random.Random(seed), rows, columns))


def test_every_optimiser_is_tested():
    body = ast.parse((COMMON / "optim.py").read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert names == {*[key.split("-")[0] for key in OPTIMISERS], "clip_grad_norm_"}
    assert all([hasattr(optim, name) for name in names])


# === ALL OF THEM ===


@each_optimiser
def test_gradients_are_cleared_and_missing_ones_passed_over(make):
    used, unused = new_parameter(0), new_parameter(1)
    optimiser = make([used, unused])
    before, kept = used.data, unused.data
    for _ in range(3):
        used.grad = matrix(random.Random(2), 3, 2)
        optimiser.step(0.1)
        assert (used.grad, unused.grad) == (None, None)
    assert used.data != before
    assert unused.data is kept
    unmoved = used.data
    optimiser.step(0.1)  # no gradient, no step: not even by what is left of the last ones
    assert used.data is unmoved


@each_optimiser
def test_data_and_gradients_are_replaced_and_never_changed(make):
    """A copy of .data that somebody holds (a reference model, say) stays what it was."""
    parameter = new_parameter(0)
    held, grad = parameter.data, matrix(random.Random(1), 3, 2)
    before, given_grad = [list(row) for row in held], [list(row) for row in grad]
    optimiser = make([parameter])
    for _ in range(3):
        parameter.grad = grad
        optimiser.step(0.1)
        assert (held, grad) == (before, given_grad)


@each_optimiser
def test_a_rate_of_zero_moves_nothing(make):
    parameter = new_parameter(0)
    before = [list(row) for row in parameter.data]
    optimiser = make([parameter])
    parameter.grad = matrix(random.Random(1), 3, 2)
    optimiser.step(0.0)
    assert parameter.data == before


@each_optimiser
def test_it_finds_the_bottom_of_a_bowl(make):
    parameter, goal = new_parameter(0), [[0.3, -0.2], [0.1, 0.2], [-0.4, 0.0]]
    optimiser = make([parameter])
    for step in range(400):
        mse_loss(parameter, goal).backward()
        optimiser.step(0.2 * (1.0 - step / 400))
    assert flat(parameter.data) == pytest.approx(flat(goal), abs=0.02)


@each_optimiser
def test_parameters_do_not_touch_each_other(make):
    """Each one moves as it would alone, though another joins later or is left out for a while."""

    def run(with_other):
        first, other = new_parameter(0), new_parameter(1)
        optimiser = make([other, first] if with_other else [first])
        for step in range(6):
            first.grad = matrix(random.Random(step), 3, 2)
            other.grad = matrix(random.Random(50 + step), 3, 2) if step in (2, 5) else None
            optimiser.step(0.1)
        return first.data

    assert run(True) == run(False)


# === EACH BY ITSELF ===


@given(SEED, SCALE, st.sampled_from([Adam, SparseAdam]))
def test_the_first_step_of_adam_is_the_rate_times_the_sign(seed, scale, make):
    """Without bias correction it would be 3.16 times as long, (1 - 0.9) / sqrt(1 - 0.999)."""
    parameter = new_parameter(seed)
    before, grad = parameter.data, matrix(random.Random(seed + 1), 3, 2)
    parameter.grad = [[scale * g for g in row] for row in grad]
    make([parameter], eps=0.0).step(0.01)
    for x, y, g in zip(flat(before), flat(parameter.data), flat(grad)):
        assert x - y == pytest.approx(math.copysign(0.01, g), rel=1e-9)


@given(SEED, SCALE, st.sampled_from([Adam, SparseAdam]))
def test_the_scale_of_the_loss_is_nothing_to_adam(seed, scale, make):
    parameters = [new_parameter(seed), new_parameter(seed)]
    for parameter, factor in zip(parameters, (1.0, scale)):
        optimiser = make([parameter], eps=0.0)
        for step in range(5):
            grad = matrix(random.Random(seed + step), 3, 2)
            parameter.grad = [[factor * g for g in row] for row in grad]
            optimiser.step(0.01)
    assert flat(parameters[0].data) == pytest.approx(flat(parameters[1].data), rel=1e-9, abs=1e-12)


def test_eps_stands_outside_of_the_root():
    parameter = Tensor([[1.0]])
    parameter.grad = [[3.0]]
    Adam([parameter], eps=1.0).step(0.1)
    assert parameter.data[0][0] == pytest.approx(1.0 - 0.1 * 3.0 / (3.0 + 1.0), rel=1e-12)


@each_optimiser
def test_a_gradient_of_zero_never_divides_by_zero(make):
    parameter = Tensor([[1.0, 2.0]])
    optimiser = make([parameter])
    for _ in range(2):
        parameter.grad = [[0.0, 0.0]]
        optimiser.step(0.1)
    shrink = (1.0 - 0.1 * 0.01) ** 2 if isinstance(optimiser, AdamW) else 1.0
    assert flat(parameter.data) == pytest.approx([shrink, 2.0 * shrink], rel=1e-15)


@given(SEED, st.floats(0.001, 0.5), st.floats(0.0, 0.5), st.integers(1, 20))
def test_adamw_shrinks_a_weight_without_gradient_by_a_fixed_share(seed, lr, decay, steps):
    parameter = new_parameter(seed)
    before = flat(parameter.data)
    optimiser = AdamW([parameter], weight_decay=decay)
    for _ in range(steps):
        parameter.grad = [[0.0, 0.0]] * 3
        optimiser.step(lr)
    expected = [x * (1.0 - lr * decay) ** steps for x in before]
    assert flat(parameter.data) == pytest.approx(expected, rel=1e-12)


@given(SEED)
def test_adamw_without_decay_is_adam(seed):
    parameters = [new_parameter(seed), new_parameter(seed)]
    optimisers = [Adam([parameters[0]]), AdamW([parameters[1]], weight_decay=0.0)]
    for step in range(5):
        for parameter, optimiser in zip(parameters, optimisers):
            parameter.grad = matrix(random.Random(step), 3, 2)
            optimiser.step(0.1)
    assert parameters[0].data == parameters[1].data


@given(SEED, st.floats(0.0, 0.99), st.integers(1, 30))
def test_momentum_adds_up_to_a_geometric_series(seed, momentum, steps):
    parameter = new_parameter(seed)
    before, grad = flat(parameter.data), matrix(random.Random(seed + 1), 3, 2)
    optimiser = SGD([parameter], momentum=momentum)
    for _ in range(steps):
        parameter.grad = grad
        optimiser.step(0.1)
    total = sum([sum([momentum**i for i in range(t + 1)]) for t in range(steps)])
    expected = [x - 0.1 * g * total for x, g in zip(before, flat(grad))]
    assert flat(parameter.data) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(SEED)
def test_sparse_adam_is_adam_where_every_row_is_in_use(seed):
    parameters = [new_parameter(seed), new_parameter(seed)]
    optimisers = [Adam([parameters[0]]), SparseAdam([parameters[1]])]
    for step in range(8):
        for parameter, optimiser in zip(parameters, optimisers):
            parameter.grad = matrix(random.Random(seed + step), 3, 2)
            optimiser.step(0.1)
    assert flat(parameters[0].data) == pytest.approx(flat(parameters[1].data), rel=1e-12)


@given(SEED)
def test_sparse_adam_leaves_rows_alone_that_are_not_in_use(seed):
    rng = random.Random(seed)
    table = new_parameter(seed, rows=6, columns=3)
    optimiser = SparseAdam([table])
    for _ in range(8):
        ids = [rng.randrange(6) for _ in range(rng.randint(1, 4))]
        before = list(table.data)
        mean, square = list(optimiser.means[0]), list(optimiser.squares[0])
        mse_loss(embedding(table, ids), matrix(rng, len(ids), 3)).backward()
        optimiser.step(0.1)
        for i in range(6):
            states = (
                (before, table.data),
                (mean, optimiser.means[0]),
                (square, optimiser.squares[0]),
            )
            assert [old[i] is new[i] for old, new in states] == [i not in ids] * 3


# === CLIPPING ===


@given(SEED, st.floats(0.01, 100.0))
def test_clipping_keeps_the_direction_and_limits_the_length(seed, max_norm):
    parameters = [new_parameter(seed), new_parameter(seed + 1), new_parameter(seed + 2)]
    for i in (0, 2):
        parameters[i].grad = matrix(random.Random(seed + i), 3, 2)
    before = [g for i in (0, 2) for g in flat(parameters[i].grad)]
    norm = clip_grad_norm_(parameters, max_norm)
    after = [g for i in (0, 2) for g in flat(parameters[i].grad)]
    assert norm == pytest.approx(math.hypot(*before), rel=1e-12)
    factor = min(1.0, max_norm / norm)
    assert after == pytest.approx([g * factor for g in before], rel=1e-12)
    assert parameters[1].grad is None
    if norm <= max_norm:
        assert after == before  # short ones are not stretched


def test_clipping_nothing():
    parameter = new_parameter(0)
    assert clip_grad_norm_([parameter], 1.0) == clip_grad_norm_([], 1.0) == 0.0
    parameter.grad = [[0.0, 0.0]] * 3
    assert clip_grad_norm_([parameter], 1.0) == 0.0
    assert parameter.grad == [[0.0, 0.0]] * 3


def test_clipping_changes_no_shared_list():
    grad = [[3.0, 4.0]]
    one, two = Tensor([[0.0, 0.0]]), Tensor([[0.0, 0.0]])
    one.grad = two.grad = grad
    clip_grad_norm_([one], 1.0)
    assert (two.grad, grad) == ([[3.0, 4.0]], [[3.0, 4.0]])
    assert flat(one.grad) == pytest.approx([0.6, 0.8], rel=1e-15)
