"""Linear-nonlinear neurons: a filter over the last frames, a nonlinearity, and perhaps a gain that follows behaviour.

The filter of a neuron is a sum of few space x time products, smooth in both, started at the spike-triggered average (Schwartz
et al. 2006, J. Vision 6) and fitted by gradient descent. How smooth, and when to stop, is chosen for each neuron on held-out
windows.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omnimouse_jax.evaluate.baselines.constant import mean_response
from omnimouse_jax.evaluate.baselines.descent import (
    Descent,
    behavior_in,
    descend,
    fit_and_held_out,
    frames_before,
    frames_in,
    residual,
)
from omnimouse_jax.evaluate.baselines.problem import Answers, Examples, Fits, Fitted, NotApplicable, Problem
from omnimouse_jax.evaluate.baselines.shown import Shown
from omnimouse_jax.progress import Progress

RANK = 2
#: Pixels of a filter, at most.
MOST_PIXELS = 160
FILTER_S = 0.5
SMOOTHNESS = (1e-3, 1e-2, 1e-1)
GAIN_PENALTY = 1e-2
#: Seconds after which behaviour may act, in either direction.
GAIN_S = (-0.3, 0.0, 0.3, 1.0)
#: Windows of a step, and windows that the average is taken over.
BATCH, AVERAGED = 64, 256
SETTINGS = Descent(steps=400, learning_rate=5e-3)

Params = dict[str, Float[Array, "..."]]


@dataclasses.dataclass(frozen=True)
class LinearNonlinear:
    about: str
    label: str
    gain: bool
    settings: Descent = SETTINGS

    def fit(self, problem: Problem) -> Fits:
        progress, fits = Progress(len(problem.sessions), label=f"{self.label}: session "), Fits()
        for number, key in enumerate(problem.sessions, 1):
            fits[key] = self._fit(problem, key)
            progress.show(number)
        progress.close()
        return fits

    def _fit(self, problem: Problem, key: str) -> Fitted | NotApplicable:
        view = problem.view(key)
        if not view.sees_screen or not view.asked:
            return NotApplicable("no screen is shown, or no responses are asked for")
        if self.gain and not view.sees_behavior:
            return NotApplicable("behaviour is not shown")
        found = fit_and_held_out(problem, key)
        if found is None:
            return NotApplicable("too few training windows")
        training, held_out, how = found
        if training.shown.frames is None:
            return NotApplicable("the recording has no screen")
        params, chosen = fit_ln(
            training, held_out, self.gain, problem.positive, problem.seed, self.settings, self.label
        )
        return FittedLN(params, mean_response(training), problem.positive, self.gain, f"{how}; {chosen}")


def fit_ln(
    training: Examples, held_out: Examples, gain: bool, positive: bool, seed: int, settings: Descent, label: str = "ln"
) -> tuple[Params, str]:
    """Filters of all asked neurons together: they share nothing, so each may stop at its own best step and smoothness."""
    inputs, looked = _inputs(training.shown), _inputs(held_out.shown)
    targets, checked = _targets(training), _targets(held_out)
    size = inputs["frames"].shape[2:]
    start = _start(inputs, targets, inputs["behavior"].shape[2])
    params: Params = jax.tree.map(lambda x: jnp.stack([x] * len(SMOOTHNESS)), start)
    smoothness = jnp.array(SMOOTHNESS, jnp.float32)
    rng = np.random.default_rng([seed, 31])
    n = len(training.shown)

    def errors(params: Params, seen: dict, true: dict) -> Float[Array, "k N"]:
        rates = jax.vmap(lambda p: rate(p, seen, positive, gain))(params)
        lost = residual(rates, true["y"][None] + 0 * rates, true["mask"][None] + 0 * rates, positive)
        return lost.sum((1, 2)) / jnp.maximum(true["mask"].sum((0, 1)), 1.0)[None]

    def loss(params: Params, batch: tuple[dict, dict]) -> Float[Array, ""]:
        rough = jax.vmap(lambda p: _roughness(p, size))(params)
        gains = jnp.sum(params["gain"] ** 2) * GAIN_PENALTY
        return jnp.sum(errors(params, *batch)) + jnp.sum(rough * smoothness[:, None]) + gains

    check = jax.jit(errors)
    best: list = [None, None]

    def look(params: Params, step: int) -> bool:
        now = np.asarray(check(params, looked, checked))
        host = jax.tree.map(np.asarray, params)
        if best[0] is None:
            best[:] = [now, jax.tree.map(np.copy, host)]
            return True
        better = now < best[0] - 1e-6
        for name, values in host.items():
            best[1][name] = np.where(better.reshape(len(now), *(1,) * (values.ndim - 2), -1), values, best[1][name])
        best[0] = np.where(better, now, best[0])
        return bool(better.mean() > 0.02)

    def draw(step: int) -> tuple[dict, dict]:
        if n <= BATCH:
            return inputs, targets
        rows = rng.choice(n, BATCH, replace=False)
        return {k: v[rows] if k != "before" else v for k, v in inputs.items()}, {k: v[rows] for k, v in targets.items()}

    descend(loss, params, draw, look, settings, label)
    choice = best[0].argmin(0)  # of each neuron
    kept = {name: np.moveaxis(v, -1, 0)[np.arange(len(choice)), choice] for name, v in best[1].items()}
    counts = ", ".join(f"{value:g}: {int((choice == k).sum())}" for k, value in enumerate(SMOOTHNESS))
    return {name: jnp.asarray(np.moveaxis(v, 0, -1)) for name, v in kept.items()}, f"neurons per smoothness {counts}"


def rate(params: Params, seen: dict, positive: bool, gain: bool) -> Float[Array, "W s N"]:
    """Of the asked samples. Parameters have neurons last: space (r, pixels, N), time (lags, r, N), offset, scale (N),
    gain (b, N)."""
    frames, before = seen["frames"], seen["before"]
    w, f = frames.shape[:2]
    projected = jnp.einsum("wfp,rpn->wfrn", frames.reshape(w, f, -1), params["space"])
    drive = jnp.zeros((w, before.shape[0], params["offset"].shape[0]), jnp.float32) + params["offset"][None, None]
    for lag in range(before.shape[1]):
        drive = drive + jnp.sum(projected[:, before[:, lag]] * params["time"][lag][None, None], axis=2)
    if positive:
        out = (jax.nn.elu(drive) + 1.0) * jnp.exp(params["scale"])[None, None]
    else:
        out = jax.nn.softplus(drive) * params["scale"][None, None] + params["floor"][None, None]
    if gain:
        steps = jnp.einsum("wsb,bn->wsn", seen["behavior"], params["gain"])
        out = out * jnp.exp(jnp.clip(steps, -4.0, 4.0))
    return out


@dataclasses.dataclass(frozen=True)
class FittedLN:
    """Filters of one session."""

    params: Params
    mean: Float[np.ndarray, " N"]
    positive: bool
    gain: bool
    note: str = ""
    predicts: tuple[str, ...] = ("response",)

    def predict(self, shown: Shown) -> Answers:
        first, last = shown.view.asked_samples
        neurons = shown.view.asked_neurons
        out = np.broadcast_to(self.mean, (len(shown), shown.view.grid.n_samples, len(self.mean))).copy()
        if shown.frames is not None:
            rates = _RATE(self.params, _inputs(shown), self.positive, self.gain)
            out[np.ix_(np.arange(len(shown)), np.arange(first, last), neurons)] = rates
        return Answers(out, None)


_RATE = jax.jit(rate, static_argnums=(2, 3))


def filters(params: Params) -> Float[np.ndarray, "N lags pixels"]:
    """Each neuron's filter, weight of each pixel so many frames ago."""
    return np.einsum("rpn,lrn->nlp", np.asarray(params["space"]), np.asarray(params["time"]))


