"""How few numbers can a token leave behind and still be recalled?"""

from __future__ import annotations

from itertools import groupby

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
    WRONG,
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Create,
    DashedLine,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    ManimColor,
    Rectangle,
    ReplacementTransform,
    SurroundingRectangle,
    TransformFromCopy,
)
from parts import Bars, RowBars, Strip, tile

LATENT = ManimColor(INK)  # keys and values come out of it
PARTS = {"k": ManimColor(INPUT), "r": ManimColor(INPUT), "v": ManimColor(MODEL), "c": LATENT}


def left_behind(picture: str, unit: float, height: float) -> VGroup:
    """What one token leaves, to scale: a block for each head (a run of the same letter)."""
    blocks = VGroup()
    for letter, run in groupby(picture):
        blocks.add(
            Rectangle(
                width=unit * len(list(run)),
                height=height,
                stroke_width=1.5,
                stroke_color=BACKGROUND,
                fill_color=PARTS[letter.lower()],
                fill_opacity=1,
            )
        )
    return blocks.arrange(RIGHT, buff=0)


class Film(MicroScene):
    """A fact is read and recalled; then five layouts of the cache, side by side."""

    script = "microattention"
    question = "How few numbers can a token leave behind and still be recalled?"

    def story(self) -> None:
        self.the_problem()
        self.eight_facts()
        self.one_score()
        self.found()
        self.layouts()
        with self.preview():
            self.filling()
            self.recalled()
        self.price()
        self.window()
        self.clear_stage()
        with self.preview():
            self.answer()

    def the_problem(self) -> None:
        """One fact, and the numbers that it leaves."""
        d = self.data
        self.ask()
        fact = d["facts"][0]
        key = tile(f"key {fact['key']}", INPUT, 36)
        values = [tile(letter, INPUT, 36) for letter in fact["attributes"]]
        self.fact = VGroup(key, *values).arrange(RIGHT, buff=0.18).move_to(1.6 * UP)
        self.settle(LaggedStart(*[FadeIn(t, shift=0.2 * UP) for t in self.fact], lag_ratio=0.12))
        self.say(f"A fact: a key and {d['num_attributes']} attributes, read as one token.")
        self.largest = max([abs(x) for row in d["rows"] for x in row])
        strip = Strip(d["rows"][0], 0.38, self.largest).move_to(0.35 * DOWN)
        half = len(strip) // 2
        labels = VGroup(
            *[
                text(f"{half} numbers: {name}", 32, INK).next_to(VGroup(*part), DOWN, buff=0.3)
                for name, part in (("keys", strip[:half]), ("values", strip[half:]))
            ]
        )
        self.play(TransformFromCopy(self.fact, strip), run_time=1.2)
        self.play(FadeIn(labels))
        self.say("Later tokens see only what it leaves: keys to find it, values to hand over.")
        self.beat(2.0)
        self.play(FadeOut(labels), run_time=0.3)
        self.strip = strip

    def eight_facts(self) -> None:
        """The cache: a row for each fact; then a question."""
        d = self.data
        rows = VGroup(*[Strip(row, 0.21, self.largest) for row in d["rows"]])
        rows.arrange(DOWN, buff=0.15).move_to(0.9 * LEFT + 1.5 * UP)
        names = VGroup()
        for fact, row in zip(d["facts"], rows):
            words = f"{fact['key']} {fact['attributes']}"
            names.add(text(words, 24, INPUT, mono=True).next_to(row, LEFT, buff=0.3))
        self.say("Eight facts, eight rows of memory.")
        self.play(
            ReplacementTransform(self.fact, names[0]), ReplacementTransform(self.strip, rows[0])
        )
        self.play(
            LaggedStart(
                *[FadeIn(VGroup(*pair), shift=0.1 * DOWN) for pair in zip(names[1:], rows[1:])],
                lag_ratio=0.2,
            ),
            run_time=1.2,
        )
        self.rows, self.names = rows, names
        asked = d["facts"][d["asked"]]["key"]
        self.ask_tile = text(f"question: key {asked}?", 34, MODEL, bold=True)
        self.ask_tile.move_to(4.75 * LEFT + 0.4 * DOWN)
        self.play(FadeIn(self.ask_tile, shift=0.2 * UP), run_time=0.5)
        self.beat(1.2)

    def one_score(self) -> None:
        """The question's query meets the key of one row, number by number."""
        d = self.data
        self.say(f"Attention, head {d['head']}: the question's query meets a row's key.")
        entries = (
            ("query", d["q"], MODEL, 0.4),
            ("key", d["k"], INPUT, 0.98),
            ("products", d["products"], INK, 1.68),
        )
        lines, labels = [], []
        for name, values, color, down in entries:
            labels.append(text(name, 30, color).move_to(1.5 * LEFT + down * DOWN))
            row = VGroup(*[text(f"{v:+.2f}", 32, color, mono=True) for v in values])
            for i, number in enumerate(row):
                number.move_to((0.45 + 1.65 * i) * RIGHT + down * DOWN)
            lines.append(row)
        rule = Line(0.3 * LEFT, 6.1 * RIGHT, color=MUTED).set_stroke(width=2)
        rule.shift(1.32 * DOWN)
        start = (d["head"] - 1) * len(d["q"])
        part = VGroup(*self.rows[d["asked"]][start : start + len(d["q"])])
        frame = SurroundingRectangle(part, color=INPUT, buff=0.03, stroke_width=4)
        self.play(TransformFromCopy(self.ask_tile, lines[0]), FadeIn(labels[0]))
        self.play(Create(frame), TransformFromCopy(part, lines[1]), FadeIn(labels[1]))
        self.play(
            Create(rule),
            FadeIn(labels[2]),
            LaggedStart(
                *[TransformFromCopy(VGroup(q, k), p) for q, k, p in zip(*lines)], lag_ratio=0.4
            ),
            run_time=1.6,
        )
        score = text(
            f"sum {d['sum']:.2f} / √{len(d['q'])} = {d['score']:.2f}",
            34, INK, bold=True,
        ).move_to(2.4 * RIGHT + 2.38 * DOWN)  # fmt: skip
        self.play(TransformFromCopy(lines[2], score))
        self.beat(1.5)
        self.work = VGroup(*lines, *labels, rule, frame, score)

    def found(self) -> None:
        """The weights of all rows; the answer of the trained model."""
        d = self.data
        assert abs(sum(d["weights"]) - 1) < 1e-4
        self.say("All rows' scores become weights that sum to 1. It looks at the right row.")
        unit, bars = 2.2, VGroup()
        for i, weight in enumerate(d["weights"]):
            own = i == len(self.rows)
            y = (self.ask_tile if own else self.rows[i]).get_center()[1]
            bar = Rectangle(
                width=max(unit * weight, 1e-3), height=0.2, stroke_width=0, fill_opacity=1,
                fill_color=LIMIT if i == d["asked"] else MODEL,
            )  # fmt: skip
            bars.add(bar.move_to(3.3 * RIGHT + y * UP, aligned_edge=LEFT))
        ground = Line(
            bars[0].get_corner(UP + LEFT), bars[-1].get_corner(DOWN + LEFT), color=MUTED
        ).set_stroke(width=2)
        share = text(f"{d['weights'][d['asked']]:.3f}", 30, LIMIT, bold=True)
        share.next_to(bars[d["asked"]], RIGHT, buff=0.15)
        self.play(FadeOut(self.work), run_time=0.4)
        self.play(
            FadeIn(ground), LaggedStart(*[GrowFromEdge(b, LEFT) for b in bars], lag_ratio=0.1)
        )
        self.play(FadeIn(share), run_time=0.3)
        says, right = d["says"]["MHA"], d["right"]
        answers = VGroup(
            *[tile(a, LIMIT if a == b else WRONG, 36, 0.72) for a, b in zip(says, right)]
        ).arrange(RIGHT, buff=0.15)
        answers.move_to(1.5 * DOWN + 0.6 * LEFT)
        self.play(TransformFromCopy(self.rows[d["asked"]], answers), run_time=1.0)
        self.say(f"Its values give the answer: all {len(right)} attributes are right.")
        self.beat(1.5)
        self.clear_stage()

    def layouts(self) -> None:
        """Five layouts of the cache, empty: how many numbers a token will leave in each."""
        d = self.data
        unit, height, gap = 0.086, 0.135, 0.85
        tokens = len(d["facts"]) + d["num_questions"]
        self.columns = VGroup()
        for name in d["floats"]:
            rows = VGroup(
                *[left_behind(d["pictures"][name], unit, height) for _ in range(tokens)]
            ).arrange(DOWN, buff=0.02)
            self.columns.add(rows)
        self.columns.arrange(RIGHT, buff=gap).move_to(1.62 * UP)
        self.heads, self.counts = VGroup(), VGroup()
        for name, column in zip(d["floats"], self.columns):
            x = column.get_center()[0] * RIGHT
            count = text(d["floats"][name], 34, INK, bold=True).move_to(x + 0.1 * UP)
            self.counts.add(count)
            self.heads.add(text(name, 32, MUTED).move_to(x + 2.45 * DOWN))
        legend = VGroup(
            text("keys", 30, INPUT, bold=True),
            text("values", 30, MODEL, bold=True),
            text("one latent for both", 30, LATENT.to_hex(), bold=True),
        ).arrange(RIGHT, buff=0.7).move_to(1.1 * DOWN)  # fmt: skip
        self.say(
            "Numbers per token: heads share them (GQA, MQA), or one latent holds them (MLA).",
            run_time=0.25,
        )
        self.play(FadeIn(self.heads), FadeIn(self.counts), FadeIn(legend), run_time=0.25)
        self.play(*[FadeIn(column[0]) for column in self.columns], run_time=0.25)
        self.legend = legend

    def filling(self) -> None:
        """They fill up side by side, true to width; the window forgets."""
        d = self.data
        tokens = len(self.columns[0])
        forgetful = list(d["floats"]).index("window")
        self.wait(1.0)
        for t in range(1, tokens):
            old = self.columns[forgetful][t - d["window"]] if t >= d["window"] else None
            self.play(
                *[FadeIn(column[t]) for column in self.columns],
                *([old.animate.set_fill(FAINT, opacity=0.35)] if old is not None else []),
                run_time=2 / 12,
            )
        self.beat(1.0)

    def recalled(self) -> None:
        """The share of attributes that each layout recalls."""
        d = self.data
        unit, base = 1.9, 2.15
        self.say(
            "The share that each recalls after equal training. Dashed: guessing.", run_time=0.25
        )
        self.bars, self.numbers = VGroup(), VGroup()
        for name, column in zip(d["floats"], self.columns):
            x = column.get_center()[0] * RIGHT
            value = d["recall"][name]
            good = value > d["limit"]
            bar = Rectangle(
                width=1.15, height=unit * value, stroke_width=0, fill_opacity=1,
                fill_color=MODEL if good else WRONG,
            ).move_to(x + base * DOWN, aligned_edge=DOWN)  # fmt: skip
            self.bars.add(bar)
            number = text(f"{value:.2f}", 32, BACKGROUND, bold=True)
            self.numbers.add(number.next_to(bar.get_top(), DOWN, buff=0.12))
        level = (base - unit * d["guess"]) * DOWN
        self.guess = DashedLine(6.5 * LEFT + level, 6.5 * RIGHT + level, color=INK, stroke_width=2)
        self.guess.set_z_index(-1)
        self.play(
            FadeOut(self.legend),
            LaggedStart(*[GrowFromEdge(bar, DOWN) for bar in self.bars], lag_ratio=0.2),
            run_time=1.0,
        )
        self.play(Create(self.guess), FadeIn(self.numbers), run_time=0.5)
        self.beat(1.5)

    def price(self) -> None:
        """What MLA costs."""
        d = self.data
        work = d["multiply_adds"]
        self.say(
            f"MLA pays in arithmetic: {work['MLA']:,} multiply-adds per token, MHA {work['MHA']:,} "
            f"(at {d['long']} tokens)."
        )
        self.beat(1.8)
        self.clear_stage()

    def window(self) -> None:
        """The window's recall by distance: a cliff."""
        d = self.data
        places = [row["distance"] for row in d["by_distance"]]
        values = [row["recall"] for row in d["by_distance"]]
        colors = [MODEL if place < d["window"] else WRONG for place in places]
        bars = Bars(values, places, 4.2, 0.55, 0.2, colors, size=28)
        bars.move_to(0.35 * UP)
        level = bars.ground.get_center()[1] + 4.2 * d["guess"]
        guess = DashedLine(
            bars.get_left()[0] * RIGHT + level * UP, bars.get_right()[0] * RIGHT + level * UP,
            color=INK, stroke_width=2,
        )  # fmt: skip
        name = text("tokens back to the fact", 30, MUTED).next_to(bars, DOWN, buff=0.2)
        self.say(
            f"The window keeps the last {d['window']} tokens. Beyond: guessing, {d['guess']:.0%}."
        )
        self.play(FadeIn(bars.ground), FadeIn(bars.labels), FadeIn(name))
        self.play(
            LaggedStart(*[GrowFromEdge(bar, DOWN) for bar in bars.bars], lag_ratio=0.15),
            Create(guess),
            run_time=2.0,
        )
        self.beat(1.5)

    def answer(self) -> None:
        """Recall by the numbers that a token leaves."""
        d = self.data
        self.say("Share of attributes recalled, by numbers per token.", run_time=0.25)
        order = [("MHA", MODEL), ("MLA", MODEL), ("GQA", MODEL), ("MQA", WRONG)]
        rows = [(f"{d['floats'][name]} ({name})", d["recall"][name], c) for name, c in order]
        best = f"limit found for {d['floats']['MQA']}"
        rows.append((best, d["limit"], LIMIT))
        chart = RowBars(rows, length=5.8, size=38, thickness=0.55, gap=0.3, form="{:.2f}")
        chart.move_to(0.2 * UP)
        self.play(
            FadeIn(chart.names),
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in chart.bars], lag_ratio=0.2),
            run_time=0.75,
        )
        self.play(FadeIn(chart.numbers), run_time=0.25)
        floats, recall = d["floats"], d["recall"]
        self.say(
            f"{floats['GQA']} numbers are enough here. With {floats['MQA']} recall falls to "
            f"{recall['MQA']:.2f}: too little room.",
            run_time=0.25,
        )
        self.beat(2.0)
