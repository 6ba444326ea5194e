"""The rules for a script, each as a function from its text to a list of complaints.

A complaint says where, what, and what to do instead. test_constraints.py applies every rule to
every script; test_rules.py shows for every rule an example that it refuses.
"""

from __future__ import annotations

import ast
import hashlib
import io
import re
import sys
import tokenize
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import vermin

STORY_LINES = 400
STORY_CODE_LINES = 250
FUNCTION_CODE_LINES = 45
FUNCTION_LINES = 60
FIRST_DEFINITION_LINE = 120
COLUMNS = 100
TRAILING_COMMENT = 72
UNDOCUMENTED_LINES = 6
OLDEST_PYTHON = (3, 10)

Rule = Callable[[str], list[str]]
RULES: list[Rule] = []


def rule(function: Rule) -> Rule:
    """Register a rule; its name is the name of its test."""
    RULES.append(function)
    return function


# === READING A SCRIPT ===


class Section(NamedTuple):
    """A heading `# === TITLE ===` and the lines that it opens, the next heading excluded."""

    title: str
    line: int
    stop: int


def sections(text: str) -> list[Section]:
    """All sections in order."""
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines, 1) if re.fullmatch(r"# === .+ ===", line)]
    stops = [*starts[1:], len(lines) + 1]
    return [Section(lines[i - 1][6:-4], i, j) for i, j in zip(starts, stops)]


def story_range(text: str) -> range:
    """The story's line numbers: from the heading CONSTANTS to before the first appendix."""
    found = sections(text)
    first = [section.line for section in found if section.title == "CONSTANTS"]
    last = [section.line for section in found if section.title.startswith("APPENDIX")]
    return range(first[0] if first else 1, last[0] if last else len(text.splitlines()) + 1)


def nodes(text: str, *kinds: type) -> Iterator[Any]:
    """All nodes of these kinds, in the order of their lines."""
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]
    yield from sorted(found, key=lambda node: (node.lineno, node.col_offset))


def functions(text: str) -> Iterator[Any]:
    """All functions and methods, nested ones too."""
    yield from nodes(text, ast.FunctionDef, ast.AsyncFunctionDef)


def calls(text: str) -> Iterator[tuple[ast.Call, str]]:
    """Every call with the dotted name of what is called: ("open", "random.Random", ".read")."""
    for call in nodes(text, ast.Call):
        yield call, dotted(call.func)


def dotted(node: ast.AST) -> str:
    """The dotted name of an expression; what is not a name shows as nothing before the dot."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def imports(text: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that is imported: from a import b gives a.b."""
    for node in nodes(text, ast.Import, ast.ImportFrom):
        for alias in node.names:
            if isinstance(node, ast.Import):
                yield node.lineno, alias.name
            else:
                yield node.lineno, "." * node.level + f"{node.module or ''}.{alias.name}"


def docstring_lines(text: str) -> set[int]:
    """The numbers of the lines that docstrings take."""
    taken: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            if ast.get_docstring(node) is not None:
                taken.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return taken


def code_lines(text: str) -> set[int]:
    """The numbers of the lines with code: not blank, not only comment, not docstring."""
    layout = {
        tokenize.COMMENT,
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.ENDMARKER,
    }
    taken: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in layout:
            taken.update(range(token.start[0], token.end[0] + 1))
    return taken - docstring_lines(text)


# === WHAT A SCRIPT MAY USE ===

# Gone from the standard library by 3.13, or there to run what the reader cannot see.
REMOVED = set(
    "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap "
    "msilib nis nntplib ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib".split()
)
HIDDEN = set("importlib runpy pkgutil ensurepip venv subprocess ctypes".split())
THREADS = set("threading _thread concurrent multiprocessing.dummy multiprocessing.pool".split())
KNOBS = set("argparse getopt optparse sys.argv os.environ os.environb os.getenv".split())


def starts_with_any(name: str, prefixes: set[str]) -> bool:
    """True if name is one of the modules or something in them."""
    return any([name == prefix or name.startswith(prefix + ".") for prefix in prefixes])


