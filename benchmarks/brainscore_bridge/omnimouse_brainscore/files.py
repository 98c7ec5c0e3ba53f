"""Assemblies from the .npz files that omnimouse_jax writes (`omnimouse-jax benchmark brainscore export | target`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
from brainscore_core.supported_data_standards.brainio.stimuli import StimulusSet

FORMAT = "omnimouse-assembly-1"
#: What Brain-Score's benchmarks call areas of the macaque. No area of a mouse is ever called so here.
MACAQUE = ("V1", "V2", "V4", "IT")


class Refused(Exception):
    """Bad input, told in one line."""


@dataclass(frozen=True)
class Contents:
    """One file: its assembly (presentation x neuroid x time_bin) and what it says about itself."""

    path: Path
    assembly: NeuroidAssembly
    meta: dict[str, Any]


def read(path: Path, kind: str) -> Contents:
    """A file of this kind ("prediction" or "recording"). Refused for anything else."""
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError) as error:
        raise Refused(f"file {path}: cannot be read ({error})") from error
    if "meta" not in arrays or (meta := json.loads(str(arrays["meta"]))).get("format") != FORMAT:
        raise Refused(f"file {path}: not an assembly of format {FORMAT}")
    if meta["kind"] != kind:
        raise Refused(f"file {path}: holds a {meta['kind']}, not a {kind}")
    coords: dict[str, Any] = {}
    for name, column in arrays.items():
        dimension, _, coordinate = name.partition(".")
        if dimension in ("presentation", "neuroid"):
            coords[coordinate] = (dimension, column)
    for name, column in (("time_bin_start", "start_ms"), ("time_bin_end", "end_ms")):
        coords[name] = ("time_bin", arrays[f"time_bin.{column}"])
    if wrong := sorted(set(coords["region"][1].tolist()) & set(MACAQUE)):
        raise Refused(f"file {path}: region {wrong[0]} is one of the macaque; mouse areas are VISp, VISl, ...")
    assembly = NeuroidAssembly(
        arrays["values"].astype(np.float64), coords=coords, dims=["presentation", "neuroid", "time_bin"]
    )
    return Contents(path, assembly, meta)


def stimulus_set(contents: Contents) -> StimulusSet:
    """The stimuli of a file as rows. They have no files of their own: they live where they were recorded."""
    ids, first = np.unique(contents.assembly["stimulus_id"].values, return_index=True)
    columns = {name: contents.assembly[name].values[first] for name in ("clip", "onset_ms")}
    stimuli = StimulusSet({"stimulus_id": ids, **columns})
    stimuli.identifier = contents.meta["stimulus_set"]
    stimuli.stimulus_paths = {stimulus: stimulus for stimulus in ids}
    return stimuli
