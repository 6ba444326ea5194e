"""What the tests and tools share: paths, loading scripts, bars, records, gradient checks."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib.util
import io
import json
import math
import operator
import random
import sys
import tokenize
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
DATA = ROOT / "data"
COMMON = ROOT / "common"
RESULTS = ROOT / "results"
DEFAULT_SEEDS = (42, 1, 2)


# === SCRIPTS ===


def scripts(root: Path = ROOT) -> list[Path]:
    """Every script of the collection, found by its place and name."""
    return sorted(root.glob("0?-*/micro*.py"))


def common_files(root: Path = ROOT) -> list[Path]:
    """Every file that holds common pieces."""
    return sorted((root / "common").glob("*.py"))


def script_path(name: str) -> Path:
    """The path of a script: script_path("microgpt") is 01-foundations/microgpt.py."""
    found = [path for path in scripts() if path.stem == name]
    if len(found) != 1:
        raise LookupError(f"{len(found)} scripts are called {name}.py in the tier folders")
    return found[0]


def load_script(name: str | Path) -> ModuleType:
    """Import a script by name or path; each call gives a fresh module, so changes stay apart."""
    path = name if isinstance(name, Path) else script_path(name)
    # A process that a script starts (microparallel) imports it by name from its own folder.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    return load_module(path.stem, path)


def load_module(name: str, path: Path) -> ModuleType:
    """Import the file at path as a module of this name."""
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up here
    spec.loader.exec_module(module)
    return module


def code_of(source: str) -> str:
    """A program's text without its comments, docstrings and blank lines: what its runs depend on.

    So an explanation can be mended without running everything again. It is the same text on every
    version of Python.

    >>> code_of("x = '# no comment'  # a comment\\n\\n\\ndef f():\\n    'Words.'\\n    return x\\n")
    "x = '# no comment'\\ndef f():\\n    return x\\n"
    """
    tree = ast.parse(source)
    lines = source.split("\n")
    verbatim: set[int] = set()  # numbers of the lines that lie in a string of several lines
    docstrings = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and node.end_lineno > node.lineno:
            verbatim.update(range(node.lineno, node.end_lineno + 1))
        body = getattr(node, "body", None)
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            docstrings.append((body[0].value, "..." if len(body) == 1 else ""))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node, stand_in in docstrings:
        first, last = node.lineno - 1, node.end_lineno - 1
        before = lines[first].encode()[: node.col_offset].decode()
        after = lines[last].encode()[node.end_col_offset :].decode()
        lines[first : last + 1] = [before + stand_in + after] + [""] * (last - first)
        verbatim.difference_update(range(first + 1, last + 2))
    kept = [
        line if number in verbatim else line.rstrip()
        for number, line in enumerate(lines, 1)
        if number in verbatim or line.strip()
    ]
    return "\n".join([*kept, ""])


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def script_hash(path: Path) -> str:
    """The sha256 of a script's code: its text without comments, docstrings and blank lines."""
    source = path.read_bytes().replace(b"\r\n", b"\n")
    try:
        source = code_of(source.decode("utf-8")).encode("utf-8")
    except (SyntaxError, ValueError):
        pass  # it cannot run: any text will do
    return hashlib.sha256(source).hexdigest()


# === BARS AND RECORDS ===


class BarError(ValueError):
    """A bar that cannot be read: it names a number that is not there, or is no comparison."""


OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
FUNCTIONS: dict[str, Callable] = {"abs": abs, "max": max, "min": min, "round": round}


