"""The judge of groups: a chat model that ranks all completions of a prompt, in several orders.

A ranking is steadier than ratings of single completions, and costs one request for each order instead of one for each
completion. Models favour some positions, so each order has its reverse.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean

from rft_api.groups import split_groups
from rft_api.model import Json
from rft_api.remote_reward import JudgeReward
from rft_reward.metrics import Metrics
from rft_reward.remote.cache import Cache
from rft_reward.remote.chat import ChatModel
from rft_reward.remote.errors import RemoteError
from rft_reward.remote.judge import Judge
from rft_reward.remote.judge_prompt import build_comparison, message_text
from rft_reward.remote.judge_ranking import ASK_AGAIN, SCHEMA, Ranking, read_ranking
from rft_reward.remote.judge_reply import ask_judge
from rft_reward.remote.judge_templates import TEMPLATES
from rft_reward.remote.pieces import score_pieces

DEFAULT_ORDERS = 2
MOST_ANSWERS = 32
"""Maximum number of different completions of a group. With more of them, models lose track."""
_REMEMBERED = 20_000
_ALONE = {
    "reason": "RatedAlone",
    "message": "this is the only completion of its prompt, so the judge rated it by itself, from 1 to 5",
}


@dataclass(frozen=True)
class _Answer:
    """A text that one or more completions of a group have."""

    text: str
    count: int


class GroupJudge:
    """Scores each completion by the share of the other completions of its prompt that it beats. A tie counts half.

    The only completion of a prompt, as in an evaluation, is rated from 1 to 5 as without groups, and its row says so.

    Args:
        judge: settings of the manifest.
        model: the model that ranks and rates.
        metrics: metrics of the server.
    """

    def __init__(self, judge: JudgeReward, model: ChatModel, metrics: Metrics):
        self._judge = judge
        self._model = model
        self._metrics = metrics
        self._alone = Judge(judge, model, metrics)
        self._cache: Cache[Ranking] = Cache(_REMEMBERED)
        self._sampling = {"temperature": 0, "max_completion_tokens": judge.max_tokens}

    async def score(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        """See `RemoteGrader`."""
        groups = split_groups(samples, by_group=True)
        pieces = [[samples[position] for position in group] for group in groups]
        rows = await score_pieces(pieces, partial(self._score_group, deadline=deadline), deadline, self._metrics)
        by_position = dict(zip((position for group in groups for position in group), rows, strict=True))
        return [by_position[position] for position in range(len(samples))]

    async def _score_group(self, samples: Sequence[Json], deadline: float) -> list[Json]:
        if len(samples) == 1:
            return [{**await self._alone.rate(samples[0], deadline), "warnings": [_ALONE]}]
        texts = [message_text(sample["messages"][-1]) for sample in samples]
        answers = [_Answer(text, texts.count(text)) for text in sorted(set(texts))]
        if len(answers) > MOST_ANSWERS:
            raise RemoteError(
                f"a prompt has {len(answers)} different completions; a judge ranks at most {MOST_ANSWERS}: "
                "lower samplesPerPrompt"
            )
        orders = _orders(answers, self._judge.orders or DEFAULT_ORDERS)
        rankings = await self._rank_all(samples[0], orders, deadline)
        first = orders[0]
        rows: list[Json] = []
        for sample, text in zip(samples, texts, strict=True):
            scores = [_share_beaten(text, ranking, order) for ranking, order in rankings]
            number = next(number for number, answer in enumerate(first, 1) if answer.text == text)
            spread = max(scores) - min(scores)
            rows.append(
                {
                    "id": sample["id"],
                    "aggregate_reward_score": fmean(scores),
                    "metrics_list": [{"name": "order_spread", "value": spread, "type": "Metric"}],
                    "explanation": f"This is answer {number} of {len(first)}. {rankings[0][0].reason}",
                }
            )
        return rows

    async def _rank_all(
        self, sample: Json, orders: Sequence[list[_Answer]], deadline: float
    ) -> list[tuple[Ranking, list[_Answer]]]:
        """Return the rankings of the answers in each order.

        Raises:
            RemoteError: an order has no ranking; without its reverse, an order would favour some positions.
        """
        if len(orders[0]) == 1:  # all completions are the same, so there is nothing to ask
            return [(Ranking([[1]], "All completions are the same."), orders[0])]
        results = await asyncio.gather(
            *(self._rank(sample, order, deadline) for order in orders), return_exceptions=True
        )
        pairs = [(result, order) for result, order in zip(results, orders, strict=True) if isinstance(result, Ranking)]
        if len(pairs) < len(orders):
            raise next(result for result in results if isinstance(result, BaseException))
        return pairs

    async def _rank(self, sample: Json, order: list[_Answer], deadline: float) -> Ranking:
        judge = self._judge
        try:
            messages = build_comparison(
                judge.template, TEMPLATES[judge.template], judge.rubric, sample, [answer.text for answer in order]
            )
        except (RecursionError, TypeError) as error:
            raise RemoteError(f"the sample cannot be shown to a judge: {error}") from None
        key = hashlib.sha256(json.dumps(messages).encode()).digest()
        ranking, cached = await self._cache.get(key, partial(self._ask, messages, len(order), deadline))
        if cached:
            self._metrics.judge_cache_hits.inc()
        return ranking

    async def _ask(self, messages: list[dict[str, str]], count: int, deadline: float) -> Ranking:
        def read(text: str) -> Ranking | None:
            return read_ranking(text, count)

        again, missing = ASK_AGAIN.format(count=count), f"no ranking of {count} answers"
        return await ask_judge(self._model, messages, SCHEMA, self._sampling, deadline, read, again, missing)

    async def close(self) -> None:
        """Cancel what is in progress, and close the connections."""
        self._cache.cancel()
        await self._alone.close()


def _orders(answers: list[_Answer], count: int) -> list[list[_Answer]]:
    """Return the orders of the answers, each followed by its reverse. They depend on nothing but the texts of the
    answers."""
    generator = random.Random(json.dumps([answer.text for answer in answers]))
    orders: list[list[_Answer]] = []
    while len(orders) < count:
        order = generator.sample(answers, len(answers))
        orders += [order, order[::-1]]
    return orders[:count]


def _share_beaten(text: str, ranking: Ranking, order: list[_Answer]) -> float:
    """Return the share of the other completions of the group that an answer beats, where a tie counts half."""
    beaten = tied = 0
    is_worse = False
    for place in ranking.places:
        counts = [order[number - 1].count for number in place]
        if is_worse:
            beaten += sum(counts)
        elif any(order[number - 1].text == text for number in place):
            tied, is_worse = sum(counts) - 1, True
    others = sum(answer.count for answer in order) - 1
    return (beaten + tied / 2) / others
