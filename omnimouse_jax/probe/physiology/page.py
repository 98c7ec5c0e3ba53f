"""The page of a physiology probe: one HTML file that needs nothing else and no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.files import write_atomically
from omnimouse_jax.pages.document import document
from omnimouse_jax.pages.marks import number, plural
from omnimouse_jax.probe.physiology import charts, exciting, pictures
from omnimouse_jax.probe.physiology.measure import Found

PAGE = "index.html"
EXAMPLES = 4
FRAMES = 6  # of a film's strip
STYLE = """
.line.dashed { stroke-dasharray: 7 4; } .line.dotted { stroke-dasharray: 1.5 4; stroke-linecap: round; stroke-width: 2.2; }
.stimulus { width: 100%; height: auto; image-rendering: pixelated; display: block; border: 1px solid var(--line); }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 4px 14px; }
.many { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); gap: 10px 24px; }
.stimuli { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)); gap: 12px; }
.field-map { max-width: 560px; } #planted th { white-space: normal; min-width: 15ch; } #planted td { padding-right: 10px; }
.stimuli.films { grid-template-columns: 1fr; max-width: 980px; }
.fields { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(46%, 150px), 1fr)); gap: 10px; }
"""


def write_page(found: Found, told: Mapping[str, Any], results: Mapping[str, Any], out: Path) -> Path:
    """Writes OUT/index.html and returns its path. `told`: the provenance; `results`: what the JSON holds."""
    path = Path(out) / PAGE
    write_atomically(path, build(found, told, results))
    return path


def build(found: Found, told: Mapping[str, Any], results: Mapping[str, Any]) -> str:
    """The whole page."""
    n, tuned = results["n_neurons"], results["tuned"]["model"]
    smoke = told["settings"]["smoke"]
    lede = (
        f"{told['run']} (step {told['checkpoint_step']}), session {found.session}: {plural(n, 'neuron')} shown gratings, "
        f"sparse noise "
        f"and natural films under {found.regime}."
    )
    body = [
        f'<header><h1>In-silico physiology: {escape(found.session)}</h1><p class="lede">{escape(lede)}</p></header><main>',
        '<p class="partial">A smoke run: every experiment once, too coarse to read figures from.</p>' if smoke else "",
        _cards(found, results),
        _planted(found),
        _examples(found),
        _distributions(found),
        _fields(found),
        _inputs(found),
        _spectrum(found, results),
        _definitions(results),
        _reproduce(told, found),
        "</main>",
        "<footer>Made by omnimouse_jax. This file needs no network and sends nothing.</footer>",
    ]
    assert 0 <= tuned <= n
    return document(f"Physiology of {found.session}", body, STYLE)


def _median(results: Mapping[str, Any], name: str) -> str:
    told = results["medians"]["model"].get(name)
    if not told or told["median"] is None:
        return "none"
    return f"{number(told['median'])} ({plural(told['neurons'], 'neuron')})"


def _cards(found: Found, results: Mapping[str, Any]) -> str:
    n = results["n_neurons"]
    cards = [
        (
            "tuned to gratings",
            f"{results['tuned']['model']} of {n}",
            [
                ("1 - circular variance", _median(results, "osi_vector")),
                ("direction, pref/null", _median(results, "dsi_pref_null")),
                ("F1/F0", _median(results, "f1_f0")),
                ("c50", _median(results, "c50")),
            ],
        ),
        (
            "receptive fields",
            f"{int(np.isfinite(found.subjects['model']['rf_x']).sum())} by gradient, "
            f"{int(np.isfinite(found.subjects['model']['sparse_x']).sum())} by sparse noise",
            [
                ("sigma, gradient", _median(results, "rf_sigma")),
                ("suppression by size", _median(results, "suppression")),
            ],
        ),
        (
            "behaviour",
            f"log gain of running {_median(results, 'running_log_gain').split(' ')[0]}",
            [
                (f"{name}", f"{number(low, 1)} to {number(high, 1)}, log gain {_median(results, f'{name}_log_gain')}")
                for name, (low, high) in found.levels.items()
            ],
        ),
    ]
    for name, arrays in found.inputs.items():
        cards.append(
            (
                f"most exciting {name}s",
                exciting.times_natural(arrays, "value"),
                [
                    ("best grating", exciting.times_natural(arrays, "grating")),
                    ("neurons", str(len(arrays["value"]))),
                    ("RMS contrast", number(found.bound)),
                ],
            )
        )
    drawn = ""
    for task, verdict, rows in cards:
        items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows)
        drawn += (
            f'<div class="card"><span class="task">{escape(task)}</span><span class="verdict">{escape(verdict)}</span>'
            f"<dl>{items}</dl></div>"
        )
    agrees = results["agreement"]["mean"]
    return (
        f'<div class="cards">{drawn}</div><p class="note">Medians over neurons that have the quantity. Predictions correlate with '
        f"recordings by {number(agrees)} on the natural windows that are used here (mean over neurons).</p>"
    )


def _planted(found: Found) -> str:
    """Recovered beside planted, where the truth is known."""
    if not found.compared:
        return ""
    subjects = list(found.compared)
    head = "".join(f"<th>{escape(name)}</th>" for name in subjects)
    body = ""
    for rows in zip(*found.compared.values(), strict=True):
        cells = "".join(f"<td>{_cell(row)}</td>" for row in rows)
        unit = f" ({rows[0]['unit']})" if rows[0]["unit"] else ""
        body += f"<tr><th>{escape(rows[0]['quantity'].replace('_', ' '))}: {escape(rows[0]['measure'] + unit)}</th>{cells}</tr>"
    drawn = ""
    for mine, true, words, kind in (
        ("direction", "direction", "direction, degrees", {"period": 360.0}),
        ("spatial_frequency", "spatial_frequency", "spatial frequency", {"log": True}),
        ("temporal_frequency", "temporal_frequency", "temporal frequency", {"log": True}),
        ("rf_x", "x", "field, x in degrees", {}),
        ("running_log_gain", "gain_running", "gain of running", {}),
    ):
        for name in ("model", "planted law"):
            if chart := charts.scatter(found, name, mine, true, words, **kind):
                drawn += charts.figure("", chart, f"{words}: {name}")
    return (
        '<section id="planted"><h2>Recovered beside planted</h2><p>These mice are synthetic, so what each neuron is tuned to '
        "is known. "
        "The same experiments on the planted law itself say what the analysis can recover; on the untrained run, what it "
        "finds where "
        "nothing was learnt. In brackets 95 % intervals over neurons; chance is neurons permuted.</p>"
        f'<div class="scroll"><table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<div class="many">{drawn}</div></section>'
    )


def _cell(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return f'<span class="soft">too few: {row["neurons"]}</span>'
    return (
        f"{number(row['value'], 2)} <span class='soft'>[{number(row['low'], 2)}, {number(row['high'], 2)}]</span>"
        f"<span class='of'>chance {number(row['chance'], 2)}, p {number(row['p'])}; {row['neurons']} of {row['of']}</span>"
    )


def _examples(found: Found) -> str:
    """Curves of the neurons that most exciting inputs were searched for."""
    names = [name for name in ("model", "planted law") if name in found.subjects]
    ids = found.inputs["image"]["neuron"][:EXAMPLES].tolist()
    rows = ""
    for n in ids:
        model = found.subjects["model"]
        words = "tuned" if model["tuned"][n] else "not tuned"
        rows += f'<h3>Neuron {n}: {words}</h3><div class="curves">{"".join(charts.neuron_row(found, n))}</div>'
    return (
        f'<section id="curves"><h2>Tuning curves</h2><p class="note">The neurons whose natural responses are predicted best'
        f" (or that were asked for). Where two are drawn, each has its own range.</p>{charts.legend(names)}{rows}</section>"
    )


def _distributions(found: Found) -> str:
    drawn = ""
    for name, words, low, high in (
        ("osi_vector", "1 - circular variance of orientation", 0.0, None),
        ("osi_pref_orth", "orientation, pref/orth", 0.0, None),
        ("dsi_vector", "1 - circular variance of direction", 0.0, None),
        ("dsi_pref_null", "direction, pref/null", 0.0, None),
        ("bandwidth", "half width at half height, degrees", None, None),
        ("f1_f0", "F1/F0", 0.0, None),
        ("c50", "c50", 0.0, None),
        ("suppression", "suppression by full field", None, None),
        ("running_log_gain", "log gain of running", None, None),
        ("pupil_size_log_gain", "log gain of pupil size", None, None),
    ):
        if chart := charts.distribution(found, name, words, low, high):
            drawn += charts.figure("", chart, words)
    return (
        f'<section id="distributions"><h2>Distributions</h2><p class="note">Cumulative share of neurons that have the '
        f"quantity; the mark "
        f'is the median.</p>{charts.legend(list(found.subjects))}<div class="many">{drawn}</div></section>'
    )


def _fields(found: Found) -> str:
    model = found.subjects["model"]
    ids = found.inputs["image"]["neuron"].tolist()
    maps = ""
    for n in ids[: 2 * EXAMPLES]:
        one = pictures.image(pictures.positive(model["rf_map"][n]), f"Gradient map of neuron {n}")
        jacobian = model["mean_jacobian"][n].astype(np.float64)
        frame = int((jacobian**2).sum(axis=(1, 2)).argmax())
        signed = pictures.image(pictures.symmetric(jacobian[frame]), f"Mean Jacobian of neuron {n}")
        sparse = pictures.image(
            pictures.symmetric(model["on_map"][n] - model["off_map"][n]), f"On minus off map of neuron {n}"
        )
        at = frame / found.geometry.frame_rate
        for picture, words in (
            (one, "gradient, RMS"),
            (signed, f"mean Jacobian at {at:.2f} s"),
            (sparse, "sparse noise, on - off"),
        ):
            maps += f"<figure>{picture}<figcaption>neuron {n}: {words}</figcaption></figure>"
    centres = charts.figure(
        "Centres",
        charts.field_map(found),
        "Circles: by gradient over natural stimuli; triangles: by sparse noise. Only where a Gaussian explains 30 % of the map.",
    )
    return (
        f'<section id="fields"><h2>Receptive fields</h2><div class="field-map">{centres}</div>'
        f'<div class="fields">{maps}</div></section>'
    )


def _inputs(found: Found) -> str:
    out = '<section id="exciting"><h2>Most exciting inputs</h2>'
    for name, arrays in found.inputs.items():
        drawn = ""
        for row, n in enumerate(arrays["neuron"].tolist()):
            value, natural, grating, grey = (float(arrays[k][row]) for k in ("value", "natural", "grating", "grey"))
            spread = float(arrays["by_seed"][row].std() / max(abs(value), 1e-12))
            words = (
                f"neuron {n}: {number(value)}; best natural {number(natural)}, best grating {number(grating)}, grey "
                f"{number(grey, 2)}; spread over seeds {number(spread)}, agreement {number(float(arrays['agreement'][row]), 2)}"
            )
            if "planted_value" in arrays:
                mine, best, own = (float(arrays[k][row]) for k in ("planted_value", "planted_natural", "planted_best"))
                words += (
                    f". The planted neuron: {number(mine, 2)} to it, {number(best, 2)} to its best natural stimulus, "
                )
                words += f"{number(own, 2)} to its own most exciting one"
            film = name == "film"
            stimulus = arrays["stimuli"][row]
            alt = f"Most exciting {name} of neuron {n}"
            shown = pictures.strip(stimulus, FRAMES, alt) if film else pictures.image(stimulus[0], alt)
            drawn += f"<figure>{shown}<figcaption>{escape(words)}</figcaption></figure>"
        kind = "stimuli films" if name == "film" else "stimuli"
        out += f'<h3>{"Films" if name == "film" else "Images"}</h3><div class="{kind}">{drawn}</div>'
    return out + "</section>"


def _spectrum(found: Found, results: Mapping[str, Any]) -> str:
    told = results["spectrum"]
    if "none" in told:
        return f'<section id="spectrum"><h2>Eigenspectrum</h2><p>No exponent: {escape(told["none"])}.</p></section>'
    lines = ""
    for name in ("recorded", "predicted"):
        if name in told:
            one = told[name]
            first, last = one["ranks"]
            value = (
                f"exponent {number(one['exponent'], 2)} [{number(one['low'], 2)}, {number(one['high'], 2)}] over ranks "
                f"{first} to {last}"
                if np.isfinite(one["exponent"])
                else "no exponent: too few positive eigenvalues"
            )
            lines += f"<p>{name.capitalize()}: {value}; {one['stimuli']} stimuli, {one['neurons']} neurons.</p>"
    chart = charts.figure(
        "",
        charts.spectra(found),
        "Cross-validated eigenvalues; triangles: recorded, circles: predicted; negative ones are not drawn. Lines: the fit, "
        "over its ranks.",
    )
    return f'<section id="spectrum"><h2>Eigenspectrum</h2>{lines}<div class="field-map">{chart}</div></section>'


def _definitions(results: Mapping[str, Any]) -> str:
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in results["definitions"].items())
    return f'<h2>Definitions</h2><dl class="words">{listed}</dl>'


def _reproduce(told: Mapping[str, Any], found: Found) -> str:
    flags = " --smoke" if told["settings"]["smoke"] else ""
    asked = f"--session {found.session} --seed {told['settings']['seed']}{flags}"
    command = f"omnimouse-jax probe physiology {told['run']} {asked} --out OUT"
    g = found.geometry
    facts = [
        ("checkpoint", f"step {told['checkpoint_step']}, hash {told['checkpoint_hash']}"),
        ("recordings", told["store"]),
        (
            "screen",
            f"{g.height} x {g.width} pixels, {g.degrees:g} degrees wide, flat, grey {g.grey:.3f}, {g.frame_rate:g} Hz",
        ),
        ("omnimouse_jax", told["omnimouse_jax"]),
        ("settings", ", ".join(f"{k} {v}" for k, v in told["settings"].items() if not isinstance(v, dict))),
        *((k, ", ".join(f"{a} {b}" for a, b in v.items())) for k, v in told["settings"].items() if isinstance(v, dict)),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(str(v))}</dd>" for k, v in facts)
    return f'<h2>How to reproduce</h2><pre><code>{escape(command)}</code></pre><dl class="words">{listed}</dl>'
