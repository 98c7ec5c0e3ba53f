"""The one exception that a user is meant to read."""

from collections.abc import Sequence


class UserError(Exception):
    """Bad input, told in one line: which session, file or field, what is wrong, and the way out.

    `details` are short lines between the two, such as the fields of a diff: as text they are joined into the one line. The command
    line prints `error: ...`, the details below it, and exits with status 2. Anything else that escapes is a bug and keeps its
    traceback. `cause` is for programs that decide what to do about it: "nan", "disk_full", or "" (see `launch.causes`).
    """

    def __init__(self, what: str, *, way_out: str = "", details: Sequence[str] = (), cause: str = ""):
        told = f"{what} ({'; '.join(details)})" if details else what
        super().__init__(f"{told} - {way_out}" if way_out else told)
        self.what = what
        self.way_out = way_out
        self.details = tuple(details)
        self.cause = cause
