"""What breaks when a model reads further than it was trained to?"""

from __future__ import annotations

from math import cos, pi, sin

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
    Arrow,
    Circle,
    Create,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    Rotate,
    Sector,
    TransformFromCopy,
    ValueTracker,
    linear,
)
from parts import Axes2, RowBars, tile


def plane(values: list[float], unit: float) -> object:
    """Two numbers as a vector of the stage."""
    return values[0] * unit * RIGHT + values[1] * unit * UP


class Dial(VGroup):
    """A clock face for one pair: 0 at the top, one turn clockwise. Angles met in training are
    shaded, the hand shows the angle of a distance, and angles beyond the trained ones are red.
    """

    def __init__(self, frequency: float, trained: int, radius: float = 0.68) -> None:
        super().__init__()
        self.trained_angle, self.radius = frequency * trained, radius
        self.face = Circle(radius, color=FAINT, stroke_width=2)
        self.add(self.face)
        self.show(0.0, 0.0)

    def sector(self, start: float, stop: float, color: str) -> Sector:
        """The part of the face between two angles (at most a full turn)."""
        stop = min(stop, start + 2 * pi - 1e-3)
        return Sector(
            radius=self.radius,
            start_angle=pi / 2 - start,
            angle=-max(stop - start, 1e-4),
            arc_center=self.face.get_center(),
            color=color,
            fill_opacity=0.85,
            stroke_width=0,
        )

    def show(self, angle: float, reached: float) -> None:
        """Turn the hand to the angle; everything up to `reached` has been met on the way."""
        met = min(reached, self.trained_angle)
        parts = [self.face, self.sector(0.0, met, INPUT)]
        if reached > self.trained_angle and self.trained_angle < 2 * pi:
            parts.append(self.sector(self.trained_angle, min(reached, 2 * pi), WRONG))
        center = self.face.get_center()
        tip = center + self.radius * 0.92 * (sin(angle) * RIGHT + cos(angle) * UP)
        parts.append(Line(center, tip, color=INK, stroke_width=4))
        self.submobjects = parts


