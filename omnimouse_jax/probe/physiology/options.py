"""What a physiology probe does: everything that decides its numbers, with a configuration for a minute."""

from __future__ import annotations

import dataclasses
from typing import Any

from omnimouse_jax.probe.physiology.exciting import Ascent
from omnimouse_jax.probe.physiology.experiment import Protocol
from omnimouse_jax.probe.physiology.receptive_field import SparseNoise

#: What is shown unless said: gain needs behaviour.
REGIME = "video + behavior -> responses"


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings of all experiments. `neurons`: how many have most exciting inputs searched (the best predicted ones)."""

    protocol: Protocol = dataclasses.field(default_factory=Protocol)
    noise: SparseNoise = dataclasses.field(default_factory=SparseNoise)
    ascent: Ascent = dataclasses.field(default_factory=Ascent)
    natural_windows: int = 32
    gradient_windows: int = 16
    gain_windows: int = 16
    neurons: int = 8
    film: bool = True  # also most exciting films
    untrained: bool = True  # the same experiments on the run as it was before training
    spectrum_seconds: float = 0.25  # of a stimulus
    spectrum_first: int = 2
    spectrum_last_share: float = 0.5  # of the population: ranks up to there
    bootstrap: int = 200
    bound: float = 0.0  # RMS contrast of most exciting inputs; 0: the natural stimuli's median
    degrees: float = 0.0  # the screen's width; 0: as the recording says
    seed: int = 0

    @classmethod
    def smoke(cls, seed: int = 0) -> Options:
        """Every experiment once, under a minute on two cores; figures from it are not for reading."""
        return cls(
            protocol=Protocol(
                n_directions=8, n_spatial=3, n_temporal=2, n_phases=2, contrasts=(0.0, 0.1, 0.25, 0.5, 1.0), draws=200,
                diameters=(15.0, 40.0), seed=seed,
            ),
            noise=SparseNoise(n_windows=48, cell_degrees=16.0, seed=seed),
            ascent=Ascent(steps=8, seeds=2, seed=seed),
            natural_windows=16,
            gradient_windows=4,
            gain_windows=8,
            neurons=2,
            untrained=False,
            bootstrap=50,
            seed=seed,
        )  # fmt: skip

    @classmethod
    def of(cls, smoke: bool, seed: int, **changes: Any) -> Options:
        """The full or the smoke configuration with some fields changed where they are not None."""
        protocol, noise, ascent = Protocol(seed=seed), SparseNoise(seed=seed), Ascent(seed=seed)
        base = cls.smoke(seed) if smoke else cls(protocol=protocol, noise=noise, ascent=ascent, seed=seed)
        return dataclasses.replace(base, **{k: v for k, v in changes.items() if v is not None})
