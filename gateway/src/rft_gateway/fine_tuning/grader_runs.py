"""Runs a grader for one sample, in a reward server of the namespace: the gateway itself computes nothing of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

import aiohttp

from rft_api.conditions import Reason
from rft_api.foreign.files import parse_bounded
from rft_api.foreign.text import one_line
from rft_api.model import Json
from rft_api.quantities import duration_seconds
from rft_api.reward_function import RewardFunctionSpec
from rft_api.reward_protocol import SCORE_PATH, Score, build_sample, largest_answer, match_scores
from rft_gateway.errors import INVALID_VALUE, ApiError, overloaded
from rft_gateway.fine_tuning.defaults import Defaults
from rft_gateway.fine_tuning.grader_results import describe_run
from rft_gateway.fine_tuning.graders import make_function, request_text
from rft_gateway.fine_tuning.request import FunctionGrader, Grader, RunRequest
from rft_gateway.shares import Shares
from rft_gateway.turns import Turns

if TYPE_CHECKING:  # the client of Kubernetes takes a second to import, which is for nothing on one machine
    from rft_gateway.fine_tuning.grader_servers import GraderServers

FIELD: Final = "grader"
"""Where a request has its grader."""
START_SECONDS: Final = 120.0
"""Seconds for which a request waits for the start of a server."""
_POLL_SECONDS = 1.0
_SWEEP_SECONDS = 60.0
_RUNS = 32
"""Runs at the same time. Those of a namespace may not be more than what is still free."""
_MORE_SECONDS = 15.0
"""Seconds that a server may take beyond the timeout of its function."""
_REFUSED = frozenset({Reason.CONFIGURATION_INVALID, Reason.SOURCE_MISSING, Reason.SERVER_FAILING, Reason.TESTS_FAILING})
"""Reasons of a RewardFunction that does not become ready by waiting."""
_CONNECT_SECONDS = 5.0
_ID = "run"
_OK = 200
_OF_SAMPLE = (400, 413)
"""Answers of a reward server to a sample that it does not take."""


class GraderRuns:
    """The runs of graders.

    Args:
        servers: the reward servers.
    """

    def __init__(self, servers: GraderServers):
        self._servers = servers
        self._open = Shares(_RUNS)
        self._turns = Turns()

    async def run(self, namespace: str, request: RunRequest, defaults: Defaults) -> Json:
        """Return OpenAI's object of a run. The names that the grader has were checked.

        Raises:
            ApiError: when the grader cannot be run, or not at the moment.
        """
        if not self._open.have_room(namespace, 1):
            raise overloaded("Too many graders are run at the same time.")
        self._open.add(namespace, 1)
        try:
            name = await self._require(namespace, request.grader, defaults)
            function, address = await self._wait_until_ready(namespace, name)
            started = time.monotonic()
            score = await _ask(address, make_sample(request, function), _seconds(function))
            return describe_run(request.grader, score, time.monotonic() - started)
        finally:
            self._open.add(namespace, -1)

    async def sweep(self, namespaces: Sequence[str]) -> None:
        """Delete servers that nobody uses any more, until the task is cancelled.

        Args:
            namespaces: where; everywhere if there is none.
        """
        while True:
            await self._servers.remove_unused(namespaces)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _require(self, namespace: str, grader: Grader, defaults: Defaults) -> str:
        """Return the name of the RewardFunction of a grader, which is there."""
        if isinstance(grader, FunctionGrader):
            return grader.name
        # The code of a grader is parsed for the packages that it imports.
        make: Callable[[], Json] = partial(make_run, grader, namespace, defaults)
        function = await asyncio.to_thread(make)
        # One after the other: many at once would not see that there are too many.
        await self._turns.take(namespace, partial(self._servers.require, function))
        return str(function["metadata"]["name"])

    async def _wait_until_ready(self, namespace: str, name: str) -> tuple[Json, tuple[str, str]]:
        """Return a RewardFunction, and the URL and token of its server, once it scores."""
        end = time.monotonic() + START_SECONDS
        while True:
            function = await self._servers.function(namespace, name)
            if function is None:
                message = f"RewardFunction {name} was deleted meanwhile."
                raise ApiError(409, message, code="conflict", headers={"retry-after": "1"})
            status, reason, text = _readiness(function)
            if status == "True" and (address := await self._servers.address(namespace, name)) is not None:
                return function, address
            if reason in _REFUSED:
                message = f"{FIELD}: its reward server does not start: {reason}: {text}"
                raise ApiError(400, one_line(message, 4000), param=FIELD, code="grader_failing")
            if time.monotonic() > end:
                message = f"The reward server of the grader has not started yet: {reason}: {text}. Please try again."
                headers = {"retry-after": "5"}
                raise ApiError(503, one_line(message, 4000), code="grader_starting", headers=headers)
            await asyncio.sleep(_POLL_SECONDS)


def make_run(grader: Grader, namespace: str, defaults: Defaults) -> Json:
    """Return the RewardFunction of a run, which is named after what it is.

    Raises:
        ApiError: 400 when the grader asks for something that is not possible.
    """
    request_text(grader.model_dump(mode="json", by_alias=True), FIELD)
    function = make_function(grader, (namespace, FIELD), defaults, FIELD)
    assert function is not None  # a grader that names one has none of its own
    spec = {**function["spec"], "replicas": 1}
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    metadata = {**function["metadata"], "name": f"run-{digest[:24]}"}
    return {**function, "metadata": metadata, "spec": spec}


def _readiness(function: Json) -> tuple[str, str, str]:
    """Return status, reason and message of the condition Ready, of the present spec."""
    generation = function["metadata"].get("generation")
    for condition in (function.get("status") or {}).get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("observedGeneration") in (None, generation):
            return str(condition.get("status")), str(condition.get("reason")), str(condition.get("message", ""))
    return "Unknown", "Starting", "the operator has not seen it yet"


def make_sample(request: RunRequest, function: Json) -> Json:
    """Return the sample of a run, as a job would send it.

    Args:
        request: the request.
        function: the RewardFunction that scores it.
    """
    item = request.item
    messages = item.get("messages")
    is_conversation = isinstance(messages, list) and all(isinstance(each, dict) for each in messages)
    group = _ID if function["spec"].get("scope") == "Group" else None
    conversation = messages if isinstance(messages, list) and is_conversation else []
    return build_sample(_ID, conversation, request.model_sample, item.get("reference_answer"), item, group)


def _seconds(function: Json) -> float:
    default = str(RewardFunctionSpec.model_fields["timeout"].default)
    return duration_seconds(str(function["spec"].get("timeout", default))) + _MORE_SECONDS


async def _ask(address: tuple[str, str], sample: Json, seconds: float) -> Score:
    """Return the score that a reward server gives a sample.

    Raises:
        ApiError: when it gives none.
    """
    url, token = address
    unavailable = ApiError(
        503,
        "The reward server of the grader does not answer. Please try again.",
        code="grader_starting",
        headers={"retry-after": "2"},
    )
    limit, timeout = largest_answer(1), aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
            session.post(
                url + SCORE_PATH,
                json=[sample],
                headers={"authorization": f"Bearer {token}"},
                allow_redirects=False,
            ) as answer,
        ):
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > limit:
                    raise unavailable
            status = answer.status
    except (aiohttp.ClientError, OSError, TimeoutError):
        raise unavailable from None
    try:
        document = await asyncio.to_thread(parse_bounded, bytes(body))
    except ValueError:
        raise unavailable from None
    if status == _OK:
        return match_scores([_ID], document)[0]
    words = str(document.get("error")) if isinstance(document, dict) else ""
    if status not in _OF_SAMPLE:
        raise unavailable
    message = one_line(f"item: the reward server refuses the sample: {words}", 4000)
    raise ApiError(400, message, param="item", code=INVALID_VALUE)
