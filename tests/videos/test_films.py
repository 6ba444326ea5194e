"""Every film, played without being rendered: its words, its numbers, its length.

The layout is looked at at every pause. What the frame says must come from the trace: each number
on it is one of the trace's numbers, rounded as it is written, and everything in the trace is used.
"""

from __future__ import annotations

import copy
import json
import sys
from functools import cache
from pathlib import Path

import pytest
from support import ROOT

VIDEOS = ROOT / "videos"
sys.path[:0] = [str(VIDEOS), str(VIDEOS / "scenes")]

import base  # noqa: E402
import look  # noqa: E402
import render  # noqa: E402
from PIL import Image  # noqa: E402

SCENES = render.scene_names()
SECONDS = (30.0, 80.0)


def words_of(scene: base.MicroScene) -> list[str]:
    """What can be read on the frame."""
    return [letters.words for letters in base.texts(scene)]


@cache
def film(name: str) -> dict:
    """One walk through a scene: complaints, words by pause, unread keys, lengths."""
    pauses: list[list[str]] = []
    complaints: list[str] = []
    unknown: list[str] = []
    times: list[float] = []

    def at_pause(scene: base.MicroScene) -> None:
        times.append(scene.renderer.time)
        pauses.append(words_of(scene))
        numbers = list(base.leaves(dict(scene.data)))
        complaints.extend([f"pause {len(pauses)}: {what}" for what in base.complaints(scene)])
        for token in [t for words in pauses[-1] for t in base.numbers_in(words)]:
            if not base.is_in(token, numbers):
                unknown.append(f"pause {len(pauses)}: {token}")

    scene = look.walk(name, at_pause)
    return {
        "complaints": complaints,
        "unknown": unknown,
        "pauses": pauses,
        "times": times,
        "unread": set(scene.data) - scene.data.keys_read,
        "seconds": scene.renderer.time,
        "preview": scene.preview_seconds,
        "question": scene.question,
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.xdist_group(f"film-{name}")) for name in SCENES]
)
class TestFilm:
    """One group per scene, so that one worker walks through it once."""

    def test_words_are_legible(self, name: str) -> None:
        assert film(name)["complaints"] == []

    def test_every_number_is_in_the_trace(self, name: str) -> None:
        assert film(name)["unknown"] == []
        assert film(name)["unread"] == set()

    def test_it_asks_first_and_answers_last(self, name: str) -> None:
        walk = film(name)
        assert walk["times"][0] <= 5.0
        assert any([walk["question"] == " ".join(w.split()) for w in walk["pauses"][0]])
        assert [token for words in walk["pauses"][-1] for token in base.numbers_in(words)]

    def test_length_and_pauses(self, name: str) -> None:
        walk = film(name)
        assert SECONDS[0] <= walk["seconds"] <= SECONDS[1]
        assert len(walk["pauses"]) >= 5
        assert render.GIF_SECONDS[0] <= walk["preview"] <= render.GIF_SECONDS[1]

    def test_a_changed_trace_changes_the_film(self, name: str, tmp_path: Path) -> None:
        """Change every number that the last frame says, and play the film again."""
        walk = film(name)
        trace = base.load_trace(name)
        last = " ".join(walk["pauses"][-1])
        paths = number_paths(trace["data"])
        # First those that have a name; numbers in lists only if nothing has.
        named = [path for path in paths if not [key for key in path if isinstance(key, int)]]
        for group in (named, paths):
            changed = copy.deepcopy(trace)
            if not any([alter(changed["data"], path, last) for path in group]):
                continue
            (tmp_path / f"{name}.json").write_text(json.dumps(changed), encoding="utf-8")
            pauses: list[list[str]] = []
            try:
                look.walk(name, lambda scene, seen=pauses: seen.append(words_of(scene)), tmp_path)
            except AssertionError:
                return  # a sum or a length that the film checks is no longer right
            if pauses[-1] != walk["pauses"][-1]:
                return
        pytest.fail("no number of the last frame follows the trace")

    def test_the_preview_is_a_small_gif(self, name: str) -> None:
        path = VIDEOS / "previews" / f"{name}.gif"
        assert path.stat().st_size <= render.GIF_BYTES
        with Image.open(path) as gif:
            assert gif.size == (480, 270) and gif.info.get("loop") == 0
            seconds = 0.0
            for frame in range(gif.n_frames):
                gif.seek(frame)
                seconds += gif.info["duration"] / 1000
        assert render.GIF_SECONDS[0] - 0.5 <= seconds <= render.GIF_SECONDS[1] + 0.5


def number_paths(value: object, path: tuple = ()) -> list[tuple]:
    """Where the numbers of a trace stand: short paths first."""
    found = []
    if isinstance(value, dict):
        for key, part in value.items():
            found += number_paths(part, (*path, key))
    elif isinstance(value, list):
        for key, part in enumerate(value):
            found += number_paths(part, (*path, key))
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        found.append(path)
    return sorted(found, key=len) if not path else found


