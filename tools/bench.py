"""Run the scripts, each in a process of its own, and record what they show and what they cost.

    python3 tools/bench.py                      every script once
    python3 tools/bench.py microgpt microrope   these only
      --repeat [N]          N timing runs (3 if N is not given): the medians are kept
      --seeds               also the seeds that tests/test_<script>.py declares
      --variants [NAMES]    also the variants that it declares; with names, only these
      --all                 repeat, seeds and variants
      --again               run seeds and variants again that are already recorded
      --jobs N              so many seeds and variants at a time (timing runs are always alone)
    python3 tools/bench.py --engine             our engine's speed beside a scalar one and PyTorch
    python3 tools/bench.py --tables             only rewrite the tables in the READMEs

A record, results/<script>.json, belongs to one version of the script's code, one Python and one
machine; comments and docstrings do not count. While these stay, new parts join it; when one of them
changes, the old parts are dropped. Every finished run is saved at once, so an interrupted
measurement goes on where it stopped. Exit status: 1 if a run failed, missed a bar of its test
module, or was a broken twin that met its bar.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))

from support import BarError, failed_bars, script_hash, scripts  # noqa: E402

RUN_ONE = Path(__file__).resolve().with_name("run_one.py")


class RunFailed(Exception):
    """A run that gave no result; the message says why in one line."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# === THE MACHINE ===


def cpu_model() -> str:
    """The processor's name, as well as the system tells it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
            if found := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
                return found[1].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.check_output(command, encoding="utf-8").strip()
    return platform.processor() or platform.machine() or "unknown processor"


def machine_facts() -> dict[str, str]:
    """What a measurement depends on besides the script."""
    parts = [cpu_model(), f"{os.cpu_count()} cores"]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows has no sysconf
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        parts.append(f"{memory / 2**30:.0f} GB of memory")
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "machine": ", ".join(parts),
    }


# === RECORDS ===


def write_whole(path: Path, text: str) -> None:
    """Replace the file in one go: whoever reads it, or interrupts us, finds the old or the new."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_record(path: Path) -> dict | None:
    """The record in the file, or None if there is none that can be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def record_of(root: Path, script: Path) -> Path:
    return root / "results" / f"{script.stem}.json"


def valid_record(
    root: Path, script: Path, facts: dict[str, str], declared: dict
) -> tuple[dict, list[str]]:
    """The script's record as far as it still holds, and what has changed since the old one."""
    new = {
        "script": script.relative_to(root).as_posix(),
        "sha256": script_hash(script),
        **facts,
        "seeds": {},
        "variants": {},
    }
    old = read_record(record_of(root, script))
    if old is None:
        return new, []
    changed = [name for name in ("sha256", *facts) if old.get(name) != new[name]]
    if changed:
        return new, changed
    # In the order in which they are declared; what is declared no more, or as something else, goes.
    for seed in map(str, declared["seeds"]):
        if seed in old.get("seeds", {}):
            new["seeds"][seed] = old["seeds"][seed]
    for name, changes in declared["variants"].items():
        if old.get("variants", {}).get(name, {}).get("changes") == changes:
            new["variants"][name] = old["variants"][name]
    return new, []


def save(
    root: Path, script: Path, facts: dict, declared: dict, kind: str, name: str, entry: dict
) -> None:
    """Put one run into the script's record; kind is "seeds" or "variants"."""
    record, _ = valid_record(root, script, facts, declared)
    record[kind][name] = entry
    order = [str(key) for key in declared[kind]]
    record[kind] = {key: record[kind][key] for key in order if key in record[kind]}
    write_whole(record_of(root, script), json.dumps(record, indent=2) + "\n")


# === RUNNING ===


