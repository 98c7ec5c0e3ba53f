"""Robust estimation of scaling curves: global starts, a Huber polish, and flags in words.

Estimator (after Hoffmann et al. 2022, with the corrections of Besiroglu et al. 2024): minimise the sum of Huber losses
of the residuals on the response scale. The objective is divided by delta^2, so that the optimiser does not stop early
on a sum of ~1e-3; gradients are analytic and everything is float64.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms import Array, Flag, Form
from omnimouse_jax.scaling.forms_base import held_at, typical
from omnimouse_jax.scaling.forms_broken import Broken

HUBER_EFFICIENCY = 1.345  # 95 % efficient on Gaussian residuals
MAD_TO_SD = 1.4826
REACH = (1e-30, 1e30)  # of the values
NEAR_BEST = 1.01  # optima within 1 % of the best objective are reported


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted curve. `parameters` are in the table's units, `centred` for axes divided by their geometric means."""

    form: Form
    theta: Array  # internal parameters (P,)
    centre: Array  # what the axes were divided by (k,): geometric means, or 1 where parameters are held
    parameters: dict[str, float]
    centred: dict[str, float]
    delta: float
    objective: float  # sum of Huber losses, not divided by anything
    r2: float  # on the response scale
    r2_natural: float  # of the values themselves
    rmse: float  # on the response scale
    n: int
    gradient: float  # largest |gradient| of the scaled objective, per standard error of the parameter, bounds respected
    condition: float  # of the normal matrix, columns scaled to one
    starts: int  # from which the optimum was sought
    optima: int  # distinct optima within 1 % of the best objective
    spread: float  # largest relative difference of their predictions at the data
    fixed: dict[str, float]  # parameters that were held
    flags: tuple[Flag, ...]
    rivals: Array = dataclasses.field(repr=False)  # internal parameters of these optima, best first (optima, P)
    logu: Array = dataclasses.field(repr=False)
    z: Array = dataclasses.field(repr=False)
    weights: Array = dataclasses.field(repr=False)
    box: Array = dataclasses.field(repr=False)  # of the internal parameters (P, 2)

    def predict(self, x: Array) -> Array:
        """Curve at `x` (m, k), in the units of the table, on the natural scale."""
        return predict(self.form, self.theta, self.centre, x)

    @property
    def y(self) -> Array:
        """Observed values on the natural scale."""
        return self.form.natural(self.z)

    @property
    def free(self) -> int:
        """Number of fitted parameters."""
        return len(self.theta) - len(self.fixed)

    @property
    def refused(self) -> bool:
        return any(flag.refuse for flag in self.flags)


def predict(form: Form, theta: Array, centre: Array, x: Array) -> Array:
    """Curves of one or many parameter vectors (..., P) at x (m, k): (..., m) on the natural scale."""
    return form.natural(form.evaluate(theta, np.log(x / centre))[0])


