"""How does one pass backward find 2,410 slopes?"""

from __future__ import annotations

import numpy as np
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
    AnimationGroup,
    ArcBetweenPoints,
    Circle,
    Create,
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    MoveAlongPath,
    ReplacementTransform,
    Square,
    Succession,
    TransformFromCopy,
    VMobject,
)
from parts import Grid, RowBars, shade


class Field(VGroup):
    """A matrix as shaded cells, strong where its entries are large: one shape for each shade.

    Thousands of cells would be slow if each were a shape. `parts` are columns from left to right.
    """

    SHADES = 7

    def __init__(
        self,
        rows: list[list[float]],
        cell: float,
        positive: str,
        negative: str,
        least: float = 0.1,
        num_parts: int = 1,
    ) -> None:
        super().__init__()
        values = np.array(rows, dtype=float)
        scale = np.quantile(np.abs(values), 0.98) or np.abs(values).max() or 1.0
        level = np.round(np.clip(values / scale, -1, 1) * self.SHADES).astype(int)
        high = max(cell, least / len(rows))
        for columns in np.array_split(np.arange(values.shape[1]), num_parts):
            part = VGroup()
            for step in range(-self.SHADES, self.SHADES + 1):
                ys, xs = np.nonzero(level[:, columns] == step)
                if not len(xs):
                    continue
                color = shade(step, self.SHADES, positive, negative)
                shape = VMobject(stroke_width=0, fill_color=color, fill_opacity=1)
                shape.set_points(squares(columns[xs] * cell, -ys * high, cell, high))
                part.add(shape)
            self.add(part)
        self.center()


def squares(xs: np.ndarray, ys: np.ndarray, wide: float, high: float) -> np.ndarray:
    """The outlines of many rectangles with these upper left corners, as one path's points."""
    corners = np.array([[0, 0], [wide, 0], [wide, -high], [0, -high], [0, 0]])
    ends = [(corners[i], corners[i + 1]) for i in range(4)]
    one = np.array([a + (b - a) * t / 3 for a, b in ends for t in range(4)])  # [16][2]
    points = np.zeros((len(xs), 16, 3))
    points[..., 0] = xs[:, None] + one[None, :, 0]
    points[..., 1] = ys[:, None] + one[None, :, 1]
    return points.reshape(-1, 3)


