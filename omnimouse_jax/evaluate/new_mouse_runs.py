"""The runs that adapting to a new mouse is made of: what was trained before, adapted copies of it, and models from scratch.

Each is a run folder like any other: it resumes, evaluates and goes on training. None is begun twice.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.evaluate.starts import host, start_tables
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import adapters, defaults
from omnimouse_jax.training.branch import start_run_from
from omnimouse_jax.training.checkpoint import FOLDER
from omnimouse_jax.training.parallel import place
from omnimouse_jax.training.rows import carry_tables, fresh_tables
from omnimouse_jax.training.setup import Parts, prepare
from omnimouse_jax.training.step import Trained, state_of
from omnimouse_jax.training.train import train

#: What a stage trains, as `train.trained` has it. Each goes on from the best checkpoint of the one before.
STAGES = {"tables": "tables", "adapters": "adapters", "core": "all"}


class Before(NamedTuple):
    """A trained model on the host, from which others begin: adapters (if any) are made part of the core."""

    run: Path
    step: int
    config: ConfigDict
    vocabulary: Vocabulary
    params: Any

    @classmethod
    def of(cls, run: Path | str, checkpoint: str = "") -> Before:
        """`checkpoint`: best, latest or a step; by default what the run's config says. UserError where there is none."""
        opened = Run(run, checkpoint)
        params = host(opened.params)
        if "adapters" in params:
            core = jax.tree.map(np.asarray, adapters.added(params["core"], params["adapters"]))
            params = {"core": core, "tables": params["tables"]}
        return cls(opened.folder, opened.step, opened.config, opened.vocabulary, params)


@dataclasses.dataclass(frozen=True)
class Length:
    """How long a model is trained: steps at most, a validation every so many, how many without a better one end it."""

    steps: int
    every: int
    patience: int

    def at_most(self, steps: int) -> Length:
        """The same with another number of steps (0: as it is), validated as often in proportion."""
        return self if not steps else Length(steps, max(1, round(self.every * steps / self.steps)), self.patience)


def on_these_devices(config: ConfigDict) -> ConfigDict:
    """A copy of a config for whatever devices are here."""
    config = copy.deepcopy(config)
    rows = math.gcd(config.evaluation.batch_size, config.data.batch_size)
    config.mesh.data, config.mesh.fsdp, config.mesh.tensor = math.gcd(rows, jax.device_count()), 1, 1
    return config


def config_for(
    base: ConfigDict, store: str, keys: Sequence[str], minutes: float, length: Length, trained: str, seed: int
) -> ConfigDict:
    """The config of one run on new sessions: the pre-training's, but for what is trained, on what and for how long.

    The learning rate falls over the whole run. The best checkpoint by validation loss counts; without a validation tier it is
    the last.
    """
    config = on_these_devices(base)
    config.seed = seed
    config.data.store, config.data.sessions, config.data.minutes = store, tuple(keys), float(minutes)
    config.data.mixture, config.data.temperature = "duration", 1.0
    config.evaluation.sessions, config.evaluation.checkpoint = tuple(keys), "best"
    config.train.trained = trained
    config.train.steps, config.train.checkpoint_every = length.steps, length.every
    config.train.log_every = min(config.train.log_every, length.every)
    config.train.patience = length.patience
    if length.patience and not config.train.validation_windows:  # the pre-training may have gone without
        config.train.validation_windows = defaults.base().train.validation_windows
    config.train.accumulate = 1
    config.train.keep, config.train.keep_every, config.train.keep_minutes = 1, 0, 0.0
    config.optimizer.warmup_steps = min(config.optimizer.warmup_steps, max(1, length.steps // 20))
    config.optimizer.anneal_steps = length.steps - config.optimizer.warmup_steps
    return config


def has_begun(folder: Path) -> bool:
    """Whether a run folder has a checkpoint to go on from."""
    return any(path.name.isdecimal() for path in (folder / FOLDER).glob("*"))


def started(
    before: Before, config: ConfigDict, keys: Sequence[str], start: str, trained_on: Store | None
) -> tuple[Parts, Any]:
    """Parts of a run that knows the sessions of `before` and the new ones, and its parameters on the host at the start."""
    store = Store.open(config.data.store)
    vocabulary = before.vocabulary.extended({key: store.summary(key) for key in keys})
    parts = prepare(config, vocabulary)
    drawn = fresh_tables(parts.model, vocabulary, config.seed)
    tables = carry_tables(before.params["tables"], before.vocabulary, vocabulary, drawn)
    params = {"core": before.params["core"], "tables": tables}
    plain = dataclasses.replace(parts, trained=Trained())  # a start is looked for before there are adapters
    return parts, {
        **params,
        "tables": start_tables(start, plain, params, keys, before.vocabulary, trained_on, config.seed),
    }


def begin(folder: Path, parts: Parts, params: Any, parent: Mapping[str, Any]) -> None:
    """Writes step 0 of a run with these parameters. Adapters are added where the config trains them."""
    if parts.trained.rank:
        params = {**params, "adapters": adapters.draw(params["core"], parts.trained.rank, parts.config.seed)}
    state = state_of(place(params, parts.mesh), parts.mesh, parts.trained)
    start_run_from(folder, parts.config, state, parts.vocabulary, dict(parent))


def adapted(
    folder: Path, before: Before, config: ConfigDict, keys: Sequence[str], start: str, trained_on: Store | None
) -> dict[str, Any]:
    """Trains one stage in `folder`, or goes on there, and scores it. What was finished before is not done again."""
    begin_from(folder, before, config, keys, start, trained_on)
    return finished(folder, config)


def begin_from(
    folder: Path, before: Before, config: ConfigDict, keys: Sequence[str], start: str, trained_on: Store | None
) -> None:
    """Step 0 of a run that begins with what `before` knows; sessions that it does not know begin by `start`."""
    if has_begun(folder):
        return
    new = [key for key in keys if key not in before.vocabulary]
    if new:
        parts, params = started(before, config, new, start, trained_on)
    else:
        parts, params = prepare(config, before.vocabulary), before.params
    begin(folder, parts, params, {"parent": str(before.run.resolve()), "parent_step": before.step})


def scored(folder: Path) -> dict[str, Any]:
    """The evaluation of a run folder as its config asks for it, made if it is not there."""
    file = folder / "evaluation.json"
    return json.loads(file.read_text()) if file.exists() else evaluate_run(folder)


def finished(folder: Path, config: ConfigDict) -> dict[str, Any]:
    """Trains and scores what `folder` has not done yet; the evaluation, with what was learnt when."""
    if not (folder / "evaluation.json").exists():
        train(config, folder)
    result = scored(folder)
    run = json.loads((folder / "run.json").read_text())
    return {**result, "validation": validations(folder), "seconds": run["seconds"], "steps": run["steps"]}


def validations(folder: Path) -> list[tuple[int, float]]:
    """(step, loss) of every validation of a run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["validation_loss"]) for line in lines if "validation_loss" in line]
