"""The loop: people ask a model through the gateway, say what they think of its answers, and a run trains on that."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from support.conversation_logs import feedback, records
from support.gateway import Gateway, route
from support.patience import wait_until
from support.trainer import TrainerProgram, hyperparameters, job_spec, render
from support.vllm_bytes import VllmBytes

from rft_api.conversation_logs import ConversationLogs
from rft_api.ports import free_port


def ask(gateway: Gateway, row: dict, app: str, stream: bool) -> str:
    """Asks what a row asks, and returns the id of the request."""
    body = {"model": "digits", "messages": row["messages"], "max_tokens": 4, "metadata": {"app": app}, "stream": stream}
    return gateway.post("/v1/chat/completions", body).headers["x-request-id"]


def test_a_run_trains_on_what_people_asked_and_liked(tmp_path, model, data, rewards, s3):
    bucket = s3.make_bucket(f"production-{uuid.uuid4().hex[:12]}")
    logs = ConversationLogs(uri=f"s3://{bucket.name}/digits")
    rows = [json.loads(line) for line in (Path(data) / "train.jsonl").read_text().splitlines()]
    distinct = list({json.dumps(row["messages"]): row for row in rows}.values())
    with VllmBytes("digits") as server:
        server.behaviour.finish = "stop"
        routes = [route("digits", server.url, logs=logs)]
        arguments = ("--spool", str(tmp_path / "spool"), "--log-seconds", "0.5")
        with Gateway(tmp_path, routes, *arguments, environment=s3.environment()) as gateway:
            names = [ask(gateway, row, "app", number % 2 == 0) for number, row in enumerate(distinct)]
            ask(gateway, {"messages": [{"role": "user", "content": "Is anybody there?"}]}, "probe", False)
            # All but two: of one, nobody has said anything; the other was not liked.
            for name, row in zip(names[2:], distinct[2:], strict=True):
                opinion = {"id": name, "rating": "up", "corrected_answer": str(row["reference_answer"])}
                assert gateway.post("/v1/feedback", opinion).is_success
            assert gateway.post("/v1/feedback", {"id": names[1], "rating": "down"}).is_success
            wait_until(lambda: (len(records(bucket)), len(feedback(bucket))) == (len(distinct) + 1, len(distinct) - 1),
                       lambda: (len(records(bucket)), len(feedback(bucket)), gateway.log))  # fmt: skip
    spec = job_spec(model, data, tmp_path, hyperparameters=hyperparameters(maxSteps=2), preflight={"action": "Skip"})
    source = {
        "name": "production",
        "uri": f"{logs.uri}/",
        "format": "BedrockInvocationLog",
        "invocationLog": {
            "reference": "LoggedAnswer",
            "modelIds": ["digits"],
            "requestMetadataFilters": {"equals": {"app": "app"}},
            "feedback": {"rating": "Up"},
        },
    }
    spec["data"] = {"train": [{**source, "reward": "digits"}], "validation": spec["data"]["validation"]}
    spec["warmup"] = {"data": [{**source, "name": "liked"}]}
    config = render(spec, tmp_path, rewards.url, rewards.token_file)
    summary = TrainerProgram(config, tmp_path, free_port(), environment=s3.environment()).succeed()
    report = summary.data.invocation_logs["train/production"]
    assert (report.records, report.taken) == (len(distinct) + 1, len(distinct) - 2)
    assert report.left_out == {"OtherFeedback": 2, "Filtered": 1}
    assert summary.data.train_prompts == summary.data.warmup_conversations == len(distinct) - 2
