"""README.md and docs/: what a tool writes is up to date, and every link leads somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pages
import pytest
from support import ROOT, scripts

PAGES = sorted(
    path
    for pattern in ("*.md", "*/*.md", "*/*/*.md")
    for path in ROOT.glob(pattern)
    if not {part for part in path.relative_to(ROOT).parts if part.startswith(".")}
    and "node_modules" not in path.parts
)
LINK = re.compile(
    r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"|!\[[^\]]*\]\(([^)\s]+)\)"
)


def anchor(heading: str) -> str:
    """The fragment that GitHub gives to a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for groups in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        target = next(group for group in groups if group)
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, fragment = target.partition("#")
        other = (path.parent / name) if name else path
        assert other.exists(), f"{target} is not there"
        if fragment and other.suffix == ".md":
            headings = re.findall(r"^#+ (.+)$", other.read_text(encoding="utf-8"), re.MULTILINE)
            assert fragment in map(anchor, headings), f"{target}: there is no such heading"


def test_what_the_tool_writes_is_up_to_date() -> None:
    assert pages.rewrite(write=False) == []


def test_every_script_has_its_line() -> None:
    sentences = json.loads((ROOT / "docs" / "headlines.json").read_text(encoding="utf-8"))
    assert set(sentences) == {path.stem for path in scripts()}
    for name in sentences:
        assert not re.search(r"[{}]", pages.headline(name))


def test_every_script_says_what_to_read_first() -> None:
    names = {path.stem for path in scripts()}
    for path in scripts():
        assert pages.READ_FIRST.search(pages.docstring(path)), f"{path.name}: Read first: ..."
        assert set(pages.prerequisites(path)) <= names


def test_what_rests_on_what_has_no_circle() -> None:
    needs = {path.stem: pages.prerequisites(path) for path in scripts()}
    done: set[str] = set()
    while ready := [name for name, before in needs.items() if set(before) <= done]:
        done |= set(ready)
        needs = {name: before for name, before in needs.items() if name not in done}
    assert not needs


def test_tracks_respect_what_rests_on_what() -> None:
    needs = {path.stem: pages.prerequisites(path) for path in scripts()}
    for aim, names in pages.TRACKS.items():
        for i, name in enumerate(names):
            late = set(needs[name]) & set(names[i:])
            assert not late, f"{aim}: {name} before {late}"


def test_story_lines_end_at_the_appendix(tmp_path: Path) -> None:
    toy = tmp_path / "toy.py"
    toy.write_text("a = 1\n\n# note\n# === APPENDIX: ENGINE ===\nb = 2\n", encoding="utf-8")
    assert pages.story_lines(toy) == 2
