"""The whole probe of one session: every experiment on the model, on the untrained model, and on the planted law where there is one.

Each stage's arrays are kept in OUT/stages, named by what decides them: a probe that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.files import write_atomically
from omnimouse_jax.probe.physiology import compare, exciting, gain, natural, receptive_field, spectrum
from omnimouse_jax.probe.physiology.experiment import Protocol, best_gratings, examine, sizes
from omnimouse_jax.probe.physiology.options import Options
from omnimouse_jax.probe.physiology.planted import planted_subject
from omnimouse_jax.probe.physiology.subject import Geometry, Subject, geometry_of, model_subject
from omnimouse_jax.probe.predictor import Predictor
from omnimouse_jax.probe.settings import digest
from omnimouse_jax.progress import Progress

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Found:
    """What the probe found. `subjects`: per-neuron arrays and curves by subject; `inputs`: "image" and "film" by name."""

    session: str
    regime: str
    geometry: Geometry
    conditions: dict[str, Any]
    subjects: dict[str, Arrays]
    planted: Arrays  # the truth, or nothing
    inputs: dict[str, Arrays]
    spectra: dict[str, Any]
    compared: dict[str, list[dict[str, Any]]]
    levels: dict[str, tuple[float, float]]
    bound: float
    agreement: np.ndarray


class Stages:
    """Arrays made once: kept in a folder under names that say what decides them, `subject` for all of them."""

    def __init__(self, folder: Path, subject: Any, plan: Mapping[str, int]):
        self.folder, self.subject, self.plan = folder, subject, dict(plan)
        self.progress = Progress(sum(plan.values()), label="windows ")
        self.done = self.here = 0

    def told(self, windows: int) -> None:
        self.here += windows
        self.progress.show(min(self.done + self.here, self.progress.total), self.name)

    def of(self, name: str, make: Callable[[], Arrays], *decided: Any) -> Arrays:
        """What `make` returns, from the folder if it is there; `decided`: the settings that it depends on."""
        self.name, self.here = name, 0
        told = [dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one for one in decided]  # type: ignore[arg-type]
        path = self.folder / f"{name.replace(' ', '_').replace('/', '-')}-{digest([self.subject, name, told])}.npz"
        if path.exists():
            with np.load(path) as file:
                made = dict(file)
        else:
            made = make()
            buffer = io.BytesIO()
            np.savez(buffer, **made)  # type: ignore[arg-type]
            write_atomically(path, buffer.getvalue())
        self.done += self.plan.get(name, 0)
        self.progress.show(self.done, name)
        return made


def probe(
    run: Run, session: str, regime: str, options: Options, out: Path, identity: Any, neurons: Sequence[Any] = ()
) -> Found:
    """`neurons`: ids of those whose most exciting inputs are searched (default: the `options.neurons` best predicted ones);
    `identity`: what tells the run's parameters and recordings from any other.
    """
    predictor = Predictor.of(run, session, regime)
    geometry = geometry_of(predictor, options.degrees or None)
    model = model_subject(predictor, degrees=options.degrees or None)
    p = options.protocol
    p.read(model)  # a regime that does not answer then says so before anything is computed
    shown = predictor.load(predictor.windows(options.natural_windows, options.seed))
    said = model.responses(len(shown.windows), lambda n: shown.video[n.start : n.stop])
    agrees = natural.agreement(said, shown.recorded)
    chosen = _chosen(predictor, neurons, agrees, options)
    recording = run.recording(session)
    levels = {channel: gain.levels(recording, channel) for channel in gain.CHANNELS if channel in model.channels}
    subjects = [model]
    truth: Arrays = {}
    if recording.truth is not None and "tuning" in recording.truth:
        subjects.append(planted_subject(recording, geometry, predictor.sample_times, predictor.neurons))
        tuning = {k: v for k, v in recording.truth["tuning"].items() if k != "additive_channels"}
        truth = {k: np.asarray(v)[predictor.neurons] for k, v in tuning.items()}
    if options.untrained:
        fresh = Predictor.of(run.untrained(options.seed), session, regime)
        subjects.append(model_subject(fresh, "untrained", options.degrees or None))
    shared = (identity, session, regime, options.natural_windows, options.degrees, options.seed, p.onset_s, p.read_s)
    stages = Stages(out / "stages", shared, _plan(subjects, options, len(shown.windows)))
    found = {one.name: _examine(one, options, shown.video, levels, stages) for one in subjects}
    mine = found["model"]
    bound = options.bound or exciting.natural_bound(shown.video, geometry.grey)
    inputs = {}
    for name, film in (("image", False), *([("film", True)] if options.film else [])):

        def search(film: bool = film) -> Arrays:
            return _inputs(model, subjects, options, mine, shown.video, chosen, bound, film, stages)

        decided = (grid(p), options.ascent, bound, chosen)
        inputs[name] = stages.of(f"most exciting {name}", search, *decided)
    spectra = stages.of(
        "spectrum",
        lambda: _spectra(predictor, model, options),
        *(options.spectrum_seconds, options.spectrum_first, options.spectrum_last_share, options.bootstrap),
    )
    stages.progress.close()
    c = p.conditions(model)
    return Found(
        session=session,
        regime=regime,
        geometry=geometry,
        conditions=dataclasses.asdict(c) | {"contrasts": options.protocol.contrasts},
        subjects=found,
        planted=truth,
        inputs=inputs,
        spectra=spectra,
        compared={name: compare.compared(arrays, truth, options.seed) for name, arrays in found.items()}
        if truth
        else {},
        levels=levels,
        bound=bound,
        agreement=agrees,
    )


def grid(p: Protocol) -> tuple[int, ...]:
    """What decides which gratings are shown."""
    return (p.n_directions, p.n_spatial, p.n_temporal, p.n_phases)


def _plan(subjects: Sequence[Subject], options: Options, n_natural: int) -> dict[str, int]:
    """Windows of each stage, a backward pass counted as three."""
    plan = {}
    p = options.protocol
    for one in subjects:
        n = one.n_neurons
        crossed = p.n_directions * p.n_spatial * p.n_temporal * p.n_phases
        plan[f"{one.name} gratings"] = n_natural + crossed + min(n, crossed) * len(p.contrasts) * p.n_phases
        plan[f"{one.name} gradient"] = 3 * n * options.gradient_windows
        plan[f"{one.name} sparse noise"] = options.noise.n_windows
        plan[f"{one.name} sizes"] = 2 * n * (len(p.diameters) + 1)
        plan[f"{one.name} gain"] = 4 * options.gain_windows
    for name in ("image", *(["film"] if options.film else [])):
        plan[f"most exciting {name}"] = 3 * options.neurons * options.ascent.seeds * options.ascent.steps
    return plan | {"spectrum": 100}


def _examine(
    one: Subject, options: Options, video: np.ndarray, levels: Mapping[str, tuple[float, float]], stages: Stages
) -> Arrays:
    p = options.protocol

    def gratings() -> Arrays:
        said = one.responses(len(video), lambda n: video[n.start : n.stop], told=stages.told)
        spread = said.reshape(-1, one.n_neurons).astype(np.float64).std(axis=0)
        return examine(one, p, spread, stages.told)

    def gradient() -> Arrays:
        some = video[: options.gradient_windows]
        maps, mean = receptive_field.gradient_maps(one, some, p.read(one), lambda n: stages.told(3 * n))
        fields = receptive_field.fit_fields(maps, one.geometry)
        return {"rf_map": maps, "mean_jacobian": mean.astype(np.float16), **_named("rf", fields)}

    def sparse() -> Arrays:
        on, off, lag = receptive_field.sparse_maps(one, options.noise, stages.told)
        fields = receptive_field.fit_fields(np.hypot(on, off), one.geometry)
        return {"on_map": on, "off_map": off, "sparse_lag": lag, **_named("sparse", fields)}

    found = stages.of(f"{one.name} gratings", gratings, p)
    found |= stages.of(f"{one.name} gradient", gradient, options.gradient_windows)
    found |= stages.of(f"{one.name} sparse noise", sparse, options.noise)
    found |= stages.of(
        f"{one.name} sizes",
        lambda: sizes(one, p, found, found["rf_x"], found["rf_y"], stages.told),
        *(p, options.gradient_windows),
    )
    some = video[: options.gain_windows]
    found |= stages.of(f"{one.name} gain", lambda: gain.gains(one, some, levels, found["spread"], stages.told), levels)
    found["minus_f1_f0"] = -found["f1_f0"]
    return found


def _named(prefix: str, fields: receptive_field.Fields) -> Arrays:
    return {f"{prefix}_{name}": value for name, value in fields._asdict().items()}


def _chosen(predictor: Predictor, neurons: Sequence[Any], agrees: np.ndarray, options: Options) -> np.ndarray:
    """Positions of the neurons that are asked for by id, else of the best predicted ones."""
    ids = [str(one) for one in predictor.neuron_ids]
    if unknown := [str(one) for one in neurons if str(one) not in ids]:
        raise UserError(
            f"session {predictor.session}: no neuron {unknown[0]} is predicted", way_out=f"it has {ids[0]} to {ids[-1]}"
        )
    if neurons:
        return np.array([ids.index(str(one)) for one in neurons])
    return np.argsort(-np.nan_to_num(agrees, nan=-2.0), kind="stable")[: options.neurons]


def _inputs(
    model: Subject,
    subjects: Sequence[Subject],
    options: Options,
    mine: Arrays,
    video: np.ndarray,
    chosen: np.ndarray,
    bound: float,
    film: bool,
    stages: Stages,
) -> Arrays:
    """Most exciting inputs beside the best natural stimulus and the best grating of the same contrast, by neuron of `chosen`."""
    p = options.protocol
    read = p.read(model)
    told = lambda n: stages.told(3 * n)  # noqa: E731
    top = exciting.ascend(model, chosen, read, p.onset_s, bound, options.ascent, film, told)
    found, best = exciting.best_natural(model, video, read, p.onset_s, bound, film)
    gratings = [best_gratings(p.conditions(model), mine["best"])[n] for n in chosen]
    shown = np.full((len(chosen), *model.frames_shape), model.geometry.grey, np.float32)
    shown[:, round(p.onset_s * model.geometry.frame_rate) :] = top.stimuli
    out = {
        "neuron": chosen,
        "stimuli": top.stimuli.astype(np.float32),
        "value": top.value,
        "by_seed": top.by_seed,
        "agreement": top.agreement,
        "history": top.history,
        "grey": mine["grey"][chosen],
        "natural": found[chosen],
        "natural_stimuli": best[chosen].astype(np.float32),
        "grating": exciting.best_grating(model, chosen, gratings, read, p.onset_s, bound, film),
        "rms": exciting.rms(top.stimuli.astype(np.float64) - model.geometry.grey).ravel(),
    }
    for other in subjects:
        if other.name == "planted law":  # what the true neuron says of the model's most exciting input
            r = other.responses(len(chosen), lambda n: shown[n.start : n.stop])[:, read].mean(axis=1)
            out["planted_value"] = r[np.arange(len(chosen)), chosen]
            out["planted_natural"] = exciting.best_natural(other, video, read, p.onset_s, bound, film)[0][chosen]
            own = exciting.ascend(other, chosen, read, p.onset_s, bound, options.ascent, film)
            out["planted_best"], out["planted_stimuli"] = own.value, own.stimuli.astype(np.float32)
    return out


def _spectra(predictor: Predictor, model: Subject, options: Options) -> Arrays:
    """Of recorded and predicted responses to stimuli shown at least twice; nothing where there is none."""
    found = natural.repeats(predictor, model, options.spectrum_seconds)
    if found is None:
        return {}
    last = max(options.spectrum_first, int(options.spectrum_last_share * model.n_neurons))
    out: Arrays = {}
    for name, (a, b) in (("recorded", found.recorded), ("predicted", found.predicted)):
        whole = np.isfinite(a).all(axis=(1, 2)) & np.isfinite(b).all(axis=(1, 2))
        if whole.sum() < 2:
            continue
        values, law = spectrum.spectrum(
            a[whole], b[whole], options.spectrum_first, last, options.bootstrap, options.seed
        )
        out[f"{name}_eigenvalues"] = values
        out[f"{name}_law"] = np.array(law)
        out[f"{name}_stimuli"] = np.array(int(whole.sum()) * a.shape[1])
    out["showings"] = np.array(found.showings)
    return out
