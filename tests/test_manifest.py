"""Writers of one session at a time: what is committed stays, each removes its own files only, and what is left is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import manifest as manifest_module
from omnimouse_jax.recordings import store as store_module
from omnimouse_jax.recordings.kvstore import Damaged, Place
from omnimouse_jax.recordings.manifest import Manifest
from omnimouse_jax.recordings.session import Recording
from omnimouse_jax.recordings.store import Store
from tests.test_object_storage import make as plainly


def make(key: str = "m1-s1", seed: int = 0) -> Recording:
    return plainly(key, seed, n=40)


class Interrupted:
    """Values of which something happens when they are read: in the middle of writing them."""

    def __init__(self, values: np.ndarray, event: Callable[[], None]):
        self.values, self.event = values, event
        self.shape, self.dtype = values.shape, values.dtype

    def __getitem__(self, rows: slice) -> np.ndarray:
        self.event()
        return self.values[rows]


def interrupted(rec: Recording, event: Callable[[], None]) -> Recording:
    signal = dataclasses.replace(rec.responses, values=Interrupted(np.asarray(rec.responses.values), event))
    return dataclasses.replace(rec, responses=signal)


@pytest.fixture(params=["folder", "memory"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(tmp_path / "s") if request.param == "folder" else f"memory://races/{tmp_path.parent.name}/{tmp_path.name}"
    )


def intact(where: str, seed: int, key: str = "m1-s1") -> bool:
    """Does the store hold the session of this seed, and nothing else?"""
    store = Store.open(where)
    rec = store.recording(key)
    assert rec.trials.start.shape == (10,)
    assert store.leftovers() == []
    return np.array_equal(rec.responses.values[:], make(seed=seed).responses.values)


def disk_full() -> None:
    raise OSError("disk full")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_writer_that_fails_leaves_what_another_committed_meanwhile(where: str, overwrite: bool) -> None:
    first, second = Store.create(where), Store.open(where)
    if overwrite:
        first.add(make(seed=3))
        second = Store.open(where)

    def other_commits_then_disk_full() -> None:
        first.add(make(seed=1), overwrite=overwrite)
        disk_full()

    with pytest.raises(OSError, match="disk full"):
        second.add(interrupted(make(seed=2), other_commits_then_disk_full), overwrite=overwrite)
    assert intact(where, seed=1)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_of_two_writers_of_a_session_the_first_to_commit_wins(where: str, overwrite: bool, dtype: str) -> None:
    first, second = Store.create(where), Store.open(where)
    if overwrite:
        first.add(make(seed=3))
        second = Store.open(where)
    late = interrupted(make(seed=2), lambda: first.add(make(seed=1), overwrite=overwrite))
    with pytest.raises(UserError, match="session m1-s1: was added by someone else meanwhile"):
        second.add(late, overwrite=overwrite, dtype=dtype)
    assert intact(where, seed=1)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_writer_that_opened_the_store_before_is_told_before_it_writes(where: str, overwrite: bool) -> None:
    first, second = Store.create(where), Store.open(where)
    first.add(make(seed=1))
    with pytest.raises(UserError, match="session m1-s1: was added by someone else meanwhile - reopen"):
        second.add(interrupted(make(seed=2), disk_full), overwrite=overwrite)
    assert intact(where, seed=1)


def test_many_writers_of_one_session_at_once(where: str) -> None:
    Store.create(where)
    told: list[str] = []
    barrier = threading.Barrier(5)

    def write(seed: int) -> None:
        store = Store.open(where)
        barrier.wait()
        with contextlib.suppress(UserError):
            store.add(make(seed=seed))
            told.append(str(seed))

    jobs = [threading.Thread(target=write, args=(seed,)) for seed in range(5)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    (winner,) = told
    assert intact(where, seed=int(winner))


def test_an_overwritten_session_is_kept_until_the_new_one_is_committed(where: str) -> None:
    store = Store.create(where)
    store.add(make(seed=1))
    reader, held = Store.open(where), Store.open(where).recording("m1-s1").responses.values
    held[0:5]
    wanted = make(seed=1).responses.values

    def still_there() -> None:
        assert np.array_equal(held[:], wanted)
        assert np.array_equal(Store.open(where).recording("m1-s1").responses.values[:], wanted)

    store.add(interrupted(make(seed=2), still_there), overwrite=True)
    assert intact(where, seed=2)
    with contextlib.suppress(Damaged):  # elsewhere than on a disk small chunks may be in the cache still
        assert np.array_equal(held[0:5], wanted[0:5])
        assert Place(where).local is None
    with pytest.raises(
        UserError, match=r"session m1-s1: .*session.json: missing - .*start again, if someone replaced it"
    ):
        reader.recording("m1-s1")


def test_a_store_that_learns_of_a_replaced_session_reads_the_new_one(where: str) -> None:
    store, other = Store.create(where), Store.open(where)
    store.add(make(seed=1))
    other = Store.open(where)
    other.recording("m1-s1").responses.values[0:5]
    store.add(make(seed=2), overwrite=True)
    other.add(make("m2-s1"))
    assert np.array_equal(other.recording("m1-s1").responses.values[:], make(seed=2).responses.values)


def kill(store: Store, rec: Recording, monkeypatch: pytest.MonkeyPatch, hours: float = 0.0) -> str:
    """A writer that dies `hours` ago, just before it commits; returns the folder that it leaves."""

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = {left.folder for left in store.leftovers()}
    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "commit", killed)
        patch.setattr(Manifest, "discard", lambda *_: None)  # nor can it clean up
        now = time.time() - hours * 3600
        patch.setattr(manifest_module.time, "time", lambda: now)
        with pytest.raises(KeyboardInterrupt):
            store.add(rec)
    (folder,) = {left.folder for left in store.leftovers()} - before
    return folder


def test_what_a_killed_writer_left_is_told_and_cleaned(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(where)
    store.add(make(seed=1))
    folder = kill(store, make("m2-s1"), monkeypatch, hours=30.0)
    young = kill(store, make("m3-s1"), monkeypatch, hours=3.0)
    assert Store.open(where).keys == ("m1-s1",)
    left = {one.folder: one for one in Store.open(where).leftovers()}
    assert set(left) == {folder, young}
    assert left[folder].hours == pytest.approx(30, abs=0.1)
    assert left[folder].files > 5
    if Place(where).local:
        sizes = [p.stat().st_size for p in (Path(where) / folder).rglob("*") if p.is_file()]
        assert (left[folder].files, left[folder].size) == (len(sizes), sum(sizes))
    assert [one.folder for one in store.clean()] == [folder]
    assert [one.folder for one in store.leftovers()] == [young]
    assert [one.folder for one in store.clean(hours=0.0)] == [young]
    assert "attempts" not in json.loads(Place(where).read("manifest.json") or b"")
    assert intact(where, seed=1)


def test_a_session_that_is_added_again_takes_its_old_leftovers_with_it(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.create(where)
    old, young, other = (
        kill(store, make(key), monkeypatch, hours) for key, hours in (("m1-s1", 30.0), ("m1-s1", 3.0), ("m1", 30.0))
    )
    store.add(make(seed=1))
    assert {one.folder for one in store.leftovers()} == {young, other}
    assert old not in {f"sessions/{k.decode().split('/')[1]}" for k in Place(where).kv.list().result() if b"/" in k}


def test_an_attempt_that_is_cleaned_away_is_told_and_leaves_nothing(where: str) -> None:
    store = Store.create(where)
    with pytest.raises(UserError, match=r"session m1-s1: its files were removed from the store .* - add it again"):
        store.add(interrupted(make(), lambda: Store.open(where).clean(hours=0.0) and None))
    assert Store.open(where).keys == ()
    assert Store.open(where).leftovers() == []
    store.add(make(seed=1))
    assert intact(where, seed=1)


def test_cleaning_never_touches_what_is_committed_while_it_looks(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The attempt is listed as a leftover, becomes a session, and only then is it to be discarded."""
    writer, cleaner = Store.create(where), Store.open(where)
    found: list[object] = []
    discard = Manifest.discard

    def after_the_commit(self: Manifest, folders: object) -> None:
        done.wait(30)
        discard(self, folders)  # type: ignore[arg-type]

    reached, done = threading.Event(), threading.Event()
    leftovers = Manifest.leftovers

    def looked(self: Manifest, hours: float) -> object:
        found.extend(leftovers(self, hours))
        reached.set()
        return list(found)

    monkeypatch.setattr(Manifest, "leftovers", looked)
    monkeypatch.setattr(Manifest, "discard", after_the_commit)
    cleaning = threading.Thread(target=cleaner.clean, args=(0.0,))

    def look() -> None:
        if not cleaning.ident:
            cleaning.start()
            reached.wait(30)

    writer.add(interrupted(make(seed=1), look))
    done.set()
    cleaning.join()
    monkeypatch.undo()
    assert len(found) == 1
    assert intact(where, seed=1)


