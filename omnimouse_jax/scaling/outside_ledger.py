"""Published or other outside scores as rows of a ledger, so that the same command draws them; and what such numbers can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.pages.marks import plural
from omnimouse_jax.scaling.analysis import Study
from omnimouse_jax.scaling.analysis_axes import DATA_AXES
from omnimouse_jax.scaling.analysis_cells import human
from omnimouse_jax.scaling.ledger import BY_NAME, COLUMNS, DONE, FAILED, VERSION, Row
from omnimouse_jax.scaling.outside import Table, as_number, read_table
from omnimouse_jax.scaling.words_stated import (
    decimals,
    per_doubling_told,
    provenance,
    resolution,
    source_and_note,
    sources_told,
)

METRIC = "stated_score"
EXAMPLE = "size=model,n_params_core=params,n_sessions=sessions,task=task,score=value"
#: Where a score comes from; taken from table columns of these names without being asked.
ORIGIN = ("source", "note")
#: What an outside table may fill.
GIVEN = (
    "size",
    "n_params_core",
    *DATA_AXES,
    "task",
    "score",
    "seed",
    "session",
    "animal",
    "flops",
    "estimator",
    *ORIGIN,
)
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
    number stated twice for one cell is kept once, with both sources.
    Columns called source or note come along. UserError: a column that is not there, no line left.
    """
    axes = [name for name in DATA_AXES if name in columns]
    lacking = [name for name in ("n_params_core", "score") if name not in columns] + ([] if axes else ["n_sessions"])
    if lacking:
        raise UserError(
            f"table {path}: --columns does not name {lacking[0]}",
            way_out=f"for example --columns {EXAMPLE}",
        )
    table = read_table(path)
    columns = {name: name for name in ORIGIN if name in table.names} | dict(columns)
    scores = columns["score"].split("|")
    sources = {source for name, source in columns.items() if name != "score"} | set(scores)
    at = {source: table.index(source, "--columns") for source in sources}
    wanted = table.where(where) if where else np.ones(len(table), dtype=bool)
    if not wanted.any():
        raise UserError(f"table {path}: no line for which {where}", way_out="try another --where")
    out: list[Row] = []
    seen: dict[tuple[object, ...], Row] = {}
    for i in np.flatnonzero(wanted):
        for score in scores:
            line = table.rows[i]
            fields = {name: line[at[source]].strip() for name, source in (dict(columns) | {"score": score}).items()}
            row = _row(table, int(i), fields, score, len(scores) > 1)
            key = tuple(row[name] for name in ("size", "n_params_core", *axes, "task", "session", "seed", "score"))
            if row["state"] != DONE or key not in seen:
                out.append(row)
                seen[key] = row
                continue
            again, known = source_and_note(row)[0], seen[key]
            if again and again != source_and_note(known)[0]:
                known["estimator"] += f"; also stated by {again}"
    return out


def limits(study: Study) -> list[str]:
    """What numbers without runs behind them can and cannot tell, from the numbers themselves."""
    step = resolution(study)
    out = [
        f"Stated to {plural(decimals(step), 'decimal')}: two numbers must differ by {step:g} or more to differ at all. Brackets "
        "below hold only this rounding.",
        *sources_told(study),
    ]
    if all(task.grid.count.max() <= 1 for task in study.tasks):
        out.append(
            "No seeds, no scores by session: nothing tells the noise of a run or of a mouse, so no difference here has an interval."
        )
    amounts = sorted({float(v) for task in study.tasks for v in task.grid.amounts})
    if len(amounts) < 4:
        told = " and ".join(human(v) for v in amounts)
        out.append(
            f"{plural(len(amounts), 'amount')} of data ({told} {study.unit}s): no exponent of data, no plateau, no "
            "verdict can follow from them."
        )
    for task in study.tasks:
        slopes = {axis: per_doubling_told(study, task, axis, step) for axis in ("data", "parameters")}
        parts = [f"{axis} {words}" for axis, words in slopes.items() if words]
        if parts:
            out.append(
                f"{task.name[0].upper()}{task.name[1:]}, per doubling (slope in log2 through all its cells): {'; '.join(parts)}."
            )
    if any(task.data_gain and task.parameter_gain for task in study.tasks):
        out.append(
            "Gains of data and of parameters stand over different ranges at different corners: they are no ratio."
        )
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


def _row(table: Table, i: int, fields: Mapping[str, str], score: str, wide: bool) -> Row:
    """One line of the table, `fields` by ledger column."""
    row: Row = {c.name: "" if c.kind is str else None for c in COLUMNS}
    lacking = ""
    for name, text in fields.items():
        if name in ORIGIN:
            continue
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
        "estimator": provenance(fields.get("source", ""), fields.get("note", ""), row["estimator"]),
    }
    if row["n_sessions"] is None:
        row["n_sessions"] = next((round(row[a]) for a in DATA_AXES if row[a]), None)  # a level is a level
    return row
