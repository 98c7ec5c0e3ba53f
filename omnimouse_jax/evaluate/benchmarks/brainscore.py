"""The Brain-Score side of a run and of a recording: what is shown, and the responses to it, as assemblies (assembly.py).

Videos are cut into pieces, each of which is a stimulus with a response of its own, because a model of Brain-Score is asked for
one response (or a few time bins) to each of many stimuli. The first second of a trial is left out: a run predicts the second half
of its windows. A BrainModel sees stimuli and nothing else, so behaviour is not shown unless that is asked for.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks.assembly import DEGREES, FORMAT, LAYER, Assembly, regions_of
from omnimouse_jax.evaluate.benchmarks.trials import Asked
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.recordings.ingest.sensorium.images import IMAGE_ON_S, RESPONSE_RATE, RESPONSE_ROW
from omnimouse_jax.recordings.sampling import read_responses
from omnimouse_jax.recordings.session import Recording

RATE = 30
#: Seconds at the beginning of a trial (or of grey before an image) that are context only.
SKIPPED_S = 1.0
#: Images of a folder that are predicted at once.
AT_ONCE = 200
#: Where tests/install.sh puts the other environment, and the package that runs in it.
ENVIRONMENT, PACKAGE = ".venv-brainscore/bin/python", "benchmarks/brainscore_bridge"


class Piece(NamedTuple):
    """One presentation: which stimulus, when its response begins on the session's axis, and what part of a clip it is."""

    stimulus: str
    start: float
    clip: str
    onset_ms: int


def pieces(rec: Recording, tier: str, seconds: float | int) -> tuple[list[Piece], tuple[int, int]]:
    """Every presentation of a tier in order of time, and the (start, end) in ms after onset in which its response is taken.

    Videos: pieces of `seconds` from the second second on. Images: the first `seconds`; of SENSORIUM 2022 the 50-550 ms in which
    their one response was taken. UserError for a tier without such trials, and where a response would not be whole samples.
    """
    trials = rec.trials
    chosen = np.flatnonzero((trials.tier == tier) & trials.valid & np.isin(trials.modality, ["video", "image"]))
    if not len(chosen):
        known = ", ".join(sorted(trials.tiers()))
        raise UserError(f"session {rec.key}: no image or video of tier {tier}", way_out=f"it has {known}")
    if seconds <= 0 or abs(seconds * RATE - round(seconds * RATE)) > 1e-6:
        raise UserError(f"--piece {seconds:g} s is not a number of samples", way_out=f"use a multiple of 1/{RATE} s")
    if rec.provenance.get("benchmark") == "sensorium2022":
        first = RESPONSE_ROW / RESPONSE_RATE
        found = [
            Piece(str(trials.stimulus[k]), float(trials.start[k]) + first, str(trials.stimulus[k]), 0) for k in chosen
        ]
        after = round(1000 * (first - IMAGE_ON_S))
        return found, (after, after + round(1000 / RESPONSE_RATE))
    found = []
    for k in chosen:
        start, length, clip = float(trials.start[k]), float(trials.end[k] - trials.start[k]), str(trials.stimulus[k])
        if trials.modality[k] == "image":
            found.append(Piece(clip, start, clip, 0))
            continue
        for number in range(int((length - SKIPPED_S) / seconds + 1e-6)):
            onset = SKIPPED_S + number * seconds
            found.append(Piece(f"{clip}@{onset:.3f}", start + onset, clip, round(1000 * onset)))
    if not found:
        raise UserError(f"session {rec.key}: no video of tier {tier} is long enough", way_out="use a shorter --piece")
    return found, (0, round(1000 * seconds))


def recordings(rec: Recording, tier: str, seconds: float | int = 0.5) -> Assembly:
    """What was recorded at every presentation of a tier: a target with repetitions, as many of each stimulus.

    UserError where responses are withheld or missing, and where no stimulus was shown twice: there is no ceiling without repeats.
    """
    shown, window = pieces(rec, tier, seconds)
    values = np.stack([_mean(read_responses(rec, _times(p.start, window)))[:, None] for p in shown])
    whole = np.asarray(np.isfinite(values).all(axis=(1, 2)))
    lost = int((~whole).sum())
    if not whole.any():
        raise UserError(
            f"session {rec.key}: no response of tier {tier} was recorded",
            way_out="choose a tier whose responses are public",
        )
    shown, values = [p for p, there in zip(shown, whole, strict=True) if there], values[whole]
    repetition, times = _repetitions([p.stimulus for p in shown])
    each = min(times.values())
    if each < 2:
        single = sum(1 for n in times.values() if n == 1)
        raise UserError(
            f"session {rec.key}: {single} of {len(times)} stimuli of tier {tier} were shown once",
            way_out="a ceiling needs repeats: choose the tier of repeated stimuli",
        )
    kept = np.flatnonzero(repetition < each)
    told = [f"{len(times)} stimuli, {each} repetitions each"]
    told += [f"{lost} presentations without a whole response left out"] if lost else []
    told += (
        [f"{len(shown) - len(kept)} presentations beyond the repetitions of the rarest left out"]
        if len(kept) < len(shown)
        else []
    )
    meta = _meta(rec, "recording", f"{rec.key}.{tier}", _set_name([shown[k].stimulus for k in kept]))
    presentation = {**_columns([shown[k] for k in kept]), "repetition": repetition[kept]}
    return Assembly(values[kept], presentation, _neuroids(rec, ""), np.array([window], np.int64), meta, tuple(told))


