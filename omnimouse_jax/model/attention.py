"""Dot-product attention under the window rule. The one place where an implementation is chosen is `attend`."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from omnimouse_jax.model.attention_blocks import blocks
from omnimouse_jax.model.attention_kernels import cudnn, cudnn_takes, splash
from omnimouse_jax.model.attention_plain import plain
from omnimouse_jax.model.target import kernels_run, platform
from omnimouse_jax.model.visibility import Windows

#: Up to so many keys, or so many bytes of scores, all scores at once take less than what blocks would save.
FEW_KEYS = 128
FEW_BYTES = 16 * 2**20


def attend(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
    implementation: str = "auto",
) -> Float[Array, "B Q H D"]:
    """softmax(q k / sqrt(D)) v over the keys that `windows` and `key_mask` let a query see; zero where there is none.

    H query heads share G key heads in order. `windows=None`: everything sees everything. `implementation` is "auto" or a name
    in `IMPLEMENTATIONS`.
    """
    if not (q_BxQxHxD.shape[1] and k_BxKxGxD.shape[1]):
        return jnp.zeros_like(q_BxQxHxD)
    if windows is not None and windows.everything:
        windows = None
    name = implementation
    if name == "auto":
        name = best(q_BxQxHxD.shape, k_BxKxGxD.shape[1], q_BxQxHxD.dtype)
    out = IMPLEMENTATIONS[name](q_BxQxHxD, k_BxKxGxD, v_BxKxGxD, windows, key_mask_BxK)
    return _nothing_seen_gives_zero(out, windows, key_mask_BxK)


#: Every way to compute it. `splash_interpreted` is for tests without a TPU, `blocks_unlooped` for counting operations.
IMPLEMENTATIONS: dict[str, Callable[..., Array]] = {
    "plain": plain,
    "blocks": blocks,
    "blocks_unlooped": functools.partial(blocks, loops=False),
    "cudnn": cudnn,
    "splash": splash,
    "splash_interpreted": functools.partial(splash, interpret=True),
}


def best(q_BxQxHxD: tuple[int, ...], n_keys: int, dtype: np.dtype) -> str:
    """The implementation for the default device: plain where scores are small, then what the device has a kernel for."""
    b, n_queries, heads, d_head = q_BxQxHxD
    if n_keys <= FEW_KEYS or 4 * b * heads * n_queries * n_keys <= FEW_BYTES:
        return "plain"
    kernel = {"gpu": "cudnn" if cudnn_takes(dtype, d_head) else "blocks", "tpu": "splash"}.get(platform(), "blocks")
    return kernel if kernels_run() else "blocks"


def _nothing_seen_gives_zero(
    out: Float[Array, "B Q H D"], windows: Windows | None, key_mask: Bool[Array, "B K"] | None
) -> Float[Array, "B Q H D"]:
    if key_mask is None:
        if windows is None or windows.somebody:
            return out
        sees_BxQ = jnp.asarray(np.any(windows.pairs, axis=1)[windows.query_group])[None]
    elif windows is None:
        sees_BxQ = jnp.any(key_mask, axis=1)[:, None]
    else:
        pairs = jnp.asarray(windows.pairs.T.astype(np.float32))
        sees_BxQ = (jnp.dot(key_mask.astype(jnp.float32), pairs) > 0)[:, windows.query_group]
    return jnp.where(sees_BxQ[:, :, None, None], out, jnp.zeros((), out.dtype))
