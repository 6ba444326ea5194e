"""The base of every scene: look, pacing, the trace, and the checks that a test makes at each pause.

A scene is a class `Film(MicroScene)` in a file named after its script. It sets `script` and
`question`, and `story()` tells the rest. Colours mean one thing through the whole series.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import manimpango
from manim import (
    DOWN,
    LEFT,
    RIGHT,
    UP,
    FadeIn,
    FadeOut,
    ManimColor,
    Mobject,
    ReplacementTransform,
    Scene,
    Text,
    VGroup,
    VMobject,
    config,
    tempconfig,
)

SCRATCH = tempfile.TemporaryDirectory()  # where Manim puts the shapes of letters meanwhile
VIDEOS = Path(__file__).resolve().parents[1]
TRACES = VIDEOS / "traces"

# === THE LOOK ===

BACKGROUND = "#10141A"
INK = "#F2EFE9"  # what is said
MUTED = "#A3AEBB"  # axes, labels, what has been seen before
FAINT = "#3A4552"  # outlines and empty cells: never for text
INPUT = "#6CB8FF"  # data: tokens, images, points, what comes in
MODEL = "#FFB454"  # what the script's method computes or reaches
RIVAL = "#C4A5F5"  # the baseline: what it is compared with
LIMIT = "#86D96B"  # the computable limit, the truth, what is right
WRONG = "#FF8577"  # an error, a loss, a gradient, what fails

SANS, MONO = "Inter", "JetBrains Mono"
SMALLEST = 24  # Manim's font size; a preview is 480 pixels wide
FRAME_X, FRAME_Y, MARGIN = 14.222, 8.0, 0.3
HEADER_Y, CAPTION_Y = 3.42, -3.35  # the question above, what is being shown below
STAGE_TOP, STAGE_BOTTOM = 2.9, -2.7  # the scene's own things stand between


class MissingFont(RuntimeError):
    """A font of the series is not installed."""


class StaleTrace(RuntimeError):
    """The trace is not there or cannot be read."""


def check_fonts() -> None:
    """Say which font is missing, instead of rendering in another one."""
    installed = set(manimpango.list_fonts())
    missing = [font for font in (SANS, MONO) if font not in installed]
    if missing:
        raise MissingFont(
            f"font not installed: {', '.join(missing)} (videos/README.md says how to get it)"
        )


def load_trace(script: str, folder: Path = TRACES) -> dict:
    """The numbers that the script's own functions wrote: {"script", "sha256", "data"}."""
    path = folder / f"{script}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StaleTrace(
            f"videos/traces/{script}.json cannot be read ({error}): "
            f"python3 videos/tracing.py {script} writes it"
        ) from None


class Words(VGroup):
    """Text as plain shapes, one for each letter (Manim's own Text is slow to copy).

    words: the text. font_size: its size now, in Manim's units, however it was scaled.
    """

    def __init__(self, letters: Text, words: str) -> None:
        super().__init__()
        for letter in letters.submobjects:
            shape = VMobject(fill_color=letter.get_fill_color(), fill_opacity=1, stroke_width=0)
            self.add(shape.set_points(letter.points))
        self.words = words
        self.drawn_size, self.drawn_height = letters.font_size, max(letters.height, 1e-6)

    @property
    def font_size(self) -> float:
        """The size that the letters have now."""
        return self.drawn_size * self.height / self.drawn_height


def text(
    words: object,
    size: float = 32,
    color: str = INK,
    mono: bool = False,
    bold: bool = False,
) -> Words:
    """A line of text, or several, which are centred. A space is a letter too, without points.
    There must be something to read.

    It is drawn large and scaled down, which keeps the kerning.
    """
    drawn = 96.0
    # Pango breaks lines at the width of the picture, in pixels: a small one would break them all.
    with tempconfig({"pixel_width": 1920, "pixel_height": 1080, "media_dir": SCRATCH.name}):
        letters = Text(
            str(words),
            font=MONO if mono else SANS,
            font_size=drawn,
            color=color,
            weight="BOLD" if bold else "NORMAL",
            line_spacing=0.4,
            disable_ligatures=True,
        )
    result = Words(letters, str(words)).scale(size / drawn)
    start, middle, lines = 0, result.get_center()[0], result.words.split("\n")
    if len(lines) > 1:
        assert len(result.submobjects) == len(result.words)
        for line in lines:
            part = VGroup(*result.submobjects[start : start + len(line)])
            part.shift((middle - part.get_center()[0]) * RIGHT)
            start += len(line) + 1
    return result.center()


def wrapped(words: str, columns: int) -> str:
    """The words in lines of at most so many characters, as even as they can be."""
    tokens = words.split()
    best = words
    for width in range(columns, 8, -1):
        lines: list[str] = [""]
        for token in tokens:
            longer = f"{lines[-1]} {token}".strip()
            if len(longer) > width and lines[-1]:
                lines.append(token)
            else:
                lines[-1] = longer
        if best is not words and len(lines) > best.count("\n") + 1:
            break
        best = "\n".join(lines)
    return best


