"""Requests wait here for a server of their model: one wakes its endpoint for all, and they try again after changes."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from rft_api.gateway_routes import Route
from rft_gateway.answers import ClientLeft
from rft_gateway.cold_start import WAITING_BYTES, Crowd, Reason, refuse
from rft_gateway.demand import Demand
from rft_gateway.errors import model_not_found
from rft_gateway.metrics import Metrics
from rft_gateway.routes import EndpointState, RouteTable
from rft_gateway.shares import Shares

HEARTBEAT_SECONDS = 10.0
"""Time between two signs of life to a client that waits. Proxies close connections that are silent for a minute."""
TICK_SECONDS = 1.0
"""Time after which a server that has not taken a request, or has not loaded its adapter, is asked again."""
CONNECT_SECONDS = 5.0
"""Time in which a server takes a connection; servers are near. A request that has tried each of its servers for so long
is not connecting any more: one of them has it."""
WAKE_SECONDS = (5.0, 10.0, 20.0, 40.0, 60.0)
"""Times after which an endpoint is woken again while it has no pod; the last of them is repeated."""

Wake = Callable[[str, str], Awaitable[None]]
"""Wakes an endpoint, by its namespace and name. It raises nothing: an attempt that fails is repeated."""
Beat = Callable[[], Awaitable[None]]
"""Gives a client a sign of life."""
_Snapshot = tuple[list[str], EndpointState]


class Waiting:
    """All requests that wait.

    Args:
        routes: the models.
        demand: counts those that wait.
        metrics: the metrics.
        wake: wakes an endpoint; None where nothing can be woken.
    """

    def __init__(self, routes: RouteTable, demand: Demand, metrics: Metrics, wake: Wake | None = None):
        self.routes = routes
        self.demand = demand
        self.metrics = metrics
        self.bodies = Shares(WAITING_BYTES)
        """Bytes of the bodies of those that wait."""
        self.is_stopping = False
        self._wake = wake
        self._woken: dict[tuple[str, str], float] = {}
        self._wakes: set[asyncio.Task[None]] = set()
        self._rooms: dict[tuple[str, str], Room] = {}
        routes.call_on_change(self._note_change)

    @contextmanager
    def place(self, route: Route, size: int) -> Iterator[Place]:
        """Give a request a place for as long as the block lasts.

        Args:
            route: its model.
            size: bytes of its body.
        """
        place = Place(self, route, size)
        try:
            yield place
        finally:
            place.leave()

    def stop(self) -> None:
        """End all waits: the gateway is about to end."""
        self.is_stopping = True
        for room in self._rooms.values():
            for place in room.places:
                place.release()

    def room_of(self, route: Route) -> Room:
        """Return the room of those that wait for the same endpoint."""
        name = route.namespace, route.base
        if name not in self._rooms:
            self._rooms[name] = Room(self, name)
        return self._rooms[name]

    def close(self, room: Room) -> None:
        """Forget a room that nobody is in."""
        self._rooms.pop(room.name, None)

    def wake_soon(self, name: tuple[str, str]) -> None:
        """Wake an endpoint, unless that was done just now. Returns at once."""
        now = time.monotonic()
        if self._wake is None or now - self._woken.get(name, float("-inf")) < WAKE_SECONDS[0]:
            return
        self._woken[name] = now
        task = asyncio.ensure_future(self._wake(*name))
        self._wakes.add(task)
        task.add_done_callback(self._wakes.discard)

    def _note_change(self, table: RouteTable) -> None:
        bases = table.bases()
        self._woken = {name: when for name, when in self._woken.items() if name in bases}
        for room in self._rooms.values():
            for place in room.places:
                if place.has_changed():
                    place.release()


class Room:
    """Those that wait for the same endpoint, in the order of their arrival. While there are any, it is woken."""

    def __init__(self, waiting: Waiting, name: tuple[str, str]):
        self.name = name
        """Namespace and name of the endpoint."""
        self.places: dict[Place, None] = {}
        self.opened = time.monotonic()
        self.outcome = "Abandoned"
        """How the cold start has ended: Started, Failed, or Abandoned because nobody waits any more."""
        self._waiting = waiting
        self._task = asyncio.create_task(self._attend())

    def leave(self, place: Place) -> None:
        """Take a place away; the last one closes the room."""
        self.places.pop(place, None)
        if not self.places:
            self._task.cancel()
            self._waiting.metrics.count_cold_start(*self.name, self.outcome)
            self._waiting.close(self)

    def note_start(self, seconds: float) -> None:
        """Note that a server has taken a request; only the first counts.

        Args:
            seconds: time from the opening of the room.
        """
        if self.outcome != "Started":
            self.outcome = "Started"
            self._waiting.metrics.observe_cold_start(*self.name, seconds)

    async def _attend(self) -> None:
        wakes, due = 0, time.monotonic()
        while True:
            now = time.monotonic()
            if now >= due and not next(iter(self.places)).state.pods:
                self._waiting.wake_soon(self.name)
                due = now + WAKE_SECONDS[min(wakes, len(WAKE_SECONDS) - 1)]
                wakes += 1
            await asyncio.sleep(TICK_SECONDS)
            self._ask_again()

    def _ask_again(self) -> None:
        """Have the oldest request of each model try its servers; when one seems to be answered, all others, too.

        Nobody else tries while one only connects: with an address that hangs, that takes seconds.
        """
        of_model: dict[str, list[Place]] = {}
        for place in self.places:
            if place.has_servers:
                of_model.setdefault(place.route.model, []).append(place)
        for places in of_model.values():
            waiting = [place for place in places if place.is_waiting]
            if any(place.seems_answered for place in places):
                released = waiting
            else:
                released = waiting[:1] if len(waiting) == len(places) else []
            for place in released:
                place.release()


class _Heartbeat:
    """The signs of life for the client of one request, from its first wait on.

    While the request waits, it gives them itself. While it tries servers, they are given beside it: an address that
    hangs takes seconds, and a model may have many.
    """

    def __init__(self, beat: Beat):
        self._beat = beat
        self._last = time.monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def due(self) -> float:
        """The time of the next one, by the monotonic clock."""
        return self._last + HEARTBEAT_SECONDS

    async def give(self) -> None:
        """Give one now."""
        await self._beat()
        self._last = time.monotonic()

    def begin_beside(self) -> None:
        """Give them beside the request, until `stop_beside`. Returns at once."""
        rest = max(0.0, self.due - time.monotonic())
        self._timer = asyncio.get_running_loop().call_later(rest, self._begin_task)

    def stop_beside(self) -> None:
        """Give none beside the request any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self._timer = self._task = None

    def _begin_task(self) -> None:
        self._task = asyncio.ensure_future(self._give_all())

    async def _give_all(self) -> None:
        with contextlib.suppress(ClientLeft):  # its connection has been closed, which ends the request
            while True:
                await self.give()
                await asyncio.sleep(HEARTBEAT_SECONDS)


