"""What is compared: responses to repeated test stimuli, one condition per stimulus and time bin, recorded and predicted alike.

A stimulus is known by the hash of its frames, so that it is found again in another session. Its time is cut into bins of equal
length from its onset; a picture shorter than a bin is one condition. Showings are kept apart (R x K x N): as many as the least
shown of the stimuli has. Behaviour (running, pupil) is regressed out of single showings, recorded and predicted, with slopes from
within conditions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.recordings.sampling import read_behavior, read_screen
from omnimouse_jax.recordings.session import Recording

#: Tiles (down, across) in which motion is told apart.
TILES = (4, 8)
#: Values that a bin must have of a neuron, as a share of its samples.
ENOUGH = 0.5


class Condition(NamedTuple):
    """A time bin of a stimulus."""

    content: str
    bin: int


#: Fewer conditions have too few distances to compare.
LEAST_CONDITIONS = 5


@dataclasses.dataclass(frozen=True)
class Cut:
    """The repeated stimuli of a session in a tier, and which trials showed them, cut into conditions."""

    session: str
    animal: str
    conditions: tuple[Condition, ...]
    showings: Mapping[str, tuple[int, ...]]  # trials by content, in order of time, as many for each
    onsets: Float[np.ndarray, " trials"]
    ends: Float[np.ndarray, " trials"]
    bin_s: float

    @property
    def repeats(self) -> int:
        return min(len(trials) for trials in self.showings.values())

    def binned(
        self, times: Float[np.ndarray, " n"], values: Float[np.ndarray, "n N"], at_least: float = ENOUGH
    ) -> Float[np.ndarray, "R K N"]:
        """Means over the samples of each showing and condition; NaN where there are less than a share `at_least` of those that the
        fullest condition has.
        """
        row = {condition: k for k, condition in enumerate(self.conditions)}
        shape = (self.repeats, len(self.conditions), values.shape[1])
        sums, counts = np.zeros(shape), np.zeros(shape, np.int64)
        finite = np.isfinite(values)
        for content, trials in self.showings.items():
            for repeat, trial in enumerate(trials):
                # half a sample of grace: sample times are not hit exactly
                lo, hi = np.searchsorted(times, [self.onsets[trial] - 1e-6, self.ends[trial] - 1e-6])
                bins = np.floor((times[lo:hi] - self.onsets[trial] + 1e-6) / self.bin_s).astype(int)
                for number in np.unique(bins):
                    k = row.get(Condition(content, int(number)))
                    if k is not None:
                        part = slice(lo + int((bins < number).sum()), lo + int((bins <= number).sum()))
                        sums[repeat, k] = np.where(finite[part], values[part], 0.0).sum(0)
                        counts[repeat, k] = finite[part].sum(0)
        least = at_least * counts.max(axis=(0, 1), initial=0) if counts.size else 0
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(counts >= np.maximum(least, 1), sums / counts, np.nan)

    def blocks(self, seconds: float) -> Int[np.ndarray, " K"]:
        """Which stretch of `seconds` of a stimulus a condition belongs to: what is drawn together in a bootstrap."""
        each = max(1, round(seconds / self.bin_s))
        return _numbered([(c.content, c.bin // each) for c in self.conditions])

    def clips(self) -> Int[np.ndarray, " K"]:
        """Which stimulus."""
        return _numbered([c.content for c in self.conditions])


def cut(store: Any, session: str, tier: str, bin_s: float, only: Sequence[str] = ()) -> Cut:
    """The stimuli of a tier that were shown twice or more (`only`: those of these contents). UserError without any."""
    trials = store.recording(session).trials
    contents = np.asarray(store.trial_contents(session))
    usable = (
        (np.asarray(trials.tier) == tier) & (contents != "") & np.asarray(trials.valid) & ~np.asarray(trials.withheld)
    )
    found: dict[str, list[int]] = {}
    for trial in np.flatnonzero(usable).tolist():
        found.setdefault(str(contents[trial]), []).append(trial)
    kept = {c: t for c, t in sorted(found.items()) if len(t) > 1 and (not only or c in only)}
    if not kept:
        raise UserError(
            f"session {session}: no stimulus of tier {tier!r} was shown twice ({len(found)} once)",
            way_out="name a tier or sessions with repeats; `omnimouse-jax inspect STORE` lists tiers",
        )
    repeats = min(len(t) for t in kept.values())
    conditions = []
    for content, shown in kept.items():
        seconds = min(float(trials.end[t] - trials.start[t]) for t in shown)
        conditions += [Condition(content, number) for number in range(max(1, int(seconds / bin_s + 1e-6)))]
    return Cut(
        session,
        store.recording(session).animal,
        tuple(conditions),
        {content: tuple(shown[:repeats]) for content, shown in kept.items()},
        np.asarray(trials.start, np.float64),
        np.asarray(trials.end, np.float64),
        float(bin_s),
    )


@dataclasses.dataclass(frozen=True)
class Population:
    """Responses of neurons (or values of latents) of one source to the conditions of a session, without gaps."""

    source: str  # "recorded", or the name of a model
    session: str
    animal: str
    conditions: tuple[Condition, ...]
    values: Float[np.ndarray, "R K N"]
    areas: Shaped[np.ndarray, " N"]

    @property
    def mean(self) -> Float[np.ndarray, "K N"]:
        """Average over showings, neurons z-scored: what CKA and Procrustes compare."""
        averaged = self.values.mean(0)
        spread = averaged.std(0)
        return (averaged - averaged.mean(0)) / np.where(spread > 0, spread, 1.0)

    def at(self, conditions: Sequence[Condition]) -> Population:
        """The same of some conditions, in this order."""
        row = {condition: k for k, condition in enumerate(self.conditions)}
        taken = [row[condition] for condition in conditions]
        return dataclasses.replace(self, conditions=tuple(conditions), values=self.values[:, taken])


class SessionData(NamedTuple):
    """One session under one regime: recorded, and as each model has it."""

    cut: Cut  # with the conditions that are left
    recorded: Population
    models: dict[str, Population]  # predicted responses of the same neurons, one repeat: the mean over showings
    left_out: dict[str, int]  # neurons by reason
    corrected: tuple[str, ...]  # behaviour that was regressed out


def session_data(
    runs: Mapping[str, Run], session: str, regime: str, tier: str, bin_s: float, least_reliability: float = -1.0
) -> SessionData:
    """Reads and predicts. Neurons are left out that lack a response in some showing or do not vary, and those of which odd and even
    showings correlate less than `least_reliability` (at its default, none; it is chosen on the same responses).

    Conditions that a model cannot predict (the start of a stimulus under some regimes) are left out for all.
    """
    first = next(iter(runs.values()))
    store, where = first.store, cut(first.store, session, tier, bin_s)
    recording = store.recording(session)
    predicted, recorded, times = {}, None, np.zeros(0)
    for name, run in runs.items():
        prediction = run.predict(session, regime, tiers=(tier,))
        if not len(prediction.responses):
            raise UserError(f"regime {regime!r} asks for no responses", way_out="use one such as 'video -> responses'")
        predicted[name] = where.binned(prediction.time, prediction.responses.astype(np.float64))
        recorded, times = prediction.recorded.astype(np.float64), prediction.time
    assert recorded is not None
    showings = where.binned(times, recorded)
    asked = np.all([np.isfinite(p).any(axis=(0, 1)) for p in predicted.values()], axis=0)
    told = np.all([np.isfinite(p[:, :, asked]).all(axis=(0, 2)) for p in predicted.values()], axis=0)
    if not told.any():
        raise UserError(
            f"session {session}: regime {regime!r} predicts no whole bin of {bin_s:g} s", way_out="shorten --bin"
        )
    if told.sum() < LEAST_CONDITIONS:
        raise UserError(
            f"session {session}: bins of {bin_s:g} s leave {int(told.sum())} conditions, at least {LEAST_CONDITIONS} are needed",
            way_out="shorten --bin, or name another session or tier",
        )
    where = dataclasses.replace(where, conditions=tuple(c for c, k in zip(where.conditions, told, strict=True) if k))
    behavior, channels = _behavior(recording, where)
    showings = without_slopes(showings[:, told], behavior)
    whole = np.isfinite(showings).all(axis=(0, 1))
    varies = whole & (np.where(whole, showings, 0.0).mean(0).std(0) > 0)
    stable = varies & (_odd_even(showings, varies) >= least_reliability)
    kept = asked & (varies if least_reliability <= -1 else stable)
    left_out = {
        "not asked for": int((~asked).sum()),
        "gaps": int((asked & ~whole).sum()),
        "silent": int((asked & whole & ~varies).sum()),
        "unreliable": int((asked & varies & ~kept).sum()),
    }
    if kept.sum() < 2:
        raise UserError(f"session {session}: {int(kept.sum())} neurons are left of {len(kept)} ({left_out})")
    areas = recording.neurons.get("area")
    names = np.full(len(kept), "") if areas is None else np.asarray(areas).astype(str)

    def population(source: str, values: Float[np.ndarray, "R K N"]) -> Population:
        return Population(source, session, recording.animal, where.conditions, values[:, :, kept], names[kept])

    models = {}
    for name, values in predicted.items():
        corrected = without_slopes(values[:, told], behavior)  # a regime that shows behaviour predicts its effect too
        models[name] = population(name, corrected.mean(0, keepdims=True))
    return SessionData(where, population("recorded", showings), models, left_out, channels)


def shared_conditions(populations: Sequence[Population]) -> list[Condition]:
    """Those that all have, in the order of the first."""
    common = set.intersection(*(set(p.conditions) for p in populations)) if populations else set()
    return [condition for condition in populations[0].conditions if condition in common] if common else []


def stimulus_features(recording: Recording, where: Cut, rate: float = 30.0) -> dict[str, Float[np.ndarray, "K f"]]:
    """What simple properties of the screen say of each condition, from the first showing at `rate` frames a second:

    pixels: mean frame of the bin (grey levels / 255); contrast: standard deviation over pixels, mean over frames; motion energy:
    root of the mean squared change between frames in each of `TILES` tiles.
    """
    if recording.screen is None:
        return {}
    pixels, contrast, motion = [], [], []
    for content, number in where.conditions:
        start = where.onsets[where.showings[content][0]] + number * where.bin_s
        end = min(start + where.bin_s, where.ends[where.showings[content][0]])
        frames = read_screen(recording, start + np.arange(max(2, round((end - start) * rate))) / rate) / 255.0
        pixels.append(frames.mean(0).reshape(-1))
        contrast.append([frames.std(axis=(1, 2)).mean()])
        change = np.diff(frames, axis=0) ** 2
        rows = np.array_split(change.mean(0), min(TILES[0], change.shape[1]), axis=0)
        tiles = [tile.mean() for row in rows for tile in np.array_split(row, min(TILES[1], change.shape[2]), axis=1)]
        motion.append(np.sqrt(tiles))
    found = {"pixels": pixels, "contrast": contrast, "motion energy": motion}
    return {name: np.array(values, np.float64) for name, values in found.items()}


def without_slopes(
    showings: Float[np.ndarray, "R K N"], behavior: Float[np.ndarray, "R K C"]
) -> Float[np.ndarray, "R K N"]:
    """Responses less what behaviour explains of them. Slopes come from deviations about the condition's mean over showings, so that
    nothing of the stimulus is taken for behaviour; the mean behaviour of the session is the reference. A missing value counts as
    the mean of the condition, and a channel that never varies changes nothing.
    """
    if not behavior.shape[2]:
        return showings
    known = np.isfinite(behavior)
    of_all = np.where(known, behavior, 0.0).sum(axis=(0, 1)) / np.maximum(known.sum(axis=(0, 1)), 1)
    of_condition = np.where(known, behavior, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    of_condition = np.where(known.any(0), of_condition, of_all)
    filled = np.where(known, behavior, of_condition)
    within = filled - filled.mean(0)
    x = within.reshape(-1, behavior.shape[2])
    y = (showings - showings.mean(0)).reshape(len(x), -1)
    spread = np.maximum(x.std(0), 1e-12)
    slopes = np.linalg.lstsq(x / spread, np.nan_to_num(y), rcond=1e-6)[0]
    return showings - (filled - of_all) / spread @ slopes


def _behavior(recording: Recording, where: Cut) -> tuple[Float[np.ndarray, "R K C"], tuple[str, ...]]:
    """Of each showing and condition, the channels that were recorded at all, and their names."""
    channels = recording.channels
    rate = recording.responses.rate
    first, last = float(where.onsets[0]), float(where.ends[-1])
    times = first + np.arange(int((last - first) * rate)) / rate
    values = read_behavior(recording, times, channels).astype(np.float64)
    behavior = where.binned(times, values)
    seen: Bool[np.ndarray, " C"] = np.isfinite(behavior).any(axis=(0, 1))
    return behavior[:, :, seen], tuple(np.array(channels, str)[seen].tolist())


def _odd_even(showings: Float[np.ndarray, "R K N"], of: Bool[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Correlation over conditions of the averages of odd and of even showings; -1 for neurons not asked about."""
    out = np.full(showings.shape[2], -1.0)
    if not of.any():
        return out
    a, b = (showings[part::2][:, :, of].mean(0) for part in (0, 1))
    a, b = a - a.mean(0), b - b.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (a * b).sum(0) / np.sqrt((a * a).sum(0) * (b * b).sum(0))
    out[of] = np.where(np.isfinite(found), found, -1.0)
    return out


def _numbered(names: Sequence[Any]) -> Int[np.ndarray, " K"]:
    first = {name: number for number, name in reversed(list(enumerate(dict.fromkeys(names))))}
    return np.array([first[name] for name in names], np.int64)
