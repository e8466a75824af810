"""Posts JSON over HTTP, and distinguishes transient failures from permanent ones."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from rft_reward.remote.errors import OutOfTimeError, RemoteError, TransientError, shortened

CONNECT_SECONDS = 10.0
_TRANSIENT = {408, 425, 429}
"""Statuses below 500 of transient failures."""


class Web:
    """A URL to which JSON is posted.

    Args:
        url: the URL.
        headers: headers of each request, which include credentials.
        certificates: CA certificates (PEM) for the server's certificate; None takes those of the system.
        maximum_bytes: maximum size of a response.
    """

    def __init__(self, url: str, headers: Mapping[str, str], certificates: str | None, maximum_bytes: int):
        self._url = url
        self._maximum_bytes = maximum_bytes
        self._secrets = tuple(value.removeprefix("Bearer ") for value in headers.values() if value)
        self._client = httpx.AsyncClient(
            headers={"content-type": "application/json", **headers},
            verify=True if certificates is None else ssl.create_default_context(cadata=certificates),
            # The caller limits the number of simultaneous requests.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def post(self, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Post a body. Return the status and the body of the response.

        Raises:
            TransientError: the service cannot be reached, is overloaded, or has failed.
            OutOfTimeError: the service has not answered in time.
            RemoteError: the request or its response is invalid.
        """
        timeout = httpx.Timeout(max(seconds, 0.001), connect=min(CONNECT_SECONDS, max(seconds, 0.001)))
        try:
            async with self._client.stream("POST", self._url, content=body, timeout=timeout) as response:
                answer = await self._read(response)
        except (httpx.ReadTimeout, httpx.WriteTimeout):
            raise OutOfTimeError(f"{self._url} did not answer within {seconds:.3g} s") from None
        except (httpx.LocalProtocolError, httpx.UnsupportedProtocol, httpx.DecodingError, httpx.InvalidURL) as error:
            raise RemoteError(f"{self._url} cannot be asked: {self.words(str(error))}") from None
        except httpx.HTTPError as error:
            problem = self.words(str(error)) or type(error).__name__
            raise TransientError(f"{self._url} cannot be reached: {problem}") from None
        status = response.status_code
        if status in _TRANSIENT or status >= 500:
            text = f"{self._url} answered {status}: {self.words(answer)}"
            after = _retry_after(response.headers.get("retry-after"))
            raise TransientError(text, after, failed=status >= 500 and after is None)
        return status, answer

    async def _read(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > self._maximum_bytes:
                raise RemoteError(f"{self._url} answered more than {self._maximum_bytes >> 20} MiB")
        return bytes(body)

    def words(self, text: str | bytes) -> str:
        """The text of the service, for a message."""
        if isinstance(text, bytes):
            text = text[:4096].decode("utf-8", "replace")
        return shortened(text, self._secrets)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _retry_after(value: str | None) -> float | None:
    """Seconds of the header Retry-After, which is a number or a date."""
    if value is None:
        return None
    if value.strip().isascii() and value.strip().isdigit():
        return float(value.strip()[:9])
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(time.time(), UTC)).total_seconds())
