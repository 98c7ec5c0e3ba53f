"""The few layers everything is made of: linear maps, RMS norms, gated feed-forward, and their initialisers.

Kernels are (in, out). Parameters are float32; a layer computes in the dtype of its input, norms in float32.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def truncated_normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    """A parameter drawn from N(0, std²) cut at ±2 (absolute, as PyTorch's `trunc_normal_` cuts by default)."""
    bound = 2.0 / std
    return nnx.Param(std * jax.random.truncated_normal(rngs.params(), -bound, bound, shape, jnp.float32))


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
        y = jnp.dot(x, self.kernel[...].astype(x.dtype))
        if self.bias is None:
            return y
        return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


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


class FeedForward(nnx.Module):
    """down(activation(up x) * gate x)."""

    def __init__(self, d: int, hidden: int, *, activation: str, rngs: nnx.Rngs, std: float | None = None):
        self.gate = Linear(d, hidden, rngs=rngs, std=std)
        self.up = Linear(d, hidden, rngs=rngs, std=std)
        self.down = Linear(hidden, d, rngs=rngs, std=std)
        self.activation = activation

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        up = self.up(x)
        active = jax.nn.silu(up) if self.activation == "silu" else jax.nn.gelu(up, approximate=False)
        return self.down(active * self.gate(x))


def softplus(x: Float[Array, "..."], beta: float) -> Float[Array, "..."]:
    """(1/beta) log(1 + exp(beta x)), linear where beta x > 20."""
    scaled = beta * x
    return jnp.where(scaled > 20.0, x, jax.nn.softplus(jnp.minimum(scaled, 20.0)) / beta)


def inverse_sqrt(n: int) -> float:
    return 1.0 / math.sqrt(n)
