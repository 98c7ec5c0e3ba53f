"""Data-limited or parameter-limited? The answer in words, with its number, interval and a check that assumes no curve.

rho is the gain from doubling the data over the gain from doubling the parameters, at the largest model and amount
trained. It is far better identified than the exponents themselves.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import stats

from omnimouse_jax.scaling.fit import Fit, Flag, fit, predict
from omnimouse_jax.scaling.forms import Array, Form, PowerSum, make_form
from omnimouse_jax.scaling.grid import MIN_DECADES, Grid
from omnimouse_jax.scaling.uncertainty import (
    LEVEL,
    Bootstrap,
    Interval,
    across_sessions,
    bootstrap,
    with_run_noise,
)

DATA, PARAMETERS = "data-limited", "parameter-limited"
UNDECIDED, FLAT, NONE = "balanced or not determined", "no measurable return", "no verdict"
NO_RETURN = "No measurable return: within the noise neither more data nor more parameters change this."
STEP = 1e-4  # of a log axis, for derivatives


@dataclasses.dataclass(frozen=True)
class FreeRatio:
    """rho0 with no curve: gains per doubling between the two largest levels of each axis, from three cells.

    `interval`: Fieller's with the pooled noise of runs; open where the gain from parameters may be zero, None where no
    noise is known.
    """

    ratio: float | None
    gain_data: float
    gain_parameters: float
    interval: Interval | None


@dataclasses.dataclass(frozen=True)
class Verdict:
    """`ratio` is rho with its interval over these sessions; `free_ratio` is rho0, from three cells and no curve.

    `gain_*`: improvement per doubling at the largest size and amount; `local_ratio`: rho by derivatives (small steps);
    `share_*`: what is left to gain along each axis, of all that is reducible there.
    """

    name: str
    words: str
    ratio: float | None = None
    interval: Interval | None = None
    new_sessions: Interval | None = None
    free_ratio: float | None = None
    gain_parameters: float | None = None
    gain_data: float | None = None
    gain_parameters_interval: Interval | None = None
    gain_data_interval: Interval | None = None
    local_ratio: float | None = None
    share_parameters: float | None = None
    share_data: float | None = None
    free: FreeRatio | None = None


@dataclasses.dataclass(frozen=True)
class Joint:
    """The fit of both axes: None where the design cannot carry it, and then `refusal` says why."""

    fit: Fit | None
    boot: Bootstrap | None
    flags: tuple[Flag, ...]
    refusal: str
    verdict: Verdict
    session_fits: tuple[Fit, ...] = ()  # the same form fitted to each evaluation session, where that was possible


@dataclasses.dataclass(frozen=True)
class Claim:
    """Whether "more of this axis brings nothing worth having" may be said, and why or why not."""

    holds: bool
    words: str


def gains_per_doubling(
    form: Form, theta: Array, centre: Array, n: float, d: float, higher_is_better: bool = False
) -> tuple[Array, Array]:
    """(gN, gD): what a doubling of parameters and of data improves at (n, d); theta (..., P) internal -> (...,) each."""
    value = predict(form, theta, centre, np.array([[n, d], [2 * n, d], [n, 2 * d]]))
    sign = 1.0 if higher_is_better else -1.0
    return np.asarray(sign * (value[..., 1] - value[..., 0])), np.asarray(sign * (value[..., 2] - value[..., 0]))


def local_ratio(form: Form, theta: Array, centre: Array, n: float, d: float) -> Array:
    """rho by derivatives with respect to the log axes, for small steps (of additive laws: beta B D^-beta / (alpha A
    N^-alpha))."""
    up, down = math.exp(STEP), math.exp(-STEP)
    value = predict(form, theta, centre, np.array([[n * up, d], [n * down, d], [n, d * up], [n, d * down]]))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((value[..., 2] - value[..., 3]) / (value[..., 0] - value[..., 1]))


def remaining_shares(found: Fit, n: float, d: float) -> tuple[float, float] | None:
    """(fN, fD): the terms of the two axes at (n, d), of their sum; None for laws that are not a sum of two terms."""
    if not isinstance(found.form, PowerSum) or found.form.axes != 2:
        return None
    ln_a, alpha, ln_b, beta = found.theta[-4:]
    terms = np.exp([ln_a - alpha * np.log(n / found.centre[0]), ln_b - beta * np.log(d / found.centre[1])])
    return float(terms[0] / terms.sum()), float(terms[1] / terms.sum())


def free_ratio(grid: Grid) -> FreeRatio | None:
    """rho0: change per doubling between the two largest amounts at the largest size, over the same for sizes; None
    where one of the three cells has no run."""
    if min(len(grid.sizes), len(grid.amounts)) < 2:
        return None
    last_n, last_d = len(grid.sizes) - 1, len(grid.amounts) - 1
    by_data = grid.step("data", last_d - 1, last_d, last_n)
    by_size = grid.step("parameters", last_n - 1, last_n, last_d)
    if by_data is None or by_size is None:
        return None
    by_data = by_data / np.log2(grid.amounts[-1] / grid.amounts[-2])
    by_size = by_size / np.log2(grid.sizes[-1] / grid.sizes[-2])
    gain_d, gain_n = grid.contrast(by_data).estimate, grid.contrast(by_size).estimate
    ratio = float(gain_d / gain_n) if gain_n != 0 else None
    return FreeRatio(ratio, gain_d, gain_n, _fieller(grid, by_data, by_size, gain_d, gain_n))


def _fieller(grid: Grid, top: Array, bottom: Array, top_value: float, bottom_value: float) -> Interval | None:
    """Interval of a ratio of two contrasts that share noise (Fieller 1954)."""
    first, freedom = grid.error(top)
    second, _ = grid.error(bottom)
    both, _ = grid.error(top + bottom)
    if not freedom:
        return None
    covariance = (both**2 - first**2 - second**2) / 2
    t2 = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) ** 2
    # values r with (top - r bottom)^2 <= t^2 var(top - r bottom): a quadratic in r
    a = bottom_value**2 - t2 * second**2
    b = -2 * (top_value * bottom_value - t2 * covariance)
    c = top_value**2 - t2 * first**2
    method = f"Fieller with {freedom:.3g} df; {grid.noise[2]}"
    if a <= 0 or b * b - 4 * a * c < 0:
        return Interval(-math.inf, math.inf, "these sessions", method, len(grid.score))
    root = math.sqrt(b * b - 4 * a * c)
    return Interval((-b - root) / (2 * a), (-b + root) / (2 * a), "these sessions", method, len(grid.score))


def saturation_claim(
    what: str, gain: Interval | None, smallest: float, *, converged: bool | None, tuned: bool | None
) -> Claim:
    """Equivalence test of "saturates": the interval of the gain per doubling contains 0 and ends below `smallest`, the
    smallest gain of interest; and larger models had `converged` and a learning rate `tuned` per size."""
    reasons = []
    if gain is None:
        reasons.append("the gain has no interval")
    elif gain.low > 0:
        reasons.append(f"a doubling still gains at least {gain.low:.2g}")
    if gain is not None and not gain.high < smallest:
        reasons.append(f"a gain of {gain.high:.2g} per doubling is not excluded, {smallest:g} would matter")
    for known, yes in (
        (converged, "larger models reached a lower training loss"),
        (tuned, "the learning rate was tuned per size"),
    ):
        if not known:
            reasons.append(f"it is not {'known whether' if known is None else 'true that'} {yes}")
    if reasons:
        return Claim(False, f"saturation in {what} not established: " + "; ".join(reasons))
    return Claim(True, f"saturates in {what}: a doubling gains less than {smallest:g}, if anything")


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
    free = free_ratio(grid)
    blank = Verdict(NONE, "", free_ratio=free.ratio if free else None, free=free)
    flags = design_flags(grid)
    if grid.is_flat() and not grid.noise[1]:
        refusal = (
            "the noise of runs is not known, and the cells differ by no more than a plane through them leaves over"
        )
        return Joint(
            None, None, flags, refusal, dataclasses.replace(blank, words=f"No verdict: {refusal}. Train more seeds.")
        )
    if grid.is_flat():
        told = dataclasses.replace(blank, name=FLAT, words=NO_RETURN)
        return Joint(None, None, flags, "the cells do not differ beyond noise", told)
    narrow = [why for axis in ("data", "parameters") if (why := grid.too_narrow(axis))]
    if narrow:
        wide = all(grid.span(axis)[1] >= MIN_DECADES[axis] for axis in MIN_DECADES if grid.too_narrow(axis))
        refusal = f"no exponent: {'too few levels' if wide else 'range too narrow'} (" + "; ".join(narrow) + ")"
        words = f"No verdict on data against parameters, and {refusal}."
        return Joint(None, None, flags, refusal, dataclasses.replace(blank, words=words))
    refusal = refuse or next((flag.words for flag in flags if flag.refuse), "")
    if refusal:
        return Joint(None, None, flags, refusal, dataclasses.replace(blank, words=f"No verdict: {refusal}."))
    higher = grid.higher_is_better
    form = make_form(
        "score_joint" if higher else "chinchilla",
        response="raw" if higher or (response is None and np.any(grid.score <= 0)) else response,
        ceiling=ceiling,
    )
    x = np.stack([grid.parameters, grid.data], 1)
    found = fit(form, x, grid.score)
    orders = grid.order_noise[1] > 0
    boot = bootstrap(
        found,
        grid.clusters,
        resamples=resamples,
        seed=seed,
        unit="cells and nested orders" if orders else "cells",
    )
    sessions = _session_fits(grid, found)
    n, d = float(grid.sizes[-1]), float(grid.amounts[-1])
    new = _new_sessions_ratio(grid, sessions, n, d)
    verdict = decide(found, boot, n, d, higher_is_better=higher, free=free, new_sessions=new)
    return Joint(found, boot, (*flags, *found.flags), "", verdict, sessions)


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


def decide(
    found: Fit,
    boot: Bootstrap,
    n: float,
    d: float,
    *,
    higher_is_better: bool,
    free: FreeRatio | None = None,
    new_sessions: Interval | None = None,
) -> Verdict:
    """The verdict of a fitted law of two axes at (n, d), the largest trained.

    `new_sessions`: interval of ln rho from fits per session, without the noise of runs, which is added here.
    """
    g_n, g_d = (float(g) for g in gains_per_doubling(found.form, found.theta, found.centre, n, d, higher_is_better))
    b_n, b_d = gains_per_doubling(found.form, boot.theta, found.centre, n, d, higher_is_better)
    rho0 = free.ratio if free else None
    out = Verdict(
        NONE,
        "",
        free_ratio=rho0,
        gain_parameters=g_n,
        gain_data=g_d,
        gain_parameters_interval=boot.interval(b_n),
        gain_data_interval=boot.interval(b_d),
        free=free,
    )
    tiny = 1e-9 * float(np.median(np.abs(found.y)))
    if g_n < tiny and g_d < tiny:
        return dataclasses.replace(out, name=FLAT, words=NO_RETURN)
    if g_n < tiny or g_d < tiny:
        return _one_term(out, boot.interval(b_d - b_n), no_parameters=g_n < tiny)
    with np.errstate(divide="ignore"):
        interval = boot.interval(np.maximum(b_d, 1e-300) / np.maximum(b_n, 1e-300))
    ratio = g_d / g_n
    new = _add_runs(new_sessions, interval)
    shares = remaining_shares(found, n, d) or (None, None)
    out = dataclasses.replace(
        out,
        ratio=ratio,
        interval=interval,
        new_sessions=new,
        local_ratio=float(local_ratio(found.form, found.theta, found.centre, n, d)),
        share_parameters=shares[0],
        share_data=shares[1],
    )
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
    if free is not None and rho0 is not None:
        if name != UNDECIDED and (free.gain_data > free.gain_parameters) != (ratio > 1):
            name, head = NONE, "No verdict"
            check = (
                f" The cells at the corner alone say {_two(rho0)}, on the other side of 1, so the fit is not believed."
            )
        else:
            check = f" The cells at the corner alone, without any curve, say {_two(rho0)}{_ends(free.interval)}."
    return dataclasses.replace(out, name=name, words=f"{head}: {base}.{check}")


def _one_term(out: Verdict, apart: Interval, *, no_parameters: bool) -> Verdict:
    """Where the optimiser put one term at zero there is no ratio; `apart`: the gain from data minus the gain from
    parameters, which alone can say that the other axis limits."""
    words = (
        "No parameter term: the fit leaves nothing to gain from a still larger model, so there is no ratio"
        if no_parameters
        else "No data term: the fit leaves nothing to gain from still more data, so a ratio would be zero"
    )
    told = f"a doubling of the data minus one of the parameters gains {apart.low:.2g} to {apart.high:.2g}"
    if apart.low > 0:
        return dataclasses.replace(out, name=DATA, words=f"Data-limited. {words}; {told}.")
    if apart.high < 0:
        return dataclasses.replace(out, name=PARAMETERS, words=f"Parameter-limited. {words}; {told}.")
    return dataclasses.replace(out, name=UNDECIDED, words=f"Not determined. {words}, and {told}, which contains 0.")


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return " (interval open)" if interval.is_open else f" [{_two(interval.low)}, {_two(interval.high)}]"


def _add_runs(log_ratio: Interval | None, runs: Interval) -> Interval | None:
    """Interval of ln rho over new sessions -> of rho, with the noise of runs."""
    if log_ratio is None or runs.low <= 0 or runs.is_open:
        return None
    logs = dataclasses.replace(runs, low=math.log(runs.low), high=math.log(runs.high))
    wide = with_run_noise(dataclasses.replace(log_ratio, method=f"{log_ratio.method} of ln rho"), logs)
    if wide is None:
        return None
    return dataclasses.replace(wide, low=math.exp(wide.low), high=math.exp(wide.high))


def _two(value: float) -> str:
    """Two significant digits, 3.0 not 3."""
    if not np.isfinite(value) or abs(value) > 1e6:
        return "open"
    if abs(value) < 1e-3:
        return "0.00"
    return f"{value:#.2g}".rstrip(".").replace("-", "\u2212") if abs(value) < 100 else f"{value:.0f}"


def _session_fits(grid: Grid, found: Fit) -> tuple[Fit, ...]:
    """The form fitted to every evaluation session; empty with one session or where a session cannot carry it."""
    if grid.by_session.shape[1] < 2 or (found.form.response == "log" and np.any(grid.by_session <= 0)):
        return ()
    x = np.stack([grid.parameters, grid.data], 1)
    form = of_session(found.form, grid.by_session)
    return tuple(fit(form, x, column, grid=9) for column in grid.by_session.T)


def of_session(form: Form, scores: Array) -> Form:
    """The form for one session's scores: a ceiling is one of the mean over sessions, single sessions may lie above."""
    if not isinstance(form, PowerSum):
        return form
    return dataclasses.replace(form, ceiling=1.0 if np.max(scores) <= 1 else math.inf)


def _new_sessions_ratio(grid: Grid, fits: tuple[Fit, ...], n: float, d: float) -> Interval | None:
    """t interval of ln rho over the fits per session; None where a session has no term on one axis: no ratio there."""
    logs = []
    for one in fits:
        g_n, g_d = gains_per_doubling(one.form, one.theta, one.centre, n, d, grid.higher_is_better)
        logs.append(math.log(max(float(g_d), 1e-300)) - math.log(max(float(g_n), 1e-300)))
    if len(logs) < 2 or np.ptp(logs) > 50:
        return None
    return across_sessions(np.array(logs), grid.animals)
