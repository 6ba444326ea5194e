"""Where does the answer come from?"""

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
    Words,
    text,
    wrapped,
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
    Square,
    SurroundingRectangle,
    TransformFromCopy,
)

FACT = 3  # the answer's word that tells the fact
SEARCHES = (("BM25", "words"), ("vectors", "vectors"), ("both, fused", "both"))


def sentence(words: list[str], size: float, color: str, columns: int = 99) -> VGroup:
    """A text as its words, each of which can be lit or can move; broken into lines."""
    lines, start = VGroup(), 0
    for line in wrapped(" ".join(words), columns).split("\n"):
        count = len(line.split())
        row = VGroup()
        for word in words[start : start + count]:
            row.add(text(word, size, color))
        x = 0.0
        for word in row:  # all stand on one line: an x before a word tells where that is
            probe = text("x" + word.words, size)
            above = VGroup(*probe[1:]).get_center()[1] - probe[0].get_center()[1]
            word.move_to((x + word.width / 2) * RIGHT + (above - 0.0145 * size * len(lines)) * UP)
            x += word.width + 0.17 * size / 30
        start += count
        lines.add(row)
    return lines


def words_of(lines: VGroup) -> list[Words]:
    """The words of all lines in order."""
    return [word for line in lines for word in line]


class Film(MicroScene):
    """One question: searched for in two ways, read, and read again from other passages."""

    script = "microrag"
    question = "Where does the answer come from?"

    def story(self) -> None:
        self.the_problem()
        self.search()
        self.read()
        with self.preview():
            self.copy_a_word()
            self.edit_a_word()
            self.wrong_passage()
        self.clear_stage()
        with self.preview():
            self.squares()
        self.answer()

    def the_problem(self) -> None:
        """A question about a country that no model was trained on."""
        d = self.data
        self.ask()
        self.asked = sentence([*d["question"], "?"], 44, INPUT).move_to(1.2 * UP)
        self.settle(FadeIn(self.asked, shift=0.2 * UP))
        self.say("A question about a country that no model here was trained on.")
        self.beat(1.5)
        share = d["closed_book"]
        bar = Rectangle(width=8.0, height=0.5, stroke_color=FAINT, stroke_width=2)
        bar.move_to(0.9 * DOWN)
        right = Rectangle(width=8.0 * share, height=0.5, stroke_width=0, fill_opacity=1)
        right.set_fill(RIVAL).move_to(bar.get_left(), aligned_edge=LEFT)
        words = text(f"a model without passages: {share:.0%} of such questions right", 32, RIVAL)
        words.next_to(bar, UP, buff=0.25)
        self.play(FadeIn(bar), FadeIn(words), GrowFromEdge(right, LEFT), run_time=0.8)
        self.say("It has learned other countries by heart. That does not help here.")
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (bar, right, words)], run_time=0.4)
        self.play(self.asked.animate.scale(0.82).move_to(2.45 * UP), run_time=0.5)

    # --- search ---

    def search(self) -> None:
        """Two passages, scored by words, then by vectors, then by both."""
        d = self.data
        assert not d["found"][0]["gold"] and d["found"][1]["gold"]
        cards, cosines = VGroup(), VGroup()
        for entry, x in zip(d["found"], (-3.5, 3.5)):
            card = RoundedRectangle(
                corner_radius=0.15, width=6.5, height=1.65, stroke_color=MUTED, stroke_width=2
            ).move_to(x * RIGHT + 1.1 * UP)
            lines = sentence(entry["words"], 30, MUTED, 31).move_to(card)
            cards.add(VGroup(card, lines))
        self.say(f"Two searches look through {d['num_passages']} passages, and put these two "
                 "first.")  # fmt: skip
        self.play(LaggedStart(*[FadeIn(c, shift=0.2 * UP) for c in cards], lag_ratio=0.3))
        self.beat(1.25)
        # By words: what each shared word scores.
        self.say("By words: each shared word scores, a rare one more.")
        for entry, card, x in zip(d["found"], cards, (-3.5, 3.5)):
            shared = [
                (word, score)
                for word, score in zip(d["question"], entry["word_scores"])
                if score > 0
            ]
            assert abs(sum(s for _, s in shared) - entry["bm25"]) < 1e-3
            sums = VGroup()
            for word, score in shared:
                sums.add(text(f"{word} {score:.2f}", 26, INPUT))
            sums.arrange(RIGHT, buff=0.3).move_to(x * RIGHT + 0.15 * DOWN)
            marks = []
            for word, target in zip(shared, sums):
                source = [w for w in words_of(card[1]) if w.words == word[0]]
                marks += [w.animate.set_color(INPUT) for w in source]
                marks.append(TransformFromCopy(source[0], target))
            self.play(*marks, run_time=0.8)
            total = text(f"words {entry['bm25']:.2f}", 32, INK)
            total.move_to((x - 1.9) * RIGHT + 0.85 * DOWN)
            self.play(TransformFromCopy(sums, total), run_time=0.5)
        assert d["found"][0]["bm25"] > d["found"][1]["bm25"]
        self.beat(1.5)
        self.say("By vectors, which training placed so that a question lies near its passage.")
        for entry, x in zip(d["found"], (-3.5, 3.5)):
            cosine = text(f"cosine {entry['cosine']:.2f}", 32, INK)
            cosines.add(cosine.move_to((x - 1.9) * RIGHT + 1.5 * DOWN))
        self.play(FadeIn(cosines), run_time=0.5)
        self.beat(1.5)
        self.say(f"Fused: 1 / ({d['fusion_k']} + rank) from each search. The right passage wins.")
        ranks = VGroup()
        for entry, x in zip(d["found"], (-3.5, 3.5)):
            for rank, vote, y in zip(entry["ranks"], entry["votes"], (-0.85, -1.5)):
                words = text(f"rank {rank}: {vote:.2f}", 32, MODEL)
                ranks.add(words.move_to((x + 1.5) * RIGHT + y * UP))
        self.play(LaggedStart(*[FadeIn(r) for r in ranks], lag_ratio=0.2), run_time=0.8)
        self.beat(1.0)
        sums = VGroup()
        for i, (entry, x) in enumerate(zip(d["found"], (-3.5, 3.5))):
            words = text(f"both {entry['fused']:.2f}", 38, LIMIT if entry["gold"] else WRONG)
            sums.add(words.move_to(x * RIGHT + 2.25 * DOWN))
            self.play(TransformFromCopy(ranks[2 * i : 2 * i + 2], words), run_time=0.5)
        frame = cards[1][0].copy().set_stroke(LIMIT, 5)
        self.play(ReplacementTransform(cards[1][0], frame), run_time=0.4)
        self.beat(1.5)
        self.clear_stage(self.asked, frame, cards[1][1])
        self.card, self.passage = frame, cards[1][1]

    # --- reading ---

    def read(self) -> None:
        """The passage's words as columns for the reader's attention, the answer below."""
        d = self.data
        first = d["readings"]["right"]
        self.say("A reader gets the question and the passage, and writes an answer.")
        new = self.columns(first["passage"])
        self.play(
            *[TransformFromCopy(a, b) for a, b in zip(words_of(self.passage), new)],
            FadeOut(self.card),
            FadeOut(self.passage),
            run_time=1.0,
        )
        self.source = new
        self.said = sentence(first["answer"][:FACT], 44, MODEL)[0]
        self.said.move_to(3.2 * LEFT + 2.0 * DOWN, aligned_edge=LEFT)
        line = self.said[0].get_bottom()[1]  # "its" has no tail
        x = self.said.get_right()[0] + 0.3
        self.slot = Line(0.0 * RIGHT, 1.7 * RIGHT, color=MODEL).set_stroke(width=4)
        self.slot.move_to((x + 0.85) * RIGHT + (line - 0.1) * UP)
        self.play(LaggedStart(*[FadeIn(w) for w in self.said], lag_ratio=0.4), run_time=1.0)
        self.play(Create(self.slot), run_time=0.4)
        self.say("Which word comes next? The reader may copy one, by its attention.")
        self.beat(1.25)

    def columns(self, words: list[str]) -> VGroup:
        """The words side by side, over their bars."""
        row = sentence(words[:-1], 33, INPUT)[0]
        return row.move_to(1.35 * UP)

    def attend(self, reading: dict) -> VGroup:
        """A bar of attention under each word of the passage."""
        assert abs(sum(reading["attention"]) - 1) < 1e-4
        bars = VGroup()
        for word, share in zip(self.source, reading["attention"]):
            bar = Rectangle(width=0.5, height=max(1.5 * share, 1e-3), stroke_width=0)
            bar.set_fill(MODEL, 1)
            bars.add(bar.move_to(word.get_center()[0] * RIGHT + 0.85 * DOWN, aligned_edge=DOWN))
        return bars

    def write(self, reading: dict, color: str) -> Words:
        """The word as it stands in the answer."""
        word = text(reading["answer"][FACT], 44, color, bold=True)
        return word.next_to(self.slot, UP, buff=0.1)

    def index_of(self, reading: dict) -> int:
        """Where the copied word stands in the passage; it has nearly all of the attention."""
        shares = reading["attention"]
        index = shares.index(max(shares))
        assert reading["passage"][index] == reading["answer"][FACT]
        return index

    def copy_a_word(self) -> None:
        """The attention falls on one word, and this flies into the answer."""
        reading = self.data["readings"]["right"]
        index = self.index_of(reading)
        self.bars = self.attend(reading)
        self.share = text(f"{reading['attention'][index]:.0%} of the attention", 32, MODEL)
        self.share.next_to(self.bars[index], LEFT, buff=0.35)
        self.say("Its attention falls on one word, which is copied.", run_time=0.25)
        self.play(*[GrowFromEdge(b, DOWN) for b in self.bars], FadeIn(self.share), run_time=0.5)
        assert reading["answer"][FACT] == self.data["true"] and reading["gate"] < 0.01
        self.word = self.write(reading, LIMIT)
        self.play(TransformFromCopy(self.source[index], self.word), run_time=0.75)
        self.beat(1.0)

    def edit_a_word(self) -> None:
        """One word of the passage is another, and no weight: the answer follows."""
        reading = self.data["readings"]["edited"]
        index = self.index_of(reading)
        assert reading["gate"] < 0.01
        new = self.columns(reading["passage"])
        new[index].set_color(INK)
        self.say("Edit one word: the answer follows. No weight has changed.", run_time=0.25)
        self.play(
            *[ReplacementTransform(a, b) for a, b in zip(self.source, new)],
            *[b.animate.set_x(w.get_center()[0]) for b, w in zip(self.bars, new)],
            run_time=0.5,
        )
        self.source = new
        word = self.write(reading, MODEL)
        self.play(FadeOut(self.word, shift=0.3 * DOWN), TransformFromCopy(new[index], word),
                  run_time=0.75)  # fmt: skip
        self.word = word
        self.beat(1.0)

    def wrong_passage(self) -> None:
        """A passage about another country is read as faithfully, and as surely."""
        d = self.data
        reading = d["readings"]["wrong"]
        index = self.index_of(reading)
        new = self.columns(reading["passage"])
        for i, (word, right) in enumerate(zip(new, d["readings"]["right"]["passage"])):
            if word.words != right:
                new[i].set_color(WRONG)
        self.say(f"A wrong passage: it copies its word, {reading['sure']:.1%} sure.",
                 run_time=0.25)  # fmt: skip
        self.play(
            FadeOut(self.source, shift=0.3 * UP),
            FadeIn(new, shift=0.3 * UP),
            *[b.animate.set_x(w.get_center()[0]) for b, w in zip(self.bars, new)],
            self.share.animate.next_to(self.bars[index].copy().set_x(new[index].get_x()), LEFT,
                                       buff=0.35),
            run_time=0.5,
        )  # fmt: skip
        word = self.write(reading, WRONG)
        self.play(FadeOut(self.word, shift=0.3 * DOWN), TransformFromCopy(new[index], word),
                  run_time=0.75)  # fmt: skip
        self.beat(1.25)

    # --- what it comes to ---

    def squares(self) -> None:
        """Found times read, as areas of unit squares: one for each search."""
        d = self.data
        side = 3.3
        self.parts = VGroup()
        squares, names, numbers, widths = VGroup(), VGroup(), VGroup(), VGroup()
        for (key, name), x in zip(SEARCHES, (-4.4, 0.0, 4.4)):
            score = d["scores"][key]
            square = Square(side, stroke_color=MUTED, stroke_width=2).move_to(x * RIGHT + 0.45 * UP)
            found = Rectangle(width=side * score["found"], height=side * score["if_found"])
            luck_height = max(side * score["if_not"], 1e-3)
            luck = Rectangle(width=side * (1 - score["found"]), height=luck_height)
            area = score["found"] * score["if_found"] + (1 - score["found"]) * score["if_not"]
            assert abs(area - score["right"]) < 1e-4
            for part, edge in ((found, LEFT), (luck, RIGHT)):
                part.set_stroke(width=0).set_fill(MODEL, 1)
                part.move_to(square.get_corner(DOWN + edge), aligned_edge=DOWN + edge)
            squares.add(square)
            self.parts.add(VGroup(found, luck))
            names.add(text(f"search by {name}", 32, INK).next_to(square, UP, buff=0.2))
            inside = text(f"{score['right']:.1%}", 38, BACKGROUND, bold=True).move_to(found)
            numbers.add(inside)
            label = text(f"found {score['found']:.1%}", 32, INPUT)
            widths.add(label.next_to(square, DOWN, buff=0.2))
        self.play(FadeIn(squares), FadeIn(names), run_time=0.25)
        self.say(f"{d['num_test']} test questions. Width: found. Area: answered right.",
                 run_time=0.25)  # fmt: skip
        self.play(
            LaggedStart(*[GrowFromEdge(p[0], LEFT) for p in self.parts], lag_ratio=0.3),
            LaggedStart(*[FadeIn(w) for w in widths], lag_ratio=0.3),
            run_time=1.0,
        )
        self.play(FadeIn(numbers), *[FadeIn(p[1]) for p in self.parts], run_time=0.5)
        self.beat(1.25)
        self.widths, self.names = widths, names

    def answer(self) -> None:
        """The product, and its limits."""
        d = self.data
        score = d["scores"]["both, fused"]
        self.say(f"From a wrong passage it says that passage's fact in "
                 f"{d['copied_when_wrong']:.1%} of cases.")  # fmt: skip
        self.beat(2.0)
        frame = SurroundingRectangle(
            VGroup(self.parts[-1], self.widths[-1], self.names[-1]), color=LIMIT, buff=0.14
        )
        self.play(Create(frame), run_time=0.5)
        self.say(f"From the passage: found {score['found']:.3f} × read {score['if_found']:.3f} = "
                 f"{score['right']:.3f}. Without it: {d['closed_book']:.3f}.")  # fmt: skip
        self.beat(2.5)
