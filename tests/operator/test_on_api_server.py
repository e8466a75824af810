"""The operator against a real API server and the real controllers of Jobs and Deployments; pods are pretended."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster.control_plane import Cluster, ControlPlane
from cluster.kubectl import CRDS, Kubectl
from lives import (
    PLANNERS,
    RESULT,
    REWARD,
    REWARDS,
    SERVERS,
    TRAINERS,
    job,
    wait_for,
    write_operator_kubeconfig,
)
from pretending import Kubelet, Operator, reason, running_operator, wait_until_gone
from support.patience import wait_until

from rft_api.config_map_size import CONFIG_MAP_BYTES
from rft_api.progress import MemoryVerdict
from rft_api.resource import API_VERSION
from rft_api.termination import memory_message


@pytest.fixture(scope="module")
def kubectl(api_server: Cluster) -> Kubectl:
    api_server.kubectl.apply_definitions(CRDS)
    return api_server.kubectl


@pytest.fixture(scope="module")
def kubeconfig(api_server: Cluster, kubectl: Kubectl) -> Path:
    """The operator's; gives no more permissions than its roles where we can make users."""
    return write_operator_kubeconfig(api_server) if isinstance(api_server, ControlPlane) else kubectl.kubeconfig


@pytest.fixture(scope="module")
def operator(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with running_operator(kubeconfig, tmp_path_factory.mktemp("operator") / "log") as running:
        yield running


@pytest.fixture
def team(kubectl: Kubectl, operator: Operator) -> Iterator[str]:
    """A namespace that enforces Pod Security `restricted`."""
    labels = {f"pod-security.kubernetes.io/{how}": "restricted" for how in ("enforce", "warn")}
    with kubectl.namespace(f"team-{secrets.token_hex(3)}", labels) as name:
        yield name


@pytest.fixture
def kubelet(kubectl: Kubectl, team: str) -> Kubelet:
    return Kubelet(kubectl, team)


@pytest.fixture
def ready_reward(kubectl: Kubectl, team: str, kubelet: Kubelet) -> None:
    kubectl.apply(REWARD, namespace=team)
    for pod in kubelet.pods(REWARDS):
        kubelet.run(pod, "reward-server")
    wait_for(kubectl, team, "rewardfunction/amount", "Ready", "Ready")


@pytest.fixture
def running_job(kubectl: Kubectl, team: str, kubelet: Kubelet, ready_reward: None) -> None:
    kubectl.apply(job(), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    kubelet.run(pod, "trainer")
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")


def test_a_job_waits_for_its_reward(kubectl, team, kubelet):
    kubectl.apply(job(), namespace=team)
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "WaitingForRewards")
    assert reason(found, "RewardsReady") == "RewardMissing"
    kubectl.apply(REWARD, namespace=team)
    kubectl.wait_for(
        "rftjob/job", f"--namespace={team}", until=lambda found: reason(found, "RewardsReady") == "RewardNotReady"
    )
    (pod,) = kubelet.pods(REWARDS)
    kubelet.run(pod, "reward-server")
    kubelet.pods(TRAINERS)


@pytest.mark.usefixtures("ready_reward")
def test_a_job_succeeds_and_leaves_endpoints(kubectl, team, kubelet):
    kubectl.apply(job(endpoint={"name": "tuned"}), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    said = wait_for(kubectl, team, "rftjob/job", "Succeeded", "Starting", "Unschedulable")
    begun = reason(said, "Succeeded")  # depends on how soon the scheduler finds no node
    kubelet.run(pod, "trainer")
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")
    kubelet.end(pod, "trainer", 0, json.dumps(RESULT))
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "Succeeded")
    assert found["status"]["result"]["gain"] == "+0.5000"
    assert found["status"]["checkpoints"][0]["uri"] == "s3://runs/job/checkpoints/step-10"
    assert found["metadata"].get("finalizers") is None
    base = wait_for(kubectl, team, "inferenceendpoint/tuned-base", "Ready", "Unschedulable")
    assert base["spec"]["model"] == {"uri": "s3://models/base"}
    wait_for(kubectl, team, "inferenceendpoint/tuned", "Ready", "BaseNotReady")
    adapters = kubectl.get("configmap", "tuned-base-adapters", f"--namespace={team}")["data"]["adapters.json"]
    assert json.loads(adapters) == {"adapters": [{"name": "tuned", "uri": "s3://runs/job/best"}]}
    wait_for(kubectl, team, "rftjob/job", "EndpointReady", "BaseNotReady")
    # The events tell the story.
    kubectl.wait_for(
        "events", f"--namespace={team}", until=lambda events: {begun, "Running", "Succeeded"} <= reasons_of_job(events)
    )


def reasons_of_job(events: dict[str, Any]) -> set[str]:
    return {event["reason"] for event in events["items"] if event["involvedObject"]["kind"] == "RFTJob"}


@pytest.mark.usefixtures("ready_reward")
def test_a_result_of_inputs_that_have_changed_since_says_so(kubectl, team, kubelet):
    """The run in this output had ended before the job was created, and somebody has edited its test data since."""
    kubectl.apply(job(), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    kubelet.end(pod, "trainer", 0, json.dumps({**RESULT, "changedInputs": ["s3://data/test.jsonl (test/a)"]}))
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "Succeeded")
    message = next(c["message"] for c in found["status"]["conditions"] if c["type"] == "Succeeded")
    assert "these inputs have changed since: s3://data/test.jsonl (test/a). To measure what is there now" in message


@pytest.mark.usefixtures("running_job")
def test_deleting_a_job_leaves_nothing(kubectl, team):
    kubectl.delete("rftjob", "job", f"--namespace={team}")
    wait_until_gone(kubectl, "pods,jobs,services,configmaps", f"--namespace={team}", f"--selector={TRAINERS}")


@pytest.mark.usefixtures("ready_reward")
@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [(11, "DataInvalid: line 3 is no JSON", "DataInvalid"), (13, "NotLearnable: all alike", "NotLearnable")],
)
def test_a_permanent_error_ends_a_job(kubectl, team, kubelet, code, text, expected):
    kubectl.apply(job(), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    kubelet.end(pod, "trainer", code, text)
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", expected)
    message = next(c["message"] for c in found["status"]["conditions"] if c["type"] == "Succeeded")
    assert message == f"pod {pod}: {text.partition(': ')[2]}"


@pytest.mark.usefixtures("ready_reward")
def test_failures_that_may_pass_are_retried_as_often_as_allowed(kubectl, team, kubelet):
    kubectl.apply(job(limits={"retries": 1}, compute={"gpusPerNode": 0, "nodes": 2}), namespace=team)
    first, second = kubelet.pods(TRAINERS, 2)
    for pod in (first, second):
        kubelet.run(pod, "trainer")
    kubelet.end(second, "trainer", 76, "RewardUnreachable: silence")
    # The reason Retrying stays for some seconds only.
    kubectl.wait_for(
        "rftjob/job", f"--namespace={team}", until=lambda found: found.get("status", {}).get("retries") == 1
    )
    # Both pods are made anew: none can go on without the other.
    pods = kubelet.pods(f"{TRAINERS},rft.dev/attempt=1", 2)
    assert not {first, second} & set(pods)
    kubelet.end(pods[0], "trainer", 1, "out of memory")
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "RetriesExhausted")
    assert found["status"]["retries"] == 1


