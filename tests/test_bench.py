"""tools/bench.py on small made-up collections, and the engines that it compares."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import bench
import engines
import pytest
import run_one
from support import ROOT, script_hash

TIER = "01-foundations"

# Made-up script: what it shows depends on SEED, on FACTOR and on the function grow.
TOY = '''"""Growth is a matter of | the factor.

A second paragraph, which no table shows.
"""

import time
import warnings

SEED = 42
FACTOR = 2.0


def grow(x):
    return x * FACTOR


def main():
    print("step 1/1 | value 1.0")
    print("time", time.perf_counter())
    return {"value": grow(SEED), "count": 1000, "is_big": True, "more": 0.5, "details": [1]}


if __name__ == "__main__":
    main()
'''

# Made-up test module. It imports pytest and hypothesis, as the real ones do, but bench.py must be
# able to read its declarations where neither is installed.
DECLARED = """import sys

import pytest
import hypothesis.strategies as st
from hypothesis import given
from hypothesis.stateful import RuleBasedStateMachine

assert "_pytest" not in sys.modules, "the real pytest was imported"


@pytest.mark.parametrize("x", [1])
@given(st.integers() | st.none())
def test_nothing(x, y):
    assert False


class Machine(RuleBasedStateMachine):
    pass


BARS = ("value >= FLOOR", "count == 1000")
VARIANTS = {
    "half": {"FACTOR": 0.5},
    "frozen": {"grow": lambda x: 0.0},
    "ablation": {"FACTOR": -1.0},
}
TWINS = {"half": "value >= FLOOR", "frozen": "value >= FLOOR"}
SEEDS = (42, 50, 60)
""".replace("FLOOR", "80.0")


def collection(root: Path, declared: str | None = DECLARED, **scripts: str) -> Path:
    """A collection of made-up scripts, all with the same declarations, under root."""
    for folder in (TIER, "tests", "results"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (root / TIER / f"{name}.py").write_text(text, encoding="utf-8")
        if declared is not None:
            (root / "tests" / f"test_{name}.py").write_text(declared, encoding="utf-8")
    return root


def record(root: Path, name: str = "microtoy") -> dict:
    return json.loads((root / "results" / f"{name}.json").read_text(encoding="utf-8"))


def run(root: Path, *arguments: str) -> int:
    """The exit status of the command on that collection."""
    return bench.main([*arguments, "--root", str(root)])


def files(root: Path) -> list[str]:
    """All files but the caches of Python."""
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return collection(tmp_path, microtoy=TOY)


# === RECORDS ===


def test_record_is_written_as_specified(toy: Path) -> None:
    assert run(toy, "microtoy") == 0
    written = record(toy)
    assert list(written) == [
        "script", "sha256", "python", "platform", "machine", "seeds", "variants",
    ]  # fmt: skip
    assert written["script"] == f"{TIER}/microtoy.py"
    assert written["sha256"] == script_hash(toy / TIER / "microtoy.py")
    assert written["python"] == ".".join(map(str, sys.version_info[:3]))
    assert "cores" in written["machine"] and written["platform"].count("-") == 1
    (entry,) = written["seeds"].values()
    assert list(written["seeds"]) == ["42"] and written["variants"] == {}
    assert entry["headline"] == {"value": 84.0, "count": 1000, "is_big": True, "more": 0.5}
    assert 0.0 <= entry["wall_seconds"] < 1.0 and 0.0 <= entry["cpu_seconds"] < 1.0
    assert sys.platform == "win32" or 1.0 < entry["peak_megabytes"] < 60.0
    output = (toy / "results" / "microtoy.txt").read_bytes()
    assert output.startswith(b"step 1/1 | value 1.0\ntime ") and output.count(b"\n") == 2
    tests = "tests/test_microtoy.py"
    script = f"{TIER}/microtoy.py"
    assert files(toy) == [script, "results/microtoy.json", "results/microtoy.txt", tests]


def test_seeds_and_variants(toy: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(toy, "microtoy", "--seeds", "--variants", "--jobs", "2") == 0
    written = record(toy)
    values = {seed: entry["headline"]["value"] for seed, entry in written["seeds"].items()}
    assert values == {"42": 84.0, "50": 100.0, "60": 120.0}
    values = {name: entry["headline"]["value"] for name, entry in written["variants"].items()}
    assert values == {"half": 21.0, "frozen": 0.0, "ablation": -42.0}
    assert written["variants"]["half"]["changes"] == {"FACTOR": "0.5"}
    lines = capsys.readouterr().err.splitlines()
    assert any("seed 50" in line and "2 of 2 bars met" in line for line in lines)
    twins = [line for line in lines if "twin fails, as it must: value >= 80.0" in line]
    assert len(twins) == 2
    # Now everything is recorded: nothing runs again, unless it is asked for by name.
    before = record(toy)
    assert run(toy, "microtoy", "--seeds", "--variants") == 0
    assert record(toy) == before
    assert run(toy, "microtoy", "--variants", "half") == 0
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("microtoy half:") for line in lines)
    assert not any(line.startswith(("microtoy seed", "microtoy frozen")) for line in lines)


def test_changed_script_drops_the_old_parts(toy: Path, capsys: pytest.CaptureFixture) -> None:
    assert run(toy, "microtoy", "--seeds", "--variants", "half") == 0
    assert set(record(toy)["seeds"]) == {"42", "50", "60"}
    # The same script: the parts stay when only the default seed runs again.
    assert run(toy, "microtoy") == 0
    assert set(record(toy)["seeds"]) == {"42", "50", "60"} and "half" in record(toy)["variants"]
    script = toy / TIER / "microtoy.py"
    script.write_text(TOY.replace("2.0", "3.0"), encoding="utf-8")
    assert run(toy, "microtoy", "--variants", "ablation") == 0
    written = record(toy)
    assert written["sha256"] == script_hash(script)
    assert list(written["seeds"]) == ["42"] and list(written["variants"]) == ["ablation"]
    assert written["seeds"]["42"]["headline"]["value"] == 126.0
    assert "dropped (changed: sha256)" in capsys.readouterr().err


def test_record_of_another_machine_or_python_is_not_mixed(toy: Path) -> None:
    assert run(toy, "microtoy", "--seeds") == 0
    path = toy / "results" / "microtoy.json"
    for key in ("python", "platform", "machine"):
        changed = {**record(toy), key: "another"}
        path.write_text(json.dumps(changed), encoding="utf-8")
        facts, script = bench.machine_facts(), toy / TIER / "microtoy.py"
        declared = {"seeds": [42, 50, 60], "variants": {}}
        kept, why = bench.valid_record(toy, script, facts, declared)
        assert kept["seeds"] == {} and why == [key]
        path.write_text(json.dumps({**changed, key: facts[key]}), encoding="utf-8")
        kept, why = bench.valid_record(toy, script, facts, declared)
        assert list(kept["seeds"]) == ["42", "50", "60"] and why == []


def test_changed_variant_is_measured_again(toy: Path) -> None:
    assert run(toy, "microtoy", "--variants") == 0
    path = toy / "tests" / "test_microtoy.py"
    path.write_text(
        DECLARED.replace('"FACTOR": 0.5', '"FACTOR": 0.25').replace("x: 0.0", "x: 1.0"),
        encoding="utf-8",
    )
    facts, script = bench.machine_facts(), toy / TIER / "microtoy.py"
    kept, _ = bench.valid_record(toy, script, facts, bench.read_declarations(toy, script))
    assert list(kept["variants"]) == ["ablation"]
    assert run(toy, "microtoy", "--variants") == 0
    values = {name: v["headline"]["value"] for name, v in record(toy)["variants"].items()}
    assert values == {"half": 10.5, "frozen": 1.0, "ablation": -42.0}


def test_script_that_changes_while_it_runs_is_not_recorded(tmp_path: Path) -> None:
    own_change = TOY.replace(
        "def main():", 'def main():\n    open(__file__, "a", encoding="utf-8").write("new = 1\\n")'
    )
    root = collection(tmp_path, microtoy=own_change)
    assert run(root) == 1
    assert [name for name in files(root) if name.startswith("results")] == []


# === WHAT GOES WRONG ===


@pytest.mark.parametrize(
    "broken, reason",
    [
        (TOY.replace('print("step', "1 / 0\n    print(\"step"), "ZeroDivisionError"),
        (TOY.replace('print("step', 'raise SystemExit("no data")\n    print("step'), "no data"),
        (TOY.replace('{"value": grow(SEED)', '{"value": "high"'), "value is a str"),
        (TOY.replace("SEED = 42", "SEED = 7"), "SEED is not 42"),
        (TOY.replace("FACTOR = 2.0", "FACTOR = time.perf_counter()"), "42, the same seed differ"),
        (TOY.replace('"step 1/1', 'str(time.perf_counter()) + "'), "with the same seed differ"),
        (TOY.replace('print("time"', 'import os; os._exit(3); print("time"'), "exit status 3"),
    ],
)  # fmt: skip
def test_failing_script_is_named_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture, broken: str, reason: str
) -> None:
    assert broken != TOY
    root = collection(tmp_path, microbad=broken, microtoy=TOY)
    old = '{"sha256": "old"}'
    (root / "results" / "microbad.json").write_text(old, encoding="utf-8")
    assert run(root, "--repeat", "2") == 1
    errors = capsys.readouterr().err
    assert "1 went wrong:\n  microbad seed 42: " in errors and reason.split(", ")[-1] in errors
    assert record(root)["seeds"]["42"]["headline"]["value"] == 84.0
    assert (root / "results" / "microbad.json").read_text(encoding="utf-8") == old
    assert not (root / "results" / "microbad.txt").exists()


def test_missed_bar_surviving_twin_and_wrong_names_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    root = collection(tmp_path, DECLARED.replace("80.0", "20.0"), microtoy=TOY)
    assert run(root, "--variants") == 1
    errors = capsys.readouterr().err
    assert "  microtoy half: TWIN MEETS the bar that it must fail: value >= 20.0" in errors
    assert "  microtoy frozen" not in errors and "  microtoy seed" not in errors

    root = collection(tmp_path, DECLARED.replace("80.0", "99.0"), microtoy=TOY)
    assert run(root, "--seeds") == 0  # 42 is recorded, 50 and 60 meet the bar
    assert run(root) == 1
    assert "  microtoy seed 42: 1 of 2 bars met; FAILED: value >= 99.0" in capsys.readouterr().err

    root = collection(tmp_path, DECLARED.replace('"count =', '"counts ='), microtoy=TOY)
    assert run(root) == 1
    assert "BAR CANNOT BE READ: 'counts == 1000' names counts" in capsys.readouterr().err

    wrong = DECLARED.replace('"FACTOR": -1.0', '"FACTORS": -1.0').replace('"half": "', '"hal": "')
    root = collection(tmp_path, wrong, microtoy=TOY)
    assert run(root, "--variants") == 1
    errors = capsys.readouterr().err
    assert "TWINS names 'hal', which VARIANTS lacks" in errors
    assert "microtoy ablation: exit status 1: AttributeError" in errors
    assert "ablation" not in record(root)["variants"] and "half" in record(root)["variants"]


def test_unknown_names_end_the_command(toy: Path) -> None:
    with pytest.raises(SystemExit, match="no script microtoi"):
        run(toy, "microtoi")
    with pytest.raises(SystemExit, match="declares the variant microtoy"):
        run(toy, "--variants", "microtoy")


@pytest.mark.skipif(os.name != "posix", reason="sends the signal that Ctrl-C sends")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_interrupted_run_leaves_the_record_whole(tmp_path: Path, sent: signal.Signals) -> None:
    # The script starts a process of its own, which must not outlive the interruption either.
    inner = "import pathlib, time\\nwhile True: pathlib.Path('beat').touch(); time.sleep(0.02)"
    slow = TOY.replace(
        'print("step',
        f'import subprocess, sys\n    subprocess.Popen([sys.executable, "-c", "{inner}"])\n'
        '    time.sleep(60)\n    print("step',
    )
    root = collection(tmp_path / "root", microtoy=slow)
    old = '{"sha256": "old", "seeds": {"42": {}}}\n'
    (root / "results" / "microtoy.json").write_text(old, encoding="utf-8")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before, beat = files(root), root / TIER / "beat"
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "bench.py"), "microtoy", "--root", str(root)],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env={**os.environ, "TMPDIR": str(scratch)},
    )
    try:
        until = time.monotonic() + 10
        while not beat.exists() and time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        assert beat.exists(), "the script has not started"
        process.send_signal(sent)
        errors = process.communicate(timeout=10)[1]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    beat.unlink()
    time.sleep(0.3)
    assert files(root) == before and list(scratch.iterdir()) == []
    assert (root / "results" / "microtoy.json").read_text(encoding="utf-8") == old


def test_interrupted_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "results" / "x.json"
    bench.write_whole(path, "old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench.write_whole(path, "new")
    assert path.read_text(encoding="utf-8") == "old" and files(tmp_path) == ["results/x.json"]


# === TABLES ===

README = """# Tier

