"""Can attention be exact if its weights are never stored?"""

from __future__ import annotations

from collections.abc import Sequence

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
    Create,
    DashedLine,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    ManimColor,
    Rectangle,
    ReplacementTransform,
    RoundedRectangle,
    Square,
    TransformFromCopy,
    VMobject,
)
from parts import Axes2, RowBars, Strip, tile

SLOW_X, FAST_X, PANEL_Y = -2.75, 4.2, 0.1  # the middles of the two memories
SHADES = 6
UNIT = 1.12  # the length of a share of 1, upright and lying


def picture(rows: Sequence[str], unit: float, color: str, past: int) -> VGroup:
    """Letters a to z as cells in six shades, one shape for each shade (many single squares would
    be slow). Row i has cells up to column i + past.
    """
    squares: list[list] = [[] for _ in range(SHADES)]
    for i, row in enumerate(rows):
        start, seen = 0, row[: i + past + 1]
        shades = [(ord(letter) - ord("a")) * (SHADES - 1) / 25 for letter in seen]
        for j in range(len(seen)):
            if j + 1 == len(seen) or round(shades[j + 1]) != round(shades[start]):
                squares[round(shades[start])].append((start, j + 1.04, i, i + 1.04))
                start = j + 1
    result = VGroup()
    for shade, boxes in enumerate(squares):
        shape = VMobject(stroke_width=0, fill_opacity=1)
        shape.set_fill(
            ManimColor(BACKGROUND).interpolate(
                ManimColor(color), 0.15 + 0.85 * shade / (SHADES - 1)
            )
        )
        points = []
        for left, right, top, bottom in boxes:
            corners = np.array(
                [[left, -top, 0], [right, -top, 0], [right, -bottom, 0], [left, -bottom, 0]]
            )
            for a, b in zip(corners, np.roll(corners, -1, axis=0)):
                points += [a, (2 * a + b) / 3, (a + 2 * b) / 3, b]
        if points:
            result.add(shape.set_points(unit * np.array(points, dtype=float)))
    return result.center()


def panel(words: str, x: float, width: float, height: float = 5.2) -> VGroup:
    """A memory: a frame with its name inside, at the top."""
    frame = RoundedRectangle(
        corner_radius=0.15, width=width, height=height, stroke_color=MUTED, stroke_width=2
    ).move_to(x * RIGHT + PANEL_Y * UP)
    name = text(words, 30, MUTED).move_to(frame.get_top() + 0.35 * DOWN)
    return VGroup(frame, name)


