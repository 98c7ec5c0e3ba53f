"""What a call of `finetune` asks for, and whether it can be done in the folder that it names."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from omnimouse_jax.errors import UserError
from omnimouse_jax.evaluate.new_mouse_runs import STAGES, Length
from omnimouse_jax.evaluate.starts import STARTS

#: Minutes of a learning curve, as far as there are so many.
CURVE = (1.0, 2.0, 5.0)
#: How long each kind of model is trained at most: adapted rows are few and learn fast.
LENGTHS = {
    "tables": Length(400, 20, 6),
    "adapters": Length(400, 20, 6),
    "core": Length(400, 20, 6),
    "scratch": Length(2000, 100, 6),
}
#: Learning rates of a model from scratch, in units of the pre-training's; the best by validation loss is taken.
SCRATCH_RATES = (1.0, 0.3)


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a call of `finetune` is about. `minutes`: points of the learning curve; None: the usual ones, (): none."""

    run: Path
    store: str
    sessions: tuple[str, ...]
    workdir: Path
    checkpoint: str = ""
    stages: tuple[str, ...] = ("tables",)
    minutes: tuple[float, ...] | None = None
    start: str = "random"
    scratch: bool = True
    ridge: bool = True
    seed: int = 0
    lengths: dict[str, Length] = dataclasses.field(default_factory=lambda: dict(LENGTHS))
    scratch_rates: tuple[float, ...] = SCRATCH_RATES

    def to_json(self) -> dict[str, Any]:
        """What must be the same for a call to go on where another one stopped."""
        fields = {**vars(self), "run": str(self.run.resolve())}
        for name in ("workdir", "minutes", "scratch", "ridge"):
            del fields[name]
        fields["lengths"] = {name: dataclasses.asdict(length) for name, length in self.lengths.items()}
        return json.loads(json.dumps(fields))


def require_sensible(asked: Asked) -> None:
    if not asked.sessions:
        raise UserError("finetune: no session named", way_out="name one or more: --session KEY")
    if len(set(asked.sessions)) < len(asked.sessions):
        raise UserError("finetune: a session is named twice", way_out="name each session once")
    if (
        asked.stages[:1] != ("tables",)
        or len(set(asked.stages)) < len(asked.stages)
        or set(asked.stages) - STAGES.keys()
    ):
        raise UserError(
            f"finetune: stages {','.join(asked.stages)}", way_out="use tables; tables,adapters; or tables,core"
        )
    if asked.start not in STARTS:
        raise UserError(f"finetune: no start {asked.start!r}", way_out=f"use one of {', '.join(STARTS)}")
    if asked.minutes and min(asked.minutes) <= 0:
        raise UserError(f"finetune: {min(asked.minutes):g} minutes", way_out="use positive numbers of minutes")


def require_same_call(asked: Asked) -> None:
    """UserError where the folder belongs to another call; points of the curve may be added."""
    file = asked.workdir / "asked.json"
    if not file.exists():
        return
    before, now = json.loads(file.read_text()), asked.to_json()
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        told = "; ".join(f"{name}: {before.get(name)!r} -> {now[name]!r}" for name in changed)
        raise UserError(f"{asked.workdir}: holds what another call made ({told})", way_out="use a new --workdir")
