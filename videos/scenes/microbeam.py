"""Is the most probable name a good name?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    AnimationGroup,
    Create,
    FadeIn,
    FadeOut,
    GrowFromEdge,
    LaggedStart,
    Line,
    Rectangle,
    ReplacementTransform,
    SurroundingRectangle,
    Transform,
    TransformFromCopy,
)
from parts import Bars, RowBars, tile

TITLES = {"beam 1": "greedy", "best-first": "best-first"}


def title_of(method: str) -> str:
    """What a search is called on the screen."""
    return TITLES.get(method) or method.replace("beam ", "beam of ")


class Tree(VGroup):
    """All contexts that the searches read: a letter for each, under the letter before it."""

    def __init__(self, reads: Sequence[str], width: float, top: float, level: float) -> None:
        super().__init__()
        nodes = sorted({read[:n] for read in reads for n in range(1, len(read) + 1)})
        children = {n: [m for m in nodes if m[:-1] == n] for n in nodes}
        leaves = [n for n in nodes if not children[n]]
        # A wider gap between letters that continue different texts.
        steps = [0.0] + [1.0 if a[:-1] == b[:-1] else 1.35 for a, b in zip(leaves, leaves[1:])]
        places = {n: (sum(steps[: i + 1]) / sum(steps) - 0.5) * width for i, n in enumerate(leaves)}
        for node in sorted(nodes, key=len, reverse=True):
            if children[node]:
                below = [places[child] for child in children[node]]
                places[node] = (min(below) + max(below)) / 2.0
        at = {n: np.array([places[n], top - level * (len(n) - 1), 0.0]) for n in nodes}
        drawn = {letter: text(letter, 25, MUTED, mono=True) for letter in {n[-1] for n in nodes}}
        self.letters, self.edges = {}, {}
        for node in nodes:
            self.letters[node] = drawn[node[-1]].copy().move_to(at[node])
            if node[:-1] in at:
                down = np.array([0.0, 0.2, 0.0])
                edge = Line(at[node[:-1]] - down, at[node] + down, color=FAINT)
                self.edges[node] = edge.set_stroke(width=1.5)

    def of(self, node: str) -> VGroup:
        """A letter and the line that leads to it."""
        return VGroup(self.letters[node], *[self.edges[n] for n in (node,) if n in self.edges])

    def lit(self, node: str, color: str) -> list:
        """Animations that colour them."""
        moves = [self.letters[node].animate.set_fill(color)]
        if node in self.edges:
            moves.append(self.edges[node].animate.set_stroke(color, width=2.5))
        return moves


class Film(MicroScene):
    """Letters are factors; searches get better, and the names that they find get worse."""

    script = "microbeam"
    question = "Is the most probable name a good name?"

    def story(self) -> None:
        self.greedy()
        self.tree()
        self.better_searches()
        self.clear_stage()
        self.drawing()
        self.clear_stage()
        self.answer()

    def greedy(self) -> None:
        """The likeliest letter each time; the product of five factors, and of one."""
        d, greedy, mode = self.data, self.data["greedy"], self.data["mode"]
        name, letters = greedy["name"], list(d["alphabet"])

        def place(i: int) -> np.ndarray:
            return np.array([(i - (len(name) - 1) / 2.0) * 1.7, 1.95, 0.0])

        def chosen(i: int) -> list[str]:
            return [RIVAL if letter == name[i] else FAINT for letter in letters]

        self.ask()
        for row in greedy["rows"]:
            assert abs(sum(row) - 1.0) < 1e-4
        bars = Bars(
            greedy["rows"][0], letters, unit=9.0, width=0.32, gap=0.14, color=chosen(0), size=28
        )
        bars.shift((-2.1 - bars.ground.get_center()[1]) * UP)
        self.settle(FadeIn(bars))
        self.say("A model of names gives each next letter a probability. The dot ends a name.")
        self.beat(2.0)
        self.say("Greedy takes the likeliest letter, again and again.")
        tiles, factors = [], []
        for i, letter in enumerate(name):
            bar = bars.bars[letters.index(letter)]
            if i:
                moves = bars.heights(greedy["rows"][i])
                for move, color in zip(moves, chosen(i)):
                    move.set_fill(color)
                self.play(*moves, run_time=0.6)
                bar = bars.bars[letters.index(letter)]
            tiles.append(tile(letter, RIVAL, 40, 0.8).move_to(place(i)))
            factors.append(text(f"{greedy['factors'][i]:.0%}", 32, RIVAL))
            factors[-1].move_to(place(i) + 0.85 * DOWN)
            self.play(TransformFromCopy(bar, tiles[-1]), FadeIn(factors[-1]), run_time=0.6)
        self.beat(1.0)
        times = [
            text("×", 32, MUTED).move_to((a.get_center() + b.get_center()) / 2.0)
            for a, b in zip(factors, factors[1:])
        ]
        total = text(f"{greedy['p']:.3%}", 44, RIVAL, bold=True)
        total.move_to(np.array([-2.2, -0.2, 0.0]), aligned_edge=RIGHT)
        row = VGroup(*factors, *times)
        self.say("A name's probability is the product: each letter is one more factor.")
        self.play(FadeOut(bars), *[FadeIn(t) for t in times], run_time=0.5)
        name_of = text(name, 40, RIVAL, mono=True).move_to(np.array([-5.6, -0.2, 0.0]))
        self.play(
            TransformFromCopy(row, total), TransformFromCopy(VGroup(*tiles), name_of), run_time=0.8
        )
        unit = 6.4 / mode["p"]
        lengths = []
        for p, y, color in ((greedy["p"], -0.2, RIVAL), (mode["p"], -1.5, MODEL)):
            bar = Rectangle(width=p * unit, height=0.6, stroke_width=0).set_fill(color, 1)
            lengths.append(bar.move_to(np.array([-1.9, y, 0.0]), aligned_edge=LEFT))
        self.play(GrowFromEdge(lengths[0], LEFT), run_time=0.4)
        self.beat(1.25)
        end = tile(mode["name"], MODEL, 40, 0.8).move_to(np.array([-5.6, -1.5, 0.0]))
        single = text(f"{mode['p']:.2%}", 44, MODEL, bold=True)
        single.move_to(np.array([-2.2, -1.5, 0.0]), aligned_edge=RIGHT)
        self.say("The empty name has a single factor, and is more probable!")
        self.play(TransformFromCopy(tiles[-1], end), run_time=0.7)
        self.play(FadeIn(single), GrowFromEdge(lengths[1], LEFT), run_time=0.8)
        self.beat(1.75)
        self.clear_stage()

    def tree(self) -> None:
        """Three searches in one tree."""
        trees = self.data["trees"]
        reads = [node for tree in trees.values() for node in tree["read"]]
        tree = Tree(reads, 13.3, 2.65, 1.03)
        captions = {
            "greedy": "Names with “m”: greedy follows one branch of the tree.",
            "beam 5": "A beam of 5 keeps the 5 best branches of each length.",
            "best-first": "Best-first extends the likeliest text: it cannot miss.",
        }
        paces = {"greedy": 0.3, "beam 5": 0.1, "best-first": 0.055}
        seen: set[str] = set()
        for i, (method, found) in enumerate(trees.items()):
            self.say(captions[method])
            if seen:
                self.play(*[m for n in seen for m in tree.lit(n, MUTED)], run_time=0.3)
            path = [found["name"][:n] for n in range(1, len(found["name"]))]
            news = [node for node in dict.fromkeys(found["read"]) if node not in seen]
            olds = [node for node in dict.fromkeys(found["read"]) if node in seen]
            for node in (*olds, *news):
                tree.letters[node].set_fill(RIVAL)
                if node in tree.edges:
                    tree.edges[node].set_stroke(RIVAL, width=2.0)
            pace = paces[method]
            self.play(
                LaggedStart(*[FadeIn(tree.of(node)) for node in news], lag_ratio=0.5),
                run_time=max(1.2, pace * len(news)),
            )
            seen |= set(found["read"])
            x = (i - 1) * 4.3
            words = f"{found['name']}  {found['p']:.2%}"
            result = VGroup(
                text(title_of(method), 28, MUTED).move_to(np.array([x, -1.93, 0.0])),
                text(words, 36, MODEL, mono=True).move_to(np.array([x, -2.4, 0.0])),
            )
            self.play(
                *[m for n in path for m in tree.lit(n, MODEL)],
                FadeIn(result, shift=0.1 * UP),
                run_time=0.6,
            )
            self.beat(1.25)
        self.clear_stage()

    def better_searches(self) -> None:
        """Five first letters: the names that ever better searches find."""
        d, searches = self.data, self.data["searches"]
        left, bar_left, pitch = -6.3, -0.75, 0.93
        unit = 5.0 / max([s["p"] for search in searches for s in search["shown"]])

        def place(row: int, i: int) -> np.ndarray:
            return np.array([left + i * 0.76, 1.55 - row * pitch, 0.0])

        def number(row: int, p: float) -> VGroup:
            x = bar_left + p * unit + 0.2
            y = 1.55 - row * pitch
            return text(f"{p:.2%}", 34, MODEL).move_to(np.array([x, y, 0.0]), aligned_edge=LEFT)

        def head(search: dict) -> list:
            found = [
                text(title_of(search["method"]), 40, RIVAL, bold=True),
                text(f"mean of all {d['num_letters']}: {search['letters']:.1f} letters", 34, INK),
            ]
            found[0].move_to(np.array([left - 0.33, 2.5, 0.0]), aligned_edge=LEFT)
            found[1].move_to(np.array([bar_left, 2.5, 0.0]), aligned_edge=LEFT)
            return found

        first = searches[0]
        rows, bars, numbers = [], [], []
        for r, shown in enumerate(first["shown"]):
            rows.append(
                [tile(s, INPUT if i == 0 else RIVAL, 38, 0.7).move_to(place(r, i))
                 for i, s in enumerate(shown["name"])]
            )  # fmt: skip
            bar = Rectangle(width=shown["p"] * unit, height=0.5, stroke_width=0)
            bar.set_fill(MODEL, 1).move_to(
                np.array([bar_left, 1.55 - r * pitch, 0.0]), aligned_edge=LEFT
            )
            bars.append(bar)
            numbers.append(number(r, shown["p"]))
        heads = head(first)
        self.say(
            "Names that ever better searches find, and their probabilities:"
            f" {len(rows)} of {d['num_letters']} first letters."
        )
        self.play(
            FadeIn(VGroup(*[t for row in rows for t in row])),
            FadeIn(VGroup(*bars)), FadeIn(VGroup(*numbers)), FadeIn(VGroup(*heads)),
            run_time=0.6,
        )  # fmt: skip
        with self.preview():
            self.beat(1.0)
            for before, search in zip(searches, searches[1:]):
                moves = []
                for r, (old, new) in enumerate(zip(before["shown"], search["shown"])):
                    if old["name"] != new["name"]:
                        moves += self.rename(rows[r], new["name"], lambda i, r=r: place(r, i))
                        wide = new["p"] * unit
                        goal = bars[r].copy().stretch_to_fit_width(wide)
                        goal.move_to(bars[r].get_left(), aligned_edge=LEFT)
                        moves.append(Transform(bars[r], goal))
                        fresh = number(r, new["p"])
                        moves.append(ReplacementTransform(numbers[r], fresh))
                        numbers[r] = fresh
                self.remove(*heads)
                heads = head(search)
                self.add(*heads)
                if moves:
                    self.play(AnimationGroup(*moves), run_time=0.75)
                self.wait(0.25 if moves else 0.5)
            self.say("The better the search, the more probable the name, and the worse.",
                     run_time=0.25)  # fmt: skip
            self.beat(1.5)

    @staticmethod
    def rename(tiles: list, name: str, place: object) -> list:
        """Animations from the tiles to another name: what is common stays, the dot moves."""
        moves = []
        old, end = tiles[:-1], tiles[-1]
        new = []
        for i, symbol in enumerate(name[:-1]):
            if i < len(old) and old[i][1].words == symbol:
                new.append(old[i])
                continue
            new.append(tile(symbol, RIVAL, 38, 0.7).move_to(place(i)))
            moves.append(ReplacementTransform(old[i], new[-1]) if i < len(old) else FadeIn(new[-1]))
        moves += [FadeOut(t) for t in old[len(name) - 1 :]]
        moves.append(end.animate.move_to(place(len(name) - 1)))
        tiles[:] = [*new, end]
        return moves

    def drawing(self) -> None:
        """Draw each letter instead, from a sharpened distribution."""
        d, mar = self.data, self.data["mar"]
        letters = list(d["alphabet"])
        for row in (mar["p"], mar["sharp"]):
            assert abs(sum(row) - 1.0) < 1e-4
        prompt = VGroup(*[tile(s, INPUT, 38, 0.75) for s in mar["text"]])
        blank = tile("?", MODEL, 38, 0.75)
        prompt.add(blank).arrange(RIGHT, buff=0.14).move_to(2.3 * UP + 4.2 * LEFT)
        bars = Bars(mar["p"], letters, unit=4.0, width=0.32, gap=0.14, color=MODEL, size=28)
        bars.shift((-2.1 - bars.ground.get_center()[1]) * UP)
        self.say("So do not search: draw each letter, with its probability.")
        self.play(FadeIn(prompt), FadeIn(bars))
        self.beat(1.5)
        top = letters[max(range(len(letters)), key=lambda i: mar["p"][i])]
        which = letters.index(top)

        def share(row: Sequence[float]) -> VGroup:
            words = text(f"“{top}” {row[which]:.0%}", 40, MODEL)
            return words.move_to(2.3 * UP + 2.6 * RIGHT)

        label = share(mar["p"])
        self.play(FadeIn(label), run_time=0.3)
        self.say(f"A temperature of {mar['t']} makes what is likely likelier.")
        self.play(*bars.heights(mar["sharp"]), Transform(label, share(mar["sharp"])), run_time=1.2)
        self.beat(1.25)
        self.clear_stage()
        titles = ["the model as it is", f"temperature {mar['t']}"]
        length = 3.3
        self.say("Names that it drew. Green: a real name.")
        halves = []
        for side, (title, sample) in enumerate(zip(titles, d["samples"])):
            x = -3.5 if side == 0 else 3.5
            head = text(title, 38, MODEL, bold=True).move_to(np.array([x, 2.45, 0.0]))
            words = VGroup()
            for i, entry in enumerate(sample["names"]):
                column, row = divmod(i, len(sample["names"]) // 2)
                word = text(entry["name"], 32, LIMIT if entry["real"] else MUTED)
                words.add(word.move_to(np.array([x - 1.35 + 2.7 * column, 1.65 - 0.56 * row, 0.0])))
            self.play(
                FadeIn(head),
                LaggedStart(*[FadeIn(w, shift=0.1 * UP) for w in words], lag_ratio=0.2),
                run_time=1.2,
            )
            halves.append(x)
        self.beat(1.5)
        self.say(f"Of {d['num_samples']} names each: many more are real, but fewer are different.")
        grows, ends = [], []
        for x, sample in zip(halves, d["samples"]):
            for y, key, color in ((-1.55, "real", LIMIT), (-2.3, "different", MUTED)):
                name = text(key, 30, color).move_to(
                    np.array([x - 1.25, y, 0.0]), aligned_edge=RIGHT
                )
                bar = Rectangle(width=sample[key] * length, height=0.42, stroke_width=0)
                bar.set_fill(color, 1).move_to(np.array([x - 1.05, y, 0.0]), aligned_edge=LEFT)
                grows += [FadeIn(name), GrowFromEdge(bar, LEFT)]
                ends.append(text(f"{sample[key]:.0%}", 30, color).next_to(bar, RIGHT, buff=0.15))
        self.play(*grows, run_time=0.9)
        self.play(*[FadeIn(end) for end in ends], run_time=0.3)
        self.beat(2.0)

    def answer(self) -> None:
        """Letters per name, over all first letters."""
        d = self.data
        by_method = {search["method"]: search for search in d["searches"]}
        shown = [by_method[method] for method in ("beam 1", "beam 10", "best-first")]
        names = ["greedy", title_of("beam 10"), "most probable"]
        rows = RowBars(
            [
                ("real names", d["held_out_letters"], LIMIT),
                *[(name, search["letters"], RIVAL) for name, search in zip(names, shown)],
            ],
            length=6.6,
            size=40,
            thickness=0.62,
            gap=0.45,
            form="{:.1f}",
        ).move_to(0.1 * UP)
        self.say("Letters per name, on average.")
        self.play(FadeIn(rows.names), FadeIn(rows.bars[0]), FadeIn(rows.numbers[0]), run_time=0.4)
        with self.preview():
            self.play(
                LaggedStart(*[GrowFromEdge(bar, LEFT) for bar in rows.bars[1:]], lag_ratio=0.3),
                run_time=1.0,
            )
            self.play(FadeIn(rows.numbers[1:]), run_time=0.25)
            frame = SurroundingRectangle(rows.bars[-1], color=INK, buff=0.08)
            self.say(
                f"No: the most probable names have only {d['ratio']:.0%} of a real name's length.",
                run_time=0.25,
            )
            self.play(Create(frame), run_time=0.5)
            self.beat(2.5)
