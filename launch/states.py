"""What every cell of a study is doing now: what its worker last said, checked with the engine that has it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from launch import causes, status
from launch.cell import stop_file
from launch.engine import Engine, Job, JobState, Study, engine, forget_job, read_job, write_job
from launch.points import unscored
from launch.status import Status
from omnimouse_jax.errors import UserError
from omnimouse_jax.scaling.plan import Cell

QUEUED, MISSING = "queued", "missing"
#: In the order of a cell's life; `missing` were never submitted, or taken back.
STATES = (MISSING, QUEUED, status.RUNNING, status.INTERRUPTED, status.FAILED, status.DONE)
#: What a launch submits.
TO_LAUNCH = (MISSING, status.INTERRUPTED, status.FAILED)
#: A job that the engine has forgotten seconds after it was submitted: it is not there yet.
YOUNG_S = 30.0


@dataclasses.dataclass(frozen=True)
class CellState:
    """A cell and where it stands. `said` is its status.json; `job` where it was submitted last."""

    cell: Cell
    state: str
    said: Status
    job: Job | None
    told: str = ""  # what the engine adds

    @property
    def run_id(self) -> str:
        return self.cell.run_id

    @property
    def left_s(self) -> float | None:
        """Seconds that its steps will still take at the rate of now; evaluation is not in it."""
        if self.state != status.RUNNING or not self.said.rate or not self.said.total:
            return None
        return max(0.0, (self.said.total - self.said.step) / self.said.rate)


def look(study: Study) -> list[CellState]:
    """All cells, in the plan's order. Workers found dead are written down as failed, with the cause (`settle`)."""
    jobs = {cell.run_id: read_job(study, cell.run_id) for cell in study.plan.cells}
    said = {cell.run_id: status.read(study.run_folder(cell.run_id)) or Status("") for cell in study.plan.cells}
    done = {cell.run_id for cell in study.plan.cells if _is_done(study, cell, said[cell.run_id])}
    asked = _asked(study, {k: job for k, job in jobs.items() if job is not None and k not in done})
    return [
        _state(study, cell, said[cell.run_id], jobs[cell.run_id], asked.get(cell.run_id)) for cell in study.plan.cells
    ]


def settle(study: Path | str) -> None:
    """Writes down the cells of a study whose worker died without a word: failed, with the cause. For whoever collects a ledger."""
    path = Path(study)
    if (path / "plan.json").is_file():
        look(Study.open(path))


def _by_engine(study: Study, jobs: Mapping[str, Job]) -> Iterator[tuple[Engine, dict[str, str]]]:
    """Each engine with its jobs, run_id -> job: once per kind of settings."""
    groups: dict[str, list[str]] = {}
    for run_id, job in jobs.items():
        key = f"{job.engine} {sorted(job.settings.items())} {job.attempts} {job.store}"
        groups.setdefault(key, []).append(run_id)
    for members in groups.values():
        one = jobs[members[0]]
        settings = {key: tuple(value) if isinstance(value, list) else value for key, value in one.settings.items()}
        as_then = dataclasses.replace(study, attempts=one.attempts, store=one.store)
        yield engine(one.engine, as_then, settings), {run_id: jobs[run_id].job for run_id in members}


def _asked(study: Study, jobs: Mapping[str, Job]) -> dict[str, JobState]:
    """What the engines say of jobs."""
    found: dict[str, JobState] = {}
    for asked, members in _by_engine(study, jobs):
        try:
            found |= asked.states(members)
        except UserError as error:
            found |= dict.fromkeys(members, JobState("unknown", told=error.what))
    return found


def _state(study: Study, cell: Cell, said: Status, job: Job | None, asked: JobState | None) -> CellState:
    """The engine knows whether a job waits, runs or is over; the worker knows how far it is and how it ended."""
    state, said = _judged(study, cell, said, job, asked or JobState("unknown"))
    told = asked.told if asked else ""
    if state == status.DONE and not _is_done(study, cell, said):
        points = unscored(study.run_folder(cell.run_id), cell)
        state, told = status.INTERRUPTED, f"more points are planned, to anneal at {', '.join(map(str, points))}"
    return CellState(cell, state, said, job, told)


def _is_done(study: Study, cell: Cell, said: Status) -> bool:
    """Whether its worker was done with all that is planned now."""
    return said.state == status.DONE and not unscored(study.run_folder(cell.run_id), cell)


def _judged(study: Study, cell: Cell, said: Status, job: Job | None, asked: JobState) -> tuple[str, Status]:
    if _is_done(study, cell, said):
        return status.DONE, said
    unheard = job is not None and said.updated < job.submitted  # what it said is of an earlier attempt
    if asked.state == "queued":
        return QUEUED, said
    if asked.state == "running":
        if unheard or said.state != status.RUNNING:
            said = dataclasses.replace(said, phase="starting", rate=None)
        return status.RUNNING, said
    if unheard and job is not None:
        young = status.seconds_since(job.submitted) < YOUNG_S
        if asked.state == "unknown" or (young and not asked.cause):
            return QUEUED, said
        said = _written_down(study, cell, said, asked)
    elif said.state == status.RUNNING and (said.is_silent() or (asked.state == "gone" and _is_over(said, job))):
        said = _written_down(study, cell, said, asked)
    return said.state or MISSING, said


def _is_over(said: Status, job: Job | None) -> bool:
    """Whether the end of a job is news of this worker: it may be another engine's, or one begun by hand."""
    return job is not None and said.engine == job.engine and said.age() > 3 * status.HEARTBEAT_S


