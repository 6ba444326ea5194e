#!/usr/bin/env python3
"""Write the parts of README.md and docs/ that follow from the scripts and their records.

    python3 tools/pages.py            rewrite what stands between the markers <!-- pages:... -->
    python3 tools/pages.py --check    change nothing, say what is not up to date

- README.md: the gallery, a table of scripts for each tier, what is tested (counts).
- docs/learning-path.md: the map of what rests on what, and the tracks with their hours.
- docs/exercises/README.md: the titles of all exercises.

What a script rests on stands in its docstring ("Read first: microgpt, microkv."). Its line in the
tables is a sentence in docs/headlines.json, into which the numbers of the recorded run are put.
Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT / "tests") not in sys.path:
    sys.path.append(str(ROOT / "tests"))
if str(ROOT / "tools") not in sys.path:
    sys.path.append(str(ROOT / "tools"))

from bench import put_between, read_record, write_whole  # noqa: E402
from support import scripts  # noqa: E402

READ_FIRST = re.compile(r"^Read first: (.+?)\.$", re.MULTILINE)
LINES_PER_MINUTE = 8  # of story, comments included: slow enough to follow the code

TIERS = {
    "01-foundations": "Foundations",
    "02-alignment": "Alignment and training",
    "03-systems": "Systems and inference",
}

# The aims of docs/learning-path.md, and what to read for them, in order.
TRACKS = {
    "Understand language models": (
        *("microtokenizer", "microautograd", "microgpt", "microembedding", "micrornn"),
        *("microbert", "microattention", "microrope", "microbeam", "microssm", "microrag"),
    ),
    "Alignment": (
        *("microautograd", "microgpt", "microlora", "microqlora", "microreinforce"),
        *("microdpo", "microppo", "microgrpo"),
    ),
    "Make inference fast": (
        *("microautograd", "microgpt", "microkv", "micropaged", "microattention"),
        *("microflash", "microquant", "microbeam", "microssm"),
    ),
    "Train larger networks": (
        *("microautograd", "microoptimizer", "microbatchnorm", "microdropout"),
        *("microcheckpoint", "microparallel", "micromoe"),
    ),
    "Generative models": (
        *("microautograd", "microvae", "microgan", "microdiffusion", "microgpt"),
    ),
}


def docstring(path: Path) -> str:
    """A script's docstring."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def thesis(path: Path) -> str:
    """The first line of a script's docstring."""
    return docstring(path).splitlines()[0]


def prerequisites(path: Path) -> list[str]:
    """What a script says that one should read first."""
    found = READ_FIRST.search(docstring(path))
    return [] if found is None or found[1] == "nothing" else found[1].split(", ")


def story_lines(path: Path) -> int:
    """The lines of the script that one reads: all but blank ones, from the top to the first
    appendix (or to the end, where the engine itself is the story).
    """
    text = path.read_text(encoding="utf-8")
    story = re.split(r"^# === APPENDIX", text, maxsplit=1, flags=re.MULTILINE)[0]
    return len([line for line in story.splitlines() if line.strip()])


def default_run(name: str) -> dict:
    """The recorded run with the default seed."""
    record = read_record(ROOT / "results" / f"{name}.json") or {}
    return next(iter(record.get("seeds", {}).values()), {})


def headline(name: str) -> str:
    """The script's result in a line, with the numbers of the recorded run."""
    sentences = json.loads((ROOT / "docs" / "headlines.json").read_text(encoding="utf-8"))
    return sentences[name].format(**default_run(name)["headline"])


def by_tier() -> dict[str, list[Path]]:
    """The scripts of each tier."""
    return {tier: [p for p in scripts() if p.parent.name == tier] for tier in TIERS}


# === THE README ===


def script_tables() -> str:
    """One table for each tier: script, thesis, CPU seconds, result."""
    lines = []
    for tier, paths in by_tier().items():
        lines += [f"**[{TIERS[tier]}]({tier}/README.md)**", ""]
        lines += ["| script | what it shows | result | seconds |", "| --- | --- | --- | ---: |"]
        for path in paths:
            name = path.stem
            seconds = default_run(name)["cpu_seconds"]
            link = f"[{name}]({tier}/{name}.py)"
            lines.append(f"| {link} | {thesis(path)} | {headline(name)} | {seconds:.0f} |")
        lines.append("")
    record = read_record(ROOT / "results" / "microgpt.json") or {}
    facts = f"{record['machine']}; Python {record['python']}"
    lines.append(f"CPU seconds of one core, measured on {facts}.")
    return "\n".join(lines)


