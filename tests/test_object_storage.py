"""The same store in object storage: an S3 server on this machine, and Google's protocol where its emulator is installed."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings import kvstore
from omnimouse_jax.recordings.kvstore import Damaged, Place
from omnimouse_jax.recordings.session import Recording, Signal, Trials
from omnimouse_jax.recordings.store import Store
from omnimouse_jax.tokens import regimes
from omnimouse_jax.tokens.classes import Plan
from omnimouse_jax.tokens.grid import Grid
from omnimouse_jax.tokens.pipeline import Cutter, TrainingBatches, slots_for
from omnimouse_jax.tokens.vocabulary import Vocabulary
from omnimouse_jax.tokens.windows import WindowIndex

SECRET = "no-one-may-read-this-word"
KEY_ID = "AKIDTHATISNOTTOLD"
CONFIG = str(Path(__file__).resolve().parents[1] / "configs" / "tiny.py")


class Requests(logging.Handler):
    """What the server was asked, line by line."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(re.sub(r"\x1b\[\d*m", "", record.getMessage()))


@pytest.fixture(scope="module")
def server() -> Iterator[Requests]:
    """An S3 server with a bucket `mice`, and the environment that leads there."""
    pytest.importorskip("moto.server", reason="moto[server,s3] is not installed")
    import boto3
    from moto.server import ThreadedMotoServer

    log, requests = logging.getLogger("werkzeug"), Requests()
    log.addHandler(requests)
    log.setLevel(logging.INFO)
    log.propagate = False
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY_ID)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_REGION", raising=False)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="mice")
        yield requests
    running.stop()


def make(key: str = "m1-s1", seed: int = 0, n: int = 900) -> Recording:
    """20 s of `n` neurons at 30 Hz: 2.2 MB, half of it train."""
    values = np.random.default_rng([seed]).gamma(1.0, 1.0, (600, n)).astype(np.float32)
    start = np.arange(10) * 2.0
    tier = np.repeat(["train", "test"], 5)
    trials = Trials(start, start + 2, tier, np.full(10, "blank"), np.full(10, ""), np.ones(10, bool))
    return Recording(key, "m1", Signal.continuous(values, 30.0, 0.0), trials)


@pytest.mark.usefixtures("server")
def test_everything_that_a_store_does() -> None:
    store = Store.create("s3://mice/all/of/it")
    with pytest.raises(UserError, match=r"store s3://mice/all/of/it/?: exists already"):
        Store.create("s3://mice/all/of/it", exist_ok=False)
    store.add(make())
    store.add(make("m1-s2", seed=1), dtype="float16")
    with pytest.raises(UserError, match="already in the store s3://mice"):
        store.add(make())
    store.add(make(seed=2), overwrite=True)
    again = pickle.loads(pickle.dumps(Store.open("s3://mice/all/of/it/")))
    assert again.keys == ("m1-s1", "m1-s2")
    assert np.array_equal(again.recording("m1-s1").responses.values[:], make(seed=2).responses.values)
    assert np.allclose(
        again.recording("m1-s2").responses.values[77:99], make(seed=1).responses.values[77:99], rtol=5e-4
    )
    assert again.trial_contents("m1-s1").tolist() == [""] * 10
    left = {key.decode().split("/")[1] for key in Place("s3://mice/all/of/it").kv.list().result() if b"/" in key}
    assert sorted(folder.partition("@")[0] for folder in left) == ["m1-s1", "m1-s2"]
    assert store.leftovers() == []
    Place("s3://mice/all/of/it").delete_all()
    with pytest.raises(UserError, match="not a store"):
        Store.open("s3://mice/all/of/it")


