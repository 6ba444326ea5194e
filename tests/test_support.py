"""The helpers that other tests rely on: each accepts what is right and refuses what is wrong."""

from __future__ import annotations

import ast
import doctest
import math
from pathlib import Path

import pytest
import support
from support import (
    BarError,
    check_gradients,
    code_of,
    failed_bars,
    load_script,
    run_main,
    script_hash,
    scripts,
    twin,
)

from common.engine import Tensor

# === BARS ===

HEADLINE = {"nll": 2.3, "limit": 2.0, "exact": True, "steps": 100, "nan": math.nan, "zero": 0}


@pytest.mark.parametrize(
    "bar",
    [
        "nll <= 2.3",
        "nll - limit >= 0.1",
        "1.9 < limit < nll < 2.5",
        "abs(limit - nll) < 0.5 and exact",
        "not exact or max(nll, limit) == nll",
        "exact",
        "exact == True",
        "steps % 10 == 0",
        "-nll < 0",
        "round(nll) == 2",
        "nll <= 1.2 * limit ** 1 + steps // 1000",
    ],
)
def test_bars_that_are_met(bar: str) -> None:
    assert failed_bars(HEADLINE, [bar]) == []


@pytest.mark.parametrize(
    "bar",
    [
        "nll <= 2.29",
        "nll < limit or steps < 100",
        "limit < nll < 2.2",
        "not exact",
        "nan <= 3",
        "nan >= 3",
        "nan != 1",
        "not nan > 3",
        "exact or nan > 3",
        "nll / zero > 1",
        "10.0 ** (steps * steps) > nll",
    ],
)
def test_bars_that_are_failed(bar: str) -> None:
    assert failed_bars(HEADLINE, ["nll > 0", bar]) == [bar]


@pytest.mark.parametrize(
    "bar",
    [
        "loss <= 2.3",
        "exact or loss <= 2.3",
        "nll",
        "nll - limit",
        "1 < 2",
        "nll <=",
        "nll <= '3'",
        "nll.real < 3",
        "(lambda: nll)() < 3",
        "print(nll) < 3",
        "[nll] < [3]",
        "__import__('os').system('true') == nll",
        "nll in (1, 2)",
        "nll; limit",
    ],
)
def test_bars_that_cannot_be_read(bar: str) -> None:
    with pytest.raises(BarError):
        failed_bars(HEADLINE, [bar])


# === SCRIPTS AND TWINS ===

