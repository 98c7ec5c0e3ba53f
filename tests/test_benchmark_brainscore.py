"""The bridge to Brain-Score: what a run and a recording hand over, and what the other environment makes of it.

Tests of the other environment run it by subprocess (.venv-brainscore, made by tests/install.sh) and skip where it is absent.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks import assembly, brainscore
from omnimouse_jax.evaluate.benchmarks.assembly import Assembly, regions_of
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.recordings.ingest.sensorium import images
from omnimouse_jax.recordings.sampling import read_responses
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import init_state
from tests.micro import micro
from tests.shared import shared

ROOT = Path(__file__).resolve().parents[1]
BRIDGE = ROOT / brainscore.PACKAGE
OTHER = Path(os.environ.get("OMNIMOUSE_BRAINSCORE", ROOT / brainscore.ENVIRONMENT))
KEY, PIECE = "m001-1", 0.2

sys.path.insert(0, str(BRIDGE))


@pytest.fixture(scope="module")
def other() -> Path:
    if not OTHER.exists():
        pytest.skip(f"Brain-Score's environment is not there ({OTHER}): bash tests/install.sh")
    return OTHER


@pytest.fixture(scope="module")
def rec(colony: str) -> Recording:
    return Store.open(colony).recording(KEY)


@pytest.fixture(scope="module")
def run(colony: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Parameters as they were drawn: how predictions are handed over does not depend on them."""
    config = micro(colony, seed=3, evaluation__batch_size=4)
    parts = prepare(config)
    state = init_state(parts.model, parts.capacity, 0, parts.mesh, parts.trained)
    path = tmp_path_factory.mktemp("brainscore") / "run"
    saved = Checkpoints(path)
    saved.save(state, {"config": json.loads(config.to_json()), "vocabulary": parts.vocabulary.to_json()}, None)
    saved.close()
    return Run(path)


