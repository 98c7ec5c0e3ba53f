"""Stacked tower layers taken apart and put together: `core/tower/local/...` <-> `core/tower/layers/3/...`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from omnimouse_jax.model.config import ModelConfig

STACKS = "core/tower/"
LAYERS = "core/tower/layers/"


def places(config: ModelConfig) -> list[tuple[str, tuple[int, ...]]]:
    """Where each layer of the tower is kept, in order: (stack, index in it)."""
    n_first, n_cycles, n_local, n_global = config.tower_plan
    found: list[tuple[str, tuple[int, ...]]] = [("first", (i,)) for i in range(n_first)]
    for cycle in range(n_cycles):
        found += [("local", (cycle, i)) for i in range(n_local)]
        found += [("everywhere", (cycle, i)) for i in range(n_global)]
    return found


def apart(config: ModelConfig, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters by path, each layer's under its own number instead of stacked."""
    out = {path: value for path, value in flat.items() if not path.startswith(STACKS)}
    for path, value in flat.items():
        if path.startswith(STACKS):
            stack, _, rest = path.removeprefix(STACKS).partition("/")
            for number, (kind, index) in enumerate(places(config)):
                if kind == stack:
                    out[f"{LAYERS}{number}/{rest}"] = value[index]
    return out


def together(config: ModelConfig, flat: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse of `apart`."""
    out = {path: value for path, value in flat.items() if not path.startswith(LAYERS)}
    n_first, n_cycles, n_local, n_global = config.tower_plan
    sizes = {"first": (n_first,), "local": (n_cycles, n_local), "everywhere": (n_cycles, n_global)}
    for path, value in flat.items():
        if path.startswith(LAYERS):
            number, _, rest = path.removeprefix(LAYERS).partition("/")
            kind, index = places(config)[int(number)]
            stacked = f"{STACKS}{kind}/{rest}"
            if stacked not in out:
                out[stacked] = np.empty((*sizes[kind], *value.shape), value.dtype)
            out[stacked][index] = value
    return out
