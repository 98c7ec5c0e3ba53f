"""The store: what goes in comes out, statistics are those of the training tier, and failures leave no trace."""

from __future__ import annotations

import dataclasses
import gc
import json
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import inspect as inspection
from omnimouse_jax.recordings import plain
from omnimouse_jax.recordings import store as store_module
from omnimouse_jax.recordings.arrays import Handle, Handles, chunk_rows
from omnimouse_jax.recordings.sampling import read_behavior, read_responses, read_screen
from omnimouse_jax.recordings.session import Recording, Screen, Signal, Trials
from omnimouse_jax.recordings.store import Store


def make(key: str = "m1-s1", n: int = 12, seed: int = 0, **kwargs: object) -> Recording:
    """40 s at 15 Hz in two segments: 20 trials of 2 s, the last 4 of tier test, a 1 s blank in the middle."""
    rng = np.random.default_rng([seed])
    start = np.concatenate([np.arange(10) * 2.0, 21 + np.arange(10) * 2.0])
    tier = np.array(["train"] * 16 + ["test"] * 4)
    trials = Trials(
        start, start + 2, tier, np.full(20, "video"), np.array([f"clip{i % 5}" for i in range(20)]), np.ones(20, bool)
    )
    responses = rng.gamma(1.0, 1.0, (41 * 15, n)).astype(np.float32)
    frames = rng.integers(0, 256, (5 * 10, 4, 6)).astype(np.uint8)
    times = np.concatenate([s + np.arange(10) * 0.2 for s in start])
    frame = np.concatenate([(i % 5) * 10 + np.arange(10) for i in range(20)])
    eye = rng.normal(size=(900, 2)).astype(np.float32)
    eye[100:140] = np.nan
    fields: dict[str, object] = {
        "responses": Signal(responses, 15.0, np.array([0.0, 21.0]), np.array([0, 300]), phase_shifts=np.zeros(n)),
        "trials": trials,
        "behavior": {
            "eye": Signal.continuous(eye, 20.0, -1.0, channels=("pupil_x", "pupil_y")),
            "wheel": Signal.continuous(rng.normal(3, 2, (4200, 1)), 100.0, -0.5, channels=("running",)),
        },
        "screen": Screen(frames, times, frame, np.full(200, 128.0), 41.0),
        "neurons": {"unit_id": np.arange(n), "area": np.full(n, "V1")},
        "provenance": {"reader": "test", "original_rate": 8.0},
        "truth": {
            "ceiling": {"stimulus": {"mean": 0.4, "per_neuron": np.full(n, 0.4)}},
            "tuning": {"preferred": np.arange(n) * 10.0, "kind": "simple"},
        },
    }
    return Recording(key, key.split("-")[0], **(fields | kwargs))  # type: ignore[arg-type]


def folder_of(store: Path, key: str = "m1-s1") -> Path:
    """Where a session's files are."""
    return store / json.loads((store / "manifest.json").read_text())["sessions"][key]["folder"]


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("where", ["folder", "memory"])
def test_round_trip_is_exact(where: str, tmp_path: Path) -> None:
    path: Path | str = tmp_path / "store" if where == "folder" else f"memory://round/{tmp_path.name}"
    rec = make()
    Store.create(path).add(rec)
    got = Store.open(path).recording("m1-s1")
    rng = np.random.default_rng([9])
    times = np.sort(rng.uniform(-2, 44, 400))
    assert np.array_equal(read_responses(got, times), read_responses(rec, times), equal_nan=True)
    channels = ["running", "pupil_y", "pupil_x"]
    assert np.array_equal(read_behavior(got, times, channels), read_behavior(rec, times, channels), equal_nan=True)
    assert np.array_equal(read_screen(got, times), read_screen(rec, times))
    assert read_screen(got, times).dtype == np.uint8
    for field in dataclasses.fields(Trials):
        assert np.array_equal(getattr(got.trials, field.name), getattr(rec.trials, field.name))
    assert got.animal == "m1"
    assert got.channels == rec.channels
    assert got.neurons["area"].tolist() == ["V1"] * 12
    assert got.truth is not None
    assert got.truth["ceiling"]["stimulus"]["per_neuron"].tolist() == [0.4] * 12
    assert got.truth["tuning"]["kind"] == "simple"
    assert got.provenance["original_rate"] == 8.0


