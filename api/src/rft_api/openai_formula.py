"""Parses the formulas of OpenAI's multi graders (`calculate_output`) into nested lists that a program can evaluate."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection
from typing import Any

Formula = float | str | list[Any]
"""A number, the key of a grader, or an operation with its operands, such as ["+", a, b]."""

_OPERATORS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.Pow: "^"}
FUNCTIONS = {"min": None, "max": None, "abs": 1, "floor": 1, "ceil": 1, "exp": 1, "sqrt": 1, "log": 1}
"""The functions of a formula, with their number of arguments. None stands for any number from one on."""


def parse_formula(text: str, keys: Collection[str]) -> Formula:
    """Parse a formula.

    Raises:
        ValueError: the text contains anything but numbers, keys of graders, + - * / ^, parentheses and `FUNCTIONS`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):
            # Python writes powers as **. Its operator ^ has a lower precedence than +.
            tree = ast.parse(" ".join(text.split()).replace("^", "**"), mode="eval")
        return _parse(tree.body, keys)
    except SyntaxError:
        raise ValueError("is not a formula of numbers, graders, + - * / ^, parentheses and functions") from None
    except (RecursionError, MemoryError):
        raise ValueError("nests too deeply") from None


def _parse(node: ast.expr, keys: Collection[str]) -> Formula:
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ValueError(f"holds a number that is too large: {ast.unparse(node)[:40]}") from None
        case ast.Name(id=name) if name in keys:
            return name
        case ast.Name(id=name):
            raise ValueError(f"there is no grader {name}; there is {', '.join(keys)}")
        case ast.UnaryOp(op=ast.USub()):
            return ["-", 0.0, _parse(node.operand, keys)]
        case ast.UnaryOp(op=ast.UAdd()):
            return _parse(node.operand, keys)
        case ast.BinOp() if type(node.op) in _OPERATORS:
            return [_OPERATORS[type(node.op)], _parse(node.left, keys), _parse(node.right, keys)]
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in FUNCTIONS and arguments:
            if FUNCTIONS[name] not in (None, len(arguments)):
                raise ValueError(f"{name} takes {FUNCTIONS[name]} argument")
            return [name, *(_parse(argument, keys) for argument in arguments)]
    raise ValueError(
        f"cannot hold {ast.unparse(node)[:40]}: only numbers, graders, + - * / ^, parentheses "
        f"and {', '.join(FUNCTIONS)}"
    )
