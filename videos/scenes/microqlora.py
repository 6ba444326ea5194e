"""Weights rounded to 4 bits: can a model still learn something new?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    Transform,
    TransformFromCopy,
)
from parts import Grid, RowBars

GROUND, HALF, STEP = -1.55, 5.9, 0.235  # the number line's height, half its length; a dot's room


def number(value: float, digits: int = 3) -> str:
    """A number; its minus is as wide as a plus."""
    return f"{value:.{digits}f}".replace("-", "\u2212")


def piles(values: Sequence[float], width: int, room: float | None = None) -> list[np.ndarray]:
    """A place for each dot above its value; what is too close stands on one pile.

    width: how many dots stand side by side. room: values are first cut into bins of this size.
    """
    columns = [round(value / room) * room if room else value for value in values]
    counts: dict[float, int] = {}
    places = []
    for x in columns:
        i = counts.get(x, 0)
        counts[x] = i + 1
        in_row = min(width, columns.count(x) - i // width * width)  # the last row is centred too
        across = (i % width - (in_row - 1) / 2) * STEP
        up = GROUND + 0.2 + (i // width) * STEP
        places.append(np.array([x * HALF + across, up, 0.0]))
    return places


class Film(MicroScene):
    """A block of weights falls on 16 levels and on 4; adapters learn over them."""

    script = "microqlora"
    question = "Weights rounded to 4 bits: can a model still learn something new?"

    def story(self) -> None:
        self.the_problem()
        self.one_weight()
        self.two_codes()
        self.adapter()
        self.repair()
        self.answer()

    def comb(self, bits: str) -> VGroup:
        """The levels that so many bits can name, as teeth under the line."""
        levels = self.data["codes"][bits]["levels"]
        return VGroup(
            *[
                Line([x * HALF, GROUND, 0], [x * HALF, GROUND - 0.5, 0], color=MODEL).set_stroke(
                    width=6
                )
                for x in levels
            ]
        )

    def the_problem(self) -> None:
        """A block of weights, each anywhere between -1 and 1."""
        d = self.data
        self.ask()
        self.line = VGroup(
            Line([-HALF - 0.2, GROUND, 0], [HALF + 0.2, GROUND, 0], color=MUTED),
            *[
                text(signed, 30, MUTED).move_to([x * HALF, GROUND - 0.8, 0])
                for x, signed in ((-1, "\u22121"), (0, "0"), (1, "+1"))
            ],
        )
        self.places = piles(d["scaled"], 1, 0.04)
        self.dots = VGroup(*[Dot(place, radius=0.11, color=INPUT) for place in self.places])
        self.settle(
            FadeIn(self.line),
            LaggedStart(*[FadeIn(dot, shift=0.3 * DOWN) for dot in self.dots], lag_ratio=0.02),
        )
        self.say(f"{len(d['scaled'])} weights of a trained model, divided by the largest of them.")
        self.beat(1.5)
        self.teeth = self.comb("4")
        self.say(
            f"4 bits can name {len(self.teeth)} values. They lie close where weights are many."
        )
        self.play(LaggedStart(*[Create(tooth) for tooth in self.teeth], lag_ratio=0.05))
        self.beat(1.5)

    def one_weight(self) -> None:
        """One weight, number by number, goes to its level."""
        one = self.data["one"]
        dot = self.dots[one["which"]]
        rows = [
            text(
                f"weight {number(one['weight'])} / largest {number(one['scale'])}"
                f" = {number(one['scaled'])}",
                36,
                INPUT,
            ),
            text(
                f"nearest level {number(one['level'])}, times {number(one['scale'])}"
                f" = {number(one['used'])}",
                36,
                MODEL,
            ),
        ]
        for row, y in zip(rows, (2.5, 1.85)):
            row.move_to(y * UP)
        self.say("One of them, number by number.")
        self.bring_to_front(dot)
        others = [other for other in self.dots if other is not dot]
        self.play(
            dot.animate.scale(1.7),
            *[other.animate.set_opacity(0.3) for other in others],
            TransformFromCopy(dot, rows[0]),
        )
        self.beat(1.0)
        teeth = self.data["codes"]["4"]
        tooth = self.teeth[teeth["codes"][one["which"]]]
        goal = np.array([tooth.get_center()[0], dot.get_center()[1], 0.0])
        self.play(dot.animate.move_to(goal).set_fill(MODEL), TransformFromCopy(tooth, rows[1]))
        self.say("Only the level's number is stored, and the largest weight of the block.")
        self.beat(1.75)
        self.play(
            FadeOut(rows[0]),
            FadeOut(rows[1]),
            dot.animate.scale(1 / 1.7).move_to(self.places[one["which"]]).set_fill(INPUT),
            *[other.animate.set_opacity(1.0) for other in others],
            run_time=0.5,
        )

    def fall(self, bits: str, width: int) -> list:
        """Animations that take every dot to its level."""
        code = self.data["codes"][bits]
        goals = piles([code["levels"][c] for c in code["codes"]], width)
        return [dot.animate.move_to(goal).set_fill(MODEL) for dot, goal in zip(self.dots, goals)]

    def two_codes(self) -> None:
        """All weights go to their levels: of 4 bits, then of 2 bits."""
        rise = self.data["rise"]
        self.say("4 bits: every weight goes to the nearest of 16 levels.", run_time=0.25)
        with self.preview():
            self.play(*self.fall("4", 1), run_time=1.0)
            little = text(f"4 bits: loss +{rise['nf4']:.3f}", 40, LIMIT, bold=True)
            little.move_to(2.4 * UP + 3.4 * LEFT)
            self.play(FadeIn(little), run_time=0.25)
            self.beat(1.0)
            self.say("Now 2 bits: only 4 levels are left.", run_time=0.25)
            back = [
                dot.animate.move_to(p).set_fill(INPUT) for dot, p in zip(self.dots, self.places)
            ]
            few = self.comb("2")
            nearest = [
                min(few, key=lambda t: abs(t.get_center()[0] - tooth.get_center()[0])).copy()
                for tooth in self.teeth
            ]
            self.play(*back, *[Transform(t, n) for t, n in zip(self.teeth, nearest)], run_time=0.75)
            self.play(*self.fall("2", 4), run_time=1.0)
            much = text(f"2 bits: loss +{rise['nf2']:.3f}", 40, WRONG, bold=True)
            much.move_to(2.4 * UP + 3.4 * RIGHT)
            self.play(FadeIn(much), run_time=0.25)
            self.beat(1.5)
        self.clear_stage()

    def adapter(self) -> None:
        """A frozen matrix in 4 bits, and the two thin ones that are trained beside it."""
        d = self.data
        cell = 0.215
        frozen = Grid(d["decoded"], cell, positive=INPUT, negative=MUTED)
        frozen.move_to(3.6 * LEFT + 0.15 * DOWN)
        zero = [[0.0] * len(row) for row in d["lora_B"]]
        across = Grid(d["lora_A"], cell, positive=MODEL, negative=MODEL)
        across.move_to(4.0 * RIGHT + 2.0 * UP).align_to(frozen, UP)
        start = Grid(zero, cell, 1.0)
        start.next_to(across, LEFT, buff=0.15).align_to(frozen, UP)
        filled = Grid(d["lora_B"], cell, positive=MODEL, negative=MODEL).move_to(start)
        plus = text("+", 56, INK).move_to(0.15 * DOWN)
        names = [
            text("frozen, in 4 bits", 34, INPUT).next_to(frozen, UP, buff=0.2),
            text("adapter, full precision", 34, MODEL).move_to(names_place(across, frozen)),
        ]
        counts = [
            text(f"{d['num_frozen']:,} in all", 32, INPUT).next_to(frozen, DOWN, buff=0.2),
            text(f"{d['num_trained']} in all", 32, MODEL).move_to(across.get_center() + 1.6 * DOWN),
        ]
        self.say(f"With its scales, a weight takes {d['bits_per_weight']:.1f} bits. It is frozen.")
        self.play(FadeIn(frozen), FadeIn(names[0]), FadeIn(counts[0]))
        self.beat(1.25)
        self.say("Beside each matrix: an adapter. Two thin matrices, multiplied, are added.")
        self.play(FadeIn(plus), FadeIn(across), FadeIn(start), FadeIn(names[1]), FadeIn(counts[1]))
        self.beat(1.25)
        self.say("Training changes the adapters only.")
        cells = [Transform(a, b) for a, b in zip(start, filled)]
        self.play(LaggedStart(*cells, lag_ratio=0.05), run_time=1.5)
        self.beat(1.25)
        self.clear_stage()

    def repair(self) -> None:
        """What 2 bits break, what adapters repair of it, and what merging loses again."""
        r = self.data["rise"]
        rows = RowBars(
            [
                ("4 bits", r["nf4"], LIMIT),
                ("2 bits", r["nf2"], WRONG),
                ("2 bits and adapters", r["repaired"], MODEL),
                ("merged into 2 bits", r["merged"], WRONG),
            ],
            length=6.0,
            size=36,
            thickness=0.6,
            gap=0.5,
            form="+{:.3f}",
        ).move_to(0.15 * UP)
        self.say("How much higher is the loss than in full precision?")
        self.play(FadeIn(rows.names[:2]), *[GrowFromEdge(bar, LEFT) for bar in rows.bars[:2]])
        self.play(FadeIn(rows.numbers[:2]))
        self.beat(1.0)
        self.say(f"Trained to repair it, adapters undo {r['undone']:.0%} of the rise at 2 bits.")
        self.play(TransformFromCopy(rows.bars[1], rows.bars[2]), FadeIn(rows.names[2]))
        self.play(FadeIn(rows.numbers[2]), run_time=0.4)
        self.beat(1.5)
        self.say(f"Merged, and rounded to 2 bits again: {r['lost_again']:.0%} of this is lost.")
        self.play(TransformFromCopy(rows.bars[2], rows.bars[3]), FadeIn(rows.names[3]))
        self.play(FadeIn(rows.numbers[3]), run_time=0.4)
        self.beat(1.5)
        self.clear_stage()

    def answer(self) -> None:
        """The loss on a new kind of name, before and after adapters were trained."""
        d = self.data
        titles = ("full precision", "4 bits", "2 bits")
        before, after = [
            RowBars(
                [
                    (name, row[key], color)
                    for name, row, color in zip(titles, d["target"], (RIVAL, MODEL, WRONG))
                ],
                length=7.0,
                size=40,
                thickness=0.75,
                gap=0.6,
                form="{:.3f}",
                most=max(row["before"] for row in d["target"]),
            )
            for key in ("before", "after")
        ]
        before.move_to(0.2 * UP)
        after.shift(before.bars[0].get_left() - after.bars[0].get_left())
        ghosts = VGroup(
            *[
                Rectangle(width=bar.width, height=bar.height, stroke_color=FAINT, stroke_width=3)
                .move_to(bar)
                for bar in before.bars
            ]
        )  # fmt: skip
        for number_after, ghost in zip(after.numbers, ghosts):
            number_after.next_to(ghost, RIGHT, buff=0.25)
        self.say("A new kind of name: the loss before anything is learned.", run_time=0.25)
        self.play(FadeIn(before.names), *[GrowFromEdge(bar, LEFT) for bar in before.bars])
        self.play(FadeIn(before.numbers), run_time=0.3)
        self.add(ghosts, before.bars)
        with self.preview():
            self.beat(1.0)
            self.say(f"Adapters learn from {d['num_names']} names.", run_time=0.25)
            self.play(
                *[Transform(a, b) for a, b in zip(before.bars, after.bars)],
                *[ReplacementTransform(a, b) for a, b in zip(before.numbers, after.numbers)],
                run_time=1.25,
            )
            full, four, _ = [row["after"] for row in d["target"]]
            self.say(
                f"Yes: {four:.3f} over 4 bits, {full:.3f} over full precision. Alike.",
                run_time=0.25,
            )
            self.beat(2.5)


def names_place(across: Grid, frozen: Grid) -> np.ndarray:
    """Where the adapter's name stands: above it, as high as the other name."""
    return np.array([across.get_center()[0] - 0.3, frozen.get_top()[1] + 0.4, 0.0])
