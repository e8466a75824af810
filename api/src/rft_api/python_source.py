"""Checks the Python code of manifests without running it: it must compile, and define the function that is called."""

from __future__ import annotations

import ast
import symtable
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from rft_api.model import Violation

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """An import in the code."""

    module: str
    """Name of the module with its packages, such as scipy.stats."""
    line: int
    """Line of the import."""
    level: int
    """Number of dots in front of the name: 0 unless the import is relative."""
    is_optional: bool
    """Whether the code goes on when there is no such module, because it catches the error."""


def imported_modules(source: str) -> list[Import]:
    """Return the imports of a module's code, wherever they are; none if the code is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            return list(_imports(ast.parse(source), is_optional=False))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _imports(node: ast.AST, is_optional: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, 0, is_optional)
        elif isinstance(child, ast.ImportFrom):
            yield Import(child.module or child.names[0].name, child.lineno, child.level, is_optional)
        elif isinstance(child, ast.Try) and any(_catches_import_error(handler) for handler in child.handlers):
            for part in child.body:
                yield from _imports(ast.Module([part], []), is_optional=True)
            for rest in (*child.handlers, *child.orelse, *child.finalbody):
                yield from _imports(ast.Module([rest], []), is_optional)  # type: ignore[list-item]
        else:
            yield from _imports(child, is_optional)


def _catches_import_error(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    types = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    names = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
    return any(isinstance(kind, ast.Name) and kind.id in names for kind in types)


def text_constants(source: str) -> dict[str, int]:
    """Return the texts in the code, each with the first line in which it stands; none if the code is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    lines: dict[str, int] = {}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            lines[node.value] = min(node.lineno, lines.get(node.value, node.lineno))
    return lines


def syntax_problem(source: str) -> Violation | None:
    """Return why a module's code is not valid Python; None if it is."""
    try:
        with warnings.catch_warnings(action="ignore"):  # a warning, such as of an invalid escape sequence, is no error
            # The compiler refuses code that the parser accepts, such as a return outside of a function.
            compile(source, "reward.py", "exec", dont_inherit=True)
    except SyntaxError as error:
        return Violation(f"is not valid Python: {error.msg}{_newer_python(error)}", text_line=error.lineno)
    except (ValueError, RecursionError, MemoryError) as error:
        return Violation(f"is not valid Python: {str(error) or 'it nests too deeply'}")
    return None


def source_problem(source: str, function: str, advice: str = "") -> Violation | None:
    """Return the first problem of a module's code; None if there is none.

    Args:
        source: the code.
        function: name of the function that will be called. The module has to define, assign or import it at its top
            level, unless it imports all names of another module (`import *`).
        advice: what else the user may do if the module defines other functions; it ends the message.
    """
    problem = syntax_problem(source)
    if problem is not None:
        return problem
    with warnings.catch_warnings(action="ignore"):
        tree, names = ast.parse(source), symtable.symtable(source, "reward.py", "exec")
    if _defines(names, function) or any(_imports_everything(node) for node in ast.walk(tree)):
        return None
    functions = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    others = f": it defines {', '.join(functions)}{advice}" if functions else ", nor any other function"
    return Violation(f"defines no function {function}{others}")


def call_problem(source: str, function: str, arguments: str) -> Violation | None:
    """Return why a function of a module cannot be called with two arguments; None if it can, or if the code does not
    show it.

    Args:
        source: the code, which is valid Python.
        function: name of the function.
        arguments: the two arguments, for the message, such as `event, context`.
    """
    with warnings.catch_warnings(action="ignore"):
        definition = _only_definition(ast.parse(source), function)
    if definition is None or takes_two_arguments(definition):
        return None
    own = ast.unparse(definition.args)
    message = f"{function} takes ({own}), but it is called with two arguments: ({arguments})"
    return Violation(message, text_line=definition.lineno)


def takes_two_arguments(definition: Definition) -> bool:
    """Return whether a function can be called with two arguments, as those that score are: by position."""
    parameters = definition.args
    positional = [*parameters.posonlyargs, *parameters.args]
    required = len(positional) - len(parameters.defaults)
    named = any(default is None for default in parameters.kw_defaults)
    return required <= 2 and not named and (len(positional) >= 2 or parameters.vararg is not None)


def _newer_python(error: SyntaxError) -> str:
    """Return a hint for f-strings, which may hold more from Python 3.12 on; the code may have been written for that."""
    if sys.version_info >= (3, 12) or "f-string" not in error.msg:
        return ""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return f"; this is Python {version}, and the f-string may need Python 3.12"


def _defines(names: symtable.SymbolTable, function: str) -> bool:
    try:
        symbol = names.lookup(function)
    except KeyError:
        return False
    return symbol.is_assigned() or symbol.is_imported()


def _only_definition(tree: ast.Module, name: str) -> Definition | None:
    """Return the definition of a function; None if it is decorated, or if anything else in the code may bind its
    name."""
    bindings = [node for node in ast.walk(tree) if name in _bound_names(node)]
    match bindings:
        case [ast.FunctionDef() | ast.AsyncFunctionDef() as definition] if definition in tree.body:
            return None if definition.decorator_list else definition
    return None


def _bound_names(node: ast.AST) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.Name(ctx=ast.Store() | ast.Del()):
            return [node.id]
        case ast.alias():
            return [node.asname or node.name]
    return []


def _imports_everything(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
