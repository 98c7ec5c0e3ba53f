"""Regimes that share a program: few of them, little wasted, and no number changed."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from omnimouse_jax import cli
from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import SIZES
from omnimouse_jax.model.flops import total_flops
from omnimouse_jax.model.programs import plan_of
from omnimouse_jax.tokens.classes import Plan, can_share, classes, context_widths, cover, shown
from omnimouse_jax.tokens.layout import Layout, Rectangle
from omnimouse_jax.tokens.regimes import TRAINING, as_fractions, parse, resolve
from omnimouse_jax.training.objective import loss_sums
from omnimouse_jax.training.train import train
from tests.micro import micro
from tests.test_model import GRID, MICRO, graph_and_params, quick_jit, random_batch
from tests.test_training import losses

ROOT = Path(__file__).resolve().parents[1]
RELEASED = SIZES["1M"]


def cost(layout: Layout) -> float:
    return total_flops(RELEASED, layout)


def tokens(layout: Layout) -> np.ndarray:
    """(interval start, interval end, neuron) of every response token, in order."""
    neurons = [
        np.tile(np.arange(r.first_neuron, r.last_neuron), layout.grid.response_steps(r.n_samples))
        for r in layout.context
    ]
    return np.column_stack([layout.response_tokens(), np.concatenate([np.zeros(0, int), *neurons])])


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan.of(TRAINING, RELEASED.grid, 4096, cost, 32)


def test_the_training_regimes_need_few_programs(plan):
    exact, paid = plan.expected(cost)
    assert len(plan.programs) <= 32
    assert exact <= paid <= 1.15 * exact
    ratios = [cost(program) / cost(layout) for layout, program in zip(plan.layouts, plan.covers, strict=True)]
    assert np.mean(ratios) <= 1.15
    assert min(ratios) >= 1
    assert Plan.exact(TRAINING, RELEASED.grid, 4096).expected(cost) == (exact, exact)


def test_the_command_line_lists_them_and_the_docs_say_so(capsys):
    assert cli.main(["regimes", "--programs"]) == 0
    *table, programs, flops = capsys.readouterr().out.strip().splitlines()
    assert sum("%" in line for line in table) == 32
    assert f"```text\n{programs}\n{flops}\n```" in (ROOT / "docs" / "regimes.md").read_text()
    assert cli.main(["regimes", "--programs", "--size", "300M", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert sum(len(row["regimes"]) for row in told["programs"]) == told["n_regimes"] == 120
    assert (told["n_shapes"], told["n_programs"]) == (104, 32)
    assert 0 < told["padding"] < 0.01


def test_every_regime_shows_its_own_tokens_and_no_others(plan):
    for regime in TRAINING:
        layout, program = plan.layout(regime), plan.program(regime)
        mask = shown(layout, program, 5)
        n = len(program.response_tokens())
        assert len(mask) == n + 5 * (program.behavior == "input")
        ours, theirs = tokens(layout), tokens(program)[mask[:n]]
        np.testing.assert_array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])
        assert (mask[n:] == (layout.behavior == "input")).all()
        for field in ("grid", "n_neurons", "targets", "latent_windows", "video_steps"):
            assert getattr(layout, field) == getattr(program, field)
        assert (layout.behavior == "target") == (program.behavior == "target")


def test_an_exact_program_shows_everything(plan):
    for layout in plan.layouts[::10]:
        assert cover([layout]) == cover([layout, layout]) == layout
        assert shown(layout, layout, 5).all()


def test_small_recordings_and_other_grids_are_covered_too():
    regimes = [as_fractions(regime) for regime in TRAINING]
    plan = Plan.of(regimes, RELEASED.grid, 64, cost, 32)
    assert len(plan.programs) <= 32
    for layout, program in zip(plan.layouts, plan.covers, strict=True):
        assert shown(layout, program, 5).sum() == len(layout.response_tokens()) + 5 * (layout.behavior == "input")


def test_the_number_of_programs_is_a_bound_where_it_can_be_met():
    layouts = [resolve(regime, RELEASED.grid, 4096) for regime in TRAINING]
    weights = [regime.weight for regime in TRAINING]
    assert len(classes(layouts, weights, cost, 0)) == len(set(layouts))
    assert len(classes([*layouts, layouts[0]], [*weights, 1.0], cost, 0)) == len(set(layouts))
    families = len(classes(layouts, weights, cost, 1))
    assert 1 < families < 32
    for a, b in itertools.combinations(classes(layouts, weights, cost, 1), 2):
        assert not can_share(a.cover, b.cover)
    few = classes(layouts[:5], weights[:5], cost, 32)
    assert [c.members for c in few] == [(0,), (1,), (2,), (3,), (4,)], "exact shapes where they are few enough"
    free = classes(layouts[:5], weights[:5], lambda layout: 1.0, 32)
    assert len(free) == 1, "what costs nothing is merged all the same"
    assert sorted(itertools.chain(*(c.members for c in classes(layouts, weights, cost, 20)))) == [*range(120)]
    with pytest.raises(UserError, match=r"train\.programs is -1 - use a positive number, or 0"):
        plan_of(RELEASED, TRAINING, 4096, -1)


def test_rare_regimes_pay_for_frequent_ones():
    def at(n: int) -> Layout:
        return resolve(parse(f"responses[:{n}] + behavior -> responses[-64:, 30:60]"), RELEASED.grid, 256)

    layouts = [at(32), at(64), at(128)]
    assert [c.members for c in classes(layouts, [100.0, 1.0, 1.0], cost, 2)] == [(0,), (1, 2)]
    assert [c.members for c in classes(layouts, [1.0, 1.0, 100.0], cost, 2)] == [(0, 1), (2,)]


def test_a_cover_is_the_pointwise_maximum_in_runs_of_equal_width():
    def layout(*context: Rectangle, behavior: str = "input") -> Layout:
        return Layout(GRID, 8, 4, context, (Rectangle(4, 8, 20, 30),), (0, 1, 2), (0, 0), behavior)

    steps = layout(Rectangle(0, 8, 0, 15), Rectangle(0, 2, 15, 30))
    late = layout(Rectangle(0, 4, 10, 25), behavior="hidden")
    both = cover([steps, late])
    assert context_widths(both) == {0: 8, 5: 8, 10: 4, 15: 4, 20: 2}
    assert both.context == (Rectangle(0, 8, 0, 15), Rectangle(0, 4, 10, 25), Rectangle(0, 2, 20, 30))
    assert both.behavior == "input"
    gap = cover([layout(Rectangle(0, 2, 0, 10)), layout(Rectangle(0, 2, 15, 25))])
    assert gap.context == (Rectangle(0, 2, 0, 10), Rectangle(0, 2, 15, 25))

    off_lattice = layout(Rectangle(0, 4, 3, 18))
    elsewhere = layout(Rectangle(2, 4, 0, 15))
    decoded = layout(Rectangle(0, 4, 0, 15), behavior="target")
    for other in (off_lattice, elsewhere, decoded, dataclasses.replace(steps, video_steps=(0, 15))):
        assert not can_share(steps, other)
        with pytest.raises(ValueError, match="cannot share"):
            cover([steps, other])
    with pytest.raises(ValueError, match="does not hold"):
        shown(steps, late, 3)


ASKED = "-> responses[-4:, 20:30]"
FAMILIES = {
    "encoding": (
        f"responses[:4] + video[0:20] + behavior {ASKED}",  # population
        f"responses[:, 0:15] + responses[:2, 15:30] + video[0:20] + behavior {ASKED}",  # full prefix, then a subset
        f"responses[:, 0:10] + video[0:20] + behavior + latents[0:30] {ASKED}",  # causal
        f"responses[:2, 5:15] + video[0:20] + latents[0:30] {ASKED}",  # population and causal, behaviour hidden
    ),
    "decoding": (
        "responses[:2, 0:30] -> behavior + responses[-4:, 20:30]",
        "responses[:4] -> behavior + responses[-4:, 20:30]",
        "responses[:, 0:10] + responses[:2, 10:30] -> behavior + responses[-4:, 20:30]",
    ),
    "no responses": (f"video + behavior {ASKED}", f"video {ASKED}"),
}


@functools.cache
def gradient(program: Layout):
    graph, _ = graph_and_params()

    def loss(params, batch):
        keys = jax.random.split(jax.random.key(0), len(batch.row_mask))
        predictions = nnx.merge(graph, params)(batch, program, dropout_keys=keys)
        return loss_sums(predictions, batch, program, MICRO).means(MICRO)["loss"], predictions

    return quick_jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cover_changes_no_prediction_loss_or_gradient(family):
    layouts = [resolve(parse(text, GRID), GRID, 8) for text in FAMILIES[family]]
    (only,) = classes(layouts, [1.0] * len(layouts), cost, 1)
    assert family == "no responses" or only.cover not in layouts
    _, params = graph_and_params()
    batch = random_batch(2, n=8)
    rng = np.random.default_rng(1)
    neurons = np.array([[1] * 8, [0, 1, 1, 1, 1, 0, 1, 1]], bool)
    batch = batch._replace(
        neuron_mask=neurons,
        response_mask=(rng.random(batch.responses.shape) < 0.9) & neurons[:, None],
        behavior_mask=np.arange(3)[:, None] < np.full_like(batch.behavior, 2),
        video_mask=np.array([True, False]),
    )
    for layout in layouts:
        results = []
        for program in (layout, only.cover):
            tokens = np.tile(shown(layout, program, MICRO.n_channels), (2, 1))
            results.append(gradient(program)(params, batch._replace(context_shown=tokens)))
        # A gradient far below the largest one is a difference of large numbers: its own rounding is not the scale.
        largest = max(np.abs(x).max() for x in jax.tree.leaves(results[0][1]))
        told = zip(jax.tree_util.tree_leaves_with_path(results[0]), jax.tree.leaves(results[1]), strict=True)
        for (path, ours), theirs in told:
            scale = max(np.abs(ours).max(), 1e-3 * largest if path[0].idx == 1 else 0.0)
            assert np.abs(np.asarray(ours) - theirs).max() <= 1e-5 * scale, jax.tree_util.keystr(path)


def test_a_run_with_few_programs_is_a_run_with_exact_ones(colony, tmp_path, capsys):
    shows = ("responses[:0.25, 0:30]", "responses[:, 0:15] + responses[:0.25, 15:30]", "responses[:, 0:25]")
    asked = [f"{each} + behavior + latents[0:60] -> responses[-0.5:, 30:60]" for each in shows]
    asked[2] = asked[2].replace(" + behavior", "")
    runs = {}
    for programs in (0, 2):
        config = micro(colony, regimes=(*asked,), train__programs=programs, train__validation_windows=0, train__steps=6)
        runs[programs] = train(config, tmp_path / str(programs))
    assert (runs[0]["programs"], runs[2]["programs"]) == (3, 2)
    assert runs[0]["padding_flops"] == 0 < runs[2]["padding_flops"]
    assert runs[0]["flops"] == runs[2]["flops"]
    told = capsys.readouterr().err
    assert "share 3 programs" not in told
    assert f"3 regimes share 2 programs, {100 * runs[2]['padding_flops']:.1f} % more FLOPs" in told
    exact, few = losses(tmp_path / "0"), losses(tmp_path / "2")
    assert exact.keys() == few.keys()
    for step, loss in exact.items():
        assert few[step] == pytest.approx(loss, rel=1e-5)
