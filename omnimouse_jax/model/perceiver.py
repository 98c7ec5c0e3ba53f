"""Transformer blocks of the encoder, the tower and the decoder (spec: model, section 5)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float64, Int

from omnimouse_jax.model.attention import Windows, attend
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.layers import FeedForward, Linear, RMSNorm, rms_normalize
from omnimouse_jax.model.rotary import Positions, rotate


@dataclasses.dataclass(frozen=True)
class Tokens:
    """Vectors with what is known of them before tracing: intervals in ticks and rotary times in seconds.

    `mask` says which of them a row really has; None: all.
    """

    vectors: Float[Array, "B L D"]
    intervals: Int[np.ndarray, "L 2"]
    seconds: Float64[np.ndarray, " L"]
    mask: Bool[Array, "B L"] | None = None

    def __len__(self) -> int:
        return len(self.seconds)

    def replace(self, vectors: Float[Array, "B L D"]) -> Tokens:
        """The same tokens, moved on."""
        return dataclasses.replace(self, vectors=vectors)

    def positions(self, config: ModelConfig) -> Positions:
        return Positions(self.seconds, config.d_head, config.rotary_seconds)


def join(*parts: Tokens | None) -> Tokens | None:
    """One after the other; None where there is nothing to join."""
    present = [p for p in parts if p is not None and len(p)]
    if len(present) < 2:
        return present[0] if present else None
    mask = None
    if any(p.mask is not None for p in present):
        whole = [jnp.ones(p.vectors.shape[:2], bool) if p.mask is None else p.mask for p in present]
        mask = jnp.concatenate(whole, axis=1)
    return Tokens(
        jnp.concatenate([p.vectors for p in present], axis=1),
        np.concatenate([p.intervals for p in present]),
        np.concatenate([p.seconds for p in present]),
        mask,
    )


class Attention(nnx.Module):
    """Multi-head attention without biases. `cross`: keys and values come from elsewhere."""

    def __init__(self, config: ModelConfig, *, cross: bool, rngs: nnx.Rngs):
        d, head = config.d_model, config.d_head
        self.heads = config.n_heads
        self.kv_heads = config.n_heads if cross else config.kv_heads
        self.qk_norm_eps = config.norm_eps if config.qk_norm else None
        if cross:
            self.q = Linear(d, self.heads * head, rngs=rngs)
            self.kv = Linear(d, 2 * self.kv_heads * head, rngs=rngs)
        else:
            self.qkv = Linear(d, (self.heads + 2 * self.kv_heads) * head, rngs=rngs)
        self.out = Linear(self.heads * head, d, rngs=rngs)
        self.cross = cross

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        context: Float[Array, "B K D"] | None,
        query_positions: Positions | None,
        key_positions: Positions | None,
        windows: Windows | None,
        key_mask: Bool[Array, "B K"] | None,
    ) -> Float[Array, "B Q D"]:
        if self.cross:
            assert context is not None
            q = self._split(self.q(x), self.heads)
            k, v = (self._split(part, self.kv_heads) for part in jnp.split(self.kv(context), 2, axis=-1))
        else:
            heads = self._split(self.qkv(x), self.heads + 2 * self.kv_heads)
            q, k, v = jnp.split(heads, [self.heads, self.heads + self.kv_heads], axis=2)
        if self.qk_norm_eps is not None:
            q, k = rms_normalize(q, self.qk_norm_eps), rms_normalize(k, self.qk_norm_eps)
        seen = attend(rotate(q, query_positions), rotate(k, key_positions), v, windows, key_mask)
        return self.out(seen.reshape(*x.shape[:2], -1))

    @staticmethod
    def _split(x: Float[Array, "B L F"], heads: int) -> Float[Array, "B L {heads} d"]:
        return x.reshape(*x.shape[:2], heads, -1)


class Block(nnx.Module):
    """Attention + residual, gated feed-forward + residual, each normalised before and, as an option, after."""

    def __init__(self, config: ModelConfig, *, cross: bool, multiplier: float, rngs: nnx.Rngs):
        def norm(wanted: bool) -> RMSNorm | None:
            return RMSNorm(config.d_model, eps=config.norm_eps) if wanted else None

        self.context_norm = norm(cross and config.pre_norm)
        self.attention_norm = norm(config.pre_norm)
        self.attention_post_norm = norm(config.post_norm)
        self.ffn_norm = norm(config.pre_norm)
        self.ffn_post_norm = norm(config.post_norm)
        self.attention = Attention(config, cross=cross, rngs=rngs)
        hidden = config.ffn_width(config.d_model, multiplier)
        self.feed_forward = FeedForward(config.d_model, hidden, activation=config.ffn_activation, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "B Q D"],
        context: Float[Array, "B K D"] | None = None,
        query_positions: Positions | None = None,
        key_positions: Positions | None = None,
        windows: Windows | None = None,
        key_mask: Bool[Array, "B K"] | None = None,
    ) -> Float[Array, "B Q D"]:
        if context is not None:
            context = _apply(self.context_norm, context)
        normed = _apply(self.attention_norm, x)
        update = self.attention(normed, context, query_positions, key_positions, windows, key_mask)
        x = x + _apply(self.attention_post_norm, update)
        return x + _apply(self.ffn_post_norm, self.feed_forward(_apply(self.ffn_norm, x)))


def _apply(norm: RMSNorm | None, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    return x if norm is None else norm(x)


def cross(block: Block, queries: Tokens, keys: Tokens, config: ModelConfig) -> Tokens:
    """Queries look at keys by the window rule."""
    windows = Windows(queries.intervals, keys.intervals, config.touching)
    return queries.replace(
        block(queries.vectors, keys.vectors, queries.positions(config), keys.positions(config), windows, keys.mask)
    )


class Tower(nnx.Module):
    """Self-attention layers over latents and video features: local ones within windows, global ones over everything."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.layers = nnx.List(
            [Block(config, cross=False, multiplier=config.ffn_multiplier, rngs=rngs) for _ in range(config.n_layers)]
        )
        self.config = config

    def __call__(self, tokens: Tokens) -> Tokens:
        config = self.config
        positions = tokens.positions(config)
        windows = Windows(tokens.intervals, tokens.intervals, config.touching)
        x = tokens.vectors
        for layer, local in zip(self.layers, config.layer_is_local, strict=True):
            where = positions if local or config.global_positions else None
            x = layer(x, None, where, where, windows if local else None, tokens.mask)
        return tokens.replace(x)