def fit(
    form: Form,
    x: Array,
    y: Array,
    *,
    delta: float | str = "auto",
    weights: Array | None = None,
    grid: int = 18,
    fixed: Mapping[str, float] | None = None,
) -> Fit:
    """Fit `form` to y (n,) at x (n, k).

    `delta`: "auto" (1.345 robust standard deviations of the residuals), a number (1e-3 is what the published language
    model fits used), or inf for least squares. `weights` (n,) multiply the squared residuals (1 / variance up to a
    factor). `fixed`: parameters that are held, in the units of the table. UserError: non-positive axes, NaN, a loss
    <= 0 on the log scale, fewer points than parameters.
    """
    fixed = dict(fixed or {})
    x, y = _checked(form, x, y, len(fixed))
    w = np.ones(len(y)) if weights is None else np.asarray(weights, dtype=np.float64)
    # a coefficient is held in the units of the table: its axis must not be divided by anything then
    centre = np.ones(x.shape[1]) if fixed else form.centre(x)
    logu = np.log(x / centre)
    z = form.transformed(y)
    box = form.bounds(y, logu)
    for index, value in held_at(form, fixed).items():
        box[index] = value
    start = np.clip(form.candidates(logu, y, w, grid), box[:, 0], box[:, 1])
    same = np.broadcast_to(w, (len(start), len(w)))
    least, squares = polish(form, start, logu, z, same, np.inf, box)
    best = least[np.argmin(squares)]
    width = _scale_of_residuals(form, z - form.evaluate(best, logu)[0], z) if delta == "auto" else float(delta)
    theta, found, values = best, least, squares
    for last in (False, True) if delta == "auto" else (True,):
        pool = np.concatenate([found, start, theta[None]])
        found, values = polish(form, pool, logu, z, np.broadcast_to(w, (len(pool), len(w))), width, box)
        theta = _sharpen(form, found[np.argmin(values)], logu, z, w, width, box)
        if not last:
            width = _scale_of_residuals(form, z - form.evaluate(theta, logu)[0], z)
    rivals = _distinct(
        form, theta, found, values / (1.0 if np.isfinite(width) else _unit(form, width, z) ** 2), logu, z
    )
    return _summary(form, theta, centre, logu, z, w, width, box, rivals, len(start), fixed, x, y)


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
    tolerance: float = 1e-13,
) -> tuple[Array, Array]:
    """Levenberg-Marquardt on the Huber objective for many problems at once.

    theta (R, P) starts, weights (R, n) one row per problem (bootstrap counts), box (P, 2). Outliers enter by their
    Huber weight, which keeps each step a descent. `fixed` parameters stay. Returns theta (R, P) and the objective,
    sum of w * Huber(residual / delta), (R,). It ends where two steps change the objective by less than `tolerance` of
    itself. With delta = inf the objective is half the weighted sum of squares. Steps and ends do not depend on the units
    of the values.
    """
    theta = np.array(theta, dtype=np.float64)
    unit, size = _unit(form, delta, z), _sizes(form, z)
    knee = 1.0 if np.isfinite(delta) else np.inf
    frozen = np.zeros(theta.shape[1], dtype=bool)
    frozen[list(fixed)] = True

    def residual(t: Array, rows: NDArray[np.intp]) -> tuple[Array, Array, Array]:
        value, slope = form.evaluate(t, logu)
        r = (z - value) / unit
        far = np.abs(r)
        cost = np.where(far <= knee, 0.5 * r * r, knee * (far - 0.5 * knee) if np.isfinite(knee) else 0.0)
        return r, slope * size, np.einsum("rn,rn->r", weights[rows], cost)

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
        trial = np.clip(current + step * size, box[:, 0], box[:, 1])
        r_new, slope_new, cost_new = residual(trial, rows)
        better = cost_new <= cost
        small = cost - cost_new <= tolerance * cost + 1e-26
        calm[rows] = np.where(better & small, calm[rows] + 1, np.where(better, 0, calm[rows]))
        damping[rows] = np.clip(np.where(better, damping[rows] * 0.2, damping[rows] * 6.0), 1e-14, 1e12)
        out[rows[better]] = trial[better]
        r, slope = np.where(better[:, None], r_new, r), np.where(better[:, None, None], slope_new, slope)
        cost = np.where(better, cost_new, cost)
        objective[rows] = cost
        keep = (calm[rows] < 2) & (damping[rows] < 1e10)
        if not keep.all():
            rows, r, slope, cost = rows[keep], r[keep], slope[keep], cost[keep]
    return out, objective if np.isfinite(delta) else objective * unit**2


def _sharpen(form: Form, theta: Array, logu: Array, z: Array, w: Array, delta: float, box: Array) -> Array:
    unit, knee = (delta, 1.0) if np.isfinite(delta) else (_scale_of_residuals(form, np.zeros(1), z), np.inf)
    sizes = _sizes(form, z)

    def objective(t: Array) -> tuple[float, Array]:
        value, slope = form.evaluate(t * sizes, logu)
        r = (z - value) / unit
        inside = np.abs(r) <= knee
        cost = np.where(inside, 0.5 * r * r, np.abs(r) - 0.5)
        psi = np.where(inside, r, np.sign(r))
        return float(w @ cost), -(w * psi) @ slope * sizes / unit

    options = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-15, "gtol": 1e-10}
    start, ends = theta / sizes, box / sizes[:, None]
    found = optimize.minimize(objective, start, jac=True, method="L-BFGS-B", bounds=ends, options=options)
    better = np.clip(found.x * sizes, box[:, 0], box[:, 1])  # a bound is met exactly
    return better if found.fun <= objective(start)[0] else theta


def _unit(form: Form, delta: float, z: Array) -> float:
    """What residuals are divided by while fitting."""
    return delta if np.isfinite(delta) else 1.0 if form.response == "log" else typical(z)


def _sizes(form: Form, z: Array) -> Array:
    """What internal parameters are divided by while fitting, (P,)."""
    out = np.ones(len(form.parameters))
    out[list(form.in_units_of_y)] = typical(form.natural(z))
    return out


def _summary(
    form: Form,
    theta: Array,
    centre: Array,
    logu: Array,
    z: Array,
    w: Array,
    delta: float,
    box: Array,
    rivals: Array,
    starts: int,
    fixed: dict[str, float],
    x: Array,
    y: Array,
) -> Fit:
    value, slope = form.evaluate(theta, logu)
    residual = z - value
    knee = delta if np.isfinite(delta) else np.inf
    size = np.abs(residual)
    cost = 0.5 * residual**2 if np.isinf(knee) else np.where(size <= knee, 0.5 * residual**2, knee * (size - knee / 2))
    psi = residual if np.isinf(knee) else np.clip(residual, -knee, knee)
    unit = delta if np.isfinite(delta) else max(float(np.std(residual)), _scale_of_residuals(form, np.zeros(1), z))
    norm = np.sqrt(w @ slope**2)
    safe_norm = np.where(norm > 0, norm, 1.0)
    gradient = -(w * psi) @ slope / safe_norm / unit
    at_low, at_high = theta <= box[:, 0], theta >= box[:, 1]
    gradient = np.where((at_low & (gradient > 0)) | (at_high & (gradient < 0)), 0.0, gradient)
    free = box[:, 0] < box[:, 1]
    scaled = ((slope * np.sqrt(w)[:, None]) / safe_norm)[:, free]
    condition = float(np.linalg.cond(scaled) ** 2) if scaled.shape[1] else 1.0
    curves = form.natural(form.evaluate(rivals, logu)[0])
    spread = np.ptp(curves, axis=0) / np.maximum(np.abs(curves[0]), 1e-300 + 1e-9 * np.abs(curves[0]).max())
    out = Fit(
        form=form,
        theta=theta,
        centre=centre,
        parameters={k: float(v) for k, v in form.named(theta, centre).items()},
        centred=_at_the_middle(form, theta, centre, x),
        delta=delta,
        objective=float(w @ cost),
        r2=_r2(z, value, w),
        r2_natural=_r2(y, form.natural(value), w),
        rmse=float(np.sqrt(np.average(residual**2, weights=w))),
        n=len(z),
        gradient=float(np.max(np.abs(gradient), initial=0.0)),
        condition=condition,
        starts=starts,
        optima=len(rivals),
        spread=float(spread.max()),
        fixed=fixed,
        flags=(),
        rivals=rivals,
        logu=logu,
        z=z,
        weights=w,
        box=box,
    )
    return dataclasses.replace(out, flags=_flags(out, x, y))


