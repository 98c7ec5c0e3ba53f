"""Baselines (and models) beside each other as text: mean over sessions per task, and how much better than one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluation import Evaluation
from omnimouse_jax.evaluate.metrics.pooled import ESTIMATOR
from omnimouse_jax.evaluate.paired import paired


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Source x task: mean over sessions of the score (behaviour: mean of channels), and over how many sessions."""
    used = [row for row in rows if row["channel"] in ("", "mean")]
    tasks = list(dict.fromkeys((row["task"], row["metric"]) for row in used))
    sources = list(dict.fromkeys(row["source"] for row in used))
    if not used:
        return "nothing to show: no baseline is defined for these tasks"
    width = max(map(len, sources))
    names = [f"{task} ({'behavior' if metric.startswith('behavior') else 'neurons'})" for task, metric in tasks]
    lines = [" ".join([" " * width, *(f"{name:>22}" for name in names)])]
    for source in sources:
        cells = []
        for task, metric in tasks:
            scores = [r["score"] for r in used if (r["source"], r["task"], r["metric"]) == (source, task, metric)]
            cells.append(f"{np.nan_to_num(scores).mean():.3f} ({len(scores)})" if scores else "-")
        lines.append(" ".join([f"{source:<{width}}", *(f"{cell:>22}" for cell in cells)]))
    lines.append(f"{ESTIMATOR}, mean over sessions (how many); -: not applicable")
    return "\n".join(lines)


def against(
    evaluations: Mapping[str, Evaluation], task: str, reference: str, over: str = "neurons", n: int = 2000
) -> dict[str, tuple[float, float, float]]:
    """Per source: difference of its score from `reference`'s on the same units, and a 95 % interval of the difference.

    Sources without the task, or scored on other sessions than the reference, are left out.
    """
    found = {}
    for name, evaluation in evaluations.items():
        try:
            if name != reference:
                p = paired(evaluations[reference], evaluation, task, over, n=n)
                found[name] = (p.difference, p.low, p.high)
        except UserError:
            continue
    return found