def _inputs(shown: Shown) -> dict[str, np.ndarray]:
    first, last = shown.view.asked_samples
    grid = shown.view.grid
    moments = np.arange(first, last, dtype=np.float64) / grid.response_rate
    behavior = [behavior_in(shown, moments - delay) for delay in GAIN_S]
    n_lags = max(1, round(FILTER_S * grid.video_rate))
    return {
        "frames": frames_in(shown, MOST_PIXELS),
        "before": frames_before(shown, first, last, n_lags).astype(np.int32),
        "behavior": np.concatenate(behavior, axis=2),
    }


def _targets(examples: Examples) -> dict[str, np.ndarray]:
    view = examples.shown.view
    first, last = view.asked_samples
    y = examples.truth.responses[:, first:last][:, :, view.asked_neurons]
    asked = np.zeros((view.grid.n_samples, len(view.slots)), bool)
    for stretch in view.asked:
        asked[stretch.samples, stretch.neurons] = True
    mask = np.isfinite(y) & asked[first:last][:, view.asked_neurons]
    return {"y": np.nan_to_num(y).astype(np.float32), "mask": mask.astype(np.float32)}


def _start(inputs: dict[str, np.ndarray], targets: dict[str, np.ndarray], n_behavior: int) -> Params:
    """Filters at the average of frames weighted by responses, a tenth as strong as they would have to be for white noise."""
    some = slice(0, AVERAGED)
    x = inputs["frames"][some].reshape(len(inputs["frames"][some]), inputs["frames"].shape[1], -1)
    y, mask, before = targets["y"][some], targets["mask"][some], inputs["before"]
    count = np.maximum(mask.sum((0, 1)), 1.0)
    mean = (y * mask).sum((0, 1)) / count
    centred = (y - mean) * mask / count
    x = x - x.mean((0, 1))
    average_LxPxN = np.stack(
        [np.einsum("wsp,wsn->pn", x[:, before[:, lag]], centred) for lag in range(before.shape[1])]
    )
    u, s, vt = np.linalg.svd(np.moveaxis(average_LxPxN, 2, 0), full_matrices=False)  # (N, L, k), (N, k), (N, k, P)
    rank, power = min(RANK, s.shape[1]), max(float((x**2).mean()), 1e-6)
    root = np.sqrt(0.1 * s[:, :rank] / np.maximum(mean, 0.1)[:, None] / power)
    n = len(mean)
    # Under a Poisson loss the scale is a logarithm.
    log_mean = np.log(np.maximum(mean, 1e-3))
    params = {
        "space": np.moveaxis(vt[:, :rank] * root[:, :, None], 0, -1),
        "time": np.moveaxis(u[:, :, :rank] * root[:, None], 0, -1),
        "offset": np.zeros(n),
        "scale": log_mean,
        "floor": mean - np.log(2.0),
        "gain": np.zeros((n_behavior, n)),
    }
    return {name: jnp.asarray(values.astype(np.float32)) for name, values in params.items()}


def _roughness(params: Params, size: tuple[int, int]) -> Float[Array, " N"]:
    """Squared second differences of filters over space and time, and a little of their square."""
    space = params["space"].reshape(params["space"].shape[0], *size, -1)
    d = [jnp.diff(space, axis=axis) for axis in (1, 2)]
    rough = sum(jnp.sum(x * x, axis=(0, 1, 2)) for x in d) + jnp.sum(jnp.diff(params["time"], axis=0) ** 2, axis=(0, 1))
    return rough + 0.01 * (jnp.sum(space**2, axis=(0, 1, 2)) + jnp.sum(params["time"] ** 2, axis=(0, 1)))


LN = LinearNonlinear("spatiotemporal filter on the screen, elu + 1 (linear-nonlinear)", "ln", gain=False)
LN_GAIN = LinearNonlinear("the same, times a gain that follows behaviour", "ln_gain", gain=True)
