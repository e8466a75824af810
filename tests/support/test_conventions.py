"""What holds for the code of all tests, and how large files of the product may be."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))
GRADED = [TESTS / "reward" / name for name in ("attack_code.py", "hostile_reward.py")]
"""Code that is graded, not a test."""


def nodes(file: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(file.read_text(encoding="utf-8")))


def imported(file: Path) -> Iterator[str]:
    for node in nodes(file):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def deadlines(file: Path) -> Iterator[int]:
    """Lines that state a time limit as a number."""
    for node in nodes(file):
        if isinstance(node, ast.Call):
            limits = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"]
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("wait", "join", "result"):
                limits += node.args[:1]
            if ast.unparse(node.func) in ("pytest.mark.timeout", "asyncio.timeout"):
                limits += node.args[:1]
            if any(map(is_number, limits)):
                yield node.lineno
        elif isinstance(node, ast.BinOp) and ast.unparse(node.left) == "time.monotonic()" and is_number(node.right):
            yield node.lineno


def by_file(found: Callable[[Path], Iterable[object]], files: Iterable[Path]) -> dict[str, list[object]]:
    listed = {file.relative_to(TESTS).as_posix(): list(found(file)) for file in files}
    return {name: entries for name, entries in listed.items() if entries}


def test_no_test_imports_another_test():
    """What tests share is in modules of its own; the package `tests` would be a second copy of them."""

    def wrong(file: Path) -> Iterator[str]:
        for name in imported(file):
            if name.split(".")[0] == "tests" or name.split(".")[-1].startswith(("test_", "conftest")):
                yield name

    assert by_file(wrong, FILES) == {}


def test_no_test_has_a_time_limit_of_its_own():
    """How long to wait is decided in support/patience.py alone."""
    assert by_file(deadlines, (file for file in FILES if file not in GRADED)) == {}


def test_no_file_of_the_product_has_more_than_400_lines():
    files = TESTS.parent.glob("*/src/**/*.py")
    sizes = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {file: size for file, size in sizes.items() if size > 400} == {}
