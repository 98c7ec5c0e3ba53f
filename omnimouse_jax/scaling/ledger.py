"""The ledger: one row per run or anneal point, evaluation session, task and metric. Every scaling number comes from here.

Cells that failed or have not finished are rows too, without a score and with their state and error, so that a page
can list what is missing.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically

VERSION = 2
DONE, FAILED, UNFINISHED = "done", "failed", "unfinished"
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    name: str
    kind: type  # int, float or str
    unit: str
    meaning: str
    level: str = "run"  # or "score"
    required: bool = False


def _run(name: str, kind: type, unit: str, meaning: str, required: bool = False) -> Column:
    return Column(name, kind, unit, meaning, "run", required)


def _score(name: str, kind: type, unit: str, meaning: str, required: bool = False) -> Column:
    return Column(name, kind, unit, meaning, "score", required)


#: Every column of the ledger, in file order. Cells may be empty unless required in a finished run.
COLUMNS: tuple[Column, ...] = (
    _run("ledger_version", int, "", "version of this table's columns", True),
    _run("run_id", str, "", "name of the run: one trained cell", True),
    _run("study", str, "", "name of the study (sweep)"),
    _run("state", str, "", "done, failed, running, interrupted or unfinished", True),
    _run(
        "cause", str, "", "why a run failed, as a kind: out_of_memory, nan, disk_full, lost, time_limit, refused, error"
    ),
    _run("error", str, "", "why a run failed, one line"),
    _run("attempts", int, "", "times that its training was begun or gone on with"),
    _run("parent", str, "", "run that this one was annealed or adapted from"),
    _run("anneal_from", int, "steps", "step of the parent at which the annealing began; empty for a run of its own"),
    _run("size", str, "", "name of the model size"),
    _run(
        "n_params_core",
        int,
        "parameters",
        "shared by all mice; per-neuron, -session and -animal tables are counted apart",
        True,
    ),
    _run("n_params_tower", int, "parameters", "of the self-attention tower, a part of the core"),
    _run("n_params_neuron", int, "parameters", "of the per-neuron tables; grows with the recordings"),
    _run("n_params_session", int, "parameters", "of the per-session and per-animal tables"),
    _run("n_params_total", int, "parameters", "everything trained"),
    _run("n_sessions", int, "sessions", "recording sessions trained on", True),
    _run("n_animals", int, "animals", "animals trained on"),
    _run("n_neurons", int, "neurons", "recorded neurons trained on"),
    _run("hours", float, "h", "recorded time trained on, summed over sessions"),
    _run("neuron_hours", float, "neuron h", "recorded time x neurons, summed over sessions"),
    _run("minutes", float, "min", "of each session's training tiers that were used; empty: all"),
    _run("unique_stimulus_hours", float, "h", "stimulus time, repeats of a clip counted once, of all tiers"),
    _run("seed", int, "", "of initialisation and of the order of windows", True),
    _run("data_order", int, "", "which nested order of sessions the subset is a prefix of"),
    _run("learning_rate", float, "", "peak"),
    _run("schedule", str, "", "learning-rate rule"),
    _run("batch_size", int, "windows", "per step"),
    _run("steps", int, "steps", "optimiser steps taken"),
    _run("windows_seen", int, "windows", "batch_size x steps"),
    _run("tokens_seen", int, "tokens", "input tokens shown to the model: responses, video features and behaviour"),
    _run("epochs", float, "", "windows seen / distinct windows"),
    _run("flops", float, "FLOP", "of training, by the model: 3 x forward pass of exact shapes x windows_seen"),
    _run("checkpoint_step", int, "steps", "step of the weights that were evaluated"),
    _run("train_loss", float, "", "at the evaluated step"),
    _run("validation_loss", float, "", "at the evaluated step"),
    _run("best_validation_loss", float, "", "of all that were saved on the way"),
    _run("validation_gap", float, "", "last validation loss - best one: over-fitting"),
    _run("config_hash", str, "", "of the run's complete configuration"),
    _run("version", str, "", "of omnimouse_jax"),
    _run("jax_version", str, "", "of jax"),
    _run("command", str, "", "that planned the study"),
    _run("device", str, "", "what it was trained on"),
    _run("seconds", float, "s", "wall-clock time of training"),
    _score("session", str, "", "evaluation session", True),
    _score("animal", str, "", "of the evaluation session"),
    _score("task", str, "", "what is predicted from what", True),
    _score("regime", str, "", "the task as a regime expression"),
    _score("tier", str, "", "trials it was evaluated on"),
    _score("holdout", str, "", "what of the evaluation is new to the model: time, session or animal"),
    _score("metric", str, "", "response_correlation, behavior_correlation or loss", True),
    _score("channel", str, "", "behaviour channel, 'mean' over them, or empty"),
    _score("estimator", str, "", "how the score is computed"),
    _score("score", float, "", "raw score, never clipped", True),
    _score("score_low", float, "", "lower end of its interval within the session"),
    _score("score_high", float, "", "upper end"),
    _score("interval", str, "", "what that interval is over"),
    _score("share_above_0.1", float, "", "of neurons with a correlation above .1: a mean hides zeros"),
    _score("n_units", int, "", "neurons or channels scored"),
    _score("n_windows", int, "windows", "windows scored"),
    _score("ceiling", float, "", "highest score that a perfect model could reach here, if known"),
    _score("ceiling_estimator", str, "", "how the ceiling was computed"),
    _score("normalized", float, "", "score / ceiling"),
)
BY_NAME = {column.name: column for column in COLUMNS}
KEY = ("run_id", "checkpoint_step", "session", "task", "regime", "tier", "metric", "channel")


def finished(rows: Iterable[Row]) -> list[Row]:
    """Rows with a score."""
    return [row for row in rows if row["state"] == DONE]


def missing(rows: Iterable[Row]) -> list[Row]:
    """One row per cell that failed or has not finished."""
    return [row for row in rows if row["state"] != DONE]


def write(rows: Sequence[Row], path: Path | str) -> Path:
    """Write .csv or .parquet (the `parquet` extra), atomically. UserError for another ending."""
    path = Path(path)
    if path.suffix == ".parquet":
        pyarrow = _pyarrow(path)
        types = {int: pyarrow.int64(), float: pyarrow.float64(), str: pyarrow.string()}
        columns = {c.name: pyarrow.array([row.get(c.name) for row in rows], types[c.kind]) for c in COLUMNS}
        binary = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), binary)
        write_atomically(path, binary.getvalue())
        return path
    if path.suffix != ".csv":
        raise UserError(
            f"ledger {path}: unknown kind of file {path.suffix!r}", way_out="end its name in .csv or .parquet"
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BY_NAME)
    for row in rows:
        writer.writerow([_to_text(row.get(name)) for name in BY_NAME])
    write_atomically(path, text.getvalue())
    return path


def read(path: Path | str) -> list[Row]:
    """Typed rows of a .csv or .parquet. UserError names file, line and column: no ledger, other version, wrong type, duplicate."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ledger {path}: no such file", way_out="make one with `omnimouse-jax ledger STUDY --out FILE`")
    header, raw = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path)
    if "ledger_version" not in header:
        raise UserError(
            f"ledger {path}: no column ledger_version, so not a ledger", way_out="collect it from run folders"
        )
    rows = []
    for number, values in enumerate(raw, start=2):
        version = str(values["ledger_version"] or "").strip()
        if version != str(VERSION):
            raise UserError(
                f"ledger {path}: line {number}: written as version {version or 'none'}, this program reads {VERSION}",
                way_out="collect it again from the run folders",
            )
        rows.append(typed(values, f"ledger {path}: line {number}"))
    unknown = [name for name in header if name not in BY_NAME]
    if unknown:
        raise UserError(f"ledger {path}: unknown column {unknown[0]}", way_out="remove it or keep it in another table")
    check_unique(rows)
    return rows


