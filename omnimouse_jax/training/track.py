"""What a run says of itself: metrics.jsonl, small JSON files written atomically, and one progress line."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TextIO

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


class Progress:
    """One line that says where a long job is: rewritten in place on a terminal, printed now and then elsewhere."""

    def __init__(self, total: int, first: int = 0, label: str = "", out: TextIO | None = None, every_s: float = 10.0):
        self.total, self.first, self.label = total, first, label
        self.out = out if out is not None else sys.stderr
        self.live = self.out.isatty()
        self.every_s = 0.5 if self.live else every_s
        self.start = self.last = time.monotonic()

    def show(self, done: int, told: str = "", force: bool = False) -> None:
        """`done` of `total`; prints only when it is time to."""
        now = time.monotonic()
        if not force and now - self.last < self.every_s:
            return
        self.last = now
        here = done - self.first
        left = (now - self.start) / here * (self.total - done) if here > 0 else float("nan")
        line = f"{self.label}{done}/{self.total}  {told}  ETA {duration(left)}"
        self.out.write(f"\r\x1b[K{line}" if self.live else line + "\n")
        self.out.flush()

    def close(self) -> None:
        if self.live:
            self.out.write("\r\x1b[K")
            self.out.flush()


def duration(seconds: float) -> str:
    """75 -> 1m15s."""
    if not np.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
