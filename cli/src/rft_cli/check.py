"""Check manifests without running anything, and report every error at once, with its file and line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from rft_api.addresses import Address, endpoint_address, job_addresses
from rft_api.data_formats import FORMATS
from rft_api.hub_address import DATASET_SHAPE, SHAPE, parse_dataset_address, parse_hub_address
from rft_api.inference_endpoint import describe_foreign_source, find_adapter_violation, serving_of
from rft_api.manifests import (
    READ_KINDS,
    ManifestError,
    ManifestErrors,
    Manifests,
    SourceError,
    load_manifests,
    resolve_source,
    source_errors,
)
from rft_api.model import Location
from rft_api.model_files import read_model_configuration
from rft_api.redaction import pattern_problem
from rft_api.render import FieldError, RewardAddress, render_trainer_config, reward_names
from rft_api.reward_document import document_violation, reward_document
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.run_folder import best_address
from rft_api.sources import DataSource
from rft_api.vllm_models import ENGINE, vllm_problem

_SCHEMES = {
    "model": {"", "hf", "s3", "pvc"},
    "data": {"", "configmap", "hf", "s3", "pvc"},
    "output": {"", "s3", "pvc"},
    "adapter": {"", "s3", "pvc"},
}

# Replaces a function that is missing or wrong, so that the rest of the job can still be checked.
_STAND_IN = RewardFunction.model_validate({"metadata": {"name": "any"}, "spec": {"builtin": {"name": "Math"}}})


def manifest_files(paths: Iterable[Path]) -> list[Path]:
    """Return the paths that are files, and the manifests in the paths that are folders, each file once."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def check_manifests(paths: Iterable[Path]) -> tuple[Manifests, list[ManifestError]]:
    """Read manifests, and check each of them and the references between them.

    Returns:
        The manifests that are valid by themselves, and every error, in the order of files and lines.
    """
    manifests, errors = read_manifests(paths)
    for job in manifests.jobs:
        errors += _job_errors(manifests, job)
        errors += _model_errors(manifests, job)
    errors += _job_adapter_errors(manifests)
    errors += endpoint_errors(manifests)
    return manifests, in_order(errors)


def read_manifests(paths: Iterable[Path], kinds: Collection[str] = READ_KINDS) -> tuple[Manifests, list[ManifestError]]:
    """Read and check manifests as `check_manifests` does, but do not check what jobs refer to.

    Args:
        paths: manifests, or folders with manifests.
        kinds: the kinds of `load_manifests`.
    """
    try:
        manifests, errors = load_manifests(manifest_files(paths), kinds), []
    except ManifestErrors as error:
        manifests, errors = error.manifests, list(error.errors)
    for function in manifests.reward_functions.values():
        errors += [
            manifests.error("RewardFunction", function.metadata.name, violation.location, violation.message)
            for violation in source_errors(function, manifests.config_maps)
        ]
    return manifests, in_order(errors)


def in_order(errors: Iterable[ManifestError]) -> list[ManifestError]:
    """Return errors, or remarks, in the order of files and lines."""
    return sorted(errors, key=lambda error: (error.file, error.line or 0))


def size_errors(manifests: Manifests) -> Iterator[ManifestError]:
    """Yield an error for each function that is too large for a cluster; a local run takes functions of any size."""
    for function in manifests.reward_functions.values():
        try:
            resolved = resolve_source(function, manifests.config_maps)
        except SourceError:
            continue  # reported by `read_manifests`
        violation = document_violation(function, reward_document(resolved))
        if violation is not None:
            yield manifests.error("RewardFunction", function.metadata.name, violation.location, violation.message)


def _job_errors(manifests: Manifests, job: RFTJob) -> Iterator[ManifestError]:
    name = job.metadata.name
    for location, reward in _reward_references(job):
        if ("RewardFunction", reward) not in manifests.origins:
            matches = get_close_matches(reward, manifests.reward_functions, n=1)
            hint = f"; did you mean {matches[0]}?" if matches else " among the given files"
            message = f"RewardFunction {reward} is not defined{hint}"
            yield manifests.error("RFTJob", name, location, message)
    for address in job_addresses(job):
        problem = _address_problem(manifests, manifests.folders[name], address)
        if problem:
            yield manifests.error("RFTJob", name, address.location, problem)
    for item in job.spec.sources():
        for location, problem in FORMATS[item.source.format].option_problems(item.source):
            yield manifests.error("RFTJob", name, ("spec", *item.location, *location), problem)
    try:
        functions = {reward: manifests.reward_functions.get(reward, _STAND_IN) for reward in reward_names(job)}
        empty_addresses = dict.fromkeys(functions, RewardAddress(url="", token_file=None))
        render_trainer_config(job, functions, empty_addresses, locate=str)
    except FieldError as error:
        yield manifests.error("RFTJob", name, error.location, error.problem)


