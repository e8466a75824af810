"""Posts JSON over HTTP and tells failures that may pass from those that will not."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from rft_reward.remote.errors import OutOfTimeError, RemoteError, TransientError, shortened

CONNECT_SECONDS = 10.0
_PASSING = {408, 425, 429}
"""Statuses below 500 that may be others when asked again."""


class Web:
    """A URL to post to.

    Args:
        url: where to.
        headers: what each request carries, credentials among it.
        certificates: PEM that the server's certificate is checked against instead of the system's.
        maximum_bytes: longest answer that is read.
    """

    def __init__(self, url: str, headers: Mapping[str, str], certificates: str | None, maximum_bytes: int):
        self._url = url
        self._maximum_bytes = maximum_bytes
        self._secrets = tuple(value.removeprefix("Bearer ") for value in headers.values() if value)
        self._client = httpx.AsyncClient(
            headers={"content-type": "application/json", **headers},
            verify=True if certificates is None else ssl.create_default_context(cadata=certificates),
            # How many run at once is the caller's business.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def post(self, body: bytes, seconds: float) -> tuple[int, bytes]:
        """Status and body of the answer.

        Raises:
            TransientError: when the service cannot be reached, is overloaded or failed.
            OutOfTimeError: when it did not answer in time.
            RemoteError: when its answer cannot be read.
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
        if status in _PASSING or status >= 500:
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
        """What the service said, for a message."""
        if isinstance(text, bytes):
            text = text[:4096].decode("utf-8", "replace")
        return shortened(text, self._secrets)

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()


def _retry_after(value: str | None) -> float | None:
    """Seconds that the header Retry-After asks for: a number, or a moment."""
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
