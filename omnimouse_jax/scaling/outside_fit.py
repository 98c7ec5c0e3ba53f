"""A form fitted to somebody's table, with everything that a reader should know before quoting the numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.fit import Fit, Flag, fit
from omnimouse_jax.scaling.forms import FORMS, SCORES, Array, Form, make_form
from omnimouse_jax.scaling.grid import MIN_DECADES, MIN_LEVELS
from omnimouse_jax.scaling.outside import read_table
from omnimouse_jax.scaling.outside_cells import Cells, cells_of
from omnimouse_jax.scaling.outside_rows import (
    LOSS_FORMS,
    Request,
    Rows,
    ceiling_of,
    check_request,
    direction,
    inverse_variance,
    response_of,
    select_rows,
    trend,
)
from omnimouse_jax.scaling.outside_where import Truth
from omnimouse_jax.scaling.selection import Selection, cell_error, compare
from omnimouse_jax.scaling.uncertainty import Bootstrap, Interval, across_sessions, bootstrap, profile, with_run_noise
from omnimouse_jax.scaling.verdict import (
    FLAT,
    NO_RETURN,
    NONE,
    FreeRatio,
    Verdict,
    decide,
    free_ratio,
    gains_per_doubling,
    of_session,
)

VERDICT_FORMS = ("chinchilla", "score_joint", "kaplan", "kaplan_floor")
FEW_LEVELS = 12  # an axis with more levels and few rows at each holds out a fifth of its rows
TOGETHER = 0.98  # correlation of the log axes
NEAR = 2.0  # a factor on each axis
NOT_IDENTIFIED = 10.0  # a factor between the ends of an interval


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Prediction of the far end of an axis by a fit without it, on the response scale."""

    axis: str
    rule: str
    rows: int
    rmse: float
    mean_error: float
    rival_rmse: float


@dataclasses.dataclass(frozen=True)
class Outcome:
    request: Request
    rows: Rows
    fit: Fit
    boot: Bootstrap | None
    intervals: dict[str, Interval]
    errors: dict[str, float]  # bootstrap standard errors
    profiles: dict[str, Interval]
    new_sessions: dict[str, Interval]
    derived: dict[str, tuple[float, Interval | None]]
    rival: Fit
    held_out: tuple[HeldOut, ...]
    cell_error: float | None
    selection: Selection | None
    verdict: Verdict
    flags: tuple[Flag, ...]
    notes: tuple[str, ...]


def fit_table(request: Request) -> Outcome:
    """Everything for one form on one table. UserError: what in the table or the request stands in the way."""
    table = read_table(request.table)
    notes = list(table.notes)
    check_request(request)
    rows = select_rows(table, request, notes)
    higher = direction(request, rows)
    response = response_of(request, rows, notes)
    ceiling = ceiling_of(request, rows)
    form = make_form(
        request.form,
        axes=len(request.x),
        response=response,
        ceiling=ceiling,
        higher_is_better=higher and request.response != "one_minus",
    )
    rows = dataclasses.replace(rows, weights=inverse_variance(request, rows, form.response))
    found = fit(form, rows.x[:, : form.axes], rows.y, delta=request.delta, weights=rows.weights, fixed=request.fixed)
    line = make_form("log_linear", axes=rows.x.shape[1], response=form.response)
    rival = fit(line, rows.x, rows.y, delta=request.delta, weights=rows.weights)
    boot = None
    if found.free and request.resamples:
        boot = bootstrap(found, rows.clusters, resamples=request.resamples, seed=request.seed, unit=rows.unit)
    samples = boot.named() if boot else {}
    intervals = {k: boot.interval(v) for k, v in samples.items() if boot and k not in found.fixed}
    errors = {k: float(np.std(v, ddof=1)) for k, v in samples.items() if k not in found.fixed and len(v) > 1}
    profiles = {name: profile(found, name) for name in form.profiled if name not in found.fixed}
    cells = cells_of(rows, higher, notes)
    flags = [*found.flags, *_table_flags(request, rows, found, higher, cells), *_open(found, profiles)]
    verdict, new = _verdict(request, rows, found, boot, higher and request.response != "one_minus", flags, cells)
    return Outcome(
        request=request,
        rows=rows,
        fit=found,
        boot=boot,
        intervals=intervals,
        errors=errors,
        profiles=profiles,
        new_sessions=_new_sessions(request, rows, found, intervals) | new,
        derived=_derived(request, found, boot),
        rival=rival,
        held_out=tuple(_held_out(request, rows, found, line)),
        cell_error=cell_error(found, rows.x, most=120),
        selection=_selection(request, rows, higher, ceiling, form.response),
        verdict=verdict,
        flags=tuple(flags),
        notes=tuple(notes),
    )


