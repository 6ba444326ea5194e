"""The exercises: each change applies to the script as it is now, and its answer holds."""

from __future__ import annotations

import re

import exercises
import pytest
from support import record, script_path, scripts

NAMES = exercises.pages()
NUMBER = re.compile(r"(?<![\w.,])\d[\d,]*\.\d+(?![\w.])")


@pytest.mark.parametrize("name", NAMES)
def test_a_page_has_three_exercises_in_order(name: str) -> None:
    found = exercises.read_page(name)
    assert [e.number for e in found] == list(range(1, len(found) + 1))
    assert len(found) >= 3
    text = (exercises.PAGES / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# Exercises: {name}\n")
    assert f"../../{script_path(name).parent.name}/{name}.py" in text
    for exercise in found:
        assert "?" in exercise.question or "**Predict" in exercise.question, exercise.where


@pytest.mark.parametrize("name", NAMES)
def test_the_answers_hold(name: str) -> None:
    assert exercises.complaints(name) == []


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_an_answer_come_from_a_run(name: str) -> None:
    default = next(iter(record(name)["seeds"].values()))["headline"]
    printed = (exercises.ROOT / "results" / f"{name}.txt").read_text(encoding="utf-8")
    source = script_path(name).read_text(encoding="utf-8")
    for exercise in exercises.read_page(name):
        found = exercises.outcome(name, exercise)
        assert found is not None
        known = [*found.get("headline", {}).values(), *default.values()]
        seen = exercise.question + exercise.answer
        for token in NUMBER.findall(re.sub(r"<!--.*?-->", "", seen)):
            digits = len(token.partition(".")[2])
            value = float(token.replace(",", ""))
            half = 0.5 * 10.0**-digits * 1.001
            near = [n for n in known if min(abs(abs(n) - value), abs(abs(n) * 100 - value)) <= half]
            assert near or token in printed or token in source or token in exercise.diff, (
                f"{exercise.where}: {token} is in no run"
            )


def test_every_script_has_exercises() -> None:
    assert set(NAMES) == {path.stem for path in scripts()}


# === THE TOOL ===

SOURCE = "A = 1  # one\n\ndef f(x):\n    return x + A\n\n\ndef g(x):\n    return x + A\n"
PAGE = """# Exercises: microgpt

## 1. A title

Why?

```diff
-A = 1  # one
+A = 2
```

<details><summary>Answer</summary>

Because.

<!-- check: nll < default_nll -->
</details>
"""


def test_a_change_is_applied_where_it_stands() -> None:
    assert exercises.apply(SOURCE, "-A = 1  # one\n+A = 2\n").startswith("A = 2\n")
    changed = exercises.apply(SOURCE, " def g(x):\n-    return x + A\n+    return x - A\n")
    assert changed.count("x - A") == 1 and changed.index("x - A") > changed.index("def g")
    assert exercises.apply(SOURCE, "-A = 1\n+A = 2\n").startswith("A = 2\n")
    both = exercises.apply(SOURCE, "-A = 1  # one\n+A = 2\n@@\n def f(x):\n+    A = 3\n")
    assert both.startswith("A = 2") and "def f(x):\n    A = 3\n" in both
    assert exercises.apply(SOURCE, " def f(x):\n-    return x + A\n").count("return") == 1


@pytest.mark.parametrize(
    ("diff", "problem"),
    [
        ("-B = 1\n+B = 2\n", "stand 0 times"),
        ("-    return x + A\n+    return x\n", "stand 2 times"),
        (" A = 1  # one\n", "changes nothing"),
        ("+B = 1\n", "changes nothing"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(diff: str, problem: str) -> None:
    with pytest.raises(exercises.BadExercise, match=problem):
        exercises.apply(SOURCE, diff)


def test_a_page_is_read() -> None:
    (found,) = exercises.read_page("microgpt", PAGE)
    assert (found.number, found.title) == (1, "A title")
    assert found.diff == "-A = 1  # one\n+A = 2\n"
    assert found.checks == ["nll < default_nll"] and "Because." in found.answer
    with pytest.raises(exercises.BadExercise, match="exercise 1: one diff"):
        exercises.read_page("microgpt", PAGE.replace("<!-- check", "<!-- chock"))


def test_the_hash_of_a_change_is_of_code_only() -> None:
    changed = SOURCE.replace("A = 1", "A = 2")
    assert exercises.change_hash(SOURCE, changed) == exercises.change_hash(
        SOURCE.replace("# one", "# a comment"), changed
    )
    assert exercises.change_hash(SOURCE, changed) != exercises.change_hash(
        SOURCE, SOURCE.replace("A = 1", "A = 3")
    )


def test_an_answer_that_does_not_hold_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = exercises.read_page("microgpt")
    pages[0].checks = ["nll > default_nll"]
    monkeypatch.setattr(exercises, "read_page", lambda name: pages)
    (said,) = exercises.complaints("microgpt")
    assert "exercise 1" in said and "does not hold: nll > default_nll" in said


def test_an_unrecorded_change_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = exercises.read_page("microgpt")
    pages[0].diff = pages[0].diff.replace("+LOOK_BACK = 2", "+LOOK_BACK = 9")
    monkeypatch.setattr(exercises, "read_page", lambda name: pages)
    (said,) = exercises.complaints("microgpt")
    assert "exercise 1: not recorded" in said


def test_a_run_reports_numbers_or_the_error() -> None:
    toy = "def main():\n    return {'a': 1.5, 'details': {'b': 2}}\n"
    assert exercises.run_changed("microgpt", toy)["headline"] == {"a": 1.5}
    assert (
        "ZeroDivisionError"
        in exercises.run_changed("microgpt", "def main():\n    1 / 0\n")["error"]
    )
    assert "SyntaxError" in exercises.run_changed("microgpt", "def main(:\n")["error"]
