"""Turns a run's configuration into arguments of transformers' and TRL's trainers."""

from __future__ import annotations

import math
from typing import Any

from trl import GRPOConfig

from rft_api.exit_codes import ExitCode, RunError
from rft_api.run_folder import RunFolder
from rft_api.trainer_config import TrainerConfig
from rft_api.training import TrainerCompute
from rft_trainer.algorithms import SETTINGS
from rft_trainer.deepspeed_config import build_deepspeed_config

SCHEDULES = {"Constant": "constant_with_warmup", "Linear": "linear", "Cosine": "cosine"}
IMPORTANCE_SAMPLING_MODES = {
    "TokenTruncate": "token_truncate",
    "TokenMask": "token_mask",
    "SequenceTruncate": "sequence_truncate",
    "SequenceMask": "sequence_mask",
}


def common_arguments(config: TrainerConfig) -> dict[str, Any]:
    """Return keyword arguments for transformers' TrainingArguments; the run itself records metrics and checkpoints."""
    on_gpu, training = config.compute.on_gpus, config.hyperparameters
    return {
        "seed": training.seed,
        # DeepSpeed also gets the optimizer that transformers creates from these.
        "weight_decay": training.weight_decay,
        "adam_beta1": training.adam_beta1,
        "adam_beta2": training.adam_beta2,
        "adam_epsilon": training.adam_epsilon,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": config.compute.effective_gradient_checkpointing,
        "deepspeed": build_deepspeed_config(config.compute, on_gpu),
        # TRL passes it on to transformers and to vLLM.
        "trust_remote_code": False,
    }


def planned_steps(config: TrainerConfig, prompts: int) -> int:
    """Return the number of optimizer steps of a run; `prompts` counts those of all epochs together.

    Raises:
        RunError: DATA_INVALID when there are too few prompts for one step.
    """
    steps = prompts // config.hyperparameters.batch_size
    if steps == 0:
        raise RunError(
            ExitCode.DATA_INVALID,
            f"data.train has {prompts} prompts for all epochs, fewer than one step needs: lower "
            f"spec.hyperparameters.batchSize ({config.hyperparameters.batch_size}) or add prompts",
        )
    return min(steps, config.hyperparameters.max_steps or steps)


def build_arguments(config: TrainerConfig, total_steps: int) -> GRPOConfig:
    """Return TRL's arguments for a run."""
    training, compute = config.hyperparameters, config.compute
    correction = training.effective_importance_sampling
    return GRPOConfig(
        output_dir=str(RunFolder(config.output).checkpoints),
        max_steps=total_steps,
        per_device_train_batch_size=config.effective_micro_batch_size,
        gradient_accumulation_steps=config.completions_per_process // config.effective_micro_batch_size,
        num_generations=training.samples_per_prompt,
        max_completion_length=training.max_completion_tokens,
        temperature=training.temperature,
        chat_template_kwargs=config.sampling.chat_template_arguments,
        beta=training.kl_coefficient,
        entropy_coef=training.entropy_coefficient,
        learning_rate=training.learning_rate,
        lr_scheduler_type=SCHEDULES[training.learning_rate_schedule],
        warmup_steps=math.ceil(training.warmup_ratio * total_steps),
        max_grad_norm=0.0 if clips_gradients(compute) else training.maximum_gradient_norm,
        shuffle_dataset=False,
        # TRL would connect to a vLLM of its own. `RFTTrainer` asks ours, and then turns the correction on.
        use_vllm=False,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=IMPORTANCE_SAMPLING_MODES[correction.mode],
        vllm_importance_sampling_clip_min=None,
        vllm_importance_sampling_clip_max=correction.cap,
        mask_truncated_completions=training.mask_truncated_completions,
        **{**SETTINGS[config.algorithm], "scale_rewards": config.effective_scale_rewards.lower()},
        **common_arguments(config),
    )


def clips_gradients(compute: TrainerCompute) -> bool:
    """Return whether the trainer clips gradients instead of DeepSpeed; see `RFTTrainer.create_optimizer`."""
    deepspeed = compute.effective_deepspeed
    return deepspeed is not None and deepspeed.zero_stage == 0
