"""One trainer in a run folder at a time: two would write over each other's lines and checkpoints."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from omnimouse_jax.errors import UserError

FILE = ".lock"


@contextlib.contextmanager
def alone_in(workdir: Path, needed: bool = True) -> Iterator[None]:
    """Holds a run folder, which is made if it is not there. UserError, naming who does, if another process holds it.

    The system lets go of it when the process ends, however it ends. `needed=False`: for the other processes of a run.
    """
    if not needed:
        yield
        return
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / FILE).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"run {workdir}: {file.read().strip() or 'another process'} is training in it",
                way_out="wait for it or stop it, or use another --workdir",
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
