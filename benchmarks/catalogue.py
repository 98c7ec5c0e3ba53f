"""The catalogue of the whole field: opening 333 sessions, listing their windows, and the first training batches.

Makes a store of 333 sessions with the published corpus's neuron counts, durations, rates and kinds of stimuli (from its table
of sessions where that is at hand, else drawn from its quantiles). Manifest, trials, screen events and scales are of full size and
written by the store's own writer. Arrays have their full shape, but every file of an array is one and the same (a row of noise,
repeated, by hard links), so that 2 TB fit into 2 GB; reading a window is real, its values are not. Then, each in a fresh process
and from a cold disk: seconds and memory for opening the store, for all windows of tier train, and for training batches.

How long: about three minutes to make the store, one to measure.
Command:
  python benchmarks/catalogue.py --store /tmp/field
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

TABLE = Path(__file__).resolve().parents[2] / "shared" / "recordings" / "omnimouse_sessions.csv"
SESSIONS, ANIMALS, RATE = 333, 73, 30.0
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", required=True, type=Path, help="folder to make the store in (kept, and used again)")
    parser.add_argument("--table", type=Path, default=TABLE, help="the corpus's table of sessions (csv)")
    parser.add_argument("--batches", type=int, default=40, help="training batches to read after the first")
    parser.add_argument("--only", choices=list(MEASURED), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        print(json.dumps(MEASURED[asked.only](asked)))
        return
    build(asked.store, corpus(asked.table))
    print("| what | seconds | peak memory MB, of which before | found |")
    print("|---|---|---|---|")
    for name in MEASURED:
        forget(asked.store)
        command = [
            sys.executable,
            __file__,
            "--store",
            str(asked.store),
            "--batches",
            str(asked.batches),
            "--only",
            name,
        ]
        rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        for row in rows:
            print(
                f"| {row['what']} | {row['seconds']:.2f} | {row['peak']:,.0f}, {row['before']:,.0f} | {row['found']} |"
            )


class Clock:
    """Seconds and memory since it was made."""

    def __init__(self) -> None:
        self.began, self.before = time.perf_counter(), memory()

    def row(self, what: str, found: str) -> dict[str, Any]:
        seconds = time.perf_counter() - self.began
        return {"what": what, "seconds": seconds, "peak": memory("VmHWM"), "before": self.before, "found": found}


def open_store(asked: argparse.Namespace) -> list[dict[str, Any]]:
    from omnimouse_jax.recordings.store import Store

    clock = Clock()
    store = Store.open(asked.store)
    neurons = sum(store.summary(key)["n_neurons"] for key in store.keys)
    hours = sum(store.summary(key)["hours"] for key in store.keys)
    return [clock.row("open the store", f"{len(store)} sessions, {neurons:,} neurons, {hours:.0f} h")]


def windows(asked: argparse.Namespace) -> list[dict[str, Any]]:
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.tokens.grid import Grid
    from omnimouse_jax.tokens.windows import WindowIndex

    clock = Clock()
    store = Store.open(asked.store)
    found = WindowIndex.of(store, store.keys, ("train",), Grid(), 1.0)
    return [
        clock.row("open, and all windows of tier train", f"{len(found):,} windows in {len(found.first) - 1:,} spans")
    ]


def batches(asked: argparse.Namespace) -> list[dict[str, Any]]:
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.tokens import regimes
    from omnimouse_jax.tokens.classes import Plan
    from omnimouse_jax.tokens.grid import Grid
    from omnimouse_jax.tokens.pipeline import Cutter, TrainingBatches
    from omnimouse_jax.tokens.vocabulary import Vocabulary
    from omnimouse_jax.tokens.windows import WindowIndex

    clock = Clock()
    store = Store.open(asked.store)
    vocabulary = Vocabulary.of({key: store.summary(key) for key in store.keys})
    grid = Grid()
    cutter = Cutter(store, vocabulary, grid, ("running", "pupil_x", "pupil_y"), (36, 64), 4096)
    index = WindowIndex.of(store, store.keys, ("train",), grid, 1.0)
    plan = Plan.exact(regimes.select(["tasks"]), grid, cutter.n_slots)
    training = TrainingBatches(cutter, index, plan, batch_size=BATCH, seed=0)
    nbytes = sum(field.nbytes for field in training[0])
    rows = [clock.row(f"a new run's first batch of {BATCH} windows", f"{nbytes / 1e6:.0f} MB")]
    stream = training.stream(1, 1 + asked.batches, slice(None), threads=2, ahead=2)
    steady = Clock()
    for _ in range(asked.batches):
        next(stream)
    seconds = time.perf_counter() - steady.began
    rate = asked.batches * BATCH / seconds
    return [
        *rows,
        steady.row(f"{asked.batches} more batches", f"{rate:.0f} windows/s, {rate * nbytes / BATCH / 1e6:.0f} MB/s"),
    ]


MEASURED = {"open": open_store, "windows": windows, "batches": batches}


def memory(which: str = "VmRSS") -> float:
    """MB of this process."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(lines[which].split()[0]) / 1000


