"""A fine-tuning job by reinforcement with the openai package, from its data to a question for the tuned model.

    python openai_notebook.py MODEL

The openai package reads OPENAI_BASE_URL and OPENAI_API_KEY. The task: write a price that is in words as a number.
"""

import argparse
import inspect
import json
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from openai import OpenAI

ENDED = ("succeeded", "failed", "cancelled")
PAUSE_SECONDS = 5
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
INSTRUCTION = "Write the price as a number with two decimals, and nothing else."


def grade(sample, item):
    """Give 1.0 for the right price, and 0.2 for any other number with two decimals."""
    import re

    answer = (sample["output_text"] or "").strip()
    if answer == item["reference_answer"]:
        return 1.0
    return 0.2 if re.fullmatch(r"\d+\.\d\d", answer) else 0.0


def make_rows() -> list[dict]:
    """Return a row for each price, with the prompt and the answer by which the grader knows it."""
    rows = []
    for dollars, tens in enumerate(TENS, start=2):
        for cents, ones in enumerate(ONES, start=1):
            question = f"{tens} dollars and {ones} cent{'s' if cents > 1 else ''}"
            rows.append({
                "messages": [{"role": "developer", "content": INSTRUCTION}, {"role": "user", "content": question}],
                "reference_answer": f"{dollars}0.0{cents}",
            })  # fmt: skip
    random.Random(0).shuffle(rows)
    return rows


def upload(client: OpenAI, folder: Path, name: str, rows: list[dict]) -> str:
    """Write rows as JSONL, upload them, and return the id of the file."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with path.open("rb") as content:
        file = client.files.create(file=content, purpose="fine-tune")
    print(f"{name}: {len(rows)} rows, {file.id}", flush=True)
    return file.id


def main() -> None:
    """Train the model that the command line names, and ask the tuned one."""
    parser = argparse.ArgumentParser(description="Fine-tunes a model by reinforcement with the openai package.")
    parser.add_argument("model", help="name of the base model")
    model = parser.parse_args().model
    client = OpenAI()
    rows = make_rows()
    with TemporaryDirectory() as folder:
        training = upload(client, Path(folder), "train", rows[:60])
        validation = upload(client, Path(folder), "validation", rows[60:])

    job = client.fine_tuning.jobs.create(
        model=model,
        training_file=training,
        validation_file=validation,
        suffix="prices",
        method={
            "type": "reinforcement",
            "reinforcement": {
                "grader": {"type": "python", "name": "price", "source": inspect.getsource(grade)},
                "hyperparameters": {"n_epochs": 2, "batch_size": "auto", "eval_samples": 1, "eval_interval": 5},
            },
        },
        metadata={"notebook": "prices"},
    )
    print(f"job: {job.id}", flush=True)

    seen = None
    while job.status not in ENDED:
        if job.status != seen:
            print(f"status: {job.status}", flush=True)
            seen = job.status
        time.sleep(PAUSE_SECONDS)
        job = client.fine_tuning.jobs.retrieve(job.id)
    print(f"status: {job.status}")

    for event in reversed(list(client.fine_tuning.jobs.list_events(job.id))):
        print(f"event: {event.level}: {event.message}")
    if job.status != "succeeded":
        sys.exit(f"{job.error.code}: {job.error.message}" if job.error else "the job was cancelled")
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id):
        reward = checkpoint.metrics.full_valid_mean_reward
        print(f"checkpoint: step {checkpoint.step_number}, reward {reward}, {checkpoint.fine_tuned_model_checkpoint}")

    answer = client.chat.completions.create(model=job.fine_tuned_model, messages=rows[-1]["messages"], max_tokens=8)
    print(f"{job.fine_tuned_model}: {answer.choices[0].message.content}")


if __name__ == "__main__":
    main()
