"""microautograd: what its run must reach, which changes must break it, and its properties."""

from __future__ import annotations

import functools
import gc
import math
import random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import check_gradients, failed_bars, headline_of, load_script, run_main

SEEDS = (42, 1, 2)

BARS = (
    # Both engines and the trial are three opinions on the same gradients.
    "grad_max_diff <= 1e-12",
    "lockstep_max_diff <= 1e-10",
    "finite_difference_error <= 1e-5",
    "node_ratio >= 5000",
    "test_accuracy >= 0.87",
)


# === BROKEN TWINS ===


def value_that_passes_on(assign, *, reverse=True, in_order=True):
    """Value with its own backward(): assign(parent, part) keeps what arrives at a parent."""

    class Value(load_script("microautograd").Value):
        __slots__ = ()

        def backward(self):
            order, visited, stack = [], set(), [(self, False)]
            while stack:
                node, parents_are_listed = stack.pop()
                if parents_are_listed:
                    order.append(node)
                elif node not in visited:
                    visited.add(node)
                    if not in_order:
                        order.append(node)  # before its parents' other children were seen
                    else:
                        stack.append((node, True))
                    stack.extend([(parent, False) for parent in node.parents])
            self.grad = 1.0
            for node in reversed(order) if in_order else order:
                for parent, local_grad in zip(node.parents, node.local_grads):
                    assign(parent, node.grad * local_grad)

    # Operations of the base class make base nodes, so they are made anew for this class.
    for name in ("__add__", "__mul__", "relu", "exp", "log"):
        setattr(Value, name, remake(Value, name))
    return Value


def remake(cls, name):
    """The operation of the base class, with its result as a node of cls."""
    operation = getattr(cls.__mro__[1], name)

    def method(self, *others):
        result = operation(self, *others)
        return cls(result.data, result.parents, result.local_grads)

    return method


def add_up(parent, part):
    parent.grad += part


def keep_the_last(parent, part):
    parent.grad = part


def linear_with_transposed_weight_gradient(x, weight, bias=None):
    """linear whose d_weight is x^T d_out instead of d_out^T x, read row by row into its shape."""
    out = script.linear(x, weight, bias)
    honest = out.pass_back

    def pass_back(d_out):
        d_x, _, *rest = honest(d_out)
        flat = sum(script.matmul(script.transpose(x.data), d_out), [])
        width = len(weight.data[0])
        d_weight = [flat[i : i + width] for i in range(0, len(flat), width)]
        return d_x, d_weight, *rest

    if out.pass_back is not None:
        out.pass_back = pass_back
    return out


def relu_with_slope_one(x):
    """relu that forgets its slope on the way back."""
    out = script.relu(x)
    if out.pass_back is not None:
        out.pass_back = lambda d_out: (d_out,)
    return out


def mean_over_classes(logits, targets):
    """cross_entropy whose gradient forgets the onehot."""
    out = script.cross_entropy(logits, targets)

    def pass_back(d_out):
        factor = d_out[0][0] / len(targets)
        return ([[factor * p for p in script.softmax_row(row)] for row in logits.data],)

    if out.pass_back is not None:
        out.pass_back = pass_back
    return out


def descend_without_clearing():
    """The numbers' gradients are never cleared in lock step, those of the matrices are."""
    module = load_script("microautograd")
    honest = module.descend

    def descend(numbers, parameters):
        kept = [value.grad for matrix in numbers for row in matrix for value in row]
        honest(numbers, parameters)
        for value, grad in zip([v for m in numbers for row in m for v in row], kept):
            value.grad = grad

    return descend


def adam_without_clearing():
    """Adam that leaves the gradients where they are: each batch adds to all before it."""

    class Adam(load_script("microautograd").Adam):
        def step(self, lr):
            kept = [parameter.grad for parameter in self.parameters]
            super().step(lr)
            for parameter, grad in zip(self.parameters, kept):
                parameter.grad = grad

    return Adam


def loss_of_one_image_at_a_time(parameters, images, labels):
    """matrix_loss without batching: a small graph for each image, and their mean."""
    losses = [
        script.cross_entropy(script.matrix_logits(parameters, [image]), [label])
        for image, label in zip(images, labels)
    ]
    total = losses[0]
    for loss in losses[1:]:
        total = total + loss
    return total * (1.0 / len(losses))


