"""Things that many scenes show: a vector as a strip, bars, a curve, tiles of text, a table."""

from __future__ import annotations

from collections.abc import Sequence

from base import BACKGROUND, FAINT, INK, INPUT, MODEL, MUTED, WRONG, text
from manim import (
    DOWN,
    LEFT,
    RIGHT,
    UP,
    Dot,
    Line,
    ManimColor,
    Mobject,
    Rectangle,
    RoundedRectangle,
    VGroup,
    VMobject,
)


def shade(value: float, scale: float, positive: str = MODEL, negative: str = INPUT) -> ManimColor:
    """A colour between the background (0) and `positive` (scale) or `negative` (-scale)."""
    share = max(-1.0, min(1.0, value / scale if scale else 0.0))
    return ManimColor(BACKGROUND).interpolate(
        ManimColor(positive if share > 0 else negative), 0.12 + 0.88 * abs(share)
    )


class Strip(VGroup):
    """A vector as a row of cells, each shaded by its value: warm above zero, cold below."""

    def __init__(
        self, values: Sequence[float], cell: float = 0.3, scale: float | None = None
    ) -> None:
        super().__init__()
        self.values = list(values)
        largest = scale or max([abs(v) for v in self.values], default=1.0) or 1.0
        for value in self.values:
            self.add(
                Rectangle(
                    width=cell,
                    height=cell,
                    stroke_width=1,
                    stroke_color=FAINT,
                    fill_color=shade(value, largest),
                    fill_opacity=1,
                )
            )
        self.arrange(RIGHT, buff=0)


class Grid(VGroup):
    """A matrix [rows][columns] as shaded cells. `cells[i][j]` is one of them."""

    def __init__(
        self,
        rows: Sequence[Sequence[float]],
        cell: float = 0.3,
        scale: float | None = None,
        positive: str = MODEL,
        negative: str = INPUT,
    ) -> None:
        super().__init__()
        largest = scale or max([abs(v) for row in rows for v in row], default=1.0) or 1.0
        self.cells: list[list[Rectangle]] = []
        for i, row in enumerate(rows):
            self.cells.append([])
            for j, value in enumerate(row):
                square = Rectangle(
                    width=cell,
                    height=cell,
                    stroke_width=1,
                    stroke_color=FAINT,
                    fill_color=shade(value, largest, positive, negative),
                    fill_opacity=1,
                )
                square.move_to(j * cell * RIGHT + i * cell * DOWN)
                self.cells[-1].append(square)
                self.add(square)
        self.center()


def tile(words: object, color: str = INPUT, size: float = 36, side: float = 0.8) -> VGroup:
    """A token: its letters on a rounded square (wider if the letters need it)."""
    letters = text(words, size, color, mono=True)
    frame = RoundedRectangle(
        corner_radius=0.12,
        width=max(side, letters.width + 0.35),
        height=side,
        stroke_color=color,
        stroke_width=2.5,
        fill_color=BACKGROUND,
        fill_opacity=1,
    )
    return VGroup(frame, letters.move_to(frame))


class Bars(VGroup):
    """Vertical bars on a common ground line; height is linear in value, and starts at zero.

    values [n] >= 0, labels [n]; `unit` is the height of a value of 1. `bars[i]` is one bar.
    """

    def __init__(
        self,
        values: Sequence[float],
        labels: Sequence[object],
        unit: float,
        width: float = 0.3,
        gap: float = 0.1,
        color: str | Sequence[str] = MODEL,
        size: float = 24,
        label_color: str = MUTED,
        mono: bool = True,
    ) -> None:
        super().__init__()
        self.unit, self.bar_width = unit, width
        colors = [color] * len(values) if isinstance(color, str) else list(color)
        self.ground = Line(
            LEFT * 0.1, RIGHT * ((width + gap) * len(values) - gap + 0.1), color=MUTED
        ).set_stroke(width=2)
        self.bars, self.labels = VGroup(), VGroup()
        for i, (value, label) in enumerate(zip(values, labels)):
            x = i * (width + gap) + width / 2
            bar = Rectangle(
                width=width,
                height=max(value * unit, 1e-3),
                stroke_width=0,
                fill_color=colors[i],
                fill_opacity=1,
            )
            self.bars.add(bar.move_to(x * RIGHT, aligned_edge=DOWN))
            if str(label):
                # Letters with and without a tail hang from the same line.
                words = text(label, size, label_color, mono=mono)
                self.labels.add(words.move_to(x * RIGHT + 0.28 * DOWN))
        self.add(self.ground, self.bars, self.labels)
        self.center()

    def heights(self, values: Sequence[float]) -> list:
        """Animations that take every bar to its new value."""
        return [
            bar.animate.stretch_to_fit_height(max(value * self.unit, 1e-3)).align_to(
                self.ground, DOWN
            )
            for bar, value in zip(self.bars, values)
        ]


