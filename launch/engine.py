"""What an engine is: something that runs `omnimouse-jax sweep cell STUDY --run RUN_ID`, somewhere, once per cell."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

from launch.cell import ATTEMPTS, cell_folder
from omnimouse_jax.errors import UserError
from omnimouse_jax.files import write_atomically
from omnimouse_jax.scaling.plan import Plan

#: Name -> (module, class) of an engine.
ENGINES = {
    "local": ("launch.local", "Local"),
    "slurm": ("launch.slurm", "Slurm"),
    "sky": ("launch.sky", "Sky"),
    "gke": ("launch.gke", "Gke"),
}


class JobState(NamedTuple):
    """What an engine says of a job. `gone`: it is over, or the engine has forgotten it; `unknown`: it cannot be asked now."""

    state: Literal["queued", "running", "gone", "unknown"]
    cause: str = ""  # why it is gone, if the engine knows (`launch.causes`)
    told: str = ""  # in the engine's words


class Engine(Protocol):
    """Runs cells of one study. Made with the study and the engine's options; nothing happens before a method is called."""

    name: ClassVar[str]
    options_type: ClassVar[type]

    def __init__(self, study: Study, options: Any): ...

    def preview(self, run_ids: Sequence[str]) -> str:
        """Exactly what `submit` would hand over: commands and files."""

    def submit(self, run_ids: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Queues the cells, and yields each one with the engine's name of its job as soon as the engine has it.

        What was yielded is submitted, whatever happens to the rest. UserError with what is missing here.
        """

    def states(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        """run_id -> state, of run_id -> job."""

    def cancel(self, jobs: Mapping[str, str]) -> None:
        """Takes queued jobs back and tells running ones to save and stop."""


@dataclasses.dataclass(frozen=True)
class Study:
    """A study folder with its plan, and how its cells are to be run whatever the engine."""

    folder: Path
    plan: Plan
    attempts: int = ATTEMPTS
    store: str = ""  # where the workers find the recordings; empty: as planned

    @classmethod
    def open(cls, path: Path | str, attempts: int = ATTEMPTS, store: str = "") -> Study:
        """Of a study folder or its plan.json."""
        path = Path(path)
        return cls(path if path.is_dir() else path.parent, Plan.read(path), attempts, store)

    def run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / run_id

    def job_folder(self, run_id: str) -> Path:
        return cell_folder(self.folder, run_id)

    def command(self, run_id: str, folder: str = "", program: Sequence[str] = ("omnimouse-jax",)) -> list[str]:
        """The command line of a cell's worker; `folder` is the study's where the worker runs."""
        command = [*program, "sweep", "cell", folder or str(self.folder.resolve()), "--run", run_id]
        if self.attempts != ATTEMPTS:
            command += ["--attempts", str(self.attempts)]
        return [*command, "--store", self.store] if self.store else command


#: This installation's command line, for workers that share it.
HERE = (sys.executable, "-m", "omnimouse_jax.cli")


def engine(name: str, study: Study, settings: Mapping[str, Any]) -> Engine:
    """An engine with `settings`, field -> value, applied to its options."""
    kind = _kind(name)
    return kind(study, kind.options_type(**settings))


def options_help(name: str) -> str:
    """The options of an engine, one a line: name, what it is, its default."""
    lines = []
    for field in dataclasses.fields(_kind(name).options_type):
        shown = "" if field.default in ("", None, ()) else f" (default: {field.default})"
        lines.append(f"  {field.name:18s} {field.metadata['help']}{shown}")
    return "\n".join(lines)


def at_least_one(options: Any, *names: str) -> None:
    """UserError for an option among `names` that is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise UserError(f"launch: {name} is {getattr(options, name)}", way_out="1 or more")


def option(default: Any, about: str) -> Any:
    """A field of an engine's options."""
    return dataclasses.field(default=default, metadata={"help": about})


def settings_of(name: str, given: Iterable[str], file: Path | None = None) -> dict[str, Any]:
    """The options that `--set key=value` and a YAML file of them name, typed; flags win.

    UserError names the nearest option, or the type that it has.
    """
    raw: dict[str, Any] = dict(_from_yaml(file)) if file else {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--set {text!r} has no value", way_out="write --set key=value")
        raw[key] = value
    kind = _kind(name).options_type
    types_ = typing.get_type_hints(kind)
    known = {field.name for field in dataclasses.fields(kind)}
    for key in raw:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, 0.4)
            hint = f"did you mean {near[0]}?" if near else f"options: {', '.join(sorted(known))}"
            raise UserError(f"engine {name} has no option {key!r}", way_out=hint)
    return {key: _typed(f"engine {name}: option {key}", value, types_[key]) for key, value in raw.items()}


def _typed(what: str, value: Any, kind: Any) -> Any:
    """A value of a flag (text) or of a YAML file as an option's type."""
    if isinstance(kind, types.UnionType):
        kind = next(part for part in kind.__args__ if part is not type(None))
        if value in (None, "", "none"):
            return None
    origin = typing.get_origin(kind)
    try:
        if origin is tuple:
            return (
                tuple(str(part) for part in value)
                if isinstance(value, list)
                else tuple(filter(None, str(value).split(",")))
            )
        if kind is bool:
            return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[str(value).lower()]
        return kind(str(value))
    except (ValueError, KeyError):
        raise UserError(f"{what} is {value!r}", way_out=f"give {getattr(kind, '__name__', kind)}") from None


def _from_yaml(file: Path) -> Mapping[str, Any]:
    import yaml

    try:
        values = yaml.load(file.read_text(), yaml.BaseLoader)  # text, as on a command line: 2:00:00 is no number
    except FileNotFoundError:
        raise UserError(f"options {file}: no such file", way_out="name a YAML file of key: value") from None
    except yaml.YAMLError as problem:
        told = " ".join(str(problem).split())
        raise UserError(f"options {file}: not YAML ({told})", way_out="write key: value, one a line") from None
    if not isinstance(values, Mapping):
        raise UserError(f"options {file}: not a table", way_out="write key: value, one a line")
    return values


def _kind(name: str) -> Any:
    module, attribute = ENGINES[name]
    return getattr(importlib.import_module(module), attribute)


class Job(NamedTuple):
    """Where a cell was submitted: `launch/RUN_ID/job.json` of its study."""

    engine: str
    job: str
    submitted: str
    settings: Mapping[str, Any]
    attempts: int = ATTEMPTS
    store: str = ""


def write_job(study: Study, run_id: str, job: Job) -> None:
    write_atomically(study.job_folder(run_id) / "job.json", json.dumps(job._asdict(), indent=1) + "\n")


def read_job(study: Study, run_id: str) -> Job | None:
    """None if the cell was never submitted."""
    try:
        return Job(**json.loads((study.job_folder(run_id) / "job.json").read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as problem:
        raise UserError(
            f"{study.job_folder(run_id) / 'job.json'}: {problem}", way_out="remove it; the cell counts as not submitted"
        ) from None


def forget_job(study: Study, run_id: str) -> None:
    (study.job_folder(run_id) / "job.json").unlink(missing_ok=True)