class Read(dict):
    """A trace's numbers; it remembers which were asked for, so that a test finds the unused."""

    def __init__(self, content: dict) -> None:
        super().__init__(content)
        self.keys_read: set[str] = set()

    def __getitem__(self, key: str) -> object:
        self.keys_read.add(key)
        return super().__getitem__(key)


class MicroScene(Scene):
    """A scene with a question, a trace, captions and pauses.

    script: the name of the script whose run is shown. question: one line.
    """

    script = ""
    question = ""
    only_preview = False  # render nothing but what stands in `with self.preview():`
    at_pause: Callable[[MicroScene], None] | None = None  # a test looks at the frame here
    trace_folder = TRACES

    def setup(self) -> None:
        check_fonts()
        self.camera.background_color = ManimColor(BACKGROUND)
        self.data = Read(load_trace(self.script, self.trace_folder)["data"])
        self.header: Words | None = None
        self.caption: Words | None = None
        self.preview_seconds = 0.0
        if self.only_preview:
            self.next_section("before", skip_animations=True)

    def construct(self) -> None:
        self.story()

    def story(self) -> None:
        """What the scene shows; every scene writes its own."""
        raise NotImplementedError

    # --- pacing ---

    def beat(self, seconds: float = 1.5) -> None:
        """Hold still, so that the frame can be read (at least a second)."""
        if seconds < 1.0:
            raise ValueError(f"a pause is at least a second, not {seconds}")
        self.wait(seconds)
        if self.at_pause is not None:
            self.at_pause(self)

    @contextmanager
    def preview(self) -> Iterator[None]:
        """What stands in here is the preview (8 to 14 seconds in all, with the punch line)."""
        start = self.renderer.time
        if self.only_preview:
            self.next_section("preview", skip_animations=False)
        yield
        self.preview_seconds += self.renderer.time - start
        if self.only_preview:
            self.next_section("between", skip_animations=True)

    # --- words ---

    def ask(self) -> Words:
        """Show the question in the middle; `settle` moves it to the top, where it stays."""
        self.header = text(wrapped(self.question, 38), 48, bold=True)
        self.play(FadeIn(self.header, shift=0.15 * UP), run_time=0.7)
        self.beat(1.5)
        return self.header

    def settle(self, *with_it: object) -> None:
        """Move the question to the top, smaller; further animations may play with it."""
        header = text(self.question, 30, MUTED)
        if header.width > FRAME_X - 2 * MARGIN:
            raise ValueError(f"the question is too long for one line: {self.question}")
        header.move_to(HEADER_Y * UP)
        self.play(ReplacementTransform(self.header, header), *with_it, run_time=0.8)
        self.header = header

    def say(self, words: str, size: float = 33, color: str = INK, run_time: float = 0.5) -> Words:
        """Put a caption under the stage in place of the one before."""
        columns = 62
        caption = text(wrapped(words, columns), size, color)
        while caption.width > FRAME_X - 2 * MARGIN and columns > 20:
            columns -= 4
            caption = text(wrapped(words, columns), size, color)
        if caption.width > FRAME_X - 2 * MARGIN or caption.height > 1.0:
            raise ValueError(f"too long ({caption.width:.1f} by {caption.height:.1f}): {words}")
        caption.move_to(CAPTION_Y * UP)
        if self.caption is not None:
            self.play(FadeOut(self.caption), run_time=0.2)
        self.play(FadeIn(caption), run_time=run_time)
        self.caption = caption
        return caption

    def clear_stage(self, *keep: Mobject, run_time: float = 0.5) -> None:
        """Take everything away but the question, the caption and what is to be kept."""
        kept = {id(m) for m in (self.header, self.caption, *keep) if m is not None}
        away = [m for m in self.mobjects if id(m) not in kept]
        if away:
            self.play(*[FadeOut(m) for m in away], run_time=run_time)


# === WHAT A TEST LOOKS AT ===


def texts(scene: Scene) -> list[Words]:
    """Every text that can be seen."""
    found = [m for top in scene.mobjects for m in top.get_family() if isinstance(m, Words)]
    return [m for m in found if opacity(m) > 0.02 and len(m.submobjects)]


def opacity(mobject: VMobject) -> float:
    """How opaque a text's letters are."""
    return max([m.get_fill_opacity() for m in mobject.family_members_with_points()], default=0.0)


def box(mobject: Mobject) -> tuple[float, float, float, float]:
    """Left, right, bottom, top."""
    left, right = mobject.get_left()[0], mobject.get_right()[0]
    return left, right, mobject.get_bottom()[1], mobject.get_top()[1]


