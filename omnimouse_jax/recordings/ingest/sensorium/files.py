"""What the SENSORIUM 2022 and 2023 formats share: a session's files, in a folder or in the zip it came in, and their facts.

A zip is read member by member: nothing is unpacked beside it and nothing is ever written to a source.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.files import load_array, nearest
from omnimouse_jax.recordings.session import Signal

#: `static21067-10-18-GrayImageNet-...` or `dynamic29515-10-12-Video-...`: animal, session, scan.
NAME = re.compile(r"(?:static|dynamic)?(\d+)-(\d+)-(\d+)(?!\d)")
#: Columns of meta/trials that a submission names its rows by.
TRIAL_FACTS = ("trial_idx", "frame_image_id")
#: Share of the mean standard deviation below which a response is not divided by its own.
FLOOR = 0.01


class Tree:
    """One session's arrays by name ("data/responses/0.npy"). A zip is kept open while this lives."""

    def __init__(self, path: Path):
        found = NAME.match(path.name)
        if found is None:
            raise UserError(
                f"file {path}: its name gives no animal-session-scan",
                way_out="restore its name, such as static21067-10-18-GrayImageNet-...",
            )
        self.path = path
        self.key = "-".join(found.groups())
        self.animal = found.group(1)
        #: What the benchmark's own loaders call the session (the folder's name, which is also that of the zip).
        self.name = path.name.removesuffix(".zip") if is_zip(path) else path.name
        self._archive: zipfile.ZipFile | None = None
        if is_zip(path):
            self._archive, self._prefix = self._open()
            self._names = frozenset(self._archive.namelist())

    def _open(self) -> tuple[zipfile.ZipFile, str]:
        try:
            archive = zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(
                f"session {self.key}: file {self.path}: cannot be read as a zip ({error})", way_out="download it again"
            ) from error
        tiers = "meta/trials/tiers.npy"
        inside = sorted(n for n in archive.namelist() if n.endswith(tiers) and not n.startswith("__MACOSX"))
        if len(inside) != 1:
            raise UserError(
                f"session {self.key}: file {self.path}: {len(inside)} files {tiers} in it", way_out="give one session"
            )
        return archive, inside[0].removesuffix(tiers)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.path / name).is_file() if self._archive is None else self._prefix + name in self._names

    def count(self, folder: str) -> int:
        """Number of arrays in a folder."""
        if self._archive is None:
            return sum(1 for _ in (self.path / folder).glob("*.npy"))
        start = f"{self._prefix}{folder}/"
        return sum(
            1 for n in self._names if n.startswith(start) and n.endswith(".npy") and n.count("/") == start.count("/")
        )

    def load(self, name: str) -> Shaped[np.ndarray, "..."]:
        """The whole array, in its stored type."""
        if self._archive is None:
            return np.asarray(load_array(self.key, self.path / name))
        if not self.has(name):
            raise self.error(name, "missing", "download the zip again")
        try:
            return np.load(io.BytesIO(self._archive.read(self._prefix + name)), allow_pickle=False)
        except Exception as error:  # damaged members raise whatever zipfile, zlib or numpy think of
            told = " ".join(str(error).split())[:120]
            raise self.error(name, f"truncated or not a numpy array ({told})", "download the zip again") from error

    def numbers(self, name: str, shape: tuple[int | None, ...]) -> Shaped[np.ndarray, "..."]:
        """An array of numbers whose shape must be this one (None: any length)."""
        found = self.load(name)
        fits = found.ndim == len(shape) and all(want in (None, n) for want, n in zip(shape, found.shape, strict=True))
        if not fits or found.dtype.kind not in "fiub":
            wanted = ", ".join("n" if n is None else str(n) for n in shape)
            raise self.error(
                name, f"{found.dtype} of shape {found.shape}, expected numbers ({wanted})", "get the session again"
            )
        return found if found.dtype.kind == "f" or found.dtype == np.uint8 else found.astype(np.float64)

    def error(self, name: str, what: str, way_out: str) -> UserError:
        """One line that names session and file."""
        where = f"{self.path}/{name}" if self._archive is None else f"{self.path}, member {name}"
        return UserError(f"session {self.key}: file {where}: {what}", way_out=way_out)


def is_zip(path: Path) -> bool:
    """Whether a name is that of a zip."""
    return path.suffix == ".zip" and not path.is_dir()