def _read_csv(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        raw = list(reader)
        return reader.fieldnames or [], raw


def _read_parquet(path: Path) -> tuple[Sequence[str], list[dict[str, Any]]]:
    pyarrow = _pyarrow(path)
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowException as problem:
        raise UserError(f"ledger {path}: {problem}", way_out="collect it again from the run folders") from None
    return table.column_names, table.to_pylist()


def _pyarrow(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"ledger {path}: pyarrow is not installed", way_out="pip install 'omnimouse-jax[parquet]', or use .csv"
        ) from None
    return pyarrow


def column_table() -> str:
    """The columns as a markdown table, for the documentation."""
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.kind.__name__} | {c.unit} | {c.meaning} |" for c in COLUMNS]
    return "\n".join(lines)


def typed(values: Mapping[str, Any], where: str) -> Row:
    """A row of these values, each of its column's type. UserError, that begins with `where`: missing or of another type."""
    row: Row = {}
    done = values.get("state") == DONE
    for column in COLUMNS:
        value = values.get(column.name)
        if value is None or value == "":
            if column.required and (done or column.name in ("run_id", "state", "ledger_version")):
                raise UserError(f"{where}: column {column.name} is missing", way_out=f"it is {column.meaning}; add it")
            row[column.name] = "" if column.kind is str else None
            continue
        try:
            row[column.name] = _cast(value, column.kind)
        except (TypeError, ValueError):
            raise UserError(
                f"{where}: column {column.name} holds {value!r}, which is not {_ARTICLE[column.kind]}",
                way_out=f"it is {column.meaning}" + (f", in {column.unit}" if column.unit else ""),
            ) from None
    return row


_ARTICLE = {int: "a whole number", float: "a number", str: "text"}


def _cast(value: Any, kind: type) -> Any:
    if kind is str:
        if isinstance(value, (dict, list)):
            raise TypeError
        return str(value)
    if isinstance(value, bool):
        raise TypeError
    number = float(value)
    if kind is float:
        return number
    if not math.isfinite(number) or number != int(number):
        raise ValueError
    return int(value) if isinstance(value, int) else int(number)


def _to_text(value: Any) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def check_unique(rows: Iterable[Row]) -> None:
    """UserError where a score occurs twice."""
    seen = set()
    for row in rows:
        key = tuple(row[name] for name in KEY)
        if key in seen:
            raise UserError(
                f"ledger: run {row['run_id']}: session {row['session']}: task {row['task']}, metric {row['metric']} "
                f"{row['channel']} occurs twice",
                way_out="collect every run folder once",
            )
        seen.add(key)
