"""Runs the cells of a study one after another in this process. A cell that is done is skipped; one that fails is recorded."""

from __future__ import annotations

import hashlib
import json
import sys
import time
import traceback
from pathlib import Path

from ml_collections import ConfigDict

from omnimouse_jax.configuration import override
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import evaluate_run, preflight
from omnimouse_jax.progress import duration
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.scaling.plan import Cell, cells
from omnimouse_jax.training.resume import MAY_CHANGE, comparable
from omnimouse_jax.training.track import write_json
from omnimouse_jax.training.train import Interrupted, train


def run_study(config: ConfigDict, study_dir: Path, retry_failed: bool = True) -> dict[str, list[str]]:
    """Trains and evaluates every cell that is not done yet; returns run ids by state.

    Each cell has its own folder under `study_dir/runs`, resumable by itself. A failure is a cell's, not the study's: it is
    written into its status.json with the reason, and the next cell begins. Ctrl-C saves the running cell and stops.
    """
    store = Store.open(config.data.store)
    planned = cells(config.study.to_dict(), store.chosen(config.data.sessions))
    for cell in planned:
        preflight(cell_config(config, cell))
        _check_same(config, cell, study_dir / "runs" / cell.run_id)
    write_json(study_dir / "plan.json", {"config": config.to_dict(), "cells": [vars(cell) for cell in planned]})
    states: dict[str, list[str]] = {"done": [], "failed": []}
    start, ran = time.monotonic(), 0
    for number, cell in enumerate(planned):
        folder = study_dir / "runs" / cell.run_id
        state = _state(folder)
        if state == "done" or (state == "failed" and not retry_failed):
            states[state].append(cell.run_id)
            continue
        left = (time.monotonic() - start) / ran * (len(planned) - number) if ran else float("nan")
        print(f"cell {number + 1}/{len(planned)}  {cell.run_id}  ETA {duration(left)}", file=sys.stderr, flush=True)
        states[_run_cell(config, cell, folder)].append(cell.run_id)
        ran += 1
    return states


def cell_config(config: ConfigDict, cell: Cell) -> ConfigDict:
    """The study's config with one cell's choices made, and without the study."""
    made = ConfigDict(config.to_dict())
    del made["study"]
    for field, value in cell.model.items():
        override(made, f"model.{field}", value)
    made.seed = cell.seed
    made.data.sessions = cell.sessions
    made.evaluation.sessions = cell.evaluation_sessions
    return made


def config_hash(config: ConfigDict) -> str:
    """Twelve hex digits of all fields that a cell's result depends on."""
    kept = {k: v for k, v in comparable(config.to_dict()).items() if k == "train.steps" or not k.startswith(MAY_CHANGE)}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _run_cell(config: ConfigDict, cell: Cell, folder: Path) -> str:
    made = cell_config(config, cell)
    labels = {**cell.labels, "run_id": cell.run_id, "config_hash": config_hash(made)}
    digest = labels["config_hash"]
    write_json(folder / "status.json", {"state": "running", "config_hash": digest})
    try:
        train(made, folder, labels)
        evaluate_run(folder)
    except Interrupted:
        write_json(folder / "status.json", {"state": "interrupted", "config_hash": digest})
        raise
    except Exception as error:
        print(f"cell {cell.run_id} failed: {error}", file=sys.stderr)
        reason = str(error) if isinstance(error, UserError) else traceback.format_exc()
        write_json(
            folder / "status.json",
            {"state": "failed", "config_hash": digest, "error": f"{type(error).__name__}: {error}", "details": reason},
        )
        return "failed"
    write_json(folder / "status.json", {"state": "done", "config_hash": digest})
    return "done"


def _state(folder: Path) -> str:
    path = folder / "status.json"
    return json.loads(path.read_text())["state"] if path.exists() else "missing"


def _check_same(config: ConfigDict, cell: Cell, folder: Path) -> None:
    """A cell that is done or begun was of this recipe and these sessions: a study may grow, its cells may not change."""
    path = folder / "status.json"
    if not path.exists():
        return
    old, new = json.loads(path.read_text()).get("config_hash"), config_hash(cell_config(config, cell))
    if old != new:
        raise UserError(
            f"study cell {folder}: begun with another config or other sessions (config hash {old}, now {new})",
            way_out="use a new --workdir, or remove this cell's folder to train it again",
        )
