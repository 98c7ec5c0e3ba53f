"""Verbs that make, read and show recordings: synthesize, ingest, inspect."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.formats import FORMATS
from omnimouse_jax.verbs.common import AddVerb


def add(verb: AddVerb) -> None:
    made = verb(synthesize, "Make synthetic mice from a known law, ceilings included.", SYNTHESIZE)
    made.add_argument("store", help="folder or URL of the store to write (sessions that are there already are skipped)")
    made.add_argument("--preset", default="demo", help="tiny, demo, colony, field or mixed (default: demo)")
    made.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the preset")
    made.add_argument("--workers", type=int, default=1, help="sessions made at the same time (default: 1)")

    made = verb(ingest, "Read recordings of some format into a store.", INGEST)
    made.add_argument("format", choices=tuple(FORMATS), help="what SOURCE holds")
    made.add_argument("source", help="one session, or a folder of several")
    made.add_argument("--store", help="folder or URL of the store to write or append to")
    made.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the format")
    made.add_argument(
        "--nan-responses",
        choices=("error", "mask"),
        help="NaN in responses: refuse (default), or treat as not recorded",
    )
    made.add_argument("--overwrite", action="store_true", help="write sessions of the same key anew")
    made.add_argument("--workers", type=int, default=1, help="sessions read at the same time (default: 1)")
    made.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        help="of stored responses: float32 (exact) or float16 (half the room, off by up to 0.05 %%)",
    )
    made.add_argument(
        "--keep-going", action="store_true", help="write the good sessions, tell the bad ones, exit with 1"
    )
    made.add_argument(
        "--verify", action="store_true", help="then read everything again and compare it with the store, value by value"
    )
    made.add_argument("--check", action="store_true", help="arrays: write nothing, list all problems and what is meant")
    made.add_argument("--template", action="store_true", help="arrays: write a recording.yml to fill in into SOURCE")

    made = verb(inspect, "Show what a store holds: animals, sessions, neurons, rates, hours, tiers, missing data.")
    made.add_argument("store")
    made.add_argument("--clean", action="store_true", help="remove what writers left that were killed over --hours ago")
    made.add_argument("--hours", type=float, default=24.0, help="default: 24; 0 only when nobody writes to the store")
    made.add_argument("--leaks", action="store_true", help="list stimuli that are both trained on and held out")
    made.add_argument("--json", action="store_true", help="print JSON instead of a table")

    made = verb(show, "Draw one window of a recording, and what a regime shows of it and asks for.", SHOW)
    made.add_argument("store")
    made.add_argument("--session", default="", help="session key (default: the first)")
    made.add_argument("--tier", default="train", help="draw the window in the middle of this tier (default: train)")
    made.add_argument(
        "--start", type=float, help="draw the window from this time on instead, in seconds of the session"
    )
    made.add_argument("--regime", default="causal_response_25_video_behavior", help="name or expression")
    made.add_argument("--out", type=Path, default=Path("window.png"), help="file to write: .png, .svg or .pdf")


SYNTHESIZE = """
Neurons of all mice come from one law (oriented, direction-selective receptive fields, contrast normalisation, gain by running
and pupil, shared fluctuations, private noise, calcium), so more mice really teach more. The noise is known, so every ceiling has
a true value: it is stored with each session.

  omnimouse-jax synthesize stores/demo
  omnimouse-jax synthesize stores/many --preset colony --set n_animals=40 --workers 2
"""

INGEST = (
    """
FORMAT is one of
"""
    + "\n".join(f"  {name:16}{what}" for name, (_, what) in FORMATS.items())
    + """

Every session is checked before the first is written. An ingest that was stopped, killed or repeated goes on where it was: what
the store has from the same files is skipped. New sessions may be added while a model trains on the store.

  omnimouse-jax ingest arrays my_recordings/ --template          then fill in recording.yml (docs/data.md)
  omnimouse-jax ingest arrays my_recordings/ --check
  omnimouse-jax ingest arrays my_recordings/ --store stores/lab
  omnimouse-jax ingest experanto sessions/ --store s3://bucket/lab --workers 4 --verify
"""
)


SHOW = """
  omnimouse-jax show stores/demo --out window.png
  omnimouse-jax show stores/demo --session m001-1 --start 62.5 --regime "responses[:0.5] + video -> responses[-0.5:]"
