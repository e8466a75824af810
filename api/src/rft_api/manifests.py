"""Reads manifests from YAML and reports all errors at once, each with its file, its line and its path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json, Location, RuleViolations
from rft_api.resource import API_VERSION
from rft_api.reward_function import Grader, PythonReward, RewardFunction
from rft_api.rft_job import RFTJob

Resource = RFTJob | RewardFunction | InferenceEndpoint
KINDS: Mapping[str, type[RFTJob] | type[RewardFunction] | type[InferenceEndpoint]] = {
    "RFTJob": RFTJob,
    "RewardFunction": RewardFunction,
    "InferenceEndpoint": InferenceEndpoint,
}


@dataclass(frozen=True)
class ManifestError:
    """An error in a manifest."""

    file: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


@dataclass(frozen=True)
class Origin:
    """The file, and the place in it, that a document was read from."""

    file: Path
    """Its file."""
    node: yaml.Node
    """Its YAML tree, which knows the lines."""


@dataclass
class Manifests:
    """The resources of a set of files, and the ConfigMaps that they may refer to."""

    jobs: list[RFTJob] = field(default_factory=list)
    reward_functions: dict[str, RewardFunction] = field(default_factory=dict)
    endpoints: list[InferenceEndpoint] = field(default_factory=list)
    config_maps: dict[str, dict[str, str]] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    """Folder of the file of each job, by the name of the job; relative paths are relative to it."""
    origins: dict[tuple[str, str], Origin] = field(default_factory=dict)
    """Origin of each document, by kind and name; also of documents with errors."""

    def error(
        self, kind: str, name: str, location: Location, message: str, text_line: int | None = None
    ) -> ManifestError:
        """An error at a place of a document; `text_line` is a line inside the text that stands there, from 1."""
        origin = self.origins[kind, name]
        line = _line(origin.node, location)
        if text_line is not None:
            if _is_block(origin.node, location):
                line += text_line
            else:
                message += f" (line {text_line} of the text)"
        return ManifestError(str(origin.file), line, format_location(location), message)


class ManifestErrors(Exception):
    """Raised with all errors of a set of manifests."""

    def __init__(self, errors: list[ManifestError], manifests: Manifests):
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors
        self.manifests = manifests
        """The documents without errors, so that further checks can go on with them."""


def load_manifests(files: Iterable[Path]) -> Manifests:
    """Reads and validates manifests.

    Documents of other kinds than ours and ConfigMap are ignored, as `kubectl` would apply them without us.

    Raises:
        ManifestErrors: with everything that is wrong: unreadable files, broken YAML, wrong fields, duplicates.
    """
    manifests = Manifests()
    errors: list[ManifestError] = []
    for file in files:
        for node, document in _documents(file, errors):
            if not isinstance(document, dict):
                errors.append(ManifestError(str(file), _line(node, ()), "", "a manifest is a mapping of fields"))
                continue
            kind = str(document.get("kind"))
            origin = Origin(file, node)
            if kind == "ConfigMap":
                _read_config_map(origin, document, manifests, errors)
            elif kind in KINDS:
                resource = _validated(origin, document, kind, errors)
                _remember(origin, document, kind, manifests, errors)
                if resource is not None and manifests.origins[kind, resource.metadata.name] is origin:
                    _add(resource, manifests, file.parent)
            elif document.get("apiVersion") == API_VERSION or "kind" not in document:
                message = f"must be one of {', '.join(KINDS)}"
                errors.append(ManifestError(str(file), _line(node, ("kind",)), "kind", message))
    if errors:
        raise ManifestErrors(errors, manifests)
    return manifests


def _remember(origin: Origin, document: Json, kind: str, manifests: Manifests, errors: list[ManifestError]) -> None:
    metadata = document.get("metadata")
    name = str(metadata.get("name")) if isinstance(metadata, dict) else ""
    earlier = manifests.origins.setdefault((kind, name), origin)
    if name and earlier is not origin:
        message = f"{kind} {name} is already defined in {earlier.file}, line {_line(earlier.node, ())}"
        line = _line(origin.node, ("metadata", "name"))
        errors.append(ManifestError(str(origin.file), line, "metadata.name", message))


def _add(resource: Resource, manifests: Manifests, folder: Path) -> None:
    match resource:
        case RFTJob():
            manifests.jobs.append(resource)
            manifests.folders[resource.metadata.name] = folder
        case RewardFunction():
            manifests.reward_functions[resource.metadata.name] = resource
        case InferenceEndpoint():
            manifests.endpoints.append(resource)


def _read_config_map(origin: Origin, document: Json, manifests: Manifests, errors: list[ManifestError]) -> None:
    metadata, data = document.get("metadata"), document.get("data") or {}
    texts = isinstance(data, dict) and all(isinstance(value, str) for value in data.values())
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        line = _line(origin.node, ("metadata",))
        errors.append(ManifestError(str(origin.file), line, "metadata.name", "is required"))
    elif not texts:
        line = _line(origin.node, ("data",))
        errors.append(ManifestError(str(origin.file), line, "data", "must map keys to texts"))
    else:
        _remember(origin, document, "ConfigMap", manifests, errors)
        manifests.config_maps.setdefault(metadata["name"], dict(data))


class SourceMissing(Exception):
    """Raised when code is read from a ConfigMap's key that is not there."""

    def __init__(self, location: Location, message: str):
        super().__init__(f"{format_location(location)}: {message}")
        self.location = location
        self.message = message


