"""The page of a study in a real browser: quiet, offline, by pointer and keyboard, narrow and dark, on paper."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from omnimouse_jax.scaling.analysis import analyse
from omnimouse_jax.scaling.ledger import read
from omnimouse_jax.scaling.page import Made, build
from omnimouse_jax.scaling.report import report
from tests.browser import look, run
from tests.planted import LAWS
from tests.planted_ledger import planted_rows


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a page can hold: curves, a plane, anneal points, learning rates, failures, cells to come."""
    laws = {name: LAWS[name] for name in ("population", "behavior")}
    rows = planted_rows(
        laws=laws, anneal=(0.5, 1.0), rates={"5M": (1e-3, 3e-3)}, failed=("20M-016-order0-seed1-0.001",), started=50
    )
    study = analyse(rows, resamples=100)
    return report(study, tmp_path_factory.mktemp("page"), title="Do more mice help?", moment="2030-01-02 03:04:05 UTC")


def test_quiet_and_offline(page: Path, tmp_path: Path) -> None:
    seen = look(page, tmp_path, "say('resources ' + performance.getEntriesByType('resource').length);")
    assert seen.said == ["resources 0"]
    assert seen.console == []
    assert seen.requests == []


def test_a_request_would_be_noticed(tmp_path: Path) -> None:
    """The three alarms of the test above ring."""
    bad = tmp_path / "bad.html"
    bad.write_text('<html><head></head><body><img src="http://127.0.0.1:9/x.png"></body></html>')
    seen = look(
        bad, tmp_path, "console.error('oh'); say('resources ' + performance.getEntriesByType('resource').length);"
    )
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    assert any("oh" in line for line in seen.console)
    blocked = page_with_policy(tmp_path)
    assert any(
        line.startswith("error blocked http://127.0.0.1:9") for line in look(blocked, tmp_path, "say('there');").said
    )


def page_with_policy(folder: Path) -> Path:
    from omnimouse_jax.pages.document import document

    path = folder / "policy.html"
    path.write_text(document("title", ['<img src="http://127.0.0.1:9/y.png">']))
    return path


def test_hover_tells_run_seed_and_session(page: Path, tmp_path: Path) -> None:
    probe = """
      const tip = document.getElementById("tip");
      const at = (mark) => { const b = mark.getBoundingClientRect();
        const middle = { clientX: b.left + b.width / 2, clientY: b.top + b.height / 2 };
        mark.closest("svg").dispatchEvent(new PointerEvent("pointermove", middle));
        say((tip.classList.contains("on") ? "on " : "off ") + tip.textContent); };
      const curve = document.querySelector(".framed svg.chart");
      at(curve.querySelector(".mark.run"));
      at(document.querySelector(".small-multiples svg .mark.run"));
      curve.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "touch" }));
      say("finger " + tip.classList.contains("on"));
      curve.dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
      say("mouse " + tip.classList.contains("on"));
      const box = tip.getBoundingClientRect(); say("inside " + (box.left >= 0 && box.right <= innerWidth));"""
    run_tip, session_tip, finger, mouse, inside = look(page, tmp_path, probe).said
    assert re.search(r"^on .*seed \d, run 1M-008-order0-seed\d", run_tip)
    assert re.search(r"^on mouse0-s0 .*seed \d, run ", session_tip)
    assert (finger, mouse, inside) == ("finger true", "mouse false", "inside true")


