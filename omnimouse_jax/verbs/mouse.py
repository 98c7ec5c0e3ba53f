"""Verbs of a new mouse: finetune, rows."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs.common import AddVerb

FINETUNE = """
Checks the recording against the model, says what is frozen, trained and fresh, trains rows for the new neurons (the core stays
as it is), and compares with the model before that, with a model trained from scratch on the session alone, with a ridge
regression and with the ceiling; once with all minutes of the training tier, and for a learning curve with the first 1, 2, 5,
10, ... of them. The same command goes on where it stopped. OUT/index.html is the page, OUT/result.json has its numbers, and
the adapted run is named at the end.

  omnimouse-jax finetune --from runs/first --store lab --session mouse7-1 --workdir adapted/mouse7
  omnimouse-jax finetune --from runs/first --store lab --session mouse7-1 --workdir adapted/more --stages tables,adapters
"""

ROWS = """
A model's tables have a row for every neuron, session and animal, by name. With --out a new run folder is written in which some
are left out, added or taken from another run that has the same core (two mice adapted from one model, say). Rows that stay are
the same, bit for bit, with what the optimiser knows of them. The new run evaluates, and trains on from step 0.

  omnimouse-jax rows runs/first
  omnimouse-jax rows runs/first --drop mouse3-1 --out runs/without
  omnimouse-jax rows adapted/mouse7/1-tables --merge adapted/mouse8/1-tables --out runs/both
  omnimouse-jax rows runs/first --add lab:mouse9-1 --out runs/wider
"""


def add(verb: AddVerb) -> None:
    made = verb(finetune, "Adapt a trained model to a new mouse, and say how good that is.", FINETUNE)
    made.add_argument(
        "--from", dest="run", required=True, type=Path, metavar="RUN", help="the trained model: a run folder"
    )
    made.add_argument("--store", required=True, help="store with the new recordings")
    made.add_argument(
        "--session", action="append", required=True, metavar="KEY", help="session to adapt to; may be repeated"
    )
    made.add_argument("--workdir", required=True, type=Path, metavar="OUT", help="where everything is written")
    made.add_argument(
        "--checkpoint", default="", help="best, latest or a step of RUN (default: what its config scores)"
    )
    made.add_argument(
        "--stages",
        default="tables",
        help="tables (default); tables,adapters: then low-rank additions to the core; tables,core",
    )
    made.add_argument(
        "--minutes",
        help="points of the learning curve, such as 1,2,5 (default: 1,2,5,10,20,... up to all); none: no curve",
    )
    made.add_argument(
        "--start", default="random", help="how new rows begin: random (default), match, mean, neighbours, regression"
    )
    made.add_argument("--steps", type=int, default=0, help="most steps of a stage (default: 400)")
    made.add_argument("--scratch-steps", type=int, default=0, help="most steps of a model from scratch (default: 2000)")
    made.add_argument(
        "--no-scratch", action="store_true", help="train no models from scratch, which take most of the time"
    )
    made.add_argument("--no-ridge", action="store_true", help="fit no ridge regressions")
    made.add_argument("--seed", type=int, default=0, help="of the order of the data and of what is drawn")

    made = verb(rows, "List or change whose rows a model has.", ROWS)
    made.add_argument("run", type=Path, help="run folder")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: what the run's config scores)")
    made.add_argument(
        "--drop", action="append", default=[], metavar="KEY", help="session to leave out; may be repeated"
    )
    made.add_argument("--merge", type=Path, metavar="RUN2", help="run whose sessions are taken over too")
    made.add_argument(
        "--prefer", default="", help="first or second: whose rows count where both runs have them and they differ"
    )
    made.add_argument("--core", default="", help="first: take RUN's core although RUN2 has another")
    made.add_argument(
        "--add", default="", metavar="STORE[:KEY]", help="store with new sessions (default: all that RUN lacks)"
    )
    made.add_argument("--start", default="mean", help="how added rows begin (see finetune)")
    made.add_argument("--out", type=Path, metavar="NEW", help="run folder to write")


def finetune(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate.new_mouse import finetune as work
    from omnimouse_jax.evaluate.new_mouse import summary
    from omnimouse_jax.evaluate.new_mouse_asked import LENGTHS, Asked

    lengths = {name: length.at_most(arguments.steps) for name, length in LENGTHS.items()}
    lengths["scratch"] = LENGTHS["scratch"].at_most(arguments.scratch_steps)
    asked = Asked(
        run=arguments.run,
        store=arguments.store,
        sessions=tuple(arguments.session),
        workdir=arguments.workdir,
        checkpoint=arguments.checkpoint,
        stages=tuple(arguments.stages.split(",")),
        minutes=_minutes(arguments.minutes),
        start=arguments.start,
        scratch=not arguments.no_scratch,
        ridge=not arguments.no_ridge,
        seed=arguments.seed,
        lengths=lengths,
    )
    result = work(asked, command=shlex.join(["omnimouse-jax", *sys.argv[1:]]))
    print(summary(result))
    print(f"adapted run: {result['run']}   page: {result['page']}")


def rows(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.evaluate import new_rows

    changes = bool(arguments.drop or arguments.merge or arguments.add)
    if changes != bool(arguments.out):
        missing, way_out = (
            ("--out", "name the run folder to write") if changes else ("a change", "use --drop, --merge or --add")
        )
        raise UserError(f"rows: {missing} is missing", way_out=way_out)
    if not changes:
        print(new_rows.listed(arguments.run, arguments.checkpoint))
        return
    told = new_rows.write(
        arguments.run,
        arguments.out,
        checkpoint=arguments.checkpoint,
        drop=arguments.drop,
        merge_with=arguments.merge,
        prefer=arguments.prefer,
        core=arguments.core,
        add=arguments.add,
        start=arguments.start,
    )
    print("\n".join(told))


def _minutes(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    if text == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"finetune: --minutes {text}", way_out="write numbers, such as 1,2,5, or none") from None
