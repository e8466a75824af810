"""A base endpoint serves adapters from the places that it names, and nothing that an adapter says changes its pods."""

from __future__ import annotations

import json

import pytest
from views import NOW, endpoint
from worlds_from_yaml import SETTINGS

from rft_api.inference_endpoint import InferenceEndpoint, Serving
from rft_operator.inference_endpoint.plan import plan_inference_endpoint
from rft_operator.inference_endpoint.world import InferenceEndpointWorld

SOURCES = {
    "the folder itself": ("s3://runs/tax", "s3://runs/tax", True),
    "below it": ("s3://runs/tax", "s3://runs/tax/best", True),
    "a slash at the end": ("s3://runs/tax/", "s3://runs/tax", True),
    "the whole bucket": ("s3://runs", "s3://runs/any/best", True),
    "a claim": ("pvc://runs", "pvc://runs/tax/best", True),
    "a folder of a claim": ("pvc://runs/tax", "pvc://runs/tax/best", True),
    "a longer name": ("s3://runs/tax", "s3://runs/taxes/best", False),
    "a longer bucket": ("s3://runs", "s3://runs-of-payroll/best", False),
    "a longer claim": ("pvc://runs", "pvc://runs-of-payroll/best", False),
    "above it": ("s3://runs/tax", "s3://runs", False),
    "another bucket": ("s3://runs", "s3://payroll/best", False),
    "a claim with the name of a bucket": ("s3://runs", "pvc://runs/best", False),
    "another case": ("s3://runs", "S3://runs/best", False),
    "out of it by its parent": ("s3://runs/tax", "s3://runs/tax/../../payroll", False),
    "out of a claim's folder by its parent": ("pvc://runs/tax", "pvc://runs/tax/../law", False),
    "no place at all": (None, "s3://runs/tax", False),
}


@pytest.mark.parametrize("case", SOURCES)
def test_adapters_come_from_the_named_places_only(case):
    source, uri, admitted = SOURCES[case]
    base = endpoint("base", model={"uri": "s3://m/x"}, serving={"adapterSources": [source] if source else []})
    adapter = endpoint("x", baseEndpoint="base", adapter={"uri": uri})
    assert _listed(base, adapter) == ([uri.replace("pvc://", "/mnt/rft/pvc/")] if admitted else [])
    problem = _message(adapter, base)
    assert ("ConfigurationInvalid" in problem) is not admitted
    if not admitted:
        assert "spec.adapter.uri" in problem


@pytest.mark.parametrize(
    "uri",
    ["pvc://does-not-exist/x", "pvc://runs-of-payroll/x", "s3://payroll/x", "hf://a/b", "/etc", "pvc://../x", "x"],
)
def test_an_adapter_changes_nothing_of_the_pods_of_its_base(uri):
    serving = {"adapterSources": ["pvc://runs/tax", "s3://runs"]}
    base = endpoint("base", model={"uri": "s3://m/x"}, serving=serving, credentials={"secretName": "s"})
    alone = _deployment(base)
    assert alone == _deployment(base, endpoint("x", baseEndpoint="base", adapter={"uri": uri}))
    claims = [
        volume["persistentVolumeClaim"]["claimName"]
        for volume in alone["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    ]
    assert claims == ["runs"]


@pytest.mark.parametrize("source", ["runs", "/runs", "hf://a/b", "s3://", "pvc://", "s3:/runs", "*", "s3://a b", ""])
def test_a_place_is_a_bucket_or_a_claim(source):
    with pytest.raises(ValueError, match="adapterSources"):
        Serving.model_validate({"adapterSources": [source]})


def _world(of: InferenceEndpoint, base: InferenceEndpoint | None, *adapters: InferenceEndpoint):
    return InferenceEndpointWorld(
        endpoint=of, base=base, adapters=adapters, deployment=None, pods=[], answers={}, now=NOW
    )


def _objects(base: InferenceEndpoint, *adapters: InferenceEndpoint) -> dict[str, dict]:
    plan = plan_inference_endpoint(_world(base, None, *adapters), SETTINGS)
    return {desired.object["kind"]: desired.object for desired in plan.desired}


def _listed(base: InferenceEndpoint, *adapters: InferenceEndpoint) -> list[str]:
    data = json.loads(_objects(base, *adapters)["ConfigMap"]["data"]["adapters.json"])
    return [adapter["uri"] for adapter in data["adapters"]]


def _deployment(base: InferenceEndpoint, *adapters: InferenceEndpoint) -> dict:
    return _objects(base, *adapters)["Deployment"]


def _message(adapter: InferenceEndpoint, base: InferenceEndpoint) -> str:
    (condition,) = plan_inference_endpoint(_world(adapter, base), SETTINGS).status["conditions"]
    return f"{condition['reason']}: {condition['message']}"
