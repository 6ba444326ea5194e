"""From noise to points in ten guesses: what goes wrong?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    Circle,
    Create,
    Cross,
    Dot,
    FadeIn,
    FadeOut,
    GrowArrow,
    GrowFromEdge,
    LaggedStart,
    Line,
    Transform,
    TransformFromCopy,
    VMobject,
)
from parts import RowBars

Points = Sequence[Sequence[float]]


class Cloud(VMobject):
    """Many dots as one shape, so that hundreds of them move at once; dot i stays dot i."""

    def __init__(self, places: list[np.ndarray], color: str, radius: float = 0.045) -> None:
        super().__init__(fill_color=color, fill_opacity=1, stroke_width=0)
        outline = Circle(radius=radius).points
        if places:
            self.set_points(np.concatenate([outline + place for place in places]))


class Plane(VGroup):
    """The data's plane: a faint circle around each cluster, within which a point counts as near."""

    def __init__(self, middle: np.ndarray, unit: float, centers: Points, near: float) -> None:
        super().__init__()
        self.middle, self.unit = middle, unit
        for center in centers:
            ring = Circle(radius=near * unit, stroke_color=MUTED, stroke_width=1.5)
            self.add(ring.move_to(self.at(center)))

    def at(self, point: Sequence[float]) -> np.ndarray:
        """Where (x, y) stands on the screen."""
        return self.middle + self.unit * np.array([point[0], point[1], 0.0])

    def cloud(self, points: Points, color: str, radius: float = 0.045) -> Cloud:
        """The points as dots."""
        return Cloud([self.at(point) for point in points], color, radius)


