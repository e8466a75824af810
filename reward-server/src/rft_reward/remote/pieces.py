"""Scores the pieces of a batch at the same time. The failure of one piece does not affect the others."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from rft_api.model import Json
from rft_api.reward_protocol import failed_row
from rft_reward.metrics import Metrics
from rft_reward.remote.errors import OutOfTimeError, RemoteError

GRACE_SECONDS = 0.5
"""Time after the deadline in which a piece can report what it is waiting for."""
_logger = logging.getLogger(__name__)


class RemoteGrader(Protocol):
    """Scores samples by asking another service."""

    async def score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        """Score samples, and return one row per sample in the same order.

        It raises no exception, and ends soon after `deadline`, which is a time of `time.monotonic`.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


async def score_pieces(
    pieces: Sequence[Sequence[Json]],
    score: Callable[[Sequence[Json]], Awaitable[list[Json]]],
    deadline: float,
    metrics: Metrics,
) -> list[Json]:
    """Score all pieces, and return their rows. The rows of a piece that failed, or was too late, say why."""

    async def guarded(piece: Sequence[Json]) -> list[Json]:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic()) + GRACE_SECONDS):
                rows = await score(piece)
        except TimeoutError:
            reason, text = "timeout", "scoring took more than spec.timeout: raise it, or the limits"
        except OutOfTimeError as error:
            reason, text = "timeout", str(error)
        except RemoteError as error:
            reason, text = "remote", str(error)
        except Exception as error:
            _logger.exception("scoring failed")
            reason, text = "remote", f"scoring ended in {type(error).__name__}: {error}"
        else:
            unscored = sum(row["aggregate_reward_score"] is None for row in rows)
            if unscored:
                metrics.sample_errors.labels("unscored").inc(unscored)
            return rows
        metrics.sample_errors.labels(reason).inc(len(piece))
        return [failed_row(sample["id"], text) for sample in piece]

    return [row for rows in await asyncio.gather(*map(guarded, pieces)) for row in rows]


def cut(samples: Sequence[Json], size: int) -> list[Sequence[Json]]:
    """Split the samples into pieces of at most `size`."""
    return [samples[start : start + size] for start in range(0, len(samples), size)]
