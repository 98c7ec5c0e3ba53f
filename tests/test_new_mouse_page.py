"""The page of a new mouse says what the result says, in one offline file, whatever the result lacks, and works in a browser."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnimouse_jax.evaluate.new_mouse_page import PAGE, build, write_page
from omnimouse_jax.evaluate.new_mouse_view import headline, minutes_told, sentences, views
from tests.test_report import Collector

METHODS = {"before": 0.05, "adapted": 0.41, "scratch": 0.31, "ridge": 0.22}
CHANNELS = ("pupil_x", "pupil_size", "running")
MINUTES = (1.0, 2.0, 5.0, 10.0, 20.0)


def result(n_neurons: int = 120, sessions: tuple[str, ...] = ("mouse7-1",)) -> dict[str, Any]:
    """What `finetune` writes: two tasks, a curve that crosses where it is known to, ceilings, traces. JSON types only."""
    rng = np.random.default_rng(0)
    tasks = {"stimulus": "video[0:60] + behavior -> responses[:, 30:60]", "behavior": "responses + video -> behavior"}
    scores, curve, traces, per_neuron = [], [], [], {}
    for key in sessions:
        of_neuron = {m: np.clip(rng.normal(s, 0.12, n_neurons), -0.1, 0.9) for m, s in METHODS.items() if m != "ridge"}
        of_neuron["ceiling"] = np.clip(rng.normal(0.5, 0.1, n_neurons), 0.1, 0.95)
        per_neuron[key] = {"stimulus": {m: np.round(v, 4).tolist() for m, v in of_neuron.items()}}
        for method, score in METHODS.items():
            row = {
                "session": key,
                "task": "stimulus",
                "metric": "response_correlation",
                "channel": "",
                "method": method,
            }
            row |= {"score": score, "score_low": score - 0.02, "score_high": score + 0.02, "n_units": n_neurons}
            row |= {
                "interval": "95% bootstrap over neurons",
                "ceiling": 0.5,
                "ceiling_estimator": "known law: stimulus",
            }
            scores.append(row | {"normalized": score / 0.5, "estimator": "pooled single-trial Pearson"})
            for channel in (*CHANNELS, "mean"):
                row = {"session": key, "task": "behavior", "metric": "behavior_correlation", "channel": channel}
                row |= {
                    "method": method,
                    "score": score + 0.1,
                    "score_low": score,
                    "score_high": score + 0.2,
                    "n_units": 1,
                }
                row |= {"interval": "95% bootstrap over windows", "ceiling": None, "ceiling_estimator": ""}
                scores.append(row | {"normalized": None, "estimator": "pooled single-trial Pearson"})
        for k, minutes in enumerate(
            MINUTES
        ):  # adapted: 0.25, 0.29, ...; reaches scratch's 0.31 halfway from 2 to 5 min
            for method, score in (
                ("adapted", 0.25 + 0.04 * k),
                ("scratch", 0.11 + 0.05 * k),
                ("ridge", 0.05 + 0.03 * k),
            ):
                for task, metric in (("stimulus", "response_correlation"), ("behavior", "behavior_correlation")):
                    row = {
                        "session": key,
                        "task": task,
                        "metric": metric,
                        "channel": "mean" if task == "behavior" else "",
                    }
                    row |= {"minutes": minutes, "method": method, "score": score, "score_low": score - 0.02}
                    curve.append(row | {"score_high": score + 0.02, "seed": 0, "steps": 400})
        time = np.arange(360) / 30
        for task, name in (("stimulus", "neuron 12"), ("stimulus", "neuron 31"), ("behavior", "running")):
            lines = {
                m: np.round(np.sin(time + 0.2 * i) ** 2 + 0.1 * rng.random(360), 4).tolist()
                for i, m in enumerate(METHODS)
            }
            row = {"session": key, "task": task, "name": name, "rate": 30.0, "seconds": np.round(time, 4).tolist()}
            lines["recorded"] = [None, *lines.pop("before")[1:]]
            traces.append(row | lines)
    return {
        "from": "runs/first",
        "checkpoint_step": 900,
        "store": "stores/lab",
        "sessions": list(sessions),
        "started": "2026-01-01T00:00:00+00:00",
        "version": "0.1.0",
        "start": "match",
        "seed": 0,
        "told": [
            "stage 1, tables: frozen: core (1,000)",
            "mouse7-1: LEAK: 2 of its 5 held-out stimuli were trained on",
        ],
        "tasks": tasks,
        "tier": "test",
        "stages": [
            {
                "name": "tables",
                "steps": 400,
                "stopped_at": 220,
                "best_step": 100,
                "seconds": 31.5,
                "trained_parameters": 1234,
                "frozen_parameters": 567890,
                "validation": [[20 * k, 2.0 + 0.01 * (k - 5) ** 2] for k in range(1, 12)],
            }
        ],
        "scores": scores,
        "curve": curve,
        "per_neuron": per_neuron,
        "traces": traces,
        "run": "adapted/mouse7/1-tables",
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(result(), tmp_path_factory.mktemp("new mouse"))


def test_page_is_one_offline_file(page: Path) -> None:
    text = page.read_text()
    assert page.name == PAGE
    assert [path.name for path in page.parent.iterdir()] == [PAGE]
    assert len(text) < 300_000
    found = Collector()
    found.feed(text)
    assert found.open == []
    assert found.loads == []
    assert len(set(found.ids)) == len(found.ids)
    assert all(link[1:] in found.ids for link in found.links if link.startswith("#"))
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text
    assert text.count("<svg") == text.count("</svg>")
    charts = re.findall(r'<svg class="chart[^>]*aria-label="([^"]+)"', text)
    assert len(charts) == text.count("<title>") - 1 > 6
    assert all(charts)


def test_eight_thousand_neurons_of_four_mice_stay_small() -> None:
    assert len(build(result(8000, ("a", "b", "c", "d")))) < 3_000_000


def test_page_says_what_the_result_says(page: Path) -> None:
    text = page.read_text()
    for words in (
        "82 % of the ceiling",
        "0.410",
        "from scratch 0.310",
        "known law: stimulus",
        "runs/first",
        "1,234",
        "567,890",
        "pupil_size",
        "neuron 12",
        "omnimouse-jax finetune --from runs/first --store stores/lab --session mouse7-1 --stages tables --workdir NEW",
        "omnimouse-jax predict --from adapted/mouse7/1-tables",
        "match",
    ):
        assert words in text, words
    assert "<li class=warn>mouse7-1: LEAK" in text
    better = np.array(result()["per_neuron"]["mouse7-1"]["stimulus"]["adapted"])
    better = better > np.array(result()["per_neuron"]["mouse7-1"]["stimulus"]["scratch"])
    assert f"Adapted is better in {better.sum()} of 120 neurons" in text


def test_minutes_that_are_needed() -> None:
    """Where the adapted curve meets the last point of the other: interpolated in log minutes, or told as it is."""
    stimulus = views(result())[0]
    needed, all_of, fewer = stimulus.needed
    assert needed == pytest.approx(2 * 2.5**0.5)
    assert (all_of, fewer) == (20.0, False)
    assert any(
        "With 3.2 min, 16 % of 20 min, it is as good as the model from scratch with 20 min (0.310)." in sentence
        for sentence in sentences(stimulus)
    )

    def changed(adapted: float) -> Any:
        made = result()
        for row in made["curve"]:
            row["score"] += adapted if row["method"] == "adapted" else 0.0
        return views(made)[0]

    assert changed(0.1).needed == (1.0, 20.0, True)
    assert any("With at most 1 min, 5 % of 20 min, it is as good" in sentence for sentence in sentences(changed(0.1)))
    assert changed(-0.2).needed is None
    assert any(
        "With up to 20 min the adapted model is not as good" in sentence for sentence in sentences(changed(-0.2))
    )
    assert [minutes_told(m) for m in (0.5, 1.0, 2.34, 12.4)] == ["30 s", "1 min", "2.3 min", "12 min"]


def test_chance_is_called_so() -> None:
    made = result()
    for row in made["scores"]:
        if row["channel"] == "" and row["method"] in ("adapted", "scratch"):
            row |= {"score": -0.01, "score_low": -0.03, "score_high": 0.01}
    stimulus = views(made)[0]
    assert headline(stimulus) == "No better than chance"
    assert stimulus.needed is None
    assert any("minutes are not compared" in sentence for sentence in sentences(stimulus))
    assert headline(views(result())[0]) == "82 % of the ceiling"


def test_gain_over_scratch_is_of_paired_neurons() -> None:
    made = result()
    of_neuron = made["per_neuron"]["mouse7-1"]["stimulus"]
    of_neuron["scratch"] = [score - 0.1 for score in of_neuron["adapted"]]
    mean, low, high = views(made)[0].gain
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))
    of_neuron["scratch"] = [s + (-1) ** k * 0.1 for k, s in enumerate(of_neuron["adapted"])]
    assert any("not measurably different" in sentence for sentence in sentences(views(made)[0]))


@pytest.mark.parametrize(
    "lacking",
    [
        "curve",
        "per_neuron",
        "traces",
        "stages",
        "told",
        "scores",
        "tasks",
        "scratch",
        "before",
        "ridge",
        "ceiling",
        "nan",
        "seeds",
    ],
)
def test_what_is_missing_leaves_its_part_out(lacking: str, tmp_path: Path) -> None:
    made = copy.deepcopy(result())
    if lacking in METHODS:
        for name in ("scores", "curve"):
            made[name] = [row for row in made[name] if row["method"] != lacking]
        for of_task in made["per_neuron"]["mouse7-1"].values():
            of_task.pop(lacking, None)
        for row in made["traces"]:
            row.pop(lacking, None)
    elif lacking == "ceiling":
        made["per_neuron"]["mouse7-1"]["stimulus"]["ceiling"] = None
        for row in made["scores"]:
            row |= {"ceiling": None, "normalized": None, "ceiling_estimator": ""}
    elif lacking == "nan":
        for row in made["scores"]:
            row["score_low"] = row["score_high"] = float("nan") if row["method"] == "ridge" else None
        for row in made["curve"]:
            row["score_low"] = row["score_high"] = None
        made["per_neuron"]["mouse7-1"]["stimulus"]["scratch"][:5] = [None] * 5
        made["traces"][0]["adapted"] = [None] * 360
    elif lacking == "seeds":
        made["curve"] += [{**row, "seed": 1, "score": row["score"] + 0.02} for row in made["curve"]]
    else:
        made[lacking] = type(made[lacking])()
    found = Collector()
    text = write_page(made, tmp_path / "page.html").read_text()
    found.feed(text)
    assert found.open == []
    shown = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.DOTALL)
    assert not re.search(r"\bnan\b|\bNone\b|\binf\b", shown)
    gone = {
        "curve": "Score by minutes of data",
        "per_neuron": "How many neurons",
        "traces": "Recorded and predicted",
        "stages": "<h2>Stages",
        "told": "<h2>What was frozen",
        "scores": "All scores",
        "scratch": "Neuron by neuron the adapted model is",
        "ceiling": "% of the ceiling",
    }
    assert lacking not in gone or gone[lacking] not in shown
    if lacking == "ceiling":
        assert "No ceiling is known" in shown
    if lacking == "seeds":
        assert "mean of 2 seeds" in shown


def test_names_cannot_become_markup() -> None:
    text = build(
        json.loads(json.dumps(result()).replace("mouse7-1", "<script>alert(1)</script>").replace("neuron 12", "a<b"))
    )
    assert "<script>alert" not in text
    assert "a<b" not in text


def test_several_mice_each_have_their_sections() -> None:
    text = build(result(sessions=("a-1", "b-1")))
    for words in ("<h2>a-1</h2>", "<h2>b-1</h2>", "stimulus, a-1", "stimulus, b-1"):
        assert words in text


def test_page_in_a_browser(page: Path, tmp_path: Path) -> None:
    """No script error; legend buttons hide series; arrow keys tell points; nothing is wider than a phone."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium to look at the page with")
    probe = """<script>
      const out = [], figure = document.querySelector(".curve figure"), svg = figure.querySelector("svg.chart");
      figure.querySelector(".legend button").click();
      out.push("hidden " + svg.querySelectorAll("g.off").length);
      svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
      out.push("key " + document.getElementById("tip").textContent);
      out.push("wide " + (document.documentElement.scrollWidth > innerWidth));
      document.body.innerHTML = "<pre>" + window.problems.concat(out).join("\\n") + "</pre>";
    </script>"""
    watch = (
        "<script>window.problems = []; addEventListener('error', (e) => problems.push('error ' + e.message));"
        "addEventListener('securitypolicyviolation', (e) => problems.push('error ' + e.violatedDirective));</script>"
    )
    copied = tmp_path / "probed.html"
    copied.write_text(page.read_text().replace("<head>", "<head>" + watch).replace("</body>", probe + "</body>"))
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=420,900", "--dump-dom"]
    command += ["--virtual-time-budget=2000", f"--user-data-dir={tmp_path / 'profile'}", copied.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    match = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    assert match, done.stdout[-500:]
    lines = match.group(1).splitlines()
    assert "hidden 1" in lines
    assert any(line.startswith("key ") and "min" in line for line in lines)
    assert "wide false" in lines
    assert not [line for line in lines if line.startswith("error")]
