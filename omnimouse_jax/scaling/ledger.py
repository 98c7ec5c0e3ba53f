"""The ledger: one row per run, evaluation session, task and metric. Every scaling number comes from here.

Cells that failed or have not finished are rows too, without a score and with their state and error, so that a page
can list what is missing.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError

VERSION = 1
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
    _run("error", str, "", "why a run failed, one line"),
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
    _run("validation_gap", float, "", "last validation loss - best one: over-fitting"),
    _run("config_hash", str, "", "of the run's complete configuration"),
    _run("version", str, "", "of omnimouse_jax"),
    _run("device", str, "", "what it was trained on"),
    _run("seconds", float, "s", "wall-clock time of training"),
    _score("session", str, "", "evaluation session", True),
    _score("animal", str, "", "of the evaluation session"),
    _score("task", str, "", "what is predicted from what", True),
    _score("regime", str, "", "the task as a regime expression"),
    _score("tier", str, "", "trials it was evaluated on"),
    _score("metric", str, "", "response_correlation, behavior_correlation or loss", True),
    _score("channel", str, "", "behaviour channel, 'mean' over them, or empty"),
    _score("estimator", str, "", "how the score is computed"),
    _score("score", float, "", "raw score, never clipped", True),
    _score("score_low", float, "", "lower end of its interval within the session"),
    _score("score_high", float, "", "upper end"),
    _score("interval", str, "", "what that interval is over"),
    _score("n_units", int, "", "neurons or channels scored"),
    _score("n_windows", int, "windows", "windows scored"),
    _score("ceiling", float, "", "highest score that a perfect model could reach here, if known"),
    _score("ceiling_estimator", str, "", "how the ceiling was computed"),
    _score("normalized", float, "", "score / ceiling"),
)
BY_NAME = {column.name: column for column in COLUMNS}
KEY = ("run_id", "checkpoint_step", "session", "task", "regime", "tier", "metric", "channel")


def collect(paths: Path | str | Sequence[Path | str]) -> list[Row]:
    """Rows of all runs under a study folder, or of the given run folders.

    A run folder holds run.json, status.json and, once evaluated, evaluation.json. A run that is not done, or whose
    files cannot be read, becomes one row without a score that says why. UserError: no runs; a column of the wrong
    type; the same score twice.
    """
    given = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    folders: list[Path] = []
    for path in given:
        if not path.is_dir():
            raise UserError(f"ledger: {path} is not a folder", way_out="name a study folder or run folders")
        folders += _runs_under(path)
    if not folders:
        raise UserError(
            f"ledger: no runs under {', '.join(map(str, given))}",
            way_out="a run folder holds run.json or status.json; train one or name the right folder",
        )
    rows = [row for folder in folders for row in _rows_of(folder)]
    rows += [row for path in given for row in _not_started(path, {folder.name for folder in folders})]
    _check_unique(rows)
    return rows


def finished(rows: Iterable[Row]) -> list[Row]:
    """Rows with a score."""
    return [row for row in rows if row["state"] == DONE]


def missing(rows: Iterable[Row]) -> list[Row]:
    """One row per cell that failed or has not finished."""
    return [row for row in rows if row["state"] != DONE]


def write(rows: Sequence[Row], path: Path | str) -> Path:
    """Write atomically: a temporary file beside it, then a rename, so that a reader never sees half a ledger."""
    path = Path(path)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(BY_NAME)
    for row in rows:
        writer.writerow([_to_text(row.get(name)) for name in BY_NAME])
    write_atomically(path, text.getvalue())
    return path


def read(path: Path | str) -> list[Row]:
    """Typed rows. UserError names file, line and column: not a ledger, another version, a wrong type, a duplicate."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"ledger {path}: no such file", way_out="make one with `omnimouse-jax ledger` or a sweep")
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        raw = list(reader)
    if "ledger_version" not in header:
        raise UserError(
            f"ledger {path}: no column ledger_version, so not a ledger", way_out="collect it from run folders"
        )
    rows = []
    for number, text in enumerate(raw, start=2):
        version = (text["ledger_version"] or "").strip()
        if version != str(VERSION):
            raise UserError(
                f"ledger {path}: line {number}: written as version {version or 'none'}, this program reads {VERSION}",
                way_out="collect it again from the run folders",
            )
        rows.append(_typed(text, f"ledger {path}: line {number}"))
    unknown = [name for name in header if name not in BY_NAME]
    if unknown:
        raise UserError(f"ledger {path}: unknown column {unknown[0]}", way_out="remove it or keep it in another table")
    _check_unique(rows)
    return rows


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it there; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def column_table() -> str:
    """The columns as a markdown table, for the documentation."""
    lines = ["| column | type | unit | meaning |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {c.kind.__name__} | {c.unit} | {c.meaning} |" for c in COLUMNS]
    return "\n".join(lines)


