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
    """All scores at once, hidden ones pushed to -1e30. Softmax in float32, its division after the sum over keys."""
    b, n_queries, heads, d = q_BxQxHxD.shape
    n_keys, groups = k_BxKxGxD.shape[1:3]
    rest = heads // groups  # query heads of one key head
    q_BxGxRQxD = q_BxQxHxD.swapaxes(1, 2).reshape(b, groups, rest * n_queries, d) * d**-0.5
    k_BxGxKxD, v_BxGxKxD = k_BxKxGxD.swapaxes(1, 2), v_BxKxGxD.swapaxes(1, 2)
    scores = jnp.einsum("bgqd,bgkd->bgqk", q_BxGxRQxD, k_BxGxKxD, preferred_element_type=jnp.float32)
    scores_BxHxQxK = scores.reshape(b, heads, n_queries, n_keys)
    # Masks are added, not selected: an addition leaves nothing of size (Q, K) behind for the backward pass.
    if windows is not None:
        # The barrier keeps the compiler from expanding (Q, K) while it folds constants.
        group_Q = jax.lax.optimization_barrier(jnp.asarray(windows.query_group))
        hidden_QxK = jnp.asarray(np.where(windows.pairs, 0.0, HIDDEN).astype(np.float32))[group_Q]
        scores_BxHxQxK = scores_BxHxQxK + hidden_QxK[None, None]
    if key_mask_BxK is not None:
        hidden_BxK = jnp.where(key_mask_BxK, 0.0, HIDDEN).astype(jnp.float32)
        scores_BxHxQxK = scores_BxHxQxK + hidden_BxK[:, None, None]
    top = jax.lax.stop_gradient(jnp.max(scores_BxHxQxK, axis=-1, keepdims=True))
    weights_BxHxQxK = jnp.exp(scores_BxHxQxK - top)
    total_BxHxQ = jnp.sum(weights_BxHxQxK, axis=-1)
    weights = weights_BxHxQxK.astype(v_BxGxKxD.dtype).reshape(b, groups, rest * n_queries, n_keys)
    out = jnp.einsum("bgqk,bgkd->bgqd", weights, v_BxGxKxD, preferred_element_type=jnp.float32)
    out_BxHxQxD = out.reshape(b, heads, n_queries, d) / total_BxHxQ[..., None]
    return _nothing_seen_gives_zero(out_BxHxQxD.swapaxes(1, 2).astype(q_BxQxHxD.dtype), windows, key_mask_BxK)


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
