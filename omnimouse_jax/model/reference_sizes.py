"""Which model a released state dict is of, as far as its shapes tell, and which animal each of its sessions belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import SIZES, ModelConfig
from omnimouse_jax.model.reference_files import PER_SESSION

ANIMAL = "animal_params._animal_embeddings."


class Sketch(NamedTuple):
    """What shapes say of a model; -1 or () where a parameter that says it is missing."""

    d_model: int
    d_embedding: int
    n_heads: int
    n_layers: int
    hiera_dim: int
    hiera_stages: tuple[int, ...]

    @classmethod
    def of(cls, state: Mapping[str, np.ndarray]) -> Sketch:
        d, e = _shape(state, "sess_to_model_proj.weight", 2)
        (pairs,) = _shape(state, "rotary_emb.inv_freq", 1)
        hiera = _numbers(state, r"hiera\.backbone\.blocks\.(\d+)\.")
        widens = _numbers(state, r"hiera\.backbone\.blocks\.(\d+)\.proj\.weight$")
        stages = (min(widens), len(hiera) - min(widens)) if widens else (len(hiera),)
        return cls(
            d_model=d,
            d_embedding=e,
            n_heads=d // (2 * pairs) if pairs > 0 else -1,
            n_layers=len(_numbers(state, r"proc\.(\d+)\.")),
            hiera_dim=_shape(state, "hiera.backbone.patch_embed.proj.bias", 1)[0],
            hiera_stages=stages,
        )

    @property
    def sizes(self) -> list[str]:
        """Released sizes that look like this. The number of heads counts only where the file tells it."""
        return [
            name
            for name, config in SIZES.items()
            if config.hiera_order == "reference"
            and all(mine in (getattr(config, field), -1) for field, mine in zip(self._fields, self, strict=True))
        ]

    def told(self) -> str:
        """For people: what it looks like."""
        numbers = (
            f"d_model {self.d_model}, d_embedding {self.d_embedding}, {self.n_heads} heads, {self.n_layers} layers, "
            f"Hiera {self.hiera_dim} x {'+'.join(map(str, self.hiera_stages))}"
        )
        return (
            f"it looks like the released {' or '.join(self.sizes)} ({numbers})" if self.sizes else f"it has {numbers}"
        )


def config_by_shapes(file: Path, state: Mapping[str, np.ndarray], size: str) -> ModelConfig:
    """The released size that a state dict is of, or `size` if it looks like that."""
    if size and size not in SIZES:
        raise UserError(f"--size {size}: there is no such size", way_out=f"use one of {', '.join(SIZES)}")
    sketch = Sketch.of(state)
    if size and size not in sketch.sizes:
        raise UserError(f"{file}: not of size {size}: {sketch.told()}", way_out="give its size, or its --config")
    if not sketch.sizes:
        raise UserError(
            f"{file}: of no released size: {sketch.told()}", way_out="pass --config FILE.json with the released fields"
        )
    return SIZES[size or sketch.sizes[0]]


def neurons_by_session(file: Path, state: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Numbers of neurons. UserError for a session whose three arrays are not all there or do not fit each other."""
    arrays: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, value in state.items():
        if match := PER_SESSION.match(name):
            arrays.setdefault(match[1], {})[match[2]] = value.shape
    if not arrays:
        raise UserError(
            f"{file}: no session's parameters (sess_params.*) in it", way_out="name the folder of all ranks"
        )
    for key, shapes in arrays.items():
        missing = {"_session_embedding", "_neuron_embeddings.weight", "_neuron_biases"} - set(shapes)
        if missing:
            raise UserError(
                f"{file}: sess_params.{key}.{sorted(missing)[0]} is missing", way_out="fetch the file again"
            )
        if len({shapes[part][:1] for part in ("_neuron_embeddings.weight", "_neuron_biases")}) != 1:
            raise UserError(
                f"{file}: sess_params.{key} has {shapes['_neuron_embeddings.weight'][:1]} embeddings and "
                f"{shapes['_neuron_biases'][:1]} biases",
                way_out="fetch the file again",
            )
    return {key: shapes["_neuron_embeddings.weight"][0] for key, shapes in arrays.items()}


def animals_by_session(
    file: Path, sessions: Mapping[str, int], state: Mapping[str, np.ndarray], told: Mapping[str, Any]
) -> dict[str, str]:
    """Session -> animal: as `told`; else the one animal of the file whose id is in the session's key; else the only one."""
    animals = [name.removeprefix(ANIMAL) for name in state if name.startswith(ANIMAL)]
    found = {}
    for key in sessions:
        animal = told.get(key) or _named_in(key, animals) or (animals[0] if len(animals) == 1 else None)
        if animal is None and not animals:
            animal = key  # without animal embeddings the name says nothing
        if animal is None or (animals and animal not in animals):
            what = "nothing tells its animal" if animal is None else f"its animal {animal} has no embedding"
            raise UserError(
                f"{file}: session {key}: {what} (animals: {', '.join(animals[:8])})",
                way_out="pass --sessions FILE.json with {session: animal}",
            )
        found[key] = str(animal)
    return found


def _named_in(key: str, animals: list[str]) -> str | None:
    """The animal whose id is a word of the key, or at least a part of it, if there is only one."""
    for pattern in (r"(?<![A-Za-z0-9]){}(?![A-Za-z0-9])", "{}"):
        matches = [animal for animal in animals if re.search(pattern.format(re.escape(animal)), key)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            return None
    return None


def _shape(state: Mapping[str, np.ndarray], name: str, n: int) -> tuple[int, ...]:
    shape = state[name].shape if name in state else ()
    return shape if len(shape) == n else (-1,) * n


def _numbers(state: Mapping[str, np.ndarray], pattern: str) -> set[int]:
    return {int(match[1]) for name in state if (match := re.match(pattern, name))}
