"""The resources on which the plan of a RewardFunction depends: the endpoints that judge.

The manifest is read without validation, because this happens for every version of every object, whether or not it is
reconciled. A test holds that the references agree with what the plans depend on.
"""

from __future__ import annotations

from collections.abc import Iterator

from rft_api.model import Json
from rft_operator.kube.kinds import INFERENCE_ENDPOINT
from rft_operator.kube.store import Key


def find_references(function: Json) -> Iterator[Key]:
    """Yield the InferenceEndpoints that judge for a RewardFunction."""
    spec = function.get("spec", {})
    for grader in (spec, *((spec.get("combine") or {}).get("terms") or [])):
        judge = (grader.get("judge") or {}).get("model", {}).get("endpoint")
        if judge:
            yield Key(INFERENCE_ENDPOINT.name, function["metadata"]["namespace"], judge)
