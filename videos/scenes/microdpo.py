"""Can losers teach what copying the winners cannot?"""

from __future__ import annotations

import random

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
    WRONG,
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Arrow,
    Create,
    DashedLine,
    Dot,
    FadeIn,
    FadeOut,
    LaggedStart,
    Line,
    ReplacementTransform,
    TransformFromCopy,
    UpdateFromAlphaFunc,
)
from parts import Axes2

ZERO, UNIT = 2.55, 1.28  # where a log-ratio of 0 is drawn, and how wide one nat is
ROWS = (1.15, -0.85)  # the winners' height, and the losers'
SIDES = (INPUT, WRONG)


class Film(MicroScene):
    """One pair is pulled apart; then 256; then reward against distance."""

    script = "microdpo"
    question = "Can losers teach what copying the winners cannot?"

    def story(self) -> None:
        self.the_problem()
        self.one_pair()
        self.say(
            f"All pairs pull on one model. What becomes of {self.data['num_held_out']} new pairs?"
        )
        with self.preview():
            self.all_pairs()
        self.names()
        self.clear_stage()
        self.say("How much reward, and how far from the start?")
        with self.preview():
            self.plane()

    # --- the pairs ---

    def soft(self, letters: VGroup) -> list:
        """Animations that colour the letters which the person likes."""
        return [
            shape.animate.set_fill(LIMIT if letter in self.data["soft"] else MUTED)
            for letter, shape in zip(letters.words, letters)
        ]

    def the_problem(self) -> None:
        """Four pairs as a person judged them, and her taste."""
        d = self.data
        self.ask()
        won, lost, marks = VGroup(), VGroup(), VGroup()
        for i, ((winner, _), (loser, _)) in enumerate(d["examples"]):
            y = (2.1 - 1.15 * i) * UP
            won.add(text(winner, 52, INPUT).move_to(y + 2.6 * LEFT))
            lost.add(text(loser, 52, WRONG).move_to(y + 2.6 * RIGHT))
            marks.add(text("beats", 32, MUTED).move_to(y))
        rows = [VGroup(*row) for row in zip(won, marks, lost)]
        self.settle(LaggedStart(*[FadeIn(r, shift=0.2 * UP) for r in rows], lag_ratio=0.3))
        self.say(
            f"A model wrote {d['num_pairs']} pairs. A person said which name she likes better."
        )
        self.beat(1.5)
        points = VGroup()
        for words, example in zip(zip(won, lost), d["examples"]):
            for name, (_, reward), side in zip(words, example, (LEFT, RIGHT)):
                points.add(text(f"{reward:.1f}", 36, LIMIT).next_to(name, side, buff=0.5))
        self.say("Training never sees why: she likes soft letters, but not repeats.")
        self.play(
            *[a for words in (*won, *lost) for a in self.soft(words)],
            FadeIn(points),
            run_time=0.8,
        )
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (*won[1:], *lost[1:], marks, points)], run_time=0.5)
        self.pair = VGroup(won[0], lost[0])

    def at(self, ratio: float, y: float) -> object:
        """Where a log-ratio is drawn."""
        return (ZERO + UNIT * ratio) * RIGHT + y * UP

    def axis(self) -> VGroup:
        """The line of log-ratios: 0 is as likely as at the start."""
        low, high = -6.0, 2.6
        zero = DashedLine(self.at(0, -1.9), self.at(0, 2.2), color=MUTED).set_stroke(width=2)
        line = Line(self.at(low, -1.9), self.at(high, -1.9), color=MUTED).set_stroke(width=2)
        return VGroup(
            zero,
            line,
            text("as likely as at the start", 30, MUTED).next_to(zero, UP, buff=0.12),
            text("less likely", 30, MUTED).move_to(self.at(-4.0, -2.3)),
            text("likelier", 30, MUTED).move_to(self.at(1.7, -2.3)),
        )

    def pulls(self, state: dict) -> VGroup:
        """The two arrows: as long as the weight with which the pair still pulls."""
        arrows = VGroup()
        for ratio, y, sign, color in zip(state["ratios"], ROWS, (1, -1), SIDES):
            start = self.at(ratio, y) + sign * 0.16 * RIGHT
            arrows.add(
                Arrow(start, start + sign * 3.2 * state["pull"] * RIGHT, buff=0, color=color,
                      stroke_width=7, max_tip_length_to_length_ratio=0.35)
            )  # fmt: skip
        return arrows

    def one_pair(self) -> None:
        """One pair, number by number, and then the whole training of it."""
        d = self.data
        first, then, last = d["single"][0], d["single"][2], d["single"][-1]
        assert first["pull"] > then["pull"] > last["pull"]
        self.line = self.axis()
        labels = VGroup(
            *[
                text(name, 40, color).move_to(6.5 * LEFT + y * UP, aligned_edge=LEFT)
                for (name, _), y, color in zip(d["pair"], ROWS, SIDES)
            ]
        )
        dots = VGroup(*[Dot(self.at(0, y), 0.13, color=c) for y, c in zip(ROWS, SIDES)])
        arrows = self.pulls(first)
        self.say("DPO pulls each pair apart: the winner should gain more than the loser.")
        self.play(
            *[ReplacementTransform(a, b) for a, b in zip(self.pair, labels)], FadeIn(self.line)
        )
        pull = text(f"pull {first['pull']:.0%}", 38, MODEL).move_to(1.0 * LEFT + 0.15 * UP)
        self.play(FadeIn(dots), FadeIn(arrows), FadeIn(pull))
        self.beat(1.5)
        self.say(f"The log-probabilities after {then['step']} steps, minus those at the start:")
        self.play(FadeOut(pull), run_time=0.3)
        sums = VGroup()
        for i, y in enumerate(ROWS):
            words = f"{then['logs'][i]:.1f} + {-first['logs'][i]:.1f} = {then['ratios'][i]:+.1f}"
            words = words.replace("-", "\u2212")
            sums.add(text(words, 34, SIDES[i]).move_to(6.5 * LEFT + (y - 0.6) * UP, LEFT))
        self.play(
            *[dot.animate.move_to(self.at(r, y)) for dot, r, y in zip(dots, then["ratios"], ROWS)],
            ReplacementTransform(arrows, arrows := self.pulls(then)),
            *[TransformFromCopy(label, s) for label, s in zip(labels, sums)],
            run_time=1.2,
        )
        self.beat(1.5)
        gap = then["ratios"][0] - then["ratios"][1]
        margin = text(
            f"margin: {d['beta']:g} × gap {gap:.1f} = {then['margin']:.1f}", 34, INK
        ).move_to(6.5 * LEFT + 0.05 * DOWN, aligned_edge=LEFT)
        pull = text(f"pull {then['pull']:.0%}", 38, MODEL).next_to(margin, RIGHT, buff=0.5)
        self.say("The larger the margin, the weaker the pull: a settled pair is let go.")
        self.play(TransformFromCopy(sums, margin))
        self.play(TransformFromCopy(margin, pull))
        self.beat(2.0)
        self.play(FadeOut(sums), FadeOut(margin), run_time=0.3)
        for state in d["single"][3:]:
            new = text(f"pull {state['pull']:.0%}", 38, MODEL).move_to(pull)
            self.remove(pull)
            self.add(new)
            pull = new
            self.play(
                *[m.animate.move_to(self.at(r, y)) for m, r, y in zip(dots, state["ratios"], ROWS)],
                ReplacementTransform(arrows, arrows := self.pulls(state)),
                run_time=0.25,
            )
        self.play(*[FadeOut(m) for m in (pull, arrows)], run_time=0.4)
        self.labels = labels
        self.pair = dots

    # --- all held-out pairs ---

    def all_pairs(self) -> None:
        """The held-out pairs while DPO trains on the others."""
        d = self.data
        rng = random.Random(0)  # spreads the dots in height, so that they can be told apart
        clouds = VGroup()
        for y, color in zip(ROWS, SIDES):
            clouds.add(
                *[
                    Dot(self.at(0, y + rng.uniform(-0.42, 0.42)), 0.045, color=color)
                    .set_fill(opacity=0.75)
                    for _ in range(d["num_held_out"])
                ]
            )  # fmt: skip
        names = [
            text(word, 40, color).move_to(6.5 * LEFT + (y + 0.7) * UP, aligned_edge=LEFT)
            for word, y, color in zip(("winners", "losers"), ROWS, SIDES)
        ]
        self.remove(*self.pair)
        self.add(self.pair)
        self.play(
            ReplacementTransform(self.pair, clouds),
            *[ReplacementTransform(a, b) for a, b in zip(self.labels, names)],
            run_time=0.5,
        )
        before = d["cloud"][0]
        for state in d["cloud"][1:]:
            old, new = [sum(s["dots"], []) for s in (before, state)]

            def move(group: VGroup, alpha: float, old: list = old, new: list = new) -> None:
                for dot, a, b in zip(group, old, new):
                    dot.set_x(ZERO + UNIT * (a + alpha * (b - a)))

            self.play(UpdateFromAlphaFunc(clouds, move), run_time=0.25)
            before = state
        marks = VGroup()
        for mean, y in zip(before["means"], ROWS):
            mark = Line(self.at(mean, y - 0.5), self.at(mean, y + 0.5), color=INK)
            number = text(f"mean {mean:.2f}".replace("-", "\u2212"), 38, INK)
            marks.add(mark.set_stroke(width=6), number.next_to(mark, UP, buff=0.08))
            number.align_to(mark.get_center() + 0.3 * RIGHT, RIGHT)
        self.say("Even the winners became less likely. The losers fell further: the gap counts.",
                 run_time=0.25)  # fmt: skip
        self.play(FadeIn(marks), run_time=0.5)
        self.beat(1.25)
        self.away = [clouds, marks, *names, self.line]

    def names(self) -> None:
        """What the model writes before and after."""
        d = self.data
        self.play(*[FadeOut(m) for m in self.away], run_time=0.5)
        self.say("The probability went to other names. Six that each model wrote:")
        heads = [
            text("at the start", 34, MUTED).move_to(3.3 * LEFT + 2.5 * UP),
            text(f"after {d['num_steps']} steps of DPO", 34, MODEL).move_to(3.3 * RIGHT + 2.5 * UP),
        ]
        heads[0].align_to(heads[1], UP)
        columns = []
        for x, side in zip((3.3 * LEFT, 3.3 * RIGHT), d["names"]):
            column = VGroup()
            for i, (name, reward) in enumerate(side):
                y = (1.75 - 0.8 * i) * UP
                word = text(name, 42, MUTED).move_to(x + y + 0.2 * LEFT, aligned_edge=RIGHT)
                bottom = max([letter.get_bottom()[1] for letter in word])  # without tails
                word.shift((y[1] - 0.15 - bottom) * UP)
                for letter, shape in zip(name, word):
                    shape.set_fill(LIMIT if letter in d["soft"] else MUTED)
                column.add(word, text(f"{reward:.1f}", 38, LIMIT).move_to(x + y + 1.0 * RIGHT))
            columns.append(column)
        self.play(FadeIn(columns[0]), FadeIn(heads[0]))
        self.play(
            *[TransformFromCopy(a, b) for a, b in zip(*columns)], FadeIn(heads[1]), run_time=1.2
        )
        self.beat(2.0)

    # --- reward against distance ---

    def plane(self) -> None:
        """What is possible at each distance, what copying reaches, and what DPO reaches."""
        d = self.data
        rows = d["table"]
        start, perfect, sft, dpo, best = rows.values()
        low, high = 5.0, 9.6
        axes = Axes2(
            (0.0, d["frontier"][-1][0]), (low, high), 8.6, 4.6,
            "distance from the start (KL)", "", 30,
        ).move_to(1.3 * LEFT + 0.1 * UP)  # fmt: skip
        up = text("reward", 30, MUTED).next_to(axes.up, UP, buff=0.12)
        floor = text(f"{low:.0f}", 30, MUTED).next_to(axes.at(0, low), LEFT, buff=0.2)
        ceiling = [(kl, reward) for kl, reward in d["frontier"] if reward <= high]
        curve = axes.curve(ceiling, LIMIT, 5)
        possible = text("the most that\nis possible", 32, LIMIT)
        possible.move_to(axes.at(0.3, 8.75))
        dots = {
            name: Dot(axes.at(row["kl"], row["reward"]), 0.14, color=color)
            for name, row, color in (
                ("start", start, INK), ("sft", sft, RIVAL), ("perfect", perfect, RIVAL),
                ("dpo", dpo, MODEL),
            )
        }  # fmt: skip
        x = axes.at(d["frontier"][-1][0], 0)[0] + 0.2
        begin = text(f"start: {start['reward']:.2f}", 34, INK)
        begin.next_to(dots["start"], RIGHT, buff=0.25).shift(0.15 * DOWN)
        self.play(*[FadeIn(m) for m in (axes, up, floor, dots["start"], begin)], run_time=0.25)
        self.play(Create(curve), FadeIn(possible), run_time=0.75)
        copied = text(f"copying: {sft['reward']:.2f}", 34, RIVAL)
        copied.next_to(dots["sft"], RIGHT, buff=0.25)
        self.say("Copying the winners, even perfectly:", run_time=0.25)
        self.play(TransformFromCopy(dots["start"], dots["sft"]), FadeIn(copied), run_time=0.5)
        wall = DashedLine(
            axes.at(perfect["kl"], perfect["reward"]),
            x * RIGHT + axes.at(0, perfect["reward"])[1] * UP, color=RIVAL,
        )  # fmt: skip
        copy = text(f"perfect copy:\n{perfect['reward']:.2f}", 34, RIVAL)
        copy.next_to(wall, RIGHT, buff=0.2)
        self.play(
            TransformFromCopy(dots["sft"], dots["perfect"]), Create(wall), FadeIn(copy),
            run_time=0.75,
        )  # fmt: skip
        self.say("DPO, from the same pairs:", run_time=0.25)
        reached = text(f"DPO: {dpo['reward']:.2f}", 38, MODEL, bold=True)
        reached.next_to(dots["dpo"], RIGHT, buff=0.2).shift(0.1 * UP)
        self.play(TransformFromCopy(dots["start"], dots["dpo"]), run_time=1.0)
        top = axes.at(dpo["kl"], dpo["frontier"])
        gap = DashedLine(dots["dpo"].get_top(), top, color=LIMIT)
        most = text(f"{dpo['frontier']:.2f}", 34, LIMIT).next_to(top, UP, buff=0.2)
        self.play(FadeIn(reached), Create(gap), FadeIn(most), run_time=0.5)
        self.say(
            f"Yes: more than a perfect copy, "
            f"{d['share']:.0%} of the gain possible at that distance.",
            run_time=0.25,
        )
        assert dpo["reward"] > perfect["reward"] > sft["reward"]
        assert best["kl"] > dpo["kl"]
        self.beat(2.0)
