"""Runs Python code of users as AWS Lambda would."""

from __future__ import annotations

import json
import linecache
import sys
import time
import traceback
import types
import warnings
from collections.abc import Callable
from typing import Any

from rft_reward.graders.term import Call, Grade, TimeLimit, Unscorable


class Context:
    """The second argument that AWS Lambda passes to a handler."""

    function_version = "$LATEST"
    identity = None
    client_context = None

    def __init__(self, call: Call, function_name: str, memory_limit_in_mb: int):
        self.function_name = function_name
        self.invoked_function_arn = f"arn:aws:lambda:local:000000000000:function:{function_name}"
        self.memory_limit_in_mb = memory_limit_in_mb
        self.aws_request_id = call.request_id
        self.log_group_name = f"/rft/{function_name}"
        self.log_stream_name = call.request_id
        self._deadline = call.deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the time of the batch is up."""
        return max(0, int(1000 * (self._deadline - time.monotonic())))


def load(source: str, handler: str, module_name: str, function_name: str, memory_bytes: int) -> Grade:
    """Run the module, and return a grader that calls its handler.

    Raises:
        Unscorable: the module raises an exception, or does not define the function; with the line.
    """
    function, file = import_function(source, handler, module_name)

    def grade(payload: bytes, call: Call) -> bytes:
        try:
            answer = function(json.loads(payload), Context(call, function_name, memory_bytes >> 20))
        except MemoryError:
            raise
        except TimeLimit as error:
            raise Unscorable(place(error, file), "timeout") from None
        except BaseException as error:
            raise Unscorable(f"the code raised {describe(error, file)}") from None
        return to_json(answer).encode()

    return grade


def import_function(source: str, name: str, module_name: str) -> tuple[Callable[..., Any], str]:
    """Run the module. Return its function of that name, and the name of its file in tracebacks.

    Raises:
        Unscorable: the module raises an exception, or does not define the function; with the line.
    """
    file = f"{module_name}.py"
    # Tracebacks quote lines from this cache, and dataclasses and pickle look modules up by their names.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = types.ModuleType(module_name)
    module.__file__ = file
    sys.modules[module_name] = module
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = compile(source, file, "exec")
        exec(code, module.__dict__)
    except MemoryError:
        raise
    except BaseException as error:
        raise Unscorable(f"importing the code failed: {describe(error, file)}") from None
    function = getattr(module, name, None)
    if not callable(function):
        raise Unscorable(f"the code defines no function {name}")
    return function, file


def describe(error: BaseException, file: str) -> str:
    """Describe an exception, with the line of the user's code that raised it."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{type(error).__name__}: {error.msg} ({file}, line {error.lineno})"
    if isinstance(error, SystemExit):
        text = f"SystemExit({error.code!r}): a reward function must return, not exit"
    else:
        try:
            message = str(error)
        except Exception:  # a class of the user may raise an exception even here
            message = "its message could not be read"
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    where = place(error, file)
    return f"{_short(text)} ({where})" if where else _short(text)


def place(error: BaseException, file: str) -> str:
    """The innermost line of the user's code in the traceback of an exception; empty if there is none."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    if not places:
        return ""
    function = "" if places[-1].name == "<module>" else f", in {places[-1].name}"
    return f"{file}, line {places[-1].lineno}{function}"


def to_json(answer: Any) -> str:
    """Convert the handler's result to JSON. Rows that cannot be converted become rows with an error.

    Raises:
        Unscorable: the result is not a list, and cannot be converted.
    """
    try:
        return json.dumps(answer)
    except MemoryError:
        raise
    except Exception as error:  # methods of the user's classes may raise any exception
        if not isinstance(answer, list):
            raise Unscorable(f"the code returned something that is not JSON: {_short(str(error))}") from None
    return f"[{', '.join(_row_to_json(row) for row in answer)}]"


def _row_to_json(row: Any) -> str:
    try:
        return json.dumps(row)
    except MemoryError:
        raise
    except Exception as error:
        row_id = row.get("id") if isinstance(row, dict) else None
        return json.dumps({"id": str(row_id), "error": f"the row is not JSON: {_short(str(error))}"})


def _short(text: str) -> str:
    return text if len(text) <= 2000 else text[:2000] + " ..."
