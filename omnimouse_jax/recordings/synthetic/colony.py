"""A whole colony into a store, session by session: what is there is kept, processes may share the work."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.recordings.synthetic.mouse import make_recording
from omnimouse_jax.recordings.synthetic.presets import estimate, resolve
from omnimouse_jax.recordings.synthetic.spec import ColonySpec


def synthesize(
    store: str,
    preset: str | ColonySpec = "demo",
    overrides: Mapping[str, Any] | None = None,
    workers: int = 1,
    *,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> list[str]:
    """Makes every session of a colony that `store` lacks and returns the keys of all of them, in order.

    A stopped call goes on where it was. A session of the same name but of another specification is an error unless
    `overwrite`; other sessions in the store are left alone. `workers` > 1 makes sessions in that many processes.
    """
    if workers < 1:
        raise UserError(f"synthesize: workers={workers}", way_out="give at least 1")
    spec = resolve(preset, overrides) if isinstance(preset, str) else preset
    cost = estimate(spec)
    say(
        f"{cost['sessions']:.0f} sessions of {spec.n_animals} animals, {cost['neurons']:,.0f} neurons, "
        f"{cost['hours']:.3g} h recorded; about {_size(cost['bytes'])} before compression, "
        f"{_duration(cost['seconds'] / min(workers, 2))} of work"
    )
    kept = Store.create(store)
    todo = _missing(kept, spec, overwrite)
    if len(todo) < spec.n_sessions:
        say(f"{spec.n_sessions - len(todo)} of {spec.n_sessions} sessions are there already")
    began = time.monotonic()
    for done, recording in enumerate(_recordings(spec, todo, workers), start=1):
        kept.add(recording, overwrite=recording.key in kept.keys)
        left = (time.monotonic() - began) / done * (len(todo) - done)
        say(f"{done:4d}/{len(todo)}  {_told(recording)}" + (f"  {_duration(left)} left" if done < len(todo) else ""))
    return [spec.key(i) for i in range(spec.n_sessions)]


def _missing(store: Store, spec: ColonySpec, overwrite: bool) -> list[int]:
    """Sessions to make. Raises before anything is made if one is there under another specification."""
    there = set(store.keys)
    todo = []
    for index in range(spec.n_sessions):
        key = spec.key(index)
        if key in there:
            if store.recording(key).provenance.get("spec_hash") == spec.session_hash(index):
                continue
            if not overwrite:
                raise UserError(
                    f"session {key}: is in the store already, made from another specification",
                    way_out="give another store, another name for the animals, or overwrite",
                )
        todo.append(index)
    return todo


def _recordings(spec: ColonySpec, todo: Sequence[int], workers: int) -> Iterator[Recording]:
    """The sessions in order; with several workers, at most two are waiting to be written."""
    if workers == 1 or len(todo) < 2:
        for index in todo:
            yield make_recording(spec, index)
        return
    with _one_thread_each(), ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: list[Future[Recording]] = []
        ahead = iter(todo)
        try:
            for index in ahead:
                waiting.append(pool.submit(make_recording, spec, index))
                if len(waiting) > workers + 1:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """New processes get one thread of linear algebra each: with more they wait for each other."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _told(recording: Recording) -> str:
    truth = recording.truth or {}
    ceilings = " / ".join(f"{c['mean']:.2f}" for c in truth["ceiling"].values())
    minutes = recording.responses.n_samples / recording.responses.rate / 60
    lacks = recording.provenance["lacks"]
    told = f"{recording.key}: {recording.n_neurons} neurons, {minutes:.1f} min, ceilings {ceilings}"
    return told + (f", without {', '.join(lacks)}" if lacks else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"
