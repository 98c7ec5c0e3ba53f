"""One checkpoint holds everything, on any mesh; what is damaged, full or cut off is told and costs one checkpoint at most."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from omnimouse_jax.errors import UserError
from omnimouse_jax.training import checkpoint
from omnimouse_jax.training.checkpoint import Checkpoints, Unreadable
from omnimouse_jax.training.fingerprint import fingerprints
from omnimouse_jax.training.optim import OptState
from omnimouse_jax.training.retention import Retention, Saved, best_of
from omnimouse_jax.training.step import TrainState
from tests.processes import free_port

META = {"config": {"seed": 3, "regimes": ["a", "b"]}, "vocabulary": [{"key": "one", "first_row": 0}]}


def mesh_of(data: int, fsdp: int, tensor: int) -> Mesh:
    return Mesh(np.array(jax.devices()[: data * fsdp * tensor]).reshape(data, fsdp, tensor), ("data", "fsdp", "tensor"))


def a_state(step: int = 7, rows: int = 1024) -> TrainState:
    """A small state with leaves of every kind that training has, in host memory."""
    rng = np.random.default_rng(step)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32)

    def tree() -> dict[str, Any]:
        core = {"tower": {"kernel": drawn(4, 16, 8), "bias": drawn(8)}, "latent": drawn(3, 8)}
        pair = {"a": drawn(16, 2), "b": drawn(2, 8)}
        tables = {"neuron_embedding": drawn(rows, 8), "neuron_bias": drawn(rows), "animal_embedding": drawn(64, 8)}
        return {"core": core, "tables": tables, "adapters": {"tower/attention/q/kernel": pair}}

    steps = jax.tree.map(lambda x: np.int32(step), tree())
    steps["tables"] = {
        name: rng.integers(0, 99, len(table)).astype(np.int32) for name, table in tree()["tables"].items()
    }
    return TrainState(tree(), OptState(tree(), tree(), steps), np.int32(step))


def placed(state: Any, mesh: Mesh) -> Any:
    """On a mesh: tables by rows over all of it, matrices over two axes, everything else on every device."""

    def where(keys: tuple[Any, ...], x: np.ndarray) -> NamedSharding:
        if np.ndim(x) and len(x) % 64 == 0:
            return NamedSharding(mesh, P(mesh.axis_names))
        return NamedSharding(mesh, P(None, "fsdp", "tensor") if np.ndim(x) == 3 else P())

    return jax.tree_util.tree_map_with_path(lambda keys, x: jax.device_put(x, where(keys, x)), state)


def shapes(state: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def require_equal(one: Any, other: Any) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


ONE = mesh_of(1, 1, 1)
ALL = Retention(newest=99)


def saved_in(folder: Path, *steps: int, retention: Retention = ALL, losses: Any = ()) -> Checkpoints:
    saved = Checkpoints(folder, retention)
    for number, step in enumerate(steps):
        saved.save(placed(a_state(step), ONE), META, losses[number] if losses else None)
    saved.close()
    return saved


@pytest.fixture
def target() -> TrainState:
    return shapes(placed(a_state(), ONE))


def test_a_checkpoint_restores_on_other_devices_and_other_axes_bit_for_bit(tmp_path):
    state = a_state()
    meshes = [mesh_of(4, 2, 1), mesh_of(1, 1, 1), mesh_of(1, 2, 2), mesh_of(2, 2, 2)]
    folders = [tmp_path / str(number) for number in range(len(meshes))]
    saved = Checkpoints(folders[0])
    saved.save(placed(state, meshes[0]), META, None)
    saved.close()
    for before, folder, mesh in zip(folders, folders[1:], meshes[1:], strict=False):
        there = shapes(placed(state, mesh))
        restored = Checkpoints(before, read_only=True).restore(7, there)
        require_equal(restored, state)
        assert jax.tree.map(lambda x: x.sharding, restored) == jax.tree.map(lambda x: x.sharding, there)
        saved = Checkpoints(folder)
        saved.save(restored, META, None)
        saved.close()
    assert Checkpoints(folders[-1], read_only=True).meta(7) == META


def test_parts_restore_without_the_others(tmp_path, target):
    saved = saved_in(tmp_path, 7)
    folder = tmp_path / checkpoint.FOLDER / "7"
    shutil.rmtree(folder / "optimizer")
    require_equal(saved.restore_params(7, target.params), a_state().params)
    shutil.rmtree(folder / "tables")
    shutil.rmtree(folder / "adapters")
    require_equal(saved.restore_core(7, target.params["core"]), a_state().params["core"])
    with pytest.raises(Unreadable, match="7 cannot be read"):
        saved.restore(7, target)


def test_another_model_is_told_by_its_first_parameter_that_differs(tmp_path, target):
    saved = saved_in(tmp_path, 7)
    other = {**target.params, "core": dict(target.params["core"], latent=jnp.zeros((4, 8)))}
    with pytest.raises(
        UserError, match=r"core: of another model: latent is float32 of shape \(3, 8\) there and .*\(4, 8\) here"
    ):
        saved.restore_params(7, other)
    other["core"] = {"tower": target.params["core"]["tower"]}
    with pytest.raises(UserError, match=r"latent is float32 .* there and missing here"):
        saved.restore_params(7, other)
    with pytest.raises(UserError, match="has no adaptors - it has adapters, core, optimizer, tables"):
        saved.restore_params(7, {"adaptors": target.params["adapters"]})


def test_a_change_of_any_bit_changes_the_fingerprint_and_the_mesh_does_not():
    params = a_state().params
    number = fingerprints(params)
    assert fingerprints(placed(params, mesh_of(2, 2, 2))) == number
    rng = np.random.default_rng(0)
    flat = params["core"]["tower"]["kernel"].reshape(-1).view(np.uint32)
    for place in rng.integers(0, flat.size, 50):
        flat[place] ^= np.uint32(1 << rng.integers(0, 32))
        assert fingerprints(params)["core"] != number["core"]
        flat[:] = a_state().params["core"]["tower"]["kernel"].reshape(-1).view(np.uint32)
    assert fingerprints(params) == number
    table = params["tables"]["neuron_embedding"]
    table[[3, 5]] = table[[5, 3]]
    assert fingerprints(params)["tables"] != number["tables"]
    halves = {"x": np.arange(6, dtype=np.float16), "y": np.arange(6) > 2, "z": np.arange(3, dtype=np.float64)}
    assert fingerprints({"halves": halves}) != fingerprints({"halves": {**halves, "x": halves["x"][::-1].copy()}})


def minutes(*times: float, losses: Any = None) -> list[Saved]:
    return [Saved(10 * (n + 1), 60.0 * t, losses[n] if losses else None) for n, t in enumerate(times)]


@pytest.mark.parametrize(
    ("retention", "saved", "kept"),
    [
        (Retention(2), minutes(0, 1, 2, 3), {30, 40}),
        (Retention(1), minutes(0, 1, 2, 3, losses=[4.0, 1.0, 2.0, None]), {20, 40}),
        (Retention(1), minutes(0, 1, 2, 3, losses=[4.0, 1.0, 1.0, float("nan")]), {20, 40}),
        (Retention(1, every=20), minutes(0, 1, 2, 3, 4), {20, 40, 50}),
        (Retention(1, minutes=2), minutes(0, 1, 2, 3.9, 4.1, 10, 11), {10, 30, 50, 60, 70}),
        (
            Retention(1, every=30, minutes=5),
            minutes(0, 1, 2, 3, 9, 9.5, losses=[3, 2, 9, 1, 9, 9]),
            {10, 30, 40, 50, 60},
        ),
        (Retention(3), [], set()),
    ],
)
def test_exactly_these_steps_stay(retention, saved, kept):
    assert retention.kept(saved) == kept
    left: list[Saved] = []  # as a run sees them: one more at a time, after what was kept so far
    for row in saved:
        left = [*left, row]
        left = [old for old in left if old.step in retention.kept(left)]
    assert {row.step for row in left} == kept
    assert best_of(left) == best_of(saved)


def test_a_run_s_folder_has_exactly_the_steps_that_stay(tmp_path, monkeypatch, target):
    clock = iter(range(0, 10_000, 60))
    monkeypatch.setattr(checkpoint, "now", lambda: next(clock))
    losses = [5.0, 1.0, 4.0, 3.0, None, 2.0, 2.5, 2.7]
    retention = Retention(newest=2, every=4, minutes=5)
    saved = saved_in(tmp_path, *range(1, 9), retention=retention, losses=losses)
    assert saved.steps() == [1, 2, 4, 6, 7, 8]  # newest 7 and 8, best 2, every fourth 4 and 8, by minutes 1 and 6
    assert saved.best() == saved.step_named("best") == 2
    assert saved.step_named("latest") == 8
    assert sorted(path.name for path in saved.folder.iterdir()) == sorted(map(str, saved.steps()))
    with pytest.raises(UserError, match=r"no checkpoint '3' \(there are: 1, 2, 4, 6, 7, 8\)"):
        saved.step_named("3")
    require_equal(saved.restore(4, target), a_state(4))


def test_a_step_that_is_saved_is_left_alone(tmp_path, target):
    saved_in(tmp_path, 7)
    saved = Checkpoints(tmp_path)
    other = a_state(8)._replace(step=np.int32(7))
    saved.save(placed(other, ONE), META, None)
    saved.close()
    require_equal(saved.restore(7, target), a_state(7))


def damages(path: Path) -> dict[str, bytes | None]:
    """A file gone, cut off, empty, of zeros, and with one bit flipped somewhere in the middle."""
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    zeros = bytes(len(whole))
    return {"missing": None, "cut": whole[: len(whole) // 2], "empty": b"", "zeros": zeros, "flipped": bytes(flipped)}


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_whatever_file_is_damaged_a_checkpoint_is_whole_or_unreadable(tmp_path, target):
    """Each file of the core and of the meta in turn; the other parts are stored like the core."""
    saved_in(tmp_path, 7)
    folder = tmp_path / checkpoint.FOLDER / "7"
    whole = a_state().params["core"]
    found = set()
    for path in [path for part in ("core", "meta") for path in sorted((folder / part).rglob("*")) if path.is_file()]:
        kept = path.read_bytes()
        for how, content in damages(path).items():
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            saved = Checkpoints(tmp_path, read_only=True)
            try:
                restored, meta = saved.restore_core(7, target.params["core"]), saved.meta(7)
            except Unreadable:
                found.add(how)
            else:
                require_equal(restored, whole)
                assert meta == META
            path.write_bytes(kept)
    assert found == {"missing", "cut", "empty", "zeros", "flipped"}
    require_equal(Checkpoints(tmp_path, read_only=True).restore(7, target), a_state())


def test_what_cannot_be_read_does_not_stand_in_the_way_of_the_rest(tmp_path, target):
    saved_in(tmp_path, 1, 2, 3, losses=[1.0, 2.0, 3.0])
    (tmp_path / checkpoint.FOLDER / "2" / "meta" / "metadata").write_text("{")
    saved = Checkpoints(tmp_path, Retention(newest=1))
    assert saved.best() == 1
    with pytest.raises(Unreadable):
        saved.meta(2)
    assert saved.set_aside(2) == "2.unreadable"
    assert saved.steps() == [1, 3]
    for name in ("2.unreadable1", "2.unreadable2"):
        saved.folder.joinpath("2").mkdir()
        assert saved.set_aside(2) == name
    saved.save(placed(a_state(4), ONE), META, None)
    saved.close()
    assert sorted(path.name for path in saved.folder.iterdir()) == [
        "1",
        "2.unreadable",
        "2.unreadable1",
        "2.unreadable2",
        "4",
    ]


def test_what_a_killed_process_left_is_removed(tmp_path):
    saved = saved_in(tmp_path, 1)
    for name in ("2.orbax-checkpoint-tmp", "0.removing"):
        (saved.folder / name / "core").mkdir(parents=True)
    assert Checkpoints(tmp_path, read_only=True).steps() == [1]
    assert len(list(saved.folder.iterdir())) == 3
    assert Checkpoints(tmp_path).steps() == [1]
    assert len(list(saved.folder.iterdir())) == 1


def test_checkpoints_of_an_older_version_are_named_as_such(tmp_path):
    (tmp_path / checkpoint.FOLDER / "5" / "state").mkdir(parents=True)
    saved = Checkpoints(tmp_path, read_only=True)
    with pytest.raises(UserError, match="saved by an older version") as told:
        saved.meta(5)
    assert not isinstance(told.value, Unreadable)


FULL = (
    r"cannot be saved \(step 3\): the disk is full - free some space, run the same command again to go on from step 2"
)


def test_a_full_disk_is_told_and_harms_no_earlier_checkpoint(small_disk, target):
    saved = Checkpoints(small_disk, Retention(newest=1))
    for step in (1, 2):
        saved.save(placed(a_state(step), ONE), META, None)
    saved.save(placed(a_state(3, rows=65536), ONE), META, None)  # 10 MB, in the background
    with pytest.raises(UserError, match=FULL):
        saved.save(placed(a_state(4), ONE), META, None)
    assert Checkpoints(small_disk, read_only=True).steps()[-1] == 2
    require_equal(Checkpoints(small_disk, read_only=True).restore(2, target), a_state(2))
    again = Checkpoints(small_disk, Retention(newest=1))  # what was half written is gone: there is room
    again.save(placed(a_state(3), ONE), META, None)
    again.close()
    assert again.steps() == [3]


def test_a_full_disk_is_told_at_the_end_too_and_nothing_else(small_disk, caplog):
    saved = Checkpoints(small_disk)
    saved.save(placed(a_state(2), ONE), META, None)
    saved.save(placed(a_state(3, rows=65536), ONE), META, None)
    with pytest.raises(UserError, match=FULL):
        saved.close()
    gc.collect()
    assert caplog.text == ""


def test_a_file_that_may_not_grow_is_a_full_disk():
    """Without root: the limit of a process on the size of its files."""
    code = """
    import resource, tempfile, pathlib
    from tests import test_checkpoint as t
    folder = pathlib.Path(tempfile.mkdtemp())
    saved = t.Checkpoints(folder)
    saved.save(t.placed(t.a_state(2), t.ONE), t.META, None)
    saved.steps()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    saved.save(t.placed(t.a_state(3, rows=65536), t.ONE), t.META, None)
    try:
        saved.close()
    except t.UserError as error:
        print("told:", error)
    """
    done = python(code)
    assert "the disk is full - free some space, run the same command again to go on from step 2" in done.stdout
    assert done.stderr == ""


def python(code: str, **kwargs: Any) -> subprocess.CompletedProcess:
    """Runs code in a process of its own, at the repository's root."""
    root = Path(__file__).parents[1]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
        **kwargs,
    )


