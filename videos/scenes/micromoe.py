"""Can a network remember more without more work?"""

from __future__ import annotations

from collections.abc import Sequence

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
    ManimColor,
    RoundedRectangle,
    Square,
    SurroundingRectangle,
    TransformFromCopy,
)
from parts import Bars, Grid, RowBars

CELL = 0.165
# Here a colour is an expert (the caption says so).
EXPERTS = (
    "#6CB8FF", "#FFB454", "#86D96B", "#FF8577", "#C4A5F5", "#46CFC0", "#EFE26A", "#F28CC9",
)  # fmt: skip
DIM = 0.22  # how bright a wrong answer is


class Map(VGroup):
    """All facts: the colour says which expert answers, bright if it is right."""

    def __init__(self, answers: str, columns: int, colors: Sequence[str]) -> None:
        super().__init__()
        self.colors, self.answers = colors, ""
        for index in range(len(answers)):
            row, column = divmod(index, columns)
            cell = Square(CELL * 0.92, stroke_width=0, fill_opacity=1)
            self.add(cell.move_to(column * CELL * RIGHT + row * CELL * DOWN))
        self.show(answers)
        self.center()

    def show(self, answers: str) -> None:
        """Colour the facts whose answer has changed."""
        for cell, old, new in zip(self, self.answers or " " * len(answers), answers):
            if new != old:
                color = ManimColor(self.colors[ord(new.upper()) - ord("A")])
                share = 1.0 if new.isupper() else DIM
                cell.set_fill(ManimColor(BACKGROUND).interpolate(color, share))
        self.answers = answers


