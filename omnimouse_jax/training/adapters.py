"""Low-rank additions to the core's kernels: few parameters that adapt a frozen core (Hu et al. 2021, arXiv 2106.09685).

A kernel W of (in, out) becomes W + A B with A (in, rank) drawn and B (rank, out) zero, so that at first nothing changes. Kernels of
attention and feed-forward layers have them; of stacked layers each has its own.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from omnimouse_jax.training.parallel import path_of

Tree = Any

#: Kernels that are adapted, by the end of their path.
ADAPTED = re.compile(r"(attention/(q|kv|qkv|out)|feed_forward/(gate|up|down))/kernel$")


def shapes(core: Tree, rank: int) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
    """Path of a kernel -> shapes of its A and B. `core`: arrays or shapes."""
    found = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(core):
        if ADAPTED.search(path := path_of(keys)):
            *stack, n_in, n_out = leaf.shape
            a, b = (*stack, n_in, rank), (*stack, rank, n_out)
            found[path] = {"a": jax.ShapeDtypeStruct(a, jnp.float32), "b": jax.ShapeDtypeStruct(b, jnp.float32)}
    return found


def draw(core: Tree, rank: int, seed: int) -> dict[str, dict[str, np.ndarray]]:
    """Fresh adapters: A normal with variance 1 / in, B zero."""
    rng = np.random.default_rng([seed, rank])
    return {
        path: {
            "a": (rng.standard_normal(pair["a"].shape) / np.sqrt(pair["a"].shape[-2])).astype(np.float32),
            "b": np.zeros(pair["b"].shape, np.float32),
        }
        for path, pair in shapes(core, rank).items()
    }


def added(core: Tree, adapters: Tree) -> Tree:
    """The core with its adapters added to its kernels."""

    def leaf(keys: tuple[Any, ...], kernel: Any) -> Any:
        pair = adapters.get(path_of(keys))
        return kernel if pair is None else kernel + pair["a"] @ pair["b"]

    return jax.tree_util.tree_map_with_path(leaf, core)
