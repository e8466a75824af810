"""Gateways that say what they are asked for, and do nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from rft_api.foreign.small_server import Page, SmallServer
from rft_api.gateway_demand import DEMAND_PATH, DemandReport, EndpointDemand
from rft_api.ports import free_port


class PretendedGateway:
    """A gateway that has started a day ago, as it says.

    Args:
        port: the port that it listens at, by default a free one. Nobody else takes it while the gateway is away.
    """

    def __init__(self, port: int | None = None) -> None:
        self._started = datetime.now(UTC) - timedelta(days=1)
        self._endpoints: dict[tuple[str, str], EndpointDemand] = {}
        self._server = SmallServer(
            "127.0.0.1", port or free_port(), {DEMAND_PATH: Page("application/json", self._report)}
        )
        self.port = self._server.port
        self.url = f"http://127.0.0.1:{self.port}"

    def tell(self, namespace: str, endpoint: str, in_flight: int = 0, waiting: int = 0) -> None:
        """The last request for an endpoint is of now, and there are so many."""
        self._endpoints[namespace, endpoint] = EndpointDemand(
            namespace=namespace, endpoint=endpoint, in_flight=in_flight, waiting=waiting, last_request=datetime.now(UTC)
        )

    def stop(self) -> None:
        """Goes away."""
        self._server.stop()

    def _report(self) -> bytes:
        report = DemandReport(started=self._started, endpoints=list(self._endpoints.values()))
        return report.model_dump_json(by_alias=True).encode()
