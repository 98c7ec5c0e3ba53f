"""The differentiable view of a run: the same numbers as evaluation, and gradients with respect to the screen."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import open_run
from omnimouse_jax.probe.predictor import Predictor
from omnimouse_jax.tokens.pipeline import EvaluationBatches
from omnimouse_jax.training.setup import predictions, regimes_of
from omnimouse_jax.training.train import train
from tests.micro import micro


@pytest.fixture(scope="module")
def run(colony, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor") / "run"
    train(micro(colony), folder)
    return open_run(folder)


@pytest.mark.parametrize("regime", ["video -> responses", "video + behavior + responses[:0.5] -> responses[-0.5:]"])
def test_the_same_numbers_as_evaluation(run, regime):
    session = run.sessions[1]
    predictor = Predictor.of(run, session, regime)
    windows = predictor.windows(3, seed=1)
    assert len(set(windows)) == 3
    shown = predictor.load(windows)
    found = jax.jit(predictor.apply)(predictor.params, shown.video, shown.context)
    parts = run.parts(run.store)
    batches = EvaluationBatches(parts.cutter((session,)), windows, regimes_of([regime], run.model.grid)[0], 8)
    (_, batch, evaluated, _), *_ = predictions(parts, run.params, batches)
    target = batches.layout.targets[0]
    real = batch.neuron_mask[0, target.first_neuron : target.last_neuron]
    np.testing.assert_allclose(found, evaluated.responses[0][:3][:, :, real], atol=2e-6)
    samples = slice(target.first_sample, target.last_sample)
    np.testing.assert_array_equal(
        np.nan_to_num(shown.recorded), batch.responses[:3, samples, target.first_neuron : target.last_neuron][..., real]
    )
    assert found.shape == (3, len(predictor.sample_times), predictor.n_neurons) == shown.recorded.shape
    assert shown.video.shape[1:] == predictor.frames_shape
    assert shown.video.min() >= 0
    assert shown.video.max() <= 1


def test_gradients_reach_the_screen_and_agree_with_differences(run):
    predictor = Predictor.of(run, run.sessions[0])
    shown = predictor.load(predictor.windows(1, seed=0))

    def total(video):
        return predictor.apply(predictor.params, video, shown.context).mean()

    gradient = np.asarray(jax.jit(jax.grad(total))(shown.video), np.float64)
    assert np.isfinite(gradient).all()
    direction = gradient / np.linalg.norm(gradient)
    step = 0.5
    up, down = (float(jax.jit(total)((shown.video + s * direction).astype(np.float32))) for s in (step, -step))
    assert (up - down) / (2 * step) == pytest.approx(np.linalg.norm(gradient), rel=0.1)


def test_values_before_the_output_are_found_again(run):
    predictor = Predictor.of(run, run.sessions[0])
    values = jnp.array([-12.0, -3.0, 0.0, 2.0, 40.0], jnp.float32)[None, None]
    beta = run.model.softplus_beta
    rates = jnp.logaddexp(beta * values, 0.0) / beta if run.model.response_loss == "poisson" else values
    np.testing.assert_allclose(predictor.before_output(rates), values, rtol=1e-4, atol=1e-4)


def test_the_context_can_be_repeated_for_made_up_stimuli(run):
    predictor = Predictor.of(run, run.sessions[0], "video + behavior -> responses")
    window = predictor.windows(1, seed=0)[0]
    shown = predictor.load([window])
    apply = jax.jit(predictor.apply)
    alone = apply(predictor.params, shown.video, shown.context)
    again = apply(predictor.params, np.repeat(shown.video, 2, 0), predictor.context(2, window))
    np.testing.assert_allclose(again, np.repeat(alone, 2, 0), atol=2e-6)


@pytest.mark.parametrize(
    ("regime", "told"), [("behavior -> responses", "shows no frames"), ("video -> behavior", "asks for responses in 0")]
)
def test_regimes_that_cannot_be_probed(run, regime, told):
    with pytest.raises(UserError, match=told):
        Predictor.of(run, run.sessions[0], regime)
