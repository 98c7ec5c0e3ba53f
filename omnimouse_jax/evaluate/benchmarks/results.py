"""A score of a benchmark: what it is called there, how it was made, its interval, and of what."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from omnimouse_jax.evaluate.benchmarks.official import INTERVAL, interval


class Scored(NamedTuple):
    """The mean over `neurons` neurons; NaN where there is nothing to average. `told`: track, session, tier, counts."""

    metric: str
    value: float
    low: float
    high: float
    neurons: int
    told: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """With null for NaN."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        known = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {**self.told, "metric": self.metric, **known, "interval": INTERVAL, "neurons": self.neurons}


def score_of(metric: str, per_neuron: Float[np.ndarray, " neurons"], **told: Any) -> Scored:
    """The official mean over neurons of one metric, which is NaN if one of them is."""
    value = float(per_neuron.mean()) if len(per_neuron) else float("nan")
    low, high = interval(per_neuron) if math.isfinite(value) else (float("nan"), float("nan"))
    return Scored(metric, value, low, high, len(per_neuron), told)


def lines(scores: Sequence[Scored]) -> list[str]:
    """One printed line per score."""
    if not scores:
        return []
    names = list(dict.fromkeys(name for score in scores for name in score.told))
    cells = [[*names, "metric", "value", INTERVAL, "neurons"]]
    for score in scores:
        value = _short(score.value) if math.isfinite(score.value) else "none"
        between = f"{_short(score.low)} to {_short(score.high)}" if math.isfinite(score.low) else ""
        about = [str(score.told.get(name, "")) for name in names]
        cells.append([*about, score.metric, value, between, str(score.neurons)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _short(value: float) -> str:
    """Four digits; of a mean that one neuron with hardly any variance to explain has carried off, its size."""
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.3g}"


def as_text(about: dict[str, Any], scores: Sequence[Scored]) -> str:
    """scores.json."""
    return json.dumps({**about, "scores": [score.as_json() for score in scores]}, indent=1) + "\n"