def alter(data: dict, path: tuple, words: str) -> bool:
    """Make a number that these words say larger by a third; False if they do not say it."""
    for key in path[:-1]:
        data = data[key]
    value = data[path[-1]]
    tokens = [
        token
        for token in base.numbers_in(words)
        if base.read_number(token) > 12 or "." in token or "%" in token
    ]
    if not value or not any([base.is_in(token, [float(value)]) for token in tokens]):
        return False
    data[path[-1]] = type(value)(value * 4 / 3)
    return True


# === THE CHECKS THEMSELVES ===


class Toy(base.MicroScene):
    """A scene that does what it is told."""

    script, question = "toy", "Is this seen?"
    make: list = []

    def story(self) -> None:
        self.add(*self.make)
        self.beat(1.0)


def complaints_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *things: object) -> str:
    """What the layout test says of a frame with these things."""
    (tmp_path / "toy.json").write_text('{"data": {"value": 1.5}}', encoding="utf-8")
    found: list[str] = []
    film = type("Film", (Toy,), {"make": list(things)})
    monkeypatch.setattr(look, "load_film", lambda name: film)
    look.walk("toyscene", lambda scene: found.extend(base.complaints(scene)), tmp_path)
    return "; ".join(found)


def test_the_layout_test_sees_what_is_wrong(tmp_path: Path, monkeypatch) -> None:
    def said(*things: object) -> str:
        return complaints_about(tmp_path, monkeypatch, *things)

    assert said(base.text("plain", 30)) == ""
    assert "too small" in said(base.text("small", 20))
    assert "cut off" in said(base.text("far away", 30).move_to(6.8 * base.RIGHT))
    assert "cut off" in said(base.text("high", 30).move_to(3.9 * base.UP))
    assert "overlap" in said(base.text("one", 30), base.text("two", 30).shift(0.1 * base.RIGHT))
    assert "too faint" in said(base.text("faint", 30, base.FAINT))
    assert "too faint" in said(base.text("faded", 30).set_opacity(0.3))
    bright = base.VGroup(look.base.VMobject())  # an empty thing in between is no ground
    assert said(bright, base.text("plain", 30)) == ""
    shrunk = base.VGroup(base.text("shrunk", 30)).scale(0.5)
    assert "too small (15.0)" in said(shrunk)


def test_text_on_a_bright_ground_needs_a_dark_colour(tmp_path: Path, monkeypatch) -> None:
    from parts import Rectangle

    ground = Rectangle(width=4, height=2, fill_color=base.MODEL, fill_opacity=1)
    assert "too faint" in complaints_about(tmp_path, monkeypatch, ground, base.text("pale", 30))
    dark = base.text("dark", 30, base.BACKGROUND)
    assert complaints_about(tmp_path, monkeypatch, ground, dark) == ""


def test_every_colour_can_be_read() -> None:
    ground = base.ManimColor(base.BACKGROUND)
    for color in (base.INK, base.MUTED, base.INPUT, base.MODEL, base.RIVAL, base.LIMIT, base.WRONG):
        assert base.contrast(base.ManimColor(color), ground) >= 4.5


@pytest.mark.parametrize(
    ("token", "numbers", "found"),
    [
        ("2.29", [2.286], True),
        ("2.28", [2.286], False),
        ("93%", [0.9312], True),
        ("94%", [0.9312], False),
        ("4,192", [4192.0], True),
        ("-0.09", [-0.0907], True),
        ("1e-15", [9.6e-16], True),
        ("1e-12", [9.6e-16], False),
        ("2e-14", [1.6e-14], True),
        ("1e-14", [1.6e-14], False),
        ("1.6e-14", [1.58e-14], True),
        ("13", [14.0], False),
        ("2", [], True),
    ],
)
def test_numbers_are_looked_up_as_they_are_written(token: str, numbers: list, found: bool) -> None:
    assert base.is_in(token, numbers) is found


def test_a_pause_is_long_enough() -> None:
    with pytest.raises(ValueError, match="at least a second"):
        base.MicroScene.beat(None, 0.5)


def test_lines_are_broken_evenly() -> None:
    assert base.wrapped("one two three four", 12) == "one two\nthree four"
    assert base.wrapped("short", 12) == "short"


def test_a_missing_trace_and_a_missing_font_are_named(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(base.StaleTrace, match=r"videos/tracing\.py microx writes it"):
        base.load_trace("microx", tmp_path)
    monkeypatch.setattr(base.manimpango, "list_fonts", lambda: ["Inter"])
    with pytest.raises(base.MissingFont, match="JetBrains Mono"):
        base.check_fonts()
