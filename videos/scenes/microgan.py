"""A GAN draws half of the clusters: what brings the others back?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    PI,
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
    ManimColor,
    Rectangle,
    Transform,
    TransformFromCopy,
    UpdateFromAlphaFunc,
    VMobject,
)
from parts import Axes2, RowBars, tile

Points = Sequence[Sequence[float]]


class Cloud(VMobject):
    """Many dots as one shape; dot i stays dot i. Those beyond the reach are too small to see."""

    def __init__(self, places: list[np.ndarray], radii: Sequence[float], color: str) -> None:
        super().__init__(fill_color=color, fill_opacity=1, stroke_width=0)
        outline = Circle(radius=1.0).points
        self.set_points(np.concatenate([outline * r + p for r, p in zip(radii, places)]))


class Plane(VGroup):
    """A square of the data's plane, with a circle around each cluster."""

    def __init__(self, middle: np.ndarray, unit: float, data: dict) -> None:
        super().__init__()
        self.middle, self.unit, self.reach = middle, unit, data["reach"]
        side = 2.0 * self.reach * unit
        self.add(Rectangle(width=side, height=side, stroke_color=FAINT).move_to(middle))
        for center in data["centers"]:
            ring = Circle(radius=data["near"] * unit, stroke_color=INK, stroke_width=1.5)
            self.add(ring.move_to(self.at(center)))

    def at(self, point: Sequence[float]) -> np.ndarray:
        """Where (x, y) stands on the screen."""
        return self.middle + self.unit * np.array([point[0], point[1], 0.0])

    def cloud(self, points: Points, color: str, radius: float = 0.06) -> Cloud:
        """The points as dots."""
        inside = np.clip(np.array(points), -self.reach, self.reach)
        seen = [max(map(abs, point)) < self.reach - 0.03 for point in points]
        radii = [radius if s else 1e-4 for s in seen]
        return Cloud([self.at(point) for point in inside], radii, color)

    def field(self, percent: Sequence[int], gain: float = 1.0) -> Field:
        """What the discriminator says of every place; gain makes small differences visible."""
        return Field(percent, self.middle, 2.0 * self.reach * self.unit, gain)


class Field(VGroup):
    """The grid of p(real) in percent as a map of few colours: blue for real, red for generated."""

    levels = 3  # on each side of 50%

    def __init__(
        self, percent: Sequence[int], middle: np.ndarray, side: float, gain: float = 1.0
    ) -> None:
        super().__init__()
        self.middle, self.side, self.gain = middle, side, gain
        for level in range(-self.levels, self.levels + 1):
            color = ManimColor(BACKGROUND).interpolate(
                ManimColor(INPUT if level > 0 else WRONG), 0.62 * abs(level) / self.levels
            )
            self.add(VMobject(fill_color=color, fill_opacity=1, stroke_width=0))
        self.show(np.array(percent, dtype=float))

    def show(self, percent: np.ndarray) -> None:
        """Draw the map of these values, filled in between their places."""
        num = round(len(percent) ** 0.5)
        grid, old = percent.reshape(num, num) / 50.0 - 1.0, np.arange(num)
        new = np.linspace(-0.5, num - 0.5, 3 * num + 1)[:-1] + 1.0 / 6.0
        grid = np.array([np.interp(new, old, row) for row in grid])
        grid = np.array([np.interp(new, old, column) for column in grid.T]).T
        level = np.rint(np.clip(grid * self.gain, -1.0, 1.0) * self.levels).astype(int)
        cell = self.side / len(level)
        corner = self.middle + self.side / 2.0 * (LEFT + UP)
        found: dict[int, list[np.ndarray]] = {}
        for i, row in enumerate(level):
            cuts = [0, *(np.flatnonzero(np.diff(row)) + 1), len(row)]
            for start, end in zip(cuts, cuts[1:]):
                box = np.array([(start, i), (end, i), (end, i + 1), (start, i + 1), (start, i)])
                path = corner + cell * np.column_stack([box[:, 0], -box[:, 1], np.zeros(5)])
                found.setdefault(row[start], []).append(lines(path))
        for number, shape in enumerate(self.submobjects, -self.levels):
            parts = found.get(number)
            shape.set_points(np.concatenate(parts) if parts else np.zeros((0, 3)))


