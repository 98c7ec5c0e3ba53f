"""From run folders to rows of the ledger: finished, failed and unfinished cells, and the points annealed from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.ledger import COLUMNS, DONE, FAILED, UNFINISHED, VERSION, Row, check_unique, typed
from omnimouse_jax.scaling.plan import FILE, Cell, Plan

#: Columns that a branch has from its run, where it does not say them itself.
INHERITED = ("study", "size", "data_order", "config_hash", "command", "attempts")
RUN_COLUMNS = {c.name for c in COLUMNS if c.level == "run"} - {"ledger_version"}
SCORE_COLUMNS = {c.name for c in COLUMNS if c.level == "score"}


def collect(paths: Path | str | Sequence[Path | str]) -> list[Row]:
    """Rows of all runs under study folders, or of the given run folders; branches in RUN/anneal are rows of their own.

    A run folder holds run.json, status.json and, once evaluated, evaluation.json. A run that is not done, or whose
    files cannot be read, becomes one row without a score that says why. UserError: no runs; a column of the wrong
    type; the same score twice.
    """
    given = [Path(p) for p in ([paths] if isinstance(paths, (str, Path)) else paths)]
    rows: list[Row] = []
    found: set[Path] = set()
    for path in given:
        if not path.is_dir():
            raise UserError(f"ledger: {path} is not a folder", way_out="name a study folder or run folders")
        plan = Plan.read(path) if (path / FILE).is_file() else None
        planned = {cell.run_id: _of_plan(plan, cell) for cell in plan.cells} if plan else {}
        folders = list(_runs_under(path))
        found.update(folders)
        for folder in folders:
            told = planned.get(folder.name, {"command": plan.command} if plan else {})
            own = _rows_of(folder, told)
            rows += own
            for branch in _branches(folder):
                from_run = {name: own[0][name] for name in INHERITED}
                rows += _rows_of(branch, from_run, f"{folder.name}@{branch.name.split('-')[0]}")
        if plan:
            rows += _not_started(plan, {folder.name for folder in folders}, path)
    if not rows:
        raise UserError(
            f"ledger: no runs under {', '.join(map(str, given))}",
            way_out="a run folder holds run.json or status.json; train one or name the right folder",
        )
    check_unique(rows)
    return rows


def _runs_under(path: Path, depth: int = 3) -> Iterator[Path]:
    if any((path / name).is_file() for name in ("run.json", "status.json")):
        yield path
    elif depth:
        for child in sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")):
            yield from _runs_under(child, depth - 1)


def _branches(run: Path) -> list[Path]:
    """RUN/anneal/K-N, in order of K."""
    folders = (run / "anneal").iterdir() if (run / "anneal").is_dir() else ()
    named = [f for f in folders if f.name.split("-")[0].isdigit() and (f / "run.json").is_file()]
    return sorted(named, key=lambda f: [int(part) for part in f.name.split("-") if part.isdigit()])


def _of_plan(plan: Plan, cell: Cell) -> dict[str, Any]:
    """What is known of a cell before it has run."""
    told = {"run_id": cell.run_id, "study": plan.study, "size": cell.size, "seed": cell.seed, "data_order": cell.order}
    told |= {"n_sessions": len(cell.sessions), "command": plan.command, "config_hash": cell.config_hash}
    return told | {name: cell.estimate.get(name) for name in ("n_params_core", "n_animals", "n_neurons")}


def _not_started(plan: Plan, present: set[str], folder: Path) -> Iterator[Row]:
    start = {"ledger_version": VERSION, "state": UNFINISHED, "error": "not started"}
    for cell in plan.cells:
        if cell.run_id not in present:
            yield typed(start | _of_plan(plan, cell), f"ledger: {folder / FILE}")


def _rows_of(folder: Path, inherited: Mapping[str, Any], run_id: str = "") -> list[Row]:
    run: dict[str, Any] = {}
    status: dict[str, Any] = {}
    try:
        run = _json(folder / "run.json") if (folder / "run.json").exists() else {}
        # a branch, or a run outside of a study, has no status: it is done once it is evaluated
        status = (
            _json(folder / "status.json")
            if (folder / "status.json").exists()
            else {"state": DONE if run else UNFINISHED}
        )
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
    base = {k: v for k, v in inherited.items() if v not in (None, "")}
    base |= {k: v for k, v in run.items() if k in RUN_COLUMNS}
    base |= _origin(run)
    base |= {"ledger_version": VERSION, "run_id": run_id or str(run.get("run_id", folder.name)), "state": state}
    base |= {"error": " ".join(str(error).split()), "cause": status.get("cause") or ("" if state == DONE else None)}
    if "attempt" in status:
        base["attempts"] = status["attempt"]
    where = f"ledger: run {base['run_id']}"
    if state != DONE:
        return [typed(base, where)]
    return [
        typed(base | {k: v for k, v in row.items() if k in SCORE_COLUMNS}, f"{where}: file evaluation.json: row {i}")
        for i, row in enumerate(scores, start=1)
    ]


def _origin(run: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run came from: run.json has the folder of its parent."""
    if not run.get("parent"):
        return {}
    return {"parent": Path(str(run["parent"])).name, "anneal_from": run.get("parent_step")}


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
