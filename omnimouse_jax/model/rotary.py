"""Rotary positions in seconds: periods from 1 ms to the context length, pairs interleaved (spec: model, section 5)."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Float64

SHORTEST_PERIOD = 1e-3  # seconds


def angular_frequencies(d_head: int, longest_period: float) -> Float64[np.ndarray, " pairs"]:
    """Radians per second of each pair of channels."""
    base = longest_period / SHORTEST_PERIOD
    return 2 * np.pi / SHORTEST_PERIOD / base ** (np.arange(0, d_head, 2, dtype=np.float64) / d_head)


class Turns(NamedTuple):
    """Rotation tables of tokens: cosines, and sines signed for `rotate`."""

    cos: Float32[Array, "L d"]
    sin: Float32[Array, "L d"]


class Positions:
    """Times of tokens as rotation tables, made on the host while a program is traced.

    Angles reach 12,566 rad, where float32 is 1e-3 coarse. They are float64 products rounded once to float32, as the
    reference's are, and their cosines are taken here, so no device's own sine can differ.
    """

    def __init__(self, seconds: Float64[np.ndarray, " L"], d_head: int, longest_period: float):
        times, self.which = np.unique(seconds, return_inverse=True)
        angle = (
            (times[:, None] * angular_frequencies(d_head, longest_period)[None]).astype(np.float32).astype(np.float64)
        )
        self.cos = np.repeat(np.cos(angle), 2, axis=1).astype(np.float32)
        # (a, b) -> (a cos - b sin, b cos + a sin): the partner's sign lives in the table
        self.sin = np.stack([-np.sin(angle), np.sin(angle)], axis=-1).reshape(len(times), -1).astype(np.float32)

    def __len__(self) -> int:
        return len(self.which)

    def tables(self) -> Turns:
        """The tables of every token. Few times are shared by many tokens, so programs carry the few."""
        which = jnp.asarray(self.which)
        return Turns(jnp.asarray(self.cos)[which], jnp.asarray(self.sin)[which])


def rotate(x: Float[Array, "B L H d"], turns: Turns | None) -> Float[Array, "B L H d"]:
    """Rotates pairs (2i, 2i+1) of the head by their token's angles; without any, nothing."""
    if turns is None:
        return x
    cos, sin = (t[None, :, None] for t in turns)
    wide = x.astype(jnp.float32)
    partner = wide.reshape(*x.shape[:-1], -1, 2)[..., ::-1].reshape(x.shape)
    rotated = wide * jnp.broadcast_to(cos, x.shape) + partner * jnp.broadcast_to(sin, x.shape)
    return rotated.astype(x.dtype)
