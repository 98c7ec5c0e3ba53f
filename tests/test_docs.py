"""The commands of the documentation run, as they stand, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


#: What running a page's blocks leaves behind.
LEFT = {
    "start.md": ("studies/first/report/index.html", "scores.json"),
    "training.md": ("runs/long/anneal/20-10/evaluation.json", "runs/long/anneal/40-10/run.json"),
}


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page != "start.md")) for page in LEFT])
def test_the_commands_of_a_page_run(page, tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text())
    assert blocks
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": "",
        "OMNIMOUSE_COMPILE_CACHE": os.environ.get("OMNIMOUSE_COMPILE_CACHE", "/tmp/omnimouse_jax_docs_cache"),
    }
    for language, code in blocks:
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
    for path in LEFT[page]:
        assert (tmp_path / path).exists(), path


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http", "mailto")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_what_a_page_imports_exists(page):
    found = re.findall(r"^ *(from omnimouse_jax\.[\w.]+ import [\w, ]+)$", page.read_text(), re.MULTILINE)
    for line in found:
        exec(line, {})
