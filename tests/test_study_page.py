"""The study that is committed says what its ledger says."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from omnimouse_jax import cli

STUDY = Path(__file__).resolve().parents[1] / "docs" / "study"


def numbers(path: Path) -> list[list[float | str]]:
    def value(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    with path.open(newline="") as file:
        return [[value(text) for text in row] for row in csv.reader(file)]


def test_the_ledger_gives_the_numbers_and_the_page(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert cli.main(["report", str(STUDY / "ledger.parquet"), "--out", str(tmp_path), "--title", "x"]) == 0
    for name in ("cells.csv", "gains.csv"):  # coefficients at a bound may differ between machines
        again, committed = numbers(tmp_path / name), numbers(STUDY / name)
        assert len(again) == len(committed), name
        for row, other in zip(again, committed, strict=True):
            for one, two in zip(row, other, strict=True):
                assert one == (pytest.approx(two, rel=1e-3, abs=1e-6) if isinstance(two, float) else two), name
    assert (STUDY / "index.html").stat().st_size < 5e6
