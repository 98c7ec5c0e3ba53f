"""Mesh shape, resume and padding change nothing; the two optimiser groups do what they say."""

from __future__ import annotations

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.train import Interrupted, train
from tests.micro import micro


def losses(workdir) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def finished(colony, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(micro(colony), workdir)


def test_a_run_leaves_everything_a_reader_needs(finished):
    workdir, run = finished
    assert sorted(losses(workdir)) == [1, 2, 3, 4]
    assert run["checkpoint_step"] in (2, 4)
    assert run["n_sessions"] == 3
    assert run["n_params_total"] == run["n_params_core"] + run["n_params_neuron"] + run["n_params_session"]
    assert run["n_params_neuron"] == run["n_neurons"] * 9
    assert run["flops"] > 0
    saved = json.loads((workdir / "run.json").read_text())
    assert saved == json.loads(json.dumps(run))


@pytest.mark.parametrize(
    "changes",
    [
        {"model__scan_layers": False},
        {"model__remat": "layer"},
        {"model__remat": "cycle"},
        {"model__attention": "blocks"},
        {"model__attention": "splash_interpreted", "mesh__data": 2, "mesh__tensor": 2},
    ],
)
def test_how_it_is_computed_changes_no_number(colony, deep, tmp_path, changes):
    train(micro(colony, **DEEP, **changes), tmp_path)
    assert losses(tmp_path) == pytest.approx(deep, rel=1e-5)


def test_half_precision_trains_close_to_full_and_keeps_its_state_in_full(colony, deep, tmp_path):
    train(micro(colony, **DEEP, model__compute_dtype="bfloat16"), tmp_path)
    assert losses(tmp_path) == pytest.approx(deep, rel=0.01)
    assert losses(tmp_path) != deep
    parts = prepare(micro(colony, **DEEP, model__compute_dtype="bfloat16"))
    state = restored(parts, tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt.mean, state.opt.square))} == {
        jnp.dtype("float32")
    }


#: Layers of every kind: one before the cycles, two cycles of local and global ones.
DEEP = {"model__n_layers": 7, "model__local_to_global": (2, 1), "train__validation_windows": 0}


