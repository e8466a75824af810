"""Scores samples with all terms of a function: those that workers compute, and those that other services compute."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rft_api.model import Json
from rft_api.reward_function import CombineTerm, Grader
from rft_reward.combine import combine, join
from rft_reward.metrics import Metrics
from rft_reward.pool import Pool, PoolSettings

if TYPE_CHECKING:
    from rft_reward.remote.pieces import RemoteGrader


@dataclass(frozen=True)
class ScoringSettings:
    """Settings for scoring: who computes which terms."""

    pools: Sequence[PoolSettings]
    """Settings of the workers: those that run code of the user, and those that compute builtins."""
    remote: Sequence[Grader]
    """Terms that other services compute, or the function itself."""
    remote_parts: Sequence[PoolSettings | None]
    """For each of these terms, the settings of the workers that compute a part of it; None if there is no such part."""
    timeout_seconds: float
    term_names: Sequence[str]
    """Names of the terms of a combined reward, in their order; empty for other rewards."""
    by_group: bool = False
    """Whether the samples of a group are scored together."""


class Scoring:
    """Scores batches of samples."""

    def __init__(self, settings: ScoringSettings, metrics: Metrics):
        self._settings = settings
        self._metrics = metrics
        self._pools = [Pool(pool, metrics) for pool in settings.pools]
        self._remote: list[tuple[Grader, RemoteGrader]] = []

    async def start(self) -> None:
        """Start the workers in the background, and open the connections to other services."""
        if self._settings.remote:
            from rft_reward.remote.build import build

            seconds = self._settings.timeout_seconds
            self._remote = [
                (term, build(term, workers, seconds, os.environ, self._metrics, self._settings.by_group))
                for term, workers in zip(self._settings.remote, self._settings.remote_parts, strict=True)
            ]
        for pool in self._pools:
            pool.start()

    async def wait_started(self) -> None:
        """Wait until samples can be scored."""
        for pool in self._pools:
            await pool.wait_started()

    @property
    def start_error(self) -> str | None:
        """Reason why the last attempt to start a worker failed; None if it succeeded."""
        return next((pool.start_error for pool in self._pools if pool.start_error is not None), None)

    async def close(self) -> None:
        """End the workers, and close the connections."""
        await asyncio.gather(*(pool.close() for pool in self._pools))
        await asyncio.gather(*(grader.close() for _, grader in self._remote), return_exceptions=True)

    async def score(self, samples: Sequence[dict[str, Any]]) -> list[Json]:
        """Score samples that `samples.read_samples` has checked. Return one row per sample, in the same order."""
        started = time.perf_counter()
        parts = [pool.score(samples) for pool in self._pools]
        parts += [self._ask(term, grader, samples) for term, grader in self._remote]
        answers = await asyncio.gather(*parts)
        rows = answers[0] if len(answers) == 1 else join(answers, self._settings.term_names)
        self._metrics.batch_seconds.observe(time.perf_counter() - started)
        self._metrics.count_scores(rows)
        return rows

    async def _ask(self, term: Grader, grader: RemoteGrader, samples: Sequence[dict[str, Any]]) -> list[Json]:
        rows = await grader.score(samples, time.monotonic() + self._settings.timeout_seconds)
        return combine([term.name], [float(term.weight)], [rows]) if isinstance(term, CombineTerm) else rows
