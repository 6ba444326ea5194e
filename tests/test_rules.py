"""The rules themselves: a good script passes each, and each refuses a bad one."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import pytest
import rules
from support import script_hash

GOOD = '''"""A coin that remembers its throws has learned its bias.

Left out: coins that stand on their edge.

Diaconis, Holmes, Montgomery, "Dynamical Bias in the Coin Toss", 2007.
"""

from __future__ import annotations

import random

# === CONSTANTS ===

SEED = 42
NUM_THROWS = 100  # throws; enough to tell 0.7 from 0.5

# === THE COIN ===

# A coin is one number, the chance of heads.


def throw(bias: float, rng: random.Random) -> int:
    """1 for heads, with probability bias."""
    return int(rng.random() < bias)


# === MAIN ===

# Throw, count, and compare.


def main() -> dict[str, float]:
    """Estimate the bias."""
    rng = random.Random(SEED)
    heads = sum(throw(0.7, rng) for _ in range(NUM_THROWS))
    print(f"share of heads {heads / NUM_THROWS:.2f}")
    return {"share": heads / NUM_THROWS}


# === APPENDIX: HELPERS ===


def percent(share: float) -> str:
    """0.5 -> 50%."""
    return f"{share:.0%}"


if __name__ == "__main__":
    main()
'''

COIN = '    """1 for heads, with probability bias."""\n'
BODY = "    return int(rng.random() < bias)\n"
LONG_BODY = "".join([f"    a{i} = bias\n" for i in range(46)])
AIRY_BODY = "".join([f"    # {i}\n" for i in range(60)])
MANY_LINES = "".join([f"# line {i}\n" for i in range(400)])
MUCH_CODE = "".join([f"x{i} = 0\n" for i in range(250)])

# rule -> what to replace in GOOD, by what, and a word of the complaint that must follow
BAD: dict[str, list[tuple[str, str, str]]] = {
    "standard_library_only": [
        ("import random\n", "import numpy\nimport random\n", "numpy"),
        ("import random\n", "import random\nfrom common.engine import dot\n", "common"),
        ("import random\n", "import random\nfrom . import helper\n", "helper"),
        ("import random\n", "import imp\nimport random\n", "every Python"),
        ("import random\n", "import importlib.util\nimport random\n", "cannot see"),
        ("import random\n", "import random\nfrom ctypes import CDLL\n", "cannot see"),
        (BODY, "    import torch\n" + BODY, "torch"),
        (BODY, "    __import__('torch')\n" + BODY, "__import__"),
        (BODY, "    exec('import torch')\n" + BODY, "exec"),
        (BODY, "    eval('1')\n" + BODY, "eval"),
        (BODY, "    import os\n    os.system('pip')\n" + BODY, "os.system"),
    ],
    "runs_on_the_oldest_python": [
        ("import random\n", "import random\nimport tomllib\n", "tomllib"),
        (BODY, "    import math\n    math.sumprod([1], [2])\n" + BODY, "3.12"),
        (BODY, "    try:\n        pass\n    except* ValueError:\n        pass\n" + BODY, "3.1"),
        (BODY, "    return (\n", "line"),
    ],
    "no_threads": [
        ("import random\n", "import random\nimport threading\n", "threading"),
        ("import random\n", "import random\nfrom concurrent import futures\n", "concurrent"),
        ("import random\n", "import random\nfrom multiprocessing import pool\n", "pool"),
    ],
    "no_knobs_but_the_constants": [
        ("import random\n", "import argparse\nimport random\n", "argparse"),
        (BODY, "    import sys\n    print(sys.argv)\n" + BODY, "sys.argv"),
        ("import random\n", "import random\nfrom os import environ\n", "environ"),
        (BODY, "    import os\n    os.environ.get('N')\n" + BODY, "os.environ"),
        (BODY, "    input('? ')\n" + BODY, "input"),
        (BODY, "    breakpoint()\n" + BODY, "breakpoint"),
    ],
    "files_name_their_encoding": [
        (BODY, "    open('x')\n" + BODY, "open"),
        (BODY, "    open('x', 'w')\n" + BODY, "open"),
        (BODY, "    path.open('r')\n" + BODY, "open"),
        (BODY, "    path.read_text()\n" + BODY, "read_text"),
        (BODY, "    gzip.open('x', 'rt')\n" + BODY, "open"),
    ],
    "downloads_have_a_timeout": [(BODY, "    urllib.request.urlopen(url)\n" + BODY, "timeout")],
    "whole_lines_of_output": [
        ('print(f"share', 'print(f"\\rshare', "\\r"),
        ('print(f"share', 'print("\\x1b[2J", b"\\r", f"share', "\\x1b"),
    ],
    "seeded": [
        ("SEED = 42\n", "SEED = 7\n", "SEED = 42"),
        ("SEED = 42\n", "", "SEED = 42"),
        ("random.Random(SEED)", "random.Random(7)", "random.seed(SEED)"),
    ],
    "no_other_chance": [
        ("random.Random(SEED)", "random.Random()", "random.Random()"),
        (BODY, "    random.seed()\n" + BODY, "random.seed()"),
        (BODY, "    random.SystemRandom()\n" + BODY, "SystemRandom"),
        (BODY, "    hash('a')\n" + BODY, "hash"),
        ("import random\n", "import random\nimport secrets\n", "secrets"),
    ],
    "docstring_opens_with_its_thesis": [
        ('"""A coin that', '"""\nA coin that', "first line"),
        ("learned its bias.\n", "learned its bias\n", "full stop"),
        ("remembers its throws", "remembers. It", "one sentence"),
        ("its bias.\n\nLeft", "its bias.\nLeft", "blank"),
        (GOOD[: GOOD.index("from __future__")], "", "docstring"),
    ],
    "docstring_says_what_is_left_out": [("Left out:", "Not here:", "Left out")],
    "docstring_names_the_papers": [(", 2007", "", "papers")],
    "headings_have_one_form": [
        ("# === THE COIN ===", "# == THE COIN ==", "written"),
        ("# === THE COIN ===", "# === The Coin ===", "capitals"),
        ("# === THE COIN ===", "# --- THE COIN ---", "written"),
        ("# === THE COIN ===", "# ================", "written"),
        ("# === THE COIN ===", "# === MAIN ===", "second section"),
    ],
    "constants_first_appendices_last": [
        ("# === CONSTANTS ===", "# === KNOBS ===", "first section"),
        ("# === THE COIN ===", "# === APPENDIX: THE COIN ===", "story comes first"),
        ("# === APPENDIX: HELPERS ===", "# === APPENDIX ===", "headed"),
        ("# === MAIN ===\n\n# Throw, count, and compare.\n\n\n", "", "sections"),
        ("# === MAIN ===", "# === APPENDIX: MAIN ===", "end of the story"),
        ("\n# === THE COIN", "\nimport math\n\n# === THE COIN", "imports stand before"),
        ("\n# === CONSTANTS", "\nx = 1\n\n# === CONSTANTS", "only docstring and imports"),
    ],
    "constants_say_their_reason": [
        ("  # throws; enough to tell 0.7 from 0.5", "", "neither unit nor reason"),
        ("NUM_THROWS = 100", "throws = 100", "CAPITALS"),
    ],
    "sections_open_with_prose": [
        ("# A coin is one number, the chance of heads.\n", "", "THE COIN"),
    ],
    "story_begins_early": [("\n# === CONST", "\n" + "\n" * 120 + "# === CONST", "shorten")],
    "story_is_short": [
        ("# === MAIN ===", MANY_LINES + "# === MAIN ===", "the story takes"),
        ("# === MAIN ===", MUCH_CODE + "# === MAIN ===", "lines of code"),
    ],
    "functions_are_short": [
        (BODY, LONG_BODY + BODY, "lines of code"),
        (BODY, AIRY_BODY + BODY, "lines in all"),
    ],
    "functions_have_docstrings": [(COIN, LONG_BODY, "throw() needs a docstring")],
    "lines_fit": [
        ("# A coin is", "# " + "A" * 100 + " coin is", "columns"),
        ("# A coin is", "# A co\u00efn is", "ASCII"),
        ("    main()\n", "    main()", "line end"),
    ],
    "trailing_comments_are_short": [("# throws;", "#" + " throws" * 11, "line above")],
    "main_returns_the_headline": [
        ("def main()", "def start()", "must be a main()"),
        ("def main()", "def main(throws=3)", "no arguments"),
        ("main() -> dict[str, float]", "main()", "annotated"),
        ("    main()\n", "    main()\n    main()\n", "end with"),
        ('if __name__ == "__main__":\n    main()\n', "main()\n", "end with"),
    ],
    "nothing_unfinished": [
        ("# A coin is", "# TODO: A coin is", "TODO"),
        ("# A coin is", "# FIXME A coin is", "FIXME"),
        (BODY, "", "stub"),
        (BODY, "    pass\n", "stub"),
        (BODY, "    ...\n", "stub"),
        (BODY, "    raise NotImplementedError\n", "stub"),
    ],
}


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
def test_a_good_script_passes(rule: rules.Rule) -> None:
    assert rule(GOOD) == []


def test_every_rule_has_a_bad_example() -> None:
    assert BAD.keys() == {rule.__name__ for rule in rules.RULES}


@pytest.mark.parametrize(
    ("name", "old", "new", "word"),
    [(name, *example) for name, examples in BAD.items() for example in examples],
    ids=[f"{name}-{i}" for name, examples in BAD.items() for i in range(len(examples))],
)
def test_a_bad_script_is_refused(name: str, old: str, new: str, word: str) -> None:
    assert old in GOOD
    complaints = getattr(rules, name)(GOOD.replace(old, new))
    assert any([word in complaint for complaint in complaints]), complaints


GOOD_FILES = ["open('x', 'rb')", "open('x', encoding='utf-8')", "gzip.open('x')", "os.open('x')"]


@pytest.mark.parametrize("call", [*GOOD_FILES, "path.open('wb')", "path.read_bytes()"])
def test_files_with_encoding_pass(call: str) -> None:
    assert rules.files_name_their_encoding(f"x = {call}\n") == []


def test_only_code_counts_as_code() -> None:
    head = 'def f():\n    """Doc\n\n    string."""\n    # why\n'
    text = head + "    x = (\n        1\n    )\n\n    return x\n"
    assert rules.code_lines(text) == {1, 6, 7, 8, 10}


@pytest.mark.parametrize("extra", [0, 1])
def test_limits_are_exact(extra: int) -> None:
    body = "".join([f"    a{i} = {i}\n" for i in range(rules.FUNCTION_CODE_LINES - 1 + extra)])
    assert len(rules.functions_are_short("def f():\n" + body)) == extra
    airy = "".join([f"    # {i}\n" for i in range(rules.FUNCTION_LINES - 2 + extra)])
    assert len(rules.functions_are_short("def f():\n" + airy + "    return 1\n")) == extra
    assert len(rules.lines_fit("#" * (rules.COLUMNS + extra) + "\n")) == extra
    comment = "#" * (rules.TRAILING_COMMENT + extra)
    assert len(rules.trailing_comments_are_short(f"x = 1  {comment}\n")) == extra
    code = "# === CONSTANTS ===\n" + "x = 1\n" * (rules.STORY_CODE_LINES + extra)
    assert len(rules.story_is_short(code + "# === APPENDIX: A ===\n" + "y = 1\n" * 500)) == extra
    prose = "# === CONSTANTS ===\n\n" + "# why\n" * (rules.STORY_LINES - 1 + extra)
    assert len(rules.story_is_short("import math\n" + prose)) == extra
    late = "\n" * (rules.FIRST_DEFINITION_LINE - 1 + extra) + "def f():\n    return 1\n"
    assert len(rules.story_begins_early(late)) == extra


# === WHAT BELONGS TO A SCRIPT ===


def test_import_complaints() -> None:
    assert rules.import_complaints({"changed": [], "written": [], "network": []}, b"", "") == []
    report = {"changed": ["sys.path"], "written": ["x.txt"], "network": ["host"]}
    complaints = "".join(rules.import_complaints(report, b"hello", "a warning"))
    for word in ("sys.path", "x.txt", "host", "hello", "a warning"):
        assert word in complaints


def test_data_complaints() -> None:
    files = {"names.txt": b"anna\n"}
    sha256 = hashlib.sha256(b"anna\n").hexdigest()
    readme = f"names.txt has the sha256 {sha256}"
    user = {"script.py": f'NAMES_SHA256 = "{sha256}"'}
    assert rules.data_complaints(readme, files, user) == []
    assert rules.data_complaints("names.txt", files, user)
    assert rules.data_complaints(sha256, files, user)
    assert rules.data_complaints(readme, {"names.txt": b"anna\r\n"}, {})
    [stale] = rules.data_complaints(readme, files, {"script.py": "0" * 64})
    assert stale.startswith("script.py")


def test_attributes_complaints() -> None:
    names = ["names.txt", "digits.csv.gz"]
    for good in ("* -text", "*.txt -text\n*.csv.gz binary", "names.txt -text\n*.gz binary"):
        assert rules.attributes_complaints(good, names) == []
    assert len(rules.attributes_complaints("", names)) == 2
    assert rules.attributes_complaints("*.txt text\n*.gz binary", names)


def declared(**changes: object) -> SimpleNamespace:
    """Good declarations, with changes."""
    good = {
        "BARS": ("nll <= 2.5", "gap >= 0.1"),
        "VARIANTS": {"no_mask": {"MASK": False}, "narrow": {"WIDTH": 4}},
        "TWINS": {"no_mask": "nll <= 2.5"},
        "SEEDS": (42, 1, 2),
    }
    return SimpleNamespace(**(good | changes))


CALLS_TWIN = 'twin("micro", "gap >= 0.1", {})\n'


def test_good_declarations_pass() -> None:
    assert rules.declaration_complaints(CALLS_TWIN, declared()) == []
    assert rules.declaration_complaints("support.twin(name, BARS[1], {})\n", declared()) == []


@pytest.mark.parametrize(
    ("text", "changes", "word"),
    [
        (CALLS_TWIN, {"BARS": None}, "BARS"),
        (CALLS_TWIN, {"BARS": ()}, "BARS"),
        (CALLS_TWIN, {"BARS": "nll <= 2.5"}, "BARS"),
        (CALLS_TWIN, {"VARIANTS": None}, "VARIANTS"),
        (CALLS_TWIN, {"VARIANTS": {"no_mask": {}}}, "what it changes"),
        (CALLS_TWIN, {"VARIANTS": {"no_mask": {"A": 1}, "seed_3": {"A": 1}}}, "called"),
        (CALLS_TWIN, {"TWINS": {"other": "nll <= 2.5"}}, "not in VARIANTS"),
        (CALLS_TWIN, {"TWINS": {"no_mask": "nll <= 2.50"}}, "letter"),
        ("", {}, "no broken twin fails 'gap >= 0.1'"),
        ("support.twin(name, BARS[0], {})\n", {}, "no broken twin fails 'gap >= 0.1'"),
        (CALLS_TWIN, {"SEEDS": (1, 2, 3)}, "SEEDS"),
        (CALLS_TWIN, {"SEEDS": (42, 1)}, "SEEDS"),
    ],
)
def test_bad_declarations_are_refused(text: str, changes: dict, word: str) -> None:
    assert any([word in c for c in rules.declaration_complaints(text, declared(**changes))])


# === RECORDS ===


def recorded() -> dict:
    """A good record of a script whose code is one line: script."""
    return {
        "sha256": hashlib.sha256(b"script\n").hexdigest(),
        "seeds": {
            str(seed): {"headline": {"nll": 2.4, "gap": 0.2, "share": 0.125}} for seed in (42, 1, 2)
        },
        "variants": {
            "no_mask": {"headline": {"nll": 2.9, "gap": -0.3}},
            "narrow": {"headline": {"nll": 2.604, "gap": 0.0}},
        },
    }


def test_a_good_record_passes(tmp_path) -> None:
    path = tmp_path / "script.py"
    path.write_bytes(b"script")
    assert rules.record_complaints(recorded(), script_hash(path), declared()) == []


def test_bad_records_are_refused() -> None:
    sha256 = recorded()["sha256"]

    def complaints(**changes: object) -> str:
        return " ".join(rules.record_complaints(recorded() | changes, sha256, declared()))

    seeds, variants = recorded()["seeds"], recorded()["variants"]
    assert "another version" in complaints(sha256="0" * 64)
    assert "seed 2 is not recorded" in complaints(seeds={k: seeds[k] for k in ("42", "1")})
    worse = seeds | {"1": {"headline": {"nll": 2.6, "gap": 0.2}}}
    assert "seed 1 does not meet 'nll <= 2.5'" in complaints(seeds=worse)
    broken = seeds | {"1": {"headline": {"nll": float("nan"), "gap": 0.2}}}
    assert "seed 1 does not meet 'nll <= 2.5'" in complaints(seeds=broken)
    assert "gap" in complaints(seeds=seeds | {"1": {"headline": {"nll": 2.0}}})
    assert "narrow is not recorded" in complaints(variants={"no_mask": variants["no_mask"]})
    assert "no longer declared" in complaints(variants=variants | {"old": variants["narrow"]})
    as_good = variants | {"no_mask": {"headline": {"nll": 2.4, "gap": 0.2}}}
    assert "twin no_mask meets" in complaints(variants=as_good)


EXPLAINED = "Numbers before [results: key] are recorded.\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        EXPLAINED + "the gap is -0.3 [results: no_mask.gap]",
        EXPLAINED + "2.604 [results: narrow.nll] or 2.60 [results: narrow.nll]",
        EXPLAINED + "# 2.6\n# [results: narrow.nll]",
        EXPLAINED + "# 2.6 [results:\n# narrow.nll]",
        EXPLAINED + "13% [results: seed_1.share], 12.5% [results: seed_42.share]",
        EXPLAINED + "1.25e-1 [results: seed_1.share]",
    ],
)
def test_true_citations_pass(text: str) -> None:
    assert rules.citation_complaints(text, recorded()) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (EXPLAINED + "2.61 [results: narrow.nll]", "2.604"),
        (EXPLAINED + "2.5 [results: narrow.nll]", "2.604"),
        (EXPLAINED + "2.4 [results: seed_7.nll]", "not in the record"),
        (EXPLAINED + "2.4 [results: narrow.loss]", "not in the record"),
        (EXPLAINED + "better [results: narrow.nll]", "write"),
        (EXPLAINED + "2.604[results: narrow.nll]", "write"),
        (EXPLAINED + "2.604 [results: narrow nll]", "write"),
        (EXPLAINED + "0.14 [results: seed_1.share]", "0.125"),
        (EXPLAINED + "1.4e-1 [results: seed_1.share]", "0.125"),
        ("2.604 [results: narrow.nll]", "must say once"),
    ],
)
def test_false_citations_are_refused(text: str, word: str) -> None:
    complaints = rules.citation_complaints(text, recorded())
    assert any([word in complaint for complaint in complaints]), complaints


def test_headline_complaints() -> None:
    assert rules.headline_complaints({"a": 1, "b": 0.5, "exact": True}) == []
    assert rules.headline_complaints({"a": 1, "b": 2})
    assert rules.headline_complaints(dict.fromkeys("abcdefg", 1))
    assert rules.headline_complaints({"a": 1, "b": 2, "c": [3]})
    assert rules.headline_complaints({"a": 1, "b": 2, "c": "3"})
    assert rules.headline_complaints({"a": 1, "b": 2, "c": float("nan")})
    assert rules.headline_complaints({"a": 1, "b": 2, "c": float("inf")})
