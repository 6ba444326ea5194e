"""docs/from-no-magic-to-production.md: every script is on it, and its examples run."""

from __future__ import annotations

import re

import pytest
from support import ROOT, scripts

PAGE = ROOT / "docs" / "from-no-magic-to-production.md"
ENTRY = re.compile(
    r"^### \[(\w+)\]\(\.\./([\w-]+)/\w+\.py\): [^\n]+\n\n"
    r"(<!-- not run: [^\n]+ -->\n)?```python\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
ENTRIES = {
    name: (tier, not_run, code)
    for name, tier, not_run, code in ENTRY.findall(PAGE.read_text("utf-8"))
}


def test_every_script_has_an_entry() -> None:
    assert {path.stem: path.parent.name for path in scripts()} == {
        name: tier for name, (tier, _, _) in ENTRIES.items()
    }


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.filterwarnings("ignore")
def test_the_example_runs(name: str, tmp_path, monkeypatch) -> None:
    _, not_run, code = ENTRIES[name]
    assert (ROOT / "tests" / "parity" / f"test_{name}.py").exists()
    if not_run:
        compile(code, name, "exec")
        return
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    exec(compile(f"import torch\n{code}", name, "exec"), {"__name__": "example"})
