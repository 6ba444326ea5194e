#!/usr/bin/env python3
"""Draw assets/banner.png: noise that becomes data, as microdiffusion's run did it.

    .venv-videos/bin/python videos/banner.py

The trails are those of the points in videos/traces/microdiffusion.json, drawn by flow with the
best possible guess: each starts as noise and ends on one of eight clusters.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

VIDEOS = Path(__file__).resolve().parent
sys.path.insert(0, str(VIDEOS / "scenes"))

import base  # noqa: E402
from manim import DOWN, LEFT, RIGHT, Dot, Line, ManimColor, Scene, tempconfig  # noqa: E402

WIDTH, HEIGHT = 1280, 360
FRAME_HEIGHT = 4.0
UNIT = 1.12  # Manim's units for one unit of the points


class Banner(Scene):
    """Words to the left, trails to the right."""

    def construct(self) -> None:
        self.camera.background_color = ManimColor(base.BACKGROUND)
        half = FRAME_HEIGHT * WIDTH / HEIGHT / 2
        stops = base.load_trace("microdiffusion")["data"]["flights"]["flow"]["points"]
        middle = (half - 2.9) * RIGHT
        first, last = ManimColor(base.INPUT), ManimColor(base.MODEL)
        for path in zip(*stops):
            places = [middle + UNIT * (x * RIGHT - y * DOWN) for x, y in path]
            for i, (a, b) in enumerate(zip(places, places[1:])):
                share = (i + 1) / (len(places) - 1)
                color = first.interpolate(last, share)
                self.add(
                    Line(a, b, color=color, stroke_width=1.2, stroke_opacity=0.15 + 0.5 * share)
                )
        for path in zip(*stops):
            x, y = path[-1]
            dot = Dot(middle + UNIT * (x * RIGHT - y * DOWN), radius=0.035, color=base.MODEL)
            self.add(dot)
        title = base.text("no-magic", 110, bold=True)
        line = base.text("model.fit() is not an explanation. This is.", 34, base.MUTED)
        title.move_to((half - 0.6) * LEFT, aligned_edge=LEFT).shift(0.35 * base.UP)
        line.next_to(title, DOWN, buff=0.42, aligned_edge=LEFT)
        self.add(title, line)


def main() -> int:
    base.check_fonts()
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            "pixel_width": 2 * WIDTH,
            "pixel_height": 2 * HEIGHT,
            "frame_height": FRAME_HEIGHT,
            "frame_width": FRAME_HEIGHT * WIDTH / HEIGHT,
            "media_dir": scratch,
            "save_last_frame": True,
            "verbosity": "ERROR",
            "progress_bar": "none",
        }
        with tempconfig(settings):
            Banner().render()
        (made,) = Path(scratch).rglob("Banner*.png")
        target = VIDEOS.parent / "assets" / "banner.png"
        target.parent.mkdir(exist_ok=True)
        shutil.move(made, target)
    print(target.relative_to(VIDEOS.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
