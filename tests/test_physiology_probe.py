"""The whole probe on a tiny run: files, what they say of where they come from, and going on where it was stopped."""

from __future__ import annotations

import argparse
import json
import struct

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import open_run
from omnimouse_jax.pages import picture
from omnimouse_jax.probe.physiology import measure, pictures
from omnimouse_jax.probe.physiology.natural import repeated
from omnimouse_jax.probe.physiology.report import physiology
from omnimouse_jax.probe.physiology.subject import model_subject
from omnimouse_jax.probe.predictor import Predictor
from omnimouse_jax.probe.settings import checkpoint_hash
from omnimouse_jax.training.train import train
from omnimouse_jax.verbs import probe_physiology
from tests.micro import micro


@pytest.fixture(scope="module")
def run(colony, tmp_path_factory):
    folder = tmp_path_factory.mktemp("physiology") / "run"
    train(micro(colony), folder)
    return folder


@pytest.fixture(scope="module")
def probed(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("physiology_out")
    found, paths = physiology(run, out, smoke=True, neurons=1, film=False)
    return out, found, paths


@pytest.mark.slow
def test_files_say_what_they_are_and_where_they_come_from(run, probed):
    _, _, paths = probed
    assert [path.name for path in paths] == ["physiology.json", "physiology.npz", "index.html"]
    told = json.loads(paths[0].read_text())
    assert told["provenance"]["checkpoint_hash"] == checkpoint_hash(open_run(run))
    assert told["provenance"]["settings"]["protocol"]["n_directions"] == 8
    assert told["provenance"]["settings"]["seed"] == 0
    assert told["n_neurons"] == len(told["neurons"]["model"]["tuned"])
    assert {"model", "planted law"} == set(told["planted"])
    orientation = told["planted"]["planted law"][0]
    assert orientation["quantity"] == "orientation"
    assert orientation["value"] < 15 < orientation["chance"]
    gains = [row for row in told["planted"]["planted law"] if row["quantity"] == "gain_running"]
    assert gains[0]["value"] > 0.95
    with np.load(paths[1]) as arrays:
        assert arrays["model/rf_map"].shape[1:] == (16, 32)
        stimulus = arrays["most_exciting_image/stimuli"]
    assert stimulus.min() >= 0
    assert stimulus.max() <= 1
    rms = np.sqrt(((stimulus - told["geometry"]["grey"]) ** 2).mean())
    assert rms <= told["bound"] * (1 + 1e-4)
    page = paths[2].read_text()
    for part in ("planted", "curves", "distributions", "fields", "exciting", "spectrum"):
        assert f'id="{part}"' in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org/2000/svg", "")
    assert told["provenance"]["checkpoint_hash"] in page
    assert "A smoke run" in page


@pytest.mark.slow
def test_a_stopped_probe_goes_on_and_comes_out_the_same(run, probed, tmp_path, monkeypatch):
    out, _, paths = probed
    before = json.loads(paths[0].read_text())
    removed = [path for path in (out / "stages").iterdir() if path.name.startswith(("model_gain", "spectrum"))]
    assert len(removed) == 2
    for path in removed:
        path.unlink()
    monkeypatch.setattr(measure, "examine", lambda *_: pytest.fail("gratings were shown again"))
    physiology(run, out, smoke=True, neurons=1, film=False)
    assert json.loads(paths[0].read_text()) == before


def test_repeats_are_of_one_stimulus(run):
    opened = open_run(run)
    predictor = Predictor.of(opened, opened.sessions[0])
    groups = repeated(predictor)
    assert groups
    for group in groups[:3]:
        assert len(group) >= 2
        video = predictor.load(group).video
        np.testing.assert_allclose(video[0], video[1], atol=1e-6)


def test_the_untrained_run_is_another_one_and_leaves_the_run_alone(run):
    opened = open_run(run)
    before = checkpoint_hash(opened)
    fresh = opened.untrained(3)
    assert checkpoint_hash(fresh) != before
    assert checkpoint_hash(fresh) == checkpoint_hash(opened.untrained(3))
    assert checkpoint_hash(opened) == before


def test_levels_of_behaviour_reach_the_model(run):
    opened = open_run(run)
    recording = opened.recording(opened.sessions[0])
    subject = model_subject(Predictor.of(opened, opened.sessions[0], "video + behavior -> responses"))
    row = opened.model.behavior_channels.index("running")
    mean, scale = recording.behavior_mean["running"], recording.behavior_scale["running"]
    context = subject.context(2, {"running": mean + 2 * scale})
    assert context.batch.behavior.shape[0] == 2
    np.testing.assert_allclose(context.batch.behavior[:, row], 2.0, rtol=1e-5)
    assert (np.delete(context.batch.behavior, row, axis=1) == 0).all()
    blind = model_subject(Predictor.of(opened, opened.sessions[0], "video -> responses"))
    assert blind.channels == ()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"session": "nobody"}, "does not know session nobody"),
        ({"neuron_ids": ["-7"]}, "no neuron -7"),
        ({"regime": "video -> responses[:, 10:25]"}, "no response from 1 to 2 s"),
    ],
)
def test_what_cannot_be_probed_is_told(run, tmp_path, changes, told):
    with pytest.raises(UserError, match=told):
        physiology(run, tmp_path, smoke=True, **changes)


def test_the_verb_takes_its_arguments():
    parser = argparse.ArgumentParser()
    probe_physiology.add(parser.add_subparsers())
    read = parser.parse_args(["physiology", "runs/x", "--neuron", "3", "--neuron", "5", "--smoke", "--out", "there"])
    assert (read.neuron, read.smoke, read.run, str(read.out)) == (["3", "5"], True, "runs/x", "there")
    assert read.look is probe_physiology.run


def test_pictures_are_png():
    data = picture.png(np.linspace(0, 255, 12).reshape(3, 4).astype(np.uint8))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (4, 3)
    assert pictures.symmetric(np.zeros((2, 2))).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    np.testing.assert_allclose(pictures.symmetric(np.array([[-1.0, 3.0]])), [[1 / 3, 1.0]])
