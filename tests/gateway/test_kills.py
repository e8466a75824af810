"""The gateway is killed again and again while it answers: what was answered is in the ledger, once."""

from __future__ import annotations

import threading
import time
from collections import Counter

import httpx
from support.gateway import Gateway, route
from support.patience import wait_until

KILLS = 5
ANSWERS_BETWEEN = 40
CLIENTS = 4


class Answers:
    """What clients have got: the ids of answers that had come whole, with their tokens."""

    def __init__(self) -> None:
        self.tokens: dict[str, int] = {}
        self.stop = threading.Event()

    def ask(self, gateway: Gateway, number: int) -> None:
        """Asks again and again, streams and others in turn; a gateway that is away is asked again."""
        count = 0
        while not self.stop.is_set():
            count += 1
            tokens, stream = 1 + (count + number) % 5, count % 2 == 0
            body = {"model": "m", "messages": [{"role": "user", "content": "one two"}], "max_tokens": tokens}
            try:
                answer = gateway.post("/v1/chat/completions", {**body, "stream": stream})
            except httpx.TransportError:
                time.sleep(0.01)  # it has been killed
                continue
            if answer.is_success and (not stream or answer.text.endswith("data: [DONE]\n\n")):
                self.tokens[answer.headers["x-request-id"]] = tokens


def test_every_answer_is_in_the_ledger_once(tmp_path, server):
    answers = Answers()
    with Gateway(tmp_path, [route("m", server.url)]) as gateway:
        clients = [threading.Thread(target=answers.ask, args=(gateway, number)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for kill in range(KILLS):
                due = len(answers.tokens) + ANSWERS_BETWEEN + 7 * kill
                wait_until(lambda due=due: len(answers.tokens) >= due, lambda: len(answers.tokens), pause=0.001)
                gateway.kill()
                gateway.start()
            wait_until(lambda: len(answers.tokens) >= due + 1, lambda: len(answers.tokens))
        finally:
            answers.stop.set()
            for client in clients:
                client.join()
        entries = {entry["id"]: entry for entry in gateway.entries()}
        assert Counter(entry["id"] for entry in gateway.entries()).most_common(1)[0][1] == 1
    assert len(answers.tokens) >= KILLS * ANSWERS_BETWEEN
    assert answers.tokens.keys() <= entries.keys()
    assert all(entries[name]["completion_tokens"] == tokens for name, tokens in answers.tokens.items())
    assert all(entries[name]["prompt_tokens"] == 2 for name in answers.tokens)
