"""common/engine.py: the gradient of every operation, and what the engine promises about memory,
order, shapes and extreme numbers.
"""

from __future__ import annotations

import ast
import copy
import gc
import math
import random
import sys
import tracemalloc

import pytest
from engine_cases import CASES, EVERY_CASE, IDS, matrix, new_case, operations
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import COMMON, check_gradients

from common import engine
from common.engine import Tensor

each_case = pytest.mark.parametrize(("name", "variant"), EVERY_CASE, ids=IDS)
SEED, ROWS, COLUMNS = st.integers(0, 10**6), st.integers(1, 4), st.integers(1, 5)


def constant(data):
    return Tensor(data, requires_grad=False)


def tensors_of(case):
    return [Tensor(data) for data in case.inputs]


def ones(tensor, value=1.0):
    return [[value] * len(row) for row in tensor.data]


def flat(rows):
    return [value for row in rows for value in row]


def assert_close(a, b, tolerance=1e-12):
    assert [len(row) for row in a] == [len(row) for row in b]
    assert flat(a) == pytest.approx(flat(b), rel=tolerance, abs=tolerance)


# === NOTHING IS LEFT OUT ===


def test_every_operation_is_in_the_table():
    assert operations() == set(CASES), "add the new operation to CASES in tests/engine_cases.py"


def test_every_helper_has_a_test_of_its_own():
    body = ast.parse((COMMON / "engine.py").read_text(encoding="utf-8")).body
    names = {node.name for node in body if isinstance(node, ast.FunctionDef)}
    names |= {t.id for node in body if isinstance(node, ast.Assign) for t in node.targets}
    missing = [n for n in sorted(names - operations()) if f"test_{n}" not in globals()]
    assert not missing, f"write test_<name> for {missing}"
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    methods = {node.name for node in classes["Tensor"].body if isinstance(node, ast.FunctionDef)}
    rest = methods - {name[7:] for name in operations() if name.startswith("Tensor.")}
    assert rest == {"__init__", "item", "backward"}, "test the new method of Tensor"
    assert set(classes) == {"Tensor"}, "test the new class"


# === EVERY GRADIENT ===


@each_case
@settings(max_examples=8)
@given(seed=SEED, rows=ROWS, columns=COLUMNS)
@example(seed=1, rows=1, columns=1)
@example(seed=2, rows=1, columns=5)
@example(seed=3, rows=4, columns=1)
def test_gradients_are_those_of_central_differences(name, variant, seed, rows, columns):
    case = new_case(name, variant, seed, rows, columns)
    check_gradients(lambda *tensors: case.run(name, list(tensors)), *case.inputs)


@each_case
@pytest.mark.parametrize("seed", range(3))
def test_frozen_inputs_receive_nothing_and_change_nothing(name, variant, seed):
    case = new_case(name, variant, seed, 3, 3)
    free = tensors_of(case)
    out = case.run(name, free)
    out.backward(ones(out, 0.5))
    for frozen in range(len(free)):
        mixed = [Tensor(data, requires_grad=i != frozen) for i, data in enumerate(case.inputs)]
        out = case.run(name, mixed)
        assert out.requires_grad == (len(mixed) > 1)
        if out.requires_grad:
            out.backward(ones(out, 0.5))
        grads = [None if i == frozen else tensor.grad for i, tensor in enumerate(free)]
        assert [tensor.grad for tensor in mixed] == grads
    all_frozen = case.run(name, [constant(data) for data in case.inputs])
    assert all_frozen.data == out.data
    assert (all_frozen.requires_grad, all_frozen.parents, all_frozen.pass_back) == (False, (), None)


@each_case
@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_changed_in_place(name, variant, seed):
    """Neither inputs nor the gradient that arrives; what was handed out once stays as it was."""
    case = new_case(name, variant, seed, 3, 4)
    tensors = tensors_of(case)
    out = case.run(name, tensors)
    data, d_out = copy.deepcopy(out.data), matrix(random.Random(seed), len(out.data), 1)
    d_out = [row * len(out.data[0]) for row in d_out]
    given_d_out, inputs = copy.deepcopy(d_out), copy.deepcopy(case.inputs)
    out.backward(d_out)
    first = [tensor.grad for tensor in tensors]
    kept = copy.deepcopy(first)
    case.run(name, tensors).backward(d_out)
    assert (case.inputs, d_out, out.data, first) == (inputs, given_d_out, data, kept)
    for tensor, grad in zip(tensors, kept):  # and what came second was added
        assert tensor.grad == [[2.0 * g for g in row] for row in grad]


SPANS = [(0, 1), (0, 2), (1, 3)]
IN_EVERY_PLACE = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "mm": engine.mm,
    "linear": engine.linear,
    "attention": lambda q, k, v: engine.scaled_dot_product_attention(q, k, v, 3, SPANS),
}


