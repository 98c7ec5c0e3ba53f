"""One pass over the windows of a task: running sums per session, finished session by session so that few are in memory."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.ceilings.ceiling import LEAST_REPEATS
from omnimouse_jax.evaluate.ceilings.stimuli import RepeatedStimuli, Visited
from omnimouse_jax.evaluate.metrics.poisson import PoissonSums
from omnimouse_jax.evaluate.metrics.pooled import PooledCorrelation, TrialSums
from omnimouse_jax.evaluate.metrics.repeats import RepeatSums
from omnimouse_jax.evaluate.sources import ModelSource, Source
from omnimouse_jax.recordings.session import Trials
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.pipeline import EvaluationBatches, slots_for
from omnimouse_jax.tokens.regimes import Regime, resolve
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.setup import Parts

#: Blocks of trials at most, and numbers that they may take of one session: memory does not grow with the trials.
MOST_BLOCKS, LEAST_BLOCKS, BLOCK_NUMBERS = 64, 16, 1_000_000


@dataclasses.dataclass(frozen=True)
class TrialBlocks:
    """The trials that are scored, in order of time, some next to each other joined where they are many.

    A sample belongs to the trial that began last, so the blank after a trial is the trial's.
    """

    start: Float[np.ndarray, " blocks"]  # of the first trial of each, seconds on the session's axis
    end: Float[np.ndarray, " blocks"]
    first_trial: Int[np.ndarray, " blocks"]
    n_trials: Int[np.ndarray, " blocks"]

    @classmethod
    def of(cls, trials: Trials, tiers: Sequence[str], n_units: int) -> TrialBlocks:
        """Of the valid trials of these tiers; blanks are in the block of the trial before them."""
        used = trials.valid & np.isin(trials.tier, list(tiers)) & (trials.modality != "invalid") & ~trials.withheld
        stimuli = used & (trials.modality != "blank")
        chosen = np.flatnonzero(stimuli if stimuli.any() else used)
        n = len(chosen)
        most = int(np.clip(BLOCK_NUMBERS // (6 * n_units), LEAST_BLOCKS, MOST_BLOCKS))
        block = np.arange(n) * min(n, most) // max(n, 1)
        _, first, count = np.unique(block, return_index=True, return_counts=True)
        start, end = trials.start.astype(np.float64), trials.end.astype(np.float64)
        return cls(start[chosen[first]], end[chosen[first + count - 1]], chosen[first], count)

    def __len__(self) -> int:
        return len(self.start)

    def locate(self, times: Float[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The block of each time; what comes before the first counts to the first."""
        return np.maximum(np.searchsorted(self.start, times + 1e-6, side="right") - 1, 0)


class SessionScores:
    """Running sums of one session under one regime."""

    def __init__(self, parts: Parts, key: str, layout: Layout):
        entry, trials = parts.vocabulary.entry(key), parts.store.recording(key).trials
        n, self._first_row = entry.n_neurons, entry.first_row
        tiers, grid = parts.config.evaluation.tiers, parts.model.grid
        self.grid, self.layout = grid, layout
        self.n_windows = 0
        self.blocks = TrialBlocks.of(trials, tiers, n)
        asked = bool(layout.targets)
        self.responses = TrialSums(len(self.blocks), n if asked else 0)
        self.behavior = TrialSums(len(self.blocks), parts.model.n_channels)
        self.poisson = PoissonSums(n if asked else 0)
        self.horizons = horizons(layout)
        self.ahead = PooledCorrelation(len(self.horizons) * n)
        contents = parts.store.trial_contents(key)
        self.stimuli = RepeatedStimuli.of(trials, contents, tiers, grid.response_rate, LEAST_REPEATS)
        block, self.stimulus_blocks = self.stimuli.blocks()
        showings = int(self.stimuli.showing.max(initial=0)) + 1
        self.repeats = RepeatSums(self.stimuli.n_groups if asked else 0, n, block if asked else None, showings)
        self._visited = Visited(self.stimuli)

    def add(self, window: Window, batch: Any, predicted: Any, row: int) -> None:
        """One window of a batch."""
        self.n_windows += 1
        grid = self.grid
        if self.layout.targets:
            times = window.start + np.arange(grid.n_samples) / grid.response_rate
            trial, group = self.stimuli.locate(times)
            asked = np.zeros(grid.n_samples, bool)
            for rectangle in self.layout.targets:
                asked[rectangle.first_sample : rectangle.last_sample] = True
            group = self._visited.fresh(trial, np.where(asked, group, -1))
            self._add_responses(batch, predicted, row, times, trial, group)
        if predicted.behavior is not None:
            times = window.start + np.arange(grid.n_behavior) / grid.behavior_rate
            values = (predicted.behavior[row].T, batch.behavior[row].T, batch.behavior_mask[row].T)
            self.behavior.update(slice(None), self.blocks.locate(times), *values)

    def _add_responses(
        self, batch: Any, predicted: Any, row: int, times: np.ndarray, trial: np.ndarray, group: np.ndarray
    ) -> None:
        block = self.blocks.locate(times)
        for rectangle, predicted_BxSxN in zip(self.layout.targets, predicted.responses, strict=True):
            samples = slice(rectangle.first_sample, rectangle.last_sample)
            slots = slice(rectangle.first_neuron, rectangle.last_neuron)
            real = batch.neuron_mask[row, slots]
            neurons = batch.neuron_rows[row, slots][real] - self._first_row
            p, t = predicted_BxSxN[row][:, real], batch.responses[row, samples, slots][:, real]
            mask = batch.response_mask[row, samples, slots][:, real]
            self.responses.update(neurons, block[samples], p, t, mask)
            self.poisson.update(neurons, p, t, mask)
            if len(self.horizons):
                self._add_horizons(neurons, rectangle.first_sample, p, t, mask)
            shown, groups = trial[samples], group[samples]
            for number in np.unique(shown[groups >= 0]):  # within one trial no group comes twice
                of = shown == number
                self.repeats.update(groups[of], int(self.stimuli.showing[number]), neurons, p[of], t[of], mask[of])

    def _add_horizons(self, neurons: np.ndarray, first: int, p: np.ndarray, t: np.ndarray, mask: np.ndarray) -> None:
        n = len(self.ahead.count) // len(self.horizons)
        at = (first + np.arange(len(p)) - self.horizons[0])[:, None] * n + neurons[None, :]
        self.ahead.update(at.ravel(), *(x.reshape(1, -1) for x in (p, t, mask)))


