"""What a synthetic colony is: one frozen value from which every session follows."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math

import numpy as np

from omnimouse_jax.errors import UserError

#: Changes whenever the same spec would give other numbers, so that old sessions are not taken for new ones.
LAW_VERSION = 1
SIGNALS = ("deconvolved", "dff")


_AT_LEAST_ONE = (
    "n_animals",
    "sessions_per_animal",
    "test_clips",
    "test_repeats",
    "validation_repeats",
    "image_repeats",
)
_COUNTS = (
    *_AT_LEAST_ONE,
    "seed",
    "validation_clips",
    "train_images",
    "test_images",
    "complete_first",
    "n_latents",
)
_POSITIVE = (
    "frame_rate",
    "clip_seconds",
    "train_minutes",
    "image_seconds",
    "contrast",
    "speed",
    "response_rate",
    "screen_degrees",
    "spatial_frequency",
    "temporal_frequency",
    "semisaturation",
)
_FRACTIONS = (
    "complex_fraction",
    "direction_selectivity",
    "global_pool",
    "additive_fraction",
    "unresampled",
    "missing_eye_tracker",
    "missing_gaze",
    "missing_treadmill",
    "missing_screen",
)


@dataclasses.dataclass(frozen=True)
class ColonySpec:
    """Plain data from which every session follows; session (animal, number) is a pure function of it.

    Sessions are numbered round-robin over the animals: session index i is animal `i % n_animals`, so the first ones
    belong to different mice. The first `complete_first` never lack anything. A `missing_*` or `unresampled` value is
    the fraction of the other sessions without that modality, spread evenly.
    """

    seed: int = 0
    name: str = "m"  # animals are called name001, name002, ...

    # size
    n_animals: int = 4
    sessions_per_animal: int = 1
    neurons: tuple[int, int] = (32, 48)  # fewest and most in a session
    screen: tuple[int, int] = (16, 32)  # height, width in pixels
    screen_degrees: float = 128.0  # width of the screen in visual degrees

    # stimuli
    frame_rate: float = 30.0
    clip_seconds: float = 10.0
    train_minutes: float = 2.5  # of train-tier video, every clip shown once
    validation_clips: int = 2
    validation_repeats: int = 1
    test_clips: int = 3
    test_repeats: int = 4
    share_test_clips: bool = False  # the same test clips in all sessions
    train_images: int = 20
    test_images: int = 0
    image_repeats: int = 4
    image_seconds: float = 0.5
    blank_seconds: tuple[float, float] = (0.3, 0.5)  # shortest and longest blank between stimuli
    long_blank_seconds: float = 5.0  # one longer blank in mid-session; 0: none
    grey: int = 128  # grey level of blanks, and mean level of the stimuli
    contrast: float = 55.0  # grey levels that count as contrast 1 (about the stimuli's standard deviation)
    speed: float = 25.0  # degrees/s, median over shots of the camera's speed

    # tuning, drawn from one distribution for all mice
    complex_fraction: float = 0.5  # mean share of complex-cell (energy) input
    direction_selectivity: float = 0.7  # mean; 1: no response to the opposite direction's motion energy
    spatial_frequency: float = 0.035  # cycles/degree, median
    temporal_frequency: float = 2.0  # Hz, median
    rf_spread: float = 16.0  # degrees, standard deviation of receptive-field centres around the animal's window
    window_spread: float = 8.0  # degrees, standard deviation of the animals' window centres around the screen's centre
    global_pool: float = 0.3  # share of whole-screen contrast in the normalisation pool
    semisaturation: float = 0.35  # contrast at which the normalised drive is half way

    # behaviour and shared variability (all in units of the stimulus drive or of log gain)
    baseline: float = 0.4
    gain_running: tuple[float, float] = (0.6, 0.5)  # mean, standard deviation over neurons of the log-gain weight
    gain_pupil: tuple[float, float] = (0.2, 0.2)
    additive_fraction: float = 0.5  # of neurons have an additive behaviour term
    additive_amplitude: float = 0.8
    n_latents: int = 4
    latent_seconds: tuple[float, float] = (0.5, 6.0)  # shortest and longest time constant
    latent_strength: float = 0.5  # standard deviation of a neuron's log modulation
    private_noise: tuple[float, float] = (0.25, 0.6)  # least and most private share of a neuron's variance

    # observation
    signal: str = "deconvolved"
    scan_rates: tuple[float, ...] = (8.0,)  # Hz; a session draws one of them
    response_rate: float = 30.0  # Hz, to which scans are resampled by linear interpolation
    unresampled: float = 0.0
    eye_rates: tuple[float, ...] = (20.0,)
    treadmill_rates: tuple[float, ...] = (100.0,)
    blinks_per_minute: float = 5.0

    # what is missing
    complete_first: int = 0
    missing_eye_tracker: float = 0.0
    missing_gaze: float = 0.0  # eye tracker with pupil size only
    missing_treadmill: float = 0.0
    missing_screen: float = 0.0  # shown, but the frames were not kept

    def __post_init__(self) -> None:
        def check(holds: bool, field: str, rule: str) -> None:
            if not holds:
                raise UserError(f"colony spec: {field}={getattr(self, field)!r}", way_out=rule)

        for name in _COUNTS:
            check(getattr(self, name) >= (name in _AT_LEAST_ONE), name, "give a larger number")
        for name in _POSITIVE:
            check(getattr(self, name) > 0, name, "give a positive number")
        for name in _FRACTIONS:
            check(0 <= getattr(self, name) <= 1, name, "give a fraction from 0 to 1")
        for name in ("neurons", "blank_seconds", "latent_seconds", "private_noise"):
            low, high = getattr(self, name)
            check(0 < low <= high, name, "give (least, most), both positive")
        check(self.private_noise[1] < 1, "private_noise", "give shares below 1")
        check(min(self.screen) >= 4, "screen", "give (height, width) of at least 4 pixels each")
        check(0 < self.grey < 255, "grey", "give a grey level from 1 to 254")
        check(self.signal in SIGNALS, "signal", f"give one of {', '.join(SIGNALS)}")
        for name in ("scan_rates", "eye_rates", "treadmill_rates"):
            check(
                len(getattr(self, name)) > 0 and min(getattr(self, name)) > 0, name, "give one or more positive rates"
            )

    @property
    def n_sessions(self) -> int:
        return self.n_animals * self.sessions_per_animal

    @property
    def degrees_per_pixel(self) -> float:
        return self.screen_degrees / self.screen[1]

    @property
    def train_clips(self) -> int:
        return max(1, round(self.train_minutes * 60 / self.clip_seconds))

    def session(self, index: int) -> tuple[int, int]:
        """(animal, number of the session within that animal), both from 0."""
        if not 0 <= index < self.n_sessions:
            raise UserError(f"colony spec: session index {index}", way_out=f"give 0 to {self.n_sessions - 1}")
        return index % self.n_animals, index // self.n_animals

    def animal_name(self, index: int) -> str:
        return f"{self.name}{self.session(index)[0] + 1:03d}"

    def key(self, index: int) -> str:
        return f"{self.animal_name(index)}-{self.session(index)[1] + 1}"

    def lacks(self, index: int) -> frozenset[str]:
        """What session `index` is without: any of eye_tracker, gaze, treadmill, screen, resampling."""
        if index < self.complete_first:
            return frozenset()
        fractions = (
            ("eye_tracker", self.missing_eye_tracker),
            ("screen", self.missing_screen),
            ("gaze", self.missing_gaze),
            ("resampling", self.unresampled),
            ("treadmill", self.missing_treadmill),
        )
        i = index - self.complete_first
        # Each kind takes every (1/fraction)-th session, shifted by its place in the list, so that small colonies
        # miss one thing per session.
        return frozenset(
            what
            for shift, (what, fraction) in enumerate(fractions)
            if math.floor((i + 1 - shift) * fraction + 1e-9) > math.floor((i - shift) * fraction + 1e-9)
        )

    def session_hash(self, index: int) -> str:
        """Identifies the content of session `index`; does not change when the colony grows by animals or sessions."""
        fields = dataclasses.asdict(self)
        for name in _COLONY_ONLY:
            del fields[name]
        told = {"law": LAW_VERSION, "spec": fields, "session": self.session(index), "lacks": sorted(self.lacks(index))}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


_COLONY_ONLY = (
    "n_animals",
    "sessions_per_animal",
    "complete_first",
    "missing_eye_tracker",
    "missing_gaze",
    "missing_treadmill",
    "missing_screen",
    "unresampled",
)


def stream(spec: ColonySpec, *path: int) -> np.random.Generator:
    """The random numbers of one part of the colony: a generator that depends on the spec's seed and `path` only."""
    return np.random.default_rng([spec.seed, *path])
