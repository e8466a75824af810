"""The manifest that a reward server reads, and whether the operator can keep it in a ConfigMap."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Final

from rft_api.config_map_size import CONFIG_MAP_BYTES, size_violation
from rft_api.model import Violation
from rft_api.reward_function import RewardFunction

FUNCTION_KEY: Final = "function.json"
"""Key of the function in its ConfigMap."""
# Fields of the spec that the reward server does not read: a change of them needs no new pods.
_NOT_READ = {"replicas", "egress", "credentials", "pod"}
_ADVICE = (
    "move data out of the code, into a file that pod.volumes mounts and sandbox.readable names, or shorten the tests"
)


def reward_document(function: RewardFunction) -> str:
    """Return the manifest that the reward server reads.

    Args:
        function: the function, whose references to ConfigMaps have been replaced by the code.
    """
    document = {
        "apiVersion": function.api_version,
        "kind": function.kind,
        "metadata": {"name": function.metadata.name, "namespace": function.metadata.namespace},
        "spec": function.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude=_NOT_READ),
    }
    return json.dumps(document, ensure_ascii=False, indent=1) + "\n"


def document_violation(function: RewardFunction, document: str) -> Violation | None:
    """Return why a function is too large for a cluster, at the field that takes most of it; None when it is not.

    Args:
        function: the function as the user wrote it.
        document: the manifest that the reward server would read.
    """
    if len(document.encode()) <= CONFIG_MAP_BYTES:
        return None
    violation = size_violation(json.loads(document)["spec"], ("spec",), len(document.encode()), _ADVICE)
    # Code from a ConfigMap stands in the spec as sourceFrom.
    references = {
        (*location, "python", "source"): (*location, "python", "sourceFrom")
        for location, grader in function.spec.graders()
        if grader.python is not None and grader.python.source_from is not None
    }
    return replace(violation, location=references.get(violation.location, violation.location))
