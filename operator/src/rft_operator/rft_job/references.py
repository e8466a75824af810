"""The resources on which the plan of an RFTJob depends: its rewards and its endpoints.

The manifest is read without validation, because this happens for every version of every object, whether or not it is
reconciled. A test holds that the references agree with what the plans depend on.
"""

from __future__ import annotations

from collections.abc import Iterator

from rft_api.conditions import has_ended
from rft_api.model import Json
from rft_operator.kube.kinds import INFERENCE_ENDPOINT, REWARD_FUNCTION
from rft_operator.kube.store import Key
from rft_operator.rft_job import names


def find_references(job: Json) -> Iterator[Key]:
    """Yield the RewardFunctions and InferenceEndpoints on which the plan of an RFTJob depends."""
    namespace, spec = job["metadata"]["namespace"], job.get("spec", {})
    endpoint = spec.get("endpoint")
    if endpoint:
        for name in (endpoint["name"], endpoint.get("baseEndpoint") or names.base_endpoint(endpoint["name"])):
            yield Key(INFERENCE_ENDPOINT.name, namespace, name)
        for checkpoint in job.get("status", {}).get("checkpoints") or () if endpoint.get("checkpoints") else ():
            name = names.checkpoint_endpoint(endpoint["name"], checkpoint["step"])
            yield Key(INFERENCE_ENDPOINT.name, namespace, name)
    if has_ended(job.get("status", {})):
        return  # the plan of a job that has ended does not depend on its rewards
    data = spec.get("data", {})
    for split in ("train", "validation", "test"):
        for source in data.get(split) or []:
            yield Key(REWARD_FUNCTION.name, namespace, source["reward"])
    for shadow in spec.get("shadowRewards") or []:
        yield Key(REWARD_FUNCTION.name, namespace, shadow)
