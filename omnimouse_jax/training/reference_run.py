"""Released weights as a run folder that evaluates and fine-tunes like any other, and a run's weights as a released file.

`reference.npz` in such a folder holds what this model has no parameters for (constants, unused maps, names without a
place), so that exporting writes back every name that was imported. Nothing appears under its final name before it is
whole.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import SIZES, ModelConfig
from omnimouse_jax.model.reference import check_constants, constants, flatten, load_state, save_state
from omnimouse_jax.model.reference_config import REQUIRED, config_from_reference, reference_config
from omnimouse_jax.model.reference_files import (
    TORCH_SUFFIXES,
    Source,
    State,
    read_json,
    read_npz,
    read_source,
    torch_module,
)
from omnimouse_jax.model.reference_sizes import Sketch, animals_by_session, config_by_shapes, neurons_by_session
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training import adapters, optim, track
from omnimouse_jax.training.branch import start_run_from
from omnimouse_jax.training.checkpoint import IMPORTED, Checkpoints, restore_target
from omnimouse_jax.training.defaults import base
from omnimouse_jax.training.parallel import make_mesh
from omnimouse_jax.training.resume import config_of
from omnimouse_jax.training.step import Capacity, Trained, TrainState

#: A run made of released weights is meant to be fine-tuned: a short run with a short warm-up, unless its owner says more.
STEPS, WARMUP_STEPS = 10_000, 100


def import_run(
    source: Path,
    out: Path,
    fields_file: Path | None = None,
    size: str = "",
    store: str = "",
    sessions_file: Path | None = None,
    ranks: int | None = None,
) -> list[str]:
    """Writes the run folder `out` at step 0; returns a report in lines. UserError before anything is written."""
    if out.exists():
        raise UserError(f"{out}: exists already", way_out="name a new run folder")
    told = None if fields_file is None else read_json(fields_file)
    asked = _animals_in({} if sessions_file is None else read_json(sessions_file))
    found = read_source(source, ranks)
    sessions = neurons_by_session(source, found.state)
    if strangers := sorted(set(asked) - set(sessions)):
        raise UserError(
            f"{sessions_file}: session {strangers[0]} is not in {source} (it has {', '.join(list(sessions)[:8])})",
            way_out="name sessions by the checkpoint's keys",
        )
    recordings = Store.open(store) if store else None
    animals = animals_by_session(
        source,
        sessions,
        found.state,
        _animals_in(found.sessions)
        | (_animals_in({key: recordings.summary(key) for key in recordings.keys}) if recordings else {})
        | _animals_in((told or {}).get("sessions"))
        | asked,
    )
    vocabulary = Vocabulary.of({key: {"animal": animals[key], "n_neurons": n} for key, n in sessions.items()})
    there = () if recordings is None else _in_both(source, store, recordings, sessions)
    config = _config(source, found, told, size, animals)
    try:
        check_constants(config, found.state)
        loaded = load_state(config, found.state, vocabulary)
    except UserError as error:
        looks = Sketch.of(found.state).told()
        raise UserError(f"{source}: {error.what} ({looks})", way_out=error.way_out) from None

    run = base()
    run.model = ConfigDict(dataclasses.asdict(config))
    run.data.store = store
    if recordings is not None and len(there) < max(len(recordings.keys), len(sessions)):
        run.data.sessions = run.evaluation.sessions = there
    run.train.steps, run.optimizer.warmup_steps = STEPS, WARMUP_STEPS
    params = jax.tree.map(jnp.asarray, loaded.params)
    written = save_state(config, loaded.params, vocabulary)
    kept = {name: value for name, value in found.state.items() if name not in written}

    def write(folder: Path) -> None:
        start_run_from(folder, run, TrainState(params, optim.init(params), jnp.int32(0)), vocabulary, parent={})
        np.savez(folder / IMPORTED, **cast(Any, kept))

    _write_folder(out, write)
    return _report(source, found, config, loaded.params, vocabulary, loaded.left_over, kept)


def export_run(run: Path, out: Path, checkpoint: str = "") -> list[str]:
    """Writes a run's weights by released names into `out`, and config and sessions beside it; returns a report."""
    if out.suffix not in (".npz", ".safetensors", *TORCH_SUFFIXES):
        raise UserError(f"{out}: unknown kind of file", way_out="use .npz, .safetensors or .ckpt")
    beside = out.with_suffix(".json")
    for path in (out, beside):
        if path.exists():
            raise UserError(f"{path}: exists already", way_out="name a new file")
    saved = Checkpoints(run, read_only=True)
    if (newest := saved.latest()) is None:
        raise UserError(f"run {run}: no checkpoint yet", way_out="train it until one is saved")
    meta = saved.meta(newest)
    run_config = config_of(meta)
    number = saved.step_named(checkpoint or run_config.evaluation.checkpoint)
    config = ModelConfig.of(meta["config"]["model"])
    vocabulary = Vocabulary.from_json(meta["vocabulary"])
    fields = reference_config(config)
    if not config.animal_embeddings and len(vocabulary.animals) < len(vocabulary.sessions):
        raise UserError(
            f"run {run}: no animal embeddings, though sessions share animals: the released model always has them then",
            way_out="train with --config.model.animal_embeddings=True",
        )
    trained = Trained.of(run_config.train.trained, run_config.train.adapter_rank)
    target = restore_target(config, Capacity.of(vocabulary), make_mesh(1, 1, 1), trained)
    params = saved.restore_params(number, target.params)
    saved.close()
    params["core"] = adapters.added(params["core"], params.get("adapters", {}))  # the released model has none
    state = save_state(config, jax.tree.map(np.asarray, params), vocabulary)
    recomputed, unused = constants(config), _unused(config)
    imported = read_npz(run / IMPORTED) if (run / IMPORTED).exists() else {}
    whole = recomputed | unused | imported | state
    sessions = {
        entry.key: {"n_neurons": entry.n_neurons, "animal_id": entry.animal, "on_rank": True}
        for entry in vocabulary.sessions
    }
    _write_state(out, whole, sessions)
    track.write_json(beside, {"config": fields, "sessions": sessions})
    report = [f"{out}: {len(whole)} arrays of step {number}; config and sessions in {beside}"]
    if zeros := sorted(set(unused) - set(imported)):
        report.append(f"not used by this model, written as zeros: {', '.join(zeros)}")
    if not imported:
        report.append(f"constants computed anew: {', '.join(recomputed)}")
    return report


