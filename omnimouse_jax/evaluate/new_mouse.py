"""A new mouse, one command: check, adapt a trained model to it, and say how good that is and what it would have been otherwise.

Everything that is trained is a run folder under the output folder (new_mouse_runs), so a stopped call goes on where it was. What is
compared, each with the same minutes of the new recording:
- before: the trained model with rows that nothing was trained on yet (starts);
- adapted: the same after training the new rows only, the core frozen; then, if asked, low-rank adapters of the core, or all of it;
- scratch: the same architecture trained on each session alone, all of it, at the better of a few learning rates;
- ridge: a linear regression, for the tasks that have one (new_mouse_ridge).

Checkpoints are chosen by the validation tier; scores are of the test tier, which nothing else looks at.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate import new_mouse_checks as checks
from omnimouse_jax.evaluate.new_mouse_asked import CURVE, Asked, require_same_call, require_sensible
from omnimouse_jax.evaluate.new_mouse_page import write_page
from omnimouse_jax.evaluate.new_mouse_results import per_neuron, traces
from omnimouse_jax.evaluate.new_mouse_ridge import ridge_rows
from omnimouse_jax.evaluate.new_mouse_runs import (
    STAGES,
    Before,
    adapted,
    begin_from,
    config_for,
    finished,
    scored,
)
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.model.counts import describe
from omnimouse_jax.progress import duration
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.training import adapters, track
from omnimouse_jax.training.setup import Parts, prepare
from omnimouse_jax.training.step import Trained


def finetune(asked: Asked, say: Callable[[str], None] = print, command: str = "") -> dict[str, Any]:
    """Does it all; returns what is in OUT/result.json. UserError before anything is trained where it cannot be done.

    `command`: how to do it again, for the page.
    """
    require_sensible(asked)
    require_same_call(asked)
    before = Before.of(asked.run, asked.checkpoint)
    checks.require_new(asked.sessions, before.vocabulary, str(asked.run))
    work = _Work(asked, before, say)
    told = work.tell()
    if before.step and not (asked.run / "run.json").exists():
        of = before.config.train.steps
        told.append(f"note: {asked.run} is not done (step {before.step} of {of}): go on training it for a better start")
        say(told[-1])
    track.write_json(asked.workdir / "asked.json", asked.to_json())
    result: dict[str, Any] = {
        "from": str(asked.run),
        "checkpoint_step": before.step,
        "store": asked.store,
        "sessions": list(asked.sessions),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "command": command,
        "told": told,
        "start": asked.start,
        "seed": asked.seed,
        "tasks": Run(asked.run).regimes,
        "tier": "+".join(before.config.evaluation.tiers),
        "stages": [],
        "scores": [],
        "curve": [],
    }
    for part in work.parts():
        part(result)
        track.write_json(asked.workdir / "result.json", result)
    models = {"before": work.folder("before"), "adapted": work.folder(work.last)}
    result["run"] = str(models["adapted"])
    scratch = {key: Path(path) for key, path in result.get("scratch_runs", {}).items()}
    result["per_neuron"] = per_neuron(models, scratch, asked.sessions, result["scores"])
    result["traces"] = traces(models, scratch, asked.sessions)
    track.write_json(asked.workdir / "result.json", result)
    result["page"] = str(write_page(result, asked.workdir))
    return result


#: One part of the work: adds what it found to the result.
Job = Callable[[dict[str, Any]], None]


class _Work:
    """The parts of one call, in order, with how long they may still take."""

    def __init__(self, asked: Asked, before: Before, say: Callable[[str], None]):
        self.asked, self.before, self.say = asked, before, say
        self.store = Store.open(asked.store)
        self.trained_on = _store_of(before)
        self.last = f"{len(asked.stages)}-{asked.stages[-1]}"
        self.config = config_for(
            before.config, asked.store, asked.sessions, 0.0, asked.lengths["tables"], "tables", asked.seed
        )
        vocabulary = before.vocabulary.extended({key: self.store.summary(key) for key in asked.sessions})
        for key in asked.sessions:
            checks.require_screen(key, self.store.summary(key)["screen_size"], tuple(before.config.model.screen))
        self.whole: Parts = prepare(self.config, vocabulary)
        self.minutes = {key: _training_minutes(self.whole, key) for key in asked.sessions}

    def folder(self, name: str) -> Path:
        return self.asked.workdir / name

    def tell(self) -> list[str]:
        """Checks everything and prints what will be done; returns the lines."""
        asked, before = self.asked, self.before
        lines = [f"from {asked.run}, step {before.step}: {len(before.vocabulary.sessions)} sessions, "
                 f"{before.vocabulary.n_neurons:,} neurons of {len(before.vocabulary.animals)} animals"]  # fmt: skip
        lines += checks.compatibility(self.whole, asked.sessions)
        train_tiers = tuple(before.config.data.tiers)
        lines += checks.leakage(self.whole, asked.sessions, before.vocabulary, self.trained_on, train_tiers)
        lines += self._counts()
        if not self._validates():
            lines.append("no validation tier: nothing stops early, the last checkpoint counts")
        for line in lines:
            self.say(line)
        return lines

    def _validates(self) -> bool:
        tiers = self.config.train.validation_tiers
        return any(self.store.summary(key)["trials"].get(tier) for key in self.asked.sessions for tier in tiers)

    def _counts(self) -> list[str]:
        """What is frozen, what is trained and what of that is fresh."""
        model, known = self.whole.model, self.before.vocabulary
        new = [self.whole.vocabulary.entry(key) for key in self.asked.sessions]
        animals = {entry.animal for entry in new} - {*known.animals}
        fresh = describe(model, sum(entry.n_neurons for entry in new), len(new), len(animals))
        old = describe(model, known.n_neurons, len(known.sessions), len(known.animals))
        lora = Trained.of("adapters", self.config.train.adapter_rank).rank
        added = sum(
            int(pair[side].size)
            for pair in adapters.draw(self.before.params["core"], lora, 0).values()
            for side in pair
        )
        told = {
            "tables": f"frozen: core ({fresh['core']:,} parameters) and rows of other sessions ({old['tables']:,}); "
            f"trained: the new rows, fresh ({fresh['tables']:,})",
            "adapters": f"frozen: core ({fresh['core']:,}); trained: the new rows and adapters of rank {lora} ({added:,}, fresh)",
            "core": f"trained: the core ({fresh['core']:,}) and the new rows; nothing is frozen but rows of other sessions "
            f"({old['tables']:,}), which fit this core no longer",
        }
        self.sizes = {
            "tables": (fresh["tables"], fresh["core"] + old["tables"]),
            "adapters": (fresh["tables"] + added, fresh["core"] + old["tables"]),
            "core": (fresh["tables"] + fresh["core"], old["tables"]),
        }
        lines = [f"stage {number}, {stage}: {told[stage]}" for number, stage in enumerate(self.asked.stages, 1)]
        return [*lines, f"rows begin by {self.asked.start!r}; what they look at is of the training tiers only"]

    def points(self) -> list[float]:
        """Minutes of the learning curve, less than all of them."""
        most = max(self.minutes.values())
        if self.asked.minutes is not None:
            return sorted({m for m in self.asked.minutes if m < most})
        rest = itertools.takewhile(lambda m: m < most, (10.0 * 2**k for k in itertools.count()))
        return [m for m in (*CURVE, *rest) if m < most]

    def parts(self) -> Iterator[Job]:
        """What there is to do: the whole recording first, then the curve from few minutes to many."""
        asked = self.asked
        jobs: list[tuple[str, float, Job]] = [("before", 0.1, self._before)]
        for number, stage in enumerate(asked.stages):
            jobs.append((stage, 1.0, partial(self._stage, number)))
        for key in asked.sessions if asked.scratch else ():
            for rate in asked.scratch_rates:
                jobs.append((f"{key} from scratch", 4.0, partial(self._try_rate, key, rate)))
            jobs.append((f"{key} from scratch, the better one", 0.0, partial(self._scratch_scores, key)))
        for key in asked.sessions if asked.ridge else ():
            jobs.append((f"{key}, ridge", 0.1, partial(self._ridge, key, 0.0)))
        for m in self.points():
            jobs.append((f"{m:g} min", 1.0, partial(self._adapted_point, m)))
            for key in asked.sessions if asked.scratch else ():
                jobs.append((f"{m:g} min of {key} from scratch", 4.0, partial(self._scratch_point, key, m)))
            for key in asked.sessions if asked.ridge else ():
                jobs.append((f"{m:g} min of {key}, ridge", 0.1, partial(self._ridge, key, m)))
        began, done, total = time.monotonic(), 0.0, sum(weight for _, weight, _ in jobs)
        for number, (name, weight, job) in enumerate(jobs, 1):
            spent = time.monotonic() - began
            left = f", about {duration(spent / done * (total - done))} left" if done > 0.5 else ""
            print(f"[{number}/{len(jobs)}] {name}{left}", file=sys.stderr, flush=True)
            yield job
            done += weight

    def _config(self, stage: str, keys: Sequence[str], minutes: float, length: str = "") -> Any:
        """`length`: which of the lengths asked for, if not the stage's own."""
        asked = self.asked
        how_long = asked.lengths[length or stage]
        return config_for(self.before.config, asked.store, keys, minutes, how_long, STAGES[stage], asked.seed)

    def _before(self, result: dict[str, Any]) -> None:
        folder = self.folder("before")
        begin_from(folder, self.before, self.config, self.asked.sessions, self.asked.start, self.trained_on)
        result["scores"] += _named("before", scored(folder)["rows"])

    def _stage(self, number: int, result: dict[str, Any]) -> None:
        stage, names = self.asked.stages[number], ["before", *(f"{n}-{s}" for n, s in enumerate(self.asked.stages, 1))]
        folder = self.folder(names[number + 1])
        found = self._trained(folder, self.folder(names[number]), stage, 0.0)
        trained, frozen = self.sizes[stage]
        result["stages"].append(
            {
                "name": stage,
                "run": str(folder),
                "steps": self.asked.lengths[stage].steps,
                "stopped_at": found["steps"],
                "best_step": found["checkpoint_step"],
                "seconds": found["seconds"],
                "trained_parameters": trained,
                "frozen_parameters": frozen,
                "validation": found["validation"],
            }
        )
        if number == len(self.asked.stages) - 1:
            result["scores"] += _named("adapted", found["rows"])
            self._curve(result, found, "adapted", 0.0, self.asked.sessions)

    def _trained(self, folder: Path, parent: Path | None, stage: str, minutes: float) -> dict[str, Any]:
        """One stage, from the best checkpoint of `parent`, or from the pre-training."""
        asked = self.asked
        config = self._config(stage, asked.sessions, minutes)
        if (folder / "evaluation.json").exists():
            return finished(folder, config)
        before = self.before if parent is None else Before.of(parent)
        return adapted(folder, before, config, asked.sessions, asked.start, self.trained_on)

    def _adapted_point(self, minutes: float, result: dict[str, Any]) -> None:
        parent: Path | None = None
        found: dict[str, Any] = {}
        for number, stage in enumerate(self.asked.stages, 1):
            folder = self.folder(f"curve/{minutes:g}min/{number}-{stage}")
            found = self._trained(folder, parent, stage, minutes)
            parent = folder
        self._curve(result, found, "adapted", minutes, self.asked.sessions)

    def _scratch(self, key: str, minutes: float, rate: float) -> dict[str, Any]:
        config = self._config("core", [key], minutes, "scratch")
        for group in (config.optimizer.shared, config.optimizer.session):
            group.learning_rate = group.learning_rate * rate
        where = f"curve/{minutes:g}min" if minutes else "."
        return finished(self.folder(f"{where}/scratch-{key}-{rate:g}"), config)

    def _try_rate(self, key: str, rate: float, result: dict[str, Any]) -> None:
        self._scratch(key, 0.0, rate)

    def _best_rate(self, key: str) -> float:
        """The learning rate with the lowest validation loss on the whole recording."""
        found = {rate: self._scratch(key, 0.0, rate) for rate in self.asked.scratch_rates}
        losses = {rate: min((loss for _, loss in f["validation"]), default=float("inf")) for rate, f in found.items()}
        return min(losses, key=lambda rate: losses[rate])

    def _scratch_scores(self, key: str, result: dict[str, Any]) -> None:
        rate = self._best_rate(key)
        found = self._scratch(key, 0.0, rate)
        result["scores"] += _named("scratch", found["rows"])
        result.setdefault("scratch_runs", {})[key] = str(self.folder(f"scratch-{key}-{rate:g}"))
        result.setdefault("scratch_learning_rates", {})[key] = rate
        self._curve(result, found, "scratch", 0.0, [key])

    def _scratch_point(self, key: str, minutes: float, result: dict[str, Any]) -> None:
        self._curve(result, self._scratch(key, minutes, self._best_rate(key)), "scratch", minutes, [key])

    def _ridge(self, key: str, minutes: float, result: dict[str, Any]) -> None:
        where = f"curve/{minutes:g}min" if minutes else "."
        file = self.folder(f"{where}/ridge-{key}.json")
        if not file.exists():
            parts = dataclasses.replace(self.whole, config=self._config("tables", [key], minutes))
            track.write_json(file, ridge_rows(parts, key, dict(self.config.evaluation.tasks)))
        rows = json.loads(file.read_text())
        if not minutes:
            result["scores"] += _named("ridge", rows)
        self._curve(result, {"rows": rows, "steps": 0}, "ridge", minutes, [key])

    def _curve(
        self, result: dict[str, Any], found: dict[str, Any], method: str, minutes: float, keys: Sequence[str]
    ) -> None:
        names = ("session", "task", "metric", "channel", "score", "score_low", "score_high")
        for row in found["rows"]:
            if row["session"] in keys and row["channel"] in ("", "mean"):
                told = {name: row[name] for name in names}
                more = {"minutes": min(minutes or 1e9, self.minutes[row["session"]]), "method": method}
                result["curve"].append({**told, **more, "seed": self.asked.seed, "steps": found["steps"]})


