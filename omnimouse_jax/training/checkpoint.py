"""One checkpoint holds everything that must survive: parameters, optimiser, step (= data position), vocabulary, config.

A checkpoint is a folder named after its step, of parts that can be read alone: `core`, `tables`, `adapters` where there are some,
`optimizer`, and `meta`. Orbax writes it in the background under another name and renames it when it is whole, so that a folder
with a number is complete; it restores on any number of devices. Reading ends in `Unreadable` for what was damaged since.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import traceback
import zlib
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from time import time as now
from typing import Any

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.training.disk import about_this_machine, told_plainly
from omnimouse_jax.training.fingerprint import fingerprints
from omnimouse_jax.training.parallel import path_of
from omnimouse_jax.training.retention import KEEP_TWO, Retention, Saved, best_of
from omnimouse_jax.training.step import ALL, Capacity, Trained, TrainState, abstract_state, state_shardings

Tree = Any

FOLDER = "checkpoints"
IMPORTED = "reference.npz"  # beside it, in a run that began with imported weights

#: Ends of names in the folder that are not checkpoints: a write or a removal that was cut off, and what could not be read.
WRITING, REMOVING, UNREADABLE = ".orbax-checkpoint-tmp", ".removing", ".unreadable"


class Unreadable(UserError):
    """A checkpoint that was damaged after it was written. `reason` is one line."""

    def __init__(self, folder: Path, step: int, error: BaseException | None):
        first = " ".join(str(error).split())[:200] if error is not None else ""
        self.reason = first or ("not readable in another process" if error is None else type(error).__name__)
        super().__init__(
            f"{folder / str(step)} cannot be read ({self.reason})",
            way_out="name another checkpoint; `train` on its run sets it aside and goes on from the one before",
        )


class Checkpoints:
    """The checkpoints of a run folder. Every process calls every method; only the first renames and removes."""

    def __init__(self, workdir: Path, retention: Retention = KEEP_TWO, read_only: bool = False):
        self.folder = Path(workdir).resolve() / FOLDER
        if read_only and not self.folder.is_dir():
            raise UserError(f"run {workdir}: no {FOLDER}/ folder", way_out="train it first, or name another run folder")
        _hush_orbax()
        self.retention = retention
        self._records: dict[int, dict[str, Any]] = {}
        self._writer: ocp.AsyncCheckpointer | None = None
        self._writing: int | None = None
        if not read_only:
            self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
            if jax.process_index() == 0:
                with told_plainly(self.folder, "made"):
                    self.folder.mkdir(parents=True, exist_ok=True)
                self._remove_leftovers()
            _barrier("checkpoints opened")

    def save(self, state: TrainState, meta: Mapping[str, Any], validation_loss: float | None) -> None:
        """Starts writing; returns as soon as the device arrays are copied. A step that is saved already is left alone.

        Raises the UserError of a write before this one that failed: then the disk is full, say.
        """
        assert self._writer is not None, "opened for reading"
        step = int(state.step)
        if any(step <= other for other in self.steps()):
            return
        self._trim()
        items = {**state.params, "optimizer": state.opt._asdict()}
        record = {
            "step": step,
            "time": now(),
            "validation_loss": None if validation_loss is None else float(validation_loss),
            "fingerprints": fingerprints(items),
            "meta": dict(meta),
        }
        args = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
        args["meta"] = ocp.args.JsonSave({"record": record, "check": _check(record)})
        self._writing = step
        with self._told_where_to_go_on():
            self._writer.save(self.folder / str(step), args=ocp.args.Composite(**args))

    def steps(self) -> list[int]:
        """The steps that are saved, smallest first. Waits for a write under way."""
        self._wait()
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the lowest validation loss, or the newest where none was measured."""
        found = best_of(self._saved())
        return self.latest() if found is None else found

    def step_named(self, name: str | int) -> int:
        """`best`, `latest` or a number -> a step that exists."""
        known = {"best": self.best, "latest": self.latest}
        found = known[str(name)]() if str(name) in known else int(name) if str(name).isdecimal() else None
        steps = self.steps()
        if found is None or found not in steps:
            told = ", ".join(map(str, steps)) or "none"
            raise UserError(
                f"{self.folder}: no checkpoint {name!r} (there are: {told})", way_out="name one of these, or `latest`"
            )
        return found

    def restore(self, step: int, target: TrainState) -> TrainState:
        """The state of `step`, placed like `target` (arrays or shapes with shardings).

        Raises UserError where `target` is of another model, Unreadable where the checkpoint was damaged.
        """
        read = self._read(step, {**target.params, "optimizer": target.opt._asdict()})
        opt = type(target.opt)(**read.pop("optimizer"))
        return TrainState(read, opt, _step_like(target.step, step))

    def restore_params(self, step: int, target: Tree) -> Tree:
        """The parameters of `step`, or those of its parts that `target` has; the optimiser's state is not read."""
        return self._read(step, target)

    def restore_core(self, step: int, target: Tree) -> Tree:
        """What all mice share; neither tables nor the optimiser's state are read."""
        return self._read(step, {"core": target})["core"]

    def meta(self, step: int) -> dict[str, Any]:
        """Vocabulary, config and what else was saved with `step`."""
        return self._record(step)["meta"]

    def set_aside(self, step: int) -> str:
        """Renames a checkpoint so that it is not one any more; nothing of it is lost. Returns its new name."""
        names = (f"{step}{UNREADABLE}{number or ''}" for number in range(1000))
        name = next(name for name in names if not (self.folder / name).exists())
        _barrier("one name for what is set aside")
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(self.folder / name)
        _barrier("set aside")
        self._records.pop(step, None)
        return name

    def close(self) -> None:
        """Waits for a write under way; raises as `save` does if it failed."""
        if self._writer is not None:
            self._wait()
            _barrier("checkpoints closing")  # a process may still be looking at what is about to go
            self._trim()
            self._writer.close()

    def _wait(self) -> None:
        if self._writer is not None and self._writing is not None:
            with self._told_where_to_go_on():
                self._writer.wait_until_finished()
            self._writing = None

    def _told_where_to_go_on(self) -> Any:
        steps = [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal()]
        before = f"from step {max(steps)}" if steps else "from the start"
        return told_plainly(
            self.folder, f"saved (step {self._writing})", f"run the same command again to go on {before}"
        )

    def _saved(self) -> list[Saved]:
        """What is known of each checkpoint; of one that cannot be read, only when its folder was made."""
        saved = []
        for step in self.steps():
            try:
                record = self._record(step)
                saved.append(Saved(step, record["time"], record["validation_loss"]))
            except UserError:
                with suppress(FileNotFoundError):  # another process has just removed it
                    saved.append(Saved(step, (self.folder / str(step)).stat().st_mtime, None))
        return saved

    def _trim(self) -> None:
        _barrier("all know what is saved")
        if jax.process_index() == 0:
            saved = self._saved()
            for step in {row.step for row in saved} - self.retention.kept(saved):
                # Renamed first: what is half removed must not look like a checkpoint.
                (self.folder / str(step)).rename(self.folder / f"{step}{REMOVING}")
                self._records.pop(step, None)
            for path in self.folder.glob(f"*{REMOVING}"):
                shutil.rmtree(path, ignore_errors=True)

    def _remove_leftovers(self) -> None:
        for path in self.folder.iterdir():
            if path.name.endswith((WRITING, REMOVING)):
                shutil.rmtree(path, ignore_errors=True)

    def _record(self, step: int) -> dict[str, Any]:
        """All of a checkpoint's `meta` part: what was saved with it, and what this class notes of it."""
        if step not in self._records:
            folder = self.folder / str(step)
            if (folder / "state").is_dir():
                raise UserError(
                    f"{folder}: saved by an older version of omnimouse_jax, whose checkpoints were one part",
                    way_out="use the version that saved it, or train the run anew",
                )
            try:
                read = ocp.JsonCheckpointHandler().restore(epath.Path(folder / "meta"))
                if _check(read["record"]) != read["check"]:
                    raise ValueError("meta is not what was saved")
            except Exception as error:
                if about_this_machine(error):
                    raise
                raise Unreadable(self.folder, step, error) from error
            self._records[step] = read["record"]
        return self._records[step]

    def _read(self, step: int, targets: Mapping[str, Tree]) -> dict[str, Tree]:
        """Parts by name, each like its target. No process waits for another while it reads, so that one may fail alone."""
        saved = self._record(step)["fingerprints"]
        folder = self.folder / str(step)
        if lacking := sorted(targets.keys() - saved.keys()):
            raise UserError(f"{folder}: has no {lacking[0]}", way_out=f"it has {', '.join(sorted(saved))}")
        read: dict[str, Tree] = {}
        failed: Exception | None = None
        try:
            for name, target in targets.items():
                read[name] = _restored(epath.Path(folder / name), target)
        except UserError:
            raise
        except Exception as error:
            if about_this_machine(error):
                raise
            failed = error
        if _anywhere(failed is not None):
            raise Unreadable(self.folder, step, failed) from failed
        other = [name for name, number in fingerprints(read).items() if number != saved[name]]
        if other:
            raise Unreadable(self.folder, step, ValueError(f"{other[0]} is not what was saved"))
        return read


