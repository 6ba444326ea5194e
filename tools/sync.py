#!/usr/bin/env python3
"""Check that the common pieces in the scripts are exact copies of those in common/.

    python3 tools/sync.py                    say what differs; exit status 1 if anything does
    python3 tools/sync.py --write            mend it: rewrite copies, add and remove pieces
    python3 tools/sync.py --write PATH ...   the same for these scripts only

A piece is a top-level function, class or assignment to one name in a file of common/, together
with the comment lines directly above it. A script holds exactly the pieces that it uses. Pieces
may stand anywhere in it; those that --write adds go to the appendix of their file.
"""

from __future__ import annotations

import ast
import re
import symtable
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
HEADING = re.compile(r"# === (.+) ===")

# The appendices in the order in which they stand in a script, and how they are headed.
APPENDICES = {
    "engine.py": "ENGINE (common/engine.py; microautograd.py derives it)",
    "optim.py": "OPTIMISER (common/optim.py; microoptimizer.py explains it)",
    "language_model.py": "LANGUAGE MODEL (common/language_model.py; microgpt.py explains it)",
    "data.py": "DATA (common/data.py)",
    "pictures.py": "PICTURES (common/pictures.py)",
}


class Block(NamedTuple):
    """A top-level definition as it stands in a file: lines [first, stop), counted from 0."""

    name: str
    first: int
    stop: int
    lines: list[str]


class Import(NamedTuple):
    """`import module` (name is empty) or `from module import name`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"from {self.module} import {self.name}" if self.name else f"import {self.module}"


class Piece(NamedTuple):
    """A common piece and what it needs: other names of common/, and imports."""

    name: str
    file: str
    place: int
    lines: list[str]
    uses: set[str]
    imports: set[Import]


# === READING ===


def blocks(text: str) -> list[Block]:
    """The top-level functions, classes and assignments to one name, with the comments above."""
    lines = text.splitlines()
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name, start = node.name, min([node, *node.decorator_list], key=lambda n: n.lineno)
        elif isinstance(node, ast.Assign) and len(node.targets) == 1:
            name, start = getattr(node.targets[0], "id", None), node
        elif isinstance(node, ast.AnnAssign):
            name, start = getattr(node.target, "id", None), node
        else:
            continue
        if name is None:
            continue
        first = start.lineno - 1
        while first and lines[first - 1].startswith("#") and not HEADING.match(lines[first - 1]):
            first -= 1
        found.append(Block(name, first, node.end_lineno, lines[first : node.end_lineno]))
    return found


def global_names(text: str) -> set[str]:
    """The module's names that this text refers to; names of a function's own do not count."""
    # The future import would hide the names in annotations.
    lines = ["" if line.startswith("from __future__") else line for line in text.splitlines()]

    def collect(table: symtable.SymbolTable) -> set[str]:
        top = table.get_type() == "module"
        symbols = [s for s in table.get_symbols() if s.is_referenced() and (top or s.is_global())]
        return {s.get_name() for s in symbols}.union(*map(collect, table.get_children()))

    return collect(symtable.symtable("\n".join(lines) + "\n", "text", "exec"))


def bound_otherwise(text: str, known: Iterable[str]) -> set[str]:
    """The names that the module's top level binds, other than as blocks."""
    top = symtable.symtable(text, "text", "exec")
    bound = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    return bound - set(known)


def imports_of(text: str) -> dict[str, Import]:
    """The names that top-level imports bind: {"exp": Import("math", "exp")}."""
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.split(".")[0]] = Import(alias.name, "")
        elif isinstance(node, ast.ImportFrom) and node.module != "__future__":
            for alias in node.names:
                found[alias.asname or alias.name] = Import(node.module or "", alias.name)
    return found


