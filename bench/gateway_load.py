"""Clients that ask a gateway again and again while it is killed and started, for the benches of what it keeps."""

import asyncio
import json
import random
from dataclasses import dataclass

import aiohttp

MODEL = "model"
PROMPT_WORDS = 2
MOST_TOKENS = 12
CLIENTS = 24
LEAVING = 0.05
"""Share of the streams that their clients leave after the first part."""
_DATA = "data: "


@dataclass(frozen=True)
class Answer:
    """An answer that has come whole."""

    prompt: str
    """Text of the request, which no other request has."""
    text: str
    """Text that the client got; each word is a token."""


class Load:
    """The clients of a gateway, and what they have got; an async context manager that ends when they have stopped.

    Args:
        gateway: the gateway, which may be killed and started again.
        seed: of the lengths of answers.
        rate: requests a second that the clients ask together, if they are answered at once; None is no limit.
    """

    def __init__(self, gateway, seed, rate=None):
        self.answers = {}
        """The answers that came whole, by the ids of their requests."""
        self.left = set()
        """The ids of requests whose clients have left."""
        self.broken = 0
        """How many requests have got an error or a part of an answer, or no connection: the gateway was killed."""
        self._gateway = gateway
        self._random = random.Random(seed)
        self._pause = CLIENTS / rate if rate else 0.0
        self._count = 0
        self._is_over = False

    async def __aenter__(self):
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CLIENTS), trust_env=False)
        self._clients = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]
        return self

    async def __aexit__(self, *_):
        self._is_over = True
        await asyncio.gather(*self._clients)
        await self._session.close()

    async def restart(self):
        """Kill the gateway, and start it again."""
        await asyncio.to_thread(self._gateway.kill)
        await asyncio.to_thread(self._gateway.start)

    async def wait_for(self, answers):
        """Wait until so many requests are answered."""
        while len(self.answers) < answers:
            self._check()
            await asyncio.sleep(0.001)

    async def go_on(self, seconds):
        """Wait for a time while the clients ask."""
        await asyncio.wait(self._clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
        self._check()

    def _check(self):
        """Raise the error of a client that has failed."""
        for client in self._clients:
            if client.done():
                client.result()

    async def _client(self):
        while not self._is_over:
            try:
                await self._ask()
            except (aiohttp.ClientError, OSError):
                self.broken += 1
                await asyncio.sleep(0.02)
            await asyncio.sleep(self._pause * self._random.uniform(0.5, 1.5))

    async def _ask(self):
        self._count += 1
        prompt = f"request {self._count}"
        tokens, stream = self._random.randint(1, MOST_TOKENS), self._random.random() < 0.5
        body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": tokens}
        headers = {"authorization": f"Bearer {self._gateway.token}"}
        url = f"{self._gateway.url}/v1/chat/completions"
        async with self._session.post(url, json={**body, "stream": stream}, headers=headers) as answer:
            name = answer.headers["x-request-id"]
            if stream and self._random.random() < LEAVING:
                await answer.content.readany()
                self.left.add(name)
                answer.close()
                return
            content = await answer.text()
            if answer.ok and (not stream or content.endswith("data: [DONE]\n\n")):
                self.answers[name] = Answer(prompt, _text_of_stream(content) if stream else _text_of(content))
            else:
                self.broken += 1


def _text_of(content):
    return json.loads(content)["choices"][0]["message"]["content"]


def _text_of_stream(content):
    chunks = [json.loads(line.removeprefix(_DATA)) for line in content.splitlines() if line.startswith(f"{_DATA}{{")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