def evaluate(expression: str, numbers: Mapping[str, Any]) -> Any:
    """The value of arithmetic, comparisons and abs, max, min, round over named numbers."""

    def value_of(node: ast.AST) -> Any:
        match node:
            case ast.Expression():
                return value_of(node.body)
            case ast.Constant(value=bool() | int() | float()):
                return node.value
            case ast.Name():
                if node.id not in numbers:
                    raise BarError(f"{expression!r} names {node.id}, which main() does not return")
                return numbers[node.id]
            case ast.UnaryOp():
                return OPERATORS[type(node.op)](value_of(node.operand))
            case ast.BinOp():
                return OPERATORS[type(node.op)](value_of(node.left), value_of(node.right))
            case ast.BoolOp():
                every = [value_of(part) for part in node.values]  # all: a wrong name must show
                return all(every) if isinstance(node.op, ast.And) else any(every)
            case ast.Compare():
                values = [value_of(node.left), *map(value_of, node.comparators)]
                pairs = zip(node.ops, values, values[1:])
                return all([OPERATORS[type(op)](left, right) for op, left, right in pairs])
            case ast.Call(func=ast.Name(id=name), keywords=[]) if name in FUNCTIONS:
                return FUNCTIONS[name](*map(value_of, node.args))
        raise BarError(f"{expression!r}: a bar cannot hold {ast.unparse(node)!r}")

    try:
        return value_of(ast.parse(expression, mode="eval"))
    except (SyntaxError, KeyError, TypeError) as problem:
        raise BarError(f"{expression!r} cannot be read: {problem}") from problem


def failed_bars(headline: Mapping[str, Any], bars: Iterable[str]) -> list[str]:
    """The bars that the headline numbers do not meet, to the letter.

    A bar over a number that is not a number (NaN) is failed, and so is a division by zero.
    A bar that names a missing number, or that is no yes-or-no question, raises BarError.
    """
    failed = []
    for bar in bars:
        try:
            met = evaluate(bar, headline)
        except (ZeroDivisionError, OverflowError):
            met = False
        if not isinstance(met, bool):
            raise BarError(f"{bar!r} is not a comparison")
        names = {node.id for node in ast.walk(ast.parse(bar)) if isinstance(node, ast.Name)}
        used = [headline[name] for name in names if name in headline]
        if not used:
            raise BarError(f"{bar!r} names none of the headline numbers")
        if not met or any([isinstance(value, float) and math.isnan(value) for value in used]):
            failed.append(bar)
    return failed


def headline_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What main() returned, without the details."""
    return {key: value for key, value in result.items() if key != "details"}


def record(name: str) -> dict[str, Any]:
    """The recorded run of a script, as tools/bench.py wrote it."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        raise LookupError(f"results/{name}.json is missing: run python3 tools/bench.py {name}")
    return json.loads(path.read_text(encoding="utf-8"))


def declarations(name: str) -> SimpleNamespace:
    """BARS, VARIANTS, TWINS and SEEDS, as tests/test_<script>.py declares them."""
    path = TESTS / f"test_{name}.py"
    if not path.exists():
        raise LookupError(f"tests/test_{name}.py is missing: write it, with BARS, VARIANTS, TWINS")
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    module = load_module(f"declarations_of_{name}", path)
    wanted = {key: getattr(module, key, None) for key in ("BARS", "VARIANTS", "TWINS")}
    return SimpleNamespace(**wanted, SEEDS=getattr(module, "SEEDS", DEFAULT_SEEDS))


# === TWINS ===


def changed_script(name: str | Path, changes: Mapping[str, Any]) -> ModuleType:
    """A fresh module of the script in which the named attributes have new values."""
    module = load_script(name)
    for attribute, value in changes.items():
        if not hasattr(module, attribute):  # else a typing error would leave the script as it is
            raise AttributeError(f"{module.__name__}.py has no {attribute} that could be changed")
        setattr(module, attribute, value)
    return module


