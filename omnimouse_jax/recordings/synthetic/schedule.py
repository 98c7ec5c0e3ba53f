"""Which stimulus is on the screen when: the session's trials, its pool of frames, and one pool index per frame tick."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from omnimouse_jax.recordings.session import Screen, Trials
from omnimouse_jax.recordings.synthetic import movies
from omnimouse_jax.recordings.synthetic.spec import ColonySpec, stream

_IMAGES_IN_A_ROW = 10
_MOVIE, _SHARED_MOVIE, _ORDER = 11, 12, 13  # random streams


@dataclass(frozen=True)
class Schedule:
    """A session's screen: frame tick k shows `pool[ticks[k]]`, or grey where it is -1."""

    pool: UInt8[np.ndarray, "pool height width"]
    ticks: Int[np.ndarray, " ticks"]
    screen: Screen
    trials: Trials


@dataclass(frozen=True)
class _Stimulus:
    frames: UInt8[np.ndarray, "frames height width"]
    tier: str
    modality: str
    repeats: int

    @property
    def name(self) -> str:
        """Named by content, so that equal names are equal frames in any session of any colony."""
        return f"{self.modality}-{hashlib.sha256(self.frames.tobytes()).hexdigest()[:12]}"


def make_schedule(spec: ColonySpec, index: int, start: float) -> Schedule:
    """The screen of session `index`, whose first tick is at `start` s.

    Clips come with a blank before each; images in rows of ten, each with a blank before and a one-frame blank after;
    the session begins with one second of blank and ends with a one-frame blank. Clips and rows come in random order.
    """
    rng = stream(spec, _ORDER, *spec.session(index))
    stimuli = _stimuli(spec, index)
    first_in_pool = [0, *itertools.accumulate(len(s.frames) for s in stimuli)]
    blocks = [[k] for k, s in enumerate(stimuli) if s.modality == "video" for _ in range(s.repeats)]
    shown = rng.permutation([k for k, s in enumerate(stimuli) if s.modality == "image" for _ in range(s.repeats)])
    blocks += [list(map(int, shown[i : i + _IMAGES_IN_A_ROW])) for i in range(0, len(shown), _IMAGES_IN_A_ROW)]
    order = rng.permutation(len(blocks))

    rows: list[tuple[str, str, str]] = []  # tier, modality, stimulus
    pieces: list[np.ndarray] = []  # pool indices, one per tick

    def show(frames: np.ndarray, tier: str = "", modality: str = "blank", name: str = "") -> None:
        rows.append((tier, modality, name))
        pieces.append(frames)

    def blank(ticks: int) -> None:
        show(np.full(ticks, -1))

    def pause() -> int:
        low, high = (round(s * spec.frame_rate) for s in spec.blank_seconds)
        return int(rng.integers(max(1, low), max(1, high) + 1))

    blank(round(spec.frame_rate))
    for position, b in enumerate(order):
        if spec.long_blank_seconds > 0 and position == len(order) // 2:
            blank(round(spec.long_blank_seconds * spec.frame_rate))
        for k in blocks[b]:
            s = stimuli[k]
            blank(pause())
            if s.modality == "video":
                show(np.arange(first_in_pool[k], first_in_pool[k + 1]), s.tier, s.modality, s.name)
            else:
                show(np.full(round(spec.image_seconds * spec.frame_rate), first_in_pool[k]), s.tier, s.modality, s.name)
                blank(1)
    if rows[-1][1] == "video":
        blank(1)

    ticks = np.concatenate(pieces)
    duration = np.array([len(p) for p in pieces])
    first = np.concatenate([[0], np.cumsum(duration)])
    edges = start + first / spec.frame_rate
    tier, modality, name = (np.array(column) for column in zip(*rows, strict=True))
    trials = Trials(edges[:-1], edges[1:], tier, modality, name, np.ones(len(rows), bool))
    # a film has one event per frame, an image or a blank one in all
    lengths = np.where(modality == "video", duration, 1)
    events = np.repeat(first[:-1] - np.cumsum(lengths) + lengths, lengths) + np.arange(int(lengths.sum()))
    pool = np.concatenate([s.frames for s in stimuli])
    grey = np.full(len(events), float(spec.grey))
    screen = Screen(pool, start + events / spec.frame_rate, ticks[events], grey, float(edges[-1]))
    return Schedule(pool, ticks, screen, trials)


def _stimuli(spec: ColonySpec, index: int) -> list[_Stimulus]:
    animal, number = spec.session(index)
    n_frames = round(spec.clip_seconds * spec.frame_rate)
    counts = (("train", spec.train_clips, 1), ("validation", spec.validation_clips, spec.validation_repeats),
              ("test", spec.test_clips, spec.test_repeats))  # fmt: skip
    stimuli = []
    for t, (tier, n, repeats) in enumerate(counts):
        for k in range(n):
            shared = tier == "test" and spec.share_test_clips
            rng = stream(spec, _SHARED_MOVIE, k) if shared else stream(spec, _MOVIE, animal, number, t, k)
            stimuli.append(_Stimulus(movies.clip(rng, spec, n_frames), tier, "video", repeats))
    for t, (tier, n, repeats) in enumerate(
        [("train", spec.train_images, 1), ("test", spec.test_images, spec.image_repeats)]
    ):
        frames = movies.images(stream(spec, _MOVIE, animal, number, 3 + t), spec, n)
        stimuli += [_Stimulus(frame[None], tier, "image", repeats) for frame in frames]
    return stimuli
