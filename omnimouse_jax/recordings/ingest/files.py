"""Opening what a lab hands over: arrays, small descriptions and checksums, with errors that name session and file."""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Shaped

from omnimouse_jax.errors import UserError


def load_array(session: str, path: Path, member: str | None = None) -> np.ndarray:
    """A .npy file memory-mapped, or one array of an .npz archive in memory."""
    if not path.is_file():
        raise UserError(f"session {session}: file {path}: missing", way_out="put it there or correct the name")
    try:
        if path.suffix != ".npz":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        with np.load(path, allow_pickle=False) as archive:
            if member is None or member not in archive.files:
                raise UserError(
                    f"session {session}: file {path}: no array {member or '(none named)'}",
                    way_out=f"name one as {path.name}:ARRAY of {', '.join(archive.files)}",
                )
            return archive[member]
    except UserError:
        raise
    except Exception as error:  # damaged files raise whatever numpy, zipfile or zlib think of
        raise UserError(
            f"session {session}: file {path}: truncated or not a numpy array ({_line(error)})",
            way_out="copy or write it again (without pickled objects)",
        ) from error


def load_raw(session: str, path: Path, shape: tuple[int, int], dtype: str) -> np.ndarray:
    """A raw C-order array, memory-mapped; its size must be exactly what shape and dtype say."""
    if not path.is_file():
        raise UserError(f"session {session}: file {path}: missing", way_out="copy the session again")
    try:
        kind = np.dtype(dtype)
    except TypeError as error:
        raise UserError(f"session {session}: file {path}: unknown dtype {dtype}", way_out="correct meta.yml") from error
    wanted, found = shape[0] * shape[1] * kind.itemsize, path.stat().st_size
    if wanted != found or wanted == 0:
        raise UserError(
            f"session {session}: file {path}: {found} bytes, but {shape[0]} x {shape[1]} {kind} are {wanted}",
            way_out="copy it again, or correct n_timestamps, n_signals or dtype in meta.yml",
        )
    return np.memmap(path, kind, "r", shape=shape)


class NpyHeader:
    """Shape and dtype of a .npy file from its first bytes; slices by opening it, so thousands of them hold no
    handles.
    """

    def __init__(self, session: str, path: Path):
        self._session, self.path = session, path
        if not path.is_file():
            raise UserError(f"session {session}: file {path}: missing", way_out="copy the session again")
        try:
            with path.open("rb") as file:
                if file.read(6) != b"\x93NUMPY":
                    raise ValueError("no numpy header")
                wide = file.read(2)[0] >= 2
                header = ast.literal_eval(
                    file.read(int.from_bytes(file.read(4 if wide else 2), "little")).decode("latin1")
                )
                self.shape: tuple[int, ...] = tuple(header["shape"])
                self.dtype = np.dtype(header["descr"])
                start = file.tell()
            size = start + int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
            if path.stat().st_size < size:
                raise ValueError(f"{path.stat().st_size} bytes of {size}")
        except (ValueError, SyntaxError, KeyError, TypeError, IndexError) as error:
            raise UserError(
                f"session {session}: file {path}: truncated or not a numpy array ({_line(error)})",
                way_out="copy or write it again",
            ) from error

    def load(self) -> np.ndarray:
        """The whole array."""
        return np.asarray(load_array(self._session, self.path))


def load_mapping(session: str, path: Path) -> dict[str, Any]:
    """A small JSON or YAML file that holds a mapping."""
    if not path.is_file():
        raise UserError(f"session {session}: file {path}: missing", way_out="put it there")
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"session {session}: file {path}: cannot be read ({_line(error)})", way_out="fix it") from error
    if not isinstance(found, dict):
        raise UserError(f"session {session}: file {path}: holds no fields", way_out="write field: value pairs")
    return found


def field(session: str, path: Path, given: Mapping[str, Any], name: str, kind: type) -> Any:
    """`given[name]` as an int, float, bool or str; a missing or unusable one is an error that names file and field.

    Numbers may arrive as text: YAML takes 1e9 (without a point and a sign) for text.
    """
    if name not in given or given[name] is None:
        raise UserError(f"session {session}: file {path}: field {name} is missing", way_out=f"add {name}")
    value = given[name]
    try:
        if kind is bool and not isinstance(value, bool):
            raise ValueError
        if kind is int and float(value) != int(value):
            raise ValueError
        return kind(value)
    except (TypeError, ValueError) as error:
        raise UserError(
            f"session {session}: file {path}: field {name} is {value!r}",
            way_out=f"give a value of type {kind.__name__}",
        ) from error


def check_fields(session: str, path: Path, where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises at the first unknown field and names the nearest known one."""
    for name in given:
        if name not in known:
            raise UserError(
                f"session {session}: file {path}: unknown field {name} in {where}", way_out=nearest(str(name), known)
            )


def nearest(name: str, known: Iterable[str]) -> str:
    """What somebody who wrote `name` may have meant."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"


def content_name(frames: Shaped[np.ndarray, "..."]) -> str:
    """A name for what a stimulus shows: equal grey levels, equal names, whatever their stored type."""
    levels = np.ascontiguousarray(frames, dtype=np.float32)
    return hashlib.sha256(json.dumps(levels.shape[-2:]).encode() + levels.tobytes()).hexdigest()[:16]


def stamp(files: Iterable[Path], root: Path, options: Mapping[str, Any]) -> str:
    """A fast fingerprint: names, sizes and modification times, and the reader's options."""
    digest = hashlib.sha256(json.dumps(dict(options), sort_keys=True, default=str).encode())
    for path in files:
        status = path.stat()
        digest.update(f"{below(path, root)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:32]


def checksums(files: Iterable[Path], root: Path) -> dict[str, str]:
    """sha256 of each file by its name below `root`."""
    out = {}
    for path in files:
        with path.open("rb") as file:
            out[below(path, root)] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def checksum(sums: Mapping[str, str], options: Mapping[str, Any]) -> str:
    """One fingerprint over the contents of files and the reader's options."""
    return hashlib.sha256(json.dumps([sums, dict(options)], sort_keys=True, default=str).encode()).hexdigest()[:32]


def below(path: Path, root: Path) -> str:
    """The name of a file as seen from the session's folder (its own name where it is the session)."""
    if path == root:
        return path.name
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
