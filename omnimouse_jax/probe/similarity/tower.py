"""What a core holds of a moment, as a representation: the tower's output (`Core.process`) at the latents of time windows, or, under
a regime that has none, at the video features of time steps. Slots of a window and places of a step are kept apart.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.probe.predictor import WHITE, Predictor
from omnimouse_jax.probe.similarity.responses import Cut
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.parallel import make_mesh
from omnimouse_jax.training.step import core_of

#: Windows that are computed together.
TOGETHER = 16


def tower_values(run: Run, where: Cut, regime: str) -> Float[np.ndarray, "1 K D"]:
    """Mean over showings, windows and moments of the tokens whose middle lies in a condition. Windows lie end to end from the onset
    of each showing, and one more ends with it; global latents, which have no time, are left out. NaN where no token lies.
    """
    predictor = Predictor.of(run, where.session, regime)
    layout, model = predictor.layout, run.model
    starts = np.array(_starts(where, layout.grid.seconds))
    n_windows = len(layout.latent_windows)
    together, intervals = model.features_per_step, layout.video(model.features_per_step)
    first = n_windows * model.latents_per_window + model.global_latents
    if n_windows:
        together, intervals, first = model.latents_per_window, layout.latents(model.latents_per_window, 0), 0
    middle = intervals[::together].mean(1) / layout.grid.ticks_per_second
    if not len(starts):
        return np.full((1, len(where.conditions), together * model.d_model), np.nan)

    @jax.jit
    def program(params: Any, video: Any, context: Any) -> Array:
        core = core_of(params, predictor._config, make_mesh(1))
        batch = context.batch._replace(video=video * WHITE)
        meta, neurons, channels = core.identify(context.rows, batch)
        latents = core.encode(meta, neurons, channels, batch, layout)
        hidden = core.process(latents, core.watch(meta, batch, layout))
        return hidden.vectors[:, first : first + len(intervals)]

    padded = np.concatenate([starts, np.repeat(starts[-1:], -len(starts) % TOGETHER)])
    values = []
    for lo in range(0, len(padded), TOGETHER):
        shown = predictor.load([Window(where.session, float(start)) for start in padded[lo : lo + TOGETHER]])
        found = np.asarray(program(predictor.params, shown.video, shown.context), np.float64)
        values.append(found.reshape(TOGETHER, len(middle), -1))
    at = (starts[:, None] + middle[None]).reshape(-1)
    of = np.concatenate(values)[: len(starts)].reshape(len(at), -1)
    by_time = np.argsort(at, kind="stable")
    binned = where.binned(at[by_time], of[by_time], 0.0)
    there = np.isfinite(binned).any(0)
    mean = np.where(np.isfinite(binned), binned, 0.0).sum(0) / np.maximum(np.isfinite(binned).sum(0), 1)
    return np.where(there, mean, np.nan)[None]


def _starts(where: Cut, seconds: float) -> list[float]:
    """Of the windows, in order of time."""
    starts = []
    for trial in sorted(trial for trials in where.showings.values() for trial in trials):
        length = float(where.ends[trial] - where.onsets[trial])
        whole = int(length / seconds + 1e-6)
        starts += [float(where.onsets[trial]) + k * seconds for k in range(whole)]
        if whole and length - whole * seconds > 1e-3:
            starts.append(float(where.ends[trial]) - seconds)
    return starts
