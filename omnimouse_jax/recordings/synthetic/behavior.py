"""What the mouse does and how awake it is, and what an eye tracker and a treadmill see of it.

Everything is made of stationary Gaussian processes on a 100 Hz clock, independent of the screen, so that averages over
behaviour are the same at every moment of the session.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import signal, stats

from omnimouse_jax.recordings.session import Signal
from omnimouse_jax.recordings.synthetic.neurons import STATE
from omnimouse_jax.recordings.synthetic.spec import ColonySpec

CLOCK_RATE = 100.0
SATURATING = 18.0  # cm/s; at twice this speed neurons hardly tell a faster run


@dataclass(frozen=True)
class Temper:
    """What stays the same over one animal's sessions."""

    running_fraction: float
    pupil_radius: float  # pixels of the eye camera
    eye_centre: tuple[float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Temper:
        return cls(rng.uniform(0.3, 0.55), rng.uniform(25, 45), (rng.uniform(140, 180), rng.uniform(100, 140)))


@dataclass(frozen=True)
class Behavior:
    """True behaviour on a 100 Hz clock that starts at `start` s. `state` in neurons' units, order STATE."""

    start: float
    state: Float[np.ndarray, "n 5"]
    speed: Float[np.ndarray, " n"]  # cm/s
    pupil: Float[np.ndarray, " n"]  # pixels

    def at(self, times: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 5"]:
        """The state at some times, by linear interpolation."""
        clock = self.start + np.arange(len(self.state)) / CLOCK_RATE
        return np.stack([np.interp(times, clock, column) for column in self.state.T], axis=1)


def gaussian_process(
    rng: np.random.Generator, n: int, seconds: float, columns: int, rate: float, smooth: bool = False
) -> Float[np.ndarray, "n columns"]:
    """Stationary, zero mean, unit variance: AR(1) with time constant `seconds`, or two of it in a row (`smooth`)."""
    decay = np.exp(-1 / (seconds * rate))
    burn_in = int(np.ceil(8 * seconds * rate)) if smooth else 0
    white = rng.standard_normal((n + burn_in, columns))
    if not smooth:
        white[0] /= np.sqrt(1 - decay**2)  # starts in its stationary distribution
        return np.sqrt(1 - decay**2) * signal.lfilter([1.0], [1.0, -decay], white, axis=0)
    variance = (1 + decay**2) / (1 - decay**2) ** 3
    return signal.lfilter([1.0], np.poly([decay, decay]), white, axis=0)[burn_in:] / np.sqrt(variance)


def behave(rng: np.random.Generator, temper: Temper, start: float, end: float) -> Behavior:
    """A mouse from `start` to `end` s: arousal, running bouts, a pupil that follows both, and saccades."""
    n = int(np.ceil((end - start) * CLOCK_RATE)) + 1
    arousal, step, iris = (
        gaussian_process(rng, n, seconds, 1, CLOCK_RATE, smooth=True)[:, 0] for seconds in (3.0, 1.0, 0.8)
    )
    threshold = stats.norm.ppf(1 - temper.running_fraction)
    speed = 18.0 * np.maximum(0.6 * arousal + 0.8 * step - threshold, 0.0)
    running = np.tanh(speed / SATURATING)
    decay = np.exp(-1 / (1.0 * CLOCK_RATE))
    followed = signal.lfilter([1 - decay], [1, -decay], running, zi=[decay * running[0]])[0]
    size = 0.6 * arousal + 2.0 * (followed - 0.2) + 0.4 * iris
    change = np.gradient(size) * CLOCK_RATE
    gaze = _gaze(rng, running)
    state = np.concatenate([gaze, np.stack([size, change / 0.5, running], axis=1)], axis=1)
    assert state.shape[1] == len(STATE)
    return Behavior(start, state, speed, temper.pupil_radius * np.exp(0.22 * size))


def _gaze(rng: np.random.Generator, running: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    """Fixations of random length between fast saccades, mostly horizontal, with slow drift; about unit variance."""
    n = len(running)
    jumps = rng.random(n) < (0.35 + 0.7 * running) / CLOCK_RATE
    jumps[0] = True
    targets = signal.lfilter([np.sqrt(1 - 0.4**2)], [1, -0.4], rng.standard_normal((int(jumps.sum()), 2)), axis=0)
    held = targets[np.cumsum(jumps) - 1]
    decay = np.exp(-1 / (0.02 * CLOCK_RATE))
    flown = signal.lfilter([1 - decay], [1, -decay], held, axis=0, zi=decay * held[:1])[0]
    return 0.95 * flown + 0.3 * gaussian_process(rng, n, 4.0, 2, CLOCK_RATE)


def eye_tracker(
    rng: np.random.Generator, spec: ColonySpec, temper: Temper, mouse: Behavior, start: float, end: float, rate: float
) -> Signal:
    """Gaze, pupil size and its derivative (pixels, pixels/s) with noise; NaN in blinks and lost stretches."""
    n = int((end - start) * rate)
    times = start + np.arange(n) / rate
    clock = mouse.start + np.arange(len(mouse.pupil)) / CLOCK_RATE
    state = mouse.at(times)
    size = np.interp(times, clock, mouse.pupil)
    change = np.interp(times, clock, np.gradient(mouse.pupil) * CLOCK_RATE)
    values = np.stack(
        [temper.eye_centre[0] + 9.0 * state[:, 0], temper.eye_centre[1] + 4.0 * state[:, 1], size, change], axis=1
    )
    values += rng.standard_normal(values.shape) * (0.6, 0.6, 0.3, 1.0)
    minutes = (end - start) / 60
    n_blinks, n_lost = (
        rng.poisson(spec.blinks_per_minute * minutes),
        rng.poisson(0.1 * spec.blinks_per_minute * minutes),
    )
    from_ = rng.uniform(start, end, n_blinks + n_lost)
    lasting = np.concatenate([rng.uniform(0.1, 0.4, n_blinks), rng.uniform(0.5, 2.0, n_lost)])
    for first, seconds in zip(from_, lasting, strict=True):
        values[(times >= first) & (times < first + seconds)] = np.nan
    return Signal.continuous(values.astype(np.float32), rate, start, channels=STATE[:4])


def treadmill(rng: np.random.Generator, mouse: Behavior, start: float, end: float, rate: float) -> Signal:
    """Running speed in cm/s with the encoder's noise."""
    times = start + np.arange(int((end - start) * rate)) / rate
    clock = mouse.start + np.arange(len(mouse.speed)) / CLOCK_RATE
    values = np.interp(times, clock, mouse.speed) + 0.3 * rng.standard_normal(len(times))
    return Signal.continuous(values[:, None].astype(np.float32), rate, start, channels=STATE[4:])
