"""`rft validate`: prints what is wrong in manifests, or what they define."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.manifests import ManifestErrors
from rft_api.render import reward_names
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob
from rft_cli.check import check_manifests


def validate(files: Sequence[Path]) -> None:
    """Checks the manifests and prints a summary.

    Raises:
        ManifestErrors: with everything that is wrong.
    """
    found, errors = check_manifests(files)
    if errors:
        raise ManifestErrors(errors, found)
    resources: list[RFTJob | RewardFunction | InferenceEndpoint] = []
    resources += [*found.jobs, *found.reward_functions.values(), *found.endpoints]
    if not resources:
        Console().print("No resource of rft.dev in the given files.")
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("kind", "name", "what", "file"):
        table.add_column(column, overflow="fold")
    for resource in resources:
        kind, name = resource.kind, resource.metadata.name
        table.add_row(kind, name, _description(resource), str(found.origins[kind, name].file))
    Console().print(table)
    Console().print(f"{len(resources)} {'resource is' if len(resources) == 1 else 'resources are'} valid.")


def _description(resource: RFTJob | RewardFunction | InferenceEndpoint) -> str:
    match resource:
        case RFTJob():
            tuning = resource.spec.tuning.type
            return f"{resource.spec.algorithm}, {tuning}, reward {', '.join(reward_names(resource))}"
        case RewardFunction():
            grader = next(iter(resource.spec.model_dump(by_alias=True, exclude_none=True)))
            builtin = resource.spec.builtin
            tests = len(resource.spec.tests)
            return f"{f'{builtin.name}' if builtin else grader}" + (
                f", {tests} test{'s' if tests > 1 else ''}" if tests else ""
            )
        case InferenceEndpoint():
            return f"adapter on {resource.spec.base_endpoint}" if resource.spec.base_endpoint else "model"
