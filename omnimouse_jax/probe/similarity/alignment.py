"""Alignment pattern analysis: is an area of a model like the areas of the brain in the same pattern as that area of a brain is?

Own recipe (probe sheet, section 3.3) after the idea of Hoefling et al. 2026 (arXiv 2604.21780). The similarity of two
populations is that of their RDMs, with equal numbers of neurons. S[a, b] compares area a of one mouse, recorded or predicted, with
area b recorded in ANOTHER mouse; its row a is the profile of area a. A model is scored by how like its matrix is to the brain's. An
encoding model fitted to an area inherits its profile almost by construction: read its score beside the wrong-area and pooled ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from omnimouse_jax.probe.similarity.rdm import Compare, Rdm, rdm_of
from omnimouse_jax.probe.similarity.rsa import disattenuated

#: Below this similarity of an area with itself in another mouse there is no pattern to compare.
LEAST_RELIABILITY = 0.2
LEAST_AREAS, LEAST_CONDITIONS, LEAST_NEURONS = 3, 4, 5
#: All orders of areas are tried up to this number, else so many drawn ones.
ORDERS = 5040

Matrix = Float[np.ndarray, "areas areas"]
Rdms = dict[str, list[Rdm]]  # by area, one for each subsample
NOT_A_BOUND = "brain-brain is a reference, not an upper bound: noise lowers it, and a prediction has none"


def similarity_matrix(ours: Rdms, theirs: Rdms, areas: Sequence[str], compare: Compare) -> Matrix:
    """S[a, b]: similarity of our area a and their area b, mean over subsamples (number k of one with number k of the other)."""
    return np.array(
        [[np.mean([compare(x, y) for x, y in zip(ours[a], theirs[b], strict=True)]) for b in areas] for a in areas]
    )


def equalised(
    values_RxKxN: Float[np.ndarray, "R K N"],
    labels: Shaped[np.ndarray, " N"],
    areas: Sequence[str],
    n: int,
    draws: int,
    seed: int,
    distance: str = "crossnobis",
) -> Rdms:
    """RDMs of `n` neurons of each area, drawn `draws` times: similarity grows with the number of neurons, so it must be equal."""
    rng = np.random.default_rng([seed, n])
    out: Rdms = {}
    for area in areas:
        members = np.flatnonzero(labels == area)
        drawn = [rng.choice(members, n, replace=False) for _ in range(draws)]
        out[area] = [rdm_of(values_RxKxN[:, :, picked], distance) for picked in drawn]
    return out


def matrix_scores(model: Matrix, brain: Matrix) -> dict[str, float]:
    """Pearson and mean absolute difference of two area x area matrices, all cells, and apart on and off the diagonal; `profile`:
    mean over areas of the Pearson correlation of rows.

    The Pearson correlation of 4 numbers with 4 unrelated ones is above .5 in 25 % of cases and above .9 in 5 % (uniform on
    [-1, 1]): with 4 areas read the difference and the permutation beside it.
    """
    on = np.eye(len(model), dtype=bool)
    cells: dict[str, Bool[np.ndarray, "areas areas"]] = {"all": np.ones_like(on), "diagonal": on, "off-diagonal": ~on}
    out = {}
    for name, which in cells.items():
        out[f"pearson, {name}"] = correlation(model[which], brain[which])
        out[f"difference, {name}"] = float(np.abs(model[which] - brain[which]).mean())
    out["profile"] = float(np.mean([correlation(m, b) for m, b in zip(model, brain, strict=True)]))
    return out


def correlation(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Pearson; NaN without variance or with fewer than 3 numbers."""
    if len(x) < 3 or x.std() <= 1e-15 or y.std() <= 1e-15:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])


def label_permutation(model: Matrix, brain: Matrix, seed: int) -> tuple[float, int]:
    """(share of orders of the model's areas, the right one among them, with a profile correlation at least as high; orders)."""
    n = len(model)
    if math.factorial(n) <= ORDERS:
        orders = [list(order) for order in itertools.permutations(range(n))]
    else:
        rng = np.random.default_rng([seed, n])
        orders = [list(range(n)), *(rng.permutation(n).tolist() for _ in range(ORDERS - 1))]
    found = [matrix_scores(model[order], brain)["profile"] for order in orders]
    return float(np.mean([value >= found[0] - 1e-12 for value in found])), len(orders)


def wrong_areas(model: Matrix, brain: Matrix) -> list[float]:
    """Correlation of each profile of the model with the brain's profile of every OTHER area."""
    return [correlation(model[a], brain[b]) for a in range(len(model)) for b in range(len(model)) if a != b]