def summary(result: dict[str, Any]) -> str:
    """Session x task as text: what each method reaches with all minutes, and the ceiling."""
    methods = [m for m in ("before", "adapted", "scratch", "ridge") if any(r["method"] == m for r in result["scores"])]
    rows = [row for row in result["scores"] if row["channel"] in ("", "mean")]
    width = max(len(row["session"]) for row in rows)
    lines = [" ".join([f"{'session':<{width}}", f"{'task':<14}", *(f"{m:>8}" for m in methods), f"{'ceiling':>8}"])]
    for key, task in dict.fromkeys((row["session"], row["task"]) for row in rows):
        mine = {row["method"]: row for row in rows if (row["session"], row["task"]) == (key, task)}
        cells = [f"{mine[m]['score']:>8.3f}" if m in mine else f"{'-':>8}" for m in methods]
        top = next((row["ceiling"] for row in mine.values() if row["ceiling"] is not None), None)
        lines.append(" ".join([f"{key:<{width}}", f"{task:<14}", *cells, f"{'-' if top is None else f'{top:.3f}':>8}"]))
    return "\n".join(lines)


def _named(method: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**row, "method": method} for row in rows]


def _training_minutes(parts: Parts, key: str) -> float:
    """Minutes of the training tiers that windows may lie in."""
    hours = parts.store.summary(key)["tier_hours"]
    return 60 * sum(hours.get(tier, 0.0) for tier in parts.config.data.tiers)


def _store_of(before: Before) -> Store | None:
    """The recordings of the pre-training, where they can be opened and are those."""
    try:
        store = Store.open(before.config.data.store)
    except (UserError, OSError):
        return None
    return store if any(entry.key in store for entry in before.vocabulary.sessions) else None
