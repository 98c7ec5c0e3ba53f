"""From a lab's own files to the store, over all formats: checked first, several sessions at a time, resumable.

Each session is read, hashed and written by one worker process and exists once it is whole; a killed ingest leaves only
whole sessions, and the same command goes on with the others.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.compare import differences
from omnimouse_jax.recordings.ingest.files import checksum, checksums, nearest, stamp
from omnimouse_jax.recordings.ingest.readers import options_of, reader_of
from omnimouse_jax.recordings.ingest.work import Tick, counted, work
from omnimouse_jax.recordings.kvstore import Location, Place
from omnimouse_jax.recordings.manifest import MANIFEST
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Ingested:
    """Keys of the sessions written, of those skipped because the store has them from the same files, and, where bad
    ones were to be passed over, the message for each."""

    added: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: tuple[str, ...] = ()


class Job(NamedTuple):
    """One session of a source and where it goes; all that a worker process needs."""

    format: str
    session: Path
    options: dict[str, Any]
    store: Location
    overwrite: bool = False
    dtype: str | None = None


class Session(NamedTuple):
    """What a worker says of a session."""

    key: str
    n_neurons: int
    seconds: float
    megabytes: float
    skipped: bool = False
    found: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def ingest(
    format: str,
    source: Path | str,
    store: Location,
    *,
    overwrite: bool = False,
    workers: int = 1,
    keep_going: bool = False,
    dtype: str | None = None,
    say: Say = print,
    **options: Any,
) -> Ingested:
    """Reads every session at `source` and adds it to the store at `store`, made if it is not there.

    All sessions are read and checked before the first is written, so bad input leaves the store as it was; with
    `keep_going` the good ones are written and the bad ones told. An interrupted ingest goes on where it stopped: a
    session that the store has from the same files and options is skipped. A key that is taken by other files is an
    error unless `overwrite`, which writes every session anew. `dtype` is that of the stored responses (float32), `options`
    are the format's. `say` gets one line per session.
    """
    todo, skipped = _plan(format, source, store, options, overwrite, dtype)
    for key in skipped:
        say(f"session {key}: already in the store from the same files, skipped")
    failed: list[str] = []
    checked = list(work(_check, todo, workers, f"checking {len(todo)} sessions", 0.0, keep_going, failed))
    checked = _distinct(sorted(checked, key=lambda found: todo.index(found[0])), keep_going, failed)
    total = math.fsum(session.megabytes for _, session in checked)
    began = time.monotonic()
    left = Store.create(store).leftovers()
    if left:
        size = sum(folder.size or 0 for folder in left) / 1e6
        say(
            f"{len(left)} folders ({size:.0f} MB) of attempts that were killed, or still run: "
            f"omnimouse-jax inspect {Place(store).name} --clean"
        )
    added: list[str] = []
    for _, session in work(_write, [job for job, _ in checked], workers, "ingest", total, keep_going, failed):
        if session.skipped:
            skipped.append(session.key)
            say(f"session {session.key}: already in the store from the same files, skipped")
            continue
        added.append(session.key)
        say(
            f"session {len(added)} of {len(checked)} {session.key}: {session.n_neurons} neurons, "
            f"{session.seconds / 3600:.2f} h, {session.megabytes:.1f} MB"
        )
        for note in session.notes:
            say(f"  note: {note}")
    if added:
        seconds = max(time.monotonic() - began, 1e-9)
        plural = "s" if len(added) > 1 else ""
        say(f"{len(added)} session{plural}, {total:.1f} MB in {seconds:.0f} s ({total / seconds:.0f} MB/s)")
    for line in failed:
        say(f"failed: {line}")
    return Ingested(tuple(sorted(added)), tuple(skipped), tuple(failed))


def verify(
    format: str, source: Path | str, store: Location, *, workers: int = 1, say: Say = print, **options: Any
) -> dict[str, tuple[str, ...]]:
    """Reads every session at `source` again and compares it with the store: the checksums of its files and every value.

    Returns the differences by session key, () where there are none. A session is read with the options that it was
    ingested with; `options` are for sessions that the store does not have from this place.
    """
    opened = Store.open(store)
    known = {opened.summary(key)["source"]: key for key in opened.keys}
    jobs = []
    for session in reader_of(format).discover(_existing(source)):
        key = known.get(str(session.absolute()))
        given = options if key is None else opened.recording(key).provenance.get("options", options)
        jobs.append(Job(format, session, dict(given), Place(store).spec))
    out = {}
    for _, compared in work(_compare, jobs, workers, f"verifying {len(jobs)} sessions", 0.0, False, []):
        out[compared.key] = compared.found
        lines = compared.found or (f"equal to its source, {compared.megabytes:.1f} MB compared",)
        for line in lines:
            say(f"session {compared.key}: {line}")
    return out


def _plan(
    format: str, source: Path | str, store: Location, options: dict[str, Any], overwrite: bool, dtype: str | None
) -> tuple[list[Job], list[str]]:
    """The sessions to read, and the keys of those that the store has from files that look untouched."""
    known_options = options_of(format)
    for name in options:
        if name not in known_options:
            raise UserError(f"format {format}: no option {name}", way_out=nearest(name, known_options))
    reader, place = reader_of(format), Place(store)
    sessions = reader.discover(_existing(source))
    known: dict[tuple[str, str], str] = {}  # two sessions may have files of equal names, sizes and times
    if place.read(MANIFEST) is not None and not overwrite:
        opened = Store.open(store)
        for key in opened.keys:
            summary = opened.summary(key)
            if dtype in (None, summary["response_dtype"]):
                known[str(summary["source"]), str(summary["stamp"])] = key
    todo, skipped = [], []
    full = {**known_options, **options}
    for session in sessions:
        key_there = None
        with contextlib.suppress(UserError):  # told when the session is checked
            key_there = known.get((str(session.absolute()), stamp(reader.source_files(session), session, full)))
        if key_there is None:
            todo.append(Job(format, session, full, place.spec, overwrite, dtype))
        else:
            skipped.append(key_there)
    return todo, skipped


def _existing(source: Path | str) -> Path:
    root = Path(source)
    if not root.exists():
        raise UserError(f"folder {root}: missing", way_out="give one session or a folder of several")
    return root


def _distinct(checked: Sequence[tuple[Job, Session]], keep_going: bool, failed: list[str]) -> list[tuple[Job, Session]]:
    """The sessions less those whose key another one has; these are an error, or go to `failed`."""
    seen: dict[str, Path] = {}
    out = []
    for job, session in checked:
        if session.key not in seen:
            seen[session.key] = job.session
            out.append((job, session))
            continue
        error = UserError(
            f"session {session.key}: in {seen[session.key]} and in {job.session}",
            way_out="give each session its own key",
        )
        if not keep_going:
            raise error
        failed.append(str(error))
    return out


def _check(job: Job, tick: Tick) -> Session:
    """Reads a session as far as its reader checks it, and whether its key is free."""
    recording = reader_of(job.format).read_session(job.session, **job.options)
    place = Place(job.store)
    opened = Store.open(job.store) if place.read(MANIFEST) is not None else None
    if opened is not None and recording.key in opened and not job.overwrite:
        _require_same(job, recording.key, opened)
    return _told(recording)


def _require_same(job: Job, key: str, store: Store) -> None:
    """Raises if the store has other files under the session's key, or the same ones read in another way."""
    sums = checksums(reader_of(job.format).source_files(job.session), job.session)
    summary = store.summary(key)
    before = store.recording(key).provenance
    if summary["checksum"] == checksum(sums, job.options):
        if job.dtype in (None, summary["response_dtype"]):
            return
        other = f"as {summary['response_dtype']}"
    elif before.get("files") == sums:
        now = json.loads(json.dumps(job.options))  # as they are stored: lists for tuples
        told = [f"{k}: {v!r}" for k, v in before["options"].items() if now.get(k) != v]
        other = f"from these files with other options ({', '.join(told)})"
    else:
        other = f"from other files than {job.session}"
    raise UserError(
        f"session {key}: already in the store {store.name}, {other}",
        way_out="pass --overwrite, or give it another key",
    )


