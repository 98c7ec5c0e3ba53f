"""What a regime means for a window: which tokens are made of it, on any grid and for any number of neurons."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from omnimouse_jax.tokens.expression import EXAMPLE, Count, Regime, expression
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout, Rectangle


def resolve(regime: Regime, grid: Grid, n_neurons: int) -> Layout:
    """Which tokens the regime makes of a window with `n_neurons` neurons (spec: model, section 3).

    Where a field is missing or reaches beyond the window, a last incomplete token or query is left out; fields that fit
    but leave samples over are an error. If `full_population_prefix_len` is set but no neuron is hidden, its samples are
    not shown (so does the released model).

    Raises UserError, naming the regime and the field, for targets before the grid's first answerable sample, stretches
    that do not make whole tokens, and regimes that ask for nothing.
    """
    r = dataclasses.replace(regime, name=regime.name or expression(regime, grid))
    n_visible = _count(r.n_visible_neurons, n_neurons, math.floor)
    context_start, context_end = _clip(r.response_context_start_idx, r.max_response_context_samples, 0, grid.n_samples)
    start, end = _clip(r.prefix_start_idx, r.prefix_len, context_start, context_end)
    if n_visible == 0:
        end = start
    full = 0 if r.n_visible_neurons is None else min(r.full_population_prefix_len or 0, end - start)
    first_frame, last_frame = _clip(r.n_visible_frames_start_idx, r.n_visible_frames, 0, grid.n_frames)
    full_end = start + full
    context: list[Rectangle] = []
    if full and 0 < n_visible < n_neurons:
        context.append(_shown(r, grid, Rectangle(0, n_neurons, start, full_end), "full_population_prefix_len", True))
    if full_end < end:
        exact = r.prefix_len is not None and start + r.prefix_len <= context_end
        context.append(_shown(r, grid, Rectangle(0, n_visible, full_end, end), "prefix_len", exact))
    targets = _targets(r, grid, n_neurons, n_visible, end if end > start else None, full_end if full else None)
    if not targets and not r.behavior_reconstructed:
        r.fail("asks for nothing", f"ask for responses or behavior, as in {EXAMPLE}")
    return Layout(
        grid=grid,
        n_neurons=n_neurons,
        n_visible=n_visible,
        context=tuple(context),
        targets=targets,
        latent_windows=tuple(
            w for w in range(grid.n_latent_windows) if context_start <= w * grid.latent_stride < context_end
        ),
        video_steps=_video_steps(r, grid, first_frame, last_frame),
        behavior="input" if r.behavior_encoded else "target" if r.behavior_reconstructed else "hidden",
    )


def _targets(
    r: Regime, grid: Grid, n_neurons: int, n_visible: int, shown_end: int | None, full_end: int | None
) -> tuple[Rectangle, ...]:
    """The last neurons, without what is shown of them and `interpolation_buffer` samples after it, which leak it."""
    n_asked = _count(r.max_n_reconstructed_neurons, n_neurons, math.ceil)
    if n_asked == 0 or r.suffix_len == 0:
        return ()
    start, end = _clip(r.suffix_start_idx, r.suffix_len, 0, grid.n_samples, missing=grid.skip_samples)
    if start < grid.skip_samples:
        r.fail(
            f"suffix_start_idx {start}: samples before {grid.skip_samples} cannot be asked for",
            f"start the responses on the right of the arrow at {grid.skip_samples} or later",
        )
    first = n_neurons - n_asked
    after_shown = 0 if shown_end is None else min(shown_end + grid.interpolation_buffer, grid.n_samples)
    after_full = 0 if full_end is None else min(full_end + grid.interpolation_buffer, grid.n_samples)
    begin = max(start, after_full)
    if first >= n_visible or start >= after_shown:
        found = [Rectangle(first, n_neurons, begin, end)]
    else:
        found = [
            Rectangle(n_visible, n_neurons, begin, min(after_shown, end)),
            Rectangle(first, n_neurons, after_shown, end),
        ]
    exact = r.suffix_len is not None and start + r.suffix_len <= grid.n_samples
    whole = [_asked(r, grid, rectangle, exact) for rectangle in found]
    targets = tuple(rectangle for rectangle in whole if rectangle.n_neurons and rectangle.n_samples)
    if not targets and all(rectangle.n_samples == 0 for rectangle in whole):
        r.fail(
            f"suffix_start_idx, suffix_len: no sample is left to ask for in {start}:{end}",
            f"ask for samples at least {grid.interpolation_buffer} after what all neurons show",
        )
    if not targets:
        r.fail(
            f"max_n_reconstructed_neurons: all {n_neurons} neurons of the block are visible, none is left to ask for",
            "show fewer: a share such as responses[:0.5] fits every recording",
        )
    return targets


def _shown(r: Regime, grid: Grid, rectangle: Rectangle, field: str, exact: bool) -> Rectangle:
    steps = grid.response_steps(rectangle.n_samples)
    used = (steps - 1) * grid.response_stride + grid.response_width if steps else 0
    if not steps or (exact and used != rectangle.n_samples):
        r.fail(
            f"{field}: samples {rectangle.first_sample}:{rectangle.last_sample} do not make whole response tokens",
            f"show {grid.response_width} samples, or any multiple of {grid.response_stride} more",
        )
    return dataclasses.replace(rectangle, last_sample=rectangle.first_sample + used)


def _asked(r: Regime, grid: Grid, rectangle: Rectangle, exact: bool) -> Rectangle:
    left = rectangle.n_samples % grid.response_stride
    if left and exact and rectangle.n_neurons:
        r.fail(
            f"suffix_len: samples {rectangle.first_sample}:{rectangle.last_sample} do not make whole queries",
            f"ask for a multiple of {grid.response_stride} samples",
        )
    return dataclasses.replace(rectangle, last_sample=rectangle.first_sample + rectangle.n_samples - left)


def _video_steps(r: Regime, grid: Grid, first: int, last: int) -> tuple[int, int]:
    """Feature steps of frames [first, last), by the released model's rule."""
    if last <= first:
        return (0, 0)
    if last - first == grid.n_frames:
        return (0, grid.n_video_steps)
    a, b = (
        min(max(0, 2 + (frame + grid.video_padding - grid.video_kernel) // grid.video_stride), grid.n_video_steps)
        for frame in (first, last)
    )
    if b <= a:
        r.fail(
            f"n_visible_frames: frames {first}:{last} give no video feature",
            "show more frames, or none",
        )
    return (a, b)


def _count(count: Count, n: int, rounding: Callable[[float], int]) -> int:
    if count is None:
        return n
    if isinstance(count, float):
        # The nudge undoes errors like 0.7 * 10 = 7.000000000000001.
        nudge = 1e-9 if rounding is math.floor else -1e-9
        count = max(1, int(rounding(count * n + nudge)))
    return min(count, n)


def _clip(start: int | None, length: int | None, low: int, high: int, missing: int | None = None) -> tuple[int, int]:
    """[start, end) within [low, high]; a missing start is `missing` (or low), a missing length reaches to high."""
    default = low if missing is None else missing
    first = min(max(low, default if start is None else start), high)
    return first, high if length is None else min(first + length, high)


def on_grid(regime: Regime, grid: Grid, written_for: Grid | None = None) -> Regime:
    """The regime with its samples and frames moved to another grid: the same shares of the window, in whole tokens.

    Written for the released grid unless said otherwise. Response stretches are rounded to the grid's response stride
    (visible ones to at least one token), the response context to windows of latents, frames to the video stride.
    """
    old = written_for or Grid()
    if old == grid:
        return regime

    def move(
        start: int | None, length: int | None, n_old: int, n_new: int, unit: int, least: int
    ) -> tuple[int | None, int | None]:
        """Start and length, each rounded to the unit; a stretch that was there keeps at least `least`."""
        if start is None and length is None:
            return None, None
        first = round((start or 0) * n_new / n_old / unit) * unit
        if length is None:
            return first, None
        last = round(((start or 0) + length) * n_new / n_old / unit) * unit
        if length and last - first < least:
            last = min(first + least, n_new)
            first = max(0, last - least)
        return (None if start is None and first == 0 else first), last - first

    r, samples = regime, (old.n_samples, grid.n_samples)
    prefix_start = r.response_context_start_idx if r.prefix_start_idx is None else r.prefix_start_idx
    start, length = move(prefix_start, r.prefix_len, *samples, grid.response_stride, grid.response_width)
    _, full = move(prefix_start, r.full_population_prefix_len, *samples, grid.response_stride, grid.response_width)
    if length is not None and full and 0 < length - full < grid.response_width:
        length = full + grid.response_width
    context_start, context = move(
        r.response_context_start_idx, r.max_response_context_samples, *samples, grid.latent_stride, grid.latent_stride
    )
    if context and r.n_visible_neurons != 0:  # rounding must not let the prefix leave its context
        context_start, end = min(context_start or 0, start or 0), (context_start or 0) + context
        context = max(end, (start or 0) + (length or 0)) - context_start
    suffix_start, suffix = move(r.suffix_start_idx, r.suffix_len, *samples, grid.response_stride, grid.response_stride)
    if suffix_start is not None and suffix and suffix_start < grid.skip_samples:
        suffix_start = math.ceil(grid.skip_samples / grid.response_stride) * grid.response_stride
    frame, frames = move(
        r.n_visible_frames_start_idx,
        r.n_visible_frames,
        old.n_frames,
        grid.n_frames,
        grid.video_stride,
        grid.video_kernel,
    )
    return dataclasses.replace(
        r,
        prefix_start_idx=start,
        prefix_len=length,
        full_population_prefix_len=full,
        response_context_start_idx=context_start,
        max_response_context_samples=context,
        suffix_start_idx=suffix_start,
        suffix_len=suffix,
        n_visible_frames_start_idx=frame,
        n_visible_frames=frames,
    )
