"""Models side by side: what separates them, transfer of perturbations, and overlap of the spaces they lie in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax.probe.sensitivity.attacks import neurons_up_and_down
from omnimouse_jax.probe.sensitivity.curves import Apart, Curve, Interval, Resamples, apart, area
from omnimouse_jax.probe.sensitivity.measure import Measured
from omnimouse_jax.probe.sensitivity.models import Lineup
from omnimouse_jax.probe.sensitivity.options import Options
from omnimouse_jax.probe.sensitivity.transfer import overlap, signed, transfer


def compare(
    lineup: Lineup,
    measured: Mapping[str, Sequence[Measured]],
    options: Options,
    resamples: Mapping[str, Resamples],
    of_reference: Float[np.ndarray, "K W"],
) -> dict[str, Any]:
    """`predictivity` by model, `discriminability` for sensitivity (A) and predictivity, and per norm `transfer` and `overlap`."""
    everything = np.ones((1, of_reference.shape[1]))
    scores = [model.sums.correlation(everything)[0] for model in lineup.models]
    drawn = np.stack([model.sums.correlation(of_reference) for model in lineup.models], 1)
    names = [model.name for model in lineup.models]
    groups = [model.group for model in lineup.models]
    predictivity = {
        name: Interval.of(float(score), drawn[:, number])._asdict()
        for number, (name, score) in enumerate(zip(names, scores, strict=True))
    }
    labels = {group: _label([name for name, g in zip(names, groups, strict=True) if g == group]) for group in groups}
    separated: dict[str, Any] = {}
    for by, members in (("models", None), ("architectures", [labels[group] for group in groups])):
        table = {"predictivity": _told(apart(drawn, np.asarray(scores), names, members, options.seed))}
        for norm, of_models in measured.items():
            curves = [
                Curve.of(options.budgets, found.squares, model.subject.included, resamples[model.name])
                for found, model in zip(of_models, lineup.models, strict=True)
            ]
            draws = np.stack([area(curve.budgets, curve.draws) for curve in curves], 1)
            means = np.array([float(area(curve.budgets, curve.mean)) for curve in curves])
            table[f"sensitivity {norm}"] = _told(apart(draws, means, names, members, options.seed))
        separated[by] = table
    return {
        "predictivity": {
            "measure": "mean over neurons of the single-trial correlation on the reference windows",
            **predictivity,
        },
        "discriminability": separated,
        "transfer": {norm: _transfer(lineup, found, options, resamples) for norm, found in measured.items()},
        "overlap": {norm: _overlap(lineup, found, options) for norm, found in measured.items()},
    }


def _transfer(
    lineup: Lineup, found: Sequence[Measured], options: Options, resamples: Mapping[str, Resamples]
) -> dict[str, Any]:
    subjects = [model.subject for model in lineup.models]
    stimuli = resamples[lineup.models[0].name].stimuli
    of_budget = []
    for e in range(len(options.budgets)):
        shifts = np.array([[b.distance(a.d[e]) for b in subjects] for a in found])
        random = np.array(
            [
                np.sqrt((one.random[e] * subject.included).sum(-1) / max(int(subject.included.sum()), 1)).mean(-1)
                for one, subject in zip(found, subjects, strict=True)
            ]
        )
        of_budget.append(transfer(shifts, random, stimuli)._asdict())
    which = neurons_up_and_down(np.arange(options.neuron_stimuli), lineup.neurons, subjects[0].n_neurons)
    at, goals = which.at[: found[0].neuron_d.shape[1]], which.goals
    assert goals is not None
    per_neuron = []
    for e in range(len(options.neuron_budgets)):
        reached = [
            [(subject.shift(one.neuron_d[e], at).mean(1) * goals).sum(-1) for subject in subjects] for one in found
        ]
        pairs = [[signed(reached[b][b], reached[a][b]) for b in range(len(found))] for a in range(len(found))]
        per_neuron.append(
            {"median": [[p[0] for p in row] for row in pairs], "same_sign": [[p[1] for p in row] for row in pairs]}
        )
    return {
        "budgets": options.budgets,
        "of_budget": of_budget,
        "neuron_budgets": options.neuron_budgets,
        "of_neurons": per_neuron,
    }


def _overlap(lineup: Lineup, found: Sequence[Measured], options: Options) -> list[dict[str, Any]]:
    return [
        overlap(
            np.stack([one.d[e] for one in found]), min(options.subspace, lineup.models[0].subject.n_stimuli)
        )._asdict()
        for e in range(len(options.budgets))
    ]


def _told(pairs: Sequence[Apart]) -> dict[str, Any]:
    return {
        "pairs": [
            {"first": pair.first, "second": pair.second, **pair.difference._asdict(), "separated": pair.separated}
            for pair in pairs
        ],
        "n": len(pairs),
        "separated": sum(pair.separated for pair in pairs),
    }


def _label(names: Sequence[str]) -> str:
    """What the names of a group begin with."""
    if len(names) == 1:
        return names[0]
    common = names[0]
    while not all(name.startswith(common) for name in names):
        common = common[:-1]
    return (common.removesuffix("-seed").rstrip("-_/ ") or names[0]) + f" ({len(names)} seeds)"
