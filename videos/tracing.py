#!/usr/bin/env python3
"""Write the traces: the numbers that the films show, from runs of the scripts' own functions.

    python3 videos/tracing.py                 every trace that is missing or stale
    python3 videos/tracing.py microgpt        this one, in any case
    python3 videos/tracing.py --check         say which are missing or stale, run nothing

A trace is made by `record(script)` in videos/recorders/<name>.py, which gets the imported script
and returns what the film needs. It carries the hash of the script's code (comments do not count):
when the code changes, the trace is stale, and a test says so. Standard library only.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

VIDEOS = Path(__file__).resolve().parent
ROOT = VIDEOS.parent
sys.path.insert(0, str(ROOT / "tests"))
from support import load_script, script_hash, script_path  # noqa: E402

LIMIT = 200_000  # bytes


def recorders() -> list[str]:
    """The names of all scripts that have a recorder."""
    return sorted(path.stem for path in (VIDEOS / "recorders").glob("micro*.py"))


def load_recorder(name: str) -> ModuleType:
    """videos/recorders/<name>.py as a module."""
    path = VIDEOS / "recorders" / f"{name}.py"
    if not path.exists():
        raise SystemExit(f"videos/tracing.py: there is no recorder videos/recorders/{name}.py")
    spec = importlib.util.spec_from_file_location(f"recorder_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def state(name: str) -> str:
    """'fresh', 'stale' or 'missing'."""
    path = VIDEOS / "traces" / f"{name}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return "missing"
    return "fresh" if found == script_hash(script_path(name)) else "stale"


def rounded(value: object, digits: int = 6) -> object:
    """The same with every float to six significant digits: more than a film can show."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}")
    if isinstance(value, dict):
        return {str(key): rounded(part, digits) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(part, digits) for part in value]
    return value


def recorded(name: str) -> dict:
    """The headline numbers of the recorded run of the script as it is now (results/<name>.json).

    For numbers of a whole run, which a recorder need not run again.
    """
    record = json.loads((ROOT / "results" / f"{name}.json").read_text(encoding="utf-8"))
    if record["sha256"] != script_hash(script_path(name)):
        raise SystemExit(f"results/{name}.json is stale: python3 tools/bench.py {name} first")
    return record


def write(name: str) -> None:
    """Run the recorder and write its trace, whole or not at all."""
    recorder = load_recorder(name)
    before = time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        data = recorder.record(load_script(name))
    trace = {"script": name, "sha256": script_hash(script_path(name)), "data": rounded(data)}
    body = json.dumps(trace, separators=(",", ":"), allow_nan=False) + "\n"
    if len(body) > LIMIT:
        raise SystemExit(f"{name}: the trace has {len(body):,} bytes; {LIMIT:,} are allowed")
    path = VIDEOS / "traces" / f"{name}.json"
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(body, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    seconds = time.process_time() - before
    print(f"{name}: {len(body):,} bytes, {seconds:.0f} CPU seconds", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="scripts (default: all stale)")
    parser.add_argument("--check", action="store_true", help="run nothing, say what is stale")
    options = parser.parse_args()
    names = options.names or recorders()
    if options.check:
        bad = {name: state(name) for name in names if state(name) != "fresh"}
        for name, what in bad.items():
            print(f"{name}: {what}")
        return 1 if bad else 0
    for name in names:
        if options.names or state(name) != "fresh":
            write(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
