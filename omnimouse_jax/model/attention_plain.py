"""Attention as it is written down: all scores at once. What the fast paths are compared with, and enough for few keys."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from omnimouse_jax.model.visibility import Windows

HIDDEN = -1e30  # added to a score that must not count: exp of it is exactly 0 beside any real score


def plain(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
) -> Float[Array, "B Q H D"]:
    """Hidden scores are pushed to -1e30. Softmax in float32, its division after the sum over keys.

    Where a query sees nothing the output means nothing: `attend` makes it zero.
    """
    b, n_queries, heads, d = q_BxQxHxD.shape
    n_keys, groups = k_BxKxGxD.shape[1:3]
    rest = heads // groups  # query heads of one key head
    q_BxGxRQxD = q_BxQxHxD.swapaxes(1, 2).reshape(b, groups, rest * n_queries, d) * d**-0.5
    k_BxGxKxD, v_BxGxKxD = k_BxKxGxD.swapaxes(1, 2), v_BxKxGxD.swapaxes(1, 2)
    scores = jnp.einsum("bgqd,bgkd->bgqk", q_BxGxRQxD, k_BxGxKxD, preferred_element_type=jnp.float32)
    scores_BxHxQxK = scores.reshape(b, heads, n_queries, n_keys)
    # Masks are added, not selected: an addition leaves nothing of size (Q, K) behind for the backward pass.
    if windows is not None:
        scores_BxHxQxK = scores_BxHxQxK + hidden_pairs(windows.pairs, windows.query_group)[None, None]
    if key_mask_BxK is not None:
        scores_BxHxQxK = scores_BxHxQxK + hidden_keys(key_mask_BxK)[:, None, None]
    top = jax.lax.stop_gradient(jnp.max(scores_BxHxQxK, axis=-1, keepdims=True))
    weights_BxHxQxK = jnp.exp(scores_BxHxQxK - top)
    total_BxHxQ = jnp.sum(weights_BxHxQxK, axis=-1)
    weights = weights_BxHxQxK.astype(v_BxGxKxD.dtype).reshape(b, groups, rest * n_queries, n_keys)
    out = jnp.einsum("bgqk,bgkd->bgqd", weights, v_BxGxKxD, preferred_element_type=jnp.float32)
    out_BxHxQxD = out.reshape(b, heads, n_queries, d) / total_BxHxQ[..., None]
    return out_BxHxQxD.swapaxes(1, 2).astype(q_BxQxHxD.dtype)


def hidden_pairs(pairs: Bool[np.ndarray, "groups K"], group_of_query: np.ndarray) -> Float[Array, "Q K"]:
    """What to add to scores so that only visible pairs count."""
    # The barrier keeps the compiler from expanding (Q, K) while it folds constants.
    group_Q = jax.lax.optimization_barrier(jnp.asarray(group_of_query))
    return jnp.asarray(np.where(pairs, 0.0, HIDDEN).astype(np.float32))[group_Q]


def hidden_keys(key_mask_BxK: Bool[Array, "B K"]) -> Float[Array, "B K"]:
    """What to add to scores so that only keys that are there count."""
    return jnp.where(key_mask_BxK, 0.0, HIDDEN).astype(jnp.float32)