class RowBars(VGroup):
    """Horizontal bars with a name before and the number behind each: for the answer.

    rows: (name, value, colour); `length` is the length of the largest value; `form` writes it.
    """

    def __init__(
        self,
        rows: Sequence[tuple[str, float, str]],
        length: float = 6.0,
        form: str = "{:.3f}",
        size: float = 32,
        thickness: float = 0.42,
        gap: float = 0.35,
        most: float | None = None,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        top = most if most is not None else max(value for _, value, _ in rows)
        self.names, self.bars, self.numbers = VGroup(), VGroup(), VGroup()
        for i, (name, value, color) in enumerate(rows):
            y = -i * (thickness + gap)
            bar = Rectangle(
                width=max(length * (value - start) / (top - start), 1e-3),
                height=thickness,
                stroke_width=0,
                fill_color=color,
                fill_opacity=1,
            ).move_to(y * UP, aligned_edge=LEFT)
            self.bars.add(bar)
            self.names.add(text(name, size, color).next_to(y * UP, LEFT, buff=0.3))
            self.numbers.add(text(form.format(value), size, color).next_to(bar, RIGHT, buff=0.25))
        self.add(self.names, self.bars, self.numbers)
        self.center()


class Axes2(VGroup):
    """Two axes with linear scales from (x0, y0) to (x1, y1), `width` by `height` units."""

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        width: float = 6.0,
        height: float = 3.5,
        x_label: str = "",
        y_label: str = "",
        size: float = 26,
    ) -> None:
        super().__init__()
        self.x, self.y, self.w, self.h = x, y, width, height
        self.corner = Dot(radius=0.001).set_opacity(0)
        self.across = Line(0 * RIGHT, width * RIGHT, color=MUTED).set_stroke(width=2)
        self.up = Line(0 * UP, height * UP, color=MUTED).set_stroke(width=2)
        self.add(self.corner, self.across, self.up)
        if x_label:
            self.add(text(x_label, size, MUTED).next_to(self.across, DOWN, buff=0.2))
        if y_label:
            self.add(text(y_label, size, MUTED).next_to(self.up, UP, buff=0.15))
        self.center()

    def at(self, x: float, y: float) -> object:
        """Where the value (x, y) stands."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0]) * self.w
        upward = (y - self.y[0]) / (self.y[1] - self.y[0]) * self.h
        return self.corner.get_center() + across * RIGHT + upward * UP

    def curve(
        self, points: Sequence[tuple[float, float]], color: str, width: float = 4
    ) -> VMobject:
        """The points joined by straight lines."""
        return (
            VMobject(stroke_color=color, stroke_width=width)
            .set_points_as_corners([self.at(x, y) for x, y in points])
            .set_fill(opacity=0)
        )


def table(
    rows: Sequence[Sequence[object]],
    size: float = 28,
    colors: Sequence[str] | None = None,
    across: float = 0.6,
    down: float = 0.28,
) -> VGroup:
    """Rows of text in columns: the first column to the left, the others to the right."""
    cells = [
        [text(cell, size, colors[i] if colors else INK) for cell in row]
        for i, row in enumerate(rows)
    ]
    widths = [max(row[j].width for row in cells) for j in range(len(rows[0]))]
    height = max(cell.height for row in cells for cell in row)
    lines = VGroup()
    for i, row in enumerate(cells):
        x, line = 0.0, VGroup()
        for j, cell in enumerate(row):
            place = -i * (height + down) * UP
            if j == 0:
                cell.move_to(place + x * RIGHT, aligned_edge=LEFT)
            else:
                cell.move_to(place + (x + widths[j]) * RIGHT, aligned_edge=RIGHT)
            x += widths[j] + across
            line.add(cell)
        lines.add(line)
    return lines.center()


def cross_out(mobject: Mobject, color: str = WRONG) -> VGroup:
    """Two strokes over a thing."""
    a, b = mobject.get_corner(UP + LEFT), mobject.get_corner(DOWN + RIGHT)
    c, d = mobject.get_corner(UP + RIGHT), mobject.get_corner(DOWN + LEFT)
    return VGroup(Line(a, b, color=color), Line(c, d, color=color)).set_stroke(width=5)