class Film(MicroScene):
    """One row is merged tile by tile, then all rows; then the words that moved are counted."""

    script = "microflash"
    question = "Can attention be exact if its weights are never stored?"

    def story(self) -> None:
        self.ordinary()
        self.clear_stage()
        self.one_row()
        self.clear_stage()
        self.all_rows()
        self.clear_stage()
        self.tile_sizes()
        self.clear_stage()
        with self.preview():
            self.answer()

    def counter(self, words: int, color: str) -> VGroup:
        """The words moved so far, under the fast memory's name."""
        return text(f"{words:,}", 44, color, mono=True).move_to(FAST_X * RIGHT + 1.6 * DOWN)

    def count(self, words: int, color: str) -> None:
        """Write a new number in the counter's place."""
        new = self.counter(words, color)
        self.remove(self.moved)
        self.add(new)
        self.moved = new

    def ordinary(self) -> None:
        """Scores and weights travel between the two memories."""
        d = self.data
        self.ask()
        slow, fast = panel("slow memory, large", SLOW_X, 7.6), panel("fast, small", FAST_X, 4.2)
        inputs = VGroup(*[tile(name, INPUT, 34, 0.7) for name in ("q", "k", "v")])
        inputs.arrange(DOWN, buff=0.35).move_to((SLOW_X - 3.1) * RIGHT + 0.1 * DOWN)
        self.settle(FadeIn(slow), FadeIn(fast), FadeIn(inputs))
        self.say(f"{d['num_rows']} queries score all keys up to their own: a triangle.")
        transfers = iter(d["ordinary_transfers"])
        inside = FAST_X * RIGHT + 0.6 * UP
        chip = Square(1.9, stroke_color=FAINT, stroke_width=3).move_to(inside)
        does = text("compute", 30, MUTED).move_to(inside)
        self.moved = self.counter(0, RIVAL)
        unit = text("words moved", 30, MUTED).next_to(self.moved, UP, buff=0.2)
        self.play(*[FadeIn(m) for m in (chip, does, self.moved, unit)], run_time=0.4)

        def load(*things: object) -> None:
            """Copies go into fast memory and are used up there."""
            copies = [thing.copy() for thing in things]
            self.add(*copies)
            self.play(*[c.animate.scale(0.12).move_to(inside) for c in copies], run_time=0.6)
            self.remove(*copies)
            self.count(next(transfers), RIVAL)

        def store(thing: object, *with_it: object) -> None:
            """A result comes out of fast memory."""
            final = thing.copy()
            thing.scale(0.12).move_to(inside)
            self.add(thing)
            self.play(
                thing.animate.scale(1 / 0.12).move_to(final.get_center()), *with_it, run_time=0.6
            )
            self.count(next(transfers), RIVAL)

        side = 2.6 / d["num_rows"]
        scores = picture(d["triangle"], side, MUTED, 0).move_to((SLOW_X - 1.0) * RIGHT + 0.2 * DOWN)
        weights = picture(d["triangle"], side, RIVAL, 0)
        weights.move_to((SLOW_X + 2.05) * RIGHT + 0.2 * DOWN)
        names = [
            text(name, 30, color).next_to(image, DOWN, buff=0.2)
            for name, color, image in (("scores", MUTED, scores), ("weights", RIVAL, weights))
        ]
        load(inputs[0], inputs[1])
        store(scores, FadeIn(names[0]))
        self.say(f"{d['num_weights']:,} scores become as many weights. Both are stored and loaded.")
        load(scores)
        store(weights, FadeIn(names[1]))
        load(weights, inputs[2])
        out = tile("out", RIVAL, 32, 0.7).move_to((SLOW_X + 2.6) * RIGHT + 1.45 * UP)
        store(out)
        self.beat(1.0)
        self.say("On a GPU these moves take the time. Here they are counted, not timed.")
        self.beat(1.5)

    def one_row(self) -> None:
        """The last query's scores arrive 16 at a time; its sum is rescaled and added to."""
        d = self.data
        block, walk = d["block"], d["walk"]
        cell = 0.118
        strip = Strip(d["scores"], cell).stretch_to_fit_height(0.4).move_to(2.05 * UP)
        title = text(f"the last query's {d['num_rows']} scores", 30, MUTED)
        title.next_to(strip, UP, buff=0.14)
        self.say("A row's weights need its largest score and its sum. A tile has only a part.")
        self.play(FadeIn(strip), FadeIn(title))
        left, ground, lying = -5.9, -0.55, -1.75
        base_line = Line(left * RIGHT, (left + 6.0) * RIGHT, color=MUTED).set_stroke(width=2)
        base_line.shift(ground * UP)
        top = DashedLine(left * RIGHT, (left + 6.0) * RIGHT, color=MUTED).set_stroke(width=2)
        top.shift((ground + UNIT) * UP)
        sum_name = text("sum so far", 30, MODEL).move_to((lying - 0.55) * UP)
        sum_name.shift((left - sum_name.get_left()[0]) * RIGHT)

        def window(n: int) -> Rectangle:
            count = len(walk[n]["exponentials"])
            frame = Rectangle(width=count * cell, height=0.56, stroke_color=MODEL, stroke_width=4)
            start = strip.get_left()[0] + n * block * cell
            return frame.move_to((start + count * cell / 2) * RIGHT + strip.get_y() * UP)

        def bars(n: int, times: float = 1.0) -> VGroup:
            shapes = VGroup()
            for i, value in enumerate(walk[n]["exponentials"]):
                bar = Rectangle(
                    width=0.27, height=max(value * times * UNIT, 1e-3), stroke_width=0,
                    fill_color=INPUT, fill_opacity=1,
                )  # fmt: skip
                place = (left + 0.2 + 0.37 * i + 0.135) * RIGHT + ground * UP
                shapes.add(bar.move_to(place, aligned_edge=DOWN))
            return shapes

        def piece(start: float, length: float) -> Rectangle:
            """A part of the sum, lying."""
            shape = Rectangle(
                width=max(length * UNIT, 1e-3), height=0.4, stroke_width=0, fill_color=MODEL,
                fill_opacity=1,
            )  # fmt: skip
            return shape.move_to((left + start * UNIT) * RIGHT + lying * UP, aligned_edge=LEFT)

        def pieces(n: int, start: float) -> VGroup:
            """The bars of a tile end to end."""
            parts = VGroup()
            for value in walk[n]["exponentials"]:
                share = value * walk[n]["new_times"]
                parts.add(piece(start, share))
                start += share
            assert abs(start - walk[n]["sum"]) < 1e-3
            return parts

        def number(n: int) -> VGroup:
            words = text(f"{walk[n]['sum']:.2f}", 36, MODEL, mono=True)
            return words.next_to(sum_name, RIGHT, buff=0.35)

        def largest(n: int) -> VGroup:
            words = text(f"{walk[n]['largest']:.2f}", 36, MODEL, mono=True)
            return words.next_to(largest_name, RIGHT, buff=0.35)

        def become(old: object, new: object) -> object:
            """Put the new thing in the old one's place at once."""
            self.remove(old)
            self.add(new)
            return new

        # The first tile: nothing to merge with yet.
        frame = window(0)
        current = bars(0)
        largest_name = text("largest so far", 30, MODEL).move_to(0.95 * UP + 2.2 * RIGHT)
        biggest = largest(0)
        self.play(Create(frame), run_time=0.5)
        part = VGroup(*strip[:block])
        self.play(TransformFromCopy(part, current), FadeIn(base_line), FadeIn(top), run_time=0.8)
        self.play(FadeIn(largest_name), TransformFromCopy(part, biggest), run_time=0.6)
        self.say("Each bar is exp(score − largest so far).")
        self.beat(1.0)
        self.say("Laid end to end, they are the sum so far.")
        lain = pieces(0, 0.0)
        total, label = piece(0.0, walk[0]["sum"]), number(0)
        self.play(
            LaggedStart(*[ReplacementTransform(b, p) for b, p in zip(current, lain)],
                        lag_ratio=0.06),
            FadeIn(sum_name), FadeIn(label), run_time=1.2,
        )  # fmt: skip
        become(lain, total)
        self.beat(1.5)

        # The second one holds a larger score: the old sum is measured anew, number by number.
        step = walk[1]
        current = bars(1)
        self.play(frame.animate.become(window(1)), run_time=0.4)
        part = VGroup(*strip[block : 2 * block])
        self.play(TransformFromCopy(part, current), run_time=0.7)
        self.say("The next tile has a larger score: the old sum must shrink.")
        old, new = walk[0]["largest"], step["largest"]
        lines = VGroup(
            text(f"exp({old:.2f} − {new:.2f}) = {step['old_times']:.2f}", 34, INK),
            text(f"{walk[0]['sum']:.2f} × {step['old_times']:.2f}", 34, MODEL),
            text(f"+ {step['part_sum']:.2f}", 34, INPUT),
        )
        lines[0].move_to(0.2 * UP + 3.3 * RIGHT)
        VGroup(*lines[1:]).arrange(RIGHT, buff=0.2).move_to(0.5 * DOWN + 3.3 * RIGHT)
        bigger = largest(1)
        self.play(ReplacementTransform(biggest, bigger), FadeIn(lines[0]), run_time=0.6)
        biggest = bigger
        self.play(
            total.animate.become(piece(0.0, walk[0]["sum"] * step["old_times"])),
            TransformFromCopy(label, lines[1]), run_time=1.0,
        )  # fmt: skip
        lain = pieces(1, walk[0]["sum"] * step["old_times"])
        self.play(FadeIn(lines[2]), run_time=0.3)
        self.play(
            LaggedStart(*[ReplacementTransform(b, p) for b, p in zip(current, lain)],
                        lag_ratio=0.06),
            ReplacementTransform(label, label := number(1)), run_time=1.0,
        )  # fmt: skip
        self.remove(lain)
        total = become(total, piece(0.0, step["sum"]))
        self.beat(1.5)
        self.play(FadeOut(lines), run_time=0.3)

        # The others, faster.
        with self.preview():
            self.say("Tile after tile is summed and forgotten. A new largest score rescales.",
                     run_time=0.25)  # fmt: skip
            for n in range(2, len(walk)):
                step = walk[n]
                kept = walk[n - 1]["sum"] * step["old_times"]
                current = bars(n)
                part = VGroup(*strip[n * block : (n + 1) * block])
                self.play(
                    frame.animate.become(window(n)), TransformFromCopy(part, current),
                    run_time=1 / 3,
                )  # fmt: skip
                # The smaller of the two largest scores gives way.
                self.play(
                    total.animate.become(piece(0.0, kept)),
                    current.animate.become(bars(n, step["new_times"])),
                    run_time=0.25,
                )
                biggest = become(biggest, largest(n))
                lain = pieces(n, kept)
                self.play(
                    *[ReplacementTransform(b, p) for b, p in zip(current, lain)], run_time=1 / 3
                )
                self.remove(lain, current)
                total = become(total, piece(0.0, step["sum"]))
                label = become(label, number(n))
            whole = text(f"all at once: {d['whole_sum']:.2f}", 36, LIMIT)
            whole.next_to(label, RIGHT, buff=0.9)
            self.play(FadeIn(whole), run_time=0.25)
            self.beat(1.0)

    def all_rows(self) -> None:
        """A window passes over the triangle; nothing in it is kept but sums and outputs."""
        d = self.data
        block, rows = d["block"], d["num_rows"]
        slow, fast = panel("slow memory", SLOW_X, 7.6), panel("fast memory", FAST_X, 4.2)
        side = 3.7 / rows
        corner = (SLOW_X - 2.55) * RIGHT + 1.85 * UP

        def place(row: int, column: int, high: int, wide: int) -> Square:
            shape = Rectangle(
                width=wide * side, height=high * side, stroke_color=FAINT, stroke_width=2
            )
            across, downward = column * block + wide / 2, row * block + high / 2
            return shape.move_to(corner + across * side * RIGHT + downward * side * DOWN)

        cells = VGroup()
        for step in d["tiles"]:
            cells.add(place(*step["place"], len(step["levels"]), len(step["levels"][0])))
        unstored = text("never stored", 30, MUTED).move_to(corner + 2.75 * RIGHT + 0.75 * DOWN)
        out_name = text("out", 30, MODEL).move_to((SLOW_X + 3.0) * RIGHT + 2.05 * DOWN)
        self.moved = self.counter(0, MODEL)
        unit = text("words moved", 30, MUTED).next_to(self.moved, UP, buff=0.2)
        self.say(f"So a tile of {block} by {block} at a time is enough, for all rows.")
        self.play(
            FadeIn(slow), FadeIn(fast), FadeIn(cells), FadeIn(unstored), FadeIn(out_name),
            FadeIn(unit), FadeIn(self.moved),
        )  # fmt: skip
        pixel, sums_x = 0.12, FAST_X + 0.3
        middle = (FAST_X - 0.85) * RIGHT + 0.9 * UP
        largest_sum = max([max(step["sums"]) for step in d["tiles"]])

        def held(n: int) -> tuple[VGroup, VGroup]:
            """The tile in fast memory, and the sums of its rows."""
            step = d["tiles"][n]
            row, column = step["place"]
            image = picture(step["levels"], pixel, MODEL, (row - column) * block)
            image.move_to(middle)
            lengths = VGroup()
            for i, value in enumerate(step["sums"]):
                y = image.get_top()[1] - (i + 0.5) * pixel
                bar = Rectangle(
                    width=value / largest_sum * 1.4, height=0.08, stroke_width=0,
                    fill_color=MODEL, fill_opacity=1,
                )  # fmt: skip
                lengths.add(bar.move_to(sums_x * RIGHT + y * UP, aligned_edge=LEFT))
            return image, lengths

        window = cells[0].copy().set_stroke(MODEL, 5).set_fill(MODEL, 0.35)
        image, lengths = held(0)
        sums_name = text("sums", 28, MODEL).move_to((sums_x + 0.7) * RIGHT + 0.35 * DOWN)
        tile_name = text("tile", 28, MUTED).move_to((FAST_X - 0.85) * RIGHT + 0.35 * DOWN)
        from_window = image.copy().scale(0.3).move_to(window)
        self.play(FadeIn(window), run_time=0.3)
        self.add(from_window)
        self.play(
            from_window.animate.scale(1 / 0.3).move_to(middle), FadeIn(sums_name),
            FadeIn(tile_name), run_time=0.6,
        )  # fmt: skip
        self.remove(from_window)
        self.add(image)
        self.play(LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in lengths]), run_time=0.5)
        self.count(d["tiles"][0]["moved"], MODEL)
        outs = VGroup()
        for n, step in enumerate(d["tiles"]):
            row, column = step["place"]
            if n:
                self.remove(image, lengths)
                image, lengths = held(n)
                self.add(image, lengths)
                self.count(step["moved"], MODEL)
                shape = cells[n].copy().set_stroke(MODEL, 5).set_fill(MODEL, 0.35)
                self.play(window.animate.become(shape), run_time=0.15 if n > 5 else 0.3)
            if row == column:  # the row of tiles is done: out leaves fast memory
                high = len(step["levels"])
                strip = Rectangle(
                    width=0.5, height=high * side, stroke_color=MODEL, stroke_width=1,
                    fill_color=MODEL, fill_opacity=0.8,
                )  # fmt: skip
                y = cells[n].get_y()
                strip.move_to((SLOW_X + 3.0) * RIGHT + y * UP)
                outs.add(strip)
                self.play(TransformFromCopy(lengths, strip), run_time=0.3)
        self.count(d["flash_moved"], MODEL)
        before = text(f"ordinary: {d['ordinary_transfers'][-1]:,}", 28, RIVAL)
        before.next_to(self.moved, DOWN, buff=0.12)
        self.play(FadeIn(before), run_time=0.3)
        self.say(f"The outputs differ by {d['out_error']:.0e} at most: rounding. "
                 f"At most {d['most_held']} words were held.")  # fmt: skip
        self.beat(2.0)

    def tile_sizes(self) -> None:
        """Words moved by each size of tile; the smallest tiles are worse than no tiles."""
        d = self.data
        traffic = d["traffic"]
        rows = [("ordinary", traffic["ordinary"], RIVAL)]
        for entry in traffic["flash"]:
            plural = "s" if entry["block"] > 1 else ""
            rows.append((f"tiles of {entry['block']} row{plural}", entry["moved"], MODEL))
        rows.append((f"tiles of {traffic['refused']['block']} rows", 0, MODEL))
        rows.append(("least possible", traffic["floor"], LIMIT))
        chart = RowBars(rows, length=6.6, size=32, thickness=0.42, gap=0.3, form="{:,}")
        chart.move_to(0.1 * UP)
        full = text("does not fit", 32, WRONG)
        full.move_to(chart.numbers[-2], aligned_edge=LEFT)
        chart.numbers[-2].become(full)
        chart.numbers[-2].words = full.words

        def grow(i: int, run_time: float = 0.5) -> None:
            self.play(
                FadeIn(chart.names[i]), GrowFromEdge(chart.bars[i], LEFT),
                FadeIn(chart.numbers[i]), run_time=run_time,
            )  # fmt: skip

        self.say(
            f"Words moved for {d['compare_length']} rows, with the backward pass, "
            "which computes the weights again."
        )
        grow(0, 0.8)
        self.say(f"Storing no weights is not enough: tiles of 1 row move "
                 f"{traffic['worse']:.1f} times more.")  # fmt: skip
        grow(1, 1.2)
        self.beat(1.5)
        for i in range(2, len(rows)):
            grow(i)
        refused = traffic["refused"]
        self.say(
            f"Larger tiles move less. {refused['block']} rows do not fit: "
            f"{refused['words']:,} words, and there is room for {d['fast_words']:,}.",
            color=WRONG,
        )
        self.beat(2.0)
        self.say(
            f"The best tiles: {d['run']['traffic_ratio']:.1f} times fewer words than ordinary, "
            f"{traffic['above_floor']:.1f} times the least."
        )
        self.beat(2.0)

    def answer(self) -> None:
        """Memory and traffic against N, ordinary and flash."""
        d = self.data
        growth = d["growth"]
        lengths = growth["lengths"]
        self.say("Now longer texts: N is the number of rows.", run_time=0.25)
        charts, curves, ends = [], [], []
        for x, kind, title, form in (
            (-4.1, "megabytes", "memory held, MB", "{:.1f}"),
            (2.2, "words", "words moved", "{:,}"),
        ):
            top = growth["ordinary"][kind][-1]
            axes = Axes2((0, lengths[-1]), (0, top), 3.8, 3.4, f"N up to {lengths[-1]}", size=30)
            axes.shift(x * RIGHT + 0.15 * DOWN - axes.get_center())
            name = text(title, 34, INK).next_to(axes, UP, buff=0.2).set_x(axes.up.get_x() + 1.7)
            charts.append(VGroup(axes, name))
            for who, color in (("ordinary", RIVAL), ("flash", MODEL)):
                points = list(zip(lengths, growth[who][kind]))
                curves.append(axes.curve(points, color, 7))
                number = text(f"{who}\n{form.format(points[-1][1])}", 30, color)
                number.next_to(axes.at(*points[-1]), RIGHT, buff=0.15)
                ends.append(number)
        ends[0].shift(0.25 * DOWN)
        ends[2].shift(0.25 * DOWN)
        self.play(*[FadeIn(chart) for chart in charts], run_time=0.5)
        self.play(*[Create(curve) for curve in curves], run_time=1.5)
        self.play(*[FadeIn(end) for end in ends], run_time=0.25)
        self.say(
            f"Twice the rows take {growth['megabytes_times']:.1f} times the memory, "
            f"but {growth['words_times']:.1f} times the words.",
            run_time=0.25,
        )
        self.beat(1.25)
        self.say(
            f"Yes: off by {d['run']['error']:.1e} at most, and memory is linear in N. "
            "The words are fewer, but close to N².",
            run_time=0.25,
        )
        self.beat(2.0)
