"""What the estimator needs to know about a curve, and the linear algebra that several families of curves share."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from omnimouse_jax.errors import UserError

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

RESPONSES = ("raw", "log")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A reason for caution: `code` for programs, `words` for people. `refuse`: the parameters should not be quoted."""

    code: str
    words: str
    refuse: bool = False


@dataclasses.dataclass(frozen=True)
class Form:
    """A curve on centred log axes.

    It maps `logu` = ln(x / centre) (n, k) to a prediction on the *response scale* of the fit: `raw` (scores, losses with
    an arbitrary offset) or `log` (positive losses). Internal parameter vectors may carry leading dimensions, `(..., P)`,
    so that thousands of bootstrap fits are one array operation.
    """

    name: str
    axes: int
    response: str

    def __post_init__(self) -> None:
        if self.response not in RESPONSES:
            raise UserError(
                f"fit: unknown response {self.response!r}", way_out="use 'raw' (scores) or 'log' (positive losses)"
            )

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names, in the order of the internal vector."""
        raise NotImplementedError

    @property
    def profiled(self) -> dict[str, int]:
        """Parameters for which a profile likelihood says more than a percentile: name -> internal index."""
        return {}

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        """Internal indices of parameters that are measured in the units of the values; all others have none."""
        return ()

    @property
    def linear(self) -> bool:
        """Straight in the logs: nothing to search, no plateau to be wrong about."""
        return False

    def centre(self, x: Array) -> Array:
        """What each axis is divided by, (k,): its geometric mean."""
        return np.exp(np.mean(np.log(x), axis=0)) if x.shape[1] else np.ones(0)

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        """Prediction (..., n) and derivative (..., n, P) on the response scale."""
        raise NotImplementedError

    def bounds(self, y: Array, logu: Array) -> Array:
        """Box of the internal parameters, (P, 2), from the observed values (n,)."""
        raise NotImplementedError

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """Starts (S, P) of the point fit, `weights` (n,): a search that is global over what is not linear."""
        raise NotImplementedError

    def starts(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """One global start per row of `weights` (R, n) -> (R, P): here the candidate with the fewest squares."""
        found = self.candidates(logu, y, weights.mean(axis=0), grid)
        squares = (self.transformed(y) - self.evaluate(found, logu)[0]) ** 2
        return found[np.argmin(squares @ weights.T, axis=0)]

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        """Parameters by name in the units of the table; `centre` (k,) is what the axes were divided by."""
        raise NotImplementedError

    def internal(self, name: str, value: float) -> tuple[int, float]:
        """Index and internal value of a parameter that is held at `value`, for axes that are not centred."""
        if name not in self.parameters:
            raise UserError(
                f"fit: form {self.name} has no parameter {name!r}", way_out=f"it has {', '.join(self.parameters)}"
            )
        index = self.parameters.index(name)
        if name not in self.logarithmic:
            return index, value
        if value < 0:
            raise UserError(f"fit: {name} = {value:g} is negative", way_out="hold it at a positive number")
        return index, float(np.log(max(value, 1e-300)))

    @property
    def logarithmic(self) -> frozenset[str]:
        """Parameters that are positive: their logarithm is what is fitted."""
        return frozenset()

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        """What the fitted parameters themselves warn of."""
        return []

    def transformed(self, y: Array) -> Array:
        """Observed values on the response scale."""
        return np.log(y) if self.response == "log" else y

    def natural(self, value: Array) -> Array:
        """Back from the response scale."""
        return np.exp(np.clip(value, -745.0, 709.0)) if self.response == "log" else value

    def on_response(self, value: Array, slope: Array) -> tuple[Array, Array]:
        """Natural-scale prediction and derivative -> response scale."""
        if self.response == "raw":
            return value, slope
        value = np.maximum(value, 1e-100)  # a trial may go below 0: squares of its slopes must not overflow
        return np.log(value), slope / value[..., None]


def held_at(form: Form, values: Mapping[str, float]) -> dict[int, float]:
    """Internal indices and values of parameters that are not fitted."""
    return dict(form.internal(name, value) for name, value in values.items())


def typical(y: Array) -> float:
    """The size of the values, never 0."""
    return float(np.median(np.abs(y))) or float(np.max(np.abs(y))) or 1.0


def weighted_least_squares(design: Array, z: Array, weights: Array) -> Array:
    """Coefficients (..., q) for designs (..., n, q), values (..., n) and weights (n,) or (..., n)."""
    root = np.sqrt(weights)
    norm = np.sqrt(np.sum((design * root[..., None]) ** 2, axis=-2))
    norm = np.where(norm > 0, norm, 1.0)
    scaled = design * root[..., None] / norm[..., None, :]
    moment = np.swapaxes(scaled, -1, -2) @ scaled + 1e-13 * np.eye(design.shape[-1])
    right = np.swapaxes(scaled, -1, -2) @ (z * root)[..., None]
    return np.linalg.solve(moment, right)[..., 0] / norm


def nonnegative_least_squares(
    moment: Array, right: Array, square: Array, free_first: bool = False, ceiling: float = np.inf
) -> tuple[Array, Array]:
    """min over c >= 0 of c' M c - 2 c' b + s, for moment M (..., q, q), right b (..., q), square s: c, minimum (...).

    The columns are few, so every active set is solved and the best feasible one kept. `free_first`: the first
    coefficient may be negative; `ceiling`: it may not exceed this.
    """
    q = right.shape[-1]
    norm = np.sqrt(np.maximum(np.einsum("...pp->...p", moment), 0.0))  # columns of unit length: their units may differ
    norm = np.where(norm > 0, norm, 1.0)
    moment, right = moment / (norm[..., :, None] * norm[..., None, :]), right / norm
    top = ceiling * norm[..., 0] if np.isfinite(ceiling) else np.full(right.shape[:-1], np.inf)
    best = np.zeros_like(right)
    best_ss = np.full(right.shape[:-1], np.inf) if free_first else np.broadcast_to(square, right.shape[:-1]).copy()
    for fixed in (False, True) if np.isfinite(ceiling) else (False,):
        b = right - top[..., None] * moment[..., 0] if fixed else right
        base = square - 2 * top * right[..., 0] + top**2 * moment[..., 0, 0] if fixed else square
        for size in range(q + 1):
            for chosen in itertools.combinations(range(q), size):
                if (fixed and 0 in chosen) or (free_first and 0 not in chosen):
                    continue
                idx = list(chosen)
                c = np.zeros_like(right)
                if idx:
                    sub = moment[..., idx, :][..., idx] + 1e-14 * np.eye(size)
                    c[..., idx] = np.linalg.solve(sub, b[..., idx, None])[..., 0]
                ss = base - np.sum(c * b, axis=-1)
                feasible = np.all(c[..., 1:] >= 0, axis=-1)
                if fixed:
                    c[..., 0] = top
                elif q and not free_first:
                    feasible &= (c[..., 0] >= 0) & (c[..., 0] <= top)
                better = feasible & (ss < best_ss)
                best[better], best_ss[better] = c[better], ss[better]
    return best / norm, np.asarray(np.maximum(best_ss, 0.0))
