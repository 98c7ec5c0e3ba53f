"""Mesh shape, resume and padding change nothing; the two optimiser groups do what they say."""

from __future__ import annotations

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.evaluator import evaluate_run
from omnimouse_jax.training import optim
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.parallel import make_mesh, shardings
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.train import Interrupted, train
from tests.micro import micro


def losses(workdir) -> dict[int, float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows if "loss" in row}


@pytest.fixture(scope="module")
def finished(colony, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train(micro(colony), workdir)


def test_a_run_leaves_everything_a_reader_needs(finished):
    workdir, run = finished
    assert sorted(losses(workdir)) == [1, 2, 3, 4]
    assert run["checkpoint_step"] in (2, 4)
    assert run["n_sessions"] == 3
    assert run["n_params_total"] == run["n_params_core"] + run["n_params_neuron"] + run["n_params_session"]
    assert run["n_params_neuron"] == run["n_neurons"] * 9
    assert run["flops"] > 0
    saved = json.loads((workdir / "run.json").read_text())
    assert saved == json.loads(json.dumps(run))


@pytest.mark.parametrize(("data", "model"), [(8, 1), (2, 2)])
def test_the_mesh_changes_no_number(colony, finished, tmp_path, data, model):
    train(micro(colony, mesh__data=data, mesh__model=model, train__validation_windows=0), tmp_path)
    one = losses(finished[0])
    for step, loss in losses(tmp_path).items():
        assert loss == pytest.approx(one[step], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__scan_layers": False},
        {"model__remat": "layer"},
        {"model__remat": "cycle"},
        {"model__attention": "blocks"},
        {"model__attention": "splash_interpreted", "mesh__data": 2, "mesh__model": 2},
    ],
)
def test_how_it_is_computed_changes_no_number(colony, deep, tmp_path, changes):
    train(micro(colony, **DEEP, **changes), tmp_path)
    assert losses(tmp_path) == pytest.approx(deep, rel=1e-5)


def test_half_precision_trains_close_to_full_and_keeps_its_state_in_full(colony, deep, tmp_path):
    train(micro(colony, **DEEP, model__compute_dtype="bfloat16"), tmp_path)
    assert losses(tmp_path) == pytest.approx(deep, rel=0.01)
    assert losses(tmp_path) != deep
    parts = prepare(micro(colony, **DEEP, model__compute_dtype="bfloat16"))
    state = restored(parts, tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt.mean, state.opt.square))} == {
        jnp.dtype("float32")
    }


#: Layers of every kind: one before the cycles, two cycles of local and global ones.
DEEP = {"model__n_layers": 7, "model__local_to_global": (2, 1), "train__validation_windows": 0}


