"""The SENSORIUM readers on small sessions made by hand: what is found, withheld, shared and refused. Needs no check data."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.engine import ingest, verify
from omnimouse_jax.recordings.ingest.sensorium import images as sensorium2022
from omnimouse_jax.recordings.ingest.sensorium import videos as sensorium2023
from omnimouse_jax.recordings.ingest.sensorium.official import drawn_neurons, static_trial, video_trial
from omnimouse_jax.recordings.sampling import read_behavior
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.windows import WindowIndex, cut

ALL_CHANNELS = ("pupil_size", "pupil_size_derivative", "running", "pupil_x", "pupil_y")


def static_tree(folder: Path, n_neurons: int = 12) -> Path:
    """Six presentations of 8 x 12 images, by hand: two of one test image, one of them with withheld responses."""
    rng = np.random.default_rng([22])
    for i in range(6):
        shown = rng.integers(0, 256, (1, 8, 12)).astype(np.uint8)
        save(folder, f"data/images/{i}", shown if i != 5 else np.load(folder / "data/images/4.npy").astype(np.float32))
        save(folder, f"data/responses/{i}", rng.gamma(1, 1, n_neurons) * (i != 5))
        save(folder, f"data/behavior/{i}", np.array([40.0, rng.normal(), 0.0]))
        save(folder, f"data/pupil_center/{i}", rng.normal(100, 5, 2))
    save(folder, "meta/trials/tiers", np.array(["train"] * 3 + ["validation"] + ["test"] * 2))
    save(folder, "meta/trials/trial_idx", rng.permutation(6))
    save(folder, "meta/neurons/unit_ids", rng.permutation(n_neurons) + 1)
    for what in ("mean", "std"):
        save(folder, f"meta/statistics/images/all/{what}", np.array(60.0))
        save(folder, f"meta/statistics/responses/all/{what}", np.ones(n_neurons))
        save(folder, f"meta/statistics/behavior/all/{what}", np.array([40.0, 1.0, 0.0]))
        save(folder, f"meta/statistics/pupil_center/all/{what}", np.array([100.0, 5.0]))
    return folder


def video_tree(folder: Path, n_neurons: int = 12, n_frames: int = 70) -> Path:
    """Four trials of 4 x 6 frames, by hand, 60 to 63 of 70 frames long; responses of the last are withheld."""
    rng = np.random.default_rng([23])
    for i in range(4):
        values = {
            "videos": rng.integers(0, 256, (4, 6, n_frames)).astype(np.float32),
            "responses": rng.gamma(1, 1, (n_neurons, n_frames)) * (i != 3),
            "behavior": rng.gamma(1, 1, (2, n_frames)),
            "pupil_center": rng.normal(100, 5, (2, n_frames)),
        }
        for name, array in values.items():
            array[..., 60 + i :] = np.nan
            save(folder, f"data/{name}/{i}", array)
    save(folder, "meta/trials/tiers", np.array(["train", "train", "oracle", "final_test_bonus"]))
    save(folder, "meta/neurons/unit_ids", rng.permutation(n_neurons))
    sizes = {"videos": (4, 6), "responses": (n_neurons,), "behavior": (2,), "pupil_center": (2,)}
    for name, rows in sizes.items():
        for what in ("mean", "std"):
            save(folder, f"meta/statistics/{name}/all/{what}", np.ones((*rows, n_frames)))
    return folder


def save(folder: Path, name: str, values: np.ndarray) -> None:
    path = folder / f"{name}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values)


def zipped(folder: Path) -> Path:
    """The folder as a zip beside it, as it is published."""
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


@pytest.fixture(params=["folder", "zip"])
def packed(request: pytest.FixtureRequest) -> Callable[[Path], Path]:
    return zipped if request.param == "zip" else lambda folder: folder


STATIC, DYNAMIC = "static7-1-2-GrayImageNet-0", "dynamic8-1-2-Video-0"


class TestByHand:
    def test_sources_are_found_once_and_never_touched(self, tmp_path: Path) -> None:
        here = tmp_path / "all"
        for folder in (static_tree(here / STATIC), static_tree(here / "static7-1-3-GrayImageNet-0")):
            zipped(folder)
        shutil.rmtree(here / "static7-1-3-GrayImageNet-0")
        zipped(video_tree(here / DYNAMIC))
        (here / "notes.txt").write_text("-")
        before = sorted((p, p.stat().st_mtime_ns) for p in here.rglob("*"))
        found = sensorium2022.discover(here)
        assert [p.name for p in found] == [
            f"{STATIC}.zip",
            "static7-1-3-GrayImageNet-0.zip",
        ]  # not the folder beside it
        assert sensorium2022.discover(found[0]) == [found[0]]
        assert sensorium2022.discover(found[1]) == [found[1]]
        assert sensorium2023.discover(here) == [here / f"{DYNAMIC}.zip"]
        assert sensorium2022.source_files(found[1]) == [found[1]]
        assert sensorium2022.discover(here / STATIC) == [here / STATIC]
        assert len(sensorium2022.source_files(here / STATIC)) == 4 * 6 + 3 + 8
        for path in found:
            rec = sensorium2022.read_session(path)
            assert rec.key == ("7-1-2" if path == found[0] else "7-1-3")
            Store.create(tmp_path / "store").add(rec)
        assert sorted((p, p.stat().st_mtime_ns) for p in here.rglob("*")) == before

    def test_folder_and_zip_say_the_same(self, tmp_path: Path) -> None:
        readers: list[tuple[ModuleType, Path, Callable]] = [
            (sensorium2022, static_tree(tmp_path / STATIC), static_trial),
            (sensorium2023, video_tree(tmp_path / DYNAMIC), video_trial),
        ]
        for reader, folder, trial in readers:
            a, b = reader.read_session(folder), reader.read_session(zipped(folder))
            assert a.provenance == b.provenance
            for k in range(len(a.trials)):
                one, two = (trial(rec, k, behavior=True, pupil=True) for rec in (a, b))
                for field in one:
                    assert np.array_equal(one[field], two[field], equal_nan=True)

    @pytest.mark.parametrize("n_neurons", [3, 12])
    @pytest.mark.parametrize("blank", [0.0, np.nan])
    def test_blanked_trials_of_the_benchmarks_tiers_are_withheld(
        self, blank: float, n_neurons: int, tmp_path: Path
    ) -> None:
        folder = static_tree(tmp_path / STATIC, n_neurons)
        save(folder, "data/responses/5", np.full(n_neurons, blank))
        assert sensorium2022.read_session(folder).trials.withheld.tolist() == [False] * 5 + [True]
        folder = video_tree(tmp_path / DYNAMIC, n_neurons)
        values = np.load(folder / "data/responses/3.npy")
        save(folder, "data/responses/3", values + blank)
        rec = sensorium2023.read_session(folder)
        assert rec.trials.withheld.tolist() == [False] * 3 + [True]
        assert rec.trials.valid.all()
        assert np.round((rec.trials.end - rec.trials.start) * 30).tolist() == [60, 61, 62, 63]
        assert np.isnan(rec.responses.values[60 + 61 + 62 : rec.responses.n_samples]).all()
        assert np.isfinite(rec.responses.values[0 : 60 + 61 + 62]).all()
        made = Store.create(tmp_path / "store")
        made.add(rec)
        index = WindowIndex.of(made, ["8-1-2"], ["final_test_bonus"], Grid(), 1 / 30)
        assert len(index) == 4  # a window can be cut and predicted
        sample = cut(made.recording("8-1-2"), index[0], Grid(), ALL_CHANNELS)
        assert np.isnan(sample.responses).all()
        assert np.array_equal(sample.video, np.moveaxis(np.load(folder / "data/videos/3.npy"), -1, 0)[:60])

    def test_silent_trials_of_other_tiers_are_kept(self, tmp_path: Path) -> None:
        folder = static_tree(tmp_path / STATIC)
        for k in (0, 1, 3):
            save(folder, f"data/responses/{k}", np.zeros(12))
        rec = sensorium2022.read_session(folder)
        assert rec.trials.withheld.tolist() == [False] * 5 + [True]
        assert np.all(rec.responses.values[2:3] == 0)
        folder = video_tree(tmp_path / DYNAMIC)
        for k in (0, 2):
            save(folder, f"data/responses/{k}", np.load(folder / f"data/responses/{k}.npy") * 0)
        assert sensorium2023.read_session(folder).trials.withheld.tolist() == [False] * 3 + [True]

    @pytest.mark.parametrize("year", [2022, 2023])
    def test_a_value_left_in_a_blanked_tier_is_refused(self, year: int, packed: Callable, tmp_path: Path) -> None:
        folder = static_tree(tmp_path / STATIC) if year == 2022 else video_tree(tmp_path / DYNAMIC)
        reader, tier = (sensorium2022, "test") if year == 2022 else (sensorium2023, "live_test_main")
        tiers = np.load(folder / "meta/trials/tiers.npy").astype("U20")
        n = len(tiers)
        tiers[1:] = tier
        save(folder, "meta/trials/tiers", tiers)
        for k in range(1, n):
            save(folder, f"data/responses/{k}", np.load(folder / f"data/responses/{k}.npy") * 0)
        last = folder / f"data/responses/{n - 1}.npy"
        values = np.load(last)
        values.flat[3] = 1e-9
        np.save(last, values)
        key = "7-1-2" if year == 2022 else "8-1-2"
        _refused(reader, packed(folder), key, f"most trials of tier {tier} are blanked, but not trial {n - 1} - ")
        np.save(last, values * 0)
        assert reader.read_session(folder).trials.withheld.tolist() == [False] + [True] * (n - 1)

    def test_a_mouse_that_never_ran_was_recorded_all_the_same(self, tmp_path: Path) -> None:
        rec = sensorium2022.read_session(static_tree(tmp_path / STATIC))
        assert rec.provenance["absent"] == []
        assert np.all(read_behavior(rec, np.array([0.5]), ["running"]) == 0)
        assert rec.behavior_scale["running"] == 1.0
        official = static_trial(rec, 0, behavior=True)["behavior"]
        assert np.isnan(official[2])  # 0/0, as in the original

    def test_equal_images_share_a_frame_whatever_their_type(self, tmp_path: Path) -> None:
        rec = sensorium2022.read_session(static_tree(tmp_path / STATIC))
        assert rec.screen is not None
        assert rec.screen.frames.shape == (5, 2, 3)
        assert rec.trials.stimulus[4] == rec.trials.stimulus[5]

    def test_equal_images_carry_one_name_across_animals_and_types(self, tmp_path: Path) -> None:
        mine, other = static_tree(tmp_path / STATIC), static_tree(tmp_path / "static9-1-2-GrayImageNet-0")
        save(other, "data/images/0", np.load(other / "data/images/0.npy").astype(np.float64))
        a, b = sensorium2022.read_session(mine), sensorium2022.read_session(other)
        assert np.array_equal(a.trials.stimulus, b.trials.stimulus)
        assert b.animal == "9"

    @pytest.mark.parametrize("year", [2022, 2023])
    def test_ingest_skips_what_it_has_and_verifies(self, year: int, tmp_path: Path) -> None:
        name = f"sensorium{year}"
        zipped(static_tree(tmp_path / STATIC) if year == 2022 else video_tree(tmp_path / DYNAMIC))
        key = "7-1-2" if year == 2022 else "8-1-2"
        told: list[str] = []
        assert ingest(name, tmp_path, tmp_path / "store", say=told.append).added == (key,)
        assert ingest(name, tmp_path, tmp_path / "store", say=told.append).skipped == (key,)
        assert verify(name, tmp_path, tmp_path / "store", say=told.append) == {key: ()}
        shutil.rmtree(tmp_path / (STATIC if year == 2022 else DYNAMIC))
        assert ingest(name, tmp_path, tmp_path / "store", say=told.append).skipped == (key,)
        stored = Store.open(tmp_path / "store").recording(key).provenance
        assert stored["benchmark"] == name
        assert stored["trials"]["file_index"] == list(range(6 if year == 2022 else 4))

    def test_nan_responses_are_refused_or_masked(self, tmp_path: Path) -> None:
        folder = static_tree(tmp_path / STATIC)
        values = np.load(folder / "data/responses/1.npy")
        values[2] = np.nan
        np.save(folder / "data/responses/1.npy", values)
        with pytest.raises(UserError, match=r"session 7-1-2: file .*responses/1.npy: NaN at \(2,\) - pass --nan-resp"):
            sensorium2022.read_session(folder)
        rec = sensorium2022.read_session(folder, nan_responses="mask")
        assert np.isnan(rec.responses.values[6:7]).nonzero()[1].tolist() == [2]

    def test_a_trial_without_a_usable_frame_is_not_valid(self, tmp_path: Path) -> None:
        folder = video_tree(tmp_path / DYNAMIC)
        values = np.load(folder / "data/pupil_center/1.npy")
        values[1, 0] = np.nan
        np.save(folder / "data/pupil_center/1.npy", values)
        rec = sensorium2023.read_session(folder)
        assert rec.trials.valid.tolist() == [True, False, True, True]
        with pytest.raises(UserError, match="session 8-1-2: trial 1 has no usable frame"):
            video_trial(rec, 1)
        assert video_trial(rec, 2)["responses"].shape == (12, 62)
        made = Store.create(tmp_path / "store")
        made.add(rec)
        index = WindowIndex.of(made, ["8-1-2"], ["train"], Grid(), 1 / 30)
        assert [index[k].start for k in range(len(index))] == [0.0]

    def test_frames_that_are_not_whole_grey_levels_stay_float(self, tmp_path: Path) -> None:
        folder = video_tree(tmp_path / DYNAMIC)
        values = np.load(folder / "data/videos/2.npy")
        values[0, 0, 5] = 0.5
        np.save(folder / "data/videos/2.npy", values)
        rec = sensorium2023.read_session(folder)
        assert rec.screen is not None
        assert rec.screen.frames.dtype == np.float32
        assert np.array_equal(video_trial(rec, 2, normalize=False)["videos"][0], np.moveaxis(values, -1, 0)[:62])

    def test_statistics_without_time_serve_every_frame(self, tmp_path: Path) -> None:
        folder = video_tree(tmp_path / DYNAMIC)
        save(folder, "meta/statistics/responses/all/std", np.full(12, 2.0))
        rec = sensorium2023.read_session(folder)
        assert rec.response_scale.tolist() == [2.0] * 12
        raw = video_trial(rec, 0, normalize=False)["responses"]
        assert np.array_equal(video_trial(rec, 0)["responses"], raw / 2)


def test_a_session_without_behaviour_folders_has_no_channels(tmp_path: Path) -> None:
    for reader, folder in (
        (sensorium2022, static_tree(tmp_path / STATIC)),
        (sensorium2023, video_tree(tmp_path / DYNAMIC)),
    ):
        for name in ("behavior", "pupil_center"):
            shutil.rmtree(folder / "data" / name)
        assert reader.read_session(folder).channels == ()
    rec = sensorium2023.read_session(folder)
    assert set(video_trial(rec, 0, behavior=False, pupil=False)) == {"videos", "responses"}
    with pytest.raises(UserError, match="session 8-1-2: no data/behavior in its source"):
        video_trial(rec, 0)


def _cut_file(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-7])


def _save(name: str, values: np.ndarray) -> Callable[[Path], object]:
    return lambda folder: save(folder, name, values)


BROKEN_STATIC: dict[str, Callable[[Path], object]] = {
    r"data/images: 5 arrays for 6 trials": lambda f: (f / "data/images/5.npy").unlink(),
    r"data/pupil_center/2.npy: missing": lambda f: (f / "data/pupil_center/2.npy").rename(
        f / "data/pupil_center/9.npy"
    ),
    r"data/behavior: 5 arrays for 6 trials": lambda f: (f / "data/behavior/0.npy").unlink(),
    r"data/responses/3.npy: truncated": _cut_file("data/responses/3.npy"),
    r"data/responses/3.npy: float64 of shape \(11,\), expected numbers \(12\)": _save("data/responses/3", np.ones(11)),
    r"data/behavior/0.npy: float64 of shape \(2,\), expected numbers \(3\)": _save("data/behavior/0", np.ones(2)),
    r"data/images/4.npy: shape \(1, 8, 8\), the images before it \(1, 8, 12\)": _save(
        "data/images/4", np.ones((1, 8, 8))
    ),
    r"data/images/0.npy: float64 of shape \(3, 8, 12\), expected numbers \(1, n, n\)": _save(
        "data/images/0", np.ones((3, 8, 12))
    ),
    r"data/responses/2.npy: an infinite value": _save("data/responses/2", np.full(12, np.inf)),
    r"tiers.npy: unknown tier tset - did you mean test\?": _save("meta/trials/tiers", np.array(["tset"] * 6)),
    r"trial_idx.npy: shape \(7,\) for 6 trials": _save("meta/trials/trial_idx", np.arange(7)),
    r"unit_ids.npy: missing or empty": lambda f: (f / "meta/neurons/unit_ids.npy").unlink(),
    r"images/all/std.npy: shape \(8, 12\), expected one number": _save(
        "meta/statistics/images/all/std", np.ones((8, 12))
    ),
    r"responses/all/std.npy: no positive standard deviation": _save("meta/statistics/responses/all/std", np.zeros(12)),
}
BROKEN_VIDEO: dict[str, Callable[[Path], object]] = {
    r"data/videos/2.npy: missing": lambda f: (f / "data/videos/2.npy").rename(f / "data/videos/7.npy"),
    r"data/videos/2.npy: truncated": _cut_file("data/videos/2.npy"),
    r"data/responses/1.npy: float64 of shape \(12, 69\), expected numbers \(12, 70\)": _save(
        "data/responses/1", np.ones((12, 69))
    ),
    r"data/videos/1.npy: frames of \(4, 7\), those before it \(4, 6\)": _save("data/videos/1", np.ones((4, 7, 70))),
    r"tiers.npy: unknown tier test": _save("meta/trials/tiers", np.array(["train"] * 3 + ["test"])),
    r"videos/all/mean.npy: float64 of shape \(70,\), expected \(4, 6, 70\)": _save(
        "meta/statistics/videos/all/mean", np.ones(70)
    ),
}


@pytest.mark.parametrize("message", BROKEN_STATIC)
def test_broken_2022_sessions_are_refused_in_one_line(message: str, packed: Callable, tmp_path: Path) -> None:
    BROKEN_STATIC[message](static_tree(tmp_path / STATIC))
    _refused(sensorium2022, packed(tmp_path / STATIC), "7-1-2", message)


@pytest.mark.parametrize("message", BROKEN_VIDEO)
def test_broken_2023_sessions_are_refused_in_one_line(message: str, packed: Callable, tmp_path: Path) -> None:
    BROKEN_VIDEO[message](video_tree(tmp_path / DYNAMIC))
    _refused(sensorium2023, packed(tmp_path / DYNAMIC), "8-1-2", message)


def _refused(reader: ModuleType, session: Path, key: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as told:
        reader.read_session(session)
    assert str(told.value).startswith(f"session {key}: file {session}")
    assert "\n" not in str(told.value)
    assert told.value.way_out


def test_damaged_and_strange_zips_are_refused(tmp_path: Path) -> None:
    whole = zipped(static_tree(tmp_path / STATIC)).read_bytes()
    bad = tmp_path / "bad" / f"{STATIC}.zip"
    bad.parent.mkdir()
    bad.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"session 7-1-2: file .*: cannot be read as a zip .* download it again"):
        sensorium2022.read_session(bad)
    with zipfile.ZipFile(bad.parent.parent / f"{STATIC}.zip") as archive:
        place = archive.getinfo(f"{STATIC}/data/images/3.npy")
    at = place.header_offset + 30 + len(place.filename) + place.compress_size // 2
    bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
    with pytest.raises(UserError, match=r"member data/images/3.npy: truncated or not a numpy array"):
        sensorium2022.read_session(bad)
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr("readme.txt", "-")
    with pytest.raises(UserError, match=r"0 files meta/trials/tiers.npy in it - give one session"):
        sensorium2022.read_session(bad)


def wrong_calls(tmp_path: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    folder = static_tree(tmp_path / STATIC)
    rec, films = sensorium2022.read_session(folder), sensorium2023.read_session(video_tree(tmp_path / DYNAMIC))
    yield "no SENSORIUM 2022 session", lambda: sensorium2022.discover(tmp_path / "nowhere")
    yield "no SENSORIUM 2022 session", lambda: sensorium2022.discover(tmp_path / DYNAMIC)
    yield "no SENSORIUM 2023 session", lambda: sensorium2023.discover(folder)
    yield r"scale 0.5 - choose 0.25 or 1.0", lambda: sensorium2022.read_session(folder, scale=0.5)
    yield r"frames int8 - choose float32 or uint8", lambda: sensorium2022.read_session(folder, frames="int8")
    yield "nan_responses no", lambda: sensorium2023.read_session(tmp_path / DYNAMIC, nan_responses="no")
    yield "its name gives no animal", lambda: sensorium2022.read_session(folder.rename(tmp_path / "renamed"))
    yield "7-1-2: images at 0.25 of their size - ingest it with scale=1.0", lambda: static_trial(rec, 0, scale=1.0)
    yield "7-1-2: not a sensorium2023 recording", lambda: video_trial(rec, 0)
    yield "8-1-2: not a sensorium2022 recording", lambda: static_trial(films, 0)
    yield "7-1-2: 13 of 12 neurons", lambda: drawn_neurons(rec, 13, 1)


def test_wrong_calls_say_what_to_do(tmp_path: Path) -> None:
    for message, call in wrong_calls(tmp_path):
        with pytest.raises(UserError, match=message) as told:
            call()
        assert told.value.way_out
