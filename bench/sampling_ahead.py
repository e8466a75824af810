"""Train the quickstart with vLLM, with and without sampling ahead; compare step times and validation rewards.

Run: .venv/bin/python bench/sampling_ahead.py [--steps 32] [--seeds 0 1 2] (about 25 minutes a seed; needs the
quickstart's model, see `make demo`)
Prints a Markdown table. A step's seconds are those of generation, of waiting for rewards, and of the update; stated is
the median of the steps that are sampled ahead with `compute.rollouts.overlap: 1`, which are all but the first after
the start and after each validation. Two runs that sample from different versions of the policy go different ways, as
runs with different seeds do. So the difference of the validation rewards after the last step is that of several seeds;
its 95 % interval is that of a bootstrap over the seeds and the prompts of each.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from quickstart_seeds import quickstart, run

from rft_api.run_folder import RunFolder
from rft_trainer.metrics_log import read_steps


def train(overlap: int, steps: int, seed: int, folder: Path) -> RunFolder:
    """Train the quickstart; return its output."""
    job = quickstart(seed)
    job["spec"]["hyperparameters"] |= {"maxSteps": steps, "evalInterval": steps // 2}
    job["spec"]["compute"]["rollouts"] = {"engine": "vLLM", "overlap": overlap}
    run(job, folder)
    return RunFolder(folder / "out")


def step_seconds(output: RunFolder, steps: int) -> float:
    """Return the median seconds of the steps that can be sampled ahead."""
    firsts = {1, steps // 2 + 1}
    lines = [line for line in read_steps(output) if line.step not in firsts]
    return statistics.median(line.generate_seconds + line.reward_seconds + line.update_seconds for line in lines)


def validation_rewards(output: RunFolder, step: int) -> list[float]:
    """Return the rewards after a step in the order of the validation prompts; a failed one counts 0."""
    return [row["reward"] or 0.0 for row in pq.read_table(output.validation(step)).to_pylist()]


def interval(differences: Sequence[Sequence[float]], draws: int = 10_000) -> tuple[float, float]:
    """Return the 95 % interval of the mean difference of all seeds, from the differences of the prompts of each."""
    values, generator = np.asarray(differences), np.random.default_rng(0)
    seeds, prompts = values.shape
    means = []
    for _ in range(draws):
        chosen = generator.integers(seeds, size=seeds)
        means.append(np.mean([values[seed, generator.integers(prompts, size=prompts)] for seed in chosen]))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=32, help="an even number (default: 32)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    print("| seed | overlap | seconds of a step | ratio | validation reward |\n|---|---|---|---|---|")
    differences = []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in options.seeds:
            seconds, rewards = [], []
            for overlap in (0, 1):
                print(f"seed {seed}, overlap {overlap}", file=sys.stderr)
                output = train(overlap, options.steps, seed, Path(temporary) / f"seed-{seed}-overlap-{overlap}")
                seconds.append(step_seconds(output, options.steps))
                rewards.append(validation_rewards(output, options.steps))
                ratio, reward = seconds[-1] / seconds[0], statistics.mean(rewards[-1])
                print(f"| {seed} | {overlap} | {seconds[-1]:.1f} | {ratio:.2f} | {reward:.3f} |", flush=True)
            differences.append([ahead - not_ahead for not_ahead, ahead in zip(*rewards, strict=True)])
    mean, (low, high) = statistics.mean(map(statistics.mean, differences)), interval(differences)
    print(f"\nDifference of the validation rewards: {mean:+.3f} [{low:+.3f}, {high:+.3f}];")
    print(f"seeds: {len(differences)}, prompts of each: {len(differences[0])}")


if __name__ == "__main__":
    main()
