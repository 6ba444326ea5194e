"""Can 662 new numbers adapt a model of 4,192?"""

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
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    ReplacementTransform,
    RoundedRectangle,
    SurroundingRectangle,
    Transform,
    TransformFromCopy,
)
from parts import Bars, Grid, RowBars, shade

CELL = 0.19


def name_of(letters: str, color: str, last: str, size: float = 36) -> VGroup:
    """A name whose last letter has a colour of its own."""
    words = text(letters, size, color, mono=True)
    words.submobjects[-1].set_fill(last)
    return words


def stand(words: VGroup, letters: str, x: float, y: float) -> VGroup:
    """Put a name on a line: letters that hang below it do not move it."""
    words.move_to(x * RIGHT)
    upright = next(i for i, letter in enumerate(letters) if letter not in "gjpqy")
    return words.shift((y - words.submobjects[upright].get_bottom()[1]) * UP)


class Film(MicroScene):
    """The full update of a matrix is rebuilt from two directions; then LoRA grows its own two."""

    script = "microlora"

    @property
    def question(self) -> str:
        """The numbers are the trace's."""
        d = self.data
        return f"Can {d['num_lora']} new numbers adapt a model of {d['num_all']:,}?"

    def story(self) -> None:
        self.the_problem()
        self.clear_stage()
        self.full_update()
        self.one_entry()
        with self.preview():
            self.rebuild()
        self.clear_stage()
        self.adapter()
        with self.preview():
            self.growing()
        self.unplug()
        self.clear_stage()
        with self.preview():
            self.answer()
        self.forgetting()

    def the_problem(self) -> None:
        """Names that the model knows, and names of a kind that it has never seen."""
        d = self.data
        self.ask()
        old, new = VGroup(), VGroup()
        for column, names, x, last in (
            (old, d["base_names"], -4.6, LIMIT),
            (new, d["target_names"], 4.6, WRONG),
        ):
            for i, name in enumerate(names):
                words = name_of(name, INPUT, last, 40)
                column.add(stand(words, name, x, 0.95 - 0.8 * i))
        heads = [
            text(f"{d['num_base']:,} old names", 32, MUTED).move_to(4.6 * LEFT + 2.1 * UP),
            text(f"{d['num_adapt']} new names", 32, MUTED).move_to(4.6 * RIGHT + 2.1 * UP),
        ]
        box = RoundedRectangle(corner_radius=0.15, width=3.7, height=2.2, stroke_color=MODEL)
        inside = VGroup(text("a GPT", 36, MODEL), text(f"{d['num_all']:,} numbers", 32, MODEL))
        inside.arrange(DOWN, buff=0.3)
        self.settle(FadeIn(heads[0]), LaggedStart(*[FadeIn(n) for n in old], lag_ratio=0.2))
        self.say("A small model has learned names that end in a vowel or y.")
        self.play(FadeIn(box), TransformFromCopy(old, inside))
        self.say("Now it should also write names that end otherwise.")
        self.play(FadeIn(heads[1]), LaggedStart(*[FadeIn(n) for n in new], lag_ratio=0.2))
        self.beat(1.5)

    def full_update(self) -> None:
        """One matrix, and what full fine-tuning adds to it."""
        d = self.data
        losses = d["losses"]
        self.scale = max([abs(v) for row in d["update"] for v in row])
        weight = Grid(d["weight"], 0.23).move_to(3.3 * LEFT + 0.5 * UP)
        update = Grid(d["update"], 0.23, self.scale).move_to(2.3 * RIGHT + 0.5 * UP)
        names = [
            text(f"one of {d['num_matrices']} matrices", 30, MUTED),
            text("its full update", 30, RIVAL),
        ]
        names[0].next_to(weight, DOWN, buff=0.2)
        names[1].next_to(update, DOWN, buff=0.2)
        plus = text("+", 60).move_to(0.5 * LEFT + 0.5 * UP)
        self.say("The usual way, full fine-tuning, may change every number.")
        self.play(FadeIn(weight), FadeIn(names[0]))
        self.play(FadeIn(plus), TransformFromCopy(weight, update), FadeIn(names[1]), run_time=1.2)
        before, after = losses["base"], losses["full fine-tune"]
        gain = VGroup(
            text("loss", 32, MUTED), text(f"{before:.2f}", 44, WRONG), text("↓", 40, MUTED),
            text(f"{after:.2f}", 44, RIVAL),
        ).arrange(DOWN, buff=0.25).move_to(5.9 * RIGHT + 0.5 * UP)  # fmt: skip
        self.say("On other such names the loss falls. Call this gain 100%.")
        self.play(LaggedStart(*[FadeIn(m) for m in gain], lag_ratio=0.4))
        self.beat(1.5)
        self.update = update
        self.play(
            *[FadeOut(m) for m in (weight, names[0], plus, gain)],
            update.animate.scale(0.185 / 0.23).move_to(4.8 * LEFT + 0.95 * UP),
            names[1].animate.move_to(4.8 * LEFT + 0.83 * DOWN),
        )

    def one_entry(self) -> None:
        """A direction is a column and a row; one entry of their table, number by number."""
        d = self.data
        sigmas = d["sigmas"]
        bars = Bars(sigmas, [""] * len(sigmas), unit=1.2 / sigmas[0], width=0.15, gap=0.035,
                    color=RIVAL)  # fmt: skip
        bars.shift(4.8 * LEFT + 2.55 * DOWN - bars.ground.get_center())
        size = text(f"{len(sigmas)} directions,\nlargest first", 28, MUTED)
        size.move_to(3.95 * LEFT + 1.6 * DOWN)
        self.say("Any such matrix is a sum of simple ones, of one direction each.")
        self.play(FadeIn(bars.ground), LaggedStart(*[GrowFromEdge(b, DOWN) for b in bars.bars],
                                                   lag_ratio=0.1), FadeIn(size))  # fmt: skip
        term = d["terms"][0]
        self.middle = 0.35 * LEFT + 0.75 * UP
        self.column, self.row = self.factors(0)
        zero = [[0.0] * len(term["row"]) for _ in term["column"]]
        self.sum = Grid(zero, CELL, self.scale).move_to(self.middle)
        self.play(
            TransformFromCopy(bars.bars[0], self.column),
            TransformFromCopy(bars.bars[0], self.row),
            FadeIn(self.sum),
        )
        places = [(i, j) for i in range(len(zero)) for j in range(len(zero[0]))]
        i, j = max(places, key=lambda p: abs(d["cuts"]["1"][p[0]][p[1]]))
        product = term["column"][i] * term["row"][j]
        assert abs(product - d["cuts"]["1"][i][j]) < 1e-5
        frames = [
            SurroundingRectangle(m, color=INK, buff=0.02, stroke_width=4)
            for m in (self.column[i], self.row[j], self.sum.cells[i][j])
        ]
        entry = text(
            f"{term['column'][i]:.3f} × {term['row'][j]:.3f} = {d['cuts']['1'][i][j]:.3f}", 34
        ).move_to(self.middle + 2.25 * DOWN + 1.2 * RIGHT)
        self.say("One direction: a column times a row gives every entry.")
        self.play(Create(frames[0]), Create(frames[1]), FadeIn(entry))
        self.play(
            TransformFromCopy(VGroup(*frames[:2]), frames[2]),
            self.sum.cells[i][j].animate.set_fill(shade(product, self.scale)),
        )
        self.beat(1.5)
        self.play(*[FadeOut(m) for m in (*frames, entry)], run_time=0.4)
        kept = [d["recovered"][f"full, cut to {k}"] for k in (0, 1, 2)]
        kept.append(d["recovered"]["full fine-tune"])
        self.kept = kept
        labels = ("none", "1", "2", "all")
        self.gain = Bars([0.0] * 4, labels, unit=3.3, width=0.62, gap=0.48, color=RIVAL, size=32,
                         label_color=INK, mono=False)  # fmt: skip
        self.gain.shift(4.5 * RIGHT + 1.75 * DOWN - self.gain.ground.get_center())
        title = VGroup(
            text("gain kept", 32, MUTED).move_to(4.5 * RIGHT + 2.65 * UP),
            text("directions", 30, MUTED).move_to(4.5 * RIGHT + 2.5 * DOWN),
        )
        self.say("With none of them, only its changed letter and place vectors are left.")
        self.play(FadeIn(title), FadeIn(self.gain))
        self.raise_bar(0, 0.6)
        self.beat(1.5)

    def factors(self, term: int) -> tuple[VGroup, VGroup]:
        """The column and the row of one direction, beside the grid."""
        found = self.data["terms"][term]
        column = Grid([[v] for v in found["column"]], CELL).move_to(
            self.middle + (len(found["row"]) / 2 * CELL + 0.35) * LEFT
        )
        row = Grid([found["row"]], CELL).move_to(
            self.middle + (len(found["column"]) / 2 * CELL + 0.35) * UP
        )
        return column, row

    def raise_bar(self, index: int, run_time: float, *also: object) -> None:
        """One bar grows to its value, and the number appears above."""
        bar = self.gain.bars[index]
        number = text(f"{self.kept[index]:.0%}", 32, RIVAL, bold=True)
        top = self.gain.ground.get_center()[1] + self.kept[index] * self.gain.unit
        number.move_to(bar.get_center()[0] * RIGHT + (top + 0.28) * UP)
        values = [value if i <= index else 0.0 for i, value in enumerate(self.kept)]
        self.play(
            self.gain.heights(values)[index], FadeIn(number), *also, run_time=run_time
        )  # fmt: skip

    def rebuild(self) -> None:
        """The sums of one and of two directions, and what they keep of the gain."""
        d = self.data
        self.say("One direction for each matrix, added up:", run_time=0.25)
        one = Grid(d["cuts"]["1"], CELL, self.scale).move_to(self.middle)
        self.play(Transform(self.sum, one), run_time=0.75)
        self.raise_bar(1, 0.5)
        column, row = self.factors(1)
        two = Grid(d["cuts"]["2"], CELL, self.scale).move_to(self.middle)
        self.play(
            ReplacementTransform(self.column, column),
            ReplacementTransform(self.row, row),
            run_time=0.5,
        )
        self.play(Transform(self.sum, two), run_time=0.75)
        self.raise_bar(2, 0.5)
        self.say("Two directions keep nearly all of the gain.", run_time=0.25)
        self.raise_bar(3, 0.5)
        self.beat(1.0)

    def adapter(self) -> None:
        """A frozen matrix, and beside it two thin ones, of which one is zero."""
        d = self.data
        first, last = d["snapshots"][0], d["snapshots"][-1]
        self.scales = {
            key: max([abs(v) for look in (first, last) for row in look[key] for v in row])
            for key in ("A", "B", "product")
        }
        self.middle = 0.25 * RIGHT + 0.35 * UP
        half = len(d["weight"]) / 2 * CELL
        self.weight = Grid(d["weight"], CELL).set_opacity(0.45).move_to(4.9 * LEFT + 0.35 * UP)
        self.grids = {
            "B": Grid(first["B"], CELL, self.scales["B"]).move_to(
                self.middle + (half + 0.5) * LEFT
            ),
            "A": Grid(first["A"], CELL, self.scales["A"]).move_to(self.middle + (half + 0.5) * UP),
            "product": Grid(first["product"], CELL, self.scales["product"]).move_to(self.middle),
        }
        sizes = d["sizes"]
        frozen = text(f"{sizes['matrix']} numbers,\nfrozen", 30, MUTED)
        frozen.next_to(self.weight, DOWN, buff=0.25)
        letters = VGroup(
            text("B", 36, MODEL).next_to(self.grids["B"], LEFT, buff=0.15),
            text("A", 36, MODEL).next_to(self.grids["A"], RIGHT, buff=0.15),
        )
        trained = text(f"B × A: {sizes['adapter']} numbers,\ntrained", 30, MODEL)
        trained.next_to(self.grids["product"], DOWN, buff=0.25)
        plus = text("+", 60).move_to(2.85 * LEFT + 0.35 * UP)
        self.say("LoRA freezes the model. It adds a thin B times a thin A, two directions.")
        self.play(FadeIn(self.weight), FadeIn(frozen))
        self.play(FadeIn(plus), *[FadeIn(self.grids[key]) for key in ("A", "B")], FadeIn(letters))
        self.play(
            TransformFromCopy(VGroup(self.grids["A"], self.grids["B"]), self.grids["product"]),
            FadeIn(trained),
        )
        assert not any([v for row in first["B"] for v in row]) and first["recovered"] == 0
        self.say("B starts at zero, so at first nothing is changed.")
        everything = d["recovered"]["full fine-tune"]
        self.bars = Bars([everything, 0.0], ("full", "LoRA"), unit=3.2, width=0.8, gap=0.7,
                         color=[RIVAL, MODEL], size=34, label_color=INK, mono=False)  # fmt: skip
        self.bars.shift(4.9 * RIGHT + 1.6 * DOWN - self.bars.ground.get_center())
        self.title = text("gain on new names", 30, MUTED).move_to(4.8 * RIGHT + 2.6 * UP)
        self.number = self.share(0.0)
        full = text(f"{everything:.0%}", 34, RIVAL, bold=True)
        full.next_to(self.bars.bars[0], UP, buff=0.12)
        self.step = text(f"step {first['step']}", 34, MODEL, mono=True).move_to(
            4.9 * RIGHT + 2.5 * DOWN
        )
        self.play(
            FadeIn(self.bars),
            FadeIn(self.title),
            FadeIn(full),
            FadeIn(self.number),
            FadeIn(self.step),
        )
        self.beat(1.0)
        self.extra = VGroup(frozen, trained, plus, letters, full)

    def share(self, value: float) -> VGroup:
        """LoRA's number, above its bar as it will be."""
        words = text(f"{value:.0%}", 34, MODEL, bold=True)
        bar = self.bars.bars[1].get_center()[0] * RIGHT
        height = self.bars.ground.get_center()[1] + value * self.bars.unit
        return words.move_to(bar + (height + 0.28) * UP)

    def growing(self) -> None:
        """B and A during training, and what they have gained."""
        d = self.data
        self.say(f"Trained on the {d['num_adapt']} names, B and A find their own two.",
                 run_time=0.25)  # fmt: skip
        full = d["recovered"]["full fine-tune"]
        for look in d["snapshots"][1:]:
            for key, grid in self.grids.items():
                for cells, values in zip(grid.cells, look[key]):
                    for cell, value in zip(cells, values):
                        cell.set_fill(shade(value, self.scales[key]))
            number = self.share(look["recovered"])
            step = text(f"step {look['step']}", 34, MODEL, mono=True).move_to(self.step)
            self.remove(self.number, self.step)
            self.add(number, step)
            self.number, self.step = number, step
            self.play(*self.bars.heights([full, look["recovered"]]), run_time=0.25)
        self.wait(0.75)

    def unplug(self) -> None:
        """Names invented with the adapter, and without it."""
        d = self.data
        samples, endings = d["samples"], d["endings"]
        self.beat(1.0)
        chosen = [i for i, name in enumerate(samples["base"]) if 4 < len(name) < 9][:5]
        adapted, plain = VGroup(), VGroup()
        for place, i in enumerate(chosen):
            for column, who, last in ((adapted, "lora", MODEL), (plain, "base", LIMIT)):
                name = samples[who][i]
                column.add(stand(name_of(name, INK, last, 38), name, 4.6, 1.4 - 0.75 * place))
        heads = [
            text(f"{endings[who]:.0%} of {d['num_samples']} have\nnew endings", 30, color)
            for who, color in (("lora", MODEL), ("base", LIMIT))
        ]
        for head in heads:
            head.move_to(4.6 * RIGHT + 2.4 * UP)
        trained = self.extra[1]
        self.say("With the adapter, most invented names have the new endings.")
        away = (self.bars, self.title, self.number, self.step, self.extra[4])
        self.play(*[FadeOut(m) for m in away], run_time=0.4)
        self.play(FadeIn(heads[0]), LaggedStart(*[FadeIn(n) for n in adapted], lag_ratio=0.2))
        self.beat(1.5)
        parts = VGroup(*self.grids.values())
        self.say("Unplug it: the old model is back, to the last bit.")
        assert d["unplugged"] == 0.0
        self.play(
            FadeOut(self.extra[2]), FadeOut(self.extra[3]), FadeOut(trained),
            parts.animate.scale(0.45).move_to(0.2 * LEFT + 1.6 * DOWN), run_time=0.8,
        )  # fmt: skip
        file = text(f"all {d['num_matrices']} adapters:\n{d['num_lora']} numbers", 30, MODEL)
        self.play(FadeIn(file.move_to(0.2 * LEFT + 0.3 * UP)), run_time=0.4)
        self.play(
            *[ReplacementTransform(a, b) for a, b in zip(adapted, plain)],
            ReplacementTransform(*heads),
        )
        self.beat(1.5)

    def answer(self) -> None:
        """What each way has gained."""
        d = self.data
        found = d["recovered"]
        self.say("Share of the gain on held-out new names:", run_time=0.25)
        rows = RowBars(
            [
                (f"full: {d['num_all']:,} numbers", found["full fine-tune"], RIVAL),
                ("full, cut to 2 directions", found["full, cut to 2"], RIVAL),
                (f"LoRA: {d['num_lora']} numbers", found["LoRA"], MODEL),
                ("a new model, these names only", found["from scratch"], MUTED),
            ],
            length=4.4, form="{:.0%}", size=35, thickness=0.62, gap=0.5,
        ).move_to(0.1 * UP)  # fmt: skip
        self.play(FadeIn(rows.names), run_time=0.25)
        self.play(
            LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
            run_time=0.75,
        )
        self.play(FadeIn(rows.numbers), run_time=0.25)
        self.say(f"Yes: {found['LoRA']:.0%}. The gain lies in few directions here.",
                 run_time=0.25)  # fmt: skip
        self.beat(1.75)

    def forgetting(self) -> None:
        """Few numbers are no protection."""
        first, *others = sorted(self.data["gaps"], reverse=True)
        self.say(f"It has forgotten more of the old names: {first:.2f} nats at equal gain "
                 f"({min(others):.2f} to {max(others):.2f} on other seeds).", size=30)  # fmt: skip
        self.beat(2.5)
