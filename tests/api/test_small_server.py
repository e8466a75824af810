"""The small servers (progress, metrics, adapters) under clients that take without end, or never go on."""

import contextlib
import re
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.hostile_clients import connected, flooding, floods, read_all
from support.memory import forget_peak, open_files, peak_bytes
from support.patience import wait_until

from rft_api.foreign import server_limits
from rft_api.foreign.small_server import Page, SmallServer

REPOSITORY = Path(__file__).parents[2]
SOURCES = sorted(
    path
    for part in ("api", "trainer-image", "adapter-loader", "operator", "reward-server", "cli")
    for path in (REPOSITORY / part / "src").rglob("*.py")
)
BODY = b"x" * 300_000
PROGRAM = f"""
import sys
from rft_api.foreign import server_limits
from rft_api.foreign.small_server import Page, SmallServer
server_limits.SMALL_SECONDS = float(sys.argv[1])
server = SmallServer("127.0.0.1", 0, {{"/metrics": Page("text/plain", lambda: b"x" * {len(BODY)})}})
print(server.port, flush=True)
sys.stdin.read()
"""
MOST_BYTES = 16 << 20
"""What the process may take for all clients: 64 heads of 64 KiB, some copies of the answer, and what malloc keeps."""
FLOOD_SECONDS = 0.5
HURRIED_SECONDS = 1.0
GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n"


class Child:
    """A small server in a process of its own, so that its memory can be measured."""

    def __init__(self, seconds: float):
        command = [sys.executable, "-c", PROGRAM, str(seconds)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.port = int(self.process.stdout.readline())
        self.idle_files = self.files()
        # Until the page has been made once. A server that is in a hurry may hang up on a client that is slow here.
        wait_until(lambda: is_whole(ask(self.port, GET + b"\r\n")))

    def files(self) -> int:
        return open_files(self.process.pid)

    def forget_peak(self) -> None:
        forget_peak(self.process.pid)

    def peak_bytes(self) -> int:
        return peak_bytes(self.process.pid)

    def stop(self) -> None:
        """Ends it, and looks at what it has printed: nothing that a client does is worth a line."""
        _, errors = self.process.communicate("")
        assert (self.process.returncode, errors) == (0, "")


def start(seconds):
    child = Child(seconds)
    yield child
    child.stop()


@pytest.fixture(scope="module")
def server():
    yield from start(server_limits.SMALL_SECONDS)


@pytest.fixture(scope="module")
def hurried_server():
    yield from start(HURRIED_SECONDS)


def is_late(begin):
    return time.monotonic() - begin > HURRIED_SECONDS


def ask(port, request):
    with connected(port, request) as client:
        return read_all(client)


def is_whole(answer):
    return answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\n" + BODY)


def scrape(port):
    assert is_whole(ask(port, GET + b"\r\n"))


FLOODS = floods("/metrics", "/metrics")


@pytest.mark.parametrize("flood", FLOODS)
def test_floods_take_little_memory_and_a_scrape_is_answered(server, flood):
    first, more = FLOODS[flood]
    server.forget_peak()
    before = server.peak_bytes()
    with flooding(server.port, first, more) as sent:
        began = time.monotonic()
        while time.monotonic() - began < FLOOD_SECONDS or len(sent) < 10:
            scrape(server.port)
    assert server.peak_bytes() - before < MOST_BYTES


HELD = {
    "nothing": b"",
    "half of the first line": b"GET /met",
    "the first line": b"GET /metrics HTTP/1.1\r\n",
    "half of the headers": GET,
    "almost too large a head": GET + b"a: " + b"b" * 65_000,
    "a request whose answer nobody reads": GET + b"\r\n",
}


@pytest.mark.parametrize("message", HELD)
def test_a_thousand_connections_take_little_memory_and_a_scrape_is_answered(server, message):
    server.forget_peak()
    before = server.peak_bytes()
    with contextlib.ExitStack() as stack:
        for number in range(1000):
            with contextlib.suppress(ConnectionError):
                stack.enter_context(connected(server.port, HELD[message]))
            if number % 100 == 99:
                scrape(server.port)
        assert server.files() <= server.idle_files + server_limits.SMALL_CONNECTIONS
    assert server.peak_bytes() - before < MOST_BYTES


def test_a_client_with_many_connections_loses_its_own(server):
    """Prometheus keeps its slow connection while another client opens any number of them."""
    with socket.create_connection(("127.0.0.1", server.port), 60, ("127.0.0.2", 0)) as prometheus:
        prometheus.sendall(b"GET /metrics")
        with contextlib.ExitStack() as stack:
            for _ in range(3 * server_limits.SMALL_CONNECTIONS):
                stack.enter_context(connected(server.port))
            scrape(server.port)
            prometheus.sendall(b" HTTP/1.1\r\n\r\n")
            assert read_all(prometheus).startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("message", HELD)
def test_the_whole_connection_has_a_deadline(hurried_server, message, drips):
    """Each byte that is dripped would begin the time of a read anew."""
    wait_until(lambda: hurried_server.files() == hurried_server.idle_files)
    begin = time.monotonic()
    with connected(hurried_server.port, HELD[message]) as client:
        # A machine that stands still for a second sees only that it is over.
        wait_until(lambda: hurried_server.files() > hurried_server.idle_files or is_late(begin), pause=0.01)

        def is_closed():
            with contextlib.suppress(OSError):
                if drips and HELD[message]:
                    client.send(b"a")
            return hurried_server.files() == hurried_server.idle_files

        wait_until(is_closed, pause=0.02)
        assert time.monotonic() - begin > HURRIED_SECONDS / 2 or drips


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /metrics HTTP/1.0\r\n\r\n", 200),
        (b"GET /metrics?name=x HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\nGET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET http://x/metrics HTTP/1.1\r\n\r\n", 404),
        (b"GET /%2e%2e/metrics HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\n\n", 400),
        (b"get /metrics HTTP/1.1\r\n\r\n", 400),
        (b"\r\nGET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"a" * 2000, 400),
        (b"GET /metrics HTTP/1.1\r\na: " + b"b" * 65536, 431),
    ],
)
def test_answers(server, request_bytes, status):
    answer = ask(server.port, request_bytes)
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1, "one request per connection"
    assert b"\r\nConnection: close\r\n" in answer


