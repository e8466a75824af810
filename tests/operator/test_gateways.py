"""How the operator asks gateways what they are asked for, over HTTP, and what it makes of their answers."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest
from support.patience import PATIENCE_SECONDS

from rft_api.ports import free_port
from rft_operator.kube.store import Key
from rft_operator.main import parse_arguments
from rft_operator.pods import gateways as module
from rft_operator.pods.demand import Demand
from rft_operator.pods.gateways import MAXIMUM_BYTES, Gateways
from rft_operator.pods.slots import Limits
from rft_operator.pods.transport import PodTransport

BASE, OTHER = Key("InferenceEndpoint", "team", "base"), Key("InferenceEndpoint", "team", "other")
STARTED = datetime(2026, 1, 31, 12, 0, tzinfo=UTC)
LAST = "2026-01-31T13:00:00+00:00"


def asked(in_flight: int = 0, waiting: int = 0, endpoint: str = "base", last: str = LAST) -> dict[str, Any]:
    """What a gateway is asked for, of one endpoint."""
    counts = {"inFlight": in_flight, "waiting": waiting}
    return {"namespace": "team", "endpoint": endpoint, "lastRequest": last, **counts}


def report(*endpoints: dict[str, Any], started: datetime = STARTED) -> bytes:
    """The report of a gateway."""
    return json.dumps({"started": started.isoformat(), "endpoints": endpoints}).encode()


class Gateway:
    """A gateway of this machine.

    Attributes:
        body: what it answers.
        status: the status line's end.
        header: a further header.
        questions: the requests that it was sent.
    """

    def __init__(self, body: bytes = b"", status: str = "200 OK", header: str = "") -> None:
        self.body, self.status, self.header = body or report(), status, header
        self.questions: list[bytes] = []

    async def listen(self, address: str = "127.0.0.1", port: int = 0) -> int:
        """Opens its port, and returns it."""
        self._server = await asyncio.start_server(self._answer, address, port)
        return int(self._server.sockets[0].getsockname()[1])

    def stop(self) -> None:
        """Goes away."""
        self._server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.questions.append(await reader.readuntil(b"\r\n\r\n"))
        head = f"HTTP/1.1 {self.status}\r\n{self.header}Content-Length: {len(self.body)}\r\n\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        writer.close()


Scenario = Callable[[Callable[..., Gateways]], Awaitable[Any]]


def run(scenario: Scenario) -> Any:
    """Runs a scenario, which gets what makes `Gateways` of URLs and further arguments."""

    async def limited() -> Any:
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            httpx.AsyncClient(trust_env=False, transport=PodTransport(2 * MAXIMUM_BYTES)) as client,
        ):

            def make(*urls: str, enqueue: Callable[[Key], None] = lambda _: None, **more: Any) -> Gateways:
                return Gateways(client, urls, Limits(), enqueue, **more)

            return await scenario(make)

    return asyncio.run(limited())


def demand_of(*gateways: Gateway) -> Demand:
    """The demand for `BASE` at these gateways."""

    async def scenario(make: Callable[..., Gateways]) -> Demand | None:
        return await make(*[f"http://127.0.0.1:{await gateway.listen()}" for gateway in gateways]).demand(BASE)

    demand: Demand = run(scenario)
    return demand


def test_the_demand_is_the_sum_of_what_all_gateways_are_asked_for():
    later = STARTED + timedelta(minutes=1)
    first = Gateway(report(asked(3, 4, last="2026-01-31T15:00:00+02:00"), asked(100, endpoint="other")))
    second = Gateway(report(asked(1, 2, last="2026-01-31T13:30:00Z"), started=later))
    demand = demand_of(first, second, Gateway())
    assert demand == Demand(10, datetime(2026, 1, 31, 13, 30, tzinfo=UTC), later, None)
    assert first.questions[0].startswith(b"GET /demand HTTP/1.1\r\n")


def test_without_an_address_nothing_is_said():
    async def scenario(make):
        return await make().demand(BASE)

    assert run(scenario) is None


def test_each_address_of_a_host_is_a_gateway_and_they_are_looked_up_each_time(monkeypatch):
    addresses = ["127.0.0.1", "127.0.0.2"]
    real = socket.getaddrinfo

    def look_up(host, *rest, **more):
        if host != "gateways.rft.svc":
            return real(host, *rest, **more)
        if not addresses:
            raise socket.gaierror("Name or service not known")
        return [result for address in addresses for result in real(address, *rest, **more)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    async def scenario(make):
        gateways = [Gateway(report(asked(1))), Gateway(report(asked(2)))]
        port = await gateways[0].listen("127.0.0.1")
        await gateways[1].listen("127.0.0.2", port)
        time = 0.0
        asking = make(f"http://gateways.rft.svc:{port}", clock=lambda: time)
        demands = []
        for left in (2, 1, 0):
            del addresses[left:]
            demands.append(await asking.demand(BASE))
            time += 60
        return demands

    both, one, none = run(scenario)
    assert [(demand.requests, demand.problem) for demand in (both, one)] == [(3, None), (1, None)]
    assert none == Demand(
        0, None, None, "the gateways cannot be asked: gateways.rft.svc has no address: Name or service not known"
    )


def test_a_name_that_can_have_no_address_is_a_problem_like_any_other():
    async def scenario(make):
        return await make("http://a..b:80").demand(BASE)

    assert run(scenario).problem.startswith("the gateways cannot be asked: a..b has no address: ")


WRONG: dict[str, tuple[Callable[[], Gateway], str]] = {
    "not JSON": (lambda: Gateway(b"<html>"), "something else"),
    "another object": (lambda: Gateway(b'{"error": "no"}'), "something else"),
    "a negative number": (lambda: Gateway(report(asked(-1))), "something else"),
    "a number that no program writes": (lambda: Gateway(report(asked(10**4200))), "something else"),
    "a number that is none": (lambda: Gateway(report(asked(1)).replace(b": 1,", b": NaN,")), "something else"),
    "a local time": (lambda: Gateway(report(asked(1, last="2026-01-31T13:00:00"))), "something else"),
    "a time of no gateway": (lambda: Gateway(report(asked(1, last="0001-01-01T00:00:00+14:00"))), "something else"),
    "nested": (lambda: Gateway(b"[" * 100_000), "something else"),
    "an error": (lambda: Gateway(status="500 Internal Server Error"), "answers with HTTP 500"),
    "another place": (lambda: Gateway(status="302 Found", header="Location: http://127.0.0.1/\r\n"), "HTTP 302"),
    "compressed": (lambda: Gateway(header="Content-Encoding: gzip\r\n"), "compressed"),
    "too much": (lambda: Gateway(b" " * (MAXIMUM_BYTES + 1)), "answers with more than 4"),
    "a clock that is behind": (
        lambda: Gateway(header="Date: Sat, 31 Jan 2026 12:00:00 GMT\r\n"),
        "has a clock that differs",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_makes_the_demand_incomplete(name):
    make, text = WRONG[name]
    demand = demand_of(Gateway(report(asked(5))), make())
    assert (demand.requests, demand.gateways_started) == (5, STARTED)
    assert demand.problem is not None
    assert demand.problem.startswith("the gateway at 127.0.0.1 ")
    assert text in demand.problem


@pytest.mark.parametrize("date", [None, "yesterday", ""])
def test_a_clock_that_is_right_or_not_said_is_no_problem(date):
    text = format_datetime(datetime.now(UTC), usegmt=True) if date is None else date
    assert demand_of(Gateway(report(asked(5)), header=f"Date: {text}\r\n")).problem is None


def test_a_large_report_is_read():
    many = [asked(1, endpoint=f"endpoint-{number}") for number in range(10_000)]
    assert demand_of(Gateway(report(asked(5), *many))).requests == 5


def test_one_question_serves_all_endpoints_that_are_reconciled_together():
    async def scenario(make):
        gateway = Gateway(report(asked(1), asked(2, endpoint="other")))
        asking = make(f"http://127.0.0.1:{await gateway.listen()}")
        demands = await asyncio.gather(*(asking.demand(key) for key in (BASE, OTHER) * 20))
        return gateway.questions, [demand.requests for demand in demands]

    questions, requests = run(scenario)
    assert (len(questions), requests) == (1, [1, 2] * 20)


def test_endpoints_are_reconciled_when_their_demand_changes(monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)

    async def scenario(make):
        changed: asyncio.Queue[Key] = asyncio.Queue()
        gateway = Gateway()
        port = await gateway.listen(port=free_port())  # nobody else takes it while the gateway is away
        asking = make(f"http://127.0.0.1:{port}", enqueue=changed.put_nowait)
        following = asyncio.create_task(asking.follow())
        await asyncio.sleep(0.1)
        assert not gateway.questions  # nobody wants to know
        for key in (BASE, OTHER):
            await asking.demand(key)
        gateway.body = report(asked(1), asked(0, endpoint="other"))  # of the other, only the last request is new
        assert await changed.get() == BASE
        assert (await asking.demand(BASE)).requests == 1
        gateway.stop()
        assert {await changed.get(), await changed.get()} == {BASE, OTHER}
        assert (await asking.demand(BASE)).problem is not None
        assert (await asking.demand(OTHER)).problem is not None
        await gateway.listen(port=port)
        assert {await changed.get(), await changed.get()} == {BASE, OTHER}
        number = len(gateway.questions)
        await asyncio.sleep(0.1)
        assert len(gateway.questions) <= number + 1  # nobody wants to know any more
        following.cancel()

    run(scenario)


def test_an_endpoint_is_looked_at_again_though_nothing_has_changed_and_one_that_is_gone_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.05)

    async def scenario(make):
        changed: asyncio.Queue[Key] = asyncio.Queue()
        asking = make(f"http://127.0.0.1:{await Gateway().listen()}", enqueue=changed.put_nowait)
        following = asyncio.create_task(asking.follow())
        await asking.demand(BASE)
        assert await changed.get() == BASE
        await asyncio.sleep(0.2)
        assert changed.empty()
        following.cancel()

    run(scenario)


REQUIRED = [f"--{name}-image=x" for name in ("trainer", "reward", "server-cuda", "server-cpu", "loader")]


def test_addresses_on_the_command_line():
    urls = ["http://gateways.rft.svc:8081", "http://[::1]:80"]
    options = parse_arguments([*REQUIRED, *(f"--gateway-demand={url}" for url in urls)])
    assert options.gateway_demand == urls
    assert parse_arguments(REQUIRED).gateway_demand == []


@pytest.mark.parametrize(
    "url", ["", "gateways:8081", "https://gateways:8081", "http://:80", "http://g:81/demand", "http://g:x"]
)
def test_other_addresses_are_refused(url, capsys):
    with pytest.raises(SystemExit):
        parse_arguments([*REQUIRED, f"--gateway-demand={url}"])
    assert "--gateway-demand" in capsys.readouterr().err
