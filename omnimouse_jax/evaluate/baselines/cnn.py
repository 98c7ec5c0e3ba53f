"""A small convolutional network shared by all sessions, with a readout for each: the kind of the SENSORIUM competitions.

Two layers of space-then-time convolutions over the frames up to a moment (factorised 3-D convolutions, causal), ELU, a factorised
or Gaussian readout (`readouts.py`), elu + 1, Poisson loss. Behaviour, where it is shown, joins as planes of one value each, as
in the competitions' baseline (recordings sheet, C.2): a plane under a convolution is a bias of each filter, which is how it is
computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

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
    pooled_size,
    residual,
)
from omnimouse_jax.evaluate.baselines.problem import Answers, Examples, Fits, NotApplicable, Problem
from omnimouse_jax.evaluate.baselines.readouts import init_readout, masks, penalty, read
from omnimouse_jax.evaluate.baselines.shown import Shown

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class CnnSize:
    """Filters, their extent in space (pixels of the pooled screen) and time (s), and how a fit is penalised."""

    channels: tuple[int, int] = (8, 16)
    extent: tuple[int, int] = (7, 3)
    lasts_s: tuple[float, float] = (0.3, 0.2)
    most_pixels: int = 640
    windows: int = 8  # of a step, all of one session
    readout_penalty: float = 3e-3


SETTINGS = Descent(steps=600, look_every=40, patience=5, learning_rate=4e-3, weight_decay=1e-3)


@dataclasses.dataclass(frozen=True)
class Cnn:
    about: str
    label: str
    readout: str
    size: CnnSize = CnnSize()
    settings: Descent = SETTINGS

    def fit(self, problem: Problem) -> Fits:
        """Learns from all sessions that the config trains on; readouts of those that are scored come with it."""
        view = problem.any_view
        if not view.sees_screen or not view.asked:
            return dict.fromkeys(problem.sessions, NotApplicable("no screen is shown, or no responses are asked for"))
        index = problem.training_windows
        known = index.sessions if index is not None else ()
        wide = dataclasses.replace(problem, sessions=tuple(dict.fromkeys((*problem.sessions, *known))))
        fits: Fits = {}
        found = {}
        for key in wide.sessions:
            pair = fit_and_held_out(wide, key, 1 / len(wide.sessions))
            if pair is None:
                fits[key] = NotApplicable("too few training windows")
            elif pair[0].shown.frames is None:
                fits[key] = NotApplicable("the recording has no screen")
            else:
                found[key] = pair
        if found:
            fits |= self._fit(wide, found)
        return {key: fits[key] for key in problem.sessions}

    def _fit(self, problem: Problem, found: Mapping[str, tuple[Examples, Examples, str]]) -> Fits:
        keys, n_slots = list(found), problem.n_slots
        data = [(_inputs(a.shown, self.size), _targets(a, n_slots)) for a, _, _ in found.values()]
        looked = [(_inputs(b.shown, self.size), _targets(b, n_slots)) for _, b, _ in found.values()]
        first = next(iter(found.values()))[0].shown
        params = self._start(problem, first, len(keys), [mean_response(a) for a, _, _ in found.values()])
        rng, noise = np.random.default_rng([problem.seed, 32]), jax.random.key(problem.seed)
        size, positive = _map_size(first, self.size), problem.positive

        def loss(params: Params, batch: Any) -> Float[Array, ""]:
            number, step, seen, true = batch
            mine = jax.tree.map(lambda x: x[number], params["readout"])
            rates = rate(params["core"], mine, seen, size, positive, jax.random.fold_in(noise, step))
            count = jnp.maximum(jnp.sum(true["mask"]), 1.0)
            fit = jnp.sum(residual(rates, true["y"], true["mask"], positive)) / count
            return fit + self.size.readout_penalty * penalty(mine)

        def draw(step: int) -> Any:
            number = int(rng.integers(len(keys)))
            seen, true = data[number]
            rows = rng.integers(0, len(true["y"]), self.size.windows)  # some twice where there are few
            return (np.int32(number), np.int32(step), _rows(seen, rows), _rows(true, rows))

        @jax.jit
        def error(params: Params, number: Array, seen: Any, true: Any) -> Float[Array, "2"]:
            mine = jax.tree.map(lambda x: x[number], params["readout"])
            rates = rate(params["core"], mine, seen, size, positive)
            return jnp.stack([jnp.sum(residual(rates, true["y"], true["mask"], positive)), jnp.sum(true["mask"])])

        best: dict[str, Any] = {"error": np.inf}

        def look(params: Params, step: int) -> bool:
            total = np.zeros(2)
            for number, (seen, true) in enumerate(looked):
                for rows in _chunks(len(true["y"]), self.size.windows):
                    part = _rows(true, rows[0])
                    part["mask"] = part["mask"] * rows[1][:, None, None]
                    total += np.asarray(error(params, np.int32(number), _rows(seen, rows[0]), part))
            now = total[0] / max(total[1], 1.0)
            if now < best["error"] - 1e-5:
                best.update(error=now, params=jax.tree.map(np.asarray, params), step=step)
                return True
            return False

        descend(loss, params, draw, look, self.settings, self.label)
        core = best["params"]["core"]
        note = f"step {best['step']}, {len(keys)} sessions; {next(iter(found.values()))[2]}"
        fits: Fits = {}
        for number, (key, (training, _, _)) in enumerate(found.items()):
            mine = {name: values[number] for name, values in best["params"]["readout"].items()}
            fits[key] = _Fitted(core, mine, size, self.size, positive, mean_response(training), n_slots, note)
        return fits

    def _start(self, problem: Problem, shown: Shown, sessions: int, means: list[np.ndarray]) -> Params:
        grid, size, (c1, c2) = shown.view.grid, self.size, self.size.channels
        keys = jax.random.split(jax.random.key(problem.seed), 6)
        times = [max(1, round(s * grid.video_rate)) for s in size.lasts_s]

        def kernel(key: Array, shape: tuple[int, ...]) -> Float[Array, "..."]:
            return jax.random.normal(key, shape, jnp.float32) / np.float32(np.sqrt(np.prod(shape[:-1])))

        core = {
            "space1": kernel(keys[0], (size.extent[0], size.extent[0], 1, c1)) * 2.0,
            "time1": kernel(keys[1], (times[0], c1, c1)),
            "behavior": jnp.zeros((problem.parts.model.n_channels, c1), jnp.float32),
            "bias1": jnp.zeros(c1, jnp.float32),
            "space2": kernel(keys[2], (size.extent[1], size.extent[1], c1, c2)),
            "time2": kernel(keys[3], (times[1], c2, c2)),
            "bias2": jnp.zeros(c2, jnp.float32),
        }
        readout = init_readout(self.readout, keys[4], sessions, problem.n_slots, _map_size(shown, size), c2)
        bias = np.zeros((sessions, problem.n_slots), np.float32)
        for number, mean in enumerate(means):
            bias[number, : len(mean)] = _inverse(mean) if problem.positive else mean
        return {"core": core, "readout": {**readout, "bias": jnp.asarray(bias)}}


def rate(
    core: Params,
    readout: Params,
    seen: Params,
    size: tuple[int, int],
    positive: bool,
    key: Array | None = None,
) -> Float[Array, "w s n"]:
    """Of the asked samples, for one session's readout rows."""
    frames, before = seen["frames"], seen["before"]
    w, f, h, v = frames.shape
    x = _space(frames.reshape(w * f, h, v, 1), core["space1"], 2)
    x = _time(x.reshape(w, f, *size, -1), core["time1"])
    by_behavior = jnp.einsum("wfc,cd->wfd", seen["behavior"], core["behavior"])
    x = jax.nn.elu(x + by_behavior[:, :, None, None] + core["bias1"][None, None, None, None])
    y = _space(x.reshape(w * f, *size, -1), core["space2"], 1)
    y = _time(y.reshape(w, f, *size, -1), core["time2"])
    y = jax.nn.elu(y + core["bias2"][None, None, None, None])[:, before[:, 0]]
    drive = read(y, masks(readout, size, key), readout["weights"]) + readout["bias"][None, None]
    return jax.nn.elu(drive) + 1.0 if positive else drive


