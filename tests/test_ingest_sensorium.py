"""The SENSORIUM readers against what the benchmarks' own loaders returned for synthetic sessions, and their refusals."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.recordings.ingest.sensorium import images as sensorium2022
from omnimouse_jax.recordings.ingest.sensorium import videos as sensorium2023
from omnimouse_jax.recordings.ingest.sensorium.official import (
    drawn_neurons,
    response_precision,
    static_trial,
    video_trial,
    window_response,
)
from omnimouse_jax.recordings.sampling import read_behavior, read_responses, read_screen
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.collate import collate
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import Sample, WindowIndex, cut
from tests.shared import shared

HASH = "GrayImageNet-94c6ff995dac583098847cfecd43e7b6"
OPEN, CLOSED = f"static90011-1-1-{HASH}", f"static90012-2-1-{HASH}"
MOUSE = "dynamic90021-1-1-Video-9b4f6a1a067fe51e15306b9628efea20"
ALL_CHANNELS = ("pupil_size", "pupil_size_derivative", "running", "pupil_x", "pupil_y")
#: What float32 in the store costs: the largest difference met is 1.6e-6, at pupil positions of 150 before they are z-scored.
STORE = 2e-6
#: One float32 step at normalised grey levels of 2..4: the original rounds float32 images before it averages them.
FLOAT32_IMAGES = 2.5e-7


def load(path: str) -> dict[str, np.ndarray]:
    with np.load(shared(f"recordings/sensorium/{path}")) as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return load("2022/expected_2022.npz")


@pytest.fixture(scope="module")
def videos() -> dict[str, np.ndarray]:
    return load("2023/expected_2023.npz")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All three sessions at their defaults."""
    made = Store.create(tmp_path_factory.mktemp("sensorium") / "store")
    for name in (OPEN, CLOSED):
        made.add(sensorium2022.read_session(shared(f"recordings/sensorium/2022/{name}.zip")))
    made.add(sensorium2023.read_session(shared(f"recordings/sensorium/2023/{MOUSE}.zip")))
    return Store.open(made.name)


def read_2022(name: str, scale: float = 0.25) -> Recording:
    return sensorium2022.read_session(shared(f"recordings/sensorium/2022/{name}"), scale=scale)


def read_2023() -> Recording:
    return sensorium2023.read_session(shared(f"recordings/sensorium/2023/{MOUSE}.zip"))


