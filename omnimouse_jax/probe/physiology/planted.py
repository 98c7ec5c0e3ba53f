"""The law of synthetic mice as a subject: the same equations as `recordings.synthetic.neurons`, differentiable, for any frames.

It answers without noise, shared variability or a microscope's scans falling by chance, so what an analysis gets wrong about it is
the analysis' own error: the calibration of every number that a trained model gets. `docs/synthetic.md` has the equations.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from omnimouse_jax.errors import UserError
from omnimouse_jax.probe.physiology.subject import Geometry, Levels, Subject
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.synthetic import neurons as law
from omnimouse_jax.recordings.synthetic.behavior import SATURATING
from omnimouse_jax.recordings.synthetic.mouse import Mouse, draw_mouse
from omnimouse_jax.recordings.synthetic.observation import KERNELS
from omnimouse_jax.recordings.synthetic.spec import ColonySpec

#: Under a square root or a power below one, so that gradients exist at grey.
TINY = 1e-9
FINE = 64  # steps per tick in which the microscope's kernel is drawn


class Law(NamedTuple):
    """Arrays of one session's law, float32; D: temporal filters, one per neuron."""

    even: Any  # pixels N
    odd: Any
    cosine: Any  # F F N: real part of each neuron's causal filter, [later, earlier]
    sine: Any
    complexity: Any  # N, as all below
    rest: Any
    phase: Any
    exponent: Any
    baseline: Any
    amplitude: Any  # with the scale that the session's own films give
    gain_running: Any
    gain_pupil: Any
    additive: Any  # N 5
    pool: Any  # pixels G
    share: Any  # G N
    decay: Any  # F F: low pass of contrast energy
    seen: Any  # S F: samples from rates, the microscope's expectation
    unit: Any


def planted_mouse(recording: Recording) -> Mouse:
    """The synthetic mouse that a recording is of, drawn again. UserError for any other recording."""
    provenance = recording.provenance
    if provenance.get("reader") != "synthetic" or recording.truth is None:
        raise UserError(f"session {recording.key}: has no planted law", way_out="only synthetic mice have one")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in provenance["spec"].items()}
    mouse = draw_mouse(ColonySpec(**values), int(provenance["session_index"]))
    same = np.asarray(recording.truth["tuning"]["direction"])
    if not np.allclose(same, mouse.neurons.direction):
        raise UserError(
            f"session {recording.key}: its planted tuning is not what this version of the law draws",
            way_out="synthesize the store again",
        )
    return mouse


def planted_subject(recording: Recording, geometry: Geometry, sample_times: np.ndarray, neurons: np.ndarray) -> Subject:
    """Some `neurons` (numbers) of a synthetic recording, answering on a model's clock in units of its response scale."""
    mouse = planted_mouse(recording)
    spec = mouse.spec
    if geometry.frame_rate != spec.frame_rate:
        raise UserError(
            f"session {recording.key}: shown at {spec.frame_rate:g} Hz, the model's video runs at {geometry.frame_rate:g} Hz",
            way_out="the planted law can only be asked at its own frame rate",
        )
    whole = mouse.neurons
    population = dataclasses.replace(
        whole, **{f.name: getattr(whole, f.name)[neurons] for f in dataclasses.fields(whole)}
    )
    view = mouse.view()
    scale = law.unit_scale(law.stimulus_drive(view, population), mouse.ticks >= 0)
    unit = population.unit / np.asarray(recording.response_scale)[neurons]
    params = law_arrays(
        spec, population, scale, unit, geometry.n_frames, sample_times, view, mouse.microscope.scan_rate
    )
    means = {name: recording.behavior_mean.get(name, 0.0) for name in law.STATE}
    channels = tuple(name for name in law.STATE if name in recording.channels)

    def context(n: int, levels: Levels) -> Float[np.ndarray, "n 5"]:
        state = state_of(mouse, {**means, **levels})
        return np.repeat(state[None].astype(np.float32), n, axis=0)

    def apply(params: Law, video: Any, state: Any) -> Array:
        return respond(params, video * 255.0, state, spec)

    ids = np.asarray(recording.neurons.get("unit_id", np.arange(len(whole))))[neurons]
    return Subject("planted law", apply, params, context, geometry, np.asarray(sample_times), ids, channels)


def state_of(mouse: Mouse, recorded: Mapping[str, float]) -> Float[np.ndarray, " 5"]:
    """What neurons know of behaviour, from channels in recorded units."""
    x, y = mouse.temper.eye_centre
    size = (
        np.log(max(recorded["pupil_size"], 1e-6) / mouse.temper.pupil_radius) / 0.22 if recorded["pupil_size"] else 0.0
    )
    change = recorded["pupil_size_derivative"] / (0.22 * max(recorded["pupil_size"], 1e-6)) / 0.5
    gaze = ((recorded["pupil_x"] - x) / 9.0, (recorded["pupil_y"] - y) / 4.0) if recorded["pupil_x"] else (0.0, 0.0)
    return np.array([*gaze, size, change if size else 0.0, np.tanh(recorded["running"] / SATURATING)])


