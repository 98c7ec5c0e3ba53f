"""Repeated data: how much a second epoch is worth (Muennighoff et al. 2023)."""

from __future__ import annotations

import dataclasses

import numpy as np

from omnimouse_jax.scaling.forms_base import Array, Flag, Form
from omnimouse_jax.scaling.forms_power import PowerSum

DECAYS_DATA = (0.5, 3.0, 15.0, 60.0, 1000.0)
DECAYS_SIZE = (0.3, 1.5, 5.0, 20.0, 200.0, 10000.0)


@dataclasses.dataclass(frozen=True)
class DataConstrained(Form):
    """L = E + A N'^-alpha + B D'^-beta for axes N, D (seen, repeats counted) and U_D (unique).

    D' = U_D + U_D R_D (1 - exp(-r_D / R_D)), r_D = D/U_D - 1 repeats; N' the same of U_N = min(N, N_opt(U_D)), the size
    that the unique data would pay for, with r_N = N/U_N - 1. R_D and R_N are the paper's R_D* and R_N*: the number of
    repeats after which a repeat is worth 1/e of new data. Internal: [E, ln A, alpha, ln B, beta, ln R_D, ln R_N].
    D and U_D are divided by the same number.
    """

    @property
    def _core(self) -> PowerSum:
        return PowerSum("chinchilla", 2, "raw")

    @property
    def parameters(self) -> tuple[str, ...]:
        return (*self._core.parameters, "R_D", "R_N")

    @property
    def profiled(self) -> dict[str, int]:
        return {"E": 0, "R_D": 5, "R_N": 6}

    @property
    def logarithmic(self) -> frozenset[str]:
        return frozenset(("A", "B", "R_D", "R_N"))

    def centre(self, x: Array) -> Array:
        middle = np.exp(np.mean(np.log(x), axis=0))
        return np.array([middle[0], middle[1], middle[1]])

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return (0,)

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        ln_a, alpha, ln_b, beta, ln_rd, ln_rn = (theta[..., 1 + i, None] for i in range(6))
        ln_n, ln_d = logu[:, 0], logu[:, 1]
        ln_unique = np.minimum(logu[:, 2], ln_d)
        ln_dash, _, by_rd = _worth(ln_d, ln_unique, ln_rd)
        # the best size for the unique data: alpha A N^-alpha = beta B U_D^-beta
        ln_opt = (np.log(alpha) + ln_a - np.log(beta) - ln_b + beta * ln_unique) / alpha
        over = ln_n > ln_opt
        ln_ndash, by_unique_n, by_rn = _worth(ln_n, np.where(over, ln_opt, ln_n), ln_rn)
        size = np.exp(np.clip(ln_a - alpha * ln_ndash, -700.0, 700.0))
        data = np.exp(np.clip(ln_b - beta * ln_dash, -700.0, 700.0))
        through = np.where(over, -alpha * size * by_unique_n, 0.0)  # d(size term) / d(ln U_N)
        slope = np.empty((*size.shape, 7))
        slope[..., 0] = 1.0
        slope[..., 1] = size + through / alpha
        slope[..., 2] = -size * ln_ndash + through * (1 / alpha - ln_opt) / alpha
        slope[..., 3] = data - through / alpha
        slope[..., 4] = -data * ln_dash + through * (ln_unique - 1 / beta) / alpha
        slope[..., 5] = -beta * data * by_rd
        slope[..., 6] = -alpha * size * by_rn
        return self.on_response(theta[..., :1] + size + data, slope)

    def bounds(self, y: Array, logu: Array) -> Array:
        core = PowerSum("chinchilla", 2, self.response).bounds(y, logu[:, :2])
        core[[2, 4]] = 0.02, 3.0
        return np.concatenate([core, np.log([(1e-2, 1e5), (1e-2, 1e5)])])

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """The additive law on the effective amounts of data for several decays, times several decays of the size."""
        rows = []
        additive = PowerSum("chinchilla", 2, self.response)
        for decay in DECAYS_DATA:
            ln_dash = _worth(logu[:, 1], np.minimum(logu[:, 2], logu[:, 1]), np.log(decay))[0]
            core = additive.starts(np.stack([logu[:, 0], ln_dash], 1), y, np.tile(weights, (2, 1)), min(grid, 12))[0]
            rows += [[*core, np.log(decay), np.log(other)] for other in DECAYS_SIZE]
        return np.array(rows)

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        core = self._core.named(theta[..., :5], centre[:2])
        return core | {"R_D": np.exp(theta[..., 5]), "R_N": np.exp(theta[..., 6])}

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        out = self._core.cautions(theta[:5], logu[:, :2], y)
        epochs = np.exp(logu[:, 1] - logu[:, 2])
        if epochs.max() <= 4:
            words = f"at most {epochs.max():.2g} epochs: repeats are too few to measure what they are worth"
            out.append(Flag("few_repeats", words))
        box = self.bounds(y, logu)
        for name, index in (("R_D", 5), ("R_N", 6)):
            if theta[index] <= box[index, 0] or theta[index] >= box[index, 1]:
                words = f"{name} ran to its bound {np.exp(theta[index]):.3g}: not identified by these data"
                out.append(Flag("not_identified", words))
        return out


def _worth(ln_total: Array, ln_unique: Array, ln_decay: Array | float) -> tuple[Array, Array, Array]:
    """ln of U + U R (1 - exp(-r/R)), r = total/U - 1, and its derivatives by ln U (total held) and ln R."""
    ratio = np.exp(np.clip(ln_total - ln_unique, 0.0, 700.0))
    decay = np.exp(ln_decay)
    share = (ratio - 1) / decay
    rest = np.exp(-share)
    factor = 1 - decay * np.expm1(-share)
    return (
        ln_unique + np.log(factor),
        1 - rest * ratio / factor,
        decay * (-np.expm1(-share) - share * rest) / factor,
    )