Before, with a | and <!-- a comment -->.
<!-- bench:table -->
anything
<!-- /bench:table -->
After.
"""


def test_rows_for_a_table_that_two_scripts_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = '"details": {"table": {"reference": {"reward": 6.0412, "given": "512 pairs"}}}'
    wide = '"details": {"table": {"tuned": {"reward": 7, "pairs": 512}}}'
    root = collection(
        tmp_path,
        microtoy=TOY.replace('"details": [1]', rows),
        microzoo=TOY.replace('"details": [1]', wide),
        microbad=TOY.replace('"details": [1]', '"details": {"table": {"a": {"b": [1]}}}'),
    )
    monkeypatch.setattr(bench, "SHARED_TABLES", {TIER: {"pair": ("microtoy", "microzoo")}})
    empty = "<!-- bench:pair -->\n<!-- /bench:pair -->\n"
    (root / TIER / "README.md").write_text(README + empty, encoding="utf-8")
    assert run(root, "microtoy", "microzoo") == 0
    (entry,) = record(root)["seeds"].values()
    assert entry["table"] == {"reference": {"reward": 6.0412, "given": "512 pairs"}}
    text = (root / TIER / "README.md").read_text(encoding="utf-8")
    written = [line for line in text.split("<!-- bench:pair -->")[1].splitlines() if "|" in line]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in written] == [
        ["script", "", "reward", "given", "pairs"],
        ["---", "---", "---:", "---:", "---:"],
        ["[microtoy](microtoy.py)", "reference", "6.041", "512 pairs", ""],
        ["[microzoo](microzoo.py)", "tuned", "7", "", "512"],
    ]
    assert run(root, "microbad") == 1 and not (root / "results" / "microbad.json").exists()


def test_tables_change_only_what_stands_between_the_markers(toy: Path) -> None:
    readme = toy / TIER / "README.md"
    readme.write_text(README, encoding="utf-8", newline="")
    collection(toy, microzoo=TOY)
    assert run(toy, "microtoy", "--seeds") == 0
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split("<!-- bench:table -->")
    body, after = rest.split("<!-- /bench:table -->")
    assert before == README.split("<!-- bench:table -->")[0]
    assert after == README.split("<!-- /bench:table -->")[1]
    header, line, toy_row, zoo_row, empty, machine = body.strip().split("\n")
    assert header == "| script | what it shows | headline | CPU seconds | peak MB | seeds |"
    assert line == "| --- | --- | --- | ---: | ---: | --- |"
    start = "| [microtoy.py](microtoy.py) | Growth is a matter of \\| the factor. | "
    assert toy_row.startswith(start + "`value` 84, `count` 1,000, `is_big` yes | 0.0 | ")
    assert toy_row.endswith(" | 3 (`value` 84 to 120) |")
    assert "| not recorded yet |" in zoo_row and empty == ""
    facts = bench.machine_facts()
    assert machine.startswith(f"Measured on {facts['machine']}; ") and facts["python"] in machine


def test_tables_option_runs_nothing_and_keeps_line_ends(
    toy: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(toy) == 0
    errors = capsys.readouterr().err
    assert f"table not written: {TIER}/README.md is missing" in errors
    readme, front = toy / TIER / "README.md", toy / "README.md"
    readme.write_text(README.replace("\n", "\r\n"), encoding="utf-8", newline="")
    before = record(toy)
    assert run(toy, "--tables") == 0
    text = readme.read_bytes()
    assert b"microtoy.py" in text and text.count(b"\n") == text.count(b"\r\n")
    assert record(toy) == before and not front.exists()
    assert run(toy, "--tables") == 0 and readme.read_bytes() == text

    script = toy / TIER / "microtoy.py"
    script.write_text(TOY + "# A comment is not another version.\n", encoding="utf-8")
    capsys.readouterr()
    assert run(toy, "--tables") == 0
    assert "another version" not in capsys.readouterr().err
    script.write_text(TOY + "new = 1\n", encoding="utf-8")
    assert run(toy, "--tables") == 0
    assert "microtoy: the record is of another version" in capsys.readouterr().err


@pytest.mark.parametrize(
    "readme, problem",
    [
        (README.replace("<!-- bench:table -->", ""), "<!-- bench:table --> 0 times"),
        (README.replace("<!-- /bench:table -->", ""), "<!-- /bench:table --> 0 times"),
        (README + README, "<!-- bench:table --> 2 times"),
        ("<!-- /bench:table --> <!-- bench:table -->", "<!-- /bench:table --> before <!--"),
    ],
)
def test_missing_marker_is_named_and_nothing_written(
    toy: Path, capsys: pytest.CaptureFixture, readme: str, problem: str
) -> None:
    path = toy / TIER / "README.md"
    path.write_text(readme, encoding="utf-8")
    assert run(toy, "--tables") == 1
    assert f"{TIER}/README.md has the marker {problem}" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == readme


# === ENGINES ===


@pytest.fixture(scope="module")
def measured() -> dict:
    """The three engines that need no library, one round of three names."""
    return engines.measure(
        ROOT, rounds=1, num_names=3, engines=("published", "stack", "matrix"), say=str
    )


def test_losses_of_all_engines_agree(measured: dict) -> None:
    assert measured["shared_steps"] == 3 and measured["max_loss_difference"] <= 1e-12
    assert measured["parameters"] == 4192
    assert [cost["steps"] for cost in measured["engines"].values()] == [3, 3, 9]
    # The first name costs about as much as knowing nothing, and training lowers the loss.
    step = engines.make_trainer("stack", ROOT)
    losses = [step([0, 5, 13, 13, 1, 0], i, 0.01) for i in range(3)]
    assert abs(losses[0] - 3.296) < 0.1 and losses[0] > losses[1] > losses[2]


def test_engines_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # A rate that is the least bit off in one engine shows at the second step.
    first = engines.make_trainer("published", ROOT)
    second = engines.make_trainer("matrix", ROOT)
    symbols = [0, 1, 2, 3, 0]
    losses = {
        "published": [first(symbols, i, 0.01) for i in range(2)],
        "matrix": [second(symbols, i, 0.01 * (1.0 + 1e-6)) for i in range(2)],
    }
    difference, shared = engines.largest_difference(losses)
    assert shared == 2 and difference > engines.TOLERANCE
    assert abs(losses["published"][0] - losses["matrix"][0]) < 1e-14

    monkeypatch.setattr(engines, "largest_difference", lambda _: (difference, shared))
    with pytest.raises(ValueError, match="losses differ by"):
        engines.measure(ROOT, 1, 1, ("published", "matrix"), say=str)
    monkeypatch.setattr(engines, "largest_difference", lambda _: (float("nan"), shared))
    with pytest.raises(ValueError, match="losses differ by nan"):
        engines.measure(ROOT, 1, 1, ("published", "matrix"), say=str)


def test_both_orders_are_topological_over_shared_parents() -> None:
    # b = a + a, c = b + b * a: a must come first and c last, each once.
    a = engines.Value(3.0)
    b = a + a
    product = b * a
    c = b + product
    for find_order in (engines.recursive_order, engines.stack_order):
        order = find_order(c)
        assert sorted(map(id, order)) == sorted(map(id, (a, b, product, c)))
        places = {value: order.index(value) for value in order}
        assert all(places[p] < places[value] for value in order for p in value.parents)
        for value in order:
            value.grad = 0.0
        c.backward(order)
        assert a.grad == 2.0 + 4.0 * 3.0  # d(2a + 2a^2) / da


def test_engine_record_and_its_table(
    toy: Path, measured: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in bench.engine_files(toy):
        (toy / name).parent.mkdir(exist_ok=True)
        (toy / name).write_bytes((ROOT / name).read_bytes())
    readme = README.replace("bench:table", "bench:engine")
    (toy / "README.md").write_text(readme, encoding="utf-8")
    monkeypatch.setattr(engines, "measure", lambda root, say: measured)
    assert run(toy, "--engine") == 0
    written = record(toy, "engine")
    assert written["max_loss_difference"] == measured["max_loss_difference"]
    assert written["sha256"]["common/engine.py"] == script_hash(ROOT / "common" / "engine.py")
    text = (toy / "README.md").read_text(encoding="utf-8")
    assert text.startswith(readme.split("anything")[0]) and text.endswith("\nAfter.\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 3 and "times ours" in rows[0] and rows[2].startswith("| ours: ")
    assert "| 1 |" in rows[2]

    def fail(root: Path, say: object) -> dict:
        raise ValueError("the engines' losses differ by 1")

    monkeypatch.setattr(engines, "measure", fail)
    assert run(toy, "--engine") == 1
    assert record(toy, "engine") == written


# === ONE RUN ===


def test_peak_memory_is_the_runs_own() -> None:
    # A process that holds much must not count as memory of those that it starts.
    ballast = bytearray(100_000_000)
    code = "import run_one; print(run_one.peak_megabytes())"
    tools = str(ROOT / "tools")
    done = subprocess.run([sys.executable, "-c", code], cwd=tools, capture_output=True, check=True)
    assert done.stdout.strip() == b"None" or 1.0 < float(done.stdout) < 60.0
    assert run_one.peak_megabytes() is None or run_one.peak_megabytes() > len(ballast) / 1e6


def test_description_changes_with_what_a_variant_changes() -> None:
    def make(inner: object) -> object:
        def replaced(x: float) -> object:
            return inner(x) if callable(inner) else inner

        return replaced

    def double(x: float) -> float:
        return 2.0 * x

    def triple(x: float) -> float:
        return 3.0 * x

    parts = [make(double), make(triple), make(1), make(2), 0.5, [0.0] * 99, [0.0] * 98 + [1.0]]
    words = [run_one.describe(part) for part in parts]
    assert len(set(words)) == len(words) and max(map(len, words)) <= 60
    assert words[0].startswith("replaced (") and words[4] == "0.5"
    assert run_one.describe(make(double)) == words[0]
    assert run_one.describe(make(object())) == run_one.describe(make(object()))


def test_headline_numbers_are_numbers() -> None:
    assert run_one.headline_of({"a": 1, "b": True, "details": "x"}) == {"a": 1, "b": True}
    for wrong in (None, {}, {"details": 1}, {"a": None}, {"a": [1.0]}):
        with pytest.raises(TypeError):
            run_one.headline_of(wrong)


def test_middle_value_and_numbers_for_people() -> None:
    assert bench.middle([5.0, 1.0, 3.0]) == 3.0 and bench.middle([None]) is None
    texts = [bench.value_text(value) for value in (True, 12345, 0.5, 123456.0, float("nan"))]
    assert texts == ["yes", "12,345", "0.5", "123,456", "nan"]


# === THE READMES OF THIS REPOSITORY ===


def test_the_readmes_say_what_the_records_say() -> None:
    tiers = dict.fromkeys([script.parent for script in bench.scripts(bench.ROOT)])
    problems = bench.rewrite_tables(bench.ROOT, tiers, engine=True, write=False)
    assert not problems, "\n".join([*problems, "python3 tools/bench.py --tables mends this"])


def test_a_table_that_was_changed_by_hand_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "microgpt.txt").write_text("Invented names 2.3\n", encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench:excerpt --><!-- /bench:excerpt -->\n", encoding="utf-8")
    assert not bench.rewrite_tables(tmp_path, [], engine=False)
    assert "Invented names 2.3" in readme.read_text(encoding="utf-8")
    assert not bench.rewrite_tables(tmp_path, [], engine=False, write=False)
    readme.write_text(readme.read_text(encoding="utf-8").replace("2.3", "2.1"), encoding="utf-8")
    assert bench.rewrite_tables(tmp_path, [], engine=False, write=False)