VARIANTS = {
    "missing_accumulation": {"Value": value_that_passes_on(keep_the_last)},
    "wrong_order": {"Value": value_that_passes_on(add_up, in_order=False)},
    "scalar_never_cleared": {"descend": descend_without_clearing()},
    "transposed_gradient": {"linear": linear_with_transposed_weight_gradient},
    "relu_slope_one": {"relu": relu_with_slope_one},
    "no_onehot": {"cross_entropy": mean_over_classes},
    "one_image_at_a_time": {"matrix_loss": loss_of_one_image_at_a_time},
    "adam_never_cleared": {"Adam": adam_without_clearing()},
}

TWINS = {
    "missing_accumulation": "grad_max_diff <= 1e-12",
    "wrong_order": "grad_max_diff <= 1e-12",
    "scalar_never_cleared": "lockstep_max_diff <= 1e-10",
    "transposed_gradient": "finite_difference_error <= 1e-5",
    "relu_slope_one": "finite_difference_error <= 1e-5",
    "no_onehot": "test_accuracy >= 0.87",
    "one_image_at_a_time": "node_ratio >= 5000",
}

script = load_script("microautograd")
Value, Tensor = script.Value, script.Tensor
SEED = st.integers(0, 10**6)
SMALL = {"NUM_EPOCHS": 1, "RACE_ROUNDS": 1, "LOCK_STEPS": 2}


@pytest.fixture
def no_collector():
    """No cyclic garbage collector, and what was there before is hidden from gc's functions."""
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


@functools.cache
def small_headline(variant=None):
    return headline_of(run_main("microautograd", {**SMALL, **VARIANTS.get(variant, {})}))


@pytest.mark.parametrize("variant", [name for name in TWINS if "accuracy" not in TWINS[name]])
def test_twins_fail_their_bar_in_a_small_run_too(variant):
    bar = [TWINS[variant]]
    assert not failed_bars(small_headline(), bar)
    assert failed_bars(small_headline(variant), bar)


def test_a_break_in_the_first_engine_leaves_the_second_alone():
    """The engines differ then, and the central differences say which of them is right."""
    finite_differences = ["finite_difference_error <= 1e-5"]
    for broken in ("missing_accumulation", "wrong_order", "scalar_never_cleared"):
        assert small_headline(broken)["grad_max_diff"] > 1e-3
        assert not failed_bars(small_headline(broken), finite_differences)
    assert small_headline()["test_accuracy"] > 0.4
    assert small_headline("one_image_at_a_time")["grad_max_diff"] <= 1e-12


# === ONE NODE FOR EACH NUMBER ===


def random_expression(leaves, seed, length=15):
    """Values of values, used several times or not at all; none runs away or reaches a kink."""
    rng, made = random.Random(seed), list(leaves)
    for _ in range(rng.randint(1, length)):
        a, b = rng.choice(made), rng.choice(made[-5:])
        choices = [lambda a=a, b=b: a + b, lambda a=a: a * -0.7, lambda a=a: (a * a).log()]
        if abs(a.data * b.data) < 50:
            choices.append(lambda a=a, b=b: a * b)
        if a.data < 3:
            choices.append(a.exp)
        if abs(a.data) > 0.01:
            choices.append(a.relu)
        else:
            choices = choices[:2]  # near 0, log is steep
        made.append(rng.choice(choices)())
    total = made[-1]
    for node in made[-4:-1]:
        total = total + node
    return total


def leaf_values(seed, count=3):
    rng = random.Random(seed)
    return [rng.uniform(0.3, 2.0) * rng.choice((-1, 1)) for _ in range(count)]


@settings(max_examples=100)
@given(SEED)
def test_gradients_of_random_expressions_are_those_of_central_differences(seed):
    start = leaf_values(seed)
    leaves = list(map(Value, start))
    random_expression(leaves, seed).backward()
    for which, leaf in enumerate(leaves):
        ends = []
        for move in (1e-6, -1e-6):
            moved = [x + move * (i == which) for i, x in enumerate(start)]
            ends.append(random_expression(list(map(Value, moved)), seed).data)
        slope = (ends[0] - ends[1]) / 2e-6
        assume(abs(slope) < 1e4)
        assert leaf.grad == pytest.approx(slope, rel=1e-4, abs=1e-4)


@given(SEED)
def test_the_gradient_of_a_sum_is_the_sum_of_gradients(seed):
    start = leaf_values(seed)
    apart, together = list(map(Value, start)), list(map(Value, start))
    for other in (seed, seed + 1):  # gradients of two graphs add up
        random_expression(apart, other).backward()
    (random_expression(together, seed) + random_expression(together, seed + 1)).backward()
    for a, b in zip(apart, together):
        assert a.grad == pytest.approx(b.grad, rel=1e-9, abs=1e-9)


