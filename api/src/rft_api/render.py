"""Renders the trainer's configuration from an RFTJob and its RewardFunctions, for the operator and for local runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rft_api.exit_codes import ExitCode, RunError
from rft_api.model import Location, format_location
from rft_api.quantities import duration_seconds
from rft_api.reward_function import RewardFunction, RewardFunctionSpec
from rft_api.rft_job import RFTJob
from rft_api.sources import DataSource
from rft_api.trainer_config import RewardTarget, TrainerConfig
from rft_api.training import relocate


class FieldError(RunError):
    """A configuration that cannot be run because of one field.

    Attributes:
        location: the field's place in the manifest.
        problem: what is wrong with it.
    """

    def __init__(self, location: Location, problem: str):
        super().__init__(ExitCode.CONFIGURATION_INVALID, f"{format_location(location)}: {problem}")
        self.location = location
        self.problem = problem


# Fields of a RewardFunction that change where and how it runs, not what it computes.
_NOT_COMPUTING_OF_GRADERS: dict[str, Any] = {
    "judge": {"limits": True, "model": {"token_key": True, "ca_key": True}},
    "lambda_": {"batch_size": True, "concurrency": True},
    "http": {
        "token_key": True,
        "headers": True,
        "ca_key": True,
        "batch_size": True,
        "concurrency": True,
        "requests_per_second": True,
    },
}
_NOT_COMPUTING: dict[str, Any] = {
    **dict.fromkeys(("tests", "timeout", "replicas", "egress", "sandbox", "credentials", "pod"), True),
    **_NOT_COMPUTING_OF_GRADERS,
    "combine": {"terms": {"__all__": _NOT_COMPUTING_OF_GRADERS}},
}


@dataclass(frozen=True)
class RewardAddress:
    """The address of the server of a reward function."""

    url: str
    """Base URL."""
    token_file: str | None
    """File with the bearer token, as the trainer sees it."""


def reward_digest(spec: RewardFunctionSpec) -> str:
    """Return the digest, `sha256:...`, of what computes the reward. Rewards with equal digests give equal scores."""
    computing = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_COMPUTING)
    canonical = json.dumps(computing, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def reward_names(job: RFTJob) -> list[str]:
    """Return the names of the RewardFunctions that a job refers to, its shadows included, sorted."""
    scored = {item.source.reward for item in job.spec.sources() if isinstance(item.source, DataSource)}
    return sorted({*scored, *job.spec.shadow_rewards})


def render_trainer_config(
    job: RFTJob,
    reward_functions: Mapping[str, RewardFunction],
    addresses: Mapping[str, RewardAddress],
    locate: Callable[[str], str],
) -> TrainerConfig:
    """Render the configuration of the trainer of a job.

    Args:
        job: the job.
        reward_functions: at least those of `reward_names(job)`, by name.
        addresses: where each of them is served.
        locate: turns an address of the manifest (model, data, output) into what the trainer opens.

    Raises:
        RunError: CONFIGURATION_INVALID when a reward function is missing; a FieldError when batches do not divide over
            processes.
    """
    spec = job.spec
    missing = [name for name in reward_names(job) if name not in reward_functions]
    if missing:
        defined = ", ".join(sorted(reward_functions)) or "none"
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"RFTJob {job.metadata.name} refers to undefined RewardFunction {', '.join(missing)} (defined: {defined})",
        )
    data, warmup = relocate(spec.data, spec.warmup, lambda source: locate(source.uri))
    config = TrainerConfig(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        model=locate(spec.model.uri),
        data=data,
        rewards={
            name: RewardTarget(
                url=addresses[name].url,
                token_file=addresses[name].token_file,
                timeout_seconds=duration_seconds(reward_functions[name].spec.timeout),
                scope=reward_functions[name].spec.scope,
                digest=reward_digest(reward_functions[name].spec),
            )
            for name in reward_names(job)
        },
        shadows=list(spec.shadow_rewards),
        warmup=warmup,
        algorithm=spec.algorithm,
        hyperparameters=spec.hyperparameters,
        sampling=spec.sampling,
        evaluation=spec.evaluation,
        tuning=spec.tuning,
        compute=spec.compute.for_trainer(),
        output=locate(spec.output.uri),
        checkpoints=spec.checkpoints,
        trackers=spec.trackers,
        preflight=spec.preflight,
        early_stopping=spec.early_stopping,
    )
    if config.is_reinforced:
        _check_batches(config)
    return config


def _check_batches(config: TrainerConfig) -> None:
    parameters, processes = config.hyperparameters, config.compute.world_size
    completions = parameters.batch_size * parameters.samples_per_prompt
    if completions % processes:
        raise FieldError(
            ("spec", "hyperparameters"),
            f"batchSize x samplesPerPrompt = {completions} completions do not divide evenly over {processes} "
            "processes; change batchSize",
        )
    _check_groups(config)
    if config.completions_per_process % config.effective_micro_batch_size:
        raise FieldError(
            ("spec", "hyperparameters", "microBatchSize"),
            f"{config.effective_micro_batch_size} does not divide the {config.completions_per_process} completions "
            "that each process handles per step",
        )


def _check_groups(config: TrainerConfig) -> None:
    names = [name for name, target in config.rewards.items() if target.scope == "Group"]
    samples = config.hyperparameters.samples_per_prompt
    if names and config.completions_per_process % samples:
        raise FieldError(
            ("spec", "hyperparameters", "batchSize"),
            f"reward {names[0]} compares all completions of a prompt (scope: Group), so each of the "
            f"{config.compute.world_size} processes needs whole prompts, but gets {config.completions_per_process} "
            f"completions a step; make batchSize a multiple of the number of processes",
        )
