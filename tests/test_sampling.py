"""Previous-sample hold on piecewise clocks: exact, causal, cheap, NaN where nothing was recorded."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.recordings.lazy import Pieces, start_runs
from omnimouse_jax.recordings.sampling import read_behavior, read_responses, read_screen, read_signal, screen_events
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.stimuli import drifting_grating, resize_area


class Counted:
    """An array that counts the reads made of it."""

    def __init__(self, values: np.ndarray):
        self.values, self.reads = values, 0
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.reads += 1
        return self.values[rows]


def one_trial(start: float, end: float) -> Trials:
    text = np.array(["train"]), np.array(["video"]), np.array(["clip"])
    return Trials(np.array([start]), np.array([end]), *text, np.array([True]))


def recording(responses: Signal, **kwargs: object) -> Recording:
    lo, hi = responses.spans()[0]
    return Recording("s", "m", responses, one_trial(float(lo), float(hi)), **kwargs)


@pytest.mark.parametrize("start", [0.0, 1.65e9 + 0.123456])
@pytest.mark.parametrize("rate", [7.95, 30.0, 100.0])
def test_sample_times_of_a_signal_give_its_own_rows(rate: float, start: float) -> None:
    values = np.arange(400.0)[:, None]
    signal = Signal.continuous(values, rate, start)
    assert np.array_equal(read_signal(signal, start + np.arange(400) / rate), values.astype(np.float32))


def test_hold_never_looks_ahead() -> None:
    rng = np.random.default_rng([1])
    signal = Signal.continuous(np.arange(200.0)[:, None], 8.01, 100.0, snap=0.0)
    times = np.sort(rng.uniform(100, 100 + 199 / 8.01, 500))
    taken = 100.0 + read_signal(signal, times)[:, 0].astype(np.float64) / 8.01
    assert np.all(taken <= times)
    assert np.all(times - taken < 1 / 8.01 + 1e-9)


def test_phase_shifts_delay_each_channel_by_its_own() -> None:
    shifts = np.array([0.0, 0.05, 0.099])
    signal = Signal.continuous(np.repeat(np.arange(50.0)[:, None], 3, 1), 10.0, 0.0, phase_shifts=shifts)
    times = np.arange(1.0, 3.0, 0.033)
    got = read_signal(signal, times)
    for c, shift in enumerate(shifts):
        alone = Signal.continuous(np.arange(50.0)[:, None], 10.0, shift)
        assert np.array_equal(got[:, c], read_signal(alone, times)[:, 0])


def test_nan_outside_gaps_and_stated_ends() -> None:
    values = np.arange(6.0)[:, None]
    signal = Signal(values, 1.0, np.array([10.0, 20.0]), np.array([0, 3]))
    got = read_signal(signal, np.array([9.9, 10.0, 12.9, 13.0, 19.9, 20.5, 22.99, 23.0]))[:, 0]
    assert np.array_equal(got, [np.nan, 0, 2, np.nan, np.nan, 3, 5, np.nan], equal_nan=True)
    stated = Signal.continuous(values, 1.0, 0.0, segment_end=np.array([4.5]))
    assert np.isnan(read_signal(stated, np.array([4.6]))).all()
    assert read_signal(stated, np.array([4.5]))[0, 0] == 4
    assert stated.spans()[0, 1] == 4.5


def test_window_is_one_contiguous_read() -> None:
    values = Counted(np.zeros((100_000, 5), np.float32))
    rec = recording(Signal.continuous(values, 30.0, 0.0, phase_shifts=np.linspace(0, 0.1, 5)))
    read_responses(rec, 1000 + np.arange(60) / 30)
    assert values.reads == 1
    read_responses(rec, np.array([10.0, 3000.0]))
    assert values.reads == 3


def test_missing_channels_are_nan_and_order_is_the_callers() -> None:
    eye = Signal.continuous(np.tile([1.0, 2.0], (40, 1)), 20.0, 0.0, channels=("pupil_x", "pupil_y"))
    wheel = Signal.continuous(np.full((200, 1), 3.0), 100.0, 0.0, channels=("running",))
    rec = recording(Signal.continuous(np.zeros((20, 1)), 10.0, 0.0), behavior={"eye": eye, "wheel": wheel})
    got = read_behavior(rec, np.array([0.5, 1.5, 5.0]), ["running", "pupil_size", "pupil_x"])
    assert np.array_equal(got[:2], [[3, np.nan, 1]] * 2, equal_nan=True)
    assert np.isnan(got[2]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_screen_holds_frames_and_fills_blanks_with_their_grey(dtype: type) -> None:
    frames = np.arange(3, dtype=dtype)[:, None, None] * np.ones((1, 2, 4), dtype)
    screen = Screen(frames, np.array([1.0, 2.0, 3.0, 4.0]), np.array([2, -1, 0, 2]), np.full(4, 99.0), 5.0)
    rec = recording(Signal.continuous(np.zeros((60, 1)), 10.0, 0.0), screen=screen)
    times = np.array([0.5, 1.0, 1.99980, 1.99995, 2.5, 3.5, 4.5, 5.5])
    got = read_screen(rec, times)
    assert got.dtype == dtype
    assert got[:, 0, 0].tolist() == [128, 2, 2, 99, 99, 0, 2, 128]
    assert screen_events(screen, times).tolist() == [-1, 0, 0, 1, 1, 2, 3, -1]


def test_pieces_equal_the_joined_array() -> None:
    rng = np.random.default_rng([2])
    parts = [rng.integers(0, 9, (n, 2, 2)) for n in (3, 1, 4)]
    joined = np.concatenate(parts)
    pieces = Pieces([(len(p), lambda p=p: p) for p in parts], (2, 2), joined.dtype)
    for lo in range(9):
        for hi in range(lo, 9):
            assert np.array_equal(pieces[lo:hi], joined[lo:hi])


def test_read_runs_finds_every_row() -> None:
    values = np.arange(5000)[:, None]
    rows = np.random.default_rng([3]).integers(0, 5000, 40)
    position, data = start_runs(values, rows)()
    assert np.array_equal(data[position, 0], rows)


def test_grating_moves_as_named() -> None:
    times = np.arange(30) / 30
    spec = {"spatial_frequency": 0.05, "temporal_frequency": 1.0, "size": (36, 64), "screen_deg": (45.0, 80.0)}
    right = drifting_grating(times, direction=0.0, **spec)
    assert np.array_equal(right[:, 0], right[:, -1])  # vertical bars
    shift = round(1 / 0.05 / 80 * 64 / 4)  # a quarter of a cycle, in pixels: 7.5 frames
    near = drifting_grating(np.array([0.0, 0.25]), direction=0.0, **spec).astype(float)
    assert np.abs(near[1][:, shift:] - near[0][:, :-shift]).max() <= 1
    up = drifting_grating(np.array([0.0, 0.25]), direction=90.0, **spec).astype(float)
    assert np.array_equal(up[:, :, 0], up[:, :, -1])  # horizontal bars
    assert np.abs(up[1][:-shift] - up[0][shift:]).max() <= 1  # row 0 is the top
    flat = drifting_grating(times, direction=0.0, contrast=0.0, **spec)
    assert np.all(flat == 128)
    amplitude = np.ptp(drifting_grating(times, direction=30.0, contrast=0.5, **spec).astype(float)) / 2
    assert amplitude == pytest.approx(0.5 * 127, abs=1)


def test_area_resize_keeps_the_mean() -> None:
    frames = np.random.default_rng([4]).uniform(0, 255, (2, 30, 50))
    small = resize_area(frames, (12, 20))
    assert small.shape == (2, 12, 20)
    assert np.allclose(small.mean((1, 2)), frames.mean((1, 2)))
    assert np.allclose(resize_area(frames[:, :24, :40], (12, 20))[:, 0, 0], frames[:, :2, :2].mean((1, 2)))
