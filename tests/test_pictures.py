"""common/pictures.py: what is drawn where."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.pictures import SHADES, cloud, shade, sparkline

NUMBERS = st.floats(-1e6, 1e6)
PLACES = st.floats(-3.0, 3.0)


def darkness(character):
    return SHADES.index(character)


def test_shades_are_ascii_from_empty_to_full():
    assert SHADES[0] == " " and SHADES[-1] == "@"
    assert SHADES.isascii() and len(set(SHADES)) == len(SHADES) == 10


@given(st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=4))
def test_shade(rows):
    lines = shade(rows, low=-1.0, high=1.0)
    assert [len(line) for line in lines] == [6] * len(rows)
    for row, line in zip(rows, lines):
        assert line[::2] == line[1::2]  # each value twice: characters are half as wide as high
        for value, character in zip(row, line[::2]):
            if value <= -1.0 or value >= 1.0:
                assert character == (" " if value < 0 else "@")
        pairs = sorted(zip(row, map(darkness, line[::2])))
        assert [level for _, level in pairs] == sorted([level for _, level in pairs])


def test_shade_uses_every_level_once():
    assert shade([[i / 9 + 1e-12 for i in range(10)]]) == ["".join([2 * c for c in SHADES])]
    assert shade([[16.0, 0.0]], high=16.0) == ["@@  "]


@given(st.lists(NUMBERS, min_size=1, max_size=40))
def test_sparkline(values):
    line = sparkline(values)
    assert len(line) == len(values)
    assert line[values.index(min(values))] == " "
    if min(values) < max(values):
        assert line[values.index(max(values))] == "@"
    pairs = sorted(zip(values, map(darkness, line)))
    assert [level for _, level in pairs] == sorted([level for _, level in pairs])


def test_sparkline_of_equal_values():
    assert sparkline([3.5] * 4) == "    "


@given(st.lists(st.tuples(PLACES, PLACES), max_size=30), st.integers(1, 12), st.integers(1, 7))
def test_cloud(points, columns, lines):
    """Every point within reach darkens the cell that it lies in; none further out does."""
    picture = cloud(points, 2.0, columns, lines)
    assert [len(line) for line in picture] == [columns] * lines
    for i, line in enumerate(picture):
        for j, character in enumerate(line):
            left, right = [-2.0 + 4.0 * k / columns for k in (j, j + 1)]
            top, bottom = [2.0 - 4.0 * k / lines for k in (i, i + 1)]
            # A point on an edge may fall to either side of it.
            near = [
                (x, y)
                for x, y in points
                if left - 1e-9 <= x <= right + 1e-9 and bottom - 1e-9 <= y <= top + 1e-9
            ]
            inside = [
                (x, y)
                for x, y in near
                if left + 1e-9 < x < right - 1e-9 and bottom + 1e-9 < y < top - 1e-9
            ]
            assert (character == " ") or near
            assert (character != " ") or not inside
    within = [(x, y) for x, y in points if abs(x) <= 2.0 and abs(y) <= 2.0]
    assert ("@" in "".join(picture)) == bool(within)  # the fullest cell


@pytest.mark.parametrize("x", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("y", [-1.0, 0.0, 1.0])
def test_points_on_the_edge_are_drawn(x, y):
    assert "".join(cloud([(x, y)], 1.0, 4, 3)).count("@") == 1


@pytest.mark.parametrize("point", [(-1.01, 0.0), (1.01, 0.0), (0.0, 1.01), (0.0, -1.01)])
def test_points_just_outside_are_not_drawn(point):
    assert set("".join(cloud([point], 1.0, 4, 3))) == {" "}


def test_a_single_point_among_thousands_shows():
    picture = cloud([(-0.9, 0.9)] * 10_000 + [(0.9, -0.9)], 1.0, 2, 2)
    assert picture == ["@ ", " ."]


def test_a_round_cloud_is_darkest_in_the_middle():
    rng = random.Random(0)
    picture = cloud([(rng.gauss(0, 0.4), rng.gauss(0, 0.4)) for _ in range(20_000)], 2.0, 21, 21)
    assert darkness(picture[10][10]) >= 8
    assert picture[0][0] == picture[20][20] == " "
    levels = [darkness(picture[10][j]) for j in range(10, 21)]
    assert levels == sorted(levels, reverse=True)
