"""Where a store lives: bytes under keys in any TensorStore kvstore, with a bound on how long an answer may take."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import tensorstore as ts

from omnimouse_jax.errors import UserError

#: Bytes that one process keeps of decoded small chunks; large ones are never kept (docs/storage.md).
CACHE_BYTES = int(os.environ.get("OMNIMOUSE_CACHE_BYTES", 256 * 2**20))
#: Bytes that one process keeps of shard indexes and array metadata: every entry spares a request.
INDEX_CACHE_BYTES = 64 * 2**20
#: Seconds that one attempt may take, and how often a read or write is attempted in all.
TIMEOUT_S = float(os.environ.get("OMNIMOUSE_TIMEOUT_S", 30))
ATTEMPTS = int(os.environ.get("OMNIMOUSE_ATTEMPTS", 4))
#: Seconds before the second attempt; twice as long before each further one.
PAUSE_S = 0.5

#: What a request may fail of and succeed the next time, and what it fails of because the bytes are not what was written.
PASSING = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED", "INTERNAL", "UNKNOWN", "CANCELLED"}
DAMAGE = {"DATA_LOSS", "NOT_FOUND", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT"}
REFUSED_CODES = ("400", "401", "403")
#: As what TensorStore raises them.
ERRORS = (ValueError, OSError, NotImplementedError)

Location = str | Path | Mapping[str, Any]


class Damaged(UserError):
    """Rows [lo, hi) of an array cannot be read, whoever asks: a chunk is missing or its checksum is wrong."""

    def __init__(self, session: str, array: str, lo: int, hi: int, where: str, why: str):
        super().__init__(
            f"session {session}: file {where}: missing or damaged within rows {lo} to {hi - 1} ({why})",
            way_out="ingest the session again with --overwrite (or start again, if someone replaced it just now)",
        )
        self.session, self.array, self.lo, self.hi = session, array, lo, hi
        self._made_from = (session, array, lo, hi, where, why)

    def __reduce__(self) -> Any:
        return type(self), self._made_from


@functools.cache
def context() -> ts.Context:
    """The process's TensorStore context, made on first use. Never fork after that."""
    return new_context(CACHE_BYTES)


def new_context(cache_bytes: int) -> ts.Context:
    """A context of its own. A request that a server refuses is tried again within it, a few times and soon."""
    soon = {"max_retries": 3, "initial_delay": "200ms", "max_delay": "2s"}
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": cache_bytes},
            "cache_pool#none": {"total_bytes_limit": 0},
            "cache_pool#index": {"total_bytes_limit": min(cache_bytes, INDEX_CACHE_BYTES)},
            "s3_request_retries": soon,
            "gcs_request_retries": soon,
        }
    )


def settle(start: Callable[[], Any], begun: Any = None, patience: float = 1.0) -> Any:
    """The result of the operation that `start` begins, begun again after failures that may pass.

    `begun` is its first future where it is under way. Each attempt gets `patience` times TIMEOUT_S. Raises the error of the
    last attempt, or at once one that will not pass.
    """
    for number in range(ATTEMPTS):
        future = begun
        try:
            future, begun = begun or start(), None
            return future.result(timeout=TIMEOUT_S * patience)
        except ERRORS as error:
            if future is not None:
                future.cancel()
            if kind(error) != "passing" or number == ATTEMPTS - 1:
                raise
        time.sleep(PAUSE_S * 2**number)
    raise AssertionError("no attempt at all")


def kind(error: Exception) -> str:
    """Of a failed operation: "passing" (worth another attempt), "damage", or "refused"."""
    text = str(error)
    if any(f"http_response_code='{code}'" in text for code in REFUSED_CODES):
        return "refused"
    status = text.partition(":")[0]
    if status in DAMAGE or isinstance(error, FileNotFoundError):
        return "damage"
    passing = isinstance(error, OSError) and not isinstance(error, PermissionError)
    return "passing" if passing or status in PASSING else "refused"


def reason(error: Exception) -> str:
    """An error in short, without the details in brackets: they may quote a request with the caller's access key."""
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    text = str(error).splitlines()[0]
    code = re.search(r"http_response_code='(\d+)'", text)
    return text.partition(" [")[0][:200] + (f", HTTP {code[1]}" if code else "")


