"""Transformer blocks of the encoder, the tower and the decoder (spec: model, section 5)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float64, Int

from omnimouse_jax.model.attention import attend
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.layers import FeedForward, Linear, RMSNorm, recomputed, rms_normalize
from omnimouse_jax.model.rotary import Positions, Turns, rotate
from omnimouse_jax.model.visibility import Windows


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

    def turns(self, config: ModelConfig) -> Turns:
        """By how much each token's queries and keys are rotated."""
        return Positions(self.seconds, config.d_head, config.rotary_seconds).tables()


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
        self.implementation = config.attention
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
        query_turns: Turns | None,
        key_turns: Turns | None,
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
        seen = attend(rotate(q, query_turns), rotate(k, key_turns), v, windows, key_mask, self.implementation)
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
        query_turns: Turns | None = None,
        key_turns: Turns | None = None,
        windows: Windows | None = None,
        key_mask: Bool[Array, "B K"] | None = None,
    ) -> Float[Array, "B Q D"]:
        if context is not None:
            context = _apply(self.context_norm, context)
        normed = _apply(self.attention_norm, x)
        update = self.attention(normed, context, query_turns, key_turns, windows, key_mask)
        x = x + _apply(self.attention_post_norm, update)
        return x + _apply(self.ffn_post_norm, self.feed_forward(_apply(self.ffn_norm, x)))


def _apply(norm: RMSNorm | None, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    return x if norm is None else norm(x)


def cross(block: Block, queries: Tokens, keys: Tokens, config: ModelConfig) -> Tokens:
    """Queries look at keys by the window rule."""
    windows = Windows(queries.intervals, keys.intervals, config.touching)
    turns = queries.turns(config), keys.turns(config)

    def look(block: Block, x: Float[Array, "B Q D"], context: Float[Array, "B K D"]) -> Float[Array, "B Q D"]:
        return block(x, context, *turns, windows, keys.mask)

    step = look if config.remat == "none" else recomputed(look)
    return queries.replace(step(block, queries.vectors, keys.vectors))


class Tower(nnx.Module):
    """Self-attention layers over latents and video features: local ones within windows, global ones over everything.

    Layers of a kind are one block with stacked parameters: `first` (layers,), local ones before the first whole cycle; `local`
    and `everywhere` (cycles, layers of a cycle). A kind that a config does not have is None.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        def block() -> Block:
            return Block(config, cross=False, multiplier=config.ffn_multiplier, rngs=rngs)

        n_first, n_cycles, n_local, n_global = config.tower_plan
        first = [block() for _ in range(n_first)]
        cycles = [([block() for _ in range(n_local)], [block() for _ in range(n_global)]) for _ in range(n_cycles)]
        self.first = _stack(first) if n_first else None
        self.local = _stack([_stack(local) for local, _ in cycles]) if n_local else None
        self.everywhere = _stack([_stack(rest) for _, rest in cycles]) if n_global else None
        self.config = config

    def __call__(self, tokens: Tokens) -> Tokens:
        config = self.config
        turns = tokens.turns(config)
        windows = Windows(tokens.intervals, tokens.intervals, config.touching)

        def layers(kind: Block | None, local: bool) -> tuple[Step, Any]:
            """(one layer as a step of a loop, the stacked parameters that the loop runs over)."""
            if kind is None:
                return lambda x, params: x, None
            graph, stacked = nnx.split(kind)
            where = turns if local or config.global_positions else None

            def layer(x: Array, params: Any) -> Array:
                return nnx.merge(graph, params)(x, None, where, where, windows if local else None, tokens.mask)

            again = config.remat == "layer" or (config.remat == "cycle" and kind is self.first)
            return jax.checkpoint(layer) if again else layer, stacked

        first, first_params = layers(self.first, local=True)
        local, local_params = layers(self.local, local=True)
        everywhere, global_params = layers(self.everywhere, local=False)

        def cycle(x: Array, params: tuple[Any, Any]) -> Array:
            return self._loop(everywhere, self._loop(local, x, params[0]), params[1])

        x = self._loop(first, tokens.vectors, first_params)
        x = self._loop(jax.checkpoint(cycle) if config.remat == "cycle" else cycle, x, (local_params, global_params))
        return tokens.replace(x)

    def _loop(self, step: Step, x: Array, stacked: Any) -> Array:
        """`step` with each entry of stacked parameters in turn: as a loop of the program, or written out."""
        leaves = jax.tree.leaves(stacked)
        if not leaves:
            return x
        if self.config.scan_layers:
            return jax.lax.scan(lambda x, params: (step(x, params), None), x, stacked)[0]
        for i in range(len(leaves[0])):
            x = step(x, jax.tree.map(lambda leaf, i=i: leaf[i], stacked))
        return x


Step = Callable[[Any, Any], Any]  # (what flows through the layers, one layer's parameters) -> the same, moved on


def _stack(blocks: list[Block]) -> Block:
    """Equal blocks as one whose parameters have an axis more."""
    graph = nnx.split(blocks[0])[0]
    return nnx.merge(graph, jax.tree.map(lambda *leaves: jnp.stack(leaves), *(nnx.split(b)[1] for b in blocks)))
