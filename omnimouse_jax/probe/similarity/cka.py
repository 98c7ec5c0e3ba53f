"""Centred kernel alignment of two representations of the same conditions, with linear kernels."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

#: The unbiased estimate divides by n - 3.
LEAST_CONDITIONS = 4


def linear_cka(x: Float[np.ndarray, "K N"], y: Float[np.ndarray, "K M"]) -> float:
    """||Y'X||^2 / (||X'X|| ||Y'Y||) of centred x, y (Kornblith et al. 2019, arXiv 1905.00414): 0 to 1.

    Biased upwards where there are fewer conditions than neurons, to near 1 even for unrelated noise: use `debiased_cka` there.
    """
    k, m = (_centred(values @ values.T) for values in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return float((k * m).sum() / math.sqrt((k * k).sum() * (m * m).sum())) if k.any() and m.any() else float("nan")


def debiased_cka(x: Float[np.ndarray, "K N"], y: Float[np.ndarray, "K M"]) -> float:
    """The same of unbiased estimates of HSIC (Song et al. 2012, eq. 5; Nguyen et al. 2021, arXiv 2010.15327): about 0 for unrelated
    representations, whatever their sizes. It may be negative; NaN for fewer than 4 conditions or a self-similarity not above 0.

    The bias of a finite number of neurons and that of noise in x or y stay: noise makes it smaller.
    """
    if len(x) < LEAST_CONDITIONS:
        return float("nan")
    k, m = (_hollow(values - values.mean(0)) for values in (x, y))
    own = unbiased_hsic(k, k) * unbiased_hsic(m, m)
    return float(unbiased_hsic(k, m) / math.sqrt(own)) if own > 0 else float("nan")


def unbiased_hsic(k: Float[np.ndarray, "K K"], m: Float[np.ndarray, "K K"]) -> float:
    """Of kernel matrices with zeros on their diagonals."""
    n = len(k)
    cross = (
        float((k * m).sum()) + float(k.sum() * m.sum()) / ((n - 1) * (n - 2)) - 2 * float(k.sum(0) @ m.sum(0)) / (n - 2)
    )
    return cross / (n * (n - 3))


def _hollow(values: Float[np.ndarray, "K N"]) -> Float[np.ndarray, "K K"]:
    kernel = values @ values.T
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _centred(kernel: Float[np.ndarray, "K K"]) -> Float[np.ndarray, "K K"]:
    return kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean()
