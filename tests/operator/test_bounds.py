"""What manifests ask of pods and the network beyond the bounds is refused before anything is created."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from worlds_from_yaml import plan_objects

from rft_api.bounds import Bounds, denied_parts, egress_violations, pod_violations
from rft_api.resource import PodOverrides
from rft_api.reward_function import Egress

TOKEN = {"serviceAccountToken": {"path": "t"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "spec.pod.volumes[0]: hostPath is not allowed"),
    ({"volumes": [{"name": "a", "csi": {"driver": "d"}}]}, "csi is not allowed"),
    ({"volumes": [{"name": "a", "emptyDir": {}, "hostPath": {"path": "/"}}]}, "hostPath is not allowed"),
    ({"volumes": [{"name": "a", "projected": {"sources": [TOKEN]}}]}, "sources[0]: serviceAccountToken is not"),
    ({"volumes": [{"name": "a", "projected": {"sources": [{"secret": {}}, TOKEN]}}]}, "sources[1]"),
    ({"volumes": [{"name": "a", "projected": {"sources": [TOKEN] * 65}}]}, "sources: has 65 sources"),
    ({"serviceAccountName": "admin"}, "spec.pod.serviceAccountName: admin is not allowed"),
    ({"priorityClassName": "system-node-critical"}, "spec.pod.priorityClassName: system-node-critical"),
    ({"tolerations": [{"operator": "Exists"}]}, "without a key is for every taint"),
    ({"tolerations": [{"key": "node-role.kubernetes.io/control-plane"}]}, "spec.pod.tolerations[0].key"),
    ({"tolerations": [{"key": 5}]}, "must be a text"),
    ({"tolerations": [{"key": False}]}, "must be a text"),
    ({"annotations": {"container.apparmor.security.beta.kubernetes.io/x": "unconfined"}}, "weaken"),
]


@pytest.mark.parametrize(("pod", "message"), REFUSED)
def test_settings_of_pods_beyond_the_default_bounds_are_refused(pod, message):
    [violation] = pod_violations(PodOverrides.model_validate(pod), Bounds(), ("spec", "pod"))
    assert message in str(violation)


@pytest.mark.parametrize(
    ("image", "allowed"),
    [
        ("registry.example.com/team/x:1", True),
        ("registry.example.com/team@sha256:0", True),
        ("registry.example.com/teamx/x:1", False),
        ("registry.example.com:5000/team/x", False),
        ("registry.example.com.evil.example/team/x", False),
        ("team/x", False),
        ("ubuntu", False),
    ],
)
def test_prefixes_of_images_are_compared_by_whole_parts(image, allowed):
    bounds = Bounds(image_prefixes=["registry.example.com/team/"])
    assert (not list(pod_violations(PodOverrides(image=image), bounds, ("spec", "pod")))) is allowed


@pytest.mark.parametrize(
    "cidr", ["169.254.169.254/32", "127.0.0.1/32", "fd00:ec2::254/128", "fe80::/64", "64:ff9b::a9fe:a9fe/128"]
)
def test_destinations_that_are_denied_are_refused(cidr):
    [violation] = egress_violations([Egress(cidr=cidr)], Bounds().egress, ("spec", "egress"))
    assert str(violation).startswith(f"spec.egress[0].cidr: {cidr} is denied")


@pytest.mark.parametrize("cidr", ["0.0.0.0/0", "128.0.0.0/1", "169.0.0.0/8"])
def test_a_larger_range_leaves_out_the_metadata_address(cidr):
    assert "169.254.0.0/16" in denied_parts(cidr, Bounds().egress)


@pytest.mark.parametrize("field", ["initContainers", "securityContext", "hostNetwork", "nodeName", "envFrom"])
def test_other_fields_of_pods_are_unknown(field):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        PodOverrides.model_validate({field: True})


def test_the_values_of_the_chart_are_the_defaults():
    values = yaml.safe_load((Path(__file__).parents[2] / "charts/rft-operator/values.yaml").read_text(encoding="utf-8"))
    assert values["bounds"] == Bounds().to_json_object()


@pytest.mark.parametrize(
    ("kind", "spec", "place"),
    [
        ("RewardFunction", {"builtin": {"name": "Math"}, "pod": {"serviceAccountName": "x"}}, "spec.pod"),
        ("RewardFunction", {"builtin": {"name": "Math"}, "egress": [{"cidr": "127.0.0.0/8"}]}, "spec.egress[0].cidr"),
        (
            "InferenceEndpoint",
            {"model": {"uri": "s3://m/x"}, "serving": {"pod": {"serviceAccountName": "x"}}},
            "spec.serving.pod",
        ),
        (
            "RFTJob",
            {
                "model": {"uri": "s3://m/x"},
                "data": {"train": [{"name": "a", "uri": "s3://d/a.jsonl", "reward": "r"}]},
                "output": {"uri": "s3://m/o"},
                "compute": {"pod": {"serviceAccountName": "x"}},
            },
            "spec.compute.pod",
        ),
    ],
)
def test_the_condition_names_the_field_and_nothing_is_created(kind, spec, place):
    metadata = {"name": "x", "namespace": "team", "uid": "uid-of-x", "generation": 1, "resourceVersion": "1"}
    manifest = {"apiVersion": "rft.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}
    plan = plan_objects(f"{kind}/team/x", [manifest], "2026-01-31T12:00:00Z")
    refused = [c for c in plan.status["conditions"] if c["reason"] == "ConfigurationInvalid"]
    assert refused
    assert refused[0]["message"].startswith(place)
    assert not plan.desired
