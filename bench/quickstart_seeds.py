"""Train the quickstart with several seeds, and print the result of each on the test prompts as a Markdown table.

Run: .venv/bin/python bench/quickstart_seeds.py (about 4 minutes a seed; needs the quickstart's model, see `make demo`)
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

QUICKSTART = Path(__file__).parents[1] / "examples/quickstart"


def run(job: dict, folder: Path) -> tuple[dict, float]:
    """Run `rft run` with a job; return its last line, which is the result, and the minutes that it took."""
    folder.mkdir()
    job["spec"]["output"]["uri"] = str(folder / "out")
    manifest = folder / "job.yaml"
    manifest.write_text(json.dumps(job), encoding="utf-8")
    command = [Path(sys.executable).parent / "rft", "run", manifest, QUICKSTART / "reward.yaml"]
    start = time.monotonic()
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout.splitlines()[-1]), (time.monotonic() - start) / 60


def quickstart(seed: int) -> dict:
    """Return the quickstart's job with this seed, and with whole paths."""
    job = yaml.safe_load((QUICKSTART / "job.yaml").read_text(encoding="utf-8"))
    spec = job["spec"]
    spec["hyperparameters"]["seed"] = seed
    for place in (spec["model"], *(source for sources in spec["data"].values() for source in sources)):
        place["uri"] = str((QUICKSTART / place["uri"]).resolve())
    return job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    seeds = parser.parse_args().seeds
    rows, gains = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for seed in seeds:
            print(f"seed {seed}", file=sys.stderr)
            result, minutes = run(quickstart(seed), Path(temporary) / f"seed-{seed}")
            low, high = result["interval"]
            gains.append(result["gain"])
            rows.append(
                f"| {seed} | {result['baselineReward']:.3f} | {result['tunedReward']:.3f} | {result['gain']:+.3f} "
                f"[{low:+.3f}, {high:+.3f}] | {result['bestStep']} of {result['steps']} | {minutes:.1f} |"
            )
    print("| seed | base | tuned | gain [95 % interval] | step exported | minutes |\n|---|---|---|---|---|---|")
    print("\n".join(rows))
    print(f"\nMean gain {statistics.mean(gains):+.3f} on {result['prompts']} {result['heldOut']} prompts.")


if __name__ == "__main__":
    main()
