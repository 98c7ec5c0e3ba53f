"""The sensitivity probe on models whose answer is known (linear, toy nets, silent), and once on a small run."""

from __future__ import annotations

import functools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import open_run
from omnimouse_jax.probe.predictor import Predictor
from omnimouse_jax.probe.sensitivity.attacks import Effort, Elements, attack, neurons_up_and_down
from omnimouse_jax.probe.sensitivity.balls import Ball, boxed
from omnimouse_jax.probe.sensitivity.controls import blurred, equal_norm_random, low_pass
from omnimouse_jax.probe.sensitivity.gains import neuron_gains, population_gain
from omnimouse_jax.probe.sensitivity.options import Options
from omnimouse_jax.probe.sensitivity.page import table, write_page
from omnimouse_jax.probe.sensitivity.study import probe
from omnimouse_jax.probe.sensitivity.subject import Subject, spread
from omnimouse_jax.probe.settings import checkpoint_hash
from omnimouse_jax.tokens.windows import Window
from omnimouse_jax.training.train import train
from tests.micro import micro

F, H, W, S, N = 3, 6, 8, 2, 5
BALLS = [Ball("l2", True), Ball("l2", False), Ball("linf", True)]
EPS = (0.002, 0.01, 0.05)


def linear(params, video, context):
    """(W, S, N): every sample is the same function of all pixels, plus what the context adds."""
    r = video.reshape(len(video), -1) @ params
    r = jnp.broadcast_to(r[:, None], (len(video), S, params.shape[1]))
    return r if context is None else r + context[:, None]


def net(params, video, context):
    hidden = jax.nn.elu(video.reshape(len(video), -1) @ params["in"] - 1.0)
    return jax.nn.softplus(hidden @ params["out"])[:, None] * jnp.ones((1, S, 1))


def net_params(seed):
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(F * H * W, 24)) / 5
    return {"in": first.astype(np.float32), "out": (rng.normal(size=(24, N)) / 3).astype(np.float32)}


def interior(n, seed=0):
    """Pictures that no budget here takes to the edge of the box."""
    return np.random.default_rng(seed).uniform(0.35, 0.65, (n, F, H, W)).astype(np.float32)


def weights(seed=0):
    return np.random.default_rng(seed).normal(size=(F * H * W, N)).astype(np.float32)


def subject(apply=linear, params=None, video=None, **changes):
    video = interior(3) if video is None else video
    params = weights() if params is None else params
    return Subject("toy", apply, params, video, None, **{"sigma": np.linspace(0.5, 2.0, N), **changes})


def scaled(subject):
    """The Jacobian of z, pixels by neurons."""
    return weights() * subject.inverse


@functools.cache
def solved(name, ball, effort=Effort(20, 10, 2)):  # noqa: B008
    """One attack on all, that several tests look at: pictures at the edges of the box too."""
    video = np.random.default_rng(2).uniform(0, 1, (3, F, H, W)).astype(np.float32)
    video[0, 0] = 0.0
    s = subject(linear, weights(), video) if name == "linear" else subject(net, net_params(1), video)
    return s, attack(s, ball, everything(s), EPS, effort)


def everything(subject):
    return Elements(np.arange(subject.n_stimuli))


@pytest.mark.parametrize("ball", BALLS)
def test_a_neuron_of_a_linear_model_moves_by_the_dual_norm(ball):
    s = subject()
    elements = neurons_up_and_down(np.arange(2), np.arange(N), N)
    found = attack(s, ball, elements, EPS, Effort(pairs=1), seed=3)
    exact = np.asarray(ball.dual(scaled(s).T.reshape(N, F, H, W)))
    up = np.tile(np.repeat(exact, 2), 2)
    for eps, value, by_start in zip(EPS, found.value, found.by_start, strict=True):
        np.testing.assert_allclose(value, eps * up, rtol=1e-3)  # with full steps
        gradient = by_start[:, 0].max(-1)  # by gradient steps alone, from random starts too
        np.testing.assert_allclose(gradient, eps * up, rtol=1e-2)
    gains = neuron_gains(s, ball, np.arange(N))
    np.testing.assert_allclose(gains.per_budget, np.tile(exact, (3, 1)), rtol=1e-4)
    np.testing.assert_allclose(gains.l2[0], np.linalg.norm(scaled(s), axis=0), rtol=1e-4)
    np.testing.assert_allclose(gains.l1[0], np.abs(scaled(s)).sum(0), rtol=1e-4)


