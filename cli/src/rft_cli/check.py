"""Checks manifests as far as it goes without running anything: every error at once, with its file and line."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from rft_api.addresses import Address, job_addresses
from rft_api.data_formats import FORMATS
from rft_api.exit_codes import RunError
from rft_api.hub_address import SHAPE, parse_hub_address
from rft_api.manifests import (
    ManifestError,
    ManifestErrors,
    Manifests,
    SourceMissing,
    load_manifests,
    resolve_source,
)
from rft_api.model import Location
from rft_api.render import RewardAddress, render_trainer_config, reward_names
from rft_api.reward_function import Grader, PythonReward, RewardFunction
from rft_api.rft_job import RFTJob
from rft_api.sources import DataSource

_SCHEMES = {
    "model": {"", "hf", "s3", "pvc"},
    "data": {"", "configmap", "s3", "pvc"},
    "output": {"", "s3", "pvc"},
}

# Takes the place of a function that is missing or wrong, so that the job can still be checked.
_STAND_IN = RewardFunction.model_validate({"metadata": {"name": "any"}, "spec": {"builtin": {"name": "Math"}}})


def manifest_files(paths: Iterable[Path]) -> list[Path]:
    """The given files, and the manifests in the given folders."""
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.iterdir() if file.suffix in (".yaml", ".yml"))
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def check_manifests(paths: Iterable[Path]) -> tuple[Manifests, list[ManifestError]]:
    """Reads manifests and checks them, also against each other.

    Returns:
        The documents that are right by themselves, and everything that is wrong in all of them.
    """
    found, errors = read_manifests(paths)
    for job in found.jobs:
        errors += _job_errors(found, job)
    return found, sorted(errors, key=lambda error: (error.file, error.line or 0))


def read_manifests(paths: Iterable[Path]) -> tuple[Manifests, list[ManifestError]]:
    """Like `check_manifests`, but leaves out what jobs refer to."""
    try:
        found, errors = load_manifests(manifest_files(paths)), []
    except ManifestErrors as wrong:
        found, errors = wrong.manifests, list(wrong.errors)
    for function in found.reward_functions.values():
        errors += _function_errors(found, function)
    return found, errors


def _job_errors(found: Manifests, job: RFTJob) -> Iterator[ManifestError]:
    name = job.metadata.name
    for location, reward in _reward_references(job):
        if ("RewardFunction", reward) not in found.origins:
            close = get_close_matches(reward, found.reward_functions, n=1)
            hint = f"; did you mean {close[0]}?" if close else " among the given files"
            message = f"RewardFunction {reward} is not defined{hint}"
            yield found.error("RFTJob", name, location, message)
    for address in job_addresses(job):
        problem = _address_problem(found, job, address)
        if problem:
            yield found.error("RFTJob", name, address.location, problem)
    for item in job.spec.sources():
        for location, problem in FORMATS[item.source.format].option_problems(item.source):
            yield found.error("RFTJob", name, ("spec", *item.location, *location), problem)
    try:
        functions = {reward: found.reward_functions.get(reward, _STAND_IN) for reward in reward_names(job)}
        nowhere = dict.fromkeys(functions, RewardAddress(url="", token_file=None))
        render_trainer_config(job, functions, nowhere, locate=str)
    except RunError as error:
        # The message starts with the field that it is about.
        path, _, message = error.message.partition(": ")
        yield found.error("RFTJob", name, tuple(path.split(".")), message)


def _reward_references(job: RFTJob) -> Iterator[tuple[Location, str]]:
    for item in job.spec.sources():
        if isinstance(item.source, DataSource):
            yield ("spec", *item.location, "reward"), item.source.reward
    for index, shadow in enumerate(job.spec.shadow_rewards):
        yield ("spec", "shadowRewards", index), shadow


def _address_problem(found: Manifests, job: RFTJob, address: Address) -> str | None:
    if address.scheme not in _SCHEMES[address.role]:
        usable = ", ".join(f"{scheme}://" for scheme in sorted(_SCHEMES[address.role]) if scheme)
        return f"{address.scheme}:// is not supported here; use {usable} or a path"
    if address.scheme == "configmap":
        name, key = address.config_map_key
        if name not in found.config_maps:
            return f"ConfigMap {name} is not among the given files"
        return None if key in found.config_maps[name] else f"ConfigMap {name} has no key {key or 'here: add /KEY'}"
    if address.scheme == "hf":
        return None if parse_hub_address(address.uri) else f"must look like {SHAPE}"
    if address.scheme or address.role == "output":
        return None
    path = found.folders[job.metadata.name] / Path(address.uri).expanduser()
    if address.role == "model":
        return None if path.is_dir() else f"there is no folder {path.resolve()}"
    if address.many:
        return None if path.exists() else f"there is no file or folder {path.resolve()}"
    return None if path.is_file() else f"there is no file {path.resolve()}"


def _function_errors(found: Manifests, function: RewardFunction) -> Iterator[ManifestError]:
    name = function.metadata.name
    for location, grader in function.spec.graders():
        if grader.python is not None:
            yield from _python_errors(found, function, (*location, "python"), grader.python)
        for path, pattern in _patterns(grader):
            try:
                re.compile(pattern)
            except re.error as error:
                message = f"is not a regular expression: {error}"
                yield found.error("RewardFunction", name, (*location, "builtin", *path, "pattern"), message)
    try:
        resolve_source(function, found.config_maps)
    except SourceMissing as missing:
        yield found.error("RewardFunction", name, missing.location, missing.message)


def _patterns(grader: Grader) -> Iterator[tuple[Location, str]]:
    builtin = grader.builtin
    if builtin is None:
        return
    for field, options in (("exactMatch", builtin.exact_match), ("f1", builtin.f1), ("format", builtin.format)):
        if options is not None and options.pattern:
            yield (field,), options.pattern


def _python_errors(
    found: Manifests, function: RewardFunction, location: Location, python: PythonReward
) -> Iterator[ManifestError]:
    kind, name, place = "RewardFunction", function.metadata.name, (*location, "source")
    source = python.source
    if python.source_from is not None:
        reference = python.source_from.config_map
        source = found.config_maps.get(reference.name, {}).get(reference.key)
        kind, name, place = "ConfigMap", reference.name, ("data", reference.key)
    if not source:
        return  # resolve_source says which reference is missing
    try:
        with warnings.catch_warnings(action="ignore"):  # a doubtful escape is no error
            tree = ast.parse(source)
    except SyntaxError as error:
        yield found.error(kind, name, place, f"is not valid Python: {error.msg}", error.lineno)
        return
    except (ValueError, RecursionError, MemoryError) as error:
        yield found.error(kind, name, place, f"is not valid Python: {error}")
        return
    defined, open_ended = _top_level_names(tree)
    if python.handler not in defined and not open_ended:
        functions = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        known = f"it defines {', '.join(functions)}; set handler" if functions else "it defines no function"
        yield found.error(kind, name, place, f"defines no {python.handler}: {known}")


def _top_level_names(tree: ast.Module) -> tuple[set[str], bool]:
    """Names that a module's code may bind, and whether there may be more (`import *`)."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names, "*" in names