def _table_flags(request: Request, rows: Rows, found: Fit, higher: bool, cells: Cells) -> list[Flag]:
    flags = []
    rising = trend(rows.x, rows.y)
    if request.form in LOSS_FORMS and rising > 0.3:
        words = f"the values rise with the axes, {request.form} falls: for scores take score1, score_joint or one_minus"
        flags.append(Flag("direction", words, refuse=True))
    if request.form in SCORES and rising < -0.3:
        words = f"the values fall with the axes, {request.form} rises: for losses take power1 or chinchilla"
        flags.append(Flag("direction", words, refuse=True))
    if not found.form.linear and found.form.axes:
        for j, name in enumerate(request.x[:2]):
            count, decades = len(np.unique(rows.x[:, j])), float(np.log10(rows.x[:, j].max() / rows.x[:, j].min()))
            need = MIN_DECADES["parameters" if j == 0 and len(request.x) > 1 else "data"]
            if count < MIN_LEVELS or decades < need - 1e-9:
                words = f"{name} has {count} levels over {decades:.2g} decades: an exponent needs {MIN_LEVELS} over {need:g}"
                flags.append(Flag("narrow", words, refuse=True))
    if cells.unbalanced:
        flags.append(Flag("unbalanced", cells.unbalanced, refuse=True))
    falls, pairs = cells.grid.reversals() if cells.grid else (0, 0)
    if falls >= 3 and falls >= 0.2 * pairs:
        words = f"not monotone: {falls} of {pairs} neighbouring cells get worse beyond 2 standard errors"
        flags.append(Flag("non_monotone", words, refuse=True))
    if request.form in VERDICT_FORMS and abs(np.corrcoef(np.log(rows.x[:, :2]).T)[0, 1]) > TOGETHER:
        words = f"{request.x[0]} and {request.x[1]} grow together: their terms cannot be told apart"
        flags.append(Flag("collinear", words, refuse=True))
    if request.form in VERDICT_FORMS and (far := _far_from_runs(request, rows)):
        flags.append(Flag("no_run_there", far))
    if found.r2 < 0.5 and found.form.axes:
        flags.append(Flag("poor", f"the curve explains little: R2 = {found.r2:.2f} on the scale of the fit"))
    if not found.fixed and len(np.unique(rows.clusters)) < 2 * len(found.theta):
        count = len(np.unique(rows.clusters))
        flags.append(Flag("few_clusters", f"{count} {rows.unit} to resample for {len(found.theta)} parameters"))
    return flags


def _operating_point(request: Request, rows: Rows) -> tuple[float, float]:
    """Size and amount at which the verdict is taken."""
    n, d = request.at or (float(rows.x[:, 0].max()), float(rows.x[:, 1].max()))
    return n, d


def _far_from_runs(request: Request, rows: Rows) -> str:
    """Words where no run lies near the point of the verdict; empty where one does."""
    distance = np.abs(np.log(rows.x[:, :2] / np.array(_operating_point(request, rows)))).max(axis=1)
    if distance.min() <= math.log(NEAR) + 1e-9:
        return ""
    place = ", ".join(f"{name} = {v:.4g}" for name, v in zip(request.x, _operating_point(request, rows), strict=False))
    near = ", ".join(f"{v:.4g}" for v in rows.x[int(np.argmin(distance)), :2])
    return (
        f"the verdict is taken at {place}, and no run lies within a factor {NEAR:g} of it on both axes (the nearest is at "
        f"{near}): it rests on the curve alone, there is no curve-free check there; --at takes it elsewhere"
    )


