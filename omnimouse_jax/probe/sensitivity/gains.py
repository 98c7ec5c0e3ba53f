"""Local gains: how fast responses move at the stimulus itself, from the Jacobian J of z, without any attack.

Of a neuron: the dual norm of its gradient. Of the population: the largest D per unit of budget; for a clip-wise l2 ball that is
sigma_max(J) / sqrt(R N) in RMS units, by power iteration with J' u and J v. For other balls the same iteration with the ball's own
projection climbs to a local maximum, a lower bound. (Sheet, 2.2.)
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from omnimouse_jax.probe.sensitivity.balls import Ball
from omnimouse_jax.probe.sensitivity.subject import Batch, Function, Subject

POWER_STEPS = 40
#: Random directions of the estimate of ||J||_F^2, per stimulus.
PROBES = 16


class NeuronGains(NamedTuple):
    """Of z, averaged over samples, per stimulus and neuron: `l2` = ||grad||_2, `l1` = ||grad||_1 in plain pixels of [0, 1];
    `per_budget` = the dual norm of the ball, in SD per unit of its budget."""

    l2: Float[np.ndarray, "W M"]
    l1: Float[np.ndarray, "W M"]
    per_budget: Float[np.ndarray, "W M"]


class PopulationGain(NamedTuple):
    """Per stimulus. `gain`: D per unit of the ball's budget to first order; `sigma` the largest singular value of J and `frobenius`
    ||J||_F^2 (estimated with random directions), in plain pixels; `direction` is of budget 1."""

    gain: Float[np.ndarray, " W"]
    sigma: Float[np.ndarray, " W"]
    frobenius: Float[np.ndarray, " W"]
    direction: Float[np.ndarray, "W F H W_"]

    @property
    def stable_rank(self) -> Float[np.ndarray, " W"]:
        """||J||_F^2 / sigma_max^2; NaN where nothing moves."""
        return self.frobenius / np.where(self.sigma > 0, self.sigma, np.nan) ** 2


def neuron_gains(subject: Subject, ball: Ball, neurons: Int[np.ndarray, " M"]) -> NeuronGains:
    """One backward pass per neuron and stimulus."""
    at = np.repeat(np.arange(subject.n_stimuli), len(neurons))
    which = np.tile(neurons, subject.n_stimuli)
    out: list[list[Any]] = []
    for first in range(0, len(at), subject.rows):  # gradients of all together may not fit
        some = slice(first, first + subject.rows)
        weights = np.zeros((len(at[some]), subject.clean_samples.shape[1], subject.n_neurons), np.float32)
        weights[np.arange(len(weights)), :, which[some]] = subject.inverse[which[some], None] / weights.shape[1]
        g = subject.gradients(weights, at[some])
        out.append([np.sqrt(np.square(g).sum((1, 2, 3))), np.abs(g).sum((1, 2, 3)), np.asarray(ball.dual(g))])
    shape = (subject.n_stimuli, len(neurons))
    return NeuronGains(*(np.concatenate(parts).reshape(shape) for parts in zip(*out, strict=True)))


def population_gain(
    subject: Subject, ball: Ball, seed: int = 0, steps: int = POWER_STEPS, probes: int = PROBES
) -> PopulationGain:
    """Power iteration from a random direction, for the ball and for plain l2 side by side.

    ||J||_F^2 is sigma_max^2 and the mean of ||J' s||^2 over random signs s, one per response, less their part along the leading
    response direction.
    """
    program = _power(subject.function, ball, steps)
    included, n_samples = max(int(subject.included.sum()), 1), subject.clean_samples.shape[1]
    n_read = subject.clean.shape[1]
    found: list[list[Any]] = []
    for some, real in subject.chunks(subject.n_stimuli):
        rngs = [np.random.default_rng((seed, int(number))) for number in some]
        start = np.stack([ball.direction(rng, subject.shape) for rng in rngs])
        batch = subject.batch(some)
        reached, direction, _ = program(batch, start, np.bool_(False))
        # ||J v|| of a v with RMS 1 is sqrt(dim) times that of a v with norm 1.
        top, _, left = program(batch, start, np.bool_(True))
        sigma, left = np.asarray(top) / math.sqrt(subject.dim), np.asarray(left)
        squares = sigma.astype(np.float64) ** 2
        for _ in range(probes):
            signs = np.stack(
                [rng.choice(np.array([-1.0, 1.0], np.float32), (n_read, subject.n_neurons)) for rng in rngs]
            )
            signs -= left * (signs * left).sum((1, 2), keepdims=True)
            weights = signs * subject.inverse * np.float32(n_read / n_samples)
            weights = np.broadcast_to(weights, (len(some), n_samples, subject.n_neurons)).astype(np.float32)
            squares += np.square(subject.gradients(weights, some)).sum((1, 2, 3)) / probes
        parts = (np.asarray(reached) / math.sqrt(included * n_read), sigma, squares, np.asarray(direction))
        found.append([part[:real] for part in parts])
    return PopulationGain(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


@lru_cache(maxsize=32)
def _power(f: Function, ball: Ball, steps: int) -> Any:
    """(batch, start, whether in plain l2) -> ||J v||, v of budget 1 and J v / ||J v||, row by row."""
    plain = Ball("l2", False)

    def program(batch: Batch, start: Any, in_plain: Any) -> tuple[Array, Array, Array]:
        at = jnp.zeros_like(start)

        def unit(d: Any) -> Array:
            return jnp.where(in_plain, plain.unit(d), ball.unit(d))

        back = jax.vjp(lambda d: f.z(batch, d), at)[1]

        def along(v: Any) -> Array:
            """J v as the transpose of u -> J' u: forward mode does not pass attention with a backward pass of its own."""
            return jax.linear_transpose(lambda u: back(u)[0], jnp.zeros_like(batch.clean))(v)[0]

        def step(v: Any, _: Any) -> tuple[Any, None]:
            pulled = back(along(v))[0]
            # Where nothing moves the direction stays what it was.
            dead = (jnp.abs(pulled).max((1, 2, 3)) == 0)[:, None, None, None]
            return jnp.where(dead, v, unit(pulled)), None

        v, _ = jax.lax.scan(step, unit(start), None, length=steps)
        moved = along(v)
        length = jnp.sqrt(jnp.square(moved).sum((1, 2)))
        return length, v, moved / jnp.maximum(length, 1e-30)[:, None, None]

    return jax.jit(program)
