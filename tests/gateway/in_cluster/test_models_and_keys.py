"""Models and keys as they are in a cluster: who may ask for what, and how soon a change counts."""

from __future__ import annotations

import json
import secrets as random_secrets
from pathlib import Path

import pytest
from support.gateway_in_cluster import ClusterGateway, endpoint, endpoint_slice
from support.patience import wait_until

from rft_api.conversation_logs import CREDENTIALS_LABEL
from rft_api.gateway_key import KEY_LABEL, Key, make_token, secret_document, token_digest
from rft_gateway.cluster.objects import KEYS

CHAT = "/v1/chat/completions"


def question(model: str = "base", **more: object) -> dict[str, object]:
    return {"model": model, "messages": [{"role": "user", "content": "one two"}], "max_tokens": 3, **more}


def wait_for_models(gateway: ClusterGateway, token: str, *models: str) -> None:
    with gateway.client(token) as client:
        wait_until(
            lambda: [model["id"] for model in client.get("/v1/models").json()["data"]] == list(models),
            lambda: gateway.log,
        )


def wait_for_answer(gateway: ClusterGateway, model: str, status: int) -> None:
    wait_until(lambda: gateway.post(CHAT, question(model)).status_code == status, lambda: gateway.log)


def test_endpoints_and_their_servers_are_followed(gateway, team, pod):
    team.add_base("base")
    team.add_adapter("tax", "base")
    wait_for_models(gateway, gateway.token, "base", "tax")
    assert gateway.post(CHAT, question()).status_code == 503
    team.set_servers("base", pod.port, ready=False)
    team.set_ready("base", "False", "Unschedulable", "pod base-0: 0/3 nodes have 8 GPUs")
    team.set_servers("base", pod.port)
    for model in ("base", "tax"):
        wait_for_answer(gateway, model, 200)
    assert gateway.entries()[-1]["base"] == "base"
    team.remove_servers("base")
    wait_for_answer(gateway, "base", 503)
    team("delete", "inferenceendpoint", "tax")
    wait_for_models(gateway, gateway.token, "base")
    assert gateway.post(CHAT, question("tax")).status_code == 404


def test_slices_of_others_are_no_servers(gateway, team, pod):
    """Those without the operator's labels, and those of another Service."""
    team.add_base("base")
    team.add_base("other")
    foreign = endpoint_slice("base", pod.port)
    del foreign["metadata"]["labels"]["app.kubernetes.io/managed-by"]
    unnamed = endpoint_slice("base", pod.port, number=1)
    unnamed["ports"] = [{"name": "loader", "port": pod.port}]
    team.apply(foreign, unnamed)
    team.set_servers("other", pod.port, number=2)
    pod.models.append("other")
    wait_for_answer(gateway, "other", 200)
    assert gateway.post(CHAT, question()).status_code == 503


def test_a_key_opens_its_namespace_only_and_is_revoked_at_once(gateway, team, other_team, pod):
    team.add_base("base")
    team.set_servers("base", pod.port)
    foreign, named = other_team.add_key("ci"), team.add_key("named", models=("other",))
    for token in (foreign, named):
        gateway.wait_for_status(token, 200)
        assert gateway.post(CHAT, question(), token).status_code == 404
    wait_for_answer(gateway, "base", 200)
    team("delete", "secret", "ci")
    gateway.wait_for_status(gateway.token, 401)
    gateway.wait_for_status(named, 200)
    changed = make_token()
    team.apply(secret_document(Key("named", team.namespace, token_digest(changed))))
    gateway.wait_for_status(named, 401)
    gateway.wait_for_status(changed, 200)


def test_a_key_whose_secret_waits_for_a_finalizer_is_revoked(gateway, team):
    token = make_token()
    secret = secret_document(Key("held", team.namespace, token_digest(token)))
    secret["metadata"]["finalizers"] = ["example.com/keep"]
    team.apply(secret)
    gateway.wait_for_status(token, 200)
    team("delete", "secret", "held", "--wait=false")
    gateway.wait_for_status(token, 401)
    assert team.read("secret", "held")["metadata"]["deletionTimestamp"]
    team("patch", "secret", "held", "--type=merge", '--patch={"metadata": {"finalizers": []}}')


def test_a_label_that_is_taken_away_revokes(gateway, team):
    token = team.add_key("labelled")
    gateway.wait_for_status(token, 200)
    team("label", "secret", "labelled", f"{KEY_LABEL}-")
    gateway.wait_for_status(token, 401)


def test_a_digest_that_two_namespaces_have_opens_nothing(gateway, team, other_team):
    """Otherwise a copy could draw the prompts of the key's clients to other servers."""
    other_team.apply(secret_document(Key("a-copy", other_team.namespace, token_digest(gateway.token))))
    gateway.wait_for_status(gateway.token, 401)
    wait_until(lambda: f"Secret {other_team.namespace}/a-copy: digest" in gateway.log)
    other_team("delete", "secret", "a-copy")
    gateway.wait_for_status(gateway.token, 200)


