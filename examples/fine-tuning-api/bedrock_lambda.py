"""A fine-tuning job by reinforcement whose reward is an AWS Lambda, with the calls that Amazon Bedrock has for it.

    python bedrock_lambda.py MODEL ARN_OF_THE_LAMBDA

OPENAI_BASE_URL and OPENAI_API_KEY say where the API is, and who asks. The task: tell which team a message is for.
"""

import io
import json
import os
import sys
import time

from openai import OpenAI

MESSAGES = {
    "billing": ["I was charged twice.", "Where is my invoice?", "My card was declined.", "Can I have a refund?"],
    "delivery": ["My parcel is late.", "The box came open.", "Can I change the address?", "It went to a neighbour."],
    "account": ["I forgot my password.", "Please delete my data.", "I cannot log in.", "How do I change my e-mail?"],
}
INSTRUCTION = f"Answer with the team that the message is for: {', '.join(MESSAGES)}."


def make_rows():
    """Yield the prompts, each with the answer that the Lambda compares with."""
    for team, messages in MESSAGES.items():
        for message in messages:
            yield {
                "messages": [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": message}],
                "reference_answer": {"team": team},
            }


def main(model, function):
    """Train a model with a Lambda, and ask the tuned one."""
    client = OpenAI(base_url=os.environ["OPENAI_BASE_URL"], api_key=os.environ["OPENAI_API_KEY"])
    content = "".join(json.dumps(row) + "\n" for row in make_rows())
    file = client.files.create(file=("teams.jsonl", io.BytesIO(content.encode())), purpose="fine-tune")
    print("file:", file.id, file.status)

    # The types of the openai package have no Lambda.
    method = {
        "type": "reinforcement",
        "reinforcement": {
            "grader": {"type": "lambda", "lambda": {"function": function}},
            "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0},
        },
    }
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id, extra_body={"method": method})
    print("job:", job.id, flush=True)
    print("newest jobs:", [each.id for each in client.fine_tuning.jobs.list(limit=5).data])

    while True:
        job = client.fine_tuning.jobs.retrieve(fine_tuning_job_id=job.id)
        print("status:", job.status, flush=True)
        if job.status in ("succeeded", "failed", "cancelled"):
            break
        time.sleep(5)

    for event in client.fine_tuning.jobs.list_events(fine_tuning_job_id=job.id, limit=20):
        print("event:", event.created_at, event.message)
    if job.status != "succeeded":
        sys.exit(f"the job has {job.status}: {job.error}")
    for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id).data:
        print("checkpoint:", checkpoint.id, checkpoint.step_number)

    answer = client.chat.completions.create(
        model=job.fine_tuned_model,
        messages=[{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": "The courier left again."}],
        max_tokens=8,
    )
    print("answer:", job.fine_tuned_model, answer.choices[0].message.content)


if __name__ == "__main__":
    main(*sys.argv[1:])
