"""Generalised Procrustes of populations that saw the same stimuli: dispersion per condition and stimulus, beside predictivity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.probe.similarity.alignment import not_applicable
from omnimouse_jax.probe.similarity.procrustes import dispersion, terciles
from omnimouse_jax.probe.similarity.responses import Condition, SessionData
from omnimouse_jax.probe.similarity.settings import Settings

Points = Sequence[Float[np.ndarray, "K _"]]


def predictivity(recorded: Float[np.ndarray, "K N"], predicted: Float[np.ndarray, "K N"]) -> Float[np.ndarray, " K"]:
    """Of each condition: correlation over neurons of two patterns whose neurons are z-scored over conditions."""
    x, y = (values - values.mean(1, keepdims=True) for values in (recorded, predicted))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(1) / np.sqrt((x * x).sum(1) * (y * y).sum(1))


def models_agreement(of: SessionData, names: Sequence[str], s: Settings) -> dict[str, Any]:
    points = [of.models[name].mean for name in names]
    score = np.mean([predictivity(of.recorded.mean, x) for x in points], axis=0)
    where = {"session": of.recorded.session, "among": list(names)}
    return where | agreement(points, of.cut.conditions, score, s)


def agreement(
    points: Points,
    conditions: Sequence[Condition],
    score: Float[np.ndarray, " K"],
    s: Settings,
) -> dict[str, Any]:
    clips = [c.content for c in conditions]
    folds = _folds(conditions, s)
    if len(np.unique(folds)) < 2:
        return not_applicable("one stretch of one stimulus: rotations cannot be fitted on others")
    found = dispersion(points, folds, shuffles=s.shuffles, seed=s.seed)
    per_clip = {}
    for clip in dict.fromkeys(clips):
        of_clip = np.array([c == clip for c in clips])
        per_clip[clip] = {
            "dispersion": float(np.median(found.values[of_clip])),
            "chance": float(np.median(found.chance[of_clip])),
            "predictivity": float(np.nanmean(score[of_clip])),
        }
    return {
        "k": found.k,
        "folds": found.folds,
        "median": float(np.median(found.values)),
        "chance median": float(np.median(found.chance)),
        "values": rounded(found.values),
        "conditions": told_conditions(conditions),
        "clips": per_clip,
        "predictivity by tercile": terciles(found.values, score),
    }


def _folds(conditions: Sequence[Condition], s: Settings) -> Int[np.ndarray, " K"]:
    """Stimuli; of fewer than 3, stretches of them."""
    clips = list(dict.fromkeys(c.content for c in conditions))
    each = max(1, round(s.block_s / s.bin_s))
    keys = [(c.content, 0 if len(clips) > 2 else c.bin // each) for c in conditions]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] % 10 for key in keys], np.int64)


def rounded(values: np.ndarray) -> list[float]:
    return [float(f"{v:.6g}") for v in values]


def told_conditions(conditions: Sequence[Condition]) -> list[list[Any]]:
    return [[c.content, c.bin] for c in conditions]
