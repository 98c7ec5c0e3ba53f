"""Neurons written down as formulas, behind the signature that a trained model has: what an experiment must find is known."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from omnimouse_jax.probe.physiology.gratings import Grating
from omnimouse_jax.probe.physiology.subject import Geometry, Subject

GEOMETRY = Geometry(height=16, width=32, degrees=128.0, grey=0.5, n_frames=60, frame_rate=30.0)
SAMPLES = np.arange(30, 60) / 30.0


@dataclasses.dataclass(frozen=True)
class Gabor:
    """A motion energy neuron (Adelson and Bergen 1985) that saturates with contrast (Naka and Rushton 1966)."""

    direction: float = 60.0
    spatial_frequency: float = 0.03
    temporal_frequency: float = 2.0
    x: float = 10.0
    y: float = -8.0
    radius: float = 10.0
    c50: float = 0.25
    exponent: float = 2.0
    baseline: float = 0.2
    log_gain: float = 0.7  # of a unit of running
    offset: float = 0.1
    simple: bool = False

    def filters(self) -> tuple[np.ndarray, np.ndarray]:
        """Even and odd, that ignore grey; pixels."""
        x, y = GEOMETRY.pixels()
        dx, dy = x - self.x, y - self.y
        angle = np.deg2rad(self.direction)
        carrier = 2 * np.pi * self.spatial_frequency * (np.cos(angle) * dx + np.sin(angle) * dy)
        envelope = np.exp(-(dx**2 + dy**2) / (2 * self.radius**2))
        return tuple(
            (envelope * (wave - (envelope * wave).sum() / envelope.sum())).ravel()
            for wave in (np.cos(carrier), np.sin(carrier))
        )

    def clock(self) -> np.ndarray:
        """Causal complex filter that passes the preferred direction's frequency: later x earlier."""
        step = np.arange(GEOMETRY.n_frames)[:, None] - np.arange(GEOMETRY.n_frames)
        turn = np.exp(-0.12 + 2j * np.pi * self.temporal_frequency / GEOMETRY.frame_rate)
        return np.where(step >= 0, turn ** np.maximum(step, 0), 0.0)


def gabors(*neurons: Gabor) -> Subject:
    """A subject of these neurons. Its context is each window's running, in units of gain."""
    best = np.array([_unit(neuron) for neuron in neurons], np.float32)
    arrays = [
        (neuron, *(f.astype(np.float32) for f in neuron.filters()), neuron.clock().astype(np.complex64))
        for neuron in neurons
    ]

    def apply(params, video, running):
        out = []
        contrast = (video.reshape(*video.shape[:2], -1) - GEOMETRY.grey) / 0.5
        for (neuron, even, odd, clock), unit in zip(arrays, params, strict=True):
            g = (contrast @ even).astype(jnp.complex64) + jnp.complex64(1j) * (contrast @ odd).astype(jnp.complex64)
            q = jnp.einsum("ts,ws->wt", clock, g)
            amplitude = jnp.maximum(jnp.real(q), 0.0) if neuron.simple else jnp.sqrt(jnp.abs(q) ** 2 + 1e-12)
            power = (amplitude / unit) ** neuron.exponent
            u = power / (power + neuron.c50**neuron.exponent)
            out.append(
                (neuron.baseline + u) * jnp.exp(neuron.log_gain * running)[:, None] + neuron.offset * running[:, None]
            )
        return jnp.stack(out, axis=-1)[:, 30:]

    return Subject(
        "gabors", apply, best, _running, GEOMETRY, SAMPLES, np.arange(len(neurons)), channels=("running",), batch=16
    )


def _unit(neuron: Gabor) -> float:
    """What the neuron's best grating of full contrast gives before it saturates."""
    from omnimouse_jax.probe.physiology.gratings import draw

    best = Grating(neuron.direction, neuron.spatial_frequency, neuron.temporal_frequency)
    contrast = (draw([best], GEOMETRY, 0.0)[0].reshape(GEOMETRY.n_frames, -1) - GEOMETRY.grey) / 0.5
    even, odd = neuron.filters()
    return float(np.abs(neuron.clock() @ (contrast @ even + 1j * (contrast @ odd)))[-1])


def _running(n: int, levels) -> np.ndarray:
    return np.full(n, levels.get("running", 0.0), np.float32)


def linear(filters_NxFxHxW: np.ndarray) -> Subject:
    """Responses are inner products of contrast with filters, the same at every sample."""

    def apply(params, video, context):
        value = jnp.einsum("nfhw,bfhw->bn", params, video - jnp.float32(GEOMETRY.grey))
        return jnp.repeat(value[:, None], len(SAMPLES), axis=1)

    n = len(filters_NxFxHxW)
    return Subject(
        "linear", apply, filters_NxFxHxW.astype(np.float32), lambda n, levels: np.zeros(n, np.float32), GEOMETRY, SAMPLES,
        np.arange(n), batch=8,
    )  # fmt: skip


def flat(n: int = 2) -> Subject:
    """Neurons that always answer the same."""

    def apply(params, video, context):
        return jnp.zeros((len(video), len(SAMPLES), n), jnp.float32) + params[None, None]

    return Subject(
        "flat",
        apply,
        np.full(n, 0.7, np.float32),
        lambda n, levels: np.zeros(n, np.float32),
        GEOMETRY,
        SAMPLES,
        np.arange(n),
    )
