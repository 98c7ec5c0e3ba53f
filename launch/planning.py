"""From a config to a plan: every cell of the study with what it will take and cost, before anything starts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import preflight
from omnimouse_jax.progress import Progress
from omnimouse_jax.recordings.leaks import leaks
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.scaling import power
from omnimouse_jax.scaling.plan import Cell, Plan, cell_config, cells
from omnimouse_jax.training import columns, doctor
from omnimouse_jax.training.chips import CHIPS, chip_named
from omnimouse_jax.training.resume import MAY_CHANGE, comparable
from omnimouse_jax.training.setup import Parts, prepare
from omnimouse_jax.training.step import compile_ahead, init_state
from omnimouse_jax.training.stepper import Stepper
from omnimouse_jax.training.train import training_batches

HERE = "here"
#: Bytes that a parameter of a table takes: itself and two moments, in float32.
PER_TABLE_PARAMETER = 12
MEASURED_STEPS = 12
#: Of the fields that a run may change, those that change what a cell of a study is.
DECIDES = ("train.steps", "train.patience", "evaluation.tiers", "evaluation.checkpoint")


@dataclasses.dataclass(frozen=True)
class Machine:
    """What a cell runs on. `chips` work on one cell together; `price` is what the whole machine costs per hour, in any money.

    "here" is this machine: a few steps of every size are taken to time them. Without a name no hours are told.
    """

    name: str = ""
    chip: str = ""
    chips: int = 1
    price: float = 0.0

    @classmethod
    def named(cls, text: str, price: float = 0.0) -> Machine:
        """h100, h100x8, tpu-v5px4, "here" or "". UserError lists the chips there are."""
        if price < 0 or (price and not text):
            raise UserError(
                f"machine: a price of {price:g} an hour" + ("" if text else " and no machine"),
                way_out="--machine NAME --price P, P not negative",
            )
        if text in ("", HERE):
            return cls(text, "", 1, price)
        found = re.fullmatch(r"(.+?)(?:x(\d+))?", text.lower())
        assert found is not None
        name, count = (text.lower(), 1) if text.lower() in CHIPS else (found[1], int(found[2] or 1))
        chip_named(name)
        if count < 1:
            raise UserError(f"machine {text!r}: no chips", way_out="write e.g. h100x8")
        return cls(text.lower(), name, count, price)


def make_plan(config: ConfigDict, machine: Machine, command: str = "") -> Plan:
    """Every cell of the config's `study`, checked, with its size, work, memory, hours and money; totals; what the design can tell.

    UserError for a study that cannot be, or the first cell that could not be trained or evaluated.
    """
    if "study" not in config:
        raise UserError("config: no `study` group", way_out="see configs/scaling.py for one")
    store = Store.open(config.data.store)
    summaries = {key: _summary(store, key, config.data.tiers) for key in store.chosen(config.data.sessions)}
    planned = cells(config, summaries)
    _require_runnable(config, planned)
    of_size: dict[str, Mapping[str, Any]] = {}
    progress = Progress(len(planned), label="plan  ")
    made = []
    for number, cell in enumerate(reversed(planned), start=1):  # the largest subset first: it stands for its size
        one = cell_config(config, cell)
        parts = prepare(one)
        if cell.size not in of_size:
            print(f"size {cell.size}: compiling its heaviest program", file=sys.stderr, flush=True)
            of_size[cell.size] = _of_size(one, parts, machine)
        estimate = _estimate(one, cell, parts, of_size[cell.size], machine)
        made.append(dataclasses.replace(cell, config_hash=config_hash(one), estimate=estimate))
        progress.show(number, cell.run_id)
    progress.close()
    made.reverse()
    return Plan(
        study=config.study.name,
        config=config.to_dict(),
        cells=tuple(made),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        omnimouse_jax=__version__,
        command=command,
        machine=dataclasses.asdict(machine),
        totals=_totals(made, machine),
        design=_design(config, made, store),
    )


def _summary(store: Store, key: str, tiers: Sequence[str]) -> dict[str, Any]:
    told = store.summary(key)
    return {**told, "minutes": 60 * sum(told["tier_hours"].get(tier, 0.0) for tier in tiers)}


def _require_runnable(config: ConfigDict, planned: Sequence[Cell]) -> None:
    """UserError for the first cell that could not be trained or evaluated; of those with one size and subset, one is looked at."""
    alike = {}
    for cell in planned:
        one = cell_config(config, cell)
        alike[cell.size, cell.sessions, one.data.minutes] = one
    for one in alike.values():
        preflight(one)


def config_hash(config: ConfigDict) -> str:
    """Twelve hex digits of all fields that a cell's result depends on. Recordings are compared by content when a run goes on."""
    flat = comparable(config.to_dict())
    kept = {k: v for k, v in flat.items() if k.startswith(DECIDES) or not k.startswith((*MAY_CHANGE, "data.store"))}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]