@pytest.mark.usefixtures("server")
def test_writers_at_the_same_time_lose_nothing() -> None:
    Store.create("s3://mice/shared")
    writers = [Store.open("s3://mice/shared") for _ in range(4)]
    jobs = [threading.Thread(target=w.add, args=(make(f"m{i}-s1", n=3),)) for i, w in enumerate(writers)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert Store.open("s3://mice/shared").keys == tuple(f"m{i}-s1" for i in range(4))


def test_a_window_is_one_request_once_the_array_is_known(server: Requests) -> None:
    Store.create("s3://mice/count").add(make(n=8000))
    values = Store.open("s3://mice/count").recording("m1-s1").responses.values
    first = len(server.lines)
    values[100:160]
    known = len(server.lines)
    assert known - first <= 3  # description, index of the shard, window
    for lo in (5, 203, 311, 540):
        values[lo : lo + 60]
    assert [line for line in server.lines[known:] if "GET" in line and " 206 " in line] == server.lines[known:]
    assert len(server.lines) - known == 4


@pytest.mark.usefixtures("server")
def test_batches_from_a_bucket_are_those_from_a_folder(colony: str) -> None:
    here, there = Store.open(colony), Store.create("s3://mice/colony")
    for key in here.keys:
        there.add(here.recording(key))
    found = []
    for store in (here, Store.open("s3://mice/colony")):
        vocabulary = Vocabulary.of({key: store.summary(key) for key in store.keys})
        slots = slots_for(max(entry.n_neurons for entry in vocabulary.sessions), 8)
        cutter = Cutter(store, vocabulary, Grid(), ("running", "pupil_size"), (16, 32), slots)
        windows = WindowIndex.of(store, store.keys, ("train",), Grid(), 0.5)
        plan = Plan.exact(regimes.select(["tasks"]), Grid(), slots)
        batches = TrainingBatches(cutter, windows, plan, batch_size=4, seed=3)
        found.append([batches[step] for step in range(3)])
    for one, other in zip(*found, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def verb(*arguments: str) -> str:
    """Runs the command line in a process of its own and returns all that it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "omnimouse_jax.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_train_from_a_bucket(tmp_path: Path) -> None:
    told = verb("synthesize", "s3://mice/tiny", "--preset", "tiny")
    told += verb("inspect", "s3://mice/tiny")
    settings = ["--config.train.steps=3", "--config.train.validation_windows=8", "--config.train.log_every=1"]
    settings += ["--config.optimizer.warmup_steps=1", "--config.optimizer.anneal_steps=1"]
    told += verb(
        "train", "--config", CONFIG, "--store", "s3://mice/tiny", "--workdir", str(tmp_path / "run"), *settings
    )
    assert "s3://mice/tiny" in told
    written = b"".join(p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file())
    for word in (SECRET, KEY_ID):
        assert word not in told
        assert word.encode() not in written


def test_no_secret_is_ever_told(server: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store.create("s3://mice/quiet")
    store.add(make(n=3))
    told = [repr(store), store.name, repr(Place("s3://mice/quiet").full_spec()), *server.lines]
    told += [repr(vars(Place("s3://mice/quiet"))), pickle.dumps(store).decode("latin-1")]
    kv = Place("s3://mice/quiet").kv
    told += [repr(kv), *(bytes(kv.read(key).result().value).decode("latin-1") for key in kv.list().result())]
    for address in (f"s3://{KEY_ID}:{SECRET}@mice/quiet", "s3://no"):
        with pytest.raises(UserError) as error:
            Store.open(address)
        told.append(str(error.value))
    monkeypatch.setattr(kvstore, "ATTEMPTS", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{KEY_ID}:{SECRET}@127.0.0.1:1")
    with pytest.raises(UserError, match="AWS_ENDPOINT_URL holds a name or password") as error:
        Store.open("s3://mice/other")
    told.append(str(error.value))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(UserError, match=r"store s3://mice/other/?: manifest.json: failed .*Could not connect") as error:
        Store.open("s3://mice/other")
    told.append(str(error.value))
    assert not [line for line in told if SECRET in line or KEY_ID in line]


@contextlib.contextmanager
def broken_server(answer: bytes | None) -> Iterator[str]:
    """Something that listens and answers every request so, or not at all."""
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                one, _ = listening.accept()
                if answer is None:
                    stop.wait(20)
                else:
                    one.recv(2**16)
                    one.sendall(answer)
                one.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    stop.set()
    listening.close()


SLOW = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
DENIED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("answer", "told"),
    [(SLOW, "after 2 attempts .*HTTP 503"), (DENIED, r"failed \(.*HTTP 403"), (None, "after 2 attempts .*within 1 s")],
)
def test_a_server_in_trouble_is_told_within_a_bound(
    answer: bytes | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvstore, "ATTEMPTS", 2)
    monkeypatch.setattr(kvstore, "TIMEOUT_S", 3.0 if answer else 1.0)
    monkeypatch.setattr(kvstore, "PAUSE_S", 0.01)
    with broken_server(answer) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        began = time.monotonic()
        with pytest.raises(UserError, match=told):
            Store.open("s3://mice/trouble")
        assert time.monotonic() - began < 12


@pytest.mark.usefixtures("server")
def test_a_bucket_that_is_not_there_is_told() -> None:
    with pytest.raises(
        UserError, match=r"store s3://nobody/x/: manifest.json: cannot be written - does the bucket exist"
    ):
        Store.create("s3://nobody/x")


@pytest.mark.usefixtures("server")
def test_damage_in_a_bucket(server: Requests) -> None:
    store = Store.create("s3://mice/damaged")
    store.add(make())
    kv = Place("s3://mice/damaged").kv
    key = next(k for k in kv.list().result() if b"/responses/c/" in k)
    content = bytes(kv.read(key).result().value)
    values = store.recording("m1-s1").responses.values
    for damaged in (content[:-40], content[:2000] + bytes([content[2000] ^ 1]) + content[2001:], None):
        kv.write(key, damaged).result()
        with pytest.raises(Damaged, match=r"session m1-s1: file s3://mice/damaged/.*responses: missing or damaged"):
            Store.open("s3://mice/damaged").recording("m1-s1").responses.values[0:60]
    kv.write(key, content).result()
    assert np.array_equal(values[:], make().responses.values)


WRITER = """
import os, sys, threading, time
sys.path.insert(0, sys.argv[2])
from tests.test_object_storage import make
from omnimouse_jax.recordings import arrays
from omnimouse_jax.recordings.store import Store

begin = arrays._begin_write
def slowly(*given):
    print("writes", flush=True)
    finish = begin(*given)
    time.sleep(60)
    return finish
arrays._begin_write = slowly
Store.open(sys.argv[1]).add(make("m2-s1"))
"""


@pytest.mark.usefixtures("server")
def test_a_killed_writer_leaves_a_store_that_opens() -> None:
    store = Store.create("s3://mice/killed")
    store.add(make(n=3))
    root = str(Path(__file__).resolve().parents[1])
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, store.name, root], stdout=subprocess.PIPE, env={**os.environ}
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writes\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert Store.open(store.name).keys == ("m1-s1",)
    (left,) = Store.open(store.name).leftovers()
    assert left.folder.startswith("sessions/m2-s1@")
    assert left.hours is not None
    assert left.size is None
    Store.open(store.name).add(make("m2-s1"))
    assert Store.open(store.name).clean() == []  # it may be running still, as far as anybody knows
    assert [one.folder for one in Store.open(store.name).clean(hours=0.0)] == [left.folder]
    assert Store.open(store.name).leftovers() == []
    found = Store.open(store.name).recording("m2-s1")
    assert np.array_equal(found.responses.values[:], make().responses.values)


def test_google_cloud_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: TensorStore reads these two variables once."""
    pytest.importorskip("gcp_storage_emulator", reason="gcp-storage-emulator is not installed")
    from gcp_storage_emulator.server import create_server

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    running = create_server("127.0.0.1", port, in_memory=True, default_bucket="mice")
    running.start()
    try:
        monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("GOOGLE_AUTH_TOKEN_FOR_TESTING", SECRET)
        told = verb("synthesize", "gs://mice/tiny", "--preset", "tiny") + verb("inspect", "gs://mice/tiny")
        assert "store gs://mice/tiny" in told
        assert SECRET not in told
    finally:
        running.stop()
