"""A branch goes on where its run stood, with a rate that falls to zero, and is a run like any other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.training import optim
from omnimouse_jax.training.branch import anneal, branch_folder, start_run_from
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.defaults import optimizer_settings
from omnimouse_jax.training.resume import config_of
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.track import read_metrics
from omnimouse_jax.training.train import train
from tests.micro import micro

STEPS = 8


@pytest.fixture(scope="module")
def constant(colony, tmp_path_factory) -> Path:
    """Eight steps at a constant rate, with every second checkpoint kept."""
    workdir = tmp_path_factory.mktemp("constant")
    config = micro(colony, train__steps=STEPS, train__keep=1, train__keep_every=2, train__validation_windows=0)
    config.optimizer.warmup_steps = 3
    train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def branch(constant) -> Path:
    folder = branch_folder(constant, 4, 3)
    anneal(constant, 4, 3, folder)
    return folder


def test_a_branch_sees_the_run_s_next_batches_at_a_falling_rate(constant, branch):
    before, here = read_metrics(constant), read_metrics(branch)
    assert list(here) == [5, 6, 7]
    settings = optimizer_settings(config_of(Checkpoints(branch, read_only=True).meta(7)))
    for step, row in here.items():
        done = (step - 1 - 4) / 3
        assert row["learning_rate"] == pytest.approx(3e-3 * (1 - np.sqrt(done)))
        assert row["learning_rate"] == pytest.approx(float(optim.schedule(jnp.int32(step - 1), 3e-3, settings)))
        assert row["regime"] == before[step]["regime"]
    # The first batch meets the run's own parameters at the run's own rate; so does the second, whose update is smaller.
    for step in (5, 6):
        assert here[step]["loss"] == before[step]["loss"]
    assert here[7]["loss"] != before[7]["loss"]
    run = json.loads((branch / "run.json").read_text())
    assert (run["steps"], run["checkpoint_step"]) == (7, 7)
    assert (run["parent"], run["parent_step"]) == (str(constant.resolve()), 4)
    assert run["seconds"] > Checkpoints(constant, read_only=True).meta(4)["clock"]["seconds"]


def test_a_branch_goes_on_when_the_run_s_checkpoint_is_gone(constant, branch, tmp_path, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(constant, run, ignore=shutil.ignore_patterns("anneal"))
    folder = branch_folder(run, 4, 3)
    monkeypatch.setattr("omnimouse_jax.training.branch.train", lambda config, workdir: {})
    anneal(run, 4, 3, folder)  # stopped before its first step
    monkeypatch.undo()
    shutil.rmtree(run / "checkpoints")
    anneal(run, 4, 3, folder)
    assert [row["loss"] for row in read_metrics(folder).values()] == [
        row["loss"] for row in read_metrics(branch).values()
    ]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (5, r"no checkpoint 5 \(there are: 2, 4, 6, 8\)"),
        (2, r"step 2 is in the warm-up of 3 steps - kept steps at the constant rate: 4, 6, 8"),
    ],
)
def test_a_step_that_cannot_be_branched_off_is_told_with_those_that_can(constant, tmp_path, step, message):
    with pytest.raises(UserError, match=message):
        anneal(constant, step, 3, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_annealed_is_branched_off_before_it_did(colony, tmp_path):
    config = micro(colony, train__steps=6, train__keep_every=2, optimizer__anneal_steps=3, train__validation_windows=0)
    train(config, tmp_path / "run")
    message = r"at step 4 its own annealing is under way, which began at step 3 - kept steps at the constant rate: 2$"
    with pytest.raises(UserError, match=message):
        anneal(tmp_path / "run", 4, 3, tmp_path / "out")


def test_what_decides_a_step_may_not_differ_in_a_branch(constant, tmp_path):
    def change(config):
        config.data.batch_size = 4

    with pytest.raises(UserError, match=r"data\.batch_size was 8 in the run, not 4"):
        anneal(constant, 4, 3, tmp_path / "out", change)


def test_the_verb_makes_a_branch_for_each_step_and_scores_it(constant, tmp_path, capsys):
    command = ["anneal", str(constant), "--step", "4", "--step", "6", "--steps", "2", "--workdir", str(tmp_path)]
    assert main([*command, "--config.train.log_every=2", "--config.evaluation.bootstrap=10"]) == 0
    told = capsys.readouterr().out
    for step in (4, 6):
        folder = tmp_path / f"{step}-2"
        assert f"{folder}: annealed from step {step} to {step + 2}" in told
        assert json.loads((folder / "evaluation.json").read_text())["checkpoint_step"] == step + 2
        assert list(read_metrics(folder)) == [step + 2]
    assert main([*command[:-2], "--steps", "0"]) == 2
    assert main([*command, "--config.seed=3"]) == 2
    assert "seed was 0 in the run, not 3" in capsys.readouterr().err


def test_a_run_that_starts_from_given_parameters(colony, constant, tmp_path):
    config = micro(colony, train__steps=6, train__validation_windows=0, seed=5)
    config.optimizer.warmup_steps = 1
    parts = prepare(config)
    target = restore_target(parts.model, parts.capacity, parts.mesh)
    state = Checkpoints(constant, read_only=True).restore(4, target)
    start_run_from(tmp_path, config, state, parts.vocabulary, {"parent": "elsewhere", "parent_step": 4})
    with pytest.raises(UserError, match="has checkpoints already"):
        start_run_from(tmp_path, config, state, parts.vocabulary, {})
    with pytest.raises(UserError, match=r"trained with another config \(seed: 5 -> 6"):
        train(micro(colony, train__steps=6, train__validation_windows=0, optimizer__warmup_steps=1, seed=6), tmp_path)
    run = train(config, tmp_path)
    assert (run["parent"], run["parent_step"], run["steps"]) == ("elsewhere", 4, 6)
    assert list(read_metrics(tmp_path)) == [5, 6]
    saved = Checkpoints(tmp_path, read_only=True)
    assert set(saved.meta(6)["data"]["sessions"]) == {entry.key for entry in parts.vocabulary.sessions}
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), saved.restore(6, target).params, state.params)
    assert any(jax.tree.leaves(moved))
