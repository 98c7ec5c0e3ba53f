"""Whether a submission is what a benchmark takes: columns, ids, counts, order, tiers, finite values. One line per mistake.

What only differs from the usual form, and does not change a score, is a note. A file without mistakes is scored where the data
have the responses.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks import official, sensorium2022, sensorium2023
from omnimouse_jax.evaluate.benchmarks.parquet import TrialRow, members, pyarrow, trial_rows
from omnimouse_jax.evaluate.benchmarks.results import Scored, score_of
from omnimouse_jax.evaluate.benchmarks.trials import Sessions, is_withheld, open_sessions, trials_of
from omnimouse_jax.recordings.session import Recording

#: Lines that are told of one file; the rest is counted.
MOST = 50


@dataclasses.dataclass
class Report:
    """What was found in one file."""

    file: str
    mistakes: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    about: str = ""
    scores: list[Scored] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """To print; the first says whether the file can be submitted."""
        n = len(self.mistakes)
        verdict = "right" if not n else f"{n} mistake{'s' if n > 1 else ''}"
        told = [f"{self.file}: {verdict}{f'   ({self.about})' if self.about else ''}"]
        told += [f"  mistake: {line}" for line in self.mistakes[:MOST]]
        told += [f"  and {n - MOST} more mistakes"] if n > MOST else []
        return told + [f"  note: {line}" for line in self.notes]


def validate(path: Path, data: Path | str, truth: Path | None = None) -> list[Report]:
    """A submission file against the sessions in `data`: .csv is 2022, a table or a zip of tables is 2023 (a report for each).

    truth: a ground truth of 2022 (columns with `responses`) to score with where `data` has none. UserError if there is no file.
    """
    if not path.is_file():
        raise UserError(f"file {path}: not there", way_out="name a submission")
    if path.suffix == ".csv":
        report = _guarded(path.name, partial(_csv, path, open_sessions(data, "sensorium2022"), truth))
        return [report]
    pyarrow()  # that it is not installed is no mistake of the file
    sessions = open_sessions(data, "sensorium2023")
    if path.suffix != ".zip":
        return [_guarded(path.name, partial(_table, path, sessions))]
    whole = Report(path.name)
    reports = [whole]
    with tempfile.TemporaryDirectory() as folder:
        try:
            tables = members(path, Path(folder))
        except UserError as error:
            whole.mistakes.append(error.what)
            return reports
        names = {table.name for table in tables}
        right = {", ".join(sensorium2023.FILES[tier] for tier in tiers) for tiers in sensorium2023.ZIPS.values()}
        if ", ".join(table.name for table in sorted(tables, key=_place)) not in right:
            whole.mistakes.append(
                f"holds {', '.join(sorted(names)) or 'nothing'}, not one of: {'; or '.join(sorted(right))}"
            )
        for table in tables:
            reports.append(_guarded(f"{path.name}/{table.name}", partial(_table, table, sessions)))
    return reports


def _place(table: Path) -> int:
    names = list(sensorium2023.FILES.values())
    return names.index(table.name) if table.name in names else len(names)


def _guarded(name: str, check: Callable[[Report], None]) -> Report:
    """A file that cannot be read is a mistake as well."""
    report = Report(name)
    try:
        check(report)
    except UserError as error:
        report.mistakes.append(error.what.split(": ", 1)[-1] + (f" - {error.way_out}" if error.way_out else ""))
    return report


# --- 2022 ---------------------------------------------------------------------------------------------------------


def _csv(path: Path, sessions: Sessions, truth: Path | None, report: Report) -> None:
    rows = list(sensorium2022.rows_of(path))
    if not rows:
        raise UserError(f"file {path}: no rows", way_out="one for each trial")
    ids = _ids(rows[0].neurons)
    rec = _session_of(sessions, {row.trial for row in rows}, ids)
    if rec is None:
        raise UserError(
            f"file {path}: no session of {sessions.place} has its neurons and its trials",
            way_out="give the data that the predictions were made for",
        )
    facts, shown = sensorium2022.trial_ids(rec), sensorium2022.image_ids(rec)
    number = {trial: k for k, trial in enumerate(facts)}
    tier = _tier_of_csv(path, rec, [number[row.trial] for row in rows if row.trial in number])
    wanted = [facts[k] for k in trials_of(rec, tier)]
    report.about = f"session {rec.key}, tier {tier}, {len(wanted)} trials, {rec.n_neurons} neurons"
    _neurons(report, ids, rec.neurons["unit_id"], f"line {rows[0].line}", order_matters=False)
    seen: set[str] = set()
    for row in rows:
        where = f"line {row.line}, trial {row.trial}"
        if row.trial not in number:
            report.mistakes.append(f"{where}: the session has no such trial")
        elif row.trial not in wanted:
            report.mistakes.append(f"{where}: is of tier {rec.trials.tier[number[row.trial]]}, this file is for {tier}")
        elif row.image != shown[number[row.trial]]:
            report.mistakes.append(f"{where}: image_ids is {row.image}, shown was {shown[number[row.trial]]}")
        if row.trial in seen:
            report.mistakes.append(f"{where}: a second row for this trial")
        seen.add(row.trial)
        if row.neurons != rows[0].neurons:
            report.mistakes.append(f"{where}: neuron_ids are not those of line {rows[0].line}")
        _csv_values(report, row, rec.n_neurons, where)
    _missing(report, [trial for trial in wanted if trial not in seen], "")
    if not report.mistakes and [row.trial for row in rows] != wanted:
        report.notes.append("rows are not in the order of the files; the scorer sorts them by trial")
    _csv_scores(path, rec, tier, report, truth)


def _csv_values(report: Report, row: sensorium2022.Row, n_neurons: int, where: str) -> None:
    try:
        values = sensorium2022.numbers(row.values)
    except ValueError:
        report.mistakes.append(f"{where}: prediction is not the text of a list of numbers")
        return
    if len(values) != n_neurons:
        report.mistakes.append(f"{where}: prediction has {len(values)} numbers for {n_neurons} neurons")
    if bad := int((~np.isfinite(values)).sum()):
        report.mistakes.append(f"{where}: {bad} predictions are not finite")


def _csv_scores(path: Path, rec: Recording, tier: str, report: Report, truth: Path | None) -> None:
    if is_withheld(rec, tier) and truth is None:
        report.notes.append(f"responses of tier {tier} are withheld: not scored here")
        return
    if not is_withheld(rec, tier):
        report.notes.append(
            f"responses of tier {tier} are public in this session: the competition takes it for withheld ones"
        )
    if not report.mistakes:
        known = sensorium2022.recorded(rec, tier) if truth is None else sensorium2022.read(truth, "responses")
        report.scores += sensorium2022.scores(sensorium2022.read(path), known, session=rec.key, tier=tier)


def _session_of(sessions: Sessions, trials: set[str], neurons: np.ndarray) -> Recording | None:
    """The session that shares most trials with a file, of those that share most neurons with it."""
    best: tuple[int, int] = (0, 0)
    found = None
    for key in sessions.read:
        rec = sessions.recording(key)
        units = int(np.isin(rec.neurons["unit_id"], neurons).sum()) - abs(rec.n_neurons - len(neurons))
        same = len(trials.intersection(sensorium2022.trial_ids(rec)))
        if same and (units, same) > best:
            best, found = (units, same), rec
    return found


def _tier_of_csv(path: Path, rec: Recording, rows: Sequence[int]) -> str:
    """By its name, else that of most of its trials."""
    for word, tier in (("final", "final_test"), ("live", "test")):
        if word in path.name:
            return tier
    tiers, counts = np.unique(rec.trials.tier[np.array(rows, np.int64)], return_counts=True)
    return str(tiers[counts.argmax()])


# --- 2023 ---------------------------------------------------------------------------------------------------------


def _table(path: Path, sessions: Sessions, report: Report) -> None:
    recordings = {sensorium2023.mouse(rec): rec for rec in (sessions.recording(key) for key in sessions.read)}
    tier = _tier_of_table(path, recordings)
    report.about = f"tier {tier}"
    if path.name != sensorium2023.FILES[tier]:
        report.notes.append(f"a submission calls this file {sensorium2023.FILES[tier]}")
    given: dict[str, list[int]] = {}
    mice: dict[str, official.VideoCorrelation] = {}
    order: list[str] = []
    for k, row in enumerate(trial_rows(path)):
        where = f"row {k}, mouse {row.mouse}, trial {row.trial}"
        rec = recordings.get(row.mouse)
        if rec is None:
            report.mistakes.append(f"{where}: {sessions.place} has no such mouse")
            continue
        if row.mouse in given and order[-1] != row.mouse:
            report.mistakes.append(f"{where}: the rows of this mouse are not together")
        order.append(row.mouse)
        trials = given.setdefault(row.mouse, [])
        if not 0 <= row.trial < len(rec.trials):
            report.mistakes.append(f"{where}: the session has {len(rec.trials)} trials, counted from 0")
            continue
        if rec.trials.tier[row.trial] != tier:
            report.mistakes.append(f"{where}: is of tier {rec.trials.tier[row.trial]}, this file is for {tier}")
        if row.trial in trials:
            report.mistakes.append(f"{where}: a second row for this trial")
        elif trials and row.trial < trials[-1]:
            report.mistakes.append(f"{where}: comes after trial {trials[-1]}; rows are in the order of the files")
        trials.append(row.trial)
        _neurons(report, row.neurons, rec.neurons["unit_id"], where, order_matters=True)
        if (
            _values(report, row, rec, where)
            and rec.trials.tier[row.trial] == tier
            and not rec.trials.withheld[row.trial]
        ):
            sums = mice.setdefault(row.mouse, official.VideoCorrelation(rec.n_neurons))
            sums.add(sensorium2023.target(rec, row.trial), row.prediction.T)  # type: ignore[union-attr]
    _mice(report, recordings, tier, given)
    if not report.mistakes and mice:
        found = [sums.per_neuron() for sums in mice.values()]
        told = {"tier": tier, "trials": sum(sums.trials for sums in mice.values()), "mice": len(found)}
        report.scores.append(score_of(sensorium2023.SINGLE, np.concatenate(found), **told))


def _values(report: Report, row: TrialRow, rec: Recording, where: str) -> bool:
    """Whether a trial's predictions have the right shape and are finite."""
    frames = max(0, sensorium2023.n_frames(rec, row.trial) - sensorium2023.SKIPPED_FRAMES)
    if row.prediction is None:
        report.mistakes.append(f"{where}: neurons have different numbers of frames")
    elif row.prediction.shape != (rec.n_neurons, frames):
        n, found = row.prediction.shape
        report.mistakes.append(
            f"{where}: {n} neurons x {found} frames, expected {rec.n_neurons} x {frames} "
            f"(frames {sensorium2023.SKIPPED_FRAMES + 1} to {frames + sensorium2023.SKIPPED_FRAMES})"
        )
    elif bad := int((~np.isfinite(row.prediction)).sum()):
        report.mistakes.append(f"{where}: {bad} predictions are not finite")
    else:
        return True
    return False


