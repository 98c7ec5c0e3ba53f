"""The parts of a cell: its run, and the branch that is annealed at each planned point. A plan may get more points later."""

from __future__ import annotations

from pathlib import Path

from omnimouse_jax.scaling.plan import Cell

SCORES = "evaluation.json"


def branches(folder: Path, cell: Cell) -> dict[int, Path]:
    """Point -> folder of its branch, under the cell's run folder."""
    return {step: folder / "anneal" / f"{step}-{cell.anneal_steps}" for step in cell.anneal}


def unscored(folder: Path, cell: Cell) -> list[int]:
    """Planned points that are not annealed and evaluated yet: a cell that was done goes on with them."""
    return [step for step, branch in branches(folder, cell).items() if not (branch / SCORES).exists()]


def is_evaluated(run: Path) -> bool:
    """Whether a run or branch was trained to its end, which is when run.json is written, and scored after that."""
    try:
        return (run / SCORES).stat().st_mtime_ns > (run / "run.json").stat().st_mtime_ns
    except FileNotFoundError:
        return False
