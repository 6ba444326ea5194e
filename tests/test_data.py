"""common/data.py: what the loaders say about their data is true.

How a script finds its data, refuses damaged bytes and downloads is tested in test_runs.py.
"""

from __future__ import annotations

import hashlib
import re
import string
import urllib.request
from collections import Counter

import pytest
from support import DATA

from common import data

NAMES = data.load_names()
IMAGES, LABELS = data.load_digits()
BOOK = data.load_book()


@pytest.mark.parametrize(
    ("filename", "sha256"),
    [
        ("names.txt", data.NAMES_SHA256),
        ("digits.csv.gz", data.DIGITS_SHA256),
        ("shakespeare.txt", data.BOOK_SHA256),
    ],
)
def test_load_data(filename, sha256, tmp_path, monkeypatch):
    content = data.load_data(filename, sha256)
    assert hashlib.sha256(content).hexdigest() == sha256
    assert content == (DATA / filename).read_bytes()
    assert b"\r" not in content or filename.endswith(".gz")

    def refused(*_, **__):
        raise AssertionError("asked the network for what is there")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    assert data.load_data(filename, sha256) == content
    with pytest.raises(SystemExit, match=f"{re.escape(filename)} is damaged"):
        data.load_data(filename, "0" * 64)
    # Beside the script itself.
    monkeypatch.setattr(data, "__file__", str(tmp_path / "tier" / "micro.py"))
    (tmp_path / "tier").mkdir()
    (tmp_path / "tier" / filename).write_bytes(content)
    assert data.load_data(filename, sha256) == content
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / filename).write_bytes(b"other")
    with pytest.raises(SystemExit, match="damaged"):  # data/ is asked first
        data.load_data(filename, sha256)


@pytest.mark.parametrize("problem", [OSError("no network"), TimeoutError("too slow")])
def test_load_data_that_is_not_there(problem, tmp_path, monkeypatch):
    def urlopen(url, timeout):
        assert url == data.DATA_URL + "names.txt" and timeout > 0
        raise problem

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(data, "__file__", str(tmp_path / "tier" / "micro.py"))
    (tmp_path / "tier").mkdir()
    with pytest.raises(SystemExit) as ended:
        data.load_data("names.txt", data.NAMES_SHA256)
    said = str(ended.value)
    assert str(problem) in said and data.DATA_URL in said and "\n" not in said
    assert not list((tmp_path / "tier").iterdir())


def test_names():
    assert len(NAMES) == len(set(NAMES)) == 29_693
    assert NAMES == sorted(NAMES)
    assert set("".join(NAMES)) == set(string.ascii_lowercase)
    assert max(map(len, NAMES)) == 15 and min(map(len, NAMES)) >= 1
    lines = (DATA / "names.txt").read_text(encoding="ascii").split("\n")
    lines = [line for line in lines if line]
    assert len(lines) == 32_257
    assert max(Counter(lines).values()) == 2  # for girls and for boys
    assert set(lines) == set(NAMES)
    assert {"ava", "zoe", "maximilian"} <= set(NAMES)


def test_digits():
    assert len(IMAGES) == len(LABELS) == 1_797
    assert {len(image) for image in IMAGES} == {64}
    values = {value for image in IMAGES for value in image}
    assert values == {ink / 16 for ink in range(17)}
    assert set(LABELS) == set(range(10))
    assert all([type(label) is int for label in LABELS])
    assert all([170 <= count <= 190 for count in Counter(LABELS).values()])


def test_digits_look_like_digits():
    """Most images lie nearest to the mean of their class: pixels and labels belong together."""
    means = []
    for digit in range(10):
        own = [image for image, label in zip(IMAGES, LABELS) if label == digit]
        means.append([sum(column) / len(own) for column in zip(*own)])

    def nearest(image):
        distances = [sum([(a - b) ** 2 for a, b in zip(image, mean)]) for mean in means]
        return distances.index(min(distances))

    right = [nearest(image) == label for image, label in zip(IMAGES[::5], LABELS[::5])]
    assert sum(right) / len(right) > 0.85


def test_digits_stand_in_the_order_of_their_writers():
    """The nearest neighbour of an image of the same class is a neighbour in the file more often
    than chance would have it: the same hand.
    """
    near = close = 0
    for i in range(200, 400):
        others = [j for j in range(1797) if LABELS[j] == LABELS[i] and j != i]
        nearest = min(others, key=lambda j: sum(map(abs, map(float.__sub__, IMAGES[i], IMAGES[j]))))
        near += abs(nearest - i) < 100
        close += sum([abs(j - i) < 100 for j in others]) / len(others)
    assert near > 2.5 * close


PLAYS = {
    "Hamlet": ("To be, or not to be", "HAMLET", "OPHELIA"),
    "Macbeth": ("Out, damned spot", "MACBETH", "BANQUO"),
    "Romeo and Juliet": ("wherefore art thou Romeo", "ROMEO", "JULIET"),
    "A Midsummer Night's Dream": ("what fools these mortals be", "OBERON", "HELENA"),
}
OTHERS = ("OTHELLO", "PROSPERO", "SHYLOCK", "CORDELIA", "FALSTAFF", "Gutenberg")


@pytest.mark.parametrize("play", PLAYS)
def test_the_book_holds_four_plays(play):
    line, *people = PLAYS[play]
    assert line in BOOK
    for person in people:
        assert len(re.findall(rf"\b{person}\b", BOOK, re.IGNORECASE)) >= 20


def test_the_book_holds_no_other_play_and_no_licence_text():
    assert [name for name in OTHERS if re.search(rf"\b{name}\b", BOOK, re.IGNORECASE)] == []
    assert "\r" not in BOOK and "\ufeff" not in BOOK
    assert 400_000 < len(BOOK) < 800_000
