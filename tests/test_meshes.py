"""How a step is spread over devices and micro-batches changes no number; what travels does not grow with the tables."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.tables import collectives_in
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.step import init_state
from omnimouse_jax.training.stepper import Stepper
from omnimouse_jax.training.train import train, training_batches
from tests.micro import micro

#: Every kind of layer, stochastic depth on, and three regimes: twenty steps of all that a run has.
TWENTY = {
    "train__steps": 20,
    "train__checkpoint_every": 20,
    "train__validation_windows": 0,
    "regimes": ("stimulus", "behavior", "forecast"),
    "model__drop_path": 0.3,
    "model__hiera_stages": (2,),
}


def losses(workdir) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def one_device(colony, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("one")
    train(micro(colony, **TWENTY), workdir)
    return losses(workdir)


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 4, 1), (2, 2, 2)])
def test_the_mesh_changes_no_number(colony, one_device, tmp_path, axes):
    data, fsdp, tensor = axes
    train(micro(colony, **TWENTY, mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor), tmp_path)
    assert len(one_device) == 20
    assert losses(tmp_path) == pytest.approx(one_device, rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"train__accumulate": 4},
        {"train__accumulate": 2, "mesh__data": 2, "mesh__fsdp": 2, "mesh__tensor": 2},
    ],
)
def test_micro_batches_add_up_to_the_batch(colony, one_device, tmp_path, changes):
    train(micro(colony, **TWENTY, **changes), tmp_path)
    assert losses(tmp_path) == pytest.approx(one_device, rel=1e-5)


def test_a_mesh_that_does_not_divide_the_tables_keeps_them_whole(colony, tmp_path):
    few = {"train__steps": 2, "optimizer__warmup_steps": 1, "data__batch_size": 6, "evaluation__batch_size": 6}
    found = []
    for data in (1, 3):
        train(micro(colony, **TWENTY | few, mesh__data=data), tmp_path / str(data))
        found.append(losses(tmp_path / str(data)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_micro_batches_may_have_regimes_of_their_own(colony, tmp_path):
    config = micro(colony, **TWENTY, train__accumulate=4, train__regime_per="micro")
    batches = training_batches(prepare(config))
    drawn = [[batches.regime(step, micro).name for micro in range(4)] for step in range(20)]
    assert drawn == [[training_batches(prepare(config)).regime(s, m).name for m in range(4)] for s in range(20)]
    assert max(len(set(names)) for names in drawn) == 3
    train(config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["regime"] for row in rows] == [", ".join(dict.fromkeys(names)) for names in drawn]
    assert rows[-1]["loss"] < rows[0]["loss"]


def test_the_gradient_of_mixed_micro_batches_is_that_of_their_sum(colony):
    """Against dense differentiation of (sum of response losses / their count) + (the same of behaviour)."""
    from omnimouse_jax.training.objective import LossSums, loss_sums
    from omnimouse_jax.training.step import core_of, gather

    config = micro(colony, **TWENTY, train__accumulate=2, train__regime_per="micro")
    config.model.drop_path = 0.0
    parts = prepare(config)
    stepper = Stepper(parts, training_batches(parts))
    number = next(n for n in range(50) if stepper.batches.regime(n, 0) != stepper.batches.regime(n, 1))
    state = init_state(parts.model, parts.capacity, 0, parts.mesh)
    loaded = stepper.batches.load(number, slice(None))
    grads, told = stepper.gradient(state, number, stepper.put(loaded))

    def loss(params):
        sums = []
        for micro_number, batch in enumerate(jax.tree.map(jnp.asarray, loaded.batches)):
            layout = stepper.batches.plan.program(stepper.batches.regime(number, micro_number))
            predicted = core_of(params, parts.model, parts.mesh)(gather(params["tables"], batch), batch, layout)
            sums.append(loss_sums(predicted, batch, layout, parts.model))
        return LossSums(*(a + b for a, b in zip(*sums, strict=True))).means(parts.model)["loss"]

    value, dense = jax.jit(jax.value_and_grad(loss))(state.params)
    assert float(told["loss"]) == pytest.approx(float(value), rel=1e-5)
    for a, b in zip(jax.tree.leaves(grads["core"]), jax.tree.leaves(dense["core"]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-5 * float(np.abs(b).max()))
    rows = np.asarray(loaded.touched.neurons)
    there = rows < parts.capacity.neurons
    whole = np.asarray(dense["tables"]["neuron_embedding"])
    np.testing.assert_allclose(grads["tables"]["neuron_embedding"][there], whole[rows[there]], rtol=1e-3, atol=1e-7)
    assert not np.delete(whole, rows[there], axis=0).any()


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2)])
def test_nothing_of_a_table_s_size_travels_and_traffic_does_not_grow_with_it(colony, axes):
    """The same step with tables of 8,192 and of 65,536 rows: the same collectives, none of them as long as a table."""
    data, fsdp, tensor = axes
    parts = prepare(micro(colony, mesh__data=data, mesh__fsdp=fsdp, mesh__tensor=tensor))
    stepper = Stepper(parts, training_batches(parts))
    seen = {}
    for rows in (8_192, 65_536):
        wide = parts.capacity._replace(neurons=rows)
        grown = Stepper(parts.__class__(**{**vars(parts), "capacity": wide}), stepper.batches)
        state = init_state(parts.model, wide, 0, parts.mesh)
        jobs = list(grown.jobs(state, grown.batches.load(0, slice(None))))
        seen[rows] = [collectives_in(program.executable(*args).as_text()) for program, args in jobs]
    assert seen[8_192] == seen[65_536]
    assert any(seen[8_192])
    of_a_device = 65_536 * parts.model.d_embedding / 8
    assert all(size < of_a_device for program in seen[65_536] for _, size in program)


def test_a_step_touches_its_sessions_and_nothing_else(colony):
    """Rows of absent sessions, their moments and counts keep every bit; rows behind the vocabulary too."""
    config = micro(colony, data__batch_size=2)
    parts = prepare(config)
    stepper = Stepper(parts, training_batches(parts))
    state = before = init_state(parts.model, parts.capacity, 0, parts.mesh)
    before = jax.tree.map(np.array, before)
    loaded = stepper.batches.load(0, slice(None))
    state, _ = stepper(state, 0, loaded)
    vocabulary: Vocabulary = parts.vocabulary
    present = {stepper.batches.order[n].session for n in range(2)}
    rows = np.concatenate([vocabulary.neuron_rows(key) for key in present])
    assert 0 < len(present) < len(vocabulary.sessions)
    for tree_before, tree_after in ((before.params, state.params), (before.opt.mean, state.opt.mean)):
        a, b = tree_before["tables"]["neuron_embedding"], np.asarray(tree_after["tables"]["neuron_embedding"])
        np.testing.assert_array_equal(np.delete(a, rows, axis=0), np.delete(b, rows, axis=0))
    steps = np.asarray(state.opt.steps["tables"]["neuron_embedding"])
    assert steps[rows].all()
    assert steps.sum() == len(rows)
