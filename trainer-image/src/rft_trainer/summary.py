"""Builds the summary of a run: the comparison of its models on the held-out prompts, and what the run has done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import read_document
from rft_api.metrics import Gain
from rft_api.run_folder import RunFolder, Stage
from rft_api.summary import DataReport, Evaluation, PreflightVerdict, Summary
from rft_api.trainer_config import TrainerConfig
from rft_trainer import checkpoints
from rft_trainer.base_model import BaseModel
from rft_trainer.conversations import conversation_check
from rft_trainer.data import Conversation, Dataset, Prompt, WarmupData, load_conversations
from rft_trainer.evaluation import repeat
from rft_trainer.hacking import judge_hacking
from rft_trainer.losses import compare_losses, read_losses
from rft_trainer.metrics_log import read_steps, read_validations, read_warmup_steps
from rft_trainer.modeling import load_tokenizer
from rft_trainer.rollouts import (
    ScoredCompletion,
    component_means,
    mean_length,
    mean_of_prompts,
    read_rollouts,
    shadow_scores,
    source_means,
)
from rft_trainer.statistics import paired_bootstrap, prompt_means


def build_summary(
    config: TrainerConfig,
    dataset: Dataset,
    base: BaseModel,
    steps: int,
    stopped_early: bool,
    stage_seconds: Mapping[str, float],
) -> Summary:
    """Return the summary of a run whose stages are complete.

    Args:
        config: the run's configuration.
        dataset: its data.
        base: its base model.
        steps: optimizer steps that were made.
        stopped_early: whether early stopping ended it.
        stage_seconds: seconds of its stages, without training and validation.

    Raises:
        RunError: REWARD_FAILING when no held-out prompt was scored for every model.
    """
    folder = RunFolder(config.output)
    best = checkpoints.best_or_newest(folder)
    held_out = dataset.test or dataset.validation
    stages: list[Stage] = ["base", *(["warmup"] if config.warmup else []), "tuned"]  # type: ignore[list-item]
    scores = _scores(config, folder, held_out, stages)
    evaluations = scores.evaluations
    metrics, validations = read_steps(folder), read_validations(folder)
    training_seconds = sum(m.generate_seconds + m.reward_seconds + m.update_seconds for m in metrics)
    seconds = {
        **stage_seconds,
        "Training": training_seconds,
        "Validation": sum(v.seconds for v in validations),
    }
    warmup = None
    if config.warmup:
        arguments = config.sampling.chat_template_arguments
        check = conversation_check(base.folder, load_tokenizer(base.folder, arguments), arguments)
        warmup = load_conversations(config.warmup.data, check, config.sampling.system_prompt)
    preflight = None
    if folder.preflight.exists():
        preflight = read_document(folder.preflight, PreflightVerdict)
    return Summary(
        name=config.name,
        steps=steps,
        stopped_early=stopped_early,
        trained_tokens=metrics[-1].trained_tokens if metrics else None,
        best_step=best.step,
        best_validation_reward=best.validation_reward,
        checkpoints=checkpoints.best_first(checkpoints.complete_checkpoints(folder))[: checkpoints.KEPT],
        held_out="test" if dataset.test else "validation",
        prompts=scores.prompts,
        base=evaluations["base"],
        base_revision=base.commit,
        warmup=evaluations.get("warmup"),
        tuned=evaluations["tuned"],
        gain=scores.gain,
        sampling=config.sampling,
        evaluation=config.evaluation,
        preflight=preflight,
        reward_hacking=judge_hacking(validations, config.shadows),
        data=DataReport(
            train_prompts=sum(len(prompts) for prompts in dataset.train.values()),
            validation_prompts=len(dataset.validation),
            test_prompts=len(dataset.test),
            warmup_conversations=len(warmup.conversations) if warmup else 0,
            too_long=dataset.too_long,
            invocation_logs={**dataset.invocation_logs, **(warmup.invocation_logs if warmup else {})},
        ),
        rewards_failed=sum(m.rewards_failed for m in metrics)
        + sum(v.rewards_failed for v in validations)
        + sum(e.rewards_failed for e in evaluations.values()),
        components_left_out=sum(m.components_left_out for m in metrics)
        + sum(v.components_left_out for v in validations),
        seconds=seconds,
        accelerator_hours=_accelerator_hours(config, seconds),
    )


def build_supervised_summary(
    config: TrainerConfig,
    dataset: Dataset,
    conversations: WarmupData,
    base: BaseModel,
    stage_seconds: Mapping[str, float],
) -> Summary:
    """Return the summary of a run that is its warm-up alone, and whose stages are complete.

    Args:
        config: the run's configuration.
        dataset: its prompts: for the test, or none.
        conversations: its conversations.
        base: its base model.
        stage_seconds: seconds of its stages.

    Raises:
        RunError: REWARD_FAILING when no test prompt was scored for both models; DIVERGED when the loss of the tuned
            model is not finite.
    """
    folder = RunFolder(config.output)
    scores = _scores(config, folder, dataset.test, ["base", "tuned"]) if dataset.test else None
    steps = max(checkpoint.step for checkpoint in checkpoints.complete_checkpoints(folder))
    metrics = read_warmup_steps(folder)
    return Summary(
        name=config.name,
        steps=steps,
        stopped_early=False,
        trained_tokens=metrics[-1].trained_tokens if metrics else None,
        best_step=steps,
        best_validation_reward=None,
        checkpoints=[],
        held_out="test" if scores else None,
        prompts=scores.prompts if scores else 0,
        base=scores.evaluations["base"] if scores else None,
        base_revision=base.commit,
        tuned=scores.evaluations["tuned"] if scores else None,
        gain=scores.gain if scores else None,
        loss=compare_losses(read_losses(folder.losses("base")), read_losses(folder.losses("tuned"))),
        sampling=config.sampling,
        evaluation=config.evaluation,
        data=DataReport(
            train_prompts=0,
            validation_prompts=0,
            test_prompts=len(dataset.test),
            warmup_conversations=_rows(conversations.conversations),
            warmup_validation_conversations=_rows(conversations.validation),
            too_long=dataset.too_long,
            invocation_logs={**dataset.invocation_logs, **conversations.invocation_logs},
        ),
        rewards_failed=sum(e.rewards_failed for e in scores.evaluations.values()) if scores else 0,
        seconds=dict(stage_seconds),
        accelerator_hours=_accelerator_hours(config, stage_seconds),
    )


def _rows(conversations: Sequence[Conversation]) -> int:
    """Return the number of rows of conversations, each of which may have several answers."""
    return len({(each.source, each.line) for each in conversations})


def _accelerator_hours(config: TrainerConfig, seconds: Mapping[str, float]) -> float:
    return sum(seconds.values()) / 3600 * config.compute.nodes * config.compute.pod_gpus


@dataclass(frozen=True)
class _Scores:
    """Scores of models on the held-out prompts."""

    prompts: int
    """Number of prompts for which every model has a score."""
    evaluations: dict[Stage, Evaluation]
    gain: Gain


def _scores(config: TrainerConfig, folder: RunFolder, held_out: Sequence[Prompt], stages: Sequence[Stage]) -> _Scores:
    samples = config.evaluation.samples_per_prompt
    rows = {stage: read_rollouts(folder.evaluation(stage), repeat(held_out, samples)) for stage in stages}
    means = {stage: prompt_means([row.reward for row in rows[stage]], samples) for stage in stages}
    common = [i for i in range(len(held_out)) if all(means[stage][i] is not None for stage in stages)]
    if not common:
        raise RunError(ExitCode.REWARD_FAILING, "no held-out prompt was scored for every model: nothing to compare")
    return _Scores(
        prompts=len(common),
        evaluations={stage: _evaluation(rows[stage], common, samples) for stage in stages},
        gain=paired_bootstrap([means["base"][i] or 0.0 for i in common], [means["tuned"][i] or 0.0 for i in common]),
    )


def _evaluation(rows: Sequence[ScoredCompletion], common: Sequence[int], samples: int) -> Evaluation:
    """Return the scores of a model on the prompts that count, by their numbers; each has `samples` rows."""
    common_rows = [row for i in common for row in rows[i * samples : (i + 1) * samples]]
    return Evaluation(
        reward=mean_of_prompts(common_rows, samples) or 0.0,
        components=component_means(common_rows),
        sources=source_means(common_rows, samples),
        episode_length=mean_length(common_rows),
        rewards_failed=sum(row.error is not None for row in rows),
        shadows={
            name: scores.reward for name, scores in shadow_scores(common_rows).items() if scores.reward is not None
        },
    )
