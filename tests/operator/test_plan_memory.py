"""A pod plans the memory of a job with GPUs before its first attempt: who waits for it, and what its verdict does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.model_configurations import QWEN3_8B, QWEN3_32B
from worlds_from_yaml import FIRST_START, plan_objects, read_case

from rft_api.rft_job import Compute, RFTJob
from rft_api.termination import TERMINATION_FILE
from rft_operator.kube.nodes import KEPT_SECONDS, Nodes
from rft_operator.kube.plan import Plan
from rft_operator.rft_job.gpu_memory import GpuMemory, choose_gpu_memory, read_gpu_memory
from rft_operator.rft_job.plan_memory import NOT_PLANNED, PLAN_SECONDS

GOLDEN = Path(__file__).parent / "golden"
UNPLANNED, EXCEEDED, LATE = (GOLDEN / f"job-memory-{name}.yaml" for name in ("unplanned", "exceeded", "late"))
PLANNER, FIRST = "tax-memory-plan", "tax-trainer-0"
FITS = {"fits": True, "message": "each GPU needs 20.0 GiB"}
TOO_LARGE = {"fits": False, "message": "each GPU needs 160.0 GiB"}


class Case:
    """A golden case, to be changed before it is planned."""

    def __init__(self, file: Path):
        self._case = read_case(file)
        self.objects: list[dict[str, Any]] = self._case["objects"]

    def get(self, kind: str, part: str = "") -> dict[str, Any]:
        """The object of a kind whose name has a part."""
        (found,) = (obj for obj in self.objects if obj["kind"] == kind and part in obj["metadata"]["name"])
        return found

    def end(self, message: str, code: int = 0) -> None:
        """The pod that plans has ended."""
        terminated = {"exitCode": code, "message": message, "finishedAt": "2026-01-31T11:59:58Z"}
        self.get("Pod", PLANNER)["status"] = {
            "phase": "Failed" if code else "Succeeded",
            "startTime": "2026-01-31T11:59:50Z",
            "containerStatuses": [{"name": "memory-plan", "state": {"terminated": terminated}}],
        }

    def written(self) -> None:
        """The first plan has been executed: the ConfigMap with the spec exists."""
        (configuration,) = (d.object for d in plan_first().desired if d.object["kind"] == "ConfigMap")
        metadata = {**configuration["metadata"], "uid": "u-configuration", "resourceVersion": "20"}
        self.objects.append({**configuration, "metadata": metadata})

    def started(self) -> None:
        """The Job of the first attempt exists."""
        case = Case(EXCEEDED)
        case.end(json.dumps(FITS))
        (attempt,) = (d.object for d in case.plan().desired if d.object["kind"] == "Job")
        metadata = {**attempt["metadata"], "uid": "u-attempt", "resourceVersion": "21"}
        self.objects.append({**attempt, "metadata": metadata, "status": {}})

    def say(self, **condition: str) -> None:
        """The status has the condition Fits."""
        fits = {"type": "Fits", "observedGeneration": 3, "lastTransitionTime": "2026-01-31T11:59:59Z", **condition}
        self.get("RFTJob")["status"] = {"conditions": [fits]}

    def plan(self) -> Plan:
        """The plan now."""
        more = {name: value for name, value in self._case.items() if name not in ("of", "objects", "now")}
        return plan_objects(self._case["of"], self.objects, self._case["now"], **more)


def plan_first() -> Plan:
    return Case(UNPLANNED).plan()


def jobs(plan: Plan) -> list[str]:
    return [d.object["metadata"]["name"] for d in plan.desired if d.object["kind"] == "Job"]


def deleted(plan: Plan) -> list[str]:
    return [deletion.name for deletion in plan.deletions]


def condition(plan: Plan, kind: str = "Fits") -> tuple[str, str, str]:
    (found,) = (c for c in plan.status["conditions"] if c["type"] == kind)
    return found["status"], found["reason"], found["message"]


def command(plan: Plan) -> list[str]:
    (job,) = (d.object for d in plan.desired if d.object["kind"] == "Job")
    found: list[str] = job["spec"]["template"]["spec"]["containers"][0]["command"]
    return found


def test_a_pod_plans_before_the_first_attempt():
    planned = plan_first()
    assert jobs(planned) == [PLANNER]
    assert condition(planned)[:2] == ("Unknown", "NotPlanned")


def test_a_job_on_cpus_plans_nothing():
    case = read_case(FIRST_START)
    assert jobs(plan_objects(case["of"], case["objects"], case["now"])) == ["quickstart-trainer-0"]


def test_nothing_starts_while_the_pod_plans():
    case = Case(LATE)
    case.get("Job", PLANNER)["metadata"]["creationTimestamp"] = "2026-01-31T11:59:00Z"
    planned = case.plan()
    assert jobs(planned) == []
    assert planned.requeue_seconds == PLAN_SECONDS - 60
    assert condition(planned)[:2] == ("Unknown", "NotPlanned")
    why = "pod tax-memory-plan-abcde: 0/3 nodes are available"
    assert condition(planned, "Succeeded") == ("Unknown", "Starting", f"{NOT_PLANNED}: {why}")
    case.objects.remove(case.get("Pod", PLANNER))
    assert condition(case.plan(), "Succeeded") == ("Unknown", "Starting", NOT_PLANNED)


def test_a_job_that_fits_starts():
    case = Case(EXCEEDED)
    case.end(json.dumps(FITS))
    planned = case.plan()
    assert jobs(planned) == [FIRST]
    assert condition(planned) == ("True", "MemorySuffices", FITS["message"])


def test_a_job_that_does_not_fit_ends_with_what_to_do():
    case = Case(EXCEEDED)
    case.end(json.dumps(TOO_LARGE))
    planned = case.plan()
    assert jobs(planned) == []
    for kind in ("Fits", "Succeeded"):
        status, reason, message = condition(planned, kind)
        assert (status, reason) == ("False", "DoesNotFit")
        assert message == f"{TOO_LARGE['message']}. To train nevertheless, set spec.compute.ignoreMemoryPlan: true"


def test_a_job_that_does_not_fit_starts_when_told_to():
    case = Case(EXCEEDED)
    case.end(json.dumps(TOO_LARGE))
    case.get("RFTJob")["spec"]["compute"]["ignoreMemoryPlan"] = True
    planned = case.plan()
    assert jobs(planned) == [FIRST]
    text = f"{TOO_LARGE['message']}. It trains nevertheless (spec.compute.ignoreMemoryPlan)"
    assert condition(planned) == ("False", "DoesNotFit", text)


@pytest.mark.parametrize(
    ("message", "code", "text"),
    [
        ('{"fits": null, "message": "models of type x"}', 0, "models of type x"),
        ("error: /etc/rft/job.json: algorithm", 10, "tax-memory-plan-abcde ended without a verdict: /etc/rft/job.json"),
        ("", 137, "ended without a verdict: exit code 137"),
        ("a mesh's proxy says so", 0, "ended without a verdict: a mesh's proxy says so"),
        ('{"fits": "no", "message": 1}', 0, "ended without a verdict"),
    ],
)
def test_a_pod_that_cannot_say_does_not_keep_the_job_from_starting(message, code, text):
    case = Case(EXCEEDED)
    case.end(message, code)
    planned = case.plan()
    assert jobs(planned) == [FIRST]
    status, reason, said = condition(planned)
    assert (status, reason) == ("Unknown", "NotPlanned")
    assert text in said


def test_a_job_whose_pod_is_gone_starts():
    case = Case(LATE)
    failed = {
        "type": "Failed",
        "status": "True",
        "reason": "BackoffLimitExceeded",
        "message": "Job has reached a limit",
    }
    planner = case.get("Job", PLANNER)
    planner["metadata"]["creationTimestamp"], planner["status"]["conditions"] = "2026-01-31T11:59:00Z", [failed]
    case.objects.remove(case.get("Pod", PLANNER))
    planned = case.plan()
    assert jobs(planned) == [FIRST]
    assert "the Job tax-memory-plan has failed: Job has reached a limit" in condition(planned)[2]


def test_a_changed_spec_is_planned_again():
    case = Case(EXCEEDED)
    case.end(json.dumps(FITS))
    case.written()
    case.get("RFTJob")["spec"]["hyperparameters"] = {"tokensPerMicroBatch": 1024}
    case.say(status="True", reason="MemorySuffices", message=FITS["message"])
    planned = case.plan()
    assert (jobs(planned), deleted(planned)) == ([], [PLANNER])
    case.get("Job", PLANNER)["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:00Z"
    waiting = case.plan()
    assert (jobs(waiting), deleted(waiting), condition(waiting)[0]) == ([], [], "Unknown")
    case.objects.remove(case.get("Job", PLANNER))
    assert deleted(case.plan()) == ["tax-run"]
    case.objects.remove(case.get("ConfigMap", "tax-run"))
    again = case.plan()
    assert jobs(again) == [PLANNER]
    assert condition(again)[:2] == ("Unknown", "NotPlanned")


def test_a_changed_spec_waits_for_the_pod_that_plans_the_previous_one():
    """On its node, another pod that mounts a ConfigMap of this name gets the immutable one that it has."""
    case = Case(LATE)
    case.written()
    case.get("RFTJob")["spec"]["hyperparameters"] = {"tokensPerMicroBatch": 1024}
    case.objects.remove(case.get("Job", PLANNER))
    planned = case.plan()
    assert (jobs(planned), deleted(planned), planned.requeue_seconds) == ([], [], 1.0)
    case.get("Pod", PLANNER)["status"]["phase"] = "Failed"
    assert deleted(case.plan()) == ["tax-run"]


def test_a_suspended_job_has_no_pod_that_plans():
    case = Case(LATE)
    case.written()
    case.get("RFTJob")["spec"]["suspend"] = True
    planned = case.plan()
    assert (jobs(planned), deleted(planned)) == ([], [PLANNER])
    assert condition(planned, "Succeeded")[1] == "Suspended"


def test_the_verdict_is_kept_until_the_status_has_it():
    case = Case(EXCEEDED)
    case.end(json.dumps(FITS))
    case.written()
    case.started()
    planned = case.plan()
    assert (deleted(planned), planned.requeue_seconds) == ([], 1.0)
    case.say(status="True", reason="MemorySuffices", message=FITS["message"])
    assert deleted(case.plan()) == [PLANNER]
    case.objects.remove(case.get("Job", PLANNER))
    case.objects.remove(case.get("Pod", PLANNER))
    assert condition(case.plan()) == ("True", "MemorySuffices", FITS["message"])


def test_the_verdict_of_a_job_that_has_ended_is_deleted():
    case = Case(EXCEEDED)
    planned = case.plan()
    assert (deleted(planned), planned.requeue_seconds) == ([], 1.0)
    case.get("RFTJob")["status"] = planned.status
    again = case.plan()
    assert (deleted(again), again.requeue_seconds) == ([PLANNER], None)
    assert again.status["conditions"] == planned.status["conditions"]


def test_a_label_of_the_users_makes_no_trainer_a_pod_that_plans():
    """Its GPUs are counted as before."""
    case = read_case(GOLDEN / "job-pods-refused.yaml")
    (pod,) = (obj for obj in case["objects"] if obj["kind"] == "Pod")
    before = plan_objects(case["of"], case["objects"], case["now"])
    pod["metadata"]["labels"]["rft.dev/plans"] = "memory"
    labelled = plan_objects(case["of"], case["objects"], case["now"])
    assert labelled.status["usage"] == before.status["usage"] != {}
    assert labelled.status == before.status


def test_a_list_of_nodes_is_used_again_for_a_while():
    asked, now = [], 0.0

    class Listing:
        async def list(self, kind, namespace, selector):
            asked.append((kind, namespace, selector))
            yield [node(extra="never kept")], 1
            yield [labelled("b")], 1

    nodes = Nodes(Listing(), lambda: now)
    for label in ("one", "one", "two"):
        found = asyncio.run(nodes.labelled(label))
        assert [each["metadata"]["name"] for each in found] == ["a", "b"]
        assert all(each.keys() == {"metadata", "spec", "status"} for each in found)
    assert asked == [("Node", None, "one"), ("Node", None, "two")]
    now = KEPT_SECONDS
    asyncio.run(nodes.labelled("two"))
    assert asked[2:] == [("Node", None, "two")]


def test_jobs_that_start_at_the_same_time_read_nodes_once():
    asked = []

    class Listing:
        async def list(self, kind, namespace, selector):
            asked.append(selector)
            await asyncio.sleep(0)
            yield [NODE], 1

    async def read() -> list[Any]:
        nodes = Nodes(Listing())
        return await asyncio.gather(*(nodes.labelled("one") for _ in range(5)))

    assert [len(found) for found in asyncio.run(read())] == [1] * 5
    assert asked == ["one"]


@pytest.mark.parametrize(
    ("resource", "asked"), [("-.x/gpu", []), ("a..b/gpu", []), ("gpu/", []), ("amd.com/gpu", ["amd.com/gpu.memory"])]
)
def test_no_list_is_asked_for_by_a_label_that_cannot_be(resource, asked):
    """The API server would answer with an error, and the job could not say why it does not start."""
    labels = []

    class Listing:
        async def labelled(self, label):
            labels.append(label)
            return []

    compute = Compute.model_validate({"gpuResource": resource})
    found = asyncio.run(read_gpu_memory(Listing(), compute))
    assert found == GpuMemory(None, f"no node on which the job may run has the label {resource}.memory")
    assert labels == asked


def test_gpus_are_those_of_the_manifest_or_of_the_nodes():
    case = Case(UNPLANNED)
    assert command(case.plan())[-8:] == [
        "--gpu-source", f"label {LABEL} of node small, the smallest of 2 nodes on which the job may run",
        "--gpu-bytes", str(81559 << 20),
        "--largest-gpu-bytes", str(95830 << 20),
        "--largest-gpu-source", f"label {LABEL} of node large, the largest of 2 nodes on which the job may run",
    ]  # fmt: skip
    case.get("RFTJob")["spec"]["compute"]["gpuMemory"] = "80Gi"
    assert command(case.plan())[-2:] == ["--gpu-source", "compute.gpuMemory"]


@pytest.mark.parametrize(("configuration", "status"), [(QWEN3_8B, "True"), (QWEN3_32B, "False"), ({}, "Unknown")])
def test_what_the_pod_runs_says_whether_the_job_fits(tmp_path, configuration, status):
    """The command of the pod, with the configuration that is mounted, and files of this machine in place of volumes."""
    planned = plan_first()
    (written,) = (d.object for d in planned.desired if d.object["kind"] == "ConfigMap")
    (tmp_path / "job.json").write_text(written["data"]["job.json"], encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps(configuration), encoding="utf-8")
    places = {"python": sys.executable, "/etc/rft/job.json": str(tmp_path / "job.json")}
    places |= {"/mnt/rft/pvc/models/qwen3": str(tmp_path)}
    places |= {str(81559 << 20): str(24 << 30), str(95830 << 20): str(40 << 30)}
    left = tmp_path / "termination-log"
    program = [places.get(word, word) for word in command(planned)]
    subprocess.run(program, env={**os.environ, TERMINATION_FILE: str(left)}, check=True)
    case = Case(EXCEEDED)
    case.end(left.read_text(encoding="utf-8"))
    decided = case.plan()
    assert condition(decided)[0] == status
    assert jobs(decided) == ([] if status == "False" else [FIRST])
    if configuration:
        deciding = "40.0 GiB (label nvidia.com/gpu.memory of node large, the largest"
        if status == "True":
            deciding = "24.0 GiB (label nvidia.com/gpu.memory of node small, the smallest"
        assert f"of {deciding} of 2 nodes" in condition(decided)[2]


@pytest.mark.parametrize(
    ("uri", "opened"),
    [
        ("hf://owner/model@v1", "hf://owner/model@v1"),
        ("s3://b/model", "s3://b/model"),
        ("pvc://c/m", "/mnt/rft/pvc/c/m"),
    ],
)
def test_the_model_is_read_where_it_is(uri, opened):
    case = Case(UNPLANNED)
    case.get("RFTJob")["spec"]["model"]["uri"] = uri
    assert command(case.plan())[6:8] == ["--uri", opened]


def test_the_pod_that_plans_is_not_queued_and_no_quota_needs_more_of_it():
    case = Case(UNPLANNED)
    case.get("RFTJob")["spec"]["queueName"] = "team-a"
    (job,) = (d.object for d in case.plan().desired if d.object["kind"] == "Job")
    template = job["spec"]["template"]
    assert not [label for label in {**job["metadata"]["labels"], **template["metadata"]["labels"]} if "kueue" in label]
    resources = template["spec"]["containers"][0]["resources"]
    assert resources["limits"].keys() == resources["requests"].keys() == {"cpu", "memory"}


def test_only_volumes_of_every_node_are_mounted():
    case = Case(UNPLANNED)
    pod = case.get("RFTJob")["spec"]["compute"]["pod"]
    pod["volumes"] = [
        {"name": "ca", "configMap": {"name": "ca"}},
        {"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}},
    ]
    pod["volumeMounts"] = [
        {"name": name, "mountPath": f"/{name}"} for name in ("ca", "cache", "shared-memory", "scratch")
    ]
    (job,) = (d.object for d in case.plan().desired if d.object["kind"] == "Job")
    spec = job["spec"]["template"]["spec"]
    assert [volume["name"] for volume in spec["volumes"]] == ["scratch", "configuration", "claim-0", "ca"]
    mounts = [mount["name"] for mount in spec["containers"][0]["volumeMounts"]]
    assert mounts == ["configuration", "claim-0", "ca", "scratch"]


LABEL = "nvidia.com/gpu.memory"
NODE = {
    "metadata": {"name": "a", "labels": {LABEL: "81920", "pool": "a"}},
    "status": {"allocatable": {"nvidia.com/gpu": "8"}},
}


def node(**changes: Any) -> dict[str, Any]:
    return {**NODE, **changes}


def labelled(name: str, **labels: str) -> dict[str, Any]:
    return node(metadata={"name": name, "labels": {LABEL: "40960", **labels}})


def tainted(name: str) -> dict[str, Any]:
    return {**labelled(name), "spec": {"taints": [{"key": "team", "value": "tax", "effect": "NoSchedule"}]}}


OF_B = GpuMemory(40 << 30, f"label {LABEL} of node b")
OF_A = GpuMemory(80 << 30, f"label {LABEL} of node a")
BOTH = GpuMemory(
    40 << 30,
    f"label {LABEL} of node b, the smallest of 2 nodes on which the job may run",
    GpuMemory(80 << 30, f"label {LABEL} of node a, the largest of 2 nodes on which the job may run"),
)
NONE_HAS_IT = GpuMemory(None, f"no node on which the job may run has the label {LABEL}")


@pytest.mark.parametrize(
    ("nodes", "pod", "memory"),
    [
        ([], {}, NONE_HAS_IT),
        ([NODE], {}, OF_A),
        ([NODE, labelled("b")], {}, BOTH),
        ([NODE, labelled("b")], {"nodeSelector": {"pool": "a"}}, OF_A),
        ([NODE, node(status={})], {"nodeSelector": {"pool": "b"}}, NONE_HAS_IT),
        ([node(status={"allocatable": {"nvidia.com/gpu": "0"}})], {}, NONE_HAS_IT),
        ([node(metadata={"name": "a", "labels": {LABEL: "many"}})], {}, NONE_HAS_IT),
        ([node(spec={"taints": [{"key": "team", "effect": "NoSchedule"}]})], {}, NONE_HAS_IT),
        *(
            ([node(spec={"taints": [{"key": key, "effect": effect}]})], pod, OF_A)
            for key, effect, pod in (
                ("team", "NoSchedule", {"tolerations": [{"key": "team", "operator": "Exists"}]}),
                ("team", "NoSchedule", {"tolerations": [{"operator": "Exists"}]}),
                ("team", "PreferNoSchedule", {}),
                ("nvidia.com/gpu", "NoSchedule", {}),
                ("node.kubernetes.io/unschedulable", "NoSchedule", {}),
            )
        ),
        *(
            ([NODE, tainted("b")], {"tolerations": [toleration]}, OF_A)
            for toleration in (
                {"key": "team", "value": "other", "effect": "NoSchedule"},
                {"key": "team", "value": "tax", "effect": "NoExecute"},
                {"operator": "Exists", "effect": "NoExecute"},
                {"key": "team", "operator": "Equal"},
            )
        ),
        *(
            ([tainted("b")], {"tolerations": [toleration]}, OF_B)
            for toleration in (
                {"key": "team", "value": "tax"},
                {"key": "team", "value": "tax", "operator": "Equal", "effect": "NoSchedule"},
                {"key": "team", "operator": "Exists", "effect": "NoSchedule"},
            )
        ),
        ([NODE], {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}}, OF_A),
        (
            [NODE],
            {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}},
            GpuMemory(None, "the job chooses nodes by compute.pod.affinity"),
        ),
    ],
)  # fmt: skip
def test_the_gpus_of_those_nodes_count_on_which_the_job_may_run(nodes, pod, memory):
    assert choose_gpu_memory(nodes, Compute.model_validate({"pod": pod})) == memory


def test_nodes_with_fewer_gpus_than_a_pod_has_do_not_count():
    few = {**labelled("few"), "status": {"allocatable": {"nvidia.com/gpu": "4"}}}
    compute = {"gpusPerNode": 4, "rollouts": {"placement": "Dedicated", "servers": 2}}
    assert choose_gpu_memory([NODE, few], Compute.model_validate(compute)) == OF_A


@pytest.mark.parametrize(
    ("nodes", "memory"),
    [
        ([NODE, labelled("b")], BOTH),
        # Kueue adds tolerations: the job may get these, too.
        ([NODE, tainted("b")], BOTH),
        ([tainted("b")], OF_B),
        ([NODE], OF_A),
    ],
)
def test_kueue_chooses_the_nodes_of_a_job_with_a_queue(nodes, memory):
    assert choose_gpu_memory(nodes, Compute(), queued=True) == memory


def test_slices_of_gpus_have_a_label_of_their_own():
    resource = "nvidia.com/mig-3g.40gb"
    sliced = node(
        metadata={"name": "a", "labels": {LABEL: "81920", f"{resource}.memory": "40448"}},
        status={"allocatable": {resource: "2"}},
    )
    compute = Compute.model_validate({"gpuResource": resource})
    assert choose_gpu_memory([sliced], compute) == GpuMemory(40448 << 20, f"label {resource}.memory of node a")


def test_the_name_is_short_enough_for_pods():
    case = Case(UNPLANNED)
    job = case.get("RFTJob")
    long = "x" * 63
    job["metadata"]["name"] = long
    RFTJob.model_validate(job)
    planned = plan_objects(f"RFTJob/team/{long}", case.objects, "2026-01-31T12:00:00Z")
    (name,) = jobs(planned)
    assert len(name) <= 58
    assert name.endswith("-memory-plan")
