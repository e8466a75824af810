"""Reads manifests from YAML: every error at once, each with its file, line and path in the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import RuleViolations
from rft_api.resource import API_VERSION
from rft_api.reward_function import PythonReward, RewardFunction
from rft_api.rft_job import RFTJob

Resource = RFTJob | RewardFunction | InferenceEndpoint
KINDS: Mapping[str, type[RFTJob] | type[RewardFunction] | type[InferenceEndpoint]] = {
    "RFTJob": RFTJob,
    "RewardFunction": RewardFunction,
    "InferenceEndpoint": InferenceEndpoint,
}


@dataclass(frozen=True)
class ManifestError:
    """One thing that is wrong in a manifest."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class ManifestErrors(Exception):
    """Raised with everything that is wrong in the given manifests."""

    def __init__(self, errors: list[ManifestError]):
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors


@dataclass
class Manifests:
    """The resources of some files, and the ConfigMaps that they may refer to."""

    jobs: list[RFTJob] = field(default_factory=list)
    reward_functions: dict[str, RewardFunction] = field(default_factory=dict)
    endpoints: list[InferenceEndpoint] = field(default_factory=list)
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    """Folder of the file that each job (by name) came from: relative paths start there."""


def load_manifests(files: Iterable[Path]) -> Manifests:
    """Reads and checks manifests.

    Documents of other kinds than ours and ConfigMap are ignored, as `kubectl` would apply them without us.

    Raises:
        ManifestErrors: with everything that is wrong: unreadable files, broken YAML, wrong fields, duplicates.
    """
    found = Manifests()
    errors: list[ManifestError] = []
    seen: dict[tuple[str, str], str] = {}
    for file in files:
        for node, document in _documents(file, errors):
            if not isinstance(document, dict):
                errors.append(ManifestError(str(file), _line(node, ()), "", "a manifest is a mapping of fields"))
                continue
            kind = str(document.get("kind"))
            if kind == "ConfigMap":
                name = str((document.get("metadata") or {}).get("name"))
                found.config_maps[name] = {k: str(v) for k, v in (document.get("data") or {}).items()}
                continue
            if kind not in KINDS:
                if document.get("apiVersion") == API_VERSION or "kind" not in document:
                    message = f"must be one of {', '.join(KINDS)}"
                    errors.append(ManifestError(str(file), _line(node, ("kind",)), "kind", message))
                continue
            resource = _validated(file, node, document, kind, errors)
            if resource is None:
                continue
            key = (kind, resource.metadata.name)
            if key in seen:
                message = f"{kind} {resource.metadata.name} is already defined in {seen[key]}"
                errors.append(ManifestError(str(file), _line(node, ("metadata", "name")), "metadata.name", message))
                continue
            seen[key] = str(file)
            match resource:
                case RFTJob():
                    found.jobs.append(resource)
                    found.folders[resource.metadata.name] = file.parent
                case RewardFunction():
                    found.reward_functions[resource.metadata.name] = resource
                case InferenceEndpoint():
                    found.endpoints.append(resource)
    if errors:
        raise ManifestErrors(errors)
    return found


def resolve_source(function: RewardFunction, config_maps: Mapping[str, Mapping[str, str]]) -> RewardFunction:
    """The function with its code in place of the reference to a ConfigMap.

    Raises:
        KeyError: with a message, when the ConfigMap or its key is missing.
    """
    python = function.spec.python
    if python is None or python.source_from is None:
        return function
    reference = python.source_from.config_map
    if reference.key not in config_maps.get(reference.name, {}):
        raise KeyError(
            f"RewardFunction {function.metadata.name}: spec.python.sourceFrom.configMap: "
            f"ConfigMap {reference.name} with key {reference.key} is not among the given files"
        )
    inline = PythonReward(source=config_maps[reference.name][reference.key], handler=python.handler)
    return function.model_copy(update={"spec": function.spec.model_copy(update={"python": inline})})


def _documents(file: Path, errors: list[ManifestError]) -> list[tuple[yaml.Node, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        errors.append(ManifestError(str(file), None, "", error.strerror or str(error)))
        return []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        errors.append(ManifestError(str(file), line, "", "is not UTF-8 text"))
        return []
    documents = []
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is None:
                continue
            document = loader.construct_document(node)
            if document is not None:
                documents.append((node, document))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark.line + 1 if error.problem_mark else None
        errors.append(ManifestError(str(file), mark, "", f"is not valid YAML: {error.problem or error}"))
    except yaml.YAMLError as error:
        errors.append(ManifestError(str(file), None, "", f"is not valid YAML: {error}"))
    return documents


def _validated(
    file: Path, node: yaml.Node, document: dict[str, Any], kind: str, errors: list[ManifestError]
) -> Resource | None:
    try:
        return KINDS[kind].model_validate(document)
    except ValidationError as invalid:
        for detail in invalid.errors():
            location = tuple(detail["loc"])
            for message in _messages(detail, KINDS[kind]):
                errors.append(ManifestError(str(file), _line(node, location), _path(location), message))
        return None


def _messages(detail: Any, model: type[BaseModel]) -> list[str]:
    error = (detail.get("ctx") or {}).get("error")
    if isinstance(error, RuleViolations):
        return error.messages
    if detail["type"] == "missing":
        return ["is required"]
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(str(detail["loc"][-1]), _field_names(model, detail["loc"][:-1]), n=1)
        return ["unknown field" + (f"; did you mean {close[0]}?" if close else "")]
    message = str(detail["msg"])
    return [message[0].lower() + message[1:]]


def _field_names(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names that could stand at a place: the fields of the model found by walking down the annotations."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        inner = next((f for n, f in current.model_fields.items() if part in (f.alias, n)), None)
        found = _model_in(inner.annotation) if inner is not None else None
        if found is None:
            return []
        current = found
    return [f.alias or name for name, f in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if found := _model_in(argument):
            return found
    return None


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _line(node: yaml.Node, location: tuple[int | str, ...]) -> int:
    """Line of the deepest part of a location that the document has."""
    line = node.start_mark.line + 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            pair = next(((key, value) for key, value in node.value if key.value == part), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line
