"""Ingest as a whole: idempotent, parallel, checked before it writes, verified on demand, and safe against kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.cli import main
from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.compare import differences
from omnimouse_jax.recordings.ingest import arrays, ingest, verify
from omnimouse_jax.recordings.ingest.readers import options_of, parse_options
from omnimouse_jax.recordings.sampling import read_responses
from omnimouse_jax.recordings.store import Store


def session(folder: Path, seed: int, n: int = 8, samples: int = 600) -> Path:
    """Plain arrays: responses at 10 Hz, running at 20 Hz, three clips of which one is shown twice."""
    rng = np.random.default_rng([seed])
    folder.mkdir(parents=True)
    np.save(folder / "responses.npy", rng.gamma(1.0, 1.0, (samples, n)).astype(np.float32))
    np.save(folder / "wheel.npy", rng.normal(size=(2 * samples, 1)))
    for clip in range(3):
        pixels = np.random.default_rng([clip]).integers(0, 256, (20, 4, 6))
        np.save(folder / f"clip{clip}.npy", pixels.astype(np.uint8))
    rows = [
        f"{5 * k + 1},{5 * k + 4},clip{k % 3}.npy,{'test' if k == 3 else 'train'}" for k in range(samples // 50 - 1)
    ]
    (folder / "stimulus.csv").write_text("\n".join(["onset,offset,file,tier", *rows]) + "\n")
    description = {
        "key": f"{folder.name}-1",
        "animal": folder.name,
        "responses": {"file": "responses.npy", "rate": 10},
        "behavior": {"wheel": {"file": "wheel.npy", "rate": 20, "channels": ["running"]}},
        "stimulus": {"table": "stimulus.csv", "size": [4, 6]},
    }
    (folder / "recording.json").write_text(json.dumps(description))
    return folder


def quiet(line: str) -> None:
    pass


def contents(store: Path) -> dict[str, bytes]:
    return {str(p.relative_to(store)): p.read_bytes() for p in store.rglob("*") if p.is_file()}


def test_several_workers_write_what_one_writes(tmp_path: Path) -> None:
    for seed in range(4):
        session(tmp_path / "in" / f"m{seed}", seed)
    one = ingest("arrays", tmp_path / "in", tmp_path / "one", say=quiet)
    two = ingest("arrays", tmp_path / "in", tmp_path / "two", workers=2, say=quiet)
    assert one == two
    assert one.added == tuple(f"m{seed}-1" for seed in range(4))
    first, second = Store.open(tmp_path / "one"), Store.open(tmp_path / "two")
    for key in one.added:
        assert differences(first.recording(key), second.recording(key)) == []
        assert first.recording(key).provenance == second.recording(key).provenance
        assert first.summary(key) == second.summary(key)


def test_again_changes_nothing_and_new_sessions_join(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    session(source / "a", 1)
    ingest("arrays", source, store, say=quiet)
    before = contents(store)
    reader = Store.open(store)  # a training run that is reading
    assert ingest("arrays", source, store, say=quiet).skipped == ("a-1",)
    os.utime(source / "a" / "responses.npy")  # touched, but the same
    assert ingest("arrays", source, store, say=quiet).skipped == ("a-1",)
    assert contents(store) == before
    session(source / "b", 2)
    assert ingest("arrays", source, store, say=quiet).added == ("b-1",)
    assert read_responses(reader.recording("a-1"), np.arange(0, 2, 0.1)).shape == (20, 8)
    assert reader.keys == ("a-1",)
    assert Store.open(store).keys == ("a-1", "b-1")


def test_other_files_under_a_key_are_refused_or_replace_it(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    session(source / "a", 1)
    ingest("arrays", source, store, say=quiet)
    np.save(source / "a" / "responses.npy", np.ones((600, 8), np.float32) * np.arange(600)[:, None].astype(np.float32))
    with pytest.raises(UserError, match=r"session a-1: already in the store .*, from other files than .*--overwrite"):
        ingest("arrays", source, store, say=quiet)
    assert ingest("arrays", source, store, overwrite=True, say=quiet).added == ("a-1",)
    assert Store.open(store).recording("a-1").responses.values[5:6][0, 0] == 5


def test_overwrite_writes_anew_what_is_damaged_or_of_another_dtype(tmp_path: Path) -> None:
    source, store = session(tmp_path / "a", 1), tmp_path / "store"
    ingest("arrays", source, store, say=quiet)
    assert ingest("arrays", source, store, say=quiet).skipped == ("a-1",)
    with pytest.raises(UserError, match=r"session a-1: already in the store .*, as float32 - pass --overwrite"):
        ingest("arrays", source, store, dtype="float16", say=quiet)
    assert ingest("arrays", source, store, dtype="float16", overwrite=True, say=quiet).added == ("a-1",)
    assert Store.open(store).summary("a-1")["response_dtype"] == "float16"
    assert ingest("arrays", source, store, say=quiet).skipped == ("a-1",)  # as it is
    shard = next(p for p in (store / "sessions").rglob("c/**/*") if p.is_file() and "responses" in str(p))
    shard.unlink()
    (found,) = verify("arrays", source, store, say=quiet).values()
    assert "missing or damaged" in found[0]
    assert ingest("arrays", source, store, overwrite=True, say=quiet).added == ("a-1",)
    assert verify("arrays", source, store, say=quiet) == {"a-1": ()}


def test_sessions_with_files_of_equal_names_sizes_and_times_are_told_apart(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    for name, seed in (("m0", 0), ("m1", 1)):
        folder = session(source / name, seed)
        for path in [*folder.iterdir(), folder]:
            os.utime(path, (1e9, 1e9))
    ingest("arrays", source / "m0", store, say=quiet)
    assert ingest("arrays", source, store, say=quiet).added == ("m1-1",)
    moved = (source / "m0").rename(tmp_path / "m0")
    assert ingest("arrays", moved, store, say=quiet).skipped == ("m0-1",)


def test_keep_going_passes_over_what_cannot_even_be_found_and_over_a_key_given_twice(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    for name in ("a", "b", "c"):
        session(source / name, ord(name))
    (source / "b" / "recording.json").write_text("[]")
    description = json.loads((source / "c" / "recording.json").read_text())
    (source / "c" / "recording.json").write_text(json.dumps(description | {"key": "a-1"}))
    done = ingest("arrays", source, store, keep_going=True, say=quiet)
    assert done.added == ("a-1",)
    assert "holds no fields" in done.failed[0]
    assert "session a-1: in" in done.failed[1]
    with pytest.raises(UserError, match="holds no fields"):
        ingest("arrays", source, store, say=quiet)


def test_one_bad_session_stops_all_or_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    for seed in range(3):
        session(source / f"m{seed}", seed)
    values = np.load(source / "m1" / "responses.npy")
    values[7, 2] = np.nan
    np.save(source / "m1" / "responses.npy", values)
    for workers in (1, 2):
        with pytest.raises(UserError, match=r"session m1-1: .* 1 NaN responses"):
            ingest("arrays", source, store, workers=workers, say=quiet)
        assert not store.exists()
    assert main(["ingest", "arrays", str(source), "--store", str(store), "--keep-going", "--workers", "2"]) == 1
    told = capsys.readouterr()
    assert "failed: session m1-1: " in told.out
    assert "1 sessions failed" in told.err
    assert Store.open(store).keys == ("m0-1", "m2-1")
    again = ["ingest", "arrays", str(source), "--store", str(store), "--nan-responses", "mask"]
    assert main(again) == 2
    assert "session m0-1: already in the store" in (err := capsys.readouterr().err)
    assert "from these files with other options (nan_responses: 'error')" in err
    assert main([*again, "--overwrite"]) == 0
    assert len(Store.open(store)) == 3


def test_verify_finds_what_changed_in_the_source_and_in_the_store(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    session(source / "a", 1)
    session(source / "b", 2)
    ingest("arrays", source, store, say=quiet)
    assert verify("arrays", source, store, workers=2, say=quiet) == {"a-1": (), "b-1": ()}
    values = np.load(source / "b" / "responses.npy")
    values[10, 3] += 1
    np.save(source / "b" / "responses.npy", values)
    found = verify("arrays", source, store, say=quiet)
    assert found["a-1"] == ()
    assert found["b-1"][0] == "source file responses.npy is not the one that was ingested"
    assert found["b-1"][1].startswith("responses: 1 values differ, the first at row 10, column (3,): ")
    session(source / "c", 3)
    assert verify("arrays", source, store, say=quiet)["c-1"] == ("not in the store",)


def test_verify_reads_a_session_with_the_options_it_was_ingested_with(tmp_path: Path) -> None:
    source, store = session(tmp_path / "a", 1), tmp_path / "store"
    values = np.load(source / "responses.npy")
    values[7, 2] = np.nan
    np.save(source / "responses.npy", values)
    ingest("arrays", source, store, nan_responses="mask", dtype="float16", say=quiet)
    assert verify("arrays", source, store, say=quiet) == {"a-1": ()}


def test_source_checksums_are_recorded(tmp_path: Path) -> None:
    ingest("arrays", session(tmp_path / "a", 1), tmp_path / "store", say=quiet)
    provenance = Store.open(tmp_path / "store").recording("a-1").provenance
    assert set(provenance["files"]) == {
        *("recording.json", "responses.npy", "wheel.npy", "stimulus.csv"),
        *(f"clip{k}.npy" for k in range(3)),
    }
    assert all(len(digest) == 64 for digest in provenance["files"].values())
    assert provenance["options"] == {"nan_responses": "error"}


def test_each_part_of_a_recording_is_compared(tmp_path: Path) -> None:
    rec = arrays.read_session(session(tmp_path / "a", 1))
    import dataclasses as d

    trials = d.replace(rec.trials, tier=np.where(rec.trials.tier == "test", "other", rec.trials.tier))
    frames = np.asarray(rec.screen.frames[0 : rec.screen.frames.shape[0]]).copy()
    frames[2, 1, 1] ^= 1
    wheel = d.replace(rec.behavior["wheel"], rate=21.0)
    changed = {
        "session animal: 1 of 1 values differ": d.replace(rec, animal="x"),
        "trials tier: 1 of": d.replace(rec, trials=trials),
        "screen: 1 values differ, the first at row 2": d.replace(rec, screen=d.replace(rec.screen, frames=frames)),
        "behavior wheel rate: 1 of 1 values differ": d.replace(rec, behavior={"wheel": wheel}),
        "behavior wheel: only in the source": d.replace(rec, behavior={}),
        "screen: only in the source": d.replace(rec, screen=None),
        "neurons x: only in the store": d.replace(rec, neurons={"x": np.zeros(8)}),
    }
    for message, other in changed.items():
        found = differences(rec, other)
        assert len(found) == 1, message
        assert found[0].startswith(message)
    assert differences(rec, rec) == []


def test_options_are_typed_and_named() -> None:
    assert options_of("experanto") == {"nan_responses": "error"}
    assert parse_options("arrays", ["nan_responses=mask"]) == {"nan_responses": "mask"}
    with pytest.raises(UserError, match=r"format arrays: no option nan_response - did you mean nan_responses\?"):
        parse_options("arrays", ["nan_response=mask"])
    with pytest.raises(UserError, match="format arays: unknown - did you mean arrays"):
        options_of("arays")


INGEST = """
import sys
from omnimouse_jax.recordings.ingest import ingest
if __name__ == "__main__":
    ingest("arrays", sys.argv[1], sys.argv[2], workers=int(sys.argv[3]))
