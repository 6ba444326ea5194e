"""microconv: what its run must reach, which changes must break it, and the properties behind it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import check_gradients, load_script, twin

SEEDS = (42, 1, 2, 3)

BARS = (
    "global_centre >= 0.82",
    # Exactly, and not only nearly: the same numbers are added in the same order.
    "logit_change == 0.0",
    # A network that read nothing in the centre would have nothing to lose.
    "mlp_lost >= 0.55",
    "tiled_lost >= 0.40",
    "global_centre - augmented_shifted >= 0.15",
)

script = load_script("microconv")


def paste_in_the_centre(digit, dy, dx, canvas):
    """A test that moves nothing."""
    return script.paste(digit, *script.CENTRE, canvas)


class FrozenFilters(script.ConvNet):
    """Filters as they were drawn; only the linear layer learns."""

    def parameters(self):
        return [self.head, self.head_bias]


def slopes_of_the_next_filter(images, weight, bias, padding, tile):
    """A gradient in which every filter is told what its neighbour should have been told."""
    out = script.conv2d_max(images, weight, bias, padding, tile)
    right = out.pass_back
    out.pass_back = lambda d_out: right([d_row[1:] + d_row[:1] for d_row in d_out])
    return out


VARIANTS = {
    "tile_2": {"TILE": 2},
    "tile_8": {"TILE": 8},
    "frozen_filters": {"ConvNet": FrozenFilters},
    "wrong_slopes": {"conv2d_max": slopes_of_the_next_filter},
    "narrow_padding": {"PADDING": 2},
    "never_moved": {"paste": paste_in_the_centre},
    "one_tile": {"TILE": 16},
    "long_training": {"EPOCHS": 12},
}

TWINS = {
    "wrong_slopes": "global_centre >= 0.82",
    "frozen_filters": "global_centre - augmented_shifted >= 0.15",
    "narrow_padding": "logit_change == 0.0",
    "never_moved": "mlp_lost >= 0.55",
    "one_tile": "tiled_lost >= 0.40",
}

# Few digits, few filters: a run of under two seconds that shows what does not need the full size.
SMALL = {"NUM_TRAIN": 60, "TEST_EVERY": 60, "NUM_FILTERS": 3, "EPOCHS": 1}


def matrix(rng, rows, columns):
    return [[rng.gauss(0.0, 1.0) for _ in range(columns)] for _ in range(rows)]


def plain_map(image, weights, bias, padding):
    """The formula, index by index."""
    size, kernel = round(len(image) ** 0.5), round(len(weights) ** 0.5)
    side = size + 2 * padding - kernel + 1
    out = []
    for y in range(side):
        for x in range(side):
            total = bias
            for u in range(kernel):
                for v in range(kernel):
                    row, column = y + u - padding, x + v - padding
                    if 0 <= row < size and 0 <= column < size:
                        total += weights[u * kernel + v] * image[row * size + column]
            out.append(total)
    return out


@pytest.mark.parametrize("size", [1, 4, 7])
@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_the_map_is_the_formula(size, kernel, padding):
    rng = random.Random(size + 10 * kernel + 100 * padding)
    (image,), (weights,) = matrix(rng, 1, size * size), matrix(rng, 1, kernel * kernel)
    if size + 2 * padding < kernel:
        with pytest.raises(ValueError, match="does not fit"):
            script.conv2d_map(image, weights, 0.5, padding)
        return
    expected = plain_map(image, weights, 0.5, padding)
    assert script.conv2d_map(image, weights, 0.5, padding) == pytest.approx(expected, abs=1e-12)


def test_a_linear_layer_on_the_patches_gives_all_maps_as_its_columns():
    rng = random.Random(6)
    (image,), weights, bias = matrix(rng, 1, 49), matrix(rng, 4, 9), matrix(rng, 1, 4)
    patches = script.Tensor(script.im2col(image, script.patch_pixels(7, 3, 2)))
    columns = script.transpose(
        script.linear(patches, script.Tensor(weights), script.Tensor(bias)).data
    )
    assert columns == [script.conv2d_map(image, w, b, 2) for w, b in zip(weights, bias[0])]


@pytest.mark.parametrize("tile", [1, 2, 3, None])
def test_the_fused_operation_is_the_map_and_its_maxima(tile):
    rng = random.Random(5)
    images, weights, bias = matrix(rng, 3, 49), matrix(rng, 2, 9), matrix(rng, 1, 2)
    fused = script.conv2d_max(images, script.Tensor(weights), script.Tensor(bias), 1, tile).data
    for image, row in zip(images, fused):
        maps = [script.conv2d_map(image, w, b, 1) for w, b in zip(weights, bias[0])]
        assert row == [max(cells) for one_map in maps for cells in script.tiled(one_map, tile)]


def test_equal_to_the_engine_s_convolution_and_pooling():
    from common import engine

    rng = random.Random(8)
    images, weights, bias = matrix(rng, 2, 36), matrix(rng, 3, 9), matrix(rng, 1, 3)
    shape, maps_shape = (1, 6, 6), (3, 8, 8)
    conv = engine.conv2d(
        engine.Tensor(images), engine.Tensor(weights), engine.Tensor(bias), shape, 2
    )
    for tile, kernel in ((2, 2), (4, 4), (None, 8)):
        theirs = engine.max_pool2d(conv, maps_shape, kernel).data
        ours = script.conv2d_max(images, script.Tensor(weights), script.Tensor(bias), 2, tile).data
        assert ours == theirs


@pytest.mark.parametrize("tile", [1, 2, 4, None])
def test_the_gradient_of_convolution_and_maximum(tile):
    rng = random.Random(1)
    images = matrix(rng, 3, 36)
    check_gradients(
        lambda w, b: script.conv2d_max(images, w, b, 2, tile),
        script.Tensor(matrix(rng, 2, 25)),
        script.Tensor(matrix(rng, 1, 2)),
    )


@pytest.mark.parametrize("tile", [4, None])
def test_the_gradient_of_the_whole_network(tile):
    net = script.ConvNet(tile, random.Random(2))
    # Tiles without ink respond with their bias: at 0 they would stand on the edge of the ReLU.
    net.filter_bias = script.Tensor([[0.1 + 0.01 * f for f in range(script.NUM_FILTERS)]])
    images = [script.paste([random.Random(3).random() for _ in range(64)], 2, 2, 12)]

    def logits(*parameters):
        net.filters, net.filter_bias, net.head, net.head_bias = parameters
        return net.forward(images)

    few = [row[:] for row in net.head.data[:2]]
    check_gradients(
        logits,
        net.filters,
        net.filter_bias,
        script.Tensor(few),
        script.Tensor([[0.1, 0.2]]),
    )


def test_of_equal_responses_the_first_wins():
    # A filter that sees one pixel, of which two are equally dark.
    image = [0.0, 1.0, 0.5, 0.0, 0.5, 0.0, 1.0, 0.0, 0.0]
    weight = script.Tensor([[1.0, 0.0, 0.0, 0.0]])
    out = script.conv2d_max([image], weight, script.Tensor([[0.0]]), 0, None)
    out.backward([[1.0]])
    assert out.data == [[1.0]]
    assert weight.grad == [[1.0, 0.5, 0.5, 0.0]]


DIGITS = st.lists(st.sampled_from([i / 16 for i in range(17)]), min_size=64, max_size=64)
OFFSETS = st.tuples(st.integers(0, 4), st.integers(0, 4))


@settings(deadline=None, max_examples=40)
@given(DIGITS, OFFSETS, OFFSETS, st.integers(0, 10**6))
def test_the_map_moves_with_the_digit_to_the_last_bit(digit, first, second, seed):
    (weights,) = matrix(random.Random(seed), 1, 25)
    maps = [
        script.rows_of(script.conv2d_map(script.paste(digit, *offset, 12), weights, 0.3, 4))
        for offset in (first, second)
    ]
    dy, dx = second[0] - first[0], second[1] - first[1]
    for y in range(16):
        for x in range(16):
            if 0 <= y + dy < 16 and 0 <= x + dx < 16:
                assert maps[0][y][x] == maps[1][y + dy][x + dx]


@settings(deadline=None, max_examples=40)
@given(DIGITS, OFFSETS, OFFSETS, st.integers(0, 10**6))
def test_the_maximum_over_the_map_stays_to_the_last_bit(digit, first, second, seed):
    net = script.ConvNet(None, random.Random(seed))
    images = [script.paste(digit, *offset, 12) for offset in (first, second)]
    large = script.paste(digit, 3, 12, 20)
    logits = net.forward(images).data
    assert logits[0] == logits[1] == net.forward([large]).data[0]


@settings(deadline=None, max_examples=20)
@given(DIGITS, st.integers(0, 10**6))
def test_tiles_notice_a_move_unless_it_is_by_whole_tiles(digit, seed):
    (weights,) = matrix(random.Random(seed), 1, 25)
    digit[27] = 1.0  # some ink at least
    for tile, shift, exact in ((1, 3, True), (2, 2, True), (2, 4, True), (4, 4, True)):
        assert (script.following_error(digit, weights, tile, shift) == 0.0) is exact


def test_following_error_sees_a_move_within_a_tile():
    rng = random.Random(0)
    digit, weights = matrix(rng, 1, 64)[0], matrix(rng, 1, 25)[0]
    assert script.following_error(digit, weights, 2, 1) > 0.1
    assert script.following_error(digit, weights, 4, 2) > 0.1
    assert script.following_error(digit, weights, None, 3) == 0.0


def test_one_more_maximum_over_all_tiles_stays():
    rng = random.Random(3)
    (digit,), weight = matrix(rng, 1, 64), script.Tensor(matrix(rng, 1, 25))
    no_bias = script.Tensor([[0.0]])
    images = [script.paste(digit, *offset, 12) for offset in script.all_offsets()]
    rows = script.conv2d_max(images, weight, no_bias, 4, 4).data
    assert len({tuple(row) for row in rows}) > 1
    assert len({max(row) for row in rows}) == 1


def test_the_maximum_over_the_map_is_never_below_the_bias():
    """So ReLU cuts nothing while the biases are zero."""
    rng = random.Random(4)
    images = [script.paste(digit, 2, 2, 12) for digit in script.load_digits()[0][::100]]
    weight, bias = script.Tensor(matrix(rng, 8, 25)), script.Tensor([[0.0] * 8])
    for row in script.conv2d_max(images, weight, bias, 4, None).data:
        assert min(row) >= 0.0


def test_the_split_leaves_22_rows_of_a_block_in_training():
    """Labels repeat in blocks of about 130 rows; the last that begins in training: row 1415."""
    _, labels = script.load_digits()
    begin = list(range(10)) * 2
    starts = [i for i in range(1797 - 30) if labels[i : i + 30] == begin + list(range(10))]
    before = max(start for start in starts if start < script.NUM_TRAIN)
    assert script.NUM_TRAIN - before == 22
    # The next block has a digit missing, so it begins with 0..6, 9, 0..9.
    assert labels[1545 - 5 : 1545 + 17] == [9, 0, 8, 9, 8, *range(10), *range(7)]


def test_an_empty_canvas_gives_the_biases():
    weight, bias = script.Tensor(matrix(random.Random(0), 2, 25)), script.Tensor([[0.25, -0.5]])
    assert script.conv2d_max([[0.0] * 144], weight, bias, 4, None).data == [[0.25, -0.5]]


def test_the_size_of_the_canvas_does_not_change_the_number_of_parameters():
    def size(net):
        return sum(len(p.data) * len(p.data[0]) for p in net.parameters())

    larger = load_script("microconv")
    larger.CANVAS = 20
    rng = random.Random(0)
    assert size(script.ConvNet(None, rng)) == size(larger.ConvNet(None, rng)) == 586
    assert size(script.MLP(rng)) == 4970
    assert size(larger.MLP(rng)) > 10_000


def test_filters_and_tiles_that_do_not_fit_are_refused():
    weight, bias = script.Tensor([[0.0] * 25]), script.Tensor([[0.0]])
    with pytest.raises(ValueError, match="a filter of 5 x 5 does not fit 4 x 4"):
        script.conv2d_max([[0.0] * 16], weight, bias, 0, None)
    for tile in (0, 5):
        with pytest.raises(ValueError, match=f"a tile of {tile} x {tile} does not fit 4 x 4"):
            script.conv2d_max([[0.0] * 64], weight, bias, 0, tile)


def test_distinct_patches_save_more_than_half():
    digits, _ = script.load_digits()
    windows = script.patch_pixels(12, 5, 4)
    shares = []
    for digit in digits[::40]:
        patches = script.im2col(script.paste(digit, 2, 2, 12), windows)
        shares.append(len(set(patches)) / len(patches))
    assert sum(shares) / len(shares) < 0.5


def test_a_digit_fits_exactly_at_25_offsets():
    assert len(script.all_offsets()) == 25
    assert script.CENTRE == script.all_offsets()[12]
    for offset in script.all_offsets():
        image = script.paste([1.0] * 64, *offset, 12)
        assert len(image) == 144
        assert sum(image) == 64.0


def test_broken_borders_fail_the_exact_bar():
    twin("microconv", "logit_change == 0.0", {"PADDING": 2}, SMALL)


def test_training_lowers_the_loss_and_reports_it(monkeypatch, capsys):
    small = load_script("microconv")
    monkeypatch.setattr(small, "EPOCHS", 4)
    digits, labels = small.load_digits()
    rng = random.Random(0)
    small.train(small.ConvNet(None, rng), digits[:50], labels[:50], 0.02, False, rng)
    lines = capsys.readouterr().out.splitlines()
    assert [line[:11] for line in lines] == [f"step {s:4d}/4" for s in (10, 20, 30, 40)]
    losses = [float(line.split("loss ")[1]) for line in lines]
    assert losses[-1] < losses[0] - 0.5
