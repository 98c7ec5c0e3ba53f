"""Reads SENSORIUM 2022 sessions (static images): a folder or the zip it came in, one file per trial.

A presentation becomes a trial of 2 s on a made-up clock, in the order of the files, so that an image is a window like any
other. Its only response, summed 50-550 ms after onset, is held where that happened:

    0 s            0.95            1.0                1.45     1.5               2.0
    grey           image on        response begins    grey     response ends     end of trial

At 30 Hz these are samples 30..44, inside the second half of a window that the released test regimes decode. The other
samples of the trial were never recorded: NaN, masked everywhere. Every trial is a segment of its own and 2.5 s lie between
two starts, so no window sees two of them. Scales are the official statistics. Layout and rules: the benchmark's starting
kit; what was checked and what is guessed: docs/sensorium.md.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Shaped

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.files import content_name
from omnimouse_jax.recordings.ingest.sensorium.files import (
    Streams,
    Tree,
    check_counts,
    check_finite,
    find_sessions,
    is_blank,
    neuron_columns,
    response_scale,
    session_files,
    trial_facts,
    trial_tiers,
    withheld_trials,
)
from omnimouse_jax.recordings.lazy import Pieces
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.validate import check_recording

TIERS = ("train", "validation", "test", "final_test")
#: Tiers whose responses the benchmark keeps to itself, in some scans or in all.
KEPT = ("test", "final_test")
CHANNELS = {"behavior": ("pupil_size", "pupil_size_derivative", "running"), "pupil_center": ("pupil_x", "pupil_y")}
TRIAL_S = 2.0
#: Between the starts of two trials.
EVERY_S = 2.5
IMAGE_ON_S, IMAGE_OFF_S = 0.95, 1.45
#: Responses have two samples a second; the one taken over 50-550 ms after onset is the third of a trial's four.
RESPONSE_RATE, RESPONSE_ROW, ROWS = 2.0, 2, 4
NAN_WAY_OUT = "pass --nan-responses mask to treat NaN responses as not recorded"


def discover(source: Path) -> list[Path]:
    """Session folders and zips (static*.zip) at or in `source`; a zip goes before the folder unpacked from it."""
    return find_sessions(source, 2022, "static", "images")


def source_files(session: Path) -> list[Path]:
    """The zip, or the arrays of the folder."""
    return session_files(session)


def read_session(
    session: Path, *, nan_responses: str = "error", scale: float = 0.25, frames: str = "float32"
) -> Recording:
    """One session; images and responses are read when sliced.

    `scale`: 0.25 brings images to a quarter of their size as the official loaders do, 1.0 keeps them. `frames`: "float32"
    is exact, "uint8" rounds to whole grey levels (off by at most half a level), so that a batch with uint8 sessions
    need not become float32. `nan_responses`: "error" or "mask". Raises UserError naming session, file and way out.
    """
    for name, value, known in [
        ("scale", scale, (0.25, 1.0)),
        ("frames", frames, ("float32", "uint8")),
        ("nan_responses", nan_responses, ("error", "mask")),
    ]:
        if value not in known:
            raise UserError(f"{name} {value}", way_out=f"choose {known[0]} or {known[1]}")
    tree = Tree(session)
    tiers = trial_tiers(tree, TIERS)
    n = len(tiers)
    fields = [name for name in CHANNELS if tree.count(f"data/{name}")]
    check_counts(tree, ["images", "responses", *fields], n)
    neurons = neuron_columns(tree)
    start = np.arange(n) * EVERY_S
    responses, withheld = _responses(tree, tiers, len(neurons["unit_id"]), nan_responses == "mask")
    std = tree.numbers("meta/statistics/responses/all/std.npy", (len(neurons["unit_id"]),))
    statistics = {"responses/std": std, **_image_statistics(tree)}
    streams = Streams()
    for name in fields:
        channels = CHANNELS[name]
        values = _behavior(tree, name, n, len(channels))
        mean, deviation = (
            tree.numbers(f"meta/statistics/{name}/all/{what}.npy", (len(channels),)) for what in ("mean", "std")
        )
        clock = partial(
            Signal,
            rate=1 / TRIAL_S,
            segment_start=start,
            segment_first=np.arange(n, dtype=np.int64),
            channels=channels,
        )
        streams.add(name, channels, values, mean, deviation, clock)
    images, number, stimulus = _images(tree, n, scale, np.dtype(frames))
    grey = float(tree.load("meta/statistics/images/all/mean.npy").item())
    rec = Recording(
        key=tree.key,
        animal=tree.animal,
        responses=Signal(responses, RESPONSE_RATE, start, np.arange(n, dtype=np.int64) * ROWS),
        trials=Trials(
            start, start + TRIAL_S, tiers, np.full(n, "image"), np.array(stimulus, str), np.ones(n, bool), withheld
        ),
        behavior=streams.signals,
        screen=_screen(images, number, start, grey),
        neurons=neurons,
        response_scale=response_scale(tree, std),
        behavior_mean=streams.mean,
        behavior_scale=streams.scale,
        provenance={
            "original_rate": None,
            "benchmark": "sensorium2022",
            "name": tree.name,
            "scale": scale,
            "trials": trial_facts(tree, n),
            "absent": streams.absent,
        },
        extras=statistics | streams.statistics,
    )
    check_recording(rec)
    return rec


def _responses(
    tree: Tree, tiers: Shaped[np.ndarray, " trials"], n_neurons: int, nan: bool
) -> tuple[Pieces, Bool[np.ndarray, " trials"]]:
    """Four rows per trial, read when sliced, and which trials are withheld."""
    n = len(tiers)
    blank = np.zeros(n, bool)
    dtypes = set()
    for i in range(n):
        name = f"data/responses/{i}.npy"
        values = tree.numbers(name, (n_neurons,))
        blank[i] = is_blank(values)
        check_finite(tree, name, values, "" if nan or (blank[i] and tiers[i] in KEPT) else NAN_WAY_OUT)
        dtypes.add(values.dtype)
    dtype = np.result_type(*dtypes)
    withheld = withheld_trials(tree, tiers, blank, KEPT)

    def opener(i: int) -> Callable[[], np.ndarray]:
        def rows() -> np.ndarray:
            out = np.full((ROWS, n_neurons), np.nan, dtype)
            if not withheld[i]:
                out[RESPONSE_ROW] = tree.load(f"data/responses/{i}.npy")
            return out

        return rows

    return Pieces([(ROWS, opener(i)) for i in range(n)], (n_neurons,), dtype), withheld


def _behavior(tree: Tree, field: str, n: int, n_channels: int) -> Float[np.ndarray, "trials channels"]:
    rows = []
    for i in range(n):
        name = f"data/{field}/{i}.npy"
        rows.append(tree.numbers(name, (n_channels,)))
        check_finite(tree, name, rows[-1])
    return np.stack(rows)


def _image_statistics(tree: Tree) -> dict[str, np.ndarray]:
    """One mean and one deviation for all pixels: with one per pixel, scaling and normalising could not be swapped."""
    out = {}
    for what in ("mean", "std"):
        name = f"meta/statistics/images/all/{what}.npy"
        found = tree.load(name)
        if found.size != 1:
            raise tree.error(name, f"shape {found.shape}, expected one number", "only one for all pixels is understood")
        out[f"images/{what}"] = found.reshape(())
    return out


def _images(
    tree: Tree, n: int, scale: float, dtype: np.dtype
) -> tuple[Pieces, Shaped[np.ndarray, " trials"], list[str]]:
    """The distinct images, which of them each trial shows, and the names of their contents."""
    pool: dict[str, int] = {}
    pieces: list[tuple[int, Callable[[], np.ndarray]]] = []
    stimulus: list[str] = []
    size: tuple[int, ...] | None = None

    def opener(name: str) -> Callable[[], np.ndarray]:
        def image() -> np.ndarray:
            shown = _sized(tree.load(name), scale)
            return np.rint(shown) if dtype.kind == "u" else shown

        return image

    for i in range(n):
        name = f"data/images/{i}.npy"
        image = tree.numbers(name, (1, None, None))
        check_finite(tree, name, image, nan="get the session again")
        size = size or image.shape
        if image.shape != size:
            raise tree.error(name, f"shape {image.shape}, the images before it {size}", "get the session again")
        if scale != 1 and (image.shape[1] % 4 or image.shape[2] % 4):
            raise tree.error(name, f"shape {image.shape} cannot be quartered", "pass --set scale=1.0")
        if dtype.kind == "u" and not 0 <= image.min() <= image.max() <= 255:
            raise tree.error(name, "grey levels outside 0..255", "pass --set frames=float32")
        stimulus.append(content_name(image))
        if stimulus[-1] not in pool:
            pool[stimulus[-1]] = len(pool)
            pieces.append((1, opener(name)))
    assert size is not None
    shape = _sized(np.zeros(size, np.float32), scale).shape[1:]
    return Pieces(pieces, shape, dtype), np.array([pool[name] for name in stimulus]), stimulus


def _sized(image: Shaped[np.ndarray, "one h w"], scale: float) -> Shaped[np.ndarray, "one height width"]:
    return image if scale == 1 else quarter(image)


def quarter(image: Shaped[np.ndarray, "*n h w"]) -> Float[np.ndarray, "*n height width"]:
    """A quarter of the size, as the official loaders get it: the mean of the central 2 x 2 of every 4 x 4 pixels."""
    x = image.astype(np.float64)
    return (x[..., 1::4, 1::4] + x[..., 1::4, 2::4] + x[..., 2::4, 1::4] + x[..., 2::4, 2::4]) / 4


def _screen(
    images: Pieces, number: Shaped[np.ndarray, " trials"], start: Float[np.ndarray, " trials"], grey: float
) -> Screen:
    """Grey, and every trial's image from 0.95 to 1.45 s after its start. Grey is the images' official mean."""
    n = len(start)
    times = np.concatenate([start[:1], np.stack([start + IMAGE_ON_S, start + IMAGE_OFF_S], axis=1).ravel()])
    frame = np.concatenate([[-1], np.stack([number, np.full(n, -1)], axis=1).ravel()]).astype(np.int64)
    return Screen(images, times, frame, np.full(len(times), grey), float(start[-1] + TRIAL_S))
