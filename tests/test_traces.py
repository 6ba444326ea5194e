"""Traces of the films: each belongs to the code of its script as it is now."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT, script_path, scripts

VIDEOS = ROOT / "videos"
sys.path.insert(0, str(VIDEOS))

import tracing  # noqa: E402

NAMES = tracing.recorders()


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_is_of_this_code(name: str) -> None:
    assert tracing.state(name) == "fresh", f"python3 videos/tracing.py {name} records it anew"
    assert (VIDEOS / "traces" / f"{name}.json").stat().st_size <= tracing.LIMIT


def test_films_recorders_and_traces_belong_together() -> None:
    scenes = sorted(path.stem for path in (VIDEOS / "scenes").glob("micro*.py"))
    traces = sorted(path.stem for path in (VIDEOS / "traces").glob("*.json"))
    previews = sorted(path.stem for path in (VIDEOS / "previews").glob("*.gif"))
    assert scenes == NAMES == traces == previews == sorted(path.stem for path in scripts())


def test_changed_code_makes_a_trace_stale(tmp_path: Path, monkeypatch) -> None:
    changed = tmp_path / "microgpt.py"
    source = script_path("microgpt").read_text(encoding="utf-8")
    monkeypatch.setattr(tracing, "script_path", lambda name: changed)
    changed.write_text(source + "\n# a comment changes nothing\n", encoding="utf-8")
    assert tracing.state("microgpt") == "fresh"
    changed.write_text(source.replace("LEARNING_RATE = 0.01", "LEARNING_RATE = 0.02"), "utf-8")
    assert tracing.state("microgpt") == "stale"
    monkeypatch.setattr(tracing, "VIDEOS", tmp_path)
    assert tracing.state("microgpt") == "missing"


def test_a_trace_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "recorders").mkdir()
    (tmp_path / "traces").mkdir()
    recorder = tmp_path / "recorders" / "microgpt.py"
    monkeypatch.setattr(tracing, "VIDEOS", tmp_path)
    recorder.write_text("def record(script):\n    return {'x': [1 / 3, 2], 'nan': 0.5}\n", "utf-8")
    tracing.write("microgpt")
    trace = json.loads((tmp_path / "traces" / "microgpt.json").read_text("utf-8"))
    assert trace["data"] == {"x": [0.333333, 2], "nan": 0.5}
    for bad, error in (("float('nan')", ValueError), ("[0.5] * 100_000", SystemExit)):
        recorder.write_text(f"def record(script):\n    return {{'x': {bad}}}\n", "utf-8")
        with pytest.raises(error):
            tracing.write("microgpt")
    assert json.loads((tmp_path / "traces" / "microgpt.json").read_text("utf-8")) == trace
    assert [path.name for path in (tmp_path / "traces").iterdir()] == ["microgpt.json"]


def test_a_stale_record_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(tracing, "script_hash", lambda path: "0")
    with pytest.raises(SystemExit, match="is stale"):
        tracing.recorded("microgpt")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="no recorder"):
        tracing.load_recorder("microx")


def test_check_says_what_is_stale() -> None:
    command = [sys.executable, "-B", VIDEOS / "tracing.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# === RENDERING: WHAT IT SAYS BEFORE IT STARTS ===


@pytest.mark.skipif(sys.platform == "win32", reason="render.sh needs bash")
def test_a_missing_program_is_said_at_the_start(tmp_path: Path) -> None:
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(
            f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}"
        )
    done = subprocess.run(
        ["/bin/bash", VIDEOS / "render.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Missing: ffmpeg gifsicle pkg-config" in done.stderr
    assert "videos/README.md" in done.stderr
