"""The neurons' law: tuning drawn from one distribution for all mice, and the rate that follows from screen and state.

Motion energy (Adelson and Bergen 1985) with divisive contrast normalisation (Heeger 1992), a power law, gain and
additive terms of behaviour, and shared log-normal modulation (after Goris, Movshon and Simoncelli 2014).
`docs/synthetic.md` has the equations; names here follow it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import signal

from omnimouse_jax.recordings.synthetic.spec import ColonySpec

POLES = 3  # of the temporal filter
POOL_SECONDS = 0.08  # time constant of the contrast pool
POOL_DEGREES = 14.0  # its Gaussian radius
_CHUNK_FRAMES = 4096
#: Behaviour that neurons know, in the order of `Population.additive`.
STATE = ("pupil_x", "pupil_y", "pupil_size", "pupil_size_derivative", "running")


@dataclass(frozen=True)
class Population:
    """N neurons' planted parameters; degrees count from the screen's centre, x to the right, y up.

    `direction` is the preferred drift direction in degrees, counter-clockwise, 0 to the right; bars at `orientation` =
    (direction + 90) mod 180 drift so.
    """

    x: Float[np.ndarray, " N"]
    y: Float[np.ndarray, " N"]
    direction: Float[np.ndarray, " N"]
    spatial_frequency: Float[np.ndarray, " N"]  # cycles/degree
    temporal_frequency: Float[np.ndarray, " N"]  # Hz
    radius: Float[np.ndarray, " N"]  # degrees, standard deviation of the Gabor's envelope across its bars
    elongation: Float[np.ndarray, " N"]  # envelope along the bars / across
    phase: Float[np.ndarray, " N"]  # radians
    complexity: Float[np.ndarray, " N"]  # 0 simple cell, 1 complex cell
    direction_selectivity: Float[np.ndarray, " N"]  # 0 to 1
    exponent: Float[np.ndarray, " N"]
    baseline: Float[np.ndarray, " N"]
    amplitude: Float[np.ndarray, " N"]
    gain_running: Float[np.ndarray, " N"]
    gain_pupil: Float[np.ndarray, " N"]
    additive: Float[np.ndarray, "N 5"]
    loadings: Float[np.ndarray, "N K"]
    private_noise: Float[np.ndarray, " N"]  # share of the neuron's variance
    unit: Float[np.ndarray, " N"]  # recorded units per unit of rate

    def __len__(self) -> int:
        return len(self.x)

    @property
    def orientation(self) -> Float[np.ndarray, " N"]:
        return (self.direction + 90.0) % 180.0

    def take(self, rows: slice) -> Population:
        """Some of the neurons."""
        return Population(**{f.name: getattr(self, f.name)[rows] for f in dataclasses.fields(self)})

    def columns(self) -> dict[str, Any]:
        """Every planted array by name, with the derived orientation."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)} | {"orientation": self.orientation}


def draw_population(rng: np.random.Generator, spec: ColonySpec, n: int, window: Float[np.ndarray, " 2"]) -> Population:
    """`n` new neurons with receptive fields around `window` (x, y in degrees): the one distribution of tuning."""
    half = np.array([spec.screen_degrees, spec.screen_degrees * spec.screen[0] / spec.screen[1]]) / 2
    centre = np.clip(window + rng.normal(0, spec.rf_spread, (n, 2)) * (1.0, 0.7), -0.85 * half, 0.85 * half)
    # the finest grating that the screen shows without aliasing, and the coarsest that a field can tell from grey
    finest = 0.35 / spec.degrees_per_pixel
    sf = np.clip(spec.spatial_frequency * np.exp(rng.normal(0, 0.4, n)), min(0.012, finest), finest)
    tf = np.clip(spec.temporal_frequency * np.exp(rng.normal(0, 0.4, n)), 0.8, spec.frame_rate / 5)
    carried = rng.random(n) < spec.additive_fraction
    preference = rng.normal(0, 1, (n, len(STATE))) * (rng.random((n, len(STATE))) < 0.4)
    preference /= np.maximum(np.linalg.norm(preference, axis=1, keepdims=True), 1e-9)
    loadings = rng.normal(0, 1, (n, spec.n_latents))
    loadings *= spec.latent_strength * np.exp(rng.normal(0, 0.25, (n, 1))) / np.sqrt(max(1, spec.n_latents))
    return Population(
        x=centre[:, 0],
        y=centre[:, 1],
        direction=rng.uniform(0, 360, n),
        spatial_frequency=sf,
        temporal_frequency=tf,
        radius=rng.uniform(0.3, 0.45, n) / sf,
        elongation=rng.uniform(1.0, 1.6, n),
        phase=rng.uniform(0, 2 * np.pi, n),
        complexity=_fractions(rng, spec.complex_fraction, n),
        direction_selectivity=_fractions(rng, spec.direction_selectivity, n),
        exponent=rng.uniform(1.0, 2.2, n),
        baseline=spec.baseline * np.exp(rng.normal(0, 0.4, n)),
        amplitude=np.exp(rng.normal(0, 0.3, n)),
        gain_running=rng.normal(*spec.gain_running, n),
        gain_pupil=rng.normal(*spec.gain_pupil, n),
        additive=spec.additive_amplitude * np.exp(rng.normal(0, 0.3, (n, 1))) * preference * carried[:, None],
        loadings=loadings,
        private_noise=rng.uniform(*spec.private_noise, n),
        unit=4.0 * np.exp(rng.normal(0, 0.5, n)),
    )


