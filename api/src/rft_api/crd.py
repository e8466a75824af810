"""Builds the CustomResourceDefinitions from the pydantic models: structural schemas with CEL rules."""

from __future__ import annotations

import re

from pydantic import BaseModel

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json, Model, Rule
from rft_api.quantities import decimal_text
from rft_api.resource import GROUP, VERSION
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob

# Keywords of a structural schema that pydantic's JSON Schema may carry through; titles, for one, are not allowed.
_KEPT = {
    "type", "description", "default", "enum", "pattern", "format", "minimum", "maximum", "minLength", "maxLength",
    "minItems", "maxItems", "minProperties", "maxProperties", "required", "nullable",
}  # fmt: skip


def _ready_column() -> Json:
    return _column("Ready", "string", '.status.conditions[?(@.type=="Ready")].status')


def _reason_column() -> Json:
    return _column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason')


def _column(name: str, kind: str, path: str, priority: int = 0) -> Json:
    return {"name": name, "type": kind, "jsonPath": path, "priority": priority}


_AGE = _column("Age", "date", ".metadata.creationTimestamp")


def build_crds() -> dict[str, Json]:
    """Return all CustomResourceDefinitions, by their file's name."""
    return {
        "rftjobs.yaml": _crd(
            RFTJob,
            "rftjobs",
            short_names=["rft"],
            columns=[
                _column("State", "string", '.status.conditions[?(@.type=="Succeeded")].reason'),
                _column("Step", "integer", ".status.progress.step"),
                _column("Of", "integer", ".status.progress.totalSteps"),
                _column("Reward", "string", ".status.progress.reward"),
                _column("Best", "string", ".status.result.bestReward"),
                _column("Gain", "string", ".status.result.gain"),
                _column("Model", "string", ".spec.model.uri", priority=1),
                _AGE,
            ],
        ),
        "rewardfunctions.yaml": _crd(
            RewardFunction,
            "rewardfunctions",
            short_names=["rf"],
            columns=[
                _ready_column(),
                _reason_column(),
                _column("Digest", "string", ".status.digest", priority=1),
                _AGE,
            ],
        ),
        "inferenceendpoints.yaml": _crd(
            InferenceEndpoint,
            "inferenceendpoints",
            short_names=["ie"],
            columns=[
                _ready_column(),
                _reason_column(),
                _column("Model", "string", ".status.modelName"),
                _column("Replicas", "integer", ".status.replicas"),
                _column("URL", "string", ".status.url", priority=1),
                _AGE,
            ],
            scale={
                "specReplicasPath": ".spec.replicas",
                "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector",
            },
        ),
    }


def _crd(
    model: type[BaseModel], plural: str, short_names: list[str], columns: list[Json], scale: Json | None = None
) -> Json:
    kind = model.__name__
    subresources: Json = {"status": {}}
    if scale is not None:
        subresources["scale"] = scale
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short_names,
                "categories": ["rft-operator"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": structural_schema(model)},
                    "subresources": subresources,
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }


def structural_schema(model: type[BaseModel]) -> Json:
    """Return a resource's structural schema (Kubernetes, "Specifying a structural schema")."""
    document = model.model_json_schema(by_alias=True, mode="validation")
    schema = _structural(document, document.get("$defs", {}))
    # The API server owns these three; a schema of metadata may only restrict the name.
    properties = schema["properties"]
    properties["apiVersion"] = {"type": "string", "description": "Version of the schema."}
    properties["kind"] = {"type": "string", "description": "Kind of the object."}
    name = properties["metadata"]["properties"]["name"]
    properties["metadata"] = {"type": "object", "properties": {"name": name}}
    schema["required"] = ["spec"]
    return _with_rules(model.__name__, schema)


def _structural(node: Json, definitions: dict[str, Json]) -> Json:
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[1]
        merged = {**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}}
        return _with_rules(name, _structural(merged, definitions))
    if "anyOf" in node:
        # Optional fields: being absent is how "no value" is written in Kubernetes.
        options = [option for option in node["anyOf"] if option.get("type") != "null"]
        if len(options) != 1:
            raise ValueError(f"a structural schema cannot hold the union {node['anyOf']}")
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return _structural({**options[0], **rest}, definitions)
    result: Json = {key: value for key, value in node.items() if key in _KEPT or key.startswith("x-kubernetes-")}
    if "const" in node:
        result["enum"] = [node["const"]]
    if "description" in result:
        result["description"] = " ".join(str(result["description"]).split())
    if "default" in result:
        if result["default"] is None:
            del result["default"]
        elif isinstance(result["default"], float):
            result["default"] = decimal_text(result["default"])
    if node.get("x-kubernetes-preserve-unknown-fields") and "properties" not in node:
        return result
    if "properties" in node:
        result["properties"] = {name: _structural(value, definitions) for name, value in node["properties"].items()}
        if "default" in result:
            # The defaults of its own fields: the API server evaluates the object's rules on it, as it stands here.
            fields = result["properties"].items()
            result["default"] = {name: field["default"] for name, field in fields if "default" in field}
    elif isinstance(node.get("additionalProperties"), dict):
        result["additionalProperties"] = _structural(node["additionalProperties"], definitions)
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    return result


def messages(validation: Json) -> list[str]:
    """Return what a schema's `x-kubernetes-validations` entry says: the message of each of its rules."""
    if "message" in validation:
        return [validation["message"]]
    return re.findall('"([^"]*)"', validation["messageExpression"])


def _with_rules(name: str, schema: Json) -> Json:
    together: dict[str | int, list[Rule]] = {}
    for index, rule in enumerate(_rules_of(name)):
        together.setdefault(rule.unless or index, []).append(rule)
    for rules in together.values():
        place = schema["properties"][rules[0].field] if rules[0].field else schema
        place["x-kubernetes-validations"] = [*place.get("x-kubernetes-validations", []), _validation(rules)]
    return schema


def _validation(rules: list[Rule]) -> Json:
    """Return the rules that state the same `unless` as one for the API server, which says what the first broken one
    says."""
    unless = rules[0].unless
    if not unless:
        return {"rule": rules[0].cel, "message": rules[0].message}
    hold = " && ".join(f"({rule.cel})" for rule in rules)
    # Only the first broken one: the API server takes joined texts for too expensive, because it knows no bound of them.
    first = "".join(f'!({rule.cel}) ? "{rule.message}" : ' for rule in rules[:-1])
    return {"rule": f"{unless} || ({hold})", "messageExpression": f'{first}"{rules[-1].message}"'}


def _rules_of(name: str) -> tuple[Rule, ...]:
    """Return the rules of the model with this class name, which pydantic uses as the schema's name."""

    def subclasses(model: type[Model]) -> list[type[Model]]:
        return [model, *(inner for direct in model.__subclasses__() for inner in subclasses(direct))]

    return next(model.rules for model in subclasses(Model) if model.__name__ == name)