class Child:
    """One run in a process of its own."""

    def __init__(
        self, root: Path, script: Path, folder: Path, number: int, python: list[str], **job: object
    ) -> None:
        self.script, self.python, self.job = script, python, job
        self.label = script.stem
        if "seed" in job:
            self.label += f" seed {job['seed']}"
        if "variant" in job:
            self.label += f" {job['variant']}"
        self.since = time.monotonic()
        self.files = {name: folder / f"{number}.{name}" for name in ("out", "err", "report")}
        job = {
            "root": str(root),
            "task": "run",
            "script": script.relative_to(root).as_posix(),
            "report": str(self.files["report"]),
            **job,
        }
        environment = {
            **os.environ,
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONUNBUFFERED": "1",  # for the live line
        }
        with self.files["out"].open("wb") as out, self.files["err"].open("wb") as err:
            self.process = subprocess.Popen(
                [*python, str(RUN_ONE), json.dumps(job)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                cwd=script.parent,
                # A group of its own, so that stop() reaches what the script itself has started.
                start_new_session=os.name == "posix",
            )

    def text(self, name: str) -> str:
        """What it has written so far, with plain line ends."""
        text = self.files[name].read_bytes().decode("utf-8", errors="replace")
        return text.replace("\r\n", "\n")

    def result(self) -> dict:
        """The report of the ended process, or RunFailed with the last line of its error output."""
        errors = self.text("err").strip().splitlines()
        if self.process.returncode != 0 or not self.files["report"].exists():
            reason = errors[-1].strip() if errors else "no error message"
            raise RunFailed(f"exit status {self.process.returncode}: {reason}")
        if errors:
            say(f"{self.label}: also wrote to standard error: {errors[-1]}")
        return json.loads(self.files["report"].read_text(encoding="utf-8"))

    def stop(self) -> None:
        """End the process, and on POSIX all that it has started."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                if os.name == "posix":
                    os.killpg(self.process.pid, signal.SIGKILL)
                else:
                    self.process.kill()
            self.process.wait()


def show_live(children: list[Child], finished: bool = False) -> None:
    """Keep one line of a terminal up to date; nothing where standard error goes elsewhere."""
    if not sys.stderr.isatty():
        return
    parts = []
    for child in children:
        lines = child.text("out").splitlines() or [""]
        parts.append(f"{child.label} {time.monotonic() - child.since:.0f} s  {lines[-1]}")
    text = "" if finished else " || ".join(parts)[: os.get_terminal_size(2).columns - 1]
    print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def run_tasks(
    root: Path, tasks: Iterable[tuple[list[str], Path, dict]], at_a_time: int
) -> Iterator[Child]:
    """Run each task, (Python's command, script, job), in a process, and yield each as it ends.

    At most so many run at a time. A task is taken only when its turn has come, so that whoever
    makes them can still stop.
    """
    waiting, running, shown = enumerate(tasks), [], 0.0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            while True:
                while len(running) < at_a_time and (task := next(waiting, None)):
                    number, (python, script, job) = task
                    running.append(Child(root, script, Path(folder), number, python, **job))
                if not running:
                    return
                time.sleep(0.02)
                ended = [child for child in running if child.process.poll() is not None]
                if ended or time.monotonic() - shown > 0.5:
                    show_live(running, finished=bool(ended))
                    shown = time.monotonic()
                for child in ended:
                    running.remove(child)
                    yield child
        finally:
            show_live([], finished=True)
            for child in running:
                child.stop()


def run_all(root: Path, script: Path, jobs: list[dict], at_a_time: int) -> Iterator[Child]:
    """Run the jobs of one script with this Python."""
    yield from run_tasks(root, [([sys.executable], script, job) for job in jobs], at_a_time)


def middle(values: list[float | None]) -> float | None:
    """The median, of an even number the lower of the two in the middle.

    >>> middle([3.0, 1.0, 2.0, 9.0])
    2.0
    """
    known = sorted([value for value in values if value is not None])
    return known[(len(known) - 1) // 2] if known else None


def entry_of(reports: list[dict]) -> dict:
    """What the record keeps of one run, or of several that differ in their times only."""
    entry = {"headline": reports[0]["headline"]}
    for name in ("wall_seconds", "cpu_seconds", "peak_megabytes"):
        entry[name] = middle([report[name] for report in reports])
    if reports[0].get("table") is not None:
        entry["table"] = reports[0]["table"]
    return entry


def without_times(text: str) -> list[str]:
    """The output's lines that must be the same in every run with the same seed."""
    return [line for line in text.splitlines() if not line.startswith("time")]


# === WHAT A RUN MUST SHOW ===


def value_text(value: float | bool) -> str:
    """A headline number for people.

    >>> value_text(True), value_text(1000), value_text(2.29257), value_text(0.000123456)
    ('yes', '1,000', '2.293', '0.0001235')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < 10000 or not math.isfinite(value) else f"{value:,.0f}"


def verdict(entry: dict, declared: dict, job: dict) -> tuple[str, bool]:
    """Which bars the run meets, in words, and whether that is as it must be."""
    try:
        failed = failed_bars(entry["headline"], declared["bars"])
        twin = declared["twins"].get(job.get("variant"))
        if twin is not None and failed_bars(entry["headline"], [twin]):
            return f"twin fails, as it must: {twin}", True
        if twin is not None:
            return f"TWIN MEETS the bar that it must fail: {twin}", False
    except BarError as problem:
        return f"BAR CANNOT BE READ: {problem}", False
    if not declared["bars"]:
        return "no bars declared", True
    met = f"{len(declared['bars']) - len(failed)} of {len(declared['bars'])} bars met"
    if not failed:
        return met, True
    if "variant" in job:  # only a twin is bound to bars; what another variant does is its finding
        return f"{met}; not: {'; '.join(failed)}", True
    return f"{met}; FAILED: {'; '.join(failed)}", False


def report_line(label: str, entry: dict, words: str) -> str:
    """The one line of a finished run."""
    memory = entry["peak_megabytes"]
    costs = f"{entry['wall_seconds']:.1f} s, CPU {entry['cpu_seconds']:.1f} s"
    costs += "" if memory is None else f", {memory:.0f} MB"
    numbers = ", ".join([f"{name} {value_text(v)}" for name, v in entry["headline"].items()])
    return f"{label}: {costs} | {numbers} | {words}"


# === ONE SCRIPT ===


def read_declarations(root: Path, script: Path) -> dict:
    """BARS, VARIANTS, TWINS and SEEDS of the script's test module, read by a process of its own."""
    for child in run_all(root, script, [{"task": "declarations"}], 1):
        declared = child.result()
    if not declared["declared"]:
        say(f"{script.stem}: tests/test_{script.stem}.py is missing, so there are no bars")
    return declared


def plan(
    record: dict, declared: dict, output_exists: bool, options: argparse.Namespace
) -> tuple[int, list[dict]]:
    """How many timing runs of the default seed to make, and which seeds and variants besides."""
    default, *others = declared["seeds"]
    wants_seeds = options.seeds or options.all
    wants_variants = options.variants is not None or options.all
    only_missing = (wants_seeds or wants_variants) and not options.repeat and not options.all
    is_recorded = output_exists and str(default) in record["seeds"]
    timing_runs = 0 if only_missing and is_recorded else options.repeat or (3 if options.all else 1)
    jobs: list[dict] = []
    if wants_seeds:
        missing = [seed for seed in others if options.again or str(seed) not in record["seeds"]]
        jobs += [{"seed": seed} for seed in missing]
    if options.variants:
        jobs += [{"variant": name} for name in options.variants if name in declared["variants"]]
    elif wants_variants:
        for name in declared["variants"]:
            if options.again or name not in record["variants"]:
                jobs.append({"variant": name})
    return timing_runs, jobs


def run_default(root: Path, script: Path, declared: dict, times: int) -> tuple[dict, str]:
    """Run the default seed so many times, alone: its entry for the record, and its output."""
    default = declared["seeds"][0]
    reports, outputs = [], []
    for child in run_all(root, script, [{"seed": default}] * times, 1):
        reports.append(child.result())
        outputs.append(child.text("out"))
    if reports[0].pop("own_seed") != default:
        raise RunFailed(f"the script's SEED is not {default}, the first of the declared seeds")
    for report, output in zip(reports[1:], outputs[1:]):
        pairs = zip(without_times(outputs[0]), without_times(output))
        different = [f"{a!r} and {b!r}" for a, b in pairs if a != b]
        if different or report["headline"] != reports[0]["headline"]:
            where = different[0] if different else "the headline numbers"
            raise RunFailed(f"two runs with the same seed differ: {where}")
    return entry_of(reports), outputs[0]


def measure_script(root: Path, script: Path, options: argparse.Namespace, facts: dict) -> list[str]:
    """Run, check and record what the options ask for; return what went wrong, one line each."""
    before = script_hash(script)
    output_file = record_of(root, script).with_suffix(".txt")
    problems: list[str] = []

    def finish(label: str, entry: dict, job: dict, output: str | None = None) -> None:
        if script_hash(script) != before:
            raise RunFailed("the script has changed while it ran: run it again")
        words, is_good = verdict(entry, declared, job)
        say(report_line(label, entry, words))
        if not is_good:
            problems.append(f"{label}: {words}")
        kind, name = ("variants", job["variant"]) if "variant" in job else ("seeds", job["seed"])
        if kind == "variants":
            entry = {"changes": declared["variants"][name], **entry}
        if output is not None:
            write_whole(output_file, output)
        save(root, script, facts, declared, kind, str(name), entry)

    label = script.stem
    try:
        declared = read_declarations(root, script)
        problems += [f"{script.stem}: {problem}" for problem in declared["problems"]]
        record, changed = valid_record(root, script, facts, declared)
        if changed:
            say(f"{script.stem}: the old record is dropped (changed: {', '.join(changed)})")
        elif record["seeds"] and record != read_record(record_of(root, script)):
            say(f"{script.stem}: parts that are declared otherwise now are dropped")
            write_whole(record_of(root, script), json.dumps(record, indent=2) + "\n")
        timing_runs, jobs = plan(record, declared, output_file.exists(), options)
        if timing_runs:
            label = f"{script.stem} seed {declared['seeds'][0]}"
            entry, output = run_default(root, script, declared, timing_runs)
            finish(label, entry, {"seed": declared["seeds"][0]}, output)
        elif not jobs:
            say(f"{script.stem}: all of this is recorded (--again runs it again)")
        for child in run_all(root, script, jobs, options.jobs):
            label = child.label
            try:
                finish(label, entry_of([child.result()]), child.job)
            except RunFailed as problem:
                problems.append(f"{label}: {problem}")
                say(f"{label}: FAILED: {problem}")
    except RunFailed as problem:
        problems.append(f"{label}: {problem}")
        say(f"{label}: FAILED: {problem}")
    return problems


# === TABLES ===


class MarkerMissing(Exception):
    """A README without its place for a table."""


def put_between(text: str, name: str, body: str, where: str, kind: str = "bench") -> str:
    """Replace what stands between <!-- bench:name --> and <!-- /bench:name -->, and nothing else.

    >>> put_between("a <!-- bench:x -->old<!-- /bench:x --> b", "x", "new", "README.md")
    'a <!-- bench:x -->\\nnew\\n<!-- /bench:x --> b'
    """
    first, last = f"<!-- {kind}:{name} -->", f"<!-- /{kind}:{name} -->"
    for marker in (first, last):
        count = text.count(marker)
        if count != 1:
            raise MarkerMissing(f"{where} has the marker {marker} {count} times, not once")
    if text.index(last) < text.index(first):
        raise MarkerMissing(f"{where} has the marker {last} before {first}")
    newline = "\r\n" if "\r\n" in text else "\n"
    body = newline.join(["", *body.splitlines(), ""])
    return text[: text.index(first) + len(first)] + body + text[text.index(last) :]


def table(header: list[str], rows: list[list[str]], right: Iterable[int] = ()) -> str:
    """A Markdown table; the columns numbered in right are aligned to the right."""
    lines = [header, ["---:" if i in set(right) else "---" for i in range(len(header))], *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join([f"| {' | '.join(line)} |" for line in cells])


def thesis(script: Path) -> str:
    """The first line of the script's docstring."""
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return docstring.split("\n")[0].strip()


def seeds_text(record: dict) -> str:
    """How many seeds are recorded, and how far the first headline number moves between them."""
    entries = list(record["seeds"].values())
    name = next(iter(entries[0]["headline"]))
    values = [entry["headline"].get(name) for entry in entries]
    numbers = [value for value in values if isinstance(value, float) and math.isfinite(value)]
    if len(numbers) < 2 or value_text(min(numbers)) == value_text(max(numbers)):
        return str(len(entries))
    return f"{len(entries)} (`{name}` {value_text(min(numbers))} to {value_text(max(numbers))})"


def measured_on(records: list[dict]) -> str:
    """The sentence on what the numbers were measured with."""
    places = [f"{r['machine']}; {r['platform']}; Python {r['python']}" for r in records]
    return "Measured on " + ", and on ".join(dict.fromkeys(places)) + "."


def tier_table(root: Path, tier: Path) -> str:
    """One row for each script of the tier: what the record says of it."""
    rows, records = [], []
    for script in scripts(root):
        if script.parent != tier:
            continue
        link, record = f"[{script.name}]({script.name})", read_record(record_of(root, script))
        if not record or not record.get("seeds"):
            rows.append([link, thesis(script), "not recorded yet", "", "", ""])
            continue
        if record["sha256"] != script_hash(script):
            say(f"{script.stem}: the record is of another version of the script: run it again")
        entry = next(iter(record["seeds"].values()))
        numbers = list(entry["headline"].items())[:3]
        memory = entry["peak_megabytes"]
        rows.append(
            [
                link,
                thesis(script),
                ", ".join([f"`{name}` {value_text(value)}" for name, value in numbers]),
                f"{entry['cpu_seconds']:.1f}",
                "" if memory is None else f"{memory:.0f}",
                seeds_text(record),
            ]
        )
        records.append(record)
    header = ["script", "what it shows", "headline", "CPU seconds", "peak MB", "seeds"]
    text = table(header, rows, right=(3, 4))
    return f"{text}\n\n{measured_on(records)}" if records else text


# Tables to which two scripts contribute rows, since they have one task in common: in this tier's
# README, at this marker, the rows of these scripts.
SHARED_TABLES = {
    "02-alignment": {
        "adapters": ("microlora", "microqlora"),
        "preferences": ("microdpo", "microppo"),
    }
}


def shared_table(root: Path, names: Iterable[str]) -> str:
    """The rows that these scripts' default runs gave for the table that they share."""
    rows: list[tuple[str, str, dict]] = []
    for name in names:
        record = read_record(root / "results" / f"{name}.json")
        entry = next(iter(record["seeds"].values())) if record and record.get("seeds") else {}
        rows += [(name, arm, row) for arm, row in entry.get("table", {}).items()]
    columns = list(dict.fromkeys([column for _, _, row in rows for column in row]))
    body = [
        [f"[{name}]({name}.py)", arm, *[cell_text(row.get(column, "")) for column in columns]]
        for name, arm, row in rows
    ]
    right = tuple(range(2, 2 + len(columns)))
    return table(["script", "", *[c.replace("_", " ") for c in columns]], body, right=right)


def cell_text(value: float | str) -> str:
    """A number for a table of results, or the words as they are.

    >>> cell_text(6.0412), cell_text(4192), cell_text("512 pairs")
    ('6.041', '4,192', '512 pairs')
    """
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


ENGINE_NAMES = {
    "published": "scalar, one node per number, as usually written",
    "stack": "the same, explicit-stack sort, cyclic collector off",
    "matrix": "ours: one node per matrix, pure Python",
    "torch": "PyTorch, float64, one thread",
}


def engine_table(record: dict) -> str:
    """Cost of a training step on each engine, and how it compares with ours."""
    rows = []
    for name, cost in record["engines"].items():
        ratio = record["cost_relative_to_matrix"][name]
        words = f"{ratio:.1f} times ours" if ratio >= 0.95 else f"1/{1 / ratio:.1f} of ours"
        memory = cost["peak_megabytes"]
        rows.append(
            [
                ENGINE_NAMES[name],
                f"{cost['cpu_ms_per_step']:.1f}",
                "1" if name == "matrix" else words,
                "" if memory is None else f"{memory:.0f}",
            ]
        )
    header = ["engine", "ms per step", "cost", "peak MB"]
    share = record["collector_share_of_published"]
    difference = record["max_loss_difference"]
    return (
        table(header, rows, right=(1, 3))
        + f"\n\nThe same model ({record['parameters']:,} parameters), weights and names, in turns; "
        f"CPU time. The losses agree within {difference:.0e} over {record['shared_steps']} steps. "
        f"The first engine spends {share:.0%} of its time in the cyclic collector. "
        + measured_on([record])
    )


# The paragraph of microgpt's output that the README shows, by its first words.
EXCERPT = ("Invented names",)


def excerpt(output: str, openings: Iterable[str] = EXCERPT) -> str:
    """The paragraphs of a run's output that begin with these words, as a block of text.

    >>> print(excerpt("one\\n\\nNats per symbol: 2\\n", ["Nats"]))
    ```text
    Nats per symbol: 2
    ```
    """
    paragraphs = output.strip().split("\n\n")
    shown = [part.strip("\n") for part in paragraphs if part.startswith(tuple(openings))]
    return "\n".join(["```text", "\n\n".join(shown), "```"])


def wanted_tables(root: Path, tiers: Iterable[Path], engine: bool) -> list[tuple[Path, str, str]]:
    """What the records say must stand in the READMEs: (file, marker, text)."""
    tiers = list(tiers)
    wanted = [(tier / "README.md", "table", tier_table(root, tier)) for tier in tiers]
    for tier in tiers:
        for marker, names in SHARED_TABLES.get(tier.name, {}).items():
            if (root / "results" / f"{names[0]}.json").exists():
                wanted.append((tier / "README.md", marker, shared_table(root, names)))
    output = root / "results" / "microgpt.txt"
    if output.exists():
        wanted.append((root / "README.md", "excerpt", excerpt(output.read_text(encoding="utf-8"))))
    if engine:
        record = read_record(root / "results" / "engine.json")
        if record is not None:
            wanted.append((root / "README.md", "engine", engine_table(record)))
        else:
            say("results/engine.json is missing: run python3 tools/bench.py --engine")
    return wanted


def rewrite_tables(
    root: Path, tiers: Iterable[Path], engine: bool, write: bool = True
) -> list[str]:
    """Bring the tables of these READMEs up to date; return what is in the way, one line each.

    With write=False only say which are not up to date.
    """
    problems = []
    for path, name, body in wanted_tables(root, tiers, engine):
        where = path.relative_to(root).as_posix()
        try:
            with path.open(encoding="utf-8", newline="") as file:
                old = file.read()
            new = put_between(old, name, body, where)
        except FileNotFoundError:
            problems.append(f"{where} is missing")
        except MarkerMissing as problem:
            problems.append(str(problem))
        else:
            if new != old and write:
                write_whole(path, new)
            elif new != old:
                problems.append(f"{where}: what stands at {name} is not what the record says")
    return problems


# === THE ENGINES ===


def engine_files(root: Path) -> list[str]:
    """The files on which the measurement of the engines rests."""
    return ["common/engine.py", "common/language_model.py", "common/optim.py", "tools/engines.py"]


def measure_engines(root: Path, facts: dict[str, str]) -> list[str]:
    """Measure the engines, record and print the ratios; return what went wrong."""
    import engines

    try:
        measured = engines.measure(root, say=say)
    except (ValueError, RuntimeError) as problem:
        say(f"engines: FAILED: {problem}")
        return [f"engines: {problem}"]
    hashes = {name: script_hash(root / name) for name in engine_files(root)}
    record = {"sha256": hashes, **facts, **measured}
    write_whole(root / "results" / "engine.json", json.dumps(record, indent=2) + "\n")
    for name, cost in record["engines"].items():
        ratio = record["cost_relative_to_matrix"][name]
        by_round = record["cost_relative_to_matrix_by_round"][name]
        say(
            f"{ENGINE_NAMES[name]}: {cost['cpu_ms_per_step']:.2f} ms per step (CPU), "
            f"{ratio:.3g} times the matrix engine's "
            f"(by round {min(by_round):.3g} to {max(by_round):.3g})"
        )
    say(f"largest difference of losses: {record['max_loss_difference']:.1e}")
    return []


# === THE COMMAND ===


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Run the scripts, record what they show and what they cost.",
        epilog="Script names stand before --variants and --repeat, or after --.",
    )
    parser.add_argument("scripts", nargs="*", help="such as microgpt; default: all")
    parser.add_argument("--repeat", nargs="?", type=int, const=3, help="timing runs; 3 without N")
    parser.add_argument("--seeds", action="store_true", help="also the declared seeds")
    parser.add_argument("--variants", nargs="*", help="also the declared variants, or only these")
    parser.add_argument("--all", action="store_true", help="repeat, seeds and variants")
    parser.add_argument("--again", action="store_true", help="also those already recorded")
    parser.add_argument("--jobs", type=int, default=1, help="seeds and variants at a time")
    parser.add_argument("--engine", action="store_true", help="only measure the engines' speeds")
    parser.add_argument("--tables", action="store_true", help="only rewrite the READMEs' tables")
    parser.add_argument("--root", type=Path, default=ROOT, help="another collection of scripts")
    options = parser.parse_args(arguments)
    if options.jobs < 1 or (options.repeat is not None and options.repeat < 1):
        parser.error("--jobs and --repeat take a number from 1 on")
    return options


def choose(root: Path, names: list[str]) -> list[Path]:
    """The scripts of these names, such as microgpt, microgpt.py or a path; none means all."""
    by_name = {script.stem: script for script in scripts(root)}
    stems = [Path(name).stem for name in names]
    unknown = [stem for stem in stems if stem not in by_name]
    if unknown:
        raise SystemExit(f"There is no script {', '.join(unknown)}. Names stand before --variants.")
    return [by_name[stem] for stem in stems] if names else list(by_name.values())


def with_variants(root: Path, chosen: list[Path], names: list[str]) -> list[Path]:
    """Those of the scripts that declare one of these variants."""
    declared = {}
    for script in chosen:
        try:
            declared[script] = set(read_declarations(root, script)["variants"])
        except RunFailed as problem:
            raise SystemExit(f"tests/test_{script.stem}.py cannot be read: {problem}") from None
    unknown = set(names).difference(*declared.values())
    if unknown:
        raise SystemExit(
            f"No chosen script declares the variant {', '.join(sorted(unknown))}. "
            "Script names stand before --variants."
        )
    return [script for script in chosen if declared[script] & set(names)]


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; return the exit status."""
    options = parse(arguments)
    root = options.root.resolve()
    chosen = choose(root, options.scripts)
    if options.tables:
        problems = rewrite_tables(root, dict.fromkeys([s.parent for s in chosen]), engine=True)
        for problem in problems:
            say(problem)
        return 1 if problems else 0
    facts = machine_facts()
    problems = []
    if options.engine:
        problems += measure_engines(root, facts)
        chosen = []
    if options.variants:
        chosen = with_variants(root, chosen, options.variants)
    for script in chosen:
        problems += measure_script(root, script, options, facts)
    # A README that has no place for its table yet does not spoil a measurement.
    for note in rewrite_tables(root, dict.fromkeys([s.parent for s in chosen]), options.engine):
        say(f"table not written: {note}")
    if problems:
        say(f"{len(problems)} went wrong:")
        for problem in problems:
            say(f"  {problem}")
    return 1 if problems else 0


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)  # end as after Ctrl-C: children stopped, files whole
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        say("\ninterrupted: what had finished is recorded")
        sys.exit(130)
