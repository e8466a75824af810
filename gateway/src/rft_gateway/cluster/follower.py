"""Follows the objects of one kind at the API server. While that is away, the last state stays.

What is wrong with an object is logged here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Generic, TypeVar

from rft_api.foreign.sizes import format_size
from rft_api.foreign.text import one_line
from rft_api.model import Json
from rft_gateway.cluster.api_server import ApiServer, Expired, Resource, Unavailable
from rft_gateway.cluster.holdings import NAMESPACE_BYTES, Holdings, ObjectName

BACKOFFS = (0.2, 0.5, 1.0, 2.0)
"""Seconds before everything is listed again after a failure; the last of them is repeated."""
_logger = logging.getLogger(__name__)

T = TypeVar("T")


class Follower(Generic[T]):
    """The objects of a kind in a namespace, or in all of them. An object that is wrong closes only itself.

    What is wrong with it is logged once, until that changes. A namespace whose objects take more than its share closes
    those of its own that come last; they are looked at again when others of it have gone.

    Args:
        server: the API server.
        resource: the kind.
        namespace: the namespace; None for all.
        read: makes of an object what is kept of it; its ValueError says what is wrong. The message is logged: of a
            Secret, it must not have a value.
        size: tells about how many bytes that takes.
        on_change: called after something has changed.
    """

    def __init__(
        self,
        server: ApiServer,
        resource: Resource,
        namespace: str | None,
        read: Callable[[Json], T],
        size: Callable[[T], int],
        on_change: Callable[[], None],
    ):
        self._server = server
        self._resource = resource
        self._namespace = namespace
        self._read = read
        self._size = size
        self._on_change = on_change
        self._title = resource.title(namespace)
        self._problem = ""
        self._unreadable = 0
        self._holdings: Holdings[T] = Holdings()
        self._has_room_again = False
        self.is_complete = False
        """Whether all objects have been listed once."""

    @property
    def objects(self) -> dict[ObjectName, T]:
        """What is kept of each object."""
        return self._holdings.objects

    @property
    def errors(self) -> dict[ObjectName, str]:
        """A sentence for each object that is wrong."""
        return self._holdings.errors

    async def run(self) -> None:
        """Follow until the task is cancelled."""
        failures = 0
        while True:
            try:
                version = await self._list()
                failures = 0
                while not self._has_room_again:  # which is looked at after each watch: a tenant may remove and create
                    version = await self._watch(version)
                    await asyncio.sleep(BACKOFFS[0])  # nothing is missed: it goes on behind the last event
            except Expired:
                pass
            except Unavailable as error:
                self._note(str(error))
            await asyncio.sleep(BACKOFFS[min(failures, len(BACKOFFS) - 1)])
            failures += 1

    async def _list(self) -> str:
        """Read all objects, and return the version at which they were read."""
        before = self._holdings
        now: Holdings[T] = Holdings()
        version, unreadable = "", 0
        self._has_room_again = False
        async for page in self._server.list(self._resource, self._namespace):
            version = page.version
            unreadable += not page.is_readable
            for item in page.items:
                self._put(item, now)
        self._note("")
        if unreadable != self._unreadable:
            text = "%d of the %s are nested too deeply or have too many values to be read"
            _logger.warning(text, unreadable, self._title)
        self._unreadable = unreadable
        for name, error in now.errors.items():
            _log_new(error, before.errors.get(name))
        for namespace in now.full - before.full:
            self._log_full(namespace)
        is_first, self.is_complete = not self.is_complete, True
        self._holdings = now
        if is_first or (before.objects, before.errors) != (now.objects, now.errors):
            self._on_change()
        return version

    async def _watch(self, version: str) -> str:
        """Take the events after a version, and return the version after the last of them."""
        async for kind, item in self._server.watch(self._resource, self._namespace, version):
            version = str(item["metadata"]["resourceVersion"])
            if kind == "BOOKMARK":
                continue
            name = _name(item)
            error, was_full = self.errors.get(name), name[0] in self._holdings.full
            if kind == "DELETED":
                self._has_room_again |= self._holdings.remove(name)
            else:
                self._put(item, self._holdings)
            _log_new(self.errors.get(name), error)
            if not was_full and name[0] in self._holdings.full:
                self._log_full(name[0])
            self._on_change()
        return version

    def _put(self, item: Json, holdings: Holdings[T]) -> None:
        name = _name(item)
        if item["metadata"].get("deletionTimestamp"):
            holdings.remove(name)  # somebody has deleted it; it stays only until finalizers have done their work
            return
        try:
            value = self._read(item)
        except Exception as error:  # whoever may write such an object must not end the gateway with it
            problem = str(error) if isinstance(error, ValueError) else type(error).__name__
            holdings.put_error(name, one_line(f"{self._resource.kind} {'/'.join(name)}: {problem}"))
        else:
            holdings.put(name, value, self._size(value))

    def _log_full(self, namespace: str) -> None:
        _logger.warning(
            "%s take more than %s in namespace %s: those that came last count for nothing until others are removed",
            self._title, format_size(NAMESPACE_BYTES), namespace,
        )  # fmt: skip

    def _note(self, problem: str) -> None:
        """Log that the API server does not do what is asked, and that it does again; each once."""
        if problem and not self._problem:
            _logger.warning("%s cannot be followed, going on as it was: %s", self._title, problem)
        elif self._problem and not problem:
            _logger.info("%s are followed again", self._title)
        self._problem = problem


def _log_new(error: str | None, earlier: str | None) -> None:
    if error and error != earlier:
        _logger.warning("%s", error)


def _name(item: Json) -> ObjectName:
    metadata = item["metadata"]
    return metadata["namespace"], metadata["name"]