class Film(MicroScene):
    """Two operations, sixty doublings, and one network: slopes flow back through a graph."""

    script = "microautograd"

    @property
    def question(self) -> str:
        """The number is the trace's."""
        return f"How does one pass backward find {self.data['num_numbers']:,} slopes?"

    def story(self) -> None:
        self.the_problem()
        self.clear_stage()
        self.small_graph()
        with self.preview():
            self.small_backward()
        self.check()
        self.clear_stage()
        self.doublings()
        self.clear_stage()
        self.network()
        with self.preview():
            self.network_backward()
            self.answer()
        self.two_engines()

    def the_problem(self) -> None:
        """A digit, 2,410 numbers, a loss; and what it costs to try each."""
        d = self.data
        self.ask()
        image = d["image"]
        digit = Grid([image[i : i + 8] for i in range(0, 64, 8)], 0.3, 1.0, INPUT, INPUT)
        digit.move_to(4.9 * LEFT + 0.9 * UP)
        names = ("weight_1", "bias_1", "weight_2", "bias_2")
        numbers = [x for name in names for row in d["matrices"][name]["data"] for x in row]
        numbers += [0.0] * (-len(numbers) % 64)
        packed = [numbers[i : i + 64] for i in range(0, len(numbers), 64)]
        field = Field(packed, 0.08, MODEL, MODEL).move_to(0.2 * LEFT + 0.9 * UP)
        loss = text(f"loss {d['loss']:.2f}", 40, WRONG).move_to(5.0 * RIGHT + 0.9 * UP)
        ways = VGroup(
            Line(digit.get_right(), field.get_left(), buff=0.2),
            Line(field.get_right(), loss.get_left(), buff=0.2),
        ).set_stroke(MUTED, 3)
        names = [
            text(f"{d['num_images']} digits", 30, INPUT).next_to(digit, DOWN, buff=0.25),
            text(f"{d['num_numbers']:,} numbers", 30, MODEL).next_to(field, DOWN, buff=0.25),
        ]
        self.settle(FadeIn(digit), FadeIn(field), FadeIn(loss), FadeIn(ways))
        self.play(*[FadeIn(name) for name in names], run_time=0.4)
        self.say("For each number: if it grew a little, how much would the loss grow?")
        self.beat(1.5)
        row, column = 9, 45
        cell = Square(0.16, stroke_color=INK, stroke_width=4).move_to(
            field.get_corner(UP + LEFT) + 0.08 * (column + 0.5) * RIGHT + 0.08 * (row + 0.5) * DOWN
        )
        tries = text("move it up, run; move it down, run", 34, RIVAL).move_to(1.75 * DOWN)
        self.play(FadeIn(cell, scale=3))
        self.play(FadeIn(tries, shift=0.2 * DOWN))
        total = text(f"for all of them: {d['num_tries']:,} runs", 38, RIVAL, bold=True)
        self.play(ReplacementTransform(tries, total.move_to(1.75 * DOWN)))
        self.say("One could try each number. Or let the slopes flow back.")
        self.beat(1.5)

    def small_graph(self) -> None:
        """e = a * b, d = e + a, forward: the values, and the slope of each edge."""
        toy, slopes = self.data["toy"], self.data["slopes"]
        places = {
            "b": 4.6 * LEFT + 1.75 * UP,
            "a": 4.6 * LEFT + 1.35 * DOWN,
            "e": 0.2 * LEFT + 1.75 * UP,
            "d": 4.4 * RIGHT + 0.2 * UP,
        }
        shown = {"a": "a", "b": "b", "e": "a · b", "d": "a · b + a"}
        self.nodes, self.names = {}, {}
        for name, place in places.items():
            circle = Circle(0.6, color=INPUT, stroke_width=4).move_to(place)
            circle.set_fill(BACKGROUND, 1)
            value = text(f"{toy[name][0]:g}", 44, INPUT, bold=True).move_to(place)
            self.nodes[name] = VGroup(circle, value.set_z_index(1))
            side = LEFT if name in "ab" else UP
            self.names[name] = text(shown[name], 32, MUTED).next_to(circle, side, buff=0.2)
        pairs = (("a", "e"), ("b", "e"), ("e", "d"), ("a", "d"))
        self.edges, self.slopes = {}, {}
        offsets = (0.35 * UP + 0.3 * LEFT, 0.38 * UP, 0.42 * UP, 0.42 * DOWN)
        for (start, end), slope, offset in zip(pairs, slopes, offsets):
            line = Line(places[start], places[end]).set_stroke(MUTED, 4)
            line.set_z_index(-1)
            self.edges[start, end] = line
            label = text(f"× {slope:g}", 34, INK).move_to(line.get_center() + offset)
            self.slopes[start, end] = label
        self.say("A small graph first: each result remembers what it was made from.")
        inputs = [self.nodes[n] for n in "ab"] + [self.names[n] for n in "ab"]
        self.play(*[FadeIn(m) for m in inputs], run_time=0.6)
        for name, parents in (("e", "ab"), ("d", "ea")):
            self.play(
                *[Create(self.edges[p, name]) for p in parents],
                FadeIn(self.nodes[name][0]),
                ReplacementTransform(
                    VGroup(*[self.nodes[p][1].copy() for p in parents]), self.nodes[name][1]
                ),
                FadeIn(self.names[name]),
                run_time=0.9,
            )
        self.beat(1.0)
        self.say("Each edge knows its own slope: when a grows, a · b grows b times as fast.")
        self.play(
            LaggedStart(
                TransformFromCopy(self.nodes["b"][1], self.slopes["a", "e"]),
                TransformFromCopy(self.nodes["a"][1], self.slopes["b", "e"]),
                FadeIn(self.slopes["e", "d"]),
                FadeIn(self.slopes["a", "d"]),
                lag_ratio=0.4,
            ),
            run_time=1.8,
        )
        self.beat(1.5)

    def flow(self, start: str, end: str, run_time: float = 0.75) -> MoveAlongPath:
        """A pulse that goes back along an edge."""
        pulse = Dot(radius=0.16, color=WRONG).move_to(self.nodes[end])
        path = Line(self.nodes[end].get_center(), self.nodes[start].get_center())
        pulse.set_z_index(-0.5)
        return Succession(
            MoveAlongPath(pulse, path, run_time=run_time), FadeOut(pulse, run_time=1 / 12)
        )

    def small_backward(self) -> None:
        """Slopes multiply along a path and add where paths meet."""
        toy, slopes = self.data["toy"], self.data["slopes"]
        grads = {}

        def grad(name: str, words: str, size: float = 36) -> object:
            label = text(words, size, WRONG, bold=True)
            return label.next_to(self.nodes[name], DOWN, buff=0.18)

        self.say("Backward: along an edge, multiply.", run_time=0.25)
        grads["d"] = grad("d", f"{toy['d'][1]:g}")
        self.play(FadeIn(grads["d"], scale=2), run_time=0.5)
        grads["e"] = grad("e", f"{toy['d'][1]:g} × {slopes[2]:g} = {toy['e'][1]:g}")
        self.play(self.flow("e", "d"), TransformFromCopy(grads["d"], grads["e"]), run_time=0.75)
        grads["b"] = grad("b", f"{toy['e'][1]:g} × {slopes[1]:g} = {toy['b'][1]:g}")
        to_a = toy["e"][1] * slopes[0]
        first = grad("a", f"{to_a:g}")
        self.play(
            self.flow("b", "e"),
            self.flow("a", "e"),
            TransformFromCopy(grads["e"], grads["b"]),
            TransformFromCopy(grads["e"], first),
            run_time=0.75,
        )
        total = grad("a", f"{to_a:g} + {toy['d'][1] * slopes[3]:g} = {toy['a'][1]:g}")
        assert to_a + toy["d"][1] * slopes[3] == toy["a"][1]
        self.say("Where paths meet, add.", run_time=0.25)
        self.play(
            self.flow("a", "d"),
            ReplacementTransform(VGroup(first, grads["d"].copy()), total),
            run_time=0.75,
        )
        self.beat(1.0)

    def check(self) -> None:
        """Is the slope of a right? Move a a little."""
        d = self.data
        self.say(
            f"True? Move a by {d['nudge']:g}: the result grows by {d['moved']:.3f}, "
            f"{d['toy']['a'][1]:g} times as much."
        )
        self.beat(1.5)

    def doublings(self) -> None:
        """Sixty doublings: as many paths as 2 to the 60, but every node is visited once."""
        d = self.data
        count, across = d["doublings"], 15
        spots = []
        for i in range(count + 1):
            row, place = divmod(i, across)
            x = place if row % 2 == 0 else across - 1 - place  # the chain turns at the end of a row
            spots.append((x - 6.5) * 0.78 * RIGHT + (1.45 - 0.85 * row) * UP)
        spots[-1] += 0.85 * UP + 0.78 * LEFT  # the last one ends its row
        dots = VGroup(*[Dot(spot, radius=0.12, color=INPUT) for spot in spots])
        arcs = VGroup()
        for left, right in zip(spots, spots[1:]):
            for angle in (1.5, -1.5):
                arcs.add(ArcBetweenPoints(left, right, angle=angle).set_stroke(MUTED, 3))
        arcs.set_z_index(-1)
        first = text("start", 30, MUTED).next_to(dots[0], LEFT, buff=0.2)
        last = text("end", 30, MUTED).next_to(dots[-1], DOWN, buff=0.3)
        self.say(f"Now a number is doubled {count} times: x + x, again and again.")
        self.play(FadeIn(dots), Create(arcs), FadeIn(first), FadeIn(last), run_time=1.2)
        self.beat(1.0)
        self.say("Every step doubles the paths. Following each would never end.")
        number = text(f"slope {d['chain'][-1]:,}", 44, WRONG, mono=True).move_to(2.45 * UP)
        self.play(FadeIn(number), run_time=0.3)
        for i in reversed(range(count)):
            new = text(f"slope {d['chain'][i]:,}", 44, WRONG, mono=True).move_to(2.45 * UP)
            self.remove(number)
            self.add(new)
            number = new
            dots[i + 1].set_color(WRONG)
            arcs[2 * i].set_stroke(WRONG, 4)
            arcs[2 * i + 1].set_stroke(WRONG, 4)
            if i % 2 == 0:
                self.wait(1 / 12)
        dots[0].set_color(WRONG)
        assert d["chain"][0] == 2**count
        visits = text(f"{d['chain_nodes']} nodes, each visited once", 38, MODEL, bold=True)
        self.say("But each node waits until its slope is complete, and passes it on once.")
        self.play(FadeIn(visits.move_to(2.2 * DOWN), shift=0.2 * UP))
        self.beat(2.0)

    def network(self) -> None:
        """The network for one batch: nine nodes, each a matrix."""
        d = self.data
        self.cell = cell = 0.065
        matrices = d["matrices"]
        spots = {
            "batch": (-4.8, 2.25), "weight_1": (-4.8, 0.1), "bias_1": (-3.76, -1.6),
            "sums": (-1.25, 2.25), "hidden": (1.4, 2.25), "weight_2": (1.4, 0.6),
            "bias_2": (2.115, -0.5), "scores": (3.7, 2.25),
        }  # fmt: skip
        sizes = d["sizes"]
        words = {
            "batch": f"{d['num_images']} digits", "weight_1": f"{sizes['weight_1']:,}",
            "bias_1": f"{sizes['bias_1']}", "sums": "sums", "hidden": "above 0",
            "weight_2": f"{sizes['weight_2']}", "bias_2": f"{sizes['bias_2']}",
            "scores": "scores",
        }  # fmt: skip
        self.pictures, self.labels = {}, VGroup()
        for name, (x, y) in spots.items():
            color = INPUT if name in ("batch", "sums", "hidden", "scores") else MODEL
            rows = d["batch"] if name == "batch" else matrices[name]["data"]
            image = Field(rows, cell, color, color).move_to(x * RIGHT + y * UP)
            self.pictures[name] = image
            self.labels.add(text(words[name], 30, color).next_to(image, DOWN, buff=0.12))
        self.loss = text(f"loss {d['loss']:.2f}", 36, WRONG).move_to(5.75 * RIGHT + 2.25 * UP)
        links = (
            ("batch", "sums"), ("weight_1", "sums"), ("bias_1", "sums"), ("sums", "hidden"),
            ("hidden", "scores"), ("weight_2", "scores"), ("bias_2", "scores"), ("scores", "loss"),
        )  # fmt: skip
        self.links = {}
        for start, end in links:
            target = self.loss if end == "loss" else self.pictures[end]
            low = start[:4] in ("weig", "bias")
            begin = self.pictures[start].get_right() + 0.1 * RIGHT
            arrive = target.get_corner(DOWN + LEFT) + 0.15 * RIGHT if low else target.get_left()
            line = Line(begin, arrive + 0.1 * LEFT + (0.55 * DOWN if low else 0))
            self.links[start, end] = line.set_stroke(MUTED, 3).set_z_index(-1)
        number, matrix = d["nodes"]
        self.say(f"The same for a network. A node for each number makes {number:,} nodes.")
        order = ["batch", "weight_1", "bias_1", "sums", "hidden", "weight_2", "bias_2", "scores"]
        self.play(
            LaggedStart(*[FadeIn(self.pictures[n]) for n in order], lag_ratio=0.25),
            LaggedStart(*[FadeIn(label) for label in self.labels], lag_ratio=0.25),
            LaggedStart(*[Create(line) for line in self.links.values()], lag_ratio=0.25),
            run_time=2.0,
        )
        self.play(FadeIn(self.loss), run_time=0.4)
        self.beat(1.0)
        self.say(f"A node for each matrix makes {matrix}: the same slopes, the same sums.")
        self.beat(1.5)

    def network_backward(self) -> None:
        """From the loss back: every matrix gets its gradient, painted over its values."""
        matrices = self.data["matrices"]
        self.say("Backward through a network: the same, matrix by matrix.", run_time=0.25)

        def back(*pairs: tuple[str, str], run_time: float = 0.5) -> None:
            pulses = []
            for start, end in pairs:
                pulse = Dot(radius=0.13, color=WRONG)
                grad = Field(matrices[start]["grad"], self.cell, WRONG, WRONG, num_parts=8)
                grad.move_to(self.pictures[start])
                line = self.links[start, end]
                path = Line(line.get_end(), line.get_start())
                pulses.append(
                    Succession(
                        MoveAlongPath(pulse, path, run_time=run_time / 2),
                        AnimationGroup(
                            FadeOut(pulse, run_time=run_time / 3),
                            LaggedStart(
                                *[FadeIn(part) for part in reversed(grad)],
                                lag_ratio=0.5,
                                run_time=run_time,
                            ),
                        ),
                    )
                )
            self.play(*pulses)

        back(("scores", "loss"))
        back(("hidden", "scores"), ("weight_2", "scores"), ("bias_2", "scores"))
        back(("sums", "hidden"))
        back(("weight_1", "sums"), ("bias_1", "sums"), run_time=0.75)

    def answer(self) -> None:
        """How many runs it takes, and that both engines agree."""
        d = self.data
        rows = RowBars(
            [("try each", d["num_tries"], RIVAL), ("backward", 2, MODEL)],
            length=2.7,
            size=36,
            thickness=0.4,
            gap=0.25,
            form="{:,.0f} runs",
        ).move_to(2.0 * DOWN + 2.5 * RIGHT)
        ends = text("1 forward, 1 back", 36, MODEL).move_to(rows.numbers[1], LEFT)
        self.say(f"All {d['num_numbers']:,} slopes, each node visited once.", run_time=0.25)
        self.play(FadeIn(rows.names), *[GrowFromEdge(b, LEFT) for b in rows.bars], run_time=0.5)
        self.play(FadeIn(rows.numbers[0]), FadeIn(ends), run_time=0.5)
        self.beat(1.25)

    def two_engines(self) -> None:
        """A node for each number or for each matrix: one algorithm."""
        d = self.data
        number, matrix = d["nodes"]
        self.say(
            f"{number:,} nodes or {matrix}: never more than {d['largest_difference']:.1e} "
            f"apart. Trained so, it reads {d['test_accuracy']:.1%} of new digits."
        )
        self.beat(2.5)