def alignment_patterns(
    brains: Mapping[str, Rdms],
    models: Mapping[str, Mapping[str, Rdms]],
    areas: Sequence[str],
    compare: Compare,
    seed: int = 0,
    least: float | int = LEAST_RELIABILITY,
    own: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """The whole analysis. `brains`: RDMs by mouse, of the same conditions; `models`: by name and mouse, of predictions of the areas
    (for `pooled`, neurons of any area under each name); `own`: by mouse and area, the recorded RDM's reliability over repeats.

    Areas whose recorded RDM is less alike than `least` between mice are skipped; with fewer than 3 left the answer is
    {"applicable": False, "reason": ...}. Scores are means over target mice t, of the mean matrix of all other mice towards t.
    """
    mice = list(brains)
    between = {(m, t): similarity_matrix(brains[m], brains[t], areas, compare) for m in mice for t in mice if m != t}
    if not between:
        return not_applicable("one mouse: nothing to compare its areas with")
    reliability = dict(zip(areas, np.mean([np.diag(s) for s in between.values()], axis=0).tolist(), strict=True))
    kept = [k for k, area in enumerate(areas) if reliability[area] >= least]
    skipped = {area: value for area, value in reliability.items() if not value >= least}
    if len(kept) < LEAST_AREAS:
        told = ", ".join(f"{area} {value:.2f}" for area, value in reliability.items())
        reason = f"{len(kept)} areas < {LEAST_AREAS} with a similarity of at least {least:g} between mice ({told})"
        return {**not_applicable(reason), "reliability": reliability}
    names = [areas[k] for k in kept]
    between = {pair: s[np.ix_(kept, kept)] for pair, s in between.items()}
    towards = {t: np.mean([between[m, t] for m in mice if m != t], axis=0) for t in mice}
    reference = [
        matrix_scores(between[m, t], np.mean(rest, axis=0))
        for m, t in between
        if (rest := [s for pair, s in between.items() if t not in pair])
    ]
    scored = {}
    for name, of_mouse in models.items():
        made = {
            t: np.mean([similarity_matrix(of_mouse[m], brains[t], names, compare) for m in mice if m != t], axis=0)
            for t in mice
        }
        mean_made, mean_brain = (np.mean([x[t] for t in mice], axis=0) for x in (made, towards))
        p, orders = label_permutation(mean_made, mean_brain, seed)
        scored[name] = {
            "scores": _mean([matrix_scores(made[t], towards[t]) for t in mice]),
            "wrong-area profile": float(np.nanmean([w for t in mice for w in wrong_areas(made[t], towards[t])])),
            "label permutation p": p,
            "orders": orders,
            "matrix": mean_made.tolist(),
        }
    return {
        "applicable": True,
        "areas": names,
        "skipped": skipped,
        "reliability": reliability,
        "mice": mice,
        "brain matrix": np.mean(list(towards.values()), axis=0).tolist(),
        "brain matrix, corrected": None if own is None else _corrected(between, own, names).tolist(),
        "brain-brain": _mean(reference) if reference else None,
        "brain-brain note": NOT_A_BOUND if reference else f"needs 3 mice; {NOT_A_BOUND}",
        "models": scored,
    }


def gate(
    areas_of: Mapping[str, Shaped[np.ndarray, " N"]], n_conditions: int, least_neurons: int = LEAST_NEURONS
) -> tuple[list[str], str]:
    """(areas that every mouse has with enough neurons, why the analysis is not applicable or "")."""
    if len(areas_of) < 2:
        return [], f"{len(areas_of)} mice: needs two or more with the same repeated test stimuli"
    if n_conditions < LEAST_CONDITIONS:
        looked = f"looked for stimuli of the tier that all of {', '.join(areas_of)} were shown twice or more"
        return [], f"no shared repeated stimuli ({n_conditions} conditions in common; {looked})"
    common = [
        {str(a) for a in np.unique(labels) if a and (labels == a).sum() >= least_neurons}
        for labels in areas_of.values()
    ]
    areas = sorted(set.intersection(*common))
    if len(areas) < LEAST_AREAS:
        told = ", ".join(areas) or "none"
        where = f"in every mouse, with {least_neurons} neurons or more: {told}"
        return areas, f"{len(areas)} areas < {LEAST_AREAS} ({where})"
    return areas, ""


def not_applicable(reason: str) -> dict[str, Any]:
    return {"applicable": False, "reason": f"not applicable: {reason}"}


def _corrected(
    between: Mapping[tuple[str, str], Matrix], own: Mapping[str, Mapping[str, float]], areas: Sequence[str]
) -> Matrix:
    """Mean of s_ab / sqrt(rel_a rel_b); NaN in a cell without reliability in some pair."""
    found = []
    for (m, t), s in between.items():
        rows = [
            [disattenuated(s[i, j], own[m][a], own[t][b]) for j, b in enumerate(areas)] for i, a in enumerate(areas)
        ]
        found.append(rows)
    return np.mean(found, axis=0)


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
