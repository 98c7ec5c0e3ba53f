"""Task x session scores of a trained model on held-out tiers: every test window visited once."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.metrics import (
    ESTIMATOR,
    BlockCorrelation,
    PooledCorrelation,
    bootstrap_interval,
    mean_over_units,
    percentile_interval,
)
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.model.programs import plan_of
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.mixture import session_weights
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.tokens.windows import WindowIndex, few
from omnimouse_jax.training import track
from omnimouse_jax.training.setup import Parts, predictions, prepare, regimes_of

INTERVAL_OVER_NEURONS = "95% bootstrap over neurons"
INTERVAL_OVER_WINDOWS = "95% bootstrap over windows"


@dataclasses.dataclass
class SessionScores:
    """Running sums of one session under one regime."""

    responses: PooledCorrelation
    behavior: BlockCorrelation
    n_windows: int = 0


def evaluate_run(
    run: Path | str,
    tasks: Mapping[str, str] | None = None,
    tiers: Sequence[str] = (),
    sessions: Sequence[str] = (),
    step: str = "",
    store: str = "",
    out: Path | None = None,
) -> dict[str, Any]:
    """Scores a run folder and writes `evaluation.json` into it (or `out`).

    Scores that differ from what the run's config asks for go to `evaluation-asked.json`: a ledger is made of the others.

    tasks: task -> regime (name or expression); tiers, sessions, step, store: empty means what the run's config says. Raises
    UserError for a run that has no checkpoint, a session that the model does not know, or one without the tier.
    """
    run = Path(run)
    opened = Run(run, step)
    config, known_tiers = opened.config, set(opened.config.evaluation.tiers)
    if store:
        config.data.store = store
    if tiers:
        config.evaluation.tiers = tuple(tiers)
    # A run is scored on whatever devices are here, not on those it was trained on.
    config.mesh.update(data=opened.mesh.shape["data"], fsdp=1, tensor=1)
    parts = prepare(config, opened.vocabulary)
    params = opened.params
    scored = tuple(sessions) or tuple(config.evaluation.sessions)
    scored = scored or _with_windows(parts, tuple(entry.key for entry in parts.vocabulary.sessions))
    learnt = set(config.evaluation.tiers) - {*known_tiers, *config.train.validation_tiers}
    if config.data.leave_out != "nothing" and learnt:
        told = f"note: stimuli of tier {', '.join(sorted(learnt))} were not left out of this run's training"
        print(told, file=sys.stderr)
    rows = evaluate(parts, params, dict(tasks or config.evaluation.tasks), scored)
    result = {"checkpoint_step": opened.step, "tiers": list(config.evaluation.tiers), "rows": rows}
    as_configured = not (tasks or tiers or sessions or step)
    file = out or run / ("evaluation.json" if as_configured else "evaluation-asked.json")
    track.write_json(file, result)
    return {**result, "file": str(file)}


def _with_windows(parts: Parts, sessions: tuple[str, ...]) -> tuple[str, ...]:
    """The sessions that have something to score in the config's tiers; says which have not. UserError if none has."""
    config = parts.config
    index = parts.windows(sessions, config.evaluation.tiers, config.evaluation.stride_s)
    if index.skipped:
        print(
            f"{len(index.skipped)} of {len(sessions)} sessions have nothing to score in tier "
            f"{', '.join(config.evaluation.tiers)} and are left out: {few(index.skipped, 5)}",
            file=sys.stderr,
        )
    return index.sessions


def preflight(config: ConfigDict) -> None:
    """Raises the UserError that training and then evaluating this config would end in, before anything is written."""
    parts = prepare(config)
    sessions = parts.store.chosen(config.data.sessions)
    session_weights(parts.training_windows(), parts.vocabulary, config.data.mixture, config.data.temperature)
    n_slots = parts.cutter(sessions, parts.model.max_neurons).n_slots
    plan_of(parts.model, regimes_of(config.regimes, parts.model.grid), n_slots, config.train.programs)
    scored = tuple(config.evaluation.sessions) or sessions
    for stride in _strides(parts, config.evaluation.tasks.values()):
        scored_windows(parts, scored, stride)