def _written_down(study: Study, cell: Cell, said: Status, asked: JobState) -> Status:
    """A worker that died without a word, in its status.json: interrupted if its engine stopped it, else failed."""
    cause = asked.cause or causes.LOST
    folder = study.run_folder(cell.run_id)
    now = status.read(folder)
    if now is not None and (now.updated != said.updated or now.is_alive_here()):
        return now  # it has spoken meanwhile, or another worker has the cell
    said = dataclasses.replace(said, config_hash=said.config_hash or cell.config_hash)
    if cause in causes.INTERRUPTIONS:
        ended = said.interrupted(cause)
    else:
        words = asked.told or f"no sign of life since {said.updated or 'it was submitted'}"
        where = f" on {said.host}" if said.host else ""
        ended = said.with_failure(cause, f"its worker{where} is gone: {words}")
    status.write(folder, ended)
    return ended


@contextlib.contextmanager
def alone(study: Study) -> Iterator[None]:
    """Holds a study, to look at its cells and submit or stop them: of two that do so at a time the second one waits.

    The system lets go of it when the process ends, however it ends.
    """
    path = study.folder / "launch" / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"study {study.folder}: waiting for another launch, retry or stop", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def submit(study: Study, name: str, settings: Mapping[str, object], run_ids: Sequence[str]) -> dict[str, str]:
    """Submits cells with an engine's settings, and notes where; returns run_id -> job."""
    like = Job(name, "", "", dict(settings), study.attempts, study.store)
    return _submit(study, engine(name, study, settings), dict.fromkeys(run_ids, like))


def resubmit(study: Study, cells: Iterable[CellState]) -> list[str]:
    """Submits cells as they were submitted last; returns which."""
    submitted: list[str] = []
    jobs = {cell.run_id: cell.job for cell in cells if cell.job is not None}
    for again, members in _by_engine(study, jobs):
        submitted += _submit(study, again, {run_id: jobs[run_id] for run_id in members})
    return submitted


def _submit(study: Study, to: Engine, like: Mapping[str, Job]) -> dict[str, str]:
    """Submits cells; each one's job file is like the given one, and is written as soon as the engine has the cell."""
    for run_id in like:
        stop_file(study.folder, run_id).unlink(missing_ok=True)
    moment = status.now()  # before: what a worker says from now on is news
    jobs = {}
    for run_id, job in to.submit(list(like)):
        write_job(study, run_id, like[run_id]._replace(job=job, submitted=moment))
        jobs[run_id] = job
    return jobs


def stop(study: Study, cells: Sequence[CellState]) -> list[str]:
    """Takes queued cells back and tells running ones to save and stop; returns which."""
    jobs = {cell.run_id: cell.job for cell in cells if cell.job is not None and cell.state in (QUEUED, status.RUNNING)}
    waiting = [cell.run_id for cell in cells if cell.run_id in jobs and cell.state == QUEUED]
    for run_id in jobs:
        stop_file(study.folder, run_id).touch()
    for asked, members in _by_engine(study, jobs):
        asked.cancel(members)
    for run_id in waiting:
        forget_job(study, run_id)
    return list(jobs)


def chosen(cells: Sequence[CellState], run_ids: Sequence[str]) -> list[CellState]:
    """The named cells; all if none is named. UserError for a name that is not in the plan."""
    known = {cell.run_id: cell for cell in cells}
    for run_id in run_ids:
        if run_id not in known:
            raise UserError(f"study has no cell {run_id}", way_out="`omnimouse-jax sweep status STUDY` lists them")
    return [known[run_id] for run_id in run_ids] if run_ids else list(cells)


def counts(cells: Iterable[CellState]) -> dict[str, int]:
    """State -> how many, in the order of a cell's life; states that no cell is in are left out."""
    found = Counter(cell.state for cell in cells)
    return {state: found[state] for state in STATES if found[state]}


def left_s(cells: Sequence[CellState]) -> float | None:
    """Seconds until all cells that are queued or running are done, as many at a time as run now; None if nothing tells.

    A cell that waits takes what the plan estimates, times by how much running and finished ones differ from it; without estimates,
    the mean of those.
    """
    running = [cell for cell in cells if cell.state == status.RUNNING]
    waiting = [cell for cell in cells if cell.state == QUEUED]
    known = {cell.run_id: seconds for cell in cells if (seconds := _whole_s(cell))}
    if not known:
        return None
    estimated = [cell for cell in cells if cell.run_id in known and cell.cell.estimate.get("hours")]
    hours = sum(float(cell.cell.estimate["hours"]) for cell in estimated)
    factor = sum(known[cell.run_id] for cell in estimated) / hours if hours else 0.0
    mean = sum(known.values()) / len(known)
    expected = [float(cell.cell.estimate.get("hours") or 0) * factor or mean for cell in waiting]
    left = [cell.left_s if cell.left_s is not None else mean for cell in running]
    return max([(sum(left) + sum(expected)) / max(1, len(running)), *left])


def _whole_s(cell: CellState) -> float:
    """Seconds that a cell takes from its first step to its last, if that can be told by now."""
    said = cell.said
    if cell.state == status.RUNNING and said.rate and said.total:
        return said.total / said.rate
    if cell.state == status.DONE and said.started and said.updated:
        start, end = (datetime.datetime.fromisoformat(moment) for moment in (said.started, said.updated))
        return (end - start).total_seconds()
    return 0.0
