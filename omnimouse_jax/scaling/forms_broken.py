"""Power laws that bend: the broken neural scaling law (Caballero et al. 2022)."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms_base import Array, Flag, Form, typical, weighted_least_squares

MIN_POINTS = 12  # a break adds three parameters
MIN_SIDE = 3  # points on either side of a break


@dataclasses.dataclass(frozen=True)
class Broken(Form):
    """y = a + b x^-c0 prod_i (1 + (x/d_i)^(1/f_i))^(-c_i f_i): slope -c0, and -c_i steeper beyond break d_i.

    Internal parameters: [a, ln b, c0, then c_i, ln d_i, ln f_i of every break].
    """

    breaks: int = 1

    @property
    def parameters(self) -> tuple[str, ...]:
        each = (f"{letter}{i + 1}" for i in range(self.breaks) for letter in "cdf")
        return "a", "b", "c0", *each

    @property
    def profiled(self) -> dict[str, int]:
        return {"a": 0} | {f"d{i + 1}": 4 + 3 * i for i in range(self.breaks)}

    @property
    def logarithmic(self) -> frozenset[str]:
        return frozenset(("b", *(f"{letter}{i + 1}" for i in range(self.breaks) for letter in "df")))

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return (0,)

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        line = logu[:, 0]
        exponent = theta[..., 1, None] - theta[..., 2, None] * line
        parts = []
        for i in range(self.breaks):
            c, ln_d, ln_f = (theta[..., 3 + 3 * i + j, None] for j in range(3))
            f = np.exp(ln_f)
            s = (line - ln_d) / f
            bend = f * np.logaddexp(0.0, s)
            past = np.exp(-np.logaddexp(0.0, -s))
            exponent = exponent - c * bend
            parts += [-bend, c * past, -c * (bend - (line - ln_d) * past)]
        law = np.exp(np.clip(exponent, -700.0, 700.0))
        columns = np.broadcast_arrays(np.ones_like(law), law, -law * line, *(law * part for part in parts))
        return self.on_response(theta[..., :1] + law, np.stack(columns, axis=-1))

    def bounds(self, y: Array, logu: Array) -> Array:
        low, high = float(logu.min()), float(logu.max())
        offset = (0.0 if self.response == "log" else -np.inf, np.inf)
        each = [(-30.0, 30.0), (low - 1.0, high + 1.0), (float(np.log(1e-3)), float(np.log(20.0)))]
        scale = float(np.log(typical(y)))
        return np.array([offset, (scale - 400.0, scale + 400.0), (-30.0, 30.0), *each * self.breaks], dtype=np.float64)

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """For a given offset, places and widths of breaks, ln(y - a) is linear in ln b and the slopes."""
        line = logu[:, 0]
        span = float(np.ptp(y)) or 1e-6
        lowest = float(np.min(y))
        offsets = sorted(
            {max(lowest - s * span, 0.0 if self.response == "log" else -np.inf) for s in (0.003, 0.03, 0.3, 3)}
        )
        places = np.quantile(line, np.linspace(0.15, 0.85, 7 if self.breaks == 1 else 5))
        widths = (0.1, 0.4, 1.2) if self.breaks == 1 else (0.2, 0.8)
        rows = []
        for a, at, f in itertools.product(offsets, itertools.combinations(places, self.breaks), widths):
            bends = [f * np.logaddexp(0.0, (line - d) / f) for d in at]
            design = np.stack([np.ones_like(line), -line, *(-bend for bend in bends)], axis=1)
            excess = np.maximum(y - a, 1e-9 * span)
            weight = weights * (excess / y) ** 2 if self.response == "log" else weights * excess**2
            ln_b, c0, *c = weighted_least_squares(design, np.log(excess), weight)
            rows.append([a, ln_b, c0, *itertools.chain.from_iterable((c[i], at[i], np.log(f)) for i in range(len(at)))])
        return np.array(rows)

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        middle = np.log(centre[0])
        with np.errstate(over="ignore"):
            out = {"a": theta[..., 0], "b": np.exp(theta[..., 1] + theta[..., 2] * middle), "c0": theta[..., 2]}
            for i in range(self.breaks):
                c, ln_d, ln_f = (theta[..., 3 + 3 * i + j] for j in range(3))
                out |= {f"c{i + 1}": c, f"d{i + 1}": np.exp(ln_d + middle), f"f{i + 1}": np.exp(ln_f)}
        return {name: np.asarray(value) for name, value in out.items()}

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        out = []
        line = np.unique(logu[:, 0])
        for i in range(self.breaks):
            before, after = int(np.sum(line < theta[4 + 3 * i])), int(np.sum(line > theta[4 + 3 * i]))
            if min(before, after) < MIN_SIDE:
                words = (
                    f"break {i + 1} has {before} points before it and {after} beyond: at least {MIN_SIDE} on either "
                    "side are needed, a break outside the data is not identified"
                )
                out.append(Flag("not_identified", words, refuse=True))
        return out

    def check_size(self, n: int) -> None:
        """UserError: fewer points than a broken curve needs."""
        need = max(MIN_POINTS, 2 * len(self.parameters))
        if n < need:
            raise UserError(
                f"fit: {n} points for a curve with {self.breaks} break{'s' if self.breaks > 1 else ''}",
                way_out=f"it needs at least {need}; fit power1 or log_linear",
            )
