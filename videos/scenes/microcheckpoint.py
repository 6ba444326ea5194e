"""Can backward work if forward forgets most of what it computed?"""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

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
    Arrow,
    Create,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    RoundedRectangle,
    TransformFromCopy,
    VMobject,
)
from parts import Axes2, Bars, Grid, RowBars

COLORS = {"store all": RIVAL, "every block": MUTED, "sqrt(L)": MODEL, "bisect": MODEL}
NAMES = {"store all": "store all", "every block": "every block", "sqrt(L)": "√L segments",
         "bisect": "halves"}  # fmt: skip
WIDE, HIGH = 0.105, 0.26  # a cell of the maps: one step of one block
MAP_TOP = 1.75


def cells(boxes: Sequence[tuple[float, float, float, float]], color: str) -> VMobject:
    """Many rectangles (middle x, middle y, width, height) as one shape."""
    shape = VMobject(stroke_width=0, fill_color=color, fill_opacity=1)
    points = []
    for x, y, width, height in boxes:
        corners = np.array([[-1, 1, 0], [1, 1, 0], [1, -1, 0], [-1, -1, 0]], dtype=float)
        corners = corners * [width / 2, height / 2, 1] + [x, y, 0]
        for a, b in zip(corners, np.roll(corners, -1, axis=0)):
            points += [a, (2 * a + b) / 3, (a + 2 * b) / 3, b]
    return shape.set_points(np.array(points)) if points else shape


