"""Robust estimation of scaling curves: a global start, a Huber polish, and flags in words.

Estimator (after Hoffmann et al. 2022, with the corrections of Besiroglu et al. 2024): minimise the sum of Huber losses
of the residuals on the response scale. The objective is divided by delta^2, so that the optimiser does not stop early
on a sum of ~1e-3; gradients are analytic and everything is float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms import ALPHA_BOUNDS, Array, Form, LogLinear, PowerSum

HUBER_EFFICIENCY = 1.345  # 95 % efficient on Gaussian residuals
MAD_TO_SD = 1.4826


@dataclasses.dataclass(frozen=True)
class Flag:
    """A reason for caution: `code` for programs, `words` for people. `refuse`: the parameters should not be quoted."""

    code: str
    words: str
    refuse: bool = False


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted curve. `parameters` are in the table's units, `centred` for axes divided by their geometric means."""

    form: Form
    theta: Array  # internal parameters (P,)
    centre: Array  # geometric means of the axes (k,)
    parameters: dict[str, float]
    centred: dict[str, float]
    delta: float
    objective: float  # sum of Huber losses, not divided by anything
    r2: float  # on the response scale
    rmse: float
    n: int
    gradient: float  # largest |gradient| of the scaled objective, per standard error of the parameter, bounds respected
    condition: float  # of the normal matrix, columns scaled to one
    optima: int  # distinct optima within 1 % of the best objective
    flags: tuple[Flag, ...]
    logu: Array = dataclasses.field(repr=False)
    z: Array = dataclasses.field(repr=False)
    weights: Array = dataclasses.field(repr=False)

    def predict(self, x: Array) -> Array:
        """Curve at `x` (m, k), in the units of the table, on the natural scale."""
        return predict(self.form, self.theta, self.centre, x)

    @property
    def refused(self) -> bool:
        return any(flag.refuse for flag in self.flags)


def predict(form: Form, theta: Array, centre: Array, x: Array) -> Array:
    """Curves of one or many parameter vectors (..., P) at x (m, k): (..., m) on the natural scale."""
    value = form.evaluate(theta, np.log(x / centre))[0]
    return np.exp(value) if form.response == "log" else value


def fit(
    form: Form,
    x: Array,
    y: Array,
    *,
    delta: float | str = "auto",
    weights: Array | None = None,
    grid: int = 18,
) -> Fit:
    """Fit `form` to y (n,) at x (n, k).

    `delta`: "auto" (1.345 robust standard deviations of the residuals), a number (1e-3 is what the published language
    model fits used), or inf for least squares. `weights` (n,) multiply the squared residuals (1 / variance up to a
    factor). UserError: non-positive axes, NaN, a loss <= 0 on the log scale, fewer points than parameters.
    """
    x, y = _checked(form, x, y)
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    centre = np.exp(np.mean(np.log(x), axis=0)) if x.shape[1] else np.ones(0)
    logu = np.log(x / centre)
    z = np.log(y) if form.response == "log" else y
    box = form.bounds(y)
    start = np.clip(form.starts(logu, y, w[None], grid), box[:, 0], box[:, 1])
    least, _ = polish(form, start, logu, z, w[None], np.inf, box)
    width = _scale_of_residuals(z - form.evaluate(least[0], logu)[0], z) if delta == "auto" else float(delta)
    theta, optima = least[0], 1
    for _ in range(2 if delta == "auto" else 1):
        candidates = np.concatenate([start, least, theta[None]])
        found, values = polish(form, candidates, logu, z, np.broadcast_to(w, (len(candidates), len(w))), width, box)
        theta = _lbfgs(form, found[np.argmin(values)], logu, z, w, width, box)
        optima = _distinct(form, found, values, logu, z)
        if delta == "auto":
            width = _scale_of_residuals(z - form.evaluate(theta, logu)[0], z)
    return _summary(form, theta, centre, logu, z, w, width, box, optima, x, y)


