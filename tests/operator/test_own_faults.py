"""An error of the operator's own program: whoever looks at the object reads it, and nobody else notices anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lives import REWARD, REWARDS, wait_for
from pretending import Kubelet, reason, running_operator
from support.patience import wait_until

PROGRAM = Path(__file__).with_name("faulty_operator.py")
COUNT = 'rft_operator_reconcile_seconds_count{kind="RewardFunction",outcome="error"} '


def reward(name: str) -> dict[str, Any]:
    return {**REWARD, "metadata": {"name": name}}


def errors(metrics: str) -> float:
    return sum(float(line.removeprefix(COUNT)) for line in metrics.splitlines() if line.startswith(COUNT))


def test_a_fault_of_the_operator_is_said_at_the_object_and_passes(
    plane, operator_kubeconfig, patient_kubectl, namespace_there, tmp_path
):
    kubectl, team, switch = patient_kubectl, namespace_there, tmp_path / "fault"
    program = (str(PROGRAM), str(switch), "cursed")
    with running_operator(operator_kubeconfig, tmp_path / "log", program=program) as operator:
        kubectl.apply(reward("cursed"), namespace=team)
        (pod,) = Kubelet(kubectl, team).pods(REWARDS)
        Kubelet(kubectl, team).run(pod, "reward-server")
        wait_for(kubectl, team, "rewardfunction/cursed", "Ready", "Ready")
        assert errors(operator.metrics()) == 0
        switch.touch()
        kubectl("patch", "rewardfunction", "cursed", f"--namespace={team}", "--type=merge",
                '--patch={"spec": {"replicas": 2}}')  # fmt: skip
        found = wait_for(kubectl, team, "rewardfunction/cursed", "Ready", "OperatorFailing")
        (condition,) = (c for c in found["status"]["conditions"] if c["type"] == "Ready")
        assert condition["message"].startswith("the operator met a fault of its own, and tries again")
        # Others are looked after, and the fault is met again.
        kubectl.apply(reward("good"), namespace=team)
        kubectl.wait_for("rewardfunction/good", f"--namespace={team}", until=lambda found: reason(found, "Ready"))
        wait_until(lambda: errors(operator.metrics()) >= 3, operator.log)
        assert "an internal of the program" in operator.log()
        events = kubectl.get("events", f"--namespace={team}")["items"]
        (event,) = (event for event in events if event["reason"] == "OperatorFailing")
        assert (event["type"], event["involvedObject"]["name"]) == ("Warning", "cursed")
        assert event["message"] == condition["message"]
        assert "internal" not in event["message"]
        switch.unlink()
        kubectl.wait_for(
            "rewardfunction/cursed", f"--namespace={team}",
            until=lambda found: reason(found, "Ready") not in (None, "OperatorFailing"),
        )  # fmt: skip