def test_what_was_not_used_has_gradient_zero():
    used, unused = Value(2.0), Value(3.0)
    (used * used + used).backward()
    assert (used.grad, unused.grad) == (5.0, 0.0)


def test_relu_has_slope_zero_at_zero_and_below():
    for x, slope in ((0.0, 0.0), (-0.0, 0.0), (-1.0, 0.0), (1e-300, 1.0)):
        value, matrix = Value(x), Tensor([[x]])
        value.relu().backward()
        script.relu(matrix).backward()
        assert value.grad == matrix.grad[0][0] == slope


def test_sixty_doublings_and_the_order_that_is_wrong():
    start = top = Value(1.0)
    for _ in range(60):
        top = top + top
    top.backward()
    assert (start.grad, script.count_nodes(top)) == (2.0**60, 61)
    gradients = []
    for backward in (Value.backward, script.backward_by_queue):
        a = Value(1.0)
        b = a + a
        backward(b + b)
        gradients.append(a.grad)
    assert gradients == [4.0, 8.0]
    a = Value(3.0)
    script.backward_by_queue(((a * 2.0).exp() * 0.5).log())  # where no node is used twice
    assert a.grad == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize(
    "new", [lambda: Value(1.0), lambda: Tensor([[1.0]])], ids=["Value", "Tensor"]
)
@pytest.mark.parametrize("run_backward", [True, False], ids=["backward", "dropped"])
def test_200_000_nodes_in_a_chain(new, run_backward, no_collector):
    top = start = new()
    for _ in range(200_000):
        top = top * 1.0
    if run_backward:
        top.backward()
        assert start.grad in (1.0, [[1.0]])
    del top
    assert gc.collect() == 0


# === BOTH ENGINES ===


def random_network(seed):
    """Parameters of a network of random size, images and labels."""
    rng = random.Random(seed)
    n_in, n_hidden, n_out = rng.randint(1, 5), rng.randint(1, 4), rng.randint(1, 4)

    def rows(n, m):
        return [[rng.gauss(0, 1) for _ in range(m)] for _ in range(n)]

    shapes = ((n_hidden, n_in), (1, n_hidden), (n_out, n_hidden), (1, n_out))
    count = rng.randint(1, 4)
    labels = [rng.randrange(n_out) for _ in range(count)]
    return [Tensor(rows(*shape)) for shape in shapes], rows(count, n_in), labels


@given(SEED, st.sampled_from([1.0, 4.0]))
def test_both_engines_give_the_same_loss_and_gradients(seed, scale):
    parameters, images, labels = random_network(seed)
    for parameter in parameters:
        parameter.data = [[x * scale for x in row] for row in parameter.data]
    numbers = script.as_values(parameters)
    number = script.number_loss(numbers, images, labels)
    matrix = script.matrix_loss(parameters, images, labels)
    assert number.data == pytest.approx(matrix.item(), rel=1e-11, abs=1e-11)
    number.backward()
    matrix.backward()
    largest = max([abs(g) for p in parameters for row in p.grad for g in row])
    difference = script.largest_difference(numbers, parameters, "grad")
    assert difference <= 1e-11 * max(1.0, largest)


@given(SEED)
def test_the_matrix_rules_are_those_of_central_differences(seed):
    parameters, images, labels = random_network(seed)
    hidden = script.linear(Tensor(images), *parameters[:2])
    assume(all([abs(x) > 1e-3 for row in hidden.data for x in row]))  # away from the kink
    data = [parameter.data for parameter in parameters]

    def pieces(x, *leaves):
        out = script.linear(script.relu(script.linear(x, *leaves[:2])), *leaves[2:])
        return script.cross_entropy(out, labels) + script.cross_entropy(out * 0.5, labels)

    assume(len(data[3][0]) > 1)  # one class leaves nothing to learn
    try:
        check_gradients(pieces, images, *data, tensor=Tensor, tolerance=1e-5)
    except AssertionError as problem:
        assume("check nothing" not in str(problem))  # all hidden units of all images are dead
        raise


@pytest.mark.parametrize("run_backward", [True, False], ids=["backward", "dropped"])
def test_no_garbage_is_left(run_backward, no_collector):
    parameters, images, labels = random_network(3)
    numbers = script.as_values(parameters)
    for loss in (
        lambda: script.number_loss(numbers, images, labels),
        lambda: script.matrix_loss(parameters, images, labels),
    ):
        root = loss()
        if run_backward:
            root.backward()
        del root
        assert gc.collect() == 0


