"""A local benchmark of repeated stimuli that one mouse was shown: Brain-Score's own metric, ceiling and normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from brainscore_core.supported_data_standards.brainio.assemblies import NeuroidAssembly
from brainscore_vision import load_ceiling, load_metric
from brainscore_vision.benchmark_helpers.neural_common import NeuralBenchmark, average_repetition

from omnimouse_brainscore.files import Contents, Refused, stimulus_set
from omnimouse_brainscore.model import Mouse, require_mouse

METRICS = ("ridge", "pls")
#: Of Brain-Score's partial least squares: a model needs as many neurons, and stimuli to fit with.
COMPONENTS = 25


def mouse_benchmark(recording: Contents, region: str, metric: str = "ridge") -> NeuralBenchmark:
    """How well a linear map of a model's neurons (cross-validated over stimuli) predicts the recorded ones of a region.

    raw: median over neurons of Pearson's r, mean over 10 splits of 90 and 10 % of the stimuli. Ceiling: Spearman-Brown corrected
    half-split reliability over repetitions. Score: raw^2 / ceiling. Refused without such neurons.
    """
    require_mouse(region)
    if metric not in METRICS:
        raise Refused(f"metric {metric}: choose {' or '.join(METRICS)}")
    everything = recording.assembly
    columns = np.flatnonzero(everything["region"].values == region)
    if not len(columns):
        known = ", ".join(sorted(set(everything["region"].values.tolist())))
        raise Refused(f"region {region}: {recording.path} has {known}")
    if everything.sizes["time_bin"] != 1:
        raise Refused(f"file {recording.path}: {everything.sizes['time_bin']} time bins; a target has one")
    repeated = everything.isel(neuroid=columns).squeeze("time_bin")
    repeated = repeated.isel(neuroid=_varying(repeated))
    stimuli = stimulus_set(recording)
    for name, value in (("stimulus_set", stimuli), ("stimulus_set_identifier", stimuli.identifier)):
        repeated.attrs[name] = value
    averaged = average_repetition(repeated)
    identifier = f"{recording.meta['identifier']}.{region}-{metric}"
    return NeuralBenchmark(
        identifier=identifier,
        version=1,
        assembly=averaged,
        similarity_metric=load_metric(metric, crossvalidation_kwargs={"stratification_coord": None}),
        visual_degrees=recording.meta["visual_degrees"],
        number_of_trials=1,
        ceiling_func=lambda: load_ceiling("internal_consistency")(repeated),
        parent=region,
        bibtex="",
    )


def scored(benchmark: NeuralBenchmark, model: Mouse, region: str) -> dict[str, Any]:
    """The score with everything behind it, as plain numbers. NaN is told as null; nothing is clipped.

    Refused where the metric cannot be fitted to so few neurons or stimuli.
    """
    neurons, stimuli = model.n_neurons(region), int(0.9 * benchmark._assembly.sizes["presentation"])
    if benchmark.identifier.endswith("-pls") and min(neurons, stimuli) < COMPONENTS:
        raise Refused(f"metric pls has {COMPONENTS} components, of {neurons} neurons and {stimuli} stimuli: use ridge")
    score = benchmark(model)
    raw, ceiling = score.attrs["raw"], score.attrs["ceiling"]
    return {
        "model": model.identifier,
        "benchmark": benchmark.identifier,
        "region": region,
        "score": _number(score.values),
        "raw": _number(raw.values),
        "raw_error": _number(raw.attrs["error"].values),
        "ceiling": _number(ceiling.values),
        "ceiling_error": _number(ceiling.attrs["error"].values),
        "estimator": "median over neurons of Pearson r (mean over 10 splits)^2 / Spearman-Brown half-split reliability",
        "interval": "error: standard error over splits",
        # Brain-Score squares r, so a model that predicts the opposite scores as one that predicts well.
        "remark": "raw is below 0: the score is of its square" if float(raw.values) < 0 else "",
        "stimuli": int(benchmark._assembly.sizes["presentation"]),
        "neurons": int(benchmark._assembly.sizes["neuroid"]),
    }


def _varying(assembly: NeuroidAssembly) -> np.ndarray:
    """Neurons that were not silent: the correlation of a constant is undefined."""
    return np.flatnonzero(assembly.values.std(axis=0) > 0)


def _number(value: Any) -> float | None:
    found = float(value)
    return found if np.isfinite(found) else None
