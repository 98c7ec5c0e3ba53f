"""A run that goes on: with the same config, rows and recordings, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import checkpoint
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.setup import Parts
from omnimouse_jax.training.step import TrainState, init_state

#: Fields that may differ when a run goes on: how long (until it anneals), how often, on what. They change no step.
MAY_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.programs",
    "data.threads",
    "data.ahead",
    "data.damaged",
    "mesh.",
    "model.attention",
    "model.scan_layers",
    "model.remat",
    "evaluation.batch_size",
    "evaluation.bootstrap",
    "evaluation.tiers",
    "evaluation.checkpoint",
)


def start_or_resume(parts: Parts, saved: Checkpoints, meta: dict[str, Any], workdir: Path) -> TrainState:
    """The newest state that was saved, or a fresh one. UserError where going on would not be the same run.

    `meta` is what a checkpoint of this run says of itself: config, vocabulary, data.
    """
    config = parts.config
    newest = saved.latest()
    if newest is None:
        return init_state(parts.model, parts.capacity, config.seed, parts.mesh)
    old = saved.meta(newest)
    before, now = checkpoint.comparable(old["config"]), checkpoint.comparable(meta["config"])
    may_change: tuple[str, ...] = MAY_CHANGE
    if config.data.leave_out != "nothing":  # then what is scored decides what is trained on
        may_change = tuple(field for field in MAY_CHANGE if field != "evaluation.tiers")
    changed = [
        k for k in sorted(before.keys() | now.keys()) if before.get(k) != now.get(k) and not k.startswith(may_change)
    ]
    if newest == 0:  # imported weights, not trained on yet: only the model is given
        changed = [k for k in changed if k.startswith("model.")]
    if changed:
        told = "; ".join(f"{k}: {before.get(k)!r} -> {now.get(k)!r}" for k in changed[:5])
        raise UserError(
            f"run {workdir}: trained with another config ({told})", way_out="use a new --workdir or the old values"
        )
    length, annealed = before["train.steps"], before["optimizer.anneal_steps"]
    if length != config.train.steps and annealed and newest > min(length, config.train.steps) - annealed:
        raise UserError(
            f"run {workdir}: at step {newest} of {length} the learning rate is already annealing",
            way_out="keep train.steps, or use a new --workdir",
        )
    if Vocabulary.from_json(old["vocabulary"]) != parts.vocabulary:
        raise UserError(f"run {workdir}: trained on other sessions", way_out="use a new --workdir or the same sessions")
    if newest > 0:
        _require_same_data(workdir, old["data"], meta["data"])
    return saved.restore(newest, checkpoint.restore_target(parts.model, parts.capacity, parts.mesh))


def _require_same_data(workdir: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Batch k must be what it was: the same sessions as they were written, cut into the same windows."""
    other = sorted(k for k in now["sessions"] if before["sessions"].get(k) != now["sessions"][k])
    if other or before["windows"] != now["windows"]:
        what = f"session {other[0]} was written anew" if other else "the windows are others"
        raise UserError(
            f"run {workdir}: the recordings have changed since it began ({what})",
            way_out="restore them, or use a new --workdir",
        )


def imported_rows(config: ConfigDict, workdir: Path) -> Vocabulary | None:
    """The rows of a run that began with imported weights, if it knows every session asked for. It may know more of them."""
    if not (workdir / checkpoint.IMPORTED).exists() or not config.data.store:
        return None
    saved = Checkpoints(workdir, read_only=True)
    newest = saved.latest()
    meta = None if newest is None else saved.meta(newest)
    saved.close()
    if meta is None:
        return None
    known = Vocabulary.from_json(meta["vocabulary"])
    n_neurons = {entry.key: entry.n_neurons for entry in known.sessions}
    store = Store.open(config.data.store)
    asked = {key: store.summary(key)["n_neurons"] for key in store.chosen(config.data.sessions)}
    return known if all(n_neurons.get(key) == n for key, n in asked.items()) else None