class TestAgainst2022:
    @pytest.mark.parametrize("options", ["images", "behavior"])
    @pytest.mark.parametrize(
        ("origin", "scale", "limit"),
        [
            (OPEN, 0.25, 0.0),
            (f"{OPEN}.zip", 0.25, 0.0),
            (f"{OPEN}.zip", 1.0, 0.0),
            (f"{CLOSED}.zip", 0.25, FLOAT32_IMAGES),
            (f"{CLOSED}.zip", 1.0, 0.0),
            ("90011-1-1", 0.25, STORE),
            ("90012-2-1", 0.25, STORE),
        ],
    )
    def test_every_field_of_every_trial(
        self, origin: str, scale: float, limit: float, options: str, expected: dict, store: Store
    ) -> None:
        rec = store.recording(origin) if origin in store else read_2022(origin, scale)
        both = options == "behavior"
        seen = 0
        for tier in sensorium2022.TIERS:
            where = f"{options}/{rec.key}/{tier}"
            files = np.flatnonzero(rec.trials.tier == tier)
            assert (f"{where}/index" in expected) == (len(files) > 0)
            if not len(files):
                continue
            assert np.array_equal(files, expected[f"{where}/index"])
            facts = rec.provenance["trials"]
            assert [facts["trial_idx"][i] for i in files] == expected[f"{where}/trial_idx"].tolist()
            assert [facts["frame_image_id"][i] for i in files] == expected[f"{where}/image_id"].tolist()
            for k, i in enumerate(files):
                got = static_trial(rec, int(i), behavior=both, pupil=both, scale=0.25)
                assert set(got) == {"images", "responses"} | ({"behavior", "pupil_center"} if both else set())
                for field, values in got.items():
                    want = expected[f"{where}/{field}"][k]
                    assert values.shape == want.shape
                    assert values.dtype == want.dtype == np.float32
                    assert np.abs(values - want).max() <= limit, field
                seen += 1
        assert seen == len(rec.trials)

    def test_whole_images_precision_and_chosen_neurons(self, expected: dict) -> None:
        rec = read_2022(f"{OPEN}.zip", scale=1.0)
        for k, i in enumerate(expected["fullres/90011-1-1/index"]):
            got = static_trial(rec, int(i), behavior=True, behavior_as_channels=False)["images"]
            assert np.array_equal(got, expected["fullres/90011-1-1/images"][k])
        p = expected["response_precision/90011-1-1"]
        assert np.array_equal(response_precision(rec), p)
        np.testing.assert_allclose(rec.response_scale, 1 / p, rtol=1e-15)
        chosen = drawn_neurons(rec, 10, 3)
        assert np.array_equal(chosen, expected["neuron_n/90011-1-1/neuron_index"])
        assert np.array_equal(rec.neurons["unit_id"][chosen], expected["neuron_n/90011-1-1/unit_ids"])
        got = static_trial(rec, 0, neurons=chosen)["responses"]
        assert np.array_equal(got, expected["neuron_n/90011-1-1/responses_trial0"])

    def test_identity_and_repeats(self, store: Store) -> None:
        for rec in (read_2022(OPEN), store.recording("90011-1-1")):
            assert (rec.key, rec.animal, rec.provenance["name"]) == ("90011-1-1", "90011", OPEN)
            assert rec.trials.tiers() == {"train": 40, "validation": 8, "test": 12}
            assert {"unit_id", "x", "y", "z", "area", "layer"} == set(rec.neurons)
            shown = np.array(rec.provenance["trials"]["frame_image_id"])
            assert np.array_equal(shown[:, None] == shown, rec.trials.stimulus[:, None] == rec.trials.stimulus)
            assert rec.screen is not None
            assert rec.screen.frames.shape == (len(set(shown.tolist())), 36, 64)

    def test_whole_grey_levels_lose_at_most_half_a_level(self) -> None:
        session = shared(f"recordings/sensorium/2022/{OPEN}")
        exact, rounded = (sensorium2022.read_session(session, frames=f).screen.frames for f in ("float32", "uint8"))
        assert rounded.dtype == np.uint8
        difference = np.abs(exact[0:50] - rounded[0:50].astype(np.float32))
        assert 0.25 <= difference.max() <= 0.5

    @pytest.mark.parametrize("stride", [1.0, 1 / 30])
    def test_one_window_per_trial_with_its_response_at_samples_30_to_44(self, stride: float, store: Store) -> None:
        source, rec = read_2022(OPEN), store.recording("90011-1-1")
        index = WindowIndex.of(store, ["90011-1-1"], sensorium2022.TIERS, Grid(), stride)
        assert [index[k].start for k in range(len(index))] == rec.trials.start.tolist()
        for k in range(len(index)):
            sample = cut(rec, index[k], Grid(), ALL_CHANNELS)
            recorded = np.isfinite(sample.responses)
            assert np.array_equal(np.flatnonzero(recorded.all(axis=1)), np.arange(30, 45))
            assert recorded.sum() == 15 * 30
            raw = np.load(shared(f"recordings/sensorium/2022/{OPEN}/data/responses/{k}.npy")).astype(np.float32)
            assert np.array_equal(
                sample.responses[30:45], np.tile(raw / rec.response_scale.astype(np.float32), (15, 1))
            )
            want = static_trial(source, k)["responses"]
            np.testing.assert_allclose(window_response(sample.responses), want, rtol=5e-7)  # four roundings to float32
            assert sample.video is not None
            shown = np.ptp(sample.video, axis=(1, 2)) > 0
            assert np.array_equal(np.flatnonzero(shown), np.arange(29, 44))
            grey = sample.video[~shown]
            assert np.all(grey == np.float32(112.62821858723958))
            assert np.isfinite(sample.behavior).all()
            assert np.all(sample.behavior == sample.behavior[:, :1])

    def test_made_up_trials_do_not_touch(self, store: Store) -> None:
        trials = store.recording("90011-1-1").trials
        assert np.all(trials.start[1:] - trials.end[:-1] == 0.5)
        assert np.all(trials.end - trials.start == 2.0)