def polish(
    form: Form,
    theta: Array,
    logu: Array,
    z: Array,
    weights: Array,
    delta: float,
    box: Array,
    *,
    fixed: Sequence[int] = (),
    iterations: int = 300,
) -> tuple[Array, Array]:
    """Levenberg-Marquardt on the Huber objective for many problems at once.

    theta (R, P) starts, weights (R, n) one row per problem (bootstrap counts), box (P, 2). Outliers enter by their
    Huber weight, which keeps each step a descent. `fixed` parameters stay. Returns theta (R, P) and the objective,
    sum of w * Huber(residual / delta), (R,). With delta = inf the objective is half the weighted sum of squares.
    """
    theta = np.array(theta, dtype=np.float64)
    unit = delta if np.isfinite(delta) else 1.0
    knee = 1.0 if np.isfinite(delta) else np.inf
    frozen = np.zeros(theta.shape[1], dtype=bool)
    frozen[list(fixed)] = True

    def residual(t: Array, rows: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        value, slope = form.evaluate(t, logu)
        r = (z - value) / unit
        size = np.abs(r)
        cost = np.where(size <= knee, 0.5 * r * r, knee * (size - 0.5 * knee) if np.isfinite(knee) else 0.0)
        return r, slope, np.einsum("rn,rn->r", weights[rows], cost)

    out, objective = theta.copy(), np.empty(len(theta))
    rows = np.arange(len(theta))
    r, slope, cost = residual(theta, rows)
    objective[:] = cost
    damping = np.full(len(theta), 1e-3)
    calm = np.zeros(len(theta), dtype=int)
    for _ in range(iterations):
        if not len(rows):
            break
        current = out[rows]
        w = weights[rows] * np.minimum(1.0, knee / np.maximum(np.abs(r), 1e-300))
        weighted = slope * w[..., None]
        gradient = -np.einsum("rnp,rn->rp", weighted, r) / unit  # of the objective
        normal = np.matmul(np.swapaxes(weighted, 1, 2), slope) / unit**2
        held = ((current <= box[:, 0]) & (gradient > 0)) | ((current >= box[:, 1]) & (gradient < 0)) | frozen
        gradient = np.where(held, 0.0, gradient)
        normal = np.where(held[:, :, None] | held[:, None, :], 0.0, normal)
        diagonal = np.einsum("rpp->rp", normal).copy()
        floor = 1e-12 * diagonal.max(axis=1, keepdims=True) + 1e-300
        index = np.arange(theta.shape[1])
        normal[:, index, index] += damping[rows, None] * np.maximum(diagonal, floor) + np.where(held, 1.0, floor)
        step = np.linalg.solve(normal, -gradient[..., None])[..., 0]
        trial = np.clip(current + step, box[:, 0], box[:, 1])
        r_new, slope_new, cost_new = residual(trial, rows)
        better = cost_new <= cost
        small = cost - cost_new <= 1e-13 * cost + 1e-26
        calm[rows] = np.where(better & small, calm[rows] + 1, np.where(better, 0, calm[rows]))
        damping[rows] = np.clip(np.where(better, damping[rows] * 0.2, damping[rows] * 6.0), 1e-14, 1e12)
        out[rows[better]] = trial[better]
        r, slope = np.where(better[:, None], r_new, r), np.where(better[:, None, None], slope_new, slope)
        cost = np.where(better, cost_new, cost)
        objective[rows] = cost
        keep = (calm[rows] < 2) & (damping[rows] < 1e10)
        if not keep.all():
            rows, r, slope, cost = rows[keep], r[keep], slope[keep], cost[keep]
    return out, objective


def _lbfgs(form: Form, theta: Array, logu: Array, z: Array, w: Array, delta: float, box: Array) -> Array:
    unit, knee = (delta, 1.0) if np.isfinite(delta) else (_scale_of_residuals(np.zeros(1), z), np.inf)

    def objective(t: Array) -> tuple[float, Array]:
        value, slope = form.evaluate(t, logu)
        r = (z - value) / unit
        inside = np.abs(r) <= knee
        cost = np.where(inside, 0.5 * r * r, np.abs(r) - 0.5)
        psi = np.where(inside, r, np.sign(r))
        return float(w @ cost), -(w * psi) @ slope / unit

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    found = optimize.minimize(objective, theta, jac=True, method="L-BFGS-B", bounds=box, options=options)
    return found.x if found.fun <= objective(theta)[0] else theta


def _summary(
    form: Form,
    theta: Array,
    centre: Array,
    logu: Array,
    z: Array,
    w: Array,
    delta: float,
    box: Array,
    optima: int,
    x: Array,
    y: Array,
) -> Fit:
    value, slope = form.evaluate(theta, logu)
    residual = z - value
    knee = delta if np.isfinite(delta) else np.inf
    size = np.abs(residual)
    cost = 0.5 * residual**2 if np.isinf(knee) else np.where(size <= knee, 0.5 * residual**2, knee * (size - knee / 2))
    psi = residual if np.isinf(knee) else np.clip(residual, -knee, knee)
    unit = delta if np.isfinite(delta) else max(float(np.std(residual)), 1e-300)
    norm = np.sqrt(w @ slope**2)
    safe_norm = np.where(norm > 0, norm, 1.0)
    gradient = -(w * psi) @ slope / safe_norm / unit
    at_low, at_high = theta <= box[:, 0], theta >= box[:, 1]
    gradient = np.where((at_low & (gradient > 0)) | (at_high & (gradient < 0)), 0.0, gradient)
    scaled = (slope * np.sqrt(w)[:, None]) / safe_norm
    condition = float(np.linalg.cond(scaled) ** 2) if slope.shape[1] else 1.0
    centre_of_z = np.average(z, weights=w)
    total = float(w @ (z - centre_of_z) ** 2)
    named = {k: float(v) for k, v in form.named(theta, centre).items()}
    in_centre = {k: float(v) for k, v in form.named(theta, np.ones_like(centre)).items()}
    out = Fit(
        form=form,
        theta=theta,
        centre=centre,
        parameters=named,
        centred=in_centre,
        delta=delta,
        objective=float(w @ cost),
        r2=1.0 - float(w @ residual**2) / total if total > 0 else float("nan"),
        rmse=float(np.sqrt(np.average(residual**2, weights=w))),
        n=len(z),
        gradient=float(np.max(np.abs(gradient), initial=0.0)),
        condition=condition,
        optima=optima,
        flags=(),
        logu=logu,
        z=z,
        weights=w,
    )
    return dataclasses.replace(out, flags=_flags(out, x, y))


def _flags(found: Fit, x: Array, y: Array) -> tuple[Flag, ...]:
    form, p = found.form, found.parameters
    flags: list[Flag] = []
    if isinstance(form, PowerSum) and form.has_offset and form.axes:
        if form.sign < 0 and p["S_inf"] >= form.ceiling * (1 - 1e-6):
            flags.append(
                Flag("bound", f"the plateau S_inf ran to its ceiling {form.ceiling:.3g}: no plateau is visible")
            )
        if form.sign > 0 and form.response == "log" and p["E"] < 1e-6 * float(np.median(y)):
            flags.append(Flag("bound", "the floor E is zero within rounding: no floor is visible in these data"))
    if isinstance(form, PowerSum):
        for j, (letter, exponent) in enumerate((("A", "alpha"), ("B", "beta"), ("C", "gamma"))[: form.axes]):
            share = found.centred[letter] * np.exp(-p[exponent] * found.logu[:, j])
            if np.ptp(share) < 1e-6 * float(np.median(np.abs(y))):
                flags.append(
                    Flag("no_term", f"no term for axis {j + 1}: the fit found no dependence on it", refuse=True)
                )
            elif p[exponent] < 0.03 or p[exponent] > 2 or p[exponent] >= ALPHA_BOUNDS[1]:
                words = f"exponent {exponent} = {p[exponent]:.3g} lies outside .03 to 2: it stands for no power law"
                flags.append(Flag("exponent", words))
    if found.condition > 1e8:
        flags.append(Flag("condition", f"parameters trade off against each other (condition {found.condition:.0e})"))
    if not isinstance(form, LogLinear) and len(found.theta) > 1:
        for j in range(x.shape[1]):
            decades = float(np.log10(x[:, j].max() / x[:, j].min()))
            if decades < 1:
                flags.append(Flag("range", f"axis {j + 1} spans {decades:.2g} decades, less than one"))
    if found.n < 2 * len(found.theta):
        flags.append(Flag("few_points", f"{found.n} points for {len(found.theta)} parameters, fewer than two each"))
    if found.optima > 1:
        flags.append(Flag("optima", f"{found.optima} distinct optima within 1 % of the best"))
    return tuple(flags)


def _checked(form: Form, x: Array, y: Array) -> tuple[Array, Array]:
    y = np.asarray(y, dtype=np.float64)
    x = np.asarray(x, dtype=np.float64).reshape(len(y), -1)[:, : form.axes] if form.axes == 0 else np.asarray(x, float)
    if x.ndim == 1:
        x = x[:, None]
    if x.shape != (len(y), form.axes):
        raise UserError(
            f"fit: form {form.name} has {form.axes} axes, the table gives {x.shape[-1]} for {len(y)} rows",
            way_out="name as many x columns as the form has axes",
        )
    if not (np.isfinite(y).all() and np.isfinite(x).all()):
        raise UserError("fit: NaN or infinite values", way_out="drop these rows from the table and say so")
    if (x <= 0).any():
        raise UserError("fit: an axis has values <= 0, a power law needs positive ones", way_out="filter these rows")
    if form.response == "log" and (y <= 0).any():
        raise UserError(
            "fit: values <= 0 have no logarithm (a Poisson loss has an arbitrary offset)", way_out="use response='raw'"
        )
    if len(y) < len(form.parameters):
        raise UserError(
            f"fit: {len(y)} points for the {len(form.parameters)} parameters of {form.name}",
            way_out="add cells or choose a simpler form",
        )
    return x, y


def _scale_of_residuals(residual: Array, z: Array) -> float:
    mad = float(np.median(np.abs(residual - np.median(residual))))
    floor = 1e-9 * max(float(np.median(np.abs(z))), float(np.std(z)), 1e-12)
    return max(HUBER_EFFICIENCY * MAD_TO_SD * mad, floor)


def _distinct(form: Form, found: Array, values: Array, logu: Array, z: Array) -> int:
    """Optima within 1 % of the best whose curves differ by more than 1e-3 of the spread of the data."""
    near = found[values <= values.min() * 1.01 + 1e-12]
    curves = form.evaluate(near, logu)[0]
    kept: list[Array] = []
    for curve in curves:
        if all(np.max(np.abs(curve - other)) > 1e-3 * (np.ptp(z) or 1.0) for other in kept):
            kept.append(curve)
    return len(kept)
