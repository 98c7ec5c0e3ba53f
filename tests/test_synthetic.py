"""The synthetic mice obey the law that docs/synthetic.md states, and their ceilings are what repetition would find."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS, Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic import (
    PRESETS,
    ColonySpec,
    estimate,
    make_recording,
    movies,
    resolve,
    synthesize,
)
from omnimouse_jax.recordings.synthetic import mouse as mouse_module
from omnimouse_jax.recordings.synthetic.behavior import gaussian_process
from omnimouse_jax.recordings.synthetic.mouse import Mouse, draw_mouse, model_samples, pearson
from omnimouse_jax.recordings.synthetic.neurons import (
    draw_population,
    gabors,
    make_view,
    modulation,
    state_rate,
    stimulus_drive,
    unit_scale,
)
from omnimouse_jax.recordings.synthetic.observation import KERNELS, Microscope
from omnimouse_jax.recordings.validate import check_recording

TINY = PRESETS["tiny"]
MIXED = PRESETS["mixed"]


@pytest.fixture(scope="module")
def tiny() -> Recording:
    return make_recording(TINY, 0)


def arrays(rec: Recording) -> dict[str, np.ndarray]:
    """Every array of a recording, by name."""
    out = {"responses": rec.responses.values, "scale": rec.response_scale}
    out |= {f"behavior.{name}": s.values for name, s in rec.behavior.items()}
    out |= {f"trials.{f.name}": getattr(rec.trials, f.name) for f in dataclasses.fields(rec.trials)}
    if rec.screen is not None:
        out |= {name: getattr(rec.screen, name) for name in ("frames", "times", "frame", "grey")}
    out |= {f"neurons.{name}": v for name, v in rec.neurons.items()}
    out |= {f"ceiling.{name}": c["per_neuron"] for name, c in rec.truth["ceiling"].items()}
    return out


def assert_same(a: Recording, b: Recording) -> None:
    first, second = arrays(a), arrays(b)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def times(signal) -> np.ndarray:
    return signal.segment_start[0] + np.arange(signal.n_samples) / signal.rate


# --- a session is a pure function of (spec, index)


def test_a_session_is_bitwise_reproducible_and_survives_growth_of_the_colony(tiny):
    assert_same(tiny, make_recording(TINY, 0))
    grown = dataclasses.replace(TINY, n_animals=9, sessions_per_animal=3)
    assert_same(tiny, make_recording(grown, 0))
    assert grown.session_hash(0) == TINY.session_hash(0)


def test_sessions_seeds_and_specs_differ(tiny):
    other, reseeded = make_recording(TINY, 1), make_recording(dataclasses.replace(TINY, seed=1), 0)
    for rec in (other, reseeded):
        n = min(rec.n_neurons, tiny.n_neurons)
        assert not np.any(rec.truth["tuning"]["direction"][:n] == tiny.truth["tuning"]["direction"][:n])
        assert not set(rec.trials.stimulus) & set(tiny.trials.stimulus) - {""}
    assert len({TINY.session_hash(0), TINY.session_hash(1), dataclasses.replace(TINY, seed=1).session_hash(0)}) == 3


def test_blocks_of_neurons_give_what_the_whole_gives(tiny, monkeypatch):
    monkeypatch.setattr(mouse_module, "_BLOCK_BYTES", 5 * 8 * 3000)
    blocked = make_recording(TINY, 0)
    np.testing.assert_allclose(blocked.responses.values, tiny.responses.values, rtol=1e-5, atol=1e-6)


def test_what_is_missing_changes_nothing_else():
    whole = make_recording(TINY, 0)
    poor = make_recording(
        dataclasses.replace(TINY, missing_screen=1.0, missing_eye_tracker=1.0, missing_treadmill=1.0), 0
    )
    assert poor.screen is None
    assert poor.channels == ()
    np.testing.assert_array_equal(poor.responses.values, whole.responses.values)


# --- shape of a session


def test_recordings_are_consistent_and_look_like_real_ones(tiny):
    check_recording(tiny)
    assert tiny.channels == BEHAVIOR_CHANNELS
    assert tiny.responses.rate == 30.0
    assert tiny.provenance["original_rate"] == pytest.approx(8.0, rel=0.004)
    eye, wheel = tiny.behavior["eye_tracker"], tiny.behavior["treadmill"]
    assert eye.rate == pytest.approx(20.0, rel=2e-3)
    assert wheel.rate == pytest.approx(100.0, rel=2e-3)
    start, end = tiny.responses.spans()[0]
    for stream in (eye, wheel):
        first, last = stream.spans()[0]
        assert 8 <= start - first <= 12.1
        assert last > end
    assert start < tiny.screen.times[0]
    assert end > tiny.screen.end_time
    assert np.isfinite(tiny.responses.values).all()
    assert tiny.responses.values.min() >= 0
    assert tiny.responses.values.dtype == np.float32


def test_trials_tile_the_screen_and_end_in_a_one_frame_blank(tiny):
    trials, screen = tiny.trials, tiny.screen
    np.testing.assert_array_equal(trials.start[1:], trials.end[:-1])
    assert trials.start[0] == screen.times[0]
    assert trials.end[-1] == screen.end_time
    assert trials.modality[-1] == "blank"
    assert trials.end[-1] - trials.start[-1] == pytest.approx(1 / 30)
    blank = trials.modality == "blank"
    assert np.all(trials.tier[blank] == "")
    assert np.all(trials.stimulus[blank] == "")
    first = np.searchsorted(screen.times, trials.start)
    assert np.all(screen.times[first] == trials.start)
    assert np.all((screen.frame[first] < 0) == blank)
    video, image = trials.modality == "video", trials.modality == "image"
    np.testing.assert_allclose((trials.end - trials.start)[video], 5.0, atol=1e-9)
    np.testing.assert_allclose((trials.end - trials.start)[image], 0.5, atol=1e-9)
    # an image lies between a blank of 0.3 to 0.5 s and one of a single frame, and is one event
    k = np.flatnonzero(image)
    assert np.all((trials.end - trials.start)[k - 1] >= 0.3 - 1e-9)
    np.testing.assert_allclose((trials.end - trials.start)[k + 1], 1 / 30, atol=1e-9)
    assert np.all(np.append(first, len(screen.times))[k + 1] - first[k] == 1)


def test_repeats_share_names_and_frames_and_tiers_do_not(tiny):
    trials, screen = tiny.trials, tiny.screen
    shown: dict[str, list[bytes]] = {}
    for start, end, name in zip(trials.start, trials.end, trials.stimulus, strict=True):
        if name:
            events = (screen.times >= start) & (screen.times < end)
            shown.setdefault(name, []).append(screen.frames[screen.frame[events]].tobytes())
    assert all(len(set(frames)) == 1 for frames in shown.values())
    assert len({frames[0] for frames in shown.values()}) == len(shown)
    test = {name for name in shown if name in set(trials.stimulus[trials.tier == "test"])}
    assert sorted(len(shown[name]) for name in test) == [TINY.test_repeats] * TINY.test_clips
    assert all(len(shown[name]) == 1 for name in set(shown) - test)


def test_shared_test_clips_are_the_same_in_every_session():
    spec = dataclasses.replace(TINY, share_test_clips=True)
    names = []
    for index in (0, 1):
        trials = draw_mouse(spec, index).schedule.trials
        names.append({tier: set(trials.stimulus[trials.tier == tier]) for tier in ("train", "test")})
    assert names[0]["test"] == names[1]["test"]
    assert not names[0]["train"] & names[1]["train"]


def test_the_eye_tracker_loses_the_eye_in_bursts():
    rec = make_recording(dataclasses.replace(TINY, blinks_per_minute=20.0), 1)
    lost = np.isnan(rec.behavior["eye_tracker"].values)
    assert np.all(lost.any(axis=1) == lost.all(axis=1))
    lengths = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], lost[:, 0], [0]]))))[::2]
    assert len(lengths) >= 5
    assert lengths.max() >= 3
    assert not np.isnan(rec.behavior["treadmill"].values).any()
    assert all(np.isfinite([*rec.behavior_mean.values(), *rec.behavior_scale.values()]))


def test_mixed_has_every_kind_of_gap_once():
    lacks = [MIXED.lacks(i) for i in range(MIXED.n_sessions)]
    assert not any(lacks[: MIXED.complete_first])
    assert sorted(what for one in lacks for what in one) == ["eye_tracker", "gaze", "resampling", "screen"]
    recordings = {next(iter(lacks[i])): make_recording(MIXED, i) for i in range(MIXED.n_sessions) if lacks[i]}
    assert "eye_tracker" not in recordings["eye_tracker"].behavior
    assert recordings["gaze"].channels == ("pupil_size", "running")
    assert recordings["screen"].screen is None
    native = recordings["resampling"]
    assert native.provenance["original_rate"] is None
    assert native.responses.rate < 12
    for rec in recordings.values():
        check_recording(rec)
        assert 10 <= rec.n_neurons <= 40
        assert (
            0.2 < rec.truth["ceiling"]["stimulus"]["mean"] < rec.truth["ceiling"]["all_but_private_noise"]["mean"] < 1
        )


# --- stimuli


def test_films_have_natural_spectra_and_move():
    spec = dataclasses.replace(TINY, screen=(36, 64))
    clips = [movies.clip(np.random.default_rng(k), spec, 300).astype(np.float64) for k in range(5)]
    height, width = spec.screen
    window = np.hanning(height)[:, None] * np.hanning(width)
    power = np.mean(
        [np.abs(np.fft.fft2((c[::10] - c[::10].mean((1, 2), keepdims=True)) * window)) ** 2 for c in clips], axis=(0, 1)
    )
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width))
    assert slope(radius.ravel(), power.ravel(), 0.05, 0.4) == pytest.approx(-1.3, abs=0.4)
    in_time = np.mean([np.abs(np.fft.rfft(c - c.mean(0), axis=0)) ** 2 for c in clips], axis=(0, 2, 3))
    assert slope(np.fft.rfftfreq(300, 1 / 30), in_time, 0.4, 12) == pytest.approx(-1.0, abs=0.3)
    for c in clips:
        assert np.abs(np.diff(c, axis=0)).mean(axis=(1, 2)).min() > 0.3  # no frame stands still
        assert 60 < c.mean() < 190
        assert c.std() > 20


def slope(frequency: np.ndarray, power: np.ndarray, low: float, high: float) -> float:
    """Of log amplitude over log frequency, octave parts weighted alike."""
    edges = np.geomspace(low, high, 8)
    bins = [(frequency >= a) & (frequency < b) for a, b in itertools.pairwise(edges)]
    points = [(np.log(frequency[i].mean()), 0.5 * np.log(power[i].mean())) for i in bins if i.any()]
    return float(np.polyfit(*zip(*points, strict=True), 1)[0])


# --- neurons


def population(n: int, **changes):
    spec = dataclasses.replace(TINY, rf_spread=5.0, spatial_frequency=0.03, **changes)
    return spec, draw_population(np.random.default_rng(5), spec, n, np.zeros(2))


def pixel_degrees(spec: ColonySpec) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[: spec.screen[0], : spec.screen[1]]
    return (columns - (spec.screen[1] - 1) / 2) * spec.degrees_per_pixel, (
        (spec.screen[0] - 1) / 2 - rows
    ) * spec.degrees_per_pixel


def test_planted_directions_are_found_with_gratings():
    spec, neurons = population(20, direction_selectivity=0.8)
    x, y = pixel_degrees(spec)
    t = np.arange(60)[:, None, None] / 30
    directions = np.deg2rad(np.arange(0, 360, 15.0))
    along = [x * np.cos(angle) + y * np.sin(angle) for angle in directions]
    tuning = np.zeros((len(neurons), len(directions)))
    for n in range(len(neurons)):
        one = neurons.take(slice(n, n + 1))
        sf, tf = one.spatial_frequency[0], one.temporal_frequency[0]
        gratings = np.concatenate([np.cos(2 * np.pi * (sf * a - tf * t)) for a in along])
        frames = np.rint(spec.grey + spec.contrast * gratings).astype(np.uint8)
        drive = stimulus_drive(make_view(spec, frames, np.arange(len(frames))), one)
        tuning[n] = drive.reshape(len(directions), 60)[:, 20:].mean(axis=1)
    orientation = np.rad2deg(np.angle((tuning * np.exp(2j * directions)).sum(axis=1))) / 2 + 90
    off = (orientation - neurons.orientation + 90) % 180 - 90
    assert np.abs(off).max() < 15
    selective = neurons.direction_selectivity > 0.5
    assert selective.sum() >= 8
    direction = np.rad2deg(np.angle((tuning * np.exp(1j * directions)).sum(axis=1)))
    off = (direction - neurons.direction + 180) % 360 - 180
    assert np.abs(off[selective]).max() < 20
    # opponent directions: without selectivity they drive alike, with it they do not
    at = np.rint(neurons.direction / 15).astype(int) % 24
    ratio = tuning[np.arange(20), (at + 12) % 24] / tuning[np.arange(20), at]
    assert np.corrcoef(ratio, neurons.direction_selectivity)[0, 1] < -0.8


def test_simple_cells_are_found_by_reverse_correlation():
    spec, neurons = population(8, complex_fraction=0.0)
    frames = np.random.default_rng(0).integers(0, 256, (4000, *spec.screen), dtype=np.uint8)
    drive = stimulus_drive(make_view(spec, frames, np.arange(len(frames))), neurons)
    drive -= drive.mean(axis=0)
    pixels = frames.reshape(len(frames), -1) - 127.5
    kernels = np.stack(gabors(spec, neurons))  # (2, pixels, N)
    kernels /= np.linalg.norm(kernels, axis=1, keepdims=True)
    found = np.zeros((8, 8))
    for lag in range(2, 6):
        average = pixels[: len(frames) - lag].T @ drive[lag:]
        found += ((kernels.transpose(0, 2, 1) @ average) ** 2).sum(axis=0)  # power of n's average along m's Gabors
    np.testing.assert_array_equal(np.argmax(found, axis=0), np.arange(8))


def test_grey_gives_nothing_and_contrast_saturates():
    spec, neurons = population(12)
    frames = movies.clip(np.random.default_rng(1), dataclasses.replace(spec, contrast=25.0), 90)
    grey = np.full_like(frames, spec.grey)
    nothing = stimulus_drive(make_view(spec, grey, np.arange(90)), neurons)
    low = stimulus_drive(make_view(spec, frames, np.arange(90)), neurons)[30:].mean(axis=0)
    doubled = np.clip(spec.grey + 2.0 * (frames.astype(float) - spec.grey), 0, 255).astype(np.uint8)
    high = stimulus_drive(make_view(spec, doubled, np.arange(90)), neurons)[30:].mean(axis=0)
    np.testing.assert_allclose(nothing, 0, atol=1e-10)
    growth = np.log2(high / low)  # without normalisation it would be the exponent, 1 to 2.2
    assert np.all(growth > 0)
    assert np.all(growth < 0.8 * neurons.exponent)


def test_responses_grow_with_running_as_planted():
    spec = dataclasses.replace(
        TINY,
        neurons=(60, 60),
        train_minutes=3.0,
        gain_running=(0.0, 1.5),
        gain_pupil=(0.0, 0.0),
        additive_fraction=0.0,
        latent_strength=0.2,
    )
    rec = make_recording(spec, 0)
    wheel = rec.behavior["treadmill"]
    speed = np.interp(times(rec.responses), times(wheel), wheel.values[:, 0])
    runs, rests = speed > 5, speed < 1
    assert min(runs.sum(), rests.sum()) > 300
    growth = np.log(rec.responses.values[runs].mean(axis=0) / rec.responses.values[rests].mean(axis=0))
    planted = rec.truth["tuning"]["gain_running"]
    assert np.corrcoef(growth, planted)[0, 1] > 0.8
    assert np.mean(np.sign(growth) == np.sign(planted)) > 0.85


def test_latents_are_stationary_and_shared():
    process = gaussian_process(np.random.default_rng(0), 200_000, 0.5, 3, 30.0)
    smooth = gaussian_process(np.random.default_rng(0), 200_000, 0.5, 3, 30.0, smooth=True)
    np.testing.assert_allclose(process.std(axis=0), 1, atol=0.05)
    np.testing.assert_allclose(smooth.std(axis=0), 1, atol=0.05)
    np.testing.assert_allclose((process[15:] * process[:-15]).mean(axis=0), np.exp(-1), atol=0.06)
    _, neurons = population(6, n_latents=3)
    np.testing.assert_allclose(modulation(neurons, process).mean(axis=0), 1, atol=0.06)


# --- observation


@pytest.mark.parametrize("rate", [30.0, None])
@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_the_microscope_is_linear_keeps_constants_and_knows_its_noise(kernel, rate):
    m = Microscope(kernel, 100.0, 1 / 30, 104.0, 700.0, 7.95, rate)
    rng = np.random.default_rng(0)
    white = rng.standard_normal((18_100, 40))
    seen = m.observe(white)
    assert seen.shape == (len(m.times), 40)
    assert seen[60:].var() == pytest.approx(m.noise_gain(), rel=0.04)
    np.testing.assert_allclose(m.observe(3 * white + 2), 3 * seen + m.observe(np.full_like(white, 2)), atol=1e-9)
    np.testing.assert_allclose(m.observe(np.ones((18_100, 1)))[60:], 1, atol=1e-3)
    scans = rng.standard_normal((m.n_scans, 20))
    assert m.resample(scans).var() == pytest.approx(m.scan_noise_gain(), rel=0.04)
    # causal but for the interpolation between scans
    step = np.zeros((18_100, 1))
    step[9000:] = 1
    late = m.times[np.argmax(m.observe(step)[:, 0] > 1e-9)] - (100 + 9000 / 30)
    assert -1 / 7.95 <= late <= 2 / 7.95


# --- ceilings


def rates(mouse: Mouse, drive: np.ndarray, behavior: int, latents: int) -> np.ndarray:
    """Rates of a session for the same screen and another draw of behaviour and latents (0: the session's own)."""
    mind = mouse.behavior if behavior == 0 else mouse.other_behavior(behavior)
    state = mind.at(mouse.tick_times + 0.5 * mouse.microscope.tick)
    return state_rate(mouse.neurons, drive, state) * modulation(mouse.neurons, mouse.latents(latents))


@pytest.mark.parametrize("signal", ["deconvolved", "dff"])
def test_ceilings_are_what_averages_over_repetitions_find(signal):
    """The mean over other lives of the same mouse before the same screen estimates what each ceiling expects.

    Private noise: what is left of it in a mean of repeats lowers the correlation by the root of their reliability.
    """
    spec = dataclasses.replace(TINY, neurons=(24, 24), test_clips=4, test_repeats=4, signal=signal)
    rec, mouse = make_recording(spec, 1), draw_mouse(spec, 1)
    scored = model_samples(rec, "test")
    recorded = rec.responses.values[scored].astype(np.float64)
    drive = stimulus_drive(mouse.view(), mouse.neurons)
    drive *= unit_scale(drive, mouse.ticks >= 0)
    again = mouse.record(rates(mouse, drive, 0, 0), mouse.neurons, 0)
    np.testing.assert_allclose(again, rec.responses.values, rtol=1e-5, atol=1e-4)
    stated = {name: c["per_neuron"] for name, c in rec.truth["ceiling"].items()}
    for name, behavior in {"stimulus": 1, "stimulus_behavior": 0}.items():
        total = np.zeros_like(recorded)
        for k in range(1, 101):
            total += mouse.microscope.observe(rates(mouse, drive, k * behavior, k))[scored]
        off = pearson(total, recorded) - stated[name]
        assert np.mean(off) == pytest.approx(0, abs=0.025), name
        assert np.abs(off).max() < 0.1, name
    halves = [np.zeros_like(recorded), np.zeros_like(recorded)]
    for k in range(1, 31):
        halves[k % 2] += mouse.record(rates(mouse, drive, 0, 0), mouse.neurons, 0, repeat=k)[scored]
    between = pearson(*halves)
    off = (
        pearson(halves[0] + halves[1], recorded) / np.sqrt(2 * between / (1 + between))
        - stated["all_but_private_noise"]
    )
    assert np.mean(off) == pytest.approx(0, abs=0.02)
    means = [r.mean() for r in stated.values()]
    assert means == sorted(means)
    share = rec.truth["tuning"]["private_noise"]
    assert means[-1] == pytest.approx(np.sqrt(1 - share).mean(), abs=0.08)


def test_demo_ceilings_are_worth_predicting():
    rec = make_recording(PRESETS["demo"], 0)
    ceiling = {name: c["mean"] for name, c in rec.truth["ceiling"].items()}
    assert 0.35 < ceiling["stimulus"] < ceiling["stimulus_behavior"] < ceiling["all_but_private_noise"] < 0.9


# --- specs and stores


def test_overrides_are_checked():
    spec = resolve("tiny", {"n_animals": "5", "neurons": "(20, 30)", "speed": 10, "scan_rates": 7.5, "signal": "dff"})
    assert (spec.n_animals, spec.neurons, spec.speed, spec.scan_rates, spec.signal) == (
        5,
        (20, 30),
        10.0,
        (7.5,),
        "dff",
    )
    for overrides, told in [
        ({"neuron": 3}, "neurons"),
        ({"neurons": "many"}, "type"),
        ({"neurons": (0, 4)}, "positive"),
        ({"n_animals": 2.5}, "type"),
        ({"n_animals": 0}, "larger"),
        ({"signal": "spikes"}, "deconvolved"),
    ]:
        with pytest.raises(UserError, match=told):
            resolve("tiny", overrides)
    with pytest.raises(UserError, match="demo"):
        resolve("huge")


def test_estimates_are_about_right(tiny):
    cost = estimate(TINY)
    assert cost["sessions"] == 3
    hours = tiny.responses.n_samples / 30 / 3600
    assert cost["hours"] / 3 == pytest.approx(hours, rel=0.1)
    held = (
        tiny.responses.values.nbytes + tiny.screen.frames.nbytes + sum(s.values.nbytes for s in tiny.behavior.values())
    )
    assert cost["bytes"] / 3 == pytest.approx(held, rel=0.3)
    assert estimate(PRESETS["field"])["sessions"] > 200


def test_a_colony_goes_into_a_store_resumes_and_is_not_confused_with_another(tmp_path):
    told: list[str] = []
    path = str(tmp_path / "store")
    keys = synthesize(path, "tiny", {"n_animals": 1}, say=told.append)
    assert keys == ["m001-1"]
    synthesize(path, "tiny", {"n_animals": 2}, say=told.append)
    assert any("1 of 2 sessions are there already" in line for line in told)
    store = Store.open(path)
    assert store.keys == ("m001-1", "m002-1")
    rec = store.recording("m002-1")
    made = make_recording(TINY, 1)
    np.testing.assert_array_equal(rec.responses.values[:], made.responses.values)
    np.testing.assert_allclose(rec.response_scale, made.response_scale)
    np.testing.assert_array_equal(
        rec.truth["ceiling"]["stimulus"]["per_neuron"], made.truth["ceiling"]["stimulus"]["per_neuron"]
    )
    np.testing.assert_array_equal(rec.truth["tuning"]["direction"], made.truth["tuning"]["direction"])
    assert store.summary("m002-1")["ceiling"]["stimulus"] == pytest.approx(made.truth["ceiling"]["stimulus"]["mean"])
    with pytest.raises(UserError, match="m001-1: is in the store already"):
        synthesize(path, "tiny", {"n_animals": 2, "seed": 9}, say=told.append)
    synthesize(path, "tiny", {"n_animals": 1, "seed": 9}, overwrite=True, say=told.append)
    assert Store.open(path).recording("m001-1").provenance["spec"]["seed"] == 9


def test_processes_share_the_work_without_changing_it(tmp_path):
    path = str(tmp_path / "store")
    synthesize(path, "tiny", {"n_animals": 2}, workers=2, say=lambda line: None)
    store = Store.open(path)
    for index, key in enumerate(store.keys):
        np.testing.assert_array_equal(
            store.recording(key).responses.values[:], make_recording(TINY, index).responses.values
        )
