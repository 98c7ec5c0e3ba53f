"""Hiera on the screen (arXiv 2306.00989, as OmniMouse trained it; spec: model, section 6).

Both token orders run the same blocks on (B, L, C) tokens whose windows are consecutive runs:

- `spatial`: windows are true squares of patches of one time step, pooling is over 2 x 2 cells of neighbours, and
  updates meet their own residuals. Time steps do not mix, so only visible ones are computed.
- `reference`: tokens are ordered (sub-row, sub-column, time, row/2, column/2) and windows are runs of 64 of that order;
  queries are pooled over 4 consecutive tokens while residuals are pooled over the 4 slabs; updates come back as
  (position in run, window) and are added to residuals ordered (window, position in run). Released weights were trained
  through this.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Shaped

from omnimouse_jax.model.attention import attend
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.layers import FeedForward, Linear, RMSNorm, recomputed, rms_normalize, truncated_normal

STD = 0.02  # of all weights and of linear biases in here


class WindowAttention(nnx.Module):
    """Attention within consecutive runs of `window` tokens; `pool` > 1 takes the maximum over that many queries."""

    def __init__(
        self, d: int, d_out: int, *, heads: int, window: int, pool: int, order: str, eps: float, rngs: nnx.Rngs
    ):
        self.qkv = Linear(d, 3 * d_out, bias=True, std=STD, bias_value=STD, rngs=rngs)
        self.out = Linear(d_out, d_out, bias=True, std=STD, bias_value=STD, rngs=rngs)
        self.heads, self.window, self.pool, self.order, self.eps = heads, window, pool, order, eps

    def __call__(self, x: Float[Array, "B L C"]) -> Float[Array, "B M O"]:
        b, length, _ = x.shape
        n_windows = length // self.window
        qkv = self.qkv(x).reshape(b * n_windows, self.window, 3, self.heads, -1)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.pool > 1:
            q = q.reshape(b * n_windows, -1, self.pool, *q.shape[2:]).max(axis=2)
        y = attend(rms_normalize(q, self.eps), rms_normalize(k, self.eps), v)
        y = y.reshape(b, n_windows, y.shape[1], -1)
        if self.order == "reference":
            y = y.swapaxes(1, 2)
        return self.out(y.reshape(b, length // self.pool, -1))


class HieraBlock(nnx.Module):
    """Pre-norm window attention and gated feed-forward. A wider `d_out` pools the residual through a linear map."""

    def __init__(
        self,
        config: ModelConfig,
        d: int,
        d_out: int,
        *,
        heads: int,
        window: int,
        pool: int,
        drop: float,
        rngs: nnx.Rngs,
    ):
        self.attention_norm = RMSNorm(d, eps=config.norm_eps)
        self.ffn_norm = RMSNorm(d_out, eps=config.norm_eps)
        order, eps = config.hiera_order, config.norm_eps
        self.attention = WindowAttention(
            d, d_out, heads=heads, window=window, pool=pool, order=order, eps=eps, rngs=rngs
        )
        hidden = config.ffn_width(d_out, config.hiera_mlp_ratio)
        self.feed_forward = FeedForward(d_out, hidden, activation="silu", std=STD, rngs=rngs)
        self.widen = Linear(d, d_out, bias=True, std=STD, bias_value=STD, rngs=rngs) if d != d_out else None
        self.pool, self.order, self.drop = pool, order, drop

    def __call__(self, x: Float[Array, "B L C"], key: Shaped[Array, " B"] | None) -> Float[Array, "B M O"]:
        normed = self.attention_norm(x)
        if self.widen is not None:
            x = self._pool(self.widen(normed))
        keys = (None, None) if key is None else tuple(_folded(key, i) for i in range(2))
        x = x + drop_path(self.attention(normed), self.drop, keys[0])
        return x + drop_path(self.feed_forward(self.ffn_norm(x)), self.drop, keys[1])

    def _pool(self, x: Float[Array, "B L O"]) -> Float[Array, "B M O"]:
        b, _, c = x.shape
        if self.order == "reference":
            return x.reshape(b, self.pool, -1, c).max(axis=1)
        return x.reshape(b, -1, self.pool, c).max(axis=2)


class Hiera(nnx.Module):
    """Screen frames to one vector per patch cell and time step."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        g, d = config.grid, config.hiera_dim
        kernel = (g.video_kernel, *config.hiera_kernel)
        self.patch_kernel = truncated_normal(rngs, (*kernel, d), STD)
        self.patch_bias = nnx.Param(jnp.zeros((d,), jnp.float32))
        self.position_space = truncated_normal(rngs, (math.prod(config.patch_grid), d), STD)
        self.position_time = truncated_normal(rngs, (g.n_video_steps, d), STD)
        blocks: list[HieraBlock] = []
        heads, window, depth = config.hiera_heads, math.prod(config.hiera_mask_unit), sum(config.hiera_stages)
        for stage, n_blocks in enumerate(config.hiera_stages):
            for i in range(n_blocks):
                widens = stage > 0 and i == 0
                pool = math.prod(config.hiera_q_stride) if widens else 1
                d_out = 2 * d if widens else d
                heads = 2 * heads if widens else heads
                drop = config.drop_path * len(blocks) / max(1, depth - 1)
                block = HieraBlock(config, d, d_out, heads=heads, window=window, pool=pool, drop=drop, rngs=rngs)
                blocks.append(block)
                d, window = d_out, window // pool
        self.blocks = nnx.List(blocks)
        self.pool = config.hiera_q_stride[1:] if len(config.hiera_stages) > 1 else (1, 1)
        self.unit = config.hiera_mask_unit[1:]
        self.features = Linear(d, config.d_model, bias=True, rngs=rngs)
        self.config = config

    def __call__(
        self,
        video: Float[Array, "B F H W"],
        steps: tuple[int, int],
        dropout_keys: Shaped[Array, " B"] | None = None,
    ) -> Float[Array, "B L D"]:
        """Features of time steps [steps[0], steps[1]), step by step, row by row. `video` is normalised already."""
        alone = self.config.hiera_order == "spatial"
        first, last = steps if alone else (0, self.config.grid.n_video_steps)
        x = self._patches(video, first, last)
        x = self._arrange(x, last - first)
        step = HieraBlock.__call__ if self.config.remat == "none" else recomputed(HieraBlock.__call__)
        for i, block in enumerate(self.blocks):
            x = step(block, x, None if dropout_keys is None else _folded(dropout_keys, i))
        x = self._rearrange(x, last - first)
        per_step = self.config.features_per_step
        return self.features(x[:, (steps[0] - first) * per_step : (steps[1] - first) * per_step])

    def _patches(self, video: Float[Array, "B F H W"], first: int, last: int) -> Float[Array, "B L C"]:
        """The 3-d convolution of steps [first, last) plus positions, ordered (time, row, column).

        Frames under the kernel become input channels of a 2-d convolution, which every backend has a fast form of.
        """
        config, g = self.config, self.config.grid
        pad = g.video_padding
        padded = jnp.pad(video, ((0, 0), (pad, pad), (0, 0), (0, 0)))
        reach = g.video_stride * (last - first - 1) + 1
        start = g.video_stride * first
        frames = [padded[:, start + k : start + k + reach : g.video_stride] for k in range(g.video_kernel)]
        x = jnp.stack(frames, axis=-1)  # (B, steps, H, W, kernel)
        b, n = x.shape[:2]
        rows, columns = config.hiera_padding
        y = jax.lax.conv_general_dilated(
            x.reshape(b * n, *x.shape[2:]),
            jnp.moveaxis(self.patch_kernel[...].astype(x.dtype), 0, 2),
            window_strides=config.hiera_stride,
            padding=((rows, rows), (columns, columns)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = (y + self.patch_bias[...].astype(y.dtype)[None, None, None]).reshape(b, n, -1, y.shape[-1])
        where = self.position_space[...][None] + self.position_time[...][first:last, None]
        return (y + where.astype(y.dtype)[None]).reshape(b, -1, y.shape[-1])

    def _arrange(self, x: Float[Array, "B L C"], steps: int) -> Float[Array, "B L C"]:
        """(time, row, column) to the order of tokens that the blocks work in."""
        (rows, columns), (pr, pc), (ur, uc) = self.config.patch_grid, self.pool, self.unit
        b, _, c = x.shape
        if self.config.hiera_order == "reference":
            cells = x.reshape(b, steps, rows // pr, pr, columns // pc, pc, c)
            return cells.transpose(0, 3, 5, 1, 2, 4, 6).reshape(x.shape)
        cells = x.reshape(b, steps, rows // ur, ur // pr, pr, columns // uc, uc // pc, pc, c)
        return cells.transpose(0, 1, 2, 5, 3, 6, 4, 7, 8).reshape(x.shape)

    def _rearrange(self, x: Float[Array, "B L C"], steps: int) -> Float[Array, "B L C"]:
        """Features back to (time, row, column). The reference's order already is that, once the slabs are pooled."""
        if self.config.hiera_order == "reference":
            return x
        (rows, columns), (pr, pc), (ur, uc) = self.config.feature_grid, self.pool, self.unit
        cells = x.reshape(x.shape[0], steps, rows // (ur // pr), columns // (uc // pc), ur // pr, uc // pc, x.shape[2])
        return cells.transpose(0, 1, 2, 4, 3, 5, 6).reshape(x.shape)


def drop_path(x: Float[Array, "B L C"], rate: float, keys: Shaped[Array, " B"] | None) -> Float[Array, "B L C"]:
    """Stochastic depth: drops a row's update with probability `rate`, scaling the others up. Without keys, nothing.

    Each row has a key of its own, so what is dropped does not depend on the rows that happen to be computed with it.
    """
    if keys is None or rate == 0.0:
        return x
    keep_B = jax.vmap(lambda key: jax.random.bernoulli(key, 1.0 - rate))(keys)
    return jnp.where(keep_B[:, None, None], x / (1.0 - rate), jnp.zeros((), x.dtype))


def _folded(keys: Shaped[Array, " B"], number: int) -> Shaped[Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def normalize_screen(video: Shaped[Array, "B F H W"], mean: float, std: float) -> Float[Array, "B F H W"]:
    """Grey levels to model units."""
    return (video.astype(jnp.float32) - mean) / std
