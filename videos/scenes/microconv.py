"""Learned in one place: who reads a digit anywhere?"""

from __future__ import annotations

from collections.abc import Sequence

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
    MicroScene,
    VGroup,
    text,
)
from manim import (
    Create,
    FadeIn,
    FadeOut,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    Square,
    SurroundingRectangle,
    Transform,
    TransformFromCopy,
    linear,
)
from parts import Grid, shade

DIGIT, CANVAS = 8, 12  # pixels on a side
PIXEL = 0.3
CENTRE = 2  # the offset in training, down and right
CHARTS = {
    "mlp": ("MLP", RIVAL),
    "augmented": ("MLP trained\nat all places", RIVAL),
    "tiled": ("filters, best\nin each tile", MODEL),
    "global": ("filters, best\nof all places", MODEL),
}


def paper(cell: float) -> VGroup:
    """The empty canvas: a frame, and faint lines between the pixels."""
    side = CANVAS * cell
    lines = VGroup()
    for i in range(1, CANVAS):
        at = i * cell - side / 2
        lines.add(Line(side / 2 * LEFT + at * UP, side / 2 * RIGHT + at * UP))
        lines.add(Line(side / 2 * DOWN + at * RIGHT, side / 2 * UP + at * RIGHT))
    lines.set_stroke(FAINT, 1, opacity=0.6)
    return VGroup(lines, Square(side).set_stroke(MUTED, 2))


def ink(digit: Sequence[float], cell: float) -> VGroup:
    """The pixels of a digit that are not blank, around the middle of its 8 x 8."""
    cells = VGroup()
    for index, value in enumerate(digit):
        if value > 0:
            row, column = divmod(index, DIGIT)
            square = Square(cell, stroke_width=0, fill_opacity=1)
            square.set_fill(shade(value, 1.0, INPUT))
            half = (DIGIT - 1) / 2
            cells.add(square.move_to((column - half) * cell * RIGHT + (half - row) * cell * UP))
    return cells


