"""AdamW in two groups, as the reference trains: parameters shared by all mice, and rows that belong to one session.

Each group is clipped to a global norm of its own. What a step does not use is not touched by it: no decay, no moment update, and
it counts Adam steps of its own (arXiv 2604.18827; spec: model, section 8). That holds for absent sessions, for animals, and for
parameters that a regime leaves out (the video's where no frame is visible, neurons' biases where no response is asked for), all
recognised by a gradient of exactly zero. Animal rows belong to the shared group, as there.

Gradients of tables are those of the rows that a step touches (`tokens.touched`); everything else of a table stays where it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh

from omnimouse_jax.tokens.touched import Touched, Update
from omnimouse_jax.training import tables
from omnimouse_jax.training.tables import SESSION_TABLES, Tabled

Tree = Any


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
    rows: Update = "session"  # which rows of a step's sessions are updated: see `tokens.touched.Update`


class OptState(NamedTuple):
    """Moments like the parameters that are trained, and how many steps each has taken."""

    mean: Tree
    square: Tree
    steps: Tree  # () int32 arrays like the parameters; (rows,) for a table


def schedule(step: Array, peak: float, settings: AdamW) -> Array:
    """Linear warm-up to `peak`, constant, then over the last `anneal_steps` peak * (1 - sqrt(share of the branch done))."""
    step_f = step.astype(jnp.float32)
    warm = settings.warmup_from + (peak - settings.warmup_from) * step_f / max(1, settings.warmup_steps)
    rate = jnp.minimum(warm, peak) if settings.warmup_steps else jnp.float32(peak)
    if settings.anneal_steps:
        done = (step_f - (settings.total_steps - settings.anneal_steps)) / settings.anneal_steps
        rate = rate * (1.0 - jnp.sqrt(jnp.clip(done, 0.0, 1.0)))
    return rate


def init(params: Tree) -> OptState:
    """Zero moments and counts for the parameters that are trained: {"tables": ...} and what else of a model is."""
    zeros, again = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
    steps = {part: jax.tree.map(lambda _: jnp.int32(0), tree) for part, tree in params.items()}
    steps["tables"] = {name: jnp.zeros(len(table), jnp.int32) for name, table in params["tables"].items()}
    return OptState(zeros, again, steps)


def update(
    grads: Tree,
    state: OptState,
    params: Tree,
    step: Array,
    touched: Touched,
    ok: Array,
    settings: AdamW,
    mesh: Mesh | None = None,
) -> tuple[Tree, OptState, dict[str, Array]]:
    """One step, or none if `ok` is False or a gradient is not finite.

    grads: like the trained `params`, but of tables the rows of `touched`. Returns new params, new state, and the two gradient norms
    (before clipping), the learning rate, and `finite`: whether the step was taken.
    """
    shared, session = (_clipped(group, settings.clip_norm) for group in split(grads))
    finite = ok & jnp.isfinite(shared.norm) & jnp.isfinite(session.norm)
    rate_shared = schedule(step, settings.shared.learning_rate, settings)
    rate_session = schedule(step, settings.session.learning_rate, settings)

    new_tables: dict[str, Tabled] = {}
    used = tables.used_together(grads["tables"], touched)
    for name, table in params["tables"].items():
        ours = name in SESSION_TABLES
        group, rate = (settings.session, rate_session) if ours else (settings.shared, rate_shared)
        g = session.tree[name] if ours else shared.tree["tables"][name]
        old = Tabled(table, *(part["tables"][name] for part in state))
        keep = used[name] & finite
        new_tables[name] = tables.write(name, old, g, keep, touched, _mover(rate, group, settings), mesh)

    def moved(keep: Array, g: Array, m: Array, v: Array, steps: Array, p: Array) -> Moved:
        keep = keep & finite
        after = steps + 1
        new = _mover(rate_shared, settings.shared, settings)(g, m, v, p, after)
        return Moved(*(jnp.where(keep, a, b) for a, b in zip((*new, after), (p, m, v, steps), strict=True)))

    new_params, new_state = dict(params), [dict(part) for part in state]
    for part in shared.tree.keys() - {"tables"}:
        trees = (used_by(grads[part]), shared.tree[part], *(s[part] for s in state), params[part])
        new = jax.tree.map(moved, *trees)
        leaves = (jax.tree.map(lambda m, i=i: m[i], new, is_leaf=lambda x: isinstance(x, Moved)) for i in range(4))
        new_params[part], new_state[0][part], new_state[1][part], new_state[2][part] = leaves
    for i, where in enumerate((new_params, *new_state)):
        where["tables"] = {name: new[i] for name, new in new_tables.items()}
    told = {
        "grad_norm/shared": shared.norm,
        "grad_norm/session": session.norm,
        "learning_rate": rate_shared,
        "finite": finite,
    }
    return new_params, OptState(*new_state), told


def used_by(grads: Tree) -> Tree:
    """Which parameters a step uses, as () bools.

    The released model's latents are one parameter, so both kinds are used if either is.
    """
    used = jax.tree.map(lambda g: jnp.any(g != 0), grads)
    latents = [name for name in ("latent", "latent_global") if name in used]
    return {**used, **dict.fromkeys(latents, jnp.any(jnp.array([used[name] for name in latents])))}


def split(tree: Tree) -> tuple[Tree, dict[str, Any]]:
    """Parameters or gradients -> (what is shared, per-session tables by name)."""
    shared_tables = {name: table for name, table in tree["tables"].items() if name not in SESSION_TABLES}
    return {**tree, "tables": shared_tables}, {name: tree["tables"][name] for name in SESSION_TABLES}


class Clipped(NamedTuple):
    """Gradients of a group after clipping, and their norm before."""

    tree: Tree
    norm: Array


class Moved(NamedTuple):
    """A parameter, its moments and its count after a step."""

    param: Array
    mean: Array
    square: Array
    steps: Array


def _clipped(grads: Tree, clip_norm: float) -> Clipped:
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    factor = jnp.minimum(1.0, clip_norm / jnp.maximum(norm, 1e-12))
    return Clipped(jax.tree.map(lambda g: g * factor, grads), norm)


def _mover(rate: Array, group: Group, settings: AdamW) -> Any:
    """(gradient, mean, square, parameter, steps taken with this one) -> (parameter, mean, square) by AdamW."""

    def move(g: Array, m: Array, v: Array, p: Array, steps: Array) -> tuple[Array, Array, Array]:
        count = steps.astype(jnp.float32)
        m = settings.b1 * m + (1 - settings.b1) * g
        v = settings.b2 * v + (1 - settings.b2) * jnp.square(g)
        m_hat = m / (1 - settings.b1**count)
        v_hat = v / (1 - settings.b2**count)
        return p - rate * (m_hat / (jnp.sqrt(v_hat) + settings.eps) + group.weight_decay * p), m, v

    return move
