"""The gateway is killed again and again under load, and S3 is away meanwhile: every answer is in the log, once."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import httpx
from support.conversation_logs import objects, records
from support.gateway import Gateway, route
from support.patience import wait_until

from rft_api.conversation_logs import ConversationLogs

KILLS = 12
ANSWERS_BETWEEN = 60
CLIENTS = 4


class Clients:
    """Clients that ask again and again, and remember the ids of the answers that have come whole."""

    def __init__(self, gateway: Gateway):
        self.answered: list[str] = []
        self._gateway = gateway
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Clients:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int) -> None:
        """Waits for so many answers."""
        due = len(self.answered) + more
        wait_until(lambda: len(self.answered) >= due, lambda: len(self.answered), pause=0.001)

    def _ask(self, number: int) -> None:
        count = 0
        while not self._stop.is_set():
            count += 1
            stream = count % 2 == 0
            messages = [{"role": "user", "content": f"{number} {count}"}]
            body = {"model": "m", "messages": messages, "max_tokens": 3, "stream": stream}
            try:
                answer = self._gateway.post("/v1/chat/completions", body)
            except httpx.TransportError:
                time.sleep(0.01)  # it has been killed
                continue
            if answer.is_success and (not stream or answer.text.endswith("data: [DONE]\n\n")):
                self.answered.append(answer.headers["x-request-id"])


def kept(bucket: Path) -> Counter[str]:
    """How often each request is in the log."""
    return Counter(record["requestId"] for record in records(bucket))


def test_every_answer_is_in_the_log_once(tmp_path, server, s3):
    choice = random.Random(0)
    bucket = s3.make_bucket(f"logs-{uuid.uuid4().hex[:12]}")
    logs = ConversationLogs(uri=f"s3://{bucket.name}/production/")
    gateway = Gateway(
        tmp_path, [route("m", server.url, logs=logs)], "--spool", str(tmp_path / "spool"), "--log-seconds", "0.3",
        environment=s3.environment(),
    )  # fmt: skip
    versions: dict[Path, bytes] = {}
    with gateway:
        with Clients(gateway) as clients:
            for kill in range(KILLS):
                clients.wait_for(choice.randint(1, ANSWERS_BETWEEN))
                if kill == KILLS // 3:
                    s3.stop()
                if kill == 2 * KILLS // 3:
                    wait_until(lambda: "logs of team wait" in gateway.log)
                    s3.start()
                gateway.kill()
                # An object never changes, also where it was uploaded by several gateways.
                for file in objects(bucket):
                    assert versions.setdefault(file, file.read_bytes()) == file.read_bytes()
                gateway.start()
            clients.wait_for(1)
        wait_until(lambda: clients.answered and gateway.metrics()["rft_gateway_log_waiting_records"] == 0,
                   lambda: (gateway.metrics()["rft_gateway_log_waiting_records"], gateway.log))  # fmt: skip
        counts = kept(bucket)
        ledger = {entry["id"] for entry in gateway.entries()}
    assert all(file.read_bytes() == content for file, content in versions.items())
    assert len(clients.answered) >= KILLS
    assert set(clients.answered) <= counts.keys()
    assert set(counts.values()) == {1}
    # Beyond them are answers whose end their client has not got, because the gateway was killed.
    assert len(counts) <= len(clients.answered) + KILLS * CLIENTS
    assert set(clients.answered) <= ledger
    assert all(file.is_relative_to(bucket / "production") for file in objects(bucket))
