"""Threat sets: what a perturbation may be. Budgets are in pixel units of [0, 1], root mean square, so that resolutions compare.

l2: the RMS of a perturbation is at most eps. linf: no pixel moves by more than eps. Each frame has its own budget (default), or the
clip as a whole has one. All within the box: x + d is a picture. (Sheet on brain-side evaluation, 2.2.)
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omnimouse_jax.errors import UserError

Video = Float[Array | np.ndarray, "W F H W_"]
Budget = Float[Array | np.ndarray, "..."] | float | int

NORMS = ("l2", "linf")
#: Of the scale factor that gives a perturbation its norm within the box.
BISECTIONS = 40
#: A direction is scaled up by so much at most, to make up for what the box cuts off.
MOST = 64.0
TINY = 1e-30


class Ball(NamedTuple):
    """A norm, and whether every frame has a budget of its own. Sizes and gains are per unit of the budget."""

    norm: str = "l2"
    framewise: bool = True

    @classmethod
    def of(cls, norm: str, framewise: bool = True) -> Ball:
        """UserError for a norm that is not there."""
        if norm not in NORMS:
            raise UserError(f"norm {norm!r} is not known", way_out=f"use one of {', '.join(NORMS)}")
        return cls(norm, framewise)

    @property
    def axes(self) -> tuple[int, ...]:
        """What shares a budget."""
        return (-2, -1) if self.framewise else (-3, -2, -1)

    def size(self, d: Video) -> Float[Array, "W _ 1 1"]:
        """The budget that each frame (or clip) takes."""
        if self.norm == "linf":
            return jnp.abs(d).max(self.axes, keepdims=True)
        return jnp.sqrt(jnp.square(d).mean(self.axes, keepdims=True))

    def largest(self, d: Video) -> Float[Array, " W"]:
        """The budget that a whole perturbation takes."""
        return self.size(d).max((-3, -2, -1))

    def unit(self, g: Video) -> Video:
        """The perturbation of budget 1 that goes along a gradient best; 0 where that is 0."""
        if self.norm == "linf":
            return jnp.sign(g)
        # By the largest element first: squares of very small gradients are 0 in float32.
        top = jnp.abs(g).max(self.axes, keepdims=True)
        scaled = jnp.where(top > 0, g / jnp.where(top > 0, top, 1.0), 0.0)
        return scaled / jnp.maximum(self.size(scaled), TINY)

    def dual(self, g: Video) -> Float[Array, " W"]:
        """The largest <g, d> over budget 1: what a linear response with this gradient gains."""
        if self.norm == "linf":
            return jnp.abs(g).sum((-3, -2, -1))
        n = math.prod(g.shape[axis] for axis in self.axes)
        return math.sqrt(n) * jnp.sqrt(jnp.square(g).sum(self.axes)).reshape(len(g), -1).sum(-1)

    def project(self, d: Video, eps: Budget, x: Video) -> Video:
        """To the ball, then to the box. The second cannot leave the first: it moves pixels towards 0 only."""
        if self.norm == "linf":
            return boxed(jnp.clip(d, -eps, eps), x)
        return boxed(d * jnp.minimum(1.0, eps / jnp.maximum(self.size(d), TINY)), x)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "F H W_"]:
        """One random perturbation inside the ball of budget 1: noise of random size (l2), or every pixel for itself (linf)."""
        if self.norm == "linf":
            return rng.uniform(-1.0, 1.0, shape).astype(np.float32)
        return self.direction(rng, shape) * np.float32(rng.uniform())

    def direction(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Float[np.ndarray, "F H W_"]:
        """A random direction of size 1: noise (l2), or a corner of the cube (linf). Drawn on the host, so that it is the same on
        every device."""
        noise = rng.standard_normal(shape, np.float32)
        if self.norm == "linf":
            return np.sign(noise)
        return noise / np.sqrt(np.square(noise).mean(self.axes, keepdims=True))

    def equal(self, u: Video, target: Float[Array, "W _ 1 1"], x: Video) -> Video:
        """Directions `u` scaled so that, cut to the box, they take the budget `target`, where the box leaves room for that."""
        along = jnp.asarray(u) / jnp.maximum(self.size(u), TINY)
        low, high = jnp.zeros_like(target), MOST * target

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = (low + high) / 2
            below = self.size(boxed(middle * along, x)) < target
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (low, high))
        return boxed(low * along, x)


def boxed(d: Video, x: Video) -> Video:
    """Cut so that x + d is within [0, 1]."""
    return jnp.clip(x + d, 0.0, 1.0) - x
