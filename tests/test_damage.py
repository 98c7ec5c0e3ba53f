"""Damage never passes as data, what may pass is tried again within a bound, and both are named."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import kvstore
from omnimouse_jax.recordings.arrays import Handle
from omnimouse_jax.recordings.kvstore import Damaged, reason, settle
from omnimouse_jax.recordings.plain import checksum
from omnimouse_jax.recordings.session import Recording, Signal, Trials
from omnimouse_jax.recordings.store import Store
from tests.test_store import folder_of

N, ROWS = 400, 600  # 20 s at 30 Hz: 30 chunks of 20 rows


def make(missing: slice = slice(0, 0), key: str = "m1-s1", top: float = 1.0, held: int = 1) -> Recording:
    """20 s of noise of 400 neurons at 30 Hz, each row `held` times, `missing` rows NaN."""
    values = np.random.default_rng([5]).gamma(1.0, 1.0, (ROWS // held, N)).astype(np.float32).repeat(held, axis=0)
    values[7, 3] *= top
    values[missing] = np.nan
    trials = Trials(
        np.arange(10) * 2.0,
        np.arange(10) * 2.0 + 2,
        *(np.full(10, s) for s in ("train", "blank", "")),
        np.ones(10, bool),
    )
    return Recording(key, "m1", Signal.continuous(values, 30.0, 0.0), trials)


@pytest.fixture(scope="module", params=[1, 4], ids=["plain", "zstd"])
def held(request: pytest.FixtureRequest) -> int:
    """Rows that repeat are stored compressed, others are not."""
    return request.param


@pytest.fixture(scope="module")
def kept(held: int, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose rows 100 to 299 are all NaN: whole chunks of nothing."""
    folder = tmp_path_factory.mktemp("kept") / "s"
    Store.create(folder).add(make(slice(100, 300), held=held))
    return folder


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(kept, tmp_path / "s"))


def shard(store: Path) -> Path:
    return next(p for p in (folder_of(store) / "responses/c").rglob("*") if p.is_file())


def responses(store: Path) -> Any:
    return Store.open(store).recording("m1-s1").responses.values


def test_rows_of_nothing_but_nan_are_data(store: Path, held: int) -> None:
    wanted = make(slice(100, 300), held=held).responses.values
    assert np.array_equal(responses(store)[:], wanted, equal_nan=True)
    shard(store).unlink()
    for rows in (slice(0, 20), slice(120, 140)):
        with pytest.raises(Damaged, match=r"session m1-s1: .*responses: missing or damaged within rows .*--overwrite"):
            responses(store)[rows]


def test_an_array_of_nothing_but_nan_is_written_too(tmp_path: Path) -> None:
    Store.create(tmp_path / "s").add(make(slice(0, ROWS)))
    assert np.isnan(responses(tmp_path / "s")[:]).all()
    shard(tmp_path / "s").unlink()
    with pytest.raises(Damaged):
        responses(tmp_path / "s")[0:1]


@pytest.mark.parametrize("length", [0, 10, 1000, 0.5, -1, -500])
def test_cut_files_are_damage(length: float, store: Path) -> None:
    path = shard(store)
    content = path.read_bytes()
    path.write_bytes(content[: int(length * len(content)) if 0 < length < 1 else int(length)])
    with pytest.raises(Damaged) as error:
        responses(store)[30:90]
    told = error.value
    assert (told.session, told.array, told.lo, told.hi) == ("m1-s1", "responses", 30, 90)
    again = pickle.loads(pickle.dumps(told))
    assert (str(again), again.array, again.hi) == (str(told), "responses", 90)


def test_no_changed_bit_passes_as_data(store: Path, held: int) -> None:
    """Frame headers bit by bit, then bytes all over the file, the index included."""
    path, wanted = shard(store), make(slice(100, 300), held=held).responses.values
    content = path.read_bytes()
    rng = np.random.default_rng([1])
    places = [(at, 1 << bit) for at in range(12) for bit in range(8)]
    places += [(int(at), int(rng.integers(1, 256))) for at in rng.integers(0, len(content), 60)]
    places += [(int(at), 1) for at in range(len(content) - 60, len(content), 7)]
    found = 0
    for at, flip in places:
        changed = bytearray(content)
        changed[at] ^= flip
        path.write_bytes(changed)
        try:
            assert np.array_equal(responses(store)[:], wanted, equal_nan=True), f"byte {at} ^ {flip}"
        except Damaged:
            found += 1
    assert found > 0.9 * len(places)  # the others are bits that a zstd frame does not use


def test_a_chunk_that_the_index_does_not_know_is_damage(store: Path) -> None:
    path = shard(store)
    content = bytearray(path.read_bytes())
    size = 16 * Store.open(store)._details("m1-s1")["signals"]["responses"]["layout"]["shard_chunks"] + 4
    content[-size : -size + 16] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(Damaged):
        responses(store)[0:5]


def test_a_lost_description_is_damage(tmp_path: Path) -> None:
    Store.create(tmp_path / "s").add(make(held=4))
    (folder_of(tmp_path / "s") / "responses/zarr.json").unlink()
    with pytest.raises(Damaged, match="does not exist"):
        responses(tmp_path / "s")[0:60]