def forget(store: Path) -> None:
    """Makes the kernel drop what it holds of the store."""
    seen = set()
    for path in store.rglob("*"):
        if path.is_file() and (inode := path.stat().st_ino) not in seen:
            seen.add(inode)
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def corpus(table: Path) -> list[dict[str, Any]]:
    """Key, animal, neurons, hours and kinds of stimuli of each session."""
    if table.exists():
        with table.open() as lines:
            found = list(csv.DictReader(line for line in lines if not line.startswith("#")))
        keys = {"n": "n_neurons", "hours": "hours", "rate": "original_response_rate_hz"}
        return [
            {"key": row["session"], "animal": row["animal_id"], "screen": row["screen"]}
            | {name: float(row[column]) for name, column in keys.items()}
            for row in found
        ]
    rng = np.random.default_rng([0])
    neurons = np.interp(rng.random(SESSIONS), [0, 0.05, 0.5, 0.95, 1], [1960, 4569, 7253, 9369, 10771])
    hours = np.interp(rng.random(SESSIONS), [0, 0.5, 1], [46.7, 95.0, 216.0]) / 60
    screens = ["blank+image+video"] * 150 + ["blank+video"] * 160 + ["blank+image"] * 23
    return [
        {
            "key": f"session-{i}",
            "animal": str(i % ANIMALS),
            "n": neurons[i],
            "hours": hours[i],
            "rate": 8.0,
            "screen": screens[i],
        }
        for i in range(SESSIONS)
    ]


def build(folder: Path, sessions: list[dict[str, Any]]) -> None:
    """Adds the sessions that are not there yet."""
    from omnimouse_jax.recordings import statistics, writer
    from omnimouse_jax.recordings.store import Store

    number = itertools.count()
    writer.write_array = write_linked
    statistics.frame_hashes = lambda frames: [next(number).to_bytes(8, "little") for _ in range(len(frames))]
    store = Store.create(folder)
    began = time.perf_counter()
    for i, session in enumerate(sessions):
        if session["key"] not in store:
            number = itertools.count()
            path, _ = store._manifest.begin(session["key"], None)
            entry = writer.write_session(store._place.under(f"{path}/"), recording(session, i))
            store._update(store._manifest.commit(session["key"], entry | {"folder": path}, None))
    blocks = {path.stat().st_ino: path.stat().st_blocks for path in folder.rglob("*") if path.is_file()}
    used = 512 * sum(blocks.values()) / 1e9
    whole = sum(RATE * 3600 * session["hours"] * session["n"] * 4 for session in sessions) / 1e12
    print(
        f"store: {len(store)} sessions, {whole:.2f} TB of responses in {used:.2f} GB, made in {time.perf_counter() - began:.0f} s"
    )