def _model_errors(manifests: Manifests, job: RFTJob) -> Iterator[ManifestError]:
    """Yield an error if completions of a model in a local folder are to come from vLLM and cannot."""
    uri = job.spec.model.uri
    if "://" in uri:
        return
    try:
        configuration = read_model_configuration(
            manifests.folders[job.metadata.name] / Path(uri).expanduser() / "config.json"
        )
    except (OSError, ValueError):
        return  # the trainer says what is wrong with a model
    problem = vllm_problem(configuration, job.spec.compute.rollout_engine, job.spec.tuning)
    if problem is not None:
        yield manifests.error("RFTJob", job.metadata.name, ENGINE, problem)


def endpoint_errors(manifests: Manifests) -> Iterator[ManifestError]:
    """Yield every error of the endpoints: addresses, adapters that their base cannot serve, and patterns of logs."""
    endpoints = {endpoint.metadata.name: endpoint for endpoint in manifests.endpoints}
    for name, endpoint in endpoints.items():
        address = endpoint_address(endpoint)
        folder = manifests.origins["InferenceEndpoint", name].file.parent
        problem = _address_problem(manifests, folder, address)
        if problem:
            yield manifests.error("InferenceEndpoint", name, address.location, problem)
        base = endpoints.get(endpoint.spec.base_endpoint or "")
        violation = find_adapter_violation(endpoint, base) if base is not None else None
        if violation is not None:
            yield manifests.error("InferenceEndpoint", name, violation.location, violation.message)
    yield from _log_errors(manifests)


def _job_adapter_errors(manifests: Manifests) -> Iterator[ManifestError]:
    """Yield an error for each job whose adapter the base endpoint that it names does not admit."""
    endpoints = {endpoint.metadata.name: endpoint for endpoint in manifests.endpoints if endpoint.spec.model}
    for job in manifests.jobs:
        # A local run, which may have a path, creates no endpoint.
        if job.spec.endpoint is None or "://" not in job.spec.output.uri:
            continue
        best, base = best_address(job.spec.output.uri), endpoints.get(job.spec.endpoint.base_endpoint or "")
        if base is not None and not serving_of(base).admits_adapter(best):
            location = ("spec", "endpoint", "baseEndpoint")
            message = describe_foreign_source(best, base.metadata.name)
            yield manifests.error("RFTJob", job.metadata.name, location, message)


def _log_errors(manifests: Manifests) -> Iterator[ManifestError]:
    """Yield an error for each pattern that is no regular expression: gateways would keep nothing of its endpoint."""
    for endpoint in manifests.endpoints:
        redact = endpoint.spec.logs.redact if endpoint.spec.logs else None
        for index, rule in enumerate(redact.patterns if redact else []):
            problem = pattern_problem(rule)
            if problem:
                location = ("spec", "logs", "redact", "patterns", index, "pattern")
                yield manifests.error("InferenceEndpoint", endpoint.metadata.name, location, problem)


def _reward_references(job: RFTJob) -> Iterator[tuple[Location, str]]:
    for item in job.spec.sources():
        if isinstance(item.source, DataSource):
            yield ("spec", *item.location, "reward"), item.source.reward
    for index, shadow in enumerate(job.spec.shadow_rewards):
        yield ("spec", "shadowRewards", index), shadow


def _address_problem(manifests: Manifests, folder: Path, address: Address) -> str | None:
    if address.scheme not in _SCHEMES[address.role]:
        schemes = ", ".join(f"{scheme}://" for scheme in sorted(_SCHEMES[address.role]) if scheme)
        return f"{address.scheme}:// is not supported here; use {schemes} or a path"
    if address.scheme == "configmap":
        name, key = address.config_map_key
        if name not in manifests.config_maps:
            return f"ConfigMap {name} is not among the given files"
        return None if key in manifests.config_maps[name] else f"ConfigMap {name} has no key {key or 'here: add /KEY'}"
    if address.scheme == "hf":
        if address.role == "data":
            return None if parse_dataset_address(address.uri) else f"must look like {DATASET_SHAPE}"
        return None if parse_hub_address(address.uri) else f"must look like {SHAPE}"
    if address.scheme or address.role == "output":
        return None
    path = folder / Path(address.uri).expanduser()
    if address.role in ("model", "adapter"):
        return None if path.is_dir() else f"there is no folder {path.resolve()}"
    if address.many:
        return None if path.exists() else f"there is no file or folder {path.resolve()}"
    return None if path.is_file() else f"there is no file {path.resolve()}"
