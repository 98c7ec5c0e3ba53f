"""A mesh of named axes and one rule table. The same program runs on one CPU, eight fake ones, a GPU box or a TPU pod.

Axes: `data` and `fsdp` split the rows of a batch; `fsdp` also splits the core's parameters and their moments, which are gathered
for each gradient; `tensor` splits the matrices of attention and feed-forward layers, and the work on them. Neuron tables are
split by rows over all three, so that nothing of a table's size ever travels, on meshes of 2, 4, 8, ... devices. On others, which
do not divide a table's padded rows, every device holds it whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.target import BATCH_AXES

Tree = Any

AXES = ("data", "fsdp", "tensor")

#: Parameter path -> PartitionSpec; the first match wins. A side that does not divide stays whole. Specs of kernels are those of
#: their last two axes: stacked layers have more in front.
RULES: tuple[tuple[str, P], ...] = (
    (r"tables/neuron_", P(AXES)),
    (r"tables/", P()),
    (r"adapters/", P()),
    (r"attention/(q|kv|qkv)/kernel$", P("fsdp", "tensor")),
    (r"attention/out/kernel$", P("tensor", "fsdp")),
    (r"feed_forward/(gate|up)/kernel$", P("fsdp", "tensor")),
    (r"feed_forward/down/kernel$", P("tensor", "fsdp")),
    (r"kernel$", P("fsdp", None)),
    (r".*", P()),
)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A (data, fsdp, tensor) mesh over the first devices. `data=-1` takes every device that is left."""
    devices = jax.devices()
    if data == -1:
        data = max(1, len(devices) // max(1, fsdp * tensor))
    needed = data * fsdp * tensor
    if min(data, fsdp, tensor) < 1 or needed > len(devices):
        raise UserError(
            f"config: mesh {data} x {fsdp} x {tensor} needs {needed} devices, {len(devices)} {devices[0].platform} device(s) found",
            way_out=f"set --config.mesh.data, .fsdp and .tensor so that their product is at most {len(devices)}",
        )
    if jax.process_count() > 1 and needed < len(devices):
        raise UserError(
            f"config: mesh {data} x {fsdp} x {tensor} leaves devices of some of {jax.process_count()} processes unused",
            way_out=f"set --config.mesh.data, .fsdp and .tensor so that their product is {len(devices)}",
        )
    grid = np.array(devices[:needed]).reshape(data, fsdp, tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def path_of(keys: tuple[Any, ...]) -> str:
    """A parameter's name as used by rules and groups: `core/tower/0/attention/qkv/kernel`."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in keys)


def shardings(shapes: Tree, mesh: Mesh) -> Tree:
    """One NamedSharding per leaf of a tree of arrays or shapes whose paths are parameter paths."""

    def leaf(keys: tuple[Any, ...], value: Any) -> NamedSharding:
        path = path_of(keys)
        spec = next(spec for pattern, spec in RULES if re.search(pattern, path))
        if path.endswith("kernel") and spec:
            spec = P(*[None] * (len(value.shape) - len(spec)), *spec)
        return NamedSharding(mesh, _dividing(spec, value.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def gathered(values: Tree, mesh: Mesh) -> Tree:
    """Within a program: parameters in one piece where `fsdp` has split them, as they are used. Gradients go back in pieces."""
    if mesh.shape["fsdp"] == 1:
        return values

    def leaf(x: jax.Array, where: NamedSharding) -> jax.Array:
        spec = P(*(None if axes == "fsdp" else axes for axes in where.spec))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    return jax.tree.map(leaf, values, shardings(values, mesh))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the data and fsdp axes."""
    return NamedSharding(mesh, P(BATCH_AXES))


def batch_shards(mesh: Mesh) -> int:
    """How many parts a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """Rows of the global batch that this process has to load."""
    shards = batch_shards(mesh)
    if batch_size < 1 or batch_size % shards:
        raise UserError(
            f"config: a batch of {batch_size} windows does not divide over {shards} devices (mesh.data x mesh.fsdp)",
            way_out=f"use a positive multiple of {shards} for --config.data.batch_size, times train.accumulate",
        )
    by_shard = mesh.devices.reshape(shards, -1)
    mine = [i for i in range(shards) if any(d.process_index == jax.process_index() for d in by_shard[i])]
    if mine != list(range(mine[0], mine[-1] + 1)):
        raise UserError("this mesh gives a process rows that are not neighbours", way_out="list devices by process")
    each = batch_size // shards
    return slice(mine[0] * each, (mine[-1] + 1) * each)


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Host rows of this process -> global arrays split by rows."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_everywhere(values: Tree, mesh: Mesh) -> Tree:
    """Host values that are equal on every process -> arrays that every device has whole."""
    return jax.tree.map(lambda x: _placed(np.asarray(x), replicated(mesh)), values)


def place(values: Tree, mesh: Mesh) -> Tree:
    """A tree of parameters, equal on every process -> arrays placed as the rules say."""
    return jax.tree.map(_placed, jax.tree.map(np.asarray, values), shardings(values, mesh))


def _placed(value: np.ndarray, where: NamedSharding) -> jax.Array:
    # device_put would compare the values of all processes first
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])


def _dividing(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
    """The spec without the axes that do not divide their side."""
    if len(spec) > len(shape):
        return P()
    sizes: Mapping[str, int] = mesh.shape

    def fits(side: int, axes: Any) -> bool:
        names = (axes,) if isinstance(axes, str) else (axes or ())
        return side % int(np.prod([sizes[name] for name in names], dtype=int)) == 0

    kept = [axes if fits(side, axes) else None for side, axes in zip(shape, spec, strict=False)]
    return P(*kept) if any(kept) else P()
