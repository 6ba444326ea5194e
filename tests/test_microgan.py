"""microgan: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    "modes_with - modes_without >= 1.5",
    "distance_ratio >= 4",
    # Given later, the penalty still helps. (What happens when it is taken away is printed, and not
    # claimed: on some seeds the GAN recovers.)
    "modes_added - modes_without >= 0.5",
    "two_number_error <= 0.005",
)

original = load_script("microgan")


def wrong_sign(gradient, gamma):
    """A penalty that rewards slopes."""
    return original.r1_penalty(gradient, gamma) * -1.0


def constant_gradient(layers, slopes):
    """The right gradient, but as a constant: without the second derivative it teaches nothing."""
    gradient = original.input_gradient(
        [tuple(original.Tensor(p.data) for p in layer) for layer in layers],
        [original.Tensor(slope.data) for slope in slopes],
    )
    return type(slopes[0])(gradient.data, requires_grad=False)


def minimax(fake_logits):
    """The generator's loss of the first GAN: it raises the discriminator's own loss."""
    zeros = [[0.0]] * len(fake_logits.data)
    return original.binary_cross_entropy_with_logits(fake_logits, zeros) * -1.0


VARIANTS = {
    "low_rate": {"LEARNING_RATE": 0.01},
    "minimax": {"generator_loss": minimax},
    "constant_gradient": {"input_gradient": constant_gradient},
    "wrong_sign": {"r1_penalty": wrong_sign},
    "no_exchange": {"GAMMAS": {"plain": (0.0, 0.0), "penalty": (0.1, 0.1)}},
}

TWINS = {
    "constant_gradient": "modes_with - modes_without >= 1.5",
    "no_exchange": "modes_added - modes_without >= 0.5",
    "wrong_sign": "distance_ratio >= 4",
}

script = load_script("microgan")
SMALL = {"NUM_RUNS": 1, "NUM_STEPS": 2, "NUM_MORE_STEPS": 2, "CHECK_EVERY": 1, "NUM_POINTS": 40}


def random_rows(rng, num_rows, num_columns, spread=1.0):
    return [[rng.gauss(0.0, spread) for _ in range(num_columns)] for _ in range(num_rows)]


# === THE GAME WITH TWO NUMBERS ===


def test_a_penalty_without_its_half_misses_the_prediction():
    def twice(gradient, gamma):
        return original.r1_penalty(gradient, 2.0 * gamma)

    twin("microgan", "two_number_error <= 0.005", {"r1_penalty": twice}, SMALL)


@pytest.mark.parametrize(
    ("settings_", "factor"),
    [
        ((0.1, 0.0, False), math.sqrt(1.0 + 0.1**2 / 4.0)),
        ((0.1, 0.0, True), 1.0),
        ((0.1, 0.3, True), math.sqrt(1.0 - 0.1 * 0.3)),
        ((0.1, 0.3, False), math.sqrt(1.0 - 0.1 * 0.3 + 0.1**2 / 4.0)),
    ],
)
def test_the_factors_of_the_paper(settings_, factor):
    assert script.factor_per_step(script.linear_step(*settings_)) == pytest.approx(factor)


def test_a_real_eigenvalue_is_found_too():
    assert script.factor_per_step([[3.0, 0.0], [0.0, -4.0]]) == pytest.approx(4.0)


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 0.3), st.floats(0.0, 1.0), st.booleans())
def test_near_the_solution_the_game_is_its_linear_map(rate, gamma, take_turns):
    near = load_script("microgan")
    near.TWO_NUMBER_START, near.TWO_NUMBER_STEPS = 1e-6, 20
    path = near.two_number_game(rate, gamma, take_turns)
    predicted = near.predicted_path(near.linear_step(rate, gamma, take_turns))
    for place, expected in zip(path, predicted, strict=True):
        assert place == pytest.approx(expected, rel=1e-6, abs=1e-16)


# === LOSSES AND PENALTY ===


@settings(deadline=None, max_examples=30)
@given(st.floats(-30.0, 30.0))
def test_the_two_generator_losses_differ_by_the_factor_of_the_text(logit):
    slopes = []
    for loss in (script.generator_loss, minimax):
        logits = script.Tensor([[logit]])
        loss(logits).backward()
        slopes.append(logits.grad[0][0])
    s = script.sigmoid_of(logit)
    assert slopes[0] == pytest.approx(s - 1.0, rel=1e-9, abs=1e-12)
    assert slopes[1] == pytest.approx(-s, rel=1e-9, abs=1e-12)


def test_a_blind_discriminator_loses_two_ln_2_and_huge_logits_stay_finite():
    zeros = script.Tensor([[0.0], [0.0]])
    assert script.discriminator_loss(zeros, zeros).item() == pytest.approx(2.0 * math.log(2.0))
    huge = script.Tensor([[1000.0]])
    assert script.discriminator_loss(huge, huge).item() == pytest.approx(1000.0)
    assert script.generator_loss(huge).item() == 0.0


def test_the_best_discriminator_loses_as_the_text_says():
    """Sums over three places with densities p and q, against the formula with logarithms."""
    p, q = [0.5, 0.3, 0.2], [0.1, 0.3, 0.6]
    loss = sum(
        a * script.softplus(-math.log(a / b)) + b * script.softplus(math.log(a / b))
        for a, b in zip(p, q)
    )
    bracket = sum(
        a * math.log(2 * a / (a + b)) + b * math.log(2 * b / (a + b)) for a, b in zip(p, q)
    )
    assert loss == pytest.approx(2.0 * math.log(2.0) - bracket)


def penalty_of_points(points):
    """A function from the weights of a discriminator to its R1 penalty at the points."""

    def penalty(*parameters):
        layers = list(zip(parameters[::2], parameters[1::2]))
        slopes = []
        script.forward(layers, script.constant(points), slopes)
        return script.r1_penalty(script.input_gradient(layers, slopes), 0.7)

    return penalty


def test_the_penalty_has_its_second_derivative():
    rng = random.Random(0)
    layers = script.mlp([2, 5, 4, 1], rng)
    for _, bias in layers:  # away from the corner of leaky ReLU, and not all zero
        bias.data = random_rows(rng, 1, len(bias.data[0]))
    parameters = [parameter for layer in layers for parameter in layer]
    check_gradients(penalty_of_points(random_rows(rng, 6, 2)), *parameters)


def test_the_input_gradient_is_that_of_central_differences():
    rng = random.Random(1)
    layers = script.mlp([2, 7, 6, 1], rng)
    points = random_rows(rng, 5, 2)
    slopes = []
    script.forward(layers, script.constant(points), slopes)
    gradient = script.input_gradient(layers, slopes)

    def logit(x):
        return script.forward(layers, script.constant([x])).item()

    for (x, y), row in zip(points, gradient.data, strict=True):
        width = 1e-6
        expected = [
            (logit([x + width, y]) - logit([x - width, y])) / (2 * width),
            (logit([x, y + width]) - logit([x, y - width])) / (2 * width),
        ]
        assert row == pytest.approx(expected, rel=1e-6, abs=1e-8)


# === TRAINING ===


def test_in_each_step_only_one_player_changes():
    gan = script.GAN(random.Random(0))

    def numbers(layers):
        return [[parameter.data for parameter in layer] for layer in layers]

    before = numbers(gan.generator), numbers(gan.discriminator)
    gan.discriminator_step(0.1)
    middle = numbers(gan.generator), numbers(gan.discriminator)
    gan.generator_step()
    after = numbers(gan.generator), numbers(gan.discriminator)
    assert before[0] == middle[0] and before[1] != middle[1]
    assert middle[0] != after[0] and middle[1] == after[1]
    players = gan.generator, gan.discriminator
    assert all(p.grad is None for layers in players for layer in layers for p in layer)


def test_both_gans_of_a_run_see_the_same_weights_and_random_numbers():
    gans = [script.GAN(random.Random(5)) for _ in range(2)]
    for gan, gamma in zip(gans, (0.0, 0.1)):
        for _ in range(3):
            gan.step(gamma)
    assert gans[0].rng.getstate() == gans[1].rng.getstate()
    assert gans[0].discriminator[0][0].data != gans[1].discriminator[0][0].data


def test_the_average_moves_as_far_as_its_decay_allows():
    average = [(script.Tensor([[0.0]]), script.Tensor([[1.0]]))]
    script.ema_update(average, [(script.Tensor([[1.0]]), script.Tensor([[1.0]]))], 0.98)
    assert average[0][0].data[0][0] == pytest.approx(0.02)
    assert average[0][1].data[0][0] == pytest.approx(1.0)


# === SCORES ===


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_the_real_sampler_covers_all_modes_and_has_distance_zero(seed):
    rng = random.Random(seed)
    points, others = [script.ring_of_gaussians(400, rng) for _ in range(2)]
    modes, share_near = script.mode_coverage(points)
    assert modes == 8 and share_near > 0.98
    assert abs(script.energy_distance(points, others)) < 0.02
    moved = [[x + 0.3, y] for x, y in others]
    assert script.energy_distance(points, moved) > 0.02


def test_distance_is_symmetric_and_unbiased():
    rng = random.Random(0)
    draws = [
        script.energy_distance(script.ring_of_gaussians(20, rng), script.ring_of_gaussians(30, rng))
        for _ in range(200)
    ]
    # With i = j counted, the mean would be E|X - X'| (1/20 + 1/30), about 0.1.
    assert abs(sum(draws) / len(draws)) < 0.02
    a, b = random_rows(rng, 5, 2), random_rows(rng, 7, 2)
    assert script.energy_distance(a, b) == pytest.approx(script.energy_distance(b, a))


def test_a_sampler_of_two_modes_is_not_taken_for_eight():
    points = [center for center in script.mode_centers()[:2] for _ in range(100)]
    assert script.mode_coverage(points) == (2, 1.0)
    middle = [[0.0, 0.0]] * 100
    assert script.mode_coverage(middle) == (0, 0.0)


def test_one_gaussian_has_the_mean_and_spread_of_the_data():
    rng = random.Random(0)
    points = [[3.0 + 2.0 * rng.gauss(0, 1), -1.0 + 0.5 * rng.gauss(0, 1)] for _ in range(4000)]
    blob = script.matched_gaussian(points, rng)
    for column, mean, spread in zip(zip(*blob), (3.0, -1.0), (2.0, 0.5)):
        ours = sum(column) / len(column)
        assert ours == pytest.approx(mean, abs=0.12)
        variance = sum((value - ours) ** 2 for value in column) / len(column)
        assert math.sqrt(variance) == pytest.approx(spread, rel=0.05)
