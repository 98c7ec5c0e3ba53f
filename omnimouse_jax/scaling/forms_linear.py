"""Curves that are linear in their parameters on the response scale: the straight line in logs and the vapour pressure."""

from __future__ import annotations

import dataclasses

import numpy as np

from omnimouse_jax.scaling.forms_base import Array, Form, weighted_least_squares


@dataclasses.dataclass(frozen=True)
class Linear(Form):
    """A linear model of the response: its start is its answer."""

    def design(self, logu: Array) -> Array:
        """Columns (n, P)."""
        raise NotImplementedError

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        design = self.design(logu)
        return theta @ design.T, np.broadcast_to(design, (*theta.shape[:-1], *design.shape))

    def bounds(self, y: Array, logu: Array) -> Array:
        return np.tile([-np.inf, np.inf], (len(self.parameters), 1))

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        return self.starts(logu, y, weights[None], grid)

    def starts(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        return weighted_least_squares(self.design(logu)[None], self.transformed(y)[None], weights)


@dataclasses.dataclass(frozen=True)
class LogLinear(Linear):
    """c + sum_j s_j ln u_j on the response scale: the honest alternative that never saturates."""

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("c", *(("s",) if self.axes == 1 else tuple(f"s{j + 1}" for j in range(self.axes))))

    @property
    def linear(self) -> bool:
        return True

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return tuple(range(1 + self.axes)) if self.response == "raw" else ()

    def design(self, logu: Array) -> Array:
        return np.concatenate([np.ones((len(logu), 1)), logu], axis=1)

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        out = {name: theta[..., i] for i, name in enumerate(self.parameters)}
        out["c"] = theta[..., 0] - theta[..., 1:] @ np.log(centre)
        return {name: np.asarray(value) for name, value in out.items()}


@dataclasses.dataclass(frozen=True)
class VaporPressure(Linear):
    """ln y = a + b/x + c ln x, a curve of the learning-curve literature; y must be positive."""

    @property
    def parameters(self) -> tuple[str, ...]:
        return "a", "b", "c"

    def design(self, logu: Array) -> Array:
        line = logu[:, 0]
        return np.stack([np.ones_like(line), np.exp(np.clip(-line, -700.0, 700.0)), line], axis=1)

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        a = theta[..., 0] - theta[..., 2] * np.log(centre[0])
        return {"a": np.asarray(a), "b": np.asarray(theta[..., 1] * centre[0]), "c": np.asarray(theta[..., 2])}
