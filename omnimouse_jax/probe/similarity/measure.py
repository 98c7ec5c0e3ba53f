"""Everything that `probe similarity` measures, from runs to one result that can be written as JSON."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.probe.similarity.agreement import models_agreement, rounded, told_conditions
from omnimouse_jax.probe.similarity.between import between_mice
from omnimouse_jax.probe.similarity.cka import debiased_cka, linear_cka
from omnimouse_jax.probe.similarity.rdm import (
    Rdm,
    euclidean_rdm,
    half_rdms,
    noise_precision,
    rdm_of,
    split_half_reliability,
)
from omnimouse_jax.probe.similarity.responses import (
    SessionData,
    session_data,
    stimulus_features,
)
from omnimouse_jax.probe.similarity.rsa import (
    COMPARISONS,
    all_comparisons,
    comparison,
    corrected,
    group_interval,
    partial,
    permutation_p,
    stimulus_interval,
)
from omnimouse_jax.probe.similarity.settings import DISTANCES, RECORDED, UNTRAINED, Settings
from omnimouse_jax.probe.similarity.tower import tower_values
from omnimouse_jax.progress import Progress


class Read(NamedTuple):
    """What is compared of a session."""

    data: SessionData
    simple: Mapping[str, Rdm]  # of simple properties of the stimulus
    tower: Mapping[str, Float[np.ndarray, "1 K D"]]  # by run


def measure(runs: Mapping[str, Run], sessions: Sequence[str], settings: Settings) -> dict[str, Any]:
    """Compares the representations of runs, and of the first of them untrained, with what was recorded, session by session."""
    return compared(_read(runs, sessions, settings), list(runs), settings)


def compared(read: Iterable[Read], names: Sequence[str], s: Settings) -> dict[str, Any]:
    """The result; `names`: which of the models are trained."""
    data, rsa, cka, dispersed = [], [], [], []
    pictures: dict[str, Any] = {}
    for of, simple, tower in read:
        data.append(of)
        found, rdms = rsa_rows(of, simple, s)
        rsa += found
        if not pictures:
            shown = {name: rounded(rdm) for name, rdm in rdms.items()}
            conditions = told_conditions(of.cut.conditions)
            pictures = {"session": of.recorded.session, "rdms": shown, "conditions": conditions}
        cka += cka_rows(of, tower)
        if len(names) > 1:
            dispersed.append(models_agreement(of, names, s))
    return {
        "sessions": [_session_row(of) for of in data],
        "rsa": rsa,
        "rsa summary": _summary(rsa, s),
        "cka": cka,
        "cka summary": _cka_summary(cka, s),
        "pictures": pictures,
        "procrustes": dispersed,
        "between mice": between_mice(data, s),
    }


def _read(runs: Mapping[str, Run], sessions: Sequence[str], s: Settings) -> Iterator[Read]:
    first = next(iter(runs.values()))
    every = {**runs, UNTRAINED: first.untrained(s.seed)}
    progress = Progress(len(sessions), label="session ")
    for number, key in enumerate(sessions):
        progress.show(number, key, force=True)
        of = session_data(every, key, s.regime, s.tier, s.bin_s, s.least_reliability)
        features = stimulus_features(first.store.recording(key), of.cut)
        tower = {f"{name}, tower": tower_values(run, of.cut, s.regime) for name, run in every.items() if s.tower}
        yield Read(of, {name: euclidean_rdm(values) for name, values in features.items()}, tower)
    progress.show(len(sessions), "between mice", force=True)
    progress.close()


def rsa_rows(of: SessionData, simple: Mapping[str, Rdm], s: Settings) -> tuple[list[dict[str, Any]], dict[str, Rdm]]:
    """(a row per model or stimulus property and distance, the crossnobis RDMs by name)."""
    compare, blocks = comparison(s.compare), of.cut.blocks(s.block_s)
    precision = noise_precision(of.recorded.values, s.noise)  # type: ignore[arg-type]
    rows, pictures = [], {}
    for distance in DISTANCES:
        of_distance = precision if distance == "crossnobis" else None
        recorded = rdm_of(of.recorded.values, distance, of_distance)
        halves = half_rdms(of.recorded.values, distance, s.splits, s.seed, of_distance)
        half, full = split_half_reliability(halves, compare)
        rdms = {name: rdm_of(population.values, distance, of_distance) for name, population in of.models.items()}
        if distance == DISTANCES[0]:
            pictures = {RECORDED: recorded, **rdms}
        for name, rdm in {**rdms, **simple}.items():
            raw = all_comparisons(recorded, rdm)
            low, high = stimulus_interval(recorded, rdm, compare, blocks, s.bootstrap, s.seed)
            row = {
                "session": of.recorded.session,
                "animal": of.recorded.animal,
                "distance": distance,
                "source": name,
                "kind": "model" if name in rdms else "stimulus",
                "raw": raw,
                "score": raw[s.compare],
                "low": low,
                "high": high,
                "interval": f"95% bootstrap over stretches of {s.block_s:g} s of a stimulus",
                "reliability, halves": half,
                "reliability": full,
                "corrected": corrected(halves, rdm, compare),
                "permutation p": permutation_p(recorded, rdm, compare, s.permutations, s.seed, blocks),
            }
            if name in rdms and simple:
                ranks = s.compare not in ("pearson", "cosine", "whitened cosine")
                row["partial"] = partial(recorded, rdm, list(simple.values()), ranks)
            rows.append(row)
    return rows, pictures


def cka_rows(of: SessionData, tower: Mapping[str, Float[np.ndarray, "1 K D"]]) -> list[dict[str, Any]]:
    """CKA of the recording with itself (odd with even showings) and with everything, of predictions with one another, and of towers
    with one another.
    """
    points = {RECORDED: of.recorded.mean, **{name: population.mean for name, population in of.models.items()}}
    points |= {name: values[0] for name, values in tower.items()}
    shown = {name: np.isfinite(x).all(1) for name, x in points.items()}
    rows = []
    odd, even = (dataclasses.replace(of.recorded, values=of.recorded.values[part::2]).mean for part in (0, 1))
    pairs = [(RECORDED, RECORDED, odd, even, np.ones(len(odd), bool))]
    for a, b in itertools.combinations(points, 2):
        if a == RECORDED or (a in tower) == (b in tower):
            pairs.append((a, b, points[a], points[b], shown[a] & shown[b]))
    for a, b, x, y, both in pairs:
        rows.append(
            {
                "session": of.recorded.session,
                "animal": of.recorded.animal,
                "a": a,
                "b": b,
                "conditions": int(both.sum()),
                "debiased": debiased_cka(x[both], y[both]),
                "biased": linear_cka(x[both], y[both]),
            }
        )
    return rows


def _session_row(of: SessionData) -> dict[str, Any]:
    names, counts = np.unique(of.recorded.areas, return_counts=True)
    return {
        "session": of.recorded.session,
        "animal": of.recorded.animal,
        "neurons": int(of.recorded.values.shape[2]),
        "left out": of.left_out,
        "areas": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "repeats": of.cut.repeats,
        "stimuli": len({c.content for c in of.cut.conditions}),
        "conditions": len(of.cut.conditions),
        "behavior regressed out": list(of.corrected),
    }


def _summary(rows: Sequence[Mapping[str, Any]], s: Settings) -> list[dict[str, Any]]:
    out = []
    for distance, source in dict.fromkeys((row["distance"], row["source"]) for row in rows):
        mine = [row for row in rows if (row["distance"], row["source"]) == (distance, source)]
        row: dict[str, Any] = {"distance": distance, "source": source, "kind": mine[0]["kind"], "sessions": len(mine)}
        for value in ("score", "corrected", "partial", "reliability"):
            row[value] = _mean([r.get(value, np.nan) for r in mine])
        scores = [r["score"] for r in mine]
        for level in ("session", "animal"):
            groups = [r[level] for r in mine]
            row[f"{level}s interval"] = list(group_interval(scores, groups, s.bootstrap, s.seed))
        row["raw"] = {name: _mean([r["raw"][name] for r in mine]) for name in COMPARISONS}
        out.append(row)
    return out


def _cka_summary(rows: Sequence[Mapping[str, Any]], s: Settings) -> list[dict[str, Any]]:
    out = []
    for a, b in dict.fromkeys((row["a"], row["b"]) for row in rows):
        mine = [row for row in rows if (row["a"], row["b"]) == (a, b)]
        values, groups = [r["debiased"] for r in mine], [r["animal"] for r in mine]
        low, high = group_interval(values, groups, s.bootstrap, s.seed)
        mean = {name: _mean([r[name] for r in mine]) for name in ("debiased", "biased")}
        out.append({"a": a, "b": b, "sessions": len(mine), "low": low, "high": high, **mean})
    return out


def _mean(values: Sequence[float]) -> float:
    """Over what there is."""
    kept = [v for v in values if np.isfinite(v)]
    return float(np.mean(kept)) if kept else float("nan")
