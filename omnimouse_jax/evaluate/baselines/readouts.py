"""From a feature map to neurons: where a neuron looks, and how it weighs the features there.

Factorised (Klindt et al. 2017, NeurIPS): a mask over all places times weights of the features. Gaussian (Lurz et al. 2021, ICLR):
one place per neuron, drawn around its mean while training, read by bilinear interpolation. Both are a mask times weights here:
bilinear interpolation is the mask of the four places around a point.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Readout = dict[str, Float[Array, "..."]]
#: Standard deviation of the places that are drawn at first, in units of half the map.
FIRST_SIGMA = 0.2


def init_readout(kind: str, key: Array, sessions: int, neurons: int, size: tuple[int, int], channels: int) -> Readout:
    """Rows for every neuron of every session. kind: "factorised" or "gaussian"."""
    places, key_weights = jax.random.split(key)
    shape = (sessions, neurons)
    weights = 0.1 * jax.random.normal(key_weights, (*shape, channels), jnp.float32)
    if kind == "factorised":
        flat = size[0] * size[1]
        mask = (1.0 + 0.1 * jax.random.normal(places, (*shape, flat), jnp.float32)) / flat
        return {"mask": mask, "weights": weights}
    mean = 0.2 * jax.random.normal(places, (*shape, 2), jnp.float32)
    return {"mean": mean, "log_sigma": jnp.full((*shape, 2), jnp.log(FIRST_SIGMA), jnp.float32), "weights": weights}


def read(
    features: Float[Array, "w s h v c"], mask: Float[Array, "n h v"], weights: Float[Array, "n c"]
) -> Float[Array, "w s n"]:
    """Features under each neuron's mask, weighed."""
    looked = jnp.einsum("wshvc,nhv->wsnc", features, mask)
    return jnp.einsum("wsnc,nc->wsn", looked, weights)


def masks(readout: Readout, size: tuple[int, int], key: Array | None = None) -> Float[Array, "n h v"]:
    """Of one session's rows. key: draws the places of a Gaussian readout (training); None: its means."""
    if "mask" in readout:
        return readout["mask"].reshape(-1, *size)
    at = readout["mean"]
    if key is not None:
        at = at + jnp.exp(readout["log_sigma"]) * jax.random.normal(key, at.shape, at.dtype)
    return bilinear(at, size)


def bilinear(at: Float[Array, "n 2"], size: tuple[int, int]) -> Float[Array, "n h v"]:
    """Weights of bilinear interpolation at places (row, column) of -1 to 1, corners of the map at its corner pixels; places beyond
    the map count as on its edge.
    """
    each = []
    for axis, n in enumerate(size):
        place = (jnp.clip(at[:, axis], -1.0, 1.0) + 1.0) / 2.0 * (n - 1)
        distance = jnp.abs(place[:, None] - jnp.arange(n, dtype=jnp.float32)[None])
        each.append(jnp.maximum(1.0 - distance, 0.0))
    return each[0][:, :, None] * each[1][:, None, :]


def penalty(readout: Readout) -> Float[Array, ""]:
    """Size of the readout: sparse masks and weights (factorised), or weights alone; per neuron."""
    n = readout["weights"].shape[0]
    if "mask" in readout:
        return jnp.sum(jnp.sum(jnp.abs(readout["mask"]), 1) * jnp.sum(jnp.abs(readout["weights"]), 1)) / n
    return jnp.sum(jnp.abs(readout["weights"])) / n