class TestAgainst2023:
    @pytest.mark.parametrize("origin", ["zip", "folder", "store"])
    def test_whole_trials(self, origin: str, videos: dict, store: Store, tmp_path: Path) -> None:
        if origin == "folder":
            with zipfile.ZipFile(shared(f"recordings/sensorium/2023/{MOUSE}.zip")) as archive:
                archive.extractall(tmp_path)
            rec = sensorium2023.read_session(tmp_path / MOUSE)
        else:
            rec = read_2023() if origin == "zip" else store.recording("90021-1-1")
        limit = STORE if origin == "store" else 0.0
        for i in range(10):
            got = video_trial(rec, i)
            length = int(videos[f"whole/{i}/length"])
            assert round((rec.trials.end[i] - rec.trials.start[i]) * 30) == length
            assert got["videos"].shape == (3, length, 36, 64)
            if i == 3:
                assert np.abs(got["videos"] - videos["whole/3/videos_all_channels"]).max() <= limit
            got["videos"] = got["videos"][:1]
            for field, values in got.items():
                want = videos[f"whole/{i}/{field}"]
                assert values.shape == want.shape
                assert values.dtype == np.float32
                assert np.abs(values - want).max() <= limit, field
        assert np.array_equal(response_precision(rec), videos["response_precision"])
        assert rec.trials.tier.tolist() == videos["tiers"].tolist()
        assert np.array_equal(rec.neurons["unit_id"], videos["unit_ids"])
        assert (rec.key, rec.animal, rec.provenance["name"]) == ("90021-1-1", "90021", str(videos["mouse"]))
        assert rec.provenance["trials"]["trial_idx"][4] == "23--24--25"
        for tier in ("oracle", "live_test_main"):
            assert np.array_equal(np.flatnonzero(rec.trials.tier == tier), videos[f"order/{tier}"])

    def test_options(self, videos: dict) -> None:
        rec = read_2023()
        choices = {
            "no_pupil": {"pupil": False},
            "video_only": {"pupil": False, "behavior": False},
            "pupil_channels": {"pupil_as_channels": True},
        }
        for name, options in choices.items():
            found = [video_trial(rec, i, **options)["responses"] for i in range(10)]
            assert [r.shape[1] for r in found] == videos[f"{name}/lengths"].tolist()
            for i in (4, 8):
                assert np.array_equal(found[i], videos[f"{name}/{i}/responses"])
        assert video_trial(rec, 0, pupil_as_channels=True)["videos"].shape[0] == 5
        raw = video_trial(rec, 0, normalize=False, behavior_as_channels=False)
        for field in ("responses", "videos", "behavior"):
            assert np.array_equal(raw[field], videos[f"no_normalize/0/{field}"])

    def test_clips_are_stored_once_as_uint8_and_scales_follow_the_statistics(self, store: Store) -> None:
        for rec in (read_2023(), store.recording("90021-1-1")):
            assert rec.screen is not None
            assert rec.screen.frames.dtype == np.uint8
            # 8 of the 10 clips in full, and one for the two showings of which 103 and 102 frames were kept
            assert rec.screen.frames.shape == (90 + 103 + 110 + 97 + 100 + 104 + 95 + 108 + 99, 36, 64)
            assert rec.trials.stimulus[1] == rec.trials.stimulus[7]
            assert len(set(rec.trials.stimulus.tolist())) == 9
            shown = read_screen(rec, rec.trials.start[1] + np.arange(102) / 30)
            assert np.array_equal(shown, read_screen(rec, rec.trials.start[7] + np.arange(102) / 30))
            std = rec.extras["responses/std"]
            assert std.shape == (20, 120)
            pooled = np.sqrt(np.nanmean(std**2, axis=1))
            floor = 0.01 * pooled.mean()
            np.testing.assert_allclose(rec.response_scale, np.maximum(pooled, floor), rtol=1e-12)
            assert rec.response_scale[9] == pytest.approx(floor)  # a silent neuron

    def test_no_window_leaves_its_trial_and_interior_nan_cuts(self, store: Store) -> None:
        rec = store.recording("90021-1-1")
        for stride in (1.0, 1 / 30):
            index = WindowIndex.of(store, ["90021-1-1"], sensorium2023.TIERS, Grid(), stride)
            starts = np.array([index[k].start for k in range(len(index))])
            trial = np.searchsorted(rec.trials.start, starts + 1e-9, side="right") - 1
            assert set(trial) == set(range(10))
            assert np.all(starts + 2 <= rec.trials.end[trial] + 1e-6)
        # trial 4: responses of one neuron are NaN in 64..69, so 5 windows start 1/30 s apart
        assert np.sum(trial == 4) == 5
        for k in np.flatnonzero(~rec.trials.withheld[trial]):
            assert np.isfinite(cut(rec, index[int(k)], Grid(), ALL_CHANNELS).responses).all()