class Film(MicroScene):
    """One number is forgotten and computed again; then whole steps, and the peaks of memory."""

    script = "microcheckpoint"
    question = "Can backward work if forward forgets most of what it computed?"

    def story(self) -> None:
        self.one_number()
        self.clear_stage()
        self.first_map()
        with self.preview():
            self.two_maps()
        self.clear_stage()
        self.segment_lengths()
        self.clear_stage()
        self.price()
        self.clear_stage(run_time=0.4)
        with self.preview():
            self.answer()

    def one_number(self) -> None:
        """A number inside one block: stored, forgotten, computed again, and used."""
        d = self.data
        number = d["number"]
        depth, which = len(d["maps"]["store all"]), number["block"] - 1
        self.ask()
        image = Grid(d["image"], 0.12, positive=INPUT).move_to(6.1 * LEFT + 1.6 * UP)
        blocks = VGroup()
        for i in range(depth):
            frame = RoundedRectangle(
                corner_radius=0.1, width=0.72, height=0.9, stroke_color=MUTED, stroke_width=2
            )
            blocks.add(frame.move_to((-4.6 + i * 0.98) * RIGHT + 1.6 * UP))
        self.settle(FadeIn(image), LaggedStart(*[FadeIn(b) for b in blocks], lag_ratio=0.05))
        self.say(f"An image passes {depth} blocks. Each stores what backward will need.")
        self.play(
            LaggedStart(*[b.animate.set_fill(MODEL, 0.85) for b in blocks], lag_ratio=0.15),
            run_time=1.6,
        )
        names = VGroup(
            text(f"a number inside block {which + 1}", 32, MODEL),
            text("the gradient that arrives", 32, WRONG),
            text("gradient of a weight: their product", 32, INK),
        )
        for name, y in zip(names, (0.25, -0.75, -1.75)):
            name.move_to(y * UP, aligned_edge=RIGHT).shift(0.9 * RIGHT)

        def value(key: str, row: int, color: str) -> VGroup:
            words = text(f"{number[key]:+.4f}", 38, color, mono=True)
            return words.move_to(names[row].get_y() * UP + 3.0 * RIGHT)

        def hint(y: float) -> VGroup:
            return text("?", 38, MUTED, mono=True).move_to(y * UP + 3.0 * RIGHT)

        stored = value("first", 0, MODEL)
        self.play(FadeIn(names[0]), TransformFromCopy(blocks[which], stored))
        self.beat(1.0)

        # Forgotten, except for the inputs of the segments.
        length = isqrt(depth - 1) + 1
        kept = VGroup()
        for i in range(0, depth, length):
            mark = Rectangle(
                width=0.16, height=0.9, stroke_width=0, fill_color=INPUT, fill_opacity=1
            )
            kept.add(mark.move_to(blocks[i].get_left() + 0.13 * LEFT))
        unknown = hint(names[0].get_y())
        self.say("Now forget it all. Keep only the input of every fourth block.")
        self.play(
            *[b.animate.set_fill(MODEL, 0) for b in blocks], FadeIn(kept),
            ReplacementTransform(stored, unknown), run_time=1.0,
        )  # fmt: skip
        self.beat(1.0)
        self.say("Backward comes from the right, and needs the number.")
        back = Arrow(
            blocks[which + 3].get_top() + 0.3 * UP, blocks[which].get_top() + 0.3 * UP, buff=0,
            color=WRONG, stroke_width=6, max_tip_length_to_length_ratio=0.12,
        )  # fmt: skip
        arriving = value("arriving", 1, WRONG)
        self.play(Create(back), FadeIn(names[1]), run_time=0.8)
        self.play(TransformFromCopy(back, arriving), run_time=0.6)
        first = which // length * length
        self.say("So its segment runs forward once more, from the input that was kept.")
        part = [blocks[i] for i in range(first, min(first + length, depth))]
        self.play(
            LaggedStart(*[b.animate.set_fill(MODEL, 0.85) for b in part], lag_ratio=0.4),
            run_time=1.4,
        )
        again = value("again", 0, MODEL)
        copy = blocks[which].copy()
        self.play(ReplacementTransform(copy, again), FadeOut(unknown), run_time=0.8)
        product = value("gradient", 2, INK)
        self.play(
            TransformFromCopy(VGroup(again, arriving), product), FadeIn(names[2]), run_time=0.8
        )
        same = "the same" if number["again"] == number["first"] else "another"
        self.say(f"It is {same} number, to the last bit. So the gradient is the same, too.")
        self.beat(1.75)

    # --- maps: a row for each block, a column for each step ---

    def place_maps(self) -> None:
        """Where the three maps stand."""
        maps = self.data["maps"]
        widths = {name: len(rows[0]) * WIDE for name, rows in maps.items()}
        gap = (12.4 - sum(widths.values())) / 2
        self.lefts, x = {}, -6.2
        for name in maps:
            self.lefts[name] = x
            x += widths[name] + gap

    def column(self, name: str, step: int) -> VGroup:
        """What is in memory at one step: graphs tall, kept states small."""
        rows = self.data["maps"][name]
        x = self.lefts[name] + (step + 0.5) * WIDE
        graphs, states = [], []
        for i, row in enumerate(rows):
            y = MAP_TOP - (i + 0.5) * HIGH
            if row[step] == "#":
                graphs.append((x, y, WIDE * 0.92, HIGH * 0.86))
            elif row[step] == "o":
                states.append((x, y, WIDE * 0.92, HIGH * 0.22))
        return VGroup(cells(graphs, COLORS[name]), cells(states, INPUT))

    def held(self, name: str, step: int) -> tuple[int, int]:
        """How many graphs and how many states are in memory."""
        marks = [row[step] for row in self.data["maps"][name]]
        return marks.count("#"), marks.count("o")

    def most(self, name: str) -> tuple[int, int]:
        """The graphs and states of the fullest step, a graph counting as many states."""
        steps = range(len(self.data["maps"][name][0]))
        return max([self.held(name, s) for s in steps], key=self.weight)

    def weight(self, held: tuple[int, int]) -> float:
        """In states."""
        return held[0] * self.data["graph_states"] + held[1]

    def frame(self, name: str) -> VGroup:
        """A map's ground and its name."""
        rows = self.data["maps"][name]
        wide, high = len(rows[0]) * WIDE, len(rows) * HIGH
        middle = (self.lefts[name] + wide / 2) * RIGHT + (MAP_TOP - high / 2) * UP
        ground = Rectangle(width=wide + 0.1, height=high + 0.1, stroke_color=FAINT, stroke_width=2)
        title = text(NAMES[name], 34, COLORS[name], bold=True).move_to(
            middle + (high / 2 + 0.4) * UP
        )
        return VGroup(ground.move_to(middle), title)

    def gauge(self, name: str, held: tuple[int, int]) -> Rectangle:
        """What is in memory, as a length: one state is one unit."""
        full = self.weight(self.most("store all"))
        full_width = len(self.data["maps"]["store all"][0]) * WIDE
        bar = Rectangle(
            width=max(full_width * self.weight(held) / full, 1e-3), height=0.28, stroke_width=0,
            fill_color=COLORS[name], fill_opacity=1,
        )  # fmt: skip
        y = MAP_TOP - len(self.data["maps"][name]) * HIGH - 0.4
        return bar.move_to(self.lefts[name] * RIGHT + y * UP, aligned_edge=LEFT)

    def peak(self, name: str) -> VGroup:
        """The most that was held, below the gauge; it stays in the gauge, paler."""
        graphs, states = self.most(name)
        words = f"{graphs} graph" + "s" * (graphs > 1)
        if states:
            words += f" + {states} state" + "s" * (states > 1)
        bar = self.gauge(name, (graphs, states))
        label = text(words, 30, COLORS[name]).next_to(bar, DOWN, buff=0.2)
        label.shift((self.lefts[name] - label.get_left()[0]) * RIGHT)
        mark = Line(bar.get_corner(UP + RIGHT), bar.get_corner(DOWN + RIGHT), color=INK)
        return VGroup(bar.set_fill(opacity=0.5), label, mark.set_stroke(width=4))

    def first_map(self) -> None:
        """Store all: what is in memory, step by step."""
        self.place_maps()
        name = "store all"
        self.say("A whole step: one row per block, one column per forward or backward.")
        bar = self.gauge(name, (0, 0))
        self.play(FadeIn(self.frame(name)))
        steps = len(self.data["maps"][name][0])
        for start in range(0, steps, 2):
            pair = VGroup(*[self.column(name, s) for s in (start, start + 1)])
            self.add(pair)
            self.play(bar.animate.become(self.gauge(name, self.held(name, start + 1))),
                      run_time=0.2)  # fmt: skip
            if start + 2 == steps // 2:
                self.say("Forward fills memory, backward frees it. The bar is what is held now.")
        self.play(bar.animate.become(self.gauge(name, (0, 0))), FadeIn(self.peak(name)))
        self.beat(1.5)

    def two_maps(self) -> None:
        """Segments and halves, at the same time."""
        names = [name for name in self.data["maps"] if name != "store all"]
        self.say("Blue: kept inputs. Segments, or halves of halves, are computed again.",
                 run_time=0.25)  # fmt: skip
        bars = {name: self.gauge(name, (0, 0)) for name in names}
        self.play(*[FadeIn(self.frame(name)) for name in names], run_time=0.25)
        lengths = {name: len(self.data["maps"][name][0]) for name in names}
        for start in range(0, max(lengths.values()), 2):
            moves = []
            for name in names:
                if start < lengths[name]:
                    self.add(VGroup(*[self.column(name, s) for s in (start, start + 1)]))
                    now = self.gauge(name, self.held(name, start + 1))
                    moves.append(bars[name].animate.become(now))
                elif start < lengths[name] + 2:
                    moves.append(bars[name].animate.become(self.gauge(name, (0, 0))))
            self.play(*moves, run_time=1 / 6)
        self.play(
            *[FadeIn(self.peak(name)) for name in names],
            *[bars[name].animate.become(self.gauge(name, (0, 0))) for name in names],
            run_time=0.25,
        )
        self.say("Less is held at once, and the step takes longer.", run_time=0.25)
        self.beat(1.25)

    def segment_lengths(self) -> None:
        """Many short segments keep many inputs; few long ones hold a large graph."""
        d = self.data
        best = min(d["lengths"], key=lambda row: row["peak"])
        colors = [LIMIT if row is best else MODEL for row in d["lengths"]]
        unit = 3.6 / max([row["peak"] for row in d["lengths"]])
        chart = Bars(
            [row["peak"] for row in d["lengths"]], [row["length"] for row in d["lengths"]],
            unit=unit, width=1.1, gap=0.5, color=colors, size=32,
        )  # fmt: skip
        chart.move_to(0.05 * UP)
        numbers = VGroup()
        for row, bar, color in zip(d["lengths"], chart.bars, colors):
            number = text(f"{row['peak']:.0f} KB", 30, color)
            numbers.add(number.next_to(bar, UP, buff=0.12))
        name = text("blocks in a segment", 30, MUTED).next_to(chart, DOWN, buff=0.15)
        self.say(f"How long should a segment be? {d['table_depth']} blocks, {d['batch']} images.")
        self.play(FadeIn(chart.ground), FadeIn(chart.labels), FadeIn(name))
        self.play(
            LaggedStart(*[GrowFromEdge(bar, DOWN) for bar in chart.bars], lag_ratio=0.25),
            LaggedStart(*[FadeIn(number) for number in numbers], lag_ratio=0.25), run_time=1.6,
        )  # fmt: skip
        self.beat(1.0)
        self.say(
            f"A graph is {d['graph_states']:.1f} times a state. So the best length is "
            f"√({d['table_depth']}/{d['graph_states']:.1f}) = {d['best_length']:.1f}."
        )
        self.beat(2.0)

    def price(self) -> None:
        """Forwards of blocks in one step, beside the peak."""
        d = self.data
        rows = [(NAMES[p["name"]], p["forwards"], COLORS[p["name"]]) for p in d["policies"]]
        chart = RowBars(rows, length=4.8, size=34, thickness=0.55, gap=0.5, form="{:,}")
        chart.move_to(0.1 * UP).shift((-6.3 - chart.get_left()[0]) * RIGHT)
        above = chart.bars[0].get_top()[1] + 0.6
        peaks = VGroup()
        for policy, bar in zip(d["policies"], chart.bars):
            number = text(f"{policy['peak']:,.0f} KB", 34, COLORS[policy["name"]])
            peaks.add(number.move_to(5.1 * RIGHT + bar.get_y() * UP))
        titles = [
            text("forwards of a block", 30, MUTED),
            text("peak of memory", 30, MUTED).move_to(5.1 * RIGHT + above * UP),
        ]
        titles[0].move_to((chart.bars.get_left()[0] + 1.5) * RIGHT + above * UP)
        self.say(f"The price, for {d['table_depth']} blocks: segments run every block twice.")
        self.play(FadeIn(chart.names), *[FadeIn(title) for title in titles], run_time=0.5)
        for bar, number, peak in zip(chart.bars, chart.numbers, peaks):
            self.play(GrowFromEdge(bar, LEFT), FadeIn(number), FadeIn(peak), run_time=0.5)
        self.beat(1.25)
        least = d["least"]
        x = chart.bars.get_left()[0] + 4.8 * least["forwards"] / max([r[1] for r in rows])
        bar = chart.bars[-1]
        mark = Line(x * RIGHT + (bar.get_bottom()[1] - 0.2) * UP, x * RIGHT + bar.get_top()[1] * UP)
        mark.set_stroke(LIMIT, 7)
        label = text(f"at least {least['forwards']}", 30, LIMIT).next_to(mark, DOWN, buff=0.1)
        self.play(Create(mark), FadeIn(label), run_time=0.5)
        self.say(
            f"Halves run each block several times: more than the least possible with "
            f"{least['slots']} kept states."
        )
        self.beat(1.75)

    def answer(self) -> None:
        """Peaks against depth, and whether anything differs."""
        d = self.data
        depths = d["depths"]
        top = max(d["peaks"]["store all"])
        self.say(f"Peak of memory, from {depths[0]} to {depths[-1]} blocks.", run_time=0.25)
        axes = Axes2((0, depths[-1]), (0, top), 6.2, 4.1, f"blocks, up to {depths[-1]}", "KB", 32)
        axes.move_to(2.2 * LEFT + 0.1 * UP)
        curves, ends = [], VGroup()
        for name, peaks in d["peaks"].items():
            points = list(zip(depths, peaks))
            curves.append(axes.curve(points, COLORS[name], 7))
            label = text(f"{NAMES[name]} {peaks[-1]:,.0f}", 34, COLORS[name])
            label.next_to(axes.at(*points[-1]), RIGHT, buff=0.25)
            ends.add(label)
        # The lowest two ends are nearly one point.
        ends[2].shift(0.18 * UP)
        ends[3].shift(0.14 * DOWN)
        self.play(FadeIn(axes), run_time=0.25)
        self.play(*[Create(curve) for curve in curves], run_time=1.5)
        self.play(FadeIn(ends), run_time=0.25)
        four = d["four_times"]
        self.say(
            f"Four times the depth: {four['store all']:.1f} times the memory, "
            f"or {four['sqrt(L)']:.1f} with segments, {four['bisect']:.1f} with halves.",
            run_time=0.25,
        )
        self.beat(1.5)
        run = d["run"]
        differ = d["differ"] + run["different"]
        self.say(
            f"Yes: {differ} of {d['compared']:,} gradients differ. At {d['table_depth']} blocks "
            f"segments take {run['saving']:.1f} times less memory, for {run['extra']:.0f} more "
            "forward.",
            run_time=0.25,
        )
        self.beat(2.0)
