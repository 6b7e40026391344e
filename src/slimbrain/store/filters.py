"""Which rows of a table a short expression holds for: comparisons of columns with numbers and texts, joined by and, or, not.

`pandas.eval` computes it. What reaches pandas is not the text but what is left of its syntax tree once everything outside a short list
was refused: pandas alone would follow attributes, call methods and look up `@` names of the program around it.
"""

from __future__ import annotations

import ast
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from slimbrain.disk.tsv import MISSING
from slimbrain.errors import InputError

_BoolArray = npt.NDArray[np.bool_]
_Kind = Literal["numbers", "texts"]

_LONGEST = 2000
"""Characters of an expression; more than a person writes."""

_DEEPEST = 24
"""Levels of its syntax tree, of which brackets alone make none; pandas needs many calls for each."""

_LARGEST = 1e300
"""Of numbers to compare with: a float holds it."""

_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_MEMBERSHIPS = (ast.In, ast.NotIn)

_GRAMMAR = "write comparisons such as age >= 18, sex == 'F' or site in ['A', 'B'], joined by and, or, not"


Cells = tuple[_Kind, npt.NDArray[Any], _BoolArray]
"""Kind of a column, its values, and which are filled."""


def rows_that(expression: str, columns: Mapping[str, Sequence[str | None]], rows: int, known: dict[str, Cells] | None = None) -> _BoolArray:
    """Where an expression holds: (N,) bool.

    A column is of numbers if every cell that is filled is one, else of texts. Numbers are compared with numbers and texts with texts. A
    comparison with an empty cell, or `n/a`, does not hold, whichever it is.

    Parameters
    ----------
    expression : str
        Such as `cohort == 'hcp' and coverage >= 0.9`; also != < <= >, `in` and `not in` with a list, parentheses.
    columns : mapping
        N cells of each column; only those named are read.
    rows : int
        N.
    known : dict, optional
        Columns that were read for another expression; those read now are added.

    Raises
    ------
    InputError
        If it is anything else, or names a column that is not there.
    """
    tree = _parse(expression)
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if unknown := sorted(named - set(columns)):
        raise InputError(f"filter {expression!r}: there is no column {unknown[0]}; there are {', '.join(sorted(columns))}.")
    # pandas would take a column called `list` or `nan` for its own; these names mean nothing to it.
    safe = {name: f"column_{number}" for number, name in enumerate(sorted(named))}
    values: dict[str, Any] = {}
    kinds: dict[str, _Kind] = {}
    known = {} if known is None else known
    for name in named:
        if name not in known:
            known[name] = _cells(columns[name])
        kinds[name], values[safe[name]], values[f"has_{safe[name]}"] = known[name]
    return _evaluate(ast.unparse(_Checked(expression, kinds, safe).visit(tree)), values, rows)


def _parse(expression: str) -> ast.Expression:
    if len(expression) > _LONGEST:
        raise InputError(f"filter {expression[:40]!r}...: has {len(expression)} characters; {_LONGEST} are the most.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            tree = ast.parse(expression.strip(), mode="eval")
            _require_shallow(tree, _DEEPEST)
            return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError, Warning) as error:
        raise InputError(f"filter {expression!r}: cannot be read ({str(error).splitlines()[0]}); {_GRAMMAR}.") from error


def _require_shallow(node: ast.AST, levels: int) -> None:
    if not levels:
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    for child in ast.iter_child_nodes(node):
        _require_shallow(child, levels - 1)


