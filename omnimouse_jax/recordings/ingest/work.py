"""Sessions worked on one by one or several at a time, in processes, with progress; a failure is one session's."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.progress import Progress
from omnimouse_jax.recordings.session import Recording, Signal

#: Is told how many bytes were read.
Tick = Callable[[int], None]
Job = TypeVar("Job")
Out = TypeVar("Out")

#: In a worker process: where it puts the bytes that it has read.
_ticks: Any = None


def _start_worker(ticks: Any) -> None:
    global _ticks
    _ticks = ticks
    ticks.cancel_join_thread()  # what is not told any more must not keep the process
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    """No worker outlives a killed parent: it would go on writing beside the one that is started next."""
    parent.join()
    os._exit(1)


def _in_worker(function: Callable[[Job, Tick], Out], job: Job) -> Out:
    return function(job, _ticks.put)


def work(
    function: Callable[[Job, Tick], Out],
    jobs: Sequence[Job],
    workers: int,
    label: str,
    megabytes: float,
    keep_going: bool,
    failed: list[str],
) -> Iterator[tuple[Job, Out]]:
    """Yields what `function` says of each job, as they end. An error ends the work, or goes to `failed`."""
    if workers < 1:
        raise UserError(f"{workers} workers", way_out="give at least 1")
    shown = Shown(label, len(jobs), megabytes)
    try:
        outcomes = _one_by_one(function, jobs, shown)
        if workers > 1 and len(jobs) > 1:
            outcomes = _at_the_same_time(function, jobs, min(workers, len(jobs)), shown)
        for job, outcome in outcomes:
            shown.done += 1
            if not isinstance(outcome, UserError):
                yield job, outcome
            elif keep_going:
                failed.append(str(outcome))
            else:
                raise outcome
    finally:
        shown.progress.close()


def _one_by_one(
    function: Callable[[Job, Tick], Out], jobs: Sequence[Job], shown: Shown
) -> Iterator[tuple[Job, Out | UserError]]:
    for job in jobs:
        try:
            yield job, function(job, shown.tick)
        except UserError as error:
            yield job, error


def _at_the_same_time(
    function: Callable[[Job, Tick], Out], jobs: Sequence[Job], workers: int, shown: Shown
) -> Iterator[tuple[Job, Out | UserError]]:
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of an open store, and hang
    ticks = context.Queue()
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(ticks,))
    try:
        futures: dict[Future[Out], Job] = {pool.submit(_in_worker, function, job): job for job in jobs}
        left = set(futures)
        while left:
            ended, left = wait(left, timeout=0.2, return_when=FIRST_COMPLETED)
            shown.drain(ticks)
            for future in ended:
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    raise UserError(
                        f"{shown.label}: a worker process died (killed, or out of memory)",
                        way_out="run the same command again, with fewer --workers: finished sessions are kept",
                    ) from error
                if error is not None and not isinstance(error, UserError):
                    raise error
                yield futures[future], future.result() if error is None else error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class Shown:
    """How far the work is: sessions done and, where the total is known, megabytes and their rate."""

    def __init__(self, label: str, n_jobs: int, megabytes: float):
        self.label, self.n_jobs, self.done, self.bytes = label, n_jobs, 0, 0
        self.megabytes = round(megabytes)
        self.start = time.monotonic()
        self.progress = Progress(self.megabytes or n_jobs, label=f"{label} ")

    def tick(self, n_bytes: int) -> None:
        """Some more bytes were read."""
        self.bytes += n_bytes
        rate = self.bytes / 1e6 / max(time.monotonic() - self.start, 1e-9)
        if self.megabytes:
            told = f"MB, {self.done} of {self.n_jobs} sessions, {rate:.0f} MB/s"
            self.progress.show(min(self.megabytes, round(self.bytes / 1e6)), told)
        else:
            self.progress.show(self.done, f"sessions, {rate:.0f} MB/s")

    def drain(self, ticks: Any) -> None:
        """Takes what the workers have said meanwhile."""
        while True:
            try:
                self.tick(ticks.get_nowait())
            except queue.Empty:
                self.tick(0)
                return


class Counted:
    """An array that says how many bytes were read from it."""

    def __init__(self, values: Any, tick: Tick):
        self._values, self._tick = values, tick
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        block = np.asarray(self._values[rows])
        self._tick(block.nbytes)
        return block


def counted(rec: Recording, tick: Tick) -> Recording:
    """The recording with arrays that tell `tick` what is read from them."""

    def signal(given: Signal) -> Signal:
        return dataclasses.replace(given, values=Counted(given.values, tick))

    screen = rec.screen
    return dataclasses.replace(
        rec,
        responses=signal(rec.responses),
        behavior={name: signal(stream) for name, stream in rec.behavior.items()},
        screen=None if screen is None else dataclasses.replace(screen, frames=Counted(screen.frames, tick)),
    )
