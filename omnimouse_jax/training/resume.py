"""A run that goes on: with the same config, rows and recordings, or not at all, unless its owner says what may change."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from omnimouse_jax.configuration import tuples
from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import checkpoint
from omnimouse_jax.training.checkpoint import Checkpoints, Unreadable
from omnimouse_jax.training.defaults import base
from omnimouse_jax.training.setup import Parts
from omnimouse_jax.training.step import TrainState, init_state

#: Fields that may differ when a run goes on: how long (until it anneals), how often, on what. They change no step.
MAY_CHANGE = (
    "train.steps",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep",
    "train.patience",
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
#: May differ as well: the recordings themselves are compared.
COMPARED = ("data.store",)
#: Groups whose fields have names of the config's own: none of them has a default.
FREE = ("evaluation.tasks.",)
#: Fields that decide which windows there are.
OF_WINDOWS = ("data.", "model.", "evaluation.", "train.validation_tiers")
#: Changed fields that a refusal lists.
AT_MOST = 10


class Begun(NamedTuple):
    """Where a run stands, and what its checkpoints say of it from now on: `meta` with what earlier ones had beside it."""

    state: TrainState
    meta: dict[str, Any]


def as_in_run(config: ConfigDict, workdir: Path) -> tuple[ConfigDict, Vocabulary | None]:
    """The config with its sessions in the order of the run that `workdir` holds, and that run's rows if they have all of them.

    Sessions are known by name: in another order they are the same run, and batch k is the one that it was.
    """
    meta = newest_meta(workdir)
    if meta is None or not config.data.store:
        return config, None
    store = Store.open(config.data.store)
    asked = store.chosen(config.data.sessions)
    known = Vocabulary.from_json(meta["vocabulary"])
    n_neurons = {entry.key: entry.n_neurons for entry in known.sessions}
    has_all = all(n_neurons.get(key) == store.summary(key)["n_neurons"] for key in asked)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        trained_on = tuple(meta.get("data", {}).get("sessions", ()))
        if asked != trained_on and set(asked) == set(trained_on):
            config.data.sessions = trained_on
        scored = tuple(meta["config"]["evaluation"]["sessions"])
        if set(config.evaluation.sessions) == set(scored):
            config.evaluation.sessions = scored
    return config, known if has_all else None


def newest_meta(workdir: Path) -> dict[str, Any] | None:
    """What the newest checkpoint that can be read says of its run; None where there is none."""
    if not (workdir / checkpoint.FOLDER).is_dir():
        return None
    saved = Checkpoints(workdir, read_only=True)
    for step in reversed(saved.steps()):
        try:
            return saved.meta(step)
        except Unreadable:
            continue
    return None


def config_of(meta: Mapping[str, Any]) -> ConfigDict:
    """The config that a checkpoint was saved with. Fields that are newer than it have their defaults."""

    def filled(default: dict[str, Any], saved: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        values = {} if prefix in FREE else dict(default)
        for name, value in saved.items():
            inner = default.get(name)
            if isinstance(value, Mapping) and isinstance(inner, dict):
                values[name] = filled(inner, value, f"{prefix}{name}.")
            else:
                values[name] = tuples(value)
        return values

    return ConfigDict(filled(base().to_dict(), meta["config"], ""))


def start_or_resume(
    parts: Parts, saved: Checkpoints, meta: dict[str, Any], workdir: Path, allow_change: Sequence[str] = ()
) -> Begun:
    """The newest state that can be read, or a fresh one. UserError where going on would not be the same run.

    `meta` is what a checkpoint of this run says of itself: config, vocabulary, data. `allow_change` names fields of the config,
    or groups, that may differ from what the run had; what did change is noted in `changes` of the meta from now on. Checkpoints
    that cannot be read are told and set aside; if that is all of them, the run does not go on.
    """
    _require_fields(allow_change, comparable(meta["config"]))
    damaged: dict[int, Unreadable] = {}
    for step in reversed(saved.steps()):
        try:
            meta_now = _going_on(saved.meta(step), meta, step, workdir, allow_change)
            target = checkpoint.restore_target(parts.model, parts.capacity, parts.mesh, parts.trained)
            state = saved.restore(step, target)
        except Unreadable as error:
            damaged[step] = error
            continue
        for other, why in damaged.items():
            name = saved.set_aside(other)
            if jax.process_index() == 0:
                told = f"checkpoint {other} cannot be read ({why.reason}): set aside as {saved.folder / name}"
                print(f"{told}; going on from step {step}", file=sys.stderr, flush=True)
        return Begun(state, meta_now)
    if damaged:
        raise UserError(
            f"run {workdir}: none of its checkpoints can be read",
            details=[f"{step}: {why.reason}" for step, why in damaged.items()],
            way_out="bring one back from a copy, or start anew in another --workdir",
        )
    return Begun(init_state(parts.model, parts.capacity, parts.config.seed, parts.mesh, parts.trained), meta)


def comparable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config as plain JSON types, flat, so that two can be compared field by field."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, inner in value.items():
                walk(f"{prefix}.{name}" if prefix else name, inner)
        else:
            flat[prefix] = json.loads(json.dumps(value))

    walk("", config)
    return flat


def _going_on(
    old: Mapping[str, Any], meta: Mapping[str, Any], step: int, workdir: Path, allow_change: Sequence[str]
) -> dict[str, Any]:
    """The meta to go on with from a checkpoint of `step` that has the meta `old`. UserError where it is not the same run."""
    changed = _changes(old, meta)
    now = meta["config"]
    harmless = [field for field in MAY_CHANGE if field != "evaluation.tiers" or now["data"]["leave_out"] == "nothing"]
    if step == 0:  # a model that was given, not trained on yet: nothing but the model is
        refused = {k: v for k, v in changed.items() if k.startswith("model.")}
    else:
        harmless += COMPARED if "data" in old else ()
        refused = {k: v for k, v in changed.items() if not k.startswith(tuple(harmless))}
    allowed = {k for k in refused if _named(k, allow_change)}
    if lines := [f"{k}: {before!r} -> {after!r}" for k, (before, after) in refused.items() if k not in allowed]:
        more = [f"and {len(lines) - AT_MOST} more"] if len(lines) > AT_MOST else []
        raise UserError(
            f"run {workdir}: trained with another config",
            details=lines[:AT_MOST] + more,
            way_out="use a new --workdir, the old values, or --allow-change FIELD for what may change",
        )
    length, annealed = old["config"]["train"]["steps"], old["config"]["optimizer"]["anneal_steps"]
    if length != now["train"]["steps"] and annealed and step > min(length, now["train"]["steps"]) - annealed:
        raise UserError(
            f"run {workdir}: at step {step} of {length} the learning rate is already annealing",
            way_out="keep train.steps, or use a new --workdir",
        )
    _require_same_rows(workdir, old["vocabulary"], meta["vocabulary"])
    if step > 0 and "data" in old:
        _require_same_data(workdir, old["data"], meta["data"], any(k.startswith(OF_WINDOWS) for k in allowed))
    noted = [{"step": step, "field": k, "before": before, "after": after} for k, (before, after) in changed.items()]
    return {**old, **meta, "changes": [*old.get("changes", []), *noted]}


def _changes(old: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Field -> (before, after) of all that differ; a field that is newer than the run had its default."""
    before, now, defaults = (comparable(config) for config in (old["config"], meta["config"], base().to_dict()))
    defaults = {k: v for k, v in defaults.items() if k in now and not k.startswith(FREE)}
    before = {**defaults, **before}
    if list(old.get("data", {}).get("sessions", ())) == list(meta["data"]["sessions"]):
        before["data.sessions"] = now["data.sessions"]  # all of a store, or each by name
    return {k: (before.get(k), now.get(k)) for k in sorted({*before, *now}) if before.get(k) != now.get(k)}


