"""Scores completions with the job's reward servers; a failure is no low score, and a shadow may fail."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rft_api.exit_codes import ExitCode, RunError
from rft_api.reward_protocol import Score
from rft_api.trainer_config import RewardTarget
from rft_trainer.reward_requests import RewardRequests
from rft_trainer.reward_transport import RewardTransport, Rollout

UNREACHABLE_SECONDS = 300.0
"""Seconds that a server may be unreachable (a restart, a new node) before the run ends and is retried."""
FAILING_SHARE = 0.1
FAILING_WINDOW = 64
"""The run stops when more than FAILING_SHARE of the recent samples, at least FAILING_WINDOW, have failed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowScore:
    """The score of a completion by a shadow."""

    reward: float | None
    error: str | None


class RewardClient:
    """The job's reward servers.

    Only the training thread may call it. Requests are made in another thread.

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
        self._unreachable_seconds = unreachable_seconds
        self._transport = RewardTransport(targets, should_stop)
        self._failures = FailureWatch()
        self._late_shadows: set[str] = set()

    @property
    def failed_total(self) -> int:
        """Samples that could not be scored so far."""
        return self._failures.total

    def begin(self, with_shadows: bool = True) -> Scoring:
        """Begin to score a batch of completions, which are added as they end."""
        shadows = self.shadows if with_shadows else ()
        return Scoring(self._transport, self._unreachable_seconds, self._failures, shadows, self._late_shadows)

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


class FailureWatch:
    """Stops a run when too many of its recent samples could not be scored."""

    def __init__(self) -> None:
        self.total = 0
        """Samples that could not be scored so far."""
        self._recent: deque[tuple[int, int]] = deque()

    def add(self, rollouts: Sequence[Rollout], scores: Sequence[Score]) -> None:
        """Count the failures in the scores of a batch.

        Raises:
            RunError: REWARD_FAILING when too many recent samples have failed.
        """
        errors = [(r, s.error) for r, s in zip(rollouts, scores, strict=True) if s.error is not None]
        self.total += len(errors)
        self._recent.append((len(errors), len(scores)))
        while sum(count for _, count in self._recent) - self._recent[0][1] >= FAILING_WINDOW:
            self._recent.popleft()
        failed, count = (sum(column) for column in zip(*self._recent, strict=True))
        if errors and failed > FAILING_SHARE * max(count, FAILING_WINDOW):
            rollout, error = errors[0]
            raise RunError(
                ExitCode.REWARD_FAILING,
                f"{failed} of the last {count} samples could not be scored by reward {rollout.prompt.reward}. "
                f"The first, prompt {rollout.prompt.id}: {error}",
            )


class Scoring:
    """Scores one batch of completions; the first ones already while others are still being generated.

    How completions are divided into requests does not matter: a reward compares completions only within a group, and
    then gets whole groups.

    Args:
        transport: the connections.
        unreachable_seconds: how long a server may be away.
        failures: counts the samples that could not be scored.
        shadows: names of the shadows that also score the batch.
        late_shadows: names of the shadows that were late and have not answered in time since; updated here.
    """

    def __init__(
        self,
        transport: RewardTransport,
        unreachable_seconds: float,
        failures: FailureWatch,
        shadows: Sequence[str],
        late_shadows: set[str],
    ):
        self._transport = transport
        self._failures = failures
        self._late_shadows = late_shadows
        self._rollouts: Sequence[Rollout] = []
        self._early: dict[int, Rollout] = {}
        self._rewards = RewardRequests(transport, unreachable_seconds)
        # Training does not wait for an unreachable shadow as long as for a reward.
        self._shadows = {
            name: RewardRequests(transport, min(unreachable_seconds, transport.timeout_seconds(name)))
            for name in shadows
        }

    def send_early(self, rollouts: Mapping[int, Rollout]) -> None:
        """Request scores of completions that have ended, by their index in the batch; others will follow."""
        self._early |= rollouts
        self._send(rollouts, is_complete=False)

    def send(self, rollouts: Sequence[Rollout]) -> None:
        """Request scores of the whole batch, except for completions that were sent early and have not changed."""
        self._rollouts = rollouts
        rest = {place: rollout for place, rollout in enumerate(rollouts) if self._early.get(place) != rollout}
        self._send(rest, is_complete=True)

    def wait(self) -> list[Score]:
        """Wait for the scores; return them in the order of the batch, with an error where a sample was not scored.

        Raises:
            RunError: REWARD_FAILING when too many recent samples failed, REWARD_UNREACHABLE when a server stayed away,
                INTERRUPTED when the run is to stop meanwhile.
        """
        by_place = self._transport.run(self._rewards.wait())
        scores = [by_place[place] for place in range(len(self._rollouts))]
        self._failures.add(self._rollouts, scores)
        return scores

    def wait_for_shadows(self) -> dict[str, list[ShadowScore]]:
        """Wait for the scores of the shadows; return them in the order of the batch; never raise for a shadow's fault.

        Each shadow may take as long as its `timeout`. A shadow that was late, and has not answered in time since, is
        not waited for: it scores what it can while training goes on.
        """
        return {name: self._wait_for_shadow(name, requests) for name, requests in self._shadows.items()}

    @property
    def request_seconds(self) -> float:
        """Seconds in which rewards were being computed."""
        return self._rewards.busy_seconds

    def _send(self, rollouts: Mapping[int, Rollout], is_complete: bool) -> None:
        by_reward: dict[str, dict[int, Rollout]] = {}
        for place, rollout in rollouts.items():
            by_reward.setdefault(rollout.prompt.reward, {})[place] = rollout
        self._transport.call(self._rewards.add, by_reward, is_complete)
        for name, requests in self._shadows.items():
            self._transport.call(requests.add, {name: rollouts}, is_complete)

    def _wait_for_shadow(self, name: str, requests: RewardRequests) -> list[ShadowScore]:
        seconds = 0.0 if name in self._late_shadows else self._transport.timeout_seconds(name)
        try:
            by_place = self._transport.run(requests.wait(seconds))
            problem = f"no answer within {seconds:.0f} s after the step"
        except RunError as error:
            by_place, problem = {}, error.message
        scores = [by_place.get(place, Score(id="", error=problem)) for place in range(len(self._rollouts))]
        is_late = len(by_place) < len(scores)
        if is_late and name not in self._late_shadows:
            log.warning("shadow %s: %s; training goes on without waiting for it", name, problem)
        (self._late_shadows.add if is_late else self._late_shadows.discard)(name)
        return [ShadowScore(score.aggregate_reward_score, score.error) for score in scores]
