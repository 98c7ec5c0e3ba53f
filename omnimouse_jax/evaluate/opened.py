"""A trained run opened for use: in a notebook (`omnimouse_jax.open_run`), by `predict`, and by `evaluate`."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Shaped
from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.predict import BEHAVIOR, RESPONSES, Job, require_fit
from omnimouse_jax.evaluate.prediction import Prediction
from omnimouse_jax.evaluate.timeline import Timeline
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.recordings.imagined import imagined
from omnimouse_jax.recordings.kvstore import Location
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens.expression import expression
from omnimouse_jax.tokens.pipeline import slots_for
from omnimouse_jax.tokens.regimes import resolve
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.training.checkpoint import Checkpoints, restore_target
from omnimouse_jax.training.defaults import model_config
from omnimouse_jax.training.parallel import make_mesh
from omnimouse_jax.training.resume import config_of
from omnimouse_jax.training.setup import Parts, enable_compilation_cache, regimes_of
from omnimouse_jax.training.step import Capacity, Trained, init_params

Tree = Any


class Run:
    """A run folder: what it was trained with, and the parameters of one of its checkpoints, read when they are needed."""

    def __init__(self, folder: Path | str, checkpoint: str | int = "", store: Location = ""):
        """`checkpoint`: best, latest or a step (default: the one that the run's config scores); `store`: the recordings, if they
        are not where they were. UserError for a folder without a checkpoint.
        """
        self.folder = Path(folder)
        self._saved = Checkpoints(self.folder, read_only=True)
        if (newest := self._saved.latest()) is None:
            raise UserError(f"run {folder}: no checkpoint yet", way_out="train it until one is saved")
        meta = self._saved.meta(newest)  # a run keeps its vocabulary; its newest config says what to score
        self.config: ConfigDict = config_of(meta)
        self.vocabulary: Vocabulary = Vocabulary.from_json(meta["vocabulary"])
        self.model: ModelConfig = model_config(self.config.model)
        self.step: int = self._saved.step_named(checkpoint or self.config.evaluation.checkpoint)
        #: Sessions whose rows `rows --add` made: nothing is trained on them at step 0.
        self.added = tuple(filter(None, str(meta.get("parent", {}).get("added_sessions", "")).split(",")))
        self._trained = Trained.of(self.config.train.trained, self.config.train.adapter_rank)
        self._place = store or self.config.data.store

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, step {self.step}, {len(self.sessions)} sessions)"

    @property
    def sessions(self) -> tuple[str, ...]:
        """Keys of the sessions that the model knows."""
        return tuple(entry.key for entry in self.vocabulary.sessions)

    @property
    def regimes(self) -> dict[str, str]:
        """The tasks that the run is scored on, as expressions; `predict` takes any other regime too."""
        tasks, grid = self.config.evaluation.tasks, self.model.grid
        return {name: expression(regimes_of([text], grid)[0], grid) for name, text in tasks.items()}

    @cached_property
    def store(self) -> Store:
        """Its recordings."""
        return Store.open(self._place)

    @cached_property
    def mesh(self) -> Mesh:
        """Whatever devices are here share a batch, not those that the run was trained on."""
        return make_mesh(math.gcd(self.config.evaluation.batch_size, jax.device_count()))

    @cached_property
    def params(self) -> Tree:
        """Parameters of the checkpoint, on `mesh`; the optimiser's state is not read."""
        target = restore_target(self.model, Capacity.of(self.vocabulary), self.mesh, self._trained)
        return self._saved.restore_params(self.step, target.params)

    def untrained(self, seed: int) -> Run:
        """The run before its first step: the same architecture, rows and recordings, parameters drawn by `seed`."""
        fresh = copy.copy(self)
        capacity = Capacity.of(self.vocabulary)
        fresh.__dict__["params"] = init_params(self.model, capacity, seed, self.mesh, self._trained)
        return fresh

    def parts(self, store: Store) -> Parts:
        """What `training.setup.predictions` works with, on recordings of this store."""
        enable_compilation_cache()
        capacity = Capacity.of(self.vocabulary)
        return Parts(self.config, store, self.vocabulary, self.model, capacity, self.mesh, self._trained)

    def recording(self, session: str) -> Recording:
        """One of its recordings, read when sliced."""
        return self.store.recording(session)

    def imagine(
        self,
        session: str,
        frames: Shaped[np.ndarray, "frames height width"],
        rate: float | int = 30.0,
        behavior: Mapping[str, float | int] | None = None,
    ) -> Recording:
        """The neurons of a session in front of other frames, from time 0 on, after a window of grey; see `imagined`."""
        return imagined(self.recording(session), frames, rate, behavior, self.model.grid.seconds)

    def job(
        self,
        session: str | Recording,
        regime: str,
        tiers: Sequence[str] = (),
        start: float | int | None = None,
        seconds: float | int | None = None,
        stride_s: float | int | None = None,
    ) -> Job:
        """What `predict` says it does, checked and ready to run."""
        key = session if isinstance(session, str) else session.key
        entry, grid = self.vocabulary.entry(key), self.model.grid
        store = self.store if isinstance(session, str) else _Given(session)
        recording, parts = store.recording(key), self.parts(store)
        require_fit(parts, recording)
        found = regimes_of([regime], grid)
        if len(found) > 1:
            few = ", ".join(repr(one.name) for one in found[:3])
            raise UserError(f"regime {regime!r} is {len(found)} regimes", way_out=f"name one of them, such as {few}")
        layout = resolve(found[0], grid, slots_for(entry.n_neurons))
        blanks = self.config.data.blanks
        timeline = Timeline.of(recording, layout, tiers, start, seconds, stride_s, blanks)
        channels = tuple(name for name in self.model.behavior_channels if name in recording.channels)
        job = Job(parts, recording, found[0], timeline, channels)
        if not job.arrays:
            raise UserError(
                f"session {key}: regime {regime!r} asks for behaviour, of which this session has none that the model knows",
                way_out="ask for responses",
            )
        return job

    def predict(
        self,
        session: str | Recording,
        regime: str,
        *,
        tiers: Sequence[str] = (),
        start: float | int | None = None,
        seconds: float | int | None = None,
        stride_s: float | int | None = None,
    ) -> Prediction:
        """What the model says of a session of the store, or of a recording in memory, under a regime (name or expression).

        Of the whole session, of some tiers, or of `seconds` from `start` on (in seconds on the session's axis). Windows start every
        `stride_s` (default: as evaluation has it); how they are combined: `timeline.RULE`. All of it is held in memory;
        `omnimouse-jax predict` writes it to a file piece by piece.
        """
        job = self.job(session, regime, tiers, start, seconds, stride_s)
        arrays = {
            name: np.full((job.n_rows(name), columns), np.nan, np.float32) for name, (_, columns) in job.arrays.items()
        }
        for rows in job.stream(self.params):
            arrays[rows.array][rows.first : rows.first + len(rows.values)] = rows.values
        return _collected(job, regime, arrays)


def open_run(folder: Path | str, checkpoint: str | int = "", store: Location = "") -> Run:
    """A trained run to look into and to predict with: `open_run("runs/x").predict("mouse7-1", "stimulus")`."""
    return Run(folder, checkpoint, store)


class _Given(Store):
    """One recording in memory, seen as a store that has no other."""

    def __init__(self, recording: Recording):
        self._recording = recording

    @property
    def name(self) -> str:
        return f"{self._recording.key} in memory"

    def __len__(self) -> int:
        return 1

    def __contains__(self, key: object) -> bool:
        return key == self._recording.key

    def recording(self, key: str) -> Recording:
        return self._recording


class _Part(NamedTuple):
    """The wanted rows of one array."""

    time: np.ndarray
    values: np.ndarray
    recorded: np.ndarray
    trial: np.ndarray

    @classmethod
    def of(cls, job: Job, arrays: Mapping[str, np.ndarray], name: str, columns: int) -> _Part:
        """Without rows where the array is not asked for."""
        if name not in arrays:
            nothing = np.zeros((0, columns), np.float32)
            return cls(np.zeros(0), nothing, nothing, np.zeros(0, np.int64))
        lo, hi = job.timeline.wanted_rows(job.arrays[name][0].rate)
        return cls(job.times(name, lo, hi), arrays[name][lo:hi], job.recorded(name, lo, hi), job.trials(name, lo, hi))


def _collected(job: Job, regime: str, arrays: Mapping[str, np.ndarray]) -> Prediction:
    """The samples that are wanted, beside what was recorded."""
    responses = _Part.of(job, arrays, RESPONSES, job.recording.n_neurons)
    behavior = _Part.of(job, arrays, BEHAVIOR, len(job.channels))
    names = np.append(np.asarray(job.recording.trials.tier, str), "")  # the last one, -1, is between trials
    return Prediction(
        session=job.recording.key,
        regime=regime,
        time=responses.time,
        responses=responses.values,
        recorded=responses.recorded,
        neuron_ids=job.neuron_ids,
        tier=names[responses.trial],
        trial=responses.trial,
        behavior_time=behavior.time,
        behavior=behavior.values,
        recorded_behavior=behavior.recorded,
        behavior_tier=names[behavior.trial],
        channels=job.channels,
    )
