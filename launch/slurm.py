"""Cells as jobs of a SLURM cluster, submitted by submitit as an array.

Before the time limit SLURM sends SIGUSR2; the worker saves and the job is put back into the queue under its own number, where it
goes on. A preemption or a lost node puts it back too (`--requeue`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from launch import causes, status
from launch.cell import ENGINE, JOB
from launch.engine import HERE, JobState, Study, at_least_one, option
from omnimouse_jax.errors import UserError

#: States of jobs in SLURM's words. What is in neither is over.
WAITING = (
    "PENDING",
    "CONFIGURING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESV_DEL_HOLD",
    "SPECIAL_EXIT",
    "SUSPENDED",
)
BUSY = ("RUNNING", "COMPLETING", "SIGNALING", "STAGE_OUT", "STOPPED", "RESIZING")
CAUSES = {
    "OUT_OF_MEMORY": causes.OUT_OF_MEMORY,
    "NODE_FAIL": causes.LOST,
    "BOOT_FAIL": causes.LOST,
    "TIMEOUT": causes.TIME_LIMIT,
    "DEADLINE": causes.TIME_LIMIT,
    "PREEMPTED": causes.PREEMPTED,
    "CANCELLED": causes.STOPPED,
    "REVOKED": causes.STOPPED,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the SLURM engine, for each cell."""

    partition: str = option("", "partition")
    time: str = option(
        "1:00:00", "time limit, [D-]HH:MM:SS or minutes; a cell that needs longer is requeued and goes on"
    )
    gpus: int = option(0, "GPUs")
    cpus: int = option(1, "CPU cores")
    mem: str = option("", "memory, e.g. 64GB")
    account: str = option("", "account")
    qos: str = option("", "quality of service")
    parallel: int = option(256, "cells at a time (of one array)")
    array: int = option(1000, "most cells in one array (MaxArraySize of the cluster - 1)")
    signal_s: int = option(300, "seconds before the time limit at which a cell saves; must be enough to do so")
    requeues: int = option(1000, "how often a cell may reach its time limit")
    sbatch: tuple[str, ...] = option((), "further options of sbatch, e.g. constraint=a100,exclusive")
    setup: tuple[str, ...] = option((), "shell commands before a cell, e.g. module load cuda (a list in --options)")

    def __post_init__(self) -> None:
        at_least_one(self, "parallel", "array", "cpus")


