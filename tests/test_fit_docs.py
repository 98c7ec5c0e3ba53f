"""The page about fits: its commands run as they stand and print what the page says they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "fits.md"


def test_the_fit_of_the_page_prints_what_the_page_shows(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    shown = re.findall(r"^```text\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    printed = ""
    for code in blocks:
        done = subprocess.run(
            ["bash", "-euc", code], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        printed += done.stdout
    for block in shown:
        for line in block.splitlines():
            # the last digits of an optimum differ between processors
            stable = re.sub(r"gradient \S+|condition \S+", "", re.sub(r"(\d\.\d{2})\d+", r"\1", line))
            assert stable in re.sub(r"gradient \S+|condition \S+", "", re.sub(r"(\d\.\d{2})\d+", r"\1", printed)), line
    assert (tmp_path / "fit.json").exists()
