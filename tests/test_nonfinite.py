"""A loss or gradient that is not finite: changes nothing, is told with step, session, regime and batch, and may be skipped."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.tokens import pipeline
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.setup import prepare
from omnimouse_jax.training.train import train, training_batches
from tests.micro import micro

#: One regime, so that the broken sample is always asked for; saved after every step.
CONFIG = {
    "regimes": ("stimulus",),
    "train__checkpoint_every": 1,
    "train__keep": 10,
    "train__validation_windows": 0,
    "model__response_loss_clip": None,
}
STEP, ROW = 2, 5


@pytest.fixture
def broken(colony, monkeypatch):
    """One response of one window is as large as float32 goes, so that its loss or gradient is not."""
    batches = training_batches(prepare(micro(colony, **CONFIG)))
    window = batches.order[STEP * 8 + ROW]
    real = pipeline.collate

    def collate(samples, *args, **kwargs):
        batch = real(samples, *args, **kwargs)
        for row, sample in enumerate(samples):
            if sample is not None and sample.window == window:
                batch.responses[row, -1, -1] = 3e38  # the first slots may be padding
        return batch

    monkeypatch.setattr(pipeline, "collate", collate)
    return window


def params_at(config, workdir, step):
    parts = prepare(config)
    target = restore_target(parts.model, parts.capacity, parts.mesh, parts.trained)
    saved = Checkpoints(workdir, read_only=True)
    return saved.steps(), jax.tree.map(np.asarray, saved.restore(step, target))


def test_the_run_stops_before_it_changes_and_names_the_cause(colony, broken, tmp_path):
    config = micro(colony, **CONFIG)
    with pytest.raises(UserError) as told:
        train(config, tmp_path)
    text = str(told.value)
    assert f"step {STEP + 1}, regime stimulus: loss or gradient is not finite (batch {STEP}, row {ROW}, " in text
    assert f"session {broken.session} at {broken.start:.2f} s: responses are as large as 3e+38" in text
    assert "--config.train.nonfinite=skip" in text
    dumped = np.load(next(tmp_path.glob("nonfinite-step-*.npz")))
    assert dumped["0/responses"][ROW, -1, -1] == np.float32(3e38)
    assert json.loads(str(dumped["told"]))["rows"][0]["session"] == broken.session
    steps, state = params_at(config, tmp_path, STEP)
    assert steps[-1] == STEP, "nothing was saved after it"
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_a_gradient_that_only_the_model_makes_is_found_by_row(colony, tmp_path, monkeypatch):
    """Inputs in range whose gradient overflows: found by computing rows alone."""
    from omnimouse_jax.training import nonfinite

    batches = training_batches(prepare(micro(colony, **CONFIG)))
    window = batches.order[STEP * 8 + ROW]
    real = pipeline.collate

    def collate(samples, *args, **kwargs):
        batch = real(samples, *args, **kwargs)
        for row, sample in enumerate(samples):
            if sample is not None and sample.window == window:
                batch.behavior[row] = 3e38
        return batch

    monkeypatch.setattr(pipeline, "collate", collate)
    monkeypatch.setattr(nonfinite, "_input", lambda batch, row: "")
    with pytest.raises(
        UserError, match=rf"row {ROW}, session {window.session} at .*its (loss is nan|loss is .*gradient)"
    ):
        train(micro(colony, **CONFIG), tmp_path)


def test_skipping_goes_on_and_counts(colony, broken, tmp_path, capsys):
    config = micro(colony, **CONFIG, train__nonfinite="skip")
    run = train(config, tmp_path)
    assert run["steps"] == 4
    assert run["steps_skipped"] == 1
    assert (
        f"step {STEP + 1}, regime stimulus: loss or gradient is not finite; skipped (1 so far)"
        in capsys.readouterr().err
    )
    rows = {row["step"]: row for row in map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())}
    assert rows[STEP]["steps_skipped"] == 0
    assert rows[STEP + 1]["steps_skipped"] == rows[4]["steps_skipped"] == 1
    _, before = params_at(config, tmp_path, STEP)
    _, after = params_at(config, tmp_path, STEP + 1)
    for a, b in zip(
        jax.tree.leaves((before.params, before.opt)), jax.tree.leaves((after.params, after.opt)), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert int(after.step) == int(before.step) + 1
