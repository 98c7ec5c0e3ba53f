"""For which devices a program is traced: kind (the one that is here, or one that somebody only asks about) and mesh axes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import jax

#: Axes of a mesh over which the rows of a batch are split.
BATCH_AXES = ("data", "fsdp")

_ASSUMED: ContextVar[str | None] = ContextVar("assumed platform", default=None)


def platform() -> str:
    """`cpu`, `gpu` or `tpu`."""
    return _ASSUMED.get() or jax.default_backend()


def kernels_run() -> bool:
    """Whether that kind of device is here, so that its libraries' kernels can be compiled."""
    return _ASSUMED.get() in (None, jax.default_backend())


@contextlib.contextmanager
def assume(kind: str) -> Iterator[None]:
    """Within: programs are traced as for such a device, as far as a compiler for another one can follow."""
    token = _ASSUMED.set(kind)
    try:
        yield
    finally:
        _ASSUMED.reset(token)
