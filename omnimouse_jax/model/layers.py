"""The few layers everything is made of: linear maps, RMS norms, gated feed-forward, and their initialisers.

Kernels are (in, out). Parameters are float32; a layer computes in the dtype of its input, norms in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from omnimouse_jax.model.target import platform


def truncated_normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A parameter drawn from N(0, std²) cut at ±2 (absolute, as PyTorch's `trunc_normal_` cuts by default).

    Drawn by numpy from the key's bits: compiling a generator for every shape of a model takes longer than a short
    training run. Only where the key is not known yet (shapes, an outer jit) does jax draw.
    """
    key, bound = rngs.params(), 2.0 / std
    if isinstance(key, jax.core.Tracer):
        return nnx.Param(std * jax.random.truncated_normal(key, -bound, bound, shape, jnp.float32))
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    values = rng.standard_normal(shape, np.float32)
    while (outside := np.abs(values) > bound).any():
        values[outside] = rng.standard_normal(int(outside.sum()), np.float32)
    return nnx.Param(jnp.asarray(np.float32(std) * values))


class Linear(nnx.Module):
    """x @ kernel + bias over the last axis."""

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        rngs: nnx.Rngs,
        bias: bool = False,
        std: float | None = None,
        bias_value: float = 0.0,
    ):
        self.kernel = truncated_normal(rngs, (d_in, d_out), d_in**-0.5 if std is None else std)
        self.bias = nnx.Param(jnp.full((d_out,), bias_value, jnp.float32)) if bias else None

    def __call__(self, x: Float[Array, "... i"]) -> Float[Array, "... o"]:
        rows = x.reshape(-1, x.shape[-1])  # matrix products of two axes: their gradients are half as expensive on a CPU
        y = jnp.dot(rows, self.kernel[...].astype(x.dtype))
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)[None]
        return y.reshape(*x.shape[:-1], y.shape[-1])


class RMSNorm(nnx.Module):
    """Root-mean-square norm with a learned scale."""

    def __init__(self, d: int, *, eps: float):
        self.scale = nnx.Param(jnp.ones((d,), jnp.float32))
        self.eps = eps

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return rms_normalize(x, self.eps, self.scale[...])


def rms_normalize(
    x: Float[Array, "... d"], eps: float, scale: Float[Array, " d"] | None = None
) -> Float[Array, "... d"]:
    """x / rms(x) over the last axis, times `scale` if there is one."""
    wide = x.astype(jnp.float32)
    y = wide * jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    if scale is not None:
        y = y * jnp.broadcast_to(scale, y.shape)
    return y.astype(x.dtype)


HIDDEN_BYTES = 8 * 2**20  # of one hidden layer of a part of the tokens


class FeedForward(nnx.Module):
    """down(activation(up x) * gate x)."""

    def __init__(self, d: int, hidden: int, *, activation: str, rngs: nnx.Rngs, std: float | None = None):
        self.gate = Linear(d, hidden, rngs=rngs, std=std)
        self.up = Linear(d, hidden, rngs=rngs, std=std)
        self.down = Linear(hidden, d, rngs=rngs, std=std)
        self.activation = activation

    def __call__(self, x: Float[Array, "B L d"]) -> Float[Array, "B L d"]:
        """Tokens do not meet here, so on a CPU many of them are taken a part at a time: hidden layers then stay in its caches."""
        parts = self._parts(*x.shape[:2])
        if parts == 1:
            return self._tokens(x)
        cut = jnp.moveaxis(x.reshape(x.shape[0], parts, -1, x.shape[2]), 1, 0)
        return jnp.moveaxis(jax.lax.map(jax.checkpoint(self._tokens), cut), 0, 1).reshape(x.shape)

    def _tokens(self, x: Float[Array, "B L d"]) -> Float[Array, "B L d"]:
        rows = x.reshape(-1, x.shape[-1])
        up, gate = self.up(rows), self.gate(rows)
        active = silu_gate(up, gate) if self.activation == "silu" else jax.nn.gelu(up, approximate=False) * gate
        return self.down(active).reshape(x.shape)

    def _parts(self, rows: int, length: int) -> int:
        """How many parts of a row's tokens: 1 unless they would fill a CPU's caches many times."""
        size = 4 * rows * length * self.up.kernel.shape[1]
        if platform() != "cpu" or size < 4 * HIDDEN_BYTES:
            return 1
        return next((n for n in range(size // HIDDEN_BYTES, length) if length % n == 0), 1)


@jax.custom_jvp
def silu_gate(up: Float[Array, "..."], gate: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(up) * gate, with a derivative that keeps its two arguments only."""
    return jax.nn.silu(up) * gate


@silu_gate.defjvp
def _silu_gate_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    (up, gate), (d_up, d_gate) = primals, tangents
    sigmoid = jax.nn.sigmoid(up)
    silu = up * sigmoid
    return silu * gate, d_gate * silu + d_up * (gate * (sigmoid + silu * (1 - sigmoid)))


def recomputed(call: Callable[..., Any]) -> Callable[..., Any]:
    """`call(module, ...)`, whose inner values the backward pass computes again instead of finding them kept."""

    def again(module: nnx.Module, *arguments: Any) -> Any:
        graph, params = nnx.split(module)
        return jax.checkpoint(lambda params, *arguments: call(nnx.merge(graph, params), *arguments))(params, *arguments)

    return again


def softplus(x: Float[Array, "..."], beta: float) -> Float[Array, "..."]:
    """(1/beta) log(1 + exp(beta x)), linear where beta x > 20."""
    scaled = beta * x
    return jnp.where(scaled > 20.0, x, jax.nn.softplus(jnp.minimum(scaled, 20.0)) / beta)


def inverse_sqrt(n: int) -> float:
    return 1.0 / math.sqrt(n)
