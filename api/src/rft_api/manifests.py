"""Reads manifests from YAML and reports all errors at once, each with its file, its line and its path."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from rft_api.foreign.files import read_file
from rft_api.foreign.text import one_line
from rft_api.foreign.yaml_text import MAXIMUM_BYTES, parse_documents
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.model import Json, Location, Violation, format_location
from rft_api.resource import API_VERSION
from rft_api.reward_checks import reward_problems
from rft_api.reward_function import MAXIMUM_CODE, Grader, PythonReward, RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.violations import violations

Resource = RFTJob | RewardFunction | InferenceEndpoint
KINDS: Mapping[str, type[RFTJob] | type[RewardFunction] | type[InferenceEndpoint]] = {
    "RFTJob": RFTJob,
    "RewardFunction": RewardFunction,
    "InferenceEndpoint": InferenceEndpoint,
}
_CONFIG_MAP = "ConfigMap"
READ_KINDS = frozenset({*KINDS, _CONFIG_MAP})
"""Kinds of the documents that are read."""
MOST_ERRORS = 1000
"""Errors of a document that are reported."""
_LONGEST_VIOLATION = 500
"""Characters of a violation in one line with others: the name of a field may have any length."""


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


def describe_invalid(document: Json, invalid: ValidationError) -> str:
    """Return the violations of one of our documents, in one line of limited length."""
    found = violations(invalid, document, KINDS[document["kind"]])
    return "; ".join(one_line(str(violation), _LONGEST_VIOLATION) for violation in found)


@dataclass(frozen=True)
class Origin:
    """The file, and the place in it, that a document was read from."""

    file: Path
    """Its file."""
    node: yaml.Node
    """Its YAML tree, which knows the lines."""
    document: Json
    """What it says, as the user has written it: without defaults."""

    def error(self, violation: Violation) -> ManifestError:
        """Return a problem of the document, with its file and line."""
        line, message = _line(self.node, violation.location), violation.message
        if violation.text_line is not None:
            if _is_block(self.node, violation.location):
                line += violation.text_line
            else:
                message += f" (line {violation.text_line} of the text)"
        return ManifestError(str(self.file), line, format_location(violation.location), message)


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
    """Origin of each document of a kind that is read, by kind and name; also of documents with errors."""
    others: list[Origin] = field(default_factory=list)
    """Documents of kinds that are not read, in their order."""
    documents: int = 0
    """Number of documents of all kinds."""

    def error(self, kind: str, name: str, location: Location, message: str) -> ManifestError:
        """Return a problem of a document at a location, with its file and line."""
        return self.origins[kind, name].error(Violation(message, location))


class ManifestErrors(Exception):
    """Raised with all errors of a set of manifests."""

    def __init__(self, errors: list[ManifestError], manifests: Manifests):
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = errors
        self.manifests = manifests
        """The documents without errors, so that further checks can go on with them."""


def load_manifests(files: Iterable[Path], kinds: Collection[str] = READ_KINDS) -> Manifests:
    """Read and validate manifests.

    Documents of other kinds than ours and ConfigMap are ignored, as `kubectl` would apply them without us.

    Args:
        files: the manifests.
        kinds: which of ours and ConfigMap are read; of documents of the others only the origin is.

    Raises:
        ManifestErrors: with everything that is wrong: unreadable files, broken YAML, wrong fields, duplicates.
    """
    manifests = Manifests()
    errors: list[ManifestError] = []
    for file in files:
        for node, document in _documents(file, errors):
            manifests.documents += 1
            if not isinstance(document, dict):
                errors.append(ManifestError(str(file), _line(node, ()), "", "a manifest is a mapping of fields"))
                continue
            kind = str(document.get("kind"))
            origin = Origin(file, node, document)
            if kind in READ_KINDS and kind not in kinds:
                manifests.origins.setdefault((kind, _name(document)), origin)
            elif kind == _CONFIG_MAP:
                _read_config_map(origin, document, manifests, errors)
            elif kind in KINDS:
                resource = _validated(origin, document, kind, errors)
                _remember(origin, document, kind, manifests, errors)
                if isinstance(resource, RewardFunction):
                    resource = _with_code_of_files(resource, origin, errors)
                if resource is not None and manifests.origins[kind, resource.metadata.name] is origin:
                    _add(resource, manifests, file.parent)
            elif document.get("apiVersion") == API_VERSION or "kind" not in document:
                message = f"must be one of {', '.join(KINDS)}"
                errors.append(ManifestError(str(file), _line(node, ("kind",)), "kind", message))
            else:
                manifests.others.append(origin)
    # Several functions may read the same code of a ConfigMap. Its problems are reported once.
    functions, config_maps = manifests.reward_functions.values(), manifests.config_maps
    problems = [problem for function in functions for problem in reward_problems(function, config_maps)]
    errors += [manifests.origins[document].error(violation) for document, violation in dict.fromkeys(problems)]
    if errors:
        raise ManifestErrors(errors, manifests)
    return manifests


def _remember(origin: Origin, document: Json, kind: str, manifests: Manifests, errors: list[ManifestError]) -> None:
    name = _name(document)
    earlier = manifests.origins.setdefault((kind, name), origin)
    if name and earlier is not origin:
        message = f"{kind} {name} is already defined in {earlier.file}, line {_line(earlier.node, ())}"
        line = _line(origin.node, ("metadata", "name"))
        errors.append(ManifestError(str(origin.file), line, "metadata.name", message))


def _name(document: Json) -> str:
    metadata = document.get("metadata")
    return str(metadata.get("name")) if isinstance(metadata, dict) else ""


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
        _remember(origin, document, _CONFIG_MAP, manifests, errors)
        manifests.config_maps.setdefault(metadata["name"], dict(data))


def _with_code_of_files(function: RewardFunction, origin: Origin, errors: list[ManifestError]) -> RewardFunction | None:
    """Return the function with the code of its files in their place; None, and an error, when one cannot be read."""
    failures = []

    def inline_code(location: Location, grader: Grader) -> dict[str, object]:
        python = grader.python
        if python is None or python.source_from is None or python.source_from.file is None:
            return {}
        file = origin.file.parent / python.source_from.file
        try:
            source = read_file(file, 4 * MAXIMUM_CODE).decode("utf-8-sig")
            inlined = {**python.to_json_object(), "source": source}
            del inlined["sourceFrom"]
            return {"python": PythonReward.model_validate(inlined)}
        except (OSError, UnicodeDecodeError) as error:
            message = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        except ValueError:  # it is too large, or PythonReward refuses it
            message = f"has to contain some code, and at most {MAXIMUM_CODE:,} characters"
        failures.append(Violation(f"{file}: {message}", (*location, "python", "sourceFrom", "file")))
        return {}

    updated = function.model_copy(update={"spec": function.spec.update_graders(inline_code)})
    errors += [origin.error(failure) for failure in failures]
    return None if failures else updated


class SourceError(Exception):
    """Raised when the code that a ConfigMap should hold cannot be used."""

    def __init__(self, location: Location, message: str):
        super().__init__(f"{format_location(location)}: {message}")
        self.location = location
        self.message = message


class SourceMissing(SourceError):
    """Raised when code is read from a ConfigMap's key that is not there, or empty."""


