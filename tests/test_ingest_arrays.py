"""The arrays format: a lab's own files, read without loading them, and each mistake told in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest import arrays, ingest
from omnimouse_jax.recordings.sampling import read_behavior, read_responses, read_screen
from omnimouse_jax.recordings.splits import tier_spans
from omnimouse_jax.recordings.store import Store
from tests.shared import shared

Change = Callable[[Path, dict[str, Any]], object]


def minimal(folder: Path) -> dict[str, Any]:
    """The smallest useful session, as in docs/data.md: responses, running, a table of gratings and images."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([1])
    np.save(folder / "responses.npy", rng.gamma(1, 1, (600, 5)).astype(np.float32))
    np.save(folder / "running.npy", rng.normal(size=4000))
    np.save(folder / "clip.npy", rng.integers(0, 256, (40, 18, 32)).astype(np.uint8))
    rows = ["onset,offset,draw,direction,spatial_frequency,temporal_frequency,file,clip_rate,tier"]
    for k in range(9):
        onset = 2 + 4 * k
        shown = f"grating,{45 * (k % 4)},0.04,2,,," if k % 3 else ",,,,clip.npy,20,"
        rows.append(f"{onset},{onset + 2},{shown}{'test' if k > 6 else 'train'}")
    (folder / "stimulus.csv").write_text("\n".join(rows) + "\n")
    return {
        "key": "anna-1",
        "animal": "anna",
        "responses": {"file": "responses.npy", "rate": 15.0, "original_rate": 7.5},
        "behavior": {"wheel": {"file": "running.npy", "rate": 100, "channels": ["running"]}},
        "stimulus": {"table": "stimulus.csv", "size": [9, 16], "rate": 30, "screen_deg": [50, 90]},
    }


def write(folder: Path, fields: dict[str, Any]) -> Path:
    (folder / "recording.json").write_text(json.dumps(fields))
    return folder


def test_a_lab_session_reads_back(tmp_path: Path) -> None:
    folder = tmp_path / "anna-1"
    write(folder, minimal(folder))
    ingest("arrays", folder, tmp_path / "store", say=lambda line: None)
    rec = Store.open(tmp_path / "store").recording("anna-1")
    raw = np.load(folder / "responses.npy")
    assert np.array_equal(read_responses(rec, np.arange(600) / 15), raw)
    assert np.allclose(
        read_behavior(rec, np.arange(100) / 100, ["running"])[:, 0], np.load(folder / "running.npy")[:100]
    )
    assert rec.trials.tiers() == {"train": 7, "test": 2, "blank": 8}
    assert rec.screen is not None
    clip = np.load(folder / "clip.npy").astype(float).reshape(40, 9, 2, 16, 2).mean((2, 4))
    shown = read_screen(rec, 2 + (np.arange(40) + 0.5) / 20)  # 20 frames per second, first trial
    assert np.abs(shown - clip).max() <= 0.5
    assert np.all(read_screen(rec, np.array([0.0, 4.5])) == 128)
    assert len(set(rec.trials.stimulus)) == 1 + 1 + 4  # grey, the clip, four directions
    assert rec.screen.frames.shape[0] == 40 + 4 * 60
    assert tier_spans(rec, ["test"]).tolist() == [[30, 33], [34, 36]]
    assert Store.open(tmp_path / "store").summary("anna-1")["original_rate"] == 7.5


