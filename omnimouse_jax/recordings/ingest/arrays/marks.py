"""Marks that a template leaves in a description where only the owner of the data knows the value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

FILL_IN = "FILL_IN"


def marks(value: Any, where: str = "") -> Iterator[str]:
    """Names of the fields that are still to be filled in."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from marks(inner, f"{where} {name}".strip())
    elif isinstance(value, list):
        for inner in value:
            yield from marks(inner, where)
    elif isinstance(value, str) and FILL_IN in value:
        yield where
