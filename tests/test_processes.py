"""One run in several real processes, over loopback: the same numbers, own rows only, and an end that all of them share."""

from __future__ import annotations

import json
import re
import signal
import socket

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.training import processes
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.processes import Place, StopSignal, joined
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.track import read_metrics
from omnimouse_jax.training.train import training_batches
from tests.micro import micro
from tests.processes import Group, free_port

#: One regime: fewer programs to compile, in each process anew.
ONE = {"regimes": ["stimulus"], "evaluation__tasks": {"stimulus": "stimulus"}, "mesh__data": -1, "train__steps": 6}
#: Seconds for a run of a few steps that compiles first, on a busy machine.
LONG = 240.0
#: Compiling is most of the time here.
QUICK = "--xla_backend_optimization_level=0"


def run(store: str, folder, n: int, devices: int, name: str = "run", **told) -> Group:
    """Trains in `n` processes of `devices` devices each."""
    changes = {**ONE, **told.pop("changes", {})}
    return Group(
        "train", n, devices=devices, flags=QUICK, store=store, workdir=str(folder / name), settings=changes, **told
    )


def finished(store: str, folder, n: int, devices: int, name: str = "run", **told) -> None:
    with run(store, folder, n, devices, name, **told) as group:
        group.wait(LONG)
    assert group.statuses == [0] * n, "\n".join(group.errors)


def params(store: str, workdir, step: int = 6) -> dict[str, np.ndarray]:
    parts = prepare(micro(store))
    target = restore_target(parts.model, parts.capacity, parts.mesh).params
    read = Checkpoints(workdir, read_only=True).restore_params(step, target)
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(read)}


def require_same(store: str, folder, a: str, b: str) -> None:
    """Losses of every step and final parameters of two runs."""
    rows_a, rows_b = (read_metrics(folder / name) for name in (a, b))
    assert list(rows_a) == list(rows_b) == [1, 2, 3, 4, 5, 6]
    for step, row in rows_a.items():
        timings = {"windows_per_s", "waiting_for_data", "regime"}
        assert row.keys() == rows_b[step].keys()
        for field in row.keys() - timings:
            assert row[field] == pytest.approx(rows_b[step][field], rel=1e-5), (step, field)
    params_a, params_b = (params(store, folder / name) for name in (a, b))
    for path, value in params_a.items():
        np.testing.assert_allclose(value, params_b[path], rtol=1e-5, atol=1e-6, err_msg=path)


def require_own_rows(store: str, folder, rows: list[slice], steps: int = 6, batch: int = 8) -> None:
    """That each process read these rows of every batch, and of the first once more to compile ahead."""
    settings = {**ONE, "mesh__data": 1, "evaluation__tasks": ConfigDict(ONE["evaluation__tasks"])}
    order = training_batches(prepare(micro(store, **settings))).order
    for process, mine in enumerate(rows):
        read = sorted(tuple(window) for window in json.loads((folder / f"read.{process}").read_text()))
        numbers = [step * batch + row for step in (0, *range(steps)) for row in range(batch)[mine]]
        assert read == sorted((order[number].session, order[number].start) for number in numbers)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("host:1234", "", ""), "--processes and --process-id not given"),
        (("host:1234", 2, ""), "--process-id not given"),
        (("", 2, 0), "--coordinator not given"),
        (("", "", 1), "--coordinator and --processes not given"),
        (("host", 2, 0), "--coordinator host is not HOST:PORT"),
        (("host:99999", 2, 0), "is not HOST:PORT"),
        (("host:0", 2, 0), "is not HOST:PORT"),
        (("host:1234", "two", 0), "--processes two is not a whole number"),
        (("host:1234", 2, 2), "--process-id 2 of --processes 2"),
        (("host:1234", 2, -1), "--process-id -1 is not a whole number"),
        (("host:1234", 0, 0), "--process-id 0 of --processes 0"),
    ],
)
def test_half_given_and_wrong_arguments_are_errors(arguments, what):
    with pytest.raises(UserError, match=what), joined(*arguments):
        pass


def test_variables_say_what_flags_do_not(monkeypatch):
    monkeypatch.setenv(processes.COORDINATOR, "[::1]:1234")
    monkeypatch.setenv(processes.PROCESSES, "4")
    monkeypatch.setenv(processes.PROCESS_ID, "3")
    assert processes._told("", "", "") == Place("::1", 1234, 4, 3)
    assert processes._told("node:99", "", "1") == Place("node", 99, 4, 1)
    monkeypatch.setenv(processes.SILENCE_S, "soon")
    with pytest.raises(UserError, match="OMNIMOUSE_SILENCE_S=soon is not a number of seconds"), joined():
        pass


