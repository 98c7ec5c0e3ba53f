"""docs/new_mouse.md runs as it stands: from arrays to an adapted model, its page, its predictions, and a notebook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import BLOCK, ROOT


@pytest.mark.slow
def test_from_a_recording_to_a_notebook(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    page = (ROOT / "docs" / "new_mouse.md").read_text()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "XLA_FLAGS": "",
        "OMNIMOUSE_COMPILE_CACHE": os.environ.get("OMNIMOUSE_COMPILE_CACHE", "/tmp/omnimouse_jax_docs_cache"),
    }
    printed = ""
    for language, code in BLOCK.findall(page):
        command = [sys.executable, "-c", code] if language == "python" else ["bash", "-euc", code]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    told = page.split("```text\n")[1].split("\n```")[0]
    assert told in printed
    result = json.loads((tmp_path / "adapted/mouse7/result.json").read_text())
    assert {row["method"] for row in result["scores"]} == {"before", "adapted", "scratch", "ridge"}
    assert "mouse7-1" in (tmp_path / "adapted/mouse7/index.html").read_text()
    assert (tmp_path / "mouse7.zarr/mouse7-1/responses/zarr.json").exists()
