"""Runs that begin where another one stood: with its parameters, its optimiser and its place in the data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import track
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.resume import MAY_CHANGE, comparable, config_of, newest_meta
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import TrainState
from omnimouse_jax.training.train import train

#: Alters a config in place.
Change = Callable[[ConfigDict], None]


def start_run_from(
    workdir: Path,
    config: ConfigDict,
    state: TrainState,
    vocabulary: Vocabulary,
    parent: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    clock: Mapping[str, Any] | None = None,
) -> None:
    """Writes the first checkpoint of a new run, at `state.step`; `train(config, workdir)` goes on from there.

    parent: where the state came from, as columns of run.json ({"parent": RUN, "parent_step": K, ...}). data: what the recordings
    were (a checkpoint's `meta["data"]`), so that going on with others is refused; without it they are noted when training begins.
    clock: seconds spent already, which count. UserError where `workdir` is a run already.
    """
    saved = Checkpoints(workdir)
    if saved.steps():
        raise UserError(f"{workdir}: has checkpoints already", way_out="name a new run folder")
    given = {"data": data, "clock": clock}
    meta = {
        "config": config.to_dict(),
        "vocabulary": vocabulary.to_json(),
        "version": __version__,
        "parent": dict(parent),
        **{name: dict(value) for name, value in given.items() if value is not None},
    }
    saved.save(state, meta, None)
    saved.close()
    if jax.process_index() == 0:
        track.write_json(workdir / "config.json", meta["config"])
        track.write_json(workdir / "vocabulary.json", meta["vocabulary"])


def branch_folder(run: Path, step: int, steps: int, workdir: Path | None = None) -> Path:
    """Where a branch lies: in `workdir`, or beside the run's checkpoints."""
    return (workdir or run / "anneal") / f"{step}-{steps}"


def anneal(run: Path, step: int, steps: int, folder: Path, change: Change | None = None) -> dict[str, Any]:
    """Trains on from checkpoint `step` of a run at a constant rate, for `steps` in which the rate falls to 0; returns run.json.

    The rate is its peak times 1 - sqrt(share of the branch done). The branch is a run of its own in `folder`: it sees the batches
    that the run would have seen, its seconds and steps count from the run's beginning, and its last checkpoint is the one to
    evaluate. Called again it goes on, and needs no more of the run. `change` may alter fields of the config that a run may change
    (`resume.MAY_CHANGE`) and where the recordings are. UserError with the steps that are kept, where `step` is not one of them;
    where it lies in the run's warm-up or its own annealing.
    """
    if newest_meta(folder) is None:
        _begin(run, step, steps, folder, change)
    meta = newest_meta(folder)
    assert meta is not None
    return train(_changed(config_of(meta), change), folder)


def _begin(run: Path, step: int, steps: int, folder: Path, change: Change | None) -> None:
    if steps < 1:
        raise UserError(f"anneal: --steps is {steps}", way_out="use a positive whole number")
    saved = Checkpoints(run, read_only=True)
    saved.step_named(step)
    meta = saved.meta(step)
    config = config_of(meta)
    _require_constant_rate(run, step, config, saved.steps())
    if "data" in meta:  # by name: the store may have more sessions since
        config.data.sessions = tuple(meta["data"]["sessions"])
    config.train.steps, config.optimizer.anneal_steps = step + steps, steps
    # Only the end of a branch is worth evaluating, nothing is branched off it, and it must not end early.
    config.evaluation.checkpoint, config.train.keep_every, config.train.keep_minutes = "latest", 0, 0.0
    config.train.patience = 0
    config = _changed(config, change)
    vocabulary = Vocabulary.from_json(meta["vocabulary"])
    parts = prepare(config, vocabulary)
    state = saved.restore(step, restore_target(parts.model, parts.capacity, parts.mesh, parts.trained))
    parent = {"parent": str(run.resolve()), "parent_step": step}
    start_run_from(folder, config, state, vocabulary, parent, data=meta.get("data"), clock=meta.get("clock"))


def _require_constant_rate(run: Path, step: int, config: ConfigDict, kept: Sequence[int]) -> None:
    warm = config.optimizer.warmup_steps
    constant_until = config.train.steps - config.optimizer.anneal_steps
    others = [
        other for other in kept if warm <= other and (other <= constant_until or not config.optimizer.anneal_steps)
    ]
    way_out = f"kept steps at the constant rate: {', '.join(map(str, others)) or 'none'}"
    if step < warm:
        raise UserError(f"run {run}: step {step} is in the warm-up of {warm} steps", way_out=way_out)
    if config.optimizer.anneal_steps and step > constant_until:
        raise UserError(
            f"run {run}: at step {step} its own annealing is under way, which began at step {constant_until}",
            way_out=way_out,
        )


def _changed(config: ConfigDict, change: Change | None) -> ConfigDict:
    """After `change`. UserError for a field that would make it another run than the one branched off."""
    if change is None:
        return config
    before = comparable(config.to_dict())
    change(config)
    now = comparable(config.to_dict())
    fixed = ("train.steps", "train.patience")  # of a branch, they are not a matter of taste
    free = (*MAY_CHANGE, "data.store")
    for field in (k for k in now if now[k] != before.get(k) and (k in fixed or not k.startswith(free))):
        raise UserError(
            f"anneal: {field} was {before.get(field)!r} in the run, not {now[field]!r}",
            way_out="only how it is computed may change: mesh, intervals of the log and of checkpoints, evaluation",
        )
    return config
