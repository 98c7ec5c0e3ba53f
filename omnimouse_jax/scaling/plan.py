"""The cells of a study: unions of products of a few tuples, and the file that lists them before anything starts."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from omnimouse_jax.configuration import GROUPS, fields, override, tuples
from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically

VERSION = 1
FILE = "plan.json"
#: What an amount of data counts. Minutes are of every session; else whole sessions are added until the count is reached.
BY = ("sessions", "animals", "neurons", "minutes")
#: Amounts by name, in `study.also`: all but the two largest, and the largest.
SMALL, LARGEST = "small", "largest"
#: The axes of a product. `study.also` names further products, each changing some of these.
AXES = ("sizes", "amounts", "orders", "seeds", "rates")
RATES = ("optimizer.shared.learning_rate", "optimizer.session.learning_rate")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run of a study. `sessions` are trained on; `evaluation_sessions`, always among them, are scored.

    `changes` are all dotted fields in which the run's config differs from the study's. At each step of `anneal`, which the run
    keeps, a branch of `anneal_steps` is annealed and scored too. `estimate`: what the run is expected to take (`launch.planning`).
    """

    run_id: str
    size: str
    changes: Mapping[str, Any]
    sessions: tuple[str, ...]
    evaluation_sessions: tuple[str, ...]
    amount: int | float
    order: int
    seed: int
    rate: float = 1.0  # multiple of the config's peak learning rates
    anneal: tuple[int, ...] = ()
    anneal_steps: int = 0
    labels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    config_hash: str = ""
    estimate: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a study will do: `plan.json` of its folder."""

    study: str
    config: Mapping[str, Any]  # with the `study` group
    cells: tuple[Cell, ...]
    created: str = ""
    omnimouse_jax: str = ""
    command: str = ""
    machine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    totals: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    design: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def cell(self, run_id: str) -> Cell:
        """By name. UserError with near names."""
        for cell in self.cells:
            if cell.run_id == run_id:
                return cell
        raise UserError(f"plan: no cell {run_id}", way_out=f"cells: {', '.join(c.run_id for c in self.cells[:4])}, ...")

    def config_of(self, cell: Cell) -> ConfigDict:
        """The complete config of a cell's run, without the study."""
        return cell_config(ConfigDict(tuples(self.config)), cell)

    def write(self, folder: Path | str) -> Path:
        """FOLDER/plan.json, atomically."""
        path = Path(folder) / FILE
        values = {"version": VERSION, **dataclasses.asdict(self)}
        write_atomically(path, json.dumps(values, indent=1) + "\n")
        return path

    @classmethod
    def read(cls, path: Path | str) -> Plan:
        """From a study folder or its plan.json. UserError names the file and what is wrong with it."""
        path = Path(path)
        path = path / FILE if path.is_dir() else path
        if not path.is_file():
            raise UserError(f"plan {path}: no such file", way_out="make one with `omnimouse-jax sweep plan`")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values.pop("version", None) != VERSION:
                raise ValueError(f"not a plan of version {VERSION}")
            cells = tuple(Cell(**_cell_values(cell)) for cell in values.pop("cells"))
            return cls(cells=cells, **values)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            raise UserError(f"plan {path}: {problem}", way_out="plan the study again") from None


