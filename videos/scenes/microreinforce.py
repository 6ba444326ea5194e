"""If every try is rewarded, what is there to learn from?"""

from __future__ import annotations

import math

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
    WRONG,
    MicroScene,
    VGroup,
    text,
)
from manim import (
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
    RoundedRectangle,
    TransformFromCopy,
    UpdateFromAlphaFunc,
)
from parts import Axes2, RowBars

PLAIN, CENTRED = "total return", "total return - mean"
BEST = "reward-to-go - step's mean"


class Cart(VGroup):
    """A cart with a pole on a track; `show` puts it in a state (metres, degrees)."""

    def __init__(self, center: object, width: float, max_position: float, color: str) -> None:
        super().__init__()
        self.middle, self.scale_x = center, width / 2 / max_position
        self.length = 1.9
        track = Line(LEFT, RIGHT, color=MUTED).set_stroke(width=3)
        self.track = track.stretch_to_fit_width(width + 0.9).move_to(center + 0.32 * DOWN)
        self.body = RoundedRectangle(
            corner_radius=0.08, width=0.9, height=0.42, stroke_width=0, fill_color=color,
            fill_opacity=1,
        )  # fmt: skip
        self.wheels = VGroup(*[Dot(radius=0.1, color=MUTED) for _ in range(2)])
        self.pole = Line(0 * UP, UP, color=INK).set_stroke(width=9)
        self.add(self.track, self.wheels, self.body, self.pole)
        self.show([0.0, 0.0])

    def show(self, state: list[float]) -> Cart:
        """Draw this state: the angle is the true one, to the right is positive."""
        position, degrees = state
        spot = self.middle + self.scale_x * position * RIGHT
        self.body.move_to(spot)
        for wheel, side in zip(self.wheels, (-1, 1)):
            wheel.move_to(spot + side * 0.28 * RIGHT + 0.22 * DOWN)
        foot = spot + 0.18 * UP
        lean = math.radians(degrees)
        tip = foot + self.length * (math.sin(lean) * RIGHT + math.cos(lean) * UP)
        self.pole.put_start_and_end_on(foot, tip)
        return self


def follow(states: list, length: int | None = None) -> object:
    """An update that takes a cart through these states; it stays at the last one."""
    length = length or len(states)

    def update(cart: Cart, alpha: float) -> None:
        place = min(alpha * (length - 1), len(states) - 1.0)
        low = min(int(place), len(states) - 2)
        share = place - low
        cart.show([a + share * (b - a) for a, b in zip(states[low], states[low + 1])])

    return update


