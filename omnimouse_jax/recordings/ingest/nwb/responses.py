"""Responses and neurons of an NWB file: which RoiResponseSeries, several planes joined, ROI tables as columns."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from omnimouse_jax.recordings.ingest.nwb.file import EVEN, Clock, Dataset, Session, Side, fit_clock, stored_times
from omnimouse_jax.recordings.session import Signal

#: What a series holds, told from its name, then from its container's; the first kind that the file has is read.
KINDS = (
    ("events", re.compile(r"event|deconv|spike|spks")),
    ("dF/F", re.compile(r"d_?f_?(over_?|/|_)?f|delta_?f")),
    ("corrected fluorescence", re.compile(r"corrected")),
    ("fluorescence", re.compile(r"$^")),
    ("demixed fluorescence", re.compile(r"demix")),
    ("neuropil", re.compile(r"neuropil")),
)
FLUORESCENCE, NEUROPIL = 3, 5
#: Columns of ROI tables that say whether an ROI is a cell, and the values that mean no.
CELL_COLUMNS = ("valid_roi", "iscell", "is_cell", "accepted", "mask_type")
NO_CELL = ("0", "0.0", "false", "no", "artifact", "rejected")
#: Microns in a unit of length, by how the unit may be spelt.
MICRONS = {"meters": 1e6, "meter": 1e6, "m": 1e6, "millimeters": 1e3, "mm": 1e3, "micrometers": 1.0, "microns": 1.0,
           "micrometer": 1.0, "um": 1.0, "µm": 1.0}  # fmt: skip


@dataclass(frozen=True)
class Plane:
    """One RoiResponseSeries: its name, its (time, roi) view, its time stamps, and the rows of its ROI table."""

    path: str
    kind: int
    series: Any
    turned: bool
    rows: Int[np.ndarray, " rois"]

    @property
    def shape(self) -> tuple[int, int]:
        """(samples, rois)."""
        a, b = self.series.data.shape
        return (b, a) if self.turned else (a, b)


def read_responses(
    session: Session, wanted: str, cells: str, tolerance: float
) -> tuple[Signal, dict[str, np.ndarray], tuple[str, ...]]:
    """(responses, neuron columns, the series they come from).

    Planes are joined by neuron on the clock of the earliest; a plane that is scanned a little later gives its neurons a
    phase shift. Raises a UserError for no or several possible series, and for time stamps off any even clock.
    """
    planes = _chosen(session, _planes(session), wanted)
    clock, shifts, n = _joint_clock(session, planes, tolerance)
    parts, columns = [], []
    for plane in planes:
        table = _columns(session, plane, len(planes) > 1)
        keep = np.ones(len(plane.rows), bool) if cells == "all" else _cells(table)
        if not keep.any():
            raise session.error(f"responses {plane.path}: no ROI is marked as a cell", "set cells=all")
        if not keep.all():
            session.note(f"{plane.path}: {int((~keep).sum())} of {len(keep)} ROIs are no cells, left out")
        view = {"turned": plane.turned, "columns": None if keep.all() else np.flatnonzero(keep)}
        parts.append(session.dataset(plane.series.data, **view, **_unit(plane.series)))
        columns.append({name: values[keep] for name, values in table.items()})
    values: Any = Rows(parts[0] if len(parts) == 1 else Side(parts), n)
    per_neuron = np.concatenate([np.full(p.shape[1], s) for p, s in zip(parts, shifts, strict=True)])
    signal = clock.signal(values, phase_shifts=per_neuron if np.any(per_neuron) else None)
    return signal, _stack(columns, [p.shape[1] for p in parts]), tuple(p.path for p in planes)


class Rows:
    """The first `n` rows of an array."""

    def __init__(self, values: Dataset | Side, n: int):
        self._values = values
        self.shape = (n, values.shape[1])
        self.dtype = values.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        lo, hi, _ = rows.indices(self.shape[0])
        return self._values[lo:hi]


def kind_of(path: str) -> int:
    """Index into `KINDS` of a series, by its own name, else by its container's."""
    for name in reversed(path.lower().split("/")[1:]):
        for k in (NEUROPIL, *range(len(KINDS) - 1)):
            if KINDS[k][1].search(name):
                return k
    return FLUORESCENCE


def _unit(series: Any) -> dict[str, float]:
    return {"scale": float(series.conversion or 1.0), "offset": float(series.offset or 0.0)}


