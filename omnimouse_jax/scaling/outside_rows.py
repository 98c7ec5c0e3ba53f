"""Which rows of a table are fitted, on which scale and in which direction: decided once, and said."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import stats

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms import AXES, SCORES, Array, Labels, make_form
from omnimouse_jax.scaling.outside import Table
from omnimouse_jax.scaling.outside_where import Texts, Truth

RESPONSES = ("auto", "log", "raw", "one_minus")
LOSS_FORMS = ("pure_power", "power1", "chinchilla", "kaplan", "kaplan_floor", "interaction", "data_constrained")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked for. `higher_is_better` None: told by the form or by the direction of the values."""

    table: Path
    form: str
    x: tuple[str, ...]
    y: tuple[str, ...]
    where: str = ""
    delta: float | str = "auto"
    response: str = "auto"
    weights: str = ""
    sd: str = ""
    cluster: str = ""
    session: str = ""
    animal: str = ""
    run: str = ""
    resamples: int = 1000
    seed: int = 0
    fixed: Mapping[str, float] = dataclasses.field(default_factory=dict)
    holdout: tuple[str, ...] = ()
    higher_is_better: bool | None = None
    ceiling: float | None = None
    at: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows that are fitted: axes (n, k), values as given and as fitted, and what was left out, with reasons."""

    x: Array
    given: Array
    y: Array
    weights: Array
    clusters: Labels
    unit: str
    session: Texts | None
    animal: Texts | None
    run: Texts | None
    total: int
    dropped: tuple[tuple[str, int], ...]


def check_request(request: Request) -> None:
    if request.response not in RESPONSES:
        raise UserError(f"--response {request.response!r}", way_out=f"choose one of {', '.join(RESPONSES)}")
    if len(set(request.x)) < len(request.x):
        raise UserError(f"--x {','.join(request.x)}: the same column twice", way_out="name one column per axis")
    want = AXES.get(request.form, 1)
    if request.form in ("log_linear", "pure_power", "constant"):
        want = len(request.x)
    if len(request.x) != want:
        make_form(request.form)  # an unknown name is told first
        names = {1: "one axis", 2: "two axes, as in --x n_params,n_tokens", 3: "three axes: --x SIZE,SEEN,UNIQUE"}
        raise UserError(
            f"--form {request.form} with {len(request.x)} columns in --x", way_out=f"it takes {names[want]}"
        )
    for name in request.holdout:
        if name not in request.x:
            raise UserError(f"--holdout {name!r} is no axis", way_out=f"choose from --x: {', '.join(request.x)}")
    if request.weights and request.sd:
        raise UserError("--weights and --sd together", way_out="give one of them: weights are 1 / sd^2")
    if isinstance(request.delta, float) and not request.delta > 0:
        raise UserError(f"--delta {request.delta}", way_out="auto, a positive number, or inf for least squares")
    if request.run and not request.session:
        raise UserError("--run without --session", way_out="rows are runs then; name the column of sessions too")
    if request.at and len(request.at) != len(request.x):
        raise UserError(f"--at has {len(request.at)} values", way_out=f"give one per axis: {','.join(request.x)}")
    if request.resamples < 0 or request.resamples == 1:
        raise UserError(f"--resamples {request.resamples}", way_out="1000 or more for an interval, 0 for none")


def select_rows(table: Table, request: Request, notes: list[str]) -> Rows:
    wanted = table.where(request.where) if request.where else np.ones(len(table), dtype=bool)
    dropped = [(f"--where {request.where}", int(np.sum(~wanted)))] if request.where else []
    if not wanted.any():
        raise UserError(
            f"--where {request.where!r}: none of the {len(table)} rows of {request.table} is left",
            way_out="check the values of the columns that it names",
        )
    x = np.stack([table.value(name, "--x", wanted) for name in request.x], axis=1)
    y = np.mean([table.value(name, "--y", wanted) for name in request.y], axis=0)
    if len(request.y) > 1:
        notes.append(f"the value is the plain mean of {', '.join(request.y)}")
    named = [*zip(request.x, x.T, strict=True), (", ".join(request.y), y)]
    weights = np.ones(len(table))
    for flag, name in (("--weights", request.weights), ("--sd", request.sd)):
        if name:
            weights = table.value(name, flag, wanted)
            named.append((name, weights))
    kept = wanted.copy()
    for name, values in named:
        for reason, wrong in (("missing", np.isnan(values)), ("infinite", np.isinf(values))):
            if (kept & wrong).any():
                dropped.append((f"{reason} {name}", int(np.sum(kept & wrong))))
            kept &= ~wrong
    if not kept.any():
        told = "; ".join(f"{count} rows: {reason}" for reason, count in dropped)
        raise UserError(f"{request.table}: no row is left to fit ({told})", way_out="fill the columns or choose others")
    for name, values in named[:-1] if not (request.weights or request.sd) else named:
        positive = (*request.x, request.weights, request.sd)
        wrong = kept & (values <= 0) & (name in positive)
        if wrong.any() and request.form != "constant":
            first = int(np.flatnonzero(wrong)[0])
            raise UserError(
                f"{request.table} line {table.lines[first]}: column {name!r} is {values[first]:g} "
                f"({int(wrong.sum())} such rows), it must be positive",
                way_out=f'leave these rows out: --where "{name} > 0"',
            )
    for name, column in zip(request.x, x.T, strict=True):
        if np.ptp(column[kept]) == 0 and request.form != "constant":
            raise UserError(
                f"{request.table}: column {name!r} is {column[kept][0]:g} in all {int(kept.sum())} rows",
                way_out="an axis must vary; leave it out and choose a form of the other axis (power1, score1)",
            )
    x, y, weights = x[kept], y[kept], weights[kept]
    clusters, unit = _clusters(table, request, kept, x)
    session, animal, run = (
        table.texts(name, flag)[kept] if name else None
        for flag, name in (("--session", request.session), ("--animal", request.animal), ("--run", request.run))
    )
    return Rows(
        x, y, 1 - y if request.response == "one_minus" else y, weights, clusters, unit, session, animal, run,
        len(table), tuple(dropped),
    )  # fmt: skip


def _clusters(table: Table, request: Request, kept: Truth, x: Array) -> tuple[Labels, str]:
    if request.cluster == "rows":
        return np.arange(len(x), dtype=np.int64), "rows"
    if request.cluster:
        names = table.texts(request.cluster, "--cluster")[kept]
        return np.unique(names, return_inverse=True)[1].astype(np.int64), f"clusters ({request.cluster})"
    labels = np.unique(x, axis=0, return_inverse=True)[1].ravel().astype(np.int64)
    return labels, "cells" if len(np.unique(labels)) < len(labels) else "rows"


def direction(request: Request, rows: Rows) -> bool:
    """Whether higher values are better."""
    if request.form in SCORES:
        if request.higher_is_better is False:
            raise UserError(f"--form {request.form} with --lower-is-better", way_out="fit power1 or chinchilla")
        return True
    if request.form in LOSS_FORMS and request.response != "one_minus":
        if request.higher_is_better:
            way = "fit score1 or score_joint, or --response one_minus"
            raise UserError(f"--form {request.form} is for losses, --higher-is-better is not", way_out=way)
        return False
    if request.higher_is_better is not None:
        return request.higher_is_better
    return request.response == "one_minus" or trend(rows.x, rows.given) > 0


def trend(x: Array, y: Array) -> float:
    """Rank correlation of the values with the axes together."""
    if np.ptp(y) == 0 or len(y) < 3:
        return 0.0
    rank = sum(stats.rankdata(column) for column in x.T)
    return float(stats.spearmanr(rank, y).statistic) if np.ptp(rank) > 0 else 0.0


def response_of(request: Request, rows: Rows, notes: list[str]) -> str | None:
    """log or raw; None is the form's own."""
    if request.response == "one_minus":
        if rows.y.min() <= 0:
            raise UserError(
                f"--response one_minus: values reach {rows.given.max():g}, 1 - value has no logarithm there",
                way_out="use --response raw with score1 or score_joint",
            )
        notes.append("fitted: ln(1 - value); parameters are those of 1 - value")
        if request.form in SCORES:
            raise UserError(
                f"--form {request.form} with --response one_minus", way_out="1 - value falls: fit power1 or chinchilla"
            )
        return "log"
    if request.response == "auto":
        if rows.y.min() > 0 or request.form in SCORES:
            return None
        notes.append("values <= 0 have no logarithm (a Poisson loss has an arbitrary offset): fitted as they are, "
                     "the floor may have any sign")  # fmt: skip
        return "raw"
    if request.response == "log" and rows.y.min() <= 0:
        raise UserError(
            f"--response log: {int(np.sum(rows.y <= 0))} values are <= 0, the smallest {rows.y.min():g}",
            way_out="use --response raw",
        )
    return request.response


def ceiling_of(request: Request, rows: Rows) -> float:
    if request.ceiling is not None:
        if request.form in SCORES and rows.given.max() > request.ceiling:
            raise UserError(
                f"--ceiling {request.ceiling:g}: values reach {rows.given.max():g}", way_out="a ceiling lies above them"
            )
        return request.ceiling
    return 1.0 if rows.given.max() <= 1 else math.inf


def inverse_variance(request: Request, rows: Rows, response: str) -> Array:
    """1 / variance on the response scale, of mean 1."""
    if not request.sd:
        return rows.weights
    sd = rows.weights / (rows.y if response == "log" else 1.0)
    return np.asarray(1 / sd**2 / np.mean(1 / sd**2))