def test_legend_and_keyboard(page: Path, tmp_path: Path) -> None:
    probe = """
      const figure = document.querySelector(".framed"), svg = figure.querySelector("svg.chart");
      const tip = document.getElementById("tip"), button = figure.querySelector(".legend button");
      const press = (key) => { svg.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true })); return tip.textContent; };
      button.focus(); say("focus " + (document.activeElement === button));
      button.click();
      say("hidden " + svg.querySelectorAll("g.off").length + " " + button.getAttribute("aria-pressed"));
      say("first " + press("ArrowRight"));
      button.click();
      say("shown " + svg.querySelectorAll("g.off").length);
      press("Escape"); say("closed " + tip.classList.contains("on"));
      const count = svg.querySelectorAll(".mark").length, walked = new Set();
      for (let i = 0; i < count; i++) walked.add(press("ArrowRight") + i);
      say("walked " + (walked.size === count));
      say("back " + (press("ArrowLeft") !== ""));
      say("spoken " + (document.getElementById("voice").textContent === tip.textContent));
      const charts = [...document.querySelectorAll("svg.chart")];
      const unreachable = charts.filter((s) => s.tabIndex !== 0 || !s.getAttribute("aria-label"));
      say("unreachable " + unreachable.length);
      const all = document.querySelectorAll(".framed .legend button").length;
      const dead = [...document.querySelectorAll(".framed .legend button")].filter((b) =>
        !b.closest("figure").querySelector('g[data-series="' + b.dataset.series + '"]'));
      say("buttons " + (all > 10) + " dead " + dead.length);"""
    said = look(page, tmp_path, probe).said
    assert said[0:2] == ["focus true", "hidden 1 false"]
    assert said[2].startswith("first 5M, 8 sessions")  # the hidden size is walked over
    assert said[3:] == [
        *("shown 0", "closed false", "walked true", "back true", "spoken true", "unreachable 0"),
        "buttons true dead 0",
    ]


@pytest.mark.parametrize("width", [360, 768, 1200])
def test_no_page_is_wider_than_its_window(page: Path, tmp_path: Path, width: int) -> None:
    probe = """
      for (const d of document.querySelectorAll("details")) d.open = true;
      say("inner " + innerWidth + " wide " + (document.documentElement.scrollWidth > innerWidth));
      const small = [...document.querySelectorAll(".chart:not(.small) text")].filter((t) => t.getBoundingClientRect().height
        && getComputedStyle(t).display !== "none" && t.getBoundingClientRect().height < 7 && !t.getAttribute("transform"));
      say("unreadable " + small.length);"""
    seen = look(page, tmp_path, probe, width=width)
    assert seen.said[0] == f"inner {width} wide false"
    assert seen.said[1] == "unreadable 0"


def test_dark_and_light_have_contrast(page: Path, tmp_path: Path) -> None:
    probe = """
      const light = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map((x) => x / 255).map((x) => x <= .03928 ? x / 12.92 :
        Math.pow((x + .055) / 1.055, 2.4)); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
      const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
      const paper = getComputedStyle(document.body).backgroundColor;
      say("dark " + matchMedia("(prefers-color-scheme: dark)").matches + " " + (light(paper) < .1));
      const ink = (e, p) => getComputedStyle(e)[p];
      const low = [];
      const check = (found, property, least) => {
        for (const e of document.querySelectorAll(found)) if (ratio(ink(e, property), paper) < least) low.push(e.tagName); };
      check("p, dd, th, td, h2, figcaption", "color", 4.5);
      check(".line.fit, .line.optimal", "stroke", 2);
      say("low " + [...new Set(low)].join(" "));"""
    for dark in (False, True):
        assert look(page, tmp_path, probe, dark=dark).said == [f"dark {str(dark).lower()} {str(dark).lower()}", "low "]


def test_prints(page: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.pdf"
    command = [*run(tmp_path), "--no-pdf-header-footer", f"--print-to-pdf={target}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    pages = len(re.findall(rb"/Type\s*/Page\b", target.read_bytes()))
    assert 4 <= pages <= 40


def test_partial_results_say_so(page: Path) -> None:
    text = page.read_text()
    rows = read(page.parent / "ledger.csv")
    runs = {row["run_id"]: row["state"] for row in rows}
    done = sum(state == "done" for state in runs.values())
    waiting = sum(state == "unfinished" for state in runs.values())
    assert "Partial results." in text
    assert f"{done} of {len(runs)} runs are scored, 1 failed, {waiting} not started" in text
    assert "As of 2030-01-02 03:04:05 UTC" in text
    assert '<td class="lacking">0/2</td>' in text
    assert 'http-equiv="refresh"' not in text
    study = analyse(rows, resamples=20)
    assert 'http-equiv="refresh" content="60"' in build(study, "title", Made(every=60))
    finished = analyse([row for row in rows if row["state"] in ("done", "failed")], resamples=20)
    assert 'http-equiv="refresh"' not in build(finished, "title", Made(every=60))
