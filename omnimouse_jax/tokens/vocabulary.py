"""Named rows: which table row belongs to which neuron, session and animal. Saved with the weights, extended without moving rows.

Adding, dropping, merging and reordering sessions make another vocabulary; `training.rows.carry` moves a model's rows to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Int

from omnimouse_jax.errors import UserError

#: Tables are padded to multiples of these, so that they divide over meshes of 2, 4, 8, ... 1,024 devices and a few sessions more
#: or less do not change the shape of a compiled program.
ROW_MULTIPLE = 1024
SESSION_MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class SessionEntry:
    """One session's rows: neurons [first_row, first_row + n_neurons)."""

    key: str
    animal: str
    n_neurons: int
    first_row: int


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Sessions in row order. A session's own row is its position; animals are numbered in order of appearance."""

    sessions: tuple[SessionEntry, ...]

    @classmethod
    def of(cls, summaries: Mapping[str, Mapping[str, Any]]) -> Vocabulary:
        """Rows for the sessions of a store's summaries (key -> {"animal", "n_neurons", ...}), in their order."""
        return cls(()).extended(summaries)

    def extended(self, summaries: Mapping[str, Mapping[str, Any]]) -> Vocabulary:
        """The same rows plus new ones at the end for sessions that are not in it yet."""
        entries, known = list(self.sessions), {entry.key for entry in self.sessions}
        row = self.n_neurons
        for key, summary in summaries.items():
            if key in known:
                continue
            entries.append(SessionEntry(key, str(summary["animal"]), int(summary["n_neurons"]), row))
            row += int(summary["n_neurons"])
        return Vocabulary(tuple(entries))

    def dropped(self, keys: Sequence[str]) -> Vocabulary:
        """Without some sessions; those behind them move up."""
        for key in keys:
            self.session_row(key)
        left = [entry.key for entry in self.sessions if entry.key not in keys]
        if not left:
            raise UserError(
                "dropping every session would leave a model of no mouse", way_out="keep one session or more"
            )
        return self.ordered(left)

    def ordered(self, keys: Sequence[str]) -> Vocabulary:
        """The named sessions in this order, and no others."""
        if len(set(keys)) < len(keys):
            raise UserError("vocabulary: a session is named twice", way_out="name each session once")
        return Vocabulary(()).extended(self._summaries(keys))

    def merged(self, other: Vocabulary) -> Vocabulary:
        """These sessions, then those of `other` that are not among them. UserError where both have a session that differs."""
        for entry in other.sessions:
            mine = self.entry(entry.key) if entry.key in self else entry
            if (mine.animal, mine.n_neurons) != (entry.animal, entry.n_neurons):
                raise UserError(
                    f"session {entry.key}: {mine.n_neurons} neurons of animal {mine.animal} in one model, "
                    f"{entry.n_neurons} of {entry.animal} in the other",
                    way_out="they are different recordings: ingest one of them under another key, or drop it (--drop)",
                )
        return self.extended(other._summaries([entry.key for entry in other.sessions]))

    def _summaries(self, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        return {key: dataclasses.asdict(self.entry(key)) for key in keys}

    def __contains__(self, key: object) -> bool:
        return key in self._session_rows

    @property
    def n_neurons(self) -> int:
        """Rows in use."""
        return sum(entry.n_neurons for entry in self.sessions)

    @cached_property
    def animals(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.animal for entry in self.sessions))

    @property
    def neuron_capacity(self) -> int:
        return padded(self.n_neurons, ROW_MULTIPLE)

    @property
    def session_capacity(self) -> int:
        return padded(len(self.sessions), SESSION_MULTIPLE)

    @property
    def animal_capacity(self) -> int:
        return padded(len(self.animals), SESSION_MULTIPLE)

    def entry(self, key: str) -> SessionEntry:
        return self.sessions[self.session_row(key)]

    @cached_property
    def _session_rows(self) -> dict[str, int]:
        return {entry.key: row for row, entry in enumerate(self.sessions)}

    def session_row(self, key: str) -> int:
        if key not in self._session_rows:
            some = ", ".join(list(self._session_rows)[:5]) + (", ..." if len(self.sessions) > 5 else "")
            raise UserError(
                f"session {key}: not among the {len(self.sessions)} sessions this model was trained on",
                way_out=f"name one of them ({some}), or adapt the model to it with `omnimouse-jax finetune`",
            )
        return self._session_rows[key]

    def animal_row(self, key: str) -> int:
        return self.animals.index(self.entry(key).animal)

    def neuron_rows(self, key: str) -> Int[np.ndarray, " neurons"]:
        """Table rows of a session's neurons, in the session's own order."""
        entry = self.entry(key)
        return np.arange(entry.first_row, entry.first_row + entry.n_neurons, dtype=np.int32)

    def to_json(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(entry) for entry in self.sessions]

    @classmethod
    def from_json(cls, rows: Iterable[Mapping[str, Any]]) -> Vocabulary:
        return cls(tuple(SessionEntry(**row) for row in rows))


def padded(n: int, multiple: int) -> int:
    """The multiple that holds `n` rows; at least one of them."""
    return max(1, math.ceil(n / multiple)) * multiple
