"""Gains side by side, one pair of rows per task: of a doubling on each axis, and of the next investment."""

from __future__ import annotations

import dataclasses

from omnimouse_jax.scaling.analysis import Study
from omnimouse_jax.scaling.uncertainty import Interval


@dataclasses.dataclass(frozen=True)
class ForestRow:
    """A change of score in one task; `axis` "data" or "parameters" picks colour and mark, `what` is its name."""

    task: str
    axis: str
    what: str
    estimate: float
    these: Interval | None
    new: Interval | None


@dataclasses.dataclass(frozen=True)
class Forest:
    key: str
    title: str
    x_name: str
    rows: tuple[ForestRow, ...]


def doubling_forest(study: Study) -> Forest:
    """Gain per doubling of data and of parameters: straight lines, no curve."""
    rows = []
    for task in study.tasks:
        for axis, gain in (("data", task.data_gain), ("parameters", task.parameter_gain)):
            if gain is not None:
                rows.append(ForestRow(task.name, axis, axis, gain.estimate, gain.seeds, gain.sessions))
    return Forest("gain-per-doubling", "Gain per doubling", "change of score per doubling", tuple(rows))


def next_forest(study: Study) -> Forest:
    """The next sessions against the next doubling of parameters, from the largest cell."""
    rows = []
    for task in study.tasks:
        if task.prospects is not None:
            for axis, option in (("data", task.prospects.data), ("parameters", task.prospects.parameters)):
                short = option.name.removeprefix("next ") if axis == "data" else "2\u00d7 parameters"
                worth = option.worth
                rows.append(ForestRow(task.name, axis, short, worth.estimate, worth.these, worth.new))
    return Forest("next-step", "What comes next", "expected change of score", tuple(rows))
