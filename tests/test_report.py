"""The page says what the cells say, stays in one offline file, and works in a browser."""

from __future__ import annotations

import csv
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.pages.marks import number
from omnimouse_jax.scaling import figures
from omnimouse_jax.scaling.analysis import Study, analyse
from omnimouse_jax.scaling.collect import collect
from omnimouse_jax.scaling.ledger import finished, write
from omnimouse_jax.scaling.page import build
from omnimouse_jax.scaling.report import load, report, summary
from omnimouse_jax.scaling.uncertainty import Interval
from omnimouse_jax.scaling.verdict import DATA, FLAT, NONE
from omnimouse_jax.scaling.words import bracket, digits_for, title
from tests.planted import LAWS, planted_study
from tests.planted_ledger import planted_rows


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three sizes x three amounts x two seeds, one cell failed: what a demo makes."""
    folder = tmp_path_factory.mktemp("small") / "demo"
    return analyse(collect(planted_study(folder, ["1M", "5M", "20M"], [2, 4, 8], 2, 3, failed=[("20M", 4, 1)])))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Five sizes x six amounts x two seeds: enough for exponents and a verdict."""
    laws = {name: LAWS[name] for name in ("population", "behavior")}
    folder = tmp_path_factory.mktemp("large") / "study"
    planted_study(folder, ["1M", "5M", "20M", "80M", "300M"], [8, 16, 32, 64, 128, 323], 2, 4, laws=laws)
    return analyse(collect(folder), resamples=200)


