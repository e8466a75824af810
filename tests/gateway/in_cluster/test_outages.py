"""The API server is away: the last state serves on, and what has changed meanwhile counts when it is back."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from cluster.build import find_binaries
from cluster.cache import Report
from cluster.control_plane import Cluster, ControlPlane
from cluster.versions import CONTROL_PLANE
from support.fine_tuning import request
from support.gateway_files import openai_client
from support.gateway_in_cluster import ClusterGateway, Team, bind_role
from support.patience import wait_until

from rft_gateway.cluster.objects import KEYS

KINDS = 4
"""What a gateway follows: endpoints, their pods, keys, and credentials of logs."""
CHAT = "/v1/chat/completions"


def question(model: str = "base") -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 3}


@pytest.fixture(scope="module")
def plane(api_server: Cluster, run_folder: Path, report: Report) -> Iterator[ControlPlane]:
    """A control plane that may be ended; `api_server` has its programs built."""
    plane = ControlPlane(run_folder / "plane-of-gateway-outages", find_binaries(CONTROL_PLANE, report))
    try:
        plane.start()
        yield plane
    finally:
        plane.stop()


def test_the_last_state_serves_on_while_the_api_server_is_away(tmp_path: Path, plane, pod):
    kubeconfig = bind_role(plane)
    with (
        plane.kubectl.namespace(f"team-{secrets.token_hex(3)}") as name,
        ClusterGateway(tmp_path, kubeconfig) as gateway,
        ThreadPoolExecutor(20) as pool,
    ):
        team = Team(plane.kubectl, name)
        revoked, gateway.token = team.add_key("revoked"), team.add_key("ci")
        team.add_base("base")
        team.add_base("tax", autoscale={})
        team.set_servers("base", pod.port)
        for token in (revoked, gateway.token):
            gateway.wait_for_status(token, 200)
        wait_until(lambda: gateway.post(CHAT, question()).status_code == 200, lambda: gateway.log)
        plane.api_server.kill()
        wait_until(lambda: gateway.log.count("cannot be followed, going on as it was") == KINDS, lambda: gateway.log)
        for _ in range(20):
            assert gateway.post(CHAT, question()).status_code == 200
        assert gateway.is_ready()
        # who waits for a pod meanwhile is answered when it is back
        waiting = [pool.submit(gateway.post, CHAT, question("tax")) for _ in range(10)]
        wait_until(lambda: "InferenceEndpoint" in gateway.log and "cannot be woken" in gateway.log)
        assert gateway.log.count("cannot be followed, going on as it was") == KINDS  # each once
        plane.api_server.start()
        plane.wait_until_ready()
        team("delete", "secret", "revoked")
        gateway.wait_for_status(revoked, 401)
        assert gateway.post(CHAT, question()).status_code == 200
        wait_until(
            lambda: "rft.dev/wake" in team.read("inferenceendpoint", "tax")["metadata"].get("annotations", {}),
            lambda: gateway.log,
        )
        team.set_servers("tax", pod.port, number=5)
        assert [answer.result().status_code for answer in waiting] == [200] * 10
        wait_until(lambda: gateway.log.count("are followed again") == KINDS, lambda: gateway.log)


def test_jobs_while_the_api_server_is_away(tmp_path: Path, plane):
    """They cannot be created or seen meanwhile, which is said; afterwards they are as they were."""
    kubeconfig = bind_role(plane)
    with (
        plane.kubectl.namespace(f"team-{secrets.token_hex(3)}") as name,
        ClusterGateway(tmp_path, kubeconfig, "--fine-tuning") as gateway,
    ):
        team = Team(plane.kubectl, name)
        team.enable_fine_tuning(data="['s3://data/']")
        gateway.token = team.add_key("ci")
        gateway.wait_for_status(gateway.token, 200)
        with openai_client(gateway) as client:
            jobs = client.fine_tuning.jobs
            made = jobs.create(**request())
            plane.api_server.kill()
            for call in (jobs.list, lambda: jobs.retrieve(made.id), lambda: jobs.create(**request())):
                with pytest.raises(openai.InternalServerError, match="Please try again") as raised:
                    call()
                assert (raised.value.status_code, raised.value.code) == (503, "cluster_unavailable")
                assert raised.value.response.headers["retry-after"] == "2"
            plane.api_server.start()
            plane.wait_until_ready()
            assert [job.id for job in client.with_options(max_retries=9).fine_tuning.jobs.list()] == [made.id]


def test_a_gateway_that_starts_while_the_api_server_is_away(tmp_path: Path, plane):
    """It is not ready, and tells nobody that a key is wrong, until it has read everything."""
    kubeconfig = bind_role(plane)
    with plane.kubectl.namespace(f"team-{secrets.token_hex(3)}") as name:
        token = Team(plane.kubectl, name).add_key("ci")
        plane.api_server.kill()
        with ClusterGateway(tmp_path, kubeconfig) as gateway:
            wait_until(lambda: f"{KEYS.selector} cannot be followed" in gateway.log, lambda: gateway.log)
            assert not gateway.is_ready()
            assert gateway.post(CHAT, question(), token).json()["error"]["code"] == "starting"
            plane.api_server.start()
            plane.wait_until_ready()
            gateway.wait_until_ready()
            gateway.wait_for_status(token, 200)
