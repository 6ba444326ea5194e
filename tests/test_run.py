"""tests/run.py: when it installs what, and how it calls pytest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run
from support import ROOT

STAMP = {"python": "3.11", "tests": "aaa"}
ALL = {"python": "3.11", "tests": "aaa", "parity": "bbb"}


@pytest.mark.parametrize(
    ("found", "wanted", "missing"),
    [
        (STAMP, STAMP, []),
        (ALL, STAMP, []),  # what parity brought does not disturb
        (ALL, ALL, []),
        (STAMP, ALL, ["parity"]),
        ({}, STAMP, None),  # nothing there, or half-built
        (STAMP | {"tests": "old"}, STAMP, None),
        (ALL | {"parity": "old"}, ALL, None),
        (ALL | {"parity": "old"}, STAMP, []),
        (STAMP | {"python": "3.10"}, STAMP, None),
    ],
)
def test_what_is_installed(found: dict, wanted: dict, missing: list | None) -> None:
    assert run.groups_to_install(found, wanted) == missing


def test_the_stamp_follows_the_requirements(tmp_path: Path, monkeypatch) -> None:
    files = {group: tmp_path / f"{group}.txt" for group in run.REQUIREMENTS}
    for file in files.values():
        file.write_text("pytest==1\n", encoding="utf-8")
    monkeypatch.setattr(run, "REQUIREMENTS", files)
    before = run.wanted_stamp(["tests", "parity"])
    files["tests"].write_text("pytest==2\n", encoding="utf-8")
    after = run.wanted_stamp(["tests", "parity"])
    assert before["tests"] != after["tests"] and before["parity"] == after["parity"]
    assert before["python"] == after["python"]


def test_a_broken_stamp_counts_as_none(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "STAMP", tmp_path / "installed.json")
    assert run.read_stamp() == {}
    for content in ("", "{", "3", '["a"]'):
        run.STAMP.write_text(content, encoding="utf-8")
        assert run.read_stamp() == {}
    run.STAMP.write_text(json.dumps(STAMP), encoding="utf-8")
    assert run.read_stamp() == STAMP


def test_a_broken_environment_is_seen(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "venv_python", lambda: Path(sys.executable))
    assert run.works(["tests"])
    monkeypatch.setitem(run.PROBES, "tests", "import no_such_package")
    assert not run.works(["tests"])
    monkeypatch.setattr(run, "venv_python", lambda: tmp_path / "python")
    assert not run.works([])


def test_arguments_are_passed_on() -> None:
    command = run.pytest_command(["-k", "microgpt", "-x"])
    assert command[-5:] == [
        *("--ignore=tests/parity", "--ignore=tests/videos"),
        *("-k", "microgpt", "-x"),
    ]
    assert "--dist=loadgroup" in command
    assert 1 <= int(command[command.index("-n") + 1]) <= run.MOST_WORKERS
    with_parity = run.pytest_command(["--parity", "-x"])
    assert "--parity" not in with_parity and "--ignore=tests/parity" not in with_parity
    assert "--ignore=tests/videos" in with_parity
    with_both = run.pytest_command(["--videos", "--parity", "-k", "videos"])
    assert with_both[-2:] == ["-k", "videos"]
    assert not [part for part in with_both if "--" in part and "tests/" in part]
    debugged = run.pytest_command(["--pdb"])
    assert debugged[debugged.index("-n") + 1] == "0"


def test_without_venv_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(run, "STAMP", tmp_path / "installed.json")
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"apt install python3\.\d+-venv\)") as problem:
        run.prepare([])
    assert "no venv and no ensurepip" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch) -> list[list]:
    """run.py at work in an empty folder; gives the commands that it would run."""
    files = {group: tmp_path / f"{group}.txt" for group in run.REQUIREMENTS}
    for file in files.values():
        file.write_text("pytest==1\n", encoding="utf-8")
    monkeypatch.setattr(run, "REQUIREMENTS", files)
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / "venv")
    monkeypatch.setattr(run, "STAMP", tmp_path / "venv" / "installed.json")
    commands: list[list] = []

    def note(command: list, problem: str) -> None:
        commands.append(command)
        run.VENV.mkdir(exist_ok=True)

    monkeypatch.setattr(run, "call", note)
    return commands


def test_only_the_environment_is_installed_into(elsewhere: list[list]) -> None:
    # A system's own Python may refuse installations (PEP 668); the environment's does not.
    run.prepare(["parity"])
    make, *install = elsewhere
    assert make == [sys.executable, "-m", "venv", run.VENV]
    assert [command[:4] for command in install] == [[run.venv_python(), "-m", "pip", "install"]] * 2
    assert [command[-1].name for command in install] == ["tests.txt", "parity.txt"]
    assert run.read_stamp() == run.wanted_stamp(["tests", "parity"])


def test_after_an_interruption_the_environment_is_made_anew(
    elsewhere: list[list], monkeypatch, capsys
) -> None:
    note = run.call

    def interrupt_pip(command: list, problem: str) -> None:
        note(command, problem)
        if "pip" in command:
            raise KeyboardInterrupt

    monkeypatch.setattr(run, "call", interrupt_pip)
    for _ in range(2):  # the second time finds what the first has left, and begins anew
        (run.VENV / "half").parent.mkdir(exist_ok=True)
        (run.VENV / "half").touch()
        assert run.main([]) == 130
        assert run.read_stamp() == {} and not (run.VENV / "half").exists()
        assert "Interrupted" in capsys.readouterr().err
    assert [command[2] for command in elsewhere] == ["venv", "pip"] * 2


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signal to pass on")
def test_a_signal_sent_to_it_alone_ends_pytest_too(tmp_path: Path) -> None:
    sleeper = "import pathlib, time; pathlib.Path('started').touch(); time.sleep(60)"
    code = (
        "import signal, sys, run\n"
        "run.prepare = lambda extras: None\n"
        f"run.pytest_command = lambda arguments: [sys.executable, '-c', {sleeper!r}]\n"
        f"run.ROOT = run.Path({str(tmp_path)!r})\n"
        "signal.signal(signal.SIGTERM, run.terminate)\n"
        "sys.exit(run.main([]))\n"
    )
    started = subprocess.Popen([sys.executable, "-B", "-c", code], cwd=ROOT / "tests")
    try:
        until = time.monotonic() + 20
        while not (tmp_path / "started").exists() and time.monotonic() < until:
            time.sleep(0.02)
        started.terminate()
        assert started.wait(timeout=20) == 128 + signal.SIGTERM
    finally:
        started.kill()
        started.wait()


def test_it_is_pinned_and_needs_nothing() -> None:
    for path in run.REQUIREMENTS.values():
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or "==" in line, f"{path.name}: pin {line}"
    # It can be read where no package is installed.
    code = "import run; print(run.MOST_WORKERS)"
    bare = [sys.executable, "-S", "-B", "-c", code]
    done = subprocess.run(bare, cwd=ROOT / "tests", capture_output=True, text=True)
    assert done.stdout.strip() == str(run.MOST_WORKERS), done.stderr
