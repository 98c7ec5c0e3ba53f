"""Small real studies for tests of launching: 2 sizes x 2 amounts of micro cells, and the environment that their workers need."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from launch.engine import Study
from launch.planning import config_hash
from launch.states import CellState, look
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.scaling.plan import Plan, cell_config, cells, default_study
from tests.micro import micro

ROOT = Path(__file__).parents[1]
SIZES = {"S": {"d_model": 8}, "M": {"d_model": 16}}


def micro_plan(
    store: str, folder: Path, sizes: Mapping[str, Any] = SIZES, study: Mapping[str, Any] | None = None, **changes: Any
) -> Study:
    """Writes the plan of a study of micro cells, without what it would cost; `study` and `changes` are fields of its config."""
    config = micro(store, **{"train__steps": 2, "regimes": ("stimulus",), **changes})
    config.evaluation.tasks = ConfigDict({"stimulus": "stimulus"})
    config.evaluation.bootstrap = 10
    config.study = default_study()
    config.study.update({"name": "micro", "sizes": ConfigDict(dict(sizes)), "amounts": (1, 3), **(study or {})})
    opened = Store.open(store)
    summaries = {key: opened.summary(key) for key in opened.chosen(config.data.sessions)}
    planned = [
        dataclasses.replace(cell, config_hash=config_hash(cell_config(config, cell)))
        for cell in cells(config, summaries)
    ]
    Plan("micro", config.to_dict(), tuple(planned)).write(folder)
    return Study.open(folder)


def environment() -> dict[str, str]:
    """Of workers: the devices and the compiled programs of the tests, and one thread each."""
    cache = str(jax.config.jax_compilation_cache_dir)  # type: ignore[attr-defined]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "OMNIMOUSE_COMPILE_CACHE": cache, "PATH": path, "PYTHONPATH": str(ROOT)}


def await_cells(study: Study, done: Callable[[list[CellState]], bool], seconds: float = 240) -> list[CellState]:
    """The cells when `done` holds of them. Fails, showing them, if it takes too long."""
    until = time.monotonic() + seconds
    while not done(found := look(study)):
        assert time.monotonic() < until, [(cell.run_id, cell.state, cell.said) for cell in found]
        time.sleep(0.1)
    return found


def by_state(found: list[CellState]) -> dict[str, list[str]]:
    """State -> run ids."""
    return {state: [c.run_id for c in found if c.state == state] for state in {c.state for c in found}}