def write_linked(place: Any, name: str, values: Any, dtype: str, rate: float, *, compress: bool, observe: Any) -> Any:
    """`arrays.write_array` for the first file of an array; the others are that file again."""
    from omnimouse_jax.recordings.arrays import SHARD_BYTES, write_array

    whole = values.shape[0]
    row_bytes = int(np.prod(values.shape[1:])) * np.dtype(dtype).itemsize
    written = Rows(min(whole, 2 * SHARD_BYTES // row_bytes), values)
    layout, sums = write_array(place, name, written, dtype, rate, compress=compress, observe=lambda first, block: None)
    shard = layout.chunk_rows * layout.shard_chunks
    observe(0, values[0 : whole if name != "responses" and name != "screen" else 300])
    if name == "screen":
        observe(300, np.broadcast_to(np.uint8(0), (max(0, whole - 300), 1, 1)))
    path = place.local / name
    metadata = json.loads((path / "zarr.json").read_text())
    metadata["shape"][0] = whole
    (path / "zarr.json").write_text(json.dumps(metadata))
    rest = ["0"] * (len(values.shape) - 1)
    for i in range(1, -(-whole // shard)):
        there = path.joinpath("c", str(i), *rest)
        there.unlink(missing_ok=True)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.hardlink_to(path.joinpath("c", "0", *rest))
    chunks = -(-whole // layout.chunk_rows)
    return layout, np.resize(sums[: layout.shard_chunks], chunks) if len(sums) else sums


class Rows:
    """`n` equal rows of noise, made when they are read; a fourth of a row is noise, so that they take little room on disk."""

    def __init__(self, n: int, like: Any):
        self.shape, self.dtype, self._like = (n, *like.shape[1:]), np.dtype(like.dtype), like

    def __getitem__(self, rows: slice) -> np.ndarray:
        rng = np.random.default_rng([rows.start])
        return one_row(rng, self.shape[1:], self.dtype).repeat(rows.stop - rows.start, axis=0)


def one_row(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape))
    noise = np.resize(rng.standard_exponential(-(-size // 4), dtype=np.float32), (1, *shape))
    return noise if dtype != np.uint8 else (40 * noise).clip(0, 255).astype(np.uint8)


class Shape:
    """What `Rows` needs to know of an array."""

    def __init__(self, dtype: type, *shape: int):
        self.shape, self.dtype = shape, np.dtype(dtype)


def recording(session: dict[str, Any], seed: int) -> Any:
    """A session of that size: trials and events as its kind has them, arrays that are made when they are read."""
    from omnimouse_jax.recordings.session import Recording, Signal

    rng = np.random.default_rng([seed])
    seconds, n = 3600 * session["hours"], int(session["n"])
    trials, screen, frames = timeline(rng, seconds, session["screen"])
    eye, wheel = (Rows(int(rate * (seconds + 60)), Shape(np.float32, 1, c)) for rate, c in ((20, 4), (100, 1)))
    return Recording(
        session["key"],
        session["animal"],
        Signal.continuous(
            Rows(int(RATE * seconds), Shape(np.float32, 1, n)),
            RATE,
            0.0,
            phase_shifts=rng.uniform(0, 1 / session["rate"], n),
        ),
        trials,
        behavior={
            "eye_tracker": Signal.continuous(
                eye, 20.0, -10.0, channels=("pupil_x", "pupil_y", "pupil_size", "pupil_size_derivative")
            ),
            "treadmill": Signal.continuous(wheel, 100.0, -10.0, channels=("running",)),
        },
        screen=screen(Rows(frames, Shape(np.uint8, 1, 36, 64))),
        neurons={"unit_id": np.arange(n), **{axis: rng.uniform(0, 800, n) for axis in "xyz"}, "area": np.full(n, "V1")},
        provenance={"reader": "catalogue benchmark", "original_rate": session["rate"]},
    )


def timeline(rng: np.random.Generator, seconds: float, kinds: str) -> tuple[Any, Any, int]:
    """Trials, a function from frames to a Screen, and the number of frames.

    Clips of 10.01 s at 29.97 Hz; images of 0.517 s between blanks of 0.3 to 0.5 s and of one frame; both halves of a session
    that has both. A fifth of the clips and images are repeats.
    """
    from omnimouse_jax.recordings.session import Screen, Trials

    halves = [kind for kind in ("video", "image") if kind in kinds]
    parts: list[tuple[float, str, int]] = []  # length, modality, stimulus
    at, stimulus = 0.0, 0
    for number, kind in enumerate(halves):
        while at < seconds * (number + 1) / len(halves) - 12:
            fresh = stimulus == 0 or rng.random() > 0.2
            shown = stimulus if fresh else int(rng.integers(stimulus))
            stimulus += fresh
            clip = [(10.01, "video", shown), (0.05, "blank", -1)]
            still = [(rng.uniform(0.3, 0.5), "blank", -1), (0.517, "image", shown), (0.033, "blank", -1)]
            parts += clip if kind == "video" else still
            at = sum(length for length, _, _ in parts[-3:]) + at if kind == "image" else at + 10.06
    length = np.array([part[0] for part in parts])
    start = np.concatenate([[0.0], np.cumsum(length)[:-1]])
    modality = np.array([part[1] for part in parts])
    number = np.array([part[2] for part in parts])
    tier = np.where(modality == "blank", "", np.array(["train", "train", "train", "validation", "test"])[number % 5])
    name = np.char.add("s", number.astype(str))
    trials = Trials(start, start + length, tier, modality, np.where(number < 0, "", name), np.ones(len(parts), bool))
    per_stimulus = np.ones(stimulus, np.int64)
    per_stimulus[number[modality == "video"]] = 300
    first = np.cumsum(per_stimulus) - per_stimulus
    count = np.where(modality == "video", 300, 1)
    owner = np.repeat(np.arange(len(parts)), count)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    frame = np.where(number[owner] < 0, -1, first[number[owner]] + step)
    times = start[owner] + step / 29.97
    end = float(start[-1] + length[-1])
    return trials, lambda frames: Screen(frames, times, frame, np.full(len(times), 128.0), end), int(per_stimulus.sum())


if __name__ == "__main__":
    main()
