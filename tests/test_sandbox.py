"""The sandbox sees what a script must not do, and judges output; shown on made-up scripts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rules import import_complaints
from sandbox import (
    Run,
    first_difference,
    left_behind,
    output_complaints,
    refusal_complaints,
    run_alone,
    run_complaints,
    server,
)
from support import COMMON

GOOD = '''"""Thesis."""

from __future__ import annotations

import random

SEED = 42


def main() -> dict[str, float]:
    random.seed(SEED)
    print("step 1/1 | loss 2.5")
    return {"loss": 2.5, "steps": 1, "exact": True, "details": [object()]}


if __name__ == "__main__":
    main()
'''


def run(folder: Path, text: str, **job: Any) -> Run:
    script = folder / "microtest.py"
    script.write_text(text, encoding="utf-8")
    return run_alone(script, **job)


def test_a_good_run(tmp_path: Path) -> None:
    done = run(tmp_path, GOOD, data={"names.txt": b"anna\n"})
    assert run_complaints(done) == [] and output_complaints(done.stdout) == []
    assert done.stdout == b"step 1/1 | loss 2.5\n"
    assert done.report["headline"] == {"loss": 2.5, "steps": 1, "exact": True}
    assert set(done.before) == {
        "data", "data/names.txt", "elsewhere", "home", "tier", "tier/microtest.py"
    }  # fmt: skip


# what main() does -> a word of the complaint
MISDEEDS = {
    "raises": ("raise ValueError('wrong')", "wrong"),
    "ends with a status": ("raise SystemExit(3)", "exit status 3"),
    "warns": ("import warnings; warnings.warn('old')", "old"),
    "forgets a file": ("open(__file__, encoding='utf-8')", "ResourceWarning"),
    "names no encoding": ("open(__file__).close()", "EncodingWarning"),
    "talks on stderr": ("import sys; print('hm', file=sys.stderr)", "hm"),
    "writes beside itself": ("open(__file__ + '.txt', 'wb').close()", "left behind: tier"),
    "writes where it stands": ("open('x', 'wb').close()", "left behind: elsewhere/x"),
    "writes at home": (
        "import pathlib; (pathlib.Path.home() / 'x').write_bytes(b'')",
        "left behind: home/x",
    ),
    "writes and removes": (
        "import os; open('x', 'wb').close(); os.remove('x')",
        "opened for writing: x",
    ),
    "makes a folder": ("import os; os.mkdir('new')", "left behind: elsewhere/new"),
    "changes itself": ("open(__file__, 'ab').write(b'#')", "changed or removed: tier"),
    "removes its data": (
        "import os; os.remove(os.path.dirname(__file__) + '/../data/names.txt')",
        "changed or removed: data/names.txt",
    ),
    "asks the network": (
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9', timeout=1)",
        "network",
    ),
    "asks the network in silence": (
        "import socket\n    try:\n        socket.create_connection(('127.0.0.1', 9))\n"
        "    except OSError:\n        pass",
        "network",
    ),
    "asks for an address in silence": (
        "import socket\n    try:\n        socket.gethostbyname('localhost')\n"
        "    except OSError:\n        pass",
        "network",
    ),
    "sends a datagram": (
        "import socket\n    try:\n        socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9))\n"
        "    except OSError:\n        pass",
        "network",
    ),
    "needs a package": ("import pytest", "pytest"),
    "needs a neighbour": ("import support", "support"),
    "returns nothing": ("return", "must return a dict"),
}


@pytest.mark.parametrize(("deed", "word"), MISDEEDS.values(), ids=MISDEEDS.keys())
def test_misdeeds_are_seen(tmp_path: Path, deed: str, word: str) -> None:
    text = GOOD.replace("    random.seed(SEED)\n", f"    random.seed(SEED)\n    {deed}\n")
    found = run_complaints(run(tmp_path, text, data={"names.txt": b"anna\n"}))
    assert any([word in complaint for complaint in found]), found


IMPORTS = {
    "prints": ("print('hello')", "prints"),
    "warns": ("import warnings; warnings.warn('old')", "stderr"),
    "draws a number": ("random.random()", "the state of random"),
    "seeds": ("random.seed(SEED)", "the state of random"),
    "stops the collector": ("import gc; gc.disable()", "the garbage collector"),
    "allows deep recursion": ("import sys; sys.setrecursionlimit(9999)", "the recursion limit"),
    "changes the path": ("import sys; sys.path.append('x')", "sys.path"),
    "changes the environment": ("import os; os.environ['X'] = '1'", "the environment"),
    "walks": ("import os; os.chdir('..')", "the working directory"),
    "writes": ("open('x', 'wb').close()", "writes x"),
    "asks the network": (
        "import socket\ntry:\n    socket.create_connection(('127.0.0.1', 9))\n"
        "except OSError:\n    pass",
        "network",
    ),
}


@pytest.mark.parametrize(("deed", "word"), IMPORTS.values(), ids=IMPORTS.keys())
def test_side_effects_of_importing_are_seen(tmp_path: Path, deed: str, word: str) -> None:
    clean = run(tmp_path, GOOD, mode="import")
    assert import_complaints(clean.report, clean.stdout, clean.stderr) == []
    done = run(tmp_path, GOOD.replace("SEED = 42\n", f"SEED = 42\n{deed}\n"), mode="import")
    found = import_complaints(done.report, done.stdout, done.stderr)
    assert any([word in complaint for complaint in found]), found


PARALLEL = """
import multiprocessing


