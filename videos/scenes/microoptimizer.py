"""Is there a best optimiser?"""

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
    WRONG,
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Create,
    Dot,
    Ellipse,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    ReplacementTransform,
    Rotate,
    SurroundingRectangle,
    TransformFromCopy,
    VMobject,
    linear,
)
from parts import Bars, Grid

GOAL = 0.5 * UP + 0.8 * LEFT  # where the lowest point of the valley is drawn
SCALE = 0.8
NAMES = {
    "SGD": ("one rate", RIVAL),
    "momentum": ("adds up", RIVAL),
    "RMSProp": ("factors", MODEL),
    "Adam": ("both", MODEL),
    "Muon": ("as a matrix", MODEL),
}
PROBLEMS = {"letters": "pairs of letters", "pixels": "pixels", "rotated": "pixels, axes turned"}


class Film(MicroScene):
    """A valley of two weights is turned; then three real problems have three winners."""

    script = "microoptimizer"
    question = "Is there a best optimiser?"

    def story(self) -> None:
        self.the_problem()
        self.clear_stage()
        self.valley()
        self.first_step()
        self.walk()
        with self.preview():
            self.turn()
        self.clear_stage()
        self.letters()
        with self.preview():
            self.pixels_turned()
            self.answer()
        self.noise()

    def the_problem(self) -> None:
        """The lower half of a digit from the upper half; what is left to learn."""
        d = self.data
        self.ask()
        rows = [d["image"][i : i + 8] for i in range(0, 64, 8)]
        upper = Grid(rows[:4], 0.5, 1.0, INPUT, INPUT).move_to(3.6 * LEFT + 1.4 * UP)
        unknown = Grid([[0.0] * 8] * 4, 0.5, 1.0).next_to(upper, DOWN, buff=0)
        mark = text("?", 60, MODEL, bold=True).move_to(unknown)
        facts = [
            text(f"{d['num_images']:,} digits", 34, INPUT),
            text(f"{d['num_weights']} weights", 34, MODEL),
            text(f"{d['num_steps']} steps", 34, INK),
        ]
        for i, fact in enumerate(facts):
            fact.move_to((1.6 - 0.8 * i) * UP + 2.2 * RIGHT, aligned_edge=LEFT)
        self.settle(FadeIn(upper), FadeIn(unknown), FadeIn(mark))
        self.say("Predict the lower half of a digit from the upper half.")
        self.play(LaggedStart(*[FadeIn(f, shift=0.2 * RIGHT) for f in facts], lag_ratio=0.4))
        filled = [d["completed"][i : i + 8] for i in range(32, 64, 8)]
        lower = Grid([[max(0.0, x) for x in row] for row in filled], 0.5, 1.0)
        lower.move_to(unknown)
        self.play(FadeOut(mark), ReplacementTransform(unknown, lower), run_time=1.2)
        self.say("The best loss is known. How much avoidable loss does training leave?")
        self.beat(2.0)

    def at(self, valley: int, point: list[float]) -> object:
        """Where a pair of weights stands in the picture."""
        goal = self.data["valleys"][valley]["goal"]
        return GOAL + SCALE * ((point[0] - goal[0]) * RIGHT + (point[1] - goal[1]) * UP)

    def path(self, valley: int, name: str, color: str) -> VGroup:
        """The line through all steps, and a dot at each."""
        spots = [self.at(valley, p) for p in self.data["valleys"][valley][name]["path"]]
        line = VMobject(stroke_color=color, stroke_width=4).set_points_as_corners(spots)
        return VGroup(line, *[Dot(spot, radius=0.06, color=color) for spot in spots])

    def valley(self) -> None:
        """Two weights: the slope is steep across the valley, and flat along it."""
        flat, steep = self.data["curvatures"]
        ratio = (flat / steep) ** 0.5
        self.contours = VGroup(
            *[
                Ellipse(2 * a * SCALE, 2 * a * ratio * SCALE).move_to(GOAL)
                for a in (0.8, 1.8, 3.0, 4.4, 6.0)
            ]
        ).set_stroke(INPUT, 2.5)
        self.goal = Dot(GOAL, radius=0.1, color=LIMIT)
        self.start = Dot(self.at(0, [0.0, 0.0]), radius=0.12, color=INK)
        names = [
            text("start", 30, INK).next_to(self.start, DOWN, buff=0.15),
            text("lowest", 30, LIMIT).next_to(self.contours, RIGHT, buff=0.2),
        ]
        self.say("Take two weights: a valley, with lines of equal loss.")
        self.play(Create(self.contours), run_time=1.2)
        self.play(FadeIn(self.start), FadeIn(self.goal), *[FadeIn(n) for n in names])
        self.beat(1.0)
        self.away = names

    def first_step(self) -> None:
        """One step, number by number."""
        d = self.data["valleys"][0]
        along, across = [abs(g) for g in d["first_gradient"]]
        sgd, factors = d["SGD"], d["RMSProp"]
        columns = (0.9 * LEFT, 2.1 * RIGHT)
        lines = VGroup()
        for y, label, values, color in (
            (-0.85, "direction", ("along", "across"), MUTED),
            (-1.43, "slope", (f"{along:.0f}", f"{across:.0f}"), WRONG),
            (-2.01, f"× rate {sgd['rate']:.3f}", [f"{x:.2f}" for x in sgd["path"][1]], RIVAL),
            (-2.59, "÷ its own size", [f"{x:.0f}" for x in factors["path"][1]], MODEL),
        ):
            row = VGroup(text(label, 32, color).move_to(3.2 * LEFT + y * UP, aligned_edge=RIGHT))
            row.add(*[text(v, 34, color).move_to(c + y * UP) for v, c in zip(values, columns)])
            lines.add(row)
        names = [
            text("SGD", 34, RIVAL).move_to(4.3 * RIGHT + 2.01 * DOWN, aligned_edge=LEFT),
            text("factors", 34, MODEL).move_to(4.3 * RIGHT + 2.59 * DOWN, aligned_edge=LEFT),
        ]
        self.say("The slope is steep across and flat along. SGD has one rate for both.")
        self.play(FadeOut(self.away[0]), FadeIn(lines[0]), FadeIn(lines[1]))
        self.play(TransformFromCopy(lines[1], lines[2]), FadeIn(names[0]))
        self.beat(1.5)
        self.say("Factors divide each slope by its own recent size: equal steps.")
        self.play(TransformFromCopy(lines[1], lines[3]), FadeIn(names[1]))
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (lines, *names, self.away[1])])

    def results(self, valley: int) -> VGroup:
        """What share of the loss is left at the end of each path."""
        d = self.data["valleys"][valley]
        rows = VGroup()
        for y, name, label, color in (
            (2.2, "SGD", "SGD", RIVAL), (-0.9, "RMSProp", "factors", MODEL),
        ):  # fmt: skip
            left = text(f"{d[name]['left']:.0%} left", 40, color, bold=True)
            head = text(label, 34, color)
            rows.add(head.move_to(5.55 * RIGHT + (y + 0.3) * UP))
            rows.add(left.move_to(5.55 * RIGHT + (y - 0.3) * UP))
        return rows

    def walk(self) -> None:
        """Both paths, each at its best rate."""
        d = self.data
        self.sgd = self.path(0, "SGD", RIVAL)
        self.factors = self.path(0, "RMSProp", MODEL)
        self.shares = self.results(0)
        self.say(f"Each takes {d['valley_steps']} steps at its own best rate.")
        self.play(Create(self.sgd), run_time=2.0, rate_func=linear)
        self.play(FadeIn(self.shares[:2]), run_time=0.5)
        self.play(Create(self.factors), run_time=2.0, rate_func=linear)
        self.play(FadeIn(self.shares[2:]), run_time=0.5)
        self.beat(1.5)

    def turn(self) -> None:
        """Turn the valley: SGD's path turns along, that of the factors does not."""
        d = self.data
        self.say("Now turn the valley. Nothing else changes.", run_time=0.25)
        turned = self.path(1, "RMSProp", MODEL)
        start = self.start.copy().move_to(self.at(1, [0.0, 0.0]))
        expected = self.path(1, "SGD", RIVAL)
        shares = self.results(1)
        self.play(
            *[
                Rotate(m, d["turn"], about_point=GOAL)
                for m in (self.contours, self.sgd, self.start)
            ],
            FadeOut(self.factors),
            run_time=1.5,
        )
        assert max(abs(self.start.get_center() - start.get_center())) < 1e-3
        assert max(abs(self.sgd[-1].get_center() - expected[-1].get_center())) < 1e-3
        self.say(
            "SGD's path turns along. The factors have nothing left to even out.", run_time=0.25
        )
        self.play(Create(turned), run_time=1.0, rate_func=linear)
        self.play(
            *[ReplacementTransform(old, new) for old, new in zip(self.shares, shares)],
            run_time=0.5,
        )
        self.beat(1.0)

    def chart(self, key: str) -> tuple[Bars, VGroup]:
        """The gaps of all optimisers on one problem, and the numbers above the bars."""
        gaps = self.data["gaps"][key]
        bars = Bars(
            [gaps[name] for name in NAMES], NAMES, unit=250.0, width=1.1, gap=1.4,
            color=[color for _, color in NAMES.values()], size=32, label_color=INK, mono=False,
        )  # fmt: skip
        bars.shift((-1.45 - bars.ground.get_center()[1]) * UP - bars.ground.get_center()[0] * RIGHT)
        line = bars.labels[0][0].get_bottom()[1]
        for label in bars.labels:  # on one line, tails or not
            label.shift((line - label[0].get_bottom()[1]) * UP)
        numbers = VGroup()
        for name, bar in zip(NAMES, bars.bars):
            number = text(percent(gaps[name]), 32, NAMES[name][1])
            numbers.add(number.next_to(bar, UP, buff=0.12))
        return bars, numbers

    def best(self, key: str) -> SurroundingRectangle:
        """A frame around the name of the smallest gap."""
        gaps = self.data["gaps"][key]
        index = list(NAMES).index(min(NAMES, key=gaps.__getitem__))
        label = self.bars.labels[index]
        return SurroundingRectangle(label, color=LIMIT, buff=0.1, stroke_width=4)

    def letters(self) -> None:
        """The first real problem: rare pairs of letters."""
        d = self.data
        self.bars, self.numbers = self.chart("letters")
        kinds = VGroup()
        for (kind, color), label in zip(NAMES.values(), self.bars.labels):
            kinds.add(text(kind, 28, color).next_to(label, DOWN, buff=0.22))
        self.kinds = VGroup(*[kind.set_y(kinds[0].get_y()) for kind in kinds])
        self.title = text(PROBLEMS["letters"], 38, INPUT, bold=True).move_to(2.4 * UP)
        self.say(
            f"Real problems, {d['num_steps']} steps, best rates: how much avoidable loss is left?"
        )
        self.play(FadeIn(self.title), FadeIn(self.bars.ground), FadeIn(self.bars.labels))
        self.play(FadeIn(self.kinds), *[GrowFromEdge(bar, DOWN) for bar in self.bars.bars])
        self.play(FadeIn(self.numbers))
        self.frame = self.best("letters")
        self.say("Rare and common pairs of letters: factors for each weight are best.")
        self.play(Create(self.frame))
        self.beat(2.0)
        self.become("pixels", 0.8)
        self.say("Digits: factors and momentum together, Adam, are best.")
        self.beat(2.0)

    def become(self, key: str, run_time: float) -> None:
        """The bars take the values of another problem."""
        gaps = self.data["gaps"][key]
        _, numbers = self.chart(key)
        title = text(PROBLEMS[key], 38, INPUT, bold=True).move_to(2.4 * UP)
        self.play(
            ReplacementTransform(self.title, title),
            *self.bars.heights([gaps[name] for name in NAMES]),
            *[ReplacementTransform(old, new) for old, new in zip(self.numbers, numbers)],
            ReplacementTransform(self.frame, frame := self.best(key)),
            run_time=run_time,
        )
        self.title, self.numbers, self.frame = title, numbers, frame

    def pixels_turned(self) -> None:
        """The same digits after a rotation of the inputs: three do not notice, two do."""
        self.say("The same digits, with their axes turned:", run_time=0.25)
        self.become("rotated", 1.5)
        before, after = self.data["gaps"]["pixels"], self.data["gaps"]["rotated"]
        assert after["RMSProp"] > after["SGD"] and after["Adam"] > after["momentum"]
        assert abs(after["SGD"] / before["SGD"] - 1) < 0.01
        self.say("factors fail, Adam falls behind momentum, Muon is best.", run_time=0.25)
        self.beat(2.0)

    def answer(self) -> None:
        """Three problems, three winners."""
        ratios = self.data["ratios"]
        rows = VGroup()
        heads = ("", "best", "SGD leaves")
        xs = (6.3 * LEFT, 1.1 * LEFT, 2.0 * RIGHT)
        rows.add(VGroup(*[text(h, 30, MUTED).move_to(x + 1.9 * UP, aligned_edge=LEFT)
                          for h, x in zip(heads, xs) if h]))  # fmt: skip
        for i, (key, label) in enumerate(PROBLEMS.items()):
            y = (0.9 - 1.1 * i) * UP
            name = max(ratios[key], key=ratios[key].__getitem__)
            times = f"{ratios[key][name]:,.3g} times as much"
            cells = [
                text(label, 36, INPUT).move_to(xs[0] + y, aligned_edge=LEFT),
                text(name, 38, MODEL, bold=True).move_to(xs[1] + y, aligned_edge=LEFT),
                text(times, 34, RIVAL).move_to(xs[2] + y, aligned_edge=LEFT),
            ]
            rows.add(VGroup(*cells))
        rule = Line(6.3 * LEFT, 6.3 * RIGHT).set_stroke(MUTED, 2).move_to(1.5 * UP)
        self.clear_stage(self.title, run_time=0.25)
        self.say(
            "No. Three problems, three winners: what counts is how each is stretched.",
            run_time=0.25,
        )
        self.play(
            ReplacementTransform(self.title, rows[-1][0]),
            *[FadeIn(m) for m in (rows[0], rows[-1][1:], rule)],
            run_time=0.75,
        )
        self.play(FadeIn(rows[-2]), run_time=0.5)
        self.play(FadeIn(rows[-3]), run_time=0.5)
        self.beat(1.25)

    def noise(self) -> None:
        """What helps where small random batches decide."""
        self.say(
            f"And in random batches a falling rate helped them all: "
            f"{self.data['schedule_gain']:.2f} times or more."
        )
        self.beat(2.5)


def percent(share: float) -> str:
    """0.0000045 -> '0.0005%': enough digits to see that it is not zero."""
    digits = 2 if share > 0.001 else 3
    while round(100 * share, digits) == 0:
        digits += 1
    return f"{share:.{digits}%}"
