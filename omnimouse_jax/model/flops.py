"""What a window costs: floating-point operations of a model's matrix products, from shapes alone. No device is touched.

A multiply-add counts as two. Attention counts the (query, key) pairs that the window rule lets in, which is all that an ideal
implementation computes; norms, softmax, rotary positions and other element-wise work (a few percent) do not count. Compilers
are not asked: they count one pass of a loop, and whatever an implementation computes in vain.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.tokens.layout import Intervals, Layout, Rectangle, visible_pairs

#: Cost of a training step in forward passes: for each product, the backward pass makes two.
TRAINING = 3


class Groups(NamedTuple):
    """Tokens of equal interval, counted together."""

    intervals: Intervals
    counts: Int[np.ndarray, " groups"]

    @property
    def total(self) -> int:
        return int(self.counts.sum())

    def __or__(self, other: Groups) -> Groups:
        """Both sets of tokens."""
        return Groups(np.concatenate([self.intervals, other.intervals]), np.concatenate([self.counts, other.counts]))

    def pairs(self, keys: Groups, touching: str) -> int:
        """(query, key) pairs that the window rule lets in."""
        return int(self.counts @ visible_pairs(self.intervals, keys.intervals, touching).astype(np.int64) @ keys.counts)


def forward_flops(config: ModelConfig, layout: Layout) -> dict[str, float]:
    """Operations of one window's forward pass, by part of the model."""
    context, queries = context_groups(config, layout), query_groups(config, layout)
    per_window = [config.latents_per_window] * len(layout.latent_windows)
    latents = _groups(layout.latents(1, 1), [*per_window, config.global_latents])
    features = layout.video(1)
    tower = latents | _groups(features, [config.features_per_step] * len(features))
    products = {
        "identity": _identity(config, layout),
        "inputs": _inputs(config, layout),
        "encoder": _cross(config, latents, context, config.ffn_multiplier) if context.total else 0,
        "video": _video(config, layout),
        "tower": _tower(config, tower),
        "decoder": _cross(config, queries, tower, config.decoder_ffn_multiplier) if queries.total else 0,
        "readouts": _readouts(config, layout),
    }
    return {part: 2.0 * count for part, count in products.items()}


def total_flops(config: ModelConfig, layout: Layout) -> float:
    """Operations of one window's forward pass."""
    return sum(forward_flops(config, layout).values())


def train_flops(config: ModelConfig, layout: Layout) -> float:
    """Operations of one window in a training step: three forward passes. Nothing is counted for the optimiser."""
    return TRAINING * total_flops(config, layout)


def context_groups(config: ModelConfig, layout: Layout) -> Groups:
    """What the encoder reads: response and behaviour tokens."""
    thin = dataclasses.replace(layout, context=_one_neuron(layout.context))
    counts = [r.n_neurons for r in layout.context for _ in range(layout.grid.response_steps(r.n_samples))]
    return _groups(thin.response_tokens(), counts) | _behavior(config, layout, "input")


def query_groups(config: ModelConfig, layout: Layout) -> Groups:
    """What is asked for: response and behaviour queries."""
    thin = dataclasses.replace(layout, targets=_one_neuron(layout.targets))
    counts = [r.n_neurons for r in layout.targets for _ in range(r.n_samples // layout.grid.response_stride)]
    return _groups(thin.queries(), counts) | _behavior(config, layout, "target")


def _one_neuron(rectangles: tuple[Rectangle, ...]) -> tuple[Rectangle, ...]:
    return tuple(dataclasses.replace(r, first_neuron=0, last_neuron=1) for r in rectangles)


def _groups(intervals: Intervals, counts: list[int]) -> Groups:
    return Groups(intervals, np.array(counts, np.int64))


def _behavior(config: ModelConfig, layout: Layout, role: str) -> Groups:
    intervals = layout.behavior_tokens(config.n_channels if layout.behavior == role else 0)
    return _groups(intervals, [1] * len(intervals))


def _identity(config: ModelConfig, layout: Layout) -> int:
    """Maps of neurons, session, animal and time to the model's width, and what stands for missing modalities."""
    vectors = layout.n_neurons + 1 + config.animal_embeddings + config.experiment_time
    return config.d_embedding * config.d_model * vectors + 3 * config.d_model


def _inputs(config: ModelConfig, layout: Layout) -> int:
    d, g = config.d_model, config.grid
    count = sum(d * g.response_width * g.response_steps(r.n_samples) * r.n_neurons for r in layout.context)
    if config.neuron_weights:
        count += sum(d * d * r.n_neurons for r in layout.context)
    return count + (d * config.n_channels * g.n_behavior if layout.behavior == "input" else 0)


def _cross(config: ModelConfig, queries: Groups, keys: Groups, multiplier: float) -> int:
    """A block in which queries look at keys: maps of queries, keys, values and the result; scores and sums; feed-forward."""
    d = config.d_model
    attention = d * d * (2 * queries.total + 2 * keys.total) + 2 * d * queries.pairs(keys, config.touching)
    return attention + queries.total * _feed_forward(config, d, multiplier)


def _tower(config: ModelConfig, tokens: Groups) -> int:
    d = config.d_model
    maps = d * (2 * d + 2 * config.kv_heads * config.d_head) + _feed_forward(config, d, config.ffn_multiplier)
    local, everything = tokens.pairs(tokens, config.touching), tokens.total**2
    return sum(tokens.total * maps + 2 * d * (local if is_local else everything) for is_local in config.layer_is_local)


def _feed_forward(config: ModelConfig, d: int, multiplier: float) -> int:
    return 3 * d * config.ffn_width(d, multiplier)


def _video(config: ModelConfig, layout: Layout) -> int:
    """Steps do not mix in `spatial` order, so hidden ones cost nothing; in `reference` order all are computed."""
    visible = layout.video_steps[1] - layout.video_steps[0]
    if visible <= 0:
        return 0
    steps = visible if config.hiera_order == "spatial" else config.grid.n_video_steps
    d, window = config.hiera_dim, math.prod(config.hiera_mask_unit)
    tokens = steps * math.prod(config.patch_grid)
    count = tokens * d * config.grid.video_kernel * math.prod(config.hiera_kernel)
    for stage, n_blocks in enumerate(config.hiera_stages):
        for i in range(n_blocks):
            widens = stage > 0 and i == 0
            pool, d_out = (math.prod(config.hiera_q_stride), 2 * d) if widens else (1, d)
            count += tokens * d * (3 * d_out + (d_out if widens else 0))
            tokens //= pool
            count += tokens * (
                2 * d_out * window + d_out * d_out + _feed_forward(config, d_out, config.hiera_mlp_ratio)
            )
            d, window = d_out, window // pool
    return count + visible * config.features_per_step * d * config.d_model


def _readouts(config: ModelConfig, layout: Layout) -> int:
    d, g = config.d_model, config.grid
    values = sum(r.n_neurons * (r.n_samples // g.response_stride) * g.response_stride for r in layout.targets)
    each = d + (d + 1) * config.d_embedding if config.neuron_weights else d
    return values * each + (d * config.n_channels * g.n_behavior if layout.behavior == "target" else 0)
