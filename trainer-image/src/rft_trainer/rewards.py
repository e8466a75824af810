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

from rft_api.exit_codes import ExitCode, RunError
from rft_api.reward_protocol import SCORE_PATH, Score, build_sample, match_scores
from rft_api.trainer_config import RewardTarget
from rft_trainer.data import Prompt

BATCH = 64
"""Samples per request: large enough to amortize HTTP, small enough that a slow one delays few."""
CONCURRENCY = 8
"""Requests in flight per process and reward."""
EARLY_CONCURRENCY = 2
"""Requests in flight per process and reward while completions are still being generated: what finishes meanwhile goes
together, so that a server that takes its time gets few large requests instead of many small ones."""
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


@dataclass(frozen=True)
class ShadowScore:
    """What a shadow gave to a completion."""

    reward: float | None
    error: str | None


class RewardClient:
    """Scores completions on the job's reward servers.

    Safe to call from the training thread only. Its event loop runs in a thread of its own.

    Args:
        targets: the reward servers by name.
        should_stop: polled while a server is away; when true, waiting ends with INTERRUPTED.
        unreachable_seconds: how long a server may be away.
        shadows: names of the rewards that score every completion and may fail.
    """

    def __init__(
        self,
        targets: Mapping[str, RewardTarget],
        should_stop: Callable[[], bool] = lambda: False,
        unreachable_seconds: float = UNREACHABLE_SECONDS,
        shadows: Sequence[str] = (),
    ):
        self.shadows = tuple(shadows)
        self._targets = targets
        self._tokens = {name: _read_token(name, target) for name, target in targets.items()}
        self._should_stop = should_stop
        self._unreachable_seconds = unreachable_seconds
        self._recent: deque[tuple[int, int]] = deque()
        self._request_number = 0
        self._late_shadows: set[str] = set()
        self.failed_total = 0
        """Samples that could not be scored so far."""
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="rewards", daemon=True).start()
        self._client = self._run(self._open())

    def begin(self, with_shadows: bool = True) -> Scoring:
        """Begins to score a batch of completions, each as soon as it is there."""
        return Scoring(self, self.shadows if with_shadows else ())

    def close(self) -> None:
        """Closes connections and the event loop's thread."""
        self._run(self._client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _open(self) -> httpx.AsyncClient:
        connections = CONCURRENCY * max(1, len(self._targets))
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        # Proxies are for the world outside; a reward server is a neighbour.
        return httpx.AsyncClient(limits=limits, trust_env=False)

    async def _request(self, name: str, rollouts: Sequence[Rollout], shadow: bool) -> list[Score]:
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
        # A shadow is not worth waiting for as training is.
        patience = min(self._unreachable_seconds, target.timeout_seconds) if shadow else self._unreachable_seconds
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


class Scoring:
    """The scores of one batch of completions, asked for while others are still being generated.

    Which request a completion goes in changes nothing: a reward may not compare the samples of a request.
    """

    def __init__(self, client: RewardClient, shadows: Sequence[str]):
        self._client = client
        self._rollouts: Sequence[Rollout] = []
        self._early: dict[int, Rollout] = {}
        self._rewards = _Requests(client, shadow=False)
        self._shadows = {name: _Requests(client, shadow=True) for name in shadows}

    def send_early(self, finished: Mapping[int, Rollout]) -> None:
        """Completions that are finished, by their place in the batch; more will come."""
        self._early |= finished
        self._send(finished, last=False)

    def send(self, rollouts: Sequence[Rollout]) -> None:
        """The whole batch; what was sent early is not sent again, unless it has turned out different."""
        self._rollouts = rollouts
        rest = {index: rollout for index, rollout in enumerate(rollouts) if self._early.get(index) != rollout}
        self._send(rest, last=True)

    def wait(self) -> list[Score]:
        """Scores in the order of the batch; those that could not be scored carry an error instead of a reward.

        Raises:
            RunError: REWARD_FAILING when too many recent samples failed, REWARD_UNREACHABLE when a server stayed away,
                INTERRUPTED when the run is to stop meanwhile.
        """
        found = self._client._run(self._rewards.wait())
        scores = [found[index] for index in range(len(self._rollouts))]
        self._client._watch(self._rollouts, scores)
        return scores

    def wait_for_shadows(self) -> dict[str, list[ShadowScore]]:
        """What each shadow gave, in the order of the batch; never raises for what a shadow does.

        A shadow that is not through is waited for as long as its `timeout`. One that was late before and has not
        answered since is not waited for at all: it scores what it can beside training.
        """
        return {name: self._settle(name, requests) for name, requests in self._shadows.items()}

    @property
    def request_seconds(self) -> float:
        """Seconds in which rewards were being computed."""
        return self._rewards.busy_seconds

    def _send(self, rollouts: Mapping[int, Rollout], last: bool) -> None:
        by_reward: dict[str, dict[int, Rollout]] = {}
        for index, rollout in rollouts.items():
            by_reward.setdefault(rollout.prompt.reward, {})[index] = rollout
        call = self._client._loop.call_soon_threadsafe
        call(self._rewards.add, by_reward, last)
        for name, requests in self._shadows.items():
            call(requests.add, {name: rollouts}, last)

    def _settle(self, name: str, requests: _Requests) -> list[ShadowScore]:
        late = self._client._late_shadows
        allowed = 0.0 if name in late else self._client._targets[name].timeout_seconds
        try:
            found = self._client._run(requests.wait(allowed))
            problem = f"no answer within {allowed:.0f} s after the step"
        except RunError as error:
            found, problem = {}, error.message
        scores = [found.get(index, Score(id="", error=problem)) for index in range(len(self._rollouts))]
        unanswered = len(found) < len(scores)
        if unanswered and name not in late:
            log.warning("shadow %s: %s; training goes on without waiting for it", name, problem)
        (late.add if unanswered else late.discard)(name)
        return [ShadowScore(score.aggregate_reward_score, score.error) for score in scores]


class _Requests:
    """Requests of one batch for the trained rewards, or for one shadow; touched by the event loop's thread only."""

    def __init__(self, client: RewardClient, shadow: bool):
        self._client = client
        self._shadow = shadow
        self._waiting: dict[str, dict[int, Rollout]] = {}
        self._tasks: dict[asyncio.Task[list[Score]], tuple[str, dict[int, Rollout]]] = {}
        self._latest: dict[int, Rollout] = {}
        self._scores: dict[int, Score] = {}
        self._error: BaseException | None = None
        self._last = False
        self._settled = asyncio.Event()
        self._busy_since = 0.0
        self.busy_seconds = 0.0

    def add(self, rollouts: Mapping[str, Mapping[int, Rollout]], last: bool) -> None:
        """Takes completions by reward and place; after the last ones, all goes out at once."""
        self._last = last
        for name, more in rollouts.items():
            self._waiting.setdefault(name, {}).update(more)
            self._latest.update(more)
        self._go_on()

    async def wait(self, seconds: float | None = None) -> dict[int, Score]:
        """The scores by place; after the given time those that are there, and the rest is no longer asked for."""
        if not self._settled.is_set():
            try:
                await asyncio.wait_for(self._settled.wait(), seconds)
            except TimeoutError:
                self._give_up()
        if self._error is not None:
            raise self._error
        return dict(self._scores)

    def _go_on(self) -> None:
        limit = CONCURRENCY if self._last else EARLY_CONCURRENCY
        for name, waiting in self._waiting.items():
            while waiting and sum(other == name for other, _ in self._tasks.values()) < limit:
                batch = {index: waiting.pop(index) for index in list(waiting)[:BATCH]}
                task = asyncio.create_task(self._client._request(name, list(batch.values()), self._shadow))
                if not self._tasks:
                    self._busy_since = time.monotonic()
                self._tasks[task] = name, batch
                task.add_done_callback(self._answered)
        if not self._tasks and self._last:
            self._settled.set()

    def _give_up(self) -> None:
        self._waiting.clear()
        for task in self._tasks:
            task.cancel()
        self._settled.set()

    def _answered(self, task: asyncio.Task[list[Score]]) -> None:
        _, batch = self._tasks.pop(task)
        if not self._tasks:
            self.busy_seconds += time.monotonic() - self._busy_since
        if task.cancelled():
            return
        if task.exception() is not None:
            self._error = self._error or task.exception()
            self._give_up()
        else:
            for (index, rollout), score in zip(batch.items(), task.result(), strict=True):
                if self._latest[index] is rollout:
                    self._scores[index] = score
        self._go_on()


def _read_token(name: str, target: RewardTarget) -> str | None:
    if target.token_file is None:
        return None
    try:
        return Path(target.token_file).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise RunError(ExitCode.CONFIGURATION_INVALID, f"token of reward {name}: {error}") from error
