"""Bodies of many requests at the same time take a bounded amount of memory, and others are answered beside them."""

import concurrent.futures
import contextlib
import json
import socket
import sys
import threading
from pathlib import Path

import httpx
import pytest
from support.patience import PATIENCE_SECONDS, wait_until
from support.reward_server import TOKEN, sample

from rft_api.foreign import server_limits
from rft_reward.bodies import Bodies, Busy
from rft_reward.samples import TooLarge, read_samples

MIB = 1 << 20
SOURCE = """
import time
def lambda_handler(event, context):
    if event and event[0]["messages"][-1]["content"].startswith("slow"):
        time.sleep(2)
    return [{"id": sample["id"], "aggregate_reward_score": 1.0} for sample in event]
"""
SPEC = {"timeout": "60s", "python": {"source": SOURCE}}


@pytest.fixture
def little_room(start_server):
    launcher = (sys.executable, str(Path(__file__).parent / "with_little_room.py"))
    return start_server(SPEC, launcher=launcher).wait_ready()


@contextlib.contextmanager
def half_request(server, announced, size, chunked=False):
    """A connection that has sent a part of the body of a request that may be scored."""
    port = int(server.url.rsplit(":", 1)[1])
    length = "transfer-encoding: chunked" if chunked else f"content-length: {announced}"
    head = f"POST /v1/score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{length}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS) as client:
        with contextlib.suppress(OSError):  # refused before all of it is sent
            client.sendall(head + (b"%x\r\n" % announced if chunked else b""))
            piece = b" " * MIB
            for start in range(0, size, len(piece)):
                client.sendall(piece[: size - start])
        yield client


def post(server, *samples):
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx.post(f"{server.url}/v1/score", json=list(samples), headers=headers, timeout=PATIENCE_SECONDS)


def test_room_is_counted_as_it_is_taken_and_given_back():
    bodies = Bodies(10)
    with bodies.held() as first:
        first(4)
        with bodies.held() as second:
            second(6)
            with pytest.raises(Busy):
                second(1)
            with pytest.raises(Busy):
                first(1)
        first(6)
    with bodies.held() as all_of_it:
        all_of_it(10)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_for_which_there_is_no_room_is_to_be_sent_again(little_room, chunked):
    with half_request(little_room, MIB, MIB - 100, chunked):
        wait_until(lambda: post(little_room, sample("a", "x" * 1000)).status_code == 503)
        answer = post(little_room, sample("a", "x" * 1000))
        assert answer.headers["retry-after"] == "1"
        assert "send them again in a second, or raise spec.replicas" in answer.json()["error"]
        assert httpx.get(f"{little_room.url}/healthz", timeout=PATIENCE_SECONDS).status_code == 200
    wait_until(lambda: post(little_room, sample("a", "x" * 1000)).status_code == 200)


def test_samples_that_are_scored_take_room_until_they_are_answered(little_room):
    large, answers, enough = sample("a", "slow" + "x" * (MIB - 2000)), [], threading.Event()

    def score_large():  # again until it is seen, because a small one that came first leaves no room for it
        while not enough.is_set():
            answers.append(post(little_room, large))

    with concurrent.futures.ThreadPoolExecutor() as pool:
        scoring = pool.submit(score_large)
        try:
            wait_until(lambda: post(little_room, sample("b", "x" * 2000)).status_code == 503, pause=0.05)
        finally:
            enough.set()
        scoring.result()
    assert [answer.json()[0]["aggregate_reward_score"] for answer in answers if answer.status_code == 200][-1] == 1.0
    assert post(little_room, sample("b", "x" * 2000)).status_code == 200


def test_who_announces_much_and_sends_nothing_takes_no_room(little_room):
    with contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(half_request(little_room, MIB, 0))
        assert post(little_room, sample("a", "x" * 1000)).status_code == 200


def test_many_large_bodies_take_a_bounded_amount_of_memory(server_for):
    server = server_for(SPEC)
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    before = peak_bytes(server)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(half_request(server, 64 * MIB, 60 * MIB)) for _ in range(8)]
        assert server.score_one("x")["aggregate_reward_score"] == 1.0
        refused = 0
        for client in clients:
            client.settimeout(0.1)
            with contextlib.suppress(TimeoutError, ConnectionError):
                refused += b" 503 " in client.recv(4096)
    assert peak_bytes(server) - before < server_limits.BODIES_BYTES + 64 * MIB
    assert refused > 0


def peak_bytes(server):
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * server_limits.BODY_VALUES + b"[]]",
        b'[{"id": "a", "x": [' + b"0," * server_limits.BODY_VALUES + b"0]}]",
        b'[{"x": "' + b'\\"' * 1000 + b'"},' + b"{}," * server_limits.BODY_VALUES + b"{}]",
    ],
    ids=["lists", "numbers", "objects"],
)
def test_bodies_of_too_many_values_are_refused(body):
    with pytest.raises(TooLarge, match="the body has more than 2,000,000 values: send fewer samples at once"):
        read_samples(body)


def test_texts_may_have_any_number_of_commas_and_brackets():
    text = '[{,"\\' * server_limits.BODY_VALUES
    assert read_samples(json.dumps([sample("a", text)]).encode())[0]["messages"][-1]["content"] == text


@pytest.mark.parametrize("piece", [b'"', b'\\"', b'"a\\', b'",', b'"[\\"'])
def test_looking_for_texts_takes_no_longer_than_the_body_is_long(piece):
    with pytest.raises(ValueError, match=r"values|not valid JSON"):
        read_samples(b'[",' + piece * (8 * MIB // len(piece)) + b"," * server_limits.BODY_VALUES)
