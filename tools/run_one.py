"""What tools/bench.py starts for each run: one script, loaded freshly, in a process of its own.

It imports as little as it can, since its memory counts as the script's. Its one argument is a
job in JSON: {"root", "task", "script", "report"} and, for a run, "seed" or "variant". Whatever the
script prints goes to standard output untouched; the report is written to the file job["report"].
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import sys
import time
import types


class StandIn:
    """Stands in for pytest and hypothesis, so that a test module can be imported for its
    declarations (BARS, VARIANTS, TWINS, SEEDS) where neither is installed. No test can run on it.
    """

    def __call__(self, *_: object, **__: object) -> StandIn:
        return self

    def __getattr__(self, name: str) -> StandIn:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __or__(self, _: object) -> StandIn:
        return self

    __ror__ = __and__ = __getitem__ = __or__

    def __mro_entries__(self, _: tuple) -> tuple:
        return ()


def load(name: str, path: str) -> types.ModuleType:
    """Execute the file as a new module, known to pickle and dataclasses by its name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_declarations(root: str, name: str) -> types.ModuleType | None:
    """tests/test_<name>.py as a module, or None where there is no such file."""
    path = os.path.join(root, "tests", f"test_{name}.py")
    if not os.path.exists(path):
        return None
    sys.path += [root, os.path.join(root, "tests")]
    for library in ("pytest", "hypothesis", "hypothesis.strategies", "hypothesis.stateful"):
        module = types.ModuleType(library)
        module.__getattr__ = StandIn().__getattr__
        module.__path__ = []
        sys.modules[library] = module
    return load(f"test_{name}", path)


def name_of(script: str) -> str:
    """01-foundations/microgpt.py -> microgpt"""
    return os.path.splitext(os.path.basename(script))[0]


def digest_of(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:12]


def source_of(function: object, depth: int = 0) -> str:
    """The text of a function or class, and of the functions and values that a closure holds."""
    import inspect

    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        text = type(function).__name__
    for cell in getattr(function, "__closure__", None) or ():
        with contextlib.suppress(ValueError):  # a cell that is still empty
            held = cell.cell_contents
            if callable(held) and depth < 3:
                text += source_of(held, depth + 1)
            elif not callable(held) and not isinstance(held, types.ModuleType):
                text += re.sub(" at 0x[0-9a-fA-F]+", "", repr(held))
    return text


def describe(value: object) -> str:
    """What a variant puts in a name's place, in a few words that change when it does."""
    if callable(value):
        return f"{getattr(value, '__name__', 'function')} ({digest_of(source_of(value))})"
    text = re.sub(" at 0x[0-9a-fA-F]+", "", repr(value))
    return text if len(text) <= 60 else f"{text[:40]}... ({digest_of(text)})"


def read_declarations(root: str, name: str) -> dict:
    """BARS, VARIANTS (described), TWINS and SEEDS, and what is wrong with them."""
    module = load_declarations(root, name)
    bars = list(getattr(module, "BARS", ()))
    variants = dict(getattr(module, "VARIANTS", {}))
    twins = dict(getattr(module, "TWINS", {}))
    problems = [f"TWINS names {t!r}, which VARIANTS lacks" for t in twins if t not in variants]
    problems += [f"BARS lacks twin {t!r}'s bar: {b}" for t, b in twins.items() if b not in bars]
    return {
        "declared": module is not None,
        "bars": bars,
        "variants": {v: {a: describe(x) for a, x in c.items()} for v, c in variants.items()},
        "twins": twins,
        "seeds": list(getattr(module, "SEEDS", (42, 1, 2))),
        "problems": problems,
    }


def headline_of(result: object) -> dict:
    """The numbers that main() returned, without its details; TypeError if they are none."""
    if not isinstance(result, dict):
        raise TypeError(f"main() returned {type(result).__name__}, not a dict of headline numbers")
    headline = {name: value for name, value in result.items() if name != "details"}
    if not headline:
        raise TypeError("main() returned no headline number")
    for name, value in headline.items():
        if not isinstance(value, (int, float)):
            raise TypeError(f"headline number {name} is a {type(value).__name__}")
    return headline


def table_of(result: dict) -> dict | None:
    """The rows that a script gives for a table that it shares with another, details["table"]: {arm:
    {column: a number or a few words}}. None if there are none; TypeError if they hold more.
    """
    details = result.get("details")
    rows = details.get("table") if isinstance(details, dict) else None
    if rows is None:
        return None
    for arm, row in rows.items():
        if not all([isinstance(value, (int, float, str)) for value in row.values()]):
            raise TypeError(f'details["table"], {arm}: neither numbers nor text')
    return rows


def peak_megabytes() -> float | None:
    """The most memory that this process, or the largest of its children, has held (10^6 bytes)."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, the others kilobytes
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if sys.platform == "linux":
        # There, ru_maxrss begins with what the process that started this one had held.
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            own = next((int(x.split()[1]) * 1024 for x in status if x.startswith("VmHWM")), own)
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return round(max(own, children) / 1e6, 1)


def cpu_seconds() -> float:
    """This process's CPU time, finely, and that of its ended children."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def run(job: dict) -> dict:
    """Load the script, put in the seed or the variant, call main() and measure it."""
    name = name_of(job["script"])
    changes = {}
    if "variant" in job:
        declarations = load_declarations(job["root"], name)
        changes = declarations.VARIANTS[job["variant"]]
    module = load(name, os.path.join(job["root"], job["script"]))
    own_seed = module.SEED
    if "seed" in job:
        changes = {"SEED": job["seed"]}
    for attribute, value in changes.items():
        if not hasattr(module, attribute):
            raise AttributeError(f"variant {job['variant']}: {name} has no {attribute}")
        setattr(module, attribute, value)
    cpu, wall = cpu_seconds(), time.perf_counter()
    result = module.main()
    wall, cpu = time.perf_counter() - wall, cpu_seconds() - cpu
    return {
        "headline": headline_of(result),
        "wall_seconds": round(wall, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_megabytes": peak_megabytes(),
        "own_seed": own_seed,
        "table": table_of(result),
    }


if __name__ == "__main__":
    JOB = json.loads(sys.argv[1])
    # The script must find what it finds when it is started by itself: its own folder, not tools/.
    sys.path[0] = os.path.dirname(os.path.join(JOB["root"], JOB["script"]))
    if JOB["task"] == "declarations":
        REPORT = read_declarations(JOB["root"], name_of(JOB["script"]))
    else:
        REPORT = run(JOB)
    with open(JOB["report"], "w", encoding="utf-8") as file:
        json.dump(REPORT, file)
