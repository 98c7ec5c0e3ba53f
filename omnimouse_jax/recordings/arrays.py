"""Sharded zarr3 arrays: how they are cut into chunks, written in one pass, and read in contiguous ranges of rows."""

from __future__ import annotations

import contextlib
import functools
import threading
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorstore as ts
from jaxtyping import UInt32

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.kvstore import (
    ATTEMPTS,
    ERRORS,
    TIMEOUT_S,
    Damaged,
    Place,
    context,
    kind,
    new_context,
    reason,
    settle,
)
from omnimouse_jax.recordings.plain import checksum

#: A chunk holds a third of a second: what a 2 s window reads beyond its ends is then at most a sixth of it.
CHUNK_SECONDS = 1 / 3
#: But not less than this, where rows are small.
CHUNK_BYTES = 32 * 2**10
#: Chunks up to this many bytes are kept once decoded: they hold more than one window, and neighbours ask for them again.
KEPT_CHUNK_BYTES = 2 * CHUNK_BYTES
SHARD_BYTES = 60 * 2**20
#: Of a shard: its index, 16 bytes a chunk, is read whole before the first chunk.
SHARD_CHUNKS = 512
#: zstd at this level folds repeated rows (resampled responses) and costs less to read than crc32c alone.
FAST = -100
#: And this is for what is small beside the responses: behaviour and frames.
SMALL = 3


