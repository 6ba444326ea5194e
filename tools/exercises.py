#!/usr/bin/env python3
"""Run the exercises of docs/exercises/: apply each change to its script and record what happens.

    python3 tools/exercises.py                  every exercise without a record of its own
    python3 tools/exercises.py microgpt         the exercises of this script
    python3 tools/exercises.py --jobs 2         so many at a time
    python3 tools/exercises.py --again          also those that are recorded
    python3 tools/exercises.py --check          run nothing: say what is missing, stale or wrong

An exercise is a heading, a question, the change as a diff, and an answer with one line for the
machine, which says what must hold of the numbers that main() returns:

    ## 1. Two letters are enough?
    ...the question...
    ```diff
    -LOOK_BACK = 16  # symbols that a row may read, itself included
    +LOOK_BACK = 2
    ```
    <details><summary>Answer</summary>

    ...the answer...

    <!-- check: nll < default_nll -->
    </details>

In a check a name is a number of the changed run, and default_<name> is that of the recorded run of
the script as it is. Records stand in results/exercises/<script>.json; they belong to the code of
the script and to the change. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))

from support import code_of, failed_bars, record, script_hash, script_path  # noqa: E402

PAGES = ROOT / "docs" / "exercises"
RECORDS = ROOT / "results" / "exercises"

HEADING = re.compile(r"^## (\d+)\. (.+)$", re.MULTILINE)
DIFF = re.compile(r"^```diff\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECK = re.compile(r"^<!-- check: (.+?) -->$", re.MULTILINE)
DETAILS = re.compile(r"<details><summary>(.+?)</summary>\n\n(.*?)</details>", re.DOTALL)


class BadExercise(ValueError):
    """A page, or a change in it, that cannot be read or applied."""


def pages() -> list[str]:
    """The scripts that have a page of exercises."""
    return sorted(path.stem for path in PAGES.glob("micro*.md"))


def read_page(name: str, text: str | None = None) -> list[SimpleNamespace]:
    """The exercises of a page: number, title, question, diff, answer, checks."""
    if text is None:
        text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    starts = list(HEADING.finditer(text))
    found = []
    for start, following in zip(starts, [*starts[1:], None]):
        body = text[start.end() : following.start() if following else len(text)]
        where = f"docs/exercises/{name}.md, exercise {start[1]}"
        diffs, details = DIFF.findall(body), DETAILS.findall(body)
        checks = CHECK.findall(body)
        if len(diffs) != 1 or len(details) != 1 or not checks:
            raise BadExercise(
                f"{where}: one diff, one answer in <details> and a check are needed, "
                f"not {len(diffs)}, {len(details)} and {len(checks)}"
            )
        question = body[: body.index("<details>")]
        found.append(
            SimpleNamespace(
                number=int(start[1]),
                title=start[2],
                question=question,
                diff=diffs[0],
                answer=details[0][1],
                checks=checks,
                where=where,
            )
        )
    return found


def blocks_of(diff: str) -> list[tuple[list[str], list[str]]]:
    """What each part of a diff replaces: (lines before, lines after). A line "@@" or an empty one
    ends a part.

    >>> blocks_of("-a = 1\\n+a = 2\\n")
    [(['a = 1'], ['a = 2'])]
    """
    result: list[tuple[list[str], list[str]]] = [([], [])]
    for line in diff.splitlines():
        mark, rest = line[:1], line[1:]
        if mark in ("-", " "):
            result[-1][0].append(rest)
        if mark in ("+", " "):
            result[-1][1].append(rest)
        if mark in ("", "@") and result[-1] != ([], []):
            result.append(([], []))
    return [part for part in result if part[0]]


def apply(source: str, diff: str, where: str = "the change") -> str:
    """The script with the change made; every part must be found exactly once (comments behind a
    line of code aside).
    """
    parts = blocks_of(diff)
    if not parts or all([before == after for before, after in parts]):
        raise BadExercise(f"{where} changes nothing")
    lines = source.split("\n")
    for before, after in parts:
        bare, wanted = list(map(without_comment, lines)), list(map(without_comment, before))
        places = [i for i in range(len(bare)) if bare[i : i + len(wanted)] == wanted]
        if len(places) != 1:
            raise BadExercise(
                f"{where}: these lines stand {len(places)} times in the script:\n"
                + "\n".join(before)
            )
        lines[places[0] : places[0] + len(before)] = after
    return "\n".join(lines)


def without_comment(line: str) -> str:
    """The line without the comment behind its code.

    >>> without_comment("A = 1  # one")
    'A = 1'
    """
    return line.split("  # ")[0].rstrip() if line.split("  # ")[0].strip() else line


def change_hash(source: str, changed: str) -> str:
    """Belongs to the code before and after: comments do not count."""
    both = code_of(source) + "\0" + code_of(changed)
    return hashlib.sha256(both.encode("utf-8")).hexdigest()[:16]


# main() in a process of its own; an exception is an outcome too.
RUN = """
import importlib.util, json, math, sys, time
spec = importlib.util.spec_from_file_location(sys.argv[1], sys.argv[2])
module = sys.modules[sys.argv[1]] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
try:
    result = module.main()
    numbers = {key: value for key, value in result.items() if isinstance(value, (bool, int, float))}
    report = {"headline": numbers}
except Exception as error:
    report = {"error": f"{type(error).__name__}: {error}"}