def _write(job: Job, tick: Tick) -> Session:
    """Reads, hashes and writes a session, unless the store has it from the same files."""
    reader = reader_of(job.format)
    recording = reader.read_session(job.session, **job.options)
    files, store = reader.source_files(job.session), Store.open(job.store)
    sums = checksums(files, job.session)
    whole = checksum(sums, job.options)
    there = recording.key in store and store.summary(recording.key)["checksum"] == whole
    if there and not job.overwrite:
        return _told(recording)._replace(skipped=True)
    provenance = {
        "reader": job.format,
        "source": str(job.session.absolute()),
        "options": job.options,
        "files": sums,
        "checksum": whole,
        "stamp": stamp(files, job.session, job.options),
    }
    told = counted(dataclasses.replace(recording, provenance={**recording.provenance, **provenance}), tick)
    try:
        store.add(told, overwrite=job.overwrite, dtype=job.dtype or "float32")
    except UserError:
        now = Store.open(job.store)  # another ingest of the same files may have been faster
        if job.overwrite or recording.key not in now or now.summary(recording.key)["checksum"] != whole:
            raise
        return _told(recording)._replace(skipped=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"session {recording.key}: could not be written to {store.name} ({str(error).splitlines()[0][:160]})",
            way_out="make room or correct the permissions, then run the same command: finished sessions are kept",
        ) from error
    return _told(recording)


def _compare(job: Job, tick: Tick) -> Session:
    """What differs between a session's source and the store."""
    reader = reader_of(job.format)
    recording = reader.read_session(job.session, **job.options)
    store = Store.open(job.store)
    if recording.key not in store:
        return _told(recording)._replace(found=("not in the store",))
    stored = store.recording(recording.key)
    before, now = stored.provenance.get("files", {}), checksums(reader.source_files(job.session), job.session)
    changed = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    found = [f"source file {name} is not the one that was ingested" for name in changed]
    try:
        found += differences(counted(recording, tick), stored)
    except UserError as error:  # damage is a difference too, and the other sessions are still to be looked at
        found.append(str(error))
    return _told(recording)._replace(found=tuple(found))


def _told(recording: Recording) -> Session:
    spans = recording.responses.spans()
    seconds = float((spans[:, 1] - spans[:, 0]).clip(0).sum())
    notes = tuple(map(str, recording.provenance.get("notes", ())))
    return Session(recording.key, recording.n_neurons, seconds, _bytes(recording) / 1e6, notes=notes)


def _bytes(rec: Recording) -> int:
    arrays = [signal.values for signal in (rec.responses, *rec.behavior.values())]
    arrays += [] if rec.screen is None else [rec.screen.frames]
    return sum(int(np.prod(a.shape, dtype=np.int64)) * np.dtype(a.dtype).itemsize for a in arrays)