class Slurm:
    """The engine."""

    name: ClassVar[str] = "slurm"
    options_type: ClassVar[type] = Options

    def __init__(self, study: Study, options: Options):
        self.study, self.options = study, options
        self.folder = (study.folder / "launch" / "slurm").resolve()  # shared with the nodes, as the study is

    def preview(self, run_ids: Sequence[str]) -> str:
        parts = []
        for block in self._blocks(run_ids):
            executor = self._executor(preview=True)
            if len(block) > 1:
                executor.parameters["map_count"] = len(block)
            text = executor._make_submission_file_text(executor._submitit_command_str, "")
            parts.append(f"# sbatch of this file; its tasks run, in this order:\n{text}")
            commands = [" ".join(self.study.command(run_id, program=HERE)) for run_id in block]
            parts.append("\n".join(f"# {number}: {command}" for number, command in enumerate(commands)))
        return "\n".join(parts)

    def submit(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        _require("sbatch")
        for block in self._blocks(run_ids):
            executor = self._executor()
            try:
                with executor.batch():
                    jobs = [executor.submit(Task(self.study.command(run_id, program=HERE))) for run_id in block]
            except Exception as error:
                if type(error).__module__.startswith("submitit") or isinstance(error, subprocess.CalledProcessError):
                    told = causes.last_line(str(error))
                    raise UserError(f"sbatch refused: {told}", way_out="look at the file with --dry-run") from error
                raise
            yield from ((run_id, str(job.job_id)) for run_id, job in zip(block, jobs, strict=True))

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        _require("squeue")
        told = _lines("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%r")
        known = {line[0]: (line[1], line[2]) for line in told if len(line) == 3}
        missing = [job for job in jobs.values() if job not in known]
        if missing and shutil.which("sacct"):
            with contextlib.suppress(UserError):  # a cluster without accounting
                listed = ",".join(sorted({job.split("_")[0] for job in missing}))
                lines = _lines(
                    "sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={listed}"
                )
                known |= {line[0]: (line[1].split()[0], "") for line in lines if len(line) == 2 and line[1]}
        return {run_id: _state(*known.get(job, ("", ""))) for run_id, job in jobs.items()}

    def cancel(self, jobs: Mapping[str, str]) -> None:
        _require("scancel")
        found = self.states(jobs)
        for state, how in (
            ("queued", []),
            ("running", ["--signal=TERM"]),
        ):  # no SIGKILL after it: saving takes what it takes
            if ids := [job for run_id, job in jobs.items() if found[run_id].state == state]:
                _lines("scancel", "--quiet", *how, *ids)

    def _blocks(self, run_ids: Sequence[str]) -> list[list[str]]:
        size = max(1, self.options.array)
        return [list(run_ids[i : i + size]) for i in range(0, len(run_ids), size)]

    def _executor(self, preview: bool = False) -> Any:
        """submitit's, with the options; for a preview it need not be a machine of the cluster."""
        executor_type: Any = _submitit().SlurmExecutor

        class Anywhere(executor_type):
            @classmethod
            def affinity(cls) -> int:
                return 1

        options = self.options
        given = {
            "partition": options.partition,
            "gpus_per_node": options.gpus,
            "mem": options.mem,
            "account": options.account,
            "qos": options.qos,
            "setup": list(options.setup),
        }
        more: dict[str, Any] = {}
        for part in options.sbatch:
            name, equals, value = part.lstrip("-").partition("=")
            more[name] = value if equals else True
        executor = (Anywhere if preview else executor_type)(self.folder, max_num_timeout=options.requeues)
        executor.update_parameters(
            **{name: value for name, value in given.items() if value},
            job_name=re.sub(r"[^\w.-]", "-", self.study.plan.study),
            time=minutes(options.time),
            cpus_per_task=options.cpus,
            nodes=1,
            array_parallelism=options.parallel,
            signal_delay_s=options.signal_s,
            additional_parameters={"requeue": True, **more},
        )
        return executor


class Task:
    """What submitit runs on a node: the worker, which it can stop and put back into the queue."""

    def __init__(self, command: Sequence[str]):
        self.command = list(command)

    def __call__(self) -> None:
        from submitit import JobEnvironment

        environment = {**os.environ, ENGINE: "slurm", JOB: JobEnvironment().job_id}
        self.process = subprocess.Popen(self.command, env=environment)
        signal.signal(signal.SIGTERM, lambda *_: self.process.send_signal(signal.SIGTERM))
        while (code := self.process.poll()) is None:  # not `wait`, which a signal's handler could not call again
            time.sleep(0.2)
        if code:
            sys.exit(code if code > 0 else causes.SHELL - code)

    def checkpoint(self) -> Any:
        """The time limit is near: the worker saves and stops; what is returned is put back into the queue."""
        from submitit.helpers import DelayedSubmission

        if self.process.returncode is None:  # else its number may be another's by now
            os.kill(self.process.pid, signal.SIGTERM)
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        at = self.command.index("cell") + 1
        folder = Path(self.command[at]) / "runs" / self.command[self.command.index("--run") + 1]
        said = status.read(folder)
        if said is not None and said.state == status.INTERRUPTED:
            status.write(folder, said.interrupted(causes.TIME_LIMIT))
        return DelayedSubmission(Task(self.command))


def minutes(text: str) -> int:
    """SLURM's ways to write a time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; rounded up."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text.strip())
    if found is None:
        raise UserError(f"engine slurm: time {text!r}", way_out="write minutes, HH:MM:SS or D-HH:MM:SS")
    days, *rest = found.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is not None:
        hours, mins, seconds = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, mins, seconds = numbers
    else:
        hours, mins, seconds = 0, numbers[0], numbers[1] if len(numbers) == 2 else 0
    total = int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0)
    if not total:
        raise UserError(f"engine slurm: time {text!r} is nothing", way_out="write minutes, HH:MM:SS or D-HH:MM:SS")
    return total


def _submitit() -> Any:
    """The library. It would set up the program's logging when it is imported, and so close streams of others'."""
    before = os.environ.get("SUBMITIT_LOG_LEVEL")
    os.environ["SUBMITIT_LOG_LEVEL"] = "NOCONFIG"
    try:
        return importlib.import_module("submitit")
    except ImportError:
        raise UserError("SLURM needs submitit", way_out="pip install 'omnimouse-jax[slurm]'") from None
    finally:
        if before is None:
            del os.environ["SUBMITIT_LOG_LEVEL"]
        else:
            os.environ["SUBMITIT_LOG_LEVEL"] = before


def _state(state: str, reason: str) -> JobState:
    if state in WAITING:
        return JobState("queued", told=reason if reason != "None" else "")
    if state in BUSY:
        return JobState("running")
    words = f"SLURM says {state}" + (f" ({reason})" if reason not in ("", "None") else "") if state else ""
    return JobState("gone", CAUSES.get(state, ""), words)


def _require(program: str) -> None:
    if shutil.which(program) is None:
        raise UserError(f"SLURM: no `{program}` here", way_out="run it on a login node, or look with --dry-run")


def _lines(*command: str) -> list[list[str]]:
    """Lines of a command's output, as fields. UserError with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise UserError(f"{command[0]}: {causes.last_line(done.stderr)}", way_out="ask again when SLURM answers")
    return [line.strip().split("|") for line in done.stdout.splitlines()]