def test_an_answer_that_got_lost_does_not_cost_the_session(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(where)
    commit = Manifest.commit

    def unanswered(*given: object) -> None:
        commit(*given)  # type: ignore[arg-type]
        raise UserError("store: failed after 4 attempts", way_out="check the network")

    monkeypatch.setattr(Manifest, "commit", unanswered)
    with pytest.raises(UserError, match="failed after 4 attempts"):
        store.add(make(seed=1))
    monkeypatch.undo()
    assert intact(where, seed=1)


def test_what_an_interrupted_removal_left_is_cleaned(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create(where)
    store.add(make(seed=1))
    monkeypatch.setattr(Place, "delete_all", lambda self: disk_full())
    with pytest.raises(OSError, match="disk full"):
        store.add(make(seed=2), overwrite=True)
    monkeypatch.undo()
    (left,) = Store.open(where).leftovers(hours=24.0)
    assert left.hours is None  # nobody can be writing to it
    assert Store.open(where).clean() == [left]
    assert intact(where, seed=2)


def test_stores_that_are_older_are_read_and_overwritten(tmp_path: Path) -> None:
    """Folders were called by the key alone."""
    store = Store.create(tmp_path / "s")
    store.add(make(seed=1))
    path = tmp_path / "s" / "manifest.json"
    told = json.loads(path.read_text())
    (tmp_path / "s" / told["sessions"]["m1-s1"]["folder"]).rename(tmp_path / "s/sessions/m1-s1")
    told["sessions"]["m1-s1"]["folder"] = "sessions/m1-s1"
    path.write_text(json.dumps(told))
    assert intact(str(tmp_path / "s"), seed=1)
    Store.open(tmp_path / "s").add(make(seed=2), overwrite=True)
    assert intact(str(tmp_path / "s"), seed=2)


def test_two_may_create_a_store_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one appears after the manifest was looked for and before the folder is."""
    holds = store_module._holds_others

    def other_was_here(folder: Path) -> bool:
        monkeypatch.undo()
        Store.create(folder).add(make(seed=1))
        return holds(folder)

    monkeypatch.setattr(store_module, "_holds_others", other_was_here)
    assert Store.create(tmp_path / "s").keys == ("m1-s1",)
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "manifest.json.__lock").touch()  # the other one is writing it
    assert Store.create(tmp_path / "half").keys == ()


def test_many_create_a_store_and_add_to_it_at_once(tmp_path: Path) -> None:
    for n in range(10):
        failed: list[Exception] = []
        barrier = threading.Barrier(4)

        def build(key: str, folder: Path = tmp_path / str(n), barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                store = Store.create(folder)
                store._manifest.change(lambda manifest: manifest["attempts"].update({key: 1}))
            except UserError as error:
                failed.append(error)  # noqa: B023

        jobs = [threading.Thread(target=build, args=(f"m{i}",)) for i in range(4)]
        for job in jobs:
            job.start()
        for job in jobs:
            job.join()
        assert not failed
        assert set(json.loads((tmp_path / str(n) / "manifest.json").read_text())["attempts"]) == {
            "m0",
            "m1",
            "m2",
            "m3",
        }
