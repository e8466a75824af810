"""What the gateway takes of the cluster's objects: which servers a model has, and what its condition says."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from support.gateway_in_cluster import endpoint, endpoint_slice

from rft_api.gateway_key import Key, KeyData, secret_document
from rft_api.model import camel
from rft_gateway.cluster.objects import (
    credentials_bytes,
    endpoint_bytes,
    key_bytes,
    make_routes,
    merge_dated_keys,
    read_credentials,
    read_endpoint,
    read_key,
    read_slice,
    slice_bytes,
)
from rft_gateway.routes import EndpointState

MODEL = {"model": {"uri": "s3://models/base"}}
ADAPTER = {"baseEndpoint": "base", "adapter": {"uri": "s3://models/adapter"}}
AUTOSCALE = {**MODEL, "autoscale": {"minimum": 0}, "coldStart": {"queue": 3, "timeout": "1m30s"}}
INVALID = ("False", "ModelInvalid", "config.json is missing")


def stored(name: str, spec: dict[str, Any], ready: tuple[str, str, str] | None = None, seen: int = 1) -> dict[str, Any]:
    item = endpoint(name, spec)
    item["metadata"] |= {"namespace": "team", "generation": 1}
    if ready is not None:
        status, reason, message = ready
        condition = {"type": "Ready", "status": status, "reason": reason, "message": message}
        item["status"] = {"conditions": [{"type": "Fits", "status": "True"}, {**condition, "observedGeneration": seen}]}
    return item


def part(*pods: dict[str, Any], number: int = 0, family: str = "IPv4", **more: Any) -> dict[str, Any]:
    item = {**endpoint_slice("base", 8000, number=number), "addressType": family, "endpoints": list(pods), **more}
    item["metadata"]["namespace"] = "team"
    return item


def pod(address: str, **conditions: bool) -> dict[str, Any]:
    return {"addresses": [address], "conditions": conditions}


def routes_of(endpoints: list[dict[str, Any]], slices: list[dict[str, Any]]):
    return make_routes(map(read_endpoint, endpoints), map(read_slice, slices))


@pytest.mark.parametrize(
    ("slices", "servers", "pods"),
    [
        ([], [], 0),
        ([part()], [], 0),
        ([part(pod("10.0.0.1"))], ["http://10.0.0.1:8000"], 1),
        ([part(pod("10.0.0.1", ready=False))], [], 1),
        ([part(pod("10.0.0.1", ready=True, terminating=True))], [], 0),
        ([part(pod("10.0.0.2", ready=True, serving=True), pod("10.0.0.1"))],
         ["http://10.0.0.1:8000", "http://10.0.0.2:8000"], 2),
        ([part(pod("10.0.0.1")), part(pod("10.0.0.1"), pod("10.0.0.2"), number=1)],
         ["http://10.0.0.1:8000", "http://10.0.0.2:8000"], 3),
        ([part(pod("fd00::1"), family="IPv6")], ["http://[fd00::1]:8000"], 1),
        ([part(pod("fd00::1"), family="IPv6"), part(pod("10.0.0.1"), number=1)], ["http://10.0.0.1:8000"], 1),
        ([part(pod("example.com"), family="FQDN")], [], 0),
        ([part(pod("10.0.0.1"), ports=[{"name": "loader", "port": 8081}])], [], 1),
        ([part(pod("10.0.0.1"), ports=None)], [], 1),
        ([part(endpoints=None)], [], 0),
        ([{**part(pod("10.0.0.1")), "metadata": {**part()["metadata"], "namespace": "other"}}], [], 0),
    ],
)  # fmt: skip
def test_servers_of_a_model(slices, servers, pods):
    routes, states = routes_of([stored("base", MODEL), stored("tax", ADAPTER)], slices)
    assert {route.model: route.base for route in routes} == {"base": "base", "tax": "base"}
    for route in routes:
        assert route.servers == servers
        assert (route.namespace, route.served_model) == ("team", route.model)
        assert states["team", route.model].pods == pods


@pytest.mark.parametrize(
    ("base", "adapter", "state"),
    [
        (stored("base", MODEL), stored("tax", ADAPTER), EndpointState(False, 256, 600)),
        (stored("base", AUTOSCALE), stored("tax", ADAPTER), EndpointState(True, 3, 90)),
        (stored("base", AUTOSCALE, INVALID), stored("tax", ADAPTER, ("False", "BaseNotReady", "no pod is ready")),
         EndpointState(True, 3, 90, 0, False, "ModelInvalid", "config.json is missing")),
        (stored("base", AUTOSCALE, ("True", "Ready", "")), stored("tax", ADAPTER, ("False", "AdapterRejected", "rank")),
         EndpointState(True, 3, 90, 0, False, "AdapterRejected", "rank")),
        (stored("base", AUTOSCALE, ("True", "Ready", "")), stored("tax", ADAPTER, ("True", "Ready", "")),
         EndpointState(True, 3, 90, 0, True)),
        # what the operator has said of an older spec tells nothing
        (stored("base", AUTOSCALE, INVALID, seen=0), stored("tax", ADAPTER), EndpointState(True, 3, 90)),
        (stored("other", AUTOSCALE), stored("tax", ADAPTER, ("False", "BaseMissing", "base does not exist")),
         EndpointState(reason="BaseMissing", message="base does not exist")),
        (stored("base", {"baseEndpoint": "x", "adapter": {"uri": "s3://a"}}), stored("tax", ADAPTER), EndpointState()),
    ],
)  # fmt: skip
def test_the_state_of_an_adapter_is_that_of_its_base_first(base, adapter, state):
    _, states = routes_of([base, adapter], [])
    assert states["team", "tax"] == state


def test_an_adapter_costs_what_its_base_costs_unless_it_has_a_price():
    cheap, dear = ({"promptTokens": amount, "completionTokens": amount} for amount in ("0.1", "2"))
    endpoints = [
        stored("base", {**MODEL, "price": cheap}),
        stored("tax", ADAPTER),
        stored("own", {**ADAPTER, "price": dear}),
        stored("free", MODEL),
    ]
    routes, _ = routes_of(endpoints, [])
    prices = {route.model: route.price and route.price.prompt_tokens for route in routes}
    assert prices == {"base": "0.1", "tax": "0.1", "own": "2", "free": None}


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (stored("base", {**MODEL, "coldStart": {"queue": -1}}), "spec.coldStart.queue: "),
        (stored("base", {**MODEL, "coldStart": {"timeout": "soon"}}), "spec.coldStart.timeout: "),
        (stored("base", {**MODEL, "baseEndpoint": ["x"]}), "spec.baseEndpoint: "),
        ({"metadata": {"name": "base", "namespace": "team"}}, "spec: is required"),
        (stored("base", MODEL) | {"status": {"conditions": [{}] * 33}}, "status.conditions: "),
    ],
)
def test_an_endpoint_that_is_wrong_says_which_field(item, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.")):
        read_endpoint(item)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ports": [{"name": "http", "port": 65536}]}, "ports.0..port: "),
        ({"endpoints": [{"addresses": []}]}, "endpoints.0..addresses: "),
        ({"endpoints": [{"addresses": ["host/path"]}]}, "does not appear to be an IPv4 or IPv6 address"),
        ({"metadata": {"name": "x", "namespace": "team"}}, "kubernetes.io/service-name is required"),
        ({"addressType": "IPX"}, "addressType: "),
    ],
)
def test_a_slice_that_is_wrong_says_which_field(change, message):
    with pytest.raises(ValueError, match=message):
        read_slice(part(pod("10.0.0.1")) | change)


def test_fields_of_a_newer_definition_are_ignored():
    item = stored("base", {**AUTOSCALE, "new": 1, "coldStart": {"queue": 3, "timeout": "1m30s", "new": 1}})
    item["status"] = {"new": {}, "conditions": [{"type": "Ready", "status": "True", "new": 1}]}
    assert read_endpoint(item).queue == 3
    assert read_slice(part(pod("10.0.0.1")) | {"new": 1}).pods == 1


def key_secret(namespace: str, name: str, created: str, digest: str = "0" * 64) -> dict[str, Any]:
    item = secret_document(Key(name, namespace, digest))
    item["metadata"]["creationTimestamp"] = created
    return item


def test_of_the_same_digest_in_a_namespace_the_older_secret_counts():
    copy, original = (key_secret("team", name, f"2026-0{month}-01T00:00:00Z") for name, month in (("a", 2), ("z", 1)))
    other = key_secret("b", "ci", "2026-03-01T00:00:00Z", "1" * 64)
    keys, errors = merge_dated_keys(map(read_key, [copy, original, other]))
    assert [key.name for key in keys] == ["z", "ci"]
    assert errors == ["Secret team/a: digest: key a of namespace team has the digest of a key in Secret team/z"]


def test_a_digest_that_another_namespace_has_copied_leads_nobody_to_that_namespace():
    # the copy is in a Secret that is older than the key: its data was changed
    copy, original = key_secret("thief", "ci", "2026-01-01T00:00:00Z"), key_secret("team", "ci", "2026-02-01T00:00:00Z")
    other = key_secret("thief", "other", "2026-01-01T00:00:00Z", "1" * 64)
    keys, errors = merge_dated_keys(map(read_key, [copy, original, other]))
    assert [key.name for key in keys] == ["other"]
    assert [error.partition(":")[0] for error in errors] == ["Secret thief/ci", "Secret team/ci"]
    assert "namespaces team, thief" in errors[0]


def test_a_model_has_the_log_of_its_own_endpoint():
    logs = {"uri": "s3://production/tax", "fraction": "0.5", "credentials": {"secretName": "s3"}, "newer": 1}
    routes, _ = routes_of([stored("base", MODEL), stored("tax", {**ADAPTER, "logs": logs})], [])
    by_name = {route.model: route.logs for route in routes}
    assert by_name["base"] is None
    assert (by_name["tax"].uri, by_name["tax"].fraction) == ("s3://production/tax", 0.5)
    assert by_name["tax"].credentials.secret_name == "s3"


def encoded(**values: str) -> dict[str, Any]:
    return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}}


def test_credentials_of_logs_are_those_of_s3():
    needed = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
    secret = encoded(**needed, AWS_ENDPOINT_URL="http://minio:9000\n", HF_TOKEN="hf")
    assert read_credentials(secret) == {**needed, "AWS_ENDPOINT_URL": "http://minio:9000"}
    for item, message in (
        ({}, "data.AWS_ACCESS_KEY_ID: is required"),
        (encoded(AWS_ACCESS_KEY_ID="id"), "data.AWS_SECRET_ACCESS_KEY: is required"),
        ({"data": {"AWS_ACCESS_KEY_ID": "?"}}, "data.AWS_ACCESS_KEY_ID: is not text in base64"),
    ):
        with pytest.raises(ValueError, match=message):
            read_credentials(item)


@pytest.mark.parametrize("value", [b"x7Qp secret", b"\xffx7Qp", b"x7Qp\n" * 1000, b"x7Qp,,"])
@pytest.mark.parametrize("write", [base64.b64encode, bytes], ids=["in base64", "plain"])
def test_what_is_wrong_with_a_secret_is_said_without_its_values(value, write):
    """The message comes into the log, and a value may be a token or the key of an account."""
    text = write(value).decode("latin1")
    for name in (*map(camel, KeyData.model_fields), "unknown"):
        item = secret_document(Key("ci", "team", "a" * 64))
        item["stringData"].pop(name, None)
        assert_is_hidden(text, read_key, {**item, "data": {name: text}})
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        assert_is_hidden(text, read_credentials, {"data": {name: text}})


def assert_is_hidden(value: str, read: Callable[[dict[str, Any]], object], item: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as told:  # noqa: PT011 - the message is looked at below
        read(item)
    assert value not in str(told.value)
    assert "x7Qp" not in str(told.value)


def test_a_credential_of_any_length_is_refused_before_it_is_read():
    data = {name: base64.b64encode(b"x").decode() for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    with pytest.raises(ValueError, match=r"data\.AWS_SESSION_TOKEN: is longer than 16 KiB, and no credential is"):
        read_credentials({"data": {**data, "AWS_SESSION_TOKEN": "eHh4" * 5000}})


def test_what_an_object_takes_grows_with_what_is_kept_of_it():
    digest = base64.b64encode(b"0" * 64).decode()

    def key(models: str) -> dict[str, Any]:
        secret = secret_document(Key("ci", "team", "0" * 64))
        return {**secret, "data": {"digest": digest, "models": base64.b64encode(models.encode()).decode()}}

    logs = {"uri": "s3://bucket/logs", "credentials": {"secretName": "s"}}
    redact = {"patterns": [{"pattern": "x" * 1000}] * 64}
    pods = [pod(f"10.0.{number >> 8}.{number & 255}") for number in range(1000)]
    pairs = [
        (key_bytes, read_key(key("a")), read_key(key(",".join(f"model-{number}" for number in range(1000)))), 70_000),
        (slice_bytes, read_slice(part()), read_slice(part(*pods)), 60_000),
        (
            endpoint_bytes,
            read_endpoint(stored("a", MODEL)),
            read_endpoint(stored("a", {**MODEL, "logs": {**logs, "redact": redact}})),
            64_000,
        ),
        (credentials_bytes, {"a": ""}, {"a": "x" * 10_000}, 10_000),
    ]
    for size, small, large, least in pairs:
        assert size(small) < 4096
        assert size(large) - size(small) >= least
