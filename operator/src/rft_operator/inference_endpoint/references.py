"""Which plans look at one another: that of an adapter at its base endpoint, that of a base at its adapters."""

from __future__ import annotations

from collections.abc import Iterator

from rft_api.model import Json
from rft_operator.kube.kinds import INFERENCE_ENDPOINT
from rft_operator.kube.store import Key


def find_base(endpoint: Json) -> Iterator[Key]:
    """The base endpoint of an adapter: their plans look at each other."""
    base = endpoint.get("spec", {}).get("baseEndpoint")
    if base:
        yield Key(INFERENCE_ENDPOINT.name, endpoint["metadata"]["namespace"], base)
