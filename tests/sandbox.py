"""Run a script alone in an empty temporary folder, and judge what it did there."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from support import DATA, TESTS

TIME_LIMIT = 900  # seconds; only a script that hangs meets it
OUTPUT_COLUMNS = 80
PROGRESS_LINES = 25


class Run(NamedTuple):
    """What a run printed and left."""

    status: int
    stdout: bytes
    stderr: str
    report: dict[str, Any]
    before: dict[str, str]  # the files and folders in the sandbox: path -> sha256
    after: dict[str, str]


def data_files() -> dict[str, bytes]:
    """The data files of the repository: name -> content."""
    found = sorted(DATA.iterdir()) if DATA.is_dir() else []
    return {p.name: p.read_bytes() for p in found if p.suffix != ".md" and p.name[0] != "."}


def snapshot(folder: Path) -> dict[str, str]:
    """Every file and folder below, with the sha256 of the files."""
    return {
        path.relative_to(folder).as_posix(): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        )
        for path in sorted(folder.rglob("*"))
    }


def run_alone(
    script: Path,
    mode: str = "run",
    data: Mapping[str, bytes] | None = None,
    data_beside: bool = False,
    **job: Any,
) -> Run:
    """Copy the script and its data into an empty folder and run it there in a process of its own.

    mode and job are those of isolated.py. The data goes to data/ beside the tier folder, or beside
    the script. Warnings are errors, packages cannot be imported, nothing may be written.
    """
    with tempfile.TemporaryDirectory() as outside, tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve()
        places = {name: root / name for name in ("tier", "data", "home", "elsewhere")}
        for name, place in places.items():
            if name != "data" or (data and not data_beside):
                place.mkdir()
        for name, content in (data or {}).items():
            (places["tier" if data_beside else "data"] / name).write_bytes(content)
        copy = places["tier"] / script.name
        copy.write_bytes(script.read_bytes())
        report = Path(outside) / "report.json"
        task = {"script": str(copy), "mode": mode, "report": str(report)}
        task |= {"data_url": None, "port": None, "disk_full": False} | job
        # I: no environment, no folder of its own on the path; S: no packages; B: no caches.
        flags = ["-I", "-S", "-B", "-W", "error", "-X", "utf8=0", "-X", "warn_default_encoding"]
        before = snapshot(root)
        finished = subprocess.run(
            [sys.executable, *flags, str(TESTS / "isolated.py"), json.dumps(task)],
            cwd=places["elsewhere"],
            env=environment(places["home"]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIME_LIMIT,
        )
        told = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {}
        return Run(
            finished.returncode,
            finished.stdout.replace(b"\r\n", b"\n"),
            finished.stderr.decode("utf-8", "replace"),
            told,
            before,
            snapshot(root),
        )


def environment(home: Path) -> dict[str, str]:
    """This process's environment with a home of its own, a plain locale and no proxy."""
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    places = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), str(home))
    return kept | places | {"LC_ALL": "C", "no_proxy": "*"}


@contextmanager
def server(content: Mapping[str, bytes], cut: bool = False) -> Iterator[dict[str, Any]]:
    """Serve files as the project's own repository would; yields the job's data_url and port.

    cut: promise the whole file, send half of it and hang up.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = content.get(self.path.removeprefix("/data/"))
            if body is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)

        def log_message(self, *args: Any) -> None:
            """Keep the tests' output clean."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        port = httpd.server_address[1]
        yield {"data_url": f"http://127.0.0.1:{port}/data/", "port": port}
        httpd.shutdown()


# === JUDGING A RUN ===


def run_complaints(run: Run) -> list[str]:
    """Anything but a clean end: a status, a warning, the network, a file."""
    found = []
    if run.status != 0:
        found.append(f"exit status {run.status}")
    if run.stderr:
        found.append(f"stderr must be empty (warnings are errors here):\n{run.stderr[-2000:]}")
    found += [f"reached for the network: {to}" for to in run.report.get("network", [])]
    found += [f"opened for writing: {path}" for path in run.report.get("written", [])]
    return found + left_behind(run)