class _Checked(ast.NodeTransformer):
    """Lets through what the grammar has and refuses everything else; a comparison also asks that its cells are filled."""

    def __init__(self, expression: str, kinds: Mapping[str, _Kind], safe: Mapping[str, str]) -> None:
        self.expression, self.kinds, self.safe = expression, kinds, safe

    def generic_visit(self, node: ast.AST) -> ast.AST:
        raise self._refusal(f"{type(node).__name__} is not allowed")

    def visit_Expression(self, node: ast.Expression) -> ast.Expression:
        return ast.Expression(self.visit(node.body))

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.BoolOp:
        return ast.BoolOp(node.op, [self.visit(value) for value in node.values])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.UnaryOp:
        if not isinstance(node.op, ast.Not):
            raise self._refusal(f"{type(node.op).__name__} is not allowed here")
        return ast.UnaryOp(node.op, self.visit(node.operand))

    def visit_Compare(self, node: ast.Compare) -> ast.BoolOp:
        operands = [node.left, *node.comparators]
        pairs: list[ast.expr] = []
        for left, sign, right in zip(operands, node.ops, operands[1:], strict=False):
            if not isinstance(sign, (*_COMPARISONS, *_MEMBERSHIPS)):
                raise self._refusal(f"{type(sign).__name__} is not allowed")
            kinds = self._kind(left) | self._kind(right, isinstance(sign, _MEMBERSHIPS))
            if len(kinds) > 1:
                raise self._refusal("compares numbers with texts; put texts in quotes, and leave numbers without")
            pairs.append(ast.Compare(self._renamed(left), [sign], [self._renamed(right)]))
        named = [self.safe[operand.id] for operand in operands if isinstance(operand, ast.Name)]
        if not named:
            raise self._refusal("compares no column")
        return ast.BoolOp(ast.And(), [*(ast.Name(f"has_{name}", ast.Load()) for name in named), *pairs])

    def _kind(self, operand: ast.expr, of_list: bool = False) -> set[_Kind]:
        """Whether an operand holds numbers or texts; a list, after `in`, may hold neither."""
        if of_list:
            if not isinstance(operand, (ast.List, ast.Tuple)) or not operand.elts:
                raise self._refusal("`in` asks for a list such as ['A', 'B']")
            if any(isinstance(part, ast.Name) for part in operand.elts):
                raise self._refusal("a list holds numbers or texts; put texts in quotes")
            return set().union(*(self._kind(part) for part in operand.elts))
        if isinstance(operand, ast.Name):
            return {self.kinds[operand.id]}
        value = _literal(operand)
        if isinstance(value, str):
            return {"texts"}
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST:
            return {"numbers"}
        raise self._refusal(f"{type(operand).__name__} cannot be compared")

    def _renamed(self, operand: ast.expr) -> ast.expr:
        if isinstance(operand, ast.Name):
            return ast.Name(self.safe[operand.id], ast.Load())
        if isinstance(operand, (ast.List, ast.Tuple)):
            return ast.List([self._renamed(part) for part in operand.elts], ast.Load())
        value = _literal(operand)
        # Whole numbers that no float holds would be compared as Python's own, cell by cell.
        return ast.Constant(value if isinstance(value, str) else float(value))

    def _refusal(self, why: str) -> InputError:
        return InputError(f"filter {self.expression!r}: {why}; {_GRAMMAR}.")


def _literal(operand: ast.expr) -> Any:
    """The number or text that an operand is; a sign may stand before a number. None for anything else."""
    if isinstance(operand, ast.UnaryOp) and isinstance(operand.op, (ast.USub, ast.UAdd)) and isinstance(operand.operand, ast.Constant):
        value = operand.operand.value
        negative = isinstance(operand.op, ast.USub)
        return (-value if negative else value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
    return operand.value if isinstance(operand, ast.Constant) else None


def _cells(cells: Sequence[str | None]) -> Cells:
    distinct = set(cells) - {None, "", MISSING}
    texts = [cell if cell in distinct else "" for cell in cells]
    filled = np.array(list(map(bool, texts)), dtype=bool)
    try:
        # Of each value once: columns have few.
        numbers = {cell: float(cell or "") for cell in distinct}
        # `nan` and `inf` are words here, not numbers.
        if all(map(math.isfinite, numbers.values())):
            return "numbers", np.array([numbers.get(cell, math.nan) for cell in texts], dtype=float), filled
    except ValueError:
        pass
    return "texts", np.array(texts, dtype=object), filled


def _evaluate(checked: str, values: Mapping[str, npt.NDArray[Any]], rows: int) -> _BoolArray:
    import pandas

    columns = {name: pandas.Series(column, dtype=column.dtype) for name, column in values.items()}
    # numexpr, where it is installed, knows no texts.
    found = pandas.eval(checked, parser="pandas", engine="python", resolvers=[columns], local_dict={}, global_dict={})
    return np.broadcast_to(np.asarray(found, dtype=bool), (rows,))
