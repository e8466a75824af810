"""Calls AWS in threads, and distinguishes transient failures from permanent ones.

Credentials, region and endpoints come from the environment as boto3 reads it (AWS_ACCESS_KEY_ID,
AWS_ENDPOINT_URL_LAMBDA, ...).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from rft_reward.remote.errors import OutOfTimeError, RemoteError, TransientError, shortened

_TRANSIENT_CODES = {
    "EC2ThrottledException",
    "ENINotReadyException",
    "ModelErrorException",
    "ModelNotReadyException",
    "ModelTimeoutException",
    "RequestLimitExceeded",
    "ResourceConflictException",
    "ResourceNotReadyException",
    "SnapStartNotReadyException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
"""Codes of transient errors, some of which have a status below 500."""

T = TypeVar("T")


class Refused(RemoteError):
    """AWS has refused a request.

    Args:
        code: code of the error at AWS.
    """

    def __init__(self, code: str, message: str):
        super().__init__(message)
        self.code = code


class Aws:
    """A client of an AWS service.

    Args:
        service: name of the service in boto3.
        region: AWS region; None takes the region of the environment.
        concurrency: maximum number of calls at the same time.
        seconds: time limit of one call.
    """

    def __init__(self, service: str, region: str | None, concurrency: int, seconds: float):
        self._service = service
        self._region = region
        self._seconds = seconds
        self._concurrency = concurrency
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix=service)
        self._making = threading.Lock()
        self._client: Any = None

    async def call(self, use: Callable[[Any], T], seconds: float) -> T:
        """Call `use` with the boto3 client in a thread, and return its result.

        Raises:
            TransientError: AWS is overloaded, has failed, or cannot be reached.
            Refused: AWS refuses the request.
            OutOfTimeError: AWS has not answered in time.
            RemoteError: the call is not possible, for example without credentials.
        """
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, use)
        except TimeoutError:
            raise OutOfTimeError(f"{self._service} did not answer within {seconds:.3g} s") from None

    def _run(self, use: Callable[[Any], T]) -> T:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, ReadTimeoutError
        from botocore.exceptions import ConnectionError as NotConnectedError

        try:
            return use(self._made())
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            answer = error.response.get("ResponseMetadata", {})
            status = int(answer.get("HTTPStatusCode", 0))
            text = shortened(str(error).replace(" (reached max retries: 0)", ""))
            if code in _TRANSIENT_CODES or status == 429 or status >= 500:
                after = str(answer.get("HTTPHeaders", {}).get("retry-after", ""))
                raise TransientError(text, float(after[:9]) if after.isascii() and after.isdigit() else None) from None
            raise Refused(code, text) from None
        except ReadTimeoutError:
            # A call without an answer may still run, so it is not repeated.
            raise OutOfTimeError(f"{self._service} did not answer within {self._seconds:.3g} s") from None
        except (HTTPClientError, NotConnectedError) as error:
            raise TransientError(f"{self._service} cannot be reached: {shortened(str(error))}") from None
        except (BotoCoreError, Boto3Error) as error:
            raise RemoteError(f"{self._service} cannot be asked: {shortened(str(error))}") from None
        except Exception as error:  # the parsers of botocore raise any exception for an invalid answer
            problem = f"{type(error).__name__}: {shortened(str(error))}"
            raise RemoteError(f"{self._service} answered something that cannot be read ({problem})") from None

    def _made(self) -> Any:
        """Return the client. It is created in a thread, because loading boto3 takes time, and all threads share it."""
        import boto3
        from botocore.config import Config

        with self._making:
            if self._client is None:
                config = Config(
                    connect_timeout=10,
                    read_timeout=self._seconds,
                    retries={"total_max_attempts": 1},  # `retries` repeats calls, and knows the deadline
                    max_pool_connections=self._concurrency,
                )
                self._client = boto3.client(self._service, region_name=self._region, config=config)
            return self._client

    def close(self) -> None:
        """Close the threads. Calls in progress end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)
