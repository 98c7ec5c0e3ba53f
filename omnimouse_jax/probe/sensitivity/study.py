"""The sensitivity probe from runs to a result: measures every model under every norm, then sets them side by side."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.probe.sensitivity.balls import NORMS, Ball
from omnimouse_jax.probe.sensitivity.causality import dependence, profile
from omnimouse_jax.probe.sensitivity.compare import compare
from omnimouse_jax.probe.sensitivity.curves import Resamples
from omnimouse_jax.probe.sensitivity.measure import Measured, kept_or_measured, measure
from omnimouse_jax.probe.sensitivity.models import Contestant, Lineup, gather
from omnimouse_jax.probe.sensitivity.options import Options
from omnimouse_jax.probe.sensitivity.pictures import pictures
from omnimouse_jax.probe.sensitivity.summary import of_norm
from omnimouse_jax.probe.settings import plain, provenance, write_probe
from omnimouse_jax.progress import Progress

NAME = "sensitivity"
PARTS = "parts"


def probe(runs: Sequence[Run], options: Options, out: Path) -> dict[str, Any]:
    """Measures, writes OUT/sensitivity.json and returns what is in it. What was measured before is read from OUT/parts."""
    _require(options)
    begun = time.monotonic()
    lineup = gather(runs, options)
    direction = recorded_direction(lineup)
    balls = [Ball.of(norm, options.framewise) for norm in options.norms]
    progress = Progress(100 * len(balls) * len(lineup.models), label="sensitivity ")
    measured: dict[str, list[Measured]] = {ball.norm: [] for ball in balls}
    done = 0
    for model in lineup.models:
        for ball in balls:

            def told(part: str, share: float, name: str = f"{model.name}, {ball.norm}", first: int = done) -> None:
                progress.show(first + round(100 * share), f"{name}: {part}")

            def run(model: Contestant = model, ball: Ball = ball, told: Any = told) -> Measured:
                return measure(model.subject, ball, lineup.neurons, direction, options, told)

            found, _ = kept_or_measured(Path(out) / PARTS, _identity(model, lineup, ball), options, run)
            measured[ball.norm].append(found)
            done += 100
    progress.close()
    results = _results(lineup, measured, options)
    results["seconds"] = time.monotonic() - begun
    about = provenance(runs[0], **dataclasses.asdict(options))
    about["models"] = {model.name: {"kind": model.kind, **model.provenance} for model in lineup.models}
    about["parts"] = PARTS
    write_probe(Path(out), NAME, about, results)
    return {"provenance": plain(about), **plain(results)}


def recorded_direction(lineup: Lineup) -> Float[np.ndarray, " N"]:
    """t of the directional attack: the first principal component of recorded responses (window means, z-scored by neuron) over the
    reference windows, of norm 1 and, summed, positive. The same for every model. Not recorded counts as the neuron's mean.
    """
    values = []
    for at in range(0, len(lineup.windows), 32):
        recorded = lineup.first.load(lineup.windows[at : at + 32]).recorded.astype(np.float64)
        there = np.isfinite(recorded)
        values.append(np.where(there, recorded, 0.0).sum(1) / np.where(there.any(1), there.sum(1), np.nan))
    means = np.concatenate(values)
    there = np.isfinite(means)
    centre = np.where(there, means, 0.0).sum(0) / np.maximum(there.sum(0), 1)
    centred = np.where(there, means - centre, 0.0)
    sd = centred.std(0)
    scaled = centred / np.where(sd > 0, sd, 1.0)
    direction = np.linalg.svd(scaled, full_matrices=False)[2][0]
    return direction * (1.0 if direction.sum() >= 0 else -1.0)


def _results(lineup: Lineup, measured: dict[str, list[Measured]], options: Options) -> dict[str, Any]:
    first = lineup.first
    n_attacked = lineup.models[0].subject.n_stimuli
    resamples = {
        model.name: Resamples.draw(options.bootstrap, n_attacked, model.subject.included, options.seed)
        for model in lineup.models
    }
    rng = np.random.default_rng(options.seed)
    n = len(lineup.windows)
    of_reference = rng.multinomial(n, np.full(n, 1 / n), options.bootstrap).astype(np.float64)
    models = []
    for number, model in enumerate(lineup.models):
        subject = model.subject
        found = dependence(subject, options.causality_stimuli, options.seed)
        causal = profile(found, first.sample_times, first.frame_times)
        per_norm = {
            norm: of_norm(subject, of_models[number], lineup, options, resamples[model.name])
            for norm, of_models in measured.items()
        }
        models.append(
            {
                "name": model.name,
                "kind": model.kind,
                "group": model.group,
                **model.provenance,
                "excluded_neurons": int((~subject.included).sum()),
                "model_sd": np.quantile(subject.sigma, [0.0, 0.25, 0.5, 0.75, 1.0]),
                "causality": causal._asdict(),
                "norms": per_norm,
            }
        )
    return {
        "session": first.session,
        "regime": first.regime,
        "frames": {"shape": first.frames_shape, "times_s": first.frame_times},
        "samples_s": first.sample_times,
        "dim": lineup.models[0].subject.dim,
        "n_neurons": first.n_neurons,
        "neuron_sample": lineup.neurons,
        "neuron_ids": np.asarray(first.neuron_ids)[lineup.neurons],
        "stimuli": [
            {"start_s": window.start, "content": content}
            for window, content in zip(lineup.windows[:n_attacked], lineup.contents, strict=False)
        ],
        "reference_windows": len(lineup.windows),
        "recorded_signal": {
            "moments": lineup.signal.groups,
            "windows": lineup.signal.windows,
            "known": lineup.signal.known,
            "median_sd": float(np.nanmedian(lineup.signal.sd)) if np.isfinite(lineup.signal.sd).any() else None,
            "unreliable_neurons": None if lineup.reliable is None else int((~lineup.reliable).sum()),
        },
        "models": models,
        **compare(lineup, measured, options, resamples, of_reference),
        "pictures": pictures(lineup, measured, options),
    }


def _identity(model: Contestant, lineup: Lineup, ball: Ball) -> dict[str, Any]:
    return {
        "version": __version__,
        "kind": model.kind,
        "checkpoint": model.provenance["checkpoint_hash"],
        "store": model.predictor.run.store.name,
        "windows": [window.start for window in lineup.windows],
        "neurons": lineup.neurons,
        "ball": ball,
    }


def _require(options: Options) -> None:
    for name in ("stimuli", "reference", "neurons", "steps", "full_steps", "pairs", "directions", "bootstrap", "rows"):
        if getattr(options, name) < 1:
            raise UserError(f"{name} is {getattr(options, name)}", way_out="use a positive whole number")
    if not options.norms or any(norm not in NORMS for norm in options.norms):
        raise UserError(f"norm {options.norms} is not known", way_out="use l2, linf or both")
    budgets = options.budgets
    if not budgets or any(b <= 0 for b in budgets) or list(budgets) != sorted(set(budgets)):
        raise UserError(
            f"budgets {budgets} do not rise from above 0", way_out="list them smallest first, in grey levels of 255"
        )