def _planes(session: Session) -> list[Plane]:
    """Every RoiResponseSeries of the file, by name."""
    from pynwb.ophys import RoiResponseSeries

    out = []
    for series in session.nwb.objects.values():
        if not isinstance(series, RoiResponseSeries) or not hasattr(series.data, "name"):
            continue
        path = str(series.data.name).removesuffix("/data").removeprefix("/processing/").removeprefix("/")
        rows = np.asarray(series.rois.data[:], np.int64)
        shape = tuple(series.data.shape)
        if len(shape) == 1 and len(rows) == 1:
            raise session.error(f"responses {path}: shape {shape}", "write it as (time, 1)")
        if len(shape) != 2 or len(rows) not in shape:
            raise session.error(f"responses {path}: shape {shape} for {len(rows)} ROIs", "give (time, roi)")
        stamps = None if series.timestamps is None else len(series.timestamps)
        turned = shape[1] != len(rows) or (stamps == shape[1] and stamps != shape[0])
        if turned:
            session.note(f"{path}: stored as (roi, time), read as (time, roi)")
        out.append(Plane(path, kind_of(path), series, turned, rows))
    return sorted(out, key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.path)])


def _chosen(session: Session, planes: list[Plane], wanted: str) -> list[Plane]:
    told = "; ".join(f"{p.path} {p.shape[0]} x {p.shape[1]} ({KINDS[p.kind][0]})" for p in planes)
    if not planes:
        raise session.error(
            "no responses (no RoiResponseSeries in processing)", "give the file with the processed traces"
        )
    if wanted:
        names = [name.strip().strip("/") for name in wanted.split(",")]
        chosen = []
        for name in names:
            found = [p for p in planes if f"/{p.path}".endswith(f"/{name}")]
            found = found or [p for p in planes if f"/{name}/" in f"/{p.path}"]
            if not found:
                raise session.error(f"responses {name}: no such series (there are: {told})", "set responses=NAME")
            chosen += found
    else:
        best = min(p.kind for p in planes)
        if best == NEUROPIL:
            raise session.error(f"only neuropil among the responses ({told})", "set responses=NAME to read it")
        chosen = [p for p in planes if p.kind == best]
        missed = {id(p.series.rois.table) for p in planes} - {id(p.series.rois.table) for p in chosen}
        if missed:
            raise session.error(f"not all planes have {KINDS[best][0]} (there are: {told})", "set responses=NAME,NAME")
    seen: set[tuple[int, int]] = set()
    for p in chosen:
        rois = {(id(p.series.rois.table), int(row)) for row in p.rows}
        if seen & rois:
            which = "; ".join(f"{p.path} {p.shape[0]} x {p.shape[1]}" for p in chosen)
            raise session.error(f"several series of the same ROIs: {which}", "set responses=NAME")
        seen |= rois
    return chosen


def _joint_clock(session: Session, planes: list[Plane], tolerance: float) -> tuple[Clock, list[float], int]:
    """(clock of the earliest plane, seconds by which each plane is later, samples that all planes have)."""
    timings = [stored_times(session, p.series, f"responses {p.path}", p.shape[0]) for p in planes]
    n = min(len(times) for times, _ in timings)
    first = int(np.argmin([times[0] for times, _ in timings]))
    times, rate = timings[first]
    clock = fit_clock(session, f"responses {planes[first].path}", times[:n], rate)
    if clock.stray > tolerance:
        raise session.error(
            f"responses {planes[first].path}: time stamps stray {clock.stray:.2f} sample periods from an even "
            f"{clock.rate:.4g} Hz clock",
            "re-time the traces, or raise timing_tolerance",
        )
    shifts = []
    for plane, (other, _) in zip(planes, timings, strict=True):
        late = other[:n] - times[:n]
        shift = float(late[0]) if np.abs(late - late[0]).max() <= EVEN / clock.rate else float(late.mean())
        if np.abs(late - shift).max() * clock.rate > tolerance or shift * clock.rate > 1.0 or len(other) - n > 2:
            raise session.error(
                f"responses {plane.path}: {len(other)} samples, on average {shift:.3g} s after {planes[first].path} "
                f"with {len(times)}: not one clock",
                "name planes that were scanned together with responses=NAME,NAME",
            )
        shifts.append(shift)
    return clock, shifts, n


