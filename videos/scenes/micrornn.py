"""Who still knows the letter after 20 steps?"""

from __future__ import annotations

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
    MicroScene,
    VGroup,
    text,
)
from manim import (
    ArcBetweenPoints,
    Create,
    DashedLine,
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    SurroundingRectangle,
    TransformFromCopy,
    linear,
)
from parts import Axes2, RowBars, shade, tile

COLUMN = 0.52  # one symbol's width: tiles, states and gradients stand in the same columns
CAPITALS = "ABCD"


def place(index: int, y: float) -> object:
    """The middle of a symbol's column."""
    return (index - 11.5) * COLUMN * RIGHT + y * UP


class Film(MicroScene):
    """One sequence is read forwards by two nets, and the gradient goes back through it."""

    script = "micrornn"

    @property
    def question(self) -> str:
        """The number is the trace's: how far back the gradient is followed."""
        return f"Who still knows the letter after {self.data['distance']} steps?"

    def story(self) -> None:
        self.the_problem()
        self.one_number()
        self.say("Their states after training, symbol by symbol:")
        with self.preview():
            self.states()
        self.play(*[FadeOut(m) for m in self.maps])
        with self.preview():
            self.backwards()
        self.say(f"{self.data['ratio']:,.0f} times more of the GRU's gradient comes through.")
        self.beat(1.5)
        self.clear_stage()
        self.training()
        self.clear_stage()
        with self.preview():
            self.answer()
        self.longer()

    def the_problem(self) -> None:
        """Two capitals, noise, and the question."""
        d = self.data
        self.ask()
        self.tiles = VGroup()
        for i, symbol in enumerate(d["symbols"]):
            color = INPUT if symbol in CAPITALS else MODEL if symbol == "?" else MUTED
            self.tiles.add(tile(symbol, color, 30, side=0.46).move_to(place(i, 0.6)))
        self.settle(LaggedStart(*[FadeIn(t, shift=0.2 * UP) for t in self.tiles], lag_ratio=0.05))
        self.say("Two capitals, then noise. At the end: which capital came last?")
        self.beat(1.5)
        self.last = max(i for i, s in enumerate(d["symbols"]) if s in CAPITALS)
        assert d["symbols"][self.last] == d["answer"]
        start, end = [self.tiles[i].get_bottom() + 0.1 * DOWN for i in (self.last, -1)]
        arc = ArcBetweenPoints(start, end, angle=0.6, color=LIMIT).set_stroke(width=4)
        words = text(f"“{d['answer']}”, held for {d['held']} steps", 36, LIMIT)
        words.next_to(arc, DOWN, buff=0.2)
        self.play(Create(arc), run_time=1.0)
        self.play(FadeIn(words), run_time=0.5)
        self.beat(1.5)
        self.play(FadeOut(arc), FadeOut(words), run_time=0.4)
        self.play(self.tiles.animate.shift(1.75 * UP), run_time=0.6)

    # --- one number of the state, for one symbol ---

    def one_number(self) -> None:
        """Old number and candidate; the gate says where between them the new one is."""
        d = self.data
        at, unit = self.last, d["unit"]
        self.say("A net carries a list of numbers along. One of them, as a symbol is read:")
        rnn = [states[0] for states in d["rnn_states"]]
        self.line(1.15, "RNN", at + 1, rnn[at], rnn[at + 1], 0.0, rnn[at + 1], RIVAL,
                  "In an RNN, the candidate replaces the old number.")  # fmt: skip
        self.line(-0.3, "GRU", at - 1, *self.gru_step(at - 1, unit), MODEL,
                  "In a GRU, a gate says what share of the old number stays.")  # fmt: skip
        self.line(-1.75, "GRU", at, *self.gru_step(at, unit), MODEL,
                  f"“{d['answer']}” opens the gate, and is written.")  # fmt: skip
        capital, noise = d["mean_keep"]
        self.say(f"It keeps {noise:.2f} of this number at noise, {capital:.2f} at a capital "
                 "(means).")  # fmt: skip
        self.beat(2.0)
        self.clear_stage(self.tiles)

    def gru_step(self, index: int, unit: int) -> tuple[float, float, float, float]:
        """Old, candidate, share that is kept, new."""
        step = self.data["steps"][index]
        old, candidate, keep, new = [step[k][unit] for k in ("old", "candidate", "keep", "new")]
        assert abs(keep * old + (1 - keep) * candidate - new) < 1e-4
        return old, candidate, keep, new

    def line(
        self, y: float, net: str, index: int, old: float, candidate: float, keep: float,
        new: float, color: str, caption: str,
    ) -> None:  # fmt: skip
        """A number line from -1 to 1 on which the old number moves towards the candidate."""

        def at(value: float) -> object:
            return (2.2 + 4.0 * value) * RIGHT + y * UP

        symbol = self.data["symbols"][index]
        name = text(f"{net} reads “{symbol}”", 32, color).move_to(4.7 * LEFT + (y + 0.25) * UP)
        share = text(f"keeps {keep:.2f}" if keep else "keeps 0", 32, INK)
        share.move_to(4.7 * LEFT + (y - 0.27) * UP)
        axis = Line(at(-1), at(1), color=MUTED).set_stroke(width=2)
        ticks = VGroup(*[Line(0.1 * DOWN, 0.1 * UP).move_to(at(v)) for v in (-1, 0, 1)])
        ticks.set_stroke(MUTED, 2)
        before = Dot(at(old), radius=0.13, color=INK)
        goal = Dot(at(candidate), radius=0.13, color=INPUT)
        after = Dot(at(new), radius=0.15, color=color)
        way = Line(at(old), at(new), color=color).set_stroke(width=8)
        old_word = text(f"old {old:.2f}", 28, INK).next_to(before, DOWN, buff=0.15)
        goal_word = text(f"{candidate:.2f}", 28, INPUT)
        if keep:
            goal_word.next_to(goal, DOWN, buff=0.15)
        else:
            goal_word = text("candidate", 28, INPUT).next_to(goal, DOWN, buff=0.15)
        new_word = text(f"new {new:.2f}", 30, color, bold=True).next_to(after, UP, buff=0.12)
        mark = SurroundingRectangle(self.tiles[index], color=color, buff=0.05, stroke_width=4)
        self.say(caption)
        self.play(FadeIn(name), FadeIn(axis), FadeIn(ticks), Create(mark), run_time=0.5)
        self.play(FadeIn(before), FadeIn(old_word), run_time=0.4)
        self.play(TransformFromCopy(self.tiles[index], goal), FadeIn(goal_word), run_time=0.7)
        self.play(FadeIn(share), TransformFromCopy(before, after), Create(way), run_time=0.8)
        self.play(FadeIn(new_word), FadeOut(mark), run_time=0.4)
        self.beat(1.0)

    # --- the whole sequence ---

    def states(self) -> None:
        """All numbers of both states after every symbol, side by side."""
        d = self.data
        unit = d["unit"]
        rnn = d["rnn_states"]
        gru = [step["new"] for step in d["steps"]]
        assert len(rnn) == len(gru) == d["length"] == len(self.tiles)
        columns = [VGroup() for _ in rnn]
        frames = VGroup()
        for values, top, color in ((rnn, 1.75, RIVAL), (gru, -0.35, MODEL)):
            count = len(values[0])
            height = 1.85 / count
            for i, column in enumerate(values):
                for j, value in enumerate(column):
                    cell = Rectangle(width=COLUMN, height=height, stroke_width=0)
                    cell.set_fill(shade(value, 1.0, color, INPUT), 1)
                    columns[i].add(cell.move_to(place(i, top - (j + 0.5) * height)))
            frame = Rectangle(width=COLUMN * len(values), height=1.85, stroke_color=FAINT)
            frames.add(frame.set_stroke(width=2).move_to(place(0, top - 0.925)).set_x(0))
        names = VGroup(
            text("RNN", 30, RIVAL).rotate(1.5708).move_to(frames[0].get_left() + 0.3 * LEFT),
            text("GRU", 30, MODEL).rotate(1.5708).move_to(frames[1].get_left() + 0.3 * LEFT),
        )
        self.play(FadeIn(frames), FadeIn(names), run_time=0.25)
        mark = SurroundingRectangle(self.tiles[0], color=INK, buff=0.05, stroke_width=4)
        self.add(mark)
        self.play(
            LaggedStart(*[FadeIn(c) for c in columns], lag_ratio=0.6),
            mark.animate.move_to(self.tiles[-1]),
            run_time=2.25,
            rate_func=linear,
        )
        self.say("The RNN's follows the noise. The GRU's holds.", run_time=0.25)
        assert abs(gru[-1][unit] - gru[self.last + 8][unit]) < 0.2
        self.beat(1.0)
        self.maps = [frames, names, mark, *columns]

    def backwards(self) -> None:
        """The gradient, from the last state back: its share that is left, step by step."""
        d = self.data
        unit = 1.55
        self.bars: dict[str, VGroup] = {}
        last = len(d["symbols"]) - 1
        names = VGroup()
        for net, ground, color in (("RNN", 0.1, RIVAL), ("GRU", -2.35, MODEL)):
            profile = d["before"][net]
            bars = VGroup()
            for back, value in enumerate(profile):
                bar = Rectangle(width=0.4, height=max(value * unit, 1e-3), stroke_width=0)
                bar.set_fill(color, 1).move_to(place(last - back, ground), aligned_edge=DOWN)
                bars.add(bar)
            floor = Line(place(last - len(profile) + 0.5, ground), place(last + 0.5, ground))
            names.add(floor.set_stroke(MUTED, 2))
            names.add(text(net, 36, color).move_to(5.9 * LEFT + (ground + 0.35) * UP))
            self.bars[net] = bars
        self.play(FadeIn(names), run_time=0.25)
        self.say("To learn, a gradient goes back. Before training, this is left:", run_time=0.25)
        shares = VGroup()
        for net, color, y in (("RNN", RIVAL, 1.25), ("GRU", MODEL, -0.4)):
            first = reversed(d["before"][net][1:4])
            words = " ← ".join([f"{value:.2f}" for value in first] + ["1"])
            word = text(words, 32, color).move_to(place(last, y))
            right = place(last - (4 if net == "RNN" else 0), y)[0] + 0.2
            shares.add(word.shift((right - word.get_right()[0]) * RIGHT))
        for back in range(3):
            self.play(
                *[
                    GrowFromEdge(bars[0], DOWN) if back == 0
                    else TransformFromCopy(bars[back - 1], bars[back])
                    for bars in self.bars.values()
                ],
                run_time=1 / 3,
            )  # fmt: skip
        self.play(FadeIn(shares), run_time=0.25)
        self.play(
            *[
                LaggedStart(
                    *[TransformFromCopy(a, b) for a, b in zip(bars[2:], bars[3:])], lag_ratio=0.6
                )
                for bars in self.bars.values()
            ],
            run_time=1.5,
        )
        ends = VGroup()
        for net, color in (("RNN", RIVAL), ("GRU", MODEL)):
            value = d["before"][net][-1]
            word = text(f"{value:.2g} left", 38, color, bold=True)
            word.next_to(self.bars[net][-1], UP, buff=0.2).align_to(self.bars[net][-1], LEFT)
            ends.add(word)
        self.play(FadeIn(ends, shift=0.2 * LEFT), run_time=0.5)
        self.beat(1.0)

    # --- what it comes to ---

    def training(self) -> None:
        """Accuracy in training: the GRU learns it, the RNN goes on guessing."""
        d = self.data
        every = d["every"]
        curves = {name: d["curves"][name] for name in ("RNN", "GRU")}
        steps = every * len(curves["RNN"])
        axes = Axes2((0, steps), (0, 1), 8.5, 3.6, "training steps", "share right", 28)
        axes.move_to(0.1 * UP)
        marks = VGroup(
            text(f"{1.0:.0%}", 28, MUTED).next_to(axes.at(0, 1), LEFT),
            text(f"{d['guess']:.0%}", 28, MUTED).next_to(axes.at(0, d["guess"]), LEFT),
            text(f"{steps}", 28, MUTED).next_to(axes.at(steps, 0), DOWN, buff=0.2),
            DashedLine(axes.at(0, d["guess"]), axes.at(steps, d["guess"]), color=MUTED),
        )
        self.say(f"Both train on sequences of length {d['length']}.")
        self.play(FadeIn(axes), FadeIn(marks), run_time=0.6)
        lines, names = VGroup(), VGroup()
        for name, color in (("RNN", RIVAL), ("GRU", MODEL)):
            points = [((i + 0.5) * every, share) for i, share in enumerate(curves[name])]
            line = axes.curve(points, color, 6)
            lines.add(line)
            names.add(text(name, 34, color).next_to(line.get_end(), RIGHT, buff=0.5))
        self.play(*[Create(line) for line in lines], run_time=2.0, rate_func=linear)
        self.play(FadeIn(names), run_time=0.4)
        self.beat(1.5)

    def rows(self, length: int) -> RowBars:
        """The accuracy of four nets on new sequences of a length."""
        d = self.data
        shown = (
            ("RNN", "RNN", RIVAL),
            ("leaky", f"always keeps {d['leak']}", MUTED),
            ("GRU", "GRU", MODEL),
            ("RNN, curriculum", "RNN, short ones first", RIVAL),
        )
        rows = [(words, d["scores"][net][str(length)], color) for net, words, color in shown]
        bars = RowBars(rows, length=6.0, form="{:.1%}", size=36, thickness=0.55, gap=0.32, most=1.0)
        bars.shift((-1.1 - bars.bars[0].get_left()[0]) * RIGHT + 0.1 * UP)
        for number in bars.numbers:  # not on the line of guessing
            number.shift(max(0.0, -0.9 + 6.0 * d["guess"] - number.get_left()[0]) * RIGHT)
        return bars

    def answer(self) -> None:
        """The new sequences, at the length of the training."""
        d = self.data
        rows = self.rows(d["length"])
        chance = -1.1 + 6.0 * d["guess"]
        top, bottom = rows.get_top()[1] + 0.15, rows.get_bottom()[1] - 0.15
        dashes = DashedLine(chance * RIGHT + top * UP, chance * RIGHT + bottom * UP, color=INK)
        guess = text(f"guessing {d['guess']:.0%}", 30, INK).next_to(dashes, UP, buff=0.12)
        self.play(FadeIn(rows.names), FadeIn(dashes), FadeIn(guess), run_time=0.25)
        self.say(f"{d['num_test']} new sequences of length {d['length']}: who knows the letter?",
                 run_time=0.25)  # fmt: skip
        for part in (slice(0, 3), slice(3, 4)):
            self.play(
                LaggedStart(*[GrowFromEdge(b, LEFT) for b in rows.bars[part]], lag_ratio=0.3),
                run_time=2 / 3,
            )
            self.play(FadeIn(rows.numbers[part]), run_time=0.25)
            if part.start == 0:
                self.say("A gate keeps it. An RNN learns to as well, from short ones first.",
                         run_time=0.25)  # fmt: skip
        self.beat(1.5)
        self.shown = rows

    def longer(self) -> None:
        """The same nets at longer lengths."""
        d = self.data
        best, gru = [d["scores"][n][str(d["test_lengths"][-1])] for n in ("RNN, curriculum", "GRU")]
        double, longest = d["test_lengths"][2:]
        captions = (
            (double, f"Length {double}: a fixed share is worse than guessing, the GRU holds."),
            (longest, f"Length {longest}: the RNN that began with short ones is ahead, "
             f"{best:.0%} to {gru:.0%}."),
            (d["length"], f"Back at {d['length']}: a plain RNN has room for the letter, "
             "but does not learn it from far away."),
        )  # fmt: skip
        for length, caption in captions:
            new = self.rows(length)
            self.say(caption)
            self.play(
                *[ReplacementTransform(a, b) for a, b in zip(self.shown.bars, new.bars)],
                *[ReplacementTransform(a, b) for a, b in zip(self.shown.numbers, new.numbers)],
                run_time=1.0,
            )
            self.shown = new
            self.beat(2.0)
