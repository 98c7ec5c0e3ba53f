"""The experanto reader against what experanto itself returned for two synthetic sessions, and its refusals."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import experanto_windows
from omnimouse_jax.recordings.ingest import experanto, ingest
from omnimouse_jax.recordings.sampling import on_screen, read_behavior, read_responses, read_screen
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.windows import WindowIndex
from tests.shared import shared

SESSIONS = ("a", "b")
FOLDERS = {"a": "dynamic90001-1-1-Video-fixturea_30hz", "b": "dynamic90002-2-3-Video-fixtureb_30hz"}
#: regime -> tiers, every so many-th allowed start, whether blanks count
REGIMES = {
    "train": (["train"], 1, True),
    "val": (["validation", "oracle"], 60, True),
    "val_noblank": (["validation"], 60, False),
    "final_test": (["final_test"], 30, True),
    "final_test_1": (["final_test_1"], 30, True),
}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    with np.load(shared("recordings/experanto/expected.npz")) as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="module")
def tree() -> Path:
    return shared("recordings/experanto/tree")


@pytest.fixture(scope="module")
def recordings(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Recording]:
    """Each session as read from its folder and as read back from a store."""
    place = tmp_path_factory.mktemp("experanto") / "store"
    done = ingest("experanto", tree, place, nan_responses="mask", say=lambda line: None)
    assert done.added == ("90001-1-1", "90002-2-3")
    store = Store.open(place)
    out: dict = {"store": store}
    for name, source in zip(SESSIONS, experanto.read(tree, nan_responses="mask"), strict=True):
        out[name, "folder"] = source
        out[name, "store"] = store.recording(source.key)
    return out


@pytest.mark.parametrize("origin", ["folder", "store"])
@pytest.mark.parametrize("name", SESSIONS)
class TestAgainstExperanto:
    def test_identity_and_statistics(self, name: str, origin: str, recordings: dict, expected: dict) -> None:
        rec = recordings[name, origin]
        assert rec.key == str(expected[f"{name}/data_key"])
        assert rec.animal == rec.key.split("-")[0]
        # experanto's own floor is already in the expected values
        assert np.array_equal(rec.response_scale, expected[f"{name}/stats/responses/std"][0])
        for device, channels in experanto.CHANNELS.items():
            assert [rec.behavior_mean[c] for c in channels] == expected[f"{name}/stats/{device}/mean"][0].tolist()
            assert [rec.behavior_scale[c] for c in channels] == expected[f"{name}/stats/{device}/std"][0].tolist()

    def test_trials(self, name: str, origin: str, recordings: dict, expected: dict) -> None:
        trials = recordings[name, origin].trials
        assert np.array_equal(trials.start, expected[f"{name}/trial_start"])
        assert np.array_equal(trials.end[:-1], expected[f"{name}/trial_end"][:-1])
        assert np.isfinite(trials.end[-1])
        assert np.array_equal(np.where(trials.tier == "", "blank", trials.tier), expected[f"{name}/trial_tier"])
        assert trials.modality.tolist() == [m.lower() for m in expected[f"{name}/trial_modality"]]

    def test_valid_ranges_and_nan_filter(self, name: str, origin: str, recordings: dict, expected: dict) -> None:
        rec = recordings[name, origin]
        for device, signal in {"responses": rec.responses, **rec.behavior}.items():
            assert np.array_equal(signal.spans()[0], expected[f"{name}/valid_range/{device}"])
        for device in experanto.CHANNELS:
            spans = experanto_windows.nan_free_spans(rec.behavior[device], vicinity=0.05)
            assert np.array_equal(spans, expected[f"{name}/filter_intervals/{device}"])

    @pytest.mark.parametrize("regime", REGIMES)
    def test_chunk_starts(self, name: str, origin: str, regime: str, recordings: dict, expected: dict) -> None:
        """Every start of every regime, before and after the stride, in float64."""
        rec, (tiers, stride, include_blanks) = recordings[name, origin], REGIMES[regime]
        allowed = experanto_windows.window_starts(rec, tiers, include_blanks, 60, 30.0)
        times = allowed.times()
        assert allowed.origin == expected[f"{name}/range"][0]
        assert len(times) == expected[f"{name}/{regime}/n_full"]
        assert np.array_equal(times[::stride], expected[f"{name}/{regime}/starts"])
        assert np.array_equal(experanto_windows.filter_spans(rec), expected[f"{name}/filter_intervals"])

    def test_the_split_drawn_anew(self, name: str, origin: str, recordings: dict, expected: dict) -> None:
        rec = recordings[name, origin]
        trials = experanto_windows.redraw_validation(rec.trials, 0.25, 7)
        assert np.array_equal(np.where(trials.tier == "", "blank", trials.tier), expected[f"{name}/resplit/tier"])
        again = dataclasses.replace(rec, trials=trials)
        times = experanto_windows.window_starts(again, ["train"], True, 60, 30.0).times()
        assert np.array_equal(times, expected[f"{name}/resplit/starts"])

    def test_values_at_random_times(self, name: str, origin: str, recordings: dict, expected: dict) -> None:
        rec, times = recordings[name, origin], expected[f"{name}/probe/times"]
        for device in ("responses", "eye_tracker", "treadmill", "screen"):
            valid = expected[f"{name}/probe/{device}/valid"]
            got = _read(rec, device, times[valid])
            assert np.array_equal(got, expected[f"{name}/probe/{device}"], equal_nan=True)
        outside = np.setdiff1d(np.arange(len(times)), expected[f"{name}/probe/screen/valid"])
        assert not on_screen(rec.screen, times[outside]).any()
        outside = np.setdiff1d(np.arange(len(times)), expected[f"{name}/probe/responses/valid"])
        assert np.isnan(read_responses(rec, times[outside])).any(axis=1).all()

    @pytest.mark.parametrize("regime", REGIMES)
    def test_items(self, name: str, origin: str, regime: str, recordings: dict, expected: dict) -> None:
        """Normalised windows of 2 s, difference 0 in float32, NaN and phase shifts included."""
        rec, where = recordings[name, origin], f"{name}/{regime}"
        scale = rec.response_scale.astype(np.float32)
        for k, start in enumerate(expected[f"{where}/starts"][expected[f"{where}/index"]]):
            fast = np.linspace(start, start + 2, 60, endpoint=False)
            slow = np.linspace(start, start + 2, 40, endpoint=False)
            same = {"responses": read_responses(rec, fast) / scale}
            for device, channels in experanto.CHANNELS.items():
                mean, std = (
                    np.array([column[c] for c in channels], np.float32)
                    for column in (rec.behavior_mean, rec.behavior_scale)
                )
                same[device] = (read_behavior(rec, slow, channels) - mean) / std
            same["screen"] = ((read_screen(rec, fast).astype(np.float32) - 113) / 59)[None]
            for device, got in same.items():
                assert np.array_equal(got, expected[f"{where}/{device}"][k], equal_nan=True), device


@pytest.mark.parametrize("regime", REGIMES)
def test_the_window_index_has_experantos_starts_as_an_option(regime: str, recordings: dict, expected: dict) -> None:
    """Both sessions together, numbered session by session; and by default no window lies wholly in a long blank."""
    tiers, stride, include_blanks = REGIMES[regime]
    store = recordings["store"]
    args = (store, store.keys, tiers, Grid(), stride / 30)
    index = WindowIndex.of(*args, blanks="all" if include_blanks else "none", rule="experanto")
    wanted = [float(start) for name in SESSIONS for start in expected[f"{name}/{regime}/starts"]]
    assert [index[k].start for k in range(len(index))] == wanted
    if regime == "final_test_1":  # session b has no such trial, but four windows in a 5 s blank
        ours = WindowIndex.of(*args)
        assert ours.skipped == ("90002-2-3",)
        assert "90002-2-3" in index.sessions


def test_experantos_windows_refuse_what_they_cannot_do(recordings: dict) -> None:
    store = recordings["store"]
    with pytest.raises(UserError, match="blanks 'follow'"):
        WindowIndex.of(store, store.keys, ["train"], Grid(), 1.0, rule="experanto")
    with pytest.raises(UserError, match=r"multiple of 1/30 s"):
        WindowIndex.of(store, store.keys, ["train"], Grid(), 0.05, blanks="all", rule="experanto")


def _read(rec: Recording, device: str, times: np.ndarray) -> np.ndarray:
    if device == "responses":
        return read_responses(rec, times)
    if device == "screen":
        return read_screen(rec, times).astype(np.float32)
    return read_behavior(rec, times, experanto.CHANNELS[device])


def test_stored_types_and_rates_are_kept(recordings: dict) -> None:
    assert recordings["a", "store"].screen.frames.dtype == np.uint8
    assert recordings["b", "store"].screen.frames.dtype == np.float32
    assert recordings["a", "store"].provenance["original_rate"] == 8.01
    assert recordings["b", "store"].responses.rate == 7.95


def test_the_trial_cache_alone_is_enough_and_is_never_written(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "session"
    shutil.copytree(tree / FOLDERS["a"], copy)
    for path in (copy / "screen" / "meta").glob("*.yml"):
        path.unlink()
    both = [experanto.read_session(folder) for folder in (tree / FOLDERS["a"], copy)]
    assert np.array_equal(both[0].trials.stimulus, both[1].trials.stimulus)
    assert np.array_equal(both[0].screen.frame, both[1].screen.frame)
    shutil.copytree(tree / FOLDERS["a"] / "screen" / "meta", copy / "screen" / "meta", dirs_exist_ok=True)
    (copy / "screen" / "combined_meta.json").unlink()
    experanto.read_session(copy)
    assert not (copy / "screen" / "combined_meta.json").exists()


def small(folder: Path) -> Path:
    """A session of 20 s written by hand: 3 neurons, a treadmill, two images and blanks, no eye tracker."""
    rng = np.random.default_rng([1])
    for device, n, rate, length in (("responses", 3, 10, 200), ("treadmill", 1, 20, 400)):
        (folder / device / "meta").mkdir(parents=True)
        rng.uniform(0, 4, (length, n)).astype(np.float32).tofile(folder / device / "data.mem")
        np.save(folder / device / "meta" / "means.npy", np.full(n, 2.0))
        np.save(folder / device / "meta" / "stds.npy", np.full((1, n), 0.5))
        # YAML 1.1 reads 1e1 as text: a reader must not
        (folder / device / "meta.yml").write_text(
            f"modality: sequence\nstart_time: 0\nend_time: 2e1\nsampling_rate: {rate}\nphase_shift_per_signal: false\n"
            f"n_signals: {n}\nn_timestamps: {length}\ndtype: float32\n"
        )
    (folder / "screen" / "data").mkdir(parents=True)
    (folder / "screen" / "meta").mkdir()
    np.save(folder / "screen" / "timestamps.npy", np.array([0.0, 5.0, 10.0, 15.0]))
    for k in range(4):
        meta: dict[str, object] = {"modality": "blank", "interleave_value": 128}
        if k % 2:
            meta = {"modality": "image", "tier": "train", "valid_trial": True, "image_size": [4, 6]}
            np.save(folder / "screen" / "data" / f"{k:05d}.npy", rng.integers(0, 255, (4, 6)).astype(np.uint8))
        (folder / "screen" / "meta" / f"{k:05d}.yml").write_text(json.dumps(meta))
    (folder / "meta.json").write_text('{"data_key": "7-1-1"}')
    return folder


def test_repeated_stimuli_share_their_frames(tmp_path: Path) -> None:
    folder = small(tmp_path / "s")
    image = np.load(folder / "screen/data/00001.npy")
    np.save(folder / "screen/data/00003.npy", image[None].astype(np.float64))  # the same grey levels, as (1, H, W)
    rec = experanto.read_session(folder)
    assert rec.screen is not None
    assert rec.screen.frames.shape[0] == 1
    assert rec.trials.stimulus[1] == rec.trials.stimulus[3] != ""
    assert np.array_equal(read_screen(rec, np.array([6.0, 15.0])), np.stack([image] * 2))
    assert np.all(read_screen(rec, np.array([1.0])) == 128)


def _append_nan(folder: Path) -> None:
    values = np.fromfile(folder / "responses" / "data.mem", np.float32)
    values[31] = np.nan
    values.tofile(folder / "responses" / "data.mem")


def _replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return change


BROKEN: dict[str, Callable[[Path], object]] = {
    r"file .*responses/data.mem: missing": lambda f: (f / "responses" / "data.mem").unlink(),
    r"file .*responses/data.mem: 100 bytes, but 200 x 3 float32 are 2400": lambda f: (
        f / "responses" / "data.mem"
    ).write_bytes(bytes(100)),
    r"file .*00001.npy: truncated": lambda f: (f / "screen/data/00001.npy").write_bytes(
        (f / "screen/data/00001.npy").read_bytes()[:-3]
    ),
    r"file .*stds.npy: 2 numbers for 3 signals": lambda f: np.save(f / "responses/meta/stds.npy", np.ones(2)),
    r"file .*data.mem: 1 NaN responses, the first at sample 10, neuron 1 .*--nan-responses mask": _append_nan,
    r"file .*timestamps.npy: not increasing at entry 2": lambda f: np.save(
        f / "screen/timestamps.npy", np.array([0.0, 5.0, 4.0, 15.0])
    ),
    r"file .*timestamps.npy: 3 frame times, but trial 00003 needs 4": lambda f: np.save(
        f / "screen/timestamps.npy", np.array([0.0, 5.0, 10.0])
    ),
    r"file .*00003.npy: missing": lambda f: (f / "screen/data/00003.npy").unlink(),
    r"field sampling_rate is missing": _replace("responses/meta.yml", "sampling_rate", "rate"),
    r"field n_signals is 'many'": _replace("treadmill/meta.yml", "n_signals: 1", "n_signals: many"),
    r"n_signals is 0|0 bytes|are 0": _replace("responses/meta.yml", "n_signals: 3", "n_signals: 0"),
    r"modality sound": _replace("screen/meta/00000.yml", '"blank"', '"sound"'),
}


def test_a_small_session_is_read(tmp_path: Path) -> None:
    rec = experanto.read_session(small(tmp_path / "s"))
    assert (rec.key, rec.animal, rec.channels) == ("7-1-1", "7", ("running",))
    assert rec.response_scale.tolist() == [1, 1, 1]  # never less than 1
    assert rec.trials.tiers() == {"blank": 2, "train": 2}


@pytest.mark.parametrize("message", BROKEN)
def test_bad_folders_are_refused_in_one_line(message: str, tmp_path: Path) -> None:
    good = small(tmp_path / "good" / "x")
    ingest("experanto", good, tmp_path / "store", say=lambda line: None)
    before = {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()}
    bad = small(tmp_path / "bad" / "y")
    (bad / "meta.json").write_text('{"data_key": "7-2-2"}')
    shutil.copytree(good, tmp_path / "bad" / "a-good-one-first")
    (tmp_path / "bad" / "a-good-one-first" / "meta.json").write_text('{"data_key": "7-1-9"}')
    BROKEN[message](bad)
    with pytest.raises(UserError, match=message) as error:
        ingest("experanto", tmp_path / "bad", tmp_path / "store", say=lambda line: None)
    assert "session 7-2-2" in str(error.value)
    assert error.value.way_out
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()} == before


def test_two_folders_with_one_key_are_refused(tmp_path: Path) -> None:
    small(tmp_path / "in" / "x")
    small(tmp_path / "in" / "y")
    with pytest.raises(UserError, match=r"session 7-1-1: in .*x and in .*y"):
        ingest("experanto", tmp_path / "in", tmp_path / "store")
    assert not (tmp_path / "store").exists()
