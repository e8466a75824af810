"""The models that the gateway answers for, and the file that states them where the gateway runs without a cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rft_api.foreign.files import read_file
from rft_api.foreign.sizes import format_size
from rft_api.foreign.text import one_line
from rft_api.gateway_routes import Route, RouteList
from rft_api.redaction import redactor

PAUSE_SECONDS = 1.0
"""Time between two looks at the file."""
_LARGEST_FILE = 32 << 20
_logger = logging.getLogger(__name__)

ModelName = tuple[str, str]
"""Namespace and name of a model."""


class RoutesError(Exception):
    """The file cannot be used; the message names it."""


@dataclass(frozen=True)
class EndpointState:
    """What a cluster says of the endpoint of a model. An adapter has the state of its base, and why itself is away."""

    can_wake: bool = False
    """Whether requests start a server pod: whether the base has spec.autoscale."""
    queue: int = 0
    """Number of requests that may wait for the base."""
    timeout: float = 0.0
    """Seconds for which a request may wait."""
    pods: int = 0
    """Number of server pods that have an address, also of those that are not ready."""
    is_ready: bool = False
    """Whether the model answers, as the operator has last seen it."""
    reason: str = ""
    """Why it is not ready: the reason of the condition Ready, where that describes the present spec."""
    message: str = ""
    """The same for a person; one line."""


_UNKNOWN = EndpointState()


class RouteTable:
    """The models by namespace and name. A source, a `RouteFile` or a cluster, replaces all of them at once."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[RouteTable], None]] = []
        self._routes: dict[ModelName, Route] = {}
        self._states: Mapping[ModelName, EndpointState] = {}
        self.is_complete = False
        """Whether the source has stated the models."""

    def call_on_change(self, listener: Callable[[RouteTable], None]) -> None:
        """Call a function after each change of the models."""
        self._listeners.append(listener)

    def find(self, namespace: str, model: str) -> Route | None:
        """Return the route to a model of a namespace, or None when there is none."""
        return self._routes.get((namespace, model))

    def state_of(self, route: Route) -> EndpointState:
        """Return what the source says of a model's endpoint; a file says nothing."""
        return self._states.get((route.namespace, route.model), _UNKNOWN)

    def of_namespace(self, namespace: str) -> list[Route]:
        """Return the routes of a namespace, by the names of their models."""
        routes = [route for (owner, _), route in self._routes.items() if owner == namespace]
        return sorted(routes, key=lambda route: route.model)

    def names(self) -> set[ModelName]:
        """Return namespace and name of all models, and of their bases, which may be none themselves."""
        return self.bases() | self._routes.keys()

    def bases(self) -> set[ModelName]:
        """Return namespace and name of all endpoints with servers of their own."""
        return {(route.namespace, route.base) for route in self._routes.values()}

    def servers(self) -> set[str]:
        """Return the addresses of all servers."""
        return {url for route in self._routes.values() for url in route.servers}

    def keep_logs(self) -> bool:
        """Return whether the conversations of any model are kept."""
        return any(route.logs is not None for route in self._routes.values())

    def replace(self, routes: Iterable[Route], states: Mapping[ModelName, EndpointState] | None = None) -> None:
        """Replace all models.

        Args:
            routes: the models.
            states: what is known of their endpoints.

        Raises:
            ValueError: when a namespace has a model twice; the models stay as they were.
        """
        routes = list(routes)
        table = {(route.namespace, route.model): route for route in routes}
        if len(table) < len(routes):
            raise ValueError("names a model of a namespace twice")
        self._routes, self._states, self.is_complete = table, states or {}, True
        for listener in self._listeners:
            listener(self)


class RouteFile:
    """The file with the models.

    Args:
        path: the file; whoever writes it replaces it as a whole.
        table: the models.
    """

    def __init__(self, path: Path, table: RouteTable):
        self._path = path
        self._table = table
        self._content = b""
        self._problem = ""

    def load(self) -> None:
        """Read the file, if it has changed.

        Raises:
            RoutesError: when it cannot be read or is wrong; the models stay as they were.
        """
        try:
            content = read_file(self._path, _LARGEST_FILE)
            if content == self._content:
                return
            routes = RouteList.model_validate_json(content).routes
            for route in routes:
                redactor(route.logs.redact if route.logs else None)  # raises ValueError for a pattern that is none
            self._table.replace(routes)
        except (OSError, ValueError) as error:
            raise RoutesError(f"{self._path}: {one_line(str(error))}") from None
        self._content = content
        _logger.info("%d models, %s", len(routes), format_size(len(content)))

    async def follow(self) -> None:
        """Read the file again and again. While it is wrong, the models stay as they were, and the log says so once."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                self.load()
                self._problem = ""
            except RoutesError as error:
                if str(error) != self._problem:
                    _logger.warning("%s; going on with the models as they were", error)
                self._problem = str(error)