SCRIPT = """
STEPS = 10


def learn(steps):
    return 1.0 / steps


def main():
    print("hello")
    return {"loss": learn(STEPS), "details": "more"}
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "microlearn.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def test_each_call_loads_a_fresh_module(script: Path) -> None:
    first, second = load_script(script), load_script(script)
    first.STEPS = 20
    assert (first.main()["loss"], second.main()["loss"]) == (0.05, 0.1)


def test_names_of_scripts() -> None:
    for path in support.scripts():
        assert support.script_path(path.stem) == path
    with pytest.raises(LookupError):
        support.script_path("micronothing")


def test_scripts_are_found_by_place_and_name(tmp_path: Path) -> None:
    for name in ("01-a/microb.py", "02-c/microa.py", "01-a/helper.py", "tools/microc.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.stem for path in support.scripts(tmp_path)] == ["microb", "microa"]


def test_the_hash_of_a_script_does_not_depend_on_the_checkout(tmp_path: Path) -> None:
    for name, content in (("a.py", b"x\ny\n"), ("b.py", b"x\r\ny\r\n"), ("c.py", b"x\nz\n")):
        (tmp_path / name).write_bytes(content)
    one, same, other = [support.script_hash(tmp_path / f"{name}.py") for name in "abc"]
    assert one == same != other


def test_main_runs_changed_and_in_silence(script: Path, capsys) -> None:
    assert run_main(script, {"STEPS": 4}) == {"loss": 0.25, "details": "more"}
    assert run_main(script, {"learn": lambda steps: 7.0})["loss"] == 7.0
    assert capsys.readouterr().out == ""
    with pytest.raises(AttributeError, match="no STEP"):
        run_main(script, {"STEP": 4})


def test_twins(script: Path) -> None:
    broken = {"learn": lambda steps: 1.0}
    twin(script, "loss <= 0.2", broken)
    twin(script, "loss <= 0.5", broken, smaller={"STEPS": 2})
    with pytest.raises(AssertionError, match="broken twin meets"):
        twin(script, "loss <= 1.0", broken)
    with pytest.raises(AssertionError, match="honest script itself fails"):
        twin(script, "loss <= 0.2", broken, smaller={"STEPS": 2})
    with pytest.raises(BarError):
        twin(script, "los <= 0.2", broken)


def test_missing_declarations_and_records_say_what_to_do() -> None:
    with pytest.raises(LookupError, match="write it"):
        support.declarations("micronothing")
    with pytest.raises(LookupError, match="tools/bench.py"):
        support.record("micronothing")


# === GRADIENTS ===

A = [[0.3, -1.2, 0.7], [1.1, 0.4, -0.6]]
B = [[0.9, 0.1, -0.5], [-0.2, 0.8, 1.3]]


def square(x: Tensor, slope: float = 2.0, shift: float = 0.0) -> Tensor:
    """x * x, with a gradient that may be wrong."""

    def pass_back(d_out: list[list[float]]) -> tuple:
        rows = zip(d_out, x.data)
        return ([[slope * v * d + shift for d, v in zip(*row)] for row in rows],)

    return Tensor([[v * v for v in row] for row in x.data], (x,), pass_back)


def test_right_gradients_pass() -> None:
    assert check_gradients(square, A) < 1e-8
    check_gradients(lambda a, b: a * b - square(a), A, B)
    check_gradients(lambda a, b: a * b, Tensor(A), Tensor(B, requires_grad=False))
    check_gradients(square, A, tensor=Tensor)
    check_gradients(lambda a, unused: square(a), A, B)


def test_wrong_gradients_are_seen() -> None:
    for wrong in ({"slope": 2.00001}, {"shift": 1e-5}, {"slope": -2.0}, {"slope": math.nan}):
        with pytest.raises(AssertionError, match="central differences"):
            check_gradients(lambda x, wrong=wrong: square(x, **wrong), A)
    check_gradients(lambda x: square(x, slope=2.00001), A, tolerance=1e-3)

    with pytest.raises(AssertionError, match="another shape"):
        check_gradients(turned, A)


def turned(x: Tensor) -> Tensor:
    """x itself; its gradient comes back with rows and columns exchanged."""
    return Tensor(
        [list(row) for row in x.data], (x,), lambda d_out: (list(map(list, zip(*d_out))),)
    )


def test_a_gradient_that_gets_lost_is_seen() -> None:
    with pytest.raises(AssertionError, match="central differences"):
        check_gradients(lambda x: Tensor(square(x).data) + square(x), A)
    with pytest.raises(AssertionError, match="central differences"):
        check_gradients(lambda a, b: square(a) + Tensor(square(b).data), A, B)


def test_useless_checks_are_refused() -> None:
    with pytest.raises(AssertionError, match="check nothing"):
        check_gradients(lambda x: x * 0.0, A)

    def forgetful(x: Tensor, calls: list[int] = []) -> Tensor:  # noqa: B006 (counts the calls)
        calls.append(1)
        return x * float(len(calls))

    with pytest.raises(AssertionError, match="random numbers"):
        check_gradients(forgetful, A)


def test_inputs_changed_in_place_are_seen() -> None:
    def destroys(x: Tensor) -> Tensor:
        def pass_back(d_out: list[list[float]]) -> tuple:
            x.data[0][0] += 1.0
            return (d_out,)

        return Tensor([list(row) for row in x.data], (x,), pass_back)

    with pytest.raises(AssertionError, match="changed in place"):
        check_gradients(destroys, [list(row) for row in A])


def test_a_gradient_for_what_wants_none_is_seen() -> None:
    frozen = Tensor(A, requires_grad=False)

    def insists(x: Tensor, fixed: Tensor) -> Tensor:
        fixed.grad = [[1.0]]
        return square(x)

    with pytest.raises(AssertionError, match="wants no gradient"):
        check_gradients(insists, B, frozen)


# === WHAT OF A SCRIPT ITS RECORD DEPENDS ON ===


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(support).failed == 0


def meaning(source: str) -> str:
    """The program's syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, support.DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or ast.parse("...").body
    return ast.dump(tree)


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_the_code_without_words_is_the_same_program(script: Path):
    source = script.read_text(encoding="utf-8")
    code = code_of(source)
    assert meaning(code) == meaning(source)
    assert code_of(code) == code and len(code) < 0.8 * len(source)


SAME = [
    "x = 1\n",
    "x = 1  # one\n",
    "# a heading\n\n\nx = 1",
    '"""Words.\n\nMore.\n"""\nx = 1\n',
    '"""Other words."""  # and a comment\nx = 1\n',
]
OTHER = [
    "x = 2\n",
    "x = 1; y = 2\n",
    "y = 1\n",
    "x = 1\n1\n",
    "x = '1'\n",
    "x = (\n",
    'x = "# one"\n',
]
TEXT = 'x = """a\n\n# b  \n"""\n'


def hash_of(tmp_path: Path, source: str) -> str:
    path = tmp_path / "script.py"
    path.write_bytes(source.encode("utf-8"))
    return script_hash(path)


def test_words_do_not_count_and_code_does(tmp_path: Path):
    assert len({hash_of(tmp_path, source) for source in SAME}) == 1
    assert len({hash_of(tmp_path, source) for source in [SAME[0], *OTHER]}) == 1 + len(OTHER)
    crlf = SAME[3].replace("\n", "\r\n")
    assert hash_of(tmp_path, crlf) == hash_of(tmp_path, SAME[0])


def test_strings_of_several_lines_count_to_the_letter(tmp_path: Path):
    assert code_of(TEXT) == TEXT
    for changed in (
        TEXT.replace("\n\n", "\n"),
        TEXT.replace("b  ", "b"),
        TEXT.replace("# b", "# c"),
    ):
        assert hash_of(tmp_path, changed) != hash_of(tmp_path, TEXT)


def test_a_docstring_that_is_all_of_a_body_leaves_a_body():
    code = code_of('class Gone(Exception):\n    """Nothing else."""\n\n\ndef f(): "words"\n')
    assert code == "class Gone(Exception):\n    ...\ndef f(): ...\n"
