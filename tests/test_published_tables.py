"""Agreement with published fits: numbers that nobody here wrote, on the tables that came with the papers."""

from __future__ import annotations

import csv
import json
from collections import defaultdict

import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.uncertainty import bootstrap, profile
from tests.shared import shared

REGIONS = ("V1", "V2", "V4", "IT")


def table(name: str) -> list[dict[str, str]]:
    with shared(f"scaling/{name}").open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def reference() -> dict:
    return json.loads(shared("scaling/reference_values.json").read_text())


def column(rows: list[dict[str, str]], name: str, unit: float = 1.0) -> np.ndarray:
    return np.array([float(row[name]) for row in rows]) / unit


def mean_of(rows: list[dict[str, str]], names: tuple[str, ...]) -> np.ndarray:
    return np.mean([column(rows, name) for name in names], axis=0)


def primate(which: str) -> tuple[np.ndarray, np.ndarray]:
    """Axes in the published units and 1 - score (Gokce & Schrimpf 2025 fit log(1 - score))."""
    every = table("primate_vvs.csv")
    rows = [r for r in every if r["dataset"] in ("imagenet", "ecoset")]
    thin = ("ConvNeXt", "ViT")
    kept = [r for r in rows if r["arch_family"] not in thin or r["samples_per_class"] in ("0", "300")]
    five = (*REGIONS, "Behavioral")
    if which == "compute_neuro":
        return column(rows, "total_flops", 1e13)[:, None], 1 - mean_of(rows, REGIONS)
    if which == "compute_chinchilla":
        axes = np.stack([column(kept, "n_params", 1e5), column(kept, "n_samples_seen", 1e4)], 1)
        return axes, 1 - mean_of(kept, five)
    if which == "parameter_scaling":
        full = [r for r in rows if r["samples_per_class"] == "0"]
        return column(full, "n_params", 1e5)[:, None], 1 - mean_of(full, five)
    images = [r for r in kept if r["dataset"] == "imagenet"]
    return column(images, "n_samples_seen", 1e4)[:, None], 1 - mean_of(images, five)


@pytest.mark.parametrize(
    "which", ["compute_neuro", "compute_chinchilla", "parameter_scaling", "sample_imagenet_scaling"]
)
def test_primate_vision_fits(which: str) -> None:
    """Gokce & Schrimpf (ICML 2025): log E, log A, alpha (, log B, beta) and the objective at delta 1e-3."""
    want = reference()["primate_vvs"][which]
    x, y = primate(which)
    assert len(y) == want["n"]
    found = fit(make_form("chinchilla" if x.shape[1] == 2 else "power1"), x, y, delta=1e-3)
    p = found.parameters
    got = [np.log(p["E"]), np.log(p["A"]), p["alpha"]] + ([np.log(p["B"]), p["beta"]] if "B" in p else [])
    np.testing.assert_allclose(got, want["published"], atol=5e-6)
    assert found.objective == pytest.approx(want["objective"], rel=1e-9)


def test_primate_vision_bootstrap_interval() -> None:
    """The published 95 % interval of the joint fit's exponents (1,000 resamples of models), to a sixth of its width."""
    want = reference()["primate_vvs"]["compute_chinchilla"]["ci95"]
    x, y = primate("compute_chinchilla")
    boot = bootstrap(fit(make_form("chinchilla"), x, y, delta=1e-3), resamples=300, seed=42)
    named = boot.named()
    for name, index in (("alpha", 2), ("beta", 4)):
        low, high = want[0][index], want[1][index]
        interval = boot.interval(named[name])
        assert interval.low == pytest.approx(low, abs=(high - low) / 6)
        assert interval.high == pytest.approx(high, abs=(high - low) / 6)


def test_translation_curves_held_out_error() -> None:
    """Alabdulmohsin et al. 2022: the held-out error of the pure power law; a floor does better."""
    want = reference()["nmt"]
    curves: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in table("nmt_data_scaling.csv"):
        curves[row["model"]].append(row)
    pure, floor = [], []
    for rows in curves.values():
        x, y = column(rows, "examples")[:, None], column(rows, "log_perplexity")
        held = np.array([row["split"] != "train" for row in rows])
        for form, errors in (("pure_power", pure), ("power1", floor)):
            found = fit(make_form(form), x[~held], y[~held], delta=np.inf)
            errors.append(float(np.sqrt(np.mean((np.log(found.predict(x[held])) - np.log(y[held])) ** 2))))
    np.testing.assert_allclose(pure, want["ours_M1"], atol=1e-3)
    np.testing.assert_allclose(pure, want["published_M1"], atol=5e-3)
    np.testing.assert_allclose(floor, [0.056, 0.064, 0.066, 0.038, 0.017], atol=1e-3)


def test_compute_optimal_exponents() -> None:
    """Porian et al. 2024: N* ~ C^a by least squares on logs, all ten settings, to the five printed digits."""
    want = reference()["porian"]["published_a_ols"]
    settings: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in table("porian_frontier.csv"):
        if np.isfinite(float(row["n_star"] or "nan")):  # budgets without an optimum inside their grid
            settings[row["dataset"], row["config"]].append(row)
    slopes = []
    for rows in settings.values():
        form = make_form("log_linear", response="log")
        found = fit(form, column(rows, "flops")[:, None], column(rows, "n_star"), delta=np.inf)
        slopes.append(found.parameters["s"])
    assert len(slopes) == len(want)
    np.testing.assert_allclose(sorted(slopes), sorted(want.values()), atol=2e-5)