@pytest.mark.usefixtures("ready_reward")
def test_a_lost_node_is_no_retry(kubectl, team, kubelet):
    kubectl.apply(job(limits={"retries": 0}), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    kubelet.run(pod, "trainer")
    kubelet.disrupt(pod, "trainer")
    kubelet.pods(f"{TRAINERS},rft.dev/attempt=1")
    assert kubectl.get("rftjob", "job", f"--namespace={team}")["status"]["retries"] == 0


@pytest.mark.usefixtures("running_job")
def test_suspend_and_resume(kubectl, team, kubelet):
    kubectl.apply(job(suspend=True), namespace=team)
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Suspended")
    wait_until_gone(kubectl, "pods,jobs", f"--namespace={team}", f"--selector={TRAINERS}")
    kubectl.apply(job(suspend=False), namespace=team)
    (resumed,) = kubelet.pods(TRAINERS)
    kubelet.run(resumed, "trainer")
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")


@pytest.mark.usefixtures("ready_reward")
def test_a_changed_spec_is_taken_before_training_and_rejected_after(kubectl, team, kubelet):
    kubectl.apply(job(algorithm="DAPO"), namespace=team)
    kubelet.pods(TRAINERS)
    kubectl.apply(job(algorithm="GSPO"), namespace=team)
    config = kubectl.wait_for(
        "configmap/job-run",
        f"--namespace={team}",
        until=lambda found: json.loads(found["data"]["job.json"])["algorithm"] == "GSPO",
    )
    (pod,) = kubelet.pods(f"{TRAINERS},rft.dev/attempt=0")
    kubelet.run(pod, "trainer")
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")
    kubectl.apply(job(algorithm="GRPO", limits={"retries": 7}), namespace=team)
    found = wait_for(kubectl, team, "rftjob/job", "SpecAccepted", "SpecChangeRejected")
    message = next(c["message"] for c in found["status"]["conditions"] if c["type"] == "SpecAccepted")
    assert message == "training has started with other values of algorithm, and continues with them"
    assert kubectl.get("configmap", "job-run", f"--namespace={team}")["data"] == config["data"]


@pytest.mark.usefixtures("ready_reward")
def test_kueue_lets_a_queued_job_go(kubectl, team, kubelet):
    kubectl.apply(job(queueName="team-a"), namespace=team)
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Queued")
    made = kubectl.get("job", "job-trainer-0", f"--namespace={team}")
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    kubectl("patch", "job/job-trainer-0", f"--namespace={team}", "--type=merge", '--patch={"spec":{"suspend":false}}')
    kubelet.pods(TRAINERS)
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Unschedulable")


def test_what_belongs_to_others_is_left_alone(kubectl, team):
    theirs = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "amount-reward"}}
    kubectl.apply({**theirs, "spec": {"ports": [{"port": 1}]}}, namespace=team)
    kubectl.apply(REWARD, namespace=team)
    wait_for(kubectl, team, "rewardfunction/amount", "Ready", "NameTaken")
    assert kubectl.get("service", "amount-reward", f"--namespace={team}")["spec"]["ports"][0]["port"] == 1


