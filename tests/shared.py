"""Check data that lives beside the project and never in it: real recordings, peers' outputs, published tables."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("OMNIMOUSE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared(relative: str) -> Path:
    """The path of a check file, or a skip that says what is missing."""
    path = ROOT / relative
    if not path.exists():
        pytest.skip(f"check data {relative} not found under {ROOT} (set OMNIMOUSE_SHARED)")
    return path