class Film(MicroScene):
    """One pair as an arrow, then all eight as dials that leave their arcs, and come back."""

    script = "microrope"
    question = "What breaks when a model reads further than it was trained to?"

    def story(self) -> None:
        self.the_problem()
        self.one_arrow()
        self.moved_on()
        self.dials()
        with self.preview():
            self.leaving()
        with self.preview():
            self.coming_back()
        self.clear_stage()
        with self.preview():
            self.answer()

    def the_problem(self) -> None:
        """A window of training, and the text that is read now."""
        d = self.data
        self.ask()
        unit = 12.0 / d["long"]
        parts = VGroup()
        for start in range(0, d["long"], d["trained"]):
            known = start == 0
            parts.add(
                Rectangle(
                    width=unit * d["trained"],
                    height=0.8,
                    stroke_color=INPUT if known else WRONG,
                    stroke_width=3,
                    fill_color=INPUT if known else WRONG,
                    fill_opacity=0.75 if known else 0.2,
                )
            )
        parts.arrange(RIGHT, buff=0).move_to(0.5 * UP)
        trained = text(f"trained on {d['trained']} letters", 34, INPUT, bold=True)
        trained.next_to(parts[0], UP, buff=0.4).align_to(parts, LEFT)
        read = text(f"now it reads {d['long']}", 34, WRONG, bold=True)
        read.next_to(parts, DOWN, buff=0.4).align_to(parts, RIGHT)
        self.settle(FadeIn(trained), GrowFromEdge(parts[0], LEFT))
        self.play(
            LaggedStart(*[GrowFromEdge(part, LEFT) for part in parts[1:]], lag_ratio=0.6),
            FadeIn(read),
            run_time=1.5,
        )
        self.say(
            "RoPE, the usual way to mark places, has a mark for any place. Yet something breaks."
        )
        self.beat(1.8)
        self.play(*[FadeOut(m) for m in (parts, trained, read)], run_time=0.5)

    def one_arrow(self) -> None:
        """Two numbers of a query are an arrow; its place in the text turns it."""
        d = self.data
        first, query = d["meetings"][0], d["letters"][-1]
        places, angle = first["places"], d["frequencies"]["as trained"][d["pair"]]
        self.tiles = VGroup(*[tile("␣" if c == " " else c, INPUT, 36, 0.75) for c in d["letters"]])
        self.tiles.arrange(RIGHT, buff=0.14).move_to(2.2 * UP)
        self.tiles[-1][0].set_stroke(MODEL)
        self.tiles[-1][1].set_fill(MODEL)
        self.unit = 1.75 / max([abs(x) for m in (d["raw"]["q"], d["raw"]["k"]) for x in m])
        self.center = 4.0 * LEFT + 0.55 * DOWN
        circle = Circle(1.95, color=FAINT, stroke_width=2).move_to(self.center)
        self.say("Two numbers of a letter's query make an arrow.")
        self.play(LaggedStart(*[FadeIn(t) for t in self.tiles], lag_ratio=0.08), FadeIn(circle))
        self.arrows = VGroup(*[self.arrow(d["raw"][which], color) for which, color in
                               (("q", MODEL), ("k", INPUT))])  # fmt: skip
        pair = ", ".join([f"{x:+.2f}" for x in d["raw"]["q"]])
        raw = text(f"query of “{query}”: ({pair})", 34, MODEL).move_to(2.4 * RIGHT + 0.4 * UP)
        turn = text(f"place {places[0]}: turned by {places[0]} × {angle:.2f}", 34, INK)
        turn.next_to(raw, DOWN, buff=0.45)
        self.play(TransformFromCopy(self.tiles[-1], self.arrows[0]), FadeIn(raw), run_time=1.0)
        self.say("Its place turns it: one step further for each letter before it.")
        for _ in range(places[0]):
            self.play(Rotate(self.arrows[0], angle, about_point=self.center), run_time=0.22)
        self.play(FadeIn(turn), run_time=0.4)
        self.beat(1.5)
        self.circle, self.notes = circle, VGroup(raw, turn)

    def arrow(self, values: list[float], color: str) -> Arrow:
        """A pair of numbers as an arrow from the middle of the circle."""
        return Arrow(
            self.center, self.center + plane(values, self.unit), buff=0, color=color,
            stroke_width=8, max_tip_length_to_length_ratio=0.18,
        )  # fmt: skip

    def sum_of(self, meeting: dict) -> VGroup:
        """A dot product of two turned pairs, written out."""
        d = self.data
        rows = VGroup()
        entries = (
            (f"query at {meeting['places'][0]:,}", meeting["q"], MODEL, 0.75),
            (f"key at {meeting['places'][1]:,}", meeting["k"], INPUT, 0.05),
            ("products", meeting["products"], INK, -0.75),
        )
        for name, values, color, y in entries:
            row = VGroup(text(name, 32, color).move_to(0.2 * RIGHT + y * UP, aligned_edge=LEFT))
            for i, value in enumerate(values):
                number = text(f"{value:+.2f}", 34, color, mono=True)
                row.add(number.move_to((4.2 + 1.75 * i) * RIGHT + y * UP))
            rows.add(row)
        rule = Line(0.2 * RIGHT, 6.7 * RIGHT, color=MUTED).set_stroke(width=2).shift(0.35 * DOWN)
        total = text(f"sum {meeting['sum']:.3f}", 40, INK, bold=True)
        assert len(values) == len(d["raw"]["q"])
        return VGroup(rows, rule, total.move_to(3.45 * RIGHT + 1.65 * DOWN))

    def moved_on(self) -> None:
        """The score of two letters before and after the whole text moves on: the same."""
        d = self.data
        near, moved = d["meetings"]
        angle = d["frequencies"]["as trained"][d["pair"]]
        where = near["places"][1]
        self.say("The key of an earlier letter is turned by its own place.")
        self.play(
            TransformFromCopy(self.tiles[where], self.arrows[1]), FadeOut(self.notes), run_time=0.9
        )
        self.play(Rotate(self.arrows[1], angle * where, about_point=self.center), run_time=0.8)
        written = self.sum_of(near)
        self.play(
            TransformFromCopy(self.arrows[0], written[0][0]),
            TransformFromCopy(self.arrows[1], written[0][1]),
            run_time=0.9,
        )
        self.play(Create(written[1]), TransformFromCopy(written[0][:2], written[0][2]))
        self.play(TransformFromCopy(written[0][2], written[2]), run_time=0.7)
        self.say(f"Their part of the attention score. Now move the text on by {d['shift']:,}.")
        self.beat(1.5)
        after = self.sum_of(moved)
        turn = (angle * d["shift"]) % (2 * pi) + 4 * pi
        self.play(
            Rotate(self.arrows, turn, about_point=self.center),
            ReplacementTransform(written, after),
            run_time=2.0,
        )
        self.say(
            "Only the distance counts: in the whole model "
            f"no output moves by more than {d['error']:.1e}."
        )
        self.beat(2.0)
        self.clear_stage()

    def dials(self) -> None:
        """All pairs, and how much the model loses by reading on."""
        d = self.data
        frequencies = d["frequencies"]["as trained"]
        self.faces = VGroup(*[Dial(f, d["trained"]) for f in frequencies])
        self.faces.arrange(RIGHT, buff=0.25).move_to(2.1 * UP)
        self.say(f"A query has {len(frequencies)} such arrows, from fast to slow.", run_time=0.3)
        self.play(LaggedStart(*[FadeIn(face) for face in self.faces], lag_ratio=0.1), run_time=0.8)
        self.remove(*self.faces)
        self.add(self.faces)
        self.distance, self.share = ValueTracker(0.0), ValueTracker(0.0)
        before, after = [d["frequencies"][name] for name in ("as trained", "YaRN")]

        def follow(faces: VGroup) -> None:
            distance, share = self.distance.get_value(), self.share.get_value()
            for face, f, g in zip(faces, before, after):
                angle = distance * ((1 - share) * f + share * g)
                face.show(angle, max(angle, min(distance, d["trained"]) * f))

        follow(self.faces)
        self.faces.add_updater(follow)
        self.axes = Axes2((0, d["long"]), (0, 0.36), width=11.4, height=2.7).move_to(0.75 * DOWN)
        ticks = VGroup()
        for place, words in (
            (0, 0), (d["trained"], d["trained"]),
            ((d["trained"] + d["long"]) / 2, "letters read"), (d["long"], d["long"]),
        ):  # fmt: skip
            ticks.add(text(words, 30, MUTED).next_to(self.axes.at(place, 0), DOWN, buff=0.18))
        extra = text("extra loss", 30, MUTED).move_to(self.axes.at(0, 0.3), aligned_edge=LEFT)
        extra.shift(0.25 * RIGHT)
        self.frame = VGroup(self.axes, ticks, extra)
        self.note = text("angles between letters of a training window", 30, INPUT)
        self.note.next_to(self.faces, DOWN, buff=0.3)

    def extra_bars(self, name: str, color: str) -> VGroup:
        """The loss above that of the cut in each block of letters; areas start at zero."""
        d = self.data
        bars = VGroup()
        for i, value in enumerate(d["extra"][name]):
            left, right = [self.axes.at((i + k) * d["block"], 0) for k in (0, 1)]
            top = self.axes.at(0, max(value, 0.0015))[1]
            bars.add(
                Rectangle(
                    width=right[0] - left[0] - 0.12, height=top - left[1], stroke_width=0,
                    fill_color=color, fill_opacity=0.9,
                ).move_to((left + right) / 2, aligned_edge=DOWN)
            )  # fmt: skip
        return bars

    def leaving(self) -> None:
        """The hands go on beyond what training has shown them, and the loss rises."""
        d = self.data
        block = d["block"]
        known = d["trained"] // block
        self.bars = self.extra_bars("as trained", WRONG)
        self.play(FadeIn(self.note), FadeIn(self.frame), run_time=0.25)
        self.say(f"Blue: angles met in training, up to {d['trained']} letters.", run_time=0.25)
        self.play(
            self.distance.animate.set_value(d["trained"]),
            *[GrowFromEdge(bar, DOWN) for bar in self.bars[:known]],
            run_time=0.75,
            rate_func=linear,
        )
        self.beat(1.0)
        self.remove(self.note)
        self.note = text("red: angles that are new to the model", 30, WRONG)
        self.add(self.note.next_to(self.faces, DOWN, buff=0.3))
        self.say("Further on, the middle dials leave them, and the loss rises.", run_time=0.25)
        seconds = 2.0 / (len(self.bars) - known)
        for i in range(known, len(self.bars)):
            self.play(
                self.distance.animate.set_value((i + 1) * block),
                GrowFromEdge(self.bars[i], DOWN),
                run_time=round(seconds * 12) / 12,
                rate_func=linear,
            )
        self.last = self.number_on(self.bars[-1], d["extra"]["as trained"][-1], WRONG)
        self.play(FadeIn(self.last), run_time=0.25)
        self.beat(1.0)

    def number_on(self, bar: Rectangle, value: float, color: str) -> object:
        """The value of a bar, above it."""
        return text(f"+{value:.2f}", 32, color, bold=True).next_to(bar, UP, buff=0.12)

    def coming_back(self) -> None:
        """YaRN slows the slow pairs: their hands come back, and the loss falls."""
        d = self.data
        self.say(
            f"YaRN, no training: fast arrows stay, slow ones turn {d['scale']:.0f} times slower.",
            run_time=0.25,
        )
        after = self.extra_bars("YaRN", MODEL)
        fallen = self.number_on(after[-1], d["extra"]["YaRN"][-1], MODEL)
        self.remove(self.note)
        self.play(
            ReplacementTransform(self.last, fallen),
            self.share.animate.set_value(1.0),
            ReplacementTransform(self.bars, after),
            run_time=1.25,
        )
        self.bars = after
        self.beat(1.0)
        self.faces.clear_updaters()

    def answer(self) -> None:
        """The extra loss far out of all remedies, and the cut."""
        d = self.data
        costs = d["costs"]
        self.say(
            f"Extra loss far out, in nats, mean of {d['num_windows']} new texts.", run_time=0.25
        )
        rows = RowBars(
            [
                ("as trained", costs["raw_cost"], WRONG),
                ("all slower (PI)", costs["pi_cost"], RIVAL),
                ("YaRN", costs["yarn_cost"], MODEL),
                (f"last {d['trained']} only", costs["cut_cost"], LIMIT),
            ],
            length=6.2, size=40, thickness=0.58, form="{:.3f}",
        ).move_to(0.25 * UP)  # fmt: skip
        self.play(
            FadeIn(rows.names),
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.2),
            run_time=0.75,
        )
        self.play(FadeIn(rows.numbers), run_time=0.25)
        self.say(
            f"New angles. YaRN undoes {d['undone']['yarn']:.0%} of the harm; "
            f"reading only the last {d['trained']} is better still.",
            run_time=0.25,
        )
        self.beat(1.5)
