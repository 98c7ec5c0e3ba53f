"""One session of a synthetic mouse, from the screen to a `Recording`, with ceilings that only its maker can know."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.recordings import statistics
from omnimouse_jax.recordings.sampling import sample_rows
from omnimouse_jax.recordings.session import Recording, Signal, Trials
from omnimouse_jax.recordings.splits import inside, tier_spans
from omnimouse_jax.recordings.synthetic import behavior as behaviour
from omnimouse_jax.recordings.synthetic.neurons import (
    STATE,
    Population,
    View,
    draw_population,
    make_view,
    modulation,
    state_rate,
    stimulus_drive,
    stimulus_rate,
    unit_scale,
)
from omnimouse_jax.recordings.synthetic.observation import Microscope
from omnimouse_jax.recordings.synthetic.schedule import Schedule, make_schedule
from omnimouse_jax.recordings.synthetic.spec import LAW_VERSION, ColonySpec, stream

MODEL_RATE = 30.0  # Hz; ceilings hold for responses read on this clock
CEILINGS = ("stimulus", "stimulus_behavior", "all_but_private_noise")
DEFINITION = (
    "Per neuron: Pearson correlation between the recorded single-trial response and its true expectation, pooled over "
    f"all {MODEL_RATE:g} Hz samples (previous-sample hold) of the test tier: trials of tier 'test', each with at most "
    "1 s of the blank that follows. Expectation given: 'stimulus' - the screen's past, averaged over behaviour, shared "
    "latents and private noise; 'stimulus_behavior' - also the true running, pupil and gaze, measured or not; "
    "'all_but_private_noise' - also the shared latents. 'mean' is the average over neurons; a neuron without variance "
    "counts 0."
)
_LAYOUT, _ANIMAL, _NEURONS, _BEHAVIOR, _LATENTS, _NOISE, _MEASURED = 1, 2, 3, 4, 5, 6, 7  # random streams
_WARM_UP = 4.0  # seconds simulated before the first response
_BLOCK_BYTES = 1.6e8  # of one (ticks, neurons) array; larger sessions go block by block


@dataclass(frozen=True)
class Mouse:
    """Everything drawn for a session before any response is: the inputs of the law."""

    spec: ColonySpec
    index: int
    temper: behaviour.Temper
    schedule: Schedule
    microscope: Microscope
    neurons: Population
    behavior: behaviour.Behavior
    tick_times: Float[np.ndarray, " T"]
    ticks: Int[np.ndarray, " T"]  # pool index, or -1

    def view(self) -> View:
        return make_view(self.spec, self.schedule.pool, self.ticks)

    def latents(self, repeat: int = 0) -> Float[np.ndarray, "T K"]:
        """The session's shared latents; another `repeat` gives an independent draw of the same law."""
        rng = stream(self.spec, _LATENTS, *self.spec.session(self.index), repeat)
        low, high = self.spec.latent_seconds
        seconds = np.geomspace(low, high, self.spec.n_latents) if self.spec.n_latents > 1 else np.array([high])
        columns = [
            behaviour.gaussian_process(rng, len(self.ticks), float(s), 1, self.spec.frame_rate)
            for s in seconds[: self.spec.n_latents]
        ]
        return np.concatenate([np.zeros((len(self.ticks), 0)), *columns], axis=1)

    def other_behavior(self, repeat: int) -> behaviour.Behavior:
        """An independent draw of the same animal's behaviour over the same time."""
        rng = stream(self.spec, _BEHAVIOR, *self.spec.session(self.index), repeat)
        seconds = (len(self.behavior.speed) - 1) / behaviour.CLOCK_RATE
        return behaviour.behave(rng, self.temper, self.behavior.start, self.behavior.start + seconds)

    def record(
        self, rate: Float[np.ndarray, "T N"], neurons: Population, first: int, repeat: int = 0
    ) -> Float[np.ndarray, "samples N"]:
        """What the microscope makes of the rates of `neurons` (the session's from number `first` on), noise included.

        Events are Poisson with a number per unit of rate that gives each neuron its private share of variance; in "dff"
        half of that share is Gaussian noise of the scans.
        """
        m, share = self.microscope, neurons.private_noise
        signal_variance = m.observe(rate).var(axis=0)
        wanted = np.maximum(signal_variance, 1e-12) * share / (1 - share)
        gaussian = 0.5 if m.kernel == "dff" else 0.0
        per_unit = m.noise_gain() * rate.mean(axis=0) / (m.tick * wanted * (1 - gaussian))
        events = np.empty_like(rate)
        scans = np.zeros((m.n_scans, rate.shape[1]))
        for n in range(rate.shape[1]):
            # one generator per neuron, so that blocks of neurons give what the whole would
            rng = stream(self.spec, _NOISE, *self.spec.session(self.index), first + n, repeat)
            events[:, n] = rng.poisson(rate[:, n] * m.tick * per_unit[n]) / (m.tick * per_unit[n])
            if gaussian:
                scans[:, n] = rng.standard_normal(m.n_scans) * np.sqrt(gaussian * wanted[n] / m.scan_noise_gain())
        # sums of events are not negative but for rounding
        scans += np.maximum(m.scan(events), 0.0)
        return m.resample(scans) * neurons.unit


