"""`omnimouse-jax sweep cell`: what every engine runs. Watches the work of one cell and keeps its status.json.

The work is a process of its own (`launch.work`), so whatever ends it - an exception, a full memory, kill -9 - is written down by
one that lives on, and is tried again where that is worth it (`launch.causes.POLICY`). This process imports no jax.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from launch import causes, status
from launch.points import branches, unscored
from launch.status import Process, Status
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.plan import Cell, Plan
from omnimouse_jax.training.lock import alone_in

#: Attempts at a cell whose failure may pass, unless told otherwise.
ATTEMPTS = 3
#: Bytes kept free beside a run, so that a disk that is full can be written down.
RESERVE = 64 * 1024
#: Seconds that the work of a worker that was killed may take to save.
ORPHAN_S = 120.0
#: Set by engines for their workers: which engine, and its name of the job.
ENGINE, JOB = "OMNIMOUSE_ENGINE", "OMNIMOUSE_JOB"


def run_cell(study: Path, run_id: str, attempts: int = ATTEMPTS, store: str = "") -> int:
    """Trains, anneals and evaluates a cell; returns the exit status: 0 done, 1 failed, 2 refused, 75 or 130 stopped and saved,
    76 its process was lost too often.

    A cell that is done is left as it is; one whose plan has got more points since goes on with those. UserError, and nothing is
    written, where another process works on it, or where it was begun with another config.
    """
    cell = Plan.read(study).cell(run_id)
    folder = study / "runs" / run_id
    if not _is_first():  # of several processes, another one speaks for all
        return _Attempt(study, cell, store, _Silent(folder)).run()
    with alone_in(cell_folder(study, run_id)):
        before = require_same(folder, cell.config_hash)
        if before is not None and before.state == status.DONE and not unscored(folder, cell):
            print(f"cell {run_id}: done already")
            return causes.DONE
        _await_orphan(folder)
        return _attempts(study, cell, folder, before, attempts, store)


def _await_orphan(folder: Path) -> None:
    """Returns when nobody trains in a run folder: the work of a killed worker saves and stops. UserError if it does not."""
    until = time.monotonic() + ORPHAN_S
    while True:
        try:
            with alone_in(folder):
                return
        except UserError:
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def cell_folder(study: Path, run_id: str) -> Path:
    """Where engines keep what they know of a cell: its job, its log, its lock."""
    return study / "launch" / run_id


def stop_file(study: Path, run_id: str) -> Path:
    """There from `sweep stop` to the next submission."""
    return cell_folder(study, run_id) / "stop"


def is_to_stop(study: Path, run_id: str) -> bool:
    return stop_file(study, run_id).exists()


def require_same(folder: Path, config_hash: str) -> Status | None:
    """The status of a cell's run folder. UserError if it was begun with another recipe or other sessions: a study may grow,
    its cells may not change."""
    before = status.read(folder)
    if before is not None and before.config_hash and before.config_hash != config_hash:
        raise UserError(
            f"study cell {folder}: begun with another config or other sessions "
            f"(config hash {before.config_hash}, now {config_hash})",
            way_out="use a new study folder, or remove this cell's folder to train it again",
        )
    return before


def _attempts(study: Path, cell: Cell, folder: Path, before: Status | None, attempts: int, store: str) -> int:
    failures = before.failures if before else ()
    if before is not None and before.state == status.FAILED:
        failures = (*failures, failure(before))
    first = before.attempt if before else 0
    for number in range(1, attempts + 1):
        told = _Told(folder, _begun(cell, first + number, failures))
        code = _Attempt(study, cell, store, told).run()
        ended = told.status
        if ended.state != status.FAILED or number == attempts or not causes.POLICY[ended.cause].retried:
            return code
        if is_to_stop(study, cell.run_id):
            return code
        pause = causes.POLICY[ended.cause].pause_s
        print(f"cell {cell.run_id}: {ended.cause}: {ended.error}; attempt {number + 1} of {attempts} in {pause:g} s")
        time.sleep(pause)
        failures = (*failures, failure(ended))
    raise AssertionError("no attempt at all")


def failure(ended: Status) -> dict[str, Any]:
    """What is kept of a failed attempt when another one begins."""
    return {name: getattr(ended, name) for name in ("attempt", "cause", "error", "updated")}


def _begun(cell: Cell, attempt: int, failures: tuple[dict[str, Any], ...]) -> Status:
    return Status(
        status.RUNNING,
        config_hash=cell.config_hash,
        engine=os.environ.get(ENGINE, ""),
        job=os.environ.get(JOB, ""),
        host=socket.gethostname(),
        pid=os.getpid(),
        born=Process.of(os.getpid()).born,
        attempt=attempt,
        started=status.now(),
        phase="starting",
        failures=failures,
    )


class _Told:
    """The status.json of an attempt."""

    def __init__(self, folder: Path, begun: Status):
        self.folder, self.status = folder, begun
        self.reserve = folder / ".reserve"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            self.reserve.write_bytes(b"\1" * RESERVE)
        self.seen: tuple[float, int] | None = None
        self.beat()

    def beat(self, phase: str = "starting", step: int = 0, total: int = 0) -> None:
        """A sign of life: how far it is, how fast. Without a word where it cannot be written."""
        if phase != self.status.phase:
            self.seen = None
        self.status = dataclasses.replace(
            self.status, updated=status.now(), phase=phase, step=step, total=total, rate=self._rate(step)
        )
        with contextlib.suppress(OSError):
            status.write(self.folder, self.status)

    def _rate(self, step: int) -> float | None:
        """Steps per second since the first step that was seen in this phase."""
        here = time.monotonic()
        if not step:
            return None
        if self.seen is None:
            self.seen = (here, step)
        since, first = self.seen
        return (step - first) / (here - since) if step > first else None

    def end(self, ended: Status) -> None:
        self.status = ended
        self.reserve.unlink(missing_ok=True)
        status.write(self.folder, ended)


class _Silent(_Told):
    """Of a process that writes nothing."""

    def __init__(self, folder: Path):
        self.folder, self.status, self.seen = folder, Status(status.RUNNING), None

    def beat(self, phase: str = "starting", step: int = 0, total: int = 0) -> None:
        pass

    def end(self, ended: Status) -> None:
        self.status = ended


class _Attempt:
    """One process of work, from its start to its end."""

    def __init__(self, study: Path, cell: Cell, store: str, told: _Told):
        self.study, self.cell, self.store, self.told = study, cell, store, told
        self.signum: int | None = None
        self.process: subprocess.Popen[str] | None = None
        self.tail: collections.deque[str] = collections.deque(maxlen=60)
        self.report: dict[str, Any] = {}

    def run(self) -> int:
        kills = causes.memory_kills()
        with self._signals():
            code = self._work()
            if code == causes.DONE and _processes() > 1 and _is_first():
                code = self._work("--evaluate")  # which is one process's
        ended = self.told.status
        if code == causes.DONE:
            total = self._total
            self.told.end(dataclasses.replace(ended, state=status.DONE, step=total, phase="", updated=status.now()))
            return code
        if self.signum is not None or code in (causes.SAVED, causes.CTRL_C):
            ctrl_c = self.signum == signal.SIGINT or code == causes.CTRL_C
            asked = ctrl_c or is_to_stop(self.study, self.cell.run_id)
            self.told.end(ended.interrupted(causes.STOPPED if asked else causes.PREEMPTED))
            return causes.CTRL_C if ctrl_c else causes.SAVED
        cause, error = self.report.get("cause"), self.report.get("error", "")
        if cause is None:
            cause, error = causes.of_status(code, "\n".join(self.tail), causes.memory_kills() > kills)
        details = self.report.get("details") or "\n".join(self.tail)
        self.told.end(ended.with_failure(cause, error, details))
        print(f"cell {self.cell.run_id} failed: {cause}: {error}", file=sys.stderr, flush=True)
        return {causes.LOST: causes.PEER_LOST, causes.REFUSED: causes.BAD_INPUT}.get(cause, causes.FAILED)

    def _work(self, *flags: str) -> int:
        """Starts the work and returns its exit status when it has ended."""
        reads, writes = os.pipe()
        command = [sys.executable, "-m", "launch.work", str(self.study), self.cell.run_id, f"--report={writes}"]
        self.report = {}
        self.process = subprocess.Popen(
            [*command, *flags, *([f"--store={self.store}"] if self.store else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            pass_fds=[writes],
            start_new_session=True,  # signals reach it through this process only
        )
        os.close(writes)
        readers = [threading.Thread(target=read, daemon=True) for read in (self._copy, lambda: self._listen(reads))]
        for reader in readers:
            reader.start()
        if self.signum is not None:  # it came meanwhile
            self.process.send_signal(self.signum)
        beaten = 0.0
        while self.process.poll() is None:
            phase = self.report.get("phase", "starting")
            if time.monotonic() - beaten > status.HEARTBEAT_S or phase != self.told.status.phase:
                beaten = time.monotonic()
                self.told.beat(phase=phase, **self._steps())
            time.sleep(0.2)
        for reader in readers:
            reader.join(timeout=5)
        return self.process.returncode

    def _steps(self) -> dict[str, Any]:
        """Steps done and steps in all, of the run and its branches."""
        phase, folder = self.report.get("phase", ""), self.told.folder
        ready = self.cell.anneal.index(int(phase[7:])) if phase.startswith("anneal ") else 0
        step = min(status.last_step(folder), self._train_steps)
        if phase.startswith("anneal "):
            at = self.cell.anneal[ready]
            here = status.last_step(branches(folder, self.cell)[at])
            step += ready * self.cell.anneal_steps + max(0, here - at)
        elif phase == "evaluate":
            step = self._total
        return {"step": step, "total": self._total}

    @functools.cached_property
    def _train_steps(self) -> int:
        return int(Plan.read(self.study).config_of(self.cell).train.steps)

    @property
    def _total(self) -> int:
        return self._train_steps + len(self.cell.anneal) * self.cell.anneal_steps

    def _copy(self) -> None:
        """What the work prints, onto this process's output; the last lines are kept."""
        assert self.process is not None
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.tail.append(line.rstrip("\n"))
            with contextlib.suppress(OSError):
                sys.stdout.write(line)
                sys.stdout.flush()

    def _listen(self, reads: int) -> None:
        """What the work reports: its phase, and how it failed."""
        with os.fdopen(reads) as pipe:
            for line in pipe:
                with contextlib.suppress(ValueError):
                    self.report = {**self.report, **json.loads(line)}

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT are passed on; SIGUSR1 and SIGUSR2, which schedulers send before a time limit, as SIGTERM."""
        old = {
            s: signal.signal(s, self._pass_on) for s in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
        }
        try:
            yield
        finally:
            for signum, handler in old.items():
                signal.signal(signum, handler)

    def _pass_on(self, signum: int, frame: Any) -> None:
        self.signum = signal.SIGINT if signum == signal.SIGINT else signal.SIGTERM
        if self.process is not None and self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.process.pid, self.signum)


def _is_first() -> bool:
    """Whether this is process 0 of a run, by what launchers set."""
    names = ("OMNIMOUSE_PROCESS_ID", "SLURM_PROCID", "TPU_WORKER_ID")
    return next((os.environ[name] for name in names if os.environ.get(name)), "0") == "0"


def _processes() -> int:
    hosts = os.environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    told = next((os.environ[name] for name in ("OMNIMOUSE_PROCESSES", "SLURM_NTASKS") if os.environ.get(name)), "")
    return int(told) if told.isdecimal() else len(hosts)
