"""Runs Python code of users as AWS Lambda would."""

from __future__ import annotations

import errno
import json
import linecache
import os
import sys
import time
import traceback
import types
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rft_reward.graders.term import Call, Grade, TimeLimit, Unscorable
from rft_reward.handler_samples import HandlerForm, handler_sample

_REGION = "us-east-1"
"""Value of AWS_REGION. Code has no network, so the region has no effect, but handlers read it when they are loaded."""


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
        self.log_group_name = _log_group(function_name)
        self.log_stream_name = call.request_id
        self._deadline = call.deadline

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the time of the batch is up."""
        return max(0, int(1000 * (self._deadline - time.monotonic())))


def load(
    source: str,
    handler: str,
    module_name: str,
    function_name: str,
    memory_bytes: int,
    *,
    zero_on_error: bool,
    form: HandlerForm,
    by_group: bool,
    folder: str | None = None,
) -> Grade:
    """Run the module, and return a grader that calls its handler.

    Args:
        source: code of the module.
        handler: name of the function.
        module_name: name of the module in error messages.
        function_name: name of the RewardFunction, which stands for that of the Lambda.
        memory_bytes: memory limit, which the handler can read.
        zero_on_error: whether a sample for which the handler raises an exception scores 0. It has no score otherwise.
        form: what the handler expects of samples.
        by_group: whether the samples of a group are always scored together.
        folder: folder of the further files of the code; None if it has none.

    Raises:
        Unscorable: the module raises an exception, or does not define the function; with the line.
    """
    os.environ.update(lambda_environment(function_name, handler, memory_bytes >> 20, folder))
    function, file = import_function(source, handler, module_name, folder)

    def grade(payload: bytes, call: Call) -> bytes:
        samples = [handler_sample(sample, form, lift_metadata=True) for sample in json.loads(payload)]
        try:
            answer = function(samples, Context(call, function_name, memory_bytes >> 20))
            if hasattr(type(answer), "__await__"):
                answer = _await(answer)
        except MemoryError:
            raise
        except TimeLimit as error:
            raise Unscorable(place(error, file), "timeout") from None
        except BaseException as error:
            problem = f"the code raised {describe(error, file)}"
            # After an exception the server scores samples one by one, or group by group: each gets what it deserves.
            if zero_on_error and (len(samples) == 1 or (by_group and len({s["group"] for s in samples}) == 1)):
                return json.dumps([_zero(sample["id"], problem) for sample in samples]).encode()
            raise Unscorable(problem) from None
        return to_json(answer).encode()

    return grade


def lambda_environment(function_name: str, handler: str, memory_mb: int, folder: str | None) -> dict[str, str]:
    """Return the environment variables that AWS Lambda sets, with values of this function. None of them is a
    credential."""
    return {
        "AWS_REGION": _REGION,
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info[0]}.{sys.version_info[1]}",
        "AWS_LAMBDA_FUNCTION_NAME": function_name,
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory_mb),
        "AWS_LAMBDA_FUNCTION_VERSION": Context.function_version,
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": _log_group(function_name),
        "AWS_LAMBDA_LOG_STREAM_NAME": "local",
        "LAMBDA_TASK_ROOT": folder or str(Path.cwd()),
        "_HANDLER": handler,
    }


def _log_group(function_name: str) -> str:
    return f"/rft/{function_name}"


def _await(answer: Awaitable[Any]) -> Any:
    """Return the result of an `async` handler."""
    import asyncio  # few handlers need it

    async def result() -> Any:
        return await answer

    return asyncio.run(result())


def _zero(sample_id: str, problem: str) -> dict[str, Any]:
    warning = {"reason": "ErrorScoredZero", "message": problem}
    return {"id": sample_id, "aggregate_reward_score": 0.0, "warnings": [warning]}


def import_function(
    source: str, name: str, module_name: str, folder: str | None = None
) -> tuple[Callable[..., Any], str]:
    """Run the module. Return its function of that name, and the name of its file in tracebacks.

    Code finds its further files, which are in `folder`, beside its `__file__`.

    Raises:
        Unscorable: the module raises an exception, or does not define the function; with the line.
    """
    file = f"{module_name}.py"
    # Tracebacks quote lines from this cache, and dataclasses and pickle look modules up by their names.
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    module = types.ModuleType(module_name)
    module.__file__ = file if folder is None else f"{folder}/{file}"
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
        message = _message(error)
        text = f"{type(error).__name__}: {message}" if message else type(error).__name__
        if _needs_tmp(error):
            text += "; /tmp is closed to the code here: use tempfile.gettempdir()"
    where = place(error, file)
    return f"{_short(text)} ({where})" if where else _short(text)


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # a class of the user may raise an exception even here
        return "its message could not be read"


def _needs_tmp(error: BaseException) -> bool:
    # A Lambda has a /tmp of its own. Here, /tmp may be that of the whole pod or machine.
    return (
        isinstance(error, OSError)
        and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        and isinstance(error.filename, str)
        and (error.filename == "/tmp" or error.filename.startswith("/tmp/"))
    )


def place(error: BaseException, file: str) -> str:
    """Return the innermost line of the user's code in the traceback of an exception; empty if there is none."""
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
            raise Unscorable(f"the code returned something that is not JSON: {_short(_message(error))}") from None
    return f"[{', '.join(_row_to_json(row) for row in answer)}]"


def _row_to_json(row: Any) -> str:
    try:
        return json.dumps(row)
    except MemoryError:
        raise
    except Exception as error:
        row_id = row.get("id") if isinstance(row, dict) else None
        row_id = str(row_id) if type(row_id) in (str, int, float) else None  # the text of others may raise once more
        return json.dumps({"id": row_id, "error": f"the row is not JSON: {_short(_message(error))}"})


def _short(text: str) -> str:
    return text if len(text) <= 2000 else f"{text[:2000]} ... ({len(text) - 2000:,} more characters)"
