"""The store: one group of sharded arrays per session in any TensorStore kvstore, under one versioned manifest.

    STORE/manifest.json        every session's summary and folder (`manifest.py`)
    STORE/sessions/<key>@<8 hexadecimal digits>/
        session.json           what is not an array: rates, channels, provenance, scalars of the truth
        columns.npz            segments and scales: what every use of a session needs
        {trials,contents,screen_events,neurons,extras}.npz   columns that are read when they are asked for
        {responses,behavior.<stream>,screen}/       zarr3 arrays

A session is committed by its entry in the manifest, written last: what is not in the manifest does not exist. Every attempt
to write one has a folder of its own, never used again.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import threading
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.arrays import KEPT_CHUNK_BYTES, Handle, Handles, Layout, open_array
from omnimouse_jax.recordings.contents import longer
from omnimouse_jax.recordings.contents import unpack as unpack_clips
from omnimouse_jax.recordings.kvstore import Location, Place
from omnimouse_jax.recordings.manifest import DAY_H, MANIFEST, Leftover, Manifest
from omnimouse_jax.recordings.plain import PlainArray
from omnimouse_jax.recordings.session import Recording, Signal
from omnimouse_jax.recordings.stored import Later, StoredScreen, StoredTrials, unpack
from omnimouse_jax.recordings.validate import check_recording
from omnimouse_jax.recordings.writer import write_session

#: Sessions of which one process keeps what windows are cut with: scales, screen events (some 12 bytes each), array handles.
OPEN_SESSIONS = 512
#: And of which it keeps what is needed once: trials, columns of the neurons, truths.
OPEN_TABLES = 16
DTYPES = ("float32", "float16")
#: numpy parses an array's header as Python, which CPython before 3.11.8 and 3.12.2 does not do in two threads (gh-106905).
_ONE_HEADER = threading.Lock()


class Store:
    """A set of recordings. Cheap to open, safe to share between threads, pickles as its location."""

    def __init__(self, place: Place, manifest: Mapping[str, Any]):
        self._place, self._manifest = place, Manifest(place)
        self._sessions: dict[str, dict[str, Any]] = dict(manifest["sessions"])
        self._held = Handles(OPEN_SESSIONS)
        self._tables = Handles(OPEN_TABLES)

    @classmethod
    def create(cls, path: Location, exist_ok: bool = True) -> Store:
        """An empty store at `path` (a folder, a kvstore address or a kvstore spec), or the one that is there.

        Raises UserError if something else is there, or a store and not `exist_ok`.
        """
        place = Place(path)
        manifest = Manifest(place)
        found = manifest.read()
        if found is None and place.local is not None and _holds_others(place.local):
            found = manifest.read()  # they are a store's if another process made it just now
            if found is None:
                raise UserError(f"store {place.name}: holds other things", way_out="choose an empty or a new folder")
        if found is not None and not exist_ok:
            raise UserError(f"store {place.name}: exists already", way_out="choose another place or open it")
        return cls(place, found or manifest.change(lambda there: None))

    @classmethod
    def open(cls, path: Location) -> Store:
        """The store at `path`. Raises UserError if there is none or if its version cannot be read."""
        place = Place(path)
        found = Manifest(place).read()
        if found is None:
            raise UserError(
                f"store {place.name}: not a store (no {MANIFEST})", way_out="make one with ingest or synthesize"
            )
        return cls(place, found)

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
        """The named sessions, or all of them where none is named. UserError for one that is not there or is
        named twice.
        """
        wanted = tuple(keys)
        for number, key in enumerate(wanted):
            self._entry(key)
            if key in wanted[:number]:
                raise UserError(f"session {key}: named twice", way_out="name each session once")
        return wanted or self.keys

    def summary(self, key: str) -> dict[str, Any]:
        """What the manifest says of it: animal, n_neurons, response_rate, original_rate (None if native), hours, trials and
        tier_hours (by tier), channels, has_screen, screen_size, unique_stimulus_hours, nan_fraction, missing (list of
        str), ceiling (or None), reader, checksum."""
        return {name: value for name, value in self._entry(key).items() if name != "folder"}

    def stimuli(self, key: str) -> dict[str, float]:
        """Seconds of each distinct stimulus of a session, by a hash of its frames: equal across sessions for equal
        frames.
        """
        trials = self._table(key, "trials")
        return dict(zip(trials["stimuli"].tolist(), trials["stimulus_seconds"].tolist(), strict=True))

    def unique_stimulus_hours(self, keys: Iterable[str]) -> float:
        """Hours of distinct stimulus in a set of sessions; what was shown in several of them counts once, cut or whole."""
        wanted = tuple(keys)
        whole = longer({name: marks for key in wanted for name, marks in self.clips(key).items()})
        longest: dict[str, float] = {}
        for key in wanted:
            for name, seconds in self.stimuli(key).items():
                name = whole[name][-1] if name in whole else name
                longest[name] = max(longest.get(name, 0.0), seconds)
        return sum(longest.values()) / 3600

    def clips(self, key: str) -> dict[str, bytes]:
        """For each distinct moving content of a session marks of its frames, to find clips that were cut (contents.py); {} for
        a session that was written without.
        """
        return unpack_clips(self._table(key, "contents")) if "contents.npz" in self._details(key)["checks"] else {}

    def trial_contents(self, key: str) -> Shaped[np.ndarray, " trials"]:
        """For each trial the hash of the frames it showed, "" for blanks: finds repeats, and leaks between tiers."""
        return self._table(key, "trials")["content"]

    def add(self, recording: Recording, overwrite: bool = False, dtype: str = "float32") -> None:
        """Checks and writes a recording; it exists once its entry is in the manifest, and not before.

        Missing scales and behaviour statistics are computed from the valid trials of tier "train", float64, while the
        arrays stream through: a session is never in memory. NaN means not recorded. Responses are stored as `dtype`
        (float16: a relative error of up to 2^-11, statistics are those of the source). A session that is replaced keeps its
        files until the new one is committed; whoever reads the old one after that meets `Damaged`. Raises UserError for
        inconsistent recordings, keys that are taken, also by another process meanwhile, and values that the stored dtype
        cannot hold.
        """
        if dtype not in DTYPES:
            raise UserError(f"responses as {dtype}", way_out=f"store them as one of {', '.join(DTYPES)}")
        check_recording(recording)
        key = recording.key
        if key in self._sessions and not overwrite:
            raise UserError(
                f"session {key}: already in the store {self.name}", way_out="pass --overwrite, or give it another key"
            )
        old = self._sessions.get(key)
        folder, sessions = self._manifest.begin(key, old)
        self._update(sessions)
        place = self._place.under(f"{folder}/")
        try:
            entry = write_session(place, recording, dtype) | {"folder": folder}
        except BaseException:
            with contextlib.suppress(UserError):  # the first error is what is told
                place.delete_all()  # first: a full disk may not have room for a manifest
                self._manifest.discard([folder])
            raise
        try:
            self._update(self._manifest.commit(key, entry, old))
        except BaseException:
            with contextlib.suppress(UserError):
                self._manifest.discard([folder])  # unless it was committed and only the answer got lost
            raise
        if old is not None:
            self._place.under(f"{old['folder']}/").delete_all()

    def leftovers(self, hours: float = 0.0) -> list[Leftover]:
        """Folders that belong to no session: of attempts that began `hours` ago or earlier, killed or still being written,
        and of interrupted removals. Lists every file of the store.
        """
        return self._manifest.leftovers(hours)

    def clean(self, hours: float = DAY_H) -> list[Leftover]:
        """Removes the leftovers, as `leftovers(hours)` tells them, and returns them.

        Never touches a session. An attempt that was still running after `hours` ends with a UserError and can be repeated.
        """
        return self._manifest.clean(hours)

    def recording(self, key: str) -> Recording:
        """A twin whose large arrays are read when sliced. Handles are opened on first use and the least used are
        closed.
        """
        return self._held.get(key, "recording", lambda: self._read(key))

    def _read(self, key: str) -> Recording:
        details, columns = self._details(key), self._columns(key)
        signals = {name: self._signal(key, name, spec, columns) for name, spec in details["signals"].items()}
        screen, truth = None, None
        if details["screen"] is not None:
            frames = self._handle(key, "screen", details["screen"])
            fixed = {"frames": frames, "end_time": float(details["screen"]["end_time"])}
            screen = StoredScreen(functools.partial(self._events, key), **fixed)
        if details["truth"] is not None:
            truth = Later(functools.partial(self._truth, key))
        return Recording(
            key=key,
            animal=details["animal"],
            responses=signals["responses"],
            trials=StoredTrials(functools.partial(self._table, key, "trials")),
            behavior={n.removeprefix("behavior."): s for n, s in signals.items() if n != "responses"},
            screen=screen,
            neurons=Later(functools.partial(self._neurons, key)) if details["neurons"] else {},
            response_scale=columns["response_scale"],
            behavior_mean={k: float(v) for k, v in details["behavior_mean"].items()},
            behavior_scale={k: float(v) for k, v in details["behavior_scale"].items()},
            provenance=details["provenance"],
            truth=truth,
            extras=Later(functools.partial(self._table, key, "extras")) if details["extras"] else {},
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
        folder = self._entry(key)["folder"]
        shape, dtype = tuple(spec["shape"]), np.dtype(spec["dtype"])
        layout = Layout(**spec["layout"])
        make = functools.partial(self._array, key, name, folder, shape, dtype, layout)
        return Handle(make, shape, dtype, key, name, f"{self.name}/{folder}/{name}")

    def _array(
        self, key: str, name: str, folder: str, shape: tuple[int, ...], dtype: np.dtype, layout: Layout, again: bool
    ) -> Any:
        place = self._place.under(f"{folder}/")
        if again:
            return open_array(place, name, again=True)
        if layout.plain and place.local is not None:
            sums = functools.partial(self._sums, key, name)
            make = functools.partial(
                PlainArray, place.local / name, shape, dtype, layout.chunk_rows, layout.shard_chunks, sums
            )
        else:
            make = functools.partial(open_array, place, name, layout.chunk_bytes <= KEPT_CHUNK_BYTES)
        return self._held.get(key, f"{folder}/{name}", make)

    def _sums(self, key: str, name: str) -> np.ndarray:
        return self._held.get(key, "sums", lambda: self._load(key, "sums"))[name]

    def _details(self, key: str) -> dict[str, Any]:
        return self._held.get(key, "details", lambda: self._load_details(key))

    def _columns(self, key: str) -> dict[str, np.ndarray]:
        return self._held.get(key, "columns", lambda: self._load(key, "columns"))

    def _events(self, key: str) -> dict[str, np.ndarray]:
        return self._held.get(key, "events", lambda: self._load(key, "screen_events"))

    def _table(self, key: str, name: str) -> dict[str, np.ndarray]:
        return self._tables.get(key, name, lambda: self._load(key, name))

    def _neurons(self, key: str) -> dict[str, np.ndarray]:
        return _below(self._table(key, "neurons"), "neurons")

    def _truth(self, key: str) -> dict[str, Any]:
        return _deepen({**self._details(key)["truth"], **_below(self._table(key, "neurons"), "truth")})

    def _load_details(self, key: str) -> dict[str, Any]:
        return json.loads(self._file(key, "session.json", self._entry(key)["check"]))

    def _load(self, key: str, name: str) -> dict[str, np.ndarray]:
        found = self._file(key, f"{name}.npz", self._details(key)["checks"][f"{name}.npz"])
        with _ONE_HEADER, np.load(io.BytesIO(found), allow_pickle=False) as columns:
            return unpack({column: columns[column] for column in columns.files})

    def _file(self, key: str, name: str, check: int) -> bytes:
        found = self._place.read(f"{self._entry(key)['folder']}/{name}")
        if found is None:
            raise self._broken(key, name, "missing")
        if zlib.crc32(found) != check:
            raise self._broken(key, name, "damaged")
        return found

    def _broken(self, key: str, name: str, how: str) -> UserError:
        return UserError(
            f"session {key}: file {self.name}/{self._entry(key)['folder']}/{name}: {how}",
            way_out="ingest the session again with --overwrite (or start again, if someone replaced it just now)",
        )

    def _entry(self, key: str) -> dict[str, Any]:
        try:
            return self._sessions[key]
        except KeyError:
            raise UserError(
                f"session {key}: not in the store {self.name}", way_out="omnimouse-jax inspect lists what is there"
            ) from None

    def _update(self, sessions: Mapping[str, dict[str, Any]]) -> None:
        """Takes over what the manifest says now and forgets what is open of sessions that were replaced."""
        before, self._sessions = self._sessions, dict(sessions)
        for key, entry in before.items():
            if sessions.get(key, {}).get("folder") != entry["folder"]:
                self._held.drop(key)
                self._tables.drop(key)


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


def _holds_others(folder: Path) -> bool:
    """Is something there that is no store's? A manifest that is being written leaves files that are named after it."""
    if folder.is_dir():
        return any(not path.name.startswith(MANIFEST) for path in folder.iterdir())
    return folder.is_file()
