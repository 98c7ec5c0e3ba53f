"""Natural stimuli of a session for its experiments: windows that are scored, and stimuli that were shown more than once."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.physiology.subject import Subject
from omnimouse_jax.probe.predictor import Predictor
from omnimouse_jax.tokens.windows import Window


class Repeats(NamedTuple):
    """Means over odd and over even showings of B windows of stimuli, in K bins each: predicted and recorded."""

    predicted: tuple[Float[np.ndarray, "B K N"], Float[np.ndarray, "B K N"]]
    recorded: tuple[Float[np.ndarray, "B K N"], Float[np.ndarray, "B K N"]]
    showings: int  # the fewest of a stimulus


def repeated(predictor: Predictor) -> list[list[Window]]:
    """For each stretch of a stimulus of the scored tiers that was shown at least twice: its windows, one per showing.

    Stretches lie end to end as far as responses are predicted.
    """
    grid = predictor.layout.grid
    predicted = predictor.sample_times[-1] - predictor.sample_times[0] + 1 / grid.response_rate
    trials = predictor.run.recording(predictor.session).trials
    contents = np.asarray(predictor.run.store.trial_contents(predictor.session))
    tiers = np.isin(np.asarray(trials.tier, str), list(predictor.run.config.evaluation.tiers))
    found = []
    for content in dict.fromkeys(contents[tiers & (contents != "") & np.asarray(trials.valid)].tolist()):
        shown = np.flatnonzero(tiers & (contents == content) & np.asarray(trials.valid))
        length = float((trials.end[shown] - trials.start[shown]).min())
        if len(shown) < 2:
            continue
        for k in range(int((length - grid.seconds) / predicted + 1e-6) + 1 if length >= grid.seconds else 0):
            found.append([Window(predictor.session, float(trials.start[i] + k * predicted)) for i in shown])
    return found


def repeats(predictor: Predictor, subject: Subject, bin_s: float) -> Repeats | None:
    """Responses to stimuli that were repeated; None where none was. Bins with a sample that was not recorded are NaN."""
    groups = repeated(predictor)
    if not groups:
        return None
    every = [window for group in groups for window in group]
    samples = max(1, round(bin_s * predictor.layout.grid.response_rate))
    predicted, recorded = [], []
    for first in range(0, len(every), subject.batch):
        windows = every[first : first + subject.batch]
        shown = predictor.load(windows + [windows[-1]] * (subject.batch - len(windows)))
        said = np.asarray(subject.program(subject.params, shown.video, jax.tree.map(np.asarray, shown.context)))
        predicted.append(_binned(said, samples)[: len(windows)])
        recorded.append(_binned(shown.recorded, samples)[: len(windows)])
    ends = np.cumsum([len(group) for group in groups])[:-1]
    halves = []
    for values in (predicted, recorded):
        split = np.split(np.concatenate(values), ends)
        halves.append((np.stack([g[::2].mean(axis=0) for g in split]), np.stack([g[1::2].mean(axis=0) for g in split])))
    return Repeats(halves[0], halves[1], min(len(group) for group in groups))


def _binned(r_WxSxN: Float[np.ndarray, "W S N"], samples: int) -> Float[np.ndarray, "W K N"]:
    n = r_WxSxN.shape[1] // samples
    kept = r_WxSxN[:, : n * samples].astype(np.float64)
    return kept.reshape(len(kept), n, samples, -1).mean(axis=2)


def agreement(predicted: Float[np.ndarray, "W S N"], recorded: Float[np.ndarray, "W S N"]) -> Float[np.ndarray, " N"]:
    """Pearson correlation per neuron over all recorded samples of these windows; NaN where either does not vary."""
    out = np.full(predicted.shape[2], np.nan)
    for n in range(len(out)):
        x, y = predicted[..., n].ravel().astype(np.float64), recorded[..., n].ravel().astype(np.float64)
        there = np.isfinite(y)
        if there.sum() > 2 and np.ptp(x[there]) > 0 and np.ptp(y[there]) > 0:
            out[n] = np.corrcoef(x[there], y[there])[0, 1]
    return out
