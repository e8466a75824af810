"""What the gateway answers when something is wrong: keys, bodies, clients that leave, servers that die."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.gateway import Gateway, route
from support.patience import PATIENCE_SECONDS, wait_until
from support.raw_server import raw_server
from support.vllm_bytes import VllmBytes

from rft_api.foreign import server_limits
from rft_api.gateway_key import Limits
from rft_api.price import Price

CHAT = "/v1/chat/completions"
SECRET = "a-word-of-a-prompt-that-nobody-else-may-see"


def question(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": f"{SECRET} one two"}], "max_tokens": 4, **more}


# keys


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer rft-wrong", "Basic dXNlcjpw", f"Bearer rft-{'a' * 43}", "Bearer \xe9"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/organization/costs", "/v1/unknown"])
def test_without_a_key_nothing_happens(gateway, server, header, path):
    before = len(gateway.entries())
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    answer = httpx.post(
        f"{gateway.url}{path}", json=question(), headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
    )
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] in ("missing_api_key", "invalid_api_key")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert server.counters.requests == 0
    assert len(gateway.entries()) == before


def test_a_key_opens_its_namespace_or_the_models_that_it_names(gateway, server):
    foreign = gateway.add_new_key("foreign", namespace="other")
    narrow = gateway.add_new_key("narrow", models=("base",))
    unknown = gateway.post(CHAT, question(model="unknown"))
    for token in (foreign, narrow):
        answer = gateway.post(CHAT, question(), token)
        assert answer.status_code == 404
        assert answer.text == unknown.text.replace("unknown", "m")
    assert server.counters.requests == 0
    assert gateway.post(CHAT, question(model="base"), narrow).status_code == 200
    for token, names in ((foreign, []), (narrow, ["base"]), (gateway.token, ["base", "m"])):
        with gateway.client(token) as client:
            assert [model["id"] for model in client.get("/v1/models").json()["data"]] == names


def test_a_revoked_key_opens_nothing(gateway):
    token = gateway.add_new_key("revoked")
    (gateway.folder / "keys" / "team-revoked.yaml").unlink()
    with gateway.client(token) as client:
        wait_until(lambda: client.get("/v1/models").status_code == 401)


# bytes


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "options", [None, {"include_usage": True}, {"include_usage": True, "continuous_usage_stats": True}]
)
def test_a_stream_is_what_the_server_sends_byte_for_byte(gateway, server, path, count, options):
    body = question(stream=True, n=count, prompt=[SECRET, "one two"], stream_options=options)
    through = gateway.post(path, body)
    headers = {"x-request-id": through.headers["x-request-id"]}
    direct = httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
    assert through.content == direct.content
    assert through.headers["content-type"] == direct.headers["content-type"]


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
@pytest.mark.parametrize("wants_usage", [False, True])
def test_the_fingerprint_of_a_server_is_in_streams_with_usage_only(gateway, server, path, wants_usage):
    server.behaviour.fingerprint = "vllm-0.31.0-1234"
    body = question(stream=True, prompt="one two", stream_options={"include_usage": wants_usage})
    through = gateway.post(path, body)
    headers = {"x-request-id": through.headers["x-request-id"]}
    direct = httpx.post(f"{server.url}{path}", json=body, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
    field = b',"system_fingerprint":"vllm-0.31.0-1234"'
    assert direct.content.count(field) == 1
    assert through.content == (direct.content if wants_usage else direct.content.replace(field, b""))
    whole = gateway.post(path, question(prompt="one two"))
    assert whole.json()["system_fingerprint"] == "vllm-0.31.0-1234"


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/responses"])
def test_an_answer_is_what_the_server_sends_byte_for_byte(gateway, server, path):
    body = json.dumps(question(prompt="one two", input="one two", n=2), indent=3).encode()
    through = gateway.post(path, body)
    assert server.bodies[-1] == body
    headers = {"x-request-id": through.headers["x-request-id"]}
    direct = httpx.post(f"{server.url}{path}", content=body, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False)
    assert through.content == direct.content


def test_the_server_does_not_see_the_key(gateway, server):
    gateway.post(CHAT, question())
    assert "authorization" not in server.headers[-1]
    assert not any(gateway.token in value for value in server.headers[-1].values())


def test_a_model_that_its_server_knows_by_another_name(tmp_path, server):
    with Gateway(tmp_path, [route("mine", server.url, served_model="m")]) as gateway:
        assert gateway.post(CHAT, question(model="mine")).json()["model"] == "mine"
        stream = gateway.post(CHAT, question(model="mine", stream=True)).text
        assert '"model":"mine"' in stream
        assert '"model":"m"' not in stream
        assert gateway.entries()[-1]["model"] == "mine"


# bodies


def test_a_body_that_is_too_large_is_refused(gateway, server):
    def pieces() -> Iterator[bytes]:
        for _ in range(server_limits.BODY_BYTES // (1 << 20) + 1):
            yield b"x" * (1 << 20)

    with gateway.client() as client:
        try:
            status = client.post(CHAT, content=pieces()).status_code
        except httpx.WriteError:  # it has closed the connection while the client was still sending
            status = 413
        assert status == 413
        claim = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.token}\r\n"
        claim += f"content-length: {server_limits.BODY_BYTES + 1}\r\n\r\n"
        assert gateway.exchange(claim.encode()).startswith(b"HTTP/1.1 413")
        # others are not concerned, and nothing of it is held any more
        assert client.post(CHAT, json=question()).status_code == 200
    assert server.counters.requests == 1


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 100_000 + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + b"x: y\r\n" * 1000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(gateway, server, head):
    assert gateway.exchange(head).split()[1] in (b"400", b"431")
    assert gateway.post(CHAT, question()).status_code == 200
    assert server.counters.requests == 1


@pytest.mark.parametrize("first", [b"", b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"])
def test_a_head_without_an_end_is_refused(gateway, first):
    head = first + f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n".encode()
    head += b"".join(b"x%d: " % number + b"y" * 8000 + b"\r\n" for number in range(90))
    answer = b""
    with gateway.connect() as connection, contextlib.suppress(ConnectionError):  # what is not read resets it
        connection.sendall(head)
        while data := connection.recv(1 << 16):
            answer += data
    assert answer[:12] in (b"", b"HTTP/1.1 431", b"HTTP/1.1 401")
    assert gateway.post(CHAT, question()).status_code == 200


def test_a_client_that_waits_until_its_body_is_wanted(gateway, server):
    body = json.dumps(question()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nexpect: 100-continue\r\n"
    head += f"content-length: {len(body)}\r\n"
    assert gateway.exchange(f"{head}\r\n".encode()).startswith(b"HTTP/1.1 401")
    with gateway.connect() as connection, connection.makefile("rb") as answer:
        connection.sendall(f"{head}authorization: Bearer {gateway.token}\r\n\r\n".encode())
        assert [answer.readline(), answer.readline()] == [b"HTTP/1.1 100 Continue\r\n", b"\r\n"]
        connection.sendall(body)
        assert answer.read().startswith(b"HTTP/1.1 200")


def test_a_body_of_too_many_small_chunks_is_refused(gateway, server):
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.token}\r\n"
    answer = gateway.exchange(head.encode() + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 5_000)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"more than 4,096 chunks of fewer than 64 bytes. Send larger ones." in answer
    assert server.counters.requests == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/v1/organization/costs", 405),
        ("POST", "/v1/files", 404),
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("POST", "/v1/load_lora_adapter", 404),  # an operation of vLLM that is no client's business
        ("POST", "/v1/chat/completions/", 404),
    ],
)
def test_there_are_only_the_operations_of_the_api(gateway, server, method, path, status):
    with gateway.client() as client:
        answer = client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert server.counters.requests == 0


# clients that leave


@pytest.mark.parametrize("count", [1, 2])
def test_a_client_that_leaves_a_stream_pays_for_what_was_generated(gateway, server, count):
    server.behaviour.pause_at = 2
    before = len(gateway.entries())
    with (
        gateway.client() as client,
        client.stream("POST", CHAT, json=question(stream=True, n=count, max_tokens=50)) as stream,
    ):
        received = b""
        for data in stream.iter_bytes():
            received += data
            if received.count(b"w1 ") == count:
                break
    (entry,) = gateway.wait_for_entries(before + 1)[before:]
    assert (entry["outcome"], entry["status"]) == ("ClientLeft", 499)
    assert (entry["prompt_tokens"], entry["completion_tokens"]) == (3, 2 * count)
    server.behaviour.resume.set()
    wait_until(lambda: server.counters.aborted == 1)  # the server has stopped, too
    assert server.counters.completion_tokens < 50 * count


def test_a_client_that_leaves_before_the_answer(gateway, server):
    server.behaviour.pause_at = 0
    before = len(gateway.entries())
    body = json.dumps(question()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {gateway.token}\r\n"
    with gateway.connect() as connection:
        connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        wait_until(lambda: server.counters.requests == 1)
    (entry,) = gateway.wait_for_entries(before + 1)[before:]
    assert (entry["outcome"], entry["status"], entry["completion_tokens"]) == ("ClientLeft", 499, 0)
    server.behaviour.resume.set()
    wait_until(lambda: server.counters.aborted == 1)


def test_a_client_that_leaves_a_stream_of_responses(gateway, server):
    server.behaviour.pause_at = 3
    before = len(gateway.entries())
    body = {"model": "m", "input": "one two three", "stream": True, "max_output_tokens": 50}
    with gateway.client() as client, client.stream("POST", "/v1/responses", json=body) as stream:
        received = b""
        for data in stream.iter_bytes():
            received += data
            if b'"w2 "' in received:
                break
    (entry,) = gateway.wait_for_entries(before + 1)[before:]
    # Such a stream states its usage at the end only: the prompt is estimated, and each part counts as one token.
    assert (entry["outcome"], entry["prompt_tokens"], entry["completion_tokens"]) == ("ClientLeft", 4, 3)


# servers that die


@pytest.mark.parametrize("stream", [False, True])
def test_a_server_that_ends_before_its_answer(gateway, server, stream):
    server.behaviour.end_at = 0
    answer = gateway.post(CHAT, question(stream=stream))
    assert answer.status_code == 502
    assert answer.json()["error"]["code"] == "server_disconnected"
    assert server.counters.requests == 1  # it may have begun: nobody asks twice
    entry = gateway.entries()[-1]
    assert (entry["outcome"], entry["status"], entry["completion_tokens"]) == ("ServerFailed", 502, 0)


def test_a_server_that_ends_in_the_middle_of_a_stream(gateway, server):
    server.behaviour.end_at = 3
    answer = gateway.post(CHAT, question(stream=True, max_tokens=9))
    *_, last, rest = answer.text.split("\n\n")
    assert rest == ""
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "server_disconnected"
    assert "[DONE]" not in answer.text
    entry = gateway.entries()[-1]
    assert (entry["outcome"], entry["status"], entry["completion_tokens"]) == ("ServerFailed", 200, 3)


def test_an_answer_of_too_many_values_is_not_parsed(tmp_path):
    body = b"[" + b"[]," * 8_000_000 + b"[]]"  # 1.4 GiB, once it is parsed

    def answer(connection: socket.socket) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    with raw_server(answer) as url, Gateway(tmp_path, [route("m", url)]) as gateway:
        answered = gateway.post(CHAT, question())
        assert (answered.status_code, answered.json()["error"]["code"]) == (502, "answer_too_large")
        (entry,) = gateway.entries()
        assert (entry["status"], entry["outcome"]) == (502, "ServerFailed")


def test_another_replica_answers_when_one_takes_no_connections(tmp_path, server):
    with VllmBytes("m") as other:
        pass
    with Gateway(tmp_path, [route("m", other.url, server.url)]) as gateway:
        for number in range(8):
            body = question(messages=[{"role": "user", "content": f"{number} {SECRET}"}])
            assert gateway.post(CHAT, body).status_code == 200
        assert server.counters.requests == 8
        gateway.set_routes([route("m", other.url)])

        def answer() -> httpx.Response | None:
            answer = gateway.post(CHAT, question())
            return None if answer.is_success else answer

        refusal = wait_until(answer, lambda: server.counters.requests)
        assert refusal.status_code == 503
        assert refusal.json()["error"]["code"] == "model_unavailable"
        assert refusal.headers["retry-after"] == "1"
        assert gateway.entries()[-1]["outcome"] == "Refused"  # no server has worked for it


def test_requests_that_share_a_beginning_meet_the_same_replica(tmp_path, server):
    with VllmBytes("m") as other, Gateway(tmp_path, [route("m", server.url, other.url)]) as gateway:
        for prompt in range(20):
            before = server.counters.requests
            messages = [{"role": "user", "content": f"{prompt} " * 200}]
            for turn in range(3):
                more = [{"role": "user", "content": f"turn {turn}"}]
                assert gateway.post(CHAT, question(messages=messages + more)).status_code == 200
            assert server.counters.requests - before in (0, 3)
        assert server.counters.requests > 0
        assert other.counters.requests > 0


# models


def test_models_come_and_go_with_the_file(tmp_path, server):
    with Gateway(tmp_path, [route("base", server.url)]) as gateway, gateway.client() as client:

        def models() -> list[str]:
            return [model["id"] for model in client.get("/v1/models").json()["data"]]

        assert models() == ["base"]
        gateway.set_routes([route("base", server.url), route("m", server.url)])
        wait_until(lambda: models() == ["base", "m"])
        (tmp_path / "routes.json").write_text('{"routes": [{}]}')
        wait_until(lambda: "going on with the models as they were" in gateway.log)
        assert models() == ["base", "m"]
        gateway.set_routes([])
        wait_until(lambda: models() == [])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda gateway: (gateway.folder / "routes.json").unlink(), "routes.json"),
        (lambda gateway: (gateway.folder / "routes.json").write_text("{"), "routes.json"),
        (lambda gateway: shutil.rmtree(gateway.folder / "keys"), "--keys"),
    ],
)
def test_a_gateway_that_cannot_start_says_why(tmp_path, server, break_it, message):
    gateway = Gateway(tmp_path, [route("m", server.url)])
    break_it(gateway)
    code, output = gateway.run()
    assert code == 10
    assert message in output.splitlines()[-1]
    assert "Traceback" not in output


# the end


def test_a_gateway_that_is_stopped_answers_what_has_begun(tmp_path, server):
    with Gateway(tmp_path, [route("m", server.url)]) as gateway:
        server.behaviour.pause_at = 1
        begun, texts = threading.Event(), []

        def read() -> None:
            with gateway.client() as client, client.stream("POST", CHAT, json=question(stream=True)) as stream:
                for text in stream.iter_text():
                    texts.append(text)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(PATIENCE_SECONDS)
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in gateway.log)
        server.behaviour.resume.set()
        reader.join()
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
        assert "".join(texts).endswith("data: [DONE]\n\n")
        (entry,) = gateway.entries()
        assert (entry["outcome"], entry["completion_tokens"]) == ("Answered", 4)


def test_what_a_gateway_that_is_stopped_has_no_time_for_is_counted_and_not_taken_for_a_client_that_left(
    tmp_path, server
):
    with Gateway(tmp_path, [route("m", server.url)], "--drain-seconds", "0.1") as gateway:
        server.behaviour.pause_at = 2
        with gateway.client() as client, client.stream("POST", CHAT, json=question(stream=True)) as stream:
            parts, received = stream.iter_bytes(), b""  # httpx leaves when nobody holds the iterator any more
            while b"w1 " not in received:
                received += next(parts)
            assert gateway.stop() == 0
        (entry,) = gateway.entries()
        assert (entry["outcome"], entry["status"], entry["completion_tokens"]) == ("GatewayStopped", 503, 2)


def test_a_client_that_leaves_while_the_gateway_stops_has_left(tmp_path, server):
    with Gateway(tmp_path, [route("m", server.url)], "--drain-seconds", str(PATIENCE_SECONDS)) as gateway:
        server.behaviour.pause_at = 2
        with gateway.client() as client, client.stream("POST", CHAT, json=question(stream=True)) as stream:
            parts = stream.iter_bytes()
            next(parts)
            gateway.process.send_signal(signal.SIGTERM)
            wait_until(lambda: "stopping" in gateway.log)
        assert gateway.process.wait(PATIENCE_SECONDS) == 0
        (entry,) = gateway.entries()
        assert (entry["outcome"], entry["status"]) == ("ClientLeft", 499)


def test_metrics_and_the_log_have_no_prompt(tmp_path, server):
    with Gateway(tmp_path, [route("m", server.url, base="base")]) as gateway:
        gateway.post(CHAT, question())
        gateway.post(CHAT, question(stream=True))
        gateway.post(CHAT, question(model=SECRET))
        gateway.post(CHAT, f'{{"model": "m", {SECRET}'.encode())
        server.behaviour.end_at = 2
        gateway.post(CHAT, question(stream=True))
        metrics = httpx.get(f"{gateway.operation_url}/metrics", timeout=PATIENCE_SECONDS, trust_env=False).text
        assert 'rft_gateway_requests_total{code="200",model="m",namespace="team",outcome="Answered"} 2.0' in metrics
        assert 'rft_gateway_tokens_total{kind="completion",model="m",namespace="team"} 10.0' in metrics
        assert 'rft_gateway_errors_total{code="model_not_found"} 1.0' in metrics
        assert 'rft_gateway_errors_total{code="server_disconnected"} 1.0' in metrics  # the last event of a stream
        for path in ("healthz", "readyz"):
            assert httpx.get(f"{gateway.operation_url}/{path}", timeout=PATIENCE_SECONDS, trust_env=False).is_success
        for text in (metrics, gateway.log, str(gateway.entries())):
            assert SECRET not in text


@pytest.mark.parametrize(
    "rest",
    [
        f"authorization : Bearer {SECRET}\r\n\r\n",
        f"authorization: Bearer {SECRET}\x01\r\n\r\n",
        f"transfer-encoding: chunked\r\n\r\n{SECRET}\r\n",
        f"transfer-encoding: chunked\r\n\r\n1\r\nx\r\n{SECRET}\r\n",
        f"x: {SECRET}{'y' * 100_000}\r\n\r\n",
    ],
)
@pytest.mark.parametrize("port", ["clients", "operators"])
def test_what_cannot_be_read_is_not_in_the_log(tmp_path, server, rest, port):
    with Gateway(tmp_path, [route("m", server.url)]) as gateway:
        if port == "operators":
            gateway.url = gateway.operation_url
        answer = gateway.exchange(f"POST {CHAT} HTTP/1.1\r\nhost: x\r\n{rest}".encode())
        assert answer.split()[1] in (b"400", b"401", b"404")
        gateway.stop()
        assert SECRET not in gateway.log


def test_an_entry_keeps_the_price_of_its_time(tmp_path, server):
    price = {"promptTokens": "0.15", "completionTokens": "0.6"}
    with Gateway(tmp_path, [route("m", server.url, price=Price.model_validate(price))]) as gateway:
        gateway.post(CHAT, question())
        gateway.set_routes([route("m", server.url)])
        wait_until(lambda: gateway.post(CHAT, question()).is_success and gateway.entries()[-1]["prompt_price"] == 0)
        first = gateway.entries()[0]
        prices = [first[f"{kind}_price"] for kind in ("prompt", "cached", "completion")]
        assert prices == [150_000, 150_000, 600_000]


def test_what_an_answer_may_use_is_reserved_until_it_has_come(gateway, server):
    """A request that alone is larger than the limit is told so; others wait for each other."""
    token = gateway.add_new_key("reserved", limits=Limits(tokens_per_day=200))
    large = gateway.post(CHAT, question(max_tokens=100, n=2), token)
    assert large.status_code == 429
    assert large.json()["error"]["message"].startswith("Request too large for key reserved")
    server.behaviour.pause_at = 1
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(gateway.post, CHAT, question(max_tokens=100), token)
        wait_until(lambda: server.counters.requests == 1)
        second = gateway.post(CHAT, question(max_tokens=100), token)
        assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert "retry-after" in second.headers
        server.behaviour.resume.set()
        assert first.result().is_success
    assert server.counters.requests == 1
