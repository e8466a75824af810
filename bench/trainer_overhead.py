"""Compare the seconds per step of the trainer and of a bare TRL script; print a Markdown table.

Run: .venv/bin/python bench/trainer_overhead.py (about nine minutes on two cores with instructions for bfloat16; needs
the quickstart's model, see `make demo`)
Both train the quickstart with the same configuration and seed, in turn, twice each. The trainer is the whole program
with its reward server, as `rft run` starts it; the script calls the same reward function in its own process. The first
step of each is left out. So there are 14 pairs of steps, enough for an interval of the median ratio.

ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 before the command shows a processor without these instructions, on
which both sides compute in float32.

With --long-prompts (about twenty minutes with the default of 4 steps) every prompt has about 1,000 tokens, most of them
other sentences of the training data, and completions have up to 50 tokens; a step has 2 prompts with 8 completions
each.
"""

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from rft_trainer.processor import has_bfloat16_instructions

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "examples/quickstart"
ROUNDS, STEPS, STEPS_WITH_LONG_PROMPTS = 2, 8, 4


def bare(job: dict, output: Path) -> None:
    """Train as a user of TRL does, and write the reward and the seconds of each step to a file."""
    sys.path[:0] = [str(QUICKSTART), str(ROOT / "tests")]
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from reward import lambda_handler
    from support.bare_trl import LINEAR, grpo_config
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOTrainer

    from rft_trainer.data import mix

    hyperparameters, tuning = job["spec"]["hyperparameters"], job["spec"]["tuning"]
    seed = hyperparameters.get("seed", 0)
    lines = Path(job["spec"]["data"]["train"][0]["uri"]).read_text(encoding="utf-8").splitlines()
    # The prompts are in the order of the trainer, so that both sides have the same prompts in each step.
    rows = [json.loads(line) for line in mix({"": lines}, {"": 1.0}, hyperparameters.get("epochs", 1), seed)]

    def reward(prompts, completions, reference_answer, **columns):
        event = [
            {"id": str(n), "messages": completion, "reference_answer": json.loads(reference)}
            for n, (completion, reference) in enumerate(zip(completions, reference_answer, strict=True))
        ]
        return [row["aggregate_reward_score"] for row in lambda_handler(event, None)]

    seconds = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *args, **kwargs):
            self.start = time.perf_counter()

        def on_step_end(self, *args, **kwargs):
            seconds.append(time.perf_counter() - self.start)

    # As our trainer chooses it: bfloat16, as in the files, is many times slower on processors that emulate it.
    dtype = "auto" if has_bfloat16_instructions() else torch.float32
    model = AutoModelForCausalLM.from_pretrained(job["spec"]["model"]["uri"], dtype=dtype, trust_remote_code=False)
    layers = model.config.num_hidden_layers
    torch.manual_seed(seed)
    model = get_peft_model(
        model,
        LoraConfig(
            r=tuning["rank"],
            lora_alpha=tuning["alpha"],
            target_modules=LINEAR,
            layers_to_transform=list(range(layers - tuning["lastLayers"], layers)),
            task_type="CAUSAL_LM",
        ),
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=reward,
        args=grpo_config(
            output.parent / "trl",
            max_steps=hyperparameters["maxSteps"],
            per_device_train_batch_size=hyperparameters["batchSize"] * hyperparameters["samplesPerPrompt"],
            gradient_accumulation_steps=1,
            num_generations=hyperparameters["samplesPerPrompt"],
            max_completion_length=hyperparameters["maxCompletionTokens"],
            learning_rate=float(hyperparameters["learningRate"]),
            lr_scheduler_type=hyperparameters.get("learningRateSchedule", "Constant").lower(),
            loss_type="grpo",
            beta=0.0,
            seed=seed,
        ),
        train_dataset=Dataset.from_list(
            [{"prompt": row["messages"], "reference_answer": json.dumps(row["reference_answer"])} for row in rows]
        ),
        processing_class=AutoTokenizer.from_pretrained(
            job["spec"]["model"]["uri"], padding_side="left", trust_remote_code=False
        ),
        callbacks=[Clock()],
    )
    trainer.train()
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    output.write_text(json.dumps([{"reward": r, "seconds": s} for r, s in zip(rewards, seconds, strict=True)]))


