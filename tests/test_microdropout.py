"""microdropout: what its run must reach, what must break it, and the properties behind it."""

from __future__ import annotations

import itertools
import math
import random
from math import log

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import changed_script, check_gradients, load_script

SEEDS = (42, 1, 2, 3)

BARS = (
    # The thesis: dropout gains much at one shared rate, and most of it is due to the rate.
    "min(tuned_difference, 0.0) - shared_rate_difference >= 0.03",
    # Answers do not hang on single units.
    "half_units_gain >= 0.06",
    # The whole network is the geometric mean of the masked ones, and the arithmetic mean is worse.
    "monte_carlo_gap - abs(geometric_gap) >= 0.02",
)

script = load_script("microdropout")


def train_and_leave_on(arm, training, validation, seeds):
    """model.eval() was forgotten: the networks trained with dropout go on dropping units."""
    p = script.ARMS[arm][1]
    masks = random.Random(0)

    class LeftOn(script.MLP):
        def forward(self, images, _p=0.0, _masks=None):
            return script.MLP.forward(self, images, p, masks)

    run = script.train(arm, training, validation, seeds)
    return run._replace(last=LeftOn([q.data for q in run.last.parameters()]))


def one_mask_for_the_whole_run(x, p, rng):
    """In training, every example of every step gets the mask that was drawn first."""

    def new_row():
        return [1.0 / (1.0 - p) if rng.random() >= p else 0.0 for _ in x.data[0]]

    if not x.requires_grad:  # measuring, after training: fresh masks, as in the script
        return x * type(x)([new_row() for _ in x.data], requires_grad=False)
    if not hasattr(rng, "mask"):
        rng.mask = new_row()
    return x * type(x)([rng.mask] * len(x.data), requires_grad=False)


def dropout_without_scaling(x, p, rng):
    """Kept outputs stay as they are, in training and in the measurements."""
    mask = [[1.0 if rng.random() >= p else 0.0 for _ in row] for row in x.data]
    return x * type(x)(mask, requires_grad=False)


VARIANTS = {
    "right_labels": {"WRONG": 0.0},
    "weight_decay": {"ARMS": {**script.ARMS, "own rate": (script.ARMS["own rate"][0], 0.0, 0.2)}},
    "no_dropout": {"ARMS": {**script.ARMS, "dropout": script.ARMS["same rate"]}},
    "left_on": {"train": train_and_leave_on},
    "one_mask": {"dropout": one_mask_for_the_whole_run},
}

TWINS = {
    "no_dropout": "min(tuned_difference, 0.0) - shared_rate_difference >= 0.03",
    "left_on": "monte_carlo_gap - abs(geometric_gap) >= 0.02",
    "one_mask": "half_units_gain >= 0.06",
}


# === THE MASK ===


def dropped(rows, p, seed=0):
    x = script.Tensor(rows)
    return x, script.dropout(x, p, random.Random(seed))


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_the_mean_of_the_mask_is_one(p):
    _, out = dropped([[1.0] * 1000] * 100, p)
    values = [value for row in out.data for value in row]
    spread = (p / (1.0 - p) / len(values)) ** 0.5
    assert sum(values) / len(values) == pytest.approx(1.0, abs=4.0 * spread)
    zeros = values.count(0.0)
    assert zeros == pytest.approx(p * len(values), abs=4.0 * (p * (1.0 - p) * len(values)) ** 0.5)


def test_every_example_has_a_mask_of_its_own():
    _, out = dropped([[1.0] * 64] * 20, 0.5)
    assert len({tuple(row) for row in out.data}) == 20


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9))
def test_no_gradient_comes_back_where_the_mask_is_zero(seed, p):
    x, out = dropped([[1.0] * 8] * 4, p, seed)
    out.backward([[1.0] * 8] * 4)
    assert x.grad == out.data


def small_network(seed, units):
    rng = random.Random(seed)
    shapes = [(units, 64), (1, units), (10, units), (1, 10)]
    model = script.MLP(
        [[[rng.gauss(0.0, 0.3) for _ in range(m)] for _ in range(n)] for n, m in shapes]
    )
    images = [[rng.random() for _ in range(64)] for _ in range(3)]
    return model, images


def test_gradients_through_the_mask():
    model, images = small_network(1, 6)

    def loss(*matrices):
        network = type(model)([m.data for m in matrices])
        network.w1, network.b1, network.w2, network.b2 = matrices
        logits = network.forward(images, 0.5, random.Random(3))
        return script.cross_entropy(logits, [1, 5, 9])

    matrices = [script.Tensor(p.data) for p in model.parameters()]
    check_gradients(loss, *matrices, tensor=script.Tensor)


def test_a_fresh_mask_in_the_backward_is_noticed():
    def dropout(x):
        rng = random.Random(0)
        data = script.dropout(x, 0.5, rng).data

        def pass_back(d_out):
            return (script.dropout(type(x)(d_out), 0.5, rng).data,)

        return type(x)(data, (x,), pass_back)

    inputs = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    with pytest.raises(AssertionError, match="central differences"):
        check_gradients(dropout, inputs, tensor=script.Tensor)
    right = lambda x: script.dropout(x, 0.5, random.Random(0))  # noqa: E731
    check_gradients(right, inputs, tensor=script.Tensor)