def _space(x: Float[Array, "i h v c"], kernel: Float[Array, "a b c d"], stride: int) -> Float[Array, "i h2 v2 d"]:
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _time(x: Float[Array, "w f h v c"], kernel: Float[Array, "t c d"]) -> Float[Array, "w f h v d"]:
    """Each moment from itself and those before it; the first frame is held before all."""
    n = kernel.shape[0]
    held = jnp.concatenate([jnp.repeat(x[:, :1], n - 1, axis=1), x], axis=1)
    out = jnp.zeros((*x.shape[:-1], kernel.shape[2]), x.dtype)
    for lag in range(n):
        out = out + held[:, n - 1 - lag : n - 1 - lag + x.shape[1]] @ kernel[lag]
    return out


def _map_size(shown: Shown, size: CnnSize) -> tuple[int, int]:
    assert shown.frames is not None
    h, v = shown.frames.shape[2:]
    side = pooled_size(h, v, size.most_pixels)
    return -(-(h // side) // 2), -(-(v // side) // 2)


def _inputs(shown: Shown, size: CnnSize) -> Params:
    first, last = shown.view.asked_samples
    begin, end = shown.view.frames
    moments = np.arange(begin, end, dtype=np.float64) / shown.view.grid.video_rate
    return {
        "frames": frames_in(shown, size.most_pixels),
        "behavior": behavior_in(shown, moments),
        "before": frames_before(shown, first, last, 1).astype(np.int32),
    }


def _targets(examples: Examples, n_slots: int) -> dict[str, np.ndarray]:
    """Padded to `n_slots` neurons, so that one program serves all sessions."""
    view = examples.shown.view
    first, last = view.asked_samples
    values = examples.truth.responses[:, first:last]
    y = np.zeros((*values.shape[:2], n_slots), np.float32)
    mask = np.zeros_like(y)
    asked = np.zeros((view.grid.n_samples, len(view.slots)), bool)
    for stretch in view.asked:
        asked[stretch.samples, stretch.neurons] = True
    y[:, :, : values.shape[2]] = np.nan_to_num(values)
    mask[:, :, : values.shape[2]] = np.isfinite(values) & asked[first:last]
    return {"y": y, "mask": mask}


def _rows(values: Params, rows: np.ndarray) -> Params:
    return {name: v if name == "before" else v[rows] for name, v in values.items()}


def _chunks(n: int, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(rows, weights) of equal length; the last one is filled up with rows of weight 0."""
    found = []
    for first in range(0, n, size):
        rows = np.arange(first, first + size)
        found.append((np.minimum(rows, n - 1), (rows < n).astype(np.float32)))
    return found


def _inverse(mean: np.ndarray) -> np.ndarray:
    """What elu + 1 makes `mean` of."""
    return np.where(mean > 1.0, mean - 1.0, np.log(np.maximum(mean, 1e-2)))


@dataclasses.dataclass(frozen=True)
class _Fitted:
    core: Params
    readout: Params
    map_size: tuple[int, int]
    size: CnnSize
    positive: bool
    mean: Float[np.ndarray, " N"]
    n_slots: int
    note: str
    predicts: tuple[str, ...] = ("response",)

    def predict(self, shown: Shown) -> Answers:
        first, last = shown.view.asked_samples
        out = np.broadcast_to(self.mean, (len(shown), shown.view.grid.n_samples, len(self.mean))).copy()
        if shown.frames is not None:
            seen = _inputs(shown, self.size)
            for rows, weights in _chunks(len(shown), self.size.windows):
                there = rows[weights > 0]
                rates = np.asarray(_RATE(self.core, self.readout, _rows(seen, rows), self.map_size, self.positive))
                out[there, first:last] = rates[: len(there), :, : len(self.mean)]
        return Answers(out, None)


_RATE = jax.jit(rate, static_argnums=(3, 4))

CNN_FACTORISED = Cnn(
    "small CNN on the screen (and behaviour), shared by all sessions, factorised readout",
    "cnn_factorised",
    "factorised",
)
CNN_GAUSSIAN = Cnn("the same CNN with a Gaussian readout", "cnn_gaussian", "gaussian")