def left_behind(run: Run) -> list[str]:
    """The files and folders that a run made, changed or removed."""
    return [
        f"{'left behind' if path not in run.before else 'changed or removed'}: {path}"
        for path in sorted(run.before.keys() | run.after.keys())
        if run.before.get(path) != run.after.get(path)
    ]


def refusal_complaints(run: Run, filenames: Mapping[str, bytes]) -> list[str]:
    """Anything but one clear sentence on stderr, status 1 and an untouched folder."""
    found = []
    if run.status != 1:
        found.append(f"exit status {run.status}, it must be 1")
    said = run.stderr.strip()
    if "Traceback" in said:
        found.append(f"a traceback instead of a sentence:\n{said[-1500:]}")
    elif "\n" in said or not said.endswith(".") or not any([name in said for name in filenames]):
        found.append(f"stderr must be one line that names the file and says what to do: {said!r}")
    return found + left_behind(run)


def output_complaints(stdout: bytes) -> list[str]:
    """What is wrong with the form of a script's output."""
    try:
        text = stdout.decode("ascii")
    except UnicodeDecodeError as problem:
        around = stdout[max(0, problem.start - 30) : problem.end + 10]
        return [f"the output is not ASCII: {around!r}"]
    if not text.strip():
        return ["nothing is printed"]
    found = [] if text.endswith("\n") else ["the last line has no end"]
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if len(line) > OUTPUT_COLUMNS:
            found.append(f"output line {number} has {len(line)} columns, at most 80: {line!r}")
        if re.search(r"[\x00-\x1f]", line):
            found.append(f"output line {number} holds a control character: {line!r}")
    return found + progress_complaints(lines)


PROGRESS = re.compile(r"step\s+(\d+)/(\d+)((?: \| [^|]+)*)")
PAIR = re.compile(r"[a-z][\w ,./()-]*? +[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?%?")


def progress_complaints(lines: list[str]) -> list[str]:
    """Progress lines are pairs separated by ' | ', with steps that increase, at most 25.

    A training is a block of progress lines; it ends where other lines stand between them, or
    where the last step has been reached and the count begins anew.
    """
    found = []
    step, total, count = -1, 0, 0  # a training may show its step 0, before it has learned
    for number, line in enumerate(lines, 1):
        if not re.match(r"\s*step\s+\d+\s*([/|]|$)", line):
            if line.strip():
                step, total, count = -1, 0, 0
            continue
        parts = PROGRESS.fullmatch(line.rstrip())
        pairs = parts.group(3).split(" | ")[1:] if parts else []
        if not parts or not all([PAIR.fullmatch(pair.strip()) for pair in pairs]):
            found.append(f"output line {number}: write `step 100/1000 | loss 2.77`, not {line!r}")
            continue
        if step == total or int(parts.group(2)) != total:
            step, count = -1, 0
        if not step < int(parts.group(1)) <= int(parts.group(2)):
            found.append(f"output line {number}: the step does not increase up to its total")
        step, total, count = int(parts.group(1)), int(parts.group(2)), count + 1
        if count == PROGRESS_LINES + 1:
            found.append(f"output line {number}: more than {PROGRESS_LINES} progress lines")
    return found


def without_times(output: bytes) -> list[bytes]:
    """The lines that must be the same in every run: all but those that begin with `time`."""
    return [line for line in output.splitlines() if not line.startswith(b"time")]


def first_difference(printed: bytes, recorded: bytes) -> list[str]:
    """Nothing if both are the same but for times; else the first lines that differ."""
    now, then = without_times(printed), without_times(recorded)
    if now == then:
        return []
    for number, (new, old) in enumerate(zip(now, then), 1):
        if new != old:
            return [f"line {number} (times not counted) is {new!r}, the record has {old!r}"]
    return [f"{len(now)} lines (times not counted), the record has {len(then)}"]
