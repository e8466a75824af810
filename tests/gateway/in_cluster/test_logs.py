"""Logs of endpoints in a cluster: with the credentials of a tenant's Secret, and of no other."""

from __future__ import annotations

import uuid

from support.conversation_logs import feedback, read, records
from support.gateway_in_cluster import ClusterGateway
from support.patience import wait_until

from rft_api.conversation_logs import CREDENTIALS_LABEL

MESSAGES = [{"role": "user", "content": "one two"}]


def credentials(s3, labels: dict[str, str]) -> dict[str, object]:
    return {
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3", "labels": labels},
        "stringData": s3.environment(),
    }  # fmt: skip


def ask(gateway: ClusterGateway, model: str) -> str:
    """Asks until the model has a server, and returns the id of the answer."""
    body = {"model": model, "messages": MESSAGES, "max_tokens": 2}
    answer = wait_until(
        lambda: answer if (answer := gateway.post("/v1/chat/completions", body)).is_success else None,
        lambda: gateway.log,
    )
    return answer.json()["id"]


def test_conversations_of_an_endpoint_come_to_its_address(tmp_path, kubeconfig, team, pod, s3):
    pod.behaviour.finish = "stop"
    bucket = s3.make_bucket(f"logs-{uuid.uuid4().hex[:12]}")
    logs = {
        "uri": f"s3://{bucket.name}/base",
        "credentials": {"secretName": "s3"},
        "redact": {"patterns": [{"pattern": "two", "replacement": "2"}]},
    }
    arguments = (f"--namespaces={team.namespace}", "--spool", str(tmp_path / "spool"), "--log-seconds", "0.5")
    # Without the label, the Secret is not read; the gateway's own credentials are used for nobody.
    team.apply(credentials(s3, {}))
    team.add_base("base", logs=logs)
    team.add_adapter("tax", "base")
    team.set_servers("base", pod.port)
    gateway = ClusterGateway(tmp_path, kubeconfig, *arguments)
    gateway.environment.update(s3.environment())
    gateway.environment["KUBECONFIG"] = str(kubeconfig)
    with gateway:
        gateway.wait_until_ready()
        gateway.token = team.add_key("ci")
        gateway.wait_for_status(gateway.token, 200)
        name = ask(gateway, "base")
        ask(gateway, "tax")
        assert gateway.post("/v1/feedback", {"id": name, "rating": "up"}).is_success
        wait_until(lambda: f"there is no Secret s3 in namespace {team.namespace}" in gateway.log)
        assert records(bucket) == []
        team.apply(credentials(s3, {CREDENTIALS_LABEL: "true"}))
        wait_until(lambda: records(bucket) and feedback(bucket), lambda: (len(records(bucket)), gateway.log))
    assert {record["modelId"] for record in records(bucket)} == {"base"}
    prompts, _ = read(bucket / "base", feedback={"rating": "Up"})
    assert {prompt.messages[0]["content"] for prompt in prompts} == {"one 2"}
