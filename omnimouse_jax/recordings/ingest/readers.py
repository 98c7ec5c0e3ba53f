"""What every format's module offers; it is loaded when it is asked for."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.formats import FORMATS
from omnimouse_jax.recordings.ingest.files import nearest
from omnimouse_jax.recordings.session import Recording


@runtime_checkable
class Reader(Protocol):
    """A format's module. The keyword parameters of `read_session` are its options (`--set NAME=VALUE`)."""

    def discover(self, source: Path) -> list[Path]:
        """The sessions in or at `source`: folders or files, by name. Raises UserError if there is none."""

    def source_files(self, session: Path) -> list[Path]:
        """The files whose contents make the session, without reading any large one."""

    def read_session(self, session: Path, *, nan_responses: str = "error", **options: Any) -> Recording:
        """One session with its large arrays still on disk; raises UserError for bad input.

        `provenance` holds what only the format knows (`original_rate`); where it came from is added by `ingest`.
        """


def reader_of(format: str) -> Reader:
    """The module of a format."""
    if format not in FORMATS:
        raise UserError(f"format {format}: unknown", way_out=nearest(format, FORMATS))
    module: Any = importlib.import_module(f"omnimouse_jax.recordings.ingest.{FORMATS[format][0]}")
    return module


def options_of(format: str) -> dict[str, Any]:
    """The format's options and their defaults."""
    parameters = list(inspect.signature(reader_of(format).read_session).parameters.values())[1:]
    return {p.name: p.default for p in parameters}


def parse_options(format: str, settings: Sequence[str]) -> dict[str, Any]:
    """Options from `NAME=VALUE` texts. Raises UserError for a name the format does not know."""
    known, out = options_of(format), {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise UserError(f"format {format}: no option {name}", way_out=nearest(name, known))
        try:
            out[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            out[name] = text
        default = known[name]
        if isinstance(default, str):
            out[name] = text  # a name may look like a number
        if isinstance(default, tuple) and isinstance(out[name], list):
            out[name] = tuple(out[name])
        if default is not None and not isinstance(out[name], type(default)):
            if isinstance(default, float) and isinstance(out[name], int):
                out[name] = float(out[name])
                continue
            raise UserError(
                f"format {format}: option {name} is {text!r}",
                way_out=f"give a {type(default).__name__} like {default!r}",
            )
    return out
