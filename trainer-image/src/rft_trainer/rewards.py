"""Calls the reward servers: concurrent, with retries and a time limit; tells failed samples from low scores."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from rft_api.reward_protocol import SCORE_PATH, Score, build_sample, match_scores
from rft_api.run import ExitCode, RewardTarget, RunError
from rft_trainer.data import Prompt

BATCH = 64
"""Samples per request: large enough to amortize HTTP, small enough that a slow one delays few."""
CONCURRENCY = 8
"""Requests in flight per process."""
UNREACHABLE_SECONDS = 300.0
"""How long a server may be away (a restart, a new node) before the run gives up and is retried."""
FIRST_PAUSE_SECONDS = 0.25
"""Before a request is tried again; doubled with every try."""
FAILING_SHARE = 0.1
FAILING_WINDOW = 64
"""More than this share of at least so many recent samples failing stops the run."""

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rollout:
    """A completion to score."""

    prompt: Prompt
    completion: str


class RewardClient:
    """Scores completions on the job's reward servers.

    Safe to call from the training thread only. Its event loop runs in a thread of its own.

    Args:
        targets: the reward servers by name.
        should_stop: polled while a server is away; when true, waiting ends with INTERRUPTED.
    """

    def __init__(
        self,
        targets: Mapping[str, RewardTarget],
        should_stop: Callable[[], bool] = lambda: False,
        unreachable_seconds: float = UNREACHABLE_SECONDS,
    ):
        self._targets = targets
        self._tokens = {name: _read_token(name, target) for name, target in targets.items()}
        self._should_stop = should_stop
        self._unreachable_seconds = unreachable_seconds
        self._recent: deque[tuple[int, int]] = deque()
        self._request_number = 0
        self.failed_total = 0
        """Samples that could not be scored so far."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True).start()
        self._client = self._run(self._open())

    def score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        """Scores in the order of the rollouts; those that could not be scored carry an error instead of a reward.

        Raises:
            RunError: REWARD_FAILING when too many recent samples failed, REWARD_UNREACHABLE when a server stayed away,
                INTERRUPTED when the run is to stop meanwhile.
        """
        scores = self._run(self._score(rollouts))
        self._watch(rollouts, scores)
        return scores

    def close(self) -> None:
        """Closes connections and the event loop's thread."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> httpx.AsyncClient:
        limits = httpx.Limits(max_connections=CONCURRENCY, max_keepalive_connections=CONCURRENCY)
        # Proxies are for the world outside; a reward server is a neighbour.
        return httpx.AsyncClient(limits=limits, trust_env=False)

    async def _score(self, rollouts: Sequence[Rollout]) -> list[Score]:
        by_reward: dict[str, list[int]] = {}
        for index, rollout in enumerate(rollouts):
            by_reward.setdefault(rollout.prompt.reward, []).append(index)
        slots = asyncio.Semaphore(CONCURRENCY)
        batches = [
            (name, indices[start : start + BATCH])
            for name, indices in by_reward.items()
            for start in range(0, len(indices), BATCH)
        ]

        async def one(name: str, indices: list[int]) -> list[tuple[int, Score]]:
            async with slots:
                scores = await self._request(name, [rollouts[index] for index in indices])
                return list(zip(indices, scores, strict=True))

        results: dict[int, Score] = {}
        for pairs in await asyncio.gather(*(one(name, indices) for name, indices in batches)):
            results.update(pairs)
        return [results[index] for index in range(len(rollouts))]

    async def _request(self, name: str, rollouts: list[Rollout]) -> list[Score]:
        target = self._targets[name]
        self._request_number += 1
        ids = [f"{self._request_number}-{position}" for position in range(len(rollouts))]
        samples = [
            build_sample(
                sample_id,
                rollout.prompt.messages,
                rollout.completion,
                rollout.prompt.reference_answer,
                rollout.prompt.metadata,
            )
            for sample_id, rollout in zip(ids, rollouts, strict=True)
        ]
        token = self._tokens[name]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        # The server bounds a batch by the function's timeout and may score its samples again one by one, so it needs
        # longer than that; past this, the answer is lost.
        timeout = httpx.Timeout(2 * target.timeout_seconds + 30, connect=10)
        deadline = time.monotonic() + self._unreachable_seconds
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
                    f"reward {name} at {target.url} {problem}; gave up after {self._unreachable_seconds:.0f} s",
                )
            if pause == FIRST_PAUSE_SECONDS:
                log.warning(
                    "reward %s at %s %s; trying again for %.0f s", name, target.url, problem, self._unreachable_seconds
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, 10.0)

    def _watch(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> None:
        errors = [(r, s.error) for r, s in zip(rollouts, scores, strict=True) if s.error is not None]
        self.failed_total += len(errors)
        self._recent.append((len(errors), len(scores)))
        while sum(total for _, total in self._recent) - self._recent[0][1] >= FAILING_WINDOW:
            self._recent.popleft()
        failed, total = (sum(column) for column in zip(*self._recent, strict=True))
        if errors and failed > FAILING_SHARE * max(total, FAILING_WINDOW):
            rollout, error = errors[0]
            raise RunError(
                ExitCode.REWARD_FAILING,
                f"{failed} of the last {total} samples could not be scored by reward {rollout.prompt.reward}. "
                f"The first, prompt {rollout.prompt.id}: {error}",
            )


def _read_token(name: str, target: RewardTarget) -> str | None:
    if target.token_file is None:
        return None
    try:
        return Path(target.token_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"token of reward {name}: {error}") from error
