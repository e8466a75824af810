"""Messages about wrong manifests: each is a sentence of ours, complete, and says what stands there."""

from __future__ import annotations

import datetime
import math
import tracemalloc
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import core_schema

from rft_api import violations as violations_module
from rft_api.manifests import KINDS, describe_invalid
from rft_api.openai_grader import AnyGrader
from rft_api.rft_job import RFTJob
from rft_api.violations import violations

OWN_TYPES = set(get_args(core_schema.ErrorType))
JOB = {
    "apiVersion": "rft.dev/v1alpha1",
    "kind": "RFTJob",
    "metadata": {"name": "x"},
    "spec": {
        "model": {"uri": "m"},
        "data": {"train": [{"name": "a", "uri": "a", "reward": "r"}]},
        "output": {"uri": "o"},
    },
}
VALUES = [
    None, "", "x", "X!", "7", "0.7", "x" * 5000, "\ud800", 0, -1, 7, 10**30, 0.5, math.nan, True, [], [None],
    ["x"] * 600, {}, {1: "a"}, {"a": None}, {str(n): "x" for n in range(600)}, datetime.date(2026, 1, 2), b"x",
]  # fmt: skip
Path = list[tuple[str | int, dict[str, Any]]]
"""Names and positions from the root, each with the fields that must stand beside it."""


def places(node: dict[str, Any], definitions: dict[str, Any], path: Path, walked: set[str]) -> Iterator[Path]:
    """Every place of a JSON schema; of lists and mappings of any keys, the first, and of each definition, too."""
    if path:
        yield path
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        if name in walked:
            return
        walked.add(name)
        node = definitions[name]
    for option in (*node.get("anyOf", ()), *node.get("oneOf", ())):
        yield from places(option, definitions, path, walked)
    beside = {name: field["const"] for name, field in node.get("properties", {}).items() if "const" in field}
    for name, field in node.get("properties", {}).items():
        yield from places(field, definitions, [*path, (name, {**beside})], walked)
    if isinstance(node.get("additionalProperties"), dict):
        yield from places(node["additionalProperties"], definitions, [*path, ("key", {})], walked)
    if "items" in node:
        yield from places(node["items"], definitions, [*path, (0, {})], walked)


def document(path: Path, value: Any) -> Any:
    for part, beside in reversed(path):
        value = [value] if part == 0 else {**beside, part: value}
    return value


def schemas() -> Iterator[tuple[str, Path, dict[str, Any]]]:
    for kind, model in KINDS.items():
        yield kind, [], model.model_json_schema(by_alias=True)
    grader: Path = [("spec", {"kind": "RewardFunction"}), ("openai", {}), ("grader", {})]
    yield "RewardFunction", grader, TypeAdapter(AnyGrader).json_schema()


