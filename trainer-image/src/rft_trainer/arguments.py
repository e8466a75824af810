"""The training arguments that the warm-up and reinforcement learning share."""

from __future__ import annotations

from typing import Any

from rft_api.trainer_config import TrainerConfig
from rft_trainer.deepspeed_config import build_deepspeed_config


def common_arguments(config: TrainerConfig) -> dict[str, Any]:
    """Keyword arguments of transformers' TrainingArguments; what is recorded and saved is decided by the run itself."""
    on_gpu = config.compute.device == "cuda"
    return {
        "seed": config.training.seed,
        "weight_decay": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "gradient_checkpointing": on_gpu,
        "deepspeed": build_deepspeed_config(config.compute, on_gpu),
    }
