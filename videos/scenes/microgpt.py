"""Can 4,192 numbers beat a table that remembers everything?"""

from __future__ import annotations

from base import (
    DOWN,
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
    Create,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    ReplacementTransform,
    SurroundingRectangle,
    TransformFromCopy,
)
from parts import Bars, RowBars, Strip, tile


class Film(MicroScene):
    """One new name is read: by a table that never met its letters, and by a GPT as it learns."""

    script = "microgpt"

    @property
    def question(self) -> str:
        """The number is the trace's."""
        return f"Can {self.data['num_numbers']:,} numbers beat a table that remembers everything?"

    def story(self) -> None:
        d = self.data
        self.the_problem()
        self.vectors()
        self.one_score()
        self.four_heads()
        with self.preview():
            self.learning()
        self.clear_stage()
        with self.preview():
            self.answer()
        assert abs(sum(d["snapshots"][-1]["probabilities"]) - 1) < 1e-4

    def the_problem(self) -> None:
        """A new name, and the table that has no row for it."""
        d = self.data
        self.ask()
        self.tiles = VGroup(*[tile(letter) for letter in d["history"]]).arrange(RIGHT, buff=0.2)
        self.blank = tile("?", MODEL)
        row = VGroup(*self.tiles, self.blank).arrange(RIGHT, buff=0.2).move_to(1.6 * UP)
        self.settle(LaggedStart(*[FadeIn(t, shift=0.2 * UP) for t in row], lag_ratio=0.15))
        self.say(f"A name that neither has seen, after learning from {d['num_train']:,} others.")
        self.beat(1.5)
        context = "".join(d["history"][1:])
        asked = text(f"after “{context}”", 36, RIVAL).move_to(0.1 * UP + 2.6 * LEFT)
        empty = text(f"met {d['met']} times", 36, RIVAL, bold=True).move_to(0.1 * UP + 2.4 * RIGHT)
        stored = text(f"the table: {d['num_counts']:,} counts", 34, RIVAL).move_to(1.0 * DOWN)
        last_four = VGroup(*self.tiles[1:])
        self.play(FadeIn(stored), TransformFromCopy(last_four, asked))
        self.play(FadeIn(empty, shift=0.2 * RIGHT))
        self.say("The table must meet each context itself. Here it has only shorter ones to go by.")
        self.beat(2.0)
        self.play(FadeOut(asked), FadeOut(empty), FadeOut(stored))

    def vectors(self) -> None:
        """The last letter becomes what it is plus where it stands."""
        d = self.data
        largest = max(map(abs, d["token"] + d["position"]))
        token = Strip(d["token"], 0.42, largest).move_to(0.3 * UP + 0.6 * RIGHT)
        place = Strip(d["position"], 0.42, largest).next_to(token, DOWN, buff=0.5)
        total = Strip([a + b for a, b in zip(d["token"], d["position"])], 0.42, largest)
        total.next_to(place, DOWN, buff=0.5)
        last = self.tiles[-1]
        names = [
            text(f"“{d['history'][-1]}”", 30, INPUT).next_to(token, LEFT, buff=0.35),
            text(f"place {len(d['history'])}", 30, INPUT).next_to(place, LEFT, buff=0.35),
            text("their sum", 30, MODEL).next_to(total, LEFT, buff=0.35),
        ]
        self.say("The GPT turns a letter into a vector: what it is, plus where it stands.")
        self.play(TransformFromCopy(last, token), FadeIn(names[0]))
        self.play(FadeIn(place), FadeIn(names[1]))
        self.play(ReplacementTransform(VGroup(token.copy(), place.copy()), total), FadeIn(names[2]))
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (token, place, total, *names)])

    def one_score(self) -> None:
        """One dot product, number by number."""
        d = self.data
        which = 1
        self.say("Attention: the last letter's query meets an earlier letter's key.")
        query = [f"{x:+.2f}" for x in d["q"]]
        key = [f"{x:+.2f}" for x in d["k"][which]]
        product = [f"{x:+.2f}" for x in d["products"]]
        columns = [(i - 1.5) * 1.7 * RIGHT + 0.5 * RIGHT for i in range(len(query))]
        rows = []
        for entries, y, color in ((query, 0.5, MODEL), (key, -0.25, INPUT), (product, -1.1, INK)):
            rows.append(
                VGroup(*[text(e, 32, color, mono=True).move_to(c + y * UP) for e, c in
                         zip(entries, columns)])
            )  # fmt: skip
        labels = [
            text(f"query “{d['history'][-1]}”", 30, MODEL).move_to(4.6 * LEFT + 0.5 * UP),
            text(f"key “{d['history'][which]}”", 30, INPUT).move_to(4.6 * LEFT + 0.25 * DOWN),
            text("products", 30, MUTED).move_to(4.6 * LEFT + 1.1 * DOWN),
        ]
        rule = (
            Line(3.0 * LEFT, 4.2 * RIGHT, color=MUTED)
            .set_stroke(width=2)
            .move_to(0.5 * RIGHT + 0.68 * DOWN)
        )
        self.play(TransformFromCopy(self.tiles[-1], rows[0]), FadeIn(labels[0]))
        self.play(TransformFromCopy(self.tiles[which], rows[1]), FadeIn(labels[1]))
        self.play(Create(rule), FadeIn(labels[2]))
        self.play(
            LaggedStart(*[TransformFromCopy(VGroup(q, k), p) for q, k, p in zip(*rows)],
                        lag_ratio=0.4), run_time=2,
        )  # fmt: skip
        root = len(d["q"]) ** 0.5
        score = text(
            f"sum {d['sum']:.2f}, divided by √{len(d['q'])} = {root:.0f}:"
            f"  score {d['score']:.2f}",
            34, MODEL,
        ).move_to(2.0 * DOWN)  # fmt: skip
        self.play(TransformFromCopy(rows[2], score))
        self.beat(2.0)
        self.play(*[FadeOut(m) for m in (*rows, *labels, rule, score)])

    def four_heads(self) -> None:
        """A softmax of five scores is a set of weights; four heads have four of them."""
        d = self.data
        self.say("The scores become weights that sum to 1. Four heads look in four ways.")
        charts, names = VGroup(), VGroup()
        for head, weights in enumerate(d["weights"]):
            assert abs(sum(weights) - 1) < 1e-4
            bars = Bars(weights, d["history"], unit=3.2, width=0.34, gap=0.12, color=INPUT, size=28)
            charts.add(bars)
            names.add(text(f"head {head + 1}", 28, MUTED))
        charts.arrange(RIGHT, buff=0.8, aligned_edge=DOWN).move_to(0.9 * DOWN)
        for name, chart in zip(names, charts):
            name.next_to(chart, DOWN, buff=0.2)
        self.play(
            LaggedStart(*[TransformFromCopy(self.tiles, chart) for chart in charts], lag_ratio=0.3),
            LaggedStart(*[FadeIn(name) for name in names], lag_ratio=0.3),
            run_time=2.0,
        )
        self.beat(2.0)
        self.play(FadeOut(charts), FadeOut(names))

    def learning(self) -> None:
        """The 27 bars of the next letter, from the first step of training to the last."""
        d = self.data
        letters = list(d["alphabet"])
        answer = letters.index(d["target"])
        colors = [LIMIT if i == answer else MODEL for i in range(len(letters))]
        first, last = d["snapshots"][0], d["snapshots"][-1]
        bars = Bars(
            first["probabilities"], letters, unit=5.0, width=0.3, gap=0.13, color=colors, size=30
        ).move_to(1.9 * DOWN, aligned_edge=DOWN)
        bars.align_to(2.45 * DOWN, DOWN)
        step = text(f"step {first['step']}", 36, MODEL, mono=True).move_to(1.4 * UP + 5.2 * LEFT)
        self.play(FadeIn(bars), FadeIn(step), run_time=0.6)
        self.say("What comes next? At first, all letters are about as likely.", run_time=0.3)
        self.beat(1.0)
        for snapshot in d["snapshots"][1:]:
            new = text(f"step {snapshot['step']}", 36, MODEL, mono=True)
            new.move_to(step, aligned_edge=LEFT)
            self.remove(step)
            self.add(new)
            step = new
            self.play(*bars.heights(snapshot["probabilities"]), run_time=0.25)
        mine, table = last["probabilities"][answer], d["table"][answer]
        found = tile(d["target"], LIMIT).move_to(self.blank)
        gpt = text(f"GPT: “{d['target']}” {mine:.0%}", 36, LIMIT).move_to(0.75 * UP + 3.4 * RIGHT)
        rival = text(f"table: {table:.0%}", 36, RIVAL).next_to(
            gpt, DOWN, buff=0.3, aligned_edge=LEFT
        )
        frame = SurroundingRectangle(bars.bars[answer], color=LIMIT, buff=0.06)
        self.say(f"After {last['step']} steps it expects “{d['target']}”, and is right.")
        self.play(
            ReplacementTransform(self.blank, found), FadeIn(gpt), Create(frame), run_time=0.75
        )
        self.play(FadeIn(rival), run_time=0.5)
        self.beat(1.0)

    def answer(self) -> None:
        """The averages over all held-out names."""
        nll = self.data["nll"]
        self.say("Surprise per letter of a new name, in nats: lower is better.", run_time=0.3)
        rows = RowBars(
            [
                ("bigram", nll["bigram_nll"], MUTED),
                ("best table", nll["table_nll"], RIVAL),
                ("GPT", nll["nll"], MODEL),
            ],
            length=7.0,
            size=40,
            thickness=0.6,
            form="{:.2f}",
        ).move_to(0.1 * UP)
        self.play(FadeIn(rows.names), run_time=0.3)
        self.play(
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=0.8,
        )
        self.play(FadeIn(rows.numbers), run_time=0.3)
        self.say(
            f"Yes, on new names: {nll['nll']:.2f} against {nll['table_nll']:.2f}.", run_time=0.3
        )
        self.beat(2.0)
