"""What does the letter after the blank tell?"""

from __future__ import annotations

from collections.abc import Sequence

from base import (
    DOWN,
    FAINT,
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
    ArcBetweenPoints,
    Create,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Rectangle,
    ReplacementTransform,
    SurroundingRectangle,
    TransformFromCopy,
)
from parts import Bars, RowBars, tile

STEP = 1.3  # from one tile to the next where numbers stand under them
SMALL = 0.82  # and where the letters' bars do
UNIT = 4.8  # height of a bar of probability 1


class Film(MicroScene):
    """A blank, what is left of it, and what is right: read at once, or by 26 tries."""

    script = "microbert"
    question = "What does the letter after the blank tell?"

    def story(self) -> None:
        d = self.data
        for shares in (d["left"], d["tried"], *d["both"]):
            assert abs(sum(shares) - 1) < 1e-4
        self.the_problem()
        self.one_head()
        self.beams()
        self.clear_stage()
        self.two_rows()
        with self.preview():
            self.right_sides()
        self.two_candidates()
        with self.preview():
            self.all_candidates()
        self.clear_stage()
        with self.preview():
            self.price()
        self.clear_stage()
        self.answer()

    def row_of(
        self, words: str, y: float, step: float, side: float = 0.8, x0: float = 0.25
    ) -> VGroup:
        """The tiles of a text with its end marks; the blank stands at the same place always."""
        marked = f".{words}."
        blank = marked.index("_")
        tiles = VGroup()
        for i, symbol in enumerate(marked):
            color = MODEL if symbol == "_" else MUTED if symbol == "." else INPUT
            letters = "?" if symbol == "_" else "·" if symbol == "." else symbol
            x = (i - blank) * step + x0
            tiles.add(tile(letters, color, 36, side).move_to(x * RIGHT + y * UP))
        return tiles

    def the_problem(self) -> None:
        """A name with a blank, and who may see what."""
        d = self.data
        self.ask()
        self.tiles = self.row_of(d["texts"][-1], 1.9, STEP)
        self.blank = f".{d['texts'][-1]}.".index("_")
        self.settle(LaggedStart(*[FadeIn(t, shift=0.2 * UP) for t in self.tiles], lag_ratio=0.1))
        self.say("A name with one letter hidden. Which one was it?")
        self.beat(1.5)
        before, after = self.tiles[: self.blank + 1], self.tiles
        spans = [
            SurroundingRectangle(part, color=color, buff=buff, corner_radius=0.15)
            for part, color, buff in ((before, RIVAL, 0.2), (after, MODEL, 0.32))
        ]
        names = [
            text("one network reads the left only", 34, RIVAL).move_to(0.2 * UP),
            text("its twin reads both sides", 34, MODEL).move_to(0.6 * DOWN),
        ]
        self.play(Create(spans[0]), FadeIn(names[0]), run_time=0.8)
        self.play(Create(spans[1]), FadeIn(names[1]), run_time=0.8)
        self.say(f"Both train alike, on {d['num_train']:,} names with about half of the letters "
                 "hidden.")  # fmt: skip
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (*spans, *names)], run_time=0.4)

    # --- one head, number by number ---

    def one_head(self) -> None:
        """How well a row fits, plus a number for its distance: a softmax makes shares of them."""
        head = self.data["head"]
        rows = (
            ("fit", head["fits"], 0.65, INPUT, "{:.2f}"),
            ("distance", head["distances"], -0.05, INK, "{:.2f}"),
            ("share", head["weights"], -2.35, MODEL, "{:.2f}"),
        )
        captions = (
            "The blank compares itself with every place: how well does each fit?",
            "It adds a learned number for the distance. This head began on the next letter.",
            "Of the sums, a softmax makes shares of attention. They sum to 1.",
        )
        assert abs(sum(head["weights"]) - 1) < 1e-4
        shown = VGroup()
        columns = [VGroup() for _ in self.tiles]
        for (name, values, y, color, form), caption in zip(rows, captions):
            self.say(caption)
            numbers = VGroup()
            for value, symbol in zip(values, self.tiles):
                word = text(form.format(value), 28, color, mono=True)
                numbers.add(word.move_to(symbol.get_center()[0] * RIGHT + y * UP))
            label = text(name, 30, color).next_to(4.5 * LEFT + y * UP, LEFT, buff=0)
            if name == "share":
                bars = VGroup()
                for value, symbol in zip(values, self.tiles):
                    bar = Rectangle(width=0.6, height=max(1.5 * value, 1e-3), stroke_width=0)
                    bar.set_fill(MODEL, 1)
                    place = symbol.get_center()[0] * RIGHT + 2.1 * DOWN
                    bars.add(bar.move_to(place, aligned_edge=DOWN))
                self.play(
                    *[TransformFromCopy(c, bar) for c, bar in zip(columns, bars)],
                    run_time=1.0,
                )
                shown.add(bars)
            else:
                for column, number in zip(columns, numbers):
                    column.add(number)
            self.play(
                FadeIn(label), LaggedStart(*[FadeIn(n) for n in numbers], lag_ratio=0.1),
                run_time=0.8,
            )  # fmt: skip
            shown.add(numbers, label)
            self.beat(1.25)
        self.play(FadeOut(shown), run_time=0.4)

    def beams(self) -> None:
        """The shares of four heads as beams into the blank, for each of the two networks."""
        beams = self.data["beams"]
        self.say("The beams of attention: a thicker one takes more (mean of four heads).")
        self.play(self.tiles.animate.shift(0.7 * DOWN), run_time=0.4)
        target = self.tiles[self.blank]
        drawn = {}
        for key, color in (("left", RIVAL), ("both", MODEL)):
            heads = beams[key]
            means = [sum(column) / len(heads) for column in zip(*heads)]
            assert abs(sum(means) - 1) < 1e-4
            group = VGroup()
            for i, share in enumerate(means):
                if i != self.blank:
                    start = self.tiles[i].get_bottom() + 0.12 * DOWN
                    end = target.get_bottom() + 0.12 * DOWN
                    bend = 1.2 if i < self.blank else -1.2
                    arc = ArcBetweenPoints(start, end, angle=bend, color=color)
                    group.add(arc.set_stroke(width=100 * share))
            drawn[key] = group
        words = [
            text("left only", 36, RIVAL).move_to(1.3 * DOWN),
            text("both sides", 36, MODEL).move_to(1.3 * DOWN),
        ]
        hidden = self.tiles[self.blank + 1 :]
        self.play(
            *[t[0].animate.set_stroke(FAINT) for t in hidden],
            *[t[1].animate.set_opacity(0) for t in hidden],
            FadeIn(words[0]),
            run_time=0.4,
        )
        self.play(LaggedStart(*[Create(a) for a in drawn["left"]], lag_ratio=0.2), run_time=1.0)
        self.beat(1.0)
        new = self.row_of(self.data["texts"][-1], 1.2, STEP)[self.blank + 1 :]
        left = drawn["both"][: self.blank]
        self.play(
            *[ReplacementTransform(a, b) for a, b in zip(drawn["left"], left)],
            *[ReplacementTransform(a, b) for a, b in zip(hidden, new)],
            ReplacementTransform(words[0], words[1]),
            run_time=0.8,
        )
        self.play(
            LaggedStart(*[Create(a) for a in drawn["both"][self.blank :]], lag_ratio=0.2),
            run_time=1.0,
        )
        self.beat(1.25)

    # --- 26 letters, as the right side changes ---

    def best(self, shares: Sequence[float], y: float, color: str) -> VGroup:
        """The likeliest letter."""
        most = max(shares)
        words = f"{self.data['letters'][shares.index(most)]}  {most:.0%}"
        return text(words, 36, color, bold=True).move_to(5.85 * RIGHT + y * UP)

    def two_rows(self) -> None:
        """Below the name, the letters' probabilities from the left and from both sides."""
        d = self.data
        self.tiles = self.row_of(d["texts"][0], 1.9, SMALL, 0.7, -0.6)
        self.rows, self.bests = {}, {}
        for key, shares, y, color, labels in (
            ("left", d["left"], -0.15, RIVAL, [""] * len(d["letters"])),
            ("both", d["both"][0], -2.15, MODEL, d["letters"]),
        ):
            bars = Bars(shares, labels, unit=UNIT, width=0.28, gap=0.12, color=color, size=30)
            bars.shift((y - bars.ground.get_center()[1]) * UP)
            self.rows[key] = bars.shift((-0.25 - bars.ground.get_center()[0]) * RIGHT)
            self.bests[key] = self.best(shares, y + 0.3, color)
        self.names = VGroup(
            text("left\nonly", 32, RIVAL).move_to(6.15 * LEFT + 0.15 * UP),
            text("both\nsides", 32, MODEL).move_to(6.15 * LEFT + 1.8 * DOWN),
        )
        self.say("The same left side. What is the letter, if nothing follows?")
        self.play(FadeIn(self.tiles), run_time=0.4)
        self.play(
            *[FadeIn(m) for m in (*self.rows.values(), *self.bests.values(), self.names)],
            run_time=0.6,
        )
        self.beat(1.5)

    def right_sides(self) -> None:
        """Other letters follow: one row of bars moves, the other cannot."""
        d = self.data
        self.say("Other letters follow: only one of the two can move.", run_time=0.25)
        for words, shares in zip(d["texts"][1:], d["both"][1:]):
            new = self.row_of(words, 1.9, SMALL, 0.7, -0.6)
            best = self.best(shares, -1.85, MODEL)
            old_tail, new_tail = self.tiles[self.blank + 1 :], new[self.blank + 1 :]
            self.remove(self.bests["both"])
            self.play(
                *[FadeOut(t) for t in old_tail[:-1]],
                *[FadeIn(t) for t in new_tail[:-1]],
                old_tail[-1].animate.move_to(new_tail[-1]),
                *self.rows["both"].heights(shares),
                FadeIn(best),
                run_time=0.5,
            )
            self.remove(*self.tiles, *new_tail, self.tiles)
            self.tiles = new
            self.add(new)
            self.bests["both"] = best
            self.wait(5 / 12)
        self.beat(1.0)

    # --- 26 tries ---

    def two_candidates(self) -> None:
        """The network that reads the left, asked how well the rest follows a candidate."""
        d = self.data
        self.play(FadeOut(self.rows["both"]), FadeOut(self.bests["both"]),
                  FadeOut(self.names[1]), run_time=0.4)  # fmt: skip
        self.say("But put a letter in, and the left reader can rate what follows.")
        rest = d["texts"][-1].split("_")[1]
        lines = VGroup()
        for candidate, y in zip(d["tries"], (-1.3, -2.15)):
            tried = d["tries"][candidate]
            filled = tile(candidate, RIVAL, 36, 0.7).move_to(self.tiles[self.blank])
            index = d["letters"].index(candidate)
            assert abs(tried["factors"][0] - d["left"][index]) < 1e-5
            self.play(FadeIn(filled, shift=0.2 * DOWN), run_time=0.4)
            parts = VGroup()
            for symbol, factor in zip(candidate + rest, tried["factors"]):
                parts.add(text(f"{symbol} {factor:.2f}", 32, RIVAL, mono=True))
                parts.add(text("×", 32, MUTED))
            parts.remove(parts[-1])
            parts.add(text("=", 32, MUTED))
            parts.add(text(f"{tried['product']:.5f}", 34, INK, mono=True))
            parts.arrange(RIGHT, buff=0.25).move_to(y * UP)
            bar = self.rows["left"].bars[index]
            self.play(TransformFromCopy(bar, parts[0]), run_time=0.5)
            for i in range(len(rest)):
                at = self.tiles[self.blank + 1 + i]
                self.play(TransformFromCopy(at, parts[2 * i + 2]), FadeIn(parts[2 * i + 1]),
                          run_time=0.35)  # fmt: skip
            self.play(FadeIn(parts[-2:]), run_time=0.4)
            lines.add(parts)
            self.play(FadeOut(filled), run_time=0.2)
        first, second = d["tries"].values()
        assert first["factors"][0] > second["factors"][0] and first["product"] < second["product"]
        a, b = d["tries"]
        self.say(f"From the left, “{a}” was ahead. With what follows, it is “{b}”.")
        self.beat(2.0)
        self.lines = lines

    def all_candidates(self) -> None:
        """All 26 letters run through the blank; their products are scaled to sum to 1."""
        d = self.data
        bars = Bars(d["tried"], d["letters"], unit=UNIT, width=0.28, gap=0.12, color=RIVAL, size=30)
        bars.shift((-2.15 - bars.ground.get_center()[1]) * UP)
        bars.shift((-0.25 - bars.ground.get_center()[0]) * RIGHT)
        name = text(f"{len(d['letters'])}\ntries", 32, RIVAL).move_to(6.15 * LEFT + 1.8 * DOWN)
        self.play(FadeOut(self.lines), FadeIn(bars.ground), FadeIn(bars.labels), FadeIn(name),
                  run_time=0.25)  # fmt: skip
        self.say("All letters are tried, and the products scaled to sum to 1.", run_time=0.25)
        shown = None
        self.tiles[self.blank][1].set_opacity(0)  # the question mark
        for letter, bar in zip(d["letters"], bars.bars):
            filled = tile(letter, RIVAL, 36, 0.7).move_to(self.tiles[self.blank])
            if shown is not None:
                self.remove(shown)
            self.add(filled)
            shown = filled
            self.play(GrowFromEdge(bar, DOWN), run_time=1 / 12)
        best = self.best(d["tried"], -1.85, RIVAL)
        likeliest = d["letters"][d["tried"].index(max(d["tried"]))]
        assert max(d["both"][-1]) == d["both"][-1][d["letters"].index(likeliest)]
        filled = tile(likeliest, RIVAL, 36, 0.7).move_to(self.tiles[self.blank])
        self.remove(shown)
        self.add(filled)
        self.play(FadeIn(best), run_time=0.25)
        self.beat(1.0)

    def table_of(self, rows: Sequence[tuple[str, float, str]], y: float) -> RowBars:
        """Bars of surprise, all in one unit of length."""
        bars = RowBars(rows, form="{:.2f}", size=38, thickness=0.58, gap=0.3, length=5.6,
                       most=self.data["nats"]["left"])  # fmt: skip
        return bars.shift((-0.6 - bars.bars[0].get_left()[0]) * RIGHT + y * UP)

    def price(self) -> None:
        """On a sample: the right side by reading it, and by trying."""
        d = self.data
        sample = d["sample"]
        rows = self.table_of(
            [
                ("left only", sample["left"], RIVAL),
                ("left only, tries", sample["tries"], RIVAL),
                ("both sides", sample["both"], MODEL),
            ],
            0.3,
        )
        costs = VGroup()
        for number, count in zip(rows.numbers, (1.0, d["texts_read"], 1.0)):
            words = f"reads {count:.0f} text" + ("s" if count > 1 else "")
            costs.add(text(words, 30, INK).move_to(number))
        for cost, bar in zip(costs, rows.bars):
            cost.set_color("#10141A").move_to(bar).align_to(bar.get_left() + 0.25 * RIGHT, LEFT)
        self.play(FadeIn(rows.names), run_time=0.25)
        self.say(f"Surprise per hidden letter, in nats, on {d['num_sample']} of them: lower is "
                 "better.", run_time=0.25)  # fmt: skip
        self.play(LaggedStart(*[GrowFromEdge(b, LEFT) for b in rows.bars], lag_ratio=0.3),
                  run_time=0.75)  # fmt: skip
        self.play(FadeIn(rows.numbers), FadeIn(costs), run_time=0.5)
        self.say(f"The right side helps either way; the tries read {d['texts_read']:.0f} texts a "
                 "letter.", run_time=0.25)  # fmt: skip
        self.beat(1.25)

    def answer(self) -> None:
        """All held-out letters, and two tables that need no training."""
        d = self.data
        nats = d["nats"]
        rows = self.table_of(
            [
                ("left only", nats["left"], RIVAL),
                ("both sides", nats["both"], MODEL),
                ("table: two before", nats["count_left"], RIVAL),
                ("table: one each side", nats["count_both"], MODEL),
            ],
            0.2,
        )
        self.say(f"All {d['num_blanks']:,} letters of new names, each hidden alone:")
        self.play(FadeIn(rows.names[:2]), run_time=0.3)
        self.play(*[GrowFromEdge(b, LEFT) for b in rows.bars[:2]], run_time=0.7)
        self.play(FadeIn(rows.numbers[:2]), run_time=0.3)
        self.say(f"In one pass, the right side is worth {d['gain']:.2f} nats to the network.")
        self.beat(2.0)
        self.play(FadeIn(rows.names[2:]), run_time=0.3)
        self.play(*[GrowFromEdge(b, LEFT) for b in rows.bars[2:]], run_time=0.7)
        self.play(FadeIn(rows.numbers[2:]), run_time=0.3)
        self.say(f"Mere counts gain too, and lead by {d['table_lead']:.2f}: names are local, "
                 "training was short.")  # fmt: skip
        self.beat(2.5)