def draw_mouse(spec: ColonySpec, index: int) -> Mouse:
    """Session `index` of the colony, up to its responses."""
    where = spec.session(index)
    rng, animal = stream(spec, _LAYOUT, *where), stream(spec, _ANIMAL, where[0])
    temper, window = behaviour.Temper.draw(animal), animal.normal(0, spec.window_spread, 2) * (1.0, 0.5)
    origin = round(float(rng.uniform(1000, 9000)), 3)  # clocks never start at 0
    schedule = make_schedule(spec, index, origin + 2.0)
    end = schedule.screen.end_time + 1.5
    scan_rate = float(rng.choice(spec.scan_rates)) * (1 + rng.uniform(-0.003, 0.003))
    rate = None if "resampling" in spec.lacks(index) else spec.response_rate

    tick = 1 / spec.frame_rate
    before = int(np.ceil((2.0 + _WARM_UP) / tick))
    after = int(np.ceil(2.5 / tick))
    ticks = np.concatenate([np.full(before, -1), schedule.ticks, np.full(after, -1)])
    tick_times = schedule.screen.times[0] + (np.arange(len(ticks)) - before) * tick
    microscope = Microscope(spec.signal, float(tick_times[0]), tick, origin, end, scan_rate, rate)
    mouse_behavior = behaviour.behave(
        stream(spec, _BEHAVIOR, *where, 0), temper, origin - float(rng.uniform(8, 12)), end + float(rng.uniform(3, 8))
    )
    n = int(rng.integers(spec.neurons[0], spec.neurons[1] + 1))
    neurons = draw_population(stream(spec, _NEURONS, *where), spec, n, window)
    return Mouse(spec, index, temper, schedule, microscope, neurons, mouse_behavior, tick_times, ticks)


def make_recording(spec: ColonySpec, index: int) -> Recording:
    """Session `index` of the colony: a pure function of its arguments.

    `truth` holds "ceiling" (for each of CEILINGS "mean" and "per_neuron"), "definition" (of the ceilings), "tuning"
    (the planted arrays) and "animal" (what its sessions share).
    """
    mouse = draw_mouse(spec, index)
    m, neurons = mouse.microscope, mouse.neurons
    view, latents = mouse.view(), mouse.latents()
    state = mouse.behavior.at(mouse.tick_times + 0.5 * m.tick)
    values = np.zeros((len(m.times), len(neurons)), np.float32)
    recording = Recording(
        key=spec.key(index),
        animal=spec.animal_name(index),
        responses=Signal.continuous(values, m.scan_rate if m.rate is None else m.rate, m.first_scan),
        trials=mouse.schedule.trials,
        behavior=_streams(mouse),
        screen=None if "screen" in spec.lacks(index) else mouse.schedule.screen,
        neurons=_neuron_columns(mouse),
        provenance=provenance(spec, index) | {"original_rate": None if m.rate is None else m.scan_rate},
    )
    scored = model_samples(recording, "test")
    per_neuron = {name: np.zeros(len(neurons)) for name in CEILINGS}
    block = max(1, int(_BLOCK_BYTES / (8 * len(mouse.ticks))))
    for first in range(0, len(neurons), block):
        rows = slice(first, min(first + block, len(neurons)))
        some = neurons.take(rows)
        drive = stimulus_drive(view, some)
        drive *= unit_scale(drive, mouse.ticks >= 0)
        with_state = state_rate(some, drive, state)
        rate = with_state * modulation(some, latents)
        values[:, rows] = mouse.record(rate, some, first)
        for name, expected in zip(CEILINGS, (stimulus_rate(some, drive), with_state, rate), strict=True):
            per_neuron[name][rows] = pearson(values[scored, rows].astype(np.float64), m.observe(expected)[scored])

    scale = _train_moments(recording.responses, recording.trials)[1]
    moments = {
        name: (float(mean), float(std))
        for s in recording.behavior.values()
        for name, mean, std in zip(s.channels or (), *_train_moments(s, recording.trials), strict=True)
    }
    truth = {
        "ceiling": {name: {"mean": float(r.mean()), "per_neuron": r} for name, r in per_neuron.items()},
        "definition": DEFINITION,
        "tuning": neurons.columns() | {"additive_channels": list(STATE)},
        "animal": {"running_fraction": mouse.temper.running_fraction},
    }
    return dataclasses.replace(
        recording,
        response_scale=scale,
        behavior_mean={name: mean for name, (mean, _) in moments.items()},
        behavior_scale={name: std for name, (_, std) in moments.items()},
        truth=truth,
    )