def _fractions(rng: np.random.Generator, mean: float, n: int) -> Float[np.ndarray, " n"]:
    """Beta-distributed with most mass at the ends; constant where the mean is 0 or 1."""
    return np.full(n, mean) if mean in (0.0, 1.0) else rng.beta(1.5 * mean, 1.5 * (1 - mean), n)


@dataclass(frozen=True)
class View:
    """A pool of frames as a session's neurons get it: contrast, and its energy on a coarse grid of local pools."""

    spec: ColonySpec
    pool: np.ndarray  # (P, H, W) uint8
    ticks: Int[np.ndarray, " T"]  # pool index or -1 (grey), one per frame tick
    pool_x: Float[np.ndarray, " G"]
    pool_y: Float[np.ndarray, " G"]
    contrast_energy: Float[np.ndarray, "T G"]

    def filtered(self, kernels: Float[np.ndarray, "pixels M"]) -> Float[np.ndarray, "T M"]:
        """The frames' contrast projected on kernels, tick by tick; 0 while the screen is grey."""
        out = np.zeros((len(self.pool) + 1, kernels.shape[1]))  # the last row is grey
        for i in range(0, len(self.pool), _CHUNK_FRAMES):
            out[i : i + _CHUNK_FRAMES][: len(self.pool) - i] = (
                _contrast(self.spec, self.pool[i : i + _CHUNK_FRAMES]) @ kernels
            )
        return out[self.ticks]


def make_view(spec: ColonySpec, pool: np.ndarray, ticks: Int[np.ndarray, " T"]) -> View:
    """Local contrast energy (Gaussian-weighted variance of contrast) on a coarse grid, low-passed in time."""
    x, y = pixel_degrees(spec)
    width, height = spec.screen_degrees, spec.screen_degrees * spec.screen[0] / spec.screen[1]
    across, down = max(2, round(width / POOL_DEGREES)), max(2, round(height / POOL_DEGREES))
    gx, gy = np.meshgrid((np.arange(across) + 0.5) / across - 0.5, (np.arange(down) + 0.5) / down - 0.5)
    gx, gy = gx.ravel() * width, gy.ravel() * height
    weights = np.exp(-((x[:, None] - gx) ** 2 + (y[:, None] - gy) ** 2) / (2 * POOL_DEGREES**2))
    weights /= weights.sum(axis=0)
    energy = np.zeros((len(pool) + 1, len(gx)))
    for i in range(0, len(pool), _CHUNK_FRAMES):
        contrast = _contrast(spec, pool[i : i + _CHUNK_FRAMES])
        energy[i : i + len(contrast)] = contrast**2 @ weights - (contrast @ weights) ** 2
    decay = np.exp(-1 / (POOL_SECONDS * spec.frame_rate))
    smooth = signal.lfilter([1 - decay], [1, -decay], energy[ticks], axis=0)
    return View(spec, pool, ticks, gx, gy, smooth)


def gabors(
    spec: ColonySpec, neurons: Population
) -> tuple[Float[np.ndarray, "pixels N"], Float[np.ndarray, "pixels N"]]:
    """Even and odd Gabors that ignore uniform grey; their optimal grating of contrast 1 gives amplitude about 1."""
    x, y = pixel_degrees(spec)
    dx, dy = x[:, None] - neurons.x, y[:, None] - neurons.y
    angle = np.deg2rad(neurons.direction)
    along, across = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    wide = neurons.radius * neurons.elongation
    envelope = np.exp(-0.5 * ((along / neurons.radius) ** 2 + (across / wide) ** 2))
    carrier = 2 * np.pi * neurons.spatial_frequency * along
    size = 2 / (2 * np.pi * neurons.radius * wide / spec.degrees_per_pixel**2)
    even, odd = (
        size * envelope * (wave - (envelope * wave).sum(axis=0) / envelope.sum(axis=0))
        for wave in (np.cos(carrier), np.sin(carrier))
    )
    return even, odd


