"""What a run says of itself: metrics.jsonl, and small JSON files written atomically."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.files import write_atomically
from omnimouse_jax.training.disk import told_plainly

#: What to do where a line or a small file of a run does not fit on the disk.
AGAIN = "run the same command again to go on from the newest checkpoint"


def write_json(path: Path, value: Any) -> None:
    """Replaces `path` in one move, so that no reader ever sees half a file. UserError where the disk is full."""
    with told_plainly(path, "written"):
        write_atomically(path, json.dumps(value, indent=1, default=_plain) + "\n")


class Metrics:
    """Rows of metrics.jsonl, one JSON object a line, one line a step.

    On resume, lines past the restored step are cut, and so is what a crash left behind: half a line, or no text at all. With
    `writes=False` (all processes but the first) nothing is touched.
    """

    def __init__(self, workdir: Path, resume_step: int, writes: bool = True):
        self.path = workdir / "metrics.jsonl"
        self.last = -1
        self.file = None
        if not writes:
            return
        with told_plainly(self.path, "written", AGAIN):
            workdir.mkdir(parents=True, exist_ok=True)
            rows = {step: row for step, row in read_metrics(workdir).items() if step <= resume_step}
            temporary = self.path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
            os.replace(temporary, self.path)
            self.file = self.path.open("a")
            self.last = max(rows, default=-1)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """The line of a step, which must come after all that were written."""
        if self.file is None:
            return
        if step <= self.last:
            raise ValueError(f"{self.path}: step {step} after step {self.last}")
        with told_plainly(self.path, "written", AGAIN):
            self.file.write(json.dumps({"step": step, **values}, default=_plain) + "\n")
            self.file.flush()
        self.last = step

    def sync(self) -> None:
        """What was written is on the disk when this returns: a checkpoint's steps before the checkpoint."""
        if self.file is not None:
            with told_plainly(self.path, "written", AGAIN):
                os.fsync(self.file.fileno())

    def close(self) -> None:
        if self.file is not None:
            self.file.close()


def read_metrics(workdir: Path) -> dict[int, dict[str, Any]]:
    """Step -> its row of metrics.jsonl, in order of steps; of lines for the same step, the later one adds to the first.

    What is not a row is left out: a crash can leave half a line or zeros.
    """
    path = workdir / "metrics.jsonl"
    rows: dict[int, dict[str, Any]] = {}
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else ():  # the last one has no newline: cut off
        try:
            row = json.loads(line.decode())
        except ValueError:
            continue
        if isinstance(row, dict) and type(step := row.get("step")) is int:
            rows[step] = {**rows.get(step, {}), **row}
    return dict(sorted(rows.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