"""


def synthesize(arguments: argparse.Namespace) -> None:
    import ast

    from omnimouse_jax.recordings.synthetic import synthesize

    changes = {}
    for change in arguments.set:
        field, _, text = change.partition("=")
        try:
            changes[field] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            changes[field] = text
    synthesize(arguments.store, arguments.preset, changes, workers=arguments.workers)
    print(f"store: {arguments.store}   next: omnimouse-jax inspect {arguments.store}")


def ingest(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.recordings.ingest import ingest, verify
    from omnimouse_jax.recordings.ingest.readers import parse_options

    if arguments.check or arguments.template:
        return _prepare_arrays(arguments)
    if not arguments.store:
        raise UserError(
            "ingest: no store to write to", way_out="pass --store STORE (a folder, or an s3:// or gs:// URL)"
        )
    options = parse_options(arguments.format, arguments.set)
    if arguments.nan_responses:
        options["nan_responses"] = arguments.nan_responses
    done = ingest(
        arguments.format,
        arguments.source,
        arguments.store,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        keep_going=arguments.keep_going,
        dtype=arguments.dtype,
        **options,
    )
    differing = 0
    if arguments.verify:
        found = verify(arguments.format, arguments.source, arguments.store, workers=arguments.workers, **options)
        differing = sum(bool(lines) for lines in found.values())
    if done.failed or differing:
        print(f"{len(done.failed)} sessions failed, {differing} differ from their source", file=sys.stderr)
        return 1
    print(f"store: {arguments.store}   next: omnimouse-jax inspect {arguments.store}")
    return 0


def _prepare_arrays(arguments: argparse.Namespace) -> int:
    """The steps before an ingest of plain arrays: a description to fill in, and all that is wrong with it."""
    from omnimouse_jax.recordings.ingest.arrays.lint import lint
    from omnimouse_jax.recordings.ingest.arrays.template import write_template

    if arguments.format != "arrays":
        raise UserError(f"ingest {arguments.format}: --check and --template are for arrays", way_out="leave them out")
    if arguments.template and arguments.check:
        raise UserError("ingest: --template and --check", way_out="write the template, fill it in, then --check it")
    if arguments.template:
        path = write_template(Path(arguments.source))
        print(f"{path}   fill it in, then: omnimouse-jax ingest arrays {arguments.source} --check")
        return 0
    report = lint(Path(arguments.source), arguments.nan_responses or "error")
    print("\n".join(report.lines()))
    return 1 if report.n_errors else 0


def inspect(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.recordings import inspect, leaks
    from omnimouse_jax.recordings.store import Store

    if arguments.clean:
        for left in Store.open(arguments.store).clean(arguments.hours):
            print(
                f"removed {left.folder}: {left.files} files"
                + ("" if left.size is None else f", {left.size / 1e6:.1f} MB")
            )
        return
    if arguments.leaks:
        found = leaks.leaks(Store.open(arguments.store))
        print(json.dumps([leak._asdict() for leak in found], indent=1) if arguments.json else leaks.render(found))
        return
    print(
        inspect.as_json(arguments.store)
        if arguments.json
        else inspect.render(arguments.store, width=None if sys.stdout.isatty() else 160)
    )


def show(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.recordings.session import BEHAVIOR_CHANNELS
    from omnimouse_jax.recordings.store import Store
    from omnimouse_jax.tokens.grid import Grid
    from omnimouse_jax.tokens.pipeline import slots_for
    from omnimouse_jax.tokens.regimes import get
    from omnimouse_jax.tokens.window_figure import draw
    from omnimouse_jax.tokens.windows import Window, WindowIndex, cut

    store, grid = Store.open(arguments.store), Grid()
    if not len(store):
        raise UserError(f"store {store.name}: no sessions", way_out="omnimouse-jax ingest or synthesize adds some")
    key = arguments.session or store.keys[0]
    recording = store.recording(key)
    if arguments.start is None:
        tiers = store.summary(key)["trials"]
        if arguments.tier not in tiers:
            raise UserError(
                f"session {key}: no trials of tier {arguments.tier}",
                way_out=f"choose one of {', '.join(sorted(tiers))}, or give --start",
            )
        index = WindowIndex.of(store, [key], [arguments.tier], grid, grid.seconds)
        window = index[len(index) // 2]
    else:
        spans = recording.responses.spans()
        lo, hi = float(spans[0, 0]), float(spans[-1, 1])
        if not lo - 0.01 <= arguments.start <= hi - grid.seconds + 0.01:  # a hundredth, as what is told is rounded
            raise UserError(
                f"session {key}: --start {arguments.start:g}: the recording lasts from {lo:.2f} to {hi:.2f} s",
                way_out=f"windows of {grid.seconds:g} s start from {lo:.2f} to {hi - grid.seconds:.2f} s",
            )
        window = Window(key, arguments.start)
    own = [name for name in recording.channels if name not in BEHAVIOR_CHANNELS]
    channels = (*BEHAVIOR_CHANNELS, *own)
    sample = cut(recording, window, grid, channels)
    regime = get(arguments.regime, grid)
    draw(sample, grid, channels, regime, max(slots_for(recording.n_neurons), 4096), arguments.out)
    print(f"{arguments.out}: session {key}, {grid.seconds:g} s from {window.start:.2f} s")
