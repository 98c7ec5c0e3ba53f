"""Every implementation of attention against the plain one: values, gradients, padding, empty rows, shared key heads, windows."""

from __future__ import annotations

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from omnimouse_jax.model import attention, attention_blocks
from omnimouse_jax.model.attention import attend
from omnimouse_jax.model.visibility import Windows
from omnimouse_jax.training.parallel import make_mesh

quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def spans(*triples):
    """(start, end, how many) -> intervals."""
    return np.concatenate([np.tile([[a, b]], (n, 1)) for a, b, n in triples]).astype(np.int64)


#: Windows of many shapes: tokens in runs, neighbours that touch, runs too short for a block of their own, global ones, queries
#: that see nothing, the same interval coming back later, one odd token at the end.
CASES = {
    "tower": (spans((0, 10, 300), (10, 20, 300), (0, 40, 30), *[(4 * i, 4 * i + 8, 40) for i in range(8)]),) * 2,
    "cross": (
        spans((30, 40, 290), (35, 45, 290), (100, 110, 260), (0, 60, 5)),
        spans((0, 10, 33), (25, 35, 70), (30, 40, 70), (0, 60, 4), (25, 35, 41)),
    ),
    "everything": (spans((0, 10, 400)), spans((0, 10, 300))),
    "nothing": (spans((0, 10, 300)), spans((10, 20, 300))),
}


def data(case, heads=4, groups=4, d=8, b=2, dtype=jnp.float32):
    queries, keys = CASES[case]
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.standard_normal((b, len(queries), heads, d)), dtype)
    k, v = (jnp.asarray(rng.standard_normal((b, len(keys), groups, d)), dtype) for _ in range(2))
    mask = rng.random((b, len(keys))) < 0.7
    mask[1] = False
    return Windows(queries, keys), q, k, v, jnp.asarray(mask)


def value_and_gradients(name, windows, q, k, v, mask):
    def loss(q, k, v):
        out = attend(q, k, v, windows, mask, name)
        return jnp.sum(jnp.sin(out.astype(jnp.float32) * 3)), out

    gradients, out = quick_jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("case", CASES)
def test_blocks_are_the_plain_path(case, groups, masked, monkeypatch):
    monkeypatch.setattr(attention_blocks, "TILE_BYTES", 2**16)  # few rows of queries at a time, and a rest
    monkeypatch.setattr(attention_blocks, "FEWEST_ROWS", 1)
    windows, q, k, v, mask = data(case, groups=groups)
    both = [value_and_gradients(name, windows, q, k, v, mask if masked else None) for name in ("plain", "blocks")]
    for plain, blocks in zip(*both, strict=True):
        assert np.isfinite(blocks).all()
        assert np.abs(blocks - plain).max() <= 5e-6 * max(1e-3, np.abs(plain).max())
    if masked:
        assert all((x[1] == 0).all() for x in both[1]), "a row without keys gives exactly nothing, backwards too"
        for gradient in both[1][2:]:
            assert (gradient[0][~np.asarray(mask)[0]] == 0).all()


def test_a_hidden_window_beside_a_part_that_reaches_into_it(monkeypatch):
    """Rows whose every key is hidden must not disturb the part of the block before that looks over its end."""
    monkeypatch.setattr(attention_blocks, "TILE_BYTES", 2**18)
    monkeypatch.setattr(attention_blocks, "FEWEST_ROWS", 1)
    tokens = spans((0, 10, 301), (20, 30, 301))
    windows = Windows(tokens, tokens)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.standard_normal((2, 602, 2, 8)), jnp.float32) for _ in range(3))
    k = k.at[:, 301:].multiply(60.0)  # and large scores
    mask = jnp.asarray(np.stack([np.arange(602) < 301, np.ones(602, bool)]))
    both = [value_and_gradients(name, windows, q, k, v, mask) for name in ("plain", "blocks")]
    for plain, blocks in zip(*both, strict=True):
        assert np.isfinite(blocks).all()
        assert np.abs(blocks - plain).max() <= 1e-4 * np.abs(plain).max()