@pytest.mark.parametrize("function", IN_EVERY_PLACE.values(), ids=IN_EVERY_PLACE)
def test_one_tensor_in_every_place_receives_the_sum(function):
    data = matrix(random.Random(0), 3, 3)
    apart, shared = [Tensor(data) for _ in range(3)], Tensor(data)
    count = function.__code__.co_argcount if function is not engine.linear else 2
    for tensors in (apart[:count], [shared] * count):
        function(*tensors).backward(matrix(random.Random(1), 3, 3))
    total = apart[0].grad
    for tensor in apart[1:count]:
        total = engine.add_matrices(total, tensor.grad)
    assert_close(shared.grad, total)


# === THE GRAPH ===


def test_diamonds_add_up_all_paths():
    a = Tensor([[1.0]])
    b = a + a
    (b + b).backward()
    assert a.grad == [[4.0]]


def test_sixty_doublings_have_two_to_the_sixty_paths_and_are_walked_once():
    x = top = Tensor([[1.0]])
    for _ in range(60):
        top = top + top
    top.backward()
    assert x.grad == [[2.0**60]]


@given(st.integers(0, 10**6))
def test_random_graphs_have_the_gradients_of_trial(seed):
    """Any sharing, any order of visits: results of results, used several times or not at all."""

    def build(*leaves):
        rng, made = random.Random(seed), list(leaves)
        for _ in range(rng.randint(1, 12)):
            a, b = rng.choice(made), rng.choice(made)
            kind = rng.randrange(6)
            if kind == 0:
                made.append(a + b)
            elif kind == 1:
                made.append(a - b * 0.5)
            elif kind == 2:
                made.append(engine.tanh(a) * b)
            elif kind == 3:
                made.append(engine.mm(a, engine.softmax(b)))
            elif kind == 4:
                made.append(engine.rms_norm(engine.t(a) + b, eps=0.1))
            else:
                made.append(engine.linear(engine.sigmoid(a), b))
        return made[-1] + leaves[0]

    rng = random.Random(seed + 1)
    check_gradients(build, *[matrix(rng, 2, 2) for _ in range(3)], tolerance=1e-5)


def test_gradients_add_up_over_graphs_and_an_unused_leaf_has_none():
    a, b, unused = Tensor([[2.0, 3.0]]), Tensor([[5.0, 7.0]]), Tensor([[1.0, 1.0]])
    (a * b).backward([[1.0, 1.0]])
    (a * b).backward([[1.0, 10.0]])
    assert (a.grad, b.grad) == ([[10.0, 77.0]], [[4.0, 33.0]])
    assert unused.grad is None


def test_a_gradient_that_two_tensors_share_is_not_changed_for_one():
    a, b = Tensor([[1.0, 2.0]]), Tensor([[3.0, 4.0]])
    start = [[1.0, 1.0]]
    (a + b).backward(start)
    (a * 2.0).backward([[1.0, 1.0]])
    assert (a.grad, b.grad, start) == ([[3.0, 3.0]], [[1.0, 1.0]], [[1.0, 1.0]])


def test_a_second_backward_through_one_graph_is_refused():
    a = Tensor([[2.0]])
    middle = a * a
    loss = middle * middle
    loss.backward()
    assert a.grad == [[32.0]]
    with pytest.raises(RuntimeError, match="already"):
        loss.backward()
    with pytest.raises(RuntimeError, match="already"):
        (middle * 3.0).backward()  # a new result on top of a graph that is gone
    assert a.grad == [[32.0]]
    a.backward()  # a leaf has no graph that could be gone
    assert a.grad == [[33.0]]


def test_a_frozen_leaf_keeps_no_graph():
    frozen, free = constant([[1.0, 2.0]]), Tensor([[3.0, 4.0]])
    kept = engine.tanh(frozen * 2.0) + frozen
    assert (kept.requires_grad, kept.parents, kept.pass_back) == (False, (), None)
    out = kept * free
    assert out.requires_grad and out.parents == (kept, free)
    out.backward([[1.0, 1.0]])
    assert (frozen.grad, kept.grad, free.grad) == (None, None, kept.data)


def test_backward_starts_from_one_number_or_from_a_gradient_of_its_shape():
    for data in ([[1.0, 2.0]], [[1.0], [2.0]]):
        with pytest.raises(ValueError, match=r"\[1\]\[1\]"):
            (Tensor(data) * 2.0).backward()
    x = Tensor([[1.0, 2.0]])
    for grad in ([[1.0]], [[1.0], [1.0]], [[1.0, 1.0, 1.0]]):
        with pytest.raises(ValueError, match=r"shapes differ: \(1, 2\) and"):
            (x * 2.0).backward(grad)
    assert x.grad is None


