"""What CI is made of: .ci/run, the workflow, other versions of Python, Pyodide."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import versions
from support import ROOT, scripts

TIER = "01-foundations"
RUN = ROOT / ".ci" / "run"
PYODIDE = ROOT / "tools" / "pyodide"
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"

# A made-up script: meets its bars on every Python, or on none.
TOY = """import sys

SEED = 42


def main():
    print("step 1/1 | value 1.0")
    assert not [path for path in sys.path if "site-packages" in path]
    return {"value": VALUE, "details": [1]}


if __name__ == "__main__":
    main()
"""


def collection(root: Path, **values: str) -> Path:
    """A collection of such scripts: name -> the value that it returns."""
    (root / TIER).mkdir(parents=True, exist_ok=True)
    (root / "tests").mkdir(exist_ok=True)
    for name, value in values.items():
        text = TOY.replace("VALUE", value)
        (root / TIER / f"{name}.py").write_text(text, encoding="utf-8")
        bars = 'import pytest\n\nBARS = ("value >= 1.0",)\n'
        (root / "tests" / f"test_{name}.py").write_text(bars, encoding="utf-8")
    return root


# === OTHER VERSIONS ===


def check(root: Path, *arguments: str) -> int:
    """The exit status of tools/versions.py on this collection, under this Python."""
    return versions.main(["--root", str(root), "--python", sys.executable, *arguments])


def test_met_bars_are_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = collection(tmp_path, microgood="1.0", microtoo="2.0")
    before = sorted(root.rglob("*"))
    assert check(root) == 0
    head, *lines = sorted(capsys.readouterr().out.splitlines(), key=lambda x: "micro" in x)[-3:]
    here = f"Python {'.'.join(map(str, sys.version_info[:3]))}"
    assert sorted(line.split(":")[0] for line in lines) == [
        f"{here}  microgood",
        f"{here}  microtoo",
    ]
    assert all("1 of 1 bars met" in line for line in lines)
    assert sorted(path for path in root.rglob("*") if "__pycache__" not in path.parts) == before


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("0.5", "FAILED: value >= 1.0"),
        ("float('nan')", "FAILED: value >= 1.0"),
        ("1 / 0", "ZeroDivisionError"),
        ("__import__('warnings').warn('old')", "UserWarning: old"),
        ("'high'", "is a str"),
    ],
)
def test_a_missed_bar_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture, value: str, reason: str
) -> None:
    root = collection(tmp_path, microbad=value, microgood="1.0")
    assert check(root) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "microbad: " in line]
    assert reason in line
    assert re.findall(r"^went wrong: .*  (\w+)$", out, re.MULTILINE) == ["microbad"]
    assert check(root, "--scripts", "microgood") == 0


def test_no_bars_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = collection(tmp_path, microtoy="1.0")
    (root / "tests" / "test_microtoy.py").unlink()
    assert check(root) == 1
    assert "no bars declared" in capsys.readouterr().out


def test_what_time_does_not_allow_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    root = collection(tmp_path, microbad="0.0", microgood="1.0")
    assert check(root, "--minutes", "0") == 0
    out = capsys.readouterr().out
    assert out.count("not run, for want of time: ") == 2 and "bars met" not in out


def test_the_oldest_runs_everything_and_the_newest_the_short_list() -> None:
    here = sys.version_info[1]
    pythons = [versions.Python((3, here + more, 0), str(more)) for more in (-2, -1, 1, 2)]
    names = ["microgpt", "microlora"]
    chosen = versions.choose(pythons, names, versions.SHORT)
    assert chosen == {pythons[0]: set(names), pythons[3]: {"microgpt"}}
    assert versions.choose(pythons, ["microlora"], ["microlora"])[pythons[3]] == {"microlora"}
    assert versions.choose(pythons[2:], names, ()) == {pythons[3]: set()}
    assert versions.choose([], names, versions.SHORT) == {}
    said = "\n".join(versions.describe(pythons, chosen))
    assert f"not run: {pythons[1]}, {pythons[2]}\n" in said + "\n"
    assert set(versions.SHORT) <= {script.stem for script in scripts()}


def test_only_what_starts_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python3.10"
    broken.write_text("#!/bin/sh\necho no such version\nexit 127\n", encoding="utf-8")
    broken.chmod(0o755)
    assert versions.ask(str(broken)) is None and versions.ask(str(tmp_path / "none")) is None
    own = versions.ask(sys.executable)
    assert own is not None and own.version == sys.version_info[:3]
    monkeypatch.setattr(versions, "candidates", lambda: [str(broken), sys.executable])
    assert versions.find() == []  # one is broken, and the other runs this test
    with pytest.raises(SystemExit, match="no Python starts at"):
        versions.main(["--python", str(broken)])


# === PYODIDE ===


def inside(root: Path, script: str) -> list[str]:
    """What inside.py says of a made-up script, run by this Python in Pyodide's place."""
    for name in ("tools/pyodide/inside.py", "tools/run_one.py", "tests/isolated.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copy(ROOT / "tests" / "support.py", root / "tests" / "support.py")
    code = f"import json, inside; print(json.dumps(inside.complaints({script!r})))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=root / "tools" / "pyodide",
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        return [done.stderr.splitlines()[-1]]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("1.0", None),
        ("0.5", "missed the bar value >= 1.0"),
        ("1 / 0", "ZeroDivisionError"),
        ("sys.exit('no data')", "it ended early: no data"),
        ("(open('new', 'w').close(), 1.0)[1]", "opened for writing: new"),
        ("__import__('warnings').warn('old')", "UserWarning: old"),
    ],
)
def test_scripts_are_judged_inside_pyodide(tmp_path: Path, value: str, reason: str | None) -> None:
    root = collection(tmp_path, microtoy=value)
    found = inside(root, f"{TIER}/microtoy.py")
    assert found == [] if reason is None else reason in found[0]