@pytest.mark.usefixtures("ready_reward")
def test_changes_by_others_are_undone(kubectl, team):
    patch = '--patch={"spec":{"ports":[{"name":"http","port":8080,"targetPort":1}]}}'
    kubectl("patch", "service/amount-reward", f"--namespace={team}", "--type=merge", patch)
    kubectl.wait_for(
        "service/amount-reward",
        f"--namespace={team}",
        until=lambda found: found["spec"]["ports"][0]["targetPort"] == 8080,
    )
    kubectl("delete", "deployment", "amount-reward", f"--namespace={team}")
    kubectl.wait_for("deployment/amount-reward", f"--namespace={team}", until=lambda _: True)


@pytest.mark.usefixtures("ready_reward")
def test_changed_code_rolls_out_and_the_old_serves_until_then(kubectl, team, kubelet):
    before = kubectl.get("rewardfunction", "amount", f"--namespace={team}")["status"]["digest"]
    (old,) = kubelet.pods(REWARDS)
    changed = {**REWARD, "spec": {"builtin": {"name": "ExactMatch"}}}
    kubectl.apply(changed, namespace=team)
    found = wait_for(kubectl, team, "rewardfunction/amount", "Ready", "Unschedulable")
    assert found["status"]["digest"] != before
    (new,) = set(kubelet.pods(REWARDS, 2)) - {old}
    kubelet.run(new, "reward-server")
    wait_for(kubectl, team, "rewardfunction/amount", "Ready", "Ready")
    config_maps = ["configmaps", f"--namespace={team}", f"--selector={REWARDS}"]
    kubectl.wait_for(*config_maps, until=lambda found: len(found["items"]) == 1)


def test_a_pod_that_the_api_server_refuses_is_explained(kubectl, team):
    broken = {**REWARD, "spec": {**REWARD["spec"], "pod": {"tolerations": [{"operator": "Nonsense"}]}}}
    kubectl.apply(broken, namespace=team)
    found = wait_for(kubectl, team, "rewardfunction/amount", "Ready", "ConfigurationInvalid")
    assert "Nonsense" in found["status"]["conditions"][0]["message"]


@pytest.mark.usefixtures("ready_reward")
def test_pods_of_all_kinds_are_admitted_without_a_warning(kubectl, team, kubelet):
    credentials = {"credentials": {"secretName": "s3"}}
    on_gpus = job(compute={"gpusPerNode": 1, "nodes": 2}, output={"uri": "pvc://runs/job"}, **credentials)
    servers = [
        endpoint("gpus", {"model": {"uri": "s3://models/base"}, "serving": {"gpus": 1}, **credentials}),
        endpoint("cpus", {"model": {"uri": "hf://owner/model"}, "serving": {"gpus": 0}}),
        endpoint("claim", {"model": {"uri": "pvc://models/base"}, "serving": {"gpus": 0, "maxAdapters": 0}}),
    ]
    kubectl.apply(on_gpus, *servers, namespace=team)
    # What is not admitted is never created.
    (planner,) = kubelet.pods(PLANNERS)
    made = kubectl.get("jobs", f"--namespace={team}")["items"]
    kubelet.end(planner, "memory-plan", 0, memory_message(MemoryVerdict(fits=True, message="small")))
    kubelet.pods(f"{TRAINERS},rft.dev/attempt=0", 2)
    kubelet.pods(SERVERS, 3)
    made += kubectl.get("jobs,deployments", f"--namespace={team}")["items"]
    templates = [item["spec"]["template"] for item in made]
    containers = {c["name"] for t in templates for k in ("containers", "initContainers") for c in t["spec"].get(k, [])}
    assert containers == {"trainer", "reward-server", "server", "loader", "fetch", "memory-plan"}
    assert warnings_of(kubectl, team, templates) == ""
    for template in templates:
        template["spec"]["hostNetwork"] = True
    assert warnings_of(kubectl, team, templates).count("hostNetwork=true") == len(templates)