def find_sessions(source: Path, year: int, prefix: str, stimuli: str) -> list[Path]:
    """The session at `source`, or those in it: folders with data/<stimuli>, zips named <prefix>*.

    Where a folder and a zip hold the same session, the zip is taken: the original loaders unpack beside it whenever they are
    first run, and a session must not come from other files for that.
    """
    if is_zip(source) or (source / "data" / stimuli).is_dir():
        return [source]
    inside = sorted(source.iterdir()) if source.is_dir() else []
    zips = [p for p in inside if is_zip(p) and p.name.startswith(prefix)]
    packed = {_key(p) for p in zips}
    folders = [p for p in inside if (p / "data" / stimuli).is_dir() and _key(p) not in packed]
    if not folders and not zips:
        raise UserError(
            f"folder {source}: no SENSORIUM {year} session (a folder with data/{stimuli}/ or {prefix}*.zip)",
            way_out="give one, or a folder of them",
        )
    return sorted(folders + zips)


def _key(path: Path) -> str:
    found = NAME.match(path.name)
    return "-".join(found.groups()) if found else path.name


def session_files(session: Path) -> list[Path]:
    """The zip, or all arrays of the folder (not the config.json that the original loaders leave there)."""
    if is_zip(session):
        return [session]
    return sorted(p for part in ("data", "meta") for p in (session / part).rglob("*.npy"))


def trial_tiers(tree: Tree, known: Collection[str]) -> Shaped[np.ndarray, " trials"]:
    """The tier of every trial, in file order."""
    name = "meta/trials/tiers.npy"
    found = tree.load(name)
    if found.ndim != 1 or len(found) == 0 or found.dtype.kind not in "US":
        raise tree.error(name, f"{found.dtype} of shape {found.shape}, expected one name per trial", "get it again")
    tiers = found.astype(str)
    unknown = sorted(set(tiers.tolist()) - set(known))
    if unknown:
        raise tree.error(name, f"unknown tier {unknown[0]}", nearest(unknown[0], known))
    return tiers


def check_counts(tree: Tree, folders: Sequence[str], n_trials: int) -> None:
    """Raises unless every folder of data holds one array per trial."""
    for folder in folders:
        found = tree.count(f"data/{folder}")
        if found != n_trials:
            raise tree.error(
                f"data/{folder}",
                f"{found} arrays for {n_trials} trials of meta/trials/tiers.npy",
                "get the session again",
            )


def trial_facts(tree: Tree, n_trials: int) -> dict[str, list[Any]]:
    """Per trial, as lists: `file_index` and what the source has of `TRIAL_FACTS`."""
    facts: dict[str, list[Any]] = {"file_index": list(range(n_trials))}
    for name in TRIAL_FACTS:
        file = f"meta/trials/{name}.npy"
        if tree.has(file):
            column = tree.load(file)
            if column.shape != (n_trials,):
                raise tree.error(file, f"shape {column.shape} for {n_trials} trials", "get the session again")
            facts[name] = (column.astype(str) if column.dtype.kind == "S" else column).tolist()
    return facts


def neuron_columns(tree: Tree) -> dict[str, np.ndarray]:
    """unit_id, and where the source has them x, y, z (microns), area and layer."""
    units = tree.numbers("meta/neurons/unit_ids.npy", (None,)) if tree.has("meta/neurons/unit_ids.npy") else None
    if units is None or len(units) == 0:
        raise tree.error("meta/neurons/unit_ids.npy", "missing or empty", "get the session again")
    columns: dict[str, np.ndarray] = {"unit_id": units.astype(np.int64)}
    place = "meta/neurons/cell_motor_coordinates.npy"
    if tree.has(place):
        columns.update(zip("xyz", tree.numbers(place, (len(units), 3)).T.astype(np.float64), strict=True))
    for name in ("area", "layer"):
        file = f"meta/neurons/{name}.npy"
        if tree.has(file):
            columns[name] = tree.load(file).astype(str)
    return columns


def is_blank(values: Shaped[np.ndarray, "neurons *frames"]) -> bool:
    """Whether a trial's responses say nothing: no value of them is other than 0 and NaN."""
    return not np.nan_to_num(values).any()


