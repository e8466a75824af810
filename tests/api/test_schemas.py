"""The resources' schemas: described, structural, in step with the committed files, and with every rule in force."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rft_api.builtin_reward import BuiltinReward, FormatReward
from rft_api.crd import build_crds
from rft_api.generate import generated_files
from rft_api.inference_endpoint import InferenceEndpoint, InferenceEndpointSpec
from rft_api.invocation_log import InvocationLog, MetadataFilter, MetadataFilters
from rft_api.model import Model
from rft_api.reward_function import (
    CombineReward,
    CombineTerm,
    Expectation,
    JudgeModel,
    JudgeReward,
    PythonReward,
    RewardFunction,
    RewardFunctionSpec,
)
from rft_api.rft_job import Compute, RFTJob, RFTJobSpec
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.training import DeepSpeed, Tuning, Warmup

ROOT = Path(__file__).parents[2]
CRDS = build_crds()


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema inside a schema, by its path."""
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}{{}}")


def every_node() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for crd in CRDS.values():
        schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        found += nodes(schema, crd["spec"]["names"]["kind"])
    return found


@pytest.mark.parametrize("name", generated_files())
def test_generated_files_are_up_to_date(name):
    assert (ROOT / name).read_text(encoding="utf-8") == generated_files()[name], "run `make generate`"


def test_schemas_are_structural():
    forbidden = {"anyOf", "oneOf", "allOf", "$ref", "$defs", "title", "const", "additionalItems", "exclusiveMinimum"}
    for path, node in every_node():
        assert not forbidden & node.keys(), path
        assert node.get("type") in {"object", "array", "string", "integer", "boolean"} or node.get(
            "x-kubernetes-preserve-unknown-fields"
        ), path
        assert not ("properties" in node and "additionalProperties" in node), path
        if node.get("type") == "array":
            assert "items" in node, path


def test_no_number_is_a_float():
    assert not [path for path, node in every_node() if node.get("type") == "number"]


def test_every_field_is_described():
    missing = [
        f"{path}.{name}"
        for path, node in every_node()
        for name, field in node.get("properties", {}).items()
        if not field.get("description") and (path, name) not in {(kind, "metadata") for kind in KINDS}
    ]
    assert missing == []


KINDS = {"RFTJob": RFTJob, "RewardFunction": RewardFunction, "InferenceEndpoint": InferenceEndpoint}


def test_defaults_satisfy_their_own_schemas():
    for path, node in every_node():
        default = node.get("default")
        if default is None:
            continue
        if "enum" in node:
            assert default in node["enum"], path
        if node["type"] == "integer":
            assert node.get("minimum", default) <= default <= node.get("maximum", default), path
            assert not isinstance(default, bool)
        json.dumps(default)


def test_rules_reach_the_crds():
    rules = {rule["message"] for _, node in every_node() for rule in node.get("x-kubernetes-validations", [])}

    def with_rules(model: type[Model]) -> Iterator[type[Model]]:
        yield model
        for inner in model.__subclasses__():
            yield from with_rules(inner)

    for model in with_rules(Model):
        for rule in model.rules:
            assert rule.message in rules, model


DATA = {"train": [{"name": "a", "uri": "a.jsonl", "reward": "r"}]}
TWICE = [{"name": "a", "uri": "a.jsonl", "reward": "r"}] * 2
LOG = "BedrockInvocationLog"
SPEC = {"model": {"uri": "m"}, "data": DATA, "output": {"uri": "o"}}
MATH = {"name": "a", "builtin": {"name": "Math"}}