def test_the_population_of_a_linear_model_moves_by_its_largest_singular_value():
    s, ball = subject(), Ball("l2", False)
    singular = np.linalg.svd(scaled(s).astype(np.float64), compute_uv=False)
    exact = singular[0] / math.sqrt(N) * math.sqrt(s.dim)  # per unit of RMS
    local = population_gain(s, ball, probes=400)
    np.testing.assert_allclose(local.sigma, singular[0], rtol=1e-3)
    np.testing.assert_allclose(local.gain, exact, rtol=1e-3)
    assert local.stable_rank.mean() == pytest.approx((singular**2).sum() / singular[0] ** 2, rel=0.05)
    by_power = attack(s, ball, everything(s), EPS[:1], Effort(full_steps=40), seed=1)
    assert (by_power.by_start[0, :, 1].max(-1) >= 0.98 * EPS[0] * exact).all()
    alone = by_power.by_start[0, :, 0].max(-1)
    assert (alone >= 0.90 * EPS[0] * exact).all()
    for found in (by_power.value, alone[None]):
        assert (found <= EPS[0] * exact * (1 + 1e-3)).all()


@pytest.mark.parametrize(("name", "ball"), [("linear", BALLS[0]), ("net", BALLS[1]), ("net", BALLS[2])])
def test_attacks_stay_in_ball_and_box_grow_with_the_budget_and_beat_chance(name, ball):
    s, found = solved(name, ball)
    for eps, d in zip(EPS, found.d, strict=True):
        assert (np.asarray(ball.largest(d)) <= eps * (1 + 1e-5)).all()
        assert (s.video + d).min() >= -1e-6
        assert (s.video + d).max() <= 1 + 1e-6
    assert (np.diff(found.value, axis=0) >= 0).all()
    for e, value in enumerate(found.value):
        np.testing.assert_allclose(s.distance(found.d[e]), value, rtol=2e-3, atol=1e-6)
    random = equal_norm_random(s, ball, found.d, 20)
    assert (found.value >= np.sqrt(random.squares.mean(-1)).max(-1)).all()
    np.testing.assert_array_equal(attack(s, ball, everything(s), EPS[:1], Effort(20, 10, 2)).d[0], found.d[0])


def test_random_controls_take_the_norm_of_the_attack_within_the_box():
    video = np.random.default_rng(2).uniform(0, 1, (2, F, H, W)).astype(np.float32)
    video[0] = np.round(video[0])  # every pixel at an edge: half of what is drawn is cut off
    for ball in BALLS:
        target = jnp.full((2, F if ball.framewise else 1, 1, 1), 0.03, jnp.float32)
        u = np.random.default_rng(0).normal(size=video.shape).astype(np.float32)
        found = ball.equal(u, target, jnp.asarray(video))
        np.testing.assert_allclose(ball.size(found), target, rtol=1e-4)
        np.testing.assert_array_equal(np.asarray(boxed(found, jnp.asarray(video))), found)