def _columns(session: Session, plane: Plane, several: bool) -> dict[str, np.ndarray]:
    """Columns of a plane's ROIs: id, plane, area, position, and what else the ROI table holds, one value each."""
    table = plane.series.rois.table
    n = len(plane.rows)
    out: dict[str, np.ndarray] = {"unit_id": np.asarray(table.id[:])[plane.rows]}
    if several:
        out["plane"] = np.full(n, table.name)
    imaging = getattr(table, "imaging_plane", None)
    if imaging is not None and imaging.location:
        out["area"] = np.full(n, str(imaging.location))
    centre = _centroids(session, table, plane.rows)
    if centre is not None:
        out |= {"x_px": centre[:, 0], "y_px": centre[:, 1]}
    out |= _microns(imaging, centre, n)
    for name in table.colnames:
        values = table[name].data
        if name in out or name.endswith("_mask") or type(table[name]).__name__ == "VectorIndex":
            continue
        if len(getattr(values, "shape", (len(values),))) == 1 and len(values) == len(table.id):
            column = np.asarray(values[:])
            column = column if column.dtype.kind in "fiub" else np.array([_text(v) for v in column], str)
            out[name] = column[plane.rows]
        elif name == "iscell":  # suite2p's (roi, 2): yes or no, and a probability
            out[name] = np.asarray(values[:])[plane.rows, 0]
    return out


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _centroids(session: Session, table: Any, rows: Int[np.ndarray, " rois"]) -> Float[np.ndarray, "rois 2"] | None:
    """Mask-weighted centre of each ROI in pixels, first image axis first (NWB calls it x), one mask in memory at a time."""
    out = np.full((len(rows), 2), np.nan)
    for k, row in enumerate(rows):
        listed = next((name for name in ("pixel_mask", "voxel_mask") if name in table.colnames), None)
        if listed is not None:
            last = 2 if listed == "pixel_mask" else 3  # (x, y, weight) or (x, y, z, weight)
            mask = table[listed][int(row)]
            pixels = np.array([[float(p[0]), float(p[1]), float(p[last])] for p in mask], np.float64).reshape(-1, 3)
            weight, position = pixels[:, 2], pixels[:, :2]
        elif "image_mask" in table.colnames:
            mask = np.asarray(table["image_mask"].data[int(row)], np.float64)
            position = np.argwhere(mask > 0).astype(np.float64)[:, :2]
            weight = mask[mask > 0]
        else:
            return None
        if weight.sum() > 0:
            out[k] = weight @ position / weight.sum()
    return out


def _microns(imaging: Any, centre: np.ndarray | None, n: int) -> dict[str, np.ndarray]:
    """x, y, z in microns where the imaging plane says how large a pixel is and where the plane lies."""
    out: dict[str, np.ndarray] = {}
    origin, unit = getattr(imaging, "origin_coords", None), getattr(imaging, "origin_coords_unit", None)
    corner = None
    if origin is not None and str(unit).lower() in MICRONS:
        corner = np.asarray(origin[:], np.float64) * MICRONS[str(unit).lower()]
        if len(corner) > 2:
            out["z"] = np.full(n, corner[2])
    spacing, unit = getattr(imaging, "grid_spacing", None), getattr(imaging, "grid_spacing_unit", None)
    if centre is not None and spacing is not None and str(unit).lower() in MICRONS:
        place = centre * np.asarray(spacing[:2], np.float64) * MICRONS[str(unit).lower()]
        place = place if corner is None else place + corner[:2]
        out |= {"x": place[:, 0], "y": place[:, 1]}
    return out


def _cells(table: dict[str, np.ndarray]) -> Bool[np.ndarray, " rois"]:
    """Which ROIs the file takes for cells; all where it does not say."""
    keep = np.ones(len(table["unit_id"]), bool)
    for name, values in table.items():
        if name.lower() in CELL_COLUMNS:
            keep &= ~np.isin([str(v).lower() for v in values], NO_CELL)
    return keep


def _stack(columns: list[dict[str, np.ndarray]], lengths: list[int]) -> dict[str, np.ndarray]:
    """Columns of all planes; NaN or "" where a plane lacks one."""
    out = {}
    for name in dict.fromkeys(name for c in columns for name in c):
        kinds = {c[name].dtype.kind in "US" for c in columns if name in c}
        if len(kinds) > 1:
            continue
        empty: Any = "" if kinds == {True} else np.nan
        out[name] = np.concatenate([c.get(name, np.full(n, empty)) for c, n in zip(columns, lengths, strict=True)])
    return out