def _of_size(config: ConfigDict, parts: Parts, machine: Machine) -> dict[str, Any]:
    """What one compilation per size tells: operations of a mean step, memory, and seconds of a step on the machine."""
    vocabulary = parts.vocabulary
    counts = (vocabulary.n_neurons, len(vocabulary.sessions), len(vocabulary.animals))
    chip = chip_named(machine.chip) if machine.chip else None
    told = doctor.examine(config, (1, 1, 1), None, chip, counts)
    flops = told["work"]["flops"] * told["work"]["mean_share"] * config.train.accumulate
    seconds: float | None = None
    if machine.name == HERE:
        seconds = _measured(parts)
    elif chip is not None:
        seconds = told["seconds_per_step"]["likely"] / machine.chips
    without_tables = told["memory"]["most"] - PER_TABLE_PARAMETER * told["tables"]
    return {"flops": flops, "bytes": without_tables, "seconds": seconds}


def _measured(parts: Parts) -> float:
    """Median seconds of a step of this run here, its batches loaded before."""
    stepper = Stepper(parts, training_batches(parts))
    state = init_state(parts.model, parts.capacity, 0, parts.mesh)
    compile_ahead(stepper.jobs(state, stepper.batches.load(0, slice(None))))
    taken = []
    for number in range(MEASURED_STEPS):
        loaded = stepper.batches.load(number, slice(None))
        start = time.perf_counter()
        state, values = stepper(state, number, loaded)
        jax.block_until_ready(values)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[2:])


def _estimate(
    config: ConfigDict, cell: Cell, parts: Parts, of_size: Mapping[str, Any], machine: Machine
) -> dict[str, Any]:
    batches = training_batches(parts)
    sizes = columns.of_parameters(parts)
    tables = sizes["n_params_neuron"] + sizes["n_params_session"]
    steps = config.train.steps + len(cell.anneal) * cell.anneal_steps
    data = columns.of_data(parts, batches, steps)
    names = ("n_sessions", "n_animals", "n_neurons", "hours", "neuron_hours", "tokens_seen", "epochs")
    seconds = None if of_size["seconds"] is None else of_size["seconds"] * steps
    hours = None if seconds is None else seconds / 3600
    return {
        "n_params_core": sizes["n_params_core"],
        "n_params_tower": sizes["n_params_tower"],
        "n_params_tables": tables,
        **{("recorded_hours" if name == "hours" else name): data[name] for name in names},
        "steps": steps,
        "windows": steps * config.data.batch_size,
        "distinct_windows": len(batches.windows),
        "flops": of_size["flops"] * steps,
        "model_flops": columns.of_work(parts, batches, steps)["flops"],
        "bytes": of_size["bytes"] + PER_TABLE_PARAMETER * tables,
        "hours": hours,
        "money": hours * machine.price if hours is not None and machine.price else None,
    }


def _totals(made: list[Cell], machine: Machine) -> dict[str, Any]:
    hours = [cell.estimate["hours"] for cell in made]
    known = all(h is not None for h in hours)
    return {
        "cells": len(made),
        "windows": sum(cell.estimate["windows"] for cell in made),
        "flops": sum(cell.estimate["flops"] for cell in made),
        "hours": sum(hours) if known else None,
        "chip_hours": sum(hours) * machine.chips if known and machine.chip else None,
        "longest_hours": max(hours) if known else None,
        "money": sum(hours) * machine.price if known and machine.price else None,
    }


def _design(config: ConfigDict, made: list[Cell], store: Store) -> dict[str, Any]:
    rates = Counter(cell.rate for cell in made)
    grid_rate = max(rates, key=lambda rate: (rates[rate], rate == 1))
    usual = [cell for cell in made if cell.rate == grid_rate]
    study = config.study
    evaluated = made[0].evaluation_sessions
    found = power.examine(
        np.array([cell.estimate["n_params_core"] for cell in usual], dtype=np.float64),
        np.array([cell.amount for cell in usual], dtype=np.float64),
        unit=study.by,
        noise=study.assumed_noise,
        gain=study.assumed_gain,
        orders=[cell.order for cell in usual],
        rates=[(float(cell.estimate["n_params_core"]), cell.rate) for cell in made],
        animals=len({store.summary(key)["animal"] for key in evaluated}),
    )
    told = dataclasses.asdict(found)
    told["cannot"] = [*told["cannot"], *_seen_before(config, store, made[-1].sessions)]
    return told


def _seen_before(config: ConfigDict, store: Store, sessions: Sequence[str]) -> list[str]:
    """Whether what is held out in one session is trained on in another."""
    if config.data.leave_out == "any":
        return []
    found = leaks(store, sessions, config.data.tiers)
    if not found:
        return []
    return [
        f"tell prediction from memory of a film: {len(found)} stimuli are held out in some sessions and trained on in others "
        "(--config.data.leave_out=any leaves them out)"
    ]


def write_plan(plan: Plan, folder: Path) -> Path:
    """FOLDER/plan.json. UserError if a cell that was begun there would become another one, or is planned no more."""
    for status in sorted((folder / "runs").glob("*/status.json")):
        run_id = status.parent.name
        begun = json.loads(status.read_text()).get("config_hash")
        now = next((cell.config_hash for cell in plan.cells if cell.run_id == run_id), None)
        if now is None:
            print(
                f"note: {status.parent} was begun and is in the plan no more; the ledger still has it", file=sys.stderr
            )
        elif begun != now:
            raise UserError(
                f"study cell {status.parent}: begun with another config or other sessions (config hash {begun}, now {now})",
                way_out="plan into a new folder, or remove this cell's folder to train it again",
            )
    return plan.write(folder)
