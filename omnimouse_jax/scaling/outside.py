"""Tables that others made: any CSV (or Parquet) file, read so that nothing is dropped or guessed in silence."""

from __future__ import annotations

import csv
import dataclasses
import difflib
import io
import math
import re
from pathlib import Path

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.forms import Array
from omnimouse_jax.scaling.outside_where import Column, Texts, Truth, computed, rows_where

MISSING = {"", "na", "n/a", "nan", "none", "null", "-", "--", "?", "."}
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?(\d+|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?")
PLAIN = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?|[+-]?inf(inity)?", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as texts. `lines[i]` is where row i stands in the file; `notes` say how it was read."""

    path: Path
    names: list[str]
    rows: list[list[str]]
    lines: list[int]
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def index(self, name: str, flag: str) -> int:
        """Position of a column. UserError: there is none, or more than one."""
        found = [i for i, other in enumerate(self.names) if other == name]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{flag}: {self.path} has {len(found)} columns named {name!r}", way_out="rename all but one of them"
            )
        near = difflib.get_close_matches(name, self.names, 3, 0.5)
        told = f"did you mean {' or '.join(near)}?" if near else f"columns: {', '.join(self.names[:20])}"
        raise UserError(f"{flag}: {self.path} has no column {name!r}", way_out=told)

    def texts(self, name: str, flag: str) -> Texts:
        index = self.index(name, flag)
        return np.array([row[index].strip() for row in self.rows], dtype=np.str_)

    def numbers(self, name: str, flag: str, wanted: Truth | None = None) -> Array:
        """A column as numbers, NaN where missing; `wanted` (n,): rows that matter. UserError: a text, with its line."""
        index = self.index(name, flag)
        out = np.full(len(self.rows), np.nan)
        for i, row in enumerate(self.rows):
            if wanted is not None and not wanted[i]:
                continue
            value = as_number(row[index], self.decimal_comma)
            if value is None:
                raise UserError(
                    f"{flag}: {self.path} line {self.lines[i]}: column {name!r} holds {row[index].strip()!r}, not a number",
                    way_out="write plain numbers (70e9, not 70B), leave unknown ones empty, or exclude the row by --where",
                )
            out[i] = value
        return out

    def value(self, text: str, flag: str, wanted: Truth) -> Array:
        """A column of numbers by its name, or an arithmetic expression of columns."""
        text = text.strip()
        plain = text[1:-1] if re.fullmatch(r"`[^`]+`", text) else text
        if plain in self.names or not re.search(r"[-+*/`()]", text):
            return self.numbers(plain, flag, wanted)
        names = list(dict.fromkeys(self.names))
        return np.array(computed(text, names, lambda n, _: self.numbers(n, flag, wanted), len(self), flag))

    def where(self, text: str, flag: str = "--where") -> Truth:
        """Rows for which a condition holds."""

        def column(name: str, numeric: bool) -> Column:
            if not numeric:
                return self.texts(name, flag)
            try:
                return self.numbers(name, flag)
            except UserError as error:
                raise UserError(error.what, way_out=f"compare it with a text in quotes: {name} == '..'") from None

        return rows_where(text, list(dict.fromkeys(self.names)), column, len(self), flag)


def as_number(text: str, decimal_comma: bool = False) -> float | None:
    """The number that a cell holds, NaN where it is empty or says that it is missing, None where it is a text."""
    text = text.strip().replace("\u2212", "-").replace("\u00a0", "").replace("\u202f", "")
    if text.lower() in MISSING:
        return math.nan
    if text.lower() in ("true", "false"):
        return float(text.lower() == "true")
    if decimal_comma and DECIMAL_COMMA.fullmatch(text):
        text = text.replace(".", "").replace(",", ".")
    elif THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    if not PLAIN.fullmatch(text):
        return None
    return float(text.lower().replace("d", "e"))


def read_table(path: Path) -> Table:
    """A .csv, .tsv or .txt file (comma, semicolon, tab or bar; comment lines start with #), or .parquet."""
    if not path.is_file():
        raise UserError(f"table {path}: no such file", way_out="name a .csv or .parquet file")
    if path.suffix == ".parquet":
        return _parquet(path)
    text = _decoded(path)
    numbered = [(i, line) for i, line in enumerate(re.split(r"\r\n|\n|\r", text), start=1)]
    kept = [(i, line) for i, line in numbered if line.strip() and not line.startswith("#")]
    if not kept:
        raise UserError(f"table {path}: empty", way_out="the first line names the columns, the others hold rows")
    delimiter = max(",;\t|", key=lambda d: (_fields(kept[0][1], d), d == ","))
    body = csv.reader(io.StringIO("\n".join(line for _, line in kept)), delimiter=delimiter, skipinitialspace=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    names: list[str] = []
    try:
        for record in body:
            line = kept[min(body.line_num, len(kept)) - 1][0]
            if not names:
                names = [name.strip() for name in record]
                continue
            if not any(cell.strip() for cell in record):
                continue
            if any(cell.strip() for cell in record[len(names) :]):
                raise UserError(
                    f"table {path} line {line}: {len(record)} fields where the header has {len(names)}",
                    way_out="quote texts that contain the separator, or numbers with thousands separators",
                )
            rows.append([*record, *[""] * (len(names) - len(record))][: len(names)])
            lines.append(line)
    except csv.Error as error:
        raise UserError(
            f"table {path} line {kept[min(body.line_num, len(kept)) - 1][0]}: {error}", way_out="repair the line"
        ) from None
    if not rows:
        raise UserError(f"table {path}: a header and no rows", way_out="the lines after the first hold the rows")
    notes = []
    cells = [cell.strip() for row in rows for cell in row]
    comma = (
        delimiter != ","
        and any(DECIMAL_COMMA.fullmatch(c) for c in cells)
        and not any(THOUSANDS.fullmatch(c) and ("." in c or c.count(",") > 1) for c in cells)
    )
    if comma:
        notes.append("a comma is read as a decimal comma, because columns are separated by another sign")
    elif any(THOUSANDS.fullmatch(c) for c in cells):
        notes.append("commas within numbers are read as thousands separators")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        notes.append(f"several columns are named {', '.join(twice)}")
    return Table(path, names, rows, lines, comma, tuple(notes))


def _fields(header: str, delimiter: str) -> int:
    return len(next(csv.reader([header], delimiter=delimiter)))


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    if b"\x00" in raw[:4096] and not raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"table {path}: not a text file", way_out="export it as CSV")
    for encoding in ("utf-16",) if raw.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "latin-1"):
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise UserError(f"table {path}: cannot be decoded as text", way_out="save it as UTF-8")


def _parquet(path: Path) -> Table:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"table {path}: reading Parquet needs pyarrow", way_out="install pyarrow, or write a .csv"
        ) from None
    try:
        found = parquet.read_table(path)
    except Exception as error:  # whatever pyarrow raises for a damaged file
        raise UserError(f"table {path}: {str(error).splitlines()[0]}", way_out="write the file again") from None
    columns = [column.to_pylist() for column in found.columns]
    rows = [["" if value is None else _cell(value) for value in row] for row in zip(*columns, strict=True)]
    if not rows:
        raise UserError(f"table {path}: no rows", way_out="name a table with rows")
    return Table(path, list(found.column_names), rows, list(range(1, len(rows) + 1)))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return repr(value) if isinstance(value, float) else str(value)
