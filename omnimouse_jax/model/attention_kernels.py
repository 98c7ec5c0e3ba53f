"""Attention by the kernels that libraries have for an accelerator: cuDNN on GPU, splash attention on TPU.

Both compute what `attention_plain.plain` does. cuDNN gets one call per block of the windows; splash attention takes the windows
whole and skips what they hide. Shapes are padded to what the kernels take. They have not been run on their hardware: tests lower
the one for CUDA, and run the other in Pallas' interpreter.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from omnimouse_jax.model.attention_blocks import stretches
from omnimouse_jax.model.target import BATCH_AXES
from omnimouse_jax.model.visibility import Block, Windows

#: cuDNN takes heads of multiples of 8 up to 128 (256 on Hopper), and even lengths where there is a mask.
CUDNN_DTYPES = (jnp.bfloat16, jnp.float16)
CUDNN_MULTIPLE = 8
SPLASH_MULTIPLE = 128  # lengths that splash attention's tiles divide
SPLASH_TILES = (512, 384, 256, 128)


def cudnn_takes(dtype: np.dtype, d_head: int) -> bool:
    return dtype in CUDNN_DTYPES and d_head % 8 == 0 and d_head <= 128


def cudnn(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
) -> Float[Array, "B Q H D"]:
    """cuDNN's fused attention, block by block. A block's mask is a bias of (B, 1, Q, K) of that block, never of all."""
    n_queries, n_keys = q_BxQxHxD.shape[1], k_BxKxGxD.shape[1]
    plan = (Block.whole(n_queries, n_keys),) if windows is None else windows.blocks
    outs = []
    for block in plan:
        q = q_BxQxHxD[:, block.first : block.last]
        if not block.keys:
            outs.append(jnp.zeros_like(q))
            continue
        k, v = (stretches(x, block, 1) for x in (k_BxKxGxD, v_BxKxGxD))
        there = None if key_mask_BxK is None else stretches(key_mask_BxK, block, 1)
        mask = _block_mask(block, there)
        if mask is None:
            outs.append(jax.nn.dot_product_attention(q, k, v, implementation="cudnn"))
            continue
        q, k, v = (_filled(x, CUDNN_MULTIPLE) for x in (q, k, v))
        mask = _filled(_filled(mask, CUDNN_MULTIPLE, 2), CUDNN_MULTIPLE, 3)
        out = jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
        outs.append(out[:, : block.n_queries])
    return jnp.concatenate(outs, axis=1)


def _block_mask(block: Block, there_BxK: Array | None) -> Array | None:
    """(B or 1, 1, Q, K): which pairs of a block count; None: all."""
    mask = None
    if block.pairs is not None:
        run = jax.lax.optimization_barrier(jnp.asarray(block.run_of_query))
        mask = jnp.asarray(block.pairs)[run][None, None]
    if there_BxK is not None:
        keys = jnp.broadcast_to(there_BxK[:, None, None], (there_BxK.shape[0], 1, block.n_queries, block.n_keys))
        mask = keys if mask is None else keys & jnp.broadcast_to(mask, keys.shape)
    return mask


def splash(
    q_BxQxHxD: Float[Array, "B Q H D"],
    k_BxKxGxD: Float[Array, "B K G D"],
    v_BxKxGxD: Float[Array, "B K G D"],
    windows: Windows | None = None,
    key_mask_BxK: Bool[Array, "B K"] | None = None,
    interpret: bool = False,
) -> Float[Array, "B Q H D"]:
    """Splash attention; keys that are not there are another segment. Under a mesh, rows and heads stay where they are."""
    b, n_queries, _, d = q_BxQxHxD.shape
    n_keys = k_BxKxGxD.shape[1]
    there = jnp.ones((b, n_keys), bool) if key_mask_BxK is None else key_mask_BxK
    q_BxHxQxD = _filled(q_BxQxHxD * d**-0.5, SPLASH_MULTIPLE).swapaxes(1, 2)
    k_BxGxKxD, v_BxGxKxD = (_filled(x, SPLASH_MULTIPLE).swapaxes(1, 2) for x in (k_BxKxGxD, v_BxKxGxD))
    run = functools.partial(_splash_rows, windows=windows, interpret=interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        rows = BATCH_AXES if b % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
        tensor = "tensor" if k_BxGxKxD.shape[1] % mesh.shape["tensor"] == 0 else None
        heads = P(rows, tensor)
        run = jax.shard_map(run, mesh=mesh, in_specs=(heads, heads, heads, P(rows)), out_specs=heads, check_vma=False)
    out = run(q_BxHxQxD, k_BxGxKxD, v_BxGxKxD, _filled(there, SPLASH_MULTIPLE))
    return out.swapaxes(1, 2)[:, :n_queries]


def _splash_rows(q: Array, k: Array, v: Array, there: Array, *, windows: Windows | None, interpret: bool) -> Array:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, length, n_keys = q.shape[1], q.shape[2], k.shape[2]
    seen = masks.FullMask((length, n_keys)) if windows is None else masks.NumpyMask(_visible(windows, length, n_keys))
    tile_q, tile_k = _tile(length), _tile(n_keys)
    sizes = kernel.BlockSizes(
        block_q=tile_q,
        block_kv=tile_k,
        block_q_dkv=tile_q,
        block_kv_dkv=tile_k,
        block_q_dq=tile_q,
        block_kv_dq=tile_k,
    )
    attention = kernel.make_splash_mha(
        masks.MultiHeadMask([seen] * heads), block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret
    )
    segments = jax.vmap(lambda row: kernel.SegmentIds(jnp.ones(length, jnp.int32), row.astype(jnp.int32)))(there)
    return jax.vmap(attention)(q, k, v, segments)


def _visible(windows: Windows, length: int, n_keys: int) -> Bool[np.ndarray, "length n_keys"]:
    """The window rule on padded shapes. A query that sees nothing gets the first key: its result is thrown away."""
    mask = np.zeros((length, n_keys), bool)
    seen = windows.mask()
    mask[: seen.shape[0], : seen.shape[1]] = seen
    mask[~mask.any(axis=1), 0] = True
    return mask


def _tile(length: int) -> int:
    return next(tile for tile in SPLASH_TILES if length % tile == 0)


def _filled(x: Array, multiple: int, axis: int = 1) -> Array:
    """Zeros (or False) at the end of an axis up to a multiple."""
    spare = -x.shape[axis] % multiple
    return jnp.pad(x, [(0, spare if i == axis else 0) for i in range(x.ndim)]) if spare else x
