"""A receiver of OpenTelemetry's traces (OTLP over HTTP), which keeps what it gets."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from support.patience import wait_until


@dataclass(frozen=True)
class Span:
    """A span as it was received; times are nanoseconds since 1970."""

    name: str
    kind: int
    trace_id: str
    id: str
    parent: str
    start: int
    end: int
    status: int
    attributes: Mapping[str, Any]
    resource: Mapping[str, Any]


class TraceReceiver:
    """The server, in a thread of its own; a context manager.

    Args:
        status: the status code of its answers.
    """

    def __init__(self, status: int = 200):
        self.bodies: list[bytes] = []
        """What it was sent, without compression."""
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.bodies.append(gzip.decompress(body) if self.headers["content-encoding"] == "gzip" else body)
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        """Variables of a program that sends its traces here, soon."""

    def __enter__(self) -> TraceReceiver:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def spans(self) -> list[Span]:
        """Returns all spans, in the order of their start."""
        spans = []
        for body in list(self.bodies):
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = _attributes(group.resource)
                for scope in group.scope_spans:
                    spans += [_span(span, resource) for span in scope.spans]
        return sorted(spans, key=lambda span: span.start)

    def wait_for_spans(self, count: int) -> list[Span]:
        """Waits until it has so many spans, and returns them."""

        def enough() -> list[Span]:
            spans = self.spans()
            return spans if len(spans) >= count else []

        return wait_until(enough, self.spans)


def _span(span: Any, resource: Mapping[str, Any]) -> Span:
    return Span(
        span.name,
        span.kind,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code,
        _attributes(span),
        resource,
    )


def _attributes(message: Any) -> dict[str, Any]:
    return {attribute.key: _value(attribute.value) for attribute in message.attributes}


def _value(value: AnyValue) -> Any:
    return getattr(value, value.WhichOneof("value"))
