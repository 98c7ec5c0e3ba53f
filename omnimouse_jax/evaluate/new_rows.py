"""A run folder with other rows: sessions listed, left out, added, or taken over from a run with the same core."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.new_mouse_checks import require_screen
from omnimouse_jax.evaluate.new_mouse_runs import on_these_devices
from omnimouse_jax.evaluate.starts import start_tables
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.branch import start_run_from
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.parallel import make_mesh
from omnimouse_jax.training.resume import config_of
from omnimouse_jax.training.rows import Named, carry, fresh_tables, merge
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import Capacity, Trained, TrainState


@dataclasses.dataclass(frozen=True)
class Held:
    """A run's state on the host, moments included."""

    run: Path
    step: int
    config: ConfigDict
    model: ModelConfig
    trained: Trained
    named: Named

    @classmethod
    def of(cls, run: Path, checkpoint: str = "") -> Held:
        """UserError for a folder without a checkpoint, or without the one that is named."""
        saved = Checkpoints(run, read_only=True)
        if (newest := saved.latest()) is None:
            raise UserError(f"run {run}: no checkpoint yet", way_out="train it until one is saved")
        meta = saved.meta(newest)
        config, vocabulary = config_of(meta), Vocabulary.from_json(meta["vocabulary"])
        step = saved.step_named(checkpoint or config.evaluation.checkpoint)
        model = ModelConfig.of(config.model.to_dict())
        trained = Trained.of(config.train.trained, config.train.adapter_rank)
        target = restore_target(model, Capacity.of(vocabulary), make_mesh(1), trained)
        state = jax.device_get(saved.restore(step, target))
        saved.close()
        return cls(run, step, config, model, trained, Named(state, vocabulary))


def listed(run: Path, checkpoint: str = "") -> str:
    """Sessions, animals and rows of a run as text, with how many Adam steps each session has taken where that is known."""
    held = Held.of(run, checkpoint)
    state, vocabulary = held.named
    steps = np.asarray(state.opt.steps["tables"]["session_embedding"])
    width = max([len("session"), *(len(entry.key) for entry in vocabulary.sessions)])
    lines = [
        f"{run}, step {held.step}: {len(vocabulary.sessions)} sessions of {len(vocabulary.animals)} animals, "
        f"{vocabulary.n_neurons:,} neurons (tables have room for {vocabulary.neuron_capacity:,})",
        f"{'session':<{width}}  animal        neurons       rows               steps",
    ]
    for row, entry in enumerate(vocabulary.sessions):
        rows = f"{entry.first_row}-{entry.first_row + entry.n_neurons - 1}"
        lines.append(
            f"{entry.key:<{width}}  {entry.animal:<12}  {entry.n_neurons:>7}  {rows:>13}  {int(steps[row]):>14}"
        )
    return "\n".join(lines)


