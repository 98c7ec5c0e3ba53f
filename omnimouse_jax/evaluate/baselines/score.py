"""Fits baselines to the training tiers and scores them as `evaluate` scores a model: same windows, samples, neurons, estimators."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.baselines.problem import BaselineSource, Fits, NotApplicable, Problem, predicts
from omnimouse_jax.evaluate.baselines.registry import get
from omnimouse_jax.evaluate.evaluation import TABLES, Evaluation, stacked
from omnimouse_jax.evaluate.evaluator import NEURONS_SUFFIX, evaluation
from omnimouse_jax.evaluate.scoring import alike
from omnimouse_jax.progress import duration
from omnimouse_jax.training import track
from omnimouse_jax.training.setup import Parts, regimes_of


@dataclasses.dataclass
class Scored:
    """All that came out. `evaluations` by baseline, over the tasks and sessions that it is defined for; `fits`: for every baseline,
    task and session what the fit chose, or why there is none.
    """

    evaluations: dict[str, Evaluation] = dataclasses.field(default_factory=dict)
    fits: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows as in evaluation.json, the baseline's name under `source`."""
        return [{"source": name, **row} for name, found in self.evaluations.items() for row in found.rows]

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """`folder`/BASELINE/evaluation.json and -neurons.npz, as in a run folder, and all rows in `folder`/evaluation.json.

        about: further fields of that file, such as seed and settings.
        """
        for name, found in self.evaluations.items():
            file = folder / name / "evaluation.json"
            told = {"source": name, "tiers": list(found.tiers), "rows": [{"source": name, **row} for row in found.rows]}
            track.write_json(file, {**told, "metrics": found.metrics, "ceilings": found.ceilings, **about})
            found.save(file.with_name(file.stem + NEURONS_SUFFIX))
        before = folder / "evaluation.json"
        kept = json.loads(before.read_text()) if before.exists() else {}
        new = {row["source"] for row in self.fits}
        both = {
            name: [row for row in kept.get(name, []) if row["source"] not in new] + rows
            for name, rows in (("rows", self.rows), ("fits", self.fits))
        }
        track.write_json(before, {**about, **both})


def score_baselines(
    parts: Parts,
    tasks: Mapping[str, str],
    sessions: Sequence[str],
    names: Sequence[str] = (),
    seed: int = 0,
    params: Any = None,
    quiet: bool = False,
) -> Scored:
    """Every baseline on every task and session that it is defined for.

    tasks: task -> regime (name or expression). names: of baselines (default: all). params: of a trained model, on `parts.mesh`, for
    the baselines that need one. UserError for a session that is not known, named twice, or has nothing to score.
    """
    baselines = get(names)
    for key in sessions:
        parts.vocabulary.session_row(key)
    if len(set(sessions)) < len(sessions):
        raise UserError("baselines: a session is named twice", way_out="name each once")
    found: dict[str, list[Evaluation]] = {name: [] for name in baselines}
    out = Scored()
    for task, text in tasks.items():
        regime = regimes_of([text], parts.model.grid)[0]
        for keys in alike(parts, regime, sessions):
            problem = Problem(parts, keys, regime, seed, params)
            for name, baseline in baselines.items():
                began = time.monotonic()
                fits = baseline.fit(problem)
                seconds = time.monotonic() - began
                out.fits += [_told(name, task, key, fits) for key in keys]
                fitted = [key for key in keys if not isinstance(fits[key], NotApplicable)]
                if fitted:
                    own = getattr(baseline, "source", None)
                    source = BaselineSource(name, fits) if own is None else own(problem, name, fits)
                    found[name].append(_what_it_says(evaluation(parts, source, {task: text}, fitted), fits))
                if not quiet:
                    print(_line(name, task, fits, seconds), flush=True)
    out.evaluations = {name: together(each) for name, each in found.items() if each}
    return out


def together(evaluations: Sequence[Evaluation]) -> Evaluation:
    """Evaluations of one source on different tasks as one."""
    first = evaluations[0]
    lists: dict[str, Any] = {
        name: [row for e in evaluations for row in getattr(e, name)] for name in ("rows", "metrics", "ceilings")
    }
    tables: dict[str, Any] = {
        name: stacked([table for e in evaluations if (table := getattr(e, name))]) for name in TABLES
    }
    blocks = {key: value for e in evaluations for key, value in e.blocks.items()}
    regimes = {task: text for e in evaluations for task, text in e.regimes.items()}
    return dataclasses.replace(first, **lists, **tables, blocks=blocks, regimes=regimes)


def _what_it_says(found: Evaluation, fits: Fits) -> Evaluation:
    """Without rows about what the baseline does not predict, where a regime asks for both responses and behaviour."""
    kept = {kind for kind in ("response", "behavior") if predicts(fits, kind)}
    if len(kept) == 2:
        return found

    def of(metric: str) -> bool:
        return ("behavior" if metric.startswith("behavior") else "response") in kept

    changes: dict[str, Any] = {
        name: [row for row in getattr(found, name) if of(row["metric"])] for name in ("rows", "metrics")
    }
    if found.intervals:
        mine = [of(str(metric)) for metric in found.intervals["metric"]]
        changes["intervals"] = {name: values[mine] for name, values in found.intervals.items()}
    dropped = ("behavior",) if "response" in kept else ("neurons", "horizon", "time")
    changes |= {name: {} for name in dropped}
    return dataclasses.replace(found, **changes)


def _told(name: str, task: str, key: str, fits: Fits) -> dict[str, Any]:
    fitted = fits[key]
    if isinstance(fitted, NotApplicable):
        return {"source": name, "task": task, "session": key, "not_applicable": fitted.reason}
    return {"source": name, "task": task, "session": key, "chosen": fitted.note}


def _line(name: str, task: str, fits: Fits, seconds: float) -> str:
    reasons = {fitted.reason for fitted in fits.values() if isinstance(fitted, NotApplicable)}
    fitted = sum(not isinstance(one, NotApplicable) for one in fits.values())
    if not fitted:
        return f"{task}: {name} not applicable: {'; '.join(sorted(reasons))}"
    missing = f", not to {len(fits) - fitted} ({'; '.join(sorted(reasons))})" if reasons else ""
    return f"{task}: {name} fitted to {fitted} session{'s' * (fitted > 1)}{missing} in {duration(seconds)}"
