"""What is submitted is never forgotten, and nothing is run twice: half-way failures, two launches, processes with old numbers."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from launch import causes, cell, gke, local, sky, slurm, states, status, work
from launch.engine import ENGINES, Job, JobState, Study, engine, read_job, write_job
from launch.status import Process, Status
from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.sweep import launch
from tests.sweeps import ROOT, micro_plan


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Options of an engine that has none."""


class Fake:
    """An engine that has what was submitted, and fails at the cell after `fails_after`."""

    name: ClassVar[str] = "local"
    options_type: ClassVar[type] = Nothing
    has: ClassVar[list[str]] = []
    fails_after: ClassVar[int | None] = None

    def __init__(self, study: Study, options: Nothing):
        pass

    def submit(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        for count, run_id in enumerate(run_ids):
            if count == self.fails_after:
                raise UserError("the queue is full", way_out="wait")
            time.sleep(0.05)
            self.has.append(run_id)
            yield run_id, f"job {run_id}"

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        return {run_id: JobState("queued" if run_id in self.has else "gone") for run_id in jobs}


@pytest.fixture
def fake(monkeypatch) -> type[Fake]:
    monkeypatch.setitem(ENGINES, "local", (__name__, "Fake"))
    monkeypatch.setattr(Fake, "has", [])
    monkeypatch.setattr(Fake, "fails_after", None)
    return Fake


@pytest.fixture(scope="module")
def planned(colony, tmp_path_factory) -> Study:
    return micro_plan(
        colony, tmp_path_factory.mktemp("study"), study={"anneal": (2,)}, train__steps=6, optimizer__anneal_steps=2
    )


@pytest.fixture
def study(planned, tmp_path) -> Study:
    plain = dataclasses.replace(
        planned.plan, cells=tuple(dataclasses.replace(c, anneal=(), anneal_steps=0) for c in planned.plan.cells)
    )
    plain.write(tmp_path)
    return Study.open(tmp_path, store="gs://lab-mice/stores/all")


def run_ids(study: Study) -> list[str]:
    return [cell.run_id for cell in study.plan.cells]


def submitted(study: Study) -> list[str]:
    return [run_id for run_id in run_ids(study) if read_job(study, run_id) is not None]


def test_an_engine_that_fails_half_way_keeps_what_it_has(study, fake, monkeypatch, capsys):
    monkeypatch.setattr(fake, "fails_after", 2)
    assert cli.main(["sweep", "launch", str(study.folder)]) == 2
    assert "the queue is full" in capsys.readouterr().err
    assert submitted(study) == fake.has == run_ids(study)[:2]
    monkeypatch.setattr(fake, "fails_after", None)
    assert cli.main(["sweep", "launch", str(study.folder)]) == 0
    assert "2 cells to submit (2 missing); left alone: 2 queued" in capsys.readouterr().out
    assert fake.has == run_ids(study)


def test_a_second_array_that_slurm_refuses_leaves_the_first(study, monkeypatch):
    class Executor:
        left: ClassVar[list[str]] = ["7_0", "7_1"]

        def batch(self) -> Any:
            return contextlib.nullcontext()

        def submit(self, task: slurm.Task) -> Any:
            if not self.left:
                raise subprocess.CalledProcessError(1, "sbatch", "limit")
            return SimpleNamespace(job_id=self.left.pop(0))

    monkeypatch.setattr(slurm, "_require", lambda program: None)
    monkeypatch.setattr(slurm.Slurm, "_executor", lambda self: Executor())
    with pytest.raises(UserError, match="sbatch refused"):
        states.submit(study, "slurm", {"array": 2}, run_ids(study))
    assert submitted(study) == run_ids(study)[:2]
    assert read_job(study, run_ids(study)[1]).job == "7_1"


def test_a_cloud_job_is_noted_before_the_next_one_is_asked_for(study, monkeypatch):
    asked = []

    def run(command: Sequence[str]) -> str:
        if len(asked) == 2:
            raise UserError("no quota", way_out="x")
        asked.append(command)
        return ""

    monkeypatch.setattr(sky, "_require", lambda: None)
    monkeypatch.setattr(sky, "push_plan", lambda *_: None)
    monkeypatch.setattr(sky, "_run", run)
    with pytest.raises(UserError, match="no quota"):
        states.submit(study, "sky", {"bucket": "gs://lab/x"}, run_ids(study))
    assert submitted(study) == run_ids(study)[:2]


def test_names_of_cloud_jobs_are_of_one_bucket():
    assert sky.short_name("gs://a/x", "demo", "S-1") == sky.short_name("gs://a/x", "demo", "S-1")
    names = {sky.short_name(bucket, "demo", "S-1") for bucket in ("gs://a/x", "gs://a/y", "gs://b/x")}
    assert len(names) == 3


def test_a_jobset_that_is_not_over_is_left_alone(study, monkeypatch):
    asked: list[tuple[str, str]] = []
    made = engine("gke", study, {"bucket": "gs://lab/x", "image": "x:1"})
    assert isinstance(made, gke.Gke)
    failed, done, busy, new = run_ids(study)
    conditions = {failed: ["Failed"], done: ["Completed"], busy: []}
    items = [
        {
            "metadata": {"name": made.job_name(run_id)},
            "status": {"conditions": [{"type": kind, "status": "True"} for kind in kinds]},
        }
        for run_id, kinds in conditions.items()
    ]

    def run(self: gke.Gke, command: Sequence[str], given: str = "") -> str:
        if command[0] == "get":
            assert f"{gke.STUDY_LABEL}={made._study_label()}" in command
            return json.dumps({"items": items})
        run_id = next(one for one in run_ids(study) if made.job_name(one) in (*command, *given.split()))
        asked.append((command[0], run_id))
        return ""

    monkeypatch.setattr(gke, "_require", lambda: None)
    monkeypatch.setattr(gke, "push_plan", lambda *_: None)
    monkeypatch.setattr(gke.Gke, "_run", run)
    assert dict(made.submit(run_ids(study))) == {run_id: made.job_name(run_id) for run_id in run_ids(study)}
    assert asked == [("delete", failed), ("apply", failed), ("delete", done), ("apply", done), ("apply", new)]


def test_two_launches_at_a_time_submit_each_cell_once(study, fake, capsys):
    given = {"study": study.folder, "on": "local", "run": [], "parallel": None, "set": [], "options": None}
    given |= {"attempts": None, "store": "", "dry_run": False, "wait": False}
    both = [threading.Thread(target=launch, args=(argparse.Namespace(**given),)) for _ in range(3)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join(timeout=60)
    assert sorted(fake.has) == sorted(run_ids(study))
    assert capsys.readouterr().out.count("0 cells to submit; left alone: 4 queued") == 2


def test_a_pool_runs_a_cell_once_at_a_time(study):
    queue, notes = local._Queue(study.folder), study.folder / "notes"
    code = (
        f"import time; f = open({str(notes)!r}, 'a', 1); print('begin', file=f); time.sleep(0.7); print('end', file=f)"
    )
    with queue.locked():
        queue.settings(dataclasses.asdict(local.Options(parallel=2)))
        queue.add("a", [sys.executable, "-c", code])
    pool = subprocess.Popen([sys.executable, "-m", "launch.local", str(study.folder)], cwd=ROOT)
    try:
        until = time.monotonic() + 60
        while not notes.exists() and time.monotonic() < until:
            time.sleep(0.02)
        with queue.locked():
            assert queue.running()["a"].is_alive()
            queue.add("a", [sys.executable, "-c", code])
        assert pool.wait(timeout=60) == 0
    finally:
        pool.kill()
    assert notes.read_text().split() == ["begin", "end", "begin", "end"]


def test_cells_that_run_are_not_queued_again(study, monkeypatch):
    monkeypatch.setattr(local.Local, "_start_pool", lambda self: None)
    made, first = local.Local(study, local.Options()), run_ids(study)[0]
    with made.queue.locked():
        made.queue.begun(first, os.getpid())
    assert dict(made.submit(run_ids(study)[:2])) == {run_ids(study)[1]: "local"}
    assert made.queue.waiting() == [run_ids(study)[1]]


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    """A process that lives."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def running(process: subprocess.Popen[bytes], born: str | None = None) -> Status:
    """What a worker in this process says."""
    known = Process.of(process.pid).born if born is None else born
    here = status.socket.gethostname()
    return Status("running", host=here, pid=process.pid, born=known, updated=status.now(), engine="local")


def test_a_worker_that_was_refused_leaves_the_status_of_the_one_that_runs(study, bystander):
    run_id = run_ids(study)[0]
    folder, refused = study.run_folder(run_id), subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    refused.wait()
    worker = local._Worker(refused, [], "")
    status.write(folder, running(bystander))
    assert not local._was_lost(study.folder, run_id, worker)
    assert status.read(folder).state == "running"
    elsewhere = dataclasses.replace(running(bystander), host="elsewhere")
    status.write(folder, elsewhere)
    assert not local._was_lost(study.folder, run_id, worker)
    assert status.read(folder) == elsewhere
    bystander.kill()
    bystander.wait()
    status.write(folder, running(bystander, born="of an earlier boot"))
    local._was_lost(study.folder, run_id, worker)
    assert status.read(folder).cause == causes.REFUSED


def test_a_job_that_is_gone_does_not_end_the_worker_that_runs(study, bystander, monkeypatch):
    run_id = run_ids(study)[0]
    gone = JobState("gone", causes.OUT_OF_MEMORY)
    monkeypatch.setattr("launch.slurm.Slurm.states", lambda self, jobs: dict.fromkeys(jobs, gone))
    status.write(study.run_folder(run_id), running(bystander))
    write_job(study, run_id, Job("slurm", "7", status.now(), {}))
    assert states.look(study)[0].state == "running"
    assert status.read(study.run_folder(run_id)).state == "running"


def test_a_number_that_another_process_has_now_is_not_the_worker(study, bystander, monkeypatch):
    assert Process.of(bystander.pid).is_alive()
    assert Process.parsed(str(Process.of(bystander.pid))) == Process.of(bystander.pid)
    boot, tick = Process.of(bystander.pid).born.split(":")
    run_id = run_ids(study)[0]
    made = local.Local(study, local.Options())
    for born in (f"{boot}:{int(tick) - 1}", f"an-earlier-boot:{tick}"):
        assert not Process(bystander.pid, born).is_alive()
        status.write(study.run_folder(run_id), running(bystander, born))
        with made.queue.locked():
            local.write_atomically(made.queue.folder / "running" / run_id, f"{bystander.pid} {born}\n")
        assert made.states({run_id: "local"})[run_id].state == "gone"
        made.cancel({run_id: "local"})
        states.settle(study.folder)
        assert status.read(study.run_folder(run_id)).cause == causes.LOST
    time.sleep(0.1)
    assert bystander.poll() is None, "it was not signalled"
    made.queue.begun(run_id, bystander.pid)
    made.cancel({run_id: "local"})
    assert bystander.wait(timeout=10) == -signal.SIGTERM


def grown(planned: Study, folder: Path, points: tuple[int, ...] = (2,)) -> Study:
    """The study with further points to anneal."""
    cells = tuple(dataclasses.replace(cell, anneal=points, anneal_steps=2) for cell in planned.plan.cells)
    dataclasses.replace(planned.plan, cells=cells).write(folder)
    return Study.open(folder)


def test_a_cell_that_was_done_goes_on_where_its_plan_has_more_points(study, planned, monkeypatch, capsys):
    done = run_ids(study)[0]
    status.write(study.run_folder(done), Status("done", planned.plan.cells[0].config_hash, updated=status.now()))
    assert states.look(study)[0].state == "done"
    assert cell.run_cell(study.folder, done) == 0
    assert "done already" in capsys.readouterr().out

    more = grown(planned, study.folder)
    found = states.look(more)[0]
    assert (found.state, found.told) == ("interrupted", "more points are planned, to anneal at 2")
    assert cli.main(["sweep", "status", str(study.folder)]) == 0
    assert found.told in capsys.readouterr().out
    assert cli.main(["sweep", "launch", str(study.folder), "--dry-run"]) == 0
    assert f"--run {done}\n" in capsys.readouterr().out
    monkeypatch.setattr(cell, "_attempts", lambda *_: 7)
    assert cell.run_cell(study.folder, done) == 7

    scores = more.run_folder(done) / "anneal" / "2-2" / "evaluation.json"
    scores.parent.mkdir(parents=True)
    scores.write_text("{}")
    assert states.look(more)[0].state == "done"
    assert cell.run_cell(study.folder, done) == 0


def test_only_the_points_that_are_missing_are_worked_on(planned, tmp_path, monkeypatch):
    made: list[str] = []

    def finish(folder: Path, name: str) -> None:
        made.append(f"{name} {folder.name}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ("run.json" if name != "evaluate" else "evaluation.json")).write_text("{}")
        time.sleep(0.01)

    monkeypatch.setattr("omnimouse_jax.training.train.train", lambda config, folder, labels: finish(folder, "train"))
    monkeypatch.setattr(
        "omnimouse_jax.training.branch.anneal", lambda run, step, steps, folder, at: finish(folder, "anneal")
    )
    monkeypatch.setattr("omnimouse_jax.evaluate.evaluator.evaluate_run", lambda run, store: finish(run, "evaluate"))
    run_id = planned.plan.cells[0].run_id
    grown(planned, tmp_path)
    work.work(tmp_path, run_id)
    assert made == [f"train {run_id}", "anneal 2-2", f"evaluate {run_id}", "evaluate 2-2"]
    made.clear()
    grown(planned, tmp_path, (2, 3))
    work.work(tmp_path, run_id)
    assert made == ["anneal 3-2", "evaluate 3-2"]
