"""From the ledger to everything the page and the summary say: per task the cells, gains, fits, verdict and flags."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import Fit, Flag, fit
from omnimouse_jax.scaling.forms import Array, make_form
from omnimouse_jax.scaling.grid import Gain, Grid
from omnimouse_jax.scaling.ledger import BY_NAME, Row, finished, missing
from omnimouse_jax.scaling.selection import Selection, compare
from omnimouse_jax.scaling.uncertainty import Bootstrap, bootstrap
from omnimouse_jax.scaling.verdict import FLAT, Joint, judge

METRICS = {"response_correlation": "correlation with responses", "behavior_correlation": "correlation with behaviour"}
DATA_AXES = {
    "n_sessions": ("session", "training sessions"),
    "n_animals": ("animal", "training animals"),
    "n_neurons": ("neuron", "training neurons"),
    "hours": ("hour", "training hours"),
    "neuron_hours": ("neuron-hour", "training neuron-hours"),
    "unique_stimulus_hours": ("stimulus hour", "unique stimulus hours in training"),
    "windows_seen": ("window", "windows seen in training"),
    "tokens_seen": ("token", "tokens seen in training"),
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
class Task:
    """One task of the study. Scores of a run are plain means over `sessions`."""

    key: str
    name: str
    metric: str
    tier: str
    regime: str
    estimator: str
    grid: Grid
    run_ids: tuple[str, ...]
    seeds: tuple[int, ...]
    orders: tuple[int | None, ...]
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
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Study:
    """A ledger, analysed. `rows` is all of it."""

    name: str
    data_axis: str
    tasks: tuple[Task, ...]
    rows: tuple[Row, ...]

    @property
    def runs(self) -> list[Row]:
        """One row per finished run."""
        return list({row["run_id"]: row for row in finished(self.rows)}.values())

    @property
    def missing(self) -> list[Row]:
        return missing(self.rows)

    @property
    def unit(self) -> str:
        return DATA_AXES[self.data_axis][0]


def analyse(rows: Sequence[Row], *, data_axis: str = "n_sessions", resamples: int = 1000, seed: int = 0) -> Study:
    """Everything that the ledger supports, per task. Deterministic. UserError if no finished run has a score."""
    if data_axis not in DATA_AXES:
        raise UserError(f"report: unknown data axis {data_axis!r}", way_out=f"choose one of {', '.join(DATA_AXES)}")
    usable = [r for r in finished(rows) if r["metric"] in METRICS]
    if not usable:
        absent = len(missing(rows))
        raise UserError(
            f"report: the ledger has no finished run with a correlation ({absent} failed or unfinished)",
            way_out="finish at least one cell of the sweep",
        )
    for row in usable:
        for axis in ("n_params_core", data_axis):
            if row[axis] is None or row[axis] <= 0:
                raise UserError(
                    f"report: run {row['run_id']}: column {axis} is {row[axis]}, an axis needs positive values",
                    way_out=f"it is {BY_NAME[axis].meaning}; fix the run's run.json or choose another data axis",
                )
    usable = _last_checkpoints(usable)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in usable:
        groups.setdefault((row["task"], row["metric"], row["tier"]), []).append(row)
    many = {task: sum(1 for k in groups if k[0] == task) > 1 for task, *_ in groups}
    tasks = tuple(_task(key, group, many[key[0]], data_axis, resamples, seed) for key, group in groups.items())
    tasks = tuple(dataclasses.replace(t, key=f"{t.key}-{i}") for i, t in enumerate(tasks, start=1))
    names = sorted({r["study"] for r in rows if r["study"]})
    return Study(", ".join(names) or "scaling study", data_axis, tasks, tuple(rows))


def _last_checkpoints(rows: Iterable[Row]) -> list[Row]:
    rows = list(rows)
    last: dict[str, int] = {}
    for row in rows:
        last[row["run_id"]] = max(last.get(row["run_id"], -1), row["checkpoint_step"] or 0)
    return [r for r in rows if (r["checkpoint_step"] or 0) == last[r["run_id"]]]


def _task(
    key: tuple[str, str, str], rows: list[Row], ambiguous: bool, data_axis: str, resamples: int, seed: int
) -> Task:
    task, metric, tier = key
    notes: list[str] = []
    regimes = sorted({r["regime"] for r in rows if r["regime"]})
    flags: list[Flag] = []
    values = _scores(rows, notes)
    runs = sorted({run for run, _ in values})
    silent = sorted({r["run_id"] for r in rows} - set(runs))
    if silent:
        notes.append(f"Left out, because it has no finite score: run {', '.join(silent)}.")
    sessions = _common_sessions(values, runs, notes)
    if not sessions:
        raise UserError(
            f"report: task {task}: no evaluation session was scored in all {len(runs)} runs",
            way_out="evaluate every cell on the same fixed sessions",
        )
    by_run = {r["run_id"]: r for r in rows}
    animal_of = {r["session"]: r["animal"] or r["session"] for r in rows}
    grid = Grid(
        np.array([by_run[r]["n_params_core"] for r in runs], dtype=np.float64),
        np.array([by_run[r][data_axis] for r in runs], dtype=np.float64),
        np.array([[values[r, s] for s in sessions] for r in runs], dtype=np.float64),
        tuple(animal_of[s] for s in sessions),
    )
    flags += _row_flags([by_run[r] for r in runs])
    ceiling, estimator = _ceiling(rows, sessions, grid, notes)
    bound = ceiling if ceiling is not None else 1.0
    joint = judge(grid, ceiling=bound, resamples=resamples, seed=seed, refuse=_first_refusal(flags))
    selection = None
    if joint.fit is not None:
        x = np.stack([grid.parameters, grid.data], 1)
        selection = compare(x, grid.score, score=True, ceiling=bound)
    hopeless = joint.verdict.name == FLAT or _first_refusal([*flags, *joint.flags])
    axis_fits = () if hopeless else _axis_fits(grid, bound, resamples, seed)
    last_n, last_d = len(grid.sizes) - 1, len(grid.amounts) - 1
    label = task if not ambiguous else " ".join(x for x in (task, tier, metric.split("_")[0]) if x)
    return Task(
        key=_slug("-".join(key) if ambiguous else task),
        name=label.replace("_", " "),
        metric=metric,
        tier=tier,
        regime="; ".join(regimes),
        estimator=next((r["estimator"] for r in rows if r["estimator"]), ""),
        grid=grid,
        run_ids=tuple(runs),
        seeds=tuple(by_run[r]["seed"] for r in runs),
        orders=tuple(by_run[r]["data_order"] for r in runs),
        sessions=tuple(sessions),
        size_names=_size_names(grid.sizes, [by_run[r] for r in runs]),
        amount_names=tuple(human(v) for v in grid.amounts),
        ceiling=ceiling,
        ceiling_estimator=estimator,
        data_gain=_gain(grid, grid.slope("data")),
        parameter_gain=_gain(grid, grid.slope("parameters")),
        data_step=_gain(grid, grid.step("data", 0, last_d, last_n)),
        parameter_step=_gain(grid, grid.step("parameters", 0, last_n, last_d)),
        joint=joint,
        axis_fits=axis_fits,
        selection=selection,
        flags=(*flags, *joint.flags),
        notes=tuple(notes),
    )


def _gain(grid: Grid, weights: Array | None) -> Gain | None:
    return None if weights is None else grid.contrast(weights)


def _first_refusal(flags: Sequence[Flag]) -> str:
    return next((flag.words for flag in flags if flag.refuse), "")


def _scores(rows: list[Row], notes: list[str]) -> dict[tuple[str, str], float]:
    """One score per run and session: the channel 'mean' or empty where given, else the mean over channels."""
    by_channel: dict[tuple[str, str], dict[str, float]] = {}
    invalid = 0
    for row in rows:
        if not np.isfinite(row["score"]):
            invalid += 1
            continue
        by_channel.setdefault((row["run_id"], row["session"]), {})[row["channel"]] = row["score"]
    if invalid:
        notes.append(f"{invalid} scores are not finite numbers and were left out.")
    channels = sorted({c for found in by_channel.values() for c in found})
    for whole in ("mean", ""):
        if whole in channels:
            return {key: found[whole] for key, found in by_channel.items() if whole in found}
    notes.append(f"The score is the plain mean over the channels {', '.join(channels)}.")
    return {
        key: float(np.mean([found[c] for c in channels]))
        for key, found in by_channel.items()
        if len(found) == len(channels)
    }


def _common_sessions(values: dict[tuple[str, str], float], runs: list[str], notes: list[str]) -> list[str]:
    everywhere = sorted({s for _, s in values})
    kept = [s for s in everywhere if all((r, s) in values for r in runs)]
    dropped = [s for s in everywhere if s not in kept]
    if dropped and kept:
        notes.append(f"Left out, because not every run was scored on it: session {', '.join(dropped)}.")
    return kept


def _row_flags(runs: list[Row]) -> list[Flag]:
    flags = []
    schedules = sorted({r["schedule"] for r in runs if r["schedule"]})
    if len(schedules) > 1:
        words = f"runs differ in learning-rate schedule ({', '.join(schedules)}), which changes exponents"
        flags.append(Flag("mixed_schedule", words, refuse=True))
    versions = sorted({r["version"] for r in runs if r["version"]})
    if len(versions) > 1:
        flags.append(Flag("mixed_version", f"runs were made by several versions ({', '.join(versions)})"))
    if len({r["data_order"] for r in runs}) == 1 and len({r["n_sessions"] for r in runs}) > 1:
        words = "one nested order of sessions: which come first was not varied, so no interval contains this noise"
        flags.append(Flag("single_order", words))
    epochs = [r["epochs"] for r in runs if r["epochs"] is not None]
    if epochs and max(epochs) > MAX_EPOCHS_UNREMARKED:
        words = f"up to {max(epochs):.0f} epochs: small data amounts were repeated, repeats are not new data"
        flags.append(Flag("epochs", words))
    return flags


def _ceiling(rows: list[Row], sessions: Sequence[str], grid: Grid, notes: list[str]) -> tuple[float | None, str]:
    """Mean ceiling over the sessions, if all have one. A score above it shows that it is no bound for this task."""
    found = {r["session"]: r for r in rows if r["ceiling"] is not None and np.isfinite(r["ceiling"])}
    if not all(s in found for s in sessions):
        return None, ""
    value = float(np.mean([found[s]["ceiling"] for s in sessions]))
    estimator = found[sessions[0]]["ceiling_estimator"]
    if not 0 < value <= 1 or np.nanmax(grid.mean) >= value:
        notes.append(
            f"Scores reach past the stated ceiling {value:.3f}: it does not bound this task and no fit uses it."
        )
        return None, estimator
    return value, estimator


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


def _size_names(sizes: Array, runs: list[Row]) -> tuple[str, ...]:
    names = []
    for size in sizes:
        given = {r["size"] for r in runs if r["n_params_core"] == size and r["size"]}
        names.append(given.pop() if len(given) == 1 else human(size))
    return tuple(names) if len(set(names)) == len(names) else tuple(human(s) for s in sizes)


def human(value: float) -> str:
    """1234567 -> 1.23M; numbers below ten thousand as they are."""
    if value < 1e4:
        return f"{value:.4g}"
    for scale, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale * 0.9995:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "task"
