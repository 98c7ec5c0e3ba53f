"""Cells as processes of this machine, a few at a time, that outlive the terminal.

submitit's LocalExecutor starts every job at once, and only the process that submitted a job can ask how it is or stop it. So
there is a queue of files and one process, the pool, that takes cells from it:

    launch/local/queue/ORDER-RUN_ID   waits; in order of names
    launch/local/running/RUN_ID       its worker's process: number and birth
    launch/RUN_ID/log.txt             what its worker printed

The pool ends when the queue is empty. Where it is killed, workers go on, and the next `sweep launch` starts another one.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, NamedTuple

from launch import causes, status
from launch.cell import ATTEMPTS, ENGINE, JOB, is_to_stop
from launch.engine import HERE, JobState, Study, at_least_one, option
from launch.status import Process
from omnimouse_jax.files import write_atomically
from omnimouse_jax.scaling.plan import Plan

#: Seconds between looks at the queue.
LOOK_S = 0.2


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of the local engine; --parallel says how many cells run at a time."""

    parallel: int = option(1, "cells at a time")
    devices: tuple[str, ...] = option(
        (), "accelerators to share out, one a cell at a time, e.g. 0,1,2,3 (CUDA_VISIBLE_DEVICES)"
    )
    nice: int = option(0, "lower priority, 0 to 19")

    def __post_init__(self) -> None:
        at_least_one(self, "parallel")


