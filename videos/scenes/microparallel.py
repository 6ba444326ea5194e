"""What must four processes send each other to train one network?"""

from __future__ import annotations

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
    UP,
    WRONG,
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Arrow,
    FadeIn,
    FadeOut,
    GrowArrow,
    GrowFromEdge,
    LaggedStart,
    Line,
    ManimColor,
    Rectangle,
    ReplacementTransform,
    TransformFromCopy,
)
from parts import Grid, RowBars

TINTS = (1.0, 0.72, 0.48, 0.28)  # the four ranks, wherever things are cut


def piece(width: float, height: float, rank: int) -> Rectangle:
    """A part of something, shaded by the rank that has it."""
    color = ManimColor(BACKGROUND).interpolate(ManimColor(MODEL), TINTS[rank])
    return Rectangle(
        width=width, height=height, stroke_width=2, stroke_color=BACKGROUND,
        fill_color=color, fill_opacity=1,
    )  # fmt: skip


class Film(MicroScene):
    """Three cuts; then the ring of messages, hop by hop; then the pipeline's clock; then bytes."""

    script = "microparallel"
    question = "What must four processes send each other to train one network?"

    def story(self) -> None:
        self.the_problem()
        self.cuts()
        self.ring()
        self.first_hop()
        with self.preview():
            self.hops()
        self.same_ring()
        self.clear_stage()
        self.pipeline()
        self.clear_stage()
        with self.preview():
            self.answer()

    def the_problem(self) -> None:
        """One network, one batch, four processes with nothing but pipes between them."""
        d = self.data
        self.ask()
        places = [4.6 * LEFT, 1.55 * LEFT, 1.55 * RIGHT, 4.6 * RIGHT]
        boxes, digits, names = VGroup(), VGroup(), VGroup()
        for rank, (place, pixels) in enumerate(zip(places, d["digits"])):
            box = Rectangle(width=2.3, height=2.7, stroke_color=MODEL, stroke_width=3)
            boxes.add(box.move_to(place + 0.35 * UP))
            rows = [pixels[i : i + 8] for i in range(0, len(pixels), 8)]
            digits.add(Grid(rows, 0.2, positive=INPUT).move_to(place + 0.6 * UP))
            names.add(text(f"rank {rank}", 30, MODEL).move_to(place + 0.65 * DOWN))
        pipes = VGroup(*[Line(a.get_right(), b.get_left(), color=MUTED, stroke_width=8)
                         for a, b in zip(boxes, boxes[1:])])  # fmt: skip
        self.settle(LaggedStart(*[FadeIn(box) for box in boxes], lag_ratio=0.2), FadeIn(names))
        self.play(LaggedStart(*[FadeIn(g) for g in digits], lag_ratio=0.2), FadeIn(pipes))
        self.say(
            f"{d['num_weights']:,} weights, {d['batch']} digits a step; "
            "the four share nothing but pipes."
        )
        self.beat(2.0)
        self.clear_stage()

    def cuts(self) -> None:
        """The batch, the matrices or the stack of layers is cut into four parts."""
        self.say("Three things can be cut. A shade for each rank.")
        n = len(self.data["ring"])
        batch = VGroup(*[piece(2.6, 0.24, i // 2) for i in range(2 * n)]).arrange(DOWN, buff=0.04)
        one = VGroup(*[piece(0.34, 0.55, rank) for rank in range(n)]).arrange(DOWN, buff=0)
        matrices = VGroup(*[one.copy() for _ in range(n)]).arrange(RIGHT, buff=0.4)
        stack = VGroup(*[piece(0.5, 2.2, rank) for rank in range(n)]).arrange(RIGHT, buff=0.25)
        groups = [(batch, "the batch", "data parallel"), (matrices, "the matrices",
                  "tensor parallel"), (stack, "the layers", "pipeline")]  # fmt: skip
        shown = VGroup()
        for i, (picture, what, name) in enumerate(groups):
            place = (i - 1) * 4.5 * RIGHT
            picture.move_to(place + 0.6 * UP)
            shown.add(
                VGroup(
                    picture,
                    text(what, 34, INK).move_to(place + 1.05 * DOWN),
                    text(name, 34, MODEL, bold=True).move_to(place + 1.7 * DOWN),
                )
            )
        self.play(LaggedStart(*[FadeIn(g, shift=0.2 * UP) for g in shown], lag_ratio=0.5),
                  run_time=2.0)  # fmt: skip
        self.say("What a rank lacks must be sent to it. First cut: the batch.")
        self.beat(1.8)
        self.clear_stage()

    # --- the ring ---

    def cell(self, value: float, rank: int, chunk: int, color: str) -> object:
        """A number at its place in a rank's row."""
        size = 32
        return text(f"{value:.0f}", size, color, mono=True, bold=color == LIMIT).move_to(
            self.rows[rank][chunk]
        )

    def ring(self) -> None:
        """Four vectors of four chunks, one on each rank, in a ring."""
        d = self.data
        n = len(d["ring"])
        middles = [3.75 * LEFT + 1.5 * UP, 3.75 * RIGHT + 1.5 * UP,
                   3.75 * RIGHT + 1.35 * DOWN, 3.75 * LEFT + 1.35 * DOWN]  # fmt: skip
        self.rows, names = VGroup(), VGroup()
        for rank, middle in enumerate(middles):
            row = VGroup(*[
                Rectangle(width=1.32, height=0.85, stroke_color=FAINT, stroke_width=2)
                for _ in range(n)
            ]).arrange(RIGHT, buff=0).move_to(middle)  # fmt: skip
            self.rows.add(row)
            side = UP if rank < 2 else DOWN
            names.add(text(f"rank {rank}", 30, MUTED).next_to(row, side, buff=0.2))
        gaps = [(RIGHT, LEFT), (DOWN, UP), (LEFT, RIGHT), (UP, DOWN)]
        self.arrows = VGroup(*[
            Arrow(
                self.rows[r].get_edge_center(a), self.rows[(r + 1) % n].get_edge_center(b),
                buff=0.2, color=MUTED, stroke_width=5, max_tip_length_to_length_ratio=0.15,
            )
            for r, (a, b) in enumerate(gaps)
        ])  # fmt: skip
        self.values = [
            [self.cell(value, rank, c, INPUT) for c, value in enumerate(column["start"])]
            for rank, column in enumerate(d["ring"])
        ]
        self.say("Each rank has a vector of its own: in training, a gradient. All need the sum.")
        self.play(FadeIn(self.rows), FadeIn(names))
        self.play(
            LaggedStart(*[FadeIn(VGroup(*row)) for row in self.values], lag_ratio=0.3),
            LaggedStart(*[GrowArrow(a) for a in self.arrows], lag_ratio=0.3),
            run_time=1.5,
        )
        self.beat(2.0)

    def first_hop(self) -> None:
        """One chunk travels one hop and is added: number by number."""
        d = self.data
        sender = 1
        chunk, value = [d["ring"][sender]["hops"][0][key] for key in ("chunk", "value")]
        receiver = (sender + 1) % len(d["ring"])
        there = d["ring"][receiver]["start"][chunk]
        total = d["ring"][receiver]["hops"][1]["value"]
        assert value + there == total
        self.say("One hop: a rank sends one chunk, and the next adds its own.")
        travelling = self.cell(value, sender, chunk, MODEL)
        self.play(FadeIn(travelling), run_time=0.3)
        sum_text = text(f"{value:.0f} + {there:.0f} = {total:.0f}", 40, MODEL, mono=True)
        sum_text.move_to(0.08 * UP)
        self.play(travelling.animate.move_to(self.arrows[sender]), run_time=0.8)
        self.play(ReplacementTransform(travelling, sum_text), run_time=0.8)
        self.beat(1.2)
        self.play(FadeOut(sum_text), run_time=0.3)

    def hops(self) -> None:
        """All hops, all ranks at once: sums grow around the ring, then go around complete."""
        d = self.data
        n = len(d["ring"])
        count = len(d["ring"][0]["hops"])
        counter = None
        self.say("All four send at once. A chunk grows from hop to hop.", run_time=0.25)
        for hop in range(count):
            new = text(f"hop {hop + 1}", 36, INK, bold=True).move_to(0.08 * UP)
            self.remove(*[counter] if counter is not None else [])
            self.add(new)
            counter = new
            moves, landed = [], []
            for rank in range(n):
                sent, to = d["ring"][rank]["hops"][hop], (rank + 1) % n
                chunk = sent["chunk"]
                old = self.values[to][chunk]
                if hop + 1 < count:
                    value = d["ring"][to]["hops"][hop + 1]["value"]
                else:
                    value = d["ring"][to]["end"][chunk]
                color = LIMIT if value == d["ring"][to]["end"][chunk] else MODEL
                result = self.cell(value, to, chunk, color)
                moves += [TransformFromCopy(self.values[rank][chunk], result), FadeOut(old)]
                landed.append((to, chunk, result))
            self.play(*moves, run_time=0.75)
            for to, chunk, result in landed:
                self.values[to][chunk] = result
            if hop + 1 == n - 1:
                self.say("Each sum is complete on one rank (green) and goes around.", run_time=0.25)
        assert all(column["end"] == d["ring"][0]["end"] for column in d["ring"])
        self.remove(counter)
        sent = text(f"{d['bytes']['data parallel']:,.0f} bytes a step", 36, MODEL, bold=True)
        self.sent = sent.move_to(0.08 * UP)
        self.add(sent)
        self.say(f"Every rank has the whole sum. For {d['num_weights']:,} weights:", run_time=0.25)
        self.beat(1.25)

    def same_ring(self) -> None:
        """Tensor parallelism adds up something else in the same ring."""
        d = self.data
        less = text(f"{d['bytes']['tensor parallel']:,.0f} bytes a step", 36, MODEL, bold=True)
        self.say("Cut the matrices: the same ring adds up what the parts of a layer give.")
        self.play(ReplacementTransform(self.sent, less.move_to(self.sent)), run_time=0.8)
        self.beat(1.8)

    # --- the pipeline ---

    def pipeline(self) -> None:
        """The clock of a pipeline that really ran, in two orders."""
        d = self.data
        unit, height = 0.36, 0.62
        first, second = d["timelines"]["GPipe"], d["timelines"]["1F1B"]
        end = max([start + d["durations"][a] for row in first for a, _, start in row])

        def place(rank: int, action: str, start: float) -> object:
            middle = start + d["durations"][action] / 2 - end / 2
            return middle * unit * RIGHT + (1.5 - rank * (height + 0.18)) * UP + 0.8 * RIGHT

        self.say(f"Cut the layers: {d['num_micro']} small batches pass from rank to rank.")
        boxes: dict = {}
        for rank, row in enumerate(first):
            for action, m, start in row:
                width = d["durations"][action] * unit
                box = Rectangle(
                    width=width - 0.04, height=height, stroke_width=0, fill_opacity=1,
                    fill_color=MODEL if action == "F" else WRONG,
                )  # fmt: skip
                label = text(m, 26, BACKGROUND, mono=True, bold=True)
                boxes[rank, action, m] = VGroup(box, label).move_to(place(rank, action, start))
        names = VGroup(*[
            text(f"rank {r}", 28, MUTED).move_to(6.1 * LEFT + (1.5 - r * (height + 0.18)) * UP)
            for r in range(len(first))
        ])  # fmt: skip
        legend = VGroup(
            text("forward", 30, MODEL, bold=True), text("backward", 30, WRONG, bold=True),
            text("empty: waiting", 30, MUTED),
        ).arrange(RIGHT, buff=0.8).move_to(2.45 * UP)  # fmt: skip
        starts = {(r, a, m): s for r, row in enumerate(first) for a, m, s in row}
        order = sorted(boxes, key=lambda key: starts[key])
        self.play(FadeIn(names), FadeIn(legend), run_time=0.5)
        self.play(
            LaggedStart(*[GrowFromEdge(boxes[key], LEFT) for key in order], lag_ratio=0.12),
            run_time=3.5,
        )
        held = text(f"a rank holds up to {d['held']['GPipe']} small batches", 34, INK)
        held.move_to(1.75 * DOWN)
        self.play(FadeIn(held), run_time=0.4)
        self.say(f"The price is waiting: {d['waiting']:.0%} of the time.")
        self.beat(1.6)
        moves = [
            boxes[rank, action, m].animate.move_to(place(rank, action, start))
            for rank, row in enumerate(second)
            for action, m, start in row
        ]
        fewer = text(f"a rank holds up to {d['held']['1F1B']} small batches", 34, LIMIT)
        fewer.move_to(held)
        self.say("Going back early (1F1B): the same waiting, but less to hold.")
        self.play(*moves, ReplacementTransform(held, fewer), run_time=1.8)
        self.beat(1.6)

    def answer(self) -> None:
        """The bytes for one step of each cut, and that the weights are the same."""
        d = self.data
        self.say(f"Bytes that the busiest rank sends for a step of {d['batch']} digits.",
                 run_time=0.25)  # fmt: skip
        rows = RowBars(
            [
                ("cut the batch", d["bytes"]["data parallel"], MODEL),
                ("cut the matrices", d["bytes"]["tensor parallel"], MODEL),
                ("cut the layers", d["bytes"]["pipeline, 1F1B"], MODEL),
            ],
            length=5.6, size=40, thickness=0.62, form="{:,.0f}",
        ).move_to(0.7 * UP)  # fmt: skip
        grows = text("the last two grow with the batch, the first does not", 32, MUTED)
        grows.move_to(1.5 * DOWN)
        self.play(
            FadeIn(rows.names),
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=0.75,
        )
        self.play(FadeIn(rows.numbers), FadeIn(grows), run_time=0.25)
        self.say(
            f"After {d['steps']} steps the weights are those of one process (gap {d['gap']:.1e}).",
            run_time=0.25,
        )
        self.beat(2.0)
