"""Data-limited or parameter-limited? The answer in words, with its number, interval and a check that assumes no curve.

rho is the gain from doubling the data over the gain from doubling the parameters, at the largest model and amount
trained. It is far better identified than the exponents themselves.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from omnimouse_jax.scaling.fit import Fit, Flag, fit
from omnimouse_jax.scaling.forms import Array, PowerSum, make_form
from omnimouse_jax.scaling.grid import Grid
from omnimouse_jax.scaling.uncertainty import Bootstrap, Interval, across_sessions, bootstrap

DATA, PARAMETERS = "data-limited", "parameter-limited"
UNDECIDED, FLAT, NONE = "balanced or not determined", "no measurable return", "no verdict"


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`ratio` is rho with its interval over these sessions; `free_ratio` is rho0, from four cells and no curve."""

    name: str
    words: str
    ratio: float | None = None
    interval: Interval | None = None
    new_sessions: Interval | None = None
    free_ratio: float | None = None
    gain_parameters: float | None = None
    gain_data: float | None = None


@dataclasses.dataclass(frozen=True)
class Joint:
    """The fit of both axes: None where the design cannot carry it, and then `refusal` says why."""

    fit: Fit | None
    boot: Bootstrap | None
    flags: tuple[Flag, ...]
    refusal: str
    verdict: Verdict


def gains_per_doubling(theta: Array, centre: Array, n: float, d: float, offset: int = 1) -> tuple[Array, Array]:
    """(gN, gD): what a doubling of parameters and of data changes at (n, d); theta (..., 5) internal -> (...,) each."""
    out = []
    for j, value in enumerate((n, d)):
        ln_a, alpha = theta[..., offset + 2 * j], theta[..., offset + 2 * j + 1]
        out.append(np.asarray(np.exp(ln_a - alpha * np.log(value / centre[j])) * -np.expm1(-alpha * np.log(2.0))))
    return out[0], out[1]


def local_ratio(theta: Array, centre: Array, n: float, d: float, offset: int = 1) -> Array:
    """rho by derivatives with respect to the log axes, beta B D^-beta / (alpha A N^-alpha): small steps."""
    terms = []
    for j, value in enumerate((n, d)):
        ln_a, alpha = theta[..., offset + 2 * j], theta[..., offset + 2 * j + 1]
        terms.append(alpha * np.exp(ln_a - alpha * np.log(value / centre[j])))
    return np.asarray(terms[1] / terms[0])


def free_ratio(grid: Grid) -> float | None:
    """rho0: change per doubling between the two largest amounts at the largest size, over the same for sizes."""
    if min(len(grid.sizes), len(grid.amounts)) < 2:
        return None
    last_n, last_d = len(grid.sizes) - 1, len(grid.amounts) - 1
    by_data = grid.step("data", last_d - 1, last_d, last_n)
    by_size = grid.step("parameters", last_n - 1, last_n, last_d)
    if by_data is None or by_size is None:
        return None
    gain_d = grid.contrast(by_data).estimate / np.log2(grid.amounts[-1] / grid.amounts[-2])
    gain_n = grid.contrast(by_size).estimate / np.log2(grid.sizes[-1] / grid.sizes[-2])
    return float(gain_d / gain_n) if gain_n != 0 else None


def judge(
    grid: Grid,
    *,
    ceiling: float = 1.0,
    response: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    refuse: str = "",
) -> Joint:
    """Fit both axes of a grid where the design allows it and say what limits. `refuse`: a reason not to, known outside.

    Scores use S = S_inf - A N^-alpha - B D^-beta, losses L = E + A N^-alpha + B D^-beta (on the log scale, or "raw").
    """
    rho0 = free_ratio(grid)
    flags = design_flags(grid)
    if grid.is_flat():
        words = "No measurable return: within the noise neither more data nor more parameters change this."
        return Joint(None, None, flags, "the cells do not differ beyond noise", Verdict(FLAT, words, free_ratio=rho0))
    narrow = [why for axis in ("data", "parameters") if (why := grid.too_narrow(axis))]
    if narrow:
        refusal = "no exponent: range too narrow (" + "; ".join(narrow) + ")"
        words = f"No verdict on data against parameters, and {refusal}."
        return Joint(None, None, flags, refusal, Verdict(NONE, words, free_ratio=rho0))
    refusal = refuse or next((flag.words for flag in flags if flag.refuse), "")
    if refusal:
        return Joint(None, None, flags, refusal, Verdict(NONE, f"No verdict: {refusal}.", free_ratio=rho0))
    form = make_form(
        "score_joint" if grid.higher_is_better else "chinchilla",
        response="raw" if grid.higher_is_better else response,
        ceiling=ceiling,
    )
    x = np.stack([grid.parameters, grid.data], 1)
    found = fit(form, x, grid.score)
    boot = bootstrap(found, grid.cell_number, resamples=resamples, seed=seed)
    verdict = _decide(grid, found, boot, rho0)
    return Joint(found, boot, (*flags, *found.flags), "", verdict)


