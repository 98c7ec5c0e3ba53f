"""The files of a physiology probe: JSON, arrays, page; and its table in text."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run, open_run
from omnimouse_jax.files import require_folder, write_atomically
from omnimouse_jax.probe.physiology import exciting, experiment, gain, receptive_field, spectrum, tuning
from omnimouse_jax.probe.physiology.measure import Found, probe
from omnimouse_jax.probe.physiology.options import REGIME, Options
from omnimouse_jax.probe.settings import provenance, write_probe
from omnimouse_jax.tokens.windows import few

NAME = "physiology"
#: One value per neuron in the JSON, as far as a subject has them.
PER_NEURON = (
    *(
        "tuned",
        "p",
        *experiment.PREFERENCES,
        "contrast_explained",
        "spatial_at_edge",
        "temporal_at_edge",
        "grey",
        "spread",
    ),
    *(
        "rf_x",
        "rf_y",
        "rf_sigma",
        "rf_explained",
        "sparse_x",
        "sparse_y",
        "sparse_sigma",
        "sparse_explained",
        "sparse_lag",
    ),
    *(
        "preferred_size",
        "suppression",
        "running_log_gain",
        "running_offset",
        "pupil_size_log_gain",
        "pupil_size_offset",
    ),
)
DEFINITIONS = {
    **tuning.DEFINITIONS,
    **receptive_field.DEFINITIONS,
    **gain.DEFINITIONS,
    **spectrum.DEFINITIONS,
    **exciting.DEFINITIONS,
    "planted law": "the synthetic mouse's own equations, without noise and with scans averaged over when they fall: it "
    "calibrates the "
    "analysis",
    "untrained": "the run's architecture with parameters drawn anew: what these experiments find where nothing was learnt",
    "chance": "median over draws in which neurons are permuted; p is the share of draws (plus one) that do as well",
}


def physiology(
    folder: Path | str,
    out: Path,
    *,
    store: str = "",
    session: str = "",
    regime: str = "",
    checkpoint: str = "",
    neuron_ids: Sequence[Any] = (),
    smoke: bool = False,
    seed: int = 0,
    **changes: Any,
) -> tuple[Found, list[Path]]:
    """Probes one session of a run and writes the files to `out`. `changes`: fields of Options, None for their default."""
    from omnimouse_jax.probe.physiology.page import write_page

    run = open_run(folder, checkpoint, store)
    key = session or default_session(run)
    if key not in run.sessions:
        raise UserError(f"run {folder}: does not know session {key}", way_out=f"name one of {few(run.sessions, 5)}")
    bound = changes.get("bound")
    if bound is not None and not 0 < bound <= 0.5:
        raise UserError(f"a contrast of {bound:g}", way_out="use an RMS contrast above 0 and at most 0.5")
    require_folder(out)
    options = Options.of(smoke, seed, **changes)
    asked = regime or REGIME
    told = provenance(
        run, session=key, regime=asked, smoke=smoke, neuron_ids=list(neuron_ids), **dataclasses.asdict(options)
    )
    found = probe(run, key, asked, options, Path(out), (told["checkpoint_hash"], told["store"]), neuron_ids)
    results = summary(found)
    written = write_probe(Path(out), NAME, told, results)
    arrays = Path(out) / f"{NAME}.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **flat(found))  # type: ignore[arg-type]
    write_atomically(arrays, buffer.getvalue())
    return found, [written, arrays, write_page(found, told, results, Path(out))]


def default_session(run: Run) -> str:
    """The first session that the run is scored on and that has a screen, else the first it knows with one."""
    for key in (*run.config.evaluation.sessions, *run.sessions):
        if key in run.store and run.recording(key).screen is not None:
            return str(key)
    raise UserError(f"run {run.folder}: none of its sessions has a screen", way_out="probe a run that has one")


def summary(found: Found) -> dict[str, Any]:
    """What the JSON has beside the provenance."""
    model = found.subjects["model"]
    return {
        "session": found.session,
        "regime": found.regime,
        "geometry": found.geometry._asdict() | {"degrees_per_pixel": found.geometry.degrees_per_pixel},
        "conditions": found.conditions,
        "levels": found.levels,
        "definitions": DEFINITIONS,
        "n_neurons": len(model["tuned"]),
        "tuned": {name: int(arrays["tuned"].sum()) for name, arrays in found.subjects.items()},
        "agreement": {"mean": float(np.nanmean(found.agreement)), "per_neuron": found.agreement},
        "medians": {name: medians(arrays) for name, arrays in found.subjects.items()},
        "planted": found.compared,
        "inputs": {name: inputs_told(arrays) for name, arrays in found.inputs.items()},
        "bound": found.bound,
        "spectrum": spectra_told(found),
        "neurons": {
            name: {one: arrays[one] for one in PER_NEURON if one in arrays} for name, arrays in found.subjects.items()
        },
    }


def medians(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Median over neurons that have the quantity, and how many do."""
    told = {}
    for name in PER_NEURON:
        if name in arrays and arrays[name].dtype.kind == "f":
            there = arrays[name][np.isfinite(arrays[name])]
            told[name] = {"median": float(np.median(there)) if len(there) else None, "neurons": len(there)}
    return told


