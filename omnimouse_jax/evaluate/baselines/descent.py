"""Gradient descent for the baselines that have no closed form: AdamW, stopped early on held-out windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from omnimouse_jax.evaluate.baselines.features import held
from omnimouse_jax.evaluate.baselines.problem import Examples, Problem
from omnimouse_jax.evaluate.baselines.shown import Shown, Truth
from omnimouse_jax.progress import Progress

Tree = Any
#: Smallest rate under a Poisson loss.
LEAST_RATE = 1e-4


@dataclasses.dataclass(frozen=True)
class Descent:
    """How long and how fast. A fit ends after `patience` looks at the held-out windows without a better one."""

    steps: int = 600
    look_every: int = 20
    patience: int = 6
    learning_rate: float = 3e-3
    weight_decay: float = 0.0


def descend(
    loss: Callable[[Tree, Tree], Float[Array, ""]],
    params: Tree,
    draw: Callable[[int], Tree],
    look: Callable[[Tree, int], bool],
    settings: Descent,
    label: str,
) -> None:
    """Minimises `loss(params, draw(step))`. `look(params, step)` is asked now and then and says whether anything got better."""
    waited = 0

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Tree, moments: tuple[Tree, Tree], step: Array, batch: Tree) -> tuple[Tree, tuple[Tree, Tree]]:
        gradient = jax.grad(loss)(params, batch)
        b1, b2, rate = 0.9, 0.999, settings.learning_rate  # Loshchilov and Hutter 2019, ICLR, algorithm 2
        mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments[0], gradient)
        square = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, moments[1], gradient)
        scale = jnp.sqrt(1 - b2**step) / (1 - b1**step)

        def moved(p: Array, m: Array, v: Array) -> Array:
            return p - rate * (scale * m / (jnp.sqrt(v) + 1e-8) + settings.weight_decay * p)

        return jax.tree.map(moved, params, mean, square), (mean, square)

    params = jax.tree.map(jnp.array, params)  # the first update gives its arguments away
    state = (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))
    progress = Progress(settings.steps, label=f"{label}: step ")
    look(params, 0)
    for step in range(1, settings.steps + 1):
        params, state = update(params, state, np.float32(step), draw(step))
        if step % settings.look_every == 0:
            waited = 0 if look(params, step) else waited + 1
            progress.show(step)
            if waited >= settings.patience:
                break
    progress.close()


def fit_and_held_out(problem: Problem, key: str, share: float = 1.0) -> tuple[Examples, Examples, str] | None:
    """Windows to fit and windows to stop by: those of the validation tiers, or else the last fifth of the training windows.

    None where there are too few. `share` of the memory that a session may take.
    """
    training, held_out = problem.train(key, share), problem.validation(key, share)
    if training is None:
        return None
    if held_out is not None:
        return training, held_out, "stopped by the validation tier"
    n = len(training.shown)
    last = n - n // 5
    if last == n:
        return None
    return pick(training, np.arange(last)), pick(training, np.arange(last, n)), "stopped by the last fifth of training"


def pick(examples: Examples, windows: Int[np.ndarray, " w"]) -> Examples:
    """Some windows."""
    seen, true = examples.shown, examples.truth
    part = Shown(
        tuple(seen.windows[int(w)] for w in windows),
        seen.view,
        seen.responses[windows],
        None if seen.frames is None else seen.frames[windows],
        seen.behavior[windows],
    )
    return Examples(part, Truth(true.responses[windows], true.behavior[windows]))


def pooled_size(height: int, width: int, most: int) -> int:
    """Side of the squares that a screen is averaged over."""
    side = 1
    while (height // side) * (width // side) > most:
        side += 1
    return side


def frames_in(shown: Shown, most: int) -> Float[np.ndarray, "W f h w"]:
    """Frames about 0 in units of half the grey scale, averaged over squares so that at most so many are left; the last rows and
    columns that make no square go."""
    assert shown.frames is not None
    w, f, height, width = shown.frames.shape
    side = pooled_size(height, width, most)
    values = shown.frames[:, :, : height // side * side, : width // side * side].astype(np.float32) / 128.0 - 1.0
    return values.reshape(w, f, height // side, side, width // side, side).mean((3, 5), dtype=np.float32)


def behavior_in(shown: Shown, moments_s: Float[np.ndarray, " m"]) -> Float[np.ndarray, "W m C"]:
    """Behaviour held at some moments, 0 (the mean) where it was not recorded or is hidden."""
    at = held(moments_s, shown.view.grid.behavior_rate, shown.view.grid.n_behavior)
    return np.nan_to_num(shown.behavior[:, :, at].swapaxes(1, 2)).astype(np.float32)


def frames_before(shown: Shown, first: int, last: int, n_lags: int) -> Int[np.ndarray, "s lags"]:
    """For response samples [first, last): the shown frame on at that time, and those before it; the first shown one before all."""
    grid = shown.view.grid
    seconds = np.arange(first, last, dtype=np.float64) / grid.response_rate
    at = held(seconds, grid.video_rate, grid.n_frames)[:, None] - np.arange(n_lags)
    return np.clip(at - shown.view.frames[0], 0, shown.view.frames[1] - shown.view.frames[0] - 1)


def residual(
    rate: Float[Array, "*s"], target: Float[Array, "*s"], mask: Float[Array, "*s"], positive: bool
) -> Float[Array, "*s"]:
    """Poisson loss less its constant, or half the squared error; 0 where nothing was recorded."""
    if positive:
        rate = jnp.maximum(rate, LEAST_RATE)
        return (rate - target * jnp.log(rate)) * mask
    return 0.5 * (rate - target) ** 2 * mask
