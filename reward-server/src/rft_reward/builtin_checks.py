"""What is wrong with the options of builtins beyond their schema, and how they reach the workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rft_api.builtin_reward import BuiltinReward, CodeReward
from rft_api.quantities import duration_seconds
from rft_reward.graders.languages import LANGUAGES


def builtin_problems(builtin: BuiltinReward, path: str, timeout: str) -> Iterator[str]:
    """A message for everything that is wrong, with its path; `timeout` is the function's."""
    for name, options in (("exactMatch", builtin.exact_match), ("f1", builtin.f1), ("format", builtin.format)):
        if options is not None and options.pattern is not None:
            try:
                re.compile(options.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                yield f"{path}.{name}.pattern: is not a regular expression: {error}"
    language = builtin.format.language if builtin.format is not None else None
    if language is not None and language not in LANGUAGES:
        yield f"{path}.format.language: {language} cannot be told; known are {', '.join(sorted(LANGUAGES))}"
    if builtin.name == "Code":
        own = (builtin.code or CodeReward()).timeout
        # A sample that is told apart from its batch gets an eighth of the time: code that hangs must fail well within
        # it, as a wrong answer does, and not be an error.
        if 10 * duration_seconds(own) > duration_seconds(timeout) or duration_seconds(own) < 1:
            yield f"{path}.code.timeout: {own} must be at least 1s and at most a tenth of spec.timeout, {timeout}"
    if builtin.json_ is not None and builtin.json_.json_schema is not None:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(builtin.json_.json_schema)
        except SchemaError as error:
            yield f"{path}.json.jsonSchema: {error.json_path}: {error.message}"


def worker_options(builtin: BuiltinReward) -> dict[str, Any]:
    """The builtin as the workers take it: JSON, with what they cannot work out themselves."""
    options = builtin.to_json_object()
    if builtin.name == "Code":
        code = builtin.code or CodeReward()
        options["code"] = {**code.to_json_object(), "seconds": duration_seconds(code.timeout)}
    return options
