"""Seven mice watching drifting gratings (Park et al. 2024, Sur lab, MIT), as Recordings with a fixed held-out part.

Source: github.com/surlab/Park_et_al, `sample-data/glm` (MIT licence), one `<session>.npz` per mouse: `responses`
(128 trials, 49 samples, N) calcium dF/F; `behavior` (128, 49, 2) pupil and wheel speed; `direction` (128,) degrees;
`t` (49,) seconds from grating onset, -1 to 2 s at 16 Hz. Trials were cut out by the authors: what happened between them
is unknown.

What is ASSUMED here, because the source does not say it:
- spatial frequency 0.04 cycles/degree and temporal frequency 2 Hz, full contrast, sinusoidal, full field, phase 0 at
  onset (responses averaged over trials are modulated at 2 Hz more than at other frequencies, which speaks for that
  value);
- 0 degrees drifts to the right, 90 degrees upwards; the screen spans 120 x 60 degrees, flat;
- grey before onset; the grating stays until the last sample at 2 s (responses stay up until then);
- trial k starts k * 10 s after trial 0 (only the order of trials is known).
"""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.stimuli import drifting_grating

SPATIAL_FREQUENCY = 0.04  # cycles/degree, assumed
TEMPORAL_FREQUENCY = 2.0  # Hz, assumed
SCREEN_DEGREES = (60.0, 120.0)  # height, width, assumed
GREY = 128.0
TRIAL_PERIOD = 10.0  # s from one trial's start to the next, assumed
CHANNELS = ("pupil_size", "running")
ASSUMED = (
    f"assumed, not in the source: spatial frequency {SPATIAL_FREQUENCY} cycles/degree, temporal frequency "
    f"{TEMPORAL_FREQUENCY:g} Hz, grating on until the last sample at 2 s, trials {TRIAL_PERIOD:g} s apart"
)
HELD_OUT = 0.2  # of a session's trials, the last ones
VALIDATION = 0.1  # of the trials before those, the last ones


@dataclasses.dataclass(frozen=True)
class Session:
    """One mouse as trial arrays. Neurons are in a fixed shuffled order, so that a first half is an arbitrary half."""

    key: str
    responses: np.ndarray  # float64 (trials, samples, N)
    behavior: np.ndarray  # float64 (trials, samples, 2), channels CHANNELS
    direction: np.ndarray  # float64 (trials,) degrees
    time: np.ndarray  # float64 (samples,) seconds from grating onset
    rate: float
    unit_id: np.ndarray  # (N,) column of the file

    @property
    def tier(self) -> np.ndarray:
        """(trials,) "train", "validation" or "test" (the last fifth, held out)."""
        n = len(self.direction)
        test = int(np.ceil(HELD_OUT * n))
        validation = int(np.ceil(VALIDATION * (n - test)))
        return np.repeat(["train", "validation", "test"], [n - test - validation, validation, test])

    @property
    def n_visible(self) -> int:
        """Neurons shown when the other ones are predicted: the first half."""
        return self.responses.shape[2] // 2


def sessions(folder: str | Path, seed: int = 0) -> list[Session]:
    """All grating sessions of the folder, by name. `seed` draws the order of each session's neurons."""
    paths = sorted(p for p in Path(folder).glob("*.npz") if "naturalmovies" not in p.name)
    if not paths:
        raise UserError(f"{folder}: no <session>.npz of gratings", way_out="give the folder of the npz files to --data")
    return [_session(path, seed) for path in paths]


def recordings(folder: str | Path, screen: tuple[int, int] = (16, 32), seed: int = 0) -> list[Recording]:
    """The sessions as Recordings with drawn gratings, `screen` = (height, width) pixels."""
    return [recording(session, screen) for session in sessions(folder, seed)]


