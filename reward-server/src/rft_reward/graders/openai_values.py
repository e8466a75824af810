"""The values of a sample for the templates and the code of OpenAI's graders: the namespaces `sample` and `item`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rft_reward.graders.sample import completion_text
from rft_reward.graders.term import Unscorable

_MISSING = object()


class NotInCompletion(Exception):
    """The completion does not contain a value that a template names. It scores 0, which is not an error."""


class Values:
    """The two namespaces of a sample."""

    def __init__(self, sample: dict[str, Any]):
        *conversation, answer = sample["messages"]
        text = completion_text(sample)
        parsed = _json(text)
        self._is_json = parsed is not _MISSING
        self.sample: dict[str, Any] = {
            "output_text": text,
            "output_json": parsed if self._is_json else None,
            "output_tools": answer.get("tool_calls") or [],
            "choices": [{"index": 0, "message": answer, "finish_reason": "stop"}],
        }
        """The completion. `output_json` is None if the completion is not JSON, and if it is `null`."""
        metadata = sample.get("metadata") or {}
        self.item: dict[str, Any] = {"messages": conversation, **metadata}
        """The data row."""
        if sample.get("reference_answer") is not None:
            self.item["reference_answer"] = sample["reference_answer"]
        elif self.item.get("reference_answer") is None:  # this is how the protocol says that there is none
            self.item.pop("reference_answer", None)

    def render(self, *templates: Sequence[str | list[str | int]]) -> list[str]:
        """Render the templates of a grader, which `rft_api.openai_template.parse_template` has parsed.

        The data row is looked at before the completion. Otherwise a row that lacks a value would have an error or the
        score 0, depending on the completion.

        A `null`, in the completion as in the data row, is a value, so that equal nulls are equal. It is written as
        JSON, like every value that is no text.

        Raises:
            Unscorable: the data row does not contain a value of a template.
            NotInCompletion: the completion does not contain a value of a template.
        """
        for path in (part for parts in templates for part in parts if not isinstance(part, str)):
            if path[0] == "item":
                self._find(path)
        return [
            "".join(part if isinstance(part, str) else _text(self._find(part)) for part in parts) for parts in templates
        ]

    def _find(self, path: Sequence[str | int]) -> Any:
        of_completion = path[0] == "sample"
        value: Any = self.sample if of_completion else self.item
        for depth, step in enumerate(path[1:], 2):
            value = _inside(value, step)
            if of_completion and step == "output_json" and depth == 2 and not self._is_json:
                value = _MISSING
            if value is _MISSING:
                name = _name(path[:depth])
                if of_completion:
                    raise NotInCompletion(f"the completion has no {name}")
                raise Unscorable(f"the data row has no {name}, which the grader's template names")
        return value


def _inside(value: Any, step: str | int) -> Any:
    if isinstance(value, dict):
        return value.get(step, _MISSING)
    if isinstance(value, list) and isinstance(step, int) and step < len(value):
        return value[step]
    return _MISSING


def _name(path: Sequence[str | int]) -> str:
    return str(path[0]) + "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path[1:])


def _json(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _MISSING


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