"""


def test_no_worker_outlives_a_killed_ingest(tmp_path: Path) -> None:
    source, store = tmp_path / "in", tmp_path / "store"
    for seed in range(4):
        session(source / f"m{seed}", seed, n=300, samples=6000)
    (tmp_path / "ingest.py").write_text(INGEST)
    command = [sys.executable, str(tmp_path / "ingest.py"), str(source), str(store), "2"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    if not children.exists():
        pytest.skip("needs /proc")
    deadline = time.monotonic() + 60
    while len(workers := children.read_text().split()) < 3 and time.monotonic() < deadline:  # and the resource tracker
        time.sleep(0.01)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()

    def alive(pid: str) -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_it_leaves_whole_sessions_and_goes_on(workers: int, tmp_path: Path) -> None:
    """kill -9 of the process and its workers, again and again; every session that is listed is whole, and none is lost."""
    source, store = tmp_path / "in", tmp_path / "store"
    for seed in range(6):
        session(source / f"m{seed}", seed, n=300, samples=4000)
    ingest("arrays", source, tmp_path / "whole", say=quiet)
    whole = Store.open(tmp_path / "whole")
    script = tmp_path / "ingest.py"
    script.write_text(INGEST)
    command = [sys.executable, str(script), str(source), str(store), str(workers)]
    rng = np.random.default_rng([workers])
    seen = set()
    for attempt in range(60):
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        try:  # from the moment it begins to import to long after its last write, later and later
            run.wait(timeout=0.3 + 0.1 * attempt + rng.uniform(0, 0.3))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
        if not (store / "manifest.json").exists():
            continue
        opened = Store.open(store)
        for key in opened.keys:
            assert differences(whole.recording(key), opened.recording(key)) == []
        seen.add(len(opened))
        if run.returncode == 0:
            break
    assert run.returncode == 0
    assert Store.open(store).keys == whole.keys
    assert min(seen) < 6, "it was never interrupted"
    assert ingest("arrays", source, store, say=quiet).skipped == whole.keys


def test_repeats_of_a_clip_stay_in_one_tier_by_the_rule_of_the_description(tmp_path: Path) -> None:
    """The clips of two mice are equal: each has one tier in both, and nothing leaks."""
    from omnimouse_jax.recordings.leaks import leaks

    for name, seed in (("a", 1), ("b", 2)):
        folder = session(tmp_path / "in" / name, seed, samples=1500)
        description = json.loads((folder / "recording.json").read_text())
        table = (folder / "stimulus.csv").read_text().replace(",test", ",train")
        (folder / "stimulus.csv").write_text(table)
        description["tiers"] = {"hold_out_stimuli": 0.5}
        (folder / "recording.json").write_text(json.dumps(description))
    ingest("arrays", tmp_path / "in", tmp_path / "store", say=quiet)
    store = Store.open(tmp_path / "store")
    assert leaks(store) == []
    tiers = {}
    for key in store.keys:
        trials = store.recording(key).trials
        assert set(trials.tier[trials.modality != "blank"]) == {"train", "test"}
        for content, tier, kind in zip(store.trial_contents(key), trials.tier, trials.modality, strict=True):
            if kind != "blank":
                assert tiers.setdefault(str(content), str(tier)) == tier
    description["tiers"] = {"hold_out_stimuli": 0.5, "hold_out_last": 0.2}
    (folder / "recording.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match="tiers: hold_out_stimuli beside hold_out_last"):
        arrays.read_session(folder)


def images(folder: Path, stack: np.ndarray, numbers: list[int]) -> Path:
    """One stack of images and the number of one of them for each trial of 1 s."""
    session(folder, 3)
    np.save(folder / "images.npy", stack)
    rows = [f"{2 * k + 1},{2 * k + 2},{n}" for k, n in enumerate(numbers)]
    (folder / "stimulus.csv").write_text("\n".join(["onset,offset,frame", *rows]) + "\n")
    description = json.loads((folder / "recording.json").read_text())
    description["stimulus"] = {"table": "stimulus.csv", "size": [4, 6], "frames": "images.npy"}
    (folder / "recording.json").write_text(json.dumps(description))
    return folder


def test_a_stack_of_images_and_a_number_per_trial(tmp_path: Path) -> None:
    from omnimouse_jax.recordings.ingest.arrays.lint import lint
    from omnimouse_jax.recordings.sampling import read_screen

    stack = np.random.default_rng([4]).integers(0, 256, (5, 8, 12)).astype(np.uint8)
    folder = images(tmp_path / "a", stack, [3, 0, 3, -1])
    assert lint(folder).n_errors == 0
    rec = arrays.read_session(folder)
    shown = rec.trials.modality == "image"
    assert shown.sum() == 3
    names = rec.trials.stimulus[shown]
    assert names[0] == names[2] != names[1]
    wanted = np.rint(stack.reshape(5, 4, 2, 6, 2).astype(float).mean(axis=(2, 4)))
    assert np.abs(read_screen(rec, np.array([1.5, 3.5]))[[0, 1]].astype(float) - wanted[[3, 0]]).max() <= 1
    for bad, numbers, message in [
        (stack, [5], "frame 5 of row 0 - there are 5, numbered from 0"),
        (stack[0][..., None].repeat(3, axis=-1), [0], r"shape \(8, 12, 3\) - give grey images"),
    ]:
        with pytest.raises(UserError, match=message):
            arrays.read_session(images(tmp_path / f"bad{numbers[0]}", bad, numbers))


def test_colour_is_not_taken_for_a_clip(tmp_path: Path) -> None:
    folder = session(tmp_path / "a", 1)
    np.save(folder / "clip1.npy", np.zeros((36, 64, 3), np.uint8))
    with pytest.raises(UserError, match=r"clip1.npy has shape \(36, 64, 3\) - give a grey image"):
        arrays.read_session(folder)