class Film(MicroScene):
    """One fact goes to one of eight experts; then 576 facts are learned by two kinds of layer."""

    script = "micromoe"
    question = "Can a network remember more without more work?"

    def story(self) -> None:
        self.the_problem()
        self.clear_stage()
        self.dense()
        self.route()
        self.cost()
        self.clear_stage()
        self.pair("dense", "router", ("dense", RIVAL), ("8 experts", MODEL))
        with self.preview():
            self.learn("In training: bright facts are remembered. A colour is an expert.")
            self.say("The experts remember far more, for the same work.", run_time=0.25)
            self.beat(1.5)
        self.clear_stage()
        self.head_start()
        self.clear_stage()
        with self.preview():
            self.answer()
        self.caveat()

    def the_problem(self) -> None:
        """A table of facts without a rule."""
        d = self.data
        self.ask()
        side = d["num_relations"]
        rows = [d["values"][i : i + side] for i in range(0, d["num_facts"], side)]
        grid = Grid(rows, 0.19, d["num_values"] - 1, INPUT).move_to(2.5 * LEFT + 0.35 * UP)
        names = [
            text(f"{side} relations", 30, MUTED).next_to(grid, DOWN, buff=0.15),
            text(f"{len(rows)}\nsubjects", 30, MUTED).next_to(grid, LEFT, buff=0.2),
        ]
        self.settle(FadeIn(grid), FadeIn(names[0]), FadeIn(names[1]))
        self.say(f"{d['num_facts']} facts, drawn at random. There is no rule to find.")
        lines = VGroup()
        for i, (row, column) in enumerate(((0, 0), (0, 1), (1, 0))):
            words = text(f"subject {row}, relation {column}: {rows[row][column]}", 34, INPUT)
            lines.add(words.move_to(0.8 * RIGHT + (1.6 - 0.75 * i) * UP, LEFT))
            self.play(TransformFromCopy(grid.cells[row][column], words), run_time=0.5)
        share = text(f"{d['accuracy']['dense_accuracy']:.0%}", 60, RIVAL, bold=True)
        share.move_to(0.8 * RIGHT + 1.25 * DOWN, LEFT)
        note = text("remembered", 34, RIVAL).next_to(share, RIGHT, buff=0.3)
        self.say("They can only be remembered. A small network does not hold them all.")
        self.play(FadeIn(share), FadeIn(note))
        self.beat(1.5)

    def units(self, count: int, color: str, rows: int) -> VGroup:
        """Hidden units in a box."""
        dots = VGroup(*[Dot(radius=0.1, color=color) for _ in range(count)])
        dots.arrange_in_grid(rows, count // rows, buff=0.16)
        box = RoundedRectangle(
            corner_radius=0.1, width=dots.width + 0.35, height=dots.height + 0.35,
            stroke_color=color, stroke_width=3,
        )  # fmt: skip
        return VGroup(box, dots)

    def dense(self) -> None:
        """In a dense layer, every unit works on every fact."""
        d = self.data
        self.net = self.units(d["hidden"]["dense"], RIVAL, 6).move_to(5.3 * LEFT + 0.3 * UP)
        self.net_name = text("dense", 34, RIVAL, bold=True).next_to(self.net, UP, buff=0.25)
        self.say("In an ordinary, dense layer all units work on every fact.")
        self.play(FadeIn(self.net), FadeIn(self.net_name))
        self.beat(1.0)

    def route(self) -> None:
        """A router gives eight probabilities, and the likeliest expert works."""
        d = self.data
        one, count = d["one"], d["num_experts"]
        probs = one["probs"]
        assert abs(sum(probs) - 1) < 1e-4 and max(probs) == probs[one["expert"]]
        self.experts = VGroup(
            *[self.units(d["hidden"]["expert"], color, 4) for color in EXPERTS[:count]]
        )
        self.experts.arrange(RIGHT, buff=0.35).move_to(1.55 * RIGHT + 0.7 * DOWN)
        self.experts.set_opacity(0.0)
        gap = self.experts[1].get_center()[0] - self.experts[0].get_center()[0]
        chart = Bars(probs, [""] * count, unit=1.4, width=0.5, gap=gap - 0.5,
                     color=EXPERTS[:count])  # fmt: skip
        chart.shift(
            self.experts.get_center()[0] * RIGHT + 0.4 * UP - chart.ground.get_center()
        )  # fmt: skip
        for box, dots in self.experts:
            box.set_stroke(opacity=1).set_fill(opacity=0)
            dots.set_fill(opacity=1)
        words = text(f"subject {one['subject']}, relation {one['relation']}", 34, INPUT)
        words.move_to(self.experts.get_center()[0] * RIGHT + 2.6 * UP)
        router = text("router", 34, MODEL, bold=True).move_to(
            chart.ground.get_left() + 1.85 * UP, LEFT
        )
        self.say(f"Instead: {count} small experts, and a router that picks one of them.")
        self.play(LaggedStart(*[FadeIn(e) for e in self.experts], lag_ratio=0.15))
        self.play(FadeIn(words), FadeIn(router), FadeIn(chart.ground))
        self.say("A fact comes: the router gives each expert a probability.")
        self.play(
            TransformFromCopy(words, VGroup(*chart.bars[: one["expert"]])),
            *[GrowFromEdge(bar, DOWN) for bar in chart.bars[one["expert"] :]],
            run_time=0.8,
        )
        gate = probs[one["expert"]]
        number = text(f"{gate:.2f}", 32, EXPERTS[one["expert"]], bold=True)
        number.next_to(chart.bars[one["expert"]], RIGHT, buff=0.12)
        self.play(FadeIn(number))
        others = [e for i, e in enumerate(self.experts) if i != one["expert"]]
        self.say("Only the likeliest expert works. The others are not run.")
        self.play(*[m.animate.set_stroke(opacity=0.25) for m in (e[0] for e in others)],
                  *[e[1].animate.set_fill(opacity=0.2) for e in others])  # fmt: skip
        self.beat(1.0)
        entry = max(range(len(one["output"])), key=lambda i: one["output"][i])
        gated = text(
            f"its output {one['output'][entry]:.2f} × {gate:.2f} = {one['gated'][entry]:.2f}", 36
        )
        gated.move_to(self.experts.get_center()[0] * RIGHT + 2.2 * DOWN)
        self.say("Its output is multiplied by that probability: so the router learns too.")
        self.play(TransformFromCopy(self.experts[one["expert"]], gated))
        self.beat(1.5)
        self.gone = VGroup(gated)

    def cost(self) -> None:
        """The same multiply-adds, more weights."""
        d = self.data
        work, weights = d["multiply_adds"], d["weights"]
        x = self.experts.get_center()[0]
        lines = [
            text(f"{work['dense']}\nmultiply-adds", 30, RIVAL).move_to(5.3 * LEFT + 1.7 * DOWN),
            text(f"{weights['dense']} weights", 30, RIVAL).move_to(5.3 * LEFT + 2.4 * DOWN),
            text(f"{work['experts']} multiply-adds, the router included", 30, MODEL),
            text(f"{weights['experts']:,} weights", 30, MODEL),
        ]
        lines[2].move_to(x * RIGHT + 1.85 * DOWN)
        lines[3].move_to(x * RIGHT + 2.4 * DOWN)
        self.say("The work for each fact is the same. The number of weights is not.")
        self.play(FadeOut(self.gone), FadeIn(lines[0]), FadeIn(lines[2]))
        self.play(FadeIn(lines[1]), FadeIn(lines[3]))
        self.beat(1.5)

    def pair(self, left: str, right: str, *titles: tuple[str, str]) -> None:
        """Two maps and two bars, before training."""
        d = self.data
        self.arms = [d["arms"][left], d["arms"][right]]
        self.maps, names = [], VGroup()
        for arm, (title, color), x in zip(self.arms, titles, (-4.55, 0.2)):
            answers = arm[0]["answers"]
            colors = [RIVAL] if title == "dense" else EXPERTS
            self.maps.append(Map(answers, d["num_relations"], colors).move_to(x * RIGHT + 0.8 * UP))
            names.add(text(title, 34, color, bold=True).move_to(x * RIGHT + 1.62 * DOWN))
        self.colors = [color for _, color in titles]
        shares = [arm[0]["accuracy"] for arm in self.arms]
        self.bars = Bars(shares, ["", ""], unit=3.4, width=0.9, gap=0.6, color=self.colors)
        self.bars.shift(4.75 * RIGHT + 1.25 * DOWN - self.bars.ground.get_center())
        self.step = text(f"step {self.arms[0][0]['step']}", 34, INK, mono=True)
        self.step.move_to(4.75 * RIGHT + 1.62 * DOWN)
        self.numbers = self.shares(shares)
        self.play(*[FadeIn(m) for m in self.maps], FadeIn(names), run_time=0.6)
        self.play(FadeIn(self.bars), FadeIn(self.step), FadeIn(self.numbers), run_time=0.5)

    def shares(self, values: Sequence[float]) -> VGroup:
        """The accuracies, above the bars as they will be."""
        numbers = VGroup()
        for value, bar, color in zip(values, self.bars.bars, self.colors):
            y = self.bars.ground.get_center()[1] + value * self.bars.unit + 0.3
            number = text(f"{value:.0%}", 36, color, bold=True)
            numbers.add(number.move_to(bar.get_center()[0] * RIGHT + y * UP))
        return numbers

    def learn(self, words: str, loads: bool = False) -> None:
        """Both arms learn, look by look."""
        self.say(words, run_time=0.25)
        shown = VGroup()
        for looks in zip(*(arm[1:] for arm in self.arms)):
            step = text(f"step {looks[0]['step']}", 34, INK, mono=True).move_to(self.step)
            for chart, look in zip(self.maps, looks):
                chart.show(look["answers"])
            shares = [look["accuracy"] for look in looks]
            numbers = self.shares(shares)
            self.remove(self.step, self.numbers, shown)
            if loads:
                shown = self.loads([look["load"] for look in looks])
            self.add(step, numbers, shown)
            self.step, self.numbers = step, numbers
            self.play(*self.bars.heights(shares), run_time=0.25)

    def loads(self, values: Sequence[float]) -> VGroup:
        """How much the busiest expert answers."""
        words = VGroup()
        for value, chart in zip(values, self.maps):
            line = text(f"busiest: {value:.1f} × its share", 30, INK)
            words.add(line.move_to(chart.get_center()[0] * RIGHT + 2.25 * DOWN))
        return words

    def head_start(self) -> None:
        """One expert is preferred at the start, without and with balancing."""
        self.say("But give one expert a head start, and it gets nearly all of the facts.")
        self.pair("skewed", "balanced", ("head start", WRONG), ("and balanced", MODEL))
        self.beat(1.0)
        self.learn("Right: a second loss pushes an expert down if it gets too many facts.", True)
        self.beat(1.0)
        last = [arm[-1] for arm in self.arms]
        frame = SurroundingRectangle(self.maps[1], color=MODEL, buff=0.08)
        self.say(f"The facts are shared out again: {last[1]['accuracy']:.0%} "
                 f"instead of {last[0]['accuracy']:.0%}.")  # fmt: skip
        self.play(Create(frame))
        self.beat(1.5)

    def answer(self) -> None:
        """What each remembers."""
        d = self.data
        found = d["accuracy"]
        work = d["multiply_adds"]["experts"]
        self.say(f"Facts remembered, at no more than {work} multiply-adds each:", run_time=0.25)
        rows = RowBars(
            [
                ("dense", found["dense_accuracy"], RIVAL),
                ("experts, one far ahead", found["skewed_accuracy"], WRONG),
                ("experts, router", found["router_accuracy"], MODEL),
                ("experts, random table", found["table_accuracy"], MODEL),
            ],
            length=5.6, form="{:.0%}", size=38, thickness=0.62, gap=0.5, most=1.0,
        ).move_to(0.2 * UP)  # fmt: skip
        self.play(FadeIn(rows.names), run_time=0.25)
        self.play(
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=1.0,
        )
        self.play(FadeIn(rows.numbers), run_time=0.25)
        mine, rival = found["router_accuracy"], found["dense_accuracy"]
        self.say(f"Yes: {mine:.0%} instead of {rival:.0%}. A random table, "
                 "which knows nothing, does even better.", run_time=0.25)  # fmt: skip
        self.beat(2.5)

    def caveat(self) -> None:
        """Experts save work, not weights."""
        wide = self.data["wide"]
        self.say(f"Experts save work, not weights: a dense layer as large remembers "
                 f"{wide['accuracy']:.1%}, at {wide['times']:.1f} times the work.")  # fmt: skip
        self.beat(2.5)
