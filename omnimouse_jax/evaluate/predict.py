"""Predictions of one session along its own time, streamed: memory does not grow with the length of the recording.

One path for the command line and for notebooks: `Job.stream` yields rows that nothing will change any more, in order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.timeline import Asked, Timeline
from omnimouse_jax.progress import Progress
from omnimouse_jax.recordings.sampling import read_behavior, read_responses
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.tokens.collate import neuron_slots
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.training.setup import Parts, predictions

#: Bytes of rows that are handed on at once.
BLOCK_BYTES = 16 * 2**20
RESPONSES, BEHAVIOR = "responses", "behavior"


class Rows(NamedTuple):
    """Rows [first, first + rows) of "responses" (rows, neurons) or "behavior" (rows, channels), in the recording's own units; NaN
    where nothing was predicted.
    """

    array: str
    first: int
    values: Float[np.ndarray, "rows columns"]


@dataclasses.dataclass(frozen=True)
class Job:
    """One recording under one regime: all that decides what is predicted, but the parameters.

    `parts.store` has the recording; `channels` are those of the model's that it has (others would have no units).
    """

    parts: Parts
    recording: Recording
    regime: Regime
    timeline: Timeline
    channels: tuple[str, ...]

    @property
    def arrays(self) -> dict[str, tuple[Asked, int]]:
        """What is asked for: name -> (samples of a window, columns)."""
        asked = {
            RESPONSES: (self.timeline.responses, self.recording.n_neurons),
            BEHAVIOR: (self.timeline.behavior, len(self.channels)),
        }
        return {name: (of, columns) for name, (of, columns) in asked.items() if of.last and columns}

    @property
    def neuron_ids(self) -> Shaped[np.ndarray, " neurons"]:
        """As the store has them; else the number of each neuron."""
        ids = self.recording.neurons.get("unit_id")
        return np.arange(self.recording.n_neurons) if ids is None else np.asarray(ids)

    @property
    def n_asked(self) -> int:
        """Neurons that are asked for, at one time or another."""
        of_slot = _neuron_of_slot(self.recording.n_neurons, self.timeline.layout)
        asked = {int(n) for r in self.timeline.layout.targets for n in of_slot[r.first_neuron : r.last_neuron]}
        return len(asked - {-1})

    def n_rows(self, array: str) -> int:
        return int(self.timeline.first_rows(self.arrays[array][0].rate)[-1])

    def times(self, array: str, lo: int, hi: int) -> Float[np.ndarray, " rows"]:
        """Seconds on the session's axis of rows [lo, hi)."""
        return self.timeline.times(self.arrays[array][0].rate, lo, hi)

    def recorded(self, array: str, lo: int, hi: int) -> Float[np.ndarray, "rows columns"]:
        """What was recorded at rows [lo, hi); NaN where nothing was."""
        times = self.times(array, lo, hi)
        if array == BEHAVIOR:
            return read_behavior(self.recording, times, self.channels)
        return read_responses(self.recording, times)

    def trials(self, array: str, lo: int, hi: int) -> Int[np.ndarray, " rows"]:
        """Row of the session's trials at rows [lo, hi); -1 between trials."""
        trials, times = self.recording.trials, self.times(array, lo, hi)
        found = np.searchsorted(trials.start, times, side="right") - 1
        return np.where((found >= 0) & (times < trials.end[np.maximum(found, 0)]), found, -1)

    def stream(self, params: Any, progress: Progress | None = None) -> Iterator[Rows]:
        """All rows of what is asked for, in blocks of at most `block_rows`, each array from first to last.

        Every window is predicted once; a sample that several are asked for is taken from the earliest.
        """
        timeline, layout = self.timeline, self.timeline.layout
        of_slot = _neuron_of_slot(self.recording.n_neurons, layout)
        scale, mean, spread = self._units()
        picked = [self.parts.model.behavior_channels.index(name) for name in self.channels]
        strips = {name: _Strip(name, self.n_rows(name), columns) for name, (_, columns) in self.arrays.items()}
        cutter, batch_size = self.parts.cutter((timeline.session,)), self.parts.config.evaluation.batch_size
        batches = EvaluationBatches(cutter, timeline.windows, self.regime, batch_size)
        number = 0
        for windows, _, predicted, _ in predictions(self.parts, params, batches):
            for in_batch in range(len(windows)):
                if RESPONSES in strips:
                    row, strip = timeline.row(number, timeline.responses.rate), strips[RESPONSES]
                    yield from strip.before(row + timeline.responses.first)
                    for rectangle, values_BxSxN in zip(layout.targets, predicted.responses, strict=True):
                        neurons = of_slot[rectangle.first_neuron : rectangle.last_neuron]
                        there = neurons >= 0
                        values = values_BxSxN[in_batch][:, there] * scale[neurons[there]]
                        strip.put(row + rectangle.first_sample, neurons[there], values)
                if BEHAVIOR in strips:
                    row, strip = timeline.row(number, timeline.behavior.rate), strips[BEHAVIOR]
                    yield from strip.before(row)
                    strip.put(row, np.arange(len(picked)), predicted.behavior[in_batch][picked].T * spread + mean)
                number += 1
            if progress is not None:
                progress.show(number, "windows")
        for strip in strips.values():
            yield from strip.before(strip.n_rows)

    def _units(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the model's numbers are multiplied with, of responses; mean and scale of behaviour."""
        recording = self.recording
        assert recording.response_scale is not None
        mean = [recording.behavior_mean[name] for name in self.channels]
        spread = [recording.behavior_scale[name] for name in self.channels]
        return recording.response_scale.astype(np.float32), np.array(mean, np.float32), np.array(spread, np.float32)


def require_fit(parts: Parts, recording: Recording) -> None:
    """UserError unless the recording is one that the model's rows of its session can predict."""
    entry, key, size = parts.vocabulary.entry(recording.key), recording.key, parts.model.screen
    if recording.n_neurons != entry.n_neurons:
        raise UserError(
            f"session {key}: {recording.n_neurons} neurons, the model knows {entry.n_neurons} of it",
            way_out="give the recording that the model was trained on, in its order of neurons",
        )
    if recording.screen is not None and (recording.screen.height, recording.screen.width) != tuple(size):
        found = f"{recording.screen.height}x{recording.screen.width}"
        raise UserError(
            f"session {key}: screen is {found}, the model's is {size[0]}x{size[1]}",
            way_out="resize the frames to the model's screen",
        )
    statistics = {"response_scale": recording.response_scale is None}
    statistics["behavior_mean"] = bool(set(recording.channels) - set(recording.behavior_mean))
    statistics["behavior_scale"] = bool(set(recording.channels) - set(recording.behavior_scale))
    if lacking := [name for name, lacks in statistics.items() if lacks]:
        raise UserError(
            f"session {key}: the recording has no {lacking[0]}, without which its units are not known",
            way_out=f"dataclasses.replace(recording, {lacking[0]}=...) with that of the recording trained on",
        )


def block_rows(n_columns: int) -> int:
    """Rows of a block."""
    return max(1, BLOCK_BYTES // (4 * max(1, n_columns)))


class _Strip:
    """Rows of one array, filled from left to right: the first value that a sample gets stays."""

    def __init__(self, name: str, n_rows: int, n_columns: int):
        self.name, self.n_rows, self.n_columns = name, n_rows, n_columns
        self.each = block_rows(n_columns)
        self.done = 0  # rows that were handed on
        self.open: list[np.ndarray] = []  # blocks from there on

    def put(self, row: int, columns: Int[np.ndarray, " n"], values: Float[np.ndarray, "samples n"]) -> None:
        at = 0
        while at < len(values):
            block, inside = divmod(row + at - self.done, self.each)
            while len(self.open) <= block:
                self.open.append(self._empty(len(self.open)))
            target = self.open[block]
            n = min(len(target) - inside, len(values) - at)
            part = target[inside : inside + n]
            old = part[:, columns]
            part[:, columns] = np.where(np.isnan(old), values[at : at + n], old)
            at += n

    def before(self, row: int) -> Iterator[Rows]:
        """Hands on all blocks that end before a row; nothing may be put there any more."""
        while self.done < self.n_rows and min(self.done + self.each, self.n_rows) <= row:
            values = self.open.pop(0) if self.open else self._empty(0)
            yield Rows(self.name, self.done, values)
            self.done += len(values)

    def _empty(self, block: int) -> np.ndarray:
        first = self.done + block * self.each
        return np.full((min(self.each, self.n_rows - first), self.n_columns), np.nan, np.float32)


def _neuron_of_slot(n_neurons: int, layout: Layout) -> Int[np.ndarray, " slots"]:
    """The neuron in each slot, -1 at padding: in evaluation neurons keep the session's order."""
    found = np.full(layout.n_neurons, -1)
    found[neuron_slots(n_neurons, layout.n_visible, layout.n_neurons)] = np.arange(n_neurons)
    return found