def _cell_values(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {**cell, **{name: tuple(cell[name]) for name in ("sessions", "evaluation_sessions", "anneal")}}


def cell_config(config: ConfigDict, cell: Cell) -> ConfigDict:
    """A study's config with one cell's choices made, and without the study."""
    made = ConfigDict(config.to_dict())
    del made["study"]
    for field, value in cell.changes.items():
        override(made, field, tuple(value) if isinstance(value, list) else value)
    return made


def cells(config: ConfigDict, summaries: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    """Every cell of a config with a `study` group, smallest amount of data first, each once.

    summaries: session -> {"animal", "n_neurons", "minutes" to train on} of the store's chosen sessions, in its order. A larger
    subset of one order contains each smaller one, and all contain the evaluation sessions. UserError names the field at fault.
    """
    study = config.study.to_dict()
    _require_fields(study)
    evaluation = _evaluation_sessions(study["evaluated"] or study["evaluation_sessions"], tuple(summaries))
    study["amounts"] = _ladder(study, evaluation, summaries)
    products = [study, *({**study, **_changes(name, part, study["amounts"])} for name, part in study["also"].items())]
    found: dict[str, Cell] = {}
    for product in products:
        for cell in _product(config, product, evaluation, summaries):
            found.setdefault(cell.run_id, cell)
    return sorted(found.values(), key=lambda cell: cell.amount)


def _ladder(
    study: Mapping[str, Any], evaluation: Sequence[str], summaries: Mapping[str, Mapping[str, Any]]
) -> tuple[float, ...]:
    """The amounts that the study names, or a few in equal ratios between the least and the most there can be."""
    if study["amounts"]:
        return tuple(sorted({float(amount) for amount in study["amounts"]}))
    if study["by"] == "minutes":
        raise UserError("config: study.amounts is empty", way_out="name minutes of every session")
    groups = _ordered(summaries, evaluation, study["by"], 0)
    held = [key for group in groups for key in group if set(group) & set(evaluation)]
    least, most = _count(held, summaries, study["by"]), _count(list(summaries), summaries, study["by"])
    ladder = np.unique(np.round(np.geomspace(least, most, max(2, study["levels"]))))
    return tuple(float(value) for value in ladder)


def _changes(name: str, part: Any, amounts: tuple[float, ...]) -> Mapping[str, Any]:
    if not isinstance(part, Mapping) or (unknown := set(part) - set(AXES)):
        told = f"has no axis {sorted(unknown)[0]!r}" if isinstance(part, Mapping) else "is not a group"
        raise UserError(f"config: study.also.{name} {told}", way_out=f"axes: {', '.join(AXES)}")
    named = {SMALL: amounts[:-2], LARGEST: amounts[-1:]}
    asked = part.get("amounts", ())
    if asked == SMALL and not named[SMALL]:
        raise UserError(
            f"config: study.also.{name}.amounts is {SMALL!r}: all but the two largest, and there are {len(amounts)}",
            way_out="name amounts, or have three at least",
        )
    if isinstance(asked, str) and asked not in named:
        raise UserError(f"config: study.also.{name}.amounts is {asked!r}", way_out=f"numbers, or {' or '.join(named)}")
    return {**part, "amounts": named[asked]} if isinstance(asked, str) else part


def _product(
    config: ConfigDict,
    product: Mapping[str, Any],
    evaluation: tuple[str, ...],
    summaries: Mapping[str, Mapping[str, Any]],
) -> Iterable[Cell]:
    by, definitions = product["by"], config.study.sizes.to_dict()
    names = product["sizes"] if not isinstance(product["sizes"], Mapping) else tuple(product["sizes"])
    axes = [sorted(set(product["amounts"])), product["orders"], names, product["seeds"], product["rates"]]
    for field, values in zip(("amounts", "orders", "sizes", "seeds", "rates"), axes, strict=True):
        if not values:
            raise UserError(f"study.{field} is empty", way_out="name at least one")
    for amount, order, size, seed, rate in itertools.product(*axes):
        if size not in definitions:
            raise UserError(f"study: no size {size!r}", way_out=f"sizes: {', '.join(definitions)}")
        sessions = subset(summaries, evaluation, by, amount, order)
        if order and set(sessions) == set(subset(summaries, evaluation, by, amount, 0)):
            continue  # the evaluation sessions alone, or all there are: no order changes them
        yield _cell(config, product, evaluation, sessions, amount, order, size, definitions[size], seed, rate)


def _cell(
    config: ConfigDict,
    study: Mapping[str, Any],
    evaluation: tuple[str, ...],
    sessions: tuple[str, ...],
    amount: int | float,
    order: int,
    size: str,
    definition: Mapping[str, Any],
    seed: int,
    rate: float,
) -> Cell:
    changes = {
        (field if field.split(".")[0] in GROUPS else f"model.{field}"): value
        for field, value in fields(ConfigDict(definition)).items()
    }
    changes |= {"seed": seed, "data.sessions": sessions, "evaluation.sessions": evaluation}
    if study["by"] == "minutes":
        changes["data.minutes"] = float(amount)
    if rate != 1:
        for field in RATES:
            peak = changes.get(field, config.optimizer[field.split(".")[1]].learning_rate)
            changes[field] = float(peak * rate)
    anneal, steps = _anneal_points(config, study["anneal"])
    if anneal:
        changes["train.keep_every"] = every = int(np.gcd.reduce(anneal))
        most = min(every, config.train.checkpoint_every)
        changes["train.checkpoint_every"] = next(step for step in range(most, 0, -1) if every % step == 0)
    parts = [
        size,
        f"{amount:g}{study['by']}",
        f"order{order}",
        f"seed{seed}",
        *([f"rate{rate:g}"] if rate != 1 else []),
    ]
    return Cell(
        run_id="-".join(parts),
        size=size,
        changes=changes,
        sessions=sessions,
        evaluation_sessions=evaluation,
        amount=float(amount),
        order=order,
        seed=seed,
        rate=float(rate),
        anneal=anneal,
        anneal_steps=steps,
        labels={"study": study["name"], "size": size, "data_order": order},
    )


def _anneal_points(config: ConfigDict, points: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where branches begin, and their steps: those of the run's own annealing, so that all points have one schedule."""
    steps, constant_until = config.optimizer.anneal_steps, config.train.steps - config.optimizer.anneal_steps
    for point in points:
        if not (steps and config.optimizer.warmup_steps <= point < constant_until):
            raise UserError(
                f"study.anneal: step {point} is not at the run's constant rate, or the run itself is not annealed",
                way_out=f"name steps from {config.optimizer.warmup_steps} to below {constant_until} (optimizer.warmup_steps, "
                "train.steps - optimizer.anneal_steps), and optimizer.anneal_steps above 0",
            )
    return tuple(sorted(points)), steps if points else 0


def subset(
    summaries: Mapping[str, Mapping[str, Any]], evaluation: Sequence[str], by: str, amount: int | float, order: int
) -> tuple[str, ...]:
    """The sessions of an amount of data: the evaluation sessions, then others in the given order until the amount is reached.

    Order 0 keeps the store's, others are seeded permutations; with `animals`, of animals with all their sessions. Minutes are the
    first ones of every session. UserError where the evaluation sessions alone hold more, or all sessions less.
    """
    if by == "minutes":
        if amount <= 0:
            raise UserError(f"study: {amount:g} minutes", way_out="study.amounts must be positive")
        most = max(float(summary["minutes"]) for summary in summaries.values())
        if amount > most * (1 + 1e-6):
            raise UserError(
                f"study: {amount:g} minutes, and no session has more than {most:.3g} to train on",
                way_out=f"study.amounts up to {most:.3g}",
            )
        return tuple(summaries)
    groups = _ordered(summaries, evaluation, by, order)
    chosen: list[str] = []
    for group in groups:
        if _count(chosen, summaries, by) >= amount and set(evaluation) <= set(chosen):
            break
        chosen += group
    have = _count(chosen, summaries, by)
    least = _count([key for group in groups for key in group if key in evaluation], summaries, by)
    exact = by == "sessions"  # an animal has the sessions that it has, and a session its neurons
    if amount < least or have < amount or (exact and have != amount):
        raise UserError(
            f"study: data amounts: {amount:g} {by} with {least:g} in the evaluation sessions and "
            f"{_count(list(summaries), summaries, by):g} in all",
            way_out="study.amounts must lie between the two",
        )
    return tuple(chosen)


def _ordered(
    summaries: Mapping[str, Mapping[str, Any]], evaluation: Sequence[str], by: str, order: int
) -> list[tuple[str, ...]]:
    """Sessions in the order in which they are added, in groups that are added whole; those of the evaluation first."""
    animal = {key: summary["animal"] if by == "animals" else key for key, summary in summaries.items()}
    first = list(dict.fromkeys(animal[key] for key in evaluation))
    rest = [name for name in dict.fromkeys(animal.values()) if name not in first]
    if order:
        rest = [rest[i] for i in np.random.default_rng([order]).permutation(len(rest))]
    return [tuple(key for key in summaries if animal[key] == name) for name in (*first, *rest)]


def _count(sessions: Sequence[str], summaries: Mapping[str, Mapping[str, Any]], by: str) -> float:
    if by == "neurons":
        return float(sum(summaries[key]["n_neurons"] for key in sessions))
    return float(len({summaries[key]["animal"] for key in sessions} if by == "animals" else sessions))


def _evaluation_sessions(wanted: int | Sequence[str], sessions: tuple[str, ...]) -> tuple[str, ...]:
    if isinstance(wanted, int) and not 0 < wanted <= len(sessions):
        raise UserError(
            f"study.evaluation_sessions is {wanted} of {len(sessions)} sessions",
            way_out="name a count between, or keys",
        )
    evaluation = sessions[:wanted] if isinstance(wanted, int) else tuple(wanted)
    unknown = [key for key in evaluation if key not in sessions]
    if unknown or not evaluation:
        raise UserError(
            f"study: evaluation session {unknown[0] if unknown else '(none named)'} is not in the store",
            way_out="`omnimouse-jax inspect STORE` lists the sessions",
        )
    return evaluation


def _require_fields(study: Mapping[str, Any]) -> None:
    missing = set(default_study()) - set(study)
    if missing:
        raise UserError(
            f"config: study has no field {sorted(missing)[0]}",
            way_out="begin from omnimouse_jax.scaling.plan.default_study()",
        )
    unknown = set(study) - set(default_study())
    if unknown:
        raise UserError(
            f"config: unknown field study.{sorted(unknown)[0]}", way_out=f"fields: {', '.join(default_study())}"
        )
    if not all(rate > 0 for rate in study["rates"]):
        raise UserError(f"config: study.rates is {study['rates']}", way_out="multiples of the peak rates, above 0")
    if study["by"] not in BY:
        raise UserError(f"config: study.by is {study['by']!r}", way_out=f"one of {', '.join(BY)}")


def default_study() -> ConfigDict:
    """Every knob of a study, declared once: the `study` group that configs begin from."""
    study = ConfigDict()
    study.name = "study"
    study.sizes = ConfigDict()  # name -> changes: fields of the model, or groups of the config with fields of theirs
    study.by = "sessions"  # what an amount of data counts: sessions, animals, neurons or minutes (of every session)
    study.amounts = ()  # empty: `levels` of them in equal ratios, from the evaluation sessions to all there is
    study.levels = 5
    study.evaluation_sessions = 1  # so many, the store's first ones, are in every subset and scored in every cell
    study.evaluated = ()  # or these, by key
    study.orders = (0,)  # independent nested orders of the other sessions; 0: the store's own
    study.seeds = (0,)
    study.rates = (1.0,)  # multiples of the config's peak learning rates
    study.also = ConfigDict()  # name -> axes that differ: further products, joined with the first
    study.anneal = ()  # steps of each run from which a branch is annealed, in as many steps as the run's own end, and scored
    study.assumed_noise = 0.005  # standard deviation between seeds of a score, for the power of the design
    study.assumed_gain = 0.02  # score per doubling of either axis, for the same
    return study
