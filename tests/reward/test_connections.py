"""Clients that take without end, or never go on: they cost a bounded amount, and others are answered beside them.

None of them has the token.
"""

import contextlib
import sys
import time
from pathlib import Path

import pytest
from support.hostile_clients import connected, flooding, floods, read_all
from support.memory import forget_peak, open_files, peak_bytes
from support.patience import wait_until

from rft_api.foreign import server_limits

SOURCE = """
def lambda_handler(event, context):
    return [{"id": sample["id"], "aggregate_reward_score": 1.0} for sample in event]
"""
SPEC = {"python": {"source": SOURCE}}
FLOOD_SECONDS = 1.5
MOST_BYTES = 64 << 20
"""What the server may take for all clients together; see `server_limits.CONNECTIONS`."""
START = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
CHUNKED = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n"
FLOODS = floods("/healthz", "/v1/score")


@pytest.fixture(scope="module")
def server(server_for):
    return server_for(SPEC)


def port_of(server):
    return int(server.url.rsplit(":", 1)[1])


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_take_little_memory_and_others_are_answered(server, flood):
    first, more = FLOODS[flood]
    forget_peak(server.process.pid)
    before = peak_bytes(server.process.pid)
    with flooding(port_of(server), first, more) as sent:
        end, answered = time.monotonic() + FLOOD_SECONDS, 0
        while time.monotonic() < end or answered < 2:
            assert server.score_one("x")["aggregate_reward_score"] == 1.0
            with connected(port_of(server), START + b"connection: close\r\n\r\n") as health:
                assert b" 200 OK" in read_all(health)
            answered += 1
    assert sum(sent) > 0
    assert peak_bytes(server.process.pid) - before < MOST_BYTES / 4
    assert len(server.log()) < 10_000


@pytest.mark.parametrize("head", [START + b"a: b\r\n" * server_limits.HEAD_FIELDS, START + b"a: " + b"b" * 65536])
def test_heads_that_are_too_large_are_refused_with_a_reason(server, head):
    with connected(port_of(server), head + b"\r\n\r\n") as client:
        answer = read_all(client)
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert b"64 KiB or 100 headers" in answer


def test_heads_of_proxies_are_read(server):
    fields = b"".join(b"x-%d: %s\r\n" % (number, b"a" * 600) for number in range(90))
    with connected(port_of(server), START + b"connection: close\r\n" + fields + b"\r\n") as client:
        assert b" 200 OK" in read_all(client)


@pytest.mark.parametrize("body", [b"content-length: 99999999999\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize("line", [b"POST /v1/score", b"GET /healthz", b"PUT /nowhere"])
def test_a_body_that_nobody_needs_is_read_to_a_limit(server, line, body):
    piece = b"x" * 65536 if b"length" in body else b"10000\r\n" + b"x" * 65536 + b"\r\n"
    sent = 0
    with connected(port_of(server), line + b" HTTP/1.1\r\nhost: x\r\n" + body) as client:
        with contextlib.suppress(ConnectionError):
            while sent < 1 << 30:
                sent += client.send(piece)
        assert read_all(client).startswith(b"HTTP/1.1 ")
    assert sent < 64 << 20  # with what the buffers of both sides hold


@pytest.mark.parametrize(("chunks", "goes_on"), [(200, True), (300, False), (3000, False)])
def test_small_chunks_that_nobody_needs_are_read_to_a_limit(server, chunks, goes_on):
    """Parsing one costs as much as kilobytes, so a client without a token may not send thousands."""
    with connected(
        port_of(server), b"PUT /nowhere HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    ) as client:
        assert client.recv(1 << 16).startswith(b"HTTP/1.1 404")
        with contextlib.suppress(ConnectionError):
            client.sendall(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n" + START + b"connection: close\r\n\r\n")
        assert (b" 200 OK" in read_all(client)) is goes_on


def test_more_clients_than_the_server_keeps_do_not_shut_others_out(server):
    before = peak_bytes(server.process.pid)
    with contextlib.ExitStack() as stack:
        for _ in range(2 * server_limits.CONNECTIONS):
            stack.enter_context(connected(port_of(server), START + b"a: " + b"b" * 60_000))
        assert server.score_one("x")["aggregate_reward_score"] == 1.0
        with connected(port_of(server), START + b"connection: close\r\n\r\n") as health:
            assert b" 200 OK" in read_all(health)
        assert open_files(server.process.pid) < server_limits.CONNECTIONS + 100
    assert peak_bytes(server.process.pid) - before < MOST_BYTES


SLOW = {
    "says nothing": b"",
    "sends half of the first line": b"GET /hea",
    "sends half of the headers": START,
    "sends half of a body without a token": b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n[",
    "sends half of a chunk": CHUNKED,
    "begins a second request": START + b"\r\n" + START,
}


@pytest.fixture(scope="module")
def hurried_server(tmp_path_factory, reward_server):
    launcher = (sys.executable, str(Path(__file__).parent / "with_short_deadlines.py"))
    with reward_server(tmp_path_factory.mktemp("hurried"), SPEC, launcher=launcher) as server:
        yield server


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("slow", SLOW)
def test_clients_that_do_not_go_on_are_left(hurried_server, slow, drips):
    with connected(port_of(hurried_server), SLOW[slow]) as client:
        client.settimeout(0.1)

        def is_closed():
            try:
                if drips and SLOW[slow]:
                    client.send(b"a")
                return client.recv(1 << 16) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        wait_until(is_closed, pause=0.05)
    assert hurried_server.score_one("x")["aggregate_reward_score"] == 1.0


def test_clients_that_never_read_are_left(hurried_server):
    idle = open_files(hurried_server.process.pid)
    with connected(port_of(hurried_server)) as client:
        client.settimeout(0.1)
        request = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"

        def is_closed():
            try:
                client.send(request * 8)
            except TimeoutError:  # nobody reads on either side
                return False
            except ConnectionError:
                return True
            return False

        wait_until(is_closed, pause=0.0)
    wait_until(lambda: open_files(hurried_server.process.pid) <= idle, pause=0.05)


def test_answers_that_take_long_are_not_hurried(build_sample, start_server):
    launcher = (sys.executable, str(Path(__file__).parent / "with_short_deadlines.py"))
    source = f"import time\n{SOURCE.replace('return', 'time.sleep(4); return', 1)}"
    server = start_server({"timeout": "20s", "python": {"source": source}}, launcher=launcher).wait_ready()
    assert server.score([build_sample("a", "x")])[0]["aggregate_reward_score"] == 1.0
