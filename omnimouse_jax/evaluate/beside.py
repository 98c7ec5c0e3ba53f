"""Other evaluations beside one: baselines and other runs on the same page, compared pair by pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluation import Evaluation
from omnimouse_jax.evaluate.evaluator import NEURONS_SUFFIX
from omnimouse_jax.evaluate.metrics.bootstrap import LEAST_UNITS
from omnimouse_jax.evaluate.paired import paired

FILE = "evaluation.json"
#: What is drawn again: the first that there are enough of.
OVER = ("sessions", "trials", "neurons")
RESAMPLES = 1000
#: Percentile intervals of fewer sessions or animals are too narrow: of 3 they hold the truth in 74 %, of 5 in 83 %, of 10 in 91 %.
FEW = 10


def load(paths: Sequence[Path | str]) -> dict[str, Evaluation]:
    """Evaluations by name: of run folders, of files like evaluation.json, and of folders that `baselines` wrote (each of them).

    UserError for a path with none of these, and for two of one name.
    """
    found: dict[str, Evaluation] = {}
    for path in map(Path, paths):
        files = [path] if path.is_file() else [path / FILE, *sorted(path.glob(f"*/{FILE}"))]
        files = [file for file in files if file.with_name(file.stem + NEURONS_SUFFIX).exists()]
        if not files:
            raise UserError(
                f"{path}: no evaluation in it ({FILE} and {Path(FILE).stem}{NEURONS_SUFFIX})",
                way_out="make one with `omnimouse-jax evaluate RUN` or `omnimouse-jax baselines --like RUN --out FOLDER`",
            )
        for file in files:
            scored = json.loads(file.read_text())
            name = file.parent.name if file.name == FILE else file.stem
            if name in found:
                raise UserError(f"{file}: a second evaluation called {name}", way_out="rename one of the folders")
            found[name] = Evaluation.load(file.with_name(file.stem + NEURONS_SUFFIX), scored)
    return found


def compared(found: Evaluation, others: Mapping[str, Evaluation], task: str, seed: int) -> list[dict[str, Any]]:
    """A row per other evaluation that has the task: its mean over sessions, and `found` less it with a paired interval.

    Without a difference where it was scored on other units; `remark` says so.
    """
    rows = []
    for name, other in others.items():
        scores = _scores(other, task)
        if not scores:
            continue
        row: dict[str, Any] = {"beside": name, "score": float(np.mean(scores)), "n_sessions": len(scores)}
        row |= {"difference": None, "low": None, "high": None, "over": "", "share_above_0": None, "remark": ""}
        for over in OVER:
            try:
                pair = paired(other, found, task, over, n=RESAMPLES, seed=seed)
            except UserError as error:
                row["remark"] = f"not compared: {error.what}"
                break
            row["difference"] = pair.difference
            if pair.n_units >= LEAST_UNITS:
                few = ", few: too narrow" if over == "sessions" and pair.n_units < FEW else ""
                row |= {"low": pair.low, "high": pair.high, "over": f"{over} ({pair.n_units}{few})"}
                row["share_above_0"] = pair.share_above_0
                break
        rows.append(row)
    return sorted(rows, key=lambda row: -row["score"])


def _scores(found: Evaluation, task: str) -> list[float]:
    rows = [
        row for row in found.rows if row["task"] == task and row["channel"] in ("", "mean") and row["score"] is not None
    ]
    first = rows[0]["metric"] if rows else ""
    return [float(np.nan_to_num(row["score"])) for row in rows if row["metric"] == first]
