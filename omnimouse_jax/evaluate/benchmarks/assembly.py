"""Files that hand responses to Brain-Score: a .npz that both environments read with numpy alone.

    values                     float32 (presentations, neuroids, time bins)
    presentation.stimulus_id   text; also presentation.clip (text), .onset_ms, .repetition (0 in predictions)
    neuroid.neuroid_id         text; also neuroid.region (VISp, ...), neuroid.layer (predictions), neuroid.unit_id
    time_bin.start_ms, time_bin.end_ms   int64, from the onset of the stimulus
    meta                       text: JSON with format, kind ("prediction" or "recording"), identifier, stimulus_set, visual_degrees,
                               session, layers ({region: layer}), and how it was made

The coordinates are those that Brain-Score requires of an assembly (brain_evaluation.md, 1.1). docs/benchmarks.md.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically

FORMAT = "omnimouse-assembly-1"
#: Names that Brain-Score's benchmarks use for areas of the macaque; a mouse has none of them.
MACAQUE = ("V1", "V2", "V4", "IT")
#: What stores call an area -> its name in the Allen common coordinate framework, which no macaque benchmark uses.
REGIONS = {
    **{"V1": "VISp", "LM": "VISl", "AL": "VISal", "RL": "VISrl", "AM": "VISam", "PM": "VISpm", "LI": "VISli"},
    **{"P": "VISpl", "POR": "VISpor", "A": "VISa"},
}
#: A neuron of which no area is known.
SOMEWHERE = "VIS"
#: The only layer whose activity a run gives away: what it predicts.
LAYER = "readout"
#: Width of the screen in degrees where nothing is said. Brain-Score demands a number; here it only has to be that of the target.
DEGREES = 128


@dataclasses.dataclass(frozen=True)
class Assembly:
    """What is in such a file. `presentation` and `neuroid` are columns by name."""

    values: Float[np.ndarray, "presentations neuroids bins"]
    presentation: Mapping[str, Shaped[np.ndarray, " presentations"]]
    neuroid: Mapping[str, Shaped[np.ndarray, " neuroids"]]
    bins_ms: Shaped[np.ndarray, "bins 2"]
    meta: Mapping[str, Any]
    told: tuple[str, ...] = ()

    def seen_as(self, degrees: float | int) -> Assembly:
        """The same with another width of the screen. UserError for one that Brain-Score does not take."""
        if not 0 < degrees < 9000:
            raise UserError(f"--degrees {degrees:g}", way_out="a screen is between 0 and 360 degrees wide")
        whole = int(degrees) if float(degrees).is_integer() else float(degrees)
        return dataclasses.replace(self, meta={**self.meta, "visual_degrees": whole})

    def write(self, path: Path) -> list[str]:
        """Writes the file; returns what to tell about it."""
        if path.suffix != ".npz":
            raise UserError(f"file {path}: an assembly is written as .npz", way_out=f"use {path.with_suffix('.npz')}")
        arrays: dict[str, np.ndarray] = {"values": self.values.astype(np.float32)}
        arrays |= {f"presentation.{name}": column for name, column in self.presentation.items()}
        arrays |= {f"neuroid.{name}": column for name, column in self.neuroid.items()}
        arrays |= {f"time_bin.{name}": self.bins_ms[:, k] for k, name in enumerate(("start_ms", "end_ms"))}
        buffer = io.BytesIO()
        arrays["meta"] = np.array(json.dumps(dict(self.meta)))
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        write_atomically(path, buffer.getvalue())
        shape = " x ".join(str(n) for n in self.values.shape)
        regions, counts = np.unique(self.neuroid["region"], return_counts=True)
        areas = ", ".join(f"{region} {count}" for region, count in zip(regions, counts, strict=True))
        return [*self.told, f"written: {path}   {shape} (presentations x neuroids x time bins); neurons: {areas}"]


def regions_of(areas: Shaped[np.ndarray, " neurons"] | None, n: int) -> Shaped[np.ndarray, " neurons"]:
    """Areas of a recording as mouse regions; `SOMEWHERE` where there is none.

    UserError for a name that means an area of the macaque and has no counterpart here.
    """
    if areas is None:
        return np.full(n, SOMEWHERE)
    names = [REGIONS.get(str(area), str(area)) or SOMEWHERE for area in areas]
    if wrong := sorted(set(names) & set(MACAQUE)):
        raise UserError(
            f"area {wrong[0]}: to Brain-Score this is an area of the macaque",
            way_out="name the neurons' areas as the mouse's in the store, such as VISp",
        )
    return np.array(names, str)
