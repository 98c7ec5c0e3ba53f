"""Errors of the disk that a run is written to, told in one line with the way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from omnimouse_jax.errors import UserError

#: No space, over quota, file too large. Storage libraries put the number, or the system's words, into the text of their errors.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    *(f"os_error_code='{n}'" for n in FULL),
)


@contextmanager
def told_plainly(place: Path, what: str, way_out: str = "") -> Iterator[None]:
    """UserError for what the file system refuses inside: "`place`: cannot be `what` (...) - `way_out`". Other errors pass."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_full(error):
            more = f", {way_out}" if way_out else ""
            raise UserError(
                f"{place}: cannot be {what}: the disk is full", way_out=f"free some space{more}", cause="disk_full"
            ) from error
        if isinstance(error, OSError) or "os_error_code=" in str(error):
            reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
            raise UserError(f"{place}: cannot be {what} ({reason})", way_out=way_out or "name another place") from error
        raise


def is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(words in str(error) for words in FULL_WORDS)


def about_this_machine(error: BaseException) -> bool:
    """Whether reading failed for a reason that is not in the file: too little memory, no right to read, no connection."""
    if isinstance(error, MemoryError | PermissionError | ConnectionError | TimeoutError):
        return True
    words = (
        "RESOURCE_EXHAUSTED",
        "Out of memory",
        "PERMISSION_DENIED",
        "Permission denied",
        "UNAVAILABLE",
        "Too many open files",
    )
    return any(word in str(error) for word in words)
