"""SENSORIUM 2023's submission tables: parquet with brotli, one row per trial, lists of lists of numbers.

mouse          large_string             the session's folder name
trial_indices  int64                    number of the trial's file
prediction     list<list<double>>       neurons x frames 51..T
neuron_ids     list<uint32>
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks.trials import written_whole

COLUMNS = ("mouse", "trial_indices", "prediction", "neuron_ids")


class TrialRow(NamedTuple):
    """One trial. `prediction` is None where its lists are not as long as each other."""

    mouse: str
    trial: int
    prediction: Float[np.ndarray, "neurons frames"] | None
    neurons: Int[np.ndarray, " neurons"]


def pyarrow() -> Any:
    """pyarrow with its parquet part; UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            "SENSORIUM 2023 submissions are parquet files, and pyarrow is not installed",
            way_out="pip install 'omnimouse-jax[parquet]'",
        ) from None
    return pyarrow


def schema() -> Any:
    """The four columns with the types that the official code writes."""
    pa = pyarrow()
    kinds = (pa.large_string(), pa.int64(), pa.list_(pa.list_(pa.float64())), pa.list_(pa.uint32()))
    return pa.schema(list(zip(COLUMNS, kinds, strict=True)))


class TableWriter:
    """A submission table that is written trial by trial; it gets its name when the block ends well."""

    def __init__(self, path: Path):
        self.path, self.rows = path, 0
        self._pa = pyarrow()
        self._whole = written_whole(path)

    def __enter__(self) -> TableWriter:
        temporary = self._whole.__enter__()
        self._file = self._pa.parquet.ParquetWriter(temporary, schema(), compression="brotli")
        return self

    def add(self, row: TrialRow) -> None:
        """One trial."""
        pa, values = self._pa, row.prediction
        assert values is not None
        n, frames = values.shape
        inner = pa.ListArray.from_arrays(
            pa.array(np.arange(n + 1, dtype=np.int32) * frames), pa.array(values.astype(np.float64).ravel())
        )
        columns = [
            pa.array([row.mouse], pa.large_string()),
            pa.array([row.trial], pa.int64()),
            pa.ListArray.from_arrays(pa.array(np.array([0, n], np.int32)), inner),
            pa.array([row.neurons.tolist()], pa.list_(pa.uint32())),
        ]
        self._file.write_table(pa.Table.from_arrays(columns, schema=schema()))
        self.rows += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._whole.__exit__(kind, error, trace)


def trial_rows(path: Path) -> Iterator[TrialRow]:
    """The trials of a table, one after another. UserError where it cannot be read or its columns are not a submission's."""
    pa = pyarrow()
    try:
        file = pa.parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as problem:
        told = " ".join(str(problem).split())[:120]
        raise UserError(f"file {path}: cannot be read as parquet ({told})", way_out="write it again") from problem
    found, wanted = file.schema_arrow, schema()
    if set(found.names) != set(COLUMNS):
        raise UserError(
            f"file {path}: columns {', '.join(found.names)}",
            way_out=f"a submission of SENSORIUM 2023 has {', '.join(COLUMNS)}",
        )
    for name in COLUMNS:
        if not _alike(pa, found.field(name).type, wanted.field(name).type):
            raise UserError(
                f"file {path}: column {name} is {found.field(name).type}",
                way_out=f"write it as {wanted.field(name).type}",
            )
    for batch in file.iter_batches(batch_size=1, columns=list(COLUMNS)):
        for k in range(batch.num_rows):
            row = batch.slice(k, 1)
            inner = row.column("prediction").flatten()
            yield TrialRow(
                str(row.column("mouse")[0].as_py()),
                int(row.column("trial_indices")[0].as_py()),
                _matrix(inner),
                row.column("neuron_ids").flatten().to_numpy(zero_copy_only=False).astype(np.int64),
            )


def members(path: Path, folder: Path) -> list[Path]:
    """The tables in a zip, unpacked into `folder`. UserError for something that is not a zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
            return [Path(archive.extract(name, folder)) for name in names]
    except (OSError, zipfile.BadZipFile) as problem:
        raise UserError(f"file {path}: cannot be read as a zip ({problem})", way_out="write it again") from problem


def pack(path: Path, tables: list[Path]) -> None:
    """A zip of these tables, side by side at its top."""
    with written_whole(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for table in tables:
            archive.write(table, table.name)


def _matrix(lists: Any) -> Float[np.ndarray, "neurons frames"] | None:
    lengths = np.diff(lists.offsets.to_numpy())
    if len(lengths) == 0 or (lengths != lengths[0]).any():
        return None
    return lists.flatten().to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(lengths), -1)


def _alike(pa: Any, found: Any, wanted: Any) -> bool:
    """Types that readers take for the same: text of either width, any whole numbers, any floats, lists of such."""
    kinds = pa.types
    if kinds.is_list(wanted):
        return (kinds.is_list(found) or kinds.is_large_list(found)) and _alike(pa, found.value_type, wanted.value_type)
    for kind in (kinds.is_integer, kinds.is_floating):
        if kind(wanted):
            return bool(kind(found))
    return bool(kinds.is_string(found) or kinds.is_large_string(found))