def endpoint(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "rft.dev/v1alpha1", "kind": "InferenceEndpoint", "metadata": {"name": name}, "spec": spec}


def warnings_of(kubectl: Kubectl, namespace: str, templates: list[dict[str, Any]]) -> str:
    """What the API server says of Deployments with these pods."""
    said = ""
    for template in templates:
        labels = {"matchLabels": template["metadata"]["labels"]}
        template["spec"]["restartPolicy"] = "Always"
        deployment = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": "x"},
            "spec": {"selector": labels, "template": template},
        }
        flags = ["apply", "--server-side", "--dry-run=server", f"--namespace={namespace}", "-f", "-"]
        done = kubectl.run(*flags, stdin=json.dumps(deployment))
        assert done.returncode == 0, done.stderr
        said += done.stderr
    return said


@pytest.mark.usefixtures("ready_reward")
def test_a_killed_operator_goes_on_where_it_was(kubectl, team, kubelet, operator):
    kubectl.apply(job(), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    operator.kill()
    kubelet.run(pod, "trainer")
    kubelet.end(pod, "trainer", 0, json.dumps(RESULT))
    operator.start()
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", "Succeeded")
    assert found["status"]["result"]["bestReward"] == "0.7500"
    jobs = kubectl.get("jobs", f"--namespace={team}")["items"]
    assert [made["metadata"]["name"] for made in jobs] == ["job-trainer-0"]


def test_what_is_nested_as_deeply_as_the_api_server_stores_disturbs_nobody(kubectl, team, operator):
    spec = {"model": {"uri": "s3://models/base"}, "serving": {"pod": {"affinity": None}}}
    manifest = {"apiVersion": API_VERSION, "kind": "InferenceEndpoint", "metadata": {"name": "deep"}, "spec": spec}
    text = json.dumps(manifest).replace("null", '{"a":' * 9000 + "{}" + "}" * 9000)
    kubectl("create", f"--namespace={team}", "-f", "-", stdin=text)
    kubectl.apply(REWARD, namespace=team)
    wait_until(lambda: kubectl.get("deployments", f"--namespace={team}")["items"], operator.log)
    operator.kill()
    operator.start()
    kubectl.apply(job(), namespace=team)
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "WaitingForRewards")
    kubectl("delete", "inferenceendpoint", "deep", f"--namespace={team}")


@pytest.mark.usefixtures("ready_reward")
def test_of_two_operators_one_acts_and_the_other_takes_over(kubectl, kubeconfig, team, kubelet, operator, tmp_path):
    with running_operator(kubeconfig, tmp_path / "log", pod="operator-1") as second:
        kubectl.apply(job(), namespace=team)
        (pod,) = kubelet.pods(TRAINERS)
        assert "rft_operator_leader 0.0" in second.metrics()
        assert "rft_operator_leader 1.0" in operator.metrics()
        assert operator.stop() == 0  # gives the Lease back
        kubelet.run(pod, "trainer")
        wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")
        assert "rft_operator_leader 1.0" in second.metrics()
        assert second.stop() == 0
    operator.start()
    assert len(kubectl.get("jobs", f"--namespace={team}")["items"]) == 1


@pytest.mark.usefixtures("ready_reward")
def test_metrics_tell_the_state_of_jobs(kubectl, team, operator):
    kubectl.apply(job(suspend=True), namespace=team)
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Suspended")
    wanted = f'rft_job_condition{{job="job",namespace="{team}",reason="Suspended",status="Unknown",type="Succeeded"}}'
    # They are published a moment after the status is written.
    wait_until(
        lambda: any(_same_series(line, wanted) for line in operator.metrics().splitlines()), explain=operator.metrics
    )
    count = 'rft_operator_reconcile_seconds_count{kind="RFTJob",outcome="done"}'
    wait_until(lambda: count in operator.metrics(), explain=operator.metrics)


