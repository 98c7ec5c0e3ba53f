"""A mesh of named axes and one rule table. The same program runs on one CPU, eight fake ones, a GPU box or a TPU pod.

Axes: `data` splits the rows of a batch, `model` splits the core's matrices. Neuron tables are split by rows over both, so that
their gradient needs no collective of the table's size.
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

Tree = Any

#: Parameter path -> PartitionSpec; the first match wins. A matrix whose side does not divide stays replicated. Specs of kernels
#: are those of their last two axes: stacked layers have more in front.
RULES: tuple[tuple[str, P], ...] = (
    (r"tables/neuron_", P(("data", "model"))),
    (r"tables/", P()),
    (r"attention/(q|kv|qkv)/kernel$", P(None, "model")),
    (r"attention/out/kernel$", P("model", None)),
    (r"feed_forward/(gate|up)/kernel$", P(None, "model")),
    (r"feed_forward/down/kernel$", P("model", None)),
    (r".*", P()),
)


def make_mesh(data: int, model: int) -> Mesh:
    """A (data, model) mesh over the first data * model devices. `data=-1` takes every device that is left."""
    devices = jax.devices()
    if data == -1:
        data = max(1, len(devices) // model)
    needed = data * model
    if min(data, model) < 1 or needed > len(devices):
        raise UserError(
            f"config: mesh {data} x {model} needs {needed} devices, {len(devices)} {devices[0].platform} device(s) found",
            way_out=f"set --config.mesh.data and --config.mesh.model so that their product is at most {len(devices)}",
        )
    grid = np.array(devices[:needed]).reshape(data, model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


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
        return NamedSharding(mesh, spec if _divides(spec, value.shape, mesh) else P())

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over the data axis."""
    return NamedSharding(mesh, P("data"))


def local_rows(mesh: Mesh, batch_size: int) -> slice:
    """Rows of the global batch that this process has to load."""
    data = mesh.shape["data"]
    if batch_size < 1 or batch_size % data:
        raise UserError(
            f"config: batch_size {batch_size} does not divide over {data} devices of the data axis",
            way_out=f"use a positive multiple of {data}",
        )
    mine = [i for i in range(data) if any(d.process_index == jax.process_index() for d in mesh.devices[i])]
    each = batch_size // data
    return slice(mine[0] * each, (mine[-1] + 1) * each)


def put_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Host rows of this process -> global arrays split over the data axis."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def _divides(spec: P, shape: tuple[int, ...], mesh: Mesh) -> bool:
    sizes: Mapping[str, int] = mesh.shape
    for side, axes in zip(shape, spec, strict=False):
        names = (axes,) if isinstance(axes, str) else (axes or ())
        if side % int(np.prod([sizes[name] for name in names], dtype=int)):
            return False
    return len(spec) <= len(shape)
