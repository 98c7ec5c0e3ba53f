"""Trees of scores by Brain-Score's rule: a node is the mean of all children that were declared for it, and what failed or is
missing counts as 0. Leaves are already ceiled. (Found from the arithmetic of a published score page; docs/benchmarks.md.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: name -> its children, or the benchmarks that are its leaves.
Declared = Mapping[str, "Declared | Sequence[str]"]


def tree(name: str, declared: Declared | Sequence[str], scores: Mapping[str, float | None]) -> dict[str, Any]:
    """The node with its children below it. `scores`: benchmark -> score, None where it failed."""
    if isinstance(declared, Mapping):
        children = [tree(child, below, scores) for child, below in declared.items()]
    else:
        children = [{"name": leaf, "score": scores.get(leaf), "state": _state(leaf, scores)} for leaf in declared]
    if not children:
        raise ValueError(f"node {name}: no children declared")
    total = sum(child["score"] or 0.0 for child in children)
    return {"name": name, "score": total / len(children), "children": children}


def _state(leaf: str, scores: Mapping[str, float | None]) -> str:
    if leaf not in scores:
        return "missing, counts as 0"
    return "failed, counts as 0" if scores[leaf] is None else "scored"


def lines(node: Mapping[str, Any], depth: int = 0) -> list[str]:
    """The tree as text."""
    value = "  X  " if node["score"] is None else f"{node['score']:.3f}"
    note = "" if node.get("state", "scored") == "scored" else f"   ({node['state']})"
    told = [f"{value}  {'  ' * depth}{node['name']}{note}"]
    return told + [line for child in node.get("children", ()) for line in lines(child, depth + 1)]