def design_flags(grid: Grid) -> tuple[Flag, ...]:
    """What the cells themselves warn of, before any fit."""
    flags = []
    falls, pairs = grid.reversals()
    if falls and falls >= 0.2 * pairs:
        words = (
            f"not monotone: {falls} of {pairs} neighbouring cells get worse beyond 2 standard errors as an axis grows"
        )
        flags.append(Flag("non_monotone", words, refuse=True))
    elif falls:
        words = f"{falls} of {pairs} neighbouring cells get worse beyond 2 standard errors as an axis grows"
        flags.append(Flag("non_monotone", words))
    if np.all(grid.count <= 1):
        flags.append(Flag("single_seed", "one run per cell: seed noise is not known, no interval over seeds"))
    elif grid.count[-1, -1] <= 1:
        flags.append(
            Flag("single_seed_at_top", "one run at the largest size and amount: its noise is taken from others")
        )
    if np.any(grid.count == 0):
        flags.append(Flag("missing_cells", f"{int(np.sum(grid.count == 0))} of {grid.count.size} cells have no run"))
    return tuple(flags)


def _decide(grid: Grid, found: Fit, boot: Bootstrap, rho0: float | None) -> Verdict:
    n, d = float(grid.sizes[-1]), float(grid.amounts[-1])
    g_n, g_d = (float(g) for g in gains_per_doubling(found.theta, found.centre, n, d))
    tiny = 1e-9 * float(np.median(np.abs(grid.score)))
    if g_n < tiny:
        words = (
            "No parameter term: the fit found no dependence on model size, so there is nothing to weigh data against."
        )
        return Verdict(DATA if g_d > tiny else FLAT, words, free_ratio=rho0, gain_parameters=g_n, gain_data=g_d)
    b_n, b_d = gains_per_doubling(boot.theta, found.centre, n, d)
    with np.errstate(divide="ignore"):
        interval = boot.interval(np.maximum(b_d, 1e-300) / np.maximum(b_n, 1e-300))
    ratio = g_d / g_n
    new = _per_session_ratio(grid, found, n, d, interval)
    told = f"{_two(ratio)} times [{_two(interval.low)}, {_two(interval.high)}]"
    if new is not None:
        told += f" (for {new.over} [{_two(new.low)}, {_two(new.high)}])"
    base = f"at the largest model and amount, doubling the data gains {told} what doubling the parameters gains"
    if interval.low > 1:
        name, head = DATA, "Data-limited"
    elif interval.high < 1:
        name, head = PARAMETERS, "Parameter-limited"
    else:
        name, head = UNDECIDED, "Balanced or not determined"
    check = ""
    if rho0 is not None:
        if name != UNDECIDED and (rho0 > 1) != (ratio > 1):
            name, head = UNDECIDED, "Not determined"
            check = (
                f" The four corner cells alone say {_two(rho0)}, on the other side of 1, so the fit is not believed."
            )
        else:
            check = f" The four corner cells alone, without any curve, say {_two(rho0)}."
    return Verdict(name, f"{head}: {base}.{check}", ratio, interval, new, rho0, g_n, g_d)


def _two(value: float) -> str:
    """Two significant digits, 3.0 not 3."""
    if not np.isfinite(value) or abs(value) > 1e6:
        return "open"
    if abs(value) < 1e-3:
        return "0.00"
    return f"{value:#.2g}".rstrip(".").replace("-", "\u2212") if abs(value) < 100 else f"{value:.0f}"


def _per_session_ratio(grid: Grid, found: Fit, n: float, d: float, runs: Interval) -> Interval | None:
    """Interval of rho over new sessions: the joint form fitted to each session, t interval of ln rho.

    Sessions share the runs, so the noise of `runs`, the interval over these sessions, is added in quadrature.
    """
    if grid.by_session.shape[1] < 2 or not isinstance(found.form, PowerSum):
        return None
    x = np.stack([grid.parameters, grid.data], 1)
    logs = []
    for column in grid.by_session.T:
        if found.form.response == "log" and (column <= 0).any():
            return None
        single = fit(found.form, x, column, grid=9)
        g_n, g_d = gains_per_doubling(single.theta, single.centre, n, d)
        logs.append(np.log(max(float(g_d), 1e-300)) - np.log(max(float(g_n), 1e-300)))
    if np.ptp(logs) > 50:  # a session without any term on one axis has no ratio
        return None
    found_interval = across_sessions(np.array(logs), grid.animals)
    if found_interval is None:
        return None
    if runs.low <= 0 or runs.is_open:
        return None
    middle = (found_interval.low + found_interval.high) / 2
    half = np.hypot((found_interval.high - found_interval.low) / 2, np.log(runs.high / runs.low) / 2)
    low, high = float(np.exp(middle - half)), float(np.exp(middle + half))
    return dataclasses.replace(
        found_interval, low=low, high=high, method=f"{found_interval.method} of ln rho, run noise added"
    )