def _at_the_middle(form: Form, theta: Array, centre: Array, x: Array) -> dict[str, float]:
    """Parameters for axes divided by their geometric means, whatever the fit divided them by."""
    middle = form.centre(x)
    return {k: float(v) for k, v in form.named(theta, centre / middle).items()}


def _r2(y: Array, value: Array, w: Array) -> float:
    total = float(w @ (y - np.average(y, weights=w)) ** 2)
    return 1.0 - float(w @ (y - value) ** 2) / total if total > 0 else float("nan")


def _flags(found: Fit, x: Array, y: Array) -> tuple[Flag, ...]:
    form = found.form
    flags = form.cautions(found.theta, found.logu, y)
    said = " ".join(flag.words for flag in flags)
    at_edge = (found.theta <= found.box[:, 0]) | (found.theta >= found.box[:, 1])
    for name, edge in zip(form.parameters, at_edge, strict=True):
        if edge and name not in found.fixed and name not in said and "no term" not in said:
            words = f"{name} = {found.parameters[name]:.3g} ran to the end of its range: these data do not determine it"
            flags.append(Flag("bound", words))
    if found.condition > 1e8:
        flags.append(Flag("condition", f"parameters trade off against each other (condition {found.condition:.0e})"))
    if not form.linear and found.free > 1:
        for j in range(x.shape[1]):
            decades = float(np.log10(x[:, j].max() / x[:, j].min()))
            if decades < 1:
                flags.append(Flag("range", f"axis {j + 1} spans {decades:.2g} decades, less than one"))
    if found.n < 2 * found.free:
        flags.append(Flag("few_points", f"{found.n} points for {found.free} parameters, fewer than two each"))
    if found.optima > 1:
        words = (
            f"{found.optima} distinct optima within 1 % of the best; their curves differ by up to {found.spread:.2g}"
        )
        flags.append(Flag("optima", words + " of the value"))
    if found.gradient > 1e-3:
        flags.append(Flag("gradient", f"the optimiser did not settle (gradient {found.gradient:.1e})"))
    return tuple(flags)


def _checked(form: Form, x: Array, y: Array, held: int) -> tuple[Array, Array]:
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
    if not REACH[0] < typical(y) < REACH[1] and np.any(y != 0):
        raise UserError(
            f"fit: values of size {typical(y):.1g} leave no room for squares in double precision",
            way_out="give them in other units",
        )
    if form.response == "log" and (y <= 0).any():
        raise UserError(
            "fit: values <= 0 have no logarithm (a Poisson loss has an arbitrary offset)", way_out="use response='raw'"
        )
    need = len(form.parameters) - held
    if len(y) < max(need, 1):
        raise UserError(
            f"fit: {len(y)} points for the {need} parameters of {form.name}",
            way_out="add cells or choose a simpler form",
        )
    if isinstance(form, Broken):
        form.check_size(len(y))
    return x, y


def _scale_of_residuals(form: Form, residual: Array, z: Array) -> float:
    mad = float(np.median(np.abs(residual - np.median(residual))))
    floor = 1e-9 * (1.0 if form.response == "log" else max(typical(z), float(np.std(z))))
    return max(HUBER_EFFICIENCY * MAD_TO_SD * mad, floor)


def _distinct(form: Form, best: Array, found: Array, values: Array, logu: Array, z: Array) -> Array:
    """`best`, then the optima within 1 % of it whose curves differ by more than 1e-3 of the spread of the data.
    `values`: their objectives, of residuals divided by their unit."""
    order = np.argsort(values)
    near = found[order[values[order] <= values.min() * NEAR_BEST + 1e-12]]
    curves = form.evaluate(np.concatenate([best[None], near]), logu)[0]
    kept = [0]
    for i in range(1, len(curves)):
        if all(np.max(np.abs(curves[i] - curves[j])) > 1e-3 * (np.ptp(z) or 1.0) for j in kept):
            kept.append(i)
    return np.concatenate([best[None], near])[kept]