@rule
def standard_library_only(text: str) -> list[str]:
    found = []
    for line, name in imports(text):
        module = name.split(".")[0]
        if module in REMOVED:
            found.append(f"line {line}: {module} is not in every Python from 3.10 to 3.14")
        elif not module or module not in sys.stdlib_module_names:
            found.append(
                f"line {line}: imports {name}: a script runs on Python's standard library alone. "
                "Write what it needs into the script (common/ may have it: tools/sync.py)"
            )
        elif module in HIDDEN:
            found.append(f"line {line}: {module} runs code that the reader cannot see")
    for call, name in calls(text):
        if name in {"__import__", "exec", "eval", "compile", "os.system", "os.popen"}:
            found.append(f"line {call.lineno}: {name}() runs code that the reader cannot see")
    return found


@rule
def runs_on_the_oldest_python(text: str) -> list[str]:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    try:
        ast.parse(text)
    except SyntaxError as problem:
        return [f"line {problem.lineno}: {problem.msg} (scripts run from Python {oldest} on)"]
    config = vermin.Config()
    config.set_verbose(2)  # one line of text for each thing that needs a certain version
    visitor = vermin.visit(text, config=config)
    if visitor.minimum_versions()[1] <= OLDEST_PYTHON:
        return []
    reasons = [line for line in visitor.output_text().splitlines() if "3.1" in line]
    return [f"scripts run from Python {oldest} on, but here {'; '.join(reasons)}"]


@rule
def no_threads(text: str) -> list[str]:
    return [
        f"line {line}: imports {name}: threads do not exist in the browser; do one thing at a time"
        for line, name in imports(text)
        if starts_with_any(name, THREADS)
    ]


@rule
def no_knobs_but_the_constants(text: str) -> list[str]:
    advice = "the constants at the top are the only knobs"
    found = [
        f"line {line}: imports {name}: {advice}"
        for line, name in imports(text)
        if starts_with_any(name, KNOBS)
    ]
    found += [
        f"line {node.lineno}: reads {dotted(node)}: {advice}"
        for node in nodes(text, ast.Attribute)
        if dotted(node) in KNOBS
    ]
    return found + [
        f"line {call.lineno}: {name}() waits for a person: a run needs none ({advice})"
        for call, name in calls(text)
        if name in {"input", "breakpoint", "sys.stdin.readline", "sys.stdin.read"}
    ]


@rule
def files_name_their_encoding(text: str) -> list[str]:
    found = []
    for call, name in calls(text):
        last = name.split(".")[-1]
        if last not in {"open", "read_text", "write_text", "fdopen"} or name == "os.open":
            continue
        # The mode is open()'s second argument, and the first of a method such as Path.open().
        place = 1 if name in {"open", "io.open", "gzip.open", "bz2.open", "lzma.open"} else 0
        place = 1 if last == "fdopen" else place
        modes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
        modes += call.args[place : place + 1] if last in {"open", "fdopen"} else []
        words = [node.value for node in modes if isinstance(node, ast.Constant)]
        mode = words[0] if words and isinstance(words[0], str) else ""
        packed = name in {"gzip.open", "bz2.open", "lzma.open"} and "t" not in mode
        named = any([keyword.arg == "encoding" for keyword in call.keywords])
        if not (named or packed or ("b" in mode and last in {"open", "fdopen"})):
            found.append(
                f'line {call.lineno}: {last}() names no encoding: write encoding="utf-8", or '
                "open in binary (the default differs between machines)"
            )
    return found


@rule
def downloads_have_a_timeout(text: str) -> list[str]:
    return [
        f"line {call.lineno}: urlopen() without timeout= can wait for ever"
        for call, name in calls(text)
        if name.split(".")[-1] == "urlopen"
        and not any([keyword.arg == "timeout" for keyword in call.keywords])
    ]


@rule
def whole_lines_of_output(text: str) -> list[str]:
    codes = {"\r": "\\r", "\x1b": "\\x1b", "\b": "\\b"}
    found = []
    for node in nodes(text, ast.Constant):
        content = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
        for code, written in codes.items():
            if isinstance(content, str) and code in content:
                found.append(
                    f"line {node.lineno}: a string holds {written}: print whole lines only "
                    "(redrawing breaks in pipes and in the browser)"
                )
    return found


# === DETERMINISM ===


@rule
def seeded(text: str) -> list[str]:
    found = []
    constants = [section for section in sections(text) if section.title == "CONSTANTS"]
    inside = range(constants[0].line, constants[0].stop) if constants else range(0)
    values = [
        node.value.value
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        and dotted(node.targets[0]) == "SEED"
        and isinstance(node.value, ast.Constant)
        and node.lineno in inside
    ]
    if values != [42]:
        found.append("SEED = 42 must stand in the section CONSTANTS, once")
    main = main_function(text)
    if main is not None:
        seeds = [
            node
            for node in ast.walk(main)
            if isinstance(node, ast.Call)
            and dotted(node.func).split(".")[-1] in {"seed", "Random"}
            and any([isinstance(n, ast.Name) and n.id == "SEED" for n in ast.walk(node)])
        ]
        if not seeds:
            found.append("main() must call random.seed(SEED) or make a random.Random(SEED)")
    return found


