"""Tests that call a function of the completion with arguments, and compare its result with an expected value."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rft_reward.graders.code_tests import Session


@dataclass(frozen=True)
class Call:
    """One test."""

    function: str
    """Name of the function, or of the method of a class `Solution`, as on LeetCode."""
    arguments: list[Any]
    results: list[Any]
    """The values of which the result has to be one."""


class Calls:
    """The tests of a data row."""

    def __init__(self, calls: list[Call]):
        self._calls = calls
        self.count = len(calls)

    def outcomes(self, session: Session) -> Iterator[bool]:
        """Run the tests one after the other, and yield whether each of them passes."""
        for call in self._calls:
            try:
                function = _find(session, call.function)
                # The completion may change its arguments, which must not change later tests.
                result = _plain(function(*copy.deepcopy(call.arguments)))
                passed = any(result == _plain(expected) for expected in call.results)
            except BaseException:
                passed = False
            yield passed


def _find(session: Session, name: str) -> Any:
    if name in session.defined:
        return session.defined[name]
    return getattr(session.defined["Solution"](), name)


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it, because expected values come from JSON: tuples become lists, keys become
    texts."""
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key if isinstance(key, str) else str(key): _plain(item) for key, item in value.items()}
    return value