def write(
    run: Path,
    out: Path,
    *,
    checkpoint: str = "",
    drop: Sequence[str] = (),
    merge_with: Path | None = None,
    prefer: str = "",
    core: str = "",
    add: str = "",
    start: str = "mean",
    seed: int = 0,
) -> list[str]:
    """Writes the run folder `out` at step 0; returns a report in lines. UserError before anything is written.

    In this order: sessions of `drop` are left out, those of the run `merge_with` taken over, those of `add` (STORE or STORE:KEY)
    added by `start`.
    """
    if out.exists():
        raise UserError(f"{out}: exists already", way_out="name a new run folder")
    held = Held.of(run, checkpoint)
    named, told = held.named, [f"{run}, step {held.step}: {len(held.named.vocabulary.sessions)} sessions"]
    config = copy.deepcopy(held.config)
    with config.unlocked():
        if drop:
            new = named.vocabulary.dropped(drop)
            fresh = fresh_tables(held.model, new, seed)
            named = Named(carry(named.state, named.vocabulary, new, fresh), new)
            told.append(f"dropped {', '.join(drop)}")
        if merge_with is not None:
            other = Held.of(merge_with)
            _require_same_model(held, other)
            whole = named.vocabulary.merged(other.named.vocabulary)
            taken = len(whole.sessions) - len(named.vocabulary.sessions)
            named = merge(named, other.named, fresh_tables(held.model, whole, seed), prefer, core)
            told.append(f"took {taken} sessions over from {merge_with}, step {other.step}")
        stores = {config.data.store} if merge_with is None else {config.data.store, other.config.data.store}
        added: list[str] = []
        if add:
            named, added = _added(held, named, config, add, start, seed)
            stores.add(config.data.store)
            told.append(f"added {', '.join(added)}: rows begin by {start!r}")
        keys = {entry.key for entry in named.vocabulary.sessions}
        store = Store.open(config.data.store)
        there = tuple(entry.key for entry in named.vocabulary.sessions if entry.key in store)
        config.data.sessions = there
        scored = tuple(key for key in held.config.evaluation.sessions if key in keys and key in store)
        config.evaluation.sessions = scored if scored and not (add or merge_with) else there
    state = TrainState(named.state.params, named.state.opt, np.int32(0))
    parent = {"parent": str(run.resolve()), "parent_step": held.step}
    parent |= {"added_sessions": ",".join(added)} if added else {}
    start_run_from(out, config, state, named.vocabulary, parent)
    told.append(f"{out}: {len(named.vocabulary.sessions)} sessions, {named.vocabulary.n_neurons:,} neurons, at step 0")
    if missing := len(keys) - len(there):
        told.append(
            f"{missing} of them are not in {config.data.store}: score those with --store and --session; they are not trained on"
        )
    return told


def _added(held: Held, named: Named, config: ConfigDict, add: str, start: str, seed: int) -> tuple[Named, list[str]]:
    """With the sessions of a store that the model lacks, or one of them; `config` is turned to that store."""
    place, key = (add, "") if _is_store(add) else _split(add)
    store = Store.open(place)
    keys = [key] if key else [k for k in store.keys if k not in named.vocabulary]
    for k in store.chosen(keys):
        if k in named.vocabulary and k in keys:
            raise UserError(
                f"session {k}: the model has rows for it", way_out="drop it first (--drop), or add another one"
            )
        if k in keys:
            require_screen(k, store.summary(k)["screen_size"], held.model.screen)
    if not keys:
        raise UserError(f"rows: --add {add}: the model knows every session of it", way_out="name another store")
    new = named.vocabulary.extended({k: store.summary(k) for k in keys})
    before = held.config.data.store
    config.data.store = place
    state = carry(named.state, named.vocabulary, new, fresh_tables(held.model, new, seed))
    local = on_these_devices(config)
    with local.unlocked():
        local.data.sessions = tuple(keys)
        local.train.trained = "all"  # a start looks at the core as it is
    parts = prepare(local, new)
    params: Any = {"core": state.params["core"], "tables": state.params["tables"]}
    trained_on = Store.open(before) if start in ("neighbours", "regression") else None
    tables = start_tables(start, parts, params, keys, named.vocabulary, trained_on, seed)
    return Named(state._replace(params={**state.params, "tables": tables}), new), keys


def _is_store(place: str) -> bool:
    try:
        Store.open(place)
    except (UserError, OSError, ValueError):
        return False
    return True


def _split(add: str) -> tuple[str, str]:
    place, colon, key = add.rpartition(":")
    if not colon:
        raise UserError(f"rows: --add {add}: not a store", way_out="write STORE or STORE:KEY")
    return place, key


def _require_same_model(one: Held, two: Held) -> None:
    if one.model != two.model:
        fields = [
            f.name for f in dataclasses.fields(one.model) if getattr(one.model, f.name) != getattr(two.model, f.name)
        ]
        raise UserError(
            f"rows: {one.run} and {two.run} are different models ({', '.join(fields)})",
            way_out="merge runs of one model",
        )
    if one.trained != two.trained:
        raise UserError(
            f"rows: {one.run} and {two.run} train different parts", way_out="give both the same --config.train.trained"
        )