def test_pyodide_is_pinned_and_names_no_registry() -> None:
    wanted = json.loads((PYODIDE / "package.json").read_text(encoding="utf-8"))["dependencies"]
    text = (PYODIDE / "package-lock.json").read_text(encoding="utf-8")
    locked = json.loads(text)["packages"]
    assert list(wanted) == ["pyodide"] and re.fullmatch(r"\d+\.\d+\.\d+", wanted["pyodide"])
    assert locked["node_modules/pyodide"]["version"] == wanted["pyodide"]
    assert "http" not in text


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_runner_says_what_is_wrong(tmp_path: Path) -> None:
    def call(*arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(["node", *arguments], capture_output=True, encoding="utf-8")

    unknown = call(str(PYODIDE / "run.mjs"), "microgpt", "micronone")
    assert unknown.returncode == 1 and "there is no script micronone." in unknown.stderr
    copy = tmp_path / "tools" / "pyodide" / "run.mjs"
    copy.parent.mkdir(parents=True)
    shutil.copy(PYODIDE / "run.mjs", copy)
    assert "no script in 0?-*" in call(str(copy)).stderr
    collection(tmp_path, microtoy="1.0")
    missing = call(str(copy))
    assert missing.returncode == 1 and "run npm ci in tools/pyodide." in missing.stderr


# === .ci/run AND THE WORKFLOW ===


def test_ci_runs_every_step() -> None:
    text = RUN.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert os.name != "posix" or os.access(RUN, os.X_OK)
    steps = dict(re.findall(r'^step "(.+)" (.+)$', text, re.MULTILINE))
    for name in (
        "common pieces",
        "fresh clone",
        "tests",
        "formatting",
        "other Pythons",
        "Pyodide",
        "packages for the films",
    ):
        assert name in steps, f".ci/run has no step {name}"
    for command in (
        "tools/sync.py",
        "01-foundations/microgpt.py",
        "tests/run.py --parity --videos",
        "ruff format --check",
        "tools/versions.py",
        "tools/pyodide/run.mjs",
    ):
        assert command in text, f".ci/run does not run {command}"
    for path in re.findall(r"\b(?:tools|tests|01-foundations)/[\w/.]+\.\w+", text):
        assert (ROOT / path).exists(), f".ci/run names {path}, which is not there"


def ci_steps(folder: Path, first: str) -> subprocess.CompletedProcess:
    """.ci/run in an empty repository, with other steps: `first`, and one that passes."""
    text = RUN.read_text(encoding="utf-8")
    calls = re.compile(r"(^step .+\n)+", re.MULTILINE)
    assert len(calls.findall(text)) == 1
    (folder / ".ci").mkdir()
    script = folder / ".ci" / "run"
    script.write_text(calls.sub(f'step "a" {first}\nstep "b" true\n', text), encoding="utf-8")
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], cwd=folder, check=True)
    return subprocess.run(["bash", str(script)], capture_output=True, encoding="utf-8")


@pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize(
    ("first", "status"), [("true", 0), ("false", 1), ("limit 1 bash -c 'exit 5'", 1)]
)
def test_a_failing_step_fails_ci_and_is_named(tmp_path: Path, first: str, status: int) -> None:
    done = ci_steps(tmp_path, first)
    assert done.returncode == status, done.stderr
    last = done.stdout.splitlines()[-1]
    assert "=== b: ok, 0 s ===" in done.stdout  # the steps after it run all the same
    assert last.startswith("All steps passed" if status == 0 else "FAILED after")
    assert status == 0 or last.endswith(": [a]")


def test_the_workflow_is_as_careful() -> None:
    text = WORKFLOW.read_text(encoding="utf-8")
    for part in ("permissions:\n  contents: read\n", "concurrency:", '["3.10", "3.14"]'):
        assert part in text
    actions = re.findall(r"uses: (\S+)", text)
    assert actions and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)
    jobs = re.split(r"\n  (?=\w+:\n)", text.split("\njobs:")[1])[1:]
    assert len(jobs) == 4 and all("timeout-minutes:" in job for job in jobs)
    if importlib.util.find_spec("yaml"):
        import yaml

        assert list(yaml.safe_load(text)["jobs"]) == ["tests", "parity", "films", "pyodide"]


def test_nothing_names_this_machine_or_a_registry() -> None:
    for path in (RUN, WORKFLOW, *[p for p in PYODIDE.iterdir() if p.is_file()]):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/root/|/home/|/Users/|https?://", text), path.name
