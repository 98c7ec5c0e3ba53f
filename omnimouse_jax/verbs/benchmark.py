"""The verb of public benchmarks: benchmark sensorium2022 | sensorium2023 | validate | brainscore."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from omnimouse_jax.verbs.common import AddVerb

DETAILS = """
Nothing is trained. Public tiers are scored with the benchmark's own metric, and predictions of the withheld ones become the files
that it takes. docs/benchmarks.md says how trials become windows, and what each number is.

  omnimouse-jax benchmark sensorium2022 RUN --data stores/sensorium --out submissions/2022
  omnimouse-jax benchmark sensorium2023 RUN --data stores/sensorium --out submissions/2023
  omnimouse-jax benchmark validate submissions/2023/*.zip --data stores/sensorium
  omnimouse-jax benchmark brainscore export RUN --session m001-1 --stimuli test --out run.npz
  omnimouse-jax benchmark brainscore target STORE --session m001-1 --stimuli test --out mouse.npz
  omnimouse-jax benchmark brainscore score run.npz mouse.npz --region VISp
"""

SENSORIUM = """
Writes OUT/scores.json and the submission files of every tier whose responses are withheld. RUN must know the sessions: train it on
them, or add rows with finetune.
"""

BRAINSCORE = """
Brain-Score needs versions of numpy and xarray that this package cannot run with, so it lives in an environment of its own
(benchmarks/brainscore_bridge). `export` and `target` write files that both can read; `score` runs the other environment on them.
"""


def add(verb: AddVerb) -> None:
    made = verb(benchmark, "Score a run on public benchmarks and write what they take.", DETAILS)
    kinds = made.add_subparsers(dest="kind", required=True, metavar="BENCHMARK")

    images = _sub(kinds, "sensorium2022", "responses to images: three scores, two CSV files", SENSORIUM)
    _sensorium(images)
    images.add_argument(
        "--track", choices=("sensorium", "sensorium+", "both"), default="both", help="without or with behaviour (both)"
    )
    videos = _sub(kinds, "sensorium2023", "responses to videos: the ranking score, parquet tables and zips", SENSORIUM)
    _sensorium(videos)
    videos.add_argument("--without-behavior", action="store_true", help="show the model the video only")

    check = _sub(kinds, "validate", "check submission files; exit status 1 if there is a mistake", "")
    check.add_argument("file", nargs="+", type=Path, help=".csv (2022), .parquet.brotli or .zip (2023)")
    check.add_argument("--data", required=True, help="store or download with the sessions")
    check.add_argument(
        "--ground-truth", type=Path, metavar="FILE.csv", help="score a file of 2022 with these responses"
    )

    bridge = _sub(kinds, "brainscore", "hand predictions to Brain-Score", BRAINSCORE)
    steps = bridge.add_subparsers(dest="step", required=True, metavar="STEP")
    export = _sub(steps, "export", "a run's predictions for a stimulus set", "")
    export.add_argument("run", type=Path, help="run folder")
    export.add_argument("--store", default="", help="recordings (default: the run's)")
    export.add_argument(
        "--with-behavior", action="store_true", help="show the recorded behaviour too (not: stimuli only)"
    )
    export.add_argument("--bins", type=int, default=1, help="equal time bins of each response (1)")
    export.add_argument("--checkpoint", default="", help="best, latest or a step (default: the run config's)")
    target = _sub(steps, "target", "a session's recorded responses to repeated stimuli: a local benchmark", "")
    target.add_argument("store", help="recordings")
    for one in (export, target):
        one.add_argument("--session", required=True, metavar="KEY", help="session")
        one.add_argument("--stimuli", required=True, help="a tier, or (export) a folder of images")
        one.add_argument("--piece", type=float, default=0.5, metavar="SECONDS", help="videos are cut into these (0.5)")
        one.add_argument("--degrees", type=float, metavar="DEG", help="width of the screen as the mouse sees it")
        one.add_argument("--out", required=True, type=Path, metavar="FILE.npz")
    score = _sub(steps, "score", "score an assembly on a target with Brain-Score's metrics", "")
    score.add_argument("assembly", type=Path)
    score.add_argument("target", type=Path)
    score.add_argument("--region", required=True, help="mouse area, such as VISp")
    score.add_argument("--metric", default="ridge", help="ridge (default) or pls")
    score.add_argument("--python", default="", help="its interpreter (default: .venv-brainscore/bin/python)")
    score.add_argument("--out", type=Path, help="also write the score as JSON")


def _sub(parsers: Any, name: str, about: str, details: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = parsers.add_parser(
        name, help=about, description=f"{about}\n{details}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return made


def _sensorium(made: argparse.ArgumentParser) -> None:
    made.add_argument("run", type=Path, help="run folder")
    made.add_argument("--data", required=True, help="store, or sessions as downloaded (a folder or a zip)")
    made.add_argument("--out", required=True, type=Path, metavar="DIR", help="where everything is written")
    made.add_argument("--session", action="append", default=[], metavar="KEY", help="session; may be repeated")
    made.add_argument(
        "--files",
        choices=("withheld", "all", "none"),
        default="withheld",
        help="tiers that become files: those that are withheld (default), all of a submission's, none",
    )
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the run config's)")


def benchmark(arguments: argparse.Namespace) -> int:
    kind = arguments.kind if arguments.kind != "brainscore" else f"brainscore {arguments.step}"
    return STEPS[kind](arguments) or 0


def _images(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.benchmarks import runs, sensorium2022
    from omnimouse_jax.evaluate.benchmarks.trials import open_sessions
    from omnimouse_jax.evaluate.opened import open_run
    from omnimouse_jax.files import require_folder

    tracks = list(sensorium2022.TRACKS) if arguments.track == "both" else [arguments.track]
    data = open_sessions(arguments.data, sensorium2022.BENCHMARK)
    wanted = runs.Wanted(require_folder(arguments.out), arguments.session, arguments.files)
    runs.images(open_run(arguments.run, arguments.checkpoint), data, tracks, wanted)


def _videos(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.benchmarks import runs, sensorium2023
    from omnimouse_jax.evaluate.benchmarks.trials import open_sessions
    from omnimouse_jax.evaluate.opened import open_run
    from omnimouse_jax.files import require_folder

    data = open_sessions(arguments.data, sensorium2023.BENCHMARK)
    wanted = runs.Wanted(require_folder(arguments.out), arguments.session, arguments.files)
    runs.videos(open_run(arguments.run, arguments.checkpoint), data, not arguments.without_behavior, wanted)


def _validate(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.evaluate.benchmarks.results import lines
    from omnimouse_jax.evaluate.benchmarks.validate import validate

    wrong = False
    for file in arguments.file:
        for report in validate(file, arguments.data, arguments.ground_truth):
            print("\n".join(report.lines()))
            for line in lines(report.scores):
                print(f"  {line}")
            wrong = wrong or bool(report.mistakes)
    return int(wrong)


def _export(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.benchmarks import brainscore
    from omnimouse_jax.evaluate.opened import open_run

    a = arguments
    run = open_run(a.run, a.checkpoint, a.store)
    made = brainscore.predictions(run, a.session, a.stimuli, a.piece, a.with_behavior, a.bins)
    _written(made, a.out, a.degrees)


def _target(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.benchmarks import brainscore
    from omnimouse_jax.recordings.store import Store

    a = arguments
    made = brainscore.recordings(Store.open(a.store).recording(a.session), a.stimuli, a.piece)
    _written(made, a.out, a.degrees)


def _written(made: Any, out: Path, degrees: float | None) -> None:
    made = made if degrees is None else made.seen_as(degrees)
    for line in made.write(out):
        print(line)


def _score(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.evaluate.benchmarks import brainscore

    a = arguments
    return brainscore.score_elsewhere(a.assembly, a.target, a.region, a.metric, a.python, a.out)


STEPS = {
    "sensorium2022": _images,
    "sensorium2023": _videos,
    "validate": _validate,
    "brainscore export": _export,
    "brainscore target": _target,
    "brainscore score": _score,
}
