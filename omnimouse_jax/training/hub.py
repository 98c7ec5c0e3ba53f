"""The thread of process 0 that all processes of a run are connected to: it knows who is there and judges who was lost."""

from __future__ import annotations

import dataclasses
import json
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.training.peers import PROTOCOL, Limits, Lost, Who, Wire, died, silent

#: Seconds for which an error that may be the consequence of another process's death waits for news of that death.
SETTLE_S = 1.5
#: Connections that have not said who they are: how many, and for how many seconds.
STRANGERS, STRANGE_S = 64, 10.0


@dataclasses.dataclass(eq=False)
class Guest:
    """A connection, and what is known of who is at its other end."""

    wire: Wire
    since: float
    heard: float
    who: Who | None = None
    done: bool = False
    passed: int | None = None


def listen(host: str, port: int) -> socket.socket:
    """A listening socket: on the loopback interface for a loopback host, on all interfaces otherwise. Port 0: any free one."""
    try:
        if host in ("localhost", "127.0.0.1"):
            return socket.create_server(("127.0.0.1", port), backlog=1024)
        if socket.has_dualstack_ipv6():
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
        return socket.create_server(("", port), backlog=1024)
    except OSError as error:
        raise UserError(
            f"process 0: port {port} cannot be used ({os.strerror(error.errno or 0)})",
            way_out="pass another port to all processes, and number them 0, 1, 2, ...: only one is process 0",
        ) from None