def _runs_under(path: Path, depth: int = 3) -> list[Path]:
    if any((path / name).is_file() for name in ("run.json", "status.json")):
        return [path]
    if depth == 0:
        return []
    children = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    return [run for child in children for run in _runs_under(child, depth - 1)]


def _not_started(study: Path, present: set[str]) -> list[Row]:
    """Cells of a study's plan that have no folder yet."""
    if not (study / "plan.json").is_file():
        return []
    try:
        cells = [cell for cell in _json(study / "plan.json")["cells"] if cell["run_id"] not in present]
        known = [
            {"run_id": c["run_id"], "size": c["size"], "seed": c["seed"], "n_sessions": len(c["sessions"])}
            for c in cells
        ]
    except (ValueError, KeyError, TypeError) as problem:
        raise UserError(f"ledger: {study / 'plan.json'}: {problem}", way_out="plan the study again") from None
    start = {"ledger_version": VERSION, "state": UNFINISHED, "error": "not started"}
    return [_typed(start | row, f"ledger: {study / 'plan.json'}") for row in known]


def _rows_of(folder: Path) -> list[Row]:
    run: Row = {}
    try:
        run = _json(folder / "run.json") if (folder / "run.json").exists() else {}
        status = _json(folder / "status.json") if (folder / "status.json").exists() else {"state": UNFINISHED}
        state, error = str(status.get("state", UNFINISHED)), status.get("error") or ""
        if state == DONE and not run:
            raise ValueError("run.json is missing")
        if state == DONE and not (folder / "evaluation.json").exists():
            state, error = UNFINISHED, "not evaluated: no evaluation.json"
        scores = _json(folder / "evaluation.json")["rows"] if state == DONE else []
        if state == DONE and not scores:
            state, error = FAILED, "evaluation.json has no rows"
    except (ValueError, KeyError, OSError) as problem:
        state, error, scores = FAILED, _one_line(problem), []
    base = {"ledger_version": VERSION, "run_id": folder.name}
    base |= {k: v for k, v in run.items() if k in BY_NAME and BY_NAME[k].level == "run" and k != "ledger_version"}
    base |= {"state": state, "error": " ".join(str(error).split())}
    where = f"ledger: run {folder.name}"
    if state != DONE:
        return [_typed({k: v for k, v in base.items() if k in BY_NAME}, where)]
    score_names = {c.name for c in COLUMNS if c.level == "score"}
    return [
        _typed(base | {k: v for k, v in row.items() if k in score_names}, f"{where}: file evaluation.json: row {i}")
        for i, row in enumerate(scores, start=1)
    ]


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path.name} is not valid JSON ({problem})") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} does not hold a JSON object")
    return value


def _one_line(problem: Exception) -> str:
    if isinstance(problem, KeyError):
        return f"evaluation.json has no field {problem.args[0]!r}"
    return " ".join(str(problem).split())


def _typed(values: dict[str, Any], where: str) -> Row:
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
    return repr(value) if isinstance(value, float) else str(value)


def _check_unique(rows: Iterable[Row]) -> None:
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
