"""Several processes of one run meet, watch each other, and stop together. Plain TCP and threads: no jax.

Process 0 runs a hub. Every process, process 0 too, keeps one connection to it, over which it says who it is, pings, and says
how it ends. A connection that ends without goodbye, or silence, is a death; the hub tells all others who died and why. They
say so in one line and leave with status 76, even while their main thread hangs in a collective. jax alone would tell them an
anonymous "connection reset by peer" (CPU), nothing (GPUs may wait for ever), or abort.

Messages are JSON objects, one a line. To the hub: hello, ping, stop, passed, done, failed. From it: ping, welcome, refused,
stopping, stop_at, all_done, lost.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from omnimouse_jax.errors import UserError

#: Exit status of a process that stopped because another one was lost.
PEER_LOST = 76
#: What a connection must say first; whoever says anything else is not one of us.
PROTOCOL = "omnimouse_jax processes 1"
#: Seconds in which a process may still raise the error that another one ended with, and be told its own instead.
GRACE_S = 2.0
#: Seconds that a process which ended with an error has until its threads are ended for it.
LEAVE_S = 20.0


class Limits(NamedTuple):
    """Seconds that processes wait for each other: at the start, and for a sign of life."""

    start_s: float = 300.0
    silence_s: float = 30.0

    @property
    def ping_s(self) -> float:
        return min(2.0, self.silence_s / 10)


@dataclasses.dataclass(frozen=True)
class Who:
    """A process of the run."""

    process: int
    host: str
    pid: int

    def __str__(self) -> str:
        return f"process {self.process} (host {self.host}, pid {self.pid})"


@dataclasses.dataclass(frozen=True)
class Lost:
    """Who was lost, and why: `died` without a word, `silent`, or `failed` with an error."""

    who: Who
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.who} {self.text}"

    def told(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.who), "kind": self.kind, "text": self.text}

    @classmethod
    def of(cls, told: dict[str, Any]) -> Lost:
        return cls(Who(told["process"], told["host"], told["pid"]), told["kind"], told["text"])


def died(who: Who) -> Lost:
    return Lost(who, "died", "died without a word (killed, out of memory, or its machine is gone)")


def silent(who: Who, seconds: float) -> Lost:
    return Lost(who, "silent", f"has given no sign of life for {seconds:.0f} s (hung, stopped, or cut off)")


class Wire:
    """One end of a connection: whole messages in and out."""

    LONGEST = 1 << 20

    def __init__(self, sock: socket.socket):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.rest = b""
        self.lock = threading.Lock()

    def send(self, **message: Any) -> None:
        """Raises OSError when the other end is gone."""
        with self.lock:
            self.sock.sendall(json.dumps(message).encode() + b"\n")

    def try_send(self, **message: Any) -> None:
        """For when the other end may be gone already: the reader of this connection finds out."""
        with contextlib.suppress(OSError):
            self.send(**message)

    def receive(self) -> list[dict[str, Any]]:
        """What has arrived. ConnectionError at the end, ValueError when it is not ours, TimeoutError when there is nothing."""
        data = self.sock.recv(1 << 16)
        if not data:
            raise ConnectionError
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) > self.LONGEST:
            raise ValueError
        messages = [json.loads(line) for line in lines]
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError
        return messages

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


class Member(threading.Thread):
    """This process's end: the thread that reads what the hub says and stops the process when another one is lost."""

    def __init__(
        self,
        wire: Wire,
        process: int,
        everybody: Sequence[Who],
        limits: Limits,
        hub: Any = None,
        early: Sequence[dict[str, Any]] = (),
    ):
        super().__init__(name="peers", daemon=True)
        self.wire, self.process, self.all, self.limits, self.hub = wire, process, everybody, limits, hub
        self.early = early  # messages that came with the welcome
        self.judged, self.leaving, self.over = threading.Event(), threading.Event(), threading.Event()
        self.passing, self.frozen, self.passed = threading.Lock(), False, 0
        self.answered = threading.Event()
        self.stop_at: int | None = None
        self.lost: Lost | None = None
        self.status = 1

    def run(self) -> None:
        self.wire.sock.settimeout(self.limits.ping_s / 2)
        heard = ticked = time.monotonic()
        pinged = 0.0
        for message in self.early:
            self._read(message)
        while True:
            try:
                messages = self.wire.receive()
            except TimeoutError:
                messages = []
            except (OSError, ValueError):
                if not self.over.is_set():
                    self._lost(died(self.all[0]))
                return
            now = time.monotonic()
            if messages or now - ticked > self.limits.silence_s / 3:  # the latter: it was this process that slept
                heard = now
            ticked = now
            for message in messages:
                self._read(message)
            if self.over.is_set():
                return
            if now - pinged > self.limits.ping_s:
                pinged = now
                self.wire.try_send(ping=1)
            if now - heard > self.limits.silence_s + 2 * self.limits.ping_s:  # the hub judges first
                self._lost(silent(self.all[0], now - heard))

    def agreed_stop(self, signalled: bool) -> bool:
        """Whether all processes stop at this call of theirs, counted from the first, because one of them was told to.

        A flag is looked up, until somebody is told to stop. Then the threads of all processes say how many calls were passed
        already, and no further one is until the call after the last of these is agreed on. The threads say it, because the
        main thread of a process that is ahead may wait for a collective with one that is behind.
        """
        with self.passing:
            if not (signalled or self.frozen):
                self.passed += 1
                return False
        if not self.answered.is_set():
            self.wire.try_send(stop=1)
            self._wait(self.answered)
        self.passed += 1
        return self.stop_at is not None and self.passed >= self.stop_at

    def goodbye(self) -> None:
        """Ends well, once all others have."""
        self.wire.try_send(done=1)
        self._wait(self.over)
        self.wire.close()
        if self.hub is not None:
            self.hub.wait_until_alone(GRACE_S)  # who has not read that all are done would take this end for a death

    def fail(self, error: BaseException, status: int) -> None:
        """Tells the others why this process ends. Returns when they know; does not return if another one was the cause."""
        own = isinstance(error, UserError | KeyboardInterrupt)  # anything else may be a collective that lost its peer
        self.status = status
        if own:
            self.leaving.set()
        name = "" if isinstance(error, UserError) else type(error).__name__ + ": " * bool(str(error))
        text = " ".join(f"{name}{error}".split())
        self.wire.try_send(failed=text if len(text) < 1000 else text[:1000] + " ...", own=own)
        self.judged.wait(5.0 if own else self.limits.silence_s + 10.0)
        if not own and self.lost is not None and self.lost.who.process != self.process:
            time.sleep(LEAVE_S)  # this process is being ended, with the cause
        self.leaving.set()
        if self.hub is not None:
            self.hub.wait_until_alone(GRACE_S + 5.0)

    def end_after(self, seconds: float) -> None:
        """Ends the process in any case, with its own status: threads of libraries may still wait for lost processes."""
        timer = threading.Timer(seconds, os._exit, (self.status,))
        timer.daemon = True
        timer.start()

    def _read(self, message: dict[str, Any]) -> None:
        if "stopping" in message:
            with self.passing:
                self.frozen = True
            self.wire.try_send(passed=self.passed)
        elif "stop_at" in message:
            self.stop_at = int(message["stop_at"])
            self.answered.set()
        elif "all_done" in message:
            self.over.set()
        elif "lost" in message:
            self._lost(Lost.of(message["lost"]))

    def _lost(self, lost: Lost) -> None:
        """Ends this process, unless it was the one that ended or has an error of its own to tell."""
        self.lost = self.lost or lost
        self.judged.set()
        if self.lost.who.process == self.process and self.lost.kind == "failed":
            return
        if self.lost.kind == "failed":
            self.leaving.wait(GRACE_S)
        if self.leaving.is_set():
            return
        if self.hub is not None:
            self.hub.wait_until_alone(GRACE_S + 5.0)  # when process 0 goes, jax aborts those who are still there
        kept = "Start all processes again: they go on from the newest checkpoint, if there is one."
        leave(f"error: {self.lost}; process {self.process} stops too. {kept}", PEER_LOST)

    def _wait(self, event: threading.Event) -> None:
        """Waits for an event, or for this process to be ended."""
        while not event.wait(1.0):
            pass


