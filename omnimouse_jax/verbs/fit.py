"""Verb fit: a scaling law fitted to any table."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import AddVerb

if TYPE_CHECKING:
    from omnimouse_jax.scaling.outside_fit import Outcome
    from omnimouse_jax.scaling.uncertainty import Interval

DETAILS = """
Prints the estimates in the table's own units with 95 % intervals, how far the fit may be believed, how well it predicts the
far end of each axis when fitted without it, a straight line in logs as its rival, and for laws of two axes what limits: the
first column of --x is the size, the second the data. --json writes the same numbers in full.

Language models, the published way (Huber on log loss, delta 1e-3):
  omnimouse-jax fit runs.csv --form chinchilla --x n_params,n_tokens --y loss --delta 1e-3 --json fit.json
Repeated data, with the law of new data held:
  omnimouse-jax fit runs.csv --form data_constrained --x n_params,n_tokens,n_unique --y loss --delta 1e-3 \\
      --fix E=1.87 --fix A=521 --fix alpha=0.353 --fix B=1488 --fix beta=0.353
A score that ends at 1, on ln(1 - score), mean over four columns:
  omnimouse-jax fit models.csv --form power1 --x total_flops --y V1,V2,V4,IT --response one_minus --delta 1e-3
Scores on their own scale, with sessions that stand for others not recorded:
  omnimouse-jax fit scores.csv --form score_joint --x n_params_core,n_sessions --y score --session session --animal animal
Only some rows; a size that is computed:
  omnimouse-jax fit runs.csv --form chinchilla --x "flops / (6 * tokens),tokens" --y loss \\
      --where "optimizer in ('adam', 'sgd') and not (loss > 8 or `val set` == 'old')"

