"""The models that the gateway answers for, from a file that is followed while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
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


class RoutesError(Exception):
    """The file cannot be used; the message names it."""


class RouteTable:
    """The models by namespace and name.

    Args:
        path: the file with the list; whoever writes it replaces it as a whole.
        on_change: called after the list has changed.
    """

    def __init__(self, path: Path, on_change: Callable[[RouteTable], None] = lambda table: None):
        self._path = path
        self._on_change = on_change
        self._content = b""
        self._problem = ""
        self._routes: dict[tuple[str, str], Route] = {}

    def find(self, namespace: str, model: str) -> Route | None:
        """Return the route to a model of a namespace, or None when there is none."""
        return self._routes.get((namespace, model))

    def of_namespace(self, namespace: str) -> list[Route]:
        """Return the routes of a namespace, by the names of their models."""
        routes = [route for (owner, _), route in self._routes.items() if owner == namespace]
        return sorted(routes, key=lambda route: route.model)

    def servers(self) -> set[str]:
        """Return the addresses of all servers."""
        return {url for route in self._routes.values() for url in route.servers}

    def keep_logs(self) -> bool:
        """Return whether the conversations of any model are kept."""
        return any(route.logs is not None for route in self._routes.values())

    def load(self) -> None:
        """Read the file, if it has changed.

        Raises:
            RoutesError: when it cannot be read or is wrong; the list stays as it was.
        """
        try:
            content = read_file(self._path, _LARGEST_FILE)
            if content == self._content:
                return
            routes = RouteList.model_validate_json(content).routes
            table = {(route.namespace, route.model): route for route in routes}
            if len(table) < len(routes):
                raise ValueError("names a model of a namespace twice")
            for route in routes:
                redactor(route.logs.redact if route.logs else None)  # raises ValueError for a pattern that is none
        except (OSError, ValueError) as error:
            raise RoutesError(f"{self._path}: {one_line(str(error))}") from None
        self._content, self._routes = content, table
        _logger.info("%d models, %s", len(table), format_size(len(content)))
        self._on_change(self)

    async def follow(self) -> None:
        """Read the file again and again. While it is wrong, the list stays as it was, and the log says so once."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS)
            try:
                self.load()
                self._problem = ""
            except RoutesError as error:
                if str(error) != self._problem:
                    _logger.warning("%s; going on with the models as they were", error)
                self._problem = str(error)
