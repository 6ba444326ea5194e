"""How can the same memory hold twice as many texts at once?"""

from __future__ import annotations

from functools import cache

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
    Arrow,
    Create,
    FadeIn,
    FadeOut,
    GrowArrow,
    GrowFromEdge,
    LaggedStart,
    ManimColor,
    Rectangle,
    ReplacementTransform,
    SurroundingRectangle,
    TransformFromCopy,
    VMobject,
)
from parts import RowBars, tile

COLUMNS = 32  # slots in a row of the picture
SHADES = (1.0, 0.74, 0.52, 0.86)  # of the marks a to d


@cache
def words(content: str, size: float, color: str) -> VGroup:
    """A text that is drawn once; take a copy of it."""
    return text(content, size, color)


def corners(x: float, y: float, width: float, height: float) -> np.ndarray:
    """The cubic curves of a rectangle with this middle."""
    w, h = width / 2.0, height / 2.0
    path = np.array(
        [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h), (x - w, y - h)]
    )
    path = np.column_stack([path, np.zeros(5)])
    shares = np.array([0.0, 1.0, 2.0, 3.0])[:, None] / 3.0
    return np.concatenate([a + shares * (b - a) for a, b in zip(path, path[1:])])


class Memory(VGroup):
    """All slots, in rows; a small gap after each block. One shape for each kind of slot."""

    def __init__(self, num_slots: int, block: int, cell: float, middle: np.ndarray) -> None:
        super().__init__()
        self.block, self.cell = block, cell
        self.gap = 0.25 * cell
        wide = COLUMNS * cell + (COLUMNS // block - 1) * self.gap
        self.corner = middle + np.array([-wide, num_slots // COLUMNS * cell, 0.0]) / 2.0
        self.wide = wide
        self.outline = VMobject(stroke_color=FAINT, stroke_width=1.5)
        self.outline.set_points(np.concatenate([self.points_of(s) for s in range(num_slots)]))
        self.kinds = {mark: VMobject(stroke_width=0) for mark in "-abcd"}
        self.add(self.outline, *self.kinds.values())

    def at(self, slot: int) -> np.ndarray:
        """The middle of a slot."""
        row, column = divmod(slot, COLUMNS)
        x = (column + 0.5) * self.cell + column // self.block * self.gap
        return self.corner + np.array([x, -(row + 0.5) * self.cell, 0.0])

    def points_of(self, slot: int) -> np.ndarray:
        """The outline of a slot."""
        x, y, _ = self.at(slot)
        return corners(x, y, self.cell * 0.9, self.cell * 0.86)

    def show(self, picture: str, color: str) -> Memory:
        """Fill the slots: '.' is free, '-' held but empty, a letter is a symbol of some text."""
        for i, (mark, shape) in enumerate(self.kinds.items()):
            found = [self.points_of(slot) for slot, m in enumerate(picture) if m == mark]
            shape.set_points(np.concatenate(found) if found else np.zeros((0, 3)))
            if mark == "-":
                shape.set_fill(ManimColor(BACKGROUND).interpolate(ManimColor(WRONG), 0.42), 1)
            else:
                tint = ManimColor(BACKGROUND).interpolate(ManimColor(color), SHADES[i - 1])
                shape.set_fill(tint, 1)
        return self

    def around(self, block: int) -> Rectangle:
        """A frame around a block."""
        ends = [self.at(block * self.block), self.at((block + 1) * self.block - 1)]
        return Rectangle(
            width=ends[1][0] - ends[0][0] + self.cell + 0.06,
            height=self.cell + 0.06,
            stroke_color=INK,
            stroke_width=3.5,
        ).move_to((ends[0] + ends[1]) / 2.0)

    def square(self, slot: int) -> Rectangle:
        """A slot of the text that is being followed."""
        result = Rectangle(width=self.cell * 0.9, height=self.cell * 0.86, stroke_width=0)
        return result.set_fill(MODEL, 1).move_to(self.at(slot))

    def letter(self, slot: int, symbol: str) -> VGroup:
        """A symbol in its slot."""
        square = self.square(slot)
        return VGroup(square, text(symbol, 26, BACKGROUND, mono=True).move_to(square))


class Film(MicroScene):
    """One text takes block after block; then one queue is served from regions and from blocks."""

    script = "micropaged"
    question = "How can the same memory hold twice as many texts at once?"

    def story(self) -> None:
        self.the_problem()
        self.one_text()
        self.preempted()
        self.race()
        self.clear_stage()
        self.samples()
        self.clear_stage()
        self.answer()

    def the_problem(self) -> None:
        """Regions for the longest text: four texts fill the memory with nothing."""
        d, moment = self.data, self.data["moment"]
        self.ask()
        memory = Memory(d["num_slots"], d["block_size"], 0.37, 0.75 * UP)
        memory.show(moment["picture"], RIVAL)
        self.settle(FadeIn(memory))
        self.memory = memory
        keys = VGroup()
        for mark, name, color in (
            ("a", "a text's symbol", RIVAL), ("-", "reserved, still empty", WRONG),
        ):  # fmt: skip
            square = Rectangle(width=0.4, height=0.4, stroke_width=0)
            shape = memory.kinds[mark]
            square.set_fill(shape.get_fill_color(), 1)
            keys.add(VGroup(square, text(name, 34, color)).arrange(RIGHT, buff=0.25))
        keys.arrange(RIGHT, buff=1.2).move_to(1.75 * DOWN)
        self.play(FadeIn(keys), run_time=0.5)
        self.say(
            f"{d['num_slots']} slots. Nobody knows how long a text will get:"
            f" each reserves {d['max_length']}."
        )
        self.beat(2.5)
        self.say(f"The memory is full with {moment['texts']} texts, and yet most of it is empty.")
        self.beat(2.0)
        self.play(FadeOut(keys), FadeOut(memory), run_time=0.5)

    def one_text(self) -> None:
        """A text of the run takes its blocks one by one; its table says where they are."""
        d, first = self.data, self.data["first"]
        size, prompt, tables = d["block_size"], first["prompt"], first["tables"]
        memory = Memory(d["num_slots"], size, 0.37, 1.15 * DOWN)

        def others(i: int) -> str:
            """The picture without the first text's slots."""
            own = {b * size + j for b in tables[i] for j in range(size)}
            return "".join(["." if s in own else m for s, m in enumerate(first["pictures"][i])])

        memory.show(others(0), FAINT)
        memory.kinds["-"].set_fill(opacity=0.45)
        count = len(prompt) + len(tables) - 1  # symbols in memory in its last step

        def symbol_at(i: int) -> np.ndarray:
            return np.array([(i - (count - 1) / 2.0) * 0.47, 2.35, 0.0])

        def slot_of(i: int, step: int) -> int:
            return tables[step][i // size] * size + i % size

        row = VGroup()
        for i, symbol in enumerate(first["text"][:count]):
            color = INPUT if i < len(prompt) else MODEL
            row.add(tile(symbol, color, 28, 0.43).move_to(symbol_at(i)))
        place = memory.corner[0] * RIGHT
        label = text("its blocks", 32, MODEL).move_to(1.35 * UP + place, aligned_edge=LEFT)

        def entry(n: int, block: int) -> VGroup:
            x = label.get_right()[0] + 0.85 + n * 1.25
            return tile(block, MODEL, 32, 0.66).move_to(np.array([x, 1.35, 0.0]))

        self.say(f"Better: cut the memory into blocks of {size}, and reserve nothing.")
        self.play(
            FadeIn(memory),
            LaggedStart(*[FadeIn(t, shift=0.1 * DOWN) for t in row[: len(prompt)]], lag_ratio=0.1),
        )
        self.beat(1.0)
        self.say(f"This text has {len(prompt)} symbols: {len(tables[0])} blocks. Others run too.")
        cells = [memory.letter(slot_of(i, 0), first["text"][i]) for i in range(len(prompt))]
        entries = [entry(n, block) for n, block in enumerate(tables[0])]
        self.play(FadeIn(label), run_time=0.3)
        for n, block in enumerate(entries):
            part = range(n * size, (n + 1) * size)
            self.play(
                *[TransformFromCopy(row[i], cells[i]) for i in part], FadeIn(block), run_time=0.8
            )
        self.beat(1.0)
        # One more symbol: both blocks are full.
        new = len(prompt)
        block = tables[1][-1]
        frame = memory.around(block)
        self.say(f"It writes “{first['text'][new]}”. Its blocks are full, so it takes a free one.")
        memory.show(others(1), FAINT)
        memory.kinds["-"].set_fill(opacity=0.45)
        self.play(FadeIn(row[new], shift=0.1 * DOWN), Create(frame), run_time=0.6)
        entries.append(entry(len(entries), block))
        cells.append(memory.letter(slot_of(new, 1), first["text"][new]))
        self.play(TransformFromCopy(frame, entries[-1]), run_time=0.7)
        self.play(TransformFromCopy(row[new], cells[-1]), run_time=0.7)
        self.say(f"Number {block}. Any free block will do: the table keeps the order.")
        self.beat(1.5)
        self.play(FadeOut(frame), run_time=0.2)
        for step in range(2, len(tables)):
            new = len(prompt) + step - 1
            memory.show(others(step), FAINT)
            memory.kinds["-"].set_fill(opacity=0.45)
            cells.append(memory.letter(slot_of(new, step), first["text"][new]))
            moves = [FadeIn(row[new]), TransformFromCopy(row[new], cells[-1])]
            if len(tables[step]) > len(entries):
                entries.append(entry(len(entries), tables[step][-1]))
                moves.append(FadeIn(entries[-1]))
            self.play(*moves, run_time=0.3 if step < 6 else 0.17)
        # Where is a symbol? Its place says which entry, the entry says where.
        asked = len(prompt) + 2
        which = asked // size
        marked = SurroundingRectangle(row[asked], color=INK, buff=0.04)
        paths = [
            Arrow(row[asked].get_bottom(), entries[which].get_top(), buff=0.06, color=INK),
            Arrow(
                entries[which].get_bottom(), cells[asked].get_top(), buff=0.06, color=INK,
                max_tip_length_to_length_ratio=0.12,
            ),
        ]  # fmt: skip
        self.say("Attention follows the table, and computes what it always computes.")
        self.play(Create(marked), run_time=0.4)
        for path in paths:
            self.play(GrowArrow(path), run_time=0.5)
        self.beat(1.5)
        self.say("The text is finished: its blocks are free for others at once.")
        self.play(FadeOut(marked), *[FadeOut(path) for path in paths], run_time=0.3)
        self.play(*[FadeOut(c) for c in cells], *[FadeOut(e) for e in entries], run_time=0.6)
        self.beat(1.0)
        self.clear_stage()

    def race(self) -> None:
        """The same queue from both memories, step by step."""
        d = self.data
        colors = {"regions": RIVAL, "blocks": MODEL}
        tops = {"regions": 1.62, "blocks": -1.32}
        memories, bars = {}, {}
        left, length = 2.85, 3.8
        for kind, color in colors.items():
            y = tops[kind]
            place = np.array([-2.15, y, 0.0])
            memories[kind] = Memory(d["num_slots"], d["block_size"], 0.272, place)
            memories[kind].show(d[kind][0]["picture"], color)
            title = text(kind, 36, color, bold=True)
            title.move_to(np.array([left, y + 0.95, 0.0]), aligned_edge=LEFT)
            frame = Rectangle(width=length, height=0.34, stroke_color=MUTED, stroke_width=2)
            frame.move_to(np.array([left, y - 0.92, 0.0]), aligned_edge=LEFT)
            bars[kind] = Rectangle(
                width=1e-3, height=0.34, stroke_width=0, fill_color=LIMIT, fill_opacity=1
            ).move_to(frame, aligned_edge=LEFT)
            self.add(memories[kind], title, bars[kind], frame)
        self.shown: list = []

        def note(content: str, size: float, color: str, x: float, y: float) -> None:
            drawn = words(content, size, color).copy()
            self.shown.append(drawn.move_to(np.array([x, y, 0.0]), aligned_edge=LEFT))

        def label(looks: dict) -> None:
            self.remove(*self.shown)
            self.shown = []
            for kind, look in looks.items():
                y = tops[kind]
                note(f"{look['texts']} texts now", 36, colors[kind], left, y + 0.3)
                done = f"{look['done']} of {d['num_requests']} done"
                note(done, 36, LIMIT, left, y - 0.42)
            self.add(*self.shown)

        def counter(step: int) -> None:
            note(f"step {step}", 30, INK, left + 2.2, tops["regions"] + 0.95)
            self.add(self.shown[-1])

        num_both = len(d["blocks"])
        last = d["blocks"][-1]
        ends = {kind: d[kind][0] for kind in colors}
        label(ends)
        counter(ends["regions"]["step"])
        self.say("Each step gives every text in memory its next symbol.")
        with self.preview():
            self.beat(1.0)
            for i in range(1, len(d["regions"])):
                if i == num_both:
                    # The last step of the blocks has been shown: it finishes their last text.
                    ends["blocks"] = {"texts": 0, "done": d["num_requests"]}
                    memories["blocks"].show("." * d["num_slots"], MODEL)
                    self.fill(bars["blocks"], 1.0, length)
                    label(ends)
                    counter(last["step"])
                    self.say(f"Blocks: all done after {d['steps']['blocks']} steps.", run_time=0.25)
                    self.beat(1.0)
                for kind, color in colors.items():
                    if i < len(d[kind]):
                        ends[kind] = d[kind][i]
                        memories[kind].show(d[kind][i]["picture"], color)
                        self.fill(bars[kind], d[kind][i]["done"] / d["num_requests"], length)
                label(ends)
                counter(d["regions"][i]["step"])
                self.wait(2 / 12 if i < num_both else 1 / 12)
            ends["regions"] = {"texts": 0, "done": d["num_requests"]}
            memories["regions"].show("." * d["num_slots"], RIVAL)
            self.fill(bars["regions"], 1.0, length)
            label(ends)
            counter(d["regions"][-1]["step"])
            self.say(
                f"Regions: {d['steps']['regions']} steps, {d['speedup']:.1f} times as many.",
                run_time=0.25,
            )
            self.beat(1.25)

    @staticmethod
    def fill(bar: Rectangle, share: float, length: float) -> None:
        """The share of the texts that are done."""
        start = bar.get_left()
        bar.stretch_to_fit_width(max(share * length, 1e-3)).move_to(start, aligned_edge=LEFT)

    def preempted(self) -> None:
        """The newest text's blocks are free a step later, and the others have theirs."""
        d, victim = self.data, self.data["victim"]
        own = set(victim["slots"])
        memory = Memory(d["num_slots"], d["block_size"], 0.37, 0.1 * UP)

        def dim(picture: str) -> None:
            memory.show("".join("." if s in own else m for s, m in enumerate(picture)), FAINT)
            memory.kinds["-"].set_fill(opacity=0.45)

        dim(victim["before"])
        cells = VGroup(*[memory.square(slot) for slot in victim["slots"]])
        newest = text("the newest text", 34, MODEL).move_to(2.3 * UP)
        self.say("And when a text needs a block, but none is free?")
        self.play(FadeIn(memory), FadeIn(cells), FadeIn(newest))
        self.beat(1.25)
        self.say("The newest text gives up its blocks, and waits until there is room.")
        self.play(cells.animate.set_fill(BACKGROUND), run_time=0.7)
        self.remove(cells)
        memory.show(victim["after"], FAINT)
        memory.kinds["-"].set_fill(opacity=0.45)
        taken = VGroup(*[memory.around(b) for b in sorted({s // memory.block for s in own})])
        self.play(*[Create(frame) for frame in taken], FadeOut(newest), run_time=0.5)
        self.beat(1.25)
        self.say(f"It happened {d['preempted']} times: {d['read_again']} symbols were read again.")
        self.beat(1.25)
        self.clear_stage()

    def samples(self) -> None:
        """Four texts continue one prompt: shared blocks, counted, and copied when written to."""
        d, s = self.data, self.data["samples"]
        size, prompt, num = d["block_size"], s["prompt"], len(s["first"])
        cell = 0.46

        def middle(block: int) -> np.ndarray:
            return np.array([(block - 2.5) * (size * cell + 0.4), 1.75, 0.0])

        def cell_at(block: int, j: int) -> np.ndarray:
            return middle(block) + (j - (size - 1) / 2.0) * cell * RIGHT

        def box(block: int, symbols: str) -> VGroup:
            """A block: its slots, and the symbols in them."""
            result = VGroup()
            for j in range(size):
                square = Rectangle(width=cell, height=0.66, stroke_color=MUTED, stroke_width=2)
                result.add(square.move_to(cell_at(block, j)))
            for j, symbol in enumerate(symbols):
                letter = text(symbol, 36, INPUT, mono=True)
                result.add(letter.move_to(cell_at(block, j)))
            return result

        def name(block: int) -> VGroup:
            return text(f"block {block}", 28, MUTED).move_to(middle(block) + 0.62 * DOWN)

        def owners(block: int, count: int) -> VGroup:
            content = f"{count} texts" if count > 1 else f"{count} text"
            return text(content, 30, MODEL).move_to(middle(block) + 0.72 * UP)

        parts = [prompt[i : i + size] for i in range(0, len(prompt), size)]
        blocks = {b: box(b, part) for b, part in enumerate(parts)}
        shared = len(parts) - 1
        counts = {b: owners(b, num) for b in blocks}
        names = {b: name(b) for b in blocks}
        tables, letters, titles = [], [], []
        for i in range(num):
            x = (i - (num - 1) / 2.0) * 3.3
            titles.append(text(f"text {i + 1}", 32, MODEL).move_to(np.array([x, 0.1, 0.0])))
            row = VGroup(*[tile(b, MODEL, 32, 0.66) for b in s["before"][i]])
            tables.append(row.arrange(RIGHT, buff=0.12).move_to(np.array([x, -0.75, 0.0])))
            written = tile(s["first"][i], MODEL, 36, 0.7)
            letters.append(written.move_to(np.array([x, -1.95, 0.0])))
        self.say(f"Another gain: {num} texts that continue the same prompt share its blocks.")
        self.play(*[FadeIn(blocks[b]) for b in blocks], *[FadeIn(names[b]) for b in names])
        self.play(*[FadeIn(t) for t in titles], *[FadeIn(t) for t in tables])
        self.play(*[FadeIn(c) for c in counts.values()], run_time=0.4)
        self.beat(1.5)
        self.say("Each now writes its first symbol. A shared block is copied first.")
        self.play(*[FadeIn(letter, shift=0.1 * UP) for letter in letters], run_time=0.5)
        filled = len(parts[-1])
        for i in range(num):
            old, new = s["before"][i][-1], s["after"][i][-1]
            assert old == shared
            time = 0.7 if i == 0 else 0.45
            if new != old:
                blocks[new] = box(new, parts[-1])
                left = num - i - 1
                fewer, entry = owners(old, left), tile(new, MODEL, 32, 0.66)
                names[new], counts[new] = name(new), owners(new, 1)
                self.play(
                    TransformFromCopy(blocks[old], blocks[new]),
                    FadeIn(names[new]),
                    FadeIn(counts[new]),
                    ReplacementTransform(tables[i][-1], entry.move_to(tables[i][-1])),
                    run_time=time + 0.2,
                )
                self.remove(counts[old])
                self.add(fewer)
                counts[old] = fewer
            written = text(s["first"][i], 36, MODEL, mono=True).move_to(cell_at(new, filled))
            self.play(ReplacementTransform(letters[i], VGroup(written)), run_time=time)
            if i == 0:
                self.beat(1.0)
        self.say(f"The last one has its block to itself. {s['copies']} copies for {num} texts.")
        self.beat(2.0)

    def answer(self) -> None:
        """Steps until all are done."""
        d, steps = self.data, self.data["steps"]
        self.say(f"Steps for the same {d['num_requests']} texts in {d['num_slots']} slots.")
        rows = RowBars(
            [
                ("regions for the longest", steps["regions"], RIVAL),
                ("regions, lengths known", steps["exact"], RIVAL),
                ("blocks", steps["blocks"], MODEL),
                ("limit: always full", steps["limit"], LIMIT),
            ],
            length=6.0,
            size=38,
            thickness=0.62,
            gap=0.45,
            form="{:.0f}",
        ).move_to(0.1 * UP)
        self.play(FadeIn(rows.names), run_time=0.25)
        with self.preview():
            self.play(
                LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars], lag_ratio=0.3),
                run_time=0.75,
            )
            self.play(FadeIn(rows.numbers), run_time=0.25)
            ours, theirs = [d["at_once"][kind] for kind in ("blocks", "regions")]
            self.say(
                f"Blocks hold {ours:.1f} texts at once, regions {theirs:.1f}."
                " Not one symbol differs.",
                run_time=0.25,
            )
            self.beat(2.0)