# model, what satisfies every rule, what breaks one, and a part of its message
RULES: list[tuple[type[Model], dict[str, Any], dict[str, Any], str]] = [
    (
        Data,
        DATA,
        {**DATA, "validation": DATA["train"], "validationFraction": "0.1"},
        "set at most one of validation, v",
    ),
    (Data, {**DATA, "validation": DATA["train"]}, {"train": TWICE}, "train: every source needs a name of its own"),
    (Data, DATA, {**DATA, "validation": TWICE}, "validation: every source needs a name of its own"),
    (Data, {**DATA, "test": DATA["train"]}, {**DATA, "test": TWICE}, "test: every source needs a name of its own"),
    (Warmup, {"data": [{"name": "a", "uri": "a"}]}, {"data": [{"name": "a", "uri": "a"}] * 2}, "data: every source"),
    (
        DataSource,
        {**DATA["train"][0], "format": LOG, "invocationLog": {"limit": 3}},
        {**DATA["train"][0], "invocationLog": {"limit": 3}},
        "invocationLog belongs to format",
    ),
    (DataSource, {**DATA["train"][0], "format": LOG}, {**DATA["train"][0], "invocationLog": {}}, "invocationLog belo"),
    (
        WarmupSource,
        {"name": "a", "uri": "a", "format": LOG, "invocationLog": {}},
        {"name": "a", "uri": "a", "invocationLog": {}},
        "invocationLog belongs to format",
    ),
    (
        InvocationLog,
        {"from": "2025-03-11T00:00:00Z", "to": "2025-03-11T00:00:01Z"},
        {"from": "2025-03-11T00:00:00Z", "to": "2025-03-11T00:00:00Z"},
        "from must be before to",
    ),
    (MetadataFilters, {"equals": {"a": "b"}}, {"equals": {"a": "b"}, "orAll": [{"equals": {"a": "b"}}]}, "exactly one"),
    (MetadataFilter, {"equals": {"a": "b"}, "notEquals": {"c": "d"}}, {}, "set equals, notEquals or both"),
    (Tuning, {"type": "LoRA", "rank": 8}, {"type": "Full", "rank": 8}, "belong to type LoRA"),
    (Tuning, {"type": "Full"}, {"type": "Full", "lastLayers": 2}, "belong to type LoRA"),
    (DeepSpeed, {"zeroStage": 2, "offload": "Optimizer"}, {"zeroStage": 1, "offload": "Optimizer"}, "offload needs"),
    (Compute, {"gpusPerNode": 0, "processesPerNode": 2}, {"gpusPerNode": 1, "processesPerNode": 2}, "is for CPU train"),
    (Compute, {"rollouts": {"engine": "vLLM"}}, {"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}}, "needs GPUs"),
    (
        RFTJobSpec,
        {**SPEC, "endpoint": {"name": "e", "baseEndpoint": "b"}},
        {**SPEC, "endpoint": {"name": "e", "baseEndpoint": "b"}, "tuning": {"type": "Full"}},
        "endpoint.baseEndpoint serves LoRA adapters",
    ),
    (
        RFTJobSpec,
        {**SPEC, "shadowRewards": ["s", "t"]},
        {**SPEC, "shadowRewards": ["s", "s"]},
        "name may appear only once",
    ),
    (RFTJobSpec, {**SPEC, "shadowRewards": ["s"]}, {**SPEC, "shadowRewards": ["r"]}, "trained on is recorded anyway"),
    (
        RFTJobSpec,
        {**SPEC, "algorithm": "VESPO", "compute": {}},
        {**SPEC, "algorithm": "VESPO", "compute": {"rollouts": {"engine": "vLLM"}}},
        "VESPO cannot learn from rollouts of vLLM",
    ),
    (PythonReward, {"source": "x"}, {}, "set exactly one of source, sourceFrom"),
    (PythonReward, {"source": "x"}, {"source": "x", "sourceFrom": {"configMap": {"name": "c", "key": "k"}}}, "exactly"),
    (FormatReward, {"maximumCharacters": 0}, {}, "state a constraint"),
    (FormatReward, {"contains": ["x"]}, {"contains": []}, "state a constraint"),
    (BuiltinReward, {"name": "Math", "math": {}}, {"name": "Math", "json": {}}, "options must be those of the builtin"),
    (FormatReward, {"minimumWords": 0}, {"excludes": []}, "words, sentences or lines"),
    (FormatReward, {"language": "en"}, {}, "state a constraint"),
    (BuiltinReward, {"name": "ChrF", "chrF": {"wordOrder": 2}}, {"name": "Bleu", "chrF": {}}, "options must be those"),
    (BuiltinReward, {"name": "Code", "code": {}}, {"name": "F1", "code": {}}, "options must be those"),
    (BuiltinReward, {"name": "Json", "json": {}}, {"name": "ExactMatch", "math": {}}, "options must be those"),
    (BuiltinReward, {"name": "Format", "format": {"pattern": "x"}}, {"name": "Format"}, "needs its constraints"),
    (JudgeModel, {"url": "http://x", "name": "m"}, {}, "set exactly one of url, endpoint, bedrock"),
    (JudgeModel, {"endpoint": "e"}, {"url": "http://x"}, "name goes with url"),
    (JudgeModel, {"endpoint": "e"}, {"endpoint": "e", "name": "m"}, "name goes with url"),
    (
        JudgeModel,
        {"url": "http://x", "name": "m", "tokenKey": "KEY", "caKey": "CA"},
        {"endpoint": "e", "tokenKey": "KEY"},
        "tokenKey and caKey belong to url",
    ),
    (
        JudgeReward,
        {"template": "Reasoning", "model": {"endpoint": "e"}, "votes": 3},
        {"template": "Reasoning", "model": {"endpoint": "e"}, "votes": 4},
        "votes must be odd",
    ),
    (CombineTerm, MATH, {"name": "a"}, "set exactly one of python, builtin, judge, lambda, http, openai"),
    (CombineReward, {"terms": [MATH]}, {"terms": [MATH, MATH]}, "every term needs a name of its own"),
    (Expectation, {"minimum": "0"}, {}, "set minimum, maximum or both"),
    (
        RewardFunctionSpec,
        {"builtin": {"name": "Math"}},
        {},
        "set exactly one of python, builtin, judge, lambda, http, ",
    ),
    (
        RewardFunctionSpec,
        {"combine": {"terms": [MATH]}},
        {"combine": {"terms": [MATH]}, "builtin": {"name": "Math"}},
        "set exactly one of python",
    ),
    (InferenceEndpointSpec, {"model": {"uri": "m"}}, {}, "set exactly one of model, baseEndpoint"),
    (
        InferenceEndpointSpec,
        {"baseEndpoint": "b", "adapter": {"uri": "a"}},
        {"baseEndpoint": "b"},
        "baseEndpoint and adapter go together",
    ),
    (
        InferenceEndpointSpec,
        {"model": {"uri": "m"}, "serving": {}},
        {"baseEndpoint": "b", "adapter": {"uri": "a"}, "serving": {}},
        "serving belongs to the endpoint",
    ),
]


@pytest.mark.parametrize(("model", "right", "wrong", "message"), RULES)
def test_a_rule(model, right, wrong, message):
    model.model_validate(right)
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        model.model_validate(wrong)


def test_every_rule_is_tested():
    def declared(model: type[Model]) -> Iterator[type[Model]]:
        # What subclasses share is tested for each of them.
        if model.rules and not model.__subclasses__():
            yield model
        for inner in model.__subclasses__():
            yield from declared(inner)

    tested = {model for model, *_ in RULES}
    assert {model.__name__ for model in declared(Model)} == {model.__name__ for model in tested}


def test_all_broken_rules_are_reported_together():
    with pytest.raises(ValidationError) as raised:
        Compute.model_validate({"gpusPerNode": 0, "rollouts": {"engine": "vLLM"}})
    assert len(raised.value.errors()[0]["ctx"]["error"].messages) == 1
    with pytest.raises(ValidationError) as raised:
        Data.model_validate({"train": TWICE, "test": TWICE})
    assert len(raised.value.errors()[0]["ctx"]["error"].messages) == 2


@pytest.mark.parametrize("value", ["yes", "true", 1, 0])
def test_booleans_are_not_texts_or_numbers(value):
    with pytest.raises(ValidationError):
        RFTJobSpec.model_validate({**SPEC, "suspend": value})


def test_a_minimal_job_gets_the_documented_defaults():
    spec = RFTJobSpec.model_validate(SPEC)
    assert spec.algorithm == "GRPO"
    assert spec.hyperparameters.samples_per_prompt == 8
    assert spec.tuning.type == "LoRA"
    assert spec.compute.gpus_per_node == 1
    assert spec.preflight.action == "Fail"
    assert spec.data.validation_fraction is None


def test_a_document_survives_the_round_trip():
    job = RFTJob.model_validate({"metadata": {"name": "a"}, "spec": SPEC})
    assert RFTJob.model_validate(job.to_json_object()) == job