def test_item_is_the_one_number():
    assert Tensor([[2.5]]).item() == 2.5
    for data in ([[1.0, 2.0]], [[1.0], [2.0]]):
        with pytest.raises(ValueError):
            Tensor(data).item()


# === MEMORY ===


@pytest.fixture
def no_collector():
    """No cyclic garbage collector, and what was there before is hidden from gc's functions."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def num_tensors():
    """How many were made since the collector was switched off, and are alive."""
    return sum([type(thing) is Tensor for thing in gc.get_objects()])


def chain(x, length, step):
    for _ in range(length):
        x = step(x)
    return x


@pytest.mark.parametrize(
    "step",
    [lambda x: x + x, lambda x: x * 1.0, engine.relu, lambda x: engine.linear(x, Tensor([[1.0]]))],
    ids=["add", "scale", "relu", "linear"],
)
@pytest.mark.parametrize("run_backward", [True, False], ids=["backward", "dropped"])
def test_a_chain_of_100_000_neither_overflows_nor_leaks(step, run_backward, no_collector):
    x = Tensor([[0.0 if step(Tensor([[1.0]])).item() == 2.0 else 1.0]])
    top = chain(x, 100_000, step)
    if run_backward:
        top.backward([[0.0]])
        assert x.grad == [[0.0]]
    del top
    assert num_tensors() == 1  # x itself; all else was freed without the collector
    assert gc.collect() == 0


@each_case
@pytest.mark.parametrize("run_backward", [True, False], ids=["backward", "dropped"])
def test_no_operation_leaves_garbage(name, variant, run_backward, no_collector):
    case = new_case(name, variant, 1, 3, 3)
    tensors = tensors_of(case)
    out = case.run(name, tensors)
    if run_backward:
        out.backward(ones(out))
    del out
    assert num_tensors() == len(tensors)
    assert gc.collect() == 0


def test_memory_is_flat_over_1000_steps_of_training(no_collector):
    rng = random.Random(0)
    w1, w2, gain = Tensor(matrix(rng, 4, 3)), Tensor(matrix(rng, 3, 4)), Tensor([[1.0] * 4])
    table = Tensor(matrix(rng, 5, 3))
    parameters = [w1, w2, gain, table]

    def step():
        x = engine.embedding(table, [0, 1, 4, 1])
        x = x + engine.scaled_dot_product_attention(x, x, x, 1, [(0, i + 1) for i in range(4)])
        h = engine.rms_norm(engine.gelu(engine.linear(x, w1)), gain)
        loss = engine.cross_entropy(engine.linear(h, w2), [0, 1, 2, 0])
        loss.backward()
        for p in parameters:
            p.data = [[v - 0.01 * g for v, g in zip(*rows)] for rows in zip(p.data, p.grad)]
            p.grad = None

    tracemalloc.start()
    memory, objects = [], []
    for _ in range(10):
        for _ in range(100):
            step()
        memory.append(tracemalloc.get_traced_memory()[0])
        objects.append(len(gc.get_objects()))
    tracemalloc.stop()
    # A leaked step would hold about 20 kB, so 900 of them 18 MB. Python itself keeps up to 2,000
    # freed tuples of a length for the next use, which is why the limit is not zero.
    assert max(memory[1:]) - memory[1] < 200_000, memory
    assert max(objects[1:]) - objects[1] < 10, objects
    assert gc.collect() == 0


def test_memory_falls_while_gradients_flow():
    """backward() frees each result after its use: its peak is far below holding all gradients."""
    x = Tensor([[1.0] * 1000])
    top = chain(x, 200, engine.tanh)
    tracemalloc.start()
    top.backward([[1.0] * 1000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 1000 * 24  # 200 gradients of 1000 floats would be 6.4 MB


# === SHAPES THAT DO NOT FIT ===

A, B = [[1.0, 2.0], [3.0, 4.0]], [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
ROW2, ROW3 = [[1.0, 2.0]], [[1.0, 2.0, 3.0]]
SDPA = {"num_heads": 1, "spans": [(0, 1), (0, 2)]}
UNFIT = {
    # operation and inputs: numbers that the message must name
    "add": (lambda a, b: a + b, (A, B), ("(2, 2)", "(2, 3)")),
    "add a row": (lambda a, b: a + b, (A, ROW2), ("(2, 2)", "(1, 2)")),
    "subtract": (lambda a, b: a - b, (A, B), ("(2, 2)", "(2, 3)")),
    "subtract a row": (lambda a, b: a - b, (ROW2, A), ("(1, 2)", "(2, 2)")),
    "multiply": (lambda a, b: a * b, (A, B), ("(2, 2)", "(2, 3)")),
    "multiply a row": (lambda a, b: a * b, (B, ROW3), ("(2, 3)", "(1, 3)")),
    "linear": (engine.linear, (A, B), ("2 columns", "weight 3")),
    "bias too short": (engine.linear, (B, B, [[1.0]]), ("(1, 1)", "(1, 2)")),
    "bias too long": (engine.linear, (B, B, ROW3), ("(1, 3)", "(1, 2)")),
    "bias of two rows": (engine.linear, (B, B, A), ("(2, 2)", "(1, 2)")),
    "mm": (engine.mm, (B, A), ("3 columns", "2 rows")),
    "reshape": (lambda x: engine.reshape(x, 4), (B,), ("2 x 3", "4")),
    "reshape to nothing": (lambda x: engine.reshape(x, 0), (B,), ("2 x 3", "0")),
    "reshape to -1": (lambda x: engine.reshape(x, -1), (B,), ("2 x 3", "-1")),
    "image": (
        lambda x, w: engine.conv2d(x, w, None, (1, 2, 2), 0),
        (B, [[1.0]]),
        ("(1, 2, 2)", "3"),
    ),
    "filter": (lambda x, w: engine.conv2d(x, w, None, (1, 1, 3), 0), (B, B), ("3", "1")),
    "filter too large": (
        lambda x, w: engine.conv2d(x, w, None, (1, 1, 3), 0),
        (B, [[1.0] * 4]),
        ("2 x 2", "1 x 3"),
    ),
    "filter's bias": (
        lambda x, w, b: engine.conv2d(x, w, b, (1, 1, 3), 0),
        (B, [[1.0]], ROW2),
        ("(1, 2)", "(1, 1)"),
    ),
    "pool's image": (lambda x: engine.max_pool2d(x, (1, 2, 2), 1), (B,), ("(1, 2, 2)", "3")),
    "tile": (lambda x: engine.max_pool2d(x, (1, 1, 3), 2), (B,), ("2 x 2", "1 x 3")),
    "no tile": (lambda x: engine.max_pool2d(x, (1, 1, 3), 0), (B,), ("0 x 0", "1 x 3")),
    "rms_norm": (engine.rms_norm, (B, ROW2), ("(1, 2)", "(1, 3)")),
    "layer_norm": (engine.layer_norm, (B, ROW2, ROW3), ("(1, 2)", "(1, 3)")),
    "layer_norm's bias": (engine.layer_norm, (A, ROW2, ROW3), ("(1, 3)", "(1, 2)")),
    "heads": (
        lambda q: engine.scaled_dot_product_attention(q, q, q, 2, [(0, 1), (0, 2)]),
        (B,),
        ("3 columns", "2 heads"),
    ),
    "q and k": (
        lambda *qkv: engine.scaled_dot_product_attention(*qkv, **SDPA),
        (A, B, B),
        ("(2, 2)", "(2, 3)"),
    ),
    "k and v": (
        lambda *qkv: engine.scaled_dot_product_attention(*qkv, **SDPA),
        (A, A, ROW2),
        ("(2, 2)", "(1, 2)"),
    ),
    "spans": (
        lambda q: engine.scaled_dot_product_attention(q, q, q, 1, [(0, 1)]),
        (A,),
        ("2 queries", "1 spans"),
    ),
    "targets": (lambda x: engine.cross_entropy(x, [0]), (A,), ("2 rows", "1 targets")),
    "a class too many": (lambda x: engine.cross_entropy(x, [0, 2]), (A,), ("0..1",)),
    "a class below zero": (lambda x: engine.log_prob(x, [0, -1]), (A,), ("0..1",)),
    "mse": (lambda x: engine.mse_loss(x, B), (A,), ("2 x 2", "2 x 3")),
    "bce": (lambda x: engine.binary_cross_entropy_with_logits(x, ROW2), (A,), ("2 x 2", "1 x 2")),
}


@pytest.mark.parametrize(("function", "inputs", "numbers"), UNFIT.values(), ids=UNFIT)
def test_shapes_that_do_not_fit_are_refused_by_name(function, inputs, numbers):
    with pytest.raises(ValueError) as refused:
        function(*map(Tensor, inputs))
    assert all([number in str(refused.value) for number in numbers]), refused.value


@pytest.mark.parametrize("span", [(0, 0), (1, 1), (2, 1), (-1, 1), (0, 3), (2, 3)])
def test_empty_spans_and_spans_outside_of_the_keys_are_refused(span):
    x = Tensor(A)
    with pytest.raises(ValueError, match="2 keys"):
        engine.scaled_dot_product_attention(x, x, x, 1, [(0, 1), span])


def test_a_row_that_is_not_there_cannot_be_picked():
    # A negative number would read from the end, which no caller means.
    for wrong in (2, -1):
        with pytest.raises(ValueError, match=r"rows 0\.\.1"):
            engine.embedding(Tensor(A), [0, wrong])
        with pytest.raises(ValueError, match=r"rows 0\.\.1"):
            engine.embedding_bag(Tensor(A), [[0], [wrong]])


# === EXTREME NUMBERS ===

EXTREME = [
    [1000.0, -1000.0, 0.0],
    [-1000.0, -1000.0, -1000.0],
    [1e5, 1e5, 1e5],
    [1e300, 1e300, -1e300],
    [-1e300, -1e300, -1e300],
    [5e-324, -5e-324, 0.0],
]
SMOOTH = ["relu", "leaky_relu", "tanh", "sigmoid", "silu", "gelu", "softmax"]
LOSSES = {
    "cross_entropy": lambda x: engine.cross_entropy(x, [1] * len(EXTREME)),
    "log_prob": lambda x: engine.log_prob(x, [1] * len(EXTREME)),
    "binary_cross_entropy_with_logits": lambda x: engine.binary_cross_entropy_with_logits(
        x, [[0.0, 1.0, 0.5]] * len(EXTREME)
    ),
    **{name: getattr(engine, name) for name in SMOOTH},
}


@pytest.mark.parametrize("function", LOSSES.values(), ids=LOSSES)
def test_extreme_inputs_stay_finite(function):
    x = Tensor(EXTREME)
    out = function(x)
    out.backward(ones(out))
    assert all(map(math.isfinite, flat(out.data) + flat(x.grad)))


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0, 1e5])
def test_what_is_added_to_all_logits_changes_nothing(shift):
    logits = [[0.0, 1.0, -2.0], [3.0, 3.0, 3.0]]
    moved = [[z + shift for z in row] for row in logits]
    assert_close(engine.softmax(Tensor(moved)).data, engine.softmax(Tensor(logits)).data, 1e-9)
    for loss in (engine.cross_entropy, engine.log_prob):
        here, there = Tensor(logits), Tensor(moved)
        for x in (here, there):
            out = loss(x, [1, 2])
            out.backward(ones(out))
        assert_close(loss(here, [1, 2]).data, loss(there, [1, 2]).data, 1e-9)
        assert_close(here.grad, there.grad, 1e-9)


def test_a_hopeless_logit_costs_what_it_should():
    logits = Tensor([[1000.0, -1000.0]])
    loss = engine.cross_entropy(logits, [1])
    loss.backward()
    assert (loss.item(), logits.grad) == (2000.0, [[1.0, -1.0]])
    z = Tensor([[1000.0, -1000.0]])
    loss = engine.binary_cross_entropy_with_logits(z, [[0.0, 1.0]])
    loss.backward()
    assert (loss.item(), z.grad) == (1000.0, [[0.5, -0.5]])


def test_one_class_leaves_nothing_to_learn():
    for function in (engine.softmax, lambda x: engine.cross_entropy(x, [0, 0]),
                     lambda x: engine.log_prob(x, [0, 0])):  # fmt: skip
        x = Tensor([[3.0], [-700.0]])
        out = function(x)
        out.backward(ones(out))
        assert set(flat(out.data)) <= {0.0, 1.0} and flat(x.grad) == [0.0, 0.0]


def test_rows_of_zeros():
    x = Tensor([[0.0, 0.0]])
    out = engine.normalize(x)
    out.backward([[1.0, 2.0]])
    assert (out.data, x.grad) == ([[0.0, 0.0]], [[1e12, 2e12]])
    x = Tensor([[0.0, 0.0]])
    out = engine.rms_norm(x, eps=0.25)
    out.backward([[1.0, 2.0]])
    assert (out.data, x.grad) == ([[0.0, 0.0]], [[2.0, 4.0]])
    row = Tensor([[1.0, 1.0]])
    out = engine.layer_norm(Tensor([[7.0, 7.0]]), row, row)
    assert out.data == [[1.0, 1.0]]


@pytest.mark.parametrize("name", ["relu", "leaky_relu"])
def test_the_slope_at_zero_is_that_of_the_left(name):
    x = Tensor([[0.0, -0.0, 1.0, -1.0]])
    out = getattr(engine, name)(x)
    out.backward([[1.0] * 4])
    left = {"relu": 0.0, "leaky_relu": 0.01}[name]
    assert x.grad == [[left, left, 1.0, left]]
    assert out.data == [[0.0, 0.0, 1.0, -left]]


# === ROWS THAT ARE PICKED ===


@given(SEED, st.integers(1, 5), st.integers(1, 3))
def test_bags_of_one_are_an_embedding_and_bags_are_sums(seed, rows, columns):
    rng = random.Random(seed)
    weight = Tensor(matrix(rng, rows, columns))
    ids = [rng.randrange(rows) for _ in range(rng.randint(1, 8))]
    picked = engine.embedding(weight, ids)
    picked.backward(ones(picked))
    counts = [[float(ids.count(i))] * columns for i in range(rows)]
    assert weight.grad == counts
    weight.grad = None
    single = engine.embedding_bag(weight, [[i] for i in ids])
    single.backward(ones(single))
    assert (single.data, weight.grad) == (picked.data, counts)
    weight.grad = None
    bag = engine.embedding_bag(weight, [ids])
    bag.backward(ones(bag))
    assert weight.grad == counts
    assert_close(bag.data, [[sum(column) for column in zip(*picked.data)]])


# === ATTENTION ===


def random_attention(seed):
    rng = random.Random(seed)
    case = new_case("scaled_dot_product_attention", "", seed, rng.randint(1, 5), rng.randint(1, 3))
    return rng, *case.inputs, case.settings["num_heads"], case.settings["spans"]


def attend(q, k, v, num_heads, spans):
    q, k, v = map(constant, (q, k, v))
    return engine.scaled_dot_product_attention(q, k, v, num_heads, spans).data


@given(SEED)
def test_a_query_reads_its_span_only(seed):
    rng, q, k, v, num_heads, spans = random_attention(seed)
    before = attend(q, k, v, num_heads, spans)
    changed = rng.randrange(len(k))
    k2, v2 = [list(row) for row in k], [list(row) for row in v]
    k2[changed] = [x + 1.0 for x in reversed(k[changed])]
    v2[changed] = [x + 1.0 for x in v[changed]]
    after = attend(q, k2, v2, num_heads, spans)
    for row, other, (first, stop) in zip(before, after, spans):
        assert (row == other) == (not first <= changed < stop)  # equal to the last bit, or not


@given(SEED)
def test_a_key_outside_of_all_spans_has_gradient_zero(seed):
    _, q, k, v, num_heads, spans = random_attention(seed)
    tensors = [Tensor(data) for data in (q, k, v)]
    out = engine.scaled_dot_product_attention(*tensors, num_heads, spans)
    out.backward(ones(out))
    for j in range(len(k)):
        if not any([first <= j < stop for first, stop in spans]):
            for tensor in tensors[1:]:
                assert tensor.grad[j] == [0.0] * len(tensor.data[0])
                assert all([type(g) is float for g in tensor.grad[j]])


@given(SEED)
def test_some_of_the_queries_give_some_of_the_rows(seed):
    rng, q, k, v, num_heads, spans = random_attention(seed)
    rows = rng.sample(range(len(q)), rng.randint(1, len(q)))
    some = attend([q[i] for i in rows], k, v, num_heads, [spans[i] for i in rows])
    every = attend(q, k, v, num_heads, spans)
    assert some == [every[i] for i in rows]


@given(SEED, st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 9))
def test_a_cache_gives_what_packing_gives(seed, length, other, num_heads, window):
    """Sequences laid end to end, against one row at a time with what came before in a cache."""
    rng = random.Random(seed)
    spans = []
    for start, stop in ((0, length), (length, length + other)):
        spans += [(max(start, i + 1 - window), i + 1) for i in range(start, stop)]
    q, k, v = [matrix(rng, length + other, 2 * num_heads) for _ in range(3)]
    packed, cached = attend(q, k, v, num_heads, spans), []
    for start, stop in ((0, length), (length, length + other)):
        for i in range(start, stop):
            first = max(0, i - start + 1 - window)
            span = [(first, i - start + 1)]
            cached += attend([q[i]], k[start : i + 1], v[start : i + 1], num_heads, span)
    assert packed == cached


@given(SEED)
def test_heads_do_not_see_each_other(seed):
    _, q, k, v, num_heads, spans = random_attention(seed)
    heads = zip(*[engine.split_heads(x, num_heads) for x in (q, k, v)])
    single = [attend(*head, 1, spans) for head in heads]
    assert engine.join_heads(single) == attend(q, k, v, num_heads, spans)


# === DROPOUT AND POOLING ===


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(p):
    x = Tensor([[1.0] * 200] * 200)
    out = engine.dropout(x, p, random.Random(0))
    values = flat(out.data)
    assert set(values) == {0.0, 1.0 / (1.0 - p)}
    spread = math.sqrt(p / (1.0 - p) / len(values))
    assert sum(values) / len(values) == pytest.approx(1.0, abs=4 * spread)
    out.backward(ones(out))
    assert x.grad == out.data  # where an entry was dropped, no gradient comes back


def test_dropout_is_off_at_zero():
    x = Tensor(B)
    out = engine.dropout(x, 0.0, random.Random(0))
    out.backward([[3.0] * 3] * 2)
    assert (out.data, x.grad) == (B, [[3.0] * 3] * 2)


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, math.nan])
def test_dropout_refuses_what_is_no_probability_below_one(p):
    with pytest.raises(ValueError, match="probability"):
        engine.dropout(Tensor(A), p, random.Random(0))


def test_of_equal_pixels_the_first_wins():
    x = Tensor([[1.0, 2.0, 2.0, 2.0], [5.0, 5.0, 5.0, 5.0]])
    out = engine.max_pool2d(x, (1, 2, 2), 2)
    out.backward([[1.0], [10.0]])
    assert out.data == [[2.0], [5.0]]
    assert x.grad == [[0.0, 1.0, 0.0, 0.0], [10.0, 0.0, 0.0, 0.0]]


def test_pixels_that_no_tile_covers_are_not_read():
    x = Tensor([[1.0, 2.0, 99.0, 3.0, 4.0, 99.0, 99.0, 99.0, 99.0]])
    out = engine.max_pool2d(x, (1, 3, 3), 2)
    out.backward([[1.0]])
    assert out.data == [[4.0]]
    assert x.grad == [[0.0] * 4 + [1.0] + [0.0] * 4]


# === THE HELPERS ===


@given(SEED, st.integers(1, 9))
def test_dot(seed, length):
    rng = random.Random(seed)
    a, b = [[rng.uniform(-2, 2) for _ in range(length)] for _ in range(2)]
    expected = math.fsum([x * y for x, y in zip(a, b)])
    assert engine.dot(a, b) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert (engine.dot is getattr(math, "sumprod", None)) == (sys.version_info >= (3, 12))


@given(SEED, ROWS, COLUMNS)
def test_transpose(seed, rows, columns):
    a = matrix(random.Random(seed), rows, columns)
    turned = engine.transpose(a)
    assert [len(turned), len(turned[0])] == [columns, rows]
    assert all([turned[j][i] == a[i][j] for i in range(rows) for j in range(columns)])
    assert engine.transpose(turned) == a


@given(SEED, ROWS, COLUMNS, st.integers(1, 4))
def test_matmul(seed, rows, columns, inner):
    rng = random.Random(seed)
    a, b = matrix(rng, rows, inner), matrix(rng, inner, columns)
    expected = [
        [math.fsum([a[i][k] * b[k][j] for k in range(inner)]) for j in range(columns)]
        for i in range(rows)
    ]
    assert_close(engine.matmul(a, b), expected)


@given(SEED, st.integers(1, 9), st.floats(-1e3, 1e3))
def test_softmax_row(seed, length, shift):
    rng = random.Random(seed)
    scores = [rng.uniform(-3, 3) for _ in range(length)]
    weights = engine.softmax_row(scores)
    assert math.fsum(weights) == pytest.approx(1.0, rel=1e-14)
    assert all([w > 0.0 for w in weights])
    for i in range(length):
        ratio = math.exp(scores[i] - scores[0])
        assert weights[i] / weights[0] == pytest.approx(ratio, rel=1e-12)
    assert engine.softmax_row([s + shift for s in scores]) == pytest.approx(weights, rel=1e-9)
    assert engine.softmax_row([-math.inf, 0.0]) == [0.0, 1.0]


@given(SEED, st.integers(1, 9))
def test_log_sum_exp(seed, length):
    rng = random.Random(seed)
    scores = [rng.uniform(-30, 30) for _ in range(length)]
    expected = math.log(math.fsum(map(math.exp, scores)))
    assert engine.log_sum_exp(scores) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    assert engine.log_sum_exp([-1e4] * 8) == pytest.approx(-1e4 + math.log(8), rel=1e-14)


def test_add_matrices():
    a, b = [[1.0, 2.0]] * 2, [[10.0, 20.0], [30.0, 40.0]]
    assert engine.add_matrices(a, b) == [[11.0, 22.0], [31.0, 42.0]]
    assert (a, b) == ([[1.0, 2.0]] * 2, [[10.0, 20.0], [30.0, 40.0]])


def test_check_same_shape():
    assert engine.check_same_shape(Tensor(A), Tensor(A)) is None
    with pytest.raises(ValueError, match=r"shapes differ: \(2, 2\) and \(2, 3\)"):
        engine.check_same_shape(Tensor(A), Tensor(B))


def test_check_is_row():
    assert engine.check_is_row(Tensor(ROW3), 3) is None
    for data in (ROW2, B):
        with pytest.raises(ValueError, match=r"shapes differ: .* and \(1, 3\)"):
            engine.check_is_row(Tensor(data), 3)


def test_raise_graph_is_gone():
    with pytest.raises(RuntimeError, match="forward again"):
        engine.raise_graph_is_gone([[1.0]])


@given(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2)
)
def test_patch_places(channels, height, width, kernel, padding):
    """Each place of the filter reads the window of the padded image that one would cut out."""
    places = engine.patch_places((channels, height, width), kernel, padding)
    row = [float(i) for i in range(1, channels * height * width + 1)] + [0.0]
    padded = [[[0.0] * (width + 2 * padding) for _ in range(height + 2 * padding)]
              for _ in range(channels)]  # fmt: skip
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                padded[c][i + padding][j + padding] = row[(c * height + i) * width + j]
    windows = [
        [
            padded[c][top + i][left + j]
            for c in range(channels)
            for i in range(kernel)
            for j in range(kernel)
        ]  # fmt: skip
        for top in range(height + 2 * padding - kernel + 1)
        for left in range(width + 2 * padding - kernel + 1)
    ]
    assert [[row[i] for i in place] for place in places] == windows


@given(st.floats(-40, 40))
def test_sigmoid_of(value):
    assert engine.sigmoid_of(value) == pytest.approx(1.0 / (1.0 + math.exp(-value)), rel=1e-12)
    assert engine.sigmoid_of(value) + engine.sigmoid_of(-value) == pytest.approx(1.0, rel=1e-14)
    assert (engine.sigmoid_of(1e300), engine.sigmoid_of(-1e300)) == (1.0, 0.0)


@given(st.floats(-30, 30))
def test_softplus(value):
    assert engine.softplus(value) == pytest.approx(math.log1p(math.exp(value)), rel=1e-12)
    assert engine.softplus(value) - engine.softplus(-value) == pytest.approx(value, abs=1e-12)
    assert (engine.softplus(1e300), engine.softplus(-1e300)) == (1e300, 0.0)


@given(SEED)
def test_attention_head(seed):
    """Weights by the formula, one number at a time; a convex mix of the values in the span."""
    _, q, k, v, _, spans = random_attention(seed)
    output, weights = engine.attention_head(q, k, v, spans)
    for query, row, mixed, (first, stop) in zip(q, weights, output, spans):
        exponentials = [
            math.exp(math.fsum([a * b for a, b in zip(query, key)]) / math.sqrt(len(query)))
            for key in k[first:stop]
        ]
        total = math.fsum(exponentials)
        assert row == pytest.approx([e / total for e in exponentials], rel=1e-9)
        for j, value in enumerate(mixed):
            column = [line[j] for line in v[first:stop]]
            assert min(column) - 1e-12 <= value <= max(column) + 1e-12
            expected = math.fsum([w * x for w, x in zip(row, column)])
            assert value == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(SEED)
def test_attention_head_backward(seed):
    """The gradients against moving each entry of q, k and v up and down."""
    rng, q, k, v, _, spans = random_attention(seed)
    output, weights = engine.attention_head(q, k, v, spans)
    d_output = matrix(rng, len(output), len(output[0]))
    readers = [
        [i for i, (first, stop) in enumerate(spans) if first <= j < stop] for j in range(len(k))
    ]
    found = engine.attention_head_backward(q, k, v, spans, readers, weights, d_output)

    def value(*matrices):
        return math.fsum(map(engine.dot, engine.attention_head(*matrices, spans)[0], d_output))

    for which, (given_matrix, grad) in enumerate(zip((q, k, v), found)):
        i, j = rng.randrange(len(given_matrix)), rng.randrange(len(given_matrix[0]))
        ends = []
        for move in (1e-5, -1e-5):
            matrices = [copy.deepcopy(x) for x in (q, k, v)]
            matrices[which][i][j] += move
            ends.append(value(*matrices))
        assert grad[i][j] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6, abs=1e-6)


@given(SEED, ROWS, st.integers(1, 4), st.integers(1, 3))
def test_split_heads(seed, rows, num_heads, width):
    x = matrix(random.Random(seed), rows, num_heads * width)
    heads = engine.split_heads(x, num_heads)
    assert len(heads) == num_heads
    for h, head in enumerate(heads):
        assert head == [row[h * width : (h + 1) * width] for row in x]
    with pytest.raises(ValueError, match="do not split"):
        engine.split_heads(x, num_heads * width + 1)


@given(SEED, ROWS, st.integers(1, 4), st.integers(1, 3))
def test_join_heads(seed, rows, num_heads, width):
    x = matrix(random.Random(seed), rows, num_heads * width)
    assert engine.join_heads(engine.split_heads(x, num_heads)) == x


def test_check_targets():
    assert engine.check_targets(Tensor(B), [0, 2]) is None
    for targets in ([0], [0, 1, 2], [0, 3], [-1, 0]):
        with pytest.raises(ValueError):
            engine.check_targets(Tensor(B), targets)
