"""How many parameters a model has, and where: tower, core and tables are different numbers and are never mixed."""

from __future__ import annotations

import math
from typing import Any

from flax import nnx

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.omnimouse import Core

#: Parts of the core by the first words of their parameters' paths.
PARTS = {
    "tower": ("tower",),
    "video": ("video",),
    "encoder": ("encoder",),
    "decoder": ("decoder",),
    "identity": ("identity", "missing"),
    "latents": ("latent", "latent_global"),
    "inputs and readouts": (
        *("response_in", "response_gain", "behavior_in"),
        *("response_out", "neuron_out", "behavior_out"),
    ),
}


def core_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of the core, of shapes only."""
    core = nnx.eval_shape(lambda: Core(config, rngs=nnx.Rngs(0)))
    of_word: dict[str, int] = {}
    for path, leaf in nnx.to_flat_state(nnx.state(core, nnx.Param)):
        word = str(path[0])
        of_word[word] = of_word.get(word, 0) + math.prod(leaf.shape)
    return {part: sum(of_word.get(word, 0) for word in words) for part, words in PARTS.items()}


def describe(config: ModelConfig, n_neurons: int = 0, n_sessions: int = 0, n_animals: int = 0) -> dict[str, Any]:
    """Parameter counts of a model for so many neurons, sessions and animals.

    `tower` is what the released sizes are named after; `core` is everything that all mice share (the N axis of a
    scaling plot); `tables` grow with the data: a row and a bias per neuron, a row per session and per animal.
    """
    parts = core_counts(config)
    e = config.d_embedding
    tables = {"neurons": n_neurons * (e + 1), "sessions": n_sessions * e, "animals": n_animals * e}
    core, rows = sum(parts.values()), sum(tables.values())
    return {
        "tower": parts["tower"],
        "core": core,
        "parts": parts,
        "tables": rows,
        "table_parts": tables,
        "per_neuron": e + 1,
        "total": core + rows,
        "vocabulary": {"neurons": n_neurons, "sessions": n_sessions, "animals": n_animals},
    }


def render(told: dict[str, Any]) -> str:
    """`describe`'s numbers as a table for people."""
    rows: list[tuple[str, str, str]] = [("core", _count(told["core"]), "shared by all mice: the N of a scaling plot")]
    notes = {"tower": "self-attention layers: what the released sizes are named after"}
    rows += [(f"  {part}", _count(n), notes.get(part, "")) for part, n in told["parts"].items()]
    found = told["vocabulary"]
    rows.append(("tables", _count(told["tables"]), "grow with the data"))
    for part, n in told["table_parts"].items():
        rows.append((f"  {part}", _count(n), f"{found[part]:,} of them"))
    rows.append(("total", _count(told["total"]), ""))
    width = max(len(name) for name, _, _ in rows)
    digits = max(len(count) for _, count, _ in rows)
    return "\n".join(f"{name:<{width}}  {count:>{digits}}  {note}".rstrip() for name, count, note in rows)


def _count(n: int) -> str:
    return f"{n:,}"
