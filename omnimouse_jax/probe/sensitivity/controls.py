"""What an attack must be compared with: random directions of equal norm, the same perturbation without its fine detail, no
training."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omnimouse_jax.probe.sensitivity.balls import Ball
from omnimouse_jax.probe.sensitivity.subject import Subject

#: Of the blur, as a fraction of the frame's height: 1 pixel of 16.
BLUR = 1.0 / 16.0


class Random(NamedTuple):
    """Shifts of random directions: z squared, averaged over samples, per budget, stimulus, direction and neuron."""

    squares: Float[np.ndarray, "E W K N"]


class LowPass(NamedTuple):
    """Perturbations blurred and brought back to their norm. `kept` (E, W): the share of power that the blur leaves."""

    squares: Float[np.ndarray, "E W N"]
    kept: Float[np.ndarray, "E W"]


def equal_norm_random(
    subject: Subject,
    ball: Ball,
    d: Float[np.ndarray, "E W F H W_"],
    n: int,
    seed: int = 0,
    smooth: bool = False,
    told: Callable[[int], None] = lambda done: None,
) -> Random:
    """`n` directions per stimulus, each with the budget that the attack's perturbation takes there within the box. The same
    directions at every budget, and for every model with this seed. `smooth`: noise blurred as in `low_pass`.
    """
    squares = np.zeros((len(d), subject.n_stimuli, n, subject.n_neurons), np.float32)
    x = subject.function.visible(subject.video)

    for number in range(n):
        rngs = [np.random.default_rng((seed, number, stimulus)) for stimulus in range(subject.n_stimuli)]
        u = np.stack([ball.direction(rng, subject.shape) for rng in rngs])
        for at, of_budget in enumerate(d):
            found = np.asarray(_equalled(ball, smooth)(u, of_budget, x))
            squares[at, :, number] = np.square(subject.shift(found)).mean(1)
        told(number + 1)
    return Random(squares)


def low_pass(subject: Subject, ball: Ball, d: Float[np.ndarray, "E W F H W_"]) -> LowPass:
    """Whether what moves the model is fine detail: its perturbations without it, at equal norm within the box."""

    x = subject.function.visible(subject.video)
    squares, kept = [], []
    for of_budget in d:
        smooth = np.asarray(_equalled(ball, True)(of_budget, of_budget, x))
        power = np.square(of_budget).sum((1, 2, 3))
        left = np.square(np.asarray(blurred(of_budget))).sum((1, 2, 3))
        squares.append(np.square(subject.shift(smooth)).mean(1))
        kept.append(left / np.where(power > 0, power, 1.0))
    return LowPass(np.stack(squares), np.stack(kept))


@lru_cache(maxsize=8)
def _equalled(ball: Ball, smooth: bool) -> Any:
    """(u, like, x) -> u, blurred if that is wished, with the norm of `like` within the box."""
    return jax.jit(lambda u, like, x: ball.equal(blurred(u) if smooth else u, ball.size(like), x))


def blurred(d: Float[Array | np.ndarray, "W F H W_"]) -> Float[Array, "W F H W_"]:
    """Each frame convolved with a Gaussian of SD height / 16; beyond its edge a frame is mirrored."""
    for axis in (-2, -1):
        d = _along(d, axis, max(d.shape[-2] * BLUR, 0.5))
    return jnp.asarray(d)


def _along(d: Any, axis: int, sd: float) -> Array:
    """Convolution as a matrix product: frames are small."""
    n = d.shape[axis]
    reach = min(int(np.ceil(3 * sd)), n - 1)
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sd) ** 2)
    matrix = np.zeros((n, n), np.float32)
    for offset, weight in zip(range(-reach, reach + 1), taps / taps.sum(), strict=True):
        at = np.abs(np.arange(n) + offset)
        at = np.where(at > n - 1, 2 * (n - 1) - at, at)
        np.add.at(matrix, (np.arange(n), at), weight)
    return jnp.moveaxis(jnp.moveaxis(d, axis, -1) @ matrix.T, -1, axis)
