"""What a trial showed: names from pixels, trials marked a little early, and clips that were cut."""

from __future__ import annotations

import numpy as np
import pytest

from omnimouse_jax.recordings.contents import longer, pack, unpack
from omnimouse_jax.recordings.session import Screen, Trials
from omnimouse_jax.recordings.statistics import frame_hashes, trial_clips, trial_contents

RATE = 30.0


def shown(
    frames: np.ndarray, starts: list[float], clips: list[np.ndarray], early: float = 0.0
) -> tuple[Trials, Screen]:
    """Clips (numbers of frames) one after the other at 30 Hz; every trial is marked `early` seconds before its clip."""
    times = np.concatenate([start + np.arange(len(clip)) / RATE for start, clip in zip(starts, clips, strict=True)])
    end = np.array([start + len(clip) / RATE for start, clip in zip(starts, clips, strict=True)])
    screen = Screen(frames, times, np.concatenate(clips), np.full(len(times), 128.0), float(end[-1]))
    n, start = len(clips), np.array(starts) - early
    end = np.minimum(end, np.append(start[1:], np.inf))
    names = np.array([f"t{k}" for k in range(n)])
    return Trials(start, end, np.full(n, "train"), np.full(n, "video"), names, np.ones(n, bool)), screen


@pytest.mark.parametrize("early", [-0.005, 0.0, 0.005, 0.02, 0.05, 0.1])
def test_the_frame_that_was_still_on_belongs_to_no_trial_after_it(early: float) -> None:
    """The same clip after two others, whose last frames stay on until it begins: it has one name."""
    frames = np.random.default_rng([1]).integers(0, 256, (30, 4, 6)).astype(np.uint8)
    a, b, c = np.arange(10), np.arange(10, 20), np.arange(20, 30)
    starts = [0.5 + k for k in range(4)]
    trials, screen = shown(frames, starts, [a, c, b, c], early)
    names = trial_contents(trials, screen, frame_hashes(frames))
    clips = trial_clips(trials, screen, frame_hashes(frames))
    assert set(clips) == set(names.tolist())
    assert {clips[name][:8] for name in (names[1], names[3])} == {b"".join(h[:4] for h in frame_hashes(frames[20:22]))}
    assert names[1] == names[3]
    assert len(set(names.tolist())) == 3


def test_a_still_frame_that_stays_is_shown() -> None:
    """An image that came up before its trial and stays for more than 0.1 s of it is what the trial showed."""
    frames = np.random.default_rng([2]).integers(0, 256, (2, 4, 6)).astype(np.uint8)
    screen = Screen(frames, np.array([0.0, 1.0, 2.0]), np.array([0, 1, -1]), np.full(3, 128.0), 3.0)

    def name(start: float, end: float) -> str:
        one = (np.array([start]), np.array([end]), np.array(["train"]), np.array(["image"]), np.array(["x"]))
        return str(trial_contents(Trials(*one, np.array([True])), screen, frame_hashes(frames))[0])

    assert name(0.8, 2.0) != name(0.95, 2.0) == name(1.0, 2.0) == name(1.005, 2.0)
    assert name(0.2, 0.25) == name(0.0, 1.0)


def test_a_clip_begins_the_longer_ones_that_it_is_the_beginning_of() -> None:
    rng = np.random.default_rng([3])
    start = rng.bytes(4 * 30)  # a second that two clips share
    b, c = start + rng.bytes(4 * 70), start + rng.bytes(4 * 70)
    clips = {"b": b, "c": c, "b99": b[: 4 * 99], "b40": b[: 4 * 40], "few": b[: 4 * 5], "other": rng.bytes(400)}
    assert longer(clips) == {"b40": ["b99", "b"], "b99": ["b"]}
    assert longer({**clips, "start": start})["start"] == ["b40", "b99", "b", "c"]  # no reason to take b for c
    assert longer({"ten": b[:40], "six": b[:24], "four": b[:16]}) == {"six": ["ten"], "four": ["six"]}
    assert longer({}) == {}


def test_longer_equals_comparing_all_pairs() -> None:
    rng = np.random.default_rng([4])
    for _ in range(30):
        made = {rng.integers(0, 2, rng.integers(1, 6)).astype(np.uint32).tobytes() for _ in range(30)}
        clips = {f"{k}": marks for k, marks in enumerate(sorted(made))}
        pairs = {
            (a, b)
            for a in clips
            for b in clips
            if a != b and clips[b].startswith(clips[a]) and 2 * len(clips[a]) >= len(clips[b])
        }
        assert {(a, b) for a, found in longer(clips).items() for b in found} == pairs


def test_marks_survive_columns_and_still_pictures_have_none() -> None:
    clips = {"a": b"0123456789ab", "still": b"01230123", "image": b"0123", "b": b"01230124"}
    assert unpack(pack(clips)) == {"a": clips["a"], "b": clips["b"]}
    assert unpack(pack({})) == {}