def evaluate(parts: Parts, params: Any, tasks: Mapping[str, str], sessions: Sequence[str]) -> list[dict[str, Any]]:
    """Score rows of the ledger for each task and session, in that order."""
    config = parts.config
    for key in sessions:
        parts.vocabulary.session_row(key)
    if len(set(sessions)) < len(sessions):
        raise UserError("evaluate: a session is named twice", way_out="name each once")
    windows_every = {stride: scored_windows(parts, sessions, stride) for stride in _strides(parts, tasks.values())}
    rows = []
    for task, text in tasks.items():
        regime = regimes_of([text], parts.model.grid)[0]
        windows = windows_every[_stride(parts, regime)]
        batches = EvaluationBatches(parts.cutter(sessions), windows, regime, config.evaluation.batch_size)
        for key, scores in session_scores(parts, params, batches, sessions).items():
            found = _rows(parts, task, regime, key, scores)
            if not found:
                print(f"task {task}, session {key}: nothing that it asks for was recorded", file=sys.stderr)
            rows.extend(found)
    return rows


def scored_windows(parts: Parts, sessions: Sequence[str], stride_s: float) -> WindowIndex:
    """Windows of the scored tiers, of every session. UserError names a session that has none."""
    tiers = parts.config.evaluation.tiers
    windows = parts.windows(sessions, tiers, stride_s)
    if windows.skipped:
        raise UserError(
            f"session {windows.skipped[0]}: no window of {parts.model.grid.seconds:g} s in tier {', '.join(tiers)}",
            way_out="leave it out of evaluation.sessions, or name other evaluation.tiers",
        )
    return windows


def _stride(parts: Parts, regime: Regime) -> float:
    """Behaviour is asked for over the whole window, so its windows must not overlap: no sample counts twice."""
    whole = regimes.resolve(regime, parts.model.grid, 64).behavior == "target"
    stride = parts.config.evaluation.stride_s
    return max(stride, parts.model.grid.seconds) if whole else stride


def _strides(parts: Parts, texts: Iterable[str]) -> set[float]:
    return {_stride(parts, regime) for regime in regimes_of(list(texts), parts.model.grid)}


