"""The one place that touches TensorStore: a shared context, where a store lives, sharded arrays and their handles."""

from __future__ import annotations

import functools
import json
import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from omnimouse_jax.errors import UserError

#: Bytes of decoded chunks that one process keeps.
CACHE_BYTES = int(os.environ.get("OMNIMOUSE_CACHE_BYTES", 512 * 2**20))
SHARD_BYTES = 60 * 2**20
CHUNK_ROWS = 60
CHUNK_BYTES = 32 * 2**10

Location = str | Path | Mapping[str, Any]


@functools.cache
def context() -> ts.Context:
    """The process's TensorStore context, made on first use. Never fork after that."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


class Place:
    """A directory-like prefix of any TensorStore kvstore. Holds its location only, so it pickles; opens on first
    use.
    """

    def __init__(self, location: Location):
        self.spec = _spec(location)
        self._kv: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "_kv": None}

    @property
    def kv(self) -> Any:
        if self._kv is None:
            self._kv = ts.KvStore.open(self.spec, context=context()).result()
        return self._kv

    @property
    def name(self) -> str:
        """How a user would write the location."""
        if self.spec.get("driver") == "file":
            return str(self.spec["path"]).rstrip("/")
        return str(self.kv.url)

    @property
    def local(self) -> Path | None:
        """The directory of a store on a local disk, else None."""
        return Path(self.spec["path"]) if self.spec.get("driver") == "file" else None

    def under(self, path: str) -> Place:
        """The prefix `path` (ending in /) below this one."""
        return Place({**self.spec, "path": self.spec.get("path", "") + path})

    def read(self, key: str) -> bytes | None:
        """The bytes of one key, None if there are none."""
        result = self.kv.read(key).result()
        return None if result.state == "missing" else bytes(result.value)

    def write(self, key: str, value: bytes) -> None:
        """Writes one key atomically (on files: a temporary one, then a rename)."""
        self.kv.write(key, value).result()

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Reads, changes and writes one key so that no other process's change in between is lost."""
        while True:
            old = self.kv.read(key).result()
            new = change(None if old.state == "missing" else bytes(old.value))
            if self.kv.write(key, new, if_equal=old.stamp.generation).result().generation:
                return new

    def delete_all(self) -> None:
        """Removes everything under this prefix; on a local disk its empty folders too."""
        self.kv.delete_range(ts.KvStore.KeyRange()).result()
        if self.local is not None and self.local.is_dir():
            for folder, _, _ in os.walk(self.local, topdown=False):
                os.rmdir(folder)


def write_array(
    place: Place, name: str, values: Any, dtype: str, *, compress: bool, observe: Callable[[int, np.ndarray], None]
) -> int:
    """Streams `values` (rows, ...) into a sharded zarr3 array below `place`, one shard in memory at a time.

    `observe(first_row, block)` sees every block as it is written. Chunks hold about 60 rows of everything else, shards
    about 60 MB of rows; every chunk carries a crc32c. Returns the bytes of the decoded array.
    """
    shape = [int(n) for n in values.shape]
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    chunk_rows = max(CHUNK_ROWS, min(CHUNK_BYTES // row_bytes, shape[0]))
    shard_rows = chunk_rows * max(1, min(SHARD_BYTES // (row_bytes * chunk_rows), -(-shape[0] // chunk_rows)))
    codecs: list[Any] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    if compress:
        codecs.append({"name": "zstd", "configuration": {"level": 3}})
    codecs.append({"name": "crc32c"})
    sharding = {
        "chunk_shape": [chunk_rows, *shape[1:]],
        "codecs": codecs,
        "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
    }
    metadata = {
        "shape": shape,
        "data_type": dtype,
        "fill_value": "NaN" if dtype.startswith("float") else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard_rows, *shape[1:]]}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }
    spec = {"driver": "zarr3", "kvstore": place.under(f"{name}/").spec, "metadata": metadata}
    array = ts.open(spec, create=True, delete_existing=True, context=context()).result()
    pending = None
    for lo in range(0, shape[0], shard_rows):
        block = np.ascontiguousarray(values[lo : min(lo + shard_rows, shape[0])], dtype=dtype)
        observe(lo, block)
        if pending is not None:
            pending.result()
        pending = array[lo : lo + len(block)].write(block)
    if pending is not None:
        pending.result()
    return shape[0] * row_bytes


class Handle:
    """An array of the store that slices like numpy. Opened by `open_array` on first use, so it costs nothing to
    hold.
    """

    def __init__(
        self, open_array: Callable[[], Any], shape: tuple[int, ...], dtype: np.dtype, what: str, damaged: str = ""
    ):
        self._open, self.shape, self.dtype, self._what, self._way_out = open_array, shape, dtype, what, damaged

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        lo, hi, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError("the store's arrays are read in contiguous slices")
        return self.start(lo, hi)()

    def start(self, lo: int, hi: int) -> Callable[[], np.ndarray]:
        """Begins to read rows [lo, hi) and returns a function that waits for them."""
        if hi <= lo:
            return lambda: np.zeros((0, *self.shape[1:]), self.dtype)
        try:
            future = self._open()[lo:hi].read()
        except (ValueError, OSError) as error:
            raise self._damaged(error) from error

        def finish() -> np.ndarray:
            try:
                return np.asarray(future.result())
            except (ValueError, OSError) as error:
                raise self._damaged(error) from error

        return finish

    def _damaged(self, error: Exception) -> UserError:
        line = str(error).splitlines()[0][:200]
        return UserError(f"{self._what}: missing or damaged ({line})", way_out=self._way_out)


class Handles:
    """Opened arrays of at most `limit` sessions; the least recently used session's are dropped. Thread-safe, pickles
    empty.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self._lock = threading.Lock()
        self._open: dict[str, dict[str, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"limit": self._limit}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["limit"])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._open)

    def get(self, session: str, name: str, make: Callable[[], Any]) -> Any:
        """The session's thing called `name`, made on first use."""
        with self._lock:
            held = self._open.pop(session, {})
            self._open[session] = held  # now the most recently used
            while len(self._open) > self._limit:
                del self._open[next(iter(self._open))]
            if name in held:
                return held[name]
        made = make()
        with self._lock:
            return held.setdefault(name, made)

    def drop(self, session: str) -> None:
        """Forgets all that is open for a session."""
        with self._lock:
            self._open.pop(session, None)


def open_array(place: Place, name: str) -> Any:
    """A TensorStore handle for reading; what is cached is checked again once, now, and then trusted."""
    spec = {
        "driver": "zarr3",
        "kvstore": place.under(f"{name}/").spec,
        "recheck_cached_metadata": "open",
        "recheck_cached_data": "open",
    }
    return ts.open(spec, read=True, context=context()).result()


def dump_json(value: Any) -> bytes:
    """Indented JSON of plain and numpy scalars, lists and mappings; NaN and infinities become null."""
    return (json.dumps(_plain(value), indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def _spec(location: Location) -> dict[str, Any]:
    if isinstance(location, Mapping):
        spec = dict(location)
        spec["path"] = str(spec.get("path", "")).rstrip("/") + "/" if spec.get("path") else ""
        return spec
    text = str(location)
    if not re.match(r"[a-z0-9_+]+://", text):
        return {"driver": "file", "path": str(Path(text).expanduser().absolute()) + "/"}
    try:
        spec = ts.KvStore.Spec(text.rstrip("/") + "/").to_json()
    except ValueError as error:
        raise UserError(
            f"store {text}: not a location that can be opened ({str(error).splitlines()[0][:120]})",
            way_out="give a folder, or a gs://, s3://, file:// or memory:// address",
        ) from error
    return dict(spec)