def test_a_random_direction_of_a_linear_neuron_is_weaker_by_the_known_factor():
    """One neuron: sqrt(pi dim / 2). The population, by squares: dim / stable rank = Q squared."""
    s, ball = subject(params=weights()[:, :1], video=interior(12), sigma=np.ones(1)), Ball("l2", False)
    found = attack(s, ball, everything(s), EPS[:1], Effort(10, 5, 1))
    random = equal_norm_random(s, ball, found.d, 200, seed=4)
    q = found.value.mean() / np.sqrt(random.squares.mean(-1)).mean()
    assert q == pytest.approx(math.sqrt(math.pi * s.dim / 2), rel=0.06)
    many = subject(video=interior(12))
    found = attack(many, ball, everything(many), EPS[:1], Effort(full_steps=40))
    random = equal_norm_random(many, ball, found.d, 200, seed=4)
    by_squares = (found.value**2).mean() / random.squares.mean()
    singular = np.linalg.svd(scaled(many), compute_uv=False)
    assert by_squares == pytest.approx(many.dim / ((singular**2).sum() / singular[0] ** 2), rel=0.08)


@pytest.mark.parametrize("left_out", [False, True])
def test_a_model_that_says_nothing_has_no_sensitivity(left_out):
    def nothing(params, video, context):
        return jnp.zeros((len(video), S, N)) * params + 0.0 * video.mean()

    s = subject(nothing, np.float32(0.0), sigma=spread(np.zeros((3, S, N))) if left_out else np.ones(N))
    assert s.included.any() != left_out
    ball = BALLS[left_out]
    found = attack(s, ball, everything(s), EPS[:2], Effort(4, 3, 1))
    local = population_gain(s, ball, steps=3)
    for values in (found.d, found.value, found.by_start, found.spread(), local.gain, local.sigma, local.direction):
        assert np.isfinite(values).all()
    assert (found.value == 0).all()
    assert (local.gain == 0).all()
    assert (neuron_gains(s, ball, np.arange(2)).l2 == 0).all()


@pytest.mark.parametrize("ball", BALLS[1:])
def test_more_steps_and_starts_change_little(ball):
    s, some = solved("net", ball)
    more = attack(s, ball, everything(s), EPS, Effort(60, 40, 4), seed=9).value.mean(1)
    np.testing.assert_allclose(more, some.value.mean(1), rtol=0.05)


def test_transfer_and_random_search_never_beat_the_white_box():
    ball = BALLS[1]
    s, own = solved("net", ball)
    other = subject(net, net_params(2), s.video)
    foreign = attack(other, ball, everything(other), EPS, Effort(10, 10, 1))
    search = equal_norm_random(s, ball, own.d, 500)
    for e, value in enumerate(own.value):
        assert (s.distance(foreign.d[e]) <= value).all()
        assert (np.sqrt(search.squares[e].mean(-1)).max(-1) <= value).all()


def test_without_a_limit_the_shift_is_large():
    ball = Ball("linf", True)
    clean = np.asarray(net(net_params(1), interior(40, 5), None))
    s = subject(net, net_params(1), sigma=spread(clean))
    found = attack(s, ball, everything(s), (0.01, 0.1, 1.0), Effort(20, 10, 1))
    assert (found.value[-1] > 10).all()


def test_the_order_of_neurons_and_the_size_of_batches_change_nothing():
    order = np.random.default_rng(0).permutation(N)
    sigma = np.linspace(0.5, 2.0, N)
    ball = Ball("l2", True)
    one = attack(subject(), ball, everything(subject()), EPS, Effort(10, 5, 1))
    turned = subject(params=weights()[:, order], sigma=sigma[order])
    np.testing.assert_allclose(
        attack(turned, ball, everything(turned), EPS, Effort(10, 5, 1)).value, one.value, rtol=1e-4
    )
    small = subject(rows=4)
    again = attack(small, ball, everything(small), EPS, Effort(10, 5, 1))
    np.testing.assert_allclose(again.value, one.value, rtol=1e-4)


def test_neurons_without_a_unit_are_left_out_of_everything():
    sigma = np.array([1.0, np.nan, 1e-9, 1.0, np.inf])
    s = subject(sigma=sigma, floor=1e-6)
    np.testing.assert_array_equal(s.included, [True, False, False, True, False])
    few = subject(params=weights()[:, [0, 3]], sigma=np.ones(2))
    ball = Ball("l2", False)
    np.testing.assert_allclose(population_gain(s, ball).gain, population_gain(few, ball).gain, rtol=1e-4)


