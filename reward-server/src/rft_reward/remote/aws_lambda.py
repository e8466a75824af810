"""Rewards that an AWS Lambda computes. It follows the contract of Amazon Bedrock's reward Lambdas."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from rft_api.model import Json
from rft_api.remote_reward import LambdaReward
from rft_reward.handler_samples import HandlerForm
from rft_reward.metrics import Metrics
from rft_reward.remote import aws, retries
from rft_reward.remote.errors import RemoteError, shortened
from rft_reward.remote.limits import Limiter
from rft_reward.remote.pieces import cut, score_pieces
from rft_reward.remote.rows import read_rows, write_samples

MAXIMUM_BYTES = 6 * 1024 * 1024
"""Limit of AWS on the size of an invocation's payload, and of its response."""
_PIECE = 256 << 10
_TOO_LARGE_ANSWER = "Function.ResponseSizeTooLarge"
_LARGE_ANSWER = "the Lambda's answer to one sample is larger than 6 MiB"


class _TooLarge(RemoteError):
    """The payload or the response exceeds the limit of AWS."""


class AwsLambda:
    """Invokes a Lambda function.

    Args:
        reward: settings of the manifest.
        seconds: time limit of one invocation.
        metrics: metrics of the server.
    """

    def __init__(self, reward: LambdaReward, seconds: float, metrics: Metrics):
        self._reward = reward
        self._metrics = metrics
        self._limiter = Limiter(reward.concurrency)
        region = reward.function_arn.split(":")[3]
        self._aws = aws.Aws("lambda", region, reward.concurrency, seconds)

    async def score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        """See `RemoteGrader`."""

        return await self._score_pieces(cut(samples, self._reward.batch_size), deadline)

    async def _score_pieces(self, pieces: Sequence[Sequence[Json]], deadline: float) -> list[Json]:
        return await score_pieces(pieces, lambda piece: self._score(piece, deadline), deadline, self._metrics)

    async def _score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        form = HandlerForm(self._reward.text_reference_answer == "AsObject", self._reward.assistant_role)
        payload = write_samples(samples, form, lift_metadata=True)
        try:
            if len(payload) > MAXIMUM_BYTES:
                raise _TooLarge(f"the sample has {len(payload)} bytes; a Lambda takes at most 6 MiB")
            answer = await retries.ask(lambda seconds, _: self._invoke(payload, seconds), self._limiter, deadline)
        except _TooLarge:
            if len(samples) == 1:
                raise
            middle = len(samples) // 2
            return await self._score_pieces([samples[:middle], samples[middle:]], deadline)
        return await read_rows(samples, answer, payload)

    async def _invoke(self, payload: bytes, seconds: float) -> bytes:
        outcome = "failed"
        try:
            problem, answer = await self._aws.call(lambda client: self._call(client, payload), seconds)
            outcome = "failed" if problem else "answered"
        finally:
            self._metrics.remote_requests.labels("lambda", outcome).inc()
        if len(answer) > MAXIMUM_BYTES:
            raise _TooLarge(_LARGE_ANSWER)
        if problem:
            raise _function_error(problem, answer)
        return answer

    def _call(self, client: Any, payload: bytes) -> tuple[str | None, bytes]:
        answer = client.invoke(
            FunctionName=self._reward.function_arn, InvocationType="RequestResponse", Payload=payload
        )
        body = bytearray()
        with contextlib.closing(answer["Payload"]) as stream:
            # A read without a limit would take what the service sends; one of a limit may return less than there is.
            while len(body) <= MAXIMUM_BYTES and (piece := stream.read(_PIECE)):
                body += piece
        return answer.get("FunctionError"), bytes(body)

    async def close(self) -> None:
        """Close the threads. Invocations in progress end by themselves."""
        self._aws.close()


def _function_error(problem: str, answer: bytes) -> RemoteError:
    """Return the error of a failed function. AWS returns the type and the message of its exception."""
    try:
        error = json.loads(answer)
    except (ValueError, RecursionError):
        error = None
    if not isinstance(error, dict):
        return RemoteError(f"the Lambda failed ({problem}): {shortened(answer[:4096].decode('utf-8', 'replace'))}")
    kind, message = error.get("errorType"), error.get("errorMessage")
    text = shortened(": ".join(str(part) for part in (kind, message) if part))
    if kind == _TOO_LARGE_ANSWER:
        return _TooLarge(f"{_LARGE_ANSWER}: {text}")
    return RemoteError(f"the Lambda raised {text}" if text else f"the Lambda failed ({problem})")
