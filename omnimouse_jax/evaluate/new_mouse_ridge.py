"""A ridge regression of one session, beside its models: linear in what a task shows, on the same windows and samples.

For tasks that show no responses: contrast, change and luminance of the screen's cells, and behaviour, at a few delays -> responses.
For tasks that ask for behaviour: responses (and the screen, if shown) at a few delays around -> behaviour. Other tasks have none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.evaluate.baselines.ridge import blocked_folds, lagged, ridge_fit
from omnimouse_jax.evaluate.evaluator import INTERVAL_OVER_NEURONS, INTERVAL_OVER_WINDOWS
from omnimouse_jax.evaluate.metrics import (
    BlockCorrelation,
    PooledCorrelation,
    bootstrap_interval,
    mean_over_units,
    percentile_interval,
)
from omnimouse_jax.evaluate.response_statistics import at_responses, screen_courses
from omnimouse_jax.evaluate.starts import training_windows
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.regimes import resolve
from omnimouse_jax.tokens.windows import Sample
from omnimouse_jax.training.setup import Parts, regimes_of

#: Seconds before a response at which the screen counts, and around it at which behaviour and responses do.
SCREEN_S = (0.05, 0.15, 0.3, 0.6)
AROUND_S = (-1.0, -0.5, -0.2, 0.0, 0.2, 0.5, 1.0)
N_FOLDS = 5
#: More windows than any session has.
EVERY = 10**9


def ridge_rows(parts: Parts, key: str, tasks: dict[str, str]) -> list[dict[str, Any]]:
    """Score rows like those of the evaluator, for the tasks that a ridge regression is made for. Trained on what
    `parts.config.data` (tiers, minutes) allows, scored on `evaluation.tiers`.
    """
    rows: list[dict[str, Any]] = []
    for task, text in tasks.items():
        layout = resolve(regimes_of([text], parts.model.grid)[0], parts.model.grid, parts.cutter([key]).n_slots)
        if layout.behavior == "target" and layout.context:
            rows += _decoding(parts, key, task, layout)
        elif layout.targets and not layout.context and layout.behavior != "target":
            rows += _encoding(parts, key, task, layout)
    return rows


def _windows(parts: Parts, key: str, train: bool) -> list[Sample]:
    cutter, grid = parts.cutter([key]), parts.model.grid
    if train:
        return [cutter.sample(window) for window in training_windows(parts, key, EVERY)]
    index = parts.windows([key], parts.config.evaluation.tiers, grid.seconds)
    return [cutter.sample(index[number]) for number in range(len(index))]


def _encoding(parts: Parts, key: str, task: str, layout: Layout) -> list[dict[str, Any]]:
    found = []
    asked = slice(layout.targets[0].first_sample, layout.targets[-1].last_sample)
    for train in (True, False):
        samples = _windows(parts, key, train)
        y = np.stack([sample.responses for sample in samples]).astype(np.float64)
        found.append((_bands(parts, samples, layout, responses=False), y))
    (x_train, y_train), (x_test, y_test) = found
    scale = np.nanmean(y_train, (0, 1))
    predicted = _fit(x_train, np.where(np.isfinite(y_train), y_train, scale), x_test)
    if predicted is None:
        return []
    n = y_test.shape[2]
    pooled, known = PooledCorrelation(n), np.isfinite(y_test[:, asked]).reshape(-1, n)
    pooled.update(
        slice(None), predicted[:, asked].reshape(-1, n), np.nan_to_num(y_test[:, asked]).reshape(-1, n), known
    )
    r, scored = pooled.correlation(), pooled.count > 0
    low, high = bootstrap_interval(r, scored, parts.config.evaluation.bootstrap, parts.config.seed)
    whose = {
        "metric": "response_correlation",
        "channel": "",
        "interval": INTERVAL_OVER_NEURONS,
        "n_units": int(scored.sum()),
    }
    return [_row(parts, key, task, mean_over_units(r, scored), low, high, len(y_test), whose)]


def _decoding(parts: Parts, key: str, task: str, layout: Layout) -> list[dict[str, Any]]:
    cutter, names, found = parts.cutter([key]), parts.model.behavior_channels, []
    for train in (True, False):
        samples = _windows(parts, key, train)
        y = np.stack([at_responses(sample.behavior.T, cutter, "behavior") for sample in samples])
        found.append((_bands(parts, samples, layout, responses=True), y))
    (x_train, y_train), (x_test, y_test) = found
    predicted = _fit(x_train, np.nan_to_num(y_train), x_test)  # z-scored: what is missing is at the mean
    if predicted is None:
        return []
    blocks = BlockCorrelation(len(names))
    for p, y in zip(predicted, y_test, strict=True):
        blocks.update(p, np.nan_to_num(y), np.isfinite(y))
    r, seen = blocks.correlation(), blocks.count > 0
    again = np.nan_to_num(blocks.bootstrap(parts.config.evaluation.bootstrap, parts.config.seed))
    channels = [(name, float(r[i]), again[:, i], 1) for i, name in enumerate(names) if seen[i]]
    if seen.any():
        channels.append(("mean", mean_over_units(r, seen), again[:, seen].mean(1), int(seen.sum())))
    rows = []
    for name, score, resampled, n_units in channels:
        whose = {
            "metric": "behavior_correlation",
            "channel": name,
            "interval": INTERVAL_OVER_WINDOWS,
            "n_units": n_units,
        }
        rows.append(_row(parts, key, task, score, *percentile_interval(resampled), len(y_test), whose))
    return rows


def _bands(
    parts: Parts, samples: Sequence[Sample], layout: Layout, responses: bool
) -> list[Float[np.ndarray, "rows _"]]:
    cutter, rate = parts.cutter([samples[0].window.session]), parts.model.grid.response_rate
    segment = np.repeat(np.arange(len(samples)), parts.model.grid.n_samples)

    def delayed(values: np.ndarray, seconds: Sequence[float], width_s: float) -> np.ndarray:
        lags = sorted({round(s * rate) for s in seconds})
        flat = np.nan_to_num(values.reshape(-1, values.shape[2]))
        return lagged(flat, segment, lags, width=2 * round(width_s * rate / 2) + 1)

    bands = []
    if layout.video_steps[0] < layout.video_steps[1]:
        courses = screen_courses(samples, cutter)
        bands += [delayed(values, SCREEN_S, 0.1) for values in courses.values()]
    if layout.behavior == "input":
        behavior = np.stack([at_responses(sample.behavior.T, cutter, "behavior") for sample in samples])
        bands.append(delayed(behavior, AROUND_S, 0.1))
    if responses:
        bands.append(delayed(np.stack([sample.responses for sample in samples]).astype(np.float64), AROUND_S, 0.3))
    return bands


def _fit(train: Sequence[np.ndarray], y_train: np.ndarray, test: Sequence[np.ndarray]) -> np.ndarray | None:
    """Predictions for the test windows; None where there is nothing to fit or too little to choose a penalty by."""
    n_windows, n_samples, n = y_train.shape
    n_folds = min(N_FOLDS, n_windows)
    if n_folds < 2 or not train:
        return None
    folds = blocked_folds(np.repeat(np.arange(n_windows), n_samples), n_folds)
    fit = ridge_fit(train, y_train.reshape(-1, n), folds)
    return fit.predict(np.concatenate(test, axis=1)).reshape(-1, n_samples, n)


def _row(
    parts: Parts, key: str, task: str, score: float, low: float, high: float, n_windows: int, whose: dict[str, Any]
) -> dict[str, Any]:
    return {
        "session": key,
        "animal": parts.vocabulary.entry(key).animal,
        "task": task,
        "tier": "+".join(parts.config.evaluation.tiers),
        "n_windows": n_windows,
        "score": score,
        "score_low": low,
        "score_high": high,
        "ceiling": None,
        "ceiling_estimator": "",
        "normalized": None,
        **whose,
    }
