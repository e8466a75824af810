"""Train an adapter as a user of bare TRL does, with the model, data and reward of the job that it is compared with.

Used by the step `bare-trl`: bare_script.py MODEL DATA FILE writes the seconds of each step to FILE, as a list in JSON.
It has the settings of `Machine.config`, and computes on a GPU where torch sees one.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from machine import COMPLETION_TOKENS, JOB_STEPS, PROMPTS, RANK, SAMPLES
from peft import LoraConfig, get_peft_model
from support.bare_trl import LINEAR, digits_reward, grpo_config
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOTrainer


class Clock(TrainerCallback):
    """Notes the seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._start = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)


def main() -> None:
    folder, data, result = map(Path, sys.argv[1:])
    on_gpu, clock = torch.cuda.is_available(), Clock()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", trust_remote_code=False)
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=LINEAR, task_type="CAUSAL_LM"))
    lines = (data / "train.jsonl").read_text(encoding="utf-8").splitlines()
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=digits_reward,
        args=grpo_config(
            result.parent / "trl",
            use_cpu=not on_gpu,
            bf16=on_gpu,
            gradient_checkpointing=on_gpu,  # as ours
            max_steps=JOB_STEPS,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=COMPLETION_TOKENS,
            learning_rate=2e-3,
            loss_type="grpo",
            beta=0.0,
        ),
        train_dataset=Dataset.from_list([{"prompt": json.loads(line)["messages"]} for line in lines]),
        processing_class=AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False),
        callbacks=[clock],
    )
    trainer.train()
    result.write_text(json.dumps(clock.seconds), encoding="utf-8")


if __name__ == "__main__":
    main()
