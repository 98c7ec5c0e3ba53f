"""The two optimiser groups do what they say, row by row; nothing else of a table moves."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from omnimouse_jax.tokens.touched import Touched
from omnimouse_jax.training import optim, tables
from omnimouse_jax.training.parallel import make_mesh, shardings


def small_params():
    rng = np.random.default_rng(0)
    shapes = {"neuron_embedding": (6, 3), "neuron_bias": (6,), "session_embedding": (2, 3), "animal_embedding": (2, 3)}
    tables = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
    return {"core": {"w": jnp.asarray(rng.standard_normal((4, 4)), jnp.float32)}, "tables": tables}


#: Rows 0 to 2 are one session's, 3 and 4 another's, 5 is padding.
SESSION_ROWS = ([0, 1, 2], [3, 4])


def of_sessions(*sessions: int) -> Touched:
    """What a step over these sessions touches, padded to six neurons and two sessions."""
    neurons = [row for session in sessions for row in SESSION_ROWS[session]]
    owners = [i for i, session in enumerate(sessions) for _ in SESSION_ROWS[session]]
    fill = [2] * (2 - len(sessions))
    pad = 6 - len(neurons)
    return Touched(
        jnp.asarray(neurons + [6] * pad),
        jnp.asarray(owners + [6] * pad),
        jnp.asarray([*sessions, *fill]),
        jnp.asarray([*sessions, *fill]),
    )


def gathered(tree, touched: Touched):
    """Gradients of whole tables -> those of the touched rows."""
    of_tables = {name: tables.read(name, table, touched) for name, table in tree["tables"].items()}
    return {**tree, "tables": of_tables}


def step(grads, state, params, number: int, touched: Touched, settings):
    ok = jnp.bool_(True)
    return optim.update(gathered(grads, touched), state, params, jnp.int32(number), touched, ok, settings)


def test_both_groups_are_optax_adamw_when_all_sessions_are_there():
    settings = optim.AdamW(warmup_steps=0, clip_norm=0.5)
    params = ours = small_params()
    shared, session = optim.split(params)
    peers = [
        (
            optax.chain(
                optax.clip_by_global_norm(0.5),
                optax.adamw(g.learning_rate, 0.9, 0.98, 1e-6, weight_decay=g.weight_decay),
            ),
            p,
        )
        for g, p in ((settings.shared, shared), (settings.session, session))
    ]
    states = [tx.init(p) for tx, p in peers]
    values = [p for _, p in peers]
    state = optim.init(params)
    for number in range(5):
        grads = jax.tree.map(lambda p, s=number: jnp.sin(p * (s + 1.0)), ours)
        grads["tables"] = {k: g.at[5:].set(0.0) if k.startswith("neuron") else g for k, g in grads["tables"].items()}
        for i, ((tx, _), part) in enumerate(zip(peers, optim.split(grads), strict=True)):
            with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
                updates, states[i] = tx.update(part, states[i], values[i])
            values[i] = optax.apply_updates(values[i], updates)
        ours, state, _ = step(grads, state, ours, number, of_sessions(0, 1), settings)
        for mine, theirs in zip(optim.split(ours), values, strict=True):
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_allclose(np.asarray(a)[:5], np.asarray(b)[:5], rtol=2e-5, atol=1e-6)


def test_an_absent_session_is_not_touched():
    settings = optim.AdamW(warmup_steps=0)
    params = small_params()
    state = optim.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    new, state, _ = step(grads, state, params, 0, of_sessions(0), settings)
    for name in optim.SESSION_TABLES:
        before, after = np.asarray(params["tables"][name]), np.asarray(new["tables"][name])
        mean = np.asarray(state.mean["tables"][name])
        absent = [1] if name == "session_embedding" else [3, 4, 5]
        present = [0] if name == "session_embedding" else [0, 1, 2]
        np.testing.assert_array_equal(after[absent], before[absent])
        np.testing.assert_array_equal(mean[absent], 0)
        assert np.all(after[present] != before[present])
    assert {name: steps.tolist() for name, steps in state.steps["tables"].items()} == {
        "neuron_embedding": [1, 1, 1, 0, 0, 0],
        "neuron_bias": [1, 1, 1, 0, 0, 0],
        "session_embedding": [1, 0],
        "animal_embedding": [1, 0],
    }
    assert all(int(steps) == 1 for steps in jax.tree.leaves(state.steps["core"]))


def test_a_session_s_table_that_a_step_does_not_use_is_not_touched():
    settings, params = optim.AdamW(warmup_steps=0), small_params()
    grads = jax.tree.map(jnp.ones_like, params)
    grads["tables"]["neuron_bias"] = jnp.zeros(6)
    grads["tables"]["neuron_embedding"] = grads["tables"]["neuron_embedding"].at[:2].set(0.0)
    new, state, _ = step(grads, optim.init(params), params, 0, of_sessions(0, 1), settings)
    np.testing.assert_array_equal(new["tables"]["neuron_bias"], params["tables"]["neuron_bias"])
    assert state.steps["tables"]["neuron_bias"].tolist() == [0] * 6
    moved = np.asarray(new["tables"]["neuron_embedding"] != params["tables"]["neuron_embedding"]).any(axis=1)
    assert moved.tolist() == [True] * 5 + [False]  # one neuron's gradient moves all of its session's, as there


def test_a_shared_parameter_that_a_step_does_not_use_is_not_touched():
    settings = optim.AdamW(warmup_steps=0)
    params = small_params()
    state = optim.init(params)
    grads = jax.tree.map(jnp.ones_like, params)
    first = next(iter(grads["core"]))
    grads["core"][first] = jax.tree.map(jnp.zeros_like, grads["core"][first])
    grads["tables"]["animal_embedding"] = grads["tables"]["animal_embedding"].at[0].set(0.0)
    new, state, _ = step(grads, state, params, 0, of_sessions(0, 1), settings)
    for a, b in zip(jax.tree.leaves(new["core"][first]), jax.tree.leaves(params["core"][first]), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = np.any(np.asarray(new["tables"]["animal_embedding"] != params["tables"]["animal_embedding"]), axis=1)
    assert not moved[0]
    assert moved[1:].all()
    assert state.steps["tables"]["animal_embedding"].tolist() == [0] + [1] * (len(moved) - 1)
    assert {int(steps) for steps in jax.tree.leaves(state.steps["core"][first])} == {0}


def test_the_schedule_warms_up_stays_and_anneals_to_zero():
    settings = optim.AdamW(warmup_steps=10, total_steps=100, anneal_steps=20)
    rate = [float(optim.schedule(jnp.int32(step), 1.0, settings)) for step in range(101)]
    assert rate[0] == pytest.approx(1e-7)
    assert rate[5] == pytest.approx(0.5, rel=1e-5)
    assert rate[10:81] == [1.0] * 71
    assert rate[85] == pytest.approx(0.5)
    assert rate[100] == 0


def test_tables_are_split_by_rows_over_the_whole_mesh_and_odd_sides_stay_whole():
    mesh = make_mesh(2, 2, 2)
    shapes = {
        "core": {"tower": {"attention": {"qkv": {"kernel": jnp.zeros((4, 6))}, "out": {"kernel": jnp.zeros((3, 4))}}}},
        "tables": {"neuron_embedding": jnp.zeros((16, 3)), "session_embedding": jnp.zeros((4, 3))},
    }
    placed = shardings(shapes, mesh)
    assert placed["tables"]["neuron_embedding"].spec == P(("data", "fsdp", "tensor"))
    assert placed["tables"]["session_embedding"].is_fully_replicated
    assert placed["core"]["tower"]["attention"]["qkv"]["kernel"].spec == P("fsdp", "tensor")
    assert placed["core"]["tower"]["attention"]["out"]["kernel"].spec == P(None, "fsdp"), "3 rows do not divide by 2"


def test_a_step_that_is_not_finite_changes_nothing():
    settings, params = optim.AdamW(warmup_steps=0), small_params()
    state, touched = optim.init(params), of_sessions(0, 1)
    grads = gathered(jax.tree.map(jnp.ones_like, params), touched)
    broken = {**grads, "core": {"w": grads["core"]["w"].at[1, 2].set(jnp.nan)}}
    for made, ok in ((broken, True), (grads, False)):
        new, after, told = optim.update(made, state, params, jnp.int32(0), touched, jnp.bool_(ok), settings)
        assert not bool(told["finite"])
        for a, b in zip(jax.tree.leaves((new, after)), jax.tree.leaves((params, state)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_rows_of_their_own_move_alone():
    """With an owner each ("seen"), a neuron without a gradient stays, though its session is there."""
    settings, params = optim.AdamW(warmup_steps=0), small_params()
    touched = Touched(jnp.asarray([0, 2, 4, 6]), jnp.asarray([0, 1, 2, 4]), jnp.asarray([0, 1]), jnp.asarray([0, 1]))
    grads = jax.tree.map(jnp.ones_like, params)
    grads["tables"]["neuron_embedding"] = grads["tables"]["neuron_embedding"].at[2].set(0.0)
    new, state, _ = step(grads, optim.init(params), params, 0, touched, settings)
    moved = np.asarray(new["tables"]["neuron_embedding"] != params["tables"]["neuron_embedding"]).any(axis=1)
    assert moved.tolist() == [True, False, False, False, True, False]
    assert state.steps["tables"]["neuron_embedding"].tolist() == [1, 0, 0, 0, 1, 0]
    assert state.steps["tables"]["neuron_bias"].tolist() == [1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_rows_are_read_and_written_where_they_are(axes):
    mesh, rng = make_mesh(*axes), np.random.default_rng(1)
    params = small_params()
    params["tables"]["neuron_embedding"] = jnp.asarray(rng.standard_normal((64, 3)), jnp.float32)
    params["tables"]["neuron_bias"] = jnp.asarray(rng.standard_normal(64), jnp.float32)
    neurons = np.sort(rng.permutation(64)[:20])
    rows = np.concatenate([neurons, [64] * 4])
    touched = Touched(jnp.asarray(rows), jnp.asarray([*range(20), *[24] * 4]), jnp.asarray([0, 2]), jnp.asarray([1, 2]))
    grads = gathered(jax.tree.map(jnp.sin, params), touched)
    state, ok, settings = optim.init(params), jnp.bool_(True), optim.AdamW(warmup_steps=0)
    want = optim.update(grads, state, params, jnp.int32(0), touched, ok, settings)
    placed = [jax.device_put(tree, shardings(tree, mesh)) for tree in (state, params)]

    @jax.jit
    def split(grads, state, params):
        return optim.update(grads, state, params, jnp.int32(0), touched, ok, settings, mesh)

    got = split(grads, *placed)
    for a, b in zip(jax.tree.leaves(got[:2]), jax.tree.leaves(want[:2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(
        jax.jit(lambda t: tables.read("neuron_embedding", t, touched, mesh))(placed[1]["tables"]["neuron_embedding"]),
        np.concatenate([np.asarray(params["tables"]["neuron_embedding"])[neurons], np.zeros((4, 3))]),
    )
