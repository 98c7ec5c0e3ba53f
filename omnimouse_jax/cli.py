"""The command line: `omnimouse-jax VERB`. Each verb imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from omnimouse_jax import __version__
from omnimouse_jax.errors import UserError
from omnimouse_jax.verbs import (
    baselines,
    benchmark,
    data,
    doctor,
    evaluate,
    fit,
    ledger,
    model,
    mouse,
    predict,
    probe,
    reference,
    run,
    study,
    sweep,
)
from omnimouse_jax.verbs.common import Run

DESCRIPTION = """\
Scaling studies of multi-session models of mouse visual cortex.

From recordings to a scaling page:
  omnimouse-jax synthesize STORE --preset demo       make a colony of synthetic mice (or `ingest` your own)
  omnimouse-jax inspect STORE                        see what is in it
  omnimouse-jax sweep plan --config configs/demo.py --store STORE --out STUDY
  omnimouse-jax sweep launch STUDY --on local --wait
  omnimouse-jax report STUDY                         write the page

One model:
  omnimouse-jax train --config configs/tiny.py --store STORE --workdir RUN
  omnimouse-jax evaluate RUN --by session,area       scores with ceilings, tables, a page
  omnimouse-jax baselines --like RUN --out FOLDER    what simpler predictors reach on the same windows
  omnimouse-jax compare RUN_A RUN_B                  paired: is one better, and how sure is that?
  omnimouse-jax anneal RUN --step K                  a branch whose learning rate falls to 0, from any kept checkpoint
  omnimouse-jax probe sensitivity|similarity|physiology RUN --out DIR    what scores do not tell

A new mouse:
  omnimouse-jax finetune --from RUN --store STORE --session KEY --workdir OUT
  omnimouse-jax predict --from RUN --session KEY --regime EXPRESSION --out FILE.zarr

Public benchmarks:
  omnimouse-jax benchmark sensorium2022 RUN --data STORE --out DIR    scores and submission files; also sensorium2023, brainscore

The released PyTorch model:
  omnimouse-jax check-reference PATH/NAME            agreement with it, on saved outputs
  omnimouse-jax import-reference DIR --out RUN       its weights as a run: evaluate, fine-tune, export

`omnimouse-jax VERB --help` explains a verb and shows examples.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status: 0 done, 1 a check failed, 2 bad input, 130 (Ctrl-C) or 75 (SIGTERM)
    stopped and saved, 76 another process of the run was lost."""
    parser, verbs = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if arguments.verb is None:
        parser.print_help()
        return 0
    overrides = [flag for flag in rest if flag.startswith("--config.")]
    unknown = [flag for flag in rest if not flag.startswith("--config.")]
    takes_config = "config" in vars(arguments)
    try:
        if unknown or (overrides and not takes_config):
            raise UserError(
                f"{arguments.verb}: unknown argument {(unknown or overrides)[0]}",
                way_out=f"`omnimouse-jax {arguments.verb} --help` lists what it takes",
            )
        arguments.overrides = overrides
        return verbs[arguments.verb](arguments) or 0
    except UserError as error:
        told = str(error) if not error.details else f"{error.what} - {error.way_out}"
        print("\n  ".join([f"error: {' '.join(told.split())}", *error.details]), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        if hasattr(error, "status"):  # Interrupted: saved and ready to go on
            print(str(error), file=sys.stderr)
            return int(error.status)
        raise


def entry() -> None:
    """The console script: `main`, and out."""
    status = main()
    if status in (75, 130):  # saved; programs that are still being compiled would be waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _parser() -> tuple[argparse.ArgumentParser, dict[str, Run]]:
    parser = argparse.ArgumentParser(
        "omnimouse-jax", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"omnimouse-jax {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB")
    verbs: dict[str, Run] = {}

    def verb(run: Run, about: str, details: str = "") -> argparse.ArgumentParser:
        name = run.__name__.replace("_", "-")
        verbs[name] = run
        return subparsers.add_parser(
            name, help=about, description=f"{about}\n{details}", formatter_class=argparse.RawDescriptionHelpFormatter
        )

    for module in (
        data,
        model,
        run,
        evaluate,
        baselines,
        mouse,
        predict,
        benchmark,
        probe,
        sweep,
        ledger,
        study,
        fit,
        reference,
        doctor,
    ):
        module.add(verb)
    return parser, verbs


if __name__ == "__main__":
    entry()