def luminance(color: ManimColor) -> float:
    """Relative luminance, as the Web Content Accessibility Guidelines define it."""
    parts = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color.to_rgb().tolist()
    ]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(one: ManimColor, other: ManimColor) -> float:
    """From 1 (the same) to 21 (black on white)."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def grounds(scene: Scene) -> list[tuple[int, tuple, ManimColor, float]]:
    """Every filled shape in the order of drawing: its place in it, box, colour, opacity; for a
    text, its place only (opacity 0).
    """
    order = [m for top in scene.mobjects for m in top.get_family()]
    order.sort(key=lambda m: m.z_index)
    letters = {id(part) for m in order if isinstance(m, Words) for part in m}
    return [
        (id(m), box(m), m.get_fill_color(), m.get_fill_opacity())
        for m in order
        if isinstance(m, VMobject)
        and id(m) not in letters
        and (isinstance(m, Words) or (len(m.points) and m.get_fill_opacity() > 0))
    ]


def behind(letters: Words, shapes: list[tuple[int, tuple, ManimColor, float]]) -> ManimColor:
    """The colour on which a text stands: the shapes drawn before it that contain its middle."""
    result = ManimColor(BACKGROUND)
    x, y, _ = letters.get_center()
    for number, (left, right, bottom, top), color, opaque in shapes:
        if number == id(letters):
            break
        if left <= x <= right and bottom <= y <= top:
            result = result.interpolate(color, opaque)
    return result


def complaints(scene: Scene) -> list[str]:
    """What is wrong with the words on this frame."""
    result = []
    seen = texts(scene)
    boxes = [box(letters) for letters in seen]
    shapes = grounds(scene)
    for letters, (left, right, bottom, top) in zip(seen, boxes):
        name = letters.words
        inside = left >= MARGIN - FRAME_X / 2 and right <= FRAME_X / 2 - MARGIN
        if not (inside and bottom >= 0.15 - FRAME_Y / 2 and top <= FRAME_Y / 2 - 0.15):
            place = f"{left:.2f} to {right:.2f}, {bottom:.2f} to {top:.2f}"
            result.append(f"cut off: {name!r} ({place})")
        if letters.font_size < SMALLEST - 0.01:
            result.append(f"too small ({letters.font_size:.1f}): {name!r}")
        shown = ManimColor(letters.family_members_with_points()[0].get_fill_color())
        ground = behind(letters, shapes)
        seen_color = ground.interpolate(shown, opacity(letters))
        if (ratio := contrast(seen_color, ground)) < 4.5:
            result.append(f"too faint ({ratio:.1f}:1): {name!r}")
    for i, (one, a) in enumerate(zip(seen, boxes)):
        for other, b in list(zip(seen, boxes))[i + 1 :]:
            across = min(a[1], b[1]) - max(a[0], b[0])
            upward = min(a[3], b[3]) - max(a[2], b[2])
            if across > 0.02 and upward > 0.02:
                result.append(f"overlap: {one.words!r} and {other.words!r}")
    return result


NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?\d[\d,]*(?:\.\d+)?(?:e-?\d+)?%?")


def numbers_in(words: str) -> list[str]:
    """The numbers that a text says: '2.286', '4,192', '93%'."""
    return NUMBER.findall(words)


def leaves(value: object) -> Iterator[float]:
    """Every number in a trace, and the length of every list."""
    if isinstance(value, dict):
        for part in value.values():
            yield from leaves(part)
    elif isinstance(value, list):
        yield float(len(value))
        for part in value:
            yield from leaves(part)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)
    elif isinstance(value, str):
        for part in numbers_in(value):
            yield read_number(part)


def read_number(token: str) -> float:
    """'4,192' -> 4192.0, '93%' -> 0.93."""
    token = token.replace(",", "").replace("\u2212", "-")
    return float(token[:-1]) / 100 if token.endswith("%") else float(token)


def is_in(token: str, numbers: list[float]) -> bool:
    """True if the token is one of these numbers, rounded as it is written (the sign aside)."""
    percent = token.endswith("%")
    digits = token.rstrip("%").split("e")[0].partition(".")[2]
    wanted = abs(read_number(token)) * (100 if percent else 1)
    half = 0.5 * 10.0 ** -len(digits) * 1.001
    if "e" in token:
        half *= 10.0 ** int(token.partition("e")[2])
        return any([abs(abs(n) - wanted) <= half for n in numbers])
    if not digits and not percent and wanted <= 12:
        return True  # "2 heads", "step 1": counting
    return any([abs(abs(n) * (100 if percent else 1) - wanted) <= half for n in numbers])


__all__ = [
    "BACKGROUND", "DOWN", "FAINT", "INK", "INPUT", "LEFT", "LIMIT", "MODEL", "MONO", "MUTED",
    "RIGHT", "RIVAL", "SANS", "SMALLEST", "STAGE_BOTTOM", "STAGE_TOP", "UP", "WRONG", "MicroScene",
    "VGroup", "config", "text", "wrapped",
]  # fmt: skip
