"""The description file of the arrays format: its fields, and the arrays that they name."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.files import check_fields, field, load_array, load_mapping


class Description:
    """The fields of one `recording.json`."""

    def __init__(self, path: Path, session: str):
        self.path = path
        self.fields = load_mapping(session, path)
        self.key = str(self.fields.get("key", session))

    def error(self, what: str, way_out: str) -> UserError:
        """An error of this session and its description."""
        return UserError(f"session {self.key}: file {self.path}: {what}", way_out=way_out)

    def check(self, where: str, given: Iterable[str], known: Collection[str]) -> None:
        """Raises at an unknown field."""
        check_fields(self.key, self.path, where, given, known)

    def text(self, given: Mapping[str, Any], name: str) -> str:
        """A required name."""
        return str(field(self.key, self.path, given, name, str))

    def number(self, given: Mapping[str, Any], name: str, where: str, default: float | None = None) -> float:
        """A number of the description, or its default."""
        if default is not None and given.get(name) is None:
            return default
        return float(field(self.key, self.path, {f"{where} {name}": given.get(name)}, f"{where} {name}", float))

    def mapping(self, given: Mapping[str, Any], name: str, default: dict[str, Any] | None = None) -> dict[str, Any]:
        """A set of fields; required unless it has a default."""
        value = given.get(name, default)
        if not isinstance(value, dict):
            raise self.error(f"field {name} is missing or not a set of fields", f"add {name}")
        return value

    def array(self, reference: Any, where: str) -> np.ndarray:
        """The array that a field names: `file.npy`, `file.npz:name`, or a list of values."""
        if isinstance(reference, list):
            try:
                return np.asarray(reference)
            except ValueError as error:
                raise self.error(f"{where}: a list of unlike parts", "give one number per entry") from error
        if not isinstance(reference, str):
            raise self.error(f"{where}: no file given", "name a .npy file, file.npz:name, or a list of values")
        path, member = self.locate(reference)
        if path.suffix not in (".npy", ".npz"):
            raise self.error(f"{where}: file {reference} is neither .npy nor .npz", "save it with numpy.save")
        return load_array(self.key, path, member)

    def numbers(self, reference: Any, where: str, kind: type = float) -> np.ndarray:
        """The array that a field names as float64 or int64, one axis."""
        values = self.array(reference, where)
        try:
            return np.asarray(values, np.float64 if kind is float else np.int64).ravel()
        except (TypeError, ValueError) as error:
            raise self.error(f"{where}: not numbers", "give one number per entry") from error

    def locate(self, reference: str) -> tuple[Path, str | None]:
        """(file, array in it) of a reference, relative to the description."""
        name, _, member = reference.rpartition(".npz:")
        if name:
            return self.path.parent / f"{name}.npz", member
        return self.path.parent / reference, None

    def mentioned(self) -> set[Path]:
        """Every existing file that a text of the description, or of a table that it names, refers to."""
        found: set[Path] = set()

        def walk(value: Any) -> None:
            if isinstance(value, dict):
                for inner in value.values():
                    walk(inner)
            elif isinstance(value, list):
                for inner in value:
                    walk(inner)
            elif isinstance(value, str) and is_reference(value):
                path = self.locate(value)[0]
                if path.is_file() and path not in found:
                    found.add(path)
                    if path.suffix == ".csv":
                        walk(re.findall(r"[^,\"\r\n]+", path.read_text(encoding="utf-8-sig", errors="replace")))

        walk(self.fields)
        return found


def is_reference(value: Any) -> bool:
    """Whether a value of a table names a file rather than being a text."""
    return isinstance(value, str) and (value.endswith((".npy", ".npz", ".csv")) or ".npz:" in value)