class Local:
    """The engine."""

    name: ClassVar[str] = "local"
    options_type: ClassVar[type] = Options

    def __init__(self, study: Study, options: Options):
        self.study, self.options = study, options
        self.queue = _Queue(study.folder)

    def preview(self, run_ids: Sequence[str]) -> str:
        lines = [
            f"# {self.options.parallel} at a time, in this order; logs in {self.study.folder}/launch/RUN_ID/log.txt"
        ]
        return "\n".join([*lines, *(" ".join(self.study.command(run_id, program=HERE)) for run_id in run_ids)])

    def submit(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        with self.queue.locked():
            self.queue.settings({**dataclasses.asdict(self.options)})
            running = {run_id for run_id, process in self.queue.running().items() if process.is_alive()}
            added = [run_id for run_id in run_ids if run_id not in running]
            for run_id in added:
                self.queue.add(run_id, self.study.command(run_id, program=HERE))
            self._start_pool()  # where there is one already, this one ends
        yield from ((run_id, "local") for run_id in added)

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        waiting, running = self.queue.waiting(), self.queue.running()
        has_pool = self.queue.has_pool()
        left = "" if has_pool else "nobody takes cells from the queue: `sweep launch` again"
        found = {}
        for run_id in jobs:
            if run_id in running and (has_pool or running[run_id].is_alive()):
                found[run_id] = JobState("running")  # or has just ended: the pool writes that down
            elif run_id in waiting:
                found[run_id] = JobState("queued") if has_pool else JobState("gone", causes.STOPPED, left)
            else:
                found[run_id] = JobState("gone")
        return found

    def cancel(self, jobs: Mapping[str, str]) -> None:
        with self.queue.locked():
            for run_id in jobs:
                self.queue.remove(run_id)
            running = self.queue.running()
        for run_id in jobs:
            if run_id in running:
                running[run_id].send(signal.SIGTERM)

    def _start_pool(self) -> None:
        with (self.queue.folder / "pool.log").open("ab") as log:
            subprocess.Popen(
                [sys.executable, "-m", "launch.local", str(self.study.folder)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # it outlives the terminal
            )


class _Queue:
    """The files of the queue. Whoever changes them holds `locked()`."""

    def __init__(self, study: Path):
        self.study, self.folder = study, study / "launch" / "local"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        for name in ("queue", "running"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        with (self.folder / "queue.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def has_pool(self) -> bool:
        """Whether a pool lives, which holds its lock as long as it does, or was started a moment ago."""
        try:
            with (self.folder / "pool.lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return self._just_started()

    def _just_started(self) -> bool:
        try:
            return time.time() - (self.folder / "settings.json").stat().st_mtime < 60 and bool(self.waiting())
        except FileNotFoundError:
            return False

    def settings(self, values: Mapping[str, object] | None = None) -> Options:
        """What the pool goes by; changed while it runs where `values` are given."""
        path = self.folder / "settings.json"
        if values is not None:
            write_atomically(path, json.dumps(values) + "\n")
        read = json.loads(path.read_text())
        return Options(**{**read, "devices": tuple(read["devices"])})

    def add(self, run_id: str, command: Sequence[str]) -> None:
        self.remove(run_id)
        order = max((int(path.name.split("-")[0]) for path in self._files()), default=0) + 1
        write_atomically(self.folder / "queue" / f"{order:06d}-{run_id}", json.dumps(list(command)))

    def remove(self, run_id: str) -> None:
        for path in self._files():
            if path.name.split("-", 1)[1] == run_id:
                path.unlink(missing_ok=True)

    def waiting(self) -> list[str]:
        return [path.name.split("-", 1)[1] for path in self._files()]

    def take(self, running: Collection[str] = ()) -> tuple[str, list[str]] | None:
        """The next cell that does not run, and its command; it leaves the queue."""
        for path in self._files():
            run_id = path.name.split("-", 1)[1]
            if run_id not in running:
                command = json.loads(path.read_text())
                path.unlink()
                return run_id, command
        return None

    def running(self) -> dict[str, Process]:
        """run_id -> process of those that a pool started and that it has not seen end."""
        found = {}
        for path in (self.folder / "running").glob("*"):
            with contextlib.suppress(OSError, ValueError):
                found[path.name] = Process.parsed(path.read_text())
        return found

    def begun(self, run_id: str, pid: int) -> None:
        write_atomically(self.folder / "running" / run_id, f"{Process.of(pid)}\n")

    def ended(self, run_id: str) -> None:
        (self.folder / "running" / run_id).unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(path for path in (self.folder / "queue").glob("*-*") if not path.name.startswith("."))


def run_pool(study: Path) -> None:
    """Runs what is in a study's queue until nothing is left. Does nothing where another pool does it."""
    queue = _Queue(study)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with (queue.folder / "pool.lock").open("a") as lock:
        if not _locked(lock):
            return
        mine: dict[str, _Worker] = {}
        lost: collections.Counter[str] = collections.Counter()
        while True:
            for run_id in [run_id for run_id, worker in mine.items() if worker.process.poll() is not None]:
                worker = mine.pop(run_id)
                lost[run_id] += 1
                was_lost = _was_lost(study, run_id, worker)
                with queue.locked():
                    if was_lost and lost[run_id] < worker.attempts and not is_to_stop(study, run_id):
                        queue.add(run_id, worker.command)
                    queue.ended(run_id)
            with queue.locked():
                others = _others(queue, mine)
                options = queue.settings()
                while len(mine) + len(others) < options.parallel and (taken := queue.take({*mine, *others})):
                    device = next((d for d in options.devices if d not in {w.device for w in mine.values()}), "")
                    mine[taken[0]] = _start(study, *taken, device, options)
                    queue.begun(taken[0], mine[taken[0]].process.pid)
                if not mine and not queue.waiting() and not others:
                    fcntl.flock(lock, fcntl.LOCK_UN)  # while nobody can add: the next one to add starts another pool
                    return
            time.sleep(LOOK_S)


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    command: list[str]
    device: str

    @property
    def attempts(self) -> int:
        return int(self.command[self.command.index("--attempts") + 1]) if "--attempts" in self.command else ATTEMPTS


def _locked(lock: IO[str]) -> bool:
    """Whether the pool's lock could be taken; whoever only looks at it holds it for a moment."""
    for _ in range(20):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.1)
    return False


def _others(queue: _Queue, mine: Mapping[str, object]) -> list[str]:
    """Cells that an earlier pool started and that still run; those that have ended are forgotten."""
    alive = []
    for run_id, process in queue.running().items():
        if run_id not in mine:
            if process.is_alive():
                alive.append(run_id)
            else:
                queue.ended(run_id)
    return alive


def _start(study: Path, run_id: str, command: list[str], device: str, options: Options) -> _Worker:
    folder = study / "launch" / run_id
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, ENGINE: "local", JOB: "local"}
    if device:
        environment["CUDA_VISIBLE_DEVICES"] = device
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [*(["nice", "-n", str(options.nice)] if options.nice else []), *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return _Worker(process, command, device)


def _was_lost(study: Path, run_id: str, worker: _Worker) -> bool:
    """Writes down a worker that ended without a word, and returns whether it was killed."""
    folder, code = study / "runs" / run_id, worker.process.returncode
    said = status.read(folder)
    if said is not None and said.pid != worker.process.pid and said.state == status.RUNNING and not said.is_silent():
        return False  # another worker's, which runs: this one was refused
    if code == causes.DONE or (said is not None and said.state != status.RUNNING):
        # whoever looked at the cells may have found it dead before
        return said is not None and said.cause == causes.LOST and said.pid == worker.process.pid and code < 0
    log = study / "launch" / run_id / "log.txt"
    tail = log.read_bytes()[-4000:].decode(errors="replace") if log.exists() else ""
    cause, error = causes.of_status(code, tail)
    said = said or status.Status(status.RUNNING, Plan.read(study).cell(run_id).config_hash, engine="local")
    status.write(folder, said.with_failure(cause, error, tail))
    return cause == causes.LOST


if __name__ == "__main__":
    run_pool(Path(sys.argv[1]))
