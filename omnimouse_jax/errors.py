"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Bad input, told in one line: which session, file or field, what is wrong, and the way out.

    The command line prints it as `error: ...` and exits with status 2. Anything else that escapes is a bug and keeps its
    traceback.
    """

    def __init__(self, what: str, *, way_out: str = ""):
        super().__init__(f"{what} - {way_out}" if way_out else what)
        self.what = what
        self.way_out = way_out
