"""The models of one probe: runs and their untrained control, in front of the same windows, with the same neurons asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.probe.predictor import Predictor, Shown
from omnimouse_jax.probe.sensitivity.options import Options
from omnimouse_jax.probe.sensitivity.recorded import Signal, Sums, signal_of
from omnimouse_jax.probe.sensitivity.subject import Subject, read, spread
from omnimouse_jax.probe.settings import digest, provenance
from omnimouse_jax.tokens.windows import Window


@dataclasses.dataclass(frozen=True, eq=False)
class Contestant:
    """A model that is probed. `group` is its architecture and training, without the seed."""

    name: str
    kind: str  # "trained" or "untrained"
    group: str
    predictor: Predictor
    subject: Subject
    sums: Sums  # of its clean predictions with what was recorded, over the reference windows
    provenance: dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Lineup:
    """All models, and what they have in common."""

    models: tuple[Contestant, ...]
    windows: tuple[Window, ...]  # the reference ones; the first of them are attacked
    contents: tuple[str, ...]  # of each window
    signal: Signal
    neurons: Int[np.ndarray, " M"]  # the sample for single-neuron measures, columns of predictions
    reliable: Bool[np.ndarray, " N"] | None  # None: not known

    @property
    def first(self) -> Predictor:
        return self.models[0].predictor


def gather(runs: Sequence[Run], options: Options) -> Lineup:
    """Opens everything once. UserError where runs cannot be compared: other windows, screens, neurons or recordings."""
    session = options.session or runs[0].sessions[0]
    entries = [(name, "trained", run, Predictor.of(run, session, options.regime)) for name, run in _named(runs)]
    first = entries[0][3]
    windows = tuple(first.windows(max(options.reference, options.stimuli), options.seed))
    if not windows:
        raise UserError(f"session {session}: no window of the scored tiers", way_out="probe another session")
    for name, _, run, predictor in entries[1:]:
        _require_alike(name, predictor, first, windows, options)
        if run.store.name != runs[0].store.name:
            raise UserError(f"run {name}: is of another store, {run.store.name}", way_out="probe runs of one store")
    seen = set()
    for name, _, run, _ in list(entries) if options.untrained else ():
        group = group_of(run)
        if (architecture := digest([run.model, len(run.sessions)])) not in seen:
            seen.add(architecture)
            fresh = run.untrained(options.seed + 1)
            entries.append(
                (f"untrained {_short(name, group)}", "untrained", fresh, Predictor.of(fresh, session, options.regime))
            )
    signal = signal_of(first, options.readout, options.seed)
    shared = _Shared(options)
    models = tuple(_contestant(*entry, windows, options, shared.of(entry[3])) for entry in entries)
    reliable = signal.reliability >= options.least_reliability if signal.known else None
    usable = np.all([model.subject.included for model in models], 0)
    if not usable.any():
        raise UserError(
            f"session {session}: no neuron whose prediction varies by {options.floor} in every model",
            way_out="lower --floor",
        )
    if reliable is not None and (usable & reliable).any():
        usable = usable & reliable
    which = np.flatnonzero(usable)
    neurons = np.sort(np.random.default_rng(options.seed).permutation(which)[: options.neurons])
    return Lineup(models, windows, _contents(first, windows), signal, neurons, reliable)


def group_of(run: Run) -> str:
    """Equal for runs whose configs differ in the seed only."""
    config = run.config.to_dict()
    config.pop("seed", None)
    return digest(config)


class _Shared:
    """One `apply` for all predictors whose programs are the same: models of one architecture are compiled once."""

    def __init__(self, options: Options):
        self.options = options
        self.known: dict[str, Any] = {}

    def of(self, predictor: Predictor) -> Any:
        key = digest([predictor.run.model, str(predictor.layout), predictor.neurons])
        if key not in self.known:

            def apply(params: Any, video: Any, context: Any) -> Any:
                responses = predictor.apply(params, video, context)
                return predictor.before_output(responses) if self.options.before_output else responses

            self.known[key] = apply
        return self.known[key]


def _contestant(
    name: str,
    kind: str,
    run: Run,
    predictor: Predictor,
    windows: Sequence[Window],
    options: Options,
    apply: Any,
) -> Contestant:
    clean, recorded = _clean(apply, predictor, windows, options)
    sigma = spread(np.asarray(read(clean, options.readout)))
    shown: Shown = predictor.load(windows[: options.stimuli])
    subject = Subject(
        name,
        apply,
        predictor.params,
        np.asarray(shown.video),
        shown.context,
        sigma,
        options.readout,
        options.floor,
        rows=options.rows,
    )
    about = provenance(run)
    about = {key: about[key] for key in ("run", "checkpoint_step", "checkpoint_hash")}
    group = group_of(run) if kind == "trained" else f"untrained {digest([run.model, len(run.sessions)])}"
    return Contestant(name, kind, group, predictor, subject, Sums.of(clean, recorded), about)


def _clean(
    apply: Any, predictor: Predictor, windows: Sequence[Window], options: Options
) -> tuple[Float[np.ndarray, "W S N"], Float[np.ndarray, "W S N"]]:
    """Predictions of the reference windows, beside what was recorded."""
    found = []
    for at in range(0, len(windows), options.rows):
        shown = predictor.load(windows[at : at + options.rows])
        some = Subject(
            "",
            apply,
            predictor.params,
            shown.video,
            shown.context,
            np.ones(predictor.n_neurons),
            options.readout,
            rows=options.rows,
        )
        found.append((some.clean_samples, shown.recorded))
    values, recorded = zip(*found, strict=True)
    return np.concatenate(values), np.concatenate(recorded)


def _require_alike(
    name: str, predictor: Predictor, first: Predictor, windows: Sequence[Window], options: Options
) -> None:
    same = {
        "frames": predictor.frames_shape == first.frames_shape,
        "neurons": np.array_equal(predictor.neurons, first.neurons),
        "samples": np.array_equal(predictor.sample_times, first.sample_times),
        "scored tiers": tuple(predictor.windows(len(windows), options.seed)) == tuple(windows),
    }
    if other := [part for part, alike in same.items() if not alike]:
        raise UserError(f"run {name}: has other {other[0]} than the first run", way_out="probe it by itself")


def _named(runs: Sequence[Run]) -> list[tuple[str, Run]]:
    """Folders' own names, or as much of their paths as tells them apart."""
    paths = [Path(run.folder).resolve() for run in runs]
    if len({(path, run.step) for path, run in zip(paths, runs, strict=True)}) < len(paths):
        raise UserError("a run is named twice", way_out="name each run once")
    for depth in range(1, max(len(path.parts) for path in paths) + 1):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return list(zip(names, runs, strict=True))
    return [(f"{path.name}@{run.step}", run) for path, run in zip(paths, runs, strict=True)]


def _short(name: str, group: str) -> str:
    return name.rsplit("-seed", 1)[0] if "-seed" in name else f"like {name}" if name else group


def _contents(predictor: Predictor, windows: Sequence[Window]) -> tuple[str, ...]:
    trials = predictor.run.recording(predictor.session).trials
    contents = np.asarray(predictor.run.store.trial_contents(predictor.session))
    middle = np.array([window.start + predictor.layout.grid.seconds / 2 for window in windows])
    at = np.maximum(np.searchsorted(trials.start, middle, side="right") - 1, 0)
    return tuple(map(str, contents[at]))