def _mice(report: Report, recordings: dict[str, Recording], tier: str, given: dict[str, list[int]]) -> None:
    """Trials and whole mice that are missing, and what is public."""
    for name, rec in recordings.items():
        wanted = [int(k) for k in trials_of(rec, tier)]
        if name in given:
            _missing(report, [k for k in wanted if k not in given[name]], f"mouse {name}: ")
            if not is_withheld(rec, tier):
                report.notes.append(
                    f"mouse {name}: responses of tier {tier} are public, the competition takes withheld ones"
                )
        elif wanted and is_withheld(rec, tier):
            report.mistakes.append(
                f"mouse {name}: not in the file, and it has {len(wanted)} withheld trials of this tier"
            )
    if any(is_withheld(recordings[name], tier) for name in given):
        report.notes.append(f"responses of tier {tier} are withheld: not scored here")


def _tier_of_table(path: Path, recordings: dict[str, Recording]) -> str:
    """By its name (that of a submission, or of the official helper), else that of its first trial."""
    live, bonus = "live" in path.name, "bonus" in path.name
    if (live or "final" in path.name) and (bonus or "main" in path.name):
        return f"{'live' if live else 'final'}_test_{'bonus' if bonus else 'main'}"
    for row in trial_rows(path):
        rec = recordings.get(row.mouse)
        if rec is not None and 0 <= row.trial < len(rec.trials):
            tier = str(rec.trials.tier[row.trial])
            if tier in sensorium2023.FILES:
                return tier
    raise UserError(
        f"file {path}: neither its name nor its trials say for which tier it is",
        way_out=f"call it {sensorium2023.FILES['live_test_main']} or the like",
    )


