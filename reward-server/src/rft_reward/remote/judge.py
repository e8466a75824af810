"""The judge: a chat model that rates each completion from 1 to 5."""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
from collections.abc import Sequence

from rft_api.model import Json
from rft_api.remote_reward import JudgeReward
from rft_reward.metrics import Metrics
from rft_reward.remote.cache import Cache
from rft_reward.remote.chat import ChatModel
from rft_reward.remote.errors import RemoteError
from rft_reward.remote.judge_answer import ASK_AGAIN, SCHEMA, Rating, read_rating
from rft_reward.remote.judge_prompt import build_messages
from rft_reward.remote.judge_reply import ask_judge
from rft_reward.remote.judge_templates import TEMPLATES
from rft_reward.remote.pieces import cut, score_pieces

_REMEMBERED = 20_000
"""Maximum number of cached ratings, each of which has some hundred bytes."""


class Judge:
    """Scores completions by a rubric.

    Args:
        judge: settings of the manifest.
        model: the model that rates.
        metrics: metrics of the server.
    """

    def __init__(self, judge: JudgeReward, model: ChatModel, metrics: Metrics):
        self._judge = judge
        self._model = model
        self._metrics = metrics
        self._cache: Cache[Rating] = Cache(_REMEMBERED)
        self._sampling = {
            # At temperature 0, all votes would be the same.
            "temperature": 0 if judge.votes == 1 else 1,
            "max_completion_tokens": judge.max_tokens,
        }

    async def score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        """See `RemoteGrader`."""

        async def score_one(piece: Sequence[Json]) -> list[Json]:
            return [await self.rate(piece[0], deadline)]

        return await score_pieces(cut(samples, 1), score_one, deadline, self._metrics)

    async def rate(self, sample: Json, deadline: float) -> Json:
        """Rate a sample by itself.

        Raises:
            RemoteError: there is no rating.
        """
        judge = self._judge
        try:
            messages = build_messages(judge.template, TEMPLATES[judge.template], judge.rubric, sample)
        except (RecursionError, TypeError) as error:
            raise RemoteError(f"the sample cannot be shown to a judge: {error}") from None
        # The messages suffice, because the model, the votes and the rest are the same for all requests of this judge.
        key = hashlib.sha256(json.dumps(messages).encode()).digest()
        rating, cached = await self._cache.get(key, lambda: self._rate(messages, deadline))
        if cached:
            self._metrics.judge_cache_hits.inc()
        return {
            "id": sample["id"],
            "aggregate_reward_score": rating.score,
            "metrics_list": [{"name": "rating", "value": float(rating.rating), "type": "Metric"}],
            "explanation": rating.reason,
        }

    async def _rate(self, messages: list[dict[str, str]], deadline: float) -> Rating:
        """Return the median of the votes, with the reason of the vote that is nearest to it."""
        votes = await asyncio.gather(
            *(self._vote(messages, deadline) for _ in range(self._judge.votes)), return_exceptions=True
        )
        ratings = [vote for vote in votes if isinstance(vote, Rating)]
        if 2 * len(ratings) <= len(votes):  # the majority of the votes is invalid
            raise next(vote for vote in votes if isinstance(vote, BaseException))
        median = statistics.median(rating.rating for rating in ratings)
        nearest = min(ratings, key=lambda rating: abs(rating.rating - median))
        return Rating(median, nearest.reason)

    async def _vote(self, messages: list[dict[str, str]], deadline: float) -> Rating:
        return await ask_judge(
            self._model, messages, SCHEMA, self._sampling, deadline, read_rating, ASK_AGAIN, missing="no rating"
        )

    async def close(self) -> None:
        """Cancel what is in progress, and close the connections."""
        self._cache.cancel()
        await self._model.close()
