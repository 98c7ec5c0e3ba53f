"""What the next investment is worth and costs: more sessions against a larger model, and what is left to gain."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.ledger import Row
from omnimouse_jax.scaling.marginal import Worth, marginal_values
from omnimouse_jax.scaling.uncertainty import Interval
from omnimouse_jax.scaling.verdict import Joint

NEXT_SESSIONS = 10
REACH = 4  # times the largest amount trained: nothing is said beyond


@dataclasses.dataclass(frozen=True)
class Option:
    """A way to go on from the largest cell. Costs of the step alone, None where the ledger does not tell them."""

    name: str
    worth: Worth
    recorded_hours: float | None
    flops: float | None
    device_hours: float | None


@dataclasses.dataclass(frozen=True)
class Estimate:
    value: float
    interval: Interval


@dataclasses.dataclass(frozen=True)
class Prospects:
    """`exchange`: units of data that are worth a doubling of parameters, infinite if no amount is. `shares`: what parameters and
    data would still gain if each went to infinity, of what is left to gain in all. Both need a joint fit."""

    data: Option
    parameters: Option
    exchange: Estimate | None
    shares: tuple[Estimate, Estimate] | None  # parameters, data


@dataclasses.dataclass(frozen=True)
class CostLaw:
    """cost = exp(constant) N^by_size D^by_data, least squares in logs over runs."""

    constant: float
    by_size: float
    by_data: float

    def at(self, n: float, d: float) -> float:
        return float(np.exp(self.constant + self.by_size * np.log(n) + self.by_data * np.log(d)))

    @property
    def is_product(self) -> bool:
        """Cost grows as N x D within a fifth of a power: only then is there a compute-optimal line."""
        return abs(self.by_size - 1) < 0.2 and abs(self.by_data - 1) < 0.2


def cost_law(grid: Grid, cost: Sequence[float | None]) -> CostLaw | None:
    """None where a run has no cost, or an axis was not varied."""
    if any(c is None or not np.isfinite(c) or c <= 0 for c in cost) or min(len(grid.sizes), len(grid.amounts)) < 2:
        return None
    design = np.stack([np.ones(len(grid.parameters)), np.log(grid.parameters), np.log(grid.data)], 1)
    found, *_ = np.linalg.lstsq(design, np.log(np.array(cost, dtype=np.float64)), rcond=None)
    return CostLaw(float(found[0]), float(found[1]), float(found[2]))


def next_units(largest: float) -> int:
    """How many more sessions (animals) the page looks ahead: ten, or to REACH times the largest amount if that is less."""
    return max(1, int(min(NEXT_SESSIONS, (REACH - 1) * largest) + 1e-9))


def prospects(grid: Grid, joint: Joint, runs: Sequence[Row], data_axis: str) -> Prospects | None:
    """None where one of the axes was not varied."""
    n, d = float(grid.sizes[-1]), float(grid.amounts[-1])
    top = [row for row, level in zip(runs, grid.cell[:, 1], strict=True) if level == len(grid.amounts) - 1]
    noun = "animals" if data_axis == "n_animals" else "sessions"
    largest = d if noun == "animals" else float(np.mean([row["n_sessions"] for row in top]))
    more = next_units(largest)
    extra = more * d / largest
    try:
        found = marginal_values(grid, joint, extra=extra)
    except UserError:
        return None
    hours = [
        row["hours"] / row["n_animals" if noun == "animals" else "n_sessions"] for row in top if _priced(row, noun)
    ]
    flops = cost_law(grid, [row["flops"] for row in runs])
    time = cost_law(grid, [_device_hours(row) for row in runs])

    def option(name: str, worth: Worth, after: tuple[float, float], recorded: float | None) -> Option:
        costs = [law.at(*after) - law.at(n, d) if law is not None else None for law in (flops, time)]
        return Option(name, worth, recorded, costs[0], costs[1])

    recorded = more * float(np.mean(hours)) if len(hours) == len(top) else None
    return Prospects(
        option(f"next {more} {noun}", found.data, (n, d + extra), recorded),
        option("next doubling of parameters", found.parameters, (2 * n, d), 0.0),
        _exchange(joint, n, d),
        _shares(joint, n, d),
    )


def _priced(row: Row, noun: str) -> bool:
    return bool(row["hours"]) and bool(row["n_animals" if noun == "animals" else "n_sessions"])


def _device_hours(row: Row) -> float | None:
    devices = re.match(r"(\d+) x ", str(row["device"] or ""))
    return None if row["seconds"] is None else row["seconds"] / 3600 * (int(devices.group(1)) if devices else 1)


def _terms(joint: Joint, n: float, d: float) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """Parameters of the fit and of its resamples, where the law is a sum of a term per axis."""
    if joint.fit is None or joint.boot is None or not {"A", "alpha", "B", "beta"} <= set(joint.fit.parameters):
        return None
    return {k: np.asarray(v) for k, v in joint.fit.parameters.items()}, joint.boot.named()


def _exchange(joint: Joint, n: float, d: float) -> Estimate | None:
    """Units of data whose gain equals that of a doubling of parameters, at the largest cell."""
    terms = _terms(joint, n, d)
    if terms is None or joint.boot is None:
        return None

    def units(p: dict[str, Array]) -> Array:
        doubling = p["A"] * n ** -p["alpha"] * -np.expm1(-p["alpha"] * np.log(2.0))
        rest = 1 - doubling / (p["B"] * d ** -p["beta"])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.asarray(np.where(rest > 0, d * (np.maximum(rest, 1e-300) ** (-1 / p["beta"]) - 1), np.inf))

    value, resampled = (units(p) for p in terms)
    return Estimate(float(value), joint.boot.interval(resampled))


def _shares(joint: Joint, n: float, d: float) -> tuple[Estimate, Estimate] | None:
    """Shares of what is left to gain that more parameters and more data would bring."""
    terms = _terms(joint, n, d)
    if terms is None or joint.boot is None:
        return None

    def parts(p: dict[str, Array]) -> Array:
        left = np.stack([p["A"] * n ** -p["alpha"], p["B"] * d ** -p["beta"]])
        return np.asarray(left / left.sum(0))

    value, resampled = (parts(p) for p in terms)
    first, second = (Estimate(float(value[i]), joint.boot.interval(resampled[i])) for i in range(2))
    return first, second
