"""Baselines that fit next to nothing: the mean, the mean response to a stimulus, and the last value seen."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.evaluate.baselines.features import held, response_moments
from omnimouse_jax.evaluate.baselines.problem import Answers, Examples, Fits, Fitted, NotApplicable, Problem, each
from omnimouse_jax.evaluate.baselines.shown import Shown
from omnimouse_jax.recordings.session import Trials


def mean_response(examples: Examples) -> Float[np.ndarray, " N"]:
    """Of every neuron over all samples of the training windows; 0 where nothing was recorded."""
    return _nanmean(examples.truth.responses, (0, 1))


def mean_behavior(examples: Examples) -> Float[np.ndarray, " C"]:
    return _nanmean(examples.truth.behavior, (0, 2))


@dataclasses.dataclass(frozen=True)
class Constant:
    """The same answer to every window."""

    responses: Float[np.ndarray, " N"]
    behavior: Float[np.ndarray, " C"]
    note: str = ""
    predicts: tuple[str, ...] = ("response", "behavior")

    def predict(self, shown: Shown) -> Answers:
        w, s, t = len(shown), shown.view.grid.n_samples, shown.view.grid.n_behavior
        return Answers(
            np.broadcast_to(self.responses, (w, s, len(self.responses))),
            np.broadcast_to(self.behavior[:, None], (w, len(self.behavior), t)),
        )


@dataclasses.dataclass(frozen=True)
class Mean:
    about: str = "each neuron's (or channel's) mean over the training windows: correlation 0, error 1"

    def fit(self, problem: Problem) -> Fits:
        return each(problem, lambda key, found: Constant(mean_response(found), mean_behavior(found)), "mean")


@dataclasses.dataclass(frozen=True)
class LastValue:
    about: str = "each neuron's last shown sample, held; forecasts only"

    def fit(self, problem: Problem) -> Fits:
        return each(problem, self._fit, "last_value")

    def _fit(self, key: str, examples: Examples) -> Fitted | NotApplicable:
        view = examples.shown.view
        if not view.is_forecast or not np.isin(view.asked_neurons, view.shown_neurons).all():
            return NotApplicable("no past of the asked neurons is shown")
        return _Held(mean_response(examples))


@dataclasses.dataclass(frozen=True)
class _Held:
    mean: Float[np.ndarray, " N"]
    note: str = ""
    predicts: tuple[str, ...] = ("response",)

    def predict(self, shown: Shown) -> Answers:
        last = np.broadcast_to(self.mean, (len(shown), len(self.mean)))
        first = shown.view.asked_samples[0]
        for sample in range(first):  # what is shown later than the first asked sample is not its past
            now = shown.responses[:, sample]
            last = np.where(np.isnan(now), last, now)
        return Answers(np.repeat(last[:, None], shown.view.grid.n_samples, axis=1), None)


@dataclasses.dataclass(frozen=True)
class Psth:
    """Uses of the shown screen which stimulus it is and for how long it has been on. A stimulus is known by its content."""

    about: str = "mean response to the same stimulus at the same time since its onset, over its showings in training"

    def fit(self, problem: Problem) -> Fits:
        def fit(key: str, examples: Examples) -> Fitted | NotApplicable:
            if examples.shown.frames is None:
                return NotApplicable("the screen is not shown")
            if not examples.shown.view.asked:
                return NotApplicable("no responses are asked for")
            clock = StimulusClock(
                problem.parts.store.recording(key).trials,
                problem.parts.store.trial_contents(key),
                problem.parts.model.grid.response_rate,
            )
            shown = _course(clock, examples)
            tiers = problem.parts.config.evaluation.tiers
            scored = clock.of_tiers(tiers)
            known = scored & {content for content, _ in shown}
            if not known:
                return NotApplicable(f"no stimulus of tier {', '.join(tiers)} is shown in training")
            note = f"{len(known)} of {len(scored)} scored stimuli shown in training"
            return _Courses(clock, shown, mean_response(examples), note)

        return each(problem, fit, "psth")


@dataclasses.dataclass(frozen=True)
class StimulusClock:
    """What is on the screen at any time of a session, and since how many samples."""

    trials: Trials
    contents: np.ndarray  # str, per trial; "" where there is none
    rate: int

    def at(self, seconds: Float[np.ndarray, " t"]) -> tuple[np.ndarray, Int[np.ndarray, " t"]]:
        """(content, samples since onset); content "" between stimuli."""
        trial = np.searchsorted(self.trials.start, seconds + 1e-6, side="right") - 1
        inside = (trial >= 0) & (seconds < self.trials.end[np.maximum(trial, 0)])
        trial = np.maximum(trial, 0)
        since = np.floor((seconds - self.trials.start[trial]) * self.rate + 1e-3).astype(np.int64)
        return np.where(inside, self.contents[trial], ""), since

    def of_tiers(self, tiers: tuple[str, ...]) -> set[str]:
        return {str(c) for c in self.contents[np.isin(self.trials.tier, tiers)] if c}


Courses = dict[tuple[str, int], Float[np.ndarray, " N"]]


def _moments(clock: StimulusClock, shown: Shown) -> list[tuple[np.ndarray, Int[np.ndarray, " S"]]]:
    """(content, samples since onset) of every sample of every window; "" where the frame of that moment is hidden."""
    at_s, grid = response_moments(shown, 0, shown.view.grid.n_samples), shown.view.grid
    frame = held(at_s, grid.video_rate, grid.n_frames)
    visible = (frame >= shown.view.frames[0]) & (frame < shown.view.frames[1])
    found = [clock.at(window.start + at_s) for window in shown.windows]
    return [(np.where(visible, content, ""), since) for content, since in found]


def _course(clock: StimulusClock, examples: Examples) -> Courses:
    sums: dict[tuple[str, int], np.ndarray] = {}
    counts: dict[tuple[str, int], np.ndarray] = {}
    first, last = examples.shown.view.asked_samples
    moments = _moments(clock, examples.shown)
    for (content, since), y_SxN in zip(moments, examples.truth.responses, strict=True):
        for sample in range(first, last):
            name = (str(content[sample]), int(since[sample]))
            if name[0]:
                y = y_SxN[sample].astype(np.float64)
                sums[name] = sums.get(name, 0.0) + np.nan_to_num(y)
                counts[name] = counts.get(name, 0.0) + np.isfinite(y)
    overall = mean_response(examples)
    return {name: np.where(counts[name] > 0, sums[name] / np.maximum(counts[name], 1), overall) for name in sums}


@dataclasses.dataclass(frozen=True)
class _Courses:
    clock: StimulusClock
    courses: Courses
    mean: Float[np.ndarray, " N"]
    note: str
    predicts: tuple[str, ...] = ("response",)

    def predict(self, shown: Shown) -> Answers:
        out = np.broadcast_to(self.mean, (len(shown), shown.view.grid.n_samples, len(self.mean))).copy()
        if shown.frames is not None:
            for row, (content, since) in enumerate(_moments(self.clock, shown)):
                for sample, name in enumerate(zip(content.tolist(), since.tolist(), strict=True)):
                    out[row, sample] = self.courses.get(name, self.mean)
        return Answers(out, None)


def _nanmean(values: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    known = np.isfinite(values)
    return np.where(known, values, 0.0).sum(axes, dtype=np.float64) / np.maximum(known.sum(axes), 1)
