"""Waits for the completions that rollout servers compute; all ranks leave them together when the run is to stop."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

from rft_api.exit_codes import ExitCode, RunError
from rft_api.reward_protocol import FinishReason
from rft_trainer.distributed import any_ranks
from rft_trainer.generation import Finished

TURN_SECONDS = 1.0
"""Seconds after which the ranks ask one another whether the run is to stop, while they wait for completions."""


@dataclass(frozen=True)
class Completion:
    """A completion as a server has sampled it."""

    token_ids: list[int]
    logprobs: list[float]
    """The log-probability of each token, in the distribution that it was sampled from."""
    finish_reason: FinishReason


class Stopped(RunError):
    """All processes have left their completions, because the run is to stop; a later start samples the same ones."""

    def __init__(self) -> None:
        super().__init__(ExitCode.INTERRUPTED, "stopped while vLLM sampled completions; start again to go on")


class Generation:
    """Completions that the servers compute while the caller does something else; `RolloutClient.begin` returns it.

    Args:
        future: ends when all completions have been put into `answers`, or with an error.
        answers: completions with their place, as they end.
        count: number of completions.
        should_stop: polled while the completions are waited for.
    """

    def __init__(
        self,
        future: Future[None],
        answers: queue.SimpleQueue[tuple[int, Completion] | None],
        count: int,
        should_stop: Callable[[], bool],
    ):
        self._future = future
        self._answers = answers
        self._count = count
        self._should_stop = should_stop
        self._completions: dict[int, Completion] = {}
        future.add_done_callback(lambda _: answers.put(None))

    def poll(self, on_finished: Finished) -> None:
        """Call `on_finished` with the completions that have ended since the last call, if any; wait for nothing."""
        if ended := self._take():
            on_finished({place: completion.token_ids for place, completion in ended.items()})

    def wait(self, on_finished: Finished) -> list[Completion]:
        """Wait for all completions, and return them in the order of their prompts; all ranks call it.

        It returns when those of all ranks have ended. When any rank is to stop before that, all ranks leave together:
        a step can take longer than the time that a pod gets to save its checkpoint.

        Args:
            on_finished: called in this thread with completions that have ended while others go on.

        Raises:
            Stopped: on every rank, when one is to stop.
            RunError, RuntimeError: as `RolloutClient.generate`.
        """
        try:
            while True:
                has_ended = self._receive(on_finished)
                stops, waits = any_ranks(self._should_stop(), not has_ended)
                if not waits:
                    break
                if stops:
                    raise Stopped
        finally:
            self.cancel()
        return [self._completions[place] for place in range(self._count)]

    def cancel(self) -> None:
        """Give up the completions that have not ended."""
        self._future.cancel()

    def _receive(self, on_finished: Finished) -> bool:
        """Receive completions for `TURN_SECONDS`, or until all have ended; return whether they have.

        Raises:
            RuntimeError: as `RolloutClient.generate`.
        """
        deadline = time.monotonic() + TURN_SECONDS
        while (seconds := deadline - time.monotonic()) > 0:
            try:
                answer = self._answers.get(timeout=seconds)
            except queue.Empty:
                return False
            if answer is None:
                self._answers.put(None)  # for the next call, while other ranks wait
                self._future.result()
                return True
            self._completions[answer[0]] = answer[1]
            ended = dict([answer]) | self._take()
            if len(self._completions) < self._count:
                on_finished({place: completion.token_ids for place, completion in ended.items()})
        return False

    def _take(self) -> dict[int, Completion]:
        """Return the completions that have ended since the last call."""
        ended: dict[int, Completion] = {}
        with suppress(queue.Empty):
            while (answer := self._answers.get_nowait()) is not None:
                ended[answer[0]] = answer[1]
            self._answers.put(None)  # for `wait`, which ends with it
        self._completions |= ended
        return ended