def leave(line: str, status: int) -> None:
    """Says why on stderr and ends the process, whatever its other threads are doing or hold."""
    flush = threading.Thread(target=sys.stdout.flush, daemon=True)
    flush.start()
    flush.join(1.0)
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
    os._exit(status)


def meet(
    addresses: Sequence[tuple[str, int]],
    process: int,
    processes: int,
    limits: Limits,
    same: dict[str, Any],
    token: str = "",
    hub: Any = None,
) -> tuple[Member, dict[str, Any]]:
    """Connects to the hub at one of `addresses` and waits until all processes are there; (watch, what the hub told).

    UserError when nobody answers within `limits.start_s`, and where the hub refuses: it says why.
    """
    until = time.monotonic() + limits.start_s + (10.0 if hub is not None else 0.0)
    wire = _connect(addresses, process, processes, until, limits)
    wire.send(
        hello=PROTOCOL,
        token=token,
        process=process,
        processes=processes,
        host=socket.gethostname(),
        pid=os.getpid(),
        same=same,
    )
    wire.sock.settimeout(limits.ping_s)
    spoken_to = False
    where = _name(addresses[0])
    while True:
        try:
            messages = wire.receive()
        except TimeoutError:
            messages = []
        except (OSError, ValueError):
            what = "went away" if spoken_to else "is not process 0 of such a run, or of another one"
            raise UserError(
                f"process {process} of {processes}: {where} {what}",
                way_out="look at what process 0 says; pass the same --coordinator and free port to all processes",
            ) from None
        for number, message in enumerate(messages):
            spoken_to = True
            if "refused" in message:
                wire.close()
                if hub is not None:
                    hub.wait_until_alone(GRACE_S)  # until the others have read it too
                raise UserError(message["refused"], way_out=message.get("way_out", ""))
            if "welcome" in message:
                everybody = [Who(**who) for who in message["welcome"]["who"]]
                member = Member(wire, process, everybody, limits, hub, early=messages[number + 1 :])
                member.start()
                return member, message["welcome"]
        if time.monotonic() > until + limits.silence_s:  # the hub gives up first, and says who is missing
            raise UserError(
                f"process {process} of {processes}: {where} took the call and then said nothing",
                way_out="look at what process 0 says, and start all processes again",
            )


def _connect(addresses: Sequence[tuple[str, int]], process: int, processes: int, until: float, limits: Limits) -> Wire:
    while True:
        for address in addresses:
            try:
                return Wire(socket.create_connection(address, timeout=min(5.0, limits.start_s)))
            except OSError as error:
                why = error.strerror or str(error)
        if time.monotonic() > until:
            raise UserError(
                f"process {process} of {processes}: nobody answers at {', '.join(map(_name, addresses))} "
                f"({why}; tried for {limits.start_s:.0f} s)",
                way_out="start process 0 on that host, and check the address, the port and firewalls between the hosts",
            )
        time.sleep(min(0.3, limits.ping_s))


def _name(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"
