"""How many dimensions the population's responses use: eigenspectra by cross-validated PCA (Stringer et al. 2019, Nature 571:361),
and the exponent of their power law.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

DEFINITIONS = {
    "cvPCA": "principal components of one repeat's responses (stimuli x neurons, each neuron's mean over stimuli removed); the "
    "eigenvalue of a component is the covariance over stimuli of both repeats' projections on it, averaged over which repeat comes "
    "first; private noise of a repeat cancels in expectation",
    "stimulus": "a stretch of 0.25 s of a stimulus that was shown at least twice",
    "exponent": "minus the slope of log eigenvalue on log rank, least squares with weights 1 / rank, over the ranks named; 95 % "
    "percentile interval of a bootstrap over windows of stimuli. With as few stimuli and neurons as here it says how this sample "
    "decays, not what its limit is",
    "predicted": "of predictions for the same windows as recorded; without behaviour in the regime both repeats have the same "
    "prediction and this is plain PCA of the model",
}
#: Fewer eigenvalues than this in the range have no slope.
LEAST_RANKS = 4
#: Fewer blocks are not drawn again.
LEAST_BLOCKS = 3


class PowerLaw(NamedTuple):
    """Of eigenvalue by rank over ranks `first` to `last` (from 1, both included); NaN: not enough of them."""

    exponent: float
    low: float
    high: float
    first: int
    last: int


def cross_validated(a_KxN: Float[np.ndarray, "K N"], b_KxN: Float[np.ndarray, "K N"]) -> Float[np.ndarray, " R"]:
    """Eigenvalues, by descending variance of the repeat that gave the components; may be negative where there is only noise."""
    a, b = (x.astype(np.float64) - x.mean(axis=0) for x in (a_KxN, b_KxN))
    n = min(len(a) - 1, a.shape[1])

    def one(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        if first.shape[1] <= len(first):  # a neurons x neurons problem, else one of stimuli
            along = np.linalg.eigh(first.T @ first)[1][:, ::-1][:, :n]
        else:
            along = np.linalg.svd(first, full_matrices=False)[2][:n].T
        return ((first @ along) * (second @ along)).sum(axis=0) / (len(first) - 1)

    return (one(a, b) + one(b, a)) / 2


def exponent(eigenvalues: Float[np.ndarray, " R"], first: int, last: int) -> float:
    """Over ranks first..last; NaN with fewer than LEAST_RANKS positive eigenvalues there."""
    rank = np.arange(1, len(eigenvalues) + 1)
    used = (rank >= first) & (rank <= last) & (eigenvalues > 0)
    if used.sum() < LEAST_RANKS:
        return float("nan")
    x, y = np.log(rank[used]), np.log(eigenvalues[used])
    weight = 1.0 / rank[used]
    x = x - np.average(x, weights=weight)
    return float(-(weight * x * y).sum() / (weight * x**2).sum())


def spectrum(
    a_BxKxN: Float[np.ndarray, "B K N"],
    b_BxKxN: Float[np.ndarray, "B K N"],
    first: int,
    last: int,
    draws: int,
    seed: int,
) -> tuple[Float[np.ndarray, " R"], PowerLaw]:
    """Eigenvalues of B blocks (windows) of K stimuli each shown twice, and their power law with its interval over blocks."""
    n = a_BxKxN.shape[2]
    values = cross_validated(a_BxKxN.reshape(-1, n), b_BxKxN.reshape(-1, n))
    alpha = exponent(values, first, last)
    rng = np.random.default_rng([seed, len(a_BxKxN)])
    again = []
    for _ in range(draws if len(a_BxKxN) >= LEAST_BLOCKS else 0):
        drawn = rng.integers(0, len(a_BxKxN), len(a_BxKxN))
        again.append(
            exponent(cross_validated(a_BxKxN[drawn].reshape(-1, n), b_BxKxN[drawn].reshape(-1, n)), first, last)
        )
    finite = np.array(again)[np.isfinite(again)] if again else np.zeros(0)
    low, high = np.quantile(finite, [0.025, 0.975]) if len(finite) >= 20 else (np.nan, np.nan)
    return values, PowerLaw(alpha, float(low), float(high), first, last)


def told(values: Float[np.ndarray, " R"], law: PowerLaw, n_stimuli: int, n_neurons: int) -> dict[str, Any]:
    """For the JSON."""
    return {
        "exponent": law.exponent,
        "low": law.low,
        "high": law.high,
        "ranks": [law.first, law.last],
        "stimuli": n_stimuli,
        "neurons": n_neurons,
        "participation_ratio": float(values.sum() ** 2 / (values**2).sum()) if (values**2).sum() > 0 else None,
    }
