"""Scaling studies of multi-session models of mouse visual cortex.

Data flows one way, and a test holds it so:
recordings -> tokens -> model -> training -> evaluate -> scaling.

In a notebook: `omnimouse_jax.open_run("runs/x")` (docs/new_mouse.md).
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`open_run` is imported when it is asked for: it needs jax, and most that imports this package does not."""
    if name == "open_run":
        from omnimouse_jax.evaluate.opened import open_run

        return open_run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
