"""AdamW in two groups, as the reference trains: parameters shared by all mice, and rows that belong to one session.

Each group is clipped to a global norm of its own. What a step does not use is not touched by it: no decay, no moment update, and
it counts Adam steps of its own (arXiv 2604.18827; spec: model, section 8). That holds for absent sessions, for animals, and for
parameters that a regime leaves out (the video's where no frame is visible, neurons' biases where no response is asked for), all
recognised by a gradient of exactly zero. Animal rows belong to the shared group, as there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Tree = Any

#: Tables whose rows belong to one session; every other parameter is shared.
SESSION_TABLES = ("neuron_embedding", "neuron_bias", "session_embedding")


class Group(NamedTuple):
    """Learning rate after warm-up and decoupled weight decay of one group."""

    learning_rate: float
    weight_decay: float


class AdamW(NamedTuple):
    """Settings of both groups. Schedule: see `schedule`."""

    shared: Group = Group(7e-4, 0.1)
    session: Group = Group(3e-3, 0.001)
    b1: float = 0.9
    b2: float = 0.98
    eps: float = 1e-6
    clip_norm: float = 1.0
    warmup_steps: int = 20_000
    warmup_from: float = 1e-7
    total_steps: int = 1_000_000
    anneal_steps: int = 0


class OptState(NamedTuple):
    """Moments like the parameters; steps taken by each shared parameter (each row of animals), and by each session's tables."""

    mean: Tree
    square: Tree
    shared_steps: Tree  # () int32 arrays like the shared parameters; (animals,) for their table
    session_steps: dict[str, Any]  # table -> (sessions,) int32 array


def schedule(step: Array, peak: float, settings: AdamW) -> Array:
    """Linear warm-up to `peak`, constant, then over the last `anneal_steps` peak * (1 - sqrt(share of the branch done))."""
    step_f = step.astype(jnp.float32)
    warm = settings.warmup_from + (peak - settings.warmup_from) * step_f / max(1, settings.warmup_steps)
    rate = jnp.minimum(warm, peak) if settings.warmup_steps else jnp.float32(peak)
    if settings.anneal_steps:
        done = (step_f - (settings.total_steps - settings.anneal_steps)) / settings.anneal_steps
        rate = rate * (1.0 - jnp.sqrt(jnp.clip(done, 0.0, 1.0)))
    return rate


