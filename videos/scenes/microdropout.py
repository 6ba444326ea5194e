"""A fifth of the labels are wrong: who learns them by heart?"""

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
    RIVAL,
    UP,
    WRONG,
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Circle,
    Create,
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    ManimColor,
    Rectangle,
    TransformFromCopy,
    VMobject,
)
from parts import Axes2, Bars, RowBars

COLORS = {"same rate": RIVAL, "own rate": RIVAL, "dropout": MODEL}
TITLES = {"same rate": "plain", "own rate": "plain, lower rate", "dropout": "dropout"}


class Digit(VGroup):
    """A picture of 8 by 8 pixels: those of a like brightness are one shape."""

    levels = 4

    def __init__(self, pixels: Sequence[float], side: float) -> None:
        super().__init__()
        cell = side / 8
        self.frame = Rectangle(width=side, height=side, stroke_color=FAINT, stroke_width=1.5)
        self.add(self.frame)
        corner = side / 2 * (LEFT + UP)
        for level in range(1, self.levels + 1):
            squares = []
            for i, value in enumerate(pixels):
                if round(value * self.levels) == level:
                    square = Rectangle(width=cell, height=cell)
                    square.move_to(corner + cell * ((i % 8 + 0.5) * RIGHT + (i // 8 + 0.5) * DOWN))
                    squares.append(square.points)
            if squares:
                color = ManimColor(BACKGROUND).interpolate(ManimColor(INPUT), level / self.levels)
                shape = VMobject(fill_color=color, fill_opacity=1, stroke_width=0)
                self.add(shape.set_points(np.concatenate(squares)))


class Film(MicroScene):
    """One wrong label, met by a plain network and by one with dropout; then all of them."""

    script = "microdropout"
    question = "A fifth of the labels are wrong: who learns them by heart?"

    def story(self) -> None:
        self.the_problem()
        self.masks()
        self.duel()
        self.all_labels()
        self.cut_units()
        self.answer()

    def the_problem(self) -> None:
        """Some digits of the training set, with the labels that the network is told."""
        d = self.data
        self.ask()
        pictures, labels = VGroup(), VGroup()
        for i, example in enumerate(d["examples"]):
            row, column = divmod(i, 5)
            place = np.array([2.3 * (column - 2) - 0.3, 1.95 - 1.75 * row, 0.0])
            pictures.add(Digit(example["pixels"], 1.4).move_to(place))
            color = MUTED if example["label"] == example["digit"] else WRONG
            labels.add(text(example["label"], 40, color, bold=True).move_to(place + 1.05 * RIGHT))
        self.settle(LaggedStart(*[FadeIn(p) for p in pictures], lag_ratio=0.05))
        self.play(LaggedStart(*[FadeIn(label) for label in labels], lag_ratio=0.05))
        self.say(f"{d['num_rows']} digits to learn from. Here are some; red labels are wrong.")
        self.beat(2.0)
        self.picture, self.label = pictures[d["which"]], labels[d["which"]]
        self.clear_stage(self.picture, self.label)

    def masks(self) -> None:
        """The hidden units that one picture excites; half of them are set to zero, again and
        again.
        """
        d = self.data
        largest = max(max(m["kept"]) for m in d["masks"])
        middle = np.array([-0.8, -0.2, 0.0])
        self.play(
            self.picture.animate.move_to(np.array([-5.2, 0.1, 0.0])).scale(1.3),
            self.label.animate.move_to(np.array([-5.2, -1.3, 0.0])),
        )

        def place(i: int) -> np.ndarray:
            row, column = divmod(i, 8)
            return middle + 0.54 * ((column - 3.5) * RIGHT + (3.5 - row) * UP)

        def fill(value: float) -> ManimColor:
            share = min(value / largest, 1.0) ** 0.7
            return ManimColor(BACKGROUND).interpolate(ManimColor(MODEL), share)

        units = VGroup(
            *[
                Circle(radius=0.2, stroke_color=MUTED, stroke_width=1.5)
                .set_fill(fill(value), opacity=1)
                .move_to(place(i))
                for i, value in enumerate(d["hidden"])
            ]
        )
        bars = self.answer_bars(d["whole"], 5.0).move_to(np.array([4.4, 0.0, 0.0]))
        bars.align_to(middle + 2.2 * DOWN, DOWN)
        self.say(f"A network with {len(units)} hidden units reads this digit.")
        self.play(TransformFromCopy(self.picture, units))
        self.play(TransformFromCopy(units, bars), run_time=1.0)
        self.beat(1.25)
        lit = [i for i, value in enumerate(d["hidden"]) if value > 0.0]
        brightest = max(lit, key=lambda i: d["hidden"][i])
        value = d["hidden"][brightest]
        row = text(f"{value:.2f}  becomes  {value / (1.0 - d['p']):.2f}  or  0", 36, MODEL)
        row.move_to(np.array([-0.8, 2.5, 0.0]))
        self.say("Dropout, in training: a coin for each unit. It is doubled, or set to zero.")
        doubled = [m["kept"][brightest] for m in d["masks"] if m["kept"][brightest] > 0.0]
        assert doubled and abs(doubled[0] - value / (1.0 - d["p"])) < 1e-4
        self.play(TransformFromCopy(units[brightest], row))
        for number, mask in enumerate(d["masks"]):
            assert abs(sum(mask["answer"]) - 1) < 1e-3
            if number == 1:
                self.say("A new mask for each picture, in each step. The units left must answer.")
            self.play(
                *[
                    unit.animate.set_fill(fill(kept)).set_stroke(MUTED if m else FAINT)
                    for unit, kept, m in zip(units, mask["kept"], mask["mask"])
                ],
                *bars.heights(mask["answer"]),
                run_time=0.6,
            )
            self.beat(1.0)
        self.clear_stage(self.picture, self.label)

    def answer_bars(self, values: Sequence[float], unit: float = 3.4) -> Bars:
        """The probabilities of the ten digits; the true one is green, the label red."""
        example = self.data["examples"][self.data["which"]]
        colors = [
            LIMIT if i == example["digit"] else WRONG if i == example["label"] else MUTED
            for i in range(len(values))
        ]
        return Bars(values, range(len(values)), unit, 0.32, 0.1, colors, 30)

    def duel(self) -> None:
        """What two networks say of the same picture while they learn."""
        d = self.data
        example = d["examples"][d["which"]]
        charts, names = {}, VGroup()
        for arm, x in (("same rate", -3.9), ("dropout", 3.9)):
            charts[arm] = self.answer_bars([1.0, *[0.0] * 9], 4.2)
            charts[arm].move_to(np.array([x, 0.0, 0.0])).align_to(2.5 * DOWN, DOWN)
            for bar, value in zip(charts[arm].bars, d["duel"][arm][0]):
                bar.stretch_to_fit_height(max(4.2 * value, 1e-3))
                bar.align_to(charts[arm].ground, DOWN)
            names.add(text(TITLES[arm], 38, COLORS[arm], bold=True).move_to([x, 2.55, 0.0]))
        told = text(f"a {example['digit']}", 34, LIMIT)
        label = text(f"label {example['label']}", 34, WRONG)
        self.play(self.picture.animate.move_to(0.9 * UP), FadeOut(self.label), run_time=0.6)
        told.next_to(self.picture, DOWN, buff=0.25)
        label.next_to(told, DOWN, buff=0.2)
        step = self.epoch(0)
        self.play(*[FadeIn(m) for m in (*charts.values(), names, told, label, step)], run_time=0.6)
        self.say(
            f"Both are told that this {example['digit']} is a {example['label']}.", run_time=0.25
        )
        with self.preview():
            self.beat(1.0)
            last = d["num_epochs"]
            for epoch in range(2, last + 1, 2):
                for arm in charts:
                    assert abs(sum(d["duel"][arm][epoch]) - 1) < 1e-2
                self.remove(step)
                step = self.epoch(epoch)
                self.add(step)
                self.play(
                    *[a for arm in charts for a in charts[arm].heights(d["duel"][arm][epoch])],
                    run_time=0.25,
                )
            plain, ours = [
                max(range(10), key=lambda i, arm=arm: d["duel"][arm][last][i]) for arm in charts
            ]
            self.say(
                f"Plain: it repeats the label, {plain}. With dropout: it reads a {ours}.",
                run_time=0.25,
            )
            self.beat(1.5)
        self.clear_stage()

    def epoch(self, number: int) -> VGroup:
        """The counter."""
        return text(f"epoch {number}", 32, INK, mono=True).move_to(2.55 * UP)

    def all_labels(self) -> None:
        """Every wrong label of the set as a square that is filled while it is learned."""
        d = self.data
        num = len(d["learned"]["dropout"][0])
        squares, names = {}, VGroup()
        for arm, y in zip(d["learned"], (1.5, 0.1, -1.3)):
            squares[arm] = VGroup()
            for i in range(num):
                row, column = divmod(i, (num + 1) // 2)
                box = Rectangle(width=0.36, height=0.4, stroke_color=MUTED, stroke_width=1.5)
                place = np.array([-2.0 + 0.44 * column, y + 0.25 - 0.5 * row, 0.0])
                squares[arm].add(box.set_fill(WRONG, opacity=0.0).move_to(place))
            name = text(TITLES[arm], 34, COLORS[arm])
            names.add(name.next_to(squares[arm], LEFT, buff=0.4))
        step = self.epoch(0)
        rate = d["rates"]
        self.say(f"The {num} wrong labels of this set. Red: the network repeats the label.")
        self.play(FadeIn(names), *[FadeIn(s) for s in squares.values()], FadeIn(step))
        self.beat(1.0)
        last = d["num_epochs"]
        for epoch in range(2, last + 1, 2):
            self.remove(step)
            step = self.epoch(epoch)
            self.add(step)
            for arm, boxes in squares.items():
                for box, learned in zip(boxes, d["learned"][arm][epoch]):
                    box.set_fill(WRONG, opacity=float(learned))
            self.wait(0.25)
        self.say(
            f"A plain network at a lower learning rate ({rate['own rate']} for"
            f" {rate['dropout']}) resists too."
        )
        self.beat(2.0)
        self.clear_stage()

    def cut_units(self) -> None:
        """Accuracy on new digits when hidden units are taken away after training."""
        d = self.data
        shares = d["shares_cut"]
        axes = Axes2((0.0, shares[-1]), (0.0, 1.0), 7.4, 4.2, "", "", 30)
        axes.move_to(1.2 * LEFT + 0.25 * UP)
        marks = VGroup(
            *[text(f"{v:.0%}", 30, MUTED).next_to(axes.at(0, v), LEFT, buff=0.2) for v in (0, 1)],
            *[text(f"{s:.0%}", 30, MUTED).next_to(axes.at(s, 0), DOWN, buff=0.2) for s in shares],
        )
        self.say("Right answers on new digits, on average, with hidden units missing.")
        self.play(FadeIn(axes), FadeIn(marks))
        for arm in ("own rate", "dropout"):
            points = list(zip(shares, d["averages"][arm]["cut"]))
            curve = axes.curve(points, COLORS[arm], 6)
            dots = VGroup(*[Dot(axes.at(*p), radius=0.09, color=COLORS[arm]) for p in points])
            name = text(TITLES[arm], 32, COLORS[arm]).next_to(axes.at(*points[-1]), RIGHT, buff=0.2)
            self.play(Create(curve), FadeIn(dots), FadeIn(name), run_time=1.0)
        half = shares.index(0.5)
        plain, ours = [d["averages"][arm]["cut"][half] for arm in ("own rate", "dropout")]
        self.say(
            f"With half of them gone: {ours:.0%} against {plain:.0%}. It was trained for this."
        )
        self.beat(2.0)
        self.clear_stage()

    def answer(self) -> None:
        """The averages over all sets: wrong labels learned, then the loss on new digits."""
        d = self.data
        both = []
        for key, form, most in (("learned", "{:.0%}", 0.6), ("loss", "{:.3f}", 1.0)):
            rows = RowBars(
                [(TITLES[arm], row[key], COLORS[arm]) for arm, row in d["averages"].items()],
                length=7.0,
                size=40,
                thickness=0.75,
                gap=0.6,
                form=form,
                most=most,
            )
            both.append(rows.move_to(0.2 * UP))
        learned, loss = both
        loss.shift(learned.bars[0].get_left() - loss.bars[0].get_left())
        average = d["averages"]
        self.say("Mean loss on new digits: a lower rate has more than half of the gain.")
        plain, lower, ours = [average[arm]["loss"] for arm in TITLES]
        assert plain - lower > 0.5 * (plain - ours)
        self.play(FadeIn(learned.names), *[GrowFromEdge(bar, LEFT) for bar in loss.bars])
        self.play(FadeIn(loss.numbers), run_time=0.3)
        self.beat(2.0)
        self.play(FadeOut(loss.bars), FadeOut(loss.numbers), run_time=0.4)
        self.say(f"Wrong labels learned by heart, mean of {d['num_sets']} sets:", run_time=0.25)
        with self.preview():
            self.play(*[GrowFromEdge(bar, LEFT) for bar in learned.bars], run_time=0.75)
            self.play(FadeIn(learned.numbers), run_time=0.25)
            lower = average["own rate"]["learned"]
            self.say(
                f"Dropout: only {average['dropout']['learned']:.0%}."
                f" But a lower learning rate alone: {lower:.0%}.",
                run_time=0.25,
            )
            self.beat(2.5)
