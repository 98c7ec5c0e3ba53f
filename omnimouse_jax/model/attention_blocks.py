"""Exact attention that computes only what the windows let in, block by block, on any backend.

Each block of queries meets the stretches of keys that it sees, a few rows of queries at a time; no score outlives its rows,
and the backward pass makes scores again from the logarithm of their sum (arXiv 2205.14135). Memory grows with the number of
tokens, work with the number of visible pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from omnimouse_jax.model.attention_plain import hidden_keys, hidden_pairs
from omnimouse_jax.model.target import platform
from omnimouse_jax.model.visibility import Block, Windows

#: Scores that are held at a time, over all rows and heads of a batch: what a CPU's caches hold; elsewhere launches cost more.
TILE_BYTES = 8 * 2**20
TILE_BYTES_ACCELERATOR = 2**28
NOWHERE = 1e30  # the logarithm of a sum beside which every weight is exactly 0
FEWEST_ROWS = 32  # even if they do not fit: thinner matrix products are slow


Plan = tuple[tuple[Block, ...], bool]  # blocks, and whether to cut their queries


class Tokens(NamedTuple):
    """What a block works on, key heads first: queries (B, G, R, Q, D), already scaled; keys and values (B, G, K, D)."""

    q: Array
    k: Array
    v: Array


def blocks(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
    loops: bool = True,
) -> Float[Array, "B Q H D"]:
    """The same as `attention_plain.plain`. Where a query sees nothing the output means nothing: `attend` makes it zero.

    Without `loops` a block's queries are not cut: for counting the operations of a program, whose loops count once.
    """
    b, n_queries, heads, d = q_BxQxHxD.shape
    n_keys, groups = k_BxKxGxD.shape[1:3]
    q = q_BxQxHxD.swapaxes(1, 2).reshape(b, groups, heads // groups, n_queries, d) * d**-0.5
    plan = (Block.whole(n_queries, n_keys),) if windows is None else windows.blocks
    hidden_BxK = None if key_mask_BxK is None else hidden_keys(key_mask_BxK)
    out = _attend((plan, loops), Tokens(q, k_BxKxGxD.swapaxes(1, 2), v_BxKxGxD.swapaxes(1, 2)), hidden_BxK)
    return out.reshape(b, heads, n_queries, d).swapaxes(1, 2)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(plan: Plan, tokens: Tokens, hidden_BxK: Array | None) -> Array:
    return _forward(plan, tokens, hidden_BxK)[0]


def _forward(plan: Plan, tokens: Tokens, hidden_BxK: Array | None) -> tuple[Array, tuple]:
    cuts = [_cut(block, tokens, plan[1]) for block in plan[0]]
    q = _long_enough(tokens.q, cuts)
    found = jnp.zeros_like(q), jnp.zeros(q.shape[:-1], jnp.float32)
    for block, cut in zip(plan[0], cuts, strict=True):
        if not block.keys:
            continue
        k, v, hidden = _seen(block, tokens, hidden_BxK)

        def step(found, x, cut=cut, k=k, v=v, hidden=hidden):
            out, log_sum = _rows_forward(cut.rows(q, x[0]), x[1], k, v, hidden)
            return (cut.put(found[0], out, x[0]), cut.put(found[1], log_sum, x[0])), None

        found, _ = jax.lax.scan(step, found, (jnp.arange(cut.parts), cut.masks(block)))
    out, log_sum = (x[:, :, :, : tokens.q.shape[3]] for x in found)
    return out, (tokens, hidden_BxK, out, log_sum)


def _backward(plan: Plan, kept: tuple, d_out: Array) -> tuple[Tokens, None]:
    tokens, hidden_BxK, out, log_sum = kept
    # what the softmax takes off every score's gradient
    dot = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    cuts = [_cut(block, tokens, plan[1]) for block in plan[0]]
    q, log_sum, d_out, dot = (_long_enough(x, cuts) for x in (tokens.q, log_sum, d_out, dot))
    d_q = jnp.zeros_like(q)
    d_k, d_v = (jnp.zeros(x.swapaxes(2, 3).shape, jnp.float32) for x in (tokens.k, tokens.v))
    for block, cut in zip(plan[0], cuts, strict=True):
        if not block.keys:
            continue
        k, v, hidden = _seen(block, tokens, hidden_BxK)

        def step(sums, x, cut=cut, k=k, v=v, hidden=hidden):
            at, mask = x
            of_others = cut.own(log_sum, at, NOWHERE), cut.own(d_out, at), cut.own(dot, at)
            part = Part(cut.rows(q, at), *of_others, mask)
            d_rows, d_k, d_v = _rows_backward(part, k, v, hidden)
            return (cut.put(sums[0], d_rows, at), sums[1] + d_k, sums[2] + d_v), None

        start = d_q, *(jnp.zeros(x.swapaxes(2, 3).shape, jnp.float32) for x in (k, v))
        (d_q, *sums), _ = jax.lax.scan(step, start, (jnp.arange(cut.parts), cut.masks(block)))
        d_k, d_v = (_add(whole, block, part) for whole, part in zip((d_k, d_v), sums, strict=True))
    d_k, d_v = (x.swapaxes(2, 3).astype(like.dtype) for x, like in ((d_k, tokens.k), (d_v, tokens.v)))
    return Tokens(d_q[:, :, :, : tokens.q.shape[3]], d_k, d_v), None


_attend.defvjp(_forward, _backward)


def _rows_forward(q: Array, mask: Array | None, k: Array, v: Array, hidden: Array | None) -> tuple[Array, Array]:
    """Some rows of queries: outputs, and the logarithm of each row's sum of exponentials."""
    scores = _scores(q, k, mask, hidden)
    top = jnp.max(scores, axis=-1, keepdims=True)
    weights = jnp.exp(scores - top)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    out = _over_keys(weights.astype(v.dtype), v) / total
    return out.astype(q.dtype).reshape(q.shape), (top + jnp.log(total)).reshape(q.shape[:-1])


