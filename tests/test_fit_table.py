"""The fit verb on tables of others: units, files, dropped rows, and one-line errors for whatever is odd."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.outside import as_number, read_table
from tests.test_fit import TRUTH, X, law

CHINCHILLA = ("--form", "chinchilla", "--x", "n,d", "--y", "loss")
Rows = list[str]


def rows_of(x: np.ndarray, y: np.ndarray) -> Rows:
    return [f"{n:.10g},{d:.10g},{v:.10g}" for (n, d), v in zip(x, y, strict=True)]


@pytest.fixture
def clean() -> Rows:
    rng = np.random.default_rng(0)
    return rows_of(X, law(X) * np.exp(0.003 * rng.standard_normal(30)))


def write(folder: Path, rows: Rows, head: str = "n,d,loss", encoding: str = "utf-8") -> Path:
    path = folder / "table.csv"
    path.write_bytes(("\n".join([head, *rows]) + "\n").encode(encoding))
    return path


def fitted(path: Path, *arguments: str) -> dict:
    out = path.parent / "out.json"
    assert main(["fit", str(path), "--resamples", "20", *arguments, "--json", str(out)]) == 0
    return json.loads(out.read_text())


def refused(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> str:
    assert main(["fit", str(path), "--resamples", "20", *arguments]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("error: ")
    assert "\n" not in told
    assert " - " in told  # the way out
    return told


def test_a_clean_table_gives_the_law_in_its_own_units(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, rows_of(X, law(X)))
    got = fitted(path, *CHINCHILLA)
    assert got["parameters"] == pytest.approx(TRUTH, rel=1e-6)
    assert got["verdict"]["name"] == "data-limited"
    assert got["verdict"]["ratio"] == pytest.approx(3.8062477851, rel=1e-5)
    assert got["verdict"]["local_ratio"] == pytest.approx(3.7432913018, rel=1e-5)
    assert set(got["intervals"]) == set(TRUTH)
    assert got["flags"] == []
    assert (got["n"], got["rows"], got["dropped"]) == (30, 30, [])
    text = capsys.readouterr().out
    for words in ("estimate", "objective", "held out", "straight line in logs", "Data-limited", "no flags", "gradient"):
        assert words in text


def test_the_order_of_x_says_which_term_is_which(tmp_path: Path, clean: Rows) -> None:
    path = write(tmp_path, clean)
    one = fitted(path, *CHINCHILLA)["parameters"]
    other = fitted(path, "--form", "chinchilla", "--x", "d,n", "--y", "loss")
    names = {"E": "E", "A": "B", "alpha": "beta", "B": "A", "beta": "alpha"}
    assert other["parameters"] == pytest.approx({names[k]: v for k, v in one.items()}, rel=1e-5)
    assert other["verdict"]["name"] == "parameter-limited"


def test_the_objective_is_the_plain_sum_of_huber_losses(tmp_path: Path, clean: Rows) -> None:
    got = fitted(write(tmp_path, clean), *CHINCHILLA, "--delta", "1e-3")
    p = got["parameters"]
    x, y = (
        np.array([[float(v) for v in row.split(",")] for row in clean])[:, :2],
        [float(r.split(",")[2]) for r in clean],
    )
    size = np.abs(np.log(y) - np.log(p["E"] + p["A"] * x[:, 0] ** -p["alpha"] + p["B"] * x[:, 1] ** -p["beta"]))
    want = np.sum(np.where(size <= 1e-3, size**2 / 2, 1e-3 * (size - 5e-4)))
    assert got["objective"] == pytest.approx(want, rel=1e-9)
    assert got["gradient"] < 1e-5


@pytest.mark.parametrize(
    ("delimiter", "decimal", "encoding"),
    [(",", ".", "utf-8-sig"), (";", ".", "utf-8"), (";", ",", "utf-8"), ("\t", ".", "utf-16"), ("|", ".", "latin-1")],
)
def test_files_of_other_programs(tmp_path: Path, clean: Rows, delimiter: str, decimal: str, encoding: str) -> None:
    want = fitted(write(tmp_path, clean), *CHINCHILLA)["parameters"]
    rows = [row.replace(".", decimal if decimal == "," else ".") if decimal == "." else row for row in clean]
    rows = [delimiter.join(v.replace(".", decimal) for v in row.split(",")) + "\r" for row in rows]
    path = write(tmp_path, ["# a remark", "", *rows], head=delimiter.join(("n", "d", "loss")) + "\r", encoding=encoding)
    assert fitted(path, *CHINCHILLA)["parameters"] == pytest.approx(want)


def test_thousands_separators_and_words_for_missing(tmp_path: Path, clean: Rows) -> None:
    want = fitted(write(tmp_path, clean), *CHINCHILLA)["parameters"]
    rows = [f'"{int(float(n)):,}",{d},{v}' for n, d, v in (row.split(",") for row in clean)]
    got = fitted(write(tmp_path, [*rows, "NA,8,3", "1e6,,3", "1e6,8,nan", "1e6,8,inf", "1e6,8"]), *CHINCHILLA)
    assert got["parameters"] == pytest.approx(want)
    assert got["n"] == 30
    counts = {entry["reason"]: entry["rows"] for entry in got["dropped"]}
    assert counts == {"missing n": 1, "missing d": 1, "missing loss": 2, "infinite loss": 1}


def test_cells_as_numbers() -> None:
    for text, value in (
        (" 1e-3 ", 1e-3),
        ("1,234,567.5", 1234567.5),
        ("\u22125", -5.0),
        ("1.5D3", 1500.0),
        ("inf", math.inf),
        ("True", 1.0),
    ):
        assert as_number(text) == value
    assert as_number("1.234,5", decimal_comma=True) == 1234.5
    for text in ("70B", "1_000", "1,23", "0x10", "3 M", "12%"):
        assert as_number(text) is None
    assert all(math.isnan(as_number(text) or 0.0) for text in ("", "NA", "null", "-"))


@pytest.mark.parametrize(
    ("condition", "rows"),
    [
        ("ok == 1", 30),
        ("not ok == 0 and loss < 100", 30),
        ("ok in (1, 2) or (d > 1e9 and loss <= 1)", 30),
        ("kind == 'good'", 30),
        ("kind in ('good', 'fine') and `test set` != 'b'", 30),
        ("kind not in ('bad')", 30),
        ("8 <= d < 1e6 and n / 6 > 1 and -1 < ok * 1.0", 30),
        ("class == 'x'", 30),
    ],
)
def test_conditions(tmp_path: Path, clean: Rows, condition: str, rows: int) -> None:
    path = write(
        tmp_path, [*(f"{row},1,good,a,x" for row in clean), "70B,8,3,0,bad,b,y"], head="n,d,loss,ok,kind,test set,class"
    )
    if condition.startswith("8 <="):
        path = write(tmp_path, [f"{row},1" for row in clean] + [",8,3,0"], head="n,d,loss,ok")
    got = fitted(path, *CHINCHILLA, "--where", condition)
    assert got["n"] == rows
    assert got["dropped"] == [{"reason": f"--where {condition}", "rows": 1}]


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        ("loss = 3", "write =="),
        ("loss > 3 && n > 1", "write and, or, not"),
        ("__import__('os').system('true')", "not allowed"),
        ("loss.__class__ == 1", "not allowed"),
        ("(lambda: 1)() == 1", "not allowed"),
        ("n", "not a condition"),
        ("los > 3", "no column 'los'"),
        ("n > 1e99", "none of the 30 rows"),
        ("9**9**9**9 < n", "none of the 30 rows"),
        ("n > 'big'", "none of the 30 rows"),
        ("(" * 500 + "n > 1" + ")" * 500, ""),
    ],
)
def test_conditions_that_cannot_be_read(
    tmp_path: Path, clean: Rows, capsys: pytest.CaptureFixture[str], condition: str, words: str
) -> None:
    path = write(tmp_path, clean)
    if condition == "n > 'big'":  # texts are compared as texts: digits come before letters
        condition = "n < '0'"
    assert words in refused(capsys, path, *CHINCHILLA, "--where", condition)


def test_odd_tables_are_refused_in_one_line(tmp_path: Path, clean: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    one_size = [row for row in clean if row.startswith("1000000,")]
    for rows, arguments, words in (
        ([*clean, "70B,8,3"], CHINCHILLA, "line 32: column 'n' holds '70B'"),
        ([*clean, "0,8,3"], CHINCHILLA, "line 32: column 'n' is 0"),
        ([*clean, "1,2,3,4"], CHINCHILLA, "line 32: 4 fields"),
        (one_size, CHINCHILLA, "column 'n' is 1e+06 in all 6 rows"),
        ([*clean[:1], *clean[7:9]], CHINCHILLA, "3 points for the 5 parameters"),
        ([], CHINCHILLA, "a header and no rows"),
        (["x,y,z"], CHINCHILLA, "column 'n' holds 'x'"),
        ([",,"] * 3, CHINCHILLA, "no rows"),
        (["1,2,NA"] * 3, CHINCHILLA, "no row is left"),
        ([f"{row}e200" for row in clean], CHINCHILLA, "double precision"),
        (clean, ("--form", "chinchila", "--x", "n,d", "--y", "loss"), "unknown form"),
        (clean, ("--form", "chinchilla", "--x", "n", "--y", "loss"), "two axes"),
        (clean, ("--form", "chinchilla", "--x", "n,n", "--y", "loss"), "the same column twice"),
        (clean, ("--form", "chinchilla", "--x", "n,dd", "--y", "loss"), "did you mean d?"),
        (clean, ("--form", "chinchilla", "--x", "n,,d", "--y", "loss"), "an empty name"),
        (clean, (*CHINCHILLA, "--delta", "often"), "not a number"),
        (clean, (*CHINCHILLA, "--delta", "-1"), "positive number"),
        (clean, (*CHINCHILLA, "--fix", "Q=1"), "no parameter 'Q'"),
        (clean, (*CHINCHILLA, "--fix", "E"), "NAME=VALUE"),
        (clean, (*CHINCHILLA, "--holdout", "q"), "no axis"),
        (clean, (*CHINCHILLA, "--weights", "d", "--sd", "d"), "one of them"),
        (clean, (*CHINCHILLA, "--higher-is-better"), "for losses"),
        (clean, (*CHINCHILLA, "--response", "one_minus"), "1 - value has no logarithm"),
        (clean, (*CHINCHILLA, "--json", "/nowhere/out.json"), "no folder"),
        (clean, ("--form", "bnsl", "--x", "d", "--y", "loss", "--where", "n == 1e6"), "6 points for a curve"),
    ):
        assert words in refused(capsys, write(tmp_path, rows), *arguments), words
    assert "has 2 columns named 'loss'" in refused(
        capsys, write(tmp_path, [f"{row},1" for row in clean], head="n,d,loss,loss"), *CHINCHILLA
    )
    (tmp_path / "table.csv").write_bytes(bytes(range(256)))
    assert "not a text file" in refused(capsys, tmp_path / "table.csv", *CHINCHILLA)
    assert "no such file" in refused(capsys, tmp_path / "none.csv", *CHINCHILLA)


def test_losses_below_zero_are_fitted_as_they_are(
    tmp_path: Path, clean: Rows, capsys: pytest.CaptureFixture[str]
) -> None:
    want = fitted(write(tmp_path, clean), *CHINCHILLA, "--response", "raw")
    lower = [",".join((n, d, f"{float(v) - 5:.10g}")) for n, d, v in (row.split(",") for row in clean)]
    got = fitted(write(tmp_path, lower), *CHINCHILLA)
    assert got["response"] == "raw"
    assert got["parameters"]["E"] == pytest.approx(want["parameters"]["E"] - 5, abs=1e-6)
    assert got["parameters"]["alpha"] == pytest.approx(want["parameters"]["alpha"], rel=1e-5)
    assert any("no logarithm" in note for note in got["notes"])
    assert "--response raw" in refused(capsys, tmp_path / "table.csv", *CHINCHILLA, "--response", "log")


def test_scores_on_their_own_scale_and_as_one_minus(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(X, 1 - 0.3 * law(X)))
    own = fitted(path, "--form", "score_joint", "--x", "n,d", "--y", "loss")
    assert own["parameters"] == pytest.approx({"S_inf": 0.7, "A": 9.0, "alpha": 0.35, "B": 0.24, "beta": 0.3}, rel=1e-5)
    other = fitted(path, *CHINCHILLA, "--response", "one_minus")
    assert other["parameters"] == pytest.approx({"E": 0.3, "A": 9.0, "alpha": 0.35, "B": 0.24, "beta": 0.3}, rel=1e-5)
    assert other["derived"]["S_inf"]["estimate"] == pytest.approx(0.7)
    assert own["verdict"]["name"] == other["verdict"]["name"] == "data-limited"
    assert own["verdict"]["ratio"] == pytest.approx(other["verdict"]["ratio"], rel=1e-4)
    wrong = fitted(path, *CHINCHILLA)
    assert "direction" in wrong["flag_codes"]
    assert wrong["verdict"]["name"] == "no verdict"


def test_what_cannot_be_known_is_flagged_not_guessed(tmp_path: Path, clean: Rows) -> None:
    rng = np.random.default_rng(1)
    three = write(tmp_path, clean[:3])
    assert {"few_points", "narrow", "open"} <= set(
        fitted(three, "--form", "power1", "--x", "d", "--y", "loss")["flag_codes"]
    )
    n = np.geomspace(1e3, 1e8, 20)
    together = fitted(write(tmp_path, rows_of(np.stack([n, 20 * n], 1), 1 + 30 * n**-0.3)), *CHINCHILLA)
    assert "collinear" in together["flag_codes"]
    assert together["verdict"]["name"] == "no verdict"
    flat = fitted(write(tmp_path, rows_of(X, np.full(30, 2.0))), *CHINCHILLA)
    assert flat["parameters"]["E"] == pytest.approx(2.0)
    assert flat["verdict"]["name"] == "no measurable return"
    shuffled = fitted(write(tmp_path, rows_of(X, rng.permutation(law(X)))), *CHINCHILLA)
    assert {"poor"} <= set(shuffled["flag_codes"])
    assert shuffled["r2"] < 0.2
    assert shuffled["verdict"]["name"] not in ("data-limited", "parameter-limited")
    without = fitted(write(tmp_path, rows_of(X, law(X, A=0.0))), *CHINCHILLA)
    assert without["verdict"]["ratio"] is None
    assert "No parameter term" in without["verdict"]["words"]


def test_columns_may_be_computed_and_parameters_held(tmp_path: Path, clean: Rows) -> None:
    path = write(tmp_path, clean)
    want = fitted(path, *CHINCHILLA)["parameters"]
    got = fitted(path, "--form", "chinchilla", "--x", "n * 1000,d", "--y", "loss")["parameters"]
    assert got["A"] == pytest.approx(want["A"] * 1000 ** want["alpha"], rel=1e-5)
    assert {k: v for k, v in got.items() if k != "A"} == pytest.approx(
        {k: v for k, v in want.items() if k != "A"}, rel=1e-5
    )
    held = fitted(path, *CHINCHILLA, "--fix", "E=1", "--fix", "A=30")
    assert (held["parameters"]["E"], held["fixed"]) == (1.0, {"E": 1.0, "A": 30.0})
    assert "E" not in held["intervals"]
    assert fitted(path, *CHINCHILLA, "--resamples", "0")["intervals"] == {}


def test_sessions_widen_to_new_ones_and_clusters_are_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [
        f"{n},{d},{(0.5 - 9 * n**-0.35 - 0.3 * d**-0.4) * gain + 0.001 * rng.standard_normal():.6f},s{k},m{k // 2},{int(d)}"
        for n, d in X
        for k, gain in enumerate((0.8, 0.9, 1.0, 1.1, 1.2, 1.05))
    ]
    path = write(tmp_path, rows, head="n,d,score,session,animal,group")
    arguments = ("--form", "score_joint", "--x", "n,d", "--y", "score")
    got = fitted(path, *arguments, "--session", "session", "--animal", "animal")
    low, high = got["new_sessions_intervals"]["S_inf"]
    inner = got["intervals"]["S_inf"]
    assert high - low > inner[1] - inner[0]
    assert low < 0.5 * 1.008 < high
    assert got["verdict"]["new_sessions"][0] < 3.45 < got["verdict"]["new_sessions"][1]
    grouped = fitted(path, *arguments, "--cluster", "group")
    assert "few_clusters" in grouped["flag_codes"]


def test_parquet_is_read_where_pyarrow_is(tmp_path: Path, clean: Rows) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    n, d, v = (np.array(column, dtype=np.float64) for column in zip(*(row.split(",") for row in clean), strict=True))
    path = tmp_path / "table.parquet"
    parquet.write_table(arrow.table({"n": n, "d": d, "loss": v, "kind": ["a"] * 30}), path)
    want = fitted(write(tmp_path, clean), *CHINCHILLA)["parameters"]
    assert fitted(path, *CHINCHILLA, "--where", "kind == 'a'")["parameters"] == pytest.approx(want)
    path.write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match=r"table\.parquet"):
        read_table(path)


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    text = capsys.readouterr().out
    assert "omnimouse-jax fit runs.csv --form chinchilla --x n_params,n_tokens --y loss --delta 1e-3" in text
    assert "data_constrained" in text
