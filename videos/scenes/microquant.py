"""Can a network live on two bits per weight?"""

from __future__ import annotations

from base import (
    BACKGROUND,
    DOWN,
    FAINT,
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
    Circle,
    Create,
    CurvedArrow,
    Dot,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    Transform,
)
from parts import Bars, RowBars

FIRST_X, STEP_X = -5.75, 0.54  # the weights stand side by side
ZERO_Y, HEIGHT = 1.05, 1.25  # a weight as large as the row's scale is 1.25 high
COLUMN_X = 4.9  # the middle of what stands to the right of the weights
GAUGE_Y, GAUGE = -1.75, 3.4  # the largest rise is 3.4 high


class Film(MicroScene):
    """Sixteen real weights fall on fewer and fewer levels; then GPTQ repairs each error."""

    script = "microquant"
    question = "Can a network live on two bits per weight?"

    def story(self) -> None:
        self.unit = HEIGHT / self.data["scales"]["channel_2"]
        self.the_weights()
        self.fewer_bits()
        self.one_repair()
        with self.preview():
            self.sweep()
        self.clear_stage()
        self.shuffle()
        self.clear_stage()
        self.say("So what do two bits cost, stored in five ways?")
        with self.preview():
            self.answer()
        self.bytes_too()

    # --- the picture: weights side by side, a level is a line across ---

    def place(self, k: int, value: float) -> object:
        """Where weight k stands if it has this value."""
        return (FIRST_X + k * STEP_X) * RIGHT + (ZERO_Y + value * self.unit) * UP

    def level_lines(self, key: str) -> VGroup:
        """The levels of a scale as lines; the few of 2 bits also have their numbers."""
        bits, scale = int(key[-1]), self.data["scales"][key]
        half = 2 ** (bits - 1)
        lines = VGroup()
        for level in range(-half, half):
            y = (ZERO_Y + level * scale * self.unit) * UP
            ends = [(FIRST_X - 0.3) * RIGHT + y, (FIRST_X + 15.5 * STEP_X) * RIGHT + y]
            line = Line(*ends, color=FAINT).set_stroke(width={8: 1, 4: 2, 2: 4}[bits])
            lines.add(line)
        return lines

    def level_names(self, key: str) -> VGroup:
        """-2, -1, 0, 1 before the lines."""
        scale = self.data["scales"][key]
        return VGroup(
            *[
                text(f"{level}", 28, MUTED, mono=True).move_to(
                    (FIRST_X - 0.65) * RIGHT + (ZERO_Y + level * scale * self.unit) * UP
                )
                for level in range(-2, 2)
            ]
        )

    def gap(self, k: int, value: float) -> Line:
        """The error of weight k: from what it was to what it is."""
        start, end = self.place(k, self.data["row"][k]), self.place(k, value)
        return Line(start, end + 1e-3 * UP, color=WRONG).set_stroke(width=5)

    def snap(self, key: str) -> list:
        """Animations that take every weight to its nearest level, and its error with it."""
        scale, levels = self.data["scales"][key], self.data["nearest"][key]
        result = []
        for k, level in enumerate(levels):
            result.append(self.dots[k].animate.move_to(self.place(k, scale * level)))
            result.append(Transform(self.gaps[k], self.gap(k, scale * level)))
        return result

    def cost(self, key: str) -> tuple:
        """The rise of the loss as a bar, its number, and the bytes that are stored."""
        stored = self.data["stored"][key]
        most = self.data["stored"]["matrix_2"]["rise"]
        bar = Rectangle(
            width=1.1,
            height=max(GAUGE * stored["rise"] / most, 0.01),
            stroke_width=0,
            fill_color=RIVAL,
            fill_opacity=1,
        ).move_to(COLUMN_X * RIGHT + GAUGE_Y * UP, aligned_edge=DOWN)
        digits = 3 if round(abs(stored["rise"]), 3) else 4
        number = text(f"{stored['rise']:+.{digits}f}", 36, RIVAL).next_to(bar, UP, buff=0.15)
        size = text(f"{stored['bytes']:,} bytes", 32, MUTED).move_to(COLUMN_X * RIGHT + 2.65 * UP)
        return bar, number, size

    def writes(self, names: list[str]) -> VGroup:
        """Names that a model writes, drawn with the same random numbers."""
        words = VGroup(text("it writes", 30, MUTED), text("  ".join(names), 32, INPUT, mono=True))
        words.arrange(RIGHT, buff=0.45, aligned_edge=UP)
        return words.move_to((FIRST_X + 7.5 * STEP_X) * RIGHT + 2.45 * DOWN)

    # --- the story ---

    def the_weights(self) -> None:
        """A row of weights, and what the network does with all of them."""
        d = self.data
        self.ask()
        self.zero = Line(self.place(0, 0) + 0.3 * LEFT, self.place(15, 0) + 0.27 * RIGHT)
        self.zero.set_stroke(MUTED, 2)
        self.dots = VGroup(
            *[Dot(self.place(k, w), radius=0.12, color=INPUT) for k, w in enumerate(d["row"])]
        )
        stems = VGroup(
            *[
                Line(self.place(k, 0), self.place(k, w) + 1e-3 * UP).set_stroke(INPUT, 3)
                for k, w in enumerate(d["row"])
            ]
        )
        self.settle(
            Create(self.zero),
            LaggedStart(*[FadeIn(dot) for dot in self.dots], lag_ratio=0.1),
            LaggedStart(*[Create(stem) for stem in stems], lag_ratio=0.1),
        )
        size = text(f"{d['float_bytes']:,} bytes", 32, MUTED).move_to(COLUMN_X * RIGHT + 2.65 * UP)
        self.words = self.writes(d["float_names"])
        self.play(FadeIn(self.words), FadeIn(size))
        self.say(f"{len(d['row'])} of the {d['num_weights']:,} weights of a network, 32 bits each.")
        self.beat(1.5)
        self.say(f"Its loss is {d['float_loss']:.2f} nats per letter. By how much will it rise?")
        self.beat(1.5)
        self.size, self.stems = size, stems

    def fewer_bits(self) -> None:
        """8, 4 and 2 bits, each weight to its nearest level."""
        d = self.data
        ghosts = VGroup(
            *[
                Circle(radius=0.12, color=INPUT)
                .set_stroke(width=2)
                .set_fill(BACKGROUND, 0)
                .move_to(self.place(k, w))
                for k, w in enumerate(d["row"])
            ]
        )
        self.gaps = VGroup(*[self.gap(k, w) for k, w in enumerate(d["row"])])
        lines = self.level_lines("channel_8")
        lines.set_z_index(-2)
        bar, number, size = self.cost("row_8")
        label = text("rise of the loss", 28, MUTED).move_to(
            COLUMN_X * RIGHT + (GAUGE_Y - 0.35) * UP
        )
        self.add(ghosts, self.gaps, self.dots)
        rise = abs(d["stored"]["row_8"]["rise"])
        self.say(f"8 bits: {d['num_levels']['8']} levels. The loss moves by {rise:.4f}: free.")
        self.play(
            FadeIn(lines), FadeOut(self.stems), FadeOut(self.zero), FadeIn(label), FadeIn(bar),
            FadeIn(number), ReplacementTransform(self.size, size),
            *[dot.animate.set_color(RIVAL) for dot in self.dots],
        )  # fmt: skip
        written = self.writes(d["stored"]["row_8"]["names"])
        self.play(*self.snap("channel_8"), ReplacementTransform(self.words, written))
        self.words = written
        self.beat(1.5)
        shown = [bar, number, size]
        names = VGroup()
        for key, stored, caption in (
            ("channel_4", "row_4", f"4 bits: {d['num_levels']['4']} levels. Still nearly free."),
            ("tensor_2", "matrix_2", f"2 bits: {d['num_levels']['2']} levels, and it breaks."),
            ("channel_2", "row_2", "A scale for each row, not one for all: the steps get finer."),
        ):
            new_lines = self.level_lines(key).set_z_index(-2)
            new = list(self.cost(stored))
            self.say(caption)
            changes = [ReplacementTransform(lines, new_lines)]
            if key == "tensor_2":
                names = self.level_names(key)
                changes += [FadeIn(names)]
            elif key == "channel_2":
                changes += [Transform(names, self.level_names(key))]
            written = self.writes(d["stored"][stored]["names"])
            changes += [ReplacementTransform(self.words, written)]
            self.words = written
            self.play(*changes, *self.snap(key), run_time=1.2)
            self.play(*[ReplacementTransform(a, b) for a, b in zip(shown, new)], run_time=0.8)
            self.beat(1.5)
            shown, lines = new, new_lines
        self.lines, self.names, self.ghosts = lines, names, ghosts
        self.play(*[FadeOut(m) for m in (*shown, label, self.words)], run_time=0.4)

    def state(self, done: int) -> list:
        """Animations to the row as it is when so many weights are rounded by GPTQ."""
        d = self.data
        result = []
        for k, value in enumerate(d["states"][done]):
            if k < done:
                value = d["scales"]["channel_2"] * d["levels"][k]
            goal = self.dots[k].animate.move_to(self.place(k, value))
            result.append(goal.set_color(MODEL if k < done else INPUT))
        return result

    def cloud(self, points: list) -> VGroup:
        """Two inputs against each other, one dot for each symbol read."""
        middle, unit = COLUMN_X * RIGHT + 0.75 * UP, 0.52
        dots = VGroup(
            *[
                Dot(middle + unit * (x * RIGHT + y * UP), radius=0.04, color=INPUT)
                for x, y in points
            ]
        )
        return dots.set_opacity(0.8)

    def cross(self) -> VGroup:
        """The axes of the cloud, with their names."""
        which, middle = self.data["repair"]["source"] + 1, COLUMN_X * RIGHT + 0.75 * UP
        across = Line(middle + 1.7 * LEFT, middle + 1.7 * RIGHT).set_stroke(MUTED, 2)
        up = Line(middle + 1.55 * DOWN, middle + 1.55 * UP).set_stroke(MUTED, 2)
        first = text(f"input {which}", 28, MUTED).move_to(middle + 1.95 * DOWN)
        second = text(f"input {which + 1}", 28, MUTED).move_to(middle + 1.85 * UP)
        return VGroup(across, up, first, second)

    def one_repair(self) -> None:
        """One error and one repair, number by number."""
        d, r = self.data, self.data["repair"]
        j = r["source"]
        self.say("But only the output counts: each weight times its input, summed up.")
        axes, points = self.cross(), self.cloud(r["points"])
        rings = VGroup(
            *[
                Circle(radius=0.24, color=INPUT).set_stroke(width=3).move_to(self.dots[k])
                for k in (j, j + 1)
            ]
        )
        self.play(FadeIn(axes), Create(rings))
        self.play(LaggedStart(*[FadeIn(p) for p in points], lag_ratio=0.01), run_time=1.0)
        self.say(f"Inputs {j + 1} and {j + 2} tend to rise and fall together.")
        self.beat(1.5)
        self.say(f"GPTQ goes from left to right. {j} weights are rounded; now comes the next.")
        self.play(
            *self.state(j), *[FadeOut(gap) for gap in self.gaps],
            *[
                ring.animate.move_to(self.place(k, d["states"][j][k]))
                for ring, k in zip(rings, (j, j + 1))
            ],
            run_time=1.5,
        )  # fmt: skip
        self.beat(1.0)
        scale = d["scales"]["channel_2"]
        left = (FIRST_X - 0.3) * RIGHT
        lost = text(
            f"weight {j + 1}:  {r['wanted']:.2f}, rounded to {d['levels'][j]}:"
            f"  {r['missing']:.2f} is missing", 32, WRONG,
        ).move_to(left + 1.95 * DOWN, aligned_edge=LEFT)  # fmt: skip
        found = text(
            f"weight {j + 2}:  {r['before']:.2f} + {r['push']:.2f} = {r['after']:.2f}", 32, MODEL
        ).move_to(left + 2.5 * DOWN, aligned_edge=LEFT)
        here = self.place(j, scale * d["levels"][j])
        error = Line(self.place(j, scale * r["wanted"]), here).set_stroke(WRONG, 6)
        self.play(
            self.dots[j].animate.move_to(here).set_color(MODEL), Create(error), FadeIn(lost),
            FadeOut(rings[0]), run_time=1.0,
        )  # fmt: skip
        self.say("So the next weight can make good a part of what is missing.")
        arrow = CurvedArrow(
            error.get_center() + 0.1 * RIGHT,
            self.place(j + 1, scale * r["after"]) + 0.2 * UP,
            angle=-1.6, color=WRONG, stroke_width=4, tip_length=0.16,
        )  # fmt: skip
        goal = self.place(j + 1, scale * r["after"])
        self.play(Create(arrow), FadeIn(found), self.dots[j + 1].animate.move_to(goal),
                  rings[1].animate.move_to(goal))  # fmt: skip
        self.beat(2.0)
        self.play(
            *[FadeOut(m) for m in (arrow, error, lost, found, axes, points, rings[1])], run_time=0.4
        )
        self.play(*self.snap("channel_2"), *[FadeIn(gap) for gap in self.gaps], run_time=0.6)
        self.dots.set_color(RIVAL)
        self.say("To the nearest level: each weight by itself.")

    def sweep(self) -> None:
        """The whole row, from left to right."""
        d = self.data
        errors = d["output_error"]
        most = errors["nearest"]
        bars = Bars(
            [errors["nearest"], 0.0, errors["best"]],
            ["nearest", "GPTQ", "best"],
            unit=3.2 / most,
            width=0.8,
            gap=0.6,
            color=[RIVAL, MODEL, LIMIT],
            size=30,
            mono=False,
        )
        bars.move_to((COLUMN_X - 0.15) * RIGHT + 2.2 * DOWN, aligned_edge=DOWN)
        title = text("error of the output", 30, MUTED).move_to(COLUMN_X * RIGHT + 2.65 * UP)

        def number(i: int, value: float, color: str) -> object:
            return text(f"{value:.2f}", 34, color).next_to(bars.bars[i], UP, buff=0.12)

        best_bar = bars.bars[2].copy()
        numbers = [number(0, errors["nearest"], RIVAL)]
        bars.bars[2].set_opacity(0)
        bars.labels[2].set_opacity(0)
        words = self.writes(d["stored"]["row_2"]["names"])
        self.add(bars, title, numbers[0], words)
        self.beat(1.0)
        self.say("GPTQ: each error moves the weights after it.", run_time=0.25)
        self.play(*self.state(0), *[FadeOut(gap) for gap in self.gaps], run_time=0.5)
        for done in range(1, len(d["row"]) + 1):
            heights = bars.heights([most, d["running"][done], errors["best"]])
            self.play(*self.state(done), heights[1], run_time=0.25)
        numbers.append(number(1, errors["gptq"], MODEL))
        numbers.append(number(2, errors["best"], LIMIT))
        other = [k for k, v in enumerate(d["levels"]) if v != d["nearest"]["channel_2"][k]]
        rings = [
            Circle(radius=0.24, color=MODEL).set_stroke(width=4).move_to(self.dots[k])
            for k in other
        ]
        self.say(f"{len(other)} weights leave their nearest level. The output errs less.",
                 run_time=0.25)  # fmt: skip
        bars.labels[2].set_opacity(1)
        self.play(
            FadeIn(numbers[1]), *[Create(ring) for ring in rings], FadeIn(numbers[2]),
            GrowFromEdge(best_bar, DOWN), FadeIn(bars.labels[2]),
            ReplacementTransform(words, self.writes(d["stored"]["gptq_2"]["names"])), run_time=0.5,
        )  # fmt: skip
        self.beat(1.25)

    def shuffle(self) -> None:
        """The control: each input keeps its values, but they no longer go together."""
        d, r = self.data, self.data["repair"]
        axes, points = self.cross(), self.cloud(r["points"])
        moved = self.cloud(r["shuffled_points"])
        VGroup(axes, points, moved).shift(8.4 * LEFT)
        rises = [d["stored"]["row_2"]["rise"], d["stored"]["gptq_2"]["rise"], d["shuffled"]]
        rows = RowBars(
            [
                ("nearest", rises[0], RIVAL),
                ("GPTQ", rises[1], MODEL),
                ("GPTQ, shuffled", rises[2], MODEL),
            ],
            length=3.6, size=32, thickness=0.55, form="+{:.3f}",
        ).move_to(2.4 * RIGHT + 0.5 * UP)  # fmt: skip
        title = text("rise of the loss, 2 bits", 30, MUTED).next_to(rows, UP, buff=0.4)
        self.play(FadeIn(axes), FadeIn(points), FadeIn(title), FadeIn(rows.names[:2]),
                  FadeIn(rows.bars[:2]), FadeIn(rows.numbers[:2]))  # fmt: skip
        self.say("A test: GPTQ sees each input shuffled by itself. Nothing goes together.")
        self.play(ReplacementTransform(points, moved), run_time=1.5)
        self.play(FadeIn(rows.names[2]), GrowFromEdge(rows.bars[2], LEFT), run_time=0.8)
        self.play(FadeIn(rows.numbers[2]), run_time=0.3)
        self.say("Then GPTQ gains nothing: it lives on what goes together.")
        self.beat(2.0)

    def answer(self) -> None:
        """What 2 bits cost, stored in five ways."""
        stored = self.data["stored"]
        rows = [
            ("one scale for a matrix", stored["matrix_2"]["rise"], RIVAL),
            ("one for each row", stored["row_2"]["rise"], RIVAL),
            ("the same, GPTQ", stored["gptq_2"]["rise"], MODEL),
            ("scale clipped", stored["clipped_2"]["rise"], RIVAL),
            ("clipped, GPTQ", stored["both_2"]["rise"], MODEL),
            ("at 3 bits: a matrix, GPTQ", stored["matrix_3_gptq"]["rise"], MODEL),
        ]
        self.rows = RowBars(rows, length=5.6, size=34, thickness=0.46, gap=0.26, form="+{:.3f}")
        self.rows.move_to(0.35 * DOWN)
        title = text("at 2 bits: rise of the loss on new names", 34, MUTED).move_to(2.5 * UP)
        names, bars, numbers = self.rows.names[:5], self.rows.bars[:5], self.rows.numbers[:5]
        self.play(FadeIn(names), FadeIn(title), run_time=0.25)
        self.play(LaggedStart(*[GrowFromEdge(b, LEFT) for b in bars], lag_ratio=0.3), run_time=1)
        self.play(FadeIn(numbers), run_time=0.25)
        self.say(
            f"Yes: +{stored['matrix_2']['rise']:.2f} becomes +{stored['gptq_2']['rise']:.2f} "
            f"with GPTQ, +{stored['clipped_2']['rise']:.2f} with a clipped scale for each row.",
            run_time=0.25,
        )  # fmt: skip
        self.beat(2.0)

    def bytes_too(self) -> None:
        """What it takes in bytes, and its rival."""
        d = self.data
        both, three = d["stored"]["both_2"], d["stored"]["matrix_3_gptq"]
        self.say(f"{both['bytes']:,} bytes instead of {d['float_bytes']:,}."
                 f" Clipping and GPTQ together gain no more.")  # fmt: skip
        self.beat(1.75)
        rows = self.rows
        self.play(FadeIn(rows.names[5]), GrowFromEdge(rows.bars[5], LEFT), FadeIn(rows.numbers[5]))
        self.say(f"Yet 3 bits, with one scale for a matrix, take only {three['bytes']:,} bytes: "
                 f"+{three['rise']:.3f}.")  # fmt: skip
        self.beat(2.0)
