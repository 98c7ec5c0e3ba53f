"""The manifest of a store: which sessions exist, and which attempts to write one have begun.

    {"format", "version", "sessions": {key: summary and folder}, "attempts": {folder: when it began, seconds since 1970}}

Every change is one conditional write, so no process loses what another did. An attempt writes into a folder of its own, which
is listed under "attempts" before its first file, and becomes a session only while it is listed there. Whoever removes files
of another's attempt takes it off the list first. So what a session names is never removed, however long its writer took.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.kvstore import Place, dump_json

FORMAT = "omnimouse_jax.store"
VERSION = 2
MANIFEST = "manifest.json"
#: An attempt that began longer ago is taken for killed.
DAY_H = 24.0


class Leftover(NamedTuple):
    """A folder that belongs to no session. `hours` since its attempt began; None where no attempt can still be writing to
    it (an interrupted removal). `size` in bytes, None where the store would have to be asked for every file (buckets).
    """

    folder: str
    hours: float | None
    files: int
    size: int | None


class Manifest:
    """Of the store at `place`. Holds the location only: everything is read when it is asked for."""

    def __init__(self, place: Place):
        self._place = place

    def read(self) -> dict[str, Any] | None:
        """What it says now, None if there is no store."""
        found = self._place.read(MANIFEST)
        return None if found is None else self._parse(found)

    def change(self, edit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Applies `edit`, perhaps several times (`Place.update`), and returns what was written. An empty one is made."""

        def changed(found: bytes | None) -> bytes:
            manifest = {"sessions": {}, "attempts": {}} if found is None else self._parse(found)
            edit(manifest)
            if not manifest["attempts"]:
                del manifest["attempts"]
            return dump_json({"format": FORMAT, "version": VERSION} | manifest)

        return self._parse(self._place.update(MANIFEST, changed))

    def begin(self, key: str, old: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """Lists an attempt to write a session whose entry is `old` (None: a new one); returns its folder and the sessions.

        Removes what killed attempts of the same session left more than a day ago.
        """
        base = f"sessions/{urllib.parse.quote(key, safe='')}@"  # no @ in what is quoted: no key's base begins another's
        folder, now = f"{base}{secrets.token_hex(4)}", time.time()
        killed: set[str] = set()

        def edit(manifest: dict[str, Any]) -> None:
            _require_unchanged(manifest, key, old)
            for other, began in list(manifest["attempts"].items()):
                if other.startswith(base) and now - began > DAY_H * 3600:
                    del manifest["attempts"][other]
                    killed.add(other)
            manifest["attempts"][folder] = int(now)

        manifest = self.change(edit)
        with contextlib.suppress(UserError):  # what cannot be removed now is still told by `leftovers`
            self._remove(killed - _named(manifest))
        return folder, manifest["sessions"]

    def commit(self, key: str, entry: dict[str, Any], old: Mapping[str, Any] | None) -> dict[str, Any]:
        """Makes the attempt in `entry["folder"]` the session and returns the sessions.

        Raises UserError if the session is no longer what it was when the attempt began, or if the attempt was removed.
        """

        def edit(manifest: dict[str, Any]) -> None:
            there = manifest["sessions"].get(key)
            if there is not None and there["folder"] == entry["folder"]:
                return  # written before, the answer did not arrive
            _require_unchanged(manifest, key, old)
            if manifest["attempts"].pop(entry["folder"], None) is None:
                raise UserError(
                    f"session {key}: its files were removed from the store {self._place.name} while they were written",
                    way_out="add it again; clean a store when nobody writes to it, or leave out attempts of today",
                )
            manifest["sessions"][key] = entry

        return self.change(edit)["sessions"]

    def discard(self, folders: Iterable[str]) -> None:
        """Takes attempts off the list and removes their files, but those of a session."""
        gone = set(folders)

        def edit(manifest: dict[str, Any]) -> None:
            for folder in gone:
                manifest["attempts"].pop(folder, None)

        if gone:
            self._remove(gone - _named(self.change(edit)))

    def leftovers(self, hours: float) -> list[Leftover]:
        """Folders of attempts that began `hours` ago or earlier, and folders that nothing names. By name."""
        there = self._folders()  # before the manifest: a folder with files that it does not name then, it never will
        manifest = self.read() or {"sessions": {}, "attempts": {}}
        committed, now, found = _sessions_in(manifest), time.time(), []
        for folder in sorted((there.keys() | manifest["attempts"].keys()) - committed):
            began = manifest["attempts"].get(folder)
            age = None if began is None else max(0.0, now - began) / 3600  # 0 where its clock is ahead of this one
            if age is None or age >= hours:
                files, size = there.get(folder, (0, 0))
                found.append(Leftover(folder, age, files, size))
        return found

    def clean(self, hours: float) -> list[Leftover]:
        """Removes the leftovers and returns what they were."""
        found = self.leftovers(hours)
        self._remove(left.folder for left in found if left.hours is None)  # makes room for a new manifest
        self.discard(left.folder for left in found if left.hours is not None)
        return found

    def _folders(self) -> dict[str, tuple[int, int | None]]:
        """Number and bytes of the files of each folder below sessions/."""
        found: dict[str, tuple[int, int | None]] = {}
        local = self._place.local
        if local is None:
            below = self._place.under("sessions/")
            for name in below.settle("", lambda: below.kv.list(), patience=10.0):
                folder = f"sessions/{name.decode().partition('/')[0]}"
                found[folder] = (found.get(folder, (0, None))[0] + 1, None)
        elif (local / "sessions").is_dir():
            for path in (local / "sessions").iterdir():
                sizes = [_size(os.path.join(top, name)) for top, _, names in os.walk(path) for name in names]
                found[f"sessions/{path.name}"] = (len(sizes), sum(sizes))
        return found

    def _remove(self, folders: Iterable[str]) -> None:
        for folder in folders:
            self._place.under(f"{folder}/").delete_all()

    def _parse(self, found: bytes) -> dict[str, Any]:
        where = f"store {self._place.name}"
        try:
            manifest = json.loads(found)
            named, version = manifest["format"], manifest["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{where}: {MANIFEST} cannot be read", way_out="restore it or ingest into a new store"
            ) from error
        if named != FORMAT:
            raise UserError(f"{where}: {MANIFEST} is of format {named}", way_out=f"give a store ({FORMAT})")
        if version != VERSION:
            raise UserError(
                f"{where}: written as version {version}, this program reads version {VERSION}",
                way_out="ingest again into a new store, or install the omnimouse-jax that wrote it",
            )
        return {"attempts": {}} | manifest


def _require_unchanged(manifest: dict[str, Any], key: str, old: Mapping[str, Any] | None) -> None:
    there = manifest["sessions"].get(key)
    if there is not None and there["folder"] != (old or {}).get("folder"):
        raise UserError(f"session {key}: was added by someone else meanwhile", way_out="reopen the store")


def _sessions_in(manifest: dict[str, Any]) -> set[str]:
    return {entry["folder"] for entry in manifest["sessions"].values()}


def _named(manifest: dict[str, Any]) -> set[str]:
    """Folders that are in use, or may be."""
    return _sessions_in(manifest) | manifest["attempts"].keys()


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:  # removed meanwhile
        return 0