def of_file(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with np.load(path, allow_pickle=False) as found:
        arrays = {name: found[name] for name in found.files}
    return arrays, json.loads(str(arrays.pop("meta")))


class TestTarget:
    def test_a_presentation_is_the_mean_of_its_samples(self, rec: Recording, tmp_path: Path) -> None:
        brainscore.recordings(rec, "test", PIECE).write(tmp_path / "mouse.npz")
        arrays, meta = of_file(tmp_path / "mouse.npz")
        trials = np.flatnonzero(rec.trials.tier == "test")
        clips = rec.trials.stimulus[trials]
        names, shown = np.unique(clips, return_counts=True)
        per_trial = round((5.0 - brainscore.SKIPPED_S) / PIECE)
        assert arrays["values"].shape == (len(names) * shown.min() * per_trial, rec.n_neurons, 1)
        row = 0
        for trial in trials:
            for number in range(per_trial):
                onset = brainscore.SKIPPED_S + number * PIECE
                assert arrays["presentation.stimulus_id"][row] == f"{rec.trials.stimulus[trial]}@{onset:.3f}"
                times = rec.trials.start[trial] + onset + np.arange(round(30 * PIECE)) / 30
                want = read_responses(rec, times).mean(axis=0)
                np.testing.assert_allclose(arrays["values"][row, :, 0], want, rtol=1e-5, atol=1e-6)
                row += 1
        ids, counts = np.unique(arrays["presentation.stimulus_id"], return_counts=True)
        assert set(counts) == {shown.min()}
        for stimulus in ids[:3]:
            mine = arrays["presentation.repetition"][arrays["presentation.stimulus_id"] == stimulus]
            assert mine.tolist() == list(range(shown.min()))
        assert (arrays["time_bin.start_ms"].tolist(), arrays["time_bin.end_ms"].tolist()) == ([0], [200])
        assert (meta["kind"], meta["species"], meta["session"]) == ("recording", "mouse", KEY)

    def test_without_repeats_or_responses_it_is_refused(self, rec: Recording) -> None:
        with pytest.raises(UserError, match="10 of 10 stimuli of tier train were shown once - a ceiling needs repeats"):
            brainscore.recordings(rec, "train", 4.0)
        with pytest.raises(UserError, match="no image or video of tier final_test - it has"):
            brainscore.recordings(rec, "final_test")
        with pytest.raises(UserError, match="not a number of samples"):
            brainscore.recordings(rec, "test", 0.13)
        with pytest.raises(UserError, match="long enough"):
            brainscore.recordings(rec, "test", 5.0)
        values = np.full(rec.responses.values.shape, np.nan, np.float32)
        silent = dataclasses.replace(rec, responses=dataclasses.replace(rec.responses, values=values))
        with pytest.raises(UserError, match="no response of tier test was recorded"):
            brainscore.recordings(silent, "test")

    def test_an_image_of_sensorium_has_its_one_response(self) -> None:
        name = "static90011-1-1-GrayImageNet-94c6ff995dac583098847cfecd43e7b6"
        folder = shared(f"recordings/sensorium/2022/{name}")
        rec = images.read_session(folder)
        found = brainscore.recordings(rec, "test")
        assert found.bins_ms.tolist() == [[50, 550]]
        for row, trial in enumerate(np.flatnonzero(rec.trials.tier == "test")):
            raw = np.load(folder / f"data/responses/{trial}.npy")
            np.testing.assert_allclose(found.values[row, :, 0], raw, rtol=1e-6)
        assert np.unique(found.presentation["stimulus_id"], return_counts=True)[1].tolist() == [4, 4, 4]

    def test_mouse_areas_never_have_names_of_the_macaques(self) -> None:
        named = regions_of(np.array([*assembly.REGIONS, "", "VISpm", "RSP"]), len(assembly.REGIONS) + 3)
        assert not set(named.tolist()) & set(assembly.MACAQUE)
        assert named.tolist()[:2] == ["VISp", "VISl"]
        assert named.tolist()[-3:] == ["VIS", "VISpm", "RSP"]
        assert regions_of(None, 2).tolist() == ["VIS", "VIS"]
        with pytest.raises(UserError, match="area V4: to Brain-Score this is an area of the macaque"):
            regions_of(np.array(["V1", "V4"]), 2)


class TestPredictions:
    def test_of_a_tier(self, run: Run, rec: Recording, tmp_path: Path) -> None:
        found = brainscore.predictions(run, KEY, "test", PIECE, bins=2)
        target = brainscore.recordings(rec, "test", PIECE)
        assert set(found.presentation["stimulus_id"]) == set(target.presentation["stimulus_id"])
        assert len(set(found.presentation["stimulus_id"])) == len(found.values)
        assert found.meta["stimulus_set"] == target.meta["stimulus_set"]
        assert found.meta["layers"] == {"VISp": "readout"}
        assert found.bins_ms.tolist() == [[0, 100], [100, 200]]
        assert np.array_equal(found.neuroid["neuroid_id"], target.neuroid["neuroid_id"])
        regime = "video -> responses[:, 30:60]"
        assert found.meta["regime"] == regime
        predicted = run.predict(KEY, regime, tiers=("test",))
        trials = np.flatnonzero(rec.trials.tier == "test")
        for row in (0, 7, 33):
            clip, onset = found.presentation["clip"][row], found.presentation["onset_ms"][row] / 1000
            repeats = []
            for trial in trials[rec.trials.stimulus[trials] == clip]:
                at = np.searchsorted(predicted.time, rec.trials.start[trial] + onset - 1e-3)
                halves = predicted.responses[at : at + 3], predicted.responses[at + 3 : at + 6]
                repeats.append(np.stack([half.mean(axis=0) for half in halves], axis=1))
            assert len(repeats) == 3
            np.testing.assert_allclose(found.values[row], np.mean(repeats, axis=0), rtol=1e-5, atol=1e-6)
        lines = found.seen_as(70).write(tmp_path / "run.npz")
        assert "VISp 16" in lines[-1]
        assert of_file(tmp_path / "run.npz")[1]["visual_degrees"] == 70
        with pytest.raises(UserError, match=r"written as \.npz"):
            found.write(tmp_path / "run.nc")
        with pytest.raises(UserError, match="4 time bins of 6 samples"):
            brainscore.predictions(run, KEY, "test", PIECE, bins=4)

    @pytest.mark.slow
    def test_of_a_folder_of_images(self, run: Run, tmp_path: Path) -> None:
        folder = tmp_path / "images"
        folder.mkdir()
        rng = np.random.default_rng(0)
        shown = rng.integers(0, 256, (3, 16, 32)).astype(np.float32)
        for number, image in enumerate(shown):
            np.save(folder / f"image{number}.npy", image)
        found = brainscore.predictions(run, KEY, str(folder), 0.5)
        assert found.presentation["stimulus_id"].tolist() == ["image0", "image1", "image2"]
        assert found.values.shape == (3, 16, 1)
        grey = np.full((30, 16, 32), 127.5, np.float32)
        film = np.concatenate([part for image in shown for part in (grey, np.tile(image, (15, 1, 1)))])
        predicted = run.predict(run.imagine(KEY, film), "video -> responses[:, 30:60]")
        for number in range(3):
            rows = np.searchsorted(predicted.time, number * 1.5 + 1.0 - 1e-6) + np.arange(15)
            np.testing.assert_allclose(
                found.values[number, :, 0], predicted.responses[rows].mean(axis=0), rtol=1e-5, atol=1e-6
            )
        np.save(folder / "image3.npy", shown[0, :5])
        with pytest.raises(UserError, match=r"image3.npy: shape \(5, 32\)"):
            brainscore.predictions(run, KEY, str(folder))
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="no images"):
            brainscore.predictions(run, KEY, str(tmp_path / "empty"))


