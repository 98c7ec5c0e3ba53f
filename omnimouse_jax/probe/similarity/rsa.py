"""How alike two RDMs are, by several measures; what is left without simple properties of the stimulus; and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import kendalltau, rankdata

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.metrics import percentile_interval
from omnimouse_jax.probe.similarity.rdm import Compare, Rdm, condensed, n_conditions, square

#: Fewer draws, blocks, sessions or animals than this make no interval.
LEAST = 3


def pearson(a: Rdm, b: Rdm) -> float:
    """NaN where one of them has no variance."""
    return cosine(a - a.mean(), b - b.mean())


def cosine(a: Rdm, b: Rdm) -> float:
    """Without taking a mean off: for distances with a meaningful zero, such as crossnobis."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return float(a @ b / math.sqrt((a @ a) * (b @ b))) if a.any() and b.any() else float("nan")


def spearman(a: Rdm, b: Rdm) -> float:
    """Pearson of mean ranks."""
    return pearson(rankdata(a), rankdata(b))


def rho_a(a: Rdm, b: Rdm) -> float:
    """Expected Spearman correlation with ties broken at random (Schuett et al. 2023, doi 10.7554/eLife.82566, eq. for rho_a)."""
    n = len(a)
    return float(12 * (rankdata(a) @ rankdata(b)) / (n**3 - n) - 3 * (n + 1) / (n - 1))


def tau_a(a: Rdm, b: Rdm) -> float:
    """Kendall's tau, ties in the denominator: (concordant - discordant) / all pairs of distances."""
    n = len(a)
    pairs = n * (n - 1) / 2
    tau_b = float(kendalltau(a, b).statistic)
    untied = [pairs - sum(c * (c - 1) / 2 for c in np.unique(x, return_counts=True)[1]) for x in (a, b)]
    return tau_b * math.sqrt(untied[0] * untied[1]) / pairs


def whitened_cosine(a: Rdm, b: Rdm) -> float:
    """Cosine in which the correlations of distances that share a condition are undone, for independent noise of equal variance.

    It is the cosine of the doubly centred similarity matrices - 1/2 H D H (Diedrichsen et al. 2021, arXiv 2007.02789).
    """
    return cosine(*(_centred(x).reshape(-1) for x in (a, b)))


def _centred(rdm: Rdm) -> Float[np.ndarray, "K K"]:
    d = square(rdm)
    return -0.5 * (d - d.mean(0) - d.mean(1)[:, None] + d.mean())


COMPARISONS: dict[str, Compare] = {
    "pearson": pearson,
    "spearman": spearman,
    "rho-a": rho_a,
    "tau-a": tau_a,
    "cosine": cosine,
    "whitened cosine": whitened_cosine,
}


def comparison(name: str) -> Compare:
    """By name; UserError for another."""
    if name not in COMPARISONS:
        raise UserError(f"comparison {name!r}", way_out=f"use one of {', '.join(COMPARISONS)}")
    return COMPARISONS[name]


def partial(a: Rdm, b: Rdm, without: Sequence[Rdm], ranks: bool = False) -> float:
    """Pearson correlation (`ranks`: of mean ranks) of what regression on the RDMs `without`, with intercept, leaves of a and b.

    NaN where nothing is left, as for an RDM that is a sum of those taken off.
    """
    values = [rankdata(x) if ranks else x for x in (a, b, *without)]
    design = np.stack([np.ones(len(a)), *values[2:]], axis=1)
    design[:, 1:] /= np.maximum(np.abs(design[:, 1:]).max(0), 1e-300)
    rest = []
    for x in values[:2]:
        left = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
        if left @ left <= 1e-20 * (x @ x):
            return float("nan")
        rest.append(left)
    return pearson(*rest)


def disattenuated(raw: float, *reliabilities: float) -> float:
    """raw / sqrt(product of reliabilities): above 1 by chance. NaN where one of them is not above 0."""
    product = 1.0
    for reliability in reliabilities:
        if not reliability > 0:
            return float("nan")
        product *= reliability
    return float(raw / math.sqrt(product))


