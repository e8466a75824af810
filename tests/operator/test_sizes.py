"""Specs and lists that are too large for the ConfigMap that the operator makes from them: nothing is applied."""

from __future__ import annotations

from typing import Any

from views import ADAPTER, NOW, endpoint
from worlds_from_yaml import SETTINGS, plan_objects

from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import InferenceEndpointWorld

METADATA = {"namespace": "team", "uid": "uid", "resourceVersion": "1", "generation": 1}


def test_the_spec_of_a_job_is_named():
    head = {"apiVersion": "rft.dev/v1alpha1"}
    reward: dict[str, Any] = {
        **head, "kind": "RewardFunction", "metadata": {"name": "r", **METADATA}, "spec": {"builtin": {"name": "Math"}},
    }  # fmt: skip
    job = {
        **head, "kind": "RFTJob", "metadata": {"name": "j", **METADATA},
        "spec": {
            "model": {"uri": "s3://m/base"},
            "data": {"train": [{"name": "a", "uri": "s3://d/a", "reward": "r"}]},
            "output": {"uri": "s3://o/j"},
            "compute": {"gpusPerNode": 0, "pod": {"env": [{"name": "A", "value": "x" * 1_100_000}]}},
        },
    }  # fmt: skip
    plan = plan_objects("RFTJob/team/j", [reward, job], "2026-01-31T12:00:00Z")
    (accepted,) = [c for c in plan.status["conditions"] if c["type"] == "SpecAccepted"]
    assert accepted["reason"] == "ConfigurationInvalid"
    assert accepted["message"].startswith(
        "spec.compute.pod.env[0].value: has 1,100,002 bytes as JSON, and the ConfigMap"
    )
    assert list(plan.desired) == []


def test_the_number_of_adapters_of_an_endpoint_is_named():
    base = endpoint("base", model={"uri": "s3://m/x"}, serving={"adapterSources": ["s3://a"]})
    uri = f"s3://a/{'x' * 1015}"
    adapters = [endpoint(f"a{number}", baseEndpoint="base", adapter={"uri": uri}) for number in range(1000)]
    world = InferenceEndpointWorld(
        endpoint=base, base=None, adapters=adapters, deployment=None, pods=[], answers={}, now=NOW
    )
    plan = plan_inference_endpoint(world, SETTINGS)
    (condition,) = plan.status["conditions"]
    assert condition["reason"] == "ConfigurationInvalid"
    assert condition["message"].startswith("the list of the 1000 InferenceEndpoints with this baseEndpoint has 1,0")
    assert list(plan.desired) == []
    few = InferenceEndpointWorld(
        endpoint=base, base=None, adapters=[ADAPTER], deployment=None, pods=[], answers={}, now=NOW
    )
    assert len(plan_inference_endpoint(few, SETTINGS).desired) == 3
