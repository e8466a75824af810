"""The completion's side of assert tests: runs its code, then executes calls to what the code defines.

It runs in the process of the completion, so it cannot be trusted, and it does not decide any test.
"""

from __future__ import annotations

import operator
import sys
import types
from collections.abc import Callable
from typing import Any, BinaryIO

from rft_reward.graders.code_values import References, decode, encode, read, write

_OPERATORS = "getitem setitem delitem eq ne lt le gt ge add sub mul truediv floordiv mod pow neg and_ or_ xor matmul"

OPERATIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "getattr": getattr,
    "setattr": setattr,
    "len": len,
    "iter": iter,
    "next": next,
    "str": str,
    "repr": repr,
    "bool": bool,
    **{name: getattr(operator, name) for name in _OPERATORS.split()},
}
"""The operations that the tests may request on an object that is not plain data."""


def serve(run: Callable[[], Any], module: types.ModuleType, requests: BinaryIO, replies: BinaryIO) -> None:
    """Run the code, and answer requests."""
    sys.set_int_max_str_digits(0)
    session = _Session(requests, replies)
    try:
        run()
        names = {name: session.describe(value) for name, value in list(vars(module).items()) if _is_own(name, value)}
        session.send({"names": names})
    except SystemExit:
        session.send({"failed": "the code exits when it is imported"})
        return
    except BaseException as error:
        session.send({"failed": f"{type(error).__name__}: {error}"[:500]})
        return
    while True:
        session.answer(read(requests))


def _is_own(name: str, value: Any) -> bool:
    return not name.startswith("__") and not isinstance(value, types.ModuleType)


class _Session:
    def __init__(self, requests: BinaryIO, replies: BinaryIO):
        self._requests, self._replies = requests, replies
        self._references = References()

    def send(self, message: dict[str, Any]) -> None:
        write(self._replies, message)

    def describe(self, value: Any) -> Any:
        """Return the value of a name for the tests. Of an exception class, it is the builtin class that it derives
        from."""
        if isinstance(value, type) and issubclass(value, BaseException):
            base = next(base for base in value.__mro__ if base.__module__ == "builtins")
            return {"exception": [self._references.number(value), base.__name__]}
        return self._encode(value)

    def answer(self, request: dict[str, Any]) -> None:
        try:
            arguments = self._decode(request["arguments"])
            result = OPERATIONS[request["do"]](*arguments, **self._decode(request["named"]))
            # Changes that the call made to lists and other arguments are made in the tests as well.
            self.send({"value": self._encode(result), "arguments": [self._encode(item) for item in arguments]})
        except BaseException as error:
            kinds = [base.__name__ for base in type(error).__mro__]
            self.send({"raised": kinds, "text": str(error)[:1000]})

    def _encode(self, value: Any) -> Any:
        return encode(value, lambda item: {"object": self._references.number(item)})

    def _decode(self, value: Any) -> Any:
        return decode(value, self._resolve)

    def _resolve(self, kind: str, number: Any) -> Any:
        if kind == "yours":
            return self._references[number]

        def function_of_the_tests(*arguments: Any) -> Any:
            self.send({"callback": number, "arguments": [self._encode(item) for item in arguments]})
            while True:
                message = read(self._requests)
                if "do" not in message:
                    break
                self.answer(message)  # the callback has used an object of this side
            if "value" not in message:
                raise RuntimeError("a function of the tests raised an exception")
            return self._decode(message["value"])

        return function_of_the_tests
