"""The lists of the page: what was left out and why, what the words mean, how to make it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from omnimouse_jax import __version__
from omnimouse_jax.pages.marks import plural
from omnimouse_jax.scaling import ledger
from omnimouse_jax.scaling.analysis import Study
from omnimouse_jax.scaling.exclude import FAILED_RULE, OVERFIT, RULES, UNFINISHED_RULE, Exclusion
from omnimouse_jax.scaling.words_define import definitions

#: Columns of the ledger that a stated score fills in its own way.
STATED = {"run_id": "line, size, task", "n_params_core": "parameters", "estimator": "source and note"}


def progress(study: Study) -> str:
    """Scored runs of all runs, for every size and amount that the ledger names; a state of a sweep at a glance."""
    known = [row for row in ledger_runs(study) if row["size"] and row["n_sessions"] is not None]
    order = {row["size"]: row["n_params_core"] or 0 for row in known}
    sizes = sorted(order, key=lambda s: (order[s], s))
    amounts = sorted({row["n_sessions"] for row in known})
    if not known:
        return ""
    total = Counter((row["size"], row["n_sessions"]) for row in known)
    done = Counter((row["size"], row["n_sessions"]) for row in known if row["state"] == ledger.DONE)
    body = []
    for size in sizes:
        cells = [
            f'<td class="{"full" if done[size, a] == total[size, a] else "lacking"}">{done[size, a]}/{total[size, a]}</td>'
            if total[size, a]
            else "<td></td>"
            for a in amounts
        ]
        body.append(f"<tr><th>{escape(size)}</th>{''.join(cells)}</tr>")
    head = "".join(f"<th>{escape(plural(a, 'session'))}</th>" for a in amounts)
    return (
        '<div class="scroll"><table class="progress" aria-label="Scored runs of planned ones"><thead>'
        f"<tr><th>scored / planned</th>{head}</tr>"
        f"</thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def ledger_runs(study: Study) -> list[ledger.Row]:
    """One row per run, finished or not."""
    return list({row["run_id"]: row for row in study.rows}.values())


def left_out(study: Study) -> str:
    """Every point that a rule took out of the fits, rule by rule, with its reason; and what is only marked."""
    head = f'<h2 id="left-out">{"Lines that are not drawn" if study.outside else "Failed and excluded cells"}</h2>'
    excluded, marked = study.selected.excluded, study.selected.overfit
    kept_marks = marks_only(study)
    if not excluded and not marked:
        none = (
            "every line of the table is drawn"
            if study.outside
            else "every cell in the ledger finished and is in the numbers"
        )
        return f"{head}<p>None: {none}.</p>"
    out = [head]
    if excluded:
        told = (
            "lines of the table are not drawn"
            if study.outside
            else "runs are in no fit and no mean on this page, by rule"
        )
        out.append(f"<p>These {told}.</p>")
    for rule in RULES:
        found = [e for e in excluded if e.rule == rule]
        if found:
            head = "Not drawn: a number is lacking" if study.outside else f"{rule[0].upper()}{rule[1:]}: {RULES[rule]}"
            out.append(_listed(study, found, head, len(found) <= 12))
    if kept_marks:
        out.append(_listed(study, kept_marks, f"Marked, and in the fits: {RULES[OVERFIT]}", len(kept_marks) <= 12))
    return "".join(out)


def marks_only(study: Study) -> list[Exclusion]:
    """Over-fit points that stay in the fits."""
    gone = {e.point for e in study.selected.excluded}
    return [e for e in study.selected.overfit if e.point not in gone]


def _listed(study: Study, found: Sequence[Exclusion], head: str, opened: bool) -> str:
    names: tuple[str, ...] = ("run_id", "size", study.data_axis, "seed", "data_order")
    titles: tuple[str, ...] = ("run", "size", f"{study.unit}s", "seed", "order")
    if study.outside:
        names, titles = names[:3], ("line", *titles[1:3])
    why = "cause" if found[0].rule in (FAILED_RULE, UNFINISHED_RULE) else "why"
    body = "".join(
        "<tr>"
        + "".join(f'<td class="text">{escape(plain(e.row[n]))}</td>' for n in names)
        + f'<td class="text wide">{escape(e.reason)}</td></tr>'
        for e in found
    )
    columns = "".join(f'<th class="text">{escape(t)}</th>' for t in (*titles, why))
    return (
        f"<details{' open' if opened else ' class=long'}><summary>{escape(head)} ({len(found)})</summary>"
        f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def words(study: Study) -> str:
    """Definitions."""
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in definitions(study))
    return f'<h2 id="definitions">Definitions</h2><dl class="words">{listed}</dl>'


def reproduce(study: Study, commands: Sequence[str], checksum: str, inputs: Sequence[tuple[str, str]] = ()) -> str:
    """Commands, versions, hashes. `inputs`: name and SHA-256 of every file that was read."""
    runs = study.runs

    def distinct(name: str) -> str:
        found = sorted({str(r[name]) for r in runs if r.get(name) not in ("", None)})
        return ", ".join(found) or "not recorded"

    read = [(f"{name}, SHA-256", digest) for name, digest in inputs]
    shown = list(commands) or [c for c in sorted({str(r.get("command") or "") for r in runs}) if c][:20]
    facts = [
        ("study", study.name),
        ("runs made by", f"omnimouse_jax {distinct('version')}"),
        ("jax", distinct("jax_version")),
        ("page made by", f"omnimouse_jax {__version__}"),
        ("devices", distinct("device")),
        ("schedules", distinct("schedule")),
        ("learning rates", distinct("learning_rate")),
        ("seeds", distinct("seed")),
        ("data orders", distinct("data_order")),
        ("ledger", f"version {ledger.VERSION}, {len(study.rows)} rows"),
    ]
    if study.outside:
        facts = [("table", study.name), ("page made by", f"omnimouse_jax {__version__}"), *facts[-1:]]
    facts += read
    if checksum:
        facts.append(("ledger.csv, SHA-256", checksum))
    names: tuple[str, ...] = (
        "run_id",
        "size",
        "n_params_core",
        study.data_axis,
        "seed",
        "steps",
        "learning_rate",
        "flops",
        "seconds",
        "config_hash",
    )
    every = f"All {len(runs)} runs with their configuration hashes"
    if study.outside:
        names = ("run_id", "n_params_core", study.data_axis, "score", "estimator")
        every = f"All {len(runs)} stated scores and where they come from"
    head = "".join(f"<th>{escape(STATED.get(n, n) if study.outside else n)}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{escape(plain(r[n]))}</td>" for n in names) + "</tr>" for r in runs)
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    return (
        f'<h2 id="reproduce">How to reproduce</h2><pre><code>{escape(chr(10).join(shown))}</code></pre>'
        f'<dl class="words">{listed}</dl><details class="long">'
        f"<summary>{every}</summary>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )


def plain(value: object) -> str:
    """A field of the ledger as it stands in a table."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
