"""Why a cell failed, and whether it is worth another attempt. A failure is a cell's, never the sweep's."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import NamedTuple

from omnimouse_jax.errors import UserError
from omnimouse_jax.training.disk import is_full

OUT_OF_MEMORY, NAN, DISK_FULL, LOST = "out_of_memory", "nan", "disk_full", "lost"
TIME_LIMIT, PREEMPTED, STOPPED = "time_limit", "preempted", "stopped"
REFUSED, ERROR = "refused", "error"

#: What the worker leaves with (docs/training.md), and what a shell adds to the number of a signal.
DONE, FAILED, BAD_INPUT, SAVED, PEER_LOST, CTRL_C, SHELL = 0, 1, 2, 75, 76, 130, 128

#: How libraries say that there was no memory.
NO_MEMORY = re.compile(
    r"RESOURCE_EXHAUSTED|[Oo]ut of memory|std::bad_alloc|Cannot allocate memory|CUDA_ERROR_OUT_OF_MEMORY"
)


class Policy(NamedTuple):
    """What is done about a cause without anyone being asked."""

    retried: bool
    pause_s: float  # before the next attempt
    why: str


#: Causes of failures. Each attempt goes on from the newest checkpoint.
POLICY = {
    LOST: Policy(True, 5, "its process or node died: kill -9, NODE_FAIL, status 76, no sign of life"),
    DISK_FULL: Policy(True, 60, "others may free some"),
    ERROR: Policy(True, 5, "any other error: a file system or a driver may have had a bad moment"),
    OUT_OF_MEMORY: Policy(False, 0, "the same cell needs the same memory again"),
    NAN: Policy(False, 0, "training is deterministic: the same step fails again"),
    REFUSED: Policy(False, 0, "the config or the recordings are wrong, and the error says what to do"),
}
#: Causes of interruptions: the cell was saved and goes on. They are no failed attempts.
INTERRUPTIONS = {
    TIME_LIMIT: "the engine's time limit: submitted again by the engine",
    PREEMPTED: "told to stop (SIGTERM): submitted again by engines that preempt, else by the next `sweep launch`",
    STOPPED: "`sweep stop` or Ctrl-C: by the next `sweep launch`",
}
CAUSES = (*POLICY, *INTERRUPTIONS)


def policy_text(indent: str = "  ") -> str:
    """The policy as lines of a table, for --help and the documentation."""
    lines = [
        *(f"{name:14s} {'yes' if policy.retried else 'no ':4s} {policy.why}" for name, policy in POLICY.items()),
        *(f"{name:14s} goes on: {why}" for name, why in INTERRUPTIONS.items()),
    ]
    return "\n".join(indent + line for line in lines)


def of_error(error: BaseException) -> str:
    """The cause of an exception that ended a worker."""
    if isinstance(error, UserError) and error.cause:
        return error.cause
    if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
        return OUT_OF_MEMORY
    if is_full(error):
        return DISK_FULL
    return REFUSED if isinstance(error, UserError) else ERROR


def of_status(status: int, told: str = "", killed_for_memory: bool = False) -> tuple[str, str]:
    """(cause, one line) of a worker that left with `status` (negative: a signal) and did not say why.

    told: the end of what it printed. killed_for_memory: the system killed a process for its memory meanwhile.
    """
    number = -status if status < 0 else status - SHELL if SHELL < status < SHELL + 65 else 0
    if number == signal.SIGKILL:
        if killed_for_memory:
            return OUT_OF_MEMORY, "killed by the system: out of memory"
        return LOST, "killed (signal 9)"
    if NO_MEMORY.search(told):
        return OUT_OF_MEMORY, f"ended with status {status}: {last_line(told)}"
    if status == PEER_LOST:
        return LOST, last_line(told) or "another process of the run was lost"
    if number:
        return ERROR, f"ended by {_signal_name(number)}: {last_line(told)}".rstrip(": ")
    return (REFUSED if status == BAD_INPUT else ERROR), f"ended with status {status}: {last_line(told)}".rstrip(": ")


def last_line(text: str) -> str:
    """The last line that says something, in one piece."""
    lines = [" ".join(line.split()) for line in text.replace("\r", "\n").splitlines()]
    return next((line[:500] for line in reversed(lines) if line), "")


def memory_kills() -> int:
    """How many processes the system has killed for memory so far: of this control group if it counts, else of the machine."""
    for path, key in ((_own_group() / "memory.events", "oom_kill"), (Path("/proc/vmstat"), "oom_kill")):
        try:
            for line in path.read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == key:
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0


def _own_group() -> Path:
    try:
        named = [line.split("::", 1)[1] for line in Path("/proc/self/cgroup").read_text().splitlines() if "::" in line]
    except OSError:
        named = []
    return Path("/sys/fs/cgroup") / (named[0].strip().lstrip("/") if named else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