# --- the other environment ----------------------------------------------------------------------------------------


def planted(
    folder: Path, n_stimuli: int = 60, repeats: int = 4, noise: float = 1.0
) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """A mouse of 20 neurons in VISp and 5 in VISl, and a model whose 12 neurons of each see the same 6 features, noisily."""
    rng = np.random.default_rng([4, 5])
    ids = np.array([f"clip@{k:05.1f}" for k in rng.permutation(n_stimuli)])
    features = rng.normal(size=(n_stimuli, 6))
    truth = features @ rng.normal(size=(6, 25))
    responses = truth[None] + noise * rng.normal(size=(repeats, n_stimuli, 25)) * np.linspace(0.5, 4, 25)
    model = features @ rng.normal(size=(6, 24)) + 0.5 * rng.normal(size=(n_stimuli, 24))
    meta = {"format": assembly.FORMAT, "session": "mouse", "visual_degrees": 120, "stimulus_set": "planted"}
    presentation = {"stimulus_id": ids, "clip": np.full(n_stimuli, "clip"), "onset_ms": np.arange(n_stimuli)}
    columns = {name: np.tile(column, repeats) for name, column in presentation.items()}
    columns["repetition"] = np.repeat(np.arange(repeats), n_stimuli)
    areas = np.array(["VISp"] * 20 + ["VISl"] * 5)
    neuroid = {"neuroid_id": np.array([f"mouse.{k}" for k in range(25)]), "region": areas}
    target = Assembly(
        responses.reshape(-1, 25, 1),
        columns,
        neuroid,
        np.array([[0, 500]]),
        {**meta, "kind": "recording", "identifier": "planted"},
    )
    target.write(folder / "mouse.npz")
    halves = np.stack([model - 0.25, model + 0.25], axis=2)  # two bins, of which the mean is the model's
    of_model = np.repeat(["VISp", "VISl"], 12)
    neuroid = {
        "neuroid_id": np.array([f"model.{k}" for k in range(24)]),
        "region": of_model,
        "layer": np.full(24, "readout"),
    }
    meta |= {"kind": "prediction", "identifier": "planted-model", "layers": {"VISp": "readout", "VISl": "readout"}}
    made = Assembly(
        halves,
        {**presentation, "repetition": np.zeros(n_stimuli, int)},
        neuroid,
        np.array([[0, 250], [250, 500]]),
        meta,
    )
    made.write(folder / "run.npz")
    order = np.argsort(ids)  # Brain-Score averages repetitions by stimulus, in their order
    return (
        folder / "run.npz",
        folder / "mouse.npz",
        {
            "responses": np.float32(responses)[:, order][..., areas == "VISp"].astype(np.float64),
            "model": np.float32(halves).astype(np.float64).mean(axis=2)[order][:, of_model == "VISp"],
        },
    )


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def splits(n: int, n_train: int, times: int = 10) -> list[tuple[np.ndarray, np.ndarray]]:
    """Those of scikit-learn's ShuffleSplit at random_state 1, which Brain-Score uses."""
    rng = np.random.RandomState(1)
    drawn = [rng.permutation(n) for _ in range(times)]
    return [(order[n - n_train :], order[: n - n_train]) for order in drawn]


