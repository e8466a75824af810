"""Two gateways on a real node, with TLS and one ledger in PostgreSQL, while gateways and operators are killed."""

from __future__ import annotations

import csv
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cluster import network
from cluster.certificates import Authority
from cluster.kubectl import Kubectl, Manifest
from cluster.node import Node
from support.gateway_in_cluster import Team, endpoint
from support.helm import SYSTEM, Helm, install_operator
from support.loader import write_adapter
from support.patience import PATIENCE_SECONDS, wait_until
from support.postgres import Postgres
from support.sleeping_model import GATEWAY, count_starts, wait_for_sleep
from support.tiny import write_model

from rft_api.gateway_demand import DEMAND_PATH, WAKE_ANNOTATION, DemandReport

OF = f"--namespace={SYSTEM}"
CLIENTS = 100
"""Number of those who ask at once."""
REPORT = ("python", "-m", "rft_gateway.usage_report", "--by=namespace,key,model", "--csv")
"""Prints the ledger, in a gateway's pod."""
BASE, ADAPTER = "base", "adapter"
"""The endpoints."""
RETRIES = 20
"""How often the client asks again by itself: for longer than Kubernetes sends clients to a gateway that was killed."""
NAME = f"{GATEWAY}.{SYSTEM}.svc"
"""Name of the gateways' Service."""


@dataclass(frozen=True)
class Gateways:
    """The gateways' address for clients, and the certificates that these trust."""

    url: str
    trust: ssl.SSLContext


@pytest.fixture
def postgres(node: Node) -> Iterator[Postgres]:
    """A server that pods reach."""
    with tempfile.TemporaryDirectory(prefix="rft-postgres-") as folder:
        server = Postgres(Path(folder), network.HOST)
        yield server
        server.stop()


@pytest.fixture
def gateways(
    kubectl: Kubectl,
    cluster_helm: Helm,
    operator: str,
    chart_values: dict[str, Any],
    postgres: Postgres,
    tmp_path: Path,
) -> Iterator[Gateways]:
    """Two of them in place of the one with a ledger in SQLite, which comes back afterwards."""
    address = kubectl.get("service", GATEWAY, OF)["spec"]["clusterIP"]
    authority = Authority(tmp_path / "certificates")
    pair = authority.issue("gateway", names=[NAME, address])
    kubectl("create", "secret", "tls", "gateway-tls", OF, f"--cert={pair.certificate}", f"--key={pair.key}")
    url = postgres.create_remote_database()
    kubectl("create", "secret", "generic", "gateway-ledger", OF, f"--from-literal=url={url}")
    changes = {
        "replicas": 2,
        "ledger": {
            "urlSecret": {"name": "gateway-ledger"},
            "egress": [{"cidr": f"{network.HOST}/32", "port": postgres.port}],
        },
        "tls": {"secretName": "gateway-tls"},
    }
    try:
        gateway = chart_values["gateway"] | changes
        install_operator(kubectl, cluster_helm, chart_values | {"gateway": gateway})
        wait_until(lambda: len(pods_of(kubectl, "gateway")) == 2)  # The one before them still ends.
        trust = ssl.create_default_context(cafile=str(authority.pair.certificate))
        yield Gateways(f"https://{address}:8080/v1", trust)
    finally:
        install_operator(kubectl, cluster_helm, chart_values)
        kubectl.delete("secret", "gateway-tls", "gateway-ledger", OF)


@pytest.fixture
def sleeping(kubectl: Kubectl, team: str, bucket: Path, gateways: Gateways) -> None:
    """A base and an adapter that have no pod while nobody asks for them."""
    # Attention heads of 32 numbers are the smallest that vLLM's CPU backend computes.
    model = write_model(bucket / "models" / f"wide-{team}", hidden=128, tied=False)
    write_adapter(bucket / "adapters" / team, model)
    base = {
        "model": {"uri": f"s3://{bucket.name}/models/{model.name}"},
        "serving": {
            "gpus": 0,
            "precision": "Float32",
            "adapterSources": [f"s3://{bucket.name}/adapters/"],
            "pod": {"resources": {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "6Gi"}}},
        },
        "credentials": {"secretName": "s3-credentials"},
        "autoscale": {"minimum": 0, "maximum": 1, "idleAfter": "10s"},
        "coldStart": {"timeout": "24h", "queue": CLIENTS},
    }
    adapter = {"baseEndpoint": BASE, "adapter": {"uri": f"s3://{bucket.name}/adapters/{team}"}}
    kubectl.apply(endpoint(BASE, base), endpoint(ADAPTER, adapter), namespace=team)
    wait_for_sleep(kubectl, team, BASE)


def pods_of(kubectl: Kubectl, component: str) -> list[Manifest]:
    """The pods of the chart's operator or gateway, by their names."""
    pods = kubectl.get("pods", OF, f"--selector=app.kubernetes.io/component={component}")["items"]
    return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))


@contextmanager
def away(kubectl: Kubectl, operator: str) -> Iterator[None]:
    """There is no operator while the block lasts."""
    kubectl("scale", f"deployment/{operator}", OF, "--replicas=0")
    try:
        wait_until(lambda: not pods_of(kubectl, "operator"))
        yield
    finally:
        kubectl("scale", f"deployment/{operator}", OF, "--replicas=1")


def kill(node: Node, pod: Manifest) -> None:
    """Ends the processes of a pod's container at once. The kubelet starts the container again, in the same pod."""
    (status,) = pod["status"]["containerStatuses"]
    container = status["containerID"].removeprefix("containerd://")
    node.run("ctr", "--namespace=k8s.io", "tasks", "kill", "--signal=SIGKILL", container)


