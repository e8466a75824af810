"""Runs assert tests in a process that contains the tests, but no code of the completion.

What the completion defines is called in the process of the completion. In this process, its results are plain data, or
`Remote` objects, which are never equal to a value of the tests. So no result, exception, exit or patched builtin of the
completion can pass a test that compares with an expected value, and the completion never sees expected values.
"""

from __future__ import annotations

import ast
import builtins
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, BinaryIO, NoReturn, Protocol

from rft_reward.graders.code_values import References, decode, encode, read, write

_COUNT = "__an_assert_passed__"


class BadTests(Exception):
    """The tests themselves are invalid. The message says why."""


class Tests:
    """The tests of a data row: each top-level assert, or the whole text if it has no top-level assert.

    Raises:
        BadTests: the tests are not valid Python, or assert nothing.
    """

    def __init__(self, texts: list[str]):
        self.parts: list[tuple[bool, Any]] = []
        """Each part of the tests: whether it is a test, and its code. Other parts prepare for the tests after them."""
        trees = []
        for text in texts:
            try:
                tree = ast.parse(text, "tests.py")
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                where = f"line {error.lineno}: {error.msg}" if isinstance(error, SyntaxError) else str(error)
                raise BadTests(f"the tests are not valid Python: {where}") from None
            trees.append(tree)
        _refuse_idle(trees)
        for tree in trees:
            single = not any(isinstance(node, ast.Assert) for node in tree.body)
            for nodes in [tree.body] if single else [[node] for node in tree.body]:
                is_test = single or isinstance(nodes[0], ast.Assert)
                module = ast.fix_missing_locations(_Counting().visit(ast.Module(nodes, [])))
                self.parts.append((is_test, compile(module, "tests.py", "exec")))
        self.count = sum(is_test for is_test, _ in self.parts)

    def outcomes(self, session: Session) -> Iterator[bool]:
        """Run the tests one after the other, and yield whether each of them passes."""
        passed = [0]

        def count() -> None:
            passed[0] += 1

        scope: dict[str, Any] = {**session.names(), "__name__": "tests", _COUNT: count}
        broken = False
        for is_test, code in self.parts:
            before = passed[0]
            try:
                exec(code, scope)
                # A test passes only if an assert was executed, which a loop over an empty result does not do.
                outcome = passed[0] > before
            except BaseException:
                outcome = False
                broken = broken or not is_test
            if is_test:
                yield outcome and not broken


class Runnable(Protocol):
    """Tests of a data row."""

    def outcomes(self, session: Session) -> Iterator[bool]:
        """Run the tests one after the other, and yield whether each of them passes."""
        ...


