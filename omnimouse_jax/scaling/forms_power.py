"""Sums of power laws with an offset: the curves that most scaling studies fit."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from scipy import optimize

from omnimouse_jax.scaling.forms_base import Array, Flag, Form, nonnegative_least_squares, typical

ALPHA_BOUNDS = (0.01, 10.0)
ALPHA_GRID = (0.02, 1.5)  # where variable projection starts to look
ALPHA_COARSE = (0.1, 0.35, 1.0)  # further starts: outliers can make the robust optimum another one
ALPHA_USUAL = (0.03, 2.0)
AXIS_LETTERS = (("A", "alpha"), ("B", "beta"), ("C", "gamma"))


@dataclasses.dataclass(frozen=True)
class PowerSum(Form):
    """offset +- sum_j A_j u_j^-alpha_j: the saturating power laws of one or more axes, the pure power and the constant.

    `sign` +1: losses that fall, L = E + A u^-alpha (+ B v^-beta); -1: scores that rise, S = S_inf - A u^-alpha (- ...),
    with 0 < S_inf <= `ceiling`. Internal parameters: [offset, ln A, alpha, ln B, beta, ...]. The offset is kept linear,
    not exponential, so that the boundary E = 0 or S_inf = ceiling is reached exactly and can be reported.
    """

    sign: int = 1
    has_offset: bool = True
    ceiling: float = np.inf

    @property
    def parameters(self) -> tuple[str, ...]:
        offset = ("S_inf" if self.sign < 0 else "E",) if self.has_offset else ()
        return offset + tuple(itertools.chain.from_iterable(AXIS_LETTERS[: self.axes]))

    @property
    def profiled(self) -> dict[str, int]:
        return {self.parameters[0]: 0} if self.has_offset and self.axes else {}

    @property
    def logarithmic(self) -> frozenset[str]:
        return frozenset(letter for letter, _ in AXIS_LETTERS)

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return (0,) if self.has_offset else ()

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
        return self.on_response(value, slope)

    def bounds(self, y: Array, logu: Array) -> Array:
        scale = typical(y)
        rows: list[tuple[float, float]] = []
        if self.has_offset:
            if self.sign < 0:
                rows.append((1e-9 * scale, float(self.ceiling)))
            else:
                rows.append((0.0 if self.response == "log" else -np.inf, np.inf))
        for j in range(self.axes):
            reach = ALPHA_BOUNDS[1] * float(np.abs(logu[:, j]).max(initial=0.0))  # an axis may be far from its centre
            low = np.log(1e-12 * scale) - (reach if _uncentred(logu[:, j]) else 0.0)
            high = np.log(1e8 * scale) + (reach if _uncentred(logu[:, j]) else 0.0)
            rows += [(float(low), float(high)), ALPHA_BOUNDS]
        return np.array(rows, dtype=np.float64).reshape(-1, 2)

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        best = self.starts(logu, y, weights[None], grid)
        if not self.axes:
            return best
        alphas = np.array(list(itertools.product(ALPHA_COARSE, repeat=self.axes)))
        relative = weights / y**2 if self.response == "log" else weights
        return np.concatenate([best, self._project(alphas, logu, y, relative[None])[0][:, 0]])

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

        options = {"xatol": 1e-2, "fatol": 1e-15 * float(np.sum(relative * y**2)), "maxiter": 15 * self.axes}  # a start
        found = optimize.minimize(
            lambda t: float(projected(t)[1][0, 0]), np.log(alphas[best[0]]), method="Nelder-Mead", options=options
        )
        return projected(found.x)[0][0] if found.fun <= squares.min() else out

    def _project(self, alphas: Array, logu: Array, y: Array, weights: Array) -> tuple[Array, Array]:
        """Best offset and coefficients for exponents (G, k), weights (R, n): parameters (G, R, P), squares (G, R)."""
        o, q = int(self.has_offset), int(self.has_offset) + self.axes
        columns = np.empty((len(alphas), len(y), q))
        columns[..., :o] = 1.0
        columns[..., o:] = self.sign * np.exp(np.clip(-alphas[:, None, :] * logu, -300.0, 300.0))
        products = columns[..., :, None] * columns[..., None, :]
        moment = np.einsum("rn,gnpq->grpq", weights, products, optimize=True)
        right = np.einsum("rn,gnq->grq", weights * y, columns, optimize=True)
        free_sign = self.has_offset and self.sign > 0 and self.response == "raw"
        ceiling = self.ceiling if self.has_offset and self.sign < 0 else np.inf
        coefficients, squares = nonnegative_least_squares(moment, right, weights @ (y * y), free_sign, ceiling)
        theta = np.empty((*squares.shape, o + 2 * self.axes))
        theta[..., :o] = coefficients[..., :o]
        theta[..., o::2] = np.log(np.maximum(coefficients[..., o:], 1e-12 * typical(y)))
        theta[..., o + 1 :: 2] = alphas[:, None, :]
        return theta, squares

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        o = int(self.has_offset)
        out = {self.parameters[0]: theta[..., 0]} if self.has_offset else {}
        for j in range(self.axes):
            ln_a, alpha = theta[..., o + 2 * j], theta[..., o + 2 * j + 1]
            letter, exponent = AXIS_LETTERS[j]
            with np.errstate(over="ignore"):
                out[letter] = np.exp(ln_a + alpha * np.log(centre[j]))
            out[exponent] = alpha
        return {name: np.asarray(value) for name, value in out.items()}

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        flags = []
        o = int(self.has_offset)
        if self.has_offset and self.axes:
            if self.sign < 0 and theta[0] >= self.ceiling * (1 - 1e-6):
                words = f"the plateau S_inf ran to its ceiling {self.ceiling:.3g}: no plateau is visible"
                flags.append(Flag("bound", words))
            if self.sign > 0 and self.response == "log" and theta[0] < 1e-6 * float(np.median(y)):
                flags.append(Flag("bound", "the floor E is zero within rounding: no floor is visible in these data"))
        for j, (_, exponent) in enumerate(AXIS_LETTERS[: self.axes]):
            alpha = float(theta[o + 2 * j + 1])
            share = np.exp(np.clip(theta[o + 2 * j] - alpha * logu[:, j], -700, 700))
            if np.ptp(share) < 1e-6 * typical(y):
                words = f"no term for axis {j + 1}: the fit found no dependence on it"
                flags.append(Flag("no_term", words, refuse=True))
            elif not ALPHA_USUAL[0] <= alpha <= ALPHA_USUAL[1]:
                words = f"exponent {exponent} = {alpha:.3g} lies outside .03 to 2: it stands for no power law"
                flags.append(Flag("exponent", words))
        return flags


def _uncentred(logu: Array) -> bool:
    return bool(abs(float(np.mean(logu))) > 1e-6)
