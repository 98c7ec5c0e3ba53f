"""`omnimouse-jax sweep plan`: every cell of a study with its cost, and what the design can tell, before anything starts."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omnimouse_jax.verbs.common import CONFIG_HELP, config_argument, load_config
from omnimouse_jax.verbs.doctor import amount

PLAN = """
The config's `study` group names sizes, amounts of data (nested subsets of sessions, animals, neurons, or minutes of every
session; the evaluation sessions are in all), independent orders of the sessions, seeds, multiples of the learning rate, points to
anneal from, and further products of these (study.also). Writes STUDY/plan.json, which `sweep launch STUDY` carries out, and prints
every cell with what it will take, the totals, and what the design can and cannot tell.

  omnimouse-jax sweep plan --config configs/demo.py --store stores/demo --out studies/demo
  omnimouse-jax sweep plan --config configs/scaling.py --store STORE --out STUDY --machine h100x8 --price 24
  omnimouse-jax sweep plan ... --machine here      # times a few steps of every size on this machine

Operations are counted in the compiled program of each size. Hours on a named machine assume 40 % of its peak, which is no
measurement; they are of training and annealing alone. A plan may be written again: cells may be added, and what has begun must
stay as it is.
"""


def add_plan(subparsers: Any) -> argparse.ArgumentParser:
    """The parser of `sweep plan`."""
    made: argparse.ArgumentParser = subparsers.add_parser(
        "plan",
        help="list every cell of a study with its cost, and what the design can tell",
        description="List every cell of a study with its cost, and what the design can tell." + PLAN + CONFIG_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    config_argument(made)
    made.add_argument("--store", help="recordings to train on (sets config.data.store)")
    made.add_argument("--out", required=True, type=Path, metavar="STUDY", help="study folder: plan, runs, ledger")
    made.add_argument(
        "--machine", default="", metavar="CHIPxN", help="for hours: h100, h100x8, tpu-v5px4, ..., or here"
    )
    made.add_argument("--price", type=float, default=0.0, help="of that machine per hour, in any money")
    made.add_argument("--json", action="store_true", help="print the plan as JSON")
    made.set_defaults(run=plan)
    return made


def plan(arguments: argparse.Namespace) -> int:
    """Writes and prints the plan."""
    from launch.planning import Machine, make_plan, write_plan

    command = "omnimouse-jax " + shlex.join(sys.argv[1:]) if sys.argv[1:2] == ["sweep"] else ""
    config = load_config(arguments)
    made = make_plan(config, Machine.named(arguments.machine, arguments.price), command)
    path = write_plan(made, arguments.out)
    if arguments.json:
        print(path.read_text(), end="")
        return 0
    print("\n".join(cell_table(made.cells)))
    print("\n".join(totals(made.totals, made.machine)))
    print("\n".join(design(made.design, config.study.by)))
    print(f"plan: {path}\nnext: omnimouse-jax sweep launch {arguments.out}")
    return 0


def cell_table(cells: Sequence[Any]) -> list[str]:
    """A line per cell."""
    head = ("cell", "core", "tower", "tables", "recorded", "windows", "epochs", "FLOP", "memory", "hours", "money")
    rows = [head]
    for cell in cells:
        told = cell.estimate
        rows.append(
            (
                cell.run_id,
                *(f"{told[f'n_params_{part}']:,}" for part in ("core", "tower", "tables")),
                f"{told['recorded_hours']:.2f} h",
                f"{told['windows']:,}",
                f"{told['epochs']:.3g}",
                f"{told['flops']:.2e}",
                amount(told["bytes"]).strip(),
                _or_dash(told["hours"], ".3g"),
                _or_dash(told["money"], ".3g"),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(v.rjust(w) for v, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    evaluated = ", ".join(cells[0].evaluation_sessions)
    return [*lines, f"scored in every cell, and in every subset: {evaluated}"]


def totals(told: Mapping[str, Any], machine: Mapping[str, Any]) -> list[str]:
    """The study as a whole."""
    lines = [f"{told['cells']} cells, {told['windows']:,} windows, {told['flops']:.3g} FLOP"]
    if told["hours"] is None:
        lines.append("hours: name a machine (--machine h100x8, or here)")
        return lines
    chips = f" = {told['chip_hours']:,.3g} chip hours" if told["chip_hours"] is not None else ""
    assumed = "" if machine["name"] == "here" else " at 40 % of its peak, assumed"
    lines.append(
        f"{told['hours']:,.3g} hours on {machine['name']}{chips}, the longest cell {told['longest_hours']:,.3g}{assumed}"
    )
    if told["money"] is not None:
        lines.append(f"money: {told['money']:,.4g} at {machine['price']:g} per hour")
    return lines


def design(told: Mapping[str, Any], unit: str) -> list[str]:
    """What the design can and cannot identify."""
    lines = ["", "what this design can tell"]
    for axis in told["axes"]:
        what = unit if axis["axis"] == "data" else "core parameters"
        seen = [
            f"{name} {100 * axis[key]:.0f} %"
            for key, name in (("slope", "gain per doubling"), ("exponent", "exponent of the joint curve"))
            if axis[key] is not None
        ]
        power = f"; power to see 10 % more slope: {', '.join(seen)}" if seen else ""
        lines.append(f"  {what}: {axis['levels']} levels over {axis['decades']:.2f} decades{power}")
    lines += [f"  can     {sentence}" for sentence in told["can"]]
    lines += [f"  cannot  {sentence}" for sentence in told["cannot"]]
    return [*lines, f"  ({told['assumed']})"]


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
