"""How long work tells where it is: one line, with what is left."""

from __future__ import annotations

import math
import sys
import time
from typing import TextIO


class Progress:
    """One line that says where a long job is: rewritten in place on a terminal, printed now and then elsewhere.

    Not `shown`: for processes that have another speak for them.
    """

    def __init__(
        self,
        total: int,
        first: int = 0,
        label: str = "",
        out: TextIO | None = None,
        every_s: float = 10.0,
        shown: bool = True,
    ):
        self.total, self.first, self.label, self.shown = total, first, label, shown
        self.out = out if out is not None else sys.stderr
        self.live = self.out.isatty()
        self.every_s = 0.5 if self.live else every_s
        self.start = self.last = time.monotonic()

    def show(self, done: int, told: str = "", force: bool = False) -> None:
        """`done` of `total`; prints only when it is time to."""
        now = time.monotonic()
        if not self.shown or (not force and now - self.last < self.every_s):
            return
        self.last = now
        here = done - self.first
        left = (now - self.start) / here * (self.total - done) if here > 0 else float("nan")
        line = f"{self.label}{done}/{self.total}  {told}  ETA {duration(left)}"
        self.out.write(f"\r\x1b[K{line}" if self.live else line + "\n")
        self.out.flush()

    def close(self) -> None:
        if self.live and self.shown:
            self.out.write("\r\x1b[K")
            self.out.flush()


def duration(seconds: float) -> str:
    """75 -> 1m15s."""
    if not math.isfinite(seconds):
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