SAVES = """
import sys, pathlib
from tests import test_checkpoint as t
saved = t.Checkpoints(pathlib.Path(sys.argv[1]), t.Retention(newest=2))
for step in range(1, 1000):
    saved.save(t.placed(t.a_state(step, rows=65536), t.ONE), t.META, None)
    print(step, flush=True)
"""


def test_killed_while_it_saves_the_step_before_restores(tmp_path):
    rng = np.random.default_rng(1)
    for number in range(3):
        folder = tmp_path / str(number)
        process = subprocess.Popen(
            [sys.executable, "-c", SAVES, str(folder)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        begun = [int(process.stdout.readline()) for _ in range(4)][-1]
        time.sleep(rng.uniform(0, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        begun += len(process.stdout.read().split())
        process.wait()
        saved = Checkpoints(folder)
        steps = saved.steps()
        assert begun - 1 <= steps[-1] <= begun + 1
        require_equal(
            saved.restore(steps[-1], shapes(placed(a_state(1, rows=65536), ONE))), a_state(steps[-1], rows=65536)
        )
        saved.close()
        assert len(saved.steps()) == 2


TOGETHER = """
import pathlib, sys
import jax, numpy as np
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]))
from jax.sharding import Mesh
from tests import test_checkpoint as t
folder, mesh = pathlib.Path(sys.argv[3]), Mesh(np.array(jax.devices()).reshape(2, 2, 1), ("data", "fsdp", "tensor"))
saved = t.Checkpoints(folder, t.Retention(newest=2))
for step in (1, 2, 3):
    saved.save(t.placed(t.a_state(step), mesh), t.META, None)
assert saved.steps() == [1, 2, 3]
saved.close()
if jax.process_index() == 0:
    assert saved.steps() == [2, 3], saved.steps()
    rows = max((folder / "checkpoints" / "3" / "tables" / "ocdbt.process_1").rglob("*"), key=lambda p: p.stat().st_size)
    rows.write_bytes(rows.read_bytes()[:50])
jax.experimental.multihost_utils.sync_global_devices("damaged")
saved = t.Checkpoints(folder)
target = t.shapes(t.placed(t.a_state(1), mesh))
try:
    saved.restore(3, target)
except t.Unreadable as error:
    print("refused:", error.reason, flush=True)
    print("name:", saved.set_aside(3))
state = saved.restore(2, target)
for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(t.a_state(2)), strict=True):
    for shard in got.addressable_shards:
        np.testing.assert_array_equal(np.asarray(shard.data), want[shard.index])
saved.close()
print("restored", saved.steps())
"""


def test_two_processes_save_and_agree_on_what_can_be_read(tmp_path):
    """A file that only one of them reads is damaged: both go back to the step before."""
    port = free_port()
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    together = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, str(port), str(number), str(tmp_path)],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        told = [process.communicate(timeout=120) for process in together]
    finally:
        for process in together:
            process.kill()
    reasons = set()
    for process, (out, errors) in zip(together, told, strict=True):
        assert process.returncode == 0, errors
        assert "name: 3.unreadable" in out
        assert "restored [2]" in out
        reasons.add(out.partition("refused: ")[2].splitlines()[0])
    assert "not readable in another process" in reasons
    assert len(reasons) == 2
