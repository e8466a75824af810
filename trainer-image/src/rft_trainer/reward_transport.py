"""Sends requests to the reward servers over HTTP, in the event loop of another thread; retries unreachable servers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rft_api.exit_codes import ExitCode, RunError
from rft_api.reward_protocol import SCORE_PATH, FinishReason, Score, build_sample, match_scores, with_facts
from rft_api.trainer_config import RewardTarget
from rft_trainer.data import Prompt

CONCURRENCY = 8
"""Requests in flight per process and reward."""
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
        """The further fields of the data row, and in `rft` what the trainer knows about the completion."""
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
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # The server limits a batch to the function's timeout, and may then score its samples one by one, so it may need
        # longer than that timeout.
        timeout = httpx.Timeout(2 * target.timeout_seconds + 30, connect=10)
        deadline = time.monotonic() + patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                response = await self._client.post(
                    target.url.rstrip("/") + SCORE_PATH, json=samples, headers=headers, timeout=timeout
                )
                if response.status_code == 200:
                    return match_scores(ids, response.json())
                problem = f"answered {response.status_code}: {response.text[:500]}"
                if response.status_code in (400, 401, 403, 404, 413):
                    raise RunError(ExitCode.REWARD_FAILING, f"reward {name} at {target.url} {problem}")
            except httpx.ReadTimeout:
                return [Score(id=i, error=f"no answer within {timeout.read:.0f} s") for i in ids]
            except httpx.HTTPError as error:
                problem = f"cannot be reached: {error or type(error).__name__}"
            except ValueError as error:
                return [Score(id=i, error=f"the reward server's answer is not JSON: {error}") for i in ids]
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


def _read_token(name: str, target: RewardTarget) -> str | None:
    if target.token_file is None:
        return None
    try:
        return Path(target.token_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"token of reward {name}: {error}") from error
