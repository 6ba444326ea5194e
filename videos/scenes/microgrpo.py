"""Is a reward of 2 good? Compared with what?"""

from __future__ import annotations

import numpy as np
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
    Create,
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    Transform,
    TransformFromCopy,
    linear,
)
from parts import Axes2, RowBars, tile


def signed(value: float) -> str:
    """A whole number with its sign; a minus is as wide as a plus."""
    return f"{value:+.0f}".replace("-", "\u2212")


def two_lines(words: str) -> str:
    """A prompt broken in its middle."""
    first, last = words.split()[:2], words.split()[2:]
    return " ".join(first) + "\n" + " ".join(last)


def color_of(check: float) -> str:
    """Green for an answer that obeys its prompt, red for one that does not."""
    return LIMIT if check else WRONG


class Film(MicroScene):
    """One group of answers, then a whole step, then two trainings."""

    script = "microgrpo"

    @property
    def question(self) -> str:
        """The reward is that of a wrong answer to the first prompt that is shown."""
        return f"Is a reward of {self.data['rewards'][self.group.start]:.0f} good? \
Compared with what?"

    @property
    def group(self) -> slice:
        """Where the answers of the group stand that is looked at closely."""
        which, size = self.data["group"]["which"], self.data["size"]
        return slice(which * size, (which + 1) * size)

    def story(self) -> None:
        self.the_problem()
        self.one_group()
        self.one_step()
        self.race()
        self.silent_groups()
        self.clear_stage()
        self.answer()

    def the_problem(self) -> None:
        """A wrong answer that earns more than a right one."""
        d = self.data
        self.ask()
        first = self.group.start
        parts = []
        for i, x in ((first, -3.4), (first + d["size"], 3.4)):
            prompt = text(f"“{d['prompts'][i // d['size']]}”", 36, INPUT)
            color = color_of(d["checks"][i])
            name = tile(d["names"][i], color, 44, 1.0)
            verdict = text("right" if d["checks"][i] else "wrong", 34, color)
            reward = text(f"reward {signed(d['rewards'][i])}", 44, INK, bold=True)
            column = zip((prompt, name, verdict, reward), (2.1, 0.85, -0.2, -1.5))
            parts.append([part.move_to(np.array([x, y, 0.0])) for part, y in column])
        wrong, right = parts
        self.settle(FadeIn(wrong[0], shift=0.2 * UP), FadeIn(right[0], shift=0.2 * UP))
        self.play(TransformFromCopy(wrong[0], wrong[1]), TransformFromCopy(right[0], right[1]))
        self.play(*[FadeIn(part) for column in parts for part in column[2:3]])
        self.play(*[FadeIn(part, shift=0.2 * DOWN) for column in parts for part in column[3:]])
        self.say("Every prompt has a grader of its own: one is mild, one is strict.")
        self.beat(2.0)
        self.clear_stage()

    def one_group(self) -> None:
        """Eight answers, their mean, one advantage; then a constant is added to all."""
        d, g = self.data, self.data["group"]
        names, checks = d["names"][self.group], d["checks"][self.group]
        offset = d["offsets"][g["which"]]
        unit, ground, first = 1.05, -1.5, -5.0

        def at(i: float, reward: float) -> np.ndarray:
            return np.array([first + 1.58 * i, ground + unit * reward, 0.0])

        top = round(offset) + 1
        rules = VGroup(
            *[Line(at(-0.6, r), at(7.4, r), color=FAINT).set_stroke(width=1.5) for r in
              range(top + 1)]
        )  # fmt: skip
        ticks = VGroup(*[text(str(r), 30, MUTED).move_to(at(-0.9, r)) for r in range(top + 1)])
        written = VGroup(
            *[text(name, 26, color_of(c)).move_to(at(i, 0) + 0.6 * DOWN) for i, (name, c) in
              enumerate(zip(names, checks))]
        )  # fmt: skip
        dots = VGroup(
            *[Dot(at(i, c), radius=0.13, color=color_of(c)) for i, c in enumerate(checks)]
        )
        for name, word in zip(names, written):
            flat = next(i for i, letter in enumerate(name) if letter not in "gjpqy")
            word.shift((ground - 0.72 - word[flat].get_bottom()[1]) * UP)  # on one ground line
        self.say(f"“{d['prompts'][g['which']]}”: the policy gives {d['size']} answers.")
        self.play(LaggedStart(*[FadeIn(w, shift=0.2 * UP) for w in written], lag_ratio=0.1))
        self.say("A program checks them: 1 for right, 0 for wrong.")
        self.play(
            FadeIn(rules), FadeIn(ticks),
            LaggedStart(*[TransformFromCopy(w, dot) for w, dot in zip(written, dots)],
                        lag_ratio=0.1), run_time=1.5,
        )  # fmt: skip
        self.beat(1.0)
        mean = Line(at(-0.6, g["mean"]), at(7.4, g["mean"]), color=MODEL).set_stroke(width=5)
        stems = VGroup(
            *[Line(at(i, g["mean"]), at(i, c), color=MODEL).set_stroke(width=7) for i, c in
              enumerate(checks)]
        )  # fmt: skip
        best = max(range(d["size"]), key=lambda i: g["above"][i])
        formula = self.advantage(checks[best], g["mean"], best)
        self.say("The group's mean is the baseline: what was to be expected here.")
        self.play(ReplacementTransform(VGroup(*[dot.copy() for dot in dots]), mean))
        self.add(stems, dots)
        self.play(*[Create(stem) for stem in stems], run_time=0.7)
        self.beat(1.0)
        self.say("How far above it, in standard deviations, is the answer's advantage.")
        self.play(TransformFromCopy(stems[best], formula))
        self.beat(2.0)
        self.say(f"Now a mild grader adds {offset:.0f} to every answer, right or wrong.")
        assert g["advantages"] == g["advantages_shifted"]
        shifted = self.advantage(checks[best] + offset, g["mean"] + offset, best)
        rise = unit * offset * UP
        self.play(
            *[part.animate.shift(rise) for part in (mean, *stems, *dots)],
            Transform(formula, shifted),
            run_time=1.5,
        )
        self.beat(1.0)
        self.say("The mean rises too. Every advantage stays what it was.")
        self.beat(1.5)
        self.clear_stage()

    def advantage(self, reward: float, mean: float, which: int) -> VGroup:
        """(reward - mean) / standard deviation, in numbers."""
        g = self.data["group"]
        name = self.data["names"][self.group][which]
        words = f"{name}:  ({reward:.0f} \u2212 {mean:.3f}) / {g['spread']:.3f}"
        return text(f"{words} = {g['advantages'][which]:+.2f}", 38, MODEL).move_to(2.4 * UP)

    def one_step(self) -> None:
        """All answers of the first step: the batch's mean, then each group's own."""
        d = self.data
        size, unit, zero = d["size"], 0.69, 0.0
        num = len(d["prompts"])

        def x_of(i: int) -> float:
            return -4.6 + 3.2 * (i // size) + 0.33 * (i % size - (size - 1) / 2)

        def at(i: int, reward: float) -> np.ndarray:
            return np.array([x_of(i) + 0.15, zero + unit * reward, 0.0])

        def line(low: int, high: int, value: float, color: str) -> Line:
            ends = at(low, value) + 0.25 * LEFT, at(high, value) + 0.25 * RIGHT
            return Line(*ends, color=color).set_stroke(width=5)

        prompts, adds = VGroup(), VGroup()
        for j, (prompt, offset) in enumerate(zip(d["prompts"], d["offsets"])):
            middle = (at(j * size, 0) + at((j + 1) * size - 1, 0))[0] / 2 * RIGHT
            prompts.add(text(two_lines(prompt), 32, INPUT).move_to(middle + 2.25 * DOWN))
            adds.add(text(signed(offset), 40, INK, bold=True).move_to(middle + 2.65 * UP))
        dots = VGroup(
            *[Dot(at(i, c), radius=0.11, color=color_of(c)) for i, c in enumerate(d["checks"])]
        )
        ends = at(0, 0)[0] - 0.35, at(num * size - 1, 0)[0] + 0.35
        rules = VGroup()
        for r in range(round(min(d["rewards"])), round(max(d["rewards"])) + 1):
            place = zero + unit * r
            rules.add(
                Line([ends[0], place, 0], [ends[1], place, 0], color=FAINT).set_stroke(width=1.5),
                text(signed(r) if r else "0", 30, MUTED).move_to([ends[0] - 0.35, place, 0]),
            )
        self.add(rules, prompts, dots)
        self.say("One step: green answers are right, red ones are wrong.", run_time=0.25)
        with self.preview():
            self.beat(1.0)
            self.say("Each prompt's grader adds a number of its own.", run_time=0.25)
            self.play(FadeIn(adds, shift=0.2 * DOWN), run_time=0.25)
            self.play(
                *[
                    dot.animate.move_to(at(i, r))
                    for i, (dot, r) in enumerate(zip(dots, d["rewards"]))
                ],
                run_time=0.75,
            )
            batch = line(0, num * size - 1, d["mean"], RIVAL)
            stems = VGroup(
                *[Line(at(i, d["mean"]), at(i, r), color=RIVAL).set_stroke(width=5) for i, r in
                  enumerate(d["rewards"])]
            )  # fmt: skip
            self.play(Create(batch), run_time=0.25)
            self.add(stems, dots)
            self.play(*[Create(stem) for stem in stems], run_time=0.5)
            up, down = d["wrong_way"]["batch"]
            self.say(
                f"Batch mean: {up} wrong answers go up, {down} right ones down.", run_time=0.25
            )
            self.beat(1.5)
            moves = []
            for i, (stem, r) in enumerate(zip(stems, d["rewards"])):
                goal = Line(at(i, d["means"][i // size]), at(i, r), color=MODEL).set_stroke(width=5)
                moves.append(Transform(stem, goal))
            own = [
                line(j * size, (j + 1) * size - 1, mean, MODEL) for j, mean in enumerate(d["means"])
            ]
            parts = [line(j * size, (j + 1) * size - 1, d["mean"], RIVAL) for j in range(num)]
            self.remove(batch)
            self.add(*parts, dots)
            self.play(*moves, *[Transform(p, o) for p, o in zip(parts, own)], run_time=0.75)
            assert d["wrong_way"]["group"] == [0, 0]
            self.say("Group means: no answer is pushed the wrong way.", run_time=0.25)
            self.beat(1.5)
        self.clear_stage(run_time=0.25)

    def race(self) -> None:
        """The share of right answers in each step of two trainings."""
        shares = self.data["shares"]
        num = len(shares["group"])
        self.axes = axes = Axes2((0.5, num + 0.5), (0, 1), 8.6, 3.1, "", "", 30)
        axes.move_to(0.6 * LEFT).align_to(2.5 * UP, UP)
        marks = VGroup(
            *[text(f"{v:.0%}", 30, MUTED).next_to(axes.at(0.5, v), LEFT, buff=0.2) for v in (0, 1)]
        )
        self.below = text(f"step 1 to {num}", 30, MUTED).next_to(axes.across, DOWN, buff=0.2)
        self.add(axes, marks, self.below)
        curves, names = [], []
        for key, color in (("batch", RIVAL), ("group", MODEL)):
            points = list(enumerate(shares[key], start=1))
            curves.append(axes.curve(points, color, 6))
            end = axes.at(num + 0.5, shares[key][-1])
            names.append(text(f"{key} mean", 34, color).next_to(end, RIGHT, buff=0.1))
        self.say("Right answers in each step, with graders who differ.", run_time=0.25)
        self.play(*[Create(c) for c in curves], run_time=1.75, rate_func=linear)
        self.play(*[FadeIn(name) for name in names], run_time=0.25)
        self.beat(1.0)

    def silent_groups(self) -> None:
        """Which groups agreed, step by step: their advantages are all zero."""
        d = self.data
        side = self.axes.w / len(d["silent"])
        cells, moves = VGroup(), []
        for i, row in enumerate(d["silent"], start=1):
            for j, silent in enumerate(row):
                cell = Rectangle(
                    width=0.85 * side, height=0.34, stroke_color=FAINT, stroke_width=1.5,
                    fill_color=BACKGROUND if silent else MODEL, fill_opacity=1,
                )  # fmt: skip
                foot = self.axes.at(i, 0)
                cells.add(cell.move_to(foot + (0.75 + 0.42 * j) * DOWN))
            moves.append(FadeIn(VGroup(*cells[-len(row) :])))
        cells.shift(0.15 * UP)
        label = text(f"{len(d['prompts'])} groups\na step", 30, MUTED)
        label.next_to(cells, LEFT, buff=0.2)
        self.say("A group whose answers are all right, or all wrong, has no advantages.")
        self.play(FadeOut(self.below), FadeIn(label), run_time=0.5)
        self.play(LaggedStart(*moves, lag_ratio=0.5), run_time=2.5)
        self.say(f"With the group mean, {d['silent_share']:.0%} of the groups teach nothing: dark.")
        self.beat(2.0)

    def answer(self) -> None:
        """How many answers are right after training."""
        d, a = self.data, self.data["accuracy"]
        rows = RowBars(
            [
                ("before", a["ref"], MUTED),
                ("batch mean, graders agree", a["batch_agree"], RIVAL),
                ("batch mean, graders differ", a["batch"], RIVAL),
                ("group mean, either way", a["group"], MODEL),
            ],
            length=5.2,
            size=36,
            thickness=0.6,
            gap=0.45,
            form="{:.1%}",
            most=1.0,
        ).move_to(0.2 * UP)
        self.say("After training: how many answers are right?", run_time=0.25)
        self.play(FadeIn(rows.names), run_time=0.25)
        with self.preview():
            self.play(
                LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
                run_time=1.0,
            )
            self.play(FadeIn(rows.numbers), run_time=0.25)
            assert d["weight_difference"] == 0.0
            self.say("Compare it with its own group: then the graders' constants cancel.",
                     run_time=0.25)  # fmt: skip
            self.beat(2.5)
