"""What the film of microflash shows: one row merged in tiles, a forward pass in tiles, and counts.

The row and the pass are those of the script's exactness check (N = 100, tiles of 16). The counts
are made as main() makes them; what came out of training is taken from the recorded run.
"""

from __future__ import annotations

import random
from math import exp
from types import ModuleType

from tracing import recorded

LEVELS = "abcdefghijklmnopqrstuvwxyz"  # shares of the largest entry of a row, from 0 to 1


def levels(rows: list) -> list[str]:
    """Every row of scores as letters: exp(score - largest of the row) in 26 steps."""
    return ["".join([LEVELS[round(25 * exp(score - max(row)))] for score in row]) for row in rows]


def record(script: ModuleType) -> dict:
    """Follow the last query, then all queries, then count."""
    rng = random.Random(script.SEED)
    problem = script.new_problem(script.CHECK_LENGTH, rng)
    q, k, v, _ = problem

    class Watched(script.TwoMemories):
        """Two memories that write down every transfer, and every tile that is held."""

        def __init__(self, capacity: float = float("inf")) -> None:
            super().__init__(capacity)
            self.transfers: list[int] = []
            self.tiles: list[dict] = []

        def load(self, *arrays: object) -> None:
            super().load(*arrays)
            self.transfers.append(self.moved)

        store = load

        def hold(self, *arrays: object) -> None:
            super().hold(*arrays)
            self.tiles.append({"levels": levels(arrays[3]), "moved": self.moved})
            sums.append([])

    # One row: its scores, and what each tile's summary does to the summary so far.
    (scores,) = script.tile_scores(q[-1:], k, range(len(k) - 1, len(k)), range(len(k)))
    summary, walk = None, []
    for columns in script.tiles(len(k), script.BLOCK):
        part_scores = script.take(scores, columns)
        part = script.summarise(part_scores, script.take(v, columns))
        merged = part if summary is None else script.merge(summary, part)
        old = part[0] if summary is None else summary[0]
        walk.append(
            {
                "exponentials": [exp(score - part[0]) for score in part_scores],
                "part_largest": part[0],
                "part_sum": part[1],
                "largest": merged[0],
                "old_times": exp(old - merged[0]),
                "new_times": exp(part[0] - merged[0]),
                "sum": merged[1],
            }
        )
        summary = merged
    whole = script.summarise(scores, v)

    # All rows: the ordinary way, and tile by tile with the sums of every tile's rows.
    sums: list[list[float]] = []
    ordinary_memory, flash_memory = Watched(), Watched(script.FAST_WORDS)
    out, weights = script.ordinary_forward(q, k, v, ordinary_memory)
    merge = script.merge

    def watched_merge(a: tuple, b: tuple) -> tuple:
        result = merge(a, b)
        sums[-1].append(result[1])
        return result

    script.merge = watched_merge
    flash_out, _ = script.flash_forward(q, k, v, script.BLOCK, flash_memory)
    script.merge = merge
    triangle = script.tile_scores(q, k, range(len(q)), range(len(k)))
    per_block = []
    for rows in script.tiles(len(q), script.BLOCK):
        for columns in script.tiles(len(k), script.BLOCK):
            if columns.start < rows.stop:
                per_block.append([rows.start // script.BLOCK, columns.start // script.BLOCK])

    # Words moved by tile size, and growth, as main() counts them.
    compared = script.new_problem(script.COMPARE_LENGTH, rng)
    memory = script.TwoMemories()
    script.run_ordinary(compared, memory)
    traffic: dict = {"ordinary": memory.moved, "flash": []}
    for block in script.BLOCKS:
        memory = script.TwoMemories(script.FAST_WORDS)
        try:
            script.run_flash(compared, memory, block)
            traffic["flash"].append({"block": block, "moved": memory.moved})
        except MemoryError as refusal:
            words = int(str(refusal).split()[0].replace(",", ""))
            traffic["refused"] = {"block": block, "words": words}
    traffic["floor"] = 11 * script.COMPARE_LENGTH * script.HEAD_DIM
    traffic["worse"] = traffic["flash"][0]["moved"] / traffic["ordinary"]
    best = min([row["moved"] for row in traffic["flash"]])
    traffic["above_floor"] = best / traffic["floor"]
    growth: dict = {"lengths": list(script.LENGTHS)}
    problems = [script.new_problem(length, rng) for length in script.LENGTHS]
    for name, run in (("ordinary", script.run_ordinary), ("flash", script.run_flash)):
        moved, megabytes = zip(*[script.measure(run, problem) for problem in problems])
        growth[name] = {"words": list(moved), "megabytes": list(megabytes)}
    for kind in ("words", "megabytes"):
        growth[f"{kind}_times"] = growth["flash"][kind][-1] / growth["flash"][kind][-2]
        growth[f"{kind}_less"] = growth["ordinary"][kind][-1] / growth["flash"][kind][-1]

    run = recorded("microflash")["seeds"]["42"]["headline"]
    return {
        "run": {key: run[key] for key in ("error", "traffic_ratio")},
        "num_rows": len(q),
        "block": script.BLOCK,
        "fast_words": script.FAST_WORDS,
        "compare_length": script.COMPARE_LENGTH,
        "num_weights": script.count_words(weights),
        "triangle": levels(triangle),
        "scores": scores,
        "walk": walk,
        "whole_sum": whole[1],
        "ordinary_transfers": ordinary_memory.transfers,
        "flash_moved": flash_memory.moved,
        "most_held": flash_memory.most_held,
        "tiles": [
            {"place": place, "sums": row_sums, **tile}
            for place, row_sums, tile in zip(per_block, sums, flash_memory.tiles)
        ],
        "out_error": script.largest_difference(flash_out, out),
        "traffic": traffic,
        "growth": growth,
    }