def test_a_second_backward_raises_and_so_do_shapes_that_do_not_fit():
    parameters, images, labels = random_network(5)
    loss = script.matrix_loss(parameters, images, labels)
    loss.backward()
    with pytest.raises(RuntimeError, match="already"):
        loss.backward()
    with pytest.raises(ValueError, match="columns"):
        script.matrix_logits(parameters, [[*image, 0.0] for image in images])
    with pytest.raises(ValueError, match="targets"):
        script.matrix_loss(parameters, images, [*labels, 0])
    with pytest.raises(ValueError, match=r"\[1\]\[1\]"):
        script.matrix_logits(parameters, images * 2).backward()


def test_lock_step_moves_both_engines_alike():
    parameters, images, labels = random_network(11)
    before = [parameter.data for parameter in parameters]
    steps, difference = script.train_in_lock_step(parameters, [(images, labels)] * 6)
    assert difference <= 1e-12
    assert [parameter.data for parameter in parameters] != before
    assert all([parameter.grad is None for parameter in parameters])
    assert steps[-1][0] < steps[0][0]
    for number, matrix, gradients in steps:
        assert number == pytest.approx(matrix, abs=1e-12) and gradients <= 1e-12


# === HELPERS ===


@given(SEED)
def test_central_difference_moves_nothing_for_good(seed):
    parameters, images, labels = random_network(seed)
    rng, parameter = random.Random(seed), parameters[seed % 4]
    i, j = rng.randrange(len(parameter.data)), rng.randrange(len(parameter.data[0]))
    before = parameter.data
    kept = [list(row) for row in before]
    slope = script.central_difference(
        lambda: sum([x**3 for row in parameter.data for x in row]), parameter, i, j
    )
    assert slope == pytest.approx(3 * kept[i][j] ** 2, rel=1e-6, abs=1e-6)
    assert parameter.data is before and before == kept


@given(SEED, st.integers(0, 12))
def test_dot_in_a_loop_is_dot(seed, length):
    rng = random.Random(seed)
    a, b = [[rng.gauss(0, 1) for _ in range(length)] for _ in range(2)]
    assert script.dot_in_a_loop(a, b) == pytest.approx(script.dot(a, b), rel=1e-9, abs=1e-12)


def test_batches_hold_every_example_once():
    images, labels = [[float(i)] for i in range(37)], list(range(37))
    order = random.Random(0).sample(range(37), 37)
    batches = list(script.batches_of(images, labels, order))
    assert [len(batch[1]) for batch in batches] == [16, 16, 5]
    assert [label for batch in batches for label in batch[1]] == order
    assert all([image == [label] for batch in batches for image, label in zip(*batch)])


def test_new_parameters_give_sums_of_size_one():
    parameters = script.new_parameters(random.Random(0))
    shapes = [(len(p.data), len(p.data[0])) for p in parameters]
    hidden = script.NUM_HIDDEN
    assert shapes == [(hidden, 64), (1, hidden), (10, hidden), (1, 10)]
    for weight, n_in in ((parameters[0], 64), (parameters[2], hidden)):
        values = [x for row in weight.data for x in row]
        assert sum([x * x for x in values]) / len(values) == pytest.approx(2.0 / n_in, rel=0.2)
    assert {x for p in parameters[1::2] for row in p.data for x in row} == {0.0}


def test_accuracy_counts_the_largest_logit():
    identity = [[float(i == j) for j in range(10)] for i in range(10)]
    zeros = [[0.0] * 10]
    parameters = [Tensor(rows) for rows in (identity, zeros, identity, zeros)]
    assert script.accuracy(parameters, identity, list(range(10))) == 1.0
    assert script.accuracy(parameters, identity, [0] * 10) == 0.1


def test_the_race_leaves_everything_as_it_was(monkeypatch):
    monkeypatch.setattr(script, "RACE_ROUNDS", 1)
    parameters, images, labels = random_network(2)
    data, dot = [p.data for p in parameters], script.dot
    sizes, times = script.race(parameters, images, labels)
    assert script.dot is dot and gc.isenabled()
    assert [p.data for p in parameters] == data and all([p.grad is None for p in parameters])
    # Nodes: the leaves, x, two linear, relu, cross_entropy; and one for each number and step.
    assert sizes[1][0] == 9 < sizes[0][0]
    assert all([math.isfinite(t) and t > 0.0 for t in times.values()])


def test_memory_held_is_that_of_the_result():
    assert 7.9 <= script.megabytes_held(lambda: [0.0] * 1_000_000) <= 8.1
    assert script.megabytes_held(lambda: None) == 0.0
