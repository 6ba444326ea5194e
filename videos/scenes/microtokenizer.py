"""What do tokens give a model that letters do not?"""

from __future__ import annotations

from base import (
    BACKGROUND,
    DOWN,
    INK,
    INPUT,
    LEFT,
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
)
from parts import RowBars

CELL, HIGH = 0.298, 0.66  # the width of a letter's cell, the height of a token
LINE_Y = 1.85
GROUND_Y, UNIT = -2.35, 0.3  # the reach bars: a byte seen is 0.3 high
BAR_X, LONGEST = -3.6, 6.4  # the bars of the pairs
FIRST_Y, ROW_Y = 0.65, 0.56


def shape(length: int, color: str) -> RoundedRectangle:
    """The box of a token of so many bytes."""
    return RoundedRectangle(
        corner_radius=0.08,
        width=CELL * length - 0.05,
        height=HIGH,
        stroke_color=color,
        stroke_width=2.5,
        fill_color=BACKGROUND,
        fill_opacity=1,
    )


def visible(piece: str) -> str:
    """A space as a low line."""
    return piece.replace(" ", "_")


class Film(MicroScene):
    """A line of an unseen play is cut by more and more merges, and a model's reach grows."""

    script = "microtokenizer"
    question = "What do tokens give a model that letters do not?"

    def story(self) -> None:
        self.the_line()
        self.count_pairs()
        self.merge_one()
        self.say("The bars: how many bytes a model sees if it looks one symbol back.")
        self.reach_bars()
        self.beat(1.5)
        with self.preview():
            self.many_merges()
        self.one_letter()
        self.same_reach()
        self.say("Three models of counts, tested on the new play.")
        self.clear_stage()
        with self.preview():
            self.answer()
        self.what_is_left()

    # --- the line ---

    def x(self, i: float) -> float:
        """The middle of letter i."""
        return CELL * (i - (len(self.data["line"]) - 1) / 2)

    def boxes(self, lengths: list[int]) -> list:
        """One box for each token."""
        result, start = [], 0
        for length in lengths:
            box = shape(length, INPUT if length == 1 else MODEL)
            middle = self.x(start + (length - 1) / 2)
            result.append(box.move_to(middle * RIGHT + LINE_Y * UP).set_z_index(-1))
            start += length
        assert start == len(self.data["line"])
        return result

    def cut(self, step: int) -> list:
        """Animations to the line as it is cut at a step: what fuses becomes one box."""
        lengths, result, new = self.data["steps"][step]["lengths"], [], []
        old, old_lengths = list(self.tokens), list(self.lengths)
        for length, box in zip(lengths, self.boxes(lengths)):
            parts, total = [], 0
            while total < length:
                total += old_lengths.pop(0)
                parts.append(old.pop(0))
            assert total == length
            if len(parts) == 1:
                new.append(parts[0])
            else:
                result.append(ReplacementTransform(VGroup(*parts).set_z_index(-1), box))
                new.append(box)
        self.tokens, self.lengths = new, lengths
        return result

    def the_line(self) -> None:
        """A real line as bytes, and what a model that looks one byte back sees."""
        d = self.data
        self.ask()
        self.lengths = d["steps"][0]["lengths"]
        self.tokens = self.boxes(self.lengths)
        self.letters = VGroup(
            *[
                text(visible(letter), 30, INK, mono=True).move_to(
                    self.x(i) * RIGHT + (LINE_Y - (0.16 if letter == " " else 0)) * UP
                )
                for i, letter in enumerate(d["line"])
            ]
        )
        # Letters stand on one line, whatever their height.
        low = self.letters[d["line"].index("r")].get_bottom()[1]
        for letter, mark in zip(d["line"], self.letters):
            if letter not in " ":
                mark.shift((low - mark.get_bottom()[1]) * UP)
        self.settle(
            LaggedStart(*[FadeIn(box) for box in self.tokens], lag_ratio=0.03),
            LaggedStart(*[FadeIn(letter) for letter in self.letters], lag_ratio=0.03),
        )
        self.say(
            f"{len(d['line'])} bytes of a play: one for each letter or space. Each is a symbol."
        )
        self.beat(1.5)
        i = d["line"].index("v")
        target = shape(1, MODEL).set_stroke(width=5).move_to(self.letters[i])
        target.set_fill(opacity=0).set_y(LINE_Y)
        before = shape(1, RIVAL).set_fill(RIVAL, 0.35).set_y(LINE_Y).set_x(self.x(i - 1))
        words = text(
            f"to guess “{d['line'][i]}”, it sees only “{d['line'][i - 1]}”", 38, RIVAL
        ).move_to(0.55 * UP)
        price = text(f"{d['bits']['byte']:.2f} bits for each byte", 44, RIVAL, bold=True).move_to(
            0.75 * DOWN
        )
        self.say("A model that looks one symbol back, to guess the next:")
        self.play(Create(target), FadeIn(before), FadeIn(words))
        self.say("Its surprise, on the whole new play. Lower is better.")
        self.play(FadeIn(price, shift=0.2 * UP))
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (target, before, words, price)], run_time=0.4)

    # --- the pairs ---

    def pair_boxes(self, row: int) -> VGroup:
        """Two neighbours, side by side."""
        y, result = FIRST_Y - row * ROW_Y, VGroup()
        left = BAR_X - 0.35
        for piece in reversed(self.data["pairs"][row]):
            box = shape(len(piece), INPUT if len(piece) == 1 else MODEL)
            box.stretch_to_fit_height(0.44).move_to(left * RIGHT + y * UP, aligned_edge=RIGHT)
            letters = text(visible(piece), 28, INK, mono=True).move_to(box)
            if piece.startswith(" "):
                letters.align_to(box, DOWN).shift(0.06 * UP)
            result.add(VGroup(box, letters))
            left = box.get_left()[0] - 0.06
        return result

    def pair_bar(self, row: int, count: int, color: str) -> VGroup:
        """How often a pair was met, as a bar with its number."""
        y = (FIRST_Y - row * ROW_Y) * UP
        bar = Rectangle(
            width=max(LONGEST * count / self.data["counts"][0][0], 1e-3),
            height=0.36, stroke_width=0, fill_color=color, fill_opacity=1,
        ).move_to(BAR_X * RIGHT + y, aligned_edge=LEFT)  # fmt: skip
        number = text(f"{count:,}", 30, color).next_to(bar, RIGHT, buff=0.2)
        return VGroup(bar, number)

    def count_pairs(self) -> None:
        """The most frequent neighbours of the training text."""
        d = self.data
        first = d["counts"][0]
        self.shown = [row for row, count in enumerate(first) if count]
        self.pairs = {row: self.pair_boxes(row) for row in self.shown}
        self.rows = {row: self.pair_bar(row, first[row], INPUT) for row in self.shown}
        self.say(
            f"Byte pair encoding counts all neighbours in {d['training_bytes']:,} bytes"
            " of other plays."
        )
        self.play(
            LaggedStart(*[FadeIn(pair) for pair in self.pairs.values()], lag_ratio=0.2),
            LaggedStart(*[GrowFromEdge(row[0], LEFT) for row in self.rows.values()], lag_ratio=0.2),
        )
        self.play(*[FadeIn(row[1]) for row in self.rows.values()], run_time=0.4)
        self.beat(1.5)

    def merge_one(self) -> None:
        """The first merge: a new symbol, and what it does to its neighbours' counts."""
        d = self.data
        before, after = d["counts"]
        assert before[0] == max(before)
        name = visible("".join(d["pairs"][0]))
        self.say(f"The most frequent pair becomes a new symbol: “{name}”. A space, and a t.")
        box = shape(2, MODEL).stretch_to_fit_height(0.44)
        box.move_to(self.pairs[0]).set_z_index(-1)
        parts = VGroup(self.pairs[0][0][0], self.pairs[0][1][0]).set_z_index(-1)
        self.play(
            ReplacementTransform(parts, box),
            self.rows[0][0].animate.set_fill(MODEL),
            self.rows[0][1].animate.set_color(MODEL),
            *self.cut(1),
            run_time=1.2,
        )
        self.beat(1.0)
        new = after.index(next(a for a, b in zip(after, before) if not b))
        fewer = next(r for r in range(1, len(after)) if after[r] < before[r])
        assert before[fewer] == after[fewer] + after[new]
        self.say(
            f"Of {before[fewer]:,} “{visible(''.join(d['pairs'][fewer]))}”, {after[new]:,} "
            f"have lost their t to “{name}”: a new pair."
        )
        less = self.pair_bar(fewer, after[fewer], INPUT)
        more = self.pair_bar(new, after[new], MODEL)
        pair = self.pair_boxes(new)
        self.play(
            ReplacementTransform(self.rows[fewer], less),
            TransformFromCopy(self.rows[fewer], more),
            TransformFromCopy(VGroup(box, self.pairs[fewer]), pair),
            run_time=1.5,
        )
        self.beat(1.5)
        gone = [box, less, more, pair, *self.pairs.values(), *self.rows.values()]
        self.play(*[FadeOut(m) for m in gone], run_time=0.4)

    # --- the reach ---

    def bar(self, i: int, seen: int, color: str) -> Rectangle:
        """How many bytes are seen before byte i."""
        return Rectangle(
            width=CELL - 0.07, height=max(UNIT * seen, 1e-3),
            stroke_width=0, fill_color=color, fill_opacity=1,
        ).move_to(self.x(i) * RIGHT + GROUND_Y * UP, aligned_edge=DOWN)  # fmt: skip

    def reach_bars(self) -> None:
        """One bar under each byte."""
        seen = self.data["steps"][1]["seen"]
        self.ground = Line(self.x(-1) * RIGHT, self.x(len(seen)) * RIGHT).set_stroke(MUTED, 2)
        self.ground.set_y(GROUND_Y)
        self.bars = VGroup(*[self.bar(i, n, MODEL) for i, n in enumerate(seen)])
        self.counter = self.count(1)
        self.play(
            FadeIn(self.ground),
            LaggedStart(*[GrowFromEdge(bar, DOWN) for bar in self.bars], lag_ratio=0.03),
            FadeIn(self.counter),
        )

    def count(self, step: int) -> VGroup:
        """How many merges, and how many symbols they leave."""
        one = self.data["steps"][step]
        merges = text(f"{one['merges']:,} merges", 38, MODEL).move_to(4.6 * LEFT + 2.62 * UP)
        if one["merges"] == 1:
            merges = text("1 merge", 38, MODEL).move_to(4.6 * LEFT + 2.62 * UP)
        symbols = text(f"{len(one['lengths'])} symbols", 38, INK).move_to(4.6 * RIGHT + 2.62 * UP)
        return VGroup(merges, symbols)

    def many_merges(self) -> None:
        """The line from one merge to all, and the reach under it."""
        d = self.data
        self.say("Merge again and again: the pieces get longer.", run_time=0.25)
        for step in range(2, len(d["steps"])):
            self.remove(self.counter)
            self.counter = self.count(step)
            self.add(self.counter)
            changes = self.cut(step)
            for i, (bar, seen) in enumerate(zip(self.bars, d["steps"][step]["seen"])):
                if seen != d["steps"][step - 1]["seen"][i]:
                    changes.append(
                        bar.animate.stretch_to_fit_height(max(UNIT * seen, 1e-3)).align_to(
                            self.ground, DOWN
                        )
                    )
            self.play(*changes, run_time=0.42 if step < 6 else 0.5)
        self.say("One symbol back now reaches over whole words.", run_time=0.25)
        self.beat(1.25)

    def one_letter(self) -> None:
        """What is seen before one byte, byte by byte."""
        d = self.data
        last = d["steps"][-1]
        i = [j for j, letter in enumerate(d["line"]) if letter == "v"][-1]
        seen = last["seen"][i]
        words = visible(d["line"][i - seen : i])
        window = Rectangle(
            width=CELL * seen, height=HIGH + 0.12, stroke_width=0,
            fill_color=RIVAL, fill_opacity=0.45,
        ).move_to(self.x(i - (seen + 1) / 2) * RIGHT + LINE_Y * UP).set_z_index(-0.5)  # fmt: skip
        target = shape(1, MODEL).set_fill(opacity=0).set_stroke(width=5)
        target.move_to(self.x(i) * RIGHT + LINE_Y * UP)
        self.say(f"This “{d['line'][i]}” is guessed after the {seen} bytes “{words}”.")
        self.play(
            Create(target), GrowFromEdge(window, RIGHT),
            *[bar.animate.set_opacity(0.35) for j, bar in enumerate(self.bars) if j != i],
        )  # fmt: skip
        self.beat(2.0)
        self.play(FadeOut(target), FadeOut(window), self.bars.animate.set_opacity(1), run_time=0.5)

    def same_reach(self) -> None:
        """The rival: bytes that may look back as far, with a limit."""
        d = self.data
        most = d["at_most"]
        limit = Line(self.x(-1) * RIGHT, self.x(len(d["line"])) * RIGHT).set_stroke(RIVAL, 2)
        limit.set_y(GROUND_Y + most * UNIT)
        self.say(
            f"On average {d['seen']['tokens']:.1f} bytes instead of {d['seen']['bytes']:.0f}"
            f" (counting at most {most})."
        )
        self.play(Create(limit))
        self.beat(1.5)
        self.say("The rival: a model of single bytes that may look back just as far.")
        changes = [bar.animate.set_fill(RIVAL) for bar in self.bars]
        for i, seen in enumerate(d["steps"][-1]["seen"]):
            if seen > most:
                changes[i] = ReplacementTransform(self.bars[i], self.bar(i, most, RIVAL))
        bytes_only = self.boxes(d["steps"][0]["lengths"])
        parts, start = [], 0
        for token, length in zip(self.tokens, self.lengths):
            cells = VGroup(*bytes_only[start : start + length]).set_z_index(-1)
            parts.append(ReplacementTransform(token, cells))
            start += length
        self.play(*changes, *parts, FadeOut(self.counter), run_time=1.2)
        self.beat(1.5)

    # --- the answer ---

    def answer(self) -> None:
        """One byte back, one token back, and bytes that see as far."""
        bits = self.data["bits"]
        rows = RowBars(
            [
                ("one byte back", bits["byte"], RIVAL),
                ("one token back", bits["token"], MODEL),
                ("bytes as far back", bits["same_reach"], RIVAL),
            ],
            length=5.6, size=40, thickness=0.75, gap=0.5, form="{:.2f}",
        ).move_to(0.2 * DOWN)  # fmt: skip
        title = text("surprise in bits per byte: lower is better", 34, MUTED).move_to(2.2 * UP)
        self.play(FadeIn(title), FadeIn(rows.names), run_time=0.25)
        self.play(GrowFromEdge(rows.bars[0], LEFT), FadeIn(rows.numbers[0]), run_time=0.5)
        self.play(GrowFromEdge(rows.bars[1], LEFT), FadeIn(rows.numbers[1]), run_time=0.5)
        self.play(GrowFromEdge(rows.bars[2], LEFT), FadeIn(rows.numbers[2]), run_time=0.5)
        self.say("Bytes that see as far gain as much: a token gives reach.", run_time=0.25)
        self.beat(2.0)

    def what_is_left(self) -> None:
        """The caveats: the best of both, and what tokens save."""
        d = self.data
        self.say(
            f"Of what tokens gain, bytes with the same reach gain {d['share']:.0%}."
            " Reach explains it."
        )
        self.beat(2.0)
        self.say(
            f"With the best context each bytes cost {d['best']['bytes']:.3f}, "
            f"tokens {d['best']['tokens']:.3f}."
        )
        self.beat(2.0)
        self.say(
            f"What remains: with {d['bytes_per_token']:.1f} bytes per token,"
            " there are fewer symbols to read."
        )
        self.beat(2.0)