Forms:
"""


def add(verb: AddVerb) -> None:
    from omnimouse_jax.scaling.form_names import FORMS

    listed = "".join(f"  {name:17s}{about}\n" for name, about in FORMS.items())
    made = verb(fit, "Fit a scaling law to any table (.csv, .tsv, .parquet).", DETAILS + listed)
    made.add_argument("table", type=Path, help="the first line names the columns")
    made.add_argument("--form", required=True, help="which law, see below")
    made.add_argument("--x", required=True, help="axes: columns or arithmetic of columns, with commas between")
    made.add_argument("--y", required=True, help="column of losses or scores; several: their mean")
    made.add_argument("--where", default="", help="rows to keep: == != < <= > >= in not and or, brackets, 'texts'")
    made.add_argument("--delta", default="auto", help="Huber's threshold on the scale of the fit: auto, a number, inf")
    made.add_argument("--response", default="auto", help="auto, log, raw, one_minus: log of 1 - value (default: auto)")
    made.add_argument("--weights", default="", metavar="COLUMN", help="weights of squared residuals, 1 / variance")
    made.add_argument("--sd", default="", metavar="COLUMN", help="standard errors of the values, instead of weights")
    made.add_argument(
        "--cluster", default="", metavar="COLUMN", help="what is resampled together (default: equal --x); or `rows`"
    )
    made.add_argument("--session", default="", metavar="COLUMN", help="evaluation session: intervals for new ones")
    made.add_argument("--animal", default="", metavar="COLUMN", help="of the session: sessions of one are averaged")
    made.add_argument("--run", default="", metavar="COLUMN", help="which rows are one run, scored in several sessions")
    made.add_argument("--resamples", type=int, default=1000, help="of the bootstrap; 0: no intervals (default: 1000)")
    made.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    made.add_argument("--fix", action="append", default=[], metavar="NAME=VALUE", help="hold a parameter; repeatable")
    made.add_argument("--holdout", default="", metavar="AXES", help="axes whose far end is held out (default: each)")
    made.add_argument(
        "--at", default="", metavar="VALUES", help="where the verdict is taken (default: largest of each)"
    )
    made.add_argument("--ceiling", type=float, help="highest score that is possible (default: 1)")
    better = made.add_mutually_exclusive_group()
    better.add_argument(
        "--higher-is-better", action="store_true", default=None, help="(default: by form and direction)"
    )
    better.add_argument("--lower-is-better", dest="higher_is_better", action="store_false", default=None)
    made.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")


def fit(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.scaling.outside_fit import fit_table
    from omnimouse_jax.scaling.outside_json import write
    from omnimouse_jax.scaling.outside_rows import Request

    request = Request(
        table=arguments.table,
        form=arguments.form,
        x=_split(arguments.x, "--x"),
        y=_split(arguments.y, "--y"),
        where=arguments.where.strip(),
        delta="auto" if arguments.delta == "auto" else _number(arguments.delta, "--delta"),
        response=arguments.response,
        weights=arguments.weights,
        sd=arguments.sd,
        cluster=arguments.cluster,
        session=arguments.session,
        animal=arguments.animal,
        run=arguments.run,
        resamples=arguments.resamples,
        seed=arguments.seed,
        fixed=dict(_held(text) for text in arguments.fix),
        holdout=_split(arguments.holdout, "--holdout") if arguments.holdout else (),
        higher_is_better=arguments.higher_is_better,
        ceiling=arguments.ceiling,
        at=tuple(_number(v, "--at") for v in arguments.at.split(",")) if arguments.at else (),
    )
    if arguments.json and not arguments.json.parent.is_dir():
        raise UserError(f"--json {arguments.json}: no folder {arguments.json.parent}", way_out="make it first")
    outcome = fit_table(request)
    print("\n".join(told(outcome)))
    if arguments.json:
        write(outcome, arguments.json)
        print(f"numbers: {arguments.json}")
    return 0


def _split(text: str, flag: str) -> tuple[str, ...]:
    """At commas that are not within brackets or backticks."""
    parts, depth, quoted = [""], 0, False
    for sign in text:
        quoted ^= sign == "`"
        depth += (sign == "(") - (sign == ")") if not quoted else 0
        if sign == "," and depth == 0 and not quoted:
            parts.append("")
        else:
            parts[-1] += sign
    out = tuple(part.strip() for part in parts)
    if not all(out):
        raise UserError(f"{flag} {text!r}: an empty name", way_out="write column,column without spare commas")
    return out


def _number(text: str, flag: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise UserError(f"{flag} {text!r} is not a number", way_out="write it like 0.001 or 1e-3")
    return value


def _held(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--fix {text!r}", way_out="write NAME=VALUE, as in --fix E=1.69")
    return name.strip(), _number(value, f"--fix {name.strip()}")


def told(outcome: Outcome) -> list[str]:
    """The lines of the terminal."""
    from omnimouse_jax.pages.marks import plural
    from omnimouse_jax.scaling.outside_fit import formula

    request, rows, found = outcome.request, outcome.rows, outcome.fit
    shown = ", ".join(request.y) if len(request.y) == 1 else f"mean of {', '.join(request.y)}"
    scale = {"one_minus": "ln(1 - value)"}.get(
        request.response, {"log": "ln(value)", "raw": "the value"}[found.form.response]
    )
    delta = "least squares" if math.isinf(found.delta) else f"Huber, delta {found.delta:.4g}"
    lines = [
        f"{request.form}: {formula(request.form)}",
        f"{found.n} of {rows.total} rows of {request.table}: {shown} against {', '.join(request.x)}; fitted: {scale}, {delta}",
        *(f"  left out: {plural(str(count), 'row')}, {reason}" for reason, count in rows.dropped),
        *(f"  note: {note}" for note in outcome.notes),
        "",
        *_parameter_lines(outcome),
        "",
        f"objective {found.objective:.9g} (sum of Huber losses), R2 {found.r2_natural:.4f}, residuals {found.rmse:.3g}",
        f"optimum: {found.optima} distinct within 1 % of the best, from {found.starts} starts"
        + (f" (predictions differ by up to {100 * found.spread:.2g} %)" if found.optima > 1 else "")
        + f"; gradient {found.gradient:.1e}, condition {found.condition:.1e}",
    ]
    for held in outcome.held_out:
        told_rows = plural(str(held.rows), "row")
        errors = f"error {held.rmse:.3g}; straight line in logs {held.rival_rmse:.3g}"
        lines.append(f"held out, {held.rule} ({told_rows}): {errors}")
    if outcome.cell_error is not None:
        lines.append(f"each cell left out in turn: error {outcome.cell_error:.3g}")
    p = ", ".join(f"{name} = {value:.5g}" for name, value in outcome.rival.parameters.items())
    lines.append(f"straight line in logs: {p}; residuals {outcome.rival.rmse:.3g} (this form {found.rmse:.3g})")
    if outcome.selection is not None:
        lines.append(outcome.selection.words)
    if outcome.verdict.ratio is not None or request.form in ("chinchilla", "score_joint"):
        lines += ["", outcome.verdict.words, *_gain_lines(outcome)]
    lines += (
        ["", "Read with care:", *(f"  - {flag.words}" for flag in outcome.flags)] if outcome.flags else ["", "no flags"]
    )
    return lines


def _parameter_lines(outcome: Outcome) -> list[str]:
    found = outcome.fit
    centred = {k: v for k, v in found.centred.items() if not math.isclose(v, found.parameters[k], rel_tol=1e-12)}
    over = f"these sessions, bootstrap over {outcome.rows.unit}, {outcome.request.resamples} resamples"
    lines = [f"{'':9s}{'estimate':>12s}   95 % ({over})" if outcome.intervals else f"{'':9s}{'estimate':>12s}"]
    for name, value in found.parameters.items():
        line = f"{name:9s}{value:12.6g}   {_ends(outcome.intervals.get(name))}"
        if name in found.fixed:
            line = f"{name:9s}{value:12.6g}   held"
        if name in outcome.profiles:
            line += f"   profile {_ends(outcome.profiles[name])}"
        if name in outcome.new_sessions:
            line += f"   {outcome.new_sessions[name].over} {_ends(outcome.new_sessions[name])}"
        if name in centred:
            line += f"   at the middle of the axes {centred[name]:.5g}"
        lines.append(line.rstrip())
    for name, (value, interval) in outcome.derived.items():
        about = {"compute_exponent": "beta / (alpha + beta): the best size grows as a budget k N D to this power"}.get(
            name, ""
        )
        lines.append(f"{name} {value:.4g} {_ends(interval)} {about}".rstrip())
    return lines


def _gain_lines(outcome: Outcome) -> list[str]:
    verdict = outcome.verdict
    if verdict.gain_parameters is None or verdict.gain_data is None:
        return []
    size, data = outcome.request.x[:2]
    lines = [
        f"  a doubling gains: {data} {verdict.gain_data:.3g} {_ends(verdict.gain_data_interval)}, "
        f"{size} {verdict.gain_parameters:.3g} {_ends(verdict.gain_parameters_interval)}"
    ]
    if verdict.local_ratio is not None and verdict.share_data is not None and verdict.share_parameters is not None:
        lines.append(
            f"  ratio of small steps {verdict.local_ratio:.3g}; of what is left to gain, {100 * verdict.share_data:.0f} % is "
            f"along {data}, {100 * verdict.share_parameters:.0f} % along {size}"
        )
    return lines


def _ends(interval: Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (f"{end:.4g}" if math.isfinite(end) else "open" for end in (interval.low, interval.high))
    return f"[{low}, {high}]"
