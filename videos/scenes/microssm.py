"""How can a memory of fixed size know what to forget?"""

from __future__ import annotations

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
    AnimationGroup,
    Create,
    Dot,
    FadeIn,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    TransformFromCopy,
    linear,
)
from parts import Axes2, RowBars, tile

NAMES = {".": "dot", "+": "tick", "R": "reset"}


class Film(MicroScene):
    """One number that counts by hand, then one of a trained state, with and without selection."""

    script = "microssm"
    question = "How can a memory of fixed size know what to forget?"

    def story(self) -> None:
        self.the_problem()
        self.by_hand()
        self.what_it_keeps()
        self.two_layers()
        with self.preview():
            self.reading()
        self.clear_stage()
        self.lengths()
        self.price()
        self.clear_stage()
        with self.preview():
            self.answer()

    def the_problem(self) -> None:
        """The counter: ticks since the last reset."""
        d = self.data
        self.ask()
        text_, counts = d["text"][: len(d["text"]) // 4], d["count"]
        self.tape = VGroup(*[tile(s, INK if s == "R" else INPUT, 36, 0.72) for s in text_]).arrange(
            RIGHT, buff=0.1
        )
        self.tape.move_to(1.3 * UP)
        self.settle(LaggedStart(*[FadeIn(t) for t in self.tape], lag_ratio=0.1))
        answers = VGroup(
            *[
                text(count, 40, LIMIT, mono=True, bold=True).next_to(t, DOWN, buff=0.35)
                for count, t in zip(counts, self.tape)
            ]
        )
        self.say(
            "Count the ticks (+) since the last reset (R), "
            f"up to {d['highest']}. A dot means nothing."
        )
        self.play(
            LaggedStart(
                *[TransformFromCopy(t[1], a) for t, a in zip(self.tape, answers)], lag_ratio=0.3
            ),
            run_time=2.2,
        )
        size = text(f"the memory: {d['numbers']} numbers, however long the text", 34, MODEL)
        self.play(FadeIn(size.move_to(1.3 * DOWN)))
        self.beat(1.5)
        self.clear_stage()

    def by_hand(self) -> None:
        """One number of memory; each symbol chooses how much of it is kept."""
        d = self.data
        hand = d["hand"]
        tiles = VGroup(*[tile(s["symbol"], INK if s["symbol"] == "R" else INPUT, 40, 0.8)
                         for s in hand])  # fmt: skip
        tiles.arrange(DOWN, buff=0.4).move_to(5.9 * LEFT + 0.2 * UP)
        base, unit = 1.9 * DOWN + 5.8 * RIGHT, 1.7
        ground = Line(base + 0.9 * LEFT, base + 0.9 * RIGHT, color=MUTED)
        bar = Rectangle(width=1.1, height=1e-3, stroke_width=0, fill_color=MODEL, fill_opacity=1)
        bar.move_to(base, aligned_edge=DOWN)
        name = text("memory", 30, MUTED).next_to(ground, DOWN, buff=0.2)
        self.say("One number, set by hand. A symbol chooses a step; exp(-step) is kept.")
        self.play(FadeIn(tiles), FadeIn(ground), FadeIn(name))
        self.add(bar)
        value = None
        for number, (symbol, t) in enumerate(zip(hand, tiles)):
            y = t.get_center()[1] * UP
            color = INK if symbol["symbol"] == "R" else INPUT
            step = text(f"step {symbol['delta']:g}", 34, color).move_to(
                5.1 * LEFT + y, aligned_edge=LEFT
            )
            rule = text(
                f"{symbol['kept']:.3f} × {symbol['before']:.3f} + {symbol['written']:.0f}"
                f" = {symbol['after']:.3f}",
                34, INK, mono=True,
            ).move_to(2.3 * LEFT + y, aligned_edge=LEFT)  # fmt: skip
            new = text(f"{symbol['after']:.3f}", 36, MODEL, bold=True)
            new.move_to(base + (unit * symbol["after"] + 0.3) * UP)
            self.play(TransformFromCopy(t[1], step), run_time=0.5 if number else 0.8)
            self.play(TransformFromCopy(step, rule), run_time=0.5 if number else 0.8)
            turn = FadeIn(new) if value is None else ReplacementTransform(value, new)
            self.play(
                bar.animate.stretch_to_fit_height(max(unit * symbol["after"], 1e-3)).align_to(
                    base, DOWN
                ),
                turn,
                run_time=0.6,
            )
            value = new
            if symbol["symbol"] == "R":
                self.say("A reset takes a large step: nothing is left.")
                self.beat(1.2)
        self.say("Then it counts from zero again.")
        self.beat(1.2)
        self.clear_stage()

    # --- the trained layers ---

    def what_it_keeps(self) -> None:
        """The share that the trained layer keeps at each symbol."""
        d = self.data
        kept = d["gates"]["selective"]["kept"]
        self.say(f"Trained: the share that each symbol keeps of one of {d['numbers']} numbers.")
        bars = VGroup()
        for i, symbol in enumerate(NAMES):
            y = (1.4 - 1.3 * i) * UP
            value = kept[d["text"].index(symbol)]
            sign = tile(symbol, INK if symbol == "R" else INPUT, 40, 0.8).move_to(5.6 * LEFT + y)
            name = text(NAMES[symbol], 36, MUTED).next_to(sign, RIGHT, buff=0.3)
            start = 2.9 * LEFT + y
            frame = Rectangle(width=7.0, height=0.6, stroke_color=FAINT, stroke_width=2)
            frame.move_to(start, aligned_edge=LEFT)
            bar = Rectangle(width=max(7.0 * value, 1e-3), height=0.6, stroke_width=0,
                            fill_color=MODEL, fill_opacity=1)  # fmt: skip
            bar.move_to(start, aligned_edge=LEFT)
            number = text(f"{value:.3f}", 38, MODEL, bold=True).next_to(frame, RIGHT, buff=0.3)
            bars.add(VGroup(sign, name, frame, bar, number))
        self.play(LaggedStart(*[FadeIn(row[:3]) for row in bars], lag_ratio=0.2), run_time=0.8)
        self.play(
            LaggedStart(*[AnimationGroup(GrowFromEdge(row[3], LEFT), FadeIn(row[4]))
                          for row in bars], lag_ratio=0.3), run_time=1.5,
        )  # fmt: skip
        self.beat(2.0)
        self.clear_stage()

    def two_layers(self) -> None:
        """The text's first symbols, and room for a number of the memory of both layers."""
        d = self.data
        start = d["text"].rindex("R", 0, d["text"].rindex("R"))
        symbols = d["text"][start:]
        unit, left, height = 0.33, 4.6, 1.25
        xs = [(i * unit - left) * RIGHT for i in range(len(symbols))]
        lanes = {"selective": (0.35, MODEL), "LTI": (-1.75, RIVAL)}
        names = {"selective": "chooses", "LTI": "fixed"}

        def label(words: str, y: float, color: str) -> object:
            return text(words, 30, color).move_to(6.75 * LEFT + y * UP, aligned_edge=LEFT)

        labels = VGroup(label("reads", 2.62, MUTED), label("count", 2.15, MUTED))
        grounds = VGroup()
        for kind, (base, color) in lanes.items():
            labels.add(label(names[kind], base + 0.75, color), label("says", base - 0.32, MUTED))
            ground = Line(xs[0] + 0.17 * LEFT, xs[-1] + 0.17 * RIGHT, color=MUTED)
            grounds.add(ground.set_stroke(width=2).shift(base * UP))
        most = {kind: max(map(abs, d["gates"][kind]["state"])) for kind in lanes}
        columns = []
        for i, (symbol, x) in enumerate(zip(symbols, xs)):
            sign = text(symbol, 30, INK if symbol == "R" else INPUT, mono=True, bold=True)
            true = d["count"][start + i]
            column = VGroup(
                sign.move_to(x + (2.5 if symbol == "." else 2.62) * UP),
                text(true, 30, LIMIT, mono=True).move_to(x + 2.15 * UP),
            )
            bars = VGroup()
            for kind, (base, color) in lanes.items():
                size = abs(d["gates"][kind]["state"][start + i]) / most[kind]
                bar = Rectangle(
                    width=unit * 0.8, height=max(size * height, 1e-3), stroke_width=0,
                    fill_color=color, fill_opacity=1,
                )  # fmt: skip
                bars.add(bar.move_to(x + base * UP, aligned_edge=DOWN))
                says = d["gates"][kind]["says"][start + i]
                right = says == true
                said = text(says, 30, LIMIT if right else BACKGROUND, mono=True, bold=not right)
                place = x + (base - 0.32) * UP
                if not right:
                    ground = Rectangle(width=unit, height=0.46, stroke_width=0,
                                       fill_color=WRONG, fill_opacity=1)  # fmt: skip
                    column.add(ground.move_to(place))
                column.add(said.move_to(place))
            columns.append(AnimationGroup(FadeIn(column), *[GrowFromEdge(b, DOWN) for b in bars]))
        self.add(labels, grounds)
        self.say("A number of each memory, to its own scale, while a text is read.", run_time=0.25)
        self.play(columns[0], run_time=0.5)
        self.columns, self.half = columns, symbols.index("+") + 2

    def reading(self) -> None:
        """A text is read: what the number is, and what the network says, in both layers."""
        d, columns, half = self.data, self.columns, self.half
        self.play(LaggedStart(*columns[1:half], lag_ratio=0.4), run_time=1.75, rate_func=linear)
        self.say("Choosing: a tick shrinks it, a dot holds it, a reset refills it.", run_time=0.25)
        self.play(LaggedStart(*columns[half:], lag_ratio=0.4), run_time=2.5, rate_func=linear)
        self.beat(1.0)
        kept = d["gates"]["LTI"]["kept"][0]
        self.say(
            f"Fixed: every symbol keeps {kept:.3f}, nothing is erased, and counts go wrong (red).",
            run_time=0.25,
        )
        self.beat(1.75)

    def lengths(self) -> None:
        """Accuracy on texts longer than those of training."""
        d = self.data
        most = d["lengths"][-1]
        axes = Axes2((0, most), (0, 1), 8.2, 3.9, size=28).move_to(0.9 * LEFT + 0.35 * UP)
        ticks = VGroup(
            *[text(n, 28, MUTED).next_to(axes.at(n, 0), DOWN, buff=0.18) for n in d["lengths"]],
            *[text(f"{share:.0%}", 28, MUTED).next_to(axes.at(0, share), LEFT, buff=0.2)
              for share in (0, 1)],
        )  # fmt: skip
        across = text("symbols in the text", 28, MUTED).next_to(axes.across, DOWN, buff=0.65)
        self.say(f"Right answers. All were trained alike, on texts of {d['lengths'][0]} symbols.")
        self.play(FadeIn(axes), FadeIn(ticks), FadeIn(across))
        lines, dots, names = [], VGroup(), VGroup()
        kinds = (("selective", "chooses", MODEL, 0.0), ("attention", "attention", INK, 0.08),
                 ("LTI", "fixed", RIVAL, -0.08))  # fmt: skip
        for kind, name, color, shift in kinds:
            points = list(zip(d["lengths"], d["counter"][kind]))
            lines.append(axes.curve(points, color, 6))
            dots.add(*[Dot(axes.at(*p), 0.1, color=color) for p in points])
            end = axes.at(*points[-1])
            names.add(text(name, 32, color, bold=True).next_to(end, RIGHT, buff=0.3).shift(
                shift * 2 * UP))  # fmt: skip
        self.play(*[Create(line) for line in lines], FadeIn(dots), run_time=1.8)
        self.play(FadeIn(names), run_time=0.4)
        self.beat(1.8)
        self.clear_stage()

    def price(self) -> None:
        """What a small state does not do: recall every fact exactly."""
        d = self.data
        self.say(f"The price: read {d['num_facts']} facts, then recall one exactly.")
        recall = d["recall"]
        rows = RowBars(
            [
                ("chooses", recall["selective"], MODEL),
                ("attention", recall["attention"], INK),
                ("one layer of each", recall["hybrid"], LIMIT),
                ("guessing", d["guess"], MUTED),
            ],
            length=6.2, size=38, thickness=0.55, form="{:.0%}", most=1.0,
        ).move_to(0.3 * UP)  # fmt: skip
        self.play(
            FadeIn(rows.names),
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=1.2,
        )
        self.play(FadeIn(rows.numbers), run_time=0.4)
        self.beat(2.0)

    def answer(self) -> None:
        """The counter at the greatest length."""
        d = self.data
        most = d["lengths"][-1]
        final = {kind: values[-1] for kind, values in d["counter"].items()}
        self.say(f"Right counts in texts of {most} symbols, after equal training.", run_time=0.25)
        rows = RowBars(
            [
                ("chooses what to keep", final["selective"], MODEL),
                ("attention", final["attention"], INK),
                ("keeps a fixed share", final["LTI"], RIVAL),
            ],
            length=5.4, size=38, thickness=0.62, form="{:.0%}", most=1.0,
        ).move_to(0.35 * UP)  # fmt: skip
        self.play(
            FadeIn(rows.names),
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=0.75,
        )
        self.play(FadeIn(rows.numbers), run_time=0.25)
        recall = d["recall"]
        self.say(
            f"Each symbol decides what stays: {final['selective']:.0%}. But exact recall: "
            f"attention {recall['attention']:.0%}, this layer {recall['selective']:.0%}.",
            run_time=0.25,
        )
        self.beat(2.0)
