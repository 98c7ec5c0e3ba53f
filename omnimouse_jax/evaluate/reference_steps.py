"""The released optimiser on our side: steps over alternating sessions and regimes, from NAME.train.json and .npz.

Final values also tell who belongs to whom: an animal's embedding decays in every step (it is shared), a session's only
in its own steps, with its own count of Adam steps.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.reference_check import COMPILER, Triple, layout_of, make_batch, worst
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.reference import CONSTANTS, UNUSED_TIME, save_state
from omnimouse_jax.model.reference_files import read_json, read_npz
from omnimouse_jax.progress import Progress
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.touched import touched
from omnimouse_jax.tokens.vocabulary import ROW_MULTIPLE, padded
from omnimouse_jax.training import optim
from omnimouse_jax.training.objective import LossCounts
from omnimouse_jax.training.parallel import make_mesh, put_everywhere
from omnimouse_jax.training.step import Capacity, gradient_program

LOSS_TOLERANCE, NORM_TOLERANCE = 1e-5, 1e-4
#: Of final values, by 2-norm relative to how far a parameter moved. Adam divides by small gradients, so rounding grows.
FINAL_TOLERANCE = 1e-3


class StepResult(NamedTuple):
    """Relative errors of one step."""

    case: str
    session: str
    loss: float
    shared_norm: float
    session_norm: float

    @property
    def ok(self) -> bool:
        return self.loss <= LOSS_TOLERANCE and max(self.shared_norm, self.session_norm) <= NORM_TOLERANCE


class Finals(NamedTuple):
    """The parameter whose final value is furthest off, by group, relative to how far it moved; and what else is wrong."""

    shared: float
    animals: float
    sessions: float
    furthest: str
    wrong: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return max(self.shared, self.animals, self.sessions) <= FINAL_TOLERANCE and not self.wrong


def has_steps(triple: Triple) -> bool:
    return any(triple.path.with_name(f"{triple.path.name}.train.{ending}").exists() for ending in ("json", "npz"))


def check_steps(triple: Triple) -> tuple[list[StepResult], Finals]:
    """Takes the file's optimiser steps and compares each one, then the parameters they end at."""
    file = triple.path.with_name(f"{triple.path.name}.train.json")
    told, arrays = read_json(file), read_npz(file.with_suffix(".npz"))
    names = ("losses", "shared_grad_norm", "rank_grad_norm", "case", "session", "optimizer")
    missing = [name for name in names if name not in told]
    lengths = {len(told[name]) for name in names[:-1] if name in told}
    if missing or len(lengths) != 1:
        what = f"no entry {missing[0]!r}" if missing else "lists of different length"
        raise UserError(f"{file}: {what}", way_out="write the triple again")
    capacity, vocabulary = Capacity.of(triple.vocabulary), triple.vocabulary
    settings, mesh, n_rows = (
        settings_of(file, told["optimizer"]),
        make_mesh(),
        padded(vocabulary.n_neurons, ROW_MULTIPLE),
    )
    update = jax.jit(optim.update, static_argnames="settings", compiler_options=COMPILER)
    params, state, nothing = triple.params, optim.init(triple.params), LossCounts(jnp.float32(0), jnp.float32(0))
    programs: dict[Layout, Any] = {}
    results, progress = [], Progress(len(told["case"]), label="optimiser step ")
    for i, (case, session) in enumerate(zip(told["case"], told["session"], strict=True)):
        vocabulary.session_row(session)
        inputs = {
            name: _array(file, arrays, f"{i}/{name}") for name in ("responses", "screen", "behavior", "neuron_ids")
        }
        for name in ("response_timestamps", "screen_timestamps"):
            inputs[name] = _array(file, arrays, name)
        layout = layout_of(triple, case, inputs["neuron_ids"].shape[1])
        batch = make_batch(triple, session, inputs, layout)
        step = jnp.int32(i)
        of_step = put_everywhere(touched(vocabulary, [session], None, n_rows, 1), mesh)
        program = programs.setdefault(layout, _gradient(triple.config, capacity, layout, mesh))
        grads, losses = program(params, batch, of_step, nothing, step, step, step)
        params, state, norms = update(grads, state, params, step, of_step, jnp.bool_(True), settings=settings)
        results.append(
            StepResult(
                case,
                session,
                _error(losses["loss"], told["losses"][i]),
                _error(norms["grad_norm/shared"], told["shared_grad_norm"][i]),
                _error(norms["grad_norm/session"], told["rank_grad_norm"][i]),
            )
        )
        progress.show(i + 1)
    progress.close()
    finals = _finals(triple, params, {k.removeprefix("final/"): x for k, x in arrays.items() if k.startswith("final/")})
    return results, finals


def settings_of(file: Any, told: Any) -> optim.AdamW:
    """The file's optimiser at constant learning rate. UserError for what ours does not have."""
    try:
        shared, session = told["shared"], told["session"]
        b1, b2 = shared["betas"]
        if [session["betas"], session["eps"]] != [[b1, b2], shared["eps"]]:
            raise UserError(f"{file}: the two groups differ in betas or eps", way_out="use one of each")
        return optim.AdamW(
            shared=optim.Group(shared["lr"], shared["weight_decay"]),
            session=optim.Group(session["lr"], session["weight_decay"]),
            b1=b1,
            b2=b2,
            eps=shared["eps"],
            clip_norm=told["clip_norm"],
            warmup_steps=0,
            anneal_steps=0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{file}: optimizer is not whole ({error!r})", way_out="write the triple again") from None


def _gradient(config: ModelConfig, capacity: Capacity, layout: Layout, mesh: Mesh) -> Any:
    """The trainer's own gradient, compiled quickly and without stochastic depth, which the file's steps were taken without."""
    config = dataclasses.replace(config, drop_path=0.0)
    return jax.jit(gradient_program(config, capacity, layout, mesh).jitted, compiler_options=COMPILER)


def _finals(triple: Triple, params: Any, told: dict[str, np.ndarray]) -> Finals:
    start, end = (
        save_state(triple.config, jax.tree.map(np.asarray, tree), triple.vocabulary) for tree in (triple.params, params)
    )
    left_out = {name for name in told if CONSTANTS.search(name) or (UNUSED_TIME.search(name) and name not in end)}
    wrong = [f"no parameter {name} here" for name in sorted(set(told) - set(end) - left_out - set(triple.left_over))]
    errors: dict[str, dict[str, float]] = {"shared": {}, "animals": {}, "sessions": {}}
    for name in told.keys() & end.keys():
        group = {"sess_params": "sessions", "animal_params": "animals"}.get(name.split(".")[0], "shared")
        if told[name].shape != end[name].shape:
            wrong.append(f"final {name} has another shape")
            continue
        moved = np.linalg.norm(told[name] - start[name])
        errors[group][name] = float(np.linalg.norm(end[name] - told[name]) / max(moved, np.finfo(np.float32).tiny))
    together = {name: error for part in errors.values() for name, error in part.items()}
    furthest = max(together, key=lambda name: together[name], default="")
    of_group = {name: worst(list(part.values())) for name, part in errors.items()}
    return Finals(furthest=furthest, wrong=tuple(wrong), **of_group)


def _array(file: Any, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in arrays:
        raise UserError(f"{file.with_suffix('.npz')}: no array {name}", way_out="write the triple again")
    return arrays[name]


def _error(ours: Any, theirs: float) -> float:
    return worst([abs(float(ours) - theirs) / max(abs(theirs), 1e-12)])
