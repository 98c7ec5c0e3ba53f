"""A curve between chance and a plateau: sigmoid in log x, solved for the value by bisection (M4)."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms_base import Array, Flag, Form, typical, weighted_least_squares

LOGIT_REACH = 700.0


@dataclasses.dataclass(frozen=True)
class Bounded(Form):
    """(L - L_inf) / (L_0 - L)^a = beta x^-c (Alabdulmohsin et al. 2022, M4): starts at chance L_0, ends at L_inf.

    With `sign` -1 the same of a score, (S_inf - S) / (S - S_0)^a. At a = 0 it is the saturating power law. L = L_inf +
    (L_0 - L_inf) t, where ln t - a ln(1 - t) = gamma - c ln u rises in t and is solved by bisection and Newton steps.
    Internal parameters: [L_inf, L_0, a, gamma, c].
    """

    sign: int = 1
    ceiling: float = np.inf

    @property
    def parameters(self) -> tuple[str, ...]:
        letter = "S" if self.sign < 0 else "L"
        return f"{letter}_inf", f"{letter}_0", "a", "beta", "c"

    @property
    def profiled(self) -> dict[str, int]:
        return {self.parameters[0]: 0}

    @property
    def in_units_of_y(self) -> tuple[int, ...]:
        return 0, 1

    def evaluate(self, theta: Array, logu: Array) -> tuple[Array, Array]:
        end, start, a, gamma, c = (theta[..., i, None] for i in range(5))
        line = logu[:, 0]
        w = _logit_share(gamma - c * line, a)
        t, rest = _sigmoid(w), _sigmoid(-w)
        by_line = t * rest / (rest + a * t)  # dt / d(gamma - c ln u)
        gap = start - end
        log_rest = -np.logaddexp(0.0, w)  # ln(1 - t)
        slope = np.stack(
            np.broadcast_arrays(rest, t, gap * log_rest * by_line, gap * by_line, -gap * by_line * line), axis=-1
        )
        return self.on_response(end + gap * t, slope)

    def bounds(self, y: Array, logu: Array) -> Array:
        low, high = float(np.min(y)), float(np.max(y))
        span = (high - low) or abs(high) or 1.0
        middle = (low + high) / 2
        below = (0.0 if self.response == "log" else low - 100 * span, middle)
        above = (middle, high + 100 * span)
        if self.sign < 0:
            ends = [(middle, min(above[1], max(self.ceiling, middle))), below]
        else:
            ends = [below, above]
        return np.array([*ends, (0.0, 20.0), (-200.0, 200.0), (0.005, 20.0)], dtype=np.float64)

    def candidates(self, logu: Array, y: Array, weights: Array, grid: int) -> Array:
        """For given ends and a, gamma and c are a straight line."""
        box = self.bounds(y, logu)
        low, high = float(np.min(y)), float(np.max(y))
        span = (high - low) or 1e-6
        design = np.stack([np.ones(len(y)), -logu[:, 0]], 1)
        rows = []
        for near, far, a in itertools.product((0.02, 0.2, 1.0), (0.02, 0.2, 1.0), (0.05, 0.3, 1.0, 2.5)):
            ends = (high + near * span, low - far * span) if self.sign < 0 else (low - near * span, high + far * span)
            ends = tuple(np.clip(ends, box[:2, 0], box[:2, 1]))
            t = np.clip((y - ends[0]) / ((ends[1] - ends[0]) or 1e-12), 1e-6, 1 - 1e-6)
            # a line in the transformed value; points near an end say little about it
            gamma, c = weighted_least_squares(design, np.log(t) - a * np.log1p(-t), weights * t * (1 - t))
            rows.append([*ends, a, gamma, c])
        return np.array(rows)

    def named(self, theta: Array, centre: Array) -> dict[str, Array]:
        end, start, a, gamma, c = (theta[..., i] for i in range(5))
        gap = np.maximum(np.abs(start - end), 1e-300)
        with np.errstate(over="ignore"):
            beta = np.exp(gamma + c * np.log(centre[0]) + (1 - a) * np.log(gap))
        return dict(zip(self.parameters, (end, start, a, np.asarray(beta), c), strict=True))

    def internal(self, name: str, value: float) -> tuple[int, float]:
        if name == "beta":
            raise UserError(
                "fit: beta cannot be held, it is not a coordinate of the fit", way_out="hold the ends, a or c"
            )
        return super().internal(name, value)

    def cautions(self, theta: Array, logu: Array, y: Array) -> list[Flag]:
        box = self.bounds(y, logu)
        out = []
        end, start = self.parameters[:2]
        if theta[1] <= box[1, 0] or theta[1] >= box[1, 1]:
            words = f"{start} ran to its bound: where the curve starts is not visible; hold it at the chance level"
            out.append(Flag("bound", words))
        near = 1e-9 * typical(y)
        if theta[0] <= box[0, 0] + near or theta[0] >= box[0, 1] - near:
            out.append(Flag("bound", f"{end} ran to its bound: where the curve ends is not visible"))
        if theta[2] < 1e-6:
            out.append(Flag("bound", f"a is zero: no bend towards {start} is visible, power1 or score1 says the same"))
        return out


def _sigmoid(w: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -w))


def _logit_share(v: Array, a: Array) -> Array:
    """w = logit(t) with ln t - a ln(1 - t) = v: bisection on a bracket, with a Newton step wherever it stays inside."""
    v, a = np.broadcast_arrays(v, a)
    low, high = np.full(v.shape, -LOGIT_REACH), np.full(v.shape, LOGIT_REACH)
    w = np.clip(np.where(v < 0, v, v / np.maximum(a, 1e-3)), -LOGIT_REACH + 1, LOGIT_REACH - 1)
    for _ in range(80):
        value = -np.logaddexp(0.0, -w) + a * np.logaddexp(0.0, w) - v
        high, low = np.where(value > 0, w, high), np.where(value > 0, low, w)
        slope = _sigmoid(-w) + a * _sigmoid(w)
        step = w - value / np.maximum(slope, 1e-300)
        new = np.where((step > low) & (step < high), step, (low + high) / 2)
        done = np.max(np.abs(new - w) / (1 + np.abs(w)), initial=0.0) < 1e-15
        w = new
        if done:
            break
    return w