def test_memory_mapped_until_sliced(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    rec = arrays.read_session(write(folder, minimal(folder)))
    assert isinstance(rec.responses.values, np.memmap)
    assert isinstance(rec.behavior["wheel"].values, np.memmap)


def test_frames_with_time_stamps_and_a_table_of_trials(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fields = minimal(folder)
    frames = np.random.default_rng([2]).uniform(0, 255, (50, 4, 4)).astype(np.float32)
    np.savez(folder / "screen.npz", pixels=frames, times=5 + np.arange(50) * 0.1)
    fields["stimulus"] = {"frames": "screen.npz:pixels", "times": "screen.npz:times"}
    fields["trials"] = {"start": [5, 7.5], "end": [7.5, 10], "tier": ["train", "test"], "stimulus": "movie"}
    rec = arrays.read_session(write(folder, fields))
    assert np.array_equal(read_screen(rec, 5.05 + np.arange(50) * 0.1), frames)
    assert rec.screen is not None
    assert rec.screen.end_time == pytest.approx(10.0)
    assert rec.trials.modality.tolist() == ["video", "video"]
    fields["stimulus"] |= {"times": [5, 6, 7], "frame": [9, -1, 0], "grey": 50, "end": 8.0}
    got = read_screen(arrays.read_session(write(folder, fields)), np.array([5.5, 6.5, 7.5]))
    assert np.array_equal(got[[0, 2]], frames[[9, 0]])
    assert np.all(got[1] == 50)


def test_recordings_without_stimulus_behavior_or_trials(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fields = minimal(folder)
    bare = {
        "animal": "anna",
        "responses": fields["responses"],
        "tiers": {"hold_out_last": 0.25, "validation_last": 0.25},
    }
    rec = arrays.read_session(write(folder, bare))
    assert rec.key == "s"
    assert rec.screen is None
    assert rec.channels == ()
    assert rec.trials.tier.tolist() == ["train", "train", "validation", "test"]
    assert rec.trials.start.tolist() == [0, 10, 20, 30]
    assert rec.trials.end[-1] == 40


def test_segments_of_unequal_length(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    fields = minimal(folder)
    fields.pop("stimulus")
    fields["responses"] = {
        "file": "responses.npy", "rate": 15.0, "segments": {"start": [0, 30, 100], "length": [150, 300, 150]},
    }  # fmt: skip
    rec = arrays.read_session(write(folder, fields))
    raw = np.load(folder / "responses.npy")
    assert np.array_equal(read_responses(rec, np.array([30.0, 100.0])), raw[[150, 450]])
    assert np.isnan(read_responses(rec, np.array([10.1, 50.1]))).all()


def test_real_recordings_cut_into_trials(tmp_path: Path) -> None:
    """Seven published mice (Park et al. 2024): (trials, time, neurons) with gratings known by direction only."""
    source = shared("recordings/park_gratings")
    path = sorted(source.glob("*_fov?.npz"))[0]
    onset = 1 + 10.0 * np.arange(128)
    cut = {"rate": 16, "segments": {"every": 10}}
    table = {
        "onset": onset.tolist(), "offset": (onset + 2).tolist(), "start": (onset - 1).tolist(), "draw": "grating",
        "direction": f"{path}:direction", "spatial_frequency": 0.04, "temporal_frequency": 2,
    }  # fmt: skip
    folder = tmp_path / "s"
    folder.mkdir()
    fields = {
        "animal": "mrcuts24",
        "responses": {"file": f"{path}:responses", **cut},
        "behavior": {"camera": {"file": f"{path}:behavior", **cut, "channels": ["pupil_size", "running"]}},
        "stimulus": {"table": table, "size": [9, 16], "screen_deg": [60, 100]},
        "tiers": {"hold_out_last": 0.2},
    }
    rec = arrays.read_session(write(folder, fields))
    with np.load(path) as raw:
        for k in (0, 77, 127):
            times = 10.0 * k + np.arange(49) / 16
            assert np.array_equal(read_responses(rec, times), raw["responses"][k])
            assert np.array_equal(read_behavior(rec, times, ["pupil_size", "running"]), raw["behavior"][k])
    assert rec.trials.tiers() == {"train": 102, "test": 26, "blank": 127}
    assert len(set(rec.trials.stimulus)) == 8 + 1
    assert len(tier_spans(rec, ["test"])) == 26


def test_nan_is_an_error_or_masked(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    write(folder, minimal(folder))
    values = np.load(folder / "responses.npy")
    values[[40, 41], 2] = np.nan
    np.save(folder / "responses.npy", values)
    told = (
        r"session anna-1: file responses.npy: 2 NaN responses, the first at sample 40, neuron 2 .*--nan-responses mask"
    )
    with pytest.raises(UserError, match=told):
        ingest("arrays", folder, tmp_path / "store", say=lambda line: None)
    assert not (tmp_path / "store").exists()
    ingest("arrays", folder, tmp_path / "store", nan_responses="mask", say=lambda line: None)
    store = Store.open(tmp_path / "store")
    assert np.isnan(read_responses(store.recording("anna-1"), np.array([40 / 15]))[0]).tolist() == [0, 0, 1, 0, 0]
    assert store.summary("anna-1")["nan_fraction"]["responses"] == pytest.approx(2 / 3000)
    assert np.isfinite(store.recording("anna-1").response_scale).all()
    values[0, 0] = np.inf
    np.save(folder / "responses.npy", values)
    with pytest.raises(UserError, match="infinite response at sample 0, neuron 0"):
        arrays.read_session(folder, nan_responses="mask")


def test_ingest_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for name in ("one", "two"):
        folder = tmp_path / "in" / name
        write(folder, minimal(folder) | {"key": name})
    lines: list[str] = []
    first = ingest("arrays", tmp_path / "in" / "one", tmp_path / "store", say=lines.append)
    assert first.added == ("one",)
    second = ingest("arrays", tmp_path / "in", tmp_path / "store", say=lines.append)
    assert (second.added, second.skipped) == (("two",), ("one",))
    assert re.search(r"session one: already in the store from the same files, skipped", lines[2])
    assert re.search(r"session 1 of 1 two: 5 neurons, 0.01 h, .* MB", lines[3])
    assert re.search(r"1 session, .* MB in .* s", lines[4])
    path = tmp_path / "in" / "one" / "responses.npy"
    path.write_bytes(path.read_bytes())  # touched, not changed
    assert ingest("arrays", tmp_path / "in", tmp_path / "store", say=lines.append).added == ()
    np.save(path, np.load(path) + 1)
    with pytest.raises(UserError, match=r"session one: already in the store .*from other files .*--overwrite"):
        ingest("arrays", tmp_path / "in", tmp_path / "store", say=lines.append)
    assert ingest("arrays", tmp_path / "in", tmp_path / "store", overwrite=True, say=lines.append).added == (
        "one",
        "two",
    )


def _set(*path_and_value: Any) -> Change:
    *path, last, value = path_and_value

    def change(folder: Path, fields: dict[str, Any]) -> None:
        for name in path:
            fields = fields[name]
        fields[last] = value

    return change


def _truncate(name: str) -> Change:
    return lambda folder, fields: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


def _csv(old: str, new: str) -> Change:
    def change(folder: Path, fields: dict[str, Any]) -> None:
        path = folder / "stimulus.csv"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


BROKEN: dict[str, Change] = {
    r"file .*nothing.npy: missing": _set("responses", "file", "nothing.npy"),
    r"file .*responses.npy: truncated": _truncate("responses.npy"),
    r"file .*running.npy: truncated": _truncate("running.npy"),
    r"file .*clip.npy: truncated": _truncate("clip.npy"),
    r"responses.npy has 600 samples, its segments 500": _set(
        "responses", "segments", {"start": [0, 50], "length": [200, 300]}
    ),
    r"neurons: column depth has 3 rows for 5 neurons": _set("neurons", {"depth": [1, 2, 3]}),
    r"behavior wheel: 1 columns but 2 channel names": _set("behavior", "wheel", "channels", ["running", "pupil_x"]),
    r"file responses.npy: 1 NaN responses": lambda f, d: np.save(f / "responses.npy", np.full((1, 1), np.nan)),
    r"row 1 starts before row 0 has ended": _csv("6,8,grating", "3,8,grating"),
    r"offset of row 1 is 'late'": _csv("6,8,grating", "6,late,grating"),
    r"row 1: start 9, onset 9, offset 8": _csv("6,8,grating", "9,8,grating"),
    r"line 3 has 8 of 9 columns": _csv("6,8,grating,", "6,8,"),
    r"direction of row 0 is ''|direction of row \d+ is ''": _csv("grating,45,", "grating,,"),
    r"unknown field ofset in stimulus table .*did you mean offset\?": _csv("offset", "ofset"),
    r"unknown field behaviour in the description - did you mean behavior\?": _set("behaviour", {}),
    r"field animal is missing": lambda f, d: d.pop("animal"),
    r"field responses rate is 'fast'": _set("responses", "rate", "fast"),
    r"responses: rate 0": _set("responses", "rate", 0),
    r"no neurons \(0 columns\)": lambda f, d: np.save(f / "responses.npy", np.zeros((600, 0), np.float32)),
    r"is cut into 4 trials": lambda f, d: np.save(f / "responses.npy", np.zeros((4, 150, 5), np.float32)),
    r"draw of row 1 is 'noise'": _csv("grating", "noise"),
    r"stimulus screen_deg is missing": lambda f, d: d["stimulus"].pop("screen_deg"),
    r"tiers hold_out_last 2 - give fractions": _set("tiers", {"hold_out_last": 2}),
    r"end at 10 s and cover .* check the rate, the unit of the times": _set("responses", "rate", 60.0),
    r"no trial lies within the responses' time": _set("responses", "start", 5000),
    r"no array speed|no array \(none named\)": lambda f, d: (
        np.savez(f / "all.npz", wheel=np.zeros(9)),
        d["behavior"]["wheel"].update(file="all.npz:speed"),
    ),
}


@pytest.mark.parametrize("message", BROKEN)
def test_mistakes_are_told_in_one_line(message: str, tmp_path: Path) -> None:
    good = tmp_path / "good"
    write(good, minimal(good))
    ingest("arrays", good, tmp_path / "store", say=lambda line: None)
    before = {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()}
    for name in ("a-good-one", "bad"):
        folder = tmp_path / "in" / name
        fields = minimal(folder) | {"key": name}
        if name == "bad":
            BROKEN[message](folder, fields)
        write(folder, fields)
    with pytest.raises(UserError, match=message) as error:
        ingest("arrays", tmp_path / "in", tmp_path / "store", say=lambda line: None)
    assert "session bad" in str(error.value)
    assert error.value.way_out
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in (tmp_path / "store").rglob("*") if p.is_file()} == before


def test_the_documented_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})

    ingest("arrays", tmp_path / "anna-1", tmp_path / "store", say=lambda line: None)
    summary = Store.open(tmp_path / "store").summary("anna-1")
    assert set(summary["trials"]) == {"train", "test", "blank"}
    assert summary["channels"] == ["pupil_x", "pupil_y", "running"]
    assert not summary["missing"]


def test_unreadable_places_and_descriptions(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        ingest("arrays", tmp_path / "nowhere", tmp_path / "store")
    with pytest.raises(UserError, match=r"no recording\.json"):
        ingest("arrays", tmp_path, tmp_path / "store")
    with pytest.raises(UserError, match="format hdf5: unknown"):
        ingest("hdf5", tmp_path, tmp_path / "store")
    (tmp_path / "recording.json").write_text("{ no json")
    with pytest.raises(UserError, match="cannot be read"):
        ingest("arrays", tmp_path, tmp_path / "store")
    assert not (tmp_path / "store").exists()
