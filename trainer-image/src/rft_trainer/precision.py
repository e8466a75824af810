"""What a model is computed in: its own precision where the hardware has instructions for it, else float32."""

from __future__ import annotations

import torch

from rft_api.trainer_config import TrainerConfig
from rft_trainer.processor import has_bfloat16_instructions


def choose_dtype(config: TrainerConfig, stored: torch.dtype | None) -> torch.dtype:
    """The dtype that a run computes its model in, whose files have the dtype `stored` (None: they do not say)."""
    if config.tuning.type == "Full" or stored is None:
        # Updates of a usual size would vanish in the rounding of bfloat16 weights.
        return torch.float32
    if config.compute.on_gpus:
        return stored
    match config.compute.precision:
        case "Float32":
            return torch.float32
        case "BFloat16":
            return torch.bfloat16
    # Processors that multiply in bfloat16 still emulate float16.
    return stored if stored == torch.bfloat16 and has_bfloat16_instructions() else torch.float32
