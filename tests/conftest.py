"""Settings that every test shares."""

import importlib.util
import os
import sys

from hypothesis import settings

# Without the heavy libraries the comparisons with them cannot run (tests/run.py --parity can), and
# without Manim the films cannot (tests/run.py --videos).
NEEDED = {"parity": "torch", "videos": "manim"}
collect_ignore = [folder for folder, need in NEEDED.items() if not importlib.util.find_spec(need)]

# Scripts are imported straight from their folders; leave no caches beside them.
sys.dont_write_bytecode = True

# No deadline: cores are shared, and a slow moment is no failure. In CI every run draws the same
# examples, so that a change is judged by what it changes; on a desk they are fresh each time.
settings.register_profile("no-magic", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("no-magic")
