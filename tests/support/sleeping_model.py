"""Clients of the gateway on a real node, who ask for a model that has no pod while nobody asks."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from cluster.kubectl import Kubectl
from openai import AuthenticationError, OpenAI

from rft_api.gateway_key import make_token
from support.helm import OPERATOR, SYSTEM
from support.patience import PATIENCE_SECONDS, wait_until
from support.tiny_jobs import condition

GATEWAY = f"{OPERATOR}-gateway"
"""Name of its Deployment and of its Service."""
CLIENTS = 100
"""Number of those who ask at once."""
REPORT = (
    "python", "-m", "rft_gateway.usage_report", "/var/lib/rft-gateway/ledger.db", "--by=namespace,key", "--csv",
)  # fmt: skip
"""Prints the ledger, in the gateway's pod."""
BASE, ADAPTER = "smollm2", "quickstart"
"""The endpoints of the quickstart."""


def check_sleeping_model(kubectl: Kubectl, team: str, environment: dict[str, str]) -> None:
    """The model sleeps while nobody asks. Many clients at once wake it once, all are answered, and it sleeps again.

    Raises:
        AssertionError: something is otherwise.
    """
    of = f"--namespace={team}"
    spec = {
        "autoscale": {"minimum": 0, "maximum": 1, "idleAfter": "10s"},
        "coldStart": {"timeout": "24h", "queue": CLIENTS},
    }
    kubectl("patch", f"inferenceendpoint/{BASE}", of, "--type=merge", f"--patch={json.dumps({'spec': spec})}")
    wait_for_sleep(kubectl, team, BASE)
    starts = count_starts(kubectl, team, BASE)
    service = kubectl.get("service", GATEWAY, f"--namespace={SYSTEM}")["spec"]
    url = f"http://{service['clusterIP']}:{service['ports'][0]['port']}/v1"
    # Keys with a budget are a metric of their own, which an alert looks at.
    create = [sys.executable, "-m", "rft_cli.main", "keys", "create", "crowd", of, "--tokens-per-day=10M"]
    token = subprocess.run(create, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    with OpenAI(base_url=url, api_key=make_token(), max_retries=0) as stranger, pytest.raises(AuthenticationError):
        stranger.models.list()
    wait_until(lambda: models_of(url, token) == {BASE, ADAPTER})
    with (
        OpenAI(base_url=url, api_key=token, max_retries=0, timeout=None) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        tokens = list(pool.map(lambda number: ask(client, number), range(CLIENTS)))
    assert all(tokens)
    assert count_starts(kubectl, team, BASE) == starts + 1
    wait_for_sleep(kubectl, team, BASE)
    printed = kubectl("exec", f"deployment/{GATEWAY}", f"--namespace={SYSTEM}", "--", *REPORT)
    (row,) = [row for row in csv.DictReader(printed.splitlines()) if row["namespace"] == team]
    assert (row["key"], int(row["requests"]), int(row["completion_tokens"])) == ("crowd", CLIENTS, sum(tokens))


def models_of(url: str, token: str) -> set[str]:
    """The models that a key opens; none until the gateway has seen the key."""
    headers = {"authorization": f"Bearer {token}"}
    answer = httpx.get(f"{url}/models", headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
    return {model["id"] for model in answer.json()["data"]} if answer.is_success else set()


def ask(client: OpenAI, number: int) -> int:
    """Ask the base or the adapter, in a stream or not, and return the number of tokens of the answer."""
    messages: Any = [{"role": "user", "content": f"Text: They cost ${number} each."}]
    asked: Any = {"model": (BASE, ADAPTER)[number % 2], "messages": messages, "max_tokens": 4}
    if number % 4 < 2:
        return int(client.chat.completions.create(**asked).usage.completion_tokens)
    options = {"include_usage": True}
    with client.chat.completions.create(**asked, stream=True, stream_options=options) as stream:
        return sum(chunk.usage.completion_tokens for chunk in stream if chunk.usage is not None)


def wait_for_sleep(kubectl: Kubectl, team: str, base: str) -> None:
    """Waits until a model has no pod, and its endpoint says so."""
    of = f"--namespace={team}"
    kubectl.wait_for("deployment", f"{base}-server", of, until=lambda found: found["spec"]["replicas"] == 0)
    servers = f"--selector=app.kubernetes.io/component=server,rft.dev/owner={base}"
    kubectl.wait_for("pods", of, servers, until=lambda found: not found["items"])
    kubectl.wait_for(
        "inferenceendpoint",
        base,
        of,
        until=lambda found: condition(found, "Ready").get("reason") == "ScaledToZero",
    )


def count_starts(kubectl: Kubectl, team: str, base: str) -> int:
    """How often Kubernetes has started pods of a model, where there were none."""
    events = kubectl.get("events", f"--namespace={team}", "--field-selector=reason=ScalingReplicaSet")["items"]
    starts = [
        event
        for event in events
        if event["involvedObject"]["name"] == f"{base}-server" and event["message"].startswith("Scaled up")
    ]
    return sum(event.get("count") or 1 for event in starts)
