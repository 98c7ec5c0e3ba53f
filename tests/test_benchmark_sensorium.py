"""Submissions and scores of SENSORIUM against those of the original code; the validator; a run from the recordings to the files."""

from __future__ import annotations

import builtins
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import jax
import numpy as np
import pytest

from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks import official, parquet, runs, sensorium2022, sensorium2023
from omnimouse_jax.evaluate.benchmarks.trials import Asked, TrialPrediction, open_sessions, predicted_trials, trials_of
from omnimouse_jax.evaluate.benchmarks.validate import validate
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.recordings.ingest.sensorium import images, videos
from omnimouse_jax.recordings.ingest.sensorium.official import response_precision, video_trial
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import init_state
from omnimouse_jax.training.train import train
from tests.micro import micro
from tests.shared import shared
from tests.test_ingest_sensorium_by_hand import DYNAMIC, STATIC, save, static_tree, video_tree

PLACE = "recordings/sensorium"
HASH = "GrayImageNet-94c6ff995dac583098847cfecd43e7b6"
MOUSE = "dynamic90021-1-1-Video-9b4f6a1a067fe51e15306b9628efea20"
#: Numbers of the original scorer are met to this.
LIMIT = 1e-6


def load(path: str) -> dict[str, np.ndarray]:
    with np.load(shared(f"{PLACE}/{path}")) as found:
        return {name: found[name] for name in found.files}


@pytest.fixture(scope="module")
def inputs() -> dict[str, np.ndarray]:
    return load("2022/submission/expected_submission_2022_inputs.npz")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """All three sessions of the check data."""
    made = Store.create(tmp_path_factory.mktemp("benchmark") / "store")
    for key in ("90011-1-1", "90012-2-1"):
        made.add(images.read_session(shared(f"{PLACE}/2022/static{key}-{HASH}.zip"), frames="uint8"))
    made.add(videos.read_session(shared(f"{PLACE}/2023/{MOUSE}.zip")))
    return Store.open(made.name)