class Film(MicroScene):
    """One filter meets a digit at two places; then 25 places and four networks."""

    script = "microconv"
    question = "Learned in one place: who reads a digit anywhere?"

    def story(self) -> None:
        self.the_problem()
        self.clear_stage()
        self.one_response()
        self.whole_map()
        with self.preview():
            self.moving()
        self.tiles()
        self.clear_stage()
        self.say(
            f"{self.data['num_moved']} new digits in the middle. Brighter: more of them read.",
            run_time=0.25,
        )
        with self.preview():
            self.charts()
        self.answer()

    def the_problem(self) -> None:
        """Ten training digits, all in the middle."""
        d = self.data
        self.ask()
        sheets, digits = VGroup(), VGroup()
        for digit in d["digits"].values():
            sheet = VGroup(paper(0.15), ink(digit, 0.15))
            sheets.add(sheet)
            digits.add(sheet[1])
        sheets.arrange_in_grid(2, 5, buff=0.5).move_to(0.3 * UP)
        self.settle(LaggedStart(*[FadeIn(s) for s in sheets], lag_ratio=0.1))
        self.say(f"All {d['num_train']:,} digits to learn from stand in the middle of the paper.")
        self.beat(1.5)
        corner = CENTRE * 0.15
        moves = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1)) * 2
        self.say(f"In the test, a digit may stand at any of {d['num_offsets']} places.")
        self.play(
            *[
                digit.animate.shift(corner * (x * RIGHT + y * UP))
                for digit, (x, y) in zip(digits, moves)
            ],
            run_time=1.0,
        )
        self.beat(1.0)

    def one_response(self) -> None:
        """A filter on a patch: 25 products, one sum."""
        d = self.data
        look, size = d["looks"][0], d["kernel"]
        self.sheet = paper(PIXEL).move_to(3.9 * LEFT)
        pixels = [
            look["image"][(row + CENTRE) * CANVAS + CENTRE + column]
            for row in range(DIGIT)
            for column in range(DIGIT)
        ]
        self.ink = ink(pixels, PIXEL).shift(self.sheet.get_center())
        self.window = Square(size * PIXEL).set_stroke(MODEL, 5)
        self.window.move_to(self.patch_centre(*divmod(look["place"], len(look["map"]))))
        rows = {
            name: [d[name][i : i + size] for i in range(0, size * size, size)]
            for name in ("patch", "filter", "products")
        }
        self.say("A filter lies on a patch of the paper, and says how well it matches.")
        self.play(FadeIn(self.sheet), FadeIn(self.ink), run_time=0.7)
        cell, y = 0.38, 1.3 * UP
        patch = Grid(rows["patch"], cell, 1.0, INPUT).move_to(0.1 * LEFT + y)
        self.filter = Grid(rows["filter"], cell).move_to(2.65 * RIGHT + y)
        product = Grid(rows["products"], cell, self.scale_of("filter")).move_to(5.4 * RIGHT + y)
        signs = [text("×", 44).move_to(1.28 * RIGHT + y), text("=", 44).move_to(4.03 * RIGHT + y)]
        names = [
            text(words, 30, color).next_to(grid, DOWN, buff=0.15)
            for words, grid, color in (
                ("patch", patch, INPUT), ("filter", self.filter, MODEL), ("products", product, INK),
            )
        ]  # fmt: skip
        self.play(Create(self.window), FadeIn(self.filter), FadeIn(names[1]))
        self.play(TransformFromCopy(self.window, patch), FadeIn(names[0]), FadeIn(signs[0]))
        best = max(range(size * size), key=lambda i: d["products"][i])
        row, column = divmod(best, size)
        frames = [
            SurroundingRectangle(grid.cells[row][column], color=INK, buff=0, stroke_width=5)
            for grid in (patch, self.filter, product)
        ]
        one = text(
            f"{d['patch'][best]:.2f} × {d['filter'][best]:.2f} = {d['products'][best]:.2f}",
            36, INK, mono=True,
        ).move_to(2.65 * RIGHT + 0.85 * DOWN)  # fmt: skip
        self.play(FadeIn(frames[0]), FadeIn(frames[1]), FadeIn(signs[1]))
        self.play(
            TransformFromCopy(frames[0], frames[2]),
            FadeIn(product.cells[row][column]),
            FadeIn(names[2]),
            FadeIn(one),
        )
        rest = [c for line in product.cells for c in line if c is not product.cells[row][column]]
        self.play(LaggedStart(*[FadeIn(c) for c in rest], lag_ratio=0.1), run_time=1.2)
        total = text(f"all {size * size}, and the bias {d['bias']:.2f}: {d['sum']:.2f}", 38, MODEL)
        total.move_to(2.65 * RIGHT + 1.7 * DOWN)
        self.play(TransformFromCopy(product, total))
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (patch, product, *signs, *names, *frames, one, total)])

    def scale_of(self, name: str) -> float:
        """The largest entry, aside from its sign."""
        return max(map(abs, self.data[name]))

    def patch_centre(self, row: int, column: int) -> object:
        """Where the middle of the patch of this place of the map is, on the paper."""
        ring = self.data["kernel"] // 2  # the map is wider than the paper by this on each side
        middle = (CANVAS - 1) / 2
        across, down = column - ring - middle, row - ring - middle
        return self.sheet.get_center() + PIXEL * (across * RIGHT + down * DOWN)

    def whole_map(self) -> None:
        """The same filter at every place: a map."""
        d = self.data
        look = d["looks"][0]
        empty = look["map"][0][0]  # the response to blank paper: drawn dark
        values = [[value - empty for value in row] for row in look["map"]]
        side = len(values)
        self.map_scale = max([abs(v) for row in values for v in row])
        self.map_cell = 3.9 / side
        self.map = Grid(values, self.map_cell, self.map_scale).move_to(4.3 * RIGHT)
        self.say("The same filter at every place gives a map of its matches.")
        self.play(self.filter.animate.scale(0.8).move_to(0.2 * RIGHT), run_time=0.6)
        for row in range(side):
            self.window.move_to(self.patch_centre(row, 0))
            self.play(
                self.window.animate.move_to(self.patch_centre(row, side - 1)),
                LaggedStart(*[FadeIn(c) for c in self.map.cells[row]], lag_ratio=0.5),
                run_time=1 / 6,
                rate_func=linear,
            )
        row, column = divmod(look["place"], side)
        self.play(self.window.animate.move_to(self.patch_centre(row, column)), run_time=0.5)
        self.mark = Square(self.map_cell).set_stroke(INK, 5)
        self.mark.move_to(self.map.cells[row][column]).scale(1.25)
        self.number = text(f"best match {look['best']:.2f}", 38, MODEL, bold=True)
        self.number.next_to(self.map, DOWN, buff=0.2)
        self.play(TransformFromCopy(self.window, self.mark), FadeIn(self.number))
        # What moves is what differs from empty paper; under it lies blank paper.
        blank = Rectangle(width=3.9, height=3.9, stroke_color=FAINT, stroke_width=1)
        blank.set_fill(shade(0.0, self.map_scale), 1).move_to(self.map)
        self.pattern = VGroup(
            *[
                cell
                for line, cells in zip(values, self.map.cells)
                for value, cell in zip(line, cells)
                if value
            ]
        )
        for cell in self.pattern:
            cell.set_stroke(width=0)
        self.remove(self.map, *self.map.submobjects)
        self.add(blank, self.pattern, self.mark)
        self.beat(1.5)

    def moving(self) -> None:
        """The digit moves; its matches move along, and the best of them stays what it is."""
        looks = self.data["looks"]
        self.say("The digit moves, and its matches move along.", run_time=0.25)
        for before, after in zip(looks, looks[1:]):
            self.shift_all(before, after)
        assert {look["best"] for look in looks} == {looks[0]["best"]}
        self.say("The best match is the same: it does not ask where.", run_time=0.25)
        frame = SurroundingRectangle(self.number, color=LIMIT, buff=0.12)
        self.play(Create(frame), run_time=0.5)
        self.beat(1.0)
        self.frame = frame

    def shift_all(self, before: dict, after: dict) -> None:
        """Digit, window, map and mark move by the same number of places."""
        down, across = [b - a for a, b in zip(before["offset"], after["offset"])]
        side = len(before["map"])
        for row in range(side):  # the recorded map is the old one, moved
            for column in range(side):
                if 0 <= row - down < side and 0 <= column - across < side:
                    assert after["map"][row][column] == before["map"][row - down][column - across]
        step = across * RIGHT + down * DOWN
        self.play(
            *[m.animate.shift(PIXEL * step) for m in (self.ink, self.window)],
            *[m.animate.shift(self.map_cell * step) for m in (self.pattern, self.mark)],
            run_time=0.5,
        )

    def tiles(self) -> None:
        """The best of each tile: when the digit moves, other tiles have it."""
        d = self.data
        looks, tile = d["looks"], d["tile"]
        side = len(looks[0]["map"])
        lines = VGroup()
        middle, half = self.map.get_center(), 3.9 / 2
        for i in range(tile, side, tile):
            at = i * self.map_cell - half
            lines.add(Line(middle + half * LEFT + at * UP, middle + half * RIGHT + at * UP))
            lines.add(Line(middle + half * DOWN + at * RIGHT, middle + half * UP + at * RIGHT))
        lines.set_stroke(INK, 3)
        places = [divmod(look["place"], side) for look in looks]
        tiles = [(row // tile, column // tile) for row, column in places]
        assert tiles[0] != tiles[-1]
        self.say(f"The usual way keeps the best in each tile of {tile} × {tile} places.")
        self.play(FadeOut(self.frame), FadeOut(self.number), Create(lines))
        cell = tile * self.map_cell

        def box(index: int) -> Square:
            row, column = tiles[index]
            corner = middle + half * (LEFT + UP)
            spot = corner + cell * ((column + 0.5) * RIGHT + (row + 0.5) * DOWN)
            return Square(cell).set_stroke(MODEL, 7).move_to(spot)

        shown = box(len(looks) - 1)
        self.play(Create(shown), run_time=0.5)
        self.say("Each tile has weights of its own. A digit that moves meets others.")
        for index in range(len(looks) - 1, 0, -1):
            self.shift_all(looks[index], looks[index - 1])
            if tiles[index - 1] != tiles[index]:
                self.play(Transform(shown, box(index - 1)), run_time=0.4)
        self.beat(1.5)

    def charts(self) -> None:
        """How many digits each network reads at each place."""
        d = self.data
        cell = 0.58
        charts, self.titles, shares = VGroup(), VGroup(), VGroup()
        for name, (title, color) in CHARTS.items():
            values = d["charts"][name]
            charts.add(Grid(values, cell, 1.0, color))
            self.titles.add(text(title, 30, color))
        charts.arrange(RIGHT, buff=0.5).move_to(0.35 * UP)
        for name, title, chart in zip(CHARTS, self.titles, charts):
            title.move_to(chart.get_top() + 0.52 * UP)
            row, color = d["rows"][name], CHARTS[name][1]
            lines = VGroup(
                text(f"middle {row['centre']:.0%}", 32, MUTED),
                text(f"moved {row['elsewhere']:.0%}", 36, color, bold=True),
            )
            lines[0].next_to(chart, DOWN, buff=0.3)
            shares.add(lines)
            lines[1].move_to(lines[0].get_center() + 0.6 * DOWN)
        empty = VGroup(*[
            Square(5 * cell, stroke_color=FAINT, stroke_width=2).move_to(chart) for chart in charts
        ])  # fmt: skip
        middle = [chart.cells[CENTRE][CENTRE] for chart in charts]
        self.play(
            FadeIn(self.titles), FadeIn(empty), *[FadeIn(c, scale=2) for c in middle], run_time=0.5
        )
        self.play(*[FadeIn(lines[0]) for lines in shares], run_time=0.5)
        self.beat(1.0)
        self.say("The same digits at all other places:", run_time=0.25)
        places = [(r, c) for r in range(5) for c in range(5) if (r, c) != (CENTRE, CENTRE)]
        places.sort(key=lambda p: (p[0] - CENTRE) ** 2 + (p[1] - CENTRE) ** 2)
        self.play(
            *[
                LaggedStart(*[FadeIn(chart.cells[r][c]) for r, c in places], lag_ratio=0.4)
                for chart in charts
            ],
            run_time=2.0,
        )
        self.play(*[FadeIn(lines[1], shift=0.2 * DOWN) for lines in shares], run_time=0.5)
        winner = SurroundingRectangle(
            VGroup(charts[-1], self.titles[-1], shares[-1]), color=LIMIT, buff=0.12
        )
        best = d["rows"]["global"]
        assert abs(best["lost"]) < 1e-9 and best["logit_change"] == 0
        self.say("Filters everywhere, and only the best match: it reads as well everywhere.",
                 run_time=0.25)  # fmt: skip
        self.play(Create(winner), run_time=0.5)
        self.beat(1.25)
        self.shares = shares

    def answer(self) -> None:
        """What it keeps, and what it costs."""
        d = self.data
        rows = d["rows"]
        read = {look["read_as"] for look in d["looks"]}
        assert read == {d["truth"]} and len({tuple(k["features"]) for k in d["looks"]}) == 1
        self.say(f"In the middle, tiles are ahead: {rows['tiled']['centre_all']:.0%} of all test "
                 f"digits, to {rows['global']['centre_all']:.0%}.")  # fmt: skip
        self.beat(2.0)
        counts = VGroup()
        for name, lines in zip(CHARTS, self.shares):
            count = text(f"{rows[name]['parameters']:,} numbers", 30, INK)
            counts.add(count.move_to(lines[0]))
        self.play(*[ReplacementTransform(s[0], c) for s, c in zip(self.shares, counts)])
        self.say(
            f"It keeps {d['num_filters']} numbers of an image; none tells where. "
            f"They read {rows['global']['centre_all']:.0%}."
        )
        self.beat(2.5)
