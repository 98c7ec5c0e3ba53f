"""Random 2 s windows from a store on a local disk against np.memmap of the same data, in one run.

Responses as float32, as float16, and as a field recording has them (8 samples a second, held at 30), and video as uint8. The store
is written by `Store.add` and read through the handles that training reads through, a batch of windows in flight at a time (and
one by one); memmap copies one window after the other, as everybody does. Both take turns within a round, on the same windows.
Cold: the kernel has dropped the files' pages. Warm: it holds all of them, the process has seen none. Medians over rounds,
ratios round by round. Bytes are what the process asked the kernel for (warm) and what came from the disk (cold).

How long: about a minute on two CPU cores, 3 GB of disk for as long as it runs.
Command:
  python benchmarks/reading.py
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.recordings import kvstore
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.store import Store

RATE, ROWS = 30, 60
Read = Callable[[list[int]], Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--neurons", type=int, default=8000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--windows", type=int, default=80, help="windows in a round")
    parser.add_argument("--batch", type=int, default=8, help="windows whose reads are in flight together")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", help="where to write (default: a temporary folder); removed at the end")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        cases = build(Path(folder), asked.neurons, int(asked.minutes * 60 * RATE))
        print(f"{os.cpu_count()} cores; batches of {asked.batch}; {asked.rounds} rounds of {asked.windows} windows")
        print(
            "| what | MB a window | pages | memmap MB/s | store MB/s | ratio | one by one | store: bytes read / used | reads |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for case in cases:
            for pages in ("cold", "warm"):
                print(case.measure(pages, asked))


class Case:
    """One array twice: in a store and as a plain file."""

    def __init__(self, what: str, store: Path, pick: Callable[[Recording], Any], plain: Path, values: np.ndarray):
        self.what, self.store, self.pick, self.plain = what, store, pick, plain
        self.shape, self.dtype = values.shape, values.dtype
        values.tofile(plain)

    def memmap(self) -> Read:
        opened = np.memmap(self.plain, self.dtype, "r", shape=self.shape)
        return lambda starts: [np.array(opened[lo : lo + ROWS]) for lo in starts]

    def handles(self, together: bool) -> Read:
        kvstore.context.cache_clear()  # nothing is cached by an earlier turn
        values = self.pick(Store.open(self.store).recording("m1-s1"))
        if together:
            return lambda starts: [finish() for finish in [values.start(lo, lo + ROWS) for lo in starts]]
        return lambda starts: [values[lo : lo + ROWS] for lo in starts]

    def measure(self, pages: str, asked: argparse.Namespace) -> str:
        """A row of the table."""
        prepare = drop if pages == "cold" else load
        ways: dict[str, tuple[Path, Callable[[], Read]]] = {
            "memmap": (self.plain, self.memmap),
            "together": (self.store, lambda: self.handles(True)),
            "one by one": (self.store, lambda: self.handles(False)),
        }
        window = ROWS * int(np.prod(self.shape[1:])) * self.dtype.itemsize
        took: dict[str, list[float]] = {name: [] for name in ways}
        read: list[dict[str, float]] = []
        for number in range(asked.rounds):
            starts = np.random.default_rng([number]).integers(0, self.shape[0] - ROWS, asked.windows).tolist()
            batches = [starts[i : i + asked.batch] for i in range(0, len(starts), asked.batch)]
            for name, (path, make) in ways.items():
                call = make()
                call([0])  # opened; not what is measured
                prepare(path)
                before, began = counters(), time.perf_counter()
                for batch in batches:
                    call(batch)
                took[name].append(time.perf_counter() - began)
                if name == "together":
                    read.append({what: value - before[what] for what, value in counters().items()})
        rate = {name: window * asked.windows / statistics.median(times) / 1e6 for name, times in took.items()}
        ratio = {
            name: statistics.median(a / b for a, b in zip(took["memmap"], times, strict=True))
            for name, times in took.items()
        }
        source = "read_bytes" if pages == "cold" else "rchar"
        used = statistics.median(one[source] for one in read) / (window * asked.windows)
        calls = statistics.median(one["syscr"] for one in read) / asked.windows
        cells = (self.what, f"{window / 1e6:.2f}", pages, f"{rate['memmap']:,.0f}", f"{rate['together']:,.0f}")
        cells += (f"{ratio['together']:.2f}", f"{ratio['one by one']:.2f}", f"{used:.2f}", f"{calls:.1f}")
        return "| " + " | ".join(cells) + " |"


def build(folder: Path, neurons: int, rows: int) -> list[Case]:
    rng = np.random.default_rng([0])
    noise = np.empty((rows, neurons), np.float32)
    rng.standard_exponential(out=noise, dtype=np.float32)
    held = noise[(np.arange(rows) * 8) // RATE]
    steps = rng.standard_normal((rows // 8 + 2, 36, 64), dtype=np.float32).cumsum(axis=2)
    frames = np.repeat(steps, 8, axis=0)[:rows] + 2 * rng.standard_normal((rows, 36, 64), dtype=np.float32)
    frames = np.clip(128 + 12 * frames, 0, 255).astype(np.uint8)
    responses: Callable[[Recording], Any] = lambda rec: rec.responses.values  # noqa: E731
    cases = []
    for what, values, dtype in (
        ("float32", noise, "float32"),
        ("float16", noise, "float16"),
        ("float32 held", held, "float32"),
    ):
        place = folder / what
        Store.create(place).add(recording(values, frames[:60]), dtype=dtype)
        cases.append(Case(f"responses {what}", place, responses, folder / f"{what}.raw", values.astype(dtype)))
    place = folder / "video"
    Store.create(place).add(recording(noise[:, :4], frames))
    cases.append(Case("video uint8", place, lambda rec: rec.screen.frames, folder / "video.raw", frames))
    return cases


def recording(values: np.ndarray, frames: np.ndarray) -> Recording:
    n = len(values) // (10 * RATE)
    start = 10.0 * np.arange(n)
    trials = Trials(start, start + 10, *(np.full(n, word) for word in ("train", "video", "")), np.ones(n, bool))
    shown = np.arange(len(frames))
    screen = Screen(frames, shown / RATE, shown, np.full(len(frames), 128.0), len(frames) / RATE)
    return Recording("m1-s1", "m1", Signal.continuous(values, RATE, 0.0), trials, screen=screen)


def drop(path: Path) -> None:
    """Makes the kernel forget the files' pages."""
    for file in files(path):
        with opened(file) as descriptor:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)


def load(path: Path) -> None:
    """Makes the kernel hold all of the files."""
    buffer = bytearray(2**23)
    for file in files(path):
        with opened(file) as descriptor:
            while os.readv(descriptor, [buffer]):
                pass


def files(path: Path) -> list[Path]:
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


@contextlib.contextmanager
def opened(file: Path) -> Iterator[int]:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def counters() -> dict[str, float]:
    """This process's reads so far, as the kernel counts them."""
    return {
        name: float(value)
        for name, value in (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    }


if __name__ == "__main__":
    main()