@pytest.fixture(scope="module")
def deep(colony, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("deep")
    train(micro(colony, **DEEP), workdir)
    return losses(workdir)


def restored(parts, workdir):
    saved = Checkpoints(workdir, read_only=True)
    return saved.restore(4, restore_target(parts.model, parts.capacity, parts.mesh, parts.trained))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(colony, finished, tmp_path):
    train(micro(colony, train__steps=2, optimizer__anneal_steps=0), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 99.0}\n{"step": 4, "lo')  # a crash after the checkpoint
    train(micro(colony), tmp_path)
    assert losses(tmp_path) == losses(finished[0])


def test_ctrl_c_saves_and_says_how_to_go_on(colony, finished, tmp_path, monkeypatch):
    from omnimouse_jax import progress

    real = progress.Progress.show

    def show(self, done, *args, **kwargs):
        if self.label == "train " and done == 2:  # told after the second step, so that the third is the last
            os.kill(os.getpid(), signal.SIGINT)
        real(self, done, *args, **kwargs)

    monkeypatch.setattr(progress.Progress, "show", show)
    with pytest.raises(Interrupted, match=r"stopped at step 3 of 4, saved in .*run the same command again") as stopped:
        train(micro(colony), tmp_path)
    assert stopped.value.status == 130
    monkeypatch.setattr(progress.Progress, "show", real)
    train(micro(colony), tmp_path)
    assert losses(tmp_path) == losses(finished[0])


def test_another_config_is_refused_with_a_diff(colony, finished):
    with pytest.raises(UserError, match=r"another config \(data\.batch_size: 8 -> 4\)"):
        train(micro(colony, data__batch_size=4), finished[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh__data": 64}, r"mesh 64 x 1 x 1 needs 64 devices, 8 cpu"),
        ({"mesh__data": 2, "mesh__fsdp": 3, "mesh__tensor": 2}, r"mesh 2 x 3 x 2 needs 12 devices, 8 cpu"),
        ({"train__accumulate": 3}, r"batch_size 8 does not divide into 3 micro-batches"),
        ({"train__accumulate": 2, "mesh__data": 8}, r"a batch of 4 windows does not divide over 8 devices"),
        ({"train__trained": "heads"}, r"train\.trained is 'heads'"),
        ({"train__nonfinite": "ignore"}, r"train\.nonfinite is 'ignore'"),
        ({"optimizer__rows": "all"}, r"optimizer\.rows is 'all'"),
        ({"train__log_every": 0}, r"train\.log_every is 0"),
        ({"optimizer__anneal_steps": 3}, r"2 warm-up and 3 anneal steps do not fit into 4 steps"),
        ({"mesh__data": 8, "evaluation__batch_size": 12}, r"evaluation\.batch_size 12 does not divide"),
        ({"mesh__data": 8, "data__batch_size": 12}, r"a batch of 12 windows does not divide over 8 devices"),
        ({"data__tiers": ("nonsense",)}, r"no window of 2 s in tiers nonsense"),
        ({"data__sessions": ("nobody",)}, r"nobody"),
        ({"data__store": "/nowhere"}, r"/nowhere"),
        ({"regimes": ("stimuls",)}, r"did you mean 'stimulus'"),
        ({"evaluation__tasks": {"x": "populaton"}}, r"did you mean 'population'"),
    ],
)
def test_a_config_that_cannot_run_leaves_no_folder(colony, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(micro(colony, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_scores_every_session_and_task(finished):
    rows = evaluate_run(finished[0])["rows"]
    neurons = [row for row in rows if row["metric"] == "response_correlation"]
    assert len(neurons) == 3
    for row in neurons:
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert row["ceiling_estimator"] == "known law: stimulus_behavior"
        assert row["normalized"] == pytest.approx(row["score"] / row["ceiling"])
    channels = {row["channel"] for row in rows if row["metric"] == "behavior_correlation"}
    assert channels == {"pupil_x", "pupil_y", "pupil_size", "pupil_size_derivative", "running", "mean"}
    assert json.loads((finished[0] / "evaluation.json").read_text())["rows"] == json.loads(json.dumps(rows))


def test_the_best_checkpoint_is_kept_and_taken(colony, tmp_path, monkeypatch):
    from omnimouse_jax.training import train as trainer
    from omnimouse_jax.training.checkpoint import Checkpoints

    told = iter([3.0, 1.0, 2.0, 2.5, 2.7, 2.9])
    monkeypatch.setattr(trainer, "validate", lambda *args: {"validation_loss": next(told)})
    run = train(micro(colony, train__steps=6, train__checkpoint_every=1, optimizer__anneal_steps=0), tmp_path)
    saved = Checkpoints(tmp_path, read_only=True)
    assert run["checkpoint_step"] == saved.best() == 2
    assert saved.steps() == [2, 5, 6]
    assert saved.step_named("latest") == 6


def test_scores_asked_for_by_hand_leave_the_configured_ones(finished):
    evaluate_run(finished[0])
    before = (finished[0] / "evaluation.json").read_bytes()
    asked = evaluate_run(finished[0], tasks={"x": "behavior"}, tiers=("train",))
    assert {row["task"] for row in asked["rows"]} == {"x"}
    assert (finished[0] / "evaluation.json").read_bytes() == before


def test_mice_that_lack_things_train_with_complete_ones(tmp_path):
    """No screen, no eye tracker, no gaze, other rates, ten to forty neurons, and a channel of a lab's own."""
    from omnimouse_jax.recordings.synthetic import synthesize

    store = str(tmp_path / "store")
    synthesize(store, "mixed", {}, workers=1)
    config = micro(store, train__steps=2, evaluation__stride_s=2.0)
    config.model.behavior_channels = (*config.model.behavior_channels, "whisking")
    config.model.max_neurons = 64
    run = train(config, tmp_path / "run")
    assert run["n_sessions"] == 6
    assert all(np.isfinite(loss) for loss in losses(tmp_path / "run").values())
    rows = evaluate_run(tmp_path / "run")["rows"]
    assert len({row["session"] for row in rows if row["metric"] == "response_correlation"}) == 6
    channels = {(row["session"], row["channel"]) for row in rows if row["metric"] == "behavior_correlation"}
    of_all = {session for session, channel in channels if channel == "running"}
    with_eye = {session for session, channel in channels if channel == "pupil_size"}
    assert with_eye < of_all, "a session without an eye tracker is scored on what it has"
    assert not any(channel == "whisking" for _, channel in channels)


def test_evaluating_what_is_not_there_is_told(colony, finished, tmp_path):
    with pytest.raises(UserError, match="no checkpoints/ folder"):
        evaluate_run(tmp_path)
    with pytest.raises(UserError, match="no checkpoint '77'"):
        evaluate_run(finished[0], step="77")
    with pytest.raises(UserError, match="session nobody"):
        evaluate_run(finished[0], sessions=("nobody",))
