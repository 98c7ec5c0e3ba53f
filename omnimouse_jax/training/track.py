"""What a run says of itself: metrics.jsonl, and small JSON files written atomically."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` in one move, so that no reader ever sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=1, default=_plain)
            file.write("\n")
        os.chmod(temporary, 0o644)  # it was made for its owner only
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class Metrics:
    """Rows of metrics.jsonl, one JSON object a line. On resume, lines past the restored step are cut."""

    def __init__(self, workdir: Path, resume_step: int):
        self.path = workdir / "metrics.jsonl"
        workdir.mkdir(parents=True, exist_ok=True)
        kept = [line for line in self._lines() if json.loads(line)["step"] <= resume_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept))
        os.replace(temporary, self.path)
        self.file = self.path.open("a")

    def write(self, step: int, values: dict[str, Any]) -> None:
        self.file.write(json.dumps({"step": step, **values}, default=_plain) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        whole = self.path.read_text().split("\n")[:-1]  # a line without its newline was cut off by a crash
        return [line for line in whole if line.strip()]


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
