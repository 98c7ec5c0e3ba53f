"""Where the seconds of a run went, over all the stretches it was trained in."""

from __future__ import annotations

import dataclasses
import time


@dataclasses.dataclass
class Clock:
    """Seconds and counts of a run so far. What earlier stretches took comes from their checkpoint."""

    seconds: float = 0.0  # from the first step to the last, of every stretch; compiling is not in it
    compile_seconds: float = 0.0
    waiting_for_data: float = 0.0
    validating: float = 0.0
    windows_skipped: int = 0  # of this process: their chunks were damaged
    steps_skipped: int = 0  # their loss or gradient was not finite

    def begin(self) -> None:
        """The first step of this stretch is about to be taken."""
        self.start = time.monotonic()
        self.validating_before, self.waiting_before = self.validating, self.waiting_for_data

    @property
    def stretch(self) -> float:
        """Seconds of this stretch, validation not counted."""
        return time.monotonic() - self.start - (self.validating - self.validating_before)

    @property
    def waiting_here(self) -> float:
        """Seconds of this stretch in which the loop waited for its reader threads."""
        return self.waiting_for_data - self.waiting_before

    def to_json(self) -> dict[str, float]:
        """All stretches up to now."""
        return {**dataclasses.asdict(self), "seconds": self.seconds + time.monotonic() - self.start}