def batch_of(store: Store, samples: list[Sample]) -> tuple[np.ndarray, np.ndarray]:
    """Responses and their mask after collation."""
    vocabulary = Vocabulary.of({key: store.summary(key) for key in store.keys})
    dtype = np.result_type(*(s.video.dtype for s in samples if s.video is not None))
    size = next(s.video.shape[1:] for s in samples if s.video is not None)
    batch = collate(samples, vocabulary, Grid(), len(ALL_CHANNELS), 64, 8, size, dtype, np.zeros(3, bool))
    assert np.isfinite(batch.responses).all()
    assert np.isfinite(batch.behavior).all()
    return batch.response_mask, batch.behavior_mask


class TestWithheld:
    def test_withheld_trials_are_marked_and_nothing_of_them_is_ever_asked_for(self, store: Store) -> None:
        found = {key: np.flatnonzero(store.recording(key).trials.withheld).tolist() for key in store.keys}
        assert found == {"90011-1-1": [], "90012-2-1": list(range(12)), "90021-1-1": [3, 6, 9]}
        for key, trials in found.items():
            rec = store.recording(key)
            tiers = sorted(set(rec.trials.tier.tolist()))
            index = WindowIndex.of(store, [key], tiers, Grid(), 1 / 30)
            samples = [cut(rec, index[k], Grid(), ALL_CHANNELS) for k in range(len(index))]
            mask, _ = batch_of(store, samples)
            at = np.searchsorted(rec.trials.start, [s.window.start + 1e-9 for s in samples], side="right") - 1
            kept = np.isin(at, trials)
            assert kept.any() == bool(trials)
            assert not mask[kept].any()
            assert mask[~kept].any(axis=(1, 2)).all()

    def test_a_scan_without_behaviour_has_none_and_keeps_official_scales(self, store: Store) -> None:
        for rec in (read_2022(f"{CLOSED}.zip"), store.recording("90012-2-1")):
            assert rec.provenance["absent"] == ["behavior", "pupil_center"]
            assert np.isnan(read_behavior(rec, np.arange(0, 36, 0.5), ALL_CHANNELS)).all()
            assert np.isnan(read_responses(rec, np.arange(0, 36, 0.25))).all()
            # there is no training tier: scales are the official ones
            np.testing.assert_allclose(rec.response_scale, 1 / response_precision(rec), rtol=1e-6)
            assert rec.behavior_mean["pupil_x"] == pytest.approx(149.70227)
        index = WindowIndex.of(store, ["90012-2-1"], ["test", "final_test"], Grid(), 1.0)
        samples = [cut(rec, index[k], Grid(), ALL_CHANNELS) for k in range(12)]
        assert not batch_of(store, samples)[1].any()
        assert samples[0].video is not None