def double(number: int) -> int:
    return 2 * number


def main() -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(double, [1, 2]))
        pool.close()
        pool.join()
    return {"a": 1, "b": 2, "c": 3}


if __name__ == "__main__":
    main()
"""


def test_a_script_may_start_processes(tmp_path: Path) -> None:
    done = run(tmp_path, PARALLEL)
    assert (done.status, done.stdout, done.stderr) == (0, b"[2, 4]\n", "")
    assert done.report["network"] == [] and left_behind(done) == []


# === DATA ===

NAMES = {"names.txt": b"anna\nemma\n"}


@pytest.fixture
def reader(tmp_path: Path) -> str:
    """A script that loads names with the loader that all scripts share."""
    import hashlib

    import sync

    pieces = sync.read_pieces(COMMON)
    text = GOOD.replace("    random.seed(SEED)\n", '    load_data("names.txt", SHA256)\n')
    text = text.replace("import random\n", "")
    sha256 = hashlib.sha256(NAMES["names.txt"]).hexdigest()
    text = text.replace("SEED = 42\n", f'SEED = 42\nSHA256 = "{sha256}"\n')
    return sync.synced(text, pieces)[0]


def test_data_is_found_and_checked(tmp_path: Path, reader: str) -> None:
    for beside in (False, True):
        done = run(tmp_path, reader, mode="load", data=NAMES, data_beside=beside)
        assert run_complaints(done) == [] and done.report["loaded"][0] == "names.txt"
        assert done.stdout == b"", "main() must stop when the data is there"
        wrong = run(tmp_path, reader, data={"names.txt": b"anna\n"}, data_beside=beside)
        assert refusal_complaints(wrong, NAMES) == []
    offline = run(tmp_path, reader)
    assert refusal_complaints(offline, NAMES) == [] and offline.report["network"]


def test_a_download_is_checked(tmp_path: Path, reader: str) -> None:
    with server(NAMES) as job:
        done = run(tmp_path, reader, **job)
        full = run(tmp_path, reader, disk_full=True, **job)
    assert done.status == 0 and left_behind(done) == ["left behind: tier/names.txt"]
    assert refusal_complaints(full, NAMES) == [] and full.report["written"]
    with server(NAMES, cut=True) as job:
        assert refusal_complaints(run(tmp_path, reader, **job), NAMES) == []
    for content in ({}, {"names.txt": b"anna\n"}):
        with server(content) as job:
            assert refusal_complaints(run(tmp_path, reader, **job), NAMES) == []


# what is broken in the loader -> which case shows it
BROKEN_LOADERS = {
    "checks no file": ("if hashlib.sha256(content).hexdigest() != sha256:\n                raise",
                       "if False:\n                raise"),
    "checks no download": ("if hashlib.sha256(content).hexdigest() != sha256:\n            raise",
                           "if False:\n            raise"),
    "leaves its partial file": ("partial.unlink(missing_ok=True)", "pass"),
    "writes in place": ("        if hashlib.sha256(content).hexdigest() != sha256:\n            r",
                        "        (here / filename).write_bytes(content)\n"
                        "        if hashlib.sha256(content).hexdigest() != sha256:\n            r"),
    "shows a traceback": ("except (OSError, http.client.HTTPException)", "except KeyError"),
    "forgets cut connections": ("except (OSError, http.client.HTTPException)", "except OSError"),
    "names no file": ('f"No {filename}: {problem}. Get it {where}."', '"No data."'),
    "asks no other place": ("here / filename):", "here / 'x' / filename):"),
}  # fmt: skip


@pytest.mark.parametrize(("old", "new"), BROKEN_LOADERS.values(), ids=BROKEN_LOADERS.keys())
def test_a_broken_loader_is_seen(tmp_path: Path, reader: str, old: str, new: str) -> None:
    assert old in reader
    text = reader.replace(old, new, 1)
    found = refusal_complaints(run(tmp_path, text, data={"names.txt": b"anna\n"}), NAMES)
    found += refusal_complaints(run(tmp_path, text), NAMES)
    found += run_complaints(run(tmp_path, text, data=NAMES, data_beside=True, mode="load"))
    for served in ({"content": {"names.txt": b"x"}}, {"content": NAMES, "cut": True}):
        with server(**served) as job:
            found += refusal_complaints(run(tmp_path, text, **job), NAMES)
    if old == "partial.unlink(missing_ok=True)":
        # Only a disk that fills up while the file is written leaves a part of it.
        half = "partial.write_bytes(content[:1]); raise OSError('disk full')"
        text = text.replace("partial.write_bytes(content)", half)
        with server(NAMES) as job:
            found += refusal_complaints(run(tmp_path, text, **job), NAMES)
    assert found


# === OUTPUT ===

GOOD_OUTPUTS = [
    "hello\n",
    "step 0/9 | loss 3.3\nstep 9/9 | loss 3\n",
    "step   1/20 | loss 2.7725\nstep  20/20 | loss 1.9e-05 | accuracy 41.2%\n",
    "step 1/2 | loss 3\nstep 2/2 | loss 2\nstep 1/2 | loss 3\nstep 2/2 | loss 2\n",
    "step 5/9 | loss 3\n\nthe second arm\nstep 1/9 | loss 2 | tokens/s 1,000 | kl (exact) -0.5\n",
    "step size 0.1 | 3 rows\nstep 3: the gradient of ln 27 = 3.30\n",
    "".join([f"step {i}/25 | loss 1\n" for i in range(1, 26)]),
    "x" * 80 + "\n",
]
BAD_OUTPUTS = [
    ("", "nothing is printed"),
    ("no end", "has no end"),
    ("x" * 81 + "\n", "81 columns"),
    ("caf\u00e9\n", "not ASCII"),
    ("10%\r20%\n", "control character"),
    ("\x1b[1mbold\n", "control character"),
    ("a\tb\n", "control character"),
    ("step 1/2, loss 3\n", "write `step"),
    ("step 1/2 loss 3\n", "write `step"),
    ("step 1/2 | loss\n", "write `step"),
    ("step 1/2 | 3\n", "write `step"),
    ("step 1/2 | loss nan\n", "write `step"),
    ("step 1/2 | loss 3 |\n", "write `step"),
    ("step 1/2 || loss 3\n", "write `step"),
    (" step 1/2 | loss 3\n", "write `step"),
    ("step 1 | loss 3\n", "write `step"),
    ("step 3/9 | loss 3\nstep 2/9 | loss 3\n", "does not increase"),
    ("step 3/9 | loss 3\nstep 3/9 | loss 3\n", "does not increase"),
    ("step 0/9 | loss 3\nstep 0/9 | loss 3\n", "does not increase"),
    ("step 10/9 | loss 3\n", "does not increase"),
    ("".join([f"step {i}/30 | loss 1\n" for i in range(1, 27)]), "more than 25"),
]


@pytest.mark.parametrize("output", GOOD_OUTPUTS)
def test_good_output_passes(output: str) -> None:
    assert output_complaints(output.encode()) == []


@pytest.mark.parametrize(("output", "word"), BAD_OUTPUTS)
def test_bad_output_is_refused(output: str, word: str) -> None:
    found = output_complaints(output.encode())
    assert any([word in complaint for complaint in found]), found


def test_output_is_compared_but_for_times() -> None:
    recorded = b"loss 2.5\ntime 3.1 s\nend\n"
    assert first_difference(b"loss 2.5\ntime 9.9 s\nend\n", recorded) == []
    assert first_difference(b"loss 2.5\nend\n", recorded) == []
    assert first_difference(b"loss 2.6\ntime 3.1 s\nend\n", recorded)
    assert first_difference(b"loss 2.5\n", recorded)
    assert first_difference(recorded + b"more\n", recorded)
    assert first_difference(b"loss 2.5\nsometime 3.1 s\nend\n", recorded)


def refused(**changes: Any) -> Run:
    """A run that refused its data as it should, with changes."""
    sentence = "data/names.txt is damaged (wrong sha256): restore it, or delete it.\n"
    good = Run(1, b"", sentence, {}, {"tier": "folder"}, {"tier": "folder"})
    return good._replace(**changes)


def test_refusals_are_judged() -> None:
    assert refusal_complaints(refused(), NAMES) == []
    assert refusal_complaints(refused(status=0), NAMES)
    assert refusal_complaints(refused(status=2), NAMES)
    assert refusal_complaints(refused(stderr=""), NAMES)
    assert refusal_complaints(refused(stderr="data/names.txt is damaged"), NAMES)
    assert refusal_complaints(refused(stderr="Something is damaged."), NAMES)
    assert refusal_complaints(refused(stderr="names.txt\nis damaged."), NAMES)
    assert refusal_complaints(refused(stderr="Traceback: names.txt is damaged."), NAMES)
    assert refusal_complaints(refused(after={"tier": "folder", "tier/x.part": "00"}), NAMES)
    assert refusal_complaints(refused(after={}), NAMES)


def test_the_sandbox_runs_this_python(tmp_path: Path) -> None:
    text = GOOD.replace('print("step', 'import sys; print(sys.version_info[:3]) or print("step')
    assert run(tmp_path, text).stdout.decode().startswith(str(tuple(sys.version_info[:3])))