class TestImages:
    @pytest.mark.parametrize("origin", ["store", "source"])
    @pytest.mark.parametrize(
        ("key", "tier", "name"),
        [
            ("90011-1-1", "test", "expected_submission_2022"),
            ("90012-2-1", "test", "expected_submission_2022_90012_live_test"),
            ("90012-2-1", "final_test", "expected_submission_2022_90012_final_test"),
        ],
    )
    def test_files_are_those_of_the_original_to_the_byte(
        self, key: str, tier: str, name: str, origin: str, inputs: dict, store: Store, tmp_path: Path
    ) -> None:
        place = shared(f"{PLACE}/2022") if origin == "source" else store.name
        rec = open_sessions(place, "sensorium2022").recording(key)
        assert np.array_equal(trials_of(rec, tier), inputs[f"{key}/{tier}/index"])
        made = sensorium2022.table(rec, tier, inputs[f"{key}/{tier}/prediction"])
        sensorium2022.write(tmp_path / "made.csv", made)
        wanted = shared(f"{PLACE}/2022/submission/{name}.csv")
        assert (tmp_path / "made.csv").read_bytes() == wanted.read_bytes()
        read = sensorium2022.read(wanted)
        assert np.array_equal(read.values, made.values)
        assert np.array_equal(read.neurons, made.neurons)
        report = validate(wanted, place)[0]
        assert (report.mistakes, report.about.split(",")[:2]) == ([], [f"session {key}", f" tier {tier}"])

    def test_the_ground_truth_is_that_of_the_original(self, tmp_path: Path) -> None:
        rec = images.read_session(shared(f"{PLACE}/2022/static90011-1-1-{HASH}.zip"))
        sensorium2022.write(tmp_path / "truth.csv", sensorium2022.recorded(rec, "test"), "responses")
        wanted = shared(f"{PLACE}/2022/submission/expected_ground_truth_2022.csv")
        assert (tmp_path / "truth.csv").read_bytes() == wanted.read_bytes()

    @pytest.mark.parametrize("name", ["expected_submission_2022", "submission_permuted"])
    def test_scores_are_those_of_the_original_in_any_order(self, name: str, inputs: dict, store: Store) -> None:
        file = shared(f"{PLACE}/2022/submission/{name}.csv")
        report = validate(file, store.name)[0]
        assert report.mistakes == []
        permuted = name == "submission_permuted"
        assert sum("scorer sorts them" in note for note in report.notes) == 2 * permuted
        for score in report.scores:
            wanted = inputs[f"evaluate/{score.metric.replace(' ', '_')}"]
            assert score.value == pytest.approx(float(wanted), abs=LIMIT)
            assert score.low < score.value < score.high
        assert [score.neurons for score in report.scores] == [30, 30, 21]
        truth = sensorium2022.read(shared(f"{PLACE}/2022/submission/expected_ground_truth_2022.csv"), "responses")
        again = sensorium2022.scores(sensorium2022.read(file), truth)
        np.testing.assert_allclose([s.value for s in again], [s.value for s in report.scores], atol=LIMIT)

    def test_each_neuron_has_the_originals_score(self, inputs: dict, store: Store) -> None:
        rec = store.recording("90011-1-1")
        truth = sensorium2022.recorded(rec, "test")
        order = np.argsort(truth.neurons)
        assert np.array_equal(truth.neurons[order], inputs["metrics/neuron_ids_sorted"])
        assert np.array_equal(np.sort(truth.trials.astype(int)), inputs["metrics/trial_idx_sorted"])
        predictions = inputs["90011-1-1/test/prediction"]
        single = official.correlation(truth.values, predictions)[order]
        assert np.abs(single - inputs["metrics/single_per_neuron"]).max() < LIMIT
        average = official.correlation_to_average(truth.values, predictions, truth.images)[order]
        assert np.abs(average - inputs["metrics/average_per_neuron"]).max() < LIMIT
        found = official.feve(truth.values, predictions, truth.images)
        kept = found.explained[order][found.kept[order]]
        assert np.abs(kept - inputs["metrics/feve_kept"]).max() < LIMIT

    def test_withheld_responses_are_scored_with_a_ground_truth_only(self, inputs: dict, store: Store) -> None:
        file = shared(f"{PLACE}/2022/submission/expected_submission_2022_90012_live_test.csv")
        report = validate(file, store.name)[0]
        assert report.scores == []
        assert "withheld: not scored" in report.notes[0]
        truth = shared(f"{PLACE}/2022/submission/ground_truth_90012_imitated.csv")
        for score in validate(file, store.name, truth)[0].scores:
            wanted = inputs[f"evaluate_90012_test/{score.metric.replace(' ', '_')}"]
            assert score.value == pytest.approx(float(wanted), abs=LIMIT)
        with pytest.raises(UserError, match="responses of tier final_test are withheld"):
            sensorium2022.recorded(store.recording("90012-2-1"), "final_test")


def dummy(expected: dict, rec: Recording, trial: int) -> TrialPrediction:
    """What the check data's dummy model says of a trial, frames 51..T: its output begins with frame 21."""
    start, length = int(expected[f"dummy/{trial}/start"]), sensorium2023.n_frames(rec, trial)
    return TrialPrediction(trial, expected["dummy/table"][start : start + length - 20][30:])


@pytest.fixture(scope="module")
def expected() -> dict[str, np.ndarray]:
    return load("2023/expected_2023.npz")


