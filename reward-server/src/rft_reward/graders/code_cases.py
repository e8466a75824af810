"""Reads the tests of a data row for the builtin Code, in the forms that APPS, TACO, LiveCodeBench and others have.

Sources of the forms: the fields `input_output` of APPS and TACO ({"inputs", "outputs", "fn_name"}, as text), the field
`public_test_cases` of LiveCodeBench ({"input", "output", "testtype"}; arguments one a line), and the test cases of
open-r1 and PrimeIntellect ({"type", "fn_name", "input", "output"}; arguments as a JSON list).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from rft_reward.graders.code_calls import Call, Calls
from rft_reward.graders.code_tests import BadTests, Tests

Programs = list[tuple[str, str]]
"""Pairs of a standard input and the expected standard output."""

_CASE_KEYS = ("input", "output", "fn_name", "func_name", "type", "testtype")
_TABLE_KEYS = ("inputs", "outputs", "fn_name", "func_name")
_LIST_KEYS = ("test_cases", "language")
_CALL_TYPES = ("function_call", "functional")
_PROGRAM_TYPES = ("stdin_stdout", "stdin")
_NAMED_ARGUMENT = re.compile(r"\s*[A-Za-z_]\w*\s*=")


def read_tests(tests: Any, row: Mapping[str, Any]) -> Tests | Calls | Programs:
    """Return the tests of a data row.

    Args:
        tests: asserts, as a text or a list of texts; or cases, as JSON or as a text that holds JSON.
        row: further fields of the data row, which may name the function (`fn_name` or `func_name`).

    Raises:
        BadTests: the tests are invalid, or have a field that is not known here.
    """
    tests = _parsed(tests)
    if isinstance(tests, str):
        return Tests([tests])
    if isinstance(tests, list) and tests and all(isinstance(test, str) for test in tests):
        return Tests(tests)
    if isinstance(tests, dict) and "test_cases" in tests:
        _check_keys(tests, _LIST_KEYS)
        if tests.get("language", "python") not in ("python", "python3"):
            raise BadTests(f"the language of the tests is {tests['language']}, not python")
        tests = tests["test_cases"]
    function = row.get("fn_name") or row.get("func_name")
    function = function if isinstance(function, str) and function.isidentifier() else None
    if isinstance(tests, dict):
        return _table(tests, function)
    if not isinstance(tests, list) or not tests or not all(isinstance(test, dict) for test in tests):
        raise BadTests(
            "the tests are neither asserts, as text or a list of texts, nor a list of {input, output} texts, nor "
            "{inputs, outputs}"
        )
    cases = [_case(test, function) for test in tests]
    calls = [case for case in cases if isinstance(case, Call)]
    if calls and len(calls) < len(cases):
        raise BadTests("some tests call a function and others run a program: use one kind in a row")
    return Calls(calls) if calls else [case for case in cases if not isinstance(case, Call)]


def _parsed(tests: Any) -> Any:
    """Return the JSON of a text that holds an object or a list; anything else unchanged."""
    if isinstance(tests, str) and tests.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(tests)
        except (ValueError, RecursionError):
            return tests  # asserts may begin with a bracket, too
    return tests


def _table(table: dict[str, Any], function: str | None) -> Calls | Programs:
    """Return the tests as two lists, one with the inputs and one with the outputs."""
    _check_keys(table, _TABLE_KEYS)
    inputs, outputs = table.get("inputs"), table.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list) or not inputs:
        raise BadTests("the tests need two lists, inputs and outputs, with at least one element")
    if len(inputs) != len(outputs):
        raise BadTests(f"the tests have {len(inputs)} inputs but {len(outputs)} outputs")
    pairs = list(zip(inputs, outputs, strict=True))
    function = _function(table) or function
    if function is not None:
        return Calls(
            [Call(function, _arguments_by_line(value, "inputs"), _wrapped_results(output)) for value, output in pairs]
        )
    return [(_stream(value, "inputs"), _stream(output, "outputs")) for value, output in pairs]


def _case(test: dict[str, Any], function: str | None) -> Call | tuple[str, str]:
    """Return one test: the call of a function, or the input and the output of a program."""
    _check_keys(test, _CASE_KEYS)
    if "input" not in test or "output" not in test:
        raise BadTests("a test needs input and output")
    kind = test.get("type") or test.get("testtype")
    if kind not in (None, *_CALL_TYPES, *_PROGRAM_TYPES):
        raise BadTests(f"there are no tests of type {kind}: use {', '.join((*_CALL_TYPES, *_PROGRAM_TYPES))}")
    own = _function(test)
    name = own or (function if kind in _CALL_TYPES else None)
    if kind in _PROGRAM_TYPES or (kind is None and own is None):
        return _stream(test["input"], "input"), _stream(test["output"], "output")
    if name is None:
        raise BadTests("a test that calls a function needs its name, fn_name")
    # LiveCodeBench writes the arguments one a line. Others write them as one list.
    if kind == "functional":
        return Call(name, _arguments_by_line(test["input"], "input"), _results(test["output"]))
    return Call(name, _argument_list(test["input"]), _wrapped_results(test["output"]))


def _check_keys(test: dict[str, Any], keys: tuple[str, ...]) -> None:
    unknown = [key for key in test if key not in keys]
    if unknown:
        raise BadTests(f"the tests have a field {unknown[0]}, which Code does not know: it knows {', '.join(keys)}")


def _function(fields: Mapping[str, Any]) -> str | None:
    name = fields.get("fn_name") or fields.get("func_name")
    if name is None:
        return None
    if not isinstance(name, str) or not name.isidentifier():
        raise BadTests(f"fn_name has to be the name of a function, not {name!r:.100}")
    return name


def _stream(value: Any, field: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise BadTests(f"{field} of a program has to be text, or a list of lines, not {type(value).__name__}")


def _argument_list(value: Any) -> list[Any]:
    """Return the arguments of a call: a list, or a text that holds it as JSON; another value is the only argument."""
    _check_arguments(value, "input")
    if isinstance(value, list):
        return value
    parsed = _value(value)
    return parsed if isinstance(parsed, list) else _arguments_by_line(value, "input")


def _arguments_by_line(value: Any, field: str) -> list[Any]:
    if isinstance(value, str):
        return [_argument(line, field) for line in value.splitlines() if line.strip()]
    _check_arguments(value, field)
    return value if isinstance(value, list) else [value]


def _argument(line: str, field: str) -> Any:
    value = _value(line)
    if value is line and _NAMED_ARGUMENT.match(line):
        raise BadTests(f"{field} of a call has to be the values of its arguments as JSON, without names: {line!r:.100}")
    return value


def _check_arguments(value: Any, field: str) -> None:
    # An object could be one argument, or hold the arguments by their names.
    if isinstance(_value(value), dict):
        raise BadTests(f"{field} of a call has to be the list of its arguments, not an object")


def _value(value: Any) -> Any:
    """Return the JSON value of a text; the text itself if it is not JSON. Anything else is a value already."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _results(output: Any) -> list[Any]:
    """Return the values that are right: that of a text that holds JSON, and the text itself."""
    value = _value(output)
    return [value] if value is output else [value, output]


def _wrapped_results(output: Any) -> list[Any]:
    """Return the same where a value may stand in a list of its own: APPS writes the result 4 as [4]."""
    results = _results(output)
    return [*results, *(value[0] for value in results if isinstance(value, list) and len(value) == 1)]
