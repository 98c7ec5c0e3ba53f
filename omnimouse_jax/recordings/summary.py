"""What the manifest says about a session: the numbers that a table, a study plan or a reader of the store needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from omnimouse_jax.recordings.session import UNUSED_TIERS, Recording
from omnimouse_jax.recordings.splits import overlap_seconds


def summarise(
    rec: Recording, nan_fraction: Mapping[str, float], stimuli: Mapping[str, float], notes: list[str]
) -> dict[str, Any]:
    """The manifest's entry for one session, plain JSON values. Hours are recorded hours of responses.

    `nan_fraction` gives the share of missing samples of "responses" and of each channel, `stimuli` the seconds of each
    distinct stimulus, `notes` what was met while writing.
    """
    spans = rec.responses.spans()
    seconds = overlap_seconds(rec.trials.start, rec.trials.end, spans)
    names = np.where((rec.trials.tier == "") & (rec.trials.modality == "blank"), "blank", rec.trials.tier)
    tiers = rec.trials.tiers()
    screen = rec.screen
    return {
        "animal": rec.animal,
        "n_neurons": rec.n_neurons,
        "response_rate": float(rec.responses.rate),
        "original_rate": rec.provenance.get("original_rate"),
        "n_segments": len(rec.responses.segment_start),
        "hours": float((spans[:, 1] - spans[:, 0]).clip(0).sum() / 3600),
        "trials": tiers,
        "tier_hours": {tier: float(seconds[names == tier].sum() / 3600) for tier in tiers},
        "withheld": {
            str(t): int(n) for t, n in zip(*np.unique(names[rec.trials.withheld], return_counts=True), strict=True)
        },
        "split_stimuli": _split_stimuli(rec),
        "channels": list(rec.channels),
        "behavior_rates": {name: float(stream.rate) for name, stream in rec.behavior.items()},
        "has_screen": screen is not None,
        "screen_size": None if screen is None else [screen.height, screen.width],
        "screen_dtype": None if screen is None else str(np.dtype(screen.frames.dtype)),
        "unique_stimuli": len(stimuli),
        "unique_stimulus_hours": float(sum(stimuli.values()) / 3600),
        "nan_fraction": {name: float(f) for name, f in nan_fraction.items()},
        "missing": _missing(rec, nan_fraction, tiers) + notes,
        "ceiling": _ceiling(rec.truth),
        "reader": rec.provenance.get("reader"),
        "source": rec.provenance.get("source"),
        "checksum": rec.provenance.get("checksum"),
        "stamp": rec.provenance.get("stamp"),
    }


def _missing(rec: Recording, nan_fraction: Mapping[str, float], tiers: Mapping[str, int]) -> list[str]:
    out = [] if rec.screen is not None else ["no screen"]
    if not rec.channels:
        out.append("no behavior")
    if "train" not in tiers:
        out.append("no train trials")
    for name, fraction in nan_fraction.items():
        if fraction > 0:
            out.append(f"{100 * fraction:.3g} % of {name} not recorded")
    return out


def _split_stimuli(rec: Recording) -> int:
    """Stimuli whose repeats are both trained on and held out, by the reader's own names (`inspect --leaks` goes by pixels)."""
    trials = rec.trials
    used = trials.valid & (trials.stimulus != "")
    train = used & (trials.tier == "train")
    held = used & ~train & ~np.isin(trials.tier, UNUSED_TIERS)
    return len(np.intersect1d(trials.stimulus[train], trials.stimulus[held]))


def _ceiling(truth: Mapping[str, Any] | None) -> dict[str, float]:
    """The mean true ceilings of a synthetic mouse by name, from `truth["ceiling"][name]["mean"]`; {} for a real one."""
    ceilings = (truth or {}).get("ceiling") or {}
    return {name: float(ceiling["mean"]) for name, ceiling in ceilings.items()}
