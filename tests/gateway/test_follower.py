"""What a follower makes of lists and events: its state is the API server's, whatever breaks off between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.patience import PATIENCE_SECONDS

from rft_gateway.cluster import follower as follower_module
from rft_gateway.cluster.api_server import Expired, Page, Resource, Unavailable
from rft_gateway.cluster.follower import Follower
from rft_gateway.cluster.holdings import NAMESPACE_BYTES

THINGS = Resource("Thing", "example.com/v1", "things")


def thing(name: str, value: object = 1, **metadata: str) -> dict[str, Any]:
    return {"metadata": {"namespace": "team", "name": name, "resourceVersion": "7", **metadata}, "value": value}


def read(item: dict[str, Any]) -> int:
    if not isinstance(item["value"], int):
        raise ValueError("value: must be a number")
    return item["value"]


def size(value: int) -> int:
    """A thing takes as many bytes as its number says."""
    return value


class Script:
    """An API server that answers as a test says; behind the last answer, nothing happens any more."""

    def __init__(self, lists: list[Any], watches: list[Any]):
        self._lists = lists
        self._watches = watches
        self.versions: list[str] = []
        self.ended = asyncio.Event()

    async def list(self, *_: object) -> AsyncIterator[Page]:
        step = self._lists.pop(0)
        for page in step if isinstance(step, list) else [step]:
            if isinstance(page, Exception):
                raise page
            yield page

    async def watch(self, _resource: object, _namespace: object, version: str) -> AsyncIterator[tuple[str, Any]]:
        self.versions.append(version)
        if not self._watches:
            self.ended.set()
            await asyncio.Event().wait()
        for event in self._watches.pop(0):
            if isinstance(event, Exception):
                raise event
            yield event


def page(*items: dict[str, Any], version: str = "5", **more: Any) -> Page:
    return Page(list(items), version, "", **more)


def follow(monkeypatch: pytest.MonkeyPatch, lists: list[Any], watches: list[Any]) -> tuple[Follower[int], Script, int]:
    """Follows a script to its end; returns also how often something has changed."""
    monkeypatch.setattr(follower_module, "BACKOFFS", (0.0,))
    changes: list[None] = []

    async def scenario() -> tuple[Follower[int], Script]:
        script = Script(lists, watches)
        follower: Follower[int] = Follower(script, THINGS, None, read, size, lambda: changes.append(None))  # type: ignore[arg-type]
        task = asyncio.create_task(follower.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await script.ended.wait()
        task.cancel()
        return follower, script

    return *asyncio.run(scenario()), len(changes)


BEFORE = page(thing("a"), thing("b", 2))


@pytest.mark.parametrize(
    ("lists", "watches", "objects", "versions"),
    [
        ([page()], [], {}, ["5"]),
        ([[page(thing("a")), page(thing("b", 2), version="6")]], [], {"a": 1, "b": 2}, ["6"]),
        ([BEFORE], [[("ADDED", thing("c", 3))]], {"a": 1, "b": 2, "c": 3}, ["5", "7"]),
        ([BEFORE], [[("MODIFIED", thing("a", 4))], [("DELETED", thing("b"))]], {"a": 4}, ["5", "7", "7"]),
        ([BEFORE], [[("BOOKMARK", {"metadata": {"resourceVersion": "9"}})]], {"a": 1, "b": 2}, ["5", "9"]),
        ([BEFORE], [[("MODIFIED", thing("a", deletionTimestamp="2026-01-31T12:00:00Z"))]], {"b": 2}, ["5", "7"]),
        # what was missed while the events were away is in the next list
        ([BEFORE, page(thing("b", 3), version="8")], [[Expired()]], {"b": 3}, ["5", "8"]),
        ([BEFORE, Expired(), page(thing("b", 3))], [[Unavailable("x")]], {"b": 3}, ["5", "5"]),
        ([Unavailable("x"), [page(thing("a")), Unavailable("x")], BEFORE], [], {"a": 1, "b": 2}, ["5"]),
        # an object that is wrong, or cannot be read, closes only itself, also if it was right before
        ([page(thing("a", "?"), thing("b", 2))], [], {"b": 2}, ["5"]),
        ([BEFORE], [[("MODIFIED", thing("a", "?"))]], {"b": 2}, ["5", "7"]),
        ([BEFORE], [[("MODIFIED", thing("a", "?")), ("MODIFIED", thing("a", 5))]], {"a": 5, "b": 2}, ["5", "7"]),
        ([[page(is_readable=False), page(thing("b", 2))]], [], {"b": 2}, ["5"]),
    ],
)
def test_the_state_is_that_of_the_api_server(monkeypatch, lists, watches, objects, versions):
    follower, script, _ = follow(monkeypatch, lists, watches)
    assert {name: value for (_, name), value in follower.objects.items()} == objects
    assert script.versions == versions
    assert follower.is_complete


HALF = NAMESPACE_BYTES // 2


def in_other(item: dict[str, Any]) -> dict[str, Any]:
    return {**item, "metadata": {**item["metadata"], "namespace": "other"}}


def test_a_namespace_keeps_no_more_than_its_share(monkeypatch, caplog):
    lists = [page(thing("a", HALF), thing("b", HALF), thing("c", 1), in_other(thing("d", HALF)))]
    watches = [[("ADDED", thing("e", HALF)), ("MODIFIED", thing("a", 2)), ("ADDED", thing("f", "?" * NAMESPACE_BYTES))]]
    follower, _, _ = follow(monkeypatch, lists, watches)
    assert follower.objects == {("team", "a"): 2, ("team", "c"): 1, ("other", "d"): HALF}
    said = "things take more than 16 MiB in namespace team: those that came last count for nothing until others are "
    assert caplog.messages[0] == f"{said}removed"
    assert caplog.messages[1:] == ["Thing team/f: value: must be a number"]


def test_what_had_no_room_is_looked_at_again_when_there_is_some(monkeypatch):
    first = [thing("a", HALF), thing("b", HALF)]
    follower, script, _ = follow(monkeypatch, [page(*first), page(first[1], version="8")], [[("DELETED", first[0])]])
    assert follower.objects == {("team", "b"): HALF}
    assert script.versions == ["5", "8"]


def test_wrong_objects_have_the_same_share(monkeypatch):
    wrong = [thing(f"a{number}", "?") for number in range(NAMESPACE_BYTES // 512)]
    follower, _, _ = follow(monkeypatch, [page(*wrong, thing("z"))], [])
    assert 0 < len(follower.errors) < len(wrong)
    assert follower.objects == {}


def test_a_list_that_breaks_off_leaves_the_last_state(monkeypatch):
    """Half of a list would close keys that nobody has revoked."""
    seen: list[dict[Any, int]] = []

    async def scenario() -> None:
        script = Script([BEFORE, [page(thing("a")), Unavailable("x")], BEFORE], [[Expired()]])

        def see() -> None:
            seen.append(dict(follower.objects))

        follower: Follower[int] = Follower(script, THINGS, None, read, size, see)  # type: ignore[arg-type]
        task = asyncio.create_task(follower.run())
        async with asyncio.timeout(PATIENCE_SECONDS):
            await script.ended.wait()
        task.cancel()

    monkeypatch.setattr(follower_module, "BACKOFFS", (0.0,))
    asyncio.run(scenario())
    assert seen == [{("team", "a"): 1, ("team", "b"): 2}]


def test_what_is_wrong_with_the_api_server_is_said(monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    lists = [Unavailable("no route"), Unavailable("no route"), page(), Unavailable("again"), page()]
    follow(monkeypatch, lists, [[Expired()]])
    assert caplog.messages == [
        "things cannot be followed, going on as it was: no route",
        "things are followed again",
        "things cannot be followed, going on as it was: again",
        "things are followed again",
    ]


def test_what_is_wrong_with_an_object_is_said_once(monkeypatch, caplog):
    wrong, other = thing("a", "?"), {"metadata": thing("a")["metadata"]}
    lists = [[page(wrong), Unavailable("x")], page(wrong), page(wrong), page(wrong, thing("b", "?")), page()]
    watches = [
        [("MODIFIED", thing("a", "!")), ("ADDED", thing("c")), Expired()],  # as wrong as before
        [Expired()],
        [("MODIFIED", other), ("MODIFIED", thing("a")), ("MODIFIED", wrong), ("DELETED", wrong), Expired()],
    ]
    follower, _, _ = follow(monkeypatch, lists, watches)
    assert [message for message in caplog.messages if message.startswith("Thing")] == [
        "Thing team/a: value: must be a number",
        "Thing team/b: value: must be a number",
        "Thing team/a: KeyError",
        "Thing team/a: value: must be a number",
    ]
    assert follower.errors == {}


def test_an_error_names_the_object(monkeypatch):
    follower, _, _ = follow(monkeypatch, [page(thing("a", "?"))], [])
    assert list(follower.errors.values()) == ["Thing team/a: value: must be a number"]
