"""Published or other outside scores as rows of a ledger, so that the same command draws them; and what such numbers can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.analysis_cells import human
from omnimouse_jax.scaling.ledger import BY_NAME, COLUMNS, DONE, FAILED, VERSION, Row
from omnimouse_jax.scaling.outside import Table, as_number, read_table

if TYPE_CHECKING:
    from omnimouse_jax.scaling.analysis import Study, Task

METRIC = "stated_score"
#: Columns of the ledger that an outside table may fill.
GIVEN = ("size", "n_params_core", *DATA_AXES, "task", "score", "seed", "session", "animal", "flops", "estimator")
SESSION = "as stated"


def columns_of(text: str) -> dict[str, str]:
    """ "size=model,n_params_core=params,score=value" -> {"size": "model", ...}: columns of the ledger and of the table."""
    out: dict[str, str] = {}
    for pair in text.split(","):
        name, _, source = pair.strip().partition("=")
        if name not in GIVEN or not source:
            raise UserError(
                f"report: --columns {pair.strip()!r}",
                way_out=f"write LEDGER=TABLE pairs, with LEDGER one of {', '.join(GIVEN)}",
            )
        out[name] = source
    return out


def rows_of_table(path: Path, columns: Mapping[str, str], where: str = "") -> list[Row]:
    """Rows of a ledger from a table of scores, one line each; with several columns of scores, score=A|B, each is a task.

    `columns`: ledger column -> table column; n_params_core, a measure of data and score are needed. `where`: a condition on the
    table's columns. A line without a number on an axis or as score becomes a row that says so and is listed on the page; the same
    number stated twice for one cell is kept once. UserError: a column that is not there, no line left.
    """
    axes = [name for name in DATA_AXES if name in columns]
    lacking = [name for name in ("n_params_core", "score") if name not in columns] + ([] if axes else ["n_sessions"])
    if lacking:
        raise UserError(
            f"table {path}: --columns does not name {lacking[0]}",
            way_out="for example --columns size=model,n_params_core=params,n_sessions=sessions,task=task,score=value",
        )
    table = read_table(path)
    scores = columns["score"].split("|")
    sources = {source for name, source in columns.items() if name != "score"} | set(scores)
    at = {source: table.index(source, "--columns") for source in sources}
    wanted = table.where(where) if where else np.ones(len(table), dtype=bool)
    if not wanted.any():
        raise UserError(f"table {path}: no line for which {where}", way_out="try another --where")
    out: list[Row] = []
    seen: set[tuple[object, ...]] = set()
    for i in np.flatnonzero(wanted):
        for score in scores:
            line = table.rows[i]
            fields = {name: line[at[source]].strip() for name, source in (dict(columns) | {"score": score}).items()}
            row = _row(table, int(i), fields, score, len(scores) > 1)
            key = tuple(row[name] for name in ("size", "n_params_core", *axes, "task", "session", "seed", "score"))
            if row["state"] != DONE or key not in seen:
                out.append(row)
            seen.add(key)
    return out


def limits(study: Study) -> list[str]:
    """What numbers without runs behind them can and cannot tell, from the numbers themselves."""
    scores = [row["score"] for row in study.rows if row["state"] == DONE]
    digits = max(_decimals(value) for value in scores)
    step = 10.0**-digits
    out = [
        f"Stated to {plural(digits, 'decimal')}: two numbers must differ by {step:g} or more to differ at all. Brackets "
        "below hold only this rounding.",
    ]
    if all(task.grid.count.max() <= 1 for task in study.tasks):
        out.append(
            "No seeds and no sessions: nothing tells the noise of a run or of a mouse, so no difference here has an interval."
        )
    amounts = sorted({float(v) for task in study.tasks for v in task.grid.amounts})
    if len(amounts) < 4:
        told = " and ".join(human(v) for v in amounts)
        out.append(
            f"{plural(len(amounts), 'amount')} of data ({told} {study.unit}s): no exponent of data, no plateau, no "
            "verdict can follow from them."
        )
    out += [line for task in study.tasks if (line := _per_doubling(study, task, step))]
    drawn = {task.name for task in study.tasks if task.data_gain is None and task.parameter_gain is None}
    if drawn:
        out.append(
            f"One cell, or cells that differ in both axes at once, which compares nothing: {', '.join(sorted(drawn))}."
        )
    if study.missing:
        out.append(
            f"{plural(len(study.missing), 'line')} of the table lack a number on an axis and are not drawn; they are listed below."
        )
    out.append("They can order cells of one task, and be drawn. They cannot tell data-limited from parameter-limited.")
    return out


def _per_doubling(study: Study, task: Task, step: float) -> str:
    """Gain per doubling on each axis with its rounding, and over which cells; empty where only one axis was varied."""
    grid = task.grid
    parts = []
    for axis, levels, noun in (("data", grid.amounts, "data"), ("parameters", grid.sizes, "parameters")):
        count = grid.count if axis == "data" else grid.count.T
        row = max(range(len(count)), key=lambda i: (int((count[i] > 0).sum()), i))
        there = [int(j) for j in range(len(levels)) if count[row, j] > 0]
        if len(there) < 2:
            return ""
        mean = grid.mean if axis == "data" else grid.mean.T
        doublings = math.log2(levels[there[-1]] / levels[there[0]])
        gain = float(mean[row, there[-1]] - mean[row, there[0]])
        low, high = ((gain + s * step) / doublings for s in (-1, 1))
        at = task.size_names[row] if axis == "data" else plural(task.amount_names[row], study.unit)
        names = task.amount_names if axis == "data" else task.size_names
        parts.append(
            f"{noun} {number(gain / doublings, 4, signed=True)} [{number(low, 4)}, {number(high, 4)}] "
            f"({names[there[0]]} to {names[there[-1]]} at {at})"
        )
    return f"{task.name[0].upper()}{task.name[1:]}, per doubling: {'; '.join(parts)}. Different ranges at different corners."


def _row(table: Table, i: int, fields: Mapping[str, str], score: str, wide: bool) -> Row:
    """One line of the table, `fields` by ledger column."""
    row: Row = {c.name: "" if c.kind is str else None for c in COLUMNS}
    lacking = ""
    for name, text in fields.items():
        kind = BY_NAME[name].kind
        if kind is str:
            row[name] = text
            continue
        value = as_number(text, table.decimal_comma)
        if value is not None and math.isfinite(value) and (value > 0 or name in ("score", "seed")):
            row[name] = round(value) if kind is int else value
        elif name in ("score", "n_params_core", *DATA_AXES):
            lacking = (
                lacking
                or f"line {table.lines[i]} of {table.path.name}: {name} is {text!r}, which has no place on an axis"
            )
    task = score if wide else row["task"] or score
    told = ", ".join(dict.fromkeys(str(v) for v in (row["size"], task) if v))
    row |= {
        "ledger_version": VERSION,
        "run_id": f"line {table.lines[i]}: {told}",
        "study": table.path.stem.replace("_", " "),
        "state": FAILED if lacking else DONE,
        "error": lacking,
        "task": task,
        "metric": METRIC,
        "session": row["session"] or SESSION,
    }
    if row["n_sessions"] is None:
        row["n_sessions"] = next((round(row[a]) for a in DATA_AXES if row[a]), None)  # a level is a level
    return row


def _decimals(value: float) -> int:
    text = repr(float(value))
    return len(text.split(".")[1]) if "." in text and "e" not in text and not text.endswith(".0") else 0
