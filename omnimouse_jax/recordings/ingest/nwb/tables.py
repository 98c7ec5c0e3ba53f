"""Tables of intervals in an NWB file as rows: when, which frame of which template, which grating, or what else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from omnimouse_jax.recordings.ingest.nwb.file import Session
from omnimouse_jax.recordings.ingest.nwb.frames import image_names

#: Column names as labs write them, without units, and what they mean here.
MEANING = {
    "direction": "direction", "orientation": "direction", "ori": "direction", "angle": "direction",
    "spatial_frequency": "spatial_frequency", "sf": "spatial_frequency",
    "temporal_frequency": "temporal_frequency", "tf": "temporal_frequency",
    "contrast": "contrast", "phase": "phase",
    "image_index": "index", "frame": "index", "frame_index": "index", "template_index": "index",
    "image_name": "image", "condition_hash": "condition", "is_blank_sweep": "blank", "blank": "blank",
    "stimulus_name": "stimulus", "stimulus_type": "stimulus", "stimulus": "stimulus",
}  # fmt: skip
BLANK = re.compile(r"spontaneous|blank|gr[ae]y_?(screen)?$|omitted|interblock")
#: What a grating has when the table does not say.
GRATING = {"temporal_frequency": 0.0, "contrast": 1.0, "phase": 0.0}


@dataclass(frozen=True, eq=False)
class Row:
    """One presentation of a table. `index` counts frames of `template`; `grating` holds what `drifting_grating` takes."""

    table: str
    start: float
    stop: float
    what: str
    condition: str
    blank: bool
    template: str
    index: int | None
    grating: dict[str, float] | None


def stimulus_tables(session: Session) -> list[Any]:
    """Tables of stimuli: all below stimulus/, and those of intervals/ whose columns or name say that they are."""
    from pynwb.epoch import TimeIntervals

    nwb = session.nwb
    tables = [t for t in nwb.stimulus.values() if isinstance(t, TimeIntervals)]
    others = [*nwb.intervals.values(), *([] if nwb.trials is None else [nwb.trials])]
    for table in others:
        told = set(_columns(table)) & {"direction", "index", "image", "condition", "stimulus", "blank"}
        if any(table is t for t in tables) or table in (nwb.epochs, nwb.invalid_times):
            continue
        if told or table.name.endswith("_presentations") or BLANK.search(table.name.lower()):
            tables.append(table)
    return [t for t in tables if len(t.id)]


def epochs_of(session: Session) -> list[tuple[float, float, str]]:
    """(start, end, what) of the coarse stretches in which the file says that some stimulus was on; blanks left out."""
    table = session.nwb.epochs
    told = {} if table is None else _columns(table)
    if "stimulus" not in told:
        return []
    start, stop = (np.asarray(table[name].data[:], np.float64) for name in ("start_time", "stop_time"))
    rows = [(float(a), float(b), _text(c)) for a, b, c in zip(start, stop, told["stimulus"], strict=True)]
    return [row for row in rows if row[2] and not BLANK.search(row[2].lower())]


def template_name(name: str) -> str:
    """What a template, a presentation and a table of one stimulus have in common of their names."""
    return re.sub(r"_?(image_stack|templates?|presentations?|stimulus|stimuli|images?)(?=_|$)", "", name.lower()).strip(
        "_"
    )


def rows_of(session: Session, table: Any, templates: Mapping[str, Any]) -> Iterator[Row]:
    """The rows of a table by time. Raises a UserError for times that are no numbers or end before they start."""
    columns = _columns(table)
    start, stop = (np.asarray(table[name].data[:], np.float64) for name in ("start_time", "stop_time"))
    bad = np.flatnonzero(~(stop > start))
    if len(bad):
        k = int(bad[0])
        raise session.error(f"{table.name}: row {k} is from {start[k]:g} s to {stop[k]:g} s", "correct the table")
    percent = "contrast" in columns and np.nanmax(_numbers(columns["contrast"]), initial=0.0) > 1
    numbers = {
        name: _numbers(columns[name]) for name in ("direction", "spatial_frequency", *GRATING) if name in columns
    }
    index = _numbers(columns["index"]) if "index" in columns else np.full(len(start), np.nan)
    short = {template_name(name): name for name in templates}
    gratings = "direction" in columns and "image" not in columns and "index" not in columns
    for k in np.argsort(start, kind="stable"):
        label = _text(columns["stimulus"][k]) if "stimulus" in columns else str(table.name)
        image = _text(columns["image"][k]) if "image" in columns else ""
        values = {name: float(v[k]) for name, v in numbers.items()}
        is_grating = all(np.isfinite(values.get(name, np.nan)) for name in ("direction", "spatial_frequency"))
        blank = _true(columns["blank"][k]) if "blank" in columns else False
        blank = blank or bool(BLANK.search(label.lower())) or image.lower() == "omitted"
        blank = blank or (gratings and not is_grating and np.isnan(values["direction"]))
        template, frame = "", None
        if not blank:
            template = short.get(template_name(label)) or short.get(template_name(str(table.name))) or ""
            frame = int(index[k]) if template and np.isfinite(index[k]) else None
            if frame is None and image:
                template = next((n for n, t in templates.items() if image in image_names(t)), "")
                frame = image_names(templates[template])[image] if template else None
        grating = None
        if is_grating and not blank and frame is None:
            grating = {n: v for n, v in values.items() if np.isfinite(v)}
            grating = {**GRATING, **grating}
            grating["contrast"] /= 100.0 if percent else 1.0
        yield Row(
            str(table.name), float(start[k]), float(stop[k]), image or label,
            _text(columns["condition"][k]) if "condition" in columns else "", blank, template, frame, grating,
        )  # fmt: skip


def _columns(table: Any) -> dict[str, Any]:
    """Columns by meaning; units in a name (orientation_in_degrees) are left out."""
    out: dict[str, Any] = {}
    for name in table.colnames:
        plain = re.sub(r"_(in_.*|deg|degrees|hz|cpd)$", "", name.lower())
        if plain in MEANING and type(table[name]).__name__ != "VectorIndex":
            out.setdefault(MEANING[plain], table[name].data[:])
    return out


def _numbers(values: Any) -> np.ndarray:
    """float64, NaN for what is no number ("null", "N/A", lists)."""
    out = np.full(len(values), np.nan)
    for k, value in enumerate(values):
        try:
            out[k] = float(value.decode() if isinstance(value, bytes) else value)
        except (TypeError, ValueError):
            continue
    return out


def _text(value: Any) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    return "" if text.lower() in ("nan", "n/a", "null", "none") else text


def _true(value: Any) -> bool:
    return _text(value).lower() in ("true", "1", "1.0", "yes")
