"""Nothing is lost: a run that is stopped and killed, at any moment, ends as one that was not, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.train import train
from tests.killed import CHANGES, Training, kill, require_same_run
from tests.micro import micro

STEPS = 14


@pytest.fixture(scope="module")
def left_alone(colony, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("left_alone")
    train(micro(colony, train__steps=STEPS, **CHANGES), workdir)
    return workdir


def test_a_preemption_notice_saves_and_the_run_goes_on(colony, left_alone, tmp_path):
    workdir = tmp_path / "run"
    training = Training(colony, workdir, STEPS)
    training.await_step()
    noticed = time.monotonic()
    told = training.end(signal.SIGTERM)
    assert time.monotonic() - noticed < 30, told
    assert training.process.returncode == 75, told
    saved = Checkpoints(workdir, read_only=True)
    step = saved.latest()
    assert f"stopped at step {step} of {STEPS}, saved in {workdir}; run the same command again to go on" in told
    before = saved.meta(step)["clock"]["seconds"]
    training = Training(colony, workdir, STEPS)
    told = training.end()
    assert training.process.returncode == 0, told
    assert f"going on from step {step} of {STEPS}" in told
    require_same_run(colony, left_alone, workdir, STEPS)
    assert json.loads((workdir / "run.json").read_text())["seconds"] > before > 0


def test_a_full_disk_ends_a_run_and_it_goes_on_when_there_is_room(colony, left_alone, small_disk):
    config = micro(colony, train__steps=STEPS, train__keep=99, **CHANGES)
    with pytest.raises(
        UserError, match="the disk is full - free some space, run the same command again to go on from step"
    ) as told:
        train(config, small_disk / "run")
    step = Checkpoints(small_disk / "run", read_only=True).latest()
    assert str(told.value).endswith(f"from step {step}")
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    train(config, small_disk / "run")
    require_same_run(colony, left_alone, small_disk / "run", STEPS)


def killed_and_whole(colony: str, left_alone: Path, workdir: Path, steps: int, kills: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for number in range(kills):
        training = Training(colony, workdir, steps)
        kill(training, rng, when=("writing", "stepping", "starting")[number % 3])
        assert training.process.returncode == -signal.SIGKILL, "the run was over before all kills were"
    training = Training(colony, workdir, steps)
    told = training.end()
    assert training.process.returncode == 0, told
    require_same_run(colony, left_alone, workdir, steps)
    assert not list(workdir.glob("checkpoints/*[!0-9]*"))


def test_three_kills_change_nothing(colony, left_alone, tmp_path):
    killed_and_whole(colony, left_alone, tmp_path / "run", STEPS, kills=3, seed=0)


@pytest.mark.slow
def test_twenty_kills_change_nothing(colony, tmp_path):
    steps = 60
    train(micro(colony, train__steps=steps, **CHANGES), tmp_path / "left_alone")
    killed_and_whole(colony, tmp_path / "left_alone", tmp_path / "run", steps, kills=20, seed=1)
