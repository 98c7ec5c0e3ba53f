"""Drifting gratings on a flat screen, in degrees: what is shown, and the grid of conditions of an experiment."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.physiology.subject import Geometry


@dataclasses.dataclass(frozen=True)
class Grating:
    """A sinusoid drifting to `direction` (degrees, 0 to the right, 90 up), full field or in a disc with soft edge.

    `contrast` is Michelson's around the screen's grey where that is the middle of its range; elsewhere contrast 1 is the largest
    sinusoid around the grey that the range holds. `phase` in cycles at onset in the disc's centre.
    """

    direction: float
    spatial_frequency: float  # cycles/degree
    temporal_frequency: float  # Hz
    contrast: float = 1.0
    phase: float = 0.0
    x: float = 0.0  # degrees, the disc's centre
    y: float = 0.0
    diameter: float = math.inf


def draw(
    gratings: Sequence[Grating], geometry: Geometry, onset_s: float, still: bool = False
) -> Float[np.ndarray, "W F H W_"]:
    """Frames in [0, 1]: grey, and from `onset_s` on the grating (not moving: `still`)."""
    x, y = geometry.pixels()
    times = np.arange(geometry.n_frames) / geometry.frame_rate - onset_s
    seen = times >= -1e-9
    moved = np.where(seen, 0.0 if still else times, 0.0)
    swing = min(geometry.grey, 1 - geometry.grey)
    column = {
        field.name: np.array([getattr(g, field.name) for g in gratings], np.float64)
        for field in dataclasses.fields(Grating)
    }
    angle = np.deg2rad(column["direction"])[:, None, None]
    dx, dy = x - column["x"][:, None, None], y - column["y"][:, None, None]
    space = column["spatial_frequency"][:, None, None] * (np.cos(angle) * dx + np.sin(angle) * dy)
    space = 2 * np.pi * (space + column["phase"][:, None, None])
    turned = 2 * np.pi * column["temporal_frequency"][:, None] * moved
    # sin(a - b) from the sines of each keeps this a product of a picture and a time course
    wave = (
        np.sin(space)[:, None] * np.cos(turned)[..., None, None]
        - np.cos(space)[:, None] * np.sin(turned)[..., None, None]
    )
    edge = (column["diameter"][:, None, None] / 2 - np.hypot(dx, dy)) / geometry.degrees_per_pixel
    mask = np.clip(edge + 0.5, 0.0, 1.0) * (column["contrast"] * swing)[:, None, None]
    return (geometry.grey + mask[:, None] * wave * seen[:, None, None]).astype(np.float32)


def drawer(
    gratings: Sequence[Grating], geometry: Geometry, onset_s: float
) -> Callable[[range], Float[np.ndarray, "w F H W_"]]:
    """`Subject.responses` draws a batch of these at a time."""
    return lambda numbers: draw(gratings[numbers.start : numbers.stop], geometry, onset_s)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """The values that an experiment crosses. Frequencies are spaced evenly in their logarithm."""

    directions: tuple[float, ...]
    spatial_frequencies: tuple[float, ...]
    temporal_frequencies: tuple[float, ...]
    phases: tuple[float, ...]

    @classmethod
    def of(cls, geometry: Geometry, n_directions: int, n_spatial: int, n_temporal: int, n_phases: int) -> Conditions:
        """From one cycle on the screen to .35 cycles per pixel, and from .75 Hz to a fifth of the frame rate."""
        finest = 0.35 / geometry.degrees_per_pixel
        return cls(
            tuple((np.arange(n_directions) * 360.0 / n_directions).tolist()),
            tuple(np.geomspace(1.0 / geometry.degrees, finest, n_spatial).tolist()),
            tuple(np.geomspace(0.75, geometry.frame_rate / 5, n_temporal).tolist()),
            tuple((np.arange(n_phases) / n_phases).tolist()),
        )

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Directions, spatial frequencies, temporal frequencies, phases."""
        return (
            len(self.directions),
            len(self.spatial_frequencies),
            len(self.temporal_frequencies),
            len(self.phases),
        )

    def gratings(self, contrast: float = 1.0) -> list[Grating]:
        """All combinations, the last named changing fastest."""
        values = (self.directions, self.spatial_frequencies, self.temporal_frequencies, self.phases)
        return [Grating(d, sf, tf, contrast, phase) for d, sf, tf, phase in itertools.product(*values)]