def test_what_plain_reading_doubts_the_checksum_of_the_codec_decides(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s")
    store.add(make())
    values = store.recording("m1-s1").responses.values
    store._sums("m1-s1", "responses")[2] ^= 1
    assert np.array_equal(values[30:90], make().responses.values[30:90])


@pytest.mark.parametrize("shape", [(7, 3), (10, 8000), (1, 1), (13, 5, 7)])
def test_a_sum_tells_bytes_and_their_order(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng([2])
    rows = rng.integers(0, 256, shape).astype(np.uint8)
    first = checksum(rows)
    assert first == checksum(rows.copy())
    for at in rng.integers(0, rows.size, 50):
        changed = rows.copy()
        changed.reshape(-1)[at] ^= 1 << int(at) % 8
        assert checksum(changed) != first
    if rows.size > 1000:
        assert checksum(np.roll(rows.reshape(-1), 8).reshape(shape)) != first


@pytest.mark.parametrize("name", ["session.json", "columns.npz", "trials.npz", "neurons.npz"])
def test_damaged_columns_are_told(name: str, store: Path) -> None:
    path = folder_of(store) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 64
    path.write_bytes(content)
    opened = Store.open(store)
    asked = {"trials.npz": lambda: opened.trial_contents("m1-s1"), "neurons.npz": lambda: opened._neurons("m1-s1")}
    with pytest.raises(UserError, match=rf"session m1-s1: file .*{name}: damaged"):
        asked.get(name, lambda: opened.recording("m1-s1"))()


class Future:
    """An operation that fails as told, then gives its value."""

    def __init__(self, errors: list[Exception], value: Any = None):
        self.errors, self.value, self.asked = errors, value, 0

    def read(self) -> Future:
        return self

    def __getitem__(self, rows: slice) -> Future:
        return self

    def result(self, timeout: float | None = None) -> Any:
        self.asked += 1
        if self.errors:
            raise self.errors.pop(0)
        return self.value

    def cancel(self) -> None:
        pass


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvstore, "PAUSE_S", 0.001)


def handle(normal: Future, again: Future | None = None) -> Handle:
    found = {False: normal, True: again}
    return Handle(lambda past: found[past], (9, 2), np.dtype(np.float32), "m1-s1", "responses", "s3://b/s/responses")


PASSING = [
    ValueError("UNAVAILABLE: connection reset"),
    TimeoutError(),
    ValueError("ABORTED: All 3 retry attempts failed: SlowDown [http_response_code='503']"),
]


@pytest.mark.usefixtures("soon")
def test_what_may_pass_is_tried_again_within_a_bound() -> None:
    future = Future(list(PASSING), np.ones((3, 2)))
    assert handle(future)[2:5].shape == (3, 2)
    assert future.asked == 4
    future = Future(PASSING * 4)
    with pytest.raises(
        UserError, match=r"session m1-s1: file .*responses: rows 2 to 4 not read in 4 attempts \("
    ) as error:
        handle(future)[2:5]
    assert not isinstance(error.value, Damaged)
    assert future.asked == 4


@pytest.mark.usefixtures("soon")
def test_damage_is_read_once_more_past_the_caches() -> None:
    lost = ValueError("DATA_LOSS: Digest mismatch")
    good = Future([], np.ones((3, 2)))
    assert handle(Future([lost]), good)[2:5].sum() == 6
    first, second = Future([lost]), Future([lost])
    with pytest.raises(Damaged, match=r"rows 2 to 4 .*Digest mismatch"):
        handle(first, second)[2:5]
    assert (first.asked, second.asked) == (1, 1)


@pytest.mark.usefixtures("soon")
def test_what_is_refused_is_told_at_once() -> None:
    refused = ValueError(
        "ABORTED: All 3 retry attempts failed: denied for AKIA123 [http_response_code='403'] [key='AKIA123']"
    )
    future = Future([refused] * 9)
    with pytest.raises(UserError, match=r"not read \(.*HTTP 403\) - check") as error:
        handle(future)[0:1]
    assert future.asked == 1
    assert "[" not in str(error.value)
    assert reason(TimeoutError()) == "no answer within 30 s"
    with pytest.raises(ValueError, match="DATA_LOSS"):
        settle(lambda: Future([ValueError("DATA_LOSS: x")]))


def test_float16_loses_what_is_stated_and_no_more(tmp_path: Path) -> None:
    whole, half = (Store.create(tmp_path / dtype) for dtype in ("float32", "float16"))
    whole.add(make())
    half.add(make(), dtype="float16")
    exact, rounded = (s.recording("m1-s1") for s in (whole, half))
    values = rounded.responses.values[:]
    assert values.dtype == np.float16
    assert np.allclose(values, exact.responses.values[:], rtol=2.0**-11, atol=2.0**-25)
    assert np.array_equal(rounded.response_scale, exact.response_scale)  # of the source, not of what is left of it
    told = half.summary("m1-s1")
    assert (told["response_dtype"], told["response_loss"]) == ("float16", 2.0**-11)
    assert whole.summary("m1-s1")["response_loss"] == 0
    with pytest.raises(UserError, match=r"session m1-s2: responses: .*e\+.* is more than float16 can hold"):
        half.add(dataclasses.replace(make(top=1e7), key="m1-s2"), dtype="float16")
    assert half.keys == ("m1-s1",)
    with pytest.raises(UserError, match="responses as int8"):
        half.add(make(key="m1-s3"), dtype="int8")
