"""Pages of lists, as OpenAI's clients ask for them: newest first, after an id, with a limit."""

from __future__ import annotations

import heapq
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from multidict import MultiMapping

from rft_api.model import Json
from rft_gateway.errors import INVALID_VALUE, UNKNOWN_PARAMETER, ApiError
from rft_gateway.fine_tuning.job import Job

_MOST = 100
_METADATA = re.compile(r"metadata\[(.{1,64})\]", re.DOTALL)


@dataclass(frozen=True)
class Paging:
    """What part of a list is asked for."""

    limit: int
    after: str | None = None
    metadata: Mapping[str, str] | None = None
    """Texts that jobs have to have."""
    without_metadata: bool = False
    """Whether jobs must have none."""

    def admits(self, job: Job) -> bool:
        """Return whether a job is among those that are asked for."""
        if self.without_metadata:
            return not job.user_metadata
        return (self.metadata or {}).items() <= job.user_metadata.items()


def read_paging(query: MultiMapping[str], default: int, *, of_jobs: bool = False) -> Paging:
    """Return what the parameters of a request ask for.

    Args:
        query: the parameters.
        default: the limit of a request that states none.
        of_jobs: whether it is about jobs, which can be chosen by their metadata.

    Raises:
        ApiError: 400 when a parameter is unknown or wrong.
    """
    limit, metadata = default, dict[str, str]()
    for name, value in query.items():
        match = _METADATA.fullmatch(name) if of_jobs else None
        if match is not None:
            metadata[match[1]] = value
        elif name == "limit":
            if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= _MOST:
                raise ApiError(
                    400, f"limit: must be a whole number from 1 to {_MOST}", param="limit", code=INVALID_VALUE
                )
            limit = int(value)
        elif name == "metadata" and of_jobs and value == "null":
            continue
        elif name != "after":
            message = f"{name[:100]}: is not a parameter of this operation, which has {', '.join(_parameters(of_jobs))}"
            raise ApiError(400, message, param=name[:100], code=UNKNOWN_PARAMETER)
    without = query.get("metadata") == "null"
    if without and metadata:
        raise ApiError(400, "metadata: null and metadata[...] exclude each other", param="metadata", code=INVALID_VALUE)
    return Paging(limit, query.get("after"), metadata or None, without)


def asks_for_stream(query: MultiMapping[str]) -> bool:
    """Return whether the parameters of a request for events ask for a stream of them.

    Raises:
        ApiError: 400 when it is not said clearly, or there are parameters that a stream does not have.
    """
    value = query.get("stream", "false")
    if value not in ("true", "false"):
        raise ApiError(400, "stream: must be true or false", param="stream", code=INVALID_VALUE)
    more = next((name[:100] for name in query if name != "stream"), None)
    if value == "true" and more is not None:
        message = f"{more}: does not go with stream, which has all events"
        raise ApiError(400, message, param=more, code=UNKNOWN_PARAMETER)
    return value == "true"


def _parameters(of_jobs: bool) -> tuple[str, ...]:
    return ("after", "limit", "metadata") if of_jobs else ("after", "limit")


def take_page(items: Sequence[Json], paging: Paging) -> Json:
    """Return a page of a list.

    Raises:
        ApiError: 400 when the list has no item with the id after which the page begins.
    """
    start = 0
    if paging.after is not None:
        position = next((index for index, item in enumerate(items) if item["id"] == paging.after), None)
        if position is None:
            raise ApiError(400, f"after: there is no {paging.after[:100]}", param="after", code=INVALID_VALUE)
        start = position + 1
    return make_page(items[start : start + paging.limit], len(items) > start + paging.limit)


def make_page(items: Sequence[Json], has_more: bool) -> Json:
    """Return a page with some items of a list."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": list(items), "has_more": has_more, **ends}


class NewestJobs:
    """The newest of many jobs, of which no others are held.

    Args:
        limit: how many.
        after: the job behind which they begin.
    """

    def __init__(self, limit: int, after: Job | None):
        self._limit = limit
        self._after = _age(after) if after is not None else None
        self._heap: list[tuple[tuple[int, str], Job]] = []
        self.has_more = False
        """Whether there are older ones."""

    def add(self, job: Job) -> None:
        """Take a job into account; each has another name."""
        age = _age(job)
        if self._after is not None and age >= self._after:
            return
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, (age, job))
            return
        self.has_more = True
        heapq.heappushpop(self._heap, (age, job))

    def newest_first(self) -> list[Job]:
        """Return them."""
        return [job for _, job in sorted(self._heap, key=lambda entry: entry[0], reverse=True)]


def _age(job: Job) -> tuple[int, str]:
    return job.created_at, job.name
