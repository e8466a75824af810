"""Names, addresses, moments, pods, usage: the small pure parts."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from views import NOW, failed, pod

from rft_api.conditions import ConditionType, Reason
from rft_api.job_status import JobResult, JobUsage
from rft_api.resource import PodOverrides
from rft_operator.kube.timestamps import format_duration, format_timestamp
from rft_operator.pods.addresses import Address, AddressProblem, Mounts, locate
from rft_operator.pods.pod_view import read_pod
from rft_operator.pods.template import USER, Container, build_container, build_pod_template, override_pod
from rft_operator.reward_function.names import reward_configuration, reward_user
from rft_operator.rft_job import names
from rft_operator.rft_job.usage import count_usage, price_usage
from rft_operator.status.conditions import Finding, build_conditions


@given(st.from_regex(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.integers(0, 10_000))
def test_names_fit_and_differ(name, attempt):
    job = names.training_job(name, attempt)
    assert len(f"{job}-1023") <= 63
    assert job.endswith(f"-trainer-{attempt}")
    assert job != names.training_job(f"{name[:-1]}x", attempt) or name.endswith("x")
    assert len(reward_configuration(name, "0123456789abcdef")) <= 63


def test_reward_servers_have_users_of_their_own():
    """The kernel counts the processes of a user in all pods of a node: a trainer's must not use up a reward's limit."""
    users = {reward_user(namespace, name) for namespace in ("a", "b") for name in ("x", "y", "z")}
    assert len(users) == 6
    assert USER not in users
    # Pods with a user namespace have these numbers, and those below 10000 may be users of images.
    assert all(10000 <= user < 65536 for user in users)
    assert reward_user("a", "x") == reward_user("a", "x")


@pytest.mark.parametrize(
    ("uri", "role", "opened"),
    [
        ("hf://Qwen/Qwen3-0.6B", "model", "Qwen/Qwen3-0.6B"),
        ("s3://models/a/b", "model", "s3://models/a/b"),
        ("hf://datasets/openai/gsm8k", "data", "hf://datasets/openai/gsm8k"),
        ("hf://datasets/openai/gsm8k@v1/main", "data", "hf://datasets/openai/gsm8k@v1/main"),
        ("pvc://claim/a/b/", "output", "/mnt/rft/pvc/claim/a/b"),
        ("pvc://claim", "model", "/mnt/rft/pvc/claim"),
        ("configmap://name/key.jsonl", "data", "/mnt/rft/configmap/name/key.jsonl"),
    ],
)
def test_an_address_that_pods_open(uri, role, opened):
    Address("spec.x", role, uri).split()
    assert locate(uri) == opened


@pytest.mark.parametrize(
    ("uri", "role", "message"),
    [
        ("/home/me/data", "data", "is a path, which only local runs can open; use s3://, configmap://, pvc://, hf://"),
        ("s3:/models/a", "model", "is a path"),
        ("hf://Qwen/Qwen3", "data", "must look like hf://datasets/OWNER/NAME"),
        ("hf://datasets/openai/gsm8k", "model", "must look like hf://OWNER/NAME"),
        ("hf://datasets/openai/gsm8k", "output", "hf:// is not supported here"),
        ("configmap://name/key", "output", "configmap:// is not supported here"),
        ("hf://Qwen", "model", "must look like hf://OWNER/NAME"),
        ("configmap://name", "data", "must look like configmap://NAME/KEY"),
        ("pvc://claim/../../etc", "model", "must look like pvc://CLAIM/PATH"),
        ("pvc://../x", "model", "must look like pvc://CLAIM/PATH"),
        ("configmap://a/../b", "data", "must look like configmap://NAME/KEY"),
    ],
)
def test_an_address_that_pods_cannot_open(uri, role, message):
    with pytest.raises(AddressProblem, match=message.replace(".", r"\.")):
        Address("spec.x", role, uri).split()


def test_a_claim_is_writable_only_where_something_is_written():
    mounts = Mounts.of([Address("a", "model", "pvc://one/m"), Address("b", "output", "pvc://two/o")])
    assert [(m["mountPath"], m["readOnly"]) for m in mounts.volume_mounts()] == [
        ("/mnt/rft/pvc/one", True),
        ("/mnt/rft/pvc/two", False),
    ]


def test_a_claim_is_mounted_once_for_all_its_uses():
    mounts = Mounts.of([Address("a", "model", "pvc://one/m"), Address("b", "output", "pvc://one/o")])
    assert [m["readOnly"] for m in mounts.volume_mounts()] == [False]
    assert len(mounts.volumes()) == 1


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (59.6, "1m"), (3600, "1h"), (5405, "1h30m5s")])
def test_durations(seconds, text):
    assert format_duration(seconds) == text


def test_a_condition_keeps_its_time_while_its_status_stays():
    ready = Finding(ConditionType.READY, "True", Reason.READY)
    starting = Finding(ConditionType.READY, "False", Reason.STARTING)
    failing = Finding(ConditionType.READY, "False", Reason.TESTS_FAILING, "x" * 5000)
    first = build_conditions([starting], [], 1, NOW)
    second = build_conditions([failing], first, 2, NOW + timedelta(hours=1))
    third = build_conditions([ready], second, 2, NOW + timedelta(hours=2))
    assert second[0].last_transition_time == first[0].last_transition_time == format_timestamp(NOW)
    assert second[0].observed_generation == 2
    assert len(second[0].message) == 2000
    assert third[0].last_transition_time == format_timestamp(NOW + timedelta(hours=2))


TEMPLATE = build_pod_template(
    {"a": "ours"}, {}, [build_container(Container("main", "i", ["run"]))], [{"name": "data", "emptyDir": {}}]
)


def test_a_pod_without_overrides_stays_as_it_is():
    assert override_pod(TEMPLATE, None) == TEMPLATE
    assert override_pod(TEMPLATE, PodOverrides()) == TEMPLATE


def test_overrides_do_not_change_the_template_that_they_start_from():
    before = repr(TEMPLATE)
    override_pod(TEMPLATE, PodOverrides(image="j", env=[{"name": "HOME", "value": "/x"}], image_pull_policy="Never"))
    assert repr(TEMPLATE) == before


def test_a_pull_policy_is_for_every_container():
    template = {**TEMPLATE, "spec": {**TEMPLATE["spec"], "initContainers": [{"name": "fetch"}]}}
    spec = override_pod(template, PodOverrides(image_pull_policy="Never"))["spec"]
    assert {c["imagePullPolicy"] for c in (*spec["containers"], *spec["initContainers"])} == {"Never"}


def waiting(name: str, reason: str, last: int | None = None) -> dict:
    status = {"name": name, "state": {"waiting": {"reason": reason, "message": "why"}}}
    return status if last is None else {**status, "lastState": {"terminated": {"exitCode": last, "message": "said"}}}


def view(**status):
    return read_pod({"metadata": {"name": "p"}, "status": status}, "main")


@pytest.mark.parametrize(
    ("status", "problem"),
    [
        ({}, None),
        ({"containerStatuses": [waiting("main", "ContainerCreating")]}, None),
        ({"containerStatuses": [waiting("main", "ErrImagePull")]}, Reason.IMAGE_PULL_FAILED),
        ({"containerStatuses": [waiting("main", "CreateContainerConfigError")]}, Reason.CONTAINER_BLOCKED),
        ({"initContainerStatuses": [waiting("fetch", "ImagePullBackOff")]}, Reason.IMAGE_PULL_FAILED),
        (
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m"}]},
            Reason.UNSCHEDULABLE,
        ),
    ],
)
def test_why_a_pod_does_not_start(status, problem):
    found = view(**status).problem
    assert (found and found[0]) == problem


def test_a_container_that_ends_again_and_again_tells_of_its_last_end():
    seen = view(phase="Running", containerStatuses=[waiting("main", "CrashLoopBackOff", last=10)])
    assert seen.terminated
    assert (seen.termination.exit_code, seen.termination.message) == (10, "said")


def test_a_container_that_the_kernel_killed_for_its_memory():
    end = {"exitCode": 137, "reason": "OOMKilled", "message": "the end of its log"}
    ending = view(phase="Failed", containerStatuses=[{"name": "main", "state": {"terminated": end}}]).termination
    assert ending.oom_killed
    assert "memory ran out (OOMKilled): raise the memory limit" in ending.message
    killed = {"exitCode": 137, "reason": "Error", "message": "the end of its log"}
    ending = view(phase="Failed", containerStatuses=[{"name": "main", "state": {"terminated": killed}}]).termination
    assert (ending.oom_killed, ending.message) == (False, "the end of its log")


def test_a_failing_init_container_tells_for_the_main_one():
    main = waiting("main", "PodInitializing")
    seen = view(
        phase="Pending", initContainerStatuses=[waiting("fetch", "CrashLoopBackOff", 12)], containerStatuses=[main]
    )
    assert (seen.terminated, seen.termination.exit_code) == (True, 12)


def test_an_init_container_that_is_done_is_no_end_of_the_main_one():
    done = {"name": "fetch", "state": {"terminated": {"exitCode": 0}}}
    seen = view(phase="Running", initContainerStatuses=[done], containerStatuses=[{"name": "main", "state": {}}])
    assert (seen.terminated, seen.termination) == (False, None)


def used(seconds: int, ago: int) -> JobUsage:
    return JobUsage(gpu_hours="0", gpu_seconds=seconds, measured_at=format_timestamp(NOW - timedelta(seconds=ago)))


@pytest.mark.parametrize(
    ("before", "pods", "gpus", "seconds"),
    [
        (None, [pod()], 0, None),
        (None, [], 8, 0),
        (None, [pod(), pod()], 8, 2 * 8 * 100),
        (used(500, 40), [pod()], 2, 500 + 2 * 40),
        (used(500, 40), [], 2, 500),
        (used(500, 5), [pod()], 2, 500),
        (used(500, 2000), [failed(1, start_time=NOW - timedelta(seconds=1500))], 1, 500 + 500),
        (used(500, 40), [failed(1, start_time=NOW - timedelta(seconds=1500))], 1, 500),
        (None, [pod(start_time=None)], 8, 0),
        (None, [pod(phase="Failed")], 8, 0),
    ],
)
def test_usage(before, pods, gpus, seconds):
    counted = count_usage(before, pods, gpus, NOW)
    assert (counted and counted.gpu_seconds) == seconds


def result(gain: str) -> JobResult:
    return JobResult(baseline_reward="0.5", best_reward="0.6", gain=gain, interval="", checkpoint="s3://b/c")


@pytest.mark.parametrize(
    ("usage", "ended", "price", "cost", "cost_per_point"),
    [
        (used(7200, 0), None, None, None, None),
        (used(7200, 0), None, "2.50", "5.00", None),
        (used(1, 0), None, "2.50", "0.00", None),
        (used(7200, 0), result("+0.2000"), "2.50", "5.00", "0.25"),
        (used(7200, 0), result("-0.0200"), "2.50", "5.00", None),
        (used(7200, 0), result("+0.0000"), "2.50", "5.00", None),
        # What was computed with another price stays.
        (used(7200, 0).model_copy(update={"cost": "4.00"}), result("+0.2000"), "2.50", "4.00", "0.20"),
        (used(7200, 0).model_copy(update={"cost": "4.00"}), None, None, "4.00", None),
    ],
)
def test_cost(usage, ended, price, cost, cost_per_point):
    priced = price_usage(usage, ended, None if price is None else Decimal(price))
    assert (priced.cost, priced.cost_per_point) == (cost, cost_per_point)
    assert (priced.gpu_seconds, priced.measured_at) == (usage.gpu_seconds, usage.measured_at)


def test_counting_again_counts_nothing_twice():
    first = count_usage(None, [pod()], 1, NOW)
    again = count_usage(first, [pod()], 1, NOW)
    later = count_usage(again, [pod()], 1, NOW + timedelta(seconds=15))
    assert (first, later.gpu_seconds) == (again, first.gpu_seconds + 15)