@rule
def no_other_chance(text: str) -> list[str]:
    found = []
    advice = "the same seed must print the same bytes"
    for call, name in calls(text):
        last = name.split(".")[-1]
        unseeded = name in {"random.Random", "Random", "random.seed"} and not call.args
        if unseeded or last in {"SystemRandom", "urandom", "getrandom"}:
            found.append(f"line {call.lineno}: {name}() differs from run to run: {advice}")
        if name == "hash":
            found.append(
                f"line {call.lineno}: hash() of text differs per process: {advice}; use hashlib"
            )
    return found + [
        f"line {line}: {name} differs from run to run: {advice}"
        for line, name in imports(text)
        if starts_with_any(name, {"secrets", "uuid"})
    ]


# === FORM ===


@rule
def docstring_opens_with_its_thesis(text: str) -> list[str]:
    docstring = ast.get_docstring(ast.parse(text), clean=False)
    if not docstring:
        return ["the file must open with a docstring whose first line is the thesis"]
    lines = docstring.split("\n")
    found = []
    if not re.fullmatch(r"[A-Z0-9].*[.!?]", lines[0]):
        found.append("the docstring's first line must be one whole sentence, up to its full stop")
    if re.search(r"[.!?] [A-Z]", lines[0]):
        found.append("the docstring's first line must be one sentence, not several")
    if len(lines) < 2 or lines[1].strip():
        found.append("the docstring's second line must be blank")
    return found


@rule
def docstring_says_what_is_left_out(text: str) -> list[str]:
    docstring = ast.get_docstring(ast.parse(text)) or ""
    if re.search(r"^ *(what is )?left out\b", docstring, re.IGNORECASE | re.MULTILINE):
        return []
    return ['the docstring needs a paragraph that begins with "Left out": two to four items']


@rule
def docstring_names_the_papers(text: str) -> list[str]:
    docstring = ast.get_docstring(ast.parse(text)) or ""
    if re.search(r"\b(19|20)\d\d\b", docstring):
        return []
    return ["the docstring must end with the papers: authors, year, title, arXiv id"]


@rule
def headings_have_one_form(text: str) -> list[str]:
    found, seen = [], set()
    for number, line in enumerate(text.splitlines(), 1):
        if not re.match(r"\s*#\s*(={2,}|-{3,}|#{3,}|\*{3,})", line):
            continue
        form = re.fullmatch(r"# === ([A-Z0-9][^=]*) ===", line)
        words = form.group(1).split("(")[0] if form else ""
        if not form or words != words.upper():
            found.append(f"line {number}: a heading is written `# === NAME ===`, in capitals")
        elif words in seen:
            found.append(f"line {number}: a second section {words.strip()}")
        seen.add(words)
    return found


@rule
def constants_first_appendices_last(text: str) -> list[str]:
    titles = [section.title for section in sections(text)]
    if titles[:1] != ["CONSTANTS"]:
        return ["the first section must be `# === CONSTANTS ===`"]
    found = []
    if len([title for title in titles if not title.startswith("APPENDIX")]) < 3:
        found.append("the story needs sections: a reader of only the headings understands the plan")
    appendix = [title.startswith("APPENDIX") for title in titles]
    if appendix != sorted(appendix):
        found.append("after the first APPENDIX only appendices may follow: the story comes first")
    for title in titles:
        if "APPENDIX" in title and not re.match(r"APPENDIX: \S", title):
            found.append(f"{title}: an appendix is headed `# === APPENDIX: NAME ===`")
    start = sections(text)[0].line
    for node in ast.parse(text).body[1:]:
        is_import = isinstance(node, (ast.Import, ast.ImportFrom))
        if is_import and node.lineno > start:
            found.append(f"line {node.lineno}: imports stand before the section CONSTANTS")
        if not is_import and node.lineno < start:
            found.append(f"line {node.lineno}: before CONSTANTS only docstring and imports stand")
    main = main_function(text)
    if main is not None and main.lineno not in story_range(text):
        found.append("main() is the end of the story: it stands before the first APPENDIX")
    return found


