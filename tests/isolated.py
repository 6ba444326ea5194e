"""Run one script in this process, with the network off and every write seen; then report.

The tests start it as `python -I -S -B isolated.py JOB`, where JOB is JSON:
    script     path of the script
    mode       "import": only import it; "run": call its main(); "load": call main() until its
               load_data() returns
    report     path of the file for the report
    data_url   what DATA_URL becomes (None: as it stands)
    port       the one port of this machine that may be reached (None: none)
    disk_full  true: every attempt to write a file fails
The report is JSON: headline, loaded, network, written, changed.
"""

from __future__ import annotations

import ast
import errno
import gc
import hashlib
import json
import os
import random
import sys
import types

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC


class Loaded(BaseException):
    """Ends main() once its data is there; no `except Exception` of a script stops it."""


def watch(job: dict, report: dict) -> None:
    """Refuse the network, and note every file that is opened for writing."""

    def hook(event: str, args: tuple) -> None:
        if report.get("finished"):
            return
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            address = args[1]  # text for a socket between processes, which is allowed
            refuse = isinstance(address, tuple) and address[1] != job["port"]
        elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
            address = args
            refuse = job["port"] is None or job["port"] not in args
        elif event == "open":
            path, _, flags = args
            if isinstance(path, (str, bytes)) and (flags or 0) & WRITING:
                if os.fsdecode(path) == os.devnull:
                    return
                report["written"].append(os.fsdecode(path))
                if job["disk_full"]:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return
        else:
            return
        if refuse:
            report["network"].append(str(address))
            raise OSError("the network is off in this test")

    sys.addaudithook(hook)


def state() -> dict[str, object]:
    """What importing a script must leave as it is."""
    return {
        "the state of random": random.getstate(),
        "the garbage collector": (gc.isenabled(), gc.get_threshold()),
        "the recursion limit": sys.getrecursionlimit(),
        "sys.path": list(sys.path),
        "the environment": dict(os.environ),
        "the working directory": os.getcwd(),
        "stdout": id(sys.stdout),
    }


def load(path: str, name: str) -> types.ModuleType:
    """Import the script as a module of this name, without the last lines that call main()."""
    with open(path, "rb") as file:
        tree = ast.parse(file.read(), path)
    last = tree.body[-1]
    if isinstance(last, ast.If) and ast.unparse(last.test) == "__name__ == '__main__'":
        tree.body.pop()
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(compile(tree, path, "exec", dont_inherit=True), module.__dict__)
    return module


def stop_when_loaded(module: types.ModuleType, report: dict) -> None:
    """Let load_data() end the run as soon as it has returned the bytes of a file."""
    load_data = module.load_data

    def load_data_and_stop(filename: str, sha256: str) -> bytes:
        content = load_data(filename, sha256)
        report["loaded"] = [filename, hashlib.sha256(content).hexdigest()]
        raise Loaded

    module.load_data = load_data_and_stop


def work(job: dict, report: dict) -> None:
    """Do what the job says; whatever the script raises goes on."""
    script = job["script"]
    sys.argv = [script]
    if job["mode"] == "import":
        before = state()
        load(script, os.path.splitext(os.path.basename(script))[0])
        after = state()
        report["changed"] = [what for what in before if before[what] != after[what]]
        return
    # As __main__, so that processes which the script starts find its functions.
    module = load(script, "__main__")
    if job["data_url"] is not None:
        module.DATA_URL = job["data_url"]
    if job["mode"] == "load":
        stop_when_loaded(module, report)
    result = module.main()
    if not isinstance(result, dict):
        raise TypeError(f"main() must return a dict, not {type(result).__name__}")
    numbers = {key: value for key, value in result.items() if key != "details"}
    report["headline"] = {
        str(key): value if isinstance(value, (bool, int, float)) else repr(value)
        for key, value in numbers.items()
    }


def main() -> None:
    """Read the job, do it, and write the report whatever happened."""
    job = json.loads(sys.argv[1])
    report = {"headline": None, "loaded": None, "network": [], "written": [], "changed": []}
    watch(job, report)
    try:
        work(job, report)
    except Loaded:
        pass
    finally:
        report["finished"] = True
        with open(job["report"], "w", encoding="utf-8") as file:
            json.dump(report, file)


if __name__ == "__main__":
    main()