class Replay:
    """Gives a mask bit by bit: random() is 0 where a unit is to be dropped."""

    def __init__(self, kept):
        self.kept = iter(kept)

    def random(self):
        return 0.999 if next(self.kept) else 0.0


def every_mask(units):
    return itertools.product((False, True), repeat=units)


# === THE WHOLE NETWORK AND ITS 256 PARTS ===


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_whole_network_is_the_geometric_mean_of_all_masked_ones(seed):
    model, images = small_network(seed, 8)
    image = images[:1]
    hidden = model.hidden(image)
    passes = [model.logits(script.dropout(hidden, 0.5, Replay(m))).data for m in every_mask(8)]
    assert len(passes) == 256
    whole = model.forward(image).data[0]
    assert script.geometric_mean(passes)[0] == pytest.approx(whole, rel=1e-12)
    # The formula of the comment, by way of the probabilities themselves.
    answers = [script.softmax_row(logits[0]) for logits in passes]
    products = [math.exp(sum(map(log, qs)) / len(qs)) for qs in zip(*answers)]
    renormalised = [product / sum(products) for product in products]
    assert renormalised == pytest.approx(script.softmax_row(whole), rel=1e-10)
    # The arithmetic mean is another answer.
    arithmetic = [math.exp(z) for z in script.arithmetic_mean(passes)[0]]
    assert sum(arithmetic) == pytest.approx(1.0)
    assert max(abs(a - b) for a, b in zip(arithmetic, renormalised)) > 1e-3


def test_without_the_scaling_the_whole_network_is_no_mean():
    model, images = small_network(0, 8)
    hidden = model.hidden(images)
    masks = [Replay(list(m) * len(images)) for m in every_mask(8)]
    passes = [model.logits(dropout_without_scaling(hidden, 0.5, m)).data for m in masks]
    whole = model.forward(images).data
    for mean, row in zip(script.geometric_mean(passes), whole):
        assert max(abs(a - b) for a, b in zip(mean, row)) > 0.1


def test_with_any_p_the_weighted_mean_is_the_whole_network():
    model, images = small_network(4, 6)
    image, p = images[:1], 0.3
    hidden, total = model.hidden(image), [0.0] * 10
    for mask in every_mask(6):
        chance = math.prod([1.0 - p if kept else p for kept in mask])
        logits = model.logits(script.dropout(hidden, p, Replay(mask))).data[0]
        total = [t + chance * z for t, z in zip(total, logits)]
    assert total == pytest.approx(model.forward(image).data[0], rel=1e-12)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=6),
    st.floats(-5, 5),
    st.floats(0.05, 0.95),
)
def test_for_a_linear_model_dropout_is_weight_decay_scaled_by_the_inputs(pairs, target, p):
    w, x = zip(*pairs)
    mean = 0.0
    for mask in every_mask(len(x)):
        chance = math.prod([1.0 - p if kept else p for kept in mask])
        masked = script.dropout(script.Tensor([list(x)]), p, Replay(mask)).data[0]
        mean += chance * (script.dot(w, masked) - target) ** 2
    penalty = p / (1.0 - p) * sum([(wi * xi) ** 2 for wi, xi in pairs])
    assert mean == pytest.approx((script.dot(w, x) - target) ** 2 + penalty, rel=1e-9, abs=1e-9)


def test_masked_passes_compute_what_whole_passes_would():
    model, images = small_network(5, 8)
    passes = script.masked_passes(model, images, 0.5, 4, random.Random(7))
    masks = random.Random(7)
    assert passes == [model.forward(images, 0.5, masks).data for _ in range(4)]


@pytest.mark.parametrize("mean", [script.geometric_mean, script.arithmetic_mean])
def test_the_mean_of_equal_passes_is_their_answer(mean):
    logits = [[3.0, -2.0, 0.5], [700.0, -700.0, 0.0]]
    rows = mean([logits] * 3)
    for row, expected in zip(rows, logits):
        ours, right = script.softmax_row(row), script.softmax_row(expected)
        assert ours == pytest.approx(right, abs=1e-12)


# === A FAIR COMPARISON ===


def toy_examples(seed, count):
    rng = random.Random(seed)
    images = [[rng.random() for _ in range(64)] for _ in range(count)]
    labels = [rng.randrange(10) for _ in range(count)]
    return script.Examples(images, labels, labels)


def small_script(**changes):
    return changed_script("microdropout", {"NUM_ROWS": 40, "NUM_EPOCHS": 6, **changes})


def test_dropout_changes_neither_first_weights_nor_batches(monkeypatch):
    small = small_script()
    training, validation = toy_examples(0, 40), toy_examples(1, 10)
    seen = {}
    original = small.MLP.forward
    for arm in small.ARMS:
        batches = seen[arm] = []

        def forward(self, images, p=0.0, masks=None, batches=batches):
            if len(images) == small.BATCH_SIZE:
                if not batches:
                    batches.append([p.data for p in self.parameters()])
                batches.append(images)
            return original(self, images, p, masks)

        monkeypatch.setattr(small.MLP, "forward", forward)
        small.train(arm, training, validation, (3, 4))
    assert len(seen["own rate"]) == 1 + 6 * 2
    assert seen["same rate"] == seen["dropout"] == seen["own rate"]