class Place:
    """The place of one request; made by `Waiting.place`."""

    def __init__(self, waiting: Waiting, route: Route, size: int):
        self.route = route
        self.is_waiting = False
        self.seconds = 0.0
        """Time that it has waited, from the first time to the end of the last."""
        self._waiting = waiting
        self._size = size
        self._room: Room | None = None
        self._arrival: float | None = None
        self._released = asyncio.Event()
        self._seen: _Snapshot | None = None
        self._heartbeat: _Heartbeat | None = None
        self._connects_until = math.inf
        """When it will not be connecting any more, by the monotonic clock."""

    @property
    def seems_answered(self) -> bool:
        """Whether a server has the request: it has begun to answer, or nothing else could have taken so long."""
        return not self.is_waiting and time.monotonic() > self._connects_until

    @property
    def state(self) -> EndpointState:
        """What is known of the endpoint now."""
        return self._waiting.routes.state_of(self.route)

    @property
    def has_servers(self) -> bool:
        """Whether there are servers that may take the request."""
        route = self._find()
        return route is not None and bool(route.servers)

    def find_route(self) -> Route:
        """Return the model as it is now; its servers are tried next.

        Raises:
            ApiError: 404 when it does not exist any more.
        """
        route = self._find()
        if route is None:
            raise model_not_found(self.route.model)
        self._seen = self._snapshot()
        return route

    async def wait(self, beat: Beat | None) -> None:
        """Wait until the servers of the model may be tried again.

        Args:
            beat: gives the client a sign of life, again and again, until the request is answered or leaves.

        Raises:
            ApiError: when the request does not wait, or has waited for too long.
        """
        if self._heartbeat is not None:
            self._heartbeat.stop_beside()
        self._check()
        if self._arrival is None:
            self._arrival = time.monotonic()
            self._heartbeat = _Heartbeat(beat) if beat is not None else None
            self._room = self._waiting.room_of(self.route)
            self._room.places[self] = None
        if not self.has_changed():  # while its servers were tried
            with self._counted():
                await self._sleep(self._arrival)
        route = self._find()
        connects = CONNECT_SECONDS * len(route.servers) if route is not None else 0.0
        self._connects_until = time.monotonic() + connects + TICK_SECONDS
        if self._heartbeat is not None:
            self._heartbeat.begin_beside()

    def has_changed(self) -> bool:
        """Return whether the model or its servers have changed since they were tried."""
        return self._snapshot() != self._seen

    def release(self) -> None:
        """Have the request try again."""
        self._released.set()

    def note_answer(self) -> None:
        """Note that a server has begun to answer the request."""
        if self._room is not None and self._arrival is not None:
            self._connects_until = -math.inf
            if self._heartbeat is not None:
                self._heartbeat.stop_beside()
            self._room.note_start(self._arrival + self.seconds - self._room.opened)

    def leave(self) -> None:
        """Give the place up."""
        if self._room is not None:
            if self._heartbeat is not None:
                self._heartbeat.stop_beside()
            self._room.leave(self)
            self._room = None

    async def _sleep(self, arrival: float) -> None:
        while not self._released.is_set():
            now = time.monotonic()
            due = self._heartbeat.due if self._heartbeat is not None else now + HEARTBEAT_SECONDS
            rest = min(arrival + self.state.timeout, due) - now
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, rest)):
                    await self._released.wait()
            self.seconds = time.monotonic() - arrival
            if self._released.is_set():
                break
            self._check()
            if self._heartbeat is not None and time.monotonic() >= self._heartbeat.due:
                await self._heartbeat.give()
        self._released.clear()

    def _check(self) -> None:
        """Raise the error of a request that does not wait any longer, or not at all."""
        waiting, route = self._waiting, self.route
        has_room = waiting.bodies.have_room(route.namespace, self._size)
        crowd = Crowd(waiting.demand.count_waiting(route), has_room, waiting.is_stopping)
        waited = None if self._arrival is None else time.monotonic() - self._arrival
        refusal = refuse(route.model, self.state, crowd, waited)
        if refusal is None:
            return
        waiting.metrics.count_refused(route, refusal.reason)
        if refusal.wakes and not self.state.pods:
            waiting.wake_soon((route.namespace, route.base))
        if self._room is not None and self._room.outcome != "Started":
            lasts = refusal.reason in (Reason.TIMED_OUT, Reason.CANNOT_START)
            self._room.outcome = "Failed" if lasts else self._room.outcome
        raise refusal.error

    @contextmanager
    def _counted(self) -> Iterator[None]:
        waiting = self._waiting
        waiting.bodies.add(self.route.namespace, self._size)
        self.is_waiting = True
        try:
            with waiting.demand.waiting(self.route), waiting.metrics.waiting(self.route):
                yield
        finally:
            self.is_waiting = False
            waiting.bodies.add(self.route.namespace, -self._size)

    def _find(self) -> Route | None:
        return self._waiting.routes.find(self.route.namespace, self.route.model)

    def _snapshot(self) -> _Snapshot | None:
        route = self._find()
        if route is None:
            return None
        # Pods that start, and what the condition says of them, give no reason to ask all servers again for everybody.
        return route.servers, replace(self._waiting.routes.state_of(route), pods=0, message="")
