"""A picture of one window: what was recorded, and beside it what a regime shows of it and asks for (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens.collate import neuron_slots
from omnimouse_jax.tokens.expression import Regime, expression
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.resolve import resolve
from omnimouse_jax.tokens.windows import Sample

HIDDEN, SHOWN, ASKED = 0, 1, 2
#: Blue for what is shown, orange for what is asked for, pale grey for what is neither: told apart without colour vision.
COLOR = {HIDDEN: (0.86, 0.86, 0.86), SHOWN: (0.10, 0.29, 0.51), ASKED: (0.85, 0.42, 0.05)}
LABEL = {HIDDEN: "hidden", SHOWN: "shown", ASKED: "asked for"}
#: Frames drawn side by side.
STRIP = 6
SUFFIXES = (".png", ".svg", ".pdf")


def draw(sample: Sample, grid: Grid, channels: tuple[str, ...], regime: Regime, n_slots: int, path: Path) -> None:
    """Writes the picture to `path` (.png, .svg or .pdf). `n_slots` is what the regime's counts of neurons refer to.

    UserError if matplotlib is not installed or if nothing can be written there.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"file {path}: suffix {path.suffix!r}", way_out=f"give one of {', '.join(SUFFIXES)}")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError:
        raise UserError(
            "show: matplotlib is not installed", way_out="python -m pip install 'omnimouse-jax[plot]'"
        ) from None
    layout = resolve(regime, grid, n_slots)
    behavior = {"input": SHOWN, "target": ASKED, "hidden": HIDDEN}[layout.behavior]
    views = [
        ("recorded", np.full(sample.responses.shape, SHOWN), np.full(grid.n_frames, SHOWN), SHOWN),
        (
            f"regime {regime.name}" if regime.name else "the regime",
            response_states(layout, sample),
            frame_states(regime, grid),
            behavior,
        ),
    ]
    known = [c for c in range(len(channels)) if np.isfinite(sample.behavior[c]).any()]
    figure = Figure(figsize=(11, 5.2 + 0.35 * len(known)), layout="constrained")
    FigureCanvasAgg(figure)
    told = f"session {sample.window.session}, {grid.seconds:g} s from {sample.window.start:.2f} s"
    figure.suptitle(f"{told}\n{expression(regime, grid)}", fontsize=10)
    axes = figure.subplots(3, 2, gridspec_kw={"height_ratios": [1.1, 4, 0.4 + 0.45 * max(1, len(known))]})
    order = np.argsort(views[1][1].max(axis=0) * 2 + (views[1][1] == SHOWN).any(axis=0), kind="stable")
    for column, (title, responses, frames, state) in enumerate(views):
        video, raster, traces = axes[:, column]
        video.set_title(title, fontsize=10, loc="left")
        _video(video, sample, frames, grid)
        _raster(raster, sample.responses, responses, order, grid)
        names = [channels[c] if column == 0 else "" for c in known]
        _traces(traces, sample.behavior[known], names, state, grid)
        if column == 0:
            raster.set_ylabel(f"{len(sample.neurons)} neurons")
    handles = [Patch(color=COLOR[state], label=LABEL[state]) for state in (SHOWN, ASKED, HIDDEN)]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False, fontsize=9)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise UserError(f"file {path}: cannot be written ({error.strerror})", way_out="name another file") from None


def response_states(layout: Layout, sample: Sample) -> Int[np.ndarray, "S n"]:
    """What the regime does with every sample of every neuron: HIDDEN, SHOWN or ASKED."""
    states = np.full(sample.responses.shape, HIDDEN)
    slots = neuron_slots(len(sample.neurons), layout.n_visible, layout.n_neurons)
    for rectangles, state in ((layout.context, SHOWN), (layout.targets, ASKED)):
        for r in rectangles:
            inside = (slots >= r.first_neuron) & (slots < r.last_neuron)
            states[r.first_sample : r.last_sample, inside] = state
    return states


def frame_states(regime: Regime, grid: Grid) -> Int[np.ndarray, " F"]:
    """Which frames the regime shows."""
    first = regime.n_visible_frames_start_idx or 0
    last = grid.n_frames if regime.n_visible_frames is None else first + regime.n_visible_frames
    frame = np.arange(grid.n_frames)
    return np.where((frame >= first) & (frame < last), SHOWN, HIDDEN)


def _video(axis: Any, sample: Sample, states: Int[np.ndarray, " F"], grid: Grid) -> None:
    axis.set_axis_off()
    axis.set_xlim(0, grid.seconds)
    axis.set_ylim(0, 1)
    if sample.video is None:
        axis.text(0, 0.5, "no screen", va="center", fontsize=9)
        return
    for k in range(STRIP):
        number = k * grid.n_frames // STRIP
        left = k * grid.seconds / STRIP
        extent = (left + 0.01, left + grid.seconds / STRIP - 0.01, 0, 1)
        frame = np.asarray(sample.video[number], np.float64)
        if states[number] == SHOWN:
            axis.imshow(frame, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")
        else:
            axis.fill_between(extent[:2], 0, 1, color=COLOR[HIDDEN])


def _raster(
    axis: Any, responses: Float[np.ndarray, "S n"], states: Int[np.ndarray, "S n"], order: np.ndarray, grid: Grid
) -> None:
    """Darkness is activity (of each neuron's scale), colour is the state; not recorded is white."""
    top = float(np.nanpercentile(responses, 99)) if np.isfinite(responses).any() else 1.0
    strength = np.clip(np.nan_to_num(responses[:, order].T) / max(top, 1e-9), 0, 1)[..., None]
    state = states[:, order].T
    color = np.array([COLOR[s] for s in (HIDDEN, SHOWN, ASKED)])[state]
    pale = np.where(state[..., None] == HIDDEN, color, 1 - 0.12 * (1 - color))
    image = np.where(state[..., None] == HIDDEN, color, pale * (1 - strength) + color * strength)
    image[np.isnan(responses[:, order].T)] = 1.0
    axis.imshow(image, extent=(0, grid.seconds, len(order), 0), aspect="auto", interpolation="nearest")
    axis.set_yticks([])
    axis.set_xticks(np.linspace(0, grid.seconds, 5))
    axis.tick_params(labelbottom=False, labelsize=8)


def _traces(axis: Any, behavior: Float[np.ndarray, "C T"], names: list[str], state: int, grid: Grid) -> None:
    times = np.arange(grid.n_behavior) / grid.behavior_rate
    for row, trace in enumerate(behavior - np.nanmean(behavior, axis=1, keepdims=True)):
        size = max(float(np.nanmax(np.abs(trace))), 1e-9)
        axis.plot(times, -row + 0.42 * trace / size, color=COLOR[state], lw=1.3)
    axis.set_xlim(0, grid.seconds)
    axis.set_ylim(-max(1, len(names)) + 0.4, 0.6)
    axis.set_yticks([-row for row in range(len(names))], names, fontsize=8)
    axis.set_xticks(np.linspace(0, grid.seconds, 5))
    axis.set_xlabel("seconds", fontsize=9)
    axis.tick_params(labelsize=8)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
