"""The tables of the sensitivity page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.probe.sensitivity.page_words import interval, star_told


def summary(result: Mapping[str, Any], norm: str) -> str:
    """eps*, A, G, Q and ranks of every model."""
    head = ("model", "eps*", "A", "G, population", "G, one neuron", "Q", "stable rank", "dim / Q²", "left out")
    rows = []
    for model in result["models"]:
        found = model["norms"][norm]
        middle = len(found["budgets"]) // 2
        name, star, area, gain, q, rank, _ = row(result, model, norm)
        rows.append(
            (
                name,
                star,
                area,
                gain,
                interval(found["G_neuron"], 3),
                q,
                rank,
                _number(found["dim_over_Q_squared"][middle], 1),
                f"{model['excluded_neurons']} of {result['n_neurons']}",
            )
        )
    middle_level = result["models"][0]["norms"][norm]["budgets"][
        len(result["models"][0]["norms"][norm]["budgets"]) // 2
    ]
    caption = (
        f"eps* in grey levels of 255; A in model SD; gains in model SD per grey level of budget, at the stimulus itself, without "
        f"attack; Q at {middle_level:g} grey levels. Brackets: 95 % by bootstrap over stimuli and neurons."
    )
    return table(head, rows, caption)


def recorded(result: Mapping[str, Any], norm: str) -> str:
    """The same in units of the recorded signal, where that is known."""
    rows = []
    for model in result["models"]:
        found = model["norms"][norm].get("recorded_unit")
        if found and found["neurons"]:
            rows.append((model["name"], str(found["neurons"]), star_told(found["eps_star"]), interval(found["A"], 2)))
    signal = result["recorded_signal"]
    if not rows:
        why = "values before the output have none" if signal["known"] else "too few repeats"
        return f'<p class="note">No recorded signal SD: {why} ({plural(signal["moments"], "repeated moment")}).</p>'
    caption = (
        f"The same perturbations in units of the recorded signal SD ({signal['moments']} repeated moments in {signal['windows']} "
        f"windows; {signal['unreliable_neurons']} of {result['n_neurons']} neurons not reliable enough). They were "
        f"made for the other "
        "unit, so this is a lower bound twice."
    )
    return "<h3>In units of the recorded signal</h3>" + table(("model", "neurons", "eps*", "A"), rows, caption)


def singles(result: Mapping[str, Any], norm: str) -> str:
    """Single neurons up and down."""
    rows = []
    for model in result["models"]:
        found = model["norms"][norm]["single_neurons"]
        for e, budget in enumerate(found["budgets"]):
            up, down = (
                {key: found[sign][key][e] for key in ("low", "high")} | {"value": found[sign]["median"][e]}
                for sign in ("up", "down")
            )
            rows.append(
                (
                    model["name"],
                    f"{budget:g}",
                    interval(up, 2),
                    interval(down, 2),
                    f"{100 * found['unmoved_share'][e]:.0f} %",
                )
            )
    n = len(result["neuron_sample"])
    caption = (
        f"Median shift in model SD of {plural(n, 'neuron')}, each driven up and down by itself in front of "
        f"{plural(result['models'][0]['norms'][norm]['single_neurons']['stimuli'], 'stimulus window')}; last column: "
        f"attacks that moved nothing."
    )
    return "<h3>Single neurons</h3>" + table(("model", "grey levels", "up", "down", "unmoved"), rows, caption)


def attacks(result: Mapping[str, Any], norm: str) -> str:
    """What starts and solvers miss, folded away."""
    rows = []
    for model in result["models"]:
        found = model["norms"][norm]
        told = found["attack_uncertainty"]
        for e, budget in enumerate(found["budgets"]):
            rows.append(
                (
                    model["name"],
                    f"{budget:g}",
                    f"{100 * told['spread_over_starts'][e]:.1f} %",
                    f"{100 * told['worst_spread'][e]:.1f} %",
                    f"{told['gradient_over_best'][e]:.3f}",
                    f"{told['full_steps_over_best'][e]:.3f}",
                )
            )
    head = ("model", "grey levels", "spread over starts", "worst stimulus", "gradient / best", "full steps / best")
    caption = "How much the worst random start misses of the best value, and what each solver reaches of the better of the two."
    inner = table(head, rows, caption)
    return f"<details><summary>Uncertainty of the attacks themselves</summary>{inner}</details>"


def transfer(result: Mapping[str, Any], norm: str) -> str:
    """Transfer, signed transfer of single neurons and overlap of spaces; nothing for one model."""
    found = result["transfer"][norm]
    names = [model["name"] for model in result["models"]]
    if len(names) < 2:
        return ""
    e = len(found["budgets"]) // 2
    at = found["of_budget"][e]
    overlap = result["overlap"][norm][e]
    cells = [
        (
            name,
            *(
                interval({"value": at["ratio"][a][b], "low": at["low"][a][b], "high": at["high"][a][b]}, 2)
                if a != b
                else "1"
                for b in range(len(names))
            ),
        )
        for a, name in enumerate(names)
    ]
    caption = (
        f"Rows: whose perturbations; columns: the model they are shown to; {found['budgets'][e]:g} grey levels. 1: "
        f"as strong as that "
        "model's own, 0: as random ones of equal norm. Transfer between seeds and to the untrained model is the "
        "baseline; high values "
        "can come without any learnt common axis."
    )
    shares = [(name, *(_number(overlap["share"][a][b], 3) for b in range(len(names)))) for a, name in enumerate(names)]
    spaces = f"Leading {overlap['k']} directions of each model's perturbations; by chance {overlap['chance']:.2g}."
    last = len(found["neuron_budgets"]) - 1
    of_neurons = found["of_neurons"][last]
    signed = [
        (
            name,
            *(
                f"{_number(of_neurons['median'][a][b], 2)} ({100 * (of_neurons['same_sign'][a][b] or 0):.0f} %)"
                for b in range(len(names))
            ),
        )
        for a, name in enumerate(names)
    ]
    neurons = (
        f"The neuron that a perturbation was made for, in the other model: median of its shift there over its "
        f"shift under that model's "
        f"own attack, {found['neuron_budgets'][last]:g} grey levels; in brackets how many moved the intended way."
    )
    return (
        "<h3>Transfer, above random</h3>"
        + table(("from \\ to", *names), cells, caption)
        + "<h3>Transfer of single-neuron attacks, signed</h3>"
        + table(("from \\ to", *names), signed, neurons)
        + "<h3>Overlap of the spaces of perturbations</h3>"
        + table(("", *names), shares, spaces)
    )


def row(result: Mapping[str, Any], model: Mapping[str, Any], norm: str) -> tuple[str, ...]:
    """The line of a model in the terminal's table, shared with the page."""
    found = model["norms"][norm]
    middle = len(found["budgets"]) // 2
    q = {key: found["Q"][key][middle] for key in ("value", "low", "high")}
    return (
        model["name"],
        star_told(found["eps_star"]),
        interval(found["A"], 2),
        interval(found["G_population"], 3),
        interval(q, 1),
        interval(found["stable_rank"], 2),
        interval(result["predictivity"][model["name"]], 3),
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], caption: str, text: int = 1) -> str:
    """The first `text` columns are words."""
    top = "".join(f"<th{_text(k < text)}>{escape(name)}</th>" for k, name in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{_text(k < text)}>{_cell(cell)}</td>" for k, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return (
        f'<p class="note">{escape(caption)}</p><div class="scroll"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _text(words: bool) -> str:
    return ' class="text"' if words else ""


def _cell(text: str) -> str:
    value, bracket, rest = text.partition(" [")
    return escape(value) + (f' <span class="soft">[{escape(rest)}</span>' if bracket else "")


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else number(value, digits)
