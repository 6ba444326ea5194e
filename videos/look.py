#!/usr/bin/env python3
"""Look at a scene without rendering it: one picture with the frame of every pause.

    .venv-videos/bin/python videos/look.py microgpt [folder]

Writes <folder>/microgpt-1.png and so on (default folder: videos/renders), nine pauses to a
picture, each 480 pixels wide as in a preview, and prints what the layout test would complain about.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

VIDEOS = Path(__file__).resolve().parent
sys.path.insert(0, str(VIDEOS / "scenes"))

import base  # noqa: E402
from manim import tempconfig  # noqa: E402
from PIL import Image  # noqa: E402


def load_film(name: str) -> type:
    """The class Film of videos/scenes/<name>.py (the script itself has the same name)."""
    spec = spec_from_file_location(f"film_of_{name}", VIDEOS / "scenes" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Film


def walk(name: str, at_pause, trace_folder: Path | None = None, width: int = 480):
    """Play a scene with every animation skipped, and call at_pause(scene) at each pause."""
    film = load_film(name)
    with tempfile.TemporaryDirectory() as scratch:
        settings = {
            "dry_run": True,
            "pixel_width": width,
            "pixel_height": width * 9 // 16,
            "media_dir": scratch,
            "disable_caching": True,
            "verbosity": "ERROR",
            "progress_bar": "none",
        }
        with tempconfig(settings):
            scene = film(skip_animations=True)
            scene.only_preview = False
            scene.at_pause = at_pause
            if trace_folder is not None:
                scene.trace_folder = trace_folder
            scene.render()
    return scene


def main() -> int:
    name = sys.argv[1]
    folder = Path(sys.argv[2]) if len(sys.argv) > 2 else VIDEOS / "renders"
    folder.mkdir(exist_ok=True)
    frames: list[Image.Image] = []

    def keep(scene: base.MicroScene) -> None:
        scene.renderer.update_frame(scene, ignore_skipping=True)
        frames.append(scene.renderer.camera.get_image().convert("RGB"))
        for complaint in base.complaints(scene):
            print(f"pause {len(frames)}: {complaint}")

    numbers: list[float] = []

    def check(scene: base.MicroScene) -> None:
        keep(scene)
        if not numbers:
            numbers.extend(base.leaves(scene.data))
        for letters in base.texts(scene):
            for token in base.numbers_in(letters.words):
                if not base.is_in(token, numbers):
                    print(f"pause {len(frames)}: {token} is not in the trace")

    scene = walk(name, check)
    print(
        f"{len(frames)} pauses, {scene.renderer.time:.1f} s, preview {scene.preview_seconds:.1f} s"
    )
    for old in folder.glob(f"{name}-*.png"):
        old.unlink()
    for page in range(0, len(frames), 9):
        group = frames[page : page + 9]
        wide, high = group[0].size
        columns = min(2 if len(frames) <= 4 else 3, len(group))
        rows = -(-len(group) // columns)
        sheet = Image.new("RGB", (columns * (wide + 6), rows * (high + 6)), "white")
        for i, frame in enumerate(group):
            sheet.paste(frame, (i % columns * (wide + 6), i // columns * (high + 6)))
        path = folder / f"{name}-{page // 9 + 1}.png"
        sheet.save(path)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