class Part(NamedTuple):
    """Some rows of queries in the backward pass."""

    q: Array
    log_sum: Array
    d_out: Array
    dot: Array  # sum over keys of weight x gradient of weight
    mask: Array | None


def _rows_backward(part: Part, k: Array, v: Array, hidden: Array | None) -> tuple[Array, Array, Array]:
    """Gradients of some rows of queries, and what they add to those of the block's keys and values, (B, G, D, K)."""
    q, d_out = _together(part.q), _together(part.d_out)
    weights = jnp.exp(_scores(part.q, k, part.mask, hidden) - _together(part.log_sum)[..., None])
    d_weights = _by_keys(d_out, v)
    d_scores = (weights * (d_weights - _together(part.dot)[..., None])).astype(q.dtype)
    d_v = _over_rows(weights.astype(v.dtype), d_out)
    d_k = _over_rows(d_scores, q)
    return _over_keys(d_scores, k).astype(q.dtype).reshape(part.q.shape), d_k, d_v


def _together(x: Array) -> Array:
    """Rows of all query heads of one key head: (B, G, R, size, ...) -> (B, G, R * size, ...)."""
    return x.reshape(*x.shape[:2], -1, *x.shape[4:])


def _scores(q: Array, k: Array, mask: Array | None, hidden: Array | None) -> Array:
    scores = _by_keys(_together(q), k)
    if mask is not None:
        apart = scores.reshape(*q.shape[:-1], -1) + mask[None, None, None]
        scores = apart.reshape(scores.shape)
    return scores if hidden is None else scores + hidden[:, None, None]


def _by_keys(rows: Array, keys: Array) -> Array:
    return jnp.einsum("bgqd,bgkd->bgqk", rows, keys, preferred_element_type=jnp.float32)


def _over_keys(weights: Array, values: Array) -> Array:
    return jnp.einsum("bgqk,bgkd->bgqd", weights, values, preferred_element_type=jnp.float32)


def _over_rows(weights: Array, rows: Array) -> Array:
    """(B, G, D, K): this way round the product is three to four times as fast on a CPU as (B, G, K, D)."""
    return jnp.einsum("bgqk,bgqd->bgdk", weights, rows, preferred_element_type=jnp.float32)


class Cut(NamedTuple):
    """A block's `n` queries from `first` on in `parts` of `size` rows. The last part may reach into the next block's rows.

    Blocks are computed in order, so what a part writes there is written again.
    """

    first: int
    parts: int
    size: int
    n: int

    @property
    def end(self) -> int:
        return self.first + self.parts * self.size

    def rows(self, x: Array, part: Array) -> Array:
        """One part of (B, G, R, Q, ...)."""
        return jax.lax.dynamic_slice_in_dim(x, self.first + part * self.size, self.size, axis=3)

    def own(self, x: Array, part: Array, instead: float = 0.0) -> Array:
        """One part, `instead` where it reaches into the next block."""
        rows = self.rows(x, part)
        if self.parts * self.size == self.n:
            return rows
        own = (part * self.size + jnp.arange(self.size) < self.n).reshape(1, 1, 1, -1, *[1] * (x.ndim - 4))
        return jnp.where(own, rows, jnp.asarray(instead, x.dtype))

    def put(self, x: Array, rows: Array, part: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(x, rows, self.first + part * self.size, axis=3)

    def masks(self, block: Block) -> Array | None:
        """(parts, size, K): what to add to the scores of a block whose queries do not all see the same."""
        if block.pairs is None:
            return None
        group = block.run_of_query
        group = np.append(group, np.repeat(group[-1], self.parts * self.size - self.n))
        return hidden_pairs(block.pairs, group).reshape(self.parts, self.size, -1)


def _cut(block: Block, tokens: Tokens, loops: bool) -> Cut:
    b, g, r = tokens.q.shape[:3]
    tile = TILE_BYTES if platform() == "cpu" else TILE_BYTES_ACCELERATOR
    fit = max(FEWEST_ROWS, tile // (4 * b * g * r * max(1, block.n_keys)))
    parts = -(-block.n_queries // fit) if loops else 1
    return Cut(block.first, parts, -(-block.n_queries // parts), block.n_queries)


def _long_enough(x: Array, cuts: list[Cut]) -> Array:
    """Rows after the last query for the parts that reach beyond it."""
    spare = max(cut.end for cut in cuts) - x.shape[3]
    return jnp.pad(x, [(0, spare if axis == 3 else 0) for axis in range(x.ndim)]) if spare > 0 else x


def _seen(block: Block, tokens: Tokens, hidden: Array | None) -> tuple[Array, Array, Array | None]:
    """Keys, values and what hides keys, of the block's stretches only."""
    k, v = (stretches(x, block, 2) for x in (tokens.k, tokens.v))
    return k, v, None if hidden is None else stretches(hidden, block, 1)


def stretches(x: Array, block: Block, axis: int) -> Array:
    """The block's keys out of all of them."""
    parts = [jax.lax.slice_in_dim(x, first, last, axis=axis) for first, last in block.keys]
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=axis)


def _add(whole: Array, block: Block, part: Array) -> Array:
    """Adds what a block says of its keys to the sums over all of them."""
    for (first, last), at in zip(block.keys, _offsets(block), strict=True):
        whole = whole.at[..., first:last].add(part[..., at : at + last - first])
    return whole


def _offsets(block: Block) -> Iterator[int]:
    at = 0
    for first, last in block.keys:
        yield at
        at += last - first