def resolve_source(function: RewardFunction, config_maps: Mapping[str, Mapping[str, str]]) -> RewardFunction:
    """The function with its code, and that of its terms, in place of references to ConfigMaps.

    Raises:
        SourceMissing: when a ConfigMap or its key is missing, or holds no code.
    """

    def inline_code(location: Location, grader: Grader) -> dict[str, object]:
        return {"python": _inline(grader.python, (*location, "python"), config_maps)}

    return function.model_copy(update={"spec": function.spec.update_graders(inline_code)})


def _inline(
    python: PythonReward | None, location: Location, config_maps: Mapping[str, Mapping[str, str]]
) -> PythonReward | None:
    if python is None or python.source_from is None:
        return python
    reference = python.source_from.config_map
    location = (*location, "sourceFrom", "configMap")
    source = config_maps.get(reference.name, {}).get(reference.key)
    if source is None:
        raise SourceMissing(location, f"there is no ConfigMap {reference.name} with key {reference.key}")
    if not source.strip():
        raise SourceMissing(location, f"key {reference.key} of ConfigMap {reference.name} is empty")
    return PythonReward(source=source, handler=python.handler)


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that has a key twice, as kubectl does, where PyYAML takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


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
        loader = _Loader(text)
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
    except (ValueError, RecursionError) as error:
        # PyYAML passes on what constructors of dates and numbers raise, and recurses over nested values.
        errors.append(ManifestError(str(file), None, "", f"is not valid YAML: {error}"))
    return documents


def _validated(origin: Origin, document: Json, kind: str, errors: list[ManifestError]) -> Resource | None:
    file, node = origin.file, origin.node
    missing = "apiVersion" not in document
    if missing:  # has a default in the models, because only manifests need to say it
        errors.append(ManifestError(str(file), _line(node, ()), "apiVersion", "is required"))
    try:
        resource = KINDS[kind].model_validate(document)
        return None if missing else resource
    except ValidationError as invalid:
        for detail in invalid.errors():
            location = _in_document(document, tuple(detail["loc"]), detail["type"])
            for message in _messages(detail, KINDS[kind]):
                errors.append(ManifestError(str(file), _line(node, location), format_location(location), message))
        return None


def _in_document(document: Any, location: Location, kind: str) -> Location:
    """The location without the tags of unions, which pydantic puts between the names of fields."""
    kept: list[int | str] = []
    for index, part in enumerate(location):
        missing = kind == "missing" and index == len(location) - 1
        if isinstance(document, dict) and part not in document and not missing:
            continue
        kept.append(part)
        try:
            document = document[part]
        except (LookupError, TypeError):
            document = None
    return tuple(kept)


def _messages(detail: Any, model: type[BaseModel]) -> list[str]:
    error = (detail.get("ctx") or {}).get("error")
    if isinstance(error, RuleViolations):
        return error.messages
    if detail["type"] == "missing":
        return ["is required"]
    if detail["type"] in ("union_tag_not_found", "union_tag_invalid"):
        expected = detail["ctx"].get("expected_tags")
        return ["needs a type" + (f": one of {expected}" if expected else "")]
    if detail["type"] == "model_type":
        return ["must be a mapping of fields"]
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(str(detail["loc"][-1]), _field_names(model, detail["loc"][:-1]), n=1)
        return ["unknown field" + (f"; did you mean {close[0]}?" if close else "")]
    message = str(detail["msg"])
    return [message[0].lower() + message[1:]]


def _field_names(model: type[BaseModel], location: Location) -> list[str]:
    """Names that could stand at a place: the fields of the model found by walking down the annotations."""
    current: type[BaseModel] = model
    for part in location:
        if isinstance(part, int):
            continue
        inner = next((f for n, f in current.model_fields.items() if part in (f.alias, n)), None)
        model_inside = _model_in(inner.annotation) if inner is not None else None
        if model_inside is None:
            return []
        current = model_inside
    return [f.alias or name for name, f in current.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        if model := _model_in(argument):
            return model
    return None


def _is_block(node: yaml.Node, location: Location) -> bool:
    """Whether the text at a location is a literal block, whose lines are lines of the file."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
    return isinstance(node, yaml.ScalarNode) and node.style == "|"


def format_location(location: Location) -> str:
    """A field's place as people write it: `spec.data.train[0].uri`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _line(node: yaml.Node, location: Location) -> int:
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
