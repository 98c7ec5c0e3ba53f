"""A plan says before anything starts what each cell takes, and what the design can tell; power agrees with its formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import stats

from launch.planning import Machine, config_hash, make_plan, write_plan
from omnimouse_jax.configuration import override
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.plan import Plan, cell_config, default_study
from omnimouse_jax.scaling.power import examine
from omnimouse_jax.training.track import write_json
from omnimouse_jax.training.train import train
from tests.micro import micro


@pytest.fixture(scope="module")
def config(colony) -> ConfigDict:
    config = micro(colony, train__steps=4, optimizer__warmup_steps=1, optimizer__anneal_steps=2)
    config.regimes = ("stimulus",)
    config.evaluation.tasks = ConfigDict({"stimulus": "stimulus"})
    config.study = default_study()
    config.study.name = "micro"
    config.study.sizes = ConfigDict({"S": {"d_model": 8}, "M": {"d_model": 16}})
    config.study.amounts = (1, 3)
    config.study.seeds = (0, 1)
    return config


@pytest.fixture(scope="module")
def plan(config) -> Plan:
    return make_plan(config, Machine.named("h100x8", price=20.0), "sweep plan")


def test_estimates_are_what_a_run_then_says_of_itself(config, plan, tmp_path):
    cell = plan.cell("M-3sessions-order0-seed1")
    run = train(cell_config(config, cell), tmp_path)
    told = cell.estimate
    for name in ("n_params_core", "n_params_tower", "n_sessions", "n_neurons", "neuron_hours", "epochs", "tokens_seen"):
        assert told[name] == pytest.approx(run[name]), name
    assert told["n_params_tables"] == run["n_params_neuron"] + run["n_params_session"]
    assert told["windows"] == run["windows_seen"]
    assert told["model_flops"] == pytest.approx(run["flops"])
    assert told["flops"] == pytest.approx(run["flops"], rel=0.5), "the compiler counts what the formula leaves out"
    assert told["bytes"] > 12 * run["n_params_total"]


def test_totals_are_sums_and_hours_follow_the_machine(plan):
    hours = [cell.estimate["hours"] for cell in plan.cells]
    assert plan.totals["cells"] == len(plan.cells) == 8
    assert plan.totals["hours"] == pytest.approx(sum(hours))
    assert plan.totals["chip_hours"] == pytest.approx(8 * sum(hours))
    assert plan.totals["money"] == pytest.approx(20 * sum(hours))
    big, small = (plan.cell(f"{size}-1sessions-order0-seed0").estimate for size in "MS")
    assert big["hours"] > small["hours"]
    assert big["bytes"] > small["bytes"]
    told = " ".join(plan.design["cannot"])
    assert "2 model sizes" in told
    assert "nested order" in told


def test_every_cell_is_checked_before_anything_is_written(config):
    for change, message in (({"d_model": 7}, "d_model"), ({"hiera_order": "sideways"}, "hiera_order")):
        other = ConfigDict(config.to_dict())
        other.study.sizes = ConfigDict({"S": {"d_model": 8}, "broken": change})
        with pytest.raises(UserError, match=message):
            make_plan(other, Machine.named(""))
    with pytest.raises(UserError, match="no `study` group"):
        make_plan(micro("nowhere"), Machine())


def test_a_begun_cell_keeps_its_recipe(plan, tmp_path):
    write_plan(plan, tmp_path)
    status = tmp_path / "runs" / plan.cells[0].run_id / "status.json"
    write_json(status, {"state": "done", "config_hash": plan.cells[0].config_hash})
    write_plan(plan, tmp_path)
    write_json(status, {"state": "done", "config_hash": "of another"})
    with pytest.raises(UserError, match="begun with another config or other sessions"):
        write_plan(plan, tmp_path)


def test_the_hash_tells_recipes_apart_and_only_them(config, plan):
    hashes = [cell.config_hash for cell in plan.cells]
    assert len(set(hashes)) == len(hashes)
    one = cell_config(config, plan.cells[0])
    assert config_hash(one) == plan.cells[0].config_hash
    one.train.log_every = 7
    assert config_hash(one) == plan.cells[0].config_hash
    one.data.store = "the/same/elsewhere"
    assert config_hash(one) == plan.cells[0].config_hash
    for field, value in (
        ("train.steps", 5),
        ("evaluation.checkpoint", "latest"),
        ("evaluation.tiers", ("validation",)),
    ):
        other = cell_config(config, plan.cells[0])
        override(other, field, value)
        assert config_hash(other) != plan.cells[0].config_hash, field


@pytest.mark.parametrize(("text", "chips"), [("h100", 1), ("h100x8", 8), ("tpu-v5px4", 4), ("a100-80gb", 1)])
def test_machines_by_name(text, chips):
    assert Machine.named(text).chips == chips


def test_unknown_machines_are_refused():
    for text in ("h1000", "h100x0"):
        with pytest.raises(UserError, match="h100"):
            Machine.named(text)
    for text, price in (("h100", -1.0), ("", 3.0)):
        with pytest.raises(UserError, match="price"):
            Machine.named(text, price)


def design(sizes: int, amounts: int, seeds: int, studies: int = 100, noise: float = 0.005):
    levels = itertools.product(1e6 * 4.0 ** np.arange(sizes), 8 * 2.0 ** np.arange(amounts), range(seeds))
    n, d, _ = np.array(list(levels)).T
    fixed = {"unit": "sessions", "gain": 0.02, "orders": [0] * len(n), "rates": [], "animals": 3}
    return examine(n, d, noise=noise, studies=studies, **fixed)


def test_power_of_a_slope_agrees_with_its_formula():
    found = design(4, 5, 3, studies=400)
    x = np.arange(5) - 2.0
    error = 0.005 / np.sqrt(4 * 3 * np.sum(x * x))  # of the slope per doubling, over four sizes and three seeds
    freedom = 4 * 5 * 2
    critical = stats.t.ppf(0.975, freedom)
    expected = stats.nct.sf(critical, freedom, 0.1 * 0.02 / error)
    assert found.axes[0].slope == pytest.approx(expected, abs=0.03)
    assert found.axes[0].smallest_gain == pytest.approx((critical + 0.84) * error, rel=0.05)


def test_more_seeds_and_less_noise_mean_more_power():
    few, many, quiet = (
        [axis.exponent for axis in design(4, 5, seeds, noise=noise).axes]
        for seeds, noise in ((1, 0.005), (4, 0.005), (1, 0.0005))
    )
    for axis in range(2):
        assert few[axis] < quiet[axis]
        assert few[axis] <= many[axis] + 0.05
    assert max(quiet) > 0.5


def test_orders_are_no_seeds():
    n, d, order = np.array(list(itertools.product(1e6 * 4.0 ** np.arange(4), 8 * 2.0 ** np.arange(5), range(3)))).T
    orders = [int(o) for o in order]
    found = examine(n, d, unit="sessions", noise=0.005, gain=0.02, orders=orders, rates=[], animals=3, studies=20)
    assert "one run per cell" in " ".join(found.cannot)
    assert found.axes[0].slope is None


def test_a_narrow_design_says_that_it_carries_no_exponent():
    found = design(2, 3, 1)
    assert [axis.exponent for axis in found.axes] == [None, None]
    assert [axis.slope for axis in found.axes] == [None, None], "one run per cell: no noise is known"
    told = " ".join(found.cannot)
    for words in (
        "exponent for sessions",
        "exponent for parameters",
        "one run per cell",
        "nested order",
        "learning rate",
    ):
        assert words in told