def test_statistics_come_from_the_training_tier_only(tmp_path: Path) -> None:
    rec = make()
    rec.responses.values[:, 3] = 0.25
    store = Store.create(tmp_path / "s")
    store.add(rec)
    times = np.concatenate([np.arange(300) / 15, 21 + np.arange(315) / 15])
    train = (times < 20) | ((times >= 21) & (times < 33))
    wanted = np.nanstd(rec.responses.values[train].astype(np.float64), axis=0)
    wanted[3] = 1.0
    got = store.recording("m1-s1")
    assert np.allclose(got.response_scale, wanted, rtol=1e-12)
    assert "1 neurons without variance in the training tier (scale 1)" in store.summary("m1-s1")["missing"]
    eye = rec.behavior["eye"].values.astype(np.float64)
    t = -1 + np.arange(900) / 20
    chosen = ((t >= 0) & (t < 20)) | ((t >= 21) & (t < 33))
    assert got.behavior_mean["pupil_x"] == pytest.approx(np.nanmean(eye[chosen, 0]), rel=1e-9)
    assert got.behavior_scale["pupil_y"] == pytest.approx(np.nanstd(eye[chosen, 1]), rel=1e-9)


def test_test_trials_do_not_touch_the_statistics(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    rec = make()
    store.add(rec)
    rec.responses.values[-100:] *= 50  # the last 6.7 s are of tier test
    store.add(dataclasses.replace(rec, key="m1-s2"))
    first, second = (store.recording(key).response_scale for key in store.keys)
    assert np.array_equal(first, second)


def test_given_scales_are_kept(tmp_path: Path) -> None:
    rec = make(response_scale=np.full(12, 7.0), behavior_mean={"running": 1.0}, behavior_scale={"running": 2.0})
    store = Store.create(tmp_path / "s")
    store.add(rec)
    got = store.recording("m1-s1")
    assert np.all(got.response_scale == 7)
    assert (got.behavior_mean["running"], got.behavior_scale["running"]) == (1.0, 2.0)
    assert set(got.behavior_mean) == {"running", "pupil_x", "pupil_y"}


def test_summary_and_stimuli(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    other = make("m2-s1", seed=1)
    same_frames = dataclasses.replace(make().screen, frames=make().screen.frames.astype(np.float32))
    store.add(dataclasses.replace(other, screen=same_frames))
    store.add(make("m3-s1", seed=2, screen=None, behavior={}))
    s = store.summary("m1-s1")
    assert (s["animal"], s["n_neurons"], s["response_rate"], s["original_rate"]) == ("m1", 12, 15.0, 8.0)
    assert s["hours"] == pytest.approx(41 / 3600)
    assert s["trials"] == {"train": 16, "test": 4}
    assert s["tier_hours"]["test"] == pytest.approx(8 / 3600)
    assert s["unique_stimulus_hours"] == pytest.approx(10 / 3600)
    assert s["nan_fraction"]["pupil_x"] == pytest.approx(40 / 900)
    assert s["ceiling"] == {"stimulus": 0.4}
    assert {"no screen", "no behavior"} <= set(store.summary("m3-s1")["missing"])
    contents = store.trial_contents("m1-s1")
    assert len(set(contents)) == 5
    assert np.array_equal(contents[:5], contents[5:10])
    assert np.array_equal(contents, store.trial_contents("m2-s1"))  # float32 frames of the same grey levels
    assert store.unique_stimulus_hours(["m1-s1", "m2-s1"]) == pytest.approx(10 / 3600)


def test_inspect_lists_every_session(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    store.add(make("m1-s2", seed=1, screen=None))
    rows = inspection.inspect(tmp_path / "s")
    assert [row.session for row in rows] == ["m1-s1", "m1-s2"]
    assert inspection.totals(rows)["animals"] == 1
    text = inspection.render(store, width=160)
    assert "m1-s2" in text
    assert "no screen" in text
    assert "2 sessions of 1 animals, 24 neurons" in text
    assert json.loads(inspection.as_json(tmp_path / "s"))["totals"]["neurons"] == 24


def test_what_fails_while_it_is_written_leaves_no_trace(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    before = snapshot(tmp_path / "s")

    class Broken:
        shape, dtype = (50, 4, 6), np.dtype(np.uint8)

        def __getitem__(self, rows: slice) -> np.ndarray:
            raise OSError("disk gone")

    screen = dataclasses.replace(make().screen, frames=Broken())
    with pytest.raises(OSError, match="disk gone"):
        store.add(make("m2-s1", screen=screen))
    with pytest.raises(OSError, match="disk gone"):
        store.add(make("m1-s1", screen=screen), overwrite=True)
    assert snapshot(tmp_path / "s") == before


def test_overwrite_replaces_and_keeps_no_rest(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    with pytest.raises(UserError, match=r"session m1-s1: already in the store .*--overwrite"):
        store.add(make(seed=1))
    for seed in (1, 2):
        store.add(make(seed=seed, n=4), overwrite=True)
        assert np.array_equal(store.recording("m1-s1").responses.values[:], make(seed=seed, n=4).responses.values)
    assert len(list((tmp_path / "s" / "sessions").iterdir())) == 1
    assert Store.open(tmp_path / "s").keys == ("m1-s1",)


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    Store.create(tmp_path / "s")
    writers = [Store.open(tmp_path / "s") for _ in range(3)]
    jobs = [threading.Thread(target=w.add, args=(make(f"m{i}-s1"),)) for i, w in enumerate(writers)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert Store.open(tmp_path / "s").keys == ("m0-s1", "m1-s1", "m2-s1")


def test_open_handles_are_bounded_and_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "OPEN_SESSIONS", 2)
    store = Store.create(tmp_path / "s")
    for i in range(5):
        store.add(make(f"m{i}-s1", seed=i))
    recordings = [store.recording(key) for key in store.keys]
    times = np.arange(0, 2, 1 / 15)
    first = [read_responses(rec, times) for rec in recordings]
    assert len(store._held) == 2
    again = [read_responses(pickle.loads(pickle.dumps(rec)), times) for rec in recordings]
    assert np.array_equal(first, again)
    held = Handles(1)
    assert held.get("a", "x", lambda: 1) == held.get("a", "x", lambda: 2) == 1
    held.get("b", "x", lambda: 0)
    assert held.get("a", "x", lambda: 2) == 2


def test_threads_read_alike(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    want = read_responses(make(), np.arange(0, 10, 1 / 15))
    got: list[np.ndarray] = []
    jobs = [
        threading.Thread(target=lambda: got.append(read_responses(store.recording("m1-s1"), np.arange(0, 10, 1 / 15))))
        for _ in range(6)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert len(got) == 6
    assert all(np.array_equal(g, want) for g in got)


def test_threads_read_alike_while_garbage_is_collected(tmp_path: Path) -> None:
    """Garbage that lets other threads run used to end in CPython's "AST constructor recursion depth mismatch"."""

    class Garbage:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            time.sleep(0)

    Store.create(tmp_path / "s").add(make())

    def read(_: int) -> int:
        for _ in range(10):
            Garbage()
            Store.open(tmp_path / "s").recording("m1-s1")
        return 1

    usual = gc.get_threshold()
    gc.set_threshold(20)
    try:
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(read, range(24))) == 24
    finally:
        gc.set_threshold(*usual)


def test_large_arrays_stream_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("omnimouse_jax.recordings.arrays.SHARD_BYTES", 2**16)
    values = np.random.default_rng([3]).normal(size=(615, 40)).astype(np.float32)
    seen: list[int] = []

    class Streamed:
        shape, dtype = values.shape, values.dtype

        def __getitem__(self, rows: slice) -> np.ndarray:
            seen.append(rows.stop - rows.start)
            return values[rows]

    signal = dataclasses.replace(make(n=40).responses, values=Streamed(), phase_shifts=None)
    store = Store.create(tmp_path / "s")
    store.add(make(n=40, responses=signal))
    assert max(seen) * 160 <= 2**16
    assert sum(seen) == 615
    assert np.array_equal(store.recording("m1-s1").responses.values[100:500], values[100:500])
    metadata = json.loads((folder_of(tmp_path / "s") / "responses/zarr.json").read_text())
    sharding = metadata["codecs"][0]
    assert sharding["name"] == "sharding_indexed"
    assert sharding["configuration"]["codecs"][-1]["name"] == "crc32c"


@pytest.mark.parametrize("rate", [2.0, 4.0, 7.98, 15.5, 29.97, 30.0, 100.0])
def test_windows_of_two_seconds_read_little_more_than_they_use(rate: float) -> None:
    rows = chunk_rows(rate, 8000 * 4)
    window = round(2 * rate)
    read = [rows * (-(-(first + window) // rows) - first // rows) for first in range(rows)]
    assert np.mean(read) <= 1.2 * window
    assert chunk_rows(rate, 8) * 8 >= 2**15  # where rows are small, a chunk is worth a request


@pytest.mark.parametrize("flags", [0, plain.CACHED_ONLY])
def test_plain_arrays_are_read_alike_from_memory_and_from_disk(
    flags: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("omnimouse_jax.recordings.arrays.SHARD_BYTES", 2**17)
    monkeypatch.setattr(plain, "CACHED_ONLY", flags)
    store = Store.create(tmp_path / "s")
    store.add(make(n=1001))  # 615 rows in chunks of 9, 11 shards
    store.add(make("m1-s2", n=1001), dtype="float16")
    wanted = make(n=1001).responses.values
    for key, dtype in (("m1-s1", np.float32), ("m1-s2", np.float16)):
        values = store.recording(key).responses.values
        assert isinstance(values._open(False), plain.PlainArray)
        for lo, hi in ((0, 615), (0, 1), (614, 615), (250, 310), (9, 18), (100, 615), (7, 7)):
            for _ in range(2):  # the index of a shard is kept
                assert np.array_equal(values[lo:hi], wanted[lo:hi].astype(dtype))


def test_damage_is_found_and_told(tmp_path: Path) -> None:
    Store.create(tmp_path / "s").add(make())
    shard = next(
        p for p in (folder_of(tmp_path / "s") / "responses").rglob("*") if p.is_file() and p.name != "zarr.json"
    )
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(
        UserError, match=r"session m1-s1: file .*responses: missing or damaged within rows 0 to .*--overwrite"
    ):
        read_responses(Store.open(tmp_path / "s").recording("m1-s1"), np.arange(0, 20, 0.1))
    (folder_of(tmp_path / "s") / "columns.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"session m1-s1: file .*columns.npz: damaged"):
        Store.open(tmp_path / "s").recording("m1-s1")
    (folder_of(tmp_path / "s") / "session.json").unlink()
    with pytest.raises(UserError, match=r"session m1-s1: file .*session.json: missing"):
        Store.open(tmp_path / "s").recording("m1-s1")


def test_what_is_not_a_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a store"):
        Store.open(tmp_path)
    (tmp_path / "photo.txt").write_text("hello")
    with pytest.raises(UserError, match="holds other things"):
        Store.create(tmp_path)
    (tmp_path / "photo.txt").unlink()
    Store.create(tmp_path)
    with pytest.raises(UserError, match="exists already"):
        Store.create(tmp_path, exist_ok=False)
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    with pytest.raises(UserError, match="written as version 99, this program reads version 2 - ingest again"):
        Store.open(tmp_path)
    with pytest.raises(UserError, match="version 99"):
        Store.create(tmp_path)
    manifest.write_text('{"format": "zarr", "version": 1}')
    with pytest.raises(UserError, match="format zarr"):
        Store.open(tmp_path)
    manifest.write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Store.open(tmp_path)
    with pytest.raises(UserError, match="not a location"):
        Store.open("wrong://x")
    with pytest.raises(UserError, match="session nobody: not in the store"):
        Store.create(tmp_path / "new").summary("nobody")
    store = Store.create(tmp_path / "new")
    for key in ("m1-s1", "m1-s2"):
        store.add(make(key, n=2))
    assert store.chosen(["m1-s2", "m1-s1"]) == ("m1-s2", "m1-s1")
    with pytest.raises(UserError, match="session m1-s2: named twice"):
        store.chosen(["m1-s2", "m1-s1", "m1-s2"])


@pytest.mark.parametrize("what", ["responses", "behavior.wheel", "screen"])
@pytest.mark.parametrize("sign", [1, -1])
def test_what_float32_cannot_hold_is_an_error(what: str, sign: int, tmp_path: Path) -> None:
    rec = make()
    part = {"responses": rec.responses, "behavior.wheel": rec.behavior["wheel"], "screen": rec.screen}[what]
    assert part is not None
    values = (part.frames if isinstance(part, Screen) else part.values).astype(np.float64)
    values[7] = sign * 1e300
    if isinstance(part, Screen):
        rec = dataclasses.replace(rec, screen=dataclasses.replace(part, frames=values))
    elif what == "responses":
        rec = dataclasses.replace(rec, responses=dataclasses.replace(part, values=values))
    else:
        rec = dataclasses.replace(rec, behavior={"wheel": dataclasses.replace(part, values=values)})
    store = Store.create(tmp_path / "s")
    for dtype in ("float32", "float16"):
        with pytest.raises(UserError, match=rf"session m1-s1: {what}: -?1e\+300 is more than float32 can hold"):
            store.add(rec, dtype=dtype)
    assert list(snapshot(tmp_path / "s")) == ["manifest.json"]
    values[7] = sign * 1e30
    store.add(rec)
    assert np.isfinite(store.recording("m1-s1").responses.values[:]).all()


def _late(rec: Recording) -> Recording:
    order = np.arange(20)
    order[[4, 5]] = [5, 4]
    columns = {f.name: getattr(rec.trials, f.name)[order] for f in dataclasses.fields(Trials)}
    return dataclasses.replace(rec, trials=Trials(**columns))


BROKEN = {
    "trials: start: not increasing at entry 5": _late,
    r"responses: no neurons \(0 columns\)": lambda r: dataclasses.replace(
        r, responses=Signal.continuous(np.zeros((600, 0)), 15.0, 0.0), neurons={}, truth=None
    ),
    "responses: rate": lambda r: dataclasses.replace(r, responses=dataclasses.replace(r.responses, rate=0.0)),
    "segment 1 starts before the one before it": lambda r: dataclasses.replace(
        r, responses=dataclasses.replace(r.responses, segment_start=np.array([0.0, 5.0]))
    ),
    "neurons: column unit_id has 3 rows for 12 neurons": lambda r: dataclasses.replace(
        r, neurons={"unit_id": np.arange(3)}
    ),
    "screen: times: not increasing": lambda r: dataclasses.replace(
        r, screen=dataclasses.replace(r.screen, times=r.screen.times[::-1].copy())
    ),
    r"screen: frame numbers 0\.\.99 for 50 frames": lambda r: dataclasses.replace(
        r, screen=dataclasses.replace(r.screen, frame=np.append(r.screen.frame[:-1], 99))
    ),
    "channel running given twice": lambda r: dataclasses.replace(
        r, behavior={**r.behavior, "again": dataclasses.replace(r.behavior["wheel"])}
    ),
    "behavior wheel: 1 columns but 0 channel names": lambda r: dataclasses.replace(
        r, behavior={"wheel": dataclasses.replace(r.behavior["wheel"], channels=None)}
    ),
    "no trial lies within the responses": lambda r: dataclasses.replace(
        r, responses=dataclasses.replace(r.responses, segment_start=r.responses.segment_start + 1e6)
    ),
    "response_scale": lambda r: dataclasses.replace(r, response_scale=np.zeros(12)),
    "the animal has no name": lambda r: dataclasses.replace(r, animal=" "),
}


@pytest.mark.parametrize("message", BROKEN)
def test_inconsistent_recordings_are_refused(message: str, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    before = snapshot(tmp_path / "s")
    with pytest.raises(UserError, match=message) as error:
        store.add(BROKEN[message](make("m9-s9")))
    assert "session m9-s9" in str(error.value)
    assert error.value.way_out
    assert "\n" not in str(error.value)
    assert snapshot(tmp_path / "s") == before


def test_odd_keys_stay_inside_the_store(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    for key in ("..", "a/b c", "x@y", "µ"):
        store.add(dataclasses.replace(make(n=2), key=key))
    assert set(Store.open(tmp_path / "s").keys) == {"..", "a/b c", "x@y", "µ"}
    assert {p.name for p in tmp_path.iterdir()} == {"s"}
    store.add(dataclasses.replace(make(n=3), key="x@y"), overwrite=True)
    assert store.recording("x@y").n_neurons == 3


def test_no_training_tier_is_noted_and_an_empty_pool_works(tmp_path: Path) -> None:
    rec = make()
    trials = dataclasses.replace(rec.trials, tier=np.full(20, "test"))
    grey = Screen(np.zeros((0, 4, 6), np.uint8), np.array([0.0]), np.array([-1]), np.array([90.0]), 41.0)
    store = Store.create(tmp_path / "s")
    store.add(dataclasses.replace(rec, trials=trials, screen=grey))
    assert {"no train trials", "scales computed from all samples"} <= set(store.summary("m1-s1")["missing"])
    got = store.recording("m1-s1")
    assert np.allclose(got.response_scale, rec.responses.values.astype(np.float64).std(axis=0))
    assert np.all(read_screen(got, np.array([1.0, 2.0])) == 90)
    assert isinstance(got.responses.values, Handle)
