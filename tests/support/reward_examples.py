"""The rewards of examples/rewards: their commands, their scores, and what stands for the services that they ask."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.pages import ROOT, blocks
from support.services import Answer, Asked, Service, chat

FOLDER = ROOT / "examples" / "rewards"
JUDGE = "http://127.0.0.1:8000/v1"
"""The address of the model in relative_judge.yaml."""
AWS = {
    "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "s",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_EC2_METADATA_DISABLED": "true",
}

EXPECTED: dict[str, list[float | None]] = {
    "similarity": [1.0, 0.634335, 0.0, 0.0],
    "math_equivalence": [1.0, 1.0, 0.0, 0.0, None],
    "sql_equality": [1.0, 0.1, 0.0],
    "invoice_json": [1.0, 0.8, 0.0, 0.0],
    "code_tests": [1.0, 0.5, 0.0, 1.0, 0.0],
    "bedrock_judge": [0.9, 0.2, None],
    "bedrock_judge_without_lambda": [1.0, 0.25, 0.0],
    "async_checks": [1.0, 0.5, 0.0],
    "relative_judge": [1.0, 0.5, 0.0],
    "cosine_length": [1.0, 0.75, -0.75, -1.0],
    "top_level_fields": [1.0, 0.5, 0.0, 0.0],
}
"""The score of each line of NAME.jsonl; None for a completion that has none."""


def commands() -> dict[str, str]:
    """The one or two commands of the page for each reward, by its name."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    return {
        name: block for block in blocks(page, "sh") for name in re.findall(r"--output (\w+)\.scores\.jsonl\n$", block)
    }


def run(command: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run commands in a folder that has the examples, with `rft` at hand."""
    path = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder, capture_output=True, text=True, env={**os.environ, **environment, "PATH": path},
    )  # fmt: skip


@contextlib.contextmanager
def aws_services(host: str = "127.0.0.1") -> Iterator[tuple[dict[str, str], list[Service]]]:
    """What stands for AWS: models on Amazon Bedrock, and the Lambda that runs bedrock_judge.py, unmodified.

    Returns the environment of those who use them, and the services.
    """
    bedrock = Service(answer_of_bedrock, host=host)
    environment = {**AWS, "AWS_ENDPOINT_URL_BEDROCK_RUNTIME": bedrock.url}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        specification = importlib.util.spec_from_file_location("bedrock_judge", FOLDER / "bedrock_judge.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
        function = Service(lambda asked: Answer(module.lambda_handler(asked.json(), None)), host=host)
        yield {**environment, "AWS_ENDPOINT_URL_LAMBDA": function.url}, [bedrock, function]
    function.close()
    bedrock.close()


def answer_of_bedrock(asked: Asked) -> Answer:
    """A model on Amazon Bedrock (Converse) that judges the completions of bedrock_judge.jsonl."""
    request = asked.json()
    text = json.dumps(request)
    kind, short = "I am sorry! We send a new one today." in text, "Order again." in text
    if "from 0 to 10" in text:
        reply = 'It is kind: {"grade": 9}' if kind else '{"grade": 2}' if short else "There is no reply."
    else:
        reply = json.dumps({"reason": "because", "score": 5 if kind else 2 if short else 1})
    message = {"role": "assistant", "content": [{"text": reply}]}
    usage = {"inputTokens": 7, "outputTokens": 3, "totalTokens": 10}
    answer = {"output": {"message": message}, "stopReason": "end_turn", "usage": usage, "metrics": {"latencyMs": 1}}
    return Answer(answer)


def ranking_of_judge(asked: Asked) -> Answer:
    """A model that ranks the completions of relative_judge.jsonl: what names the bank first, and then the shorter."""
    told = asked.json()["messages"][1]["content"]
    answers = re.findall(r"⟦ANSWER \d+ [0-9a-f]{20}⟧\n(.*?)\n⟦/", told, re.DOTALL)
    numbers = range(1, len(answers) + 1)
    ranked = sorted(numbers, key=lambda n: ("bank" not in answers[n - 1], len(answers[n - 1])))
    return chat(json.dumps({"reason": "because", "ranking": [[number] for number in ranked]}))
