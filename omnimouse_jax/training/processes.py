"""One run in several processes: how they are told, how they meet, and how they stop together.

`joined` is a context around everything that uses jax: by default a single process; with --coordinator, --processes and
--process-id (or the variables below) one of several; under SLURM, Open MPI and on TPU pods it finds them by itself.

While they run, each process watches the others (see `peers`): one that dies, hangs or ends with an error stops all of them
with status 76 and a line that names it. Where one is told to stop (SIGTERM), all stop after the same step.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import importlib.util
import json
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from omnimouse_jax.errors import UserError
from omnimouse_jax.training.hub import Hub, listen
from omnimouse_jax.training.peers import LEAVE_S, Limits, Member, meet

#: The same as the flags, for launchers that set variables: HOST:PORT, how many, which.
COORDINATOR, PROCESSES, PROCESS_ID = "OMNIMOUSE_COORDINATOR", "OMNIMOUSE_PROCESSES", "OMNIMOUSE_PROCESS_ID"
#: Seconds to wait for all processes at the start, and for a sign of life of each.
START_S, SILENCE_S = "OMNIMOUSE_START_S", "OMNIMOUSE_SILENCE_S"
#: --processes of who wants jax to find out (clusters that it knows and that cannot be told from one machine with certainty).
AUTO = "auto"
#: Bytes of the message by which processes that jax has joined learn where the hub is.
LETTER = 4096

_member: Member | None = None


class Place(NamedTuple):
    """Where a process of several is told to be."""

    host: str
    port: int
    processes: int
    process: int
    local_devices: tuple[int, ...] | None = None  # of this machine's accelerators; None: all


@contextlib.contextmanager
def joined(
    coordinator: str = "", processes: int | str = "", process_id: int | str = "", same: Mapping[str, Any] | None = None
) -> Iterator[None]:
    """The processes of a run, joined while the body runs. To be entered before jax is asked for a device.

    `same` is what must be alike in all of them, by name (the config). The body ends everywhere or nowhere: whoever is done
    waits for the others, and an error in one ends all. UserError, in bounded time, where they cannot be joined.
    """
    global _member
    limits = Limits(_seconds(START_S, Limits().start_s), _seconds(SILENCE_S, Limits().silence_s))
    place = _told(coordinator, str(processes), str(process_id)) or _slurm(os.environ) or _cluster(os.environ)
    if isinstance(place, Place):
        _member = _join(place, limits, dict(same or {})) if place.processes > 1 else None
    elif place is not None:
        _member = _join_as_jax_finds(limits, dict(same or {}), required=place == AUTO)
    if _member is None:
        yield
        return
    try:
        yield
    except BaseException as error:
        if hasattr(error, "status"):  # stopped and saved, like all others
            _member.goodbye()
            raise
        _fail(_member, error)
        raise
    else:
        _member.goodbye()
    finally:
        _member = None


def is_first() -> bool:
    """Whether this is process 0, which writes the run's files and speaks for all."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """One line on stderr, said once for all processes."""
    if is_first():
        print(text, file=sys.stderr, flush=True)