def recording(session: Session, screen: tuple[int, int] = (16, 32)) -> Recording:
    """One segment per trial; signals, screen and trials share one clock that starts with trial 0."""
    n_trials, n_samples, n_neurons = session.responses.shape
    train = session.tier == "train"
    scale = session.responses[train].std((0, 1))
    scale = np.where(scale > 0, scale, 1.0)
    start = TRIAL_PERIOD * np.arange(n_trials, dtype=np.float64)
    clock = {"rate": session.rate, "segment_start": start, "segment_first": n_samples * np.arange(n_trials)}
    rows = session.behavior[train].reshape(-1, len(CHANNELS))
    return Recording(
        key=session.key,
        animal=session.key.split("_")[1],
        responses=Signal(session.responses.reshape(-1, n_neurons).astype(np.float32), **clock),
        trials=Trials(
            start=start,
            end=start + n_samples / session.rate,
            tier=session.tier,
            modality=np.full(n_trials, "video"),
            stimulus=np.array([f"grating {d:g} deg" for d in session.direction]),
            valid=np.ones(n_trials, bool),
        ),
        behavior={
            "behavior": Signal(
                session.behavior.reshape(-1, len(CHANNELS)).astype(np.float32), channels=CHANNELS, **clock
            )
        },
        screen=_screen(session, start, screen),
        neurons={"unit_id": session.unit_id},
        response_scale=scale,
        behavior_mean=dict(zip(CHANNELS, rows.mean(0).tolist(), strict=True)),
        behavior_scale=dict(zip(CHANNELS, np.maximum(rows.std(0), 1e-6).tolist(), strict=True)),
        provenance={
            "reader": "benchmarks/park_gratings.py",
            "source": "github.com/surlab/Park_et_al sample-data/glm, MIT licence",
            "original_rate": session.rate,
            "assumed": ASSUMED,
            "responses": "dF/F as published, of either sign: train with response_loss gaussian",
        },
    )


def _screen(session: Session, start: np.ndarray, screen: tuple[int, int]) -> Screen:
    """Grey, then the grating's frames at the response rate from onset to the trial's end, then grey."""
    shown = session.time[session.time >= -1e-6]
    phase, which = np.unique(np.round(TEMPORAL_FREQUENCY * shown % 1.0, 9), return_inverse=True)
    directions, trial_direction = np.unique(session.direction, return_inverse=True)
    drawn = [
        drifting_grating(
            phase / TEMPORAL_FREQUENCY,
            direction=float(direction),
            spatial_frequency=SPATIAL_FREQUENCY,
            temporal_frequency=TEMPORAL_FREQUENCY,
            size=screen,
            screen_deg=SCREEN_DEGREES,
        )
        for direction in directions
    ]

    onset = start[:, None] - session.time[0]
    end = start[:, None] + len(session.time) / session.rate
    n_trials = len(start)
    times = np.concatenate([start[:, None], onset + shown, end], axis=1)
    grating_frames = trial_direction[:, None] * len(phase) + which
    grey = np.full((n_trials, 1), -1)
    frame = np.concatenate([grey, grating_frames, grey], axis=1)
    return Screen(
        np.concatenate(drawn), times.ravel(), frame.ravel(), np.full(times.size, GREY), float(end[-1, 0]) + TRIAL_PERIOD
    )


def _session(path: Path, seed: int) -> Session:
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in ("responses", "behavior", "direction", "t", "fs")}
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot read ({error})", way_out="copy the file again; see the docstring") from None
    responses, behavior = arrays["responses"].astype(np.float64), arrays["behavior"].astype(np.float64)
    if responses.ndim != 3 or behavior.shape != (*responses.shape[:2], 2) or len(arrays["direction"]) != len(responses):
        raise UserError(
            f"{path}: responses {responses.shape}, behavior {behavior.shape} do not match", way_out="copy again"
        )
    if not np.isfinite(responses).all():
        raise UserError(f"{path}: NaN in responses", way_out="copy the file again; the published ones have none")
    order = np.random.default_rng([seed, zlib.crc32(path.stem.encode())]).permutation(responses.shape[2])
    rate = float(arrays["fs"])
    # The file's float32 times are the multiples of 1/rate from -1 s; onset falls exactly on a sample.
    time = np.round(arrays["t"].astype(np.float64) * rate) / rate
    return Session(path.stem, responses[..., order], behavior, arrays["direction"].astype(float), time, rate, order)
