"""Files that hold a released state dict: .npz, .safetensors, PyTorch checkpoints alone or one per rank. Nothing in them is run.

What is wrong with a file is told in one line that names the file and, where there is one, the parameter.
"""

from __future__ import annotations

import importlib
import json
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnimouse_jax.errors import UserError

State = dict[str, np.ndarray]

TORCH_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin")
SUFFIXES = (".npz", ".safetensors", *TORCH_SUFFIXES)
RANK = re.compile(r"rank_?(\d+)\.(ckpt|pt|pth)$")
#: Words that wrappers put in front of names, or (the first) anywhere in them.
COMPILED, WRAPPERS = "_orig_mod.", ("module.", "model.", "state_dict.")
#: What a released name begins with.
RELEASED = re.compile(
    r"(sess_params|animal_params|(sess|neuron|animal|exp_time)_to_model_proj|exp_time_embedding|behavior_\w+|missing_modality_embeddings"
    r"|response_\w+|rotary_emb|hiera|enc|proc|decs)(\.|$)"
)
PER_SESSION = re.compile(r"sess_params\.(.+)\.(_session_embedding|_neuron_embeddings\.weight|_neuron_biases)$")
#: Where a checkpoint may say how many ranks there were, and what its config was.
WORLD = ("world_size", "num_ranks", "n_ranks")
CONFIGS = ("config", "model_config", "hyper_parameters", "hparams", "cfg", "args")
WANTED = ("state_dict", "model_state_dict", "model", "module")
FETCH_AGAIN = "fetch it again"