def withheld_trials(
    tree: Tree, tiers: Shaped[np.ndarray, " trials"], blank: Bool[np.ndarray, " trials"], kept: Collection[str]
) -> Bool[np.ndarray, " trials"]:
    """The blank trials of the tiers that the benchmark keeps to itself (`kept`).

    Raises UserError for such a tier of which most trials are blank but not all: what is left in the others would be scored.
    """
    for tier in kept:
        here = tiers == tier
        left = np.flatnonzero(here & ~blank)
        if len(left) and int((here & blank).sum()) > len(left):
            some = ", ".join(str(k) for k in left[:10]) + (f" and {len(left) - 10} more" if len(left) > 10 else "")
            raise tree.error(
                "data/responses",
                f"most trials of tier {tier} are blanked, but not trial {some}",
                "get the session again, or put zeros there too",
            )
    return blank & np.isin(tiers, list(kept))


def check_finite(tree: Tree, name: str, values: Shaped[np.ndarray, "..."], nan: str = "") -> None:
    """Raises at an infinite value, and at a NaN if `nan` says what to do about it."""
    if np.isfinite(values).all():
        return
    if np.isinf(values).any():
        raise tree.error(name, "an infinite value", "write NaN where nothing was recorded")
    if nan:
        raise tree.error(name, f"NaN at {tuple(int(i) for i in np.argwhere(np.isnan(values))[0])}", nan)


def precision(std: Float[np.ndarray, "neurons *frames"]) -> Float[np.ndarray, "neurons *frames"]:
    """What official responses are multiplied by: 1/std, with one floor of 1 % of the mean over everything, in std's
    type.
    """
    floor = FLOOR * np.nanmean(std)
    usable = std > floor
    out = np.ones_like(std) / floor
    out[usable] = 1 / std[usable]
    return out


def response_scale(tree: Tree, std: Float[np.ndarray, "neurons *frames"]) -> Float[np.ndarray, " neurons"]:
    """One divisor per neuron: its standard deviation (root mean square over frames), at least 1 % of the neurons' mean."""
    one = std.astype(np.float64)
    if one.ndim == 2:
        known = np.isfinite(one)
        one = np.sqrt((np.where(known, one, 0.0) ** 2).sum(axis=1) / np.maximum(known.sum(axis=1), 1))
    floor = FLOOR * float(np.nanmean(one)) if np.isfinite(one).any() else 0.0
    if not floor > 0:
        raise tree.error("meta/statistics/responses/all/std.npy", "no positive standard deviation", "get it again")
    return np.where(one > floor, one, floor)


class Streams:
    """What a scan's behaviour becomes, field by field: signals, scales, the official statistics, and the fields that are not
    there (zeros throughout, read as missing).
    """

    def __init__(self) -> None:
        self.signals: dict[str, Signal] = {}
        self.absent: list[str] = []
        self.mean: dict[str, float] = {}
        self.scale: dict[str, float] = {}
        self.statistics: dict[str, np.ndarray] = {}

    def add(
        self,
        name: str,
        channels: Sequence[str],
        values: Shaped[np.ndarray, "..."],
        mean: Float[np.ndarray, "channels *frames"],
        std: Float[np.ndarray, "channels *frames"],
        signal: Callable[[Shaped[np.ndarray, "..."]], Signal],
    ) -> None:
        """One field: `signal` puts its values on their clock. Scales are the mean and the deviation over the frames of the
        official ones, 0 and 1 where those are unusable.
        """
        if is_blank(values):
            self.absent.append(name)
            values = np.full_like(values, np.nan)
        self.signals[name] = signal(values)
        self.statistics |= {f"{name}/mean": mean, f"{name}/std": std}
        for channel, m, s in zip(channels, np.atleast_2d(mean.T).T, np.atleast_2d(std.T).T, strict=True):
            m, s = m[np.isfinite(m)].astype(np.float64), s[np.isfinite(s)].astype(np.float64)
            self.mean[channel] = float(m.mean()) if m.size else 0.0
            deviation = float(np.sqrt(np.mean(s**2))) if s.size else 0.0
            self.scale[channel] = deviation if deviation > 0 else 1.0


def first_nan(values: Shaped[np.ndarray, "*rows frames"]) -> int:
    """Frames before the first that is NaN in any row."""
    bad = np.isnan(values).reshape(-1, values.shape[-1]).any(axis=0)
    return int(bad.argmax()) if bad.any() else len(bad)