class Hub(threading.Thread):
    """Waits until `processes` processes have come, welcomes them, and then watches them.

    `same` is what every process must say alike. `welcome` is called once all are there and returns what they are told. It never
    closes a connection on which something is being said: it waits for the other end to do so.
    """

    def __init__(
        self,
        server: socket.socket,
        processes: int,
        limits: Limits,
        same: dict[str, Any],
        welcome: Callable[[], dict[str, Any]],
        token: str = "",
    ):
        super().__init__(name="hub", daemon=True)
        self.server, self.processes, self.limits, self.welcome = server, processes, limits, welcome
        self.same, self.token = json.loads(json.dumps(same)), token  # as it arrives from the others
        self.guests: list[Guest] = []
        self.began = time.monotonic()
        self.met = self.stopping = self.over = self.own_came = False
        self.refused: tuple[str, str] | None = None  # what is wrong, the way out
        self.lost: Lost | None = None
        self.suspected: tuple[float, Lost] | None = None
        self.nobody_left = threading.Event()
        self.selector = selectors.DefaultSelector()
        server.setblocking(False)
        self.selector.register(server, selectors.EVENT_READ)

    def wait_until_alone(self, seconds: float) -> None:
        """Waits until all other processes have left, or are lost: they cannot outlive process 0."""
        self.nobody_left.wait(seconds)

    def run(self) -> None:
        ticked = pinged = time.monotonic()
        while not (self.met or self.refused) or self.guests or not self.own_came:
            for key, _ in self.selector.select(self.limits.ping_s / 2):
                if key.data is None:
                    self._accept()
                elif key.data in self.guests:
                    self._hear(key.data)
            now = time.monotonic()
            if now - ticked > self.limits.silence_s / 3:  # it was this process that slept
                for guest in self.guests:
                    guest.heard = now
            ticked = now
            self._watch(now)
            if now - pinged > self.limits.ping_s:
                pinged = now
                self._tell_all(ping=1)
            if (self.met or self.refused) and all(g.who is None or g.who.process == 0 for g in self.guests):
                self.nobody_left.set()
        self.nobody_left.set()
        self.selector.close()
        self.server.close()

    @property
    def here(self) -> dict[int, Guest]:
        """Who has said who it is, by process."""
        return {guest.who.process: guest for guest in self.guests if guest.who is not None}

    def _accept(self) -> None:
        try:
            sock, _ = self.server.accept()
        except OSError:  # it has gone again
            return
        now = time.monotonic()
        if sum(guest.who is None for guest in self.guests) >= STRANGERS:
            sock.close()
            return
        sock.settimeout(1.0)  # what is told to many takes a moment; who does not read is silent soon
        guest = Guest(Wire(sock), now, now)
        self.guests.append(guest)
        self.selector.register(sock, selectors.EVENT_READ, guest)

    def _hear(self, guest: Guest) -> None:
        try:
            messages = guest.wire.receive()
        except TimeoutError:
            return
        except (OSError, ValueError):
            self._drop(guest)
            if self.met and not self.over and guest.who is not None:
                said = self.suspected[1] if self.suspected and self.suspected[1].who == guest.who else None
                self._judge(said or died(guest.who))
            return
        guest.heard = time.monotonic()
        for message in messages:
            if guest.who is None:
                self._greet(guest, message)
            else:
                self._read(guest, guest.who, message)
            if guest not in self.guests:
                return

    def _greet(self, guest: Guest, message: dict[str, Any]) -> None:
        """The first message of a connection. Strangers are sent away and change nothing."""
        if message.get("hello") != PROTOCOL or message.get("token") != self.token:
            return self._drop(guest)
        try:
            who = Who(int(message["process"]), str(message["host"]), int(message["pid"]))
            processes, same = int(message["processes"]), dict(message["same"])
        except (KeyError, TypeError, ValueError):
            return self._drop(guest)
        if not 0 <= who.process < processes:
            return self._drop(guest)
        self.own_came |= who.process == 0
        if self.refused:
            guest.wire.try_send(refused=self.refused[0], way_out=self.refused[1])
            return None
        if self.met:
            guest.wire.try_send(refused=f"{who}: the run has begun without it", way_out="start each process once")
            return self._drop(guest)
        if problem := self._problem(who, processes, same):
            guest.wire.try_send(refused=problem[0], way_out=problem[1])
            return self._refuse(*problem)
        guest.who = who
        if len(self.here) == self.processes:
            self.met = True
            for other in self.guests:  # nobody had to speak before
                other.heard = time.monotonic()
            told = {"who": [dataclasses.asdict(self._who(i)) for i in range(self.processes)], **self.welcome()}
            self._tell_all(welcome=told)
        return None

    def _who(self, process: int) -> Who:
        who = self.here[process].who
        assert who is not None
        return who

    def _problem(self, who: Who, processes: int, same: dict[str, Any]) -> tuple[str, str] | None:
        """(what is wrong, the way out) where a process cannot be one of this run."""
        if processes != self.processes:
            return (
                f"{who} was started as one of {processes} processes, process 0 as one of {self.processes}",
                "pass the same --processes to all",
            )
        if who.process in self.here:
            return (f"{self._who(who.process)} and {who} have the same number", "give each its own --process-id")
        other = sorted(k for k in same.keys() | self.same.keys() if same.get(k) != self.same.get(k))
        if other:
            told = "; ".join(f"{k}: {self.same.get(k)!r} and {same.get(k)!r}" for k in other[:3])
            return (f"process 0 and {who} were started with different configs ({told})", "pass the same to all")
        return None

    def _read(self, guest: Guest, who: Who, message: dict[str, Any]) -> None:
        if "stop" in message:
            if not self.stopping:
                self.stopping = True
                self._tell_all(stopping=1)
        elif "passed" in message:
            guest.passed = int(message["passed"])
            passed = [g.passed for g in self.here.values() if g.passed is not None]
            if len(passed) == self.processes:
                self._tell_all(stop_at=max(passed) + 1)
        elif "done" in message:
            guest.done = True
            if len(self.here) == self.processes and all(g.done for g in self.here.values()):
                self.over = True
                self._tell_all(all_done=1)
        elif "failed" in message:
            failed = Lost(who, "failed", f"ended with an error: {message['failed']}")
            if message.get("own"):
                self._judge(failed)
            elif self.suspected is None:
                self.suspected = (time.monotonic(), failed)

    def _watch(self, now: float) -> None:
        """What time tells: nobody came, nobody speaks, and errors that were nobody else's fault."""
        for guest in self.guests[:]:
            if guest.who is None and now - guest.since > STRANGE_S:
                self._drop(guest)
        if not self.met:
            if now - self.began > self.limits.start_s and not self.refused:
                missing = [str(i) for i in range(self.processes) if i not in self.here]
                here = ", ".join(str(g.who) for _, g in sorted(self.here.items()))
                self._refuse(
                    f"process {', '.join(missing)} of {self.processes} did not come within {self.limits.start_s:.0f} s "
                    f"(here: {here or 'nobody'})",
                    "start as many as --processes says, each with its own --process-id, and the same --coordinator",
                )
            return
        quiet = {now - g.heard: g.who for g in self.here.values() if g.who is not None and g.who.process}
        longest = max(quiet, default=0.0)
        if longest > self.limits.silence_s:
            lost = quiet[longest]
            assert lost is not None
            self._judge(silent(lost, longest))
            self._drop(self.here[lost.process])
        elif self.suspected and now - self.suspected[0] > SETTLE_S and longest < 3 * self.limits.ping_s:
            self._judge(self.suspected[1])

    def _judge(self, lost: Lost) -> None:
        """The first process that was lost is the cause; what follows is consequence."""
        if self.lost is None:
            self.lost = lost
            self._tell_all(lost=lost.told())

    def _refuse(self, what: str, way_out: str) -> None:
        self.refused = (what, way_out)
        self._tell_all(refused=what, way_out=way_out)

    def _tell_all(self, **message: Any) -> None:
        for guest in self.here.values():
            guest.wire.try_send(**message)

    def _drop(self, guest: Guest) -> None:
        self.selector.unregister(guest.wire.sock)
        guest.wire.close()
        self.guests.remove(guest)