# --- both ---------------------------------------------------------------------------------------------------------


def _neurons(report: Report, found: np.ndarray, wanted: np.ndarray, where: str, *, order_matters: bool) -> None:
    """Every neuron once, and where the scorer does not sort them in the data's order."""
    names = found.tolist()
    if len(set(names)) < len(names):
        report.mistakes.append(f"{where}: neuron_ids names a neuron twice")
    elif set(names) != set(wanted.tolist()):
        missing = len(set(wanted.tolist()) - set(names))
        unknown = len(set(names) - set(wanted.tolist()))
        report.mistakes.append(f"{where}: neuron_ids lacks {missing} of {len(wanted)} neurons and has {unknown} others")
    elif names != wanted.tolist():
        told = f"{where}: neuron_ids are not in the order of the data"
        if order_matters:
            report.mistakes.append(told)
        else:
            report.notes.append(f"{told}; the scorer sorts them")


def _missing(report: Report, trials: Sequence[object], where: str) -> None:
    report.mistakes += [f"{where}trial {trial} is missing" for trial in trials]


def _ids(text: str) -> np.ndarray:
    try:
        return sensorium2022.numbers(text).astype(np.int64)
    except ValueError:
        raise UserError("file: neuron_ids is not the text of a list of numbers", way_out="write [3, 5, ...]") from None