def test_directions_and_both_signs():
    """A linear model goes towards t by the dual norm of J t; up and down are each other's mirror images."""
    s, ball = subject(), Ball("l2", False)
    t = np.random.default_rng(5).normal(size=N)
    found = attack(s, ball, Elements(np.arange(3), np.tile(t, (3, 1)).astype(np.float32)), EPS[:1], Effort(pairs=1))
    exact = np.linalg.norm(scaled(s) @ (t / np.linalg.norm(t))) * math.sqrt(s.dim) * EPS[0]
    np.testing.assert_allclose(found.value[0], exact, rtol=1e-3)
    both = attack(s, ball, neurons_up_and_down(np.array([0]), np.array([2]), N), EPS[:1], Effort(pairs=1))
    np.testing.assert_allclose(both.d[0, 0], -both.d[0, 1], atol=1e-4)


def test_only_the_screen_is_perturbed_and_only_the_frames_that_are_named():
    context = np.random.default_rng(0).normal(size=(3, N)).astype(np.float32)
    s = Subject("toy", linear, weights(), interior(3), context, np.ones(N), frames=(1, 2), readout="each")
    assert s.shape == (1, H, W)
    found = attack(s, Ball("l2", True), everything(s), EPS[:1], Effort(10, 5, 1))
    moved = np.asarray(s.function.perturbed(s.video, found.d[0])) - s.video
    assert (moved[:, [0, 2]] == 0).all()
    expected = linear(weights(), s.video + moved, context) - linear(weights(), s.video, context)
    np.testing.assert_allclose(s.shift(found.d[0]), expected, atol=1e-5)


def test_a_silent_neuron_is_moved_before_its_output():
    """The gradient of a rectified neuron below its threshold is 0: attacks on its output find nothing (masking)."""

    def below(params, video, context):
        return jax.nn.relu(linear(params, video, context) - 1e3)

    def before(params, video, context):
        return linear(params, video, context) - 1e3

    ball = Ball("l2", True)
    for apply, moves in ((below, False), (before, True)):
        s = subject(apply)
        assert (attack(s, ball, everything(s), EPS[:1], Effort(5, 5, 1)).value > 0).all() == moves


def test_the_low_pass_control_keeps_what_survives_the_blur():
    """Of a linear neuron with weights w, blurred as a matrix B: <w, B w> / (||w|| ||B w||), frame by frame of one pattern."""
    for pattern, least, most in (
        (np.ones((H, W)), 0.999, 1.001),
        (np.random.default_rng(3).normal(size=(H, W)), 0.3, 0.97),
    ):
        pattern = pattern.astype(np.float32)
        s = subject(params=np.tile(pattern.ravel(), F)[:, None], sigma=np.ones(1))
        ball = Ball("l2", True)
        found = attack(s, ball, everything(s), EPS[:1], Effort(10, 10, 1))
        smooth = np.asarray(blurred(pattern[None, None]))[0, 0]
        exact = (pattern * smooth).sum() / np.linalg.norm(pattern) / np.linalg.norm(smooth)
        control = low_pass(s, ball, found.d)
        np.testing.assert_allclose(np.sqrt(control.squares[0, :, 0]) / found.value[0], exact, rtol=0.01)
        np.testing.assert_allclose(control.kept, (smooth**2).sum() / (pattern**2).sum(), rtol=0.01)
        assert least < exact < most


def test_unknown_names_are_told():
    with pytest.raises(UserError, match="l2, linf"):
        Ball.of("l1")
    with pytest.raises(UserError, match="mean, each"):
        subject(readout="last")