MISSING = {"serviceAccountName": "nobody"}


@pytest.mark.usefixtures("ready_reward")
def test_pods_that_kubernetes_does_not_create_are_explained(kubectl, team):
    """A job, a reward and an endpoint whose ServiceAccount does not exist; the words are those of the API server."""
    servers = [
        {**REWARD, "metadata": {"name": "other"}, "spec": {**REWARD["spec"], "pod": MISSING}},
        endpoint("served", {"model": {"uri": "s3://models/base"}, "serving": {"gpus": 0, "pod": MISSING}}),
    ]
    kubectl.apply(job(compute={"gpusPerNode": 0, "pod": MISSING}), *servers, namespace=team)
    for name, kind in (
        ("rewardfunction/other", "Ready"), ("inferenceendpoint/served", "Ready"), ("rftjob/job", "Succeeded")
    ):  # fmt: skip
        found = wait_for(kubectl, team, name, kind, "PodsMissing")
        message = next(c["message"] for c in found["status"]["conditions"] if c["type"] == kind)
        assert 'serviceaccount "nobody" not found' in message, message
        assert "FailedCreate: " in message
    assert message.startswith("0 of 1 pods exist: FailedCreate: ")
    # It goes on by itself once the ServiceAccount exists.
    kubectl.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "nobody"}}, namespace=team)
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Unschedulable")


@pytest.mark.usefixtures("ready_reward")
@pytest.mark.parametrize(("code", "text", "expected"), [(0, json.dumps(RESULT), "Succeeded"), (11, "x", "DataInvalid")])
def test_a_proxy_that_runs_on_keeps_neither_the_job_nor_its_gpus(kubectl, team, kubelet, code, text, expected):
    kubectl.apply(job(), namespace=team)
    (pod,) = kubelet.pods(TRAINERS)
    kubelet.run(pod, "trainer")
    wait_for(kubectl, team, "rftjob/job", "Succeeded", "Running")
    kubelet.linger(pod, "trainer", code, text)
    found = wait_for(kubectl, team, "rftjob/job", "Succeeded", expected)
    assert (found["status"].get("result") or {}).get("gain") == ("+0.5000" if code == 0 else None)
    # The pod is told to end soon, and the Job is left to Kubernetes; how the proxy then ends changes nothing.
    kubectl.wait_for("pod", pod, f"--namespace={team}", until=lambda found: "deletionTimestamp" in found["metadata"])
    kubelet.end_proxy(pod, "trainer", 143)
    wait_until_gone(kubectl, "pod", pod, f"--namespace={team}")
    kubectl.wait_for("job", "job-trainer-0", f"--namespace={team}", until=lambda found: "conditions" in found["status"])
    assert reason(kubectl.get("rftjob", "job", f"--namespace={team}"), "Succeeded") == expected


def test_code_that_is_too_large_is_refused_by_its_field_and_not_by_an_internal_object(kubectl, team):
    code = "def lambda_handler(event, context): ...\n" + 'W = "ab"\n' * 23_447
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "code"}, "data": {"reward.py": code}}
    source = {"sourceFrom": {"configMap": {"name": "code", "key": "reward.py"}}}
    terms = [{"name": f"t{number}", "python": source} for number in range(4)]
    kubectl.apply(config_map, {**REWARD, "spec": {"combine": {"terms": terms}}}, namespace=team)
    found = wait_for(kubectl, team, "rewardfunction/amount", "Ready", "ConfigurationInvalid")
    message = found["status"]["conditions"][0]["message"]
    assert message.startswith("spec.combine.terms: has 1,125,")
    assert "Kubernetes allows 1,048,576: move data out of the code" in message


@pytest.mark.parametrize("more", [0, 1])
def test_the_largest_config_map_is_as_large_as_we_say(kubectl, team, more):
    """Our limit is that of the API server, to the byte."""
    data = {"function.json": "x" * (CONFIG_MAP_BYTES + more)}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "large", "namespace": team},
        "data": data,
    }
    done = kubectl.run("apply", "--server-side", "--dry-run=server", "-f", "-", stdin=json.dumps(config_map))
    assert (done.returncode != 0) is bool(more), done.stderr


def _same_series(line: str, wanted: str) -> bool:
    def parts(series: str) -> tuple[str, frozenset[str]]:
        name, _, labels = series.partition("{")
        return name, frozenset(labels.partition("}")[0].split(","))

    return parts(line) == parts(wanted)