def test_the_same_seeds_give_the_same_run_and_other_masks_another():
    small = small_script()
    training, validation = toy_examples(0, 40), toy_examples(1, 10)

    def curve(arm, mask_seed):
        return small.train(arm, training, validation, (3, mask_seed)).curve

    assert curve("dropout", 4) == curve("dropout", 4)
    assert curve("dropout", 4) != curve("dropout", 5)
    assert curve("own rate", 4) == curve("own rate", 5)


def test_early_stopping_keeps_the_best_weights():
    small = small_script(NUM_EPOCHS=30, ARMS={"wild": (0.03, 0.0, 0.0)})
    training, validation = toy_examples(0, 40), toy_examples(1, 10)
    run = small.train("wild", training, validation, (3, 4))
    assert len(run.curve) == 10
    assert run.curve[-1] > min(run.curve)  # random labels: it does not generalise
    assert small.evaluate(run.stopped, validation)[0] == min(run.curve)
    assert small.evaluate(run.last, validation)[0] == run.curve[-1]


def test_whole_networks_drop_nothing():
    model, images = small_network(0, 8)
    assert model.forward(images, 0.5).data == model.forward(images).data
    assert model.forward(images, 0.0, random.Random(0)).data == model.forward(images).data
    assert model.forward(images, 0.5, random.Random(0)).data != model.forward(images).data


def test_the_signal_keeps_its_size_at_first():
    model = script.new_network(random.Random(0))
    images = [[random.Random(i).gauss(0.0, 1.0) for i in range(n, n + 64)] for n in range(200)]
    hidden = [h for row in model.hidden(images).data for h in row]
    logits = [z for row in model.forward(images).data for z in row]
    assert sum([h * h for h in hidden]) / len(hidden) == pytest.approx(1.0, rel=0.3)
    assert sum([z * z for z in logits]) / len(logits) == pytest.approx(1.0, rel=0.5)


# === LABELS AND MEASURES ===


def test_a_fifth_of_the_labels_is_drawn_anew():
    pool = toy_examples(2, 1100)
    training = script.draw_training_set(pool, random.Random(0))
    assert len(training.images) == len(training.labels) == script.NUM_ROWS
    assert len({tuple(image) for image in training.images}) == script.NUM_ROWS
    wrong = sum([a != b for a, b in zip(training.labels, training.digits)])
    assert 28 <= wrong <= 40  # 40 random labels, a tenth of which are right by chance
    whereabouts = {tuple(image): digit for image, digit in zip(pool.images, pool.digits)}
    assert training.digits == [whereabouts[tuple(image)] for image in training.images]


def test_labels_are_right_if_none_is_to_be_wrong():
    clean = changed_script("microdropout", {"WRONG": 0.0})
    training = clean.draw_training_set(toy_examples(2, 300), random.Random(0))
    assert training.labels == training.digits
    assert clean.wrong_labels_learned(small_network(0, 8)[0], training) == 0.0


@settings(deadline=None, max_examples=100)
@example(5e-324, 0.5)
@example(0.0, 0.99)
@given(st.floats(0.0, 1.0), st.floats(0.01, 0.99))
def test_no_other_answer_beats_the_perfect_reader(wrong, q):
    right, other = 1.0 - wrong + wrong / 10.0, wrong / 10.0
    loss = -right * log(q) - 9.0 * other * log((1.0 - q) / 9.0)
    assert loss >= script.honest_loss(wrong) - 1e-12


def test_with_all_labels_random_there_is_nothing_to_read():
    assert script.honest_loss(1.0) == pytest.approx(log(10.0))


def test_an_untrained_network_knows_nothing_and_one_that_copies_learns_all():
    model, _ = small_network(0, 64)
    for parameter in model.parameters():
        parameter.data = [[0.0] * len(row) for row in parameter.data]
    examples = toy_examples(3, 50)
    assert script.evaluate(model, examples)[0] == pytest.approx(log(10.0))
    model.b2.data = [[0.0] * 7 + [1.0] + [0.0] * 2]  # always says 7
    told = script.Examples(examples.images[:4], [7, 7, 7, 2], [7, 1, 2, 3])
    assert script.wrong_labels_learned(model, told) == 2 / 3
    assert script.evaluate(model, told)[1] == 3 / 4


def test_losses_that_move_together_cancel_in_the_difference():
    mean, error = script.paired_difference([0.9, 0.6, 0.7], [1.0, 0.7, 0.8])
    assert (mean, error) == (pytest.approx(-0.1), pytest.approx(0.0, abs=1e-12))


def test_cutting_no_unit_changes_nothing():
    model, _ = small_network(0, 16)
    examples = toy_examples(3, 30)
    whole = script.evaluate(model, examples)[1]
    assert script.accuracy_without_units(model, examples, 0.0, random.Random(0)) == whole