def test_a_client_that_speaks_tls_is_told_at_once(server):
    with connected(server.port) as client, pytest.raises(ssl.SSLError, match=r"(?i)wrong.version"):
        ssl.create_default_context().wrap_socket(client, server_hostname="x")


def test_a_request_may_come_in_crumbs(server):
    with connected(server.port) as client:
        for byte in GET + b"\r\n":
            client.send(bytes([byte]))
        assert read_all(client).startswith(b"HTTP/1.1 200 OK\r\n")


def test_greedy_clients_do_not_make_the_page_more_often(monkeypatch):
    made = []
    page = Page("text/plain", lambda: made.append(1) or b"%d" % len(made))
    monkeypatch.setattr(server_limits, "SMALL_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(server_limits, "SMALL_FRESH_RATIO", 0.0)
    server = SmallServer("127.0.0.1", 0, {"/": page})
    answers = {ask(server.port, b"GET / HTTP/1.1\r\n\r\n") for _ in range(3)}
    assert (len(answers), len(made)) == (3, 3)
    monkeypatch.setattr(server_limits, "SMALL_FRESH_SECONDS", 1000.0)
    answers = {ask(server.port, b"GET / HTTP/1.1\r\n\r\n") for _ in range(20)}
    assert (len(answers), len(made)) == (1, 4), "it is made once more, and then sent again"
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        connected(server.port)


def test_a_page_is_sent_again_for_longer_the_more_it_costs_to_make(monkeypatch):
    def make(seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return b"%d" % time.monotonic_ns()

    monkeypatch.setattr(server_limits, "SMALL_FRESH_SECONDS", 0.0)
    monkeypatch.setattr(server_limits, "SMALL_FRESH_RATIO", 1e6)
    dear, cheap = Page("text/plain", lambda: make(0.01)), Page("text/plain", lambda: b"%d" % time.monotonic_ns())
    assert dear.answer() == dear.answer()
    monkeypatch.setattr(server_limits, "SMALL_FRESH_RATIO", 0.0)
    assert cheap.answer() != cheap.answer()
    assert dear.answer() == dear.answer(), "what it cost is what counts"


def test_a_page_that_cannot_be_made_does_not_end_the_server(caplog):
    pages = {"/broken": Page("text/plain", lambda: {}["x"]), "/": Page("text/plain", lambda: b"ok")}
    server = SmallServer("127.0.0.1", 0, pages)
    assert ask(server.port, b"GET /broken HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 500 ")
    assert "/broken cannot be made" in caplog.text
    assert ask(server.port, b"GET / HTTP/1.1\r\n\r\n").endswith(b"ok")
    server.stop()


def test_no_product_has_a_server_without_limits():
    unlimited = re.compile(r"\b(http\.server|socketserver|start_http_server|make_server|asyncio\.start_server)\b")
    mentions = {path.name for path in SOURCES if unlimited.search(path.read_text(encoding="utf-8"))}
    assert mentions == {"small_server.py"}, "it says why it does not use http.server"