def init(params: Tree, n_sessions: int) -> OptState:
    """Zero moments for `params` = {"core": ..., "tables": ...}; `n_sessions` is the session table's capacity."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    steps = jax.tree.map(lambda used: jnp.zeros(used.shape, jnp.int32), used_by(split(params)[0]))
    of_sessions = {name: jnp.zeros(n_sessions, jnp.int32) for name in SESSION_TABLES}
    return OptState(zeros, jax.tree.map(jnp.zeros_like, params), steps, of_sessions)


def update(
    grads: Tree, state: OptState, params: Tree, step: Array, present: Array, owner: Array, settings: AdamW
) -> tuple[Tree, OptState, dict[str, Array]]:
    """One step.

    present: (sessions,) bool, sessions with a row in this batch. owner: (neuron rows,) int, session of each neuron row, equal to
    `sessions` at padding. Returns new params, new state and the two gradient norms (before clipping) and rates.
    """
    used = used_by(split(grads)[0])
    grads_shared, grads_session = (_clipped(group, settings.clip_norm) for group in split(grads))
    mean_shared, mean_session = split(state.mean)
    square_shared, square_session = split(state.square)
    params_shared, params_session = split(params)
    shared_steps = jax.tree.map(lambda steps, moved: steps + moved.astype(jnp.int32), state.shared_steps, used)
    row_owner = {name: jnp.arange(len(present)) if name == "session_embedding" else owner for name in SESSION_TABLES}
    present_in = {
        name: present & _sessions_used(g, row_owner[name], len(present)) for name, g in grads_session.tree.items()
    }
    session_steps = {name: state.session_steps[name] + here.astype(jnp.int32) for name, here in present_in.items()}
    rate_shared = schedule(step, settings.shared.learning_rate, settings)
    rate_session = schedule(step, settings.session.learning_rate, settings)

    def moved(keep: Array, steps: Array, rate: Array, group: Group, g: Array, m: Array, v: Array, p: Array) -> Moved:
        """After a step where `keep`, which is one for all of the parameter or one a row; as before elsewhere."""
        keep, steps = (x.reshape(x.shape + (1,) * (p.ndim - x.ndim)) for x in (keep, jnp.maximum(steps, 1)))
        new = _adamw(g, m, v, p, steps.astype(jnp.float32), rate, group, settings)
        return Moved(*(jnp.where(keep, after, before) for after, before in zip(new, (p, m, v), strict=True)))

    def session(name: str, g: Array, m: Array, v: Array, p: Array) -> Moved:
        rows_present = jnp.append(present_in[name], False)[row_owner[name]]
        rows_steps = jnp.append(session_steps[name], 1)[row_owner[name]]
        return moved(rows_present, rows_steps, rate_session, settings.session, g, m, v, p)

    new_shared = jax.tree.map(
        lambda keep, steps, *leaves: moved(keep, steps, rate_shared, settings.shared, *leaves),
        used,
        shared_steps,
        grads_shared.tree,
        mean_shared,
        square_shared,
        params_shared,
    )
    new_session = {
        name: session(name, g, mean_session[name], square_session[name], params_session[name])
        for name, g in grads_session.tree.items()
    }
    new = join(new_shared, new_session)
    params, mean, square = (
        jax.tree.map(lambda moved, part=part: getattr(moved, part), new, is_leaf=lambda x: isinstance(x, Moved))
        for part in Moved._fields
    )
    told = {
        "grad_norm/shared": grads_shared.norm,
        "grad_norm/session": grads_session.norm,
        "learning_rate": rate_shared,
    }
    return params, OptState(mean, square, shared_steps, session_steps), told


def used_by(grads_shared: Tree) -> Tree:
    """Which shared parameters a step uses, as () bools; (animals,) for their table.

    The released model's latents are one parameter, so both kinds are used if either is.
    """
    used = jax.tree.map(lambda g: jnp.any(g != 0), grads_shared["core"])
    latents = [name for name in ("latent", "latent_global") if name in used]
    used = {**used, **dict.fromkeys(latents, jnp.any(jnp.array([used[name] for name in latents])))}
    rows = {name: jnp.any(g != 0, axis=1) for name, g in grads_shared["tables"].items()}
    return {"core": used, "tables": rows}


def _sessions_used(g: Array, owner: Array, n_sessions: int) -> Array:
    """Which sessions have a gradient somewhere in their rows of a table."""
    rows = jnp.any(g.reshape(len(g), -1) != 0, axis=1)
    return jnp.zeros(n_sessions + 1, bool).at[owner].max(rows)[:-1]


def split(params: Tree) -> tuple[Tree, dict[str, Any]]:
    """{"core", "tables"} -> (shared parameters, per-session tables by name)."""
    tables = params["tables"]
    shared_tables = {name: table for name, table in tables.items() if name not in SESSION_TABLES}
    return {"core": params["core"], "tables": shared_tables}, {name: tables[name] for name in SESSION_TABLES}


def join(shared: Tree, session: dict[str, Any]) -> Tree:
    """The inverse of `split`."""
    return {"core": shared["core"], "tables": {**shared["tables"], **session}}


class Clipped(NamedTuple):
    """Gradients of a group after clipping, and their norm before."""

    tree: Tree
    norm: Array


class Moved(NamedTuple):
    """A parameter and its moments after a step."""

    param: Array
    mean: Array
    square: Array


def _clipped(grads: Tree, clip_norm: float) -> Clipped:
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    factor = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
    return Clipped(jax.tree.map(lambda g: g * factor, grads), norm)


def _adamw(g: Array, m: Array, v: Array, p: Array, steps: Array, rate: Array, group: Group, settings: AdamW) -> Moved:
    m = settings.b1 * m + (1 - settings.b1) * g
    v = settings.b2 * v + (1 - settings.b2) * jnp.square(g)
    m_hat = m / (1 - settings.b1**steps)
    v_hat = v / (1 - settings.b2**steps)
    p = p - rate * (m_hat / (jnp.sqrt(v_hat) + settings.eps) + group.weight_decay * p)
    return Moved(p, m, v)