def law_arrays(
    spec: ColonySpec,
    neurons: law.Population,
    scale: Float[np.ndarray, " N"],
    unit: Float[np.ndarray, " N"],
    n_frames: int,
    sample_times: np.ndarray,
    view: law.View,
    scan_rate: float,
) -> Law:
    """Recursive filters as sums over the window's frames; before the window there is grey."""
    even, odd = law.gabors(spec, neurons)
    step = np.arange(n_frames)[:, None] - np.arange(n_frames)
    past, lag = step >= 0, np.maximum(step, 0)
    turn = 2 * np.pi * neurons.temporal_frequency / spec.frame_rate
    decay = np.exp(-1 / (np.clip(0.1 / neurons.temporal_frequency, 0.03, 0.1) * spec.frame_rate))
    # three equal complex poles in a row: binomial(k + 2, 2) z^k
    counts = np.where(past, (lag + 1) * (lag + 2) / 2, 0.0)[..., None]
    filters = (1 - decay) ** law.POLES * counts * (decay * np.exp(1j * turn)) ** lag[..., None]
    x, y = law.pixel_degrees(spec)
    radius = 2 * law.POOL_DEGREES**2
    pool = np.exp(-((x[:, None] - view.pool_x) ** 2 + (y[:, None] - view.pool_y) ** 2) / radius)
    near = np.exp(-((view.pool_x[:, None] - neurons.x) ** 2 + (view.pool_y[:, None] - neurons.y) ** 2) / radius)
    share = (1 - spec.global_pool) * near / near.sum(axis=0) + spec.global_pool / len(view.pool_x)
    slow = np.exp(-1 / (law.POOL_SECONDS * spec.frame_rate))
    arrays = Law(
        even,
        odd,
        filters.real,
        filters.imag,
        neurons.complexity,
        1 - neurons.direction_selectivity,
        neurons.phase,
        neurons.exponent,
        neurons.baseline,
        neurons.amplitude * scale,
        neurons.gain_running,
        neurons.gain_pupil,
        neurons.additive,
        pool / pool.sum(axis=0),
        share,
        np.where(past, (1 - slow) * slow**lag, 0.0),
        microscope(spec, n_frames, sample_times, scan_rate),
        unit,
    )
    return Law(*(np.asarray(array, np.float32) for array in arrays))


def microscope(spec: ColonySpec, n_frames: int, sample_times: np.ndarray, scan_rate: float) -> Float[np.ndarray, "S F"]:
    """Weights of the frames' rates in each sample: calcium, the mean over a scan, linear interpolation between scans, averaged over
    when scans fall. The rate before and after the window is taken to be that of its first and last frame.
    """
    tick = 1 / (spec.frame_rate * FINE)
    scan = 1 / scan_rate
    rise, decay = KERNELS[spec.signal]
    t = np.arange(0, 8 * decay, tick)
    calcium = np.exp(-t / decay) - np.exp(-t / rise)
    box = np.ones(max(1, round(scan / tick)))
    between = np.convolve(box, box)  # a triangle from -scan to +scan
    kernel = np.convolve(np.convolve(calcium / calcium.sum(), box / box.sum()), between / between.sum())
    lag_s = np.arange(len(kernel)) * tick - (len(box) - 1) * tick
    weights = np.zeros((len(sample_times), n_frames))
    for row, at in enumerate(np.asarray(sample_times, np.float64)):
        frame = np.floor((at - lag_s) * spec.frame_rate + 1e-9).astype(int)
        np.add.at(weights[row], np.clip(frame, 0, n_frames - 1), kernel)
    return weights


def respond(p: Law, levels_WxFxHxW: Any, state_Wx5: Any, spec: ColonySpec) -> Float[Array, "W S N"]:
    """s G + A of docs/synthetic.md through the microscope. Frames in grey levels; behaviour as neurons know it."""
    n_windows, n_frames = levels_WxFxHxW.shape[:2]
    contrast = ((levels_WxFxHxW - spec.grey) / spec.contrast).reshape(n_windows, n_frames, -1)
    even, odd = contrast @ p.even, contrast @ p.odd
    ce, co, se, so = (jnp.einsum("tjn,wjn->wtn", a, b) for a in (p.cosine, p.sine) for b in (even, odd))
    forward = (ce - so, co + se)  # h * g
    against = (ce + so, co - se)  # conj(h) * g
    both = [a + p.rest[None, None] * b for a, b in zip(forward, against, strict=True)]
    turned = jnp.cos(p.phase)[None, None] * both[0] - jnp.sin(p.phase)[None, None] * both[1]
    simple = jnp.maximum(turned, 0.0) ** 2
    energy = forward[0] ** 2 + forward[1] ** 2 + p.rest[None, None] ** 2 * (against[0] ** 2 + against[1] ** 2)
    drive = 2 * (1 - p.complexity[None, None]) * simple + p.complexity[None, None] * energy
    local = contrast**2 @ p.pool - (contrast @ p.pool) ** 2
    pooled = jnp.einsum("tj,wjg->wtg", p.decay, local) @ p.share
    normal = (drive + TINY) / (spec.semisaturation**2 + jnp.maximum(pooled, 0.0))
    u = normal ** (p.exponent[None, None] / 2)
    gain = jnp.exp(state_Wx5[:, 4:5] * p.gain_running[None] + state_Wx5[:, 2:3] * p.gain_pupil[None])
    added = jnp.maximum(state_Wx5 @ p.additive.T, 0.0)
    rate = (p.baseline[None, None] + p.amplitude[None, None] * u) * gain[:, None] + added[:, None]
    return jnp.einsum("st,wtn->wsn", p.seen, rate) * p.unit[None, None]