def stimulus_drive(view: View, neurons: Population) -> Float[np.ndarray, "T N"]:
    """D^(p/2): normalised motion energy of each neuron at each frame tick, before its amplitude."""
    spec, n = view.spec, len(neurons)
    both = view.filtered(np.concatenate(gabors(spec, neurons), axis=1))
    drive = np.empty((len(both), n))
    turn = 2 * np.pi * neurons.temporal_frequency / spec.frame_rate
    decay = np.exp(-1 / (np.clip(0.1 / neurons.temporal_frequency, 0.03, 0.1) * spec.frame_rate))
    for k in range(n):
        # complex one-pole filters in a row, gain 1 at +tf, pass the preferred direction; conjugated, the other one
        a = np.poly([decay[k] * np.exp(1j * turn[k])] * POLES)
        gabor = both[:, k] + 1j * both[:, n + k]
        gain = (1 - decay[k]) ** POLES
        preferred = signal.lfilter([gain], a, gabor)
        against = np.conj(signal.lfilter([gain], a, np.conj(gabor)))
        rest = 1 - neurons.direction_selectivity[k]
        simple = np.maximum(np.real(np.exp(1j * neurons.phase[k]) * (preferred + rest * against)), 0.0) ** 2
        energy = np.abs(preferred) ** 2 + rest**2 * np.abs(against) ** 2
        drive[:, k] = 2 * (1 - neurons.complexity[k]) * simple + neurons.complexity[k] * energy
    near = np.exp(
        -((view.pool_x[:, None] - neurons.x) ** 2 + (view.pool_y[:, None] - neurons.y) ** 2) / (2 * POOL_DEGREES**2)
    )
    share = (1 - spec.global_pool) * near / near.sum(axis=0) + spec.global_pool / len(view.pool_x)
    drive /= spec.semisaturation**2 + view.contrast_energy @ share
    return drive ** (neurons.exponent / 2)


def unit_scale(drive: Float[np.ndarray, "T N"], over: np.ndarray) -> Float[np.ndarray, " N"]:
    """1 / standard deviation of the drive over some ticks: every neuron is adapted to the session's films."""
    spread = drive[over].std(axis=0)
    return np.where(spread > 0, 1 / np.maximum(spread, 1e-12), 0.0)


def state_rate(
    neurons: Population, drive: Float[np.ndarray, "T N"], state: Float[np.ndarray, "T 5"]
) -> Float[np.ndarray, "T N"]:
    """s G + A: the rate expected from stimulus and behaviour. `drive` in unit scale, `state` in the order of STATE."""
    gain = np.exp(state[:, [4]] * neurons.gain_running + state[:, [2]] * neurons.gain_pupil)
    return stimulus_rate(neurons, drive) * gain + np.maximum(state @ neurons.additive.T, 0.0)


def stimulus_rate(neurons: Population, drive: Float[np.ndarray, "T N"]) -> Float[np.ndarray, "T N"]:
    """s: the rate expected from the stimulus alone, but for a factor and a constant per neuron."""
    return neurons.baseline + neurons.amplitude * drive


def modulation(neurons: Population, latents: Float[np.ndarray, "T K"]) -> Float[np.ndarray, "T N"]:
    """M: log-normal with mean 1, from unit-variance latents that the session's neurons share."""
    return np.exp(latents @ neurons.loadings.T - 0.5 * (neurons.loadings**2).sum(axis=1))


def _contrast(spec: ColonySpec, frames: np.ndarray) -> Float[np.ndarray, "n pixels"]:
    return (frames.reshape(len(frames), -1).astype(np.float64) - spec.grey) / spec.contrast


def pixel_degrees(spec: ColonySpec) -> tuple[Float[np.ndarray, " pixels"], Float[np.ndarray, " pixels"]]:
    rows, columns = np.mgrid[: spec.screen[0], : spec.screen[1]].astype(np.float64)
    x = (columns - (spec.screen[1] - 1) / 2) * spec.degrees_per_pixel
    y = ((spec.screen[0] - 1) / 2 - rows) * spec.degrees_per_pixel
    return x.ravel(), y.ravel()
