"""Baselines made of the model itself: untrained, untrained with a fitted readout, and trained but shown the wrong film."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.evaluate.baselines.constant import StimulusClock, mean_response
from omnimouse_jax.evaluate.baselines.features import Rotation
from omnimouse_jax.evaluate.baselines.problem import N_FOLDS, Fits, NotApplicable, Problem, each, laid_out
from omnimouse_jax.evaluate.baselines.ridge import Ridge, blocked_folds, ridge_fit
from omnimouse_jax.evaluate.baselines.shown import View
from omnimouse_jax.evaluate.sources import Answered, ModelSource
from omnimouse_jax.tokens.pipeline import Cutter, EvaluationBatches
from omnimouse_jax.tokens.windows import Sample, Window
from omnimouse_jax.training.setup import Parts, predictions
from omnimouse_jax.training.step import init_params

SHUFFLE_STREAM = 33
#: Moments of a window at which stimuli are compared.
MOMENTS = 16


@dataclasses.dataclass(frozen=True)
class Known:
    """In place of a fit, where nothing has to be fitted to a session."""

    note: str = ""
    predicts: tuple[str, ...] = ("response", "behavior")


@dataclasses.dataclass(frozen=True)
class Untrained:
    about: str = "the same architecture as it is before training: core, tables and readouts drawn at random"

    def fit(self, problem: Problem) -> Fits:
        return dict.fromkeys(problem.sessions, Known(f"seed {problem.seed}"))

    def source(self, problem: Problem, name: str, fits: Fits) -> ModelSource:
        return ModelSource(untrained_params(problem), name)


def untrained_params(problem: Problem) -> Any:
    parts = problem.parts
    return init_params(parts.model, parts.capacity, problem.seed, parts.mesh, parts.trained)


@dataclasses.dataclass(frozen=True)
class UntrainedReadout:
    """The untrained model's answers for all asked neurons are as many random readouts of its core. A ridge regression from these to
    a neuron's responses is a fitted linear readout of a random core: what the architecture does without learning.
    """

    about: str = "the untrained core with a readout fitted by ridge regression"

    def fit(self, problem: Problem) -> Fits:
        if not problem.any_view.asked:
            return dict.fromkeys(problem.sessions, NotApplicable("no responses are asked for"))
        params = untrained_params(problem)

        def fit(key: str, found: Any) -> Any:
            windows = list(found.shown.windows)
            if len(windows) < 2:
                return NotApplicable("fewer than two training windows, so no penalty can be chosen")
            view, batches = problem.view(key), problem.batches(windows)
            x = np.concatenate(
                [
                    _asked(p.responses, view)[: len(w)]
                    for w, _, p in ModelSource(params).predictions(problem.parts, batches)
                ]
            )
            first, last = view.asked_samples
            mean = mean_response(found)[view.asked_neurons]
            y = found.truth.responses[:, first:last][:, :, view.asked_neurons].astype(np.float64)
            y = np.where(np.isnan(y), mean, y).reshape(-1, y.shape[2])
            flat = x.reshape(-1, x.shape[2])
            rotation = Rotation([flat])
            folds = blocked_folds(np.repeat(np.arange(len(windows)), x.shape[1]), min(N_FOLDS, len(windows)))
            ridge = ridge_fit([rotation([flat])], y, folds, scale=False)
            return _Read(rotation, ridge, f"seed {problem.seed}, median penalty {np.median(ridge.penalty):.2g}")

        return each(problem, fit, "untrained_readout")

    def source(self, problem: Problem, name: str, fits: Fits) -> _ReadSource:
        return _ReadSource(name, untrained_params(problem), fits)


@dataclasses.dataclass(frozen=True)
class _Read:
    rotation: Rotation
    ridge: Ridge
    note: str
    predicts: tuple[str, ...] = ("response",)


@dataclasses.dataclass(frozen=True)
class _ReadSource:
    name: str
    params: Any
    fits: Fits

    def predictions(self, parts: Parts, batches: EvaluationBatches) -> Iterator[Answered]:
        layout = batches.layout
        for windows, batch, predicted in ModelSource(self.params).predictions(parts, batches):
            targets = [np.full(np.shape(p), np.nan, np.float32) for p in predicted.responses]
            sessions = np.array([window.session for window in windows])
            for key in dict.fromkeys(sessions.tolist()):
                fitted = self.fits[key]
                if not isinstance(fitted, _Read):
                    continue
                n = parts.vocabulary.entry(key).n_neurons
                view, rows = View.of(batches.regime, layout.grid, n, batches.cutter.n_slots), sessions == key
                x = _asked(predicted.responses, view)[: len(windows)][rows]
                y = fitted.ridge.predict(fitted.rotation([x.reshape(-1, x.shape[2])])).reshape(len(x), x.shape[1], -1)
                first = view.asked_samples[0]
                for r, out in zip(layout.targets, targets, strict=True):
                    mine = (view.slots >= r.first_neuron) & (view.slots < r.last_neuron)
                    neurons = np.flatnonzero(mine)
                    at = np.ix_(np.flatnonzero(rows), np.arange(r.n_samples), view.slots[neurons] - r.first_neuron)
                    samples = slice(r.first_sample - first, r.last_sample - first)
                    out[at] = y[:, samples][:, :, np.searchsorted(view.asked_neurons, neurons)]
            yield windows, batch, laid_out(targets, None)


def _asked(responses: tuple[Any, ...], view: View) -> Float[np.ndarray, "B s n"]:
    """Predictions of all rectangles beside each other: asked samples x asked neurons; 0 where one was not asked for."""
    first, last = view.asked_samples
    neurons = view.asked_neurons
    out = np.zeros((len(responses[0]), last - first, len(neurons)), np.float64)
    for r, values in zip(view.layout.targets, responses, strict=True):
        mine = neurons[(view.slots[neurons] >= r.first_neuron) & (view.slots[neurons] < r.last_neuron)]
        samples = np.arange(r.first_sample - first, r.last_sample - first)
        at = np.ix_(np.arange(len(out)), samples, np.searchsorted(neurons, mine))
        out[at] = np.asarray(values)[:, :, view.slots[mine] - r.first_neuron]
    return out


@dataclasses.dataclass(frozen=True)
class ShuffledStimulus:
    about: str = "the trained model, shown another stimulus of the same session: what it says without the right film"

    def fit(self, problem: Problem) -> Fits:
        if problem.params is None:
            return dict.fromkeys(problem.sessions, NotApplicable("needs a trained run"))
        if not problem.any_view.sees_screen:
            return dict.fromkeys(problem.sessions, NotApplicable("the screen is not shown"))
        fits: Fits = {}
        for key in problem.sessions:
            recording, contents = problem.parts.store.recording(key), problem.parts.store.trial_contents(key)
            scored = np.isin(recording.trials.tier, problem.parts.config.evaluation.tiers)
            stimuli = {str(content) for content in contents[scored] if content}
            few = NotApplicable("fewer than two stimuli are scored, so none can stand for another")
            fits[key] = few if len(stimuli) < 2 else Known(f"seed {problem.seed}, {len(stimuli)} stimuli")
        return fits

    def source(self, problem: Problem, name: str, fits: Fits) -> _ShuffledSource:
        return _ShuffledSource(name, problem.params, problem.seed)


@dataclasses.dataclass(frozen=True)
class _ShuffledSource:
    name: str
    params: Any
    seed: int

    def predictions(self, parts: Parts, batches: EvaluationBatches) -> Iterator[Answered]:
        windows = [batches.windows[number] for number in range(len(batches.windows))]
        old = batches.cutter
        fields = {field.name: getattr(old, field.name) for field in dataclasses.fields(old)}
        cutter = WrongFilm(**fields, donors=donors(parts, windows, self.seed))
        for answered in predictions(parts, self.params, dataclasses.replace(batches, cutter=cutter)):
            yield answered[0], answered[1], answered[2]


def donors(parts: Parts, windows: list[Window], seed: int) -> dict[Window, Window]:
    """For each window another one of its session, at random: one that shares no stimulus with it, or else the fewest moments at
    which both show the same. A session of one window keeps it.
    """
    found: dict[Window, Window] = {}
    rng = np.random.default_rng([seed, SHUFFLE_STREAM])
    for key in dict.fromkeys(window.session for window in windows):
        mine = [window for window in windows if window.session == key]
        shown = _stimuli(parts, key, mine)
        for number, window in enumerate(mine):
            order = [int(other) for other in rng.permutation(len(mine)) if other != number]
            found[window] = mine[min(order, key=lambda other: _alike(shown[number], shown[other]), default=number)]
    return found


def _stimuli(parts: Parts, key: str, windows: list[Window]) -> list[np.ndarray]:
    """Contents of the trials that are on at some moments of each window; "" in blanks."""
    store = parts.store
    clock = StimulusClock(store.recording(key).trials, store.trial_contents(key), parts.model.grid.response_rate)
    moments = np.linspace(0, parts.model.grid.seconds, MOMENTS, endpoint=False)
    return [clock.at(window.start + moments)[0] for window in windows]


def _alike(a: np.ndarray, b: np.ndarray) -> tuple[int, int]:
    """How many moments show the same stimulus, and how many stimuli both show."""
    return int(((a == b) & (a != "")).sum()), len({*a.tolist()} & {*b.tolist()} - {""})


@dataclasses.dataclass(frozen=True)
class WrongFilm(Cutter):
    """Cuts windows with the frames of their donor."""

    donors: Mapping[Window, Window] = dataclasses.field(default_factory=dict)

    def start(self, window: Window, neurons: np.ndarray | None = None) -> Callable[[], Sample]:
        own, donor = super().start(window, neurons), self.donors[window]
        other = super().start(donor, np.zeros(1, np.int64))
        return lambda: own()._replace(video=other().video)


UNTRAINED, UNTRAINED_READOUT, SHUFFLED = Untrained(), UntrainedReadout(), ShuffledStimulus()