def test_blocks_hold_exactly_the_visible_keys():
    for queries, keys in CASES.values():
        windows = Windows(queries, keys)
        mask = np.zeros((len(queries), len(keys)), bool)
        for block in windows.blocks:
            seen = np.concatenate([np.arange(*stretch) for stretch in block.keys]) if block.keys else np.arange(0)
            pairs = np.ones((len(block.runs), len(seen)), bool) if block.pairs is None else block.pairs
            mask[block.first : block.last, seen] = np.repeat(pairs, block.runs, axis=0)
        np.testing.assert_array_equal(mask, windows.mask())
        assert windows.n_pairs == mask.sum()
        assert [b.first for b in windows.blocks] == [0, *[b.last for b in windows.blocks][:-1]]
        assert windows.blocks[-1].last == len(queries)


def test_no_score_matrix_is_ever_made():
    windows, q, k, v, mask = data("tower", heads=2, groups=2)
    n = q.shape[1] * k.shape[1]

    def largest(name):
        loss = lambda q, k, v: jnp.sum(attend(q, k, v, windows, mask, name))  # noqa: E731
        sizes = []

        def visit(jaxpr):
            for equation in jaxpr.eqns:
                sizes.extend(x.aval.size for x in equation.outvars if hasattr(x.aval, "size"))
                for inner in jax.extend.core.jaxprs_in_params(equation.params):
                    visit(inner)

        visit(jax.make_jaxpr(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v).jaxpr)
        return max(sizes)

    assert largest("plain") >= 2 * 2 * n
    assert largest("blocks") < 2 * n


def test_half_precision_stays_close_and_sums_in_float32():
    windows, *arrays, mask = data("tower", d=16)
    exact = value_and_gradients("plain", windows, *arrays, mask)
    for name in ("plain", "blocks"):
        half = value_and_gradients(name, windows, *(x.astype(jnp.bfloat16) for x in arrays), mask)
        for ours, theirs in zip(half, exact, strict=True):
            assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)


@pytest.mark.parametrize("case", ["tower", "cross"])
@pytest.mark.parametrize("groups", [2, 1])
def test_splash_attention_in_the_interpreter(case, groups):
    windows, q, k, v, mask = data(case, heads=2, groups=groups, d=64)
    plain, splash = (value_and_gradients(name, windows, q, k, v, mask) for name in ("plain", "splash_interpreted"))
    for ours, theirs in zip(splash, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_splash_attention_keeps_rows_and_heads_where_they_are():
    windows, q, k, v, mask = data("cross", heads=2, groups=2, d=64, b=4)
    mesh = make_mesh(2, 2)
    expected = attend(q, k, v, windows, mask, "plain")
    with jax.set_mesh(mesh):
        put = [jax.device_put(x, NamedSharding(mesh, P("data"))) for x in (q, k, v, mask)]
        out = jax.jit(lambda q, k, v, mask: attend(q, k, v, windows, mask, "splash_interpreted"))(*put)
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_cudnn_is_what_a_gpu_would_be_given(monkeypatch):
    """Without a GPU: the program is lowered for CUDA and must call cuDNN's fused attention, once a block and never on all."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda capability: False)
    windows, q, k, v, mask = data("tower", d=64, dtype=jnp.bfloat16)
    step = jax.jit(jax.grad(lambda q, k, v: jnp.sum(attend(q, k, v, windows, mask, "cudnn").astype(jnp.float32))))
    text = step.trace(q, k, v).lower(lowering_platforms=("cuda",)).as_text()
    called = [line for line in text.splitlines() if "__cudnn$fmha" in line]
    assert len([line for line in called if "Backward" in line]) == len(windows.blocks) > 1
    assert f"x{q.shape[1]}x{k.shape[1]}x" not in text


@pytest.mark.parametrize(
    ("platform", "dtype", "expected"),
    [
        ("cpu", "float32", "blocks"),
        ("gpu", "float32", "blocks"),
        ("gpu", "bfloat16", "cudnn"),
        ("tpu", "bfloat16", "splash"),
    ],
)
def test_the_choice_by_device(platform, dtype, expected, monkeypatch):
    monkeypatch.setattr(attention, "platform", lambda: platform)
    assert attention.best((1, 4096, 4, 64), 4096, jnp.dtype(dtype)) == expected
    assert attention.best((64, 64, 4, 64), 64, jnp.dtype(dtype)) == "plain"