def predictions(
    run: Run, session: str, stimuli: str, seconds: float | int = 0.5, behavior: bool = False, bins: int = 1
) -> Assembly:
    """What a run predicts for a stimulus set: a tier of the session, or the images of a folder.

    A stimulus that was shown several times gets the mean of its predictions. behavior: show the recorded behaviour of a tier too;
    `bins`: equal time bins of each response. UserError where nothing is predicted, and for bins that are not whole samples.
    """
    folder = Path(stimuli)
    rec = run.recording(session)
    asked = Asked(run, behavior)
    if stimuli not in set(np.asarray(rec.trials.tier, str).tolist()) and folder.is_dir():  # a tier comes first
        if behavior:
            raise UserError(f"folder {folder}: no behaviour was recorded with it", way_out="show the images without")
        shown, values, window = _of_images(asked, rec, folder, seconds, bins)
        name = folder.name
    else:
        shown, values, window = _of_tier(asked, rec, stimuli, seconds, bins)
        name = stimuli
    whole = np.asarray(np.isfinite(values).all(axis=(1, 2)))
    if not whole.any():
        raise UserError(
            f"session {session}: nothing of {stimuli} is predicted", way_out="its stretches are too short for a window"
        )
    told = [f"{int((~whole).sum())} stimuli that no window was asked for left out"] if not whole.all() else []
    shown, values = [p for p, there in zip(shown, whole, strict=True) if there], values[whole]
    identifier = f"omnimouse-{run.folder.name}-{run.step}-{session}"
    meta = {
        **_meta(rec, "prediction", identifier, _set_name([p.stimulus for p in shown])),
        "stimuli": name,
        "run": str(run.folder),
        "checkpoint": run.step,
        "regime": asked.regime,
        "layers": {str(region): LAYER for region in np.unique(regions_of(rec.neurons.get("area"), rec.n_neurons))},
    }
    edges = np.linspace(*window, bins + 1).round().astype(np.int64)
    presentation = {**_columns(shown), "repetition": np.zeros(len(shown), np.int64)}
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    return Assembly(values, presentation, _neuroids(rec, LAYER), spans, meta, tuple(told))


Found = tuple[list[Piece], np.ndarray, tuple[int, int]]


def _of_tier(asked: Asked, rec: Recording, tier: str, seconds: float | int, bins: int) -> Found:
    shown, window = pieces(rec, tier, seconds)
    predicted = asked.run.predict(rec, asked.regime, tiers=(tier,))
    each = np.stack([_binned(_at(predicted.time, predicted.responses, p.start, window), bins) for p in shown])
    order: dict[str, list[int]] = {}
    for k, piece in enumerate(shown):
        order.setdefault(piece.stimulus, []).append(k)
    return [shown[ks[0]] for ks in order.values()], np.stack([each[ks].mean(axis=0) for ks in order.values()]), window


def _of_images(asked: Asked, rec: Recording, folder: Path, seconds: float | int, bins: int) -> Found:
    """Each image after a second of grey, `seconds` long; behaviour stands still where the regime asks for it."""
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in (".npy", ".png", ".jpg", ".jpeg", ".bmp", ".tif"))
    if not files:
        raise UserError(f"folder {folder}: no images", way_out="give .npy (grey levels of 0..255), .png or .jpg files")
    screen = asked.run.model.screen
    grey, n = round(SKIPPED_S * RATE), round(seconds * RATE)
    window = (0, round(1000 * seconds))
    parts = []
    for first in range(0, len(files), AT_ONCE):
        images = [_image(path, (int(screen[0]), int(screen[1]))) for path in files[first : first + AT_ONCE]]
        film = np.full((len(images), grey + n, *screen), 127.5, np.float32)
        for number, image in enumerate(images):
            film[number, grey:] = image
        recording = asked.run.imagine(rec.key, film.reshape(-1, *screen), RATE)
        predicted = asked.run.predict(recording, asked.regime)
        starts = [(number * (grey + n) + grey) / RATE for number in range(len(images))]
        parts += [_binned(_at(predicted.time, predicted.responses, start, window), bins) for start in starts]
    shown = [Piece(path.stem, 0.0, path.stem, 0) for path in files]
    if len({p.stimulus for p in shown}) < len(shown):
        raise UserError(
            f"folder {folder}: two images have the same name", way_out="the name is the stimulus_id: rename one"
        )
    return shown, np.stack(parts), window