def run_main(name: str | Path, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Call main() of a script with some of its attributes changed, in silence."""
    module = changed_script(name, changes or {})
    with contextlib.redirect_stdout(io.StringIO()):
        return module.main()


def twin(
    name: str | Path,
    bar: str,
    broken: Mapping[str, Any],
    smaller: Mapping[str, Any] | None = None,
) -> None:
    """Assert that a broken twin fails a bar which the honest script meets at the same size.

    broken: {attribute of the script: what breaks it}; smaller: constants that make both run fast.
    Only what the script makes smaller may be changed for both, so that the break is all that
    differs between them.
    """
    honest = headline_of(run_main(name, smaller))
    assert not failed_bars(honest, [bar]), f"the honest script itself fails {bar!r}: {honest}"
    twin_headline = headline_of(run_main(name, {**(smaller or {}), **broken}))
    assert failed_bars(twin_headline, [bar]), f"the broken twin meets {bar!r}: {twin_headline}"


# === GRADIENTS ===


def check_gradients(
    function: Callable,
    *inputs: Any,
    tolerance: float = 1e-6,
    tensor: type | None = None,
    width: float = 1e-5,
    seed: int = 0,
) -> float:
    """Assert that backward() gives the gradients of function that central differences give.

    function takes as many Tensors as there are inputs and returns one Tensor of any shape. Its
    entries are summed with fixed random weights to one number; each entry of each input is then
    moved by plus and minus width. An input is a list of rows or a Tensor (a script's own, say);
    one with requires_grad=False must receive no gradient. Lists become Tensors of the class
    `tensor`, by default that of common/engine.py. Returns the largest difference found, each
    relative to the larger of 1 and the derivative.
    """
    if tensor is None and not all([hasattr(given, "data") for given in inputs]):
        from common.engine import Tensor as tensor
    leaves = [given if hasattr(given, "data") else tensor(given) for given in inputs]
    start = [[list(row) for row in leaf.data] for leaf in leaves]
    for leaf in leaves:
        leaf.grad = None

    out = function(*leaves)
    rng = random.Random(seed)
    weights = [[rng.uniform(0.5, 1.5) * rng.choice((-1, 1)) for _ in row] for row in out.data]

    def weighted_sum(matrix: list[list[float]]) -> float:
        pairs = [(w, x) for ws, xs in zip(weights, matrix) for w, x in zip(ws, xs)]
        return math.fsum([w * x for w, x in pairs])

    def value_at(which: int, moved: list[list[float]]) -> float:
        data = [moved if index == which else rows for index, rows in enumerate(start)]
        fresh = [type(leaf)(rows, requires_grad=False) for leaf, rows in zip(leaves, data)]
        return weighted_sum(function(*fresh).data)

    value = weighted_sum(out.data)
    assert value_at(-1, []) == value, "two calls differ: fix the function's random numbers"
    out.backward(weights)
    assert [leaf.data for leaf in leaves] == start, "an input was changed in place"

    worst, steepest = 0.0, 0.0
    for which, leaf in enumerate(leaves):
        if not leaf.requires_grad:
            assert leaf.grad is None, f"input {which} wants no gradient and has received one"
            continue
        grad = leaf.grad or [[0.0] * len(row) for row in leaf.data]  # not reached: all zero
        shapes = [[len(row) for row in matrix] for matrix in (grad, leaf.data)]
        assert shapes[0] == shapes[1], f"the gradient of input {which} has another shape"
        for i, row in enumerate(start[which]):
            for j, centre in enumerate(row):
                ends = []
                for sign in (1, -1):
                    moved = [list(line) for line in start[which]]
                    moved[i][j] = centre + sign * width
                    ends.append(value_at(which, moved))
                slope = (ends[0] - ends[1]) / (2 * width)
                error = abs(grad[i][j] - slope) / max(1.0, abs(slope), abs(grad[i][j]))
                assert error <= tolerance, (  # not (NaN <= tolerance), so NaN fails
                    f"input {which}, entry [{i}][{j}]: backward gives {grad[i][j]!r}, "
                    f"central differences {slope!r}"
                )
                worst, steepest = max(worst, error), max(steepest, abs(slope))
    assert steepest > 0.0, "every derivative is zero: these inputs check nothing"
    return worst