def ridge_raw(model: np.ndarray, target: np.ndarray, alpha: float = 1.0) -> float:
    """Median over neurons of Pearson's r of a ridge regression on held-out stimuli, mean over splits; numpy only."""
    scores = []
    for train, test in splits(len(model), int(0.9 * len(model))):
        mean_x, mean_y = model[train].mean(axis=0), target[train].mean(axis=0)
        x, y = model[train] - mean_x, target[train] - mean_y
        weights = np.linalg.solve(x.T @ x + alpha * np.eye(x.shape[1]), x.T @ y)
        scores.append(np.median(pearson((model[test] - mean_x) @ weights + mean_y, target[test])))
    return float(np.mean(scores))


def internal_consistency(responses: np.ndarray) -> float:
    """Spearman-Brown corrected reliability of random halves of the repetitions, median over neurons, mean over splits."""
    repeats = len(responses)
    found = []
    for one, other in splits(repeats, repeats // 2):
        r = pearson(responses[one].mean(axis=0), responses[other].mean(axis=0))
        found.append(np.median(2 * r / (1 + r)))
    return float(np.mean(found))


INTERFACE = """
import json, sys
from pathlib import Path
import numpy as np
from omnimouse_brainscore.files import Refused, read, stimulus_set
from omnimouse_brainscore.model import Mouse
from omnimouse_brainscore.benchmark import mouse_benchmark
from brainscore_vision.model_interface import BrainModel

predictions, recording = read(Path(sys.argv[1]), "prediction"), read(Path(sys.argv[2]), "recording")
model, stimuli = Mouse(predictions), stimulus_set(recording)
told = {"identifier": model.identifier, "degrees": model.visual_degrees(), "is": isinstance(model, BrainModel)}

def refused(act):
    try:
        act()
    except Refused as error:
        return str(error)
    return None

told["macaque"] = [refused(lambda: model.start_recording(region, [(0, 500)])) for region in ("V1", "V2", "V4", "IT")]
told["benchmark"] = refused(lambda: mouse_benchmark(recording, "V1"))
told["commit"] = refused(lambda: Mouse(predictions, {"IT": "readout"}))
told["layer"] = refused(lambda: Mouse(predictions, {"VISp": "conv1"}))
told["unknown"] = refused(lambda: model.start_recording("VISrl", [(0, 500)]))
told["task"] = refused(lambda: model.start_task(BrainModel.Task.label, "imagenet"))
told["kind"] = refused(lambda: read(Path(sys.argv[2]), "prediction"))
model.start_task(BrainModel.Task.passive)
told["passive"] = model.look_at(stimuli) is None
zero_d = np.empty((), object)
zero_d[()] = (0, 500)
sums = []
for bins in ([(0, 500)], [zero_d], [(0, 250), (250, 500)], [(125, 250)], [(125, 375)]):
    model.start_recording("VISp", bins)
    seen = model.look_at(stimuli, number_of_trials=3)
    sums.append([seen.sizes["time_bin"], float(seen.values.mean())])
told["sums"], told["dims"] = sums, list(seen.dims)
told["coords"] = sorted(name for name in ("stimulus_id", "neuroid_id", "region", "layer", "time_bin_start", "time_bin_end")
                        if hasattr(seen, name))
told["order"] = seen["stimulus_id"].values.tolist() == stimuli["stimulus_id"].values.tolist()
told["regions"] = sorted(set(seen["region"].values.tolist()))
told["late"] = refused(lambda: (model.start_recording("VISp", [(600, 700)]), model.look_at(stimuli)))
more = stimuli.copy()
more.loc[0, "stimulus_id"] = "another"
told["missing"] = refused(lambda: (model.start_recording("VISp", [(0, 500)]), model.look_at(more)))
told["modules"] = sorted({"torch", "cv2", "omnimouse_jax", "jax"} & set(sys.modules))
print(json.dumps(told))
"""


def elsewhere(other: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(BRIDGE)}
    return subprocess.run(
        [str(other), "-W", "ignore", *arguments], capture_output=True, text=True, env=environment, timeout=300
    )


def test_the_model_keeps_the_interface_and_is_no_macaque(other: Path, tmp_path: Path) -> None:
    run, mouse, known = planted(tmp_path)
    done = elsewhere(other, "-c", INTERFACE, str(run), str(mouse))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert (told["identifier"], told["degrees"], told["is"]) == ("planted-model", 120, True)
    for region, refusal in zip(("V1", "V2", "V4", "IT"), told["macaque"], strict=True):
        assert (
            refusal == f"region {region} is an area of the macaque; this model is of a mouse - ask for VISp, VISl, ..."
        )
    assert "macaque" in told["benchmark"]
    assert "macaque" in told["commit"]
    assert told["layer"].startswith("region VISp: no layer conv1")
    assert told["unknown"] == "region VISrl: planted-model has VISl, VISp"
    assert "no behaviour" in told["task"]
    assert "holds a recording, not a prediction" in told["kind"]
    assert told["passive"]
    mean = float(known["model"].mean())
    expected = [(1, mean), (1, mean), (2, mean), (1, mean - 0.25), (1, mean)]
    for (bins, value), (n, want) in zip(told["sums"], expected, strict=True):
        assert bins == n
        assert value == pytest.approx(want, abs=1e-6)
    assert told["dims"] == ["presentation", "neuroid", "time_bin"]
    assert len(told["coords"]) == 6
    assert told["order"]
    assert told["regions"] == ["VISp"]
    assert told["late"] == "time bin 600 to 700 ms: planted-model predicts 0 to 500 ms"
    assert told["missing"].startswith("1 of 60 stimuli were not predicted (another, ...)")
    assert told["modules"] == []


def test_the_score_is_that_of_an_independent_computation(
    other: Path, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    run, mouse, known = planted(tmp_path)
    arguments = ["benchmark", "brainscore", "score", str(run), str(mouse), "--region", "VISp", "--python", str(other)]
    assert cli.main([*arguments, "--out", str(tmp_path / "score.json")]) == 0
    found = json.loads((tmp_path / "score.json").read_text())
    raw = ridge_raw(known["model"], known["responses"].mean(axis=0))
    ceiling = internal_consistency(known["responses"])
    assert found["raw"] == pytest.approx(raw, abs=1e-9)
    assert found["ceiling"] == pytest.approx(ceiling, abs=1e-9)
    assert found["score"] == pytest.approx(raw**2 / ceiling, abs=1e-9)
    assert 0.3 < found["score"] < 1.2
    assert (found["benchmark"], found["stimuli"], found["neurons"]) == ("planted.VISp-ridge", 60, 20)
    assert json.loads(capfd.readouterr().out)["score"] == found["score"]


@pytest.mark.slow  # a model is compiled, and the other environment is started three times
def test_from_a_run_to_a_score(
    other: Path, run: Run, colony: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    ours = [str(tmp_path / name) for name in ("run.npz", "mouse.npz")]
    rest = ["--session", KEY, "--stimuli", "test", "--piece", str(PIECE)]
    start = ["benchmark", "brainscore"]
    assert cli.main([*start, "export", str(run.folder), *rest, "--out", ours[0]]) == 0
    assert cli.main([*start, "target", colony, *rest, "--out", ours[1]]) == 0
    score = [*start, "score", *ours, "--region", "VISp", "--python", str(other)]
    assert cli.main([*score, "--out", str(tmp_path / "ridge.json")]) == 0
    assert cli.main([*score, "--metric", "pls"]) == 2
    assert "metric pls has 25 components, of 16 neurons" in capfd.readouterr().err
    found = json.loads((tmp_path / "ridge.json").read_text())
    (arrays, _), (recorded, _) = of_file(Path(ours[0])), of_file(Path(ours[1]))
    order = np.argsort(arrays["presentation.stimulus_id"])
    by_repeat = np.argsort(recorded["presentation.stimulus_id"], kind="stable").reshape(len(order), -1)
    responses = recorded["values"].astype(np.float64)[by_repeat.T, :, 0]
    raw = ridge_raw(arrays["values"].astype(np.float64)[order, :, 0], responses.mean(axis=0))
    assert found["raw"] == pytest.approx(raw, abs=1e-6)
    assert found["ceiling"] == pytest.approx(internal_consistency(responses), abs=1e-6)
    capfd.readouterr()
    assert cli.main([*start, "score", *ours, "--region", "V1", "--python", str(other)]) == 2
    assert "area of the macaque" in capfd.readouterr().err


def test_without_the_other_environment_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"Brain-Score's environment is not there .* - `bash tests/install.sh` makes it"
    ):
        brainscore.score_elsewhere(tmp_path / "a.npz", tmp_path / "b.npz", "VISp", python=str(tmp_path / "python"))


class TestTree:
    """The rule needs no Brain-Score; the numbers are those of a published page (squeezenet1_1)."""

    def test_a_node_is_the_mean_of_all_that_was_declared(self) -> None:
        from omnimouse_brainscore.tree import lines, tree

        # IT .250 = 1.752 / 7: seven benchmarks are declared, five rows are shown, of which one is an X.
        shown = {"a": 0.438, "b": 0.438, "c": 0.438, "d": 0.438, "e": None}
        found = tree("IT", list("abcdefg"), shown)
        assert sum(score for score in shown.values() if score) == pytest.approx(1.752)
        assert round(found["score"], 3) == 0.250
        assert round(1.752 / 5, 3) == 0.350  # the mean of what is shown, which it is not
        assert [child["state"] for child in found["children"][3:6]] == [
            "scored",
            "failed, counts as 0",
            "missing, counts as 0",
        ]
        text = "\n".join(lines(found))
        assert "X    " in text
        assert text.count("counts as 0") == 3

    def test_nodes_are_unweighted(self) -> None:
        from omnimouse_brainscore.tree import tree

        scores = {"neural": 0.218, "behavior": 0.047}
        found = tree("average_vision", {"neural": ["neural"], "behavior": ["behavior"]}, scores)
        assert found["score"] == pytest.approx((0.218 + 0.047) / 2)
        deep = tree("all", {"one": ["x"], "many": ["y1", "y2", "y3", "y4"]}, {"x": 0.8, "y1": 0.4})
        assert deep["score"] == pytest.approx((0.8 + 0.1) / 2)
        with pytest.raises(ValueError, match="no children declared"):
            tree("none", {}, {})
