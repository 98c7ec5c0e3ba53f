"""The store: one group of sharded arrays per session in any TensorStore kvstore, under one versioned manifest.

    STORE/manifest.json                {"format", "version", "sessions": {key: summary and folder}}
    STORE/sessions/<key>/session.json  what is not an array: rates, channels, provenance, scalars of the truth
    STORE/sessions/<key>/columns.npz   small columns: trials, screen events, segments, neurons, scales, truth
    STORE/sessions/<key>/{responses,behavior.<stream>,screen}/   zarr3 arrays

A session is committed by its entry in the manifest, written last: what is not in the manifest does not exist.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import urllib.parse
import zipfile
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.kvstore import Handle, Handles, Location, Place, dump_json, open_array
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.validate import check_recording
from omnimouse_jax.recordings.writer import write_session

FORMAT = "omnimouse_jax.store"
VERSION = 1
MANIFEST = "manifest.json"
#: Sessions whose columns and array handles one process keeps open.
OPEN_SESSIONS = 64


class Store:
    """A set of recordings. Cheap to open, safe to share between threads, pickles as its location."""

    def __init__(self, place: Place, manifest: Mapping[str, Any]):
        self._place = place
        self._sessions: dict[str, dict[str, Any]] = dict(manifest["sessions"])
        self._held = Handles(OPEN_SESSIONS)

    @classmethod
    def create(cls, path: Location, exist_ok: bool = True) -> Store:
        """An empty store at `path` (a folder, a kvstore address or a kvstore spec), or the one that is there.

        Raises UserError if something else is there, or a store and not `exist_ok`.
        """
        place = Place(path)
        found = place.read(MANIFEST)
        if found is not None:
            if not exist_ok:
                raise UserError(f"store {place.name}: exists already", way_out="choose another place or open it")
            return cls(place, _parse(place, found))
        if place.local is not None and place.local.exists() and (place.local.is_file() or any(place.local.iterdir())):
            raise UserError(f"store {place.name}: holds other things", way_out="choose an empty or a new folder")
        empty = {"format": FORMAT, "version": VERSION, "sessions": {}}
        place.write(MANIFEST, dump_json(empty))
        return cls(place, empty)

    @classmethod
    def open(cls, path: Location) -> Store:
        """The store at `path`. Raises UserError if there is none or if its version cannot be read."""
        place = Place(path)
        found = place.read(MANIFEST)
        if found is None:
            raise UserError(
                f"store {place.name}: not a store (no {MANIFEST})", way_out="make one with ingest or synthesize"
            )
        return cls(place, _parse(place, found))

    def __repr__(self) -> str:
        return f"Store({self.name!r}, {len(self)} sessions)"

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, key: object) -> bool:
        return key in self._sessions

    @property
    def name(self) -> str:
        """Where it is."""
        return self._place.name

    @property
    def keys(self) -> tuple[str, ...]:
        """Session keys, sorted: the order in which they were added does not matter."""
        return tuple(sorted(self._sessions))

    def chosen(self, keys: Iterable[str] = ()) -> tuple[str, ...]:
        """The named sessions, or all of them where none is named. UserError for one that is not there."""
        wanted = tuple(keys)
        for key in wanted:
            self._entry(key)
        return wanted or self.keys

    def summary(self, key: str) -> dict[str, Any]:
        """The manifest's entry: animal, n_neurons, response_rate, original_rate (None if native), hours, trials and
        tier_hours (by tier), channels, has_screen, screen_size, unique_stimulus_hours, nan_fraction, missing (list of
        str), ceiling (or None), reader, checksum."""
        return dict(self._entry(key))

    def stimuli(self, key: str) -> dict[str, float]:
        """Seconds of each distinct stimulus of a session, by a hash of its frames: equal across sessions for equal
        frames.
        """
        return dict(self._details(key)["stimuli"])

    def unique_stimulus_hours(self, keys: Iterable[str]) -> float:
        """Hours of distinct stimulus in a set of sessions; what was shown in several of them counts once."""
        longest: dict[str, float] = {}
        for key in keys:
            for name, seconds in self.stimuli(key).items():
                longest[name] = max(longest.get(name, 0.0), seconds)
        return sum(longest.values()) / 3600

    def trial_contents(self, key: str) -> Shaped[np.ndarray, " trials"]:
        """For each trial the hash of the frames it showed, "" for blanks: finds repeats, and leaks between tiers."""
        return self._columns(key)["trials.content"]

    def add(self, recording: Recording, overwrite: bool = False) -> None:
        """Checks and writes a recording; it exists once its entry is in the manifest, and not before.

        Missing scales and behaviour statistics are computed from the valid trials of tier "train", float64, while the
        arrays stream through: a session is never in memory. NaN means not recorded. Raises UserError for inconsistent
        recordings and for keys that are taken.
        """
        check_recording(recording)
        key = recording.key
        if key in self._sessions and not overwrite:
            raise UserError(
                f"session {key}: already in the store {self.name}", way_out="pass --overwrite, or give it another key"
            )
        old = self._sessions.get(key)
        folder = _folder(key, None if old is None else old["folder"])
        place = self._place.under(f"{folder}/")
        place.delete_all()
        try:
            entry = write_session(place, recording)
        except BaseException:
            place.delete_all()
            raise
        entry["folder"] = folder
        taken = self._commit(key, entry, old)
        if taken:
            place.delete_all()
            raise UserError(f"session {key}: was added by someone else meanwhile", way_out="reopen the store")
        self._held.drop(key)
        if old is not None:
            self._place.under(f"{old['folder']}/").delete_all()

    def recording(self, key: str) -> Recording:
        """A twin whose large arrays are read when sliced. Handles are opened on first use and the least used are
        closed.
        """
        return self._held.get(key, "recording", lambda: self._read(key))

    def _read(self, key: str) -> Recording:
        details, columns = self._details(key), self._columns(key)
        signals = {name: self._signal(key, name, spec, columns) for name, spec in details["signals"].items()}
        screen = None
        if details["screen"] is not None:
            screen = Screen(
                self._handle(key, "screen", details["screen"]),
                columns["screen.times"],
                columns["screen.frame"],
                columns["screen.grey"],
                float(columns["screen.end_time"]),
            )
        truth = None
        if details["truth"] is not None:
            truth = _deepen({**details["truth"], **_below(columns, "truth")})
        return Recording(
            key=key,
            animal=details["animal"],
            responses=signals["responses"],
            trials=Trials(**{f.name: columns[f"trials.{f.name}"] for f in dataclasses.fields(Trials)}),
            behavior={n.removeprefix("behavior."): s for n, s in signals.items() if n != "responses"},
            screen=screen,
            neurons=_below(columns, "neurons"),
            response_scale=columns["response_scale"],
            behavior_mean={k: float(v) for k, v in details["behavior_mean"].items()},
            behavior_scale={k: float(v) for k, v in details["behavior_scale"].items()},
            provenance=details["provenance"],
            truth=truth,
        )

    def _signal(self, key: str, name: str, spec: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> Signal:
        channels = spec["channels"]
        return Signal(
            self._handle(key, name, spec),
            float(spec["rate"]),
            columns[f"{name}.segment_start"],
            columns[f"{name}.segment_first"],
            channels=None if channels is None else tuple(channels),
            phase_shifts=columns.get(f"{name}.phase_shifts"),
            segment_end=columns.get(f"{name}.segment_end"),
            snap=float(spec["snap"]),
        )

    def _handle(self, key: str, name: str, spec: Mapping[str, Any]) -> Handle:
        return Handle(
            functools.partial(self._array, key, name, self._entry(key)["folder"]),
            tuple(spec["shape"]),
            np.dtype(spec["dtype"]),
            f"session {key}: file {self.name}/{self._entry(key)['folder']}/{name}",
            "ingest the session again with --overwrite",
        )

    def _array(self, key: str, name: str, folder: str) -> Any:
        return self._held.get(key, f"{folder}/{name}", lambda: open_array(self._place.under(f"{folder}/"), name))

    def _details(self, key: str) -> dict[str, Any]:
        return self._held.get(key, "details", lambda: json.loads(self._file(key, "session.json")))

    def _columns(self, key: str) -> dict[str, np.ndarray]:
        return self._held.get(key, "columns", lambda: self._load_columns(key))

    def _load_columns(self, key: str) -> dict[str, np.ndarray]:
        try:
            with np.load(io.BytesIO(self._file(key, "columns.npz")), allow_pickle=False) as found:
                return {name: found[name] for name in found.files}
        except (ValueError, zipfile.BadZipFile) as error:
            raise self._broken(key, "columns.npz", "damaged") from error

    def _file(self, key: str, name: str) -> bytes:
        found = self._place.read(f"{self._entry(key)['folder']}/{name}")
        if found is None:
            raise self._broken(key, name, "missing")
        return found

    def _broken(self, key: str, name: str, how: str) -> UserError:
        return UserError(
            f"session {key}: file {self.name}/{self._entry(key)['folder']}/{name}: {how}",
            way_out="ingest the session again with --overwrite",
        )

    def _entry(self, key: str) -> dict[str, Any]:
        try:
            return self._sessions[key]
        except KeyError:
            raise UserError(
                f"session {key}: not in the store {self.name}", way_out="omnimouse-jax inspect lists what is there"
            ) from None

    def _commit(self, key: str, entry: dict[str, Any], old: dict[str, Any] | None) -> bool:
        """Puts the entry into the manifest unless another process changed this session meanwhile; says if it did."""
        taken = False

        def change(found: bytes | None) -> bytes:
            nonlocal taken
            manifest: dict[str, Any] = {"format": FORMAT, "version": VERSION, "sessions": {}}
            if found is not None:
                manifest = _parse(self._place, found)
            there = manifest["sessions"].get(key)
            taken = there is not None and there.get("folder") != (old or {}).get("folder")
            if not taken:
                manifest["sessions"][key] = entry
            self._sessions = dict(manifest["sessions"])
            return dump_json(manifest)

        self._place.update(MANIFEST, change)
        return taken


def _parse(place: Place, found: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(found)
        named, version = manifest["format"], manifest["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"store {place.name}: {MANIFEST} cannot be read", way_out="restore it or ingest into a new store"
        ) from error
    if named != FORMAT:
        raise UserError(f"store {place.name}: {MANIFEST} is of format {named}", way_out=f"give a store ({FORMAT})")
    if version != VERSION:
        raise UserError(
            f"store {place.name}: written as version {version}, this program reads version {VERSION}",
            way_out="ingest again into a new store, or install the omnimouse-jax that wrote it",
        )
    return manifest


def _folder(key: str, old: str | None) -> str:
    """Where a session's files go: never where the committed ones are, so that replacing it is atomic too."""
    base = f"sessions/{urllib.parse.quote(key, safe=' ').replace(' ', '%20')}"
    if base.endswith("/.") or base.endswith("/.."):
        base = base.replace(".", "%2E")
    if old is None:
        return base
    number = int(old.rpartition("@")[2]) + 1 if "@" in old else 2
    return f"{base}@{number}"


def _deepen(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested mapping that `writer.flatten` took apart."""
    out: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        inner = out
        for part in path:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return out


def _below(columns: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    start = f"{prefix}."
    return {name.removeprefix(start): values for name, values in columns.items() if name.startswith(start)}