def _image(path: Path, size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Grey levels of 0..255 in the size of the screen."""
    if path.suffix == ".npy":
        found = np.load(path)
        if found.shape != size:
            raise UserError(f"file {path}: shape {found.shape}", way_out=f"an array has the screen's, {size}")
        return found.astype(np.float32)
    try:
        from PIL import Image
    except ImportError:
        raise UserError(
            f"file {path}: reading it needs pillow", way_out="pip install pillow, or give .npy files"
        ) from None
    with Image.open(path) as image:
        return np.asarray(image.convert("L").resize(size[::-1], Image.Resampling.BOX), np.float32)


def _times(start: float, window: tuple[int, int]) -> Float[np.ndarray, " samples"]:
    return start + np.arange(round((window[1] - window[0]) / 1000 * RATE)) / RATE


def _at(
    time: Float[np.ndarray, " n"], values: Float[np.ndarray, "n neurons"], start: float, window: tuple[int, int]
) -> Float[np.ndarray, "samples neurons"]:
    """The samples of a response; NaN where there are none. Stretches have no common clock: samples are the first at or after."""
    wanted = _times(start, window)
    rows = np.searchsorted(time, wanted - 1e-3)
    out = np.full((len(wanted), values.shape[1]), np.nan, np.float32)
    there = (rows < len(time)) & (np.abs(time[np.minimum(rows, len(time) - 1)] - wanted) < 1 / RATE)
    out[there] = values[rows[there]]
    return out


def _mean(values: Float[np.ndarray, "samples neurons"]) -> Float[np.ndarray, " neurons"]:
    return values.astype(np.float64).mean(axis=0).astype(np.float32)


def _binned(values: Float[np.ndarray, "samples neurons"], bins: int) -> Float[np.ndarray, "neurons bins"]:
    if bins < 1 or len(values) % bins:
        raise UserError(f"{bins} time bins of {len(values)} samples", way_out="use a number that divides them")
    return np.stack([_mean(part) for part in np.split(values, bins)], axis=1)


def _repetitions(stimuli: Sequence[str]) -> tuple[Shaped[np.ndarray, " n"], dict[str, int]]:
    """The how-manieth showing of its stimulus each presentation is, and how often each was shown."""
    times: dict[str, int] = {}
    number = []
    for stimulus in stimuli:
        number.append(times.get(stimulus, 0))
        times[stimulus] = number[-1] + 1
    return np.array(number, np.int64), times


def _columns(shown: Sequence[Piece]) -> dict[str, np.ndarray]:
    return {
        "stimulus_id": np.array([p.stimulus for p in shown], str),
        "clip": np.array([p.clip for p in shown], str),
        "onset_ms": np.array([p.onset_ms for p in shown], np.int64),
    }


def _neuroids(rec: Recording, layer: str) -> dict[str, np.ndarray]:
    units = np.asarray(rec.neurons.get("unit_id", np.arange(rec.n_neurons)))
    columns = {
        "neuroid_id": np.array([f"{rec.key}.{unit}" for unit in units], str),
        "region": regions_of(rec.neurons.get("area"), rec.n_neurons),
        "unit_id": units,
    }
    return {**columns, "layer": np.full(rec.n_neurons, layer)} if layer else columns


def _set_name(stimuli: Sequence[str]) -> str:
    """A name of a set of stimuli: Brain-Score keeps results by it."""
    return "omnimouse-" + hashlib.sha256("\n".join(sorted(set(stimuli))).encode()).hexdigest()[:12]


def _meta(rec: Recording, kind: str, identifier: str, stimulus_set: str) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "kind": kind,
        "identifier": identifier,
        "session": rec.key,
        "animal": rec.animal,
        "species": "mouse",
        "stimulus_set": stimulus_set,
        "visual_degrees": DEGREES,
    }


def score_elsewhere(
    assembly: Path, target: Path, region: str, metric: str = "ridge", python: str = "", out: Path | None = None
) -> int:
    """Runs `python -m omnimouse_brainscore score` in the other environment; returns its exit status. UserError where there is
    none.
    """
    root = Path(__file__).resolve().parents[3]
    found = Path(python) if python else root / ENVIRONMENT
    if not found.exists():
        raise UserError(
            f"Brain-Score's environment is not there ({found})",
            way_out=f"`bash tests/install.sh` makes it, or {PACKAGE}/README.md; then --python names it",
        )
    command = [str(found), "-m", "omnimouse_brainscore", "score", str(assembly), str(target), "--region", region]
    command += ["--metric", metric] + (["--out", str(out)] if out is not None else [])
    paths = [str(root / PACKAGE), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    return subprocess.run(command, env=environment, check=False).returncode
