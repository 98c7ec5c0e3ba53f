"""`omnimouse-jax benchmark sensorium2022|sensorium2023`: public tiers scored, withheld ones written as submissions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.benchmarks import official, parquet, results, sensorium2022, sensorium2023
from omnimouse_jax.evaluate.benchmarks.results import Scored, score_of
from omnimouse_jax.evaluate.benchmarks.trials import Asked, Sessions, is_withheld, remarks, require_run, trials_of
from omnimouse_jax.evaluate.opened import Run
from omnimouse_jax.files import write_atomically
from omnimouse_jax.recordings.session import Recording

Say = Callable[[str], None]
#: Which tiers become files: those whose responses are withheld, all that a submission can have, or none.
WHICH = ("withheld", "all", "none")


class Wanted(NamedTuple):
    """What is to be done beside scoring. Empty `sessions`: all that both the run and the data know."""

    out: Path
    sessions: Sequence[str] = ()
    files: str = "withheld"
    say: Say = print


def images(run: Run, data: Sessions, tracks: Sequence[str], wanted: Wanted) -> list[Scored]:
    """SENSORIUM 2022: `<out>/<track>/<session>/submission_file_{live,final}_test.csv` and `<out>/scores.json`.

    A session without behaviour is left out of the track that shows behaviour, and that is said; UserError if it was named.
    """
    keys, scored, written = require_run(run, data, wanted.sessions), [], []
    for track in tracks:
        asked = Asked(run, sensorium2022.TRACKS[track])
        for line in remarks(run, keys, asked.behavior):
            wanted.say(f"track {track}: {line}")
        for key in keys:
            rec = data.recording(key)
            if asked.behavior and sensorium2022.without_behavior(rec) and key not in wanted.sessions:
                wanted.say(f"session {key}: behaviour is zero throughout, not in track {track}")
                continue
            folder = wanted.out / track.replace("+", "_plus") / key
            for tier in sensorium2022.SCORED:
                if not len(trials_of(rec, tier)):
                    continue
                file = _is_written(rec, tier, sensorium2022.FILES, wanted.files)
                score = not is_withheld(rec, tier)
                if not score:
                    wanted.say(f"session {key}, tier {tier}: responses are withheld, not scored")
                if not (file or score):
                    continue
                found = sensorium2022.predicted(asked, rec, tier)
                if file:
                    path = folder / sensorium2022.FILES[tier]
                    sensorium2022.write(path, found)
                    written.append({"file": str(path), "rows": len(found.trials), "session": key, "tier": tier})
                if score:
                    truth = sensorium2022.recorded(rec, tier)
                    scored += sensorium2022.scores(found, truth, track=track, session=key, tier=tier)
    regimes = {track: Asked(run, sensorium2022.TRACKS[track]).regime for track in tracks}
    _finish(run, data, wanted, regimes, scored, written)
    return scored


def videos(run: Run, data: Sessions, behavior: bool, wanted: Wanted) -> list[Scored]:
    """SENSORIUM 2023: the tables and zips of both tracks in `<out>`, and `<out>/scores.json`.

    Each tier is scored by mouse and over the neurons of all mice, the ranking metric.
    """
    keys, asked = require_run(run, data, wanted.sessions), Asked(run, behavior)
    for line in remarks(run, keys, behavior):
        wanted.say(line)
    if wanted.files != "none":
        parquet.pyarrow()  # better now than after an hour
    pooled: dict[str, list[np.ndarray]] = {}
    counted: dict[str, int] = {}
    scored: list[Scored] = []
    submission = sensorium2023.Submission(wanted.out)
    with submission:
        for key in keys:
            rec = data.recording(key)
            if behavior and not rec.channels:
                raise UserError(f"session {key}: has no behaviour", way_out="pass --without-behavior")
            for tier in sensorium2023.SCORED:
                if not len(trials_of(rec, tier)):
                    continue
                file = _is_written(rec, tier, sensorium2023.FILES, wanted.files)
                score = not is_withheld(rec, tier)
                if not score:
                    wanted.say(f"session {key}, tier {tier}: responses are withheld, not scored")
                if not (file or score):
                    continue
                sums = official.VideoCorrelation(rec.n_neurons)
                for found in sensorium2023.predicted(asked, rec, tier):
                    if file:
                        submission.add(tier, sensorium2023.row(rec, found))
                    if score:
                        sums.add(sensorium2023.target(rec, found.trial), found.responses)
                if score:
                    of_mouse = sums.per_neuron()
                    told = {"session": key, "tier": tier, "trials": sums.trials}
                    scored.append(score_of(sensorium2023.SINGLE, of_mouse, **told))
                    pooled.setdefault(tier, []).append(of_mouse)
                    counted[tier] = counted.get(tier, 0) + sums.trials
    for tier, parts in pooled.items():
        told = {"session": "all mice", "tier": tier, "trials": counted[tier]}
        scored.append(score_of(sensorium2023.SINGLE, np.concatenate(parts), **told))
    written = [{"file": str(wanted.out / name), "rows": rows} for name, rows in submission.tables().items()]
    written += [{"file": str(wanted.out / name), "tables": tables} for name, tables in submission.zips().items()]
    _finish(run, data, wanted, {"both tracks": asked.regime}, scored, written)
    return scored


def _is_written(rec: Recording, tier: str, files: dict[str, str], which: str) -> bool:
    return tier in files and (which == "all" or (which == "withheld" and is_withheld(rec, tier)))


def _finish(
    run: Run,
    data: Sessions,
    wanted: Wanted,
    regimes: dict[str, str],
    scored: list[Scored],
    written: list[dict[str, Any]],
) -> None:
    """Prints the table, what was written, and keeps both as scores.json."""
    about = {
        "benchmark": data.benchmark,
        "run": str(run.folder),
        "checkpoint": run.step,
        "data": data.place,
        "regimes": regimes,
        "written": written,
    }
    write_atomically(wanted.out / "scores.json", results.as_text(about, scored))
    for line in results.lines(scored):
        wanted.say(line)
    if not scored:
        wanted.say("no tier here has public responses: nothing was scored")
    for one in written:
        what = f"{one['rows']} trials" if "rows" in one else f"holds {', '.join(one['tables'])}"
        wanted.say(f"written: {one['file']}  ({what})")
    wanted.say(f"scores: {wanted.out / 'scores.json'}   checkpoint {run.step} of {run.folder}")
