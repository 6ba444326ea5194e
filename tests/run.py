#!/usr/bin/env python3
"""Run the tests. This is the one command; it needs Python 3.10 or newer and nothing else.

    python3 tests/run.py                     everything but the comparisons with other libraries
    python3 tests/run.py --parity            these too (installs PyTorch; needs Python 3.11)
    python3 tests/run.py --videos            the animations too (installs Manim; needs Python 3.11
                                             and the system packages of videos/README.md)
    python3 tests/run.py -k microgpt -x      other arguments go to pytest

The first run makes a virtual environment, .venv-tests/, and installs the pinned requirements.
It is made anew when they or Python change, or when it is broken.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
VENV = ROOT / ".venv-tests"
STAMP = VENV / "installed.json"  # written last: without it the environment is half-built
REQUIREMENTS = {
    "tests": TESTS / "requirements.txt",
    "parity": TESTS / "parity" / "requirements.txt",
    "videos": ROOT / "videos" / "requirements.txt",
}
PROBES = {
    "tests": "import pytest, xdist, hypothesis, ruff, vermin",
    "parity": "import torch",
    "videos": "import manim",
}
EXTRAS = ("parity", "videos")  # --parity, --videos
MOST_WORKERS = 8


def venv_python() -> Path:
    """The environment's interpreter."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def wanted_stamp(groups: list[str]) -> dict[str, str]:
    """What the stamp says once these groups are installed for this Python."""
    hashes = {g: hashlib.sha256(REQUIREMENTS[g].read_bytes()).hexdigest() for g in groups}
    return {"python": f"{platform.python_version()} {platform.machine()} {sys.prefix}", **hashes}


def groups_to_install(found: dict[str, str], wanted: dict[str, str]) -> list[str] | None:
    """The groups that are missing; None if the environment must be made anew."""
    if any([key in wanted and wanted[key] != value for key, value in found.items()]):
        return None
    return None if "python" not in found else [key for key in wanted if key not in found]


def read_stamp() -> dict[str, str]:
    """The stamp of the last complete installation; empty if there is none."""
    try:
        return dict(json.loads(STAMP.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def works(groups: list[str]) -> bool:
    """True if the environment's Python starts and finds what these groups brought."""
    code = "; ".join(PROBES[group] for group in groups)
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        probe = subprocess.run([venv_python(), "-c", code], env=environment(), **quiet)
        return probe.returncode == 0
    except OSError:
        return False


def environment() -> dict[str, str]:
    """This process's environment, without what would lead the new Python elsewhere."""
    lead = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    kept = {key: value for key, value in os.environ.items() if key not in lead}
    # One thread for each worker: a library that takes all cores slows the others down.
    return {"OMP_NUM_THREADS": "1", **kept}


@contextmanager
def one_at_a_time():
    """Two runs that start together must not build the same environment together."""
    with open(ROOT / ".venv-tests.lock", "w", encoding="utf-8") as file:
        try:
            import fcntl
        except ImportError:  # Windows
            yield
        else:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def call(command: list, problem: str) -> None:
    """Run a command of the installation; end with one sentence if it fails."""
    if subprocess.run(command, env=environment()).returncode:
        raise SystemExit(f"tests/run.py: {problem}")


def prepare(extras: list[str]) -> None:
    """Make the virtual environment if it is not there, not the right one or broken."""
    wanted = wanted_stamp(["tests", *extras])
    found = read_stamp()
    missing = groups_to_install(found, wanted)
    if missing is None or not works([group for group in found if group in PROBES]):
        absent = [name for name in ("venv", "ensurepip") if not importlib.util.find_spec(name)]
        if absent:  # Debian and Ubuntu keep them in a package of their own
            version = f"{sys.version_info[0]}.{sys.version_info[1]}"
            raise SystemExit(
                f"tests/run.py: this Python has no {' and no '.join(absent)}: install what makes "
                "virtual environments (on Debian and Ubuntu: "
                f"sudo apt install python{version}-venv) and run this command again."
            )
        print(f"Making {VENV.name}/ for Python {platform.python_version()} ...", flush=True)
        if VENV.exists():
            shutil.rmtree(VENV)
        call([sys.executable, "-m", "venv", VENV], f"the environment {VENV} cannot be made.")
        found, missing = {"python": wanted["python"]}, [g for g in wanted if g != "python"]
    for group in missing:
        print(f"Installing {REQUIREMENTS[group].relative_to(ROOT).as_posix()} ...", flush=True)
        STAMP.unlink(missing_ok=True)
        pip = [venv_python(), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        call(
            [*pip, "-r", REQUIREMENTS[group]],
            f"{REQUIREMENTS[group].name} cannot be installed (see above); is there a network?",
        )
        found[group] = wanted[group]
    if missing:
        STAMP.write_text(json.dumps(found), encoding="utf-8")


def pytest_command(arguments: list[str]) -> list[str]:
    """The call of pytest with our arguments, then those of the command line."""
    extras = [extra for extra in EXTRAS if f"--{extra}" in arguments]
    passed_on = [a for a in arguments if a not in [f"--{extra}" for extra in EXTRAS]]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    workers = 0 if {"--pdb", "--trace"} & set(passed_on) else min(cores or 1, MOST_WORKERS)
    # loadgroup: the tests that share one run of a script meet in one worker.
    command = [str(venv_python()), "-m", "pytest", "-n", str(workers), "--dist=loadgroup"]
    ignored = [f"--ignore=tests/{extra}" for extra in EXTRAS if extra not in extras]
    return [*command, *ignored, *passed_on]


def main(arguments: list[str]) -> int:
    """Prepare, run pytest, and return its exit status."""
    if sys.version_info < (3, 10):  # noqa: UP036 (said here, since pip would say it worse)
        raise SystemExit("tests/run.py: Python 3.10 or newer is needed.")
    extras = [extra for extra in EXTRAS if f"--{extra}" in arguments]
    if extras and sys.version_info < (3, 11):
        raise SystemExit(f"tests/run.py: --{extras[0]} needs Python 3.11 or newer.")
    try:
        with one_at_a_time():
            prepare(extras)
    except KeyboardInterrupt:
        print("\nInterrupted; the next run begins the installation anew.", file=sys.stderr)
        return 130
    process = subprocess.Popen(pytest_command(arguments), cwd=ROOT, env=environment())
    while True:
        try:
            status = process.wait()
            return status if status >= 0 else 128 - status  # ended by a signal, as a shell says it
        except Terminated:
            process.send_signal(signal.SIGTERM)  # sent to us alone: pass it on
        except KeyboardInterrupt:
            continue  # pytest has received it too, and ends by itself


class Terminated(KeyboardInterrupt):
    """What SIGTERM raises: the installation ends as after Ctrl-C."""


def terminate(*_: object) -> None:
    raise Terminated


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, terminate)
    sys.exit(main(sys.argv[1:]))
