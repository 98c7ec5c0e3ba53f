"""What stated scores allow to say: which way they go, gains per doubling with their rounding, and where they come from."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis import Study, Task
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.ledger import Row, finished
from omnimouse_jax.scaling.uncertainty import Interval

AXES = (("data", "more data"), ("parameters", "bigger models"))
SOURCE = "source: "
Line = tuple[int, list[int]]  # a level of the other axis, and the levels that have a score there


def provenance(source: str, note: str, estimator: str) -> str:
    """Where a stated score comes from and how it was made, as the ledger's column `estimator` holds it."""
    told = [SOURCE + source.replace(";", ",") if source else "", note, estimator]
    return "; ".join(part for part in told if part)


def source_and_note(row: Row) -> tuple[str, str]:
    """The two parts of `provenance`; empty where the table does not tell."""
    text = row["estimator"] or ""
    if not text.startswith(SOURCE):
        return "", text
    source, _, note = text.removeprefix(SOURCE).partition("; ")
    return source, note


def resolution(study: Study) -> float:
    """The last decimal that the scores are stated to."""
    return 10.0 ** -max(_decimals(row["score"]) for row in finished(study.rows))


def decimals(step: float) -> int:
    return round(-math.log10(step)) if step > 0 else 3


def lines(task: Task, axis: str) -> list[Line]:
    """Levels of the other axis at which this one was varied."""
    count = task.grid.count if axis == "data" else task.grid.count.T
    found = [(i, [int(k) for k in np.flatnonzero(row > 0)]) for i, row in enumerate(count)]
    return [(i, there) for i, there in found if len(there) > 1]


def direction(task: Task, axis: str, step: float) -> str:
    """ "higher", "no higher", or where it is not monotone; differences below `step` are none. Empty: not varied."""
    found = lines(task, axis)
    if not found:
        return ""
    mean = task.grid.mean if axis == "data" else task.grid.mean.T
    names = task.amount_names if axis == "data" else task.size_names
    least = max(step - 1e-9, 0.0)
    falls = [
        (float(mean[i, a] - mean[i, b]), i, a, b)
        for i, there in found
        for a, b in itertools.pairwise(there)
        if mean[i, a] - mean[i, b] > least
    ]
    if falls:
        _, i, a, b = max(falls)
        first, second = (f"{number(float(mean[i, k]), decimals(step))} at {names[k]}" for k in (a, b))
        return f"not monotone: {first}, {second}"
    return "higher" if all(mean[i, there[-1]] - mean[i, there[0]] > least for i, there in found) else "no higher"


def directions(task: Task, step: float, verb: str) -> str:
    """A headline without a claim about noise: where scores are higher, no higher, or not monotone."""
    found = {words: direction(task, axis, step) for axis, words in AXES}
    across = {words: " (across sources)" if mixed(task, axis) else "" for axis, words in AXES}
    parts = []
    for way in ("higher", "no higher"):
        named = [f"with {words}{across[words]}" for words, told in found.items() if told == way]
        parts += [f"{verb} {way} {' and '.join(named)}"] if named else []
    parts += [f"with {w}{across[w]} {told}" for w, told in found.items() if told.startswith("not monotone")]
    text = "; ".join(parts)
    return text[:1].upper() + text[1:]


def mixed(task: Task, axis: str) -> bool:
    """Along this axis, scores from different sources stand side by side."""
    at = _by_cell(task)
    for i, there in lines(task, axis):
        cells = [(i, k) if axis == "data" else (k, i) for k in there]
        if len({source_and_note(row)[0] for cell in cells for row in at[cell]}) > 1:
            return True
    return False


def sources_told(study: Study) -> list[str]:
    """Which tasks compare cells from different sources, and what the table notes about them."""
    out = []
    for axis, words in AXES:
        tasks = [task for task in study.tasks if mixed(task, axis)]
        if not tasks:
            continue
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for task in tasks:
            at = _by_cell(task)
            for i, there in lines(task, axis):
                for k in there:
                    cell = (i, k) if axis == "data" else (k, i)
                    name = plural(task.amount_names[k], study.unit) if axis == "data" else task.size_names[k]
                    for row in at[cell]:
                        found[source_and_note(row)].add(name)
        told = [
            f"{source or 'no source'}, at {', '.join(sorted(names))}{f' ({note})' if note else ''}"
            for (source, note), names in found.items()
        ]
        out.append(
            f"Cells from different sources are compared with {words} ({', '.join(t.name for t in tasks)}), so a difference may "
            f"be one of measurement: {' | '.join(told)}."
        )
    return out


def per_doubling(task: Task, axis: str, step: float) -> tuple[float, Interval] | None:
    """Slope of a straight line in log2 through all cells, with what rounding alone may change of it; None if not varied."""
    weights = task.grid.slope(axis)
    gain = task.data_gain if axis == "data" else task.parameter_gain
    if weights is None or gain is None:
        return None
    half = _rounding(weights, step)
    return gain.estimate, Interval(gain.estimate - half, gain.estimate + half, "rounding", "rounding of the table", 0)


def per_doubling_told(study: Study, task: Task, axis: str, step: float) -> str:
    """+0.0075 [0.0056, 0.0094] (8 to 323 at 5M); empty if not varied."""
    found = per_doubling(task, axis, step)
    if found is None:
        return ""
    gain, ends = found
    own, other = task.amount_names, task.size_names
    if axis == "parameters":
        own, other = task.size_names, tuple(plural(a, study.unit) for a in task.amount_names)
    varied = lines(task, axis)
    there = [k for _, levels in varied for k in levels]
    at = f"at {other[varied[0][0]]}" if len(varied) == 1 else f"mean of {len(varied)} lines"
    return f"{doubling_value(gain, ends)} ({own[min(there)]} to {own[max(there)]} {at})"


def doubling_value(gain: float, ends: Interval) -> str:
    return f"{number(gain, 4, signed=True)} [{number(ends.low, 4)}, {number(ends.high, 4)}]"


def stated_sentences(study: Study, task: Task) -> list[str]:
    """Under the headline: steps from end to end, as stated."""
    step = resolution(study)
    out = []
    for axis, words in AXES:
        mean = task.grid.mean if axis == "data" else task.grid.mean.T
        names, others = task.amount_names, task.size_names
        if axis == "parameters":
            names, others = task.size_names, tuple(plural(a, study.unit) for a in task.amount_names)
        for i, there in lines(task, axis)[-1:]:
            first, last = (f"{number(float(mean[i, k]), decimals(step))} at {names[k]}" for k in (there[0], there[-1]))
            across = "; these come from different sources" if mixed(task, axis) else ""
            out.append(f"With {words} ({others[i]}): {first}, {last}{across}.")
    return out


def _rounding(weights: Array, step: float) -> float:
    """Largest change of sum(weights x scores) if each score is off by half its last decimal."""
    return step / 2 * float(np.abs(weights).sum())


def _by_cell(task: Task) -> dict[tuple[int, int], list[Row]]:
    out: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row, cell in zip(task.runs, task.grid.cell, strict=True):
        out[int(cell[0]), int(cell[1])].append(row)
    return out


def _decimals(value: float) -> int:
    text = repr(float(value))
    return len(text.split(".")[1]) if "." in text and "e" not in text and not text.endswith(".0") else 0