def _config(
    source: Path, found: Source, told: dict[str, Any] | None, size: str, animals: Mapping[str, str]
) -> ModelConfig:
    """By the fields told (alone, or as a triple's `config`), the size asked for, the checkpoint's config, or its shapes."""
    if told is not None and size:
        raise UserError("--size and --config both say what the model is", way_out="give one of them")
    if told is not None:
        inner = told.get("config")
        return config_from_reference(inner if isinstance(inner, dict) else told, animals)
    if not size and found.config is not None and set(REQUIRED) <= set(found.config):
        return config_from_reference(found.config, animals)
    return config_by_shapes(source, found.state, size)


def _animals_in(told: Any) -> dict[str, str]:
    """Session -> animal, of a table whose rows are animals or have one under the name of the released or our files."""
    found = {}
    for key, row in (told or {}).items() if isinstance(told, Mapping) else ():
        animal = row.get("animal_id", row.get("animal")) if isinstance(row, Mapping) else row
        if animal is not None:
            found[str(key)] = str(animal)
    return found


def _in_both(source: Path, name: str, store: Store, sessions: Mapping[str, int]) -> tuple[str, ...]:
    """The checkpoint's sessions that the store has. UserError if there is none, or one of another number of neurons."""
    there = tuple(key for key in sessions if key in store)
    if not there:
        raise UserError(
            f"{source}: none of its sessions ({next(iter(sessions))}, ...) is in store {name}",
            way_out="use a store of the recordings that it was trained on, or leave --store out",
        )
    for key in there:
        n = store.summary(key)["n_neurons"]
        if sessions[key] != n:
            raise UserError(
                f"{source}: session {key} has {sessions[key]} neurons, in store {name} it has {n}",
                way_out="use the recordings that the weights were trained on",
            )
    return there


def _unused(config: ModelConfig) -> State:
    """The map of experiment time, which the released model has whether it is used or not."""
    if config.experiment_time:
        return {}
    name, (e, d) = "exp_time_to_model_proj", (config.d_embedding, config.d_model)
    return {f"{name}.weight": np.zeros((d, e), np.float32), f"{name}.bias": np.zeros(d, np.float32)}


def _report(
    source: Path,
    found: Source,
    config: ModelConfig,
    params: Any,
    vocabulary: Vocabulary,
    left_over: tuple[str, ...],
    kept: State,
) -> list[str]:
    core = flatten(params["core"])
    sizes = Sketch.of(found.state).sizes
    lines = [
        f"{source}: {len(found.files)} file(s), {len(found.state)} arrays"
        + (f", the released {sizes[0]}" if sizes and config == SIZES[sizes[0]] else ""),
        f"mapped: core {sum(x.size for x in core.values()):,} parameters; {len(vocabulary.sessions)} sessions; "
        f"{len(vocabulary.animals) if config.animal_embeddings else 0} animals; {vocabulary.n_neurons:,} neurons",
        "missing: none",
        f"kept as they are in {IMPORTED}: {len(kept)} constants and unused arrays",
    ]
    lines.append(f"left over (kept too): {', '.join(left_over) if left_over else 'none'}")
    return lines


def _write_folder(out: Path, write: Callable[[Path], None]) -> None:
    """All or nothing: written beside, then renamed."""
    _make_parent(out)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        write(temporary)
        temporary.chmod(0o755)
        os.rename(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _make_parent(out: Path) -> None:
    """UserError where nothing can be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror})", way_out="name another place") from None


def _write_state(out: Path, state: State, sessions: Mapping[str, Any]) -> None:
    _make_parent(out)
    temporary = out.with_name(f".{out.stem}.writing{out.suffix}")
    try:
        if out.suffix == ".npz":
            np.savez(temporary, **cast(Any, state))
        elif out.suffix == ".safetensors":
            from safetensors.numpy import save_file

            save_file(state, temporary)
        else:
            torch = torch_module(out)
            tensors = {name: torch.from_numpy(value.copy()) for name, value in state.items()}
            torch.save({"epoch": 0, "step": 0, "state_dict": tensors, "session_map": dict(sessions)}, temporary)
        temporary.chmod(0o644)
        os.replace(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)
