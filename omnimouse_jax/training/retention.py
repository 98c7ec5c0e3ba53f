"""Which checkpoints of a run stay: the newest, the best, and a sparse trail that is kept for ever."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple


class Saved(NamedTuple):
    """One checkpoint: when it was saved (seconds since 1970), and its validation loss where that was measured."""

    step: int
    time: float
    loss: float | None


class Retention(NamedTuple):
    """A checkpoint stays if any of these asks for it; so does the one with the lowest validation loss, the first among equals."""

    newest: int = 2
    every: int = 0  # steps that are multiples of it, for ever; 0: none
    minutes: float = 0.0  # one per so many minutes, for ever; 0: none

    @classmethod
    def of(cls, train: Any) -> Retention:
        """By a config's `train` group."""
        return cls(train.keep, train.keep_every, train.keep_minutes)

    def kept(self, saved: Iterable[Saved]) -> set[int]:
        """The steps that stay. What is asked of a subset that stayed is again that subset."""
        rows = sorted(saved)
        steps = {row.step for row in rows[max(0, len(rows) - self.newest) :]}
        if (best := best_of(rows)) is not None:
            steps.add(best)
        if self.every:
            steps |= {row.step for row in rows if row.step % self.every == 0}
        if self.minutes:
            last = -math.inf
            for row in rows:
                if row.time - last >= 60 * self.minutes:
                    steps.add(row.step)
                    last = row.time
        return steps


KEEP_TWO = Retention()


def best_of(saved: Iterable[Saved]) -> int | None:
    """The step with the lowest finite validation loss, or None where none was measured."""
    losses = {row.step: row.loss for row in saved if row.loss is not None and math.isfinite(row.loss)}
    return min(losses, key=lambda step: (losses[step], step)) if losses else None
