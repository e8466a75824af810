"""Train the quickstart with vLLM, with and without sampling ahead; compare step times and validation rewards.

Run: .venv/bin/python bench/sampling_ahead.py [--steps 32] [--seed 0] (about half an hour; needs the quickstart's model,
see `make demo`)
Prints a Markdown table. A step's seconds are those of generation, of waiting for rewards, and of the update; stated is
the median of the steps that are sampled ahead with `compute.rollouts.overlap: 1`, which are all but the first after
the start and after each validation. The difference of the validation rewards is that of the same prompts after the last
step, with its 95 % interval (paired bootstrap).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
from quickstart_seeds import quickstart, run

from rft_api.run_folder import RunFolder
from rft_trainer.metrics_log import read_steps
from rft_trainer.statistics import paired_bootstrap


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=32, help="an even number (default: 32)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seconds, rewards, lines = [], [], []
    with tempfile.TemporaryDirectory() as temporary:
        for overlap in (0, 1):
            print(f"overlap {overlap}", file=sys.stderr)
            output = train(overlap, options.steps, options.seed, Path(temporary) / f"overlap-{overlap}")
            seconds.append(step_seconds(output, options.steps))
            rewards.append(validation_rewards(output, options.steps))
            ratio, reward = seconds[-1] / seconds[0], statistics.mean(rewards[-1])
            lines.append(f"| {overlap} | {seconds[-1]:.1f} | {ratio:.2f} | {reward:.3f} |")
    gain = paired_bootstrap(*rewards)
    print("| overlap | seconds of a step | ratio | validation reward |\n|---|---|---|---|")
    print("\n".join(lines))
    interval = f"[{gain.low:+.3f}, {gain.high:+.3f}]"
    print(f"\nDifference of the validation rewards: {gain.mean:+.3f} {interval} on {len(rewards[0])} prompts.")


if __name__ == "__main__":
    main()
