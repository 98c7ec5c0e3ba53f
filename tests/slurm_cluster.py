"""A real SLURM cluster of one node on the loopback interface: munged, slurmctld and slurmd, started and stopped by a fixture."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")

CONFIG = """
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """What tests ask of the cluster."""

    def __init__(self, folder: Path):
        self.folder = folder

    def scontrol(self, *arguments: str) -> str:
        return subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True).stdout

    def job(self, job: str) -> dict[str, str]:
        """Fields of `scontrol show job`."""
        words = self.scontrol("--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def begin_now(self, job: str) -> None:
        """Lifts the two minutes that SLURM has a requeued job wait."""
        self.scontrol("update", f"JobId={job}", "StartTime=now")


def needed() -> str:
    """Why there can be no cluster here; empty if there can."""
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"SLURM is not installed ({missing[0]} is missing): tests/install.sh installs slurm-wlm and munge"
    return "" if os.geteuid() == 0 else "starting SLURM's daemons needs root"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Cluster]:
    """A running cluster; the environment leads its commands there."""
    if why := needed():
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # munged wants a path that all may walk
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    folder.chmod(0o755)
    config = folder / "slurm.conf"
    config.write_text(CONFIG.format(folder=folder, host=socket.gethostname().split(".")[0], ports=_free_ports()))
    environment = {**os.environ, "SLURM_CONF": str(config)}
    munged = [
        *("munged", "--foreground", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"),
        *(f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munge.seed"),
    ]
    started: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(config))
        try:
            for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
                with (folder / f"{command[0]}.out").open("wb") as out:
                    started.append(subprocess.Popen(command, env=environment, stdout=out, stderr=out))
                _await(folder, started, (folder / "munge.socket").exists)
            _await(folder, started, lambda: "idle" in _said("sinfo", "--noheader", "--format=%T"))
            yield Cluster(folder)
        finally:
            _said("scancel", "--user=root")
            with contextlib.suppress(AssertionError):
                _await(folder, started, lambda: not _said("squeue", "--noheader").strip())
            for process in reversed(started):
                process.terminate()
                try:
                    process.wait(timeout=20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _await(folder: Path, started: list[subprocess.Popen[bytes]], done, seconds: float = 40) -> None:
    until = time.monotonic() + seconds
    while not done():
        logs = "\n".join(path.read_text(errors="replace")[-1500:] for path in folder.glob("*.[ol]*") if path.is_file())
        assert all(process.poll() is None for process in started), f"a daemon of SLURM ended:\n{logs}"
        assert time.monotonic() < until, f"SLURM does not answer:\n{logs}"
        time.sleep(0.1)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


def _free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        return one.getsockname()[1], two.getsockname()[1]
