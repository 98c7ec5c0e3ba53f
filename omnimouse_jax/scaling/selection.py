"""Which curve do the data ask for? Hold-out of the largest level first, each cell left out second, AICc third;
log-linear always beside.

AICc is not consulted at n <= 2k + 4 points (k counts the noise): there it picks the shortest formula whatever is true.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from omnimouse_jax.scaling.fit import Fit, fit
from omnimouse_jax.scaling.forms import Array, Form, make_form
from omnimouse_jax.scaling.uncertainty import Interval, leave_out, profile


@dataclasses.dataclass(frozen=True)
class HoldOut:
    """Prediction of the largest level of an axis by a fit without it: mean error (predicted - seen), its error."""

    axis: int
    error: float
    standard_error: float
    levels: int = 1  # how many of the largest were held out


@dataclasses.dataclass(frozen=True)
class Candidate:
    name: str
    fit: Fit  # least squares
    aicc: float | None
    hold_outs: tuple[HoldOut, ...]
    wide_hold_outs: tuple[HoldOut, ...] = ()  # without the two largest levels
    cell_error: float | None = None  # root mean square error at a cell that was left out, of each cell in turn


@dataclasses.dataclass(frozen=True)
class Selection:
    """`aicc_choice` is None where AICc was refused; `saturation`: plateau interval and whether it may be believed."""

    candidates: tuple[Candidate, ...]
    aicc_choice: str | None
    hold_out_choice: str | None
    plateau: Interval | None
    saturates: bool
    words: str

    def __getitem__(self, name: str) -> Candidate:
        return next(c for c in self.candidates if c.name == name)


def compare(x: Array, y: Array, *, score: bool, ceiling: float = 1.0, response: str | None = None) -> Selection:
    """Constant, log-linear and saturating curves of x (n, k) -> y (n,); `score`: higher is better.

    Losses are compared on their log scale, on the raw one if some are <= 0 or `response` says "raw"; on the log scale the
    straight line in logs is a pure power.
    """
    k = x.shape[1]
    response = "raw" if score else (response or ("log" if np.all(y > 0) else "raw"))
    names = ("score1", "score_joint") if score else ("power1", "chinchilla")
    curved = make_form(names[k - 1], response=response, ceiling=ceiling)
    forms: tuple[Form, ...] = (
        make_form("constant", response=response),
        make_form("log_linear", axes=k, response=response),
        curved,
    )
    noise = _pure_noise(x, np.log(y) if response == "log" else y)
    possible = [form for form in forms if len(y) > len(form.parameters)]
    bests = [fit(form, x, y, delta=np.inf, grid=12) for form in possible]
    if noise is None and bests:  # no repeats: what the form that fits best leaves over, not each form's own misfit
        noise = min(best.rmse * np.sqrt(best.n / (best.n - len(best.theta))) for best in bests) or None
    candidates = []
    for form, best in zip(possible, bests, strict=True):
        held = tuple(h for axis in range(k) if (h := _hold_out(form, x, y, axis, noise)) is not None)
        wide = tuple(h for axis in range(k) if (h := _hold_out(form, x, y, axis, noise, 2)) is not None)
        candidates.append(Candidate(form.name, best, _aicc(best), held, wide, cell_error(best, x)))
    legal = [c for c in candidates if c.aicc is not None]
    aicc_choice = min(legal, key=lambda c: c.aicc or 0.0).name if len(legal) == len(forms) else None
    tested = [c for c in candidates if len(c.hold_outs) == k]
    hold_choice = min(tested, key=lambda c: sum(h.error**2 for h in c.hold_outs)).name if len(tested) > 1 else None
    chosen = next((c for c in candidates if c.name == curved.name), None)
    plateau = profile(chosen.fit, chosen.fit.form.parameters[0]) if chosen is not None and len(y) > 4 else None
    saturates, words = _saturation(candidates, curved.name, hold_choice, plateau, score)
    return Selection(tuple(candidates), aicc_choice, hold_choice, plateau, saturates, words)


def _saturation(
    candidates: list[Candidate], curved: str, hold_choice: str | None, plateau: Interval | None, score: bool
) -> tuple[bool, str]:
    by_name = {c.name: c for c in candidates}
    if curved not in by_name or plateau is None or hold_choice is None:
        return False, "saturation not established: too few points to compare a curve with a straight line"
    line = by_name["log_linear"].hold_outs
    sign = 1.0 if score else -1.0
    too_good = any(sign * h.error > 2 * h.standard_error for h in line)
    closed = np.isfinite(plateau.high if score else plateau.low)
    if not score and by_name[curved].fit.form.response == "log":
        closed = closed and plateau.low > 0
    reasons = []
    if hold_choice != curved:
        reasons.append(f"the {hold_choice.replace('_', '-')} curve predicts the held-out largest level better")
    elif not too_good:
        reasons.append("a straight line in log x predicts the held-out largest level within its error")
    if not closed:
        reasons.append("the interval of the plateau is open")
    if reasons:
        return False, "saturation not established: " + "; ".join(reasons)
    name = "plateau" if score else "floor"
    return True, f"saturation established: {name} between {plateau.low:.4g} and {plateau.high:.4g}, and a straight " + (
        "line in log x overshoots the held-out largest level"
    )


def _aicc(best: Fit) -> float | None:
    n, k = best.n, len(best.theta) + 1
    if n <= 2 * k + 4:
        return None
    return float(2 * n * np.log(max(best.rmse, 1e-300)) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


def cell_error(found: Fit, cells: Array | None = None, most: int = 400) -> float | None:
    """Leave-one-cell-out error: root mean square over cells of (predicted - mean seen) on the response scale, each by a
    fit without the cell. `cells` (n, k): rows of one cell are equal, by default those of equal axes. None where a fit
    without a cell has no point to spare or there are more than `most` cells."""
    _, labels = np.unique(found.logu if cells is None else cells, axis=0, return_inverse=True)
    masks = [labels.ravel() == label for label in range(int(labels.max()) + 1)]
    if not 1 < len(masks) <= most or found.n - max(int(c.sum()) for c in masks) <= found.free:
        return None
    theta = leave_out(found, masks)
    value = found.form.evaluate(theta, found.logu)[0]
    errors = [float(np.mean(value[i, cell] - found.z[cell])) for i, cell in enumerate(masks)]
    return float(np.sqrt(np.mean(np.square(errors))))


def _hold_out(form: Form, x: Array, y: Array, axis: int, noise: float | None, levels: int = 1) -> HoldOut | None:
    every = np.unique(x[:, axis])
    if len(every) < levels + 2:
        return None
    largest = x[:, axis] >= every[-levels]
    kept = ~largest
    if kept.sum() <= len(form.parameters):
        return None
    part = fit(form, x[kept], y[kept], delta=np.inf, grid=12)
    value, slope = form.evaluate(part.theta, np.log(x[largest][:, : form.axes] / part.centre))
    seen = np.log(y[largest]) if form.response == "log" else y[largest]
    inner = form.evaluate(part.theta, part.logu)[1]
    sd = noise or part.rmse * np.sqrt(part.n / max(part.n - len(part.theta), 1))
    direction = slope.mean(axis=0)
    spread = float(direction @ np.linalg.pinv(inner.T @ inner) @ direction)
    return HoldOut(
        axis, float(np.mean(value - seen)), float(sd * np.sqrt(1 / largest.sum() + max(spread, 0.0))), levels
    )


def _pure_noise(x: Array, z: Array) -> float | None:
    """Standard deviation of repeats at the same x, pooled; None without repeats."""
    _, labels = np.unique(x, axis=0, return_inverse=True)
    labels = labels.ravel()
    count = np.bincount(labels)
    freedom = len(z) - len(count)
    if freedom < 2:
        return None
    residual = z - (np.bincount(labels, z) / count)[labels]
    return float(np.sqrt(residual @ residual / freedom)) or None
