"""What every probe writes beside its numbers: which run, which checkpoint, which settings; and the files themselves."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from omnimouse_jax import __version__
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.files import write_atomically
from omnimouse_jax.training.fingerprint import fingerprints


def provenance(run: Run, **settings: Any) -> dict[str, Any]:
    """Folder, checkpoint step, hash of its parameters and versions, with the probe's settings as they were."""
    return {
        "run": str(run.folder),
        "checkpoint_step": run.step,
        "checkpoint_hash": checkpoint_hash(run),
        "store": run.store.name,
        "omnimouse_jax": __version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "settings": plain(settings),
    }


def checkpoint_hash(run: Run) -> str:
    """16 hexadecimal digits of the parameters' fingerprints: the same numbers that the checkpoint's record has."""
    return digest(fingerprints(run.params))


def digest(value: Any) -> str:
    """16 hexadecimal digits of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]


def write_probe(out: Path, name: str, provenance: Mapping[str, Any], results: Mapping[str, Any]) -> Path:
    """Writes OUT/NAME.json, numbers that are not finite as null, and returns its path."""
    path = Path(out) / f"{name}.json"
    content = {"probe": name, "provenance": plain(provenance), **plain(results)}
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")
    return path


def plain(value: Any) -> Any:
    """Arrays, tuples and numpy numbers as JSON has them; NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Path):
        return str(value)
    return value
