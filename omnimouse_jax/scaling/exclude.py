"""Which runs of a ledger stay out of the fits, by rule, each with its reason in words. Nothing is dropped silently.

A *point* is one evaluated set of weights: a run at a checkpoint. A *family* is a constant run with the branches annealed from it,
which share their training up to the branch, so that only one point of a family may enter a fit over parameters and data.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from omnimouse_jax.scaling.ledger import DONE, FAILED, Row

Point = tuple[str, int]  # run_id, step of the evaluated weights
Cell = tuple[object, ...]

FAILED_RULE, UNFINISHED_RULE = "failed", "not finished"
RATE, EARLIER, OVERFIT, MINUTES = "learning rate", "earlier point", "over-fit", "minutes"
RULES = {
    FAILED_RULE: "the run failed",
    UNFINISHED_RULE: "the run has no score yet, or only some of its points have one",
    RATE: "another learning rate fills the grid at this size, or has the lower validation loss there",
    EARLIER: "a later point of the same run is there",
    MINUTES: "other minutes of each session than most, which this data axis cannot tell apart",
    OVERFIT: "the validation loss rose from its best value by more than 2 standard errors of the cell",
}
#: Axes on which a run with fewer minutes of each session looks like one with all of them.
BLIND_TO_MINUTES = ("n_sessions", "n_animals", "n_neurons")
OVERFIT_ERRORS = 2.0


@dataclasses.dataclass(frozen=True)
class Exclusion:
    """A point that a rule takes out, why in words, and a row of the ledger that stands for it."""

    point: Point
    rule: str
    reason: str
    row: Row = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True)
class Selected:
    """`kept`: rows of the points that enter fits. `overfit`: points marked for it, in or out. `notes`: what no rule decides."""

    kept: tuple[Row, ...]
    excluded: tuple[Exclusion, ...]
    overfit: tuple[Exclusion, ...]
    notes: tuple[str, ...]


def select(rows: Sequence[Row], *, data_axis: str = "n_sessions", without_overfit: bool = False) -> Selected:
    """All rules in turn: failed and unfinished runs, minutes that the axis cannot see, learning rates, earlier points of a run, and
    over-fit cells only where that is asked for."""
    excluded = [*unscored(rows), *early_points(rows)]
    kept = without(rows, excluded)
    notes: list[str] = []
    for rule in (lambda r: other_minutes(r, data_axis), lambda r: worse_rates(r, notes), earlier_points):
        found = rule(kept)
        excluded, kept = [*excluded, *found], without(kept, found)
    marked = overfit_points(kept, notes)
    if without_overfit:
        excluded, kept = [*excluded, *marked], without(kept, marked)
    return Selected(tuple(kept), tuple(excluded), tuple(marked), tuple(notes))


def point(row: Row) -> Point:
    return row["run_id"], int(row["checkpoint_step"] or 0)


def family(row: Row) -> str:
    """The constant run that a point belongs to."""
    return str(row.get("parent") or row["run_id"]) if row.get("anneal_from") is not None else str(row["run_id"])


def points(rows: Iterable[Row]) -> dict[Point, Row]:
    """One row per point."""
    out: dict[Point, Row] = {}
    for row in rows:
        out.setdefault(point(row), row)
    return out


def without(rows: Iterable[Row], excluded: Iterable[Exclusion]) -> list[Row]:
    gone = {e.point for e in excluded}
    return [row for row in rows if point(row) not in gone]


def unscored(rows: Iterable[Row]) -> list[Exclusion]:
    """Cells that failed, with their cause, and cells that have not finished."""
    out = []
    for key, row in points(r for r in rows if r["state"] != DONE).items():
        cause, error = str(row.get("cause") or "").replace("_", " "), str(row["error"] or "")
        told = ": ".join([part for part in ("" if error.lower().startswith(cause) else cause, error) if part])
        if row["state"] == FAILED:
            out.append(Exclusion(key, FAILED_RULE, told or "no cause recorded", row))
        else:
            out.append(Exclusion(key, UNFINISHED_RULE, ": ".join(filter(None, (str(row["state"]), told))), row))
    return out


def early_points(rows: Sequence[Row]) -> list[Exclusion]:
    """Branches of runs that have not finished: they stand for a part of the training that the other cells had."""
    states = {str(row["run_id"]): str(row["state"]) for row in rows}
    out = []
    for key, row in points(r for r in rows if r["state"] == DONE and r.get("anneal_from") is not None).items():
        state = states.get(family(row), DONE)
        if state != DONE:
            out.append(
                Exclusion(
                    key, UNFINISHED_RULE, f"annealed from step {row['anneal_from']} of a run that is {state}", row
                )
            )
    return out


def other_minutes(rows: Sequence[Row], data_axis: str) -> list[Exclusion]:
    """Runs with another number of minutes per session than most runs, where the data axis does not show minutes."""
    if data_axis not in BLIND_TO_MINUTES:
        return []
    by_minutes: dict[object, list[Row]] = defaultdict(list)
    for row in points(rows).values():
        by_minutes[row.get("minutes")].append(row)
    if len(by_minutes) < 2:
        return []
    common = max(by_minutes, key=lambda m: (len(by_minutes[m]), m is None, float(str(m or 0))))
    words = f"{_minutes(common)} of each session"
    return [
        Exclusion(point(row), MINUTES, f"trained on {_minutes(minutes)} of each session, most runs on {words}", row)
        for minutes, found in by_minutes.items()
        if minutes != common
        for row in found
    ]


def worse_rates(rows: Sequence[Row], notes: list[str] | None = None) -> list[Exclusion]:
    """All learning rates of a size but one, never chosen by a test score.

    Rates that were tried in fewer cells than another one are probes: a grid of these few cells could not be fitted. Of rates that
    fill as many cells, the one with the lowest mean validation loss over the cells that all of them share is kept; without such a
    cell all of them stay. `notes` says so, and where a probe had the lower loss: then that size is not tuned.
    """
    out: list[Exclusion] = []
    for size, tried in sorted(rate_trials(rows).items()):
        if len(tried) < 2:
            continue
        name = next(str(r["size"] or size) for r in rows if r["n_params_core"] == size)
        most = max(len(cells) for cells in tried.values())
        full = {rate: cells for rate, cells in tried.items() if len(cells) == most}
        best = next(iter(full)) if len(full) == 1 else best_rate(full)[0]
        if best is None:
            told = ", ".join(f"{rate:g}" for rate in sorted(full))
            if notes is not None:
                notes.append(
                    f"Size {name}: learning rates {told} have no cell in common that has a validation loss; all stay."
                )
            continue
        for row in points(r for r in rows if r["n_params_core"] == size).values():
            rate = row["learning_rate"]
            if rate is None or rate == best:
                continue
            better, losses = best_rate({best: tried[best], rate: tried[rate]})
            against = f": validation loss {losses[rate]:.4f}, {losses[best]:.4f} at {best:g}" if losses else ""
            probe = "" if rate in full else f", tried in {len(tried[rate])} of {most} cells"
            out.append(Exclusion(point(row), RATE, f"learning rate {rate:g}{probe}{against}", row))
            note = (
                f"Size {name}: learning rate {rate:g} reached a lower validation loss than {best:g} of the grid where both were "
                "tried: this size is not tuned, and would gain."
            )
            if better == rate and notes is not None and note not in notes:
                notes.append(note)
    return out


def rate_trials(rows: Sequence[Row]) -> dict[int, dict[float, dict[Cell, float]]]:
    """size (core parameters) -> learning rate -> cell -> validation loss of the last point there."""
    out: dict[int, dict[float, dict[Cell, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in sorted(points(rows).values(), key=_progress):  # later points overwrite earlier ones
        rate, loss = row["learning_rate"], row["validation_loss"]
        if rate is not None:
            cells = out[row["n_params_core"]][rate]
            if loss is not None and np.isfinite(loss):
                cells[(row["n_sessions"], row.get("minutes"), row["data_order"], row["seed"])] = float(loss)
    return out


def best_rate(tried: dict[float, dict[Cell, float]]) -> tuple[float | None, dict[float, float]]:
    """The rate with the lowest mean loss over the common cells (the smaller of two equal ones), and all means."""
    common = set.intersection(*(set(cells) for cells in tried.values()))
    if not common:
        return None, {}
    means = {rate: float(np.mean([cells[c] for c in sorted(common, key=str)])) for rate, cells in tried.items()}
    return min(sorted(means), key=lambda rate: means[rate]), means


def earlier_points(rows: Sequence[Row]) -> list[Exclusion]:
    """All but the last point of each family: the one with most steps, an annealed one before one that is not."""
    families: dict[str, list[Row]] = defaultdict(list)
    for row in points(rows).values():
        families[family(row)].append(row)
    out = []
    for found in families.values():
        last = max(found, key=_progress)
        for row in found:
            if row is not last:
                words = f"evaluated at step {point(row)[1]}, the last point of this run is at step {point(last)[1]}"
                out.append(Exclusion(point(row), EARLIER, words, row))
    return out


def overfit_points(rows: Sequence[Row], notes: list[str] | None = None) -> list[Exclusion]:
    """Points of cells whose mean gap between last and best validation loss exceeds 2 standard errors over seeds."""
    cells: dict[Cell, list[Row]] = defaultdict(list)
    for row in points(rows).values():
        if row["validation_gap"] is not None and row["validation_loss"] is not None:
            cells[(row["n_params_core"], row["n_sessions"], row.get("minutes"), row["data_order"])].append(row)
    freedom = sum(len(found) - 1 for found in cells.values())
    if not freedom:
        if any(row["validation_gap"] for found in cells.values() for row in found) and notes is not None:
            notes.append(
                "Over-fitting cannot be judged by rule: no cell has two seeds, so the noise of a validation loss is unknown."
            )
        return []
    squares = sum(np.var([r["validation_loss"] for r in found]) * len(found) for found in cells.values())
    sd = float(np.sqrt(squares / freedom))
    out = []
    for found in cells.values():
        gap = float(np.mean([row["validation_gap"] for row in found]))
        limit = OVERFIT_ERRORS * sd / np.sqrt(len(found))
        if gap > limit:
            words = f"validation loss {gap:.4f} above its best, 2 standard errors of the cell are {limit:.4f}"
            out += [Exclusion(point(row), OVERFIT, words, row) for row in found]
    return out


def schedule_rules(rows: Sequence[Row]) -> list[str]:
    """The learning-rate rules of the points, sorted: more than one must not be fitted together."""
    return sorted({str(row["schedule"]) for row in rows if row["schedule"]})


def _progress(row: Row) -> tuple[int, bool]:
    return point(row)[1], row.get("anneal_from") is not None


def _minutes(value: object) -> str:
    return "all minutes" if value is None else f"{value:g} minutes"