@pytest.fixture(scope="module")
def deep(colony, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("deep")
    train(micro(colony, **DEEP), workdir)
    return losses(workdir)


def restored(parts, workdir):
    saved = Checkpoints(workdir, read_only=True)
    return saved.restore(4, restore_target(parts.model, parts.capacity, parts.mesh))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(colony, finished, tmp_path):
    train(micro(colony, train__steps=2, optimizer__anneal_steps=0), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "loss": 99.0}\n{"step": 4, "lo')  # a crash after the checkpoint
    train(micro(colony), tmp_path)
    assert losses(tmp_path) == losses(finished[0])


def test_ctrl_c_saves_and_says_how_to_go_on(colony, finished, tmp_path, monkeypatch):
    from omnimouse_jax import progress

    real = progress.Progress.show

    def show(self, done, *args, **kwargs):
        if self.label == "train " and done == 3:  # not while programs are compiled
            os.kill(os.getpid(), signal.SIGINT)
        real(self, done, *args, **kwargs)

    monkeypatch.setattr(progress.Progress, "show", show)
    with pytest.raises(Interrupted, match=r"stopped at step 3 of 4, saved in .*run the same command again") as stopped:
        train(micro(colony), tmp_path)
    assert stopped.value.status == 130
    monkeypatch.setattr(progress.Progress, "show", real)
    train(micro(colony), tmp_path)
    assert losses(tmp_path) == losses(finished[0])


def test_another_config_is_refused_with_a_diff(colony, finished):
    with pytest.raises(UserError, match=r"another config \(data\.batch_size: 8 -> 4\)"):
        train(micro(colony, data__batch_size=4), finished[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mesh__data": 64}, r"mesh 64 x 1 needs 64 devices, 8 cpu"),
        ({"train__log_every": 0}, r"train\.log_every is 0"),
        ({"optimizer__anneal_steps": 3}, r"2 warm-up and 3 anneal steps do not fit into 4 steps"),
        ({"mesh__data": 8, "evaluation__batch_size": 12}, r"evaluation\.batch_size 12 does not divide"),
        ({"mesh__data": 8, "data__batch_size": 12}, r"batch_size 12 does not divide over 8 devices"),
        ({"data__tiers": ("nonsense",)}, r"no window of 2 s in tiers nonsense"),
        ({"data__sessions": ("nobody",)}, r"nobody"),
        ({"data__store": "/nowhere"}, r"/nowhere"),
        ({"regimes": ("stimuls",)}, r"did you mean 'stimulus'"),
        ({"evaluation__tasks": {"x": "populaton"}}, r"did you mean 'population'"),
    ],
)
def test_a_config_that_cannot_run_leaves_no_folder(colony, tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        train(micro(colony, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_evaluation_scores_every_session_and_task(finished):
    rows = evaluate_run(finished[0])["rows"]
    neurons = [row for row in rows if row["metric"] == "response_correlation"]
    assert len(neurons) == 3
    for row in neurons:
        assert row["score_low"] <= row["score"] <= row["score_high"]
        assert row["ceiling_estimator"] == "known law: stimulus_behavior"
        assert row["normalized"] == pytest.approx(row["score"] / row["ceiling"])
    channels = {row["channel"] for row in rows if row["metric"] == "behavior_correlation"}
    assert channels == {"pupil_x", "pupil_y", "pupil_size", "pupil_size_derivative", "running", "mean"}
    assert json.loads((finished[0] / "evaluation.json").read_text())["rows"] == json.loads(json.dumps(rows))


def test_the_best_checkpoint_is_kept_and_taken(colony, tmp_path, monkeypatch):
    from omnimouse_jax.training import train as trainer
    from omnimouse_jax.training.checkpoint import Checkpoints

    told = iter([3.0, 1.0, 2.0, 2.5, 2.7, 2.9])
    monkeypatch.setattr(trainer, "_validate", lambda *args: {"validation_loss": next(told)})
    run = train(micro(colony, train__steps=6, train__checkpoint_every=1, optimizer__anneal_steps=0), tmp_path)
    saved = Checkpoints(tmp_path, read_only=True)
    assert run["checkpoint_step"] == saved.best() == 2
    assert sorted(saved.manager.all_steps()) == [2, 5, 6]
    assert saved.step_named("latest") == 6


def test_scores_asked_for_by_hand_leave_the_configured_ones(finished):
    evaluate_run(finished[0])
    before = (finished[0] / "evaluation.json").read_bytes()
    asked = evaluate_run(finished[0], tasks={"x": "behavior"}, tiers=("train",))
    assert {row["task"] for row in asked["rows"]} == {"x"}
    assert (finished[0] / "evaluation.json").read_bytes() == before


def test_mice_that_lack_things_train_with_complete_ones(tmp_path):
    """No screen, no eye tracker, no gaze, other rates, ten to forty neurons, and a channel of a lab's own."""
    from omnimouse_jax.recordings.synthetic import synthesize

    store = str(tmp_path / "store")
    synthesize(store, "mixed", {}, workers=1)
    config = micro(store, train__steps=2, evaluation__stride_s=2.0)
    config.model.behavior_channels = (*config.model.behavior_channels, "whisking")
    config.model.max_neurons = 64
    run = train(config, tmp_path / "run")
    assert run["n_sessions"] == 6
    assert all(np.isfinite(loss) for loss in losses(tmp_path / "run").values())
    rows = evaluate_run(tmp_path / "run")["rows"]
    assert len({row["session"] for row in rows if row["metric"] == "response_correlation"}) == 6
    channels = {(row["session"], row["channel"]) for row in rows if row["metric"] == "behavior_correlation"}
    of_all = {session for session, channel in channels if channel == "running"}
    with_eye = {session for session, channel in channels if channel == "pupil_size"}
    assert with_eye < of_all, "a session without an eye tracker is scored on what it has"
    assert not any(channel == "whisking" for _, channel in channels)


def test_evaluating_what_is_not_there_is_told(colony, finished, tmp_path):
    with pytest.raises(UserError, match="no checkpoints/ folder"):
        evaluate_run(tmp_path)
    with pytest.raises(UserError, match="no checkpoint '77'"):
        evaluate_run(finished[0], step="77")
    with pytest.raises(UserError, match="session nobody"):
        evaluate_run(finished[0], sessions=("nobody",))


def small_params():
    rng = np.random.default_rng(0)
    shapes = {"neuron_embedding": (6, 3), "neuron_bias": (6,), "session_embedding": (2, 3), "animal_embedding": (2, 3)}
    tables = {name: jnp.asarray(rng.standard_normal(shape), jnp.float32) for name, shape in shapes.items()}
    return {"core": {"w": jnp.asarray(rng.standard_normal((4, 4)), jnp.float32)}, "tables": tables}


OWNER = jnp.asarray([0, 0, 0, 1, 1, 2])  # the last row is padding


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
    state = optim.init(params, 2)
    for step in range(5):
        grads = jax.tree.map(lambda p, s=step: jnp.sin(p * (s + 1.0)), ours)
        for i, ((tx, _), part) in enumerate(zip(peers, optim.split(grads), strict=True)):
            with jax.numpy_dtype_promotion("standard"):  # optax mixes its counters with floats
                updates, states[i] = tx.update(part, states[i], values[i])
            values[i] = optax.apply_updates(values[i], updates)
        ours, state, _ = optim.update(grads, state, ours, jnp.int32(step), jnp.ones(2, bool), OWNER, settings)
        for mine, theirs in zip(optim.split(ours), values, strict=True):
            for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_allclose(np.asarray(a)[:5], np.asarray(b)[:5], rtol=2e-5, atol=1e-6)


def test_an_absent_session_is_not_touched():
    settings = optim.AdamW(warmup_steps=0)
    params = small_params()
    state = optim.init(params, 2)
    grads = jax.tree.map(jnp.ones_like, params)
    new, state, _ = optim.update(grads, state, params, jnp.int32(0), jnp.array([True, False]), OWNER, settings)
    for name in optim.SESSION_TABLES:
        before, after = np.asarray(params["tables"][name]), np.asarray(new["tables"][name])
        mean = np.asarray(state.mean["tables"][name])
        absent = [1] if name == "session_embedding" else [3, 4, 5]
        present = [0] if name == "session_embedding" else [0, 1, 2]
        np.testing.assert_array_equal(after[absent], before[absent])
        np.testing.assert_array_equal(mean[absent], 0)
        assert np.all(after[present] != before[present])
    assert {name: steps.tolist() for name, steps in state.session_steps.items()} == {
        name: [1, 0] for name in optim.SESSION_TABLES
    }
    assert all((np.asarray(steps) == 1).all() for steps in jax.tree.leaves(state.shared_steps))


def test_a_session_s_table_that_a_step_does_not_use_is_not_touched():
    settings, params = optim.AdamW(warmup_steps=0), small_params()
    grads = jax.tree.map(jnp.ones_like, params)
    grads["tables"]["neuron_bias"] = jnp.zeros(6)
    grads["tables"]["neuron_embedding"] = grads["tables"]["neuron_embedding"].at[:2].set(0.0)
    new, state, _ = optim.update(grads, optim.init(params, 2), params, jnp.int32(0), jnp.ones(2, bool), OWNER, settings)
    np.testing.assert_array_equal(new["tables"]["neuron_bias"], params["tables"]["neuron_bias"])
    assert state.session_steps["neuron_bias"].tolist() == [0, 0]
    moved = np.asarray(new["tables"]["neuron_embedding"] != params["tables"]["neuron_embedding"]).any(axis=1)
    assert moved.tolist() == [True] * 5 + [False]  # one neuron's gradient moves all of its session's, as there


def test_a_shared_parameter_that_a_step_does_not_use_is_not_touched():
    settings = optim.AdamW(warmup_steps=0)
    params = small_params()
    state = optim.init(params, 2)
    grads = jax.tree.map(jnp.ones_like, params)
    first = next(iter(grads["core"]))
    grads["core"][first] = jax.tree.map(jnp.zeros_like, grads["core"][first])
    grads["tables"]["animal_embedding"] = grads["tables"]["animal_embedding"].at[0].set(0.0)
    new, state, _ = optim.update(grads, state, params, jnp.int32(0), jnp.ones(2, bool), OWNER, settings)
    for a, b in zip(jax.tree.leaves(new["core"][first]), jax.tree.leaves(params["core"][first]), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = np.any(np.asarray(new["tables"]["animal_embedding"] != params["tables"]["animal_embedding"]), axis=1)
    assert not moved[0]
    assert moved[1:].all()
    assert state.shared_steps["tables"]["animal_embedding"].tolist() == [0] + [1] * (len(moved) - 1)
    assert {int(steps) for steps in jax.tree.leaves(state.shared_steps["core"][first])} == {0}


def test_the_schedule_warms_up_stays_and_anneals_to_zero():
    settings = optim.AdamW(warmup_steps=10, total_steps=100, anneal_steps=20)
    rate = [float(optim.schedule(jnp.int32(step), 1.0, settings)) for step in range(101)]
    assert rate[0] == pytest.approx(1e-7)
    assert rate[5] == pytest.approx(0.5, rel=1e-5)
    assert rate[10:81] == [1.0] * 71
    assert rate[85] == pytest.approx(0.5)
    assert rate[100] == 0


def test_tables_are_split_by_rows_over_the_whole_mesh_and_odd_sides_stay_whole():
    mesh = make_mesh(4, 2)
    shapes = {
        "core": {"tower": {"attention": {"qkv": {"kernel": jnp.zeros((4, 6))}, "out": {"kernel": jnp.zeros((3, 4))}}}},
        "tables": {"neuron_embedding": jnp.zeros((16, 3)), "session_embedding": jnp.zeros((4, 3))},
    }
    placed = shardings(shapes, mesh)
    assert placed["tables"]["neuron_embedding"].spec == jax.sharding.PartitionSpec(("data", "model"))
    assert placed["tables"]["session_embedding"].is_fully_replicated
    assert placed["core"]["tower"]["attention"]["qkv"]["kernel"].spec == jax.sharding.PartitionSpec(None, "model")
    assert placed["core"]["tower"]["attention"]["out"]["kernel"].is_fully_replicated
