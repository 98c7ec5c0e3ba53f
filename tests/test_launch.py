"""What is decided about cells: causes and their policy, options of engines, states of cells that say nothing any more."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
import signal
import subprocess
import sys

import jax.numpy as jnp
import pytest

from launch import board, causes, local, states, status
from launch.engine import ENGINES, Job, JobState, Study, engine, options_help, settings_of, write_job
from launch.slurm import _state as slurm_state
from launch.status import Status
from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from tests.sweeps import ROOT, micro_plan


@pytest.fixture(scope="module")
def planned(colony, tmp_path_factory) -> Study:
    return micro_plan(colony, tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(planned, tmp_path) -> Study:
    planned.plan.write(tmp_path)
    return Study.open(tmp_path)


def test_a_real_allocation_that_fails_is_out_of_memory():
    with pytest.raises(Exception, match=r"memory|RESOURCE") as told:
        jnp.zeros((10**15,), jnp.float32).block_until_ready()
    assert causes.of_error(told.value) == causes.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), causes.OUT_OF_MEMORY),
        (OSError(28, "No space left on device"), causes.DISK_FULL),
        (UserError("x: the disk is full", cause="disk_full"), causes.DISK_FULL),
        (UserError("not finite", cause="nan"), causes.NAN),
        (UserError("no such session"), causes.REFUSED),
        (ZeroDivisionError("x"), causes.ERROR),
    ],
)
def test_causes_of_errors(error, cause):
    assert causes.of_error(error) == cause


@pytest.mark.parametrize(
    ("code", "told", "for_memory", "cause"),
    [
        (-signal.SIGKILL, "", False, causes.LOST),
        (137, "", False, causes.LOST),
        (-signal.SIGKILL, "", True, causes.OUT_OF_MEMORY),
        (-signal.SIGABRT, "terminate called after throwing 'std::bad_alloc'", False, causes.OUT_OF_MEMORY),
        (-signal.SIGSEGV, "", False, causes.ERROR),
        (76, "process 1 of 2 was lost", False, causes.LOST),
        (2, "error: x", False, causes.REFUSED),
        (1, "", False, causes.ERROR),
    ],
)
def test_causes_of_workers_that_say_nothing(code, told, for_memory, cause):
    found, line = causes.of_status(code, told, for_memory)
    assert found == cause
    assert line


def test_every_cause_has_a_policy_that_help_states(capsys):
    assert not {causes.NAN, causes.OUT_OF_MEMORY, causes.REFUSED} & {c for c, p in causes.POLICY.items() if p.retried}
    assert causes.POLICY[causes.LOST].retried
    with pytest.raises(SystemExit):
        cli.main(["sweep", "launch", "--help"])
    told = capsys.readouterr().out
    for cause in causes.CAUSES:
        assert cause in told
    assert causes.policy_text("") in (ROOT / "docs" / "launch.md").read_text()
    for name in ENGINES:
        assert f"options of --on {name}" in told
        assert options_help(name) in told


def test_options_are_typed_and_named(tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("time: 2:00:00\nsetup:\n  - module load cuda, gcc\ngpus: 1\n")
    found = settings_of("slurm", ["gpus=4", "sbatch=exclusive,constraint=a100"], file)
    assert found == {
        "time": "2:00:00",
        "setup": ("module load cuda, gcc",),
        "gpus": 4,
        "sbatch": ("exclusive", "constraint=a100"),
    }
    assert settings_of("sky", ["spot=false"]) == {"spot": False}
    for given, message in (
        (["partitoin=x"], "did you mean partition"),
        (["gpus=many"], "option gpus is 'many' - give int"),
        (["gpus"], "has no value"),
    ):
        with pytest.raises(UserError, match=message):
            settings_of("slurm", given)
    with pytest.raises(UserError, match="no such file"):
        settings_of("slurm", [], tmp_path / "none.yaml")


def test_sbatch_files_say_what_was_asked(study):
    options = settings_of(
        "slurm",
        ["partition=gpu", "gpus=2", "mem=64GB", "time=1-00:00", "account=lab", "qos=low", "sbatch=constraint=a100"],
    )
    text = engine("slurm", study, {**options, "array": 3}).preview([cell.run_id for cell in study.plan.cells])
    for line in (
        "partition=gpu",
        "gpus-per-node=2",
        "mem=64GB",
        "time=1440",
        "account=lab",
        "qos=low",
        "constraint=a100",
    ):
        assert f"#SBATCH --{line}\n" in text
    assert "#SBATCH --requeue" in text
    assert text.count("#!/bin/bash") == 2, "arrays of at most three cells"
    assert all(f"--run {cell.run_id}" in text for cell in study.plan.cells)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("PENDING", ("queued", "")),
        ("RUNNING", ("running", "")),
        ("COMPLETED", ("gone", "")),
        ("OUT_OF_MEMORY", ("gone", causes.OUT_OF_MEMORY)),
        ("NODE_FAIL", ("gone", causes.LOST)),
        ("TIMEOUT", ("gone", causes.TIME_LIMIT)),
        ("PREEMPTED", ("gone", causes.PREEMPTED)),
        ("", ("gone", "")),
    ],
)
def test_what_slurm_says(word, expected):
    assert slurm_state(word, "")[:2] == expected


def test_silent_workers_are_written_down_as_lost(study):
    first, second, third, fourth = (study.run_folder(cell.run_id) for cell in study.plan.cells)
    long_ago = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)).isoformat()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    here = status.socket.gethostname()
    status.write(first, Status("running", host="elsewhere", updated=long_ago, step=7))
    status.write(second, Status("running", host=here, pid=ended.pid, updated=status.now()))
    status.write(third, Status("running", host="elsewhere", updated=status.now()))
    status.write(fourth, Status("done", updated=long_ago))
    states.settle(study.folder)
    said = [status.read(folder) for folder in (first, second, third, fourth)]
    assert [s.state for s in said] == ["failed", "failed", "running", "done"]
    assert [s.cause for s in said] == [causes.LOST, causes.LOST, "", ""]
    assert "its worker on elsewhere is gone: no sign of life since" in said[0].error
    assert said[0].step == 7, "how far it was is kept"
    assert said[0].config_hash == study.plan.cells[0].config_hash


@pytest.mark.parametrize(
    ("asked", "said", "state", "cause"),
    [
        (JobState("queued"), Status(""), "queued", ""),
        (JobState("queued"), Status("interrupted", updated="2"), "queued", ""),
        (JobState("running"), Status(""), "running", ""),
        (
            JobState("gone", causes.OUT_OF_MEMORY, "SLURM says OUT_OF_MEMORY"),
            Status(""),
            "failed",
            causes.OUT_OF_MEMORY,
        ),
        (JobState("gone"), Status(""), "failed", causes.LOST),
        (
            JobState("gone", causes.TIME_LIMIT),
            Status("running", host="x", updated="5"),
            "interrupted",
            causes.TIME_LIMIT,
        ),
        (JobState("gone"), Status("interrupted", cause="stopped", updated="5"), "interrupted", "stopped"),
        (JobState("unknown", told="no `squeue` here"), Status(""), "queued", ""),
        (JobState("running"), Status("failed", cause="nan", updated="0"), "running", ""),
        (JobState("gone"), Status("done", updated="0"), "done", ""),
    ],
)
def test_the_engine_knows_about_jobs_and_the_worker_about_the_cell(study, monkeypatch, asked, said, state, cause):
    cell = study.plan.cells[0]
    submitted = "2021-01-01T00:00:00.000+00:00"
    if said.updated:
        said = dataclasses.replace(said, updated=f"202{said.updated}-01-01T00:00:00.000+00:00")
    said = dataclasses.replace(said, engine="slurm")
    status.write(study.run_folder(cell.run_id), said)
    write_job(study, cell.run_id, Job("slurm", "7", submitted, {}))
    monkeypatch.setattr("launch.slurm.Slurm.states", lambda self, jobs: dict.fromkeys(jobs, asked))
    found = states.look(study)[0]
    assert (found.state, found.said.cause if state in ("failed", "interrupted") else "") == (state, cause)
    if state != "done":
        assert status.read(study.run_folder(cell.run_id)).cause == found.said.cause


def test_the_table_says_how_far_and_how_long(study, capsys):
    cells = study.plan.cells
    half = Status(
        "running", host="x", updated=status.now(), phase="train", step=50, total=100, rate=2.0, started=status.now()
    )
    status.write(study.run_folder(cells[0].run_id), half)
    status.write(
        study.run_folder(cells[1].run_id), Status("failed", updated=status.now(), cause="nan", error="not finite")
    )
    found = states.look(study)
    assert states.counts(found) == {"missing": 2, "running": 1, "failed": 1}
    assert states.left_s(found) == 25
    waiting = [dataclasses.replace(cell, state="queued") if cell.state == "missing" else cell for cell in found]
    assert states.left_s(waiting) == 25 + 2 * 50, "a waiting cell takes as long as those that run"
    assert cli.main(["sweep", "status", str(study.folder / "plan.json")]) == 1
    told = capsys.readouterr().out
    assert "50/100  2 steps/s  25s" in told
    assert "nan: not finite" in told
    assert "2 missing, 1 running, 1 failed of 4 cells   ETA 25s" in told
    from rich.console import Console

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(board.table(found, "micro"))
    assert "50/100" in console.export_text()


def test_a_queue_hands_out_each_cell_once(study):
    queue = local._Queue(study.folder)
    with queue.locked():
        for run_id in ("a", "b", "a-b"):
            queue.add(run_id, ["x", run_id])
        queue.add("a", ["again", "a"])
        assert queue.waiting() == ["b", "a-b", "a"]
        queue.remove("b")
        assert [queue.take() for _ in range(3)] == [("a-b", ["x", "a-b"]), ("a", ["again", "a"]), None]


def test_a_dry_run_submits_nothing(study, capsys):
    assert cli.main(["sweep", "launch", str(study.folder), "--on", "local", "--dry-run", "--parallel", "2"]) == 0
    told = capsys.readouterr()
    assert told.out.count(" sweep cell ") == 4
    assert "4 cells to submit (4 missing); nothing was submitted" in told.err
    assert not (study.folder / "launch").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["launch", "--on", "local", "--run", "nobody"], "no cell nobody"),
        (["launch", "--on", "local", "--attempts", "0"], "use a positive whole number"),
        (["launch", "--on", "gke", "--parallel", "2"], "has no option 'parallel'"),
        (["retry", "--cause", "bad_luck"], "causes: lost"),
        (["cell", "--run", "nobody"], "no cell nobody"),
    ],
)
def test_bad_input_is_one_line(study, capsys, argv, message):
    part, *rest = argv
    assert cli.main(["sweep", part, str(study.folder), *rest]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.strip().splitlines()) == 1


def test_watching_needs_no_jax():
    code = "import sys, launch.cell, launch.states, launch.local, launch.slurm, launch.sky, launch.gke, launch.board, launch.work"
    subprocess.run([sys.executable, "-c", f"{code}; assert 'jax' not in sys.modules"], check=True, cwd=ROOT)


def test_a_status_that_cannot_be_read_is_none(tmp_path):
    assert status.read(tmp_path) is None
    (tmp_path / "status.json").write_text("{half")
    assert status.read(tmp_path) is None
    (tmp_path / "status.json").write_text(json.dumps({"state": "done", "of_a_later_version": 1}))
    assert status.read(tmp_path).state == "done"
