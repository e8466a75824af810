"""The base of the options of the builtin rewards: what each entry of the table of builtins says."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from re import _parser  # type: ignore[attr-defined]
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from rft_api.model import Json, Model, Violation

AnswerKey = Annotated[str, Field(min_length=1, max_length=128)]
"""The field of a reference answer that is an object."""


def check_pattern(pattern: str) -> str:
    """Return a regular expression that can be parsed. `BuiltinOptions.problems` also compiles it.

    To compile one of a thousand characters may take seconds, in which the operator would do nothing else. Python has no
    public function that only parses, and other libraries have other expressions than the `re` that searches with them.

    Raises:
        PydanticCustomError: when it cannot be parsed.
    """
    problem = _pattern_problem(_parser.parse, pattern)
    if problem is not None:
        raise PydanticCustomError("pattern", "{problem}", {"problem": problem})
    return pattern


def _pattern_problem(check: Callable[[str], object], pattern: str) -> str | None:
    try:
        with warnings.catch_warnings(action="ignore"):
            check(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}"
    return None


Pattern = Annotated[str, Field(min_length=1, max_length=1024), AfterValidator(check_pattern)]
"""A regular expression."""


class BuiltinOptions(Model):
    """A builtin's entry in the table. Its fields are the options of the builtin."""

    summary: ClassVar[str]
    """What the builtin scores, in one line."""
    example: ClassVar[str]
    """The spec of a manifest to start from: YAML with comments, and with tests that pass."""
    options_required: ClassVar[bool] = False
    """Whether the builtin has no meaning without options."""

    def problems(self) -> Iterator[Violation]:
        """Yield the violations that the types of the options cannot find, because finding them takes time or further
        imports."""
        pattern: str | None = getattr(self, "pattern", None)
        problem = None if pattern is None else _pattern_problem(re.compile, pattern)
        if problem is not None:
            yield Violation(problem, ("pattern",))

    def for_grader(self) -> Json:
        """Return the options for the grader: JSON in which every default is filled in."""
        return self.to_json_object()
