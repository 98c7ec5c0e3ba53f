"""Agreement with published fits: numbers that nobody here wrote, on the tables that came with the papers."""

from __future__ import annotations

import csv
import json
from collections import defaultdict

import numpy as np
import pytest

from omnimouse_jax.scaling.fit import fit
from omnimouse_jax.scaling.forms import make_form
from omnimouse_jax.scaling.uncertainty import bootstrap
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


def test_language_model_law_without_repeats_explains_repeated_data_poorly() -> None:
    """Muennighoff et al. 2023: R2 of the two-axis law at the published constants, tokens counted as if all were new."""
    want = reference()["datablations"]
    rows = [r for r in table("datablations.csv") if r["in_published_fit"] == "1"]
    assert len(rows) == want["n"]
    fixed = want["fixed"]
    x = np.stack([column(rows, "n_params"), column(rows, "n_tokens")], 1)
    form = make_form("chinchilla", response="raw")
    theta = np.array([np.exp(fixed["e"]), fixed["a"], fixed["alpha"], fixed["b"], fixed["beta"]])
    value = form.evaluate(theta, np.log(x))[0]
    y = column(rows, "loss")
    r2 = 1 - np.sum((y - value) ** 2) / np.sum((y - y.mean()) ** 2)
    assert r2 == pytest.approx(want["published"]["R2_no_decay"], rel=1e-6)
