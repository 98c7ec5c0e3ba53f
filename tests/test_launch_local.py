"""Cells as processes of this machine: failures are recorded, what is killed is tried again, what is stopped goes on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launch import causes, status
from launch.states import look
from omnimouse_jax import cli
from omnimouse_jax.training.checkpoint import Checkpoints
from omnimouse_jax.training.track import read_metrics
from tests.sweeps import ROOT, await_cells, by_state, environment, micro_plan


@pytest.fixture(autouse=True)
def as_workers(monkeypatch):
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def sweep(*argv: object) -> int:
    return cli.main(["sweep", *map(str, argv)])


def ended(cells) -> bool:
    return not {"queued", "running"} & {cell.state for cell in cells}


def test_a_cell_is_run_once_and_goes_on_where_its_plan_grows(colony, tmp_path, capsys):
    study = micro_plan(
        colony,
        tmp_path / "study",
        sizes={"S": {"d_model": 8}},
        study={"amounts": (1,)},
        train__steps=6,
        train__checkpoint_every=2,
        train__keep_every=2,
        optimizer__anneal_steps=2,
    )
    cell = study.plan.cells[0]
    folder = study.run_folder(cell.run_id)
    assert sweep("launch", study.folder, "--wait") == 0
    assert "1 done of 1 cells" in capsys.readouterr().out
    said = status.read(folder)
    assert said.step == said.total == 6
    files = [folder / name for name in ("run.json", "evaluation.json")]
    assert all(json.loads(file.read_text()) for file in files)
    written = [file.stat().st_mtime_ns for file in files]
    assert sweep("launch", study.folder) == 0
    assert "0 cells to submit; left alone: 1 done" in capsys.readouterr().out

    began = study.folder / "launch" / "local" / "running"
    await_cells(study, lambda cells: not list(began.iterdir()))  # its worker has said that it is done, and ends

    more = dataclasses.replace(cell, anneal=(2,), anneal_steps=2)
    dataclasses.replace(study.plan, cells=(more,)).write(study.folder)
    assert sweep("launch", study.folder, "--wait") == 0
    told = capsys.readouterr().out
    assert "1 cells to submit (1 interrupted)" in told
    assert "1 done of 1 cells" in told
    assert json.loads((folder / "anneal" / "2-2" / "evaluation.json").read_text())["rows"]
    assert [file.stat().st_mtime_ns for file in files] == written, "what was done is not done again"


@pytest.mark.slow
def test_failures_are_cells_and_annealed_points_are_scored(colony, tmp_path, capsys):
    study = micro_plan(
        colony,
        tmp_path / "study",
        sizes={"S": {"d_model": 8}, "huge": {"d_model": 8, "d_embedding": 10**9}},
        study={"amounts": (1,), "also": {"hot": {"sizes": ("S",), "rates": (1e33,)}}, "anneal": (2,)},
        train__steps=6,
        optimizer__anneal_steps=2,
    )
    assert sweep("launch", study.folder, "--on", "local", "--parallel", 2, "--wait") == 1
    told = capsys.readouterr().out
    assert "2 failed, 1 done of 3 cells" in told
    found = {cell.run_id: cell.said for cell in look(study)}
    huge, hot = found["huge-1sessions-order0-seed0"], found["S-1sessions-order0-seed0-rate1e+33"]
    assert (huge.cause, hot.cause) == (causes.OUT_OF_MEMORY, causes.NAN)
    assert "loss or gradient is not finite" in hot.error
    assert not huge.failures, "neither is tried again by itself"
    assert not hot.failures
    assert f"out_of_memory: {huge.error[:40]}" in told
    done = study.run_folder("S-1sessions-order0-seed0")
    for folder in (done, done / "anneal" / "2-2"):
        assert json.loads((folder / "evaluation.json").read_text())["rows"]
    assert found[done.name].step == found[done.name].total == 8
    assert not list(tmp_path.rglob(".reserve"))

    written = (done / "run.json").stat().st_mtime_ns
    assert sweep("launch", study.folder, "--on", "local", "--dry-run") == 0
    told = capsys.readouterr()
    assert f"{done.name}\n" not in told.out
    assert told.out.count("sweep cell") == 2, "what failed is submitted again"
    assert "2 cells to submit (2 failed); left alone: 1 done" in told.err
    assert sweep("cell", study.folder, "--run", done.name) == 0
    assert (done / "run.json").stat().st_mtime_ns == written, "a finished cell is not run again"


@pytest.mark.slow
def test_killed_work_and_killed_workers_are_tried_again(colony, tmp_path):
    study = micro_plan(
        colony,
        tmp_path / "study",
        sizes={"S": {"d_model": 8}},
        study={"amounts": (1,)},
        train__steps=100,
        train__checkpoint_every=25,
    )
    folder = study.run_folder(study.plan.cells[0].run_id)
    command = [sys.executable, "-m", "omnimouse_jax.cli", "sweep", "launch", str(study.folder), "--on", "local"]
    subprocess.run(command, cwd=ROOT, check=True, start_new_session=True)  # a terminal that is closed
    await_cells(study, lambda cells: status.last_step(folder) > 1)
    first = status.read(folder)
    work = children(first.pid)
    assert len(work) == 1
    os.kill(work[0], signal.SIGKILL)  # the work: its worker starts it again
    await_cells(study, lambda cells: cells[0].said.attempt == 2 and cells[0].said.phase == "train")
    assert status.read(folder).pid == first.pid
    os.kill(first.pid, signal.SIGKILL)  # the worker itself: the pool starts another one
    found = await_cells(study, lambda cells: cells[0].state == "done")
    said = found[0].said
    assert said.attempt == 3
    assert said.pid != first.pid
    assert [failure["cause"] for failure in said.failures] == [causes.LOST, causes.LOST]
    assert list(read_metrics(folder)) == list(range(1, 101))
    queue = study.folder / "launch" / "local"
    await_cells(study, lambda cells: not [*(queue / "queue").iterdir(), *(queue / "running").iterdir()])


@pytest.mark.slow
def test_a_sweep_is_stopped_and_goes_on(colony, tmp_path, capsys):
    study = micro_plan(
        colony, tmp_path / "study", sizes={"S": {"d_model": 8}}, train__steps=300, train__checkpoint_every=100
    )
    assert sweep("launch", study.folder, "--on", "local") == 0
    found = await_cells(study, lambda cells: any(status.last_step(study.run_folder(c.run_id)) for c in cells))
    running = next(c.run_id for c in found if c.state == "running")
    assert sweep("launch", study.folder, "--on", "local") == 0
    assert "0 cells to submit; left alone: 1 queued, 1 running" in capsys.readouterr().out
    assert sweep("status", study.folder, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["counts"] == {"queued": 1, "running": 1}
    assert {cell["total"] for cell in told["cells"] if cell["run_id"] == running} == {300}
    assert sweep("stop", study.folder) == 0
    assert by_state(await_cells(study, ended))["interrupted"] == [running]
    said = status.read(study.run_folder(running))
    assert said.cause == causes.STOPPED
    saved = Checkpoints(study.run_folder(running), read_only=True).latest()
    assert 0 < saved < 300
    assert sweep("launch", study.folder, "--on", "local", "--parallel", 2, "--wait") == 0
    log = (study.job_folder(running) / "log.txt").read_text()
    assert f"going on from step {saved} of 300" in log
    assert not status.read(study.run_folder(running)).failures


def test_a_full_disk_is_written_down(colony, small_disk, capfd):
    study = micro_plan(
        colony,
        small_disk,
        sizes={"S": {"d_model": 8}},
        study={"amounts": (1,)},
        train__steps=40,
        train__keep=99,
        train__checkpoint_every=1,
    )
    run_id = study.plan.cells[0].run_id
    assert sweep("cell", study.folder, "--run", run_id, "--attempts", 1) == 1
    said = status.read(study.run_folder(run_id))
    assert (said.state, said.cause) == ("failed", causes.DISK_FULL)
    assert "the disk is full" in said.error
    assert f"cell {run_id} failed: disk_full" in capfd.readouterr().err


def test_a_cell_is_begun_once_and_keeps_its_recipe(colony, tmp_path, capsys):
    from omnimouse_jax.training.lock import alone_in

    study = micro_plan(colony, tmp_path / "study", study={"amounts": (1,)})
    run_id = study.plan.cells[0].run_id
    with alone_in(study.job_folder(run_id)):
        assert sweep("cell", study.folder, "--run", run_id) == 2
    assert status.read(study.run_folder(run_id)) is None, "who is refused writes nothing"
    status.write(study.run_folder(run_id), status.Status("done", config_hash="of another"))
    assert sweep("launch", study.folder, "--on", "local") == 2
    assert "begun with another config or other sessions" in capsys.readouterr().err
    plan = json.loads((study.folder / "plan.json").read_text())
    plan["config"]["optimizer"]["warmup_steps"] = 1
    (study.folder / "plan.json").write_text(json.dumps(plan))
    other = study.plan.cells[1].run_id
    assert sweep("cell", study.folder, "--run", other) == 2
    said = status.read(study.run_folder(other))
    assert said.cause == causes.REFUSED
    assert "its config has hash" in said.error


@pytest.mark.slow
def test_a_cell_of_two_processes_is_trained_by_both_and_evaluated_by_one(colony, tmp_path):
    study = micro_plan(
        colony,
        tmp_path / "study",
        sizes={"S": {"d_model": 8}},
        study={"amounts": (1,), "anneal": (2,)},
        train__steps=6,
        optimizer__anneal_steps=2,
        mesh__data=2,
    )
    folder = study.run_folder(study.plan.cells[0].run_id)
    command = [sys.executable, "-m", "omnimouse_jax.cli", "sweep", "cell", str(study.folder), "--run", folder.name]
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
    told = {"OMNIMOUSE_COORDINATOR": coordinator, "OMNIMOUSE_PROCESSES": "2", "XLA_FLAGS": ""}
    both = [subprocess.Popen(command, env={**os.environ, **told, "OMNIMOUSE_PROCESS_ID": str(i)}) for i in range(2)]
    assert [process.wait(timeout=500) for process in both] == [0, 0]
    assert status.read(folder).state == "done"
    assert status.read(folder).pid == both[0].pid, "one speaks for both"
    for run in (folder, folder / "anneal" / "2-2"):
        assert json.loads((run / "evaluation.json").read_text())["rows"]


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
