"""Who decides what counts as the same?"""

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
    Dot,
    FadeIn,
    FadeOut,
    GrowArrow,
    GrowFromEdge,
    LaggedStart,
    Line,
    ReplacementTransform,
    TransformFromCopy,
)
from parts import RowBars, tile

SAME_X, UNIT = -4.45, 7.1  # where cosine 1 stands; a cosine smaller by 1 is 7.1 to the right
TOP, LANE = 2.1, 0.84  # the first named name; the next is 0.84 lower
AXIS_Y = -2.05
FORCE = 3.0  # a force of 1 is 3 long


def x(cosine: float) -> float:
    """Where a name with this cosine stands."""
    return SAME_X + (1.0 - cosine) * UNIT


class Film(MicroScene):
    """Names stand as far from one name as their cosines say, while an encoder learns."""

    script = "microembedding"
    question = "Who decides what counts as the same?"

    def story(self) -> None:
        self.letters()
        self.pairs("sound", "An encoder learns from pairs. These say: alike in sound is the same.")
        self.forces()
        self.start_again()
        with self.preview():
            self.learning()
        self.say("Now the same pairs and the same start, but nobody is pushed away.")
        self.play(*self.to(self.data["collapsed"][0]["cosines"]), run_time=1.0)
        with self.preview():
            self.collapse()
        self.clear_stage()
        self.pairs("slips", "A third encoder: the same names, but pairs with typing slips.")
        self.say("The score: 1 if the other spelling is always first, 1/2 if always second.")
        with self.preview():
            self.answer()
        self.caveat()

    # --- the picture: nearer to the left is more alike ---

    def axis(self) -> VGroup:
        """Cosines from 1 on the left."""
        line = Line(SAME_X * RIGHT, x(-0.5) * RIGHT).set_stroke(MUTED, 2).shift(AXIS_Y * UP)
        same = Line(AXIS_Y * UP, (TOP + 0.5) * UP).set_stroke(INPUT, 4).shift(SAME_X * RIGHT)
        marks = VGroup()
        for value in (1.0, 0.5, 0.0):
            words = "cosine 1" if value == 1.0 else f"{value:g}"
            place = x(value) * RIGHT + AXIS_Y * UP
            marks.add(Line(place, place + 0.1 * DOWN).set_stroke(MUTED, 2))
            marks.add(text(words, 30, MUTED).move_to(place + 0.4 * DOWN))
        return VGroup(line, same, marks)

    def named(self, cosines: list[float]) -> list:
        """The partner and its rivals, each in a lane of its own, and a dot for each stranger."""
        d = self.data
        names = [d["partner"], *d["neighbours"]]
        result = []
        for i, (name, cosine) in enumerate(zip(names, cosines)):
            color = LIMIT if i == 0 else INPUT
            place = x(cosine) * RIGHT + (TOP - i * LANE) * UP
            dot = Dot(place, radius=0.13, color=color)
            label = text(name, 34, color, bold=i == 0).next_to(dot, RIGHT, buff=0.18)
            result.append(VGroup(dot, label))
        between = random.Random(0)  # where the dots stand between the lanes says nothing
        for i, cosine in enumerate(cosines[len(names) :]):
            y = TOP - LANE * (0.5 + i % len(names)) + between.uniform(-0.12, 0.12)
            result.append(VGroup(Dot(x(cosine) * RIGHT + y * UP, 0.06, color=MUTED)))
        return result

    def to(self, cosines: list[float]) -> list:
        """Animations that take every name to its new cosine."""
        return [
            group.animate.shift((x(cosine) - group[0].get_x()) * RIGHT)
            for group, cosine in zip(self.names, cosines)
        ]

    # --- the story ---

    def letters(self) -> None:
        """Without training: names with letter groups in common are near."""
        d = self.data
        self.ask()
        self.query = tile(d["query"], INPUT, 34, 0.75).move_to(5.8 * LEFT + 0.3 * UP)
        self.frame = self.axis()
        self.settle(FadeIn(self.query), Create(self.frame))
        self.names = self.named(d["group_cosines"])
        self.say("How near are other names, if only letters are compared, in twos and threes?")
        self.play(
            LaggedStart(
                *[TransformFromCopy(self.query, group) for group in self.names[:5]], lag_ratio=0.2
            ),
            LaggedStart(*[FadeIn(group) for group in self.names[5:]], lag_ratio=0.02),
            run_time=1.8,
        )
        self.beat(2.0)
        self.say(
            f"“{d['partner']}” is the same name, yet only {d['group_rank']}th"
            f" among {d['gallery']:,}. Who is to say so?"
        )
        self.beat(2.0)
        self.clear_stage()

    def pairs(self, which: str, caption: str) -> None:
        """Pairs of the first batch."""
        rows = VGroup()
        for name, partner in self.data[which]:
            left = tile(name, INPUT, 38, 0.85).move_to(2.6 * LEFT)
            right = tile(partner, LIMIT if which == "sound" else WRONG, 38, 0.85)
            right.move_to(2.6 * RIGHT)
            link = Line(left.get_right(), right.get_left()).set_stroke(MUTED, 3)
            rows.add(VGroup(left, link, right))
        rows.arrange(DOWN, buff=0.35).move_to(0.1 * UP)
        for row in rows:
            row.shift(-row[1].get_x() * RIGHT)
        self.say(caption)
        self.play(LaggedStart(*[FadeIn(row[0]) for row in rows], lag_ratio=0.25), run_time=0.8)
        self.play(
            LaggedStart(*[Create(row[1]) for row in rows], lag_ratio=0.25),
            LaggedStart(*[TransformFromCopy(row[0], row[2]) for row in rows], lag_ratio=0.25),
            run_time=1.2,
        )
        self.beat(1.75)
        self.pair = rows[0]
        gone = list(rows[1:]) if which == "sound" else list(rows)
        self.play(*[FadeOut(row) for row in gone], run_time=0.4)

    def forces(self) -> None:
        """One anchor in the first batch: what pulls and what pushes."""
        d, batch = self.data, self.data["batch"]
        name, link, partner = self.pair
        cosines, shares = batch["cosines"], batch["shares"]
        assert abs(sum(shares) - 1) < 1e-4 and abs(batch["pull"] - sum(shares[1:])) < 1e-4
        spread = random.Random(1)
        count = len(cosines) - 1  # half of them above the partner, half below
        lanes = [1.15 + 1.2 * i / (count // 2) for i in range(count // 2)]
        lanes += [-0.55 - 1.4 * i / (count // 2) for i in range(count - len(lanes))]
        spread.shuffle(lanes)
        mine = x(cosines[0]) * RIGHT + 0.35 * UP
        others = VGroup(
            *[
                Dot(x(c) * RIGHT + y * UP, radius=0.07, color=INPUT)
                for c, y in zip(cosines[1:], lanes)
            ]
        )
        dot = Dot(mine, radius=0.13, color=LIMIT)
        words = text(d["sound"][0][1], 34, LIMIT, bold=True).next_to(dot, UP, buff=0.12)
        self.say(f"A batch has {len(cosines)} pairs. At first, another is nearer than the partner.")
        self.frame = self.axis()
        self.play(
            name.animate.scale(0.9).move_to(5.8 * LEFT + 0.35 * UP), FadeOut(link),
            FadeIn(self.frame), ReplacementTransform(partner, VGroup(dot, words)),
            LaggedStart(*[FadeIn(other) for other in others], lag_ratio=0.01), run_time=1.5,
        )  # fmt: skip
        self.beat(1.5)
        self.say(
            f"Cosine {cosines[0]:.2f}, divided by {batch['temperature']}, in a softmax:"
            f" a share of {shares[0]:.2f}. It should be 1."
        )
        self.beat(2.0)
        pull = Arrow(
            mine, mine + FORCE * batch["pull"] * LEFT, buff=0, color=LIMIT, stroke_width=7,
            tip_length=0.25,
        )  # fmt: skip
        pulled = text(f"pull {batch['pull']:.2f}", 34, LIMIT).next_to(pull, DOWN, buff=0.15)
        pushes = VGroup(
            *[
                Line(x(c) * RIGHT + y * UP, (x(c) + FORCE * s) * RIGHT + y * UP).set_stroke(
                    WRONG, 6
                )
                for c, s, y in zip(cosines[1:], shares[1:], lanes)
            ]
        )
        pushed = text(f"all pushes: {batch['pushes']:.2f}", 34, WRONG)
        pushed.move_to(4.9 * RIGHT + 0.35 * UP)
        self.say("So it is pulled, and all others are pushed, each by its own share.")
        self.play(GrowArrow(pull), FadeIn(pulled), run_time=0.8)
        self.play(
            LaggedStart(*[Create(push) for push in pushes], lag_ratio=0.02), FadeIn(pushed),
            run_time=1.2,
        )  # fmt: skip
        self.beat(2.0)
        gone = [name, dot, words, others, pull, pulled, pushes, pushed]
        self.play(*[FadeOut(m) for m in gone], run_time=0.5)

    def start_again(self) -> None:
        """The test name, which is in no pair, before training."""
        d = self.data
        self.query = tile(d["query"], INPUT, 34, 0.75).move_to(5.8 * LEFT + 0.3 * UP)
        self.names = self.named(d["learned"][0]["cosines"])
        self.step = self.counter(d["learned"][0]["step"])
        self.say(f"“{d['query']}” and “{d['partner']}” are in none of the pairs.")
        self.play(FadeIn(self.query), *[FadeIn(group) for group in self.names], FadeIn(self.step))

    def counter(self, step: int) -> object:
        """Which step of training."""
        return text(f"step {step}", 36, MODEL, mono=True).move_to(5.5 * RIGHT + 2.6 * UP)

    def play_steps(self, snapshots: list[dict], run_time: float) -> None:
        """The names move as they do in training."""
        for snapshot in snapshots:
            self.remove(self.step)
            self.step = self.counter(snapshot["step"])
            self.add(self.step)
            self.play(*self.to(snapshot["cosines"]), run_time=run_time)

    def learning(self) -> None:
        """Pairs by sound, with pushes."""
        d = self.data
        self.beat(1.0)
        self.play_steps(d["learned"][1:], 0.25)
        self.say(f"The other spelling has come near: “{d['partner']}” is now first.", run_time=0.25)
        assert d["rank"] == 1
        self.beat(1.0)

    def collapse(self) -> None:
        """Only the pull."""
        d = self.data
        self.play_steps(d["collapsed"], 1 / 6)
        self.say(
            f"Pull without push: strangers end at cosine {d['run']['collapsed_cosine']:.2f}.",
            run_time=0.25,
        )
        self.beat(1.0)

    def answer(self) -> None:
        """The averages."""
        d, run = self.data, self.data["run"]
        rows = RowBars(
            [
                ("letters, no training", run["ngram_mrr"], RIVAL),
                ("pairs by sound", run["trained_mrr"], MODEL),
                ("pairs with slips", run["typo_mrr"], MODEL),
                ("by sound, no pushes", run["collapsed_mrr"], WRONG),
                ("the rules by hand", run["rules_mrr"], MUTED),
            ],
            length=5.4, size=38, thickness=0.56, gap=0.3, form="{:.2f}",
        ).move_to(0.35 * DOWN)  # fmt: skip
        title = text(
            f"{d['num_test']} names look for their other spelling among {d['gallery']:,}", 34, MUTED
        ).move_to(2.5 * UP)
        self.play(FadeIn(title), FadeIn(rows.names), run_time=0.25)
        self.play(
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=0.75,
        )
        self.play(FadeIn(rows.numbers), run_time=0.25)
        self.say(
            f"The pairs decide: {run['trained_mrr']:.2f} or {run['typo_mrr']:.2f}"
            " for encoders of the same kind.",
            color=INK,
            run_time=0.25,
        )
        self.beat(1.75)

    def caveat(self) -> None:
        """What it learned is what the pairs claim."""
        run = self.data["run"]
        self.say(
            f"The rules behind those pairs, applied by hand, have {run['rules_mrr']:.2f} too."
            " We wrote rules and test."
        )
        self.beat(2.5)
