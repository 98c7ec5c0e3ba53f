"""Files that a reader never sees half of."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from omnimouse_jax.errors import UserError


def require_folder(path: Path | str) -> Path:
    """The folder, made if it is not there. UserError where that cannot be: asked before hours of work, not after."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {path}: cannot be made ({error.strerror})", way_out="name another place") from None
    return path


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write `content` beside `path` and rename it there; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
        os.chmod(temporary, 0o644)  # it was made for its owner only
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
