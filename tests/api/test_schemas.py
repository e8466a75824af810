"""The resources' schemas: described, structural, in step with the committed files, and with every rule in force."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.schema_rules import RULES, SPEC, TWICE

from rft_api.crd import build_crds, messages
from rft_api.generate import generated_files
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Model
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import Compute, RFTJob, RFTJobSpec
from rft_api.sampling import RESERVED_ARGUMENTS, Sampling
from rft_api.sources import Data
from rft_api.training import TrainerCompute

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
    validations = [rule for _, node in every_node() for rule in node.get("x-kubernetes-validations", [])]
    rules = {message for validation in validations for message in messages(validation)}

    def with_rules(model: type[Model]) -> Iterator[type[Model]]:
        yield model
        for inner in model.__subclasses__():
            yield from with_rules(inner)

    for model in with_rules(Model):
        for rule in model.rules:
            assert rule.message in rules, model


def test_rules_ask_only_for_fields_that_may_be_missing():
    """Each `has` has the API server copy the schemas of all fields of an object, at every write of a status, too."""
    for path, node in every_node():
        rules = [rule["rule"] for rule in node.get("x-kubernetes-validations", [])]
        for place in re.findall(r"has\(self\.([\w.]+)\)", " ".join(rules)):
            field = node
            for name in place.split("."):
                field = field["properties"][name.strip("_")]
            assert "default" not in field, (path, place)


def test_rules_about_the_same_fields_are_one_for_the_api_server():
    """Each of them looked at the fields of rollouts again, which was an eighth of what the API server allocated."""
    (compute,) = [node for path, node in every_node() if path == "RFTJob.spec.compute"]
    (validation,) = [entry for entry in compute["x-kubernetes-validations"] if "rollouts" in entry["rule"]]
    rules = [rule for rule in TrainerCompute.rules if rule.unless]
    assert len(rules) == 5
    assert messages(validation) == [rule.message for rule in rules]
    assert validation["rule"] == f"{rules[0].unless} || ({' && '.join(f'({rule.cel})' for rule in rules)})"
    said = [f'!({rule.cel}) ? "{rule.message}" : ' for rule in rules[:-1]]
    assert validation["messageExpression"] == f'{"".join(said)}"{rules[-1].message}"'


def test_the_default_of_an_object_is_that_of_its_fields():
    """The API server evaluates the rules of an object on its default, and fills its fields only afterwards."""
    for path, node in every_node():
        if node.get("type") == "object" and "default" in node:
            fields = node.get("properties", {}).items()
            assert node["default"] == {name: field["default"] for name, field in fields if "default" in field}, path


@pytest.mark.parametrize("name", RESERVED_ARGUMENTS)
def test_a_reserved_name_of_a_chat_template_is_refused_where_it_stands(name):
    """A rule of all names was a quarter of what the API server allocated for the rules of a job."""
    with pytest.raises(ValidationError, match=f"belong to its caller: {name}"):
        Sampling.model_validate({"chatTemplateArguments": {name: 1}})
    (argument,) = [node for path, node in every_node() if path.endswith(f".chatTemplateArguments.{name}")]
    (rule,) = argument["x-kubernetes-validations"]
    assert rule["rule"] == "false"
    assert rule["message"].endswith(f"belong to its caller: {name}")


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
    # The row of Sampling is about the check of one of its fields.
    assert {model.__name__ for model in declared(Model)} == {model.__name__ for model in tested} - {"Sampling"}


def test_all_broken_rules_are_reported_together():
    with pytest.raises(ValidationError) as raised:
        Compute.model_validate({"gpusPerNode": 0, "rollouts": {"engine": "vLLM", "placement": "Dedicated"}})
    assert len(raised.value.errors()[0]["ctx"]["error"].violations) == 1
    with pytest.raises(ValidationError) as raised:
        Data.model_validate({"train": TWICE, "test": TWICE})
    assert len(raised.value.errors()[0]["ctx"]["error"].violations) == 2


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
