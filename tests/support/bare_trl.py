"""What scripts with a bare trainer of TRL have in common, with which ours is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trl import GRPOConfig

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Names of all linear layers of a block."""


def grpo_config(folder: Path, **settings: Any) -> GRPOConfig:
    """The configuration of a training that only computes, on CPUs: no reports, no checkpoints, prompts in their order.

    Args:
        folder: the folder for the files of TRL.
        settings: the settings of the training.
    """
    return GRPOConfig(
        output_dir=str(folder),
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **settings,
    )