def corrected(halves: Sequence[tuple[Rdm, Rdm]], other: Rdm, compare: Compare) -> float:
    """Similarity to a noiseless RDM, corrected for noise: mean similarity of halves' RDMs to it / sqrt(mean similarity of halves).

    At the level of halves no formula is needed that foretells the reliability of all repeats. NaN without reliability.
    """
    if not halves:
        return float("nan")
    raw = float(np.mean([compare(half, other) for pair in halves for half in pair]))
    return disattenuated(raw, float(np.mean([compare(a, b) for a, b in halves])))


def stimulus_interval(
    a: Rdm, b: Rdm, compare: Compare, blocks: Int[np.ndarray, " K"], n: int, seed: int
) -> tuple[float, float]:
    """95% percentile interval when stimuli are drawn again, whole blocks (`blocks[k]`: the block of condition k) at a time.

    Pairs of a condition with a copy of itself are left out: their distance is 0 in both RDMs, which would make these alike
    (Schuett et al. 2023). NaN for fewer than 3 blocks. Not for the whitened cosine, which needs whole matrices.
    """
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    if len(members) < LEAST or n < 1:
        return float("nan"), float("nan")
    rng = np.random.default_rng([seed, len(blocks), n])
    squares = square(a), square(b)
    found = []
    for _ in range(n):
        order = np.concatenate([members[k] for k in rng.integers(0, len(members), len(members))])
        kept = condensed(order[:, None] != order[None])
        if kept.sum() > LEAST:
            found.append(compare(*(condensed(d[np.ix_(order, order)])[kept] for d in squares)))
    return percentile_interval(np.array(found))


def group_interval(values: Sequence[float], groups: Sequence[str], n: int, seed: int) -> tuple[float, float]:
    """95% percentile interval of the mean when groups (sessions, animals) are drawn again with all that they have.

    NaN for fewer than 3 groups.
    """
    kept = [(value, group) for value, group in zip(values, groups, strict=True) if math.isfinite(value)]
    names = sorted({group for _, group in kept})
    if len(names) < LEAST or n < 1:
        return float("nan"), float("nan")
    sums = np.array([[sum(v for v, g in kept if g == name), sum(g == name for _, g in kept)] for name in names], float)
    drawn = sums[np.random.default_rng([seed, len(names), n]).integers(0, len(names), (n, len(names)))].sum(1)
    return percentile_interval(drawn[:, 0] / drawn[:, 1])


def permutation_p(
    a: Rdm, b: Rdm, compare: Compare, n: int, seed: int, blocks: Int[np.ndarray, " K"] | None = None
) -> float:
    """How often the labels of b's stimuli in a random order make it at least as like a: (1 + count) / (1 + n).

    With `blocks` only whole blocks of equal size change places, so that what is alike because it is near in time stays together;
    without, every condition does. NaN where the blocks leave one order only.
    """
    blocks = np.arange(n_conditions(a)) if blocks is None else blocks
    members = [np.flatnonzero(blocks == block) for block in np.unique(blocks)]
    sizes = np.array([len(block) for block in members])
    if np.unique(sizes).size == len(sizes):
        return float("nan")
    found, rng = compare(a, b), np.random.default_rng([seed, len(blocks), n])
    count, theirs, above = 0, square(b), np.triu_indices(len(blocks), 1)
    for _ in range(n):
        order = np.arange(len(blocks))
        for size in np.unique(sizes):
            same = np.flatnonzero(sizes == size)
            for place, taken in zip(same, rng.permutation(same), strict=True):
                order[members[place]] = members[taken]
        count += compare(a, theirs[np.ix_(order, order)][above]) >= found
    return (1 + count) / (1 + n)


def all_comparisons(a: Rdm, b: Rdm, names: Sequence[str] = tuple(COMPARISONS)) -> Mapping[str, float]:
    """Every measure by name."""
    return {name: comparison(name)(a, b) for name in names}
