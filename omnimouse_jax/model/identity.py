"""Who was recorded: tables with a row per neuron, session and animal, and the vectors the core makes of them.

Core and tables are apart: a step gathers the rows it needs (`Tables.gather`) and can differentiate with respect to
those only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.layers import Linear, inverse_sqrt, truncated_normal
from omnimouse_jax.tokens.batch import Batch

TIME_BASE = 100_000.0


class Rows(NamedTuple):
    """The table rows of one batch: what a loss is differentiated with respect to."""

    neuron_embedding: Float[Array, "B N E"]
    neuron_bias: Float[Array, "B N"]
    session_embedding: Float[Array, "B E"]
    animal_embedding: Float[Array, "B E"]


class Tables(nnx.Module):
    """Per-neuron, per-session and per-animal parameters, looked up by row."""

    def __init__(self, config: ModelConfig, n_neurons: int, n_sessions: int, n_animals: int, *, rngs: nnx.Rngs):
        e = config.d_embedding
        std = inverse_sqrt(e)
        self.neuron_embedding = truncated_normal(rngs, (n_neurons, e), std)
        self.neuron_bias = nnx.Param(jnp.zeros((n_neurons,), jnp.float32))
        self.session_embedding = truncated_normal(rngs, (n_sessions, e), std)
        self.animal_embedding = truncated_normal(rngs, (n_animals, e), std)

    def gather(self, batch: Batch) -> Rows:
        """The rows of a batch. A row that does not exist gives zeros (never another neuron's row)."""
        names = ("neuron_embedding", "neuron_bias", "session_embedding", "animal_embedding")
        return gather({name: getattr(self, name)[...] for name in names}, batch)


def gather(tables: Mapping[str, Float[Array, "rows ..."]], batch: Batch) -> Rows:
    """The rows of a batch, out of whole tables by name."""
    return Rows(
        _look_up(tables["neuron_embedding"], jnp.asarray(batch.neuron_rows)),
        _look_up(tables["neuron_bias"], jnp.asarray(batch.neuron_rows)),
        _look_up(tables["session_embedding"], jnp.asarray(batch.session_rows)),
        _look_up(tables["animal_embedding"], jnp.asarray(batch.animal_rows)),
    )


def _look_up(table: Float[Array, "rows ..."], rows: Int[Array, "..."]) -> Float[Array, "..."]:
    return table.at[rows].get(mode="fill", fill_value=0.0, wrap_negative_indices=False)


class Identity(nnx.Module):
    """Linear maps E -> D of session, neuron, animal and time, and the learned behaviour-channel vectors (section 2)."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        e, d = config.d_embedding, config.d_model
        self.session = Linear(e, d, bias=True, rngs=rngs)
        self.neuron = Linear(e, d, bias=True, rngs=rngs)
        self.animal = Linear(e, d, bias=True, rngs=rngs) if config.animal_embeddings else None
        self.time = Linear(e, d, bias=True, rngs=rngs) if config.experiment_time else None
        self.channel = truncated_normal(rngs, (config.n_channels, d), inverse_sqrt(d))
        self.config = config

    def meta(self, rows: Rows, second: Int[Array, " B"]) -> Float[Array, "B D"]:
        """Session + animal (+ experiment time), one vector per window."""
        meta = self.session(rows.session_embedding)
        if self.animal is not None:
            meta = meta + self.animal(rows.animal_embedding)
        if self.time is not None:
            meta = meta + self.time(time_sinusoid(second, self.config.d_embedding))
        return meta

    def neurons(self, rows: Rows, meta: Float[Array, "B D"]) -> Float[Array, "B N D"]:
        """One vector per neuron slot."""
        vectors = self.neuron(rows.neuron_embedding)
        return vectors + meta[:, None] if self.config.meta_to_embeddings else vectors

    def channels(self, meta: Float[Array, "B D"]) -> Float[Array, "B C D"]:
        """One vector per behaviour channel."""
        vectors = self.channel[...][None]
        if self.config.meta_to_embeddings:
            return vectors + meta[:, None]
        return jnp.broadcast_to(vectors, (meta.shape[0], *vectors.shape[1:]))


def time_frequencies(d: int) -> Float32[np.ndarray, " pairs"]:
    """Radians per second of each pair, rounded where the reference rounds: its angles reach 18,000, where that shows."""
    exponent = np.arange(0, d, 2, dtype=np.float32) * np.float32(-math.log(TIME_BASE) / d)
    return np.exp(exponent.astype(np.float64)).astype(np.float32)


def time_sinusoid(second: Int[Array, " B"], d: int) -> Float[Array, "B {d}"]:
    """Interleaved sine and cosine of the second within the recording, wavelengths up to 2 pi x 100,000 s."""
    angle = second.astype(jnp.float32)[:, None] * jnp.asarray(time_frequencies(d))[None]
    return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(len(second), d)