def gallery() -> str:
    """The previews, three to a row, each linked to its script, with a caption."""
    cells = []
    for tier, paths in by_tier().items():
        for path in paths:
            name = path.stem
            if not (ROOT / "videos" / "previews" / f"{name}.gif").exists():
                continue
            picture = f'<img src="videos/previews/{name}.gif" width="270" alt="{thesis(path)}">'
            link = f'<a href="{tier}/{name}.py">{picture}<br><b>{name}</b></a>'
            cells.append(f'<td width="33%" valign="top">{link}<br>{question(name)}</td>')
    rows = [cells[i : i + 3] for i in range(0, len(cells), 3)]
    body = "\n".join(["<tr>\n" + "\n".join(row) + "\n</tr>" for row in rows])
    return f"<table>\n{body}\n</table>"


def question(name: str) -> str:
    """The question that the script's film answers, read from its class without importing it."""
    tree = ast.parse((ROOT / "videos" / "scenes" / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").strip().splitlines()[0]


def counts() -> str:
    """How much is tested, counted from the tests and the records."""
    bars = seeds = variants = twins = parity = 0
    libraries: set[str] = set()
    for path in scripts():
        record = read_record(ROOT / "results" / f"{path.stem}.json") or {}
        seeds += len(record.get("seeds", {}))
        variants += len(record.get("variants", {}))
        tree = ast.parse((ROOT / "tests" / f"test_{path.stem}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id == "BARS":
                    bars += len(node.value.elts)
                if isinstance(target, ast.Name) and target.id == "TWINS":
                    twins += len(getattr(node.value, "keys", getattr(node.value, "elts", [])))
        other = ROOT / "tests" / "parity" / f"test_{path.stem}.py"
        if other.exists():
            tree = ast.parse(other.read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    parity += 1
                if isinstance(node, ast.Import):
                    libraries |= {alias.name.split(".")[0] for alias in node.names}
                if isinstance(node, ast.ImportFrom) and node.module:
                    libraries.add(node.module.split(".")[0])
    known = {
        *("torch", "transformers", "tokenizers", "tiktoken", "peft", "trl", "bitsandbytes"),
        *("diffusers", "gymnasium", "sklearn", "scipy", "numpy", "sentence_transformers"),
        *("rank_bm25", "bm25s", "Levenshtein"),
    }
    names = ", ".join(sorted(libraries & known, key=str.lower))
    return (
        f"{len(scripts())} scripts; {bars} bars on their headline numbers, met on every one of "
        f"{seeds} recorded runs; {variants} recorded variants, {twins} of them broken twins that "
        f"must fail a bar (further twins run inside the tests); {parity} tests against other "
        f"libraries ({names})."
    )


# === THE LEARNING PATH ===


def learning_map() -> str:
    """A diagram of what rests on what, which GitHub draws."""
    lines = ["```mermaid", "flowchart LR"]
    for tier, paths in by_tier().items():
        lines.append(f"  subgraph {tier.replace('-', '_')}[{TIERS[tier]}]")
        lines += [f"    {path.stem}" for path in paths]
        lines.append("  end")
    for path in scripts():
        lines += [f"  {needed} --> {path.stem}" for needed in prerequisites(path)]
    return "\n".join([*lines, "```"])


def tracks() -> str:
    """Each track: its scripts in order, and how long they take to read and run."""
    paths = {path.stem: path for path in scripts()}
    lines = ["| aim | scripts, in order | hours |", "| --- | --- | ---: |"]
    for aim, names in TRACKS.items():
        found = [name for name in names if name in paths]
        links = ", ".join([f"[{n}](../{paths[n].parent.name}/{n}.py)" for n in found])
        hours = sum(story_lines(paths[n]) / LINES_PER_MINUTE / 60 for n in found)
        lines.append(f"| {aim} | {links} | {hours:.0f} |")
    return "\n".join(lines)


def exercise_index() -> str:
    """One line for each script: its page, and the titles of its exercises."""
    from exercises import read_page

    lines = []
    for tier, paths in by_tier().items():
        lines += [f"## {TIERS[tier]}", ""]
        for path in paths:
            titles = "; ".join([exercise.title for exercise in read_page(path.stem)])
            lines.append(f"- [{path.stem}]({path.stem}.md): {titles}")
        lines.append("")
    return "\n".join(lines).rstrip()


PARTS = {
    "README.md": {"scripts": script_tables, "gallery": gallery, "counts": counts},
    "docs/learning-path.md": {"map": learning_map, "tracks": tracks},
    "docs/exercises/README.md": {"exercises": exercise_index},
}


def rewrite(write: bool) -> list[str]:
    """Bring every part up to date; with write=False say which are not."""
    problems = []
    for where, parts in PARTS.items():
        path = ROOT / where
        old = path.read_text(encoding="utf-8")
        new = old
        for name, make in parts.items():
            if f"<!-- pages:{name} -->" in new:
                new = put_between(new, name, make(), where, kind="pages")
            else:
                problems.append(f"{where}: there is no marker <!-- pages:{name} -->")
        if new != old and write:
            write_whole(path, new)
        elif new != old:
            problems.append(f"{where} is not up to date: python3 tools/pages.py")
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    problems = rewrite(write=not parser.parse_args().check)
    print("\n".join(problems) if problems else "Up to date.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