def _named(field: str, names: Iterable[str]) -> bool:
    """Whether a field is one of `names`, or in a group that is."""
    return any(field == name or field.startswith(f"{name.rstrip('.')}.") for name in names)


def _require_fields(names: Sequence[str], fields: Iterable[str]) -> None:
    fields = list(fields)
    for name in names:
        if not any(_named(field, [name]) for field in fields):
            close = difflib.get_close_matches(name, fields, 1, 0.0)
            raise UserError(f"--allow-change {name}: unknown field", way_out=f"the nearest valid field is {close[0]}")


def _require_same_rows(workdir: Path, before: list[dict[str, Any]], now: list[dict[str, Any]]) -> None:
    old, new = Vocabulary.from_json(before), Vocabulary.from_json(now)
    if old == new:
        return
    was, is_now = ({entry.key: entry for entry in rows.sessions} for rows in (old, new))
    key = next((key for key in [*is_now, *was] if was.get(key) != is_now.get(key)), "")
    counts = [f"{rows[key].n_neurons} neurons" if key in rows else "not there" for rows in (was, is_now)]
    raise UserError(
        f"run {workdir}: trained on other sessions ({key}: {counts[0]} -> {counts[1]})",
        way_out="use a new --workdir or the same sessions",
    )


def _require_same_data(workdir: Path, before: dict[str, Any], now: dict[str, Any], other_windows: bool) -> None:
    """Batch k must be what it was: the same sessions as they were written, cut into the same windows unless that may change."""
    known = before["sessions"]
    other = sorted(key for key, check in now["sessions"].items() if known.get(key, check) != check)
    if other or (before["windows"] != now["windows"] and not other_windows):
        what = f"session {other[0]} was written anew" if other else "the windows are others"
        raise UserError(
            f"run {workdir}: the recordings have changed since it began ({what})",
            way_out="restore them, or use a new --workdir",
        )
