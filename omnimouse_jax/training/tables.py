"""Rows of tables that are split over a mesh: read the few that a step needs, write the few that it changed.

Each device looks at its own rows only. Rows travel to where they are used, and their gradients back; tables and moments never
do, and nothing here takes time in proportion to a table's length. Untouched rows are neither read nor written: this is a lazy
optimiser, which moves a row only in steps that use it (dense Adam would go on moving it by its momentum).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from omnimouse_jax.tokens.touched import Touched

#: Tables whose rows belong to one session; animals are shared by theirs.
SESSION_TABLES = ("neuron_embedding", "neuron_bias", "session_embedding")


class Tabled(NamedTuple):
    """A table and what its optimiser keeps: moments like it, and how many steps each row has taken."""

    table: Array  # (rows, ...)
    mean: Array
    square: Array
    steps: Array  # (rows,) int32


def rows_in(touched: Touched, name: str) -> Any:
    """Which rows of a table a step touches."""
    kind = name.split("_")[0]
    return {"neuron": touched.neurons, "session": touched.sessions, "animal": touched.animals}[kind]


def read(name: str, table: Array, touched: Touched, mesh: Mesh | None = None) -> Array:
    """The touched rows of a table, on every device; zeros for rows that no table has."""
    rows = rows_in(touched, name)

    mesh = _mesh_of(name, table, mesh)

    def local(part: Array, rows: Array) -> Array:
        at, axes = _own(part, rows, mesh)
        found = part.at[at].get(mode="fill", fill_value=0)
        return jax.lax.psum(found, axes) if axes else found

    return _on(mesh, local, (True, False), False)(table, rows)


def write(
    name: str,
    old: Tabled,
    grads: Array,
    keep: Array,
    touched: Touched,
    move: Callable[[Array, Array, Array, Array, Array], tuple[Array, Array, Array]],
    mesh: Mesh | None = None,
) -> Tabled:
    """`old` after a step: rows that are touched and kept (`keep`: (rows touched,) bool) move, with a step counted.

    `move(gradient, mean, square, parameter, steps)` -> (parameter, mean, square) works on rows; `grads`: (rows touched, ...).
    """
    rows, mesh = rows_in(touched, name), _mesh_of(name, old.table, mesh)

    def local(old: Tabled, grads: Array, keep: Array, rows: Array) -> Tabled:
        at, _ = _own(old.table, rows, mesh)
        at = jnp.where(keep, at, len(old.table))
        param, mean, square, steps = (part.at[at].get(mode="fill", fill_value=0) for part in old)
        steps = steps + 1
        shape = (-1,) + (1,) * (param.ndim - 1)
        new = Tabled(*move(grads, mean, square, param, steps.reshape(shape)), steps)
        return Tabled(*(part.at[at].set(rows, mode="drop") for part, rows in zip(old, new, strict=True)))

    return _on(mesh, local, (True, False, False, False), True)(old, grads, keep, rows)


def used_together(grads: dict[str, Array], touched: Touched) -> dict[str, Array]:
    """Table -> which touched rows a step uses: those with a gradient that is not zero, and all that share their owner."""
    used = {name: jnp.any(g.reshape(len(g), -1) != 0, axis=1) for name, g in grads.items()}
    owners = jnp.asarray(touched.owners)
    for name in used:
        if name.startswith("neuron_"):
            used[name] = jnp.zeros(len(owners) + 1, bool).at[owners].max(used[name])[owners]
    return used


def positions(touched: Touched, name: str, rows: Array) -> Array:
    """Where table rows are among the touched ones. Rows that are not there are some other row's: mask what comes of them."""
    return jnp.searchsorted(rows_in(touched, name), rows).astype(jnp.int32)


def _own(part: Array, rows: Array, mesh: Mesh | None) -> tuple[Array, tuple[str, ...]]:
    """Where rows are in this device's part of a table (behind its end where they are not), and the axes it is split over."""
    axes = tuple(mesh.axis_names) if mesh is not None else ()
    first = jax.lax.axis_index(axes) * len(part) if axes else 0
    at = rows - first
    return jnp.where((at >= 0) & (at < len(part)), at, len(part)), axes


def _mesh_of(name: str, table: Array, mesh: Mesh | None) -> Mesh | None:
    """The mesh if the table is split over it: as in `parallel.RULES`, a side that does not divide stays whole."""
    split = mesh is not None and name.startswith("neuron_") and len(table) % mesh.size == 0
    return mesh if split else None


def _on(mesh: Mesh | None, local: Callable, inputs: tuple[bool, ...], output: bool) -> Callable:
    """`local` on every device of the mesh. True: the table or what is like it, in parts; False: whole everywhere."""
    if mesh is None:
        return local
    parts = P(tuple(mesh.axis_names))
    specs = tuple(parts if split else P() for split in inputs)
    return jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=parts if output else P(), check_vma=False)
