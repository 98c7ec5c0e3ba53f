"""Config files and their overrides: `configs/NAME.py` has `get_config()`, a flag is `--config.path.to.field=value`.

A run's own config.json is a config too: it goes on from there.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from omnimouse_jax.errors import UserError

PREFIX = "--config."
#: What every run's config.json has.
GROUPS = ("model", "data", "optimizer", "train", "evaluation", "mesh")


def load(path: str | Path, overrides: Iterable[str] = ()) -> ConfigDict:
    """The config of a Python file, or of a run's config.json, with `--config.a.b=value` overrides applied, locked.

    Errors name the file, or the nearest field that exists, or the type that the field has.
    """
    path = Path(path)
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*.py")) if path.parent.is_dir() else []
        raise UserError(
            f"config file {path} not found", way_out=f"in {path.parent}/ there is: {', '.join(near) or 'nothing'}"
        )
    config = _from_json(path) if path.suffix == ".json" else _from_python(path)
    for override in overrides:
        apply(config, override)
    return config.lock()


def _from_json(path: Path) -> ConfigDict:
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"config file {path} is not JSON ({error})", way_out="name a run's config.json") from None
    missing = [group for group in GROUPS if not isinstance(values, dict) or not isinstance(values.get(group), dict)]
    if missing:
        raise UserError(f"config file {path} has no group {missing[0]!r}", way_out="name a run's config.json")
    return ConfigDict(tuples(values))


def tuples(value: Any) -> Any:
    """JSON lists back to the tuples that configs hold."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(tuples(inner) for inner in value) if isinstance(value, list) else value


def _from_python(path: Path) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UserError(f"config file {path} has no get_config()", way_out="define get_config() returning a ConfigDict")
    return module.get_config()


def override(config: ConfigDict, field: str, value: Any) -> None:
    """Sets one dotted field, which must exist, to a value of the type that it has."""
    *parents, name = field.split(".")
    node = config
    for depth, parent in enumerate(parents):
        node = _child(node, parent, ".".join(parents[:depth]), field)
        if not isinstance(node, ConfigDict):
            raise UserError(f"config: {'.'.join(parents[: depth + 1])} has no fields", way_out=_nearest(config, field))
    old = _child(node, name, ".".join(parents), field, config)
    if isinstance(old, ConfigDict):
        inside = ", ".join(f"{field}.{key}" for key in old)
        raise UserError(
            f"config: {field} is a group of fields",
            way_out=f"set one of them: {inside}" if inside else "its fields are named in the config file",
        )
    with node.unlocked():
        node[name] = _of_type(value, old, field)


def fields(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Every dotted field with its value."""
    flat: dict[str, Any] = {}
    for key in config:
        value = config[key]
        name = f"{prefix}{key}"
        if isinstance(value, ConfigDict):
            flat.update(fields(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def apply(config: ConfigDict, flag: str) -> None:
    """Sets what a flag `--config.path.to.field=value` says."""
    if not flag.startswith(PREFIX) or "=" not in flag:
        raise UserError(f"argument {flag!r} not understood", way_out="write overrides as --config.path.to.field=value")
    field, text = flag.removeprefix(PREFIX).split("=", 1)
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    old = fields(config).get(field)
    if isinstance(old, str) and not isinstance(value, str) and value is not None:
        value = text
    override(config, field, value)


def _child(node: ConfigDict, name: str, where: str, field: str, root: ConfigDict | None = None) -> Any:
    if name not in node:
        valid = [f"{where}.{key}" if where else key for key in node]
        close = difflib.get_close_matches(f"{where}.{name}" if where else name, valid, 1, 0.3)
        if not close and root is not None:
            raise UserError(f"config: unknown field {field}", way_out=_nearest(root, field))
        if root is None and difflib.get_close_matches(field, fields(node) if not where else [], 1, 0.6):
            raise UserError(f"config: unknown field {field}", way_out=_nearest(node, field))
        hint = f"did you mean {close[0]}?" if close else f"valid here: {', '.join(valid)}"
        raise UserError(f"config: unknown field {field}", way_out=hint)
    return node[name]


def _nearest(config: ConfigDict, field: str) -> str:
    close = difflib.get_close_matches(field, fields(config), 1, 0.0)
    return f"the nearest valid field is {close[0]}"


def _of_type(value: Any, old: Any, field: str) -> Any:
    """`value` as the type of `old`; a field that is None by default takes anything."""
    if old is None:
        return value
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple):
        if isinstance(value, str):
            value = (value,)
        if isinstance(value, list | tuple):
            return tuple(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return (value,)
    if isinstance(old, int) and not isinstance(old, bool) and isinstance(value, float) and value == int(value):
        return int(value)
    if type(value) is not type(old):
        raise UserError(
            f"config: {field} is {type(old).__name__} ({old!r}), got {type(value).__name__} {value!r}",
            way_out=f"write {PREFIX}{field}=<{type(old).__name__}>",
        )
    return value