def lines(path: np.ndarray) -> np.ndarray:
    """Corners [N][3] -> the cubic curves of the straight lines between them [4 (N - 1)][3]."""
    shares = np.array([0.0, 1.0, 2.0, 3.0])[:, None] / 3.0
    return np.concatenate([a + shares * (b - a) for a, b in zip(path, path[1:])])


def change(old: Sequence[int], new: Sequence[int]) -> Callable:
    """What takes a field from one grid to the other."""
    first, last = np.array(old, dtype=float), np.array(new, dtype=float)

    def update(field: Field, alpha: float) -> None:
        alpha = float(alpha > 0.4)  # in one jump: a preview must stay small
        field.show((1.0 - alpha) * first + alpha * last)

    return update


class Film(MicroScene):
    """One push, a game of two numbers, and two GANs that exchange their rules."""

    script = "microgan"
    question = "A GAN draws half of the clusters: what brings the others back?"

    def story(self) -> None:
        self.the_problem()
        self.one_push()
        self.two_numbers()
        with self.preview():
            self.two_gans()
        self.clear_stage()
        self.answer()

    def the_problem(self) -> None:
        """The ring, and what a plain GAN has made of it."""
        d = self.data
        self.ask()
        left = Plane(3.4 * LEFT + 0.05 * DOWN, 1.6, d)
        right = Plane(3.4 * RIGHT + 0.05 * DOWN, 1.6, d)
        real = left.cloud(d["real"], INPUT)
        names = [
            text("real points", 34, INPUT).next_to(left, UP, buff=0.12),
            text("drawn by a GAN", 34, RIVAL).next_to(right, UP, buff=0.12),
        ]
        self.settle(FadeIn(left), FadeIn(real), FadeIn(names[0]))
        drawn = d["sides"]["plain"][d["exchange"] // d["every"]]
        self.play(FadeIn(right), FadeIn(names[1]), FadeIn(right.cloud(drawn["points"], RIVAL)))
        self.say(f"Here it covers {drawn['modes']} of the {d['num_modes']} clusters.")
        self.beat(1.5)
        self.clear_stage()

    def one_push(self) -> None:
        """One generated point, the slope of the discriminator there, and where it leads."""
        d, p = self.data, self.data["push"]
        plane = Plane(3.6 * LEFT + 0.1 * UP, 1.75, d)
        field = plane.field(p["percent"], 5.0)
        seen = [i for i, q in enumerate(p["points"]) if max(map(abs, q)) < d["reach"]]
        dots = {i: Dot(plane.at(p["points"][i]), radius=0.1, color=MODEL) for i in seen}
        pushed = {
            i: [x + p["length"] * g for x, g in zip(p["points"][i], p["gradients"][i])]
            for i in seen
        }
        which = p["which"]
        start, slope, chosen = p["points"][which], p["gradients"][which], dots[which]
        self.say("The discriminator has seen real points. Blue: it says “real”. Red: “generated”.")
        self.play(FadeIn(field), Create(plane), *[FadeIn(dot) for dot in dots.values()])
        self.beat(1.5)
        self.say("The generator sees none. It is told only: which way would look more real?")
        others = [i for i in seen if i != which]
        rows = [
            (f"this point: {p['p'][which]:.1%} real", MODEL, 1.6),
            (f"slope there: ({slope[0]:.2f}, {slope[1]:.2f})", INK, 0.7),
            (f"a bit that way: {p['p_after']:.1%}", LIMIT, -0.2),
        ]
        lines = [
            text(words, 34, color).move_to(np.array([0.5, y, 0.0]), aligned_edge=LEFT)
            for words, color, y in rows
        ]
        arrow = Arrow(
            plane.at(start), plane.at([x + 0.5 * g for x, g in zip(start, slope)]),
            buff=0.0, color=INK, stroke_width=6,
        )  # fmt: skip
        self.play(
            *[dots[i].animate.set_opacity(0.4) for i in others],
            chosen.animate.scale(1.5),
            FadeIn(lines[0]),
        )
        self.play(GrowArrow(arrow), FadeIn(lines[1]))
        self.play(chosen.animate.move_to(plane.at(pushed[which])), FadeIn(lines[2]))
        self.beat(1.5)
        self.say("It changes its weights so that all its points go up the slope.")
        self.play(
            FadeOut(arrow),
            *[dots[i].animate.set_opacity(1).move_to(plane.at(pushed[i])) for i in others],
            run_time=1.2,
        )
        self.beat(1.0)
        self.clear_stage()

    def two_numbers(self) -> None:
        """The same game with one number for each player, without the penalty and with it."""
        games = self.data["games"]
        axes = Axes2((-1.25, 1.25), (-1.25, 1.25), 5.2, 5.2).move_to(3.4 * LEFT + 0.1 * UP)
        middle = axes.at(0.0, 0.0)
        axes.across.move_to(middle)
        axes.up.move_to(middle)
        generator = text("generator", 30, MUTED).next_to(axes.across, RIGHT, buff=0.15)
        slope = text("discriminator's slope", 30, MUTED).move_to(
            axes.up.get_top() + 0.15 * RIGHT + 0.1 * DOWN, aligned_edge=LEFT
        )
        goal = Cross(scale_factor=0.13, stroke_color=LIMIT, stroke_width=6).move_to(middle)
        self.say("The smallest GAN: one number each. Both should come to rest at the cross.")
        self.play(FadeIn(axes), FadeIn(generator), FadeIn(slope), FadeIn(goal))
        endings = (
            ("plain", RIVAL, "plain:\nround and round", 1.4),
            ("penalty", MODEL, "with a penalty on\nthe slope: it comes home", -1.3),
        )
        for name, color, words, y in endings:
            path = axes.curve(games[name], color, 4)
            label = text(words, 36, color).move_to(np.array([3.7, y, 0.0]))
            self.play(Create(path), FadeIn(label), run_time=2.0)
        self.beat(1.5)
        self.say("Does this penalty (called R1) also help with the clusters?")
        self.beat(1.25)
        self.clear_stage()

    def two_gans(self) -> None:
        """Two GANs of equal start; after a while the rules change places."""
        d = self.data
        sides = {"plain": (-2.8, -6.15), "penalty": (4.3, 0.95)}
        rules = {"plain": tile("plain", RIVAL, 36, 0.7), "penalty": tile("penalty", MODEL, 36, 0.7)}
        planes, fields, clouds, meters, counts = {}, {}, {}, {}, {}
        for name, (x, column) in sides.items():
            looks = d["sides"][name]
            planes[name] = Plane(np.array([x, -0.4, 0.0]), 1.48, d)
            fields[name] = planes[name].field(looks[0]["percent"])
            color = RIVAL if name == "plain" else MODEL
            clouds[name] = planes[name].cloud(looks[0]["points"], color)
            rules[name].move_to(np.array([x, 2.4, 0.0]))
            meters[name] = VGroup(
                *[
                    Rectangle(width=0.6, height=0.26, stroke_color=MUTED, stroke_width=1.5)
                    .set_fill(LIMIT, opacity=1.0 if i < looks[0]["modes"] else 0.0)
                    .move_to(np.array([column, -2.0 + 0.37 * i, 0.0]))
                    for i in range(d["num_modes"])
                ]
            )
            counts[name] = self.count(looks[0]["modes"], column)
            self.add(fields[name], planes[name], clouds[name], meters[name], counts[name])
            self.add(rules[name])
        step = text("step 0", 32, INK, mono=True).move_to(np.array([0.75, 2.4, 0.0]))
        self.add(step)
        self.say("Two GANs of equal start. One pays for a steep discriminator.", run_time=0.25)
        self.beat(1.0)
        colors = {"plain": RIVAL, "penalty": MODEL}
        last = d["exchange"] // d["every"]
        for i in range(1, len(d["sides"]["plain"])):
            if i == last + 1:
                first, second = [d["sides"][name][last]["modes"] for name in ("plain", "penalty")]
                self.say(
                    f"After {d['exchange']} steps: {first} clusters against {second}.",
                    run_time=0.25,
                )
                self.beat(1.0)
                self.say("Now they exchange their rules.", run_time=0.25)
                places = {name: rules[name].get_center() for name in rules}
                colors = {"plain": MODEL, "penalty": RIVAL}
                self.play(
                    rules["plain"].animate(path_arc=-PI / 6).move_to(places["penalty"]),
                    rules["penalty"].animate(path_arc=-PI / 6).move_to(places["plain"]),
                    *[clouds[name].animate.set_fill(colors[name]) for name in clouds],
                    run_time=1.0,
                )
            moves = []
            for name in sides:
                look, before = d["sides"][name][i], d["sides"][name][i - 1]
                blend = change(before["percent"], look["percent"])
                moves.append(UpdateFromAlphaFunc(fields[name], blend))
                goal = planes[name].cloud(look["points"], colors[name])
                moves.append(Transform(clouds[name], goal))
            self.play(*moves, run_time=0.41)  # five frames of a preview
            # The numbers change when the points have arrived.
            self.remove(step, *counts.values())
            step = text(f"step {i * d['every']}", 32, INK, mono=True).move_to(step)
            for name, (_, column) in sides.items():
                modes = d["sides"][name][i]["modes"]
                counts[name] = self.count(modes, column)
                for j, box in enumerate(meters[name]):
                    box.set_fill(opacity=1.0 if j < modes else 0.0)
            self.add(step, *counts.values())
        first, second = [d["sides"][name][-1]["modes"] for name in ("plain", "penalty")]
        self.say(
            f"Now the left one covers {first} of {d['num_modes']}, and the right one {second}.",
            run_time=0.25,
        )
        self.beat(1.5)
        assert d["end"] == (len(d["sides"]["plain"]) - 1) * d["every"]

    def count(self, modes: int, column: float) -> VGroup:
        """How many clusters are covered, above the meter."""
        words = text(f"{modes} of {self.data['num_modes']}", 34, LIMIT, bold=True)
        return words.move_to(np.array([column, 1.25, 0.0]))

    def answer(self) -> None:
        """The averages over all runs."""
        d, m = self.data, self.data["modes"]
        self.say(
            f"Clusters covered, of {d['num_modes']}: the mean of {d['num_runs']} runs.",
            run_time=0.3,
        )
        rows = RowBars(
            [
                ("plain", m["without"], RIVAL),
                ("with the penalty", m["with"], MODEL),
                ("plain, penalty added", m["added"], MODEL),
                ("penalty, then removed", m["removed"], RIVAL),
            ],
            length=6.2,
            size=36,
            thickness=0.6,
            gap=0.5,
            form="{:.1f}",
            most=float(d["num_modes"]),
        ).move_to(0.15 * UP)
        right = rows.bars.get_left()[0] + 6.2
        full = Line(
            np.array([right, rows.get_top()[1] + 0.1, 0.0]),
            np.array([right, rows.get_bottom()[1] - 0.1, 0.0]),
            color=LIMIT,
        ).set_stroke(width=3)
        all_of = text(f"all {d['num_modes']}", 32, LIMIT).next_to(full, UP, buff=0.12)
        for bar, number in zip(rows.bars, rows.numbers):
            number.set_fill(BACKGROUND).next_to(bar.get_right(), LEFT, buff=0.2)
        self.play(FadeIn(rows.names), Create(full), FadeIn(all_of), run_time=0.5)
        self.play(LaggedStart(*[GrowFromEdge(b, LEFT) for b in rows.bars[:2]], lag_ratio=0.3))
        self.play(FadeIn(rows.numbers[:2]), run_time=0.3)
        self.beat(1.25)
        for i in (0, 1):
            self.play(TransformFromCopy(rows.bars[i], rows.bars[i + 2]), run_time=0.6)
        self.play(FadeIn(rows.numbers[2:]), run_time=0.3)
        self.say(
            f"Added to the plain GAN, the penalty leads from {m['without']:.1f}"
            f" to {m['added']:.1f} clusters."
        )
        self.beat(3.0)