def test_a_wrong_object_closes_only_itself_and_is_said_once(gateway, team):
    """What the API server lets through is looked at again."""
    token, secret_key = make_token(), random_secrets.token_hex(20)
    wrong = secret_document(Key("wrong", team.namespace, token_digest(token)))
    wrong["stringData"]["tokensPerDay"] = secret_key
    labels = {"app.kubernetes.io/managed-by": "rft-operator", "app.kubernetes.io/component": "server"}
    credentials = {"name": "s3", "labels": {CREDENTIALS_LABEL: "true"}}
    team.apply(
        wrong,
        {**endpoint_slice("base", 8000), "metadata": {"name": "x", "labels": labels}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": credentials, "stringData": {"AWS_SECRET_KEY": secret_key}},
    )
    messages = [
        f"Secret {team.namespace}/wrong: data.tokensPerDay: must be a whole number of at least 1 in digits",
        f"EndpointSlice {team.namespace}/x: metadata.labels: kubernetes.io/service-name is required",
        f"Secret {team.namespace}/s3: data.AWS_ACCESS_KEY_ID: is required in credentials for S3",
    ]
    wait_until(lambda: all(message in gateway.log for message in messages), lambda: gateway.log)
    # Others change, and they themselves in what is not wrong.
    for kind, name in (("secret", "wrong"), ("endpointslice", "x"), ("secret", "s3")):
        team("annotate", kind, name, "note=again")
    team.apply({**wrong, "metadata": {**wrong["metadata"], "name": "later"}})
    team.add_base("base")
    wait_until(lambda: f"Secret {team.namespace}/later: data.tokensPerDay" in gateway.log, lambda: gateway.log)
    wait_for_models(gateway, gateway.token, "base")
    gateway.wait_for_status(token, 401)
    assert [gateway.log.count(message) for message in messages] == [1, 1, 1]
    assert token not in gateway.log
    assert secret_key not in gateway.log


def test_only_the_namespaces_that_are_named_count(tmp_path: Path, kubeconfig, team, other_team):
    with ClusterGateway(tmp_path, kubeconfig, "--namespaces", team.namespace) as gateway:
        gateway.wait_until_ready()
        inside, outside = team.add_key("ci"), other_team.add_key("ci")
        gateway.wait_for_status(inside, 200)
        gateway.wait_for_status(outside, 401)


def test_a_gateway_that_may_not_read_secrets_is_never_ready(tmp_path: Path, api_server, team):
    """Its clients are not told that their keys are wrong."""
    if not hasattr(api_server, "authority"):
        return  # the cluster is not ours: nobody has fewer rights
    name = f"nobody-{random_secrets.token_hex(3)}"
    nobody = api_server.write_kubeconfig(name, api_server.authority.issue(name))
    with ClusterGateway(tmp_path, nobody) as gateway:
        wait_until(lambda: f"secrets with {KEYS.selector} cannot be followed" in gateway.log)
        assert not gateway.is_ready()
        answer = gateway.post(CHAT, question(), make_token())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "starting")
        assert gateway.log.count(f"secrets with {KEYS.selector} cannot be followed") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no configuration of a cluster"),
        (("--routes", "routes.json"), "--kubernetes takes the place of --routes and --keys; leave them out"),
        (("--namespaces", "a,,b"), "must be names of namespaces with commas between them"),
    ],
)
def test_what_the_command_line_needs(tmp_path: Path, arguments, message):
    gateway = ClusterGateway(tmp_path, tmp_path / "nothing", *arguments)
    code, log = gateway.run()
    assert code != 0
    assert message in log
    assert "Traceback" not in log
    assert "Warning" not in log  # of the client, which finds no kubeconfig


def test_an_endpoint_that_nothing_can_parse_closes_only_itself(gateway, team):
    """The API server stores what is nested ten times as deeply as programs read."""
    team.add_base("base")
    wait_for_models(gateway, gateway.token, "base")
    manifest = endpoint("deep", {"model": {"uri": "s3://models/base"}, "serving": {"pod": {"affinity": None}}})
    text = json.dumps(manifest).replace("null", '{"a":' * 3000 + "{}" + "}" * 3000)
    team.kubectl("create", f"--namespace={team.namespace}", "-f", "-", stdin=text)
    wait_until(
        lambda: "inferenceendpoints are nested too deeply or have too many values to be read" in gateway.log,
        lambda: gateway.log,
    )
    team.add_base("later")
    wait_for_models(gateway, gateway.token, "base", "later")
    team("delete", "inferenceendpoint", "deep", "--wait=false")
