"""Checks the Python code of manifests without running it: it must compile, and define the function that is called."""

from __future__ import annotations

import ast
import symtable
import sys
import warnings

from rft_api.model import Violation


def source_problem(source: str, function: str, advice: str = "") -> Violation | None:
    """The first problem of a module's code; None if there is none.

    Args:
        source: the code.
        function: name of the function that will be called. The module has to define, assign or import it at its top
            level, unless it imports all names of another module (`import *`).
        advice: what else the user may do if the module defines other functions; it ends the message.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # a warning, such as of an invalid escape sequence, is no error
            tree = ast.parse(source)
            # The compiler refuses code that the parser accepts, such as a return outside of a function.
            compile(source, "reward.py", "exec", dont_inherit=True)
            names = symtable.symtable(source, "reward.py", "exec")
    except SyntaxError as error:
        return Violation(f"is not valid Python: {error.msg}{_newer_python(error)}", text_line=error.lineno)
    except (ValueError, RecursionError, MemoryError) as error:
        return Violation(f"is not valid Python: {str(error) or 'it nests too deeply'}")
    if _defines(names, function) or any(_imports_everything(node) for node in ast.walk(tree)):
        return None
    functions = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    others = f": it defines {', '.join(functions)}{advice}" if functions else ", nor any other function"
    return Violation(f"defines no function {function}{others}")


def _newer_python(error: SyntaxError) -> str:
    """A hint for f-strings, which may hold more from Python 3.12 on; the code may have been written for that."""
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


def _imports_everything(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
