"""The workers of a server: splits batches over them, replaces failed workers, and finds the samples that fail.

When a batch fails as a whole (the code raised an exception, took too long, or ended its worker), its samples are scored
one by one. Each of them gets an equal share of spec.timeout, but at least an eighth of it. This ends when these calls
have taken spec.timeout, or when eight samples have ended a worker. The remaining samples fail then. So a batch takes at
most twice spec.timeout, in addition to waiting for workers. With spec.scope Group, groups take the place of samples.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from rft_api.groups import split_groups, whole_batches
from rft_api.model import Json
from rft_api.reward_protocol import error_line, failed_row, match_rows
from rft_reward import replies
from rft_reward.combine import combine
from rft_reward.duplicates import explain_duplicates
from rft_reward.graders.per_sample import sample_share
from rft_reward.metrics import Metrics
from rft_reward.worker_process import WorkerLost, WorkerProcess, WorkerSettings

PIECE_SECONDS = 0.002
"""Minimum time of the pieces into which a batch is split over idle workers. Splitting smaller ones costs more time."""
MOST_LOST_WORKERS = 8
_LONGEST_BACKOFF_SECONDS = 30.0
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolSettings:
    """Settings of a pool."""

    worker: WorkerSettings
    workers: int
    timeout: str
    """Time limit as in the manifest, for messages."""
    timeout_seconds: float
    combined: tuple[list[str], list[float]] | None
    """Names and weights of the terms of a combined reward."""
    by_group: bool = False
    """Whether the samples of a group are always scored together."""


@dataclass(frozen=True)
class _Failure:
    """The reason why a batch as a whole has no scores."""

    reason: str
    text: str
    worker_lost: bool
    of_earlier: bool = False
    """Whether an earlier batch may have caused it, by what it left in the worker."""


class Pool:
    """A fixed number of workers. A worker that ends is replaced."""

    def __init__(self, settings: PoolSettings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        self._idle: deque[WorkerProcess] = deque()
        self._waiting: deque[asyncio.Future[WorkerProcess]] = deque()
        self._keepers: list[asyncio.Task[None]] = []
        self._reported: set[str] = set()
        self._live = 0
        self._shown: dict[str, int] = {}
        self._seconds_per_sample = PIECE_SECONDS / 8
        self.start_error: str | None = None
        """Reason why the last attempt to start a worker failed; None if it succeeded."""
        self._started = asyncio.Event()

    def start(self) -> None:
        """Start the workers in the background."""
        self._keepers = [asyncio.create_task(self._keep()) for _ in range(self._settings.workers)]

    async def wait_started(self) -> None:
        """Wait until a worker has started."""
        await self._started.wait()

    async def close(self) -> None:
        """End the workers."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def score(self, samples: Sequence[dict[str, Any]]) -> list[Json]:
        """Score samples that `samples.read_samples` has checked. Return one row per sample, in the same order."""
        groups = split_groups(samples, self._settings.by_group)
        worthwhile = int(len(samples) * self._seconds_per_sample / PIECE_SECONDS)
        count = max(1, min(len(self._idle), len(groups), worthwhile))
        size = max(1, -(-len(samples) // count))
        pieces = [
            [[samples[position] for position in group] for group in batch] for batch in whole_batches(groups, size)
        ]
        rows = [row for piece in await asyncio.gather(*map(self._score_piece, pieces)) for row in piece]
        if not self._settings.by_group:
            return rows
        by_position = dict(zip((position for group in groups for position in group), rows, strict=True))
        return [by_position[position] for position in range(len(samples))]

    async def _score_piece(self, groups: Sequence[Sequence[dict[str, Any]]]) -> list[Json]:
        """Score the samples of a piece: together first, and group by group if that fails."""
        settings = self._settings
        samples = [sample for group in groups for sample in group]
        outcome, _ = await self._call_fairly(samples, settings.timeout_seconds, is_last=len(groups) == 1)
        if not isinstance(outcome, _Failure):
            return self._counted(outcome)
        if len(groups) == 1:
            return [self._failed(sample, outcome.reason, outcome.text) for sample in samples]
        share = sample_share(settings.timeout_seconds, len(groups))
        rows, spent, lost = [], 0.0, 0
        for group in groups:
            if spent >= settings.timeout_seconds or lost >= MOST_LOST_WORKERS:
                text = f"not scored: other samples of its batch used up the time or the workers. {outcome.text}"
                rows += [self._failed(sample, "given_up", text) for sample in group]
                continue
            single, seconds = await self._call_fairly(group, share, is_last=True)
            spent += seconds
            if isinstance(single, _Failure):
                lost += single.worker_lost
                rows += [self._failed(sample, single.reason, single.text) for sample in group]
            else:
                rows += self._counted(single)
        return rows

    def _counted(self, rows: list[Json]) -> list[Json]:
        unscored = sum(row["aggregate_reward_score"] is None for row in rows)
        if unscored:
            self._metrics.sample_errors.labels("unscored").inc(unscored)
        return rows

    async def _call_fairly(
        self, samples: Sequence[dict[str, Any]], seconds: float, *, is_last: bool
    ) -> tuple[list[Json] | _Failure, float]:
        """Return the like `_call`, but code of an earlier sample that wrote to the worker's pipe does not fail the last
        attempt.

        The samples get another worker instead. After as many attempts as there are workers, it is a new one.
        """
        outcome, spent = await self._call(samples, seconds)
        for _ in range(self._settings.workers):
            if not is_last or not isinstance(outcome, _Failure) or not outcome.of_earlier:
                break
            outcome, more = await self._call(samples, seconds)
            spent += more
        return outcome, spent

    async def _call(self, samples: Sequence[dict[str, Any]], seconds: float) -> tuple[list[Json] | _Failure, float]:
        """Return the rows or a failure, and the seconds that scoring took, without the wait for a worker."""
        try:
            payload = orjson.dumps(samples)
        except TypeError as error:  # the sample is too deep to be written, or comes from the tests of the manifest
            return _Failure("not_json", f"the sample cannot be written as JSON: {error}", False), 0.0
        waiting = time.perf_counter()
        try:
            worker = await self._take()
        except WorkerLost as loss:
            return _Failure(loss.reason, str(loss), True), 0.0
        started = time.perf_counter()
        self._metrics.queue_seconds.observe(started - waiting)
        retire_reason: str | None = "cancelled"
        asked_before, worker.asked = worker.asked, True
        try:
            reply = await worker.ask(payload, len(samples), seconds)
            if reply.size > replies.OFF_LOOP_BYTES:
                outcome = await asyncio.to_thread(self._read_answers, samples, reply.answers, seconds)
            else:
                outcome = self._read_answers(samples, reply.answers, seconds)
            retire_reason = reply.leftovers
            if isinstance(outcome, _Failure) and outcome.worker_lost:
                retire_reason = outcome.reason
        except WorkerLost as loss:
            retire_reason = loss.reason
            text = self._timeout_text(seconds, "") if loss.reason == "timeout" else str(loss)
            outcome = _Failure(loss.reason, text, True, asked_before and loss.reason == "garbled")
        finally:
            self._give_back(worker, retire_reason)
        seconds_taken = time.perf_counter() - started
        self._seconds_per_sample += (seconds_taken / len(samples) - self._seconds_per_sample) / 8
        return outcome, seconds_taken

    def _read_answers(
        self, samples: Sequence[dict[str, Any]], answers: Sequence[Mapping[str, Any]], seconds: float
    ) -> list[Json] | _Failure:
        ids = [sample["id"] for sample in samples]
        names, weights = self._settings.combined or ([""], [1.0])
        scores = []
        for name, answer in zip(names, answers, strict=True):
            if "rows" in answer:
                scores.append(explain_duplicates(samples, match_rows(ids, answer["rows"])))
                continue
            stated = answer.get("text")
            text = error_line(stated) if isinstance(stated, str) else ""
            match answer.get("failure"):
                case "timeout":
                    reason, text = "timeout", self._timeout_text(seconds, text)
                case "memory":
                    memory = self._settings.worker.memory
                    text = f"the code used more than {memory}: make it use less, or raise spec.sandbox.memory"
                    reason = "memory"
                case _:
                    reason, text = "raised", text or "the code failed without a text"
            # Interrupted code, or code that ran out of memory, may have an inconsistent state.
            return _Failure(reason, f"term {name}: {text}" if name else text, reason != "raised")
        return combine(names, weights, scores) if self._settings.combined else scores[0]

    def _timeout_text(self, seconds: float, place: str) -> str:
        limit = self._settings.timeout_seconds
        which = "spec.timeout" if seconds == limit else f"this sample's share of spec.timeout, {self._settings.timeout}"
        where = f", in {place}" if place else ""
        return f"scoring took more than {seconds:g} s ({which}){where}: make it faster, or raise spec.timeout"

    def _failed(self, sample: dict[str, Any], reason: str, text: str) -> Json:
        self._metrics.sample_errors.labels(reason).inc()
        return failed_row(sample["id"], text)

    async def _take(self) -> WorkerProcess:
        while True:
            if self._idle:
                worker = self._idle.popleft()
                self._show_workers()
            else:
                future: asyncio.Future[WorkerProcess] = asyncio.get_running_loop().create_future()
                self._waiting.append(future)
                try:
                    worker = await future
                except asyncio.CancelledError:
                    # It may have got a worker just before, which is for the next who waits.
                    if future.done() and not future.cancelled() and future.exception() is None:
                        self._offer(future.result())
                    raise
            if not worker.lost.is_set():
                return worker

    def _give_back(self, worker: WorkerProcess, retire_reason: str | None) -> None:
        if retire_reason is not None:
            self._metrics.restarts.labels(retire_reason).inc()
            _logger.warning("a worker is replaced: %s", retire_reason)
            worker.lost.set()
        elif not worker.lost.is_set():
            self._offer(worker)

    def _offer(self, worker: WorkerProcess) -> None:
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(worker)
                return
        self._idle.append(worker)
        self._show_workers()

    async def _keep(self) -> None:
        """Keep one worker running."""
        task, backoff = asyncio.current_task(), 0.0
        assert task is not None
        while True:
            try:
                await self._run_worker()
                backoff = 0.0
            except (WorkerLost, OSError) as error:
                if task.cancelling():  # the last worker could not be ended
                    raise
                backoff = min(_LONGEST_BACKOFF_SECONDS, 2 * backoff or 1.0)
                self._start_failed(f"a worker could not be started: {error}")
            await asyncio.sleep(backoff)

    async def _run_worker(self) -> None:
        """Start a worker, offer it, and end it when it must not be used any more.

        Raises:
            WorkerLost: it could not be started, or what it left could not be cleared away.
            OSError: the same.
        """
        worker = WorkerProcess(self._settings.worker)
        self._show_workers()
        try:
            await worker.start()
            self.start_error = None
            self._live += 1
            self._report_sandbox(worker)
            self._offer(worker)
            self._started.set()
            try:
                await worker.lost.wait()
            finally:
                self._live -= 1
        finally:
            await worker.end()

    def _start_failed(self, text: str) -> None:
        text = error_line(text)
        self._metrics.restarts.labels("start").inc()
        if text != self.start_error:
            _logger.error("%s", text)
        self.start_error = text
        while self._waiting and not self._live:
            future = self._waiting.popleft()
            if not future.done():
                future.set_exception(WorkerLost("start", text))

    def _report_sandbox(self, worker: WorkerProcess) -> None:
        self._metrics.isolation.set(float(not worker.warnings))
        for name, in_force in worker.layers.items():
            self._metrics.layers.labels(name).set(float(in_force))
        for level, texts in ((logging.INFO, worker.refusals), (logging.WARNING, worker.warnings)):
            for text in texts:
                if text not in self._reported:
                    self._reported.add(text)
                    _logger.log(level, "the sandbox: %s", text)

    def _show_workers(self) -> None:
        idle = sum(not worker.lost.is_set() for worker in self._idle)
        states = {"idle": idle, "busy": self._live - idle, "starting": self._settings.workers - self._live}
        for state, number in states.items():
            # A server may have several pools, whose workers are counted together.
            self._metrics.workers.labels(state).inc(max(0, number) - self._shown.get(state, 0))
            self._shown[state] = max(0, number)