def repeated() -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Axes (N, D seen, D unique) and losses of the 182 runs, and the published core as it is held."""
    rows = [r for r in table("datablations.csv") if r["in_published_fit"] == "1"]
    want = reference()["datablations"]
    assert len(rows) == want["n"]
    fixed = want["fixed"]
    core = {"E": np.exp(fixed["e"]), "A": np.exp(fixed["a"]), "B": np.exp(fixed["b"])}
    core |= {"alpha": fixed["alpha"], "beta": fixed["beta"]}
    axes = np.stack([column(rows, name) for name in ("n_params", "n_tokens", "n_unique")], 1)
    return axes, column(rows, "loss"), {k: float(v) for k, v in core.items()}


def test_repeated_data_at_the_published_constants() -> None:
    """Muennighoff et al. 2023: objective and R2 with repeats that decay, R2 where repeats count as new data."""
    want = reference()["datablations"]
    published = want["published"]
    x, y, core = repeated()
    there = fit(
        make_form("data_constrained"), x, y, delta=1e-3, fixed=core | {"R_D": published["RD"], "R_N": published["RN"]}
    )
    assert there.objective == pytest.approx(published["objective"], rel=1e-6)
    assert there.objective == pytest.approx(want["ours"]["objective_at_published"], rel=1e-9)
    assert there.r2_natural == pytest.approx(published["R2"], rel=1e-12)
    without = fit(make_form("chinchilla"), x[:, :2], y, delta=1e-3, fixed=core)
    assert without.r2_natural == pytest.approx(published["R2_no_decay"], rel=1e-12)


def test_the_published_decay_of_repeats_is_a_local_optimum_and_not_identified() -> None:
    want = reference()["datablations"]
    x, y, core = repeated()
    found = fit(make_form("data_constrained"), x, y, delta=1e-3, fixed=core)
    least = want["ours"]["global_min"]
    assert found.objective == pytest.approx(least["objective"], rel=1e-8)
    assert found.parameters["R_D"] == pytest.approx(least["RD"], rel=1e-3)
    assert found.parameters["R_N"] == pytest.approx(least["RN"], rel=1e-3)
    assert found.starts >= 30
    decays = found.form.named(found.rivals, found.centre)["R_D"]
    assert np.min(np.abs(decays - want["published"]["RD"])) < 0.1  # theirs is among the optima within 1 %
    assert "optima" in [flag.code for flag in found.flags]
    interval = profile(found, "R_D")
    assert interval.low == pytest.approx(6.6, abs=1.5)
    assert np.isinf(interval.high)


def told(tmp_path, *arguments: str) -> dict:
    out = tmp_path / "fit.json"
    assert main(["fit", *arguments, "--resamples", "2", "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_the_verb_gives_the_published_numbers_from_the_published_tables(tmp_path, capsys) -> None:
    """One command each: primate vision (mean of columns, 1 - score, conditions), and repeats that are not identified."""
    where = "dataset in ('imagenet', 'ecoset')"
    primates = (str(shared("scaling/primate_vvs.csv")), "--delta", "1e-3", "--response", "one_minus")
    want = reference()["primate_vvs"]
    got = told(tmp_path, *primates, "--form", "power1", "--x", "total_flops", "--y", "V1,V2,V4,IT", "--where", where)
    e, a, alpha = want["compute_neuro"]["published"]
    assert got["n"] == 620
    assert got["dropped"] == [{"reason": f"--where {where}", "rows": 36}]
    assert got["parameters"]["E"] == pytest.approx(np.exp(e), abs=5e-6)
    assert got["parameters"]["A"] == pytest.approx(np.exp(a) * 1e13**alpha, rel=1e-4)
    assert got["parameters"]["alpha"] == pytest.approx(alpha, abs=5e-6)
    assert got["objective"] == pytest.approx(want["compute_neuro"]["objective"], rel=1e-9)
    assert got["derived"]["S_inf"]["estimate"] == pytest.approx(0.4773, abs=5e-5)
    where += " and (arch_family not in ('ConvNeXt', 'ViT') or samples_per_class in (0, 300))"
    axes = ("--x", "n_params / 1e5,n_samples_seen / 1e4", "--y", "V1,V2,V4,IT,Behavioral")
    got = told(tmp_path, *primates, "--form", "chinchilla", *axes, "--where", where)
    e, a, alpha, b, beta = want["compute_chinchilla"]["published"]
    published = {"E": np.exp(e), "A": np.exp(a), "alpha": alpha, "B": np.exp(b), "beta": beta}
    assert got["parameters"] == pytest.approx(published, abs=5e-6)
    assert got["objective"] == pytest.approx(want["compute_chinchilla"]["objective"], rel=1e-9)
    core = [part for name, value in repeated()[2].items() for part in ("--fix", f"{name}={value!r}")]
    axes = ("--x", "n_params,n_tokens,n_unique", "--y", "loss", "--where", "in_published_fit == 1", "--delta", "1e-3")
    got = told(tmp_path, str(shared("scaling/datablations.csv")), "--form", "data_constrained", *axes, *core)
    assert (got["n"], got["rows"]) == (182, 296)
    assert "not_identified" in got["flag_codes"]
    assert got["profile_intervals"]["R_D"][1] is None
    assert "R_D = 95.4 is not identified" in capsys.readouterr().out


def test_one_model_with_and_without_an_interaction_of_two_axes() -> None:
    """The joint law against Kaplan's on the same 182 runs: which one the objective prefers is a matter of the data."""
    x, y, _ = repeated()
    objective = {
        name: fit(make_form(name), x[:, :2], y, delta=1e-3).objective
        for name in ("chinchilla", "kaplan", "kaplan_floor", "interaction")
    }
    assert objective["kaplan_floor"] <= objective["kaplan"] * (1 + 1e-9)
    assert objective["interaction"] <= objective["chinchilla"] * (1 + 1e-9)
