"""What accelerators can do, as their makers state it: dense peak rates, memory and its bandwidth. No measurement of ours."""

from __future__ import annotations

from typing import NamedTuple

from omnimouse_jax.errors import UserError


class Chip(NamedTuple):
    """FLOP/s of dense matrix products, without sparsity; bytes; bytes per second."""

    name: str
    bfloat16: float
    float32: float  # as jax multiplies float32 matrices by default: TF32 on GPU, bfloat16 passes on TPU
    memory: float
    bandwidth: float
    source: str

    def peak(self, dtype: str) -> float:
        return self.bfloat16 if dtype == "bfloat16" else self.float32


T, GB = 1e12, 1e9
CHIPS: dict[str, Chip] = {
    "a100-40gb": Chip("NVIDIA A100 40 GB", 312 * T, 156 * T, 40 * GB, 1.555 * T, "NVIDIA A100 data sheet"),
    "a100-80gb": Chip("NVIDIA A100 80 GB", 312 * T, 156 * T, 80 * GB, 2.039 * T, "NVIDIA A100 data sheet"),
    "h100": Chip("NVIDIA H100 SXM", 989 * T, 494 * T, 80 * GB, 3.35 * T, "NVIDIA H100 data sheet"),
    "h200": Chip("NVIDIA H200 SXM", 989 * T, 494 * T, 141 * GB, 4.8 * T, "NVIDIA H200 data sheet"),
    "tpu-v4": Chip("TPU v4", 275 * T, 275 * T, 32 * GB, 1.2 * T, "Google Cloud TPU documentation"),
    "tpu-v5e": Chip("TPU v5e", 197 * T, 197 * T, 16 * GB, 0.82 * T, "Google Cloud TPU documentation"),
    "tpu-v5p": Chip("TPU v5p", 459 * T, 459 * T, 95 * GB, 2.765 * T, "Google Cloud TPU documentation"),
    "tpu-v6e": Chip("TPU v6e", 918 * T, 918 * T, 32 * GB, 1.64 * T, "Google Cloud TPU documentation"),
}


def chip_named(name: str) -> Chip:
    """Raises UserError that lists the chips there are."""
    if name.lower() not in CHIPS:
        raise UserError(f"no chip {name!r} in the list", way_out=f"use one of {', '.join(CHIPS)}")
    return CHIPS[name.lower()]
