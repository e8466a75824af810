"""The resources on which the plan of an InferenceEndpoint depends: an adapter and its base depend on each other."""

from __future__ import annotations

from collections.abc import Iterator

from rft_api.model import Json
from rft_operator.kube.kinds import INFERENCE_ENDPOINT
from rft_operator.kube.store import Key


def find_base(endpoint: Json) -> Iterator[Key]:
    """Yield the base endpoint of an adapter."""
    base = endpoint.get("spec", {}).get("baseEndpoint")
    if base:
        yield Key(INFERENCE_ENDPOINT.name, endpoint["metadata"]["namespace"], base)