class Film(MicroScene):
    """Eight tries that are all praised; the mean is taken off; two carts."""

    script = "microreinforce"
    question = "If every try is rewarded, what is there to learn from?"

    def story(self) -> None:
        self.the_problem()
        self.eight_tries()
        with self.preview():
            self.minus_mean()
        self.clear_stage()
        self.gradients()
        self.clear_stage()
        self.learning()
        self.clear_stage()
        self.set_carts()
        with self.preview():
            self.two_carts()
            self.answer()

    def the_problem(self) -> None:
        """The cart falls; every step earned a reward."""
        d = self.data
        self.ask()
        fall = d["first_fall"]
        cart = Cart(0.6 * DOWN, 9.0, d["max_position"], INPUT)
        cart.show(fall["states"][0])
        self.settle(FadeIn(cart))
        self.say("A network pushes a cart left or right. Each step earns 1, until the pole falls.")
        self.play(UpdateFromAlphaFunc(cart, follow(fall["states"])), run_time=2.0)
        over = text(f"return {fall['steps']}", 44, INPUT, bold=True).move_to(4.6 * RIGHT + 1.2 * UP)
        limit = text(f"fallen: beyond {d['max_degrees']:.0f}°", 34, WRONG)
        self.play(FadeIn(over), FadeIn(limit.move_to(4.4 * LEFT + 1.2 * UP)))
        self.beat(1.5)
        self.play(FadeOut(limit), FadeOut(cart), run_time=0.4)
        self.first = over

    # --- eight tries ---

    def place(self, i: int) -> float:
        """Where try number i stands."""
        return -5.2 + 1.2 * i

    def eight_tries(self) -> None:
        """The returns of a batch as bars: all above zero; and one push, number by number."""
        d = self.data
        self.unit, self.ground_y = 0.055, -1.55
        self.bars, self.numbers, self.pushes = VGroup(), VGroup(), VGroup()
        for i, one in enumerate(d["batch"]):
            bar = Rectangle(
                width=0.75, height=one["return"] * self.unit, stroke_width=0, fill_color=INPUT,
                fill_opacity=1,
            )  # fmt: skip
            x = self.place(i) * RIGHT
            self.bars.add(bar.move_to(x + self.ground_y * UP, aligned_edge=DOWN))
            self.numbers.add(text(one["return"], 36, INPUT).next_to(bar, UP, buff=0.12))
            arrow = "\u2192" if one["push"] else "\u2190"
            self.pushes.add(text(arrow, 44, INK).move_to(x + (self.ground_y - 0.6) * UP))
        self.ground = Line(5.9 * LEFT, 4.0 * RIGHT, color=MUTED).shift(self.ground_y * UP)
        label = text("first\npush", 30, MUTED).move_to(4.75 * RIGHT + (self.ground_y - 0.6) * UP)
        which = [one["return"] for one in d["batch"]].index(d["first_fall"]["steps"])
        self.say("Eight tries, from their first push to their return.")
        self.play(
            ReplacementTransform(self.first, self.numbers[which]), FadeIn(self.ground),
            GrowFromEdge(self.bars[which], DOWN), FadeIn(self.pushes), FadeIn(label),
        )  # fmt: skip
        rest = [i for i in range(len(self.bars)) if i != which]
        self.play(LaggedStart(*[GrowFromEdge(self.bars[i], DOWN) for i in rest], lag_ratio=0.1))
        self.play(*[FadeIn(self.numbers[i]) for i in rest], run_time=0.4)
        self.beat(1.5)
        one = d["batch"][which]
        slope = 1.0 - one["probability"]
        lines = VGroup()
        for i, (words, color) in enumerate(
            (
                (f"try {which + 1}: push left, p = {one['probability']:.2f}", INK),
                (f"slope of log p: 1 \u2212 {one['probability']:.2f} = {slope:.2f}", MUTED),
                (f"× return {one['return']} = +{slope * one['return']:.1f}", RIVAL),
            )
        ):
            line = text(words, 34, color).move_to(5.9 * LEFT + (2.5 - 0.6 * i) * UP, LEFT)
            lines.add(line)
        assert not one["push"]
        self.say("REINFORCE weights a push by the return: even the worst becomes more likely.")
        self.play(TransformFromCopy(self.pushes[which], lines[0]))
        self.play(FadeIn(lines[1]))
        self.play(TransformFromCopy(self.numbers[which], lines[2]))
        self.beat(2.0)
        centred = slope * (one["return"] - d["batch_mean"])
        words = f"× (return \u2212 mean) = {centred:.1f}".replace("-", "\u2212")
        self.centred = text(words, 34, MODEL).move_to(lines[2], LEFT)
        self.play(FadeOut(lines[:2]), run_time=0.3)
        self.lines = lines
        self.label = label
        self.which = which

    def minus_mean(self) -> None:
        """The mean as a line; what is left over it pushes up, what is below pushes down."""
        d = self.data
        mean = d["batch_mean"]
        y = self.ground_y + mean * self.unit
        line = DashedLine(5.9 * LEFT, 4.0 * RIGHT, color=MODEL).shift(y * UP)
        name = text(f"mean of all\nsteps: {mean:.0f}", 34, MODEL)
        name.move_to(5.45 * RIGHT + y * UP)
        self.say("All are praised. Take off the mean:", run_time=0.25)
        self.play(Create(line), FadeIn(name), run_time=0.5)
        self.play(
            *[
                bar.animate.stretch_to_fit_height(abs(one["return"] - mean) * self.unit)
                .move_to(
                    self.place(i) * RIGHT + y * UP,
                    aligned_edge=DOWN if one["return"] > mean else UP,
                )
                .set_fill(LIMIT if one["return"] > mean else WRONG)
                for i, (bar, one) in enumerate(zip(self.bars, d["batch"]))
            ],
            *[
                ReplacementTransform(
                    number,
                    text(f"{one['return'] - mean:+.0f}".replace("-", "\u2212"), 36,
                         LIMIT if one["return"] > mean else WRONG).move_to(
                        self.place(i) * RIGHT
                        + (y + (0.3 if one["return"] < mean else -0.3)) * UP
                    ),
                )
                for i, (number, one) in enumerate(zip(self.numbers, d["batch"]))
            ],
            self.ground.animate.set_stroke(FAINT),
            ReplacementTransform(self.lines[2], self.centred),
            run_time=1.25,
        )  # fmt: skip
        self.say("Now the short tries make their pushes less likely.", run_time=0.25)
        self.beat(1.25)

    # --- gradients ---

    def gradients(self) -> None:
        """The gradients of many episodes: the same mean, less and less spread."""
        d = self.data
        names = {PLAIN: RIVAL, CENTRED: MODEL, BEST: MODEL}
        words = {
            PLAIN: "weight: total return",
            CENTRED: "minus the mean",
            BEST: "without the past,\nminus each step's mean",
        }
        unit = 0.0042
        middle = 3.4 * LEFT + 0.9 * DOWN
        clouds = d["clouds"]
        dots = VGroup(*[Dot(radius=0.05, color=RIVAL) for _ in clouds[PLAIN]])

        def put(group: VGroup, first: list, second: list, alpha: float) -> None:
            for dot, one, two in zip(group, first, second):
                a, b = [x + alpha * (z - x) for x, z in zip(one, two)]
                dot.move_to(middle + unit * (a * RIGHT + b * UP))

        put(dots, clouds[PLAIN], clouds[PLAIN], 0.0)
        means = [sum(column) / len(column) for column in zip(*clouds[BEST])]
        cross = VGroup(
            Line(0.25 * LEFT, 0.25 * RIGHT, color=LIMIT), Line(0.25 * DOWN, 0.25 * UP, color=LIMIT)
        ).set_stroke(width=5)
        cross.move_to(middle + unit * (means[0] * RIGHT + means[1] * UP))
        label = text(words[PLAIN], 36, RIVAL).move_to(3.8 * RIGHT + 2.2 * UP)

        def measured(name: str) -> VGroup:
            noise, signal = d["noise"][name]
            lines = VGroup(
                text(f"noise {noise:,.0f}", 38, WRONG, bold=True),
                text(f"signal {signal:,.0f}", 34, LIMIT),
            )
            return lines.arrange(DOWN, buff=0.25).move_to(3.8 * RIGHT + 0.7 * UP)

        numbers = measured(PLAIN)
        aim = text("their mean", 32, LIMIT).move_to(5.6 * LEFT + 2.4 * DOWN)
        pointer = Line(aim.get_top() + 0.1 * UP, cross.get_center() + 0.3 * (LEFT + DOWN))
        pointer.set_stroke(LIMIT, 2)
        self.say(f"One policy, {len(dots)} tries: each asks for its own change of the weights.")
        self.play(FadeIn(dots), FadeIn(label), FadeIn(numbers))
        self.play(FadeIn(cross), FadeIn(aim), FadeIn(pointer))
        self.beat(1.5)
        before = PLAIN
        self.say("Take off what all tries share, and their directions agree more.")
        for name in (CENTRED, BEST):
            first, second = clouds[before], clouds[name]
            new = text(words[name], 36, names[name]).move_to(label)
            self.play(
                UpdateFromAlphaFunc(dots, lambda g, alpha, a=first, b=second: put(g, a, b, alpha)),
                ReplacementTransform(label, new),
                ReplacementTransform(numbers, numbers := measured(name)),
                run_time=1.5,
            )
            if before == PLAIN:
                self.play(dots.animate.set_fill(names[name]), run_time=0.4)
            label, before = new, name
            self.beat(1.0)
        self.say(f"{d['noise_ratio']:.1f} times less noise, and the signal stays.")
        self.beat(1.5)

    # --- training ---

    def learning(self) -> None:
        """Four trainings with each of two weights."""
        d = self.data
        axes = Axes2(
            (0.0, d["training_steps"]), (0.0, d["max_steps"]), 8.4, 4.5,
            "steps of the cart played in training", "steps held", 30,
        ).move_to(1.6 * LEFT + 0.15 * UP)  # fmt: skip
        top = DashedLine(axes.at(0, d["max_steps"]), axes.at(d["training_steps"], d["max_steps"]))
        top.set_color(LIMIT)
        most = text(f"limit {d['max_steps']}", 34, LIMIT).next_to(top, RIGHT, buff=0.2)
        zero = text("0", 30, MUTED).next_to(axes.at(0, 0), LEFT, buff=0.15)
        end = text(f"{d['training_steps']:,}", 30, MUTED)
        end.next_to(axes.at(d["training_steps"], 0), RIGHT, buff=0.15)
        self.say("Train from four networks with the total return:")
        self.play(*[FadeIn(m) for m in (axes, top, most, zero, end)])
        curves = {
            arm: [axes.curve([(0, d["untrained"]), *c], color, 4) for c in d["curves"][arm]]
            for arm, color in ((PLAIN, RIVAL), (CENTRED, MODEL))
        }
        self.play(*[Create(c) for c in curves[PLAIN]], run_time=2.0)
        low, high = min(d["ends"][PLAIN]), max(d["ends"][PLAIN])
        ends = text(f"they end at\n{low:.0f} to {high:.0f}", 36, RIVAL)
        self.play(FadeIn(ends.move_to(4.9 * RIGHT + 0.5 * DOWN)))
        self.beat(1.0)
        self.say("The same networks, as many steps, minus the mean:")
        self.play(*[Create(c) for c in curves[CENTRED]], run_time=2.0)
        both = text(f"all four: {min(d['ends'][CENTRED]):.0f}", 36, MODEL)
        self.play(FadeIn(both.next_to(most, DOWN, buff=0.45).align_to(ends, LEFT)))
        self.beat(1.5)

    def set_carts(self) -> None:
        """The worst network of each kind, from the same start."""
        d = self.data
        self.carts, self.heads, self.held = [], [], []
        for x, arm, color in ((3.5 * LEFT, PLAIN, RIVAL), (3.5 * RIGHT, CENTRED, MODEL)):
            cart = Cart(x + 0.85 * DOWN, 5.0, d["max_position"], color)
            cart.show(d["films"][arm]["states"][0])
            self.carts.append(cart)
            bar = Rectangle(width=5.0, height=0.22, stroke_width=0, fill_color=color)
            bar.set_fill(opacity=1).move_to(x + 1.75 * DOWN)
            bar.stretch_to_fit_width(1e-3).align_to(x + 2.5 * LEFT, LEFT)
            self.held.append(bar)
            self.heads.append(text(arm.replace("-", "\u2212"), 38, color).move_to(x + 2.35 * UP))
        self.say("The worst network of each kind, from the same start:")
        end = [
            Line(0.17 * UP, 0.17 * DOWN, color=LIMIT).move_to(x + 1.75 * DOWN + 2.5 * RIGHT)
            for x in (3.5 * LEFT, 3.5 * RIGHT)
        ]
        self.play(*[FadeIn(m) for m in (*self.carts, *self.heads, *self.held, *end)])

    def two_carts(self) -> None:
        """The two episodes, faster than in life."""
        d = self.data
        plain, centred = d["films"][PLAIN], d["films"][CENTRED]
        longest = len(centred["states"])
        assert plain["fallen"] and not centred["fallen"]
        share = (len(plain["states"]) - 1) / (longest - 1)
        seconds = 4.5
        first = round(12 * share * seconds) / 12
        both = [self.carts[0], self.carts[1]]

        def held(first: float, second: float) -> object:
            def update(bar: Rectangle, alpha: float) -> None:
                steps = first + alpha * (second - first)
                left = bar.get_left()
                bar.stretch_to_fit_width(max(5.0 * steps / d["max_steps"], 1e-3))
                bar.move_to(left, aligned_edge=LEFT)

            return update

        self.play(
            UpdateFromAlphaFunc(both[0], follow(plain["states"]), rate_func=lambda t: t),
            UpdateFromAlphaFunc(
                both[1],
                follow(centred["states"][: len(plain["states"])]),
                rate_func=lambda t: t,
            ),
            *[
                UpdateFromAlphaFunc(bar, held(0, plain["steps"]), rate_func=lambda t: t)
                for bar in self.held
            ],
            run_time=first,
        )
        lost = text(f"lost after {plain['steps']} steps", 38, WRONG, bold=True)
        self.play(
            UpdateFromAlphaFunc(
                both[1],
                follow(centred["states"][len(plain["states"]) - 1 :]),
                rate_func=lambda t: t,
            ),
            UpdateFromAlphaFunc(
                self.held[1], held(plain["steps"], centred["steps"]), rate_func=lambda t: t
            ),
            FadeIn(lost.move_to(3.5 * LEFT + 2.3 * DOWN)),
            run_time=seconds - first,
        )
        up = text(f"still up after {centred['steps']} steps", 38, LIMIT, bold=True)
        self.play(FadeIn(up.move_to(3.5 * RIGHT + 2.3 * DOWN)), run_time=0.25)
        self.beat(1.0)

    def answer(self) -> None:
        """The means over all trainings."""
        d = self.data
        results = d["results"]
        rows = RowBars(
            [
                ("untrained", d["untrained"], MUTED),
                (PLAIN, results["return_total"], RIVAL),
                (CENTRED.replace("-", "\u2212"), results["return_total_mean"], MODEL),
            ],
            length=5.6,
            size=38,
            thickness=0.6,
            form="{:.0f}",
        ).move_to(0.1 * UP)
        away = [m for m in self.mobjects if m not in (self.header, self.caption, *self.heads)]
        self.play(
            *[FadeOut(m) for m in away],
            ReplacementTransform(self.heads[0], rows.names[1]),
            ReplacementTransform(self.heads[1], rows.names[2]),
            FadeIn(rows.names[0]),
            run_time=0.5,
        )
        self.say("From the differences. Steps held, mean of four trainings:", run_time=0.25)
        self.play(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], run_time=0.5)
        self.play(FadeIn(rows.numbers), run_time=0.25)
        self.beat(2.0)
