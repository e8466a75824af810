"""The CRDs on a real API server: what it stores, refuses, shows and scales."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.schema_rules import RULES

from cluster.control_plane import Cluster
from cluster.kubectl import CRDS, Kubectl, Manifest
from rft_api.builtin_penalties import LengthPenaltyReward
from rft_api.builtin_reward import BuiltinReward
from rft_api.builtin_table import FormatReward
from rft_api.crd import build_crds
from rft_api.inference_endpoint import Autoscale, InferenceEndpoint, InferenceEndpointSpec, Serving
from rft_api.invocation_log import FeedbackFilter, InvocationLog, MetadataFilter, MetadataFilters
from rft_api.manifests import load_manifests
from rft_api.model import Model
from rft_api.remote_reward import HttpReward, JudgeModel, JudgeReward
from rft_api.reward_function import (
    CombineReward,
    CombineTerm,
    Expectation,
    OpenAIReward,
    PythonReward,
    RewardFunction,
    RewardFunctionSpec,
    SourceFrom,
)
from rft_api.rft_job import Compute, RFTJob, RFTJobSpec
from rft_api.sampling import EvaluationSettings, Sampling
from rft_api.sources import Data, DataSource, WarmupSource
from rft_api.trackers import Tracker
from rft_api.training import DeepSpeed, Hyperparameters
from rft_api.tuning import Tuning
from rft_api.warmup import Warmup

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*/*.yaml"))
JOB: dict[str, Any] = {
    "model": {"uri": "s3://models/base"},
    "data": {"train": [{"name": "a", "uri": "s3://data/a.jsonl", "reward": "r"}]},
    "output": {"uri": "s3://models/out"},
}
LOGS = {**JOB["data"]["train"][0], "format": "BedrockInvocationLog"}
REWARD = {"builtin": {"name": "Math"}}
ENDPOINT = {"model": {"uri": "s3://models/base"}}
SPECS = {"RFTJob": JOB, "RewardFunction": REWARD, "InferenceEndpoint": ENDPOINT}


def manifest(kind: str, spec: dict[str, Any], name: str = "x") -> Manifest:
    return {"apiVersion": "rft.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


# Where in a manifest each model's fragment stands.
PLACES: dict[type[Model], Callable[[Any], Manifest]] = {
    Data: lambda part: manifest("RFTJob", {**JOB, "data": part}),
    DataSource: lambda part: manifest("RFTJob", {**JOB, "data": {"train": [part]}}),
    InvocationLog: lambda part: manifest("RFTJob", {**JOB, "data": {"train": [{**LOGS, "invocationLog": part}]}}),
    FeedbackFilter: lambda part: PLACES[InvocationLog]({"feedback": part}),
    MetadataFilters: lambda part: PLACES[InvocationLog]({"requestMetadataFilters": part}),
    MetadataFilter: lambda part: PLACES[MetadataFilters]({"andAll": [part]}),
    Warmup: lambda part: manifest("RFTJob", {**JOB, "warmup": part}),
    WarmupSource: lambda part: manifest("RFTJob", {**JOB, "warmup": {"data": [part]}}),
    Hyperparameters: lambda part: manifest("RFTJob", {**JOB, "hyperparameters": part}),
    Sampling: lambda part: manifest("RFTJob", {**JOB, "sampling": part}),
    EvaluationSettings: lambda part: manifest("RFTJob", {**JOB, "evaluation": part}),
    Tuning: lambda part: manifest("RFTJob", {**JOB, "tuning": part}),
    DeepSpeed: lambda part: manifest("RFTJob", {**JOB, "compute": {"deepspeed": part}}),
    Compute: lambda part: manifest("RFTJob", {**JOB, "compute": part}),
    Tracker: lambda part: manifest("RFTJob", {**JOB, "trackers": [part]}),
    RFTJobSpec: lambda part: manifest("RFTJob", part),
    PythonReward: lambda part: manifest("RewardFunction", {"python": part}),
    SourceFrom: lambda part: manifest("RewardFunction", {"python": {"sourceFrom": part}}),
    FormatReward: lambda part: manifest("RewardFunction", {"builtin": {"name": "Format", "format": part}}),
    LengthPenaltyReward: lambda part: manifest(
        "RewardFunction", {"builtin": {"name": "LengthPenalty", "lengthPenalty": part}}
    ),
    BuiltinReward: lambda part: manifest("RewardFunction", {"builtin": part}),
    JudgeModel: lambda part: manifest("RewardFunction", {"judge": {"template": "Reasoning", "model": part}}),
    JudgeReward: lambda part: manifest("RewardFunction", {"judge": part}),
    HttpReward: lambda part: manifest("RewardFunction", {"http": part}),
    OpenAIReward: lambda part: manifest("RewardFunction", {"openai": part}),
    CombineTerm: lambda part: manifest("RewardFunction", {"combine": {"terms": [part]}}),
    CombineReward: lambda part: manifest("RewardFunction", {"combine": part}),
    Expectation: lambda part: manifest(
        "RewardFunction", {**REWARD, "tests": [{"prompt": "p", "completion": "c", "expect": part}]}
    ),
    RewardFunctionSpec: lambda part: manifest("RewardFunction", part),
    InferenceEndpointSpec: lambda part: manifest("InferenceEndpoint", part),
    Autoscale: lambda part: manifest("InferenceEndpoint", {**ENDPOINT, "autoscale": part}),
    Serving: lambda part: manifest("InferenceEndpoint", {**ENDPOINT, "serving": part}),
    RFTJob: lambda part: manifest("RFTJob", part["spec"], part["metadata"]["name"]),
    RewardFunction: lambda part: manifest("RewardFunction", part["spec"], part["metadata"]["name"]),
    InferenceEndpoint: lambda part: manifest("InferenceEndpoint", part["spec"], part["metadata"]["name"]),
}


@pytest.fixture(scope="module")
def kubectl(api_server: Cluster) -> Kubectl:
    api_server.kubectl.apply_definitions(CRDS)
    return api_server.kubectl


def crd_name(file: str) -> str:
    return f"{Path(file).stem}.rft.dev"


@pytest.mark.parametrize("file", build_crds())
def test_a_crd_is_established_and_structural(kubectl, file):
    """The API server names what it does not like about a schema in a condition, and then does not prune."""
    found = kubectl.get("crd", crd_name(file))
    conditions = {condition["type"]: condition["status"] for condition in found["status"]["conditions"]}
    assert conditions["Established"] == conditions["NamesAccepted"] == "True"
    assert conditions.get("NonStructuralSchema", "False") == "False"
    assert conditions.get("KubernetesAPIApprovalPolicyConformant", "True") == "True"


@pytest.mark.parametrize(("model", "right", "wrong", "message"), RULES)
def test_a_broken_rule_is_refused_as_the_models_do(kubectl, model, right, wrong, message):
    place = PLACES[model]
    kubectl("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(place(right)))
    assert message in kubectl.refuse(place(wrong))


def test_of_rules_about_the_same_fields_the_first_broken_one_is_said(kubectl):
    rollouts = {"servers": 2, "overlap": 1}
    refused = kubectl.refuse(manifest("RFTJob", {**JOB, "compute": {"gpusPerNode": 1, "rollouts": rollouts}}))
    assert "rollouts.servers is for placement Dedicated" in refused
    assert "belong to engine vLLM" not in refused


WRONG_FIELDS = [
    ("RFTJob", ("model",), {}, "spec.model.uri: Required value"),
    ("RFTJob", ("algorithm",), "PPO", 'Unsupported value: "PPO": supported values: "GRPO"'),
    ("RFTJob", ("hyperparameters",), {"learningRate": 0.1}, "spec.hyperparameters.learningRate"),
    ("RFTJob", ("hyperparameters",), {"learningRate": "0"}, "must be above 0 and at most 0.1"),
    ("RFTJob", ("hyperparameters",), {"learningRate": "1,5"}, "spec.hyperparameters.learningRate"),
    ("RFTJob", ("hyperparameters",), {"samplesPerPrompt": 1}, "should be greater than or equal to 2"),
    ("RFTJob", ("sampling",), {"stop": []}, "should have at least 1 items"),
    ("RFTJob", ("sampling",), {"stop": [""]}, "should be at least 1 chars long"),
    ("RFTJob", ("sampling",), {"stop": ["a"] * 5}, "must have at most 4 items"),
    ("RFTJob", ("sampling",), {"systemPrompt": ""}, "should be at least 1 chars long"),
    ("RFTJob", ("sampling",), {"chatTemplateArguments": ["a"]}, "spec.sampling.chatTemplateArguments"),
    ("RFTJob", ("sampling",), {"chatTemplateArguments": {"messages": []}}, "names that belong to its caller"),
    ("RFTJob", ("sampling",), {"chatTemplateArguments": {"tools": [{"a": "b"}]}}, "names that belong to its caller"),
    ("RFTJob", ("evaluation",), {"temperature": "11"}, "must be from 0 to 10"),
    ("RFTJob", ("limits",), {"deadline": "a day"}, "spec.limits.deadline"),
    ("RFTJob", ("limits",), {"deadline": "0s"}, "must be at least 1s"),
    ("RFTJob", ("compute",), {"gpusPerNode": "8"}, "spec.compute.gpusPerNode"),
    ("RFTJob", ("compute",), {"gpuMemory": "80 GB"}, "spec.compute.gpuMemory"),
    ("RFTJob", ("compute",), {"gpuMemory": "80Mi"}, "must be at least 1Gi"),
    ("RFTJob", ("suspend",), "yes", "spec.suspend"),
    ("RFTJob", ("trackers",), [{"mlflow": {"uri": "http://user:secret@mlflow"}}], "spec.trackers[0].mlflow.uri"),
    ("RFTJob", ("data",), {"train": []}, "should have at least 1 items"),
    ("RFTJob", ("data",), {**JOB["data"], "validationFraction": "0.9"}, "must be from 0.001 to 0.5"),
    ("RFTJob", ("data",), {"train": [{**LOGS, "invocationLog": {"from": "yesterday"}}]}, "invocationLog.from"),
    ("RewardFunction", ("builtin",), {"name": "Maths"}, 'Unsupported value: "Maths"'),
    ("RewardFunction", ("timeout",), "soon", "spec.timeout"),
    ("RewardFunction", ("timeout",), "0s", "must be at least 1s"),
    ("RewardFunction", ("sandbox",), {"memory": "15Mi"}, "must be at least 16Mi"),
    ("RFTJob", ("endpoint",), {"name": "4o-tax"}, "the name must begin with a letter"),
    ("RFTJob", ("endpoint",), {"name": "tax", "baseEndpoint": "4o"}, "the name must begin with a letter"),
    ("InferenceEndpoint", ("replicas",), -1, "should be greater than or equal to 0"),
]


@pytest.mark.parametrize(("kind", "path", "value", "message"), WRONG_FIELDS)
def test_a_wrong_field_is_named(kubectl, kind, path, value, message):
    assert message in kubectl.refuse(manifest(kind, {**SPECS[kind], path[0]: value}))


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("name", ["a.b", "a" * 64])
def test_a_name_from_which_no_label_can_be_made_is_refused(kubectl, kind, name):
    assert "metadata.name" in kubectl.refuse(manifest(kind, SPECS[kind], name))


@pytest.mark.parametrize("kind", SPECS)
def test_unknown_fields_are_errors_for_kubectl_apply(kubectl, kind):
    misspelt = manifest(kind, {**SPECS[kind], "suspended": True})
    assert "spec.suspended" in kubectl.refuse(misspelt)  # server-side apply
    done = kubectl.run("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(misspelt))
    assert done.returncode != 0
    assert 'unknown field "spec.suspended"' in done.stderr


def test_unknown_fields_are_pruned_with_a_warning_for_other_clients(kubectl, namespace):
    misspelt = manifest("RFTJob", {**JOB, "suspended": True})
    done = kubectl.run("create", f"--namespace={namespace}", "--validate=warn", "-f", "-", stdin=json.dumps(misspelt))
    assert done.returncode == 0, done.stderr
    assert 'Warning: unknown field "spec.suspended"' in done.stderr
    assert "suspended" not in kubectl.get("rftjob", "x", f"--namespace={namespace}")["spec"]


def test_defaults_are_those_of_the_models(kubectl, namespace):
    kubectl.apply(manifest("RFTJob", JOB), namespace=namespace)
    stored = kubectl.get("rftjob", "x", f"--namespace={namespace}")["spec"]
    assert stored == RFTJobSpec.model_validate(JOB).model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_an_example_is_accepted(kubectl, path):
    applied = kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(path))
    found = load_manifests([path])
    assert len(applied.splitlines()) == len(found.jobs) + len(found.reward_functions) + len(found.endpoints)
    assert all(line.endswith("serverside-applied (server dry run)") for line in applied.splitlines())


def test_examples_are_found():
    assert {path.name for path in EXAMPLES} >= {"job.yaml", "reward.yaml", "rewards.yaml"}


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "lastTransitionTime": "2026-01-01T00:00:00Z"}


STATUSES: list[tuple[str, str, dict[str, Any], dict[str, str]]] = [
    (
        "RFTJob",
        "rftjobs",
        {
            "conditions": [condition("Succeeded", "Unknown", "Training")],
            "progress": {"step": 3, "totalSteps": 20, "reward": "0.42"},
            "result": {
                "baselineReward": "0.19",
                "bestReward": "0.5",
                "gain": "0.31",
                "interval": "0.2 to 0.4",
                "checkpoint": "s3://models/out/best",
            },
        },
        {"STATE": "Training", "STEP": "3", "OF": "20", "REWARD": "0.42", "BEST": "0.5", "GAIN": "0.31"},
    ),
    (
        "RewardFunction",
        "rf",
        {"conditions": [condition("Ready", "False", "TestsFailing")], "digest": "sha256:1"},
        {"READY": "False", "REASON": "TestsFailing"},
    ),
    (
        "InferenceEndpoint",
        "ie",
        {"conditions": [condition("Ready", "True", "Serving")], "modelName": "tax", "replicas": 2},
        {"READY": "True", "REASON": "Serving", "MODEL": "tax", "REPLICAS": "2"},
    ),
]


@pytest.mark.parametrize(("kind", "short", "status", "columns"), STATUSES)
def test_kubectl_get_shows_the_state(kubectl, namespace, kind, short, status, columns):
    kubectl.apply(manifest(kind, SPECS[kind]), namespace=namespace)
    set_status(kubectl, namespace, kind, status)
    header, row = kubectl("get", short, f"--namespace={namespace}").splitlines()
    shown = dict(zip(header.split(), row.split(), strict=True))
    assert shown["NAME"] == "x"
    assert shown.items() >= columns.items()
    assert "AGE" in shown


def test_all_kinds_are_listed_by_their_category(kubectl, namespace):
    kubectl.apply(*(manifest(kind, spec) for kind, spec in SPECS.items()), namespace=namespace)
    listed = kubectl("get", "rft-operator", "--output=name", f"--namespace={namespace}").split()
    assert len(listed) == len(SPECS)


def test_an_ordinary_write_leaves_the_status_alone(kubectl, namespace):
    kubectl.apply(manifest("RFTJob", JOB), namespace=namespace)
    set_status(kubectl, namespace, "RFTJob", {"progress": {"step": 3}})
    kubectl("patch", "rftjob/x", f"--namespace={namespace}", "--type=merge", '--patch={"status":{"progress":null}}')
    assert kubectl.get("rftjob", "x", f"--namespace={namespace}")["status"]["progress"]["step"] == 3


def test_conditions_are_merged_by_their_type(kubectl, namespace):
    """Two writers that apply different conditions do not take them from one another."""
    kubectl.apply(manifest("RFTJob", JOB), namespace=namespace)
    for writer, kind in (("one", "Succeeded"), ("two", "RewardsReady")):
        content = {**manifest("RFTJob", {}), "status": {"conditions": [condition(kind, "True", "Done")]}}
        del content["spec"]
        flags = ["--server-side", "--subresource=status", f"--field-manager={writer}", f"--namespace={namespace}"]
        kubectl("apply", *flags, "-f", "-", stdin=json.dumps(content))
    stored = kubectl.get("rftjob", "x", f"--namespace={namespace}")["status"]["conditions"]
    assert {entry["type"] for entry in stored} == {"Succeeded", "RewardsReady"}


def test_endpoints_scale(kubectl, namespace):
    kubectl.apply(manifest("InferenceEndpoint", ENDPOINT), namespace=namespace)
    set_status(kubectl, namespace, "InferenceEndpoint", {"replicas": 1, "selector": "rft.dev/endpoint=x"})
    scale = kubectl.get("inferenceendpoint", "x", "--subresource=scale", f"--namespace={namespace}")
    assert scale["status"] == {"replicas": 1, "selector": "rft.dev/endpoint=x"}
    kubectl("scale", "inferenceendpoint/x", "--replicas=3", f"--namespace={namespace}")
    assert kubectl.get("inferenceendpoint", "x", f"--namespace={namespace}")["spec"]["replicas"] == 3


def set_status(kubectl: Kubectl, namespace: str, kind: str, status: dict[str, Any]) -> None:
    patch = json.dumps({"status": status})
    arguments = [f"--namespace={namespace}", "--subresource=status", "--type=merge", f"--patch={patch}"]
    kubectl("patch", kind.lower(), "x", *arguments)


@pytest.mark.parametrize("resource", ["rftjob", "rewardfunction", "inferenceendpoint"])
def test_kubectl_explains_every_field(kubectl, resource):
    explained = kubectl("explain", f"{resource}.spec", "--recursive")
    spec = next(
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
        for crd in map(yaml.safe_load, map(Path.read_text, CRDS.glob("*.yaml")))
        if crd["spec"]["names"]["singular"] == resource
    )
    assert not [name for name in spec["properties"] if f"\n  {name}\t" not in explained]


def test_the_controllers_run(kubectl, namespace):
    """Without a node, Jobs still get their pods, which stay pending."""
    container = {"name": "a", "image": "none"}
    template = {"spec": {"containers": [container], "restartPolicy": "Never", "nodeSelector": {"no": "where"}}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": template}}
    kubectl.apply(job, namespace=namespace)
    arguments = ["pods", f"--namespace={namespace}", "--selector=batch.kubernetes.io/job-name=x"]
    found = kubectl.wait_for(*arguments, until=lambda pods: len(pods["items"]) == 1)
    assert found["items"][0]["status"]["phase"] == "Pending"
