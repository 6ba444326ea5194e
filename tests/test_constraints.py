"""The constraints of the project, checked on every script that there is.

Each rule of rules.py is one test per script; its message says what to do.
"""

from __future__ import annotations

import doctest
import io
import subprocess
import sys
from pathlib import Path

import pytest
import rules
import sync
from sandbox import data_files, run_alone
from support import (
    COMMON,
    DATA,
    ROOT,
    TESTS,
    common_files,
    declarations,
    load_module,
    load_script,
    scripts,
)

each_script = pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
each_rule = pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)


def report(path: Path, complaints: list[str]) -> str:
    """The complaints about a file as one message."""
    return "\n  ".join([f"{path.relative_to(ROOT).as_posix()}:", *complaints])


def test_scripts_are_found() -> None:
    assert scripts(), "no script in 0?-*/micro*.py"
    names = [path.stem for path in scripts()]
    assert len(names) == len(set(names)), "two scripts share a name"


@each_rule
@each_script
def test_rule(rule: rules.Rule, script: Path) -> None:
    complaints = rule(script.read_text(encoding="utf-8"))
    assert not complaints, report(script, complaints)


@each_script
def test_import_has_no_side_effect(script: Path) -> None:
    run = run_alone(script, mode="import")
    complaints = rules.import_complaints(run.report, run.stdout, run.stderr)
    assert not complaints, report(script, complaints)
    assert run.status == 0 and run.before == run.after


@each_script
def test_common_pieces_are_exact_copies(script: Path) -> None:
    complaints = sync.complaints(script.read_text(encoding="utf-8"), sync.read_pieces(COMMON))
    advice = "python3 tools/sync.py --write mends this"
    assert not complaints, report(script, [*complaints, advice])


@each_script
def test_tests_exist(script: Path) -> None:
    name = script.stem
    assert (TESTS / f"test_{name}.py").exists(), f"write tests/test_{name}.py"
    assert (TESTS / "parity" / f"test_{name}.py").exists(), f"write tests/parity/test_{name}.py"


@each_script
def test_bars_and_twins_are_declared(script: Path) -> None:
    path = TESTS / f"test_{script.stem}.py"
    declared = declarations(script.stem)
    complaints = rules.declaration_complaints(path.read_text(encoding="utf-8"), declared)
    module = load_script(script)
    complaints += [
        f"VARIANTS[{name!r}] changes {attribute}, which the script does not have"
        for name, changes in (declared.VARIANTS or {}).items()
        for attribute in changes
        if not hasattr(module, attribute)
    ]
    assert not complaints, report(path, complaints)


@pytest.mark.parametrize("path", [*common_files(), *scripts()], ids=lambda path: path.stem)
def test_examples_in_docstrings(path: Path) -> None:
    module = load_module(f"examples_of_{path.stem}", path)
    said = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False)
    for examples in doctest.DocTestFinder().find(module, path.stem):
        runner.run(examples, out=said.write)
    assert runner.failures == 0, said.getvalue()


def test_data_is_what_its_readme_says() -> None:
    files = data_files()
    assert files, "data/ holds no data"
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    users = {
        path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
        for path in [*common_files(), *scripts()]
    }
    attributes = (DATA / ".gitattributes").read_text(encoding="utf-8")
    complaints = rules.data_complaints(readme, files, users)
    complaints += rules.attributes_complaints(attributes, list(files))
    assert not complaints, report(DATA, complaints)


def test_ruff_is_content() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "."],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert found.returncode == 0, found.stdout + found.stderr
