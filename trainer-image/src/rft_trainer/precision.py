"""Chooses the dtype of a run: that of the model's files if the hardware has instructions for it, else float32."""

from __future__ import annotations

import torch

from rft_api.trainer_config import TrainerConfig
from rft_trainer.processor import has_bfloat16_instructions


def choose_dtype(config: TrainerConfig, stored: torch.dtype | None) -> torch.dtype:
    """Return the dtype in which a run computes; `stored` is the dtype of the model's files, None if not stated."""
    if config.tuning.type == "Full" or stored is None:
        # Typical updates are smaller than the rounding error of bfloat16 weights, and would be lost.
        return torch.float32
    if config.compute.on_gpus:
        return stored
    match config.compute.precision:
        case "Float32":
            return torch.float32
        case "BFloat16":
            return torch.bfloat16
    # Processors with bfloat16 instructions still emulate float16, so float16 models are computed in float32.
    return stored if stored == torch.bfloat16 and has_bfloat16_instructions() else torch.float32