def restarts(kubectl: Kubectl, pod: Manifest) -> int:
    """How often a pod's container was started again."""
    (status,) = kubectl.get("pod", pod["metadata"]["name"], OF)["status"]["containerStatuses"]
    return int(status["restartCount"])


def count_waiting(kubectl: Kubectl, team: str) -> list[int | None]:
    """The number of requests that wait at each gateway; None for one that does not answer."""
    return [_waiting_at(pod, team) for pod in pods_of(kubectl, "gateway")]


def _waiting_at(pod: Manifest, team: str) -> int | None:
    url = f"http://{pod['status']['podIP']}:9090{DEMAND_PATH}"
    try:
        answer = httpx.get(url, timeout=PATIENCE_SECONDS, trust_env=False)
    except httpx.TransportError:
        return None
    report = DemandReport.model_validate_json(answer.content)
    return sum(demand.waiting for demand in report.endpoints if (demand.namespace, demand.endpoint) == (team, BASE))


def models_of(pod: Manifest, token: str, trust: ssl.SSLContext) -> set[str]:
    """The models that a key opens at one gateway; none until this has seen the key."""
    with httpx.Client(verify=trust, timeout=PATIENCE_SECONDS, trust_env=False) as client:
        answer = client.get(
            f"https://{pod['status']['podIP']}:8080/v1/models",
            headers={"authorization": f"Bearer {token}"},
            extensions={"sni_hostname": NAME},
        )
    return {model["id"] for model in answer.json()["data"]} if answer.is_success else set()


@dataclass(frozen=True)
class Reply:
    """What a client got."""

    model: str
    tokens: int
    interruptions: int
    """How often its connection broke, and it asked again."""


def ask(client: openai.OpenAI, number: int, streaming: set[int]) -> Reply:
    """Ask the base or the adapter, in a stream or not.

    Args:
        client: of all who ask.
        number: of the one who asks.
        streaming: gets the number when a stream has begun, which may be long before its first token.
    """
    model = (BASE, ADAPTER)[number % 2]
    messages: Any = [{"role": "user", "content": f"{number}"}]
    asked: Any = {"model": model, "messages": messages, "max_tokens": 4}
    completions = client.chat.completions.with_raw_response
    if number % 4 < 2:
        reply = completions.create(**asked)
        usage = reply.parse().usage
        assert usage is not None
        return Reply(model, usage.completion_tokens, reply.retries_taken)
    interruptions = 0
    while True:
        reply = completions.create(**asked, stream=True, stream_options={"include_usage": True})
        interruptions += reply.retries_taken
        streaming.add(number)
        try:
            with reply.parse() as stream:
                tokens = sum(chunk.usage.completion_tokens for chunk in stream if chunk.usage is not None)
        except openai.APIConnectionError:
            interruptions += 1  # The client does not repeat a stream that has begun: its user does.
        else:
            return Reply(model, tokens, interruptions)


def test_a_gateway_and_the_operator_are_killed_while_clients_wait(
    kubectl: Kubectl, node: Node, operator: str, team: str, gateways: Gateways, sleeping: None
):
    of = f"--namespace={team}"
    token = Team(kubectl, team).add_key("crowd")
    killed, other = pods_of(kubectl, "gateway")
    for pod in (killed, other):
        wait_until(lambda pod=pod: models_of(pod, token, gateways.trust) == {BASE, ADAPTER})

    def waiting() -> list[int | None]:
        return count_waiting(kubectl, team)

    def all_wait() -> list[int]:
        """The number of clients at each of the gateways, once all of them wait."""
        counts = [count for count in waiting() if count is not None]
        return counts if len(counts) == 2 and sum(counts) == CLIENTS else []

    with (
        openai.DefaultHttpxClient(verify=gateways.trust) as http,
        openai.OpenAI(
            base_url=gateways.url, api_key=token, max_retries=RETRIES, timeout=None, http_client=http
        ) as client,
        ThreadPoolExecutor(CLIENTS) as pool,
    ):
        with away(kubectl, operator):
            streaming: set[int] = set()
            replies = [pool.submit(ask, client, number, streaming) for number in range(CLIENTS)]
            wait_until(lambda: len(streaming) == CLIENTS // 2, lambda: len(streaming))
            interrupted, undisturbed = wait_until(all_wait, waiting)
            assert interrupted > 0
            assert undisturbed > 0
            kill(node, killed)
            wait_until(lambda: restarts(kubectl, killed) > 0)
            wait_until(all_wait, waiting)
            assert WAKE_ANNOTATION in kubectl.get("inferenceendpoint", BASE, of)["metadata"]["annotations"]
            assert count_starts(kubectl, team, BASE) == 0
        woken = kubectl.wait_for("deployment", f"{BASE}-server", of, until=lambda found: found["spec"]["replicas"] == 1)
        (pod,) = pods_of(kubectl, "operator")
        kill(node, pod)
        assert not woken["status"].get("readyReplicas"), "the model still starts"
        answers = [reply.result() for reply in replies]
    assert [answer.interruptions > 0 for answer in answers].count(True) == interrupted
    assert count_starts(kubectl, team, BASE) == 1
    wait_for_sleep(kubectl, team, BASE)
    check_ledger(kubectl, team, answers)


def check_ledger(kubectl: Kubectl, team: str, answers: list[Reply]) -> None:
    """Each answer has been counted once, whichever gateway has given it."""
    printed = kubectl("exec", f"deployment/{GATEWAY}", OF, "--", *REPORT)
    rows = [row for row in csv.DictReader(printed.splitlines()) if row["namespace"] == team]
    counted = {(row["key"], row["model"]): (int(row["requests"]), int(row["completion_tokens"])) for row in rows}
    tokens = {model: [answer.tokens for answer in answers if answer.model == model] for model in (BASE, ADAPTER)}
    assert counted == {("crowd", model): (len(given), sum(given)) for model, given in tokens.items()}
