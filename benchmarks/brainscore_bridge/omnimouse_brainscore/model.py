"""What a run predicted, as a BrainModel: it has seen its stimuli before and looks the responses up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly, walk_coords
from brainscore_vision.model_interface import BrainModel

from omnimouse_brainscore.files import MACAQUE, Contents, Refused


def require_mouse(region: str) -> str:
    """The region, unless it is one of the macaque: a mouse's predictions must not be scored against that."""
    if region in MACAQUE:
        raise Refused(f"region {region} is an area of the macaque; this model is of a mouse - ask for VISp, VISl, ...")
    return region


class Mouse(BrainModel):
    """Predicted responses of one mouse.

    layers: region -> layer whose activity stands for it (default: what the file commits to).
    """

    def __init__(self, predictions: Contents, layers: Mapping[str, str] | None = None):
        self._predictions = predictions
        self.layers = dict(predictions.meta["layers"] if layers is None else layers)
        for region, layer in self.layers.items():
            require_mouse(region)
            known = sorted(set(predictions.assembly["layer"].values.tolist()))
            if layer not in known:
                raise Refused(f"region {region}: no layer {layer}; {predictions.path} has {', '.join(known)}")
        self._region: str | None = None
        self._bins: list[tuple[int, int]] = []

    @property
    def identifier(self) -> str:
        return str(self._predictions.meta["identifier"])

    def visual_degrees(self) -> int | float:
        """Width of the screen, in degrees, that the predictions are for: one number although it is wider than high."""
        return self._predictions.meta["visual_degrees"]

    def start_task(self, task: str, fitting_stimuli: Any = None) -> None:
        """It only watches: any task but passive viewing is refused."""
        if task != BrainModel.Task.passive:
            raise Refused(f"task {task}: this model predicts neurons; it has no behaviour to be tested")

    def start_recording(self, recording_target: str, time_bins: Iterable[Any]) -> None:
        """`time_bins`: pairs of ms from onset, as tuples or as the 0-d arrays that a benchmark passes for a single bin."""
        region = require_mouse(str(recording_target))
        if region not in self.layers:
            raise Refused(f"region {region}: {self.identifier} has {', '.join(sorted(self.layers))}")
        self._region = region
        self._bins = [_pair(one) for one in time_bins]

    def look_at(self, stimuli: Any, number_of_trials: int = 1) -> NeuroidAssembly:
        """Responses of the region's layer to the stimuli, in their order: presentation x neuroid x time_bin.

        A bin that was asked for is the mean of the predicted ones, each weighted by how much of it lies in there. The model has no
        noise, so `number_of_trials` changes nothing. Refused for stimuli that were not predicted.
        """
        if self._region is None:
            return None  # passive viewing without a recording
        assembly = self._predictions.assembly
        columns = self._columns(self._region)
        wanted = [str(stimulus) for stimulus in stimuli["stimulus_id"].values]
        rows = {str(stimulus): k for k, stimulus in enumerate(assembly["stimulus_id"].values)}
        if missing := sorted(set(wanted) - set(rows)):
            raise Refused(
                f"{len(missing)} of {len(wanted)} stimuli were not predicted ({missing[0]}, ...): export them"
            )
        taken = [rows[stimulus] for stimulus in wanted]
        values = assembly.values[taken][:, columns]
        weights = self._weights(assembly)
        # Two columns at least: of one alone this xarray makes no index with named levels.
        presentation = {"clip": ("presentation", assembly["clip"].values[taken])}
        presentation |= {name: ("presentation", stimuli[name].values) for name in stimuli.columns}
        neuroid = {
            name: ("neuroid", column[columns])
            for name, dims, column in walk_coords(assembly)
            if tuple(dims) == ("neuroid",)
        }
        bins = np.array(self._bins, np.int64)
        time = {"time_bin_start": ("time_bin", bins[:, 0]), "time_bin_end": ("time_bin", bins[:, 1])}
        made = NeuroidAssembly(
            values @ weights, coords={**presentation, **neuroid, **time}, dims=["presentation", "neuroid", "time_bin"]
        )
        made.attrs["stimulus_set_identifier"] = getattr(stimuli, "identifier", "")
        return made

    def n_neurons(self, region: str) -> int:
        """How many predicted neurons stand for a region; 0 for one that it has not."""
        return len(self._columns(region)) if region in self.layers else 0

    def _columns(self, region: str) -> np.ndarray:
        """The neurons of a region's committed layer."""
        regions, layers = (self._predictions.assembly[name].values for name in ("region", "layer"))
        return np.flatnonzero((regions == region) & (layers == self.layers[region]))

    def _weights(self, assembly: NeuroidAssembly) -> np.ndarray:
        """(predicted bins, bins asked for); each column sums to 1."""
        low, high = assembly["time_bin_start"].values, assembly["time_bin_end"].values
        weights = []
        for start, end in self._bins:
            overlap = np.clip(np.minimum(high, end) - np.maximum(low, start), 0, None)
            if not overlap.sum():
                span = f"{low.min()} to {high.max()} ms"
                raise Refused(f"time bin {start} to {end} ms: {self.identifier} predicts {span}")
            weights.append(overlap / overlap.sum())
        return np.array(weights).T


def _pair(time_bin: Any) -> tuple[int, int]:
    found = time_bin.tolist() if isinstance(time_bin, np.ndarray) else time_bin
    start, end = found
    return int(start), int(end)
