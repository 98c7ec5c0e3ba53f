"""A zarr3 hierarchy of named arrays for other programs (zarr, xarray, TensorStore), and a place that holds it whole or not at all.

Every group's zarr.json repeats the metadata of all that is in it ("consolidated"), so one request opens it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.kvstore import Location, Place, context, dump_json

SUFFIX = ".zarr"
META = "zarr.json"
#: Columns of a chunk: one neuron's trace is read without most of the others.
CHUNK_COLUMNS = 128
ZSTD = {"name": "zstd", "configuration": {"level": 1, "checksum": False}}
LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


class Hierarchy:
    """Groups and arrays below `place`. Nothing opens as a group before `close`; arrays are written block by block."""

    def __init__(self, place: Place):
        self._place = place
        self._arrays: dict[str, dict[str, Any]] = {}

    def write(self, name: str, values: Any, dims: Sequence[str], **attributes: Any) -> None:
        """A small array as a whole: numbers, or text (one dimension)."""
        values = np.asarray(values)
        if values.dtype.kind not in "UOT":
            self.create(name, values.shape, values.dtype, dims, max(1, len(values)), **attributes)(0, values)
            return
        spec = _metadata(values.shape, "string", dims, attributes, values.shape or (1,), "")
        spec["codecs"] = [{"name": "vlen-utf8", "configuration": {}}]
        texts = [str(text).encode() for text in values]
        packed = [struct.pack("<I", len(texts)), *(struct.pack("<I", len(text)) + text for text in texts)]
        self._place.write(f"{name}/{META}", dump_json(spec))
        if len(texts):
            self._place.write(f"{name}/c/0", b"".join(packed))
        self._arrays[name] = spec

    def create(
        self, name: str, shape: Sequence[int], dtype: Any, dims: Sequence[str], rows: int, **attributes: Any
    ) -> Callable[[int, np.ndarray], None]:
        """An array of numbers, (rows,) or (rows, columns), whose blocks of `rows` rows are written one by one: returns what writes
        the block that begins at a row. Blocks that are never written read as NaN (or 0).
        """
        shape, dtype = [int(n) for n in shape], np.dtype(dtype)
        block = [min(max(1, rows), max(1, shape[0])), *shape[1:]]
        fill: Any = "NaN" if dtype.kind == "f" else False if dtype.kind == "b" else 0
        spec = _metadata(shape, dtype.name, dims, attributes, block, fill)
        if len(shape) == 1:
            spec["codecs"] = [LITTLE, ZSTD]
        else:
            width = min(max(1, shape[1]), CHUNK_COLUMNS)
            spec["chunk_grid"]["configuration"]["chunk_shape"][1] = -(-max(1, shape[1]) // width) * width
            inner = {"chunk_shape": [block[0], width], "codecs": [LITTLE, ZSTD]}
            inner["index_codecs"] = [LITTLE, {"name": "crc32c"}]
            spec["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]
        place = self._place
        whole = {"driver": "zarr3", "kvstore": place.under(f"{name}/").full_spec(), "metadata": spec}
        whole |= {"cache_pool": "cache_pool#none"}
        array = place.settle(name, lambda: ts.open(whole, create=True, delete_existing=True, context=context()))
        self._arrays[name] = spec

        def write(row: int, values: np.ndarray) -> None:
            if values.size:
                place.settle(name, lambda: array[row : row + len(values)].write(values), patience=10.0)

        return write

    def close(self, attributes: Mapping[str, Mapping[str, Any]]) -> None:
        """Writes the groups ("" is the outermost one, written last), with their attributes."""
        groups = {
            name: {"zarr_format": 3, "node_type": "group", "attributes": dict(a)} for name, a in attributes.items()
        }
        for name in sorted(groups, key=len, reverse=True):
            inside = f"{name}/" if name else ""
            below = {
                path.removeprefix(inside): meta
                for path, meta in {**groups, **self._arrays}.items()
                if path.startswith(inside) and path != name
            }
            told = {"kind": "inline", "must_understand": False, "metadata": below}
            self._place.write(f"{inside}{META}", dump_json({**groups[name], "consolidated_metadata": told}))


@contextlib.contextmanager
def whole(out: Location, overwrite: bool, ours: Callable[[Mapping[str, Any]], bool]) -> Iterator[Place]:
    """A place to write a hierarchy to, which is at `out` when the block ends without an error, and not before.

    On a local disk it is renamed to `out` at the end; what a killed process left is removed by the next one. In a bucket, which
    has no rename, what is written lies under `out` but has no outermost zarr.json, so that nothing opens it. After an error
    nothing is left. UserError if something is there, unless `overwrite` and `ours` (of its attributes).
    """
    place = Place(out)
    if not place.name.rstrip("/").endswith(SUFFIX):
        raise UserError(f"--out {out}: no name of a zarr group", way_out=f"let it end with {SUFFIX}")
    found = place.read(META)
    if found is not None and not overwrite:
        raise UserError(f"--out {place.name}: exists already", way_out="pass --overwrite, or choose another name")
    if found is not None and not ours(json.loads(found).get("attributes", {})):
        raise UserError(f"--out {place.name}: holds something else than predictions", way_out="choose another name")
    if place.local is not None:
        with _renamed(Path(os.path.abspath(place.local)), found is not None) as part:
            yield Place(part)
        return
    if found is not None:
        place.delete_all()
    try:
        yield place
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is what is told
            place.delete_all()
        raise


@contextlib.contextmanager
def _renamed(out: Path, replace: bool) -> Iterator[Path]:
    """A folder beside `out` that becomes `out`. It is locked while its process lives: whoever finds one that is not removes it."""
    if out.exists() and not replace:
        raise UserError(f"--out {out}: exists and is no zarr group", way_out="choose another name")
    part = out.parent / f".{out.name}.{secrets.token_hex(4)}.part"
    old = part.with_suffix(".old.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for left in out.parent.glob(f".{out.name}.*.part"):
            _remove_if_free(left)
        part.mkdir()
    except OSError as error:
        raise UserError(f"--out {out}: {error.strerror}", way_out="choose a folder that can be written to") from None
    handle = os.open(part, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield part
        if replace:
            os.rename(out, old)
        os.rename(part, out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(handle)


def _remove_if_free(folder: Path) -> None:
    """Removes what a process left that is no more."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass  # it is being written
    finally:
        os.close(handle)


def _metadata(
    shape: Sequence[int],
    dtype: str,
    dims: Sequence[str],
    attributes: Mapping[str, Any],
    block: Sequence[int],
    fill: Any,
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(block)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "dimension_names": list(dims),
        "attributes": dict(attributes),
    }