def chunk_rows(rate: float, row_bytes: int) -> int:
    """Rows of one chunk of a signal with `rate` rows a second."""
    return max(1, round(rate * CHUNK_SECONDS), CHUNK_BYTES // row_bytes)


class Layout(NamedTuple):
    """How an array lies in its files; `plain`: uncompressed, so that a local disk can be read straight (`plain.py`)."""

    chunk_rows: int
    shard_chunks: int
    chunk_bytes: int
    plain: bool


def write_array(
    place: Place,
    name: str,
    values: Any,
    dtype: str,
    rate: float,
    *,
    compress: bool,
    observe: Callable[[int, np.ndarray], None],
) -> tuple[Layout, UInt32[np.ndarray, " chunks"]]:
    """Streams `values` (rows, ...) into a sharded zarr3 array below `place`, one shard in memory at a time.

    `rate` is rows per second of recording. `observe(first_row, block)` sees every block before it is rounded to float16
    (float32 then). Chunks are zstd frames with a checksum where that pays: where rows repeat (resampled recordings) or, if
    `compress`, where a sample shrinks. Others are plain, with a crc32c. Chunks of nothing but the fill value are written
    too: one that is absent is damage. Returns the layout, and the checksum of every chunk if it is plain. Raises
    OverflowError, with array and value, where `dtype` cannot hold one.
    """
    shape = [int(n) for n in values.shape]
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
    rows = min(chunk_rows(rate, row_bytes), shape[0])
    chunks = max(1, min(SHARD_BYTES // (row_bytes * rows), SHARD_CHUNKS, -(-shape[0] // rows)))
    layout: Layout | None = None
    array: Any = None
    pending: Callable[[], Any] | None = None
    checks: list[int] = []
    for lo in range(0, shape[0], rows * chunks):
        raw = np.asarray(values[lo : min(lo + rows * chunks, shape[0])])
        block = np.ascontiguousarray(_narrowed(raw, "float32" if dtype == "float16" else dtype, name))
        observe(lo, block)
        block = _narrowed(block, dtype, name)
        if layout is None:
            layout = Layout(rows, chunks, rows * row_bytes, not (_repeats(block) or (compress and _shrinks(block))))
            spec = _array_spec(place, name, kept=False) | {"metadata": _metadata(shape, dtype, layout, compress)}
            array = _create(place, name, spec | {"store_data_equal_to_fill_value": True})
        if layout.plain:
            checks += [checksum(block[at : at + rows]) for at in range(0, len(block), rows)]
        if pending is not None:
            pending()
        pending = _begin_write(place, name, array[lo : lo + len(block)], block)
    if pending is None or layout is None:
        raise ValueError(f"{name}: no rows")
    pending()
    return layout, np.array(checks, np.uint32)


def open_array(place: Place, name: str, kept: bool = False, again: bool = False) -> Any:
    """A TensorStore handle for reading. `kept`: its chunks are cached, checked against the store once, now. `again`: nothing
    that is cached is used.
    """
    spec = {**_array_spec(place, name, kept), "recheck_cached_metadata": "open", "recheck_cached_data": "open"}
    within = new_context(0) if again else context()
    opened = ts.open({**spec, "fill_missing_data_reads": False}, read=True, context=within)
    return opened.result(timeout=TIMEOUT_S)  # whoever reads attempts it again


class Handle:
    """An array of the store that slices like numpy, in the stored dtype. Opened by `open_array(again)` on first use, so
    it costs nothing to hold.

    A read that fails for a reason that may pass is attempted again (`kvstore.settle`), one that meets damage once, past
    all caches. Then it raises `Damaged`, or a UserError that names session, array and rows.
    """

    def __init__(
        self,
        open_array: Callable[[bool], Any],
        shape: tuple[int, ...],
        dtype: np.dtype,
        session: str,
        array: str,
        where: str,
    ):
        self._open, self.shape, self.dtype = open_array, shape, dtype
        self._session, self._array, self._where = session, array, where

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
        begun = None
        with contextlib.suppress(*ERRORS):  # told by `_finish`, if it fails again
            begun = self._open(False)[lo:hi].read()
        return functools.partial(self._finish, lo, hi, begun)

    def _finish(self, lo: int, hi: int, begun: Any) -> np.ndarray:
        try:
            return np.asarray(settle(lambda: self._open(False)[lo:hi].read(), begun))
        except ERRORS as error:
            if kind(error) != "damage":
                raise self._failed(lo, hi, error) from None
        try:
            return np.asarray(settle(lambda: self._open(True)[lo:hi].read()))
        except ERRORS as error:
            if kind(error) != "damage":
                raise self._failed(lo, hi, error) from None
            raise Damaged(self._session, self._array, lo, hi, self._where, reason(error)) from None

    def _failed(self, lo: int, hi: int, error: Exception) -> UserError:
        tries = f" in {ATTEMPTS} attempts" if kind(error) == "passing" else ""
        return UserError(
            f"session {self._session}: file {self._where}: rows {lo} to {hi - 1} not read{tries} ({reason(error)})",
            way_out="check the disk or the network and the credentials, and run again",
        )


class Handles:
    """What is open of at most `limit` sessions; the least recently used session's things are dropped. Thread-safe, pickles
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


def _array_spec(place: Place, name: str, kept: bool) -> dict[str, Any]:
    pools = {"cache_pool": "cache_pool" if kept else "cache_pool#none", "metadata_cache_pool": "cache_pool#index"}
    return {"driver": "zarr3", "kvstore": place.under(f"{name}/").full_spec(), **pools}


def _create(place: Place, name: str, spec: dict[str, Any]) -> Any:
    return place.settle(name, lambda: ts.open(spec, create=True, delete_existing=True, context=context()))


def _metadata(shape: list[int], dtype: str, layout: Layout, compress: bool) -> dict[str, Any]:
    """zarr.json."""
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    packed = {"name": "zstd", "configuration": {"level": SMALL if compress else FAST, "checksum": True}}
    sharding = {
        "chunk_shape": [layout.chunk_rows, *shape[1:]],
        "codecs": [little, {"name": "crc32c"} if layout.plain else packed],
        "index_codecs": [little, {"name": "crc32c"}],
    }
    shard = [layout.chunk_rows * layout.shard_chunks, *shape[1:]]
    return {
        "shape": shape,
        "data_type": dtype,
        "fill_value": "NaN" if dtype.startswith("float") else 0,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
    }


def _repeats(block: np.ndarray) -> bool:
    """Do most rows say what the row before said?"""
    return len(block) > 1 and bool(np.mean(np.all(block[1:] == block[:-1], axis=1)) > 0.5)


def _shrinks(block: np.ndarray) -> bool:
    """Does the first quarter of a megabyte lose a fifth in quick compression?"""
    sample = block.reshape(-1).view(np.uint8)[: 2**18].tobytes()
    return len(zlib.compress(sample, 1)) < 0.8 * len(sample)


def _begin_write(place: Place, name: str, array: Any, block: np.ndarray) -> Callable[[], Any]:
    """Begins to write a shard and returns a function that waits for it: a shard takes longer than a window does."""
    begun = array.write(block)
    return lambda: place.settle(name, lambda: array.write(block), begun, patience=10.0)


def _narrowed(block: np.ndarray, dtype: str, name: str) -> np.ndarray:
    """In `dtype`; nothing may overflow."""
    with np.errstate(over="ignore"):
        narrow = block.astype(dtype, copy=False)
    if narrow.itemsize < block.itemsize and np.isinf(narrow).any():
        lost = np.isinf(narrow) & np.isfinite(block)
        if lost.any():
            value = block[lost].flat[np.argmax(np.abs(block[lost]))]
            raise OverflowError(f"{name}: {value:g} is more than {dtype} can hold ({np.finfo(dtype).max:g})")
    return narrow
