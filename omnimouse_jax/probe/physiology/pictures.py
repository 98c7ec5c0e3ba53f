"""Grey pictures of stimuli and maps, enlarged by the browser without smoothing."""

from __future__ import annotations

from html import escape

import numpy as np
from jaxtyping import Float

from omnimouse_jax.pages.picture import data_url


def image(levels_HxW: Float[np.ndarray, "H W_"], alt: str) -> str:
    """An <img> of class "stimulus" of levels in [0, 1]."""
    pixels = np.rint(np.clip(levels_HxW, 0.0, 1.0) * 255).astype(np.uint8)
    return f'<img class="stimulus" alt="{escape(alt, quote=True)}" src="{data_url(pixels)}">'


def strip(film_TxHxW: Float[np.ndarray, "T H W_"], frames: int, alt: str) -> str:
    """Evenly spaced frames side by side."""
    at = np.unique(np.round(np.linspace(0, len(film_TxHxW) - 1, frames)).astype(int))
    gap = np.ones((film_TxHxW.shape[1], 1))
    pieces: list[np.ndarray] = []
    for frame in at:
        pieces += [film_TxHxW[frame], gap]
    return image(np.concatenate(pieces[:-1], axis=1), alt)


def symmetric(map_HxW: Float[np.ndarray, "H W_"]) -> Float[np.ndarray, "H W_"]:
    """A signed map as grey levels, 0 in the middle."""
    most = np.abs(map_HxW).max()
    return 0.5 + 0.5 * map_HxW / most if most > 0 else np.full(map_HxW.shape, 0.5)


def positive(map_HxW: Float[np.ndarray, "H W_"]) -> Float[np.ndarray, "H W_"]:
    """A map as grey levels, its least value black and its largest white."""
    size = np.ptp(map_HxW)
    return (map_HxW - map_HxW.min()) / size if size > 0 else np.zeros(map_HxW.shape)
