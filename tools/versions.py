#!/usr/bin/env python3
"""Check that the scripts meet their bars on other versions of Python too.

    python3 tools/versions.py                      every script on the oldest Python found, and
                                                   the SHORT list on the newest
    python3 tools/versions.py --scripts microgpt   these scripts only
    python3 tools/versions.py --python PATH ...    every script on these interpreters
      --minutes N    start no further script after N minutes, and say which were left out
      --jobs N       so many scripts at a time (2)

Other versions are looked for on the PATH (python3.10 and so on) and among pyenv's. Which are
found, run and not found is said; that there are none is no failure. The scripts get the standard
library alone, and warnings are errors. Exit status: 1 if a script failed or missed a bar.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import bench

MINORS = range(10, 15)  # Python 3.10 to 3.14
SHORT = ("microgpt",)  # what runs on the newest version: what an upgrade of Python could break
FLAGS = ["-S", "-W", "error"]  # no installed packages; warnings are errors


class Python(NamedTuple):
    """An interpreter: (3, 10, 13) and its path."""

    version: tuple[int, ...]
    path: str

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))}"


# === FINDING ===


def ask(path: str) -> Python | None:
    """The interpreter behind this path, or None if it does not start (as pyenv's shims may)."""
    code = "import sys; print(*sys.version_info[:3]); print(sys.executable)"
    try:
        told = subprocess.run(
            [path, "-S", "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=True,
            encoding="utf-8",
        )
        numbers, executable = told.stdout.splitlines()
        return Python(tuple(map(int, numbers.split())), executable)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def candidates() -> Iterator[str]:
    """The paths where an interpreter may be, for each version the likeliest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    for minor in MINORS:
        if on_path := shutil.which(f"python3.{minor}"):
            yield on_path
        for folder in sorted(pyenv.glob(f"3.{minor}*")):
            yield str(folder / "bin" / f"python3.{minor}")


def find() -> list[Python]:
    """One interpreter for each version found besides the one that runs this, oldest first."""
    found: dict[int, Python] = {}
    for path in candidates():
        python = ask(path)
        if python and python.version[0] == 3 and python.version[1] in MINORS:
            found.setdefault(python.version[1], python)
    found.pop(sys.version_info[1], None)
    return [found[minor] for minor in sorted(found)]


# === CHOOSING ===


def choose(pythons: list[Python], names: list[str], short: Iterable[str]) -> dict[Python, set[str]]:
    """What runs where: every name on the oldest version, the short list on the newest.

    The oldest must be older than the Python that runs the tests, and the newest newer: else the
    tests have already seen something as old, or as new.
    """
    chosen = {}
    if pythons and pythons[-1].version > sys.version_info[:3]:
        chosen[pythons[-1]] = {name for name in names if name in short}
    if pythons and pythons[0].version < sys.version_info[:3]:
        chosen[pythons[0]] = set(names)
    return chosen


def describe(pythons: list[Python], chosen: dict[Python, set[str]]) -> list[str]:
    """Which versions were found, which of them run, and which are missing."""
    lines = [f"{python} ({python.path}), scripts: {len(names)}" for python, names in chosen.items()]
    if spare := [str(python) for python in pythons if python not in chosen]:
        lines.append(f"found, but not run: {', '.join(spare)}")
    seen = {python.version[1] for python in pythons} | {sys.version_info[1]}
    if missing := [f"3.{minor}" for minor in MINORS if minor not in seen]:
        lines.append(f"not found here: Python {', '.join(missing)}")
    return lines


# === RUNNING ===


def check(child: bench.Child, declared: dict) -> tuple[str, bool]:
    """The line that a finished run is worth, and whether all was well."""
    try:
        entry = child.result()
        words, is_good = bench.verdict(entry, declared, {})
    except bench.RunFailed as problem:
        return f"FAILED: {problem}", False
    line = bench.report_line("", entry, words).removeprefix(": ")
    return line, is_good and bool(declared["bars"])


def run(
    root: Path, chosen: dict[Python, set[str]], minutes: float | None, jobs: int
) -> tuple[list[str], list[str]]:
    """Run the chosen scripts; return what went wrong and what was left out."""
    by_name = {script.stem: script for script in bench.scripts(root)}
    waiting = [(python, name) for python, names in chosen.items() for name in sorted(names)]
    if minutes is not None:
        random.shuffle(waiting)  # where time runs out, let it be other scripts each time
    until = time.monotonic() + 60.0 * (float("inf") if minutes is None else minutes)

    def tasks() -> Iterator[tuple[list[str], Path, dict]]:
        while waiting and time.monotonic() < until:
            python, name = waiting.pop(0)
            yield [python.path, *FLAGS], by_name[name], {}

    versions = {python.path: str(python) for python in chosen}
    problems = []
    for child in bench.run_tasks(root, tasks(), jobs):
        label = f"{versions[child.python[0]]}  {child.label}"
        try:
            line, is_good = check(child, bench.read_declarations(root, child.script))
        except bench.RunFailed as problem:
            line, is_good = f"tests/test_{child.label}.py cannot be read: {problem}", False
        print(f"{label}: {line}", flush=True)
        if not is_good:
            problems.append(label)
    return problems, [f"{python}  {name}" for python, name in waiting]


# === THE COMMAND ===


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Check the scripts' bars on other Pythons.")
    parser.add_argument("--scripts", nargs="+", default=[], help="such as microgpt; default: all")
    parser.add_argument("--python", nargs="+", default=[], help="interpreters; default: found ones")
    parser.add_argument("--minutes", type=float, help="start no further script after so long")
    parser.add_argument("--jobs", type=int, default=2, help="scripts at a time")
    parser.add_argument("--root", type=Path, default=bench.ROOT, help="another collection")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs takes a number from 1 on")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    options = parse(arguments)
    root = options.root.resolve()
    names = [script.stem for script in bench.choose(root, options.scripts)]
    if options.python:
        pythons = [ask(path) for path in options.python]
        broken = [path for path, python in zip(options.python, pythons) if python is None]
        if broken:
            raise SystemExit(f"tools/versions.py: no Python starts at {', '.join(broken)}.")
        chosen = {python: set(names) for python in pythons}
    else:
        pythons = find()
        chosen = choose(pythons, names, options.scripts or SHORT)
    for line in describe(pythons, chosen):
        print(line, flush=True)
    problems, left_out = run(root, chosen, options.minutes, options.jobs)
    for label in left_out:
        print(f"not run, for want of time: {label}")
    for label in problems:
        print(f"went wrong: {label}")
    return 1 if problems else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, bench.interrupt)  # end as after Ctrl-C: processes stopped
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
