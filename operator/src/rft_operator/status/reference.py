"""Renders docs/reference/conditions.md from the conditions and reasons that the operator knows."""

from __future__ import annotations

from rft_operator.status.reasons import EXPLANATIONS, ConditionType

_INTRODUCTION = """# Conditions and reasons

What the operator found out about an object stands in the conditions of its status. `kubectl get` shows the reason of
the main one (`Succeeded` of an RFTJob, `Ready` of the others), `kubectl describe` shows all with their messages. This
page has every reason. [Troubleshooting](../troubleshooting.md) says what to look at for each, [exit
codes](exit-codes.md) has more on those that a trainer ends with.

| Condition | Object and meaning |
|---|---|
"""

_ABOUT = {
    ConditionType.SUCCEEDED: "RFTJob: `Unknown` while it can still go on, `True` with a result, `False` when it has "
    "ended without one. Once `True` or `False` it stays so.",
    ConditionType.SPEC_ACCEPTED: "RFTJob: whether the spec can be run, and is the one that runs.",
    ConditionType.REWARDS_READY: "RFTJob: whether every RewardFunction that it refers to is Ready.",
    ConditionType.REWARD_HACKING_SUSPECTED: "RFTJob with `spec.shadowRewards`: whether the reward rises while a shadow "
    "falls. Once the job has ended it stays as it was.",
    ConditionType.ENDPOINT_READY: "RFTJob with `spec.endpoint`: the `Ready` condition of that endpoint, "
    "with its reason.",
    ConditionType.READY: "RewardFunction: it scores and passes its tests. InferenceEndpoint: the model answers by its "
    "name.",
}


def render_reference() -> str:
    """The page."""
    lines = [_INTRODUCTION]
    lines += [f"| `{kind}` | {_ABOUT[kind]} |\n" for kind in ConditionType]
    lines.append("\n| Reason | In | What it says | What to do |\n|---|---|---|---|\n")
    for reason, row in sorted(EXPLANATIONS.items()):
        conditions = ", ".join(f"`{condition}`" for condition in row.conditions.split(", "))
        lines.append(f"| `{reason}` | {conditions} | {row.meaning} | {row.action} |\n")
    return "".join(lines)
