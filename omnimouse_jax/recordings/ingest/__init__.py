"""From a lab's own files to the store: one function over all readers, with progress, resumable session by session."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest import arrays, experanto
from omnimouse_jax.recordings.ingest.files import stamp
from omnimouse_jax.recordings.kvstore import Location, Place
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import MANIFEST, Store


class Reader(Protocol):
    """What a format's module offers."""

    def discover(self, source: Path) -> list[Path]:
        """Session folders in or at `source`."""

    def read_session(self, folder: Path, nan_responses: str = "error") -> Recording:
        """One session; raises UserError for bad input."""

    def source_files(self, folder: Path) -> list[Path]:
        """The files whose contents make the session."""


#: Formats by the name that the command line knows.
READERS: Mapping[str, Any] = {"arrays": arrays, "experanto": experanto}


@dataclass(frozen=True)
class Ingested:
    """Keys of the sessions written, and of those skipped because the store has them from the same files."""

    added: tuple[str, ...]
    skipped: tuple[str, ...]


def ingest(
    format: str,
    source: Path | str,
    store: Location,
    *,
    nan_responses: str = "error",
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Ingested:
    """Reads every session at `source` and adds it to the store at `store`, made if it is not there.

    All sessions are read and checked before the first is written, so bad input leaves the store as it was. An
    interrupted ingest goes on where it stopped: a session that the store has from the same files and options is
    skipped. A key that is taken by other files is an error unless `overwrite`. `say` gets one line per session.
    """
    if format not in READERS:
        raise UserError(f"format {format}: unknown", way_out=f"choose {' or '.join(READERS)}")
    reader: Reader = READERS[format]
    root = Path(source)
    if not root.exists():
        raise UserError(f"folder {root}: missing", way_out="give the folder of one session or of several")
    folders = reader.discover(root)
    existing = Store.open(store) if Place(store).read(MANIFEST) is not None else None
    known = {} if existing is None else {key: existing.summary(key) for key in existing.keys}
    by_stamp = {summary["stamp"]: key for key, summary in known.items() if summary["stamp"]}
    options = {"nan_responses": nan_responses}

    todo: list[Path] = []
    skipped: list[str] = []
    seen: dict[str, Path] = {}
    for folder in folders:
        mark = stamp(reader.source_files(folder), folder, options)
        if mark in by_stamp:
            key = by_stamp[mark]
        else:
            recording = reader.read_session(folder, nan_responses=nan_responses)
            key = recording.key
            if key in known and known[key]["checksum"] != recording.provenance["checksum"] and not overwrite:
                raise UserError(
                    f"session {key}: already in the store {Place(store).name}, from other files than {folder}",
                    way_out="pass --overwrite, or give it another key",
                )
        if key in seen:
            raise UserError(f"session {key}: in {seen[key]} and in {folder}", way_out="give each session its own key")
        seen[key] = folder
        if key in known and (mark == known[key]["stamp"] or known[key]["checksum"] == recording.provenance["checksum"]):
            skipped.append(key)
            say(f"session {key}: already in the store from the same files, skipped")
        else:
            todo.append(folder)

    target = existing if existing is not None else Store.create(store)
    added: list[str] = []
    began, done = time.monotonic(), 0.0
    for i, folder in enumerate(todo):
        recording = reader.read_session(folder, nan_responses=nan_responses)
        target.add(recording, overwrite=overwrite)
        added.append(recording.key)
        megabytes = _megabytes(recording)
        done += megabytes
        seconds = max(time.monotonic() - began, 1e-9)
        left = seconds / (i + 1) * (len(todo) - i - 1)
        hours = target.summary(recording.key)["hours"]
        say(
            f"session {i + 1} of {len(todo)} {recording.key}: {recording.n_neurons} neurons, {hours:.2f} h, "
            f"{megabytes:.1f} MB at {done / seconds:.0f} MB/s, {left:.0f} s left"
        )
    return Ingested(tuple(added), tuple(skipped))


def _megabytes(rec: Recording) -> float:
    signals = [rec.responses, *rec.behavior.values()]
    total = sum(4 * s.n_samples * s.n_channels for s in signals)
    if rec.screen is not None:
        shape = rec.screen.frames.shape
        total += shape[0] * shape[1] * shape[2] * (1 if rec.screen.frames.dtype.kind == "u" else 4)
    return total / 1e6
