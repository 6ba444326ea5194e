"""A VAE trains on a bound: how far is it from the truth?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from base import (
    BACKGROUND,
    DOWN,
    FAINT,
    INK,
    INPUT,
    LEFT,
    LIMIT,
    MODEL,
    MUTED,
    RIGHT,
    UP,
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Create,
    Dot,
    Ellipse,
    FadeIn,
    FadeOut,
    LaggedStart,
    Line,
    ManimColor,
    Rectangle,
    ReplacementTransform,
    TransformFromCopy,
    VMobject,
)

SIDE = 5.2  # of the plane of codes on the screen


def patches(
    values: Sequence[float], middle: np.ndarray, side: float, color: str, steps: int = 6
) -> VGroup:
    """A square of values from 0 to 100, as one shape for each of a few shades."""
    num = round(len(values) ** 0.5)
    cell, corner = side / num, middle + side / 2.0 * (LEFT + UP)
    level = np.rint(np.array(values).reshape(num, num) / 100.0 * steps).astype(int)
    found: dict[int, list[np.ndarray]] = {}
    for i, row in enumerate(level):
        cuts = [0, *(np.flatnonzero(np.diff(row)) + 1), num]
        for start, end in zip(cuts, cuts[1:]):
            box = [(start, i), (end, i), (end, i + 1), (start, i + 1), (start, i)]
            path = [corner + cell * np.array([x, -y, 0.0]) for x, y in box]
            shares = np.array([0.0, 1.0, 2.0, 3.0])[:, None] / 3.0
            found.setdefault(row[start], []).extend(
                [a + shares * (b - a) for a, b in zip(path, path[1:])]
            )
    group = VGroup()
    for number in sorted(found):
        if number:
            tone = ManimColor(BACKGROUND).interpolate(ManimColor(color), number / steps)
            shape = VMobject(fill_color=tone, fill_opacity=1, stroke_width=0)
            group.add(shape.set_points(np.concatenate(found[number])))
    return group


def signed(value: float) -> str:
    """Two decimals with a proper minus."""
    return f"{value:.2f}".replace("-", "−")


def digit(values: Sequence[float], middle: np.ndarray, side: float, color: str) -> VGroup:
    """An 8 x 8 picture in a frame; values from 0 to 100."""
    frame = Rectangle(width=side, height=side, stroke_color=FAINT, stroke_width=1.5)
    frame.set_fill(BACKGROUND, opacity=1).move_to(middle)
    return VGroup(frame, patches(values, middle, side, color))


class Film(MicroScene):
    """One held-out digit in the plane of codes; then the ladder of bounds down to the truth."""

    script = "microvae"
    question = "A VAE trains on a bound: how far is it from the truth?"

    def story(self) -> None:
        self.the_problem()
        self.plane_of_codes()
        self.proposal()
        self.one_weight()
        with self.preview():
            self.the_gap()
        self.clear_stage()
        with self.preview():
            self.ladder()

    def at(self, code: Sequence[float]) -> np.ndarray:
        """Where a code stands on the screen."""
        return self.middle + self.scale * np.array([code[0] - self.x, code[1] - self.y, 0.0])

    def the_problem(self) -> None:
        """A digit that the model has not seen: how likely does the model find it?"""
        d = self.data
        self.ask()
        self.middle = 0.1 * UP + 3.9 * RIGHT
        self.x, self.y, self.scale = 0.0, 0.0, SIDE / 2.0 / d["reach"]
        image = [100.0 * pixel for pixel in d["image"]]
        self.picture = digit(image, 4.6 * LEFT + 0.5 * UP, 3.0, INPUT)
        label = text(f"a held-out {d['label']}", 34, INPUT).next_to(self.picture, DOWN, buff=0.25)
        self.settle(FadeIn(self.picture), FadeIn(label))
        self.say(f"After {d['num_train']:,} digits: how likely would the model draw this one?")
        recipe = VGroup(
            text("1. draw a code: 2 numbers", 36, INK),
            text("2. decode it to 64 pixels", 36, MODEL),
        ).arrange(DOWN, buff=0.5, aligned_edge=LEFT)
        recipe.move_to(2.6 * RIGHT + 0.5 * UP)
        self.play(LaggedStart(*[FadeIn(r, shift=0.2 * UP) for r in recipe], lag_ratio=0.5))
        self.beat(1.75)
        self.play(FadeOut(recipe), FadeOut(label))

    def plane_of_codes(self) -> None:
        """What the decoder draws from codes all over the plane."""
        d = self.data
        frame = Rectangle(width=SIDE, height=SIDE, stroke_color=MUTED, stroke_width=2)
        self.frame = frame.move_to(self.middle)
        drawn = VGroup()
        for row, y in zip(d["pictures"], reversed(d["ticks"])):
            for values, x in zip(row, d["ticks"]):
                drawn.add(digit(values, self.at([x, y]), 1.0, MODEL))
        self.say("Every code is a place in this plane. Here is what the decoder draws there.")
        self.play(Create(self.frame), LaggedStart(*[FadeIn(m) for m in drawn], lag_ratio=0.05))
        self.beat(1.75)
        self.drawn = drawn

    def proposal(self) -> None:
        """The truth needs the sum over all codes; the encoder only proposes a few."""
        d = self.data
        # Zoom in to where the encoder looks.
        zoom = d["zoom"]
        window = Rectangle(width=2.0 * zoom * self.scale, height=2.0 * zoom * self.scale)
        window.set_stroke(INK, width=4).move_to(self.at(d["middle"]))
        self.play(Create(window), run_time=0.5)
        self.x, self.y = d["middle"]
        self.scale = SIDE / 2.0 / zoom
        bigger = self.frame.copy().set_stroke(INK, width=4)
        self.play(
            ReplacementTransform(window, bigger), FadeOut(self.drawn), FadeOut(self.frame),
            run_time=0.8,
        )  # fmt: skip
        self.frame = bigger
        self.heat = patches(d["posterior"], self.middle, SIDE, LIMIT, 8)
        green = text("codes that may\nhave made it", 32, LIMIT).move_to(0.8 * LEFT + 1.6 * UP)
        self.say(
            f"The truth is a sum over all codes. Here a grid of {d['grid']} × {d['grid']} does it."
        )
        self.play(TransformFromCopy(self.picture[1], self.heat), FadeIn(green), run_time=1.2)
        self.bring_to_front(self.frame)
        self.beat(2.0)
        self.ellipses = VGroup(
            *[
                Ellipse(
                    width=2.0 * k * self.scale * d["sigma"][0],
                    height=2.0 * k * self.scale * d["sigma"][1],
                    stroke_color=MODEL,
                    stroke_width=4,
                ).move_to(self.at(d["mean"]))
                for k in (1, 2)
            ]
        )
        amber = text("the encoder's\nproposal", 32, MODEL).move_to(0.8 * LEFT + 0.1 * DOWN)
        self.say("With long codes no sum is possible. So an encoder proposes where to look.")
        self.play(TransformFromCopy(self.picture[1], self.ellipses), FadeIn(amber), run_time=1.2)
        self.beat(2.0)
        self.labels = VGroup(green, amber)

    def one_weight(self) -> None:
        """One code drawn from the proposal, and what it says, number by number."""
        d = self.data
        draw = d["draws"][0]
        dot = Dot(self.at(draw["z"]), radius=0.11, color=INK)
        rows = VGroup(
            *[
                VGroup(
                    text(words, 32, color).move_to(np.array([-6.7, y, 0.0]), aligned_edge=LEFT),
                    text(signed(value), 32, color, mono=True).move_to(
                        np.array([0.55, y, 0.0]), aligned_edge=RIGHT
                    ),
                )
                for words, value, color, y in (
                    ("log p(digit | this code)", draw["log_likelihood"], INK, 1.9),
                    ("log p(this code)", draw["log_prior"], INK, 1.1),
                    ("minus log q(this code)", -draw["log_proposal"], MODEL, 0.3),
                    ("estimate of log p(digit)", draw["log_weight"], MODEL, -0.9),
                )
            ]
        )
        rule = Line(np.array([-6.7, -0.3, 0.0]), np.array([0.55, -0.3, 0.0]), color=MUTED)
        self.say("Draw one code from the proposal q. It gives one estimate.")
        self.play(FadeOut(self.labels), FadeOut(self.picture), FadeIn(dot), run_time=0.6)
        for row in rows[:3]:
            self.play(TransformFromCopy(dot, row), run_time=0.6)
        self.play(Create(rule.set_stroke(width=2)), TransformFromCopy(VGroup(*rows[:3]), rows[3]))
        self.beat(2.0)
        self.say("On average these estimates are too low. Their mean is the bound, the ELBO.")
        self.beat(1.5)
        self.play(FadeOut(rows), FadeOut(rule), FadeOut(dot), run_time=0.5)

    def the_gap(self) -> None:
        """Where the proposal and the truth differ, the bound is lost."""
        d = self.data
        green = text("may have made it", 36, LIMIT).move_to(3.5 * LEFT + 2.2 * UP)
        amber = text("is proposed", 36, MODEL).move_to(3.5 * LEFT + 1.5 * UP)
        self.add(green, amber)
        self.say("The bound misses the truth by as much as the two differ.", run_time=0.25)
        dots = VGroup(*[Dot(self.at(draw["z"]), radius=0.1, color=INK) for draw in d["draws"]])
        self.play(LaggedStart(*[FadeIn(dot) for dot in dots], lag_ratio=0.3), run_time=1.0)
        own = d["own"]
        rows = VGroup(
            text(f"this {d['label']}: bound {signed(own['elbo'])}", 40, MODEL),
            text(f"exact {signed(own['exact'])}", 40, LIMIT),
        ).arrange(DOWN, buff=0.35)
        rows.move_to(3.5 * LEFT + 0.6 * DOWN)
        self.play(TransformFromCopy(self.ellipses, rows[0]), run_time=0.75)
        self.play(FadeIn(rows[1], shift=0.3 * LEFT), run_time=0.75)
        self.beat(1.5)

    def ladder(self) -> None:
        """Three bounds come up to the exact value, mean of all held-out digits."""
        d = self.data
        gaps, bounds = d["gaps"], d["bounds"]
        few, some, many = sorted(gaps, key=int)
        top, unit, left = 1.75, 6.2, -4.4
        names = {few: "the bound (ELBO)", some: f"{some} codes", many: f"{many} codes"}
        line = Line(np.array([left - 0.4, top, 0]), np.array([5.4, top, 0]), color=LIMIT)
        line.set_stroke(width=5)
        truth = text(f"exact: log p = {signed(d['exact'])}", 40, LIMIT).next_to(line, UP, buff=0.2)
        self.say(f"The mean of {d['num_held_out']} held-out digits, in nats.", run_time=0.25)
        self.play(Create(line), FadeIn(truth), run_time=0.5)
        bars = []
        for i, key in enumerate((few, some, many)):
            if i == 1:
                self.say("Average the estimates of several codes: it comes closer.", run_time=0.25)
            bar = Rectangle(width=2.4, height=unit * gaps[key], stroke_width=0)
            bar.set_fill(MODEL, opacity=1)
            bar.move_to(np.array([left + 1.2 + 3.4 * i, top, 0.0]), aligned_edge=UP)
            number = text(signed(-gaps[key]), 44, INK, bold=True).next_to(bar, DOWN, buff=0.15)
            name = text(names[key], 34, MODEL).next_to(number, DOWN, buff=0.15)
            grow = TransformFromCopy(bars[-1] if bars else line, bar)
            self.play(grow, FadeIn(number), FadeIn(name), run_time=0.75)
            bars.append(bar)
        self.say(
            f"The bound says {signed(bounds[few])}: {gaps[few]:.2f} below the truth."
            f" With {many} codes: {gaps[many]:.2f}.",
            run_time=0.25,
        )
        self.beat(2.5)
