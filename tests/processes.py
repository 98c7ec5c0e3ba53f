"""Groups of real processes, as tests of several processes start and watch them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Group:
    """Processes of one run, each `python -m tests.process_run`. Whatever happens, none of them outlives the context.

    `told` goes to all of them, `changes[i]` to process i in addition; `only` starts some of them. Times are seconds since 1970.
    """

    def __init__(
        self,
        task: str,
        processes: int | str,
        *,
        devices: int = 1,
        flags: str = "",
        only: list[int] | None = None,
        changes: dict[int, dict[str, Any]] | None = None,
        port: int | None = None,
        environment: dict[str, str] | None = None,
        **told: Any,
    ):
        coordinator = f"127.0.0.1:{port or free_port()}"
        self.task, self.environment = task, environment or {}
        self.asked = [
            {
                "task": task,
                "coordinator": coordinator,
                "processes": processes,
                "process": process,
                **told,
                **(changes or {}).get(process, {}),
            }
            for process in (range(int(processes)) if only is None else only)
        ]
        self.flags = f"--xla_force_host_platform_device_count={devices} {flags}"

    def __enter__(self) -> Group:
        self.folder = tempfile.TemporaryDirectory()
        self.began = time.time()
        self.started: list[subprocess.Popen[bytes]] = []
        for number, told in enumerate(self.asked):
            environment = {
                **os.environ,
                "XLA_FLAGS": self.flags,
                "JAX_PLATFORMS": "cpu",
                "OMNIMOUSE_COMPILE_CACHE": str(Path(tempfile.gettempdir()) / "omnimouse_jax_test_cache"),
                **self.environment,
                **told.pop("environment", {}),
            }
            with self._file("out", number).open("wb") as out, self._file("err", number).open("wb") as err:
                command = [sys.executable, "-m", "tests.process_run", json.dumps(told)]
                self.started.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err))
        self.pids = [process.pid for process in self.started]
        self.ended = [0.0] * len(self.started)
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
        self.errors = [self._error(number) for number in range(len(self.started))]
        self.lines = [self._lines(number) for number in range(len(self.started))]
        self.folder.cleanup()

    def wait(self, seconds: float, but: int | None = None) -> None:
        """Until all have ended, but one perhaps. AssertionError, with what they said, when that takes longer than `seconds`."""
        until = time.time() + seconds
        while waiting := [n for n in range(len(self.started)) if n != but and self.running(n)]:
            if time.time() > until:
                said = "\n".join(f"--- {n}\n{self._error(n)[-2000:]}" for n in range(len(self.started)))
                raise AssertionError(f"processes {waiting} still run after {seconds:.0f} s\n{said}")
            time.sleep(0.02)
        self.errors = [self._error(number) for number in range(len(self.started))]

    def running(self, number: int) -> bool:
        if self.started[number].poll() is None:
            return True
        self.ended[number] = self.ended[number] or time.time()
        return False

    def until_told(self, what: str, seconds: float = 30.0) -> None:
        """Until every process has printed such a line."""
        until = time.time() + seconds
        while not all(any(what in line for line in self._lines(n)) for n in range(len(self.started))):
            assert time.time() < until, f"nobody said {what}"
            time.sleep(0.02)

    @property
    def statuses(self) -> list[int | None]:
        return [process.poll() for process in self.started]

    def told(self, what: str) -> list[dict[str, Any]]:
        """Lines with such a field, of all processes."""
        found = getattr(self, "lines", None) or [self._lines(number) for number in range(len(self.started))]
        return [line for lines in found for line in lines if what in line]

    @property
    def acted_at(self) -> float:
        """When the victim did to itself what it was asked to."""
        return min(line["time"] for line in self.told("acted"))

    def _file(self, kind: str, number: int) -> Path:
        return Path(self.folder.name) / f"{kind}.{number}"

    def _lines(self, number: int) -> list[dict[str, Any]]:
        text = self._file("out", number).read_text(errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def _error(self, number: int) -> str:
        """What it said on stderr, without the notes of gloo."""
        lines = self._file("err", number).read_text(errors="replace").splitlines(keepends=True)
        return "".join(line for line in lines if not line.startswith("[Gloo]"))
