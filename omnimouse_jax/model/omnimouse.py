"""The whole model: identity, tokens of three modalities, Perceiver, readouts (arXiv 2604.18827; spec: model, 5)."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float64, Int, Shaped

from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.identity import Identity, Rows, Tables
from omnimouse_jax.model.layers import Linear, inverse_sqrt, softplus, truncated_normal
from omnimouse_jax.model.perceiver import Block, Tokens, Tower, cross, join
from omnimouse_jax.model.video import Hiera, normalize_screen
from omnimouse_jax.tokens.batch import Batch
from omnimouse_jax.tokens.layout import Layout, Rectangle

NO_NEURON, NO_FRAME, NO_BEHAVIOR = range(3)  # rows of the missing-modality vectors


class Predictions(NamedTuple):
    """Responses per target rectangle of the layout, in units of the scaled responses; behaviour in z-scores.

    Responses are >= 0 under a Poisson loss and of either sign under a Gaussian one.
    """

    responses: tuple[Float[Array, "B samples neurons"], ...]
    behavior: Float[Array, "B C T"] | None


class Core(nnx.Module):
    """Everything that all mice share. Works on gathered rows, so that a step can differentiate those apart."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        d, g = config.d_model, config.grid
        std = inverse_sqrt(d)
        self.identity = Identity(config, rngs=rngs)
        self.missing = truncated_normal(rngs, (3, d), std)
        self.latent = truncated_normal(rngs, (config.latents_per_window, d), std)
        self.latent_global = truncated_normal(rngs, (config.global_latents, d), std)
        self.response_in = Linear(g.response_width, d, bias=True, std=0.02, rngs=rngs)
        self.response_gain = Linear(d, d, rngs=rngs) if config.neuron_weights else None
        self.behavior_in = Linear(g.behavior_samples, d, bias=True, rngs=rngs)
        self.video = Hiera(config, rngs=rngs)
        self.encoder = Block(config, cross=True, multiplier=config.ffn_multiplier, rngs=rngs)
        self.tower = Tower(config, rngs=rngs)
        self.decoder = Block(config, cross=True, multiplier=config.decoder_ffn_multiplier, rngs=rngs)
        self.response_out = Linear(d, g.response_stride, rngs=rngs)
        weighed = g.response_stride * config.d_embedding
        self.neuron_out = Linear(d, weighed, std=0.02, rngs=rngs) if config.neuron_weights else None
        readouts = config.n_channels if config.per_channel_behavior_readout else 1
        self.behavior_out = truncated_normal(rngs, (readouts, g.behavior_samples, d), std)
        self.config = config

    def __call__(
        self, rows: Rows, batch: Batch, layout: Layout, *, dropout_keys: Shaped[Array, " B"] | None = None
    ) -> Predictions:
        """Predicts what `layout` asks for. `dropout_keys` turn stochastic depth on: one per row while training."""
        meta, neurons, channels = self.identify(rows, batch)
        latents = self.encode(meta, neurons, channels, batch, layout)
        hidden = self.process(latents, self.watch(meta, batch, layout, dropout_keys))
        return self.decode(hidden, neurons, channels, rows, layout)

    def identify(
        self, rows: Rows, batch: Batch
    ) -> tuple[Float[Array, "B D"], Float[Array, "B N D"], Float[Array, "B C D"]]:
        """Vectors of who is recorded: meta, every neuron slot, every channel. From here on in the compute dtype."""
        dtype = jnp.dtype(self.config.compute_dtype)
        meta = self.identity.meta(rows, jnp.asarray(batch.experiment_second))
        neurons, channels = self.identity.neurons(rows, meta), self.identity.channels(meta)
        return meta.astype(dtype), neurons.astype(dtype), channels.astype(dtype)

    def process(self, latents: Tokens, features: Tokens | None) -> Tokens:
        """The tower over latents, then video features."""
        tokens = join(latents, features)
        return latents if tokens is None else self.tower(tokens)

    def encode(
        self,
        meta: Float[Array, "B D"],
        neurons: Float[Array, "B N D"],
        channels: Float[Array, "B C D"],
        batch: Batch,
        layout: Layout,
    ) -> Tokens:
        """Latents after they have looked at responses and behaviour; untouched in rows that show neither."""
        responses = self.response_tokens(neurons, batch, layout)
        behavior = self.behavior_tokens(channels, batch, layout)
        latents = self.latents(meta, responses, behavior, batch, layout)
        context = join(responses, behavior)
        if context is None:
            return latents
        encoded = cross(self.encoder, latents, context, self.config)
        assert context.mask is not None
        anything_B = jnp.any(context.mask, axis=1)
        return encoded.replace(jnp.where(anything_B[:, None, None], encoded.vectors, latents.vectors))

    def response_tokens(self, neurons: Float[Array, "B N D"], batch: Batch, layout: Layout) -> Tokens | None:
        """A 1-d convolution over each visible neuron's samples, plus its neuron's vector. Missing samples count as 0.

        A token is visible if its slot holds a neuron, at least half of its samples were recorded, and the row's regime
        shows it (`layout` is its program's, which may show more).
        """
        parts = [self._rectangle(r, neurons, batch) for r in layout.context]
        if not parts:
            return None
        intervals = layout.response_tokens()
        vectors = jnp.concatenate([v for v, _ in parts], axis=1)
        visible = jnp.concatenate([m for _, m in parts], axis=1) & jnp.asarray(batch.context_shown)[:, : len(intervals)]
        return Tokens(vectors, intervals, self._seconds(intervals[:, 0]), visible)

    def _rectangle(
        self, r: Rectangle, neurons: Float[Array, "B N D"], batch: Batch
    ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
        g = self.config.grid
        slots, samples = slice(r.first_neuron, r.last_neuron), slice(r.first_sample, r.last_sample)
        steps = g.response_steps(r.n_samples)
        valid = jnp.asarray(batch.response_mask)[:, samples, slots]
        values = jnp.where(valid, jnp.asarray(batch.responses)[:, samples, slots], 0.0).astype(neurons.dtype)
        width, stride = g.response_width, g.response_stride

        def under_kernel(x: Shaped[Array, "B s n"]) -> Shaped[Array, "B t w n"]:
            return jnp.stack([x[:, stride * t : stride * t + width] for t in range(steps)], axis=1)

        assert self.response_in.bias is not None
        kernel, bias = self.response_in.kernel[...], self.response_in.bias[...]
        x = jnp.einsum("btwn,wd->btnd", under_kernel(values), kernel.astype(values.dtype))
        if self.response_gain is not None:
            x = x * (1.0 + self.response_gain(neurons[:, slots]))[:, None]
        x = x + (neurons[:, slots] + bias.astype(neurons.dtype)[None, None])[:, None]
        n_valid = jnp.sum(under_kernel(valid), axis=2)
        visible = (2 * n_valid >= width) & jnp.asarray(batch.neuron_mask)[:, None, slots]
        b = x.shape[0]
        return x.reshape(b, -1, x.shape[-1]), visible.reshape(b, -1)

    def behavior_tokens(self, channels: Float[Array, "B C D"], batch: Batch, layout: Layout) -> Tokens | None:
        """Tokens of every channel: one that lasts the whole window, or one per `grid.behavior_width` samples.

        A token is visible if half of its samples are there and the row's regime shows it.
        """
        if layout.behavior != "input":
            return None
        valid = jnp.asarray(batch.behavior_mask)
        values = jnp.where(valid, jnp.asarray(batch.behavior), 0.0).astype(channels.dtype)
        width, b = self.config.grid.behavior_samples, values.shape[0]

        def steps(x: Shaped[Array, "B C T"]) -> Shaped[Array, "B steps C w"]:
            return x.reshape(b, x.shape[1], -1, width).swapaxes(1, 2)

        visible = 2 * jnp.sum(steps(valid), axis=-1) >= width
        vectors = self.behavior_in(steps(values)) + channels[:, None]
        intervals = layout.behavior_tokens(self.config.n_channels)
        shown = jnp.asarray(batch.context_shown)[:, -len(intervals) :]
        return Tokens(
            vectors.reshape(b, -1, vectors.shape[-1]),
            intervals,
            self._seconds(intervals[:, 0]),
            visible.reshape(b, -1) & shown,
        )

    def latents(
        self, meta: Float[Array, "B D"], responses: Tokens | None, behavior: Tokens | None, batch: Batch, layout: Layout
    ) -> Tokens:
        """Learned vectors: the same in every present window, then global ones; plus meta and what the row lacks."""
        config, g = self.config, self.config.grid
        n_windows = len(layout.latent_windows)
        vectors = jnp.concatenate([*([self.latent[...]] * n_windows), self.latent_global[...]])
        b = meta.shape[0]
        frames = None if layout.video_steps[0] >= layout.video_steps[1] else jnp.asarray(batch.video_mask)[:, None]
        masks = (None if responses is None else responses.mask, frames, None if behavior is None else behavior.mask)
        absent = [jnp.ones(b) if m is None else 1.0 - jnp.any(m, axis=1).astype(jnp.float32) for m in masks]
        of_row = jnp.dot(jnp.stack(absent, axis=1), self.missing[...]).astype(meta.dtype)
        if config.meta_to_latents:
            of_row = of_row + meta
        # The reference makes the times of latents, and only those, in float32; rotary angles are sensitive to that.
        spacing = np.float32(g.latent_stride / g.response_rate)
        starts = (np.array(layout.latent_windows, np.float32) * spacing).astype(np.float64)
        seconds = np.append(np.repeat(starts, config.latents_per_window), np.zeros(config.global_latents))
        intervals = layout.latents(config.latents_per_window, config.global_latents)
        return Tokens(vectors.astype(meta.dtype)[None] + of_row[:, None], intervals, seconds)

    def watch(
        self,
        meta: Float[Array, "B D"],
        batch: Batch,
        layout: Layout,
        dropout_keys: Shaped[Array, " B"] | None = None,
    ) -> Tokens | None:
        """Video features of the visible steps; hidden in rows without a screen."""
        if layout.video_steps[0] >= layout.video_steps[1]:
            return None
        config = self.config
        there = jnp.asarray(batch.video_mask)
        frames = normalize_screen(jnp.asarray(batch.video), config.screen_mean, config.screen_std)
        frames = jnp.where(there[:, None, None, None], frames, 0.0).astype(meta.dtype)
        vectors = self.video(frames, layout.video_steps, dropout_keys)
        if config.meta_to_video:
            vectors = vectors + meta[:, None]
        intervals = layout.video(config.features_per_step)
        return Tokens(
            vectors, intervals, self._seconds(intervals[:, 0]), jnp.broadcast_to(there[:, None], vectors.shape[:2])
        )

    def decode(
        self,
        hidden: Tokens,
        neurons: Float[Array, "B N D"],
        channels: Float[Array, "B C D"],
        rows: Rows,
        layout: Layout,
    ) -> Predictions:
        """Queries of target neurons and channels look at the tower's output; readouts make predictions of them."""
        queries = join(self.response_queries(neurons, layout), self.behavior_queries(channels, layout))
        if queries is None:
            return Predictions((), None)
        answers = cross(self.decoder, queries, hidden, self.config).vectors
        responses, at = [], 0
        for r in layout.targets:
            n = r.n_samples // self.config.grid.response_stride * r.n_neurons
            responses.append(self._read_responses(answers[:, at : at + n], rows, r))
            at += n
        if layout.behavior != "target":
            return Predictions(tuple(responses), None)
        readout = self.behavior_out[...].astype(answers.dtype)
        readout = jnp.broadcast_to(readout, (channels.shape[1], *readout.shape[1:]))
        b, n_channels, d = channels.shape
        answers = answers[:, at:].reshape(b, -1, n_channels, d)
        behavior = jnp.einsum("bscd,cwd->bcsw", answers, readout, preferred_element_type=jnp.float32)
        return Predictions(tuple(responses), behavior.reshape(b, n_channels, -1))

    def response_queries(self, neurons: Float[Array, "B N D"], layout: Layout) -> Tokens | None:
        """A target neuron's vector, once per step of samples that it is asked for."""
        b, _, d = neurons.shape
        parts = []
        for r in layout.targets:
            steps = r.n_samples // self.config.grid.response_stride
            vectors = neurons[:, None, r.first_neuron : r.last_neuron]
            parts.append(jnp.broadcast_to(vectors, (b, steps, r.n_neurons, d)).reshape(b, -1, d))
        if not parts:
            return None
        return Tokens(jnp.concatenate(parts, axis=1), layout.queries(), self._seconds(layout.query_starts()))

    def behavior_queries(self, channels: Float[Array, "B C D"], layout: Layout) -> Tokens | None:
        """A channel's vector, once per step of samples that it is asked for."""
        if layout.behavior != "target":
            return None
        intervals = layout.behavior_tokens(self.config.n_channels)
        vectors = jnp.tile(channels, (1, self.config.grid.n_behavior_steps, 1))
        return Tokens(vectors, intervals, self._seconds(intervals[:, 0]))

    def _seconds(self, ticks: Int[np.ndarray, " L"]) -> Float64[np.ndarray, " L"]:
        return ticks / self.config.grid.ticks_per_second

    def _read_responses(self, answers: Float[Array, "B L D"], rows: Rows, r: Rectangle) -> Float[Array, "B s n"]:
        values = self.response_out(answers).astype(jnp.float32)
        b, stride = values.shape[0], values.shape[-1]
        values = values.reshape(b, -1, r.n_neurons, stride)
        if self.neuron_out is not None:
            weights = self.neuron_out(answers).astype(jnp.float32)
            weights = weights.reshape(b, -1, r.n_neurons, stride, self.config.d_embedding)
            embedding = rows.neuron_embedding[:, r.first_neuron : r.last_neuron]
            values = values + jnp.einsum("bqnse,bne->bqns", weights, embedding)
        values = values + rows.neuron_bias[:, None, r.first_neuron : r.last_neuron, None]
        if self.config.response_loss == "poisson":
            values = softplus(values, self.config.softplus_beta)
        return values.swapaxes(2, 3).reshape(b, -1, r.n_neurons)


class OmniMouse(nnx.Module):
    """Core and tables together. `n_neurons`, `n_sessions`, `n_animals` are rows of the tables."""

    def __init__(self, config: ModelConfig, *, n_neurons: int, n_sessions: int, n_animals: int, rngs: nnx.Rngs):
        self.core = Core(config, rngs=rngs)
        self.tables = Tables(config, n_neurons, n_sessions, n_animals, rngs=rngs)

    def __call__(self, batch: Batch, layout: Layout, *, dropout_keys: Shaped[Array, " B"] | None = None) -> Predictions:
        """Predicts what `layout` asks for of every row of `batch`."""
        return self.core(self.tables.gather(batch), batch, layout, dropout_keys=dropout_keys)