def provenance(spec: ColonySpec, index: int) -> dict[str, Any]:
    """Where session `index` comes from; `spec_hash` identifies its content."""
    return {
        "reader": "synthetic",
        "law_version": LAW_VERSION,
        "spec": {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(spec).items()},
        "session_index": index,
        "spec_hash": spec.session_hash(index),
        "lacks": sorted(spec.lacks(index)),
    }


def pearson(a: Float[np.ndarray, "T N"], b: Float[np.ndarray, "T N"]) -> Float[np.ndarray, " N"]:
    """Per column; 0 where either has no variance."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    norm = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return np.where(norm > 0, (a * b).sum(axis=0) / np.where(norm > 0, norm, 1.0), 0.0)


def model_samples(rec: Recording, tier: str) -> Int[np.ndarray, " samples"]:
    """Rows of the responses that the model's clock reads in the spans of a tier; a held row comes repeatedly."""
    spans = tier_spans(rec, [tier])
    start, end = rec.responses.spans()[0]
    clock = start + np.arange(int((end - start) * MODEL_RATE)) / MODEL_RATE
    rows = sample_rows(rec.responses, clock[inside(clock, spans)])[:, 0]
    return rows[rows >= 0]


def _train_moments(s: Signal, trials: Trials) -> tuple[Float[np.ndarray, " C"], Float[np.ndarray, " C"]]:
    """Mean and usable standard deviation per channel over the train tier, missing samples left out."""
    moments, spans = statistics.Moments(s.n_channels), statistics.training_spans(trials)
    step = max(1, 2**22 // s.n_channels)
    for lo in range(0, s.n_samples, step):
        hi = min(lo + step, s.n_samples)
        moments.update(s.values[lo:hi][statistics.training_rows(s, spans, lo, hi)])
    return moments.mean, statistics.usable_scale(moments.std())[0]


def _streams(mouse: Mouse) -> dict[str, Signal]:
    spec, lacks = mouse.spec, mouse.spec.lacks(mouse.index)
    rng = stream(spec, _MEASURED, *spec.session(mouse.index))
    start = mouse.behavior.start
    end = start + (len(mouse.behavior.speed) - 1) / behaviour.CLOCK_RATE
    eye_rate, wheel_rate = (
        float(rng.choice(rates)) * (1 - rng.uniform(0, 1e-3)) for rates in (spec.eye_rates, spec.treadmill_rates)
    )
    # drawn whether kept or not, so that what is missing changes nothing else
    eye = behaviour.eye_tracker(
        rng, spec, mouse.temper, mouse.behavior, start + float(rng.uniform(0, 0.05)), end, eye_rate
    )
    wheel = behaviour.treadmill(rng, mouse.behavior, start + float(rng.uniform(0, 0.01)), end, wheel_rate)
    streams = {}
    if "eye_tracker" not in lacks:
        kept = ("pupil_size",) if "gaze" in lacks else STATE[:4]
        columns = [STATE.index(name) for name in kept]
        streams["eye_tracker"] = dataclasses.replace(eye, values=eye.values[:, columns], channels=kept)
    if "treadmill" not in lacks:
        streams["treadmill"] = wheel
    return streams


def _neuron_columns(mouse: Mouse) -> dict[str, np.ndarray]:
    """What an anatomist would know: a smooth retinotopic map (12 um per degree) with scatter, depths of layers 2-4."""
    rng = stream(mouse.spec, _NEURONS, *mouse.spec.session(mouse.index), 1)
    n = len(mouse.neurons)
    place = 12.0 * np.stack([mouse.neurons.x, -mouse.neurons.y], axis=1) + rng.normal(0, 40.0, (n, 2))
    return {
        "unit_id": np.arange(1, n + 1),
        "x": place[:, 0],
        "y": place[:, 1],
        "z": rng.uniform(150.0, 400.0, n),
        "area": np.full(n, "V1"),
    }