def session_scores(
    parts: Parts, params: Any, batches: EvaluationBatches, sessions: Sequence[str]
) -> dict[str, SessionScores]:
    """One pass over all windows; sums per session."""
    n_channels = parts.model.n_channels
    scores = {
        key: SessionScores(PooledCorrelation(parts.vocabulary.entry(key).n_neurons), BlockCorrelation(n_channels))
        for key in sessions
    }
    for windows, batch, predicted, _ in predictions(parts, params, batches):
        for row, window in enumerate(windows):
            score = scores[window.session]
            score.n_windows += 1
            _add_responses(score.responses, parts, batches.layout, batch, predicted, row, window.session)
            if predicted.behavior is not None:
                mask_CxT = batch.behavior_mask[row]
                score.behavior.update(predicted.behavior[row].T, batch.behavior[row].T, mask_CxT.T)
    return scores


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Task x session scores as text, with the mean over sessions."""
    tasks = list(dict.fromkeys((row["task"], row["metric"]) for row in rows if row["channel"] in ("", "mean")))
    sessions = list(dict.fromkeys(row["session"] for row in rows))
    found = {(r["session"], r["task"], r["metric"]): r for r in rows if r["channel"] in ("", "mean")}
    width = max([len("mean over sessions"), *map(len, sessions)])
    names = [f"{task} ({'neurons' if metric.startswith('response') else 'behavior'})" for task, metric in tasks]
    lines = [" ".join([" " * width, *(f"{name:>24}" for name in names)])]
    for session in sessions:
        cells = []
        for task, metric in tasks:
            row = found.get((session, task, metric))
            cells.append("" if row is None else f"{row['score']:.3f} [{row['score_low']:.3f}, {row['score_high']:.3f}]")
        lines.append(" ".join([f"{session:<{width}}", *(f"{cell:>24}" for cell in cells)]))
    means = []
    for task, metric in tasks:
        values = [row["score"] for (s, t, m), row in found.items() if (t, m) == (task, metric)]
        means.append(f"{np.nanmean(values):.3f}" if np.isfinite(values).any() else "-")
    lines.append(" ".join([f"{'mean over sessions':<{width}}", *(f"{mean:>24}" for mean in means)]))
    lines.append(
        f"{ESTIMATOR}; neurons: mean [{INTERVAL_OVER_NEURONS}]; behavior: mean of channels [{INTERVAL_OVER_WINDOWS}]"
    )
    return "\n".join(lines)


def _add_responses(
    scores: PooledCorrelation, parts: Parts, layout: Layout, batch: Any, predicted: Any, row: int, key: str
) -> None:
    first_row = parts.vocabulary.entry(key).first_row
    for rectangle, predicted_BxSxN in zip(layout.targets, predicted.responses, strict=True):
        samples = slice(rectangle.first_sample, rectangle.last_sample)
        slots = slice(rectangle.first_neuron, rectangle.last_neuron)
        real = batch.neuron_mask[row, slots]
        neurons = batch.neuron_rows[row, slots][real] - first_row
        scores.update(
            neurons,
            predicted_BxSxN[row][:, real],
            batch.responses[row, samples, slots][:, real],
            batch.response_mask[row, samples, slots][:, real],
        )


def _rows(parts: Parts, task: str, regime: Regime, key: str, scores: SessionScores) -> list[dict[str, Any]]:
    """Ledger rows of one session: neurons, and behaviour by channel and as their mean."""
    config, entry = parts.config, parts.vocabulary.entry(key)
    common = {
        "session": key,
        "animal": entry.animal,
        "task": task,
        "regime": regime.name,
        "tier": "+".join(config.evaluation.tiers),
        "holdout": _holdout(parts, key),
        "estimator": ESTIMATOR,
        "n_windows": scores.n_windows,
    }
    rows = []
    scored = scores.responses.count > 0
    if scored.any():
        r = scores.responses.correlation()
        low, high = bootstrap_interval(r, scored, config.evaluation.bootstrap, config.seed)
        ceiling, definition = _ceiling(parts, key, regime, scored)
        score = mean_over_units(r, scored)
        rows.append(
            {
                **common,
                "metric": "response_correlation",
                "channel": "",
                "score": score,
                "score_low": low,
                "score_high": high,
                "interval": INTERVAL_OVER_NEURONS,
                "n_units": int(scored.sum()),
                "share_above_0.1": float((np.nan_to_num(r[scored]) > 0.1).mean()),
                "ceiling": ceiling,
                "ceiling_estimator": definition,
                "normalized": None if ceiling is None else score / ceiling,
            }
        )
    seen = scores.behavior.count > 0
    if seen.any():
        r = scores.behavior.correlation()
        again = scores.behavior.bootstrap(config.evaluation.bootstrap, config.seed)
        channels = [
            (name, float(r[i]), again[:, i], 1) for i, name in enumerate(parts.model.behavior_channels) if seen[i]
        ]
        mean = ("mean", mean_over_units(r, seen), np.nan_to_num(again[:, seen]).mean(1), int(seen.sum()))
        for name, score, resampled, n_units in [*channels, mean]:
            low, high = percentile_interval(resampled)
            rows.append(
                {
                    **common,
                    "metric": "behavior_correlation",
                    "channel": name,
                    "score": score,
                    "score_low": low,
                    "score_high": high,
                    "interval": INTERVAL_OVER_WINDOWS,
                    "n_units": n_units,
                    "ceiling": None,
                    "ceiling_estimator": "",
                    "normalized": None,
                }
            )
    return rows


def _holdout(parts: Parts, key: str) -> str:
    """What of a session is new to the model: only its time (it was trained on other tiers of it), the session, or the animal."""
    trained = parts.store.chosen(parts.config.data.sessions)
    if key in trained:
        return "time"
    animals = {parts.vocabulary.entry(other).animal for other in trained if other in parts.vocabulary}
    return "session" if parts.vocabulary.entry(key).animal in animals else "animal"


def _ceiling(parts: Parts, key: str, regime: Regime, scored: np.ndarray) -> tuple[float | None, str]:
    """What a perfect model of the same inputs would score, where the recording knows it (synthetic mice)."""
    truth = (parts.store.recording(key).truth or {}).get("ceiling", {})
    layout = regimes.resolve(regime, parts.model.grid, len(scored))
    if layout.context:
        name = "all_but_private_noise"
    elif layout.behavior == "input":
        name = "stimulus_behavior"
    else:
        name = "stimulus"
    per_neuron = truth.get(name, {}).get("per_neuron") if layout.video_steps[1] > layout.video_steps[0] else None
    if per_neuron is None:
        return None, ""
    return float(np.asarray(per_neuron, np.float64)[scored].mean()), f"known law: {name}"
