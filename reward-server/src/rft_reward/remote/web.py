"""Posts JSON over HTTP, and distinguishes transient failures from permanent ones."""

from __future__ import annotations

import email.utils
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from rft_api.foreign.http import (
    Answer,
    ForeignAnswerError,
    LateAnswerError,
    UnreachableError,
    UnreadAnswerError,
    ask,
)
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
    """

    def __init__(self, url: str, headers: Mapping[str, str], certificates: str | None):
        self._url = url
        self._secrets = tuple(value.removeprefix("Bearer ") for value in headers.values() if value)
        self._client = httpx.AsyncClient(
            headers={"content-type": "application/json", **headers},
            verify=True if certificates is None else ssl.create_default_context(cadata=certificates),
            # The caller limits the number of simultaneous requests.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    async def post(self, body: bytes, seconds: float, maximum_bytes: int) -> tuple[int, bytes]:
        """Post a body. Return the status and the body of the response.

        Args:
            body: the body.
            seconds: time limit of everything, to the last byte of the response.
            maximum_bytes: maximum size of the response.

        Raises:
            TransientError: the service cannot be reached, is overloaded, or has failed.
            OutOfTimeError: the service has not answered in time.
            RemoteError: the request or its response is invalid.
        """
        seconds = max(seconds, 0.001)
        limit = min(CONNECT_SECONDS, seconds)
        try:
            answer = await ask(
                self._client, "POST", self._url, seconds, maximum_bytes, content=body, connect_seconds=limit
            )
        except LateAnswerError:
            raise OutOfTimeError(f"{self._url} did not answer within {seconds:.3g} s") from None
        except UnreachableError as error:
            raise TransientError(f"{self._url} cannot be reached: {self.words(error.problem)}") from None
        except UnreadAnswerError as error:
            if _is_transient(error.status):
                raise self._transient(Answer(error.status, str(error).encode())) from None
            raise RemoteError(f"{self._url} {error}") from None
        except ForeignAnswerError as error:
            raise RemoteError(f"{self._url} {self.words(str(error))}") from None
        if _is_transient(answer.status):
            raise self._transient(answer)
        return answer.status, answer.body

    def _transient(self, answer: Answer) -> TransientError:
        after = _retry_after(answer.headers.get("retry-after"))
        text = f"{self._url} answered {answer.status}: {self.words(answer.body)}"
        return TransientError(text, after, failed=answer.status >= 500 and after is None)

    def words(self, text: str | bytes) -> str:
        """Return the text of the service, for a message."""
        if isinstance(text, bytes):
            text = text[:4096].decode("utf-8", "replace")
        return shortened(text, self._secrets)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _is_transient(status: int) -> bool:
    return status in _TRANSIENT or status >= 500


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of the header Retry-After, which is a number or a date."""
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
