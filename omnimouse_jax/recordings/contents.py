"""Clips that are one stimulus although some showings were cut: one is the beginning of the other, frame by frame.

A trial's content is named by all of its frames, so a clip of 100 frames and the first 99 of it have two names. Which names
belong together is told from marks of 4 bytes a frame, kept for every distinct clip beside the session's trials.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

#: Bytes of a frame's hash that are kept.
MARK = 4
#: A beginning counts if it has so many frames or half of the longer clip's: the first moments of many clips are alike.
ENOUGH = 30


def pack(clips: Mapping[str, bytes]) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Marks of clips by name as columns. Still pictures are left out: what follows them is another stimulus."""
    moving = {name: marks for name, marks in clips.items() if marks != marks[:MARK] * (len(marks) // MARK)}
    return {
        "name": np.array(list(moving), str),
        "length": np.array([len(marks) for marks in moving.values()], np.int64),
        "marks": np.frombuffer(b"".join(moving.values()), np.uint8),
    }


def unpack(columns: Mapping[str, Shaped[np.ndarray, "..."]]) -> dict[str, bytes]:
    """Marks of clips by name from `pack`'s columns."""
    marks, end = columns["marks"].tobytes(), np.cumsum(columns["length"]).tolist()
    return {name: marks[lo:hi] for name, lo, hi in zip(columns["name"].tolist(), [0, *end], end, strict=False)}


def longer(clips: Mapping[str, bytes]) -> dict[str, list[str]]:
    """For each clip that is the beginning of others, those, shortest first.

    Two clips that share a beginning are not thereby one: only the beginning itself, shown as a clip, belongs to both.
    """
    out: dict[str, list[str]] = defaultdict(list)
    begun: list[str] = []  # each the beginning of the next
    for name in sorted(clips, key=lambda name: clips[name]):
        while begun and not clips[name].startswith(clips[begun[-1]]):
            begun.pop()
        for short in begun:
            if len(clips[short]) >= min(MARK * ENOUGH, len(clips[name]) / 2):
                out[short].append(name)
        begun.append(name)
    return {name: sorted(found, key=lambda found: (len(clips[found]), found)) for name, found in out.items()}
