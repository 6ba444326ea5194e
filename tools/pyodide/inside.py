"""What run.mjs runs inside Pyodide: one script as __main__, judged by its bars.

The repository's files lie in Pyodide's own file system under /no-magic, this one among them.
Nothing but the standard library is there: tests/isolated.py runs the script, with the network off
and every write seen.
"""

from __future__ import annotations

import os
import sys
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path += [os.path.join(ROOT, "tools"), os.path.join(ROOT, "tests")]

import isolated  # noqa: E402
import run_one  # noqa: E402
import support  # noqa: E402


def complaints(script: str) -> list[str]:
    """Run main() of the script, such as 01-foundations/microgpt.py; return what is wrong."""
    path = os.path.join(ROOT, script)
    report = {"headline": None, "loaded": None, "network": [], "written": [], "changed": []}
    job = {"script": path, "mode": "run", "data_url": None, "port": None, "disk_full": False}
    sys.path.insert(0, os.path.dirname(path))  # as Python does for a script
    os.chdir(ROOT)
    isolated.watch(job, report)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            isolated.work(job, report)
    except SystemExit as problem:
        return [f"it ended early: {problem}"]
    finally:
        report["finished"] = True
        sys.stdout.flush()
    found = [f"reached for the network: {to}" for to in report["network"]]
    found += [f"opened for writing: {to}" for to in report["written"]]
    # The declarations come last: they put stand-ins in the place of pytest and hypothesis.
    declared = run_one.read_declarations(ROOT, run_one.name_of(script))
    if not declared["bars"]:
        found.append("its test module declares no bars")
    failed = support.failed_bars(report["headline"], declared["bars"])
    found += [f"missed the bar {bar}" for bar in failed]
    if failed:
        found.append(f"main() returned {report['headline']}")
    return found
