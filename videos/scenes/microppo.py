"""What happens when the judge can be fooled?"""

from __future__ import annotations

import math
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
    Arc,
    Arrow,
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
    TransformFromCopy,
    UpdateFromAlphaFunc,
)
from parts import tile

MOST_KL = 36.0  # the right end of the line of distances


class Dial(VGroup):
    """A needle over a half circle from -most (left) to most (right); 0 is at the top."""

    def __init__(self, name: str, most: float, color: str, center: object) -> None:
        super().__init__()
        self.most, self.color_, self.middle, self.radius = most, color, center, 1.75
        self.arc = Arc(self.radius, 0, math.pi, color=MUTED, arc_center=center)
        self.arc.set_stroke(width=4)
        self.add(self.arc)
        for share, label in ((-1, f"\u2212{most:.0f}"), (0, "0"), (1, f"{most:.0f}")):
            out = math.sin(share * math.pi / 2) * RIGHT + math.cos(share * math.pi / 2) * UP
            tick = Line(center + (self.radius - 0.12) * out, center + (self.radius + 0.12) * out)
            self.add(tick.set_stroke(MUTED, 4))
            words = text(label, 28, MUTED)
            place = center + (self.radius + 0.4) * out + (0.28 * DOWN if share else 0 * UP)
            self.add(words.move_to(place - share * 0.4 * RIGHT + (0.1 * DOWN if share else 0 * UP)))
        self.add(text(name, 34, color).move_to(center + 1.35 * DOWN))
        self.needle = Line(center, center + UP).set_stroke(color, 9)
        self.hub = Dot(center, 0.13, color=color)
        self.add(self.needle, self.hub)
        self.number: VGroup | None = None

    def turn(self, value: float) -> None:
        """Put the needle at a value."""
        angle = value / self.most * math.pi / 2
        tip = self.middle + 0.9 * self.radius * (math.sin(angle) * RIGHT + math.cos(angle) * UP)
        self.needle.put_start_and_end_on(self.middle, tip)

    def written(self, value: float) -> VGroup:
        """The value under the needle."""
        words = f"{value:.2f}".replace("-", "\u2212")
        color = WRONG if value < 0 and self.color_ == LIMIT else self.color_
        return text(words, 46, color, bold=True).move_to(self.middle + 0.7 * DOWN)


