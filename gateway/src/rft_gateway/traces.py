"""OpenTelemetry's traces: a span for each request, with its tokens and its times, and without any text of it.

The names are those of OpenTelemetry's conventions for generative AI. Importing this module takes half a second.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import urlsplit

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from rft_api.gateway_routes import Route
from rft_gateway.errors import ApiError
from rft_gateway.ledger import Entry, Outcome
from rft_gateway.requests import Api, Call

_TRACEPARENT = "traceparent"
"""Header with the span of the caller. Its companion `tracestate`, which may have any text, is not passed on."""
_LONGEST_TRACEPARENT = 256
"""Characters of that header; those of version 00 have 55."""
CLOSE_SECONDS = 5.0
"""Time for what is left to send when the gateway ends."""
_OPERATIONS = {
    Api.CHAT: "chat",
    Api.RESPONSES: "chat",
    Api.COMPLETIONS: "text_completion",
    Api.EMBEDDINGS: "embeddings",
}
_NANOSECONDS = 1_000_000_000
_PROPAGATOR = TraceContextTextMapPropagator()


class Traces:
    """Makes spans, and sends them from a thread of its own.

    The environment variables of OpenTelemetry say where to, and which requests. Up to 2048 spans wait; what does not
    fit, or cannot be sent within 10 seconds, is dropped, and the log says so.
    """

    def __init__(self) -> None:
        resource = Resource.create({"service.name": "rft-gateway"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("rft_gateway")

    def begin(self, arrival: datetime, route: Route, call: Call, headers: Mapping[str, str]) -> RequestSpan:
        """Begin the span of a request.

        Args:
            arrival: when it arrived.
            route: its model.
            call: the request.
            headers: its headers; the span continues the trace that `traceparent` names.
        """
        parent = headers.get(_TRACEPARENT, "")
        if len(parent) > _LONGEST_TRACEPARENT:
            parent = ""  # OpenTelemetry would write a line to the log for each
        context = _PROPAGATOR.extract({_TRACEPARENT: parent})
        operation = _OPERATIONS[call.api]
        span = self._tracer.start_span(
            f"{operation} {route.model}",
            context,
            trace.SpanKind.SERVER,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "vllm",
                "gen_ai.request.model": route.model,
                "gen_ai.request.stream": call.stream,
            },
            start_time=_nanoseconds(arrival.timestamp()),
        )
        return RequestSpan(self._tracer, span)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)


class RequestSpan:
    """The span of one request; made by `Traces.begin`."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span):
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        self._wait_end = 0

    def headers_for(self, server: str) -> dict[str, str]:
        """Note the address of the server that gets the request, and return headers with which it continues the trace.

        Args:
            server: its URL.
        """
        url = urlsplit(server)
        self._span.set_attribute("server.address", url.hostname or "")
        if url.port is not None:
            self._span.set_attribute("server.port", url.port)
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, self._context)
        return headers

    def note_first_part(self, seconds: float) -> None:
        """Note how long the client has waited for the first part of a stream."""
        self._span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)

    def note_wait_end(self) -> None:
        """Note that the request has ended to wait for a server, for now."""
        self._wait_end = time.time_ns()

    def end(self, entry: Entry, failure: ApiError | None) -> None:
        """End the span.

        Args:
            entry: what the ledger gets of the request.
            failure: why the ledger has not taken it, so that the client gets no answer.
        """
        if entry.cold_start_seconds:
            start = self._wait_end - _nanoseconds(entry.cold_start_seconds)
            attributes = {"rft.base": entry.base}
            self._tracer.start_span(
                f"cold start {entry.base}", self._context, attributes=attributes, start_time=start
            ).end(self._wait_end)
        self._span.set_attributes(
            {
                "gen_ai.usage.input_tokens": entry.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": entry.cached_tokens,
                "gen_ai.usage.output_tokens": entry.completion_tokens,
                "http.response.status_code": entry.status,
                "rft.request.id": entry.id,
                "rft.namespace": entry.namespace,
                "rft.key": entry.key,
                "rft.base": entry.base,
                "rft.outcome": entry.outcome.value,
            }
        )
        if failure is not None or entry.status >= 500 or entry.outcome is Outcome.SERVER_FAILED:
            error = str(entry.status) if failure is None else failure.code or failure.type
            self._span.set_attribute("error.type", error)
            self._span.set_status(trace.StatusCode.ERROR)
        self._span.end()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * _NANOSECONDS)
