"""Every script runs alone, offline and cleanly, meets its bars and prints what was recorded.

Each script runs once at its full size; the tests of one run share it (and its worker, through
--dist=loadgroup). What needs no training stops as soon as the data is there.
"""

from __future__ import annotations

import ast
import functools
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rules import citation_complaints, headline_complaints, record_complaints
from sandbox import (
    Run,
    data_files,
    first_difference,
    output_complaints,
    refusal_complaints,
    run_alone,
    run_complaints,
    server,
)
from support import RESULTS, declarations, failed_bars, record, script_hash, scripts


def uses_data(script: Path) -> bool:
    """True if the script carries the loader."""
    body = ast.parse(script.read_text(encoding="utf-8")).body
    return any([isinstance(node, ast.FunctionDef) and node.name == "load_data" for node in body])


each_script = pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
each_run = pytest.mark.parametrize(
    "script",
    [pytest.param(path, marks=pytest.mark.xdist_group(path.stem)) for path in scripts()],
    ids=[path.stem for path in scripts()],
)
each_reader = pytest.mark.parametrize(
    "script", [path for path in scripts() if uses_data(path)], ids=lambda path: path.stem
)


def join(complaints: list[str]) -> str:
    return "\n  ".join(["", *complaints])


# === THE FULL RUN ===


@functools.cache
def full_run(script: Path) -> Run:
    """The one run of a script at its full size, with data/ beside its tier folder."""
    return run_alone(script, data=data_files() if uses_data(script) else None)


@each_run
def test_runs_cleanly(script: Path) -> None:
    complaints = run_complaints(full_run(script))
    assert not complaints, join(complaints)


@each_run
def test_output_is_well_formed(script: Path) -> None:
    complaints = output_complaints(full_run(script).stdout)
    assert not complaints, join(complaints)


@each_run
def test_bars_are_met(script: Path) -> None:
    headline = full_run(script).report["headline"]
    assert headline is not None, "main() returned nothing"
    complaints = headline_complaints(headline)
    assert not complaints, join(complaints)
    failed = failed_bars(headline, declarations(script.stem).BARS)
    assert not failed, f"not met: {failed}; main() returned {headline}"


@each_run
def test_prints_what_is_recorded(script: Path) -> None:
    recorded = record(script.stem)
    printed = (RESULTS / f"{script.stem}.txt").read_bytes().replace(b"\r\n", b"\n")
    complaints = output_complaints(printed)
    assert not complaints, join(["the recorded output:", *complaints])
    here = (platform.python_version(), f"{platform.system()}-{platform.machine()}")
    if here == (recorded["python"], recorded["platform"]):
        complaints = first_difference(full_run(script).stdout, printed)
        assert not complaints, join([*complaints, f"tools/bench.py {script.stem} records again"])


# === THE RECORD ===


@each_script
def test_record_shows_what_it_should(script: Path) -> None:
    declared = declarations(script.stem)
    complaints = record_complaints(record(script.stem), script_hash(script), declared)
    assert not complaints, join(complaints)


@each_script
def test_cited_numbers_are_recorded(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    recorded = record(script.stem) if "[results:" in text else {"seeds": {}, "variants": {}}
    complaints = citation_complaints(text, recorded)
    assert not complaints, join(complaints)


# === THE DATA ===


def altered(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same files with one byte changed in the middle."""
    return {
        name: content[: len(content) // 2] + b"\x00" + content[len(content) // 2 + 1 :]
        for name, content in files.items()
    }


@pytest.mark.parametrize("beside", [False, True], ids=["in_data", "beside_the_script"])
@each_reader
def test_finds_its_data(script: Path, beside: bool) -> None:
    run = run_alone(script, mode="load", data=data_files(), data_beside=beside)
    assert not run_complaints(run), join(run_complaints(run))
    assert run.report["loaded"], "main() ended without its data"


@pytest.mark.parametrize("beside", [False, True], ids=["in_data", "beside_the_script"])
@each_reader
def test_refuses_altered_data(script: Path, beside: bool) -> None:
    run = run_alone(script, data=altered(data_files()), data_beside=beside)
    complaints = refusal_complaints(run, data_files())
    assert not complaints, join(complaints)


@each_reader
def test_says_so_without_data_and_network(script: Path) -> None:
    run = run_alone(script)
    assert run.report["network"], "it did not try to download its data"
    complaints = refusal_complaints(run, data_files())
    assert not complaints, join(complaints)


@each_reader
def test_downloads_its_data(script: Path) -> None:
    with server(data_files()) as job:
        run = run_alone(script, mode="load", **job)
    assert run.status == 0 and not run.stderr, run.stderr
    name, sha256 = run.report["loaded"]
    new = {Path(p).name: run.after[p] for p in run.after.keys() - run.before.keys()}
    new = {path: kind for path, kind in new.items() if kind != "folder"}
    assert new == {name: sha256}, f"only the verified file should be there, not {new}"


DAMAGED: dict[str, dict[str, Any]] = {
    "altered": {"content": altered(data_files())},
    "cut_off": {"content": data_files(), "cut": True},
    "half": {"content": {name: body[: len(body) // 2] for name, body in data_files().items()}},
    "not_there": {"content": {}},
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED.keys())
@each_reader
def test_refuses_a_damaged_download(script: Path, damage: dict[str, Any]) -> None:
    with server(**damage) as job:
        run = run_alone(script, **job)
    assert run.report["network"] == [], "it did not ask the server of this test"
    complaints = refusal_complaints(run, data_files())
    assert not complaints, join(complaints)


@each_reader
def test_says_so_when_the_disk_is_full(script: Path) -> None:
    with server(data_files()) as job:
        run = run_alone(script, disk_full=True, **job)
    assert run.report["written"], "it did not try to keep its data"
    complaints = refusal_complaints(run, data_files())
    assert not complaints, join(complaints)