def restore_target(config: ModelConfig, capacity: Capacity, mesh: Mesh, trained: Trained = ALL) -> TrainState:
    """What a checkpoint of this model restores into on this mesh: shapes with shardings, nothing allocated."""
    return jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        abstract_state(config, capacity, trained),
        state_shardings(config, capacity, mesh, trained),
    )


def _restored(folder: epath.Path, target: Tree) -> Tree:
    """One part, placed like `target`. UserError where it has other arrays."""
    handler = ocp.StandardCheckpointHandler()
    found = _shapes(handler.metadata(folder).tree)
    asked = _shapes(target)
    if found != asked:
        path = min(name for name in found.keys() | asked.keys() if found.get(name) != asked.get(name))
        raise UserError(
            f"{folder}: of another model: {path} is {_told(found.get(path))} there and {_told(asked.get(path))} here",
            way_out="use the config and the sessions that it was trained with",
        )
    return handler.restore(folder, args=ocp.args.StandardRestore(target))


def _shapes(tree: Tree) -> dict[str, tuple[tuple[int, ...], str]]:
    return {
        path_of(keys): (tuple(leaf.shape), str(np.dtype(leaf.dtype)))
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _told(shape: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if shape is None else f"{shape[1]} of shape {shape[0]}"


def _step_like(like: Any, step: int) -> Any:
    """The step as a () int32 array, placed like another."""
    sharding = getattr(like, "sharding", None)
    if sharding is None:
        return jnp.int32(step)
    return jax.make_array_from_callback((), sharding, lambda _: np.int32(step))


def _check(record: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(record, sort_keys=True).encode())


def _anywhere(here: bool) -> bool:
    """Whether it is so in any process."""
    if jax.process_count() == 1:
        return here
    return bool(np.any(multihost_utils.process_allgather(np.array(here))))


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@cache
def _hush_orbax() -> None:
    """It logs with a traceback what it raises as well; and arrays are read and written together, so that one which fails makes
    those beside it complain later, a page each, that nobody waits for them.
    """
    absl.logging.set_verbosity(absl.logging.ERROR)
    absl.logging.get_absl_logger().addFilter(lambda record: "orbax" not in record.pathname)

    def waited_for(record: logging.LogRecord) -> bool:
        text = record.getMessage() + "".join(traceback.format_exception(*(record.exc_info or (None, None, None))))
        return not ("never retrieved" in text and "orbax" in text)

    logging.getLogger("asyncio").addFilter(waited_for)
    hook = sys.unraisablehook

    def told(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        cut_off = code is not None and "orbax" in code.co_filename
        if not cut_off and str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = told