class Film(MicroScene):
    """A judge of letters; PPO and its clip; free, the two needles part; tied, they do not."""

    script = "microppo"
    question = "What happens when the judge can be fooled?"

    def story(self) -> None:
        self.the_judge()
        self.one_name()
        self.clear_stage()
        self.gate()
        self.clear_stage()
        self.set_dials()
        with self.preview():
            self.free()
            self.tied()
            self.answer()
        self.say("One run each: PPO and REINFORCE are too close to rank.")
        self.beat(1.5)

    # --- the judge ---

    def the_judge(self) -> None:
        """Its weights, best first."""
        d = self.data
        self.ask()
        self.unit, ground = 0.5, 0.3
        self.bars, self.letters = VGroup(), VGroup()
        for i, (letter, weight) in enumerate(d["judge"]):
            x = (-5.72 + 0.44 * i) * RIGHT
            color = LIMIT if letter in d["soft"] else INPUT
            bar = Rectangle(
                width=0.32, height=abs(weight) * self.unit, stroke_width=0, fill_color=color,
                fill_opacity=1,
            )  # fmt: skip
            bar.move_to(x + ground * UP, aligned_edge=DOWN if weight > 0 else UP)
            self.bars.add(bar)
            side = -0.27 if weight > 0 else 0.27
            self.letters.add(text(letter, 36, INK, mono=True).move_to(x + (ground + side) * UP))
        self.ground = Line(6.0 * LEFT, 6.0 * RIGHT, color=MUTED).shift(ground * UP)
        self.settle(FadeIn(self.ground), FadeIn(self.letters))
        self.say(
            f"A judge learned from {d['num_pairs']} comparisons of names: a weight per letter."
        )
        self.play(
            LaggedStart(
                *[
                    GrowFromEdge(bar, DOWN if weight > 0 else UP)
                    for bar, (_, weight) in zip(self.bars, d["judge"])
                ],
                lag_ratio=0.05,
            ),
            run_time=1.2,
        )
        self.beat(1.0)
        words = "green: what the person likes"
        note = text(words, 34, LIMIT).move_to(3.2 * RIGHT + 2.1 * UP)
        self.play(FadeIn(note))
        self.say("It found most of the letters that the person likes.")
        self.beat(1.5)
        self.note = note

    def one_name(self) -> None:
        """The score is a mean of weights; repeats do not matter to it."""
        d = self.data
        one, bad = d["example"], d["free"][-1]
        group = VGroup(self.bars, self.letters, self.ground)
        self.say("It scores a name by the mean of its weights; the dot is the end.")
        self.play(FadeOut(self.note), group.animate.scale(0.74).move_to(1.5 * UP), run_time=0.6)
        order = [letter for letter, _ in d["judge"]]
        tiles, numbers = VGroup(), VGroup()
        for i, (symbol, weight) in enumerate(zip(one["symbols"], one["weights"])):
            x = (-6.1 + 1.25 * i) * RIGHT
            tiles.add(tile(symbol, MODEL, 36, 0.75).move_to(x + 0.6 * DOWN))
            words = f"{weight:.2f}".replace("-", "\u2212")
            numbers.add(text(words, 32, INPUT).move_to(x + 1.3 * DOWN))
        self.play(FadeIn(tiles), run_time=0.5)
        self.play(
            LaggedStart(
                *[
                    TransformFromCopy(self.bars[order.index(s)], n)
                    for s, n in zip(one["symbols"], numbers)
                ],
                lag_ratio=0.2,
            ),
            run_time=1.6,
        )
        score = text(f"score {one['score']:.2f}", 36, INPUT, bold=True)
        score.move_to(1.5 * RIGHT + 0.95 * DOWN, aligned_edge=LEFT)
        person = text(f"person {one['reward']:.0f}", 36, LIMIT)
        person.move_to(4.4 * RIGHT + 0.95 * DOWN, aligned_edge=LEFT)
        self.play(TransformFromCopy(numbers, score), FadeIn(person))
        self.beat(1.5)
        name = text(f"“{bad['name']}”", 44, MODEL).move_to(3.6 * LEFT + 2.2 * DOWN)
        high = text(f"score {bad['name_score']:.2f}", 36, INPUT, bold=True)
        high.move_to(1.5 * RIGHT + 2.2 * DOWN, aligned_edge=LEFT)
        low = text(f"person \u2212{-bad['name_reward']:.0f}", 36, WRONG)
        low.move_to(4.4 * RIGHT + 2.2 * DOWN, aligned_edge=LEFT)
        assert bad["name_reward"] < 0 and bad["name_score"] > one["score"]
        self.say("It cannot see that she dislikes repeats. So it can be fooled.")
        self.play(FadeIn(name))
        self.play(FadeIn(high), FadeIn(low))
        self.beat(2.0)

    # --- the clip ---

    def gate(self) -> None:
        """One letter of one name, in the four uses of a batch; then all letters."""
        d = self.data
        gate, clip = d["gate"], d["clip"]
        left, unit = -5.2, 10.4 / 1.0
        low = 0.55

        def at(ratio: float, y: float) -> object:
            return (left + (ratio - low) * unit) * RIGHT + y * UP

        y = 0.1
        line = Line(at(low, y - 1.1), at(1.6, y - 1.1), color=MUTED)
        gates = VGroup(
            *[
                DashedLine(at(x, y - 1.1), at(x, y + 1.0), color=WRONG).set_stroke(width=4)
                for x in (1 - clip, 1 + clip)
            ]
        )
        ticks = VGroup(
            *[
                text(f"{x:.1f}" if x != 1 else "1", 32, WRONG if x != 1 else MUTED).move_to(
                    at(x, y - 1.5)
                )
                for x in (1 - clip, 1, 1 + clip)
            ]
        )
        axis = text("how many times as likely as when it was written", 30, MUTED)
        axis.move_to(at(1.05, y - 2.1))
        tiles = VGroup(
            *[
                tile(letter, MODEL if i == gate["place"] - 1 else MUTED, 36, 0.75)
                for i, letter in enumerate(gate["name"])
            ]
        )
        tiles.arrange(RIGHT, buff=0.15).move_to(4.2 * LEFT + 2.2 * UP)
        which = tiles[gate["place"] - 1]
        note = text(f"went better than expected: +{gate['advantage']:.2f}", 34, LIMIT)
        note.next_to(tiles, RIGHT, buff=0.6)
        self.say("PPO makes a letter likelier if its name went better than expected after it.")
        self.play(FadeIn(tiles), FadeIn(note), FadeIn(line), FadeIn(ticks), FadeIn(axis))
        dot = Dot(at(gate["ratios"][0], y), 0.16, color=MODEL)

        def push(ratio: float) -> Arrow:
            return Arrow(
                at(ratio, y) + 0.2 * RIGHT, at(ratio, y) + 1.3 * RIGHT, buff=0, color=LIMIT,
                stroke_width=7,
            )  # fmt: skip

        arrow = push(gate["ratios"][0])
        number = (
            text(f"{gate['ratios'][0]:.2f}", 36, MODEL)
            .next_to(dot, UP, buff=0.2)
            .shift(0.45 * RIGHT)
        )
        self.play(TransformFromCopy(which, dot), FadeIn(number))
        self.play(FadeIn(arrow), run_time=0.4)
        self.beat(1.0)
        self.say("The names are used four times. Past the clip, a letter is pushed no more.")
        self.play(Create(gates))
        closed = None
        for ratio in gate["ratios"][1:]:
            new = text(f"{ratio:.2f}", 36, MODEL).next_to(
                at(ratio, y) + 0.16 * UP + 0.45 * RIGHT, UP, buff=0.2
            )
            inside = ratio <= 1 + clip
            moves = [dot.animate.move_to(at(ratio, y)), ReplacementTransform(number, new)]
            if inside:
                moves.append(ReplacementTransform(arrow, arrow := push(ratio)))
            elif closed is None:
                moves.append(FadeOut(arrow))
            self.play(*moves, run_time=0.7)
            number = new
            if not inside and closed is None:
                closed = text("no push", 32, WRONG).next_to(dot, RIGHT, buff=0.3)
                self.play(FadeIn(closed), run_time=0.3)
                self.beat(1.0)
                self.say("It is not held there: other pushes still carry it on.")
                self.play(FadeOut(closed), run_time=0.3)
        self.beat(1.5)
        rng = random.Random(0)  # spreads the dots in height, so that they can be told apart
        ratios = d["letters"]["ratios"]
        heights = [y + rng.uniform(-0.8, 0.8) for _ in ratios[0]]
        dots = VGroup(
            *[
                Dot(at(1.0, h), 0.08, color=LIMIT if up else WRONG).set_fill(opacity=0.85)
                for h, up in zip(heights, d["letters"]["up"])
            ]
        )
        after = text("green: went better   red: went worse", 32, INK).move_to(note, LEFT)
        self.say(f"All letters of {d['num_names']} names, used four times:")
        self.play(FadeOut(number), ReplacementTransform(dot, dots), run_time=0.5)
        self.play(FadeOut(tiles), ReplacementTransform(note, after.set_x(0)), run_time=0.4)
        for first, second in zip(ratios, ratios[1:]):

            def move(group: VGroup, alpha: float, a: list = first, b: list = second) -> None:
                for mark, one, two, h in zip(group, a, b, heights):
                    mark.move_to(at(one + alpha * (two - one), h))

            self.play(UpdateFromAlphaFunc(dots, move), run_time=0.6)
        self.say("The clip stops the pushing. It is no wall.")
        self.beat(1.5)

    # --- free and tied ---

    def set_dials(self) -> None:
        """Two needles, a name, and the distance."""
        d = self.data
        self.judge = Dial("the judge's score", 4.0, INPUT, 4.4 * LEFT + 0.75 * UP)
        self.person = Dial("the person's reward", 10.0, LIMIT, 4.4 * RIGHT + 0.75 * UP)
        self.dials = (self.judge, self.person)
        self.keys = ("score", "reward")
        self.run = "free"
        first = d["free"][0]
        for dial, key in zip(self.dials, self.keys):
            dial.turn(first[key])
            dial.number = dial.written(first[key])
        self.low, self.high = 5.6 * LEFT, 5.6 * RIGHT
        y = 2.05 * DOWN
        self.rail = VGroup(
            Line(self.low + y, self.high + y, color=MUTED).set_stroke(width=3),
            text("start", 30, MUTED).move_to(self.low + 2.5 * DOWN, aligned_edge=LEFT),
            text("distance (KL)", 30, MUTED).move_to(2.5 * DOWN),
        )
        self.rope = Rectangle(
            width=1e-3, height=0.2, stroke_width=0, fill_color=MODEL, fill_opacity=1
        )
        self.rope.move_to(self.low + y, aligned_edge=LEFT)
        self.kl = text(f"{first['kl']:.1f}", 36, MODEL, bold=True)
        self.name = text(first["name"], 52, MODEL).move_to(1.3 * UP)
        self.step = text(f"iteration {len(d['free'][:1])}", 32, MUTED).move_to(2.2 * UP)
        self.place_kl(first["kl"])
        self.say(f"PPO on the score alone. The needles are means of {d['num_names']} names.")
        self.play(
            *[FadeIn(m) for m in (*self.dials, *[dial.number for dial in self.dials])],
            *[FadeIn(m) for m in (self.rail, self.rope, self.name, self.step, self.kl)],
        )
        self.beat(1.0)

    def place_kl(self, kl: float) -> None:
        """The rope is as long as the distance (an estimate below 0 is drawn as 0)."""
        length = max(kl, 1e-3) / MOST_KL * 11.2
        self.rope.stretch_to_fit_width(length)
        self.rope.move_to(self.low + 2.05 * DOWN, aligned_edge=LEFT)
        self.kl.next_to(self.rope, UP, buff=0.15)
        self.kl.set_x(max(self.kl.get_x(), self.low[0] + 0.35))

    def iteration(self, before: dict, now: dict, number: int, run_time: float) -> None:
        """One iteration: needles turn, the rope stretches, a new name."""
        words = {
            "name": text(now["name"], 52 if len(now["name"]) < 9 else 40, MODEL).move_to(1.3 * UP),
            "step": text(f"iteration {number}", 32, MUTED).move_to(2.2 * UP),
            "kl": text(f"{now['kl']:.1f}".replace("-", "\u2212"), 36, MODEL, bold=True),
        }
        for key, new in words.items():
            self.remove(getattr(self, key))
            setattr(self, key, new)
            self.add(new)
        for dial, key in zip(self.dials, self.keys):
            self.remove(dial.number)
            dial.number = dial.written(now[key])
            self.add(dial.number)

        def turn(group: VGroup, alpha: float) -> None:
            for dial, key in zip(self.dials, self.keys):
                dial.turn(before[key] + alpha * (now[key] - before[key]))
            self.place_kl(before["kl"] + alpha * (now["kl"] - before["kl"]))

        moving = VGroup(self.rope, self.kl, *[dial.needle for dial in self.dials])
        self.play(UpdateFromAlphaFunc(moving, turn), run_time=run_time)

    def free(self) -> None:
        """No price: the score rises, the reward falls."""
        d = self.data["free"]
        for number, (before, now) in enumerate(zip(d, d[1:]), 2):
            self.iteration(before, now, number, 0.25 if number < 14 else 1 / 6)
        assert d[-1]["score"] > d[0]["score"] and d[-1]["reward"] < 0 < d[0]["reward"]
        self.say("The judge is delighted. The person is not.", run_time=0.25)
        self.beat(1.0)

    def tied(self) -> None:
        """The same, with a price on distance."""
        free, tied = self.data["free"], self.data["tied"]
        words = f"Again, with a price of {self.data['beta']:g} for each unit of distance:"
        self.say(words, run_time=0.25)
        self.iteration(free[-1], tied[0], 1, 0.5)
        shown = list(range(1, len(tied), 2))
        before = tied[0]
        for i in shown:
            self.iteration(before, tied[i], i + 1, 1 / 6)
            before = tied[i]
        self.say("Near the start, the judge can be trusted.", run_time=0.25)
        self.beat(1.0)

    def answer(self) -> None:
        """What judge and person think of fresh names of each policy."""
        results, kl = self.data["results"], self.data["kl"]
        rows = (
            ("start", results["reward_ref"], None, MUTED),
            ("REINFORCE, tied", results["reward_reinforce"], self.data["score_reinforce"], RIVAL),
            (f"PPO, tied: KL {kl['tied']:.1f}", results["reward_ppo"], results["score_ppo"], MODEL),
            (f"PPO, free: KL {kl['free']:.0f}", results["reward_free"], results["score_free"],
             WRONG),
        )  # fmt: skip
        zero, unit = 2.9, 0.33
        table, bars = VGroup(), VGroup()
        for i, (name, reward, score, color) in enumerate(rows):
            y = (1.55 - 0.95 * i) * UP
            table.add(text(name, 36, color).move_to(6.6 * LEFT + y, aligned_edge=LEFT))
            bar = Rectangle(
                width=abs(reward) * unit, height=0.55, stroke_width=0, fill_color=color,
                fill_opacity=1,
            )  # fmt: skip
            bar.move_to(zero * RIGHT + y, aligned_edge=LEFT if reward > 0 else RIGHT)
            bars.add(bar)
            words = f"{reward:.2f}".replace("-", "\u2212")
            number = text(words, 38, color, bold=True)
            table.add(number.next_to(bar, RIGHT if reward > 0 else LEFT, buff=0.2))
            if score is not None:
                table.add(text(f"{score:.2f}", 36, INPUT).move_to(1.6 * LEFT + y))
        heads = (
            text("judge", 32, INPUT).move_to(1.6 * LEFT + 2.4 * UP),
            text("person", 32, LIMIT).move_to((zero + 1.2) * RIGHT + 2.4 * UP),
        )
        rule = Line(2.05 * UP, 1.8 * DOWN, color=MUTED).shift(zero * RIGHT)
        away = [m for m in self.mobjects if m not in (self.header, self.caption)]
        self.play(*[FadeOut(m) for m in away], run_time=0.25)
        self.play(
            FadeIn(table), FadeIn(rule), *[FadeIn(h) for h in heads],
            *[GrowFromEdge(b, LEFT if r[1] > 0 else RIGHT) for b, r in zip(bars, rows)],
            run_time=0.5,
        )  # fmt: skip
        self.say("The policy learns to fool it, unless distance has a price.", run_time=0.25)
        self.beat(2.0)
