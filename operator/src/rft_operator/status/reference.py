"""Render docs/reference/conditions.md, the reference of all conditions and reasons."""

from __future__ import annotations

from rft_operator.status.reasons import CONDITIONS, EXPLANATIONS

_INTRODUCTION = """# Conditions and reasons

The status of an object has conditions, which describe its state. `kubectl get` shows the reason of the main condition:
`Succeeded` of an RFTJob, `Ready` of a RewardFunction or an InferenceEndpoint. `kubectl describe` shows all conditions
with their messages. This page lists all reasons. [Troubleshooting](../troubleshooting.md) says what to look at for each
of them, and [exit codes](exit-codes.md) has more on those with which a trainer ends.

| Condition | Object and meaning |
|---|---|
"""


def render_reference() -> str:
    """Render the page."""
    lines = [_INTRODUCTION]
    lines += [f"| `{condition}` | {description} |\n" for condition, description in CONDITIONS.items()]
    lines.append("\n| Reason | Conditions | Meaning | What to do |\n|---|---|---|---|\n")
    for reason, row in sorted(EXPLANATIONS.items()):
        conditions = ", ".join(f"`{condition}`" for condition in row.conditions.split(", "))
        lines.append(f"| `{reason}` | {conditions} | {row.meaning} | {row.action} |\n")
    return "".join(lines)
