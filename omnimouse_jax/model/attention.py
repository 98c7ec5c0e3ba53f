"""Dot-product attention under the window rule. The one place where an implementation is chosen is `attend`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from omnimouse_jax.tokens.layout import visible_pairs

HIDDEN = -1e30  # added to a score that must not count: exp of it is exactly 0 beside any real score


class Windows:
    """Which queries may see which keys, known before tracing. Tokens of equal interval are one group."""

    def __init__(self, queries: Int[np.ndarray, "Q 2"], keys: Int[np.ndarray, "K 2"], touching: str = "out"):
        query_groups, self.query_group = np.unique(queries, axis=0, return_inverse=True)
        key_groups, key_group = np.unique(keys, axis=0, return_inverse=True)
        self.pairs = visible_pairs(query_groups, key_groups, touching)[:, key_group]  # (query groups, K)

    @property
    def everything(self) -> bool:
        """Every query sees every key."""
        return bool(self.pairs.all())

    @property
    def somebody(self) -> bool:
        """Every query sees some key."""
        return bool(self.pairs.any(axis=1).all())

    def mask(self) -> Bool[np.ndarray, "Q K"]:
        """Query by query: for tests and check data."""
        return self.pairs[self.query_group]


def attend(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
) -> Float[Array, "B Q H D"]:
    """softmax(q k / sqrt(D)) v over the keys that `windows` and `key_mask` let a query see; zero where there is none.

    H query heads share G key heads in order. `windows=None`: everything sees everything.
    """
    if windows is not None and windows.everything:
        windows = None
    return plain(q_BxQxHxD, k_BxKxGxD, v_BxKxGxD, windows, key_mask_BxK)


def plain(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
) -> Float[Array, "B Q H D"]:
    """All scores at once, hidden ones pushed to -1e30. Softmax in float32."""
    b, n_queries, heads, d = q_BxQxHxD.shape
    groups = k_BxKxGxD.shape[2]
    q_BxQxGxRxD = q_BxQxHxD.reshape(b, n_queries, groups, heads // groups, d)
    scores_BxGxRxQxK = jnp.einsum(
        "bqgrd,bkgd->bgrqk", q_BxQxGxRxD * d**-0.5, k_BxKxGxD, preferred_element_type=jnp.float32
    )
    # Masks are added, not selected: an addition leaves nothing of size (Q, K) behind for the backward pass.
    if windows is not None:
        # The barrier keeps the compiler from expanding (Q, K) while it folds constants.
        group_Q = jax.lax.optimization_barrier(jnp.asarray(windows.query_group))
        hidden_QxK = jnp.asarray(np.where(windows.pairs, 0.0, HIDDEN).astype(np.float32))[group_Q]
        scores_BxGxRxQxK = scores_BxGxRxQxK + hidden_QxK[None, None, None]
    if key_mask_BxK is not None:
        hidden_BxK = jnp.where(key_mask_BxK, 0.0, HIDDEN).astype(jnp.float32)
        scores_BxGxRxQxK = scores_BxGxRxQxK + hidden_BxK[:, None, None, None]
    top = jax.lax.stop_gradient(jnp.max(scores_BxGxRxQxK, axis=-1, keepdims=True))
    weights_BxGxRxQxK = jnp.exp(scores_BxGxRxQxK - top)
    total_BxGxRxQ = jnp.sum(weights_BxGxRxQxK, axis=-1)
    out_BxQxGxRxD = jnp.einsum(
        "bgrqk,bkgd->bqgrd", weights_BxGxRxQxK.astype(v_BxKxGxD.dtype), v_BxKxGxD, preferred_element_type=jnp.float32
    )
    out_BxQxGxRxD = out_BxQxGxRxD / jnp.moveaxis(total_BxGxRxQ, 3, 1)[..., None]
    out_BxQxHxD = out_BxQxGxRxD.reshape(b, n_queries, heads, d).astype(q_BxQxHxD.dtype)
    return _nothing_seen_gives_zero(out_BxQxHxD, windows, key_mask_BxK)


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