class Place:
    """A directory-like prefix of any TensorStore kvstore. Holds its location only, so it pickles; opens on first
    use, with endpoint, region and credentials as the environment says then.
    """

    def __init__(self, location: Location):
        self.spec = _spec(location)
        self._kv: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"spec": self.spec, "_kv": None}

    @property
    def kv(self) -> Any:
        if self._kv is None:
            self._kv = self.settle("", lambda: ts.KvStore.open(self.full_spec(), context=context()))
        return self._kv

    def full_spec(self) -> dict[str, Any]:
        """What TensorStore is asked to open. No secret is in it: credentials are named by where to find them."""
        return {**_surroundings(), **self.spec} if self.spec.get("driver") == "s3" else self.spec

    @property
    def name(self) -> str:
        """How a user would write the location."""
        if self.spec.get("driver") == "file":
            return str(self.spec["path"]).rstrip("/")
        plain = {name: self.spec[name] for name in ("driver", "bucket", "path", "base_url") if name in self.spec}
        return str(ts.KvStore.Spec(plain).url)

    @property
    def local(self) -> Path | None:
        """The directory of a store on a local disk, else None."""
        return Path(self.spec["path"]) if self.spec.get("driver") == "file" else None

    def under(self, path: str) -> Place:
        """The prefix `path` (ending in /) below this one."""
        return Place({**self.spec, "path": self.spec.get("path", "") + path})

    def read(self, key: str) -> bytes | None:
        """The bytes of one key, None if there are none."""
        result = self.settle(key, lambda: self.kv.read(key))
        return None if result.state == "missing" else bytes(result.value)

    def write(self, key: str, value: bytes) -> None:
        """Writes one key atomically (on files: a temporary one, then a rename)."""
        self.settle(key, lambda: self.kv.write(key, value))

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Reads, changes and writes one key so that no other process's change in between is lost.

        `change` may meet its own earlier result: a write may succeed without the answer arriving.
        """
        refused = None
        while True:
            old = self.settle(key, lambda: self.kv.read(key))
            if refused == (old.state, old.stamp.generation):  # not another writer: nothing has changed
                raise UserError(f"store {self.name}: {key}: cannot be written", way_out="does the bucket exist?")
            new = change(None if old.state == "missing" else bytes(old.value))
            write = functools.partial(self.kv.write, key, new, if_equal=old.stamp.generation)
            if self.settle(key, write).generation:
                return new
            refused = (old.state, old.stamp.generation)

    def delete_all(self) -> None:
        """Removes everything under this prefix; on a local disk its empty folders too."""
        self.settle("", lambda: self.kv.delete_range(ts.KvStore.KeyRange()))
        if self.local is not None and self.local.is_dir():
            for folder, _, _ in os.walk(self.local, topdown=False):
                with contextlib.suppress(OSError):  # someone else removed it or writes to it: no harm
                    os.rmdir(folder)

    def settle(self, key: str, start: Callable[[], Any], begun: Any = None, patience: float = 1.0) -> Any:
        """`settle` for something under this prefix; raises UserError."""
        try:
            return settle(start, begun, patience)
        except ERRORS as error:
            raise self._failed(key, error) from None

    def _failed(self, what: str, error: Exception) -> UserError:
        way_out = "check the disk and its permissions"
        if self.local is None:
            way_out = "check the address, the network and the credentials (docs/storage.md)"
        tries = f" after {ATTEMPTS} attempts" if kind(error) == "passing" else ""
        return UserError(
            f"store {self.name}{f': {what}' if what else ''}: failed{tries} ({reason(error)})", way_out=way_out
        )


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


def _surroundings() -> dict[str, Any]:
    """Endpoint, region and the kind of credentials for s3, as the environment of any AWS tool says."""
    found: dict[str, Any] = {}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        if "@" in urlsplit(endpoint).netloc:
            raise UserError(
                "AWS_ENDPOINT_URL holds a name or password",
                way_out="give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            )
        found["endpoint"] = endpoint
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if region or endpoint:
        found["aws_region"] = region or "us-east-1"  # what servers other than Amazon's expect by default
    found["aws_credentials"] = {"type": "environment" if os.environ.get("AWS_ACCESS_KEY_ID") else "default"}
    return found


def _spec(location: Location) -> dict[str, Any]:
    if isinstance(location, Mapping):
        spec = dict(location)
        spec["path"] = str(spec.get("path", "")).rstrip("/") + "/" if spec.get("path") else ""
        return spec
    text = str(location)
    if not re.match(r"[a-z0-9_+]+://", text):
        return {"driver": "file", "path": str(Path(text).expanduser().absolute()) + "/"}
    if "@" in urlsplit(text).netloc:
        raise UserError(
            f"store {text.partition('://')[0]}://...: an address with a name or password in it",
            way_out="give credentials in the environment (docs/storage.md)",
        )
    try:
        spec = ts.KvStore.Spec(text.rstrip("/") + "/").to_json()
    except ValueError as error:
        raise UserError(
            f"store {text}: not a location that can be opened ({reason(error)[:120]})",
            way_out="give a folder, or a gs://, s3://, file:// or memory:// address",
        ) from error
    return dict(spec)
