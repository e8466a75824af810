"""Measure how long `rft data check` and `rft score` take for a file of many rows; print a Markdown table.

Run: .venv/bin/python bench/data_speed.py [--rows 20000] [--rounds 3]
Each command runs as a user starts it, in a process of its own; the fastest of the rounds counts, as it is disturbed the
least by other programs of the machine.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = "the box holds twelve pens so we count them again and give some away before lunch on every second day"
REWARD = """\
apiVersion: rft.dev/v1alpha1
kind: RewardFunction
metadata: {name: exact}
spec:
  builtin: {name: ExactMatch}
"""


def write_rows(file, count, with_answer):
    """Write rows with prompts of about 600 characters and two further fields."""
    random_words = random.Random(0)
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            text = f"{number}: {' '.join(random_words.choices(WORDS.split(), k=120))}?"
            messages = [{"role": "system", "content": "Answer with a number."}, {"role": "user", "content": text}]
            if with_answer:
                messages.append({"role": "assistant", "content": str(number % 7)})
            row = {"messages": messages, "reference_answer": str(number % 5), "level": number % 3, "topic": "pens"}
            lines.write(json.dumps(row) + "\n")


def seconds(command, rounds):
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return min(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder / "prompts.jsonl", options.rows, with_answer=False)
        write_rows(folder / "completions.jsonl", options.rows, with_answer=True)
        (folder / "reward.yaml").write_text(REWARD, encoding="utf-8")
        rft = [sys.executable, "-m", "rft_cli.main"]
        commands = {
            "`rft data check`": [*rft, "data", "check", str(folder / "prompts.jsonl")],
            "`rft score`, `ExactMatch`": [
                *rft, "score", str(folder / "reward.yaml"), str(folder / "completions.jsonl"),
            ],
        }  # fmt: skip
        print(f"| {options.rows} rows | seconds |\n|---|---|")
        for label, command in commands.items():
            print(f"| {label} | {seconds(command, options.rounds):.1f} |", flush=True)


if __name__ == "__main__":
    main()