@rule
def constants_say_their_reason(text: str) -> list[str]:
    found = []
    constants = [section for section in sections(text) if section.title == "CONSTANTS"]
    lines = text.splitlines()
    for section in constants:
        for node in ast.parse(text).body:
            if not isinstance(node, (ast.Assign, ast.AnnAssign)):
                continue
            if not section.line < node.lineno < section.stop:
                continue
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if not re.fullmatch(r"[A-Z][A-Z0-9_]*", dotted(target)):
                found.append(f"line {node.lineno}: a constant is named in CAPITALS")
            above = node.lineno - 1
            while above > section.line and lines[above - 1].strip():
                above -= 1  # up to the blank line that begins this group of constants
            explained = "#" in "".join(lines[above : node.end_lineno])
            if not explained and dotted(target) != "SEED":  # which needs no explanation
                found.append(
                    f"line {node.lineno}: {dotted(target)} says neither unit nor reason: "
                    "add a comment behind it or above its group"
                )
    return found


@rule
def sections_open_with_prose(text: str) -> list[str]:
    found = []
    lines = text.splitlines()
    for section in sections(text):
        if section.title == "CONSTANTS" or section.title.startswith("APPENDIX"):
            continue
        first = [line for line in lines[section.line : section.stop - 1] if line.strip()][:1]
        if not first or not first[0].startswith("# "):
            found.append(
                f"line {section.line}: the section {section.title} must open with a short comment: "
                "what happens here and why it must"
            )
    return found


