"""Functional forms of scaling curves, with analytic derivatives, batched over parameter vectors.

Every form maps centred log axes `logu = ln(x / geomean(x))` of shape (n, k) to a prediction on the *response scale* of
the fit: `raw` (scores, losses with an arbitrary offset) or `log` (positive losses). Parameter vectors may carry leading
dimensions, `(..., P)`, so that thousands of bootstrap fits are one array operation. A form of another family (a
break, a bounded sigmoid, repeated data) needs the same five members and works with the same estimator.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from omnimouse_jax.errors import UserError

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

ALPHA_BOUNDS = (0.01, 10.0)
ALPHA_GRID = (0.02, 1.5)  # where variable projection starts to look
AXIS_LETTERS = (("A", "alpha"), ("B", "beta"), ("C", "gamma"))


@runtime_checkable
class Form(Protocol):
    """What the estimator needs to know about a curve."""

    @property
    def name(self) -> str: ...

    @property
    def response(self) -> str: ...

    @property
    def axes(self) -> int: ...

    @property
    def parameters(self) -> tuple[str, ...]: ...

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        """Prediction (..., n) and derivative (..., n, P) on the response scale."""

    def bounds(self, y: Array) -> Array:
        """Box of the internal parameters, (P, 2), from the observed values (n,)."""

    def starts(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """One good start per row of `weights` (R, n) -> (R, P), by a search that is global over the exponents."""

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        """Parameters by name in the units of the table; `centre` (k,) holds the geometric means of the axes."""


def _check_response(response: str) -> None:
    if response not in ("raw", "log"):
        raise UserError(f"fit: unknown response {response!r}", way_out="use 'raw' (scores) or 'log' (positive losses)")


@dataclasses.dataclass(frozen=True)
class PowerSum:
    """offset +- sum_j A_j u_j^-alpha_j: the saturating power laws of one or more axes, the pure power and the constant.

    `sign` +1: losses that fall, L = E + A u^-alpha (+ B v^-beta); -1: scores that rise, S = S_inf - A u^-alpha (- ...),
    with 0 < S_inf <= `ceiling`. Internal parameters: [offset, ln A, alpha, ln B, beta, ...]. The offset is kept linear,
    not exponential, so that the boundary E = 0 or S_inf = ceiling is reached exactly and can be reported.
    """

    name: str
    axes: int
    response: str
    sign: int = 1
    has_offset: bool = True
    ceiling: float = np.inf

    def __post_init__(self) -> None:
        _check_response(self.response)

    @property
    def parameters(self) -> tuple[str, ...]:
        offset = ("S_inf" if self.sign < 0 else "E",) if self.has_offset else ()
        return offset + tuple(itertools.chain.from_iterable(AXIS_LETTERS[: self.axes]))

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        o = int(self.has_offset)
        ln_a, alpha = theta[..., o::2], theta[..., o + 1 :: 2]
        exponent = ln_a[..., None, :] - alpha[..., None, :] * logu  # (..., n, k)
        terms = self.sign * np.exp(np.clip(exponent, -700.0, 700.0))
        value = terms.sum(-1)
        slope = np.empty((*value.shape, o + 2 * self.axes))
        if self.has_offset:
            value = value + theta[..., :1]
            slope[..., 0] = 1.0
        slope[..., o::2] = terms
        slope[..., o + 1 :: 2] = -terms * logu
        if self.response == "raw":
            return value, slope
        value = np.maximum(value, 1e-300)
        return np.log(value), slope / value[..., None]

    def bounds(self, y: Array) -> Array:
        scale = _scale(y)
        rows: list[tuple[float, float]] = []
        if self.has_offset:
            if self.sign < 0:
                rows.append((1e-9, float(self.ceiling)))
            else:
                rows.append((0.0 if self.response == "log" else -np.inf, np.inf))
        for _ in range(self.axes):
            rows += [(float(np.log(1e-12 * scale)), float(np.log(1e8 * scale))), ALPHA_BOUNDS]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def starts(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """Variable projection: for given exponents the rest is linear, so search the exponents on a log grid only.

        With one weight row the best grid point is refined by Nelder-Mead on the log exponents (of the same projected
        objective); with many (bootstrap) the grid is the global start and the polish does the rest.
        """
        relative = weights / y**2 if self.response == "log" else weights
        ladder = np.geomspace(*ALPHA_GRID, grid)
        alphas = np.array(list(itertools.product(ladder, repeat=self.axes))).reshape(grid**self.axes, self.axes)
        theta, squares = self._project(alphas, logu, y, relative)
        best = np.argmin(squares, axis=0)
        out = theta[best, np.arange(len(weights))]
        if len(weights) > 1 or not self.axes:
            return out

        def projected(ln_alpha: Array) -> tuple[Array, Array]:
            return self._project(np.clip(np.exp(ln_alpha), *ALPHA_BOUNDS)[None], logu, y, relative)

        options = {"xatol": 1e-6, "fatol": 1e-15 * float(np.sum(relative * y**2)), "maxiter": 60 * self.axes}
        found = optimize.minimize(
            lambda t: float(projected(t)[1][0, 0]), np.log(alphas[best[0]]), method="Nelder-Mead", options=options
        )
        return projected(found.x)[0][0] if found.fun <= squares.min() else out

    def _project(self, alphas: Array, logu: Array, y: Array, weights: Array) -> tuple[Array, Array]:
        """Best offset and coefficients for exponents (G, k), weights (R, n): parameters (G, R, P), squares (G, R)."""
        o, q = int(self.has_offset), int(self.has_offset) + self.axes
        columns = np.empty((len(alphas), len(y), q))
        columns[..., :o] = 1.0
        columns[..., o:] = self.sign * np.exp(-alphas[:, None, :] * logu)
        products = columns[..., :, None] * columns[..., None, :]
        moment = np.einsum("rn,gnpq->grpq", weights, products, optimize=True)
        right = np.einsum("rn,gnq->grq", weights * y, columns, optimize=True)
        free_sign = self.has_offset and self.sign > 0 and self.response == "raw"
        ceiling = self.ceiling if self.has_offset and self.sign < 0 else np.inf
        coefficients, squares = nonnegative_least_squares(moment, right, weights @ (y * y), free_sign, ceiling)
        theta = np.empty((*squares.shape, o + 2 * self.axes))
        theta[..., :o] = coefficients[..., :o]
        theta[..., o::2] = np.log(np.maximum(coefficients[..., o:], 1e-12 * _scale(y)))
        theta[..., o + 1 :: 2] = alphas[:, None, :]
        return theta, squares

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        o = int(self.has_offset)
        out = {self.parameters[0]: theta[..., 0]} if self.has_offset else {}
        for j in range(self.axes):
            ln_a, alpha = theta[..., o + 2 * j], theta[..., o + 2 * j + 1]
            letter, exponent = AXIS_LETTERS[j]
            out[letter] = np.exp(ln_a + alpha * np.log(centre[j]))
            out[exponent] = alpha
        return {name: np.asarray(value) for name, value in out.items()}


@dataclasses.dataclass(frozen=True)
class LogLinear:
    """c + sum_j s_j ln u_j on the response scale: the honest alternative that never saturates."""

    name: str
    axes: int
    response: str

    def __post_init__(self) -> None:
        _check_response(self.response)

    @property
    def parameters(self) -> tuple[str, ...]:
        return ("c", *(("s",) if self.axes == 1 else tuple(f"s{j + 1}" for j in range(self.axes))))

    def _design(self, logu: Array) -> Array:
        return np.concatenate([np.ones((len(logu), 1)), logu], axis=1)

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        design = self._design(logu)
        return theta @ design.T, np.broadcast_to(design, (*theta.shape[:-1], *design.shape))

    def bounds(self, y: Array) -> Array:
        return np.tile([-np.inf, np.inf], (1 + self.axes, 1))

    def starts(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        design, z = self._design(logu), np.log(y) if self.response == "log" else y
        moment = np.einsum("rn,np,nq->rpq", weights, design, design)
        moment += 1e-12 * np.trace(moment, axis1=1, axis2=2)[:, None, None] * np.eye(design.shape[1])
        return np.linalg.solve(moment, ((weights * z) @ design)[..., None])[..., 0]

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        out = {name: theta[..., i] for i, name in enumerate(self.parameters)}
        out["c"] = theta[..., 0] - theta[..., 1:] @ np.log(centre)
        return {name: np.asarray(value) for name, value in out.items()}


def nonnegative_least_squares(
    moment: Array, right: Array, square: Array, free_first: bool = False, ceiling: float = np.inf
) -> tuple[Array, Array]:
    """min over c >= 0 of c' M c - 2 c' b + s, for moment M (..., q, q), right b (..., q), square s: c, minimum (...).

    The columns are few, so every active set is solved and the best feasible one kept. `free_first`: the first
    coefficient may be negative; `ceiling`: it may not exceed this.
    """
    q = right.shape[-1]
    best = np.zeros_like(right)
    best_ss = np.full(right.shape[:-1], np.inf) if free_first else np.broadcast_to(square, right.shape[:-1]).copy()
    trace = np.trace(moment, axis1=-2, axis2=-1)
    for fixed in (False, True) if np.isfinite(ceiling) else (False,):
        b = right - ceiling * moment[..., 0] if fixed else right
        base = square - 2 * ceiling * right[..., 0] + ceiling**2 * moment[..., 0, 0] if fixed else square
        for size in range(q + 1):
            for chosen in itertools.combinations(range(q), size):
                if (fixed and 0 in chosen) or (free_first and 0 not in chosen):
                    continue
                idx = list(chosen)
                c = np.zeros_like(right)
                if idx:
                    sub = moment[..., idx, :][..., idx] + 1e-14 * trace[..., None, None] * np.eye(size)
                    c[..., idx] = np.linalg.solve(sub, b[..., idx, None])[..., 0]
                ss = base - np.sum(c * b, axis=-1)
                feasible = np.all(c[..., 1:] >= 0, axis=-1)
                if fixed:
                    c[..., 0] = ceiling
                elif q and not free_first:
                    feasible &= (c[..., 0] >= 0) & (c[..., 0] <= ceiling)
                better = feasible & (ss < best_ss)
                best[better], best_ss[better] = c[better], ss[better]
    return best, np.maximum(best_ss, 0.0)


def _scale(y: Array) -> float:
    return float(np.median(np.abs(y))) or 1.0


FORMS: dict[str, str] = {
    "constant": "y = E: no axis matters",
    "log_linear": "y = c + s ln x: gains per doubling never shrink",
    "pure_power": "L = A x^-alpha: a loss that falls to zero",
    "power1": "L = E + A x^-alpha: a loss with a floor",
    "score1": "S = S_inf - A x^-alpha: a score with a plateau",
    "chinchilla": "L = E + A N^-alpha + B D^-beta: a loss of two axes (Hoffmann et al. 2022)",
    "score_joint": "S = S_inf - A N^-alpha - B D^-beta: a score of two axes",
}


def make_form(name: str, *, axes: int | None = None, response: str | None = None, ceiling: float = 1.0) -> Form:
    """A form by name. `response` defaults to log for losses and raw for scores; `ceiling` bounds S_inf from above."""
    if name == "constant":
        # signed offset, so that a raw-scale loss or score of any sign is allowed
        return PowerSum(name, 0, response or "raw")
    if name == "log_linear":
        return LogLinear(name, axes or 1, response or "raw")
    if name == "pure_power":
        return PowerSum(name, axes or 1, response or "log", has_offset=False)
    if name in ("power1", "chinchilla"):
        return PowerSum(name, 1 if name == "power1" else 2, response or "log")
    if name in ("score1", "score_joint"):
        if response == "log":
            raise UserError(
                f"fit: form {name} is for scores on their own scale", way_out="fit 1 - score with power1 or chinchilla"
            )
        return PowerSum(name, 1 if name == "score1" else 2, "raw", sign=-1, ceiling=ceiling)
    raise UserError(f"fit: unknown form {name!r}", way_out=f"choose one of {', '.join(FORMS)}")
