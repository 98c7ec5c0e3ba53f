"""What the page of a new mouse shows beside scores: each neuron's correlation, and stretches of what was recorded and predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.evaluate.prediction import Prediction

#: Neurons and seconds that are shown as examples.
NEURONS, SECONDS = 3, 12.0


def per_neuron(
    models: Mapping[str, Path],
    scratch: Mapping[str, Path],
    sessions: Sequence[str],
    scores: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """session -> task -> method -> correlation of each neuron (each sample counts once), and the ceiling where it is known.

    `scores` are the evaluator's rows, which say what the ceiling of a task is.
    """
    laws = {(row["session"], row["task"]): row["ceiling_estimator"] for row in scores if row["ceiling"] is not None}
    found: dict[str, Any] = {}
    for key in sessions:
        runs = _opened(models, scratch, key)
        found[key] = {}
        for task, regime in runs["adapted"].regimes.items():
            predicted = {name: _predicted(run, key, regime) for name, run in runs.items()}
            if any(p is None or not p.responses.size for p in predicted.values()):
                continue
            of_method = {name: _list(p.correlation()) for name, p in predicted.items() if p is not None}
            found[key][task] = {**of_method, "ceiling": _ceiling(runs["adapted"], key, laws.get((key, task), ""))}
    return found


def traces(models: Mapping[str, Path], scratch: Mapping[str, Path], sessions: Sequence[str]) -> list[dict[str, Any]]:
    """Some seconds of the scored tiers: of each task the neurons that the adapted model predicts best, or every channel."""
    found = []
    for key in sessions:
        runs = _opened(models, scratch, key)
        for task, regime in runs["adapted"].regimes.items():
            predicted = {name: p for name, run in runs.items() if (p := _predicted(run, key, regime)) is not None}
            if "adapted" not in predicted:
                continue
            if predicted["adapted"].responses.size:
                r = np.nan_to_num(predicted["adapted"].correlation(), nan=-1.0)
                for neuron in np.argsort(-r)[:NEURONS].tolist():
                    name = f"neuron {predicted['adapted'].neuron_ids[neuron]}"
                    columns = {m: p.responses[:, neuron] for m, p in predicted.items()}
                    both = predicted["adapted"]
                    found.append(_trace(key, task, name, both.time, both.recorded[:, neuron], columns))
            for channel, name in enumerate(predicted["adapted"].channels if predicted["adapted"].behavior.size else ()):
                both = predicted["adapted"]
                columns = {m: p.behavior[:, channel] for m, p in predicted.items()}
                found.append(_trace(key, task, name, both.behavior_time, both.recorded_behavior[:, channel], columns))
    return found


def _opened(models: Mapping[str, Path], scratch: Mapping[str, Path], key: str) -> dict[str, Run]:
    own = {"scratch": scratch[key]} if key in scratch else {}
    return {name: Run(folder) for name, folder in {**models, **own}.items()}


def _predicted(run: Run, key: str, regime: str) -> Prediction | None:
    """None for a regime that asks for nothing that this session has."""
    try:
        return run.predict(key, regime, tiers=tuple(run.config.evaluation.tiers))
    except UserError:
        return None


def _ceiling(run: Run, key: str, law: str) -> list[float | None] | None:
    """What a perfect model of the same inputs would reach, neuron by neuron, where the recording knows it."""
    name = law.rpartition(": ")[2]
    values = (run.recording(key).truth or {}).get("ceiling", {}).get(name, {}).get("per_neuron") if name else None
    return None if values is None else _list(np.asarray(values))


def _trace(
    key: str, task: str, name: str, time: np.ndarray, recorded: np.ndarray, columns: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """The first stretch of `SECONDS` without a gap, or the longest there is."""
    period = float(np.median(np.diff(time))) if len(time) > 1 else 1.0
    breaks = np.flatnonzero(np.diff(time) > 1.5 * period) + 1
    stretches = np.split(np.arange(len(time)), breaks)
    most = round(SECONDS / period)
    chosen = next((s for s in stretches if len(s) >= most), max(stretches, key=len))[:most]
    return {
        "session": key,
        "task": task,
        "name": name,
        "rate": 1 / period,
        "seconds": _list(time[chosen] - time[chosen][0]),
        "recorded": _list(recorded[chosen]),
        **{method: _list(values[chosen]) for method, values in columns.items()},
    }


def _list(values: np.ndarray) -> list[float | None]:
    return [round(float(value), 4) if np.isfinite(value) else None for value in values]