class Film(MicroScene):
    """One mixture, one point on its way down, and two samplers side by side."""

    script = "microdiffusion"

    @property
    def question(self) -> str:
        """The number is the trace's."""
        return f"From noise to data in {self.data['few']} guesses: what goes wrong?"

    def story(self) -> None:
        self.the_problem()
        self.training()
        self.one_way()
        with self.preview():
            self.two_samplers()
        self.clear_stage()
        self.answer()

    def plane(self, middle: np.ndarray, unit: float) -> Plane:
        """A plane with its eight clusters."""
        return Plane(middle, unit, self.data["centers"], 4.0 * self.data["sigma"])

    def the_problem(self) -> None:
        """Real points on the ring; new ones are to be drawn, and all there is to start is noise."""
        d = self.data
        self.ask()
        self.big = self.plane(3.4 * LEFT + 0.15 * UP, 1.85)
        self.real = self.big.cloud(d["real"], INPUT, 0.055)
        words = text("real points", 34, INPUT).next_to(self.real, UP, buff=0.2)
        self.settle(FadeIn(self.real), FadeIn(words))
        self.say(f"Data in {d['num_modes']} clusters. A network shall draw new points like these.")
        other = self.plane(3.5 * RIGHT + 0.15 * UP, 1.4)
        noise = other.cloud(d["flights"]["flow"]["points"][0], MUTED, 0.055)
        label = text("noise", 34, INK).next_to(noise, LEFT, buff=0.1).shift(2.35 * UP)
        self.play(FadeIn(noise), FadeIn(label))
        self.beat(1.5)
        self.play(FadeOut(noise), FadeOut(label), FadeOut(words), run_time=0.4)

    def training(self) -> None:
        """One real point is mixed with noise, number by number; the network guesses back."""
        m = self.data["mixture"]
        at = self.big.at
        clean = Dot(at(m["clean"]), radius=0.12, color=INPUT)
        noise = Dot(at(m["noise"]), radius=0.12, color=MUTED)
        line = Line(clean.get_center(), noise.get_center(), color=MUTED).set_stroke(width=3)
        rows = VGroup(
            *[
                VGroup(
                    text(name, 30, color).move_to(np.array([-0.3, y, 0.0]), aligned_edge=LEFT),
                    text(share, 30, color, mono=True).move_to(
                        np.array([3.1, y, 0.0]), aligned_edge=RIGHT
                    ),
                    text(pair(point), 30, color, mono=True).move_to(
                        np.array([6.75, y, 0.0]), aligned_edge=RIGHT
                    ),
                )
                for name, share, point, color, y in (
                    ("real point", f"{m['rest']:.1f} ×", m["clean"], INPUT, 1.6),
                    ("noise", f"{m['t']:.1f} ×", m["noise"], MUTED, 0.9),
                    ("mixture", "=", m["noisy"], INK, 0.0),
                )
            ]
        )
        rule = Line(np.array([-0.3, 0.45, 0]), np.array([6.75, 0.45, 0]), color=MUTED)
        rule.set_stroke(width=2)
        self.say("Training: mix a real point with noise.", run_time=0.3)
        self.play(
            self.real.animate.set_fill(opacity=0.3), FadeIn(clean), FadeIn(rows[0]), run_time=0.6
        )
        self.play(FadeIn(noise), FadeIn(rows[1]), Create(line), run_time=0.6)
        mixed = Dot(clean.get_center(), radius=0.12, color=INK)
        self.play(mixed.animate.move_to(at(m["noisy"])), FadeIn(rows[2]), Create(rule), run_time=1)
        self.beat(1.0)
        arrow = Arrow(at(m["noisy"]), at(m["guessed"]), buff=0.1, color=MODEL, stroke_width=6)
        guess = VGroup(
            text("guessed", 30, MODEL).move_to(np.array([-0.3, -0.9, 0.0]), aligned_edge=LEFT),
            text(pair(m["guessed"]), 30, MODEL, mono=True).move_to(
                np.array([6.75, -0.9, 0.0]), aligned_edge=RIGHT
            ),
        )
        self.say("The network sees only the mixture. It guesses the mean of what may be behind it.")
        self.play(GrowArrow(arrow), FadeIn(guess))
        self.beat(1.5)
        self.play(
            *[FadeOut(x) for x in (arrow, guess, rows, rule, clean, noise, line, mixed)],
            FadeOut(self.real),
            run_time=0.5,
        )

    def one_way(self) -> None:
        """One point of noise goes down, a small part of the way to each guess."""
        d, e = self.data, self.data["example"]
        plane = self.plane(0.2 * UP, 2.0)
        at = plane.at
        point = Dot(at(e["stops"][0]), radius=0.13, color=MODEL)
        target = Cross(scale_factor=0.14, stroke_color=INK, stroke_width=5)
        target.move_to(at(e["guesses"][0]))
        arrow = Line(point.get_center(), target.get_center(), color=MODEL).set_stroke(width=3)
        count = text("guess 1", 36, INK).move_to(np.array([-5.2, 1.9, 0.0]))
        label = text("its guess", 30, INK).next_to(target, UP, buff=0.2)
        name = text("noise", 30, MODEL).next_to(point, UP, buff=0.15)
        self.say("Drawing starts at pure noise. The first guess is about the mean of all the data.")
        self.play(Create(plane), FadeIn(point), FadeIn(name), run_time=0.6)
        self.play(Create(arrow), FadeIn(target), FadeIn(label), FadeIn(count), run_time=0.7)
        self.beat(1.5)
        self.play(FadeOut(label), FadeOut(name), run_time=0.2)
        self.say("So go only a small part of the way, and guess again from there.", run_time=0.3)
        stops, guesses = e["stops"], e["guesses"]
        for i in range(1, len(stops)):
            slow = 0.6 if i < 4 else 0.3
            trail = Line(at(stops[i - 1]), at(stops[i]), color=MODEL).set_stroke(width=5)
            self.add(trail)
            rest = Line(at(stops[i]), at(guesses[i - 1]), color=MODEL).set_stroke(width=3)
            self.play(
                point.animate.move_to(at(stops[i])),
                Create(trail),
                Transform(arrow, rest),
                run_time=slow,
            )
            if i < len(guesses):
                new = text(f"guess {i + 1}", 36, INK).move_to(count, aligned_edge=LEFT)
                self.remove(count)
                self.add(new)
                count = new
                turned = Line(at(stops[i]), at(guesses[i]), color=MODEL).set_stroke(width=3)
                self.play(
                    target.animate.move_to(at(guesses[i])),
                    Transform(arrow, turned),
                    run_time=slow,
                )
        self.remove(arrow)
        self.play(FadeOut(target), run_time=0.2)
        self.say(f"After {d['few']} guesses it is a new point of a cluster.", run_time=0.3)
        self.beat(1.0)
        self.say("Knowing the clusters, one can compute the best guess. It replaces the network.")
        self.beat(1.5)
        self.clear_stage()

    # --- two samplers ---

    def ruler(self, x: float, levels: Sequence[float], color: str) -> VGroup:
        """The levels from noise (above) to data (below), a tick where the network is asked."""
        top, bottom = 1.35, -1.35
        rail = Line(np.array([x, top, 0]), np.array([x, bottom, 0]), color=MUTED)
        ticks = VGroup(
            *[
                Line(0.22 * LEFT, 0.22 * RIGHT, color=color)
                .set_stroke(width=5)
                .move_to(np.array([x, level_y(t), 0.0]))
                for t in levels[:-1]
            ]
        )
        high = text("noise", 30, MUTED).move_to(np.array([x, top + 0.35, 0.0]))
        low = text("data", 30, MUTED).move_to(np.array([x, bottom - 0.35, 0.0]))
        group = VGroup(rail.set_stroke(width=2), ticks, high, low)
        group.ticks = ticks
        return group

    def two_samplers(self) -> None:
        """The best possible guess, asked ten times, at two sets of levels."""
        d = self.data
        flights = d["flights"]
        sides = {"flow": (-6.1, -2.8), "DDIM": (0.75, 4.05)}
        colors = {"flow": MODEL, "DDIM": RIVAL}
        planes, clouds, markers, names, rulers = {}, {}, {}, {}, {}
        for name, (column, middle) in sides.items():
            planes[name] = self.plane(np.array([middle, 0.1, 0.0]), 1.5)
            rulers[name] = self.ruler(column, flights[name]["levels"], colors[name])
            names[name] = text(name, 40, colors[name], bold=True).move_to(
                np.array([column, 2.5, 0.0])
            )
            again = flights["moved" if name == "DDIM" else name]
            clouds[name] = clouds_of(planes[name], flights[name], again)
            markers[name] = Dot(np.array([column, level_y(1.0), 0.0]), radius=0.16, color=INK)
        self.add(
            *planes.values(), *clouds.values(), *rulers.values(), *names.values(),
            *markers.values(),
        )  # fmt: skip
        self.say(
            f"Two samplers ask for the best possible guess {d['few']} times each.",
            run_time=0.25,
        )
        self.beat(1.0)
        for i in range(1, d["few"] + 1):
            moves = []
            for name in sides:
                moves += self.to_stop(planes[name], clouds[name], flights[name], i)
                where = np.array([sides[name][0], level_y(flights[name]["levels"][i]), 0.0])
                moves.append(markers[name].animate.move_to(where))
            self.play(*moves, run_time=0.25 if i < d["few"] else 0.5)
        shares = {}
        for name, (column, _) in sides.items():
            shares[name] = text(f"{d['shares'][name]['best']:.0%}", 46, INK, bold=True)
            shares[name].move_to(np.array([column, -2.4, 0.0]))
        self.say("The share that lands near a cluster. DDIM ends with a long step.", run_time=0.25)
        self.play(
            *[
                cloud.animate.set_fill(WRONG)
                for name in sides
                for cloud in clouds[name]
                if not cloud.lands[0]
            ],
            *[FadeIn(share) for share in shares.values()],
            run_time=0.5,
        )
        self.beat(1.75)

        # The second tick goes down, to where flow's last step begins; the points fly again.
        self.say("Move one of its guesses down, so that the last step is short.", run_time=0.25)
        column = sides["DDIM"][0]
        ticks = rulers["DDIM"].ticks
        goal = flights["moved"]["levels"][-2]
        self.play(
            ticks[1].animate.move_to(np.array([column, level_y(goal), 0.0])).set_color(INK),
            *self.to_stop(planes["DDIM"], clouds["DDIM"], flights["moved"], 0),
            markers["DDIM"].animate.move_to(np.array([column, level_y(1.0), 0.0])),
            FadeOut(shares["DDIM"]),
            run_time=0.75,
        )
        for i in range(1, d["few"] + 1):
            where = np.array([column, level_y(flights["moved"]["levels"][i]), 0.0])
            self.play(
                *self.to_stop(planes["DDIM"], clouds["DDIM"], flights["moved"], i),
                markers["DDIM"].animate.move_to(where),
                run_time=1 / 6 if i < d["few"] else 0.5,
            )
        better = text(f"{d['shares']['moved']['best']:.0%}", 46, INK, bold=True)
        better.move_to(shares["DDIM"])
        self.play(
            *[c.animate.set_fill(WRONG) for c in clouds["DDIM"] if not c.lands[1]],
            FadeIn(better),
            run_time=0.5,
        )
        self.beat(1.5)

    def to_stop(self, plane: Plane, clouds: VGroup, flight: dict, stop: int) -> list:
        """Animations that take every point to its next place."""
        places = flight["points"][stop]
        return [
            Transform(cloud, plane.cloud([places[i] for i in cloud.which], LIMIT, 0.05))
            for cloud in clouds
        ]

    def answer(self) -> None:
        """The best guess and the network, with few guesses and with many."""
        d, s = self.data, self.data["shares"]
        few, many = d["few"], d["many"]
        titles = [
            (f"DDIM, {few} guesses", "DDIM"),
            (f"flow, {few} guesses", "flow"),
            (f"flow, {many} guesses", "flow_many"),
        ]
        self.say(f"How many of {d['num_points']} drawn points lie near a cluster?", run_time=0.3)
        options = {"length": 6.0, "size": 36, "form": "{:.0%}", "thickness": 0.5, "most": 1.0}
        best = RowBars([(t, s[k]["best"], LIMIT) for t, k in titles], gap=1.05, **options)
        best.shift(0.2 * UP)
        ours = RowBars([(t, s[k]["network"], MODEL) for t, k in titles], gap=1.05, **options)
        for green, amber, number in zip(best.bars, ours.bars, ours.numbers):
            amber.move_to(green, aligned_edge=LEFT).shift(0.56 * DOWN)
            number.next_to(amber, RIGHT, buff=0.25)
        for title in best.names:
            title.set_fill(INK).shift(0.28 * DOWN)
        key = VGroup(text("best possible guess", 32, LIMIT), text("trained network", 32, MODEL))
        key.arrange(RIGHT, buff=1.0).move_to(2.55 * UP)
        self.play(FadeIn(best.names), FadeIn(key[0]), run_time=0.4)
        self.play(LaggedStart(*[GrowFromEdge(b, LEFT) for b in best.bars], lag_ratio=0.2))
        self.play(FadeIn(best.numbers), run_time=0.3)
        self.beat(1.5)
        self.play(
            LaggedStart(*[TransformFromCopy(g, a) for g, a in zip(best.bars, ours.bars)],
                        lag_ratio=0.2),
            FadeIn(key[1]),
        )  # fmt: skip
        self.play(FadeIn(ours.numbers), run_time=0.3)
        self.say(
            f"With {few} guesses, DDIM's last step. With {many}, what the network has not"
            f" learned: {s['flow_many']['network']:.0%} against {s['flow_many']['best']:.0%}."
        )
        self.beat(3.0)


def level_y(t: float) -> float:
    """The height of a level on the ruler: 1 above, 0 below."""
    return -1.35 + 2.7 * t


def pair(point: Sequence[float]) -> str:
    """(x, y) with two decimals."""
    return f"({point[0]:5.2f}, {point[1]:5.2f})"


def clouds_of(plane: Plane, flight: dict, again: dict) -> VGroup:
    """The points at the start, as clouds of those that end alike in this flight and the other."""
    group = VGroup()
    ends = list(zip(flight["near"], again["near"]))
    for lands in sorted(set(ends)):
        which = [i for i, end in enumerate(ends) if end == lands]
        cloud = plane.cloud([flight["points"][0][i] for i in which], LIMIT, 0.05)
        cloud.which, cloud.lands = which, lands
        group.add(cloud)
    return group