def test_a_single_process_needs_nothing(monkeypatch):
    for arguments in (("", "", ""), ("", 1, ""), ("host:1234", 1, 0)):
        with joined(*arguments), StopSignal() as stop:
            assert not stop.agreed(1)
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)  # schedulers repeat themselves
            assert stop.agreed(2)
        assert not jax.distributed.is_initialized()
    with StopSignal():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


SLURM = {"SLURM_JOB_ID": "70", "SLURM_STEP_ID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "2"}


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("gpu7", "gpu7"), ("gpu7,gpu9", "gpu7"), ("gpu[007-015,020],x1", "gpu007"), ("rack2-gpu[3,5]", "rack2-gpu3")],
)
def test_tasks_of_a_slurm_step_meet_on_its_first_node(nodes, host):
    assert processes._slurm({**SLURM, "SLURM_STEP_NODELIST": nodes}) == Place(host, 61440 + 1121, 4, 2)


def test_a_single_slurm_task_is_alone():
    assert processes._slurm({**SLURM, "SLURM_STEP_NODELIST": "a", "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert (
        processes._slurm({"SLURM_JOB_ID": "70", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
    )  # not started by srun


@pytest.mark.parametrize(
    ("tasks", "visible", "devices"),
    [("1(x2)", "0,1,2,3", None), ("4(x2)", "0,1,2,3", (2,)), ("4(x2)", "0", None), ("4(x2)", "", None)],
    ids=["one task a node takes all", "one accelerator each", "bound by slurm", "no accelerators"],
)
def test_tasks_that_share_a_node_share_its_accelerators(tasks, visible, devices):
    told = {"SLURM_STEP_TASKS_PER_NODE": tasks, "CUDA_VISIBLE_DEVICES": visible, "SLURM_LOCALID": "2"}
    assert processes._slurm_devices(told) == devices


def test_the_death_of_process_0_is_named_before_jax_aborts():
    with Group("sum", 3, steps=10_000, at=10, victim=0, act="kill") as group:
        group.wait(60)
    assert group.statuses == [-signal.SIGKILL, 76, 76]
    assert all(f"process 0 (host {socket.gethostname()}, pid {group.pids[0]}) died" in e for e in group.errors[1:])
    assert max(group.ended[1:]) - group.acted_at < 5


def test_the_command_line_refuses_processes_with_other_configs(colony, tmp_path):
    argv = ["train", "--config", "configs/tiny.py", "--store", colony, "--workdir", str(tmp_path / "run")]
    with Group("cli", 2, changes={i: {"argv": [*argv, f"--config.seed={i}"]} for i in range(2)}) as group:
        group.wait(60)
    assert group.statuses == [2, 2]
    for error in group.errors:
        assert re.match(
            r"error: process 0 and process 1 \(.*\) were started with different configs \(seed: 0 and 1\)", error
        )
    assert not (tmp_path / "run").exists()


def test_a_machine_that_is_no_cluster_is_told_so(colony, tmp_path):
    argv = ["train", "--config", "configs/tiny.py", "--store", colony, "--workdir", str(tmp_path / "run")]
    with Group("cli", "auto", only=[0], argv=argv) as group:
        group.wait(60)
    assert group.statuses == [2]
    assert "jax cannot join those of this cluster (coordinator_address should be defined.)" in group.errors[0]
    assert "--processes 1 to run on this machine alone" in group.errors[0]


def test_two_processes_train_as_one(colony, tmp_path):
    """The same losses and parameters; each process reads its own rows only."""
    quick = {"train__validation_windows": 0}  # a program less to compile
    finished(colony, tmp_path, 1, 2, "one", changes=quick)
    finished(colony, tmp_path, 2, 1, "two", changes=quick, read=str(tmp_path / "read"))
    require_same(colony, tmp_path, "one", "two")
    require_own_rows(colony, tmp_path, [slice(0, 4), slice(4, 8)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "devices", "mesh", "rows"),
    [
        (2, 2, {}, [slice(0, 4), slice(4, 8)]),
        (4, 1, {}, [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]),
        (4, 1, {"mesh__fsdp": 2}, [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]),
        (4, 1, {"mesh__tensor": 2}, [slice(0, 4), slice(0, 4), slice(4, 8), slice(4, 8)]),  # pairs share their rows
        (2, 2, {"mesh__data": 1, "mesh__fsdp": 4}, [slice(0, 4), slice(4, 8)]),
    ],
    ids=["2 x 2", "4 x 1", "fsdp in pairs", "tensor in pairs", "fsdp"],
)
def test_more_processes_train_as_one(colony, tmp_path, n, devices, mesh, rows):
    finished(colony, tmp_path, 1, 4, "one", changes=mesh)
    finished(colony, tmp_path, n, devices, "many", changes=mesh, read=str(tmp_path / "read"))
    require_same(colony, tmp_path, "one", "many")
    require_own_rows(colony, tmp_path, rows)


@pytest.fixture(scope="module")
def unbroken(colony, tmp_path_factory):
    """A folder with `one`: 6 steps in one process on 2 devices."""
    folder = tmp_path_factory.mktemp("unbroken")
    finished(colony, folder, 1, 2, "one")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "act", "status", "told"),
    [
        (0, "kill", -signal.SIGKILL, "died without a word"),
        (1, "kill", -signal.SIGKILL, "died without a word"),
        (0, "fail", 2, "ended with an error: the recording has teeth - call a dentist"),
        (1, "fail", 2, "ended with an error: the recording has teeth - call a dentist"),
        (1, "crash", 1, "ended with an error: RuntimeError: a bug"),
    ],
)
def test_a_run_that_lost_a_process_goes_on(colony, unbroken, victim, act, status, told):
    name, other = f"{act}-{victim}", 1 - victim
    with run(
        colony, unbroken, 2, 1, name, at=4, victim=victim, act=act
    ) as group:  # 4 steps are saved by then, or about to be
        group.wait(LONG)
    assert group.statuses[victim] == status
    assert group.statuses[other] == 76
    assert (
        f"error: process {victim} (host {socket.gethostname()}, pid {group.pids[victim]}) {told}" in group.errors[other]
    )
    assert group.ended[other] - group.acted_at < 10
    finished(colony, unbroken, 2, 1, name)  # the same command
    require_same(colony, unbroken, "one", name)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_run_with_a_hung_process_goes_on(colony, unbroken, victim):
    name, other = f"stop-{victim}", 1 - victim
    silence = {"OMNIMOUSE_SILENCE_S": "4"}
    with run(colony, unbroken, 2, 1, name, at=4, victim=victim, act="stop", environment=silence) as group:
        group.wait(LONG, but=victim)
        assert group.statuses[other] == 76
        assert (
            f"process {victim} (host {socket.gethostname()}, pid {group.pids[victim]}) has given no sign"
            in group.errors[other]
        )
        assert group.ended[other] - group.acted_at < 4 + 10
    finished(colony, unbroken, 2, 1, name)
    require_same(colony, unbroken, "one", name)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_preemption_notice_to_one_process_saves_the_same_step_in_all(colony, unbroken, victim):
    """And the run goes on in another number of processes, and in another: 2 -> 1 -> 4."""
    name = f"term-{victim}"
    with run(colony, unbroken, 2, 1, name, at=1, victim=victim, act="term") as group:
        group.wait(LONG)
    assert group.statuses == [75, 75]
    steps = [re.search(r"stopped at step (\d+) of 6, saved", error) for error in group.errors]
    assert steps[0] is not None
    assert steps[1] is not None
    assert steps[0][1] == steps[1][1]
    first = int(steps[0][1])
    assert Checkpoints(unbroken / name, read_only=True).latest() == first
    with run(colony, unbroken, 1, 2, name, at=first, victim=0, act="term") as group:
        group.wait(LONG)
    assert group.statuses == [75]
    assert Checkpoints(unbroken / name, read_only=True).latest() == first + 1
    finished(colony, unbroken, 4, 1, name)
    require_same(colony, unbroken, "one", name)


@pytest.mark.slow
def test_processes_that_jax_finds_are_joined():
    """The variables of Open MPI, as mpirun would set them: jax reads the address, processes and numbers from them."""
    job = free_port() % 4096 << 12
    said = {"OMPI_MCA_orte_hnp_uri": f"{job}.0;tcp://127.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
    ranks = [{"OMPI_COMM_WORLD_RANK": str(i), "OMPI_COMM_WORLD_LOCAL_RANK": str(i)} for i in range(2)]
    nothing = {"coordinator": "", "processes": "", "process": ""}
    asked = {i: {**nothing, "environment": {**said, **ranks[i]}} for i in range(2)}
    with Group("sum", 2, steps=5, changes=asked) as group:
        group.wait(60)
    assert group.statuses == [0, 0]
    assert [told["devices"] for told in group.told("devices")] == [2.0, 2.0]
    with Group(
        "sum", 2, steps=10_000, at=10, victim="nobody", act="term", changes={**asked, 0: {**asked[0], "victim": "all"}}
    ) as group:
        group.wait(60)
    assert group.statuses == [0, 0]
    assert len({told["stopped"] for told in group.told("stopped")}) == 1


@pytest.mark.slow
def test_tasks_of_a_slurm_step_are_joined():
    said = {"SLURM_JOB_ID": str(free_port()), "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "localhost"}
    tasks = [{**said, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    asked = {i: {"coordinator": "", "processes": "", "process": "", "environment": tasks[i]} for i in range(2)}
    with Group("sum", 2, steps=5, changes=asked) as group:
        group.wait(60)
    assert group.statuses == [0, 0]
    assert [told["devices"] for told in group.told("devices")] == [2.0, 2.0]