def read_pieces(folder: Path = ROOT / "common") -> dict[str, Piece]:
    """All common pieces by name."""
    pieces: dict[str, Piece] = {}
    for path in sorted(folder.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        outside = {k: v for k, v in imports_of(text).items() if v.module.split(".")[0] != "common"}
        for place, block in enumerate(blocks(text)):
            if block.name in pieces:
                both = f"{pieces[block.name].file} and {path.name}"
                raise ValueError(f"common/: {block.name} stands twice, in {both}")
            names = global_names("\n".join(block.lines)) - {block.name}
            needed = {outside[name] for name in names if name in outside}
            pieces[block.name] = Piece(block.name, path.name, place, block.lines, names, needed)
    return pieces


def needed_pieces(text: str, pieces: Mapping[str, Piece]) -> set[str]:
    """The pieces that the script's own code uses, directly or through other pieces."""
    lines = text.splitlines()
    for block in blocks(text):
        if block.name in pieces:
            lines[block.first : block.stop] = [""] * (block.stop - block.first)
    found: set[str] = set()
    waiting = global_names("\n".join(lines)) & pieces.keys()
    while waiting:
        name = waiting.pop()
        found.add(name)
        waiting |= (pieces[name].uses & pieces.keys()) - found
    return found


# === CHECKING ===


class State(NamedTuple):
    """What is wrong with a script's common pieces."""

    different: list[Block]
    twice: list[str]
    otherwise: list[str]
    unused: list[Block]
    missing: list[Piece]
    imports: list[Import]


def examine(text: str, pieces: Mapping[str, Piece]) -> State:
    """Compare a script with the common pieces."""
    own = blocks(text)
    copies = [block for block in own if block.name in pieces]
    names = [block.name for block in copies]
    needed = needed_pieces(text, pieces)
    have = set(imports_of(text).values())
    wanted = set().union(*[pieces[name].imports for name in needed & set(pieces)])
    return State(
        different=[block for block in copies if block.lines != pieces[block.name].lines],
        twice=sorted({name for name in names if names.count(name) > 1}),
        otherwise=sorted(bound_otherwise(text, [block.name for block in own]) & pieces.keys()),
        unused=[block for block in copies if block.name not in needed],
        missing=sorted(
            [pieces[name] for name in needed - set(names)], key=lambda p: (p.file, p.place)
        ),
        imports=sorted(wanted - have),
    )


def complaints(text: str, pieces: Mapping[str, Piece]) -> list[str]:
    """What is wrong with a script's common pieces, one sentence each."""
    state = examine(text, pieces)
    said = []
    for block in state.different:
        piece = pieces[block.name]
        why = "is no exact copy of"
        if len(block.lines) > len(piece.lines) and block.lines[-len(piece.lines) :] == piece.lines:
            why = "has a comment directly above that is not in"
        said.append(f"line {block.first + 1}: {block.name} {why} common/{piece.file}")
    said += [f"{name} is defined twice" for name in state.twice]
    for name in state.otherwise:
        said.append(f"{name} is the name of a piece in common/{pieces[name].file}: use another")
    for block in state.unused:
        said.append(f"line {block.first + 1}: {block.name} is a common piece that is not used")
    said += [f"{piece.name} of common/{piece.file} is missing" for piece in state.missing]
    return said + [f"the common pieces need `{needed}`" for needed in state.imports]


# === MENDING ===


def gap(before: list[str], after: list[str]) -> int:
    """How many blank lines stand between the last of these lines and the first of those."""
    code = [line for line in after if not line.startswith("#")][:1] or [""]
    assignment = not re.match(r"(def|class|async|if|@)\b|@|$", code[0])
    if HEADING.match(after[0]) or not assignment:
        return 2
    if before[-1].startswith("#"):
        return 1
    if before[-1].startswith(" "):  # the body of a function or a class
        return 2
    return 1 if after[0].startswith("#") else 0


def put(lines: list[str], first: int, stop: int, new: list[str]) -> list[str]:
    """Replace lines [first, stop) by new ones, with the right blank lines around."""
    before, after = lines[:first], lines[stop:]
    while before and not before[-1].strip():
        before.pop()
    while after and not after[0].strip():
        after.pop(0)
    for part in (new, after):
        if part:
            before = before + [""] * gap(before, part) + part
    return before


def appendices(lines: list[str]) -> list[tuple[str, int, int]]:
    """(title, first, stop) of the appendix sections; the last ends before the last lines."""
    ends = [i for i, line in enumerate(lines) if line.startswith("if __name__ ==")]
    end = ends[-1] if ends else len(lines)
    starts = [i for i, line in enumerate(lines[:end]) if HEADING.fullmatch(line)]
    found = [
        (HEADING.fullmatch(lines[first]).group(1), first, stop)
        for first, stop in zip(starts, [*starts[1:], end])
    ]
    return [section for section in found if section[0].startswith("APPENDIX")]


def add_piece(lines: list[str], piece: Piece, pieces: Mapping[str, Piece]) -> list[str]:
    """Put a missing piece into the appendix of its file, in the order of that file."""
    sections = appendices(lines)
    for title, first, stop in sections:
        if f"common/{piece.file}" not in title:
            continue
        for block in blocks("\n".join(lines)):
            other = pieces.get(block.name)
            inside = first < block.first < stop
            if inside and other and other.file == piece.file and other.place > piece.place:
                return put(lines, block.first, block.first, piece.lines)
        return put(lines, stop, stop, piece.lines)

    order = list(APPENDICES)
    rank = order.index(piece.file) if piece.file in order else len(order)
    place = next((i for i, line in enumerate(lines) if line.startswith("if __name__ ==")), None)
    place = len(lines) if place is None else place
    for title, first, _ in reversed(sections):
        if any([f"common/{later}" in title for later in order[rank + 1 :]]):
            place = first
    title = APPENDICES.get(piece.file, f"{Path(piece.file).stem.upper()} (common/{piece.file})")
    heading = [f"# === APPENDIX: {title} ==="]
    return put(lines, place, place, heading + [""] * gap(heading, piece.lines) + piece.lines)


def add_import(lines: list[str], needed: Import) -> list[str]:
    """Put an import where import sorting wants it."""
    nodes = [
        node
        for node in ast.parse("\n".join(lines)).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    for node in nodes:
        same = isinstance(node, ast.ImportFrom) and node.module == needed.module
        if needed.name and same and not any([alias.asname for alias in node.names]):
            # Import sorting puts CONSTANTS before Classes before functions.
            names = {needed.name, *[alias.name for alias in node.names]}
            names = sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
            line = f"from {needed.module} import {', '.join(names)}"
            if len(line) <= 100:
                return lines[: node.lineno - 1] + [line] + lines[node.end_lineno :]
    key = (bool(needed.name), needed.module)
    others = [node for node in nodes if getattr(node, "module", "") != "__future__"]
    for node in others:
        from_module = isinstance(node, ast.ImportFrom)
        if (from_module, node.module if from_module else node.names[0].name) > key:
            return lines[: node.lineno - 1] + [str(needed)] + lines[node.lineno - 1 :]
    if others:
        return lines[: others[-1].end_lineno] + [str(needed)] + lines[others[-1].end_lineno :]
    body = ast.parse("\n".join(lines)).body
    start = nodes[-1].end_lineno if nodes else body[0].end_lineno  # behind the docstring
    return lines[:start] + ["", str(needed)] + lines[start:]


def in_appendix(lines: list[str], block: Block) -> tuple[str, int, int] | None:
    """The appendix of common pieces that a block stands in, if it does."""
    for section in appendices(lines):
        if section[1] < block.first < section[2] and "common/" in section[0]:
            return section
    return None


def remove(lines: list[str], block: Block) -> list[str]:
    """Take out a block; and its appendix with it, if nothing else stands there."""
    _, first, stop = in_appendix(lines, block)
    rest = lines[first : block.first] + lines[block.stop : stop]
    if all([not line.strip() or line.startswith("#") for line in rest]):
        return put(lines, first, stop, [])
    return put(lines, block.first, block.stop, [])


def synced(text: str, pieces: Mapping[str, Piece]) -> tuple[str, list[str]]:
    """The mended script and what was done; what a program should not decide stays as it is."""
    done = []
    lines = text.splitlines()
    for block in reversed(examine(text, pieces).different):  # from the end: lines stay in place
        piece = pieces[block.name]
        new = piece.lines
        if len(block.lines) > len(new) and block.lines[-len(new) :] == new:
            own = block.lines[: -len(new)]  # a comment of the script's own: keep it apart
            new = own + [""] * gap(own, new) + new
        lines[block.first : block.stop] = new
        done.append(f"rewrote {block.name}")
    for block in reversed(examine("\n".join(lines), pieces).unused):
        if in_appendix(lines, block):
            lines = remove(lines, block)
            done.append(f"removed {block.name}, which is not used")
    state = examine("\n".join(lines), pieces)
    for piece in state.missing:
        lines = add_piece(lines, piece, pieces)
        done.append(f"added {piece.name}")
    for needed in state.imports:
        lines = add_import(lines, needed)
        done.append(f"added `{needed}`")
    return "\n".join(lines) + "\n", done


def main(arguments: list[str]) -> int:
    """Check or mend the scripts; the exit status is 1 if something is wrong and stays so."""
    write = "--write" in arguments
    paths = [Path(argument) for argument in arguments if argument != "--write"]
    unknown = [str(path) for path in paths if not path.is_file()]
    if unknown:
        print(f"no such file: {', '.join(unknown)}", file=sys.stderr)
        return 2
    pieces = read_pieces()
    status = 0
    for path in paths or sorted(ROOT.glob("0?-*/micro*.py")):
        text = path.read_text(encoding="utf-8")
        if write:
            text, done = synced(text, pieces)
            if done:
                path.write_text(text, encoding="utf-8", newline="\n")
            for action in done:
                print(f"{path.name}: {action}")
        for complaint in complaints(text, pieces):
            print(f"{path.name}: {complaint}")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
