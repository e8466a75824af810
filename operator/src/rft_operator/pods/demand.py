"""What all gateways together are asked for, from the report of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from rft_api.gateway_demand import DemandReport


@dataclass(frozen=True)
class Demand:
    """What all gateways together are asked for, of one endpoint and of its adapters."""

    requests: int
    """Requests that servers are answering, or that wait for a server."""
    last_request: datetime | None
    """Time at which the last request arrived or ended; None when no gateway knows of one."""
    gateways_started: datetime | None
    """Time at which the youngest gateway started: it knows of no earlier request. None when no gateway answers."""
    problem: str | None
    """Why this is not everything that is asked for: a gateway cannot be asked. None when it is."""


class TotalDemand:
    """What all gateways together are asked for, of all endpoints.

    Args:
        reports: the reports of the gateways that have answered.
        problem: why this is not everything that is asked for; None when all gateways have answered.
    """

    def __init__(self, reports: Sequence[DemandReport], problem: str | None):
        self._problem = problem
        self._started = max((report.started for report in reports), default=None)
        self._endpoints: dict[tuple[str, str], tuple[int, datetime]] = {}
        """Requests, and the time of the last one, by namespace and name."""
        for report in reports:
            for each in report.endpoints:
                name, requests, last = (each.namespace, each.endpoint), each.in_flight + each.waiting, each.last_request
                others, latest = self._endpoints.get(name, (0, last))
                self._endpoints[name] = others + requests, max(latest, last)

    def of(self, namespace: str, endpoint: str) -> Demand:
        """Return what is asked for, of one endpoint and of its adapters."""
        requests, last = self._endpoints.get((namespace, endpoint), (0, None))
        return Demand(requests, last, self._started, self._problem)
