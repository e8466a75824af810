"""The builtin Json: checks that the completion is JSON that satisfies a schema, and scores the F1 of its fields."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.exceptions import Unresolvable

from rft_reward.graders.per_sample import Component, GradeSample
from rft_reward.graders.sample import completion_text, reference_answer, unwrapped
from rft_reward.graders.term import Unscorable

_FENCE = re.compile(r"\A```[A-Za-z]*[ \t]*\n(.*)\n?```\Z", re.DOTALL)


def build(options: dict[str, Any]) -> GradeSample:
    """Build the grader for the options of `rft_api.builtin_table.JsonReward`."""
    schema = options.get("jsonSchema")
    # With an empty registry, references to other documents are errors, and nothing is downloaded.
    validator = None if schema is None else Draft202012Validator(schema, registry=Registry())
    compare, fence = options["compareValues"], options["allowCodeFence"]

    def grade(sample: dict[str, Any]) -> tuple[float, list[Component]]:
        expected = _expected(sample) if compare else None
        components: list[Component] = []
        try:
            value = parse(completion_text(sample), fence)
            valid = True
        except (ValueError, RecursionError):
            value, valid = None, False
        components.append(("valid_json", float(valid), "Metric" if compare or validator else "Reward"))
        if validator is not None:
            valid = valid and _keeps(validator, value)
            components.append(("schema", float(valid), "Metric" if compare else "Reward"))
        if not compare:
            return float(valid), components
        precision, recall, f1 = field_f1(value, expected) if valid else (0.0, 0.0, 0.0)
        components += [("field_f1", f1, "Reward"), ("precision", precision, "Metric"), ("recall", recall, "Metric")]
        return f1, components

    return grade


def parse(text: str, allow_code_fence: bool) -> Any:
    """Parse a completion as JSON.

    Raises:
        ValueError, RecursionError: the completion is not JSON; NaN and Infinity are not.
    """
    text = text.strip()
    fenced = _FENCE.match(text) if allow_code_fence else None
    return json.loads(fenced[1] if fenced else text, parse_constant=_refuse_constant)


def field_f1(value: Any, expected: Any) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the leaf fields. The order of the elements of lists does not count."""
    leaves, expected_leaves = Counter(flatten(value)), Counter(flatten(expected))
    common = (leaves & expected_leaves).total()
    if not common:
        return 0.0, 0.0, 0.0
    size, expected_size = leaves.total(), expected_leaves.total()
    return common / size, common / expected_size, 2 * common / (size + expected_size)


def flatten(value: Any) -> list[tuple[str, str]]:
    """Return the leaves as (path, canonical JSON). A path consists of keys, and of `[]` for any element of a list."""
    return list(_leaves(value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{json.dumps(key)}")
    elif isinstance(value, list) and value:
        for inner in value:
            yield from _leaves(inner, f"{path}[]")
    elif isinstance(value, float) and value.is_integer():
        yield path, str(int(value))  # JSON has only one kind of numbers, so 1.0 is 1
    else:
        yield path, json.dumps(value)


def _expected(sample: dict[str, Any]) -> Any:
    reference = reference_answer(sample)
    wrapped = unwrapped(reference)
    if wrapped is not reference:
        try:
            value = parse(wrapped, allow_code_fence=False)
        except (ValueError, RecursionError):
            value = None
        # An object whose only field happens to be called text holds no other JSON object in it.
        return value if isinstance(value, (dict, list)) else reference
    if not isinstance(reference, str):
        return reference
    try:
        return parse(reference, allow_code_fence=False)
    except (ValueError, RecursionError):
        raise Unscorable("the reference_answer is text that is not JSON: give an object, or JSON as text") from None


def _keeps(validator: Draft202012Validator, value: Any) -> bool:
    try:
        return validator.is_valid(value)
    except Unresolvable as error:
        raise Unscorable(f"jsonSchema refers to something that it does not contain: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
