"""What a store holds, from its manifest alone: rows of a table, JSON, or a table of text."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from omnimouse_jax.recordings.kvstore import Location
from omnimouse_jax.recordings.store import Store


@dataclass(frozen=True)
class Row:
    """One session as the table shows it. `ceiling` is by name, empty where unknown; `trials` and `tier_hours` are by
    tier.
    """

    session: str
    animal: str
    n_neurons: int
    response_rate: float
    original_rate: float | None
    hours: float
    trials: dict[str, int]
    tier_hours: dict[str, float]
    channels: tuple[str, ...]
    behavior_rates: dict[str, float]
    screen_size: tuple[int, int] | None
    unique_stimulus_hours: float
    nan_fraction: dict[str, float]
    missing: tuple[str, ...]
    ceiling: dict[str, float]
    withheld: dict[str, int]
    split_stimuli: int


def inspect(store: Location | Store) -> list[Row]:
    """One row per session, in the order of the keys. Reads the manifest only."""
    opened = store if isinstance(store, Store) else Store.open(store)
    return [_row(key, opened.summary(key)) for key in opened.keys]


def as_json(store: Location | Store) -> str:
    """The rows and their totals as JSON text: {"store", "totals", "sessions": [...]}."""
    opened = store if isinstance(store, Store) else Store.open(store)
    rows = inspect(opened)
    found = {"store": opened.name, "totals": totals(rows), "sessions": [asdict(row) for row in rows]}
    return json.dumps(found, indent=1)


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """Sums over the sessions; neuron-hours are neurons times recorded hours."""
    return {
        "sessions": len(rows),
        "animals": len({row.animal for row in rows}),
        "neurons": sum(row.n_neurons for row in rows),
        "hours": sum(row.hours for row in rows),
        "neuron_hours": sum(row.n_neurons * row.hours for row in rows),
    }


def render(store: Location | Store, width: int | None = None) -> str:
    """The rows as a table of text with the totals below. `width` in characters, by default the terminal's."""
    opened = store if isinstance(store, Store) else Store.open(store)
    rows = inspect(opened)
    out = io.StringIO()
    console = Console(file=out, width=width or shutil.get_terminal_size((140, 24)).columns, highlight=False)
    table = Table(title=f"store {opened.name}", title_justify="left")
    for title, justify in [
        ("session", "left"),
        ("animal", "left"),
        ("neurons", "right"),
        ("rate Hz", "right"),
        ("hours", "right"),
        ("trials per tier", "left"),
        ("screen", "left"),
        ("behavior Hz", "left"),
        ("missing", "left"),
        ("ceiling", "left"),
    ]:
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    for row in rows:
        rate = f"{row.response_rate:g}"
        if row.original_rate is not None and row.original_rate != row.response_rate:
            rate += f" (from {row.original_rate:.3g})"
        table.add_row(
            row.session,
            row.animal,
            str(row.n_neurons),
            rate,
            f"{row.hours:.2f}",
            ", ".join(_tier(row, tier) for tier in sorted(row.trials)),
            "-" if row.screen_size is None else "x".join(map(str, row.screen_size)),
            ", ".join(f"{name} {rate:.4g}" for name, rate in row.behavior_rates.items()) or "-",
            _gaps(row) or "-",
            " ".join(f"{name} {value:.2f}" for name, value in row.ceiling.items()) or "unknown",
        )
    console.print(table)
    t = totals(rows)
    console.print(
        f"{t['sessions']} sessions of {t['animals']} animals, {t['neurons']} neurons, {t['hours']:.2f} h, "
        f"{t['neuron_hours']:.1f} neuron-hours"
    )
    split = [row for row in rows if row.split_stimuli]
    if split:
        most = max(split, key=lambda row: row.split_stimuli)
        console.print(
            f"stimuli both trained on and held out within {len(split)} sessions (most: {most.split_stimuli} in "
            f"{most.session}); --leaks lists them"
        )
    return out.getvalue()


def _tier(row: Row, tier: str) -> str:
    """A tier and its trials, with a word on those whose responses are withheld."""
    n, kept = row.trials[tier], row.withheld.get(tier, 0)
    told = "" if not kept else " (withheld)" if kept == n else f" ({kept} withheld)"
    return f"{tier} {n}{told}"


def _gaps(row: Row) -> str:
    """What is missing, with the shares of missing samples in short (`Row.nan_fraction` has them all)."""
    told = [note for note in row.missing if "% of" not in note]
    behavior = [f for name, f in row.nan_fraction.items() if name != "responses" and f > 0]
    if row.nan_fraction.get("responses", 0) > 0:
        told.append(f"responses {100 * row.nan_fraction['responses']:.3g} %")
    if behavior:
        told.append(f"behavior up to {100 * max(behavior):.3g} %")
    return ", ".join(told)


def _row(key: str, s: dict[str, Any]) -> Row:
    return Row(
        session=key,
        animal=s["animal"],
        n_neurons=s["n_neurons"],
        response_rate=s["response_rate"],
        original_rate=s["original_rate"],
        hours=s["hours"],
        trials=s["trials"],
        tier_hours=s["tier_hours"],
        channels=tuple(s["channels"]),
        behavior_rates=s["behavior_rates"],
        screen_size=None if s["screen_size"] is None else (s["screen_size"][0], s["screen_size"][1]),
        unique_stimulus_hours=s["unique_stimulus_hours"],
        nan_fraction=s["nan_fraction"],
        missing=tuple(s["missing"]),
        ceiling=s["ceiling"],
        withheld=s.get("withheld", {}),
        split_stimuli=s.get("split_stimuli", 0),
    )
