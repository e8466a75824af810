"""What gateways are asked for: how they tell the operator, which alone decides how many server pods an endpoint has."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from pydantic import AwareDatetime, Field

from rft_api.model import Model

DEMAND_PATH: Final = "/demand"
"""Path at a gateway's port for operators that answers with a `DemandReport`."""
WAKE_ANNOTATION: Final = "rft.dev/wake"
"""Annotation of an InferenceEndpoint that gateways set when a request finds no server pod: the time of this request, in
UTC and as RFC 3339 has it. The operator starts a pod for it, unless it is so long ago that a pod would have ended."""
_Count = Annotated[int, Field(ge=0, le=1 << 31)]
_Time = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC))]


class EndpointDemand(Model):
    """What one gateway is asked for, of an endpoint with server pods and of the adapters that these serve."""

    namespace: str
    """Namespace of the endpoint."""
    endpoint: str
    """Name of the endpoint: of a base, never of an adapter."""
    in_flight: _Count
    """Requests that servers are answering now."""
    waiting: _Count
    """Requests that wait for a server."""
    last_request: _Time
    """Time at which the last request arrived or ended, with its time zone."""


class DemandReport(Model):
    """What one gateway is asked for. Endpoints that nobody has asked for since its start are not listed."""

    started: _Time
    """Time at which the gateway started: of earlier requests it knows nothing."""
    endpoints: list[EndpointDemand] = []
    """The endpoints."""
