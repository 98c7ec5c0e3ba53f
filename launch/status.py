"""What a cell says of itself: `runs/RUN_ID/status.json`, and how far its steps are."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import socket
from pathlib import Path
from typing import Any, NamedTuple

from omnimouse_jax.files import write_atomically

FILE = "status.json"
RUNNING, DONE, FAILED, INTERRUPTED = "running", "done", "failed", "interrupted"
#: Seconds between signs of life of a worker, and after how many without one it counts as lost.
HEARTBEAT_S = 10.0
STALE_S = float(os.environ.get("OMNIMOUSE_STALE_S", 300))


@dataclasses.dataclass(frozen=True)
class Status:
    """One cell as its worker last said; times are UTC, as ISO text."""

    state: str
    config_hash: str = ""
    engine: str = ""
    job: str = ""
    host: str = ""
    pid: int = 0
    born: str = ""  # when that process began (`Process`)
    attempt: int = 0  # since the cell was first started
    started: str = ""  # this attempt
    updated: str = ""  # last sign of life
    cause: str = ""  # of a failure or an interruption (`launch.causes`)
    error: str = ""  # one line
    details: str = ""
    phase: str = ""  # train, anneal K, evaluate
    step: int = 0  # of `total`: the run's and its branches'
    total: int = 0
    rate: float | None = None  # steps per second of this attempt
    failures: tuple[dict[str, Any], ...] = ()  # earlier attempts: attempt, cause, error, updated

    def age(self) -> float:
        """Seconds since the last sign of life."""
        return seconds_since(self.updated) if self.updated else float("inf")

    def is_silent(self) -> bool:
        """Whether a worker that says it runs cannot be alive: its process is gone, or it is silent for too long."""
        if self.state != RUNNING:
            return False
        if self.host == socket.gethostname() and self.pid:
            return not self.is_alive_here()
        return self.age() > STALE_S

    def is_alive_here(self) -> bool:
        """Whether it says that it runs, and its process lives on this machine."""
        here = self.state == RUNNING and self.host == socket.gethostname() and self.pid
        return bool(here) and Process(self.pid, self.born).is_alive()

    def with_failure(self, cause: str, error: str, details: str = "") -> Status:
        return dataclasses.replace(
            self, state=FAILED, cause=cause, error=error, details=details, phase="", rate=None, updated=now()
        )

    def interrupted(self, cause: str) -> Status:
        return dataclasses.replace(self, state=INTERRUPTED, cause=cause, phase="", rate=None, updated=now())


def read(folder: Path) -> Status | None:
    """The status of a run folder; None if it has none, or one that cannot be read."""
    try:
        values = json.loads((folder / FILE).read_text(encoding="utf-8"))
        known = {field.name for field in dataclasses.fields(Status)}
        kept = {name: value for name, value in values.items() if name in known and value is not None}
        return Status(**{**kept, "failures": tuple(kept.get("failures", ()))})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write(folder: Path, status: Status) -> None:
    write_atomically(folder / FILE, json.dumps(dataclasses.asdict(status), indent=1) + "\n")


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def seconds_since(moment: str) -> float:
    then = datetime.datetime.fromisoformat(moment)
    return (datetime.datetime.now(datetime.UTC) - then).total_seconds()


class Process(NamedTuple):
    """A process of this machine, and not another one that has its number later: numbers are given again, at once after a reboot."""

    pid: int
    born: str = ""  # the boot of the machine and the clock tick since then at which it began; empty where the system does not say

    @classmethod
    def of(cls, pid: int) -> Process:
        fields = _stat(pid)
        return cls(pid, f"{_boot()}:{fields[19]}" if fields else "")

    @classmethod
    def parsed(cls, text: str) -> Process:
        """Of `str(process)`. ValueError for anything else."""
        pid, _, born = text.strip().partition(" ")
        return cls(int(pid), born)

    def __str__(self) -> str:
        return f"{self.pid} {self.born}".strip()

    def is_alive(self) -> bool:
        """Whether it runs: one that has ended and was not waited for does not."""
        if fields := _stat(self.pid):
            return fields[0] not in "ZX" and self.born in ("", f"{_boot()}:{fields[19]}")
        if Path("/proc/self/stat").exists():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True

    def send(self, signum: int) -> None:
        """Signals it, if it lives."""
        if self.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signum)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third one on: state is [0], the start time [19]; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def last_step(folder: Path) -> int:
    """The newest step in a run folder's metrics.jsonl, from its last lines; 0 if there is none."""
    try:
        with (folder / "metrics.jsonl").open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0