report["cpu_seconds"] = round(time.process_time(), 1)
with open(sys.argv[3], "w", encoding="utf-8") as file:
    json.dump(report, file)
"""


def run_changed(name: str, changed: str) -> dict:
    """Run the changed script beside its data -> {"headline" or "error", "cpu_seconds"}."""
    with tempfile.TemporaryDirectory() as scratch:
        tier = Path(scratch) / script_path(name).parent.name
        tier.mkdir()
        (Path(scratch) / "data").symlink_to(ROOT / "data")
        (tier / f"{name}.py").write_text(changed, encoding="utf-8")
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-B", "-c", RUN, name, tier / f"{name}.py", report]
        done = subprocess.run(
            [str(part) for part in command],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=scratch,
        )
        if not report.exists():
            return {"error": (done.stderr.strip().splitlines() or ["no result"])[-1]}
        return json.loads(report.read_text(encoding="utf-8"))


def read_records(name: str) -> dict:
    """The recorded outcomes of a script's exercises, by hash of the change."""
    try:
        return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def variant_of(name: str, changed: str) -> dict | None:
    """The recorded variant that changes the same constants, if there is one."""
    default = namespace_of(script_path(name).read_text(encoding="utf-8"))
    now = namespace_of(changed)
    if code_of(constants_out(changed)) != code_of(
        constants_out(script_path(name).read_text(encoding="utf-8"))
    ):
        return None
    different = {key: value for key, value in now.items() if default.get(key) != value}
    wanted = {key: repr(value) for key, value in different.items()}
    for entry in record(name)["variants"].values():
        if entry.get("changes") == wanted and "headline" in entry:
            return {"headline": entry["headline"]}
    return None


CONSTANT = re.compile(r"^([A-Z][A-Z0-9_]*) = (.+)$", re.MULTILINE)


def constants_out(source: str) -> str:
    """The script without the values of its one-line constants."""

    def without_value(found: re.Match) -> str:
        try:
            ast.parse(found[0])
        except SyntaxError:  # the first line of several
            return found[0]
        return f"{found[1]} = 0"

    return CONSTANT.sub(without_value, source)


def namespace_of(source: str) -> dict:
    """The one-line constants of a script that are plain literals."""
    result = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                result[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return result


def outcome(name: str, exercise: SimpleNamespace) -> dict | None:
    """What is recorded of this change to the script as it is now, or None."""
    source = script_path(name).read_text(encoding="utf-8")
    changed = apply(source, exercise.diff, exercise.where)
    found = read_records(name).get(change_hash(source, changed))
    return found or variant_of(name, changed)


def numbers_of(name: str, found: dict) -> dict:
    """What a check may name: the changed run's numbers, and default_<name>."""
    default = next(iter(record(name)["seeds"].values()))["headline"]
    fails = {"fails": "error" in found}
    return {**found.get("headline", {}), **{f"default_{k}": v for k, v in default.items()}, **fails}


def complaints(name: str) -> list[str]:
    """What is missing, stale or wrong on a page."""
    result = []
    if record(name)["sha256"] != script_hash(script_path(name)):
        return [f"results/{name}.json is stale"]
    for exercise in read_page(name):
        found = outcome(name, exercise)
        if found is None:
            result.append(f"{exercise.where}: not recorded (python3 tools/exercises.py {name})")
        else:
            wrong = failed_bars(numbers_of(name, found), exercise.checks)
            result += [f"{exercise.where}: does not hold: {check}" for check in wrong]
    return result


def save(name: str, key: str, title: str, found: dict) -> None:
    """Add one outcome to the record, and drop those of changes that no page makes any more."""
    source = script_path(name).read_text(encoding="utf-8")
    wanted = {change_hash(source, apply(source, e.diff, e.where)) for e in read_page(name)}
    records = {k: v for k, v in read_records(name).items() if k in wanted}
    records[key] = {"title": title, **found}
    RECORDS.mkdir(parents=True, exist_ok=True)
    temporary = RECORDS / f".{name}.{os.getpid()}.part"
    try:
        temporary.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, RECORDS / f"{name}.json")
    finally:
        temporary.unlink(missing_ok=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="scripts (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--again", action="store_true", help="run also what is recorded")
    parser.add_argument("--check", action="store_true", help="run nothing")
    options = parser.parse_args()
    names = options.names or pages()
    if not options.check:
        jobs = []
        for name in names:
            source = script_path(name).read_text(encoding="utf-8")
            for exercise in read_page(name):
                if options.again or outcome(name, exercise) is None:
                    jobs.append((name, exercise, apply(source, exercise.diff, exercise.where)))

        def work(job: tuple) -> tuple:
            start = time.perf_counter()
            return (*job, run_changed(job[0], job[2]), time.perf_counter() - start)

        with ThreadPoolExecutor(options.jobs) as pool:
            for name, exercise, changed, found, seconds in pool.map(work, jobs):
                source = script_path(name).read_text(encoding="utf-8")
                save(name, change_hash(source, changed), exercise.title, found)
                said = found.get("error") or ", ".join(
                    [f"{k} {v:.4g}" for k, v in found["headline"].items()]
                )
                print(f"{name} {exercise.number}: {said} ({seconds:.0f} s)", flush=True)
    bad = [line for name in names for line in complaints(name)]
    print("\n".join(bad) if bad else f"{len(names)} pages: all checks hold.")
    return 1 if bad else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BadExercise as problem:
        sys.exit(f"tools/exercises.py: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)
