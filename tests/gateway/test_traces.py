"""Traces of requests: what the ledger has, when it was, and no text of anybody; and requests do not depend on them."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import httpx
import pytest
from support.gateway import NAMESPACE, Gateway, route
from support.gateway_door import door_in_process
from support.patience import PATIENCE_SECONDS
from support.traces import TraceReceiver

from rft_api.gateway_key import Key, make_token, token_digest
from rft_api.ports import free_port
from rft_gateway.keys import KeyRing
from rft_gateway.ledger import Ledger
from rft_gateway.routes import EndpointState, RouteTable
from rft_gateway.traces import Traces

CHAT, COMPLETIONS, RESPONSES, EMBEDDINGS = (
    f"/v1/{path}" for path in ("chat/completions", "completions", "responses", "embeddings")
)
SECRET = "zebrasecret"
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def question(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": f"one {SECRET}"}], "max_tokens": 4, **more}


def test_a_span_says_what_the_ledger_has_and_no_text(tmp_path, server):
    server.behaviour.embeddings = True
    with (
        TraceReceiver() as receiver,
        Gateway(tmp_path, [route("m", server.url, base="base")], environment=receiver.environment) as gateway,
    ):
        gateway.post(CHAT, question())
        gateway.post(CHAT, question(stream=True))
        gateway.post(COMPLETIONS, {"model": "m", "prompt": [SECRET, "two"], "n": 2, "max_tokens": 3})
        gateway.post(RESPONSES, {"model": "m", "input": SECRET, "stream": True})
        gateway.post(EMBEDDINGS, {"model": "m", "input": SECRET})
        gateway.post(CHAT, question(max_tokens=5000))
        server.behaviour.end_at = 2
        gateway.post(CHAT, question(stream=True))
        gateway.post(CHAT, question(model=SECRET))  # there is no such model, and no span
        gateway.post(CHAT, question(), token="rft-wrong")
        entries = gateway.wait_for_entries(7)
        spans = receiver.wait_for_spans(7)
        gateway.stop()
        token = gateway.token
    chat, completion = "chat m", "text_completion m"
    assert [span.name for span in spans] == [chat, chat, completion, chat, "embeddings m", chat, chat]
    for span, entry in zip(spans, entries, strict=True):
        stated = dict(span.attributes)
        assert stated["rft.request.id"] == entry["id"]
        names = {
            "input_tokens": "prompt_tokens",
            "cache_read.input_tokens": "cached_tokens",
            "output_tokens": "completion_tokens",
        }
        assert {name: stated[f"gen_ai.usage.{name}"] for name in names} == {n: entry[names[n]] for n in names}
        assert (stated["http.response.status_code"], stated["rft.outcome"]) == (entry["status"], entry["outcome"])
        assert (stated["rft.namespace"], stated["rft.key"], stated["rft.base"]) == (NAMESPACE, "key", "base")
        assert (stated["server.address"], stated["server.port"]) == ("127.0.0.1", server.port)
        assert stated["gen_ai.request.model"] == "m"
        assert span.start // 1_000_000 == entry["time"]
        assert span.end > span.start
        assert span.resource["service.name"] == "rft-gateway"
    assert [span.attributes["gen_ai.request.stream"] for span in spans[:2]] == [False, True]
    assert 0 < spans[1].attributes["gen_ai.response.time_to_first_chunk"] <= entries[1]["duration_seconds"]
    assert [span.attributes.get("error.type") for span in spans] == [None] * 6 + ["200"]
    assert len({span.trace_id for span in spans}) == 7
    everything = b"".join(receiver.bodies)
    for text in (SECRET, "w0 ", token):
        assert text.encode() not in everything


def test_a_trace_goes_on_from_the_caller_to_the_server(tmp_path, server):
    with (
        TraceReceiver() as receiver,
        Gateway(tmp_path, [route("m", server.url)], environment=receiver.environment) as gateway,
        gateway.client() as client,
    ):
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-01", "tracestate": f"x={SECRET}"}
        client.post(CHAT, json=question(), headers=headers)
        client.post(CHAT, json=question(), headers={"traceparent": SECRET})
        client.post(CHAT, json=question(), headers={"traceparent": f"00-{TRACE}-{CALLER}-00-{'x' * 2000}"})
        client.post(
            CHAT, json=question(), headers={"traceparent": f"00-{TRACE}-{CALLER}-00"}
        )  # the caller records none
        client.post(CHAT, json=question())
        first, second, long, last = receiver.wait_for_spans(4)
        gateway.stop()
        assert "traceparent" not in gateway.log.lower()
    assert (first.trace_id, first.parent) == (TRACE, CALLER)
    assert second.parent == long.parent == last.parent == ""
    passed = [sent["traceparent"].split("-") for sent in server.headers]
    assert passed[3][1] == TRACE
    assert [parts[1:3] for parts in (*passed[:3], passed[4])] == [
        [span.trace_id, span.id] for span in (first, second, long, last)
    ]
    assert not [sent for sent in server.headers if "tracestate" in sent]
    assert SECRET.encode() not in b"".join(receiver.bodies)


def test_a_cold_start_is_a_span_of_its_own(tmp_path, server, monkeypatch):
    token = make_token()
    routes, keys = RouteTable(), KeyRing()
    state = EndpointState(can_wake=True, queue=1, timeout=PATIENCE_SECONDS)
    routes.replace([route("m", base="base")], {(NAMESPACE, "m"): state})
    keys.replace([Key("key", NAMESPACE, token_digest(token))], [])

    async def ask() -> httpx.Response:
        ledger = Ledger(str(tmp_path / "ledger.db"))
        await ledger.prepare()
        traces = Traces()
        try:
            async with (
                asyncio.timeout(PATIENCE_SECONDS),
                door_in_process(routes, keys, ledger, traces) as (url, demand),
                httpx.AsyncClient(trust_env=False, timeout=PATIENCE_SECONDS) as client,
            ):
                headers = {"authorization": f"Bearer {token}"}
                asking = asyncio.create_task(client.post(f"{url}{CHAT}", json=question(), headers=headers))
                while not demand.count_waiting(route("m", base="base")):
                    await asyncio.sleep(0.01)
                routes.replace([route("m", server.url, base="base")], {(NAMESPACE, "m"): state})
                return await asking
        finally:
            await ledger.close()
            await asyncio.to_thread(traces.close)

    with TraceReceiver() as receiver:
        for name, value in receiver.environment.items():
            monkeypatch.setenv(name, value)
        assert asyncio.run(ask()).is_success
        request, cold_start = receiver.wait_for_spans(2)
    assert (request.name, cold_start.name) == ("chat m", "cold start base")
    assert (cold_start.trace_id, cold_start.parent) == (request.trace_id, request.id)
    assert request.start <= cold_start.start < cold_start.end <= request.end


@pytest.mark.parametrize("status", [None, 400, 503])
def test_requests_are_answered_whatever_becomes_of_their_traces(tmp_path, server, status):
    with TraceReceiver(status or 200) as receiver:
        url = receiver.url if status else f"http://127.0.0.1:{free_port()}"
        environment = {**receiver.environment, "OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_MAX_QUEUE_SIZE": "2"}
        environment["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"] = "2"
        with Gateway(tmp_path, [route("m", server.url)], environment=environment) as gateway:
            answers = [gateway.post(CHAT, question()) for _ in range(20)]
            assert [answer.status_code for answer in answers] == [200] * 20
            assert gateway.stop() == 0
            assert len(gateway.entries()) == 20
            assert SECRET not in gateway.log


def test_without_an_endpoint_there_is_nothing_of_it(gateway, server):
    with gateway.client() as client:
        client.post(CHAT, json=question(), headers={"traceparent": f"00-{TRACE}-{CALLER}-01"})
    assert "traceparent" not in server.headers[0]
    code = "import sys, rft_gateway.main; print([name for name in sys.modules if name.startswith('opentelemetry')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"}, "OTEL_EXPORTER_OTLP_ENDPOINT: must be a URL"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL: must be http/protobuf",
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_BSP_MAX_QUEUE_SIZE": "-1"},
            "an environment variable of OpenTelemetry is wrong: max_queue_size must be a positive integer",
        ),
    ],
)
def test_a_wrong_variable_is_told_at_once(tmp_path, variables, message):
    code, log = Gateway(tmp_path, [], environment=variables).run()
    assert code != 0
    assert message in log