def ours(job: dict, folder: Path) -> list[dict]:
    """Run the job with `rft run`; return the reward and the seconds of each step."""
    job["spec"]["output"] = {"uri": str(folder / "out")}
    for split in ("validation", "test"):
        short = folder / f"{split}.jsonl"
        (source,) = job["spec"]["data"][split]
        lines = Path(source["uri"]).read_text(encoding="utf-8").splitlines(keepends=True)
        short.write_text("".join(lines[:4]), encoding="utf-8")
        source["uri"] = str(short)
    manifest = folder / "job.yaml"
    manifest.write_text(json.dumps(job), encoding="utf-8")
    command = [Path(sys.executable).parent / "rft", "run", manifest, QUICKSTART / "reward.yaml"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    phases = ("generateSeconds", "rewardSeconds", "updateSeconds")
    return [
        {"reward": line["reward"], "seconds": sum(line[phase] for phase in phases)}
        for line in lines
        if line["split"] == "train"
    ]


def quickstart(long_prompts: bool, steps: int, folder: Path) -> dict:
    """Return the manifest of the job with few steps and absolute addresses; write data that it needs to the folder."""
    job = yaml.safe_load((QUICKSTART / "job.yaml").read_text(encoding="utf-8"))
    job["spec"]["hyperparameters"] |= {"maxSteps": steps, "evalInterval": steps}
    job["spec"]["preflight"] = {"action": "Skip"}
    job["spec"]["model"]["uri"] = str((QUICKSTART / job["spec"]["model"]["uri"]).resolve())
    for sources in job["spec"]["data"].values():
        for source in sources:
            source["uri"] = str(QUICKSTART / source["uri"])
    if long_prompts:
        job["spec"]["hyperparameters"] |= {"batchSize": 2, "maxPromptTokens": 1200, "maxCompletionTokens": 50}
        for split, (source,) in job["spec"]["data"].items():
            file = folder / f"{split}.jsonl"
            file.write_text("".join(_lengthen(Path(source["uri"]))), encoding="utf-8")
            source["uri"] = str(file)
    return job


def _lengthen(file: Path) -> list[str]:
    """Return the lines of a file with long prompts, which begin with the sentences of the next 80 lines."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    sentences = [row["messages"][-1]["content"].removeprefix("Text: ") for row in rows]
    lines = []
    for number, row in enumerate(rows):
        others = [sentences[(number + offset) % len(rows)] for offset in range(1, 81)]
        row["messages"][-1]["content"] = f"Other texts: {' '.join(others)}\n{row['messages'][-1]['content']}"
        lines.append(json.dumps(row) + "\n")
    return lines


def median_interval(values: list[float]) -> tuple[float, float]:
    """Return an interval that has the median of the population with a probability of at least 95 %.

    Each value is above the median with probability 1/2, so that the number above it has a binomial distribution. Of
    fewer than 6 values, it is from the least to the most, with a smaller probability.
    """
    values, count, left_out = sorted(values), len(values), 0
    while 2 * sum(math.comb(count, above) for above in range(left_out + 2)) / 2**count <= 0.05:
        left_out += 1
    return values[left_out], values[-1 - left_out]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long-prompts", action="store_true", help="prompts of 1,000 tokens, completions of 50")
    parser.add_argument("--steps", type=int, help=f"default: {STEPS}, with long prompts {STEPS_WITH_LONG_PROMPTS}")
    parser.add_argument("--bare", type=Path, nargs=2, metavar="FILE", help="run the TRL script only (used internally)")
    options = parser.parse_args()
    if options.bare:
        job, output = options.bare
        return bare(json.loads(job.read_text(encoding="utf-8")), output)
    seconds: dict[str, list[float]] = {"bare TRL": [], "rft_trainer": []}
    steps = options.steps or (STEPS_WITH_LONG_PROMPTS if options.long_prompts else STEPS)
    ratios, equal = [], 0
    with tempfile.TemporaryDirectory() as temporary:
        job = quickstart(options.long_prompts, steps, Path(temporary))
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}", file=sys.stderr)
            folder = Path(temporary) / str(number)
            folder.mkdir()
            file, result = folder / "job.json", folder / "bare.json"
            file.write_text(json.dumps(job), encoding="utf-8")
            command = [sys.executable, __file__, "--bare", file, result]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            sides = {"bare TRL": json.loads(result.read_text()), "rft_trainer": ours(copy.deepcopy(job), folder)}
            for name, steps in sides.items():
                seconds[name] += [step["seconds"] for step in steps[1:]]
                print(f"{name}: {[(round(s['reward'], 4), round(s['seconds'], 1)) for s in steps]}", file=sys.stderr)
            pairs = list(zip(*sides.values(), strict=True))
            equal = sum(abs(a["reward"] - b["reward"]) < 1e-6 for a, b in pairs)
            ratios += [our["seconds"] / theirs["seconds"] for theirs, our in pairs[1:]]
    print(f"Steps of {steps} whose mean reward is the same on both sides: {equal}")
    print("The median of {} ratios is {:.3f}, its 95 % interval {:.3f} to {:.3f}".format(
        len(ratios), statistics.median(ratios), *median_interval(ratios)))  # fmt: skip
    print("\n| | bare TRL, seconds a step (median) | rft_trainer | ratio, step by step: median (least to most) |")
    print("|---|---|---|---|")
    case = "prompts of 1,000 tokens" if options.long_prompts else "quickstart"
    processor = f"with{'' if has_bfloat16_instructions() else 'out'} instructions for bfloat16"
    print(f"| {case}, {processor} | {' | '.join(f'{statistics.median(values):.1f}' for values in seconds.values())} "
          f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |")  # fmt: skip


if __name__ == "__main__":
    main()
