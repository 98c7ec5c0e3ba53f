"""Uncompressed chunks on a local disk, read by one system call straight into the result: half of what reading costs from the
page cache is copying, and the codec's crc32c is the other half.

A chunk is checked by a sum of its own, taken when it was written. Where it is wrong, TensorStore reads the rows again and
its crc32c decides.
"""

from __future__ import annotations

import contextlib
import functools
import os
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped, UInt8, UInt32

LANES = 256
CRC_BYTES = 4
READERS = 8
#: Reads what the kernel holds in memory and nothing else (Linux).
CACHED_ONLY = getattr(os, "RWF_NOWAIT", 0)


def checksums(chunks: UInt8[np.ndarray, "n bytes"]) -> list[int]:
    """Of each chunk's bytes: crc32 of the sums of every 256th word of 64 bits, and of the rest. Any changed byte, and words that
    change places within 2 kB, change it. As fast as memory is read.
    """
    n, size = chunks.shape
    whole = size - size % (8 * LANES)
    words = chunks[:, :whole].view(np.uint64).reshape(n, whole // (8 * LANES), LANES)
    sums = np.add.reduce(words, axis=1)
    return [zlib.crc32(rest.data, zlib.crc32(one.data)) for one, rest in zip(sums, chunks[:, whole:], strict=True)]


def checksum(rows: Shaped[np.ndarray, "rows ..."]) -> int:
    """Of one chunk."""
    return checksums(rows.reshape(-1).view(np.uint8)[None])[0]


class PlainArray:
    """An array as `arrays.write_array` lays it out uncompressed. `[lo:hi].read()` is a future, as TensorStore's is."""

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, ...],
        dtype: np.dtype,
        chunk_rows: int,
        shard_chunks: int,
        checks: Callable[[], UInt32[np.ndarray, " chunks"]],
    ):
        self._folder, self._shape, self._dtype, self._checks = folder, shape, dtype, checks
        self._rows, self._chunks = chunk_rows, shard_chunks
        self._chunk_bytes = chunk_rows * int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._offsets: dict[int, Int[np.ndarray, " chunks"]] = {}

    def __getitem__(self, rows: slice) -> _Range:
        return _Range(self, rows.start, rows.stop)

    def rows(self, lo: int, hi: int, flags: int = 0) -> Shaped[np.ndarray, "rows ..."]:
        """Rows [lo, hi), checked. Raises OSError or, with TensorStore's word for it, ValueError where it cannot vouch for them;
        BlockingIOError where `flags` is CACHED_ONLY and the disk would have to be asked.
        """
        first, last = lo // self._rows, -(-hi // self._rows)
        found = np.empty(((last - first) * self._rows, *self._shape[1:]), self._dtype)
        chunk = first
        while chunk < last:
            shard = chunk // self._chunks
            end = min(last, (shard + 1) * self._chunks)
            part = found[(chunk - first) * self._rows : (end - first) * self._rows]
            self._read_shard(shard, chunk - shard * self._chunks, end - shard * self._chunks, part, flags)
            chunk = end
        raw = found.reshape(-1).view(np.uint8).reshape(last - first, self._chunk_bytes)
        sums = checksums(raw)
        if last * self._rows > self._shape[0]:  # what fills the last chunk up is no data
            sums[-1] = checksum(found[(last - first - 1) * self._rows : self._shape[0] - first * self._rows])
        if sums != self._checks()[first:last].tolist():
            raise ValueError(f"DATA_LOSS: a wrong checksum within chunks {first} to {last - 1}")
        return found[lo - first * self._rows : hi - first * self._rows]

    def _read_shard(self, shard: int, first: int, last: int, out: np.ndarray, flags: int) -> None:
        """Chunks [first, last) of a shard, which lie one after the other, each followed by its crc32c."""
        name = "/".join([str(shard)] + ["0"] * (len(self._shape) - 1))
        file = os.open(f"{self._folder}/c/{name}", os.O_RDONLY)
        try:
            if shard not in self._offsets:
                if flags:
                    raise BlockingIOError
                self._offsets[shard] = self._read_index(file)
            offsets = self._offsets[shard][first:last]
            step = self._chunk_bytes + CRC_BYTES
            if offsets[0] < 0 or np.any(np.diff(offsets) != step):
                raise ValueError("DATA_LOSS: chunks missing or out of order")
            ignored = bytearray(CRC_BYTES)
            raw = out.reshape(-1).view(np.uint8).data
            parts: list[memoryview | bytearray] = []
            for at in range(0, len(raw), self._chunk_bytes):
                parts += [raw[at : at + self._chunk_bytes], ignored]
            if os.preadv(file, parts, int(offsets[0]), flags) != step * (last - first):
                raise BlockingIOError if flags else ValueError("DATA_LOSS: the file ends early")
        finally:
            os.close(file)

    def _read_index(self, file: int) -> Int[np.ndarray, " chunks"]:
        """Where the chunks of a shard begin: pairs of offset and length at its end, before their crc32c."""
        size = 16 * self._chunks
        at = os.fstat(file).st_size - size - CRC_BYTES
        found = os.pread(file, size, at) if at >= 0 else b""
        if len(found) != size:
            raise ValueError("DATA_LOSS: the file is shorter than its index")
        return np.frombuffer(found, "<i8")[::2]


class _Range:
    def __init__(self, array: PlainArray, lo: int, hi: int):
        self._array, self._lo, self._hi = array, lo, hi

    def read(self) -> Future[np.ndarray] | _Done:
        """What the kernel holds is there at once (another thread's turn would cost more than the copy); a disk is waited for
        elsewhere.
        """
        if CACHED_ONLY:
            with contextlib.suppress(OSError):
                return _Done(self._array.rows(self._lo, self._hi, CACHED_ONLY))
        return _readers().submit(self._array.rows, self._lo, self._hi)


class _Done:
    """A future that is past."""

    def __init__(self, value: np.ndarray):
        self._value = value

    def result(self, timeout: float | None = None) -> np.ndarray:
        return self._value

    def cancel(self) -> None:
        """Nothing is under way."""


@functools.cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(min(READERS, os.cpu_count() or 1), thread_name_prefix="rows")
