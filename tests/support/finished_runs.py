"""Files of a finished run, as the trainer writes them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet

from rft_api.invocation_log import InvocationLogReport
from rft_api.metrics import Gain, TrainMetrics, ValidationMetrics, WarmupMetrics
from rft_api.run_folder import RunFolder, Stage
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.summary import DataReport, Evaluation, LossComparison, PreflightVerdict, Summary
from rft_api.trainer_config import RewardTarget, TrainerConfig
from rft_api.training import Hyperparameters, Preflight, TrainerCompute
from rft_api.tuning import Tuning
from rft_api.warmup import Warmup


def config(folder: Path) -> TrainerConfig:
    return TrainerConfig(
        name="amounts",
        namespace="default",
        model="/models/small",
        data=Data(train=[DataSource(name="texts", uri="/data/train.jsonl", reward="exact")]),
        rewards={"exact": RewardTarget(url="http://127.0.0.1:1", token_file=None, digest="sha256:0")},
        algorithm="GRPO",
        hyperparameters=Hyperparameters(
            batch_size=8, samples_per_prompt=8, micro_batch_size=8, max_prompt_tokens=256, max_completion_tokens=48
        ),
        tuning=Tuning(type="Full"),
        compute=TrainerCompute(gpus_per_node=0),
        output=str(folder),
        preflight=Preflight(),
    )


def train_metrics(step: int, kl: bool = True) -> TrainMetrics:
    noise = random.Random(step)
    rise = 1 - math.exp(-step / 25)
    return TrainMetrics(
        step=step,
        epoch=step / 60,
        loss=0.01,
        reward=0.35 + 0.4 * rise + noise.gauss(0, 0.03),
        reward_std=0.3,
        components={"unit": 0.5 + 0.4 * rise + noise.gauss(0, 0.03), "value": 0.2 + 0.4 * rise + noise.gauss(0, 0.03)},
        sources={"texts": 0.5},
        episode_length=24 - 6 * rise + noise.gauss(0, 0.6),
        gradient_norm=abs(noise.gauss(0.5, 0.1)),
        advantage_mean=0.0,
        advantage_std=0.9 - 0.3 * rise,
        advantage_abs_mean=0.6 - 0.2 * rise,
        policy_entropy=0.8 - 0.3 * rise,
        kl_divergence=0.05 * rise if kl else None,
        zero_variance_group_ratio=min(1, 0.1 + 0.4 * rise),
        clipped_completion_ratio=max(0, 0.2 - 0.2 * rise),
        learning_rate=1e-5,
        generate_seconds=4 + noise.random(),
        reward_seconds=0.3,
        reward_request_seconds=0.5,
        update_seconds=3 + noise.random(),
        tokens=step * 4096,
        rewards_failed=0,
    )


def validation_metrics(step: int) -> ValidationMetrics:
    return ValidationMetrics(
        step=step,
        reward=0.38 + 0.38 * (1 - math.exp(-step / 25)),
        components={"unit": 0.5, "value": 0.3},
        sources={"texts": 0.4},
        episode_length=22 - step / 20,
        rewards_failed=0,
        seconds=5,
    )


BASE_REWARDS = [0.0, 0.5, 0.5, 0.5, 1.0, 0.0, 0.5, 1.0, 0.0, 0.5]
TUNED_REWARDS = [1.0, 0.5, 1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0]


def write_evaluation(folder: RunFolder, stage: Stage, rewards: list[float], completions: list[str]) -> None:
    prompt = "Text: Ann paid {} dollars for the bicycle."
    rows = [
        {
            "sampleId": f"{stage}-{index}",
            "source": "texts",
            "prompt": json.dumps([{"role": "user", "content": prompt.format(index)}]),
            "completion": completion,
            "referenceAnswer": json.dumps({"value": str(index), "unit": "$"}),
            "reward": reward,
            "error": None,
            "advantage": None,
            "tokens": 12,
            "component/unit": reward,
            "component/value": reward,
        }
        for index, (reward, completion) in enumerate(zip(rewards, completions, strict=True))
    ]
    file = folder.evaluation(stage)
    file.parent.mkdir(exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def summary(held_out: str = "test", sources: tuple[str, ...] = ("texts",)) -> Summary:
    def evaluation(reward: float, length: float) -> Evaluation:
        return Evaluation(
            reward=reward,
            components={"unit": reward + 0.2, "value": reward - 0.2},
            sources=dict.fromkeys(sources, reward),
            episode_length=length,
            rewards_failed=0,
        )

    return Summary.model_validate(
        {
            "name": "amounts",
            "steps": 60,
            "stopped_early": False,
            "best_step": 50,
            "best_validation_reward": 0.71,
            "checkpoints": [{"step": 50, "validation_reward": 0.71}],
            "held_out": held_out,
            "prompts": 10,
            "base": evaluation(0.45, 23.5),
            "warmup": evaluation(0.5, 22.0),
            "tuned": evaluation(0.75, 17.2),
            "gain": Gain(mean=0.3, low=0.1, high=0.5),
            "preflight": PreflightVerdict(
                verdict="Fine",
                message="29 of 32 prompts got completions with different rewards",
                reward=0.4,
                varied_group_ratio=0.9,
                prompts=32,
                samples_per_prompt=8,
                rewards_failed=0,
            ),
            "data": DataReport(
                train_prompts=480,
                validation_prompts=60,
                test_prompts=10,
                warmup_conversations=40,
                too_long={"texts": 3},
                invocation_logs={
                    "train/texts": InvocationLogReport(records=900, taken=480, left_out={"Duplicate": 420})
                },
            ),
            "rewards_failed": 2,
            "seconds": {"baseline": 30.0, "warm-up": 60.0, "training": 540.0, "evaluation": 31.5},
            "accelerator_hours": 0.0,
        }
    )


def warmup_metrics(step: int) -> WarmupMetrics:
    return WarmupMetrics(
        step=step,
        epoch=step / 10,
        loss=2.0 * math.exp(-step / 10),
        validation_loss=2.1 * math.exp(-step / 10) if step % 10 == 0 else None,
        gradient_norm=1.0,
        learning_rate=1e-4,
        accuracy=1.0 - math.exp(-step / 10),
        tokens=100 * step,
        trained_tokens=30 * step,
        seconds=1.0,
        ended_at=1_800_000_000.0 + step,
    )


def write_supervised_run(folder: RunFolder, change: Gain) -> None:
    """A run of 20 steps that is its warm-up alone."""
    folder.path.mkdir()
    warmup = Warmup(data=[WarmupSource(name="answers", uri="/data/answers.jsonl")])
    alone = config(folder.path).model_copy(update={"data": Data(), "rewards": {}, "warmup": warmup})
    folder.config.write_text(alone.model_dump_json(by_alias=True), encoding="utf-8")
    lines = [warmup_metrics(step).model_dump_json(by_alias=True) for step in range(1, 21)]
    folder.metrics.write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = DataReport(
        train_prompts=0, validation_prompts=0, test_prompts=0, warmup_conversations=160,
        warmup_validation_conversations=40, too_long={},
    )  # fmt: skip
    loss = LossComparison(conversations=40, tokens=520, base=2.0, tuned=2.0 + change.mean, change=change)
    ended = summary().model_copy(
        update={
            "steps": 20, "best_step": 20, "held_out": None, "prompts": 0, "base": None, "warmup": None, "tuned": None,
            "gain": None, "loss": loss, "preflight": None, "data": data, "checkpoints": [],
            "best_validation_reward": None, "rewards_failed": 0,
        }
    )  # fmt: skip
    folder.summary.write_text(ended.model_dump_json(by_alias=True), encoding="utf-8")


def write_metrics(folder: RunFolder, steps: int) -> None:
    lines = [validation_metrics(0).model_dump_json(by_alias=True)]
    for step in range(1, steps + 1):
        lines.append(train_metrics(step).model_dump_json(by_alias=True))
        if step % 10 == 0:
            lines.append(validation_metrics(step).model_dump_json(by_alias=True))
    folder.metrics.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_run(folder: RunFolder) -> None:
    """A run of 60 steps with everything in it."""
    folder.path.mkdir()
    folder.config.write_text(config(folder.path).model_dump_json(by_alias=True), encoding="utf-8")
    write_metrics(folder, 60)
    folder.summary.write_text(summary().model_dump_json(by_alias=True), encoding="utf-8")
    write_evaluation(folder, "base", BASE_REWARDS, [f"It cost {i} dollars, I think." for i in range(10)])
    write_evaluation(folder, "tuned", TUNED_REWARDS, [f'{{"value": "{i}", "unit": "$"}}' for i in range(10)])
