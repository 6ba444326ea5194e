"""Pictures made of characters, once: gray values, curves and clouds of points in a terminal.

Scripts carry exact copies of the pieces that they use (tools/sync.py writes and checks them).
"""

from __future__ import annotations

from collections.abc import Sequence

SHADES = " .:-=+*#%@"  # from empty to full


def shade(rows: Sequence[Sequence[float]], low: float = 0.0, high: float = 1.0) -> list[str]:
    """A matrix [H][W] as H lines of 2 W characters: low is blank, high is @.

    >>> shade([[0.0, 0.5, 1.0]])
    ['  ==@@']
    """
    top = len(SHADES) - 1
    lines = []
    for row in rows:
        levels = [(value - low) / (high - low) * top for value in row]
        lines.append("".join([2 * SHADES[min(max(int(level), 0), top)] for level in levels]))
    return lines


def sparkline(values: Sequence[float]) -> str:
    """One character for each value, from the smallest (blank) to the largest (@).

    >>> sparkline([0, 1, 2, 9])
    ' .:@'
    """
    low, high = min(values), max(values)
    top = len(SHADES) - 1
    return "".join([SHADES[int((v - low) / ((high - low) or 1.0) * top)] for v in values])


def cloud(
    points: Sequence[Sequence[float]], reach: float, columns: int = 32, lines: int = 16
) -> list[str]:
    """Points (x, y) from -reach to reach in both directions, as lines of characters: the darker,
    the more points lie there. Points further out are left away.

    >>> cloud([(-1.0, 1.0), (0.9, -0.9)], reach=1.0, columns=4, lines=2)
    ['@   ', '   @']
    """
    counts = [[0] * columns for _ in range(lines)]
    for x, y in points:
        if max(abs(x), abs(y)) <= reach:
            column = int((x + reach) / (2.0 * reach) * columns)
            line = int((reach - y) / (2.0 * reach) * lines)
            counts[min(line, lines - 1)][min(column, columns - 1)] += 1
    fullest = max(map(max, counts)) or 1
    top = len(SHADES) - 1
    # Square roots lift thin places, and whatever is not empty shows at least a dot.
    levels = [[1 + (n / fullest) ** 0.5 * (top - 1) if n else 0 for n in row] for row in counts]
    return ["".join([SHADES[round(level)] for level in row]) for row in levels]
