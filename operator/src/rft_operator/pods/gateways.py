"""Asks all gateways what they are asked for: once for all endpoints, and only while there are some that need it."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpx
from pydantic import ValidationError

from rft_api.foreign.http import Answer, ForeignAnswerError, ask
from rft_api.gateway_demand import DEMAND_PATH, DemandReport
from rft_operator.kube.store import Key
from rft_operator.pods.demand import Demand, TotalDemand
from rft_operator.pods.slots import Limits

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
"""Seconds between two questions to a gateway."""
FRESH_SECONDS = 1.0
"""Seconds for which answers are used when an endpoint is planned. Its last pod must not end just after a request."""
ASK_SECONDS = 3.0
"""Deadline for the addresses of a host, and for the whole answer of a gateway."""
MAXIMUM_BYTES = 4 << 20
"""Largest answer: some 25,000 endpoints."""
CLOCK_DIFFERENCE = timedelta(minutes=1)
"""Largest difference between the clocks of a gateway and of the operator: the times in its answer are compared with
those of others."""
LOOK_SECONDS = 300.0
"""Seconds after which an endpoint is looked at again, whatever was asked for; one that is gone is then forgotten."""


@dataclass(frozen=True)
class _Told:
    """What was said about an endpoint, and when."""

    demand: Demand
    time: float


class Gateways:
    """Asks gateways, and has an endpoint reconciled when the demand for it differs from what was last said about it.

    Args:
        client: the client.
        urls: addresses of gateways, such as http://HOST:PORT. Each address that a host has is that of a gateway.
        limits: how many reconciliations work.
        enqueue: has a resource reconciled.
        clock: returns a time in seconds.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        urls: Sequence[str],
        limits: Limits,
        enqueue: Callable[[Key], None],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._client = client
        self._urls = [httpx.URL(url) for url in urls]
        self._limits = limits
        self._enqueue = enqueue
        self._clock = clock
        self._asking = asyncio.Lock()
        self._asked = -math.inf
        """When the gateways were asked last."""
        self._total = TotalDemand((), None)
        self._problem: str | None = None
        self._told: dict[Key, _Told] = {}

    async def demand(self, endpoint: Key) -> Demand | None:
        """Return the demand for an endpoint; None when the operator was told of no gateway.

        Meanwhile the calling reconciliation does not count as working.
        """
        if not self._urls:
            return None
        if not self._is_fresh():
            async with self._limits.working.lent(endpoint.namespace), self._asking:
                if not self._is_fresh():  # another reconciliation may have asked while this one waited
                    await self._ask_all()
        demand = self._total.of(endpoint.namespace, endpoint.name)
        self._told[endpoint] = _Told(demand, self._clock())
        return demand

    async def follow(self) -> None:
        """Ask all gateways again and again, until the task is cancelled."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self._told:
                async with self._asking:
                    await self._ask_all()
                self._tell_of_changes()

    def _is_fresh(self) -> bool:
        return self._clock() - self._asked < FRESH_SECONDS

    def _tell_of_changes(self) -> None:
        now = self._clock()
        for endpoint, told in list(self._told.items()):
            demand = self._total.of(endpoint.namespace, endpoint.name)
            # The time of the last request matters later, to the reconciliation at the end of the time without any.
            is_same = replace(demand, last_request=told.demand.last_request) == told.demand
            if not is_same or now - told.time > LOOK_SECONDS:
                del self._told[endpoint]
                self._enqueue(endpoint)

    async def _ask_all(self) -> None:
        hosts = await asyncio.gather(*(self._ask_host(url) for url in self._urls))
        answers = [answer for host in hosts for answer in host]
        problem = next((answer for answer in answers if isinstance(answer, str)), None)
        if problem != self._problem:
            log.warning("%s", "all gateways answer again" if problem is None else problem)
        self._total = TotalDemand([answer for answer in answers if isinstance(answer, DemandReport)], problem)
        # Counted from their end: while a gateway hangs, endpoints that wait for each other's turn share one round.
        self._problem, self._asked = problem, self._clock()

    async def _ask_host(self, url: httpx.URL) -> list[DemandReport | str]:
        """Ask all gateways of a host; return the report of each, or why there is none."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                results = await loop.getaddrinfo(url.host, url.port or 80, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError, TimeoutError) as error:
            return [f"the gateways cannot be asked: {url.host} has no address: {error or 'no answer'}"]
        addresses = sorted({str(address[0]) for *_, address in results})
        return await asyncio.gather(*(self._ask(address, url.port or 80) for address in addresses))

    async def _ask(self, address: str, port: int) -> DemandReport | str:
        """Ask the gateway at an address; return its report, or why there is none."""
        origin = f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"
        gateway = f"the gateway at {address}"
        try:
            answer = await ask(self._client, "GET", f"{origin}{DEMAND_PATH}", ASK_SECONDS, MAXIMUM_BYTES)
        except ForeignAnswerError as error:
            return f"{gateway} {error}"
        if answer.status != 200:
            return f"{gateway} answers with HTTP {answer.status}"
        if abs(_time_of(answer) - datetime.now(UTC)) > CLOCK_DIFFERENCE:
            return f"{gateway} has a clock that differs from the operator's: correct the time of the nodes"
        try:
            return DemandReport.model_validate_json(answer.body)
        except ValidationError:
            return f"{gateway} answers with something else than what it is asked for"


def _time_of(answer: Answer) -> datetime:
    """Return the time of the server, as its answer says it; now when it does not."""
    try:
        return parsedate_to_datetime(answer.headers["date"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return datetime.now(UTC)
