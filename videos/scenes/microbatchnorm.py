"""Batch norm takes something away. Why does that help?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from base import (
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
    Create,
    DashedLine,
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    Rotate,
    Square,
    TransformFromCopy,
)
from parts import Bars, Grid, RowBars, shade

SIDE = 8  # pixels of a digit
UNIT = 2.6  # the length of a value of 1 on the number line
LINE_Y = -1.35
ARROW = 3.3
NAMES = {"no norm": ("no norm", RIVAL), "batch norm": ("batch norm", MODEL)}
HALVES = {"mean only": "only subtract", "scale only": "only divide"}
PLACES = {"no norm": 3.6 * LEFT + 2.3 * DOWN, "batch norm": 3.6 * RIGHT + 2.3 * DOWN}


def picture(pixels: Sequence[float], cell: float) -> VGroup:
    """The pixels of a digit that are not blank, on a dark square with a thin frame."""
    paper = Square(SIDE * cell).set_stroke(FAINT, 1.5).set_fill(shade(0.0, 1.0), 1)
    result = VGroup(paper)
    half = (SIDE - 1) / 2
    for index, value in enumerate(pixels):
        if value > 0:
            row, column = divmod(index, SIDE)
            square = Square(cell, stroke_width=0, fill_opacity=1)
            square.set_fill(shade(value, 1.0, INPUT))
            result.add(square.move_to((column - half) * cell * RIGHT + (half - row) * cell * UP))
    return result


class Film(MicroScene):
    """One unit over ten digits, the directions of 32 digits in eight layers, and the price."""

    script = "microbatchnorm"
    question = "Batch norm takes something away. Why does that help?"

    def story(self) -> None:
        self.the_problem()
        self.one_unit()
        self.clear_stage()
        self.fans_start()
        with self.preview():
            self.fans()
        self.clear_stage()
        self.which_half()
        self.clear_stage()
        self.rates()
        self.clear_stage()
        self.company()
        self.clear_stage()
        with self.preview():
            self.answer()

    def the_problem(self) -> None:
        """Eight plain layers that learn badly."""
        d = self.data
        self.ask()
        self.digits = VGroup(*[picture(pixels, 0.11) for pixels in d["unit"]["images"]])
        self.digits.arrange_in_grid(2, 5, buff=0.18).move_to(4.1 * LEFT + 0.2 * UP)
        layers = VGroup(
            *[
                Rectangle(width=0.42, height=2.6, stroke_color=RIVAL, stroke_width=3)
                for _ in range(d["num_layers"])
            ]
        )
        layers.arrange(RIGHT, buff=0.16).move_to(1.55 * RIGHT + 0.2 * UP)
        share = text(f"{d['best']['none_best']:.0%}", 60, RIVAL, bold=True)
        share.move_to(5.4 * RIGHT + 0.4 * UP)
        right = text("right", 32, RIVAL).next_to(share, DOWN, buff=0.2)
        self.settle(FadeIn(self.digits), LaggedStart(*[FadeIn(m) for m in layers], lag_ratio=0.2))
        self.say(f"Without it: {d['num_layers']} layers of {d['width']} units, "
                 f"{d['epochs']} times through {d['num_train']:,} digits.")  # fmt: skip
        self.play(TransformFromCopy(layers, share), FadeIn(right))
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (layers, share, right)], run_time=0.5)

    def on_line(self, values: Sequence[float]) -> list:
        """Where the values stand on the number line."""
        return [UNIT * value * RIGHT + LINE_Y * UP for value in values]

    def one_unit(self) -> None:
        """Ten digits, one unit: subtract the mean, divide by the deviation."""
        unit = self.data["unit"]
        assert abs(sum(unit["centred"])) < 1e-4 and abs(sum(unit["out"])) < 1e-3
        axis = Line(6.2 * LEFT, 6.2 * RIGHT).set_stroke(MUTED, 2).shift(LINE_Y * UP)
        marks, ticks = VGroup(), VGroup()
        for tick in (-2, -1, 0, 1, 2):
            spot = self.on_line([tick])[0]
            marks.add(Line(spot + 0.1 * DOWN, spot + 0.1 * UP).set_stroke(MUTED, 2))
            ticks.add(text(tick, 28, MUTED, mono=True).move_to(spot + 0.38 * DOWN))
        spots = self.on_line(unit["x"])
        order = sorted(range(len(spots)), key=lambda i: unit["x"][i])
        levels = {i: 0.75 + 0.72 * (place % 5) for place, i in enumerate(order)}
        dots = VGroup(*[Dot(s, radius=0.09, color=INPUT) for s in spots])
        self.say("What one unit in the last layer, before training, computes for ten digits:")
        self.play(FadeIn(axis), FadeIn(marks), FadeIn(ticks), run_time=0.5)
        stems = VGroup()
        for i, spot in enumerate(spots):
            stem = Line(spot, spot + (levels[i] - 0.3) * UP).set_stroke(INPUT, 1.5, opacity=0.5)
            stems.add(stem)
        self.play(
            LaggedStart(
                *[
                    digit.animate.scale(0.72).move_to(spot + levels[i] * UP)
                    for i, (digit, spot) in enumerate(zip(self.digits, spots))
                ],
                lag_ratio=0.1,
            ),
            run_time=1.5,
        )
        self.play(FadeIn(dots), FadeIn(stems), run_time=0.4)
        self.bring_to_front(self.digits)
        mean_x = self.on_line([unit["mean"]])[0]
        mean = DashedLine(mean_x + 0.5 * DOWN, mean_x + 3.9 * UP, color=INK).set_stroke(width=4)
        label = text(f"shared: mean {unit['mean']:.2f}", 34, INK, bold=True)
        label.move_to(2.5 * UP + 4.7 * LEFT)
        self.say("All ten push it the same way. That much they share: their mean.")
        self.play(Create(mean), FadeIn(label))
        self.beat(1.5)
        middle = text(f"− {unit['mean']:.2f}", 40, MODEL, bold=True).move_to(1.75 * UP + 4.7 * LEFT)
        self.say("Subtract the mean: some now stand below zero, some above.")
        self.shift_to(unit["centred"], dots, stems, levels, mean, FadeIn(middle))
        self.beat(1.0)
        wide = text(f"÷ {unit['spread']:.2f}", 40, MODEL, bold=True).move_to(1.05 * UP + 4.7 * LEFT)
        self.say("Divide by the spread: what differs now fills the scale.")
        self.play(FadeOut(mean), run_time=0.3)
        self.shift_to(unit["out"], dots, stems, levels, None, FadeIn(wide))
        self.beat(1.5)

    def shift_to(
        self,
        values: Sequence[float],
        dots: VGroup,
        stems: VGroup,
        levels: dict[int, float],
        mean: DashedLine | None,
        *also: object,
    ) -> None:
        """Dots, stems and pictures go to new values; the mean's line goes to zero."""
        moves = []
        for i, spot in enumerate(self.on_line(values)):
            step = (spot - dots[i].get_center())[0] * RIGHT
            moves += [m.animate.shift(step) for m in (dots[i], stems[i], self.digits[i])]
        if mean is not None:
            moves.append(mean.animate.shift(mean.get_center()[0] * LEFT))
        self.play(*moves, *also, run_time=1.4)

    def fans_start(self) -> None:
        """Two fans of the same 32 digits, as they come in."""
        d = self.data
        self.lines, self.cosine, self.titles = {}, {}, VGroup()
        self.signs = [1 if i % 2 else -1 for i in range(len(d["fans"]["no norm"]["angles"][0]))]
        for name, (title, color) in NAMES.items():
            fan, place = d["fans"][name], PLACES[name]
            self.lines[name] = VGroup()
            for sign, angle in zip(self.signs, fan["angles"][0]):
                tip = place + ARROW * (math.sin(sign * angle) * RIGHT + math.cos(angle) * UP)
                arrow = VGroup(
                    Line(place, tip).set_stroke(color, 3, opacity=0.75),
                    Dot(tip, radius=0.075, color=color),
                )
                self.lines[name].add(arrow)
            words = text(title, 40, color, bold=True).move_to(place + 4.75 * UP)
            self.titles.add(words)
            self.cosine[name] = self.cosine_text(name, 0)
        self.layer = text("pixels", 34, MUTED).move_to(1.1 * UP)
        self.axes = VGroup(
            *[
                DashedLine(place, place + (ARROW + 0.25) * UP, color=INK).set_stroke(width=3)
                for place in PLACES.values()
            ]
        )
        shared = text("what\nthey share", 30, INK).move_to(2.2 * UP)
        self.say(f"{len(self.signs)} digits as arrows: each at its angle from what they share.")
        both = [FadeIn(group) for group in self.lines.values()]
        self.play(FadeIn(self.axes), FadeIn(shared), run_time=0.5)
        self.play(*both, run_time=0.7)
        self.play(FadeIn(self.titles), FadeIn(self.layer),
                  *[FadeIn(c) for c in self.cosine.values()], run_time=0.5)  # fmt: skip
        self.say("The mean cosine says how alike they are: 1 would be all the same way.")
        self.beat(1.5)
        self.remove(shared)

    def cosine_text(self, name: str, layer: int) -> object:
        """How alike the digits are behind a layer."""
        value = self.data["fans"][name]["cosines"][layer]
        words = text(f"alike {value:.2f}", 38, NAMES[name][1])
        return words.move_to(PLACES[name] + 4.1 * UP)

    def fans(self) -> None:
        """Through eight layers: one fan closes, one stays open."""
        d = self.data
        self.say("Through the layers, before any training:", run_time=0.25)
        for layer in range(1, d["num_layers"] + 1):
            turns = []
            for name, group in self.lines.items():
                angles = d["fans"][name]["angles"]
                for sign, arrow, old, new in zip(
                    self.signs, group, angles[layer - 1], angles[layer]
                ):
                    turn = -sign * (new - old)
                    turns.append(Rotate(arrow, turn, about_point=PLACES[name]))
                new_cosine = self.cosine_text(name, layer)
                self.remove(self.cosine[name])
                self.add(new_cosine)
                self.cosine[name] = new_cosine
            self.remove(self.layer)
            self.layer = text(f"layer {layer}", 34, MUTED).move_to(1.1 * UP)
            self.add(self.layer)
            self.play(*turns, run_time=5 / 12)
        for name, group in self.lines.items():  # where they should stand
            last = d["fans"][name]["angles"][-1]
            for sign, arrow, angle in zip(self.signs, group, last):
                tip = ARROW * (math.sin(sign * angle) * RIGHT + math.cos(angle) * UP)
                assert max(abs(arrow[1].get_center() - PLACES[name] - tip)) < 1e-2
        self.say("Without it the digits grow alike. Batch norm keeps them apart.", run_time=0.25)
        self.beat(1.5)

    def which_half(self) -> None:
        """The averages, for each half and for layer norm."""
        d = self.data
        values = d["cosines"]
        colors = {"mean only": MODEL, "batch norm": MODEL, "scale only": RIVAL}
        title = text(f"how alike digits are behind layer {d['num_layers']}", 34, MUTED)
        rows = RowBars(
            [(HALVES.get(name, name), v, colors.get(name, RIVAL)) for name, v in values.items()],
            length=6.5, form="{:.2f}", size=36, thickness=0.5, gap=0.3, most=1.0,
        ).move_to(0.3 * DOWN)  # fmt: skip
        title.move_to(2.45 * UP)
        self.say(f"Averages over {d['num_starts']} untrained networks: which half does it?")
        self.play(FadeIn(title), FadeIn(rows.names), run_time=0.5)
        self.play(LaggedStart(*[GrowFromEdge(b, LEFT) for b in rows.bars], lag_ratio=0.2))
        self.play(FadeIn(rows.numbers), run_time=0.4)
        assert values["mean only"] < 0.5 < values["scale only"]
        self.say("Subtracting the mean. Dividing alone does not, layer norm does not.")
        self.beat(2.0)

    def rates(self) -> None:
        """Accuracy at three learning rates, and after more epochs."""
        d = self.data
        groups, labels, numbers = VGroup(), VGroup(), VGroup()
        for i, rate in enumerate(d["rates"]):
            pair = [d["by_rate"][name][i] for name in NAMES]
            colors = [color for _, color in NAMES.values()]
            bars = Bars(pair, ["", ""], unit=3.9, width=1.0, gap=0.15, color=colors)
            x = (-4.6 + 3.4 * i) * RIGHT
            bars.shift(x + 2.0 * DOWN - bars.ground.get_center())
            groups.add(bars)
            labels.add(text(f"{rate}", 34, MUTED).move_to(x + 2.42 * DOWN))
            for value, color, bar in zip(pair, colors, bars.bars):
                numbers.add(text(f"{value:.0%}", 34, color).next_to(bar, UP, buff=0.12))
        legend = VGroup(*[text(title, 36, color, bold=True) for title, color in NAMES.values()])
        legend.arrange(DOWN, buff=0.35, aligned_edge=LEFT).move_to(5.0 * RIGHT + 1.6 * UP)
        unit = text("learning\nrate", 30, MUTED).move_to(5.0 * RIGHT + 2.0 * DOWN)
        self.say(f"Now train. New digits read after {d['epochs']} epochs, at three rates:")
        self.play(FadeIn(labels), FadeIn(legend), FadeIn(unit), *[FadeIn(g.ground) for g in groups])
        self.play(
            LaggedStart(*[GrowFromEdge(b, DOWN) for g in groups for b in g.bars], lag_ratio=0.15),
            run_time=1.4,
        )
        self.play(FadeIn(numbers), run_time=0.4)
        self.beat(1.5)
        later = d["later"]
        self.say(f"Most of it is speed: after {later['epochs']} epochs their best are "
                 f"{later['none_best']:.0%} and {later['batch_best']:.0%}.")  # fmt: skip
        self.beat(1.5)

    def company(self) -> None:
        """One digit of a trained network, in four batches."""
        found = self.data["company"]
        label = found["label"]
        digit = Grid(
            [found["digit"][i : i + SIDE] for i in range(0, SIDE * SIDE, SIDE)],
            0.33, 1.0, INPUT, INPUT,
        ).move_to(5.1 * LEFT + 0.2 * UP)  # fmt: skip
        self.say("The price: the answer now depends on the rest of the batch, its company.")
        self.play(FadeIn(digit))
        head = text(f"sure of a {label}", 30, MUTED).move_to(4.35 * RIGHT + 2.45 * UP)
        self.play(FadeIn(head), run_time=0.3)
        names = [
            f"mixed ({batch['size']})" if len(set(batch["labels"])) > 1
            else f"other {label}s ({batch['size']})" if batch["labels"][0] == label
            else f"all {batch['labels'][0]}s ({batch['size']})"
            for batch in found["batches"]
        ]  # fmt: skip
        rows = [([], "alone, averages from training", found["alone"], found["alone_for"])]
        rows += [
            (batch["images"], name, batch["probability"], batch["taken_for"])
            for batch, name in zip(found["batches"], names)
        ]
        for i, (images, name, probability, taken_for) in enumerate(rows):
            y = (1.55 - 1.17 * i) * UP
            color = LIMIT if taken_for == label else WRONG
            row = VGroup()
            if images:
                pictures = VGroup(*[picture(pixels, 0.075) for pixels in images[:5]])
                row.add(pictures.arrange(RIGHT, buff=0.08).move_to(3.2 * LEFT + y, LEFT))
                row.add(text(name, 30, INPUT).move_to(0.45 * RIGHT + y, LEFT))
            else:
                row.add(text(name, 30, INPUT).move_to(3.2 * LEFT + y, LEFT))
            bar = Rectangle(
                width=max(1.8 * probability, 1e-3), height=0.5, stroke_width=0,
                fill_color=color, fill_opacity=1,
            ).move_to(3.45 * RIGHT + y, LEFT)  # fmt: skip
            full = Rectangle(width=1.8, height=0.5, stroke_color=FAINT, stroke_width=2)
            full.move_to(3.45 * RIGHT + y, LEFT)
            number = text(f"{probability:.0%}", 34, color, bold=True)
            number.next_to(full, RIGHT, buff=0.2)
            self.play(FadeIn(row), FadeIn(full), run_time=0.4)
            self.play(GrowFromEdge(bar, LEFT), FadeIn(number), run_time=0.5)
            if taken_for != label:
                wrong = text(f"reads a {taken_for}", 34, WRONG, bold=True)
                wrong.next_to(digit, DOWN, buff=0.3)
                self.say(f"Among other {label}s, being a {label} is what all share: "
                         "it is taken away.")  # fmt: skip
                self.play(FadeIn(wrong), run_time=0.4)
                self.beat(1.5)
                self.play(FadeOut(wrong), run_time=0.2)
        self.say("So after training, averages kept from training take the batch's place.")
        self.beat(1.5)

    def answer(self) -> None:
        """What it brings, what its half brings, what it costs."""
        d = self.data
        best = d["best"]
        self.say(f"New digits read after {d['epochs']} epochs, each at its best rate:",
                 run_time=0.25)  # fmt: skip
        rows = RowBars(
            [
                ("no norm", best["none_best"], RIVAL),
                ("only subtract", best["mean_best"], MODEL),
                ("batch norm", best["batch_best"], MODEL),
                ("... in batches of one class", d["one_class"], WRONG),
            ],
            length=5.2, form="{:.0%}", size=38, thickness=0.62, gap=0.5,
        ).move_to(0.1 * UP)  # fmt: skip
        self.play(FadeIn(rows.names[:3]), run_time=0.25)
        self.play(
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars[:3]], lag_ratio=0.3),
            run_time=1.0,
        )
        self.play(FadeIn(rows.numbers[:3]), run_time=0.25)
        self.say("It takes off what all digits share. What tells them apart is left.",
                 run_time=0.25)  # fmt: skip
        self.beat(1.5)
        self.play(FadeIn(rows.names[3]), GrowFromEdge(rows.bars[3], LEFT),
                  FadeIn(rows.numbers[3]), run_time=0.5)  # fmt: skip
        self.beat(1.75)
