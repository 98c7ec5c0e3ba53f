"""The report of a linter: findings of each session, in the order of their weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omnimouse_jax.errors import UserError
from omnimouse_jax.recordings.ingest.arrays.marks import marks
from omnimouse_jax.recordings.ingest.files import nearest

T = TypeVar("T")
LEVELS = ("error", "warning", "fine")


@dataclass(frozen=True)
class Finding:
    """One line of a report: how bad, which field, what is so, and the way out."""

    level: str
    field: str
    what: str
    way_out: str = ""

    def line(self) -> str:
        told = f"{self.level:<8} {self.field}: {self.what}"
        return f"{told} - {self.way_out}" if self.way_out else told


@dataclass
class SessionReport:
    """Findings of one session and, if it can be read, what a model will see."""

    name: str
    file: Path
    findings: list[Finding] = field(default_factory=list)
    summary: list[str] = field(default_factory=list)

    def add(self, level: str, where: str, what: str, way_out: str = "") -> None:
        """Keeps a finding once."""
        found = Finding(level, where, what, way_out)
        if found not in self.findings:
            self.findings.append(found)

    def attempt(self, where: str, step: Callable[[], T], said: str = "") -> T | None:
        """The result of a step, or none and an error in the report (without `said`, which the field says already)."""
        try:
            return step()
        except UserError as error:
            what = error.what.removeprefix(f"session {self.name}: ").removeprefix(f"file {self.file}: ")
            for named in (f"{said}: ", f"{where}: ", f"field {where} ", f"{where.rpartition(' ')[0]}: "):
                what = what.removeprefix(named)
            self.add("error", where, what, error.way_out)
        except (ValueError, TypeError, IndexError) as error:  # a value of a kind that nobody thought of
            self.add("error", where, f"cannot be used ({' '.join(str(error).split())[:100]})", "look at docs/data.md")
        return None

    def count(self, level: str) -> int:
        return sum(f.level == level for f in self.findings)


@dataclass(frozen=True)
class Report:
    """What was found in one session or in a folder of them."""

    sessions: tuple[SessionReport, ...]

    @property
    def n_errors(self) -> int:
        """Findings that `ingest` would refuse."""
        return sum(s.count("error") for s in self.sessions)

    @property
    def n_warnings(self) -> int:
        return sum(s.count("warning") for s in self.sessions)

    def lines(self) -> list[str]:
        """The report as text: for each session errors, warnings, what is fine, and the summary."""
        out = []
        for session in self.sessions:
            out.append(f"session {session.name}")
            ordered = sorted(session.findings, key=lambda f: LEVELS.index(f.level))
            out += [f"  {f.line()}" for f in ordered]
            out += [f"  {line}" for line in session.summary]
        n = len(self.sessions)
        told = f"{n} session{'s' * (n != 1)}: {self.n_errors} errors, {self.n_warnings} warnings"
        return [*out, told if self.n_errors else f"{told}, ready to ingest"]


def unknown_fields(report: SessionReport, where: str, given: Any, known: tuple[str, ...]) -> None:
    for name in fields_of(given):
        if name not in known:
            report.add("error", where, f"unknown field {name}", nearest(str(name), known))


def fields_of(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def is_open(value: Any) -> bool:
    return any(True for _ in marks(value))