def horizons(layout: Layout) -> Int[np.ndarray, " horizons"]:
    """Samples of a window that are forecast, where what is shown of neurons comes before all that is asked of them; else none."""
    if not layout.context or not layout.targets:
        return np.zeros(0, np.int64)
    first = min(r.first_sample for r in layout.targets)
    if first < max(r.last_sample for r in layout.context):
        return np.zeros(0, np.int64)
    return np.arange(first, max(r.last_sample for r in layout.targets))


def seconds_ahead(layout: Layout) -> Float[np.ndarray, " horizons"]:
    """How long after the last sample that was shown each of `horizons` is."""
    shown = max((r.last_sample for r in layout.context), default=0) - 1
    return (horizons(layout) - shown) / layout.grid.response_rate


def alike(parts: Parts, regime: Regime, sessions: Sequence[str]) -> list[tuple[str, ...]]:
    """Sessions that are scored together. A regime that tells neurons apart (shows some, asks for some) is resolved for each number
    of slots by itself: which neurons of a session are shown must not depend on what is scored beside it.

    Where it shows more neurons than some session has, all are laid out as the largest, and small ones show half of theirs.
    """
    slots = {key: slots_for(parts.vocabulary.entry(key).n_neurons) for key in sessions}
    try:
        layouts = [resolve(regime, parts.model.grid, n) for n in set(slots.values())]
    except UserError:
        return [tuple(sessions)]
    if not any(_tells_apart(layout) for layout in layouts):
        return [tuple(sessions)]
    return [tuple(key for key in sessions if slots[key] == n) for n in dict.fromkeys(slots.values())]


def _tells_apart(layout: Layout) -> bool:
    every = (0, layout.n_neurons)
    asked = {(r.first_neuron, r.last_neuron) for r in layout.targets}
    return layout.n_visible not in every or bool(asked - {every})


def scored_sessions(
    parts: Parts, source: Source, batches: EvaluationBatches, sessions: Sequence[str]
) -> Iterator[tuple[str, SessionScores]]:
    """(session, its sums) as soon as all of its windows were predicted; windows come session by session. Those of sessions that
    are not named are left out.
    """
    of = Counter(batches.windows[number].session for number in range(len(batches.windows)))
    left = {key: of[key] for key in sessions}
    open_scores: dict[str, SessionScores] = {}
    for windows, batch, predicted in source.predictions(parts, batches):
        for row, window in enumerate(windows):
            key = window.session
            if key not in left:
                continue
            if key not in open_scores:
                open_scores[key] = SessionScores(parts, key, batches.layout)
            open_scores[key].add(window, batch, predicted, row)
            left[key] -= 1
            if not left[key]:
                yield key, open_scores.pop(key)


def session_scores(
    parts: Parts, params: Any, batches: EvaluationBatches, sessions: Sequence[str]
) -> dict[str, SessionScores]:
    """All sums together; `params` are a model's, or a `Source`."""
    return dict(scored_sessions(parts, source_of(params), batches, sessions))


def source_of(params: Any) -> Source:
    """What answers windows: a source as it is, parameters as the model that has them."""
    return params if hasattr(params, "predictions") else ModelSource(params)