@rule
def story_begins_early(text: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    starts = [node.lineno for node in ast.parse(text).body if isinstance(node, kinds)]
    if starts and min(starts) > FIRST_DEFINITION_LINE:
        return [
            f"the first function stands on line {min(starts)}: shorten what comes before, so that "
            f"the reader meets it by line {FIRST_DEFINITION_LINE}"
        ]
    return []


@rule
def story_is_short(text: str) -> list[str]:
    lines = text.splitlines()
    story = story_range(text)
    said = [number for number in story if lines[number - 1].strip()]
    code = code_lines(text) & set(story)
    found = []
    if len(said) > STORY_LINES:
        found.append(f"the story takes {len(said)} lines, at most {STORY_LINES}: cut an arm")
    if len(code) > STORY_CODE_LINES:
        found.append(f"the story has {len(code)} lines of code, at most {STORY_CODE_LINES}")
    return found


@rule
def functions_are_short(text: str) -> list[str]:
    found = []
    code = code_lines(text)
    for node in functions(text):
        whole = range(node.lineno, node.end_lineno + 1)
        count = len(code & set(whole))
        if count > FUNCTION_CODE_LINES:
            found.append(
                f"line {node.lineno}: {node.name}() has {count} lines of code, at most "
                f"{FUNCTION_CODE_LINES}: split it where its task changes"
            )
        if len(whole) > FUNCTION_LINES:
            found.append(
                f"line {node.lineno}: {node.name}() takes {len(whole)} lines in all, at most "
                f"{FUNCTION_LINES}"
            )
    return found


@rule
def functions_have_docstrings(text: str) -> list[str]:
    every = list(functions(text))
    inner = {id(node) for outer in every for node in ast.walk(outer) if node is not outer}
    return [
        f"line {node.lineno}: {node.name}() needs a docstring: what it does, with shapes"
        for node in every
        if node.end_lineno - node.lineno > UNDOCUMENTED_LINES
        and not node.name.startswith("_")
        and id(node) not in inner  # such as pass_back, which the engine explains once
        and not ast.get_docstring(node)
    ]


@rule
def lines_fit(text: str) -> list[str]:
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > COLUMNS:
            found.append(f"line {number}: {len(line)} columns, at most {COLUMNS}")
        if not line.isascii():
            strange = next(letter for letter in line if not letter.isascii())
            found.append(f"line {number}: {strange!r} is not ASCII: piped output may not show it")
    return found if text.endswith("\n") else [*found, "the file must end with a line end"]


@rule
def trailing_comments_are_short(text: str) -> list[str]:
    return [
        f"line {token.start[0]}: a comment of {len(token.string)} columns behind code, at most "
        f"{TRAILING_COMMENT}: put it on the line above"
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
        and token.line[: token.start[1]].strip()
        and len(token.string) > TRAILING_COMMENT
    ]


def main_function(text: str) -> ast.FunctionDef | None:
    """The top-level function main, if there is one."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            return node
    return None


@rule
def main_returns_the_headline(text: str) -> list[str]:
    main = main_function(text)
    if main is None:
        return ["there must be a main() that runs the experiment and returns its headline numbers"]
    found = []
    if ast.unparse(main.args):
        found.append("main() takes no arguments: the constants are the only knobs")
    if main.returns is None or not ast.unparse(main.returns).startswith("dict["):
        found.append("main() must be annotated `-> dict[str, float]` (or what its values are)")
    if not text.endswith('\nif __name__ == "__main__":\n    main()\n'):
        found.append('the file must end with `if __name__ == "__main__":` and `    main()`')
    return found


@rule
def nothing_unfinished(text: str) -> list[str]:
    found = [
        f"line {number}: {word.group()}: finish it, or say under `Left out` why not"
        for number, line in enumerate(text.splitlines(), 1)
        if (word := re.search(r"\b(TODO|FIXME|XXX)\b|\bhard-?coded\b", line))
    ]
    for node in functions(text):
        body = [s for s in node.body if not isinstance(s, (ast.Expr, ast.Pass))]
        body += [s for s in node.body if isinstance(s, ast.Expr) and not is_constant(s.value)]
        if not body or any(["NotImplemented" in ast.unparse(s) for s in body]):
            found.append(f"line {node.lineno}: {node.name}() is a stub")
    return found


def is_constant(node: ast.AST) -> bool:
    """True for docstrings and `...`."""
    return isinstance(node, ast.Constant)


# === WHAT BELONGS TO A SCRIPT ===


def import_complaints(report: Mapping[str, Any], stdout: bytes, stderr: str) -> list[str]:
    """What importing a script did besides defining things (see isolated.py)."""
    found = [f"importing it changes {what}" for what in report.get("changed", [])]
    found += [f"importing it writes {path}" for path in report.get("written", [])]
    found += [f"importing it reaches for the network ({to})" for to in report.get("network", [])]
    if stdout:
        found.append(f"importing it prints {stdout[:60]!r}")
    if stderr:
        found.append(f"importing it says on stderr: {stderr.strip()[-300:]}")
    return [f"{complaint}: let main() do it" for complaint in found]


def data_complaints(readme: str, files: Mapping[str, bytes], users: Mapping[str, str]) -> list[str]:
    """Where data/README.md, the data files and the constants in the users' texts disagree."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    written = re.compile(r"\b[0-9a-f]{64}\b")
    found = []
    for name, sha256 in hashes.items():
        if name not in readme or sha256 not in readme:
            found.append(f"data/README.md must give {name} with its sha256, {sha256}")
    for user, text in {"data/README.md": readme, **users}.items():
        for stated in sorted(set(written.findall(text)) - set(hashes.values())):
            found.append(f"{user} states the sha256 {stated[:12]}..., which no data file has")
    return found


def attributes_complaints(attributes: str, names: list[str]) -> list[str]:
    """The data files whose bytes a checkout on Windows would change."""
    lines = [line.split() for line in attributes.splitlines() if line.strip()]
    kept = {line[0] for line in lines if {"-text", "binary"} & set(line[1:])}
    return [
        f"data/.gitattributes must keep the bytes of {name}: add the line `{name} -text`"
        for name in names
        if not kept & {"*", name, "*" + name[name.index(".") :], "*." + name.split(".")[-1]}
    ]


def declaration_complaints(text: str, declared: Any) -> list[str]:
    """What is wrong with BARS, VARIANTS, TWINS and SEEDS of a test file with this text."""
    bars, variants, twins = declared.BARS, declared.VARIANTS, declared.TWINS
    found = []
    if not isinstance(bars, tuple) or not bars or not all([isinstance(b, str) for b in bars]):
        return ['BARS must be a tuple of expressions, such as BARS = ("nll <= 2.3",)']
    if not isinstance(variants, dict) or not isinstance(twins, dict):
        return ["VARIANTS and TWINS must be dictionaries"]
    for name, changes in variants.items():
        if not isinstance(changes, dict) or not changes:
            found.append(f"VARIANTS[{name!r}] must say what it changes: {{attribute: new value}}")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or re.match(r"seed_", name):
            found.append(f"a variant cannot be called {name!r}: use lower_case, not seed_...")
    for name, bar in twins.items():
        if name not in variants:
            found.append(f"TWINS names {name!r}, which is not in VARIANTS")
        if bar not in bars:
            found.append(f"TWINS[{name!r}] is {bar!r}, which is not in BARS to the letter")
    for bar in bars:
        if bar not in twins.values() and bar not in bars_given_to_twin(text, bars):
            found.append(
                f"no broken twin fails {bar!r}: name one in TWINS, or call support.twin() with "
                "this bar in a test"
            )
    if not isinstance(declared.SEEDS, tuple) or 42 not in declared.SEEDS or len(declared.SEEDS) < 3:
        found.append("SEEDS must be a tuple of at least three seeds, 42 among them")
    return found


def bars_given_to_twin(text: str, bars: tuple[str, ...]) -> set[str]:
    """The bars that calls of support.twin() name, as text or as BARS[i]."""
    given = set()
    for call, name in calls(text):
        if name.split(".")[-1] != "twin":
            continue
        for node in ast.walk(call):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                given.add(node.value)
            if isinstance(node, ast.Subscript) and dotted(node.value) == "BARS":
                index = ast.literal_eval(node.slice)
                given.add(bars[index])
    return given & set(bars)


CITED = re.compile(r"(-?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?)(%?) \[results: ([\w.-]+)\]")


def citation_complaints(text: str, record: Mapping[str, Any]) -> list[str]:
    """Where a number before [results: variant.key] differs from the record."""
    joined = re.sub(r"\s*\n\s*(#\s)?\s*", " ", text)  # a citation may cross a line's end
    cited = CITED.findall(joined)
    found = []
    marks = re.findall(r"\S*\s*\[results:\s*[^\]]*\]?", joined)
    explained = [mark for mark in marks if re.search(r"\[results: (key|\.\.\.)\]", mark)]
    if len(marks) - len(explained) > len(cited):
        unread = [mark for mark in marks if mark not in explained and not CITED.search(mark)]
        found.append(f"write `number [results: variant.key]`, not {unread}")
    if cited and not explained:
        found.append("the docstring must say once what `[results: key]` means")
    headlines = {f"seed_{seed}": run["headline"] for seed, run in record["seeds"].items()}
    headlines |= {name: run["headline"] for name, run in record["variants"].items()}
    for number, percent, path in cited:
        run, _, key = path.partition(".")
        if key not in headlines.get(run, {}):
            found.append(f"[results: {path}] is not in the record")
            continue
        value = headlines[run][key] * (100 if percent else 1)
        mantissa, _, exponent = number.replace(",", "").partition("e")
        digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
        stated = float(number.replace(",", ""))
        if not abs(stated - value) <= 0.5 * 10.0**-digits * (1 + 1e-9):
            found.append(f"states {number}{percent} [results: {path}], but the record has {value}")
    return found


def headline_complaints(headline: Mapping[str, Any]) -> list[str]:
    """What is wrong with what main() returned, the details left away."""
    found = []
    if not 3 <= len(headline) <= 6:
        found.append(f"main() returns {len(headline)} headline numbers, it should be three to six")
    for key, value in headline.items():
        if not isinstance(value, (bool, int, float)):
            found.append(f"headline {key} is {value!r}: only numbers (the rest under `details`)")
        elif not abs(value) < float("inf"):
            found.append(f"headline {key} is {value}")
    return found


def record_complaints(record: Mapping[str, Any], sha256: str, declared: Any) -> list[str]:
    """Where the record of a script is stale, incomplete, or does not show what it should."""
    from support import BarError, failed_bars

    again = "run tools/bench.py again"
    found = []
    if record["sha256"] != sha256:
        found.append(f"the record is of another version of the script: {again}")
    seeds = {int(seed) for seed in record["seeds"]}
    for seed in sorted(set(declared.SEEDS) - seeds):
        found.append(f"seed {seed} is not recorded: {again}")
    for name in sorted(set(declared.VARIANTS) - set(record["variants"])):
        found.append(f"variant {name} is not recorded: {again}")
    for name in sorted(set(record["variants"]) - set(declared.VARIANTS)):
        found.append(f"variant {name} is recorded but no longer declared: {again}")
    try:
        for seed, run in record["seeds"].items():
            failed = failed_bars(run["headline"], declared.BARS)
            found += [f"seed {seed} does not meet {bar!r}: {run['headline']}" for bar in failed]
        for name, bar in declared.TWINS.items():
            headline = record["variants"].get(name, {}).get("headline")
            if headline is not None and not failed_bars(headline, [bar]):
                found.append(f"the broken twin {name} meets {bar!r}: {headline}")
    except BarError as problem:
        found.append(str(problem))
    return found
