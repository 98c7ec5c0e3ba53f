"""Verbs of the released PyTorch model: check-reference, import-reference, export-reference."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from omnimouse_jax.verbs.common import AddVerb


def add(verb: AddVerb) -> None:
    made = verb(check_reference, "Compare our model with the released one, on outputs that were saved from it.", CHECK)
    made.add_argument("triple", type=Path, metavar="PATH/NAME", help="files NAME.json, NAME.npz and NAME.weights.npz")
    made.add_argument("--case", action="append", default=[], help="check this case only (may be repeated)")

    made = verb(import_reference, "Make a run folder of released weights: to evaluate, to fine-tune.", IMPORT)
    made.add_argument("source", type=Path, help="folder of rank_*.ckpt, or one .npz, .safetensors, .ckpt, .pt")
    made.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder to write; must not exist")
    made.add_argument("--config", dest="fields", type=Path, metavar="FILE.json", help="released config fields")
    made.add_argument("--size", default="", help="released size that it must be, e.g. 80M (default: by its shapes)")
    made.add_argument("--store", default="", help="recordings: names animals, and becomes the run's store")
    made.add_argument("--sessions", type=Path, metavar="FILE.json", help="{session: animal}")
    made.add_argument("--ranks", type=int, help="number of rank files that there must be")

    made = verb(export_reference, "Write a run's weights under the released names.", EXPORT)
    made.add_argument("run", type=Path, help="run folder")
    made.add_argument("--out", type=Path, required=True, metavar="FILE", help=".npz, .safetensors or .ckpt to write")
    made.add_argument("--checkpoint", default="", help="best, latest or a step (default: the config's)")


CHECK = """
Every case of the files is run here: predictions, losses, intermediates, windows and gradients must agree, and where there is a
NAME.train.json, its optimiser steps too. Numbers are the largest errors, relative to the largest reference value (gradients: by
2-norm). Exit status 1 if anything is beyond tolerance.

  omnimouse-jax check-reference check/real_rates
  omnimouse-jax check-reference check/real_rates --case forecast --case video_only
"""
IMPORT = """
Nothing in the files is run. Files that miss a rank, disagree, are cut off or of another size are refused before anything is
written. The run starts at step 0 with a fresh optimiser.

  omnimouse-jax import-reference omnimouse-80M/ --out runs/released
  omnimouse-jax evaluate runs/released --store STORE
  omnimouse-jax train --config runs/released/config.json --workdir runs/released --store STORE --config.train.steps=1000
"""
EXPORT = """
A .json of the released config and the sessions is written beside the file. What was imported comes back bit by bit.

  omnimouse-jax export-reference runs/released --out weights.safetensors
"""


def check_reference(arguments: argparse.Namespace) -> int:
    from omnimouse_jax.evaluate.reference_check import check_case, layout_of, open_triple
    from omnimouse_jax.evaluate.reference_steps import check_steps, has_steps
    from omnimouse_jax.progress import Progress
    from omnimouse_jax.training.setup import enable_compilation_cache

    enable_compilation_cache()
    triple = open_triple(arguments.triple)
    cases = arguments.case or list(triple.cases)
    for case in cases:
        layout_of(triple, case)
    if triple.left_over:
        print(f"weights without a place in this config: {', '.join(triple.left_over)}")
    results, progress = [], Progress(len(cases), label="case ")
    for number, case in enumerate(cases):
        progress.show(number, case, force=True)
        results.append(check_case(triple, case))
    progress.close()
    failed = [result.case for result in results if not result.ok]
    _print_cases(results)
    if not arguments.case and has_steps(triple):
        steps, finals = check_steps(triple)
        _print_steps(steps, finals)
        failed += [f"step {number}" for number, step in enumerate(steps) if not step.ok]
        failed += ["final values"] if not finals.ok else []
    print(f"FAIL: {', '.join(failed)}" if failed else f"PASS: all of {triple.path.name} agrees")
    return 1 if failed else 0


def _print_cases(results: list[Any]) -> None:
    columns = {
        "responses": ("response_preds",),
        "behavior": ("behavior_preds",),
        "losses": ("loss", "response_loss", "behavior_loss"),
        "latents": ("latents_after_encoder",),
        "hidden": ("hidden",),
        "video": ("video_features",),
    }
    rows = []
    for result in results:
        cells = [
            max((result.outputs[n] for n in names if n in result.outputs), default=None) for names in columns.values()
        ]
        windows = "equal" if result.windows_equal else "DIFFER"
        rows.append([result.case, *map(_error, [*cells, result.gradients]), windows, _verdict(result.ok)])
    _table(["case", *columns, "gradients", "windows", ""], rows)
    for result in results:
        for wrong in result.wrong:
            print(f"{result.case}: {wrong}")


def _print_steps(steps: list[Any], finals: Any) -> None:
    rows = [
        [str(i), s.case, s.session, *map(_error, (s.loss, s.shared_norm, s.session_norm)), _verdict(s.ok)]
        for i, s in enumerate(steps)
    ]
    _table(["step", "case", "session", "loss", "shared gradient", "session gradient", ""], rows)
    told = [_error(error) for error in (finals.shared, finals.animals, finals.sessions)]
    print(
        f"final values, relative to how far they moved: shared {told[0]}, animals {told[1]}, sessions {told[2]}", end=""
    )
    print(f" (furthest off: {finals.furthest})  {_verdict(finals.ok)}")
    for wrong in finals.wrong:
        print(f"final values: {wrong}")


def _error(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _verdict(ok: bool) -> str:
    return "PASS" if ok else "FAIL"


def _table(columns: list[str], rows: list[list[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)


def import_reference(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.training.reference_run import import_run

    start = time.monotonic()
    report = import_run(
        arguments.source,
        arguments.out,
        fields_file=arguments.fields,
        size=arguments.size,
        store=arguments.store,
        sessions_file=arguments.sessions,
        ranks=arguments.ranks,
    )
    print("\n".join(report))
    print(f"took {time.monotonic() - start:.0f} s   next: omnimouse-jax evaluate {arguments.out} --store STORE")


def export_reference(arguments: argparse.Namespace) -> None:
    from omnimouse_jax.training.reference_run import export_run

    print("\n".join(export_run(arguments.run, arguments.out, arguments.checkpoint)))