@pytest.fixture(scope="module")
def page(small: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(small, tmp_path_factory.mktemp("page"), title="Do more mice help?", commands=["make demo"])


class Collector(HTMLParser):
    """Tags that must be closed, attributes that would load something, and ids."""

    void = ("meta", "br", "path", "rect", "link", "img", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.void:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "href":
                self.links.append(value or "")
            elif name in ("src", "srcset", "data", "action"):
                self.loads.append(f"{tag} {name}={value}")
        if tag in ("link", "img", "iframe", "object"):
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


def test_page_is_one_offline_file(page: Path) -> None:
    text = page.read_text()
    assert len(text) < 5_000_000
    found = Collector()
    found.feed(text)
    assert found.open == []
    assert found.loads == []
    assert len(set(found.ids)) == len(found.ids)
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert all(link[1:] in found.ids for link in found.links if link.startswith("#"))
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text


def test_page_holds_what_a_reader_needs(page: Path, small: Study) -> None:
    text = page.read_text()
    for words in ("Do more mice help?", "No verdict", "no exponent: range too narrow", "out of memory", "make demo"):
        assert words in text
    for row in finished(small.rows):
        assert row["config_hash"] in text
        assert row["session"] in text
    for task in small.tasks:
        assert f'id="{task.key}"' in text
        assert f"{task.grid.mean[0, 0]:.3f}" in text
    assert "one nested order of sessions" in text.lower()


def test_narrow_study_tells_gains_without_a_verdict(small: Study) -> None:
    by_name = {task.name: task for task in small.tasks}
    population = by_name["population"]
    assert population.joint.verdict.name == NONE
    assert population.axis_fits == ()
    assert title(population, small) == "More data and bigger models helped"
    assert population.data_step is not None
    assert population.data_step.seeds is not None
    truth = 0.16 * ((2 / 8) ** -0.45 - 1)
    assert population.data_step.seeds.low < population.data_step.estimate < population.data_step.seeds.high
    assert population.data_step.estimate == pytest.approx(truth, rel=0.25)  # sessions have gains of their own
    assert population.data_step.sessions is not None
    assert population.data_step.sessions.low < truth < population.data_step.sessions.high


def test_wide_study_gets_its_verdicts(large: Study) -> None:
    verdicts = {task.name: task.joint.verdict for task in large.tasks}
    assert verdicts["population"].name == DATA
    assert verdicts["behavior"].name == FLAT
    planted = (0.16 * (323 / 8) ** -0.45 * (1 - 2**-0.45)) / (0.10 * 307**-0.35 * (1 - 2**-0.35))
    interval = verdicts["population"].interval
    assert interval is not None
    assert interval.low > 1
    assert verdicts["population"].ratio == pytest.approx(planted, rel=0.25)
    assert verdicts["population"].new_sessions is not None
    assert verdicts["population"].new_sessions.over == "new animals"


def test_summary_is_at_most_ten_lines(small: Study, large: Study) -> None:
    for study in (small, large):
        lines = summary(study)
        assert 5 <= len(lines) <= 10
        assert all("\n" not in line for line in lines)
        for task in study.tasks:
            assert any(line.startswith(task.name) and title(task, study) in line for line in lines)


def test_files_beside_the_page(large: Study, tmp_path: Path) -> None:
    path = report(large, tmp_path)
    assert path == tmp_path / "index.html"
    names = {p.name for p in (tmp_path / "figures").iterdir()}
    for task in large.tasks:
        for axis in ("data", "size"):
            assert {f"{task.key}-by-{axis}.png", f"{task.key}-by-{axis}.svg"} <= names
    assert {"gain-per-doubling.png", "gain-per-doubling.svg"} <= names
    with (tmp_path / "cells.csv").open() as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 30 * len(large.tasks)
    first = large.tasks[0]
    assert float(cells[0]["score"]) == pytest.approx(first.grid.mean[0, 0])
    with (tmp_path / "fits.csv").open() as file:
        fits = list(csv.DictReader(file))
    assert {"S_inf", "A", "alpha", "B", "beta"} <= {row["parameter"] for row in fits if row["line"] == "both axes"}
    with (tmp_path / "gains.csv").open() as file:
        assert {row["task"] for row in csv.DictReader(file)} == {task.name for task in large.tasks}
    text = path.read_text()
    assert "Fitted curves" in text
    for row in cells:
        assert f"<td>{number(float(row['score']))}<br>" in text
        assert f"[{number(float(row['low']))}, {number(float(row['high']))}]" in text
    with (tmp_path / "worth.csv").open() as file:
        steps = [row for row in csv.DictReader(file) if row["step"].startswith("next")]
    assert len(steps) == 2 * len(large.tasks)
    for row in steps:
        these = Interval(float(row["these_low"]), float(row["these_high"]), "", "", 1)
        digits = digits_for(these)
        told = number(float(row["gain"]), digits, signed=True)
        assert f'<td>{told}<span class="of">these sessions {bracket(these, digits)}</span>' in text


def test_two_pages_of_one_ledger_are_the_same_bytes(small: Study, tmp_path: Path) -> None:
    ledger_file = write(small.rows, tmp_path / "ledger.csv")
    one, two = (build(load(source), "page", ()) for source in (ledger_file, small.rows))
    assert one == two


def test_without_matplotlib_the_page_is_written_and_the_way_out_told(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"omnimouse-jax\[plot\]"):
        figures.write_figures(small, tmp_path / "figures")
    assert report(small, tmp_path).is_file()
    assert "omnimouse-jax[plot]" in (tmp_path / "figures" / "NOT_WRITTEN.txt").read_text()


def test_ledgers_that_cannot_be_reported_say_why(small: Study) -> None:
    with pytest.raises(UserError, match="no finished run"):
        analyse([row for row in small.rows if row["state"] != "done"])
    with pytest.raises(UserError, match="choose one of"):
        analyse(small.rows, data_axis="mice")
    broken = [dict(row) for row in small.rows]
    broken[0]["n_params_core"] = 0
    with pytest.raises(UserError, match="n_params_core is 0"):
        analyse(broken)


def test_a_ceiling_is_drawn_and_told(tmp_path: Path) -> None:
    rows = [
        row | {"ceiling": 0.5, "ceiling_estimator": "odd-even"} for row in planted_rows(("1M", "5M"), (8, 16), 2, 2)
    ]
    study = analyse(rows, tasks=["population"])
    text = build(study, "page")
    top = study.tasks[0].grid.mean[-1, -1]
    assert f"reaches {number(float(top) / 0.5, 2)} of the ceiling 0.500 (odd-even)" in text


def test_names_from_the_ledger_cannot_become_markup(small: Study) -> None:
    rows = [row | {"task": row["task"] + "<script>alert(1)</script>", "size": '"><b>'} for row in small.rows]
    text = build(analyse(rows), "<i>title</i>", ("a < b",))
    assert "<script>alert" not in text
    assert "<i>" not in text
    assert '"><b>' not in text


def test_other_data_axes_and_partial_grids(small: Study) -> None:
    assert "training hours" in build(analyse(small.rows, data_axis="hours"), "page", ())
    one_run = [row for row in small.rows if row["run_id"] == "1M-2-0"]
    assert "Nothing to compare" in build(analyse(one_run), "page", ())
    assert any("Nothing to compare" in line for line in summary(one_run))


def test_a_run_without_finite_scores_is_left_out_and_named(small: Study) -> None:
    rows = [row | {"score": float("nan")} if row["run_id"] == "1M-2-0" else row for row in small.rows]
    task = analyse(rows).tasks[0]
    assert "1M-2-0" not in task.run_ids
    assert any("1M-2-0" in note for note in task.notes)


@pytest.mark.slow
def test_a_large_study_stays_under_five_megabytes() -> None:
    law = LAWS["population"]
    rows = planted_rows(seeds=3, sessions=8, laws={f"task number {i}": law for i in range(7)})
    assert len(build(analyse(rows, resamples=20), "page").encode()) < 5_000_000
