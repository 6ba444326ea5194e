"""Must a model reread its whole text for every new symbol?"""

from __future__ import annotations

from base import (
    DOWN,
    INK,
    INPUT,
    LEFT,
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
    ArcBetweenPoints,
    Create,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    TransformFromCopy,
)
from parts import RowBars, tile

SIDE = 4.24  # of the two triangles
TOP = 1.75
LEFT_X, RIGHT_X = -5.9, 1.3  # where they begin
FIRST = 8  # steps that are shown one by one


class Film(MicroScene):
    """A text is written twice; then a symbol arrives, and the old rows are watched."""

    script = "microkv"
    question = "Must a model reread its whole text for every new symbol?"

    def story(self) -> None:
        self.the_problem()
        with self.preview():
            self.triangles()
        self.clear_stage()
        self.old_rows()
        self.clear_stage()
        self.mistakes()
        self.clear_stage()
        self.longer()
        self.clear_stage()
        self.memory()
        self.clear_stage(run_time=0.4)
        with self.preview():
            self.answer()

    def the_problem(self) -> None:
        """Two copies of the beginning of a text: what passes through the network, row by row."""
        d = self.data
        self.ask()
        letters = d["text"][:FIRST]
        cell = SIDE / FIRST
        self.headers, self.titles = [], VGroup()
        for x, title, color in (
            (LEFT_X, "without a cache", RIVAL),
            (RIGHT_X, "with a cache", MODEL),
        ):
            self.headers.append(
                VGroup(*[
                    text(letter, 34, INPUT, mono=True).move_to(
                        (x + (i + 0.5) * cell) * RIGHT + (TOP + 0.1) * UP, aligned_edge=DOWN)
                    for i, letter in enumerate(letters)
                ])
            )  # fmt: skip
            name = text(title, 34, color, bold=True)
            self.titles.add(name.move_to((x + SIDE / 2) * RIGHT + 2.65 * UP))
        rows = [self.row(side, 0, FIRST) for side in (0, 1)]
        self.rows = [[row] for row in rows]
        first = [header[0] for header in self.headers]
        self.settle(FadeIn(self.titles), *[FadeIn(letter) for letter in first])
        self.say("The boundary “.” is read, and the next symbol is drawn.")
        self.counters = [self.counter(side, 0) for side in (0, 1)]
        units = [
            text("multiply-adds", 30, MUTED).next_to(counter, DOWN, buff=0.15)
            for counter in self.counters
        ]
        self.play(*[TransformFromCopy(a, b) for a, b in zip(first, rows)])
        second = [header[1] for header in self.headers]
        self.play(
            *[TransformFromCopy(a, b) for a, b in zip(rows, second)],
            *[FadeIn(m) for m in (*self.counters, *units)],
        )
        self.beat(1.5)

    def row(self, side: int, step: int, of: int) -> VGroup:
        """One step: the symbols that pass through the network, and those from the cache, dim."""
        x, cell = (LEFT_X, RIGHT_X)[side], SIDE / of
        computed = self.data["computed"][side][step]
        cells = VGroup()
        for i in range(step + 1):
            now = i > step - computed
            square = Rectangle(
                width=cell * 0.88, height=cell * 0.88, stroke_width=0,
                fill_color=(RIVAL, MODEL)[side], fill_opacity=1.0 if now else 0.28,
            )  # fmt: skip
            square.move_to((x + (i + 0.5) * cell) * RIGHT + (TOP - (step + 0.5) * cell) * UP)
            cells.add(square)
        return cells

    def long_row(self, side: int, step: int, of: int) -> VGroup:
        """The same as two bars, for the many rows that follow."""
        x, cell = (LEFT_X, RIGHT_X)[side], SIDE / of
        computed = self.data["computed"][side][step]
        parts = VGroup()
        for start, count, opacity in (
            (0, step + 1 - computed, 0.28),
            (step + 1 - computed, computed, 1.0),
        ):
            if count:
                bar = Rectangle(
                    width=cell * (count - 0.12), height=cell * 0.88, stroke_width=0,
                    fill_color=(RIVAL, MODEL)[side], fill_opacity=opacity,
                )  # fmt: skip
                middle = (x + (start + count / 2) * cell) * RIGHT
                parts.add(bar.move_to(middle + (TOP - (step + 0.5) * cell) * UP))
        return parts

    def counter(self, side: int, step: int) -> VGroup:
        """The multiply-adds up to a step."""
        total = self.data["so_far"][side][step]
        words = text(f"{total:,}", 40, (RIVAL, MODEL)[side], mono=True)
        return words.move_to(((LEFT_X, RIGHT_X)[side] + 3.35) * RIGHT + 1.1 * UP)

    def count(self, step: int) -> None:
        """Write both numbers anew, in their places."""
        self.remove(*self.counters)
        self.counters = [self.counter(side, step) for side in (0, 1)]
        self.add(*self.counters)

    def triangles(self) -> None:
        """Row by row, and then the whole text from farther away."""
        d = self.data
        self.say("Bright: passes through the network now. Dim: kept from before.", size=32,
                 run_time=0.25)  # fmt: skip
        for step in range(1, FIRST):
            plain, cached = self.row(0, step, FIRST), self.row(1, step, FIRST)
            above = self.rows[1][-1]
            moves = [GrowFromEdge(plain, UP)]
            moves += [TransformFromCopy(a, b) for a, b in zip(above, cached)]
            moves.append(GrowFromEdge(cached[-1], UP))
            if step + 1 < FIRST:
                moves += [FadeIn(header[step + 1]) for header in self.headers]
            self.play(*moves, run_time=1 / 3)
            self.count(step)
            self.rows[0].append(plain)
            self.rows[1].append(cached)
        self.beat(1.0)
        steps = len(d["computed"][0])
        zoom = [
            VGroup(*rows).animate.scale(FIRST / steps, about_point=x * RIGHT + TOP * UP)
            for x, rows in zip((LEFT_X, RIGHT_X), self.rows)
        ]
        self.play(*zoom, *[FadeOut(header) for header in self.headers], run_time=2 / 3)
        for start in range(FIRST, steps, FIRST):
            bands = [
                VGroup(*[self.long_row(side, step, steps) for step in range(start, start + FIRST)])
                for side in (0, 1)
            ]
            self.play(*[GrowFromEdge(band, UP) for band in bands], run_time=0.25)
            self.count(start + FIRST - 1)
        self.say(f"After {steps} symbols: a whole triangle, or only its edge.", run_time=0.25)
        self.beat(1.25)

    def old_rows(self) -> None:
        """A symbol arrives: what do the old ones' keys and values do, in both kinds of model?"""
        d = self.data
        pitch, left = 0.68, -4.7
        tiles = VGroup()
        for i, letter in enumerate(d["symbols"]):
            piece = tile(letter, INPUT, 32, 0.58).move_to((left + i * pitch) * RIGHT + 1.45 * UP)
            tiles.add(piece)
        old, new = tiles[:-1], tiles[-1]
        new[0].set_stroke(MODEL)
        new[1].set_color(MODEL)
        grounds, names = [], VGroup()
        for layer, y in enumerate((-0.7, -2.35)):
            line = Line((left - 0.3) * RIGHT, (left + 15 * pitch + 0.3) * RIGHT, color=MUTED)
            grounds.append(line.set_stroke(width=2).shift(y * UP))
            name = text(f"layer {layer + 1}", 30, MUTED)
            names.add(name.next_to(line, LEFT, buff=0.15))
        self.say("What is kept: each symbol's key and value, in every layer. May they be kept?")
        self.play(LaggedStart(*[FadeIn(t) for t in old], lag_ratio=0.08), run_time=1.0)
        example = d["example"]

        def moved(kind: str) -> tuple[VGroup, VGroup, VGroup]:
            """Bars of how far keys and values move; the largest move; one number as example."""
            bars, most = VGroup(), VGroup()
            for moves, ground in zip(d["moves"][kind], grounds):
                for i, value in enumerate(moves):
                    bar = Rectangle(
                        width=0.4, height=max(value * 6.4, 1e-3), stroke_width=0, fill_color=WRONG,
                        fill_opacity=1,
                    )  # fmt: skip
                    place = (left + i * pitch) * RIGHT + ground.get_y() * UP
                    bars.add(bar.move_to(place, aligned_edge=DOWN))
                color = WRONG if max(moves) else MODEL
                number = text(f"{max(moves):.2f}", 30, color, mono=True)
                most.add(number.move_to(6.3 * RIGHT + (ground.get_y() + 0.2) * UP))
            before, after = example[kind]
            words = text(
                f"one number in the key of “{example['symbol']}”, layer 2: "
                f"{before:.2f} → {after:.2f}", 32, MODEL if before == after else WRONG,
            )  # fmt: skip
            return bars, most, words.move_to(0.5 * UP + 0.4 * RIGHT)

        def arcs(backwards: bool) -> VGroup:
            """Who reads whom: the new symbol reads the old ones, or they read it."""
            lines = VGroup()
            for t in old:
                a, b = new.get_top(), t.get_top()
                angle = 0.35 + 0.5 * (1 - (a[0] - b[0]) / (16 * pitch))
                if backwards:
                    lines.add(ArcBetweenPoints(b, a, angle=-1.3 * angle, color=WRONG))
                else:
                    lines.add(ArcBetweenPoints(a, b, angle=angle, color=MODEL))
            return lines.set_stroke(width=2.5)

        looks = arcs(False)
        self.play(FadeIn(new, shift=0.3 * LEFT), run_time=0.5)
        self.say("Causal: the new symbol reads the old ones. None of them reads it.")
        self.play(LaggedStart(*[Create(arc) for arc in looks], lag_ratio=0.05), run_time=1.0)
        bars, most, words = moved("causal")
        self.play(*[FadeIn(m) for m in (*grounds, names, most, words)])
        self.add(bars)
        self.beat(1.75)
        self.say("The control: attention in both directions. Now the old rows read it, too.")
        back = arcs(True)
        self.play(LaggedStart(*[Create(arc) for arc in back], lag_ratio=0.05), run_time=1.0)
        worse, more, others = moved("both")
        self.play(
            ReplacementTransform(bars, worse), ReplacementTransform(most, more),
            ReplacementTransform(words, others), run_time=1.2,
        )  # fmt: skip
        self.say("From the second layer on, what was kept is wrong.", color=WRONG)
        self.beat(2.0)

    def mistakes(self) -> None:
        """Wrong caches by their logits, and by the likeliest symbol."""
        d = self.data
        rows = [
            (check["name"], check["error"], MODEL if not check["error"] else WRONG)
            for check in d["checks"]
        ]
        chart = RowBars(rows, length=4.4, size=34, thickness=0.55, gap=0.5, form="{:.2f}")
        chart.move_to(0.15 * DOWN).shift((-6.6 - chart.get_left()[0]) * RIGHT)
        same = VGroup()
        for check, bar in zip(d["checks"], chart.bars):
            color = MODEL if not check["error"] else WRONG
            percent = text(f"{check['same']:.0%}", 34, color)
            same.add(percent.move_to(5.6 * RIGHT + bar.get_y() * UP))
        above = chart.bars[0].get_top()[1] + 0.65
        titles = [
            text("largest error of a logit", 30, MUTED),
            text("same likeliest", 30, MUTED).move_to(5.4 * RIGHT + above * UP),
        ]
        titles[0].move_to((chart.bars.get_left()[0] + 1.7) * RIGHT + above * UP)
        self.say("A right cache, the control, and two wrong positions, after a prompt.")
        self.play(FadeIn(chart.names), FadeIn(titles[0]), run_time=0.6)
        self.play(
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in chart.bars], lag_ratio=0.3),
            FadeIn(chart.numbers), run_time=1.2,
        )  # fmt: skip
        self.play(FadeIn(same), FadeIn(titles[1]))
        share = d["checks"][1]["same"]
        self.say(
            f"In the control {share:.0%} of the likeliest are right: compare logits, not text."
        )
        self.beat(2.0)

    def longer(self) -> None:
        """The saving for one symbol grows with the length, and so does the cache."""
        d = self.data
        rows = [(f"symbol {row['t']:,}", row["ratio"], MODEL) for row in d["growth"]]
        chart = RowBars(rows, length=4.6, size=34, thickness=0.5, gap=0.45, form="{:.0f} times")
        chart.move_to(0.1 * DOWN).shift((-6.4 - chart.get_left()[0]) * RIGHT)
        above = chart.bars[0].get_top()[1] + 0.6
        kept = VGroup()
        for row, bar in zip(d["growth"], chart.bars):
            number = text(f"{row['floats']:,}", 34, INPUT, mono=True)
            kept.add(number.move_to(5.4 * RIGHT + bar.get_y() * UP))
        titles = [
            text("fewer multiply-adds", 30, MUTED),
            text("numbers kept", 30, MUTED).move_to(5.4 * RIGHT + above * UP),
        ]
        titles[0].move_to((chart.bars.get_left()[0] + 1.5) * RIGHT + above * UP)
        self.say("The longer the text, the more is saved. But the cache grows with it.")
        self.play(FadeIn(chart.names), FadeIn(titles[0]), run_time=0.5)
        for bar, number, count in zip(chart.bars, chart.numbers, kept):
            self.play(GrowFromEdge(bar, LEFT), FadeIn(number), FadeIn(count), run_time=0.5)
        self.play(FadeIn(titles[1]), run_time=0.3)
        self.beat(1.75)

    def memory(self) -> None:
        """What a step reads: weights are shared by a batch, caches are not."""
        d = self.data
        unit = 7.6 / sum([d["reads"][0][key] for key in ("weights", "cached")])
        left, bars, labels = -4.3, [], []
        for read, y, name in zip(d["reads"], (1.4, -0.75), ("1 text", f"{d['batch']} texts")):
            weights = Rectangle(width=read["weights"] * unit, height=0.8)
            cached = Rectangle(width=read["cached"] * unit, height=0.8)
            weights.set_fill(MODEL, 1).set_stroke(width=0)
            cached.set_fill(INPUT, 1).set_stroke(width=0)
            weights.move_to(left * RIGHT + y * UP, aligned_edge=LEFT)
            cached.next_to(weights, RIGHT, buff=0)
            bars.append((weights, cached))
            labels.append(
                VGroup(
                    text(name, 36, INK).next_to(weights, LEFT, buff=0.35),
                    text(f"weights {read['weights']:,.0f}", 32, MODEL).next_to(
                        weights, DOWN, buff=0.15, aligned_edge=LEFT
                    ),
                    text(f"cache {read['cached']:,.0f}", 32, INPUT).next_to(
                        cached, UP, buff=0.15, aligned_edge=LEFT
                    ),
                )
            )
        title = text("numbers read for each new symbol", 32, MUTED).move_to(2.75 * UP)
        self.say("A step must read all weights, and the text's own cache.")
        self.play(FadeIn(title), FadeIn(labels[0]), *[GrowFromEdge(b, LEFT) for b in bars[0]])
        self.beat(1.0)
        self.say(f"{d['batch']} texts in one step share the weights. They do not share caches.")
        self.play(
            *[TransformFromCopy(a, b) for a, b in zip(bars[0], bars[1])], FadeIn(labels[1]),
            run_time=1.2,
        )  # fmt: skip
        more = text(f"multiply-adds per number read: {d['per_number'][2]:.1f} times more", 34, INK)
        self.play(FadeIn(more.move_to(2.25 * DOWN)))
        self.beat(1.75)
        llama = d["llama"]
        self.say(
            f"{llama['name']}: {llama['cache_gib']:.0f} GiB of cache for one text of "
            f"{llama['context']:,} symbols, {llama['weights_gib']:.0f} GiB of weights."
        )
        self.beat(2.0)

    def answer(self) -> None:
        """The same text and the same logits, with a fraction of the work."""
        d = self.data
        steps = len(d["computed"][0])
        start = d["text"][:24]
        rows = VGroup()
        for y, (name, color) in zip(
            (2.1, 1.4), (("without a cache", RIVAL), ("with a cache", MODEL))
        ):
            words = text(name, 34, color).move_to(y * UP)
            written = text(start + "…", 36, INPUT, mono=True).move_to(y * UP)
            words.shift((-2.4 - words.get_right()[0]) * RIGHT)
            written.shift((-2.0 - written.get_left()[0]) * RIGHT)
            rows.add(VGroup(words, written))
        chart = RowBars(
            [("without a cache", d["totals"][0], RIVAL), ("with a cache", d["totals"][1], MODEL)],
            length=5.6, size=38, thickness=0.75, gap=0.5, form="{:,}",
        )  # fmt: skip
        chart.shift((-2.1 - chart.bars.get_left()[0]) * RIGHT + 1.0 * DOWN)
        title = text(f"multiply-adds for {steps} symbols", 32, MUTED)
        title.next_to(chart.bars, UP, buff=0.3, aligned_edge=LEFT)
        self.say(f"The same text. The logits differ by {d['run']['logit_error']:.0f}: bit for bit.",
                 run_time=0.25)  # fmt: skip
        self.play(*[FadeIn(row) for row in rows], run_time=0.5)
        self.play(
            FadeIn(chart.names), FadeIn(title),
            *[GrowFromEdge(bar, LEFT) for bar in chart.bars], run_time=1.0,
        )  # fmt: skip
        self.play(FadeIn(chart.numbers), run_time=0.25)
        self.say(
            f"No, if it is causal: {d['run']['work_ratio']:.1f} times fewer multiply-adds, "
            "and not one logit changes.",
            run_time=0.25,
        )
        self.beat(2.0)
