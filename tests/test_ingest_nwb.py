"""NWB files written with pynwb in the manner of published ones come back as they were written, or say what is wrong."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest import nwb
from omnimouse_jax.recordings.sampling import read_behavior, read_responses, read_screen
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.splits import tier_spans
from omnimouse_jax.recordings.stimuli import drifting_grating
from omnimouse_jax.recordings.store import Store

pytest.importorskip("pynwb", reason="reading NWB needs the extra nwb (pip install 'omnimouse-jax[nwb]')")

from tests import nwb_files as files

GRATING = {"orientation": 0.0, "spatial_frequency": 0.04}
SCREEN: dict[str, Any] = {"screen_deg": (95.0, 120.0), "size": (12, 20)}


def stored(rec: Recording, folder: Path) -> Recording:
    """The recording after a trip through a store."""
    Store.create(folder).add(rec)
    return Store.open(folder).recording(rec.key)


def test_an_allen_session_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "000728" / "sub-222426" / "sub-222426_ses-501_behavior+image+ophys.nwb"
    written = files.allen(path)
    assert nwb.discover(tmp_path) == [path]
    rec = stored(nwb.read_session(path, **SCREEN), tmp_path / "store")
    assert (rec.key, rec.animal) == (path.stem, "222426")
    assert rec.provenance["responses"] == ["ophys/DfOverF/DfOverFEvents"]
    times = files.T0 + np.arange(files.N) / files.RATE
    assert np.array_equal(read_responses(rec, times), written["events"])
    assert sorted(rec.channels) == [
        "pupil_location_spherical_x", "pupil_location_spherical_y", "pupil_size", "pupil_x", "pupil_y", "running",
    ]  # fmt: skip
    eye = read_behavior(rec, times, ["pupil_x", "pupil_y", "pupil_size"])
    wanted = np.concatenate([written["gaze"], written["pupil"][:, None]], axis=1).astype(np.float32)
    assert np.array_equal(eye, wanted, equal_nan=True)
    assert np.isnan(eye[100:130, :2]).all()
    running = read_behavior(rec, times, ["running"])[:, 0]
    assert np.array_equal(running[:2300], written["running"].astype(np.float32))
    assert np.isnan(running[2300:]).all()
    assert rec.neurons["unit_id"].tolist() == list(range(1000, 1006))
    assert rec.neurons["global_roi_id"].tolist() == list(range(500, 506))
    assert set(rec.neurons["area"]) == {"VISp"}
    assert rec.neurons["x_px"].tolist() == [10 + k for k in range(6)]
    assert rec.neurons["y"].tolist() == [200 + 3 * (20 + 2 * k) for k in range(6)]
    assert set(rec.neurons["z"]) == {250.0}


def test_an_allen_session_shows_what_was_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    written = files.allen(path)
    rec = stored(nwb.read_session(path, **SCREEN), tmp_path / "store")
    grating = {"spatial_frequency": 0.04, "temporal_frequency": 2.0, "size": (12, 20), "screen_deg": (95.0, 120.0)}
    for start, direction in ((10, 0), (13, 90), (19, 90)):
        drawn = drifting_grating(np.arange(60) / 30, direction=float(direction), **grating)
        assert np.array_equal(read_screen(rec, start + (np.arange(60) + 0.5) / 30), drawn)
    assert np.all(read_screen(rec, np.array([12.5, 17.0, 24.0, 37.0, 55.0])) == 128)
    movie = read_screen(rec, 25 + (np.arange(270) + 0.5) / 30)
    assert np.array_equal(movie, np.tile(written["movie"], (3, 1, 1)))
    scenes = read_screen(rec, 40 + 0.25 * np.arange(20) + 0.1)
    shown = written["order"] >= 0
    assert np.array_equal(scenes[shown], written["scenes"][written["order"][shown]])  # not in HDF5's order of letters
    assert np.all(scenes[~shown] == 128)
    trials = rec.trials
    assert trials.tiers() == {"train": 3 + 3 + 19, "blank": 9}
    assert len(set(trials.stimulus[(trials.start >= 25) & (trials.start < 33)])) == 1
    assert rec.screen is not None
    assert rec.screen.frames.shape[0] == 2 * 60 + 90 + 12  # repeats share their frames
    contents = Store.open(tmp_path / "store").trial_contents("a")
    assert len(set(contents)) == len(set(trials.stimulus))
    assert tier_spans(rec, ["train"]).tolist()[0] == [10, 16]  # a blank of 1 s follows each


def test_microns_fields_are_joined_and_clips_recognised(tmp_path: Path) -> None:
    path = tmp_path / "m.nwb"
    written = files.microns(path)
    lazy = nwb.read_session(path, size=(9, 16))
    rec = stored(lazy, tmp_path / "store")
    kept = [written["fields"][0][:, [0, 2]], written["fields"][1][:, [0, 2, 3]]]  # without the artifact
    data = np.concatenate(kept, axis=1).astype(np.float32)
    times = written["times"]
    assert np.array_equal(read_responses(rec, times + 0.04), data)
    before = read_responses(rec, times[1:] + 0.02)  # the second field has not been scanned yet
    assert np.array_equal(before[:, :2], data[1:, :2])
    assert np.array_equal(before[:, 2:], data[:-1, 2:])
    assert rec.neurons["plane"].tolist() == ["PlaneSegmentation1"] * 2 + ["PlaneSegmentation2"] * 3
    everything = nwb.read_session(path, size=(9, 16), cells="all")
    assert everything.n_neurons == 7
    eye = read_behavior(rec, np.arange(1300) / 20, ["pupil_x", "pupil_y", "pupil_size"])
    wanted = np.concatenate([written["position"], written["radius"][:, None]], axis=1).astype(np.float32)
    assert np.array_equal(eye, wanted)
    speed = read_behavior(rec, np.arange(6000) / 100, ["running"])[:, 0]
    assert np.array_equal(speed, (written["wheel"] * 0.01).astype(np.float32))
    named = rec.trials.stimulus[np.isin(rec.trials.stimulus, ["aaa", "bbb", "ccc"])]
    assert named.tolist() == ["aaa", "bbb", "aaa", "ccc"]
    grey = np.rint(written["video"].astype(float) @ [0.299, 0.587, 0.114]).astype(np.uint8)
    first = read_screen(rec, written["stamps"][60:180] + 1e-3)
    assert np.array_equal(first, grey[60:180])
    again = read_screen(rec, written["stamps"][420:540] + 1e-3)
    assert np.array_equal(again, first)  # the second presentation differs by codec noise only: one clip
    contents = Store.open(tmp_path / "store").trial_contents("m")
    assert contents[rec.trials.stimulus == "aaa"].tolist().count(contents[1]) == 2


def test_equal_names_of_unlike_clips_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "m.nwb"
    files.microns(path)
    import h5py

    with h5py.File(path, "r+") as file:
        file["intervals/Clip/condition_hash"][1] = "aaa"
    rec = nwb.read_session(path, size=(9, 16))
    assert rec.trials.stimulus[np.isin(rec.trials.start.round(3), [6, 9, 12])].tolist() == ["aaa", "aaa-240", "aaa"]
    assert any("presentations of aaa differ" in note for note in rec.provenance["notes"])


def test_large_arrays_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    written = files.allen(path)
    rec = nwb.read_session(path, **SCREEN)
    assert not isinstance(rec.responses.values, np.ndarray)
    assert np.array_equal(rec.responses.values[7:9], written["events"][7:9])
    twin = pickle.loads(pickle.dumps(rec.responses.values))  # another process opens the file itself
    assert np.array_equal(twin[0:3], written["events"][:3])
    del rec, twin
    gc.collect()
    import h5py

    with h5py.File(path, "r+"):  # nothing holds it
        pass


def test_gaps_cut_the_recording_and_jitter_does_not(tmp_path: Path) -> None:
    rng = np.random.default_rng([5])
    data = rng.normal(size=(900, 3))
    times = np.concatenate([np.arange(500), 560 + np.arange(400)]) / 15 + rng.uniform(-0.002, 0.002, 900)
    made = files.empty()
    files.responses(made, data, timestamps=times)
    rec = nwb.read_session(files.write(made, tmp_path / "a.nwb"))
    assert rec.responses.segment_first.tolist() == [0, 500]
    assert rec.responses.segment_start == pytest.approx([0, 560 / 15], abs=2e-3)
    assert rec.responses.rate == pytest.approx(15, rel=1e-4)
    got = read_responses(rec, times + 0.5 / 15)
    assert np.array_equal(got, data.astype(np.float32))
    assert np.isnan(read_responses(rec, np.array([35.0]))).all()
    assert [hi - lo for lo, hi in tier_spans(rec, ["train"])] == pytest.approx([500 / 15, 400 / 15], abs=0.01)
    assert rec.trials.modality.tolist() == ["blank"] * 6  # nothing was shown: 10 s trials
    assert rec.screen is None


def test_uneven_behavior_is_held_on_an_even_clock(tmp_path: Path) -> None:
    from pynwb import TimeSeries
    from pynwb.behavior import BehavioralTimeSeries

    rng = np.random.default_rng([6])
    made = files.empty()
    files.responses(made, rng.normal(size=(600, 3)))
    times = np.cumsum(rng.uniform(0.004, 0.016, 5000))
    times[3000:] += 5.0
    values = rng.normal(size=5000)
    values[10] = np.nan
    wheel = TimeSeries(name="running_speed", data=values, timestamps=times, unit="cm/s")
    blink = TimeSeries(name="likely_blink", data=np.arange(400) == 7, rate=30.0, starting_time=5.0, unit="N/A")
    pupil = TimeSeries(name="pupil_area", data=np.arange(400.0), rate=30.0, starting_time=5.0, unit="px")
    files.module(made, "behavior").add(BehavioralTimeSeries(time_series=[wheel]))
    files.module(made, "behavior").add(BehavioralTimeSeries(name="eye_tracking", time_series=[blink, pupil]))
    rec = nwb.read_session(files.write(made, tmp_path / "a.nwb"))
    assert rec.channels == ("running", "pupil_size")
    stream = rec.behavior["running_speed"]
    grid = stream.segment_start[0] + np.arange(stream.n_samples) / stream.rate
    last = np.searchsorted(times, grid + 1e-3 / stream.rate, side="right") - 1
    got = read_behavior(rec, grid, ["running"])[:, 0]
    recent = grid - times[last] < 2.9 / stream.rate
    assert np.array_equal(got[recent], values[last][recent].astype(np.float32), equal_nan=True)
    pause = (grid > times[2999] + 0.1) & (grid < times[3000])
    assert pause.any()
    assert np.isnan(got[pause]).all()
    size = read_behavior(rec, 5 + np.arange(400) / 30, ["pupil_size"])[:, 0]
    assert np.isnan(size[7])
    assert np.array_equal(np.delete(size, 7), np.delete(np.arange(400), 7))
    assert [note.split(":")[0] for note in rec.provenance["notes"]] == ["running_speed", "pupil_area"]


def test_tables_that_name_frames_and_kinds_nobody_knows(tmp_path: Path) -> None:
    """Presentation tables as in Allen Neuropixels and Visual Behavior files: one row per movie frame or image."""
    from pynwb.base import Images
    from pynwb.image import GrayscaleImage, ImageSeries

    rng = np.random.default_rng([7])
    made = files.empty()
    files.responses(made, rng.normal(size=(1800, 3)), starting_time=0.0, rate=30.0)
    movie = rng.integers(0, 256, (20, 4, 6)).astype(np.uint8)
    made.add_stimulus_template(ImageSeries(name="natural_movie_two", data=movie, unit="n.a.", rate=1.0))
    pictures = [GrayscaleImage(name=n, data=rng.uniform(0, 1, (4, 6))) for n in ("im1", "im0")]
    made.add_stimulus_template(Images(name="behavior_images", images=pictures))
    frames = [
        {"start_time": 5 + k / 30, "stop_time": 5 + (k + 1) / 30, "stimulus_name": "natural_movie_two",
         "frame": float(k % 20)}
        for k in range(40)
    ]  # fmt: skip
    made.add_time_intervals(files.table("natural_movie_two_presentations", frames))
    flashes = [
        {"start_time": 20 + 0.75 * k, "stop_time": 20.25 + 0.75 * k, "image_name": name}
        for k, name in enumerate(["im0", "im1", "omitted", "im0"])
    ]
    made.add_time_intervals(files.table("flash_presentations", flashes))
    contrast = [
        {"start_time": 30.0 + k, "stop_time": 31.0 + k, "orientation": "45", "SF": "0.1", "contrast": 80.0}
        for k in range(2)
    ]
    made.add_time_intervals(files.table("static_gratings", contrast))
    made.add_time_intervals(
        files.table("dots", [{"start_time": 40.0, "stop_time": 45.0, "stimulus_type": "DotSequence"}])
    )
    path = files.write(made, tmp_path / "a.nwb")
    rec = nwb.read_session(path, size=(4, 6), screen_deg=(40.0, 60.0))
    trials = rec.trials
    assert np.array_equal(read_screen(rec, 5 + (np.arange(40) + 0.5) / 30), np.tile(movie, (2, 1, 1)))
    assert [m for m in trials.modality if m != "blank"] == ["video"] * 2 + ["image"] * 5 + ["invalid"]
    im0 = np.rint(pictures[1].data * 255).astype(np.uint8)
    assert np.array_equal(read_screen(rec, np.array([20.1, 22.3])), np.stack([im0, im0]))
    assert np.all(read_screen(rec, np.array([21.6, 42.0])) == 128)
    still = drifting_grating(
        np.zeros(1), direction=45.0, spatial_frequency=0.1, temporal_frequency=0.0, size=(4, 6), screen_deg=(40.0, 60.0),
        contrast=0.8,
    )  # fmt: skip
    assert np.array_equal(read_screen(rec, np.array([30.5, 31.5])), np.repeat(still, 2, axis=0))
    assert tier_spans(rec, ["train"])[-1].tolist() == [30, 33]  # the unknown dots are no part of it
    assert any("dots: DotSequence has neither frames nor grating" in note for note in rec.provenance["notes"])
    assert nwb.read_session(path, stimuli="none").screen is None


def test_movies_without_tables_ordered_images_and_invalid_times(tmp_path: Path) -> None:
    from pynwb.base import ImageReferences, Images
    from pynwb.image import GrayscaleImage, OpticalSeries, RGBImage

    rng = np.random.default_rng([12])
    made = files.empty()
    files.responses(made, rng.normal(size=(2100, 3)), starting_time=0.0, rate=30.0)
    film = rng.integers(0, 256, (250, 4, 6)).astype(np.uint8)
    film[100:200] = film[:100]
    made.add_stimulus(
        OpticalSeries(
            name="film", data=film, unit="n.a.", rate=10.0, starting_time=5.0, distance=0.1, orientation="?",
            field_of_view=[1.0, 1.0],
        )
    )  # fmt: skip
    colour = rng.integers(0, 256, (4, 6, 3)).astype(np.uint8)
    grey = rng.integers(0, 256, (4, 6)).astype(np.uint8)
    pictures = [RGBImage(name="b", data=colour), GrayscaleImage(name="a", data=grey)]
    order = ImageReferences(name="order_of_images", data=pictures)
    template = Images(name="pictures", images=pictures, order_of_images=order)
    made.add_stimulus_template(template)
    made.add_stimulus(files.index_series("shown", [0, 1, 1], [40.0, 42.0, 44.0], template))
    made.add_invalid_time_interval(start_time=41.0, stop_time=41.5)
    rec = stored(nwb.read_session(files.write(made, tmp_path / "a.nwb"), size=(4, 6)), tmp_path / "store")
    assert np.array_equal(read_screen(rec, 5 + (np.arange(250) + 0.5) / 10), film)
    trials = rec.trials
    assert trials.start.tolist() == [5, 15, 25, 30, 40, 42, 44]
    assert trials.modality.tolist() == ["video"] * 3 + ["blank"] + ["image"] * 3
    assert trials.stimulus[0] == trials.stimulus[1] != trials.stimulus[2]  # the same 10 s twice, then 5 s of others
    assert trials.valid.tolist() == [True] * 4 + [False, True, True]
    luma = np.rint(colour.astype(float) @ [0.299, 0.587, 0.114]).astype(np.uint8)
    assert np.array_equal(read_screen(rec, np.array([41.0, 43.0, 45.0])), np.stack([luma, grey, grey]))


def test_stimuli_that_the_file_lost_are_not_taken_for_grey(tmp_path: Path) -> None:
    """An epoch of gratings whose table is cut short, as in the published Allen files with static gratings."""
    made = files.empty()
    files.responses(made, np.random.default_rng([11]).normal(size=(3000, 3)), starting_time=0.0, rate=30.0)
    rows = [{"start_time": 10 + 0.25 * k, "stop_time": 10.25 + 0.25 * k, **GRATING} for k in range(3)]
    made.add_stimulus(files.table("static_gratings", rows))
    made.add_stimulus(files.table("spontaneous_stimulus", [{"start_time": 60.0, "stop_time": 70.0}]))
    made.add_epoch_column(name="stimulus_type", description="what was on")
    made.add_epoch(start_time=10.0, stop_time=50.0, stimulus_type="static_gratings")
    made.add_epoch(start_time=60.0, stop_time=70.0, stimulus_type="spontaneous")
    rec = nwb.read_session(files.write(made, tmp_path / "a.nwb"), **SCREEN)
    assert rec.trials.modality.tolist() == ["image"] * 3 + ["invalid", "blank"]
    assert tier_spans(rec, ["train"]).tolist() == [[10, 10.75]]
    assert any("static_gratings: nothing in the file says what was on" in note for note in rec.provenance["notes"])


def test_tiers_keys_and_choices(tmp_path: Path) -> None:
    path = tmp_path / "sub-9_ses-1.nwb"
    files.allen(path)
    rec = nwb.read_session(path, **SCREEN, hold_out_last=0.2, validation_last=0.2, key="session_id", animal="anna")
    assert (rec.key, rec.animal) == ("501-StimA", "anna")
    assert rec.trials.tiers() == {"train": 15, "validation": 5, "test": 5, "blank": 9}
    held = nwb.read_session(path, **SCREEN, hold_out_stimuli=0.3).trials
    tier_of: dict[str, set[str]] = {}
    for name, tier in zip(held.stimulus, held.tier, strict=True):
        tier_of.setdefault(str(name), set()).add(str(tier))
    assert all(len(tiers) == 1 for tiers in tier_of.values())
    assert set(held.tier) == {"train", "test", ""}
    written = nwb.read_session(path, **SCREEN, responses="DfOverF/DfOverF", behavior="running_speed").responses
    assert written.values.shape == (files.N, 6)
    assert nwb.read_session(path, **SCREEN, behavior="none").channels == ()
    for options, message in (
        ({"hold_out_last": 1.2}, "hold_out_last 1.2"),
        ({"hold_out_last": 0.1, "hold_out_stimuli": 0.1}, "choose one rule"),
        ({"key": "name"}, "choose stem or identifier or session_id"),
        ({"size": (0, 3)}, "give .height, width. in pixels"),
        ({"size": ("a", 4)}, "size .'a', 4. - give .height, width. in pixels"),
        ({"screen_deg": (np.nan, 4.0)}, "screen_deg .* - give .height, width. in degrees"),
        ({"timing_tolerance": np.nan}, "timing_tolerance nan - give sample periods"),
        ({"drawing_rate": 1e9}, "drawing_rate 1000000000.0 - give frames per second, at most 1000"),
        ({"hold_out_last": np.nan}, "hold_out_last nan"),
        ({"responses": "Spikes"}, r"responses Spikes: no such series .*DfOverFEvents 2400 x 6 \(events\)"),
        ({"responses": "DfOverF,DfOverFEvents"}, "several series of the same ROIs"),
        ({"behavior": "whiskers"}, "behavior whiskers: no such series .*running_speed"),
        ({"stimuli": "dots"}, "stimulus dots: not there .*natural_movie_one_stimulus"),
    ):
        with pytest.raises(UserError, match=message):
            nwb.read_session(path, **{**SCREEN, **options})


def test_a_rate_that_cannot_be_is_told(tmp_path: Path) -> None:
    made = files.empty()
    files.responses(made, np.ones((20, 3)), starting_time=0.0, rate=1e-9)
    with pytest.raises(
        UserError, match=r"session a: file .*a.nwb: responses at 1e-09 samples per second last 2e\+10 s - "
    ):
        nwb.read_session(files.write(made, tmp_path / "a.nwb"))


def test_raw_files_beside_processed_ones_are_passed_over(tmp_path: Path) -> None:
    files.allen(tmp_path / "sub-1" / "sub-1_behavior+image+ophys.nwb")
    files.write(files.empty(), tmp_path / "sub-1" / "sub-1_ophys.nwb")
    (tmp_path / "sub-2").mkdir()
    (tmp_path / "sub-2" / "broken.nwb").write_bytes(b"\x89HDF")
    names = [p.name for p in nwb.discover(tmp_path)]
    assert names == ["sub-1_behavior+image+ophys.nwb", "broken.nwb"]
    with pytest.raises(UserError, match=r"no \.nwb file"):
        nwb.discover(tmp_path / "sub-3")


def _responses(change: Callable[[np.ndarray, dict[str, Any]], Any]) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        data = np.random.default_rng([8]).normal(size=(300, 4))
        time: dict[str, Any] = {"timestamps": np.arange(300) / 10}
        data = change(data, time)
        made = files.empty()
        files.responses(made, data, **time)
        files.write(made, path)

    return make


def _set(array: np.ndarray, where: Any, value: float) -> np.ndarray:
    array[where] = value
    return array


def _external(path: Path) -> None:
    from pynwb.image import ImageSeries

    made = files.empty()
    files.responses(made, np.ones((300, 4)))
    made.add_stimulus(
        ImageSeries(name="movie", external_file=["movie.avi"], format="external", starting_frame=[0], unit="n.a.",
                    timestamps=np.arange(9.0))
    )  # fmt: skip
    files.write(made, path)


def _index(index: list[int], times: list[float]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        from pynwb.image import ImageSeries

        made = files.empty()
        files.responses(made, np.ones((300, 4)))
        template = ImageSeries(name="movie", data=np.zeros((5, 4, 4), np.uint8), unit="n.a.", rate=1.0)
        made.add_stimulus_template(template)
        made.add_stimulus(files.index_series("shown", index, times, template))
        files.write(made, path)

    return make


def _tables(*rows: dict[str, Any], name: str = "gratings") -> Callable[[Path], None]:
    def make(path: Path) -> None:
        made = files.empty()
        files.responses(made, np.ones((300, 4)))
        made.add_stimulus(files.table(name, list(rows)))
        files.write(made, path)

    return make


def _planes(late: float, n: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        from pynwb.ophys import Fluorescence

        made, holder = files.empty(), Fluorescence(name="Fluorescence")
        for k, (m, start) in enumerate([(300, 0.0), (n, late)], start=1):
            rois = files.plane(made, 2, str(k))
            holder.add_roi_response_series(
                files.traces(rois, f"Traces{k}", np.ones((m, 2)), rate=10.0, starting_time=start)
            )
        files.module(made, "ophys").add(holder)
        files.write(made, path)

    return make


def _truncated(path: Path) -> None:
    files.allen(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _cut_stamps(path: Path) -> None:
    import h5py

    _responses(lambda data, time: data)(path)
    with h5py.File(path, "r+") as file:
        series = file["processing/ophys/DfOverF/DfOverF"]
        del series["timestamps"]
        series["timestamps"] = np.arange(299) / 10


def _two_series(path: Path) -> None:
    made = files.empty()
    rois = files.responses(made, np.ones((300, 4)))
    more = files.traces(rois, "dff_smooth", np.ones((300, 4)), rate=10.0)
    files.module(made, "ophys")["DfOverF"].add_roi_response_series(more)
    files.write(made, path)


def _nwb_1(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file["nwb_version"] = "NWB-1.0.6"


BROKEN: dict[str, Callable[[Path], Any]] = {
    r"truncated or not an HDF5 file": lambda path: path.write_text("no hdf5"),
    r"truncated or not an HDF5 file - download": _truncated,
    r"not an NWB 2 file \(nwb_version: NWB-1.0.6\)": _nwb_1,
    r"no responses \(no RoiResponseSeries": lambda path: files.write(files.empty(), path),
    r"several series of the same ROIs: ophys/DfOverF/DfOverF 300 x 4; ophys/DfOverF/dff_smooth": _two_series,
    r"2 NaN responses, the first at sample 7, neuron 1": _responses(
        lambda data, time: _set(data, ([7, 8], [1, 1]), np.nan)
    ),
    r"time stamps not increasing at sample 20": _responses(
        lambda data, time: (_set(time["timestamps"], 20, 0.0), data)[1]
    ),
    r"time stamps not increasing at sample 5": _responses(
        lambda data, time: (_set(time["timestamps"], 5, np.nan), data)[1]
    ),
    r"300 samples but 299 time stamps": _cut_stamps,
    r"stray .* sample periods from an even": _responses(
        lambda data, time: (time.update(timestamps=np.cumsum(1 + 0.4 * np.sin(np.arange(300) / 40))), data)[1]
    ),
    r"its frames are not in the file \(kept in movie.avi\)": _external,
    r"stimulus shown: frame 7 of a template of 5": _index([0, 7, 1], [1, 2, 3]),
    r"stimulus shown: time stamps not increasing at sample 2": _index([0, 1, 2], [1, 3, 2]),
    r"how large is the screen\? - set screen_deg": _tables({"start_time": 1.0, "stop_time": 2.0, **GRATING}),
    r"gratings: row 0 is from 3 s to 2 s": _tables({"start_time": 3.0, "stop_time": 2.0, **GRATING}),
    r"lasts until 9.000 s, the next begins at 3.000 s": _tables(
        {"start_time": 1.0, "stop_time": 9.0, "stimulus_type": "a"},
        {"start_time": 3.0, "stop_time": 5.0, "stimulus_type": "b"},
    ),
    r"Traces2: 300 samples, on average 3 s after .*Traces1": _planes(3.0, 300),
    r"Traces2: 290 samples, .*not one clock|not one clock": _planes(0.0, 310),
    r"no trial lies within the responses' time": _tables(
        {"start_time": 900.0, "stop_time": 901.0, "stimulus_type": "a"}
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_mistakes_are_told_in_one_line(message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.nwb"
    BROKEN[message](path)
    with pytest.raises(UserError, match=message) as error:
        nwb.read_session(path)
    assert "session bad" in str(error.value)
    assert error.value.way_out
    assert "\n" not in str(error.value)


def test_nan_responses_are_masked_on_demand(tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    BROKEN[r"2 NaN responses, the first at sample 7, neuron 1"](path)
    rec = stored(nwb.read_session(path, nan_responses="mask"), tmp_path / "store")
    assert np.isnan(read_responses(rec, np.array([0.7, 0.8, 0.9]))).tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0] * 4]


def test_rois_first_is_turned(tmp_path: Path) -> None:
    path = tmp_path / "a.nwb"
    made = files.empty()
    data = np.random.default_rng([9]).normal(size=(300, 4))
    files.responses(made, data, "Fluorescence", "RoiResponseSeries", timestamps=np.arange(300) / 10)
    files.write(made, path)
    import h5py

    with h5py.File(path, "r+") as file:  # as some other tools write it; pynwb itself refuses
        series = file["processing/ophys/Fluorescence/RoiResponseSeries"]
        attributes = dict(series["data"].attrs)
        del series["data"]
        series["data"] = data.T
        series["data"].attrs.update(attributes)
    rec = nwb.read_session(path)
    assert np.array_equal(read_responses(rec, np.arange(300) / 10), data.astype(np.float32))
    assert "stored as (roi, time)" in rec.provenance["notes"][0]


def test_planes_of_one_table_and_cell_probabilities(tmp_path: Path) -> None:
    """As suite2p writes it: all planes in one table with voxel masks, iscell as (yes or no, probability), no subject."""
    from pynwb.ophys import Fluorescence

    made = files.empty()
    made.fields["subject"] = None
    rois = files.plane(made, 0)
    for k in range(5):
        rois.add_roi(id=k, voxel_mask=[(2 * k, 7, 0, 1.0), (2 * k + 2, 7, 0, 3.0)])
    cells = np.array([[1, 0.9], [0, 0.2], [1, 0.8], [1, 0.7], [0, 0.1]])
    rois.add_column(name="iscell", description="cell, probability", data=cells)
    rng = np.random.default_rng([10])
    data = {kind: rng.gamma(1, 1, (50, 5)).astype(np.float32) for kind in ("Fluorescence", "Neuropil", "Deconvolved")}
    for kind, traces in data.items():
        holder = Fluorescence(name=kind)
        for k, which in enumerate(([0, 1], [2, 3, 4])):
            region = rois.create_roi_table_region(region=which, description="rois of a plane")
            holder.create_roi_response_series(
                name=f"plane{k}", data=traces[:, which], rois=region, unit="lumens", rate=7.5
            )
        files.module(made, "ophys").add(holder)
    path = files.write(made, tmp_path / "anna.nwb")
    rec = nwb.read_session(path)
    assert rec.animal == "anna"
    assert rec.provenance["responses"] == ("ophys/Deconvolved/plane0", "ophys/Deconvolved/plane1")
    assert np.array_equal(read_responses(rec, np.arange(50) / 7.5), data["Deconvolved"][:, [0, 2, 3]])
    assert rec.neurons["x_px"].tolist() == [1.5, 5.5, 7.5]
    assert nwb.read_session(path, responses="Fluorescence", cells="all").n_neurons == 5


def test_without_pynwb_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nwb"
    files.write(files.empty(), path)
    monkeypatch.setitem(__import__("sys").modules, "pynwb", None)
    with pytest.raises(UserError, match=r"pip install 'omnimouse-jax\[nwb\]'"):
        nwb.read_session(path)


def test_the_command_line_ingests_verifies_and_skips(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from omnimouse_jax.cli import main

    files.allen(tmp_path / "in" / "sub-1" / "sub-1_ses-2.nwb")
    files.microns(tmp_path / "in" / "sub-2" / "sub-2_ses-3.nwb")
    options = ["--set", "screen_deg=[95, 120]", "--set", "size=(12, 20)", "--workers", "2", "--verify"]
    command = ["ingest", "nwb", str(tmp_path / "in"), "--store", str(tmp_path / "store"), *options]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert out.count("equal to its source") == 2
    assert main(command) == 0
    assert capsys.readouterr().out.count("skipped") == 2
    assert len(Store.open(tmp_path / "store")) == 2
