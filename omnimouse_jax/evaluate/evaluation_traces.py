"""A few seconds as recorded and as the model predicts them, for the page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omnimouse_jax.evaluate.evaluation import Evaluation, where
from omnimouse_jax.evaluate.opened import Run

#: Sessions and seconds that are shown of each task.
SESSIONS, SECONDS = 3, 8.0
#: Neurons that are shown: by how many of the session's lie below them in score.
RANKS = (("best", 1.0), ("upper quarter", 0.75), ("median", 0.5))


def traces(run: Run, found: Evaluation, tasks: Mapping[str, str], tiers: Sequence[str]) -> list[dict[str, Any]]:
    """Of each task and of some sessions, spread over those scored: neurons that are predicted best, less well and half well, or
    every channel of behaviour, in the middle of what was scored. In the recording's own units.

    Rows: task, session, name, score (of all that was scored), seconds, recorded, predicted.
    """
    rows: list[dict[str, Any]] = []
    for task, regime in tasks.items():
        sessions = list(dict.fromkeys(row["session"] for row in found.rows if row["task"] == task))
        for number in np.unique(np.linspace(0, len(sessions) - 1, min(SESSIONS, len(sessions))).round().astype(int)):
            rows += _of_session(run, found, task, regime, sessions[number], tiers)
    return rows


def _of_session(
    run: Run, found: Evaluation, task: str, regime: str, session: str, tiers: Sequence[str]
) -> list[dict[str, Any]]:
    neurons, behavior = (where(table, task=task, session=session) for table in (found.neurons, found.behavior))
    job = run.job(session, regime, tiers)
    seconds = min(SECONDS, float(job.timeline.stretches[:, 1].max() - job.timeline.stretches[:, 0].min()))
    lengths = job.timeline.stretches[:, 1] - job.timeline.stretches[:, 0]
    long = np.flatnonzero(lengths >= min(seconds, lengths.max()))
    start = float(job.timeline.stretches[long[len(long) // 2], 0])
    seconds = min(seconds, float(lengths[long[len(long) // 2]]))
    shown = run.predict(session, regime, start=start, seconds=seconds)
    rows = []
    common = {"task": task, "session": session}
    if len(neurons.get("raw", ())) and shown.responses.size:
        scores = np.nan_to_num(neurons["raw"], nan=-1.0)
        order = np.argsort(scores, kind="stable")
        ids = {str(value): column for column, value in enumerate(shown.neuron_ids.tolist())}
        for name, share in RANKS:
            of = order[round(share * (len(order) - 1))]
            column = ids.get(str(neurons["unit_id"][of]))
            if column is None:
                continue
            told = f"neuron {neurons['unit_id'][of]} ({name})"
            columns = (shown.recorded[:, column], shown.responses[:, column])
            rows.append({**common, "name": told, "score": float(neurons["raw"][of]), **_line(shown.time, *columns)})
    for column, channel in enumerate(shown.channels if shown.behavior.size else ()):
        at = np.flatnonzero(behavior.get("channel", np.zeros(0, str)) == channel)
        if len(at):
            columns = (shown.recorded_behavior[:, column], shown.behavior[:, column])
            score = float(behavior["raw"][at[0]])
            rows.append({**common, "name": channel, "score": score, **_line(shown.behavior_time, *columns)})
    return rows


def _line(time: np.ndarray, recorded: np.ndarray, predicted: np.ndarray) -> dict[str, list[float | None]]:
    columns = {"seconds": time - time[0], "recorded": recorded, "predicted": predicted}
    return {name: [round(float(v), 4) if np.isfinite(v) else None for v in values] for name, values in columns.items()}
