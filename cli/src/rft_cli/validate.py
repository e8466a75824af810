"""`rft validate`: print what is wrong in manifests, or what they define."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.text import one_line
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.manifests import ManifestError, ManifestErrors, Manifests, resolve_source
from rft_api.render import reward_names
from rft_api.reward_checks import code_remarks
from rft_api.reward_function import Grader, RewardFunction, RewardFunctionSpec
from rft_api.rft_job import RFTJob
from rft_cli.check import check_manifests, size_errors


def validate(files: Sequence[Path]) -> None:
    """Check the manifests, and print one line for each resource.

    Raises:
        ManifestErrors: with every error.
        RunError: CONFIGURATION_INVALID when there is nothing to check.
    """
    manifests, errors = check_manifests(files)
    if not errors:  # a document that is wrong may be one that cannot be written
        errors += size_errors(manifests)
    if errors:
        raise ManifestErrors(errors, manifests)
    resources: list[RFTJob | RewardFunction | InferenceEndpoint] = []
    resources += [*manifests.jobs, *manifests.reward_functions.values(), *manifests.endpoints]
    if not resources:
        places = ", ".join(str(file) for file in files)
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"{places}: no resource of rft.dev, so nothing was checked")
    for resource in resources:
        kind, name = resource.kind, resource.metadata.name
        file = manifests.origins[kind, name].file
        print(one_line(f"{kind} {name}: {_describe(resource)} ({file})"))
    for remark in _code_remarks(manifests):
        print(one_line(f"remark: {remark}"))
    print(f"{len(resources)} {'resource is' if len(resources) == 1 else 'resources are'} valid.")


def _code_remarks(manifests: Manifests) -> Iterator[ManifestError]:
    for function in manifests.reward_functions.values():
        origin = manifests.origins[function.kind, function.metadata.name]
        for violation in code_remarks(resolve_source(function, manifests.config_maps)):
            yield origin.error(violation)


def _describe(resource: RFTJob | RewardFunction | InferenceEndpoint) -> str:
    match resource:
        case RFTJob():
            tuning = resource.spec.tuning.type
            return f"{resource.spec.algorithm}, {tuning}, reward {', '.join(reward_names(resource))}"
        case RewardFunction():
            tests = len(resource.spec.tests)
            return _describe_grader(resource.spec) + (f", {tests} test{'s' if tests > 1 else ''}" if tests else "")
        case InferenceEndpoint():
            return f"adapter on {resource.spec.base_endpoint}" if resource.spec.base_endpoint else "model"


def _describe_grader(spec: Grader) -> str:
    """Return the kind of a reward, or the terms of a combination with their weights and kinds."""
    if spec.builtin is not None:
        return spec.builtin.name
    if isinstance(spec, RewardFunctionSpec) and spec.combine is not None:
        return " + ".join(f"{term.weight} {term.name} ({_describe_grader(term)})" for term in spec.combine.terms)
    return next(iter(spec.model_dump(by_alias=True, exclude_none=True, include=set(Grader.model_fields))))
