"""Embeddings of texts by a model of an OpenAI-compatible API: within limits, repeated after transient failures."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import orjson

from rft_reward.metrics import Metrics
from rft_reward.remote import retries
from rft_reward.remote.cache import Cache
from rft_reward.remote.chat import count, parse_object
from rft_reward.remote.errors import RemoteError, TransientError
from rft_reward.remote.limits import Limiter, Use
from rft_reward.remote.measure import measured_request
from rft_reward.remote.web import Web

_MAXIMUM_BYTES = 4 << 20
"""Largest answer: two embeddings of 50,000 numbers; those of models have some thousands."""
_REMEMBERED = 20_000
_CHARACTERS_PER_TOKEN = 4


class EmbeddingModel:
    """A model at a base URL, such as https://api.openai.com/v1.

    Args:
        url: the base URL.
        name: name of the model there.
        token: bearer token, if the API needs one.
        certificates: CA certificates (PEM) for the server's certificate; None takes those of the system.
        limiter: limits on the requests.
        metrics: metrics of the server, which count requests, tokens and seconds.
    """

    def __init__(
        self, url: str, name: str, token: str | None, certificates: str | None, limiter: Limiter, metrics: Metrics
    ):
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._name = name
        self._limiter = limiter
        self._metrics = metrics
        self._web = Web(f"{url.rstrip('/')}/embeddings", headers, certificates)
        self._cache: Cache[float] = Cache(_REMEMBERED)

    async def similarity(self, text: str, reference: str, deadline: float) -> float:
        """Return the cosine of the embeddings of two texts, from -1 to 1. It is 0 if a text is blank.

        Raises:
            RemoteError: there are no embeddings of the texts.
        """
        if not text.strip() or not reference.strip():  # APIs refuse to embed them
            return 0.0
        key = hashlib.sha256(json.dumps([text, reference]).encode()).digest()
        value, cached = await self._cache.get(key, partial(self._ask, text, reference, deadline))
        if cached:
            self._metrics.judge_cache_hits.inc()
        return value

    async def _ask(self, text: str, reference: str, deadline: float) -> float:
        try:
            body = orjson.dumps({"model": self._name, "input": [text, reference]})
        except TypeError as error:  # such as half a surrogate pair
            raise RemoteError(f"the texts cannot be written as JSON: {error}") from None
        tokens = (len(text) + len(reference)) // _CHARACTERS_PER_TOKEN
        return await retries.ask(partial(self._try, body), self._limiter, deadline, tokens)

    async def _try(self, body: bytes, seconds: float, use: Use) -> float:
        with measured_request(self._metrics):
            status, answer = await self._web.post(body, seconds, _MAXIMUM_BYTES)
            if status != 200:
                raise RemoteError(f"model {self._name} answered {status}: {self._web.words(answer)}")
            value, tokens = self._read(answer)
        self._metrics.judge_tokens.labels("prompt").inc(tokens)
        use.tokens = tokens or use.tokens
        return value

    def _read(self, answer: bytes) -> tuple[float, int]:
        try:
            parsed = parse_object(answer)
            first, second = sorted(parsed["data"], key=lambda item: item["index"])
            value = _cosine(first["embedding"], second["embedding"])
        except (ValueError, KeyError, TypeError, OverflowError):
            raise TransientError(
                f"model {self._name} answered something that is no pair of embeddings: {self._web.words(answer)}"
            ) from None
        usage: Any = parsed.get("usage")
        return value, count(usage.get("prompt_tokens")) if isinstance(usage, dict) else 0

    async def close(self) -> None:
        """Cancel what is in progress, and close the connections."""
        self._cache.cancel()
        await self._web.close()


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    """Return the cosine of the angle between two vectors.

    Raises:
        ValueError: they differ in length, or one of them has no direction.
    """
    product = sum(a * b for a, b in zip(first, second, strict=True))
    length = math.sqrt(sum(a * a for a in first)) * math.sqrt(sum(b * b for b in second))
    if not length or not math.isfinite(length):
        raise ValueError("a vector has no direction")
    return max(-1.0, min(1.0, product / length))