class Source(NamedTuple):
    """What files hold: arrays by released name, sessions {key: {"animal_id", "n_neurons"}} and config if they say."""

    state: State
    files: tuple[Path, ...]
    sessions: dict[str, dict[str, Any]]
    config: dict[str, Any] | None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. UserError if the file is missing, broken or something else."""
    _must_exist(path)
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: not JSON ({error})", way_out="mend or replace the file") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds a {type(value).__name__}, not an object", way_out="mend or replace the file")
    return value


def read_npz(path: Path) -> State:
    """All arrays of an .npz. UserError if it is missing, cut off, or holds what is not an array."""
    _must_exist(path)
    try:
        loaded = np.load(path)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise ValueError("a single array")
        with loaded as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not a whole .npz of arrays ({_first(error)})", way_out=FETCH_AGAIN) from None


def read_source(path: Path, ranks: int | None = None) -> Source:
    """A folder of `rank_*.ckpt`, or one file. `ranks`: how many rank files there must be.

    Raises UserError for a rank that is missing, ranks that disagree about a shared parameter or a session, and names
    that match nothing.
    """
    if path.is_dir():
        return _merged(path, _rank_files(path, ranks), ranks)
    _must_exist(path)
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"{path}: not a file of weights", way_out=f"name a folder of rank_*.ckpt, or a {' '.join(SUFFIXES)}"
        )
    beside = [file for file in path.parent.iterdir() if RANK.match(file.name)] if RANK.match(path.name) else [path]
    if len(beside) > 1:
        raise UserError(f"{path}: one of {len(beside)} rank files", way_out=f"name the folder {path.parent}")
    return _merged(path, [path], ranks)


def _must_exist(path: Path) -> None:
    if not path.is_file():
        raise UserError(f"{path}: no such file", way_out="check the path")


def _first(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0][:120]


# Several files ------------------------------------------------------------------------------------------------------


def _rank_files(folder: Path, ranks: int | None) -> list[Path]:
    numbered = {int(match[1]): path for path in sorted(folder.iterdir()) if (match := RANK.match(path.name))}
    if not numbered:
        raise UserError(f"{folder}: no rank_*.ckpt in it", way_out="name the folder that has them, or one file")
    expected = max(max(numbered) + 1, ranks or 0)
    gaps = [number for number in range(expected) if number not in numbered]
    if gaps:
        raise UserError(
            f"{folder}: rank_{gaps[0]}.ckpt is missing ({len(numbered)} of {expected} ranks are there)",
            way_out="fetch all rank files: the sessions of a missing one would be lost",
        )
    return [numbered[number] for number in range(expected)]


def _merged(path: Path, files: list[Path], ranks: int | None) -> Source:
    state: State = {}
    owner: dict[str, Path] = {}
    sessions: dict[str, dict[str, Any]] = {}
    config = None
    for file in files:
        found, extras = _read_file(file)
        for name, value in found.items():
            if name not in state:
                state[name], owner[name] = value, file
            elif not _same_bits(state[name], value):
                _refuse_disagreement(name, owner[name], state[name], file, value)
        world = max((extras[key] for key in WORLD if isinstance(extras.get(key), int)), default=0)
        expected = ranks if ranks is not None else max(world, len(files))
        if expected != len(files) or world > len(files):
            source = "--ranks" if ranks is not None and ranks != len(files) else "the file itself"
            expected = ranks if source == "--ranks" else world
            raise UserError(
                f"{path}: {len(files)} rank file(s), and there must be {expected} by {source}",
                way_out="fetch all rank files and name their folder",
            )
        sessions |= _sessions_told(extras.get("session_map"))
        config = config or next((extras[key] for key in CONFIGS if isinstance(extras.get(key), dict)), None)
    there = {match[1] for name in state if (match := PER_SESSION.match(name))}
    absent = sorted(set(sessions) - there)
    if absent:
        raise UserError(
            f"{path}: session {absent[0]} is in the checkpoint's session_map, but no file has its parameters",
            way_out="fetch all rank files",
        )
    return Source(state, tuple(files), sessions, config)


def _same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def _refuse_disagreement(name: str, first: Path, a: np.ndarray, second: Path, b: np.ndarray) -> None:
    if a.shape != b.shape or a.dtype != b.dtype:
        how = f"{a.dtype}{list(a.shape)} and {b.dtype}{list(b.shape)}"
    else:
        bits = np.frombuffer(a.tobytes(), np.uint8) != np.frombuffer(b.tobytes(), np.uint8)
        n = np.count_nonzero(bits.reshape(a.size, -1).any(axis=1))
        difference = np.abs(np.nan_to_num(a.astype(np.float64)) - np.nan_to_num(b.astype(np.float64)))
        how = f"they differ in {n} of {a.size} values, by up to {difference.max(initial=0.0):.3g}"
    raise UserError(
        f"{name} is not the same in {first} and {second} ({how})",
        way_out="use the rank files of one step of one run",
    )


def _sessions_told(told: Any) -> dict[str, dict[str, Any]]:
    """{key: {"animal_id", "n_neurons"}} of a checkpoint's or a triple's table of sessions."""
    if not isinstance(told, Mapping):
        return {}
    return {str(key): dict(value) for key, value in told.items() if isinstance(value, Mapping)}


# One file -----------------------------------------------------------------------------------------------------------


def _read_file(path: Path) -> tuple[State, Mapping[str, Any]]:
    """Arrays by plain released name (half precision widened to float32), and what else the file says."""
    if path.suffix == ".npz":
        found: Any = read_npz(path)
    elif path.suffix == ".safetensors":
        found = _read_safetensors(path)
    else:
        found = _read_torch(path)
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: holds a {type(found).__name__}, not named parameters", way_out="use a state dict")
    state: State = {}
    for name, value in _named_arrays(path, found).items():
        plain = plain_name(name)
        if plain in state:
            raise UserError(f"{path}: {plain} is there twice (also as {name})", way_out="keep one of them")
        state[plain] = _widened(path, plain, value)
    return state, found


def plain_name(name: str) -> str:
    """A parameter's released name, without what compilers and wrappers put in front of it."""
    name = name.replace(COMPILED, "")
    while not RELEASED.match(name) and name.startswith(WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _named_arrays(path: Path, found: Mapping[Any, Any]) -> dict[str, Any]:
    """The dict of parameters, at the top or one or two levels below; parts with different names are put together."""
    parts: dict[str, dict[str, Any]] = {}

    def look(where: str, value: Mapping[Any, Any], depth: int) -> None:
        named = {str(key): x for key, x in value.items() if hasattr(x, "shape") and hasattr(x, "dtype")}
        if any(RELEASED.match(plain_name(name)) for name in named):
            parts[where] = named
        elif depth:
            for key, inner in value.items():
                if isinstance(inner, Mapping):
                    look(f"{where}.{key}" if where else str(key), inner, depth - 1)

    look("", found, 2)
    if not parts:
        some = ", ".join(map(repr, list(found)[:4]))
        raise UserError(f"{path}: no name in it is a released parameter's (it has {some})", way_out="use another file")
    preferred = next((parts[key] for key in WANTED if key in parts), None)
    together: dict[str, Any] = {}
    for where, named in parts.items():
        if set(map(plain_name, together)) & set(map(plain_name, named)):
            if preferred is None:
                raise UserError(
                    f"{path}: parameters are there twice, under {' and '.join(map(repr, list(parts)[:2]))} ({where!r})",
                    way_out="save one of them alone",
                )
            return preferred
        together |= named
    return together


def _widened(path: Path, name: str, value: Any) -> np.ndarray:
    """A NumPy array; PyTorch tensors too, and half precisions as float32."""
    if hasattr(value, "detach"):
        import torch

        tensor = value.detach().cpu()
        value = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    array = np.asarray(value)
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: {name} is of type {array.dtype}", way_out="save numbers")
    return array


def _read_safetensors(path: Path) -> State:
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file
    except ImportError:
        raise _needs("safetensors", path) from None
    try:
        import ml_dtypes  # noqa: F401  (gives NumPy bfloat16)

        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a whole .safetensors file ({_first(error)})", way_out=FETCH_AGAIN) from None


def _read_torch(path: Path) -> Any:
    """A PyTorch file read as plain data: tensors, numbers, texts, lists and dicts, NumPy arrays (of random states)."""
    import pickle

    torch = torch_module(path)
    try:
        with torch.serialization.safe_globals(_numpy_builders()):
            return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        told = f"needs {needed[1]}, which is more than plain data" if needed else f"not plain data ({_first(error)})"
        raise UserError(
            f"{path}: {told}", way_out="ask its author for the state dict alone, or for .safetensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile, TypeError) as error:
        raise UserError(f"{path}: not a whole PyTorch file ({_first(error)})", way_out=FETCH_AGAIN) from None


def torch_module(path: Path) -> Any:
    """PyTorch, which only files of its own need."""
    try:
        import torch
    except ImportError:
        raise _needs("torch", path) from None
    return torch


def _numpy_builders() -> list[Any]:
    """What pickled NumPy arrays and numbers are made with: they hold data only."""
    kinds = [
        "bool",
        "int8",
        "int16",
        "int32",
        "int64",
        "uint8",
        "uint16",
        "uint32",
        "uint64",
        "float16",
        "float32",
        "float64",
    ]
    multiarray = importlib.import_module("numpy._core.multiarray")
    builders: list[Any] = [np.ndarray, np.dtype, *(type(np.dtype(kind)) for kind in kinds)]
    for builder in (multiarray._reconstruct, multiarray.scalar):
        # Files of NumPy 1 name them by their old module.
        builders += [(builder, f"{module}.multiarray.{builder.__name__}") for module in ("numpy.core", "numpy._core")]
    return builders


def _needs(package: str, path: Path) -> UserError:
    return UserError(f"{path}: reading it needs {package}", way_out="pip install 'omnimouse-jax[reference]'")
