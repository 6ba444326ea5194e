#!/usr/bin/env python3
"""Render films and previews (called by videos/render.sh, which prepares the environment).

A film is 1080p at 60 frames a second, videos/renders/<name>.mp4. A preview is the part that a
scene marks as its preview, videos/previews/<name>.gif: 480 pixels wide, 8 to 14 seconds, at most
700 KB. A scene that fails does not stop the others; the last lines name it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VIDEOS = Path(__file__).resolve().parent
SCENES, RENDERS, PREVIEWS = VIDEOS / "scenes", VIDEOS / "renders", VIDEOS / "previews"
GIF_WIDTH, GIF_RATE, GIF_BYTES = 480, 12, 700_000
GIF_SECONDS = (8.0, 14.0)


def scene_names() -> list[str]:
    """Every scene: the files in videos/scenes that are named after a script."""
    return sorted(path.stem for path in SCENES.glob("micro*.py"))


def render(name: str, only_preview: bool, folder: Path) -> Path:
    """Run one scene in this process and write its MP4; returns the file."""
    os.environ["PYTHONHASHSEED"] = "0"
    sys.path[:0] = [str(VIDEOS), str(SCENES)]
    from look import load_film
    from manim import tempconfig

    width, rate = (960, GIF_RATE) if only_preview else (1920, 60)
    settings = {
        "pixel_width": width,
        "pixel_height": width * 9 // 16,
        "frame_rate": rate,
        "media_dir": str(folder),
        "output_file": name,
        "disable_caching": True,
        "verbosity": "ERROR",
        "progress_bar": "none",
    }
    with tempconfig(settings):
        film = load_film(name)
        film.only_preview = only_preview
        scene = film()
        scene.render()
        seconds = scene.preview_seconds
        if not GIF_SECONDS[0] <= seconds <= GIF_SECONDS[1]:
            raise SystemExit(
                f"{name}: the preview lasts {seconds:.1f} s; {GIF_SECONDS[0]:.0f} to "
                f"{GIF_SECONDS[1]:.0f} are wanted"
            )
    (made,) = [p for p in folder.rglob(f"{name}.mp4") if "partial" not in str(p)]
    return made


def to_gif(movie: Path, gif: Path) -> None:
    """Write the movie as a small GIF; fewer colours and frames until it fits."""
    with tempfile.TemporaryDirectory() as scratch:
        for rate, colors, lossy in ((12, 64, 30), (12, 48, 60), (10, 48, 90), (8, 32, 120)):
            raw, small = Path(scratch) / "raw.gif", Path(scratch) / "small.gif"
            chain = (
                f"fps={rate},scale={GIF_WIDTH}:-1:flags=lanczos,split[a][b];"
                f"[a]palettegen=max_colors={colors}:stats_mode=full[p];"
                "[b][p]paletteuse=dither=none"
            )
            run(
                ["ffmpeg", "-y", "-loglevel", "error", "-i", movie, "-vf", chain, "-loop", "0", raw]
            )
            run(["gifsicle", "-O3", f"--lossy={lossy}", raw, "-o", small])
            if small.stat().st_size <= GIF_BYTES:
                shutil.move(small, gif)
                return
    raise SystemExit(f"{gif.name} does not fit into {GIF_BYTES // 1000} KB")


def run(command: list) -> None:
    """Run a program; end with its name if it fails."""
    if subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL).returncode:
        raise SystemExit(f"{command[0]} failed")


def make(name: str, preview: bool) -> Path:
    """Render one film or preview, and put it in its place, whole or not at all."""
    with tempfile.TemporaryDirectory() as scratch:
        movie = render(name, preview, Path(scratch))
        if preview:
            PREVIEWS.mkdir(exist_ok=True)
            target = PREVIEWS / f"{name}.gif"
            to_gif(movie, target)
        else:
            RENDERS.mkdir(exist_ok=True)
            target = RENDERS / f"{name}.mp4"
            shutil.move(movie, target)
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="scenes (default: all)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preview-only", action="store_true", help="the GIFs, not the films")
    which.add_argument("--full-only", action="store_true", help="the films, not the GIFs")
    parser.add_argument("--one", choices=("film", "preview"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = sorted(set(options.names) - set(scene_names()))
    if unknown:
        print(f"There is no scene {', '.join(unknown)}. There are: {', '.join(scene_names())}")
        return 2
    if options.one:  # in a process of its own, so that one scene cannot spoil the next
        make(options.names[0], options.one == "preview")
        return 0
    kinds = ["preview"] if options.preview_only else ["film"] if options.full_only else []
    jobs = [(n, k) for n in options.names or scene_names() for k in kinds or ("preview", "film")]
    failed, rows = [], []
    for i, (name, kind) in enumerate(jobs, 1):
        print(f"[{i}/{len(jobs)}] {name}: {kind} ...", flush=True)
        start = time.perf_counter()
        command = [sys.executable, __file__, name, "--one", kind]
        if subprocess.run(command, stdin=subprocess.DEVNULL).returncode:
            failed.append(f"{name} ({kind})")
            continue
        path = PREVIEWS / f"{name}.gif" if kind == "preview" else RENDERS / f"{name}.mp4"
        rows.append((name, kind, time.perf_counter() - start, path.stat().st_size))
    print()
    for name, kind, seconds, size in rows:
        print(f"{name:<18} {kind:<8} {seconds:6.0f} s {size / 1000:9,.0f} KB")
    if failed:
        print(f"\nFAILED: {', '.join(failed)}")
        return 1
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(130)
