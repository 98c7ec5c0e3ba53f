"""Expressions over the columns of a table: which rows to keep, or a column made from others. Nothing is executed.

in_published_fit == 1 and not (family in ('ViT', 'ConvNeXt') or `test loss` > 8)
flops / (6 * n_params)
"""

from __future__ import annotations

import ast
import difflib
import keyword
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnimouse_jax.errors import UserError

Texts = NDArray[Any]  # of any length
Column = NDArray[np.float64] | Texts
Truth = NDArray[np.bool_]
COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
LEARN = "columns, numbers, 'texts', == != < <= > >=, in (..), not in (..), and, or, not, + - * / **, brackets"


def rows_where(text: str, names: list[str], column: Callable[[str, bool], Column], length: int, flag: str) -> Truth:
    """The rows (n,) for which `text` holds. `column(name, numeric)` returns a column as numbers, NaN where missing, or
    as texts. A comparison with a missing number is false. UserError: what is wrong, and how expressions look."""
    with np.errstate(all="ignore"):
        value = _Reader(text, names, column, flag).value()
    if not isinstance(value, np.ndarray) or value.dtype != bool:
        raise UserError(f"{flag} {text!r} is not a condition", way_out='compare something, as in "loss < 4"')
    return np.broadcast_to(value, (length,))


def computed(text: str, names: list[str], column: Callable[[str, bool], Column], length: int, flag: str) -> Column:
    """A column of numbers (n,) from an arithmetic expression."""
    with np.errstate(all="ignore"):
        value = _Reader(text, names, column, flag).value()
    if isinstance(value, np.ndarray) and value.dtype == bool:
        raise UserError(
            f"{flag} {text!r} is a condition, not a number", way_out="name a column or compute with columns"
        )
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (length,))


class _Reader:
    def __init__(self, text: str, names: list[str], column: Callable[[str, bool], Column], flag: str):
        self.text, self.names, self.column, self.flag = text, names, column, flag
        self.quoted: dict[str, str] = {}

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.flag} {self.text!r}: {what}", way_out=f"an expression may have {LEARN}")

    def value(self) -> object:
        def keep(column: str) -> str:
            name = f"quoted_column_{len(self.quoted)}"
            self.quoted[name] = column
            return name

        usual = ("and", "or", "not", "in", "True", "False", "None")
        # a column called `class` cannot be parsed otherwise
        reserved = [name for name in self.names if keyword.iskeyword(name) and name not in usual]
        words = rf"|\b({'|'.join(reserved)})\b" if reserved else "|(?!)()"
        plain = re.sub(
            rf"'[^']*'|\"[^\"]*\"|`([^`]+)`{words}",  # texts stay as they are
            lambda found: keep(found[1] or found[2]) if found[1] or found[2] else found[0],
            self.text,
        )
        try:
            tree = ast.parse(plain.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            hint = "; one '=' is no comparison, write ==" if re.search(r"(?<![=<>!])=(?!=)", plain) else ""
            hint = hint or ("; write and, or, not" if re.search(r"&&|\|\||!(?!=)", plain) else "")
            hint = hint or "; a column with spaces goes between backticks: `test loss`"
            raise self.fail(f"cannot be read{hint}") from None
        try:
            return self.of(tree.body)
        except RecursionError:
            raise self.fail("is nested too deeply") from None

    def of(self, node: ast.expr) -> object:
        """Value of a node: numbers, texts, columns, or truth per row."""
        match node:
            case ast.Constant(value=bool() | int() | float() | str() as value):
                return value
            case ast.Name():
                return self.read(self.name(node), numeric=True)
            case ast.UnaryOp(op=ast.Not()):
                return ~self.truth(node.operand)
            case ast.UnaryOp(op=ast.USub()):
                return -self.number(node.operand)
            case ast.UnaryOp(op=ast.UAdd()):
                return self.number(node.operand)
            case ast.BoolOp():
                parts = [self.truth(part) for part in node.values]
                join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
                return join.reduce(np.broadcast_arrays(*parts))
            case ast.BinOp() if type(node.op) in ARITHMETIC:
                left, right = self.number(node.left), self.number(node.right)
                if not isinstance(left, np.ndarray):
                    left = np.float64(left)
                return ARITHMETIC[type(node.op)](left, right)
            case ast.Compare():
                sides = [node.left, *node.comparators]
                parts = [self.compare(a, op, b) for a, op, b in zip(sides[:-1], node.ops, sides[1:], strict=True)]
                return np.logical_and.reduce(np.broadcast_arrays(*parts))
        raise self.fail(f"{ast.unparse(node)!r} is not allowed" if len(ast.unparse(node)) < 80 else "is not allowed")

    def name(self, node: ast.expr) -> str | None:
        return self.quoted.get(node.id, node.id) if isinstance(node, ast.Name) else None

    def read(self, name: str | None, numeric: bool) -> Column:
        if name not in self.names:
            near = difflib.get_close_matches(str(name), self.names, 3, 0.5) or self.names[:8]
            raise UserError(
                f"{self.flag} {self.text!r}: no column {name!r}",
                way_out=f"there are {', '.join(near)} ..; texts need quotes",
            )
        return self.column(str(name), numeric)

    def truth(self, node: ast.expr) -> Truth:
        value = self.of(node)
        if isinstance(value, bool):
            return np.array(value)
        if isinstance(value, np.ndarray) and value.dtype == bool:
            return value
        raise self.fail(f"{ast.unparse(node)!r} is not a condition")

    def number(self, node: ast.expr) -> NDArray[np.float64] | float | int:
        value = self.of(node)
        if isinstance(value, str) or (isinstance(value, np.ndarray) and value.dtype.kind not in "fiu"):
            raise self.fail(f"{ast.unparse(node)!r} is not a number")
        return value  # type: ignore[return-value]

    def compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Truth:
        if isinstance(op, ast.In | ast.NotIn):
            items = right.elts if isinstance(right, ast.Tuple | ast.List | ast.Set) else [right]
            found = [self.compare(left, ast.Eq(), item) for item in items]
            inside = np.logical_or.reduce(np.broadcast_arrays(*found)) if found else np.array(False)
            return inside if isinstance(op, ast.In) else ~inside
        if type(op) not in COMPARISONS:
            raise self.fail("`is` is not allowed, write ==")
        texts = [isinstance(side, ast.Constant) and isinstance(side.value, str) for side in (left, right)]
        if any(texts):  # a text makes its column one of texts
            a, b = (
                self.read(self.name(side), numeric=False) if isinstance(side, ast.Name) else self.of(side)
                for side in (left, right)
            )
            if not all(isinstance(v, str) or (isinstance(v, np.ndarray) and v.dtype.kind == "U") for v in (a, b)):
                raise self.fail("a text is compared with a number")
        else:
            a, b = self.of(left), self.of(right)
            if any(isinstance(v, np.ndarray) and v.dtype == bool for v in (a, b)):
                raise self.fail("compares conditions; put brackets around each")
        truth = np.asarray(COMPARISONS[type(op)](a, b), dtype=bool)
        for side in (a, b):
            if isinstance(side, np.ndarray) and side.dtype.kind == "f":
                truth = truth & ~np.isnan(side)
        return truth