@pytest.fixture(scope="module")
def trained(colony, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity") / "run"
    train(micro(colony, evaluation__tiers=("train", "validation", "test")), folder)
    return folder


@pytest.mark.slow
def test_a_run_from_end_to_end(trained, tmp_path, monkeypatch):
    """Run folder -> JSON and page; again from what was kept; the same numbers by the untouched route through the predictor."""
    options = Options(
        stimuli=3,
        reference=6,
        neurons=2,
        neuron_stimuli=1,
        neuron_budgets=(1.0,),
        norms=("linf",),
        budgets=(1.0, 4.0),
        steps=3,
        full_steps=2,
        pairs=1,
        directions=2,
        smooth_directions=1,
        power_steps=3,
        causality_stimuli=1,
        subspace=2,
        bootstrap=20,
        rows=6,
    )
    run = open_run(trained)
    result = probe([run], options, tmp_path)
    on_disk = json.loads((tmp_path / "sensitivity.json").read_text())
    assert on_disk["models"] == result["models"]
    names = [model["name"] for model in result["models"]]
    assert names == ["run", "untrained like run"]
    about = result["provenance"]["models"]
    assert about["run"]["checkpoint_hash"] == checkpoint_hash(run) != about["untrained like run"]["checkpoint_hash"]
    assert result["provenance"]["settings"]["steps"] == 3
    for model in result["models"]:
        found = model["norms"]["linf"]
        assert found["S"]["mean"][0] <= found["S"]["mean"][1]
        assert (np.array(found["S"]["mean"]) > found["S_random"]["mean"]).all()
        assert model["causality"]["n_future"] > 0
        assert model["causality"]["ahead"] == pytest.approx(model["causality"]["ahead_forward"])
    np.testing.assert_allclose(np.diag(result["transfer"]["linf"]["of_budget"][1]["ratio"]), 1.0)

    # D of the kept perturbations, recomputed with evaluation's own numbers.
    predictor = Predictor.of(run, run.sessions[0], "stimulus")
    shown = predictor.load([Window(run.sessions[0], stimulus["start_s"]) for stimulus in result["stimuli"]])
    parts = [np.load(path) for path in (tmp_path / "parts").glob("*.npz")]
    moved = shown.video[None] + np.stack([part["d"][1] for part in parts])
    assert moved.min() >= -1e-6
    assert moved.max() <= 1 + 1e-6
    apply = jax.jit(predictor.apply)
    clean = np.asarray(apply(predictor.params, shown.video, shown.context)).mean(1)
    reference = predictor.load(predictor.windows(6, options.seed))
    sigma = np.asarray(apply(predictor.params, reference.video, reference.context)).mean(1).std(0)
    by_hand = [
        np.sqrt((((np.asarray(apply(predictor.params, x, shown.context)).mean(1) - clean) / sigma) ** 2).mean(1))
        for x in moved
    ]
    told = np.array(result["models"][0]["norms"]["linf"]["D"][1])
    assert min(np.abs(found - told).max() for found in by_hand) < 0.02 * told.max()

    def never(*arguments, **named):
        raise AssertionError("measured again")

    monkeypatch.setattr("omnimouse_jax.probe.sensitivity.study.measure", never)
    again = probe([run], options, tmp_path)
    assert again["models"] == result["models"]
    page = write_page(again, tmp_path).read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert all(word in table(again) for word in ("eps*", "stable rank", *names))
    assert page.count("data:image/png;base64,") == 2 * 2 * 3


def test_runs_that_cannot_be_compared_and_bad_settings_are_told(trained, tmp_path):
    run = open_run(trained)
    with pytest.raises(UserError, match="named twice"):
        probe([run, run], Options(), tmp_path)
    with pytest.raises(UserError, match="do not rise"):
        probe([run], Options(budgets=(2.0, 1.0)), tmp_path)
    with pytest.raises(UserError, match="shows no frames"):
        probe([run], Options(regime="behavior -> responses"), tmp_path)
