"""A sweep on a real SLURM: submitted by sbatch, one cell killed and retried, one over its time limit and resumed."""

from __future__ import annotations

import os
import signal
import time

import pytest

from launch import causes, status
from launch.slurm import minutes
from launch.states import look
from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from tests.slurm_cluster import Cluster, slurm  # noqa: F401
from tests.sweeps import await_cells, by_state, environment, micro_plan

OPTIONS = ("--on", "slurm", "--set", "time=5", "--set", "signal_s=60", "--parallel", "2")


@pytest.fixture
def as_workers(monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def sweep(*argv: str) -> int:
    return cli.main(["sweep", *map(str, argv)])


def test_an_array_runs_its_cell_to_the_end(colony, slurm: Cluster, as_workers, tmp_path, capsys):  # noqa: F811
    study = micro_plan(colony, tmp_path / "study", sizes={"S": {"d_model": 8}}, study={"amounts": (1,)})
    assert sweep("launch", study.folder, *OPTIONS) == 0
    assert sweep("launch", study.folder, *OPTIONS) == 0
    assert "0 cells to submit" in capsys.readouterr().out, "what is queued or running is not submitted twice"
    found = await_cells(study, lambda cells: cells[0].state not in ("queued", "running"))
    assert found[0].state == "done"
    assert found[0].said.job == found[0].job.job
    assert (study.run_folder(found[0].run_id) / "evaluation.json").exists()


@pytest.mark.slow
def test_a_sweep_with_a_killed_cell(colony, slurm: Cluster, as_workers, tmp_path, capsys):  # noqa: F811
    study = micro_plan(colony, tmp_path / "study")
    assert sweep("launch", study.folder, *OPTIONS, "--dry-run") == 0
    told = capsys.readouterr().out
    assert "#SBATCH --array=0-3%2" in told
    assert "#SBATCH --signal=USR2@60" in told
    assert not list(study.folder.glob("launch/*/job.json"))

    assert sweep("launch", study.folder, *OPTIONS) == 0
    assert "4 cells to submit (4 missing)" in capsys.readouterr().out
    assert sweep("launch", study.folder, *OPTIONS) == 0
    assert "0 cells to submit" in capsys.readouterr().out, "what is queued or running is not submitted twice"

    found = await_cells(study, lambda cells: any(c.said.phase == "train" for c in cells))
    victim = next(c for c in found if c.said.phase == "train")
    os.kill(victim.said.pid, signal.SIGKILL)
    found = await_cells(study, lambda cells: not {"queued", "running"} & {c.state for c in cells})
    assert by_state(found)["failed"] == [victim.run_id]
    assert len(by_state(found)["done"]) == 3, "a failure is a cell's, not the sweep's"
    said = status.read(study.run_folder(victim.run_id))
    assert said.cause == causes.LOST
    assert slurm.job(victim.job.job)["ExitCode"] == "137:0"

    assert sweep("retry", study.folder, "--cause", "nan") == 0
    assert "0 of 1 failed cells submitted again" in capsys.readouterr().out
    assert sweep("retry", study.folder, "--cause", "lost") == 0
    found = await_cells(study, lambda cells: all(c.state == "done" for c in cells))
    again = next(c for c in found if c.run_id == victim.run_id)
    assert again.said.attempt == 2
    assert [failure["cause"] for failure in again.said.failures] == [causes.LOST]
    assert again.job.job != victim.job.job
    assert all((study.run_folder(c.run_id) / "evaluation.json").exists() for c in found)


@pytest.mark.slow
def test_a_time_limit_saves_requeues_and_goes_on(colony, slurm: Cluster, as_workers, tmp_path):  # noqa: F811
    study = micro_plan(
        colony, tmp_path / "study", sizes={"S": {"d_model": 8}}, train__steps=1500, train__checkpoint_every=500
    )
    run_id = study.plan.cells[0].run_id
    assert sweep("launch", study.folder, *OPTIONS, "--run", run_id) == 0
    await_cells(study, lambda cells: status.last_step(study.run_folder(run_id)) > 0)
    job = next(c.job.job for c in look(study) if c.run_id == run_id)
    slurm.scontrol("update", f"JobId={job}", "TimeLimit=1")
    found = await_cells(study, lambda cells: slurm.job(job)["Restarts"] == "1" and cells[0].said.state == "interrupted")
    assert found[0].said.cause == causes.TIME_LIMIT
    saved = status.last_step(study.run_folder(run_id))
    assert 0 < saved < 1500
    await_cells(study, lambda cells: slurm.job(job)["JobState"] == "PENDING")
    slurm.scontrol("update", f"JobId={job}", "TimeLimit=10")
    time.sleep(3)  # SLURM refuses a job that begins in the second in which its last credential was revoked
    slurm.begin_now(job)
    found = await_cells(study, lambda cells: cells[0].state == "done", seconds=600)
    assert found[0].said.attempt == 2
    assert not found[0].said.failures, "an interruption is no failure"
    log = "".join(path.read_text() for path in (study.folder / "launch" / "slurm").glob("*.out"))
    assert "stopped at step" in log
    assert "going on from step" in log


def test_stopping_takes_back_what_waits_and_saves_what_runs(colony, slurm: Cluster, as_workers, tmp_path):  # noqa: F811
    study = micro_plan(colony, tmp_path / "study", train__steps=3000, train__checkpoint_every=1000)
    assert sweep("launch", study.folder, *OPTIONS[:-1], "1") == 0
    found = await_cells(study, lambda cells: any(c.said.phase == "train" for c in cells))
    running = next(c.run_id for c in found if c.said.phase == "train")
    assert sweep("stop", study.folder) == 0
    found = await_cells(study, lambda cells: not {"queued", "running"} & {c.state for c in cells})
    assert by_state(found)["interrupted"] == [running]
    assert len(by_state(found)["missing"]) == 3
    assert status.read(study.run_folder(running)).cause == causes.STOPPED


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("2:00:00", 120), ("1-12", 2160), ("1-00:30", 1470), ("0:00:30", 1)],
)
def test_time_limits_as_slurm_writes_them(text, expected):
    assert minutes(text) == expected


@pytest.mark.parametrize("text", ["soon", "0", "1h"])
def test_what_is_no_time_limit(text):
    with pytest.raises(UserError, match=r"engine slurm: time"):
        minutes(text)
