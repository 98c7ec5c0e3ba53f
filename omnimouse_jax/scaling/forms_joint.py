"""Two axes that are not a plain sum: Kaplan's law, and the check for an interaction."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms_base import Array, Flag, Form, nonnegative_least_squares, typical
from omnimouse_jax.scaling.forms_power import ALPHA_USUAL, PowerSum

LADDER = (0.03, 0.07, 0.15, 0.35, 0.8)


@dataclasses.dataclass(frozen=True)
class Kaplan(Form):
    """L = E + [(Nc/N)^(alpha_N/alpha_D) + Dc/D]^alpha_D (Kaplan et al. 2020; the floor E is optional, theirs is 0).

    Internal parameters: [E,] p, alpha_N, q, alpha_D, where exp(p) is the loss at the centre of N with unlimited data and
    exp(q) the one at the centre of D with an unlimited model: nearly uncorrelated, which Nc and alpha_N are not.
    """

    has_offset: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*(("E",) if self.has_offset else ()), "Nc", "alpha_N", "Dc", "alpha_D")

    @property
    def profiled(self) -> dict[str, int]:
        return {"E": 0} if self.has_offset else {}

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return (0,) if self.has_offset else ()

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        o = int(self.has_offset)
        p, a_n, q, a_d = (theta[..., o + i, None] for i in range(4))
        first, second = (p - a_n * logu[:, 0]) / a_d, (q - a_d * logu[:, 1]) / a_d
        total = np.logaddexp(first, second)
        share = np.exp(first - total)  # of the size term
        law = np.exp(np.clip(a_d * total, -700.0, 700.0))
        slope = np.empty((*law.shape, o + 4))
        if self.has_offset:
            slope[..., 0] = 1.0
        slope[..., o] = law * share
        slope[..., o + 1] = -law * share * logu[:, 0]
        slope[..., o + 2] = law * (1 - share)
        # the terms carry 1/alpha_D: d(alpha_D total) = total - share first - (1 - share) (second + ln v)
        slope[..., o + 3] = law * (total - share * first - (1 - share) * (second + logu[:, 1]))
        value = law + theta[..., :1] if self.has_offset else law
        return self.on_response(value, slope)

    def bounds(self, y: Array, logu: Array) -> Array:
        scale = float(np.log(typical(y)))
        offset = [(0.0 if self.response == "log" else -np.inf, np.inf)] if self.has_offset else []
        law = [(scale - 60.0, scale + 30.0), (0.003, 10.0)]
        return np.array([*offset, *law, *law], dtype=np.float64)

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """For given exponents and floor, (L - E)^(1/alpha_D) is linear in the two terms."""
        rows = []
        for share in (0.0, 0.5, 0.85) if self.has_offset else (0.0,):
            floor = share * float(np.min(y)) if np.min(y) > 0 else float(np.min(y)) - (1 - share) * typical(y)
            for a_n, a_d in itertools.product(LADDER, LADDER):
                excess = np.maximum(y - floor, 1e-12 * typical(y)) ** (1 / a_d)
                columns = np.stack([np.exp(-a_n / a_d * logu[:, 0]), np.exp(-logu[:, 1])], axis=1)
                w = weights / np.maximum(excess, 1e-300) ** 2
                moment = columns.T @ (w[:, None] * columns)
                c, _ = nonnegative_least_squares(moment, columns.T @ (w * excess), np.asarray(w @ excess**2))
                if not np.all(np.isfinite(c)):
                    continue
                p, q = a_d * np.log(np.maximum(c, 1e-9 * max(float(c.max()), 1e-300)))
                rows.append([*((floor,) if self.has_offset else ()), p, a_n, q, a_d])
        return np.array(rows)

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        o = int(self.has_offset)
        p, a_n, q, a_d = (theta[..., o + i] for i in range(4))
        with np.errstate(over="ignore"):
            out = {"Nc": centre[0] * np.exp(p / a_n), "alpha_N": a_n, "Dc": centre[1] * np.exp(q / a_d), "alpha_D": a_d}
        out = ({"E": theta[..., 0]} if self.has_offset else {}) | out
        return {name: np.asarray(value) for name, value in out.items()}

    def internal(self, name: str, value: float) -> tuple[int, float]:
        if name in ("Nc", "Dc"):
            raise UserError(
                f"fit: {name} cannot be held, it is not a coordinate of the fit",
                way_out="hold E, alpha_N or alpha_D, or fit chinchilla",
            )
        return super().internal(name, value)

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        out = []
        if self.has_offset and self.response == "log" and theta[0] < 1e-6 * float(np.median(y)):
            out.append(Flag("bound", "the floor E is zero within rounding: no floor is visible in these data"))
        for name, index in (("alpha_N", -3), ("alpha_D", -1)):
            if not ALPHA_USUAL[0] <= theta[index] <= ALPHA_USUAL[1]:
                words = f"exponent {name} = {theta[index]:.3g} lies outside .03 to 2: it stands for no power law"
                out.append(Flag("exponent", words))
        return out


@dataclasses.dataclass(frozen=True)
class Interaction(Form):
    """L = E + A N^-alpha + B D^-beta + C N^-g D^-h: a diagnostic of the additive law, never the law to quote.

    Internal parameters: those of the additive law, then C (of any sign, at the centre of both axes), g, h.
    """

    @property
    def additive(self) -> PowerSum:
        return PowerSum("chinchilla", 2, self.response)

    @property
    def _raw(self) -> PowerSum:
        return PowerSum("chinchilla", 2, "raw")

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self.additive.parameters, "C", "g", "h")

    @property
    def logarithmic(self) -> frozenset[str]:
        return frozenset(("A", "B"))

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return 0, 5

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        value, slope = self._raw.evaluate(theta[..., :5], logu)
        c, g, h = (theta[..., 5 + i, None] for i in range(3))
        term = np.exp(np.clip(-g * logu[:, 0] - h * logu[:, 1], -700.0, 700.0))
        mixed = np.stack([term, -c * term * logu[:, 0], -c * term * logu[:, 1]], axis=-1)
        return self.on_response(value + c * term, np.concatenate([slope, mixed], axis=-1))

    def bounds(self, y: Array, logu: Array) -> Array:
        scale = typical(y)
        return np.concatenate([self.additive.bounds(y, logu), [(-10 * scale, 10 * scale), (0.01, 3.0), (0.01, 3.0)]])

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        core = self.additive.candidates(logu, y, weights, grid)[0]
        size = 0.05 * float(np.ptp(y)) or 1e-6
        mixed = [(c, g, h) for c in (-size, 0.0, size) for g in (0.05, 0.3, 1.0) for h in (0.05, 0.3, 1.0)]
        return np.array([[*core, *rest] for rest in [*mixed, (size, 0.3, 2.0), (size, 2.0, 0.3), (-size, 2.0, 2.0)]])

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        c, g, h = (theta[..., 5 + i] for i in range(3))
        scale = np.exp(g * np.log(centre[0]) + h * np.log(centre[1]))
        return self.additive.named(theta[..., :5], centre) | {
            "C": np.asarray(c * scale),
            "g": np.asarray(g),
            "h": np.asarray(h),
        }

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        words = "an interaction is a diagnostic: read its interval and the residuals, quote the additive law"
        return [Flag("diagnostic", words), *self.additive.cautions(theta[:5], logu, y)]
