"""Data flows one way: a module imports only from its left."""

from __future__ import annotations

import ast
import builtins
import dis
import importlib
import subprocess
import sys
import types
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "omnimouse_jax"
ORDER = ("recordings", "tokens", "model", "training", "evaluate", "probe", "scaling")


def imported(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


@pytest.mark.parametrize("part", ORDER)
def test_a_module_imports_only_from_its_left(part):
    files = list((PACKAGE / part).rglob("*.py"))
    assert files
    allowed = {*ORDER[: ORDER.index(part) + 1], "errors", "files", "configuration", "progress", "pages", "__version__"}
    for path in files:
        for name in imported(path):
            parts = name.split(".")
            if parts[0] == "omnimouse_jax" and len(parts) > 1:
                assert parts[1] in allowed, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("part", ["recordings", "tokens", "scaling"])
def test_loaders_and_plots_need_no_jax(part):
    modules = [
        ".".join(["omnimouse_jax", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        for path in (PACKAGE / part).rglob("*.py")
    ]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nassert 'jax' not in sys.modules and 'flax' not in sys.modules, part"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def names_read(code: types.CodeType) -> set[str]:
    """Global names that functions of a module read, whatever is in strings and annotations."""
    found = {step.argval for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"}
    return found.union(*(names_read(inner) for inner in code.co_consts if isinstance(inner, types.CodeType)))


def test_every_name_that_is_read_exists():
    """Linters cannot look for these here: in shapes such as Float[np.ndarray, "rows columns"] every word is a name to them."""
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(["omnimouse_jax", *path.relative_to(PACKAGE).with_suffix("").parts]).removesuffix(".__init__")
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        read = names_read(compile(path.read_text(), str(path), "exec", dont_inherit=True))
        missing = {one for one in read if not hasattr(module, one) and not hasattr(builtins, one)}
        assert not missing, f"{path.relative_to(PACKAGE)}: {missing}"
