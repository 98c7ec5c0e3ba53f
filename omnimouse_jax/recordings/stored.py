"""Parts of a stored recording that are read when they are asked for: a model's window needs few of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from omnimouse_jax.recordings.session import Screen, Trials


class Later(Mapping[str, Any]):
    """A mapping that `read` makes each time it is asked (and the store keeps as long as it has room)."""

    def __init__(self, read: Callable[[], Mapping[str, Any]]):
        self._read = read

    def __getitem__(self, name: str) -> Any:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


def _stored(kind: type, name: str) -> Any:
    """The dataclass `kind` with its fields from `read()`, a mapping by name, or from those given."""

    def init(self: Any, read: Callable[[], Mapping[str, Any]] | None = None, **given: Any) -> None:
        vars(self).update(_read=read, _given=given)

    def field(label: str) -> property:
        return property(lambda self: self._given[label] if label in self._given else self._read()[label])

    members = {f.name: field(f.name) for f in dataclasses.fields(kind)}
    about = f"{kind.__name__} of a stored recording; dataclasses.replace works."
    return type(name, (kind,), {"__init__": init, **members, "__module__": __name__, "__doc__": about})


#: Made with a function that reads the fields; what is given besides is not read.
StoredTrials = _stored(Trials, "StoredTrials")
StoredScreen = _stored(Screen, "StoredScreen")


def unpack(columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns as they were before `writer` packed them: text whole again, and a column of one value as a view of it."""
    out = {}
    for name, column in columns.items():
        if name.endswith(".codes"):
            name = name.removesuffix(".codes")
            out[name] = columns[f"{name}.values"][column]
        elif not name.endswith(".values"):
            constant = name == "grey" and len(column) and np.all(column == column[0])
            out[name] = np.broadcast_to(column[0], column.shape) if constant else column
    return out
