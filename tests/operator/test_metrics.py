"""What the operator publishes of the objects that it looks after."""

from __future__ import annotations

from typing import Any

from rft_operator.kube.store import Key
from rft_operator.reconcile.metrics import Metrics
from rft_operator.resources import RESOURCES

ENDPOINT = Key("InferenceEndpoint", "team", "base")
ADAPTER = Key("InferenceEndpoint", "team", "tax")
REWARD = Key("RewardFunction", "team", "judge")


def ready(status: str, reason: str) -> dict[str, Any]:
    return {"conditions": [{"type": "Ready", "status": status, "reason": reason}]}


def samples(metrics: Metrics) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_endpoints_and_reward_functions_are_published_until_they_are_gone():
    metrics = Metrics(RESOURCES)
    numbers = {"replicas": 2, "autoscale": {"replicas": 3}}
    metrics.update(ENDPOINT, {"model": {"uri": "s3://m"}}, {**ready("True", "Ready"), **numbers})
    metrics.update(ADAPTER, {"baseEndpoint": "base", "adapter": {"uri": "s3://a"}}, ready("False", "AdapterLoading"))
    metrics.update(REWARD, {}, ready("False", "Starting"))
    found = samples(metrics)
    assert [(labels["endpoint"], labels["base"], labels["model"]) for labels, _ in found["rft_endpoint_info"]] == [
        ("base", "", "s3://m"),
        ("tax", "base", "s3://a"),
    ]
    # An adapter has no pods of its own.
    assert found["rft_endpoint_replicas"] == [({"namespace": "team", "endpoint": "base"}, 2)]
    assert found["rft_endpoint_desired_replicas"] == [({"namespace": "team", "endpoint": "base"}, 3)]
    assert [labels["reason"] for labels, _ in found["rft_endpoint_condition"]] == ["Ready", "AdapterLoading"]
    (condition,) = found["rft_reward_function_condition"]
    expected = {
        "namespace": "team",
        "reward_function": "judge",
        "type": "Ready",
        "status": "False",
        "reason": "Starting",
    }
    assert condition == (expected, 1)
    for key in (ENDPOINT, ADAPTER, REWARD):
        metrics.remove(key)
    assert not {name for name in samples(metrics) if name.startswith(("rft_endpoint", "rft_reward_function"))}
