"""From the ledger to everything the page and the summary say: per task the cells, gains, fits, verdict and flags."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.analysis_axes import DATA_AXES, AxisCheck, compare_axes
from omnimouse_jax.scaling.analysis_cells import (
    amounts,
    ceiling_of,
    common_sessions,
    human,
    scores,
    share_above,
    size_names,
)
from omnimouse_jax.scaling.analysis_worth import CostLaw, Prospects, cost_law, prospects
from omnimouse_jax.scaling.exclude import Point, Selected, point, points, schedule_rules, select
from omnimouse_jax.scaling.fit import Fit, Flag, fit
from omnimouse_jax.scaling.forms import Array, make_form
from omnimouse_jax.scaling.grid import Gain, Grid
from omnimouse_jax.scaling.ledger import BY_NAME, Row, finished, missing
from omnimouse_jax.scaling.selection import Selection, compare
from omnimouse_jax.scaling.uncertainty import Bootstrap, bootstrap
from omnimouse_jax.scaling.verdict import FLAT, NONE, Joint, Verdict, judge

METRICS = {
    "response_correlation": "correlation with responses",
    "behavior_correlation": "correlation with behaviour",
    "stated_score": "score as the table states it",
}
#: What of the evaluation is new to the model, for labels and for sentences.
HOLDOUTS = {
    "time": ("held-out time", "trials that were held out of recordings trained on: transfer to fixed sessions"),
    "session": ("held-out sessions", "sessions that no run was trained on, of animals that it may know"),
    "animal": ("held-out animals", "animals that no run was trained on"),
}
MAX_EPOCHS_UNREMARKED = 4.0


@dataclasses.dataclass(frozen=True)
class AxisFit:
    """The one-axis curve at one level of the other axis."""

    axis: str  # "data" or "parameters"
    level: int  # of the other axis
    fit: Fit
    boot: Bootstrap
    line: Fit  # the straight line in log x, always beside it
    selection: Selection


@dataclasses.dataclass(frozen=True)
class Scored:
    """A point with its score in one task, in the fits or not."""

    row: Row
    score: float
    used: bool


@dataclasses.dataclass(frozen=True)
class Task:
    """One task of the study. Scores of a run are plain means over `sessions`; `runs`: one row per run of the grid, in its order."""

    key: str
    name: str
    metric: str
    tier: str
    holdout: str
    regime: str
    estimator: str
    grid: Grid
    runs: tuple[Row, ...]
    sessions: tuple[str, ...]
    size_names: tuple[str, ...]
    amount_names: tuple[str, ...]
    ceiling: float | None
    ceiling_estimator: str
    data_gain: Gain | None  # per doubling, averaged over sizes
    parameter_gain: Gain | None
    data_step: Gain | None  # smallest to largest amount at the largest size
    parameter_step: Gain | None
    joint: Joint
    axis_fits: tuple[AxisFit, ...]
    selection: Selection | None  # of the joint form
    prospects: Prospects | None
    flops: CostLaw | None  # of training
    axes: tuple[AxisCheck, ...]
    points: tuple[Scored, ...]  # all that have a score, earlier anneal points and other learning rates with them
    above: float | None  # share of neurons with a correlation above .1 in the largest cell
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(row["run_id"] for row in self.runs)

    @property
    def stated(self) -> bool:
        """Numbers of an outside table: without runs of ours behind them."""
        return self.metric == "stated_score"

    @property
    def noise_known(self) -> bool:
        """The design tells what another run of a cell would score."""
        return self.grid.noise[1] > 0

    @property
    def noun(self) -> str:
        """What its scores are, for axes and sentences."""
        return METRICS[self.metric]


@dataclasses.dataclass(frozen=True)
class Study:
    """A ledger, analysed. `rows` is all of it; `selected` what rules took out of the fits."""

    name: str
    data_axis: str
    tasks: tuple[Task, ...]
    rows: tuple[Row, ...]
    selected: Selected

    @property
    def runs(self) -> list[Row]:
        """One row per finished run."""
        return list({row["run_id"]: row for row in finished(self.rows)}.values())

    @property
    def missing(self) -> list[Row]:
        """Cells that failed or have not finished."""
        return missing(self.rows)

    @property
    def unit(self) -> str:
        return DATA_AXES[self.data_axis][0]

    @property
    def outside(self) -> bool:
        """Numbers of an outside table: without runs of ours behind them."""
        return all(task.stated for task in self.tasks)


def analyse(
    rows: Sequence[Row],
    *,
    data_axis: str = "n_sessions",
    tasks: Sequence[str] = (),
    without_overfit: bool = False,
    resamples: int = 1000,
    seed: int = 0,
) -> Study:
    """Everything that the ledger supports, per task (all, or the named ones). Deterministic.

    UserError: no finished run has a score; a task or data axis that is not there; an axis with a value that is none.
    """
    if data_axis not in DATA_AXES:
        raise UserError(f"report: unknown data axis {data_axis!r}", way_out=f"choose one of {', '.join(DATA_AXES)}")
    usable = [r for r in finished(rows) if r["metric"] in METRICS]
    if not usable:
        absent = len(missing(rows))
        raise UserError(
            f"report: the ledger has no finished run with a correlation ({absent} failed or unfinished)",
            way_out="finish at least one cell of the sweep",
        )
    there = list(dict.fromkeys(row["task"] for row in usable))
    for task in tasks:
        if task not in there:
            raise UserError(f"report: no task {task!r} in the ledger", way_out=f"choose from {', '.join(there)}")
    usable = [row for row in usable if not tasks or row["task"] in tasks]
    for row in usable:
        for axis in ("n_params_core", data_axis):
            if row[axis] is None or row[axis] <= 0:
                raise UserError(
                    f"report: run {row['run_id']}: column {axis} is {row[axis]}, an axis needs positive values",
                    way_out=f"it is {BY_NAME[axis].meaning}; fix the run's run.json or choose another data axis",
                )
    selected = select([*usable, *missing(rows)], data_axis=data_axis, without_overfit=without_overfit)
    used = {point(row) for row in selected.kept}
    groups: dict[tuple[str, str, str, str], list[Row]] = {}
    for row in usable:
        groups.setdefault((row["task"], row["metric"], row["tier"], row.get("holdout") or ""), []).append(row)
    many = {task: sum(1 for k in groups if k[0] == task) > 1 for task, *_ in groups}
    made = [
        _task(key, group, used, many[key[0]], data_axis, resamples, seed)
        for key, group in groups.items()
        if any(point(row) in used for row in group)
    ]
    numbered = tuple(dataclasses.replace(t, key=f"{t.key}-{i}") for i, t in enumerate(made, start=1))
    names = sorted({r["study"] for r in rows if r["study"]})
    return Study(", ".join(names) or "scaling study", data_axis, numbered, tuple(rows), selected)


def _task(
    key: tuple[str, str, str, str],
    rows: list[Row],
    used: set[Point],
    ambiguous: bool,
    data_axis: str,
    resamples: int,
    seed: int,
) -> Task:
    task, metric, tier, holdout = key
    notes: list[str] = []
    values = scores(rows, notes)
    by_point = points(rows)
    scored = sorted({p for p, _ in values})
    mine = [p for p in scored if p in used]
    silent = sorted({p[0] for p in by_point if p in used} - {p[0] for p in mine})
    if silent:
        notes.append(f"Left out, because it has no finite score: run {', '.join(silent)}.")
    sessions = common_sessions(values, mine, notes)
    if not sessions:
        raise UserError(
            f"report: task {task}: no evaluation session was scored in all {len(mine)} runs",
            way_out="evaluate every cell on the same fixed sessions",
        )
    runs = [by_point[p] for p in mine]
    animal_of = {r["session"]: r["animal"] or r["session"] for r in rows}
    orders = [row["data_order"] for row in runs]
    grid = Grid(
        np.array([row["n_params_core"] for row in runs], dtype=np.float64),
        amounts(runs, data_axis, notes),
        np.array([[values[p, s] for s in sessions] for p in mine], dtype=np.float64),
        tuple(animal_of[s] for s in sessions),
        orders=() if None in orders else tuple(orders),
    )
    flags = _row_flags(runs)
    ceiling, estimator = ceiling_of(rows, sessions, grid, notes)
    bound = ceiling if ceiling is not None else 1.0
    if metric == "stated_score" and not grid.seed_noise[1]:
        reason = (
            "numbers of a table without seeds: nothing tells their noise, so no curve is fitted and no verdict given"
        )
        flags.append(Flag("no_seeds", reason, refuse=True))
    joint = judge(grid, ceiling=bound, resamples=resamples, seed=seed, refuse=_first_refusal(flags))
    if joint.verdict.name == FLAT and metric == "stated_score":
        told = "No verdict: the noise of a run is unknown, so no difference can be called small or large."
        joint = dataclasses.replace(joint, refusal="the noise of a run is unknown", verdict=Verdict(NONE, told))
    selection = None
    if joint.fit is not None:
        x = np.stack([grid.parameters, grid.data], 1)
        selection = compare(x, grid.score, score=True, ceiling=bound)
    hopeless = joint.verdict.name == FLAT or _first_refusal([*flags, *joint.flags])
    last_n, last_d = len(grid.sizes) - 1, len(grid.amounts) - 1
    words = [task, tier, HOLDOUTS.get(holdout, ("",))[0], metric.split("_")[0]]
    above = share_above(rows, mine, sessions)
    corner = [
        above[p] for p, cell in zip(mine, grid.cell, strict=True) if p in above and tuple(cell) == (last_n, last_d)
    ]
    complete = [p for p in scored if all((p, s) in values for s in sessions)]
    return Task(
        key=_slug("-".join(key) if ambiguous else task),
        name=" ".join(w for w in words if w).replace("_", " ") if ambiguous else task.replace("_", " "),
        metric=metric,
        tier=tier,
        holdout=holdout,
        regime="; ".join(sorted({r["regime"] for r in rows if r["regime"]})),
        estimator=next((r["estimator"] for r in rows if r["estimator"]), ""),
        grid=grid,
        runs=tuple(runs),
        sessions=tuple(sessions),
        size_names=size_names(grid.sizes, runs),
        amount_names=tuple(human(v) for v in grid.amounts),
        ceiling=ceiling,
        ceiling_estimator=estimator,
        data_gain=_gain(grid, grid.slope("data")),
        parameter_gain=_gain(grid, grid.slope("parameters")),
        data_step=_gain(grid, grid.step("data", 0, last_d, last_n)),
        parameter_step=_gain(grid, grid.step("parameters", 0, last_n, last_d)),
        joint=joint,
        axis_fits=() if hopeless else _axis_fits(grid, bound, resamples, seed),
        selection=selection,
        prospects=prospects(grid, joint, runs, data_axis),
        flops=cost_law(grid, [row["flops"] for row in runs]),
        axes=() if hopeless else compare_axes(grid, runs, bound),
        points=tuple(
            Scored(by_point[p], float(np.mean([values[p, s] for s in sessions])), p in used) for p in complete
        ),
        above=float(np.mean(corner)) if corner else None,
        flags=(*flags, *joint.flags),
        notes=tuple(notes),
    )


def _gain(grid: Grid, weights: Array | None) -> Gain | None:
    return None if weights is None else grid.contrast(weights)


def _first_refusal(flags: Sequence[Flag]) -> str:
    return next((flag.words for flag in flags if flag.refuse), "")


def _row_flags(runs: list[Row]) -> list[Flag]:
    flags = []
    schedules = schedule_rules(runs)
    if len(schedules) > 1:
        words = f"runs differ in learning-rate schedule ({', '.join(schedules)}), which changes exponents"
        flags.append(Flag("mixed_schedule", words, refuse=True))
    versions = sorted({r["version"] for r in runs if r["version"]})
    if len(versions) > 1:
        flags.append(Flag("mixed_version", f"runs were made by several versions ({', '.join(versions)})"))
    if len({r["data_order"] for r in runs} - {None}) == 1 and len({r["n_sessions"] for r in runs}) > 1:
        words = "one nested order of sessions: which come first was not varied, so no interval contains this noise"
        flags.append(Flag("single_order", words))
    epochs = [r["epochs"] for r in runs if r["epochs"] is not None]
    if epochs and max(epochs) > MAX_EPOCHS_UNREMARKED:
        words = f"up to {max(epochs):.0f} epochs: small data amounts were repeated, repeats are not new data"
        flags.append(Flag("epochs", words))
    return flags


def _axis_fits(grid: Grid, ceiling: float, resamples: int, seed: int) -> tuple[AxisFit, ...]:
    out = []
    for axis in ("data", "parameters"):
        if grid.too_narrow(axis):
            continue
        own, other = (grid.data, 0) if axis == "data" else (grid.parameters, 1)
        levels = grid.amounts if axis == "data" else grid.sizes
        for level in range(grid.count.shape[other]):
            chosen = grid.cell[:, other] == level
            if len(np.unique(own[chosen])) < len(levels):
                continue
            x, y = own[chosen][:, None], grid.score[chosen]
            found = fit(make_form("score1", ceiling=ceiling), x, y)
            # few cells lie on one line: resampling runs keeps its ends, resampling cells would lose them
            boot = bootstrap(found, resamples=resamples, seed=seed, unit="runs")
            line = fit(make_form("log_linear"), x, y, delta=np.inf)
            out.append(AxisFit(axis, level, found, boot, line, compare(x, y, score=True, ceiling=ceiling)))
    return tuple(out)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "task"