def _open(found: Fit, profiles: Mapping[str, Interval]) -> list[Flag]:
    """Profiles that do not close, in words; decays and breaks without a closed interval are not identified."""
    flags = []
    for name, interval in profiles.items():
        if name in found.form.logarithmic:
            low, high = max(interval.low, 0.0), interval.high
            if interval.is_open or low <= 0 or high > NOT_IDENTIFIED * low:
                ends = f"[{low:.3g}, {'open' if math.isinf(high) else f'{high:.3g}'}]"
                words = f"{name} = {found.parameters[name]:.3g} is not identified: its profile is flat over {ends}"
                flags.append(Flag("not_identified", words))
        elif interval.is_open:
            side = "below" if math.isinf(interval.low) and math.isfinite(interval.high) else "above"
            side = "both sides" if math.isinf(interval.low) and math.isinf(interval.high) else side
            flags.append(Flag("open", f"the profile interval of {name} is open ({side}): the data do not bound it"))
    return flags


def _verdict(
    request: Request,
    rows: Rows,
    found: Fit,
    boot: Bootstrap | None,
    higher: bool,
    flags: Sequence[Flag],
    cells: Cells,
) -> tuple[Verdict, dict[str, Interval]]:
    """Of laws of two axes: the first of --x is the size, the second the data."""
    if request.form not in VERDICT_FORMS or boot is None:
        why = "weighing two axes needs a law of two axes (chinchilla, score_joint, kaplan) and resamples"
        return Verdict(NONE, f"No verdict: {why}."), {}
    together = any(flag.code == "collinear" for flag in flags)
    if cells.grid is not None and not together and cells.grid.is_flat():
        return Verdict(FLAT, NO_RETURN), {}
    n, d = _operating_point(request, rows)
    free: FreeRatio | None = None
    if not request.at and cells.grid is not None:
        free = free_ratio(cells.grid)
    new = None
    if rows.session is not None:
        logs, animals = [], []
        for one, animal in _session_fits(request, rows, found):
            g_n, g_d = gains_per_doubling(one.form, one.theta, one.centre, n, d, higher)
            logs.append(math.log(max(float(g_d), 1e-300)) - math.log(max(float(g_n), 1e-300)))
            animals.append(animal)
        if len(logs) > 1 and np.ptp(logs) < 50:
            new = across_sessions(np.array(logs), animals)
    verdict = decide(found, boot, n, d, higher_is_better=higher, free=free, new_sessions=new)
    refusal = next((flag.words for flag in flags if flag.refuse and flag.code != "no_term"), "")
    if refusal:
        verdict = dataclasses.replace(verdict, name=NONE, words=f"No verdict: {refusal}.")
    return verdict, ({"rho": verdict.new_sessions} if verdict.new_sessions else {})


def _session_fits(request: Request, rows: Rows, found: Fit) -> list[tuple[Fit, str]]:
    """The form fitted to each session's rows, and its animal. UserError: a session that cannot carry the form."""
    out: list[tuple[Fit, str]] = []
    if rows.session is None:
        return out
    form = of_session(found.form, rows.y)
    for name in np.unique(rows.session):
        chosen = rows.session == name
        try:
            one = fit(
                form,
                rows.x[chosen][:, : found.form.axes],
                rows.y[chosen],
                delta=request.delta,
                weights=rows.weights[chosen],
                fixed=found.fixed,
                grid=9,
            )
        except UserError as error:
            raise UserError(f"--session {name}: {error.what}", way_out="leave it out by --where") from None
        out.append((one, str(rows.animal[chosen][0]) if rows.animal is not None else str(name)))
    return out


def _new_sessions(request: Request, rows: Rows, found: Fit, runs: Mapping[str, Interval]) -> dict[str, Interval]:
    """t intervals of the parameters over sessions (over animals where they repeat), with the noise of runs added."""
    fits = _session_fits(request, rows, found)
    out = {}
    for name in runs if len(fits) > 1 else ():
        values = np.array([one.parameters[name] for one, _ in fits])
        logs = name in found.form.logarithmic and np.all(values > 0) and runs[name].low > 0
        within = runs[name]
        if logs:
            values = np.log(values)
            within = dataclasses.replace(within, low=math.log(within.low), high=math.log(within.high))
        wide = with_run_noise(across_sessions(values, [animal for _, animal in fits]), within)
        if wide is not None:
            ends = (math.exp(min(wide.low, 700)), math.exp(min(wide.high, 700))) if logs else (wide.low, wide.high)
            out[name] = dataclasses.replace(wide, low=ends[0], high=ends[1])
    return out


