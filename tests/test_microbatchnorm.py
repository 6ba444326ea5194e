"""microbatchnorm: what its run must reach, which changes must break it, and what lies behind it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    # The thesis, each arm at the best of its rates.
    "batch_best - none_best >= 0.1",
    # Its mechanism: to subtract the mean is enough for most of it.
    "mean_best - none_best >= 0.08",
    # What can be seen before training: the digits' vectors become alike, or do not.
    "cosine_gap >= 0.2",
    # The price, within one trained network.
    "batch_best - one_class >= 0.3",
)

VARIANTS = {
    "shallow": {"NUM_LAYERS": 2},
    "residual": {"RESIDUAL": True},
    "low_rates": {"RATES": (0.01, 0.03)},
    "twelve_epochs": {"EPOCHS": 12, "RATES": (0.1,)},
}

TWINS: dict[str, str] = {}  # the broken twins are small: see the end of this file

script = load_script("microbatchnorm")


def tensors(rows, gains=None, shifts=None):
    """x, gamma and beta for batch_norm, as Tensors."""
    width = len(rows[0])
    return (
        script.Tensor(rows),
        script.Tensor([gains or [1.0] * width]),
        script.Tensor([shifts or [0.0] * width]),
    )


def normal(rows, columns, seed=0, mean=0.5, spread=2.0):
    rng = random.Random(seed)
    return [[rng.gauss(mean, spread) for _ in range(columns)] for _ in range(rows)]


def in_training(x, gamma, beta):
    """batch_norm in training mode, with running statistics that nobody looks at."""
    width = len(x.data[0])
    return script.batch_norm(x, gamma, beta, [0.0] * width, [1.0] * width, True)


def over_features(x, gamma, beta, running_mean, running_var, training, momentum=0.1, eps=1e-5):
    """A broken twin: statistics over the units of each example. This is layer norm."""
    return script.layer_norm(x, gamma, beta, eps)


def without_update(running_mean, running_var, means, variances, count, momentum):
    """A broken twin: the running statistics stay at 0 and 1."""


def statistics_as_constants(x, gamma, beta, *rest, **more):
    """A broken twin: no gradient through mean and variance."""
    columns = list(zip(*x.data))
    means = [sum(c) / len(c) for c in columns]
    scales = [
        (sum([(v - m) ** 2 for v in c]) / len(c) + 1e-5) ** -0.5 for c, m in zip(columns, means)
    ]
    running_var = [s**-2 - 1e-5 for s in scales]
    return script.batch_norm(x, gamma, beta, means, running_var, False)


# === THE OPERATION ===


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 10**6))
def test_gradients_in_both_modes(count, width, seed):
    x = normal(count, width, seed)
    gamma, beta = normal(1, width, seed + 1), normal(1, width, seed + 2)
    check_gradients(in_training, x, gamma, beta, tensor=script.Tensor, tolerance=1e-5)
    mean, variance = [0.3] * width, [1.7] * width

    def in_eval(*inputs):
        return script.batch_norm(*inputs, mean, variance, False)

    check_gradients(in_eval, x, gamma, beta, tensor=script.Tensor)
    assert (mean, variance) == ([0.3] * width, [1.7] * width)


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_the_halves(centre, training):
    def half(x, gamma, beta):
        return script.half_norm(x, gamma, beta, [0.3] * 3, [1.7] * 3, training, 0.1, centre)

    inputs = normal(5, 3), normal(1, 3, 1), normal(1, 3, 2)
    check_gradients(half, *inputs, tensor=script.Tensor)


def test_a_gradient_that_forgets_the_statistics_is_noticed():
    inputs = normal(5, 3), normal(1, 3, 1), normal(1, 3, 2)
    right = in_training(*tensors(inputs[0], inputs[1][0], inputs[2][0])).data
    wrong = statistics_as_constants(*tensors(inputs[0], inputs[1][0], inputs[2][0])).data
    assert [w for row in wrong for w in row] == pytest.approx([r for row in right for r in row])
    with pytest.raises(AssertionError, match="central differences"):
        check_gradients(statistics_as_constants, *inputs, tensor=script.Tensor)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(0, 10**6), st.floats(0.05, 20.0))
def test_mean_spread_and_gradient_of_a_column(count, width, seed, spread):
    rows = normal(count, width, seed, spread=spread)
    gains, shifts = normal(1, width, seed + 1)[0], normal(1, width, seed + 2)[0]
    x, gamma, beta = tensors(rows, gains, shifts)
    out = in_training(x, gamma, beta)
    d_out = normal(count, width, seed + 3)
    columns = list(zip(*out.data))
    out.backward(d_out)
    pieces = zip(columns, zip(*x.grad), zip(*d_out), zip(*rows), gains, shifts)
    for column, d_x, d_column, before, g, b in pieces:
        mean = sum(before) / count
        variance = sum([(v - mean) ** 2 for v in before]) / count
        assert sum(column) / count == pytest.approx(b, abs=1e-9)
        expected = g * g * variance / (variance + 1e-5)
        assert sum([(v - b) ** 2 for v in column]) / count == pytest.approx(expected, rel=1e-6)
        # Pushing all values of a unit the same way would be in vain ...
        assert sum(d_x) == pytest.approx(0.0, abs=1e-9 * (1 + sum(map(abs, d_x))))
        # ... and so would pushing them all away from their mean, but for eps.
        along = sum([d * (v - mean) for d, v in zip(d_x, before)])
        pushed = sum([d * (v - mean) for d, v in zip(d_column, before)])
        left = g * pushed * 1e-5 * (variance + 1e-5) ** -1.5
        assert along == pytest.approx(left, rel=1e-5, abs=1e-9)


def test_size_and_bias_of_the_weights_change_nothing():
    rng = random.Random(0)
    images = normal(6, 8)
    weight = script.random_matrix(3, 8, 2.0, rng)
    bias = script.Tensor([[0.0] * 3])
    gamma, beta = script.Tensor([[1.0] * 3]), script.Tensor([[0.0] * 3])
    d_out = normal(6, 3, 9)

    def run(scale, shift):
        w = script.Tensor([[scale * v for v in row] for row in weight.data])
        b = script.Tensor([[v + shift for v in bias.data[0]]])
        x = script.linear(script.Tensor(images), w, b)
        out = script.batch_norm(x, gamma, beta, [0.0] * 3, [1.0] * 3, True, eps=0.0)
        data = [v for row in out.data for v in row]
        out.backward(d_out)
        return data, w, b

    data, w, b = run(1.0, 0.0)
    twice, w_twice, _ = run(2.0, 5.0)
    assert twice == pytest.approx(data, abs=1e-12)
    assert max(map(abs, b.grad[0])) <= 1e-13
    for row, d_row, d_twice in zip(w.data, w.grad, w_twice.grad):
        assert sum([v * d for v, d in zip(row, d_row)]) == pytest.approx(0.0, abs=1e-12)
        assert d_twice == pytest.approx([d / 2 for d in d_row], abs=1e-12)


def test_order_in_the_batch_does_not_matter_but_company_does():
    rows = normal(5, 3)
    out = in_training(*tensors(rows)).data
    turned = in_training(*tensors(rows[::-1])).data[::-1]
    for a, b in zip(out, turned):
        assert a == pytest.approx(b, abs=1e-12)
    other = in_training(*tensors([*rows[:4], [9.0, 9.0, 9.0]])).data
    assert abs(other[0][0] - out[0][0]) > 0.1
    running = [0.1] * 3, [2.0] * 3
    whole = script.batch_norm(*tensors(rows), *running, False).data
    single = script.batch_norm(*tensors(rows[:1]), *running, False).data
    assert whole[:1] == single


def test_edge_cases():
    with pytest.raises(ValueError, match="two or more"):
        in_training(*tensors([[1.0, 2.0]]))
    # A unit that never varies: eps keeps it finite.
    assert in_training(*tensors([[3.0], [3.0]], [2.0], [7.0])).data == [[7.0], [7.0]]
    # In a batch of two nothing is left of a value but its sign.
    out = in_training(*tensors([[1.0], [4.0]])).data
    assert [v for (v,) in out] == pytest.approx([-1.0, 1.0], abs=1e-5)


def test_running_statistics_reach_those_of_the_data():
    mean, variance = [0.0], [1.0]
    rng = random.Random(0)
    for _ in range(400):
        rows = [[rng.gauss(3.0, 2.0)] for _ in range(16)]
        script.batch_norm(*tensors(rows), mean, variance, True, momentum=0.02)
    assert mean[0] == pytest.approx(3.0, abs=0.2)
    assert variance[0] == pytest.approx(4.0, abs=0.6)
    before = list(mean), list(variance)
    script.batch_norm(*tensors(rows), mean, variance, True, momentum=0.0)
    assert (mean, variance) == before


# === THE MEASURES ===


def test_cosines():
    rows = normal(6, 4, mean=0.0)
    units = script.unit_vectors(rows)
    pairs = [sum(map(lambda x, y: x * y, a, b)) for i, a in enumerate(units) for b in units[:i]]
    assert script.mean_cosine(rows) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)
    assert script.mean_cosine([*rows, [0.0] * 4]) == pytest.approx(script.mean_cosine(rows))
    assert script.next_cosine(-1.0) == pytest.approx(0.0, abs=1e-12)
    assert script.next_cosine(1.0 + 1e-15) == 1.0


def test_the_wide_limit_is_that_of_a_wide_layer():
    rng = random.Random(0)
    a, b = [1.0, 0.0, 0.0], [0.6, 0.8, 0.0]
    weight = script.random_matrix(20000, 3, 2.0, rng)
    out = script.relu(script.linear(script.Tensor([a, b]), weight)).data
    assert script.mean_cosine(out) == pytest.approx(script.next_cosine(0.6), abs=0.02)


def trained(seed=0, steps=30):
    """A small network with batch norm that has been trained a little."""
    rng = random.Random(seed)
    network = script.Network(script.BATCH, rng)
    images = normal(32 * steps, 64, seed, 0.0, 0.4)
    labels = [max(range(10), key=lambda d: image[d]) for image in images]
    old, script.EPOCHS = script.EPOCHS, 1
    script.train(network, images, labels, 0.1, rng)
    script.EPOCHS = old
    return network, images, labels


def test_folding_reproduces_eval_mode():
    network, images, _ = trained()
    ours = network.forward(images[:20], training=False).data
    folded = script.fold(network).forward(images[:20], training=False).data
    for a, b in zip(ours, folded):
        assert a == pytest.approx(b, abs=1e-10)
    # It is not trivial: the batch's own statistics give something else.
    other = network.forward(images[:20], training=True, momentum=0.0).data
    assert max([abs(x - y) for a, b in zip(ours, other) for x, y in zip(a, b)]) > 0.05


def test_the_normed_start_is_batch_norm_on_its_first_batch():
    images = normal(256, 64, 3, 0.2, 0.4)
    plain = script.new_network(script.FOLDED, images, random.Random(5))
    normed = script.Network(script.BATCH, random.Random(5))
    a = plain.forward(images, training=False).data
    b = normed.forward(images, training=True).data
    # The biased variance in one, the unbiased one in the other.
    assert max([abs(x - y) for r, s in zip(a, b) for x, y in zip(r, s)]) < 0.2
    assert all([layer.norm == script.NONE for layer in plain.layers])


def test_every_norm_starts_from_the_same_weights_and_learns():
    images = normal(64, 64, 1, 0.0, 0.4)
    labels = [i % 10 for i in range(64)]
    starts = []
    for norm in (script.NONE, script.LAYER, script.SCALE, script.CENTRE, script.BATCH):
        network = script.Network(norm, random.Random(1))
        starts.append([p.data for p in network.parameters()])
        loss = script.cross_entropy(network.forward(images, True), labels)
        before = loss.item()
        loss.backward()
        script.SGD(network.parameters()).step(0.01)
        assert script.cross_entropy(network.forward(images, True), labels).item() < before
    assert all([start == starts[0] for start in starts])


def test_one_class_batches():
    labels = [i % 10 for i in range(400)]
    batches = script.batches_of_one_class(labels)
    assert [len(batch) for batch in batches] == [script.COMPANY] * 10
    assert all([labels[i] == d for d, batch in enumerate(batches) for i in batch])


# === BROKEN TWINS ===

SMALL = {"NUM_TRAIN": 320, "RATES": (0.3,), "NUM_STARTS": 2}


def test_norm_over_features_does_not_keep_examples_apart():
    twin("microbatchnorm", BARS[2], {"batch_norm": over_features}, {**SMALL, "EPOCHS": 0})


def no_norm(x, gamma, beta, *_):
    """A broken twin: only beta is added."""
    places = range(len(x.data[0]))
    ones = [[1.0 if i == j else 0.0 for j in places] for i in places]
    return script.linear(x, script.Tensor(ones, requires_grad=False), beta)


DEEP = {**SMALL, "NUM_TRAIN": 480, "NUM_LAYERS": 6, "NUM_STARTS": 1}


def test_a_norm_that_does_nothing_gains_nothing():
    twin("microbatchnorm", BARS[0], {"batch_norm": no_norm}, DEEP)


def test_half_a_norm_that_does_nothing_gains_nothing():
    twin("microbatchnorm", BARS[1], {"half_norm": no_norm}, DEEP)


def test_norm_over_features_does_not_depend_on_company():
    smaller = {**SMALL, "NUM_LAYERS": 3, "EPOCHS": 4}
    twin("microbatchnorm", BARS[3], {"batch_norm": over_features}, smaller)


def test_without_running_statistics_there_is_no_accuracy():
    network, images, labels = trained(steps=40)
    right = script.accuracy(network.forward(images, training=False).data, labels)
    for layer in network.layers:
        layer.running_mean, layer.running_var = [0.0] * 16, [1.0] * 16
    wrong = script.accuracy(network.forward(images, training=False).data, labels)
    assert right > wrong
