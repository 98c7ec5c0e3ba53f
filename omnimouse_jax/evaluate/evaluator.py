"""Task x session scores of a trained model on held-out tiers: every test window visited once."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluation import Blocks, Evaluation, Table, stacked, where
from omnimouse_jax.evaluate.metrics.bootstrap import LEAST_UNITS, bootstrap_interval, percentile_interval
from omnimouse_jax.evaluate.metrics.pooled import ESTIMATOR
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.evaluate.paired import hierarchical
from omnimouse_jax.evaluate.score_rows import (
    INTERVAL_OVER_NEURONS,
    INTERVAL_OVER_TRIALS,
    INTERVAL_OVER_WINDOWS,
    SessionRows,
)
from omnimouse_jax.evaluate.scoring import SessionScores, alike, scored_sessions, session_scores, source_of
from omnimouse_jax.evaluate.sources import Source
from omnimouse_jax.model.programs import plan_of
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.expression import expression
from omnimouse_jax.tokens.mixture import session_weights
from omnimouse_jax.tokens.pipeline import EvaluationBatches, slots_for
from omnimouse_jax.tokens.regimes import Regime
from omnimouse_jax.tokens.windows import WindowIndex, few
from omnimouse_jax.training import track
from omnimouse_jax.training.setup import Parts, prepare, regimes_of

__all__ = [
    "INTERVAL_OVER_NEURONS",
    "INTERVAL_OVER_TRIALS",
    "INTERVAL_OVER_WINDOWS",
    "NEURONS_SUFFIX",
    "SessionScores",
    "evaluate",
    "evaluate_run",
    "evaluation",
    "holdout",
    "preflight",
    "scored_windows",
    "session_scores",
    "table",
]

#: Beside evaluation.json lies evaluation-neurons.npz: tables per neuron, channel, horizon and time (`Evaluation`).
NEURONS_SUFFIX = "-neurons.npz"


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
    found = evaluation(
        parts,
        source_of(params),
        dict(tasks or config.evaluation.tasks),
        scored,
        opened.added if opened.step == 0 else (),
    )
    result = {"checkpoint_step": opened.step, "tiers": list(config.evaluation.tiers), "rows": found.rows}
    result |= {"metrics": found.metrics, "ceilings": found.ceilings}
    as_configured = not (tasks or tiers or sessions or step)
    file = out or run / ("evaluation.json" if as_configured else "evaluation-asked.json")
    track.write_json(file, _without_nan(result))
    found.save(file.with_name(file.stem + NEURONS_SUFFIX))
    return {**result, "file": str(file)}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: what has no value is null there."""
    if isinstance(value, Mapping):
        return {name: _without_nan(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


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
    return evaluation(parts, source_of(params), tasks, sessions).rows


def evaluation(
    parts: Parts,
    source: Source,
    tasks: Mapping[str, str],
    sessions: Sequence[str],
    untrained: Container[str] = (),
) -> Evaluation:
    """Everything that can be told of a source (a model, a baseline) on tasks and sessions: scores with ceilings and intervals, by
    neuron, channel, horizon and time. Sums are streamed: what is in memory does not grow with the number of trials.

    `untrained`: see `holdout`. UserError for a session that is not known, is named twice, or has no window of the scored tiers.
    """
    config = parts.config
    for key in sessions:
        parts.vocabulary.session_row(key)
    if len(set(sessions)) < len(sessions):
        raise UserError("evaluate: a session is named twice", way_out="name each once")
    windows_every = {stride: scored_windows(parts, sessions, stride) for stride in _strides(parts, tasks.values())}
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in ("ledger", "metrics", "ceiling_rows", "intervals")}
    tables: dict[str, list[Table]] = {name: [] for name in ("neurons", "behavior", "horizon", "time")}
    blocks: dict[tuple[str, str], Blocks] = {}
    progress, done = Progress(len(tasks) * len(sessions), label="scores: "), 0
    for task, text in tasks.items():
        regime = regimes_of([text], parts.model.grid)[0]
        windows = windows_every[_stride(parts, regime)]
        found = {}
        for key, scores in _scored(parts, source, regime, windows, sessions):
            rows = SessionRows(parts, task, regime, key, scores, holdout(parts, key, untrained))
            found[key] = {name: getattr(rows, name)() for name in (*lists, *tables)}
            blocks[task, key] = rows.blocks()
            done += 1
            progress.show(done, f"task {task}, session {key}")
        for key in sessions:
            if not found[key]["ledger"]:
                print(f"task {task}, session {key}: nothing that it asks for was recorded", file=sys.stderr)
            for name, kept in lists.items():
                kept.extend(found[key][name])
            for name, columns in tables.items():
                columns.extend([found[key][name]] if found[key][name] else [])
    progress.close()
    stacks = {name: stacked(columns) for name, columns in tables.items()}
    intervals = lists["intervals"] + _over_sessions(parts, lists["ledger"], stacks["neurons"])
    return Evaluation(
        source=source.name,
        tiers=tuple(config.evaluation.tiers),
        rows=lists["ledger"],
        metrics=lists["metrics"],
        ceilings=lists["ceiling_rows"],
        intervals=stacked(intervals),
        blocks=blocks,
        regimes={t: expression(regimes_of([text], parts.model.grid)[0], parts.model.grid) for t, text in tasks.items()},
        **stacks,
    )


def _scored(
    parts: Parts, source: Source, regime: Regime, windows: WindowIndex, sessions: Sequence[str]
) -> Iterator[tuple[str, SessionScores]]:
    """(session, its sums): together where one program does them all alike, else by number of neurons."""
    for keys in alike(parts, regime, sessions):
        mine = [windows[number] for key in keys for number in windows.numbers_of(key)]
        batches = EvaluationBatches(parts.cutter(keys), mine, regime, parts.config.evaluation.batch_size)
        yield from scored_sessions(parts, source, batches, keys)


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
    """Seconds between windows: the config's, or what the regime asks for of a window where that is longer, so that no sample
    counts twice.
    """
    layout, grid = regimes.resolve(regime, parts.model.grid, _enough(parts)), parts.model.grid
    asked = [grid.seconds] if layout.behavior == "target" else []
    asked += (
        [
            (max(r.last_sample for r in layout.targets) - min(r.first_sample for r in layout.targets))
            / grid.response_rate
        ]
        if layout.targets
        else []
    )
    return max(parts.config.evaluation.stride_s, *asked)


def _enough(parts: Parts) -> int:
    """Slots for the largest session, so that a regime that shows a number of neurons leaves some to ask for."""
    return slots_for(max(entry.n_neurons for entry in parts.vocabulary.sessions))


def _strides(parts: Parts, texts: Iterable[str]) -> set[float]:
    return {_stride(parts, regime) for regime in regimes_of(list(texts), parts.model.grid)}


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
            cells.append("" if row is None else _told(row))
        lines.append(" ".join([f"{session:<{width}}", *(f"{cell:>24}" for cell in cells)]))
    means = []
    for task, metric in tasks:
        values = [row["score"] for (s, t, m), row in found.items() if (t, m) == (task, metric)]
        means.append(f"{np.nanmean(values):.3f}" if np.isfinite(values).any() else "-")
    lines.append(" ".join([f"{'mean over sessions':<{width}}", *(f"{mean:>24}" for mean in means)]))
    lines.append(
        f"{ESTIMATOR}; neurons: mean [{INTERVAL_OVER_NEURONS}]; behavior: mean of channels [{INTERVAL_OVER_TRIALS}]"
    )
    return "\n".join(lines)


def _told(row: Mapping[str, Any]) -> str:
    ends = [row["score_low"], row["score_high"]]
    interval = "" if any(end is None or np.isnan(end) for end in ends) else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
    return f"{row['score']:.3f}{interval}"


def holdout(parts: Parts, key: str, untrained: Container[str] = ()) -> str:
    """What of a session is new to the model: only its time (it was trained on other tiers of it), the session, or the animal.

    `untrained`: sessions of the config that nothing was trained on yet.
    """
    named = parts.config.data.sessions or parts.store.chosen(())  # the store at hand need not have what was trained on
    trained = [name for name in named if name not in untrained]
    if key in trained:
        return "time"
    animals = {parts.vocabulary.entry(other).animal for other in trained if other in parts.vocabulary}
    return "session" if parts.vocabulary.entry(key).animal in animals else "animal"


def _over_sessions(parts: Parts, rows: Sequence[Mapping[str, Any]], neurons: Table) -> list[dict[str, Any]]:
    """Intervals of the mean over sessions, each counted once: sessions drawn again, and animals with what belongs to them."""
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["channel"] in ("", "mean"):
            found.setdefault((row["task"], row["metric"], row["channel"]), []).append(row)
    n, seed, out = parts.config.evaluation.bootstrap, parts.config.seed, []
    for (task, metric, channel), mine in found.items():
        units: dict[str, list[np.ndarray]] = {}
        for row in mine:
            values = np.array([row["score"]])
            if metric == "response_correlation":
                values = np.nan_to_num(where(neurons, task=task, session=row["session"])["raw"])
            units.setdefault(row["animal"], []).append(values)
        means = np.array([row["score"] for row in mine])
        base = {"task": task, "session": "", "animal": "", "metric": metric, "channel": channel}
        told = {"score": float(np.nan_to_num(means).mean()), "resamples": n}
        over = {"sessions": bootstrap_interval(means, np.ones(len(means), bool), n, seed)}
        enough = len(units) >= LEAST_UNITS and n > 0
        drawn = (
            hierarchical(list(units.values()), n, np.random.default_rng([seed, len(units)])) if enough else np.zeros(0)
        )
        over["animals"] = percentile_interval(drawn)
        for name, count in (("sessions", len(mine)), ("animals", len(units))):
            low, high = over[name]
            out.append({**base, **told, "over": name, "low": low, "high": high, "n_units": count})
    return out
