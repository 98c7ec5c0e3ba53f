"""Which regimes share a compiled program, chosen by what a model's forward pass costs, and how to look at that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from omnimouse_jax.errors import UserError
from omnimouse_jax.model.config import ModelConfig
from omnimouse_jax.model.flops import context_groups, query_groups, total_flops
from omnimouse_jax.tokens.classes import Plan
from omnimouse_jax.tokens.layout import Layout
from omnimouse_jax.tokens.regimes import Regime


def plan_of(config: ModelConfig, regimes: Sequence[Regime], n_slots: int, at_most: int) -> Plan:
    """Which of at most `at_most` programs each regime runs in, at the least extra work (0: exact shapes)."""
    if at_most < 0:
        raise UserError(
            f"config: train.programs is {at_most}",
            way_out="use a positive number, or 0 for one program per exact shape",
        )
    return Plan.of(regimes, config.grid, n_slots, lambda layout: total_flops(config, layout), at_most)


def describe(config: ModelConfig, plan: Plan) -> dict[str, Any]:
    """Numbers of a plan, and one row per program: what its layout holds, what it costs, what its regimes pay extra."""
    rows = []
    for program in plan.programs:
        own = [i for i, cover in enumerate(plan.covers) if cover == program]
        weights = [plan.regimes[i].weight for i in own]
        exact = float(np.average([total_flops(config, plan.layouts[i]) for i in own], weights=weights))
        rows.append(
            {
                "regimes": [plan.regimes[i].name for i in own],
                "latent_windows": list(program.latent_windows),
                "video_steps": list(range(*program.video_steps)),
                "behavior": program.behavior,
                "context": [[r.n_neurons, program.grid.response_steps(r.n_samples)] for r in program.context],
                "encoder_tokens": context_groups(config, program).total,
                "queries": query_groups(config, program).total,
                "forward_flops": total_flops(config, program),
                "padding": total_flops(config, program) / exact - 1,
            }
        )
    exact, paid = plan.expected(lambda layout: total_flops(config, layout))
    return {
        "n_regimes": len(plan.regimes),
        "n_layouts": len(set(plan.layouts)),
        "n_shapes": len({_shape(config, layout) for layout in plan.layouts}),
        "n_programs": len(rows),
        "forward_flops": paid,
        "forward_flops_exact": exact,
        "padding": paid / exact - 1,
        "programs": rows,
    }


def _shape(config: ModelConfig, layout: Layout) -> tuple[int, ...]:
    """Numbers of context tokens, windows with latents, video steps and queries: all array sizes follow from them."""
    first, last = layout.video_steps
    context, queries = context_groups(config, layout), query_groups(config, layout)
    return context.total, len(layout.latent_windows), last - first, queries.total
