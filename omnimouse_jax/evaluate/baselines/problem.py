"""What a baseline is: fitted to the training windows of some sessions under one regime, then asked window by window."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines.shown import Shown, Truth, View, shown, truth
from omnimouse_jax.evaluate.sources import Answered
from omnimouse_jax.model.omnimouse import Predictions
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.tokens.windows import Window, WindowIndex
from omnimouse_jax.training.setup import Parts

#: Response values (windows x samples x neurons) of a session that a fit looks at, at most: 1 GB in float32.
VALUES = 250_000_000
#: Frame values of a session that a fit looks at, at most.
PIXELS = 500_000_000
#: Folds of cross-validation: contiguous blocks of training windows.
N_FOLDS = 5


class NotApplicable(NamedTuple):
    """In place of a fit, where a baseline is not defined or lacks what it needs."""

    reason: str


class Answers(NamedTuple):
    """Predictions for every window; of the samples and neurons that are not asked for, whatever comes easiest. None: says nothing
    of these."""

    responses: Float[np.ndarray, "W S N"] | None
    behavior: Float[np.ndarray, "W C T"] | None


@runtime_checkable
class Fitted(Protocol):
    """A baseline after its fit to one session. `note`: what the fit chose, for the table; may be empty. `predicts`: which of
    "response" and "behavior" it answers with."""

    @property
    def note(self) -> str: ...

    @property
    def predicts(self) -> tuple[str, ...]: ...


@runtime_checkable
class Predictor(Fitted, Protocol):
    """A fit that answers by itself."""

    def predict(self, shown: Shown) -> Answers:
        """Of windows that it need not have seen before."""


Fits = dict[str, Fitted | NotApplicable]


@runtime_checkable
class Baseline(Protocol):
    """Something to fit. `about`: one line that says what it is and what it sees. Its fits are predictors, unless it has a method
    `source(problem, name, fits)` that returns what answers in their place.
    """

    @property
    def about(self) -> str: ...

    def fit(self, problem: Problem) -> Fits:
        """One entry for each session of the problem."""


class Examples(NamedTuple):
    """Windows of one session to learn from."""

    shown: Shown
    truth: Truth


@dataclasses.dataclass(frozen=True)
class Problem:
    """A regime to be answered for some sessions, and the windows that may be learnt from.

    `params`: of a trained model, where there is one. Training windows are those of `parts.config.data` (tiers, minutes, stimuli
    left out); of every asked sample each moment is used once, at the place in the window at which it is scored.
    """

    parts: Parts
    sessions: tuple[str, ...]
    regime: Regime
    seed: int = 0
    params: Any = None

    @cached_property
    def n_slots(self) -> int:
        return self.parts.cutter(self.sessions).n_slots

    def view(self, key: str) -> View:
        return View.of(self.regime, self.parts.model.grid, self.parts.vocabulary.entry(key).n_neurons, self.n_slots)

    @property
    def any_view(self) -> View:
        return self.view(self.sessions[0])

    @property
    def positive(self) -> bool:
        """Whether responses are predicted under a Poisson loss, so that predictions are not negative."""
        return self.parts.model.response_loss == "poisson"

    @cached_property
    def stride_s(self) -> float:
        """Seconds between training windows: neighbours' asked samples (in a forecast: those of one step) just touch."""
        view, grid = self.any_view, self.parts.model.grid
        if view.asks_behavior or not view.asked:
            return grid.seconds
        first, last = view.asked_samples
        return (min(grid.response_stride, last - first) if view.is_forecast else last - first) / grid.response_rate

    @cached_property
    def training_windows(self) -> WindowIndex | None:
        """None if no session has any."""
        config = copy.deepcopy(self.parts.config)
        trained = self.parts.store.chosen(config.data.sessions)
        with config.unlocked():
            config.data.stride_s = self.stride_s
            config.data.sessions = (*trained, *(key for key in self.sessions if key not in trained))
            if not config.evaluation.sessions:
                config.evaluation.sessions = tuple(trained)  # what is held out stays what it was
        try:
            return dataclasses.replace(self.parts, config=config).training_windows()
        except UserError:
            return None

    @cached_property
    def validation_windows(self) -> WindowIndex | None:
        """Windows of the validation tiers; None where there are none that are not trained on."""
        config = self.parts.config
        tiers = [tier for tier in config.train.validation_tiers if tier not in config.data.tiers]
        try:
            return self.parts.windows(self.sessions, tiers, self.stride_s) if tiers else None
        except UserError:
            return None

    def train(self, key: str, share: float = 1.0) -> Examples | None:
        """A session's training windows, in order of time; spread over all of them where memory, or a share of it, would not hold
        them."""
        return self._examples(key, self.training_windows, share)

    def validation(self, key: str, share: float = 1.0) -> Examples | None:
        """The same of its validation windows."""
        return self._examples(key, self.validation_windows, share)

    def _examples(self, key: str, index: WindowIndex | None, share: float) -> Examples | None:
        if index is None or key not in index.sessions:
            return None
        name = (key, index is self.training_windows, share)
        if name not in self._kept:
            found = self._read(key, index, share)
            kept = sum(e.truth.responses.size for e in self._kept.values() if e is not None)
            if found is not None and kept + found.truth.responses.size > VALUES // 4:
                return found  # many baselines ask for the same windows, but memory is finite
            self._kept[name] = found
        return self._kept[name]

    @cached_property
    def _kept(self) -> dict[tuple[str, bool, float], Examples | None]:
        return {}

    def _read(self, key: str, index: WindowIndex, share: float) -> Examples | None:
        numbers, grid, view = index.numbers_of(key), self.parts.model.grid, self.view(key)
        at_most = int(VALUES * share) // (grid.n_samples * len(view.slots))
        if view.sees_screen:
            at_most = min(at_most, int(PIXELS * share) // (grid.n_frames * int(np.prod(self.parts.model.screen))))
        if not numbers:
            return None
        chosen = np.unique(np.linspace(0, len(numbers) - 1, min(len(numbers), max(1, at_most))).astype(int))
        windows = sorted((index[numbers[int(i)]] for i in chosen), key=lambda window: window.start)
        return examples(self.batches(windows), key, view)

    def batches(self, windows: Sequence[Window]) -> EvaluationBatches:
        config = self.parts.config
        return EvaluationBatches(self.parts.cutter(self.sessions), windows, self.regime, config.evaluation.batch_size)


def examples(batches: EvaluationBatches, key: str, view: View) -> Examples:
    """All windows of some batches, which are of one session, as arrays."""
    seen, true = [], []
    for number in range(len(batches)):
        windows, batch = batches.windows_of(number), batches[number]
        rows = np.arange(len(windows))
        seen.append(shown(batch, rows, windows, view))
        true.append(truth(batch, rows, view))
    frames = [part.frames for part in seen if part.frames is not None]
    together = Shown(
        tuple(window for part in seen for window in part.windows),
        view,
        np.concatenate([part.responses for part in seen]),
        np.concatenate(frames) if len(frames) == len(seen) else None,
        np.concatenate([part.behavior for part in seen]),
    )
    recorded = Truth(np.concatenate([t.responses for t in true]), np.concatenate([t.behavior for t in true]))
    return Examples(together, recorded)


def each(problem: Problem, fit: Any, label: str = "") -> Fits:
    """`fit(key, examples)` for every session by itself, with progress; sessions without a training window are not applicable."""
    progress, fits = Progress(len(problem.sessions), label=f"{label}: session "), {}
    for number, key in enumerate(problem.sessions, 1):
        examples = problem.train(key)
        fits[key] = NO_TRAINING if examples is None else fit(key, examples)
        progress.show(number)
    progress.close()
    return fits


def laid_out(targets: Sequence[Any], behavior: Any) -> Predictions:
    """Host arrays where a model has those of the device."""
    return Predictions(tuple(targets), behavior)


def predicts(fits: Mapping[str, Any], kind: str) -> bool:
    """Whether any fit answers with "response" or "behavior"."""
    return any(kind in fitted.predicts for fitted in fits.values() if not isinstance(fitted, NotApplicable))


NO_TRAINING = NotApplicable("the session has no training window")


@dataclasses.dataclass(frozen=True)
class BaselineSource:
    """Fits as a source of predictions. Sessions whose fit is not applicable get NaN; whoever scores leaves them out."""

    name: str
    fits: Mapping[str, Any]  # Predictor or NotApplicable

    def predictions(self, parts: Parts, batches: EvaluationBatches) -> Iterator[Answered]:
        views: dict[str, View] = {}
        layout = batches.layout
        says_behavior = layout.behavior == "target" and predicts(self.fits, "behavior")
        with closing(batches.stream(parts.config.data.threads, parts.config.data.ahead)) as stream:
            for number, batch in enumerate(stream):
                windows, b = batches.windows_of(number), len(batch.row_mask)
                targets = [np.full((b, r.n_samples, r.n_neurons), np.nan, np.float32) for r in layout.targets]
                behavior = np.full(batch.behavior.shape, np.nan, np.float32) if says_behavior else None
                sessions = np.array([window.session for window in windows])
                for key in dict.fromkeys(sessions.tolist()):
                    fitted = self.fits.get(key)
                    if fitted is None or isinstance(fitted, NotApplicable):
                        continue
                    if key not in views:
                        n = parts.vocabulary.entry(key).n_neurons
                        views[key] = View.of(batches.regime, layout.grid, n, batches.cutter.n_slots)
                    rows = np.flatnonzero(sessions == key)
                    seen = shown(batch, rows, [windows[row] for row in rows], views[key])
                    _place(fitted.predict(seen), views[key], rows, targets, behavior)
                yield windows, batch, laid_out(targets, behavior)


def _place(
    answers: Answers,
    view: View,
    rows: Int[np.ndarray, " W"],
    targets: Sequence[Float[np.ndarray, "B s n"]],
    behavior: Float[np.ndarray, "B C T"] | None,
) -> None:
    """Writes answers where a model's predictions would stand."""
    if answers.responses is not None:
        for r, out_BxSxN in zip(view.layout.targets, targets, strict=True):
            neurons = np.flatnonzero((view.slots >= r.first_neuron) & (view.slots < r.last_neuron))
            at = np.ix_(rows, np.arange(r.n_samples), view.slots[neurons] - r.first_neuron)
            out_BxSxN[at] = answers.responses[:, r.first_sample : r.last_sample][:, :, neurons]
    if behavior is not None and answers.behavior is not None:
        behavior[rows] = answers.behavior