class TestVideos:
    @pytest.mark.parametrize("tier", ["live_test_main", "final_test_main", "live_test_bonus"])
    def test_tables_are_those_of_the_original(self, tier: str, expected: dict, store: Store, tmp_path: Path) -> None:
        pa = parquet.pyarrow()
        rec = store.recording("90021-1-1")
        with sensorium2023.Submission(tmp_path) as submission:
            for trial in trials_of(rec, tier):
                submission.add(tier, sensorium2023.row(rec, dummy(expected, rec, int(trial))))
        helper = f"predictions_file_{tier}_{'main' if 'main' in tier else 'ood'}_track.parquet.brotli"
        wanted = pa.parquet.read_table(shared(f"{PLACE}/2023/submission/{helper}"))
        path = tmp_path / sensorium2023.FILES[tier]
        found = pa.parquet.read_table(path)
        assert found.schema.remove_metadata().equals(wanted.schema.remove_metadata())
        assert found.equals(wanted)
        column = pa.parquet.ParquetFile(path).metadata.row_group(0).column(2)
        assert column.compression == "BROTLI"
        values = np.array(found.column("prediction")[0].as_py(), np.float32)
        assert np.array_equal(values, expected[f"submission/{helper}/prediction0"])
        for file in (path, shared(f"{PLACE}/2023/submission/{helper}")):
            report = validate(file, store.name)[0]
            assert (report.mistakes, report.about) == ([], f"tier {tier}")
            assert any("withheld: not scored" in note for note in report.notes)

    @pytest.mark.parametrize("origin", ["store", "source"])
    def test_the_score_is_that_of_the_original(self, origin: str, expected: dict, store: Store) -> None:
        place = shared(f"{PLACE}/2023") if origin == "source" else store.name
        rec = open_sessions(place, "sensorium2023").recording("90021-1-1")
        trials = trials_of(rec, "oracle")
        targets = [sensorium2023.target(rec, int(k)) for k in trials]
        assert np.abs(np.concatenate(targets).T - expected["scores/oracle_target_concat"]).max() < 2e-6
        outputs = [dummy(expected, rec, int(k)).responses for k in trials]
        assert np.array_equal(np.concatenate(outputs).T, expected["scores/oracle_output_concat"])
        sums = official.VideoCorrelation(rec.n_neurons)
        for target, output in zip(targets, outputs, strict=True):
            sums.add(target, output)
        found = sums.per_neuron()
        assert np.abs(found - expected["scores/oracle_per_neuron"]).max() < LIMIT
        assert found.mean() == pytest.approx(float(expected["scores/oracle_mean"]), abs=LIMIT)

    def test_targets_are_the_official_fields_and_withheld_ones_are_refused(self, store: Store) -> None:
        rec = store.recording("90021-1-1")
        for trial in np.flatnonzero(~rec.trials.withheld):
            want = video_trial(rec, int(trial))["responses"].T[50:]
            np.testing.assert_allclose(sensorium2023.target(rec, int(trial)), want, rtol=1e-6)
        with pytest.raises(UserError, match="responses of trial 3 are withheld"):
            sensorium2023.target(rec, 3)

    def test_without_pyarrow_it_is_one_line(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        real = builtins.__import__

        def without(name: str, *rest, **more):
            if name.startswith("pyarrow"):
                raise ImportError(name)
            return real(name, *rest, **more)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(UserError, match=r"pyarrow is not installed - pip install 'omnimouse-jax\[parquet\]'"):
            parquet.pyarrow()
        (tmp_path / "a.parquet").touch()
        with pytest.raises(UserError, match="pyarrow is not installed"):
            validate(tmp_path / "a.parquet", tmp_path)


class TestMistakes:
    """Every way in which a file can be wrong, on sessions made by hand."""

    def images(self, tmp_path: Path) -> tuple[Path, Recording, sensorium2022.Table]:
        folder = static_tree(tmp_path / "data" / STATIC)
        save(folder, "meta/trials/frame_image_id", np.array([11, 12, 13, 14, 15, 15]))
        rec = images.read_session(folder)
        values = np.random.default_rng(0).normal(size=(2, 12)).astype(np.float32)
        return folder, rec, sensorium2022.table(rec, "test", values)

    CSV: ClassVar[dict[str, Callable[[str, list[str]], str]]] = {
        "a second row for this trial": lambda text, rows: text + rows[-1] + "\n",
        "trial {last} is missing": lambda text, rows: text.replace(rows[-1] + "\n", ""),
        "is of tier train, this file is for test": lambda text, rows: text.replace(rows[1], "{train}" + rows[1][1:]),
        "the session has no such trial": lambda text, rows: text.replace(rows[1], "77" + rows[1][1:]),
        "prediction has 13 numbers for 12 neurons": lambda text, rows: text.replace(',"[', ',"[0.5, ', 1),
        "1 predictions are not finite": lambda text, rows: text.replace(rows[1].split("[")[1].split(",")[0], "nan", 1),
        "prediction is not the text of a list": lambda text, rows: text.replace('"[', '"', 1),
        "neuron_ids are not those of line": lambda text, rows: text.replace(
            rows[-1], rows[-1].rsplit('"[', 1)[0] + '"[' + rows[-1].rsplit('"[', 1)[1].replace("[", "[1, ")[:-3] + ']"'
        ),
        "columns trial, image_ids": lambda text, rows: text.replace("trial_indices", "trial"),
        "no rows": lambda text, rows: rows[0] + "\n",
    }

    @pytest.mark.parametrize("mistake", CSV)
    def test_of_2022_are_told_in_a_line_each(self, mistake: str, tmp_path: Path) -> None:
        folder, rec, table = self.images(tmp_path)
        path = tmp_path / sensorium2022.FILES["test"]
        sensorium2022.write(path, table)
        assert validate(path, folder)[0].mistakes == []
        text = path.read_text()
        rows = text.splitlines()
        changed = self.CSV[mistake](text, rows)
        path.write_text(changed.replace("{train}", str(rec.provenance["trials"]["trial_idx"][0])))
        report = validate(path, folder)[0]
        wanted = mistake.replace("{last}", str(table.trials[-1]))
        assert sum(wanted in line for line in report.mistakes) == 1, report.mistakes
        assert report.scores == []
        assert f"mistake{'s' if len(report.mistakes) > 1 else ''}" in report.lines()[0]

    def test_of_a_wrong_image_and_of_neurons(self, tmp_path: Path) -> None:
        folder, _, table = self.images(tmp_path)
        path = tmp_path / sensorium2022.FILES["test"]
        sensorium2022.write(path, table._replace(images=np.array(["15", "16"])))
        assert validate(path, folder)[0].mistakes == [f"line 3, trial {table.trials[1]}: image_ids is 16, shown was 15"]
        for neurons, told in (
            (np.append(table.neurons[:-1], table.neurons[0]), "names a neuron twice"),
            (np.append(table.neurons[:-1], 99), "lacks 1 of 12 neurons and has 1 others"),
        ):
            sensorium2022.write(path, table._replace(neurons=neurons))
            assert [told in line for line in validate(path, folder)[0].mistakes] == [True]

    def rows(self, rec: Recording) -> list[parquet.TrialRow]:
        values = np.random.default_rng(0).normal(size=(63 - 50, 12))
        return [sensorium2023.row(rec, TrialPrediction(3, values))]

    VIDEO: ClassVar[dict[str, Callable[[parquet.TrialRow], list[parquet.TrialRow]]]] = {
        "a second row for this trial": lambda row: [row, row],
        "is of tier oracle, this file is for final_test_bonus": lambda row: [row._replace(trial=2), row],
        "comes after trial 3": lambda row: [row, row._replace(trial=2)],
        "the session has 4 trials": lambda row: [row, row._replace(trial=4)],
        "has no such mouse": lambda row: [row, row._replace(mouse="dynamic1-1-1")],
        "12 neurons x 12 frames, expected 12 x 13 (frames 51 to 63)": lambda row: [
            row._replace(prediction=row.prediction[:, 1:])
        ],
        "1 predictions are not finite": lambda row: [
            row._replace(prediction=np.where(np.arange(13) + 13 * np.arange(12)[:, None] == 5, np.inf, row.prediction))
        ],
        "neuron_ids are not in the order of the data": lambda row: [row._replace(neurons=row.neurons[::-1])],
        "lacks 1 of 12 neurons and has 0 others": lambda row: [
            row._replace(neurons=row.neurons[:-1], prediction=row.prediction[:-1])
        ],
        "trial 3 is missing": lambda row: [row._replace(trial=2)],
        "not in the file, and it has 1 withheld trials": lambda row: [row._replace(mouse="dynamic1-1-1")],
    }

    @pytest.mark.parametrize("mistake", VIDEO)
    def test_of_2023_are_told_in_a_line_each(self, mistake: str, tmp_path: Path) -> None:
        folder = video_tree(tmp_path / "data" / DYNAMIC)
        (right,) = self.rows(videos.read_session(folder))
        assert self.found([right], folder, tmp_path) == []
        mistakes = self.found(self.VIDEO[mistake](right), folder, tmp_path)
        assert sum(mistake in line for line in mistakes) == 1, mistakes

    def found(self, rows: list[parquet.TrialRow], folder: Path, out: Path) -> list[str]:
        with sensorium2023.Submission(out) as submission:
            for row in rows:
                submission.add("final_test_bonus", row)
        (report,) = validate(out / sensorium2023.FILES["final_test_bonus"], folder)
        return report.mistakes

    def test_of_a_zip_and_of_columns(self, tmp_path: Path) -> None:
        pa = parquet.pyarrow()
        folder = video_tree(tmp_path / "data" / DYNAMIC)
        rec = videos.read_session(folder)
        with sensorium2023.Submission(tmp_path / "out") as submission:
            submission.add("final_test_bonus", self.rows(rec)[0])
        assert list(submission.zips()) == ["submission_bonus_final.zip"]
        reports = validate(tmp_path / "out/submission_bonus_final.zip", folder)
        assert [report.mistakes for report in reports] == [[], []]
        table = tmp_path / "out" / sensorium2023.FILES["final_test_bonus"]
        other = table.with_name("predictions_live_main.parquet.brotli")
        shutil.copy(table, other)
        parquet.pack(tmp_path / "both.zip", [table, other])
        reports = validate(tmp_path / "both.zip", folder)
        assert "not one of" in reports[0].mistakes[0]
        assert any("this file is for live_test_main" in line for line in reports[2].mistakes)
        found = pa.parquet.read_table(table)
        for changed, told in (
            (found.drop_columns("mouse"), "columns trial_indices"),
            (found.set_column(1, "trial_indices", pa.array(["3"])), "column trial_indices is string"),
        ):
            pa.parquet.write_table(changed, table, compression="brotli")
            assert told in validate(table, folder)[0].mistakes[0]
        for name, told in (("a.parquet", "cannot be read as parquet"), ("a.zip", "cannot be read as a zip")):
            (tmp_path / name).write_text("-")
            assert told in validate(tmp_path / name, folder)[0].mistakes[0]

    def test_ragged_predictions(self, tmp_path: Path) -> None:
        pa = parquet.pyarrow()
        folder = video_tree(tmp_path / "data" / DYNAMIC)
        row = self.rows(videos.read_session(folder))[0]
        lists = [row.prediction.tolist()]
        lists[0][4] = lists[0][4][:-1]
        columns = [[row.mouse], [row.trial], lists, [row.neurons.tolist()]]
        made = pa.table(dict(zip(parquet.COLUMNS, columns, strict=True)), schema=parquet.schema())
        path = tmp_path / sensorium2023.FILES["final_test_bonus"]
        pa.parquet.write_table(made, path, compression="brotli")
        (mistake,) = validate(path, folder)[0].mistakes
        assert mistake.endswith("neurons have different numbers of frames")

    def test_what_is_not_there(self, tmp_path: Path) -> None:
        folder, _, table = self.images(tmp_path)
        with pytest.raises(UserError, match=r"gone.csv: not there"):
            validate(tmp_path / "gone.csv", folder)
        path = tmp_path / "mine.csv"
        sensorium2022.write(path, table._replace(trials=np.array(["a", "b"])))
        assert "no session of" in validate(path, folder)[0].mistakes[0]
        with pytest.raises(UserError, match="nowhere: not there"):
            open_sessions(tmp_path / "nowhere", "sensorium2022")


SCREEN = {"model__screen": (36, 64), "model__hiera_padding": (1, 3)}


@pytest.fixture(scope="module")
def run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Parameters as they were drawn, with readouts as large as those of a trained model: what is checked does not care."""
    config = micro(store.name, seed=3, evaluation__batch_size=4, **SCREEN)
    parts = prepare(config)
    state = init_state(parts.model, parts.capacity, 0, parts.mesh, parts.trained)
    core = {**state.params["core"]}
    core["response_out"] = jax.tree.map(lambda x: 30 * x, core["response_out"])
    path = tmp_path_factory.mktemp("benchmark") / "run"
    saved = Checkpoints(path)
    meta = {"config": json.loads(config.to_json()), "vocabulary": parts.vocabulary.to_json()}
    saved.save(state._replace(params={**state.params, "core": core}, step=jax.numpy.int32(7)), meta, None)
    saved.close()
    return Run(path)


class TestRun:
    def test_images_from_the_run_to_right_files(self, run: Run, store: Store, tmp_path: Path) -> None:
        said: list[str] = []
        data = open_sessions(store.name, "sensorium2022")
        wanted = runs.Wanted(tmp_path, files="all", say=said.append)
        scored = runs.images(run, data, ["sensorium", "sensorium+"], wanted)
        files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.csv"))
        assert files == [
            "sensorium/90011-1-1/submission_file_live_test.csv",
            "sensorium/90012-2-1/submission_file_final_test.csv",
            "sensorium/90012-2-1/submission_file_live_test.csv",
            "sensorium_plus/90011-1-1/submission_file_live_test.csv",
        ]
        for file in files:
            (report,) = validate(tmp_path / file, store.name)
            assert report.mistakes == []
            track = "sensorium+" if "plus" in file else "sensorium"
            ours = [s for s in scored if (s.told["track"], s.told["tier"]) == (track, "test")]
            if "90011" in file:
                np.testing.assert_allclose([s.value for s in report.scores], [s.value for s in ours], rtol=1e-9)
        assert {s.told["session"] for s in scored} == {"90011-1-1"}
        assert any("90012-2-1: behaviour is zero throughout, not in track sensorium+" in line for line in said)
        assert any("90012-2-1, tier final_test: responses are withheld, not scored" in line for line in said)
        kept = json.loads((tmp_path / "scores.json").read_text())
        assert (kept["checkpoint"], len(kept["scores"]), len(kept["written"])) == (7, len(scored), 4)
        assert kept["scores"][2]["value"] is None  # FEVE of validation, where no image is repeated
        with pytest.raises(UserError, match=r"90012-2-1: its behaviour is zero throughout"):
            runs.images(run, data, ["sensorium+"], wanted._replace(sessions=("90012-2-1",)))

    def test_an_image_is_the_mean_of_its_windows_samples(self, run: Run, store: Store) -> None:
        rec = store.recording("90011-1-1")
        asked = Asked(run, True)
        found = sensorium2022.predicted(asked, rec, "test")
        for k, trial in enumerate(trials_of(rec, "test")):
            start = float(rec.trials.start[trial])
            window = run.predict("90011-1-1", "stimulus", start=start + 1.0, seconds=0.5)
            assert window.time.shape == (15,)
            want = window.responses.mean(axis=0) * response_precision(rec)
            np.testing.assert_allclose(found.values[k], want, rtol=2e-5, atol=1e-6)
        spread = found.values.std(axis=0)
        assert np.median(spread) > 0

    @pytest.mark.slow
    def test_behaviour_is_shown_in_one_track_only(self, run: Run, store: Store) -> None:
        rec = store.recording("90011-1-1")
        stream = rec.behavior["behavior"]
        other = dataclasses.replace(
            rec, behavior={**rec.behavior, "behavior": dataclasses.replace(stream, values=stream.values[:] * 3 + 1)}
        )
        for behavior in (False, True):
            a, b = (sensorium2022.predicted(Asked(run, behavior), one, "test").values for one in (rec, other))
            assert np.array_equal(a, b) != behavior

    def test_videos_from_the_run_to_right_files(self, run: Run, store: Store, tmp_path: Path) -> None:
        said: list[str] = []
        wanted = runs.Wanted(tmp_path, say=said.append)
        scored = runs.videos(run, open_sessions(store.name, "sensorium2023"), True, wanted)
        assert [s.told["tier"] for s in scored] == ["oracle", "oracle"]
        assert scored[0].value == scored[1].value  # one mouse is all mice
        names = sorted(path.name for path in tmp_path.iterdir())
        assert names == sorted(
            [
                "predictions_final_main.parquet.brotli",
                "predictions_live_main.parquet.brotli",
                "predictions_live_test_bonus_ood.parquet.brotli",
                "scores.json",
                "submission_bonus_live.zip",
                "submission_main.zip",
            ]
        )
        for name in names:
            if name != "scores.json":
                for report in validate(tmp_path / name, store.name):
                    assert report.mistakes == []
        assert sum("responses are withheld, not scored" in line for line in said) == 3

    def test_frames_are_those_of_the_trial(self, run: Run, store: Store) -> None:
        rec = store.recording("90021-1-1")
        for found in predicted_trials(Asked(run, True), rec, "oracle"):
            length = sensorium2023.n_frames(rec, found.trial)
            assert len(found.responses) == length
            assert np.isnan(found.responses[:30]).all()
            start = float(rec.trials.start[found.trial])
            part = run.predict("90021-1-1", "stimulus", start=start + 1.0, seconds=0.5)
            np.testing.assert_allclose(found.responses[30:45], part.responses, rtol=2e-5, atol=1e-6)
        made = {p.trial: p.responses for p in sensorium2023.predicted(Asked(run, True), rec, "live_test_main")}
        raw = next(predicted_trials(Asked(run, True), rec, "live_test_main"))
        want = raw.responses[50:] * response_precision(rec)[:, 50 : len(raw.responses)].T
        np.testing.assert_allclose(made[3], want, rtol=1e-6)

    def test_a_run_that_was_trained_on_others_is_refused(self, run: Run, store: Store, tmp_path: Path) -> None:
        data = open_sessions(static_tree(tmp_path / STATIC), "sensorium2022")
        with pytest.raises(UserError, match="knows no session of"):
            runs.images(run, data, ["sensorium"], runs.Wanted(tmp_path))
        with pytest.raises(UserError, match=r"session 7-1-2: run .* was not trained on it"):
            runs.images(run, data, ["sensorium"], runs.Wanted(tmp_path, sessions=("7-1-2",)))
        with pytest.raises(UserError, match="session 90011-1-1: not in"):
            runs.images(run, data, ["sensorium"], runs.Wanted(tmp_path, sessions=("90011-1-1",)))


@pytest.mark.slow  # compiles the programs of a training run
def test_from_the_downloads_to_the_submissions_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    place = str(tmp_path / "store")
    for year in ("2022", "2023"):
        assert cli.main(["ingest", f"sensorium{year}", str(shared(f"{PLACE}/{year}")), "--store", place]) == 0
    train(micro(place, train__steps=2, evaluation__tiers=("validation", "oracle"), **SCREEN), tmp_path / "run")
    for year, files in (("2022", 3), ("2023", 5)):
        out = tmp_path / year
        assert (
            cli.main(["benchmark", f"sensorium{year}", str(tmp_path / "run"), "--data", place, "--out", str(out)]) == 0
        )
        made = [str(p) for p in out.rglob("*") if p.is_file() and p.name != "scores.json"]
        assert len(made) == files - (year == "2022")
        assert cli.main(["benchmark", "validate", *made, "--data", place]) == 0
    assert "withheld" in capsys.readouterr().out
    csv = next((tmp_path / "2022").rglob("*.csv"))
    csv.write_text(csv.read_text().replace("image_ids", "images"))
    assert cli.main(["benchmark", "validate", str(csv), "--data", place]) == 1
