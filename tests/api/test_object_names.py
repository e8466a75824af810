"""Names of derived objects: each keeps the rule of its own kind for every name that validation accepts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from support.schema_rules import SPEC

from rft_api import object_names
from rft_api.inference_endpoint import InferenceEndpoint
from rft_api.manifests import ManifestErrors, load_manifests
from rft_api.reward_function import RewardFunction
from rft_api.rft_job import RFTJob

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
"""RFC 1123: the rule for Deployments' and Jobs' pods, ConfigMaps and Secrets with names this short, and labels."""
SERVICE = r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?"
"""RFC 1035: the rule for Services before Kubernetes 1.36."""
LETTER = "the name must begin with a letter, because that of a Service is made from it: put a letter before the digit, "
NAMES = st.from_regex(LABEL, fullmatch=True)


def job(name: str, nodes: int, endpoint: str | None = None) -> RFTJob:
    served = {} if endpoint is None else {"endpoint": {"name": endpoint}}
    spec = {**SPEC, "compute": {"nodes": nodes}, **served}
    return RFTJob.model_validate({"metadata": {"name": name}, "spec": spec})


@given(NAMES, st.integers(0, 10_000), st.sampled_from([1, 2]))
def test_objects_of_a_job(name, attempt, nodes):
    try:
        job(name, nodes)
    except ValidationError:
        assert (nodes, re.fullmatch(SERVICE, object_names.trainer_service(name))) == (2, None)
        return
    if nodes > 1:
        assert re.fullmatch(SERVICE, object_names.trainer_service(name))
    # The host name of the pod with the largest index, and the ConfigMap.
    assert re.fullmatch(LABEL, f"{object_names.training_job(name, attempt)}-1023")
    assert re.fullmatch(LABEL, object_names.run_configuration(name))


@given(NAMES)
def test_objects_of_an_endpoint_of_a_job(name):
    services = [object_names.server(name), object_names.server(object_names.base_endpoint(name))]
    try:
        job("j", 1, endpoint=name)
        InferenceEndpoint.model_validate({"metadata": {"name": name}, "spec": {"model": {"uri": "m"}}})
    except ValidationError:
        assert not all(re.fullmatch(SERVICE, service) for service in services)
        return
    assert all(re.fullmatch(SERVICE, service) for service in services)
    assert re.fullmatch(LABEL, object_names.adapter_list(name))
    assert re.fullmatch(LABEL, object_names.adapter_list(object_names.base_endpoint(name)))


@given(NAMES)
def test_objects_of_a_reward_function(name):
    try:
        RewardFunction.model_validate({"metadata": {"name": name}, "spec": {"builtin": {"name": "Math"}}})
    except ValidationError:
        assert not re.fullmatch(SERVICE, object_names.reward_server(name))
        return
    assert re.fullmatch(SERVICE, object_names.reward_server(name))
    assert re.fullmatch(LABEL, object_names.reward_configuration(name, "0123456789abcdef"))
    assert re.fullmatch(LABEL, object_names.reward_token(name, "01234567-89ab-cdef"))


MANIFESTS = """\
apiVersion: rft.dev/v1alpha1
kind: RewardFunction
metadata:
  name: 2nd-opinion
spec: {builtin: {name: Math}}
---
apiVersion: rft.dev/v1alpha1
kind: InferenceEndpoint
metadata:
  name: 4o-tax
spec: {model: {uri: m}}
---
apiVersion: rft.dev/v1alpha1
kind: RFTJob
metadata:
  name: 2nd-run
spec:
  model: {uri: m}
  data: {train: [{name: a, uri: a, reward: second-opinion}]}
  output: {uri: o}
  compute: {nodes: 2}
  endpoint:
    name: 4o-tax
    baseEndpoint: 4o
"""


def test_names_that_cannot_work_are_refused_with_what_to_do(tmp_path):
    file = Path(tmp_path / "m.yaml")
    file.write_text(MANIFESTS, encoding="utf-8")
    with pytest.raises(ManifestErrors) as raised:
        load_manifests([file])
    assert [str(error).removeprefix(f"{tmp_path}/") for error in raised.value.errors] == [
        f"m.yaml:4: metadata.name: {LETTER}as in v2 for 2",
        f"m.yaml:10: metadata.name: {LETTER}as in v2 for 2",
        f"m.yaml:23: spec.endpoint.name: {LETTER}as in v2 for 2",
        f"m.yaml:24: spec.endpoint.baseEndpoint: {LETTER}as in v2 for 2",
    ]


def test_a_job_with_several_nodes_has_a_service_and_one_with_a_single_node_has_none():
    job("2026-01-31", nodes=1)
    with pytest.raises(ValidationError, match="with several nodes"):
        job("2026-01-31", nodes=2)
