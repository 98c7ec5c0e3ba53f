"""What `probe similarity` can be asked."""

from __future__ import annotations

import dataclasses

RECORDED, UNTRAINED = "recorded", "untrained"
#: Of the RDMs that are compared; the first one also between mice and areas.
DISTANCES = ("crossnobis", "correlation")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a result was made with; it is stored beside it."""

    regime: str = "stimulus"
    tier: str = "test"
    bin_s: float = 0.5
    block_s: float = 2.0  # stretches of a stimulus that are drawn, and change places, together
    noise: str = "diagonal"  # precision of crossnobis, from the recording's repeats; the same for predictions
    compare: str = "pearson"  # the comparison that has intervals, reliability and a null
    least_reliability: float = -1.0  # neurons whose odd and even showings correlate less are left out; -1: none is
    splits: int = 20
    bootstrap: int = 500
    permutations: int = 500
    shuffles: int = 10
    draws: int = 10
    tower: bool = True  # also compare what the core's tower holds
    seed: int = 0

    def smoke(self) -> Settings:
        """Coarser, for a look within a minute."""
        return dataclasses.replace(
            self, bin_s=1.0, splits=6, bootstrap=100, permutations=100, shuffles=3, draws=3, tower=False
        )