def run_tests(tests: Runnable, candidate_out: BinaryIO, candidate_in: BinaryIO, results: int) -> NoReturn:
    """Run the tests, and end this process. One byte is written per test: 1 if it passed, 0 if it failed."""
    for number in (signal.SIGALRM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    sys.set_int_max_str_digits(0)
    try:
        for passed in tests.outcomes(Session(candidate_out, candidate_in)):
            os.write(results, b"1" if passed else b"0")
    finally:
        os._exit(0)


def _refuse_idle(trees: list[ast.Module]) -> None:
    """Refuse tests without asserts, and tests whose asserts are in functions that are never called."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if not any(isinstance(node, ast.Assert) for node in nodes):
        raise BadTests("the tests hold no assert")
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    functions = [node for tree in trees for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    idle = {node.name: sum(isinstance(inner, ast.Assert) for inner in ast.walk(node)) for node in functions}
    if sum(count for name, count in idle.items() if name not in used) == sum(isinstance(n, ast.Assert) for n in nodes):
        raise BadTests(f"the tests define {', '.join(name for name in idle if idle[name])}, but never call it")


class _Counting(ast.NodeTransformer):
    """Adds a counter of the asserts that pass, because tests that execute no assert must not pass."""

    def visit_Assert(self, node: ast.Assert) -> Any:
        call = ast.Expr(ast.Call(ast.Name(_COUNT, ast.Load()), [], []))
        return [node, ast.copy_location(call, node)]


class Session:
    """Calls to the process of the completion."""

    def __init__(self, replies: BinaryIO, requests: BinaryIO):
        self._replies, self._requests = replies, requests
        self._references = References()

    @cached_property
    def defined(self) -> dict[str, Any]:
        """Everything that the completion defines, by name."""
        described = read(self._replies).get("names", {})
        return {
            name: self._named(name, value)
            for name, value in described.items()
            if name.isidentifier() and not name.startswith("__")
        }

    def names(self) -> dict[str, Any]:
        """Return the names that the completion defines, except those that would replace Python's own."""
        return {name: value for name, value in self.defined.items() if not hasattr(builtins, name)}

    def _named(self, name: str, value: Any) -> Any:
        if isinstance(value, dict) and "exception" in value:
            return type(name, (_exception([str(value["exception"][1])]),), {})
        return self._decode(value)

    def do(self, operation: str, *arguments: Any, **named: Any) -> Any:
        """Execute an operation in the completion's process, with its changes of the arguments. Return its result."""
        encoded = [self._encode(item) for item in arguments]
        named_values = {"dict": [[key, self._encode(item)] for key, item in named.items()]}
        write(self._requests, {"do": operation, "arguments": encoded, "named": named_values})
        while True:
            reply = read(self._replies)
            if "callback" not in reply:
                break
            self._call_back(reply)
        if "raised" in reply:
            kind = _exception([str(kind) for kind in reply["raised"]])
            if issubclass(kind, (StopIteration, StopAsyncIteration)) and operation != "next":
                # As in generators (PEP 479): map() in a test would take it for the end of its cases.
                kind = RuntimeError
            raise kind(str(reply.get("text")))
        changed = [self._decode(item) for item in reply["arguments"]]
        for mine, theirs in zip(arguments, changed, strict=True):
            _take_over(mine, theirs)
        return self._decode(reply["value"])

    def _call_back(self, request: dict[str, Any]) -> None:
        try:
            function = self._references[request["callback"]]
            value = function(*self._decode(request["arguments"]))
            write(self._requests, {"value": self._encode(value)})
        except Exception:
            write(self._requests, {"raised": True})

    def _encode(self, value: Any) -> Any:
        if type(value) is Remote:
            return {"yours": _number_of(value)}
        return encode(value, self._refer)

    def _refer(self, value: Any) -> Any:
        if type(value) is Remote:
            return {"yours": _number_of(value)}
        if callable(value):
            return {"callback": self._references.number(value)}
        raise TypeError(f"a {type(value).__name__} cannot be passed to the completion")

    def _decode(self, value: Any) -> Any:
        return decode(value, self._resolve)

    def _resolve(self, kind: str, number: Any) -> Any:
        if kind == "object" and isinstance(number, int):
            return Remote(self, number)
        raise ValueError("the completion's process sent something unknown")


def _take_over(mine: Any, theirs: Any) -> None:
    match mine:
        case list() if type(theirs) is list:
            mine[:] = theirs
        case dict() if type(theirs) is dict:
            mine.clear()
            mine.update(theirs)
        case set() if type(theirs) is set:
            mine.clear()
            mine.update(theirs)


def _exception(kinds: list[str]) -> type[Exception]:
    """Return the nearest builtin exception class. Exits and interrupts of the completion are ordinary exceptions
    here."""
    for kind in kinds:
        candidate = getattr(builtins, kind, None)
        if isinstance(candidate, type) and issubclass(candidate, Exception):
            return candidate
    return RuntimeError


def _number_of(remote: Remote) -> int:
    return int(object.__getattribute__(remote, "_number"))


def _forwarded(operation: str) -> Callable[..., Any]:
    def method(self: Remote, *arguments: Any) -> Any:
        session: Session = object.__getattribute__(self, "_session")
        return session.do(operation, self, *arguments)

    return method


def _among_own(operation: str, otherwise: Any = NotImplemented) -> Callable[[Any, Any], Any]:
    forward = _forwarded(operation)

    def method(self: Remote, other: Any) -> Any:
        # A comparison with a value of the tests is not sent: the completion could claim to be equal, and would see it.
        return forward(self, other) if type(other) is Remote else otherwise

    return method


class Remote:
    """An object of the completion that is not plain data. Operations on it are executed in the completion's process."""

    def __init__(self, session: Session, number: int):
        object.__setattr__(self, "_session", session)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the object."""
        session: Session = object.__getattribute__(self, "_session")
        return session.do("call", self, *arguments, **named)

    def __getattr__(self, name: str) -> Any:
        session: Session = object.__getattribute__(self, "_session")
        return session.do("getattr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        session: Session = object.__getattribute__(self, "_session")
        session.do("setattr", self, name, value)

    def __hash__(self) -> int:
        return _number_of(self)

    def __bool__(self) -> bool:
        return bool(_forwarded("bool")(self))

    __eq__, __ne__ = _among_own("eq", False), _among_own("ne", True)
    __lt__, __le__, __gt__, __ge__ = map(_among_own, ("lt", "le", "gt", "ge"))
    __add__, __sub__, __mul__, __truediv__ = map(_among_own, ("add", "sub", "mul", "truediv"))
    __floordiv__, __mod__, __pow__, __matmul__ = map(_among_own, ("floordiv", "mod", "pow", "matmul"))
    __and__, __or__, __xor__, __neg__ = (*map(_among_own, ("and_", "or_", "xor")), _forwarded("neg"))
    __len__, __iter__, __next__ = map(_forwarded, ("len", "iter", "next"))
    __str__, __repr__ = map(_forwarded, ("str", "repr"))
    __getitem__, __setitem__, __delitem__ = map(_forwarded, ("getitem", "setitem", "delitem"))
