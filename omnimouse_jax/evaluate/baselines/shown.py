"""What a regime shows of some windows of one session, and nothing else: all that a baseline's prediction may depend on.

A baseline is handed a `Shown`, in which everything hidden is NaN or absent, so that it cannot look where a model may not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.collate import neuron_slots
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.regimes import Regime, resolve
from omnimouse_jax.tokens.windows import Window


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Some of a session's neurons (in its order) in samples [first, last) of a window."""

    neurons: Int[np.ndarray, " n"]
    first: int
    last: int

    @property
    def samples(self) -> slice:
        return slice(self.first, self.last)


@dataclasses.dataclass(frozen=True)
class View:
    """A regime as it applies to one session: which of its neurons are shown and asked when, which frames, and behaviour.

    `frames` (first, last) are those that the regime names; equal when the screen is hidden. `slots`: of every neuron.
    """

    grid: Grid
    layout: Layout
    slots: Int[np.ndarray, " neurons"]
    shown: tuple[Stretch, ...]
    asked: tuple[Stretch, ...]
    frames: tuple[int, int]

    @classmethod
    def of(cls, regime: Regime, grid: Grid, n_neurons: int, n_slots: int) -> View:
        layout = resolve(regime, grid, n_slots)
        slots = neuron_slots(n_neurons, layout.n_visible, n_slots)

        def stretches(rectangles: Sequence) -> tuple[Stretch, ...]:
            found = []
            for r in rectangles:
                neurons = np.flatnonzero((slots >= r.first_neuron) & (slots < r.last_neuron))
                if len(neurons):
                    found.append(Stretch(neurons, r.first_sample, r.last_sample))
            return tuple(found)

        frames = (0, 0)
        if layout.video_steps[0] < layout.video_steps[1]:
            first = min(regime.n_visible_frames_start_idx or 0, grid.n_frames)
            n = regime.n_visible_frames
            frames = (first, grid.n_frames if n is None else min(first + n, grid.n_frames))
        return cls(grid, layout, slots, stretches(layout.context), stretches(layout.targets), frames)

    @property
    def sees_screen(self) -> bool:
        return self.frames[0] < self.frames[1]

    @property
    def sees_behavior(self) -> bool:
        return self.layout.behavior == "input"

    @property
    def asks_behavior(self) -> bool:
        return self.layout.behavior == "target"

    @property
    def shown_neurons(self) -> Int[np.ndarray, " n"]:
        """Neurons that are shown at any time."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(s.neurons for s in self.shown)]))

    @property
    def asked_neurons(self) -> Int[np.ndarray, " n"]:
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(s.neurons for s in self.asked)]))

    @property
    def asked_samples(self) -> tuple[int, int]:
        """First and last (exclusive) sample at which any neuron is asked for; (0, 0) if none is."""
        if not self.asked:
            return (0, 0)
        return min(s.first for s in self.asked), max(s.last for s in self.asked)

    @property
    def is_forecast(self) -> bool:
        """Whether some asked sample lies where no neuron is shown."""
        if not self.shown or not self.asked:
            return False
        first, last = self.asked_samples
        covered = np.zeros(self.grid.n_samples, bool)
        for stretch in self.shown:
            covered[stretch.samples] = True
        return not covered[first:last].all()


@dataclasses.dataclass(frozen=True)
class Shown:
    """W windows of one session through a `View`."""

    windows: tuple[Window, ...]
    view: View
    responses: Float[np.ndarray, "W S N"]  # NaN: hidden or not recorded
    frames: Shaped[np.ndarray, "W f H W2"] | None  # the shown frames as stored; None: hidden, or no screen
    behavior: Float[np.ndarray, "W C T"]  # z-scores; NaN: hidden or not recorded

    def __len__(self) -> int:
        return len(self.windows)


@dataclasses.dataclass(frozen=True)
class Truth:
    """What was recorded in the same windows. NaN: not recorded."""

    responses: Float[np.ndarray, "W S N"]
    behavior: Float[np.ndarray, "W C T"]


def shown(batch: Batch, rows: Int[np.ndarray, " W"], windows: Sequence[Window], view: View) -> Shown:
    """What the view lets through of some rows of a batch, all of one session."""
    recorded_WxSxN = truth(batch, rows, view).responses
    visible_SxN = np.zeros(recorded_WxSxN.shape[1:], bool)
    for stretch in view.shown:
        visible_SxN[stretch.first : stretch.last, stretch.neurons] = True
    behavior = np.full((len(rows), *batch.behavior.shape[1:]), np.nan, np.float32)
    if view.sees_behavior:
        behavior = _where(batch.behavior_mask[rows], batch.behavior[rows])
    frames = None
    if view.sees_screen and batch.video_mask[rows].all():
        frames = batch.video[rows, view.frames[0] : view.frames[1]]
    responses = np.where(visible_SxN, recorded_WxSxN, np.float32(np.nan))
    return Shown(tuple(windows), view, responses, frames, behavior)


def truth(batch: Batch, rows: Int[np.ndarray, " W"], view: View) -> Truth:
    """What was recorded of the same rows, neurons in the session's order."""
    at = np.ix_(rows, np.arange(batch.responses.shape[1]), view.slots)
    return Truth(
        _where(batch.response_mask[at], batch.responses[at]), _where(batch.behavior_mask[rows], batch.behavior[rows])
    )


def _where(mask: Bool[np.ndarray, "*s"], values: Float[np.ndarray, "*s"]) -> Float[np.ndarray, "*s"]:
    return np.where(mask, values, np.float32(np.nan))
