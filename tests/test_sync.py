"""tools/sync.py: it sees every way in which a copy can differ, and mends it."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import sync
from support import COMMON, ROOT, scripts

ENGINE = '''"""The engine."""

from __future__ import annotations

import math
from math import exp, log

# The largest number that exp can take.
# It is about 709.78.
LIMIT = 709.0
FLOOR = -LIMIT


def softmax(scores: list[float]) -> list[float]:
    """Positive weights."""
    weights = [exp(min(score, LIMIT)) for score in scores]
    return [weight / sum(weights) for weight in weights]


# A node.
@sorted_by_name
class Node:
    """One node."""

    def up(self, other: Node) -> Node:
        return self if math.inf else other


def sorted_by_name(kind: type) -> type:
    """A decorator."""
    return kind
'''

OPTIM = '''"""The optimiser."""

from common.engine import Node


def step(node: Node, lr: float = 0.1) -> float:
    """One step."""
    return log(lr)
'''

SCRIPT = '''"""A thesis."""

from __future__ import annotations

from math import exp

# === CONSTANTS ===

SEED = 42

# === STORY ===

# Weigh.


def weigh(scores: list[float]) -> list[float]:
    """The story."""
    return softmax(scores)


def main() -> dict[str, float]:
    """Run."""
    return {"first": weigh([1.0, 2.0])[0]}


# === APPENDIX: ENGINE (common/engine.py; microautograd.py derives it) ===

# What this script says about its engine.

# The largest number that exp can take.
# It is about 709.78.
LIMIT = 709.0


def softmax(scores: list[float]) -> list[float]:
    """Positive weights."""
    weights = [exp(min(score, LIMIT)) for score in scores]
    return [weight / sum(weights) for weight in weights]


if __name__ == "__main__":
    main()
'''


@pytest.fixture
def pieces(tmp_path: Path) -> dict[str, sync.Piece]:
    (tmp_path / "engine.py").write_text(ENGINE, encoding="utf-8")
    (tmp_path / "optim.py").write_text(OPTIM.replace("log(lr)", "lr"), encoding="utf-8")
    return sync.read_pieces(tmp_path)


def test_pieces_are_read_with_their_comments_and_decorators(pieces) -> None:
    assert list(pieces) == ["LIMIT", "FLOOR", "softmax", "Node", "sorted_by_name", "step"]
    assert pieces["LIMIT"].lines[0] == "# The largest number that exp can take."
    assert pieces["FLOOR"].lines == ["FLOOR = -LIMIT"]
    assert pieces["Node"].lines[:2] == ["# A node.", "@sorted_by_name"]
    assert pieces["Node"].lines[-1].strip() == "return self if math.inf else other"
    assert {"LIMIT", "exp"} <= pieces["softmax"].uses
    assert not {"scores", "weights", "weight", "softmax"} & pieces["softmax"].uses
    assert pieces["softmax"].imports == {sync.Import("math", "exp")}
    assert pieces["Node"].imports == {sync.Import("math", "")}
    assert pieces["step"].imports == set()  # Node comes as a piece, not by import
    assert "Node" in pieces["step"].uses


def test_a_name_in_two_common_files_is_an_error(tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(ValueError, match="x stands twice"):
        sync.read_pieces(tmp_path)


def test_exact_copies_pass(pieces) -> None:
    assert sync.complaints(SCRIPT, pieces) == []
    assert sync.synced(SCRIPT, pieces) == (SCRIPT, [])


# name -> what to replace in SCRIPT, by what, and a word of the complaint
DIFFERENCES = {
    "code": ("min(score, LIMIT)", "score", "softmax is no exact copy"),
    "docstring": ('"""Positive weights."""', '"""Weights."""', "softmax is no exact copy"),
    "comment above": ("# It is about 709.78.\n", "", "LIMIT is no exact copy"),
    "comment added": ("\nLIMIT =", "\n# Mine.\nLIMIT =", "LIMIT is no exact copy"),
    "own comment above": ("\n\ndef softmax", "\n\n# Mine.\ndef softmax", "comment directly above"),
    "spaces": ("LIMIT = 709.0", "LIMIT = 709.0 ", "LIMIT is no exact copy"),
    "missing": ("LIMIT = 709.0\n", "", "LIMIT of common/engine.py is missing"),
    "unused": ("if __name__", "FLOOR = -LIMIT\n\n\nif __name__", "FLOOR is a common piece"),
    "used": ("return softmax(scores)", "return Node(softmax(scores))", "Node of common/engine.py"),
    "through another": ("softmax(scores)\n", "softmax(step)\n", "Node of common/engine.py"),
    "annotation": ("weigh(scores: list[float])", "weigh(scores: Node)", "Node of common/engine.py"),
    "import": ("from math import exp\n", "", "need `from math import exp`"),
}


@pytest.mark.parametrize(("old", "new", "word"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_differences_are_seen_and_mended(pieces, old: str, new: str, word: str) -> None:
    assert old in SCRIPT
    changed = SCRIPT.replace(old, new, 1)
    found = sync.complaints(changed, pieces)
    assert any([word in complaint for complaint in found]), found
    mended, done = sync.synced(changed, pieces)
    assert done
    assert sync.complaints(mended, pieces) == []
    assert sync.synced(mended, pieces) == (mended, [])
    compile(mended, "mended", "exec")


@pytest.mark.parametrize("name", ["code", "docstring", "comment above", "spaces", "unused"])
def test_mending_restores_the_very_text(pieces, name: str) -> None:
    old, new, _ = DIFFERENCES[name]
    assert sync.synced(SCRIPT.replace(old, new, 1), pieces)[0] == SCRIPT


def test_a_comment_of_the_scripts_own_is_kept(pieces) -> None:
    old, new, _ = DIFFERENCES["own comment above"]
    mended, _ = sync.synced(SCRIPT.replace(old, new, 1), pieces)
    assert "# Mine.\n\n\ndef softmax" in mended


# What is no use of a piece: a name of a function's own, an attribute, a keyword, a word in a text.
@pytest.mark.parametrize(
    "line",
    ["step = 1; print(step)", "print(x.step)", "print(step=1)", "print('step')", "step: int = 1"],
)
def test_other_things_of_the_same_name_are_no_use(pieces, line: str) -> None:
    changed = SCRIPT.replace("    return softmax", f"    {line}\n    return softmax")
    assert sync.complaints(changed, pieces) == []


@pytest.mark.parametrize(
    "line",
    ["for step in (1, 2): pass", "step, other = 1, 2", "from math import pow as step", "step += 1"],
)
def test_the_name_of_a_piece_cannot_be_something_else(pieces, line: str) -> None:
    changed = SCRIPT.replace("# === STORY", f"{line}\n\n# === STORY")
    assert any(["step is the name of a piece" in c for c in sync.complaints(changed, pieces)])


def test_a_piece_defined_twice_is_refused(pieces) -> None:
    changed = SCRIPT.replace("if __name__", "LIMIT = 709.0\n\n\nif __name__")
    assert "LIMIT is defined twice" in sync.complaints(changed, pieces)


def test_unused_pieces_of_the_story_stay_for_a_person_to_decide(pieces) -> None:
    changed = SCRIPT.replace("# === STORY", "FLOOR = -LIMIT\n\n# === STORY")
    assert sync.synced(changed, pieces) == (changed, [])
    found = " ".join(sync.complaints(changed, pieces))
    assert "FLOOR is a common piece that is not used" in found


def test_appendices_are_made_and_removed(pieces) -> None:
    start = SCRIPT.index("# === APPENDIX")
    bare = SCRIPT[:start] + SCRIPT[SCRIPT.index("if __name__") :]
    bare = bare.replace("from math import exp\n", "import random\nfrom math import pi\n")
    bare = bare.replace("return softmax(scores)", "return step(softmax(scores), FLOOR)")
    mended, done = sync.synced(bare, pieces)
    headings = [line for line in mended.splitlines() if "APPENDIX" in line]
    titles = [sync.APPENDICES[name] for name in ("engine.py", "optim.py")]
    assert headings == [f"# === APPENDIX: {title} ===" for title in titles]
    assert "import math\nimport random\nfrom math import exp, pi\n" in mended
    names = [block.name for block in sync.blocks(mended)]
    assert names[-6:] == ["LIMIT", "FLOOR", "softmax", "Node", "sorted_by_name", "step"]
    assert "LIMIT = 709.0\nFLOOR = -LIMIT\n\n\ndef softmax" in mended
    assert sync.complaints(mended, pieces) == []

    unused = mended.replace("return step(softmax(scores), FLOOR)", "return scores")
    again, done = sync.synced(unused, pieces)
    assert "APPENDIX" not in again and len(done) == 6
    assert again.endswith('\n\n\nif __name__ == "__main__":\n    main()\n')


def test_imports_are_found_a_place(pieces) -> None:
    lines = ['"""Thesis."""', "", "x = 1"]
    assert sync.add_import(lines, sync.Import("math", ""))[1:] == ["", "import math", "", "x = 1"]
    lines = ["from __future__ import annotations", "", "import os", "from math import exp"]
    assert sync.add_import(lines, sync.Import("gzip", ""))[2:4] == ["import gzip", "import os"]
    assert sync.add_import(lines, sync.Import("zlib", ""))[3] == "import zlib"
    assert sync.add_import(lines, sync.Import("operator", "mul"))[4] == "from operator import mul"


# === THE COMMAND AND THE REAL PIECES ===


def copy_of_repository(folder: Path) -> Path:
    """A small repository with the tool, one common file and one script."""
    for name in ("common", "tools", "01-tier"):
        (folder / name).mkdir()
    shutil.copy(ROOT / "tools" / "sync.py", folder / "tools")
    (folder / "common" / "engine.py").write_text(ENGINE, encoding="utf-8")
    (folder / "01-tier" / "microsame.py").write_text(SCRIPT, encoding="utf-8")
    return folder


def call(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, str(folder / "tools" / "sync.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    return done.returncode, done.stdout + done.stderr


def test_the_command(tmp_path: Path) -> None:
    folder = copy_of_repository(tmp_path)
    script = folder / "01-tier" / "microsame.py"
    assert call(folder) == (0, "")
    script.write_text(SCRIPT.replace("709.0", "700.0"), encoding="utf-8")
    status, said = call(folder)
    assert status == 1 and "microsame.py: line" in said and "LIMIT" in said
    assert script.read_text(encoding="utf-8") != SCRIPT, "a check must not write"
    assert call(folder, "--write") == (0, "microsame.py: rewrote LIMIT\n")
    assert script.read_text(encoding="utf-8") == SCRIPT
    assert call(folder, "--write") == (0, "")
    assert call(folder, "no_such.py")[0] == 2


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_every_damage_to_a_real_script_is_seen(script: Path) -> None:
    pieces = sync.read_pieces(COMMON)
    text = script.read_text(encoding="utf-8")
    copies = [block for block in sync.blocks(text) if block.name in pieces]
    for block in copies:
        lines = text.splitlines()
        lines[block.stop - 1] += "  # changed"
        found = " ".join(sync.complaints("\n".join(lines) + "\n", pieces))
        assert f"{block.name} is no exact copy" in found
        del lines[block.first : block.stop]
        found = " ".join(sync.complaints("\n".join(lines) + "\n", pieces))
        assert f"{block.name} of common/" in found and "is missing" in found


def test_a_script_can_be_rebuilt_from_its_story() -> None:
    pieces = sync.read_pieces(COMMON)
    everything = "\n".join([f"    print({name})" for name in pieces])
    story = SCRIPT[: SCRIPT.index("# === APPENDIX")] + SCRIPT[SCRIPT.index("if __name__") :]
    story = story.replace("    return softmax(scores)", everything)
    mended, _ = sync.synced(story, pieces)
    assert sync.complaints(mended, pieces) == []
    defined = {block.name for block in sync.blocks(mended)}
    assert pieces.keys() <= defined
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=F,E,W,I"]
    style = ["--line-length=100", "--stdin-filename=x.py", "-"]
    done = subprocess.run(ruff + style, input=mended, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    ast.parse(mended)
