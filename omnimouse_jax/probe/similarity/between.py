"""What needs the same repeated stimuli in several mice: RDMs of one against another, Procrustes, alignment patterns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.similarity import alignment
from omnimouse_jax.probe.similarity.agreement import agreement, predictivity
from omnimouse_jax.probe.similarity.rdm import half_rdms, noise_precision, rdm_of, split_half_reliability
from omnimouse_jax.probe.similarity.responses import Condition, Population, SessionData, shared_conditions
from omnimouse_jax.probe.similarity.rsa import comparison, group_interval
from omnimouse_jax.probe.similarity.settings import DISTANCES, RECORDED, Settings


def between_mice(data: Sequence[SessionData], s: Settings) -> dict[str, Any]:
    """What needs the same repeated stimuli in several mice: RDMs of one against another, Procrustes, alignment patterns."""
    by_animal = {of.recorded.animal: of for of in reversed(data)}  # the first session of each
    mice = {animal: by_animal[animal] for animal in sorted(by_animal)}
    recorded = {animal: of.recorded for animal, of in mice.items()}
    common = shared_conditions(list(recorded.values()))
    areas, reason = alignment.gate({a: p.areas for a, p in recorded.items()}, len(common))
    out: dict[str, Any] = {"animals": list(mice), "conditions": len(common)}
    if len(mice) > 1 and len(common) >= alignment.LEAST_CONDITIONS:
        recorded = {animal: p.at(common) for animal, p in recorded.items()}
        models = {name: {animal: of.models[name].at(common) for animal, of in mice.items()} for name in data[0].models}
        out["rsa"] = _rsa_between(recorded, models, s)
        out["procrustes"] = _mice_dispersion(recorded, models, common, s)
        if not reason:
            out["alignment"] = _alignment(recorded, models, areas, s)
    out.setdefault("alignment", alignment.not_applicable(reason))
    return out


def _rsa_between(
    recorded: Mapping[str, Population], models: Mapping[str, Mapping[str, Population]], s: Settings
) -> list[dict[str, Any]]:
    """RDM of one mouse, recorded or predicted, against the RDM recorded in another; crossnobis."""
    compare = comparison(s.compare)
    precision = {m: noise_precision(p.values, s.noise) for m, p in recorded.items()}  # type: ignore[arg-type]
    theirs = {m: rdm_of(p.values, DISTANCES[0], precision[m]) for m, p in recorded.items()}
    rows = []
    for name, of_mouse in {RECORDED: recorded, **models}.items():
        ours = {m: rdm_of(p.values, DISTANCES[0], precision[m]) for m, p in of_mouse.items()}
        pairs = [(compare(ours[m], theirs[t]), t) for m in ours for t in theirs if m != t]
        low, high = group_interval([v for v, _ in pairs], [t for _, t in pairs], s.bootstrap, s.seed)
        mean = float(np.mean([v for v, _ in pairs]))
        row = {"source": name, "score": mean, "low": low, "high": high, "pairs": len(pairs)}
        rows.append(row | {"interval": "95% bootstrap over the animals compared with"})
    return rows


def _mice_dispersion(
    recorded: Mapping[str, Population],
    models: Mapping[str, Mapping[str, Population]],
    common: Sequence[Condition],
    s: Settings,
) -> list[dict[str, Any]]:
    out = []
    for name, of_mouse in {RECORDED: recorded, **models}.items():
        points = [p.mean for p in of_mouse.values()]
        by_model = next(iter(models.values())) if name == RECORDED else of_mouse
        score = np.mean([predictivity(recorded[m].mean, by_model[m].mean) for m in recorded], axis=0)
        out.append({"source": name, "among": list(of_mouse)} | agreement(points, common, score, s))
    return out


def _alignment(
    recorded: Mapping[str, Population],
    models: Mapping[str, Mapping[str, Population]],
    areas: Sequence[str],
    s: Settings,
) -> dict[str, Any]:
    n = min(int((p.areas == area).sum()) for p in recorded.values() for area in areas)

    def rdms(of: Mapping[str, Population], labels: Callable[[Population], np.ndarray]) -> dict[str, alignment.Rdms]:
        return {
            mouse: alignment.equalised(_scaled(p, recorded[mouse]), labels(p), areas, n, s.draws, s.seed)
            for mouse, p in of.items()
        }

    def any_area(p: Population) -> np.ndarray:
        """The areas' names, dealt out anew to the neurons of these areas."""
        mixed = p.areas.copy()
        inside = np.isin(mixed, areas)
        mixed[inside] = np.random.default_rng([s.seed, len(mixed)]).permutation(mixed[inside])
        return mixed

    brains = rdms(recorded, lambda p: p.areas)
    made = {name: rdms(of, lambda p: p.areas) for name, of in models.items()}
    first = next(iter(models))
    made[f"{first}, pooled areas"] = rdms(models[first], any_area)
    compare = comparison(s.compare)
    own = {mouse: {area: _own(recorded[mouse], area, n, s) for area in areas} for mouse in recorded}
    found = alignment.alignment_patterns(brains, made, areas, compare, s.seed, own=own)
    return found | {"neurons of each area": n, "subsamples": s.draws}


def _own(p: Population, area: str, n: int, s: Settings) -> float:
    """Spearman-Brown reliability over repeats of the crossnobis RDM of n neurons of an area, mean over subsamples."""
    rng, members = np.random.default_rng([s.seed, n]), np.flatnonzero(p.areas == area)
    found = []
    for _ in range(s.draws):
        x = _scaled(p, p)[:, :, rng.choice(members, n, replace=False)]
        halves = half_rdms(x, DISTANCES[0], 4, s.seed)
        found.append(split_half_reliability(halves, comparison(s.compare))[1])
    return float(np.mean(found))


def _scaled(p: Population, recorded: Population) -> Float[np.ndarray, "R K N"]:
    """In standard deviations of the neuron's recorded averages."""
    spread = recorded.values.mean(0).std(0)
    return p.values / np.where(spread > 0, spread, 1.0)
