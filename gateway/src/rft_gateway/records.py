"""What is kept of a request when it ends: its entry in the ledger, its tokens at its key's limits, its conversation
where its model has a log, and metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from rft_api import price as prices
from rft_api.gateway_routes import Route
from rft_api.model import Json
from rft_gateway.errors import ApiError
from rft_gateway.keys import Key
from rft_gateway.ledger import Entry, Ledger, LedgerError, Outcome, Price
from rft_gateway.limits import Admission
from rft_gateway.logs import Conversation, Conversations, LineTooLarge
from rft_gateway.metrics import Metrics
from rft_gateway.requests import Call
from rft_gateway.usage import Usage

if TYPE_CHECKING:
    from rft_gateway.traces import RequestSpan, Traces

_NO_USAGE = Usage()
_REFUSED_ENTRIES = 1000
_REFUSED_SECONDS = 3600.0
"""Largest number of refused requests of a namespace that the ledger gets in an hour: they cost their clients nothing,
and fill the volume of all."""
_logger = logging.getLogger(__name__)


class Records:
    """Keeps what is left of all requests.

    Args:
        ledger: gets their usage.
        metrics: the metrics.
        conversations: gets the conversations of models with a log.
        traces: gets a span for each; None if nobody wants them.
    """

    def __init__(self, ledger: Ledger, metrics: Metrics, conversations: Conversations, traces: Traces | None = None):
        self.ledger = ledger
        self.metrics = metrics
        self.conversations = conversations
        self.traces = traces
        self._writing: set[asyncio.Task[None]] = set()
        self._refused: Counter[str] = Counter()
        self._refused_since = time.monotonic()

    def has_room_for_refused(self, namespace: str) -> bool:
        """Count a request of a namespace that was refused, and return whether the ledger gets it."""
        now = time.monotonic()
        if now >= self._refused_since + _REFUSED_SECONDS:
            self._refused.clear()
            self._refused_since = now
        self._refused[namespace] += 1
        if self._refused[namespace] == _REFUSED_ENTRIES + 1:
            _logger.warning("%s: of refused requests, the ledger has %d an hour", namespace, _REFUSED_ENTRIES)
        return self._refused[namespace] <= _REFUSED_ENTRIES

    def begin(self, write: asyncio.Task[None]) -> None:
        """Keep a write until it ends: its client may leave, so that nobody waits for it any more."""
        self._writing.add(write)
        write.add_done_callback(self._end)

    def _end(self, write: asyncio.Task[None]) -> None:
        self._writing.discard(write)
        if not write.cancelled():
            write.exception()  # it has been logged

    async def close(self) -> None:
        """Wait until everything is on the disk."""
        while self._writing:
            await asyncio.wait(self._writing)


class Record:
    """What is kept of one request.

    Args:
        records: those of all requests.
        request_id: the id of the request: in the ledger, at the server, and in the answer.
        arrival: when it arrived.
        key: the key that asks.
        route: the model.
        call: the request itself.
        admission: the request at its key's limits.
        headers: its headers, which may name the span of the caller.
    """

    def __init__(
        self, records: Records, request_id: str, arrival: datetime, key: Key, route: Route, call: Call,
        admission: Admission, headers: Mapping[str, str],
    ):  # fmt: skip
        self.id = request_id
        self._records = records
        self._arrival = arrival
        self._started = time.monotonic()
        self._key = key
        self._route = route
        self._call = call
        self._admission = admission
        self._write: asyncio.Task[None] | None = None
        self.keeps_conversation = records.conversations.selects(route, request_id)
        """Whether the log of the model gets the conversation."""
        self.is_sent = False
        """Whether a server has the request, and may have begun to work for it."""
        self._cold_start_seconds = 0.0
        traces = records.traces
        self.span: RequestSpan | None = None if traces is None else traces.begin(arrival, route, call, headers)
        """The span of the request in its trace, where there are traces."""

    def note_cold_start(self, seconds: float) -> None:
        """Note how long the request has waited for a server, until now."""
        self._cold_start_seconds = seconds
        if self.span is not None:
            self.span.note_wait_end()

    def note_first_part(self) -> None:
        """Note that the first part of a stream is sent."""
        seconds = time.monotonic() - self._started
        self._records.metrics.observe_first_token(self._route, seconds)
        if self.span is not None:
            self.span.note_first_part(seconds)

    def note_too_large(self) -> None:
        """Note that the conversation is too large for the log of the model."""
        self._records.metrics.count_log_record(self._route, LineTooLarge.RESULT)

    def note_error(self, error: ApiError) -> None:
        """Note that a client is told an error as the last event of a stream."""
        self._records.metrics.count_error(error.code or error.type)

    def write(
        self, usage: Usage | None, status: int, outcome: Outcome, answer: Json | bytes | None = None,
        estimate: Usage = _NO_USAGE,
    ) -> asyncio.Task[None]:  # fmt: skip
        """Begin to write the entry, and return the task that ends when it is durable; only the first call writes.

        So is then the conversation, if the log of the model gets it.

        The task ends with an ApiError when the ledger cannot take the entry.

        Args:
            usage: the tokens; None where the server should have stated them, and has not, or has stated more of them
                than the request can have.
            status: the status code of HTTP of the answer.
            outcome: how the request has ended.
            answer: the whole answer, if there is one: its document, or its bytes, of a large one.
            estimate: what counts in place of the tokens that the server has not stated.
        """
        if self._write is None:
            seconds = time.monotonic() - self._started
            if usage is None:
                self._note_missing_usage()
            counted = usage or estimate
            self._count(counted, status, outcome, seconds)
            entry = self._entry(counted, status, outcome, seconds)
            conversation = None
            if self.keeps_conversation and outcome is Outcome.ANSWERED and answer is not None:
                conversation = Conversation(self.id, self._arrival, self._route, self._call, answer, counted)
            is_kept = outcome is not Outcome.REFUSED or self._records.has_room_for_refused(self._key.namespace)
            self._write = asyncio.create_task(self._write_all(entry, conversation, is_kept))
            self._records.begin(self._write)
        return self._write

    def _note_missing_usage(self) -> None:
        self._records.metrics.count_missing_usage(self._route)
        text = "%s: %s/%s: no usage in the answer, or more than there can be"
        _logger.warning(text, self.id, self._route.namespace, self._route.model)

    def _count(self, usage: Usage, status: int, outcome: Outcome, seconds: float) -> None:
        tokens = usage.prompt_tokens + usage.completion_tokens
        if outcome in (Outcome.CLIENT_LEFT, Outcome.GATEWAY_FAILED) and self.is_sent:
            # Whoever leaves before an answer, or asks for more of them than there is memory for, must not get round the
            # limits: the server has read the prompt.
            tokens = max(tokens, self._call.prompt_estimate)
        self._admission.settle(time.time(), tokens)
        metrics = self._records.metrics
        metrics.count_request(self._route, outcome, status, seconds)
        metrics.count_usage(self._route, usage)

    def _entry(self, usage: Usage, status: int, outcome: Outcome, seconds: float) -> Entry:
        return Entry(
            id=self.id,
            time=self._arrival,
            namespace=self._key.namespace,
            key=self._key.name,
            model=self._route.model,
            base=self._route.base,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            cold_start_seconds=self._cold_start_seconds,
            duration_seconds=seconds,
            status=status,
            outcome=outcome,
            price=_in_millionths(self._route.price) if self._route.price else Price(),
        )

    async def _write_all(self, entry: Entry, conversation: Conversation | None, is_kept: bool) -> None:
        failure: ApiError | None = None
        keeping = None
        if conversation is not None:
            keeping = asyncio.create_task(self._records.conversations.keep(conversation))
        try:
            if is_kept:
                await self._write_entry(entry)
        except ApiError as error:
            failure = error
            raise
        finally:
            if keeping is not None:
                await keeping
            if self.span is not None:
                self.span.end(entry, failure)

    async def _write_entry(self, entry: Entry) -> None:
        started = time.monotonic()
        try:
            await self._records.ledger.write(entry)
        except LedgerError as error:
            _logger.error("%s: usage is not recorded: %s", self.id, error)
            message = "The usage of this request cannot be recorded at the moment. Please try again."
            raise ApiError(503, message, code="ledger_unavailable", headers={"retry-after": "1"}) from None
        self._records.metrics.observe_ledger(time.monotonic() - started)


@lru_cache(maxsize=4096)
def _in_millionths(price: prices.Price) -> Price:
    """Return a price as the ledger has it. Many requests have the same one."""
    return Price.per_million(price.prompt_tokens, price.completion_tokens, price.cached_prompt_tokens)
