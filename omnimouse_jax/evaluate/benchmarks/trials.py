"""From a trained run to predictions trial by trial, and the sessions of a benchmark, from a store or as they were downloaded.

A run sees a session as a continuous recording. Here its predictions come back as the benchmark's trials: a trial is a stretch of
its own in the recording, so windows of a trial see nothing of another.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.ceilings.inputs import inputs_of
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.evaluate.predict import RESPONSES
from omnimouse_jax.progress import Progress
from omnimouse_jax.recordings.ingest.readers import reader_of
from omnimouse_jax.recordings.ingest.sensorium.files import NAME
from omnimouse_jax.recordings.manifest import MANIFEST
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.regimes import resolve
from omnimouse_jax.training.setup import regimes_of

#: Samples a second of both benchmarks as a run sees them.
RATE = 30


class Sessions(NamedTuple):
    """The sessions of one benchmark by key; each is read when it is asked for."""

    benchmark: str
    place: str
    read: Mapping[str, Callable[[], Recording]]

    def recording(self, key: str) -> Recording:
        """UserError for a session that is not there."""
        if key not in self.read:
            some = ", ".join(list(self.read)[:5])
            raise UserError(f"session {key}: not in {self.place}", way_out=f"it has {some}")
        return self.read[key]()


def open_sessions(data: Path | str, benchmark: str) -> Sessions:
    """Sessions of `benchmark` ("sensorium2022", "sensorium2023") in a store, or in a download: a folder, a zip or a folder of zips.

    UserError if there are none. A download is checked file by file whenever a session of it is read; a store is not.
    """
    place = str(data)
    if "://" in place or (Path(place) / MANIFEST).is_file():
        store = Store.open(place)
        known = [key for key in store.keys if store.recording(key).provenance.get("benchmark") == benchmark]
        read = {key: partial(store.recording, key) for key in known}
    elif not Path(place).exists():
        raise UserError(f"{place}: not there", way_out="give a store, or a folder of sessions as downloaded")
    else:
        reader = reader_of(benchmark)
        found = {_key(path): path for path in reader.discover(Path(place))}
        read = {key: partial(reader.read_session, path) for key, path in found.items()}
    if not read:
        raise UserError(f"{place}: no session of {benchmark}", way_out=f"`omnimouse-jax ingest {benchmark}` makes one")
    return Sessions(benchmark, place, read)


def _key(path: Path) -> str:
    found = NAME.match(path.name)
    return "-".join(found.groups()) if found else path.name


def remarks(run: Run, keys: Sequence[str], behavior: bool) -> list[str]:
    """What makes a score of this run unfair to it: sessions of which nothing was trained on, a regime that it never saw."""
    parts, told = run.parts(run.store), []
    try:
        learnt = set(parts.training_windows().sessions)
    except UserError:
        learnt = set(keys)  # the recordings that it was trained on are not here: nothing can be told
    for key in keys:
        if key not in learnt:
            told.append(
                f"NOTE session {key}: nothing of it was trained on, its neurons' rows are as they were drawn; "
                "`omnimouse-jax finetune` adapts the run to it"
            )
    seen = [
        inputs_of(resolve(regime, run.model.grid, 4096)) for regime in regimes_of(run.config.regimes, run.model.grid)
    ]
    if not any(i.screen and not i.neurons and i.behavior == behavior for i in seen):
        shown = "video + behavior" if behavior else "video alone"
        told.append(f"NOTE the run was not trained to predict from {shown}: this track is not what it is good at")
    return told


class Asked(NamedTuple):
    """What the tracks of a benchmark ask of a run: the second half of every window from the movie, with or without behaviour."""

    run: Run
    behavior: bool

    @property
    def regime(self) -> str:
        """As an expression; with behaviour it is the task `stimulus` of docs/regimes.md."""
        grid = self.run.model.grid
        shown = "video + behavior" if self.behavior else "video"
        return f"{shown} -> responses[:, {grid.n_samples // 2}:{grid.n_samples}]"


def require_run(run: Run, sessions: Sessions, keys: Sequence[str] = ()) -> list[str]:
    """The sessions that are asked for (default: all that both know). UserError for one that the run does not know, or none."""
    for key in keys:
        if key not in run.sessions:
            raise UserError(
                f"session {key}: run {run.folder} was not trained on it",
                way_out="train it on this session, or add rows for it with `omnimouse-jax finetune`",
            )
        if key not in sessions.read:
            sessions.recording(key)
    both = [key for key in keys or sessions.read if key in run.sessions]
    if not both:
        raise UserError(
            f"run {run.folder}: knows no session of {sessions.place}",
            way_out=f"it was trained on {', '.join(run.sessions[:3])}, ...",
        )
    if (rate := run.model.grid.response_rate) != RATE:
        raise UserError(f"run {run.folder}: {rate} samples a second", way_out=f"use a model of {RATE}")
    return both


class TrialPrediction(NamedTuple):
    """Number of a trial (of its file), and responses at its samples in the recording's units, NaN where no window asked."""

    trial: int
    responses: Float[np.ndarray, "samples neurons"]


def predicted_trials(asked: Asked, rec: Recording, tier: str, label: str = "") -> Iterator[TrialPrediction]:
    """Predictions of all trials of a tier in the order of their files; memory holds little more than one trial.

    A trial that is shorter than a window has NaN throughout.
    """
    job = asked.run.job(rec, asked.regime, (tier,))
    timeline, n = job.timeline, job.recording.n_neurons
    first = timeline.first_rows(RATE)
    progress = Progress(len(timeline.windows), label=label)
    waiting = np.zeros((0, n), np.float32)
    stretch = 0
    for rows in job.stream(asked.run.params, progress):
        assert rows.array == RESPONSES
        waiting = np.concatenate([waiting, rows.values])
        while stretch < len(first) - 1 and len(waiting) >= (length := int(first[stretch + 1] - first[stretch])):
            trial = int(job.trials(RESPONSES, int(first[stretch]), int(first[stretch]) + 1)[0])
            yield TrialPrediction(trial, waiting[:length])
            waiting = waiting[length:]
            stretch += 1
    progress.close()


def trials_of(rec: Recording, tier: str) -> Int[np.ndarray, " trials"]:
    """Numbers of a tier's usable trials, in the order of their files."""
    return np.flatnonzero((rec.trials.tier == tier) & rec.trials.valid)


def is_withheld(rec: Recording, tier: str) -> bool:
    """Whether the responses of a tier (of any trial in it) are not public: then nothing is scored."""
    return bool(rec.trials.withheld[trials_of(rec, tier)].any())


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that gets its name when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