class SourceTooLong(SourceError):
    """Raised when a ConfigMap holds more code than a reward may have."""


def source_errors(function: RewardFunction, config_maps: Mapping[str, Mapping[str, str]]) -> Iterator[SourceError]:
    """Yield an exception for each reference to a ConfigMap that does not lead to code that can be used."""
    for location, grader in function.spec.graders():
        if grader.python is None or grader.python.source_from is None:
            continue
        reference = grader.python.source_from.config_map
        if reference is None:
            text = "is read by the command line rft only; put the code into source, or into a ConfigMap"
            yield SourceMissing((*location, "python", "sourceFrom", "file"), text)
            continue
        source = config_maps.get(reference.name, {}).get(reference.key)
        place, key = (
            (*location, "python", "sourceFrom", "configMap"),
            f"key {reference.key} of ConfigMap {reference.name}",
        )
        if source is None:
            yield SourceMissing(place, f"there is no ConfigMap {reference.name} with key {reference.key}")
        elif not source.strip():
            yield SourceMissing(place, f"{key} is empty")
        elif len(source) > MAXIMUM_CODE:
            yield SourceTooLong(
                place,
                f"{key} has {len(source):,} characters, and the code of a reward {MAXIMUM_CODE:,} at most: move data "
                "out of the code, into a file that pod.volumes mounts and sandbox.readable names",
            )


def resolve_source(function: RewardFunction, config_maps: Mapping[str, Mapping[str, str]]) -> RewardFunction:
    """Return the function with its code, and that of its terms, in place of references to ConfigMaps.

    Raises:
        SourceMissing: when a ConfigMap or its key is missing, or holds no code.
        SourceTooLong: when it holds too much.
    """
    for error in source_errors(function, config_maps):
        raise error

    def inline_code(_: Location, grader: Grader) -> dict[str, object]:
        python = grader.python
        if python is None or python.source_from is None:
            return {}
        reference = python.source_from.config_map
        assert reference is not None  # source_errors has refused it
        source = config_maps[reference.name][reference.key]
        return {"python": python.model_copy(update={"source": source, "source_from": None})}

    return function.model_copy(update={"spec": function.spec.update_graders(inline_code)})


def _documents(file: Path, errors: list[ManifestError]) -> list[tuple[yaml.Node, Any]]:
    try:
        with file.open("rb") as stream:  # may be a pipe
            text = stream.read(MAXIMUM_BYTES + 1).decode("utf-8")
    except OSError as error:
        errors.append(ManifestError(str(file), None, "", error.strerror or str(error)))
        return []
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        errors.append(ManifestError(str(file), line, "", "is not UTF-8 text"))
        return []
    documents = []
    try:
        documents = [(node, document) for node, document in parse_documents(text) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark.line + 1 if error.problem_mark else None
        errors.append(ManifestError(str(file), mark, "", f"is not valid YAML: {error.problem or error}"))
    except yaml.YAMLError as error:
        errors.append(ManifestError(str(file), None, "", f"is not valid YAML: {error}"))
    except ValueError as error:
        errors.append(ManifestError(str(file), None, "", str(error)))
    return documents


def _validated(origin: Origin, document: Json, kind: str, errors: list[ManifestError]) -> Resource | None:
    file, node = origin.file, origin.node
    missing = "apiVersion" not in document
    if missing:  # has a default in the models, because only manifests need to say it
        errors.append(ManifestError(str(file), _line(node, ()), "apiVersion", "is required"))
    try:
        # As on the API server, fields have no names but those of manifests.
        resource = KINDS[kind].model_validate(document, by_alias=True, by_name=False)
        return None if missing else resource
    except ValidationError as invalid:
        found = violations(invalid, document, KINDS[kind], MOST_ERRORS)
        errors += [origin.error(violation) for violation in found]
        return None


def _is_block(node: yaml.Node, location: Location) -> bool:
    """Return whether the text at a location is a literal block, whose lines are lines of the file."""
    for part in location:
        if isinstance(node, yaml.MappingNode):
            node = next((value for key, value in node.value if key.value == part), node)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
    return isinstance(node, yaml.ScalarNode) and node.style == "|"


def _line(node: yaml.Node, location: Location) -> int:
    """Return the line of the deepest part of a location that the document has."""
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