def inputs_told(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Responses by neuron: most exciting input, best natural stimulus, best grating, grey; spread over seeds."""
    told: dict[str, Any] = {
        name: arrays[name] for name in ("neuron", "value", "natural", "grating", "grey", "rms", "agreement", "by_seed")
    }
    told["spread"] = arrays["by_seed"].std(axis=1) / np.maximum(np.abs(arrays["value"]), 1e-12)
    for name in ("planted_value", "planted_natural", "planted_best"):
        if name in arrays:
            told[name] = arrays[name]
    return told


def spectra_told(found: Found) -> dict[str, Any]:
    """By "recorded" and "predicted"; empty without repeated stimuli."""
    if "showings" not in found.spectra:
        return {"none": "no stimulus of the scored tiers was shown twice"}
    n = len(found.subjects["model"]["tuned"])
    told: dict[str, Any] = {"showings": int(found.spectra["showings"])}
    for name in ("recorded", "predicted"):
        if f"{name}_law" in found.spectra:
            values = found.spectra[f"{name}_eigenvalues"]
            alpha, low, high, first, last = found.spectra[f"{name}_law"].tolist()
            law = spectrum.PowerLaw(alpha, low, high, int(first), int(last))
            told[name] = spectrum.told(values, law, int(found.spectra[f"{name}_stimuli"]), n)
    return told


def flat(found: Found) -> dict[str, np.ndarray]:
    """All arrays under one level of names: subject/array."""
    arrays = {f"{name}/{key}": value for name, one in found.subjects.items() for key, value in one.items()}
    arrays |= {f"planted/{key}": value for key, value in found.planted.items()}
    arrays |= {f"most_exciting_{name}/{key}": value for name, one in found.inputs.items() for key, value in one.items()}
    return arrays | {f"spectrum/{key}": value for key, value in found.spectra.items()}


def table(found: Found) -> str:
    """What `probe physiology` prints."""
    model = found.subjects["model"]
    n = len(model["tuned"])
    lines = [f"{found.session}: {n} neurons, {int(model['tuned'].sum())} tuned to gratings; {found.regime}"]
    for name, words in (
        ("osi_vector", "orientation selectivity (1 - circular variance)"),
        ("dsi_pref_null", "direction selectivity (pref - null)/(pref + null)"),
        ("c50", "half-saturation contrast"),
        ("f1_f0", "F1/F0"),
        ("rf_sigma", "receptive field, sigma in degrees (gradient)"),
        ("running_log_gain", "log gain of running"),
    ):
        told = medians(model).get(name)
        if told and told["median"] is not None:
            lines.append(f"  median {words}: {told['median']:.3g} ({told['neurons']} neurons)")
    for name, rows in found.compared.items():
        lines.append(f"recovered by {name}:")
        lines += [f"  {row_text(row)}" for row in rows]
    for name, arrays in found.inputs.items():
        lines.append(f"most exciting {name}: {exciting.times_natural(arrays, 'value')}")
    for name, told in spectra_told(found).items():
        if isinstance(told, dict) and told["exponent"] is not None:
            first, last = told["ranks"]
            lines.append(
                f"eigenspectrum, {name}: exponent {told['exponent']:.2f} [{told['low']:.2f}, {told['high']:.2f}], ranks "
                f"{first}-{last}"
            )
    return "\n".join(lines)


def row_text(row: dict[str, Any]) -> str:
    """orientation, median error: 1.6 [0.8, 2.8] degrees, chance 44, p .001 (47 neurons)."""
    what = f"{row['quantity']}, {row['measure']}"
    if row["value"] is None:
        return f"{what}: too few neurons ({row['neurons']})"
    unit = f" {row['unit']}" if row["unit"] else ""
    return (
        f"{what}: {row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]{unit}, chance {row['chance']:.2f}, "
        f"p {row['p']:.3f} ({row['neurons']} of {row['of']} neurons)"
    )
