"""The base of the options of the builtin rewards: what each entry of the table of builtins says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar

from pydantic import Field

from rft_api.model import Json, Model, Violation

AnswerKey = Annotated[str, Field(min_length=1, max_length=128)]
"""The field of a reference answer that is an object."""


class BuiltinOptions(Model):
    """A builtin's entry in the table. Its fields are the options of the builtin."""

    summary: ClassVar[str]
    """What the builtin scores, in one line."""
    example: ClassVar[str]
    """The spec of a manifest to start from: YAML with comments, and with tests that pass."""
    options_required: ClassVar[bool] = False
    """Whether the builtin has no meaning without options."""

    def problems(self) -> Iterator[Violation]:
        """Violations that the types of the options cannot find, because finding them takes time or further imports."""
        yield from ()

    def for_grader(self) -> Json:
        """The options for the grader: JSON in which every default is filled in."""
        return self.to_json_object()
