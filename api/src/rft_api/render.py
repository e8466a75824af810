"""Renders an RFTJob and its RewardFunctions to a TrainerConfig: one pure function for operator and laptop."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft_api.exit_codes import ExitCode, RunError
from rft_api.invocation_log import InvocationLog
from rft_api.quantities import duration_seconds
from rft_api.reward_function import RewardFunction, RewardFunctionSpec
from rft_api.rft_job import Compute, DataSource, RFTJob, Tuning, WarmupSource
from rft_api.trainer_config import (
    ComputeConfig,
    DataConfig,
    DeepSpeedConfig,
    EarlyStoppingConfig,
    LoraConfig,
    PreflightConfig,
    RewardTarget,
    SourceConfig,
    TrainerConfig,
    TrainingConfig,
    WarmupConfig,
)

DEFAULT_VALIDATION_FRACTION = 0.1
DEFAULT_LORA_RANK = 16
LARGEST_DEFAULT_MICRO_BATCH = 8

# Fields of a RewardFunction that change where and how it runs, not what it computes.
_NOT_COMPUTING_OF_GRADERS: dict[str, Any] = {
    "judge": {"limits": True, "model": {"token_key": True, "ca_key": True}},
    "lambda_": {"batch_size": True, "concurrency": True},
    "http": {"token_key": True, "headers": True, "ca_key": True, "batch_size": True, "concurrency": True},
}
_NOT_COMPUTING: dict[str, Any] = {
    **dict.fromkeys(("tests", "timeout", "replicas", "egress", "sandbox", "credentials", "pod"), True),
    **_NOT_COMPUTING_OF_GRADERS,
    "combine": {"terms": {"__all__": _NOT_COMPUTING_OF_GRADERS}},
}


@dataclass(frozen=True)
class RewardAddress:
    """Where a reward function is served."""

    url: str
    """Base URL."""
    token_file: str | None
    """File with the bearer token, as the trainer sees it."""


def reward_digest(spec: RewardFunctionSpec) -> str:
    """`sha256:...` of what computes the reward: equal digests score alike."""
    computing = spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_COMPUTING)
    canonical = json.dumps(computing, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def reward_names(job: RFTJob) -> list[str]:
    """Names of the RewardFunctions that a job refers to, its shadows included, sorted."""
    data = job.spec.data
    sources = [*data.train, *(data.validation or []), *(data.test or [])]
    return sorted({*(source.reward for source in sources), *job.spec.shadow_rewards})


def render_trainer_config(
    job: RFTJob,
    reward_functions: Mapping[str, RewardFunction],
    addresses: Mapping[str, RewardAddress],
    locate: Callable[[str], str],
) -> TrainerConfig:
    """The trainer's configuration for a job.

    Args:
        job: the job.
        reward_functions: at least those of `reward_names(job)`, by name.
        addresses: where each of them is served.
        locate: turns an address of the manifest (model, data, output) into what the trainer opens.

    Raises:
        RunError: CONFIGURATION_INVALID when a reward function is missing or batches do not divide over processes.
    """
    spec = job.spec
    missing = [name for name in reward_names(job) if name not in reward_functions]
    if missing:
        defined = ", ".join(sorted(reward_functions)) or "none"
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"RFTJob {job.metadata.name} refers to undefined RewardFunction {', '.join(missing)} (defined: {defined})",
        )

    def sources(given: Sequence[DataSource] | None) -> list[SourceConfig]:
        return [
            SourceConfig(
                name=s.name,
                path=locate(s.uri),
                invocation_log=_invocation_log(s),
                reward=s.reward,
                weight=float(s.weight),
            )
            for s in given or []
        ]

    def conversations(given: Sequence[WarmupSource]) -> list[SourceConfig]:
        return [SourceConfig(name=s.name, path=locate(s.uri), invocation_log=_invocation_log(s)) for s in given]

    if spec.data.validation:
        validation_fraction = 0.0
    elif spec.data.validation_fraction is not None:
        validation_fraction = float(spec.data.validation_fraction)
    else:
        validation_fraction = DEFAULT_VALIDATION_FRACTION
    compute = _render_compute(spec.compute)
    parameters = spec.hyperparameters
    return TrainerConfig(
        name=job.metadata.name,
        namespace=job.metadata.namespace,
        model=locate(spec.model.uri),
        data=DataConfig(
            train=sources(spec.data.train),
            validation=sources(spec.data.validation),
            validation_fraction=validation_fraction,
            test=sources(spec.data.test),
        ),
        rewards={
            name: RewardTarget(
                url=addresses[name].url,
                token_file=addresses[name].token_file,
                timeout_seconds=duration_seconds(reward_functions[name].spec.timeout),
                digest=reward_digest(reward_functions[name].spec),
            )
            for name in reward_names(job)
        },
        shadows=list(spec.shadow_rewards),
        warmup=WarmupConfig(
            data=conversations(spec.warmup.data),
            epochs=spec.warmup.epochs,
            batch_size=spec.warmup.batch_size,
            learning_rate=float(spec.warmup.learning_rate),
        )
        if spec.warmup
        else None,
        training=TrainingConfig(
            algorithm=spec.algorithm,
            epochs=parameters.epochs,
            max_steps=parameters.max_steps,
            batch_size=parameters.batch_size,
            samples_per_prompt=parameters.samples_per_prompt,
            micro_batch_size=_micro_batch_size(
                parameters.batch_size * parameters.samples_per_prompt, compute.world_size, parameters.micro_batch_size
            ),
            learning_rate=float(parameters.learning_rate),
            learning_rate_schedule=parameters.learning_rate_schedule,
            maximum_gradient_norm=float(parameters.maximum_gradient_norm),
            max_prompt_tokens=parameters.max_prompt_tokens,
            max_completion_tokens=parameters.max_completion_tokens,
            temperature=float(parameters.temperature),
            kl_coefficient=float(parameters.kl_coefficient),
            eval_interval=parameters.eval_interval,
            seed=parameters.seed,
        ),
        lora=_render_lora(spec.tuning),
        compute=compute,
        output=locate(spec.output.uri),
        preflight=PreflightConfig(prompts=spec.preflight.prompts, action=spec.preflight.action),
        early_stopping=EarlyStoppingConfig(
            patience=spec.early_stopping.patience, minimum_gain=float(spec.early_stopping.minimum_gain)
        )
        if spec.early_stopping
        else None,
    )


def _invocation_log(source: DataSource | WarmupSource) -> InvocationLog | None:
    return (source.invocation_log or InvocationLog()) if source.format == "BedrockInvocationLog" else None


def _render_compute(compute: Compute) -> ComputeConfig:
    processes = compute.gpus_per_node or compute.processes_per_node or 1
    deepspeed = None
    if compute.deepspeed is not None:
        deepspeed = DeepSpeedConfig(
            zero_stage=compute.deepspeed.zero_stage, offload_optimizer=compute.deepspeed.offload == "Optimizer"
        )
    elif compute.nodes * processes > 1:
        deepspeed = DeepSpeedConfig(zero_stage=2, offload_optimizer=False)
    return ComputeConfig(
        nodes=compute.nodes,
        processes_per_node=processes,
        device="cuda" if compute.gpus_per_node else "cpu",
        deepspeed=deepspeed,
        rollout_engine=compute.rollouts.engine,
    )


def _render_lora(tuning: Tuning) -> LoraConfig | None:
    if tuning.type == "Full":
        return None
    rank = tuning.rank or DEFAULT_LORA_RANK
    return LoraConfig(rank=rank, alpha=tuning.alpha or 2 * rank, last_layers=tuning.last_layers)


def _micro_batch_size(completions: int, processes: int, wanted: int | None) -> int:
    if completions % processes:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.hyperparameters: batchSize x samplesPerPrompt = {completions} completions do not divide evenly over "
            f"{processes} processes; change batchSize",
        )
    share = completions // processes
    if wanted is None:
        return max(size for size in range(1, LARGEST_DEFAULT_MICRO_BATCH + 1) if share % size == 0)
    if share % wanted:
        raise RunError(
            ExitCode.CONFIGURATION_INVALID,
            f"spec.hyperparameters.microBatchSize: {wanted} does not divide the {share} completions that each "
            f"process handles per step",
        )
    return wanted