class StopSignal:
    """Remembers SIGINT and SIGTERM while a loop runs; a second Ctrl-C stops at once.

    Several processes agree on the step to stop after: a signal to any of them is one to all.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.old: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        with contextlib.suppress(ValueError):  # not the main thread: whoever runs us handles signals
            for signum in (signal.SIGINT, signal.SIGTERM):
                self.old[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self.old.items():
            signal.signal(signum, handler)

    def agreed(self, step: int) -> bool:
        """Whether to stop now that `step` steps are done. Every process asks once after each of its steps.

        No device is waited for: a flag is looked up.
        """
        signalled = self.signum is not None
        if _member is None:
            return signalled
        stops = _member.agreed_stop(signalled)
        if stops and not signalled:
            say(f"another process was told to stop: stopping after step {step}, saving ...")
        return stops

    def _note(self, signum: int, frame: Any) -> None:
        if self.signum is not None:
            if signum == signal.SIGINT:
                raise KeyboardInterrupt
            return  # schedulers repeat themselves
        self.signum = signum
        print("\nstopping after this step, saving ... (Ctrl-C again to stop at once)", file=sys.stderr)


def _told(coordinator: str, processes: str, process_id: str) -> Place | str | None:
    """What flags, or else variables, say: a place, `auto`, or nothing. UserError where they say half of it."""
    given = {
        "--coordinator": coordinator or os.environ.get(COORDINATOR, ""),
        "--processes": processes or os.environ.get(PROCESSES, ""),
        "--process-id": process_id or os.environ.get(PROCESS_ID, ""),
    }
    if given["--processes"] == AUTO:
        return AUTO
    if not any(given.values()):
        return None
    if given["--processes"] == "1" and given["--process-id"] in ("", "0"):
        return Place("", 0, 1, 0)
    if missing := [flag for flag, value in given.items() if not value]:
        raise UserError(
            f"several processes: {' and '.join(missing)} not given",
            way_out=f"pass {', '.join(given)} (or {COORDINATOR}, {PROCESSES}, {PROCESS_ID}), or none of them",
        )
    host, _, port = given["--coordinator"].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise UserError(
            f"--coordinator {given['--coordinator']} is not HOST:PORT",
            way_out="for example node-0:8476, a port that is free",
        )
    number = {flag: given[flag] for flag in ("--processes", "--process-id")}
    for flag, value in number.items():
        if not value.isdecimal():
            raise UserError(f"{flag} {value} is not a whole number", way_out="processes are numbered 0, 1, 2, ...")
    n, i = int(number["--processes"]), int(number["--process-id"])
    if not i < n:
        raise UserError(f"--process-id {i} of --processes {n}", way_out=f"number them from 0 to {max(n - 1, 0)}")
    return Place(host.strip("[]"), int(port), n, i)


def _slurm(environ: Mapping[str, str]) -> Place | None:
    """The place of a task that srun started with others; None outside of such a step."""
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    if any(name not in environ for name in names):
        return None
    job, step, nodes, tasks, process = (environ[name] for name in names)
    first = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)  # node7,node9 or node[007-015,020],other
    if first is None or int(tasks) < 2:
        return None
    port = 61440 + (int(job) * 16 + int(step)) % 4096  # above the ports that systems give away
    host = first[1] + (first[2] or "")
    return Place(host, port, int(tasks), int(process), _slurm_devices(environ))


def _slurm_devices(environ: Mapping[str, str]) -> tuple[int, ...] | None:
    """The accelerator of a task that shares its machine with others and sees all of them; None for every one it sees."""
    tasks_here = re.match(r"\d+", environ.get("SLURM_STEP_TASKS_PER_NODE", "1"))
    visible = environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if tasks_here is None or int(tasks_here[0]) < 2 or len(visible) < 2:
        return None
    return (int(environ.get("SLURM_LOCALID", "0")),)


def _cluster(environ: Mapping[str, str]) -> str | None:
    """`auto` in one of several processes of a cluster that jax knows how to join, `perhaps` where only jax can tell."""
    if int(environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1 or "," in environ.get("TPU_WORKER_HOSTNAMES", ""):
        return AUTO
    has_tpu = any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))
    return "perhaps" if has_tpu and importlib.util.find_spec("libtpu") is not None else None


def _join(place: Place, limits: Limits, same: dict[str, Any]) -> Member:
    """Meets the others where all were told to, and then lets jax connect them."""
    hub, addresses = None, [(place.host, place.port)]
    if place.process == 0:
        server = listen(place.host, place.port)
        hub = Hub(server, place.processes, limits, same, lambda: {"port": _free_port()})
        hub.start()
        addresses = [("localhost", place.port)]
    member, welcome = meet(addresses, place.process, place.processes, limits, same, hub=hub)
    host = f"[{place.host}]" if ":" in place.host else place.host
    with _ending(member):
        _initialize(
            limits,
            coordinator_address=f"{host}:{welcome['port']}",
            num_processes=place.processes,
            process_id=place.process,
            local_device_ids=place.local_devices,
            cluster_detection_method="deactivate",
        )
    return member


def _join_as_jax_finds(limits: Limits, same: dict[str, Any], required: bool) -> Member | None:
    """Lets jax find and connect the processes; they meet where process 0 then tells them. None for a single process."""
    try:
        _initialize(limits)
    except (ImportError, RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and not required:  # jax knows of no others
            return None
        raise UserError(
            f"several processes: jax cannot join those of this cluster ({error})",
            way_out="pass --coordinator, --processes and --process-id, or --processes 1 to run on this machine alone",
        ) from None
    if jax.process_count() == 1:
        return None
    hub, token, addresses = None, secrets.token_hex(16), _own_addresses()
    if is_first():
        server = listen("", 0)
        port = server.getsockname()[1]
        hub = Hub(server, jax.process_count(), limits, same, dict, token)
        hub.start()
        letter = json.dumps({"token": token, "hosts": addresses, "port": port}).encode().ljust(LETTER)
    else:
        letter = b" " * LETTER
    told = multihost_utils.broadcast_one_to_all(np.frombuffer(letter, np.uint8))
    read = json.loads(bytes(np.asarray(told, np.uint8)))
    hosts = ["localhost"] if is_first() else read["hosts"]
    return meet(
        [(host, read["port"]) for host in hosts],
        jax.process_index(),
        jax.process_count(),
        limits,
        same,
        read["token"],
        hub,
    )[0]


def _initialize(limits: Limits, **place: Any) -> None:
    """Starts jax's own service, as the last resort behind the watch: it is slower, and names nobody."""
    jax.distributed.initialize(
        initialization_timeout=int(limits.start_s) + 1,
        heartbeat_timeout_seconds=max(100, int(4 * limits.silence_s)),
        **place,
    )
    with contextlib.suppress(ValueError):  # not the main thread
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))  # jax took it; `StopSignal` is to hear it
    _delay_abort()


def _delay_abort() -> None:
    """Lets the watch speak first when jax aborts the process because process 0 is gone.

    jax's client calls abort() within milliseconds, from a thread of its own. The handler is the C library's sleep, which gets
    the signal's number, 6, as seconds: the aborting thread sleeps so long, the others run on, and then abort() goes on.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


@contextlib.contextmanager
def _ending(member: Member) -> Iterator[None]:
    """Tells the others of an error in the body."""
    try:
        yield
    except BaseException as error:
        _fail(member, error)
        raise


def _fail(member: Member, error: BaseException) -> None:
    """Tells the others why this process ends, and sees to it that it does."""
    status = 2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    member.fail(error, status)
    # At exit jax would wait for processes that have stopped, and then abort. This runs before that: it was registered later.
    atexit.register(_leave, status)
    member.end_after(LEAVE_S)


def _leave(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return int(server.getsockname()[1])


def _own_addresses() -> list[str]:
    """Under which other machines may reach this one: the address of its way out, its names, and, for itself, localhost."""
    found = []
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which interface would be taken
        found.append(probe.getsockname()[0])
    return list(dict.fromkeys([*found, socket.getfqdn(), socket.gethostname(), "localhost"]))


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e6:
        raise UserError(f"{variable}={text} is not a number of seconds", way_out="set a positive number, or unset it")
    return seconds
