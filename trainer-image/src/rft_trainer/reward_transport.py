"""Sends requests to the reward servers over HTTP, in the event loop of another thread; retries unreachable servers."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rft_api.exact_json import parse_line
from rft_api.exit_codes import ExitCode, RunError
from rft_api.foreign.files import parse_bounded, read_file
from rft_api.foreign.http import Answer, ForeignAnswerError, LateAnswerError, UnreachableError, UnreadAnswerError, ask
from rft_api.foreign.text import one_line
from rft_api.reward_protocol import (
    SCORE_PATH,
    FinishReason,
    Score,
    build_sample,
    largest_answer,
    match_scores,
    with_facts,
)
from rft_api.trainer_config import RewardTarget
from rft_trainer.data import Prompt

CONCURRENCY = 8
"""Requests in flight per process and reward."""
_LONGEST_TOKEN = 4096
"""Bytes of the file with a token."""
SPARE_SECONDS = 30.0
"""Time of a request beside what its samples may take: to send it, to wait for a worker, and to receive the answer."""
CONNECT_SECONDS = 10.0
"""Time for a connection; a server to which there is none is waited for."""
_REFUSALS = (400, 401, 403, 404, 413)
"""Statuses of requests that a server would refuse again."""
_QUOTED = 500
"""Characters of a refusal that are quoted."""
FIRST_PAUSE_SECONDS = 0.25
"""Pause before the first retry of a request; it doubles with every retry."""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """The completions of one prompt that are compared with one another."""

    id: str
    size: int
    """Number of its completions."""


@dataclass(frozen=True)
class Rollout:
    """A completion to score."""

    prompt: Prompt
    completion: str
    tokens: int | None = None
    """Number of its tokens, the EOS token included."""
    finish_reason: FinishReason | None = None
    """Whether it ended by itself, or at the token limit."""
    group: Group | None = None
    """The group that it belongs to; None if no reward compares completions."""

    def metadata(self) -> dict[str, Any]:
        """Return the further fields of the data row, and in `rft` what the trainer knows about the completion."""
        if self.tokens is None:
            return self.prompt.metadata
        return with_facts(self.prompt.metadata, self.tokens, self.finish_reason)


class RewardTransport:
    """Connections to reward servers.

    Args:
        targets: the reward servers by name.
        should_stop: polled while a server is unreachable; when true, waiting ends with INTERRUPTED.

    Raises:
        RunError: CONFIGURATION_INVALID when a token cannot be read.
    """

    def __init__(self, targets: Mapping[str, RewardTarget], should_stop: Callable[[], bool]):
        self._targets = targets
        self._tokens = {name: _read_token(name, target) for name, target in targets.items()}
        self._should_stop = should_stop
        self._request_number = 0
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True).start()
        self._client = self.run(self._open())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop; return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function in the thread of the event loop, without waiting for it."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        """Close the connections and stop the event loop."""
        self.run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def timeout_seconds(self, name: str) -> float:
        """Return the seconds that a reward may take for one batch."""
        return self._targets[name].timeout_seconds

    def scores_groups(self, name: str) -> bool:
        """Return whether a reward compares all completions of a prompt, so that they are sent in one request."""
        return self._targets[name].scope == "Group"

    async def request(self, name: str, rollouts: Sequence[Rollout], patience: float) -> list[Score]:
        """Return the scores of completions, in their order; to be awaited in the event loop.

        `patience` is the number of seconds that the server may be unreachable (a restart, a new node).

        Raises:
            RunError: REWARD_FAILING when the server refuses the request, REWARD_UNREACHABLE when it stays unreachable,
                INTERRUPTED when the run is to stop meanwhile.
        """
        target = self._targets[name]
        by_group = self.scores_groups(name)
        self._request_number += 1
        ids = [f"{self._request_number}-{position}" for position in range(len(rollouts))]
        samples = [
            build_sample(
                sample_id,
                rollout.prompt.messages,
                rollout.completion,
                rollout.prompt.reference_answer,
                rollout.metadata(),
                rollout.group.id if by_group and rollout.group is not None else None,
            )
            for sample_id, rollout in zip(ids, rollouts, strict=True)
        ]
        token = self._tokens[name]
        headers = {"content-type": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
        try:
            content = json.dumps(samples, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except ValueError as error:  # such as half a surrogate pair
            return _failures(ids, f"the samples cannot be written as JSON: {error}")
        # The server limits a batch to the function's timeout, and may then score its samples one by one, so it may need
        # longer than that timeout.
        seconds = 2 * target.timeout_seconds + SPARE_SECONDS
        deadline = time.monotonic() + patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = await ask(
                    self._client, "POST", target.url.rstrip("/") + SCORE_PATH, seconds, largest_answer(len(ids)),
                    content=content, headers=headers, connect_seconds=CONNECT_SECONDS,
                )  # fmt: skip
                if answer.status == 200:
                    return _scores(ids, answer)
                problem, status = f"answered {answer.status}: {one_line(answer.text(), _QUOTED)}", answer.status
            except LateAnswerError:
                return _failures(ids, f"no answer within {seconds:.0f} s")
            except UnreachableError as error:
                problem, status = f"cannot be reached: {error.problem}", None
            except UnreadAnswerError as error:
                problem, status = f"answered {error.status}, but {error}", error.status
                if status == 200:
                    return _failures(ids, f"the reward server {error}")
            except ForeignAnswerError as error:
                raise RunError(ExitCode.REWARD_FAILING, f"reward {name} at {target.url} {error}") from error
            if status in _REFUSALS:
                raise RunError(ExitCode.REWARD_FAILING, f"reward {name} at {target.url} {problem}")
            if self._should_stop():
                raise RunError(ExitCode.INTERRUPTED, f"stopped while reward {name} at {target.url} {problem}")
            if time.monotonic() > deadline:
                raise RunError(
                    ExitCode.REWARD_UNREACHABLE,
                    f"reward {name} at {target.url} {problem}; gave up after {patience:.0f} s",
                )
            if pause == FIRST_PAUSE_SECONDS:
                log.warning("reward %s at %s %s; trying again for %.0f s", name, target.url, problem, patience)
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)

    async def _open(self) -> httpx.AsyncClient:
        connections = CONCURRENCY * max(1, len(self._targets))
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # Proxies are for requests to the internet; a reward server is in the same cluster or on this machine.
        return httpx.AsyncClient(limits=limits, trust_env=False)


def _scores(ids: Sequence[str], answer: Answer) -> list[Score]:
    try:
        return match_scores(ids, parse_bounded(answer.body, parse_line))
    except ValueError as error:
        return _failures(ids, f"the reward server's answer {error}")


def _failures(ids: Sequence[str], error: str) -> list[Score]:
    return [Score(id=sample_id, error=error) for sample_id in ids]


def _read_token(name: str, target: RewardTarget) -> str | None:
    if target.token_file is None:
        return None
    try:
        return read_file(Path(target.token_file), _LONGEST_TOKEN).decode("utf-8").strip()
    except (OSError, ValueError) as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"token of reward {name}: {error}") from error
