"""Which requests wait for a server, what the others are told, and that one wakes an endpoint for all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.gateway import route
from support.patience import PATIENCE_SECONDS

from rft_api.gateway_routes import Route
from rft_gateway import proxy
from rft_gateway import waiting as waiting_module
from rft_gateway.cold_start import WAITING_BYTES, Crowd, Reason, refuse
from rft_gateway.demand import Demand
from rft_gateway.errors import ApiError
from rft_gateway.metrics import Metrics
from rft_gateway.routes import EndpointState, RouteTable
from rft_gateway.waiting import Place, Waiting

START_SECONDS = 60.0
ASLEEP = EndpointState(can_wake=True, queue=2, timeout=START_SECONDS, reason="ScaledToZero")
NOBODY = Crowd(0)


def changed(**changes: object) -> EndpointState:
    return EndpointState(**{**vars(ASLEEP), **changes})


@pytest.mark.parametrize(
    ("state", "crowd", "waited", "reason"),
    [
        (ASLEEP, NOBODY, None, None),
        (ASLEEP, Crowd(1), None, None),
        (ASLEEP, Crowd(2), None, Reason.QUEUE_FULL),
        (ASLEEP, Crowd(0, has_room=False), None, Reason.QUEUE_FULL),
        # who waits keeps its place when others have come
        (ASLEEP, Crowd(3, has_room=False), START_SECONDS - 0.1, None),
        (ASLEEP, NOBODY, START_SECONDS, Reason.TIMED_OUT),
        (changed(queue=0), NOBODY, None, Reason.NOT_HELD),
        (changed(can_wake=False), NOBODY, None, Reason.NOT_AVAILABLE),
        (changed(can_wake=False), NOBODY, 5.0, Reason.NOT_AVAILABLE),
        (ASLEEP, Crowd(0, is_stopping=True), 5.0, Reason.STOPPING),
        *[
            (changed(reason=reason), NOBODY, waited, Reason.CANNOT_START)
            for reason in ("ModelInvalid", "ConfigurationInvalid", "AdapterRejected", "NameTaken")
            for waited in (None, 5.0)
        ],
        *[
            (changed(reason=reason), NOBODY, 5.0, None)
            for reason in ("", "Starting", "Waking", "Unschedulable", "ImagePullFailed", "AdapterLoading")
        ],
        (EndpointState(), NOBODY, None, Reason.NOT_AVAILABLE),
    ],
)  # fmt: skip
def test_who_waits(state, crowd, waited, reason):
    refusal = refuse("tax", state, crowd, waited)
    assert (refusal and refusal.reason) == reason
    if refusal is not None:
        assert refusal.wakes == (reason is Reason.NOT_HELD)
        error = refusal.error
        assert error.status == (429 if reason is Reason.QUEUE_FULL else 503)
        assert "`tax`" in error.message or reason is Reason.STOPPING
        # to try again helps, but where somebody has to correct something
        assert ("retry-after" in error.headers) == (reason is not Reason.CANNOT_START)


@pytest.mark.parametrize("waited", [None, START_SECONDS])
@pytest.mark.parametrize("can_wake", [True, False])
def test_the_condition_says_why(waited, can_wake):
    state = changed(can_wake=can_wake, queue=0, reason="Unschedulable", message="0/3 nodes have 8 GPUs.")
    refusal = refuse("tax", state, NOBODY, waited)
    assert refusal is not None
    assert "(Unschedulable: 0/3 nodes have 8 GPUs)" in refusal.error.message


class Hall:
    """Requests that wait, and a record of what was woken."""

    def __init__(self) -> None:
        self.routes, self.demand, self.metrics = RouteTable(), Demand(), Metrics()
        self.woken: list[tuple[str, str]] = []
        self.set_servers({})
        self.waiting = Waiting(self.routes, self.demand, self.metrics, self._wake)

    async def _wake(self, namespace: str, endpoint: str) -> None:
        self.woken.append((namespace, endpoint))

    def set_servers(self, servers: dict[str, list[str]], state: EndpointState | None = None) -> None:
        routes = [route("base", *servers.get("base", [])), route("tax", *servers.get("tax", []), base="base")]
        state = state or changed(queue=10_000)
        self.routes.replace(routes, {(each.namespace, each.model): state for each in routes})

    def route(self, model: str) -> Route:
        found = self.routes.find("team", model)
        assert found is not None
        return found

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"namespace": "team", **labels}) or 0.0

    async def ask(self, model: str | Route, size: int = 10) -> str:
        """What a request does: it waits until there are servers."""
        asked = self.route(model) if isinstance(model, str) else model
        with self.waiting.place(asked, size) as place:
            while not place.find_route().servers:
                await place.wait(None)
            place.note_answer()
        return asked.model

    async def crowd(self, count: int) -> None:
        """Wait until so many wait."""
        while self.demand.count_waiting(self.route("base")) != count:
            await asyncio.sleep(0)


@asynccontextmanager
async def limited() -> AsyncIterator[Hall]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        yield Hall()


@pytest.mark.parametrize(
    ("changes", "is_reason"),
    [
        ({"message": "2 of 3 parts are loaded"}, False),
        ({"pods": 2}, False),
        ({"reason": "AdapterRejected", "message": "has no weights"}, True),
        ({"is_ready": True}, True),
        ({"can_wake": False}, True),
    ],
)
def test_which_changes_have_those_who_wait_ask_again(changes, is_reason):
    hall = Hall()
    with hall.waiting.place(hall.route("base"), 1) as place:
        place.find_route()
        hall.set_servers({}, changed(**{"queue": 10_000, **changes}))
        assert place.has_changed() == is_reason


def test_the_bodies_of_a_namespace_leave_room_for_those_of_others():
    async def scenario() -> None:
        async with limited() as hall:
            routes = [route("base", namespace=name) for name in ("team", "other")]
            hall.routes.replace(routes, {(each.namespace, each.model): changed(queue=10_000) for each in routes})
            team = asyncio.create_task(hall.ask(routes[0], WAITING_BYTES // 2))
            await hall.crowd(1)
            with pytest.raises(ApiError) as error:
                await hall.ask(routes[0], 1)
            assert (error.value.status, error.value.code) == (429, "model_queue_full")
            other = asyncio.create_task(hall.ask(routes[1], WAITING_BYTES // 4))
            while not hall.demand.count_waiting(routes[1]):
                await asyncio.sleep(0)
            assert hall.waiting.bodies.size == WAITING_BYTES * 3 // 4
            for task in (team, other):
                task.cancel()
            await asyncio.gather(team, other, return_exceptions=True)
            assert hall.waiting.bodies.size == 0

    asyncio.run(scenario())


def test_a_thousand_requests_wake_an_endpoint_once():
    async def scenario() -> None:
        async with limited() as hall:
            asks = [asyncio.create_task(hall.ask(model)) for model in ("base", "tax") * 500]
            await hall.crowd(1000)
            assert hall.value("rft_gateway_waiting", model="tax") == 500
            assert hall.waiting.bodies.size == 10_000
            await asyncio.sleep(0)
            hall.set_servers({"base": ["http://a:1"], "tax": ["http://a:1"]})
            assert len(await asyncio.gather(*asks)) == 1000
            assert hall.woken == [("team", "base")]
            assert hall.value("rft_gateway_cold_starts_total", model="base", outcome="Started") == 1
            assert hall.value("rft_gateway_cold_start_seconds_count", model="base") == 1
            assert (hall.value("rft_gateway_waiting", model="tax"), hall.waiting.bodies.size) == (0, 0)

    asyncio.run(scenario())


def test_an_endpoint_is_woken_again_while_it_has_no_pod(monkeypatch):
    monkeypatch.setattr(waiting_module, "WAKE_SECONDS", (0.02, 0.02))
    monkeypatch.setattr(waiting_module, "TICK_SECONDS", 0.01)

    async def scenario() -> None:
        async with limited() as hall:
            ask = asyncio.create_task(hall.ask("base"))
            while len(hall.woken) < 3:
                await asyncio.sleep(0.01)
            hall.set_servers({}, changed(pods=1))
            await hall.crowd(1)
            await asyncio.sleep(0.1)
            woken = len(hall.woken)
            await asyncio.sleep(0.2)
            assert len(hall.woken) == woken
            ask.cancel()
            await asyncio.gather(ask, return_exceptions=True)
            assert hall.value("rft_gateway_cold_starts_total", model="base", outcome="Abandoned") == 1

    asyncio.run(scenario())


def test_one_of_a_crowd_asks_a_server_that_does_not_have_the_adapter_yet(monkeypatch):
    """When it is answered, all others follow."""
    monkeypatch.setattr(waiting_module, "TICK_SECONDS", 0.01)

    async def scenario() -> None:
        async with limited() as hall:
            hall.set_servers({"tax": ["http://a:1"]})
            attempts: list[int] = []
            loaded = asyncio.Event()

            async def ask(number: int) -> None:
                with hall.waiting.place(hall.route("tax"), 1) as place:
                    while True:
                        place.find_route()
                        attempts.append(number)
                        if loaded.is_set():
                            place.note_answer()
                            while len(set(attempts[asked:])) < 20:
                                await asyncio.sleep(0.01)  # an answer may take as long as it likes
                            return
                        await place.wait(None)

            asks = [asyncio.create_task(ask(number)) for number in range(20)]
            while len(attempts) < 25:
                await asyncio.sleep(0)
            assert set(attempts[20:]) == {0}
            asked = len(attempts)
            loaded.set()
            await asyncio.gather(*asks)

    asyncio.run(scenario())


@pytest.mark.parametrize("connects", [True, False])
def test_others_of_a_crowd_wait_while_one_only_connects(monkeypatch, connects):
    """Until a server must have taken the connection: then it may take its time for an answer."""
    monkeypatch.setattr(waiting_module, "TICK_SECONDS", 0.01 if not connects else 1.0)
    monkeypatch.setattr(waiting_module, "CONNECT_SECONDS", PATIENCE_SECONDS if connects else 0.0)

    async def scenario() -> None:
        async with limited() as hall:
            hall.set_servers({"tax": ["http://a:1"]})
            attempts: list[int] = []
            ends = asyncio.Event()

            async def ask(number: int) -> None:
                with hall.waiting.place(hall.route("tax"), 1) as place:
                    place.find_route()
                    await place.wait(None)
                    attempts.append(number)
                    await ends.wait()  # neither refused nor answered

            asks = [asyncio.create_task(ask(number)) for number in range(3)]
            await hall.crowd(3)
            room = hall.waiting.room_of(hall.route("tax"))
            if connects:
                for _ in range(10):
                    room._ask_again()
                    await asyncio.sleep(0.01)
                assert attempts == [0]
            else:
                while len(attempts) < 3:
                    await asyncio.sleep(0.01)
            ends.set()
            await asyncio.gather(*asks)

    asyncio.run(scenario())


def test_signs_of_life_go_on_while_servers_are_tried(monkeypatch):
    """They end when a server answers."""
    monkeypatch.setattr(waiting_module, "HEARTBEAT_SECONDS", 0.01)

    async def scenario() -> None:
        async with limited() as hall:
            beats: list[str] = []

            async def beat() -> None:
                beats.append(phase)

            with hall.waiting.place(hall.route("base"), 1) as place:
                place.find_route()
                phase = "waits"
                waits = asyncio.create_task(place.wait(beat))
                while len(beats) < 2:
                    await asyncio.sleep(0.01)
                phase = "tries"
                hall.set_servers({"base": ["http://a:1"]})
                await waits
                while beats.count("tries") < 3:
                    await asyncio.sleep(0.01)
                place.note_answer()
                phase = "answered"
                await asyncio.sleep(0.1)
            assert set(beats) == {"waits", "tries"}

    asyncio.run(scenario())


def test_the_proxy_connects_for_as_long_as_the_crowd_supposes():
    assert proxy.CONNECT_SECONDS == waiting_module.CONNECT_SECONDS


def test_whoever_leaves_gives_its_place_up():
    async def scenario() -> None:
        async with limited() as hall:
            asks = [asyncio.create_task(hall.ask("base")) for _ in range(5)]
            await hall.crowd(5)
            for ask in asks[:4]:
                ask.cancel()
            await hall.crowd(1)
            hall.routes.replace([])  # the endpoint is deleted
            (*_, last) = await asyncio.gather(*asks, return_exceptions=True)
            assert isinstance(last, ApiError)
            assert (last.status, last.code) == (404, "model_not_found")

    asyncio.run(scenario())


def test_a_change_while_servers_are_tried_is_not_missed():
    async def scenario() -> None:
        async with limited() as hall:
            with hall.waiting.place(hall.route("base"), 1) as place:
                assert isinstance(place, Place)
                place.find_route()
                hall.set_servers({"base": ["http://a:1"]})
                await place.wait(None)  # returns at once

    asyncio.run(scenario())


def test_a_long_wait_without_signs_of_life_leaves_the_processor_to_others(monkeypatch):
    checks = []
    check = Place._check
    monkeypatch.setattr(Place, "_check", lambda place: (checks.append(place), check(place)))
    monkeypatch.setattr(waiting_module, "HEARTBEAT_SECONDS", 0.1)

    async def scenario() -> float:
        async with limited() as hall:
            ask = asyncio.create_task(hall.ask("base"))
            start = time.monotonic()
            await asyncio.sleep(1.0)
            seconds = time.monotonic() - start
            hall.set_servers({"base": ["http://a:1"]})
            assert await ask == "base"
            return seconds

    seconds = asyncio.run(scenario())
    assert len(checks) <= 2 + seconds / 0.1


def test_the_end_of_the_gateway_ends_all_waits():
    async def scenario() -> None:
        async with limited() as hall:
            asks = [asyncio.create_task(hall.ask("base")) for _ in range(5)]
            await hall.crowd(5)
            hall.waiting.stop()
            for error in await asyncio.gather(*asks, return_exceptions=True):
                assert isinstance(error, ApiError)
                assert (error.status, error.code, error.headers["retry-after"]) == (503, "stopping", "1")

    asyncio.run(scenario())


def test_demand_is_that_of_endpoints_that_exist():
    async def scenario() -> None:
        async with limited() as hall:
            with hall.demand.request(hall.route("tax")), hall.demand.in_flight(hall.route("tax")):
                hall.routes.call_on_change(hall.demand.keep_only)
                hall.routes.replace([])
                (demand,) = hall.demand.report().endpoints
                assert (demand.namespace, demand.endpoint, demand.in_flight, demand.waiting) == ("team", "base", 1, 0)
            (after,) = hall.demand.report().endpoints
            assert after.in_flight == 0
            assert after.last_request >= demand.last_request
            hall.routes.replace([])
            assert hall.demand.report().endpoints == []

    asyncio.run(scenario())
