"""What endpoints are asked for at this gateway; the operator decides from it how many server pods they have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from rft_api.gateway_demand import DemandReport, EndpointDemand
from rft_api.gateway_routes import Route
from rft_gateway.routes import RouteTable


@dataclass(slots=True)
class _Counts:
    last_request: datetime
    requests: int = 0
    in_flight: int = 0
    waiting: int = 0


def _now() -> datetime:
    return datetime.now(UTC)


class Demand:
    """Counts requests by the endpoints with the servers, which an adapter shares with its base.

    Args:
        clock: returns the time, with its time zone.
    """

    def __init__(self, clock: Callable[[], datetime] = _now):
        self._clock = clock
        self._started = clock()
        self._counts: dict[tuple[str, str], _Counts] = {}

    @contextmanager
    def request(self, route: Route) -> Iterator[None]:
        """Count a request from its arrival to its end. Within it, it may wait and be answered."""
        counts = self._counts_of(route)
        counts.last_request = self._clock()
        counts.requests += 1
        try:
            yield
        finally:
            counts.requests -= 1
            counts.last_request = self._clock()

    @contextmanager
    def in_flight(self, route: Route) -> Iterator[None]:
        """Count a request for as long as a server has it."""
        counts = self._counts_of(route)
        counts.in_flight += 1
        try:
            yield
        finally:
            counts.in_flight -= 1

    @contextmanager
    def waiting(self, route: Route) -> Iterator[None]:
        """Count a request for as long as it waits for a server."""
        counts = self._counts_of(route)
        counts.waiting += 1
        try:
            yield
        finally:
            counts.waiting -= 1

    def count_waiting(self, route: Route) -> int:
        """Return how many requests wait for the same endpoint."""
        counts = self._counts.get((route.namespace, route.base))
        return counts.waiting if counts is not None else 0

    def keep_only(self, table: RouteTable) -> None:
        """Forget the endpoints that do not exist any more, once their requests have ended."""
        bases = table.bases()
        self._counts = {name: counts for name, counts in self._counts.items() if name in bases or counts.requests}

    def report(self) -> DemandReport:
        """Return what is asked for now."""
        endpoints = [
            EndpointDemand(
                namespace=namespace,
                endpoint=base,
                in_flight=counts.in_flight,
                waiting=counts.waiting,
                last_request=counts.last_request,
            )
            for (namespace, base), counts in sorted(self._counts.items())
        ]
        return DemandReport(started=self._started, endpoints=endpoints)

    def _counts_of(self, route: Route) -> _Counts:
        name = route.namespace, route.base
        if name not in self._counts:
            self._counts[name] = _Counts(self._clock())
        return self._counts[name]