def test_no_message_is_pydantics_own():
    """Every place of every resource, with every kind of wrong value."""
    own: dict[str, str] = {}
    types: set[str] = set()
    walked: set[str] = set()
    for kind, prefix, schema in schemas():
        for path in places(schema, schema.get("$defs", {}), prefix, walked):
            for value in VALUES:
                wrong = document(path, value)
                try:
                    KINDS[kind].model_validate(wrong)
                except ValidationError as error:
                    details = [detail for detail in error.errors() if detail["type"] in OWN_TYPES]
                    types |= {detail["type"] for detail in details}
                    texts = {detail["msg"].lower(): detail["type"] for detail in details}
                    messages = [violation.message for violation in violations(error, wrong, KINDS[kind])]
                    assert all(message and "\n" not in message and len(message) < 1000 for message in messages)
                    own |= {texts[m.lower()]: m for m in messages if m.lower() in texts}
                else:
                    continue
    assert own == {}
    assert {"string_type", "int_type", "literal_error", "too_long", "string_too_short", "float_type"} <= types


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("limits.deadline", 12, "needs a unit: write 12s, 12m or 12h"),
        ("limits.deadline", 0, "it must be at least 1s"),
        ("limits.deadline", 1.5, 'must be a length of time with a unit: "30s", "10m" or "1h30m"'),
        ("limits.deadline", True, 'must look like "30s", "10m" or "1h30m"'),
        ("limits.deadline", "0s", "must be at least 1s"),
        ("limits.gpuHours", 0, 'must be a string: write "0", in quotes; it must be above 0 and at most 1000000000'),
        ("hyperparameters.learningRate", 5, 'write "5", in quotes; it must be above 0 and at most 0.1'),
        ("hyperparameters.learningRate", -1, 'must look like "0.5" or "1e-5"; it must be above 0 and at most 0.1'),
        ("hyperparameters.learningRate", 0.01, 'must be a string: write "0.01", in quotes'),
        ("hyperparameters.epochs", "2", "must be a whole number: write 2, without quotes"),
        ("hyperparameters.epochs", 1.5, "must be a whole number, not 1.5"),
        ("hyperparameters.epochs", None, "must be a whole number, not empty (null)"),
        ("hyperparameters.samplesPerPrompt", 1, "must be at least 2, not 1"),
        ("suspend", "yes", 'must be true or false, without quotes, not "yes"'),
        ("algorithm", "grpo", "GSPO; did you mean GRPO?"),
        ("algorithm", 3, "GSPO, not 3"),
        ("model.uri", 7, 'must be a string: write "7", in quotes'),
        ("model.uri", ["m"], "must be a string, not a list"),
        ("model.uri", "", "must have at least 1 character"),
        ("endpoint.name", 12, 'must be a string: write "12", in quotes'),
        ("endpoint.name", 1.5, "must look like my-name"),
        ("shadowRewards", "r", 'must be a list, not "r"'),
        ("shadowRewards", list("abcdefghi"), "must have at most 8 items, and has 9"),
        ("data", [], "must be a mapping of fields"),
        ("compute.pod.nodeSelector", {1: "a"}, 'every key must be a string: write "1"'),
    ],
)
def test_the_first_message_is_complete(field, value, message):
    *names, last = field.split(".")
    spec: dict[str, Any] = dict(JOB["spec"])  # type: ignore[call-overload]
    inner = spec
    for name in names:
        inner[name] = dict(inner.get(name, {}))
        inner = inner[name]
    inner[last] = value
    wrong = {**JOB, "spec": spec}
    with pytest.raises(ValidationError) as caught:
        KINDS["RFTJob"].model_validate(wrong)
    (violation,) = [v for v in violations(caught.value, wrong, KINDS["RFTJob"]) if v.message != "is required"]
    assert violation.message.endswith(message) or violation.message.startswith(message)
    assert str(violation).startswith(f"spec.{field}")


def wrong(model: type[BaseModel], value: Any) -> ValidationError:
    with pytest.raises(ValidationError) as caught:
        model.model_validate(value)
    return caught.value


def test_of_many_violations_the_first_are_named_and_the_others_counted():
    document = {**JOB, **{f"field{number}": 1 for number in range(100)}}
    found = [str(each) for each in violations(wrong(RFTJob, document), document, RFTJob)]
    assert found[0] == "field0: unknown field"
    assert found[19:] == ["field19: unknown field", "and 80 more errors"]
    exactly = {**JOB, **{f"field{number}": 1 for number in range(20)}}
    assert len(list(violations(wrong(RFTJob, exactly), exactly, RFTJob))) == 20


def test_a_hundred_thousand_violations_are_counted_and_not_looked_at(monkeypatch):
    document = {**JOB, "metadata": {"name": "x", "labels": {f"label{number}": number for number in range(100_000)}}}
    invalid = wrong(RFTJob, document)
    tracemalloc.start()
    try:
        text = describe_invalid(document, invalid)
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert text == "has 100,000 wrong or unknown fields, which are too many to name"
    assert taken < 1 << 20


def test_a_description_is_short_however_long_names_and_values_are(monkeypatch):
    searched: list[str] = []

    def search(word: str, *_: object, **__: object) -> list[str]:
        searched.append(word)
        return []

    monkeypatch.setattr(violations_module, "get_close_matches", search)
    long = "x" * 1_000_000
    document = {**JOB, "spec": {**JOB["spec"], "algorithm": long, **{f"{long}{number}": 1 for number in range(5)}}}
    text = describe_invalid(document, wrong(RFTJob, document))
    assert len(text) < 4000
    assert "spec.algorithm: must be one of" in text
    assert all(len(word) < 200 for word in searched)
