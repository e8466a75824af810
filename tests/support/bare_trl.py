"""What scripts with a bare trainer of TRL have in common, with which ours is compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from rft_trainer.data import mix
from support.trainer import DIGIT_SHARE

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""Names of all linear layers of a block."""
LEARNING_RATE = 2e-3
"""The largest change of a weight in a step: Adam divides each gradient by its size."""


def grpo_config(folder: Path, **settings: Any) -> GRPOConfig:
    """The configuration of a training that only computes: no reports, no checkpoints, prompts in their order; on CPUs.

    Args:
        folder: the folder for the files of TRL.
        settings: the settings of the training, which may also be others for a GPU.
    """
    plain: dict[str, Any] = {
        "output_dir": str(folder), "shuffle_dataset": False, "logging_steps": 1, "save_strategy": "no", "report_to": [],
        "disable_tqdm": True, "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
    }  # fmt: skip
    return GRPOConfig(**{**plain, **settings})


def digits_reward(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """The reward function, called in process."""
    scope: dict[str, Any] = {}
    exec(DIGIT_SHARE, scope)
    event = [{"id": str(n), "messages": completion} for n, completion in enumerate(completions)]
    return [row["aggregate_reward_score"] for row in scope["lambda_handler"](event, None)]


def bare_trl(
    folder: Path, model_folder: Path, data: Path, adapter: LoraConfig | None, passes: int, steps: int, **settings: Any
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """What a user of TRL writes; returns its log and its weights.

    Args:
        folder: the folder for the files of TRL.
        model_folder: the model.
        data: the folder of the data.
        adapter: the adapter to train; None trains all weights.
        passes: passes of each step.
        steps: number of steps.
        settings: further settings of GRPOConfig.
    """
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model_folder, padding_side="left")
    if adapter is not None:
        torch.manual_seed(3)
        model = get_peft_model(model, adapter)
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    prompts = {row["messages"][0]["content"]: row["messages"] for row in rows}
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=digits_reward,
        args=grpo_config(
            folder,
            max_steps=steps,
            per_device_train_batch_size=16 // passes,
            gradient_accumulation_steps=passes,
            num_generations=4,
            max_completion_length=8,
            temperature=0.9,
            learning_rate=LEARNING_RATE,
            **settings,
            seed=3,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompts[text]} for text in order_of_prompts(data)]),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer.state.log_history[:steps], trainer.model.state_dict()


def order_of_prompts(data: Path) -> list[str]:
    """Our trainer's order, which both are to use: by contents, so that the scripts share nothing else."""
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    texts = [row["messages"][0]["content"] for row in rows]
    return mix({"digits": texts}, {"digits": 1.0}, 2, 3)


def assert_same_weights(weights: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """Assert that two trainings end with the same weights, except for how they are rounded.

    Where a gradient is almost zero, Adam makes a noticeable step of its rounding, which processors do differently: one
    weight in a thousand may differ by a twentieth of a step.
    """
    for name, weight in weights.items():
        torch.testing.assert_close(weight, theirs[name], rtol=1e-3, atol=LEARNING_RATE / 20)
        differ = ~torch.isclose(weight, theirs[name], rtol=1e-3, atol=LEARNING_RATE / 100)
        assert differ.sum() <= weight.numel() / 1000, f"{differ.sum()} of {weight.numel()} of {name}"