def _derived(request: Request, found: Fit, boot: Bootstrap | None) -> dict[str, tuple[float, Interval | None]]:
    out: dict[str, tuple[float, Interval | None]] = {}
    p = found.parameters
    if request.form in ("chinchilla", "score_joint") and boot is not None:
        named = boot.named()
        share = named["beta"] / (named["alpha"] + named["beta"])
        out["compute_exponent"] = (p["beta"] / (p["alpha"] + p["beta"]), boot.interval(share))
    if request.response == "one_minus" and "E" in p:
        interval = boot.interval(1 - boot.named()["E"]) if boot is not None else None
        out["S_inf"] = (1 - p["E"], interval)
    return out


def _held_out(request: Request, rows: Rows, found: Fit, line: Form) -> list[HeldOut]:
    out = []
    form = found.form
    for j, name in enumerate(request.x):
        if request.holdout and name not in request.holdout:
            continue
        for rule, far in _far_ends(name, rows.x[:, j]):
            kept = ~far
            if kept.sum() < max(found.free + 1, 3) or any(np.ptp(column[kept]) == 0 for column in rows.x.T):
                continue
            w = rows.weights[kept]
            try:
                own = fit(
                    form,
                    rows.x[kept][:, : form.axes],
                    rows.y[kept],
                    delta=request.delta,
                    weights=w,
                    fixed=found.fixed,
                )
                other = fit(line, rows.x[kept], rows.y[kept], delta=request.delta, weights=w)
            except UserError:  # too few points are left for this form
                continue
            seen = form.transformed(rows.y[far])
            errors = _transformed(form, own.predict(rows.x[far][:, : form.axes])) - seen
            rival = _transformed(form, other.predict(rows.x[far])) - seen
            out.append(HeldOut(name, rule, int(far.sum()), _rms(errors), float(errors.mean()), _rms(rival)))
    return out


def _transformed(form: Form, predicted: Array) -> Array:
    """On the response scale, where a prediction may have underflowed to 0."""
    return form.transformed(np.maximum(predicted, 1e-300) if form.response == "log" else predicted)


def _rms(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _far_ends(name: str, column: Array) -> list[tuple[str, Truth]]:
    """The largest level and the two largest; of an axis without levels, the largest fifth of the rows."""
    levels = np.unique(column)
    if len(levels) <= FEW_LEVELS or len(column) >= 4 * len(levels):
        return [
            (f"the {'two largest levels' if k == 2 else 'largest level'} of {name}", column >= levels[-k])
            for k in (1, 2)
            if len(levels) > k + 1
        ]
    limit = float(np.quantile(column, 0.8))
    return [(f"{name} > {limit:.3g}, a fifth of the rows", column > limit)]


def _selection(request: Request, rows: Rows, higher: bool, ceiling: float, response: str) -> Selection | None:
    """Rivals and saturation, for curves with a plateau on an axis with levels."""
    if request.form not in ("power1", "chinchilla", "score1", "score_joint") or len(rows.y) < 5:
        return None
    if any(len(np.unique(column)) > 3 * FEW_LEVELS for column in rows.x.T):
        return None
    score = request.form in SCORES
    found = compare(rows.x, rows.y, score=score, ceiling=ceiling, response=None if score else response)
    asked = {
        "--weights": request.weights,
        "--sd": request.sd,
        "--fix": request.fixed,
        "--delta": request.delta != "auto",
    }
    ignored = [flag for flag, given in asked.items() if given]
    if not ignored:
        return found
    words = f"{found.words} (forms compared by least squares on all rows, without {', '.join(ignored)})"
    return dataclasses.replace(found, words=words)


def formula(name: str) -> str:
    """A form in one line."""
    return FORMS.get(name, FORMS["bnsl"] if name.startswith("bnsl") else name)
