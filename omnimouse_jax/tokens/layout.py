"""Which tokens a regime makes of a window, in which order, and when each of them is: known before anything is traced.

A `Layout` is hashable, so it is a static argument of a compiled program. Order of tokens (spec: model, sections 3-4):
response tokens rectangle by rectangle, time-step major, neuron minor; then one token per behaviour channel; latents
window by window, then global; then video features step by step; response queries rectangle by rectangle, step major,
neuron minor; then one query per behaviour channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from omnimouse_jax.tokens.grid import Grid

Intervals = Int[np.ndarray, "_ 2"]  # one row per token, [start, end) in ticks


@dataclass(frozen=True)
class Rectangle:
    """Neuron slots [first_neuron, last_neuron) x samples [first_sample, last_sample). May be empty."""

    first_neuron: int
    last_neuron: int
    first_sample: int
    last_sample: int

    @property
    def n_neurons(self) -> int:
        return max(0, self.last_neuron - self.first_neuron)

    @property
    def n_samples(self) -> int:
        return max(0, self.last_sample - self.first_sample)


@dataclass(frozen=True)
class Layout:
    """A regime resolved against a grid and a number of neuron slots.

    Only non-empty rectangles are listed: context rectangles give at least one token, target rectangles at least one
    query. `behavior` is "input", "target" or "hidden". `latent_windows` are indices of present windows; global latents
    are always present. `video_steps` = (first, last) feature steps, equal when no frame is visible.
    """

    grid: Grid
    n_neurons: int
    n_visible: int  # slots [0, n_visible) are visible
    context: tuple[Rectangle, ...]
    targets: tuple[Rectangle, ...]
    latent_windows: tuple[int, ...]
    video_steps: tuple[int, int]
    behavior: str

    def response_tokens(self) -> Intervals:
        """[start, end) in ticks of every response token."""
        g = self.grid
        parts = [
            _steps(r.first_sample, g.response_steps(r.n_samples), g.response_stride, g.response_width, r.n_neurons, g)
            for r in self.context
        ]
        return _concatenate(parts)

    def queries(self) -> Intervals:
        """[start, end) in ticks of every response query: from `query_lookback` samples before its first one up to a
        token's width after it.
        """
        g = self.grid
        parts = [
            _steps(
                r.first_sample - g.query_lookback,
                r.n_samples // g.response_stride,
                g.response_stride,
                g.response_width + g.query_lookback,
                r.n_neurons,
                g,
            )
            for r in self.targets
        ]
        return _concatenate(parts)

    def query_starts(self) -> Int[np.ndarray, " queries"]:
        """Tick of the first sample that each response query predicts (its rotary position)."""
        return self.queries()[:, 0] + self.grid.query_lookback * self.grid.ticks_per_sample

    def latents(self, per_window: int, n_global: int) -> Intervals:
        """[start, end) in ticks of every present latent."""
        g = self.grid
        parts = [_steps(w * g.latent_stride, 1, 1, g.latent_width, per_window, g) for w in self.latent_windows]
        whole = np.tile(np.array([[0, g.n_samples * g.ticks_per_sample]], np.int64), (n_global, 1))
        return _concatenate([*parts, whole])  # global ones last as long as the responses, as in the released model

    def video(self, per_step: int) -> Intervals:
        """[start, end) in ticks of every visible video feature, `per_step` of them a time step.

        A feature's time is that of the last frame of its receptive field, and it lasts a kernel's length.
        """
        g = self.grid
        frame = np.clip(np.arange(-g.video_padding, g.n_frames + g.video_padding), 0, g.n_frames - 1)
        start = frame[g.video_kernel - 1 :: g.video_stride][slice(*self.video_steps)] * g.ticks_per_frame
        both = np.stack([start, start + g.video_kernel * g.ticks_per_frame], axis=1)
        return np.repeat(both, per_step, axis=0)

    def behavior_tokens(self, n_channels: int) -> Intervals:
        """[start, end) in ticks of every behaviour token or query: step major, channel minor.

        Without `behavior_width` there is one step, as long as all samples of behaviour.
        """
        g = self.grid
        width = g.behavior_samples * (g.ticks_per_second // g.behavior_rate)
        start = np.repeat(width * np.arange(g.n_behavior_steps, dtype=np.int64), n_channels)
        return np.stack([start, start + width], axis=1)


def visible_pairs(queries: Intervals, keys: Intervals, touching: str = "out") -> Bool[np.ndarray, "queries keys"]:
    """The window rule: a query sees a key iff their half-open intervals overlap.

    With `touching="in"` intervals that only share an end point see each other too (released weights were trained
    through an accidental mixture of both).
    """
    q_start, q_end = queries[:, None, 0], queries[:, None, 1]
    k_start, k_end = keys[None, :, 0], keys[None, :, 1]
    if touching == "in":
        return ~((k_end < q_start) | (k_start > q_end))
    return ~((k_end <= q_start) | (k_start >= q_end))


def _steps(first_sample: int, n_steps: int, stride: int, width: int, repeat: int, grid: Grid) -> Intervals:
    start = (first_sample + stride * np.arange(n_steps, dtype=np.int64)) * grid.ticks_per_sample
    return np.repeat(np.stack([start, start + width * grid.ticks_per_sample], axis=1), repeat, axis=0)


def _concatenate(parts: list[Intervals]) -> Intervals:
    return np.concatenate([np.zeros((0, 2), np.int64), *parts])
